"""A rank's flight recorder: its latest collectives, which the backends record by themselves, left in a file when the agent asks, at
an error, and before a C++ exception aborts the process.

Nothing is done at a collective: torch (gloo; 2.7 does not yet) and torch_npu (HCCL) keep the latest ones in memory, in C++, with shapes,
types and the Python line. What is added is a thread that sleeps until it is asked. It asks nothing of the main thread, which
stands in a collective then, and has let go of the interpreter's lock for it.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import functools
import os
import pickle
import sys
import sysconfig
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import launcher
from launcher import files
from launcher.rundir.collectives import Call, Tensor, Trace

BUFFER_SIZE = 2000
"""Collectives that a backend keeps: torch's own default. About 1 KB each."""
KEPT = 512
"""The latest ones of each group, which go to the file."""
MOST_PLACES = 3
"""Lines of one call that are kept."""
VARIABLES = ("TORCH_FR_BUFFER_SIZE", "TORCH_HCCL_TRACE_BUFFER_SIZE")
"""torch's and torch_npu's. Both are read when a process group is made."""
_DUMPS = (("torch._C._distributed_c10d", "_dump_fr_trace"), ("torch_npu._C._distributed_c10d", "_dump_hccl_trace"))
"""Modules, and the function of each that gives its record, pickled."""
_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
}
"""The recorders' names of types → torch's."""

_OURS = f"{Path(launcher.__file__).parent}{os.sep}"


class _Recorder:
    """Of this process, once it is armed."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = trace_path(folder, rank)
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.read_end, self.write_end = os.pipe()
        self.has_complained = False
        self.callback: Any = None
        """Kept alive for as long as C++ may call it."""

    def serve(self) -> None:
        while os.read(self.read_end, 1):
            self.leave()

    def leave(self) -> None:
        """Write the record. Never raises: it must not end a job, nor hide the error that it is written for."""
        if os.getpid() != self.process:
            return
        try:
            with self.lock:
                files.write_json(self.path, taken().to_json())
        except Exception as error:
            if not self.has_complained:
                self.has_complained = True
                text = f"ascend-launch: collectives could not be recorded: {type(error).__name__}: {error}"
                print(text, file=sys.stderr, flush=True)


_armed: _Recorder | None = None


def trace_path(folder: Path, rank: object) -> Path:
    """Where a rank leaves its record."""
    return folder / f"collectives_{rank}.json"


def ask_path(folder: Path, rank: object) -> Path:
    """What says how a rank is asked for it: the number of a pipe's end that the rank holds open."""
    return folder / f"collectives_{rank}.ask"


def arm(folder: Path, rank: int) -> None:
    """Have this process leave its record in an attempt's folder. Call it before its first process group is made: backends read
    the variables then. What the user has set stays."""
    global _armed
    if _armed is not None and _armed.process == os.getpid():
        return
    for name in VARIABLES:
        os.environ.setdefault(name, str(BUFFER_SIZE))
    _armed = _Recorder(folder, rank)
    # Not threading.Thread: a program that lists or counts its threads, or waits for them, has not started this one.
    _thread.start_new_thread(_armed.serve, ())
    files.write_text(ask_path(folder, rank), str(_armed.write_end))
    _leave_before_abort(_armed)


def arm_at_first_group(module: types.ModuleType, folder: Path, rank: int) -> None:
    """Arm when a program makes its first process group, and not before: one that never does is left as it is.

    `module` is torch.distributed.distributed_c10d.
    """
    begin = module.init_process_group

    @functools.wraps(begin)
    def arm_and_begin(*args: Any, **options: Any) -> Any:
        with contextlib.suppress(Exception):
            arm(folder, rank)
        return begin(*args, **options)

    module.init_process_group = arm_and_begin  # type: ignore[attr-defined]
    package = sys.modules.get("torch.distributed")
    if getattr(package, "init_process_group", None) is begin:
        package.init_process_group = arm_and_begin  # type: ignore[union-attr]


def leave() -> None:
    """Leave the record now, where this process is armed: it is about to fail. Say everything else before: the record of a
    collective that torch_npu refused points to what it has freed, and reading it may end the process."""
    if _armed is not None:
        _armed.leave()


def _leave_before_abort(recorder: _Recorder) -> None:
    """gloo and HCCL's watchdog throw on threads of their own, which ends the process without a word of Python: leave the record
    before, then do what would have been done."""
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]  # std::set_terminate(void (*)())
    except (OSError, AttributeError):
        return
    handler = ctypes.CFUNCTYPE(None)
    set_terminate.restype, set_terminate.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before: Any = None

    def leave_and_abort() -> None:
        recorder.leave()
        handler(before)() if before else os.abort()

    recorder.callback = handler(leave_and_abort)
    before = set_terminate(ctypes.cast(recorder.callback, ctypes.c_void_p))
    atexit.register(set_terminate, before)  # what throws after the interpreter has ended cannot call into it


# --- reading the recorders -------------------------------------------------------------------------------------------


def taken() -> Trace:
    """What the backends of this process have recorded."""
    groups: dict[str, tuple[int, ...]] = {}
    calls: list[Call] = []
    dumps: list[Callable[..., bytes] | None] = [getattr(sys.modules.get(m), function, None) for m, function in _DUMPS]
    for dump in filter(None, dumps):
        with _without_inductor():
            record = pickle.loads(dump())  # noqa: S301 - what this process itself has made just now
        own = _calls(record)
        calls += own
        groups |= _groups(record, {call.group.partition(" ")[0] for call in own})
    torch = sys.modules.get("torch")
    return Trace(groups, tuple(calls), "" if any(dumps) or torch is None else f"torch {torch.__version__}")


@contextlib.contextmanager
def _without_inductor() -> Iterator[None]:
    """Looking for compiled code's lines, a recorder imports torch._inductor, which takes seconds, and memory, for nothing: where
    it is not imported, nothing was compiled."""
    torch = vars(sys.modules["torch"])
    if "torch._inductor" in sys.modules:
        yield
        return
    stand_in = torch["_inductor"] = types.ModuleType("_inductor")
    try:
        yield
    finally:
        if torch.get("_inductor") is stand_in:
            del torch["_inductor"]


def _groups(record: Mapping[str, Any], backends: set[str]) -> dict[str, tuple[int, ...]]:
    """The ranks of each group: as the recorder knows them, or torch, whose recorder knows none of gloo's."""
    known = {
        _plain(name): tuple(int(rank) for rank in config["ranks"].strip("[]").split(",") if rank.strip())
        for name, config in record.get("pg_config", {}).items()
    }
    c10d = sys.modules.get("torch.distributed.distributed_c10d")
    world = getattr(c10d, "_world", None)
    if world is not None and not any(known.values()):
        known = {world.pg_names[group]: tuple(ranks) for group, ranks in world.pg_group_ranks.items() if ranks}
    return {f"{backend} {name}": tuple(sorted(ranks)) for backend in backends for name, ranks in known.items() if ranks}


def _plain(name: str) -> str:
    """HCCL's group_name_0 is torch's group 0."""
    return name.removeprefix("group_name_")


def _calls(record: Mapping[str, Any]) -> list[Call]:
    entries = _latest([entry for entry in record.get("entries", ()) if not entry["is_p2p"]])
    return [
        Call(
            group=f"{entry['profiling_name'].partition(':')[0] or 'hccl'} {_plain(entry['process_group'][0])}",
            number=entry["collective_seq_id"],
            operation=_operation(entry),
            inputs=_tensors(entry["input_dtypes"], entry["input_sizes"]),
            outputs=_tensors(entry["output_dtypes"], entry["output_sizes"]),
            places=_places(entry.get("frames", ())),
            time_ns=entry["time_created_ns"],
            is_done=entry["retired"] or entry["state"] == "completed",
        )
        for entry in entries
    ]


def _latest(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last KEPT of each group: reading all takes longer than the agent waits."""
    left = Counter(entry["pg_id"] for entry in entries)
    kept = []
    for entry in entries:
        if left[entry["pg_id"]] <= KEPT:
            kept.append(entry)
        left[entry["pg_id"]] -= 1
    return kept


def _tensors(dtypes: list[str], sizes: list[list[int]]) -> tuple[Tensor, ...]:
    return tuple((_DTYPES.get(d, d.lower()), tuple(size)) for d, size in zip(dtypes, sizes, strict=False))


def _operation(entry: Mapping[str, Any]) -> str:
    """gloo says gloo:all_reduce; HCCL nothing, but torch's function is among the frames."""
    named = entry["profiling_name"].partition(":")[2]
    if named:
        return str(named)
    own = [frame["name"] for frame in entry.get("frames", ()) if frame["filename"].endswith("distributed_c10d.py")]
    return next((name for name in own if name != "wrapper"), "")


def _places(frames: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The innermost line outside of torch, and behind it lines outside of all libraries: a helper's, and that of its caller."""
    outside = [f for f in frames if not f["filename"].startswith((*_homes().torch, "<"))]
    own = [f for f in outside if not f["filename"].startswith((*_homes().libraries, _OURS))]
    return tuple(dict.fromkeys(_place(f["filename"], f["line"]) for f in (*outside[:1], *own)))[:MOST_PLACES]


class _Homes(NamedTuple):
    """Folders, each with a separator behind it."""

    torch: tuple[str, ...]
    libraries: tuple[str, ...]
    left_out: tuple[str, ...]
    """Below which a file is named without them."""


@functools.lru_cache(maxsize=1)
def _homes() -> _Homes:
    packages = (sys.modules.get(name) for name in ("torch", "torch_npu"))  # one that is kept out is there as None
    torch = tuple(f"{Path(p.__file__).parent}{os.sep}" for p in packages if p and p.__file__)
    stdlib, *sites = (sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))
    return _Homes(torch, (stdlib, *sites), (*sites, f"{Path.cwd()}{os.sep}"))


@functools.lru_cache(maxsize=4096)
def _place(name: str, line: int) -> str:
    """file:line, below the working directory or the libraries where it is."""
    home = next((home for home in _homes().left_out if name.startswith(home)), "")
    return f"{name.removeprefix(home)}:{line}"
