"""How fast each rank works and what memory it holds: measured on every rank, gathered when a line is logged."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.rundir import records
from launcher.worker.accelerators import table

if TYPE_CHECKING:
    from launcher.worker.runtime.events import Events
    from launcher.worker.runtime.peers import Peers


class Meter:
    """This rank's counts since they were last taken. On a card, passes are timed by events on its stream."""

    def __init__(self, device: torch.device) -> None:
        self._module = table.module_of(device)
        self._process = psutil.Process()
        self._zero()

    def _zero(self) -> None:
        self.steps = self.rows = self.tokens = 0
        self.step_s = self.data_s = self._forward_s = 0.0
        self._passes: list[tuple[Any, Any]] = []

    def count(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """One micro batch, before it goes to the device: its rows, and its tokens without the padding."""
        self.rows += len(inputs["attention_mask"])
        self.tokens += int(inputs["attention_mask"].sum())

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Time one forward pass. No rank waits for another in it, but under ZeRO-3 and FSDP2, which gather weights."""
        if self._module is None:
            start = time.perf_counter()
            yield
            self._forward_s += time.perf_counter() - start
            return
        events = self._module.Event(enable_timing=True), self._module.Event(enable_timing=True)
        events[0].record()
        yield
        events[1].record()
        self._passes.append(events)

    def take(self) -> dict[str, float]:
        """The counts, the seconds and the memory; counting begins anew."""
        if self._module is not None:
            self._module.synchronize()
        forward_s = self._forward_s + sum(start.elapsed_time(end) for start, end in self._passes) / 1e3
        figures = {
            "steps": self.steps,
            "rows": self.rows,
            "tokens": self.tokens,
            "step_s": self.step_s,
            "data_s": self.data_s,
            "forward_s": forward_s,
            "host_bytes": self._process.memory_info().rss,
            "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if self._module is not None:
            figures["device_bytes"] = self._module.memory_reserved()
            figures["device_peak_bytes"] = self._module.max_memory_allocated()
        self._zero()
        return figures


class Rates(TrainerCallback):
    """The event `rates`, whenever a line is logged: one small gather over the host's network, and nothing a step but
    four looks at a clock.

    Fields: step; steps since the last such event; seconds they took, without evaluating and saving; rows and tokens of
    all ranks; and lists with an entry for each rank: data_s (waiting for rows), forward_s, host_bytes, host_peak_bytes,
    and on cards device_bytes (reserved) and device_peak_bytes (allocated at most).
    """

    def __init__(self, meter: Meter, peers: Peers, events: Events) -> None:
        self._meter = meter
        self._peers = peers
        self._events = events
        self._mark = time.perf_counter()
        """When this rank was last done with anything that is not part of a step."""

    # fmt: off
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._mark = time.perf_counter()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._meter.data_s += time.perf_counter() - self._mark

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.perf_counter()
        self._meter.step_s += now - self._mark
        self._meter.steps += 1
        self._mark = now

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" in logs:
            self._gather(state.global_step)
        self._mark = time.perf_counter()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._gather(state.global_step)
        self._mark = time.perf_counter()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._mark = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._mark = time.perf_counter()
    # fmt: on

    def _gather(self, step: int) -> None:
        if not self._meter.steps:  # all ranks count the same steps
            return
        mine = self._meter.take()
        gathered = self._peers.gather_numbers(list(mine.values()))
        by_name = dict(zip(mine, map(list, zip(*gathered, strict=True)), strict=True))
        sizes = {k: [int(v) for v in column] for k, column in by_name.items() if k.endswith("_bytes")}
        self._events.emit(
            records.Rates(
                step=step,
                steps=int(mine["steps"]),
                seconds=round(max(by_name["step_s"]), 4),
                rows=int(sum(by_name["rows"])),
                tokens=int(sum(by_name["tokens"])),
                data_s=[round(v, 4) for v in by_name["data_s"]],
                forward_s=[round(v, 4) for v in by_name["forward_s"]],
                host_bytes=sizes["host_bytes"],
                host_peak_bytes=sizes["host_peak_bytes"],
                device_bytes=sizes.get("device_bytes"),
                device_peak_bytes=sizes.get("device_peak_bytes"),
            )
        )
