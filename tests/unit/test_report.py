"""Reports of run directories made here, file by file: whole, broken, old and hostile ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.report import charts
from launcher.report import page as report_page

HOSTILE = """</script></style><script>alert(1)</script><img src=x onerror=alert(2)>"'&$\\frac{1"""
GIB = 1 << 30


def write_run(
    folder: Path,
    *,
    name="mine",
    steps=30,
    failed=False,
    label_names=("bad", "good"),
    loss=2.0,
    strategy="ddp",
    learning_rate=1e-4,
    text="",
) -> Path:
    """A run of two ranks as the launcher leaves it, with one restart at step 20."""
    folder.mkdir(parents=True, exist_ok=True)
    rates = {
        "steps": 10,
        "seconds": 2.0,
        "rows": 80,
        "tokens": 4000,
        "data_s": [0.1, 0.1],
        "forward_s": [0.5, 0.9],
        "host_bytes": [GIB, 2 * GIB],
        "host_peak_bytes": [2 * GIB, 3 * GIB],
    }
    events = [
        {"event": "machine", "host": "node0", "versions": {"torch": "2.13.0"}, "chips": [], "memory_bytes": 8 * GIB},
        {"event": "note", "text": text or "a note"},
        {"event": "train", "max_steps": steps, "num_train_epochs": 3},
    ]
    for step in range(10, steps + 1, 10):
        epoch = 3 * step / steps
        events.append(
            {
                "event": "log",
                "step": step,
                "epoch": epoch,
                "loss": loss / step,
                "learning_rate": learning_rate,
                "grad_norm": 1.0,
            }
        )
        events.append({"event": "rates", "step": step, **rates})
        events.append(
            {
                "event": "eval",
                "step": step,
                "epoch": epoch,
                "eval_loss": 3.0 / step,
                "accuracy": 0.5 + step / 100,
                "mae": 0.5,
            }
        )
        if step == 20:
            events.append({"event": "restart", "attempt": 1, "of": 1, "rank": 1, "what": f"was killed {text}"})
    lines = [json.dumps({"time": 1700000000.0 + i, **event}) for i, event in enumerate(events)]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plan = {
        "name": name,
        "strategy": strategy,
        "strategy_reason": text,
        "precision": "fp32",
        "device": "cpu",
        "backend": "gloo",
        "nproc_per_node": 2,
        "num_nodes": 1,
        "batch": {"global_size": 8, "micro_size": 4, "accumulation": 1},
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    values = {
        "model": {"name": f"org/{name}", "task": "sequence-classification"},
        "data": {"prompt": text or None},
        "training": {"learning_rate": learning_rate},
    }
    head = f"# {name} as resolved.\n#   training.learning_rate: mine.yaml:7\n"
    (folder / "recipe.yaml").write_text(head + json.dumps(values, ensure_ascii=False), encoding="utf-8")
    (folder / "data.json").write_text(
        json.dumps({"label_names": list(label_names), "train": {"rows": 80, "mean_tokens": 12.5, "max_tokens": 30}}),
        encoding="utf-8",
    )
    if failed:
        log = folder / "attempt_1" / "rank_1.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"step 29\nhf_{'A1b2C3d4' * 4} {text}\n", encoding="utf-8")
        failure = {
            "rank": 1,
            "host": "node0",
            "attempt": 1,
            "what": f"ValueError: {text}",
            "traceback": f"Traceback\n{text}",
            "explanation": {"cause": "the cause", "fix": "the fix", "line": text, "source": "somewhere"},
        }
        (folder / "failure.json").write_text(json.dumps(failure), encoding="utf-8")
    else:
        final = {"accuracy": 0.8, "eval_loss": 0.1, "eval_samples": 10, "confusion_matrix": [[4, 1], [1, 4]]}
        metrics = {"world_size": 2, "final": final, "train": {"train_loss": 0.2}}
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


def test_a_report_costs_in_proportion_to_the_steps(tmp_path: Path, operations: Callable[[Callable[[], Any]], int]):
    """Four times the steps are four times the work, and not sixteen: reading, counting and choosing what is drawn."""
    costs = []
    for steps in (600, 2_400):
        run = write_run(tmp_path / str(steps), steps=steps)
        costs.append(operations(lambda run=run: report_page.charts.of_run(report_page.load_all([run])[0])))

    assert costs[1] <= 4.5 * costs[0]


class Page(HTMLParser):
    """What a browser would act on: elements, and attributes that fetch or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "action", "data", "poster"):
                self.links.append(value)
            if key.startswith("on"):
                self.handlers.append(key)
            if key == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text += f" {data}"


def page(*folders: Path) -> Page:
    return Page(report_page.html(report_page.load_all(folders)))


def test_a_page_tells_everything_of_a_run(tmp_path: Path):
    """Figures, curves with their units, the matrix, ranks, where values came from, the machine, what befell the run."""
    text = re.sub(r"\s+", " ", page(write_run(tmp_path / "run")).text)

    for said in (
        "0.8000 accuracy",
        "cross-entropy (nats)",
        "tokens per second",
        "GiB of host memory",
        "optimizer step",
        "bad 5 5 0.8000 0.8000",
        "3.00 GiB",
        "training.learning_rate 0.0001 mine.yaml:7",
        "torch 2.13.0",
        "8.00 GiB",
        "attempt 1 of 1, after rank 1: was killed",
        "80 12.5 tokens on average, longest 30",
    ):
        assert said in text


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path):
    """No script, no link but inside the page, no id twice."""
    for found in (page(write_run(tmp_path / "a", text=HOSTILE)), page(tmp_path / "a", write_run(tmp_path / "b"))):
        assert not {"script", "img", "iframe", "object", "embed", "video"} & set(found.tags)
        assert [] == [link for link in found.links if not link.startswith(("#", "data:,"))]
        assert [] == found.handlers
        assert len(found.ids) == len(set(found.ids))
        assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


@pytest.mark.parametrize("failed", [False, True])
def test_hostile_words_are_text(tmp_path: Path, failed: bool):
    """Names, labels, log lines and notes from anywhere end up as they are, as text."""
    folder = write_run(tmp_path / "run", name=HOSTILE, label_names=(HOSTILE, "差评"), text=HOSTILE, failed=failed)
    found = page(folder)

    assert "script" not in found.tags
    assert found.text.count(HOSTILE) > 5
    assert ("差评" in found.text) or failed


def test_chinese_survives(tmp_path: Path):
    """In names, labels and messages."""
    folder = write_run(tmp_path / "评论", name="评论分类", label_names=("差评", "好评"), text="显存不足")
    found = page(folder)

    assert [] == [word for word in ("评论分类", "差评", "好评", "显存不足") if word not in found.text]


def test_a_failure_is_explained(tmp_path: Path):
    """Who failed first, why, what to do, and the log's end; a token that the log holds is not carried along."""
    folder = write_run(tmp_path / "run", failed=True, text="it broke")
    found = page(folder)

    for said in ("failed", "Rank 1 on node0 failed first", "ValueError: it broke", "the cause", "the fix", "step 29"):
        assert said in found.text
    assert "hf_A1b2" not in found.text


def test_the_collective_in_which_ranks_part_is_a_table(tmp_path: Path):
    """A line for each call, with its ranks, tensors and places; a record that cannot be read costs itself only."""
    folder = write_run(tmp_path / "run", failed=True)
    row = {
        "ranks": [0, 2],
        "call": "x",
        "operation": "all_reduce",
        "tensors": [],
        "places": ["train.py:30", "main.py:9"],
    }
    tensors = [{"dtype": "float32", "shape": [4, 2]}]
    last = {**row, "ranks": [1], "operation": "broadcast", "places": [], "is_done": True}
    collective = {"how": "missing", "number": 46, "ranks": [1], "calls": [{**row, "tensors": tensors}], "last": [last]}
    failure = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    texts = []
    for value in (collective, {**collective, "calls": [3]}):
        (folder / "failure.json").write_text(json.dumps({**failure, "collective": value}), encoding="utf-8")
        texts.append(page(folder).text)

    assert "Collective 46: rank 1 never came" in texts[0]
    for word in ("0, 2", "all_reduce", "float32 [4, 2]", "train.py:30", "main.py:9", "called last, and ended"):
        assert word in texts[0]
    assert "Collective 46" not in texts[1]
    assert failure["what"] in texts[1]


def test_several_runs_are_compared(tmp_path: Path):
    """Only what differs stands in the table; the better figure is marked; each run has a colour and a stroke."""
    a = write_run(tmp_path / "first", loss=2.0, learning_rate=1e-4)
    b = write_run(tmp_path / "second", loss=1.0, learning_rate=2e-4, strategy="zero2")
    runs = report_page.load_all([a, b])

    assert {"training.learning_rate": [1e-4, 2e-4], "plan: strategy": ["ddp", "zero2"]} == report_page.differing(runs)
    loss = next(chart for chart in charts.compared(runs) if chart.title == "Training loss")
    assert [("first", 0, "solid"), ("second", 1, "dashed")] == [(x.label, x.colour, x.style) for x in loss.lines]
    assert [(1.0, 0.1), (2.0, 0.05), (3.0, pytest.approx(1 / 30))] == list(loss.lines[1].points)


def test_curves_of_a_run_that_stops_within_an_epoch_lie_on_one_another(tmp_path: Path):
    """max_steps, and num_train_epochs of 0.5, leave the Trainer with a whole number of epochs to speak of."""
    folder = write_run(tmp_path / "run")
    events = folder / "events.jsonl"
    events.write_text(events.read_text().replace('"num_train_epochs": 3', '"num_train_epochs": 30'))
    found = {chart.title: chart for chart in charts.compared(report_page.load_all([folder, folder]))}

    assert [x for x, _ in found["Training loss"].lines[0].points] == [x for x, _ in found["Throughput"].lines[0].points]


def test_runs_of_one_name_keep_apart(tmp_path: Path):
    """Even the same run twice."""
    a = write_run(tmp_path / "x" / "run")
    b = write_run(tmp_path / "y" / "run")
    labels = [run.label for run in report_page.load_all([a, b, a])]

    assert 3 == len(set(labels))


def test_the_better_value_is_the_lower_loss_and_the_higher_score(tmp_path: Path):
    """Figures that look the same are both without a mark."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    other = {"final": {"accuracy": 0.9, "eval_loss": 0.05}, "train": {"train_loss": 0.2000000001}}
    (b / "metrics.json").write_text(json.dumps(other))
    best = {name: value for name, _, value in report_page.figure_table(report_page.load_all([a, b]))}

    assert (0.9, 0.05, None) == (best["accuracy"], best["eval_loss"], best["train_loss"])


STATUS = {
    "done": lambda run: None,
    "unfinished": lambda run: (run / "metrics.json").unlink(),
    "interrupted": lambda run: _append(run, {"event": "preempted", "step": 20, "saved": True}),
}


def _append(run: Path, event: dict) -> None:
    (run / "metrics.json").unlink()
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.0, **event}) + "\n")


@pytest.mark.parametrize("status", STATUS)
def test_how_a_run_ended_is_told(tmp_path: Path, status: str):
    """By what it left behind."""
    folder = write_run(tmp_path / "run")
    STATUS[status](folder)

    assert status == report_page.load(folder).status
    assert status in page(folder).text


def test_a_run_under_way_is_told_by_its_lock(tmp_path: Path):
    """Asking takes nothing away from the launch that holds it."""
    from launcher.rundir.paths import RunDir

    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").unlink()
    with RunDir(folder).hold():
        assert "running" == report_page.load(folder).status
    assert "unfinished" == report_page.load(folder).status


FILES = ["plan.json", "events.jsonl", "metrics.json", "recipe.yaml", "data.json", "failure.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"final": 3, "batch": [], "train": "x"}']
)
def test_broken_and_missing_files_cost_their_part_only(tmp_path: Path, name: str, content: bytes | None):
    """The page is made all the same."""
    folder = write_run(tmp_path / "run", failed=name == "failure.json")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    assert "mine" in page(folder).text or name == "plan.json"


def test_events_of_odd_types_cost_their_point_only(tmp_path: Path):
    """Lists for numbers, no step, a number too large."""
    folder = write_run(tmp_path / "run")
    odd = [
        {"event": "log", "step": 40, "loss": "NaN"},
        {"event": "log", "step": 50, "loss": float("nan")},
        7,
        {"event": "eval", "step": 50, "eval_loss": [1]},
        {"event": "log"},
        {"event": "rates", "step": 60},
    ]
    with (folder / "events.jsonl").open("a") as file:
        file.write("".join(json.dumps(event) + "\n" for event in odd))

    assert "accuracy" in page(folder).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    """With a hint where `latest` is beside."""
    write_run(tmp_path / "20260101")
    (tmp_path / "latest").symlink_to("20260101")

    with pytest.raises(LaunchError, match="not a run directory") as caught:
        report_page.load(tmp_path)
    assert "did you mean" in caught.value.hint
    assert "20260101" == report_page.load(tmp_path / "latest").path.name


def test_predictions_give_the_matrix_that_metrics_lack(tmp_path: Path):
    """Counted from predictions.jsonl; a class without rows has its place."""
    folder = write_run(tmp_path / "run", label_names=("a", "b", "c"))
    (folder / "metrics.json").write_text(json.dumps({"final": {"accuracy": 0.5}}))
    rows = [{"index": 0, "label": 0, "prediction": 1}, {"index": 1, "label": 1, "prediction": 1}]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert [[0, 1, 0], [0, 1, 0], [0, 0, 0]] == report_page.load(folder).confusion


def test_the_json_says_what_the_page_says(tmp_path: Path):
    """Figures, and each recipe value with its origin."""
    (run,) = report_page.summary([report_page.load(write_run(tmp_path / "run"))])["runs"]

    assert {"value": 1e-4, "from": "mine.yaml:7"} == run["recipe"]["training.learning_rate"]
    assert {"value": "sequence-classification", "from": "default"} == run["recipe"]["model.task"]
    assert (0.8, 40.0, 2000.0) == tuple(
        run["figures"][k] for k in ("accuracy", "samples_per_second", "tokens_per_second")
    )
    assert [
        {"rank": 0, "own_s": 0.06, "host_peak_bytes": 2 * GIB},
        {"rank": 1, "own_s": 0.1, "host_peak_bytes": 3 * GIB},
    ] == run["ranks"]
    json.dumps(run)


def test_long_curves_keep_their_spikes():
    """Of 100,000 points a few hundred are drawn, the one that matters among them."""
    points = [(float(i), 1.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 99.0)
    thin = charts.thinned(points)

    assert len(thin) <= charts.MAX_POINTS + 2
    assert (points[0], points[-1], True) == (thin[0], thin[-1], (54_321.0, 99.0) in thin)
    assert sorted(thin) == list(thin)


@pytest.mark.parametrize(("num_ranks", "num_lines"), [(2, 2), (8, 8), (64, 3)])
def test_many_ranks_are_summed_up(tmp_path: Path, num_ranks: int, num_lines: int):
    """Up to eight have a line each; of more, the least, the median and the most."""
    folder = write_run(tmp_path / "run")
    wide = {
        "event": "rates",
        "step": 30,
        "steps": 10,
        "seconds": 2.0,
        "rows": 80,
        "tokens": 4000,
        "data_s": [0.1] * num_ranks,
        "forward_s": [0.5] * num_ranks,
        "host_bytes": [GIB] * num_ranks,
        "host_peak_bytes": [GIB] * num_ranks,
    }
    (folder / "events.jsonl").write_text(json.dumps({"time": 1.0, **wide}) + "\n")
    memory = next(c for c in charts.of_run(report_page.load(folder)) if c.title == "Memory by rank")

    assert num_lines == len(memory.lines)


def test_colours_follow_the_page(tmp_path: Path):
    """Every colour of a chart is one of the page's variables, so that light and dark both work."""
    drawing = charts.svg(charts.of_run(report_page.load(write_run(tmp_path / "run")))[0], "p0")

    assert {"none"} >= set(re.findall(r"(?:fill|stroke): ([^v;\"][^;\"]*)", drawing))
    assert "var(--c0)" in drawing


def test_recipe_keys_with_colons_find_their_origin(tmp_path: Path):
    """`data.data_files.a: b` is a key too."""
    folder = write_run(tmp_path / "run")
    (folder / "recipe.yaml").write_text(
        '# x\n#   data_files.a: b: mine.yaml:3\ndata_files: {"a: b": f.json, a: g.json}\n'
    )

    assert {"data_files.a: b": "mine.yaml:3"} == report_page.load(folder).origins


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.json", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("metrics.json", b"{", "not JSON: "),
        ("metrics.json", b"[" * 100_000, "not JSON: "),
        ("plan.json", b"[]", "not a JSON object"),
        ("recipe.yaml", b"x: [", "not YAML: "),
        ("events.jsonl", b"nonsense\n7\n{", "2 lines are not events"),
        ("node_1/failure.json", b"3", "not a JSON object"),
        ("data.json", None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, content: bytes | None, reason: str):
    """On the page and among the facts, with the reason; one that is not there is no trouble."""
    folder = write_run(tmp_path / "run")
    assert [] == report_page.load(folder).unread

    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    (problem,) = report_page.load(folder).unread

    assert problem.startswith(f"{name}: {reason}")
    assert [problem] == report_page.summary([report_page.load(folder)])["runs"][0]["unread"]
    assert problem in page(folder).text


def test_predictions_that_cannot_be_read_are_told(tmp_path: Path):
    """Where the matrix would have been counted from them."""
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text('{"final": {"accuracy": 0.5}}')
    (folder / "predictions.jsonl").write_text('{"index": 0, "label": 0, "prediction": 1}\n{"index": 1}\n')

    assert ["predictions.jsonl: line 2 is not a prediction"] == report_page.load(folder).unread


def test_rows_of_a_task_without_labels_are_no_trouble(tmp_path: Path):
    """There is nothing to count."""
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text('{"final": {"eval_loss": 0.5}}')
    (folder / "predictions.jsonl").write_text('{"index": 0, "correct": 3}\n{"index": 1, "correct": 4}\n')

    run = report_page.load(folder)

    assert ([], []) == (run.unread, run.confusion)


@pytest.mark.parametrize(("label", "prediction"), [([0, 1], [1, 1]), (0.5, 0.25), ([0.5], [1.0])])
def test_several_labels_and_values_have_no_matrix(tmp_path: Path, label: Any, prediction: Any):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text('{"final": {"eval_loss": 0.5}}')
    (folder / "predictions.jsonl").write_text(json.dumps({"index": 0, "label": label, "prediction": prediction}) + "\n")

    run = report_page.load(folder)

    assert ([], []) == (run.unread, run.confusion)


def test_the_rows_with_the_largest_losses_are_shown(tmp_path: Path):
    """Escaped, with the names of their labels and their mean losses; without texts it says how to have them."""
    folder = write_run(tmp_path / "run")
    one = {
        "index": 7,
        "id": "r7",
        "label": 0,
        "prediction": 1,
        "loss": 4.5,
        "label_name": "no",
        "prediction_name": "yes",
    }
    (folder / "worst_rows.json").write_text(json.dumps({"rows": [one, {"index": 2, "count": 4, "loss": 2.0}]}))
    plain = page(folder).text

    assert all(part in plain for part in ("Rows with the largest losses", "7 r7", "4.5000", "yes", "0.5000"))
    assert "predictions: [text]" in plain
    (folder / "worst_rows.json").write_text(json.dumps({"rows": [{**one, "text": "<b>bad</b>" + "x" * 2000}]}))
    html = report_page.html([report_page.load(folder)])
    assert "&lt;b&gt;bad&lt;/b&gt;" in html
    assert "<b>bad" not in html
    assert "x" * 1001 not in html


@pytest.mark.parametrize("content", ["[]", "{", '{"rows": 3}', '{"rows": [1, {"loss": "much", "label": {"a": []}}]}'])
def test_worst_rows_that_are_none_spoil_no_report(tmp_path: Path, content: str):
    folder = write_run(tmp_path / "run")
    (folder / "worst_rows.json").write_text(content)

    assert "</html>" in report_page.html([report_page.load(folder)])


def test_the_command_says_what_it_could_not_read(tmp_path: Path, ascend_launch):
    """On stderr; the page is made all the same."""
    folder = write_run(tmp_path / "run")
    (folder / "plan.json").write_text("[]")
    ran = ascend_launch("report", folder, "--json")

    assert (0, f"{folder}/plan.json: not a JSON object\n") == (ran.code, ran.err)
    assert [folder.name] == [Path(run["path"]).name for run in json.loads(ran.out)["runs"]]


@pytest.mark.parametrize(
    ("name", "key", "value", "kind"),
    [
        ("plan.json", "num_nodes", "two", "str"),
        ("plan.json", "batch", [1], "list"),
        ("data.json", "label_names", 5, "int"),
        ("metrics.json", "final", [0.5], "list"),
        ("env.json", "set", 3, "int"),
        ("env.json", "inherited", ["a"], "list"),
    ],
)
def test_a_value_of_another_type_costs_itself_only(tmp_path: Path, name: str, key: str, value: object, kind: str):
    """The rest of its file is shown."""
    folder = write_run(tmp_path / "run")
    there = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**there, key: value}))

    assert [f"{name}: {key} is a {kind}"] == report_page.load(folder).unread
    assert "mine" in page(folder).text


@pytest.mark.parametrize(
    "event",
    [
        {"event": "rates", "data_s": "x", "forward_s": [None], "host_bytes": [[1]], "device_bytes": 3},
        {"event": "machine", "versions": "x", "chips": 3.5, "memory_bytes": [1]},
        {"event": "log", "epoch": [1], "loss": 1.0},
        {"event": "note", "time": 1e300},
        {"event": "note", "time": float("nan")},
        {"event": ["log"]},
    ],
)
def test_a_field_of_another_type_costs_itself_only(tmp_path: Path, event: dict):
    """Whichever program wrote the event."""
    folder = write_run(tmp_path / "run")
    whole = {"time": 1700000100.0, "step": 30, "steps": 10, "seconds": 2.0, "rows": 80, "tokens": 4000}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({**whole, **event}) + "\n")

    assert "accuracy" in page(folder).text


def test_figures_that_are_no_numbers_are_left_out_of_the_page(tmp_path: Path):
    """An evaluation of which a row has no scores: null in metrics, events and predictions. No matrix of the other rows."""
    folder = write_run(tmp_path / "run")
    final = {"accuracy": None, "eval_loss": None, "eval_samples": 2}
    (folder / "metrics.json").write_text(json.dumps({"world_size": 2, "final": final, "train": {"train_loss": 0.2}}))
    rows = [{"index": 0, "label": 1, "prediction": 1}, {"index": 1, "label": 1, "prediction": None}]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "events.jsonl").open("a") as events:
        events.write(
            json.dumps({"event": "eval", "time": 1.8e9, "step": 40, "epoch": 4.0, "eval_loss": None, "accuracy": None})
            + "\n"
        )

    (run,) = report_page.load_all([folder])

    assert not {"accuracy", "eval_loss"} & run.figures.keys()
    assert ([], []) == (run.confusion, list(run.unread))
    assert page(folder).text


def test_rows_that_were_written_are_the_worst_by_a_score_of_their_texts(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    row = {"index": 4, "reference": "Yes.", "text": "No.", "chrf": 12.5, "count": 1, "loss": 2.0}
    (folder / "worst_rows.json").write_text(json.dumps({"by": "chrf", "rows": [row]}))

    html = report_page.html([report_page.load(folder)])
    assert "Rows with the worst chrF" in html
    assert ">12.5000<" in html and ">No.<" in html
