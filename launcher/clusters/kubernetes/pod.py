"""What a pod of a job is made of, and what a server would refuse of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from launcher import scrub
from launcher.accelerators.ascend.chips import chip
from launcher.clusters.kubernetes import rules
from launcher.errors import LaunchError
from launcher.planning.plan import Plan

MAX_NAME = 45
"""Of 63 letters in a host name, what is left for the job's beside `-worker-` and the pod's number."""
MAX_FILES_BYTES = 900_000
"""A ConfigMap holds 1 MiB."""
JOB_LABEL = "ascend-launch/job"


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
                "--mount {text!r} is not CLAIM:/path or /host/path:/path",
                hint="as in --mount models:/models:ro --mount results:/results",
                text=text,
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
            "what {chip} is called in the cluster is not known here",
            hint="say it with --resource, as `kubectl describe node` lists it under Allocatable",
            chip=plan.chip,
        )
    return "huawei.com/Ascend910"


def labels_of(pod: Pod, name: str) -> dict[str, str]:
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


def require_valid(pod: Pod, files: Mapping[str, str]) -> None:
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_FILES_BYTES:
        raise LaunchError(
            "the recipe and its script are {size:,} bytes, more than a ConfigMap holds",
            hint="put the script into the image or onto a mount, and run it from there",
            size=size,
        )
    for name, value in pod.env.items():
        if scrub.hidden(name, value) != value:
            raise LaunchError(
                "--env {name}: a secret's value must not stand in a manifest",
                hint="make a Secret of it, and say --secret {name}=SECRET:KEY",
                name=name,
            )
    _check_names(pod)
    for name in (*pod.env, *pod.secrets):
        if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name):
            raise LaunchError("{name!r} is not a variable name", hint="write NAME=VALUE", name=name)
    for mount in pod.mounts:
        if ".." in PurePosixPath(mount.path).parts or ".." in PurePosixPath(mount.source).parts:
            raise LaunchError(
                "--mount {source}:{path}: `..` is not allowed there",
                hint="write the path out",
                source=mount.source,
                path=mount.path,
            )
    paths = [m.path for m in pod.mounts]
    if len(set(paths)) < len(paths):
        raise LaunchError("two mounts have the same path", hint="give each --mount a path of its own")
