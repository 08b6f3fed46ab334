"""Modules that had another name in the first version, which scripts of users may import: for one release they are still there.

An old name leads to the modules that its contents are in now, and warns. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "launcher.spec": ("recipe.schema", "recipe.load", "recipe.layers"),
    "launcher.plan": ("planning.plan", "planning.decide", "planning.batch", "planning.arguments"),
    "launcher.memory": ("planning.fit", "planning.choose", "planning.advice", "strategies.peak", "models.geometry"),
    "launcher.yamlfile": ("recipe.yamlfile",),
    "launcher.training_fields": ("recipe.training_fields",),
    "launcher.training_rules": ("recipe.training_rules", "recipe.schedules", "recipe.schedulers", "recipe.optimizers"),
    "launcher.llamafactory": ("recipe.importers.llamafactory",),
    "launcher.program": ("recipe.program",),
    "launcher.history": ("rundir.history", "rundir.rates"),
    "launcher.explain": ("diagnose.explain.report", "diagnose.explain.signatures", "diagnose.explain.words"),
    "launcher.doctor": (
        "diagnose.doctor.run",
        "diagnose.doctor.versions",
        "diagnose.doctor.host",
        "diagnose.doctor.model",
        "diagnose.doctor.compare",
        "checks",
        "accelerators.ascend.checks_cann",
        "accelerators.ascend.checks_cards",
        "accelerators.ascend.checks_hccl",
        "clusters.checks",
    ),
    "launcher.modelfolder": (
        "models.folder",
        "models.wanted",
        "models.positions",
        "models.quantised",
        "models.headers",
    ),
    "launcher.error_codes": ("diagnose.explain.error_codes",),
    "launcher.paths": ("clusters.paths",),
    "launcher.supervise": ("jobs.follow", "jobs.tool", "rundir.outcome", "signals"),
    "launcher.predict": ("jobs.feed", "jobs.rows"),
    "launcher.trained": ("jobs.trained",),
    "launcher.submit": ("clusters.slurm.queue", "clusters.kubernetes.client"),
    "launcher.cluster": (),
    "launcher.cluster.model": ("machine.cluster", "accelerators.ascend.chips"),
    "launcher.cluster.nodes": ("machine.nodes",),
    "launcher.cluster.detect": ("accelerators.detect",),
    "launcher.cluster.environment": ("clusters.environment",),
    "launcher.cluster.network": ("network", "accelerators.ascend.ports"),
    "launcher.cluster.npu": (
        "accelerators.ascend.npu_smi",
        "accelerators.ascend.npu_tools",
        "accelerators.ascend.discover",
    ),
    "launcher.cluster.slurm": ("clusters.slurm.variables", "clusters.slurm.hostlist"),
    "launcher.cluster.hosts": ("clusters.ssh.hostfile",),
    "launcher.render.sbatch": ("clusters.slurm.script",),
    "launcher.render.kubernetes": ("clusters.kubernetes.manifest", "clusters.kubernetes.pod"),
    "launcher.render.ranktable": ("accelerators.ascend.ranktable", "accelerators.ascend.ranktable_check"),
}
"""Old name → where its contents are, below `launcher`."""


def names_of(old: str, places: tuple[str, ...], only: frozenset[str] | None = None) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that finds the names it once had; of a package `only` these, since Python asks it for
    the names of its modules too.

    The function raises AttributeError where no place has the name.
    """

    def find(name: str) -> Any:
        if not name.startswith("__") and (only is None or name in only):
            for place in places:
                module = importlib.import_module(f"launcher.{place}")
                if hasattr(module, name):
                    text = f"{old}.{name} is {module.__name__}.{name} now; the old name goes with the next release"
                    warnings.warn(text, DeprecationWarning, stacklevel=2)
                    return getattr(module, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return find


class Finder:
    """Asked by the import system when a module is nowhere else."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, cls(), is_package=name == "launcher.cluster") if name in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = names_of(module.__name__, MODULES[module.__name__])  # type: ignore[method-assign]


def install() -> None:
    """Have the old names found, after everything that is there."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
