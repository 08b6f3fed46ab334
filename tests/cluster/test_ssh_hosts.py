"""A hostfile and real sshd: hosts that are network namespaces, with host names, networks and run folders of their own.

The user sits at one more machine, which is none of the hosts and shares no run folder with them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import sshd
from tests.support import launch as launching
from tests.support.launch import REPO
from tests.support.run import Run

pytestmark = pytest.mark.ranks
INJECT = REPO / "tests" / "ranks" / "faults" / "inject"
TIMEOUT_S = 240
LONG = "training.num_train_epochs=300"
EXACT = "training.ddp_find_unused_parameters=true"
"""So that four ranks that go on end with the same bits (tests/cluster/test_slurm.py)."""
SAVES = ("training.save_strategy=steps", "training.save_steps=5")
TOKEN = "hf_thisIsTheSecretOfTheTest"
GONE_S = 60.0
"""For an end that a host has to find out by itself: silence of the near side, and of the other node."""


class Launch(Run):
    """`ascend-launch --hostfile …`, typed at the user's machine."""

    def __init__(
        self, machines: sshd.Machines, folder: Path, words: tuple[str, ...], env: dict[str, str], hosts: str | None
    ) -> None:
        super().__init__(folder)
        base = {k: v for k, v in launching.environment().items() if not k.startswith("SLURM")}
        del base["ASCEND_LAUNCH_REPORT"]
        base |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{INJECT}:{REPO}", **env}
        passed = [f"--pass-env={name}" for name in ("PYTHONPATH", "FAULT") if name in base]
        self.env = base
        hostfile = machines.folder / f"{folder.parent.name}.txt"
        hostfile.write_text(hosts or "node0 slots=2\nnode1 slots=2\n")
        options = [w for w in words if w.startswith("--")]
        overrides = [w for w in words if not w.startswith("--")]
        self.process = subprocess.Popen(
            [
                *machines.here,
                sys.executable,
                "-m",
                "launcher.cli",
                f"--hostfile={hostfile}",
                f"--ssh-config={machines.ssh_config}",
                f"--run-dir={folder}",
                "--device=cpu",
                *passed,
                *options,
                "recipes/tiny-cpu.yaml",
                *overrides,
            ],
            cwd=REPO,
            env=base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out = self.err = ""

    def wait(self) -> int:
        self.out, self.err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode

    def until_step(self, step: int) -> None:
        """By what came here of the first node's events."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for log in self.dir.glob("nodes/node0.log"):
                lines = [line for line in log.read_text().splitlines() if '"step"' in line and line.endswith("}")]
                if any(e["event"] == "step" and e["step"] >= step for e in map(json.loads, lines)):
                    return
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError(f"no step {step} in {TIMEOUT_S} s")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Machines]:
    why = sshd.missing()
    if why:
        pytest.skip(why)
    with sshd.Machines(tmp_path_factory.mktemp("machines"), 3) as three:
        yield three


@pytest.fixture
def launch(machines: sshd.Machines, shared_cache: str, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Start tiny-cpu on two hosts with two ranks each, or on those of `hosts`; nothing may be left on any."""
    started: list[Launch] = []

    def start(*words: str, hosts: str | None = None, where: str = "shared", **env: str) -> Launch:
        # A name that breaks what is put together by hand, on this side and on that.
        folder = machines.folder / where / f"{tmp_path.name}{len(started)}" / 'it\'s $(touch /tmp/pwned)\n"run"'
        started.append(Launch(machines, folder, words, {"ASCEND_LAUNCH_CACHE": shared_cache, **env}, hosts))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
    assert machines.are_clean(range(3), GONE_S)


def _alone(tmp_path: Path, shared_cache: str, *words: str) -> Path:
    """The run directory of the same recipe on one node."""
    env = launching.environment(ASCEND_LAUNCH_CACHE=shared_cache, OMP_NUM_THREADS="1")
    argv = launching.command("--device=cpu", f"--run-dir={tmp_path / 'alone'}", "recipes/tiny-cpu.yaml", *words)
    done = launching.run(argv, env, timeout_s=TIMEOUT_S)
    assert 0 == done.returncode, done.stderr
    return tmp_path / "alone"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Path:
    """The run directory of four ranks on one node."""
    return _alone(tmp_path_factory.mktemp("four"), shared_cache, "--nproc=4", EXACT)


# -- all is well -----------------------------------------------------------------------------------------------------


def test_two_hosts_train_as_one_machine_and_their_results_come_here(
    launch: Callable[..., Launch], machines: sshd.Machines, alone: Path
):
    """Figures and predictions equal those of four ranks on one node. The token reaches every agent's environment, and
    is on no command line, and in no file here or there."""
    two = launch(EXACT, where="apart", HF_TOKEN=TOKEN)
    two.until_step(5)
    holders = set()
    for node in (0, 1):
        for pid in machines.running(node):
            process = Path(f"/proc/{pid}")
            try:
                assert TOKEN.encode() not in (process / "cmdline").read_bytes()
                if b"launcher.worker.agent.agent" in (process / "cmdline").read_bytes():
                    assert f"HF_TOKEN={TOKEN}".encode() in (process / "environ").read_bytes()
                    holders.add(node)
            except FileNotFoundError:
                continue

    assert 0 == two.wait(), two.err
    assert {0, 1} == holders
    assert Run(alone).figures["epochs"] == two.figures["epochs"]
    assert (alone / "predictions.jsonl").read_bytes() == (two.dir / "predictions.jsonl").read_bytes()
    assert (two.dir / "node_1" / "attempt_0" / "rank_3.log").exists()
    assert not (two.dir / "model").exists()
    assert "[node0] weights and checkpoints stay there" in two.err
    assert "[node1] does not share" in two.err
    assert (machines.files(0) / two.dir.relative_to("/") / "model" / "model.safetensors").exists()
    assert "train      240 rows" in two.out  # a file of the first node's, fetched while the job runs
    assert 1 == two.out.count("epoch 3  train loss")
    for root in (two.dir, *(machines.files(n) / two.dir.relative_to("/") for n in (0, 1))):
        for path in (p for p in root.rglob("*") if p.is_file()):
            assert TOKEN.encode() not in path.read_bytes(), path
    assert not Path("/tmp/pwned").exists()


WORDS = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
found = [None] * dist.get_world_size()
dist.all_gather_object(found, (os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"]))
print(rank, sys.argv[1:], sorted(found))
print("caf\u00e9", rank, file=sys.stderr)
if rank == 3 and "fail" in sys.argv:
    raise ValueError("a row too many")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def begin_on_two_hosts(machines: sshd.Machines, tmp_path: Path, shared_cache: str) -> Callable[..., Any]:
    """Start `ascend-launch --hostfile … WORDS` on two hosts with two ranks each."""
    (tmp_path / "hosts").write_text("node0 slots=2\nnode1 slots=2\n")
    kept = {k: v for k, v in launching.environment().items() if not k.startswith("SLURM")}
    env = kept | {"ASCEND_LAUNCH_CACHE": shared_cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    argv = [
        *machines.here,
        sys.executable,
        "-m",
        "launcher.cli",
        f"--hostfile={tmp_path / 'hosts'}",
        f"--ssh-config={machines.ssh_config}",
        "--device=cpu",
        "--pass-env=PYTHONPATH",
    ]

    def begin(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*argv, *words],
            cwd=REPO,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def on_two_hosts(begin_on_two_hosts: Callable[..., Any]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same, to its end."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        with begin_on_two_hosts(*words) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


def test_a_program_runs_on_two_hosts_and_its_output_comes_here(
    machines: sshd.Machines, tmp_path: Path, on_two_hosts: Callable[..., subprocess.CompletedProcess[str]]
):
    """As it comes, on the stream that it was written to; a rank that fails there is named here."""
    program, run = tmp_path / "words.py", on_two_hosts
    program.write_text(WORDS, encoding="utf-8")

    folder = machines.folder / "apart" / tmp_path.name
    done = run("--tee=1", f"--run-dir={folder}", str(program), "--lr", "1e-4", "-x")
    everyone = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert 0 == done.returncode, done.stderr
    lines = {f"[default{rank}]:{rank} ['--lr', '1e-4', '-x'] {everyone}" for rank in range(4)}
    assert lines == set(done.stdout.splitlines())
    assert {f"caf\u00e9 {rank}" for rank in range(4)} == {w for w in done.stderr.splitlines() if w.startswith("caf")}
    assert "caf\u00e9 3\n" in (folder / "node_1" / "attempt_0" / "rank_3.stderr.log").read_text(encoding="utf-8")

    failed = run(f"--run-dir={folder}-2", str(program), "fail")
    assert 1 == failed.returncode
    assert {f"0 ['fail'] {everyone}", "caf\u00e9 0"} <= set(failed.stdout.splitlines())
    assert "['fail']" not in failed.stderr and 1 == failed.stdout.count("['fail']")
    assert 1 == failed.stderr.count("raise ValueError")
    assert "rank 3" in failed.stderr and "gloo-peer-closed" not in failed.stderr
    assert machines.are_clean(range(3), GONE_S)


def test_a_command_runs_once_on_each_host_and_its_torchrun_is_one_job(
    machines: sshd.Machines, tmp_path: Path, on_two_hosts: Callable[..., subprocess.CompletedProcess[str]]
):
    """Everything that it writes comes here, of the second host with its name; its exit code is ours."""
    (tmp_path / "words.py").write_text(WORDS, encoding="utf-8")
    script = tmp_path / "train.sh"
    script.write_text(
        'echo "node $NODE_RANK of $NNODES"\ncd "$(dirname "$0")"\n'
        'torchrun words.py "$@" || exit 7\ntorchrun words.py again || exit 8\n'
    )

    done = on_two_hosts("--", "bash", str(script), "--lr", "1e-4 é")
    everyone = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert 0 == done.returncode, done.stderr
    first = ["node 0 of 2", f"0 ['--lr', '1e-4 é'] {everyone}", f"0 ['again'] {everyone}", *(["café 0"] * 2)]
    second = ["node 1 of 2", f"2 ['--lr', '1e-4 é'] {everyone}", f"2 ['again'] {everyone}", *(["café 2"] * 2)]
    lines = [line for line in done.stdout.splitlines() if "[c10d]" not in line]  # which does not know the hosts' names
    assert sorted([*first, *(f"[node1] {line}" for line in second)]) == sorted(lines)

    failed = on_two_hosts("--", "bash", str(script), "fail")
    assert 7 == failed.returncode
    assert "ValueError: a row too many" in failed.stderr
    assert "ended with exit code 7" in failed.stderr
    assert machines.are_clean(range(3), GONE_S)


def test_an_interrupt_reaches_a_command_on_every_host(machines: sshd.Machines, begin_on_two_hosts: Callable[..., Any]):
    """As a terminal sends it: to what was started, and not to the launcher alone."""
    with begin_on_two_hosts("--", "bash", "-c", "trap 'echo heard; exit 3' INT; echo up; sleep 60 & wait") as process:
        up = {process.stdout.readline() for _ in range(2)}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)

    assert {"up\n", "[node1] up\n"} == up
    assert {"heard", "[node1] heard"} == set(out.splitlines())
    assert 130 == process.returncode, err
    assert machines.are_clean(range(3), GONE_S)


def test_three_hosts_share_one_optimizer(launch: Callable[..., Launch], shared_cache: str, tmp_path: Path):
    """ZeRO-2, a rank each: the figures of three ranks on one node."""
    alone = _alone(tmp_path, shared_cache, "--nproc=3", "parallel.strategy=zero2")
    three = launch("--nproc=1", "parallel.strategy=zero2", hosts="node0 slots=1\nnode1 slots=1\nnode2 slots=1\n")

    assert 0 == three.wait(), three.err
    assert Run(alone).figures["epochs"] == three.figures["epochs"]
    assert 3 == three.read("metrics.json")["world_size"]


# -- something fails -------------------------------------------------------------------------------------------------


def test_a_rank_that_raises_is_shown_once_with_its_traceback_and_host(launch: Callable[..., Launch]):
    """Both hosts end; failure.json and the rank's log come here."""
    job = launch(LONG, FAULT="raise 3 7")

    assert 1 == job.wait()
    assert 1 == job.err.count("Traceback (most recent call last)"), job.err
    found = job.read("failure.json")
    assert (3, 1, "node1", "ValueError") == (found["rank"], found["node_rank"], found["host"], found["type"])
    assert "in on_step_begin" in found["traceback"]
    assert "ate the homework" in (job.dir / "node_1" / "attempt_0" / "error_3.json").read_text()


def test_a_killed_rank_restarts_the_job_on_all_hosts(launch: Callable[..., Launch]):
    """As on plain nodes."""
    job = launch("--max-restarts=1", *SAVES, FAULT="kill 1 33")

    assert 0 == job.wait(), job.err
    assert "restart    attempt 1 of 1, after rank 1" in job.out
    assert 3 == len(job.read("metrics.json")["epochs"])
    assert (job.dir / "node_1" / "attempt_1" / "rank_2.log").exists()


def test_a_cut_link_ends_the_job_everywhere(launch: Callable[..., Launch], machines: sshd.Machines):
    """The lost host is named, and its own ranks end too, though nobody can tell them."""
    job = launch(LONG)
    job.until_step(5)
    machines.lan.cut(1)
    try:
        assert 1 == job.wait()
        assert "node 1 (node1) is lost" in job.err
        assert ("NodeLost", 1) == (job.read("failure.json")["type"], job.read("failure.json")["node_rank"])
        assert machines.are_clean((0, 1), GONE_S)
    finally:
        machines.lan.mend(1)


def test_a_killed_launcher_leaves_nothing_on_any_host(launch: Callable[..., Launch], machines: sshd.Machines):
    """The life line ends; the hosts save and stop."""
    job = launch(LONG)
    job.until_step(5)
    job.process.kill()

    assert machines.are_clean((0, 1), GONE_S)
    checkpoints = machines.files(0) / job.dir.relative_to("/") / "checkpoints"
    assert 1 == len(list(checkpoints.glob("checkpoint-*")))


def test_a_broken_connection_stops_all_hosts_after_saving(launch: Callable[..., Launch], machines: sshd.Machines):
    """The host without a near side stops, and the job with it."""
    job = launch(LONG)
    job.until_step(5)
    for pid in machines.sessions(1):
        os.kill(pid, signal.SIGKILL)

    assert 1 == job.wait()
    assert "node 1 (node1) is lost: " in job.err
    checkpoints = machines.files(0) / job.dir.relative_to("/") / "checkpoints"
    assert 1 == len(list(checkpoints.glob("checkpoint-*")))


def test_a_launcher_that_refuses_to_start_ends_the_others(launch: Callable[..., Launch], machines: sshd.Machines):
    """What --remote-setup exports on one host alone is that host's mistake; the other does not wait for it."""
    setup = machines.folder / "set up.sh"
    setup.write_text('[ "$HOSTNAME" != node1 ] || export ASCEND_LAUNCH_TRAINING__LERNING_RATE=1\n')
    job = launch(f"--remote-setup={setup}")

    assert 2 == job.wait()
    assert "node1: environment ASCEND_LAUNCH_TRAINING__LERNING_RATE" in job.err
    assert "did you mean" in job.err
    assert 2 == job.read("failure.json")["exit_code"]


# -- told to stop ----------------------------------------------------------------------------------------------------


def test_an_interrupted_job_goes_on_to_the_same_weights(
    launch: Callable[..., Launch], machines: sshd.Machines, alone: Path
):
    """^C gives 130, and the step is kept on what the hosts share. The command that is printed ends with the weights and the
    predictions of a run that was left alone, bit for bit."""
    job = launch(EXACT, FAULT="drag 1 10")
    job.until_step(12)
    job.process.send_signal(signal.SIGINT)

    assert 130 == job.wait()
    assert not (job.dir / "failure.json").exists()
    there = machines.files(0) / job.dir.relative_to("/")
    (kept,) = (there / "checkpoints").glob("checkpoint-*")
    command = job.out.partition("continue with:\n")[2]
    argv = [*machines.here, "bash", "-c", command]
    again = subprocess.run(argv, cwd=REPO, env=job.env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert 0 == again.returncode, again.stderr
    assert 12 <= int(kept.name.removeprefix("checkpoint-")) < 60
    assert (alone / "model" / "model.safetensors").read_bytes() == (there / "model" / "model.safetensors").read_bytes()
    assert (alone / "predictions.jsonl").read_bytes() == (job.dir / "predictions.jsonl").read_bytes()


# -- a host cannot take part -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "options", "said"),
    [
        ("stranger slots=1", (), "stranger: its host key is not known here"),
        ("locked slots=1", (), "locked: ssh logs in with no key there"),
        ("closed slots=1", (), "closed: no ssh server listens there"),
        ("node1 slots=1", ("--remote-python=/no/python3",), "node1: has no such Python"),
        ("node1 slots=1", ("--remote-dir=/no/such/dir",), "node1: cannot enter /no/such/dir"),
        ("node1 slots=1", ("--remote-setup=/no/setup.sh",), "node1: has no /no/setup.sh"),
        ("node1 slots=1", ("--rdzv-endpoint=10.231.7.1:22",), "port 22 is taken there"),
        ("node1 slots=1", ("--rdzv-endpoint=10.231.7.9:29400",), "cannot reach node0 at 10.231.7.9:29400"),
    ],
)
def test_a_host_that_cannot_take_part_is_named_before_anything_starts(
    launch: Callable[..., Launch], machines: sshd.Machines, hosts: str, options: tuple[str, ...], said: str
):
    """With its line of the hostfile; the host that could has started nothing."""
    job = launch(*options, hosts=f"node0 slots=1\n{hosts}\n")

    assert 2 == job.wait()
    assert said in job.err, job.err
    assert ".txt:" in job.err
    assert "fix: " in job.err
    assert not (machines.files(0) / job.dir.relative_to("/") / "plan.json").exists()
