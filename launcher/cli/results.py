"""eval, predict and export: what is done with a trained model."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import confined, streams
from launcher.cli import outputs
from launcher.cli.launch import explained, goes_on, launch, require_health
from launcher.cli.options import Count, RecipeFile, complete_recipe, inputs, machine_options, require_packages
from launcher.cli.options import given as options_given
from launcher.errors import EXIT_OK, LaunchError

if TYPE_CHECKING:
    from launcher.plan import Plan
    from launcher.predict import Feed
    from launcher.rundir import RunDir
    from launcher.spec import Loaded, RecipeSpec
    from launcher.supervise import Outcome
    from launcher.trained import Weights


@click.command(name="eval")
@machine_options
@click.option("--checkpoint", type=outputs.Name(), required=True, metavar="P", help="A run directory, a checkpoint, a model or adapter folder, or a hub id.")  # fmt: skip
@click.option("--run-dir", type=outputs.Target(file_okay=False), help="Directory of this evaluation [default: a new one below output_dir].")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
def eval_command(recipe: Path, overrides: tuple[str, ...], checkpoint: str, run_dir: Path | None, as_json: bool, **machine: Any) -> None:  # fmt: skip
    """Evaluate the weights P on RECIPE's eval split, on every rank, with the figures of a training's evaluation."""
    from dataclasses import replace

    from launcher import plan, rundir, trained

    weights = trained.find(checkpoint, "--checkpoint")
    loaded, cluster, options, config = inputs(recipe, overrides, machine, debug=False, pretend=False, is_training=False)
    if loaded.spec.data.eval is None:
        raise LaunchError(f"{recipe}: data.eval is null", hint="name a split: data.eval.split=test")
    before = rundir.plan_beside(recipe)
    if before is None or before.use is None:  # else it is that of an evaluation, which is to go on
        loaded = replace(loaded, name=f"{loaded.name}-eval")
    use = plan.Use(mode="eval", weights=weights.name, trained_by=weights.trained_by())
    made = plan.make(loaded, cluster, replace(options, use=use), config)
    launch(loaded, cluster, made, run_dir, as_json)


@click.command(name="predict")
@click.option("--model", "model", type=outputs.Name(), required=True, metavar="P", help="A run directory, a checkpoint, a model or adapter folder, or a hub id.")  # fmt: skip
@click.option(
    "--input",
    "source",
    type=outputs.Name(),
    default="-",
    metavar="FILE|-",
    help="File of texts, as JSON lines or plain lines; - is standard input.",
)
@click.option("--output", "target", type=outputs.Name(), default="-", metavar="FILE|-", help="File for the answers, a JSON line each, in the order of the input; - is standard output.")  # fmt: skip
@outputs.force_option
@click.option("--format", "form", type=click.Choice(["auto", "jsonl", "text"]), default="auto", help="What the input is [default: auto, by its name, else by its first line].")  # fmt: skip
@click.option("--text", "column", metavar="NAME", help="The field of a JSON line that is the text [default: as in training, else text].")  # fmt: skip
@click.option("--keep", is_flag=True, help="Repeat each input in its answer, as `input`.")
@click.option("--skip-bad", is_flag=True, help="Report lines without a text and go on [default: end at the first].")
@click.option("--recipe", type=RecipeFile(), shell_complete=complete_recipe, help="The recipe of the weights, where nothing beside them tells it.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), help="Rows a rank computes at a time [default: 8].")
@click.option("--nproc", type=Count(), default="auto", envvar="ASCEND_LAUNCH_NPROC", help="Ranks on this node [default: auto, one a card].")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "npu", "cpu"]), default="auto", envvar="ASCEND_LAUNCH_DEVICE", help="Where ranks compute [default: auto, npu where there is one].")  # fmt: skip
@click.option("--max-restarts", type=click.IntRange(0), default=0, help="Maximum number of restarts after a failure; no row is lost or answered twice [default: 0].")  # fmt: skip
def predict_command(model: str, source: str, target: str, force: bool, form: str, column: str | None, keep: bool, skip_bad: bool, recipe: Path | None, batch_size: int | None, nproc: int | None, device: Any, max_restarts: int) -> None:  # fmt: skip
    """Label texts: one JSON line a text, with label, label_name and probabilities, in the order of the input."""
    import tempfile

    from launcher import again, predict, show, spec, trained
    from launcher.rundir import Chunks, RunDir

    known = _format(form, source)
    _require_target(source, target, force=force)
    weights = trained.find(model, "--model")
    loaded = spec.load(recipe) if recipe else spec.Loaded(trained.recipe_of(weights), "predict", Path(weights.name), {})
    kept = RunDir(Path(tempfile.mkdtemp(prefix="ascend-launch-predict-")))
    with contextlib.ExitStack() as stack:
        stack.callback(_forget, kept)
        handle = _opened(stack, source)
        streams.outlive()
        plan, child_env = _prepare_ranks(loaded, weights, kept, batch_size, nproc, device, max_restarts)
        feed = predict.Feed(
            lines=predict.Lines(handle),
            out=stack.enter_context(_target(target)),
            chunks=Chunks(kept.chunks_path),
            name="<stdin>" if source == "-" else source,
            form=known,
            column=column or loaded.spec.data.text,
            keep=keep,
            skip_bad=skip_bad,
            chunk_rows=plan.batch.eval_size * predict.BATCHES_A_CHUNK,
            max_chunks=plan.data_parallel_size * predict.CHUNKS_A_RANK,
        )
        outcome = _run_ranks(feed, kept, child_env)
        if outcome.failure is not None:
            show.failure(outcome.failure, explained(outcome, kept))
        if outcome.exit_code != EXIT_OK:
            if goes_on(outcome, kept):
                show.to_repeat(again.command(["predict", *options_given(())]), is_stream=source == "-")
            sys.exit(outcome.exit_code)
        if feed.error is not None:
            raise LaunchError(f"{feed.name}:{feed.error.line}: {feed.error.reason}",
                              hint=f"correct that line, or pass over such lines with --skip-bad; the {feed.num_rows} texts before it were answered")  # fmt: skip
    show.predicted(feed)
    feed.require_scores()


def _prepare_ranks(loaded: Loaded, weights: Weights, run: RunDir, batch_size: int | None, nproc: int | None, device: Any, max_restarts: int) -> tuple[Plan, dict[str, str]]:  # fmt: skip
    """The run directory as a launch would write it, and the environment of its agent."""
    from dataclasses import replace

    from launcher import plan
    from launcher.cluster import detect, environment
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
    made = plan.make(loaded, cluster, options, _config(weights, recipe))
    require_health(made, cluster, run)
    user_env = dict(os.environ)
    files.write(files.texts(loaded, made, run, user_env), run)
    run.chunks_path.mkdir()
    return made, env.of_agent(made, run.path.resolve(), user_env)


def _config(weights: Weights, recipe: RecipeSpec) -> dict[str, Any] | None:
    """The model's config.json beside the weights, else of the model that they were trained from; None where neither is here."""
    from launcher import assets

    for name in (weights.name, recipe.model.name):
        with contextlib.suppress(LaunchError):
            if config := assets.model_config(name):
                return config
    return None


def _run_ranks(feed: Feed, run: RunDir, child_env: dict[str, str]) -> Outcome:
    from launcher import rundir, show, supervise
    from launcher.render import files

    def step() -> bool:
        if not feed.label_names:
            feed.label_names = (rundir.read_json(run.data_path) or {}).get("label_names", ())
        moved = feed.step()
        if feed.doubt:
            show.doubt(feed.name, feed.doubt)
            feed.doubt = ""
        while feed.bad:
            show.bad_line(feed.name, feed.bad.pop(0))
        return moved

    outcome = supervise.run(files.agent_argv(run), run, child_env, show.event_beside_data, on_poll=step)
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
        raise LaunchError(f"--input {source}: cannot be read: {error.strerror}", hint="name a readable file") from None


def _require_target(source: str, target: str, *, force: bool) -> None:
    if target == "-":
        if streams.is_closed(1):
            raise LaunchError("--output -: standard output is closed", hint="name a file with --output")
        return
    path = Path(target)
    if source != "-" and path.exists() and Path(source).exists() and path.samefile(source):
        raise LaunchError(f"--output {target}: is the input", hint="name another file")
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
            f"--output {target}: cannot be written: {error.strerror}", hint="name a writable file"
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
        raise LaunchError(f"--input {source}: is {found}, and texts are read from JSON lines or plain lines",
                          hint="write each row as a line of JSON, or add --format text if every line of it is a text")  # fmt: skip
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}.get(kind)


UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Bytes(click.ParamType):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value))
        unit = UNITS.get(found[2].upper()) if found else None
        if found is None or unit is None or float(found[1]) * unit < 1:
            raise click.BadParameter(f"{value!r} is no size, as 5GB or 500MB", ctx, param)
        return int(float(found[1]) * unit)


@click.command(name="export")
@click.argument("run", metavar="RUN", type=outputs.Name())
@click.option("--checkpoint", "step", type=click.IntRange(1), metavar="N", help="The step of a checkpoint [default: the final model, else the newest whole one].")  # fmt: skip
@click.option(
    "--out", metavar="FOLDER", type=outputs.Target(), help="The folder to make [default: RUN/export, or RUN/export-N]."
)
@click.option("--dtype", type=click.Choice(["bf16", "fp16", "fp32"]), help="Precision that the weights are written in [default: as they were saved].")  # fmt: skip
@click.option("--max-shard-size", type=Bytes(), default="5GB", help="Largest size of a file; a larger tensor has a file of its own [default: 5GB].")  # fmt: skip
@click.option("--adapter-only", is_flag=True, help="Export the LoRA adapter alone, not merged into its model.")
@click.option("--recipe", type=RecipeFile(), shell_complete=complete_recipe, help="The recipe of the weights, where nothing beside them tells it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="What was written, as one JSON object.")
def export_command(run: str, step: int | None, out: Path | None, dtype: str | None, max_shard_size: int, adapter_only: bool, recipe: Path | None, as_json: bool) -> None:  # fmt: skip
    """Write the weights of RUN as one Hugging Face folder: a run directory, a checkpoint or an adapter, of any strategy."""
    from launcher import show, spec, supervise, trained

    weights = trained.find(run, "")
    is_run = weights.run is not None and str(weights.run.path) == weights.name
    if step is not None and not is_run:
        raise LaunchError(f"--checkpoint {step}: {run} is no run directory", hint="name the run, or the checkpoint's own folder")  # fmt: skip
    if not is_run and out is None:
        raise LaunchError(f"{run}: is no run directory, so the export has no place of its own", hint="say where to: --out FOLDER")  # fmt: skip
    loaded = spec.load(recipe).spec if recipe else trained.recipe_of(weights)
    target = out or Path(weights.name) / ("export" if step is None else f"export-{step}")
    made = weights.run.plan() if weights.run else None
    request = {
        "weights": weights.name,
        "out": str(Path(os.path.abspath(target))),  # noqa: PTH100  # a link that stands there is to be refused
        "checkpoint": step,
        "dtype": dtype,
        "max_shard_bytes": max_shard_size,
        "adapter_only": adapter_only,
        "recipe": loaded.model_dump(mode="json"),
        "strategy": made.strategy if made else weights.trained_by(),
        "precision": made.precision if made else None,
    }
    require_packages(("torch", "transformers"))
    show.exported(supervise.tool("launcher.worker.export", request), as_json)
