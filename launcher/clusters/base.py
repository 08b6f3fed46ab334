"""What clusters have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.clusters.options import Option
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes, Read
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.checks import Check
    from launcher.clusters.submission import Submission


class Base:
    """An answer for all but the name, the title and the variables: a cluster without a queue that is never recognised.
    See `table.Cluster`."""

    interface: int = 1
    name: str
    title: str
    variables: Mapping[str, tuple[str, ...]]
    also_sets: frozenset[str] = frozenset()
    is_set_by_hand: bool = False

    has_queue: bool = False
    help: str = ""
    options: Sequence[Option] = ()
    shares_files: bool = True
    join_timeout_s: float | None = None
    credentials_hint: str = Message("export it as a variable, such as HF_TOKEN, before you submit")

    @property
    def heading(self) -> str:
        return self.title

    def is_here(self, env: Mapping[str, str]) -> bool:
        return False

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        raise NotImplementedError

    def checks(self) -> Sequence[Check]:
        return ()

    def submission(self, values: Mapping[str, Any]) -> Submission:
        raise LaunchError(
            "{cluster} has no queue that is known here", hint="start the job on its nodes", cluster=self.title
        )


@dataclass(frozen=True, kw_only=True)
class Recognised(Base):
    """A cluster whose jobs are recognised, and which takes none from here."""

    name: str
    title: str
    variables: Mapping[str, tuple[str, ...]]
    mark: Callable[[Mapping[str, str]], bool]
    """Whether an environment is of a job of it."""
    read: Callable[[Read], Nodes]
    also_sets: frozenset[str] = frozenset()
    is_set_by_hand: bool = False

    def is_here(self, env: Mapping[str, str]) -> bool:
        return self.mark(env)

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        return self.read(read)
