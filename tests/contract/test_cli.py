"""Every command has help and stands in both READMEs; exit codes and messages are what they are said to be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from launcher.cli import cli
from launcher.cli.commands import TABLE

REPO = Path(__file__).resolve().parent.parent.parent


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[n for n, _ in commands()])
def test_every_command_and_option_has_help(name: str, command: click.Command):
    """One sentence for each."""
    assert command.help
    assert [] == [p.name for p in command.params if isinstance(p, click.Option) and not p.help]


@pytest.mark.parametrize(("name", "command"), list(cli.commands.items()), ids=list(cli.commands))
def test_the_list_of_commands_says_what_their_help_says(name: str, command: click.Command):
    """The list is made without importing them; a name is a command's own, and only one that is another's is left out."""
    summary = TABLE[name].summary

    assert name == command.name
    assert summary == ("" if command.hidden else command.get_short_help_str(limit=1000))


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--help"], set()), (["--version"], set()), (["plan", "--help"], {"plan"})],
    ids=["--help", "--version", "plan --help"],
)
def test_no_other_command_is_imported(words: list[str], expected: set[str]):
    """Of the modules that commands stand in."""
    code = (
        "import sys; from launcher import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=REPO, capture_output=True, text=True, check=True)

    modules = {row.place.partition(":")[0] for row in TABLE.values()}
    assert expected == {name for name in modules if f"launcher.cli.{name}" in done.stderr.split()}


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_every_command_is_in_the_readme(readme: str):
    """A command nobody can read about does not exist."""
    text = (REPO / readme).read_text(encoding="utf-8")

    known = [name for name, command in commands() if name != "run" and not command.hidden]
    assert [] == [name for name in known if f"ascend-launch {name}" not in text]


@pytest.mark.parametrize("page", ["README", "docs/guide"])
def test_both_languages_show_the_same_commands(page: str):
    """What an English reader can run, a Chinese reader can too."""

    def shell_lines(name: str) -> set[str]:
        blocks = (REPO / name).read_text(encoding="utf-8").split("```")[1::2]
        lines = [line.strip() for block in blocks for line in block.splitlines()[1:]]
        return {
            line.split("  #")[0].strip()
            for line in lines
            if line.startswith(("ascend-launch", "make", "pip", "accelerate", "torchrun"))
        }

    assert shell_lines(f"{page}.md") == shell_lines(f"{page}.zh-CN.md") != set()


MISTAKES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "unknown key": ({"modle": {}}, [], "did you mean `model`?"),
    "wrong type": ({"model": {"num_labels": "five"}}, [], "expected a whole number"),
    "no such model folder": ({"model": {"name": "./nowhere"}}, [], "no such folder"),
    "a time without an end": ({}, ["--hang-timeout", "nan"], "'nan' is not a number of seconds"),
    "nproc above the batch": ({}, ["--nproc", "3"], "cannot be split evenly"),
    "no card": ({}, ["--device", "npu"], "no NPU found"),
    "unwritable output": ({"output_dir": "/proc/self/x"}, [], "cannot be written to"),
    "a number in other digits": ({}, ["--nproc", "²"], "neither a number of ranks nor auto"),
    "bad nproc": ({}, ["--nproc", "many"], "neither a number of ranks nor auto"),
    "bad override": ({}, ["nonsense"], "is not KEY=VALUE"),
    "node without endpoint": ({}, ["--nnodes", "2", "--node-rank", "0"], "needs --rdzv-endpoint"),
    "node without number": ({}, ["--nnodes", "2", "--rdzv-endpoint", "a:1"], "needs --node-rank"),
    "chip without dry run": ({}, ["--chip", "910A"], "--chip and --hbm are for plan"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_exit_code_2_and_no_traceback(recipe: Callable[..., Path], ascend_launch: Any, name: str):
    """One cause and one fix on stderr."""
    sections, argv, said = MISTAKES[name]
    path = recipe(**sections)
    options, overrides = [a for a in argv if a != "nonsense"], [a for a in argv if a == "nonsense"]
    ran = ascend_launch(*options, path, *overrides)

    assert (2, True, False) == (ran.code, said in ran.err, "Traceback" in ran.out + ran.err)


BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 512}
MODELS: dict[str, tuple[dict[str, Any], str, str]] = {
    "code of its own": (
        {"model_type": "internlm2", "auto_map": {"AutoConfig": "configuration_internlm2.X"}},
        "config.json",
        "needs code",
    ),
    "too few positions": (BERT, "config.json", "more than the 512 positions"),
    "quantised": (
        BERT | {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "config.json",
        "quantised (gptq, 4 bit)",
    ),
    "an adapter": ({"base_model_name_or_path": "org/base"}, "adapter_config.json", "is an adapter of org/base"),
    "a run directory": ({}, "plan.json", "is a run directory"),
}


LAUNCH, PLAN = ("--nproc", "2"), ("plan", "--nproc", "8", "--chip", "910B3")
REFUSED = [*((LAUNCH, name) for name in MODELS), (PLAN, "code of its own"), (("--dry-run",), "too few positions")]


@pytest.mark.parametrize(("command", "name"), REFUSED)
def test_a_model_that_cannot_be_trained_is_refused_by_plan_dry_run_and_launch(
    recipe: Callable[..., Path], ascend_launch: Any, tmp_path: Path, command: tuple[str, ...], name: str
):
    """From the model's files alone: before a rank, and before a run directory."""
    content, file, said = MODELS[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_text(json.dumps(content))
    path = recipe(data={"max_length": 600}, output_dir=str(tmp_path / "out"))
    device = [] if command[0] == "plan" else ["--device", "cpu"]
    ran = ascend_launch(*command, *device, path, f"model.name={tmp_path / 'model'}")

    assert (2, True, 1) == (ran.code, said in ran.err, ran.err.count("fix:")), ran.err
    assert not (tmp_path / "out").exists()


def test_plan_asks_which_910b_is_meant(recipe: Callable[..., Path], ascend_launch: Any):
    """And takes the 910C by its name."""
    asked = ascend_launch("plan", "--nproc", "8", "--chip", "910B", recipe())

    assert (2, True) == (asked.code, "910B4 (32 GB, bf16)" in asked.err)
    assert 0 == ascend_launch("plan", "--nproc", "8", "--chip", "910C", recipe()).code


def test_a_missing_recipe_is_exit_code_2(ascend_launch: Any, tmp_path: Path):
    """With the nearest name in the same folder."""
    (tmp_path / "yelp.yaml").write_text("")
    ran = ascend_launch(tmp_path / "yelo.yaml")

    assert (2, True) == (ran.code, f"did you mean {tmp_path / 'yelp.yaml'}?" in ran.err)


def test_a_dry_run_starts_and_writes_nothing(recipe: Callable[..., Path], ascend_launch: Any, tmp_path: Path):
    """Eight cards are planned on a machine that has none, and the folder stays empty."""
    path = recipe(output_dir=str(tmp_path / "out"))
    ran = ascend_launch("--dry-run", "--nproc", "8", "--device", "npu", path)

    assert 0 == ran.code, ran.err
    assert not (tmp_path / "out").exists()
    for said in (
        "8 ranks on npu over hccl",
        "HCCL_CONNECT_TIMEOUT=1200",
        "torchrun --nproc-per-node 8",
        "accelerate launch",
    ):
        assert said in ran.out


def test_the_plan_says_which_cluster_was_recognised(recipe: Callable[..., Path], ascend_launch: Any):
    """And by which variables; the run's directory is named by the job, so that all nodes agree on it."""
    path = recipe(parallel={"global_batch_size": 16})
    env = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "2", "PET_MASTER_ADDR": "bert-node-0-0.bert"}
    ran = ascend_launch("--dry-run", "--device", "cpu", path, **env)

    assert 0 == ran.code, ran.err
    assert "4 ranks (2 nodes x 2) on cpu" in ran.out
    assert (
        "(Kubeflow: PET_NNODES=2, PET_NPROC_PER_NODE=2, PET_NODE_RANK=1, PET_MASTER_ADDR=bert-node-0-0.bert)" in ran.out
    )
    assert "/mine/bert/node_1" in ran.out


def test_a_rank_of_torchrun_is_told_to_start_us_otherwise(recipe: Callable[..., Path], ascend_launch: Any):
    """Eight launchers of eight ranks each would be sixty-four."""
    env = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1"}
    ran = ascend_launch("--device", "cpu", recipe(), **env)

    assert (2, True) == (ran.code, "started this as one of 8 processes" in ran.err)


def test_render_writes_what_a_dry_run_shows(recipe: Callable[..., Path], ascend_launch: Any, tmp_path: Path):
    """The same plan and the same bytes."""
    path, out = recipe(), tmp_path / "rendered"
    options = ["--nproc", "8", "--device", "npu", path]
    shown = json.loads(ascend_launch("--dry-run", "--json", "--run-dir", out, *options).out)
    ran = ascend_launch("render", "--out", out, *options)

    assert 0 == ran.code, ran.err
    assert shown["files"] == {name: (out / name).read_text() for name in shown["files"]}
    assert {"recipe.yaml", "plan.json", "accelerate.yaml", "deepspeed.json", "env.json"} == set(shown["files"])


def test_recipes_are_listed_shown_and_copied(ascend_launch: Any, tmp_path: Path):
    """A copy is never made over a file that is there."""
    listed = json.loads(ascend_launch("recipes", "list", "--json").out)
    names = {entry["name"] for entry in listed}
    first = ascend_launch("recipes", "copy", "tiny-cpu", tmp_path)
    again = ascend_launch("recipes", "copy", "tiny-cpu", tmp_path)

    assert {"yelp", "yelp-instruct", "yelp-lora", "demo", "tiny-cpu"} <= names
    assert (0, 2) == (first.code, again.code)
    assert "exists already" in again.err
    assert yaml.safe_load((tmp_path / "tiny-cpu.yaml").read_text()) == yaml.safe_load(
        ascend_launch("recipes", "show", "tiny-cpu").out
    )
    assert "did you mean" in ascend_launch("recipes", "show", "tiny").err


def test_a_bug_of_ours_leaves_a_log_to_paste(tmp_path: Path):
    """Exit code 3, one line, and the traceback in a file."""
    code = (
        "import sys; from launcher import cli; from launcher.recipe import load\n"
        "def broken(*a, **k): raise ZeroDivisionError('boom')\n"
        "load.load = broken\n"
        "sys.argv = ['ascend-launch', 'x.yaml']\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        env={"TMPDIR": str(tmp_path)},
    )
    (log,) = tmp_path.glob("ascend-launch-*.log")

    assert (3, False, True) == (done.returncode, "Traceback" in done.stderr, str(log) in done.stderr)
    assert "ZeroDivisionError: boom" in log.read_text()
