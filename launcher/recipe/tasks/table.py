"""The tasks: what a model is trained to do. Each is one file beside this one and one in launcher/worker/tasks, or an entry
point of another package in the group `ascend_launch.tasks`; nobody else goes by their names.

This half is facts and checks of a recipe; `worker` says where the half is that runs in ranks (a
`launcher.worker.tasks.base.Task`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.plugins import Table

INTERFACE = 1
SINGLE_LABEL = "single_label_classification"
"""As transformers' `problem_type` says it, and the next two."""
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
ONE_LABEL = "label"
"""Targets of rows that have one of a few labels each."""
MANY_LABELS = "labels"
"""Of rows that have any number of a few labels."""
VALUES = "values"
"""Of rows that have a number each, or several."""
TAGS = "tags"
"""Of rows whose words have a label each."""
TOKENS = "tokens"
"""Of rows whose tokens are learnt."""
TARGETS: Mapping[str, str] = {
    ONE_LABEL: Message("rows that have one label each"),
    MANY_LABELS: Message("rows that have any number of labels"),
    VALUES: Message("rows that have numbers to predict"),
    TAGS: Message("rows that have a label for each word"),
    TOKENS: Message("rows whose tokens are learnt"),
}
"""All of them, each as a message has it."""
Problem = tuple[tuple[str, ...], str]
"""Keys below which, and what is wrong."""


class Model(Protocol):
    """What a task looks at of a recipe's `model:`."""

    @property
    def num_labels(self) -> int | None: ...
    @property
    def label_names(self) -> tuple[str, ...] | None: ...
    @property
    def problem_type(self) -> str | None: ...


class Data(Protocol):
    """What a task looks at of a recipe's `data:`; the keys of `data_keys` are attributes too, where they are given."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def prompt(self) -> str | None: ...
    @property
    def system(self) -> str | None: ...
    @property
    def answers(self) -> tuple[str, ...] | None: ...


class Task(Protocol):
    """A task. `launcher.recipe.tasks.base` has an answer for all but the first attributes."""

    interface: int
    """INTERFACE of the launcher that it was written for."""
    name: str
    """As `model.task` says it."""
    worker: str
    """`module:Class` of the half that runs in ranks."""

    encoder: str
    """`module:function` of how rows become tokens, in that half's place, where that needs no torch; '' where it does."""

    # -- the recipe ------------------------------------------------------------------------------------------------

    has_labels: bool
    """Whether each row has a label: a recipe says how many there are, and the data has a column of them."""
    has_conversations: bool
    """Whether each row is a conversation or a text, in any format of launcher.recipe.formats, and `reads` names the one column
    `conversation`, which holds it as JSON."""
    data_keys: Mapping[str, str]
    """Keys below `data:` that no other task has, and what each means. `problems` checks their values."""
    default_metrics: tuple[str, ...]
    """Where the recipe names none."""
    more_columns: tuple[str, ...]
    """What an evaluation leaves besides, where a metric or `predictions:` asks for it."""
    adds: tuple[str, ...]
    """What `predictions:` may add to the rows of predictions.jsonl."""
    columns: tuple[str, ...]
    """What an evaluation leaves of each row beside its loss and count; metrics are computed from it."""

    def targets(self, model: Model, data: Data) -> str:
        """What a row's answer is: one of TARGETS. Metrics say of which they are."""

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        """What in a recipe it cannot follow."""

    def has_mask(self, data: Data) -> bool:
        """Whether a training hands the model which tokens see each other, because of padding or of several rows in a sequence."""

    def reads(self, data: Data) -> dict[str, str]:
        """The columns of the data that become tokens: the recipe's key of each (data.text) → the column."""

    def metrics(self, model: Model, data: Data) -> tuple[str, ...]:
        """Those of a recipe that names none: default_metrics, but where its targets are others."""

    def label_columns(self, data: Data) -> dict[str, str]:
        """The columns with the label of each row: the recipe's key of each (data.label) → the column. Nothing without labels."""

    # -- the model -------------------------------------------------------------------------------------------------

    has_head: bool
    """Whether the model gets a classification head with an output for each label; else it keeps its language-modelling head
    and reads prompts."""
    architecture: str
    """How the class's name in config.json ends."""
    mapping: str
    """transformers' table of the model types that have such a class."""
    adapter_type: str
    """peft's task_type."""
    pipeline: str
    """pipeline_tag of a model card."""
    padding_side: str
    answer_positions: int | None
    """Positions of a row whose logits a language-modelling head computes; None for all."""
    logits_in_chunks: bool
    """Whether a training makes logits in chunks of launcher.models.chunks, and their gradients with them."""
    needs_recipe: str
    """Why weights without a recipe cannot be used; '' where their config.json says enough."""

    # -- predict ---------------------------------------------------------------------------------------------------

    writes: bool
    """Whether its answers are texts that it writes token by token."""

    def is_answered(self, answer: Any) -> bool:
        """Whether a rank's answer to a text (any JSON value of the other half) has no NaN in its place."""

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        """What `predict` writes of a rank's answer."""

    def answer_to(self, item: Any, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        """The same, where what was asked is known: what a rank got of the row."""


_HERE = "launcher.recipe.tasks"
TABLE: Table[Task] = Table(
    "task",
    "ascend_launch.tasks",
    INTERFACE,
    {
        "sequence-classification": f"{_HERE}.classification:CLASSIFICATION",
        "causal-lm": f"{_HERE}.answers:ANSWERS",
        "sft": f"{_HERE}.sft:SFT",
        "token-classification": f"{_HERE}.token_classification:TOKEN_CLASSIFICATION",
    },
)
BUILT_IN = tuple(TABLE.built_in)
DEFAULT = BUILT_IN[0]
"""Of a recipe that names none."""
THAT_WRITES = "sft"
"""What a model is trained to do whose answers are texts."""
OF_CHATS = "causal-lm"
"""What an import makes of a training on chats whose answers are labels."""


def load(name: str) -> Task:
    """The task of this name. Raises LaunchError where there is none."""
    return TABLE.load(name)


def of_architectures(architectures: Iterable[Any]) -> Task | None:
    """The first task whose model class is among these names of a config.json, and that needs no recipe if there is such a one;
    None where they are of none."""
    tasks = _by_need()
    return next((task for name in architectures for task in tasks if str(name).endswith(task.architecture)), None)


def of_adapter(settings: Any) -> Task | None:
    """The same by an adapter's adapter_config.json. Of a classification head it does not say the labels."""
    kind = settings.get("task_type") if isinstance(settings, dict) else None
    return next((task for task in _by_need() if not task.has_head and task.adapter_type == kind), None)


def _by_need() -> list[Task]:
    """Those first that need no recipe."""
    return sorted(_installed(), key=lambda task: bool(task.needs_recipe))


def _installed() -> Iterator[Task]:
    for name in TABLE.names():
        try:
            yield load(name)
        except LaunchError:  # of a package that does not work, and that nobody named
            continue
