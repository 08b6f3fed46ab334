"""What other tools do at evaluations beside counting the loss: end a training early, and have the model write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from launcher.messages import Message
from launcher.recipe import metrics, schedules, training_rules
from launcher.recipe.importers.given import Given
from launcher.recipe.metrics.bleu import BLEU
from launcher.recipe.metrics.rouge import ROUGE1, ROUGE2, ROUGE_L
from launcher.recipe.tasks import table as tasks

_OF_TEXTS = (ROUGE1.name, ROUGE2.name, ROUGE_L.name, BLEU.name)
_OF_BEST = ("metric_for_best_model", "greater_is_better", "load_best_model_at_end")
_WRITES = "predict_with_generate"
"""By the name that transformers, LLaMA-Factory and ms-swift have for it."""


class Evaluations(Given):
    """The part of an import that is about evaluations."""

    stops: ClassVar[str]
    """The tool's key for the evaluations in a row that may be no better."""

    @property
    def _has_eval(self) -> bool:
        return self.out.values["data"].get("eval", (None, ""))[0] is not None

    def _stop_early(self, *, evaluates: bool, keeps_best: bool) -> None:
        """Early stopping, where the key is not off.

        Args:
            evaluates: whether the file evaluates during the training, where it has rows for it.
            keeps_best: whether the model of the best checkpoint is what remains.

        Raises:
            LaunchError: nothing is evaluated.
        """
        patience = self._take(self.stops, None, Message("a whole number above 0"))
        if patience is None:
            return
        if not evaluates or not self._has_eval:
            what = Message("{key}: nothing is evaluated during the training", key=self.stops)
            raise self._fail(self.stops, what, Message("remove it, or hold out rows and say when they are evaluated"))
        self.out.put("early_stopping.patience", patience, self._origin(self.stops))
        origin = self._origin("load_best_model_at_end") or Message("its default")
        self.out.put("training.load_best_model_at_end", keeps_best, origin)

    def _leave_without_effect(self) -> None:
        if "early_stopping" in self.out.values:
            self._require_best()
        super()._leave_without_effect()

    def _require_best(self) -> None:
        """Raises LaunchError where evaluations are compared by a figure, or kept by saves, that a recipe does not have."""
        rows = {key: value for key, (value, _) in self.out.values["training"].items()}
        computed = list(map(metrics.load, tasks.load(self.task).default_metrics))
        held = self.out.values["data"]["eval"][0]
        problems = training_rules.problems(
            schedules.with_early_stopping(rows),
            metrics=computed,
            has_eval=True,
            sets=tuple(held) if isinstance(held, Mapping) else (),
        )
        for key, reason in problems:
            if key in _OF_BEST:
                what = Message("{key}: {reason}", key=key, reason=reason)
                instead = Message("or remove {key}, and set early_stopping in the recipe", key=self.stops)
                raise self._fail(
                    key if key in self.given else self.stops,
                    what,
                    Message("correct that line, {instead}", instead=instead),
                )

    def _write_texts(self, settings: Mapping[str, Any]) -> None:
        """Have the model write at evaluations. `settings`: by their names here and there; None for the model's own."""
        for key, value in settings.items():
            if value is not None:
                self.out.put(f"generation.{key}", value, self._origin(key) or Message("its default"))
        names = [*tasks.load(self.task).default_metrics, *_OF_TEXTS]
        self.out.put("metrics.", names, self._origin(_WRITES))
        reason = Message(
            "its figures: ROUGE is of jieba's words there and BLEU the mean of the rows; rouge-score's and sacreBLEU's here"
        )
        self._leave(_WRITES, reason)

    def _asks_for_texts(self, settings: Iterable[str], *, has_answers: bool) -> bool:
        """Whether the model writes at evaluations; what says how is listed where it does not."""
        if not self._take(_WRITES, False):
            reason = Message("nothing is written at evaluations")
        elif not self._has_eval:
            reason = Message("nothing is evaluated")
        elif not has_answers:
            reason = Message("texts have no answers to compare with")
        else:
            return True
        for key in (_WRITES, *settings):
            self._leave(key, reason)
        return False
