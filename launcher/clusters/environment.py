"""Which cluster's environment a launch finds itself in: the order in which they are asked, and who may not start us."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from launcher.clusters import table, variables
from launcher.clusters.table import Cluster
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes, Read
from launcher.messages import Message

Env = Mapping[str, str]


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
    recognised = [cluster for cluster in table.asked() if cluster.is_here(env)]
    _refuse_ranks(env, recognised, by_option=count is not None)
    if count is not None:
        if count > 1 and rank is None and not pretend:
            raise LaunchError(
                Message(
                    "--nnodes {count} needs --node-rank: every node would be the first and wait for the others",
                    count=count,
                ),
                hint=Message("leave --nnodes out, {place} tells which node this is", place=recognised[0].title)
                if recognised
                else Message(
                    "--node-rank 0 on the node of --rdzv-endpoint, up to {count} on the others", count=count - 1
                ),
            )
        options = f"--nnodes {count}" + ("" if count == 1 else f" --node-rank {rank or 0}")
        nodes = Nodes(
            count, rank or 0, endpoint, source="" if count == 1 else Message("command line: {text}", text=options)
        )
        nodes.check()
        return nodes
    nodes = Nodes()
    if recognised:
        first, read = recognised[0], Read(env, recognised[0].title)
        nodes = first.nodes(read, pretend=pretend)
        variable = next((n for n in first.variables.get("nproc", ()) if n in read.used), "")
        nodes = replace(nodes, nproc_variable=variable)
        if len(recognised) > 1:
            others = " and ".join(cluster.title for cluster in recognised[1:])
            nodes = replace(
                nodes,
                source=Message(
                    "{source}; {others} could be read too and comes later in the order",
                    source=nodes.source,
                    others=others,
                ),
            )
    # NNODES says one node here, or it would have been recognised; NPROC_PER_NODE alone says nothing of nodes.
    if (not recognised or recognised[0].is_set_by_hand) and not env.get("NNODES", "").strip():
        variables.refuse(env)
    if rank is not None:
        nodes = replace(nodes, rank=rank)
    if endpoint is not None:
        nodes = replace(nodes, endpoint=endpoint, source=f"{nodes.source}; --rdzv-endpoint" if nodes.source else "")
    nodes.check()
    return nodes


def _refuse_ranks(env: Env, recognised: Iterable[Cluster], *, by_option: bool) -> None:
    """Raise LaunchError where this process is one of several that another launcher started: each would start a whole
    node's ranks. Where that one started a single process a node, the command line may say which node this is."""
    by_cluster = {name for cluster in recognised for name in cluster.also_sets}
    for parent in PARENTS:
        if parent.mark not in env or parent.mark in by_cluster or not parent.counts(env):
            continue
        world, local = env.get(parent.world, "?"), env.get(parent.local)
        if world == "1" or (by_option and local == "1"):
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
    Parent("mpirun", "PMI_SIZE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    Parent(
        "a process launcher",
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        lambda env: "WORLD_SIZE" in env,
    ),
)
