"""Where a launch runs is found out, and said; nothing is guessed silently."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from launcher.accelerators import detect
from launcher.accelerators.ascend import chips
from launcher.errors import LaunchError
from launcher.machine.commands import RC_MISSING
from launcher.machine.nodes import Nodes


def no_smi(argv: object) -> tuple[int, str]:
    return RC_MISSING, ""


def test_without_cards_it_is_cpu_and_says_so(tmp_path: Path):
    """`--device auto` falls back to CPU with the reason in the plan."""
    cluster = detect.here("auto", {}, run=no_smi, dev_dir=tmp_path)

    assert "cpu" == cluster.device
    assert "running on CPU over gloo" in cluster.source


def test_cards_asked_for_and_absent_are_an_error(tmp_path: Path):
    """`--device npu` never falls back."""
    with pytest.raises(LaunchError, match="no NPU found"):
        detect.here("npu", {}, run=no_smi, dev_dir=tmp_path)


def test_a_visible_list_in_the_wrong_order_is_mended_by_the_hint(tmp_path: Path):
    """CANN would show no card at all; the hint is the sorted list."""
    for n in range(4):
        (tmp_path / f"davinci{n}").touch()
    with pytest.raises(LaunchError) as caught:
        detect.here("auto", {"ASCEND_RT_VISIBLE_DEVICES": "3,1"}, run=no_smi, dev_dir=tmp_path)

    assert "not in ascending order" in caught.value.what
    assert "export ASCEND_RT_VISIBLE_DEVICES=1,3" == caught.value.hint


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed here")
def test_cards_without_torch_npu_are_said(tmp_path: Path):
    """A node with cards and a CPU-only environment trains on neither by accident."""
    (tmp_path / "davinci0").touch()
    with pytest.raises(LaunchError) as caught:
        detect.here("auto", {}, run=no_smi, dev_dir=tmp_path)

    assert "torch_npu is not installed" in caught.value.what
    assert "ascend-launch[npu]" in caught.value.hint


def test_hidden_cards_mean_cpu(tmp_path: Path):
    """An empty list hides every card on purpose, as CUDA_VISIBLE_DEVICES='' does."""
    (tmp_path / "davinci0").touch()

    assert "cpu" == detect.here("auto", {"ASCEND_RT_VISIBLE_DEVICES": ""}, run=no_smi, dev_dir=tmp_path).device


def test_only_chips_that_train_are_assumed():
    """--chip 310P3 is no place to fine-tune."""
    assert 4 == len(detect.assumed(4, Nodes(), "910A").devices)
    for name in ("310P3", "H100"):
        with pytest.raises(LaunchError, match="not an Ascend chip that trains"):
            detect.assumed(4, Nodes(), name)


@pytest.mark.parametrize("name", ["910B", "Ascend910B", "ascend 910b", "910b"])
def test_a_name_of_several_chips_is_asked_about(name: str):
    """910B1 to 910B4 are the 910B to everyone; CANN's own 910B is an old part without bf16, which nobody means."""
    with pytest.raises(LaunchError) as caught:
        detect.assumed(8, Nodes(), name)

    assert 2 == caught.value.exit_code
    for chip in ("910B1 (64 GB", "910B2 (64 GB", "910B3 (64 GB", "910B4 (32 GB", "the old 910B (32 GB, no bf16)"):
        assert chip in caught.value.what
    assert "910A" in caught.value.hint


def test_the_bare_910_is_asked_about():
    """It is the first generation's name, and the beginning of every later one's."""
    with pytest.raises(LaunchError, match=r"910A \(32 GB, no bf16\).*910C"):
        detect.assumed(8, Nodes(), "910")


@pytest.mark.parametrize(
    ("name", "hbm", "chip", "gib"),
    [
        ("910C", None, "Ascend910", 64),
        ("Ascend910C", None, "Ascend910", 64),
        ("a3", None, "Ascend910", 64),
        ("Atlas 800T A3", None, "Ascend910", 64),
        ("Atlas 900 A3 SuperPoD", None, "Ascend910", 64),
        ("ascend910_93", None, "Ascend910", 64),
        ("A2", None, "910B3", 64),
        ("Ascend910", None, "Ascend910", 64),
        ("910b4", None, "910B4", 32),
        ("ASCEND910B3", None, "910B3", 64),
        ("910B", 64, "910B3", 64),
        ("910B4-1", 64, "910B4-1", 64),
    ],
)
def test_names_of_series_and_any_spelling_are_taken(name: str, hbm: int | None, chip: str, gib: int):
    """Series whose chips plan alike, names in any case, with and without Ascend before them."""
    device = detect.assumed(1, Nodes(), name, hbm).devices[0]

    assert (chip, gib << 30) == (device.name, device.hbm_bytes)
    chip = chips.of(device)
    assert chip is not None
    assert chip.supports_bf16


@pytest.mark.parametrize(("name", "hbm"), [("910B4-1", None), ("950", None), ("910B", 32)])
def test_memory_that_a_name_does_not_tell_is_asked_for(name: str, hbm: int | None):
    """A 910B of 32 GB may be a 910B4 or the old part; a 950 and a 910B4-1 come with two sizes."""
    with pytest.raises(LaunchError) as caught:
        detect.assumed(1, Nodes(), name, hbm)

    assert caught.value.hint
