"""ssh processes that stay open for a job: requests go in by standard input, answers come back by standard output."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import selectors
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.clusters.ssh import far_side
from launcher.clusters.ssh.hostfile import Host
from launcher.errors import LaunchError
from launcher.messages import Message

BEAT_S = 5.0
LOADER = 'import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"ascend-launch","exec"),{"__name__":"ascend-launch"})'
"""All that a command line says over there: read a program from standard input, and run it."""
OPTIONS = (
    "BatchMode=yes",  # nobody is there to type a password
    "ConnectTimeout=15",
    "ServerAliveInterval=5",  # a cut link ends the connection after 15 to 20 seconds
    "ServerAliveCountMax=3",
    "ControlMaster=no",  # a shared connection would outlive us, and hide that the link is cut
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
)
"""Everything else, host keys above all, is as the user's ssh_config says."""

Answer = dict[str, Any]


def argv(host: Host, python: str, ssh_config: Path | None) -> list[str]:
    """What reaches a host. The one string among it that a shell reads is fixed but for the Python, which is quoted."""
    if is_here(host):
        return [python, "-I", "-c", LOADER]
    words = ["ssh", *(["-F", str(ssh_config)] if ssh_config else [])]
    for option in OPTIONS:
        words += ["-o", option]
    return [*words, "--", host.destination, f"exec {shlex.join([python, '-I', '-c', LOADER])}"]


def is_here(host: Host) -> bool:
    """Whether a host is this machine by its own name, which needs no ssh."""
    return host.destination in {"localhost", "127.0.0.1", "::1", socket.gethostname()}


def address_of(host: Host, ssh_config: Path | None) -> str:
    """The name or address that ssh connects to, which an alias of ssh_config may hide."""
    words = ["ssh", *(["-F", str(ssh_config)] if ssh_config else []), "-G", "--", host.destination]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10, check=False)
        match = re.search(r"^hostname (\S+)$", done.stdout, re.MULTILINE)
        if match:
            return match[1]
    return host.name


@dataclass(eq=False)
class Connection:
    """One host's ssh process."""

    host: Host
    process: subprocess.Popen[bytes]
    began: bool = False
    """Whether our program runs there."""
    closed: bool = False
    noise: bytearray = field(default_factory=bytearray)
    """What came before our program's first word: the login shell's."""
    words: bytearray = field(default_factory=bytearray)
    """ssh's own messages."""
    buffer: bytearray = field(default_factory=bytearray)
    pending: Answer | None = None

    def send(self, do: str, **request: Any) -> None:
        self.write(json.dumps({"do": do, **request}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Requests are small and few: a pipe always has room for them. A process that is gone is seen by its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def close(self) -> None:
        """Let go of the life line: whatever still runs over there stops."""
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    @property
    def last_words(self) -> str:
        lines = [line.strip() for line in self.words.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def why_not(self) -> tuple[str, str]:
        """Why our program did not come to run there, and what to do."""
        words, name = self.words.decode(errors="replace"), self.host.destination
        if self.process.returncode in (126, 127):
            return Message("has no such Python: {last_words}", last_words=self.last_words), Message(
                "name the Python of that host with --remote-python"
            )
        for pattern, what, hint in REASONS:
            if re.search(pattern, words):
                return what, hint.format(name=name)
        noise = [line.strip() for line in self.noise.decode(errors="replace").splitlines() if line.strip()]
        reason = self.last_words or (
            noise[-1] if noise else Message("exit code {returncode}", returncode=self.process.returncode)
        )
        return Message("ssh ended: {text}", text=reason), Message("try `ssh {name} true`", name=name)


REASONS = (
    (
        r"Could not resolve hostname",
        Message("ssh does not know that name"),
        "correct the name, or give it a HostName in ssh_config",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        Message("its host key is another than known_hosts has"),
        "find out why it changed; then `ssh-keygen -R {name}` and `ssh {name}` once",
    ),
    (
        r"Host key verification failed",
        Message("its host key is not known here"),
        "run `ssh {name}` once, and compare the key it shows",
    ),
    (
        r"Permission denied|Too many authentication failures",
        Message("ssh logs in with no key there, and passwords are not asked for"),
        "run `ssh-copy-id {name}`, or load the key with ssh-add",
    ),
    (r"Connection refused", Message("no ssh server listens there"), "start sshd there, or give its Port in ssh_config"),
    (
        r"timed out|Timeout",
        Message("ssh gets no answer from there"),
        "see that the host is up and the network leads there",
    ),
    (
        r"No route to host|Network is unreachable|Host is down",
        Message("there is no way to it from here"),
        "see that the host is up and the network leads there",
    ),
    (
        r"Bad configuration option|Bad owner or permissions|Can't open user config",
        Message("ssh cannot use its configuration"),
        "run `ssh {name} true`, which says what is wrong",
    ),
)
"""ssh's own messages (OpenSSH 7.6 to 10) → what is wrong, and the next step."""


class Hub:
    """All connections, and one thread that reads them and keeps their life lines warm, whatever the caller is doing."""

    def __init__(self, hosts: Sequence[Host], python: str, ssh_config: Path | None) -> None:
        source = Path(far_side.__file__).read_bytes()
        self._queue: queue.SimpleQueue[tuple[Connection, Answer, bytes]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._is_closed = False
        self.connections: list[Connection] = []
        for host in hosts:
            try:
                # A session of its own: ^C at the terminal is ours to pass on.
                process = subprocess.Popen(
                    argv(host, python, ssh_config),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                self.close()
                hint = (
                    Message("name the Python with --remote-python")
                    if is_here(host)
                    else Message("apt-get install openssh-client")
                )
                raise LaunchError(
                    Message(
                        "{filename} cannot be run: {problem}", filename=error.filename or "ssh", problem=error.strerror
                    ),
                    hint=hint,
                ) from None
            connection = Connection(host, process)
            connection.write(b"%d\n%s" % (len(source), source))
            self._selector.register(process.stdout, selectors.EVENT_READ, (connection, self._on_out))  # type: ignore[arg-type]
            self._selector.register(process.stderr, selectors.EVENT_READ, (connection, self._on_err))  # type: ignore[arg-type]
            self.connections.append(connection)
        threading.Thread(target=self._run, name="ssh", daemon=True).start()

    def take(self, timeout_s: float) -> Iterator[tuple[Connection, Answer, bytes]]:
        """What came: answers in order; `closed` when a connection ended. Waits for the first one at most."""
        with contextlib.suppress(queue.Empty):
            yield self._queue.get(timeout=timeout_s)
            while True:
                yield self._queue.get_nowait()

    def close(self, patience_s: float = 0.0) -> None:
        """End all connections; what still runs on the hosts stops by itself."""
        for connection in self.connections:
            if not connection.closed:
                connection.send("bye")
            connection.close()
        deadline = time.monotonic() + patience_s
        for connection in self.connections:
            with contextlib.suppress(subprocess.TimeoutExpired):
                connection.process.wait(max(0.0, deadline - time.monotonic()))
            if connection.process.poll() is None and not is_here(connection.host):  # which stops what it runs, and ends
                connection.process.kill()
                connection.process.wait()
        self._is_closed = True

    def _run(self) -> None:
        beat_s = time.monotonic()
        while not self._is_closed:
            for key, _ in self._selector.select(0.2):
                connection, on_data = key.data
                data = os.read(key.fd, 1 << 18)
                if not data:
                    self._selector.unregister(key.fileobj)
                    continue
                try:
                    on_data(connection, data)
                except ValueError as error:  # not our program's output, whoever wrote it into our stream
                    connection.words += f"\nunreadable output from the host: {error}\n".encode()
                    connection.process.kill()
            for connection in self.connections:
                if not connection.closed and connection.process.poll() is not None and not self._is_open(connection):
                    connection.closed = True
                    self._queue.put((connection, {"closed": connection.process.returncode}, b""))
            if time.monotonic() - beat_s > BEAT_S:
                beat_s = time.monotonic()
                for connection in self.connections:
                    if connection.began and not connection.closed:
                        connection.send("beat")

    def _is_open(self, connection: Connection) -> bool:
        return any(key.data[0] is connection for key in self._selector.get_map().values())

    def _on_err(self, connection: Connection, data: bytes) -> None:
        connection.words += data
        del connection.words[: -(1 << 16)]

    def _on_out(self, connection: Connection, data: bytes) -> None:
        buffer = connection.buffer
        buffer += data
        if not connection.began:
            before, mark, rest = bytes(buffer).partition(far_side.MARK)
            if not mark:
                connection.noise[:] = before[-4096:]
                return
            buffer[:] = rest
            connection.began = True
            self._queue.put((connection, {"re": "hello"}, b""))
        while True:
            if connection.pending is None:
                end = buffer.find(b"\n")
                if end < 0:
                    return
                connection.pending = json.loads(bytes(buffer[:end]))
                del buffer[: end + 1]
            size = connection.pending.get("bytes", 0)
            if len(buffer) < size:
                return
            answer, connection.pending = connection.pending, None
            payload = bytes(buffer[:size])
            del buffer[:size]
            self._queue.put((connection, answer, payload))
