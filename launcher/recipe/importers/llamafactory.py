"""A LLaMA-Factory YAML as one of our recipes: what maps, with where it came from, and what does not, with the reason.

LLaMA-Factory trains a model to write, and so does the recipe. Where its responses are a few texts they may be learned as labels
instead: the answers of a causal LM, or the classes of a head.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError
from launcher.recipe import load, yamlfile
from launcher.recipe.importers.llamafactory_given import Left
from launcher.recipe.importers.llamafactory_v0 import Import
from launcher.recipe.importers.llamafactory_v1 import ImportV1

_KINDS = {"model_name_or_path": Import, "train_dataset": ImportV1}
"""A key that only files of one version have, and what reads them."""


@dataclass
class Imported:
    """The recipe's text, and what is not in it."""

    text: str
    left: list[Left]


def convert(path: Path, *, nproc: int, task: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read a training file of LLaMA-Factory.

    Args:
        path: its YAML.
        nproc: ranks that it ran on; its global batch follows.
        task: of a recipe; of one with labels the responses are the labels.
        labels: the responses in the order of their numbers; () to read them from the data.

    Raises:
        LaunchError: it is not such a file, trains something else, or its data are not labels.
    """
    document = yamlfile.load(path, "training")
    given = document.value if isinstance(document.value, dict) else {}
    kind = next((_KINDS[key] for key in _KINDS if key in given), None)
    if kind is None:
        raise LaunchError(
            "{path}: is not a training file of LLaMA-Factory: it names no {keys}",
            hint="name one of its YAML files",
            path=path,
            keys=" or ".join(_KINDS),
        )
    job = kind(path, given, {k[0]: n for k, n in document.lines.items() if len(k) == 1}, nproc, task)
    text = job.run(labels)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "imported.yaml"
        try:
            made.write_text(text, encoding="utf-8")
        except UnicodeEncodeError:
            raise LaunchError(
                "{path}: one of its values or labels holds half of a surrogate pair, which is not text",
                hint="correct it there",
                path=path,
            ) from None
        try:
            load.load(made, env={})
        except LaunchError as error:
            raise LaunchError(
                "{path}: its values make no recipe:\n{what}",
                hint="correct them there",
                path=path,
                what=_at_source(error.what, made, path, text),
            ) from None
    return Imported(text, job.left)


def _at_source(message: str, made: Path, path: Path, text: str) -> str:
    """A message about the recipe that was made, with the line of LLaMA-Factory's file that its value came from."""
    origins = [re.search(r"# .*\(line (\d+)\)", line) for line in text.splitlines()]

    def place(position: re.Match[str]) -> str:
        origin = origins[int(position[1]) - 1]
        return f"{path}:{origin[1]}" if origin else str(path)

    return re.sub(re.escape(str(made)) + r":(\d+)", place, message).replace(str(made), str(path))
