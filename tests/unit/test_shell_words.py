"""The commands of a shell script are read without running anything."""

from __future__ import annotations

import pytest

from launcher.recipe.importers import shell


def words(text: str) -> list[list[tuple[str, int]]]:
    return [[(word.text, word.line) for word in command.words] for command in shell.commands(text)]


def test_a_command_goes_on_behind_a_backslash_and_each_word_has_its_line():
    assert [[("a", 2), ("--b", 3), ("c d", 3), ("e", 4)]] == words("# x\na \\\n  --b 'c d' \\\n  e # end\n")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a \"b $X\" '$X'", ["a", "b 4", "$X"]),
        ("a ${X}0 ${Y:-7} $((32 / X)) $(expr 32 / $X \\* 2)", ["a", "40", "7", "8", "16"]),
        ('a --j=\'{"k": 1}\' "q\\"r" b\\ c', ["a", '--j={"k": 1}', 'q"r', "b c"]),
        ("a b > log 2>&1 &", ["a", "b"]),
        ("a b; c", ["a", "b"]),
        ("a 'b\nc'", ["a", "b\nc"]),
    ],
)
def test_words_are_what_a_shell_makes_of_them(text: str, first: list[str]):
    assert first == [word for word, _ in words(f"X=4\n{text}\n")[0]]


@pytest.mark.parametrize("text", ["$HOME/x", "$(date)", "`date`", "${X%.*}", "$(expr $N / 2)", "$((1 / 0))", "$U"])
def test_what_only_a_run_knows_is_said(text: str):
    (command,) = shell.commands(f"U=$(date)\na {text}\n")
    assert command.words[1].unknown


def test_variables_reach_a_command_where_they_are_exported_or_before_it():
    (command,) = shell.commands("n=2\nexport A=$n B=3\nC=4\nD=5 \\\nrun x\n")
    assert {"A": "2", "B": "3", "D": "5"} == {name: word.text for name, word in command.environment.items()}
