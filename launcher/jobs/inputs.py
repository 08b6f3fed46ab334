"""From a recipe and a machine to what a plan is made of. A recipe with errors is refused first: what looks at the machine
and at the model is imported where it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import assets
from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.jobs import labels
from launcher.messages import Message
from launcher.recipe import load as recipes
from launcher.recipe.load import Loaded
from launcher.rundir import paths

if TYPE_CHECKING:
    from launcher.jobs.options import Machine
    from launcher.machine.cluster import Cluster
    from launcher.machine.nodes import Nodes
    from launcher.models.wanted import About
    from launcher.planning.plan import Options, Plan, Supervision

CARDS_OF_A_NODE = 8
"""How many are planned for where nobody says."""


@dataclass(frozen=True)
class Inputs:
    """What a plan is made of."""

    loaded: Loaded
    cluster: Cluster
    options: Options
    config: dict[str, Any] | None
    """The model's config.json; None where it is not on this machine."""

    def plan(self) -> Plan:
        """Raises LaunchError: what is asked for cannot run."""
        from launcher.planning import decide

        return decide.make(self.loaded, self.cluster, self.options, self.config)


def gather(
    recipe: Path,
    overrides: tuple[str, ...],
    machine: Machine,
    supervision: Supervision,
    *,
    debug: bool = False,
    pretend: bool = False,
    elsewhere: bool = False,
    is_training: bool = True,
    is_theirs: Callable[[str], bool] = lambda path: False,
) -> Inputs:
    """What a plan is made of. `pretend`: nothing is going to be started here, and the plan is for the cards asked for,
    whatever this machine has; `elsewhere`: nor are this machine's cards meant.
    `is_training`: the recipe's model is what is trained, and is looked at, as are the packages of its optimizer and trackers.
    `is_theirs`: whether a path is one of the job's machines, which this one cannot look into.

    Raises:
        LaunchError: the recipe, an option, the machine or the model is not as it must be.
    """
    loaded = load(recipe, overrides, trains_here=is_training and not elsewhere)
    from launcher.clusters import environment
    from launcher.diagnose.doctor import versions
    from launcher.planning.plan import Options

    nodes = environment.find(os.environ, machine.nnodes, machine.node_rank, machine.rdzv_endpoint, pretend=pretend)
    nodes = nodes.with_nproc_override(machine.nproc)
    nproc, source = machine.nproc, "--nproc"
    if nproc is None and nodes.nproc is not None:
        nproc, source = nodes.nproc, f"{nodes.nproc_variable} of"
    machine = replace(machine, nproc=nproc)
    cluster = _cluster(machine, nodes, debug=debug, pretend=pretend, elsewhere=elsewhere)
    config, about = _model(loaded, cluster, is_training=is_training, is_theirs=is_theirs)
    options = Options(
        nproc=nproc,
        nproc_source=source,
        debug=debug,
        supervision=supervision,
        rank_table=_rank_table(machine.rank_table),
        model=about,
        deepspeed_version=versions.installed(["deepspeed"]).get("deepspeed"),
    )
    return Inputs(loaded, cluster, options, config)


def load(recipe: Path, overrides: tuple[str, ...], *, trains_here: bool = False) -> Loaded:
    """The recipe as it stands now: links in its paths are followed. A run directory's own goes by that run's name."""
    before = paths.plan_beside(recipe)
    if before is None:
        return labels.named(recipes.pinned(recipes.load(recipe, overrides, trains_here=trains_here)))
    loaded = recipes.load(recipe, overrides, trains_here=trains_here, recipe_dir=Path(before.recipe_dir))
    return replace(labels.named(recipes.pinned(loaded)), name=before.name)


def _cluster(machine: Machine, nodes: Nodes, *, debug: bool, pretend: bool, elsewhere: bool) -> Cluster:
    from launcher.accelerators import detect

    is_assumed = bool(machine.chip or machine.hbm)
    if is_assumed and not pretend:
        raise LaunchError(
            "--chip and --hbm are for plan, render and --dry-run", hint="a launch asks the cards themselves"
        )
    has_cards = machine.device != accelerators.AUTO and accelerators.load(machine.device).has_cards
    if not pretend or not (is_assumed or has_cards):
        return detect.here(machine.device, os.environ, nodes)
    cards = machine.device if has_cards else accelerators.ASSUMED
    real = None if is_assumed or elsewhere else _real_cards(cards, nodes, machine.nproc)
    count = 1 if debug else machine.nproc or CARDS_OF_A_NODE
    return real or detect.assumed(count, nodes, machine.chip, machine.hbm, device=cards)


def _real_cards(device: str, nodes: Nodes, nproc: int | None) -> Cluster | None:
    from launcher.accelerators import detect

    try:
        cluster = detect.here(device, os.environ, nodes)
    except LaunchError:
        return None
    return cluster if nproc is None or nproc <= len(cluster.devices) else None


def _model(
    loaded: Loaded, cluster: Cluster, *, is_training: bool, is_theirs: Callable[[str], bool]
) -> tuple[dict[str, Any] | None, About | None]:
    """The model's config.json, and what is to be known of it before it is trained; None for what is not known."""
    from launcher.models.config import model_config
    from launcher.models.folder import check, require_model
    from launcher.planning import decide

    model = loaded.spec.model
    is_here = not is_theirs(model.name)
    trains = is_training and is_here and loaded.spec.script is None
    folder = assets.model_folder(model.name, model.revision) if trains else None
    if folder is not None and model.gguf_file is None:
        require_model(folder)
    config = model_config(model.name, model.revision) if is_here else None
    return config, check(folder, config, decide.wanted(loaded.spec, cluster.device)) if trains else None


def _rank_table(path: Path | None) -> str | None:
    if path is None:
        return None
    if path.is_symlink() or not path.is_file():
        kind = Message("a link, which HCCL refuses") if path.is_symlink() else Message("no such file")
        raise LaunchError(
            "--rank-table {path}: {kind}", hint="`ascend-launch ranktable --out FILE` makes one", path=path, kind=kind
        )
    return str(path.resolve())
