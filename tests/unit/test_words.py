"""Words with tags: how they are read, where their tokens are, what entities they make, and that each counts once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from seqeval.metrics.sequence_labeling import get_entities
from torch.nn import functional
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig

from launcher.data import columns
from launcher.data import labels as label_names
from launcher.data.encodings import text_of
from launcher.data.formats.base import RowError
from launcher.data.readers.conll import CONLL
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.jobs import predict
from launcher.recipe.load import load
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.tasks.token_classification import TOKEN_CLASSIFICATION, entities, spans
from launcher.worker.data import rows
from launcher.worker.losses.base import Settings
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.losses.weights import LabelWeights
from launcher.worker.tasks.token_classification import TokenClassification
from launcher.worker.tasks.words import word_encoder
from launcher.worker.training.predict import by_column
from tests.support.launch import REPO

Write = Callable[..., Path]
CONLL_TEXT = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O
# O

# sent_id = 2
海 B-LOC
南\tI-LOC

"""


def read(path: Path, text: str) -> list[Any]:
    path.write_text(text, encoding="utf-8")
    return list(CONLL.rows(text_of(path)))


def test_conll_has_a_word_and_its_tag_a_line(tmp_path: Path):
    """Other columns, document marks and comments are passed over; a sentence is where its first word is."""
    first, second = read(tmp_path / "a.conll", CONLL_TEXT)

    assert (3, {"tokens": ["EU", "rejects", "#"], "tags": ["B-ORG", "O", "O"]}) == first
    assert (8, {"tokens": ["海", "南"], "tags": ["B-LOC", "I-LOC"]}) == second


def test_a_word_without_a_tag_is_said_with_its_line(tmp_path: Path):
    items = read(tmp_path / "a.conll", "EU B-ORG\nrejects\n")

    assert [2] == [number for number, value in items if isinstance(value, RowError)]


def test_entities_are_seqevals():
    """Its default mode, over 2,000 random lines of tags of every place."""
    draw = random.Random(4)
    kinds = ["O", *(f"{place}-{kind}" for place in "BIES" for kind in ("PER", "LOC"))]
    for _ in range(2000):
        tags = draw.choices(kinds, k=draw.randint(1, 8))
        assert get_entities(tags) == list(entities(tags)), tags


def test_words_that_have_no_tag_end_an_entity():
    assert [("A", 0, 0), ("A", 2, 2)] == list(entities(["B-A", None, "I-A"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mr. O'Neil left Rome.", ["Mr", ".", "O", "'", "Neil", "left", "Rome", "."]),
        ("他在海南用iPhone15", ["他", "在", "海", "南", "用", "iPhone15"]),
        ("  \n", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]):
    assert words == [text[start:end] for start, end in spans(text)]


def spec(**data: Any) -> RecipeSpec:
    given = {"path": "conll", "data_files": "a.conll", "max_length": 64, **data}
    return RecipeSpec.model_validate({"model": {"name": "m", "task": "token-classification"}, "data": given})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(REPO / "recipes" / "tiny")


def test_a_words_place_is_its_first_token(tokenizer: Any):
    """Of words of several tokens, and of one that the tokenizer knows nothing of."""
    words = ["Huawei", "left", "Shenzhen", "."]
    made = word_encoder(spec(), tokenizer, ()).rows({"tokens": [words, "Huawei left Shenzhen."]})
    (ids, other), (starts, of_text) = made["input_ids"], made["starts"]

    assert [True] * 4 == [
        words[i].startswith(tokenizer.decode(ids[start]).strip() or "-") for i, start in enumerate(starts)
    ]
    assert len(ids) > len(words) + 1
    assert starts == sorted(set(starts))
    assert [tokenizer.decode(other[start]).strip()[:1] for start in of_text] == ["H", "l", "S", "."]


def test_words_behind_the_maximal_length_have_no_place(tokenizer: Any):
    """The first ones do; the last token that is there may be the first of its word."""
    words = ["Shenzhen"] * 20
    whole = word_encoder(spec(max_length=512), tokenizer, ()).rows({"tokens": [words]})["starts"][0]
    cut = word_encoder(spec(max_length=16), tokenizer, ()).rows({"tokens": [words]})["starts"][0]

    assert 0 < len(cut) < len(whole) == 20
    assert whole[: len(cut)] == cut


def test_a_tokenizer_that_knows_no_places_is_refused():
    with pytest.raises(LaunchError, match=r"use a model with a tokenizer\.json"):
        word_encoder(spec(), SimpleNamespace(is_fast=False), ())


PAD = 0
ROWS: list[dict[str, Any]] = [
    {"input_ids": [1, 5, 6, 7, 2], "starts": [1, 3], "labels": [2, 0]},
    {"input_ids": [1, 8, 2], "starts": [1], "labels": [1]},
    {"input_ids": [1, 9, 10, 11, 12, 2], "starts": [1, 2, 4], "labels": [0, 2, 2, 1]},  # the last word was cut
    {"input_ids": [1, 2], "starts": [], "labels": [1]},
]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    return AutoModelForTokenClassification.from_config(config).eval()


def test_a_row_is_the_same_alone_and_in_a_batch(model: Any):
    """Its words' losses are cross entropies at their first tokens, summed; a row without words has none."""
    task = TokenClassification(PAD, 1, CrossEntropy(Settings()))
    columns, losses, counts = task.evaluate(model, task.collate(ROWS))
    alone = []
    with torch.no_grad():
        for row in ROWS:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, row["starts"]]
            labels = torch.tensor(row["labels"][: len(row["starts"])], dtype=torch.long)
            alone.append((functional.cross_entropy(logits, labels, reduction="sum"), logits.argmax(-1).tolist()))

    torch.testing.assert_close(losses.float(), torch.stack([loss for loss, _ in alone]), rtol=1e-5, atol=1e-6)
    assert [predicted for _, predicted in alone] == columns["prediction"]
    assert [[2, 0], [1], [0, 2, 2], []] == columns["label"]
    assert [2, 1, 3, 0] == counts.tolist()


@pytest.mark.parametrize("sizes", [[4], [1, 3], [2, 1, 1]], ids=str)
def test_a_step_is_the_mean_over_its_words(model: Any, sizes: list[int]):
    """By their tags' weights, whatever the micro batches; one of rows without words alone has no loss."""
    weights = (0.5, 2.0, 1.0)
    task = TokenClassification(PAD, 1, CrossEntropy(Settings(weights=LabelWeights(weights))))
    whole = task.collate(ROWS)
    with torch.no_grad():
        scores = task._scores(model, whole)
        expected = functional.cross_entropy(scores, whole["labels"], weight=torch.tensor(weights))
        left = iter(ROWS)
        batches = [task.collate([next(left) for _ in range(size)]) for size in sizes]
        total = sum(task.losses(model, batch).sum() for batch in batches)

    torch.testing.assert_close(total / sum(map(task.count, batches)), expected, rtol=1e-5, atol=1e-6)


def test_an_answer_has_words_tags_and_entities():
    """Places are of characters in a text, and of words in a list of them; words that were cut have no tag."""
    names = ("B-LOC", "I-LOC", "O")
    of_text = TOKEN_CLASSIFICATION.answer_to("in New York.", {"tags": [2, 0, 1, 2]}, names)
    of_list = TOKEN_CLASSIFICATION.answer_to(["New", "York", "again"], {"tags": [0, 1]}, names)

    assert [{"type": "LOC", "text": "New York", "start": 3, "end": 11}] == of_text["entities"]
    assert (["in", "New", "York", "."], ["O", "B-LOC", "I-LOC", "O"]) == (of_text["tokens"], of_text["tags"])
    assert [{"type": "LOC", "text": "New York", "start": 0, "end": 2}] == of_list["entities"]
    assert ["B-LOC", "I-LOC", None] == of_list["tags"]


def test_a_named_field_is_read_whatever_its_name():
    """`--text text` too, which of a recipe is no name of its own."""
    reader = predict._reader(spec(), "text", predict.Writing())

    assert "Anna left." == reader.of_object({"text": "Anna left."}, 1)


def test_rows_to_label_are_columns():
    """Of one column a row may be an empty text, as an empty line of a file is."""
    assert {"tokens": ["", "a b"]} == by_column(["", "a b"], ("tokens",))
    assert {"a": ["", "x"], "b": ["y", "z"]} == by_column([["", "y"], ["x", "z"]], ("a", "b"))


def test_rows_that_do_not_fit_are_named(recipe: Write, tmp_path: Path):
    """All at once, each with its line."""
    (tmp_path / "a.jsonl").write_text(
        '{"tokens": ["a", "b"], "tags": ["O"]}\n{"tokens": "a b", "tags": ["O"]}\n{"tokens": ["a"], "tags": null}\n'
        '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": " ", "tags": []}\n'
    )
    path = recipe(
        model={"task": "token-classification", "num_labels": 3},
        data={"path": str(tmp_path / "a.jsonl"), "data_files": None, "eval": None},
    )
    loaded = load(path, env={}).spec
    with pytest.raises(LaunchError) as caught:
        columns.read(loaded, loaded.data.train)

    said = caught.value.what.splitlines()
    assert ["1", "2", "3", "5"] == [line.split(":")[1] for line in said]
    assert "has 2 words and 1 tags" in said[0]


def test_names_of_tags_are_those_of_the_data(tmp_path: Path):
    """In the order of letters; where a Parquet file has names for its numbers, as it has them."""
    (tmp_path / "a.conll").write_text(CONLL_TEXT, encoding="utf-8")
    one = spec(data_files=None, path=str(tmp_path / "a.conll"), eval=None)
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-X", "A"]))})
    Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[1, 0]]}, features).to_parquet(tmp_path / "b.parquet")
    other = spec(data_files=None, path=str(tmp_path / "b.parquet"), eval=None)

    assert pa.types.is_integer(pq.read_schema(tmp_path / "b.parquet").field("tags").type.value_type)
    assert ("B-LOC", "B-ORG", "I-LOC", "O") == label_names.names(one.data, Targets.of(one))
    assert ("O", "B-X", "A") == label_names.names(other.data, Targets.of(other))


@pytest.mark.parametrize(
    ("tokens", "tags", "said"),
    [
        ([["a"], ["b", "c"]], [["O"], ["O"]], "has 2 words and 1 tags"),
        ([["a"], []], [["O"], []], "has 0 words and 0 tags"),
        ([["a"], None], [["O"], ["O"]], "has 0 words and 1 tags"),
        (["a b", "c"], [["O"], ["O"]], "column 'tokens' is string, and a list with an item for each word is expected"),
    ],
)
def test_rows_that_datasets_loads_are_looked_at_too(tokens: list[Any], tags: list[Any], said: str):
    """With the row's place, before they become tokens."""
    recipe = spec(path="org/data", data_files=None)
    with pytest.raises(LaunchError, match=said):
        rows._check_words(recipe, Dataset.from_dict({"tokens": tokens, "tags": tags}), recipe.data.train)
