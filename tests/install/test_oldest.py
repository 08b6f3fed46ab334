"""The oldest and the newest releases that pyproject.toml allows, in environments of their own: they train as those of the
tests do.

tools/constraints-oldest.txt and -newest.txt have them. The environments are made once and kept in .venv-oldest and
.venv-newest, until what they are made of changes.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import sysconfig
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

VENV, NEWEST_VENV = REPO / ".venv-oldest", REPO / ".venv-newest"
LIST, NEWEST_LIST = REPO / "tools" / "constraints-oldest.txt", REPO / "tools" / "constraints-newest.txt"
PROGRAM = REPO / "tests" / "ranks" / "programs" / "ddp.py"
SHORT = ("training.num_train_epochs=1", "training.logging_steps=1", "parallel.micro_batch_size=3")


def pins_of(path: Path) -> dict[str, SpecifierSet]:
    """Name → release."""
    return {r.name: r.specifier for r in map(Requirement, (x for x in path.read_text().splitlines() if x[0] != "#"))}


PINS, NEWEST = pins_of(LIST), pins_of(NEWEST_LIST)


def test_the_list_is_the_lower_end_of_each_bound(wheel: Path):
    """Of the packages that a plain install and [train] bring."""
    found = requirements(wheel)
    lowest = {
        need.name: next(s.version for s in need.specifier if s.operator == ">=")
        for need in (*found[""], *found["train"])
    }

    assert [] == [name for name, version in lowest.items() if not _is_lowest(PINS[name], version)]


def test_the_list_of_the_newest_is_within_each_bound(wheel: Path):
    """Of the same packages, and PEFT; torch is the tests' own."""
    found = requirements(wheel)
    needs = [need for extra in ("", "train", "lora") for need in found[extra] if need.name != "torch"]

    assert sorted(need.name for need in needs) == sorted(NEWEST)
    assert [] == [n.name for n in needs if not n.specifier.contains(next(iter(NEWEST[n.name])).version)]


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


def pip(*words: str | Path, venv: Path = VENV) -> subprocess.CompletedProcess[str]:
    """The environment's pip, with the user's configuration: it may name an index that has CPU builds."""
    argv = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "1"]
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


def is_made(venv: Path, *more: Path) -> bool:
    """Whether it is there, of these files."""
    stamp = venv / ".ready"
    return stamp.is_file() and stamp.read_text() == _made_of(*more)


def _made_of(*more: Path) -> str:
    made_of = [REPO / "pyproject.toml", Path(__file__), *more]
    return hashlib.sha256(b"".join(p.read_bytes() for p in made_of) + sys.version.encode()).hexdigest()


def install(venv: Path, what: str, *words: str | Path) -> None:
    """Skips where there is no index."""
    done = pip(*words, venv=venv)
    if "No matching distribution" in done.stderr or "onnection" in done.stderr:
        pytest.skip(f"the {what} packages cannot be downloaded: {done.stderr[-500:]}")
    assert 0 == done.returncode, done.stderr


@pytest.fixture(scope="module")
def oldest(wheel: Path, installed, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The environment, made where there is none of these files."""
    VENV.mkdir(exist_ok=True)
    with FileLock(VENV / ".lock"):
        if not is_made(VENV, LIST):
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
            pins = install_torch(tmp_path_factory.mktemp("pins"))
            install(VENV, "oldest", "--constraint", pins, f"{wheel}[train]", "setuptools")
            (VENV / ".ready").write_text(_made_of(LIST))
    return Stack(VENV / "bin" / "python", installed.site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def newest(installed, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """What is newer than in the tests' environment, in front of that."""
    NEWEST_VENV.mkdir(exist_ok=True)
    with FileLock(NEWEST_VENV / ".lock"):
        if not is_made(NEWEST_VENV, NEWEST_LIST):
            subprocess.run([sys.executable, "-m", "venv", "--clear", NEWEST_VENV], check=True)
            (site,) = NEWEST_VENV.glob("lib/python*/site-packages")
            (site / "tests.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
            install(NEWEST_VENV, "newest", "--requirement", NEWEST_LIST)
            (NEWEST_VENV / ".ready").write_text(_made_of(NEWEST_LIST))
    return Stack(NEWEST_VENV / "bin" / "python", installed.site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tested(installed, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return Stack(Path(sys.executable), installed.site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained(tested: Stack, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """What the packages of the tests train with DDP; another test has the strategies equal."""
    return tested.tiny(tmp_path_factory.mktemp("tested") / "ddp", "ddp")


def assert_as_tested(job: Job, tested: Job) -> None:
    """Losses of every step and figures of the evaluation, to the accuracy of another release's kernels."""
    assert (0, 0) == (tested.code, job.code), tested.err + job.err
    assert len(tested.losses_by_step) > 15
    assert pytest.approx(tested.losses_by_step, rel=1e-4) == job.losses_by_step
    assert pytest.approx(tested.figures["final"]["eval_loss"], rel=1e-4) == job.figures["final"]["eval_loss"]
    assert tested.figures["final"]["accuracy"] == job.figures["final"]["accuracy"]


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
def test_zero2_trains_as_in_the_tests(oldest: Stack, trained: Job, tmp_path: Path):
    assert_as_tested(oldest.tiny(tmp_path / "zero2", "zero2"), trained)


@pytest.mark.slow
@pytest.mark.ranks
def test_ddp_trains_and_resumes_as_in_the_tests(oldest: Stack, trained: Job, tmp_path: Path):
    """Interrupted in the middle and continued by the command that it prints."""
    folder = tmp_path / "ddp"
    words = ("--nproc", "2", "tiny-cpu", "parallel.strategy=ddp", *SHORT)
    running = Running(folder, words, oldest.env(), [], cwd=tmp_path, python=oldest.python)
    running.until("log", lambda event: event["step"] >= 1)
    running.process.send_signal(signal.SIGINT)
    assert 130 == running.wait(), running.err

    done = running.continued()

    (resumed,) = running.events("resume")
    assert 1 <= resumed["step"] < max(trained.losses_by_step)
    assert_as_tested(Job(done.returncode, done.stdout, done.stderr, folder), trained)


@pytest.mark.slow
@pytest.mark.ranks
def test_a_program_runs_as_in_the_tests(oldest: Stack, tested: Stack, tmp_path: Path):
    printed = []
    for stack in (oldest, tested):
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


@pytest.mark.slow
@pytest.mark.ranks
def test_the_environment_has_the_newest(newest: Stack):
    found = {name: newest.release(name) for name in NEWEST}

    assert [] == [name for name, pin in NEWEST.items() if not pin.contains(found[name])]


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["zero2", "fsdp2"])
def test_the_newest_train_as_in_the_tests(newest: Stack, trained: Job, tmp_path: Path, strategy: str):
    assert_as_tested(newest.tiny(tmp_path / strategy, strategy), trained)
