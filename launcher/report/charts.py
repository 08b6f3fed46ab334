"""Runs → charts, as plain data; and a chart → SVG. Only drawing imports matplotlib, which takes half a second."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from launcher.recipe import metrics
from launcher.recipe.metrics import Metric
from launcher.report.facts import Run
from launcher.rundir.rates import own_seconds
from launcher.rundir.records import Eval, Log, Rates

Style = Literal["solid", "dashed", "dotted"]
Points = Sequence[tuple[float, float]]
MAX_POINTS = 400
"""Of a line; of more, the lowest and highest of each stretch are drawn, so that no spike is lost."""
NUM_COLOURS = 8
_STYLES: tuple[Style, ...] = ("solid", "dashed", "dotted")
"""Of runs that are compared: equal curves lie on one another, and a dashed one lets the other be seen."""
MAX_LINES = 8
"""Ranks that get a line of their own; more are drawn as the least, the median and the most."""


@dataclass(frozen=True)
class Line:
    """One curve. `colour` counts from 0 through the page's palette."""

    label: str
    points: Points
    colour: int
    style: Style = "solid"
    has_marks: bool = False


@dataclass(frozen=True)
class Chart:
    """Axes with their units, and what is drawn on them. No text of a user's: names of runs stand in the legend, in HTML."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    events: tuple[float, ...] = ()
    """Where on the x axis something befell the run."""
    from_zero: bool = False
    is_log: bool = False
    note: str = ""
    x_end: float = 0.0
    """The last step or epoch of all: charts of a page share their x axis."""


def of_run(run: Run) -> list[Chart]:
    """The curves of one run over its steps."""
    history = run.history
    events = tuple(float(i.step) for i in history.incidents if i.event in ("restart", "resume", "hang"))
    x = "optimizer step"
    note = "dashed uprights: a restart, and where it went on" if events else ""
    losses = [Line("training", _points(history.logs, "step", "loss"), 0)]
    losses += [Line("lost at a restart", _points(rows, "step", "loss"), 0, "dotted") for rows in history.undone[:1]]
    losses += [Line("evaluation", _points(history.evals, "step", "eval_loss"), 1, has_marks=True)]
    figures = metrics.figures(run.own_metrics)
    shares = [metric for metric in figures if metric.unit == metrics.SHARE]
    scores = [
        Line(metric.label, _points(history.evals, "step", metric.name), i, has_marks=True)
        for i, metric in enumerate(shares)
    ]
    charts = [
        Chart("Loss", x, "cross-entropy (nats)", tuple(losses), events, note=note),
        Chart("Scores of the evaluation", x, "share of 1", tuple(scores)),
        *(
            Chart(
                capitalised(metric.label),
                x,
                metric.unit,
                (Line("evaluation", _points(history.evals, "step", metric.name), 1, has_marks=True),),
                from_zero=True,
            )
            for metric in figures
            if metric not in shares
        ),
        Chart(
            "Learning rate",
            x,
            "learning rate",
            (Line("learning rate", _points(history.logs, "step", "learning_rate"), 0),),
            from_zero=True,
        ),
        Chart(
            "Gradient norm",
            x,
            "norm before clipping",
            (Line("gradient norm", _points(history.logs, "step", "grad_norm"), 0),),
            is_log=True,
        ),
        Chart(
            "Throughput",
            x,
            "tokens per second",
            (Line("all ranks", _speed(run), 0),),
            events,
            from_zero=True,
            note=note,
        ),
        Chart("Memory by rank", x, _memory_key(run)[1], _ranks(run, _memory), from_zero=True),
        Chart(
            "Own work by rank",
            x,
            "ms a step",
            _ranks(run, lambda r: [s * 1e3 for s in own_seconds(r)]),
            from_zero=True,
            note="loading rows and forward pass, without waiting for other ranks",
        ),
    ]
    end = max([history.step, *(row.step for rows in history.undone for row in rows)])
    return [drawn for chart in charts if (drawn := _drawable(chart, end)).lines]


def own_metrics(runs: Iterable[Run]) -> list[Metric]:
    """The functions of the user's among the metrics of all runs; of several of one name the first."""
    return list({metric.name: metric for run in reversed(list(runs)) for metric in reversed(run.own_metrics)}.values())[
        ::-1
    ]


def compared(runs: Sequence[Run]) -> list[Chart]:
    """The same curves of several runs on one another, over epochs, since a step of one may be four of another."""

    def lines(key: str, source: str, marks: bool = False) -> tuple[Line, ...]:
        return tuple(
            Line(run.label, _points(getattr(run.history, source), "epoch", key), i, _STYLES[i % 3], has_marks=marks)
            for i, run in enumerate(runs)
        )

    x = "epoch"
    charts = [
        Chart("Training loss", x, "cross-entropy (nats)", lines("loss", "logs")),
        Chart("Evaluation loss", x, "cross-entropy (nats)", lines("eval_loss", "evals", True)),
        *(
            Chart(capitalised(metric.label), x, metric.unit, lines(metric.name, "evals", True))
            for metric in metrics.figures(own_metrics(runs))
        ),
        Chart("Learning rate", x, "learning rate", lines("learning_rate", "logs"), from_zero=True),
        Chart(
            "Throughput",
            x,
            "tokens per second",
            tuple(
                Line(r.label, [(s * _epochs_per_step(r), y) for s, y in _speed(r)], i, _STYLES[i % 3])
                for i, r in enumerate(runs)
            ),
            from_zero=True,
        ),
    ]
    end = max(run.history.epoch for run in runs)
    return [drawn for chart in charts if (drawn := _drawable(chart, end)).lines]


def svg(chart: Chart, name: str) -> str:
    """The chart as an `<svg>` element whose colours are the page's; `name` keeps its ids apart from other charts'."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # nobody asked for its font cache
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    ours = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10.5,
        "axes.unicode_minus": True,
        "axes.edgecolor": _INK["axis"],
        "axes.labelcolor": _INK["text"],
        "xtick.color": _INK["axis"],
        "ytick.color": _INK["axis"],
        "xtick.labelcolor": _INK["text"],
        "ytick.labelcolor": _INK["text"],
        "grid.color": _INK["grid"],
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "axes.formatter.use_mathtext": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(ours)
        figure = Figure(figsize=(5.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for line in chart.lines:
            xs, ys = zip(*line.points, strict=True)
            marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if line.has_marks or len(xs) < 3 else {}
            style = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.6))}[line.style]
            axes.plot(xs, ys, color=_COLOURS[line.colour % NUM_COLOURS], linestyle=style, **marks)
        for x in chart.events:
            axes.axvline(x, color=_INK["axis"], linestyle=(0, (3, 3)), linewidth=0.9)
        if chart.is_log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif (
            chart.from_zero and min(y for line in chart.lines for _, y in line.points) >= 0
        ):  # a correlation may be below
            axes.set_ylim(bottom=0)
        if chart.x_end > 0:
            axes.set_xlim(0, chart.x_end * 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.x_label != "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(out.getvalue(), name)


# Stand-ins that no chart uses otherwise; the page puts its own colours, light or dark, in their place.
_INK = {"text": "#010101", "axis": "#020202", "grid": "#030303"}
_COLOURS = [f"#04{i:02x}04" for i in range(NUM_COLOURS)]
_VARIABLES = {
    **{colour: f"var(--{name})" for name, colour in _INK.items()},
    **{colour: f"var(--c{i})" for i, colour in enumerate(_COLOURS)},
}


def _inline(text: str, name: str) -> str:
    """matplotlib's file as an element of a page: no prolog, no white sheet, ids of its own, the page's fonts and colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>\s*', "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_2">.*?</g>\s*', "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = text.replace("xlink:href", "href")
    return re.sub(r"#0[1-4][0-9a-f]{4}", lambda m: _VARIABLES.get(m[0], m[0]), text)


def _points(rows: Sequence[Log | Eval], x: Literal["step", "epoch"], y: str) -> Points:
    """`y` is a field of a log, or a figure of an evaluation."""
    pairs: list[tuple[Any, Any]] = [
        (getattr(row, x), row.figures.get(y) if isinstance(row, Eval) else getattr(row, y)) for row in rows
    ]
    return [(float(a), float(b)) for a, b in pairs if _is_finite(a) and _is_finite(b)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _speed(run: Run) -> Points:
    return [(float(r.step), r.tokens / r.seconds) for r in run.history.rates if r.seconds > 0]


def _epochs_per_step(run: Run) -> float:
    # As it went: a run of max_steps, or of half an epoch, has a whole number of epochs for its plan.
    rows = [row for row in run.history.logs if row.epoch and row.step]
    return (rows[-1].epoch or 0.0) / rows[-1].step if rows else 0.0


def _memory_key(run: Run) -> tuple[str, str]:
    has_cards = any(r.device_bytes for r in run.history.rates)
    return ("device_bytes", "GiB of the card, reserved") if has_cards else ("host_bytes", "GiB of host memory")


def _memory(rates: Rates) -> list[float]:
    return [size / (1 << 30) for size in rates.device_bytes or rates.host_bytes or ()]


def _ranks(run: Run, values: Any) -> tuple[Line, ...]:
    """A line for each rank; of many, the least, the median and the most at each step."""
    rows = [(float(r.step), values(r)) for r in run.history.rates]
    rows = [(step, row) for step, row in rows if row]
    count = max((len(row) for _, row in rows), default=0)
    if count <= MAX_LINES:
        return tuple(
            Line(f"rank {rank}", thinned([(step, row[rank]) for step, row in rows if rank < len(row)]), rank)
            for rank in range(count)
        )
    of = {"most": -1, "median": None, "least": 0}
    lines = []
    for colour, (word, place) in enumerate(of.items()):
        points = [(s, sorted(row)[len(row) // 2 if place is None else place]) for s, row in rows]
        lines.append(Line(f"{word} of {count} ranks", thinned(points), colour))
    return tuple(lines)


def _drawable(chart: Chart, x_end: float) -> Chart:
    """Without lines that have no points, thinned, and on a logarithmic axis only where that shows more."""
    values = [y for line in chart.lines for _, y in line.points if y > 0]
    is_log = chart.is_log and bool(values) and max(values) > 100 * min(values)
    lines = []
    for line in chart.lines:
        points = [p for p in line.points if not is_log or p[1] > 0]
        if points:
            lines.append(replace(line, points=thinned(points)))
    return replace(chart, lines=tuple(lines), is_log=is_log, x_end=x_end)


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
    """At most two more than `most` points: of each stretch the lowest and the highest, in order, and the two ends."""
    if len(points) <= most + 2:
        return points
    count = most // 2
    out = [points[0]]
    for i in range(count):
        part = points[len(points) * i // count : len(points) * (i + 1) // count]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        out += sorted({low, high})
    return [*out, points[-1]]


def capitalised(label: str) -> str:
    """As a title begins."""
    return label[:1].upper() + label[1:]
