"""Options of `submit` that a cluster has: data, of which the command line makes its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "count", "flag", "switch", "list"]


@dataclass(frozen=True)
class Option:
    """One option. Several clusters may have one of the same name, if it is of the same kind."""

    name: str
    """As it is typed: --cpus-per-task."""
    help: str
    kind: Kind = "text"
    """text: a value, None where it is not given; count: a whole number from 1; flag: False, or True where it is given;
    switch: yes or no, by `name` and `off`; list: a tuple of values, for an option that may be given several times."""
    metavar: str | None = None
    """How help writes the value."""
    off: str = ""
    """The name that says no, of a switch: --shared."""
    default: bool | None = None
    """What a switch is where neither is given."""
    key: str = ""
    """The value's key in what `Cluster.submission` gets; '' for the name: cpus_per_task."""

    @property
    def value_key(self) -> str:
        return self.key or self.name.lstrip("-").replace("-", "_")
