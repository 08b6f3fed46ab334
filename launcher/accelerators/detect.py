"""Which machine is this launch for: the cards of this node, or its CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.accelerators import table
from launcher.accelerators.table import Cards
from launcher.machine.cluster import Cluster, Found
from launcher.machine.commands import Runner
from launcher.machine.nodes import ONE_NODE, Nodes
from launcher.messages import Message, joined


def here(
    asked: str,
    env: Mapping[str, str],
    nodes: Nodes = ONE_NODE,
    run: Runner | None = None,
    dev_dir: Path = Path("/dev"),
) -> Cluster:
    """This node, as a launch will use it. `asked`: the accelerator, or auto for the first built-in one that has cards here.

    Raises:
        LaunchError: cards are asked for and none is usable; the visible list hides or cuts cards; torch_npu is missing.
    """
    nodes.check()
    if asked != table.AUTO:
        cards = table.load(asked).find(env, is_asked=True, run=run, dev_dir=dev_dir)
        return _cluster(asked, cards, nodes, _host_bytes())
    reasons = []
    for name in table.BUILT_IN:
        accelerator = table.load(name)
        if not accelerator.has_cards:
            continue
        cards = accelerator.find(env, is_asked=False, run=run, dev_dir=dev_dir)
        if cards.devices:
            return _cluster(name, cards, nodes, _host_bytes())
        reasons.append(cards.source)
    why = Cards((), Message("{why}; running on CPU over gloo", why=joined(reasons, "; ")))
    return _cluster(table.HOST, why, nodes, _host_bytes())


def kind(asked: str, detected: Found) -> str:
    """The accelerator that `asked` is, on a machine where these cards were seen."""
    if asked != table.AUTO:
        return asked
    return table.ASSUMED if detected.devices else table.HOST


def assumed(
    nproc: int, nodes: Nodes, name: str | None = None, hbm_gib: int | None = None, *, device: str = table.ASSUMED
) -> Cluster:
    """Cards that need not be there, for `plan`, `render` and --dry-run. `name`: of the chip; None for the usual one.

    Raises:
        LaunchError: as Accelerator.assume.
    """
    nodes.check()
    return _cluster(device, table.load(device).assume(nproc, name, hbm_gib), nodes, None)


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cluster(device: str, cards: Cards, nodes: Nodes, host_bytes: int | None) -> Cluster:
    return Cluster(
        device,
        cards.devices,
        nodes.count,
        nodes.rank,
        nodes.endpoint,
        host_bytes,
        cards.source,
        cards.node_devices,
        nodes.source,
        cards.driver_version,
        nodes.job,
    )
