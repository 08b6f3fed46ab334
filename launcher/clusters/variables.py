"""Nodes by variables that no operator of Kubernetes sets: those that training scripts agree on (NNODES, NODE_RANK), and
those of SkyPilot, dstack, LeaderWorkerSet and MindSpore. Also the schedulers that tell a process of several nodes, and not enough
to number them: these are refused, since each node would train alone and call itself the whole.

Sources: LLaMA-Factory src/llamafactory/launcher.py, ms-swift swift/cli/main.py and VeOmni's train.sh (NNODES, NODE_RANK,
NPROC_PER_NODE, MASTER_ADDR, MASTER_PORT; openMind and older LLaMA-Factory number nodes by RANK); docs.skypilot.co,
"Environment variables"; dstack.ai, "Distributed tasks"; lws.sigs.k8s.io, reference of labels, annotations and variables; Ascend/mind-cluster, Ascend
Operator's table of variables (MS_*); the manuals of PBS, LSF and Grid Engine; kubernetes.io, "Indexed Job".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from launcher.clusters.base import Recognised
from launcher.errors import LaunchError
from launcher.machine.nodes import OPTIONS, Nodes, Read, fixed_count, is_number, nproc_of
from launcher.messages import Message

SCRIPTS = {
    "count": ("NNODES",),
    "rank": ("NODE_RANK", "RANK"),
    "nproc": ("NPROC_PER_NODE",),
    "host": ("MASTER_ADDR",),
    "port": ("MASTER_PORT",),
}
SKYPILOT = {
    "count": ("SKYPILOT_NUM_NODES",),
    "rank": ("SKYPILOT_NODE_RANK",),
    "nproc": ("SKYPILOT_NUM_GPUS_PER_NODE",),
    "hosts": ("SKYPILOT_NODE_IPS",),
    "job": ("SKYPILOT_TASK_ID",),
}
DSTACK = {
    "count": ("DSTACK_NODES_NUM",),
    "rank": ("DSTACK_NODE_RANK",),
    "nproc": ("DSTACK_GPUS_PER_NODE",),
    "host": ("DSTACK_MASTER_NODE_IP",),
    "job": ("DSTACK_RUN_NAME",),
}
LWS = {"count": ("LWS_GROUP_SIZE",), "rank": ("LWS_WORKER_INDEX",), "host": ("LWS_LEADER_ADDRESS",)}
MINDSPORE = {
    "world": ("MS_WORKER_NUM",),
    "nproc": ("MS_LOCAL_WORKER",),
    "rank": ("MS_NODE_RANK",),
    "host": ("MS_SCHED_HOST",),
    "port": ("MS_SCHED_PORT",),
}
SCRIPTS_PORT = 29500
"""torchrun's own, which those scripts fall back to."""
_MOST_HOSTFILE = 1 << 20


def has_scripts(env: Mapping[str, str]) -> bool:
    """Whether they say more than one node, or how many ranks this one has. MASTER_ADDR alone says neither."""
    several = env.get("NNODES", "").strip() not in ("", "1")
    return several or env.get("NODE_RANK", "").strip() not in ("", "0") or bool(env.get("NPROC_PER_NODE", "").strip())


def scripts(read: Read) -> Nodes:
    """Raises LaunchError where several nodes are said, and not which of them this is or where they meet."""
    if not read.env.get("NNODES", "").strip() and read.env.get("NODE_RANK", "").strip() not in ("", "0"):
        raise LaunchError(
            "NODE_RANK={node_rank} says that there are several nodes, and NNODES does not say how many",
            hint="set NNODES, MASTER_ADDR and MASTER_PORT on every node; or {options}",
            node_rank=read.env["NODE_RANK"],
            options=OPTIONS,
        )
    count = fixed_count(read, "NNODES", read.text("NNODES") or "1")
    if count == 1:
        nproc = nproc_of(read, *SCRIPTS["nproc"])
        return read.nodes(count=1, rank=0, host=None, port=None, job=None, nproc=nproc)
    # A process launcher's RANK, which comes with LOCAL_RANK, numbers processes.
    names = SCRIPTS["rank"] if "LOCAL_RANK" not in read.env else ("NODE_RANK",)
    rank = read.needed(Message("this node's number"), *names)
    host = read.text(*SCRIPTS["host"])
    port = read.port(*SCRIPTS["port"]) or SCRIPTS_PORT
    nproc = nproc_of(read, *SCRIPTS["nproc"])
    # A host's name does not name a job: the next job there would take this one's run up again.
    return read.nodes(count=count, rank=rank, host=host, port=port, job=None, nproc=nproc)


def has_skypilot(env: Mapping[str, str]) -> bool:
    return any(env.get(n) for n in ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"))


def skypilot(read: Read) -> Nodes:
    """SKYPILOT_NODE_IPS has a line for each node, the first node's first."""
    hosts = (read.env.get("SKYPILOT_NODE_IPS") or "").split()
    read.used |= {"SKYPILOT_NODE_IPS": ",".join(hosts)} if hosts else {}
    count = read.number(*SKYPILOT["count"], least=1) or max(len(hosts), 1)
    rank = read.needed(Message("this node's number"), *SKYPILOT["rank"]) if count > 1 else 0
    nproc, job = _cards(read, *SKYPILOT["nproc"]), read.text(*SKYPILOT["job"])
    return read.nodes(count=count, rank=rank, host=hosts[0] if hosts else None, port=None, job=job, nproc=nproc)


def _cards(read: Read, name: str) -> int | None:
    """Ranks a node; None for 0, which says that the task asked for no accelerator that its platform knows."""
    cards = read.env.get(name, "")
    return read.number(name) if is_number(cards) and int(cards) else None


def has_dstack(env: Mapping[str, str]) -> bool:
    return bool(env.get("DSTACK_NODES_NUM"))


def dstack(read: Read) -> Nodes:
    count = read.needed(Message("the number of nodes"), *DSTACK["count"], least=1)
    rank = read.needed(Message("this node's number"), *DSTACK["rank"]) if count > 1 else 0
    host, nproc, job = read.text(*DSTACK["host"]), _cards(read, *DSTACK["nproc"]), read.text(*DSTACK["job"])
    return read.nodes(count=count, rank=rank, host=host, port=None, job=job, nproc=nproc)


def has_lws(env: Mapping[str, str]) -> bool:
    return any(env.get(n) for n in ("LWS_GROUP_SIZE", "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"))


def lws(read: Read) -> Nodes:
    """A group of pods is a job: its leader's name tells the groups of a set apart."""
    count = read.needed(Message("the size of the group"), *LWS["count"], least=1)
    rank = read.needed(Message("this pod's number"), *LWS["rank"]) if count > 1 else 0
    host = read.text(*LWS["host"])
    return read.nodes(count=count, rank=rank, host=host, port=None, job=host and host.partition(".")[0])


def has_mindspore(env: Mapping[str, str]) -> bool:
    return bool(env.get("MS_WORKER_NUM") and env.get("MS_LOCAL_WORKER"))


def mindspore(read: Read) -> Nodes:
    """As Ascend Operator sets them for a job of MindSpore: MS_WORKER_NUM counts NPUs, MS_NODE_RANK numbers pods."""
    if read.env.get("MS_ROLE") == "MS_SCHED":
        raise LaunchError(
            "MS_ROLE=MS_SCHED: this pod is MindSpore's scheduler, and has no ranks",
            hint="give the job a framework of pytorch, which has no scheduler; or {options}",
            options=OPTIONS,
        )
    world = read.needed(Message("the number of NPUs"), *MINDSPORE["world"], least=1)
    nproc = read.needed(Message("the NPUs of a pod"), *MINDSPORE["nproc"], least=1)
    if world % nproc:
        raise LaunchError(
            Message("MS_WORKER_NUM={world} is not a multiple of MS_LOCAL_WORKER={nproc}", world=world, nproc=nproc),
            hint=OPTIONS,
        )
    rank = read.needed(Message("this pod's number"), *MINDSPORE["rank"]) if world > nproc else 0
    host = read.text(*MINDSPORE["host"])
    port = read.port(*MINDSPORE["port"])
    return read.nodes(count=world // nproc, rank=rank, host=host, port=port, job=None, nproc=nproc)


def refuse(env: Mapping[str, str]) -> None:
    """Raises LaunchError where a scheduler's variables say more than one node, and nothing numbers them."""
    for name, setting, hosts in _of_several_nodes(env):
        many = (
            Message("{num_hosts} hosts ({hosts})", num_hosts=len(hosts), hosts=_few(hosts))
            if hosts
            else Message("several nodes")
        )
        raise LaunchError(
            "{name} says {many} ({text}), and no variable tells which of them this is and where they "
            "meet: this node would train alone",
            hint="start one launcher on each with --nnodes, --node-rank and --rdzv-endpoint HOST:PORT, or all "
            "from here with --hostfile; --nnodes 1 is this machine alone",
            name=name,
            many=many,
            text=setting,
        )


def _of_several_nodes(env: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """(scheduler, its variable, the hosts it names) of those that say more than one node."""
    for name, variable, hosts in (
        ("PBS", "PBS_NODEFILE", _listed_in(env.get("PBS_NODEFILE"))),
        ("LSF", "LSB_MCPU_HOSTS", _unique(env.get("LSB_MCPU_HOSTS", "").split()[::2])),
        ("LSF", "LSB_HOSTS", _unique(env.get("LSB_HOSTS", "").split())),
        ("LSF", "LSB_DJOB_HOSTFILE", _listed_in(env.get("LSB_DJOB_HOSTFILE"))),
        (Message("Grid Engine"), "PE_HOSTFILE", _listed_in(env.get("PE_HOSTFILE"))),
    ):
        if len(hosts) > 1:
            yield name, f"{variable}={env[variable][:60]}", hosts
    for name, variable, mark in (
        ("PBS", "PBS_NUM_NODES", "PBS_NUM_NODES"),
        (Message("Grid Engine"), "NHOSTS", "PE_HOSTFILE"),
        ("MindSpore", "MS_WORKER_NUM", "MS_WORKER_NUM"),
    ):
        if env.get(mark) and env.get(variable, "1") != "1":
            yield name, f"{variable}={env[variable]}", []
    if env.get("PBS_NODENUM", "0").strip() not in ("", "0"):  # Torque numbers nodes, and says nowhere where they meet
        yield "PBS", f"PBS_NODENUM={env['PBS_NODENUM']}", []
    if "JOB_COMPLETION_INDEX" in env:  # a Job of one pod has it too, and no pod learns how many there are
        yield Message("an indexed Kubernetes Job"), f"JOB_COMPLETION_INDEX={env['JOB_COMPLETION_INDEX']}", []


def _listed_in(path: str | None) -> list[str]:
    """The hosts of a scheduler's file: the first word of each line, and a line for each slot."""
    if not path:
        return []
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_HOSTFILE).splitlines()
    except OSError:
        return []
    return _unique(line.split()[0] for line in lines if line.strip())


def _unique(hosts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(hosts))


def _few(hosts: list[str]) -> str:
    return ", ".join(hosts[:4]) + (", ..." if len(hosts) > 4 else "")


LWS_ROW = Recognised(name="leaderworkerset", title="LeaderWorkerSet", variables=LWS, mark=has_lws, read=lws)
SKYPILOT_ROW = Recognised(name="skypilot", title="SkyPilot", variables=SKYPILOT, mark=has_skypilot, read=skypilot)
DSTACK_ROW = Recognised(name="dstack", title="dstack", variables=DSTACK, mark=has_dstack, read=dstack)
MINDSPORE_ROW = Recognised(name="mindspore", title="MindSpore", variables=MINDSPORE, mark=has_mindspore, read=mindspore)
SCRIPTS_ROW = Recognised(
    name="environment", title="the environment", variables=SCRIPTS, mark=has_scripts, read=scripts, is_set_by_hand=True
)
