"""The data of an axolotl YAML as conversations to be written. How rows are read is in its utils/data and prompt_strategies
(release 0.19.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.importers.axolotl_keys import SET, SET_KINDS
from launcher.recipe.importers.evaluations import Evaluations
from launcher.recipe.importers.given import KINDS, expected
from launcher.recipe.yamlfile import KeyPath

_CHATS = ("chat_template", "chat_template.default")
_TEXTS = "completion"
_OWN_TEMPLATE = "tokenizer_default"
_JINJA = "jinja"
_CHATML = "chatml"
_SHAREGPT = "from"
_ROLES = {
    "user": {"user", "human"},
    "assistant": {"assistant", "gpt"},
    "system": {"system"},
    "tool": {"tool"},
}
"""Speakers as both sides know them where nothing is said."""
_ENDINGS = {
    "json": (".json", ".jsonl"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "text": (".txt",),
}
_TOO_LONG = {"drop": "drop", "truncate": "cut"}
_CORRECT = Message("correct that line")
_WHOLE = Message("a whole number above 0")


def _without_template(kind: Any) -> str:
    if kind is None:
        return Message("no type: its rows are tokens already")
    if isinstance(kind, dict):
        return Message("type: a format of its own writes rows without a chat template")
    return Message("type {kind!r} writes rows in words of its own, without a chat template", kind=kind)


class Data(Evaluations):
    """The part of an import whose rows are conversations or texts."""

    nested_lines: Mapping[KeyPath, int]
    """The line of every key, also of those in lists."""

    def _conversations(self) -> None:
        train, kinds = self._sets("datasets")
        if not train:
            raise self._fail("datasets", Message("names no dataset"), Message("a training file has `datasets:`"))
        held, _ = self._sets("test_datasets")
        if len(kinds) > 1:
            raise self._fail("datasets", Message("conversations beside texts"), self._unchanged())
        is_of_texts = kinds == {_TEXTS}
        origin = self._origin("datasets")
        if len(train) == 1:
            self._only_set(train[0], origin)
        else:
            self.out.put("data.sets", train, origin)
        self._held_out(held)
        if is_of_texts:
            self._leave("train_on_inputs", Message("a text is trained whole"))
            self.out.put("data.too_long", "split", "its default")
            self._refuse_short()
        else:
            self._template()
            self._too_long()
        if self._take("sample_packing", False):
            self.out.put("data.packing", True, self._origin("sample_packing"))
        length = self._take("sequence_len", 512, _WHOLE)
        self.out.put("data.max_length", length, self._origin("sequence_len") or "its default")

    def _too_long(self) -> None:
        if self._take("train_on_inputs", False):
            what = Message(
                "train_on_inputs: what users say is trained without the words around it, which has no counterpart"
            )
            raise self._fail("train_on_inputs", what, self._unchanged())
        strategy = str(self._take("excess_length_strategy", "drop")).lower()
        if strategy not in _TOO_LONG:
            what = Message("excess_length_strategy: {value!r} has no counterpart", value=strategy)
            raise self._fail("excess_length_strategy", what, self._unchanged())
        self._refuse_short()
        self.out.put("data.too_long", _TOO_LONG[strategy], self._origin("excess_length_strategy") or "its default")
        if not self.given.get("eot_tokens"):
            self._leave(
                "datasets",
                Message("the token that ends a turn is always trained here; there where it is the EOS token"),
            )

    def _refuse_short(self) -> None:
        """Raises LaunchError where rows are left out that are short, and not of one token."""
        if (shortest := self._take("min_sample_len", 2, _WHOLE)) > 2:
            what = Message("min_sample_len: {value}: short rows are trained here", value=shortest)
            raise self._fail("min_sample_len", what, self._unchanged())

    def _only_set(self, one: dict[str, Any], origin: str) -> None:
        split = one.pop("split", None)
        for key, value in one.items():
            self.out.put(f"data.{key}", value, origin)
        if split is not None:
            self.out.put("data.train", {"split": split}, origin)

    def _sets(self, key: str) -> tuple[list[dict[str, Any]], set[str]]:
        """Each set, and what they are: conversations or texts."""
        given = self._take(key) or []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise self._fail(key, Message("{key}: expected a list of mappings", key=key), _CORRECT)
        kinds: set[str] = set()
        out = []
        for number, one in enumerate(given):
            form, kind = self._form((key, number), one)
            kinds.add(kind)
            out.append({**self._place((key, number), one), **form})
        return out, kinds

    def _refuse_at(self, place: KeyPath, what: str, instead: str | None = None) -> LaunchError:
        """A refusal at a key of a set, or the nearest one around it that has a line."""
        around = (place[:n] for n in range(len(place), 0, -1))
        line = next((self.nested_lines[one] for one in around if one in self.nested_lines), 1)
        return LaunchError(f"{self.path}:{line}: {what}", hint=self._unchanged(instead))

    def _place(self, place: KeyPath, one: dict[str, Any]) -> dict[str, Any]:
        """Where the rows are, by load_dataset's names."""
        path = one.get("path")
        if not isinstance(path, str):
            raise self._refuse_at(place, Message("path: expected text, got {value!r}", value=path))
        if "://" in path:
            raise self._refuse_at(
                (*place, "path"),
                Message("{path}: rows in a cloud", path=path),
                Message("fetch them, and name the file"),
            )
        file = next((p for p in (Path(path), self.path.parent / path) if p.exists()), None)
        out: dict[str, Any] = {"path": str(file or path)}
        kind = one.get("ds_type")
        if kind is not None and file is not None and file.is_file() and not file.name.endswith(_ENDINGS.get(kind, ())):
            out = {"path": kind, "data_files": str(file)}
        for key in ("name", "data_files", "revision"):
            if one.get(key) is not None:
                out[key] = one[key]
        if one.get("split") not in (None, "train"):
            out["split"] = one["split"]
        return out

    def _form(self, place: KeyPath, one: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The format of a set, and whether it is conversations or texts."""
        if odd := sorted(key for key, value in one.items() if key not in SET and value is not None):
            raise self._refuse_at((*place, odd[0]), Message("{key} has no counterpart", key=odd[0]))
        kind = one.get("type")
        if kind is None or isinstance(kind, dict):
            raise self._refuse_template(place, kind)
        for wanted, keys in SET_KINDS.items():
            for key in keys:
                if one.get(key) is not None and not KINDS[wanted](one[key]):
                    raise self._refuse_at((*place, key), expected(key, wanted, one[key]))
        if kind == _TEXTS:
            column = one.get("field") or "text"
            return {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}, _TEXTS
        if kind not in _CHATS:
            raise self._refuse_template(place, kind)
        self._refuse_masks(place, one)
        return self._messages(place, one), _CHATS[0]

    def _refuse_template(self, place: KeyPath, kind: Any) -> LaunchError:
        instead = Message("chat_template and completion have counterparts")
        return self._refuse_at((*place, "type"), _without_template(kind), instead)

    def _refuse_masks(self, place: KeyPath, one: dict[str, Any]) -> None:
        """Raises LaunchError where other tokens are trained than those of the answers and the ends of their turns."""
        roles = one.get("roles_to_train", ["assistant"])
        known = one.get("roles") or {}
        if (
            not isinstance(roles, list)
            or not roles
            or not set(roles) <= {*_ROLES["assistant"], *known.get("assistant", [])}
        ):
            raise self._refuse_at(
                (*place, "roles_to_train"), Message("roles_to_train: {roles}: assistants are trained here", roles=roles)
            )
        for key in ("train_on_eos", "train_on_eot"):
            if one.get(key) not in (None, "turn"):
                what = Message(
                    "{key}: {value!r} has no counterpart: each answer's end is trained", key=key, value=one[key]
                )
                raise self._refuse_at((*place, key), what)
        for key in ("drop_system_message", "split_thinking"):
            if one.get(key):
                raise self._refuse_at((*place, key), Message("{key} has no counterpart", key=key))
        thinking = one.get("field_thinking", "reasoning_content"), one.get("template_thinking_key", "reasoning_content")
        if thinking[0] != thinking[1]:
            raise self._refuse_at(
                (*place, "field_thinking"), Message("field_thinking: keys of messages keep their names here")
            )

    def _messages(self, place: KeyPath, one: dict[str, Any]) -> dict[str, Any]:
        mapped = dict(one.get("message_property_mappings") or {})
        role = mapped.pop("role", one.get("message_field_role")) or "role"
        content = mapped.pop("content", one.get("message_field_content")) or "content"
        if odd := [key for key, value in mapped.items() if key != value]:
            raise self._refuse_at(
                (*place, "message_property_mappings"),
                Message("{key}: keys of messages keep their names here", key=odd[0]),
            )
        is_sharegpt = role == _SHAREGPT
        usual = (
            {"messages": "conversations", "role": _SHAREGPT, "content": "value"}
            if is_sharegpt
            else {"role": "role", "content": "content"}
        )
        columns = {
            "messages": one.get("field_messages") or "messages",
            "role": role,
            "content": content,
            "tools": one.get("field_tools"),
            "train": one.get("message_field_training"),
        }
        columns |= self._speakers(place, one.get("roles") or {})
        kept = {key: value for key, value in columns.items() if value is not None and usual.get(key, key) != value}
        return {"format": "sharegpt" if is_sharegpt else "messages", **({"columns": kept} if kept else {})}

    def _speakers(self, place: KeyPath, roles: Any) -> dict[str, str]:
        out = {}
        for speaker, names in roles.items() if isinstance(roles, dict) else ():
            new = sorted(set(names) - _ROLES.get(speaker, set()))
            if speaker not in _ROLES or len(new) > 1:
                what = Message(
                    "roles: {speaker}: {names}: one name for each speaker can be given", speaker=speaker, names=names
                )
                raise self._refuse_at((*place, "roles"), what)
            if new:
                out[speaker] = new[0]
        return out

    def _held_out(self, held: list[dict[str, Any]]) -> None:
        share = self._take("val_set_size", 0, Message("a number, at least 0"))
        if held:
            self._leave("val_set_size", Message("the rows of test_datasets are held out"))
            names = {self._title(number, one): one for number, one in enumerate(held)}
            self.out.put("data.eval", names, self._origin("test_datasets"))
        elif share:
            self._leave("val_set_size", Message("which rows: drawn by another seed here"))
            self.out.put("data.eval", share if share < 1 else int(share), self._origin("val_set_size"))
        else:
            self.out.put("data.eval", None, "it names none")

    @staticmethod
    def _title(number: int, one: dict[str, Any]) -> str:
        name = re.sub(r"[^a-z0-9_-]+", "-", Path(one["path"]).stem.lower()).strip("-") or "eval"
        return f"{name}-{number}" if number else name

    def _template(self) -> None:
        """The chat template, which is one for all sets."""
        sets = self.given["datasets"]
        wide = self._take("chat_template"), self._take("chat_template_jinja")
        own = {(one.get("chat_template"), one.get("chat_template_jinja")) for one in sets}
        if len(own) > 1 or (own != {(None, None)} and own != {wide} and wide != (None, None)):
            raise self._fail("datasets", Message("sets with chat templates of their own"), self._unchanged())
        name, text = wide if wide != (None, None) else next(iter(own))
        key = "chat_template" if wide[0] else "chat_template_jinja" if wide[1] else "datasets"
        if name == _CHATML:
            self.out.put("data.chat_template", _CHATML, self._origin(key))
        elif text is not None and name in (None, _JINJA):
            file = next(
                (p for p in (Path(str(text)), self.path.parent / str(text)) if "\n" not in str(text) and p.is_file()),
                None,
            )
            if file is None:
                what = Message("a template is written in the file itself")
                raise self._fail(key, what, Message("put it into a file, and name that file there"))
            self.out.put("data.chat_template", str(file), self._origin(key))
        elif name is not None and not str(name).startswith(_OWN_TEMPLATE):
            what = Message("chat_template: {name}: axolotl's own words for it", name=name)
            instead = Message(
                "write tokenizer_default where the tokenizer's own is meant, or jinja and chat_template_jinja: FILE"
            )
            raise self._fail(key, what, self._unchanged(instead))
