"""What the published tables say of CANN's, HCCL's and torch_npu's numbers: error_codes.yaml, in our own phrasing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

TABLES = Path(__file__).with_name("error_codes.yaml")
_LANGUAGES = {"en": 0, "zh": 1}


@functools.cache
def tables() -> Mapping[str, Any]:
    """acl and hccl: number → [name, English, Chinese]; the rest: mark → [English, Chinese]."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tree: Mapping[str, Any] = yaml.load(TABLES.read_text(encoding="utf-8"), loader)  # noqa: S506 (a safe loader both ways)
    return tree


def words(refine: str, fields: Mapping[str, str], lang: Literal["en", "zh"]) -> dict[str, str]:
    """What a signature's number, code or ERR number means, by the names that its texts use. What no table has is absent."""
    at = _LANGUAGES[lang]
    out: dict[str, str] = {}
    table = tables().get(refine, {})
    number = fields.get("number", "")
    if number.isascii() and number.isdecimal() and (row := table.get(int(number))):
        out |= {"name": row[0], "meaning": row[1 + at]}
    code = fields.get("code", "")
    if module := next((m for prefix, m in tables()["modules"].items() if code.startswith(prefix)), None):
        out["module"] = module[at]
    if title := tables()["titles"].get(code):
        out["meaning"] = title[at]
    err = fields.get("err", "")
    if len(err) == 5 and (part := tables()["torch_npu_parts"].get(err[:2])):
        out["part"] = part[at]
        if kind := tables()["torch_npu_kinds"].get(err[2:]):
            out["kind"] = kind[at]
    return out
