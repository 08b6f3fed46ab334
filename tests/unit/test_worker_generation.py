"""Texts of a model: its settings, its prompts, and what comes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from launcher.recipe.schema import NEW_TOKENS, RecipeSpec
from launcher.worker.chat import encode
from launcher.worker.chat.prompts import Prompts
from launcher.worker.generation import settings
from launcher.worker.generation.generate import Generator, evaluating

TINY = Path(__file__).resolve().parents[2] / "recipes" / "tiny"
END = 1
"""<|end|>, which ends a turn in the template of the tiny tokenizer."""


def recipe(**generation: Any) -> RecipeSpec:
    values = {"model": {"name": str(TINY), "task": "sft"}, "data": {"path": "x.jsonl"}, "generation": generation}
    return RecipeSpec.model_validate_json(json.dumps(values))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = AutoTokenizer.from_pretrained(TINY)
    made.pad_token = made.eos_token
    return made


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of a model this small, others only wait for each other
    torch.manual_seed(0)
    yield AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TINY))
    torch.set_num_threads(threads)


@pytest.fixture
def own(model: Any) -> Iterator[GenerationConfig]:
    """The model's generation_config, as the test makes it."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    yield model.generation_config
    model.generation_config = before


def chat(*said: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(said)
    return {"messages": [{"role": role, "content": words} for role, words in zip(roles, said, strict=False)]}


CHATS = [
    chat("Was the tea good?", "Yes."),
    chat("And the room?", "It was small."),
    chat("Hi", "Hello.", "And?", "Bye."),
]


# -- settings ------------------------------------------------------------------------------------------------------------


def test_the_recipe_goes_over_the_model_and_the_model_over_the_defaults(model: Any, tokenizer: Any, own: Any):
    own.update(max_new_tokens=7, repetition_penalty=1.5)

    made = settings.settings(recipe(repetition_penalty=1.2), model, tokenizer)

    assert (7, 1.2) == (made.new_tokens, made.config.repetition_penalty)


def test_texts_end_at_the_models_tokens_and_at_the_one_that_ends_a_turn(model: Any, tokenizer: Any, own: Any):
    own.eos_token_id = [5, 6]

    assert {5, 6, END} == settings.settings(recipe(), model, tokenizer).stops


def test_a_length_that_nobody_gives_is_ours(model: Any, tokenizer: Any, own: Any):
    assert NEW_TOKENS == settings.settings(recipe(), model, tokenizer).new_tokens


def test_a_model_that_draws_is_followed_and_beams_draw_nothing(model: Any, tokenizer: Any, own: Any):
    own.update(do_sample=True, temperature=0.6, top_k=20, top_p=0.9)
    draws, beams, greedy = (
        settings.settings(recipe(**given), model, tokenizer) for given in ({}, {"num_beams": 3}, {"do_sample": False})
    )

    assert ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"] == [
        type(w).__name__ for w in draws.warpers
    ]
    assert [True, False, False] == [draws.draws, beams.draws, greedy.draws]
    assert ((), ()) == (beams.warpers, greedy.warpers)


# -- prompts -------------------------------------------------------------------------------------------------------------


def test_a_prompt_ends_where_the_last_answer_begins(tokenizer: Any):
    asked = Prompts(recipe(), tokenizer).asked([CHATS[2], chat("Hi", "Hello.", "Are you there?")])

    assert tokenizer.decode(asked[0].ids).endswith("And?<|end|>\n<|assistant|>\n")
    assert ["Bye.", "Hello."] == [one.reference for one in asked]


def test_rows_without_an_answer_are_asked_nothing(tokenizer: Any):
    assert [None, None] == Prompts(recipe(), tokenizer).asked([chat("Hi"), {"text": "Once upon a time"}])


def test_a_conversation_without_an_answer_is_a_prompt_and_so_is_a_text(tokenizer: Any):
    made = Prompts(recipe(), tokenizer).ids([chat("Hi"), {"text": "Once"}, {"text": ""}])

    assert "<|user|>\nHi<|end|>\n<|assistant|>\n" == tokenizer.decode(made[0]).removeprefix("<|begin|>")
    assert "Once" == tokenizer.decode(made[1], skip_special_tokens=True)
    assert 1 == len(made[2])


def test_a_reference_is_what_is_said_after_the_thoughts(tokenizer: Any):
    asked = Prompts(recipe(), tokenizer).asked([chat("2+2?", "<think>\nEasy.\n</think>\n\n4")])

    assert "4" == asked[0].reference


# -- rows that are evaluated ---------------------------------------------------------------------------------------------


def of_evaluated(tokenizer: Any, rows: Sequence[Any], **data: Any) -> Any:
    values = recipe(rows=5).model_dump(mode="json")
    made = encode.encoder(
        RecipeSpec.model_validate_json(json.dumps({**values, "data": {"path": "x", **data}})), tokenizer
    )
    assert made.rows is not None and made.of_evaluated is not None and made.of_evaluated.rows is not None
    given = {"conversation": [json.dumps(row) for row in rows]}
    plain, more = made.rows(given), made.of_evaluated.rows(given)
    assert [list(row) for row in plain["input_ids"]] == [list(row) for row in more["input_ids"]]
    assert made.settings != made.of_evaluated.settings
    return more


def test_rows_that_are_evaluated_have_their_prompt_and_what_it_is_measured_by(tokenizer: Any):
    made = of_evaluated(tokenizer, [CHATS[1], {"text": "Once upon a time"}])

    assert tokenizer.decode(made["prompt"][0]).endswith("And the room?<|end|>\n<|assistant|>\n")
    assert ["It was small.", None] == made["reference"]
    assert 0 == len(made["prompt"][1])


def test_of_a_row_that_becomes_several_the_last_is_written(tokenizer: Any):
    """And none where the prompt is longer than a row may be."""
    long = chat("Hi", "One two three four.", "And?", "Five six seven.")
    length = len(Prompts(recipe(), tokenizer).asked([long])[0].ids)

    made = of_evaluated(tokenizer, [long], max_length=length + 1, too_long="split")
    assert [None, "Five six seven."] == made["reference"]
    made = of_evaluated(tokenizer, [long], max_length=length - 1, too_long="split")
    assert {None} == set(made["reference"])


# -- texts ---------------------------------------------------------------------------------------------------------------


def written(model: Any, tokenizer: Any, chats: Sequence[Any], rows: Sequence[int], **given: Any) -> list[str]:
    made = Generator(model, tokenizer, settings.settings(recipe(**given), model, tokenizer))
    prompts = [one.ids for one in Prompts(recipe(), tokenizer).asked(chats)]
    with evaluating(model, torch.device("cpu")):
        return [made.text(ids) for ids in made.generate(prompts, rows)]


@pytest.mark.parametrize("given", [{}, {"do_sample": True, "temperature": 1.5}, {"num_beams": 2}])
def test_a_row_is_written_in_a_batch_as_it_is_alone(model: Any, tokenizer: Any, given: dict[str, Any]):
    together = written(model, tokenizer, CHATS, range(3), max_new_tokens=6, **given)
    alone = [written(model, tokenizer, [one], [row], max_new_tokens=6, **given)[0] for row, one in enumerate(CHATS)]

    assert alone == together


def test_greedy_texts_are_what_generate_writes(model: Any, tokenizer: Any):
    (ids,) = Prompts(recipe(), tokenizer).ids([chat("Hi")])
    expected = model.generate(torch.tensor(ids.tolist())[None], max_new_tokens=8, eos_token_id=END, do_sample=False)
    made = Generator(model, tokenizer, settings.settings(recipe(max_new_tokens=8), model, tokenizer))

    assert expected[0, len(ids) :].tolist() == made.generate([ids], [0])[0]


def test_draws_depend_on_the_seed(model: Any, tokenizer: Any):
    one, other = (
        written(model, tokenizer, CHATS, range(3), max_new_tokens=6, do_sample=True, seed=seed) for seed in (1, 2)
    )

    assert one != other


def test_a_text_ends_before_its_stop_string(model: Any, tokenizer: Any):
    made = Generator(model, tokenizer, settings.settings(recipe(stop_strings=["end"]), model, tokenizer))

    assert "The" == made.text(tokenizer("The end of it")["input_ids"])


def test_writing_leaves_the_mode_and_the_random_numbers_alone(model: Any, tokenizer: Any):
    model.train()
    before = torch.get_rng_state()

    written(model, tokenizer, CHATS, range(3), max_new_tokens=3, do_sample=True)
    with evaluating(model, torch.device("cpu")):
        assert not model.training
        torch.rand(1)  # as a part of a model may, though our draws do not

    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_each_token_beats_and_may_be_the_last(model: Any, tokenizer: Any):
    beats: list[int] = []
    made = Generator(
        model, tokenizer, settings.settings(recipe(max_new_tokens=9), model, tokenizer), beat=lambda: beats.append(1)
    )
    (ids,) = Prompts(recipe(), tokenizer).ids([chat("Hi")])

    texts = made.generate([ids], [0], is_over=lambda: len(beats) == 4)

    assert (4, 4) == (len(texts[0]), len(beats))
