"""Which collective differs: what ranks recorded of their calls, and the first one in which they part. No torch here.

Backends number the collectives of a group on each rank by themselves, so two ranks are in one collective where they are at one
number of one group. Ranks that are at one number with other operations, types or sizes, or of which one never came to it,
cannot go on: the first such number is what ended or stopped the job.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.messages import Message, plural
from launcher.rundir.record import Record, read

Tensor = tuple[str, tuple[int, ...]]
"""Type and shape."""
DEFAULT_GROUP = "0"
"""torch's name of the group of all ranks."""

MISSING, DTYPE, SHAPE, OPERATION, ORDER, SKIPPED, UNFINISHED = (
    "missing",
    "dtype",
    "shape",
    "operation",
    "order",
    "skipped",
    "unfinished",
)
"""How ranks part: some never came; types, sizes or operations differ; they call two in another order; some left one out; or they do
not part, and the last one does not end."""
MOST_CULPRITS = 16
"""That are named one by one."""
_COMPARED = {
    "all_gather": "outputs",
    "allgather": "outputs",
    "reduce_scatter": "inputs",
    "gather": "inputs",
    "scatter": "outputs",
}
"""Part of an operation's name → the side that is the same on all ranks: the other is the root's alone, or may differ. Of others
the inputs are."""
_NOT_COMPARED = ("all_to_all", "alltoall", "barrier")
"""What each rank may give another size, or gives none."""


@dataclass(frozen=True)
class Call:
    """A collective as one rank called it."""

    group: str
    """Backend and name."""
    number: int
    operation: str
    """'' where no Python called it and the backend does not say: gradients of DDP on a card."""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    places: tuple[str, ...] = ()
    """file:line outside of torch: the innermost, and the program's own where that is another."""
    time_ns: int = 0
    """When it was called, by the wall clock."""
    is_done: bool = False

    @property
    def compared(self) -> tuple[Tensor, ...]:
        """The tensors that have to be alike on all ranks."""
        if self.operation.startswith(_NOT_COMPARED):
            return ()
        side = next((side for name, side in _COMPARED.items() if name in self.operation), "inputs")
        return self.outputs if side == "outputs" else self.inputs

    def differs_in(self, other: Call) -> str:
        """The first of OPERATION, DTYPE and SHAPE in which two calls do not fit together; '' where they do."""
        if self.operation != other.operation and self.operation and other.operation:
            return OPERATION
        own, others = self.compared, other.compared
        if not own or not others:
            return ""
        if {dtype for dtype, _ in own} != {dtype for dtype, _ in others}:
            return DTYPE
        # A backend moves so many elements, in whatever shape.
        return SHAPE if _count(own) != _count(others) else ""

    @property
    def text(self) -> str:
        """all_reduce float32 [4, 2] (train.py:30): the same in every language."""
        tensors = self.compared or self.inputs or self.outputs
        rows = Counter(f"{dtype} {list(shape)}" for dtype, shape in tensors)
        what = ", ".join(f"{count} x {row}" if count > 1 else row for row, count in list(rows.items())[:4])
        more = f", ... ({len(tensors)} tensors)" if len(rows) > 4 else ""
        where = f" ({' < '.join(self.places)})" if self.places else ""
        return f"{self.operation or 'collective'} {what}{more}".rstrip() + where


@dataclass(frozen=True)
class Trace:
    """What one rank recorded."""

    groups: Mapping[str, tuple[int, ...]]
    """Group → its ranks."""
    calls: tuple[Call, ...]
    without_recorder: str = ""
    """The torch that records nothing, as `torch 2.7.1`; '' where one records."""

    def to_json(self) -> dict[str, Any]:
        return {
            **({"without_recorder": self.without_recorder} if self.without_recorder else {}),
            "groups": {group: list(ranks) for group, ranks in self.groups.items()},
            "calls": [{key: value for key, value in vars(call).items() if value != ()} for call in self.calls],
        }

    def latest(self, count: int) -> Trace:
        """The same with the last `count` calls of each group."""
        kept: dict[str, list[Call]] = {}
        for call in self.calls:
            kept.setdefault(call.group, []).append(call)
        calls = tuple(call for calls in kept.values() for call in calls[-count:])
        return Trace(self.groups, calls, self.without_recorder)


def trace(value: Any) -> Trace | None:
    """The trace that a JSON value is; None where it is none."""
    try:
        return Trace(
            {str(group): tuple(map(int, ranks)) for group, ranks in value["groups"].items()},
            tuple(_call(row) for row in value["calls"]),
            str(value.get("without_recorder", "")),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _call(row: Mapping[str, Any]) -> Call:
    sides = {side: tuple((str(d), tuple(map(int, s))) for d, s in row.get(side, ())) for side in ("inputs", "outputs")}
    return Call(
        str(row["group"]),
        int(row["number"]),
        str(row["operation"]),
        places=tuple(map(str, row.get("places", ()))),
        time_ns=int(row["time_ns"]),
        is_done=bool(row["is_done"]),
        **sides,
    )


class Difference(Record):
    """The first collective in which ranks part."""

    how: str
    """One of the words above."""
    number: int
    group: str = ""
    """'' for the group of all ranks."""
    group_ranks: list[int] | None = None
    ranks: list[int] | None = None
    """Those that never came, or call what fewer ranks call."""
    calls: list[Any] | None = None
    """What ranks call there: objects with `ranks` and `call`, a text, and its parts `operation`, `tensors` and `places`."""
    last: list[Any] | None = None
    """What those that never came called last, in the same shape; `is_done` says whether that has ended."""

    @property
    def line(self) -> str:
        """All of it in one line, in the form that the signatures of explain know."""
        group = f" of group {self.group} (ranks {_listed(self.group_ranks or ())})" if self.group else ""
        calls = "; ".join(_of_ranks(row) for row in self.calls or ())
        last = "; ".join(_of_ranks(row) for row in self.last or ())
        which = f"collective {self.number}{group}"
        whose = ", ".join(map(str, (self.ranks or ())[:MOST_CULPRITS]))
        if self.how == MISSING:
            return f"{which} waits for rank {whose}: {calls}" + (f"; before it, {last}" if last else "")
        if self.how == UNFINISHED:
            return f"{which} does not end, and all are in it: {calls}"
        if self.how == SKIPPED:
            return f"{which} was left out by rank {whose}: {calls}"
        return f"{which} differs in {self.how} on rank {whose}: {calls}"

    @property
    def title(self) -> str:
        """In what the ranks part, in a few words."""
        whose = _listed(self.ranks or ())
        titles = {
            MISSING: plural(
                "rank {ranks} never came", "ranks {ranks} never came", count=len(self.ranks or ()), ranks=whose
            ),
            SKIPPED: Message("left out by rank {ranks}", ranks=whose),
            UNFINISHED: Message("all are in it, and it does not end"),
        }
        return titles.get(self.how) or Message("the calls differ in {how}", how=self.how)

    @property
    def rows(self) -> list[tuple[Mapping[str, Any], str]]:
        """Each call in the shape of `calls`, and how it stands to the collective."""
        last = [
            (row, Message("called last, and ended") if row.get("is_done") else Message("is in this one"))
            for row in self.last or ()
        ]
        return [*((row, Message("in it")) for row in self.calls or ()), *last]


def difference(value: Mapping[str, Any]) -> Difference | None:
    """The difference that a JSON object is; None where a part of it is missing or of another type."""
    made = read(Difference, value)
    is_whole = made.layout.needed <= made.__dict__.keys() and not made.wrong
    is_whole = is_whole and all(map(_is_rank, (*(made.ranks or ()), *(made.group_ranks or ()))))
    return made if is_whole and all(map(_is_row, (*(made.calls or ()), *(made.last or ())))) else None


def _is_rank(value: Any) -> bool:
    return type(value) is int


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(key), list) for key in ("ranks", "tensors", "places"))
        and all(map(_is_rank, row["ranks"]))
        and isinstance(row.get("call"), str)
    )


def _of_ranks(row: Mapping[str, Any]) -> str:
    return f"rank {_listed(row['ranks'])}: {row['call']}"


def _listed(ranks: Sequence[int]) -> str:
    """0-3, 7"""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a}, {b}" for a, b in spans)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(shape) for _, shape in tensors)


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """The calls of one group, by rank and number. Calls that were coalesced have one number."""

    name: str
    ranks: tuple[int, ...]
    calls: Mapping[int, Mapping[int, Sequence[Call]]]

    def last(self, rank: int) -> int:
        return max(self.calls[rank], default=0)

    def at(self, number: int) -> dict[int, Sequence[Call]]:
        return {rank: calls[number] for rank, calls in self.calls.items() if number in calls}

    @property
    def first_known(self) -> int:
        """The first number from which on the records of all are there: they keep the latest calls only."""
        return max((min(calls) for calls in self.calls.values() if calls), default=1)


def first_difference(traces: Mapping[int, Trace]) -> Difference | None:
    """Where the ranks' records part first; None where they do not, or where fewer than two ranks have one."""
    found: list[tuple[int, Difference]] = []
    unfinished: list[tuple[int, Difference]] = []
    for group in _groups(traces):
        number = _parts_at(group)
        if number is not None:
            found.append((_time_ns(group, number), _difference(group, number, traces)))
        elif number := _does_not_end(group):
            unfinished.append((_time_ns(group, number), _unfinished(group, number)))
    return min(found or unfinished, key=lambda row: row[0], default=(0, None))[1]


def _groups(traces: Mapping[int, Trace]) -> list[_Group]:
    """Groups of which at least two ranks have a record."""
    members: dict[str, set[int]] = {}
    for rank, one in traces.items():
        for name, ranks in one.groups.items():
            members.setdefault(name, set()).update(ranks)
        for call in one.calls:
            members.setdefault(call.group, set()).add(rank)
    groups = []
    for name, of_group in members.items():
        calls: dict[int, dict[int, list[Call]]] = {rank: {} for rank in sorted(of_group & traces.keys())}
        for rank, by_number in calls.items():
            for call in traces[rank].calls:
                if call.group == name:
                    by_number.setdefault(call.number, []).append(call)
        if len(calls) > 1 and any(calls.values()):
            groups.append(_Group(name, tuple(sorted(of_group)), calls))
    return groups


def _parts_at(group: _Group) -> int | None:
    """The first number at which calls differ, or to which a rank never came."""
    numbers = sorted({number for calls in group.calls.values() for number in calls if number >= group.first_known})
    for number in numbers:
        is_missing = any(group.last(rank) < number for rank in group.calls)
        if is_missing or len(_alike(group.at(number))) > 1:
            return number
    return None


def _alike(calls: Mapping[int, Sequence[Call]]) -> list[list[int]]:
    """Ranks whose calls fit together, the most first; of as many, those of the lowest rank."""
    classes: list[list[int]] = []
    for rank in sorted(calls):
        for one in classes:
            if not _differ_in(calls[one[0]], calls[rank]):
                one.append(rank)
                break
        else:
            classes.append([rank])
    return sorted(classes, key=len, reverse=True)


def _differ_in(one: Sequence[Call], other: Sequence[Call]) -> str:
    aspects = (a.differs_in(b) for a, b in zip(one, other, strict=False))
    return next(filter(None, aspects), SHAPE if len(one) != len(other) else "")


def _time_ns(group: _Group, number: int) -> int:
    return min(calls[0].time_ns for calls in group.at(number).values())


def _difference(group: _Group, number: int, traces: Mapping[int, Trace]) -> Difference:
    calls = group.at(number)
    classes = _alike(calls)
    missing = [rank for rank in group.calls if group.last(rank) < number]
    if len(classes) == 1:
        last = [row for rank in missing for row in _last_call(rank, traces[rank], group)]
        return _made(MISSING, group, number, missing, classes, last)
    others = [rank for one in classes[1:] for rank in one]
    return _made(_how(group, number, classes), group, number, others, classes)


def _how(group: _Group, number: int, classes: Sequence[Sequence[int]]) -> str:
    """In what the smaller class differs, or what its next calls show that it did."""
    one, other = (group.calls[ranks[0]] for ranks in classes[:2])

    def are_alike(mine: int, theirs: int) -> bool:
        return mine in one and theirs in other and not _differ_in(one[mine], other[theirs])

    if are_alike(number + 1, number):
        return ORDER if are_alike(number, number + 1) else SKIPPED
    return _differ_in(one[number], other[number])


def _last_call(rank: int, own: Trace, group: _Group) -> list[dict[str, Any]]:
    """The call of a rank that was its latest, in whichever group: one line may well be called with several."""
    latest = max(own.calls, key=lambda call: call.time_ns, default=None)
    if latest is None:
        return []
    row = {**_row([rank], latest), "number": latest.number, "is_done": latest.is_done}
    if latest.group != group.name:
        row["call"] += f" in group {latest.group.partition(' ')[2]}"
    return [row]


def _does_not_end(group: _Group) -> int:
    """The number of the last call where all ranks of the group are in it and none has left it; 0 where that is not so."""
    if len(group.calls) < len(group.ranks):
        return 0
    number = max(map(group.last, group.calls))
    return 0 if any(call.is_done for calls in group.at(number).values() for call in calls) else number


def _unfinished(group: _Group, number: int) -> Difference:
    return _made(UNFINISHED, group, number, [], _alike(group.at(number)))


def _made(
    how: str,
    group: _Group,
    number: int,
    ranks: Sequence[int],
    classes: Sequence[Sequence[int]],
    last: Sequence[Mapping[str, Any]] = (),
) -> Difference:
    calls, name = group.at(number), group.name.partition(" ")[2]
    first = calls[classes[0][0]]
    rows = []
    for one in classes:
        others = calls[one[0]]
        # Of calls that were coalesced, those that differ.
        at = next((i for i, (a, b) in enumerate(zip(first, others, strict=False)) if a.differs_in(b)), 0)
        rows.append(_row(one, others[at]))
    return Difference(
        how=how,
        number=number,
        group="" if name == DEFAULT_GROUP else name,
        group_ranks=list(group.ranks),
        ranks=sorted(ranks),
        calls=rows,
        last=list(last),
    )


def _row(ranks: Sequence[int], call: Call) -> dict[str, Any]:
    tensors = [{"dtype": dtype, "shape": list(shape)} for dtype, shape in call.compared or call.inputs or call.outputs]
    parts = {"operation": call.operation, "tensors": tensors[:16], "places": list(call.places)}
    return {"ranks": list(ranks), "call": call.text, **parts}
