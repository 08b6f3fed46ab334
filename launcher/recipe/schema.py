"""The recipe: its schema, and its loading. Every mistake is reported at once, each with file:line and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from launcher.plugins import Table
from launcher.recipe import formats, kernels, metrics, user_code
from launcher.recipe.losses import table as losses
from launcher.recipe.tasks import table as tasks
from launcher.recipe.user_code import Reference
from launcher.strategies import table as strategies


def num_labels(recipe: RecipeSpec) -> int:
    """How many labels, or values, there are; 0 of a task without any. A recipe's checks see to it that one of the two keys says so."""
    count = recipe.model.num_labels or len(recipe.model.label_names or ()) if recipe.task.has_labels else 0
    assert count or not recipe.task.has_labels
    return count


def _name(value: object, table: Table[Any], *others: str) -> str:
    if isinstance(value, str) and (value in others or value in table):
        return value
    *names, last = map(repr, (*others, *table.names()))
    expected = f"{', '.join(names)} or {last}" if names else last
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})  # as of a Literal


def _name_or_function(value: object, table: Table[Any]) -> str:
    if isinstance(value, str) and user_code.reference(value) is not None:
        return value
    if isinstance(value, str) and value.endswith(".py"):
        raise PydanticCustomError("user_code", "name a function of the file, FILE.py:FUNCTION")
    return _name(value, table)


Strategy = Annotated[str, BeforeValidator(lambda value: _name(value, strategies.TABLE))]
"""A name in the table of strategies."""
StrategyOrAuto = Annotated[str, BeforeValidator(lambda value: _name(value, strategies.TABLE, strategies.AUTO))]
Kernel = Annotated[str, BeforeValidator(lambda value: _name(value, kernels.TABLE))]
"""A name in the table of kernels."""
Precision = Literal["bf16", "fp16", "fp32"]
PrecisionOrAuto = Literal["auto", "bf16", "fp16", "fp32"]
SizeOrAuto = PositiveInt | Literal["auto"]
Metric = Annotated[str, BeforeValidator(lambda value: _name_or_function(value, metrics.TABLE))]
"""A name in the table of metrics, or FILE.py:FUNCTION."""
Task = Annotated[str, BeforeValidator(lambda value: _name(value, tasks.TABLE))]
"""A name in the table of tasks."""
Format = Annotated[str, BeforeValidator(lambda value: _name(value, formats.TABLE, formats.AUTO))]
"""A name in the table of formats, or auto."""
LossName = Annotated[str, BeforeValidator(lambda value: _name_or_function(value, losses.TABLE))]
"""A name in the table of losses, or FILE.py:FUNCTION."""
Text = Annotated[str, Field(min_length=1)]
Addition = Literal["text", "names", "probabilities", "loss"]
"""What the rows of predictions.jsonl may have besides."""


def _given(serialize: SerializerFunctionWrapHandler, section: BaseModel, *keys: str) -> dict[str, Any]:
    """A section for a record, without those of `keys` that have their defaults: runs from before a key have records without
    it, which a run that does not use it must equal."""
    out: dict[str, Any] = serialize(section)
    unused = {key for key in keys if getattr(section, key) == type(section).model_fields[key].default}
    return {key: value for key, value in out.items() if key not in unused}


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys and converts nothing: `"5"` is not a number, `true` is not 1.

    Read it with model_validate_json: strict JSON takes lists for tuples, strict Python values would not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Model(Section):
    """Which model is fine-tuned, and to do what."""

    name: Text
    """Hub id, or a folder (absolute, or relative to where the command runs; `shipped:` begins a path below the shipped recipes)."""
    task: Task = tasks.DEFAULT
    """A classification head on the model, or a chat whose answer is the label."""
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None
    """What a classification head gives, as transformers calls it: one label, any number of labels, or numbers (regression). Default: any number where the data has lists of labels or several columns of them, else one."""
    num_labels: PositiveInt | None = None
    """Number of classes, or of a regression's values. Labels in the data run from 0 to num_labels - 1, or are so many values, numbered in order."""
    label_names: tuple[Text, ...] | None = None
    """One name a label, written into the model's config and into reports."""
    class_weights: Literal["balanced"] | tuple[float, ...] | dict[Text, float] | None = None
    """How much the labels count in the training: a number for each label, in their order; a mapping from names of labels, of which the others count 1; or balanced, in inverse proportion to how often each occurs in the training rows."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of rows that have any number of labels: the probability from which on a label is predicted."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: Text | None = None
    """Hub id or folder of the tokenizer, when it is not the model's own."""
    gguf_file: Text | None = None
    """A GGUF file inside `name`, dequantised on load (an extra: `pip install ascend-launch[gguf]`)."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where `name` is fetched from when it is not a folder."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """As in from_pretrained; transformers chooses where it is left out."""
    kernels: tuple[Kernel, ...] = ()
    """Fused operators in place of parts of the model: npu-rms-norm, on NPUs. What they round differs in the last digits."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(serialize, self, "kernels", "class_weights", "problem_type", "threshold")


class Split(Section):
    """Rows of one split: `shuffle(seed)`, then the first `limit`, both before tokenising."""

    split: Text = "train"
    """A split of the dataset."""
    limit: PositiveInt | None = None
    """Rows that are kept; all where it is left out."""
    seed: NonNegativeInt = 42
    """Of the shuffle before the limit."""


class DataSet(Section):
    """One set of several, in load_dataset's own arguments."""

    path: Text
    """As data.path."""
    name: Text | None = None
    """Configuration of the dataset."""
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    """As data.data_files."""
    data_dir: Text | None = None
    """Folder inside the dataset."""
    revision: Text | None = None
    """Branch, tag or commit of the dataset."""
    split: Text = "train"
    """A split of the dataset."""
    limit: PositiveInt | None = None
    """Rows that are kept, after `shuffle(seed)`; all where it is left out."""
    seed: NonNegativeInt = 42
    """Of that shuffle, and of the choice that weights make."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this set in the rows that are trained on, in proportion to the other sets' weights. The largest mixture is taken in which no row comes twice."""
    format: Format = formats.AUTO
    """As data.format."""
    columns: dict[Text, Text] = {}
    """As data.columns."""
    system: Text | None = None
    """As data.system."""


class EvalSplit(Split):
    """The rows that are evaluated. A number alone is `hold_out`, names with a set each are `sets`."""

    split: Text = "test"
    """A split of the dataset."""
    hold_out: Annotated[float, Field(gt=0)] | None = None
    """Take them out of the training rows, and train on the rest: below 1 a share of the rows, from 1 on a number of them. Which ones follows from their content and the seed."""
    sets: dict[Text, DataSet] | None = None
    """Several sets by names, each evaluated for itself."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"hold_out": value}
        named = (
            {key: one for key, one in value.items() if key != "sets" and isinstance(one, dict)}
            if isinstance(value, dict)
            else {}
        )
        if not named or not isinstance(value.get("sets", {}), dict):
            return value
        rest = {key: one for key, one in value.items() if key not in named}
        return {**rest, "sets": {**named, **rest.get("sets", {})}}

    @field_validator("hold_out")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise PydanticCustomError("hold_out", "must be a share below 1, or a whole number of rows")
        return value

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(serialize, self, "hold_out", "sets")


NO_MODEL = "-"
"""model.name of a job that is the user's own program."""
NO_DATA = "-"
"""data.path of weights of which nobody knows on what they were trained."""


class Data(Section):
    """Where rows come from, in load_dataset's own arguments, and which columns are used."""

    model_config = ConfigDict(extra="allow")  # keys of the task's own, which RecipeSpec looks at

    path: Text = NO_DATA
    """A file of JSON, JSON lines, CSV, TSV, Parquet, Arrow or plain text; a folder; a dataset id; or a builder name such as `json` or `csv` together with `data_files`."""
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
    """The rows that are evaluated: a split; a share of the training rows (`eval: 0.1`) or a number of them, which are not trained on then; several sets by names; or null for none."""
    sets: tuple[DataSet, ...] = ()
    """Several sets to train on, instead of `path`."""
    format: Format = formats.AUTO
    """What a row of a conversation looks like; auto recognises it."""
    columns: dict[Text, Text] = {}
    """Names that the data has for the format's columns, keys and speakers, where they are others."""
    text: Text = "text"
    """Column with the text."""
    label: Text = "label"
    """Column with the label: a whole number, or a name of model.label_names. Names that are numbers name the data's. Of a regression, a number."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens kept of a row. Rows are padded to the longest of their batch, never to this."""
    prompt: str | None = None
    """The user's message: with `{text}` where the row's text goes for causal-lm, with any columns in braces for sft."""
    system: Text | None = None
    """The system message; for sft of rows that have none of their own."""
    answers: tuple[Text, ...] | None = None
    """causal-lm: the answer text of each label. Default: model.label_names, else the label's number."""
    num_proc: PositiveInt | None = None
    """Processes that tokenise. Default: one a core for large data, one for small."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(serialize, self, "sets", "format", "columns")


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


NEW_TOKENS = 256
"""Where neither recipe nor model says how long a text may be; half of the model's positions where these are few."""


def default_new_tokens(positions: int | None) -> int:
    """Tokens of a text at most where neither recipe nor model says so, of a model with so many positions; None where it says none."""
    return NEW_TOKENS if positions is None else min(NEW_TOKENS, positions // 2)


class Generation(Section):
    """How a model writes, by the names of transformers' GenerationConfig. What is left out is as the model's generation_config.json says, and then as `generate` has it."""

    max_new_tokens: PositiveInt | None = None
    """Tokens that are written of a row at most. Default: as the model says, else 256, or half of its positions where that is less."""
    min_new_tokens: PositiveInt | None = None
    """Tokens before which no text ends."""
    do_sample: bool | None = None
    """Draw tokens instead of taking the likeliest. A row's draws depend on the seed and the row, and on no other."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Below 1 likely tokens are drawn more often, above 1 less often."""
    top_k: NonNegativeInt | None = None
    """Draw from so many tokens, the likeliest ones; 0 for all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the likeliest tokens that have this share of the probability together."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from tokens that have at least this share of the likeliest one's probability."""
    num_beams: PositiveInt | None = None
    """Texts that are followed at once by beam search; 1 for none."""
    length_penalty: float | None = None
    """Of beam search: above 0 longer texts count for more."""
    early_stopping: bool | Literal["never"] | None = None
    """Of beam search: whether it ends once there are num_beams whole texts."""
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """Above 1 tokens that are already there are less likely."""
    no_repeat_ngram_size: NonNegativeInt | None = None
    """So many tokens in a row come only once; 0 for any number of times."""
    stop_strings: Text | tuple[Text, ...] | None = None
    """Words that end a text, beside the model's end-of-text and end-of-turn tokens. They are not part of it."""
    seed: NonNegativeInt = 42
    """Of the draws, and of the choice of `rows`."""
    rows: PositiveInt | None = None
    """Generate for so many of the rows that are evaluated, the same ones each time; for all where it is left out."""
    every: PositiveInt = 1
    """Generate at each so many-th evaluation, and at the last one."""
    gather_weights: bool | None = None
    """Under strategies that share the weights out, gather all of them on each rank while texts are generated, instead of at each token, which is slow. Left out: where there is room for them."""

    def given(self) -> dict[str, Any]:
        """What is for `generate`, of what is there."""
        return self.model_dump(exclude_none=True, exclude={"seed", "rows", "every", "gather_weights"})


class Loss(Section):
    """What a training makes small. A name alone has the loss's own parameters."""

    model_config = ConfigDict(extra="allow")  # the loss's own parameters, which launcher.recipe.losses.rules looks at

    name: LossName | None = None
    """cross-entropy, focal, mean-squared-error (of values), or a function of your own, FILE.py:FUNCTION, in a file beside the recipe. Default: cross-entropy of labels and tokens, mean-squared-error of values."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys beside the name."""
        return dict(self.model_extra or {})


class EarlyStopping(Section):
    """When a training ends before its last epoch, by the names of transformers' EarlyStoppingCallback."""

    patience: PositiveInt = 1
    """Evaluations in a row that may be no better than the best before the training ends; better by metric_for_best_model, which is the loss where it is left out."""
    threshold: Annotated[float, Field(ge=0)] = 0.0
    """By how much more than this the figure has to be better than the best to count as better."""


def functions(values: Mapping[str, Any]) -> list[tuple[str, Reference]]:
    """The key and the function, for each FILE.py:FUNCTION among values of a recipe by their keys, which need not all be there."""
    named = [("metrics", name) for name in values.get("metrics", ())]
    named += [("loss", values["loss"].name)] if "loss" in values else []
    return [(key, one) for key, name in named if (one := user_code.reference(name)) is not None]


class RecipeSpec(Section):
    """A whole recipe, checked."""

    model: Model = Model(name=NO_MODEL)
    data: Data = Data(path=NO_DATA)
    training: dict[str, Any] = {}
    """TrainingArguments by their own names."""
    parallel: Parallel = Parallel()
    metrics: tuple[Metric, ...] = ("accuracy", "f1")
    """Scores of an evaluation. The default is the task's: perplexity and token_accuracy for sft, accuracy and f1 for one label."""
    loss: Loss = Loss()
    """What a training makes small: a name, or a name with parameters."""
    early_stopping: EarlyStopping | None = None
    predictions: tuple[Addition, ...] = ()
    """What the rows of predictions.jsonl have besides: text, names (of labels), probabilities, loss."""
    adapter: Adapter | None = None
    generation: Generation | None = None
    """Have the model write the answers of the rows that are evaluated, for metrics of texts."""
    output_dir: Text = "runs"
    """Folder that runs are kept below."""
    report: bool = True
    """Write report.html when a run ends, which takes about 2 s of one core; `ascend-launch report RUN` writes it at any time."""
    script: Text | None = None
    """A Python file beside the recipe that replaces the built-in Trainer recipe on every rank; it needs no model and no data."""
    args: tuple[Text | int | float, ...] = ()
    """Arguments of the script, as a list of words."""
    code: dict[Text, str] = {}
    """The text of each file that a FILE.py:FUNCTION names, as the launcher keeps it in a run's recipe.yaml; a file that is not here is read from the recipe's folder."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(serialize, self, "loss", "early_stopping", "predictions", "generation", "code")

    @model_validator(mode="after")
    def _no_other_keys(self) -> RecipeSpec:
        for key in sorted(set(self.data.model_extra or ()) - set(self.task.data_keys)):
            raise PydanticCustomError("extra_forbidden", "unknown key data.{key}", {"key": key})
        return self

    def functions(self) -> list[tuple[str, Reference]]:
        """As `functions` of its values."""
        return functions({"metrics": self.metrics, "loss": self.loss})

    @property
    def task(self) -> tasks.Task:
        """What the model is trained to do. Raises LaunchError where the package that has the task is gone."""
        return tasks.load(self.model.task)

    @property
    def targets(self) -> str:
        """What a row's answer is: one of launcher.recipe.tasks.table.TARGETS."""
        return self.task.targets(self.model, self.data)

    def asks_for(self, column: str) -> bool:
        """Whether a metric, or `predictions:`, needs one of the task's more_columns."""
        return column in self.predictions or any(
            column in metric.columns for metric in metrics.named(self.metrics, self.code)
        )
