"""The loss of a recipe, in ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import plugins
from launcher.recipe import user_code
from launcher.recipe.losses import table
from launcher.recipe.tasks.table import MANY_LABELS
from launcher.worker import user_code as functions
from launcher.worker.losses.base import Settings
from launcher.worker.losses.class_weights import class_weights
from launcher.worker.losses.weights import LabelWeights

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared
    from launcher.worker.losses.base import Loss
    from launcher.worker.user_code import UserFunction


def of(plan: Plan, prepared: Prepared) -> Loss:
    """The loss that the recipe names, with the class weights of its training rows."""
    recipe = plan.recipe
    targets = recipe.task.targets(recipe.model, recipe.data)
    settings = Settings(
        parameters=recipe.loss.parameters,
        smoothing=float(plan.training_arguments.get("label_smoothing_factor", 0.0)),
        weights=weights_of(plan, prepared),
        has_many_labels=targets == MANY_LABELS,
        function=function(plan),
    )
    return made(recipe, settings)


def made(recipe: RecipeSpec, settings: Settings) -> Loss:
    """The recipe's loss with these settings."""
    kind = table.of(recipe.loss.name, recipe.task.targets(recipe.model, recipe.data))
    loss: Loss = plugins.load_object(kind.worker)(settings)
    return loss


def weights_of(plan: Plan, prepared: Prepared) -> LabelWeights | None:
    """The class weights of a training; None where it has none, or nothing is trained."""
    weights = class_weights(plan.recipe, prepared.label_names, prepared.train)
    return None if weights is None else LabelWeights(weights)


def function(plan: Plan) -> UserFunction | None:
    """The user's own function, where the recipe names one."""
    reference = user_code.reference(plan.recipe.loss.name)
    return None if reference is None else functions.load(plan, reference)
