"""A LLaMA-Factory YAML of version 1 (`USE_V1=1`), key by key. What it assumes is in its src/llamafactory/v1/config."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import yamlfile
from launcher.recipe.importers.llamafactory_v0 import Import

_KEPT_OUT = {
    "model_class": "the model writes",
    "kernel_config": "fused operators, which change the last digits; model.kernels names those of a recipe",
    "init_config": "weights are loaded once and shared",
    "sample_backend": "nothing is sampled in a run",
    "max_new_tokens": "nothing is sampled in a run",
    "trust_remote_code": "code out of a model's folder is never run",
    "batching_workers": "rows are prepared once, before ranks start",
    "dp_size": "the number of ranks says it",
    "mp_shard_size": "the strategy says it",
    "cp_mode": "it has no effect without cp_size",
    "save_ckpt_as_hf": "the final model is a folder of Hugging Face's; checkpoints are exported by `ascend-launch export`",
}
_ATTENTION = ("eager", "sdpa", "flash_attention_2")
_LORA = {
    "lora_dropout": ("lora_dropout", 0.05),
    "use_rslora": ("use_rslora", None),
    "use_dora": ("use_dora", None),
    "modules_to_save": ("modules_to_save", None),
}
_LORA_KEYS = frozenset({"name", "r", "lora_alpha", "target_modules", *_LORA})
_MOVED = {
    "max_steps": "max_steps",
    "save_steps": "save_steps",
    "save_total_limit": "save_total_limit",
    "seed": "seed",
    "full_determinism": "full_determinism",
    "dist_timeout": "ddp_timeout",
}
"""TrainingArguments that have the same meaning, and the launcher's default where the file names none."""
_DEFAULTS = {"learning_rate": 1e-4, "num_train_epochs": 3, "max_grad_norm": 1.0, "logging_steps": 1}
_FSDP2 = "fsdp2"
"""By LLaMA-Factory's name, and by a recipe's."""
_PACKED = ("dynamic_batching", "dynamic_padding_free")
_FORMATS = {"alpaca": "alpaca", "sharegpt": "sharegpt", "openai": "messages"}
_SET = frozenset({"path", "source", "converter", "size", "weight", "split"})


class ImportV1(Import):
    """One import of a file of version 1."""

    command: ClassVar[str] = "env USE_V1=1 llamafactory-cli sft"

    def _refuse(self) -> None:
        kind = self._part("peft_config").get("name", "lora")
        odd = {
            "model_class": self.given.get("model_class", "llm") != "llm",
            "peft_config": kind != "lora" or bool(self._part("peft_config").get("adapter_name_or_path")),
            "quant_config": bool(self.given.get("quant_config")),
            "optim_config": bool(self.given.get("optim_config")),
            "lr_scheduler_config": bool(self.given.get("lr_scheduler_config")),
            "cp_size": (self.given.get("cp_size") or 1) != 1,
            "resume_from_checkpoint": bool(self.given.get("resume_from_checkpoint")),
        }
        for key, is_odd in odd.items():
            if is_odd:
                what = Message("{key}: {value!r} has no counterpart", key=key, value=self.given[key])
                raise self._fail(key, what, self._unchanged())
        self.done |= {"quant_config", "optim_config", "lr_scheduler_config", "cp_size", "resume_from_checkpoint"}

    def _part(self, key: str) -> dict[str, Any]:
        """A mapping of the file; {} where it is null or left out."""
        value = self.given.get(key) or {}
        if not isinstance(value, dict):
            raise self._fail(
                key, Message("{key}: expected a mapping with a name, got {value!r}", key=key, value=value), _CORRECT
            )
        return value

    def _model(self) -> None:
        self._move("model", "model.name")
        self.out.put("model.task", self.task, "")
        attention = str(self._take("flash_attn", "sdpa"))
        if attention not in _ATTENTION:
            what = Message("flash_attn: {value!r} is none of {known}", value=attention, known=", ".join(_ATTENTION))
            raise self._fail("flash_attn", what, _CORRECT)
        self.out.put("model.attn_implementation", attention, self._origin("flash_attn") or "its default")
        if self._take("custom_chat_template") is not None:
            raise self._fail(
                "custom_chat_template",
                Message("a template is written in the file itself"),
                Message("put it into a file, remove that line, and name the file as data.chat_template in the recipe"),
            )

    def _conversations(self) -> None:
        train = self._sets_of("train_dataset")
        held = self._sets_of("eval_dataset")
        origin = self._origin("train_dataset")
        if len(train) == 1:
            self._only_set(next(iter(train.values())), origin)
        else:
            self.out.put("data.sets", list(train.values()), origin)
        self.out.put("data.eval", self._named(held) or None, self._origin("eval_dataset") or "it names none")
        strategy = str(self._take("batching_strategy", "normal"))
        if strategy in _PACKED:
            self.out.put("data.packing", True, self._origin("batching_strategy"))
            self._leave("batching_strategy", "which rows meet in a step: rows are packed by their lengths here")
        elif strategy == "padding_free":
            self._leave(
                "batching_strategy", "padding changes nothing that is learned; data.packing=true avoids most of it"
            )
        elif strategy != "normal":
            what = Message("batching_strategy: {value!r} has no counterpart", value=strategy)
            raise self._fail("batching_strategy", what, self._unchanged())
        self.out.put("data.max_length", self._take("cutoff_len", 2048), self._origin("cutoff_len") or "its default")

    def _sets_of(self, key: str) -> dict[str, dict[str, Any]]:
        """The sets of a key: a path, an id of the hub, or a YAML that names several."""
        named = self._take(key)
        if named is None:
            return {}
        file = next((p for p in (Path(str(named)), self.path.parent / str(named)) if p.is_file()), None)
        if file is None or file.suffix != ".yaml":
            if str(named).endswith(".yaml"):
                raise self._fail(key, Message("{named}: no such file", named=named), Message("put it there"))
            return {Path(str(named)).stem: {"path": str(file or named)}}
        document = yamlfile.load(file, "data sets")
        if not isinstance(document.value, dict) or not all(isinstance(v, dict) for v in document.value.values()):
            raise LaunchError("{file}: is not a mapping of data sets' names", hint="correct that file", file=file)
        return {str(name): self._one(key, str(name), entry) for name, entry in document.value.items()}

    def _one(self, key: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        converter = entry.get("converter")
        odd = sorted(entry.keys() - _SET)
        if entry.get("weight", 1) != 1:
            odd = ["weight"]  # draws rows again and again, where a recipe's weight takes none twice
        if "path" not in entry or odd or converter not in (None, *_FORMATS):
            what = (
                Message("{name}: converter {value!r} is not one of text", name=name, value=converter)
                if converter not in (None, *_FORMATS)
                else Message("{name}: {key} has no counterpart", name=name, key=odd[0] if odd else "a set without path")
            )
            raise self._fail(key, what, self._unchanged())
        one: dict[str, Any] = {"path": str(entry["path"])}
        if converter is not None:
            one["format"] = _FORMATS[converter]
        if entry.get("split", "train") != "train":
            one["split"] = entry["split"]
        if entry.get("size") is not None:
            one["limit"] = entry["size"]
            self._leave(
                key, Message("which {size} rows of {name}: drawn by a seed, each once", size=one["limit"], name=name)
            )
        return one

    def _batch(self) -> None:
        micro = self._take("micro_batch_size", 1, _WHOLE)
        size = self._take("global_batch_size", micro * self.nproc, _WHOLE)
        origin = self._origin("global_batch_size") or f"{micro} x {self.nproc} ranks"
        self.out.put("parallel.global_batch_size", size, origin)
        self.out.put("parallel.micro_batch_size", micro, self._origin("micro_batch_size") or "its default")

    def _strategy(self) -> None:
        is_bf16 = self._take("bf16", True)
        self.out.put("parallel.precision", "bf16" if is_bf16 else "fp32", self._origin("bf16") or "its default")
        config = self._part("dist_config")
        name, origin = config.get("name"), self._origin("dist_config")
        self.done.add("dist_config")
        if name == "deepspeed":
            strategy = self._zero(config.get("config_file"), "dist_config")
        elif name in (None, _FSDP2):
            strategy = _FSDP2 if name else "ddp"
        else:
            what = Message("dist_config: {name!r} has no counterpart", name=name)
            raise self._fail("dist_config", what, self._unchanged(Message("use fsdp2 or deepspeed")))
        self.out.put("parallel.strategy", strategy, origin or "its default")

    def _adapter(self) -> None:
        config, origin = self._part("peft_config"), self._origin("peft_config")
        self.done.add("peft_config")
        if not config:
            return
        self.out.put("adapter.r", config.get("r", 8), origin)
        self.out.put("adapter.lora_alpha", config.get("lora_alpha", 16), origin)
        names = config.get("target_modules", "all")
        self.out.put("adapter.target_modules", "all-linear" if names in ("all", ["all"]) else names, origin)
        for theirs, (ours, default) in _LORA.items():
            if (value := config.get(theirs, default)) is not None:
                self.out.put(f"adapter.{ours}", value, origin)
        for odd in sorted(config.keys() - _LORA_KEYS):
            self._leave("peft_config", Message("{odd} has no counterpart here", odd=odd))

    def _rest(self) -> None:
        checkpointing = self._take("enable_activation_checkpointing", True)
        if checkpointing:
            origin = self._origin("enable_activation_checkpointing") or "its default"
            self.out.put("training.gradient_checkpointing", True, origin)
        for key, default in _DEFAULTS.items():
            self.out.put(f"training.{key}", self._take(key, default), self._origin(key) or "its default")
        # torch's AdamW and no schedule, where Trainer has no decay and a linear one.
        self.out.put("training.weight_decay", 0.01, "its default")
        self.out.put("training.lr_scheduler_type", "constant", "its default")
        for theirs, ours in _MOVED.items():
            self._move(theirs, f"training.{ours}")
        if self._take("save_epochs") is not None:
            self._leave("save_epochs", "a recipe saves every epoch by itself")
        for key in self.given.keys() - self.done:
            self._leave(key, _KEPT_OUT.get(key, "has no counterpart here"))
        self._leave_without_effect()


_WHOLE = Message("a whole number above 0")
_CORRECT = Message("correct that line")
