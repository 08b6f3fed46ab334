"""Functions of the user's own, FILE.py:FUNCTION: found without being run, carried by the recipe, run in ranks from its text."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from launcher.checks import Context
from launcher.clusters import paths
from launcher.diagnose.doctor import versions
from launcher.errors import EXIT_USER, LaunchError
from launcher.jobs import health, trained
from launcher.machine.cluster import Cluster, Found
from launcher.planning import decide, plan
from launcher.planning.plan import Plan
from launcher.recipe import load, metrics, user_code
from launcher.recipe.load import Loaded
from launcher.render import files
from launcher.rundir import claims
from launcher.rundir.paths import RunDir
from launcher.worker import user_code as in_ranks
from launcher.worker.agent import consistency
from launcher.worker.metrics import users
from launcher.worker.tasks.metrics import Remarks, compute
from launcher.worker.tasks.predictions import Predictions

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
Write = Callable[..., Path]
CPU = Cluster("cpu", source="a test")
COST = '''"""Scores of mine."""
import numpy as np

WEIGHTS = np.array([1.0, 5.0])


def cost(columns, num_labels):
    wrong = columns["label"] != columns["prediction"]
    return WEIGHTS[columns["label"] % 2][wrong].sum() / len(wrong)


cost.greater_is_better = False
'''


def loaded(recipe: Write, text: str | None = COST, name: str = "mine.py:cost") -> Loaded:
    path = recipe(metrics=["perplexity", name])
    if text is not None:
        (path.parent / "mine.py").write_text(text, encoding="utf-8")
    return load.load(path, (), {})


def planned(loaded: Loaded, nproc: int = 1) -> Plan:
    return decide.make(loaded, CPU, plan.Options(nproc=nproc))


@pytest.mark.parametrize(
    ("value", "file", "function"),
    [("mine.py:cost", "mine.py", "cost"), ("../a b/中.py:_f1", "../a b/中.py", "_f1"), ("/x/y.py:f", "/x/y.py", "f")],
)
def test_a_function_is_named_by_its_file(value: str, file: str, function: str):
    assert user_code.Reference(file, function) == user_code.reference(value)


@pytest.mark.parametrize(
    "value", ["accuracy", "mine.py", "mine.py:", ":cost", ".py:cost", "mine.py:a-b", "mine:cost", 3]
)
def test_other_values_name_none(value: object):
    assert user_code.reference(value) is None


def test_the_resolved_recipe_has_the_text_and_is_the_same_without_the_file(recipe: Write, tmp_path: Path):
    """A run directory's recipe.yaml needs nothing beside it, and its records and plan are those of the first launch."""
    first = loaded(recipe)
    copy = tmp_path / "run" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(files.recipe(first), encoding="utf-8")

    again = load.load(copy, (), {})

    assert {"mine.py": COST} == first.spec.code == again.spec.code
    assert str(tmp_path / "mine.py") == first.origins["code.mine.py"]
    assert "  mine.py: |\n" in copy.read_text(encoding="utf-8")
    assert first.spec == Plan.model_validate_json(planned(first).model_dump_json()).recipe


def test_a_recipe_without_functions_has_no_such_key(recipe: Write):
    """Records of runs are what they were before there were any."""
    spec = load.load(recipe(), (), {}).spec

    assert "code" not in spec.model_dump() and "code" not in yaml.safe_load(spec.model_dump_json())


def test_a_file_that_has_changed_is_said_and_the_copy_is_used(recipe: Write, tmp_path: Path):
    copy = tmp_path / "copy.yaml"
    copy.write_text(files.recipe(loaded(recipe)), encoding="utf-8")
    (tmp_path / "mine.py").write_text(COST + "# later\n", encoding="utf-8")

    again = load.load(copy, (), {})

    assert COST == again.spec.code["mine.py"]
    assert [
        f"{tmp_path}/mine.py is not what it was when this run began, which goes on with the copy in its recipe"
    ] == [str(note) for note in again.notes]
    assert again.notes == planned(again).notes


def test_a_run_does_not_go_on_with_other_code(recipe: Write):
    """Under the recipe's own name it is another recipe, and the file is named."""
    before, after = planned(loaded(recipe)), planned(loaded(recipe, COST + "# later\n"))

    assert [] == claims.changed(before, before)
    assert ["mine.py"] == claims.changed(after, before)


def test_nodes_compare_the_code_and_say_its_digest(recipe: Write):
    one, other = (consistency.introduction(planned(loaded(recipe, text)), {}) for text in (COST, COST + "# later\n"))

    verb, values, _ = consistency.difference(one, other)  # type: ignore[misc]

    assert (consistency.VERBS["code"], True) == (verb, values.startswith("mine.py is "))
    assert "WEIGHTS" not in values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"mine.yaml:\d+: metrics: .*/mine.py: no such file"),
        ("def other(columns, num_labels): pass\n", "mine.py: has no function cost, only other"),
        ("cost = 3\n", "mine.py: has no function$"),
        ("\ndef cost(:\n", "mine.py:2: is not Python: "),
        ("\0", "mine.py:1: is not Python: "),
        ("U = 'https://me:secret@host/x'\ndef cost(c, n): pass\n", "mine.py: holds a user, a password or a token"),
        ("import os\n\ndef cost(c, n): pass\n", "mine.py:3: nothing says whether more of cost is better"),
        ("def cost(c, n): pass\ncost.greater_is_better = 'no'\n", "mine.py:1: nothing says whether"),
        (COST + "cost.columns = 'label'\n", "mine.py:7: cost.columns is not a list of names"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(recipe: Write, text: str | None, message: str):
    """Before anything starts, and without running the file."""
    with pytest.raises(LaunchError, match=f"(?m){message}") as caught:
        loaded(recipe, text and text.replace("import os", "import os; os._exit(9)"))
    assert EXIT_USER == caught.value.exit_code


def test_its_name_is_no_other_figures(recipe: Write):
    text = COST.replace("cost", "f1")
    with pytest.raises(LaunchError, match=r"mine.py:7: f1 is the name of another figure"):
        loaded(recipe, text, "mine.py:f1")


def test_a_file_alone_is_refused_with_the_form(recipe: Write):
    with pytest.raises(LaunchError, match=r"name a function of the file, FILE.py:FUNCTION, got .*mine.py"):
        loaded(recipe, COST, "mine.py")


def test_it_runs_from_the_text_and_leaves_imports_as_they_were(recipe: Write, tmp_path: Path):
    """On a node without the file; dataclasses, which look for their module, work."""
    text = COST.replace(
        "import numpy", "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy"
    )
    made = planned(loaded(recipe, text + "\n\n@dataclass\nclass Row:\n    x: int\n"))
    (tmp_path / "mine.py").unlink()
    before = list(sys.path), set(sys.modules)

    function = in_ranks.load(made, user_code.Reference("mine.py", "cost"))

    rows = {"label": [0, 1, 1, 0], "prediction": [0, 0, 1, 1]}
    rows = {key: np.array(value) for key, value in rows.items()}
    assert (1 + 5) / 4 == function(rows, 2)
    assert before[0] == sys.path and "mine" not in sys.modules
    assert str(tmp_path / "mine.py") == function.function.__globals__["__file__"]


def test_an_error_in_it_is_by_the_users_line(recipe: Write, tmp_path: Path):
    """The innermost line of the user's own, and where below it the error was raised."""
    text = COST.replace("    wrong =", "    import json\n    json.loads('x')\n    wrong =")
    function = in_ranks.load(planned(loaded(recipe, text)), user_code.Reference("mine.py", "cost"))

    with pytest.raises(LaunchError, match=r"JSONDecodeError: Expecting value.*raised in .*decoder.py:\d+\)") as caught:
        function({}, 2)

    assert f"{tmp_path}/mine.py:9: " == str(caught.value)[: len(f"{tmp_path}/mine.py:9: ")]
    assert "\n    json.loads('x')\n" in str(caught.value)
    assert str(tmp_path / "mine.py") == caught.value.__cause__.__traceback__.tb_frame.f_code.co_filename  # type: ignore[union-attr]


def test_an_error_of_the_whole_file_is_by_its_line(recipe: Write):
    made = planned(loaded(recipe, COST + "\nimport no_such_library\n"))
    with pytest.raises(LaunchError, match=r"mine.py:14: ModuleNotFoundError: .*no_such_library"):
        users.check(made)


def test_an_exit_is_an_error_by_its_line(recipe: Write):
    """In the file and in the function: a rank that ends with 0 would look like a job that is done."""
    with pytest.raises(LaunchError, match=r"mine.py:14: SystemExit: 0"):
        users.check(planned(loaded(recipe, COST + "\nraise SystemExit(0)\n")))
    with pytest.raises(LaunchError, match=r"mine.py:8: SystemExit: 0"):
        users.check(planned(loaded(recipe, COST.replace("    wrong =", "    raise SystemExit(0)\n    wrong ="))))


def test_a_metric_is_tried_on_made_up_rows_before_ranks_start(recipe: Write):
    users.check(planned(loaded(recipe)))

    for body, message in {
        "return columns['scroes']": r"mine.py:8: KeyError: 'scroes'",
        "return columns['label']": r"mine.py:cost returned array.* which is not a number",
        "return None": r"mine.py:cost returned None, which is not a number",
    }.items():
        text = COST.replace("    wrong =", f"    {body}\n    wrong =")
        with pytest.raises(LaunchError, match=f"(?s){message}"):
            users.check(planned(loaded(recipe, text)))


ROWS = Predictions(
    {"label": np.array([0, 1, 1, 0]), "prediction": np.array([0, 0, 1, 1])}, np.zeros(4), np.ones(4, np.int64)
)


def test_the_documented_function_is_a_metric(recipe: Write):
    """The code of docs/metrics.md: it passes the try, chooses the best checkpoint by its direction, and has its value."""
    text = DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    best = {"metric_for_best_model": "cost", "load_best_model_at_end": True, "eval_strategy": "epoch"}
    path = recipe(metrics=["perplexity", "mine.py:cost"], model={"num_labels": 2}, training=best)
    (path.parent / "mine.py").write_text(text, encoding="utf-8")
    made = planned(load.load(path, (), {}))
    arguments = made.training_arguments

    users.check(made)
    figures = compute(made.recipe.metrics, ROWS, num_labels=2, functions=users.functions(made))

    assert {"perplexity": 1.0, "cost": (5 + 1) / 4} == figures
    assert ("cost", False) == (arguments["metric_for_best_model"], arguments["greater_is_better"])


def test_every_metric_is_in_the_documentation():
    page = DOCS.read_text(encoding="utf-8")
    assert [] == [name for name in metrics.BUILT_IN if f"`{name}`" not in page]


def test_a_wrong_direction_is_refused_for_it_too(recipe: Write):
    training = {"metric_for_best_model": "cost", "eval_strategy": "epoch", "greater_is_better": True}
    path = recipe(metrics=["mine.py:cost"], training=training)
    (path.parent / "mine.py").write_text(COST, encoding="utf-8")

    with pytest.raises(LaunchError, match="greater_is_better: of cost less is better"):
        load.load(path, (), {})


def test_an_error_in_an_evaluation_is_nan_and_kept_for_the_end(recipe: Write):
    """Other figures have their values; what the function said is noted with its line."""
    made = planned(loaded(recipe, COST.replace("    wrong =", "    assert len(columns['label']) > 4\n    wrong =")))
    remarks = Remarks()

    figures = compute(made.recipe.metrics, ROWS, num_labels=2, functions=users.functions(made), remarks=remarks)

    assert 1.0 == figures["perplexity"] and math.isnan(figures["cost"])
    assert re.search(r"cost is NaN: .*mine.py:8: AssertionError: ", str(remarks.notes[0]))
    assert 1 == len(remarks.failures)


def test_tables_and_reports_know_the_users_metrics_by_the_plan_alone(recipe: Write):
    """Of a run of another machine, too; what cannot be read is left out."""
    record = json.loads(planned(loaded(recipe)).model_dump_json())["recipe"]
    own = metrics.of_the_user(record)

    assert [("cost", False)] == [(metric.name, metric.greater_is_better) for metric in own]
    assert ["perplexity", "cost"] == [metric.name for metric in metrics.figures_among(["perplexity", "cost"], own)]
    assert metrics.greater_is_better("held-out_cost", own) is False
    for code in ({}, {"mine.py": "def cost(:"}, {"mine.py": "\0"}, {"mine.py": 3}, None):
        assert [] == metrics.of_the_user({**record, "code": code})


def test_an_evaluation_says_that_the_code_is_another_than_the_trainings(recipe: Write, tmp_path: Path):
    run = RunDir(tmp_path / "run")
    run.create()
    made = planned(loaded(recipe))
    run.plan_path.write_text(made.model_dump_json(), encoding="utf-8")
    weights = trained.Weights(str(run.path), run)

    assert () == trained.code_notes(weights, made.recipe)
    changed = loaded(recipe, COST + "# later\n").spec
    assert [f"mine.py is not as these weights were trained with it; {run.recipe_path} has it as it was"] == [
        str(note) for note in trained.code_notes(weights, changed)
    ]


def test_its_file_has_to_be_where_the_nodes_see_it(recipe: Write, tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\n", encoding="utf-8")
    spec = loaded(recipe).spec

    sentences = paths.on_own_disk(spec, tmp_path / "mine.yaml", None, mounts)

    assert any(
        str(one).startswith(f"mine.py:cost {tmp_path}/mine.py lies on this machine's own disk") for one in sentences
    )


def test_packages_of_metrics_are_asked_for_before_a_launch(recipe: Write):
    """With the pip line of the extra; not by a prediction, which computes none."""
    spec = load.load(
        recipe(model={"task": "sft", "num_labels": None}, generation={}, metrics=["rougeL", "bleu"]), (), {}
    )
    needs = health.doctor_values(spec.spec, "fp32", "ddp", {})["needs"]
    have = {name: "999" for name in needs if name not in ("rouge-score", "sacrebleu")}
    context = Context({}, "cpu", Found(()), have, needs=("rouge-score", "jieba", "sacrebleu"))

    finding = versions.check_packages(context)

    assert {"rouge-score", "jieba", "sacrebleu"} <= set(needs)
    assert ("fail", "pip install 'ascend-launch[scores]'") == (finding.ok, str(finding.fix).split(" 'jieba")[0])
    assert str(finding.what).startswith("rouge-score, sacrebleu not installed")
