"""`ascend-launch predict`: texts in, a label or an answer for each out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from launcher import confined, streams
from launcher.accelerators import table as accelerators
from launcher.cli import outputs
from launcher.cli.generation_options import generation_options, writing_of
from launcher.cli.options import Count, Named, RecipeFile, complete_recipe, machine_of
from launcher.cli.options import given as options_given
from launcher.errors import LaunchError


@click.command(name="predict")
@click.option(
    "--model",
    "model",
    type=outputs.Name(),
    required=True,
    metavar="P",
    help="A run directory, a checkpoint, a model or adapter folder, or a hub id.",
)
@click.option(
    "--input",
    "source",
    type=outputs.Name(),
    default="-",
    metavar="FILE|-",
    help="File of texts or conversations: JSON lines or plain lines, JSON, CSV, TSV, Parquet or Arrow; - is standard input, of lines.",
)
@click.option(
    "--output",
    "target",
    type=outputs.Name(),
    default="-",
    metavar="FILE|-",
    help="File for the answers, in the order of the input: a JSON line each, or CSV, TSV or Parquet by its name; - is standard output.",
)
@outputs.force_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "text"]),
    default="auto",
    help="What the input is [default: auto, by its name, else by its first line].",
)
@click.option(
    "--text",
    "column",
    metavar="NAME",
    help="The field of a JSON line that is the text [default: as in training, else text].",
)
@click.option("--keep", is_flag=True, help="Repeat each input in its answer, as `input`.")
@click.option("--skip-bad", is_flag=True, help="Report lines without a text and go on [default: end at the first].")
@generation_options
@click.option(
    "--shard",
    is_flag=True,
    help="Share the weights out over the ranks: for a model larger than a card, that writes text.",
)
@click.option("--no-chat", is_flag=True, help="Have the model go on with each text as it is, without a chat template.")
@click.option(
    "--recipe",
    type=RecipeFile(),
    shell_complete=complete_recipe,
    help="The recipe of the weights, where no file beside them names it.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Rows a rank computes at a time [default: 8].")
@click.option(
    "--nproc",
    type=Count(),
    default="auto",
    envvar="ASCEND_LAUNCH_NPROC",
    help="Ranks on this node [default: auto, one a card].",
)
@click.option(
    "--device",
    type=Named(accelerators.TABLE, accelerators.AUTO),
    default="auto",
    envvar="ASCEND_LAUNCH_DEVICE",
    help="Where ranks compute [default: auto, npu where there is one].",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    default=0,
    help="Maximum number of restarts after a failure; no row is lost or answered twice [default: 0].",
)
def predict_command(
    model: str,
    source: str,
    target: str,
    force: bool,
    form: Any,
    column: str | None,
    keep: bool,
    skip_bad: bool,
    recipe: Path | None,
    batch_size: int | None,
    max_restarts: int,
    shard: bool,
    no_chat: bool,
    **given: Any,
) -> None:
    """Answer rows, in the order of the input: with label, label_name and probabilities of a text, or with the text that a model writes."""
    from launcher import again
    from launcher.jobs import labels, predict, tables, trained
    from launcher.jobs.feed import Lines
    from launcher.planning.plan import Supervision
    from launcher.recipe import load
    from launcher.show.predictions import PredictView

    table = tables.opened(Path(source), form) if source != "-" else None
    form = table.form if table is not None else _format(form, source)
    _require_target(source, target, force=force)
    weights = trained.find(model, "--model")
    loaded = (
        labels.named(load.load(recipe))
        if recipe
        else load.Loaded(trained.recipe_of(weights), "predict", Path(weights.name), {})
    )
    writing = writing_of(given, loaded.spec.generation, is_chat=not no_chat)
    work = predict.Work(loaded, weights, batch_size, writing, shard)
    view = PredictView(is_stream=source == "-")
    with contextlib.ExitStack() as stack:
        lines = table.lines if table is not None else Lines(_opened(stack, source))
        streams.outlive()
        supervision = Supervision(max_restarts=max_restarts)
        for note in table.notes if table is not None else ():
            view.warning(source, note)
        job = stack.enter_context(predict.prepared(work, machine_of(given), supervision))
        rows = predict.Rows(
            source=lines,
            target=stack.enter_context(_target(target)),
            name="<stdin>" if source == "-" else source,
            form=form,
            column=column,
            keep=keep,
            skip_bad=skip_bad,
            kept=_partial(target),
        )
        feed = predict.feed(job, rows, writing)
        code = predict.label(job, feed, view, lambda: again.command(["predict", *options_given(())]))
        if code:
            sys.exit(code)
    view.answered(feed.num_rows, feed.num_bad, writes=job.loaded.spec.task.writes)
    feed.require_scores()


def _opened(stack: contextlib.ExitStack, source: str) -> int:
    if source == "-":
        if sys.stdin is None:
            raise LaunchError("--input -: standard input is closed", hint="name a file with --input")
        return sys.stdin.fileno()
    try:
        return stack.enter_context(Path(source).open("rb", buffering=0)).fileno()
    except OSError as error:
        raise LaunchError(
            "--input {source}: cannot be read: {problem}",
            hint="name a readable file",
            source=source,
            problem=error.strerror,
        ) from None


def _require_target(source: str, target: str, *, force: bool) -> None:
    from launcher.jobs import answers

    if target == "-":
        if streams.is_closed(1):
            raise LaunchError("--output -: standard output is closed", hint="name a file with --output")
        return
    path = Path(target)
    if source != "-" and path.exists() and Path(source).exists() and path.samefile(source):
        raise LaunchError("--output {target}: is the input", hint="name another file", target=target)
    outputs.check(path, force=force)
    if not outputs.is_stream(path):
        answers.require_written(path)


def _partial(target: str) -> Path | None:
    """The file that holds answers until they are whole; None where they are streamed."""
    path = Path(target).resolve()
    return None if target == "-" or outputs.is_stream(path) else path.with_name(path.name + ".partial")


@contextlib.contextmanager
def _target(target: str) -> Iterator[int]:
    """Where answers go: a file is under its own name only once it is whole, and JSON lines until then."""
    from launcher.jobs import answers

    if target == "-":
        sys.stdout.flush()
        yield sys.stdout.fileno()
        return
    path = Path(target).resolve()
    partial = _partial(target) or path
    is_stream = partial == path
    try:
        # A link that already has our file's name is not meant to be followed.
        handle = confined.open_write(partial, partial.parent) if not is_stream else None
        file = partial.open("wb", buffering=0) if handle is None else os.fdopen(handle, "wb", buffering=0)
    except OSError as error:
        raise LaunchError(
            "--output {target}: cannot be written: {problem}",
            hint="name a writable file",
            target=target,
            problem=error.strerror,
        ) from None
    with file:
        try:
            yield file.fileno()
        except BaseException:
            if not is_stream and not partial.stat().st_size:
                partial.unlink()
            raise
    if not is_stream and answers.is_table(path):
        _make_table(partial, path)
    elif not is_stream:
        partial.replace(path)


def _make_table(partial: Path, path: Path) -> None:
    """Of whole JSON lines; what is there already stays until the table is whole."""
    from launcher.jobs import answers

    made = path.with_name(path.name + ".table")
    try:
        answers.write_table(partial, path, made)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    partial.unlink()


def _format(asked: str, source: str) -> Any:
    """jsonl or text; None where the first line decides."""
    kind = Path(source).suffix.lower() if source != "-" else ""
    return asked if asked != "auto" else {".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}.get(kind)
