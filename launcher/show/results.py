"""What a command leaves: metrics, exports, reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table

from launcher.messages import Message, translated
from launcher.recipe import metrics as table
from launcher.recipe.metrics import Metric
from launcher.rundir import records
from launcher.show.console import err, joined, number_text, out, print_json
from launcher.show.text import Text


def exported(result: Mapping[str, Any], as_json: bool) -> None:
    """What `export` wrote."""
    if as_json:
        print(print_json(dict(result)))
        return
    for note in result["notes"]:
        out.print(Text(translated(note)))
    files = result["files"]
    where = files[0] if len(files) == 1 else Message("{num_files} files", num_files=len(files))
    out.print(Text(Message("from       {source}", source=result["source"])))
    out.print(
        Text(
            Message(
                "weights    {parameters:,} numbers in {dtype}, {bytes:,.1f} MB in {where}",
                parameters=result["parameters"],
                dtype=result["dtype"],
                bytes=result["bytes"] / 1e6,
                where=where,
            )
        )
    )
    out.print(Text(Message("exported   {out}", out=result["out"])))


def reported(facts: Mapping[str, Any], path: Path, as_json: bool) -> None:
    """Where the page is, and each run in a line. On stderr the files that it had to do without."""
    for run in facts["runs"]:
        for problem in run["unread"]:
            err.print(Text(f"{run['path']}/{problem}"))
    if as_json:
        print(print_json(facts))
        return
    for run in facts["runs"]:
        scores = "  ".join(
            f"{k.replace('_', ' ')} {number_text(v, '.4f')}" for k, v in run["figures"].items() if v < 1000
        )
        out.print(
            Text(
                Message(
                    "{label}  {status}  {steps} steps  {scores}",
                    label=run["label"],
                    status=run["status"],
                    steps=run["steps"],
                    scores=scores,
                ).rstrip()
            )
        )
    out.print(Text(Message("report: {path}", path=path)))


def recipes(paths: Sequence[Path], as_json: bool) -> None:
    """Name and first comment line of each shipped recipe."""
    first = {p: p.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for p in paths}
    if as_json:
        print(json.dumps([{"name": p.stem, "path": str(p), "about": about} for p, about in first.items()], indent=2))
        return
    out.print(joined((f"{path.stem:<14} ", "bold", f"{about}  ({path})", "") for path, about in first.items()))


class _Wide:
    """A table whose columns go on below where they have no room beside each other; the first one is in each part."""

    def __init__(self, columns: Sequence[tuple[Text, list[str]]]) -> None:
        """
        Args:
            columns: the head and the cells of each.
        """
        self._columns = columns
        self._widths = [max(map(cell_len, [*head.plain.split(), *cells])) for head, cells in columns]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        part, used = [0], self._widths[0]
        for number in range(1, len(self._columns)):
            room = self._widths[number] + 2
            if len(part) > 1 and used + room > options.max_width:
                yield self._table(part)
                part, used = [0], self._widths[0]
            part.append(number)
            used += room
        yield self._table(part)

    def _table(self, part: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number in part:
            table.add_column(self._columns[number][0], justify="right", min_width=self._widths[number])
        for cells in zip(*(self._columns[number][1] for number in part), strict=True):
            table.add_row(*cells)
        return table


MAX_BETWEEN_EPOCHS = 20
"""Evaluations that the table of epochs has room for, beside those at the ends of epochs."""


def epochs(metrics: Mapping[str, Any], own: Sequence[Metric] = (), evals: Sequence[records.Eval] = ()) -> _Wide:
    """The table of epochs of metrics.json, with the evaluations between them where they are few.

    Args:
        own: metrics that are functions of the user's.
        evals: every evaluation of the training.
    """
    scores = table.figures_among(metrics.get("final", {}), own)
    columns = (
        (Message("Epoch"), "epoch", "g"),
        (Message("Training Loss"), "train_loss", ".6f"),
        (Message("Validation Loss"), "eval_loss", ".6f"),
        *((metric.heading, metric.name, ".6f") for metric in scores),
    )
    rows = _with_evaluations(metrics.get("epochs", []), evals)
    return _Wide([(Text(head), [number_text(row.get(key), form) for row in rows]) for head, key, form in columns])


def _with_evaluations(rows: Sequence[Mapping[str, Any]], evals: Sequence[records.Eval]) -> list[Mapping[str, Any]]:
    """Rows in order. An evaluation by steps that falls on the end of an epoch has its figures in the epoch's row."""
    found: dict[float | None, dict[str, Any]] = {
        one.epoch: {"epoch": one.epoch, **one.figures} for one in evals if one.epoch is not None
    }
    at_ends = [{**found.pop(row.get("epoch"), {}), **row} for row in rows]
    between = found.values() if len(found) <= MAX_BETWEEN_EPOCHS else ()
    return sorted([*at_ends, *between], key=lambda row: row.get("epoch") or 0.0)


def sets(final: Mapping[str, Any], names: Iterable[str], own: Sequence[Metric] = ()) -> _Wide:
    """A line for each set that is evaluated by its name, of metrics.json's `final`."""
    names = list(names)
    scores = table.figures_among(final, own)
    shown = ((Message("Validation Loss"), table.LOSS), *((metric.heading, metric.name) for metric in scores))
    columns = [
        (Text(head), [number_text(final.get(f"{name}_{figure}"), ".6f") for name in names]) for head, figure in shown
    ]
    return _Wide([(Text(Message("Set")), names), *columns])


def confusion(matrix: Sequence[Sequence[int]]) -> Table:
    table = Table(
        box=None, pad_edge=False, title=Text(Message("rows: label, columns: prediction")), title_justify="left"
    )
    for head in ("", *map(str, range(len(matrix)))):
        table.add_column(head, justify="right")
    for label, counts in enumerate(matrix):
        table.add_row(str(label), *map(str, counts))
    return table


def figures_text(metrics: Mapping[str, Any]) -> str:
    """Of an evaluation without a training: every figure that is one number, as precise as it is."""
    final = {name: value for name, value in metrics.get("final", {}).items() if isinstance(value, int | float)}
    width = max(map(len, final), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in final.items())


def train_output(metrics: Mapping[str, Any]) -> str:
    train = dict(metrics.get("train", {}))
    step, loss = train.pop("global_step", None), train.pop("train_loss", None)
    return f"TrainOutput(global_step={step}, training_loss={loss}, metrics={train})"
