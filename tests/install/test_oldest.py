"""The oldest releases that pyproject.toml allows, in an environment of their own: they train as the newest do.

tools/constraints-oldest.txt has them. The environment is made once and kept in .venv-oldest, until what it is made of changes.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from launcher.diagnose.doctor.versions import CPU_INDEX
from tests.support import launch
from tests.support.run import TIMEOUT_S, Job, Running

from .conftest import REPO
from .test_pip_lines import constraints
from .test_wheel import requirements

VENV = REPO / ".venv-oldest"
LIST = REPO / "tools" / "constraints-oldest.txt"
PROGRAM = REPO / "tests" / "ranks" / "programs" / "ddp.py"
SHORT = ("training.num_train_epochs=1", "training.logging_steps=1", "parallel.micro_batch_size=3")
PINS = {r.name: r.specifier for r in map(Requirement, (x for x in LIST.read_text().splitlines() if x[0] != "#"))}


def test_the_list_is_the_lower_end_of_each_bound(wheel: Path):
    """Of the packages that a plain install and [train] bring."""
    found = requirements(wheel)
    lowest = {
        need.name: next(s.version for s in need.specifier if s.operator == ">=")
        for need in (*found[""], *found["train"])
    }

    assert [] == [name for name, version in lowest.items() if not _is_lowest(PINS[name], version)]


def _is_lowest(pin: SpecifierSet, version: str) -> bool:
    return pin == SpecifierSet(f"=={version}") or pin in (SpecifierSet(f"=={version}{rest}") for rest in (".0", ".0.0"))


@dataclass(frozen=True)
class Stack:
    """A Python with the packages that ranks import, and a wheel's files."""

    python: Path
    site: Path
    cache: Path

    def env(self) -> dict[str, str]:
        more = {"ASCEND_LAUNCH_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.site)}
        return launch.environment(**more)

    def tiny(self, folder: Path, strategy: str) -> Job:
        """tiny-cpu on two ranks for an epoch."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = ("--device", "cpu", "--nproc", "2", "--run-dir", folder, "tiny-cpu", f"parallel.strategy={strategy}")
        done = subprocess.run(
            launch.command(*words, *SHORT, python=self.python),
            env=self.env(),
            cwd=folder.parent,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        return Job(done.returncode, done.stdout, done.stderr, folder)

    def release(self, name: str) -> str:
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        return subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def pip(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The environment's pip, with the user's configuration: it may name an index that has CPU builds."""
    argv = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "1"]
    return subprocess.run([*argv, *words], capture_output=True, text=True, timeout=1200)


def install_torch(folder: Path) -> Path:
    """The oldest, or where no CPU build of it can be had the one of the other tests; what then constrains the rest."""
    oldest = PINS["torch"]
    (newest,) = (r.specifier for r in constraints(f"3.{sys.version_info.minor}") if r.name == "torch")
    tried = ([f"torch{oldest}+cpu"], ["--index-url", CPU_INDEX, f"torch{oldest}"], [f"torch{newest}+cpu"])
    for words in (*tried, ["--index-url", CPU_INDEX, f"torch{newest}"]):
        done = pip(*words)
        if done.returncode == 0:
            break
    else:
        pytest.skip(f"a CPU build of torch cannot be downloaded: {done.stderr[-500:]}")
    path = folder / "constraints.txt"
    path.write_text("".join(x for x in LIST.read_text().splitlines(True) if not x.startswith("torch==")))
    return path


@pytest.fixture(scope="module")
def oldest(wheel: Path, installed, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The environment, made where there is none of these files."""
    made_of = [REPO / "pyproject.toml", LIST, Path(__file__)]
    want = hashlib.sha256(b"".join(p.read_bytes() for p in made_of) + sys.version.encode()).hexdigest()
    stamp = VENV / ".ready"
    VENV.mkdir(exist_ok=True)
    with FileLock(VENV / ".lock"):
        if not stamp.is_file() or stamp.read_text() != want:
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
            pins = install_torch(tmp_path_factory.mktemp("pins"))
            done = pip("--constraint", pins, f"{wheel}[train]", "setuptools")
            if "No matching distribution" in done.stderr or "onnection" in done.stderr:
                pytest.skip(f"the oldest packages cannot be downloaded: {done.stderr[-500:]}")
            assert 0 == done.returncode, done.stderr
            stamp.write_text(want)
    return Stack(VENV / "bin" / "python", installed.site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def newest(installed, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return Stack(Path(sys.executable), installed.site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained(newest: Stack, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """What the newest packages train with DDP; another test has the strategies equal."""
    return newest.tiny(tmp_path_factory.mktemp("newest") / "ddp", "ddp")


def assert_as_newest(job: Job, newest: Job) -> None:
    """Losses of every step and figures of the evaluation, to the accuracy of another release's kernels."""
    assert (0, 0) == (newest.code, job.code), newest.err + job.err
    assert len(newest.losses_by_step) > 15
    assert pytest.approx(newest.losses_by_step, rel=1e-4) == job.losses_by_step
    assert pytest.approx(newest.figures["final"]["eval_loss"], rel=1e-4) == job.figures["final"]["eval_loss"]
    assert newest.figures["final"]["accuracy"] == job.figures["final"]["accuracy"]


@pytest.mark.slow
@pytest.mark.ranks
def test_the_environment_has_the_oldest(oldest: Stack):
    """All but torch, of which an old build for CPUs may be out of reach."""
    found = {name: oldest.release(name) for name in PINS}

    assert [] == [name for name, pin in PINS.items() if name != "torch" and not pin.contains(found[name])]
    if not PINS["torch"].contains(found["torch"].partition("+")[0]):
        pytest.skip(
            f"a CPU build of torch{PINS['torch']} cannot be downloaded; the others were tried with {found['torch']}"
        )


@pytest.mark.slow
@pytest.mark.ranks
def test_zero2_trains_as_the_newest_do(oldest: Stack, trained: Job, tmp_path: Path):
    assert_as_newest(oldest.tiny(tmp_path / "zero2", "zero2"), trained)


@pytest.mark.slow
@pytest.mark.ranks
def test_ddp_trains_and_resumes_as_the_newest_do(oldest: Stack, trained: Job, tmp_path: Path):
    """Interrupted in the middle and continued by the command that it prints."""
    folder = tmp_path / "ddp"
    words = ("--nproc", "2", "tiny-cpu", "parallel.strategy=ddp", *SHORT)
    running = Running(folder, words, oldest.env(), [], cwd=tmp_path, python=oldest.python)
    running.until("log", lambda event: event["step"] >= 5)
    running.process.send_signal(signal.SIGINT)
    assert 130 == running.wait(), running.err

    done = running.continued()

    (resumed,) = running.events("resume")
    assert 5 <= resumed["step"] < max(trained.losses_by_step)
    assert_as_newest(Job(done.returncode, done.stdout, done.stderr, folder), trained)


@pytest.mark.slow
@pytest.mark.ranks
def test_a_program_runs_as_with_the_newest(oldest: Stack, newest: Stack, tmp_path: Path):
    printed = []
    for stack in (oldest, newest):
        words = ("--device", "cpu", "--nproc", "2", "--local-ranks-filter", "0", PROGRAM, "--lr", "0.01")
        done = subprocess.run(
            launch.command(*words, python=stack.python),
            env=stack.env(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert 0 == done.returncode, done.stderr
        printed.append([float(x.split()[1]) for x in done.stdout.splitlines() if x.startswith("loss ")])

    assert 12 == len(printed[1])
    assert pytest.approx(printed[1], rel=1e-4) == printed[0]
