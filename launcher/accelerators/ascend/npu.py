"""Huawei's Ascend cards (NPUs): CANN below torch_npu, and HCCL between ranks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.accelerators.ascend import chips, discover
from launcher.accelerators.ascend import env as environment
from launcher.accelerators.ascend import visible as visibility
from launcher.accelerators.ascend.ports import Blocks
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.accelerators.base import Base
from launcher.accelerators.table import Cards, Ports
from launcher.accelerators.variables import Row, Variable
from launcher.checks import Check, Context
from launcher.errors import LaunchError
from launcher.machine import commands
from launcher.machine.cluster import Device, Found
from launcher.machine.commands import Runner
from launcher.machine.processes import Running
from launcher.messages import Message
from launcher.text import GIB

ASSUMED_CHIP = "910B3"


class Npu(Base):
    """One rank a card (a die, where a card has two)."""

    name = "npu"
    worker = "launcher.worker.accelerators.npu:Npu"
    torch_name = "npu"
    torch_extension = "torch_npu"
    packages = ("torch-npu",)
    backend = "hccl"
    accelerate_type = "MULTI_NPU"
    needs_cann = True
    gres = "npu"
    pads_to = 16  # kernels like whole multiples of it
    scaler_takes_fused = False  # torch_npu's scaler hands itself to fused optimizers, and torch's own does not take it
    network_variables = ("HCCL_SOCKET_IFNAME", "HCCL_IF_BASE_PORT")

    def find(
        self, env: Mapping[str, str], *, is_asked: bool, run: Runner | None = None, dev_dir: Path = Path("/dev")
    ) -> Cards:
        node = discover.look(run or commands.runner(env), env, dev_dir)
        if not node.devices:
            if is_asked:
                raise _absent(node)
            return Cards((), node.problem.what if node.problem else Message("no NPU found"))
        listed = env.get(VISIBLE)
        if listed == "" and not is_asked:
            return Cards((), Message("{visible} is empty, which hides every card", visible=VISIBLE))
        devices = _usable(node, listed)
        names = sorted({d.name or "NPU" for d in devices})
        source = f"{len(devices)} x {', '.join(names)} by {node.source}"
        return Cards(devices, source, node.devices, node.driver_version or None)

    def assume(self, nproc: int, chip: str | None, hbm_gib: int | None) -> Cards:
        """As for other accelerators; LaunchError also for a name that several chips of different memory go by."""
        name = chip or ASSUMED_CHIP
        silicon, label = _named(name, hbm_gib)
        called = name if chips.is_family(silicon) else silicon.short_name
        if not (hbm_gib or silicon.hbm_gib):
            raise LaunchError(
                "{name} comes with several sizes of memory", hint="say which: --hbm GB, as npu-smi shows it", name=name
            )
        hbm_bytes = (hbm_gib or silicon.hbm_gib) * GIB
        devices = tuple(
            Device(index=i, name=called, hbm_bytes=hbm_bytes, health="OK", physical_id=i) for i in range(nproc)
        )
        source = Message(
            "{nproc} x {text}, {hbm_bytes} GB, assumed: nothing on this machine was asked",
            nproc=nproc,
            text=label,
            hbm_bytes=hbm_bytes // GIB,
        )
        return Cards(devices, source)

    def checks(self) -> Sequence[Check]:
        from launcher.accelerators.ascend import checks

        return checks.QUICK

    def slow_checks(self) -> Sequence[Check]:
        from launcher.accelerators.ascend import checks

        return checks.SLOW

    def holders(self, ctx: Context) -> Sequence[Running]:
        from launcher.accelerators.ascend import checks_cards

        return [holder.process for holder in checks_cards.holders(ctx) if holder.process is not None]

    def fixed_ports(self, env: Mapping[str, str]) -> Sequence[int]:
        from launcher.accelerators.ascend import checks_hccl

        is_chosen = "HCCL_IF_BASE_PORT" in env and not env.get("HCCL_HOST_SOCKET_PORT_RANGE")
        return checks_hccl.block_of_ports(env) if is_chosen else ()

    def precision(self, asked: str, chip: str | None) -> tuple[str, str]:
        silicon = chips.chip(chip) if chip is not None else None
        has_bf16 = silicon is None or silicon.supports_bf16
        name = silicon.soc if silicon else Message("this chip")
        if asked == "auto":
            return (
                ("bf16", Message("{name} computes in bf16", name=name))
                if has_bf16
                else ("fp16", Message("{name} has no bf16; loss scaling is on", name=name))
            )
        if asked == "bf16" and not has_bf16:
            raise LaunchError(
                "{name} has no bf16", hint="use parallel.precision=auto, which takes fp16 with loss scaling", name=name
            )
        return asked, Message("as the recipe says")

    def variables(self, run_path: Path, user: Mapping[str, str], driver_version: str | None) -> list[Row]:
        return environment.of_ranks(run_path, user, driver_version)

    def program_variables(self, run_path: Path) -> list[Row]:
        return environment.of_program(run_path)

    def debug_variables(self) -> list[Row]:
        return list(environment.DEBUG)

    def rank_table_variables(self, rank_table: str | None) -> list[Variable]:
        return environment.with_rank_table(rank_table)

    def removed_variables(self, user: Mapping[str, str], rank_table: str | None) -> list[Variable]:
        return environment.removed(user, rank_table)

    def shared_settings(self, env: Mapping[str, str]) -> dict[str, str]:
        return environment.shared(env)

    def meeting_variables(self, env: Mapping[str, str], interface: str | None, base_port: int | None) -> dict[str, str]:
        return environment.meeting(env, interface, base_port)

    def ports(self, env: Mapping[str, str], job: str) -> Ports | None:
        return None if any(env.get(name) for name in environment.CHOSEN_PORTS) else Blocks(job)


def _absent(node: Found) -> LaunchError:
    problem = node.problem or LaunchError(
        "no NPU found on this node: npu-smi is not on PATH, and there is no /dev/davinci*"
    )
    return LaunchError(problem.what, hint=problem.hint or "mount the cards into the container, or say --device cpu")


def _usable(node: Found, listed: str | None) -> tuple[Device, ...]:
    """Raises LaunchError where the visible list hides or cuts cards, torch_npu is missing, or a card is sick."""
    visible = visibility.visible(listed, len(node.devices))
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
            num_devices=len(node.devices),
        )
    devices = tuple(node.devices[i] for i in visible.indices)
    sick = [d for d in devices if not d.is_usable]
    if sick:
        keep = ",".join(str(i) for i in visible.indices if node.devices[i].is_usable)
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
    return devices


def _named(name: str, hbm_gib: int | None) -> tuple[chips.Chip, str]:
    """The chip that a user means by `name`, and how it is named to them."""
    if wide := chips.series(name):
        candidates = [c for c in wide.chips if hbm_gib is None or c.hbm_gib == hbm_gib]
        if wide.usual is not None and (hbm_gib is None or wide.usual in candidates):
            return wide.usual, f"{wide.usual.short_name} ({wide.about})"
        if candidates and len({(c.supports_bf16, c.hbm_gib) for c in candidates}) == 1:
            return candidates[-1], candidates[-1].short_name
        known = ", ".join(map(chips.described, wide.chips))
        raise LaunchError(Message("--chip {name} may be any of {known}", name=name, known=known), hint=wide.hint)
    silicon = chips.chip(name)
    if silicon is None or not silicon.trainable:
        raise LaunchError(
            "{name!r} is not an Ascend chip that trains",
            hint="one of {chip_names}",
            name=name,
            chip_names=", ".join(chips.chip_names()),
        )
    return silicon, name if chips.is_family(silicon) else silicon.short_name


NPU = Npu()
