"""Plan and pod → the manifest of a PyTorchJob (kubeflow training-operator v1) or a Volcano Job. Values only.

A pod is a node and runs the launcher once; which node it is, the launcher reads from what the operator sets there
(cluster/kubernetes.py). The recipe travels along, resolved, in a ConfigMap: every pod reads the same one.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from launcher import scrub
from launcher.cluster.model import chip
from launcher.cluster.nodes import port_of
from launcher.errors import LaunchError
from launcher.plan import Plan
from launcher.render import kubernetes_rules as rules

RECIPE_DIR = "/etc/ascend-launch"
GRACE_MARGIN_S = 60
"""Beyond the ranks' grace, before the kubelet kills what is left."""
MAX_RESTARTS = 100
"""How often a job starts again after its pods were evicted or told to stop."""
SAVED = 143
"""What the launcher exits with after a signal and a save; the same job goes on from there."""
MAX_NAME = 45
"""Of 63 letters in a host name, what is left for the job's beside `-worker-` and the pod's number."""
MAX_FILES_BYTES = 900_000
"""A ConfigMap holds 1 MiB."""
JOB_LABEL = "ascend-launch/job"

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

Document = dict[str, Any]


@dataclass(frozen=True)
class Mount:
    """A claim's or the host's folder in the pods."""

    source: str
    """A PersistentVolumeClaim's name, or an absolute path on every host."""
    path: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Mount:
        """`CLAIM:/path`, `/host/path:/path`, either with `:ro`.

        Raises:
            LaunchError: it is neither.
        """
        body, read_only = (text[:-3], True) if text.endswith(":ro") else (text, False)
        source, colon, path = body.partition(":")
        is_claim = re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", source) is not None
        if not colon or not path.startswith("/") or ":" in path or not (is_claim or source.startswith("/")):
            raise LaunchError(
                f"--mount {text!r} is not CLAIM:/path or /host/path:/path",
                hint="as in --mount models:/models:ro --mount results:/results",
            )
        return cls(source, path, read_only)

    def holds(self, path: str) -> bool:
        return ".." not in PurePosixPath(path).parts and PurePosixPath(path).is_relative_to(self.path)


@dataclass(frozen=True)
class Pod:
    """What the pods are made of, beyond the plan."""

    image: str
    mounts: tuple[Mount, ...] = ()
    namespace: str | None = None
    resource: str | None = None
    """The cards' name in the cluster; None for the chip's usual one."""
    shm_gib: int | None = None
    cpu: str | None = None
    memory: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Variable → (Secret, key). Values of secrets never stand in a manifest."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    cann: str | None = None
    """set_env.sh to source before the launcher starts; None where the image has done that."""
    driver: bool = True
    host_network: bool = False
    queue: str | None = None


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
    _check(pod, files)
    meta = {"name": name, **({"namespace": pod.namespace} if pod.namespace else {}), "labels": _labels(pod, name)}
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


class _Dumper(yaml.SafeDumper):
    """Strings that parsers could take for something else are quoted, since they disagree on which those are: PyYAML's
    own `1e3` is text to it, and a number to kubectl."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.Node:
        if re.fullmatch(r"[A-Za-z/][-A-Za-z0-9_./]*", value) and value.lower() not in _WORDS:
            style = None
        elif re.fullmatch(
            r"(?:[ -~\u00a1-\ud7ff]*[!-~\u00a1-\ud7ff])?(?:\n(?:[ -~\u00a1-\ud7ff]*[!-~\u00a1-\ud7ff])?)+", value
        ):
            style = "|" if "\u2028" not in value and "\u2029" not in value else '"'
        else:
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_Dumper.add_representer(str, _Dumper.text)


def text(documents: Sequence[Document]) -> str:
    """YAML that every parser reads as the same values."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6, explicit_start=True
    )


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
    if plan.device == "npu" and pod.driver:
        for i, (path, kind) in enumerate(DRIVER_PATHS.items()):
            volumes.append({"name": f"driver-{i}", "hostPath": {"path": path, "type": kind}})
            mounts.append({"name": f"driver-{i}", "mountPath": path, "readOnly": True})
    limits: Document = {"cpu": pod.cpu, "memory": pod.memory}
    limits |= {pod.resource or resource_of(plan): plan.nproc_per_node} if plan.device == "npu" else {}
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
    return {"metadata": {"labels": _labels(pod, name)}, "spec": spec}


def _command(argv: Sequence[str], cann: str | None) -> Document:
    if cann is None:
        return {"command": [literal(argv[0])], "args": [literal(word) for word in argv[1:]]}
    # The words are bash's arguments, not part of its script.
    return {
        "command": ["/bin/bash", "-c", literal('source "$0" && exec "$@"'), literal(cann)],
        "args": [literal(w) for w in argv],
    }


def _env(pod: Pod) -> list[Document]:
    rows: list[Document] = [{"name": n, "value": literal(v)} for n, v in pod.env.items()]
    for variable, (secret, key) in pod.secrets.items():
        rows.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return rows


def literal(word: str) -> str:
    """Kubernetes replaces `$(NAME)` in command, args and env, and takes `$$` for a dollar sign."""
    return word.replace("$", "$$")


def job_name(wanted: str) -> str:
    """A name that the job, its pods and its services can have (DNS-1035 label), made of any text; two texts that differ
    give two names."""
    if re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", wanted) and len(wanted) <= MAX_NAME:
        return wanted
    digest = hashlib.sha256(wanted.encode(errors="surrogateescape")).hexdigest()[:6]
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"job-{plain}".strip("-")
    return f"{plain[: MAX_NAME - 7].rstrip('-')}-{digest}"


def resource_of(plan: Plan) -> str:
    """What the device plugin calls the plan's cards: the same for every chip that trains but the 950.

    Raises:
        LaunchError: there is no usual name for the chip.
    """
    silicon = chip(plan.chip or "")
    if silicon is None or silicon.family not in ("910", "A2", "A3"):
        raise LaunchError(
            f"what {plan.chip} is called in the cluster is not known here",
            hint="say it with --resource, as `kubectl describe node` lists it under Allocatable",
        )
    return "huawei.com/Ascend910"


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
            raise LaunchError(f"script: {script}: cannot be read: {error}", hint="name a file of UTF-8 text") from None
    return out


def _labels(pod: Pod, name: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "ascend-launch", JOB_LABEL: name, **pod.labels}


def _check_names(pod: Pod) -> None:
    """Raises LaunchError for a value that Kubernetes' own rules refuse."""
    rules.image("--image", pod.image)
    optional = {
        "--namespace": (pod.namespace, rules.label),
        "--resource": (pod.resource, rules.resource),
        "--cpu": (pod.cpu, rules.amount),
        "--memory": (pod.memory, rules.memory),
        "--workdir": (pod.workdir, rules.absolute),
        "--queue": (pod.queue, rules.subdomain),
    }
    for option, (value, check) in optional.items():
        if value is not None:
            check(option, value)
    for option, pairs in (("--label", pod.labels), ("--node-selector", pod.node_selector)):
        for key, value in pairs.items():
            rules.label_key(option, key)
            rules.label_value(f"{option} {key}=", value)
    for variable, (secret, key) in pod.secrets.items():
        rules.subdomain(f"--secret {variable}=", secret)
        rules.key_of_secret(f"--secret {variable}={secret}:", key)
    for mount in pod.mounts:
        if not mount.source.startswith("/"):
            rules.subdomain("--mount", mount.source)


def _check(pod: Pod, files: Mapping[str, str]) -> None:
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_FILES_BYTES:
        raise LaunchError(
            f"the recipe and its script are {size:,} bytes, more than a ConfigMap holds",
            hint="put the script into the image or onto a mount, and run it from there",
        )
    for name, value in pod.env.items():
        if scrub.hidden(name, value) != value:
            raise LaunchError(
                f"--env {name}: a secret's value must not stand in a manifest",
                hint=f"make a Secret of it, and say --secret {name}=SECRET:KEY",
            )
    _check_names(pod)
    for name in (*pod.env, *pod.secrets):
        if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name):
            raise LaunchError(f"{name!r} is no name of a variable", hint="write NAME=VALUE")
    for mount in pod.mounts:
        if ".." in PurePosixPath(mount.path).parts or ".." in PurePosixPath(mount.source).parts:
            raise LaunchError(
                f"--mount {mount.source}:{mount.path}: `..` is not allowed there", hint="write the path out"
            )
    paths = [m.path for m in pod.mounts]
    if len(set(paths)) < len(paths):
        raise LaunchError("two mounts have the same path", hint="give each --mount a path of its own")
