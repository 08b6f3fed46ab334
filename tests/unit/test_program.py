"""A user's own program: which words are its, which libraries may be imported beforehand, what its plan says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from launcher import cli
from launcher.accelerators import detect
from launcher.cli import command, command_line, program, program_options, screen, torchrun
from launcher.errors import EXIT_USER, LaunchError
from launcher.jobs import accelerated
from launcher.planning import plan
from launcher.planning.notes import lone_notes
from launcher.recipe.program import Program, check
from launcher.show import program as show
from launcher.worker.agent import preload
from launcher.worker.runtime import failure

REPO = Path(__file__).resolve().parent.parent.parent
PARAMETERS = program.program_command.params


@pytest.fixture(autouse=True)
def no_default_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `accelerate config` would have written; nothing lies there."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    return tmp_path / "huggingface" / "accelerate" / "default_config.yaml"


def commanded(*words: str) -> list[str]:
    return command_line.with_command(list(words), PARAMETERS)


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["train.py", "--lr", "1"], 0),
        (["--nproc", "2", "train.py", "--nproc", "4"], 2),
        (["--nproc_per_node=2", "train.py"], 1),
        (["--nproc-per-node", "2", "--standalone", "train.py"], 3),
        (["-m", "pkg.mod", "-m", "x"], 1),
        (["-t3", "train.py"], 1),
        (["-t", "3", "train.py"], 2),
        (["--no_python", "./run.sh", "--fast"], 1),
        (["--no-such", "train.py"], None),
        (["--nproc", "2"], None),
    ],
)
def test_the_first_word_that_is_no_option_ends_ours(words: list[str], first: int | None):
    """What follows belongs to the program, whatever it is called."""
    assert first == command_line.first_word(words, PARAMETERS)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train.py"], "program"),
        (["-m", "package.module"], "program"),
        (["--no-python", "hostname"], "program"),
        (["recipes/tiny-cpu.yaml"], "run"),
        (["--nproc", "2", "mine.yml", "a=b"], "run"),
        (["yelp"], "run"),
        (["--no-such-option", "train.py"], "program"),
        (["--no-such-option", "mine.yaml"], "run"),
        (["--no-such-option", "-m", "package.module"], "program"),
        (["--nproc_per_node", "2", "train"], "program"),
        (["--nproc-per-node=2", "yelp.yaml"], "run"),
        (["-m"], "program"),
    ],
)
def test_a_program_is_told_from_a_recipe_by_its_ending_or_an_option(words: list[str], command: str):
    """A shipped recipe's name has no ending, and a program has one, a path, or an option that says so."""
    assert [command, *words] == commanded(*words)


def test_a_file_of_a_commands_name_is_meant_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`report` is the command; `./report` is the file."""
    (tmp_path / "report").write_text("print(1)")
    monkeypatch.chdir(tmp_path)

    assert ["program", "./report"] == commanded("./report")
    assert ["run", "report"] == commanded("report")  # which the group never asks, since it is a command's name


@pytest.mark.parametrize(
    ("pasted", "ours"),
    [
        ("torchrun --nproc_per_node 8 --standalone train.py --lr 1", "--nproc_per_node 8 --standalone train.py --lr 1"),
        ("python -m torch.distributed.run --nproc-per-node=4 -m pkg.mod x", "--nproc-per-node=4 -m pkg.mod x"),
        (
            "python3 -m torch.distributed.launch --use_env --nproc_per_node=2 t.py",
            "--local-rank-option --use_env --nproc_per_node=2 t.py",
        ),
        ("python -u train.py --lr 1", "train.py --lr 1"),
        ("python -m pkg.mod", "-m pkg.mod"),
        ("python3.11 t.py", "t.py"),
        (f"{sys.executable} -m torch.distributed.run t.py", "t.py"),
        (
            "accelerate launch --num_processes 8 --num_machines 2 --machine_rank 1 --main_process_ip a --main_process_port 1 t.py x",
            "--nproc 4 --nnodes 2 --node-rank 1 --master-addr a --master-port 1 t.py x",
        ),
        ("accelerate launch --multi_gpu --num-processes=2 -m a.b", "--nproc 2 -m a.b"),
        (
            "accelerate launch --config_file c.yaml --mixed_precision=bf16 t.py --debug",
            "--accelerate-config c.yaml --precision bf16 t.py --debug",
        ),
        ("accelerate launch --mixed_precision no --same_network t.py", "--precision fp32 t.py"),
        (
            "accelerate launch --use_deepspeed --num_processes 2 --zero_stage 3 --offload_param_device=cpu t.py x",
            "--nproc 2 --accelerate-args '--use_deepspeed --zero_stage 3 --offload_param_device=cpu' t.py x",
        ),
        (
            "accelerate launch --use_fsdp --fsdp_version 2 --multi_gpu t.py",
            "--accelerate-args '--use_fsdp --fsdp_version 2 --multi_gpu' t.py",
        ),
        (
            "deepspeed --num_gpus 8 --master_port 5 train.py --deepspeed c.json",
            "--local-rank-option --nproc 8 --master-port 5 train.py --deepspeed c.json",
        ),
    ],
)
def test_another_launchers_line_is_said_in_our_words(pasted: str, ours: str, capsys: pytest.CaptureFixture[str]):
    """And shown, so that it can be learnt."""
    assert ["program", *shlex.split(ours)] == commanded(*pasted.split())
    assert f"ascend-launch {ours}\n" == capsys.readouterr().err


def test_a_launcher_of_another_python_is_refused(tmp_path: Path):
    """Its ranks would miss its packages; a file of such a name that nobody can start is a program like any other."""
    other = tmp_path / "torchrun"
    other.write_text("#!/bin/sh\n")
    assert ["program", str(other)] == commanded(str(other))

    other.chmod(0o755)
    with pytest.raises(LaunchError, match="belongs to another Python") as refused:
        commanded(str(other), "train.py")
    assert "ascend-launch --" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("text", "is_python"),
    [
        (b"print(1)", True),
        (b"#!/usr/bin/env python3\nno python, but said to be\n", True),
        (b'#!/bin/sh\n""":"\nexec python $0\n"""\nprint(1)\n', True),
        (b"#!/bin/bash\necho $RANK\n", False),
        (b"\x7fELF\x02\x01\x01\x00", False),
    ],
)
def test_a_file_for_another_interpreter_is_no_python_program(tmp_path: Path, text: bytes, is_python: bool):
    """It is said before anything starts; what both can read is left to Python."""
    path = tmp_path / "work"
    path.write_bytes(text)
    program_of_user = Program(kind="script", target=str(path))

    if is_python:
        assert check(program_of_user) is None
    else:
        with pytest.raises(LaunchError, match="no Python program"):
            check(program_of_user)


def test_every_option_of_torchruns_has_its_variable():
    """PET_ and its name; --help has none, and what is local to us needs none."""
    run = pytest.importorskip("torch.distributed.run")
    variables = {}
    for param in PARAMETERS:
        named = [param.envvar] if isinstance(param.envvar, str) else param.envvar or []
        variables |= {option: {name for name in named if name.startswith("PET_")} for option in param.opts}
    theirs = [
        action
        for action in run.get_args_parser()._actions
        if action.option_strings and action.dest not in ("help", *program_options.NOT_TAKEN)
    ]

    assert {a.dest: {f"PET_{a.dest.upper()}"} for a in theirs} == {
        a.dest: variables[next(o for o in a.option_strings if o.startswith("--"))] for a in theirs
    }


@pytest.mark.parametrize("name", ["PET_MODULE", "PET_NO_PYTHON"])
def test_a_variable_may_say_that_a_word_is_a_program(name: str, monkeypatch: pytest.MonkeyPatch):
    """As the option would."""
    monkeypatch.setenv(name, "1")

    assert ["program", "pkg.mod"] == commanded("pkg.mod")


@pytest.mark.parametrize(
    ("given", "nodes"),
    [
        ({"standalone": True}, 1),
        ({"rdzv_endpoint": "localhost:0"}, 1),
        ({"rdzv_endpoint": "localhost:0", "nnodes": 1}, 1),
    ],
)
def test_torchruns_words_for_one_node_are_understood(given: dict[str, object], nodes: int):
    """Its examples name port 0 for any free one."""
    names = dict.fromkeys(("nproc", "standalone", "nnodes", "node_rank", "master_addr", "rdzv_endpoint", "rdzv_conf"))
    machine = torchrun.machine_of({**names, "device": "cpu", **given})

    assert (nodes, None) == (machine.nnodes, machine.rdzv_endpoint)


def test_an_exception_that_cannot_say_what_it_is_is_named_all_the_same():
    """As Python's own traceback does it."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert "MuteError: <exception str() failed>" == failure.describe(MuteError(), 0).what


def test_standalone_on_two_nodes_is_refused():
    """torchrun would wait for a second node that cannot come."""
    with pytest.raises(LaunchError, match="--standalone"):
        torchrun.machine_of({"nproc": 1, "device": "cpu", "standalone": True, "nnodes": 2, "rdzv_endpoint": None})


def test_a_line_without_a_config_takes_the_one_that_accelerate_would_find(no_default_config: Path):
    """`accelerate config` writes it, and every `accelerate launch` reads it, unless it is for the CPU."""
    no_default_config.parent.mkdir(parents=True)
    no_default_config.write_text("distributed_type: MULTI_NPU\n")

    taken = ["--accelerate-config", str(no_default_config)]
    assert ["program", *taken, "t.py"] == commanded("accelerate", "launch", "t.py")
    assert ["program", "--device", "cpu", "t.py"] == commanded("accelerate", "launch", "--cpu", "t.py")
    assert ["program", "--accelerate-config", "c.yaml", "t.py"] == commanded(
        "accelerate", "launch", "--config-file", "c.yaml", "t.py"
    )


def asked(**given: object) -> tuple[object, dict[str, object]]:
    names = (
        "accelerate_config",
        "strategy",
        "precision",
        "accelerate_args",
        "nproc",
        "nnodes",
        "node_rank",
        "master_addr",
        "master_port",
        "rdzv_endpoint",
    )
    values: dict[str, object] = {**dict.fromkeys(names), "device": "auto", **given}
    return program.accelerate_of(values), values


def test_without_an_option_nothing_of_accelerates_is_set():
    assert None is asked()[0]


def test_a_config_file_says_ranks_and_machines_where_no_option_does(tmp_path: Path):
    """accelerate counts the processes of all machines."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "distributed_type: MULTI_NPU\nnum_processes: 16\nnum_machines: 2\nmachine_rank: 1\n"
        "main_process_ip: a\nmain_process_port: 5\nuse_cpu: true\n"
    )
    made, given = asked(accelerate_config=path, precision="fp32")

    assert ("--config_file", str(path), "--mixed_precision", "no") == made.words
    assert (8, 2, 1, "a", 5, "cpu") == tuple(
        given[n] for n in ("nproc", "nnodes", "node_rank", "master_addr", "master_port", "device")
    )
    _, told = asked(accelerate_config=path, nproc=4, nnodes=1, device="npu")
    assert (4, 1, None, "npu") == tuple(told[n] for n in ("nproc", "nnodes", "node_rank", "device"))


@pytest.mark.parametrize(
    ("device", "strategy", "is_said"),
    [("cpu", "zero2", True), ("cpu", "ddp", False), ("cpu", None, False), ("npu", "zero2", False)],
)
def test_ranks_that_accelerate_would_leave_alone_are_spoken_of(device: str, strategy: str | None, is_said: bool):
    """Seen with accelerate 1.15: under zero2 on CPU each of two ranks had num_processes 1."""
    cluster = detect.assumed(2, detect.ONE_NODE) if device == "npu" else detect.here("cpu", {})
    notes = lone_notes(cluster, plan.Options(strategy=strategy))

    assert is_said == any("trains alone" in note for note in notes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "zero2", "accelerate_config": Path("c.yaml")}, "--accelerate-config and --strategy"),
        ({"strategy": "zero2", "accelerate_args": "--use_fsdp"}, "--strategy and --accelerate-args"),
        ({"accelerate_args": "--a 'b"}, "No closing quotation"),
        ({"accelerate_args": "--aws_access_key_id x"}, "SageMaker"),
        ({"accelerate_config": Path("no.yaml")}, "no.yaml: no such file"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, object], said: str):
    with pytest.raises(LaunchError, match=said):
        asked(**given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n", "no distributed_type"),
        ("- a\n", "no accelerate config"),
        ("distributed_type: MULTI_NPU\ngpu_ids: 0,1\n", "gpu_ids: 0,1"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "c.yaml").write_text(text)

    with pytest.raises(LaunchError, match=f"c.yaml: .*{said}"):
        accelerated.config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "pasted",
    [
        "accelerate config",
        "accelerate launch --use_megatron_lm t.py",
        "accelerate launch --gpu_ids 0,1 t.py",
        "accelerate launch --aws_secret_access_key x t.py",
        "deepspeed --hostfile h t.py",
        "python -O t.py",
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(pasted: str):
    """Rather than run without it."""
    with pytest.raises(LaunchError) as caught:
        commanded(*pasted.split())

    assert any(word in caught.value.what for word in pasted.split()[1:])


def test_secrets_among_the_arguments_stay_out_of_files():
    """A token is an argument's value by its name, or by its look."""
    given = ("--hub_token", "abc", "--hub_token=abc", "--lr", "1", "hf_abcdefgh12", "--x", "https://u:p@h/y")
    shown = program.without_secrets(given)

    assert ("--hub_token", "<hidden>", "--hub_token=<hidden>", "--lr", "1", "<hidden>", "--x") == shown[:-1]
    assert "p@h" not in shown[-1]


def read(tmp_path: Path, text: str, **others: str) -> preload.Preload:
    (tmp_path / "train.py").write_text(text)
    for name, body in others.items():
        (tmp_path / f"{name}.py").write_text(body)
    return preload.of(Program(kind="script", target="train.py"), tmp_path)


def test_imports_at_the_top_may_come_beforehand(tmp_path: Path):
    """In their order, those of the `__main__` block and of a `try` too; what only types need is passed over."""
    found = read(
        tmp_path,
        '"""A program."""\nfrom __future__ import annotations\nimport logging, os\nimport torch\n'
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import peft\nexcept ImportError:\n    peft = None\nlogger = logging.getLogger(__name__)\nA = 3\n"
        "def main():\n    import scipy\nif __name__ == '__main__':\n    from transformers import Trainer\n    main()\n    import trl\n",
    )

    assert ["torch", "peft", "transformers"] == found.modules
    assert {"torch": [], "peft": [], "transformers": ["Trainer"]} == found.names
    assert "train.py:18" in found.reason


def test_the_names_that_a_program_imports_are_loaded_with_their_library(tmp_path: Path):
    """A lazy library loads nothing by itself: each rank would load it again. In a process of its own, which imports."""
    (tmp_path / "train.py").write_text("from tqdm import contrib, tqdm\nfrom tqdm import *\nimport yaml\n")
    code = (
        "import sys, types\nfrom launcher.recipe.program import Program\nfrom launcher.worker import program\n"
        "sys.modules['torch'] = types.ModuleType('torch')\nsys.modules['torch'].__spec__ = sys.__spec__\n"
        "plan = types.SimpleNamespace(program=Program(kind='script', target='train.py'),\n"
        "                             accelerator=types.SimpleNamespace(torch_extension=None),\n"
        "                             supervision=types.SimpleNamespace(preload=True))\n"
        "print(*program.preload(plan), 'tqdm.contrib' in sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )

    assert "['tqdm', 'yaml', 'torch']  True\n" == ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("line", "with_torch"),
    [
        ('os.environ["HF_ENDPOINT"] = "https://mirror.invalid"', True),
        ('os.environ.setdefault("HF_HOME", "/x")', True),
        ('os.environ["ASCEND_RT_VISIBLE_DEVICES"] = "0"', False),
        ("os.environ.update(settings())", False),
        ("setup()", True),
        ("for key in KEYS: os.environ[key] = '1'", False),
    ],
)
def test_nothing_comes_beforehand_after_code_that_may_set_a_variable(tmp_path: Path, line: str, with_torch: bool):
    """torch alone does, unless the variable is one that torch itself reads when it is imported."""
    found = read(tmp_path, f"import os\n{line}\nimport torch, transformers\n")

    assert [] == found.modules
    assert with_torch == found.may_import_torch
    assert "train.py:2" in found.reason


def test_a_module_of_the_programs_own_is_read_before_what_follows_it(tmp_path: Path):
    """It runs first; one of a library's name is the program's own."""
    quiet = read(tmp_path, "import helper\nimport torch\n", helper="import numpy\nVALUE = 1\n")
    assert ["numpy", "torch"] == quiet.modules

    sets = read(tmp_path, "import helper\nimport torch\n", helper="import os\nos.environ['HF_HOME'] = 'x'\n")
    assert ([], "helper.py:2 sets HF_HOME") == (sets.modules, sets.reason)

    assert [] == read(tmp_path, "import datasets\n", datasets="ROWS = []\n").modules
    assert "train.py" in read(tmp_path, "def broken(:\n").reason


@pytest.mark.parametrize("kind", ["script", "module"])
def test_a_program_within_an_installed_package_is_read_together_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """LLaMA-Factory's torchrun runs a file of its package, which imports the package by its name."""
    package = tmp_path / "site-packages" / "factory"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .env import VERSION\n")
    (package / "env.py").write_text("VERSION = 1\ndef set_up():\n    os.environ['LATER'] = '1'\n")
    (package / "tune.py").write_text(
        "import torch, transformers\nfrom .env import VERSION\nrun(VERSION)\nimport peft\n"
    )
    (package / "start.py").write_text("if __name__ == '__main__':\n    from factory.tune import run\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    target = str(package / "start.py") if kind == "script" else "factory.start"

    found = preload.of(Program(kind=kind, target=target), tmp_path)

    assert ["torch", "transformers"] == found.modules
    assert "tune.py:3 runs code before what it imports next" == found.reason


@pytest.mark.parametrize(("target", "file"), [("factory.start", "start.py"), ("factory", "__main__.py")])
def test_the_package_of_a_module_is_read_before_it(tmp_path: Path, target: str, file: str):
    """`-m factory.start` runs factory/__init__.py first."""
    (tmp_path / "factory").mkdir()
    (tmp_path / "factory" / "__init__.py").write_text(
        "import os\nos.environ['HF_ENDPOINT'] = 'https://mirror.invalid'\n"
    )
    (tmp_path / "factory" / file).write_text("import transformers\n")

    found = preload.of(Program(kind="module", target=target), tmp_path)

    assert ([], "__init__.py:2 sets HF_ENDPOINT") == (found.modules, found.reason)


OUT, ERR = show.STDOUT, show.STDERR


@pytest.mark.parametrize(
    ("asked", "separate", "shown"),
    [
        (screen.Streams(), (), {(4, show.BOTH, False)}),
        (screen.Streams(local_ranks_filter="0,1"), (), {(4, show.BOTH, True), (5, show.BOTH, True)}),
        (screen.Streams(tee="3"), (0, 1), {(r, s, True) for r in (4, 5) for s in (OUT, ERR)}),
        (screen.Streams(tee="1"), (0, 1), {(r, s, s == OUT) for r in (4, 5) for s in (OUT, ERR)}),
        (screen.Streams(redirects="3"), (0, 1), set()),
        (screen.Streams(redirects="2"), (0, 1), {(4, OUT, False), (5, OUT, False)}),
        (screen.Streams(redirects="1", tee="2"), (0, 1), {(4, ERR, True), (5, ERR, True)}),
        (screen.Streams(tee="0:1,1:3"), (0, 1), {(4, OUT, True), (4, ERR, False), (5, OUT, True), (5, ERR, True)}),
        (screen.Streams(tee="1:3"), (1,), {(5, OUT, True), (5, ERR, True)}),
        (screen.Streams(redirects="0:0,1:1"), (1,), {(4, show.BOTH, False), (5, ERR, False)}),
        (screen.Streams(tee="3", local_ranks_filter="1"), (0, 1), {(5, OUT, True), (5, ERR, True)}),
    ],
)
def test_streams_are_kept_and_shown_as_torchrun_does(asked: screen.Streams, separate: tuple, shown: set):
    """Of the ranks that the options name; the others' output is in one log, and the first one's is shown."""
    asked.check()

    assert separate == asked.separate(2)
    assert shown == {(s.rank, s.stream, s.prefixed) for s in asked.shown(2, 4)}


@pytest.mark.parametrize("value", ["0", "1", "3", "4", "-1", "", "0:1", "0:1,1:3", "0:4", "0:1,", "3,0:1", "out"])
def test_torchs_own_reading_decides_what_a_value_is(value: str):
    """Checked against the installed torch, and so are the streams of each rank."""
    multiprocessing = pytest.importorskip("torch.distributed.elastic.multiprocessing.api")
    try:
        theirs = multiprocessing.to_map(multiprocessing.Std.from_str(value), 2)
    except ValueError:
        with pytest.raises(LaunchError, match=r"--tee .*torchrun's values"):
            screen.Streams(tee=value).check()
        return

    asked = screen.Streams(redirects=value)
    asked.check()
    named = {rank: std for rank, std in theirs.items() if std}
    assert tuple(named) == asked.separate(2)
    kept_off = {(rank, stream) for rank, std in named.items() for stream in (OUT, ERR) if std & stream}
    assert not kept_off & {(s.rank, s.stream) for s in asked.shown(2, 0)}


def test_a_command_of_several_nodes_finds_which_it_is_on():
    """By the options, else by its environment, else by its cluster; one node says nothing."""
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NODEID": "1",
        "SLURM_STEP_NODELIST": "n[0-1]",
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SLURM_NNODES": "2",
        "SLURM_PROCID": "1",
        "SLURM_NTASKS": "2",
    }
    found = command._job(slurm, None, None, None)
    kept = command._job({**slurm, "MASTER_PORT": "5"}, None, None, None)

    assert ("2", "1", "n0") == (found["NNODES"], found["NODE_RANK"], found["MASTER_ADDR"])
    assert {"NNODES", "NODE_RANK", "MASTER_ADDR"} == set(kept)
    said = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "9"}
    assert said == command._job(slurm, 3, 2, "h:9")
    assert {} == command._job({}, None, None, None)
    with pytest.raises(LaunchError, match="needs --node-rank"):
        command._job({}, 2, None, "h:9")


@pytest.mark.parametrize("command", [program.program_command, command.command_command])
def test_a_limit_for_hangs_is_refused_where_nothing_would_find_one(command: click.Command):
    with pytest.raises(LaunchError, match="--hooks none"):
        command.main(["--hooks", "none", "--hang-timeout", "9", "train.py"], standalone_mode=False)


def test_a_limit_for_hangs_is_refused_for_an_executable():
    with pytest.raises(LaunchError, match="--no-python"):
        program.program_command.main(["--no-python", "--hang-timeout", "9", "true"], standalone_mode=False)


def test_an_empty_argument_is_neither_a_recipe_nor_a_program():
    """`ascend-launch "$RECIPE"` without that variable."""
    with pytest.raises(LaunchError, match="the first argument is empty"):
        commanded("--nproc", "2", "")


def test_a_wrong_value_of_a_variable_is_reported_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Not as an option that nobody gave."""
    monkeypatch.setenv("PET_NPROC_PER_NODE", "x")
    monkeypatch.setattr(sys, "argv", ["ascend-launch", "program", "train.py"])

    assert EXIT_USER == cli._exit_code()
    assert "Invalid value for PET_NPROC_PER_NODE: 'x'" in capsys.readouterr().err
