"""Slurm: which node of a step this is, from the variables that srun sets; and Slurm's own way to write lists of hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher.clusters.slurm.hostlist import each_host, hosts, short
from launcher.errors import LaunchError
from launcher.machine.nodes import OPTIONS, Nodes, Read, is_number
from launcher.messages import Message, plural

VARIABLES = {
    "job": ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID"),
    "count": ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "rank": ("SLURM_NODEID",),
    "hosts": ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"),
    "tasks": ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID"),
}
"""What each says, in order of preference: of a step's and a job's variable, the step's counts."""
SHELL_STEPS = 0xFFFFFFF0
"""Step ids from here up are no srun: batch script, salloc's own shell, extern (slurm.h: SLURM_BATCH_SCRIPT, …)."""
FIRST_PORT, NUM_PORTS = 20000, 10000
STEP_STRIDE = 1009
"""Steps of one job lie far from the ports of the jobs that were submitted after it."""


SRUN = "srun --ntasks-per-node=1 ascend-launch ..."


def is_here(env: Mapping[str, str]) -> bool:
    return bool(env.get("SLURM_JOB_ID"))


def nodes(read: Read, *, pretend: bool = False) -> Nodes:
    """This node's place in the step, or in a job of one node outside of any.

    Args:
        pretend: nothing is going to be started, so outside of a step say what srun would start.

    Raises:
        LaunchError: several tasks share a node, or the job has nodes that nobody would start a launcher on.
    """
    job = read.needed(Message("the job"), "SLURM_JOB_ID")
    if (read.number("SLURM_HET_SIZE") or 1) > 1:
        raise LaunchError("a heterogeneous Slurm job has no one numbering of its nodes", hint=OPTIONS)
    if not in_step(read.env):
        return _outside(read, job, pretend)
    step = read.needed(Message("the step"), "SLURM_STEP_ID")
    count = read.needed(Message("the number of nodes"), *VARIABLES["count"], least=1)
    rank = read.needed(Message("this node's number"), *VARIABLES["rank"])
    _one_task_a_node(read)
    listed = read.text(*VARIABLES["hosts"])
    _as_many(read, "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST")
    first = next(each_host(listed)) if listed else None
    return read.nodes(count=count, rank=rank, host=first, port=port(job, step), job=job_name(read, job, step))


def _as_many(read: Read, count: str, listed: str) -> None:
    """Raises LaunchError where a step's list of nodes and its number of nodes disagree: one of them is of another step."""
    if not read.env.get(count) or not read.env.get(listed):
        return
    many = len(hosts(read.env[listed]))
    if many != read.number(count):
        raise LaunchError(
            plural(
                "{listed}={env} names {count} node, and {value} says {read_env}",
                "{listed}={env} names {count} nodes, and {value} says {read_env}",
                count=many,
                listed=listed,
                env=short(read.env[listed]),
                value=count,
                read_env=read.env[count],
            ),
            hint="something in this step sets one of them again: leave both as srun sets them, or {options}",
            options=OPTIONS,
        )


def in_step(env: Mapping[str, str]) -> bool:
    """Whether srun started this. A batch script has SLURM_PROCID and SLURM_NODEID too, as one task on the first node."""
    step = env.get("SLURM_STEP_ID", "")
    return is_number(step) and int(step) < SHELL_STEPS and "SLURM_PROCID" in env


def _outside(read: Read, job: int, pretend: bool) -> Nodes:
    listed = read.text("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_NODELIST")
    # An environment that was only partly handed on must not turn a job of many nodes into many jobs of one.
    count = read.number("SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_STEP_NUM_NODES", least=1)
    count = count or (len(hosts(listed)) if listed else 1)
    first = next(each_host(listed)) if listed else None
    if not pretend and count > 1:
        raise LaunchError(
            "this shell of Slurm job {job} is one process, and the job has {count} nodes",
            hint="start one launcher a node: {srun}; or --nnodes 1 for this node alone",
            job=job,
            count=count,
            srun=SRUN,
        )
    if not pretend and not read.text("SLURMD_NODENAME"):
        raise LaunchError(
            "this shell of Slurm job {job} is not on the job's node, {first}",
            hint="start the launcher there: {srun}; or --nnodes 1 for this machine",
            job=job,
            first=first,
            srun=SRUN,
        )
    return read.nodes(count=count, rank=0, host=first, port=port(job, 0), job=job_name(read, job, 0))


def _one_task_a_node(read: Read) -> None:
    tasks = read.text("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    most = most_tasks(tasks) if tasks else 1
    local = read.number("SLURM_LOCALID") or 0
    if most > 1 or local > 0:
        raise LaunchError(
            "Slurm started {highest} tasks on this node ({text}), and each would start every rank of it",
            hint="one launcher a node: {srun}; --nproc says how many ranks that one starts",
            highest=max(most, local + 1),
            text=read.used_text,
            srun=SRUN,
        )


def most_tasks(text: str) -> int:
    """The largest of Slurm's counts: `2(x3),1` → 2."""
    counts = [int(n) for n in re.findall(r"([0-9]+)(?:\(x[0-9]+\))?", text)]
    return max(counts, default=1)


def job_name(read: Read, job: int, step: int) -> str:
    """`slurm-7`, of an array `slurm-7_3`, of a later step `slurm-7.1`. A requeued job keeps its id."""
    array, task = read.text("SLURM_ARRAY_JOB_ID"), read.text("SLURM_ARRAY_TASK_ID")
    name = f"slurm-{array}_{task}" if array and task else f"slurm-{job}"
    return f"{name}.{step}" if step else name


def port(job: int, step: int) -> int:
    """A port that jobs submitted one after another do not share, and steps of one job do not either."""
    return FIRST_PORT + (job + step * STEP_STRIDE) % NUM_PORTS
