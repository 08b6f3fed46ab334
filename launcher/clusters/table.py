"""The clusters: schedulers and platforms that run jobs. Each is one row in a folder or file beside this one, or an entry
point of another package in the group `ascend_launch.clusters`; nothing outside this folder goes by their names.

A cluster says how it is recognised by the variables that it gives a job, and which nodes these name. One with a queue also
says what `submit` takes, and how a job is written, submitted, followed and judged. `launcher.clusters.base.Base` has an
answer for all that a cluster without a queue need not know.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from launcher.clusters.options import Option
from launcher.machine.nodes import Nodes, Read
from launcher.plugins import Table

if TYPE_CHECKING:
    from launcher.checks import Check
    from launcher.clusters.submission import Submission

INTERFACE = 1


class Cluster(Protocol):
    """A scheduler or a platform."""

    interface: int
    """INTERFACE of the launcher that it was written for."""
    name: str
    """One word, which the option that submits to it is called by: slurm, --slurm."""
    title: str
    """As messages call it: Slurm."""

    # -- a node of it ----------------------------------------------------------------------------------------------

    variables: Mapping[str, tuple[str, ...]]
    """What is read → the variables that say it, in order of preference. `nproc` are ranks a node."""
    also_sets: frozenset[str]
    """Variables by which another launcher would be recognised, and which this cluster gives a job by itself."""
    is_set_by_hand: bool
    """Whether people set its variables, and no scheduler."""

    def is_here(self, env: Mapping[str, str]) -> bool:
        """Whether a process with this environment runs in a job of it."""

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        """The job's nodes, by the variables.

        Args:
            read: reads variables, and remembers which of them counted.
            pretend: nothing is going to be started here.

        Raises:
            LaunchError: they do not say enough, or contradict each other.
        """

    def checks(self) -> Sequence[Check]:
        """What the doctor asks about the cards of a job of it, by commands of the cluster's. Elsewhere each says `skip`."""

    # -- its queue -------------------------------------------------------------------------------------------------

    has_queue: bool
    """Whether `submit` can give it a job. What follows counts only then."""
    help: str
    """Of the option that submits to it."""
    heading: str
    """Over its options in the help of `submit`."""
    options: Sequence[Option]
    """What it takes beside the options of every job."""
    shares_files: bool
    """Whether its nodes are meant to see this machine's files at the same paths, the run directory among them."""
    join_timeout_s: float | None
    """How long its nodes wait for each other where nobody says; None for as long as elsewhere."""
    credentials_hint: str
    """How a secret reaches a job of it, which must not stand in a script or manifest."""

    def submission(self, values: Mapping[str, Any]) -> Submission:
        """What was asked of it, by the keys of its options.

        Raises:
            LaunchError: a value that cannot be meant.
        """


TABLE: Table[Cluster] = Table(
    "cluster",
    "ascend_launch.clusters",
    INTERFACE,
    {
        "slurm": "launcher.clusters.slurm.cluster:SLURM",
        "mindcluster": "launcher.clusters.kubernetes.variables:MINDCLUSTER_ROW",
        "modelarts": "launcher.clusters.kubernetes.variables:MODELARTS_ROW",
        "volcengine": "launcher.clusters.kubernetes.variables:VOLCENGINE_ROW",
        "kubernetes": "launcher.clusters.kubernetes.cluster:KUBERNETES",
        "volcano": "launcher.clusters.kubernetes.cluster:VOLCANO",
        "leaderworkerset": "launcher.clusters.variables:LWS_ROW",
        "skypilot": "launcher.clusters.variables:SKYPILOT_ROW",
        "dstack": "launcher.clusters.variables:DSTACK_ROW",
        "mindspore": "launcher.clusters.variables:MINDSPORE_ROW",
        "pytorchjob": "launcher.clusters.kubernetes.variables:PYTORCHJOB_ROW",
        "environment": "launcher.clusters.variables:SCRIPTS_ROW",
    },
)
"""In the order in which they are asked: marks that nothing else sets come first, then the bare WORLD_SIZE and RANK, and last
the variables that anybody may have put into an image or a shell."""


def built_in() -> tuple[Cluster, ...]:
    """Those of this package, without looking for others."""
    return tuple(TABLE.load(name) for name in TABLE.built_in)


@functools.cache
def of_packages() -> tuple[Cluster, ...]:
    """Those of other packages.

    Raises:
        LaunchError: a package that has one cannot be imported, or was written for another interface.
    """
    return tuple(TABLE.load(name) for name in TABLE.names() if name not in TABLE.built_in)


def asked() -> tuple[Cluster, ...]:
    """All, in the order in which they are asked whether this is a job of theirs. Another package's come first: it was
    installed for a place where what is built in does not do."""
    return (*of_packages(), *built_in())


def queues() -> tuple[Cluster, ...]:
    """Those that `submit` can give a job, those of other packages last."""
    return tuple(cluster for cluster in (*built_in(), *of_packages()) if cluster.has_queue)
