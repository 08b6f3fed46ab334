"""What the operators of Kubernetes tell a pod of its job. In all of them a pod is a node, and the launcher runs once in it.

Sources: kubeflow/training-operator pkg/controller.v1/pytorch, kubeflow/trainer pkg/constants, volcano-sh/volcano
pkg/controllers/job/plugins, Ascend/mind-cluster component/ascend-operator; ModelArts, PAI-DLC and Volcengine by what
public scripts for them read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher.clusters.base import Recognised
from launcher.errors import LaunchError
from launcher.machine.nodes import OPTIONS, Nodes, Read, fixed_count, is_loopback, is_number, job_of_host, nproc_of
from launcher.messages import Message

PET = {
    "count": ("PET_NNODES",),
    "rank": ("PET_NODE_RANK",),
    "nproc": ("PET_NPROC_PER_NODE",),
    "host": ("PET_MASTER_ADDR", "MASTER_ADDR"),
    "port": ("PET_MASTER_PORT", "MASTER_PORT"),
    "endpoint": ("PET_RDZV_ENDPOINT",),
}
"""torchrun's options as variables: Kubeflow Trainer, and PyTorchJob of training-operator 1.7 and later."""

PYTORCHJOB = {
    "count": ("WORLD_SIZE",),
    "rank": ("RANK",),
    "host": ("MASTER_ADDR",),
    "port": ("MASTER_PORT",),
    "pod": ("HOSTNAME",),
}
"""Older PyTorchJob and PAI-DLC: WORLD_SIZE counts pods there, and RANK numbers them."""

VOLCANO = {"rank": ("VC_TASK_INDEX", "VK_TASK_INDEX"), "host": ("MASTER_ADDR",), "port": ("MASTER_PORT",)}
"""With VC_<ROLE>_HOSTS, a list for each role of the job; the index counts within this pod's role."""

MINDCLUSTER = {
    "world": ("WORLD_SIZE",),
    "nproc": ("LOCAL_WORLD_SIZE",),
    "rank": ("RANK",),
    "host": ("MASTER_ADDR",),
    "port": ("MASTER_PORT",),
    "job": ("MINDX_TASK_ID",),
}
"""Ascend Operator: WORLD_SIZE counts NPUs, RANK numbers pods, and LOCAL_RANK lists the NPUs of this one."""

MODELARTS = {
    "count": ("MA_NUM_HOSTS",),
    "rank": ("VC_TASK_INDEX", "MA_TASK_INDEX"),
    "nproc": ("MA_NUM_GPUS",),
    "hosts": ("VC_WORKER_HOSTS",),
    "job": ("MA_VJ_NAME",),
}
VOLCENGINE = {
    "count": ("MLP_WORKER_NUM",),
    "rank": ("MLP_ROLE_INDEX",),
    "nproc": ("MLP_WORKER_GPU",),
    "host": ("MLP_WORKER_0_HOST",),
    "port": ("MLP_WORKER_0_PORT",),
    "job": ("MLP_TASK_ID",),
}
_ROLE = re.compile(r"^VC_(\w+)_HOSTS$")


def has_pet(env: Mapping[str, str]) -> bool:
    return bool(env.get("PET_NNODES") or env.get("PET_NODE_RANK") or env.get("PET_RDZV_ENDPOINT"))


def pet(read: Read) -> Nodes:
    """Raises LaunchError for an elastic number of nodes, and where pods are numbered by a rendezvous only."""
    count = fixed_count(
        read,
        "PET_NNODES",
        read.text(*PET["count"]) or "1",
        elastic=Message(
            "set minReplicas and maxReplicas of the elasticPolicy to the same number, or leave the policy out"
        ),
    )
    nproc = nproc_of(read, *PET["nproc"])
    endpoint = read.text(*PET["endpoint"])
    if count > 1 and not read.env.get("PET_NODE_RANK"):
        raise LaunchError(
            "PET_NODE_RANK is not set ({text}): an elastic job's pods are numbered by torch's rendezvous",
            hint="give the job a Master replica and no elasticPolicy, which numbers its pods; or {options}",
            text=read.used_text,
            options=OPTIONS,
        )
    rank = read.number(*PET["rank"]) or 0
    host, port = read.text(*PET["host"]), read.port(*PET["port"])
    if host is None and endpoint is not None:
        name, colon, number = endpoint.rpartition(":")
        host, port = (name, int(number)) if colon and is_number(number) else (endpoint, None)
    return read.nodes(count=count, rank=rank, host=host, port=port, job=host and job_of_host(host), nproc=nproc)


def has_pytorchjob(env: Mapping[str, str]) -> bool:
    """Whether WORLD_SIZE and RANK are of pods: a process launcher's come with LOCAL_RANK, which a pod's do not.

    Without MASTER_ADDR they are of pods that do not learn where to meet, unless the one pod is all there is. Beside
    NNODES, NODE_RANK and ranks a node whose product WORLD_SIZE is, it counts ranks: then those count.
    """
    if "LOCAL_RANK" in env or not env.get("WORLD_SIZE") or not env.get("RANK"):
        return False
    nnodes, nproc = env.get("NNODES", ""), env.get("NPROC_PER_NODE", "")
    if env.get("NODE_RANK") and is_number(nnodes) and is_number(nproc):
        return env["WORLD_SIZE"] != str(int(nnodes) * int(nproc)) or nproc == "1"
    return bool(env.get("MASTER_ADDR")) or env["WORLD_SIZE"] != "1"


def pytorchjob(read: Read) -> Nodes:
    if read.env.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise LaunchError(
            Message(
                "WORLD_SIZE={world_size} may count nodes or ranks: LOCAL_WORLD_SIZE={local_world_size} is "
                "set, and LOCAL_RANK and MINDX_TASK_ID are not",
                world_size=read.env["WORLD_SIZE"],
                local_world_size=read.env["LOCAL_WORLD_SIZE"],
            ),
            hint=OPTIONS,
        )
    nnodes = read.env.get("NNODES", "")
    if nnodes and nnodes != read.env["WORLD_SIZE"]:
        raise LaunchError(
            "NNODES={nnodes} and WORLD_SIZE={world_size} say different numbers of nodes, and no "
            "LOCAL_RANK tells that WORLD_SIZE counts ranks",
            hint="unset WORLD_SIZE and RANK where NNODES and NODE_RANK say it; or {options}",
            nnodes=nnodes,
            world_size=read.env["WORLD_SIZE"],
            options=OPTIONS,
        )
    host = read.text(*PYTORCHJOB["host"])
    rank = read.needed(Message("this pod's number"), *PYTORCHJOB["rank"])
    # The first operators tell the master `localhost` and the others its pod's name (pytorch-operator, pod.go, setClusterSpec).
    if rank == 0 and host and is_loopback(host) and re.fullmatch(r".+-(master|worker)-0", read.env.get("HOSTNAME", "")):
        host = read.text(*PYTORCHJOB["pod"])
    return read.nodes(
        count=read.needed(Message("the number of pods"), *PYTORCHJOB["count"], least=1),
        rank=rank,
        host=host,
        port=read.port(*PYTORCHJOB["port"]),
        job=host and job_of_host(host),
    )


def has_mindcluster(env: Mapping[str, str]) -> bool:
    """Its own mark, or a LOCAL_RANK that is a list. A process launcher inside of such a pod puts one number there, and
    numbers processes by RANK; with one NPU a pod the two mean the same."""
    if not env.get("RANK"):
        return False
    listed = [n for n in env.get("LOCAL_RANK", "").strip("[]").split(",") if n.strip()]
    if listed and str(len(listed)) != env.get("LOCAL_WORLD_SIZE", ""):
        return False
    return bool(env.get("MINDX_TASK_ID")) or len(listed) > 1


def mindcluster(read: Read) -> Nodes:
    world = read.needed(Message("the number of NPUs"), *MINDCLUSTER["world"], least=1)
    nproc = read.needed(Message("the NPUs of a pod"), *MINDCLUSTER["nproc"], least=1)
    if world % nproc:
        raise LaunchError(
            "WORLD_SIZE={world} of {read} is not a multiple of LOCAL_WORLD_SIZE={nproc}",
            hint="both are set by the operator, unless something in the pod sets them again; or {options}",
            world=world,
            read=read.name,
            nproc=nproc,
            options=OPTIONS,
        )
    return read.nodes(
        count=world // nproc,
        rank=read.needed(Message("this pod's number"), *MINDCLUSTER["rank"]),
        host=read.text(*MINDCLUSTER["host"]),
        port=read.port(*MINDCLUSTER["port"]),
        job=read.text(*MINDCLUSTER["job"]),
        nproc=nproc,
    )


def has_volcano(env: Mapping[str, str]) -> bool:
    return any(env.get(n) for n in VOLCANO["rank"]) or any(_ROLE.match(n) for n in env)


def volcano(read: Read) -> Nodes:
    """By the pytorch plugin's variables where they are; else by the lists of hosts, in which this pod finds its name.

    Raises:
        LaunchError: there are several roles, and the pod's host name is in none of their lists.
    """
    if has_pytorchjob(read.env):
        return pytorchjob(read)
    lists = {m[1]: read.text(n) or "" for n in sorted(read.env) if (m := _ROLE.match(n)) and read.env[n].strip()}
    master_first = sorted(lists, key=lambda role: (role not in ("MASTER", "CHIEF"), role))
    hosts = [h.strip() for role in master_first for h in lists[role].split(",") if h.strip()]
    if not hosts:
        raise LaunchError(
            "{read} was recognised ({env}), but there is no list of hosts",
            hint="add the plugins `svc: []` and `env: []` to the job; or {options}",
            read=read.name,
            env=", ".join(n for n in read.env if n.startswith(("VC_", "VK_"))),
            options=OPTIONS,
        )
    rank = _own_place(read, hosts)
    if rank is None and len(lists) == 1:
        rank = read.needed(Message("this pod's number"), *VOLCANO["rank"])
    if rank is None:
        raise LaunchError(
            "{read}: the roles {lists} count from 0 each, and this pod's host name {hostname!r} is in no "
            "list of theirs ({text})",
            hint="make one role of them, or add the plugin `pytorch`; or {options}",
            read=read.name,
            lists=", ".join(lists),
            hostname=read.env.get("HOSTNAME", ""),
            text=read.used_text,
            options=OPTIONS,
        )
    port = read.port(*VOLCANO["port"])
    return read.nodes(count=len(hosts), rank=rank, host=hosts[0], port=port, job=job_of_host(hosts[0]))


def _own_place(read: Read, hosts: list[str]) -> int | None:
    own = read.env.get("HOSTNAME", "")
    places = [i for i, host in enumerate(hosts) if own and own.partition(".")[0] == host.partition(".")[0]]
    if len(places) != 1:
        return None
    read.text("HOSTNAME")
    return places[0]


def has_modelarts(env: Mapping[str, str]) -> bool:
    return bool(env.get("MA_NUM_HOSTS"))


def modelarts(read: Read) -> Nodes:
    count = read.needed(Message("the number of hosts"), *MODELARTS["count"], least=1)
    rank = read.needed(Message("this host's number"), *MODELARTS["rank"]) if count > 1 else 0
    hosts = (read.text(*MODELARTS["hosts"]) or "").split(",")
    name, parent, space = (read.env.get(n, "") for n in ("MA_VJ_NAME", "MA_HJ_NAME", "MA_NAMESPACE"))
    service = f"{name}-worker-0.{parent}.{space}.svc.cluster.local" if name and parent and space else None
    host = hosts[0].strip() or service
    job = read.text(*MODELARTS["job"])
    nproc = nproc_of(read, *MODELARTS["nproc"])
    return read.nodes(
        count=count, rank=rank, host=host, port=None, job=job or (host and job_of_host(host)), nproc=nproc
    )


def has_volcengine(env: Mapping[str, str]) -> bool:
    return bool(env.get("MLP_WORKER_NUM"))


def volcengine(read: Read) -> Nodes:
    host = read.text(*VOLCENGINE["host"])
    return read.nodes(
        count=read.needed(Message("the number of workers"), *VOLCENGINE["count"], least=1),
        rank=read.needed(Message("this worker's number"), *VOLCENGINE["rank"]),
        host=host,
        port=read.port(*VOLCENGINE["port"]),
        job=read.text(*VOLCENGINE["job"]) or (host and job_of_host(host)),
        nproc=nproc_of(read, *VOLCENGINE["nproc"]),
    )


MINDCLUSTER_ROW = Recognised(
    name="mindcluster",
    title="MindCluster",
    variables=MINDCLUSTER,
    mark=has_mindcluster,
    read=mindcluster,
    also_sets=frozenset({"LOCAL_RANK"}),
)
MODELARTS_ROW = Recognised(name="modelarts", title="ModelArts", variables=MODELARTS, mark=has_modelarts, read=modelarts)
VOLCENGINE_ROW = Recognised(
    name="volcengine", title="Volcengine", variables=VOLCENGINE, mark=has_volcengine, read=volcengine
)
PYTORCHJOB_ROW = Recognised(
    name="pytorchjob", title="PyTorchJob or PAI-DLC", variables=PYTORCHJOB, mark=has_pytorchjob, read=pytorchjob
)
