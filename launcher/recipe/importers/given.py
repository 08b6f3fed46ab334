"""What importers read and write: keys of another tool's file, taken one by one, and a recipe's text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import metrics, optimizers, problems, training_fields, training_rules
from launcher.recipe.importers.base import Left
from launcher.recipe.tasks import table as tasks

STRATEGY = {0: "ddp", 1: "zero1", 2: "zero2", 3: "zero3"}
"""Strategies of a recipe by their ZeRO stages."""
OFF: tuple[Any, ...] = (None, False, 0, "", "none", "false", [], {})
"""Values of a key that mean that it is not used."""
DEEPSPEED = ("optimizer", "scheduler", "gradient_clipping", "train_batch_size")
"""Sections and values of a DeepSpeed config that change what is learned, where they are not `auto`."""


_SECTIONS = (
    "model",
    "data",
    "training",
    "parallel",
    "adapter",
    "early_stopping",
    "generation",
    "metrics",
    "output_dir",
)


@dataclass
class Writer:
    """Values of the recipe in the order of its sections, each with the comment that says where it came from."""

    values: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)

    def put(self, path: str, value: Any, origin: str) -> None:
        section, _, key = path.partition(".")
        self.values.setdefault(section, {})[key] = (value, origin)

    def text(self, head: Iterable[str]) -> str:
        lines = [f"# {_one_line(line)}".rstrip() for line in head]
        for section in _SECTIONS:
            rows = self.values.get(section)
            if rows is None:
                continue
            if "" in rows:
                value, origin = rows[""]
                lines.append(f"{section}: {_yaml(value)}{f'  # {_one_line(origin)}' if origin else ''}")
                continue
            lines.append(f"{section}:")
            lines += [
                f"  {key}: {_yaml(value)}{f'  # {_one_line(origin)}' if origin else ''}"
                for key, (value, origin) in rows.items()
            ]
        return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    # JSON is YAML: no text can end a line or start a comment.
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError("{path}: cannot be read: {error}", hint="correct that file", path=path, error=error) from None


@dataclass
class Given:
    """A file of another tool, and what was taken of it so far."""

    path: Path
    given: dict[str, Any]
    lines: dict[Any, int]
    nproc: int
    task: str
    command: ClassVar[str] = "llamafactory-cli train"
    """What runs such a file."""
    out: Writer = field(default_factory=Writer)
    left: list[Left] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    _seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of the local files."""

    @property
    def _has_labels(self) -> bool:
        return tasks.load(self.task).has_labels

    @property
    def _has_head(self) -> bool:
        return tasks.load(self.task).has_head

    def _origin(self, *keys: str) -> str:
        keys_with_lines = [f"{k} (line {self.lines[k]})" for k in keys if k in self.given]
        return ", ".join(keys_with_lines)

    def _take(self, key: str, default: Any = None, kind: str | None = None) -> Any:
        """The key's value; `kind`, one of _KINDS, is what the value must be.

        Raises:
            LaunchError: it is something else.
        """
        self.done.add(key)
        value = to_number(self.given.get(key))
        if value is None:
            return default
        if kind is not None and not KINDS[kind](value):
            raise self._fail(key, expected(key, kind, value), Message("correct that line"))
        return value

    def _require_kinds(self, kinds: Mapping[str, Iterable[str]]) -> None:
        """Raises LaunchError for a value of another kind than its key has. `kinds`: keys by their kind, one of KINDS."""
        for kind, keys in kinds.items():
            for key in keys:
                value = to_number(self.given.get(key))
                if value is not None and not KINDS[kind](value):
                    raise self._fail(key, expected(key, kind, value), Message("correct that line"))

    def _names(self, key: str, default: str = "") -> list[str]:
        """A key whose value is a list, or text with commas."""
        value = self._take(key, default, Message("text or a list of texts"))
        names = value if isinstance(value, list) else value.split(",")
        return [name.strip() for name in names if name.strip()]

    def _leave(self, key: str, reason: str) -> None:
        self.done.add(key)
        if key in self.given:
            self.left.append(Left(str(self.lines[key]), key, reason))

    def _move(self, key: str, to: str, change: Callable[[Any], Any] = lambda value: value) -> None:
        value = self._take(key)
        if value is not None:
            self.out.put(to, change(value), self._origin(key))

    def _written(self, tool: str) -> str:
        """The recipe, below what it was made from and the keys that it does not keep."""
        self.left.sort(key=lambda left: int(left.where))
        dropped = [f"  {left.key} (line {left.where}): {left.reason}" for left in self.left]
        return self.out.text([f"From {self.path} of {tool}.", *(["Not kept:", *dropped] if dropped else [])])

    def _fail(self, key: str, what: str, hint: str) -> LaunchError:
        return LaunchError(f"{self.path}:{self.lines.get(key, 1)}: {what}", hint=hint)

    def _unchanged(self, instead: str | None = None) -> str:
        """A hint: what to change, if anything, and the command that runs the file as it is."""
        command = f"ascend-launch {self._unchanged_command()}"
        if instead is None:
            return Message("run the file unchanged: {command}", command=command)
        return Message("{instead}; or run the file unchanged: {command}", instead=instead, command=command)

    def _unchanged_command(self) -> str:
        return f"--nproc {self.nproc} -- {self.command} {shlex.quote(str(self.path))}"

    def _others(self, left_out: Mapping[str, str]) -> None:
        """TrainingArguments that are left go under their own names; all other keys are listed."""
        for key, value in self.given.items():
            if key in self.done:
                continue
            if key in left_out:
                self._leave(key, left_out[key])
            elif value is not None and key in training_fields.fields():
                self._argument(key, to_number(value))
            else:
                self._leave(key, Message("has no counterpart here"))
        self._leave_without_effect()

    def _argument(self, key: str, value: Any) -> None:
        meant = training_fields.as_meant(key, value)
        problem = training_fields.problem(key, meant)
        if problem is None:
            self.out.put(f"training.{key}", meant, self._origin(key))
        elif key in training_fields.OWNED:
            self._leave(key, problem)
        else:
            raise self._fail(key, f"{key}: {problem}", Message("correct or remove that line"))

    def _require_optimizer(self, key: str, name: str) -> None:
        """Raises LaunchError for an optimizer that no run here can have."""
        known = optimizers.OPTIMIZERS.get(name)
        if known is None or known.refused:
            reason = known.refused if known else Message("transformers has no such optimizer")
            what = Message("{key}: {name}: {reason}", key=key, name=name, reason=reason)
            raise self._fail(key, what, self._unchanged(Message("name adamw_torch to train with it")))

    def _refuse_keys(self, refused: Mapping[str, str], as_here: Mapping[str, Any]) -> None:
        """Raises LaunchError for a key that changes what is learned, unless it is off or what is done here anyway."""
        for key, reason in refused.items():
            value = self.given.get(key)
            if value not in OFF and value != as_here.get(key):
                raise self._fail(
                    key,
                    Message("{key}: {value!r} changes what is learned: {reason}", key=key, value=value, reason=reason),
                    self._unchanged(Message("remove that line to train without it")),
                )
            self.done.add(key)

    def _json(self, name: str) -> Any:
        return next((read_json(p) for p in (Path(name), self.path.parent / name) if p.is_file()), None)

    def _zero(self, config: Any, key: str = "deepspeed") -> str:
        """The ZeRO stage of a config, read from the file where it is, else from its name (ds_z3_offload_config.json)."""
        value = config if isinstance(config, dict) else self._json(str(config))
        if value is not None and not (isinstance(value, dict) and isinstance(value.get("zero_optimization", {}), dict)):
            raise self._fail(
                key,
                Message("{config}: is not a config of DeepSpeed", config=config),
                Message("its zero_optimization says the stage"),
            )
        if value is None:
            named = re.search(r"z(?:ero)?_?([0-3])", Path(str(config)).name)
            if named is None:
                raise self._fail(
                    key,
                    Message("{config}: no such file, and its name tells no ZeRO stage", config=config),
                    Message("put the file there"),
                )
            stage, offloads = int(named[1]), "offload" in str(config)
        else:
            for name in DEEPSPEED:
                if name in value and "auto" not in json.dumps(value[name]):
                    raise self._fail(
                        key,
                        Message(
                            "{config}: {name} changes what is learned, and the launcher renders its own config",
                            config=config,
                            name=name,
                        ),
                        Message("write it as TrainingArguments in this file, and `{name}: auto` there", name=name),
                    )
            zero = value.get("zero_optimization", {})
            stage = zero.get("stage", 0)
            parts = [zero.get(k) for k in ("offload_param", "offload_optimizer")]
            offloads = any(isinstance(part, dict) and part.get("device") == "cpu" for part in parts)
            if not isinstance(stage, int) or stage not in STRATEGY:
                raise self._fail(
                    key,
                    Message("{config}: stage {stage!r} is none of 0, 1, 2 and 3", config=config, stage=stage),
                    Message("correct that file"),
                )
        if offloads and stage != 3:
            self._leave(key, Message("offload of ZeRO-{stage}: only ZeRO-3 offloads here (zero3-offload)", stage=stage))
        self._leave(key, "everything in that file but the ZeRO stage: the launcher renders its own")
        return "zero3-offload" if offloads and stage == 3 else STRATEGY[stage]

    def _leave_without_effect(self) -> None:
        """Arguments that do nothing, or nothing good, beside the others. A value that is wrong by itself makes no recipe."""
        rows = self.out.values.get("training", {})
        held = self.out.values["data"].get("eval", (None, ""))[0]
        sets = tuple(held) if isinstance(held, Mapping) else ()
        values = {key: value for key, (value, _) in rows.items()}
        if any(problems.value_problem(key, value) for key, value in values.items()):
            return
        computed = list(map(metrics.load, tasks.load(self.task).default_metrics))
        for key, reason in training_rules.problems(values, metrics=computed, has_eval=held is not None, sets=sets):
            if key in self.given and rows.pop(key, None) is not None:
                self._leave(key, reason)


def short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def expected(key: str, kind: str, value: Any) -> str:
    return Message("{key}: expected {kind}, got {value!r}", key=key, kind=kind, value=value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


KINDS: dict[str, Callable[[Any], bool]] = {
    "a whole number above 0": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "a number, at least 0": lambda v: _is_number(v) and v >= 0,
    "text or a list of texts": lambda v: isinstance(v, str) or _are_texts(v),
    "text": lambda v: isinstance(v, str),
    "a number": _is_number,
    "a list of texts": _are_texts,
    "a mapping": lambda v: isinstance(v, dict),
    "a mapping of texts": lambda v: isinstance(v, dict) and _are_texts([*v, *v.values()]),
    "a mapping of lists of texts": lambda v: isinstance(v, dict) and all(map(_are_texts, v.values())),
    "a name, true or false": lambda v: isinstance(v, str | bool),
}


def to_number(value: Any) -> Any:
    """1.0e-4 without a dot is text to some YAML writers."""
    try:
        return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value) else value
    except ValueError:
        return value
