"""Which machine is this launch for: the cards of this node, or its CPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from launcher.accelerators.ascend import discover
from launcher.accelerators.ascend import visible as visibility
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.errors import LaunchError
from launcher.machine import commands
from launcher.machine.cluster import Chip, Cluster, Device, chip, chip_names, described, is_family, series
from launcher.machine.commands import Runner
from launcher.machine.nodes import ONE_NODE, Nodes
from launcher.messages import Message
from launcher.text import GIB

ASSUMED_CHIP = "910B3"


def here(
    asked: Literal["auto", "npu", "cpu"],
    env: Mapping[str, str],
    nodes: Nodes = ONE_NODE,
    run: Runner | None = None,
    dev_dir: Path = Path("/dev"),
) -> Cluster:
    """This node, as a launch will use it.

    Raises:
        LaunchError: cards are asked for and none is usable; the visible list hides or cuts cards; torch_npu is missing.
    """
    nodes.check()
    if asked == "cpu":
        return _cluster("cpu", (), nodes, "--device cpu")
    found = discover.look(run or commands.runner(env), env, dev_dir)
    if not found.devices:
        if asked == "npu":
            problem = found.problem or LaunchError(
                "no NPU found on this node: npu-smi is not on PATH, and there is no /dev/davinci*"
            )
            raise LaunchError(
                problem.what, hint=problem.hint or "mount the cards into the container, or say --device cpu"
            )
        why = found.problem.what if found.problem else Message("no NPU found")
        return _cluster("cpu", (), nodes, Message("{why}; running on CPU over gloo", why=why))
    listed = env.get(VISIBLE)
    if listed == "" and asked == "auto":
        return _cluster(
            "cpu",
            (),
            nodes,
            Message("{visible} is empty, which hides every card; running on CPU over gloo", visible=VISIBLE),
        )
    visible = visibility.visible(listed, len(found.devices))
    if visible.problems:
        wanted = (
            Message("export {visible}={suggestion}", visible=VISIBLE, suggestion=visible.suggestion)
            if visible.suggestion
            else Message("unset {visible}", visible=VISIBLE)
        )
        raise LaunchError("; ".join(visible.problems), hint=wanted)
    if importlib.util.find_spec("torch_npu") is None:
        raise LaunchError(
            "this node has {num_devices} NPUs, but torch_npu is not installed in this environment",
            hint="pip install 'ascend-launch[npu]' after the CPU build of torch (`ascend-launch doctor "
            "--device npu` gives the lines), or say --device cpu",
            num_devices=len(found.devices),
        )
    devices = tuple(found.devices[i] for i in visible.indices)
    sick = [d for d in devices if not d.is_usable]
    if sick:
        keep = ",".join(str(i) for i in visible.indices if found.devices[i].is_usable)
        raise LaunchError(
            Message(
                "card {index} ({sick}) reports health {health}",
                index=sick[0].index,
                sick=sick[0].name,
                health=sick[0].health,
            ),
            hint=Message("leave it out with export {visible}={keep}, or have it reset", visible=VISIBLE, keep=keep)
            if keep
            else "have it reset",
        )
    names = sorted({d.name or "NPU" for d in devices})
    cluster = _cluster("npu", devices, nodes, f"{len(devices)} x {', '.join(names)} by {found.source}")
    return replace(cluster, node_devices=found.devices, driver_version=found.driver_version or None)


def assumed(nproc: int, nodes: Nodes, name: str = ASSUMED_CHIP, hbm_gib: int | None = None) -> Cluster:
    """Cards that need not be there, for `plan`, `render` and --dry-run.

    Raises:
        LaunchError: no such chip, one that does not train, or a name that several chips of different memory go by.
    """
    nodes.check()
    silicon, said = _named(name, hbm_gib)
    called = name if is_family(silicon) else silicon.short_name
    if not (hbm_gib or silicon.hbm_gib):
        raise LaunchError(
            "{name} comes with several sizes of memory", hint="say which: --hbm GB, as npu-smi shows it", name=name
        )
    hbm_bytes = (hbm_gib or silicon.hbm_gib) * GIB
    devices = tuple(Device(index=i, name=called, hbm_bytes=hbm_bytes, health="OK", physical_id=i) for i in range(nproc))
    source = Message(
        "{nproc} x {text}, {hbm_bytes} GB, assumed: nothing on this machine was asked",
        nproc=nproc,
        text=said,
        hbm_bytes=hbm_bytes // GIB,
    )
    return Cluster(
        "npu", devices, nodes.count, nodes.rank, nodes.endpoint, source=source, nodes_source=nodes.source, job=nodes.job
    )


def _named(name: str, hbm_gib: int | None) -> tuple[Chip, str]:
    """The chip that a user means by `name`, and the words for it."""
    if wide := series(name):
        chips = [c for c in wide.chips if hbm_gib is None or c.hbm_gib == hbm_gib]
        if wide.usual is not None and (hbm_gib is None or wide.usual in chips):
            return wide.usual, f"{wide.usual.short_name} ({wide.about})"
        if chips and len({(c.supports_bf16, c.hbm_gib) for c in chips}) == 1:
            return chips[-1], chips[-1].short_name
        known = ", ".join(map(described, wide.chips))
        raise LaunchError(Message("--chip {name} may be any of {known}", name=name, known=known), hint=wide.hint)
    silicon = chip(name)
    if silicon is None or not silicon.trainable:
        raise LaunchError(
            "{name!r} is no Ascend chip that trains",
            hint="one of {chip_names}",
            name=name,
            chip_names=", ".join(chip_names()),
        )
    return silicon, name if is_family(silicon) else silicon.short_name


def _cluster(device: Literal["npu", "cpu"], devices: tuple[Device, ...], nodes: Nodes, source: str) -> Cluster:
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(
        device,
        devices,
        nodes.count,
        nodes.rank,
        nodes.endpoint,
        host_bytes,
        source,
        nodes_source=nodes.source,
        job=nodes.job,
    )
