"""Network namespaces with a cable each to one switch: nodes on one machine, and links that can be cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess


class Lan:
    """Made when entered, gone when left. Nodes count from 0."""

    def __init__(self, size: int) -> None:
        tag = secrets.token_hex(3)
        self.names = [f"al{tag}{i}" for i in range(size)]
        self.cables = [f"v{tag}{i}" for i in range(size)]
        self.addresses = [f"10.231.7.{i + 1}" for i in range(size)]
        self._switch = f"al{tag}s"

    def __enter__(self) -> Lan:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for name, cable, address in zip(self.names, self.cables, self.addresses, strict=True):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("link", "add", cable, "netns", name, "type", "veth", "peer", "name", cable, "netns", self._switch)
            _ip("-n", self._switch, "link", "set", cable, "master", "switch", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            _ip("-n", name, "link", "set", cable, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for name in (*self.names, self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def prefix(self, node: int) -> list[str]:
        """What a command line starts with to run on that node."""
        return ["ip", "netns", "exec", self.names[node]]

    def pids(self, node: int) -> list[int]:
        """Every process on that node."""
        return [int(pid) for pid in _ip("netns", "pids", self.names[node]).split()]

    def cut(self, node: int) -> None:
        """Take a node's cable out. Nothing is refused or reset: packets just go nowhere."""
        _ip("-n", self.names[node], "link", "set", self.cables[node], "down")

    def mend(self, node: int) -> None:
        _ip("-n", self.names[node], "link", "set", self.cables[node], "up")


def missing() -> str:
    """Why there can be no namespaces here; '' where there can."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Lan(2):
            return ""
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()}"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
