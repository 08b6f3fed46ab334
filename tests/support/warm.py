"""A Python that has imported what ranks need, and becomes another one by fork: the same command line, without the seconds
that torch and transformers take to import.

`Interpreter` starts this file as a program, the server: it imports, and forks a child for each request on its channel.
A server is of a kind: "cpu" and "npu" import as agents of plans for those devices do, "cpu-zero" and "npu-zero" DeepSpeed
too, "npu-bare" torch alone. A child that is the launcher forks its agent in turn. Whatever would have been imported
otherwise than it was (another plan, other settings of a library) starts in a new interpreter, as it does for a user.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import traceback
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[2]
ROOM = "-" * 4000
"""A word of the server's command line, which its children write their own over."""
OWN = ("launcher", "tests", "sitecustomize")
"""Packages that every child imports itself: they may be other ones there."""
AGENT = [
    "launcher.worker.agent.agent",
    "launcher.worker.prepare",
    "launcher.worker.rank",
    "launcher.cli",
    "datasets",
    "evaluate",
    "sklearn.metrics",
]
LATER = [
    "accelerate.optimizer",
    "accelerate.scheduler",
    "datasets.packaged_modules.json.json",
    "jinja2",
    "matplotlib.figure",
    "scipy.io",
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.profiler",
    "torch.utils.serialization",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
]
"""What ranks and reports import when they come to it."""
ZERO = ["deepspeed", "torch._inductor.compile_fx", "torch.utils.flop_counter"]
IMPORT_TIME = (
    "ASCEND_GLOBAL",
    "ASCEND_HOME",
    "ASCEND_OPP",
    "ASCEND_RT",
    "ASCEND_TOOLKIT",
    "EMULATED_CANN",
    "EMULATED_ROOT",
    "EMULATED_SOC",
    "HCCL_EXEC",
    "HF_",
    "LD_",
    "TORCH_DEVICE",
    "TORCH_NPU",
    "TRANSFORMERS_",
)
"""Prefixes of variables that libraries read while they are imported."""
KIND = ""
"""Of this server and its children."""
BASE_PATH: list[str] = []
"""sys.path less what the command line and PYTHONPATH add to it."""


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A Python program as a child of this process, by fork."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        names = (
            "executable",
            "preexec_fn",
            "close_fds",
            "pass_fds",
            "cwd",
            "env",
            "startupinfo",
            "creationflags",
            "shell",
            "p2cread",
            "p2cwrite",
            "c2pread",
            "c2pwrite",
            "errread",
            "errwrite",
            "restore_signals",
            "gid",
            "gids",
            "uid",
            "umask",
            "start_new_session",
        )
        given = dict(zip(names, rest, strict=False))
        pipes = [given[name] for name in names[9:15]]
        streams = [own if stream == -1 else stream for own, stream in enumerate((pipes[0], pipes[3], pipes[5]))]
        env = dict(os.environ) if given["env"] is None else dict(given["env"])
        child = Child([str(word) for word in args], env, str(given["cwd"] or Path.cwd()), given["start_new_session"])
        self.pid = self._start(child, streams, given["pass_fds"])
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _start(self, child: Child, streams: list[int], kept: Collection[int]) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            atexit._clear()  # the parent's temporary folders are not ours to remove
            become(child, streams, kept)
        return pid


@dataclass(frozen=True)
class Child:
    """What a new process is to be."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    new_session: bool


class Interpreter:
    """A server of this process, started by its first use."""

    def __init__(self, kind: str, env: Mapping[str, str]) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, __file__, str(theirs.fileno()), kind, ROOM]
            self.server = subprocess.Popen(argv, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """As subprocess.Popen."""
        return _Served(self, argv, **options)

    def close(self) -> None:
        self.channel.close()
        self.server.wait()


class _Served(Forked):
    """A child of the server, which tells how it ended."""

    def __init__(self, interpreter: Interpreter, argv: Sequence[str], **options: Any) -> None:
        self._channel = interpreter.channel
        self._told, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(argv, **options)

    def _start(self, child: Child, streams: list[int], kept: Collection[int]) -> int:
        assert not kept, "a handle's number is another one in the server"
        with self._theirs:
            socket.send_fds(self._channel, [json.dumps(asdict(child)).encode()], [*streams, self._theirs.fileno()])
        return int(self._told.recv(64))

    def _internal_poll(self, *args: Any, **options: Any) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._end()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._end()
        return self.returncode

    def _end(self) -> None:
        word = self._told.recv(64)
        assert word, "the server of warm interpreters has ended"
        self.returncode = int(word)
        self._told.close()


def main() -> None:
    global KIND
    channel, KIND = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    given = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    BASE_PATH[:] = [path for path in sys.path if path not in given]
    preload(KIND)
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert len(set(threads) - {"jemalloc_bg_thd"}) == 1, f"a fork would lose a thread of {threads}"
    serve(channel)


def preload(kind: str) -> None:
    """As an agent does it, see launcher/worker/start.py and `preload` of launcher/worker/rank.py."""
    absent = []
    if kind.startswith("cpu"):
        absent.append("torch_npu")
    if not kind.endswith("zero"):
        absent.append("deepspeed")
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    gc.disable()
    sys.path.insert(0, str(REPO))
    for name in ["torch"] if kind.endswith("bare") else AGENT + LATER + (ZERO if kind.endswith("zero") else []):
        importlib.import_module(name)
    sys.path.remove(str(REPO))
    for name in absent:
        del sys.modules[name]
    forget(OWN)
    gc.collect()
    gc.freeze()
    gc.enable()


def forget(packages: Iterable[str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def serve(channel: socket.socket) -> None:
    """Fork a child for each request, and say how it ended, until the other end is closed."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the tests' own ^C ends us by closing the channel
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([channel, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            while children and (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                with contextlib.suppress(OSError), children.pop(pid) as told:
                    told.send(str(os.waitstatus_to_exitcode(status)).encode())
        if channel in ready:
            message, handles, _, _ = socket.recv_fds(channel, 1 << 20, 4)
            if not message:
                return
            *streams, told_handle = handles
            pid = os.fork()
            if pid == 0:
                become(Child(**json.loads(message)), streams, ())
            for stream in streams:
                os.close(stream)
            children[pid] = socket.socket(fileno=told_handle)
            children[pid].send(str(pid).encode())


def become(child: Child, streams: list[int], kept: Collection[int]) -> NoReturn:
    """Be the process that [python, "-m", MODULE, …], [python, "-c", CODE, …] or [python, SCRIPT, …] would have been."""
    code = 1
    try:
        settle(child, streams, kept)
        words = child.argv[1:]
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[1], vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def settle(child: Child, streams: list[int], kept: Collection[int]) -> None:
    """What exec and a new interpreter would have settled."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if child.new_session:
        os.setsid()
    _keep(streams, kept)
    if child.new_session and os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())  # type: ignore[union-attr]
    os.chdir(child.cwd)
    os.environ.clear()
    os.environ.update(child.env)
    tempfile.tempdir = None  # of another TMPDIR
    rename(child.argv)
    sys.orig_argv = child.argv
    forget(OWN)
    first = {"-m": str(Path.cwd()), "-c": ""}.get(child.argv[1], str(Path(child.argv[1]).resolve().parent))
    sys.path[:] = [first, *filter(None, child.env.get("PYTHONPATH", "").split(os.pathsep)), *BASE_PATH]
    importlib.invalidate_caches()
    if importlib.util.find_spec("sitecustomize") is not None:
        importlib.import_module("sitecustomize")
    if child.argv[1:3] == ["-m", "launcher.cli"]:
        for module, name, popen in (("follow", "start_agent", start_agent), ("tool", "tool", start_tool)):
            of_jobs = importlib.import_module(f"launcher.jobs.{module}")
            setattr(of_jobs, name, functools.partial(getattr(of_jobs, name), popen=popen))


def _keep(streams: list[int], kept: Collection[int]) -> None:
    """Have these as the standard streams, and of all other handles no more than `kept`."""
    copies = [os.dup(stream) for stream in streams]
    for target, copy in enumerate(copies):
        os.dup2(copy, target, inheritable=True)
    first = 3
    for handle in sorted(kept):
        os.closerange(first, handle)
        first = handle + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def rename(argv: list[str]) -> None:
    """Have ps and others see this command line, in the memory where the kernel reads it (proc_pid_stat(5), 48 and 49)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    title = b"\0".join(map(os.fsencode, argv))[: end - start - 1]
    ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


def start_agent(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """The agent, in the launcher: forked where it would have imported what this process has, and as that has."""
    from launcher.rundir.paths import RunDir

    plan = RunDir(Path(argv[argv.index("--run-dir") + 1])).plan()
    kind = plan.device + ("" if plan.zero_stage is None else "-zero")
    return start(argv, options, may_fork=kind == KIND and plan.recipe.script is None)


def start_tool(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """What exports a model, likewise; it needs no DeepSpeed."""
    return start(argv, options, may_fork=KIND == "cpu")


def start(argv: list[str], options: dict[str, Any], *, may_fork: bool) -> subprocess.Popen[bytes]:
    is_alike = read_at_import(options["env"]) == IMPORTED_WITH and threading.active_count() == 1
    return (Forked if may_fork and is_alike else subprocess.Popen)(argv, **options)


def read_at_import(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(IMPORT_TIME)}


IMPORTED_WITH = read_at_import(os.environ)

if __name__ == "__main__":
    main()
    os._exit(0)
