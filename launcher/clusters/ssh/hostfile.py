"""A hostfile in deepspeed's or Open MPI's format → the hosts of a job, in order: one `host slots=N` a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.clusters.slurm import hostlist
from launcher.errors import LaunchError
from launcher.machine.nodes import is_number
from launcher.messages import Message, joined

_NAME = r"(?:(?!-)[A-Za-z0-9_.%:-]+|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?\])"
"""A host name, an address (an IPv6 one in brackets or not), or an alias of ssh_config. None begins with a dash: ssh would
read an option."""
_HEADING = re.compile(r"\[[^\[\]]*\]")
_RANGE = re.compile(r"(?:(?!-)[A-Za-z0-9_.\\-]+@)?(?!-)[A-Za-z0-9_.-]+\[[0-9,-]+\][A-Za-z0-9_.\[\],-]*")
_DESTINATION = re.compile(rf"(?:(?P<user>(?!-)[A-Za-z0-9_.\\-]+)@)?(?P<name>{_NAME})")
_URI = re.compile(
    r"ssh://(?:(?P<user>(?!-)[A-Za-z0-9_.-]+)@)?(?P<name>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]+)"
)
_HOST_PORT = re.compile(r"[A-Za-z0-9_.-]+:[0-9]+")
_OTHER_RANGE = re.compile(
    r"(?P<head>[A-Za-z0-9_.-]*)(?:\[(?P<a>\d+):(?P<b>\d+)\]|\{(?P<c>\d+)\.\.(?P<d>\d+)\})(?P<tail>[A-Za-z0-9_.-]*)"
    r"|(?P<net>(?:\d{1,3}\.){3})(?P<e>\d{1,3})[-~](?P<f>\d{1,3})"
)
"""Ranges of other tools: Ansible's, the shell's, and one of addresses."""


@dataclass(frozen=True)
class Host:
    """One line of a hostfile."""

    destination: str
    """What ssh is given: `host`, `user@host` or `ssh://user@host:port`."""
    name: str
    """The host alone, as written."""
    slots: int | None
    """Ranks there; None where the line does not say: one a card."""
    where: str
    """file:line, for messages."""
    cards: tuple[int, ...] | None = None
    """The cards that `--include` or `--exclude` left; None for all."""


def load(path: Path) -> tuple[Host, ...]:
    """Read a hostfile.

    Raises:
        LaunchError: it cannot be read, or a line is wrong; all wrong lines at once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else Message("not UTF-8 text")
        raise LaunchError(
            "{path}: {reason}", hint="name a file with a line `host slots=8` for each host", path=path, reason=reason
        ) from None
    return parse(text, str(path))


def parse(text: str, path: str) -> tuple[Host, ...]:
    """Raises LaunchError for every line that is not `host [slots=N]`, and for a host that is named twice."""
    hosts: dict[str, Host] = {}
    mistakes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}:{number}"
        try:
            each = _each(words[0])
        except LaunchError:
            mistakes.append(
                Message("{where}: {word!r} is not a range of hosts: as in node[1-4]", where=where, word=words[0])
            )
            continue
        for destination in each:
            host = _host([destination, *words[1:]], where)
            if isinstance(host, str):
                mistakes.append(f"{where}: {host}")
                break
            if host.name in hosts:
                first = hosts[host.name].where.rpartition(":")[2]
                mistakes.append(
                    Message(
                        "{where}: {host} stands in line {first} already; a host has one agent",
                        where=where,
                        host=host.name,
                        first=first,
                    )
                )
            else:
                hosts[host.name] = host
    if mistakes:
        raise LaunchError(joined(mistakes, "\n"), hint="write one line for each host, as in `node0 slots=8`")
    if not hosts:
        raise LaunchError(
            "{path}: names no host", hint="write one line for each host, as in `node0 slots=8`", path=path
        )
    return tuple(hosts.values())


def _each(destination: str) -> list[str]:
    """`node[1-4]`, as Slurm writes it, as four; anything else as itself."""
    user, at, name = destination.rpartition("@")
    return [f"{user}{at}{one}" for one in hostlist.hosts(name)] if _RANGE.fullmatch(destination) else [destination]


def _host(words: Sequence[str], where: str) -> Host | str:
    """The host, or what is wrong with the line."""
    destination, slots, limit = words[0], None, None
    uri = _URI.fullmatch(destination)
    if uri is None and _HOST_PORT.fullmatch(destination):
        host, _, port = destination.partition(":")
        return Message(
            "{destination!r}: ranks are written `{host} slots={port}`, and a port is written "
            "ssh://{host}:{port} or stands in ssh_config",
            destination=destination,
            host=host,
            port=port,
        )
    if other := _OTHER_RANGE.fullmatch(destination):
        ends = [other[n] for n in "abcdef" if other[n]]
        return Message(
            "{destination!r}: a range is written {head}[{ends}]{tail}",
            destination=destination,
            head=other["head"] or other["net"] or "",
            ends="-".join(ends),
            tail=other["tail"] or "",
        )
    match = uri or _DESTINATION.fullmatch(destination)
    if match is None and _HEADING.fullmatch(" ".join(words)):
        return Message("{words!r} is a heading, not a host name: leave such lines out", words=" ".join(words))
    if match is None:
        return Message("{destination!r} is not a host name", destination=destination)
    for word in words[1:]:
        key, _, value = word.partition("=")
        is_limit = key in ("max_slots", "max-slots")  # Open MPI's, which other tools read from the same file
        if key != "slots" and not is_limit:
            return Message("{word!r} is not `slots=N`", word=word)
        if not is_number(value) or not int(value):
            return Message("{word} is not a number of ranks", word=word)
        limit, slots = (int(value), slots) if is_limit else (limit, int(value))
    if slots is not None and limit is not None and slots > limit:
        return Message("slots={slots} is more than the max-slots={limit} of the same line", slots=slots, limit=limit)
    name = match["name"] + (f":{uri['port']}" if uri else "")
    return Host(destination, name, slots, where)


def select(hosts: tuple[Host, ...], include: str | None, exclude: str | None) -> tuple[Host, ...]:
    """The hosts and cards that `--include` or `--exclude` leave: `node0@node1:0,2`, as deepspeed writes it.

    Raises:
        LaunchError: both are given, a name or a card is not in the hostfile, or nothing is left.
    """
    if include and exclude:
        raise LaunchError("--include and --exclude cannot go together", hint="use one of them")
    text = include or exclude
    if not text:
        return hosts
    option = "--include" if include else "--exclude"
    named = _named(text, hosts, option)
    left = []
    for host in hosts:
        cards = named.get(host.name)
        if include and host.name in named:
            left.append(host if cards is None else replace(host, slots=len(cards), cards=cards))
        elif exclude and host.name not in named:
            left.append(host)
        elif exclude and cards is not None:
            rest = tuple(card for card in range(host.slots or 0) if card not in cards)
            if rest:
                left.append(replace(host, slots=len(rest), cards=rest))
    if not left:
        raise LaunchError("{option} {text} leaves no host", hint="name fewer hosts", option=option, text=text)
    return tuple(left)


def _named(text: str, hosts: Sequence[Host], option: str) -> dict[str, tuple[int, ...] | None]:
    by_name = {host.name: host for host in hosts}
    out: dict[str, tuple[int, ...] | None] = {}
    for part in text.split("@"):
        name, colon, listed = (part, "", "") if part in by_name else part.rpartition(":")
        host = by_name.get(name if colon else part)
        if host is None:
            raise LaunchError(
                "{option}: {part!r} is not in the hostfile",
                hint="it names {by_name}; write name or name:0,1",
                option=option,
                part=part,
                by_name=", ".join(by_name),
            )
        if not colon:
            out[host.name] = None
            continue
        if not re.fullmatch(r"[0-9]+(,[0-9]+)*", listed):
            raise LaunchError(
                "{option}: {part!r}: {listed!r} is not a list of cards",
                hint="write name:0,1",
                option=option,
                part=part,
                listed=listed,
            )
        cards = tuple(sorted({int(card) for card in listed.split(",")}))
        if host.slots is None or cards[-1] >= host.slots:
            slots_text = Message("no slots") if host.slots is None else f"slots={host.slots}"
            raise LaunchError(
                "{option}: {part!r}: {where} has {place}",
                hint="name cards from 0 to slots-1",
                option=option,
                part=part,
                where=host.where,
                place=slots_text,
            )
        out[host.name] = cards
    return out


def ranks_per_host(hosts: Sequence[Host], nproc: int | None) -> int | None:
    """Ranks on each host; None for one a card.

    Raises:
        LaunchError: hosts differ, or `nproc` is more than a host's slots.
    """
    if nproc is not None:
        few = [host for host in hosts if host.slots is not None and host.slots < nproc]
        if few:
            raise LaunchError(
                "{where}: {few} has slots={slots}, which is less than --nproc {nproc}",
                hint="use --nproc {slots}, or leave that host out with --exclude {few}",
                where=few[0].where,
                few=few[0].name,
                slots=few[0].slots,
                nproc=nproc,
            )
        return nproc
    first = hosts[0]
    other = next((host for host in hosts if host.slots != first.slots), None)
    if other is not None:
        texts = [f"slots={h.slots}" if h.slots else "no slots" for h in (first, other)]
        least = min((h.slots for h in hosts if h.slots), default=1)
        raise LaunchError(
            "{where}: {other} has {text}, {first} has {first_text}: every host runs equally many ranks",
            hint="use --nproc {least} for all, or leave hosts out with --exclude",
            where=other.where,
            other=other.name,
            text=texts[1],
            first=first.name,
            first_text=texts[0],
            least=least,
        )
    return first.slots
