"""Programs on two virtual cards, behind torchrun and behind us in the same words: the same figures and exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import REPO, Machine, Ran

PROGRAMS = REPO / "tests" / "ranks" / "programs"
WORDS = ("--standalone", "--nproc_per_node", "2", "--local-ranks-filter", "0")
TRAINER = (
    "--model_name_or_path",
    str(REPO / "recipes" / "tiny"),
    "--max_steps",
    "4",
    "--per_device_train_batch_size",
    "2",
    "--logging_steps",
    "1",
    "--save_strategy",
    "no",
    "--report_to",
    "none",
    "--seed",
    "7",
    "--disable_tqdm",
    "True",
)


def both(machine: Machine, folder: Path, *program: str) -> tuple[Ran, Ran]:
    """Under torchrun, and under us with a run directory."""
    theirs = machine(sys.executable, "-m", "torch.distributed.run", *WORDS, *program)
    ours = machine(sys.executable, "-m", "launcher.cli", "--run-dir", folder / "run", *WORDS, *program)
    return theirs, ours


def figures(ran: Ran) -> list[str]:
    return [line for line in ran.text.splitlines() if line.startswith(("loss ", "device "))]


def test_ddp_on_two_cards_gives_what_torchrun_gives(machine: Machine, tmp_path: Path) -> None:
    """Every loss and every bit of the weights, over HCCL."""
    theirs, ours = both(machine, tmp_path, str(PROGRAMS / "ddp.py"), "--device", "npu")

    assert (0, 0) == (theirs.code, ours.code), theirs.text[-3000:] + ours.text[-3000:]
    assert "device npu:0 weights " in ours.text
    assert figures(theirs) == figures(ours)
    assert 13 == len(figures(ours))


def test_a_trainer_script_on_two_cards_gives_what_torchrun_gives(machine: Machine, tmp_path: Path) -> None:
    """Losses, norms and weights of a Trainer, which finds the cards and HCCL by itself."""
    theirs, ours = both(machine, tmp_path, str(PROGRAMS / "hf_trainer.py"), "--output_dir", str(tmp_path), *TRAINER)

    assert (0, 0) == (theirs.code, ours.code), theirs.text[-3000:] + ours.text[-3000:]
    assert "device npu:0 weights " in ours.text
    assert figures(theirs) == figures(ours)
    assert 5 == len(figures(ours))


def test_ddp_on_two_cards_fails_as_under_torchrun(machine: Machine, tmp_path: Path) -> None:
    """One rank raises between two collectives: exit code 1 of both, and of us the rank that did."""
    theirs, ours = both(machine, tmp_path, str(PROGRAMS / "fails.py"), str(PROGRAMS / "ddp.py"), "--device", "npu")

    assert (1, 1) == (theirs.code, ours.code), ours.text[-3000:]
    assert "ValueError: the second step" in ours.text
    assert 1 == json.loads((tmp_path / "run" / "failure.json").read_text())["rank"]


def test_a_rank_that_stands_still_on_a_card_is_named(machine: Machine, tmp_path: Path) -> None:
    """In a plain DDP loop that knows nothing of us; the other card waits in a collective of HCCL's, which is named
    too."""
    ours = machine(
        *(sys.executable, "-m", "launcher.cli", "--run-dir", tmp_path / "run", "--hang-timeout", "6", *WORDS),
        *(PROGRAMS / "hangs.py", "loop", "npu"),
    )

    assert 1 == ours.code, ours.text[-3000:]
    assert "rank 1 has not moved since the end of step 10" in ours.text
    record = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert "Stalled" == record["type"]
    (call,) = record["collective"]["calls"]  # DDP's gradients, which no Python calls: HCCL's recorder has them too
    assert ("missing", [1], [0]) == (*(record["collective"][key] for key in ("how", "ranks")), call["ranks"])
    assert [{"dtype": "float32", "shape": [72]}] == call["tensors"]


@pytest.mark.slow
def test_a_trainer_under_fsdp2_saves_at_sigterm_and_goes_on(machine: Machine, tmp_path: Path) -> None:
    """All of it by the program's own saving; the weights at the end are those of a training that nobody stopped."""
    program = (PROGRAMS / "watched.py", "--output_dir", tmp_path / "out", *TRAINER[2:])

    def run(folder: str, **env: str) -> Ran:
        words = ("--run-dir", tmp_path / folder, "--strategy", "fsdp2", *WORDS, *program)
        return machine(sys.executable, "-m", "launcher.cli", *words, MODEL=TRAINER[1], **env)

    through, stopped, continued = run("through"), run("run", WHAT="stop", AT="1"), run("run")

    assert [0, 143, 0] == [ran.code for ran in (through, stopped, continued)], stopped.text[-3000:]
    assert re.search(r"saved +\S+/out/checkpoint-\d, at step \d, by SIGTERM", stopped.text)
    assert "a Trainer goes on from " in continued.text
    weights = [re.findall(r"device npu:0 (\w+) weights (\w+)", ran.text) for ran in (through, continued)]
    assert weights[0] == weights[1]
    assert "FSDPLlamaForCausalLM" == weights[0][0][0]
