"""A job while it runs, and its end."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from launcher.clusters.submission import Commands, Job
from launcher.diagnose.explain.verdicts import Report
from launcher.diagnose.explain.words import language, render_text
from launcher.errors import EXIT_OK, EXIT_USER
from launcher.files import read_json, tail
from launcher.jobs.view import Output
from launcher.messages import Message, joined, plural, translated
from launcher.planning.plan import Plan
from launcher.recipe import metrics
from launcher.recipe.load import Loaded
from launcher.rundir import early_stop, records
from launcher.rundir.history import History
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.rates import macro_text, stragglers
from launcher.rundir.records import Event, Failure
from launcher.show import live
from launcher.show.console import err, number_text, out, print_json
from launcher.show.plan import notes, plan_lines
from launcher.show.results import confusion, epochs, figures_text, sets, train_output
from launcher.show.text import Text

MAX_LABELS_SHOWN = 12


def view(as_json: bool, node_rank: int = 0) -> View:
    """The view of one run: for a person at a terminal or reading a log, or as JSON lines; the first node reports the
    run, and the others report themselves."""
    if node_rank and not as_json:
        return OtherNodeView(node_rank)
    return JsonView() if as_json else LiveView() if out.is_terminal and not out.is_dumb_terminal else View()


class View:
    """Follows one run in plain lines."""

    def __init__(self) -> None:
        self.history = History()
        self.run: RunDir | None = None
        self.has_failed_to_show = False
        self.unshown: records.Eval | None = None
        self.own: Sequence[str] = ()
        """Metrics that are functions of the user's."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        """What is about to happen, in a few lines."""
        self.run = run
        self.own = [one.function for key, one in plan.recipe.functions() if key == "metrics"]
        out.print(plan_lines(plan, loaded))
        notes(loaded.notes)
        out.print(Text(Message("run directory: {path}", path=run.path)))

    def output(self, plan: Plan, run: RunDir) -> Output | None:
        """Ranks that train say what is worth seeing by events."""
        return None

    def words(self, host: str, line: str) -> None:
        """What a host's launcher said besides events."""
        err.print(Text(f"[{host}] {line}"))

    def warning(self, name: str, text: str) -> None:
        """What may be wrong with a job, and nobody can tell before it runs."""
        err.print(Text(f"{name}: {text}"))

    def would_submit(self, text: str, plan: Plan) -> None:
        """What would be submitted: alone on standard output, so that it can be kept and submitted by hand."""
        sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
        sys.stdout.flush()
        err.print(Text(Message("nothing was submitted or written")))

    def submitted(self, job: str, output: str, script: str, commands: Commands) -> None:
        """Where a submitted job can be watched, and how it is ended."""
        out.print(Text(Message("output:        {output}", output=output)))
        end = Message("; {command} ends it", command=commands.end) if commands.end else ""
        save = Message(", {command} has it save and queue again", command=commands.save) if commands.save else ""
        out.print(Text(Message("submitted job {job}{end}{save}", job=job, end=end, save=save)))

    def created(self, made: Sequence[str], job: str, run_dir: str, text: str, commands: Commands) -> None:
        """What a cluster made of a manifest."""
        out.print(Text("\n".join(made)))
        out.print(Text(Message("run directory: {run_dir}, in the pods", run_dir=run_dir)))
        if commands.logs:
            out.print(Text(Message("logs: {command}", command=commands.logs)))

    def job(self, job: Job) -> None:
        """A change of a job in the queue."""
        parts: list[str] = [
            job.state.lower(),
            f"({job.reason})" if job.reason else "",
            Message("on {nodes}", nodes=job.nodes) if job.nodes else "",
        ]
        times = (
            plural(", requeued {count} time", ", requeued {count} times", count=job.restarts) if job.restarts else ""
        )
        self._line(
            Message("job {job}  {parts}{times}", job=job.id, parts=joined(filter(None, parts), " "), times=times)
        )

    def detached(self, job: str, commands: Commands) -> None:
        """The user stopped following the job."""
        end = Message(", and {command} ends it", command=commands.end) if commands.end else ""
        err.print(Text(Message("no longer following; job {job} goes on{end}", job=job, end=end)))

    def event(self, event: Event) -> None:
        """Show one event of events.jsonl; kinds that are not for a person are passed over. One that cannot be shown ends no
        job: that is said once."""
        try:
            self.history.add(event)
            self._show_evaluation(event)
            show = getattr(self, f"_on_{event.kind}", None)
            if show is not None:
                show(event)
        except Exception as error:
            self._cannot_show(error)

    def _cannot_show(self, error: Exception) -> None:
        if not self.has_failed_to_show:
            self.has_failed_to_show = True
            err.print(
                Text(
                    Message(
                        "not everything can be shown ({kind}: {error}); the job goes on",
                        kind=type(error).__name__,
                        error=error,
                    )
                )
            )

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        """The table of epochs and the figures, or the failing rank's traceback, once, and what is known about it."""
        if outcome.failure is not None:
            failure(outcome.failure, explained)
        elif outcome.exit_code == EXIT_OK and outcome.metrics:
            own = metrics.of_the_user((read_json(run.plan_path) or {}).get("recipe") or {})
            has_epochs = "epochs" in outcome.metrics
            table = epochs(outcome.metrics, own, self.history.evals) if has_epochs else None
            out.print(Text(figures_text(outcome.metrics)) if table is None else table)
            if has_epochs and (names := (read_json(run.data_path) or {}).get("evals")):
                out.print(sets(outcome.metrics.get("final", {}), names, own))
            for text in filter(None, (macro_text(outcome.metrics), early_stop.text(outcome.metrics))):
                out.print(Text(text))
            final = outcome.metrics.get("final", {})
            for metric in metrics.known(final):
                if not metric.is_figure and final[metric.name]:
                    out.print(confusion(final[metric.name]))
            if "train" in outcome.metrics:
                out.print(Text(train_output(outcome.metrics)))
            out.print(Text(Message("metrics: {metrics_path}", metrics_path=run.metrics_path)))
        elif outcome.exit_code == EXIT_OK:  # a script of the user's, which leaves no metrics.json
            log = run.rank_log(max(run.last_attempt, 0), 0)
            out.print(Text(Message("done; rank 0 printed this, every rank's output is in {parent}", parent=log.parent)))
            out.print(Text(tail(log)))
        else:
            out.print(Text(Message("stopped; what there is lies in {path}", path=run.path)))
        stream = err if outcome.failure is not None else out
        if report_path is not None:
            stream.print(Text(Message("report: {report_path}", report_path=report_path)))
        if again:
            stream.print(Text(Message("continue with:\n  {again}", again=again)))

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_start_method(self, event: records.StartMethod) -> None:
        if event.reason is not None and event.reason.startswith("a fork"):
            self._line(Message("ranks start by {method}: {reason}", method=event.method, reason=event.reason))

    def _on_restart(self, event: records.Restart) -> None:
        who = "" if event.rank is None else Message("rank {rank}: ", rank=event.rank)
        self._line(
            Message(
                "restart    attempt {attempt} of {of_restarts}, after {who}{what}",
                attempt=event.attempt,
                of_restarts=event.of_restarts,
                who=who,
                what=translated(event.what or ""),
            )
        )

    def _on_hang(self, event: records.Hang) -> None:
        self._line(Message("hang       {what}", what=translated(event.what or "")))

    def _on_stopping(self, event: records.Stopping) -> None:
        again = Message("; ^C again ends them at once") if event.signal == "SIGINT" else ""
        self._line(Message("stopping   {signal}: ranks that train save first{again}", signal=event.signal, again=again))

    def _on_note(self, event: records.Note) -> None:
        self._line(translated(event.text or ""))

    def _on_start(self, event: records.Start) -> None:
        data = read_json(self.run.data_path) if self.run else None
        if data:
            self._line(joined(_data_lines(data), "\n"))

    def _on_engine(self, event: records.Engine) -> None:
        stage = Message(" stage {zero_stage}", zero_stage=event.zero_stage) if event.zero_stage is not None else ""
        held = Message(
            "{parameters:,} parameters, {local_parameters:,} of them on rank 0",
            parameters=event.parameters,
            local_parameters=event.local_parameters,
        )
        self._line(
            Message(
                "engine     {engine}{stage}, {precision}, {world_size} x {device}: {held}",
                engine=event.engine,
                stage=stage,
                precision=event.precision,
                world_size=event.world_size,
                device=event.device,
                held=held,
            )
        )

    def _on_log(self, event: records.Log) -> None:
        values = {
            "loss": (event.loss, ".4f"),
            "grad_norm": (event.grad_norm, ".3g"),
            "learning_rate": (event.learning_rate, ".3g"),
        }
        shown = [f"{k.replace('_', ' ')} {number_text(*value)}" for k, value in values.items() if event.has(k)]
        total = self.history.max_steps
        self._line(
            Message(
                "step {step}/{total}  epoch {number_text}  {shown}",
                step=event.step,
                total=total,
                number_text=number_text(event.epoch, ".2f"),
                shown="  ".join(shown),
            )
        )

    def _on_rates(self, event: records.Rates) -> None:
        for rank, times in stragglers(event).items():
            self._line(
                Message(
                    "slow       rank {rank} takes {times:.1f} times as long as the others for its own work",
                    rank=rank,
                    times=times,
                )
            )

    def _on_epoch(self, event: records.Epoch) -> None:
        number = number_text(event.epoch, "g")
        self._line(Message("epoch {number_text}  {parts}", number_text=number, parts=_figures(event)))

    def _on_eval(self, event: records.Eval) -> None:
        self.unshown = event

    def _show_evaluation(self, following: Event) -> None:
        """The line of an evaluation, unless the line of its epoch follows, which has the same figures."""
        found, self.unshown = self.unshown, None
        if found is None or (isinstance(following, records.Epoch) and "eval_loss" in following.figures):
            return
        total = self.history.max_steps
        self._line(Message("step {step}/{total}  {figures}", step=found.step, total=total, figures=_figures(found)))

    def _on_save(self, event: records.Save) -> None:
        self._line(Message("checkpoint {path}", path=event.path))

    def _line(self, text: str) -> None:
        out.print(Text(text))


def _figures(event: records.Epoch | records.Eval) -> str:
    shown = {k: v for k, v in event.figures.items() if isinstance(v, float)}
    return "  ".join(f"{k.replace('_', ' ')} {number_text(v, '.4f')}" for k, v in shown.items())


class LiveView(View):
    """Follows one run on a terminal: a panel that stays below what is worth keeping."""

    def __init__(self) -> None:
        super().__init__()
        # Of its own: the panel's width is the terminal's, while lines above it wrap softly, so that paths can be copied.
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, get_renderable=self._panel, refresh_per_second=4, transient=True)

    def __enter__(self) -> View:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def _panel(self) -> RenderableType:
        size = self.console.size
        try:
            return live.panel(self.history, time.time(), width=size.width, height=size.height, own=self.own)
        except Exception as error:
            self._cannot_show(error)
            return Text()

    def _on_log(self, event: records.Log) -> None:
        """The panel shows it."""

    def _on_rates(self, event: records.Rates) -> None:
        """The panel shows it."""

    def _on_epoch(self, event: records.Epoch) -> None:
        short = {"train_loss": "train", "eval_loss": "eval"}
        figures = {short.get(name, name): value for name, value in event.figures.items()}
        super()._on_epoch(records.Epoch(epoch=event.epoch, more=figures))

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


class OtherNodeView(View):
    """A node but the first, whose output often appears beside the first one's: where its files are, and its failure."""

    def __init__(self, node_rank: int) -> None:
        super().__init__()
        self.node_rank = node_rank

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        out.print(
            Text(
                Message(
                    "node {node_rank} of {num_nodes}: {path}",
                    node_rank=self.node_rank,
                    num_nodes=plan.num_nodes,
                    path=run.path,
                )
            )
        )

    def event(self, event: Event) -> None:
        return None

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        if outcome.failure is not None:
            super().end(outcome, run, explained, report_path, again)
        elif again:
            out.print(
                Text(Message("node {node_rank}: continue with:\n  {again}", node_rank=self.node_rank, again=again))
            )


class JsonView(View):
    """Prints every event as it is, then the outcome."""

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        self.event(records.Planned(run_dir=str(run.path), plan=plan.model_dump(mode="json")))

    def would_submit(self, text: str, plan: Plan) -> None:
        print(print_json({"plan": plan.model_dump(mode="json"), "text": text}))

    def created(self, made: Sequence[str], job: str, run_dir: str, text: str, commands: Commands) -> None:
        self.event(records.Submitted(job=job, more={"run_dir": run_dir, "made": list(made), "text": text}))

    def submitted(self, job: str, output: str, script: str, commands: Commands) -> None:
        self.event(records.Submitted(job=job, output=output, script=script))

    def job(self, job: Job) -> None:
        self.event(records.QueueState(more=asdict(job)))

    def event(self, event: Event) -> None:
        print(print_json(event.to_json(), indent=None), flush=True)

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        explanation = explained.to_json() if explained else None
        self.event(
            records.Ended(
                explanation=explanation,
                exit_code=outcome.exit_code,
                failure=outcome.failure.to_json() if outcome.failure else None,
                metrics=outcome.metrics,
                report=str(report_path) if report_path else None,
                continue_with=again or None,
            )
        )


def failure(failure: Failure, explained: Report | None) -> None:
    """The failing rank's traceback or the user's mistake, and what is known about it."""
    _failure(failure)
    if explained is not None:
        err.print(Text(render_text(explained, language())))


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    sets = {"eval." + name: split for name, split in (data.get("evals") or {}).items()}
    for name, split in {"train": data.get("train"), "eval": data.get("eval"), **sets}.items():
        if split:
            cut = (
                Message(", {rows_at_max_length} cut to it", rows_at_max_length=split["rows_at_max_length"])
                if split["rows_at_max_length"]
                else ""
            )
            lines.append(
                Message(
                    "{name:<10} {rows:,} rows, {mean_tokens} tokens on average, longest {max_tokens}{cut}",
                    name=name,
                    rows=split["rows"],
                    mean_tokens=split["mean_tokens"],
                    max_tokens=split["max_tokens"],
                    cut=cut,
                )
            )
            lines += _label_line(split.get("label_counts") or (), data.get("label_names") or ())
    sample = data.get("sample")
    if sample:
        names = data.get("label_names") or []
        label = sample["label"]
        named = f" ({names[label]})" if isinstance(label, int) and label < len(names) else ""
        ids = ", ".join(map(str, sample["input_ids"][:12])) + (", ..." if len(sample["input_ids"]) > 12 else "")
        lines += [
            Message(
                "sample     {detail} row {index}{labelled}",
                detail="train" if data.get("train") else "eval",
                index=sample["index"],
                labelled="" if label is None else Message(", label {label}{named}", label=label, named=named),
            ),
            f"           {textwrap.shorten(sample['text'], 100, placeholder=' ...')}",
            Message("           {num_input_ids} ids: {ids}", num_input_ids=len(sample["input_ids"]), ids=ids),
        ]
    return lines


def _label_line(counts: Sequence[int], names: Sequence[str]) -> list[str]:
    """How many rows each label has; of many labels the first, and those with the most and the fewest rows."""
    if not counts:
        return []
    named = [str(names[i]) if i < len(names) else str(i) for i in range(len(counts))]
    if len(counts) <= MAX_LABELS_SHOWN:
        return [
            Message(
                "           labels: {list}",
                list=", ".join((f"{n} {count:,}" for n, count in zip(named, counts, strict=True))),
            )
        ]
    most, fewest = (max(counts), min(counts))
    ends = Message(
        "most {named} {most:,}, fewest {value} {fewest:,}",
        named=named[counts.index(most)],
        most=most,
        value=named[counts.index(fewest)],
        fewest=fewest,
    )
    absent = sum(not count for count in counts)
    return [
        Message(
            "           {num_counts} labels: {ends}{absent}",
            num_counts=len(counts),
            ends=ends,
            absent=Message(", {absent} without rows", absent=absent) if absent else "",
        )
    ]


def _failure(failure: Failure) -> None:
    """What, why, what to do. A user's mistake is one line and its fix; a fault is the rank's traceback, once."""
    what = translated(Message("the job failed") if failure.what is None else failure.what)
    hint = translated(failure.hint or "")
    rank = failure.rank
    if failure.exit_code != EXIT_USER:
        trace = failure.traceback.rstrip()
        is_ours = failure.type == "LaunchError" and hint  # it says all; where it was raised adds nothing
        if trace and not is_ours:
            err.print(Text(trace))
        if rank is not None and failure.type != records.STALLED:
            what = Message("rank {rank} on {host} failed first: {what}", rank=rank, host=failure.host, what=what)
    err.print(Text(Message("error: {what}", what=what)))
    if hint:
        err.print(Text(Message("  fix: {hint}", hint=hint)))
    if failure.exit_code != EXIT_USER and failure.log:
        err.print(Text(Message("  log: {log}", log=failure.log)))
