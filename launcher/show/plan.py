"""A plan."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from launcher.planning.fit import Row
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.render.env import Variable, hidden
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
    where = f"{plan.world_size} rank{'s' if plan.world_size > 1 else ''}"
    where += f" ({plan.num_nodes} nodes x {plan.nproc_per_node})" if plan.num_nodes > 1 else ""
    rows = {
        "recipe": str(loaded.path),
        "model": f"{recipe.model.name}, {recipe.model.task}"
        + (f", LoRA r={recipe.adapter.r}" if recipe.adapter else ""),
        "ranks": f"{where} on {plan.device} over {plan.backend}  ({plan.device_reason})",
        "nodes": f"{plan.num_nodes}{f', meeting at {plan.rdzv_endpoint}' if plan.rdzv_endpoint else ''}  ({plan.nodes_reason})",
        "strategy": f"{plan.strategy}  ({plan.strategy_reason})",
        "precision": f"{plan.precision}  ({plan.precision_reason})",
        "batch": f"{batch.global_size} rows a step = {where.split(' (')[0]} x micro batch {batch.micro_size} x accumulation {batch.accumulation}",
    }
    if plan.use is not None:
        rows |= {"weights": plan.use.weights, "batch": f"{batch.eval_size} rows a rank"}
    if not plan.nodes_reason:
        del rows["nodes"]
    if plan.debug:
        rows["debug"] = f"{plan.training_arguments['max_steps']} steps in this terminal, no checkpoints, no evaluation"
    return joined((f"{name:<10} ", "bold", text, "") for name, text in rows.items())


def _environment(rows: Sequence[Variable]) -> Text:
    # Lines, not a table: a value cut to fit a column cannot be pasted into a shell.
    shown = [(f"  {row.name}={hidden(row.name, row.value)}", row.reason) for row in rows]
    return joined((setting, "", f"  # {reason}", "dim") for setting, reason in shown)
