"""What other packages add to a table: real distributions on the path, read by importlib.metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import plugins
from launcher.errors import LaunchError

GROUP = "ascend_launch.colours"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution with one module, whose entry points are `points`."""
    names: list[str] = []

    def install(name: str, source: str, points: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_colours.py").write_text(source, encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        names.append(f"{name}_colours")
        forget()

    yield install
    for name in names:
        sys.modules.pop(name, None)
    forget()


def forget() -> None:
    """As in a new process."""
    plugins._entry_points.cache_clear()
    plugins._load.cache_clear()


def table(**built_in: str) -> plugins.Table[object]:
    return plugins.Table("colour", GROUP, 2, built_in)


def test_what_is_built_in_is_imported_when_it_is_asked_for():
    assert json.dumps is table(dumps="json:dumps").load("dumps")
    assert ("missing",) == table(missing="no_such_module:X").names()


def test_a_package_adds_one_by_name(package: Callable[..., None]):
    """Listed after those that are built in, without being imported; loaded once."""
    package("paint", "class RED:\n    interface = 2\n", "red = paint_colours:RED")
    colours = table(dumps="json:dumps")

    assert ("dumps", "red") == colours.names()
    assert "red" in colours
    assert "blue" not in colours
    assert "paint_colours" not in sys.modules
    assert "RED" == colours.load("red").__name__
    assert colours.load("red") is colours.load("red")


def test_a_package_cannot_replace_what_is_built_in(package: Callable[..., None]):
    package("paint", "class RED:\n    interface = 2\n", "dumps = paint_colours:RED")

    assert json.dumps is table(dumps="json:dumps").load("dumps")
    assert ("dumps",) == table(dumps="json:dumps").names()


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "import no_such_library",
            "paint 1.2 cannot be imported: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ("raise RuntimeError('broken')", "paint 1.2 cannot be imported: RuntimeError: broken"),
        ("OTHER = 1", "paint 1.2 cannot be imported: AttributeError"),
        ("class RED:\n    interface = 3", "paint 1.2 is for interface 3, and this launcher has 2"),
        ("class RED: pass", "paint 1.2 is for interface None, and this launcher has 2"),
    ],
)
def test_a_package_that_does_not_work_is_named(package: Callable[..., None], source: str, what: str):
    package("paint", source, "red = paint_colours:RED")

    with pytest.raises(LaunchError, match="colour 'red'") as refused:
        table().load("red")
    assert what in refused.value.what
    assert "paint" in refused.value.hint


def test_two_packages_with_one_name_are_refused(package: Callable[..., None]):
    package("paint", "class RED:\n    interface = 2\n", "red = paint_colours:RED")
    package("ink", "class RED:\n    interface = 2\n", "red = ink_colours:RED")

    with pytest.raises(LaunchError, match=r"is in 2 packages: ink 1\.2, paint 1\.2"):
        table().load("red")


def test_a_name_that_nobody_has_is_refused():
    with pytest.raises(LaunchError, match="there is no colour 'red'"):
        table().load("red")
