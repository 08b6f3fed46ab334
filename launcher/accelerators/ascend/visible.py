"""ASCEND_RT_VISIBLE_DEVICES, as CANN reads it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from launcher.accelerators.ascend.npu_smi import MAX_DIGITS, to_int
from launcher.checks import Context
from launcher.machine.cluster import Device
from launcher.messages import Message

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Visible:
    """What CANN makes of a value of ASCEND_RT_VISIBLE_DEVICES."""

    indices: tuple[int, ...]
    """Logical ids that the process will see, renumbered from 0 inside it."""
    problems: tuple[str, ...] = ()
    suggestion: str | None = None
    """A value that means what the user most likely meant; None where nothing is wrong or nothing can be guessed."""


def visible(value: str | None, count: int) -> Visible:
    """The devices CANN will show for `value` on a node of `count`, and every reason why that is not what was asked.

    CANN's rules (runtime documentation and source): unset shows all; empty shows none; ids must rise strictly, or none
    are shown; reading stops at the first thing that is not a digit, so `0, 1` is device 0 alone; the list is cut at the
    first id that the node does not have.
    """
    if value is None:
        return Visible(tuple(range(count)))
    if value == "":
        return Visible(
            (),
            (Message("{visible} is set but empty, which hides every NPU", visible=VISIBLE),),
            ",".join(map(str, range(count))),
        )
    problems: list[str] = []
    wanted = [int(t) for t in re.findall(r"\d+", value) if len(t) <= MAX_DIGITS]
    if re.search(r"\s", value):
        problems.append(
            Message("{visible}={value!r} contains a space: CANN stops reading there", visible=VISIBLE, value=value)
        )
    if m := re.search(r"[^\d,\s]", value):
        problems.append(
            Message(
                "{visible}={value!r} contains {match!r}: CANN reads only digits and commas",
                visible=VISIBLE,
                value=value,
                match=m.group(),
            )
        )
    read = _read_ids(value)
    if len(set(read)) != len(read):
        problems.append(
            Message("{visible}={value!r} names a device twice: CANN then shows none", visible=VISIBLE, value=value)
        )
    elif any(b < a for a, b in itertools.pairwise(read)):
        problems.append(
            Message("{visible}={value!r} is not in ascending order: CANN then shows none", visible=VISIBLE, value=value)
        )
    shown = read if all(a < b for a, b in itertools.pairwise(read)) else []
    beyond = [i for i in wanted if i >= count]
    if beyond:
        has = Message("{count} (0 to {last})", count=count, last=count - 1) if count else "none"
        problems.append(
            Message(
                "{visible}={value!r} names device {beyond}, but this node has {has}",
                visible=VISIBLE,
                value=value,
                beyond=beyond[0],
                has=has,
            )
        )
        cut = next((k for k, i in enumerate(shown) if i >= count), len(shown))
        shown = shown[:cut]
    if re.search(r"(?<!\d)-\d", re.sub(r"\s", "", value)):  # -1, which hides every card elsewhere
        wanted = []
    good = sorted({i for i in (*wanted, *_ranged(value)) if i < count})
    suggestion = ",".join(map(str, good)) if problems and good else None
    return Visible(tuple(shown), tuple(problems), suggestion)


def _ranged(value: str) -> list[int]:
    """The ids that `0-3` stands for where ranges are known, as in ASCEND_VISIBLE_DEVICES of containers."""
    ranges = re.findall(r"(\d{1,4})\s*(?:-|~|:|\.\.)\s*(\d{1,4})", value)
    return [i for low, high in ranges for i in range(int(low), int(high) + 1)]


def _read_ids(value: str) -> list[int]:
    """The ids CANN reads: digits between commas, up to the first other character."""
    ids: list[int] = []
    for part in re.match(r"[\d,]*", value).group().split(","):  # type: ignore[union-attr]
        number = to_int(part)
        if number is None:
            break
        ids.append(number)
    return ids


def visible_devices(value: str | None, count: int) -> list[int]:
    """Logical ids that CANN will show; see `visible` for the reasons."""
    return list(visible(value, count).indices)


def shown(ctx: Context) -> tuple[Device, ...]:
    """The devices that CANN will show this launch."""
    indices = set(visible(ctx.env.get(VISIBLE), len(ctx.found.devices)).indices)
    return tuple(d for d in ctx.found.devices if d.index in indices)
