"""Plan and pod → the manifest of a PyTorchJob (kubeflow training-operator v1) or a Volcano Job. Values only.

A pod is a node and runs the launcher once; which node it is, the launcher reads from what the operator sets there
(cluster/kubernetes.py). The recipe travels along, resolved, in a ConfigMap: every pod reads the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from launcher.clusters.kubernetes.document import Document
from launcher.clusters.kubernetes.pod import Pod, labels_of, literal, require_valid, resource_of
from launcher.errors import LaunchError
from launcher.machine.nodes import port_of
from launcher.planning.plan import Plan

RECIPE_DIR = "/etc/ascend-launch"
GRACE_MARGIN_S = 60
"""Beyond the ranks' grace, before the kubelet kills what is left."""
MAX_RESTARTS = 100
"""How often a job starts again after its pods were evicted or asked to stop."""
SAVED = 143
"""What the launcher exits with after a signal and a save; the same job goes on from there."""


# The driver's files, which the device plugin mounts only together with the Ascend Docker Runtime (MindCluster user
# guide, "Preparation of Job YAML Files"). The path in the container must be the host's.
# With a type the kubelet names what a host lacks; without one the container runtime makes an empty folder of that name there.
DRIVER_PATHS = {
    "/usr/local/Ascend/driver": "Directory",
    "/usr/local/dcmi": "Directory",
    "/usr/local/bin/npu-smi": "File",
    "/etc/ascend_install.info": "File",
    "/etc/hccn.conf": "File",
}


def manifest(
    kind: Literal["pytorchjob", "volcano"],
    plan: Plan,
    pod: Pod,
    name: str,
    files: Mapping[str, str],
    argv: Sequence[str],
) -> list[Document]:
    """The ConfigMap with the recipe's files, where there are any, and the job.

    Args:
        name: of both, as `job_name` makes it.
        files: file name → text, found in RECIPE_DIR.
        argv: what each pod runs.

    Raises:
        LaunchError: a value that Kubernetes would refuse, or a secret given as plain text.
    """
    require_valid(pod, files)
    meta = {"name": name, **({"namespace": pod.namespace} if pod.namespace else {}), "labels": labels_of(pod, name)}
    # Keys of a ConfigMap are letters, digits and `-._`; the files' own names stand in the volume.
    keys = {f"file-{i}": text for i, text in enumerate(files.values())}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "immutable": True, "data": keys}
    template = _template(plan, pod, name, list(files), argv)
    if kind == "pytorchjob" and pod.host_network:
        # The operator gives every pod port 23456 otherwise, which on the host's network one pod of a host can have.
        port = {"name": "pytorchjob-port", "containerPort": port_of(name)}
        template["spec"]["containers"][0]["ports"] = [port]
    make = _pytorch_job if kind == "pytorchjob" else _volcano_job
    return [*([config] if files else []), {**make(plan, pod, template), "metadata": meta}]


def _pytorch_job(plan: Plan, pod: Pod, template: Document) -> Document:
    # ExitCode: 1 to 127 are final, 128 and above start the pod again (training-operator, RestartPolicyExitCode).
    replica = {"restartPolicy": "ExitCode", "template": template}
    specs = {"Master": {"replicas": 1, **replica}}
    if plan.num_nodes > 1:
        specs["Worker"] = {"replicas": plan.num_nodes - 1, **replica}
    run_policy: Document = {"cleanPodPolicy": "Running", "backoffLimit": MAX_RESTARTS}
    if pod.queue:
        run_policy["schedulingPolicy"] = {"queue": pod.queue, "minAvailable": plan.num_nodes}
    spec = {"runPolicy": run_policy, "nprocPerNode": str(plan.nproc_per_node), "pytorchReplicaSpecs": specs}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {}, "spec": spec}


def _volcano_job(plan: Plan, pod: Pod, template: Document) -> Document:
    template = {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}
    spec: Document = {
        "minAvailable": plan.num_nodes,
        "schedulerName": "volcano",
        **({"queue": pod.queue} if pod.queue else {}),
        "maxRetry": MAX_RESTARTS,
        # svc gives the pods host names and their list, env each pod its number.
        "plugins": {"svc": [], "env": []},
        # The first that fits counts.
        "policies": [
            {"exitCode": SAVED, "action": "RestartJob"},
            {"event": "PodEvicted", "action": "RestartJob"},
            {"event": "PodFailed", "action": "AbortJob"},
        ],
        "tasks": [{"name": "worker", "replicas": plan.num_nodes, "template": template}],
    }
    return {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {}, "spec": spec}


def _template(plan: Plan, pod: Pod, name: str, files: Sequence[str], argv: Sequence[str]) -> Document:
    items = [{"key": f"file-{i}", "path": f} for i, f in enumerate(files)]
    size = f"{pod.shm_gib or max(16, 4 * plan.nproc_per_node)}Gi"
    volumes: list[Document] = [
        *([{"name": "recipe", "configMap": {"name": name, "items": items}}] if files else []),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
    ]
    mounts: list[Document] = [
        *([{"name": "recipe", "mountPath": RECIPE_DIR, "readOnly": True}] if files else []),
        # The container's own default, 64 MiB, is less than one DataLoader needs.
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    for i, mount in enumerate(pod.mounts):
        claim = {"claimName": mount.source, **({"readOnly": True} if mount.read_only else {})}
        host = mount.source.startswith("/")
        volumes.append(
            {
                "name": f"mount-{i}",
                **({"hostPath": {"path": mount.source}} if host else {"persistentVolumeClaim": claim}),
            }
        )
        mounts.append(
            {"name": f"mount-{i}", "mountPath": mount.path, **({"readOnly": True} if mount.read_only else {})}
        )
    if plan.accelerator.needs_cann and pod.driver:
        for i, (path, kind) in enumerate(DRIVER_PATHS.items()):
            volumes.append({"name": f"driver-{i}", "hostPath": {"path": path, "type": kind}})
            mounts.append({"name": f"driver-{i}", "mountPath": path, "readOnly": True})
    limits: Document = {"cpu": pod.cpu, "memory": pod.memory}
    limits |= {pod.resource or resource_of(plan): plan.nproc_per_node} if plan.accelerator.has_cards else {}
    limits = {k: v for k, v in limits.items() if v is not None}
    container: Document = {
        "name": "pytorch",  # the one that the training-operator gives its variables to
        "image": pod.image,
        **_command(argv, pod.cann),
        **({"workingDir": pod.workdir} if pod.workdir else {}),
        "env": _env(pod),
        **({"resources": {"requests": limits, "limits": limits}} if limits else {}),
        "volumeMounts": mounts,
    }
    spec: Document = {
        "terminationGracePeriodSeconds": math.ceil(plan.supervision.grace_s) + GRACE_MARGIN_S,
        **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if pod.host_network else {}),
        **({"nodeSelector": dict(pod.node_selector)} if pod.node_selector else {}),
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"labels": labels_of(pod, name)}, "spec": spec}


def _command(argv: Sequence[str], cann: str | None) -> Document:
    if cann is None:
        return {"command": [literal(argv[0])], "args": [literal(word) for word in argv[1:]]}
    # They are bash's arguments, not part of its script.
    return {
        "command": ["/bin/bash", "-c", literal('source "$0" && exec "$@"'), literal(cann)],
        "args": [literal(w) for w in argv],
    }


def _env(pod: Pod) -> list[Document]:
    rows: list[Document] = [{"name": n, "value": literal(v)} for n, v in pod.env.items()]
    for variable, (secret, key) in pod.secrets.items():
        rows.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return rows


def recipe_files(recipe_text: str, name: str, script: Path | None) -> dict[str, str]:
    """The files that travel with a job: the resolved recipe, and its script under its own name.

    Raises:
        LaunchError: the script cannot be read as text.
    """
    out = {f"{name}.yaml": recipe_text}
    if script is not None:
        try:
            out[script.name] = script.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise LaunchError(
                "script: {script}: cannot be read: {error}",
                hint="name a file of UTF-8 text",
                script=script,
                error=error,
            ) from None
    return out
