"""The rows of a recipe looked at before anything is started: the same code that a preparation reads them with."""

from __future__ import annotations

from launcher.data import columns, conversations, rows, sources
from launcher.data.problems import Problems
from launcher.data.sources import Source
from launcher.recipe.schema import Data, RecipeSpec

MOST_CHARACTERS = 48 << 20
"""Of the conversations of one set: about a second. What comes after these is looked at by the preparation, as are sets that
only `datasets` can load."""


def require_conversations(data: Data, *, trains: bool = True, elsewhere: bool = False) -> None:
    """Look at the files of a recipe.

    Args:
        data: the recipe's.
        trains: whether the training rows are read, too.
        elsewhere: the job runs on other machines: sets whose files are not on this one are passed over.

    Raises:
        LaunchError: with everything that is wrong, up to a number.
    """
    problems = Problems()
    held_out = data.eval is not None and data.eval.hold_out is not None
    wanted = [*(sources.train(data) if trains or held_out else ()), *sources.evaluation(data).values()]
    for source in wanted:
        if not elsewhere or sources.is_here(source):
            _look(source, problems)
    problems.raise_if_any()


def require_columns(recipe: RecipeSpec, *, trains: bool = True) -> None:
    """The same of a file of texts and labels that `data.path` names itself."""
    data = recipe.data
    held_out = data.eval is not None and data.eval.hold_out is not None
    wanted = [data.train] if trains or held_out else []
    for split in [*wanted, *([data.eval] if data.eval is not None and not held_out else [])]:
        try:
            columns.read(recipe, split, most_characters=MOST_CHARACTERS)
        except ModuleNotFoundError as error:
            if error.name != "pyarrow":
                raise


def _look(source: Source, problems: Problems) -> None:
    parts = sources.local(source)
    if parts is None:
        return
    placed = ((row.place, row.value) for row in rows.of_files(source, parts, problems, []))
    characters = 0
    try:
        for made in conversations.of_rows(source, placed, problems):
            characters += len(made)
            if characters > MOST_CHARACTERS:
                return
    except ModuleNotFoundError as error:  # pyarrow, in an environment that runs no recipes; the ranks' own has it
        if error.name != "pyarrow":
            raise
