"""ascend-launch: from one recipe to exact metrics on every Ascend NPU of a node, or on CPU ranks."""

__version__ = "0.1.0"
