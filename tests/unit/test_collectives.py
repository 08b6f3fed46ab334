"""The first collective in which ranks part, from what each recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from launcher.diagnose.explain.report import explain_text
from launcher.rundir import collectives
from launcher.rundir.collectives import Call, Difference, Trace, first_difference
from launcher.rundir.records import Failure
from launcher.worker.agent import collectives as agent_collectives
from launcher.worker.runtime import failure, flight

WORLD = "gloo 0"


def call(
    operation: str = "all_reduce",
    dtype: str = "float32",
    *shape: int,
    line: int = 10,
    group: str = WORLD,
    number: int = 0,
    is_done: bool = False,
    outputs: Sequence[tuple[str, tuple[int, ...]]] = (),
) -> Call:
    tensors = ((dtype, shape or (4,)),)
    return Call(group, number, operation, tensors, tuple(outputs) or tensors, (f"train.py:{line}",), 0, is_done)


def traces(*ranks: Sequence[Call], groups: dict[str, tuple[int, ...]] | None = None) -> dict[int, Trace]:
    """What ranks 0, 1, … recorded, in their order: numbered within each group, and a nanosecond apart."""
    made = {}
    for rank, calls in enumerate(ranks):
        counts: dict[str, int] = {}
        numbered = []
        for time_ns, one in enumerate(calls, 1):
            counts[one.group] = counts.get(one.group, 0) + 1
            numbered.append(Call(**{**vars(one), "number": one.number or counts[one.group], "time_ns": time_ns}))
        made[rank] = Trace(groups or {WORLD: tuple(range(len(ranks)))}, tuple(numbered))
    return made


def found(*ranks: Sequence[Call], **more: dict[str, tuple[int, ...]]) -> Difference:
    difference = first_difference(traces(*ranks, **more))
    assert difference is not None
    return difference


SAME = call()


@pytest.mark.parametrize(
    ("how", "culprits", "others"),
    [
        ("dtype", call("all_reduce", "int32"), call()),
        ("shape", call("all_reduce", "float32", 5), call("all_reduce", "float32", 4)),
        ("operation", call("broadcast"), call()),
        ("shape", call("reduce_scatter", "float32", 8), call("reduce_scatter", "float32", 6)),
        ("shape", call("all_gather", outputs=[("float32", (9,))]), call("all_gather", outputs=[("float32", (8,))])),
    ],
)
def test_calls_that_do_not_fit_together_are_named_at_their_number(how: str, culprits: Call, others: Call) -> None:
    """Of three ranks the one that calls something else is the culprit, and each side is there with its line."""
    difference = found([SAME, SAME, others], [SAME, SAME, culprits], [SAME, SAME, others])

    assert (how, 3, [1]) == (difference.how, difference.number, difference.ranks)
    assert [[0, 2], [1]] == [row["ranks"] for row in difference.calls or ()]
    assert [others.text, culprits.text] == [row["call"] for row in difference.calls or ()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (call("all_reduce", "float32", 2, 2), call("all_reduce", "float32", 4)),
        (call("all_to_all", "float32", 7), call("all_to_all", "float32", 9)),
        (call("scatter", "float32", 8, outputs=call().outputs), Call(WORLD, 0, "scatter", (), call().outputs)),
        (call("gather", outputs=[("float32", (8,))]), Call(WORLD, 0, "gather", call().inputs, ())),
        (call("broadcast", line=3), call("broadcast", line=5)),
        (call(""), call("all_reduce")),
        (
            call("all_gather", "float32", 3, outputs=[("float32", (8,))]),
            call("all_gather", outputs=[("float32", (8,))]),
        ),
    ],
)
def test_calls_that_fit_together_are_no_difference(one: Call, other: Call) -> None:
    """Other shapes of as many elements, sides that are the root's alone, uneven exchanges, a branch for rank 0 alone, and a call
    that no Python made."""
    ended = [Call(**{**vars(c), "is_done": True}) for c in (one, other)]

    assert first_difference(traces([ended[0], SAME], [ended[1], SAME])) is not None  # the last one does not end
    assert first_difference(traces([ended[0]], [ended[1]])) is None


def test_a_rank_that_never_came_is_named_with_what_it_called_last() -> None:
    last = call("broadcast", line=7, is_done=True)
    difference = found([SAME, last, call(line=12)], [SAME, last], [SAME, last, call(line=12)])

    assert ("missing", 3, [1]) == (difference.how, difference.number, difference.ranks)
    assert [[0, 2]] == [row["ranks"] for row in difference.calls or ()]
    assert [([1], last.text, True)] == [(row["ranks"], row["call"], row["is_done"]) for row in difference.last or ()]


def test_a_rank_that_waits_in_another_group_is_shown_there() -> None:
    """Two groups of the same ranks, entered in another order: each waits for the other."""
    groups = {WORLD: (0, 1), "gloo 1": (0, 1)}
    difference = found([SAME, call(line=20)], [SAME, call("all_gather", group="gloo 1", line=30)], groups=groups)

    assert ("missing", 2, "", [1]) == (difference.how, difference.number, difference.group, difference.ranks)
    assert ["all_gather float32 [4] (train.py:30) in group 1"] == [row["call"] for row in difference.last or ()]


def test_two_calls_in_another_order_and_one_left_out() -> None:
    """Where a backend does not wait, the calls behind the first difference tell how it came about."""
    a, b, c = call("all_reduce"), call("broadcast"), call("reduce")

    assert ("order", 2) == ((one := found([SAME, a, b], [SAME, b, a])).how, one.number)
    assert ("skipped", 2, [1]) == ((one := found([SAME, a, b, c], [SAME, b, c])).how, one.number, one.ranks)


def test_the_first_of_several_groups_counts_and_ranks_outside_do_not() -> None:
    """A group is compared over its own ranks; of two that differ, the call that was earlier."""
    groups = {WORLD: (0, 1, 2), "gloo 3": (1, 2)}
    odd = call("all_reduce", "int64", group="gloo 3", line=4)
    even = call("all_reduce", "float32", group="gloo 3", line=4)
    difference = found([SAME, SAME, SAME], [SAME, even, SAME, SAME], [SAME, odd, SAME], groups=groups)

    assert ("dtype", "3", [1, 2], [2]) == (difference.how, difference.group, difference.group_ranks, difference.ranks)


def test_only_numbers_that_all_records_still_have_are_compared() -> None:
    """A record keeps the latest calls: what one has lost is no difference."""
    old = [call("broadcast", number=1), call(number=2), call(number=3, is_done=True)]
    new = [call(number=2), call(number=3, is_done=True)]

    assert first_difference(traces(old, new)) is None


def test_a_collective_that_all_are_in_and_none_leaves() -> None:
    difference = found([SAME, call(line=9)], [SAME, call(line=9)])

    assert ("unfinished", 2, []) == (difference.how, difference.number, difference.ranks)


@pytest.mark.parametrize("ranks", [[], [[SAME]]])
def test_nothing_is_said_of_fewer_than_two_records(ranks: list[list[Call]]) -> None:
    assert first_difference(traces(*ranks)) is None


def test_a_trace_is_read_as_it_was_written_and_what_is_none_is_passed_over() -> None:
    trace = traces([call("all_gather", "bfloat16", 2, 3), call(group="gloo 1")])[0]

    assert trace == collectives.trace(json.loads(json.dumps(trace.to_json())))
    for value in (None, [], {}, {"groups": {}, "calls": [{}]}, {"groups": {"x": ["y"]}, "calls": []}):
        assert collectives.trace(value) is None


def test_the_latest_calls_of_each_group_are_kept() -> None:
    trace = traces([SAME, SAME, SAME, call(group="gloo 1")])[0]

    assert [(WORLD, 2), (WORLD, 3), ("gloo 1", 1)] == [(c.group, c.number) for c in trace.latest(2).calls]


@pytest.mark.parametrize(
    "change",
    [{"calls": ["x"]}, {"ranks": ["1"]}, {"number": "4"}, {"how": None}, {"calls": [{"ranks": [0]}]}, {"last": {}}],
)
def test_a_difference_that_cannot_be_read_is_none(change: dict) -> None:
    """failure.json may come from anybody; the rest of it is shown."""
    whole = found([SAME, SAME], [SAME]).to_json()

    assert Failure.of(what="w", collective=whole).difference == Difference(**whole)
    assert Failure.of(what="w", collective={**whole, **change}).difference is None


def record(entry: dict[str, object] | None = None) -> dict[str, object]:
    """As the recorders of torch 2.13 and torch_npu 2.13 dump them, with what is read."""
    frames = [
        {"name": "all_reduce", "filename": "/x/torch/distributed/distributed_c10d.py", "line": 3245},
        {"name": "wrapper", "filename": "/x/torch/distributed/c10d_logger.py", "line": 83},
        {"name": "step", "filename": "/x/train.py", "line": 7},
    ]
    whole = {
        "frames": frames,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": 5,
        "profiling_name": "gloo:all_reduce",
        "time_created_ns": 9,
        "input_sizes": [[4, 2]],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [[4, 2]],
        "output_dtypes": ["BFloat16"],
        "state": "scheduled",
        "retired": False,
        "is_p2p": False,
        **(entry or {}),
    }
    return {"pg_config": {}, "entries": [whole]}


def test_gloos_record_and_hccls_come_to_the_same_call() -> None:
    """HCCL names neither itself nor the operation; its groups have another name; what no Python called has no operation."""
    (gloo,) = flight._calls(record())
    hccl, silent = (
        flight._calls(record({"profiling_name": "", "process_group": ("group_name_0", ""), **more}))[0]
        for more in ({}, {"frames": []})
    )

    assert ("gloo 0", 5, "all_reduce", (("bfloat16", (4, 2)),)) == (
        gloo.group,
        gloo.number,
        gloo.operation,
        gloo.inputs,
    )
    assert ("hccl 0", "all_reduce", "") == (hccl.group, hccl.operation, silent.operation)
    assert [] == flight._calls(record({"is_p2p": True}))


@pytest.mark.parametrize(
    ("is_meant", "values"),
    [
        (True, {"type": "Stalled", "message": "has not moved"}),
        (True, {"type": "Exit", "message": "was killed by SIGABRT", "process_exit_code": -6}),
        (True, {"type": "RuntimeError", "message": "x", "weight": failure.FOLLOWED}),
        (True, {"type": "RuntimeError", "message": "[gloo/transport/tcp/pair.cc:537] Read error"}),
        (
            True,
            {"type": "RuntimeError", "message": "EI0005: The arguments for collective communication are inconsistent"},
        ),
        (False, {"type": "ValueError", "message": "no such column"}),
        (False, {"type": "Exit", "message": "was killed by SIGKILL", "process_exit_code": -9}),
    ],
)
def test_only_failures_that_may_come_of_a_collective_are_explained_by_one(is_meant: bool, values: dict) -> None:
    sent = {str(r): t.to_json() for r, t in traces([SAME], [call("broadcast")]).items()}
    explained = agent_collectives.explained(Failure.of(rank=0, what="w", **values), [sent])

    assert is_meant == (explained.difference is not None)


def test_a_torch_that_records_nothing_is_named() -> None:
    """torch 2.7 has no recorder for gloo: nothing is compared, and the reader need not wonder why."""
    sent = {"0": collectives.Trace({}, (), "torch 2.7.1").to_json()}
    stalled = Failure.of(rank=0, what="w", type="Stalled", message="has not moved", hint="see stacks_*.txt")
    explained = agent_collectives.explained(stalled, [sent])

    assert explained.hint.startswith("see stacks_*.txt; torch 2.7.1 does not record gloo's collectives")
    assert explained.difference is None


def test_a_rank_that_aborted_is_not_said_to_have_kept_the_others_waiting() -> None:
    sent = {str(r): t.to_json() for r, t in traces([SAME, SAME], [SAME]).items()}
    aborted = Failure.of(rank=1, type="Exit", what="w", message="was killed by SIGABRT", process_exit_code=-6)

    assert agent_collectives.explained(aborted, [sent]).difference is None


DIFFERENCES = {
    "collective-differs": [
        found([call()], [call("all_reduce", "int32")]),
        found([call()], [call("broadcast")], [call()], groups={"gloo 4": (0, 1, 2), WORLD: (0, 1, 2)}),
    ],
    "collective-order": [found([SAME, call("broadcast")], [call("broadcast"), SAME])],
    "collective-skipped": [found([SAME, call("broadcast")], [call("broadcast")])],
    "collective-missing": [
        found([SAME, SAME], [SAME]),
        found([SAME], []),
        found([call(group="gloo 2")], [], [], groups={"gloo 2": (0, 1, 2)}),
    ],
    "collective-unfinished": [found([SAME], [SAME])],
}


@pytest.mark.parametrize(("id_", "difference"), [(id_, one) for id_, rows in DIFFERENCES.items() for one in rows])
def test_explain_knows_each_difference_by_its_line_in_both_languages(id_: str, difference: Difference) -> None:
    english, chinese = (explain_text(difference.line, language)[0] for language in ("en", "zh"))

    assert (id_, id_) == (english.id, chinese.id)
    for text in (english.cause, chinese.cause):
        assert str(difference.number) in text
        assert all(row["call"] in text for row in difference.calls or ())
        assert not re.search(r"[\[{]{2}", text)
    assert sorted(difference.ranks or []) == sorted(english.ranks or ([] if english.rank is None else [english.rank]))
    assert re.search(r"[一-鿿]", chinese.cause + chinese.fix)
