"""Names and shapes of a model's parameters, by its family, from its config.json alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

from launcher.errors import LaunchError
from launcher.models.families import table
from launcher.models.families.base import Parameter, Sizes, Traits


@dataclass(frozen=True)
class Geometry(Sizes):
    """Sizes and parameters of one model."""

    parameters: tuple[Parameter, ...]
    traits: Traits

    @property
    def num_parameters(self) -> int:
        return sum(p.numel for p in self.parameters)

    @property
    def layer_parameters(self) -> int:
        """Of one transformer block, the largest."""
        return largest_block(self.parameters)

    @property
    def outer_parameters(self) -> int:
        """Embedding, last norm and head: what is in no block."""
        return sum(p.numel for p in self.parameters if p.layer is None)

    @property
    def largest_parameter(self) -> int:
        return max(p.numel for p in self.parameters)


def largest_block(parameters: Iterable[Parameter]) -> int:
    """Elements of the largest transformer block among parameters; blocks may differ, as where only some have experts."""
    sizes: Counter[int] = Counter()
    for p in parameters:
        if p.layer is not None:
            sizes[p.layer] += p.numel
    return max(sizes.values(), default=0)


ARCHITECTURES = tuple(table.TABLE)
"""Families whose parameters can be listed."""


def geometry(
    config: Mapping[str, Any], *, has_head: bool = True, num_labels: int = 2, of_words: bool = False
) -> Geometry:
    """The parameters of a Hugging Face config.json with a classification head, or else its language-modelling head.
    `of_words`: the classification head is over each token.

    Raises:
        LaunchError: the family is none of ARCHITECTURES, has no such head, or a number is missing.
    """
    name = str(config.get("model_type", ""))
    family = table.TABLE.get(name)
    if family is None:
        raise LaunchError(
            "memory of model_type {family!r} cannot be computed",
            hint="known are {architectures}; name a strategy and a micro batch in the recipe instead of auto",
            family=name or "(none)",
            architectures=", ".join(ARCHITECTURES),
        )
    try:
        sizes = family.sizes(config)
        if min(astuple(sizes)) < 1:
            raise LaunchError("config.json: sizes must be positive", hint="use the model's own config.json")
        parameters = tuple(family.parameters(config, sizes, num_labels if has_head else None, of_words=of_words))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LaunchError(
            "config.json: {error} is missing or no number", hint="use the model's own config.json", error=error
        ) from None
    except NotImplementedError:
        raise LaunchError(
            "a model of type {name!r} has no language-modelling head for causal attention",
            hint="use it for classification, or name a decoder",
            name=name,
        ) from None
    return Geometry(**asdict(sizes), parameters=parameters, traits=family.traits(config))


@dataclass(frozen=True)
class Lora:
    """PEFT's LoraConfig, as far as it decides memory."""

    r: int = 8
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] = ()

    def targets(self, geometry: Geometry) -> tuple[Parameter, ...]:
        """Linear layers that get an adapter; `all-linear` leaves the head out (peft's documentation)."""
        linear = [p for p in geometry.parameters if p.kind == "linear"]
        if self.target_modules == "all-linear":
            return tuple(linear)
        names = {self.target_modules} if isinstance(self.target_modules, str) else set(self.target_modules)
        targets = tuple(p for p in linear if p.name.removesuffix(".weight").rpartition(".")[2] in names)
        if not targets:
            raise LaunchError(
                "adapter.target_modules {names} name no layer of this model",
                hint="use all-linear, or q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
                names=sorted(names),
            )
        return targets

    def trainable(self, geometry: Geometry, *, has_head: bool) -> tuple[Parameter, ...]:
        """The adapters, and the copies that peft trains whole beside them: of a classifier's head and of modules_to_save."""
        out = []
        for p in self.targets(geometry):
            name = p.name.removesuffix(".weight")
            out.append(Parameter(f"{name}.lora_A", (self.r, p.shape[1]), "linear", p.layer))
            out.append(Parameter(f"{name}.lora_B", (p.shape[0], self.r), "linear", p.layer))
        head = "head" if has_head else None
        out += [
            replace(p, name=f"{p.name}.copy")
            for p in geometry.parameters
            if p.kind == head or any(f".{name}." in f".{p.name}" for name in self.modules_to_save)
        ]
        return tuple(out)
