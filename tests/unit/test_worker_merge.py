"""Weights out of files and pieces into one safetensors file, with little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from launcher.errors import LaunchError
from launcher.worker.checkpoints import tensorfile
from launcher.worker.weights import merge
from launcher.worker.weights.export_merge import lora
from launcher.worker.weights.merge import SafetensorsFile, Source, of_tensor


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    """Tensors of a test then span many blocks, none of which ends where a row does."""
    monkeypatch.setattr(merge, "BLOCK", 50)


def whole(source: Source) -> Tensor:
    return torch.cat(list(source.blocks())).view(source.shape)


def test_a_file_is_copied_in_the_type_asked_for(tmp_path: Path):
    """As safetensors reads it; whole numbers, an empty tensor and a number without dimensions stay what they are."""
    tensors = {"w": torch.randn(17, 23), "n": torch.arange(300), "e": torch.empty(0, 4), "s": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "in.safetensors")

    merge.write(
        tmp_path / "out.safetensors", SafetensorsFile(tmp_path / "in.safetensors").sources().items(), torch.bfloat16
    )

    found = load_file(tmp_path / "out.safetensors")
    assert tensors.keys() == found.keys()
    assert torch.equal(tensors["w"].bfloat16(), found["w"])
    assert torch.equal(tensors["n"], found["n"])
    assert (0, 4) == tuple(found["e"].shape)
    assert torch.equal(tensors["s"].bfloat16(), found["s"])


def test_pieces_of_any_cut_are_joined(tmp_path: Path):
    """Also where two ranks hold the same elements."""
    weight = torch.randn(40, 11)
    flat = weight.view(-1)
    cuts = [[(0, 133), (400, 440)], [(133, 300), (290, 400)]]
    files = []
    for rank, runs in enumerate(cuts):
        files.append(tmp_path / f"state_{rank}.safetensors")
        tensorfile.write(
            files[-1], [(f"p/weight/a.b/{a}", flat[a:b]) for a, b in runs] + [("p/exp_avg/a.b/0", flat)], {}
        )

    (source,) = merge.piece_sources(files, {"a.b": (40, 11)}).values()

    assert torch.equal(weight, whole(source))


def test_pieces_that_leave_a_gap_are_refused(tmp_path: Path):
    tensorfile.write(tmp_path / "s", [("p/weight/a/0", torch.ones(10)), ("p/weight/a/12", torch.ones(8))], {})

    with pytest.raises(LaunchError, match="pieces of a end at element 10 of 20"):
        merge.piece_sources([tmp_path / "s"], {"a": (4, 5)})


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\xff" * 8 + b[8:], lambda b: b[:5]]
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage):
    save_file({"w": torch.ones(9)}, tmp_path / "w.safetensors")
    path = tmp_path / "w.safetensors"
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(LaunchError, match="not a whole safetensors file"):
        SafetensorsFile(path)


def test_older_bin_files_are_read_as_tensors_and_run_no_code(tmp_path: Path):
    """A pickle that would write a file is refused, and writes none."""

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    weight = torch.randn(7, 9)
    torch.save({"w": weight}, tmp_path / "pytorch_model.bin")
    assert torch.equal(weight, whole(merge.folder_sources(tmp_path)["w"]))

    torch.save({"w": Attack()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LaunchError, match="cannot be read as tensors alone"):
        merge.folder_sources(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_lora_is_merged_as_peft_merges_it(options: dict[str, bool]):
    """On a model of two layers, with a head that is trained whole."""
    peft = pytest.importorskip("peft", reason="the lora extra is not installed")
    torch.manual_seed(0)
    layers = {"first": torch.nn.Linear(13, 29), "second": torch.nn.Linear(29, 7), "score": torch.nn.Linear(7, 3)}
    base = torch.nn.Sequential()
    for name, layer in layers.items():
        base.add_module(name, layer)
    sources = {name: of_tensor(t.detach().clone()) for name, t in base.state_dict().items()}
    config = peft.LoraConfig(
        r=4, lora_alpha=24, target_modules=["first", "second"], modules_to_save=["score"], **options
    )
    model = peft.get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.rand_like(parameter)
    adapter = {name: of_tensor(t.detach().clone()) for name, t in peft.get_peft_model_state_dict(model).items()}

    found = lora(config.to_dict(), adapter, sources)

    merged = model.merge_and_unload().state_dict()
    assert found is not None
    assert merged.keys() == found.keys()
    for name, value in merged.items():
        torch.testing.assert_close(whole(found[name]), value, msg=name)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"alpha_pattern": {"first": 3}}, "base_model.model.first.lora_A.weight"),
        ({"fan_in_fan_out": True}, "base_model.model.first.lora_A.weight"),
        ({"peft_type": "VERA"}, "base_model.model.first.lora_A.weight"),
        ({}, "base_model.model.first.lora_embedding_A"),
        ({}, "base_model.model.unknown.lora_A.weight"),
    ],
)
def test_what_is_more_than_matrices_beside_linear_layers_is_left_to_peft(settings, key):
    source = of_tensor(torch.ones(2, 5))
    whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **settings}

    assert (
        lora(
            whole,
            {key: source, key.replace("_A", "_B"): of_tensor(torch.ones(3, 2))},
            {"first.weight": of_tensor(torch.ones(3, 5))},
        )
        is None
    )


def test_shards_hold_no_more_than_they_may():
    """But for a tensor that is larger by itself."""
    sources = {f"t{i}": of_tensor(torch.zeros(10)) for i in range(5)} | {"big": of_tensor(torch.zeros(100))}

    found = merge.shards(sources, torch.bfloat16, 40)

    assert [["t0", "t1"], ["t2", "t3"], ["t4"], ["big"]] == [[name for name, _ in s.tensors] for s in found]
    assert "model-00004-of-00004.safetensors" == found[3].name
    assert ["model.safetensors"] == [s.name for s in merge.shards(sources, None, 10**9)]


@pytest.mark.slow
def test_a_merge_needs_a_small_part_of_the_weights_memory(tmp_path: Path):
    """512 MB of pieces on two ranks, in one tensor, become bf16 with less than 100 MB more than before."""
    half = 64 * 1024 * 1024
    for rank in range(2):
        piece = torch.full((half,), float(rank))
        tensorfile.write(tmp_path / f"state_{rank}.safetensors", [(f"p/weight/w/{rank * half}", piece)], {})
        del piece
    code = (
        "import resource, sys, torch; from pathlib import Path; from launcher.worker.weights import merge\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "folder, before = Path(sys.argv[1]), peak()\n"
        "files = sorted(folder.glob('state_*'))\n"
        f"merge.write(folder / 'out', merge.piece_sources(files, {{'w': (1024, {2 * half // 1024})}}).items(), torch.bfloat16)\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    from safetensors import safe_open

    assert int(done.stdout) < 100
    with safe_open(tmp_path / "out", "pt") as file:
        part = file.get_slice("w")[511:513]
    assert {torch.bfloat16} == {part.dtype}
    assert [0.0, 1.0] == [row.float().mean().item() for row in part]
