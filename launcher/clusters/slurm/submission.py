"""From a plan and what was asked of Slurm to a batch job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.clusters.slurm import queue
from launcher.clusters.slurm import script as sbatch
from launcher.clusters.slurm.script import Allocation, Command
from launcher.clusters.submission import Asked, Commands, OnSharedFiles, Script, Work
from launcher.errors import LaunchError
from launcher.messages import Message, plural
from launcher.planning.plan import Plan

NPUS = "npu"
"""The generic resource that --npus asks for."""


@dataclass(frozen=True)
class Options:
    """The options of cluster.OPTIONS; None leaves it to the site."""

    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    npus: int | None = None
    gres: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    exclusive: bool | None = None
    output: str | None = None
    requeue: bool = True
    follow: bool = False


@dataclass(frozen=True)
class SlurmSubmission(OnSharedFiles):
    """One batch job."""

    options: Options

    @property
    def queue(self) -> queue.Queue:
        return queue.Queue()

    def script(self, work: Work, asked: Asked) -> Script:
        """Raises LaunchError where Slurm is asked for other cards than the ranks need, or a value cannot be said to it."""
        options, plan = self.options, work.plan
        run_dir = asked.run_dir.absolute() if asked.run_dir else None
        folder = run_dir or Path(work.loaded.spec.output_dir).absolute() / plan.name
        require_cards(plan, options.npus, options.gres)
        allocation = self._allocation(plan, asked.job_name or sbatch.plain(plan.name), folder)
        python = Path(sys.executable)
        argv = [str(python), "-m", "launcher.cli", *work.argv(run_dir)]
        text = sbatch.script(plan, allocation, Command(argv, python, Path.cwd(), asked.cann))
        advice = Message(
            "cards alone get a node's job one core in most sites; --cpus-per-task N or --exclusive asks for more"
        )
        gets_one_core = allocation.gres and not allocation.exclusive and allocation.cpus_per_task is None
        return Script(
            text,
            allocation.job_name,
            folder,
            warnings=[(allocation.gres, advice)] if allocation.gres and gets_one_core else [],
            is_run=run_dir is not None,
            output=allocation.output,
        )

    def _allocation(self, plan: Plan, job_name: str, folder: Path) -> Allocation:
        options = self.options
        gres = ",".join(filter(None, [options.gres, f"{NPUS}:{options.npus}" if options.npus else None])) or None
        output = str(Path(options.output).absolute()) if options.output else sbatch.literal(folder) + "/slurm-%j.out"
        whole = options.exclusive
        return Allocation(
            job_name=job_name,
            output=output,
            gres=gres,
            exclusive=whole if whole is not None else plan.accelerator.has_cards and gres is None,
            time=options.time,
            partition=options.partition,
            account=options.account,
            qos=options.qos,
            constraint=options.constraint,
            cpus_per_task=options.cpus_per_task,
            mem=options.mem,
            requeue=options.requeue,
        )

    def submit(self, script: Script, env: Mapping[str, str]) -> str:
        return queue.sbatch(script.text, env)

    def commands(self, job: str) -> Commands:
        return Commands(end=f"scancel {job}", save=f"scancel --signal=USR1 {job}")


def require_cards(plan: Plan, npus: int | None, gres: str | None) -> None:
    """Raises LaunchError where the cards that Slurm is asked for are said twice, or are fewer than the ranks."""
    listed = sbatch.cards(gres or "", plan.accelerator.gres or NPUS)
    if npus is not None and listed is not None:
        raise LaunchError(
            "--npus {npus} and --gres {gres} both say how many cards",
            hint="say it once: leave --npus out",
            npus=npus,
            gres=gres,
        )
    cards, option = (npus, f"--npus {npus}") if npus is not None else (listed, f"--gres {gres}")
    if plan.accelerator.has_cards and cards is not None and cards < plan.nproc_per_node:
        raise LaunchError(
            plural(
                "{text} gives each node {count} card, and --nproc {nproc_per_node} starts {nproc_per_node} ranks there",
                "{text} gives each node {count} cards, and --nproc {nproc_per_node} starts {nproc_per_node} "
                "ranks there",
                count=cards,
                text=option,
                nproc_per_node=plan.nproc_per_node,
            ),
            hint=Message(
                "ask for {nproc_per_node} cards, or say --nproc {cards}",
                nproc_per_node=plan.nproc_per_node,
                cards=cards,
            )
            if cards
            else "ask for a card for each rank",
        )
