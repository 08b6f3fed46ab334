"""The plan follows from recipe and machine alone, and refuses what cannot run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.accelerators import detect
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.models.config import model_config
from launcher.models.wanted import About
from launcher.planning import decide, plan, texts
from launcher.planning.arguments import DEBUG_STEPS
from launcher.recipe import load
from launcher.show import plan as show

Write = Callable[..., Path]
CPU = Cluster("cpu", source="a test")


def make(path: Path, cluster: Cluster = CPU, nproc: int | None = None, *overrides: str, **options: Any) -> plan.Plan:
    config = options.pop("model_config", None)
    return decide.make(load.load(path, overrides, {}), cluster, plan.Options(nproc=nproc, **options), config)


def cards(count: int, chip: str = "910B3") -> Cluster:
    return detect.assumed(count, Nodes(), chip)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("micro", ["auto", 1])
def test_the_global_batch_is_kept_at_any_number_of_ranks(recipe: Write, world_size: int, micro: str | int):
    """global = ranks x micro x accumulation, exactly."""
    made = make(recipe(parallel={"global_batch_size": 12, "micro_batch_size": micro}), CPU, world_size)
    batch = made.batch

    assert 12 == world_size * batch.micro_size * batch.accumulation
    assert batch.micro_size == made.training_arguments["per_device_train_batch_size"]
    assert batch.accumulation == made.training_arguments["gradient_accumulation_steps"]


def test_a_batch_that_cannot_be_split_names_the_nearest(recipe: Write):
    """8 rows over 3 ranks: 6 or 9 would do, or 1, 2, 4 or 8 ranks; the line of the value is named."""
    with pytest.raises(LaunchError) as caught:
        make(recipe(parallel={"global_batch_size": 8}), CPU, 3)

    assert "cannot be split evenly over 3 ranks" in caught.value.what
    assert "mine.yaml:" in caught.value.what
    assert "use parallel.global_batch_size=6 or 9, or 1, 2, 4 or 8 ranks" == caught.value.hint


def test_a_batch_below_the_ranks_names_only_what_exists(recipe: Write):
    """No global batch of 0 is proposed."""
    with pytest.raises(LaunchError) as caught:
        make(recipe(parallel={"global_batch_size": 2}), CPU, 4)

    assert "use parallel.global_batch_size=4, or 1 or 2 ranks" == caught.value.hint


@pytest.mark.parametrize(
    ("chip", "asked", "got"),
    [("910B3", "auto", "bf16"), ("910A", "auto", "fp16"), ("910ProB", "auto", "fp16"), ("910B3", "fp32", "fp32")],
)
def test_precision_follows_the_chip(recipe: Write, chip: str, asked: str, got: str):
    """bf16 where the chip has it, fp16 with loss scaling where not; a recipe's own word stands."""
    made = make(recipe(parallel={"precision": asked}), cards(8, chip))

    assert got == made.precision
    assert (got == "bf16", got == "fp16") == (made.training_arguments["bf16"], made.training_arguments["fp16"])


def test_precision_that_cannot_be_is_refused(recipe: Write):
    """bf16 on 910A and fp16 on CPU, each with the way out."""
    with pytest.raises(LaunchError, match="Ascend910A has no bf16"):
        make(recipe(parallel={"precision": "bf16"}), cards(8, "910A"))
    with pytest.raises(LaunchError, match="fp16 does not train on CPU"):
        make(recipe(parallel={"precision": "fp16"}), CPU, 2)


def test_cards_bring_hccl_and_cpu_brings_gloo(recipe: Write):
    """Device, backend and TrainingArguments agree."""
    on_npu, on_cpu = make(recipe(), cards(8)), make(recipe(), CPU, 2)

    assert ("npu", "hccl", 8, False) == (
        on_npu.device,
        on_npu.backend,
        on_npu.world_size,
        on_npu.training_arguments["use_cpu"],
    )
    assert ("cpu", "gloo", 2, True) == (
        on_cpu.device,
        on_cpu.backend,
        on_cpu.world_size,
        on_cpu.training_arguments["use_cpu"],
    )


def test_every_card_gets_one_rank_and_no_card_two(recipe: Write):
    """Without --nproc there is one rank a card; more ranks than cards are refused."""
    assert 8 == make(recipe(), cards(8)).nproc_per_node
    with pytest.raises(LaunchError) as caught:
        make(recipe(), cards(8), 16)

    assert "--nproc 16 is more than the 8 visible cards" == caught.value.what


def test_nodes_multiply_ranks(recipe: Write):
    """Two nodes of eight are sixteen ranks that meet at the endpoint."""
    cluster = detect.assumed(8, Nodes(2, 1, "node0:29400"))
    made = make(recipe(parallel={"global_batch_size": 16}), cluster)

    assert (16, 2, "node0:29400") == (made.world_size, made.num_nodes, made.rdzv_endpoint)


@pytest.mark.parametrize(
    ("count", "rank", "endpoint", "said"),
    [
        (2, 2, "h:1", "--node-rank 2 is not one of 2 nodes"),
        (2, 0, None, "needs --rdzv-endpoint"),
        (2, 0, "host", "is not HOST:PORT"),
        (2, 0, "host:99999", "is not HOST:PORT"),
        (1, 1, None, "is not one of 1 node"),
    ],
)
def test_nodes_that_do_not_fit_together(count: int, rank: int, endpoint: str | None, said: str):
    """Each combination that would hang at rendezvous is refused before."""
    with pytest.raises(LaunchError, match=said):
        Nodes(count, rank, endpoint).check()


def test_debug_is_one_rank_and_a_few_steps(recipe: Write):
    """Whatever the machine has, a debugger holds one process."""
    made = make(recipe(), cards(8), 8, debug=True)

    assert (1, DEBUG_STEPS, "no") == (
        made.world_size,
        made.training_arguments["max_steps"],
        made.training_arguments["save_strategy"],
    )


def test_a_log_line_is_the_default(recipe: Write):
    """The user's guide ends with a table that says "No log"; a launch never does."""
    assert 10 == make(recipe()).training_arguments["logging_steps"]


def test_auto_strategy_says_why(recipe: Write):
    """Full fine-tuning on many cards is sharded; one rank, LoRA and CPU are not."""
    full = make(recipe(), cards(8))
    lora = make(recipe(adapter={"r": 8}), cards(8))
    one = make(recipe(), cards(1))

    assert ("zero3", "ddp", "ddp") == (full.strategy, lora.strategy, one.strategy)
    assert all(made.strategy_reason for made in (full, lora, one))


UNCOUNTED = {
    "model_type": "flaubert",
    "dim": 768,
    "n_layers": 6,
    "hidden_dim": 3072,
    "vocab_size": 30522,
    "activation": "gelu",
}


@pytest.mark.parametrize(
    ("num_parameters", "adapter", "strategy"),
    [
        (66_000_000, None, "ddp"),
        (4_000_000_000, None, "zero1"),
        (8_000_000_000, None, "zero2"),
        (60_000_000_000, None, "zero3"),
        (8_000_000_000, {"r": 8}, "ddp"),
        (70_000_000_000, {"r": 8}, "zero3"),
    ],
)
def test_a_family_without_a_memory_model_is_sharded_by_its_size(
    recipe: Write, num_parameters: int, adapter: Any, strategy: str
):
    """Eight cards of 64 GB; 66 million parameters need no ZeRO-3, and the reason names family and size."""
    about = About(num_parameters)
    path = recipe(adapter=adapter) if adapter else recipe()
    made = make(path, cards(8), model=about, model_config=UNCOUNTED)

    assert strategy == made.strategy
    if strategy != "ddp" or adapter is None:
        assert "memory of model type 'flaubert' is not computed here" in made.strategy_reason
        assert "parameters" in made.strategy_reason


def test_a_config_without_sizes_is_not_blamed_on_its_family(recipe: Write):
    """Memory of llama is computed, and this one does not say how large it is."""
    made = make(recipe(), cards(8), model_config={"model_type": "llama", "hidden_size": "x"})

    assert "does not say all the sizes" in made.strategy_reason
    assert "only of" not in made.strategy_reason


def test_what_the_models_files_tell_is_in_the_plan(recipe: Write):
    """Notes go to plan and --dry-run; a launch says them when its data is prepared."""
    assert ("a note",) == make(recipe(), model=About(notes=("a note",))).notes


def test_the_plan_survives_its_file(recipe: Write):
    """plan.json is the plan, whole."""
    made = make(recipe(adapter={"r": 8}), cards(8))

    assert made == plan.Plan.model_validate_json(made.model_dump_json())


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 64}, 64),
        ({"text_config": {"hidden_size": 32}}, 32),
        ({"n_embd": 7}, 7),
        ({}, None),
        (None, None),
    ],
)
def test_hidden_size_is_read_where_it_is(recipe: Write, config: dict[str, Any] | None, size: int | None):
    """The names that model families use; None where no config is at hand."""
    assert size == make(recipe(), model_config=config).hidden_size


def test_fp16_on_cards_takes_an_optimizer_that_its_scaler_works_with(recipe: Write):
    """torch_npu's scaler passes itself to fused optimizers; the user's own choice stands, and DeepSpeed scales itself."""
    ddp = {"strategy": "ddp"}

    assert "adamw_torch" == make(recipe(parallel=ddp), cards(8, "910A")).training_arguments["optim"]
    assert "sgd" == make(recipe(parallel=ddp, training={"optim": "sgd"}), cards(8, "910A")).training_arguments["optim"]
    assert "optim" not in make(recipe(), cards(8, "910A")).training_arguments
    assert "optim" not in make(recipe(parallel=ddp), cards(8, "910B3")).training_arguments


LLAMA_3_8B = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.mark.parametrize(
    ("num_cards", "hbm_gib", "strategy"),
    [(1, 64, "zero3-offload"), (4, 64, "zero2"), (8, 64, "zero1"), (8, 32, "zero3"), (16, 32, "zero2")],
)
def test_auto_takes_the_fastest_strategy_that_fits(recipe: Write, num_cards: int, hbm_gib: int, strategy: str):
    """Llama-3-8B by its real shape, without a network; the reason names what did not fit."""
    cluster = detect.assumed(num_cards, Nodes(), "910B3", hbm_gib)
    path = recipe(
        model={"name": LLAMA_3_8B}, parallel={"global_batch_size": 16}, training={"gradient_checkpointing": True}
    )
    made = make(path, cluster, model_config=model_config(LLAMA_3_8B, env={}))

    assert strategy == made.strategy
    assert "faster ones do not fit: ddp" in made.strategy_reason


def test_what_cannot_fit_is_refused_with_the_nearest_change(recipe: Write):
    """Full AdamW on one card, as in the user's guide, is said before anything is loaded."""
    path = recipe(model={"name": LLAMA_3_8B}, parallel={"strategy": "ddp"})
    with pytest.raises(LaunchError) as caught:
        make(path, cards(1), model_config=model_config(LLAMA_3_8B, env={}))

    assert "the job does not fit: ddp needs" in caught.value.what
    assert "parallel.strategy=zero3-offload" in caught.value.hint


LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


@pytest.mark.parametrize(
    ("mode", "hint"),
    [
        ("eval", "parallel.strategy=zero3 shares them out"),
        ("predict", "use cards with more memory, or a smaller model"),
    ],
)
def test_weights_that_no_card_holds_are_refused_before_a_rank_starts(recipe: Write, mode: Any, hint: str):
    """70 billion numbers of two bytes on cards of 64 GB; shares of them fit, and so does a smaller model."""
    use = plan.Use(mode=mode, weights="/trained")
    with pytest.raises(LaunchError, match=r"the weights alone take 129\.5 GiB of each card") as caught:
        make(recipe(), cards(8), None, use=use, model_config=LLAMA_70B)

    assert hint == caught.value.hint
    made = make(recipe(), cards(8), None, use=use, model_config={**LLAMA_70B, "num_hidden_layers": 20})
    assert "ddp" == made.strategy
    if mode == "eval":
        words = "parallel.strategy=zero3"
        assert "zero3" == make(recipe(), cards(8), None, words, use=use, model_config=LLAMA_70B).strategy


LLAMA_8B = {
    **LLAMA_70B,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
WRITES = {
    "model": {"name": "meta-llama/Llama-3.1-8B", "task": "sft"},
    "data": {"path": "chats.jsonl", "eval": 20, "max_length": 7936},
    "parallel": {"precision": "bf16", "micro_batch_size": 1},
    "training": {"gradient_checkpointing": True},
    "generation": {"max_new_tokens": 256},
    "metrics": ["perplexity"],
}


def test_keys_and_values_are_of_every_layer_and_token_or_of_its_window():
    """Two vectors of 8 heads of 128 numbers of 2 bytes for each token and layer."""
    row = 2 * 8 * 128 * 2

    assert 32 * 100 * row == texts.keys_and_values(LLAMA_8B, tokens=100, number_bytes=2)
    windows = {**LLAMA_8B, "sliding_window": 40, "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 30}
    assert (2 * 100 + 30 * 40) * row == texts.keys_and_values(windows, tokens=100, number_bytes=2)
    assert 32 * 100 * row == texts.keys_and_values(
        {**LLAMA_8B, "sliding_window": 40, "use_sliding_window": False}, tokens=100, number_bytes=2
    )


def test_texts_that_no_card_can_write_are_refused_with_the_rows_that_fit(tmp_path: Path):
    """A row of 8192 tokens is 1 GiB: beside 15 GiB of weights 60.5 GiB take 44 of them and not 64. Without `generation:` the
    same evaluation is planned."""
    use = plan.Use(mode="eval", weights="/trained")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(WRITES))
    with pytest.raises(LaunchError, match=r"64 rows of 8192 tokens take 64\.0 GiB of each card") as caught:
        make(path, cards(8), None, "parallel.eval_batch_size=64", use=use, model_config=LLAMA_8B)

    assert "set parallel.eval_batch_size=44" == caught.value.hint
    made = make(path, cards(8), None, "parallel.eval_batch_size=44", use=use, model_config=LLAMA_8B)
    assert 44 == made.batch.eval_size
    path.write_text(yaml.safe_dump({key: value for key, value in WRITES.items() if key != "generation"}))
    made = make(path, cards(8), None, "parallel.eval_batch_size=64", use=use, model_config=LLAMA_8B)
    assert 64 == made.batch.eval_size


def test_texts_within_a_training_have_the_room_that_its_states_leave(tmp_path: Path):
    """Of eight cards each holds an eighth of the states, which are none of an evaluation's; beams take as often as much."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(WRITES))
    words = ("parallel.strategy=zero2", "parallel.eval_batch_size=64")
    with pytest.raises(LaunchError, match=r"generation: the keys and values of 64 rows") as caught:
        make(path, cards(8), None, *words, model_config=LLAMA_8B)
    assert "set parallel.eval_batch_size=" in caught.value.hint

    few = f"parallel.eval_batch_size={caught.value.hint.rpartition('=')[2]}"
    assert "zero2" == make(path, cards(8), None, words[0], few, model_config=LLAMA_8B).strategy
    with pytest.raises(LaunchError, match="keys and values"):
        make(path, cards(8), None, words[0], few, "generation.num_beams=2", model_config=LLAMA_8B)


def test_a_plan_says_what_its_evaluations_write(tmp_path: Path):
    """By the recipe's names; not where nothing is evaluated."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**WRITES, "generation": {"rows": 9, "every": 2, "max_new_tokens": 64}}))
    loaded = load.load(path, (), {})
    lines = show.plan_lines(decide.make(loaded, CPU, plan.Options()), loaded).plain.splitlines()

    assert "texts      of 9 rows, every 2 evaluations, and at the last: max_new_tokens=64" in lines
    debug = show.plan_lines(decide.make(loaded, CPU, plan.Options(debug=True)), loaded).plain
    assert "\ntexts" not in debug
