"""What the preparation leaves for the ranks of a run: data.json, and the tokens and folders that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import files


@dataclass(frozen=True)
class SplitFacts:
    """One tokenised split on this node's disk."""

    path: str
    rows: int
    tokens: int
    mean_tokens: float
    max_tokens: int
    rows_at_max_length: int
    """Rows as long as max_length, most of which were longer."""
    label_counts: tuple[int, ...] = ()
    """Rows of each label."""
    about: str | None = None
    """A folder with what predictions.jsonl repeats of each row of the data; None where that is nothing."""


@dataclass(frozen=True)
class Prepared:
    """data.json: what `prepare` left for the ranks."""

    key: str
    model_path: str
    """A folder on this node; no rank asks a hub."""
    model_is_random: bool
    tokenizer_path: str
    num_labels: int
    label_names: tuple[str, ...]
    train: SplitFacts | None
    """None where nothing is trained."""
    eval: SplitFacts | None
    answer_ids: tuple[tuple[int, ...], ...] | None
    """causal-lm: the tokens of each label's answer, its end-of-turn token last."""
    sample: dict[str, Any]
    """One row as the model sees it, of the training split where there is one: text, label, input_ids, and the ids as
    text again."""
    notes: tuple[str, ...]
    digests: dict[str, str] = field(default_factory=dict)
    """Of what must be the same on every node of a job: rows, tokenizer, model. Empty where there is one node."""
    adapter_path: str | None = None
    """Where trained weights are used that are an adapter's: its folder; `model_path` is then the model below it."""
    weights: dict[str, Any] | None = None
    """Where trained weights are used: which, for metrics.json."""
    evals: dict[str, SplitFacts] = field(default_factory=dict)
    """The sets that are evaluated each for itself, by their names; `eval` is None then."""

    @property
    def splits(self) -> dict[str, SplitFacts]:
        """All of them, by the names that users know: train, eval, eval.NAME."""
        named = {f"eval.{name}": facts for name, facts in self.evals.items()}
        return {k: facts for k, facts in (("train", self.train), ("eval", self.eval)) if facts is not None} | named

    @property
    def evaluated(self) -> list[SplitFacts]:
        """The sets whose rows are evaluated, in the recipe's order."""
        return [self.eval] if self.eval is not None else list(self.evals.values())

    @classmethod
    def load(cls, path: Path) -> Prepared | None:
        """data.json, or None where it is missing or its files are not on this node."""
        value = files.read_json(path)
        if not isinstance(value, dict) or "key" not in value:
            return None
        facts = {k: _split_facts(value[k]) for k in ("train", "eval") if value[k] is not None}
        evals = {k: _split_facts(v) for k, v in value.get("evals", {}).items()}
        answers = value["answer_ids"] and tuple(map(tuple, value["answer_ids"]))
        names, notes = tuple(value["label_names"]), tuple(value["notes"])
        lists = {"answer_ids": answers, "label_names": names, "notes": notes}
        prepared = cls(**{**value, **facts, **lists, "evals": evals})
        of_splits = [path for facts in prepared.splits.values() for path in (facts.path, facts.about) if path]
        paths = [*of_splits, prepared.model_path, prepared.tokenizer_path]
        return prepared if all(Path(p).exists() for p in paths) else None


def _split_facts(value: dict[str, Any]) -> SplitFacts:
    return SplitFacts(**{**value, "label_counts": tuple(value.get("label_counts", ()))})
