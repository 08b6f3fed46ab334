"""The part of a strategy that runs in ranks: a strategy names its own (`engine`), and this loads it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from launcher import plugins
from launcher.planning.plan import Plan

if TYPE_CHECKING:
    from launcher.worker.engines.pieces import Parts


class Engine(Protocol):
    """What of a rank's work depends on the strategy. `launcher.worker.engines.base.Base` has an answer for all of it.

    Methods that join collectives are called on every rank.
    """

    def preload(self) -> None:
        """Import what its ranks need, before they are forked. Must start no thread and touch no device."""

    def join(self, plan: Plan, *, timeout_s: float) -> None:
        """Join the process group, where that must come before TrainingArguments."""

    def before_trainer(self, plan: Plan) -> None:
        """After TrainingArguments, before Trainer makes its accelerator."""

    def after_trainer(self, trainer: Any) -> None:
        """After Trainer has made its accelerator, before the model is wrapped."""

    def adapt_model(self, model: Any) -> None:
        """A model that has just been loaded."""

    def world_sizes(self) -> Mapping[str, int]:
        """World sizes that its libraries have found for themselves, by whose they are."""

    def check(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        """Refuse a wrapped model that is not as planned.

        Returns:
            What was found: parameters, local_parameters, and more of its own.

        Raises:
            LaunchError: names what disagrees.
        """

    def check_evaluation(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        """As `check`, for a model that only evaluates."""

    def wrapped_for_evaluation(self, trainer: Any) -> Any:
        """Place the model where evaluation runs without a training before it; DeepSpeed's engine around it, else None."""

    def gathered(self, trainer: Any, *, whole: bool) -> AbstractContextManager[None]:
        """For a while in which nothing is trained, let parts of the wrapped model be called as the whole of it is.

        `whole`: keep all weights on each rank, so that ranks call it at different times.
        """

    def parts(self, trainer: Any) -> Parts:
        """The state of a wrapped training, as pieces that any number of ranks and any strategy can read."""


def of(plan: Plan) -> Engine:
    """The plan's.

    Raises:
        LaunchError: what the strategy names is not there.
    """
    engine: Engine = plugins.load_part("strategy", plan.strategy, plan.sharing.engine)
    return engine
