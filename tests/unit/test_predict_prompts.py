"""Rows for a model that writes: what of each is asked, and what becomes of the answers."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from launcher.cli import chat
from launcher.data.formats.base import RowError
from launcher.data.questions import Questions
from launcher.errors import LaunchError
from launcher.jobs import answers, predict, rows, trained
from launcher.jobs.chat import History, Partner
from launcher.jobs.feed import Feed, Items, Lines
from launcher.jobs.rows import Bad, Prompts, Row, Texts, parse
from launcher.recipe import load
from launcher.recipe.schema import Data, Generation, Model, RecipeSpec
from launcher.recipe.tasks.classification import CLASSIFICATION
from launcher.recipe.tasks.sft import SFT
from launcher.rundir.chunks import REFUSED, Chunks

USER = {"role": "user", "content": "Why?"}
ASSISTANT = {"role": "assistant", "content": "So."}
SYSTEM = {"role": "system", "content": "Be brief."}


def asked(row: dict[str, Any], *, data: dict[str, Any] | None = None, **how: Any) -> Any:
    """What of a row is asked, under a recipe's data."""
    made = json.loads(Questions(Data(**(data or {})), **how)(row))
    return made.get("messages", made)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"text": "Why?"}, [USER]),
        ({"prompt": "Why?"}, [USER]),
        ({"question": "Why?", "id": 3}, [USER]),
        ({"query": "Why?", "history": [["Why?", "So."]], "system": "Be brief."}, [SYSTEM, USER, ASSISTANT, USER]),
        ({"instruction": "Why", "input": "so?"}, [{"role": "user", "content": "Why\nso?"}]),
        ({"instruction": "Why?", "input": None, "output": "Because."}, [USER]),
        ({"messages": [USER, ASSISTANT, USER]}, [USER, ASSISTANT, USER]),
        ({"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, [USER]),
        ({"prompt": [USER]}, [USER]),
        ({"prompt": "Why?", "completion": "So."}, [USER]),
    ],
)
def test_a_row_of_any_format_is_asked_up_to_its_answer(row: dict[str, Any], messages: list[Any]):
    """With an answer that is there, or none."""
    assert messages == asked(row)


def test_the_recipe_says_how_its_rows_are_asked():
    """Its prompt, its columns and its system message; a row's own message stays."""
    data = {"prompt": "Sum up: {body}", "system": "Be brief."}
    assert [SYSTEM, {"role": "user", "content": "Sum up: x"}] == asked({"body": "x"}, data=data)
    assert [{"role": "system", "content": "Mine"}, USER] == asked({"q": "Why?"}, column="q", system="Mine", data=data)
    assert [SYSTEM, USER] == asked({"messages": [SYSTEM, USER]}, system="Mine")

    columns = {"messages": "dialog", "role": "who", "content": "what", "user": "U", "assistant": "A"}
    turns = [{"who": "U", "what": "Why?"}, {"who": "A", "what": "So."}]
    assert [USER] == asked({"dialog": turns}, data={"columns": columns})
    assert [USER] == asked({"text": "Why?"}, data={"format": "alpaca"})


def test_a_line_of_text_is_the_column_that_the_prompt_names():
    """A blank one is no row."""
    reader = Prompts(Questions(Data(prompt="Sum up: {body}")))

    row = parse(b"x", 4, "text", reader)

    assert isinstance(row, Row)
    assert 4 == row.item["line"]
    assert [{"role": "user", "content": "Sum up: x"}] == json.loads(row.item["conversation"])["messages"]
    assert parse(b" ", 5, "text", reader) is None


def test_without_a_chat_a_text_stands_as_it_is():
    assert {"text": "Once upon"} == asked({"text": "Once upon"}, is_chat=False)
    with pytest.raises(RowError, match="--no-chat"):
        asked({"messages": [USER, ASSISTANT, USER]}, is_chat=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": 3}, "has no prompt; there is 'id'"),
        ({}, "has no prompt; there is nothing"),
        ({"text": ""}, "'text' is empty"),
        ({"text": 3}, "'text' is a number and not text"),
        ({"messages": [ASSISTANT]}, "asks nothing"),
        ({"messages": [SYSTEM]}, "asks nothing"),
        ({"messages": []}, "'messages' has no message"),
        ({"text": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_asks_nothing_says_why(row: dict[str, Any], reason: str):
    with pytest.raises(RowError) as caught:
        asked(row)
    assert reason in caught.value.what

    bad = parse(json.dumps(row).encode(), 7, "jsonl", Prompts(Questions(Data())))
    assert isinstance(bad, Bad)
    assert 7 == bad.line


def test_tasks_that_read_two_columns_get_both():
    pair = Texts("a", "b")
    assert ["x", "y"] == pair.of_object({"a": "x", "b": "y"}, 1)
    with pytest.raises(RowError, match="'a' and 'b' are needed"):
        pair.of_text("x", 1)


def test_words_may_stand_in_a_list_where_they_are_tagged():
    words = Texts("tokens", may_be_words=True)
    assert ["New", "York"] == words.of_object({"tokens": ["New", "York"]}, 1)
    assert "New York" == words.of_object({"tokens": "New York"}, 1)
    for value, said in ((["New", 3], "is not text: 3"), (3, "is not text: 3")):
        with pytest.raises(RowError, match=said):
            words.of_object({"tokens": value}, 1)
    with pytest.raises(RowError, match="is not text"):
        Texts("tokens").of_object({"tokens": ["New"]}, 1)


# -- the stream ------------------------------------------------------------------------------------------------------


class Ranks:
    """Answer each row with its line, but for those that they refuse."""

    def __init__(self, folder: Path, refused: set[int]) -> None:
        folder.mkdir()
        self.chunks, self.refused = Chunks(folder), refused
        self.sizes: list[int] = []

    def play(self, feed: Feed) -> None:
        while True:
            feed.step()
            waiting, is_end = self.chunks.waiting()
            for number in waiting:
                items = json.loads(self.chunks.rows(number).read_text())
                self.sizes.append(len(items))
                self.chunks.answers(number).write_text(json.dumps([self.answer(item) for item in items]))
            if is_end and not waiting:
                break
        feed.finish()

    def answer(self, item: dict[str, Any]) -> dict[str, Any]:
        line = item["line"]
        return {REFUSED: "too long"} if line in self.refused else {"text": str(line), "finish_reason": "stop"}


def feed_of(source: Any, tmp_path: Path, ranks: Ranks, **options: Any) -> tuple[Feed, Path]:
    out = tmp_path / "out.jsonl"
    target = os.open(out, os.O_WRONLY | os.O_CREAT)
    reader = Prompts(Questions(Data()))
    return Feed(source, target, ranks.chunks, "in", SFT, reader=reader, chunk_rows=10, **options), out


def lines(count: int) -> Iterator[tuple[int, bytes | Bad]]:
    yield from ((number, b'{"text": "x"}') for number in range(1, count + 1))


def texts(out: Path) -> list[str]:
    return [json.loads(line)["text"] for line in out.read_text().splitlines()]


def test_a_row_that_a_rank_refuses_ends_it_after_those_before_it(tmp_path: Path):
    """Its prompt is too long, which only the tokenizer tells; rows behind it may be answered already, and are left out."""
    ranks = Ranks(tmp_path / "chunks", {14, 12, 33})
    feed, out = feed_of(Items(lines(50)), tmp_path, ranks, form="jsonl")

    ranks.play(feed)

    assert [str(number) for number in range(1, 12)] == texts(out)
    assert 11 == feed.num_rows
    with pytest.raises(LaunchError, match="in:12: too long"):
        feed.require_all()


def test_rows_that_a_rank_refuses_are_passed_over_where_that_is_asked_for(tmp_path: Path):
    ranks = Ranks(tmp_path / "chunks", {14, 12, 33})
    feed, out = feed_of(Items(lines(50)), tmp_path, ranks, form="jsonl", skip_bad=True)

    ranks.play(feed)

    assert [str(number) for number in range(1, 51) if number not in ranks.refused] == texts(out)
    assert ([12, 14, 33], 47, 3) == ([bad.line for bad in feed.bad], feed.num_rows, feed.num_bad)
    feed.require_all()


def test_which_rows_of_a_file_are_together_does_not_depend_on_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A row that takes several reads is waited for, however long the open ones have waited."""
    monkeypatch.setattr("launcher.jobs.feed.IDLE_S", -1.0)
    long = json.dumps({"text": "y" * 300_000})
    (tmp_path / "in").write_text("\n".join(['{"text": "x"}'] * 4 + [long] + ['{"text": "x"}'] * 20) + "\n")
    ranks = Ranks(tmp_path / "chunks", set())
    feed, _ = feed_of(Lines(os.open(tmp_path / "in", os.O_RDONLY)), tmp_path, ranks)

    ranks.play(feed)

    assert [10, 10, 5] == ranks.sizes


# -- answers as tables -----------------------------------------------------------------------------------------------

ANSWERS: list[dict[str, Any]] = [
    {"text": "a\nb", "finish_reason": "stop", "input": {"id": 1, "text": 'q, "x"'}},
    {"text": "", "reasoning": "hm", "finish_reason": "length", "input": {"id": 2, "tags": ["t"]}},
    {"text": "面", "finish_reason": "stop", "input": "plain"},
]


@pytest.fixture
def table(tmp_path: Path):
    """Write answers as a table of this name."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        lines, out = tmp_path / "lines", tmp_path / name
        lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        answers.write_table(lines, out, out)
        return out

    return write


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.TSV", "\t")])
def test_answers_as_csv(table, name: str, delimiter: str):
    """Every column of any row, with its row's own beside it; line breaks and quotes stay."""
    with table(name, ANSWERS).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter=delimiter))

    assert ["text", "finish_reason", "input.id", "input.text", "reasoning", "input.tags", "input"] == list(found[0])
    assert ["a\nb", "", "面"] == [row["text"] for row in found]
    assert ('q, "x"', '["t"]', "plain") == (found[0]["input.text"], found[1]["input.tags"], found[2]["input"])


def test_answers_as_parquet(table):
    """Numbers stay numbers, and probabilities a list of them; a column of several kinds is text."""
    found = pq.read_table(table("a.parquet", [*ANSWERS, {"label": None, "probabilities": None, "input": {"id": "x"}}]))
    assert ["1", "2", None, "x"] == found["input.id"].to_pylist()

    labels = [{"label": 1, "label_name": "good", "probabilities": [0.25, 0.75], "fine": True}, {"label": None}]
    rows = pq.read_table(table("b.parquet", labels)).to_pylist()
    assert [labels[0], dict.fromkeys(labels[0])] == rows


def test_only_names_of_tables_are_tables():
    assert [True, True, False, False] == [
        answers.is_table(Path(name)) for name in ("a.csv", "A.PARQUET", "a", "a.jsonl")
    ]


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLS", "a.arrow", "a.json", "a.csv.gz"])
def test_answers_go_by_no_name_of_another_form(name: str):
    with pytest.raises(LaunchError) as caught:
        answers.require_written(Path(name))
    assert f"--output {name}: answers are not written as {Path(name).suffix.lower()}" in str(caught.value)
    assert ".csv, .tsv, .parquet" in caught.value.hint


def test_answers_go_by_names_of_lines_and_tables():
    for name in ("a", "a.jsonl", "a.ndjson", "a.txt", "a.CSV", "a.tsv", "a.parquet", "a.out", "a.json.partial"):
        answers.require_written(Path(name))


# -- models ----------------------------------------------------------------------------------------------------------


def test_a_causal_lm_without_a_recipe_writes(tmp_path: Path):
    """And an adapter of one; of a classification head's nobody knows the labels."""
    for name, file, content in (
        ("lm", "config.json", {"architectures": ["Qwen2ForCausalLM"]}),
        ("lora", "adapter_config.json", {"task_type": "CAUSAL_LM"}),
        ("head", "adapter_config.json", {"task_type": "SEQ_CLS"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(content))
    known = [trained.recipe_of(trained.find(str(tmp_path / name), "")).model.task for name in ("lm", "lora", "head")]

    assert [SFT.name, SFT.name, CLASSIFICATION.name] == known
    hub = trained.Weights("org/nobody-has-it-here", None)
    assert CLASSIFICATION.name == trained.recipe_of(hub).model.task
    assert SFT.name == trained.recipe_of(hub, SFT.name).model.task


def test_a_saved_tokenizer_has_the_template_already(tmp_path: Path):
    """The file that it came from may be gone."""
    recipe = {"model": {"name": "m", "task": SFT.name}, "data": {"path": "d", "chat_template": "gone.jinja"}}
    (tmp_path / "ascend_launch.json").write_text(json.dumps({"recipe": recipe}))
    (tmp_path / "config.json").write_text("{}")

    assert trained.recipe_of(trained.find(str(tmp_path), "")).data.chat_template is None  # type: ignore[attr-defined]


def test_options_for_text_are_refused_of_a_model_that_gives_labels():
    spec = RecipeSpec(model=Model(name="m", label_names=("a", "b")), data=Data())
    loaded = load.Loaded(spec, "predict", Path("m"), {})
    work = predict.Work(loaded, trained.Weights("m", None), writing=predict.Writing({"max_new_tokens": 3}))

    with pytest.raises(LaunchError, match="gives labels, and writes no text"), predict.prepared(work, None, None):  # type: ignore[arg-type]
        pass


def test_a_chat_remembers_what_was_said_until_it_begins_anew():
    """An answer that was interrupted before its first word leaves nothing."""
    history = History("Be brief.")
    assert {"messages": [SYSTEM, USER]} == history.asked("Why?")
    history.answered("Why?", "So.")
    history.answered("Hm?", " ")
    assert {"messages": [SYSTEM, USER, ASSISTANT, USER]} == history.asked("Why?")

    history.reset()
    assert {"messages": [SYSTEM, USER]} == history.asked("Why?")
    assert 2 == history.turns


def test_lines_of_json_are_read_as_before():
    assert Row(2, "x", {"text": "x"}) == rows.parse(b'{"text": "x"}', 2, "jsonl", Texts("text"))


def test_more_beams_than_tokens_are_refused(tmp_path: Path):
    """Where the model's vocabulary is known."""

    def recipe(beams: int | None) -> RecipeSpec:
        model = Model(name="m", task="sft", num_labels=None)
        return RecipeSpec(model=model, data=Data(path="x"), generation=Generation(num_beams=beams))

    for beams, config in ((None, {"vocab_size": 3}), (3, {"vocab_size": 3}), (4, None), (4, {})):
        predict.require_beams(recipe(beams), config)
    for config in ({"vocab_size": 3}, {"text_config": {"vocab_size": 3}}):
        with pytest.raises(
            LaunchError, match="--num-beams 4: there are more beams than tokens, of which the model has 3"
        ):
            predict.require_beams(recipe(4), config)


# -- chat ------------------------------------------------------------------------------------------------------------


class Parrot:
    """Says what it is asked."""

    def ask(self, conversation: dict[str, Any], turn: int, on_piece: Callable[[str], None]) -> dict[str, Any]:
        text = conversation["messages"][-1]["content"]
        on_piece(text)
        return {"text": text, "finish_reason": "stop"}


def test_a_line_that_is_not_utf_8_is_said_by_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The others are answered, and the exit code says that one was not."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntw\xff\nthree\n")))

    assert chat._talk(cast(Partner, Parrot()), History()) is False
    shown = capsys.readouterr()
    assert ("one\nthree\n", "<stdin>:2: not UTF-8 at byte 2\n") == (shown.out, shown.err)


def test_questions_that_are_all_answered_end_well(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\nthree")))
    assert chat._talk(cast(Partner, Parrot()), History()) is True
