"""What ranks on Ascend cards get in their environment, and what they must not have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from launcher import versions
from launcher.accelerators.variables import Row, Variable
from launcher.messages import Message

RANK_TABLE = "RANK_TABLE_FILE"


CHOSEN_PORTS = ("HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE")
"""Where the user has set one of these, no block of ports is agreed on."""
DEBUG: tuple[Row, ...] = (
    ("ASCEND_LAUNCH_BLOCKING", "1", "debug: each operator ends before the next, so the traceback names the real one"),
    ("TASK_QUEUE_ENABLE", "0", "debug: no queue between Python and the card"),
    ("ASCEND_GLOBAL_LOG_LEVEL", "1", "debug: CANN logs at INFO"),
)


def of_program(run_path: Path) -> list[Row]:
    """What lets ranks be forked and explained."""
    return [
        (
            "ASCEND_PROCESS_LOG_PATH",
            str(run_path / "plog"),
            "CANN's logs lie beside this run's, where `explain` reads them",
        ),
        ("PYTORCH_HAL_BASED_NPU_CHECK", "1", "torch.npu.is_available() then opens no device, so ranks can be forked"),
    ]


def of_ranks(run_path: Path, user: Mapping[str, str], driver_version: str | None) -> list[Row]:
    """For a recipe's training, evaluation or prediction."""
    rows = [
        (
            "HCCL_CONNECT_TIMEOUT",
            "1200",
            "seconds for ranks to meet; the default 120 is less than loading an 8B model takes",
        ),
        ("HCCL_EXEC_TIMEOUT", "3600", "seconds for one collective; more than the connect timeout, as HCCL wants it"),
        *of_program(run_path),
    ]
    if "PYTORCH_ALLOC_CONF" not in user:  # torch_npu raises when both are set
        rows.append(_allocator(driver_version))
    return rows


def with_rank_table(rank_table: str | None) -> list[Variable]:
    if rank_table is None:
        return []
    return [Variable(RANK_TABLE, rank_table, "--rank-table: HCCL reads it instead of asking rank 0")]


def removed(user: Mapping[str, str], rank_table: str | None) -> list[Variable]:
    """The one exception to "your own value stays": HCCL takes a rank table of another job, or of this one before a card was
    exchanged, without a question until ranks hang."""
    inherited = user.get(RANK_TABLE)
    if not inherited or inherited == rank_table:
        return []
    return [Variable(RANK_TABLE, inherited, "inherited, and ranks need none; --rank-table FILE asks for one")]


EXPANDABLE_SINCE = "24.1.rc3"
"""The driver (HDK) from which on expandable segments are taken. Huawei's documentation of PYTORCH_NPU_ALLOC_CONF asks for HDK
23.0.0, calls them experimental until CANN 8.0.RC3, and has limits that end with HDK 24.1.RC3; on older ones a job can end
in copy_d2d with 507001 (vllm-ascend issue 116)."""


def _allocator(driver: str | None) -> Row:
    name = "PYTORCH_NPU_ALLOC_CONF"
    if driver and versions.of(driver) < versions.of(EXPANDABLE_SINCE):
        reason = Message(
            "driver {driver} is older than {expandable_since}, where expandable segments can end a job with 507001",
            driver=driver,
            expandable_since=EXPANDABLE_SINCE,
        )
        return name, "expandable_segments:False", Message("{reason}; your own value stands", reason=reason)
    return (
        name,
        "expandable_segments:True",
        Message("less fragmentation: batches differ in length; should a job end with 507001, export it as False"),
    )


SETTINGS = re.compile(r"^(HCCL_|TORCH_HCCL_|PYTORCH_(NPU_)?ALLOC_CONF$|TASK_QUEUE_ENABLE$|ASCEND_LAUNCH_BLOCKING$)")
MAY_DIFFER = frozenset({"HCCL_IF_IP", "HCCL_SOCKET_IFNAME", "HCCL_LOGIC_SUPERPOD_ID", "HCCL_WHITELIST_FILE"})
"""HCCL wants its variables equal on all ranks (EI0005), but for those that say where a node is."""


def shared(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that HCCL and torch_npu want equal everywhere."""
    return {n: v for n, v in sorted(env.items()) if SETTINGS.match(n) and n not in MAY_DIFFER}


def meeting(env: Mapping[str, str], interface: str | None, base_port: int | None) -> dict[str, str]:
    """HCCL's interface and ports. What the user has set stays."""
    out = {}
    if interface is not None and not {"HCCL_SOCKET_IFNAME", "HCCL_IF_IP"} & env.keys():
        # HCCL otherwise takes the first by name; `=` asks for this one, and not for all that begin so.
        out["HCCL_SOCKET_IFNAME"] = f"={interface}"
    if base_port is not None:
        out["HCCL_IF_BASE_PORT"] = str(base_port)
    return out
