"""The batch script says what was asked, in words that bash and sbatch take as they were meant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.accelerators import detect
from launcher.clusters.slurm import script as sbatch
from launcher.clusters.slurm.script import Allocation, Command
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load

AWKWARD = [
    "plain",
    "with space",
    "quote'\"",
    "$(touch pwned)",
    "`touch pwned`",
    "semi;colon && x",
    "中文",
    "new\nline",
    "-leading",
    "--",
    "",
    "*",
    "~",
    "back\\slash\\",
    "tab\tand\r",
    "#comment",
    "%j",
    "$HOME",
    "!!",
    "a=b c",
    "\x1b[31m",
    "\udcff",
    "\x07" + "1",
]
PRINT_ARGV = "import json, sys; print(json.dumps(sys.argv[1:]))"
JOB = Allocation(job_name="job", output="/out/slurm-%j.out")


def make(path: Path, *, nodes: int = 2, npu: int = 0, grace: float = 60.0) -> plan.Plan:
    where = Nodes(nodes, 0, "first:29400" if nodes > 1 else None)
    cluster = detect.assumed(npu, where) if npu else replace(detect.assumed(1, where), device="cpu", devices=())
    options = plan.Options(nproc=npu or 2, supervision=plan.Supervision(grace_s=grace))
    return decide.make(load.load(path, ["parallel.global_batch_size=16"], {}), cluster, options, {"hidden_size": 64})


def command(*words: str, folder: Path = Path("/")) -> Command:
    python = Path(sys.executable)
    return Command([str(python), "-c", PRINT_ARGV, *words], python, folder)


def run_in_bash(text: str, tmp_path: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the script with an srun that runs the command, and a scontrol that says what it was told."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (tools / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_bytes(text.encode(errors="surrogateescape"))
    base = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "HOME": "/root", **(env or {})}
    return subprocess.run(["bash", str(script)], cwd=tmp_path, env=base, capture_output=True, timeout=60)


@pytest.mark.parametrize("word", AWKWARD, ids=ascii)
def test_every_word_reaches_the_program_as_it_was(recipe: Callable[..., Path], tmp_path: Path, word: str):
    """Through a real bash; and nothing in a word is run."""
    script = sbatch.script(make(recipe()), JOB, command(word, "after"))
    done = run_in_bash(script, tmp_path)

    assert [word, "after"] == json.loads(done.stdout), done.stderr
    assert not list(tmp_path.glob("**/pwned"))


def test_the_job_starts_in_its_folder(recipe: Callable[..., Path], awkward_dir: Path, tmp_path: Path):
    """Whatever the folder is called; and a folder that is gone ends the job before it does something elsewhere."""
    where = replace(command(folder=awkward_dir), argv=["/bin/pwd"])
    done = run_in_bash(sbatch.script(make(recipe()), JOB, where), tmp_path)
    awkward_dir.rmdir()
    gone = run_in_bash(sbatch.script(make(recipe()), JOB, where), tmp_path)

    assert str(awkward_dir) == done.stdout.decode()[:-1]
    assert (2, b"") == (gone.returncode, gone.stdout)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (2, 0, False), (143, 0, True), (138, 3, True), (143, 200, False)],
)
def test_a_job_that_saved_and_stopped_goes_back_to_the_queue(
    recipe: Callable[..., Path], tmp_path: Path, code: int, restarts: int, requeued: bool
):
    """And no other; not without end; and the script's exit code is the program's."""
    ends = Command(["/bin/bash", "-c", f"exit {code}"], tmp_path / "bin" / "python", tmp_path)
    done = run_in_bash(sbatch.script(make(recipe()), JOB, ends), tmp_path, {"SLURM_RESTART_COUNT": str(restarts)})
    never = run_in_bash(sbatch.script(make(recipe()), replace(JOB, requeue=False), ends), tmp_path)

    assert (code, requeued) == (done.returncode, b"scontrol requeue 7" in done.stdout)
    assert (code, b"") == (never.returncode, never.stdout)


def test_the_signal_leaves_the_grace_and_a_margin(recipe: Callable[..., Path]):
    """Slurm may signal a minute early or late."""
    assert "#SBATCH --signal=USR1@90" in sbatch.script(make(recipe(), grace=29.5), JOB, command()).splitlines()


def test_a_time_limit_that_leaves_no_time_to_train_is_refused(recipe: Callable[..., Path]):
    """The job would be signalled as soon as it starts, and go round in the queue."""
    with pytest.raises(LaunchError, match="--time 4: the job would be asked to save 120 s before its end"):
        sbatch.script(make(recipe()), replace(JOB, time="4"), command())
    assert "#SBATCH --time=0:30:00" in sbatch.script(make(recipe()), replace(JOB, time="0:30:00"), command())


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-0:0:5", 86405),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: float | None):
    """Its manual's six forms."""
    assert seconds == sbatch.seconds(limit)


@pytest.mark.parametrize("value", [v for v in AWKWARD if v.isprintable() and v])
def test_values_of_directives_are_quoted_by_sbatchs_own_rules(value: str):
    """Read back by those rules: quotes group, a backslash takes the next letter, # starts a comment."""
    line = sbatch.directive("comment", value)
    out, quoted, letters = "", False, iter(line.removeprefix("#SBATCH --comment="))
    for letter in letters:
        if letter == "\\":
            out += next(letters)
        elif letter == '"':
            quoted = not quoted
        else:
            assert quoted or letter not in " #'"
            out += letter

    assert (value, False) == (out, quoted)


@pytest.mark.parametrize("name", ["job_name", "partition", "output"])
@pytest.mark.parametrize("value", ["two\nlines", "cr\r", "nul\0"], ids=ascii)
def test_what_no_directive_can_hold_is_refused(recipe: Callable[..., Path], name: str, value: str):
    """A line break would end the directive, and start a line of the script."""
    with pytest.raises(LaunchError, match="cannot be said to Slurm") as error:
        sbatch.script(make(recipe()), replace(JOB, **{name: value}), command())
    assert f"--{name.replace('_', '-')}" in error.value.hint


def test_a_backslash_in_the_output_path_is_refused(recipe: Callable[..., Path]):
    """Slurm then fills in no %j, so all jobs would write one file."""
    with pytest.raises(LaunchError, match="backslash"):
        sbatch.script(make(recipe()), replace(JOB, output="/a\\b/%j"), command())


def test_patterns_in_a_path_are_no_patterns():
    """A folder called 100%j is that folder."""
    output = sbatch.literal(Path("/runs/100%j")) + "/slurm-%j.out"

    assert ("/runs/100%%j/slurm-%j.out", "/runs/100%j/slurm-7.out") == (output, sbatch.filled(output, "7"))


def test_cann_is_sourced_for_cards_only(recipe: Callable[..., Path], tmp_path: Path):
    """From where it was said, quoted; a file that is missing ends the job. On CPU there is none."""
    set_env = tmp_path / "set env's.sh"
    set_env.write_text("export FROM_CANN='yes, it was'\n")
    show = Command(["/bin/bash", "-c", 'echo "$FROM_CANN"'], tmp_path / "bin" / "python", tmp_path, cann=str(set_env))
    on_npu = run_in_bash(sbatch.script(make(recipe(), npu=8), JOB, show), tmp_path)
    on_cpu = run_in_bash(sbatch.script(make(recipe()), JOB, show), tmp_path)
    set_env.unlink()
    missing = run_in_bash(sbatch.script(make(recipe(), npu=8), JOB, show), tmp_path)

    assert (b"yes, it was\n", b"\n") == (on_npu.stdout, on_cpu.stdout)
    assert 2 == missing.returncode


def test_no_secret_is_in_the_script(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """The environment travels by Slurm's own way; the script, which others can read, holds none of it."""
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretindeed")

    assert "hf_" not in sbatch.script(make(recipe(), npu=8), JOB, command())


def test_one_task_a_node_and_all_its_cores(recipe: Callable[..., Path]):
    """Whatever was asked for, in the words of sbatch; nothing that was not."""
    asked: dict[str, Any] = {
        "time": "1:00:00",
        "partition": "npu",
        "account": "a",
        "qos": "q",
        "gres": "npu:8",
        "constraint": "c",
        "cpus_per_task": 24,
        "mem": "200G",
        "exclusive": True,
    }
    lines = sbatch.script(make(recipe(), npu=8), replace(JOB, **asked), command()).splitlines()
    given = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}

    assert given == {
        "job-name=job",
        "nodes=2",
        "ntasks-per-node=1",
        "cpus-per-task=24",
        "gres=npu:8",
        "mem=200G",
        "time=1:00:00",
        "partition=npu",
        "account=a",
        "qos=q",
        "constraint=c",
        "output=/out/slurm-%j.out",
        "open-mode=append",
        "signal=USR1@120",
        "exclusive",
        "requeue",
    }
    assert any(
        line.startswith("srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=24 --cpu-bind=none") for line in lines
    )


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("npu:8", 8),
        ("npu", 1),
        ("npu:910b:4", 4),
        ("npu:910b", 1),
        ("gres/npu=4", 4),
        ("gres:npu:2", 2),
        ("gpu:8", None),
        ("", None),
        ("tmp:1,npu:4", 4),
        ("npu:a:2,npu:b:2", 4),
        ("npux:8", None),
    ],
)
def test_cards_are_read_from_a_list_of_generic_resources(gres: str, count: int | None):
    """As --gres takes them, and as `scontrol show job` writes them."""
    assert count == sbatch.cards(gres, "npu")
