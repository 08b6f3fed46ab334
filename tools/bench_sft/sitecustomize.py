"""Loaded by Python itself where this folder is on PYTHONPATH: measures the training of any program with transformers' Trainer.

BENCH_SFT_OUT names the file that gets one JSON object when a training ends: CPU seconds of the process between the first and
the last callback of the training, its peak memory above what it had before, and the loss of each logged step.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "transformers.trainer"


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def _callback(base: type) -> Any:
    class Meter(base):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self.memory, self.cpu, self.wall = _status("VmRSS"), time.process_time(), time.monotonic()

        def on_train_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            figures = {
                "cpu_s": time.process_time() - self.cpu,
                "wall_s": time.monotonic() - self.wall,
                "peak_bytes": _status("VmHWM") - self.memory,
                "steps": state.global_step,
                "losses": [row["loss"] for row in state.log_history if "loss" in row],
            }
            Path(os.environ["BENCH_SFT_OUT"]).write_text(json.dumps(figures))

    return Meter


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.DEFAULT_CALLBACKS.append(_callback(module.TrainerCallback))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("BENCH_SFT_OUT"):
    sys.meta_path.insert(0, _Finder())
