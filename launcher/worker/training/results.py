"""What a run leaves of each row that was evaluated: predictions.jsonl, and the rows that are worst for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import files
from launcher.recipe.tasks.base import LOSS, NAMES
from launcher.worker.batching import splits
from launcher.worker.tasks import row_scores
from launcher.worker.tasks.predictions import Predictions, named

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.paths import RunDir
    from launcher.rundir.prepared import Prepared


def write_predictions(run: RunDir, recipe: RecipeSpec, prepared: Prepared, predictions: Predictions) -> None:
    """Write both files. Rank 0 alone calls it."""
    about: dict[str, Any] = splits.about(prepared.evaluated)
    names = named(predictions, prepared.label_names)
    more = about | (names if NAMES in recipe.predictions else {})
    predictions, by = row_scores.scored(recipe.metrics, predictions), row_scores.first(recipe.metrics, predictions)
    order = {} if by is None else {"order": row_scores.worst_first(by, predictions)}
    files.write_text(run.predictions_path, "".join(predictions.lines(more, losses=LOSS in recipe.predictions)))
    facts = {} if by is None else {"by": by.name}
    files.write_json(run.worst_rows_path, {**facts, "rows": predictions.worst(about | names, **order)})
