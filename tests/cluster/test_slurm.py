"""A real Slurm with two nodes on this machine: what srun and submit start there is the single machine's run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import slurm_rig
from tests.support import launch
from tests.support.launch import REPO
from tests.support.run import Run

INJECT = REPO / "tests" / "ranks" / "faults" / "inject"
TINY = REPO / "recipes" / "tiny-cpu.yaml"
TIMEOUT_S = 240
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
pytestmark = [
    pytest.mark.ranks,
    pytest.mark.skipif(bool(slurm_rig.missing()), reason=f"no Slurm here: {slurm_rig.missing()}"),
]


@pytest.fixture(scope="session")
def rig() -> Iterator[slurm_rig.Rig]:
    with slurm_rig.running() as running:
        yield running


@pytest.fixture(scope="session")
def env(shared_cache: str, rig: slurm_rig.Rig) -> dict[str, str]:
    """A submitting user's environment: nothing of ours but a cache, and no page at the end."""
    kept = {k: v for k, v in launch.environment().items() if not k.startswith(("SLURM_", "SBATCH_"))}
    own = {"ASCEND_LAUNCH_CACHE": shared_cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{INJECT}:{REPO}"}
    return kept | own | {"FAULT": "none -1 -1"} | rig.env


EXACT = "training.ddp_find_unused_parameters=true"
"""DDP lays out its buckets anew after its first backward, and a run that goes on has another first one: from three ranks
on, sums of four addends then differ in their last bits. It does not where it looks for unused parameters; nor does ZeRO."""
LAUNCH = [sys.executable, "-m", "launcher.cli"]
SUBMIT = [*LAUNCH, "submit", "--slurm", "--device", "cpu"]


def run(argv: list[str], env: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    more = {"cwd": REPO, "stdin": subprocess.DEVNULL, "timeout": TIMEOUT_S, **more}
    return subprocess.run(argv, env=env, capture_output=True, text=True, **more)


@pytest.fixture(scope="session")
def by_srun(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Run:
    """Two nodes of two ranks, by srun, from the recipe alone."""
    out = tmp_path_factory.mktemp("srun")
    words = [
        "srun",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gres=npu:4",
        *LAUNCH,
        "--nproc=2",
        "--device=cpu",
        str(TINY),
        EXACT,
        f"output_dir={out}",
    ]
    done = run(words, env)
    assert 0 == done.returncode, done.stdout + done.stderr
    (where,) = (out / "tiny-cpu").glob("slurm-*")
    return Run(where)


def test_srun_gives_the_single_machines_run(by_srun: Run, tmp_path: Path, env: dict[str, str]):
    """Metrics, predictions and weights of two nodes of two ranks are those of one node of four, exactly."""
    alone = run([*LAUNCH, "--nproc=4", "--device=cpu", f"--run-dir={tmp_path / 'one'}", str(TINY), EXACT], env)
    single = Run(tmp_path / "one")

    assert 0 == alone.returncode, alone.stderr
    assert single.figures == by_srun.figures
    assert single.predictions == by_srun.predictions
    assert single.model_bytes == by_srun.model_bytes
    assert 2 == by_srun.read("plan.json")["num_nodes"]


def started(argv: list[str], env: dict[str, str], tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        env=env,
        cwd=REPO,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=(tmp_path / "out").open("w"),
        stderr=(tmp_path / "err").open("w"),
    )


def until(is_so: Callable[[], Any], what: str, process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := is_so()):
        assert time.monotonic() < deadline and process.poll() is None, f"{what} did not come"
        time.sleep(0.1)
    return found


def submitted(out: Path) -> Path | None:
    return next((p for p in out.glob("tiny-cpu/slurm-*") if p.is_dir()), None)


def test_submit_gives_the_single_machines_run(by_srun: Run, tmp_path: Path, env: dict[str, str]):
    """As srun does, followed to its end: metrics, predictions and weights, exactly."""
    done = run([*SUBMIT, "--nodes=2", "--nproc=2", "--follow", str(TINY), EXACT, f"output_dir={tmp_path}"], env)
    where = submitted(tmp_path)

    assert 0 == done.returncode and where is not None, done.stdout + done.stderr
    assert by_srun.figures == Run(where).figures
    assert by_srun.predictions == Run(where).predictions
    assert by_srun.model_bytes == Run(where).model_bytes
    assert 2 == Run(where).read("plan.json")["num_nodes"]


RANKS = """
import os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
found = [None] * dist.get_world_size()
dist.all_gather_object(found, (os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"]))
print("ranks", sys.argv[1:], sorted(found), file=open(f"{sys.argv[1]}_{os.environ['RANK']}", "w"))
dist.destroy_process_group()
"""
"""A program that says who its ranks are."""


def test_programs_and_commands_run_on_every_node(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str]):
    """A program as a step of srun's and by submit; a command by submit, once on each node, whose torchrun says nothing of
    nodes. All are one job of two nodes of two ranks."""
    (tmp_path / "ranks.py").write_text(RANKS)
    (tmp_path / "train.sh").write_text(
        "touch node_${NODE_RANK}_of_$NNODES\ntorchrun --nproc_per_node 2 ranks.py command\n"
    )
    by_step = ["srun", "--nodes=2", "--ntasks-per-node=1", "--gres=npu:4", *LAUNCH, "--nproc=2", "--device=cpu"]
    submit = [*SUBMIT, "--nodes=2", "--nproc=2", "--follow"]
    jobs = {
        "step": [*by_step, "ranks.py", "step"],
        "program": [*submit, "ranks.py", "program"],
        "command": [*submit, "--", "bash", "train.sh"],
    }
    for name, argv in jobs.items():
        done = run(argv, env, cwd=tmp_path)
        said = "".join(path.read_text() for path in tmp_path.glob("runs/*/slurm-*.out"))
        assert 0 == done.returncode, done.stdout + done.stderr + said
        everyone = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
        wrote = {path.read_text() for path in tmp_path.glob(f"{name}_?")}
        assert {f"ranks {[name]} {everyone}\n"} == wrote, said
        assert 4 == len(list(tmp_path.glob(f"{name}_?")))
    assert {"node_0_of_2", "node_1_of_2"} == {path.name for path in tmp_path.glob("node_*")}


def test_a_preempted_job_goes_on_to_the_same_weights(
    rig: slurm_rig.Rig, by_srun: Run, tmp_path: Path, env: dict[str, str]
):
    """Signalled in the middle of a training, it saves, goes back to the queue, is started again with its number, and ends
    with the weights of the run that was left alone, bit for bit; who follows it sees all of that."""
    words = ["--nodes=2", "--nproc=2", "--follow", str(TINY), EXACT, f"output_dir={tmp_path}"]
    follower = started([*SUBMIT, *words], env | {"FAULT": "drag 1 10"}, tmp_path)
    where = until(lambda: submitted(tmp_path), "the run", follower)
    job = where.name.removeprefix("slurm-")
    until(lambda: any(e["step"] > 15 for e in Run(where).events("log")), "step 20", follower)
    rig.run("scancel", "--signal=USR1", job)
    code = follower.wait(TIMEOUT_S)
    out = (tmp_path / "out").read_text()
    resumed = Run(where)
    (stop,) = resumed.events("preempted")

    assert 0 == code, out + (tmp_path / "err").read_text()
    assert (True, True, "SIGUSR1") == (10 < stop["step"] < 60, stop["saved"], stop["signal"])
    assert ("COMPLETED", "1") == (rig.field(job, "State"), rig.field(job, "RestartCnt"))
    assert by_srun.model_bytes == resumed.model_bytes
    assert by_srun.predictions == resumed.predictions
    assert by_srun.figures["final"] == resumed.figures["final"]
    assert "requeued 1 time" in out and "TrainOutput" in out
    assert {"attempt_0", "attempt_1"} <= {p.name for p in where.iterdir()}


def test_a_job_that_makes_room_goes_on_afterwards(
    rig: slurm_rig.Rig, by_srun: Run, tmp_path: Path, env: dict[str, str]
):
    """Preempted by Slurm itself for a partition that goes before its own: it saves in the grace time, waits, and ends as
    one that was left alone. It was submitted from inside another allocation, whose variables are not its own."""
    words = ["--json", "--nodes=2", "--nproc=2", "--cpus-per-task=8", str(TINY), EXACT, f"output_dir={tmp_path}"]
    inside = run(["srun", "--nodes=1", "--cpus-per-task=3", *SUBMIT, *words], env | {"FAULT": "drag 1 10"})
    job = json.loads(inside.stdout.splitlines()[-1])["job"]
    preempted = Run(tmp_path / "tiny-cpu" / f"slurm-{job}")
    deadline = time.monotonic() + TIMEOUT_S
    while not any(e["step"] > 15 for e in preempted.events("log")):
        assert time.monotonic() < deadline, rig.field(job, "State")
        time.sleep(0.1)
    urgent = rig.run("srun", "--partition=urgent", "--nodes=2", "--exclusive", "echo", "room", timeout_s=TIMEOUT_S)

    assert ["room", "room"] == urgent.stdout.split(), urgent.stderr
    assert "COMPLETED" == rig.wait(job, *ENDED)
    (stop,) = preempted.events("preempted")
    assert ("SIGTERM", True) == (stop["signal"], stop["saved"])
    assert "1" == rig.field(job, "RestartCnt")
    assert by_srun.model_bytes == preempted.model_bytes


def test_a_killed_rank_ends_the_job_on_all_nodes(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str]):
    """With the rank's name, in the job's output and to who follows it; and it is not queued again."""
    words = ["--nodes=2", "--nproc=2", "--follow", str(TINY), f"output_dir={tmp_path}"]
    done = run([*SUBMIT, *words], env | {"FAULT": "kill 2 7"})
    where = submitted(tmp_path)
    assert where is not None, done.stderr
    job = where.name.removeprefix("slurm-")

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "rank 2 on" in done.stderr and "failed first" in done.stderr and "SIGKILL" in done.stderr
    assert ("FAILED", "0") == (rig.field(job, "State"), rig.field(job, "RestartCnt"))
    assert "rank 2 on" in (where.parent / f"slurm-{job}.out").read_text()
    assert 2 == Run(where).read("failure.json")["rank"]
    assert 2 == Run(where / "node_1").read("failure.json")["rank"]


def test_scancel_ends_a_job_for_good(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str]):
    """It saves and is not queued again, though the launcher exits as after a preemption; the follower exits with 143.
    ^C leaves a follower only: the job goes on."""
    words = ["--nodes=1", "--nproc=1", "--follow", str(TINY), f"output_dir={tmp_path}"]
    follower = started([*SUBMIT, *words], env | {"FAULT": "drag 0 0"}, tmp_path)
    where = until(lambda: submitted(tmp_path), "the run", follower)
    job = where.name.removeprefix("slurm-")
    until(lambda: Run(where).events("log"), "a step", follower)
    follower.send_signal(signal.SIGINT)

    assert 130 == follower.wait(TIMEOUT_S)
    assert f"job {job} goes on, and scancel {job} ends it" in (tmp_path / "err").read_text()
    assert "RUNNING" == rig.field(job, "State")
    rig.run("scancel", job)
    assert "CANCELLED" == rig.wait(job, *ENDED)
    (stop,) = Run(where).events("preempted")
    assert ("SIGTERM", True) == (stop["signal"], stop["saved"])
    assert "0" == rig.field(job, "RestartCnt")


NAME = '-re ci\'pe "x" $(touch pwned) `touch pwned` #1 100%j 中文;&'


def test_awkward_names_and_paths_are_only_names(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str]):
    """Through the recipe's name, its folder, the folder of results, an override and the folder it is submitted from:
    nothing of them is run, and the run is where it should be."""
    folder = tmp_path / "from\nhere '$(touch pwned)'"
    folder.mkdir()
    recipe = yaml.safe_load(TINY.read_text())
    recipe["model"]["name"] = str(REPO / "recipes" / "tiny")
    recipe["data"]["data_files"] = {
        k: str(REPO / "recipes" / v.removeprefix("shipped:")) for k, v in recipe["data"]["data_files"].items()
    }
    recipe["training"] |= {"num_train_epochs": 1}
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out put's $(touch pwned)"
    words = ["--nproc=1", "--follow", "--", f"{NAME}.yaml", f"output_dir={out}", "data.text=text"]
    done = run([*SUBMIT, *words], env, cwd=folder)
    (where,) = (p for p in (out / NAME).glob("slurm-*") if p.is_dir())
    job = where.name.removeprefix("slurm-")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert NAME == rig.field(job, "Name")
    assert Run(where).figures["final"]["eval_samples"] == 101
    assert "TrainOutput" in (out / NAME / f"slurm-{job}.out").read_text()
    assert [] == [*tmp_path.rglob("pwned"), *Path.cwd().glob("pwned"), *REPO.glob("pwned")]


@pytest.mark.parametrize(
    "name", ["with space", "quote'\"", "$(touch pwned)", "back\\slash", "#hash", "中文", "-dash", "a=b", "%j"]
)
def test_sbatch_reads_directives_as_they_were_meant(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str], name: str):
    """The job's name in the queue is the one that was given."""
    held = env | {"SBATCH_HOLD": "1"}
    done = run([*SUBMIT, "--json", "--job-name", name, "--time=1-0", str(TINY), f"output_dir={tmp_path}"], held)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    job = told[-1]["job"]
    found = rig.field(job, "Name")
    rig.run("scancel", job)

    assert (0, name) == (done.returncode, found), done.stderr


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--partition=nope"], "invalid partition", "name one with --partition"),
        (["--gres=gpu:1"], "generic resource", "say it with --gres"),
        (["--npus=99"], "node configuration is not available", "ask for less"),
        (["--time=1:xx"], "not a Slurm time limit", "write 90"),
        (["training.lerning_rate=1"], "no such TrainingArguments field", "did you mean"),
        (["--nproc=5"], "cannot be split evenly over 5 ranks", "6 or 12 ranks"),
    ],
)
def test_what_slurm_or_the_recipe_refuses_is_said_before_anything_is_queued(
    rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str], words: list[str], said: str, hint: str
):
    """One sentence and what to do; exit code 2; no job."""
    before = rig.jobs()
    options, overrides = [w for w in words if w[0] == "-"], [w for w in words if w[0] != "-"]
    done = run([*SUBMIT, *options, str(TINY), f"output_dir={tmp_path}", *overrides], env)

    assert 2 == done.returncode
    assert said.lower() in done.stderr.lower() and hint in done.stderr
    assert "Traceback" not in done.stderr
    assert rig.jobs() <= before


def test_what_the_nodes_say_is_shown_where_no_rank_came_up(rig: slurm_rig.Rig, tmp_path: Path, env: dict[str, str]):
    """A job for cards on nodes that have none: the launcher's words there, and its exit code."""
    done = run(
        [*LAUNCH, "submit", "--slurm", "--nproc=4", "--npus=4", "--follow", str(TINY), f"output_dir={tmp_path}"], env
    )

    assert 2 == done.returncode, done.stdout + done.stderr
    assert "no NPU found on this node" in done.stderr
    assert "exit code 2" in done.stderr
