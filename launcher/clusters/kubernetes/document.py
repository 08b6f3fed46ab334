"""A manifest as YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

Document = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Strings that parsers could take for something else are quoted, since they disagree on which those are: PyYAML's
    own `1e3` is text to it, and a number to kubectl."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.Node:
        if re.fullmatch(r"[A-Za-z/][-A-Za-z0-9_./]*", value) and value.lower() not in _WORDS:
            style = None
        elif re.fullmatch(
            r"(?:[ -~\u00a1-\ud7ff]*[!-~\u00a1-\ud7ff])?(?:\n(?:[ -~\u00a1-\ud7ff]*[!-~\u00a1-\ud7ff])?)+", value
        ):
            style = "|" if "\u2028" not in value and "\u2029" not in value else '"'
        else:
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_Dumper.add_representer(str, _Dumper.text)


def text(documents: Sequence[Document]) -> str:
    """YAML that every parser reads as the same values."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6, explicit_start=True
    )
