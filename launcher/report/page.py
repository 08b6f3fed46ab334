"""Run directories → one page that describes them: self-contained HTML, or its facts as JSON. Imports what draws only when
it draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from launcher import __version__, files
from launcher.recipe import metrics
from launcher.recipe.metrics import Metric
from launcher.report import charts
from launcher.report.facts import Run, flat, is_number
from launcher.report.read import load, load_all
from launcher.rundir import early_stop
from launcher.rundir.rates import macro_text

__all__ = ["Run", "html", "load", "load_all", "summary", "write"]

_FOLDER = Path(__file__).parent
MAX_CLASSES = 40
"""Up to here a confusion matrix is shown whole."""
MAX_TEXT = 1000
"""Characters of a row's text."""
_NO_TEXTS = frozenset({"set", "id", "label", "prediction", "label_name", "prediction_name"})
_UNITS = {"samples_per_second": "rows/s", "tokens_per_second": "tokens/s", "seconds_per_step": "s/step"}


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    files.write_text(path, html(runs))


def html(runs: Sequence[Run]) -> str:
    """The page of one run, or of several compared. It names nothing outside itself."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "duration": _duration, "gib": _gib, "clock": _clock, "value": _value}
    drawn = charts.compared(runs) if len(runs) > 1 else charts.of_run(runs[0])
    return environment.get_template("page.html").render(
        runs=runs,
        # matplotlib escapes what it writes, and gets no text of the user's.
        charts=[(chart, Markup(charts.svg(chart, f"p{i}"))) for i, chart in enumerate(drawn)],  # noqa: S704
        differing=differing(runs),
        software=_software(runs),
        figures=figure_table(runs),
        averages=dict.fromkeys(filter(None, (macro_text(run.metrics) for run in runs))),
        early_stop=early_stop.text,
        units=_UNITS,
        confusions=[_confusion(run) for run in runs],
        worst=[_worst(row, runs[0].worst_by) for row in runs[0].worst],
        worst_by=_heading(runs[0].worst_by),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),  # noqa: S704
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page says, as JSON values."""
    return {
        "runs": [
            {
                "path": str(run.path),
                "label": run.label,
                "status": run.status,
                "started": run.started,
                "seconds": run.seconds,
                "steps": run.history.step,
                "figures": run.figures,
                "macro_average": run.metrics.get("macro_average"),
                early_stop.KEY: run.metrics.get(early_stop.KEY),
                "confusion_matrix": run.confusion,
                "worst_rows": list(run.worst),
                "ranks": run.by_rank(),
                "restarts": run.history.num_restarts,
                "incidents": [asdict(one) for one in run.history.incidents],
                "failure": run.failure.to_json() if run.failure else None,
                "unread": list(run.unread),
                "recipe": {k: {"value": v, "from": run.origins.get(k, "default")} for k, v in run.values.items()},
            }
            for run in runs
        ],
        "differing": {key: [row.get(key) for row in map(_all_values, runs)] for key in differing(runs)},
    }


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Recipe keys, and decisions of the plan, whose values are not the same in all runs."""
    if len(runs) < 2:
        return {}
    rows = [_all_values(run) for run in runs]
    keys = dict.fromkeys(key for row in rows for key in row)
    table = {key: [row.get(key) for row in rows] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def figure_table(runs: Sequence[Run]) -> list[tuple[str, list[float | None], float | None]]:
    """(name, value in each run, the best of them where there are several to choose from), scores first."""
    rows = [run.figures for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    own = charts.own_metrics(runs)
    scores = [metric.name for metric in metrics.figures(own)]
    order = [n for n in (*scores, "eval_loss", "train_loss") if n in names]
    out = []
    for name in [*order, *(n for n in names if n not in order)]:
        values = [row.get(name) for row in rows]
        known = [v for v in values if v is not None]
        best = None
        if len({_figure(v) for v in known}) > 1:  # what looks the same is not better
            best = min(known) if less_is_better(name, own) else max(known)
        out.append((name, values, best))
    return out


def less_is_better(name: str, own: Sequence[Metric] = ()) -> bool:
    """Of a row of the table of figures: a score, a loss or a speed. `own`: metrics that are functions of the user's."""
    greater = metrics.greater_is_better(name, own)
    return not greater if greater is not None else name.endswith((metrics.LOSS, "seconds_per_step"))


def _all_values(run: Run) -> dict[str, Any]:
    plan = run.plan
    decided = {k: plan.get(k) for k in ("strategy", "precision", "device", "num_nodes", "nproc_per_node") if k in plan}
    return {**run.values, **{f"plan: {k}": v for k, v in {**decided, **flat(plan.get("batch") or {})}.items()}}


def _software(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """Machine and versions, a row each."""
    rows = []
    for run in runs:
        machine = run.history.machine.facts if run.history.machine else {}
        versions = machine.pop("versions", None) or {}
        memory = machine.pop("memory_bytes", None)
        chips = machine.pop("chips", None)
        rows.append(
            {
                **machine,
                **({"host memory": _gib(memory)} if memory else {}),
                **({"cards": f"{len(chips)} x {', '.join(sorted(set(map(str, chips))))}"} if chips else {}),
                **versions,
                "ascend-launch": run.plan.get("launcher"),
            }
        )
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value not in (None, ""))
    return [(name, [row.get(name) for row in rows]) for name in names]


def _confusion(run: Run) -> dict[str, Any]:
    """The matrix with shares of each row, and precision and recall of each class."""
    matrix = run.confusion
    size = len(matrix)
    names = [run.label_names[i] if i < len(run.label_names) else str(i) for i in range(size)]
    classes = []
    for i in range(size):
        hits, rows, columns = matrix[i][i], sum(matrix[i]), sum(row[i] for row in matrix)
        recall, precision = hits / rows if rows else None, hits / columns if columns else None
        classes.append({"name": names[i], "rows": rows, "predicted": columns, "precision": precision, "recall": recall})
    mixed = sorted(
        ((matrix[a][b], names[a], names[b]) for a in range(size) for b in range(size) if a != b and matrix[a][b]),
        reverse=True,
    )
    return {
        "names": names,
        "rows": [[(count, count / sum(row) if sum(row) else 0.0) for count in row] for row in matrix]
        if size <= MAX_CLASSES
        else [],
        "classes": classes,
        "mixed": mixed[:10],
        "total": sum(map(sum, matrix)),
    }


def _heading(name: str) -> str:
    """Of a metric; its name where it is not installed."""
    return next((metric.heading for metric in metrics.known([name])), name)


def _worst(row: Mapping[str, Any], by: str) -> dict[str, Any]:
    """A row of worst_rows.json as the page shows it."""
    loss, count = row.get("loss"), row.get("count", 1)
    place = " ".join(str(row[key]) for key in ("set", "index", "id") if row.get(key) is not None)
    answers = {name: _answer(row.get(f"{name}_name", row.get(name))) for name in ("label", "prediction")}
    mean = loss / max(count, 1) if is_number(loss) and is_number(count) else None
    texts = {key: value[:MAX_TEXT] for key, value in row.items() if isinstance(value, str) and key not in _NO_TEXTS}
    return {"place": place, "loss": mean, "score": row.get(by), **answers, "texts": texts}


def _answer(value: Any) -> str:
    """A label, several, or values."""
    if isinstance(value, list):
        return ", ".join(map(_answer, value)) or "none"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _value(value: Any) -> str:
    """A recipe's value as a recipe would spell it."""
    import json

    if value is None:
        return "null"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def _gib(size: Any) -> str:
    """A dash for what an older version did not count."""
    return f"{size / (1 << 30):.2f} GiB" if isinstance(size, int | float) else "–"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).strftime("%H:%M:%S")
