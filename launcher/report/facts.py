"""A run directory, read for a report: whatever is there, of any version and however the run ended. Nothing here fails for
want of a file; what is there and cannot be read is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from launcher.recipe import metrics
from launcher.recipe.metrics import Metric
from launcher.rundir.history import History
from launcher.rundir.records import Failure

Status = Literal["done", "failed", "interrupted", "running", "unfinished"]


MAX_LABELS = 2_000
"""Of a matrix that is counted here: its size is the square of the largest label."""


@dataclass(frozen=True)
class Run:
    """One run as a report shows it. Mappings are as the files have them, empty where there is none."""

    path: Path
    name: str
    label: str
    """Tells it from the other runs of the same report."""
    status: Status
    history: History
    plan: Mapping[str, Any]
    values: Mapping[str, Any]
    """The resolved recipe, flat: `training.learning_rate` → 5e-05."""
    origins: Mapping[str, str]
    """Where the values that are not defaults came from."""
    metrics: Mapping[str, Any]
    failure: Failure | None
    log_tail: str
    """The last lines of the failing rank's log."""
    data: Mapping[str, Any]
    env: Mapping[str, Any]
    confusion: Sequence[Sequence[int]]
    """Rows are labels, columns predictions; empty where nothing was predicted."""
    label_names: Sequence[str]
    worst: Sequence[Mapping[str, Any]]
    """Evaluated rows with the largest losses, or the worst `worst_by`, as worst_rows.json has them."""
    worst_by: str
    """The metric by which texts were ordered; '' for the loss."""
    unread: Sequence[str]
    """Files that are there and could not be read, each with the reason: `metrics.json: not JSON: …`."""

    @property
    def own_metrics(self) -> list[Metric]:
        """Metrics of its recipe that are functions of the user's."""
        return metrics.of_the_user(mapping(self.plan.get("recipe")))

    @property
    def seconds(self) -> float | None:
        """From the first event to the last; of a run that was taken up again, the pause too."""
        history = self.history
        return None if history.started is None or history.latest is None else history.latest - history.started

    @property
    def started(self) -> str:
        if self.history.started is None:
            return ""
        return datetime.fromtimestamp(self.history.started, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")

    @property
    def figures(self) -> dict[str, float]:
        """The final figures: scores and losses of metrics.json, else those of the last evaluation; and the speed."""
        final = mapping(self.metrics.get("final"))
        if not final and self.history.evals:
            final = self.history.evals[-1].figures
        leave_out = {"step", "epoch", "time", "eval_samples", "eval_runtime", "eval_samples_per_second"}
        figures = {k: v for k, v in final.items() if is_number(v) and k not in leave_out}
        train = mapping(self.metrics.get("train"))
        if is_number(train.get("train_loss")):
            figures["train_loss"] = train["train_loss"]
        return figures | self.speed

    @property
    def speed(self) -> dict[str, float]:
        """Of all steps together, without evaluating, saving and starting."""
        rates = self.history.rates
        seconds = sum(r.seconds for r in rates)
        if not seconds:
            return {}
        return {
            "samples_per_second": sum(r.rows for r in rates) / seconds,
            "tokens_per_second": sum(r.tokens for r in rates) / seconds,
            "seconds_per_step": seconds / max(sum(r.steps for r in rates), 1),
        }

    def by_rank(self) -> list[dict[str, float]]:
        """For each rank: peak memory in bytes, and the median over the run of its own seconds a step."""
        from launcher.rundir.rates import own_seconds

        rates = self.history.rates
        own = [own_seconds(r) for r in rates]
        count = max((len(row) for row in own), default=0)
        rows = []
        for rank in range(count):
            times = sorted(row[rank] for row in own if rank < len(row))
            row: dict[str, float] = {"rank": rank, "own_s": times[len(times) // 2]}
            for name in ("host_peak_bytes", "device_peak_bytes", "device_bytes"):
                sizes = [column[rank] for r in rates if rank < len(column := getattr(r, name) or ())]
                if sizes:
                    row[name] = max(sizes)
            rows.append(row)
        return rows


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; an empty mapping is a value."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
