"""The same words behind torchrun and behind us: the same figures on two ranks, and the same exit code, of others' programs
from their wheels and of our own for DDP, FSDP2, DeepSpeed and Lightning."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import launch
from tests.support.run import TIMEOUT_S, timeless

pytestmark = pytest.mark.ranks

PROGRAMS = Path(__file__).parent / "programs"
LAUNCHERS = {"torchrun": ["-m", "torch.distributed.run"], "ours": ["-m", "launcher.cli"]}
PATHS = {"torchrun": f"{PROGRAMS / 'patient'}:{launch.REPO}", "ours": str(launch.REPO)}
WORDS = ("--standalone", "--nproc_per_node", "2", "--local-ranks-filter", "0")
SETTINGS = {
    "ACCELERATE_USE_CPU": "true",
    "ASCEND_LAUNCH_DEVICE": "cpu",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
TRAINING = (
    "--model_name_or_path",
    "../model",
    "--max_steps",
    "4",
    "--per_device_train_batch_size",
    "2",
    "--max_length",
    "48",
    "--logging_steps",
    "1",
    "--save_steps",
    "4",
    "--seed",
    "7",
    "--use_cpu",
    "--bf16",
    "False",
    "--report_to",
    "none",
    "--output_dir",
    "out",
)


def script(package: str, path: str) -> str:
    """A program of a wheel, without an import of it."""
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is not installed; tools/setup does it"
    return str(Path(spec.submodule_search_locations[0]) / path)


@dataclass(frozen=True)
class Ended:
    """A program under one launcher, in a folder of its own."""

    code: int
    out: str
    err: str
    folder: Path


def under(launcher: str, folder: Path, *words: str) -> Ended:
    home = folder / launcher
    home.mkdir()
    done = subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], *WORDS, *words],
        cwd=home,
        stdin=subprocess.DEVNULL,
        env=launch.environment(**SETTINGS, HF_HOME=str(home / "hf"), PYTHONPATH=PATHS[launcher]),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return Ended(done.returncode, done.stdout, done.stderr, home)


def printed(theirs: Ended, ours: Ended) -> tuple[Any, Any]:
    """Rank 0's lines; ours hold what it wrote to standard error as well, which are left out."""
    lines = theirs.out.splitlines()
    return lines, [line for line in ours.out.splitlines() if line in lines]


def trained(theirs: Ended, ours: Ended) -> tuple[Any, Any]:
    """Losses, norms and rates of every step, and every bit of the model."""

    def of(ended: Ended) -> tuple[Any, bytes]:
        state = json.loads((ended.folder / "out/checkpoint-4/trainer_state.json").read_text())
        assert 4 == sum("loss" in row for row in state["log_history"])
        return timeless(state["log_history"]), (ended.folder / "out/model.safetensors").read_bytes()

    return of(theirs), of(ours)


@dataclass(frozen=True)
class Program:
    words: tuple[str, ...]
    said: str
    """What shows that it came to its end."""
    figures: Callable[[Ended, Ended], tuple[Any, Any]] = printed


def of_accelerate(name: str, said: str) -> Program:
    return Program((script("accelerate", f"test_utils/scripts/{name}.py"),), said)


def of_trl(name: str) -> Program:
    words = (script("trl", f"scripts/{name}.py"), "--dataset_name", f"../{name}", *TRAINING)
    return Program(words, "Model saved to out", trained)


OURS = {
    "ddp": Program((str(PROGRAMS / "ddp.py"),), "weights "),
    "fsdp2": Program((str(PROGRAMS / "fsdp2.py"),), "weights "),
    "deepspeed": Program((str(PROGRAMS / "zero.py"), "--deepspeed_config", str(PROGRAMS / "zero2.json")), "weights "),
    "lightning": Program((str(PROGRAMS / "lit.py"),), "weights "),
}
OTHERS = {
    "accelerate-script": of_accelerate("test_script", "**Test reinstantiated state**"),
    "accelerate-sync": of_accelerate("test_sync", "gradient accumulation with optimizer and scheduler"),
    "accelerate-ops": of_accelerate("test_ops", "testing sending tensors across devices"),
    "trl-sft": of_trl("sft"),
    "trl-dpo": of_trl("dpo"),
}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of toy size with weights, texts for sft, and pairs for dpo: the best review of a place beside the worst."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, tiny = tmp_path_factory.mktemp("assets"), launch.REPO / "recipes" / "tiny"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny)).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "model")
    rows = [json.loads(line) for line in (tiny / "train.jsonl").read_text().splitlines()]
    best, worst = ([row["text"] for row in rows if row["label"] == label][:24] for label in (4, 0))
    pairs = [{"prompt": "Review: ", "chosen": g, "rejected": b} for g, b in zip(best, worst, strict=True)]
    for name, data in (("sft", [{"text": text} for text in best]), ("dpo", pairs)):
        (folder / name).mkdir()
        (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    return folder


@pytest.fixture
def beside_assets(assets: Path, tmp_path: Path) -> Path:
    """A folder whose subfolders find the model and the data one level up."""
    for made in assets.iterdir():
        (tmp_path / made.name).symlink_to(made)
    return tmp_path


def alike(folder: Path, program: Program) -> None:
    theirs, ours = (under(launcher, folder, *program.words) for launcher in LAUNCHERS)

    assert (0, 0) == (theirs.code, ours.code), theirs.err[-4000:] + ours.out[-4000:] + ours.err[-4000:]
    assert program.said in theirs.out
    expected, got = program.figures(theirs, ours)
    assert expected == got


def fails_alike(folder: Path, program: Program) -> None:
    theirs, ours = (under(launcher, folder, str(PROGRAMS / "fails.py"), *program.words) for launcher in LAUNCHERS)

    assert (1, 1) == (theirs.code, ours.code), ours.err
    assert "ValueError: the second step" in ours.err
    assert 1 == json.loads(next(ours.folder.glob("runs/*/latest/failure.json")).read_text())["rank"]
    assert program.said not in theirs.out + ours.out


@pytest.mark.slow
def test_ddp_gives_what_torchrun_gives(tmp_path: Path):
    """Sampler, forked loader workers, every loss and every bit of the weights."""
    alike(tmp_path, OURS["ddp"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OURS if name != "ddp"])
def test_a_program_gives_what_torchrun_gives(tmp_path: Path, name: str):
    """FSDP2, DeepSpeed by its own configuration file, Lightning by its own Trainer."""
    alike(tmp_path, OURS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_program_of_others_gives_what_torchrun_gives(beside_assets: Path, name: str):
    """As their wheels ship them: accelerate's own asserts and lines, TRL's losses and model."""
    alike(beside_assets, OTHERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OURS, "accelerate-script", "trl-sft"])
def test_a_program_fails_as_under_torchrun(beside_assets: Path, name: str):
    """One rank raises after a step, on its own: exit code 1 of both, and of us the rank that did."""
    fails_alike(beside_assets, {**OURS, **OTHERS}[name])
