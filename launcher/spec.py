"""The recipe: its schema, and its loading. Every mistake is reported at once, each with file:line and what to do."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from launcher import assets, scrub, training_fields, training_rules, yamlfile
from launcher.errors import LaunchError
from launcher.strategies import table as strategies


def _strategy(value: object, *others: str) -> str:
    if isinstance(value, str) and (value in others or value in strategies.TABLE):
        return value
    *names, last = map(repr, (*others, *strategies.TABLE.names()))
    raise PydanticCustomError(  # as of a Literal
        "literal_error", "Input should be {expected}", {"expected": f"{', '.join(names)} or {last}"}
    )


Strategy = Annotated[str, BeforeValidator(_strategy)]
"""A name in the table of strategies."""
StrategyOrAuto = Annotated[str, BeforeValidator(lambda value: _strategy(value, strategies.AUTO))]
Precision = Literal["bf16", "fp16", "fp32"]
PrecisionOrAuto = Literal["auto", "bf16", "fp16", "fp32"]
SizeOrAuto = PositiveInt | Literal["auto"]
Metric = Literal["accuracy", "precision", "recall", "f1", "mae", "confusion_matrix"]
Text = Annotated[str, Field(min_length=1)]

ENV_PREFIX = "ASCEND_LAUNCH_"
ENV_NOT_RECIPE = frozenset(
    {"CACHE", "NPROC", "DEVICE", "LANG", "NNODES", "NODE_RANK", "RDZV_ENDPOINT", "RUN_DIR", "SECRET"}
)
"""ASCEND_LAUNCH_* variables that are not recipe keys: the cache folder, defaults of command line options, and the run
directory that a script's ranks are told."""


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys and converts nothing: `"5"` is no number, `true` is no 1.

    Read it with model_validate_json: strict JSON takes lists for tuples, strict Python values would not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Model(Section):
    """Which model is fine-tuned, and to do what."""

    name: Text
    """Hub id, or a folder (absolute, or relative to where the command runs; `shipped:` begins a path below the shipped recipes)."""
    task: Literal["sequence-classification", "causal-lm"] = "sequence-classification"
    """A classification head on the model, or a chat whose answer is the label."""
    num_labels: Annotated[int, Field(ge=2)] | None = None
    """Number of classes. Labels in the data run from 0 to num_labels - 1, or are so many values, numbered in order."""
    label_names: tuple[Text, ...] | None = None
    """One name a label, written into the model's config and into reports."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: Text | None = None
    """Hub id or folder of the tokenizer, when it is not the model's own."""
    gguf_file: Text | None = None
    """A GGUF file inside `name`, dequantised on load (an extra: `pip install ascend-launch[gguf]`)."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where `name` is fetched from when it is no folder."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """As in from_pretrained; transformers chooses where it is left out."""


class Split(Section):
    """Rows of one split: `shuffle(seed)`, then the first `limit`, both before tokenising."""

    split: Text = "train"
    """A split of the dataset."""
    limit: PositiveInt | None = None
    """Rows that are kept; all where it is left out."""
    seed: NonNegativeInt = 42
    """Of the shuffle before the limit."""


class EvalSplit(Split):
    """The rows that are evaluated."""

    split: Text = "test"
    """A split of the dataset."""


NO_MODEL = "-"
"""model.name of a job that is the user's own program."""
NO_DATA = "-"
"""data.path of weights of which nobody knows on what they were trained."""


class Data(Section):
    """Where rows come from, in load_dataset's own arguments, and which columns are used."""

    path: Text
    """A dataset id, a folder, or a builder name such as `json` or `csv` together with `data_files`."""
    name: Text | None = None
    """Configuration of the dataset."""
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    """A file, several, or a mapping from split to files. With csv, a file named .tsv has tabs between its columns."""
    data_dir: Text | None = None
    """Folder inside the dataset."""
    revision: Text | None = None
    """Branch, tag or commit of the dataset."""
    train: Split = Split()
    """The rows that are trained on."""
    eval: EvalSplit | None = EvalSplit()
    """The rows that are evaluated; null for none."""
    text: Text = "text"
    """Column with the text."""
    label: Text = "label"
    """Column with the label: a whole number, or a name of model.label_names. Names that are numbers name the data's."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens kept of a row. Rows are padded to the longest of their batch, never to this."""
    prompt: str | None = None
    """causal-lm: the user message, with `{text}` where the row's text goes."""
    system: Text | None = None
    """causal-lm: the system message, if any."""
    answers: tuple[Text, ...] | None = None
    """causal-lm: the answer text of each label. Default: model.label_names, else the label's number."""
    num_proc: PositiveInt | None = None
    """Processes that tokenise. Default: one a core for large data, one for small."""


class DeepSpeed(Section):
    """Keys of DeepSpeed's `zero_optimization` that change speed and memory, not what is trained. What is left out is the launcher's choice, as `--dry-run` shows it."""

    overlap_comm: bool | None = None
    """Reduce gradients while others are computed, in a second bucket. Left out: on cards from DeepSpeed 0.19.3 on, whose fixes make it safe, else false."""
    contiguous_gradients: bool | None = None
    """Copy gradients into one buffer as they come. Left out: true."""
    reduce_bucket_size: PositiveInt | None = None
    """Elements that are reduced at once."""
    allgather_bucket_size: PositiveInt | None = None
    """zero1 and zero2: elements that are gathered at once."""
    stage3_prefetch_bucket_size: NonNegativeInt | None = None
    """zero3: elements that are gathered ahead of their use."""
    stage3_param_persistence_threshold: NonNegativeInt | None = None
    """zero3: parameters smaller than this stay whole on every rank."""
    stage3_max_live_parameters: NonNegativeInt | None = None
    """zero3: elements that one rank may hold whole at a time."""
    stage3_max_reuse_distance: NonNegativeInt | None = None
    """zero3: a parameter stays whole that is used again within so many elements."""

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        # `5e8` is how DeepSpeed's own examples write a size.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def given(self) -> dict[str, Any]:
        """The keys that are there."""
        return self.model_dump(exclude_none=True)


class Parallel(Section):
    """How the job is spread over ranks. Recipes carry no hosts, ports or card numbers."""

    strategy: StrategyOrAuto = "auto"
    """What ranks share: see strategies.md. auto takes the fastest that fits."""
    precision: PrecisionOrAuto = "auto"
    """auto is bf16 where the chip has it, else fp16 with loss scaling, and fp32 on CPU."""
    global_batch_size: PositiveInt = 8
    """Rows in one optimizer step, kept at any number of ranks."""
    micro_batch_size: SizeOrAuto = "auto"
    """Rows one rank holds at a time. Accumulation follows: global / (ranks x micro)."""
    eval_batch_size: SizeOrAuto = "auto"
    """Rows one rank evaluates at a time."""
    deepspeed: DeepSpeed | None = None
    """Sizes and switches of DeepSpeed, for zero1 to zero3-offload."""


class Adapter(Section):
    """LoRA, by peft.LoraConfig's own names (an extra: `pip install ascend-launch[lora]`)."""

    type: Literal["lora"] = "lora"
    """The only kind there is."""
    r: PositiveInt = 8
    """Rank of the two factors."""
    lora_alpha: PositiveInt = 16
    """Scale: alpha / r, or alpha / sqrt(r) with use_rslora."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the first factor."""
    target_modules: Text | tuple[Text, ...] = "all-linear"
    """Names of the layers that are adapted, or all-linear for every linear layer but the head."""
    modules_to_save: tuple[Text, ...] | None = None
    """Layers trained whole beside the factors; the head of a classifier is among them by itself."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    use_rslora: bool = False
    """Rank-stabilised scale."""
    use_dora: bool = False
    """Weight-decomposed LoRA; not with ZeRO-3."""


class RecipeSpec(Section):
    """A whole recipe, checked."""

    model: Model = Model(name=NO_MODEL)
    data: Data = Data(path=NO_DATA)
    training: dict[str, Any] = {}
    """TrainingArguments by their own names."""
    parallel: Parallel = Parallel()
    metrics: tuple[Metric, ...] = ("accuracy", "f1")
    """Scores of an evaluation: accuracy, precision, recall, f1 (the last three averaged over labels), mae (labels in an order) and confusion_matrix."""
    adapter: Adapter | None = None
    output_dir: Text = "runs"
    """Folder that runs are kept below."""
    report: bool = True
    """Write report.html when a run ends, which takes about 2 s of one core; `ascend-launch report RUN` writes it at any time."""
    script: Text | None = None
    """A Python file beside the recipe that replaces the built-in Trainer recipe on every rank; it needs no model and no data."""
    args: tuple[Text | int | float, ...] = ()
    """Arguments of the script, as a list of words."""


@dataclass(frozen=True)
class Loaded:
    """A recipe together with where each of its values came from."""

    spec: RecipeSpec
    name: str
    path: Path
    origins: dict[str, str]
    """`training.learning_rate` → `recipes/yelp.yaml:21`, `command line`, `environment ASCEND_LAUNCH_…` or `default`."""
    recipe_dir: Path | None = None
    """Where `script:` lies, for a recipe that is a run directory's own; None beside the recipe."""
    pins: tuple[str, ...] = ()
    """KEY=VALUE words for paths that were given by a link, with what it led to when the job was planned."""


def load(
    path: Path,
    overrides: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    *,
    trains_here: bool = False,
    recipe_dir: Path | None = None,
) -> Loaded:
    """Read, merge and check a recipe: defaults, then files from the base up, then environment, then overrides.

    Args:
        path: the recipe file.
        overrides: `KEY=VALUE` words, dotted keys, YAML values.
        env: the environment to read ASCEND_LAUNCH_* from; os.environ when None.
        trains_here: look for the packages that the training needs in this environment, too.
        recipe_dir: the folder of `script:`; the recipe's own when None.

    Raises:
        LaunchError: with every mistake in it, one line each.
    """
    layers = _Layers()
    _file_layer(layers, path, [])
    _env_layer(layers, os.environ if env is None else env)
    _override_layer(layers, overrides)
    if _has_nul(layers, layers.values):
        layers.raise_if_any()  # before anything looks for such a file
    _refuse_secrets(layers)
    _locate(layers)
    spec = _validate(layers)
    for name, text in training_rules.missing_packages(spec.training) if trains_here else ():
        layers.mistake(("training", name), text)
    script = spec.script and ((recipe_dir or path.parent) / spec.script)
    if script and not script.is_file():
        layers.mistake(("script",), f"{script}: no such file")
    elif script and _shadows(script):
        layers.mistake(("script",), f"a file named {script.name} hides the library of that name; rename it")
    layers.raise_if_any()
    return Loaded(spec, path.stem, path, _origins(spec, layers), recipe_dir)


def _refuse_secrets(layers: _Layers) -> None:
    """A recipe is copied into run directories, batch scripts and manifests, and every node tells the others of it."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), layers.values)]
    for path, value in todo:
        if isinstance(value, str) and scrub.has_url_secret(value):
            layers.mistake(
                path, "holds a user, a password or a token in a URL, and a recipe is copied into the run directory; "
                "leave it out, and have ~/.netrc or a variable such as HF_TOKEN tell it"
            )  # fmt: skip
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        todo += [((*path, key), one) for key, one in inner]


class _Layers:
    """The merged values so far, the origin of each leaf, and the mistakes found on the way."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origin: dict[tuple[str | int, ...], str] = {}
        self.mistakes: list[str] = []

    def merge(self, values: Mapping[str, Any], origin: Mapping[tuple[str | int, ...], str]) -> None:
        _merge(self.values, values, (), self.origin)
        self.origin.update(origin)

    def where(self, path: tuple[str | int, ...]) -> str:
        """The origin of `path`, or of the nearest enclosing value that has one."""
        if path and path not in self.origin:  # `foo.bar=1` has an origin, and `foo` is what is wrong with it
            below = [origin for given, origin in self.origin.items() if given[: len(path)] == path]
            if below:
                return below[0]
        for end in range(len(path), -1, -1):
            if path[:end] in self.origin:
                return self.origin[path[:end]]
        return "recipe"

    def mistake(self, path: tuple[str | int, ...], text: str) -> None:
        dotted = ".".join(str(p) for p in path)
        where = self.where(path).removesuffix(f" {dotted}")  # `command line training.seed`: the key follows
        self.mistakes.append(f"{where}: {dotted + ': ' if dotted else ''}{text}")

    def raise_if_any(self) -> None:
        if self.mistakes:
            mistakes = sorted(dict.fromkeys(self.mistakes), key=_position)
            raise LaunchError(
                "\n".join(mistakes),
                hint=_place(mistakes[0]) if len(mistakes) == 1 else f"correct these {len(mistakes)} errors",
            )


def _place(mistake: str) -> str:
    """What to do about a single mistake: where it is to be corrected."""
    if mistake.startswith("command line"):
        return "correct that word of the command line"
    if mistake.startswith("environment "):
        return "change or unset that variable"
    found = re.match(r"(.*?):(\d+): (?:([\w.]+): )?", mistake)
    if found is None:
        return "add it to the recipe, or as KEY=VALUE on the command line"
    if found[3] and Path(found[1]) in assets.recipes():  # installed, and not the user's to edit
        return f"set {found[3]} on the command line; {found[3]}=null is its default"
    return f"correct line {found[2]} of {found[1]}"


def _position(mistake: str) -> tuple[bool, str, int]:
    """In the order of a file's lines; what comes from the environment or the command line after them."""
    found = re.match(r"(.*?):(\d+): ", mistake)
    return (found is None, found[1] if found else "", int(found[2]) if found else 0)


def _merge(into: dict[str, Any], values: Mapping[str, Any], at: tuple[str | int, ...], origin: dict[Any, str]) -> None:
    for key, value in values.items():
        here = (*at, key)
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, here, origin)
            continue
        for old in [p for p in origin if p[: len(here)] == here]:
            del origin[old]
        into[key] = _copy(value)


def _copy(value: Any) -> Any:
    # Values are shared where YAML aliases are, and layers are merged in place.
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _file_layer(layers: _Layers, path: Path, seen: list[Path]) -> None:
    document = yamlfile.load(path)
    if not isinstance(document.value, dict):
        kind = "empty" if document.value is None else f"a {type(document.value).__name__}"
        raise LaunchError(
            f"{path}:1: a recipe is a mapping of keys, this is {kind}", hint=f"keys are {_keys(RecipeSpec)}"
        )
    values = dict(document.value)
    base = values.pop("extends", None)
    if base is not None:
        line = document.lines[("extends",)]
        if not isinstance(base, str):
            raise LaunchError(f"{path}:{line}: extends: expected a file name, got {base!r}", hint="name one recipe")
        base_path = path.parent / base
        if not base_path.is_file():
            base_path = assets.recipe(Path(base))
        if base_path.resolve() in [p.resolve() for p in [*seen, path]]:
            raise LaunchError(
                f"{path}:{line}: extends: {base} leads back to itself",
                hint=f"name another file; `extends: {base_path.stem}` is the shipped recipe of that name"
                if base_path.stem in [shipped.stem for shipped in assets.recipes()]
                else "name another file",
            )
        if not base_path.is_file():
            raise LaunchError(
                f"{path}:{line}: extends: {path.parent / base}: no such file",
                hint="name a file beside the recipe, or a shipped recipe: `ascend-launch recipes` lists them",
            )
        _file_layer(layers, base_path, [*seen, path])
    layers.merge(values, {p: f"{path}:{line}" for p, line in document.lines.items() if p[:1] != ("extends",)})


def _env_layer(layers: _Layers, env: Mapping[str, str]) -> None:
    sections = RecipeSpec.model_fields
    for variable in sorted(v for v in env if v.startswith(ENV_PREFIX)):
        rest = variable.removeprefix(ENV_PREFIX)
        if rest in ENV_NOT_RECIPE:
            continue
        keys = [part.lower() for part in rest.split("__")]
        if keys[0] not in sections:
            layers.mistakes.append(
                f"environment {variable}: no recipe key `{'.'.join(keys)}`; write ASCEND_LAUNCH_<SECTION>__<KEY>"
            )
            continue
        _set(layers, keys, env[variable], f"environment {variable}")


def _override_layer(layers: _Layers, overrides: Iterable[str]) -> None:
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            layers.mistakes.append(f"command line: {word!r} is not KEY=VALUE (as in training.learning_rate=1e-5)")
            continue
        _set(layers, key.split("."), text, f"command line {key}")


def _set(layers: _Layers, keys: list[str], text: str, origin: str) -> None:
    if keys[0] == "training" and not text.strip():  # as of `training.seed=$SEED` without a SEED
        layers.mistakes.append(f"{origin}: no value is given; null stands for the default")
        return
    try:
        value = yamlfile.scalar(text)
    except ValueError as error:
        layers.mistakes.append(f"{origin}: {text!r} is not a YAML value ({error})")
        return
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    parent = layers.values
    for i, key in enumerate(keys[:-1]):
        if key in parent and not isinstance(parent[key], dict):
            # `data.data_files.train=F` replaces a single file by a mapping of splits.
            here = tuple(keys[: i + 1])
            layers.origin = {p: o for p, o in layers.origin.items() if p[: i + 1] != here} | {here: origin}
            parent[key] = {}
        parent = parent.setdefault(key, {})
    layers.merge(nested, {tuple(keys): origin})


_PATHS = (("model", "name"), ("model", "tokenizer"), ("data", "path"), ("data", "data_files"), ("data", "data_dir"))


def _locate(layers: _Layers) -> None:
    for section, key in _PATHS:
        values = layers.values.get(section)
        if isinstance(values, dict) and key in values:
            values[key] = assets.located(values[key])


# -- validation ----------------------------------------------------------------------------------------------------


def _validate(layers: _Layers) -> RecipeSpec:
    good: dict[str, Any] = {}
    for key in layers.values:
        if key not in RecipeSpec.model_fields:
            layers.mistake((key,), "unknown key" + (_peer_hint(key) or _did_you_mean(key, RecipeSpec)))
    for key in RecipeSpec.model_fields:
        if layers.values.get(key) is None and (key in ("model", "data") or key not in layers.values):
            if key in ("model", "data") and not layers.values.get("script"):
                layers.mistake((), f"`{key}:` is missing")
            continue
        holder = _One[key]
        value = layers.values[key]
        if value is None:  # `adapter:` with everything under it commented out
            continue
        try:
            good[key] = getattr(holder.model_validate_json(_json({key: value})), key)
        except ValidationError as error:
            _report(layers, error)
    if good.get("args") and not good.get("script"):
        layers.mistake(("args",), "arguments of a script, and there is no `script:`")
    _check_training(layers, good)
    _check_combinations(layers, good)
    layers.raise_if_any()
    return RecipeSpec(**good)


def _has_nul(layers: _Layers, value: Any, path: tuple[str | int, ...] = ()) -> bool:
    """Whether a path, name or word holds a NUL; each is noted. The system's calls would refuse it later, in their words."""
    if isinstance(value, str):
        if "\0" in value:
            layers.mistake(path, f"{value!r} holds a NUL character (\\0), which no path or text may")
        return "\0" in value
    if not isinstance(value, dict | list):
        return False
    found = isinstance(value, dict) and _has_nul(layers, list(value), path)
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    return any([found, *(_has_nul(layers, inner, (*path, key)) for key, inner in rows)])


def _json(value: Any) -> str:
    # YAML also knows dates and sets; as text they fail the check of a field that wants no text.
    return json.dumps(value, default=str)


def _holders() -> dict[str, type[BaseModel]]:
    # One model a section, so that a mistake in one section does not hide the checks of the others.
    from pydantic import create_model

    return {
        key: create_model(
            f"One_{key}", __config__=ConfigDict(extra="forbid", strict=True), **{key: (field.annotation, ...)}
        )  # type: ignore[call-overload]
        for key, field in RecipeSpec.model_fields.items()
    }


_One = _holders()

_EXPECTED = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "string_too_short": "must not be empty",
}


def _report(layers: _Layers, error: ValidationError) -> None:
    by_path: dict[tuple[str | int, ...], list[Any]] = {}
    for item in error.errors():
        # pydantic adds the branch of a union to the path; only what is in the recipe counts.
        by_path.setdefault(_recipe_path(item["loc"], layers.values), []).append(item)
    for path, items in by_path.items():
        missing = [i for i in items if i["type"] == "missing"]
        for item in missing:
            layers.mistake(path, f"`{item['loc'][-1]}:` is missing")
        rest = [i for i in items if i["type"] != "missing"]
        if rest:
            choices = [i["ctx"]["expected"].replace("'", "`") for i in rest[1:] if i["type"] == "literal_error"]
            layers.mistake(path, _sentence(rest[0], path) + "".join(f" (or {c})" for c in choices))


def _sentence(item: Any, path: tuple[str | int, ...]) -> str:
    value, kind = item["input"], item["type"]
    shown = training_fields.shown(value)
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    if kind == "extra_forbidden":
        section = _section_of(path[:-1])
        if section is DeepSpeed and path[-1] in _DEEPSPEED_ELSEWHERE:
            return f"not set here: {_DEEPSPEED_ELSEWHERE[str(path[-1])]}"
        return "unknown key" + (_did_you_mean(str(path[-1]), section) if section else "")
    if kind == "literal_error":
        expected = item["ctx"]["expected"].replace("'", "")
        close = difflib.get_close_matches(str(value), re.split(r", | or ", expected), n=1)
        return f"{shown} is not one of {expected}" + (f"; did you mean `{close[0]}`?" if close else "")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{shown}: {item['msg'].removeprefix('Input ').replace('should be', 'must be')}"
    return _EXPECTED.get(kind, item["msg"]) + ("" if kind == "string_too_short" else f", got {shown}")


def _recipe_path(loc: tuple[Any, ...], values: Any) -> tuple[str | int, ...]:
    path: list[str | int] = []
    for part in loc:
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            path.append(part)
            values = values[part]
    return tuple(path)


def _section_of(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    section: Any = RecipeSpec
    for part in path:
        field = section.model_fields.get(part) if section else None
        found = (
            [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)] if field else []
        )
        section = found[0] if found else None
    return section


def _types(annotation: Any) -> list[Any]:
    args = getattr(annotation, "__args__", None)
    return [t for a in args for t in _types(a)] if args else [annotation]


def _keys(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)


def _did_you_mean(key: str, section: type[BaseModel]) -> str:
    close = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else f"; keys here are {_keys(section)}"


_PEERS = {
    "model_name_or_path": "model.name",
    "dataset": "data.path",
    "cutoff_len": "data.max_length",
    "finetuning_type": "adapter (leave it out for full fine-tuning)",
    "lora_rank": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_target": "adapter.target_modules",
    "template": "data.prompt",
    "deepspeed": "parallel.strategy",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.num_train_epochs",
    "per_device_train_batch_size": "parallel.global_batch_size",
    "bf16": "parallel.precision",
    "seed": "training.seed",
}


def _peer_hint(key: str) -> str:
    if key in _PEERS:
        return f"; here it is written {_PEERS[key]}"
    if key in training_fields.fields():
        return f"; it belongs under training: training.{key}"
    return ""


_DEEPSPEED_ELSEWHERE = {
    "zero_optimization": "write its keys directly below parallel.deepspeed",
    "stage": "set parallel.strategy",
    "offload_optimizer": "set parallel.strategy: zero3-offload",
    "offload_param": "set parallel.strategy: zero3-offload",
    "train_batch_size": "set parallel.global_batch_size",
    "train_micro_batch_size_per_gpu": "set parallel.micro_batch_size",
    "gradient_accumulation_steps": "it follows from parallel.global_batch_size and micro_batch_size",
    "gradient_clipping": "set training.max_grad_norm",
    "bf16": "set parallel.precision",
    "fp16": "set parallel.precision",
    "optimizer": "set training.optim",
    "scheduler": "set training.lr_scheduler_type",
    "activation_checkpointing": "set training.gradient_checkpointing",
    "stage3_gather_16bit_weights_on_model_save": "it stays on: without it a checkpoint holds no weights that can be read",
    "reduce_scatter": "the launcher decides it, since results depend on it",
    "allgather_partitions": "the launcher decides it",
}
"""Keys of DeepSpeed's config that a recipe does not set below parallel.deepspeed, and what to write instead."""


def _check_training(layers: _Layers, good: dict[str, Any]) -> None:
    training = good.get("training")
    if not isinstance(training, dict):
        return
    good["training"] = training = {
        name: training_fields.as_meant(name, value)
        for name, value in training.items()
        if not training_fields.is_left_out(name, value)
    }
    wrong = {name: text for name, value in training.items() if (text := training_fields.problem(name, value))}
    data = good.get("data")
    found = training_rules.problems(
        {name: value for name, value in training.items() if name not in wrong},
        metrics=good.get("metrics", RecipeSpec.model_fields["metrics"].default),
        has_eval=data is None or data.eval is not None,
        has_script=bool(good.get("script")),
    )
    for name, text in [*wrong.items(), *found]:
        layers.mistake(("training", name), text)


def _check_combinations(layers: _Layers, good: dict[str, Any]) -> None:
    model, data = good.get("model"), good.get("data")
    parallel, adapter = good.get("parallel", Parallel()), good.get("adapter")
    if model is not None:
        names = model.label_names
        if model.num_labels is None and names is None and not good.get("script"):
            layers.mistake(("model",), "`num_labels:` is missing: say how many classes the labels have")
        if names is not None and len(names) < 2:
            layers.mistake(("model", "label_names"), f"has {len(names)} of the at least 2 labels to tell apart")
        elif names is not None and model.num_labels not in (None, len(names)):
            layers.mistake(("model", "label_names"), f"{len(names)} names for num_labels {model.num_labels}")
        if names is not None and len(set(names)) < len(names):
            layers.mistake(("model", "label_names"), "the same name stands for two labels")
    if model is not None and data is not None:
        _check_task(layers, model, data)
    micro, total = parallel.micro_batch_size, parallel.global_batch_size
    if micro != "auto" and total % micro:
        layers.mistake(
            ("parallel", "micro_batch_size"),
            f"global_batch_size {total} is not a multiple of micro_batch_size {micro}; {_divisors(total)} are possible",
        )
    if adapter is not None and adapter.target_modules == ():
        layers.mistake(("adapter", "target_modules"), "names no layer to adapt; leave it out for every linear layer")
    strategy = strategies.chosen(parallel.strategy)
    if strategy is not None:
        keys = parallel.deepspeed.given() if parallel.deepspeed is not None else ()
        for path, text in strategy.problems(keys, uses_dora=adapter is not None and adapter.use_dora):
            layers.mistake(path, text)
    if len(set(good.get("metrics", ()))) < len(good.get("metrics", ())):
        layers.mistake(("metrics",), "a metric is named twice")


def _check_task(layers: _Layers, model: Model, data: Data) -> None:
    count = model.num_labels or len(model.label_names or ()) or None
    if model.task == "sequence-classification":
        for key in ("prompt", "system", "answers"):
            if getattr(data, key) is not None:
                layers.mistake(
                    ("data", key), "a classification head reads the text alone; use model.task: causal-lm for prompts"
                )
        return
    if data.prompt is not None and "{text}" not in data.prompt:
        layers.mistake(("data", "prompt"), "has no {text}, so every row would look the same")
    if data.answers is not None:
        if count is not None and len(data.answers) != count:
            layers.mistake(("data", "answers"), f"{len(data.answers)} answers for num_labels {count}")
        if len(set(data.answers)) < len(data.answers):
            layers.mistake(("data", "answers"), "two labels have the same answer")


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def _shadows(script: Path) -> bool:
    import sys

    # The script's folder comes first on sys.path, so `datasets.py` there would replace the library.
    libraries = {
        "torch",
        "transformers",
        "datasets",
        "evaluate",
        "accelerate",
        "deepspeed",
        "peft",
        "launcher",
        "numpy",
    }
    return script.stem in libraries or script.stem in sys.stdlib_module_names


def _origins(spec: RecipeSpec, layers: _Layers) -> dict[str, str]:
    out: dict[str, str] = {}

    def visit(value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(inner, (*path, key))
            return
        given = any(p[: len(path)] == path for p in layers.origin) and _given(layers.values, path)
        out[".".join(map(str, path))] = layers.where(path) if given else "default"

    visit(spec.model_dump(), ())
    return out


def _given(values: Any, path: tuple[str | int, ...]) -> bool:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


# -- links ----------------------------------------------------------------------------------------------------------


def pinned(loaded: Loaded) -> Loaded:
    """With links in paths of the model and the data followed: `latest` leads elsewhere once this job's ranks start."""
    spec = loaded.spec
    model = {key: _followed(getattr(spec.model, key)) for key in ("name", "tokenizer")}
    data = {key: _followed(getattr(spec.data, key)) for key in ("path", "data_files")}
    pins = tuple(
        f"{name}.{key}={json.dumps(value, ensure_ascii=False)}"
        for name, section, values in (("model", spec.model, model), ("data", spec.data, data))
        for key, value in values.items()
        if value != getattr(section, key)
    )
    if not pins:
        return loaded
    sections = {"model": spec.model.model_copy(update=model), "data": spec.data.model_copy(update=data)}
    return replace(loaded, spec=spec.model_copy(update=sections), pins=pins)


def _followed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _followed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_followed(inner) for inner in value]
    if not isinstance(value, str) or "\0" in value:
        return value
    path, out = Path(value), Path()
    for part in path.parts:
        out = _end_of(out / part)
    return value if out == path else str(out)


def _end_of(path: Path, depth: int = 0) -> Path:
    """Where a link to a folder beside it leads. One to an absolute path is the same for ever, and may be another on each
    node (an automounter's), unless there is a link of the other kind on its way. A file keeps its name, which says what it is.
    """
    if depth > 40 or not path.is_symlink() or not path.is_dir():
        return path
    target = path.readlink()
    if not target.is_absolute():
        return _end_of(path.parent / target, depth + 1)
    end = Path(_followed(str(target)))
    return path if end == target else end
