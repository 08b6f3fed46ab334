"""The tables of accelerators and of kernels: nobody else goes by their names, and a package's is one like any other."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch

import launcher
from launcher import plugins
from launcher.accelerators import detect, table
from launcher.accelerators.base import Base
from launcher.cli import cli
from launcher.cli.options import Named
from launcher.errors import LaunchError
from launcher.planning import decide, plan
from launcher.recipe import kernels, load
from launcher.worker.accelerators import table as in_ranks
from launcher.worker.kernels import npu_rms_norm, registry
from tests.support.decisions import decisions, names_in
from tests.support.run import Ran

LAUNCHER = Path(launcher.__file__).resolve().parent
PACKAGE = LAUNCHER.parent / "tests" / "packages" / "cores"
Write = Callable[..., Path]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that has the accelerator `cores` and the kernel `cores-silu` is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    plugins._load.cache_clear()


def make(path: Path, device: str, nproc: int = 2) -> plan.Plan:
    return decide.make(load.load(path, (), {}), detect.here(device, {}), plan.Options(nproc=nproc))


@pytest.mark.parametrize("name", table.BUILT_IN)
def test_every_accelerator_has_all_that_the_interface_names(name: str):
    wanted = {n for n in (*table.Accelerator.__annotations__, *vars(table.Accelerator)) if not n.startswith("_")}
    accelerator = table.load(name)

    assert set() == {n for n in wanted if not hasattr(accelerator, n)}
    assert (name, table.INTERFACE) == (accelerator.name, accelerator.interface)
    assert isinstance(accelerator, Base)


def test_every_accelerators_part_in_ranks_has_all_that_its_interface_names():
    """Loaded by what the accelerator names."""
    wanted = {n for n in vars(in_ranks.Device) if not n.startswith("_")}
    for name in table.BUILT_IN:
        device = plugins.load_part("accelerator", name, table.load(name).worker)
        assert set() == {n for n in wanted if not hasattr(device, n)}


def test_a_part_in_ranks_that_is_not_there_is_named():
    with pytest.raises(LaunchError, match="accelerator 'x': its part for ranks, nowhere:X, cannot be loaded"):
        plugins.load_part("accelerator", "x", "nowhere:X")


def test_a_packages_accelerator_is_planned_as_it_says(cores: None, recipe: Write):
    """The cores are the CPU by another name: what differs is what the package says."""
    made, on_cpu = make(recipe(), "cores"), make(recipe(), "cpu")

    assert ("cores", "gloo", "fp32", 2) == (made.device, made.backend, made.precision, made.world_size)
    assert on_cpu.training_arguments == made.training_arguments
    assert made == plan.Plan.model_validate_json(made.model_dump_json())
    assert (4, 1) == (made.accelerator.pads_to, on_cpu.accelerator.pads_to)
    assert made.accelerator.worker == "cores_rank:CoresInRank"


def test_auto_never_takes_a_packages_accelerator(cores: None, tmp_path: Path):
    """It is taken where it is named."""
    cluster = detect.here("auto", {}, run=lambda argv: (127, ""), dev_dir=tmp_path)
    assert ("cpu", "no NPU found; running on CPU over gloo") == (cluster.device, cluster.source)


def test_a_plan_on_an_accelerator_that_is_gone_names_those_there_are(recipe: Write):
    text = make(recipe(), "cpu").model_dump_json().replace('"device":"cpu"', '"device":"cores"')
    with pytest.raises(ValueError, match="Input should be one of npu, cpu"):
        plan.Plan.model_validate_json(text)


def test_the_command_line_renders_it(ascend_launch: Callable[..., Ran], recipe: Write):
    """In a process of its own, which finds the package by itself; nobody is trained."""
    ran = ascend_launch(
        "render",
        "--device",
        "cores",
        "--nproc",
        "2",
        "--json",
        recipe(),
        PYTHONPATH=f"{LAUNCHER.parent}:{PACKAGE}",
    )
    assert 0 == ran.code, ran.err

    made = json.loads(ran.out)
    assert "cores" == json.loads(made["files"]["plan.json"])["device"]
    assert "CORES_RUN" in json.dumps(made)


def test_a_name_that_nobody_has_is_refused_with_those_there_are(ascend_launch: Callable[..., Ran], recipe: Write):
    ran = ascend_launch("render", "--device", "cores", recipe())

    assert 2 == ran.code
    assert "'cores' is not one of 'auto', 'npu', 'cpu'" in ran.err


@pytest.mark.parametrize("command", ["run", "program", "predict", "doctor", "submit", "plan", "render"])
def test_device_offers_what_the_table_has(cores: None, command: str):
    """In help those that are built in; a shell is offered other packages' too."""
    option = next(p for p in cli.commands[command].params if p.name == "device")
    assert isinstance(option.type, Named)

    offered = [item.value for item in option.type.shell_complete(click.Context(click.Command("x")), option, "c")]
    assert ["cpu", "cores"] == offered
    assert [n for n in option.type.choices if n != "auto"] == list(table.BUILT_IN)


class Layers(torch.nn.Module):
    """A model of these layers."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)


class GatedRMSNorm(torch.nn.Module):
    """As Qwen3-Next has one: more goes in than x."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(size)), eps

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight * gate.sigmoid()


def test_only_plain_rms_norms_are_replaced():
    """By what layers compute, not by a list of classes: Gemma's multiply by 1 + weight, LayerNorm subtracts the mean."""
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    plain = [LlamaRMSNorm(16), Qwen3RMSNorm(8)]
    others = [GemmaRMSNorm(16), GatedRMSNorm(16), torch.nn.LayerNorm(16)]
    torch.manual_seed(3)
    before = torch.get_rng_state()

    assert plain == npu_rms_norm.NPU_RMS_NORM.places(Layers(*plain, *others))
    assert torch.equal(before, torch.get_rng_state())


def test_a_norm_of_two_types_keeps_its_formula():
    """Under autocast an RMSNorm of queries has 16-bit input and fp32 weights: the operator has one type for both."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    norm, x = Qwen3RMSNorm(8), torch.randn(2, 8, dtype=torch.bfloat16)
    expected = norm(x)
    npu_rms_norm.NPU_RMS_NORM.apply(norm)

    assert torch.equal(expected, norm(x))


def planned(device: str, *names: str) -> Any:
    return SimpleNamespace(device=device, recipe=SimpleNamespace(model=SimpleNamespace(kernels=names)))


def test_a_packages_kernel_takes_its_places(cores: None):
    model = Layers(torch.nn.SiLU(), torch.nn.ReLU(), torch.nn.SiLU())
    x = torch.linspace(-3, 3, 7)
    expected = torch.nn.functional.silu(x)

    assert {"cores-silu": 2} == registry.apply(planned("cores", "cores-silu"), model)
    assert torch.allclose(expected, model.layers[0](x))
    assert "SigmoidBackward" in str(model.layers[2](x.requires_grad_()).grad_fn.next_functions)


def test_a_model_is_loaded_with_the_recipes_kernels(cores: None, recipe: Write, tmp_path: Path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from launcher.worker.models.load import load_model

    config = AutoConfig.from_pretrained(LAUNCHER.parent / "recipes" / "tiny", num_labels=5)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    model = {"name": "recipes/tiny", "num_labels": 5, "kernels": ["cores-silu"]}
    labels = tuple(map(str, range(5)))
    prepared = SimpleNamespace(model_path=str(tmp_path / "model"), num_labels=5, label_names=labels, adapter_path=None)
    loaded = load_model(make(recipe(model=model), "cores"), prepared, SimpleNamespace(pad_token_id=0))

    assert all("forward" in vars(layer.mlp.act_fn) for layer in loaded.model.layers)


def test_a_kernel_without_effect_is_refused(cores: None):
    with pytest.raises(LaunchError, match="npu-rms-norm is for npu, and ranks compute on cpu"):
        registry.apply(planned("cpu", "npu-rms-norm"), Layers())
    with pytest.raises(LaunchError, match="cores-silu replaces SiLU activations, and Layers has none"):
        registry.apply(planned("cores", "cores-silu"), Layers(torch.nn.ReLU()))


def test_a_recipe_names_kernels_of_the_table(cores: None, recipe: Write):
    """A recipe without any is what it was before there were kernels: in run directories and in checkpoints."""
    model = {"name": "recipes/tiny", "num_labels": 5}
    with_kernels = load.load(recipe(model={**model, "kernels": ["npu-rms-norm", "cores-silu"]}), (), {}).spec
    without = load.load(recipe(model=model), (), {}).spec

    assert ("npu-rms-norm", "cores-silu") == with_kernels.model.kernels
    assert ["npu-rms-norm", "cores-silu"] == with_kernels.model_dump(mode="json")["model"]["kernels"]
    assert "kernels" not in without.model_dump()["model"]
    with pytest.raises(LaunchError, match=r"model.kernels\S*: 'npu-rms' is not one of npu-rms-norm or cores-silu"):
        load.load(recipe(model={**model, "kernels": ["npu-rms"]}), (), {})


ACCELERATORS = {*table.BUILT_IN, *(table.load(name).backend for name in table.BUILT_IN)}
OWN = [LAUNCHER / "accelerators", LAUNCHER / "worker" / "accelerators"]
OF_KERNELS = [LAUNCHER / "recipe" / "kernels.py", LAUNCHER / "worker" / "kernels"]
ALLOWED = {
    "launcher/clusters/kubernetes/manifest.py: 'cpu'",  # a resource of Kubernetes'
    "launcher/recipe/importers/given.py: 'cpu'",  # DeepSpeed's word for main memory
    "launcher/worker/training/random_state.py: 'cpu'",  # a key of checkpoints
}


def sources() -> list[Path]:
    return sorted(LAUNCHER.rglob("*.py"))


def named(path: Path, names: set[str]) -> set[str]:
    """The decisions in a file by one of these names, as file: code."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in names):
        return set()
    place = path.relative_to(LAUNCHER.parent)
    return {f"{place}: {ast.unparse(node)}" for node in decisions(ast.parse(text)) if names & set(names_in(node))}


def below(path: Path, places: list[Path]) -> bool:
    return any(place == path or place in path.parents for place in places)


def test_nothing_is_decided_by_an_accelerators_name():
    """Whoever wants to know something asks the accelerator."""
    found = set().union(*(named(path, ACCELERATORS) for path in sources() if not below(path, OWN)))
    assert set(ALLOWED) == found


def test_nothing_is_decided_by_a_kernels_name():
    found = set().union(
        *(named(path, set(kernels.TABLE.built_in)) for path in sources() if not below(path, OF_KERNELS))
    )
    assert set() == found
