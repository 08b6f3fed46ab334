"""Recipes are read safely: every guard refuses with the line, and values mean what they look like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.recipe import yamlfile


def read(tmp_path: Path, text: str) -> yamlfile.Document:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return yamlfile.load(path)


def test_every_value_knows_its_line(tmp_path: Path):
    """Lines are 1-based, for keys, nested keys and list items."""
    document = read(tmp_path, "a:\n  b: 1\n  c:\n    - x\n    - y\n")

    assert (1, 2, 5) == (document.lines["a",], document.lines["a", "b"], document.lines["a", "c", 1])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("5.0e-5", 5e-5),
        ("1E+3", 1000.0),
        ("-2e3", -2000.0),
        ("0x10", 16),
        ("yes", True),
        ("null", None),
    ],
)
def test_scientific_notation_is_a_number(text: str, value: object):
    """`1e-5` is text in YAML 1.1 and a number in a recipe."""
    assert value == yamlfile.scalar(text)


def test_text_that_only_looks_like_a_number_stays_text():
    """Names with an e in them are not floats."""
    assert ["1e", "e5", "1e-5x", "v1e5"] == [yamlfile.scalar(t) for t in ("1e", "e5", "1e-5x", "v1e5")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", r"r.yaml:3: key `a` appears twice"),
        ("m:\n  x: 1\n  x: 1\n", r"r.yaml:3: key `x` appears twice"),
        ("[" * 20_000, r"r.yaml:1: nested more than 40 levels"),
        ("a: [1, 2\nb: 3\n", r"r.yaml:2: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", r"r.yaml:1: not valid YAML"),
        ("a: 2024-99-99\n", r"r.yaml:1: '2024-99-99'"),
        ("? [1, 2]\n: 3\n", r"r.yaml:1: key \[1, 2\] is not text"),
        ("a: 1\n{0}: 3\n", r"r.yaml:2: key \{0\} is not text"),
        ("1: 3\n", r"r.yaml:1: key 1 is not text"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", r"r.yaml:3: YAML merge keys"),
        ("a\tb:\n\t- 1\n", r"r.yaml:\d: not valid YAML"),
        ("a: \x00\n", r"not valid YAML"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(tmp_path: Path, text: str, what: str):
    """No input ends in a traceback, and none runs code."""
    with pytest.raises(LaunchError, match=what):
        read(tmp_path, text)


def test_aliases_that_multiply_are_refused(tmp_path: Path):
    """Nine nested alias lines would become a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(LaunchError, match="once aliases are followed"):
        read(tmp_path, "\n".join(lines))


def test_large_and_foreign_files_are_refused(tmp_path: Path):
    """A recipe is small UTF-8 text."""
    (tmp_path / "big.yaml").write_bytes(b"#" * (yamlfile.MAX_BYTES + 1))
    (tmp_path / "utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    for name, what in {"big.yaml": "is not a recipe", "utf16.yaml": "not UTF-8"}.items():
        with pytest.raises(LaunchError, match=what):
            yamlfile.load(tmp_path / name)


def test_a_missing_file_names_its_neighbour(tmp_path: Path):
    """A slip of the finger in a file name is answered with the name that exists."""
    (tmp_path / "yelp.yaml").write_text("")
    with pytest.raises(LaunchError) as caught:
        yamlfile.load(tmp_path / "yelpp.yaml")

    assert "yelp.yaml" in caught.value.hint


def test_a_folder_is_no_recipe(tmp_path: Path):
    """Naming a folder is said as such."""
    with pytest.raises(LaunchError, match="cannot be read"):
        yamlfile.load(tmp_path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    """Windows editors write one."""
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")

    assert {"a": 1} == yamlfile.load(path).value


def test_a_pipe_is_read_and_one_that_nobody_writes_to_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`ascend-launch <(...)`, and a run directory that came from somebody else."""
    monkeypatch.setattr(yamlfile, "PIPE_S", 0.01)
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(LaunchError, match="a named pipe that nobody writes to"):
        yamlfile.load(tmp_path / "recipe.yaml")

    ours, theirs = os.pipe()
    os.write(theirs, b"a: 1")
    os.close(theirs)
    assert {"a": 1} == yamlfile.load(Path(f"/dev/fd/{ours}")).value
    os.close(ours)
