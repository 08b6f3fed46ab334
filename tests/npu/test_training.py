"""What computes on virtual cards, alone and together, is what the CPU computes."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO, Machine

RECIPE = REPO / "recipes" / "tiny-cpu.yaml"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
SHORT = ("training.num_train_epochs=1",)


def metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def assert_same(expected: dict, got: dict) -> None:
    """The same losses to the last digits that the order of a sum leaves alone, and the same decisions."""
    assert [e["train_loss"] for e in expected["epochs"]] == pytest.approx(
        [e["train_loss"] for e in got["epochs"]], rel=1e-5
    )
    assert expected["final"]["eval_loss"] == pytest.approx(got["final"]["eval_loss"], rel=1e-5)
    for name in ("accuracy", "f1", "mae", "confusion_matrix", "eval_samples"):
        assert expected["final"][name] == got["final"][name], name


@pytest.fixture(scope="session")
def gloo(machine: Machine):
    """Metrics of the toy recipe on N CPU ranks over gloo."""

    @cache
    def run(nproc: int) -> dict:
        folder = machine.folder / f"gloo{nproc}"
        ran = machine.launch(
            "--device", "cpu", "--nproc", str(nproc), "--run-dir", folder, RECIPE, "parallel.strategy=ddp", *SHORT
        )
        assert ran.code == 0, ran.text[-4000:]
        return metrics(folder)

    return run


def test_a_tiny_llama_trains_as_on_the_cpu(machine: Machine) -> None:
    """Loss, gradients and three AdamW steps: fp32 to 1e-6, bf16 to its rounding; every attention, every AdamW."""
    ran = machine.program("llama.py")
    assert ran.code == 0 and "FAIL" not in ran.text and len(re.findall("^ok ", ran.text, re.MULTILINE)) == 24, ran.text


def test_operators_compute_what_the_cpu_computes(machine: Machine) -> None:
    """Strided copies, in-place, out=, views, random numbers, foreach, fused operators and their gradients."""
    ran = machine.program("operators.py")
    assert ran.code == 0 and "operators agree" in ran.text, ran.text


def test_kernels_compute_what_they_replace(machine: Machine) -> None:
    """Losses, gradients and 16-bit outputs of a tiny Llama, whose norms are the operator of torch_npu."""
    ran = machine.program("fused_norms.py")
    assert ran.code == 0 and "kernels agree" in ran.text, ran.text


def test_a_recipe_with_a_kernel_trains_as_without(machine: Machine, gloo, tmp_path: Path) -> None:
    ran = machine.launch(*two_ranks(tmp_path), "parallel.strategy=ddp", "model.kernels=[npu-rms-norm]", *SHORT)
    assert ran.code == 0, ran.text[-4000:]
    assert_same(gloo(2), metrics(tmp_path / "run"))


@pytest.mark.parametrize("world", [2, 4])
def test_collectives(machine: Machine, world: int) -> None:
    """Every collective, type and reduction against a reference; uneven ones, groups and pairs too."""
    ran = machine.program("collectives.py", str(world))
    assert ran.code == 0 and "collectives agree" in ran.text, ran.text


@pytest.mark.parametrize("nproc", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hccl_gives_what_gloo_gives(machine: Machine, gloo, tmp_path: Path, strategy: str, nproc: int) -> None:
    """The launcher finds the cards by itself, and every strategy ends at gloo's metrics."""
    ran = machine.launch(
        "--nproc", str(nproc), "--run-dir", tmp_path / "run", RECIPE, f"parallel.strategy={strategy}", *SHORT
    )
    assert ran.code == 0, ran.text[-4000:]
    assert f"{nproc} ranks on npu over hccl" in ran.text
    got = metrics(tmp_path / "run")
    assert {"device": "npu", "world_size": nproc, "strategy": strategy} == {
        k: got[k] for k in ("device", "world_size", "strategy")
    }
    assert_same(gloo(nproc), got)
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    rates = [event for event in map(json.loads, lines) if event["event"] == "rates"]
    # Passes are timed by events on the card's stream, memory is what its allocator holds.
    assert rates and all(nproc == len(r["device_bytes"]) == len(r["forward_s"]) for r in rates)
    assert all(min(r["device_bytes"]) > 0 and min(r["forward_s"]) > 0 for r in rates)


def two_ranks(folder: Path) -> tuple[str | Path, ...]:
    return ("--nproc", "2", "--run-dir", folder / "run", RECIPE)


def test_ranks_take_cards_of_the_visible_list(machine: Machine, gloo, tmp_path: Path) -> None:
    """Two ranks on cards 2 and 5: each on its own (the emulated HCCL refuses a shared or a hidden one)."""
    words = (*two_ranks(tmp_path), "parallel.strategy=ddp", *SHORT)
    ran = machine.launch(*words, ASCEND_RT_VISIBLE_DEVICES="2,5")
    assert ran.code == 0, ran.text[-4000:]
    assert_same(gloo(2), metrics(tmp_path / "run"))


@pytest.mark.parametrize("broken", ["masked", "shared"])
def test_one_card_per_process_does_not_work(machine: Machine, broken: str) -> None:
    """What makes the test above mean something: hidden peers and a shared card fail, as on hardware."""
    code = f"""
import os, sys; sys.path.insert(0, {str(Path(__file__).parent / "programs")!r})
import ranks, torch, torch.distributed as dist
def main(rank, world):
    if {broken!r} == "masked":
        os.environ["ASCEND_RT_VISIBLE_DEVICES"] = str(rank)
    torch.npu.set_device(0)
    dist.init_process_group("hccl")
    dist.all_reduce(torch.ones(1, device="npu"))
    torch.npu.synchronize()
ranks.run(2, main)
"""
    ran = machine.python(code, EMULATED_HCCL_CONNECT_TIMEOUT_S="5")
    assert ran.code != 0
    assert ("GetDeviceIndexByPhyId" if broken == "masked" else "(EI00") in ran.text, ran.text


def test_two_machines_are_two_nodes(machine: Machine) -> None:
    """Ranks on card 0 of two virtual machines reduce together."""
    code = f"""
import os, sys; sys.path.insert(0, {str(Path(__file__).parent / "programs")!r})
import ranks, torch, torch.distributed as dist
def main(rank, world):
    os.environ["EMULATED_STATE"] += f".node{{rank}}"
    torch.npu.set_device(0)
    dist.init_process_group("hccl")
    x = torch.ones(1, device="npu") + rank
    dist.all_reduce(x)
    assert x.item() == 3, x
ranks.run(2, main)
print("together")
"""
    ran = machine.python(code)
    assert "together" in ran.text, ran.text


def test_two_machines_train_one_recipe(machine: Machine, gloo, tmp_path: Path) -> None:
    """A launcher on each of two virtual machines, two cards each: the nodes meet, and end at gloo's metrics."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
    job = ("--nproc", "2", "--nnodes", "2", "--rdzv-endpoint", endpoint, "--run-dir", tmp_path / "run")

    def node(rank: int):
        words = (*job, "--node-rank", str(rank), RECIPE, "parallel.strategy=zero3", *SHORT)
        return machine.launch(*words, EMULATED_STATE=str(tmp_path / f"machine{rank}"))

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(node, range(2))
    assert (0, 0) == (first.code, second.code), first.text[-4000:] + second.text[-4000:]
    assert re.search(r"4 ranks \(2 .*\) on npu over hccl", first.text), first.text[:2000]
    got = metrics(tmp_path / "run")
    assert {"device": "npu", "world_size": 4, "strategy": "zero3"} == {
        k: got[k] for k in ("device", "world_size", "strategy")
    }
    assert_same(gloo(4), got)


@pytest.mark.parametrize(("soc", "precision"), [("910B3", "bf16"), ("910A", "fp16")])
def test_precision_follows_the_chip(machine: Machine, tmp_path: Path, soc: str, precision: str) -> None:
    """bf16 where the chip has it, else fp16 with loss scaling; the launch says so and the engine does so."""
    words = (*two_ranks(tmp_path), "parallel.strategy=zero2", "parallel.precision=auto", *SHORT)
    ran = machine.launch(*words, EMULATED_SOC=soc)
    assert ran.code == 0, ran.text[-4000:]
    assert re.search(rf"precision +{precision}", ran.text), ran.text[:2000]
    assert precision == metrics(tmp_path / "run")["precision"]
    assert metrics(tmp_path / "run")["final"]["accuracy"] > 0.5


def render(machine: Machine, folder: Path, strategy: str) -> None:
    ran = machine.launch("render", "--nproc", "2", "--out", folder, RECIPE, f"parallel.strategy={strategy}", *SHORT)
    assert ran.code == 0, ran.text


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2"])
def test_accelerate_launch_with_our_files(machine: Machine, gloo, tmp_path: Path, strategy: str) -> None:
    """MULTI_NPU, DeepSpeed and FSDP2 as accelerate itself starts them from the rendered YAML."""
    render(machine, tmp_path / "run", strategy)
    ran = machine(
        "accelerate",
        "launch",
        "--config_file",
        tmp_path / "run/accelerate.yaml",
        "-m",
        "launcher.worker",
        "--run-dir",
        tmp_path / "run",
    )
    assert ran.code == 0, ran.text[-4000:]
    assert_same(gloo(2), metrics(tmp_path / "run"))


def test_deepspeed_with_our_files(machine: Machine, gloo, tmp_path: Path) -> None:
    """DeepSpeed's own launcher counts the cards and starts ZeRO-3."""
    render(machine, tmp_path / "run", "zero3")
    ran = machine(
        "deepspeed",
        "--num_gpus",
        "2",
        "--no_local_rank",
        "--module",
        "launcher.worker",
        "--run-dir",
        tmp_path / "run",
    )
    assert ran.code == 0, ran.text[-4000:]
    assert_same(gloo(2), metrics(tmp_path / "run"))


def test_a_launch_that_runs_out_of_memory_says_so(machine: Machine, tmp_path: Path) -> None:
    """torch_npu's own message comes through the launcher, with a failing exit code."""
    words = (*two_ranks(tmp_path), "parallel.strategy=ddp", *SHORT)
    ran = machine.launch(*words, EMULATED_FAULTS="short:1=3", HCCL_BUFFSIZE="1")
    assert ran.code == 1, ran.text[-3000:]
    assert "out of memory" in ran.text, ran.text[-3000:]


def test_a_launch_ends_when_a_rank_is_stuck(machine: Machine, tmp_path: Path) -> None:
    """The other rank's collective times out as HCCL's does, and the job ends, naming the code."""
    ran = machine.launch(
        "--nproc",
        "2",
        "--run-dir",
        tmp_path / "run",
        RECIPE,
        "parallel.strategy=ddp",
        *SHORT,
        EMULATED_FAULTS="rank-stuck:1=8",
        EMULATED_HCCL_EXEC_TIMEOUT_S="3",
    )
    assert ran.code == 1, ran.text[-3000:]
    assert "EI0002" in ran.text, ran.text[-3000:]
