"""Every kind of event and every failure is read and written as the same bytes, and nothing that is read raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher import files
from launcher.report import page
from launcher.rundir import events, records
from launcher.rundir.records import Event, Failure

LINES = """
{"event": "machine", "host": "node0", "system": "Linux", "cores": 8, "memory_bytes": 1024, "versions": {"torch": "2.9"}, "python": "3.11", "cann": null, "chips": []}
{"event": "note", "text": "步 4 could not be saved", "failed_saves": 2}
{"event": "note", "text": "x"}
{"event": "imported", "seconds": 3.25}
{"event": "preload", "modules": ["torch"], "reason": ""}
{"event": "start_method", "method": "fork", "reason": "--start-method auto"}
{"event": "ranks", "attempt": 0, "pids": [11, 12]}
{"event": "restart", "attempt": 1, "of": 2, "rank": null, "what": "was killed"}
{"event": "hang", "what": "rank 1 is stopped"}
{"event": "stopping", "signal": "SIGTERM"}
{"event": "stopped", "signal": null}
{"event": "start", "world_size": 2, "strategy": "ddp", "label_counts": {"train": [3, 1]}}
{"event": "engine", "engine": "DDP", "world_size": 2, "backend": "gloo", "device": "cpu", "precision": "fp32", "parameters": 9, "local_parameters": 9}
{"event": "engine", "engine": "DeepSpeedEngine", "world_size": 2, "backend": "hccl", "device": "npu:0", "precision": "bf16", "zero_stage": 3, "parameters": 9, "local_parameters": 5}
{"event": "train", "max_steps": 30, "num_train_epochs": 3}
{"event": "step", "step": 1, "max_steps": 30, "epoch": 0.1}
{"event": "log", "step": 2, "epoch": 0.2, "loss": 1.5, "grad_norm": 0.1, "learning_rate": 1e-05}
{"event": "log", "step": 2, "epoch": 0.2, "loss": 1.5}
{"event": "rates", "step": 2, "steps": 2, "seconds": 0.5, "rows": 8, "tokens": 64, "data_s": [0.1, 0.2], "forward_s": [0.1, 0.1], "host_bytes": [1, 2], "host_peak_bytes": [3, 4]}
{"event": "rates", "step": 2, "steps": 2, "seconds": 0.5, "rows": 8, "tokens": 64, "data_s": [0.1], "forward_s": [0.1], "host_bytes": [1], "host_peak_bytes": [3], "device_bytes": [5], "device_peak_bytes": [6]}
{"event": "eval_step", "step": 1, "max_steps": 4}
{"event": "eval", "step": 10, "epoch": 1.0, "eval_loss": 0.7, "accuracy": 0.5, "confusion_matrix": [[1, 0], [1, 2]]}
{"event": "epoch", "epoch": 1.0, "train_loss": 0.9, "eval_loss": 0.7, "accuracy": null}
{"event": "save", "step": 10, "path": "/runs/r/checkpoints/checkpoint-10", "seconds": 0.2}
{"event": "resume", "path": "/runs/r/checkpoints/checkpoint-10", "step": 10, "epoch": 1.0, "world_size": 2, "saved_world_size": 4, "saved_strategy": "zero2", "notes": []}
{"event": "preempted", "step": 12, "saved": true, "signal": "SIGTERM"}
{"event": "model", "path": "/runs/r/model"}
{"event": "end", "accuracy": 0.5, "eval_loss": 0.7}
{"event": "ready", "rank": 1, "device": "cpu"}
{"event": "plan", "run_dir": "/runs/r", "plan": {"name": "r"}}
{"event": "output", "rank": 1, "stream": 2, "text": "步 5"}
{"event": "submitted", "job": "17", "output": "slurm-17.out", "script": "#!/bin/bash"}
{"event": "job", "id": "17", "state": "RUNNING", "restarts": 0}
{"event": "outcome", "explanation": null, "exit_code": 1, "failure": {"what": "x"}, "metrics": null, "report": null, "continue": null}
""".strip().splitlines()

FAILURES = """
{"rank": 1, "type": "ValueError", "message": "m", "traceback": "t", "time_ns": 5, "time": 1.5, "weight": 0, "what": "ValueError: m", "hint": "", "exit_code": 1}
{"type": "Exit", "message": "m", "what": "m", "hint": "h", "traceback": "", "weight": 0, "exit_code": 1, "time_ns": 5, "time": 1.5, "rank": 0, "local_rank": 0, "node_rank": 0, "host": "n", "attempt": 0, "process_exit_code": -9, "log": "/runs/r/rank_0.log"}
{"rank": null, "node_rank": 1, "host": "n1", "type": "NodeLost", "message": "m", "what": "m", "hint": "h", "traceback": "", "weight": 0, "exit_code": 1, "time": 1.5, "time_ns": 5}
{"rank": 1, "type": "Stalled", "ranks": [{"rank": 1, "step": 3}], "explanation": {"cause": "c"}}
""".strip().splitlines()


def as_made(event: Event) -> Event:
    """The same, made of its fields as its writer makes it, without the order of its keys in the file."""
    given = {name: getattr(event, name) for name in event.declared}
    return type(event)(**given, more=event.figures)


@pytest.mark.parametrize("line", LINES, ids=lambda line: json.loads(line)["event"])
def test_an_event_is_written_as_it_was_read_and_as_it_is_made(tmp_path: Path, line: str):
    """Through the file, and by the order of the kind's own fields. A machine's facts have the doctor's order."""
    path = tmp_path / "events.jsonl"
    event = records.event({"time": 1.5, **json.loads(line)})
    made = event if isinstance(event, records.Machine) else as_made(event)
    events.append_event(path, event)
    events.append_event(path, made)
    first, second = (text.partition(", ")[2] for text in path.read_text(encoding="utf-8").splitlines())

    assert [line[1:]] * 2 == [first, second]
    assert [type(event)] * 2 == [type(read) for _, read in events.events(path)]
    assert () == event.wrong
    assert event == made


def test_every_kind_has_a_line_here():
    assert {"", *records._KINDS} == {"", *(json.loads(line)["event"] for line in LINES)}


@pytest.mark.parametrize("text", FAILURES)
def test_a_failure_is_written_as_it_was_read_and_as_it_is_made(tmp_path: Path, text: str):
    """Its keys in the order of whoever wrote it; a new one comes last."""
    failure = records.failure(json.loads(text))
    assert failure is not None
    events.write_failure(tmp_path / "a.json", failure)
    events.write_failure(tmp_path / "b.json", Failure.of(**json.loads(text)))
    events.write_failure(tmp_path / "c.json", Failure.of(**json.loads(text)).but(hint="new", log="l"))
    expected = json.loads(text)

    assert [files.json_text(expected, indent=2) + "\n"] * 2 == [(tmp_path / f"{n}.json").read_text() for n in "ab"]
    assert {**expected, "hint": "new", "log": "l"} == json.loads((tmp_path / "c.json").read_text())
    assert list({**expected, "hint": "", "log": ""}) == list(json.loads((tmp_path / "c.json").read_text()))
    assert failure == events.read_failure(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"event": "tomorrow", "a": [1], "time": 3}', records.Other),
        ('{"event": ["log"], "time": "x"}', records.Other),
        ('{"a": 1}', records.Other),
        ("{}", records.Other),
        ('{"event": "log", "loss": 1.0}', records.Other),
        ('{"event": "log", "step": "one"}', records.Other),
        ('{"event": "step", "step": 1}', records.Other),
        (
            '{"new": 1, "event": "log", "step": 2, "loss": null, "time": 1.5, "epoch": [1], "newer": {"b": 2}}',
            records.Log,
        ),
        (
            '{"event": "rates", "step": 1, "steps": 1, "seconds": 1, "rows": 1, "tokens": 1, "data_s": [null]}',
            records.Rates,
        ),
        ('{"event": "note", "more": 1, "keys": 2, "wrong": 3, "kind": 4, "text": 5}', records.Note),
        ('{"event": "restart", "of_restarts": 1, "of": 2}', records.Restart),
    ],
)
def test_what_another_version_wrote_is_kept_as_it_was(line: str, kind: type[Event]):
    """Unknown kinds and keys, values of other types, in their order."""
    event = records.event(json.loads(line))

    assert kind is type(event)
    assert line == json.dumps(event.to_json())


def test_a_value_of_another_type_is_absent_and_named():
    """Null is absent too, and nothing wrong: NaN is written so."""
    log = records.event({"event": "log", "step": 2, "loss": None, "epoch": "x", "grad_norm": True, "time": -1})
    failure = records.failure({"what": 3, "rank": "0", "hint": "h", "time_ns": None})

    assert isinstance(log, records.Log)
    assert (2, None, None, None, None) == (log.step, log.loss, log.epoch, log.grad_norm, log.time)
    assert ("epoch", "grad_norm", "time") == log.wrong
    assert failure is not None
    assert (None, None, "h", 0, ("what", "rank")) == (
        failure.what,
        failure.rank,
        failure.hint,
        failure.time_ns,
        failure.wrong,
    )


@pytest.mark.parametrize("value", [None, [], "x", 3, {}, True])
def test_what_is_no_failure_is_none(tmp_path: Path, value: object):
    (tmp_path / "error_0.json").write_text(json.dumps(value))

    assert None is records.failure(value)
    assert None is events.read_failure(tmp_path / "error_0.json")
    assert None is events.read_failure(tmp_path / "error_1.json")


@pytest.mark.parametrize(
    ("line", "kind"),
    [('{"event": "ranks"}', records.Ranks), ("{", None), ("[1]", None), ('{"event": 3}', None), ("[" * 100_000, None)],
    ids=["event", "half", "list", "number", "deep"],
)
def test_a_line_of_another_launchers_output_is_an_event_or_none(line: str, kind: type[Event] | None):
    event = records.event_in(line)

    assert kind == (None if event is None else type(event))


def test_a_received_directory_with_wrong_types_is_reported_with_findings(tmp_path: Path):
    """The page is made, and says which file and line is not as it should be."""
    (tmp_path / "events.jsonl").write_text(
        'nonsense\n7\n{"event": "log", "step": 1, "loss": "x"}\n{"event": "train", "max_steps": {}}\n'
        '{"event": "note", "text": [1]}\n{"event": "log", "step": 2, "loss": 0.5}\n{"event": "lo'
    )
    (tmp_path / "failure.json").write_text('{"what": ["x"], "rank": "one", "attempt": 0, "hint": "do this"}')
    run = page.load(tmp_path)

    assert [
        "events.jsonl: 2 lines are not events",
        "events.jsonl: line 3: loss is a str (and 2 other lines like it)",
        "failure.json: what is a list, rank is a str",
    ] == run.unread
    assert [None, 0.5] == [log.loss for log in run.history.logs]
    assert "do this" in page.html([run])


def test_a_record_is_neither_changed_nor_made_of_unknown_fields():
    note = records.Note(text="x")

    with pytest.raises(AttributeError, match="a record is not changed"):
        note.text = "y"
    with pytest.raises(TypeError, match="Note has time, text, failed_saves, not txt"):
        records.Note(txt="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Step has"):
        records.Step(epoch=1.0)  # type: ignore[call-arg]
