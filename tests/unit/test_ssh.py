"""Launching by ssh: what is sent, what a shell over there sees, and what is said where ssh does not come through."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import __version__
from launcher.clusters.ssh import connection, far_side, job
from launcher.clusters.ssh.fleet import Fleet
from launcher.clusters.ssh.hostfile import Host, parse
from launcher.clusters.ssh.node import Job, Node
from launcher.errors import LaunchError
from launcher.render import env
from launcher.rundir.paths import RunDir

pytestmark = pytest.mark.process
REPO = Path(__file__).resolve().parent.parent.parent


def a_host(name: str = "node0") -> Host:
    return Host(name, name, 1, "hosts.txt:1")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_over_there_runs_the_python_it_is_given(awkward_dir: Path, shell: str):
    """Whatever its path holds: the rest of the one string that a shell reads is fixed."""
    python = awkward_dir / "python"
    python.symlink_to(sys.executable)
    *_, command = connection.argv(a_host(), str(python), None)
    source = b"import sys; print('ran', sys.argv)"

    done = subprocess.run(
        [shell, "-c", command], input=b"%d\n%s" % (len(source), source), capture_output=True, cwd=awkward_dir
    )

    assert (0, b"ran ['-c']\n", b"") == (done.returncode, done.stdout, done.stderr)
    assert [python] == list(awkward_dir.iterdir())


def test_ssh_asks_nothing_and_sees_a_cut_link():
    """The user's configuration holds for everything else; the destination is never taken for an option."""
    argv = connection.argv(a_host("me@node0"), "/usr/bin/python3", Path("my config"))

    assert ["ssh", "-F", "my config"] == argv[:3]
    assert {"BatchMode=yes", "ServerAliveInterval=5", "ControlMaster=no"} <= set(argv)
    assert not any("StrictHostKeyChecking" in word for word in argv)
    assert ["--", "me@node0"] == argv[-3:-1]


def test_variables_go_where_they_are_needed_and_never_onto_a_command_line():
    """The hub's token to all, a tracker's key to the first; what is true of one host stays there."""
    user = {
        "HF_TOKEN": "hf_secret",
        "HCCL_CONNECT_TIMEOUT": "9",
        "ASCEND_LAUNCH_TRAINING__SEED": "1",
        "WANDB_API_KEY": "w",
        "HCCL_IF_IP": "10.0.0.1",
        "ASCEND_HOME_PATH": "/cann",
        "AWS_SECRET_ACCESS_KEY": "a",
        "PATH": "/bin",
        "MINE": "m",
        "ASCEND_LAUNCH_NODE_RANK": "1",
        "RANK_TABLE_FILE": "/old.json",
    }
    every, first = env.passed(user, ["MINE"])

    assert {"HF_TOKEN", "HCCL_CONNECT_TIMEOUT", "ASCEND_LAUNCH_TRAINING__SEED", "MINE"} == set(every)
    assert {"WANDB_API_KEY"} == set(first)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("ssh: Could not resolve hostname nod0: Name or service not known", 255, "ssh does not know that name"),
        ("ssh: connect to host node0 port 22: Connection refused", 255, "no ssh server listens there"),
        ("ssh: connect to host node0 port 22: Connection timed out", 255, "ssh gets no answer from there"),
        (
            "No ED25519 host key is known for node0.\nHost key verification failed.",
            255,
            "its host key is not known here",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            255,
            "its host key is another",
        ),
        ("root@node0: Permission denied (publickey).", 255, "ssh logs in with no key there"),
        ("bash: line 1: /x/python: No such file or directory", 127, "has no such Python"),
        ("bash: line 1: /x/python: Permission denied", 126, "has no such Python"),
        ("kex_exchange_identification: Connection closed by remote host", 255, "Connection closed by remote host"),
    ],
)
def test_what_ssh_says_becomes_one_sentence_and_a_fix(words: str, code: int, said: str):
    """OpenSSH's own words."""
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    what, hint = connection.Connection(a_host(), process, words=bytearray(words.encode())).why_not()

    assert said in what
    assert hint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--include=node0",), "--include needs --hostfile"),
        (("--hostfile=HOSTS", "--nnodes=2"), "--hostfile says itself how many nodes there are"),
        (("--hostfile=HOSTS", "--debug"), "--debug and --hostfile cannot go together"),
        (("--hostfile=HOSTS", "--pass-env=NOT_SET_HERE"), "--pass-env NOT_SET_HERE: no such variable here"),
        (("--hostfile=HOSTS", "--nproc=3"), "node0 has slots=2, which is less than --nproc 3"),
    ],
)
def test_options_that_do_not_fit_together(
    ascend_launch: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], said: str
):
    """Each with a fix, before any host is asked."""
    (tmp_path / "hosts").write_text("node0 slots=2\nnode1 slots=2\n")
    done = ascend_launch(*(w.replace("HOSTS", str(tmp_path / "hosts")) for w in words), "recipes/tiny-cpu.yaml")

    assert 2 == done.code
    assert said in done.err
    assert "fix: " in done.err


def test_a_dry_run_shows_names_of_variables_and_no_value(ascend_launch: Callable[..., Any], tmp_path: Path):
    """The same options for each host; options from the environment travel with it."""
    (tmp_path / "hosts").write_text("node0 slots=2\nnode1 slots=2\n")
    env = {"HF_TOKEN": "hf_secretsecret", "ASCEND_LAUNCH_DEVICE": "cpu", "WANDB_API_KEY": "tracker"}
    words = ("--max-restarts=2", "--dry-run", "--json", "recipes/tiny-cpu.yaml", "training.seed=1")
    done = ascend_launch(f"--hostfile={tmp_path / 'hosts'}", *words, **env)
    first, second = json.loads(done.out)["hosts"]

    assert "secretsecret" not in done.out
    assert {"HF_TOKEN", "ASCEND_LAUNCH_DEVICE", "WANDB_API_KEY"} <= set(first["variables"])
    assert "WANDB_API_KEY" not in second["variables"]
    assert ["--node-rank", "1"] == second["words"][second["words"].index("--node-rank") :][:2]
    assert ["run", "--max-restarts", "2", "--json"] == first["words"][:4]
    assert ["--", "recipes/tiny-cpu.yaml", "training.seed=1"] == first["words"][-3:]
    assert not (tmp_path / "runs").exists()


class Far:
    """The program as a host runs it, without ssh between."""

    def __init__(self, **env: str) -> None:
        source = Path(far_side.__file__).read_bytes()
        self.process = subprocess.Popen(
            connection.argv(a_host("localhost"), sys.executable, None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **env},
        )
        self.write(b"%d\n%s" % (len(source), source))
        assert far_side.MARK == self.process.stdout.readline()

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        self.write(json.dumps({"do": do, **request}).encode() + b"\n")
        return json.loads(self.process.stdout.readline())

    def prepare(self, folder: Path, **changed: Any) -> dict[str, Any]:
        recipe = folder / "r.yaml"
        recipe.write_text("model: {}\n")
        request = {
            "env": {"PYTHONPATH": str(REPO)},
            "cwd": str(folder),
            "python": sys.executable,
            "setup": None,
            "recipe": "r.yaml",
            "digest": hashlib.sha256(recipe.read_bytes()).hexdigest(),
            "version": __version__,
            "cann": None,
            "run_dir": "runs",
            "token": "t",
        }
        return self.ask("prepare", **{**request, **changed})


@pytest.fixture
def far() -> Iterator[Callable[..., Far]]:
    made: list[Far] = []

    def start(**env: str) -> Far:
        made.append(Far(**env))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def test_a_host_that_has_all_it_needs_says_so(far: Callable[..., Far], awkward_dir: Path):
    """In any folder; and whether it shares the run directory is seen by a file in it."""
    assert {"re": "prepare", "shared": False, "address": None} == far().prepare(awkward_dir)
    (awkward_dir / "runs").mkdir()
    (awkward_dir / "runs" / "t").touch()
    assert far().prepare(awkward_dir)["shared"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cwd": "/no/such/folder"}, "cannot enter /no/such/folder: No such file or directory"),
        ({"recipe": "other.yaml"}, "cannot read other.yaml"),
        ({"digest": "0"}, "is not the recipe that is here"),
        ({"version": "9.9"}, f"has ascend-launch {__version__}, and this machine has 9.9"),
        ({"env": {"PYTHONPATH": ""}}, "there has no ascend-launch: ModuleNotFoundError: No module named 'launcher'"),
        ({"python": "/no/python"}, "/no/python cannot be run: No such file or directory"),
        ({"setup": "/no/setup.sh"}, "has no /no/setup.sh"),
    ],
)
def test_what_a_host_lacks_is_one_sentence_with_a_fix(
    far: Callable[..., Far], tmp_path: Path, changed: dict[str, Any], said: str
):
    """Before anything is started."""
    if "env" in changed:  # a Python that finds no launcher by itself either
        changed = {**changed, "python": "/usr/bin/python3"}
        if not Path("/usr/bin/python3").exists():
            pytest.skip("no other Python here")
    problem = far().prepare(tmp_path, **changed)["problem"]

    assert said in problem["what"]
    assert problem["hint"]


def test_the_setup_file_is_sourced_before_the_launcher_is_looked_for(far: Callable[..., Far], awkward_dir: Path):
    """What it prints is not taken for an answer; what it exports holds, and no argument of ours reaches it."""
    setup = awkward_dir / "set up.sh"
    setup.write_text(
        f'echo "args: $#"; export PYTHONPATH={REPO}:$PYTHONPATH\n[ $# = 0 ] || export PYTHONPATH=/nowhere\n'
    )

    assert "problem" not in far().prepare(awkward_dir, env={"PYTHONPATH": "/nowhere"}, setup=str(setup))


def test_cann_is_set_up_where_nobody_did(far: Callable[..., Far], tmp_path: Path):
    """From the folder that it has on the near side, in a shell whose .bashrc does not."""
    home = tmp_path / "cann" / "latest"
    home.mkdir(parents=True)
    (tmp_path / "cann" / "set_env.sh").write_text(f"export PYTHONPATH={REPO} ASCEND_HOME_PATH={home}\n")
    if {"ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"} & set(os.environ):
        pytest.skip("CANN is set up here")

    assert "problem" not in far().prepare(tmp_path, env={"PYTHONPATH": "/nowhere"}, cann=str(home))


def test_a_port_is_free_and_can_be_reached(far: Callable[..., Far]):
    """Below those of outgoing connections; a port that is asked for and taken is named."""
    one, other = far(), far()
    heard = one.ask("listen", addresses=["127.0.0.1"], port=None)

    assert 20000 <= heard["port"] < 32768
    assert {"re": "reach", "error": None} == other.ask("reach", address="127.0.0.1", port=heard["port"])
    assert "is taken there" in other.ask("listen", addresses=["127.0.0.1"], port=heard["port"])["problem"]["what"]
    one.process.stdin.close()
    one.process.wait(10)
    assert "refused" in other.ask("reach", address="127.0.0.1", port=heard["port"])["error"]


def test_files_come_back_but_for_weights(far: Callable[..., Far], awkward_dir: Path):
    """Checkpoints and models stay; links are not followed."""
    for name in ("metrics.json", "attempt_0/rank_0.log", "checkpoints/c", "model/m", "nodes/n.log"):
        (awkward_dir / name).parent.mkdir(exist_ok=True)
        (awkward_dir / name).write_bytes(b"\0x" * 3)
    (awkward_dir / "link").symlink_to("/etc/passwd")
    one = far()
    one.write(json.dumps({"do": "fetch", "folder": str(awkward_dir), "names": None}).encode() + b"\n")
    found = []
    while "file" in (answer := json.loads(one.process.stdout.readline())):
        assert b"\0x" * 3 == one.process.stdout.read(answer["bytes"])
        found.append(answer["file"])

    assert ["attempt_0/rank_0.log", "metrics.json"] == found
    assert {"re": "fetch", "names": None, "skipped": []} == answer


def test_the_far_side_ends_with_its_input(far: Callable[..., Far]):
    """The life line."""
    one = far()
    one.process.stdin.close()

    assert 0 == one.process.wait(10)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_a_host_cannot_write_outside_the_run_directory(tmp_path: Path, name: str):
    """Names come from another machine."""
    (tmp_path / "run").mkdir()
    node = Node(0, None, None)  # type: ignore[arg-type]
    fleet = Fleet.__new__(Fleet)
    fleet.run_dir, fleet.hosts_share = RunDir(tmp_path / "run"), False
    fleet.keep(node, name, b"evil")

    assert ["run"] == [p.name for p in tmp_path.iterdir()]


def test_all_hosts_that_cannot_be_reached_are_named_with_their_line(tmp_path: Path):
    """By the real ssh, which has nobody to talk to."""
    hosts = parse("no-such-host.invalid slots=1\nssh://127.0.0.1:1 slots=1\n", "hosts.txt")
    planned = Job(
        hosts=hosts,
        words=(),
        recipe=Path("r.yaml"),
        overrides=(),
        digest="",
        nproc=1,
        endpoint=None,
        run_dir=tmp_path,
        cwd=str(tmp_path),
        python=sys.executable,
        setup=None,
        env={},
        first_env={},
        cann=None,
        grace_s=1.0,
    )
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed (apt-get install openssh-client)")
    with pytest.raises(LaunchError) as caught:
        job.run(planned, RunDir(tmp_path), lambda event: None, lambda host, line: None)

    assert "hosts.txt:1: no-such-host.invalid: ssh does not know that name" in caught.value.what
    assert "hosts.txt:2: 127.0.0.1:1: no ssh server listens there" in caught.value.what
