"""Imported by every Python that a command of `ascend-launch -- COMMAND` starts: answers for torch.distributed.run alone.

Imports nothing of this package or of torch until that module is asked for.
"""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would cost every Python its import
_TARGET = "torch.distributed.run"


class _Loader(importlib.machinery.SourceFileLoader):
    """torch's own module, with another `run`; as a program, ours."""

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        exec(super().get_code(module.__name__), module.__dict__)  # noqa: S102
        from launcher import nested

        module.run = nested.run

    def get_code(self, fullname):  # type: ignore[no-untyped-def]
        # Asked by runpy alone, which runs the module as a program.
        return compile("from launcher import nested; nested.main()", self.path, "exec")


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != _TARGET or not os.environ.get("ASCEND_LAUNCH_NESTED"):
            return None
        if importlib.util.find_spec("launcher") is None:
            print("ascend-launch is not installed in this Python: its own torchrun is used", file=sys.stderr)
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin:
            spec.loader = _Loader(name, spec.origin)
        return spec


def _others() -> None:
    """Run the sitecustomize that would have been found without this one."""
    elsewhere = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Finder)
_others()
