"""What a person sees: the plan, a run as it goes, tables, --json. The only importer of rich."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from launcher import records, rundir, scrub
from launcher.doctor import Finding
from launcher.errors import EXIT_OK, EXIT_USER
from launcher.explain import Lang, Report, language, render_text
from launcher.history import History, macro_text, stragglers
from launcher.plan import Plan
from launcher.planning.fit import Row
from launcher.predict import Bad, Feed
from launcher.records import Event, Failure
from launcher.render.env import Variable, hidden
from launcher.rundir import RunDir
from launcher.show import live
from launcher.show.text import Text
from launcher.spec import Loaded
from launcher.strategies.table import SPEED_SOURCES
from launcher.submit import Job
from launcher.supervise import Outcome


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """rich would end the program here; whoever started it knows what a reader that left means."""
        raise BrokenPipeError


MAX_LABELS_SHOWN = 12

out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def view(as_json: bool, node_rank: int = 0) -> View:
    """The view of one run: for a person at a terminal or reading a log, or as JSON lines; the first node tells of the
    run, and the others of themselves."""
    if node_rank and not as_json:
        return OtherNodeView(node_rank)
    return JsonView() if as_json else LiveView() if out.is_terminal and not out.is_dumb_terminal else View()


class View:
    """Follows one run in plain lines."""

    def __init__(self) -> None:
        self.history = History()
        self.run: RunDir | None = None
        self.has_doubt = False

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        """What is about to happen, in a few lines."""
        self.run = run
        out.print(_plan_lines(plan, loaded))
        out.print(Text(f"run directory: {run.path}"))

    def submitted(self, job: str, output: str, script: str) -> None:
        """Where a submitted job can be watched, and how it is ended."""
        out.print(Text(f"output:        {output}"))
        out.print(
            Text(f"submitted job {job}; scancel {job} ends it, scancel --signal=USR1 {job} has it save and queue again")
        )

    def job(self, job: Job) -> None:
        """A change of a job in the queue."""
        parts = [job.state.lower(), f"({job.reason})" if job.reason else "", f"on {job.nodes}" if job.nodes else ""]
        times = f", requeued {job.restarts} time{'s' if job.restarts > 1 else ''}" if job.restarts else ""
        self._line(f"job {job.id}  {' '.join(filter(None, parts))}{times}")

    def detached(self, job: str) -> None:
        """Told to stop following."""
        err.print(Text(f"no longer following; job {job} goes on, and scancel {job} ends it"))

    def event(self, event: Event) -> None:
        """Show one event of events.jsonl; kinds that are not for a person are passed over. One that cannot be shown ends no
        job: that is said once."""
        try:
            self.history.add(event)
            show = getattr(self, f"_on_{event.kind}", None)
            if show is not None:
                show(event)
        except Exception as error:
            self._doubt(error)

    def _doubt(self, error: Exception) -> None:
        if not self.has_doubt:
            self.has_doubt = True
            err.print(Text(f"not everything can be shown ({type(error).__name__}: {error}); the job goes on"))

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        """The table of epochs and the figures, or the failing rank's traceback, once, and what is known about it."""
        if outcome.failure is not None:
            failure(outcome.failure, explained)
        elif outcome.exit_code == EXIT_OK and outcome.metrics:
            out.print(_epochs(outcome.metrics) if "epochs" in outcome.metrics else Text(_figures(outcome.metrics)))
            if averaged := macro_text(outcome.metrics):
                out.print(Text(averaged))
            matrix = outcome.metrics.get("final", {}).get("confusion_matrix")
            if matrix:
                out.print(_confusion(matrix))
            if "train" in outcome.metrics:
                out.print(Text(_train_output(outcome.metrics)))
            out.print(Text(f"metrics: {run.metrics_path}"))
        elif outcome.exit_code == EXIT_OK:  # a script of the user's, which leaves no metrics of ours
            log = run.rank_log(max(run.last_attempt, 0), 0)
            out.print(Text(f"done; rank 0 printed this, every rank's words are in {log.parent}"))
            out.print(Text(rundir.tail(log)))
        else:
            out.print(Text(f"stopped; what there is lies in {run.path}"))
        stream = err if outcome.failure is not None else out
        if report_path is not None:
            stream.print(Text(f"report: {report_path}"))
        if again:
            stream.print(Text(f"continue with:\n  {again}"))

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_start_method(self, event: records.StartMethod) -> None:
        if event.reason is not None and event.reason.startswith("a fork"):
            self._line(f"ranks start by {event.method}: {event.reason}")

    def _on_restart(self, event: records.Restart) -> None:
        who = "" if event.rank is None else f"rank {event.rank}: "
        self._line(f"restart    attempt {event.attempt} of {event.of_restarts}, after {who}{event.what}")

    def _on_hang(self, event: records.Hang) -> None:
        self._line(f"hang       {event.what}")

    def _on_stopping(self, event: records.Stopping) -> None:
        again = "; ^C again ends them at once" if event.signal == "SIGINT" else ""
        self._line(f"stopping   {event.signal}: ranks that train save first{again}")

    def _on_note(self, event: records.Note) -> None:
        self._line(event.text or "")

    def _on_start(self, event: records.Start) -> None:
        data = rundir.read_json(self.run.data_path) if self.run else None
        if data:
            self._line("\n".join(_data_lines(data)))

    def _on_engine(self, event: records.Engine) -> None:
        stage = f" stage {event.zero_stage}" if event.zero_stage is not None else ""
        held = f"{event.parameters:,} parameters, {event.local_parameters:,} of them on rank 0"
        self._line(f"engine     {event.engine}{stage}, {event.precision}, {event.world_size} x {event.device}: {held}")

    def _on_log(self, event: records.Log) -> None:
        values = {
            "loss": (event.loss, ".4f"),
            "grad_norm": (event.grad_norm, ".3g"),
            "learning_rate": (event.learning_rate, ".3g"),
        }
        shown = [f"{k.replace('_', ' ')} {_number(*value)}" for k, value in values.items() if event.has(k)]
        total = self.history.max_steps
        self._line(f"step {event.step}/{total}  epoch {_number(event.epoch, '.2f')}  " + "  ".join(shown))

    def _on_rates(self, event: records.Rates) -> None:
        for rank, times in stragglers(event).items():
            self._line(f"slow       rank {rank} takes {times:.1f} times as long as the others for its own work")

    def _on_epoch(self, event: records.Epoch) -> None:
        shown = {k: v for k, v in event.figures.items() if isinstance(v, float)}
        parts = "  ".join(f"{k.replace('_', ' ')} {_number(v, '.4f')}" for k, v in shown.items())
        self._line(f"epoch {_number(event.epoch, 'g')}  {parts}")

    def _on_save(self, event: records.Save) -> None:
        self._line(f"checkpoint {event.path}")

    def _line(self, text: str) -> None:
        out.print(Text(text))


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
            return live.panel(self.history, time.time(), width=size.width, height=size.height)
        except Exception as error:
            self._doubt(error)
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
    """A node but the first, whose words often come out beside the first one's: where its files are, and its failure."""

    def __init__(self, node_rank: int) -> None:
        super().__init__()
        self.node_rank = node_rank

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        out.print(Text(f"node {self.node_rank} of {plan.num_nodes}: {run.path}"))

    def event(self, event: Event) -> None:
        return None

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        if outcome.failure is not None:
            super().end(outcome, run, explained, report_path, again)
        elif again:
            out.print(Text(f"node {self.node_rank}: continue with:\n  {again}"))


class JsonView(View):
    """Prints every event as it is, then the outcome."""

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        self.event(records.Planned(run_dir=str(run.path), plan=plan.model_dump(mode="json")))

    def submitted(self, job: str, output: str, script: str) -> None:
        self.event(records.Submitted(job=job, output=output, script=script))

    def job(self, job: Job) -> None:
        self.event(records.QueueState(more=asdict(job)))

    def event(self, event: Event) -> None:
        print(_json(event.to_json(), indent=None), flush=True)

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


def event_beside_data(event: Event) -> None:
    """What a person should know while stdout carries data."""
    if isinstance(event, records.Note):
        err.print(Text(event.text or ""))
    elif isinstance(event, records.Restart):
        err.print(Text(f"restart {event.attempt} of {event.of_restarts}: {event.what}"))


def bad_line(name: str, bad: Bad) -> None:
    """One line of input that is passed over."""
    err.print(Text(f"{name}:{bad.line}: {bad.reason}"))


def doubt(name: str, text: str) -> None:
    """What the input was taken for, where that may be wrong."""
    err.print(Text(f"{name}: {text}"))


def to_repeat(command: str, *, is_stream: bool) -> None:
    """How a prediction that stopped is started again."""
    err.print(Text(f"start it again{', with the same input,' if is_stream else ''} with:\n  {command}"))


def predicted(feed: Feed) -> None:
    """How many texts were labelled."""
    bad = f"; {feed.num_bad} line{'s' if feed.num_bad > 1 else ''} passed over" if feed.num_bad else ""
    err.print(Text(f"{feed.num_rows:,} text{'' if feed.num_rows == 1 else 's'} labelled{bad}"))


def exported(result: Mapping[str, Any], as_json: bool) -> None:
    """What `export` wrote."""
    if as_json:
        print(_json(dict(result)))
        return
    for note in result["notes"]:
        out.print(Text(note))
    files = result["files"]
    where = files[0] if len(files) == 1 else f"{len(files)} files"
    out.print(Text(f"from       {result['source']}"))
    out.print(
        Text(
            f"weights    {result['parameters']:,} numbers in {result['dtype']}, {result['bytes'] / 1e6:,.1f} MB in {where}"
        )
    )
    out.print(Text(f"exported   {result['out']}"))


def failure(failure: Failure, explained: Report | None) -> None:
    """The failing rank's traceback or the user's mistake, and what is known about it."""
    _failure(failure)
    if explained is not None:
        err.print(Text(render_text(explained, language())))


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("train", "eval"):
        split = data.get(name)
        if split:
            cut = f", {split['rows_at_max_length']} cut to it" if split["rows_at_max_length"] else ""
            lines.append(
                f"{name:<10} {split['rows']:,} rows, {split['mean_tokens']} tokens on average, longest {split['max_tokens']}{cut}"
            )
            lines += _label_line(split.get("label_counts") or (), data.get("label_names") or ())
    sample = data.get("sample")
    if sample:
        names = data.get("label_names") or []
        label = sample["label"]
        named = f" ({names[label]})" if isinstance(label, int) and label < len(names) else ""
        ids = ", ".join(map(str, sample["input_ids"][:12])) + (", ..." if len(sample["input_ids"]) > 12 else "")
        lines += [
            f"sample     {'train' if data.get('train') else 'eval'} row {sample['index']}, label {label}{named}",
            f"           {textwrap.shorten(sample['text'], 100, placeholder=' ...')}",
            f"           {len(sample['input_ids'])} ids: {ids}",
        ]
    return lines


def _label_line(counts: Sequence[int], names: Sequence[str]) -> list[str]:
    """How many rows each label has; of many labels the first, and those with the most and the fewest rows."""
    if not counts:
        return []
    named = [str(names[i]) if i < len(names) else str(i) for i in range(len(counts))]
    if len(counts) <= MAX_LABELS_SHOWN:
        return ["           labels: " + ", ".join(f"{n} {count:,}" for n, count in zip(named, counts, strict=True))]
    most, fewest = (max(counts), min(counts))
    ends = f"most {named[counts.index(most)]} {most:,}, fewest {named[counts.index(fewest)]} {fewest:,}"
    absent = sum(not count for count in counts)
    return [f"           {len(counts)} labels: {ends}" + (f", {absent} without rows" if absent else "")]


def dry_run(
    plan: Plan, loaded: Loaded, run: RunDir, texts: Mapping[str, str], rows: Sequence[Variable],
    unset: Sequence[Variable], commands: Mapping[str, str], as_json: bool,
) -> None:  # fmt: skip
    """Everything a launch would use, byte for byte."""
    if as_json:
        value = {
            "plan": plan.model_dump(mode="json"),
            "files": dict(texts),
            "commands": dict(commands),
            "unset": [{"name": r.name, "reason": r.reason} for r in unset],
            "environment": [{"name": r.name, "value": hidden(r.name, r.value), "reason": r.reason} for r in rows],
        }
        print(_json(value))
        return
    out.print(_plan_lines(plan, loaded))
    _notes(plan)
    for name in ("accelerate.yaml", "deepspeed.json"):
        if name in texts:
            out.print(Text(f"\n{run.path / name}", style="bold"))
            out.print(Text(textwrap.indent(texts[name].rstrip(), "  ")))
    out.print(Text("\nenvironment of every rank", style="bold"))
    out.print(_environment(rows))
    for row in unset:
        out.print(Text(f"  unset {row.name}  # {row.reason}"))
    if plan.num_nodes > 1:
        names = "GLOO_SOCKET_IFNAME" + (", HCCL_SOCKET_IFNAME and HCCL_IF_BASE_PORT" if plan.backend == "hccl" else "")
        out.print(Text(f"  # and, where you have not set them, {names}: settled when the nodes meet"))
    commands_and_no_more(commands)


def commands_and_no_more(commands: Mapping[str, str]) -> None:
    """What would be started, and by other launchers; and that it was not."""
    out.print(Text("\ncommands", style="bold"))
    for name, command in commands.items():
        out.print(Text(f"  # {name}\n  {command}"))
    out.print(Text("\nnothing was started or written"))


def would_submit(text: str, plan: Plan, as_json: bool) -> None:
    """What would be submitted: alone on standard output, so that it can be kept and submitted by hand."""
    if as_json:
        print(_json({"plan": plan.model_dump(mode="json"), "text": text}))
        return
    sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
    sys.stdout.flush()
    err.print(Text("nothing was submitted or written"))


def created(made: str, job: str, run_dir: str, text: str, as_json: bool) -> None:
    """What kubectl made."""
    if as_json:
        more = {"run_dir": run_dir, "made": made.splitlines(), "text": text}
        print(_json(records.Submitted(job=job, more=more).to_json(), indent=None))
        return
    out.print(Text(made))
    out.print(Text(f"run directory: {run_dir}, in the pods\nlogs: kubectl logs -f -l ascend-launch/job={job} --prefix"))


def words(host: str, line: str) -> None:
    """What a host's launcher said besides events."""
    err.print(Text(f"[{host}] {line}"))


def hosts(rows: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[str]]], cwd: str, as_json: bool) -> None:
    """What a launch by ssh would run on each host: name, command here, words there, variables sent over."""
    if as_json:
        keys = ("host", "command", "words", "variables")
        print(_json({"folder": cwd, "hosts": [dict(zip(keys, row, strict=True)) for row in rows]}))
        return
    for name, command, words, variables in rows:
        out.print(Text(name, style="bold"))
        out.print(Text(f"  here       {shlex.join(command)}"))
        out.print(Text(f"  there      cd {shlex.quote(cwd)} && {shlex.join(['ascend-launch', *words])}"))
        out.print(Text(f"  variables  {', '.join(variables) or 'none'}"))
    out.print(Text("\nnothing was started or written; no host was asked whether it has these files and folders"))


def written(run: RunDir, texts: Mapping[str, str], commands: Mapping[str, str], as_json: bool) -> None:
    """The files that `render --out` wrote."""
    if as_json:
        print(_json({"files": {n: str(run.path / n) for n in texts}, "commands": dict(commands)}))
        return
    for name in texts:
        out.print(Text(str(run.path / name)))
    for command in commands.values():
        out.print(Text(f"  {command}"))


def planned(plan: Plan, loaded: Loaded, rows: Sequence[Row], as_json: bool) -> None:
    """The plan that a launch would follow."""
    if as_json:
        value = {"plan": plan.model_dump(mode="json"), "memory": [row.to_json() for row in rows]}
        print(_json(value))
    else:
        out.print(_plan_lines(plan, loaded))
        _notes(plan)


def _notes(plan: Plan) -> None:
    for note in plan.notes:
        out.print(Text.assemble(("note       ", "bold"), note))


def memory(rows: Sequence[Row], why_none: str) -> None:
    """A line for each strategy: what one rank holds at its highest, whether that fits, and how fast the strategy is."""
    if not rows:
        out.print(Text(f"memory     not told: {why_none}"))
        return
    shape = rows[0].breakdown
    out.print(
        Text(f"{shape.num_parameters:,} parameters, {shape.num_trainable:,} trained; GiB of one rank at its highest")
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    heads = [
        "strategy",
        "weights",
        "grads",
        "optim",
        "buffers",
        "gathered",
        "activ",
        "logits",
        "comm",
        "reserve",
        "total",
        "of",
    ]
    for head in [*heads, "fits", "peak in", "host", "traffic", "speed"]:
        table.add_column(head, justify="left" if head in ("strategy", "fits", "peak in") else "right", no_wrap=True)
    for row in rows:
        cells = [_gib(size) for size in row.breakdown.parts().values()]
        verdict = f"yes, {_gib(row.margin_bytes)} left" if row.fits else f"no, {_gib(-row.margin_bytes)} short"
        if not row.fits and row.margin_bytes >= 0:
            verdict = "no, host memory"
        speed = f"{row.speed.measured:.2f}" if row.speed.measured else "-"
        table.add_row(
            row.strategy, *cells, _gib(row.breakdown.total_bytes), _gib(row.usable_bytes), verdict, row.breakdown.phase,
            _gib(row.host_bytes_node), f"{row.speed.traffic:g}x" if row.speed.traffic else "-", speed,
        )  # fmt: skip
    Console(highlight=False, width=180).print(table)
    for source in SPEED_SOURCES:
        out.print(Text(f"  {source}", style="dim"))


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f}"


def findings(found: Sequence[Finding], node: Mapping[str, Any] | None, as_json: bool) -> None:
    """The doctor's findings, worst last, so that they stand above the prompt."""
    if as_json:
        value = {"findings": [f.to_json() for f in found], **({"node": node} if node is not None else {})}
        print(_json(value))
        return
    order = {"skip": 0, "ok": 1, "warn": 2, "fail": 3}
    styles = {"skip": "dim", "ok": "green", "warn": "yellow", "fail": "red"}
    for finding in sorted(found, key=lambda f: order[f.ok]):
        out.print(Text.assemble((f"{finding.ok:<5}", styles[finding.ok]), f"{finding.name}: {finding.what}"))
        if finding.ok in ("warn", "fail"):
            for word, text in (("why", finding.why), ("fix", finding.fix)):
                if text:
                    out.print(Text(f"     {word}: {text}"))


def explanation(report: Report, lang: Lang, as_json: bool) -> None:
    """What a log tells."""
    if as_json:
        print(_json(report.to_json()))
    else:
        out.print(Text(render_text(report, lang)))


def reported(facts: Mapping[str, Any], path: Path, as_json: bool) -> None:
    """Where the page is, and each run in a line. On stderr the files that it had to do without."""
    for run in facts["runs"]:
        for problem in run["unread"]:
            err.print(Text(f"{run['path']}/{problem}"))
    if as_json:
        print(_json(facts))
        return
    for run in facts["runs"]:
        scores = "  ".join(f"{k.replace('_', ' ')} {_number(v, '.4f')}" for k, v in run["figures"].items() if v < 1000)
        out.print(Text(f"{run['label']}  {run['status']}  {run['steps']} steps  {scores}".rstrip()))
    out.print(Text(f"report: {path}"))


def recipes(paths: Sequence[Path], as_json: bool) -> None:
    """Name and first comment line of each shipped recipe."""
    first = {p: p.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for p in paths}
    if as_json:
        print(json.dumps([{"name": p.stem, "path": str(p), "about": about} for p, about in first.items()], indent=2))
        return
    out.print(_joined((f"{path.stem:<14} ", "bold", f"{about}  ({path})", "") for path, about in first.items()))


def _plan_lines(plan: Plan, loaded: Loaded) -> Text:
    recipe, batch = plan.recipe, plan.batch
    where = f"{plan.world_size} rank{'s' if plan.world_size > 1 else ''}"
    where += f" ({plan.num_nodes} nodes x {plan.nproc_per_node})" if plan.num_nodes > 1 else ""
    rows = {
        "recipe": str(loaded.path),
        "model": f"{recipe.model.name}, {recipe.model.task}" + (f", LoRA r={recipe.adapter.r}" if recipe.adapter else ""),
        "ranks": f"{where} on {plan.device} over {plan.backend}  ({plan.device_reason})",
        "nodes": f"{plan.num_nodes}{f', meeting at {plan.rdzv_endpoint}' if plan.rdzv_endpoint else ''}  ({plan.nodes_reason})",
        "strategy": f"{plan.strategy}  ({plan.strategy_reason})",
        "precision": f"{plan.precision}  ({plan.precision_reason})",
        "batch": f"{batch.global_size} rows a step = {where.split(' (')[0]} x micro batch {batch.micro_size} x accumulation {batch.accumulation}",
    }  # fmt: skip
    if plan.use is not None:
        rows |= {"weights": plan.use.weights, "batch": f"{batch.eval_size} rows a rank"}
    if not plan.nodes_reason:
        del rows["nodes"]
    if plan.debug:
        rows["debug"] = f"{plan.training_arguments['max_steps']} steps in this terminal, no checkpoints, no evaluation"
    return _joined((f"{name:<10} ", "bold", text, "") for name, text in rows.items())


def _environment(rows: Sequence[Variable]) -> Text:
    # Lines, not a table: a value cut to fit a column cannot be pasted into a shell.
    shown = [(f"  {row.name}={hidden(row.name, row.value)}", row.reason) for row in rows]
    return _joined((setting, "", f"  # {reason}", "dim") for setting, reason in shown)


def _joined(lines: Iterable[tuple[str, str, str, str]]) -> Text:
    out = Text()
    for number, (left, style, right, other) in enumerate(lines):
        out.append("\n" if number else "").append(left, style).append(right, other)
    return out


def _epochs(metrics: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    scores = [k for k in metrics.get("final", {}) if k in ("accuracy", "precision", "recall", "f1", "mae")]
    for head in (
        "Epoch",
        "Training Loss",
        "Validation Loss",
        *["MAE" if s == "mae" else s.capitalize() for s in scores],
    ):
        table.add_column(head, justify="right")
    for row in metrics.get("epochs", []):
        cells = [
            _number(row.get("epoch"), "g"),
            _number(row.get("train_loss"), ".6f"),
            _number(row.get("eval_loss"), ".6f"),
        ]
        table.add_row(*cells, *[_number(row.get(score), ".6f") for score in scores])
    return table


def _confusion(matrix: Sequence[Sequence[int]]) -> Table:
    table = Table(box=None, pad_edge=False, title="rows: label, columns: prediction", title_justify="left")
    for head in ("", *map(str, range(len(matrix)))):
        table.add_column(head, justify="right")
    for label, counts in enumerate(matrix):
        table.add_row(str(label), *map(str, counts))
    return table


def _figures(metrics: Mapping[str, Any]) -> str:
    """Of an evaluation without a training: every figure that is one number, as precise as it is."""
    final = {name: value for name, value in metrics.get("final", {}).items() if isinstance(value, int | float)}
    width = max(map(len, final), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in final.items())


def _train_output(metrics: Mapping[str, Any]) -> str:
    train = dict(metrics.get("train", {}))
    step, loss = train.pop("global_step", None), train.pop("train_loss", None)
    return f"TrainOutput(global_step={step}, training_loss={loss}, metrics={train})"


def _failure(failure: Failure) -> None:
    """What, why, what to do. A user's mistake is one line and its fix; a fault is the rank's traceback, once."""
    what, hint = "the job failed" if failure.what is None else failure.what, failure.hint
    rank = failure.rank
    if failure.exit_code != EXIT_USER:
        trace = failure.traceback.rstrip()
        is_ours = failure.type == "LaunchError" and hint  # it says all; where it was raised tells nobody more
        if trace and not is_ours:
            err.print(Text(trace))
        if rank is not None and failure.type != records.STALLED:
            what = f"rank {rank} on {failure.host} failed first: {what}"
    err.print(Text(f"error: {what}"))
    if hint:
        err.print(Text(f"  fix: {hint}"))
    if failure.exit_code != EXIT_USER and failure.log:
        err.print(Text(f"  log: {failure.log}"))


def _json(value: Any, indent: int | None = 2) -> str:
    """For a program, or for a person's terminal."""
    return scrub.escaped(json.dumps(scrub.value(value), indent=indent, ensure_ascii=False))


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"
