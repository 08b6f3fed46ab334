"""Real sshd on nodes that are network namespaces, each with a host name and a file system of its own for runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests import netns

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Machines:
    """`size` hosts called node0, node1, …, and one more machine without sshd that the user sits at.

    Below `folder`, `shared` is one folder to all hosts, and `apart` is another on each; on the user's machine both are
    empty folders of its own.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.lan = netns.Lan(size + 1)
        self.servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Machines:
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("shared", "shared.hosts", "apart"):
            (self.folder / name).mkdir()
        self.lan.__enter__()
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
        subprocess.run([*keygen, "-f", self.folder / "user_key"], check=True)
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        known = []
        for node in range(self.size):
            key = self.folder / f"host_key{node}"
            subprocess.run([*keygen, "-f", key], check=True)
            known.append(f"{self.lan.addresses[node]} {key.with_suffix('.pub').read_text()}")
            self.servers.append(self._serve(node, key))
        (self.folder / "known_hosts").write_text("".join(known))
        self.ssh_config.write_text(
            "".join(f"Host node{i}\n  HostName {self.lan.addresses[i]}\n" for i in range(self.size))
            # The second machine: known by no key, with no key of the user's, at a port where nothing listens.
            + f"Host stranger\n  HostName {self.lan.addresses[1]}\n  UserKnownHostsFile /dev/null\n"
            + f"Host locked\n  HostName {self.lan.addresses[1]}\n  IdentityFile {self.folder}/host_key0\n"
            + f"Host closed\n  HostName {self.lan.addresses[1]}\n  Port 1\n"
            + f"Host * !locked\n  IdentityFile {self.folder}/user_key\nHost *\n  User root\n  IdentitiesOnly yes\n"
            + f"  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        )
        deadline = time.monotonic() + 10
        while not all("Server listening" in self._log(n).read_text() for n in range(self.size)):
            assert time.monotonic() < deadline, [self._log(n).read_text() for n in range(self.size)]
            time.sleep(0.05)
        return self

    def __exit__(self, *error: object) -> None:
        for node in range(self.size + 1):
            for pid in self.lan.pids(node):
                os.kill(pid, 9)
        for server in self.servers:
            server.wait()
        self.lan.__exit__()

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def here(self) -> list[str]:
        """What a command line starts with on the user's own machine."""
        return self.lan.prefix(self.size)

    def running(self, node: int) -> list[int]:
        """Processes on a node but for its sshd, which may wait for a client behind a cut link for as long as TCP does."""
        return [pid for pid in self.lan.pids(node) if not _name(pid).startswith("sshd")]

    def sessions(self, node: int) -> list[int]:
        """The processes of sshd that serve a connection."""
        return [p for p in self.lan.pids(node) if _name(p).startswith("sshd") and p != self.servers[node].pid]

    def are_clean(self, nodes: Sequence[int], within_s: float) -> bool:
        """Whether nothing runs on the nodes by then."""
        deadline = time.monotonic() + within_s
        while any(self.running(node) for node in nodes):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def files(self, node: int) -> Path:
        """A node's own view of the file system."""
        return Path(f"/proc/{self.servers[node].pid}/root")

    def _log(self, node: int) -> Path:
        return self.folder / f"sshd{node}.log"

    def _serve(self, node: int, key: Path) -> subprocess.Popen[bytes]:
        config = self.folder / f"sshd_config{node}"
        config.write_text(
            f"ListenAddress {self.lan.addresses[node]}\nHostKey {key}\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin yes\n"
        )
        setup = f'hostname node{node}; mount --bind "$2/shared.hosts" "$2/shared"; mount -t tmpfs apart "$2/apart"; exec "$0" -D -e -f "$1"'
        words = [SSHD or "sshd", str(config), str(self.folder)]
        with self._log(node).open("wb") as log:
            # What `ip netns exec` runs has a mount namespace already, apart from that of others.
            return subprocess.Popen(
                [*self.lan.prefix(node), "unshare", "--uts", "sh", "-c", setup, *words],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return "sshd"  # gone meanwhile


def missing() -> str:
    """Why there can be no such machines here; '' where there can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "sshd is not installed (apt-get install openssh-server)"
    if shutil.which("unshare") is None:
        return "`unshare` is not installed (apt-get install util-linux)"
    return netns.missing()
