"""Which cluster's environment a launch finds itself in: the order in which they are asked, and who may not start us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from launcher.clusters import variables
from launcher.clusters.kubernetes.variables import (
    MINDCLUSTER,
    MODELARTS,
    PET,
    PYTORCHJOB,
    VOLCANO,
    VOLCENGINE,
    has_mindcluster,
    has_modelarts,
    has_pet,
    has_pytorchjob,
    has_volcano,
    has_volcengine,
    mindcluster,
    modelarts,
    pet,
    pytorchjob,
    volcano,
    volcengine,
)
from launcher.clusters.slurm import variables as slurm_variables
from launcher.clusters.slurm.variables import VARIABLES
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes, Read
from launcher.messages import Message

Env = Mapping[str, str]


@dataclass(frozen=True)
class Environment:
    """A scheduler or a platform: how its variables are told, and what they say."""

    name: str
    variables: Mapping[str, tuple[str, ...]]
    is_here: Callable[[Env], bool]
    nodes: Callable[[Read], Nodes]


ENVIRONMENTS = (
    Environment("Slurm", VARIABLES, slurm_variables.is_here, slurm_variables.nodes),
    Environment("MindCluster", MINDCLUSTER, has_mindcluster, mindcluster),
    Environment("ModelArts", MODELARTS, has_modelarts, modelarts),
    Environment("Volcengine", VOLCENGINE, has_volcengine, volcengine),
    Environment("Kubeflow", PET, has_pet, pet),
    Environment("Volcano", VOLCANO, has_volcano, volcano),
    Environment("LeaderWorkerSet", variables.LWS, variables.has_lws, variables.lws),
    Environment("SkyPilot", variables.SKYPILOT, variables.has_skypilot, variables.skypilot),
    Environment("dstack", variables.DSTACK, variables.has_dstack, variables.dstack),
    Environment("MindSpore", variables.MINDSPORE, variables.has_mindspore, variables.mindspore),
    Environment("PyTorchJob or PAI-DLC", PYTORCHJOB, has_pytorchjob, pytorchjob),
    Environment("the environment", variables.SCRIPTS, variables.has_scripts, variables.scripts),
)
"""The order in which they are asked: marks that nothing else sets come first, then the bare WORLD_SIZE and RANK, and last
the variables that anybody may have put into an image or a shell."""


def find(
    env: Env, count: int | None = None, rank: int | None = None, endpoint: str | None = None, *, pretend: bool = False
) -> Nodes:
    """The job's nodes. `--nnodes` settles all three and no variable is asked; else --node-rank and --rdzv-endpoint
    replace what the environment says.

    Args:
        env: the launcher's environment.
        count, rank, endpoint: what the command line says; None where it says nothing.
        pretend: nothing is going to be started here.

    Raises:
        LaunchError: another launcher started this as one of its ranks; what is said does not fit together; or a
            scheduler says several nodes, and nothing numbers them.
    """
    _refuse_ranks(env, told=count is not None)
    here = [e for e in ENVIRONMENTS if e.is_here(env)]
    if count is not None:
        if count > 1 and rank is None and not pretend:
            raise LaunchError(
                Message(
                    "--nnodes {count} needs --node-rank: every node would be the first and wait for the others",
                    count=count,
                ),
                hint=Message("leave --nnodes out, {place} tells which node this is", place=here[0].name)
                if here
                else Message(
                    "--node-rank 0 on the node of --rdzv-endpoint, up to {count} on the others", count=count - 1
                ),
            )
        said = f"--nnodes {count}" + ("" if count == 1 else f" --node-rank {rank or 0}")
        nodes = Nodes(
            count, rank or 0, endpoint, source="" if count == 1 else Message("command line: {text}", text=said)
        )
        nodes.check()
        return nodes
    nodes = Nodes()
    if here:
        first, read = here[0], Read(env, here[0].name)
        nodes = slurm_variables.nodes(read, pretend=pretend) if first.name == "Slurm" else first.nodes(read)
        told_by = next((n for n in first.variables.get("nproc", ()) if n in read.used), "")
        nodes = replace(nodes, nproc_variable=told_by)
        if len(here) > 1:
            others = " and ".join(e.name for e in here[1:])
            nodes = replace(
                nodes,
                source=Message(
                    "{source}; {others} could be read too and comes later in the order",
                    source=nodes.source,
                    others=others,
                ),
            )
    # NNODES says one node here, or it would have been recognised; NPROC_PER_NODE alone says nothing of nodes.
    if (not here or here[0].variables is variables.SCRIPTS) and not env.get("NNODES", "").strip():
        variables.refuse(env)
    if rank is not None:
        nodes = replace(nodes, rank=rank)
    if endpoint is not None:
        nodes = replace(nodes, endpoint=endpoint, source=f"{nodes.source}; --rdzv-endpoint" if nodes.source else "")
    nodes.check()
    return nodes


def _refuse_ranks(env: Env, *, told: bool) -> None:
    """Raise LaunchError where this process is one of several that another launcher started: each would start a whole
    node's ranks. Where that one started a single process a node, the command line may say which node this is."""
    for parent in PARENTS:
        if parent.mark not in env or not parent.counts(env):
            continue
        world, local = env.get(parent.world, "?"), env.get(parent.local)
        if world == "1" or (told and local == "1"):
            return
        seen = ", ".join(f"{n}={env[n]}" for n in dict.fromkeys((parent.mark, parent.rank, parent.world)) if n in env)
        raise LaunchError(
            "{parent} started this as one of {world} processes ({seen}), and each would start a node's ranks",
            hint="start ascend-launch itself, once a node; it starts the ranks. Or have the other launcher "
            "start `python -m launcher.worker --run-dir DIR`, where `ascend-launch render --out DIR` "
            "writes DIR",
            parent=parent.name,
            world=world,
            seen=seen,
        )


@dataclass(frozen=True)
class Parent:
    """Another launcher, by what it gives each process that it starts."""

    name: str
    mark: str
    rank: str
    world: str
    local: str
    counts: Callable[[Env], bool] = lambda env: True


PARENTS = (
    Parent("torchrun or accelerate launch", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    Parent(
        "mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"
    ),
    Parent("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
    # srun sets PMI's variables too, for every step.
    Parent(
        "mpirun", "PMI_SIZE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", lambda env: not slurm_variables.is_here(env)
    ),
    Parent(
        "a process launcher",
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        lambda env: "WORLD_SIZE" in env and not has_mindcluster(env),
    ),
)
