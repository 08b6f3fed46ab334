"""One environment per set, made by uv: it keeps what it downloads unpacked and links it into each."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LISTS = {"oldest": ROOT / "tools" / "constraints-oldest.txt", "tested": ROOT / "tools" / "constraints.txt"}
BESIDE_TORCH_NPU = ("decorator", "attrs", "cffi", "scipy", "sympy", "protobuf")
"""What torch_npu imports and its metadata does not name, as in the extra `npu`."""
CUDA_KEYS = (b"pinned_r", b"per_proc")
"""How the names begin that both register: a compiler may have cut them into eights."""
KEPT_FREE_GB = 10
NEEDED_GB = 8
"""What the largest environment takes when nothing of it has been downloaded."""


class DiskFullError(Exception):
    """Too little room for another environment."""


class UvError(Exception):
    """A line of uv that failed: a set's environment could not be made."""


@dataclass(frozen=True)
class Wanted:
    """A set as sets.yaml has it."""

    name: str
    python: str
    torch: str
    packages: str
    torch_npu: str = ""
    refused: tuple[str, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, row: Mapping[str, Any]) -> Wanted:
        own = {key: row[key] for key in ("python", "torch", "packages", "torch_npu") if key in row}
        pins = {key: str(value) for key, value in row.items() if key not in (*own, "refused")}
        return cls(name, **own, refused=tuple(row.get("refused", ())), pins=pins)


@dataclass(frozen=True)
class Environment:
    """A finished one."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def site(self) -> Path:
        (site,) = self.folder.glob("lib/python*/site-packages")
        return site

    def releases(self, names: tuple[str, ...]) -> dict[str, str]:
        """Of those of the packages that it has, torch's with what it was built for."""
        code = "import importlib.metadata as m, sys; print(*(f'{n}={m.version(n)}' for n in sys.argv[1:] if any(m.distributions(name=n))))"
        done = subprocess.run([self.python, "-c", code, *names], capture_output=True, text=True, check=True)
        return dict(word.split("=", 1) for word in done.stdout.split())


class Maker:
    """Makes environments below a folder, with uv's cache beside them."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides
        folder.mkdir(parents=True, exist_ok=True)
        self.uv = self._uv()
        self.env = {**os.environ, **_settings(), "UV_CACHE_DIR": str(folder / "uv")}

    def _uv(self) -> str:
        """The one on PATH, else one of our own."""
        if found := shutil.which("uv"):
            return found
        own = self.folder / "tool"
        if not (own / "bin" / "uv").exists():
            subprocess.run([sys.executable, "-m", "venv", own], check=True)
            subprocess.run([own / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"], check=True)
        return str(own / "bin" / "uv")

    def make(self, wanted: Wanted) -> Environment:
        """An environment of that set; one that is there is kept while what it is made of has not changed.

        Raises:
            DiskFullError: Neither this set nor a later one can be made.
            UvError: This one cannot.
        """
        made = Environment(self.folder / "sets" / wanted.name)
        lists = b"".join(path.read_bytes() for path in (ROOT / "pyproject.toml", *LISTS.values(), Path(__file__)))
        want = hashlib.sha256(lists + repr((wanted, self.overrides)).encode()).hexdigest()
        stamp = made.folder / ".ready"
        if stamp.is_file() and stamp.read_text() == want:
            return made
        self._check_room()
        self._run("venv", "--quiet", "--clear", "--python", wanted.python, made.folder)
        self._install_torch(made, wanted)
        self._install_rest(made, wanted)
        if wanted.torch_npu:
            self._pip(made, "--no-deps", f"torch-npu=={wanted.torch_npu}")
            self._pip(made, *BESIDE_TORCH_NPU, *self._constraints(made, wanted))
            _disguise(made)
        stamp.write_text(want)
        return made

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < KEPT_FREE_GB + NEEDED_GB:
            raise DiskFullError(f"{free:.0f} GB free in {self.folder}: {KEPT_FREE_GB + NEEDED_GB} are needed")

    def _install_torch(self, made: Environment, wanted: Wanted) -> None:
        """A CPU build where one can be had: of the user's own index or PyTorch's; else PyPI's."""
        cpu = f"torch=={wanted.torch}+cpu"
        for words in ([cpu], ["--index", CPU_INDEX, cpu]):
            if self._run("pip", "install", "--quiet", "--python", made.python, *words, check=False) == 0:
                return
        self._pip(made, f"torch=={wanted.torch}", *self._overridden())

    def _overridden(self) -> tuple[str | Path, ...]:
        path = self.folder / "overrides.txt"
        path.write_text("".join(f"{line}\n" for line in self.overrides))
        return "--override", path

    def _constraints(self, made: Environment, wanted: Wanted) -> tuple[str | Path, ...]:
        """The set's list, with the torch that is there."""
        text = LISTS[wanted.packages].read_text() if wanted.packages in LISTS else ""
        own = {"torch": made.releases(("torch",))["torch"], **wanted.pins}
        lines = [line for line in text.splitlines() if line.split("==")[0] not in own]
        path = self.folder / f"{wanted.name}.txt"
        path.write_text("\n".join([*lines, *(f"{name}=={version}" for name, version in own.items()), ""]))
        return "--constraint", path, *self._overridden()

    def _install_rest(self, made: Environment, wanted: Wanted) -> None:
        """What the launcher and a recipe need; of the launcher itself, the checkout."""
        extras = ("--extra", "train", "--extra", "lora")
        self._pip(made, "-r", ROOT / "pyproject.toml", *extras, "setuptools", *self._constraints(made, wanted))

    def _pip(self, made: Environment, *words: str | Path) -> None:
        self._run("pip", "install", "--quiet", "--python", made.python, *words)

    def _run(self, *words: str | Path, check: bool = True) -> int:
        done = subprocess.run([self.uv, *words], env=self.env, capture_output=True, text=True)
        if check and done.returncode:
            raise UvError(f"uv {' '.join(map(str, words))}\n{done.stderr[-3000:].strip()}")
        return done.returncode

    def remove(self, wanted: Wanted, names: tuple[str, ...]) -> None:
        """The environment, and those packages of the cache."""
        shutil.rmtree(self.folder / "sets" / wanted.name, ignore_errors=True)
        if names:
            self._run("cache", "clean", "--quiet", *names)


def _settings() -> dict[str, str]:
    """What uv reads, from what pip is configured with: an index of one's own may have CPU builds."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    pip = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    pip = {key.rpartition(".")[2]: value.strip("'\"").replace("\\n", " ") for key, value in pip.items()}
    known = {"UV_FIND_LINKS": "find-links", "UV_INDEX": "extra-index-url", "UV_DEFAULT_INDEX": "index-url"}
    found = {name: pip[key].strip() for name, key in {**known, "SSL_CERT_FILE": "cert"}.items() if pip.get(key)}
    return {
        **found,
        **{name: os.environ[name] for name in found if name in os.environ},
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip: the best of all indexes
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_HTTP_TIMEOUT": "180",
        "PYENV_VERSION": _pyenv(),
    }


def _pyenv() -> str:
    """All of pyenv's interpreters, where there is one: its python3.12 runs only when it is named."""
    if not shutil.which("pyenv"):
        return ""
    said = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout
    return ":".join(line.strip() for line in said.splitlines())


def _disguise(made: Environment) -> None:
    """Have a CUDA build of torch in this environment pass for a CPU build.

    Both it and later torch_npu register the same names of allocator settings, and the second to do so aborts the process; no
    CPU build does. So CUDA's get other names here, and torch/version.py no longer names CUDA, which the launcher refuses.
    """
    library = made.site() / "torch" / "lib" / "libc10_cuda.so"
    if not library.exists():
        return
    data = library.read_bytes()
    for key in CUDA_KEYS:
        data = data.replace(key, b"cuda" + key[4:])
    _rewrite(library, data)
    version = made.site() / "torch" / "version.py"
    _rewrite(version, re.sub(rb"(?m)^(cuda\b[^=\n]*=).*", rb"\1 None", version.read_bytes()))


def _rewrite(path: Path, data: bytes) -> None:
    """As another file: this one is linked into other environments."""
    path.unlink()
    path.write_bytes(data)
