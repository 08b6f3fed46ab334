"""What runs on each host: this file's text, sent there over ssh and run by that host's Python. Standard library only.

Standard input brings requests, a JSON object a line, and is the life line: where it ends, or falls silent, the near side
is gone, and the launcher here is asked to stop. Standard output takes answers back: a JSON object a line, followed by
`bytes` raw bytes where it says so. Nothing secret is on any command line; the environment comes as a request.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import random
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MARK = b"\0ascend-launch 1\n"
"""Begins our output: what a login shell printed before is not ours."""
SILENCE_S = 60.0
"""Beats come every few seconds. A near side that was not heard for so long is gone: its machine, or the way to it."""
IDLE_SILENCE_S = 20.0
"""The same where nothing runs here, and nothing can be lost."""
STOP_MARGIN_S = 20.0
"""Beyond its ranks' grace, what a launcher may take to stop before it is killed. It kills its agent after 15."""
SETUP_S = 120.0
REACH_S = 5.0
ORPHANS_S = 2.0
MAX_FILE = 64 << 20
BULKY = frozenset({"checkpoints", "model", "nodes"})
CANN = ("/usr/local/Ascend/ascend-toolkit", "/usr/local/Ascend/cann", "~/Ascend/ascend-toolkit", "~/Ascend/cann")
SOURCE = 'f=$1; shift; . "$f" >&2; exec cat /proc/self/environ'
"""Run by bash: the environment after a script was sourced. Its own output must not be taken for ours."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Problem(Exception):  # noqa: N818 it is the user's, and reported in a sentence
    """What the user has to correct on this host."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class FarSide:
    def __init__(self) -> None:
        self.env = dict(os.environ)
        self.cwd = self.python = ""
        self.listener: socket.socket | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.grace_s, self.kill_at = 60.0, float("inf")
        self.is_lost = self.is_done = False
        self.heard_s = time.monotonic()
        self.out, self.buffer = bytearray(), bytearray()
        self.selector = selectors.DefaultSelector()

    # -- the conversation ---------------------------------------------------------------------------------------------

    def serve(self) -> None:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.lose)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.set_blocking(1, False)
        self.selector.register(0, selectors.EVENT_READ, "in")
        self.out += MARK
        while not self.is_done:
            self.flush()
            for key, _ in self.selector.select(0.02 if self.out else 0.1):
                if key.data == "in":
                    self.hear()
                else:
                    self.pass_on(key)
            if time.monotonic() - self.heard_s > (IDLE_SILENCE_S if self.child is None else SILENCE_S):
                self.lose()
            self.watch()
        self.drain()

    def say(self, payload: bytes = b"", **answer: Any) -> None:
        if payload:
            answer["bytes"] = len(payload)
        if not self.is_lost:
            self.out += json.dumps(answer).encode() + b"\n" + payload

    def flush(self) -> None:
        try:
            while self.out and not self.is_lost:
                del self.out[: os.write(1, self.out[: 1 << 16])]
        except BlockingIOError:
            pass
        except OSError:
            self.lose()

    def drain(self) -> None:
        """Until all is written; a near side that takes nothing any more is gone."""
        left, since = len(self.out), time.monotonic()
        while self.out and not self.is_lost:
            self.flush()
            time.sleep(0.001)
            if len(self.out) < left:
                left, since = len(self.out), time.monotonic()
            elif time.monotonic() - since > IDLE_SILENCE_S:
                self.lose()

    def hear(self) -> None:
        try:
            data = os.read(0, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(0)
            self.lose()
            return
        self.buffer += data
        while b"\n" in self.buffer and not self.is_done:
            line, _, rest = bytes(self.buffer).partition(b"\n")
            self.buffer[:] = rest
            request = json.loads(line)
            name = request.pop("do")
            try:
                getattr(self, "do_" + name)(**request)
            except Problem as problem:
                self.say(re=name, problem={"what": problem.what, "hint": problem.hint})
        self.heard_s = time.monotonic()  # after the work: requests waited meanwhile

    def lose(self, *_: object) -> None:
        """The near side is gone. The launcher here saves and stops."""
        if self.is_lost:
            return
        self.is_lost = True
        self.out.clear()
        if self.child is None:
            self.is_done = True
        else:
            self.do_signal(signal.SIGTERM)

    def do_beat(self) -> None:
        return

    def do_bye(self) -> None:
        self.is_done = self.child is None

    # -- before the job -----------------------------------------------------------------------------------------------

    def do_prepare(
        self,
        env: dict[str, str],
        cwd: str,
        python: str,
        setup: str | None,
        recipe: str,
        digest: str,
        version: str,
        cann: str | None,
        run_dir: str,
        token: str,
    ) -> None:
        """Check all that a launch needs here. The user's setup file comes first, then CANN's where none is set up."""
        self.cwd, self.python = cwd, python
        try:
            os.chdir(cwd)
        except OSError as error:
            raise Problem(
                f"cannot enter {cwd}: {error.strerror}",
                "have the same folder on every host (shared, or copied by rsync), or name another with --remote-dir",
            ) from None
        self.env.update(env)
        if setup:
            self.source(Path(setup))
        if "ASCEND_HOME_PATH" not in self.env and "ASCEND_TOOLKIT_HOME" not in self.env:
            homes = [Path(cann), Path(cann).parent] if cann else []
            scripts = [home / "set_env.sh" for home in (*homes, *(Path(p).expanduser() for p in CANN))]
            for script in [s for s in scripts if s.is_file()][:1]:
                self.source(script)
        self.check_launcher(version)
        if recipe:
            self.check_file(recipe, digest)
        server = os.environ.get("SSH_CONNECTION", "").split()
        self.say(re="prepare", shared=Path(run_dir, token).exists(), address=server[2] if len(server) == 4 else None)

    def check_file(self, recipe: str, digest: str) -> None:
        try:
            actual = hashlib.sha256(Path(recipe).read_bytes()).hexdigest()
        except OSError as error:
            raise Problem(
                f"cannot read {recipe} in {self.cwd}: {error.strerror}", "have the same files on every host"
            ) from None
        if actual != digest:
            kind = "program" if recipe.endswith((".py", ".pyz")) else "recipe"
            raise Problem(f"{Path(self.cwd, recipe)} is not the {kind} that is here", "copy it there")

    def source(self, script: Path) -> None:
        if not script.is_file():
            raise Problem(f"has no {script}", "name a shell file that every host has, or leave --remote-setup out")
        done = self.call(["bash", "-c", SOURCE, "bash", str(script)], f"bash cannot source {script}", "run it by hand")
        variables = [v.partition(b"=") for v in done.stdout.split(b"\0") if b"=" in v]
        if not variables:
            words = last_line(done.stderr) or f"exit code {done.returncode}"
            raise Problem(f"sourcing {script} failed: {words}", "run it there by hand")
        self.env = {os.fsdecode(name): os.fsdecode(value) for name, _, value in variables}

    def check_launcher(self, version: str) -> None:
        code = "import launcher; print(launcher.__version__)"
        fix = "install the same ascend-launch there, or name the Python that has it with --remote-python"
        done = self.call([self.python, "-c", code], f"{self.python} cannot be run", fix)
        output = done.stdout.decode(errors="replace").split()
        if done.returncode or not output:
            raise Problem(f"{self.python} there has no ascend-launch: {last_line(done.stderr)}", fix)
        if output[-1] != version:
            raise Problem(f"has ascend-launch {output[-1]}, and this machine has {version}", fix)

    def call(self, argv: Sequence[str], what: str, fix: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=SETUP_S, check=False
            )
        except OSError as error:
            raise Problem(f"{what}: {error.strerror}", fix) from None
        except subprocess.TimeoutExpired:
            raise Problem(f"{what}: no end within {SETUP_S:.0f} s", fix) from None

    # -- where the nodes meet -----------------------------------------------------------------------------------------

    def do_resolve(self, name: str) -> None:
        try:
            rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            rows = []
        self.say(re="resolve", addresses=list(dict.fromkeys(row[4][0] for row in rows)))

    def do_listen(self, addresses: Sequence[str], port: int | None) -> None:
        """Listen where the nodes will meet, so that the others can try to come."""
        for address in [*addresses, ""]:  # '' where the address is a router's that passes connections on
            for number in [port] if port else ports():
                listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind((address, number))
                    listener.listen(1024)
                except OSError as error:
                    listener.close()
                    if error.errno != errno.EADDRINUSE:
                        break
                    continue
                self.listener = listener
                self.say(re="listen", address=address, port=number)
                return
        raise Problem(
            f"port {port} is taken there" if port else "has no free port for the nodes to meet at",
            "choose another with --rdzv-endpoint HOST:PORT",
        )

    def do_reach(self, address: str, port: int) -> None:
        try:
            socket.create_connection((address, port), timeout=REACH_S).close()
        except OSError as error:
            self.say(re="reach", error=error.strerror or str(error) or "no answer")
        else:
            self.say(re="reach", error=None)

    def do_share(self, run_dir: str, token: str, step: str) -> None:
        """Whether hosts see each other's files: one makes a file, the others look for it, and it is removed."""
        path = Path(run_dir, token)
        if step == "make":
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as error:
                raise Problem(
                    f"cannot write to {run_dir}: {error.strerror}", "name another folder with --run-dir or output_dir="
                ) from None
        elif step == "remove":
            path.unlink(missing_ok=True)
        self.say(re="share", seen=path.exists())

    # -- the job ------------------------------------------------------------------------------------------------------

    def do_start(self, argv: Sequence[str], grace: float) -> None:
        if self.listener is not None:
            self.listener.close()
        self.grace_s = grace
        prctl = ctypes.CDLL(None).prctl
        prctl.argtypes = [ctypes.c_int, *4 * [ctypes.c_ulong]]  # whole registers, as the kernel reads them
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whatever loses its parent comes to us, and is ended here

        def die_with_parent() -> None:
            prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

        self.child = subprocess.Popen(
            [self.python, "-m", "launcher.cli", *argv],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 there is no other thread
        )
        for stream, name in ((self.child.stdout, "out"), (self.child.stderr, "err")):
            assert stream is not None
            self.selector.register(stream, selectors.EVENT_READ, name)

    def do_signal(self, number: int, is_for_all: bool = False) -> None:
        """`is_for_all`: also what the launcher started, and is in its group, as a terminal does it."""
        if self.child is not None and self.child.poll() is None:
            if is_for_all:
                os.killpg(self.child.pid, number)
            else:
                self.child.send_signal(number)
            self.kill_at = min(self.kill_at, time.monotonic() + self.grace_s + STOP_MARGIN_S)

    def pass_on(self, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, 1 << 16)
        if data:
            self.say(data, stream=key.data)
        else:
            self.selector.unregister(key.fileobj)

    def watch(self) -> None:
        if self.child is None:
            return
        code = self.child.poll()
        if code is None:
            if time.monotonic() > self.kill_at:
                self.kill_at = float("inf")
                self.child.kill()
            return
        # The agent of a launcher that was killed is still saving.
        self.end_orphans(self.grace_s + STOP_MARGIN_S if code < 0 else ORPHANS_S)
        for key in [key for key in self.selector.get_map().values() if key.data != "in"]:
            while key.fd in self.selector.get_map():  # nobody holds the other end: it comes to its end
                self.pass_on(key)
        self.child = None
        self.say(ended=code)
        self.is_done = self.is_lost

    def end_orphans(self, grace_s: float) -> None:
        """Until nothing that the launcher started is left."""
        deadline = time.monotonic() + grace_s
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                continue
            if time.monotonic() > deadline:
                for orphan in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                    os.kill(int(orphan), signal.SIGKILL)
            time.sleep(0.02)

    # -- what the run left --------------------------------------------------------------------------------------------

    def do_fetch(self, folder: str, names: Sequence[str] | None) -> None:
        """Send the files below `folder`, or only those named; weights stay where they are."""
        skipped = []
        for name in names or sorted(below(folder)):
            path = Path(folder, name)
            try:
                # Not what a link names elsewhere on this host, and no pipe, which would be waited for.
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(handle, "rb") as file:
                    status = os.fstat(handle)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if status.st_size > MAX_FILE:
                        skipped.append(name)
                        continue
                    self.say(file.read(), file=name)
            except OSError:
                continue
            self.drain()  # file by file: memory holds no more
        self.say(re="fetch", names=names, skipped=skipped)


def below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        if parent == folder:
            folders[:] = [name for name in folders if name not in BULKY]
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            if not path.is_symlink():
                yield str(path.relative_to(folder))


def ports() -> list[int]:
    """Below those that the kernel gives to outgoing connections, which would take one before the agent does."""
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        lowest = 32768
    return random.sample(range(20000, lowest if lowest > 21000 else 32768), 50)


def last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


if __name__ == "ascend-launch":
    sys.tracebacklimit = 3
    FarSide().serve()
