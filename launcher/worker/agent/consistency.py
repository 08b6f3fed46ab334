"""What has to be the same on every node of a job, in short: code, versions, settings, and what was prepared
from the recipe. And what differs, as text."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import launcher
from launcher.messages import Message, joined
from launcher.planning.plan import Plan
from launcher.worker.batching.digests import DIGEST_LETTERS, of_file

OWN = frozenset(
    {
        "accelerate_env",
        "recipe_dir",
        "device_reason",
        "nodes_reason",
        "strategy_reason",
        "precision_reason",
        "rank_table",
        "driver_version",
        "notes",
    }
)
"""Of a plan: where its values came from, and where files lie, may differ from node to node."""


Record = dict[str, Any]
VERBS = {
    "plan": Message("runs another plan"),
    "code": Message("runs other code"),
    "versions": Message("has other versions"),
    "settings": Message("has other settings"),
    "prepared": Message("prepared something else"),
}
HINTS = {
    "plan": Message("give every node the same recipe, overrides, options and versions"),
    "code": Message("install the same ascend-launch on every node, and give it the same script"),
    "versions": Message("install the same packages on every node"),
    "settings": Message("export the same values on every node, or none"),
    "prepared": Message(
        "give every node the same files: a shared file system, a copy, or the same revision from the hub"
    ),
}


def introduction(plan: Plan, env: Mapping[str, str] = os.environ) -> Record:
    """What a node says of itself when it comes, before anything is prepared."""
    record = plan.model_dump(mode="json", exclude=set(OWN))
    record["recipe"].pop("code", None)  # whole files, which `code` has by their digests
    return {
        "plan": record,
        "code": code(plan),
        "versions": versions(plan),
        "settings": settings(plan, env),
    }


def code(plan: Plan) -> dict[str, str]:
    """Digests of the launcher's own source, of the recipe's script, and of the functions that it names."""
    folder = Path(launcher.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    out = {"ascend-launch": digest.hexdigest()[:DIGEST_LETTERS]}
    for file, text in plan.recipe.code.items():
        out[file] = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]
    if plan.program is not None and plan.program.kind == "script" and Path(plan.program.target).is_file():
        out[Path(plan.program.target).name] = of_file(Path(plan.program.target))
    return out


def versions(plan: Plan) -> dict[str, str]:
    """Python, machine, and the packages that ranks of this plan use."""
    names = ["torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors"]
    names = names if plan.program is None else ["torch"]
    names += ["deepspeed"] if plan.sharing.needs_deepspeed else []
    names += ["peft"] if plan.recipe.adapter is not None else []
    names += plan.accelerator.packages
    out = {"python": ".".join(map(str, sys.version_info[:2])), "machine": platform.machine()}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def settings(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """The variables, and the rank table, that the accelerator's libraries want equal everywhere."""
    return plan.accelerator.shared_settings(env) | (
        {"rank table": of_file(Path(plan.rank_table))} if plan.rank_table else {}
    )


def difference(own: Record, other: Record, limit: int = 4) -> tuple[str, str, str] | None:
    """How another node's record differs from this one's: a verb, the values, and what to do; None where it does not."""
    differences, first = [], ""
    for part in VERBS:
        if own.get(part) == other.get(part):
            continue
        own_facts, other_facts = dict(_leaves(own.get(part) or {})), dict(_leaves(other.get(part) or {}))
        changed = [k for k in {**own_facts, **other_facts} if own_facts.get(k) != other_facts.get(k)]
        differences += [
            Message(
                "{key} is {place} there and {value} here",
                key=key,
                place=_shown(other_facts.get(key)),
                value=_shown(own_facts.get(key)),
            )
            for key in changed
        ]
        first = first or (part if changed else "")
    if not differences:
        return None
    shown = differences[:limit]
    if len(differences) > limit:
        shown.append(Message("and {count} more", count=len(differences) - limit))
    return VERBS[first], joined(shown, "; "), HINTS[first]


def _shown(value: Any) -> str:
    return Message("not set") if value is None else repr(value)


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [leaf for key, one in value.items() for leaf in _leaves(one, f"{prefix}.{key}" if prefix else key)]
