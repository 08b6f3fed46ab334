"""Programs that people have already, on two ranks: torchrun's contract, and an end as Python's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.ranks

REPO = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 120

CONTRACT = """
import atexit, ctypes, multiprocessing, os, pathlib, sys, tempfile, threading, time
import torch
import torch.distributed as dist
from helper import greeting

rank, out = os.environ["RANK"], pathlib.Path("out")
def leave(what): (out / f"{what}_{rank}").touch()
def child(): time.sleep(0.3); leave("child")
def later(): time.sleep(0.3); leave("thread")

dist.init_process_group("gloo")
total = [None] * dist.get_world_size()
dist.all_gather_object(total, int(rank))
print(greeting, total, sys.argv, __name__, os.path.basename(__file__), os.path.isabs(__file__), __package__, flush=True)
dist.barrier()
dist.destroy_process_group()
atexit.register(leave, "atexit")
threading.Thread(target=later).start()
multiprocessing.get_context("fork").Process(target=child).start()
text = open(out / f"text_{rank}", "w")
text.write("written without a close")
torch.held = open(out / f"held_{rank}", "w")
torch.held.write("held by a library")
class Last:
    def __del__(self, path=str(out / f"object_{rank}"), open=open): open(path, "w").close()
last = Last()
ctypes.CDLL(None).printf(b"from C\\n")
folder = tempfile.TemporaryDirectory(dir=out, prefix="temporary_")
"""

FAULTS = """
import os, signal, sys, time
import torch.distributed as dist
fault = sys.argv[1]
if os.environ["RANK"] == "1" and fault == "usage":
    print("usage: faults.py WHAT", file=sys.stderr)
    sys.exit(2)
dist.init_process_group("gloo")
if os.environ["RANK"] == "1":
    if fault == "exception": raise ValueError("a row too many")
    if fault == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if fault == "early": os._exit(0)
dist.barrier()
if fault == "both-early":
    time.sleep(0.5)  # nobody is still in the barrier
    os._exit(0)
"""

WAITS = """
import os, pathlib, signal, sys, time
def save(*_): pathlib.Path(f"saved_{os.environ['RANK']}").touch(); sys.exit(0)
if sys.argv[1] == "term": signal.signal(signal.SIGTERM, save)
pathlib.Path(f"ready_{os.environ['RANK']}").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    save()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    for name, text in (
        ("contract", CONTRACT),
        ("faults", FAULTS),
        ("waits", WAITS),
        ("helper", "greeting = 'hello'\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "launcher").mkdir()  # a folder of anybody's may have this name
    (tmp_path / "launcher" / "__init__.py").write_text("raise SystemExit('not this one')")
    return tmp_path


def argv(*words: str) -> list[str]:
    return [sys.executable, "-c", "from launcher.cli import main; main()", *words]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND", "RANK", "WORLD_", "MASTER_", "PET_"))}
    return {**kept, "ASCEND_LAUNCH_DEVICE": "cpu", "PYTHONPATH": str(REPO), "PYTHONSAFEPATH": "1"}


@pytest.fixture
def run(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv(*words),
            cwd=folder,
            env={**environment(), **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run


def failure(folder: Path) -> dict:
    return json.loads(next(folder.glob("runs/*/latest/failure.json")).read_text())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_script_runs_and_ends_as_python_has_it(run, folder: Path, method: str):
    """argv as typed, __main__, its folder on sys.path; threads, children, atexit, objects, files (one that only a library
    still holds, and C's own, too) and temporary folders at the end."""
    done = run("--nproc_per_node=2", "--start-method", method, "contract.py", "--lr", "1e-4", "--nproc", "7")

    assert 0 == done.returncode, done.stderr
    said = "hello [0, 1] ['contract.py', '--lr', '1e-4', '--nproc', '7'] __main__ contract.py True None\n"
    assert f"{said}from C\n" == done.stdout
    left = {path.name for path in (folder / "out").iterdir()}
    kinds = ("atexit", "thread", "child", "text", "held", "object")
    assert {f"{what}_{rank}" for what in kinds for rank in (0, 1)} == left
    for name, text in (("text", "written without a close"), ("held", "held by a library")):
        assert {text} == {(folder / "out" / f"{name}_{rank}").read_text() for rank in (0, 1)}


def test_what_a_rank_sent_last_arrives(run, folder: Path):
    """A program may end with a message on its way and its process group open: its end waits for the message, as Python's."""
    (folder / "sends.py").write_text(
        "import os, time, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "values = torch.full((4_000_000,), 7.0) if os.environ['RANK'] == '0' else torch.zeros(4_000_000)\n"
        "if os.environ['RANK'] == '0':\n"
        "    dist.broadcast(values, 0, async_op=True)\n"
        "else:\n"
        "    time.sleep(1)\n"
        "    dist.broadcast(values, 0)\n"
        "    open('arrived', 'w').write(str(values.unique().tolist()))\n"
    )
    done = run("--nproc", "2", "sends.py")

    assert 0 == done.returncode, done.stderr
    assert "[7.0]" == (folder / "arrived").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["reducer", "end"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_late_thread_of_gloos_neither_keeps_nor_aborts_a_rank(run, owner: str, method: str):
    """Without launcher/worker/agent/gloo.py 7 runs of 8 end with SIGABRT."""
    done = run("--nproc_per_node=2", "--start-method", method, str(REPO / "tests/ranks/programs/late.py"), owner)

    assert 0 == done.returncode, done.stderr


def test_a_module_reads_standard_input_with_one_rank(run):
    """`python -m json.tool` in a pipe; standard output is the program's alone."""
    done = run("-m", "json.tool", "--compact", stdin='{"a":  1}')

    assert (0, '{"a":1}\n') == (done.returncode, done.stdout), done.stderr


def test_an_executable_gets_torchruns_variables_on_every_rank(run, folder: Path):
    """--no-python; --tee shows a rank's lines with its rank, each stream on the one of ours, and each has a log; the exit
    code is 1 whatever the rank's is."""
    script = "echo $RANK of $WORLD_SIZE at $MASTER_ADDR as $ROLE_NAME; echo E$RANK >&2; sleep $RANK; exit $((RANK * 3))"
    teed = ("--tee", "0:1,1:3", "--redirects", "0:2")
    done = run("--nproc", "2", *teed, "--role", "worker", "--no-python", "sh", "-c", script)

    assert 1 == done.returncode
    lines = {f"[worker{rank}]:{rank} of 2 at 127.0.0.1 as worker" for rank in (0, 1)}
    assert lines == set(done.stdout.splitlines())
    assert ["[worker1]:E1"] == [line for line in done.stderr.splitlines() if ":E" in line]
    attempt = next(folder.glob("runs/*/latest/attempt_0"))
    assert ["E0\n", "E1\n"] == [(attempt / f"rank_{rank}.stderr.log").read_text() for rank in (0, 1)]
    assert "1 of 2 at 127.0.0.1 as worker\n" == (attempt / "rank_1.stdout.log").read_text()
    assert not list(attempt.glob("rank_?.log"))
    found = failure(folder)
    assert (1, 3, "rank_1.stderr.log") == (found["rank"], found["process_exit_code"], Path(found["log"]).name)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("exception", 1, "ValueError: a row too many"),
        ("kill", 1, "killed by SIGKILL"),
        ("early", 1, "ended early with exit code 0"),
        ("both-early", 0, ""),
        ("usage", 1, "usage: faults.py WHAT"),
    ],
)
def test_the_rank_that_failed_first_is_named(run, folder: Path, fault: str, code: int, said: str):
    """os._exit(0) on every rank is an end like any other, as under torchrun; on one it is what took the others down."""
    done = run("--nproc", "2", "faults.py", fault)

    assert code == done.returncode, done.stderr
    assert said in done.stderr
    if code:
        assert 1 == failure(folder)["rank"]
        assert "gloo-peer-closed" not in done.stderr
        assert "launcher/worker" not in done.stderr  # no frames of ours
    if fault == "usage":
        assert 2 == failure(folder)["process_exit_code"]


@pytest.mark.slow
def test_a_program_that_does_not_parse_is_shown_as_python_shows_it(run, folder: Path):
    """Its file, line and words, and no frames of ours."""
    (folder / "broken.py").write_text("print('one')\nprint(\n")
    done = run("broken.py")

    assert 1 == done.returncode
    plain = subprocess.run([sys.executable, folder / "broken.py"], capture_output=True, text=True)
    assert plain.stderr.splitlines() == done.stdout.splitlines()


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "int"), (signal.SIGTERM, "term")])
def test_a_signal_reaches_the_program_as_it_was_sent(folder: Path, number: int, word: str):
    """^C raises KeyboardInterrupt in every rank, SIGTERM its handler; spawned ranks hear them too."""
    words = ("--nproc", "2", "--start-method", "spawn", "waits.py", word)
    process = subprocess.Popen(argv(*words), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(folder.glob("ready_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT_S)

    assert ["saved_0", "saved_1"] == sorted(path.name for path in folder.glob("saved_*"))
    assert 1 == process.returncode


def test_what_a_script_sets_before_its_imports_counts(run, folder: Path):
    """HF_ENDPOINT in a script's first line is read by the library it imports next, though torch was imported before."""
    (folder / "mirror.py").write_text(
        "import os\nos.environ['HF_ENDPOINT'] = 'https://mirror.invalid'\n"
        "from huggingface_hub import constants\nprint(constants.ENDPOINT)\n"
    )
    done = run("mirror.py")

    assert "https://mirror.invalid\n" == done.stdout, done.stderr
    assert "imported once  torch; not more: mirror.py:2 sets HF_ENDPOINT" in done.stderr


ENVIRONMENT = """
import json, os, sys
if os.environ["RANK"] == "0":
    with open(sys.argv[1], "w") as file:
        json.dump(dict(os.environ), file)
"""
TORCHRUNS = {"GLOO_SOCKET_IFNAME", "OPENBLAS_NUM_THREADS", "MASTER_PORT", "_", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}
"""What torchrun and our agent give a rank, each in its own way, beside TORCHELASTIC_…"""


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        (["--accelerate-config", "fsdp.yaml"], ["--config_file", "fsdp.yaml"]),
        (
            ["--strategy", "zero2", "--precision", "bf16"],
            ["--config_file", "job/accelerate.yaml", "--mixed_precision", "bf16"],
        ),
    ],
    ids=["config", "zero2"],
)
def test_ranks_get_the_variables_of_accelerate_launch(run, folder: Path, words: list[str], theirs: list[str]):
    """Of the accelerate that is installed, as its own launch gives them, but for what torchrun sets; over the user's."""
    (folder / "environment.py").write_text(ENVIRONMENT)
    shipped = (REPO / "accelerate_configs" / "fsdp2.yaml").read_text().replace("num_processes: 8", "num_processes: 1")
    (folder / "fsdp.yaml").write_text(shipped)
    done = run("--run-dir", "job", *words, "environment.py", "ours.json", ACCELERATE_MIXED_PRECISION="fp16")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", *theirs]
    env = {k: v for k, v in environment().items() if not k.startswith("ASCEND_LAUNCH")}
    env |= {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # ours sets it for CPU ranks
    subprocess.run([*accelerate, "environment.py", "theirs.json"], cwd=folder, env=env, check=True, timeout=TIMEOUT_S)

    ours, real = (json.loads((folder / f"{name}.json").read_text()) for name in ("ours", "theirs"))
    gone = {n for n in (*ours, *real) if n.startswith(("TORCHELASTIC_", "ASCEND_LAUNCH_"))} | TORCHRUNS
    gone |= {"OMP_NUM_THREADS"} if "OMP_NUM_THREADS" not in real else set()  # left to torchrun
    assert {n: v for n, v in real.items() if n not in gone} == {n: v for n, v in ours.items() if n not in gone}
    assert "bf16" == ours["ACCELERATE_MIXED_PRECISION"]
    assert "ACCELERATE_MIXED_PRECISION=bf16" in done.stderr
    recorded = json.loads((folder / "job" / "env.json").read_text())["set"]
    assert {"ACCELERATE_MIXED_PRECISION"} <= {row["name"] for row in recorded}


@pytest.mark.slow
def test_every_torchrun_of_a_command_is_ours(run, folder: Path):
    """By its name, by -m and in process; with our options; a sitecustomize of the user's still runs; its exit code stands."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("import os\nos.environ['THEIRS'] = 'ran'\n")
    (folder / "rank.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1], os.environ['TORCHELASTIC_MAX_RESTARTS'], os.environ['THEIRS'], 'nested' in os.environ['PATH'])\n"
        "assert not any(name.startswith('ASCEND_LAUNCH_NESTED') for name in os.environ)\n"
    )
    (folder / "all.sh").write_text(
        "export PYTHONPATH=$PYTHONPATH:site\n"
        "torchrun --nproc_per_node 2 rank.py name\n"
        f"{sys.executable} -m torch.distributed.run --nproc_per_node 2 rank.py module\n"
        f'{sys.executable} -c "import torch.distributed.run as r\n'
        "r.run(r.get_args_parser().parse_args(['--nproc_per_node=2', 'rank.py', 'process']))\n"
        "print('goes on')\"\n"
        "exit 7\n"
    )
    done = run("--max-restarts", "1", "--", "bash", "all.sh")

    assert 7 == done.returncode, done.stderr
    words = ["name 1 ran False", "module 1 ran False", "process 1 ran False", "goes on"]
    assert words == done.stdout.splitlines()
    assert 3 == done.stderr.count("run directory")
