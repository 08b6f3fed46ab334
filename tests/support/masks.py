"""Masks of conversations as they are written down: ⟦ and ⟧ around the tokens that are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from launcher.recipe.schema import RecipeSpec
from launcher.worker.chat import encode
from launcher.worker.chat.tokens import Row
from launcher.worker.tasks.encoding import Seen

FOLDER = Path(__file__).resolve().parent.parent / "unit" / "fixtures" / "masks"
CUT = "cut"
"""The row whose answer is cut by data.max_length."""


def read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return value


ROWS = read("rows")


def recipe(**data: Any) -> RecipeSpec:
    value = {"model": {"name": "m", "task": "sft"}, "data": {"path": "json", **data}}
    return RecipeSpec.model_validate_json(json.dumps(value))


def masked(tokenizer: Any, row: dict[str, Any], **data: Any) -> str:
    """A row's tokens as text, with brackets; of several rows, a line each."""
    return "\n---\n".join(brackets(tokenizer, one) for one in rows(tokenizer, row, **data))


def rows(tokenizer: Any, row: dict[str, Any], **data: Any) -> list[Row]:
    """What a row becomes."""
    return [Row(*part) for part in seen(tokenizer, row, **data).parts]


def seen(tokenizer: Any, row: dict[str, Any], **data: Any) -> Seen:
    (made,) = encode.Rows(recipe(**data), tokenizer).seen([json.dumps(row)])
    return made


def brackets(tokenizer: Any, row: Row) -> str:
    out, was = "", 0
    for token, is_trained in zip(row.input_ids, row.trained, strict=True):
        out += ("", "⟦", "⟧")[is_trained - was] + tokenizer.decode([token])
        was = is_trained
    return out + ("⟧" if was else "")
