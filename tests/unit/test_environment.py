"""Each cluster's variables are read as that cluster means them; RANK above all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.clusters import environment
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NODELIST": "n[003-004]",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURMD_NODENAME": "n004",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
BATCH = {k: v for k, v in SLURM.items() if not k.startswith(("SLURM_STEP", "PMI"))} | {
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURMD_NODENAME": "n003",
}
SALLOC = {
    k: v for k, v in BATCH.items() if k not in ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID", "SLURMD_NODENAME")
}
ONE = {"SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n003"}
TRAINER = {
    "PET_NNODES": "3",
    "PET_NODE_RANK": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_MASTER_ADDR": "bert-node-0-0.bert",
    "PET_MASTER_PORT": "29400",
}
# training-operator 1.7 and later: RANK numbers pods, but WORLD_SIZE counts processes.
PYTORCHJOB = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "8",
    "PET_MASTER_ADDR": "bert-master-0",
    "PET_MASTER_PORT": "23456",
    "MASTER_ADDR": "bert-master-0",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "16",
    "RANK": "1",
}
OLD_PYTORCHJOB = {"MASTER_ADDR": "bert-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": "4", "RANK": "3"}
ELASTIC = {"PET_NNODES": "2:4", "PET_RDZV_ENDPOINT": "bert-worker-0:23456", "PET_RDZV_BACKEND": "c10d"}
VOLCANO = {
    "VC_WORKER_HOSTS": "bert-worker-0.bert,bert-worker-1.bert",
    "VC_WORKER_NUM": "2",
    "VC_TASK_INDEX": "1",
    "VK_TASK_INDEX": "1",
    "HOSTNAME": "bert-worker-1",
}
VOLCANO_ROLES = VOLCANO | {"VC_MASTER_HOSTS": "bert-master-0.bert", "VC_MASTER_NUM": "1"}
MINDCLUSTER = {
    "MASTER_ADDR": "10.96.3.7",
    "MASTER_PORT": "2222",
    "WORLD_SIZE": "32",
    "RANK": "3",
    "LOCAL_WORLD_SIZE": "8",
    "LOCAL_RANK": "0,1,2,3,4,5,6,7",
    "MINDX_TASK_ID": "5f2c-uid",
    "HostNetwork": "false",
}
MODELARTS = {
    "MA_NUM_HOSTS": "2",
    "MA_NUM_GPUS": "8",
    "VC_TASK_INDEX": "1",
    "MA_VJ_NAME": "job8f",
    "MA_HJ_NAME": "hj1",
    "MA_NAMESPACE": "ns",
    "VC_WORKER_HOSTS": "job8f-worker-0.hj1,job8f-worker-1.hj1",
    "VC_WORKER_NUM": "2",
}
VOLCENGINE = {
    "MLP_WORKER_NUM": "2",
    "MLP_ROLE_INDEX": "1",
    "MLP_WORKER_GPU": "8",
    "MLP_WORKER_0_HOST": "fd00::12",
    "MLP_WORKER_0_PORT": "2222",
    "MLP_TASK_ID": "t-2026",
}

SCRIPTS = {
    "NNODES": "2",
    "NODE_RANK": "1",
    "NPROC_PER_NODE": "8",
    "MASTER_ADDR": "10.0.0.5",
    "MASTER_PORT": "29500",
}
SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_TASK_ID": "sky-2026-11-28_bert-1",
}
LWS = {"LWS_LEADER_ADDRESS": "bert-3.bert.ns", "LWS_GROUP_SIZE": "4", "LWS_WORKER_INDEX": "2"}
DSTACK = {
    "DSTACK_NODES_NUM": "2",
    "DSTACK_NODE_RANK": "1",
    "DSTACK_MASTER_NODE_IP": "10.0.0.5",
    "DSTACK_GPUS_PER_NODE": "8",
    "DSTACK_RUN_NAME": "bert",
}
MINDSPORE = {
    "MS_WORKER_NUM": "16",
    "MS_LOCAL_WORKER": "8",
    "MS_NODE_RANK": "1",
    "MS_SCHED_HOST": "10.0.0.5",
    "MS_SCHED_PORT": "2222",
    "MS_ROLE": "MS_WORKER",
}


def without(env: dict[str, str], *names: str) -> dict[str, str]:
    return {k: v for k, v in env.items() if k not in names}


READ: dict[str, tuple[dict[str, str], Nodes, str]] = {
    "nothing": ({}, Nodes(), ""),
    "a shell with leftovers": ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "x"}, Nodes(), ""),
    "Slurm": (SLURM, Nodes(2, 1, "n003:24711", job="slurm-4711"), "Slurm"),
    "Slurm, a step on part of the job": (
        SLURM | {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "n[001-004]"},
        Nodes(2, 1, "n003:24711", job="slurm-4711"),
        "Slurm",
    ),
    "Slurm, a later step": (SLURM | {"SLURM_STEP_ID": "3"}, Nodes(2, 1, "n003:27738", job="slurm-4711.3"), "Slurm"),
    "Slurm, an array": (
        SLURM | {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"},
        Nodes(2, 1, "n003:24711", job="slurm-4700_11"),
        "Slurm",
    ),
    "Slurm, tasks of the job are not the step's": (
        SLURM | {"SLURM_NTASKS_PER_NODE": "8"},
        Nodes(2, 1, "n003:24711", job="slurm-4711"),
        "Slurm",
    ),
    "Slurm, a batch script on one node": (BATCH | ONE, Nodes(job="slurm-4711"), "Slurm"),
    "Slurm, a job script that exports torch's": (
        SLURM | {"MASTER_ADDR": "n003", "MASTER_PORT": "1", "WORLD_SIZE": "16", "RANK": "1"},
        Nodes(2, 1, "n003:24711", job="slurm-4711"),
        "PyTorchJob or PAI-DLC could be read too",
    ),
    "Kubeflow Trainer": (TRAINER, Nodes(3, 2, "bert-node-0-0.bert:29400", 4, "PET_NPROC_PER_NODE", "bert"), "Kubeflow"),
    "Kubeflow, as many ranks as it finds": (
        TRAINER | {"PET_NPROC_PER_NODE": "auto"},
        Nodes(3, 2, "bert-node-0-0.bert:29400", job="bert"),
        "Kubeflow",
    ),
    "PyTorchJob": (PYTORCHJOB, Nodes(2, 1, "bert-master-0:23456", 8, "PET_NPROC_PER_NODE", "bert"), "Kubeflow"),
    "PyTorchJob, elastic with equal bounds and numbered": (
        PYTORCHJOB | {"PET_NNODES": "2:2"},
        Nodes(2, 1, "bert-master-0:23456", 8, "PET_NPROC_PER_NODE", "bert"),
        "Kubeflow",
    ),
    "PyTorchJob of one pod": (
        PYTORCHJOB | {"PET_NNODES": "1", "PET_NODE_RANK": "0"},
        Nodes(1, 0, None, 8, "PET_NPROC_PER_NODE", "bert"),
        "Kubeflow",
    ),
    "the first PyTorchJobs, whose master is localhost to itself": (
        OLD_PYTORCHJOB | {"RANK": "0", "MASTER_ADDR": "localhost", "HOSTNAME": "bert-master-0"},
        Nodes(4, 0, "bert-master-0:23456", job="bert"),
        "HOSTNAME=bert-master-0",
    ),
    "older PyTorchJob": (OLD_PYTORCHJOB, Nodes(4, 3, "bert-master-0:23456", job="bert"), "PyTorchJob or PAI-DLC"),
    "Volcano": (VOLCANO, Nodes(2, 1, "bert-worker-0.bert:28862", job="bert"), "Volcano"),
    "Volcano, host network": (
        VOLCANO | {"HOSTNAME": "rack7"},
        Nodes(2, 1, "bert-worker-0.bert:28862", job="bert"),
        "VC_TASK_INDEX=1",
    ),
    "Volcano, only its old name of the index": (
        without(VOLCANO, "VC_TASK_INDEX") | {"HOSTNAME": ""},
        Nodes(2, 1, "bert-worker-0.bert:28862", job="bert"),
        "VK_TASK_INDEX=1",
    ),
    # Master and worker both count from 0: the index alone would make two nodes 1 of this.
    "Volcano, two roles": (VOLCANO_ROLES, Nodes(3, 2, "bert-master-0.bert:28862", job="bert"), "Volcano"),
    "Volcano, the pytorch plugin": (
        VOLCANO_ROLES | {"MASTER_ADDR": "bert-master-0.bert", "MASTER_PORT": "23456", "WORLD_SIZE": "3", "RANK": "2"},
        Nodes(3, 2, "bert-master-0.bert:23456", job="bert"),
        "Volcano",
    ),
    "MindCluster": (MINDCLUSTER, Nodes(4, 3, "10.96.3.7:2222", 8, "LOCAL_WORLD_SIZE", "5f2c-uid"), "MindCluster"),
    "MindCluster by its list alone": (
        without(MINDCLUSTER, "MINDX_TASK_ID"),
        Nodes(4, 3, "10.96.3.7:2222", 8, "LOCAL_WORLD_SIZE"),
        "MindCluster",
    ),
    "MindCluster, one NPU a pod": (
        MINDCLUSTER | {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        Nodes(4, 3, "10.96.3.7:2222", 1, "LOCAL_WORLD_SIZE", "5f2c-uid"),
        "MindCluster",
    ),
    "MindCluster, one pod": (
        MINDCLUSTER | {"WORLD_SIZE": "8", "RANK": "0"},
        Nodes(1, 0, None, 8, "LOCAL_WORLD_SIZE", "5f2c-uid"),
        "MindCluster",
    ),
    "MindCluster scheduled by Volcano": (
        MINDCLUSTER | {"VC_TASK_INDEX": "0"},
        Nodes(4, 3, "10.96.3.7:2222", 8, "LOCAL_WORLD_SIZE", "5f2c-uid"),
        "Volcano could be read too",
    ),
    "ModelArts": (MODELARTS, Nodes(2, 1, "job8f-worker-0.hj1:23868", 8, "MA_NUM_GPUS", "job8f"), "ModelArts"),
    "ModelArts, no list of hosts": (
        without(MODELARTS, "VC_WORKER_HOSTS"),
        Nodes(2, 1, "job8f-worker-0.hj1.ns.svc.cluster.local:23868", 8, "MA_NUM_GPUS", "job8f"),
        "ModelArts",
    ),
    "ModelArts, one host": ({"MA_NUM_HOSTS": "1"}, Nodes(), "ModelArts"),
    "PAI-DLC": (
        {"MASTER_ADDR": "dlc8x-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": "2", "RANK": "0"},
        Nodes(2, 0, "dlc8x-master-0:23456", job="dlc8x"),
        "PAI-DLC",
    ),
    "NNODES of LLaMA-Factory and ms-swift": (
        SCRIPTS,
        Nodes(2, 1, "10.0.0.5:29500", 8, "NPROC_PER_NODE"),
        "the environment: NNODES=2, NODE_RANK=1, MASTER_ADDR=10.0.0.5, MASTER_PORT=29500, NPROC_PER_NODE=8",
    ),
    "NNODES, the port that they fall back to": (
        without(SCRIPTS, "MASTER_PORT"),
        Nodes(2, 1, "10.0.0.5:29500", 8, "NPROC_PER_NODE"),
        "NNODES=2",
    ),
    "NNODES, and as many ranks as there are cards": (
        SCRIPTS | {"NPROC_PER_NODE": "gpu"},
        Nodes(2, 1, "10.0.0.5:29500"),
        "NNODES=2",
    ),
    "NNODES of openMind, which numbers nodes by RANK": (
        without(SCRIPTS, "NODE_RANK") | {"RANK": "1"},
        Nodes(2, 1, "10.0.0.5:29500", 8, "NPROC_PER_NODE"),
        "RANK=1",
    ),
    "NNODES beside a WORLD_SIZE of ranks": (
        SCRIPTS | {"WORLD_SIZE": "16", "RANK": "8"},
        Nodes(2, 1, "10.0.0.5:29500", 8, "NPROC_PER_NODE"),
        "NODE_RANK=1",
    ),
    "NNODES=1 is no cluster": ({"NNODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "localhost"}, Nodes(), ""),
    "NNODES=1 says it for a scheduler that does not": ({"NNODES": "1", "JOB_COMPLETION_INDEX": "3"}, Nodes(), ""),
    "MASTER_ADDR alone": ({"MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "29500"}, Nodes(), ""),
    "NPROC_PER_NODE alone": (
        {"NPROC_PER_NODE": "4"},
        Nodes(nproc=4, nproc_variable="NPROC_PER_NODE"),
        "NPROC_PER_NODE=4",
    ),
    "NNODES in a recognised platform": (
        SCRIPTS | MODELARTS,
        Nodes(2, 1, "job8f-worker-0.hj1:23868", 8, "MA_NUM_GPUS", "job8f"),
        "ModelArts",
    ),
    "SkyPilot": (
        SKYPILOT,
        Nodes(2, 1, "10.0.0.5:22933", 8, "SKYPILOT_NUM_GPUS_PER_NODE", "sky-2026-11-28_bert-1"),
        "SkyPilot",
    ),
    "SkyPilot, one node without cards": (
        {
            "SKYPILOT_NUM_NODES": "1",
            "SKYPILOT_NODE_RANK": "0",
            "SKYPILOT_NODE_IPS": "10.0.0.5",
            "SKYPILOT_NUM_GPUS_PER_NODE": "0",
        },
        Nodes(),
        "SkyPilot",
    ),
    "LeaderWorkerSet": (LWS, Nodes(4, 2, "bert-3.bert.ns:20925", job="bert-3"), "LeaderWorkerSet"),
    "dstack": (DSTACK, Nodes(2, 1, "10.0.0.5:28862", 8, "DSTACK_GPUS_PER_NODE", "bert"), "dstack"),
    "MindCluster's job of MindSpore": (MINDSPORE, Nodes(2, 1, "10.0.0.5:2222", 8, "MS_LOCAL_WORKER"), "MindSpore"),
    "LSF, one host": ({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "n1 64", "LSB_HOSTS": "n1 n1"}, Nodes(), ""),
    "Volcengine over IPv6": (VOLCENGINE, Nodes(2, 1, "[fd00::12]:2222", 8, "MLP_WORKER_GPU", "t-2026"), "Volcengine"),
}


@pytest.mark.parametrize("name", READ)
def test_an_environment_is_read_as_it_means(name: str):
    """Count, this node's number, the place, ranks a node, and a name for the run; and by which variables."""
    env, expected, said = READ[name]
    nodes = environment.find(env)

    assert expected == Nodes(**{**nodes.__dict__, "source": ""})
    assert said in nodes.source
    assert bool(said) == ("=" in nodes.source)


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "Slurm, several tasks on a node": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)"},
        "8 tasks on this node",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, tasks that are not equally many": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1"},
        "2 tasks",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, the second task of a node": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_LOCALID": "1"},
        "2 tasks",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, a batch script": (BATCH, "is one process, and the job has 2 nodes", "srun --ntasks-per-node=1"),
    "Slurm, salloc's shell as a step": (
        BATCH | {"SLURM_STEP_ID": "4294967290"},
        "is one process",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, salloc's shell on the login node": (
        SALLOC | ONE,
        "is not on the job's node, n003",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, heterogeneous": (SLURM | {"SLURM_HET_SIZE": "2"}, "heterogeneous", "--nnodes"),
    "Slurm, a step's list of other nodes than its count": (
        SLURM | {"SLURM_STEP_NODELIST": "n[003-006]"},
        "names 4 nodes, and SLURM_STEP_NUM_NODES says 2",
        "leave both as srun sets them",
    ),
    "Slurm, a step of which only the nodes were handed on": (
        {k: SLURM[k] for k in ("SLURM_JOB_ID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST", "SLURM_NODEID")},
        "the job has 2 nodes",
        "srun --ntasks-per-node=1",
    ),
    "Slurm, a job of which only the list was handed on": (
        {k: SLURM[k] for k in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")},
        "the job has 2 nodes",
        "srun --ntasks-per-node=1",
    ),
    "digits of another script": (
        OLD_PYTORCHJOB | {"WORLD_SIZE": "４"},
        "WORLD_SIZE=４ of PyTorchJob or PAI-DLC is not a whole number",
        "--nnodes",
    ),
    "digits of another script, ranks a node": (
        PYTORCHJOB | {"PET_NPROC_PER_NODE": "８"},
        "PET_NPROC_PER_NODE=８",
        "--nnodes",
    ),
    "Slurm, a list that is cut off": (SLURM | {"SLURM_STEP_NODELIST": "n[003-"}, "not a list of hosts", "--nnodes"),
    "an elastic PyTorchJob": (ELASTIC, "PET_NNODES=2:4 asks for an elastic number", "minReplicas"),
    "an elastic PyTorchJob with equal bounds": (
        ELASTIC | {"PET_NNODES": "2:2"},
        "PET_NODE_RANK is not set",
        "Master replica",
    ),
    "a number that is none": (TRAINER | {"PET_NODE_RANK": "two"}, "PET_NODE_RANK=two", "--nnodes"),
    "a node that is not one of them": (TRAINER | {"PET_NODE_RANK": "3"}, "node 3 of 3", "count from 0"),
    "nobody says where": ({"PET_NNODES": "2", "PET_NODE_RANK": "0"}, "not where the first one is", "--rdzv-endpoint"),
    "a place that is everywhere": (OLD_PYTORCHJOB | {"MASTER_ADDR": "127.0.0.1"}, "another machine on each", "unset"),
    "Volcano, roles and no name": (
        VOLCANO_ROLES | {"HOSTNAME": "rack7"},
        "the roles MASTER, WORKER count from 0 each",
        "pytorch",
    ),
    "Volcano without its plugins": ({"VC_TASK_INDEX": "1"}, "no list of hosts", "svc: []"),
    "MindCluster, a count that does not divide": (
        MINDCLUSTER | {"WORLD_SIZE": "31"},
        "not a multiple of LOCAL_WORLD_SIZE=8",
        "--nnodes",
    ),
    "MindCluster without counts": (
        without(MINDCLUSTER, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"),
        "WORLD_SIZE is not set",
        "--nnodes",
    ),
    "a WORLD_SIZE of who knows what": (
        OLD_PYTORCHJOB | {"LOCAL_WORLD_SIZE": "8"},
        "may count nodes or ranks",
        "--nnodes",
    ),
    "ModelArts without a number": (
        without(MODELARTS, "VC_TASK_INDEX"),
        "VC_TASK_INDEX or MA_TASK_INDEX is not set",
        "--nnodes",
    ),
    "NNODES without a number": (without(SCRIPTS, "NODE_RANK"), "NODE_RANK or RANK is not set", "--node-rank"),
    "NNODES, whose RANK a process launcher set": (
        without(SCRIPTS, "NODE_RANK") | {"RANK": "9", "LOCAL_RANK": "1"},
        "NODE_RANK is not set",
        "--node-rank",
    ),
    "NNODES without a place": (without(SCRIPTS, "MASTER_ADDR"), "says 2 nodes (NNODES=2", "--rdzv-endpoint"),
    "NNODES that meet at home": (SCRIPTS | {"MASTER_ADDR": "localhost"}, "another machine on each", "unset"),
    "NNODES that is no number": (SCRIPTS | {"NNODES": "two"}, "NNODES=two is not a number of nodes", "--nnodes"),
    "a port beyond all": (
        SCRIPTS | {"MASTER_PORT": "99999"},
        "MASTER_PORT=99999 of the environment is not a port",
        "correct it",
    ),
    "a place with a port": (
        SCRIPTS | {"MASTER_ADDR": "n0:29500"},
        "'n0:29500', which is neither a host name",
        "without a port",
    ),
    "a place that is a URL": (
        SCRIPTS | {"MASTER_ADDR": "tcp://n0"},
        "'tcp://n0', which is neither a host name",
        "without http://",
    ),
    "ranks a node in an indexed Job": (
        {"NPROC_PER_NODE": "8", "JOB_COMPLETION_INDEX": "1"},
        "JOB_COMPLETION_INDEX=1",
        "--nnodes",
    ),
    "ranks a node in LSF": ({"NPROC_PER_NODE": "8", "LSB_HOSTS": "n1 n2"}, "LSF says 2 hosts (n1, n2)", "--hostfile"),
    "a second node of Torque": ({"PBS_NODENUM": "1"}, "PBS says several nodes (PBS_NODENUM=1)", "--node-rank"),
    "an elastic NNODES": (SCRIPTS | {"NNODES": "2:4"}, "NNODES=2:4 asks for an elastic number", "--nnodes"),
    "a NODE_RANK and no NNODES": (
        {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.5"},
        "NNODES does not say how many",
        "set NNODES",
    ),
    "NNODES and another number of pods": (OLD_PYTORCHJOB | {"NNODES": "2"}, "NNODES=2 and WORLD_SIZE=4", "--nnodes"),
    "WORLD_SIZE and RANK without a place": ({"WORLD_SIZE": "2", "RANK": "1"}, "says 2 nodes (", "--rdzv-endpoint"),
    "LeaderWorkerSet before 0.6, which does not number": (
        without(LWS, "LWS_WORKER_INDEX"),
        "LWS_WORKER_INDEX is not set",
        "--nnodes",
    ),
    "SkyPilot without addresses": (
        without(SKYPILOT, "SKYPILOT_NODE_IPS"),
        "not where the first one is",
        "--rdzv-endpoint",
    ),
    "MindSpore's scheduler": (MINDSPORE | {"MS_ROLE": "MS_SCHED"}, "MS_ROLE=MS_SCHED", "pytorch"),
    "a process of msrun": (
        {"MS_WORKER_NUM": "16", "MS_SCHED_HOST": "10.0.0.5", "MS_NODE_ID": "9"},
        "MS_WORKER_NUM=16",
        "--node-rank",
    ),
    "Torque": ({"PBS_JOBID": "7.pbs", "PBS_NUM_NODES": "2"}, "PBS says several nodes (PBS_NUM_NODES=2)", "--node-rank"),
    "LSF": ({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "n1 64 n2 64"}, "LSF says 2 hosts (n1, n2)", "--hostfile"),
    "LSF, a slot a word": ({"LSB_JOBID": "7", "LSB_HOSTS": "n1 n1 n2 n2"}, "LSF says 2 hosts (n1, n2)", "--hostfile"),
    "an indexed Job": ({"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX=1", "--nnodes 1 is this machine alone"),
    "an indexed Job's first pod, which cannot know either": (
        {"JOB_COMPLETION_INDEX": "0"},
        "JOB_COMPLETION_INDEX=0",
        "--nnodes",
    ),
    # Processes of other launchers, in and outside of a cluster.
    "a rank of torchrun": (
        {
            "RANK": "3",
            "LOCAL_RANK": "3",
            "WORLD_SIZE": "8",
            "LOCAL_WORLD_SIZE": "8",
            "MASTER_ADDR": "x",
            "TORCHELASTIC_RUN_ID": "none",
        },
        "torchrun or accelerate launch started this as one of 8 processes",
        "once a node",
    ),
    "a rank of torchrun in a Slurm step": (
        SLURM | {"TORCHELASTIC_RUN_ID": "1", "RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"},
        "torchrun",
        "once a node",
    ),
    "a rank of torchrun in a MindCluster pod": (
        MINDCLUSTER | {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "LOCAL_RANK": "3"},
        "torchrun",
        "once a node",
    ),
    "a rank of deepspeed in a MindCluster pod": (
        MINDCLUSTER | {"RANK": "27", "LOCAL_RANK": "3"},
        "a process launcher",
        "once a node",
    ),
    "a rank of deepspeed": (
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "n0"},
        "a process launcher",
        "once a node",
    ),
    "mpirun": (
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        "mpirun started this as one of 4",
        "once a node",
    ),
    "mpirun of MVAPICH": ({"MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_RANK": "0"}, "mpirun", "once a node"),
    "mpirun of MPICH": ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "mpirun", "once a node"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence_with_the_way_out(name: str):
    """Nothing is guessed: a job that starts wrongly would train several worlds, each calling itself the whole."""
    env, what, hint = REFUSED[name]
    with pytest.raises(LaunchError) as caught:
        environment.find(env)

    assert what in caught.value.what
    assert hint in caught.value.hint
    assert "\n" not in caught.value.what


def test_a_number_of_ranks_that_is_left_to_us_is_no_word_from_an_environment():
    assert Nodes() == environment.find({"NPROC_PER_NODE": "gpu"})


@pytest.mark.parametrize("variable", ["PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE"])
def test_a_schedulers_file_of_hosts_is_counted(variable: str, tmp_path: Path):
    """It has a line for each slot: two lines of one host are one node."""
    path = tmp_path / "hosts"
    path.write_text("n1 8\nn1 8\n")
    assert Nodes() == environment.find({variable: str(path)})

    path.write_text("n1 8\nn1 8\nn2 8\n")
    with pytest.raises(LaunchError, match=r"2 hosts \(n1, n2\)"):
        environment.find({variable: str(path)})
    assert Nodes(2, 1, "n1:29400") == replace(environment.find({variable: str(path)}, 2, 1, "n1:29400"), source="")


TOLD: dict[str, tuple[dict[str, str], dict[str, Any], Nodes]] = {
    "all three": (PYTORCHJOB, {"count": 4, "rank": 2, "endpoint": "a:1"}, Nodes(4, 2, "a:1")),
    "all three, and NNODES": (SCRIPTS, {"count": 4, "rank": 2, "endpoint": "a:1"}, Nodes(4, 2, "a:1")),
    "another number in NNODES's job": (SCRIPTS, {"rank": 0}, Nodes(2, 0, "10.0.0.5:29500", 8, "NPROC_PER_NODE")),
    "one node": (SLURM, {"count": 1}, Nodes()),
    "another place": (SLURM, {"endpoint": "10.0.0.1:29400"}, Nodes(2, 1, "10.0.0.1:29400", job="slurm-4711")),
    "one process a node of mpirun": (
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
        {"count": 2, "rank": 1, "endpoint": "a:1"},
        Nodes(2, 1, "a:1"),
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_the_command_line_says_counts(name: str):
    """Whatever the variables are."""
    env, told, expected = TOLD[name]

    assert expected == Nodes(**{**environment.find(env, **told).__dict__, "source": ""})


@pytest.mark.parametrize(
    ("env", "hint"), [(SLURM, "leave --nnodes out, Slurm tells"), ({}, "--node-rank 0 on the node of")]
)
def test_no_node_is_taken_for_the_first_because_nobody_says(env: dict[str, str], hint: str):
    """All of them would wait for each other. A plan alone may leave it open."""
    with pytest.raises(LaunchError, match="--nnodes 2 needs --node-rank") as caught:
        environment.find(env, 2, None, "a:1")

    assert hint in caught.value.hint
    assert 0 == environment.find(env, 2, None, "a:1", pretend=True).rank


def test_another_number_of_ranks_than_the_environment_says_is_shown():
    """--nproc counts; the variable is named, with its value."""
    found = environment.find(PYTORCHJOB)

    assert found.source + "; --nproc 4 counts before PET_NPROC_PER_NODE=8" == found.with_nproc_override(4).source
    assert found == found.with_nproc_override(8) == found.with_nproc_override(None)


def test_the_command_line_cannot_make_a_torchrun_rank_a_node():
    """Eight processes of one node would each be that node."""
    env, _, _ = REFUSED["a rank of torchrun"]
    with pytest.raises(LaunchError, match="one of 8 processes"):
        environment.find(env, 2, 0, "a:1")


def test_a_plan_is_shown_in_a_batch_script_as_srun_would_make_it():
    """Nothing is started by `plan` and --dry-run, so there is nothing to refuse."""
    nodes = environment.find(BATCH, pretend=True)

    assert (2, 0, "n003:24711") == (nodes.count, nodes.rank, nodes.endpoint)


def test_two_jobs_that_follow_each_other_meet_at_different_ports():
    """They may share a host."""
    ports = {
        environment.find(SLURM | {"SLURM_JOB_ID": str(4000 + n), "SLURM_STEP_ID": str(s)}).endpoint
        for n in range(500)
        for s in (0, 1)
    }

    assert 1000 == len(ports)
    assert all(20000 <= int(str(p).rpartition(":")[2]) < 30000 for p in ports)


@pytest.mark.parametrize(
    "endpoint",
    ["::1:29400", "node0", "node0:0", "node0:70000", ":29400", "node 0:1", "http://node0:29400", "[::1:29400"],
)
def test_an_endpoint_is_host_and_port(endpoint: str):
    """And an IPv6 address stands in brackets, or nobody could tell its end."""
    with pytest.raises(LaunchError, match=r"HOST:PORT|brackets"):
        environment.find({}, 2, 0, endpoint)


@pytest.mark.parametrize("endpoint", ["[fd00::1]:29400", "n1.cluster.example.com:29400", "10.0.0.1:1"])
def test_any_way_to_write_an_address_will_do(endpoint: str):
    assert endpoint == environment.find({}, 2, 0, endpoint).endpoint
