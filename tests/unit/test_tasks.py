"""The table of tasks: a package's is one like any other, and nobody else goes by a task's name."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig

import launcher
from launcher import plugins
from launcher.errors import LaunchError
from launcher.jobs import trained
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.tasks import table
from launcher.worker.tasks import table as workers
from launcher.worker.tasks.base import Task
from tests.support.decisions import decisions, names_in

LAUNCHER = Path(launcher.__file__).resolve().parent
PACKAGE = LAUNCHER.parent / "tests" / "packages" / "writing"
CPU = Cluster("cpu", source="a test")
Write = Callable[..., Path]
NO_LABELS = {"num_labels": None, "label_names": None}


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that has the task `writing` is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    plugins._load.cache_clear()


def loaded(path: Path) -> RecipeSpec:
    return load.load(path, (), {}).spec


def public(protocol: Any) -> set[str]:
    return {n for n in (*protocol.__annotations__, *vars(protocol)) if not n.startswith("_")}


@pytest.mark.parametrize("name", [*table.BUILT_IN, "writing"])
def test_both_halves_have_all_that_the_interfaces_name(writing: None, name: str):
    task = table.load(name)
    worker = plugins.load_object(task.worker)

    assert set() == {n for n in public(table.Task) if not hasattr(task, n)}
    assert set() == {n for n in public(Task) if not hasattr(worker, n)}
    assert (name, table.INTERFACE) == (task.name, task.interface)


def test_a_recipe_may_name_a_task_of_another_package(writing: None, recipe: Write):
    """It needs no labels, has a key of its own, and metrics of its own where the recipe names none. A plan keeps the key."""
    path = recipe(model={"task": "writing", **NO_LABELS}, data={"skip": 2})
    made = decide.make(load.load(path, (), {}), CPU, plan.Options(nproc=2))

    assert ("writing", ("right_tokens",), 2) == (made.recipe.model.task, made.recipe.metrics, made.recipe.data.skip)  # type: ignore[attr-defined]
    assert made == plan.Plan.model_validate_json(made.model_dump_json())
    assert "Writing" == workers.of(made.recipe).__name__


def test_a_value_of_its_own_key_is_checked_by_the_task(writing: None, recipe: Write):
    with pytest.raises(LaunchError, match=r"mine.yaml:\d+: data.skip: expected a whole number, at least 0, got -1"):
        loaded(recipe(model={"task": "writing", **NO_LABELS}, data={"skip": -1}))


def test_its_own_key_is_unknown_to_other_tasks(writing: None, recipe: Write):
    with pytest.raises(LaunchError, match=r"data\.skip: unknown key; keys here are path, "):
        loaded(recipe(data={"skip": 1}))


def test_a_mistyped_key_may_be_the_tasks(writing: None, recipe: Write):
    with pytest.raises(LaunchError, match=r"data\.skipp: unknown key; did you mean `skip`"):
        loaded(recipe(model={"task": "writing", **NO_LABELS}, data={"skipp": 1}))


def test_a_key_that_no_task_has_is_refused_of_a_note_too():
    """A model's note comes from anywhere."""
    with pytest.raises(ValidationError, match=r"unknown key data\.skip"):
        RecipeSpec.model_validate_json(
            json.dumps({"model": {"name": "m", "num_labels": 2}, "data": {"path": "d", "skip": 1}})
        )


def test_a_metric_needs_what_the_task_leaves_of_a_row(writing: None, recipe: Write):
    """Accuracy compares labels, and here are none; right tokens counts tokens, which a label is not."""
    with pytest.raises(
        LaunchError,
        match="accuracy is not for rows whose tokens are learnt; perplexity, token_accuracy and right_tokens are",
    ):
        loaded(recipe(model={"task": "writing", **NO_LABELS}, metrics=["accuracy"]))
    with pytest.raises(LaunchError, match="right_tokens is computed from the correct of each row"):
        loaded(recipe(metrics=["right_tokens"]))


def test_without_the_package_its_name_is_unknown(recipe: Write):
    with pytest.raises(
        LaunchError, match="'writing' is not one of sequence-classification, causal-lm, sft or token-classification"
    ):
        loaded(recipe(model={"task": "writing"}))


def test_a_model_folder_without_a_recipe_is_of_the_task_whose_head_it_has(writing: None, tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    assert table.THAT_WRITES == trained.recipe_of(trained.Weights(str(tmp_path), None)).model.task


def test_a_loss_over_tokens_counts_them(writing: None):
    """What the other half of the test package does, and a trainer relies on: the sum of the losses is that of the rows, and
    so is the count, however rows are put together."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    task = plugins.load_object(table.load("writing").worker)(0, 1)
    rows = [{"input_ids": [5, 6, 7, 8], "targets": [-100, -100, 7, 8]}, {"input_ids": [9, 4], "targets": [-100, 4]}]

    whole, alone = task.collate(rows), [task.collate([row]) for row in rows]
    left = task.evaluate(model, whole)

    assert (3, [2, 1]) == (task.count(whole), [task.count(batch) for batch in alone])
    assert [2, 1] == left.counts.tolist()
    torch.testing.assert_close(left.losses, torch.stack([task.losses(model, batch).sum() for batch in alone]))


def files() -> list[Path]:
    own = (LAUNCHER / "recipe" / "tasks", LAUNCHER / "worker" / "tasks")
    return [path for path in sorted(LAUNCHER.rglob("*.py")) if not any(folder in path.parents for folder in own)]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(LAUNCHER)))
def test_nothing_is_decided_by_a_tasks_name(path: Path):
    """Whoever wants to know something asks the task. There is no exception."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert [] == [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for node in decisions(tree)
        if set(table.BUILT_IN) & set(names_in(node))
    ]
