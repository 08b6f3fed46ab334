"""An installed wheel, away from the checkout: shipped recipes run by name, and nothing needs torch before ranks do."""

from __future__ import annotations

import email
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from launcher.diagnose.doctor.versions import BOUNDS, EXTRA, PAIR

from .conftest import Installed

STACK = {
    "torch",
    "torch-npu",
    "transformers",
    "accelerate",
    "deepspeed",
    "datasets",
    "evaluate",
    "scikit-learn",
    "peft",
}


def requirements(wheel: Path) -> dict[str, list[Requirement]]:
    """The wheel's own requirements by extra; those of a plain install under ""."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    found: dict[str, list[Requirement]] = {"": []}
    for text in metadata.get_all("Requires-Dist") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        found.setdefault(extra[1] if extra else "", []).append(Requirement(text))
    return found


def test_a_plain_install_brings_nothing_that_has_to_do_with_torch(wheel: Path):
    assert set() == STACK & {need.name for need in requirements(wheel)[""]}


def test_extras_are_the_bounds_that_doctor_checks(wheel: Path):
    """Else a launch would refuse what pip has installed, or run what it would not have."""
    found = requirements(wheel)
    said = {need.name: need.specifier for extra in ("train", *EXTRA.values()) for need in found[extra]}

    assert {name: str(Requirement(f"{name}{bounds}").specifier) for name, bounds in BOUNDS.items()} == {
        name: str(specifier) for name, specifier in said.items()
    }


def test_the_pair_is_of_one_release(wheel: Path):
    pair = {need.name: str(need.specifier) for need in requirements(wheel)["npu"]}

    assert f"=={PAIR}" == pair["torch"] == pair["torch-npu"]


@pytest.fixture(scope="module")
def shipped(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the recipes that the wheel holds."""
    listed = installed("recipes", "list", "--json", cwd=tmp_path_factory.mktemp("list"), bare=True)
    return [row["name"] for row in json.loads(listed.stdout)]


def test_the_wheel_holds_the_recipes_that_run_from_it(shipped: list[str]):
    """All but the demos, whose model and texts `make demo` fetches into a checkout."""
    repo = Path(__file__).resolve().parents[2]

    assert {path.stem for path in (repo / "recipes").glob("*.yaml")} - {"demo", "chat-demo"} == set(shipped)


def dry_runs(installed: Installed, names: list[str], cwd: Path) -> list[dict[str, Any]]:
    """The resolved recipe that a launch of each would run."""
    options = ["--dry-run", "--json", "--device", "npu", "--nproc", "2"]
    done = installed.each([["run", *options, name, "parallel.global_batch_size=24"] for name in names], cwd=cwd)
    assert [0] * len(names) == [ran.code for ran in done], [ran.err for ran in done]
    return [json.loads(ran.out)["plan"]["recipe"] for ran in done]


def test_shipped_recipes_run_by_name_from_any_folder(installed: Installed, shipped: list[str], tmp_path: Path):
    """By name, by the path that the documentation writes, and as a copy or a base: all are the same recipe."""
    copied = installed.each([["recipes", "copy", name, f"my-{name}.yaml"] for name in shipped], cwd=tmp_path)
    for name in shipped:
        (tmp_path / f"on-{name}.yaml").write_text(f"extends: {name}\n")

    assert [0] * len(shipped) == [ran.code for ran in copied]
    by_name = dry_runs(installed, shipped, tmp_path)
    for form in ("{}.yaml", "recipes/{}.yaml", "my-{}.yaml", "on-{}.yaml"):
        assert by_name == dry_runs(installed, [form.format(name) for name in shipped], tmp_path)


def test_what_a_shipped_recipe_names_is_in_the_wheel(installed: Installed, tmp_path: Path):
    (recipe,) = dry_runs(installed, ["tiny-cpu"], tmp_path)

    for path in (recipe["model"]["name"], *recipe["data"]["data_files"].values()):
        assert Path(path).exists() and Path(path).is_relative_to(installed.site)


def test_a_file_of_that_name_comes_first(installed: Installed, tmp_path: Path):
    """A name is looked up only where there is no such file; a folder is none."""
    (tmp_path / "yelp").mkdir()
    (tmp_path / "tiny-cpu.yaml").write_text("extends: tiny-cpu\ntraining: {seed: 7}\n")

    yelp, tiny = dry_runs(installed, ["yelp", "tiny-cpu.yaml"], tmp_path)
    assert "meta-llama/Meta-Llama-3-8B-Instruct" == yelp["model"]["name"]
    assert 7 == tiny["training"]["seed"]


def test_a_name_that_leads_nowhere(installed: Installed, tmp_path: Path):
    """The error says where, and what would be found."""
    for name, base in (("own", "own.yaml"), ("yelp", "yelp.yaml"), ("lost", "nowhere.yaml")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}\n")
    expected = {
        "yepl": ("yepl: no such file", "did you mean the shipped recipe yelp?"),
        "own.yaml": ("own.yaml:1: extends: own.yaml leads back to itself", "name another file"),
        "yelp.yaml": ("yelp.yaml:1: extends: yelp.yaml leads back to itself", "`extends: yelp` is the shipped recipe"),
        "lost.yaml": ("lost.yaml:1: extends: nowhere.yaml: no such file", "`ascend-launch recipes` lists them"),
    }

    done = installed.each([["run", "--dry-run", "--device", "cpu", name] for name in expected], cwd=tmp_path)

    for ran, (what, fix) in zip(done, expected.values(), strict=True):
        assert 2 == ran.code
        assert what in ran.err and fix in ran.err


def test_what_starts_no_rank_needs_no_torch(installed: Installed, tmp_path: Path):
    """Help, plan, doctor, explain and report, where none of what ranks import is installed."""
    log = tmp_path / "a.log"
    log.write_text("ImportError: libhccl.so: cannot open shared object file: No such file or directory\n")
    rendered = installed("render", "--device", "npu", "--nproc", "8", "--out", "run", "yelp", cwd=tmp_path, bare=True)
    assert 0 == rendered.returncode, rendered.stderr
    (tmp_path / "run" / "events.jsonl").write_text('{"event": "log", "step": 1, "loss": 2.0}\n')
    said = {
        words[0]: installed(*words, cwd=tmp_path, bare=True)
        for words in (
            ("--help",),
            ("plan", "--nproc", "8", "--chip", "910B3", "yelp"),
            ("doctor", "--device", "cpu"),
            ("explain", str(log)),
            ("report", "run", "--json"),
            ("submit", "--slurm", "--dry-run", "--nodes", "1", "--nproc", "8", "yelp"),
        )
    }

    assert dict.fromkeys(said, 0) == {command: ran.returncode for command, ran in said.items()}, said
    assert "zero1" in said["plan"].stdout
    assert "torch is not installed" in said["doctor"].stdout
    assert "pip install 'ascend-launch[train]'" in said["doctor"].stdout
    assert "CANN" in said["explain"].stdout


def test_a_launch_without_the_stack_says_the_pip_line_and_starts_nothing(installed: Installed, tmp_path: Path):
    ran = installed("--device", "cpu", "--nproc", "2", "tiny-cpu", cwd=tmp_path, bare=True)

    assert 2 == ran.returncode
    assert "torch is not installed" in ran.stderr
    assert "pip install 'ascend-launch[train]'" in ran.stderr
    assert [] == [p.name for p in tmp_path.rglob("*") if p.is_file()]


def test_an_export_without_the_stack_says_the_pip_line(installed: Installed, tmp_path: Path):
    """What needs torch and starts no rank is told as well as a launch."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")

    (ran,) = installed.each([["export", "model", "--out", "out", "--recipe", "tiny-cpu"]], cwd=tmp_path)

    assert 2 == ran.code
    assert "torch is not installed" in ran.err and "pip install 'ascend-launch[train]'" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_checked_without_transformers(installed: Installed, tmp_path: Path):
    """Its training arguments too: a login node submits without it."""
    ran = installed("--dry-run", "--device", "cpu", "tiny-cpu", "training.lerning_rate=1", cwd=tmp_path, bare=True)

    assert 2 == ran.returncode
    assert "did you mean `learning_rate`?" in ran.stderr


@pytest.mark.ranks
def test_a_copied_recipe_trains(installed: Installed, tmp_path: Path):
    """One rank, one step, in a folder that has nothing but the copy."""
    installed("recipes", "copy", "tiny-cpu", "mine.yaml", cwd=tmp_path)

    ran = installed(
        "--device",
        "cpu",
        "mine.yaml",
        "training.max_steps=1",
        "training.eval_strategy=no",
        "report=false",
        cwd=tmp_path,
        ASCEND_LAUNCH_CACHE=str(tmp_path / "cache"),
    )

    assert 0 == ran.returncode, ran.stderr
    assert (tmp_path / "runs" / "mine" / "latest" / "metrics.json").is_file()


def test_copies_are_the_recipes_that_are_shown(installed: Installed, tmp_path: Path):
    installed("recipes", "copy", "yelp-lora", cwd=tmp_path, bare=True)
    shown = installed("recipes", "show", "yelp-lora", cwd=tmp_path, bare=True)

    assert yaml.safe_load(shown.stdout) == yaml.safe_load((tmp_path / "yelp-lora.yaml").read_text())
