"""Texts for people: English in the code, and whatever a catalogue makes of them where they are shown."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from babel.messages import mofile
from babel.messages.catalog import Catalog
from click.testing import CliRunner

from launcher import messages
from launcher.cli import language
from launcher.errors import LaunchError
from launcher.messages import Message

CHINESE: dict[Any, Any] = {
    "{path}: no such file": "没有这个文件：{path}",
    "create {path}": "请创建 {path}",
    "{what}\n  fix: {hint}": "{what}\n  处理：{hint}",
    "error: {error}": "错误：{error}",
    ("{count} row", "{count} rows"): ["{count} 行"],
    "{split}: {rows}": "{split}（{rows}）",
    "{parts} and {last}": "{parts}和{last}",
    "loss {loss:.2f} is too high": "损失 {loss:.2f} 过大",
    "slow": "慢",
    "broken {name}": "坏 {nom}",
    "Ranks on this node.": "本节点的进程数。",
    "Train a model.": "训练模型。",
}


def write_catalogue(folder: Path, texts: dict[Any, Any], name: str = "zh") -> None:
    """`folder` gets a catalogue of one language, as a translator's editor writes it."""
    catalogue = Catalog(locale=name)
    for text, meaning in texts.items():
        catalogue.add(text, meaning)
    path = folder / name / "LC_MESSAGES" / "ascend_launch.mo"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        mofile.write_mo(file, catalogue)


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Chooses a language, of one catalogue; English again afterwards."""
    write_catalogue(tmp_path, CHINESE)
    monkeypatch.setattr(messages, "FOLDER", tmp_path)
    yield messages.choose
    messages.choose("en")


# --- English -------------------------------------------------------------------------------------------------------


def test_a_message_is_its_english_text():
    """In files and for whoever looks for words in it, whatever its values are."""
    message = Message("{path}: {count:,} rows, {name!r}", path=Path("a.csv"), count=1234, name="x")

    assert "a.csv: 1,234 rows, 'x'" == message
    assert "\"a.csv: 1,234 rows, 'x'\"" == json.dumps(message)


def test_braces_without_values_are_text():
    assert "write {name: value}" == Message("write {name: value}")
    assert "write {name}: 3" == Message("write {{name}}: {n}", n=3)


def test_an_error_fills_both_texts():
    error = LaunchError("{path}: no such file", hint="create {path}", path="r.yaml")

    assert "r.yaml: no such file\n  fix: create r.yaml" == str(error)
    assert ("r.yaml: no such file", "create r.yaml") == (error.what, error.hint)


def test_what_is_filled_already_is_not_filled_again():
    """A value may hold braces: a user's JSON in one error that another one passes on."""
    inner = LaunchError("{value}: not a number", value="{x}")
    outer = LaunchError(inner.what, hint="correct {path}", path="r.yaml")

    assert "{x}: not a number\n  fix: correct r.yaml" == str(outer)


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_english_has_two_forms(count: int, text: str):
    assert text == messages.plural("{count} row", "{count} rows", count=count)


@pytest.mark.parametrize(("parts", "text"), [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_a_list_ends_with_and(parts: str, text: str):
    assert text == messages.listed(parts)


def test_a_separator_may_hold_braces():
    assert "a{}b" == messages.joined(["a", "b"], "{}")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_message_is_its_text(copied: Callable[[Message], Message]):
    """Values may be anything, also what cannot be copied."""
    assert "3 {x}" == copied(Message("{n} {{x}}", n=3))


# --- translated ----------------------------------------------------------------------------------------------------


def test_an_error_is_translated_where_it_is_shown(choose: Callable[..., None]):
    error = LaunchError("{path}: no such file", hint="create {path}", path="r.yaml")
    choose("zh")

    assert "没有这个文件：r.yaml\n  处理：请创建 r.yaml" == messages.translated(error)
    assert "r.yaml: no such file\n  fix: create r.yaml" == str(error)


def test_values_that_are_texts_are_translated_too(choose: Callable[..., None]):
    rows = messages.plural("{count} row", "{count} rows", count=2)
    message = Message("error: {error}", error=Message("{split}: {rows}", split="train", rows=rows))
    choose("zh")

    assert "错误：train（2 行）" == messages.translated(message)


def test_an_error_of_python_is_translated_by_its_message(choose: Callable[..., None]):
    error = ValueError(Message("slow"))
    choose("zh")

    assert "错误：慢" == messages.translated(Message("error: {error}", error=error))


def test_a_list_is_translated(choose: Callable[..., None]):
    message = messages.listed([Message("slow"), "rank 3"])
    choose("zh")

    assert "慢和rank 3" == messages.translated(message)


def test_what_the_catalogue_lacks_or_fills_wrongly_stays_english(choose: Callable[..., None]):
    choose("zh")

    assert "not there yet: 3" == messages.translated(Message("not there yet: {n}", n=3))
    assert "broken x" == messages.translated(Message("broken {name}", name="x"))
    assert "" == messages.translated("")


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("/a b/r.yaml: no such file", "没有这个文件：/a b/r.yaml"),
        ("loss 3.14 is too high", "损失 3.14 过大"),
        ("slow", "慢"),
        ("no such text: no such thing", "no such text: no such thing"),
    ],
)
def test_english_out_of_a_file_is_known_again(choose: Callable[..., None], english: str, chinese: str):
    """A rank's failure comes through a record of the run directory, which is English."""
    choose("zh")

    assert chinese == messages.translated(english)


def test_help_is_translated(choose: Callable[..., None]):
    """Of a command and those below it; examples stay."""

    @click.group()
    def group() -> None:
        pass

    @group.command()
    @click.option("--nproc", help="Ranks on this node.")
    def train(nproc: str) -> None:
        """Train a model.

        \b
          ascend-launch train
        """

    messages.choose("zh")
    language.translate(group)
    page = CliRunner().invoke(group, ["train", "--help"]).output

    assert "训练模型。" in page and "本节点的进程数。" in page and "  ascend-launch train\n" in page


# --- the choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "env", "expected"),
    [
        ("auto", {}, "en"),
        ("auto", {"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ("auto", {"LC_ALL": "C", "LANG": "zh_CN"}, "en"),
        ("auto", {"LANG": "de_DE@euro", "ASCEND_LAUNCH_LANG": "zh"}, "zh"),
        ("auto", {"LANG": "de_DE", "ASCEND_LAUNCH_LANG": "auto"}, "de_DE"),
        ("en", {"ASCEND_LAUNCH_LANG": "zh"}, "en"),
    ],
)
def test_one_choice(choose: Callable[..., None], asked: str, env: dict[str, str], expected: str):
    """What the command line says, then the variable, then the locale."""
    choose(asked, env)

    assert expected == messages.language()
    assert expected.startswith("zh") == messages.is_translated()


@pytest.mark.parametrize("damaged", [b"", b"text", b"\xde\x12\x04\x95" + b"\xff" * 40, b"\xde\x12\x04\x95\0\0"])
def test_a_damaged_catalogue_costs_nothing(choose: Callable[..., None], tmp_path: Path, damaged: bytes):
    (tmp_path / "zh" / "LC_MESSAGES" / "ascend_launch.mo").write_bytes(damaged)
    choose("zh")

    assert "r.yaml: no such file" == messages.translated(Message("{path}: no such file", path="r.yaml"))


@pytest.mark.parametrize("argv", [["--lang", "zh", "run"], ["--lang=zh", "train.py", "--lang", "fr"], ["--lang"]])
def test_the_language_stands_before_the_command(argv: list[str]):
    """Behind it, --lang may be a program's own."""
    assert argv[: 1 if argv[0] != "--lang" else 2] == language.words(argv)
    assert [] == language.words(["train.py", *argv])
