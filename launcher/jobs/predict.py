"""A prediction: ranks that answer the rows of a feed, in a run directory that is forgotten afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.accelerators import detect
from launcher.clusters import environment
from launcher.data.questions import Questions
from launcher.errors import EXIT_OK, LaunchError
from launcher.files import read_json
from launcher.jobs import afterwards
from launcher.jobs.feed import BATCHES_A_CHUNK, CHUNKS_A_RANK, WRITTEN_A_CHUNK, Feed, Source
from launcher.jobs.launch import Job
from launcher.jobs.rows import Prompts, Texts
from launcher.models.config import model_config
from launcher.planning import decide
from launcher.planning.plan import Options, Supervision, Use
from launcher.recipe.schema import Generation
from launcher.recipe.tasks.table import TAGS
from launcher.rundir.chunks import Chunks
from launcher.rundir.paths import RunDir

if TYPE_CHECKING:
    from launcher.jobs.options import Machine
    from launcher.jobs.rows import Format, Reader
    from launcher.jobs.trained import Weights
    from launcher.jobs.view import PredictView
    from launcher.recipe.load import Loaded
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.outcome import Outcome


@dataclass(frozen=True)
class Writing:
    """How a model that writes is asked, beyond its recipe."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the recipe's `generation:`."""
    system: str | None = None
    """The system message of rows that have none."""
    chat_template: str | None = None
    """In the place of the tokenizer's: a name of ours, or a file."""
    is_chat: bool = True
    """Whether a text is a user's message; else the model goes on with it."""


@dataclass(frozen=True)
class Work:
    """What answers the rows."""

    loaded: Loaded
    """The recipe that the weights were trained with, as far as it is known."""
    weights: Weights
    batch_size: int | None = None
    """Rows a rank computes at a time; None for the recipe's."""
    writing: Writing = Writing()
    shards: bool = False
    """Whether each rank holds a share of the weights."""


@dataclass(frozen=True)
class Rows:
    """What is to be answered, and where the answers go."""

    source: Source
    target: int
    """A file descriptor."""
    name: str
    """Of the input, for messages."""
    form: Format | None
    """None where the first line is to tell."""
    column: str | None
    """The field of a JSON line that is the text; None for the recipe's."""
    keep: bool
    """Whether an answer repeats its input."""
    skip_bad: bool
    """Whether lines without a text are passed over."""
    kept: Path | None = None
    """The file that answers go to before they are whole, and where they stay if they never are; None for a stream."""


@contextlib.contextmanager
def prepared(work: Work, machine: Machine, supervision: Supervision) -> Iterator[Job]:
    """A job whose files are written, and whose run directory is gone at the end of the block.

    Raises:
        LaunchError: the machine, the model or the recipe is not as it must be.
    """
    _require_use(work)
    run = RunDir(Path(tempfile.mkdtemp(prefix="ascend-launch-predict-")))
    try:
        loaded = replace(work.loaded, spec=_recipe(work, run), name="predict")
        environment.find(os.environ, 1)  # refuses to be started once a rank by another launcher
        cluster = detect.here(machine.device, os.environ)
        use = Use(
            mode="predict",
            weights=work.weights.name,
            trained_by=work.weights.trained_by(),
            shares_weights=work.shards,
            chats=loaded.spec.task.writes and work.writing.is_chat,
        )
        options = Options(nproc=machine.nproc, supervision=supervision, use=use)
        config = _config(work.weights, loaded.spec)
        require_beams(loaded.spec, config)
        made = decide.make(loaded, cluster, options, config)
        job = Job(loaded, cluster, made, run)
        job.check()
        job.write()
        run.chunks_path.mkdir()
        yield job
    finally:
        _forget(run)


def feed(job: Job, rows: Rows, writing: Writing) -> Feed:
    """The way of the rows through the ranks of a job."""
    task = job.loaded.spec.task
    return Feed(
        lines=rows.source,
        out=rows.target,
        chunks=Chunks(job.run.chunks_path),
        name=rows.name,
        task=task,
        form=rows.form,
        reader=_reader(job.loaded.spec, rows.column, writing),
        keep=rows.keep,
        skip_bad=rows.skip_bad,
        kept=rows.kept,
        chunk_rows=job.plan.batch.eval_size * (WRITTEN_A_CHUNK if task.writes else BATCHES_A_CHUNK),
        max_chunks=job.plan.data_parallel_size * CHUNKS_A_RANK,
    )


def _reader(recipe: RecipeSpec, column: str | None, writing: Writing) -> Reader:
    """What of a row is for the ranks. `column`: the one with the text, where the user names it."""
    data = recipe.data
    if recipe.task.has_conversations:
        return Prompts(Questions(data, column=column, system=writing.system, is_chat=writing.is_chat))
    columns = {**recipe.task.reads(data), **({} if column is None else {"data.text": column})}
    return Texts(*columns.values(), may_be_words=recipe.targets == TAGS)


def label(job: Job, feed: Feed, view: PredictView, again: Callable[[], str]) -> int:
    """Have the rows of a feed labelled; the exit code. `again`: the command that starts it again.

    Raises:
        LaunchError: a line without a text ended the reading, or the answers cannot be written.
    """
    outcome = _followed(job, feed, view)
    explained = afterwards.explained(outcome, job.run)
    view.end(outcome, explained, again() if afterwards.goes_on(outcome, job.run) else "")
    if outcome.exit_code == EXIT_OK:
        feed.require_all()
    return outcome.exit_code


def _followed(job: Job, feed: Feed, view: PredictView) -> Outcome:
    def step() -> bool:
        if not feed.label_names:
            feed.label_names = (read_json(job.run.data_path) or {}).get("label_names", ())
        moved = feed.step()
        if feed.warning:
            view.warning(feed.name, feed.warning)
            feed.warning = ""
        while feed.bad:
            view.bad_line(feed.name, feed.bad.pop(0))
        return moved

    outcome = job.follow(view.event, step)
    if outcome.exit_code == EXIT_OK:
        feed.finish()
    return outcome


def _require_use(work: Work) -> None:
    """Raises LaunchError for what a model that gives labels cannot follow."""
    if not work.loaded.spec.task.writes and (work.writing != Writing() or work.shards):
        raise LaunchError(
            "{weights}: gives labels, and writes no text",
            hint="leave out the options for text: --max-new-tokens, --temperature and those that follow them in --help",
            weights=work.weights.name,
        )


def _recipe(work: Work, run: RunDir) -> RecipeSpec:
    recipe = work.loaded.spec.model_copy(update={"script": None, "output_dir": str(run.path)})
    recipe = _with_writing(recipe, work.writing)
    if work.batch_size is None:
        return recipe
    parallel = recipe.parallel.model_copy(update={"eval_batch_size": work.batch_size})
    return recipe.model_copy(update={"parallel": parallel})


def _with_writing(recipe: RecipeSpec, writing: Writing) -> RecipeSpec:
    update: dict[str, Any] = {}
    if writing.settings:
        update["generation"] = (recipe.generation or Generation()).model_copy(update=dict(writing.settings))
    if writing.chat_template is not None:
        update["data"] = recipe.data.model_copy(update={"chat_template": writing.chat_template})
    return recipe.model_copy(update=update)


def require_beams(recipe: RecipeSpec, config: Mapping[str, Any] | None) -> None:
    """Raises LaunchError for more beams than there are tokens for them to begin with."""
    beams = (recipe.generation and recipe.generation.num_beams) or 1
    most = ((config or {}).get("text_config") or config or {}).get("vocab_size")
    if recipe.task.writes and isinstance(most, int) and beams > most:
        raise LaunchError(
            "--num-beams {beams}: there are more beams than tokens, of which the model has {most}",
            hint="set fewer: 4 or 8 are common",
            beams=beams,
            most=most,
        )


def _config(weights: Weights, recipe: RecipeSpec) -> dict[str, Any] | None:
    """The model's config.json beside the weights, else of the model that they were trained from; None where neither is here."""
    for name in (weights.name, recipe.model.name):
        with contextlib.suppress(LaunchError):
            if config := model_config(name):
                return config
    return None


def _forget(run: RunDir) -> None:
    """Remove what a prediction needed, but for the logs of one that failed. Its chunks hold the user's texts."""
    shutil.rmtree(run.chunks_path if run.failure_path.exists() else run.path, ignore_errors=True)
