"""A LLaMA-Factory YAML as one of our recipes: what maps, with where it came from, and what does not, with the reason.

LLaMA-Factory trains a model to write; ours learns which of a few labels a text has. So its responses must be a few texts, which
become the label answers of a causal LM (or the classes of a head).
"""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import load, problems, schema, training_fields, training_rules, yamlfile
from launcher.recipe.importers.llamafactory_keys import (
    AS_HERE,
    ATTENTION,
    DEEPSPEED,
    ENTRY,
    KINDS,
    LEFT_OUT,
    LORA,
    OFF,
    REFUSED,
    STRATEGY,
    TAKEN,
    short,
    to_number,
)
from launcher.recipe.tasks import table as tasks

_METRICS = schema.RecipeSpec.model_fields["metrics"].default
MAX_LABELS = 64
"""More different responses than this are text to be written, not labels."""
MAX_LABEL_LETTERS = 80
"""A response longer than this is a text, unless --labels names it."""


@dataclass(frozen=True)
class Left:
    """A key that the recipe does not keep."""

    where: str
    key: str
    reason: str


@dataclass
class Imported:
    """The recipe's text, and what is not in it."""

    text: str
    left: list[Left]


@dataclass
class _Writer:
    """Values of the recipe in the order of its sections, each with the comment that says where it came from."""

    values: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)

    def put(self, path: str, value: Any, origin: str) -> None:
        section, _, key = path.partition(".")
        self.values.setdefault(section, {})[key] = (value, origin)

    def text(self, head: Iterable[str]) -> str:
        lines = [f"# {_one_line(line)}".rstrip() for line in head]
        for section in ("model", "data", "training", "parallel", "adapter", "metrics", "output_dir"):
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


def convert(path: Path, *, nproc: int, task: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read a training file of LLaMA-Factory.

    Args:
        path: its YAML.
        nproc: ranks that it ran on; its global batch follows.
        task: causal-lm, or sequence-classification.
        labels: the responses in the order of their numbers; () to read them from the data.

    Raises:
        LaunchError: it is no such file, trains something else, or its data are not labels.
    """
    document = yamlfile.load(path, "training")
    if not isinstance(document.value, dict) or "model_name_or_path" not in document.value:
        raise LaunchError(
            "{path}: is no training file of LLaMA-Factory: it names no model_name_or_path",
            hint="name one of its YAML files",
            path=path,
        )
    job = _Import(path, document.value, {k[0]: n for k, n in document.lines.items() if len(k) == 1}, nproc, task)
    text = job.run(labels)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "imported.yaml"
        try:
            made.write_text(text, encoding="utf-8")
        except UnicodeEncodeError:
            raise LaunchError(
                "{path}: one of its values or labels holds half of a surrogate pair, which is no text",
                hint="correct it there",
                path=path,
            ) from None
        try:
            load.load(made, env={})
        except LaunchError as error:
            raise LaunchError(
                "{path}: its values make no recipe:\n{what}",
                hint="correct them there",
                path=path,
                what=_told_there(error.what, made, path, text),
            ) from None
    return Imported(text, job.left)


def _told_there(message: str, made: Path, path: Path, text: str) -> str:
    """A message about the recipe that was made, with the line of LLaMA-Factory's file that its value came from."""
    origins = [re.search(r"# .*\(line (\d+)\)", line) for line in text.splitlines()]

    def place(found: re.Match[str]) -> str:
        origin = origins[int(found[1]) - 1]
        return f"{path}:{origin[1]}" if origin else str(path)

    return re.sub(re.escape(str(made)) + r":(\d+)", place, message).replace(str(made), str(path))


@dataclass
class _Import:
    path: Path
    given: dict[str, Any]
    lines: dict[Any, int]
    nproc: int
    task: str
    out: _Writer = field(default_factory=_Writer)
    left: list[Left] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    _seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of the local files."""

    @property
    def _has_head(self) -> bool:
        return tasks.load(self.task).has_head

    def run(self, labels: tuple[str, ...]) -> str:
        self._refuse()
        self._model()
        self._data(labels)
        self._batch()
        self._strategy()
        self._adapter()
        self.out.put("metrics.", list(_METRICS), "")
        self._move("output_dir", "output_dir.")
        self._rest()
        self.left.sort(key=lambda left: int(left.where))
        head = [
            f"From {self.path} of LLaMA-Factory, whose task is to write; here the model learns which label a text has."
        ]
        head += ["Not kept:", *(f"  {x.key} (line {x.where}): {x.reason}" for x in self.left)] if self.left else []
        return self.out.text(head)

    # -- small things ----------------------------------------------------------------------------------------------

    def _origin(self, *keys: str) -> str:
        found = [f"{k} (line {self.lines[k]})" for k in keys if k in self.given]
        return ", ".join(found)

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
            raise self._fail(
                key,
                Message("{key}: expected {kind}, got {value!r}", key=key, kind=kind, value=value),
                Message("correct that line"),
            )
        return value

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

    def _fail(self, key: str, what: str, hint: str) -> LaunchError:
        return LaunchError(f"{self.path}:{self.lines.get(key, 1)}: {what}", hint=hint)

    # -- sections --------------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        stage, kind = self.given.get("stage", "sft"), self.given.get("finetuning_type", "lora")
        if stage != "sft":
            raise self._fail(
                "stage",
                Message("stage {stage} trains no labels; only sft can", stage=stage),
                Message("use LLaMA-Factory for it"),
            )
        if kind not in ("full", "lora"):
            raise self._fail(
                "finetuning_type",
                Message("finetuning_type {kind} has no counterpart", kind=kind),
                Message("full and lora have one"),
            )
        for key, reason in REFUSED.items():
            value = self.given.get(key)
            if value not in OFF and value != AS_HERE.get(key):
                raise self._fail(
                    key,
                    Message("{key}: {value!r} changes what is learned: {reason}", key=key, value=value, reason=reason),
                    Message("remove that line to train without it"),
                )
            self.done.add(key)
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

    def _zero(self, config: Any) -> str:
        """The ZeRO stage of a config, read from the file where it is, else from its name (ds_z3_offload_config.json)."""
        value = config if isinstance(config, dict) else self._json(str(config))
        if value is not None and not (isinstance(value, dict) and isinstance(value.get("zero_optimization", {}), dict)):
            raise self._fail(
                "deepspeed",
                Message("{config}: is no config of DeepSpeed", config=config),
                Message("its zero_optimization says the stage"),
            )
        if value is None:
            named = re.search(r"z(?:ero)?_?([0-3])", Path(str(config)).name)
            if named is None:
                raise self._fail(
                    "deepspeed",
                    Message("{config}: no such file, and its name tells no ZeRO stage", config=config),
                    Message("put the file there"),
                )
            stage, offloads = int(named[1]), "offload" in str(config)
        else:
            for name in DEEPSPEED:
                if name in value and "auto" not in json.dumps(value[name]):
                    raise self._fail(
                        "deepspeed",
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
                    "deepspeed",
                    Message("{config}: stage {stage!r} is none of 0, 1, 2 and 3", config=config, stage=stage),
                    Message("correct that file"),
                )
        if offloads and stage != 3:
            self._leave(
                "deepspeed", Message("offload of ZeRO-{stage}: only ZeRO-3 offloads here (zero3-offload)", stage=stage)
            )
        self._leave("deepspeed", "everything in that file but the ZeRO stage: the launcher renders its own")
        return "zero3-offload" if offloads and stage == 3 else STRATEGY[stage]

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

    # -- data ------------------------------------------------------------------------------------------------------

    def _data(self, labels: tuple[str, ...]) -> None:
        train = self._datasets("dataset", labels)
        if not train:
            raise self._fail("dataset", Message("names no dataset"), Message("a training file has `dataset:`"))
        other = self._datasets("eval_dataset", labels)
        first, origin = train[0], self._origin("dataset")
        if other and _make(first) != _make(other[0]):
            raise self._fail(
                "eval_dataset",
                Message(
                    "{title} and {first_title} are of different make",
                    title=other[0]["title"],
                    first_title=first["title"],
                ),
                Message(
                    "a recipe has one kind of data: files of one format with the same columns, or splits of one hub id"
                ),
            )
        for key in ("path", "name"):
            if first.get(key):
                self.out.put(f"data.{key}", first[key], origin)
        files = [row["file"] for row in train if "file" in row]
        if files:
            both = {"train": files[0] if len(files) == 1 else files}
            if other:
                held = [row["file"] for row in other]
                both["test"] = held[0] if len(held) == 1 else held
            self.out.put("data.data_files", both, self._origin("dataset", "eval_dataset"))
        rows = [self._seen[name] for name in files]
        self._columns(first, [row for part in rows for row in part], labels)
        self._splits(first, other, [len(part) or None for part in rows] or [None])
        self.out.put("data.max_length", self._take("cutoff_len", 2048), self._origin("cutoff_len") or "its default")
        self._move("preprocessing_num_workers", "data.num_proc")

    def _splits(self, first: dict[str, Any], other: list[dict[str, Any]], sizes: list[int | None]) -> None:
        """Which rows train and which are held out. `sizes`: rows of each training set, where they are known.

        LLaMA-Factory takes max_samples of each set first and holds out val_size of what is left (its data/loader.py).
        """
        limit = self._take("max_samples", None, Message("a whole number above 0"))
        share, split = self._take("val_size", 0, Message("a number, at least 0")), first["split"]
        origin = self._origin("max_samples", "val_size", "eval_dataset")
        taken = [size if limit is None else min(limit, size or limit) for size in sizes]
        total = None if None in taken else sum(n for n in taken if n is not None)
        train: dict[str, Any] = {"split": split}
        held: dict[str, Any] | None = None
        if other:
            if share:
                self._leave("val_size", "the rows of eval_dataset are held out")
            held = {"split": "test" if "file" in other[0] else other[0]["split"]}
            if limit:
                held["limit"] = limit * len(other)
        elif share:
            cut = self._cut(share, total)
            train["split"], held = f"{split}[:{cut}]", {"split": f"{split}[{cut}:]"}
            if total is not None:
                total += int(cut)  # so many less
            self._leave("val_size", "which rows: the last ones of the split here, drawn at random there")
        if limit:
            train["limit"] = total
        self.out.put("data.train", train, origin)
        self.out.put("data.eval", held, origin or "it names none")

    def _cut(self, share: float, total: int | None) -> str:
        """Where a split is cut so that its end is held out: a number of rows, or of percents where rows are not known."""
        if share >= 1 or total is not None:
            rows = int(share) if share >= 1 else math.ceil(share * (total or 0))
            if total is not None and rows >= total:
                raise self._fail(
                    "val_size",
                    Message("{share:g} of {total} rows leaves none to train on", share=share, total=total),
                    Message("hold out fewer"),
                )
            return f"-{rows}"
        percent = max(1, round(100 * share))
        if not math.isclose(percent, 100 * share):
            self._leave(
                "val_size",
                Message(
                    "{share:g}, which is {percent} % here: a split that is not on this machine is cut at whole "
                    "percents",
                    share=share,
                    percent=percent,
                ),
            )
        return f"{100 - percent}%"

    def _columns(self, first: dict[str, Any], rows: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """Which column is the text and which the label; a constant instruction becomes the prompt."""
        columns, title = first["columns"], first["title"]
        prompt, query, response, system_column = (columns.get(k) for k in ("prompt", "query", "response", "system"))
        if query is not None and not rows:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: its rows cannot be seen here, so nobody knows whether the text is in {prompt!r} or "
                    "in {query!r}",
                    title=title,
                    prompt=prompt,
                    query=query,
                ),
                Message(
                    "name the text's column as prompt in dataset_info.json, without query, or make it a local JSON file"
                ),
            )
        for name in [c for c in (prompt, query, response, system_column) if c is not None]:
            odd = next((row[name] for row in rows if not isinstance(row.get(name), str | int | float | None)), None)
            if odd is not None:
                raise self._fail(
                    "dataset",
                    Message(
                        "{title}: the column {name!r} is not text: {dumps}",
                        title=title,
                        name=name,
                        dumps=json.dumps(odd)[:40],
                    ),
                    Message("a recipe needs a text and a label a row"),
                )
        number = next((i for i, row in enumerate(rows, 1) if row.get(columns.get("history", ""))), None)
        if number is not None:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: row {number} has earlier turns in {history!r}, and a recipe has one text a row",
                    title=title,
                    number=number,
                    history=columns["history"],
                ),
                Message("join them with the text in the data"),
            )
        instructions = {row.get(prompt) or "" for row in rows}
        has_query = query is not None and any(row.get(query) for row in rows)
        for needed in (query if has_query else prompt, response):
            number = next((i for i, row in enumerate(rows, 1) if row.get(needed) is None), None)
            if number is not None:
                raise self._fail(
                    "dataset",
                    Message("{title}: row {number} has no {needed!r}", title=title, number=number, needed=needed),
                    Message("correct the data, or name its columns in dataset_info.json"),
                )
        system = {row.get(system_column) or "" for row in rows}
        origin = Message("columns of {title} in {info}", title=title, info=first["info"])
        if has_query and len(instructions) > 1:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: rows differ both in {prompt!r} and in {query!r}, and a recipe has one text column",
                    title=title,
                    prompt=prompt,
                    query=query,
                ),
                Message("join the two columns in the data"),
            )
        text = query if has_query else prompt
        self.out.put("data.text", text, origin)
        self.out.put("data.label", response, origin)
        if has_query and not self._has_head and instructions != {""}:
            self.out.put(
                "data.prompt",
                f"{next(iter(instructions))}\n{{text}}",
                Message("the {prompt!r} of all rows", prompt=prompt),
            )
        elif has_query and instructions != {""}:
            self._leave(
                "dataset",
                Message(
                    "the {prompt!r} that all rows share: a classification head reads the text alone", prompt=prompt
                ),
            )
        if len(system) == 1 and not self._has_head:
            if system != {""}:
                self.out.put(
                    "data.system",
                    next(iter(system)),
                    Message("the {system_column!r} of all rows", system_column=system_column),
                )
        elif system_column is not None:
            why = (
                Message("a classification head reads the text alone")
                if self._has_head
                else Message("a recipe has one for all rows")
            )
            self._leave("dataset", Message("the column {system_column!r}: {why}", system_column=system_column, why=why))
        found = list(dict.fromkeys(str(row.get(response)) for row in rows))
        names = labels or tuple(sorted(found))
        if not names:
            raise self._fail(
                "dataset",
                Message("{title}: its rows cannot be seen here, so nobody knows its labels", title=title),
                Message("name them: --labels bad,good"),
            )
        if len(names) < 2:
            raise self._fail(
                "dataset",
                Message("{title}: every row has the response {name}", title=title, name=short(names[0])),
                Message("there is nothing to tell apart: name data with two labels or more"),
            )
        if rows and (never := [name for name in labels if name not in found]):
            self._leave(
                "dataset",
                Message(
                    "no row of {title} has the label {never}, which --labels names",
                    title=title,
                    never=", ".join(map(repr, never)),
                ),
            )
        self.out.put(
            "model.label_names",
            list(names),
            "--labels" if labels else Message("the different {response!r} of the data", response=response),
        )

    def _datasets(self, key: str, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        names = self._names(key)
        self.done.add("dataset_dir")
        if not names:
            return []
        folder = Path(str(self.given.get("dataset_dir", "data")))
        info_path = next(
            (
                p
                for p in (
                    folder / "dataset_info.json",
                    self.path.parent / folder / "dataset_info.json",
                    self.path.parent / "dataset_info.json",
                )
                if p.is_file()
            ),
            None,
        )
        if info_path is None:
            raise self._fail(
                key,
                Message("no dataset_info.json in {folder}", folder=folder),
                Message("put it there, or set dataset_dir in that file"),
            )
        info = _read_json(info_path)
        if not isinstance(info, dict):
            raise LaunchError(
                "{info_path}: is no mapping of data sets' names", hint="correct that file", info_path=info_path
            )
        found = [self._dataset(key, name, info, info_path) for name in names]
        self._require_labels(key, found, labels)
        for row in found[1:]:
            if _make(row) != _make(found[0]) or "file" not in row:
                raise self._fail(
                    key,
                    Message(
                        "{title} and {actual_title} are of different make",
                        title=row["title"],
                        actual_title=found[0]["title"],
                    ),
                    Message("a recipe has one kind of data: name one of them"),
                )
        return found

    def _require_labels(self, key: str, sets: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """Labels repeat and texts do not: refuse data to write from, whatever else is wrong with them.

        Raises:
            LaunchError: responses that are texts, or that --labels does not name.
        """
        for one in sets:
            if "file" in one and one["file"] not in self._seen:
                self._seen[one["file"]] = one.get("rows") or _rows(Path(one["file"]))
        rows = [row for one in sets if "file" in one for row in self._seen[one["file"]]]
        title = ", ".join(one["title"] for one in sets)
        column = sets[0]["columns"].get("response")
        counts = Counter(str(row[column]) for row in rows if isinstance(row.get(column), str | int | float))
        if len(rows) < 2 or not counts:
            return
        if labels:
            number, odd = next(
                ((i, str(row.get(column))) for i, row in enumerate(rows, 1) if str(row.get(column)) not in labels),
                (0, ""),
            )
            if number:
                raise self._fail(
                    key,
                    Message(
                        "{title}: row {number} has the response {odd}, which --labels does not name",
                        title=title,
                        number=number,
                        odd=short(odd),
                    ),
                    Message("name every response that the data has, or leave --labels out"),
                )
            return
        once = sum(1 for count in counts.values() if count == 1)
        long = max(counts, key=len)
        if len(counts) > MAX_LABELS or 2 * once > len(rows):
            why: str = Message(
                "{num_counts} different responses in {num_rows} rows, {once} of them once",
                num_counts=len(counts),
                num_rows=len(rows),
                once=once,
            )
        elif len(long) > MAX_LABEL_LETTERS or "\n" in long.strip():
            why = Message("a response is a text: {long}", long=short(long))
        else:
            return
        few = "" if len(counts) > MAX_LABELS else Message("; if these are labels, name them: --labels A,B")
        raise self._fail(
            key,
            Message("{title}: {why}: this model is to write, not to label", title=title, why=why),
            Message(
                "LLaMA-Factory trains that; ascend-launch trains labels, which repeat from row to row{few}", few=few
            ),
        )

    def _dataset(self, key: str, name: str, info: dict[str, Any], info_path: Path) -> dict[str, Any]:
        entry = info.get(name)
        if entry is None:
            raise self._fail(
                key,
                Message("{info_path} has no {name!r}", info_path=info_path, name=name),
                Message("it has {info}", info=", ".join(list(info)[:8]) or "nothing"),
            )
        texts = ("formatting", "file_name", "hf_hub_url", "subset", "split")
        given = entry.get("columns") or {} if isinstance(entry, dict) else None
        if not isinstance(given, dict) or not all(
            isinstance(v, str) for v in [*given.values(), *(entry[k] for k in texts if entry.get(k) is not None)]
        ):
            raise LaunchError(
                "{info_path}: {name}: not an entry as LLaMA-Factory reads it: {dumps}",
                hint="it is a mapping with file_name or hf_hub_url, and columns by name",
                info_path=info_path,
                name=name,
                dumps=json.dumps(entry, ensure_ascii=False)[:60],
            )
        if entry.get("formatting", "alpaca") != "alpaca" or entry.get("ranking"):
            self._require_labels(key, [_conversations(name, entry, info_path)], ())
            raise self._fail(
                key,
                Message(
                    "{name}: {formatting} data are conversations or rankings",
                    name=name,
                    formatting=entry.get("formatting", "ranking"),
                ),
                Message("a recipe needs a text and a label a row: export them as JSON lines"),
            )
        columns = {"prompt": "instruction", "query": "input", "response": "output", **given}
        if given and "query" not in given:
            columns.pop("query")
        if "history" in columns:
            self._leave(
                key, Message("the column {history!r}: a row is one question and one answer", history=columns["history"])
            )
        for odd in sorted(entry.keys() - ENTRY):
            self._leave(key, Message("{odd!r} of {name} in {info_path}", odd=odd, name=name, info_path=info_path.name))
        row = {"title": name, "info": info_path.name, "columns": columns, "split": entry.get("split", "train")}
        if "hf_hub_url" in entry:
            return {**row, "path": entry["hf_hub_url"], "name": entry.get("subset")}
        if "file_name" not in entry:
            keys = ", ".join(entry.keys() - ENTRY) or "nothing"
            raise self._fail(
                key,
                Message(
                    "{info_path}: {name} names no file and no data set of Hugging Face's hub: it has {keys}",
                    info_path=info_path,
                    name=name,
                    keys=keys,
                ),
                Message("download it, and name its file as file_name"),
            )
        file = info_path.parent / str(entry["file_name"])
        if file.is_dir():
            raise self._fail(
                key,
                Message("{name}: {file} is a folder", name=name, file=file),
                Message("name one file of it as file_name, or each as a data set of its own"),
            )
        if not file.is_file():
            raise self._fail(
                key, Message("{name}: {file}: no such file", name=name, file=file), Message("check dataset_info.json")
            )
        kind = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(file.suffix, "json")
        return {**row, "path": kind, "file": str(file), "split": "train"}

    def _json(self, name: str) -> Any:
        return next((_read_json(p) for p in (Path(name), self.path.parent / name) if p.is_file()), None)

    # -- the rest --------------------------------------------------------------------------------------------------

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
        for key, value in self.given.items():
            if key in self.done:
                continue
            if key in LEFT_OUT:
                self._leave(key, LEFT_OUT[key])
            elif value is not None and key in training_fields.fields():
                meant = training_fields.as_meant(key, to_number(value))
                problem = training_fields.problem(key, meant)
                if problem is None:
                    self.out.put(f"training.{key}", meant, self._origin(key))
                elif key in training_fields.OWNED:
                    self._leave(key, problem)
                else:
                    raise self._fail(key, f"{key}: {problem}", Message("correct or remove that line"))
            else:
                self._leave(key, "has no counterpart here")
        self._leave_without_effect()

    def _leave_without_effect(self) -> None:
        """Arguments that do nothing, or nothing good, beside the others. A value that is wrong by itself makes no recipe."""
        rows = self.out.values.get("training", {})
        has_eval = self.out.values["data"].get("eval", (None, ""))[0] is not None
        values = {key: value for key, (value, _) in rows.items()}
        if any(problems.value_problem(key, value) for key, value in values.items()):
            return
        for key, reason in training_rules.problems(values, metrics=_METRICS, has_eval=has_eval):
            if key in self.given and rows.pop(key, None) is not None:
                self._leave(key, reason)

    def _saves(self) -> None:
        """Saves by steps where the file leaves it to transformers' default, which is no default of a recipe."""
        if self.given.get("save_strategy") is None:
            self.done.add("save_strategy")
            self.out.put("training.save_strategy", "steps", "its default")
            if self.given.get("save_steps") is None:
                self.out.put("training.save_steps", 500, "its default")


def _conversations(name: str, entry: dict[str, Any], info_path: Path) -> dict[str, Any]:
    """Conversations as rows with the last turn's text, which tells whether they are to be learned as labels or as texts."""
    columns = {"messages": "conversations", **(entry.get("columns") or {})}
    tags = {"content_tag": "value", **(entry.get("tags") or {})}
    dataset: dict[str, Any] = {"title": name, "columns": {"response": "answer"}}
    file = info_path.parent / str(entry.get("file_name", ""))
    if entry.get("ranking") or not file.is_file():
        return dataset
    turns = [row.get(columns["messages"]) for row in _rows(file)]
    last = [t[-1] for t in turns if isinstance(t, list) and t and isinstance(t[-1], dict)]
    answers = [turn.get(tags["content_tag"], turn.get("content")) for turn in last]
    return {**dataset, "file": f"{file}#answers", "rows": [{"answer": answer} for answer in answers]}


def _make(dataset: dict[str, Any]) -> tuple[Any, ...]:
    """What rows must have in common to be read as one."""
    return dataset["path"], dataset.get("name"), dataset["columns"], "file" in dataset


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a local file; none of a kind that is not read here, whose labels must be named."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        if path.suffix not in (".json", ".jsonl", ".csv"):
            return []
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines(keepends=True)))
        value = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
        if odd := [i for i, row in enumerate(value, 1) if not isinstance(row, dict)]:
            raise ValueError(Message("row {odd} is no JSON object", odd=odd[0]))
    except UnicodeDecodeError as error:
        raise LaunchError(
            "{path}: is not UTF-8 text (its byte {start})",
            hint="write it as UTF-8, for Chinese text of Excel: iconv -f GB18030 -t UTF-8 {value} > NEW",
            path=path,
            start=error.start,
            value=shlex.quote(str(path)),
        ) from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise LaunchError("{path}: cannot be read: {error}", hint="correct that file", path=path, error=error) from None
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError("{path}: cannot be read: {error}", hint="correct that file", path=path, error=error) from None
