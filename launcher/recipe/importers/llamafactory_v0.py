"""A LLaMA-Factory YAML of version 0, key by key."""

from __future__ import annotations

from typing import Any, ClassVar

from launcher.messages import Message
from launcher.recipe.importers.llamafactory_chats import TEXTS, Chats
from launcher.recipe.importers.llamafactory_keys import (
    AS_HERE,
    ATTENTION,
    CHAT_KEYS,
    CHAT_LEFT_OUT,
    GENERATION,
    LEFT_OUT,
    LORA,
    OF_DRAWS,
    REFUSED,
    TAKEN,
)
from launcher.recipe.tasks import table as tasks

_STAGE = "sft"
"""By LLaMA-Factory's name."""


class Import(Chats):
    """One import of a file of version 0: what becomes of each key."""

    stops: ClassVar[str] = "early_stopping_steps"

    def run(self, labels: tuple[str, ...]) -> str:
        self._refuse()
        self._model()
        if self._has_labels:
            self._data(labels)
        else:
            self._conversations()
        self._batch()
        self._strategy()
        self._adapter()
        if self._has_labels:
            self.out.put("metrics.", list(tasks.load(self.task).default_metrics), "")
        self._move("output_dir", "output_dir.")
        self._rest()
        other = ", whose task is to write; here the model learns which label a text has" if self._has_labels else ""
        return self._written(f"LLaMA-Factory{other}")

    @property
    def _stages(self) -> tuple[str, ...]:
        return (_STAGE,) if self._has_labels else (_STAGE, TEXTS)

    def _refuse(self) -> None:
        stage, kind = self.given.get("stage", _STAGE), self.given.get("finetuning_type", "lora")
        if stage not in self._stages:
            raise self._fail(
                "stage",
                Message("stage {stage} is another way to train than sft, which has no counterpart", stage=stage),
                self._unchanged(),
            )
        if kind not in ("full", "lora"):
            raise self._fail(
                "finetuning_type",
                Message("finetuning_type {kind} has no counterpart", kind=kind),
                self._unchanged(Message("full and lora have one")),
            )
        chats = frozenset() if self._has_labels else CHAT_KEYS
        self._refuse_keys({key: why for key, why in REFUSED.items() if key not in chats}, AS_HERE)
        if not self.given.get("do_train", True):
            raise self._fail(
                "do_train",
                Message("trains nothing"),
                Message("`ascend-launch eval` and `predict` need no recipe of their own"),
            )
        self.done |= TAKEN

    def _model(self) -> None:
        self._move("model_name_or_path", "model.name")
        self.out.put("model.task", self.task, "")
        self._move("model_revision", "model.revision")
        attention = str(self._take("flash_attn", "auto"))
        if attention in ATTENTION:
            self.out.put("model.attn_implementation", ATTENTION[attention], self._origin("flash_attn"))
        elif attention != "auto":
            self._leave(
                "flash_attn",
                Message(
                    "{attention!r} is none of {value}; transformers chooses",
                    attention=attention,
                    value=", ".join(ATTENTION),
                ),
            )

    def _batch(self) -> None:
        micro = self._take("per_device_train_batch_size", 8, Message("a whole number above 0"))
        steps = self._take("gradient_accumulation_steps", 1, Message("a whole number above 0"))
        origin = self._origin("per_device_train_batch_size", "gradient_accumulation_steps")
        self.out.put(
            "parallel.global_batch_size",
            micro * steps * self.nproc,
            f"{micro} x {steps} x {self.nproc} ranks: {origin or 'its defaults'}",
        )
        self.out.put("parallel.micro_batch_size", micro, self._origin("per_device_train_batch_size"))
        self._take("per_device_eval_batch_size", None, Message("a whole number above 0"))
        self._move("per_device_eval_batch_size", "parallel.eval_batch_size")

    def _strategy(self) -> None:
        bf16, fp16 = self._take("bf16", False), self._take("fp16", False)
        precision = "bf16" if bf16 else "fp16" if fp16 else "fp32"
        self.out.put("parallel.precision", precision, self._origin("bf16", "fp16") or "its default")
        config, fsdp = self._take("deepspeed"), self._take("fsdp")
        if config is not None:
            self.out.put("parallel.strategy", self._zero(config), self._origin("deepspeed"))
        elif fsdp:
            self.out.put("parallel.strategy", "fsdp2", self._origin("fsdp"))
        else:
            self.out.put("parallel.strategy", "ddp", "its default")

    def _adapter(self) -> None:
        keys = ("lora_rank", "lora_alpha", "lora_target", "additional_target", *LORA)
        if self.given.get("finetuning_type", "lora") == "full":
            for key in keys:
                self._leave(key, "finetuning_type is full")
            return
        rank = self._take("lora_rank", 8, Message("a whole number above 0"))
        self.out.put("adapter.r", rank, self._origin("lora_rank") or "its default")
        self.out.put(
            "adapter.lora_alpha",
            self._take("lora_alpha", 2 * rank),
            self._origin("lora_alpha") or "its default, twice the rank",
        )
        names = self._names("lora_target", "all")
        self.out.put(
            "adapter.target_modules",
            "all-linear" if names == ["all"] else names,
            self._origin("lora_target") or "its default",
        )
        if modules := self._names("additional_target"):
            self.out.put("adapter.modules_to_save", modules, self._origin("additional_target"))
        for theirs, ours in LORA.items():
            self._move(theirs, f"adapter.{ours}")

    def _rest(self) -> None:
        """TrainingArguments go under their own names; all others are listed."""
        checkpointing = not self._take("disable_gradient_checkpointing", False)
        if checkpointing and "gradient_checkpointing" not in self.given:
            self.out.put("training.gradient_checkpointing", True, "its default")
        self._take("warmup_ratio", None, Message("a number, at least 0"))
        if self._take("warmup_steps", 0, Message("a number, at least 0")):
            self._leave("warmup_ratio", "warmup_steps goes before it")
            self._move("warmup_steps", "training.warmup_steps")
        else:
            self._move("warmup_ratio", "training.warmup_steps", float)
        self._saves()
        self._move("evaluation_strategy", "training.eval_strategy")
        self._early_stopping()
        if not self._has_labels:
            self._generation()
        left_out = LEFT_OUT if self._has_labels else {**LEFT_OUT, **CHAT_LEFT_OUT}
        self._others(left_out)

    def _saves(self) -> None:
        """Saves by steps where the file leaves it to transformers' default, which is not a recipe's default."""
        if self.given.get("save_strategy") is None:
            self.done.add("save_strategy")
            self.out.put("training.save_strategy", "steps", "its default")
            if self.given.get("save_steps") is None:
                self.out.put("training.save_steps", 500, "its default")

    def _early_stopping(self) -> None:
        strategy = self.given.get("eval_strategy", self.given.get("evaluation_strategy"))
        keeps_best = bool(self.given.get("load_best_model_at_end"))
        self._stop_early(evaluates=strategy not in (None, False, "no"), keeps_best=keeps_best)
        names_figure = keeps_best or self.given.get("metric_for_best_model") is not None
        if self.given.get(self.stops) is not None and not names_figure:
            what = Message("{key}: LLaMA-Factory needs metric_for_best_model beside it", key=self.stops)
            raise self._fail(self.stops, what, Message("add metric_for_best_model: eval_loss"))

    def _generation(self) -> None:
        """How texts are written at evaluations. LLaMA-Factory's own defaults go before the model's."""
        if not self._asks_for_texts(GENERATION, has_answers=not self._is_of_texts):
            return
        settings: dict[str, Any] = {key: self._take(key, default) for key, default in GENERATION.items()}
        self._take("max_new_tokens", None, Message("a whole number above 0"))
        beams = self._take("num_beams", 1, Message("a whole number above 0"))
        if beams > 1 and settings["do_sample"]:
            what = Message("num_beams: {value} beams of tokens that are drawn, which has no counterpart", value=beams)
            raise self._fail("num_beams", what, self._unchanged(Message("add do_sample: false")))
        without = OF_DRAWS if not settings["do_sample"] else ()
        for key in without:
            self._leave(key, Message("it has no effect where do_sample is false"))
        if beams == 1:
            self._leave("length_penalty", Message("it has no effect without num_beams"))
            without = (*without, "length_penalty")
        self._leave("skip_special_tokens", Message("special tokens are no part of a text"))
        self._write_texts({key: value for key, value in settings.items() if key not in without})
