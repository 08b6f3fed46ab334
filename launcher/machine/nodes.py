"""A job's nodes: how many there are, which of them this is, where they meet. Values, and how they are read."""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from launcher.errors import LaunchError
from launcher.messages import Message, plural

OPTIONS = Message("give --nnodes, --node-rank and --rdzv-endpoint yourself, which count before any variable")
SHOWN_LETTERS = 60
MOST_PORT = 65535


@dataclass(frozen=True)
class Nodes:
    """The same on every node but for `rank`."""

    count: int = 1
    rank: int = 0
    endpoint: str | None = None
    """HOST:PORT of the first node; None for a single node. An IPv6 address stands in brackets."""
    nproc: int | None = None
    """Ranks a node, where the environment says so."""
    nproc_variable: str = ""
    """Which variable that was."""
    job: str | None = None
    """A name for the run's directory, where the environment names the job: equal on all nodes and after a requeue."""
    source: str = ""
    """Which environment was recognised, and by which variables; '' for one node that nobody numbered."""

    def with_nproc_override(self, asked: int | None) -> Nodes:
        """With a note in `source` where the command line asks for another number of ranks than the environment says."""
        if asked is None or self.nproc is None or asked == self.nproc:
            return self
        return replace(
            self,
            source=Message(
                "{source}; --nproc {asked} counts before {nproc_variable}={nproc}",
                source=self.source,
                asked=asked,
                nproc_variable=self.nproc_variable,
                nproc=self.nproc,
            ),
        )

    def check(self) -> None:
        """Raises LaunchError where the values do not fit together."""
        if self.count == 1 and self.rank == 0 and self.endpoint is None:
            return
        if not 0 <= self.rank < self.count:
            raise LaunchError(
                plural(
                    "--node-rank {rank} is not one of {count} node",
                    "--node-rank {rank} is not one of {count} nodes",
                    count=self.count,
                    rank=self.rank,
                ),
                hint="use 0 to {count}, a different one on each node",
                count=self.count - 1,
            )
        if self.endpoint is None:
            raise LaunchError(
                "--nnodes {count} needs --rdzv-endpoint",
                hint="give every node the same --rdzv-endpoint HOST:PORT, where HOST is node 0",
                count=self.count,
            )
        split_endpoint(self.endpoint)


ONE_NODE = Nodes()


def is_number(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9: str.isdecimal takes those of every script, and int too."""
    return text.isascii() and text.isdecimal()


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host, without brackets, and port.

    Raises:
        LaunchError: it is not HOST:PORT, or an IPv6 address without brackets, which could end anywhere.
    """
    host, _, port = endpoint.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise LaunchError(
            "--rdzv-endpoint {endpoint!r} is an IPv6 address without brackets",
            hint="as in [fd00::1]:29400",
            endpoint=endpoint,
        )
    if not bare or re.search(r"[\s\[\]/]", bare) or not is_number(port) or not 0 < int(port) <= MOST_PORT:
        raise LaunchError("--rdzv-endpoint {endpoint!r} is not HOST:PORT", hint="as in node0:29400", endpoint=endpoint)
    return bare, int(port)


def join_endpoint(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 address needs."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def port_of(job: str) -> int:
    """A port for a job's first node where nothing else names one: the same on every node, and two jobs that share a
    host differ. Below the kernel's own range (32768 up) and HCCL's (60000 up)."""
    return 20000 + zlib.crc32(job.encode()) % 10000


def is_loopback(host: str) -> bool:
    """Whether the host is called by an address that means "this machine" on every machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    if ":" not in text:
        return re.fullmatch(r"[A-Za-z0-9_.-]+", text) is not None
    try:
        return bool(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return False


def job_of_host(host: str) -> str | None:
    """The job's name in the host name of its first pod: `bert-master-0.ns.svc` → `bert`; None for an address."""
    label = host.partition(".")[0]
    if not label or ":" in host or label.isdecimal() or is_loopback(host):
        return None
    return re.sub(r"(-(master|worker|chief|launcher|node|server|task))?(-\d+)+$", "", label) or None


def folder_name(job: str) -> str:
    """A job's name as one plain word of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", job).strip(".-")[:100] or "job"


class Read:
    """Reads an environment's variables, and remembers which of them it used."""

    def __init__(self, env: Mapping[str, str], name: str) -> None:
        self.env, self.name = env, name
        self.used: dict[str, str] = {}

    def text(self, *names: str) -> str | None:
        """The first of the variables that is set and not empty."""
        for name in names:
            value = self.env.get(name, "").strip()
            if value:
                self.used[name] = value
                return value
        return None

    def number(self, *names: str, least: int = 0) -> int | None:
        """The same as a whole number.

        Raises:
            LaunchError: it is none, or less than `least`.
        """
        value = self.text(*names)
        if value is None:
            return None
        if not is_number(value) or int(value) < least:
            name = next(n for n in names if self.used.get(n) == value)
            raise LaunchError(
                "{name}={value} of {name2} is not a whole number from {least}",
                hint="correct it, or {options}",
                name=name,
                value=value,
                name2=self.name,
                least=least,
                options=OPTIONS,
            )
        return int(value)

    def port(self, *names: str) -> int | None:
        """The same as a port.

        Raises:
            LaunchError: it is none.
        """
        value = self.number(*names, least=1)
        if value is not None and value > MOST_PORT:
            name = next(n for n in names if n in self.used)
            raise LaunchError(
                "{name}={value} of {name2} is not a port, from 1 to {most_port}",
                hint="correct it, or {options}",
                name=name,
                value=value,
                name2=self.name,
                most_port=MOST_PORT,
                options=OPTIONS,
            )
        return value

    def needed(self, what: str, *names: str, least: int = 0) -> int:
        """The same as a whole number, where nothing can be done without it."""
        value = self.number(*names, least=least)
        if value is None:
            raise LaunchError(
                "{name} was recognised ({text}), but no variable tells {what}: {names} is not set",
                hint="set it, or {options}",
                name=self.name,
                text=self.used_text,
                what=what,
                names=" or ".join(names),
                options=OPTIONS,
            )
        return value

    @property
    def used_text(self) -> str:
        """The variables and values that counted."""
        return ", ".join(
            f"{n}={v if len(v) <= SHOWN_LETTERS else v[: SHOWN_LETTERS - 3] + '...'}" for n, v in self.used.items()
        )

    def nodes(
        self, *, count: int, rank: int, host: str | None, port: int | None, job: str | None, nproc: int | None = None
    ) -> Nodes:
        """What was read, checked.

        Raises:
            LaunchError: the rank is not one of the nodes, or nobody said where the first node is.
        """
        if rank >= count:
            raise LaunchError(
                "{name} says node {rank} of {count} ({text})",
                hint="nodes count from 0; {options}",
                name=self.name,
                rank=rank,
                count=count,
                text=self.used_text,
                options=OPTIONS,
            )
        name = folder_name(job) if job else None
        source = f"{self.name}: {self.used_text}" if self.used else ""
        if count == 1:
            return Nodes(1, 0, None, nproc, job=name, source=source)
        if host is None:
            raise LaunchError(
                "{name} says {count} nodes ({text}), but not where the first one is",
                hint="give every node the same --rdzv-endpoint HOST:PORT, where HOST is node 0",
                name=self.name,
                count=count,
                text=self.used_text,
            )
        if is_loopback(host):
            raise LaunchError(
                "{name} says {count} nodes that meet at {host}, which is another machine on each ({text})",
                hint="unset these variables for a job of one node, or name node 0 with --rdzv-endpoint",
                name=self.name,
                count=count,
                host=host,
                text=self.used_text,
            )
        if not _is_host(host):
            raise LaunchError(
                "{name} says that the first node is {host!r}, which is neither a host name nor an address ({text})",
                hint="name the host alone, without http:// and without a port; or {options}",
                name=self.name,
                host=host,
                text=self.used_text,
                options=OPTIONS,
            )
        endpoint = join_endpoint(host, port or port_of(job or host))
        return Nodes(count, rank, endpoint, nproc, job=name, source=source)


def fixed_count(read: Read, name: str, text: str, elastic: str = Message("name one number")) -> int:
    """A number of nodes as torchrun writes it, `4` or `4:4`.

    Raises:
        LaunchError: it is none, or a range of numbers, with `elastic` as what to do.
    """
    low, _, high = text.partition(":")
    if not is_number(low) or not is_number(high or low) or int(low) < 1:
        raise LaunchError(
            "{name}={text} is not a number of nodes",
            hint="correct it, or {options}",
            name=name,
            text=text,
            options=OPTIONS,
        )
    if high and high != low:
        raise LaunchError(
            "{name}={text} asks for an elastic number of nodes; a job here has as many as its plan says",
            hint="{elastic}; or {options}",
            name=name,
            text=text,
            elastic=elastic,
            options=OPTIONS,
        )
    return int(low)


def nproc_of(read: Read, *names: str) -> int | None:
    """Ranks a node, where that is a number: torchrun's auto, cpu and gpu are for it to count."""
    value = next((read.env[n] for n in names if read.env.get(n)), "")
    return read.number(*names, least=1) if value and not value.isalpha() else None
