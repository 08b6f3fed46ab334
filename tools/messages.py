"""Catalogues of translations: extract texts from the code, bring each language's .po up to date, and compile it to .mo.

python tools/messages.py          build/ascend_launch.pot, and every language of launcher/locale
python tools/messages.py zh       begins Chinese: launcher/locale/zh/LC_MESSAGES/ascend_launch.po and .mo
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import click
from babel.messages import extract, mofile, pofile
from babel.messages.catalog import Catalog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher import __version__, messages
from launcher.cli import cli, language

REPO = Path(__file__).resolve().parents[1]
CARRIERS: dict[str, tuple[int | str, ...]] = {
    "LaunchError": (0, "hint"),
    "Message": (0,),
    "Finding": (2, 3, 4, "what", "why", "fix"),
    "ok": (1,),
    "skip": (1,),
    "UsageError": (0,),
    "BadParameter": (0,),
    "ClickException": (0,),
}
"""What holds texts: a class or function → its arguments that are templates."""


def name_of(call: ast.Call) -> str:
    """Of what is called, the last word: LaunchError of errors.LaunchError."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def carried(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that are texts."""
    wanted = CARRIERS.get(name_of(call), ())
    yield from (argument for place, argument in enumerate(call.args) if place in wanted)
    yield from (each.value for each in call.keywords if each.arg in wanted)


def literals(node: ast.expr) -> Iterator[str]:
    """Texts that an argument may be: one, or one of several that a condition chooses from."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from literals(value)


def texts(file: IO[bytes], keywords: Collection[str], tags: Collection[str], options: Any) -> Iterator[Any]:
    """A Babel extraction method. Babel's own for Python passes over a call inside a call, and over arguments by name."""
    for node in ast.walk(ast.parse(file.read())):
        if not isinstance(node, ast.Call):
            continue
        if name_of(node) == "plural":
            one, many = (next(literals(each), "") for each in node.args[:2])
            yield node.lineno, "ngettext", (one, many), []
        for argument in carried(node):
            for text in literals(argument):
                yield argument.lineno, "gettext", text, []


def helps(command: click.Command) -> Iterator[str]:
    """Help of a command and of all below it, as click shows it."""
    for text in (command.help, command.epilog, command.short_help):
        yield from (part for part in language.paragraphs(text or "") if part and not part.startswith("\b"))
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            yield option.help
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from helps(each)


def template(package: Path = REPO / "launcher") -> Catalog:
    """Every text that can be translated, and where it stands."""
    catalogue = Catalog(project="ascend-launch", version=__version__, fuzzy=False)
    found = extract.extract_from_dir(package, [("**.py", texts)], keywords={"gettext": None, "ngettext": (1, 2)})
    for name, line, text, comments, context in found:
        catalogue.add(text, locations=[(f"launcher/{name}", line)], auto_comments=comments, context=context)
    for text in helps(cli):
        catalogue.add(text, auto_comments=["help of the command line"])
    return catalogue


def bring_up_to_date(source: Path, texts: Catalog) -> None:
    """Give a .po what is new in the code, and compile it beside itself."""
    if source.exists():
        with source.open("rb") as file:
            catalogue = pofile.read_po(file)
        catalogue.update(texts)
    else:
        catalogue = texts
        catalogue.locale = source.parent.parent.name
    source.parent.mkdir(parents=True, exist_ok=True)
    with source.open("wb") as file:
        pofile.write_po(file, catalogue, width=120, sort_by_file=True)
    with source.with_suffix(".mo").open("wb") as file:
        mofile.write_mo(file, catalogue)


def main() -> None:
    texts = template()
    pot = REPO / "build" / f"{messages.DOMAIN}.pot"
    pot.parent.mkdir(exist_ok=True)
    with pot.open("wb") as file:
        pofile.write_po(file, texts, width=120, sort_by_file=True)
    print(f"{len(texts)} texts: {pot.relative_to(REPO)}")
    asked = {messages.FOLDER / name / "LC_MESSAGES" / f"{messages.DOMAIN}.po" for name in sys.argv[1:]}
    for source in sorted({*messages.FOLDER.glob(f"*/LC_MESSAGES/{messages.DOMAIN}.po"), *asked}):
        bring_up_to_date(source, template())
        print(source.relative_to(REPO))


if __name__ == "__main__":
    main()
