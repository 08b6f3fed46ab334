"""What a recipe may say of the texts that a model writes: each mistake by file and line, before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.generation_options import writing_of
from launcher.errors import LaunchError
from launcher.recipe import load
from launcher.recipe.load import Loaded
from launcher.recipe.schema import Generation

SFT = "model: {name: m, task: sft}\ndata: {path: a.jsonl, eval: 0.1}\n"
Written = Callable[..., Loaded]


@pytest.fixture
def loaded(tmp_path: Path) -> Written:
    def run(generation: str, *, before: str = SFT) -> Loaded:
        path = tmp_path / "r.yaml"
        path.write_text(f"{before}generation:\n  {generation}\n")
        return load.load(path, [], {})

    return run


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ("max_new_token: 5", "max_new_token: unknown key; did you mean `max_new_tokens`?"),
        ("max_new_tokens: many", "max_new_tokens: expected a whole number, got 'many'"),
        ("max_new_tokens: 0", "max_new_tokens: 0: must be greater than 0"),
        ("top_p: 1.5", "top_p: 1.5: must be less than or equal to 1"),
        ("do_sample: 3", "do_sample: expected true or false, got 3"),
        ("temperature: 0.5", "temperature: has no effect without do_sample: true"),
        ("length_penalty: .5", "length_penalty: has no effect without num_beams: 2 or more"),
        ("num_return_sequences: 2", "num_return_sequences: unknown key"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_where_it_stands(loaded: Written, generation: str, said: str):
    with pytest.raises(LaunchError, match=re.escape(f"r.yaml:4: generation.{said}")):
        loaded(generation)


def test_a_mistake_in_a_setting_is_all_that_is_said_beside_metrics_of_texts(loaded: Written):
    with pytest.raises(LaunchError) as caught:
        loaded("max_new_tokens: 0", before=SFT + "metrics: [chrf, rougeL]\n")
    assert "must be greater than 0" in str(caught.value)
    assert "add `generation:`" not in str(caught.value)


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ("num_beams: 2\n  do_sample: true", "do_sample: draws nothing with num_beams: leave one of them out"),
        ("max_new_tokens: 5\n  min_new_tokens: 6", "min_new_tokens: is above max_new_tokens, 5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(loaded: Written, generation: str, said: str):
    with pytest.raises(LaunchError, match=re.escape(f"r.yaml:5: generation.{said}")):
        loaded(generation)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (
            "model: {name: m, task: causal-lm, num_labels: 2}\ndata: {path: a}\n",
            "causal-lm writes no texts; leave it out",
        ),
        ("script: x.py\n", "a script decides itself what it evaluates"),
        (SFT.replace("0.1", "null"), "nothing is evaluated; set data.eval, or leave it out"),
    ],
)
def test_a_recipe_that_has_nothing_to_write_is_refused(loaded: Written, before: str, said: str):
    with pytest.raises(LaunchError, match=re.escape(f"generation: {said}")):
        loaded("rows: 5", before=before)


@pytest.mark.parametrize(
    ("training", "more", "who"),
    [
        ("lr_scheduler_type: reduce_lr_on_plateau, ", "", "reduce_lr_on_plateau"),
        ("", "early_stopping: {}\n", "early_stopping"),
    ],
)
def test_what_goes_by_a_text_needs_one_at_each_evaluation(loaded: Written, training: str, more: str, who: str):
    by_text = f"training: {{{training}eval_strategy: epoch, metric_for_best_model: exact_match}}\n"

    with pytest.raises(LaunchError, match=re.escape(f"generation.every: {who} goes by exact_match")):
        loaded("every: 2", before=f"{SFT}metrics: [exact_match]\n{by_text}{more}")


def test_records_of_recipes_without_it_are_as_they_were(loaded: Written):
    spec = loaded("rows: 5").spec

    assert "generation" in spec.model_dump()
    assert "generation" not in spec.model_copy(update={"generation": None}).model_dump()


# -- the same settings as options -----------------------------------------------------------------------------------

OPTIONS = (
    *("max_new_tokens", "do_sample", "temperature", "top_p", "top_k"),
    *("num_beams", "repetition_penalty", "seed", "system", "chat_template"),
)


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ({}, {"do_sample": False, "temperature": 0.5}, "--temperature: has no effect without --do-sample"),
        ({}, {"do_sample": True, "num_beams": 2}, "--do-sample: draws nothing with --num-beams: leave one of them out"),
        ({}, {"top_k": 3, "num_beams": 2}, "--top-k: draws nothing with --num-beams: leave one of them out"),
        (
            {"num_beams": 4},
            {"top_p": 0.5},
            "--top-p: draws nothing with the recipe's num_beams: 4: leave one of them out",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(recipe: dict[str, Any], given: dict[str, Any], said: str):
    with pytest.raises(LaunchError) as caught:
        writing_of({**dict.fromkeys(OPTIONS), **given}, Generation(**recipe))
    assert said == str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        (Generation(do_sample=True, temperature=0.5), {"do_sample": False}),
        (Generation(do_sample=True), {"num_beams": 2}),
        (Generation(num_beams=4), {"do_sample": True, "num_beams": 1}),
        (None, {"max_new_tokens": 5}),
    ],
)
def test_options_come_before_the_recipes_settings(recipe: Generation | None, given: dict[str, Any]):
    assert given == writing_of({**dict.fromkeys(OPTIONS), **given}, recipe).settings
