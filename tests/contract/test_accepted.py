"""What we render is accepted by the libraries that read it, and every shipped file loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import assets
from launcher.accelerators import detect
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.render import accelerate

STRATEGIES = ["ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2"]
NODES = {"one node": Nodes(), "two nodes": Nodes(2, 1, "node0:29400")}


def make(path: Path, strategy: str, nodes: Nodes) -> plan.Plan:
    overrides = [f"parallel.strategy={strategy}", "parallel.global_batch_size=16"]
    return decide.make(load.load(path, overrides, {}), detect.assumed(8, nodes), plan.Options())


@pytest.mark.parametrize("path", assets.recipes(), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path: Path):
    """And plans for eight cards."""
    loaded = load.load(path, ["parallel.global_batch_size=8", "parallel.micro_batch_size=auto"], {})
    made = decide.make(loaded, detect.assumed(8, Nodes()), plan.Options())

    assert 8 == made.world_size


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_takes_the_shipped_configs(strategy: str):
    """accelerate raises on a top-level key it does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(assets.folder("accelerate_configs") / f"{strategy}.yaml"))

    assert 8 == config.num_processes


@pytest.mark.parametrize("nodes", NODES.values(), ids=NODES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_takes_the_rendered_config(recipe: Callable[..., Path], tmp_path: Path, strategy: str, nodes: Nodes):
    """By its own loader and its own launch arguments; keys it would pass over silently are absent."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    made = make(recipe(), strategy, nodes)
    path, zero = tmp_path / "accelerate.yaml", tmp_path / "deepspeed.json"
    config = made.sharing.deepspeed_config(made)
    if config is not None:
        zero.write_text(json.dumps(config))
    path.write_text(accelerate.text(made, zero, nodes.rank))
    loaded = load_config_from_file(str(path))
    args = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    args, _, _ = _validate_launch_command(args)

    assert (made.world_size, nodes.count) == (loaded.num_processes, loaded.num_machines)
    assert (made.world_size, nodes.count) == (args.num_processes, args.num_machines)
    assert (strategy.startswith("zero"), strategy == "fsdp2") == (bool(args.use_deepspeed), bool(args.use_fsdp))
    silent = {"rdzv_backend", "same_network", "enable_cpu_affinity"}
    assert not [line for line in path.read_text().splitlines() if line.split(":")[0] in silent]


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.startswith("zero")])
def test_deepspeed_takes_the_rendered_config(recipe: Callable[..., Path], tmp_path: Path, strategy: str):
    """Filled in by transformers, then read by DeepSpeed's own config class, which checks types."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    made = make(recipe(), strategy, Nodes())
    filled = HfTrainerDeepSpeedConfig(made.sharing.deepspeed_config(made))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True, per_device_train_batch_size=2)
    filled.trainer_config_process(arguments)
    read = DeepSpeedConfig(filled.config)

    assert made.zero_stage == int(read.zero_optimization_stage)
    assert (True, 2) == (read.bfloat16_config.enabled, read.train_micro_batch_size_per_gpu)
    assert "auto" not in json.dumps(filled.config)
