"""ascend-launch: from one recipe to exact metrics on every Ascend NPU of a node, or on CPU ranks."""

from launcher import moved

__version__ = "0.1.0"

moved.install()
