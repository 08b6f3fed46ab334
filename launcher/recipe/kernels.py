"""The kernels that a recipe may name: fused operators in place of parts of its model. Each is one file in
`launcher/worker/kernels/`, or an entry point of another package in the group `ascend_launch.kernels`."""

from __future__ import annotations

from typing import Any

from launcher.plugins import Table

INTERFACE = 1
TABLE: Table[Any] = Table(
    "kernel",
    "ascend_launch.kernels",
    INTERFACE,
    {"npu-rms-norm": "launcher.worker.kernels.npu_rms_norm:NPU_RMS_NORM"},
)
"""Things of it are `launcher.worker.kernels.registry.Kernel`, which only ranks load: they need torch."""
