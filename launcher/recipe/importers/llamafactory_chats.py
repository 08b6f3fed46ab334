"""The data of a LLaMA-Factory YAML as conversations to be written: each data set with its format, columns and tags.

What LLaMA-Factory assumes where an entry says nothing is in its data/parser.py (release 0.9.5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from launcher.messages import Message
from launcher.recipe.importers.given import read_json
from launcher.recipe.importers.llamafactory_data import Data

_PAIRS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "query-response": {"prompt": "query", "response": "response"},
}
"""Formats of a recipe for rows of two or three columns, with an entry's names of columns and the format's keys."""
_AROUND = {"system": "system", "history": "history"}
_DIALOGUES = {
    "sharegpt": {
        "messages": "conversations",
        "role": "from",
        "content": "value",
        "user": "human",
        "assistant": "gpt",
        "tool": "observation",
        "tool_call": "function_call",
        "system": "system",
        "tools": "tools",
    },
    "messages": {
        key: key for key in ("messages", "role", "content", "user", "assistant", "tool_call", "system", "tools")
    },
}
"""Formats of a recipe for lists of messages, with what each key is where a recipe says nothing."""
_COLUMNS = {"messages": "messages", "system": "system", "tools": "tools"}
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "tool_call",
    "system_tag": "system",
}
_MEDIA = ("images", "videos", "audios")
_FORMATS = ("alpaca", "sharegpt", "openai")
_ENTRY = frozenset(
    {
        "file_name",
        "hf_hub_url",
        "ms_hub_url",
        "om_hub_url",
        "subset",
        "split",
        "columns",
        "formatting",
        "ranking",
        "tags",
        "num_samples",
    }
)
"""What is read of an entry of dataset_info.json."""
_SPLIT = ("split", "limit")
"""What a recipe says of its only set below data.train."""
TEXTS = "pt"
"""LLaMA-Factory's name of a stage on texts, of which every token is trained."""
ONLINE = "ONLINE"
"""A dataset_dir that says that the names are ids of the hub."""


class Chats(Data):
    """The part of an import whose rows are conversations."""

    @property
    def _is_of_texts(self) -> bool:
        """Whether every token of plain texts is trained."""
        return bool(self.given.get("stage") == TEXTS)

    def _conversations(self) -> None:
        train = self._sets("dataset")
        if not train:
            raise self._fail("dataset", Message("names no dataset"), Message("a training file has `dataset:`"))
        held = self._sets("eval_dataset")
        limit = self._take("max_samples", None, Message("a whole number above 0"))
        if limit is not None:
            self._leave("max_samples", "which rows: drawn by a seed here, the first ones there")
            for one in (*train.values(), *held.values()):
                one["limit"] = min(limit, one.get("limit", limit))
        self._mix(train)
        origin = self._origin("dataset", "max_samples", "interleave_probs")
        if len(train) == 1:
            self._only_set(next(iter(train.values())), origin)
        else:
            self.out.put("data.sets", list(train.values()), origin)
        self._held_out(held)
        self._rows()

    def _only_set(self, one: dict[str, Any], origin: str) -> None:
        for key, value in one.items():
            if key not in _SPLIT:
                self.out.put(f"data.{key}", value, origin)
        if split := {key: one[key] for key in _SPLIT if key in one}:
            self.out.put("data.train", split, origin)

    def _rows(self) -> None:
        """What becomes of each conversation."""
        self._move("default_system", "data.system")
        whole, last = self._take("train_on_prompt", False), self._take("mask_history", False)
        if whole or last:
            self.out.put("data.train_on", "all" if whole else "last", self._origin("train_on_prompt", "mask_history"))
        packs, neat = self._take("packing", self._is_of_texts), self._take("neat_packing", False)
        if packs or neat:
            self.out.put("data.packing", True, self._origin("packing", "neat_packing") or "its default")
            if not neat:
                self._leave("packing", "attention across the rows of a pack: rows of a pack do not see each other here")
        if self._is_of_texts:
            self.out.put("data.too_long", "split", "its default")
        self.out.put("data.max_length", self._take("cutoff_len", 2048), self._origin("cutoff_len") or "its default")
        self._move("preprocessing_num_workers", "data.num_proc")

    def _mix(self, train: dict[str, dict[str, Any]]) -> None:
        """Raises LaunchError for a mixture that is drawn as rows come, which is not the same rows in an epoch."""
        strategy = self._take("mix_strategy", "concat")
        if strategy != "concat":
            raise self._fail(
                "mix_strategy",
                Message(
                    "mix_strategy: {strategy!r} draws rows with probabilities until a set ends, which has no counterpart",
                    strategy=strategy,
                ),
                self._unchanged(Message("write sets with `weight:` under `data.sets`, from `mix_strategy: concat`")),
            )
        self.done.add("interleave_probs")

    def _held_out(self, held: dict[str, dict[str, Any]]) -> None:
        share = self._take("val_size", 0, Message("a number, at least 0"))
        if held:
            if share:
                self._leave("val_size", "the rows of eval_dataset are held out")
            self._leave("eval_on_each_dataset", "each set of data.eval is evaluated by itself")
            self.out.put("data.eval", self._named(held), self._origin("eval_dataset"))
            return
        if share:
            self._leave("val_size", "which rows: drawn by another seed here")
            self.out.put("data.eval", share if share < 1 else int(share), self._origin("val_size"))
            return
        self.out.put("data.eval", None, "it names none")

    @staticmethod
    def _named(sets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Sets by names that figures may have."""
        return {re.sub(r"[^a-z0-9_-]+", "-", name.lower()): one for name, one in sets.items()}

    def _sets(self, key: str) -> dict[str, dict[str, Any]]:
        """The data sets of a key, by name, each as a set of a recipe."""
        names = self._names(key)
        self.done |= {"dataset_dir", "media_dir"}
        if not names:
            return {}
        if self.given.get("dataset_dir") == ONLINE:
            return {name: {"path": name, "format": "alpaca"} for name in names}
        info_path = self._info_path(key)
        info = read_json(info_path)
        return {name: self._set(key, name, info if isinstance(info, dict) else {}, info_path) for name in names}

    def _set(self, key: str, name: str, info: dict[str, Any], info_path: Path) -> dict[str, Any]:
        entry = self._entry(key, name, info, info_path)
        self._require_text(key, name, entry)
        for odd in sorted(entry.keys() - _ENTRY):
            self._leave(key, Message("{odd!r} of {name} in {info_path}", odd=odd, name=name, info_path=info_path.name))
        formatting = entry.get("formatting", "alpaca")
        form = _texts(entry) if self._is_of_texts else _format(formatting, entry)
        one = {**self._place(key, name, entry, info_path), **form}
        if entry.get("num_samples") is not None:
            one["limit"] = entry["num_samples"]
        return one

    def _require_text(self, key: str, name: str, entry: dict[str, Any]) -> None:
        """Raises LaunchError for preferences, images and what else is not a conversation in text."""
        formatting = entry.get("formatting", "alpaca")
        if entry.get("ranking"):
            what = Message("{name}: its rows are preferences: two answers, of which one is better", name=name)
        elif media := [kind for kind in _MEDIA if kind in (entry.get("columns") or {})]:
            what = Message("{name}: its rows have {media}, and a recipe trains on text", name=name, media=media[0])
        elif formatting not in _FORMATS:
            what = Message("{name}: formatting {formatting!r} is unknown", name=name, formatting=formatting)
        else:
            return
        raise self._fail(key, what, self._unchanged())

    def _place(self, key: str, name: str, entry: dict[str, Any], info_path: Path) -> dict[str, Any]:
        """Where the rows are: a file, a folder, or an id of the hub."""
        if "hf_hub_url" in entry:
            hub = {"path": entry["hf_hub_url"], "name": entry.get("subset"), "split": entry.get("split")}
            return {k: v for k, v in hub.items() if v is not None}
        file = info_path.parent / str(entry.get("file_name", ""))
        if "file_name" in entry and file.is_dir():
            return {"path": str(file)}
        return {"path": str(self._file(key, name, entry, info_path))}


def _texts(entry: dict[str, Any]) -> dict[str, Any]:
    column = (entry.get("columns") or {}).get("prompt", _PAIRS["alpaca"]["prompt"])
    return {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}


def _format(formatting: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The format's name in a recipe, and the columns and tags that differ from what it has by itself."""
    given, tags = entry.get("columns") or {}, entry.get("tags") or {}
    if formatting == "alpaca":
        # An entry that names columns, and no query among them, has none.
        name = "query-response" if given and "query" not in given else "alpaca"
        usual = {ours: ours for ours in (*_PAIRS[name].values(), *_AROUND.values())}
        named = {ours: given[theirs] for theirs, ours in {**_PAIRS[name], **_AROUND}.items() if theirs in given}
        if name == "query-response":
            usual = {}  # several columns may hold a question
    else:
        name = "messages" if formatting == "openai" or tags.get("role_tag") == "role" else "sharegpt"
        usual = _DIALOGUES[name]
        named = {ours: given[theirs] for theirs, ours in _COLUMNS.items() if theirs in given}
        named |= {ours: tags[theirs] for theirs, ours in _TAGS.items() if theirs in tags}
    columns = {ours: column for ours, column in named.items() if usual.get(ours) != column}
    return {"format": name, **({"columns": columns} if columns else {})}
