"""Every error of a recipe, at once and with its place."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from launcher.errors import LaunchError
from launcher.messages import Message, joined, listed
from launcher.recipe import (
    data_rules,
    generation_rules,
    label_rules,
    metrics,
    schema,
    training_fields,
    training_rules,
    user_code,
)
from launcher.recipe.layers import Layers
from launcher.recipe.losses import rules as loss_rules
from launcher.recipe.messages import did_you_mean, peer_hint, recipe_path, sections_in, sentence
from launcher.recipe.metrics import Metric
from launcher.recipe.schedules import Schedule, with_early_stopping
from launcher.recipe.schema import Data, Loss, Parallel, RecipeSpec, Section
from launcher.recipe.tasks import table as tasks
from launcher.recipe.tasks.table import Task
from launcher.strategies import table as strategies


def validate(layers: Layers, folder: Path) -> RecipeSpec:
    """The recipe, with the text of the files of the user's that it names, which are relative to `folder`.

    Raises:
        LaunchError: with every mistake in it.
    """
    good: dict[str, Any] = {}
    for key in layers.values:
        if key not in RecipeSpec.model_fields:
            layers.mistake(
                (key,), Message("unknown key{peer_hint}", peer_hint=peer_hint(key) or did_you_mean(key, RecipeSpec))
            )
    for key in RecipeSpec.model_fields:
        if layers.values.get(key) is None and (key in ("model", "data") or key not in layers.values):
            if key in ("model", "data") and not layers.values.get("script"):
                layers.mistake((), Message("`{key}:` is missing", key=key))
            continue
        holder = _One[key]
        value = layers.values[key]
        if value is None:  # `adapter:` with everything under it commented out
            continue
        try:
            good[key] = getattr(holder.model_validate_json(_json({key: _without_unset(key, value)})), key)
        except ValidationError as error:
            _report(layers, error)
    if good.get("args") and not good.get("script"):
        layers.mistake(("args",), Message("arguments of a script, and there is no `script:`"))
    _take_task(layers, good)
    _take_code(layers, good, folder)
    computed = _metrics(layers, good)
    _check_training(layers, good, computed)
    _check_combinations(layers, good, computed)
    _check_metrics(layers, good, computed)
    layers.raise_if_any()
    return RecipeSpec(**good)


def _without_unset(section: str, value: Any) -> Any:
    """`path: null` takes back what a recipe named by `extends` says: the key has its default again."""
    kind = RecipeSpec.model_fields[section].annotation
    kinds = [one for one in sections_in(kind) if issubclass(one, Section)]
    if not kinds or not isinstance(value, Mapping):
        return value
    fields = kinds[0].model_fields
    return {k: v for k, v in value.items() if v is not None or k not in fields or _takes_null(fields[k])}


def _takes_null(field: FieldInfo) -> bool:
    return field.is_required() or type(None) in typing.get_args(field.annotation)


def has_nul(layers: Layers, value: Any, path: tuple[str | int, ...] = ()) -> bool:
    """Whether a path, name or text holds a NUL; each is noted. The system's calls would refuse it later, with less clear messages."""
    if isinstance(value, str):
        if "\0" in value:
            layers.mistake(
                path, Message("{value!r} holds a NUL character (\\0), which no path or text may", value=value)
            )
        return "\0" in value
    if not isinstance(value, dict | list):
        return False
    in_keys = isinstance(value, dict) and has_nul(layers, list(value), path)
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    return any([in_keys, *(has_nul(layers, inner, (*path, key)) for key, inner in rows)])


def _json(value: Any) -> str:
    # YAML also knows dates and sets; as text they fail the check of a field that wants no text.
    return json.dumps(value, default=str)


def _type(field: FieldInfo) -> Any:
    """With the limits that it has, which pydantic keeps beside the annotation."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _holders() -> dict[str, type[BaseModel]]:
    # One model a section, so that a mistake in one section does not hide the checks of the others.
    from pydantic import create_model

    return {
        key: create_model(
            f"One_{key}", __config__=ConfigDict(extra="forbid", strict=True), **{key: (_type(field), ...)}
        )  # type: ignore[call-overload]
        for key, field in RecipeSpec.model_fields.items()
    }


_One = _holders()


def _report(layers: Layers, error: ValidationError) -> None:
    by_path: dict[tuple[str | int, ...], list[Any]] = {}
    for item in error.errors():
        # pydantic adds the branch of a union to the path; only what is in the recipe counts.
        by_path.setdefault(recipe_path(item["loc"], layers.values), []).append(item)
    for path, items in by_path.items():
        missing = [i for i in items if i["type"] == "missing"]
        for item in missing:
            layers.mistake(path, Message("`{loc}:` is missing", loc=item["loc"][-1]))
        rest = [i for i in items if i["type"] != "missing"]
        if any(path == longer[: len(path)] for longer in by_path if longer != path):
            # Another branch of the union took the value, and found the mistake within it.
            rest = [i for i in rest if i["type"] not in ("string_type", "list_type", "dict_type")]
        if rest:
            choices = [i["ctx"]["expected"].replace("'", "`") for i in rest[1:] if i["type"] == "literal_error"]
            others = (Message(" (or {choice})", choice=choice) for choice in choices)
            layers.mistake(path, joined((sentence(rest[0], path), *others), ""))


def _check_training(layers: Layers, good: dict[str, Any], computed: Sequence[Metric]) -> None:
    training = good.get("training", {} if layers.values.get("training") is None else None)
    if not isinstance(training, dict) or not (training or good.get("early_stopping")):
        return
    training = {
        name: training_fields.as_meant(name, value)
        for name, value in training.items()
        if not training_fields.is_left_out(name, value)
    }
    good["training"] = training = _with_early_stopping(layers, good, training)
    wrong = {name: text for name, value in training.items() if (text := training_fields.problem(name, value))}
    data = good.get("data")
    problems = training_rules.problems(
        {name: value for name, value in training.items() if name not in wrong},
        metrics=computed,
        has_eval=data is None or data.eval is not None,
        has_script=bool(good.get("script")),
        sets=tuple(data.eval.sets or ()) if data is not None and data.eval is not None else (),
    )
    for name, text in [*wrong.items(), *problems]:
        layers.mistake(("training", name), text)


def _with_early_stopping(layers: Layers, good: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    if good.get("early_stopping") is None:
        return training
    data = good.get("data")
    schedule = Schedule.of(training, has_eval=data is None or data.eval is not None)
    if good.get("script"):
        layers.mistake(("early_stopping",), Message("a script decides itself when it ends"))
    elif schedule.evaluation == "no":
        text = Message("nothing is evaluated during the training; set data.eval and training.eval_strategy")
        layers.mistake(("early_stopping",), text)
    else:
        return with_early_stopping(training)
    return training


def _check_combinations(layers: Layers, good: dict[str, Any], computed: Sequence[Metric]) -> None:
    model, data = good.get("model"), good.get("data")
    parallel, adapter = good.get("parallel", Parallel()), good.get("adapter")
    if model is not None:
        for path, text in label_rules.problems(model, data, has_script=bool(good.get("script"))):
            layers.mistake(path, text)
        for text in label_rules.of_predictions(model, data, good.get("predictions", ())):
            layers.mistake(("predictions",), text)
    if model is not None and data is not None:
        task = tasks.load(model.task)
        of_loss = loss_rules.problems(good.get("loss", Loss()), model, data, good.get("training", {}))
        for path, text in (*data_rules.problems(task, data), *task.problems(model, data), *of_loss):
            layers.mistake(path, text)
    micro, total = parallel.micro_batch_size, parallel.global_batch_size
    if micro != "auto" and total % micro:
        layers.mistake(
            ("parallel", "micro_batch_size"),
            Message(
                "global_batch_size {total} is not a multiple of micro_batch_size {micro}; {divisors} are possible",
                total=total,
                micro=micro,
                divisors=_divisors(total),
            ),
        )
    if adapter is not None and adapter.target_modules == ():
        layers.mistake(
            ("adapter", "target_modules"), Message("names no layer to adapt; leave it out for every linear layer")
        )
    asked = good.get("generation")
    if asked is not None and good.get("script"):
        layers.mistake(("generation",), Message("a script decides itself what it evaluates"))
    elif asked is not None and model is not None:
        for path, text in generation_rules.problems(
            asked,
            task=tasks.load(model.task),
            has_eval=data is None or data.eval is not None,
            metrics=computed,
            training=good.get("training", {}),
            stops_early=good.get("early_stopping") is not None,
        ):
            layers.mistake(path, text)
    strategy = strategies.chosen(parallel.strategy)
    if strategy is not None:
        keys = parallel.deepspeed.given() if parallel.deepspeed is not None else ()
        for path, text in strategy.problems(keys, uses_dora=adapter is not None and adapter.use_dora):
            layers.mistake(path, text)


def _take_task(layers: Layers, good: dict[str, Any]) -> None:
    """The task's own keys and metrics."""
    model, data = good.get("model"), good.get("data")
    task = tasks.load(model.task) if model is not None else _task_of(layers.values.get("model"))
    keys = task.data_keys if task is not None else ()
    for key in data.model_extra if data is not None and data.model_extra else ():
        if key not in keys:
            layers.mistake(
                ("data", key), Message("unknown key{did_you_mean}", did_you_mean=did_you_mean(key, Data, keys))
            )
    if task is not None and "metrics" not in layers.values:
        good["metrics"] = task.metrics(model, data or Data()) if model is not None else task.default_metrics


def _take_code(layers: Layers, good: dict[str, Any], folder: Path) -> None:
    """The text of each file of the user's that it names: the recipe's own, as in a run directory, else the file's."""
    given: Mapping[str, str] = good.pop("code", {})
    code: dict[str, str] = {}
    for key, one in schema.functions(good):
        path = one.path(folder)
        try:
            text = given[one.file] if one.file in given else user_code.read(one, folder)
        except LaunchError as error:
            layers.mistake((key,), error.what)
            continue
        if problem := user_code.problem(one, text, path):
            layers.mistake((key,), problem)
            continue
        code[one.file] = text
        if one.file not in given:
            layers.merge({"code": {one.file: text}}, {("code", one.file): str(path)})
    good["code"] = code


def _task_of(model: Any) -> Task | None:
    """The task of a `model:` that has errors."""
    name = model.get("task", tasks.DEFAULT) if isinstance(model, dict) else tasks.DEFAULT
    return tasks.load(name) if isinstance(name, str) and name in tasks.TABLE else None


def _metrics(layers: Layers, good: dict[str, Any]) -> list[Metric]:
    """What it computes, or its task by default; mistakes in functions of the user's are noted.

    Raises:
        LaunchError: the package that has one does not work.
    """
    computed: list[Metric] = []
    for name in good.get("metrics", RecipeSpec.model_fields["metrics"].default):
        one = user_code.reference(name)
        if one is None:
            computed.append(metrics.load(name))
        elif one.file in good["code"]:
            try:
                computed.append(metrics.of_function(one, good["code"][one.file]))
            except LaunchError as error:
                layers.mistake(("metrics",), error.what)
    return computed


def _check_metrics(layers: Layers, good: dict[str, Any], computed: Sequence[Metric]) -> None:
    if len({metric.name for metric in computed}) < len(computed):
        layers.mistake(("metrics",), Message("a metric is named twice"))
    if "model" not in good or ("data" in layers.values and "data" not in good):
        return  # what rows are labelled with is not known
    task, has_texts = tasks.load(good["model"].task), layers.values.get("generation") is not None
    targets = task.targets(good["model"], good.get("data", Data()))
    for metric in computed:
        if targets not in metric.targets:
            layers.mistake(("metrics",), _misfit(metric, task, targets))
        elif metric.is_of_texts and not has_texts and task.has_conversations:
            text = Message(
                "{metric} compares texts that the model writes; add `generation:`, as in generation.max_new_tokens=128",
                metric=metric.name,
            )
            layers.mistake(("metrics",), text)
        elif absent := _absent(metric, task):
            text = Message(
                "{metric} is computed from the {column} of each row, which an evaluation of {task} does not have",
                metric=metric.name,
                column=absent[0],
                task=task.name,
            )
            layers.mistake(("metrics",), text)


def _misfit(metric: Metric, task: Task, targets: str) -> str:
    known = metrics.known(metrics.TABLE.names())
    names = [one.name for one in known if targets in one.targets and not _absent(one, task)]
    return Message(
        "{metric} is not for {targets}; {names} are",
        metric=metric.name,
        targets=tasks.TARGETS[targets],
        names=listed(names),
    )


def _absent(metric: Metric, task: Task) -> list[str]:
    """Columns that a metric needs and an evaluation does not leave."""
    texts = metrics.OF_GENERATION if task.has_conversations else ()
    left = (*task.columns, *task.more_columns, *texts, *metrics.OF_EVERY_TASK)
    return [column for column in metric.columns if column not in left]


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
