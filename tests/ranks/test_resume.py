"""An interrupted run, resumed, is the run that was not interrupted; and what happens where that cannot be."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.worker.checkpoints import publish
from launcher.worker.checkpoints.manifest import MANIFEST, seal
from tests.support import launch, run
from tests.support.launch import REPO

PROGRAM = Path(__file__).parent / "programs" / "forked.py"
TIMEOUT_S = 500

pytestmark = pytest.mark.ranks


class Run(run.Run):
    """A run directory whose job forked.py starts."""

    def job(self, attempt: int = 0, **fault: Any) -> dict[str, Any]:
        return {"run": str(self.dir), "attempt": attempt, "fault": {"rank": None, **fault} if fault else None}

    @property
    def losses(self) -> dict[int, float]:  # type: ignore[override]
        return self.losses_by_step


@pytest.fixture(scope="module")
def env(shared_cache: str) -> dict[str, str]:
    return launch.environment(ASCEND_LAUNCH_CACHE=shared_cache, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model with dropout, so that a random state that is lost shows in the weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(REPO / "recipes" / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


@pytest.fixture
def render(tmp_path: Path, env: dict[str, str], model: Path) -> Callable[..., Run]:
    """A run directory as a launch makes it: two epochs of 20 steps, a checkpoint every 7."""

    def make(name: str, nproc: int, strategy: str, *words: str) -> Run:
        words = (
            f"parallel.strategy={strategy}",
            f"model.name={model}",
            "training.num_train_epochs=2",
            "training.save_strategy=steps",
            "training.save_steps=7",
            *words,
        )
        argv = launch.command("render", "--out", tmp_path / name, "--device", "cpu", "--nproc", str(nproc))
        launch.run(
            [*argv, "recipes/tiny-cpu.yaml", *words], env, kind="cpu-zero", timeout_s=TIMEOUT_S
        ).check_returncode()
        return Run(tmp_path / name)

    return make


@pytest.fixture
def start(env: dict[str, str]) -> Callable[..., list[list[int]]]:
    """Run jobs one after the other; the exit codes of their ranks."""

    def start_all(*jobs: dict[str, Any]) -> list[list[int]]:
        argv = [sys.executable, str(PROGRAM)]
        done = launch.run(argv, env, kind="cpu-zero", text=json.dumps(jobs), timeout_s=TIMEOUT_S)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return start_all


def assert_same(whole: Run, resumed: Run) -> None:
    expected, found = whole.weights(), resumed.weights()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert whole.outcome() == resumed.outcome()


@pytest.mark.parametrize(
    ("strategy", "nproc"),
    [
        ("ddp", 4),
        ("zero2", 2),
        *(pytest.param(s, 2, marks=pytest.mark.slow) for s in ("ddp", "zero1", "zero3", "fsdp2")),
    ],
)
def test_a_killed_run_resumes_exactly(render: Callable[..., Run], start: Callable, strategy: str, nproc: int):
    """Killed in the middle of an epoch and started again, it ends with the same weights, bit for bit, and the same
    figures, predictions and logged losses; with dropout, accumulation and DataLoader workers. With more than two ranks
    the order of a sum shows, which DDP changes after its first step."""
    words = (f"parallel.micro_batch_size={3 if nproc == 2 else 1}", "training.dataloader_num_workers=1")
    whole, cut = (render(name, nproc, strategy, *words) for name in ("whole", "cut"))

    codes = start(whole.job(), cut.job(0, rank=1, step=17, do="SIGKILL"), cut.job(1))

    assert codes == [[0] * nproc, [1, -9] + [1] * (nproc - 2), [0] * nproc]
    assert [(event["step"], event["notes"]) for event in cut.events("resume")] == [(14, [])]
    assert_same(whole, cut)


def test_a_run_told_to_stop_resumes_exactly(render: Callable[..., Run], start: Callable):
    """One rank's signal stops all at one step with 143 and a checkpoint of it: within an epoch, at its last step with
    an evaluation due, and in an evaluation."""
    words = ('training.save_strategy="no"', "training.save_steps=null", "training.dataloader_num_workers=1")
    whole = render("whole", 2, "ddp", *words)
    cases = {
        "within": {"step": 6, "do": "SIGTERM"},
        "last": {"step": 19, "do": "SIGUSR1"},
        "evaluating": {"step": 20, "do": "SIGTERM", "at": "on_prediction_step"},
    }
    cuts = {name: render(name, 2, "ddp", *words) for name in cases}

    jobs = [job for name, cut in cuts.items() for job in (cut.job(0, rank=1, **cases[name]), cut.job(1))]
    codes = start(whole.job(), *jobs)

    assert codes == [[0, 0], *([[143, 143], [0, 0]] * 3)]
    for name, cut in cuts.items():
        (told,) = cut.events("preempted")
        assert (True, cases[name]["do"]) == (told["saved"], told["signal"])
        assert cases[name]["step"] <= told["step"] <= cases[name]["step"] + 2
        assert_same(whole, cut)


@pytest.mark.slow
def test_other_ranks_and_another_strategy_go_on(render: Callable[..., Run], start: Callable):
    """Two ranks' ZeRO-2 checkpoint is taken up by three ranks, by one, and by FSDP2: the loss curve goes on as if
    nothing had happened (no dropout here), and what could not be kept is said."""
    words = ("model.name=recipes/tiny",)
    whole = render("whole", 2, "zero2", *words)
    others = [render(f"{s}-{n}", n, s, *words) for s, n in (("zero2", 3), ("zero3", 1), ("fsdp2", 3), ("ddp", 2))]
    start(whole.job(0, rank=0, step=16, do="SIGKILL"))
    for other in others:
        shutil.copytree(whole.dir / "checkpoints", other.dir / "checkpoints")

    codes = start(whole.job(1), *(other.job() for other in others))

    assert {0} == {code for job in codes for code in job}
    for other in others:
        assert [event["step"] for event in other.events("resume")] == [14]
        lost = "random states are of ranks that are gone" in other.notes
        assert lost == ("ddp" not in other.dir.name)
        assert {s: pytest.approx(whole.losses[s], rel=2e-3, abs=1e-4) for s in range(15, 41, 5)} == other.losses
        assert [pytest.approx(row["train_loss"], rel=1e-3) for row in whole.outcome()[0]["epochs"]] == [
            row["train_loss"] for row in other.outcome()[0]["epochs"]
        ]


def test_a_damaged_checkpoint_costs_its_steps_only(render: Callable[..., Run], start: Callable):
    """With a bit flipped in the newest and a pickle planted in the one before, the oldest is resumed from; both are
    named with the reason, the pickle does not run, and the end is the same."""
    whole, cut = (render(name, 2, "zero2", "training.save_total_limit=3") for name in ("whole", "cut"))
    first = start(whole.job(), cut.job(0, rank=0, step=24, do="SIGKILL"))
    assert first[0] == [0, 0]
    mark = cut.dir / "ran"
    newest, middle = (cut.dir / "checkpoints" / f"checkpoint-{step}" for step in (21, 14))
    flipped = bytearray((newest / "state_1.safetensors").read_bytes())
    flipped[-100] ^= 1
    (newest / "state_1.safetensors").write_bytes(flipped)
    plant(middle / "mp_rank_00_model_states.pt", mark)

    codes = start(cut.job(1))

    assert codes == [[0, 0]]
    assert not mark.exists()
    assert [event["step"] for event in cut.events("resume")] == [7]
    assert "passed over checkpoint-21: state_1.safetensors is damaged" in cut.notes
    assert "passed over checkpoint-14: holds mp_rank_00_model_states.pt, a pickle" in cut.notes
    assert_same(whole, cut)


def test_a_full_disk_costs_a_checkpoint_and_no_more(render: Callable[..., Run], start: Callable):
    """Where one rank's write stops in the middle, the older checkpoint stays, nothing half is left, it is said and
    counted, training goes on, and the next save with room is kept."""
    whole, full = (render(name, 2, "zero2", "training.save_total_limit=2") for name in ("whole", "full"))

    codes = start(whole.job(), full.job(0, rank=1, step=8, until=27, do="small files"))

    assert codes == [[0, 0], [0, 0]]
    assert "step 14 could not be saved: rank 1: File too large; checkpoint-7 is still there" in full.notes
    assert "step 21 could not be saved (2 in a row)" in full.notes
    assert [event["step"] for event in full.events("save")] == [7, 28, 35, 40]
    assert full.checkpoints == [35, 40]
    assert_same(whole, full)


@pytest.mark.parametrize(
    ("loss", "words"),
    [("nan", "is not a number (NaN or infinite) at step 8"), ("zero", "has been exactly 0 for 3 logged steps")],
)
def test_a_dead_loss_ends_the_run(render: Callable[..., Run], start: Callable, loss: str, words: str):
    """Every rank stops with the step and what to try; Trainer alone logs on with the NaN left out."""
    ended = render("run", 2, "ddp", 'training.save_strategy="no"', "training.save_steps=null")

    codes = start(ended.job(0, step=7, do=loss))

    errors = [json.loads((ended.dir / "attempt_0" / f"error_{rank}.json").read_text()) for rank in (0, 1)]
    assert codes == [[1, 1]]
    assert all(words in error["what"] and error["hint"] for error in errors)


def plant(path: Path, mark: Path) -> None:
    """A pickle that leaves a mark, and a manifest that fits it."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    path.write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((path.parent / MANIFEST).read_text())
    (path.parent / MANIFEST).unlink()
    facts = {k: v for k, v in manifest.items() if k not in ("files", "digest")}
    seal(path.parent, facts, [publish.synced(p, path.parent) for p in path.parent.iterdir()])
