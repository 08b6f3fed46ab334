"""The cards of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from launcher.accelerators.ascend.npu_smi import parse_info
from launcher.accelerators.ascend.npu_tools import parse_mapping, with_mapping
from launcher.errors import LaunchError
from launcher.machine.cluster import Device, Found
from launcher.machine.commands import RC_MISSING, RC_TIMEOUT, Runner, runner
from launcher.messages import Message

_DEV = Path("/dev")


def device_nodes(dev_dir: Path = _DEV) -> tuple[int, ...]:
    """Physical ids with a /dev/davinciN, in order. davinci_manager and the like are not devices."""
    try:
        names = [p.name for p in dev_dir.iterdir()]
    except OSError:
        return ()
    return tuple(sorted(int(m.group(1)) for n in names if (m := re.fullmatch(r"davinci(\d{1,4})", n))))


def look(run: Runner | None, env: Mapping[str, str], dev_dir: Path = _DEV) -> Found:
    """The NPUs of this node, from npu-smi, else from /dev. Never raises; what went wrong is in `problem`."""
    run = run or runner(env)
    nodes = device_nodes(dev_dir)
    rc, text = run(["npu-smi", "info"])
    bare = tuple(Device(index=i, name="", physical_id=n) for i, n in enumerate(nodes))
    if rc == RC_MISSING:
        missing = LaunchError("npu-smi is not on PATH", hint="mount /usr/local/bin/npu-smi, or add it to PATH")
        source = Message(
            "{num_nodes} device nodes in {dev_dir}; npu-smi is not installed", num_nodes=len(nodes), dev_dir=dev_dir
        )
        return Found(bare, source=source, problem=missing if nodes else None)
    if rc == RC_TIMEOUT:
        hung = LaunchError("npu-smi info did not answer in time", hint="a card may hang: see `dmesg`, then reset it")
        return Found(
            bare,
            source=Message(
                "{num_nodes} device nodes in {dev_dir}; npu-smi did not answer", num_nodes=len(nodes), dev_dir=dev_dir
            ),
            problem=hung,
        )
    try:
        info = parse_info(text)
    except LaunchError as error:
        return Found(
            bare,
            source=Message(
                "{num_nodes} device nodes in {dev_dir}; npu-smi failed", num_nodes=len(nodes), dev_dir=dev_dir
            ),
            problem=error,
        )
    devices = info.devices
    if any((d.npu_id, d.chip_id) != (d.index, 0) for d in devices):  # more than one die, or gaps: ask for the numbering
        map_rc, map_text = run(["npu-smi", "info", "-m"])
        devices = with_mapping(devices, parse_mapping(map_text)) if map_rc == 0 else devices
    return Found(
        devices,
        info.driver_version,
        Message("npu-smi info (driver {driver_version})", driver_version=info.driver_version),
        info.has_process_table,
    )


def find(run: Runner | None, env: Mapping[str, str], dev_dir: Path = _DEV) -> tuple[Device, ...]:
    """All NPUs of this node in logical order; () where there are none. Raises LaunchError where there are some and
    the driver cannot be asked. ASCEND_RT_VISIBLE_DEVICES is not applied here: see `visible`."""
    node = look(run, env, dev_dir)
    if not node.devices and node.problem is not None and node.problem.what.startswith("npu-smi cannot reach"):
        raise node.problem
    return node.devices
