"""Slurm, as the table of clusters has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher.clusters.base import Base
from launcher.clusters.options import Option
from launcher.clusters.slurm import variables
from launcher.machine.nodes import Nodes, Read
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.checks import Check
    from launcher.clusters.submission import Submission

OPTIONS = (
    Option("--time", "Time limit, as 90, 1:30:00 or 1-12:00:00 [default: the partition's].", metavar="LIMIT"),
    Option("--partition", "The partition [default: the site's default].", metavar="NAME"),
    Option("--account", "The account.", metavar="NAME"),
    Option("--qos", "The quality of service.", metavar="NAME"),
    Option("--constraint", "Features that nodes must have.", metavar="FEATURES"),
    Option("--npus", "Cards of each node, as --gres=npu:N.", "count"),
    Option("--gres", "Generic resources of each node, as the site spells them for --gres.", metavar="LIST"),
    Option("--cpus-per-task", "Cores of each node.", "count", metavar="N"),
    Option("--mem", "Memory of each node, as 200G.", metavar="SIZE"),
    Option(
        "--exclusive",
        "Reserve whole nodes [default: yes, unless a number of cards is asked for].",
        "switch",
        off="--shared",
    ),
    Option("--output", "What the job prints [default: slurm-%j.out beside the run directory].", metavar="FILE"),
    Option(
        "--requeue", "Requeue the job after a preemption [default: yes].", "switch", off="--no-requeue", default=True
    ),
    Option("--follow", "Show the job until it ends, and exit as it does.", "flag"),
)


class Slurm(Base):
    """Nodes share files, and a batch script starts one launcher on each by srun."""

    name = "slurm"
    title = "Slurm"
    variables = variables.VARIABLES
    also_sets = frozenset({"PMI_SIZE"})
    """srun sets PMI's variables too, for every step."""

    has_queue = True
    help = "As a Slurm batch job, by sbatch."
    options = OPTIONS
    credentials_hint = Message("export it as a variable, such as HF_TOKEN, before you submit: srun hands it on")

    def is_here(self, env: Mapping[str, str]) -> bool:
        return variables.is_here(env)

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        return variables.nodes(read, pretend=pretend)

    def checks(self) -> Sequence[Check]:
        from launcher.clusters.slurm import checks

        return (checks.check_slurm_cards,)

    def submission(self, values: Mapping[str, Any]) -> Submission:
        from launcher.clusters.slurm import submission

        return submission.SlurmSubmission(submission.Options(**values))


SLURM = Slurm()
