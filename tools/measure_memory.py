"""Predicted bytes per rank against what torch's allocator gave out, on CPU ranks. Writes the table of docs/memory.md.

Each case forks its ranks from one process that imported everything, and trains a small Llama for some optimizer steps
with transformers' Trainer: the same engine, precision, optimizer and DeepSpeed settings that a launch uses. Every
storage that an operator returns is followed until torch releases it (the profiler's own record misses what gloo's thread
releases). What is compared: bytes at rest after two
steps, and the highest point of the steps that follow.

    python tools/measure_memory.py                 # all cases, table on stdout
    python tools/measure_memory.py --write         # and into docs/memory.md
    python tools/measure_memory.py --only zero3    # cases whose name contains the text
    python tools/measure_memory.py --init 8        # ZeRO-3 initialisation of Llama-3-8B's geometry with 8 of its 32 blocks
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(
    OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", DS_ACCELERATOR="cpu", KINETO_LOG_LEVEL="5"
)

from launcher.models import geometry
from launcher.planning import choose, fit
from launcher.strategies import breakdown, peak
from launcher.strategies import table as strategies
from launcher.strategies.zero import document

NUM_STEPS = 4
DOC = Path(__file__).parents[1] / "docs" / "memory.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
}
WIDE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 2000,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
LARGE_VOCABULARY = {
    **TINY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
TINY_BERT = {**{k: v for k, v in TINY.items() if k != "num_key_value_heads"}, "model_type": "bert"}
SMALL_BERT = {**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}, "model_type": "bert"}
EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
TINY_MOE = {**TINY, **EXPERTS, "moe_intermediate_size": 96, "head_dim": 16}
SMALL_MOE = {**SMALL, **EXPERTS, "moe_intermediate_size": 352, "head_dim": 32}
MODELS: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "small": SMALL,
    "wide": WIDE,
    "SmolLM2-135M": SMOLLM2,
    "large vocabulary": LARGE_VOCABULARY,
    "tiny bert": TINY_BERT,
    "small bert": SMALL_BERT,
    "tiny qwen3_moe": TINY_MOE,
    "small qwen3_moe": SMALL_MOE,
    "tiny gemma3": {**TINY, "model_type": "gemma3_text", "head_dim": 16},
    "small gemma3": {**SMALL, "model_type": "gemma3_text", "head_dim": 32},
}


OTHER_KINDS = ("bert", "gemma3", "qwen3_moe")


@dataclass(frozen=True)
class Case:
    model: str
    strategy: str
    precision: str = "bf16"
    num_ranks: int = 2
    micro_batch: int = 4
    seq_len: int = 128
    checkpointing: bool = False
    task: str = "sequence-classification"
    accumulation: int = 1
    padded: bool = True
    packed: bool = False
    """Two rows in each sequence."""
    lora_r: int = 0
    attention: str = "sdpa"

    @property
    def name(self) -> str:
        parts = [
            self.model,
            self.strategy,
            self.precision,
            f"{self.num_ranks}r",
            f"b{self.micro_batch}",
            f"s{self.seq_len}",
        ]
        parts += (
            ["ckpt"] * self.checkpointing
            + ["lm"] * (self.task == "causal-lm")
            + ["sft"] * (self.task == "sft")
            + [f"lora{self.lora_r}"] * bool(self.lora_r)
        )
        parts += [f"acc{self.accumulation}"] * (self.accumulation > 1) + ["full"] * (
            not self.padded and self.task != "sft"
        )
        parts += ["packed"] * self.packed
        parts += [self.attention] * (self.attention != "sdpa")
        return " ".join(parts)


def cases() -> list[Case]:
    """Strategies by models, then one axis at a time."""
    out = [Case("small", s) for s in strategies.BUILT_IN]
    out += [Case("small", s, precision="fp32") for s in ("ddp", "zero2", "zero3", "fsdp2")]
    out += [Case("small", s, checkpointing=True) for s in ("ddp", "zero2", "zero3", "fsdp2")]
    out += [Case("wide", s, num_ranks=4, micro_batch=2) for s in ("ddp", "zero1", "zero2", "zero3", "fsdp2")]
    out += [Case("small", "zero2", micro_batch=m, seq_len=n) for m, n in ((1, 64), (8, 256), (2, 512))]
    out += [Case("small", "ddp", num_ranks=1, precision=p) for p in ("fp32", "bf16")]
    out += [Case("small", s, padded=False) for s in ("ddp", "zero3")]
    out += [Case("small", s, accumulation=2) for s in ("ddp", "zero2")]
    out += [Case("small", s, micro_batch=1, seq_len=64) for s in ("ddp", "zero1", "zero3", "fsdp2")]
    out += [Case("small", s, task="causal-lm") for s in ("ddp", "zero2", "zero3", "fsdp2")]
    out += _of_chosen_tokens()
    out += [Case("small", "zero2", attention="eager")]
    out += [Case("small", "ddp", lora_r=8), Case("small", "ddp", lora_r=8, checkpointing=True)]
    out += [Case("tiny", s) for s in ("ddp", "zero2", "zero3", "fsdp2")]
    out += [Case("SmolLM2-135M", s, micro_batch=2, seq_len=256) for s in ("ddp", "zero2")]
    out += [Case("SmolLM2-135M", "zero3", micro_batch=2, seq_len=256, checkpointing=True)]
    out += [Case(f"{size} {kind}", s) for kind in OTHER_KINDS for size in ("tiny", "small") for s in ("ddp", "zero2")]
    return out


def _of_chosen_tokens() -> list[Case]:
    """Task sft: plain, fp32, LoRA, checkpointing, packed; and a vocabulary at which logits are made in one chunk and in three."""
    of_each = ("ddp", "zero2", "zero3", "fsdp2")
    sft: dict[str, Any] = {"task": "sft", "padded": False}
    out = [Case("small", s, **sft) for s in of_each]
    out += [Case("small", s, **sft, precision="fp32") for s in of_each]
    out += [Case("small", s, **sft, lora_r=8) for s in of_each]
    out += [Case("small", s, **sft, checkpointing=True) for s in ("ddp", "zero3", "fsdp2")]
    out += [Case("small", s, task="sft", packed=True) for s in of_each]
    out += [Case("large vocabulary", s, **sft, micro_batch=2) for s in ("ddp", "zero3", "fsdp2")]
    large: dict[str, Any] = {**sft, "seq_len": 256}
    out += [Case("large vocabulary", s, **large) for s in of_each]
    out += [Case("large vocabulary", s, **large, precision="fp32") for s in ("ddp", "zero3", "fsdp2")]
    return out


def predict(case: Case) -> breakdown.Breakdown:
    return peak.estimate(
        {"model_type": "llama", "max_position_embeddings": 4096, **MODELS[case.model]},
        has_head=case.task == "sequence-classification",
        in_chunks=case.task == "sft",
        num_labels=5,
        strategy=case.strategy,
        precision=case.precision,
        world_size=case.num_ranks,
        micro_batch=case.micro_batch,
        seq_len=case.seq_len,
        gradient_checkpointing=case.checkpointing,
        attention=case.attention,
        accumulation=case.accumulation,
        padded=case.padded,
        lora=geometry.Lora(r=case.lora_r) if case.lora_r else None,
        device="cpu",
    )


# --- one rank ------------------------------------------------------------------------------------------------------


def run_rank(rank: int, case: Case, port: int, out: Path, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(case.num_ranks),
        MASTER_ADDR="127.0.0.1",
        LOCAL_WORLD_SIZE=str(case.num_ranks),
        MASTER_PORT=str(port),
    )
    if case.num_ranks == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name)
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    live = storage_tracker()
    found: dict[str, int] = {}
    with live:
        arguments, stage = _arguments(case, folder)
        args = TrainingArguments(**arguments)
        model = _model(case, stage)

        class Marks(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 2:
                    gc.collect()
                    found["rest"] = live.peak = live.now

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == NUM_STEPS:
                    found["peak"] = live.peak

        class Measured(Trainer):
            def compute_loss(
                self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
            ) -> Any:
                loss = _loss(case, model, inputs)
                found["at_loss"], found["peak_forward"] = live.now, live.peak
                return loss

        if case.strategy == "fsdp2":
            from accelerate.state import DistributedType, PartialState

            # accelerate takes its FSDP path only in a world of cards; see worker/device.py.
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU
        trainer = Measured(model=model, args=args, train_dataset=_rows(case), callbacks=[Marks()])
        trainer.accelerator.ddp_handler.gradient_as_bucket_view = True  # as worker/trainer.py has it
        trainer.train()
    if rank == 0:
        out.write_text(json.dumps(found | _state_bytes(case, trainer)))
    sys.stdout.flush()
    os._exit(0)


def storage_tracker() -> Any:
    """A dispatch mode with `now` and `peak`: bytes of all CPU storages that are alive."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Live(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: dict[int, int] = {}
            self.now = self.peak = 0

        def note(self, storage: Any) -> None:
            key, size = storage._cdata, storage.nbytes()
            if key not in self.sizes:
                self.sizes[key] = 0
                weakref.finalize(storage, self.drop, key)
            self.now += size - self.sizes[key]
            self.sizes[key] = size
            self.peak = max(self.peak, self.now)

        def drop(self, key: int) -> None:
            self.now -= self.sizes.pop(key, 0)

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                t = getattr(leaf, "_local_tensor", leaf)  # a DTensor's own storage is not real
                if isinstance(t, torch.Tensor) and t.device.type == "cpu":
                    self.note(t.untyped_storage())
            return out

    live = Live()
    resize = torch.UntypedStorage.resize_

    def resized(storage: Any, size: int) -> Any:  # FSDP2 frees and makes its whole parameters this way
        result = resize(storage, size)
        if storage._cdata in live.sizes:
            live.note(storage)
        return result

    torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign]
    return live


def _arguments(case: Case, folder: Path) -> tuple[dict[str, Any], int | None]:
    how = strategies.load(case.strategy)
    stage = how.zero_stage
    out: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": case.micro_batch,
        "max_steps": NUM_STEPS,
        "report_to": "none",
        "gradient_accumulation_steps": case.accumulation,
        "bf16": case.precision == "bf16",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1000,
        "remove_unused_columns": False,
        "gradient_checkpointing": case.checkpointing,
        "label_names": ["labels"],
        "dataloader_pin_memory": False,
    }
    if stage:
        path = folder / f"ds-{os.getpid()}.json"
        hidden = MODELS[case.model]["hidden_size"]
        path.write_text(json.dumps(document(stage, "cpu", int(hidden), offload=how.offloads_optimizer)))
        return out | {"deepspeed": str(path)}, stage
    if case.strategy == "fsdp2":
        out |= {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": True,
                "state_dict_type": "FULL_STATE_DICT",
            },
        }
    return out | ({"ddp_backend": "gloo"} if case.num_ranks > 1 else {}), None


def _model(case: Case, stage: int | None) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    values = {"model_type": "llama", "max_position_embeddings": 4096, **MODELS[case.model]}
    config = AutoConfig.for_model(**values, pad_token_id=0, num_labels=5, use_cache=False)
    config._attn_implementation = case.attention
    is_low = (stage is not None or case.lora_r) and case.precision == "bf16"
    dtype = torch.bfloat16 if is_low else torch.float32
    auto = AutoModelForCausalLM if case.task != "sequence-classification" else AutoModelForSequenceClassification
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=dtype, attn_implementation=case.attention)
    if not case.lora_r:
        return model
    import peft

    if case.checkpointing:
        model.enable_input_require_grads()
    kind = "CAUSAL_LM" if case.task != "sequence-classification" else "SEQ_CLS"
    return peft.get_peft_model(
        model,
        peft.LoraConfig(r=case.lora_r, target_modules="all-linear", task_type=kind),
        autocast_adapter_dtype=not strategies.load(
            case.strategy
        ).computes_in_weights,  # as worker/models/adapter.py has it
    )


def _rows(case: Case) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    vocab = int(MODELS[case.model]["vocab_size"])
    rows = []
    for index in range(case.num_ranks * case.micro_batch * case.accumulation * 4):
        ids = torch.randint(1, vocab, (case.seq_len,), generator=generator)
        mask = torch.ones(case.seq_len, dtype=torch.long)
        if case.padded:
            mask[-3:] = 0
        labels = torch.tensor(index % 5) if case.task == "sequence-classification" else ids.clone()
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return rows


def _loss(case: Case, model: Any, inputs: Any) -> Any:
    """As worker/model.py computes it, with every position of a causal-LM row scored."""
    import torch

    if case.task == "sft":
        return _chosen_loss(case, model, inputs["input_ids"])
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    if case.task != "causal-lm":
        return torch.nn.functional.cross_entropy(logits.float(), inputs["labels"])
    here, targets = logits[:, :-1].float(), inputs["labels"][:, 1:]
    del logits
    return torch.nn.functional.cross_entropy(here.transpose(1, 2), targets, reduction="none").mean()


def _chosen_loss(case: Case, model: Any, ids: Any) -> Any:
    """As task sft computes it, with every token trained."""
    import torch

    from launcher.worker.tasks.projection import Projection

    whole = getattr(model, "module", model)
    length = case.seq_len // 2 if case.packed else case.seq_len
    places = torch.arange(case.seq_len) % length
    positions = torch.arange(ids.numel()).view_as(ids)[:, places != length - 1].flatten()
    options = {"position_ids": places.expand_as(ids)} if case.packed else {}

    def call() -> Any:
        return model(input_ids=ids, use_cache=False, **options)

    if not hasattr(whole, "projection_of_the_case"):
        projection = Projection(whole.get_output_embeddings())
        object.__setattr__(whole, "projection_of_the_case", projection)
        _look_first(case, model, projection, call, positions)
    projection = whole.projection_of_the_case
    return projection.loss(call, positions, ids.flatten()[positions + 1]) / ids.numel()


def _look_first(case: Case, model: Any, projection: Any, call: Callable[[], Any], positions: Any) -> None:
    """As a launch does it before the first step."""
    from launcher.worker.engines.zero import forget_passes_before_training

    if strategies.load(case.strategy).shards_parameters and hasattr(model, "optimizer"):
        forget_passes_before_training(model)
    model.eval()
    projection.is_last_word(call, positions)
    model.train()


def _state_bytes(case: Case, trainer: Any) -> dict[str, int]:
    """Bytes of weights and optimizer state that this rank holds, counted tensor by tensor."""

    def local(t: Any) -> Any:
        return t.to_local() if hasattr(t, "to_local") else t

    seen: dict[int, int] = {}
    for p in trainer.model.parameters():
        held = [getattr(p, "ds_tensor", None)] if hasattr(p, "ds_tensor") else [local(p.data)]
        for t in held:
            if t is not None:
                seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
    optimizer = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    inner = getattr(optimizer, "optimizer", optimizer)
    moments: dict[int, int] = {}
    for p, state in inner.state.items():
        tensors = list(state.values())
        if case.strategy.startswith("zero"):
            tensors.append(p.data)  # the fp32 master copy
        for t in tensors:
            if hasattr(t, "numel") and local(t).numel() > 1:
                storage = local(t).untyped_storage()
                moments[storage.data_ptr()] = storage.nbytes()
    return {"weights": sum(seen.values()), "optimizer": sum(moments.values())}


# --- all cases -----------------------------------------------------------------------------------------------------


def measure(case: Case) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        _fork(case.num_ranks, Path(folder), lambda rank, port: run_rank(rank, case, port, out, Path(folder)))
        return json.loads(out.read_text())


def _fork(num_ranks: int, folder: Path, run: Callable[[int, int], None]) -> None:
    """Run `run(rank, port)` in forked children, and end where one fails."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pids = []
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            log = os.open(str(folder / f"rank_{rank}.log"), os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                run(rank, port)
            finally:
                import traceback

                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    if any([os.waitpid(pid, 0)[1] != 0 for pid in pids]):  # noqa: C419 (every child must be waited for)
        raise SystemExit("a rank failed\n" + (folder / "rank_0.log").read_text()[-3000:])


def row(case: Case, found: dict[str, int], said: breakdown.Breakdown) -> tuple[str, float, bool]:
    error = said.total_bytes / found["peak"] - 1
    exact = (said.weights, said.optimizer) == (found["weights"], found["optimizer"])
    cells = [
        case.name,
        f"{found['weights']:,}",
        f"{found['optimizer']:,}",
        "yes" if exact else "**no**",
        f"{found['rest'] / 1e6:.2f}",
        f"{found['peak'] / 1e6:.2f}",
        f"{said.total_bytes / 1e6:.2f}",
        f"{error:+.1%}",
    ]
    return "| " + " | ".join(cells) + " |", error, exact


HEAD = (
    "| case | weights (bytes) | optimizer (bytes) | both predicted exactly | at rest (MB) | peak (MB) | predicted (MB) | error |\n"
    "|---|---:|---:|---|---:|---:|---:|---:|"
)


LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
PLAN_BEGIN, PLAN_END = "<!-- plan: begin -->", "<!-- plan: end -->"


def plan_table() -> str:
    """Llama-3-8B on 1 to 16 cards of 32 and 64 GB."""
    out = [
        "| cards | " + " | ".join(strategies.PREFERENCE) + " | auto on 32 GB | auto on 64 GB |",
        "|---:|" + "---:|" * 6 + "---|---|",
    ]
    for num_cards in (1, 2, 4, 8, 16):
        job: dict[str, Any] = {"num_labels": 5, "seq_len": 512}
        rows = {r.strategy: r for r in fit.table(LLAMA3_8B, hbm_bytes=64 << 30, world_size=num_cards, **job)}
        cells = []
        for strategy in strategies.PREFERENCE:
            if strategy not in rows:
                cells.append("")
                continue
            size = rows[strategy].breakdown.total_bytes
            fits = [f"{g}" for g in (32, 64) if size <= fit.usable_bytes(g << 30)]
            cells.append(f"**{size / 2**30:.1f}** ({' and '.join(fits)})" if fits else f"{size / 2**30:.1f}")
        for gib in (32, 64):
            choice = choose.choose_strategy(
                LLAMA3_8B, hbm_bytes=gib << 30, world_size=num_cards, per_rank_batch=8, **job
            )
            cells.append(f"{choice.strategy}, micro batch {choice.micro_batch}")
        out.append(f"| {num_cards} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def put(begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of docs/memory.md."""
    before, _, rest = DOC.read_text().partition(begin)
    DOC.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


# --- ZeRO-3 initialisation of the real geometry --------------------------------------------------------------------


def init_rank(rank: int, num_layers: int, num_ranks: int, port: int, out: Path, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        LOCAL_WORLD_SIZE=str(num_ranks),
        MASTER_PORT=str(port),
    )
    import resource

    import torch
    from transformers import AutoModelForSequenceClassification, LlamaConfig, TrainingArguments
    from transformers.initialization import no_init_weights

    torch.set_num_threads(1)
    config = dict(LLAMA3_8B, num_hidden_layers=num_layers)
    config.pop("model_type")
    path = folder / f"ds-{rank}.json"
    path.write_text(json.dumps(document(3, "cpu", 4096)))
    live = storage_tracker()
    with live:
        args = TrainingArguments(output_dir=str(folder), bf16=True, use_cpu=True, report_to="none", deepspeed=str(path))
        live.peak = live.now
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with no_init_weights():  # the values do not matter, and a billion random numbers take minutes
            model = AutoModelForSequenceClassification.from_config(
                LlamaConfig(**config, num_labels=5, pad_token_id=0), dtype=torch.bfloat16
            )
    held = sum(p.ds_tensor.numel() * 2 for p in model.parameters())
    total = sum(p.ds_numel for p in model.parameters())
    whole_now = sum(p.data.numel() * 2 for p in model.parameters())
    del args
    out.with_suffix(f".{rank}").write_text(
        json.dumps(
            {
                "parameters": total,
                "whole_bytes": 2 * total,
                "shard_bytes": held,
                "peak_bytes": live.peak,
                "whole_parameters_bytes": whole_now,
                "rss_growth_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
            }
        )
    )
    torch.distributed.barrier()
    os._exit(0)


def measure_init(num_layers: int, num_ranks: int) -> list[dict[str, int]]:
    """What each rank held at most while the model was made."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "init.json"
        _fork(
            num_ranks, Path(folder), lambda rank, port: init_rank(rank, num_layers, num_ranks, port, out, Path(folder))
        )
        return [json.loads(out.with_suffix(f".{rank}").read_text()) for rank in range(num_ranks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true", help="put the table into docs/memory.md")
    parser.add_argument("--parts", action="store_true", help="show each prediction's parts")
    parser.add_argument(
        "--plan", action="store_true", help="only the table of Llama-3-8B; with --write into docs/memory.md"
    )
    parser.add_argument(
        "--init", type=int, default=0, metavar="BLOCKS", help="ZeRO-3 initialisation of Llama-3-8B's geometry"
    )
    parser.add_argument("--ranks", type=int, default=4, help="ranks of --init")
    options = parser.parse_args()
    if options.plan:
        print(plan_table())
        if options.write:
            put(PLAN_BEGIN, PLAN_END, plan_table())
        return
    import accelerate  # noqa: F401
    import deepspeed
    import torch
    import transformers

    _ = transformers.Trainer, transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification
    if options.init:
        for rank, held in enumerate(measure_init(options.init, options.ranks)):
            print(f"rank {rank}: " + ", ".join(f"{k} {v:,}" for k, v in held.items()))
        return
    rows, errors, num_exact = [], [], 0
    print(HEAD, flush=True)
    for case in cases():
        if options.only not in case.name:
            continue
        found, said = measure(case), predict(case)
        text, error, exact = row(case, found, said)
        print(text, flush=True)
        if options.parts:
            print("   ", found, said.phase, {k: f"{v:,}" for k, v in said.parts().items()})
        rows.append(text)
        errors.append(error)
        num_exact += exact
        worst = max(errors, key=abs)
        within = sum(abs(e) <= 0.05 for e in errors)
        summary = (
            f"{len(rows)} cases: model state exact in {num_exact}, peak within 5 % in {within}, worst {worst:+.1%}."
        )
        made = f"torch {torch.__version__}, transformers {transformers.__version__}, deepspeed {deepspeed.__version__}"
        if options.write:
            put(BEGIN, END, f"{summary} ({made}, CPU ranks over gloo.)\n\n{HEAD}\n" + "\n".join(rows))
    print(summary if rows else "no such case")


if __name__ == "__main__":
    main()
