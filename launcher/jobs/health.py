"""What is looked at before a job starts: this machine, its packages, and the rank table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launcher.accelerators import table as accelerators
from launcher.accelerators.ascend import ranktable_check
from launcher.checks import Context, Finding
from launcher.data import check, columns
from launcher.diagnose.doctor import compare, versions
from launcher.diagnose.doctor import run as doctor
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster, Found
from launcher.messages import Message, joined
from launcher.planning.plan import Plan
from launcher.recipe import metrics
from launcher.recipe.schema import RecipeSpec
from launcher.render import env
from launcher.rundir.paths import RunDir
from launcher.strategies import table as strategies

NOTHING_OF_A_RECIPE = {
    "is_program": True,
    "needs": (),
    "precision": "auto",
    "strategy": "auto",
    "model_name": None,
}
"""What a program uses is its own."""


def require_health(plan: Plan, cluster: Cluster, run: RunDir) -> dict[str, Any]:
    """The doctor's cheap checks, before anything is started; what the machine is, for the run's report.

    Raises:
        LaunchError: a finding that would end the job later, with its fix.
    """
    values = doctor_values(plan.recipe, plan.precision, plan.strategy, plan.training_arguments)
    if plan.program is not None:
        values |= NOTHING_OF_A_RECIPE
    values["output_dir"] = run.path
    if plan.use is not None:  # the model that they were trained from is not needed any more
        values["model_name"] = plan.use.weights
    if plan.use is not None and plan.use.mode == "predict":  # computes no metric
        values["needs"] = _needs(plan.recipe.model_copy(update={"metrics": ()}), plan.strategy)
    context = doctor.context(
        plan.device,
        found=Found(cluster.node_devices),
        nproc=plan.nproc_per_node,
        num_nodes=plan.num_nodes,
        rdzv_endpoint=plan.rdzv_endpoint,
        is_first_node=cluster.node_rank == 0,
        **values,
    )
    failed = [f for f in doctor.run_checks(context, only_cheap=True) if f.ok == "fail"]
    if failed:
        raise LaunchError(
            joined((Message("{name}: {what}", name=f.name, what=f.what) for f in failed), "\n"), hint=_fixes(failed)
        )
    return compare.machine_facts(context)


def require_rows(plan: Plan, *, elsewhere: bool = False) -> None:
    """Raises LaunchError with everything that is wrong with the rows of a recipe, where files on this machine tell.
    `elsewhere`: the job runs on other machines, and what is not here may be there.
    """
    if plan.program is not None or (plan.use is not None and plan.use.mode == "predict"):
        return
    if plan.recipe.task.has_conversations:
        check.require_conversations(plan.recipe.data, trains=plan.use is None, elsewhere=elsewhere)
    elif columns.is_file(plan.recipe):
        check.require_columns(plan.recipe, trains=plan.use is None)


def require_packages(names: tuple[str, ...]) -> None:
    """For what starts no ranks and asks nothing of the machine.

    Raises:
        LaunchError: one is not installed, or of a release that this launcher was not made for; with the pip line.
    """
    context = Context(os.environ, accelerators.HOST, Found(()), versions.installed(), needs=names)
    failed = [f for f in (versions.check_torch_pair(context), versions.check_packages(context)) if f.ok == "fail"]
    if failed:
        raise LaunchError(joined((f.what for f in failed), "\n"), hint=_fixes(failed))


def _fixes(failed: list[Finding]) -> str:
    return joined(dict.fromkeys(f.fix for f in failed if f.fix), "\n       ")


def require_rank_table(plan: Plan) -> None:
    """Raises LaunchError where --rank-table names a file that HCCL would refuse, or that is for another job."""
    if plan.rank_table is None:
        return
    problems = ranktable_check.check(
        Path(plan.rank_table).read_text(encoding="utf-8", errors="replace"), plan.world_size
    )
    if problems:
        raise LaunchError(
            "--rank-table {rank_table}: {actual}",
            hint="make it anew with `ascend-launch ranktable`, or leave it out",
            rank_table=plan.rank_table,
            actual="; ".join(problems[:4]),
        )


def doctor_values(recipe: RecipeSpec, precision: str, strategy: str, training: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe the doctor looks at; the rest of a checks.Context is of the machine."""
    return {
        "precision": precision,
        "strategy": strategy,
        "output_dir": Path(recipe.output_dir),
        "loader_workers": int(training.get("dataloader_num_workers") or 0),
        "report_to": env.report_to(training),
        "model_name": recipe.model.name,
        "hub": recipe.model.hub,
        "needs": _needs(recipe, strategy),
    }


def _needs(recipe: RecipeSpec, strategy: str) -> tuple[str, ...]:
    """The packages that ranks of this recipe import, by the names of versions.BOUNDS."""
    if recipe.script is not None:
        return ()
    chosen = strategies.chosen(strategy)
    asked = {
        "deepspeed": chosen is not None and chosen.needs_deepspeed,
        "peft": recipe.adapter is not None,
        "gguf": recipe.model.gguf_file is not None,
        "modelscope": recipe.model.hub == "modelscope",
    }
    ranks = ("torch", "transformers", "accelerate", "datasets", "evaluate", "scikit-learn")
    of_metrics = [name for metric in metrics.named(recipe.metrics, recipe.code) for name in metric.needs]
    return (*ranks, *(name for name, is_asked in asked.items() if is_asked), *dict.fromkeys(of_metrics))
