"""What has to be equal on all nodes, and how a difference is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.accelerators import detect
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.worker.agent import consistency
from launcher.worker.agent.consistency import HINTS
from launcher.worker.batching import digests
from launcher.worker.batching.digests import HEAD_BYTES

Write = Callable[..., Path]


def made(path: Path, npu: bool = False, **overrides: Any) -> plan.Plan:
    words = [f"{k}={v}" for k, v in overrides.items()]
    cluster = detect.assumed(2, Nodes()) if npu else Cluster("cpu", (), source="test")
    return decide.make(load.load(path, words, {}), cluster, plan.Options(nproc=2))


def test_equal_nodes_do_not_differ(recipe: Write):
    """Where a recipe lies, and why a value was taken, may be another thing on each node."""
    path = recipe()
    own = consistency.introduction(made(path), {})
    elsewhere = made(path).model_copy(update={"recipe_dir": "/elsewhere", "nodes_reason": "Slurm: ..."})

    assert consistency.difference(own, consistency.introduction(elsewhere, {})) is None


DIFFERENT: dict[str, tuple[str, Any, str, str]] = {
    "plan": (
        "plan",
        lambda part: part | {"strategy": "zero3"},
        "runs another plan",
        "strategy is 'zero3' there and 'ddp' here",
    ),
    "code": ("code", lambda part: {"ascend-launch": "0"}, "runs other code", "ascend-launch is '0' there and"),
    "versions": (
        "versions",
        lambda part: part | {"torch": "2.12.0"},
        "has other versions",
        "torch is '2.12.0' there and",
    ),
    "settings": (
        "settings",
        lambda part: {"HCCL_EXEC_TIMEOUT": "60"},
        "has other settings",
        "HCCL_EXEC_TIMEOUT is '60' there and not set here",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_named_with_both_values(recipe: Write, name: str):
    """And with what to do about its kind."""
    part, change, verb, said = DIFFERENT[name]
    own = consistency.introduction(made(recipe()), {})
    found = consistency.difference(own, own | {part: change(own[part])})

    assert found is not None
    assert (verb, HINTS[part]) == (found[0], found[2])
    assert said in found[1]


def test_many_differences_are_cut_short(recipe: Write):
    """A node with another recipe would fill the screen."""
    own = consistency.introduction(made(recipe()), {})
    found = consistency.difference(own, own | {"versions": dict.fromkeys(own["versions"], "0")})

    assert found is not None
    assert "and 4 more" in found[1]
    assert 4 == found[1].count(" there and ")


def test_hccls_variables_count_on_cards_only(recipe: Write):
    """HCCL wants them equal (EI0005), but for those that say where a node is. Secrets are none of them."""
    env = {"HCCL_EXEC_TIMEOUT": "60", "HCCL_IF_IP": "10.0.0.1", "HCCL_SOCKET_IFNAME": "eth0", "HF_TOKEN": "hf_x"}

    assert {"HCCL_EXEC_TIMEOUT": "60"} == consistency.settings(made(recipe(), npu=True), env)
    assert {} == consistency.settings(made(recipe()), env)


def test_a_script_is_part_of_the_code(recipe: Write, tmp_path: Path):
    """A recipe that is equal may run a script that is not."""
    (tmp_path / "mine.py").write_text("print(1)")
    path = recipe(script="mine.py")
    before = consistency.code(made(path))
    (tmp_path / "mine.py").write_text("print(2)")
    after = consistency.code(made(path))

    assert before["ascend-launch"] == after["ascend-launch"]
    assert before["mine.py"] != after["mine.py"]


@pytest.mark.parametrize("place", [0, 5, -1])
def test_weights_are_told_apart_by_their_ends_and_sizes(tmp_path: Path, place: int):
    """Hashing 16 GB on every node would take minutes; a truncated or exchanged file is seen all the same."""
    content = bytearray(3 * HEAD_BYTES)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
    assert digests.of_weights(tmp_path / "a") == digests.of_weights(tmp_path / "b")

    content[place] = 1
    (tmp_path / "b" / "model.safetensors").write_bytes(content)
    assert digests.of_weights(tmp_path / "a") != digests.of_weights(tmp_path / "b")
