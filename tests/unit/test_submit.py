"""submit: what is refused before anything is sent, and what kubectl is given. Slurm's side is tests/cluster/test_slurm.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.clusters import follow, paths
from launcher.clusters.slurm.queue import Queue, SlurmJob, outcome
from launcher.recipe import load
from launcher.rundir.paths import RunDir

TINY = "recipes/tiny-cpu.yaml"
CPU = ["--device=cpu", "--nproc=2"]
PODS = ["--image=registry/train:1", "--mount=results:/results"]

KUBECTL = """#!/bin/bash
# Keeps what it is given; refuses what the test wants refused.
echo "$*" >> "$0.calls"
cat > "$0.stdin"
if [ -f "$0.refuse" ]; then cat "$0.refuse" >&2; exit 1; fi
echo "configmap/tiny-cpu created"
echo "pytorchjob.kubeflow.org/tiny-cpu created"
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Path:
    tool = tmp_path / "tools" / "kubectl"
    tool.parent.mkdir()
    tool.write_text(KUBECTL)
    tool.chmod(0o755)
    return tool


def sidecar(tool: Path, what: str) -> Path:
    return tool.with_name(f"kubectl.{what}")


def test_a_job_is_tried_on_the_server_and_then_created(ascend_launch: Callable[..., Any], kubectl: Path):
    """What is created is what --dry-run shows, byte for byte; and it is tried first, so that nothing is left by half."""
    words = ["submit", "--kubernetes", "--nodes=2", *CPU, *PODS, "--namespace=team", TINY]
    shown = ascend_launch(*words, "--dry-run")
    done = ascend_launch(*words, PATH=f"{kubectl.parent}:/usr/bin:/bin")

    assert (0, 0) == (shown.code, done.code), done.err
    create = "create --namespace team -f -"
    assert [f"{create} --dry-run=server", create] == sidecar(kubectl, "calls").read_text().splitlines()
    assert shown.out == sidecar(kubectl, "stdin").read_text()
    assert "pytorchjob.kubeflow.org/tiny-cpu created" in done.out and "/results/tiny-cpu" in done.out


@pytest.mark.parametrize(
    ("words", "joins"), [([], "86400.0"), (["--join-timeout=600"], None), (["--join-timeout=30"], "30.0")]
)
def test_pods_wait_for_those_that_come_late(ascend_launch: Callable[..., Any], words: list[str], joins: str | None):
    """An image is pulled, a host is full: giving up would end the job for good. What is asked for counts."""
    done = ascend_launch("submit", "--kubernetes", "--nodes=2", *CPU, *PODS, *words, "--dry-run", TINY)
    _, job = yaml.safe_load_all(done.out)
    argv = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["args"]

    assert joins == (argv[argv.index("--join-timeout") + 1] if "--join-timeout" in argv else None)


def test_this_machines_cards_are_not_the_jobs(ascend_launch: Callable[..., Any]):
    """A job goes to other machines; what is visible here says nothing of them."""
    done = ascend_launch(
        "submit", "--slurm", "--dry-run", TINY, "parallel.global_batch_size=16", ASCEND_RT_VISIBLE_DEVICES="0"
    )

    assert "--nproc 8" in done.out, done.err


def test_what_lies_below_a_mount_is_the_pods(ascend_launch: Callable[..., Any]):
    """It is not looked for here. What only this machine has, or the image must have, is named."""
    words = [
        "submit",
        "--kubernetes",
        *CPU,
        *PODS,
        "--mount=models:/models:ro",
        "--mount=data:/data",
        "--dry-run",
        TINY,
    ]
    files = ["data.data_files.train=/data/train.jsonl", "data.data_files.test=/data/test.jsonl"]
    mounted = ascend_launch(*words, *files, "model.name=/models/bert")
    image = ascend_launch(*words, *files, "model.name=/opt/bert")
    here = ascend_launch(*words)

    assert (0, "nothing was submitted or written\n") == (mounted.code, mounted.err)
    assert "model.name /opt/bert is not on this machine, and below no --mount" in image.err
    for key in ("model.name", "data.data_files"):
        assert f"{key} " in here.err and "lies on this machine, and below no --mount" in here.err
    assert (0, 0) == (image.code, here.code)


def test_files_of_this_machine_alone_are_named_for_slurm(recipe: Callable[..., Path], tmp_path: Path):
    """By the kind of file system that the kernel says: a disk of its own is no other node's."""
    model = tmp_path / "shared" / "model"
    model.mkdir(parents=True)
    (tmp_path / "rows.jsonl").touch()
    loaded = load.load(
        recipe(
            model={"name": str(model)}, data={"data_files": {"train": str(tmp_path / "rows.jsonl"), "test": "hf://x/y"}}
        )
    )
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path / 'shared'} nfs4 rw 0 0\n")
    said = paths.on_own_disk(loaded.spec, loaded.path, None, mounts)

    assert ["recipe", "data.data_files"] == [sentence.split()[0] for sentence in said]
    assert all("own disk (ext4)" in sentence for sentence in said)
    assert [] == paths.on_own_disk(loaded.spec, Path("nowhere.yaml"), None, tmp_path / "absent")


def test_the_recipe_travels_resolved_and_with_its_script(
    ascend_launch: Callable[..., Any], recipe: Callable[..., Path], tmp_path: Path
):
    """Overrides are in it; the pods' launcher reads it as the recipe it is."""
    (tmp_path / "mine's.py").write_text("print('hello')\n")
    path = recipe(script="mine's.py")
    shown = ascend_launch("submit", "--volcano", *CPU, *PODS, "--dry-run", path, "training.learning_rate=0.5")
    config, job = yaml.safe_load_all(shown.out)
    pod = job["spec"]["tasks"][0]["template"]["spec"]
    (volume,) = (v["configMap"] for v in pod["volumes"] if "configMap" in v)
    unpacked = tmp_path / "pod"
    unpacked.mkdir()
    for item in volume["items"]:
        (unpacked / item["path"]).write_text(config["data"][item["key"]])
    words = pod["containers"][0]["args"]
    again = ascend_launch("render", "--json", "--device=cpu", unpacked / Path(words[-1]).name)

    assert 0 == again.code, again.err
    resolved = json.loads(again.out)["plan"]["recipe"]
    assert (0.5, "mine's.py") == (resolved["training"]["learning_rate"], resolved["script"])
    assert "print('hello')\n" == (unpacked / "mine's.py").read_text()
    assert ["run", "--nproc", "2", "--device", "cpu", "--run-dir", "/results/mine"] == words[:7]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ('error: no matches for kind "PyTorchJob" in version "kubeflow.org/v1"', "lacks that operator"),
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            "does not reach the cluster",
        ),
        ('Error from server (AlreadyExists): pytorchjobs.kubeflow.org "tiny-cpu" already exists', "another --job-name"),
        ('Error from server (Forbidden): pods is forbidden: User "x" cannot create', "your account may not do that"),
        ('Error from server (NotFound): namespaces "team" not found', "--namespace"),
    ],
)
def test_what_kubectl_refuses_is_one_sentence_and_a_hint(
    ascend_launch: Callable[..., Any], kubectl: Path, said: str, hint: str
):
    sidecar(kubectl, "refuse").write_text(said + "\n")
    done = ascend_launch("submit", "--kubernetes", *CPU, *PODS, TINY, PATH=f"{kubectl.parent}:/usr/bin:/bin")

    assert 2 == done.code
    assert said.split(": ")[-1] in done.err and hint in done.err
    assert 1 == len(sidecar(kubectl, "calls").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([TINY], "say --slurm, --kubernetes or --volcano"),
        (["--slurm", "--kubernetes", TINY], "--slurm and --kubernetes: a job goes to one of them"),
        (["--kubernetes", "--mount=c:/r", TINY], "need --image"),
        (
            ["--slurm", "--device=npu", "--nproc=4", "--npus=2", TINY],
            "--npus 2 gives each node 2 cards, and --nproc 4 starts 4",
        ),
        (
            ["--slurm", "--device=npu", "--nproc=4", "--gres=npu:910b:1", TINY],
            "--gres npu:910b:1 gives each node 1 card,",
        ),
        (["--slurm", "--npus=8", "--gres=npu:8", TINY], "both say how many cards"),
        (["--slurm", "--follow", "--dry-run", TINY], "--follow: --dry-run submits nothing to follow"),
        (["--slurm", "--cann=set_env.sh", "--dry-run", TINY], "--cann 'set_env.sh' is not an absolute path"),
        (["--slurm", "--cann=/usr", "--dry-run", TINY], "--cann /usr: a folder"),
        (["--volcano", "--image=Train:1", "--mount=c:/r", "--dry-run", TINY], "small letters: train:1"),
        (["--volcano", *PODS, "--memory=200GB", "--dry-run", TINY], "--memory '200GB'"),
        (["--kubernetes", "--image=x", TINY], "no place for the run that outlives its pods"),
        (["--kubernetes", *PODS, "--run-dir=/tmp/x", TINY], "on no writable mount"),
        (["--kubernetes", *PODS, "--run-dir=/results/../tmp/x", TINY], "on no writable mount"),
        (["--kubernetes", *PODS, "--time=60", "--follow", TINY], "--time, --follow: only for --slurm"),
        (["--slurm", *PODS, TINY], "--image, --mount: only for --kubernetes and --volcano"),
        (["--volcano", *PODS, "--env=X", TINY], "not NAME=VALUE"),
        (["--volcano", *PODS, "--env=HF_TOKEN=hf_x", TINY], "must not stand in a manifest"),
        (["--volcano", *PODS, "--secret=HF_TOKEN=hub", TINY], "is given as 'hub', without a key of it"),
        (["--volcano", *PODS, TINY, "training.lerning_rate=1"], "no such TrainingArguments field"),
        (["--slurm", TINY, "parallel.strategy=zero9"], "zero9"),
        (["--slurm", TINY], "sbatch is not on PATH"),
        (["--volcano", *PODS, TINY], "kubectl is not on PATH"),
    ],
)
def test_mistakes_are_said_before_anything_is_sent(
    ascend_launch: Callable[..., Any], tmp_path: Path, words: list[str], said: str
):
    done = ascend_launch("submit", *CPU, *words, f"output_dir={tmp_path / 'out'}", PATH=str(tmp_path))

    assert (2, True) == (done.code, said in done.err), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("state", "code", "left", "expected"),
    [
        ("COMPLETED", 0, {"metrics.json": "{}"}, 0),
        ("FAILED", 1, {"failure.json": '{"what": "rank 2"}'}, 1),
        ("FAILED", 2, {}, 2),
        ("FAILED", 127, {}, 1),
        ("FAILED", 143, {}, 143),
        ("CANCELLED", 0, {"failure.json": '{"what": "of an earlier attempt"}'}, 143),
        ("TIMEOUT", 0, {}, 1),
        ("NODE_FAIL", 1, {"metrics.json": "{}"}, 1),
        ("OUT_OF_MEMORY", 137, {}, 1),
        ("", 0, {"metrics.json": '{"final": {}}'}, 0),
        ("", 0, {}, 1),
    ],
)
def test_a_followed_job_ends_as_slurm_says(tmp_path: Path, state: str, code: int, left: dict[str, str], expected: int):
    """And where Slurm has forgotten it, as its run directory says."""
    for name, text in left.items():
        (tmp_path / name).write_text(text)
    found = outcome(SlurmJob("7", state, exit_code=code), RunDir(tmp_path), tmp_path / "slurm-7.out")

    assert expected == found.exit_code
    assert (found.failure is not None) == (expected in (1, 2))


SQUEUE = """#!/bin/bash
# The next line of what Slurm says; the last again and again.
line=$(head -n 1 "$0.says")
[ "$(wc -l < "$0.says")" -gt 1 ] && sed -i 1d "$0.says"
case $line in
    *\\|*) echo "$line" ;;
    *) echo "slurm_load_jobs error: $line" >&2; exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("says", "states", "expected"),
    [
        (
            ["Unable to contact slurm controller (connect failure)", "RUNNING|None|0|0|n1|", "COMPLETED|None|0|0|n1|"],
            ["RUNNING", "COMPLETED"],
            0,
        ),
        (
            [
                "RUNNING|None|0|0|n1|",
                "NODE_FAIL|None|0|0|n1|",
                "PENDING|BeginTime|0|1||",
                "RUNNING|None|0|1|n2|",
                "COMPLETED|None|0|1|n2|",
            ],
            ["RUNNING", "NODE_FAIL", "PENDING", "RUNNING", "COMPLETED"],
            0,
        ),
        (["RUNNING|None|0|0|n1|", "NODE_FAIL|None|256|0|n1|"], ["RUNNING", "NODE_FAIL"], 1),
        (["RUNNING|None|0|0|n1|", "Invalid job id specified"], ["RUNNING"], 1),
        (["RUNNING|None|0|0|n1|", "FAILED|NonZeroExitCode|512|0|n1|"], ["RUNNING", "FAILED"], 2),
        (["CANCELLED|None|15|0|n1|"], ["CANCELLED"], 143),
    ],
    ids=[
        "unreachable at first",
        "requeued after a node failed",
        "a node failed",
        "forgotten",
        "exit code",
        "cancelled",
    ],
)
def test_a_job_is_followed_to_its_last_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: list[str], states: list[str], expected: int
):
    """Through what looks like an end and is none, and through a controller that does not answer."""
    for name, value in (("ASK_EVERY_S", 0.05), ("POLL_S", 0.01), ("UNKNOWN_S", 0.3), ("LAG_S", 0.0)):
        monkeypatch.setattr(follow, name, value)
    tool = tmp_path / "squeue"
    tool.write_text(SQUEUE)
    tool.chmod(0o755)
    (tmp_path / "squeue.says").write_text("\n".join(says) + "\n")
    seen: list[str] = []
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    found = follow.follow(
        Queue(), "7", RunDir(tmp_path / "run"), tmp_path / "out", env, lambda e: None, lambda j: seen.append(j.state)
    )

    assert (states, expected) == (seen, found.exit_code)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with a program and a script of the user's, from where they are submitted."""
    (tmp_path / "train.py").write_text("print(1)\n")
    (tmp_path / "train.sh").write_text("torchrun train.py\n")
    (tmp_path / "mine").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "ran"),
    [
        (
            ["--grace=30", "-t", "3", "train.py", "--lr", "1e-4", "--nodes", "7"],
            "program --nproc 2 --device cpu --grace 30.0 --tee 3 train.py --lr 1e-4 --nodes 7",
        ),
        (["-m", "mine.trainer", "-m"], "program --nproc 2 --device cpu --module mine.trainer -m"),
        (["--no_python", "./train.sh"], "program --nproc 2 --device cpu --no-python ./train.sh"),
        (
            ["--run-dir=/r", "--", "bash", "train.sh", "--", "x"],
            "command --nproc 2 --device cpu --run-dir /r -- bash train.sh -- x",
        ),
        (
            ["torchrun", "--nnodes=2", "--nproc_per_node", "4", "train.py", "a b"],
            "program --nproc 4 --device cpu train.py 'a b'",
        ),
    ],
)
def test_a_batch_script_runs_a_program_or_a_command_on_every_node(
    ascend_launch: Callable[..., Any], code: Path, words: list[str], ran: str
):
    """In the words of a local launch, from this folder; this shell's PET_ variables are not the job's."""
    done = ascend_launch(
        "submit", "--slurm", "--dry-run", "--nodes=2", *CPU, *words, PET_NPROC_PER_NODE="9", PET_TEE="1", cwd=code
    )

    assert 0 == done.code, done.err
    assert f" -m launcher.cli {ran}\n" in done.out
    assert "#SBATCH --nodes=2\n" in done.out and f"cd -- {code} " in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "ran"),
    [
        (["/code/train.py", "$HOME"], ["program", "/code/train.py", "$$HOME"]),
        (["--workdir=/code", "train.py"], ["program", "train.py"]),
        (["/opt/app/main.py"], ["program", "/opt/app/main.py"]),
        (["-m", "torch_thing.train"], ["program", "--module", "torch_thing.train"]),
        (["--no-python", "/bin/echo"], ["program", "--no-python", "/bin/echo"]),
        (
            ["--", "llamafactory-cli", "train", "/code/x.yaml"],
            ["command", "--", "llamafactory-cli", "train", "/code/x.yaml"],
        ),
    ],
)
def test_pods_run_what_a_mount_or_their_image_holds(
    ascend_launch: Callable[..., Any], code: Path, words: list[str], ran: list[str]
):
    """There is no recipe, and so no ConfigMap."""
    pods = ["submit", "--kubernetes", "--dry-run", *CPU, "--mount=code:/code:ro", *PODS]
    done = ascend_launch(*pods, *words, cwd=code)

    assert 0 == done.code, done.err
    (job,) = yaml.safe_load_all(done.out)
    pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    argv = pod["containers"][0]["args"]
    run_dir = argv.index("--run-dir")
    assert ran == [argv[0], *argv[run_dir + 2 :]]
    assert ["--nproc", "2", "--device", "cpu"] == argv[1:run_dir]
    assert not [volume for volume in pod["volumes"] if "configMap" in volume]


TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--kubernetes", *PODS, "train.py"], "train.py: a file of this machine", "--mount CLAIM:/code"),
        (["--kubernetes", *PODS, "-m", "mine.trainer"], "mine: a file of this machine", "--mount CLAIM:/code"),
        (["--volcano", *PODS, "--no-python", "./train.sh"], "./train.sh: a file of this machine", "--mount"),
        (["--volcano", *PODS, "--", "bash", "train.sh"], "train.sh: a file of this machine", "--workdir DIR"),
        (
            ["--kubernetes", *PODS, "--accelerate-config=train.sh", "/x/t.py"],
            "train.sh: a file of this machine",
            "--mount",
        ),
        (
            ["--kubernetes", *PODS, "/x/train.py", "--hub_token", TOKEN],
            "--hub_token: a secret's value must not",
            "--secret NAME=",
        ),
        (
            ["--slurm", "--", "wandb", "login", TOKEN],
            "an argument: a secret's value must not",
            "export it as a variable",
        ),
        (["--slurm", "train.py", f"--token={TOKEN}"], "--token: a secret's value must not", "export it as a variable"),
        (["--slurm", "-t", "3", "--", "bash", "train.sh"], "--tee: only for a program", "own torchrun"),
        (["--slurm", "--tee", "7", "train.py"], "--tee 7: is none of torchrun's values", "--tee 1"),
        (["--slurm", "--numa-binding", "node", "train.py"], "--numa-binding is not supported", "numactl"),
        (["--slurm", "absent.py"], "absent.py: no such file", "name a program"),
        (["train.py", "--slurm"], "submit needs to know where to", "say --slurm"),
        (["--slurm", "--image=x", "train.py"], "--image: only for --kubernetes", "leave it out"),
    ],
)
def test_a_program_that_cannot_start_there_is_not_sent(
    ascend_launch: Callable[..., Any], code: Path, words: list[str], said: str, hint: str
):
    done = ascend_launch("submit", "--dry-run", *CPU, *words, cwd=code)

    assert (2, True, True) == (done.code, said in done.err, hint in done.err), done.err
    assert TOKEN not in done.out + done.err
