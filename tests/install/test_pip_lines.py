"""README's pip lines, resolved by pip: they bring a CPU build of torch, and keep a pair that is there.

Stand-ins for packages, wheels of metadata alone, lie in folders that pip takes for indexes. What they say of each other is
what the real ones say: PyPI's torch is a CUDA build on both architectures and brings nvidia's packages, and torch_npu wants
the torch of its own number.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from . import test_image
from .conftest import REPO, quiet_pip
from .test_wheel import requirements

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
ON_TORCH = {
    "transformers": (),
    "accelerate": ("torch>=2.0.0",),
    "deepspeed": ("torch",),
    "peft": ("torch>=1.13.0", "transformers"),
}
READMES = ("README.md", "README.zh-CN.md")
EXTRAS = ("train", "lora", "gguf", "modelscope", "tensorboard")
"""What a node may want beside the pair; `programs` and `dev` are for the launcher's own tests."""


def blocks(readme: str) -> list[list[str]]:
    """The console blocks of its install section, as lists of lines."""
    text = (REPO / readme).read_text(encoding="utf-8")
    section = re.search(r"^## (?:Install|安装)\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return [b.strip().splitlines() for b in re.findall(r"```console\n(.*?)```", section[1], re.DOTALL)]


def pip_lines(readme: str) -> list[list[str]]:
    """The arguments of every `pip install` of the section but the one that reads pair.txt."""
    words = [shlex.split(line, comments=True) for block in blocks(readme) for line in block]
    return [w[2:] for w in words if w[:2] == ["pip", "install"] and "pair.txt" not in w]


def test_both_languages_have_the_same_lines():
    assert blocks("README.md") == blocks("README.zh-CN.md")


def put(index: Path, name: str, version: str, *requires: str, tags: tuple[str, ...] = ("py3-none-any",)) -> None:
    """A stand-in of one release, a wheel a tag."""
    folder = index / re.sub(r"[-_.]+", "-", name).lower()
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = "".join(f"Requires-Dist: {r}\n" for r in requires)
    for tag in tags:
        files = {
            f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
            f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        record = "".join(f"{n},sha256={_digest(text)},{len(text)}\n" for n, text in files.items())
        with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as archive:
            for file, text in {**files, f"{stem}.dist-info/RECORD": record}.items():
                archive.writestr(file, text)
    _list(folder)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _list(folder: Path) -> None:
    links = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")


def binary(*machines: str) -> tuple[str, ...]:
    return tuple(f"cp{p.replace('.', '')}-cp{p.replace('.', '')}-manylinux_2_28_{m}" for p in PYTHONS for m in machines)


@pytest.fixture(scope="module")
def indexes(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """PyPI's stand-in, and the one of PyTorch's index of CPU builds."""
    pypi, cpu = tmp_path_factory.mktemp("pypi"), tmp_path_factory.mktemp("cpu")
    found = requirements(wheel)
    for need in {r.name: r for needs in found.values() for r in needs if r.name not in ("torch", "torch-npu")}.values():
        put(pypi, need.name, _version(need), *ON_TORCH.get(need.name, ()))
    for release in ("2.13.0", "2.14.0"):
        put(pypi, "torch", release, "nvidia-cublas", "nvidia-cudnn-cu13", tags=binary(*MACHINES))
        put(pypi, "torch-npu", release, f"torch=={release}", tags=binary(*MACHINES))
        put(cpu, "torch", f"{release}+cpu", tags=binary(*MACHINES))
    put(pypi, "nvidia-cublas", "13.1")
    put(pypi, "nvidia-cudnn-cu13", "9.1")
    own = pypi / "ascend-launch"
    own.mkdir()
    (own / wheel.name).symlink_to(wheel)
    _list(own)
    return pypi, cpu


def _version(need: Requirement) -> str:
    """The lowest that it allows."""
    return max((s.version for s in need.specifier if s.operator in (">=", "==")), default="1.0")


def resolved(words: list[str], indexes: tuple[Path, Path], folder: Path, *more: str) -> dict[str, str]:
    """What pip would install: version by name."""
    pypi, cpu = indexes
    words = [w.replace(CPU_INDEX, cpu.as_uri()) for w in words]
    report = folder / "report.json"
    done = quiet_pip(*more, "install", "--dry-run", "--quiet", "--report", report, *words, PIP_INDEX_URL=pypi.as_uri())
    assert 0 == done.returncode, done.stderr
    return {i["metadata"]["name"]: i["metadata"]["version"] for i in json.loads(report.read_text())["install"]}


def for_host(machine: str, python: str, folder: Path) -> list[str]:
    """Options for another interpreter and machine than this one; pip then looks at no package that is installed here."""
    tags = [o for system in ("manylinux_2_28", "manylinux2014") for o in ("--platform", f"{system}_{machine}")]
    return [*tags, "--python-version", python, "--only-binary", ":all:", "--target", str(folder / "target")]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", ["3.10", *(pytest.param(p, marks=pytest.mark.slow) for p in PYTHONS[1:-1]), "3.13"])
def test_every_line_for_a_node_takes_a_cpu_build(indexes: tuple[Path, Path], tmp_path: Path, machine: str, python: str):
    """Each by itself, so that neither order nor a pip that forgets the first line matters."""
    lines = pip_lines("README.md")[1:]
    found = [resolved([*line, *for_host(machine, python, tmp_path)], indexes, tmp_path) for line in lines]

    everything = {name for packages in found for name in packages}
    assert {"torch", "torch-npu", "transformers", "ascend-launch"} <= everything
    assert [] == [name for name in everything if name.startswith(("nvidia", "cuda", "triton"))]
    assert {"2.13.0+cpu"} == {packages["torch"] for packages in found if "torch" in packages}


def image_lines(**places: str) -> list[list[str]]:
    """The Dockerfile's, with places of packages here."""
    return [[places.get(w.strip("/"), w) for w in line] for line in test_image.pip_lines()]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_images_lines_take_a_cpu_build_and_this_checkout(
    indexes: tuple[Path, Path], wheel: Path, tmp_path: Path, machine: str
):
    """For the image's Python; its index is the user's, and the stand-in's here."""
    host = for_host(machine, test_image.default("PYTHON"), tmp_path)
    lines = image_lines(wheels=str(wheel.parent))
    lines[1][lines[1].index("--index-url") + 1] = indexes[0].as_uri()
    first, second = (resolved([*line, *host], indexes, tmp_path) for line in lines)

    assert {"2.13.0+cpu"} == {first["torch"], second["torch"]}
    assert {"ascend-launch", "torch-npu", "transformers", "deepspeed"} <= second.keys()
    assert [] == [name for name in {*first, *second} if name.startswith(("nvidia", "cuda"))]


def test_the_stand_ins_know_the_trap(indexes: tuple[Path, Path], tmp_path: Path):
    """Without PyTorch's index the same extra brings a CUDA torch: what these tests are about."""
    found = resolved(["ascend-launch[npu]", *for_host("x86_64", "3.11", tmp_path)], indexes, tmp_path)

    assert "2.13.0" == found["torch"] and "nvidia-cublas" in found


def test_a_pair_that_is_there_is_kept(indexes: tuple[Path, Path], tmp_path: Path):
    """README's two lines for an image, its own shell included."""
    (keep, install) = next(block for block in blocks("README.md") if "pair.txt" in block[0])
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for name, version in (("torch", "2.8.0+cpu"), ("torch_npu", "2.8.0.post2"), ("numpy", "1.26.4")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    there = ("--python", str(venv / "bin" / "python"))

    listed = quiet_pip(*there, *shlex.split(keep.split(" | ")[0])[1:])
    pair = subprocess.run(
        ["bash", "-c", keep.split(" | ")[1].split(" > ")[0]], input=listed.stdout, capture_output=True, text=True
    )
    (tmp_path / "pair.txt").write_text(pair.stdout)
    words = [str(tmp_path / w) if w == "pair.txt" else w for w in shlex.split(install, comments=True)[2:]]
    found = resolved(words, indexes, tmp_path, *there)

    assert ["torch==2.8.0+cpu", "torch_npu==2.8.0.post2"] == sorted(pair.stdout.split())
    assert "transformers" in found and "ascend-launch" in found
    assert {"torch", "torch-npu", "torch_npu"} & found.keys() == set()


def test_the_line_for_the_command_line_alone_brings_no_torch(indexes: tuple[Path, Path], tmp_path: Path):
    found = resolved([*pip_lines("README.md")[0], *for_host("aarch64", "3.10", tmp_path)], indexes, tmp_path)

    assert "ascend-launch" in found
    assert {"torch", "transformers", "accelerate", "deepspeed", "datasets"} & found.keys() == set()


def constraints(python: str) -> list[Requirement]:
    """tools/constraints.txt, for one Python."""
    lines = (REPO / "tools" / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return [r for r in found if r.marker is None or r.marker.evaluate({"python_version": python})]


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_name_each_package_once(python: str):
    names = [r.name for r in constraints(python)]

    assert sorted(set(names)) == sorted(names)
    assert {"transformers", "accelerate", "deepspeed", "datasets", "scikit-learn"} <= set(names)


def _reaches(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture
def registry() -> None:
    if not _reaches("pypi.org"):
        pytest.skip("packages cannot be downloaded: pypi.org does not answer")


OF_SOURCE = ("deepspeed", "jieba", "rouge-score", "seqeval")
"""The last three are plain Python."""


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_test_environment_exists_for_every_python(registry: None, tmp_path: Path, python: str, machine: str):
    """Each pinned release has a wheel for it, but for those that are published as source only."""
    pins = [f"{r.name}{r.specifier}" for r in constraints(python) if r.name not in OF_SOURCE]
    done = quiet_pip("install", "--dry-run", "--quiet", "--no-deps", *pins, *for_host(machine, python, tmp_path))

    assert 0 == done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "python"), [("x86_64", "3.11"), *(("aarch64", python) for python in PYTHONS)])
def test_the_node_lines_resolve_with_what_pypi_has(
    registry: None, indexes: tuple[Path, Path], wheel: Path, tmp_path: Path, machine: str, python: str
):
    """Real packages but for DeepSpeed and those of PyTorch's index, which stand-ins are for; every extra of a node."""
    pypi, cpu = indexes
    own = tmp_path / "links"
    own.mkdir()
    for path in (wheel, *(pypi / "deepspeed").glob("*.whl")):
        (own / path.name).symlink_to(path.resolve())
    report: Any = tmp_path / "report.json"
    words = [w.replace(CPU_INDEX, cpu.as_uri()) for w in pip_lines("README.md")[-1]]
    done = quiet_pip(
        "install",
        "--dry-run",
        "--quiet",
        "--report",
        report,
        *words,
        f"ascend-launch[{','.join(EXTRAS)}]",
        "--find-links",
        own,
        *for_host(machine, python, tmp_path),
    )

    assert 0 == done.returncode, done.stderr
    found = {i["metadata"]["name"]: i["metadata"]["version"] for i in json.loads(report.read_text())["install"]}
    assert ("2.13.0+cpu", "2.13.0") == (found["torch"], found.get("torch-npu", found.get("torch_npu")))
    assert {"peft", "gguf", "modelscope", "tensorboard"} <= found.keys()
    assert [] == [name for name in found if name.startswith(("nvidia", "cuda"))]


@pytest.mark.slow
def test_the_images_lines_resolve_with_what_pypi_has(
    registry: None, indexes: tuple[Path, Path], wheel: Path, tmp_path: Path
):
    """Its second line, for an aarch64 host; stand-ins as above."""
    links = tmp_path / "links"
    links.mkdir()
    for path in (wheel, *(indexes[0] / "deepspeed").glob("*.whl")):
        (links / path.name).symlink_to(path.resolve())
    words = [w.replace(CPU_INDEX, indexes[1].as_uri()) for w in image_lines(wheels=str(links))[-1]]
    host = for_host("aarch64", test_image.default("PYTHON"), tmp_path)
    done = quiet_pip("install", "--dry-run", "--quiet", *words, *host)

    assert 0 == done.returncode, done.stderr
