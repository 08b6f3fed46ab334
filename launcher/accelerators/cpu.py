"""The CPU, where ranks meet over gloo: for trials, and for machines without cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.accelerators.base import Base
from launcher.accelerators.variables import Row
from launcher.errors import LaunchError
from launcher.messages import Message


class Cpu(Base):
    """Every rank computes on the cores, and shares the machine's memory with the others."""

    name = "cpu"
    worker = "launcher.worker.accelerators.cpu:Cpu"
    torch_name = "cpu"
    blocked_modules = ("torch_npu",)  # libraries import it wherever it is installed, which fails without CANN
    backend = "gloo"
    has_cards = False
    bucket_elements = 20_000_000  # the buffer is allocated whole on each rank, and ranks share one machine's memory
    survives_exit = True

    def precision(self, asked: str, chip: str | None) -> tuple[str, str]:
        if asked == "fp16":
            raise LaunchError("fp16 does not train on CPU", hint="use parallel.precision=bf16 or fp32")
        if asked == "auto":
            return "fp32", Message("CPU ranks: exact, and no slower there than bf16")
        return asked, Message("as the recipe says")

    def problems(self, training: Mapping[str, object], attention: str | None) -> Iterator[tuple[str, str]]:
        if training.get("use_liger_kernel"):
            yield "training.use_liger_kernel", Message("its kernels need cards")
        if training.get("optim") == "adamw_torch_npu_fused":
            yield "training.optim", Message("adamw_torch_npu_fused needs NPUs")
        if attention == "flash_attention_2":
            yield "model.attn_implementation", Message("flash_attention_2 needs cards; sdpa computes the same")

    def program_variables(self, run_path: Path) -> list[Row]:
        return [
            (
                "TORCH_DEVICE_BACKEND_AUTOLOAD",
                "0",
                "where torch_npu is installed without CANN, `import torch` itself fails",
            ),
        ]


CPU = Cpu()
