"""A recipe is checked whole, before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.errors import EXIT_USER, LaunchError
from launcher.recipe import load as loading
from launcher.recipe import messages, schema
from launcher.recipe.schema import RecipeSpec

Write = Callable[..., Path]


def mistakes(path: Path, *overrides: str, **env: str) -> list[str]:
    with pytest.raises(LaunchError) as caught:
        loading.load(path, overrides, env)
    assert caught.value.exit_code == EXIT_USER
    return caught.value.what.splitlines()


def load(path: Path, *overrides: str, **env: str) -> RecipeSpec:
    return loading.load(path, overrides, env).spec


def test_the_minimal_recipe_has_every_default(recipe: Write):
    """Model and data are enough."""
    loaded = load(recipe())

    assert ("train", "test", 512, 8) == (
        loaded.data.train.split,
        loaded.data.eval and loaded.data.eval.split,
        loaded.data.max_length,
        loaded.parallel.global_batch_size,
    )


def test_all_mistakes_are_reported_at_once(tmp_path: Path):
    """Six mistakes in five sections are six lines, each with file and line."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "model:\n  name: m\n  num_labels: five\n"
        "data:\n  path: json\n  txt: t\n"
        "training:\n  lerning_rate: 1\n  eval_strategy: epochs\n"
        "paralel: {}\n"
        "metrics: [acuracy]\n"
    )

    found = mistakes(path)

    assert {3, 6, 8, 9, 10, 11} == {int(line.split(":")[1]) for line in found}
    assert 6 == len(found)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("parallel", "global_batch_sise", 8, "did you mean `global_batch_size`?"),
        ("parallel", "strategy", "zero4", "did you mean `zero3`?"),
        ("parallel", "strategy", "deepspeed", "is not one of auto, ddp, zero1"),
        ("parallel", "global_batch_size", "8", "expected a whole number, got '8'"),
        ("parallel", "global_batch_size", 0, "must be greater than 0"),
        ("parallel", "global_batch_size", True, "expected a whole number, got true"),
        ("parallel", "micro_batch_size", "big", "(or `auto`)"),
        ("parallel", "micro_batch_size", 3, "not a multiple of micro_batch_size 3; 1, 2, 4, 8 are possible"),
        ("model", "num_labels", 1, "must be greater than or equal to 2"),
        ("model", "name", "", "must not be empty"),
        ("model", "trust_remote_code", True, "unknown key"),
        ("model", "device_map", "auto", "unknown key"),
        ("model", "label_names", ["a", "b"], "2 names for num_labels 5"),
        ("adapter", "target_modules", [], "names no layer to adapt"),
        ("model", "label_names", [], "has 0 of the at least 2 labels"),
        ("data", "max_length", 1, "must be greater than or equal to 8"),
        ("data", "prompt", "{text}?", "use model.task: causal-lm for prompts"),
        ("training", "lerning_rate", 1, "did you mean `learning_rate`?"),
        ("training", "learning_rate", -1, "-1 must be above 0"),
        ("training", "lr", 1e-5, "did you mean `learning_rate`?"),
        ("training", "learning_rate", "fast", "expected a number, got 'fast'"),
        ("training", "evaluation_strategy", "epoch", "use eval_strategy"),
        ("training", "group_by_length", True, "train_sampling_strategy: group_by_length"),
        ("training", "bf16", True, "set parallel.precision"),
        ("training", "deepspeed", "ds.json", "set parallel.strategy"),
        ("training", "per_device_train_batch_size", 8, "set parallel.global_batch_size"),
        ("training", "hub_token", "x", "export HF_TOKEN"),
        ("training", "output_dir", "x", "set output_dir at the top level"),
        ("training", "max_steps", 0, "0 steps train nothing"),
    ],
)
def test_each_mistake_says_what_to_do(recipe: Write, section: str, key: str, value: Any, said: str):
    """One wrong key or value, one line that names the way out."""
    found = mistakes(recipe(**{section: {key: value}}))

    assert 1 == len(found)
    assert f"{section}.{key}" in found[0]
    assert said in found[0]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model_name_or_path", "here it is written model.name"),
        ("cutoff_len", "here it is written data.max_length"),
        ("learning_rate", "here it is written training.learning_rate"),
        ("warmup_steps", "it belongs under training: training.warmup_steps"),
        ("modle", "did you mean `model`?"),
    ],
)
def test_keys_of_other_tools_are_translated(recipe: Write, key: str, said: str):
    """A user who comes from LLaMA-Factory or from TrainingArguments is told the name here."""
    assert said in mistakes(recipe(**{key: "x"}))[0]


def test_missing_sections_are_named(tmp_path: Path):
    """An empty mapping lacks exactly model and data."""
    path = tmp_path / "r.yaml"
    path.write_text("output_dir: x\n")

    assert ["`model:` is missing", "`data:` is missing"] == [m.split(": ", 1)[1] for m in mistakes(path)]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "42\n"])
def test_a_recipe_is_a_mapping(tmp_path: Path, text: str):
    """Anything else is refused in one line that lists the keys."""
    path = tmp_path / "r.yaml"
    path.write_text(text)

    assert "a recipe is a mapping of keys" in mistakes(path)[0]


def test_overrides_win_over_environment_over_file(recipe: Write):
    """The order is: command line, ASCEND_LAUNCH_*, file, default; each value knows which."""
    path = recipe(training={"learning_rate": 1e-3, "seed": 1, "weight_decay": 0.1})
    env = {"ASCEND_LAUNCH_TRAINING__LEARNING_RATE": "2e-3", "ASCEND_LAUNCH_TRAINING__SEED": "2"}

    loaded = loading.load(path, ["training.learning_rate=3e-3"], env)

    assert {"learning_rate": 3e-3, "seed": 2, "weight_decay": 0.1} == loaded.spec.training
    assert "command line training.learning_rate" == loaded.origins["training.learning_rate"]
    assert "environment ASCEND_LAUNCH_TRAINING__SEED" == loaded.origins["training.seed"]
    assert loaded.origins["training.weight_decay"].startswith(f"{path}:")
    assert "default" == loaded.origins["data.max_length"]


def test_an_override_replaces_one_file_by_one_a_split(recipe: Write):
    """`data.data_files.train=F` works whatever the recipe had there; text with a comma or dots is kept."""
    path = recipe(data={"data_files": "all.json"})

    assert {"train": "a,b.json", "test": "../c d.json"} == load(
        path, "data.data_files.train='a,b.json'", "data.data_files.test=../c d.json"
    ).data.data_files


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nonsense", "is not KEY=VALUE"),
        ("training.lr=1", "no such TrainingArguments field"),
        ("parallel.global_batch_size=[", "is not a YAML value"),
        ("data.train.limt=3", "did you mean `limit`?"),
        ("=3", "is not KEY=VALUE"),
        ("model.name.deep=3", "expected text"),
    ],
)
def test_bad_overrides_are_named(recipe: Write, override: str, said: str):
    """The command line is the file that the message points to."""
    found = mistakes(recipe(), override)

    assert said in found[0]
    assert found[0].startswith("command line")


def test_unknown_environment_keys_are_refused(recipe: Write):
    """A misspelt ASCEND_LAUNCH_* variable is not passed over; the cache folder's is none."""
    assert "ASCEND_LAUNCH_TRAINNG__SEED" in mistakes(recipe(), ASCEND_LAUNCH_TRAINNG__SEED="1")[0]
    assert load(recipe(), ASCEND_LAUNCH_CACHE="/tmp/x")


def test_null_takes_a_section_away(recipe: Write):
    """`adapter=null` on the command line turns a LoRA recipe into full fine-tuning."""
    path = recipe(adapter={"r": 16})

    assert load(path).adapter is not None
    assert load(path, "adapter=null").adapter is None


def test_extends_builds_on_a_base(recipe: Write, tmp_path: Path):
    """Values of the base stay, mappings merge, lists are replaced, and origins name the right file."""
    recipe("base.yaml", training={"seed": 1, "learning_rate": 1e-3}, metrics=["accuracy", "f1"])
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\ntraining:\n  seed: 2\nmetrics: [mae]\n")

    loaded = loading.load(child, (), {})

    assert {"seed": 2, "learning_rate": 1e-3} == loaded.spec.training
    assert ("mae",) == loaded.spec.metrics
    assert f"{child}:3" == loaded.origins["training.seed"]
    assert loaded.origins["training.learning_rate"].startswith(str(tmp_path / "base.yaml"))


@pytest.mark.parametrize(
    ("base", "said"),
    [("self.yaml", "leads back to itself"), ("no.yaml", "no such file"), ("[1]", "expected a file name")],
)
def test_extends_that_leads_nowhere(tmp_path: Path, base: str, said: str):
    """Circles and missing files are named with the line of `extends`."""
    path = tmp_path / "self.yaml"
    path.write_text(f"extends: {base}\n")

    assert said in mistakes(path)[0]


def test_the_resolved_recipe_is_a_recipe_again(recipe: Write, tmp_path: Path):
    """What a run directory keeps can be launched."""
    first = load(recipe(adapter={"r": 4}, model={"label_names": list("abcde")}))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(first.model_dump(mode="json")))

    assert first == load(again)


def test_a_script_lies_beside_the_recipe_and_hides_no_library(recipe: Write, tmp_path: Path):
    """`script: datasets.py` would replace the library on every rank."""
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "datasets.py").write_text("")

    assert "mine.py" == load(recipe(script="mine.py")).script
    assert "no such file" in mistakes(recipe(script="other.py"))[0]
    assert "hides the library" in mistakes(recipe(script="datasets.py"))[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train": {"x": None}}, ["data.data_files.train: expected text, got {'x': None}"]),
        ({"train": ["a", 3]}, ["data.data_files.train.1: expected text, got 3"]),
        (["a", 3], ["data.data_files.1: expected text, got 3"]),
        (3, ["data.data_files: expected text, got 3"]),
    ],
)
def test_a_mistake_within_files_is_one(recipe: Write, files: object, said: list[str]):
    """Text, a list and a mapping are taken there; the mistake is not that it is none of the others."""
    assert said == [line.partition(": ")[2] for line in mistakes(recipe(data={"data_files": files}))]


def test_causal_lm_needs_a_place_for_the_text(recipe: Write):
    """A prompt without {text} would make all rows equal; answers must be one a label and distinct."""
    path = recipe(model={"task": "causal-lm"}, data={"prompt": "Rate this.", "answers": ["a", "a"]})
    said = "\n".join(mistakes(path))

    assert "has no {text}" in said
    assert "2 answers for num_labels 5" in said
    assert "two labels have the same answer" in said


def test_gguf_goes_with_any_strategy(recipe: Write):
    """It is dequantised once a node, before the ranks, which then load their shards of the safetensors."""
    assert "zero3" == load(recipe(model={"gguf_file": "m.gguf"}, parallel={"strategy": "zero3"})).parallel.strategy


def test_no_is_the_word_no_where_that_is_a_choice(recipe: Write):
    """YAML reads `no` as false, in files and on the command line; a strategy of `no` needs no quotes."""
    loaded = load(recipe(training={"eval_strategy": False}), "training.save_strategy=no")

    assert {"eval_strategy": "no", "save_strategy": "no"} == loaded.training
    assert "expected text" in mistakes(recipe(training={"optim": False}))[0]


@pytest.mark.parametrize(
    ("sections", "override", "env", "hint"),
    [
        ({}, "nonsense", {}, "correct that argument of the command line"),
        ({}, "training.learning_rate=abc", {}, "correct that argument of the command line"),
        ({}, "training.seed=1", {"ASCEND_LAUNCH_TRAINNG__SEED": "1"}, "change or unset that variable"),
        ({"metrics": ["what"]}, "training.seed=1", {}, "correct line "),
    ],
)
def test_a_single_mistake_says_where_to_mend_it(recipe, sections, override: str, env: dict[str, str], hint: str):
    with pytest.raises(LaunchError) as caught:
        loading.load(recipe(**sections), (override,), env)

    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stage", 2, "not set here: set parallel.strategy"),
        ("offload_optimizer", {"device": "cpu"}, "parallel.strategy: zero3-offload"),
        ("train_batch_size", 8, "parallel.global_batch_size"),
        ("zero_optimization", {"overlap_comm": False}, "write its keys directly below parallel.deepspeed"),
        ("overlap_com", False, "did you mean `overlap_comm`?"),
        ("overlap_comm", "yes", "expected true or false"),
        ("reduce_bucket_size", 0.5, "expected a whole number"),
        ("stage3_max_live_parameters", 1, "is for zero3, and the strategy is zero2"),
    ],
)
def test_keys_of_deepspeed_that_are_not_safe_are_refused(recipe: Write, key: str, value: object, words: str):
    """Each at its line, with what to write instead."""
    (mistake,) = mistakes(recipe(parallel={"strategy": "zero2", "deepspeed": {key: value}}))

    assert re.match(rf".*mine\.yaml:\d+: parallel\.deepspeed\.{key}: ", mistake)
    assert words in mistake


def test_deepspeeds_keys_need_deepspeed(recipe: Write):
    """Under ddp they would have no effect, and nobody would know."""
    path = recipe(parallel={"strategy": "ddp", "deepspeed": {"overlap_comm": False}})

    assert "strategy ddp does not use DeepSpeed" in mistakes(path)[0]
    assert load(path, "parallel.strategy=auto").parallel.deepspeed is not None


def test_the_sections_in_an_annotation():
    """On Python 3.10 list[str] counts as a class, and no recipe could be read there."""
    assert [schema.Adapter] == messages.sections_in(schema.Adapter | None)
    assert [] == messages.sections_in(list[str] | dict[str, int])
