"""A plan."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from launcher.accelerators.variables import Variable
from launcher.messages import Message, listed, plural, translated
from launcher.planning.fit import Row
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.recipe.schema import Generation
from launcher.render.env import hidden
from launcher.rundir.paths import RunDir
from launcher.show.console import joined, out, print_json
from launcher.show.text import Text
from launcher.strategies.table import SPEED_SOURCES


def dry_run(
    plan: Plan,
    loaded: Loaded,
    run: RunDir,
    texts: Mapping[str, str],
    rows: Sequence[Variable],
    unset: Sequence[Variable],
    commands: Mapping[str, str],
    as_json: bool,
) -> None:
    """Everything a launch would use, byte for byte."""
    if as_json:
        value = {
            "plan": plan.model_dump(mode="json"),
            "files": dict(texts),
            "commands": dict(commands),
            "unset": [{"name": r.name, "reason": r.reason} for r in unset],
            "environment": [{"name": r.name, "value": hidden(r.name, r.value), "reason": r.reason} for r in rows],
        }
        print(print_json(value))
        return
    out.print(plan_lines(plan, loaded))
    notes(plan.notes)
    for name in ("accelerate.yaml", "deepspeed.json"):
        if name in texts:
            out.print(Text(f"\n{run.path / name}", style="bold"))
            out.print(Text(textwrap.indent(texts[name].rstrip(), "  ")))
    out.print(Text(Message("\nenvironment of every rank"), style="bold"))
    out.print(_environment(rows))
    for row in unset:
        out.print(Text(Message("  unset {row}  # {reason}", row=row.name, reason=row.reason)))
    if plan.num_nodes > 1:
        names = listed(["GLOO_SOCKET_IFNAME", *plan.accelerator.network_variables])
        out.print(
            Text(Message("  # and, where you have not set them, {names}: settled when the nodes meet", names=names))
        )
    commands_and_no_more(commands)


def commands_and_no_more(commands: Mapping[str, str]) -> None:
    """What would be started, and by other launchers; and that it was not."""
    out.print(Text(Message("\ncommands"), style="bold"))
    for name, command in commands.items():
        out.print(Text(f"  # {name}\n  {command}"))
    out.print(Text(Message("\nnothing was started or written")))


def written(run: RunDir, texts: Mapping[str, str], commands: Mapping[str, str], as_json: bool) -> None:
    """The files that `render --out` wrote."""
    if as_json:
        print(print_json({"files": {n: str(run.path / n) for n in texts}, "commands": dict(commands)}))
        return
    for name in texts:
        out.print(Text(str(run.path / name)))
    for command in commands.values():
        out.print(Text(f"  {command}"))


def planned(plan: Plan, loaded: Loaded, rows: Sequence[Row], as_json: bool) -> None:
    """The plan that a launch would follow."""
    if as_json:
        value = {"plan": plan.model_dump(mode="json"), "memory": [row.to_json() for row in rows]}
        print(print_json(value))
    else:
        out.print(plan_lines(plan, loaded))
        notes(plan.notes)


def notes(texts: Sequence[str]) -> None:
    """What the user should know about a plan, a line each."""
    for note in texts:
        out.print(Text.assemble((Message("note       "), "bold"), translated(note)))


def memory(rows: Sequence[Row], why_none: str) -> None:
    """A line for each strategy: what one rank holds at its highest, whether that fits, and how fast the strategy is."""
    if not rows:
        out.print(Text(Message("memory     unknown: {why_none}", why_none=why_none)))
        return
    shape = rows[0].breakdown
    out.print(
        Text(
            Message(
                "{num_parameters:,} parameters, {num_trainable:,} trained; GiB of one rank at its highest",
                num_parameters=shape.num_parameters,
                num_trainable=shape.num_trainable,
            )
        )
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    heads: list[str] = [
        Message("strategy"),
        Message("weights"),
        Message("grads"),
        Message("optim"),
        Message("buffers"),
        Message("gathered"),
        Message("activ"),
        Message("logits"),
        Message("comm"),
        Message("reserve"),
        Message("total"),
        Message("of"),
    ]
    for head in [*heads, Message("fits"), Message("peak in"), Message("host"), Message("traffic"), Message("speed")]:
        table.add_column(
            Text(head), justify="left" if head in ("strategy", "fits", "peak in") else "right", no_wrap=True
        )
    for row in rows:
        cells = [_gib(size) for size in row.breakdown.parts().values()]
        verdict: str = (
            Message("yes, {margin_bytes} left", margin_bytes=_gib(row.margin_bytes))
            if row.fits
            else Message("no, {margin_bytes} short", margin_bytes=_gib(-row.margin_bytes))
        )
        if not row.fits and row.margin_bytes >= 0:
            verdict = "no, host memory"
        speed = f"{row.speed.measured:.2f}" if row.speed.measured else "-"
        table.add_row(
            row.strategy,
            *cells,
            _gib(row.breakdown.total_bytes),
            _gib(row.usable_bytes),
            verdict,
            row.breakdown.phase,
            _gib(row.host_bytes_node),
            f"{row.speed.traffic:g}x" if row.speed.traffic else "-",
            speed,
        )
    Console(highlight=False, width=180).print(table)
    for source in SPEED_SOURCES:
        out.print(Text(f"  {source}", style="dim"))


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f}"


def plan_lines(plan: Plan, loaded: Loaded) -> Text:
    recipe, batch = plan.recipe, plan.batch
    ranks = plural("{count} rank", "{count} ranks", count=plan.world_size)
    where = ranks
    if plan.num_nodes > 1:
        where = Message(
            "{ranks} ({num_nodes} nodes x {nproc})", ranks=ranks, num_nodes=plan.num_nodes, nproc=plan.nproc_per_node
        )
    rows: dict[str, str] = {
        Message("recipe"): str(loaded.path),
        Message("model"): f"{recipe.model.name}, {recipe.model.task}"
        + (f", LoRA r={recipe.adapter.r}" if recipe.adapter else ""),
        Message("ranks"): Message(
            "{where} on {device} over {backend}  ({device_reason})",
            where=where,
            device=plan.device,
            backend=plan.backend,
            device_reason=translated(plan.device_reason),
        ),
        Message("nodes"): Message(
            "{num_nodes}{rdzv_endpoint}  ({nodes_reason})",
            num_nodes=plan.num_nodes,
            rdzv_endpoint=Message(", meeting at {rdzv_endpoint}", rdzv_endpoint=plan.rdzv_endpoint)
            if plan.rdzv_endpoint
            else "",
            nodes_reason=translated(plan.nodes_reason),
        ),
        Message("strategy"): f"{plan.strategy}  ({translated(plan.strategy_reason)})",
        Message("precision"): f"{plan.precision}  ({translated(plan.precision_reason)})",
        Message("batch"): Message(
            "{global_size} rows a step = {ranks} x micro batch {micro_size} x accumulation {accumulation}",
            global_size=batch.global_size,
            ranks=ranks,
            micro_size=batch.micro_size,
            accumulation=batch.accumulation,
        ),
    }
    if recipe.generation is not None and not plan.debug and (plan.use is None or plan.use.mode == "eval"):
        rows[Message("texts")] = _texts(recipe.generation)
    if plan.use is not None:
        rows |= {
            Message("weights"): plan.use.weights,
            "batch": Message("{eval_size} rows a rank", eval_size=batch.eval_size),
        }
    if not plan.nodes_reason:
        del rows["nodes"]
    if plan.debug:
        rows[Message("debug")] = Message(
            "{max_steps} steps in this terminal, no checkpoints, no evaluation",
            max_steps=plan.training_arguments["max_steps"],
        )
    return joined((f"{translated(name):<10} ", "bold", text, "") for name, text in rows.items())


def _texts(asked: Generation) -> str:
    """What an evaluation writes, and the settings by the recipe's names."""
    rows = (
        Message("of every row that has an answer")
        if asked.rows is None
        else plural("of {count} row", "of {count} rows", count=asked.rows)
    )
    when = (
        Message("at each evaluation")
        if asked.every == 1
        else Message("every {every} evaluations, and at the last", every=asked.every)
    )
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in asked.given().items())
    settings = given or Message("as the model's generation_config.json says")
    return Message("{rows}, {when}: {settings}", rows=rows, when=when, settings=settings)


def _environment(rows: Sequence[Variable]) -> Text:
    # Lines, not a table: a value cut to fit a column cannot be pasted into a shell.
    shown = [(f"  {row.name}={hidden(row.name, row.value)}", row.reason) for row in rows]
    return joined((setting, "", f"  # {reason}", "dim") for setting, reason in shown)
