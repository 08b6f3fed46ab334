"""run, render and plan: from a recipe to a running job, or to what one would do."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from launcher import streams
from launcher.cli import hostfile, outputs
from launcher.cli.options import decide, doctor_values, inputs, machine_options
from launcher.cli.options import given as options_given
from launcher.errors import EXIT_OK, EXIT_USER, LaunchError

if TYPE_CHECKING:
    from launcher.cluster.model import Cluster
    from launcher.explain import Report
    from launcher.plan import Plan
    from launcher.records import Event
    from launcher.rundir import RunDir
    from launcher.spec import Loaded
    from launcher.supervise import Outcome


@click.command(name="run")
@machine_options
@click.option(
    "--run-dir",
    type=outputs.Target(file_okay=False),
    help="Directory of this run [default: a new one below output_dir].",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, the files and the commands; start nothing, write nothing."
)
@click.option(
    "--debug", is_flag=True, help="One rank in this terminal, a few steps, synchronous NPU; breakpoints work."
)
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@hostfile.options
def run_command(recipe: Path, overrides: tuple[str, ...], run_dir: Path | None, dry_run: bool, debug: bool, as_json: bool, **machine: Any) -> None:  # fmt: skip
    """Train RECIPE on every rank and leave rank 0's metrics. This is the default command."""
    from launcher import rundir

    far = {name: machine.pop(name) for name in hostfile.OWN}
    if far["hostfile"] is not None:
        sys.exit(hostfile.launch(recipe, overrides, run_dir, dry_run, debug, as_json, machine, far))
    hostfile.refuse_alone(far)
    loaded, cluster, plan = decide(recipe, overrides, machine, debug=debug, pretend=dry_run)
    if dry_run:
        named = Path(loaded.spec.output_dir) / plan.name / (cluster.job or "RUN")
        _show_render(loaded, plan, rundir.for_node(run_dir or named, cluster.node_rank), cluster.node_rank, as_json)
        return
    if debug and cluster.num_nodes > 1:
        raise LaunchError(f"--debug is one rank in this terminal, and there are {cluster.num_nodes} nodes ({plan.nodes_reason})", hint="add --nnodes 1")  # fmt: skip
    launch(loaded, cluster, plan, run_dir, as_json)


def launch(loaded: Loaded, cluster: Cluster, plan: Plan, run_dir: Path | None, as_json: bool) -> NoReturn:
    """Carry a plan out in its run directory, show it, and end with its exit code.

    A new directory becomes `latest` when its ranks start. One that a user's mistake ended before is removed: what was wrong
    has been said, and there is nothing else in it.
    """
    if plan.program is not None and not plan.debug:
        from launcher.cli import program
        from launcher.show.program import Source

        job = cluster.job
        shown = (Source(cluster.node_rank * plan.nproc_per_node),)
        program.launch(loaded, cluster, plan, plan.program, run_dir=run_dir, job=job, as_json=as_json, shown=shown)
    from launcher import records, rundir, show, supervise
    from launcher.render import env, files

    job = None if plan.debug else cluster.job
    run, is_new = run_directory(run_dir, loaded, plan, job, cluster.node_rank), run_dir is None and job is None
    lock = run.lock()
    try:
        machine_facts = require_health(plan, cluster, run)
        _require_rank_table(plan)
    except LaunchError:
        if is_new:
            rundir.discard(run)
        raise
    user_env = dict(os.environ)
    files.write(files.texts(loaded, plan, run, user_env, cluster.node_rank), run)
    child_env = env.of_agent(plan, run.path.resolve(), user_env)
    rundir.append_event(run.events_path, records.Machine.of(machine_facts))
    streams.outlive()
    view = show.view(as_json, cluster.node_rank)
    view.plan(plan, run, loaded)
    for row in env.removed(plan, user_env):
        view.event(records.Note(text=f"{row.name}={row.value} is unset for the ranks: {row.reason}"))
    if plan.debug:
        sys.exit(supervise.foreground(run, child_env))
    has_ranks = False

    def on_event(event: Event) -> None:
        nonlocal has_ranks
        if isinstance(event, records.Ranks) and not has_ranks:
            has_ranks = True
            if is_new:
                rundir.point_latest(run.path)
        view.event(event)

    with view:
        outcome = supervise.run(files.agent_argv(run, cluster.node_rank), run, child_env, on_event, lock=lock)
    is_nothing = is_new and not has_ranks and outcome.exit_code == EXIT_USER
    has_report = plan.recipe.report and cluster.node_rank == 0 and not is_nothing
    continuing = continuing_command(plan, run, cluster.node_rank) if goes_on(outcome, run) and not is_nothing else ""
    view.end(outcome, run, explained(outcome, run), _report(run) if has_report else None, continuing)
    if is_nothing:
        rundir.discard(run)
    sys.exit(outcome.exit_code)


def goes_on(outcome: Outcome, run: RunDir) -> bool:
    """Whether giving the command again makes sense as it is: what only the user can correct would be found wrong again,
    unless there is work to go on from."""
    return outcome.exit_code not in (EXIT_OK, EXIT_USER) or (outcome.exit_code == EXIT_USER and run.has_checkpoints)


def continuing_command(plan: Plan, run: RunDir, node_rank: int) -> str:
    """The command that goes on with this run. Its own recipe holds every override, with links followed."""
    from launcher import again

    weights = {"checkpoint": plan.use.weights} if plan.use else {}
    words = options_given({"run_dir", "dry_run", "debug"}, weights)
    folder = run.path.parent if node_rank else run.path
    context = click.get_current_context()
    what = context.params["words"] if context.info_name == "program" else [str(run.recipe_path)]
    return again.command([context.info_name or "run", *words, "--run-dir", str(folder), *what])


def run_directory(given: Path | None, loaded: Loaded, plan: Plan, job: str | None, node_rank: int) -> RunDir:
    """Where this node keeps its part of the run: as told, by the job's name, or a new folder for a single node."""
    from launcher import rundir

    output_dir = Path(loaded.spec.output_dir)
    if given is not None:
        return rundir.take(given, plan, node_rank)
    if job is not None:
        return rundir.of_job(output_dir, plan, job, node_rank)
    if plan.num_nodes > 1:
        raise LaunchError(
            f"{plan.num_nodes} nodes need --run-dir: nothing here names the job for all of them",
            hint="give every node the same --run-dir DIR; each node but the first keeps its files in a folder of its own there",
        )
    return rundir.new(output_dir, plan.name)


def explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs of a failed job tell beyond its traceback; kept in failure.json too."""
    from launcher import explain, records, rundir

    failure = outcome.failure
    # A stall and a lost node are explained already; the logs would only tell of those who waited.
    if failure is None or failure.exit_code == EXIT_USER or failure.type in (records.STALLED, records.NODE_LOST):
        return None
    report = explain.explain_path(run.path, explain.language())
    if report.verdict is None or report.verdict.id in (explain.PYTHON.id, explain.FAILURE):
        return None
    if report.verdict.id == explain.LAUNCH.id and (failure.what or "").startswith(report.verdict.cause):
        return None
    if run.failure_path.exists():
        with contextlib.suppress(OSError):  # on a full disk it is still shown
            rundir.write_failure(run.failure_path, failure.but(explanation=report.verdict.to_json()))
    return report


def cause_explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs tell beyond the failing rank's own words, unless it is that a peer is gone: which one has been said."""
    report = explained(outcome, run)
    if report is None or report.verdict is None or report.verdict.kind in ("consequence", "peer"):
        return None
    return report


def _report(run: RunDir) -> Path | None:
    """Write the run's page. Whatever goes wrong with it, the job's outcome stands."""
    import traceback

    from launcher import rundir

    try:
        from launcher import report

        report.write([report.load(run.path)], run.report_path)
    except (Exception, KeyboardInterrupt):
        with contextlib.suppress(OSError), os.fdopen(rundir.open_append(run.agent_log), "a", encoding="utf-8") as log:
            log.write(f"report.html was not written:\n{traceback.format_exc()}")
        return None
    return run.report_path


def _require_rank_table(plan: Plan) -> None:
    """Raises LaunchError where --rank-table names a file that HCCL would refuse, or that is for another job."""
    from launcher.render import ranktable

    if plan.rank_table is None:
        return
    found = ranktable.check(Path(plan.rank_table).read_text(encoding="utf-8", errors="replace"), plan.world_size)
    if found:
        raise LaunchError(
            f"--rank-table {plan.rank_table}: {'; '.join(found[:4])}",
            hint="make it anew with `ascend-launch ranktable`, or leave it out",
        )


def require_health(plan: Plan, cluster: Cluster, run: RunDir) -> dict[str, Any]:
    """The doctor's cheap checks, before anything is started; what the machine is, for the run's report.

    Raises:
        LaunchError: a finding that would end the job later, with its fix.
    """
    from launcher import doctor
    from launcher.cluster import npu

    values = doctor_values(plan.recipe, plan.precision, plan.strategy, plan.training_arguments)
    if plan.program is not None:
        values |= {"is_program": True, "needs": (), "precision": "auto", "strategy": "auto", "model_name": None}
    values["output_dir"] = run.path
    if plan.use is not None:  # the model that they were trained from is not needed any more
        values["model_name"] = plan.use.weights
    context = doctor.context(
        plan.device,
        found=npu.Found(cluster.node_devices),
        nproc=plan.nproc_per_node,
        num_nodes=plan.num_nodes,
        rdzv_endpoint=plan.rdzv_endpoint,
        is_first_node=cluster.node_rank == 0,
        **values,
    )
    failed = [f for f in doctor.run_checks(context, only_cheap=True) if f.ok == "fail"]
    if failed:
        what = "\n".join(f"{f.name}: {f.what}" for f in failed)
        raise LaunchError(what, hint="\n       ".join(dict.fromkeys(f.fix for f in failed if f.fix)))
    return doctor.machine_facts(context)


@click.command(name="render")
@machine_options
@click.option(
    "--out",
    metavar="FOLDER",
    type=outputs.Target(file_okay=False),
    help="Folder to write the files into [default: show them].",
)
@outputs.force_option
@click.option("--debug", is_flag=True, help="Write what a --debug launch would use.")
@click.option("--json", "as_json", is_flag=True, help="The plan and every file as one JSON object.")
def render_command(recipe: Path, overrides: tuple[str, ...], out: Path | None, force: bool, debug: bool, as_json: bool, **machine: Any) -> None:  # fmt: skip
    """Write the files a launch of RECIPE uses: plan, accelerate YAML, DeepSpeed JSON, environment."""
    from launcher import show
    from launcher.render import files
    from launcher.rundir import RunDir

    loaded, cluster, plan = decide(recipe, overrides, machine, debug=debug, pretend=True)
    run = RunDir(out or Path(loaded.spec.output_dir) / plan.name / "RUN")
    if out is None:
        _show_render(loaded, plan, run, cluster.node_rank, as_json)
        return
    texts = files.texts(loaded, plan, run, dict(os.environ), cluster.node_rank)
    _require_room(run, texts, force=force)
    run.create()
    run.claim(plan)  # what another run's directory says must stay true
    files.write(texts, run)
    show.written(run, texts, files.commands(plan, run, cluster.node_rank), as_json)


def _require_room(run: RunDir, texts: dict[str, str], *, force: bool) -> None:
    if run.metrics_path.exists():
        raise LaunchError(f"{run.path}: is the directory of a finished run", hint="name another folder with --out")
    there = [name for name in texts if (run.path / name).exists()]
    if there and not force:
        raise LaunchError(f"{run.path}: holds {', '.join(there)} already", hint="name another folder with --out, or add --force to overwrite them")  # fmt: skip


@click.command(name="plan")
@machine_options
@click.option("--json", "as_json", is_flag=True, help="The plan and every strategy's memory as one JSON object.")
def plan_command(recipe: Path, overrides: tuple[str, ...], as_json: bool, **machine: Any) -> None:
    """Show what RECIPE would do on these or other cards: every strategy's memory, what fits, what is taken and why."""
    from launcher import plan, show

    device = machine["device"]
    machine["device"] = "npu" if device == "auto" and (machine["chip"] or machine["hbm"]) else device
    loaded, cluster, options, config = inputs(recipe, overrides, machine, debug=False, pretend=True)
    rows = plan.memory_rows(loaded, cluster, options, config)
    if not as_json:
        show.memory(
            rows, plan.unmodelled(cluster, config)
        )  # before `make` refuses what does not fit: the table shows by how much
    show.planned(plan.make(loaded, cluster, options, config), loaded, rows, as_json)


def _show_render(loaded: Loaded, plan: Plan, run: RunDir, node_rank: int, as_json: bool) -> None:
    from launcher import show
    from launcher.render import env, files

    user_env = dict(os.environ)
    texts = files.texts(loaded, plan, run, user_env, node_rank)
    rows = env.variables(plan, run.path.resolve(), user_env)
    unset = env.removed(plan, user_env)
    show.dry_run(plan, loaded, run, texts, rows, unset, files.commands(plan, run, node_rank), as_json)
