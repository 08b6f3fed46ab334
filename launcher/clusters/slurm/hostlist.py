"""Slurm's short form of host names."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.errors import LaunchError
from launcher.machine.nodes import OPTIONS, is_number
from launcher.messages import Message

MOST_HOSTS = 100_000


def hosts(text: str) -> list[str]:
    """Every host of a list: `n[001-003,7],gpu3` → n001, n002, n003, n7, gpu3.

    Raises:
        LaunchError: a bracket or a range is malformed, or there are more than 100,000 hosts.
    """
    out: list[str] = []
    for host in each_host(text):
        out.append(host)
        if len(out) > MOST_HOSTS:
            raise LaunchError(
                Message(
                    "Slurm's host list {text} has more than {most_hosts:,} hosts",
                    text=short(text),
                    most_hosts=MOST_HOSTS,
                ),
                hint=OPTIONS,
            )
    return out


def each_host(text: str) -> Iterator[str]:
    """As `hosts`, one by one."""
    depth, start, is_empty = 0, 0, True
    for at, letter in enumerate(text + ","):
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        elif letter == "," and depth == 0:
            item = text[start:at].strip()
            start = at + 1
            if not item:
                raise _malformed(text)
            is_empty = False
            yield from _expanded(item, text)
        if depth not in (0, 1):
            raise _malformed(text)
    if depth or is_empty:
        raise _malformed(text)


def _expanded(item: str, text: str) -> Iterator[str]:
    """One entry with any number of brackets; the last bracket counts fastest, as in Slurm."""
    head, bracket, rest = item.partition("[")
    if not bracket:
        yield item
        return
    inside, _, tail = rest.partition("]")
    for number in _numbers(inside, text):
        for end in _expanded(tail, text) if tail else ("",):
            yield f"{head}{number}{end}"


def _numbers(inside: str, text: str) -> Iterator[str]:
    for part in inside.split(","):
        low, dash, high = part.strip().partition("-")
        high = high if dash else low
        if not (is_number(low) and is_number(high)) or int(high) < int(low):
            raise _malformed(text)
        for number in range(int(low), int(high) + 1):
            yield str(number).zfill(len(low))


def _malformed(text: str) -> LaunchError:
    return LaunchError(
        "not a list of hosts as Slurm writes them: {text}",
        hint="as in n[001-004,7],gpu3; or {options}",
        text=short(text),
        options=OPTIONS,
    )


def short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
