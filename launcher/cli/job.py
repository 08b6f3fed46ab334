"""What commands that run a job share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli.options import doctor_values
from launcher.cli.options import given as options_given
from launcher.errors import EXIT_OK, EXIT_USER, LaunchError
from launcher.messages import Message, joined

if TYPE_CHECKING:
    from launcher.diagnose.explain.verdicts import Report
    from launcher.machine.cluster import Cluster
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.outcome import Outcome
    from launcher.rundir.paths import RunDir


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
    from launcher.rundir import lifecycle

    output_dir = Path(loaded.spec.output_dir)
    if given is not None:
        return lifecycle.take(given, plan, node_rank)
    if job is not None:
        return lifecycle.of_job(output_dir, plan, job, node_rank)
    if plan.num_nodes > 1:
        raise LaunchError(
            "{num_nodes} nodes need --run-dir: nothing here names the job for all of them",
            hint="give every node the same --run-dir DIR; each node but the first keeps its files in a folder "
            "of its own there",
            num_nodes=plan.num_nodes,
        )
    return lifecycle.new(output_dir, plan.name)


def explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs of a failed job tell beyond its traceback; kept in failure.json too."""
    from launcher.diagnose.explain.report import explain_path
    from launcher.diagnose.explain.signatures import FAILURE, LAUNCH, PYTHON
    from launcher.diagnose.explain.words import language
    from launcher.rundir import events, records

    failure = outcome.failure
    # A stall and a lost node are explained already; the logs would only tell of those who waited.
    if failure is None or failure.exit_code == EXIT_USER or failure.type in (records.STALLED, records.NODE_LOST):
        return None
    report = explain_path(run.path, language())
    if report.verdict is None or report.verdict.id in (PYTHON.id, FAILURE):
        return None
    if report.verdict.id == LAUNCH.id and (failure.what or "").startswith(report.verdict.cause):
        return None
    if run.failure_path.exists():
        with contextlib.suppress(OSError):  # on a full disk it is still shown
            events.write_failure(run.failure_path, failure.but(explanation=report.verdict.to_json()))
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

    from launcher.rundir import paths

    try:
        from launcher.report import page

        page.write([page.load(run.path)], run.report_path)
    except (Exception, KeyboardInterrupt):
        with contextlib.suppress(OSError), os.fdopen(paths.open_append(run.agent_log), "a", encoding="utf-8") as log:
            log.write(f"report.html was not written:\n{traceback.format_exc()}")
        return None
    return run.report_path


def require_rank_table(plan: Plan) -> None:
    """Raises LaunchError where --rank-table names a file that HCCL would refuse, or that is for another job."""
    from launcher.accelerators.ascend import ranktable_check

    if plan.rank_table is None:
        return
    found = ranktable_check.check(Path(plan.rank_table).read_text(encoding="utf-8", errors="replace"), plan.world_size)
    if found:
        raise LaunchError(
            "--rank-table {rank_table}: {actual}",
            hint="make it anew with `ascend-launch ranktable`, or leave it out",
            rank_table=plan.rank_table,
            actual="; ".join(found[:4]),
        )


def require_health(plan: Plan, cluster: Cluster, run: RunDir) -> dict[str, Any]:
    """The doctor's cheap checks, before anything is started; what the machine is, for the run's report.

    Raises:
        LaunchError: a finding that would end the job later, with its fix.
    """
    from launcher.diagnose.doctor import compare
    from launcher.diagnose.doctor import run as doctor_run
    from launcher.machine.cluster import Found

    values = doctor_values(plan.recipe, plan.precision, plan.strategy, plan.training_arguments)
    if plan.program is not None:
        values |= {"is_program": True, "needs": (), "precision": "auto", "strategy": "auto", "model_name": None}
    values["output_dir"] = run.path
    if plan.use is not None:  # the model that they were trained from is not needed any more
        values["model_name"] = plan.use.weights
    context = doctor_run.context(
        plan.device,
        found=Found(cluster.node_devices),
        nproc=plan.nproc_per_node,
        num_nodes=plan.num_nodes,
        rdzv_endpoint=plan.rdzv_endpoint,
        is_first_node=cluster.node_rank == 0,
        **values,
    )
    failed = [f for f in doctor_run.run_checks(context, only_cheap=True) if f.ok == "fail"]
    if failed:
        what = joined((Message("{name}: {what}", name=f.name, what=f.what) for f in failed), "\n")
        raise LaunchError(what, hint=joined(dict.fromkeys(f.fix for f in failed if f.fix), "\n       "))
    return compare.machine_facts(context)
