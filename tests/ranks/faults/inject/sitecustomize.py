"""Faults on demand in a real rank: Python imports this file by itself where the tests put its folder on PYTHONPATH.

FAULT="kind rank step [attempt]" happens in that rank when it begins that step (of that attempt; the first by default, * for every one).
The launcher knows nothing of it: the fault sits in a method of the worker's callback, patched when it is imported.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time

TARGET = "launcher.worker.training.progress"


class _Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _patch(module.Progress)

        spec.loader.exec_module = exec_module
        return spec


def _patch(progress):
    original = getattr(progress, "on_step_begin", None)

    def on_step_begin(self, args, state, control, **kwargs):
        strike(kwargs["model"], state.global_step)
        if original is not None:
            return original(self, args, state, control, **kwargs)

    progress.on_step_begin = on_step_begin


def strike(model, step):
    """Have the fault, where this is its rank, step and attempt."""
    kind, rank, at, *attempt = os.environ.get("FAULT", "none -1 -1").split()
    wanted = attempt[0] if attempt else "0"
    in_time = wanted in ("*", os.environ["TORCHELASTIC_RESTART_COUNT"])
    if in_time and (os.environ["RANK"], str(step)) == (rank, at):
        if "FAULT_STAMP" in os.environ:
            with open(os.environ["FAULT_STAMP"], "w") as stamp:
                stamp.write(repr(time.time()))
        globals()[f"_{kind}"](model)


def _none(model):
    """The fault comes from outside; the stamp says when it may."""


def _kill(model):
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(model):
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise(model):
    raise ValueError("injected: the model ate the homework")


def _mistake(model):
    """What only the user can mend."""
    from launcher.errors import LaunchError

    raise LaunchError("injected: the recipe asks for the moon", hint="ask for less")


def _slow_teardown(model):
    """What a tracker's flush does: the group is gone at once, the exception comes out seconds later."""
    import torch.distributed as dist

    try:
        raise ValueError("injected: the model ate the homework")
    finally:
        dist.destroy_process_group()
        time.sleep(3)


def _exit(model):
    os._exit(0)


def _sleep(model):
    time.sleep(3600)


def _drag(model):
    """From here on this rank is slow in every forward pass, as one on a hot card is."""
    model.register_forward_pre_hook(lambda *_: time.sleep(0.05))


def _nan(model):
    """A weight that is no number makes the next loss one."""
    next(model.parameters()).data.fill_(float("nan"))


def _memory(model):
    """More than the memory limit that the test put on this process tree; pages that nobody writes to cost no time."""
    hoard = []
    while True:
        hoard.append(bytes(1 << 28))


def _kill_loader(model):
    """A DataLoader worker dies, as one does that runs out of shared memory."""
    for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split():
        os.kill(int(pid), signal.SIGKILL)


def _orphan(model):
    """Children that ignore SIGTERM, and then the rank itself is killed."""
    import subprocess

    subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)", "orphan-of-ours"]
    )
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


if "FAULT" in os.environ:
    sys.meta_path.insert(0, _Hook())
