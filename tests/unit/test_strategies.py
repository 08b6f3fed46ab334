"""The table of strategies: nobody else goes by their names, and a package's is one like any other."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import launcher
from launcher import plugins
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.planning import decide, fit, plan
from launcher.recipe import load
from launcher.strategies import peak, table
from launcher.strategies.base import Base
from launcher.strategies.ddp import Ddp
from launcher.strategies.fsdp2 import Fsdp2
from launcher.strategies.table import Speed
from launcher.strategies.zero import Zero
from tests.support.decisions import decisions, names_in
from tests.support.run import Ran

LAUNCHER = Path(launcher.__file__).resolve().parent
PACKAGE = LAUNCHER.parent / "tests" / "packages" / "pairs"
CPU = Cluster("cpu", source="a test")
Write = Callable[..., Path]


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that has the strategy `pairs` is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    plugins._load.cache_clear()


def make(path: Path, nproc: int, **options: Any) -> plan.Plan:
    return decide.make(load.load(path, (), {}), CPU, plan.Options(nproc=nproc, **options))


@pytest.mark.parametrize("name", table.BUILT_IN)
def test_every_strategy_has_all_that_the_interface_names(name: str):
    wanted = {n for n in (*table.Strategy.__annotations__, *vars(table.Strategy)) if not n.startswith("_")}
    strategy = table.load(name)

    assert set() == {n for n in wanted if not hasattr(strategy, n)}
    assert (name, table.INTERFACE) == (strategy.name, strategy.interface)
    assert isinstance(strategy, Base)


def test_auto_chooses_from_every_built_in_strategy():
    assert sorted(table.BUILT_IN) == sorted(table.PREFERENCE)


def test_states_of_every_strategy_shrink_by_what_it_shards():
    """Bytes a parameter on four ranks, by the ZeRO paper: weights, gradients, optimizer."""
    found = {name: table.load(name).state_bytes(1000, 4, "bf16") for name in table.BUILT_IN}

    half = {"zero1": 2000 + 2000 + 3000, "zero2": 2000 + 500 + 3000, "zero3": 500 + 500 + 3000}
    assert {"ddp": 16_000, **half, "zero3-offload": half["zero3"], "fsdp2": 4_000} == found


def test_a_recipe_may_name_a_strategy_of_another_package(pairs: None, recipe: Write):
    """The global batch is split over pairs, and the first of each counts."""
    made = make(recipe(parallel={"strategy": "pairs", "global_batch_size": 12}), 6)

    assert (3, 6) == (made.data_parallel_size, made.world_size)
    assert [0, 0, 1, 1, 2, 2] == [made.data_parallel_rank(rank) for rank in range(6)]
    assert [True, False] * 3 == [made.counts_rows(rank) for rank in range(6)]
    assert 12 == 3 * made.batch.micro_size * made.batch.accumulation
    assert made == plan.Plan.model_validate_json(made.model_dump_json())


@pytest.mark.parametrize(
    ("base", "template"),
    [(Base, "ddp"), (Ddp, "ddp"), (Fsdp2, "fsdp2"), (lambda: Zero("mine", 2, Speed()), "zero2")],
)
def test_accelerates_config_of_a_package_is_that_of_what_it_derives_from(base: Callable[[], Base], template: str):
    """There is no file of its name."""
    mine = base()
    mine.name = "mine"

    assert table.load(template).accelerate_template() == mine.accelerate_template()


def test_a_batch_that_pairs_cannot_split_names_the_nearest(pairs: None, recipe: Write):
    with pytest.raises(LaunchError, match="6 ranks, 3 of them with rows of their own") as refused:
        make(recipe(parallel={"strategy": "pairs", "global_batch_size": 8}), 6)
    assert "use parallel.global_batch_size=6 or 9, or 2, 4, 8 or 16 ranks" == refused.value.hint


def test_memory_of_another_packages_strategy_is_beside_the_others(pairs: None):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    rows = fit.table(config, hbm_bytes=64 << 30, world_size=2, strategies=("pairs", "ddp"))

    assert ["pairs", "ddp"] == [row.strategy for row in rows]
    assert rows[1].breakdown.total_bytes == rows[0].breakdown.total_bytes
    assert peak.estimate(config, strategy="pairs", world_size=2).parts() == rows[0].breakdown.parts()


def test_without_the_package_its_name_is_unknown(recipe: Write):
    with pytest.raises(
        LaunchError, match="'pairs' is not one of auto, ddp, zero1, zero2, zero3, zero3-offload or fsdp2"
    ):
        load.load(recipe(parallel={"strategy": "pairs"}), (), {})


def test_a_mistyped_name_lists_those_of_packages_too(pairs: None, recipe: Write):
    with pytest.raises(LaunchError, match=r"'pair' is not one of auto, .*fsdp2 or pairs; did you mean `pairs`"):
        load.load(recipe(parallel={"strategy": "pair"}), (), {})


def test_the_command_line_renders_it(ascend_launch: Callable[..., Ran], recipe: Write):
    """In a process of its own, which finds the package by itself; nobody is trained."""
    path = recipe(parallel={"strategy": "pairs"})
    ran = ascend_launch(
        "render", "--device", "cpu", "--nproc", "2", "--json", path, PYTHONPATH=f"{LAUNCHER.parent}:{PACKAGE}"
    )
    assert 0 == ran.code, ran.err

    files = json.loads(ran.out)["files"]
    assert "pairs" == json.loads(files["plan.json"])["strategy"]
    assert "distributed_type: MULTI_GPU" in files["accelerate.yaml"]


@pytest.mark.parametrize("name", table.BUILT_IN)
def test_one_rank_may_have_any_strategy_by_name(name: str):
    """`plan` and a launch on one card: the row of the strategy that the recipe names is there."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    assert [name] == [row.strategy for row in fit.table(config, hbm_bytes=64 << 30, world_size=1, strategies=(name,))]
    every = fit.table(config, hbm_bytes=64 << 30, world_size=1)
    assert ["ddp", "zero3-offload"] == [row.strategy for row in every]


def files() -> list[Path]:
    own = (LAUNCHER / "strategies", LAUNCHER / "worker" / "engines")
    return [path for path in sorted(LAUNCHER.rglob("*.py")) if not any(folder in path.parents for folder in own)]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(LAUNCHER)))
def test_nothing_is_decided_by_a_strategys_name(path: Path):
    """Whoever wants to know something asks the strategy."""
    names = {*table.BUILT_IN, "zero", "fsdp"}
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for node in decisions(ast.parse(path.read_text(encoding="utf-8")))
        if names & set(names_in(node))
    ]

    assert [] == [line for line in found if not line.endswith(ALLOWED)]


ALLOWED = ("'fsdp'",)
"""LLaMA-Factory and TrainingArguments have a key of that name."""


@pytest.mark.parametrize(
    "code",
    [
        "a == 'ddp'",
        "a in ('zero1', 'zero2')",
        "a.startswith('zero')",
        "{'fsdp2': 1}",
        "{1: 2}.get('zero3')",
        "a['ddp']",
        "match a:\n    case 'ddp': pass",
    ],
)
def test_a_decision_by_name_would_be_seen(code: str):
    assert any(set(names_in(node)) & {*table.BUILT_IN, "zero"} for node in decisions(ast.parse(code)))
