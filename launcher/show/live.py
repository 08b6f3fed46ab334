"""The panel below a running job: where it is, how fast, and which rank holds the others up. History in, lines out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from launcher.messages import Message, joined, plural, translated
from launcher.recipe import metrics
from launcher.rundir.history import History
from launcher.rundir.rates import own_seconds, stragglers
from launcher.rundir.records import Rates
from launcher.show.text import Text

MAX_FIGURES = 4
"""Of a program's evaluation, which may have any number."""
MAX_RANKS = 8
"""Ranks that get a line of their own; of more, those that stand out do."""
_BARS = "▁▂▃▄▅▆▇█"
_GIB = 1 << 30


def panel(
    history: History, now: float, *, width: int, height: int, is_program: bool = False, own: Sequence[str] = ()
) -> RenderableType:
    """Lines no wider than `width`, and fewer than `height`.

    Args:
        history: the run so far.
        now: the wall clock, in seconds.
        width: columns of the terminal.
        height: its rows; the ranks' lines go first where there are too few.
        is_program: whether it is a program of the user's, of which less is known.
        own: metrics that are functions of the user's.
    """
    lines: list[RenderableType] = [_progress(history, now, width)]
    if is_program:
        lines.append(_whole([*pace(history), *_latest(history)], width, history))
    elif history.logs:
        lines.append(_figures(history, width, own))
    lines += _ranks(history, width)[: max(height - len(lines) - 2, 0)]
    return Group(*lines)


def _progress(history: History, now: float, width: int) -> RenderableType:
    if history.phase not in ("training", "evaluating") or not (history.max_steps or history.step):
        since = history.phase_since or history.started
        elapsed = f"  {clock(now - since)}" if since else ""
        restarts = Message("  ({restarts})", restarts=_restarts(history)) if history.num_restarts else ""
        what = joined((history.phase, restarts, " ...", elapsed), "")
        return Text(what, style="bold", no_wrap=True, overflow="ellipsis")
    left = Text(_steps(history), style="bold")
    if history.num_epochs:
        left.append(
            Message("  epoch {epoch:.2f}/{num_epochs:g} ", epoch=history.epoch, num_epochs=history.num_epochs), style=""
        )
    right = Text()
    if history.evaluation is not None:
        done, total = history.evaluation
        batches = Message(" evaluating {done}/{total}", done=done, total=total)
        texts = Message(" generating {done} of {total}", done=done, total=total)
        right.append(texts if history.generates else batches, style="cyan")
    seconds = history.seconds_left
    if seconds is not None:
        # What has passed since the latest event is no longer left.
        passed = now - history.latest if history.latest else 0.0
        right.append(Message(" {highest} left", highest=clock(max(seconds - max(passed, 0.0), 0.0))))
    if history.num_restarts:
        right.append(f"  {_restarts(history)}", style="yellow")
    room = width - left.cell_len - right.cell_len
    if room < 6 or not history.max_steps:
        return Text.assemble(left, right, no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=history.max_steps, completed=history.step, width=room)
    grid = Table.grid(padding=0)
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_row(left, bar, right)
    return grid


def _steps(history: History) -> str:
    if not history.max_steps:
        return Message("step {step}", step=history.step)
    return Message("step {step}/{max_steps}", step=history.step, max_steps=history.max_steps)


def pace(history: History) -> list[str]:
    """How fast a program of the user's trains, of which nothing else is known; empty before two steps."""
    seconds = history.seconds_per_step
    return [Message("{rate} steps/s", rate=f"{1 / seconds:.3g}")] if seconds else []


def summary(history: History) -> str:
    """Where a program's training is, in one line of text."""
    return joined([_steps(history), *pace(history), *_latest(history)], "  ")


def _latest(history: History) -> list[str]:
    """The figures of a program's training: its loss, its learning rate, and those of its latest evaluation."""
    parts: list[str] = []
    if history.logs:
        last = history.logs[-1]
        parts.append(Message("loss {loss}", loss=_number(last.loss, ".4f")))
        if last.learning_rate is not None:
            parts.append(Message("lr {learning_rate}", learning_rate=_number(last.learning_rate, ".3g")))
    if history.evals:
        numbers = ((k, v) for k, v in history.evals[-1].figures.items() if isinstance(v, int | float))
        parts += [f"{k.replace('_', ' ')} {_number(v, '.4f')}" for k, v in itertools.islice(numbers, MAX_FIGURES)]
    return parts


def _restarts(history: History) -> str:
    return plural("{count} restart", "{count} restarts", count=history.num_restarts)


def _figures(history: History, width: int, own: Sequence[str]) -> Text:
    last = history.logs[-1]
    parts: list[str] = [
        Message("loss {loss}", loss=_number(last.loss, ".4f")),
        Message("lr {learning_rate}", learning_rate=_number(last.learning_rate, ".3g")),
    ]
    if history.rates:
        rates = history.rates[-1]
        seconds = rates.seconds or 1e-9
        parts.insert(1, f"{_short(rates.tokens / seconds)} tokens/s")
        parts.insert(2, f"{_short(rates.rows / seconds)} rows/s")
        parts.append(f"{_duration(rates.seconds / (rates.steps or 1))}/step")
    parts.append(Message("grad {grad_norm}", grad_norm=_number(last.grad_norm, ".3g")))
    if history.evals:
        figures = history.evals[-1].figures
        shown = {"eval_loss", *own, *(metric.name for metric in metrics.known(figures) if metric.in_panel)}
        scores = {k: v for k, v in figures.items() if k in shown}
        parts += [f"{k.replace('_', ' ')} {_number(v, '.4f')}" for k, v in scores.items()]
    return _whole(parts, width, history)


def _whole(parts: Sequence[str], width: int, history: History) -> Text:
    """Figures in a line, and the curve of the loss where it fits."""
    text = Text()
    for i, part in enumerate(parts):  # whole figures only: one that is cut reads as another number
        piece = ("  " if i else "") + part
        if text.cell_len + len(piece) > width:
            break
        text.append(piece)
    curve = sparkline(history.losses.means, 24)
    if len(curve) > 2 and text.cell_len + len(curve) + 2 <= width:
        text.append(f"  {curve}", style="cyan")
    return text


def _ranks(history: History, width: int) -> list[RenderableType]:
    """A line for each rank: memory, its own work a step as a bar, and whether it holds the others up."""
    if not history.rates:
        return []
    rates = history.rates[-1]
    own, slow = own_seconds(rates), stragglers(rates)
    sizes, kind = memory(rates)
    if len(own) != len(sizes) or len(own) < 2:
        return [Text(f"{kind} {sizes[0] / _GIB:.2f} GiB", style="dim")] if sizes else []
    shown = standing_out(own, sizes, slow)
    head = Message("rank  {kind:>11}  own work a step", kind=kind)
    lines: list[RenderableType] = [Text(_fit(translated(head), width), style="dim")]
    longest, room = max(own) or 1e-9, max(min(width - 52, 40), 0)
    for rank in shown:
        bar = "━" * max(round(own[rank] / longest * room), 1) if room else ""
        word = Message("{slow:.1f} times the others' ", slow=slow[rank]) if rank in slow else ""
        line = Text(
            f"{rank:>4}  {sizes[rank] / _GIB:>7.2f} GiB  {_duration(own[rank]):>8} ", no_wrap=True, overflow="crop"
        )
        line.append(bar, style="red" if rank in slow else "green")
        line.append(f" {word}" if word else "", style="bold red")
        line.truncate(width)
        lines.append(line)
    if len(shown) < len(own):
        middle = sorted(own)[len(own) // 2]
        rest = Message(
            "{num_ranks} more ranks; of all: median {median}, memory {lowest:.2f} to {highest:.2f} GiB",
            num_ranks=len(own) - len(shown),
            median=_duration(middle),
            lowest=min(sizes) / _GIB,
            highest=max(sizes) / _GIB,
        )
        lines.append(Text(_fit(translated(rest), width), style="dim"))
    return lines


def memory(rates: Rates) -> tuple[list[int], str]:
    """What each rank holds now: of the card where there is one, else of the host; and the word for it."""
    if rates.device_bytes:
        return rates.device_bytes, Message("card memory")
    return rates.host_bytes or [], "memory"


def standing_out(own: Sequence[float], sizes: Sequence[int], slow: Mapping[int, float]) -> list[int]:
    """Ranks to show: all of a few; of many the slow ones, then the slowest, the fastest and the fullest."""
    everyone = range(len(own))
    if len(own) <= MAX_RANKS:
        return list(everyone)
    wanted = [
        *sorted(slow, key=lambda r: -slow[r]),
        max(everyone, key=lambda r: sizes[r]),
        min(everyone, key=lambda r: own[r]),
        *sorted(everyone, key=lambda r: -own[r]),
    ]
    return sorted(list(dict.fromkeys(wanted))[:MAX_RANKS])


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as bars of one line, the latest at the right; of many, the mean of each stretch."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [len(finite) * i // count for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in means)


def clock(seconds: float) -> str:
    """1:02:03, 2:03 or 0:03; days in front where there are some."""
    whole = max(int(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    text = f"{hours}:{minutes:02}:{whole % 60:02}" if hours or days else f"{minutes}:{whole % 60:02}"
    return f"{days} d {text}" if days else text


def _duration(seconds: float) -> str:
    return (
        Message("{seconds:.0f} ms", seconds=seconds * 1e3)
        if seconds < 1
        else f"{seconds:.2f} s"
        if seconds < 60
        else clock(seconds)
    )


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
