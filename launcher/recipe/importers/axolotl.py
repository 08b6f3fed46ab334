"""An axolotl YAML as one of our recipes."""

from __future__ import annotations

import shlex
from typing import ClassVar

from launcher.messages import Message
from launcher.recipe import schedulers
from launcher.recipe.importers.axolotl_data import Data
from launcher.recipe.importers.axolotl_keys import (
    AS_HERE,
    ATTENTION,
    KINDS_OF,
    LEFT_OUT,
    LORA,
    MOVED,
    PARALLEL,
    PLUGINS,
    PREFIXES,
    REFUSED,
    SWITCHES,
)
from launcher.recipe.importers.base import INTERFACE, Imported, Source
from launcher.recipe.importers.given import OFF

_WHOLE = Message("a whole number above 0")
_NUMBER = Message("a number, at least 0")
_MODEL = "base_model"
_COSINE = "cosine"


class Axolotl:
    """Reads its YAML."""

    interface = INTERFACE
    names: str = Message("{key} (axolotl)", key=_MODEL)

    def fits(self, source: Source) -> bool:
        return _MODEL in source.value

    def convert(self, source: Source, *, nproc: int | None, task: str, labels: tuple[str, ...]) -> Imported:
        job = Import(source.path, dict(source.value), source.key_lines(), nproc or 1, task)
        job.nested_lines = dict(source.lines)
        return Imported(job.run(), job.left)


class Import(Data):
    """One import: what becomes of each key."""

    stops: ClassVar[str] = "early_stopping_patience"

    def run(self) -> str:
        self.done |= {key for key, value in self.given.items() if value is None}
        self._require_kinds(KINDS_OF)
        self._refuse()
        self._model()
        self._conversations()
        self._batch()
        self._precision()
        self._strategy()
        self._adapter()
        self._move("output_dir", "output_dir.")
        self._rest()
        return self._written("axolotl")

    def _unchanged_command(self) -> str:
        return f"--nproc {self.nproc} -m axolotl.cli.train {shlex.quote(str(self.path))}"

    def _refuse(self) -> None:
        if self._has_labels:
            what = Message("its responses are texts here, and labels with LLaMA-Factory's files alone")
            raise self._fail(_MODEL, what, self._unchanged())
        if (kind := self._take("adapter")) not in (None, "", "lora"):
            what = Message("adapter {kind} has no counterpart", kind=kind)
            raise self._fail(
                "adapter", what, self._unchanged(Message("lora has one, and so has a file without adapter"))
            )
        self._refuse_keys(REFUSED, AS_HERE)
        for plugin in self._take("plugins") or []:
            if str(plugin).rpartition(".")[2] not in PLUGINS:
                raise self._fail(
                    "plugins", Message("plugins: {plugin} has no counterpart", plugin=plugin), self._unchanged()
                )
        self._leave("plugins", Message("they change speed, or what is logged"))
        self._special_tokens()

    def _special_tokens(self) -> None:
        tokens = self._take("special_tokens") or {}
        if odd := sorted(key for key, value in tokens.items() if value is not None and key != "pad_token"):
            what = Message("special_tokens: {key} changes what is learned: the tokenizer's own is used", key=odd[0])
            raise self._fail("special_tokens", what, self._unchanged(Message("remove it to train without it")))
        self._leave("special_tokens", Message("padding is never trained, whatever its token is"))

    def _model(self) -> None:
        self._move(_MODEL, "model.name")
        self.out.put("model.task", self.task, "")
        self._move("revision_of_model", "model.revision")
        self._move("tokenizer_config", "model.tokenizer")
        for key, meant in SWITCHES.items():
            if self._take(key):
                self.out.put("model.attn_implementation", meant, self._origin(key))
        attention = self._take("attn_implementation")
        if attention in ATTENTION:
            self.out.put("model.attn_implementation", attention, self._origin("attn_implementation"))
        elif attention is not None:
            known = ", ".join(ATTENTION)
            self._leave(
                "attn_implementation",
                Message("{attention!r} is none of {value}; transformers chooses", attention=attention, value=known),
            )

    def _batch(self) -> None:
        ranks = self.nproc
        for key in PARALLEL:
            shared = self._take(key, 1, _WHOLE)
            ranks = max(1, ranks // shared)
            self._leave(key, Message("a rank has whole rows here; the batch is counted as there"))
        micro = self._take("micro_batch_size", 1, _WHOLE)
        total = self._take("batch_size", None, _WHOLE)
        steps = self._take("gradient_accumulation_steps", total // micro if total else 1, _WHOLE)
        origin = self._origin("micro_batch_size", "gradient_accumulation_steps") or Message("its defaults")
        self.out.put(
            "parallel.global_batch_size", micro * steps * ranks, f"{micro} x {steps} x {ranks} ranks: {origin}"
        )
        self.out.put("parallel.micro_batch_size", micro, self._origin("micro_batch_size") or Message("its default"))
        self._take("eval_batch_size", None, _WHOLE)
        self._move("eval_batch_size", "parallel.eval_batch_size")
        if ranks > 1 and "gradient_accumulation_steps" in self.given:
            reason = Message(
                "the mean over the tokens of all ranks is trained here; there the mean of each rank's mean"
            )
            self._leave("gradient_accumulation_steps", reason)

    def _precision(self) -> None:
        bf16, fp16 = self._take("bf16", "auto"), self._take("fp16")
        bf16 = bf16 or self.given.get("bfloat16")
        fp16 = fp16 or self.given.get("float16")
        precision = (
            "auto" if bf16 == "auto" and not fp16 else "bf16" if bf16 and bf16 != "auto" else "fp16" if fp16 else "fp32"
        )
        self.out.put("parallel.precision", precision, self._origin("bf16", "fp16") or "its default")
        if precision == "bf16" and not self.given.get("adapter"):
            self._leave("bf16", Message("weights that are trained are kept in fp32 here beside bf16 computation"))

    def _strategy(self) -> None:
        config, fsdp = self._take("deepspeed"), self._take("fsdp") or self.given.get("fsdp_config")
        if config:
            self.out.put("parallel.strategy", self._zero(config), self._origin("deepspeed"))
        elif fsdp:
            self.out.put("parallel.strategy", "fsdp2", self._origin("fsdp", "fsdp_config"))
        else:
            self.out.put("parallel.strategy", "ddp", "its default")

    def _adapter(self) -> None:
        keys = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear", *LORA)
        if not self.given.get("adapter"):
            for key in keys:
                self._leave(key, Message("the file names no adapter"))
            return
        for key, (ours, default) in {
            "lora_r": ("r", 8),
            "lora_alpha": ("lora_alpha", 8),
            "lora_dropout": ("lora_dropout", 0.0),
        }.items():
            value = self._take(key, default, _NUMBER)
            self.out.put(f"adapter.{ours}", value, self._origin(key) or Message("peft's default"))
        names, linear = self._take("lora_target_modules"), self._take("lora_target_linear", False)
        if not names and not linear:
            what = Message("adapter: peft chooses the layers by the model's type, which is not known here")
            raise self._fail(
                "adapter", what, self._unchanged(Message("write lora_target_linear: true, or lora_target_modules"))
            )
        if linear and names:
            self._leave("lora_target_modules", Message("lora_target_linear names every linear layer"))
        target = "all-linear" if linear else names
        self.out.put(
            "adapter.target_modules", target, self._origin("lora_target_linear" if linear else "lora_target_modules")
        )
        for theirs, ours in LORA.items():
            if self.given.get(theirs):
                self._move(theirs, f"adapter.{ours}")
            self.done.add(theirs)

    def _rest(self) -> None:
        self.out.put(
            "training.weight_decay",
            self._take("weight_decay", 0.0, _NUMBER),
            self._origin("weight_decay") or "its default",
        )
        optimizer = str(self._take("optimizer", "adamw_torch_fused"))
        self._require_optimizer("optimizer", optimizer)
        self.out.put("training.optim", optimizer, self._origin("optimizer") or "its default")
        if "num_epochs" not in self.given:
            self.out.put("training.num_train_epochs", 1.0, "its default")
        for theirs, ours in MOVED.items():
            self._move(theirs, f"training.{ours}")
        self._schedule()
        self._warmup()
        self._saves()
        self._evaluations()
        self._early_stopping()
        if checkpointing := self._take("gradient_checkpointing", False):
            self.out.put("training.gradient_checkpointing", True, self._origin("gradient_checkpointing"))
            if checkpointing is not True:
                self._leave(
                    "gradient_checkpointing",
                    Message("{value}: recomputed, not moved to main memory", value=checkpointing),
                )
        else:
            self._leave("gradient_checkpointing_kwargs", Message("nothing is recomputed"))
        if self._take("group_by_length", False):
            self.out.put("training.train_sampling_strategy", "group_by_length", self._origin("group_by_length"))
        left = {key: why for key in self.given for start, why in PREFIXES.items() if key.startswith(start)}
        off = {key: Message("its value is off") for key, value in self.given.items() if value in (False, [], "", {})}
        self._others({**off, **left, **LEFT_OUT})

    def _schedule(self) -> None:
        name = str(self._take("lr_scheduler", _COSINE) or _COSINE)
        floor = self._take("cosine_min_lr_ratio", None, _NUMBER)
        if name not in schedulers.SCHEDULERS:
            what = Message("lr_scheduler: {name}: transformers has no such schedule", name=name)
            raise self._fail("lr_scheduler", what, self._unchanged())
        if floor and name == _COSINE:
            self.out.put(
                "training.lr_scheduler_type", "cosine_with_min_lr", self._origin("lr_scheduler", "cosine_min_lr_ratio")
            )
            self.out.put("training.lr_scheduler_kwargs", {"min_lr_rate": floor}, self._origin("cosine_min_lr_ratio"))
            return
        self.out.put("training.lr_scheduler_type", name, self._origin("lr_scheduler") or "its default")

    def _warmup(self) -> None:
        steps, share = self._take("warmup_steps", None, _NUMBER), self._take("warmup_ratio", None, _NUMBER)
        if steps is not None:
            self._leave("warmup_ratio", Message("warmup_steps goes before it"))
            self.out.put("training.warmup_steps", 2 if steps == 1 else steps, self._origin("warmup_steps"))
        elif share is not None:
            self._leave("warmup_ratio", Message("a part of a step is rounded up here, and down there"))
            self.out.put("training.warmup_steps", float(share), self._origin("warmup_ratio"))
        else:
            self.out.put("training.warmup_steps", 0.03, Message("its default, at most 100 steps there"))

    def _per_epoch(self, key: str) -> float | None:
        """The share of all steps after which something is done so many times in an epoch; None where it is never."""
        times = self._take(key, None, _NUMBER)
        share = 1 / (times * float(self.given.get("num_epochs", 1))) if times else None
        return share if share is not None and share < 1 else None

    def _saves(self) -> None:
        steps = self._per_epoch("saves_per_epoch") or self._take("save_steps", None, _NUMBER)
        self.done.add("save_steps")
        strategy = self._take("save_strategy")
        origin = self._origin("saves_per_epoch", "save_steps")
        if steps:
            self.out.put("training.save_strategy", "steps", origin)
            self.out.put("training.save_steps", steps, origin)
        else:
            name = {None: "epoch", False: "no"}.get(strategy, strategy)
            self.out.put("training.save_strategy", name, self._origin("save_strategy") or "its default")
        limit = self._take("save_total_limit") or 4
        self.out.put("training.save_total_limit", limit, self._origin("save_total_limit") or "its default")

    def _evaluations(self) -> None:
        steps = self._per_epoch("evals_per_epoch") or self._take("eval_steps", None, _NUMBER)
        strategy = self._take("eval_strategy", self._take("evaluation_strategy"))
        self.done.add("eval_steps")
        if self.out.values["data"]["eval"][0] is None:
            for key in ("evals_per_epoch", "eval_steps", "eval_strategy", "evaluation_strategy"):
                self._leave(key, Message("nothing is evaluated"))
            return
        origin = self._origin("evals_per_epoch", "eval_steps", "eval_strategy", "evaluation_strategy")
        name = "steps" if steps else {None: "no", False: "no"}.get(strategy, strategy)
        self.out.put("training.eval_strategy", name, origin or "its default")
        if steps:
            self.out.put("training.eval_steps", steps, origin)
        if name != "no":
            self.out.put("training.eval_on_start", True, Message("its default"))

    def _early_stopping(self) -> None:
        if self.given.get(self.stops) in OFF:
            self.done.add(self.stops)
            return
        if not self.given.get("save_steps") or not self.given.get("eval_steps"):
            what = Message("{key}: axolotl needs save_steps and eval_steps beside it", key=self.stops)
            raise self._fail(self.stops, what, Message("add them"))
        self._stop_early(evaluates=True, keeps_best=True)
        self._leave_off("load_best_model_at_end", Message("the best model is kept where a training stops early"))
        self._leave_off("greater_is_better", Message("false is not read there: the figure's name says it"))

    def _leave_off(self, key: str, reason: str) -> None:
        if self._take(key):
            self._move(key, f"training.{key}")
        else:
            self._leave(key, reason)


AXOLOTL = Axolotl()
