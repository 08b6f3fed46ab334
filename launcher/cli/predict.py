"""eval, predict and export: what is done with a trained model."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import confined, streams
from launcher.accelerators import table as accelerators
from launcher.cli import outputs
from launcher.cli.job import explained, goes_on, require_health
from launcher.cli.options import Count, Named, RecipeFile, complete_recipe
from launcher.cli.options import given as options_given
from launcher.errors import EXIT_OK, LaunchError

if TYPE_CHECKING:
    from launcher.jobs.feed import Feed
    from launcher.jobs.trained import Weights
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.outcome import Outcome
    from launcher.rundir.paths import RunDir


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
    help="File of texts, as JSON lines or plain lines; - is standard input.",
)
@click.option(
    "--output",
    "target",
    type=outputs.Name(),
    default="-",
    metavar="FILE|-",
    help="File for the answers, a JSON line each, in the order of the input; - is standard output.",
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
@click.option(
    "--recipe",
    type=RecipeFile(),
    shell_complete=complete_recipe,
    help="The recipe of the weights, where nothing beside them tells it.",
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
    form: str,
    column: str | None,
    keep: bool,
    skip_bad: bool,
    recipe: Path | None,
    batch_size: int | None,
    nproc: int | None,
    device: Any,
    max_restarts: int,
) -> None:
    """Label texts: one JSON line a text, with label, label_name and probabilities, in the order of the input."""
    import tempfile

    from launcher import again
    from launcher.jobs import feed as feeds
    from launcher.jobs import trained
    from launcher.jobs.feed import BATCHES_A_CHUNK, CHUNKS_A_RANK, Lines
    from launcher.recipe import load
    from launcher.rundir.chunks import Chunks
    from launcher.rundir.paths import RunDir
    from launcher.show import results
    from launcher.show.run import failure

    known = _format(form, source)
    _require_target(source, target, force=force)
    weights = trained.find(model, "--model")
    loaded = load.load(recipe) if recipe else load.Loaded(trained.recipe_of(weights), "predict", Path(weights.name), {})
    kept = RunDir(Path(tempfile.mkdtemp(prefix="ascend-launch-predict-")))
    with contextlib.ExitStack() as stack:
        stack.callback(_forget, kept)
        handle = _opened(stack, source)
        streams.outlive()
        plan, child_env = _prepare_ranks(loaded, weights, kept, batch_size, nproc, device, max_restarts)
        feed = feeds.Feed(
            lines=Lines(handle),
            out=stack.enter_context(_target(target)),
            chunks=Chunks(kept.chunks_path),
            name="<stdin>" if source == "-" else source,
            form=known,
            column=column or loaded.spec.data.text,
            keep=keep,
            skip_bad=skip_bad,
            chunk_rows=plan.batch.eval_size * BATCHES_A_CHUNK,
            max_chunks=plan.data_parallel_size * CHUNKS_A_RANK,
        )
        outcome = _run_ranks(feed, kept, child_env)
        if outcome.failure is not None:
            failure(outcome.failure, explained(outcome, kept))
        if outcome.exit_code != EXIT_OK:
            if goes_on(outcome, kept):
                results.to_repeat(again.command(["predict", *options_given(())]), is_stream=source == "-")
            sys.exit(outcome.exit_code)
        if feed.error is not None:
            raise LaunchError(
                "{feed}:{line}: {reason}",
                hint="correct that line, or pass over such lines with --skip-bad; the {num_rows} texts before it "
                "were answered",
                feed=feed.name,
                line=feed.error.line,
                reason=feed.error.reason,
                num_rows=feed.num_rows,
            )
    results.predicted(feed)
    feed.require_scores()


def _prepare_ranks(
    loaded: Loaded,
    weights: Weights,
    run: RunDir,
    batch_size: int | None,
    nproc: int | None,
    device: Any,
    max_restarts: int,
) -> tuple[Plan, dict[str, str]]:
    """The run directory as a launch would write it, and the environment of its agent."""
    from dataclasses import replace

    from launcher.accelerators import detect
    from launcher.clusters import environment
    from launcher.planning import decide, plan
    from launcher.render import env, files

    recipe = loaded.spec.model_copy(update={"script": None, "output_dir": str(run.path)})
    if batch_size is not None:
        recipe = recipe.model_copy(
            update={"parallel": recipe.parallel.model_copy(update={"eval_batch_size": batch_size})}
        )
    loaded = replace(loaded, spec=recipe, name="predict")
    environment.find(os.environ, 1)  # refuses to be started once a rank by another launcher
    cluster = detect.here(device, os.environ)
    use = plan.Use(mode="predict", weights=weights.name, trained_by=weights.trained_by())
    options = plan.Options(nproc=nproc, supervision=plan.Supervision(max_restarts=max_restarts), use=use)
    made = decide.make(loaded, cluster, options, _config(weights, recipe))
    require_health(made, cluster, run)
    user_env = dict(os.environ)
    files.write(files.texts(loaded, made, run, user_env), run)
    run.chunks_path.mkdir()
    return made, env.of_agent(made, run.path.resolve(), user_env)


def _config(weights: Weights, recipe: RecipeSpec) -> dict[str, Any] | None:
    """The model's config.json beside the weights, else of the model that they were trained from; None where neither is here."""
    from launcher.models.config import model_config

    for name in (weights.name, recipe.model.name):
        with contextlib.suppress(LaunchError):
            if config := model_config(name):
                return config
    return None


def _run_ranks(feed: Feed, run: RunDir, child_env: dict[str, str]) -> Outcome:
    from launcher.files import read_json
    from launcher.jobs import follow
    from launcher.render import files
    from launcher.show import results
    from launcher.show.run import event_beside_data

    def step() -> bool:
        if not feed.label_names:
            feed.label_names = (read_json(run.data_path) or {}).get("label_names", ())
        moved = feed.step()
        if feed.doubt:
            results.doubt(feed.name, feed.doubt)
            feed.doubt = ""
        while feed.bad:
            results.bad_line(feed.name, feed.bad.pop(0))
        return moved

    outcome = follow.run(files.agent_argv(run), run, child_env, event_beside_data, on_poll=step)
    if outcome.exit_code == EXIT_OK:
        feed.finish()
    return outcome


def _forget(run: RunDir) -> None:
    """Remove what a prediction needed, but for the logs of one that failed. Its chunks hold the user's texts."""
    import shutil

    shutil.rmtree(run.chunks_path if run.failure_path.exists() else run.path, ignore_errors=True)


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
    if target == "-":
        if streams.is_closed(1):
            raise LaunchError("--output -: standard output is closed", hint="name a file with --output")
        return
    path = Path(target)
    if source != "-" and path.exists() and Path(source).exists() and path.samefile(source):
        raise LaunchError("--output {target}: is the input", hint="name another file", target=target)
    outputs.check(path, force=force)


@contextlib.contextmanager
def _target(target: str) -> Iterator[int]:
    """Where answers go: a file is under its own name only once it is whole."""
    if target == "-":
        sys.stdout.flush()
        yield sys.stdout.fileno()
        return
    path = Path(target).resolve()
    is_stream = outputs.is_stream(path)
    partial = path if is_stream else path.with_name(path.name + ".partial")
    try:
        # What stands there under the name of ours is no link that somebody means us to follow.
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
    if not is_stream:
        partial.replace(path)


def _is_array(source: str) -> bool:
    with contextlib.suppress(OSError), Path(source).open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return False


NO_TEXTS = {".csv": "a table", ".tsv": "a table", ".parquet": "a table", ".arrow": "a table", ".xlsx": "a table"}
"""Names whose files would be taken for plain text, each of their lines for a text."""


def _format(asked: str, source: str) -> Any:
    """jsonl or text; None where the first line is to tell."""
    kind = Path(source).suffix.lower() if source != "-" else ""
    if asked != "auto":
        return asked
    found = NO_TEXTS.get(kind) or ("a JSON array" if kind == ".json" and _is_array(source) else None)
    if found:
        raise LaunchError(
            "--input {source}: is {actual}, and texts are read from JSON lines or plain lines",
            hint="write each row as a line of JSON, or add --format text if every line of it is a text",
            source=source,
            actual=found,
        )
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}.get(kind)
