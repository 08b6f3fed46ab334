"""Two network namespaces with one cable between them: two nodes on one machine, and a link that can be cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess


class Pair:
    """Made when entered, gone when left. The nodes are 0 and 1."""

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.names = [f"al{tag}{i}" for i in (0, 1)]
        self.cables = [f"v{tag}{i}" for i in (0, 1)]
        self.addresses = ["10.231.7.1", "10.231.7.2"]

    def __enter__(self) -> Pair:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", self.cables[0], "netns", self.names[0], "type", "veth", "peer", "name", self.cables[1], "netns", self.names[1])  # fmt: skip
        for name, cable, address in zip(self.names, self.cables, self.addresses, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            _ip("-n", name, "link", "set", cable, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def prefix(self, node: int) -> list[str]:
        """What a command line starts with to run on that node."""
        return ["ip", "netns", "exec", self.names[node]]

    def cut(self) -> None:
        """Take the cable out. Nothing is refused or reset: packets just go nowhere."""
        _ip("-n", self.names[1], "link", "set", self.cables[1], "down")


def missing() -> str:
    """Why there can be no namespaces here; '' where there can."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Pair():
            return ""
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
