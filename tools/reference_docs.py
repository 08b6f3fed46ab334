"""Write docs/recipes.md from the recipe's schema, docs/cli.md from the commands' help and docs/versions.md from the results of
tools/matrix. With --check, only say whether they are up to date."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import versions_docs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher import cli
from launcher.recipe import formats, kernels, schema, training_fields
from launcher.recipe.losses import table as losses
from launcher.recipe.tasks import table as tasks
from launcher.strategies import table as strategies

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "model": "Model",
    "data": "Data",
    "data.train": "Split",
    "data.eval": "EvalSplit",
    "data.sets[0]": "DataSet",
    "parallel": "Parallel",
    "parallel.deepspeed": "DeepSpeed",
    "loss": "Loss",
    "early_stopping": "EarlyStopping",
    "adapter": "Adapter",
    "generation": "Generation",
    "": "RecipeSpec",
}
"""Key of a recipe → the class that describes what is under it."""
INTRO = """# Recipes

Made by `tools/reference_docs.py` from `launcher/recipe/schema.py`; a test holds it to that.

A recipe is one YAML file that says what is trained on what. It carries no hosts, ports or card numbers: those come from
the command line. [The shipped ones](../recipes/README.md) are worked examples; `ascend-launch recipes copy tiny-cpu
mine.yaml` starts your own, and `ascend-launch recipes import` turns a LLaMA-Factory file into one ([migrate](migrate.md)).

Values come, later ones winning, from: the defaults below, the recipe named by `extends:`, the recipe itself, variables
`ASCEND_LAUNCH_<SECTION>__<KEY>`, and `KEY=VALUE` words on the command line. `recipe.yaml` of a run and its report say where
each came from. Unknown keys, wrong types and combinations that cannot run are all reported together, with file and line,
before anything starts.
"""


def recipes() -> str:
    """docs/recipes.md."""
    tree = ast.parse((ROOT / "launcher" / "recipe" / "schema.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    parts = [INTRO]
    for key, name in SECTIONS.items():
        parts.append(f"## {f'`{key}:`' if key else 'At the top level'}\n\n{ast.get_docstring(classes[name])}\n")
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for field, annotation, meaning in _fields(classes, name):
            if not key and f"{field}" in SECTIONS:
                continue
            rows.append(f"| `{field}` | {_type(annotation)} | {_default(name, field)} | {_cell(meaning)} |")
        rows += _parameters() if key == "loss" else []
        parts.append("\n".join(rows) + "\n")
    owned = ["| key | why, and what to write |", "|---|---|"]
    owned += [f"| `{key}` | {_cell(why)} |" for key, why in training_fields.OWNED.items()]
    owned += [f"| `{key}` | renamed in transformers 5: {_cell(new)} |" for key, new in training_fields.RENAMED.items()]
    parts.append(
        "## `training:`\n\ntransformers' TrainingArguments by their own names, read from the version that is installed, so"
        " every field and choice of it is known and checked. These are not taken:\n\n" + "\n".join(owned) + "\n"
    )
    return "\n".join(parts)


def _parameters() -> list[str]:
    """Rows of the keys that losses have of their own."""
    kinds = [losses.load(name) for name in losses.TABLE.built_in]
    return [
        f"| `{name}` | of `{kind.name}` | - | {_cell(meaning)} |"
        for kind in kinds
        for name, meaning in kind.parameters.items()
    ]


def _fields(classes: dict[str, ast.ClassDef], name: str) -> Iterator[tuple[str, ast.expr, str]]:
    """(name, annotation, the text under it) of a section's fields, the base's that it does not repeat included."""
    own: dict[str, tuple[ast.expr, str]] = {}
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
    for base in bases:
        own |= {field: (annotation, text) for field, annotation, text in _fields(classes, base)}
    body = classes[name].body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = str(after.value.value) if is_text else own.get(node.target.id, (None, ""))[1]
            own[node.target.id] = (node.annotation, text)
    yield from ((field, annotation, text) for field, (annotation, text) in own.items())


def _type(annotation: ast.expr) -> str:
    named = {
        "Text": "text",
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "None": "",
        "PositiveInt": "whole number, at least 1",
        "NonNegativeInt": "whole number, at least 0",
        "dict": "mapping",
        "SizeOrAuto": "`auto` or a whole number",
        "Task": " or ".join(f"`{name}`" for name in tasks.BUILT_IN),
        "Metric": "[metric](metrics.md) or `FILE.py:FUNCTION`",
        "StrategyOrAuto": " or ".join(f"`{name}`" for name in ("auto", *strategies.BUILT_IN)),
        "Format": " or ".join(f"`{name}`" for name in (formats.AUTO, *formats.TABLE.built_in)),
        "LossName": " or ".join(f"`{name}`" for name in (*losses.TABLE.built_in, "FILE.py:FUNCTION")),
        "Kernel": " or ".join(f"`{name}`" for name in kernels.TABLE.built_in),
    }

    def words(node: ast.expr) -> list[str]:
        if isinstance(node, ast.BinOp):
            return words(node.left) + words(node.right)
        if isinstance(node, ast.Constant):
            return [named.get(str(node.value), str(node.value))]
        if isinstance(node, ast.Name) and node.id in named:
            return [named[node.id]]
        if isinstance(node, ast.Name) and hasattr(getattr(schema, node.id, None), "__args__"):
            return [f"`{arg}`" for arg in getattr(schema, node.id).__args__]
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if node.value.id == "Literal":
                return [f"`{arg.value}`" for arg in inner if isinstance(arg, ast.Constant)]
            if node.value.id == "Annotated":
                limits = inner[1]
                assert isinstance(limits, ast.Call)
                bounds = {
                    "ge": "at least",
                    "gt": "above",
                    "lt": "below",
                    "le": "at most",
                    "min_length": "of length at least",
                }
                said = [f"{bounds[k.arg or '']} {ast.unparse(k.value)}" for k in limits.keywords]
                return [f"{words(inner[0])[0]}, {' and '.join(said)}"]
            if node.value.id in ("tuple", "list"):
                return [f"list of {' or '.join(words(inner[0]))}"]
            if node.value.id == "dict":
                return ["mapping"]
        return ["mapping"]

    return " or ".join(dict.fromkeys(word for word in words(annotation) if word))


def _default(name: str, field: str) -> str:
    info = getattr(schema, name).model_fields[field]
    if info.is_required():
        return "must be given"
    value = info.default
    if value is None:
        return "none"
    if hasattr(value, "model_dump"):
        return "see below"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands() -> str:
    """docs/cli.md."""
    parts = [
        "# The command line\n\nMade by `tools/reference_docs.py` from each command's `--help`; a test holds it to that.\n"
    ]
    for path, command in _walk(cli.cli, ("ascend-launch",)):
        context: click.Context | None = None
        for name in path:
            # A parent's path would hold its arguments, so only the last context has the command.
            own = command if name is path[-1] else click.Group(name)
            context = click.Context(own, info_name=name, parent=context, terminal_width=100, max_content_width=100)
            context.help_option_names = ["-h", "--help"]
        assert context is not None
        parts.append(f"## {' '.join(path)}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    parts.append(OUTPUTS)
    parts.append(
        "Exit codes: 0 done, 1 the job failed, 2 you must change something, 3 a bug of ours, 130 and 143 interrupted.\n"
    )
    return "\n".join(parts)


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if inner.hidden:  # goes by the name of another one
                continue
            yield from _walk(inner, (*path, name))


OUTPUTS = """## What a command writes

Nothing that is there is overwritten unless `--force` is given: `report --out`, `predict --output`, `ranktable --out` and
`render --out` refuse it with exit code 2 before they begin; `export`, `recipes copy` and `recipes import` refuse it always,
and `render` always refuses the directory of a finished run. `report RUN` alone makes RUN's own `report.html` anew. Files go into folders that
are there; folders that a command makes (`export`, `render`, `--run-dir`) come with their parents. A pipe or a device, such
as `/dev/null`, is written to and not replaced. A file has its name only once it is whole.
"""

PAGES = {
    ROOT / "docs" / "recipes.md": recipes,
    ROOT / "docs" / "cli.md": commands,
    ROOT / "docs" / "versions.md": versions_docs.page,
}


def main() -> None:
    for path, make in PAGES.items():
        text = make()
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                raise SystemExit(f"{path.name} is out of date: run python tools/reference_docs.py")
        else:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
