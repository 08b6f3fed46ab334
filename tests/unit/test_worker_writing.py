"""What a rank writes of its share: in step with ranks that have more, and no longer than it is asked to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from launcher.machine.cluster import Cluster
from launcher.planning import decide
from launcher.planning.plan import Options, Plan
from launcher.recipe import load
from launcher.worker.chat.encode import PROMPT, REFERENCE
from launcher.worker.engines.base import Base
from launcher.worker.engines.device import Rank
from launcher.worker.runtime import stop_signals
from launcher.worker.training import writing

pytestmark = pytest.mark.slow

TINY = Path(__file__).resolve().parents[2] / "recipes" / "tiny"
ROWS = Dataset.from_dict({PROMPT: [[5, 6, 7], [8, 9], [10, 11, 12, 13]], REFERENCE: ["a", "b", "c"]})
"""Two batches of two rows at most."""


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    def make(strategy: str, nproc: int, **generation: Any) -> Plan:
        recipe = {
            "model": {"name": str(TINY), "task": "sft"},
            "data": {"path": "chats.jsonl", "eval": 3},
            "generation": generation,
            "parallel": {"strategy": strategy, "eval_batch_size": 2, "global_batch_size": nproc},
        }
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
        loaded = load.load(tmp_path / "mine.yaml", (), {})
        return decide.make(loaded, Cluster("cpu", source="a test"), Options(nproc=nproc))

    return make


def written(plan: Plan, rank: int, stops_of: Sequence[int] = (), beat: Callable[[], None] = lambda: None) -> Any:
    """`stops_of`: what other ranks say when they are asked whether they cut a text short."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TINY))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token = tokenizer.eos_token
    world = plan.nproc_per_node
    peers = SimpleNamespace(gather=lambda value: [value, *stops_of], gather_to_first=lambda value: [value])
    made = writing.Writing(
        plan, Rank(rank, rank, world, world), model, tokenizer, ROWS, peers=peers, events=None, beat=beat
    )
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(device=torch.device("cpu")),
        compute_loss_context_manager=contextlib.nullcontext,
    )
    return made.write(trainer, lambda done, total: None)


@pytest.mark.parametrize(("gathers", "calls"), [(False, [1, 1, 1, 1]), (True, [1, 1, 0, 0])])
def test_a_rank_without_rows_keeps_step_where_the_others_need_its_weights(
    plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, gathers: bool, calls: list[int]
):
    """Two batches on four ranks: two of them have none."""
    made: list[Sequence[int]] = []

    class Counted(writing.Generator):
        def generate(self, prompts: Sequence[Sequence[int]], rows: Sequence[int], **_: Any) -> list[list[int]]:
            made.append(rows)
            return [[] for _ in rows]

    monkeypatch.setattr(writing, "Generator", Counted)
    monkeypatch.setattr(writing.table, "of", lambda plan: Base())
    monkeypatch.setattr(writing.Writing, "_columns", lambda self, texts: texts)
    plan = plan_of("fsdp2", 4, max_new_tokens=4, gather_weights=gathers)
    counts, texts = [], []
    for rank in range(4):
        made.clear()
        texts.append(sorted(written(plan, rank)))
        counts.append(len(made))

    assert calls == counts
    assert [[0, 2], [1], [], []] == texts


def test_a_signal_ends_a_text_at_its_next_token_and_the_evaluation_with_it(
    plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
):
    """No text that was cut short is scored."""
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            monkeypatch.setattr(stop_signals, "_received", signal.SIGTERM)

    plan = plan_of("ddp", 1, max_new_tokens=50, min_new_tokens=50)
    with pytest.raises(stop_signals.EvaluationStopped):
        written(plan, 0, beat=beat)

    assert 3 + 1 == len(beats)  # and the first token of the second batch


def test_an_evaluation_ends_on_all_ranks_where_one_of_them_cut_a_text(plan_of: Callable[..., Plan]):
    plan = plan_of("ddp", 1, max_new_tokens=2)
    with pytest.raises(stop_signals.EvaluationStopped):
        written(plan, 0, stops_of=[0, 1])

    assert [3, 3] == [len(column) for name, column in written(plan, 0, stops_of=[0, 0]).items() if name != PROMPT]
