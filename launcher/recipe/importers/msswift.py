"""An ms-swift training as one of our recipes: a script with `swift sft` or `swift pt`, or a YAML or JSON file of its arguments."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import training_fields
from launcher.recipe.importers import shell
from launcher.recipe.importers.base import INTERFACE, Imported, Source
from launcher.recipe.importers.given import read_json
from launcher.recipe.importers.msswift_data import TEXTS, Data
from launcher.recipe.importers.msswift_keys import (
    AS_HERE,
    ATTENTION,
    KINDS_OF,
    LEFT_OUT,
    LENGTHS,
    LORA,
    OFF_REFUSED,
    PRECISION,
    REFUSED,
    TRACKED,
    VARIABLES,
    WITHOUT_EFFECT,
)

_SFT = "sft"
_TRAINS = (_SFT, TEXTS)
_ALSO = ("rlhf",)
"""Commands that train something else."""
_OTHER = ("infer", "deploy", "rollout", "export", "eval", "app", "web-ui", "merge-lora", "sample")
_PROGRAMS = ("swift", "megatron")
_OURS = _PROGRAMS[0]
_WHOLE = Message("a whole number above 0")
_RANKS = ("NPROC_PER_NODE", "NNODES")
_OLD = ("train_type", "sft_type")
"""Names of tuner_type in releases 3 and 2."""
_IN_FILE = re.compile(r"^(true|false)$", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """One training that a file asks for."""

    program: str
    subcommand: str
    line: int
    given: dict[str, Any]
    lines: dict[str, int]
    environment: dict[str, str]
    variable_lines: dict[str, int]
    is_script: bool


class MsSwift:
    """Reads its scripts and argument files."""

    interface = INTERFACE
    names: str = Message("model and dataset or `swift sft` (ms-swift)")

    def fits(self, source: Source) -> bool:
        if source.value:
            return "model" in source.value and ("dataset" in source.value or "cached_dataset" in source.value)
        return bool(_calls(source))

    def convert(self, source: Source, *, nproc: int | None, task: str, labels: tuple[str, ...]) -> Imported:
        call = _of_file(source) if source.value else _only(source)
        ranks = _ranks(call.environment)
        job = Import(source.path, call.given, call.lines, nproc or ranks or 1, task)
        job.call, job.says_ranks = call, ranks is not None
        return Imported(job.run(), job.left)


def _of_file(source: Source) -> Call:
    given = dict(source.value)
    environment = given.pop("ENV", None) or {}
    texts = {str(k): str(v) for k, v in environment.items()} if isinstance(environment, dict) else {}
    lines = {str(key): line for key, line in source.key_lines().items()}
    places = dict.fromkeys(texts, lines.get("ENV", 1))
    values = {str(key): _typed(value) if isinstance(value, str) else value for key, value in given.items()}
    return Call(_OURS, _SFT, 1, values, lines, texts, places, is_script=False)


def _calls(source: Source) -> list[tuple[shell.Command, int]]:
    """Commands of ms-swift, each with the place of its program."""
    found = []
    for command in shell.commands(source.text):
        texts = [word.text for word in command.words]
        pairs = enumerate(itertools.pairwise(texts))
        known = (*_TRAINS, *_ALSO, *_OTHER)
        place = next(
            (i for i, (one, two) in pairs if Path(one).name in _PROGRAMS and two.replace("_", "-") in known), None
        )
        if place is not None:
            found.append((command, place))
    return found


def _only(source: Source) -> Call:
    """The one training of a script."""
    calls = [_call(source, command, place) for command, place in _calls(source)]
    trains = [call for call in calls if call.subcommand in (*_TRAINS, *_ALSO)]
    if not trains:
        what = Message("{path}:{line}: trains nothing", path=source.path, line=calls[0].line)
        raise LaunchError(what, hint=Message("name a script with `swift sft`"))
    if len(trains) > 1:
        what = Message("{path}:{line}: a second training", path=source.path, line=trains[1].line)
        raise LaunchError(what, hint=Message("a recipe is one; write each into a file of its own"))
    return trains[0]


def _call(source: Source, command: shell.Command, place: int) -> Call:
    program, subcommand, *words = command.words[place:]
    given: dict[str, Any] = {}
    lines: dict[str, int] = {}
    key = None
    for word in words:
        name = re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", word.text, re.DOTALL)
        if name is not None:
            key = name[1].replace("-", "_")
            given[key], lines[key] = [], word.line
        if word.unknown:
            what = Message(
                "{path}:{line}: {text} is known only when the script runs",
                path=source.path,
                line=word.line,
                text=word.unknown,
            )
            raise LaunchError(what, hint=Message("write its value there"))
        if name is None and key is None:
            what = Message(
                "{path}:{line}: {text}: arguments in a file", path=source.path, line=word.line, text=word.text
            )
            raise LaunchError(what, hint=Message("import that file"))
        if name is None or name[2] is not None:
            given[key or ""].append(_typed(word.text if name is None else name[2]))
    values = {key: True if not values else values[0] if len(values) == 1 else values for key, values in given.items()}
    texts = {name: word.text for name, word in command.environment.items() if not word.unknown}
    places = {name: word.line for name, word in command.environment.items()}
    method = subcommand.text.replace("_", "-")
    return Call(Path(program.text).name, method, program.line, values, lines, texts, places, is_script=True)


def _typed(text: str) -> Any:
    if _IN_FILE.match(text):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ranks(environment: dict[str, str]) -> int | None:
    """Ranks that variables ask for."""
    values = [environment.get(name) for name in _RANKS]
    if not any(values):
        return None
    return math.prod(int(value) for value in values if value is not None and value.isdigit())


class Import(Data):
    """One import: what becomes of each argument."""

    stops: ClassVar[str] = "early_stop_interval"
    call: Call
    says_ranks: bool = False

    def run(self) -> str:
        self.done |= {key for key, value in self.given.items() if value is None}
        self._require_kinds(KINDS_OF)
        self.subcommand = self.call.subcommand
        self.use_hf = bool(self._take("use_hf", False)) or self.call.environment.get("USE_HF") in ("1", "true", "True")
        self._refuse()
        self._model()
        self._conversations()
        self._length()
        self._batch()
        self._precision()
        self._strategy()
        self._adapter()
        self._move("output_dir", "output_dir.")
        self._rest()
        return self._written("ms-swift")

    def _unchanged_command(self) -> str:
        here = self.call.environment.get(_RANKS[0], str(self.nproc))
        ranks = "" if self.says_ranks or self.nproc == 1 else f"env {_RANKS[0]}={here} "
        program = "bash" if self.call.is_script else f"{_OURS} {_SFT}"
        return f"--nproc {here} -- {ranks}{program} {shlex.quote(str(self.path))}"

    def _refuse_call(self, what: str) -> LaunchError:
        return LaunchError(f"{self.path}:{self.call.line}: {what}", hint=self._unchanged())

    def _refuse(self) -> None:
        call = self.call
        if call.program != _OURS or call.subcommand not in _TRAINS:
            name = f"{call.program} {call.subcommand}"
            raise self._refuse_call(
                Message("{name} is another way to train than `swift sft`, which has no counterpart", name=name)
            )
        if self._has_labels:
            raise self._refuse_call(
                Message("its responses are texts here, and labels with LLaMA-Factory's files alone")
            )
        for key in ("tuner_type", *_OLD):
            kind = self._take(key, "lora")
            if kind not in ("full", "lora"):
                what = Message("{key} {kind} has no counterpart", key=key, kind=kind)
                raise self._fail(key, what, self._unchanged(Message("full and lora have one")))
        task = self._take("task_type", "causal_lm")
        if task != "causal_lm":
            what = Message("task_type {task}: a model that writes is imported, and nothing else", task=task)
            raise self._fail("task_type", what, self._unchanged())
        if bool(self._take("use_chat_template", not self._is_of_texts)) is self._is_of_texts:
            what = Message("use_chat_template: sft writes conversations with it, and pt texts without")
            raise self._fail("use_chat_template", what, self._unchanged())
        self._refuse_variables()
        for key in OFF_REFUSED:
            if self.given.get(key) is False:
                what = Message(
                    "{key}: {value!r} changes what is learned: {reason}", key=key, value=False, reason=REFUSED[key]
                )
                raise self._fail(key, what, self._unchanged(Message("remove that line to train without it")))
        self._refuse_keys(REFUSED, AS_HERE)

    def _refuse_variables(self) -> None:
        for name in self.call.environment:
            if not name.startswith(VARIABLES):
                line = self.call.variable_lines.get(name, self.call.line)
                what = Message("{name}: a variable that ms-swift may read for the model or the data", name=name)
                raise LaunchError(f"{self.path}:{line}: {what}", hint=self._unchanged(Message("remove it")))

    def _model(self) -> None:
        self._move("model", "model.name")
        self.out.put("model.task", self.task, "")
        self._move("model_revision", "model.revision")
        attention = self._take("attn_impl")
        if attention in ATTENTION:
            self.out.put("model.attn_implementation", ATTENTION[attention], self._origin("attn_impl"))
        elif attention is not None:
            self._leave(
                "attn_impl",
                Message(
                    "{attention!r} is none of {value}; transformers chooses",
                    attention=attention,
                    value=", ".join(ATTENTION),
                ),
            )

    def _config(self) -> dict[str, Any]:
        """The model's config.json, where it is a folder."""
        file = Path(str(self.given.get("model"))) / "config.json"
        if not file.is_file():
            return {}
        config = read_json(file)
        return config.get("text_config", config) if isinstance(config, dict) else {}

    def _length(self) -> None:
        if (length := self._take("max_length", None, _WHOLE)) is not None:
            self.out.put("data.max_length", length, self._origin("max_length"))
            return
        limits = [value for key in LENGTHS if isinstance(value := self._config().get(key), int)]
        if not limits:
            what = Message("no max_length: then it is the model's own, which is not known here")
            raise self._fail("model", what, self._unchanged(Message("add --max_length")))
        self.out.put("data.max_length", min(limits), Message("its default, the model's own"))

    def _batch(self) -> None:
        shared = self._take("sequence_parallel_size", 1, _WHOLE)
        if shared > 1:
            self._leave("sequence_parallel_size", Message("a rank has whole rows here; the batch is counted as there"))
        ranks = max(1, self.nproc // shared)
        micro = self._take("per_device_train_batch_size", 1, _WHOLE)
        steps = self._take("gradient_accumulation_steps", max(1, math.ceil(16 / micro / self.nproc)), _WHOLE)
        origin = self._origin("per_device_train_batch_size", "gradient_accumulation_steps") or Message("its defaults")
        self.out.put(
            "parallel.global_batch_size", micro * steps * ranks, f"{micro} x {steps} x {ranks} ranks: {origin}"
        )
        self.out.put(
            "parallel.micro_batch_size", micro, self._origin("per_device_train_batch_size") or Message("its default")
        )
        self._take("per_device_eval_batch_size", None, _WHOLE)
        self._move("per_device_eval_batch_size", "parallel.eval_batch_size")

    def _precision(self) -> None:
        named = self._take("torch_dtype")
        dtype = named or self._config().get("dtype") or self._config().get("torch_dtype")
        bf16, fp16 = self._take("bf16"), self._take("fp16")
        if bf16 or fp16:
            precision = "bf16" if bf16 else "fp16"
        elif dtype not in PRECISION:
            precision = "auto"
        else:
            precision = PRECISION[dtype]
            if precision == "fp16" and (fp16 is False or self.given.get("use_cpu")):
                precision = "fp32"
        origin = self._origin("torch_dtype", "bf16", "fp16") or Message("its default, the model's own")
        self.out.put("parallel.precision", precision, origin)
        if named == "bfloat16" and self._kind == "full":
            self._leave(
                "torch_dtype", Message("weights that are trained are kept in fp32 here beside bf16 computation")
            )

    def _strategy(self) -> None:
        config, fsdp = self._take("deepspeed"), self._take("fsdp")
        if isinstance(config, str) and config.lstrip().startswith("{"):
            config = self._mapping("deepspeed")
        if config:
            self.out.put("parallel.strategy", self._zero(config), self._origin("deepspeed"))
        elif fsdp:
            self.out.put("parallel.strategy", "fsdp2", self._origin("fsdp"))
        else:
            self.out.put("parallel.strategy", "ddp", "its default")

    @property
    def _kind(self) -> str:
        return str(next((self.given[key] for key in ("tuner_type", *_OLD) if key in self.given), "lora"))

    def _adapter(self) -> None:
        keys = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules", "target_regex", "modules_to_save", *LORA)
        if self._kind == "full":
            for key in keys:
                self._leave(key, Message("the whole model is trained"))
            return
        for key, (ours, default) in {
            "lora_rank": ("r", 8),
            "lora_alpha": ("lora_alpha", 32),
            "lora_dropout": ("lora_dropout", 0.05),
        }.items():
            value = self._take(key, default, Message("a number, at least 0"))
            whole = int(value) if ours != "lora_dropout" and value == int(value) else value
            self.out.put(f"adapter.{ours}", whole, self._origin(key) or "its default")
        names, saved = self._listed("target_modules") or ["all-linear"], self._listed("modules_to_save")
        for key, listed in (("target_modules", names), ("modules_to_save", saved)):
            if odd := [name for name in listed if name.startswith("all-") and name != "all-linear"]:
                what = Message("{key}: {name} names no layers here", key=key, name=odd[0])
                raise self._fail(key, what, self._unchanged(Message("name them")))
        regex = self._take("target_regex")
        target = regex or ("all-linear" if "all-linear" in names else names)
        self.out.put("adapter.target_modules", target, self._origin("target_modules", "target_regex") or "its default")
        if saved:
            self.out.put("adapter.modules_to_save", saved, self._origin("modules_to_save"))
        for theirs, (ours, _) in LORA.items():
            self._move(theirs, f"adapter.{ours}")

    def _rest(self) -> None:
        default_rate = 1e-5 if self._kind == "full" else 1e-4
        defaults = {
            "learning_rate": default_rate,
            "weight_decay": 0.1,
            "adam_beta2": 0.95,
            "lr_scheduler_type": "cosine",
            "gradient_checkpointing": True,
            "logging_steps": 5,
            "save_strategy": "steps",
        }
        for key, default in defaults.items():
            if self.given.get(key) is None:
                self.out.put(f"training.{key}", default, "its default")
        self._evaluations()
        self._early_stopping()
        self._generation()
        self._epochs()
        ratio = self._take("warmup_ratio", 0, Message("a number, at least 0"))
        if ratio:
            self.out.put("training.warmup_steps", float(ratio), self._origin("warmup_ratio"))
        if self._take("group_by_length", False):
            self.out.put("training.train_sampling_strategy", "group_by_length", self._origin("group_by_length"))
        for key in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
            if (mapping := self._mapping(key)) is not None:
                self.out.put(f"training.{key}", mapping, self._origin(key))
        if (optim := self.given.get("optim")) is not None:
            self._require_optimizer("optim", str(optim))
        if (limit := self._take("save_total_limit")) is not None and limit > 0:
            self.out.put("training.save_total_limit", limit, self._origin("save_total_limit"))
        self._others(self._left_out())

    def _left_out(self) -> dict[str, str]:
        """Why each argument that is left is not kept.

        Raises:
            LaunchError: there is one that the command does not have, and so the file is for another one.
        """
        left: dict[str, str] = dict(LEFT_OUT)
        for key in self.given.keys() - self.done - left.keys() - training_fields.fields().keys():
            if key.startswith(WITHOUT_EFFECT):
                left[key] = Message("it does nothing for full and LoRA")
            elif key.startswith(TRACKED):
                left[key] = Message("it changes what is logged, and nothing that is learned")
            else:
                what = Message("{key}: `swift {command}` has no such argument", key=key, command=self.subcommand)
                raise self._fail(key, what, Message("correct or remove that line"))
        return left

    def _evaluations(self) -> None:
        """Saves and evaluations, which go together there."""
        by_steps = self.given.get("save_strategy", "steps") == "steps"
        if by_steps and "save_steps" not in self.given:
            self.out.put("training.save_steps", 500, "its default")
        when, steps = self._when(), self._take("eval_steps")
        self.done.add("eval_strategy")
        if self.out.values["data"]["eval"][0] is None:
            self._leave("eval_steps", Message("nothing is evaluated"))
            return
        origin = self._origin("eval_strategy") or Message("its default, as it saves")
        self.out.put("training.eval_strategy", when, origin)
        if when == "steps":
            value = steps if steps is not None else self.given.get("save_steps", 500)
            self.out.put(
                "training.eval_steps", value, self._origin("eval_steps") or Message("its default, as it saves")
            )
        else:
            self._leave("eval_steps", Message("evaluations are not by steps"))

    def _epochs(self) -> None:
        last = self._take("max_epochs")
        if last is not None and last < self.given.get("num_train_epochs", 3):
            what = Message("max_epochs: ends the training before its schedule does, which has no counterpart")
            raise self._fail("max_epochs", what, self._unchanged(Message("write it as num_train_epochs")))
        self._leave("max_epochs", Message("the training ends there by itself"))

    def _early_stopping(self) -> None:
        by_figure = [key for key in (self.stops, "load_best_model_at_end") if self.given.get(key)]
        if by_figure and self.given.get("predict_with_generate") and not self.given.get("metric_for_best_model"):
            what = Message("{key}: goes by rouge-l of texts, which is another figure here", key=by_figure[0])
            instead = Message("remove it, and set metric_for_best_model: rougeL in the recipe that is written")
            raise self._fail(by_figure[0], what, self._unchanged(instead))
        interval = self._take(self.stops, 0, Message("a number"))
        if interval <= 0:
            self._leave(self.stops, Message("it has no effect below 1"))
            return
        self._stop_early(evaluates=True, keeps_best=bool(self.given.get("load_best_model_at_end")))
        saves = self.given.get("save_strategy", "steps"), self.given.get("save_steps", 500)
        evaluations = self._when(), self.given.get("eval_steps", saves[1])
        if saves != evaluations and (saves[0] == "steps" or saves[0] != evaluations[0]):
            what = Message("{key}: counts saves, and evaluations are at other steps", key=self.stops)
            raise self._fail(self.stops, what, self._unchanged(Message("leave out eval_strategy and eval_steps")))

    def _generation(self) -> None:
        """How texts are written at evaluations: the likeliest tokens, unless a temperature is given."""
        keys = ("max_new_tokens", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty")
        if not self._asks_for_texts(keys, has_answers=not self._is_of_texts):
            return
        self._leave("num_beams", Message("it has no effect at evaluations there"))
        temperature = self._take("temperature", 0, Message("a number"))
        drawn: dict[str, Any] = {"do_sample": bool(temperature)}
        if temperature:
            top_k = self._take("top_k", None, Message("a number"))
            drawn |= {"temperature": temperature, "top_p": self._take("top_p")}
            if top_k is not None and top_k <= 0:
                self._leave("top_k", Message("it is the model's own below 1"))
                top_k = None
            drawn["top_k"] = top_k
        else:
            for key in ("temperature", "top_k", "top_p"):
                self._leave(key, Message("it has no effect where the likeliest tokens are taken"))
        most = self._take("max_new_tokens", 64, _WHOLE)
        self._write_texts(
            {"max_new_tokens": most, **drawn, "num_beams": 1, "repetition_penalty": self._take("repetition_penalty")}
        )


MSSWIFT = MsSwift()
