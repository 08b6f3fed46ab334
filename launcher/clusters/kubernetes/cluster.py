"""Kubernetes by two operators, as the table of clusters has them: Kubeflow's training-operator, and Volcano."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from launcher.clusters.base import Base
from launcher.clusters.kubernetes import variables
from launcher.clusters.options import Option
from launcher.machine.nodes import Nodes, Read
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.clusters.submission import Submission

PODS_JOIN_S = 86400.0
"""How long a pod waits for the others where nobody says: one pulls its image or waits for a host while the first is up, and
a launcher that gives up would end the job for good."""
OPTIONS = (
    Option("--image", "Image of the pods, with ascend-launch in it; required.", metavar="IMAGE"),
    Option("--mount", "A claim's folder, or /host/path:/path.", "list", metavar="CLAIM:/path[:ro]", key="mounts"),
    Option("--namespace", "The namespace [default: kubectl's own].", metavar="NAME"),
    Option("--resource", "The cards' name in the cluster [default: huawei.com/Ascend910].", metavar="NAME"),
    Option("--shm", "Size of /dev/shm [default: 4 a rank, at least 16].", "count", metavar="GIB"),
    Option("--cpu", "Cores of each pod.", metavar="N"),
    Option("--memory", "Memory of each pod, as 200Gi.", metavar="SIZE"),
    Option("--env", "A variable of the pods.", "list", metavar="NAME=VALUE"),
    Option("--secret", "A variable whose value is in a Secret.", "list", metavar="NAME=SECRET:KEY", key="secrets"),
    Option("--node-selector", "A label that nodes must have.", "list", metavar="KEY=VALUE"),
    Option("--label", "A label of the job and its pods.", "list", metavar="KEY=VALUE", key="labels"),
    Option("--workdir", "Where the recipe's relative paths start [default: the image's own].", metavar="DIR"),
    Option(
        "--driver",
        "Mount the host's driver files [default: yes]; not needed with the Ascend Docker Runtime.",
        "switch",
        off="--no-driver",
        default=True,
    ),
    Option("--host-network", "The host's network for the pods.", "flag"),
    Option("--queue", "The queue of the batch scheduler.", metavar="NAME"),
)


@dataclass(frozen=True, kw_only=True)
class Operator(Base):
    """A pod is a node, made of an image; files are its own, and those of what is mounted."""

    name: str
    title: str
    kind: Literal["pytorchjob", "volcano"]
    """Of the manifest."""
    help: str
    variables: Mapping[str, tuple[str, ...]]
    mark: Callable[[Mapping[str, str]], bool]
    read: Callable[[Read], Nodes]

    has_queue = True
    options = OPTIONS
    shares_files = False
    join_timeout_s = PODS_JOIN_S
    credentials_hint = Message(
        "make a Secret of it, and say --secret NAME=SECRET:KEY, for a variable that the program reads"
    )

    @property
    def heading(self) -> str:
        return "Kubernetes"

    def is_here(self, env: Mapping[str, str]) -> bool:
        return self.mark(env)

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        return self.read(read)

    def submission(self, values: Mapping[str, Any]) -> Submission:
        from launcher.clusters.kubernetes import submission

        return submission.PodSubmission.of(self.kind, submission.Options(**values))


KUBERNETES = Operator(
    name="kubernetes",
    title="Kubeflow",
    kind="pytorchjob",
    help="As a PyTorchJob of Kubeflow's training-operator, by kubectl.",
    variables=variables.PET,
    mark=variables.has_pet,
    read=variables.pet,
)
VOLCANO = Operator(
    name="volcano",
    title="Volcano",
    kind="volcano",
    help="As a Volcano job, by kubectl.",
    variables=variables.VOLCANO,
    mark=variables.has_volcano,
    read=variables.volcano,
)
