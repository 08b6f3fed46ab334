"""Will a launch here work? Facts → findings, each with what, why and the fix. Every check is one small function.

A check takes the Context and returns a Finding; it reads files below `ctx.root` and asks commands through `ctx.run`, so a
test hands it a folder and recorded answers. The cheap ones run by themselves before every launch: no torch import, no
command, no network. Versions come from importlib.metadata.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher import places
from launcher.cluster import network, npu
from launcher.cluster.model import GIB, Chip, Device
from launcher.cluster.nodes import is_loopback, split_endpoint
from launcher.errors import EXIT_OK, EXIT_USER, LaunchError
from launcher.render import ranktable, sbatch
from launcher.strategies import table as strategies

Verdict = Literal["ok", "warn", "fail", "skip"]
_WORST = {"skip": 0, "ok": 1, "warn": 2, "fail": 3}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    ok: Verdict
    what: str
    """One sentence with the value in it."""
    why: str = ""
    """What goes wrong if it stays so."""
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Context:
    """Everything the checks look at. Plain values: no recipe or plan objects."""

    env: Mapping[str, str]
    device: Literal["npu", "cpu"]
    found: npu.Found
    """What npu.look saw of this node."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed packages; one that is missing is not in it."""
    python: tuple[int, int] = (sys.version_info[0], sys.version_info[1])
    root: Path = Path("/")
    """Where /dev, /proc, /sys and /usr/local are; another folder in tests."""
    run: npu.Runner = lambda argv: (npu.RC_MISSING, "")
    machine: str = platform.machine()
    nproc: int | None = None
    """Ranks wanted on this node."""
    num_nodes: int = 1
    rdzv_endpoint: str | None = None
    is_first_node: bool = True
    recognised: str = ""
    """The cluster's environment and the variables that told of it, as `plan` says them; "" where there is none."""
    unreadable: LaunchError | None = None
    """Why a launch would refuse what the environment says of its nodes."""
    precision: str = "auto"
    strategy: str = "auto"
    output_dir: Path | None = None
    """Where checkpoints go: the run directory of a launch."""
    loader_workers: int = 0
    """DataLoader workers of each rank."""
    checkpoint_bytes: int | None = None
    """Space that one checkpoint takes."""
    host_bytes: int | None = None
    """Main memory that this node's ranks need together."""
    report_to: tuple[str, ...] = ()
    """Trackers that the recipe names."""
    model_name: str | None = None
    is_program: bool = False
    """Whether the job is the user's own program: what a recipe needs is then not asked for."""
    hub: str = "huggingface"
    needs: tuple[str, ...] | None = None
    """The packages that the job imports, by the names of BOUNDS; None where no job was named."""
    cuda: str = ""
    """The CUDA release that the installed torch was built for; "" for a build without CUDA."""

    @property
    def visible(self) -> tuple[Device, ...]:
        """Devices that CANN will show this launch."""
        shown = set(npu.visible(self.env.get(npu.VISIBLE), len(self.found.devices)).indices)
        return tuple(d for d in self.found.devices if d.index in shown)

    @property
    def chip(self) -> Chip | None:
        return next((d.chip for d in self.found.devices if d.chip), None)

    def path(self, name: str) -> Path:
        """An absolute path below `root`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's text below `root`; "" where it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


Check = Callable[[Context], Finding]
TRACKERS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "swanlab": ("swanlab",),
    "mlflow": ("mlflow", "mlflow-skinny"),
}
"""training.report_to → the packages of which one is needed, on every node."""
BOUNDS: Mapping[str, str] = {
    "torch": ">=2.6",
    "transformers": ">=5.2,<6",
    "accelerate": ">=1.8,<2",
    "deepspeed": ">=0.16.9,<0.20",
    "datasets": ">=4",
    "evaluate": ">=0.4.5",
    "scikit-learn": ">=1.4",
    "peft": ">=0.18",
    "gguf": ">=0.10",
    "modelscope": ">=1.20",
}
"""What each package must be, as pyproject.toml's extras say it."""
EXTRA = {"peft": "lora", "gguf": "gguf", "modelscope": "modelscope"}
"""Packages of an extra of their own; the others are of [train]."""
PACKAGES = (
    "torch", "torch-npu", *(name for name in BOUNDS if name != "torch"), "triton-ascend",
    *(package for packages in TRACKERS.values() for package in packages),
)  # fmt: skip
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PAIR = "2.13.0"
"""The torch and torch_npu of the extra `npu`."""


def installed(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed, without importing one."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def context(device: Literal["npu", "cpu"], *, found: npu.Found | None = None, env: Mapping[str, str] | None = None,
            **values: Any) -> Context:  # fmt: skip
    """The Context of this machine."""
    env = dict(os.environ) if env is None else env
    found = npu.look(None, env) if found is None else found
    cuda = cuda_of(_torch_folder())
    return Context(env=env, device=device, found=found, versions=installed(), run=npu.runner(env), cuda=cuda, **values)


def _torch_folder() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def cuda_of(folder: Path | None) -> str:
    """The CUDA release that the torch in `folder` was built for; "" where it has none. Nothing is imported.

    PyPI's wheels are CUDA builds whose metadata says plain 2.13.0; torch/version.py and the libraries tell.
    """
    if folder is None:
        return ""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    said = re.search(r"(?m)^cuda\b[^=\n]*=\s*['\"]([^'\"]+)", text)
    if said:
        return said[1]
    return "of an unknown release" if (folder / "lib" / "libtorch_cuda.so").exists() else ""


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def skip(name: str, what: str) -> Finding:
    return Finding(name, "skip", what)


# --- versions ------------------------------------------------------------------------------------------------------

# CANN → the builds of torch_npu that were made for it. Ascend/pytorch, of its release 26.2.0: docs/zh/release_notes.md
# (9.2.0), and COMPATIBILITY.md with its rows for 26.1.1 (9.1). A build that is in no row is unknown here, which is not wrong.
CANN_FOR_TORCH_NPU: Mapping[str, tuple[str, ...]] = {
    "9.2.0": ("2.14.0", "2.13.0", "2.12.0.post3", "2.11.0.post3", "2.10.0.post7", "2.9.0.post9", "2.7.1.post11"),
    "9.1.0": ("2.12.0", "2.12.0.post2", "2.11.0", "2.11.0.post2", "2.10.0.post4", "2.10.0.post6", "2.9.0.post6",
              "2.9.0.post8", "2.7.1.post8", "2.7.1.post10"),
    "9.0.0": ("2.10.0", "2.9.0.post2", "2.8.0.post4", "2.7.1.post4"),
    "8.5.0": ("2.9.0", "2.8.0.post2", "2.7.1.post2", "2.6.0.post5"),
    "8.3.RC1": ("2.8.0", "2.7.1", "2.6.0.post3", "2.1.0.post17"),
    "8.2.RC1": ("2.6.0", "2.5.1.post1", "2.1.0.post13"),
    "8.1.RC1": ("2.5.1", "2.4.0.post4", "2.3.1.post6", "2.1.0.post12"),
    "8.0.0": ("2.4.0.post2", "2.3.1.post4", "2.1.0.post10"),
    "8.0.RC3": ("2.4.0", "2.3.1.post2", "2.1.0.post8"),
    "8.0.RC2": ("2.3.1", "2.2.0.post2", "2.1.0.post6"),
    "8.0.RC1": ("2.2.0", "2.1.0.post4"),
    "7.0.0": ("2.1.0",),
}  # fmt: skip
FREE_CANN = (8, 5)
"""Builds made for this CANN or a later one work with every CANN from here on (release notes of 26.2.0: TorchNPU 7.3 to
26.2 with CANN 8.5 to 9.2)."""
# (torch from, to) → (lowest, highest Python); the same release notes, and COMPATIBILITY.md for what they no longer list.
PYTHON_FOR_TORCH = (
    ((2, 11), (2, 14), (3, 10), (3, 14)),
    ((2, 9), (2, 10), (3, 10), (3, 14)),
    ((2, 7), (2, 8), (3, 9), (3, 13)),
    ((2, 5), (2, 6), (3, 9), (3, 11)),
    ((2, 1), (2, 4), (3, 8), (3, 11)),
)
NO_CUDA_FROM = (2, 10)
"""From here on torch_npu registers its allocator's settings with torch, where a CUDA build has registered the same ones:
the process is aborted as it loads. Older pairs load (2.8.0 and 2.9.0 beside CUDA 12.8 were tried)."""


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu → (2, 13, 0)."""
    m = re.match(r"\d{1,6}(?:\.\d{1,6})*", version)
    return tuple(int(n) for n in m.group().split(".")) if m else ()


def check_python(ctx: Context) -> Finding:
    name, have = "python", ".".join(map(str, ctx.python))
    torch = numbers(ctx.versions.get("torch", ""))[:2]
    row = next((r for r in PYTHON_FOR_TORCH if r[0] <= torch <= r[1]), None)
    if row is None or ctx.device == "cpu":
        return ok(name, f"Python {have}")
    if row[2] <= ctx.python <= row[3]:
        return ok(name, f"Python {have} suits torch_npu {'.'.join(map(str, torch))}")
    span = f"{row[2][0]}.{row[2][1]} to {row[3][0]}.{row[3][1]}"
    return Finding(name, "fail", f"Python {have} has no torch_npu {'.'.join(map(str, torch))} wheel", f"it exists for {span}",
                   f"make an environment with Python {span}")  # fmt: skip


def _fits(package: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(BOUNDS[package]).contains(version, prereleases=True)


def check_packages(ctx: Context) -> Finding:
    """What the job imports beside torch: there, and of a release that this launcher was made for."""
    needs = [n for n in BOUNDS if n not in EXTRA] if ctx.needs is None else ctx.needs
    have = {n: ctx.versions.get(n) for n in needs if n != "torch"}
    absent = [n for n, version in have.items() if version is None]
    wrong = [n for n, version in have.items() if version is not None and not _fits(n, version)]
    if not absent and not wrong:
        return ok("packages", ", ".join(f"{n} {version}" for n, version in have.items()) or "none is needed")
    extras = sorted({EXTRA.get(n, "train") for n in absent}, key=["train", *EXTRA.values()].index)
    words = [f"'ascend-launch[{','.join(extras)}]'"] if extras else []
    words += [f"'{n}{BOUNDS[n]}'" for n in wrong]
    what = [f"{', '.join(absent)} not installed"] if absent else []
    what += [f"{n} {have[n]} is not {BOUNDS[n]}" for n in wrong]
    return Finding("packages", "warn" if ctx.needs is None else "fail", "; ".join(what),
                   "a launch of a recipe that needs them is refused", f"pip install {' '.join(words)}")  # fmt: skip


def check_torch_pair(ctx: Context) -> Finding:
    """torch and torch_npu must agree to the third number; .postN only chooses the CANN release."""
    name, torch, torch_npu = "torch and torch_npu", ctx.versions.get("torch"), ctx.versions.get("torch-npu")
    if torch is None and ctx.is_program and ctx.device == "cpu":
        return skip(name, "torch is not installed")
    if torch is None or not _fits("torch", torch):
        what = "torch is not installed" if torch is None else f"torch {torch} is not {BOUNDS['torch']}"
        is_error = "torch" in (ctx.needs or ()) or (ctx.device == "npu" and torch is None)
        return Finding(name, "fail" if is_error else "warn", what, "no recipe can train", _torch_lines(ctx))
    if ctx.device == "cpu":
        return ok(name, f"torch {torch}")
    if torch_npu is None:
        return Finding(name, "fail", "torch_npu is not installed", "torch does not see the NPUs",
                       f"pip install torch-npu=={_release(torch)}")  # fmt: skip
    if numbers(torch)[:3] != numbers(torch_npu)[:3]:
        return Finding(name, "fail", f"torch {torch} with torch_npu {torch_npu}",
                       "torch_npu loads only into the torch of its own number",
                       f"pip install torch=={_release(torch_npu)} --index-url {CPU_INDEX}")  # fmt: skip
    if ctx.cuda or "+cu" in torch:
        built = f"torch {torch} is a CUDA build" + (f" (CUDA {ctx.cuda})" if ctx.cuda else "")
        # --force-reinstall: pip takes the version that is there for the one that is asked for.
        fix = f"pip install --force-reinstall --no-deps torch=={_release(torch)} --index-url {CPU_INDEX}"
        if numbers(torch)[:2] < NO_CUDA_FROM:
            return Finding(name, "warn", built, "it loads beside torch_npu, and is several GB that nothing uses", fix)
        return Finding(name, "fail", built, "the process is aborted when torch_npu loads: Duplicated key "
                       "'pinned_reserve_segment_size_mb'", fix)  # fmt: skip
    return ok(name, f"torch {torch}, torch_npu {torch_npu}")


def _torch_lines(ctx: Context) -> str:
    """The pip lines that bring a torch: the one of the torch_npu that is there, else a pair on cards and any on CPU."""
    torch_npu = ctx.versions.get("torch-npu", "")
    keeps = _fits("torch", torch_npu) if torch_npu else False
    if ctx.device == "cpu":
        return f"pip install '{'torch==' + _release(torch_npu) if keeps else 'torch' + BOUNDS['torch']}' --index-url {CPU_INDEX}"
    line = f"pip install torch=={_release(torch_npu) if keeps else PAIR} --index-url {CPU_INDEX}"
    return line if keeps else f"{line}, then pip install 'ascend-launch[npu]' --extra-index-url {CPU_INDEX}"


def _release(version: str) -> str:
    """2.13.0+cpu → 2.13.0."""
    return ".".join(map(str, numbers(version)[:3]))


def cann_version(ctx: Context) -> str | None:
    """The CANN release of the environment: version.cfg or an install.info below ASCEND_HOME_PATH."""
    home = ctx.env.get("ASCEND_HOME_PATH") or ctx.env.get("ASCEND_TOOLKIT_HOME")
    if not home:
        return None
    base = ctx.path(home)
    places = [base / "version.cfg", *sorted(base.glob("*-linux/ascend_toolkit_install.info")),
              *sorted(base.glob("share/info/*/version.info")), base / "ascend_toolkit_install.info"]  # fmt: skip
    for place in places:
        try:
            text = place.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if m := re.search(r":(\d+\.\d+\.[0-9A-Za-z.]+)\]", text) or re.search(r"(?mi)^version=(\d+\.\d+\.?\S*)", text):
            return m.group(1)
    return None


def check_cann(ctx: Context) -> Finding:
    name, torch_npu = "CANN", ctx.versions.get("torch-npu")
    have = cann_version(ctx)
    if have is None:
        return Finding(name, "warn", "the CANN release cannot be told", "an unsuitable CANN shows up as undefined symbols",
                       "source set_env.sh of the CANN to use")  # fmt: skip
    if torch_npu is None:
        return skip(name, f"CANN {have}; torch_npu is not installed")
    wanted = next((cann for cann, builds in CANN_FOR_TORCH_NPU.items() if torch_npu in builds), None)
    if wanted is None:
        return Finding(name, "warn", f"CANN {have} with torch_npu {torch_npu}: this build is in no table known here",
                       "it may well work", "compare with Ascend/pytorch COMPATIBILITY.md")  # fmt: skip
    made, found = numbers(wanted)[:2], numbers(have)[:2]
    if made == found or min(made, found) >= FREE_CANN:
        return ok(name, f"CANN {have} suits torch_npu {torch_npu}")
    what = f"CANN {have}, but torch_npu {torch_npu} was made for CANN {wanted}"
    others = next((builds for cann, builds in CANN_FOR_TORCH_NPU.items() if numbers(cann)[:2] == found), ())
    build = next((b for b in others if numbers(b)[:3] == numbers(torch_npu)[:3]), None)
    fix = f"pip install torch-npu=={build}" if build else f"source CANN {wanted}"
    if found > made:
        return Finding(name, "warn", what, "a newer CANN mostly works; an undefined symbol would come from this", fix)
    return Finding(name, "fail", what, "operators fail or symbols are missing", fix)


def check_transformers(ctx: Context) -> Finding:
    """transformers 4.50 and later move integers to CUDA under an older torch_npu (LLaMA-Factory issue 7986)."""
    name, have = "transformers", ctx.versions.get("transformers")
    if have is None:
        return skip(name, "not installed")
    torch_npu = ctx.versions.get("torch-npu")
    if ctx.device == "npu" and torch_npu and numbers(have) >= (4, 50) and numbers(torch_npu) < (2, 5, 1):
        return Finding(name, "fail", f"transformers {have} with torch_npu {torch_npu}",
                       "tensors are sent to CUDA: 'Torch not compiled with CUDA enabled'", "use torch_npu 2.5.1 or later")  # fmt: skip
    return ok(name, f"transformers {have}")


def check_fsdp2(ctx: Context) -> Finding:
    """Gradients times the number of ranks would train another model, without a word."""
    name, torch = "FSDP2 on CPU", ctx.versions.get("torch")
    strategy = strategies.chosen(ctx.strategy)
    since = strategy.averages_on_gloo_since if strategy is not None else None
    if since is None or ctx.device != "cpu" or torch is None or (ctx.nproc == 1 and ctx.num_nodes == 1):
        return skip(name, "not asked for")
    if numbers(torch)[:2] < since:
        return Finding(name, "fail", f"{ctx.strategy} on CPU ranks with torch {torch}",
                       "gloo sums gradients there where FSDP2 asks for their mean",
                       f"set parallel.strategy=ddp or zero2, or pip install 'torch>={since[0]}.{since[1]}'")  # fmt: skip
    return ok(name, f"torch {torch} averages")


def check_trackers(ctx: Context) -> Finding:
    """Every rank makes the tracker's callback, so its package is needed on every node."""
    name = "trackers"
    asked = [t for t in ctx.report_to if t != "none"]
    missing = [t for t in asked if t in TRACKERS and not any(p in ctx.versions for p in TRACKERS[t])]
    if missing:
        return Finding(name, "fail", f"training.report_to names {', '.join(missing)}, not installed here",
                       "every rank would end before the first step",
                       f"pip install {' '.join(missing)}, or set training.report_to=none")  # fmt: skip
    return ok(name, ", ".join(asked)) if asked else skip(name, "none asked for")


def check_autoload(ctx: Context) -> Finding:
    """On a machine without CANN an installed torch_npu makes `import torch` fail; a launch on CPU keeps torch from loading it."""
    name, value = "torch_npu without CANN", ctx.env.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    if ctx.device != "cpu" or "torch-npu" not in ctx.versions:
        return skip(name, "not a CPU run with torch_npu")
    if value == "0" or ctx.env.get("ASCEND_HOME_PATH"):
        return ok(name, "torch_npu is installed, and a CPU run does without it")
    return Finding(name, "fail", f"TORCH_DEVICE_BACKEND_AUTOLOAD={value}, and there is no CANN",
                   "`import torch` loads torch_npu, which fails on libhccl.so", "unset TORCH_DEVICE_BACKEND_AUTOLOAD")  # fmt: skip


# --- CANN's environment, driver, devices ---------------------------------------------------------------------------


def check_set_env(ctx: Context) -> Finding:
    """The four things torch_npu itself checks on import, and that one CANN was sourced, not two."""
    name = "CANN environment"
    fix = "source /usr/local/Ascend/ascend-toolkit/set_env.sh (CANN 8.5 and later: /usr/local/Ascend/cann/set_env.sh)"
    home, opp = ctx.env.get("ASCEND_HOME_PATH"), ctx.env.get("ASCEND_OPP_PATH")
    missing = [n for n, v in (("ASCEND_HOME_PATH", home), ("ASCEND_OPP_PATH", opp)) if not v]
    if missing:
        return Finding(name, "fail", f"{' and '.join(missing)} not set", "import torch_npu fails on libhccl.so", fix)
    assert home is not None and opp is not None
    for variable, value in (("ASCEND_HOME_PATH", home), ("ASCEND_OPP_PATH", opp)):
        if not ctx.path(value).exists():
            return Finding(name, "fail", f"{variable}={value} does not exist", "CANN was moved or is not mounted", fix)
    absent = [d for d in ("runtime", "compiler") if not (ctx.path(home) / d).exists()]
    if absent:
        return Finding(name, "warn", f"{home} has no {' and no '.join(absent)}", "only half of CANN is there",
                       "install the whole toolkit and the kernels of this chip")  # fmt: skip
    other = ctx.env.get("ASCEND_TOOLKIT_HOME")
    if other and ctx.path(other).resolve() != ctx.path(home).resolve():
        return Finding(name, "warn", f"two CANNs are mixed: {home} and {other}", "libraries of one load operators of the other",
                       "start a fresh shell and source one set_env.sh")  # fmt: skip
    return ok(name, home)


def check_driver(ctx: Context) -> Finding:
    name = "driver"
    nodes = npu.device_nodes(ctx.path("/dev"))
    in_container = ctx.path("/.dockerenv").exists() or "docker" in ctx.text("/proc/1/cgroup")
    mount = "pass the devices and mount /usr/local/Ascend/driver when the container is made" if in_container else ""
    if not nodes:
        return Finding(name, "fail", "no /dev/davinci* device", "this process cannot reach any NPU",
                       mount or "install the driver, or use --device cpu")  # fmt: skip
    absent = [d for d in ("davinci_manager", "devmm_svm", "hisi_hdc") if not ctx.path(f"/dev/{d}").exists()]
    if absent:
        return Finding(name, "fail", f"/dev/{absent[0]} is missing", "the driver cannot be opened",
                       mount or "reinstall the driver")  # fmt: skip
    version = npu.parse_fields(ctx.text("/usr/local/Ascend/driver/version.info")).get("Version")
    if version is None and not ctx.path("/usr/local/Ascend/driver").exists():
        return Finding(name, "fail", "/usr/local/Ascend/driver is missing", "libascend_hal.so will not be found",
                       mount or "install the driver")  # fmt: skip
    return ok(name, f"driver {version or ctx.found.driver_version or '(version unknown)'}, {len(nodes)} devices")


def check_permission(ctx: Context) -> Finding:
    name = "device permission"
    nodes = npu.device_nodes(ctx.path("/dev"))
    closed = [n for n in nodes if not os.access(ctx.path(f"/dev/davinci{n}"), os.R_OK | os.W_OK)]
    if closed:
        return Finding(name, "fail", f"/dev/davinci{closed[0]} may not be opened", "device initialisation fails (507899)",
                       "add the user to group HwHiAiUser and log in again")  # fmt: skip
    return ok(name, f"{len(nodes)} devices may be opened") if nodes else skip(name, "no devices")


def check_npu_smi(ctx: Context) -> Finding:
    name, problem = "npu-smi", ctx.found.problem
    if problem is not None:
        level: Verdict = "warn" if problem.what.endswith("not on PATH") else "fail"
        return Finding(name, level, problem.what, "health and free memory are unknown", problem.hint)
    return ok(name, f"{len(ctx.found.devices)} devices, driver {ctx.found.driver_version or '?'}")


def check_chip(ctx: Context) -> Finding:
    name = "chip"
    names = sorted({d.name for d in ctx.found.devices if d.name})
    if not names:
        return skip(name, "npu-smi did not say")
    if len(names) > 1:
        return Finding(name, "warn", f"different chips in one node: {', '.join(names)}", "a job runs at the slowest one's pace",
                       "choose cards of one kind with ASCEND_RT_VISIBLE_DEVICES")  # fmt: skip
    if ctx.chip is not None and not ctx.chip.trainable:
        return Finding(
            name, "fail", f"{names[0]} is for inference", "it has no links between cards", "train on 910 or 950 cards"
        )
    return ok(name, names[0] if ctx.chip else f"{names[0]}, unknown to this launcher")


def check_health(ctx: Context) -> Finding:
    name, shown = "health", ctx.visible
    sick = [d for d in shown if not d.is_usable]
    if sick:
        d = sick[0]
        good = ",".join(str(x.index) for x in shown if x.is_usable)
        return Finding(name, "fail", f"card {d.index} is in state {d.health}", "the job would end on that card",
                       f"export {npu.VISIBLE}={good}; see `npu-smi info -t health -i {d.npu_id} -c {d.chip_id}`")  # fmt: skip
    doubtful = [d for d in shown if d.health == "Warning"]
    if doubtful:
        d = doubtful[0]
        return Finding(name, "warn", f"card {d.index} is in state Warning", "it may fail during a long run",
                       f"see `npu-smi info -t health -i {d.npu_id} -c {d.chip_id}`")  # fmt: skip
    known = [d for d in shown if d.health.upper() == "OK"]
    return ok(name, f"{len(known)} cards OK") if known else skip(name, "unknown")


def check_health_codes(ctx: Context) -> Finding:
    """The error codes of cards that are not OK. Asks npu-smi once per card."""
    name = "health codes"
    for d in (d for d in ctx.found.devices if d.health not in ("OK", "UNKNOWN") and d.npu_id is not None):
        argv = ["npu-smi", "info", "-t", "health", "-i", str(d.npu_id), "-c", str(d.chip_id or 0)]
        rc, text = ctx.run(argv)
        health = npu.parse_health(text) if rc == 0 else None
        if health is not None and health.codes:
            return Finding(name, "warn", f"card {d.index}: {' '.join(health.codes)}", health.information,
                           "look the codes up in the driver's list of health codes, or send them to support")  # fmt: skip
    return ok(name, "none")


IDLE_BYTES = int(4.5 * GIB)
"""An idle 64 GB card shows about 3.4 GB in use, which is the driver's own."""


def check_busy(ctx: Context) -> Finding:
    name = "busy cards"
    busy = [(d, p) for d in ctx.visible for p in d.processes]
    if busy:
        d, p = busy[0]
        who = f"process {p.pid}" + (f" ({p.name})" if p.name else "")
        more = f", and {len(busy) - 1} more" if len(busy) > 1 else ""
        return Finding(name, "fail", f"card {d.index} is used by {who} with {p.hbm_bytes / GIB:.1f} GiB{more}",
                       "two jobs on a card run out of memory, or fail to bind port 16666",
                       f"end it (kill {p.pid}), wait 10 s; or leave the card out with {npu.VISIBLE}")  # fmt: skip
    full = [d for d in ctx.visible if d.hbm_used_bytes > IDLE_BYTES and d.hbm_bytes]
    if full:
        d = full[0]
        return Finding(name, "warn", f"card {d.index} has {d.hbm_used_bytes / GIB:.1f} GiB in use by nobody that is listed",
                       "a process of another container, or one that is ending",
                       "look on the host; npu-smi in a container shows its own processes only")  # fmt: skip
    if not ctx.found.has_process_table:
        return skip(name, "this npu-smi lists no processes")
    return ok(name, "no process on any card")


def check_hbm(ctx: Context) -> Finding:
    name = "free HBM"
    known = [d for d in ctx.visible if d.hbm_bytes]
    if not known:
        return skip(name, "unknown")
    least = min(known, key=lambda d: d.hbm_free_bytes)
    sizes = {round(d.hbm_bytes / GIB) for d in known}
    text = f"{least.hbm_free_bytes / GIB:.1f} GiB free on card {least.index}, the fullest of {len(known)}"
    if len(sizes) > 1:
        return Finding(name, "warn", f"cards of {' and '.join(map(str, sorted(sizes)))} GiB in one node",
                       "the smallest decides what fits", "choose cards of one size")  # fmt: skip
    if least.hbm_free_bytes < least.hbm_bytes * 0.85:
        return Finding(name, "warn", text, "the plan counts on a free card", "end what holds it; see busy cards")
    return ok(name, text)


def check_visible(ctx: Context) -> Finding:
    name, value = npu.VISIBLE, ctx.env.get(npu.VISIBLE)
    count = len(ctx.found.devices)
    if value is None:
        return ok(name, f"not set: all {count} cards")
    if not count:
        return skip(name, f"{value!r}; the number of cards is unknown")
    result = npu.visible(value, count)
    if result.problems:
        fix = f"export {npu.VISIBLE}={result.suggestion}" if result.suggestion else f"unset {npu.VISIBLE}"
        return Finding(name, "fail", result.problems[0], f"CANN would show {len(result.indices)} of {count} cards", fix)
    return ok(name, f"{value}: {len(result.indices)} of {count} cards")


def check_count(ctx: Context) -> Finding:
    name, have = "ranks and cards", len(ctx.visible)
    if ctx.nproc is None:
        return skip(name, f"{have} cards visible")
    if ctx.nproc > have:
        return Finding(name, "fail", f"{ctx.nproc} ranks are wanted, {have} cards are visible",
                       "the ranks beyond the last card fail with 107001", f"use --nproc {have}" if have else "see driver")  # fmt: skip
    return ok(name, f"{ctx.nproc} ranks on {have} cards")


def check_bf16(ctx: Context) -> Finding:
    name = "bf16"
    if ctx.chip is None:
        return skip(name, "the chip is unknown")
    if ctx.chip.supports_bf16:
        return ok(name, f"{ctx.chip.soc} computes in bf16")
    if ctx.precision == "bf16":
        return Finding(
            name, "fail", f"{ctx.chip.soc} has no bf16", "the Trainer refuses to start", "parallel.precision=fp16"
        )
    return ok(name, f"{ctx.chip.soc} has no bf16; precision auto takes fp16")


# --- variables -----------------------------------------------------------------------------------------------------

# HCCL's documentation, one page per variable: lowest, highest.
HCCL_RANGES: Mapping[str, tuple[int, int]] = {
    "HCCL_CONNECT_TIMEOUT": (120, 7200),
    "HCCL_EXEC_TIMEOUT": (0, 2_147_483_647),
    "HCCL_IF_BASE_PORT": (1024, 65520),
    "HCCL_BUFFSIZE": (1, 2_147_483_647),
    "HCCL_RDMA_TC": (0, 255),
    "HCCL_RDMA_SL": (0, 7),
    "HCCL_RDMA_TIMEOUT": (5, 24),
    "HCCL_RDMA_RETRY_CNT": (1, 7),
    "HCCL_RDMA_QPS_PER_CONNECTION": (1, 32),
    "HCCL_WHITELIST_DISABLE": (0, 1),
    "HCCL_INTRA_PCIE_ENABLE": (0, 1),
    "HCCL_INTRA_ROCE_ENABLE": (0, 1),
    "TORCH_HCCL_ASYNC_ERROR_HANDLING": (0, 3),
    "TASK_QUEUE_ENABLE": (0, 2),
    "ASCEND_LAUNCH_BLOCKING": (0, 1),
    "ASCEND_GLOBAL_LOG_LEVEL": (0, 4),
}


def check_hccl_ranges(ctx: Context) -> Finding:
    name = "HCCL variables"
    for variable, (low, high) in HCCL_RANGES.items():
        value = ctx.env.get(variable)
        if value is None:
            continue
        if not re.fullmatch(r"\d{1,10}", value) or not low <= int(value) <= high:
            return Finding(name, "fail", f"{variable}={value} is not in {low} to {high}",
                           "HCCL refuses to start (EI0001)", f"correct it, or unset {variable}")  # fmt: skip
    connect, execute = ctx.env.get("HCCL_CONNECT_TIMEOUT", "120"), ctx.env.get("HCCL_EXEC_TIMEOUT", "1836")
    if execute != "0" and int(connect) >= int(execute):
        return Finding(name, "warn", f"HCCL_CONNECT_TIMEOUT={connect} is not below HCCL_EXEC_TIMEOUT={execute}",
                       "a rank that comes late then looks like one that hangs", "raise HCCL_EXEC_TIMEOUT")  # fmt: skip
    family = ctx.env.get("HCCL_SOCKET_FAMILY")
    if family not in (None, "AF_INET", "AF_INET6"):
        return Finding(
            name, "fail", f"HCCL_SOCKET_FAMILY={family}", "only AF_INET and AF_INET6 are known", "correct or unset it"
        )
    return ok(name, "in range")


def check_allocator(ctx: Context) -> Finding:
    """torch_npu on torch 2.10 and later reads both names, and raises where both are set."""
    name = "allocator variables"
    ours, theirs = ctx.env.get("PYTORCH_NPU_ALLOC_CONF"), ctx.env.get("PYTORCH_ALLOC_CONF")
    if ours is not None and theirs is not None:
        return Finding(name, "fail", "PYTORCH_NPU_ALLOC_CONF and PYTORCH_ALLOC_CONF are both set", "torch_npu raises on import",
                       "unset PYTORCH_ALLOC_CONF")  # fmt: skip
    value = ours or theirs or ""
    if "expandable_segments:True" in value and re.search("max_split_size_mb|garbage_collection_threshold", value):
        return Finding(name, "fail", f"{value!r} mixes expandable_segments with settings it does not go with",
                       "torch_npu raises at the first allocation", "keep expandable_segments:True alone")  # fmt: skip
    return ok(name, value or "not set")


NO_EFFECT = {
    "NPU_VISIBLE_DEVICES": f"use {npu.VISIBLE}",
    "CUDA_VISIBLE_DEVICES": f"use {npu.VISIBLE}",
    "NCCL_SOCKET_IFNAME": "use HCCL_SOCKET_IFNAME",
    "HCCL_ASYNC_ERROR_HANDLING": "use TORCH_HCCL_ASYNC_ERROR_HANDLING",
}


def check_no_effect(ctx: Context) -> Finding:
    name = "variables without effect"
    found = [v for v in NO_EFFECT if ctx.env.get(v)]
    if found:
        return Finding(name, "warn", f"{found[0]}={ctx.env[found[0]]} does nothing on NPUs", "what it was set for does not happen",
                       f"unset {found[0]}; {NO_EFFECT[found[0]]}")  # fmt: skip
    return ok(name, "none")


def check_queue(ctx: Context) -> Finding:
    name = "blocking launch"
    if ctx.env.get("ASCEND_LAUNCH_BLOCKING") == "1":
        return Finding(name, "warn", "ASCEND_LAUNCH_BLOCKING=1", "every operator waits: good stack traces, slow training",
                       "unset it for real runs")  # fmt: skip
    return ok(name, "off")


# --- network -------------------------------------------------------------------------------------------------------


def interfaces(ctx: Context) -> list[str]:
    try:
        return sorted(p.name for p in ctx.path("/sys/class/net").iterdir())
    except OSError:
        return []


def ifname_matches(value: str, names: Sequence[str]) -> list[str]:
    """What HCCL_SOCKET_IFNAME chooses: `eth` is a prefix, `=eth0` exact, `^` turns the list round."""
    is_not, rest = value.startswith("^"), value.removeprefix("^")
    is_exact, rest = rest.startswith("="), rest.removeprefix("=")
    wanted = [w for w in rest.split(",") if w]
    hit = [n for n in names if any(n == w if is_exact else n.startswith(w) for w in wanted)]
    return [n for n in names if n not in hit] if is_not else hit


def check_interface(ctx: Context) -> Finding:
    name, names = "network interface", interfaces(ctx)
    for variable in ("HCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = ctx.env.get(variable)
        if value and names and not ifname_matches(value, names):
            return Finding(name, "fail", f"{variable}={value} names no interface of this host ({', '.join(names)})",
                           "ranks cannot meet (EI0001)", f"set {variable} to one of them; where hosts differ use HCCL_IF_IP")  # fmt: skip
    if ctx.num_nodes > 1 and not (ctx.env.get("HCCL_SOCKET_IFNAME") or ctx.env.get("HCCL_IF_IP")):
        return ok(name, "chosen when the nodes meet: the one towards the first node")
    return ok(name, ctx.env.get("HCCL_SOCKET_IFNAME") or "chosen by HCCL")


def bound_ports(ctx: Context, ports: Iterable[int]) -> list[int]:
    """Those of `ports` on which somebody listens, from /proc/net/tcp and tcp6: nothing is opened to find out."""
    wanted, taken = set(ports), set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in ctx.text(file).splitlines()[1:]:
            cells = line.split()
            if len(cells) > 3 and cells[3] == "0A":  # TCP_LISTEN
                taken.add(int(cells[1].rpartition(":")[2], 16))
    return sorted(wanted & taken)


def check_hccl_ports(ctx: Context) -> Finding:
    name = "HCCL ports"
    text = ctx.env.get("HCCL_IF_BASE_PORT", "60000")
    base = int(text) if re.fullmatch(r"\d{1,5}", text) else 60000
    if ctx.env.get("HCCL_HOST_SOCKET_PORT_RANGE"):
        return ok(name, f"chosen from {ctx.env['HCCL_HOST_SOCKET_PORT_RANGE']}")
    taken = bound_ports(ctx, range(base, base + 32))
    if taken and "HCCL_IF_BASE_PORT" not in ctx.env:
        return ok(name, f"port {taken[0]} is taken; a launch takes the next 32 that are free on all nodes")
    if taken:
        return Finding(name, "fail", f"port {taken[0]} is taken; HCCL wants {base} to {base + 31}",
                       "another job runs here, or did until now (EI0019)",
                       "end it, or unset HCCL_IF_BASE_PORT: a launch finds free ones")  # fmt: skip
    return ok(name, f"{base} to {base + 31} are free")


def check_reserved_ports(ctx: Context) -> Finding:
    """An outgoing connection may be given one of HCCL's ports unless they are reserved."""
    name = "reserved ports"
    text = ctx.text("/proc/sys/net/ipv4/ip_local_port_range").split()
    if len(text) != 2 or not all(t.isdigit() for t in text):
        return skip(name, "the port range cannot be read")
    low, high = int(text[0]), int(text[1])
    if not low <= 60000 <= high:
        return ok(name, f"outgoing connections use {low} to {high}")
    reserved = ctx.text("/proc/sys/net/ipv4/ip_local_reserved_ports").strip()
    spans = [[int(n) for n in part.split("-")] for part in reserved.split(",") if re.fullmatch(r"\d+(-\d+)?", part)]
    if any(s[0] <= 60000 and s[-1] >= 60031 for s in spans):
        return ok(name, "60000 to 60031 are reserved")
    return Finding(name, "warn", f"outgoing connections may take HCCL's ports ({low} to {high})", "a launch fails now and then",
                   "sysctl -w net.ipv4.ip_local_reserved_ports=60000-60031")  # fmt: skip


def check_cluster(ctx: Context) -> Finding:
    """Which environment was recognised, and by which variables."""
    name = "cluster"
    if ctx.unreadable is not None:
        return Finding(name, "fail", ctx.unreadable.what, "a launch here is refused", ctx.unreadable.hint)
    if not ctx.recognised:
        return ok(name, "no environment recognised" + (": one node" if ctx.num_nodes == 1 else ""))
    return ok(name, f"{ctx.num_nodes} node{'s' if ctx.num_nodes > 1 else ''}; {ctx.recognised}")


def check_slurm_cards(ctx: Context) -> Finding:
    """Asks the controller what the job was given."""
    name, job = "Slurm's cards", ctx.env.get("SLURM_JOB_ID")
    if not job or not ctx.recognised.startswith("Slurm"):
        return skip(name, "not a job of Slurm's")
    rc, text = ctx.run(["scontrol", "show", "job", "--oneliner", job])
    if rc != 0:
        return skip(name, f"scontrol does not say what job {job} was given")
    asked = re.search(r"\bTresPerNode=(\S+)", text)
    cards = sbatch.cards(asked[1]) if asked else None
    if cards is None and re.search(r"\bOverSubscribe=NO\b", text):
        return ok(name, f"job {job} has its nodes to itself")
    if cards is None:
        return Finding(name, "warn", f"job {job} asked for no card by the name npu" + (f": {asked[1]}" if asked else ""),
                       "Slurm may give the same cards to another job", "ask with --gres=npu:N, or for whole nodes with --exclusive")  # fmt: skip
    if ctx.nproc is not None and ctx.nproc > cards:
        return Finding(name, "fail", f"job {job} has {cards} cards a node, and {ctx.nproc} ranks are wanted",
                       "ranks would take cards of another job", f"--gres=npu:{ctx.nproc}, or --nproc {cards}")  # fmt: skip
    return ok(name, f"job {job} has {cards} a node")


def check_rendezvous(ctx: Context) -> Finding:
    name = "rendezvous"
    if ctx.rdzv_endpoint is None:
        return ok(name, "a free port is taken at launch")
    try:
        host, port = split_endpoint(ctx.rdzv_endpoint)
    except LaunchError as error:
        return Finding(name, "fail", error.what, "the nodes cannot meet", error.hint)
    if ctx.is_first_node and bound_ports(ctx, [port]):
        return Finding(name, "fail", f"port {port} is taken on this, the first node", "the nodes cannot meet",
                       "end the other job (`ss -ltnp`), or choose another port on all nodes")  # fmt: skip
    return ok(name, f"{host}:{port}")


def check_way(ctx: Context) -> Finding:
    """Which interface gloo and HCCL will be given. Asks the resolver, which may take seconds."""
    name = "way to the first node"
    if ctx.rdzv_endpoint is None:
        return skip(name, "one node")
    try:
        host, _ = split_endpoint(ctx.rdzv_endpoint)
    except LaunchError:
        return skip(name, "not HOST:PORT")
    try:
        address = str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        return Finding(
            name, "fail", f"{host} cannot be resolved: {error}", "the nodes cannot meet", "use its IP address"
        )
    way = network.route_to(address)
    if way is None:
        return Finding(name, "fail", f"no way leads from here to {host}", "the nodes cannot meet",
                       "look at `ip route`, or name an address of node 0 that all nodes reach")  # fmt: skip
    if not ctx.is_first_node and is_loopback(way.peer):
        return Finding(name, "fail", f"{host} is {way.peer} here, which is this node", "the nodes cannot meet",
                       "give node 0's own address in --rdzv-endpoint, or correct /etc/hosts")  # fmt: skip
    chosen = ctx.env.get("GLOO_SOCKET_IFNAME")
    if chosen and way.interface and not is_loopback(way.peer) and way.interface not in chosen.split(","):
        return Finding(name, "warn", f"GLOO_SOCKET_IFNAME={chosen}, and the way to {host} is {way.interface}",
                       "your value is kept, and gloo may listen where no other node reaches it", "unset it: a launch sets it")  # fmt: skip
    return ok(name, f"{host} is {way.peer}, by {way.interface or 'an interface without a name'} ({way.own})")


def check_tls(ctx: Context) -> Finding:
    """Asks hccn_tool once per card."""
    name, tool = "TLS switch", "/usr/local/Ascend/driver/tools/hccn_tool"
    states: dict[int, int] = {}
    for d in ctx.found.devices:
        rc, text = ctx.run([tool, "-i", str(d.physical_id if d.physical_id is not None else d.index), "-tls", "-g"])
        state = npu.parse_tls(text) if rc == 0 else None
        if state is not None:
            states[d.index] = state
    if not states:
        return skip(name, "hccn_tool does not say (it needs root)")
    if len(set(states.values())) > 1:
        off = [str(i) for i, s in states.items() if s == 0]
        return Finding(name, "fail", f"off on cards {', '.join(off)}, on elsewhere", "links fail (EI0016)",
                       "hccn_tool -i N -tls -s enable 0 on every card of every node")  # fmt: skip
    return ok(name, f"{'on' if next(iter(states.values())) else 'off'} on all {len(states)} cards")


def check_page_size(ctx: Context) -> Finding:
    name = "page size"
    if ctx.num_nodes == 1 or ctx.chip is None or ctx.chip.family != "A2":
        return skip(name, "matters on A2 with several nodes")
    rc, text = ctx.run(["getconf", "PAGESIZE"])
    wanted = ctx.env.get("HCCL_RDMA_PCIE_DIRECT_POST_NOSTRICT")
    if rc == 0 and text.strip() not in ("", "4096") and wanted != "TRUE":
        return Finding(name, "warn", f"pages of {text.strip()} bytes", "RDMA between nodes may fail on A2",
                       "export HCCL_RDMA_PCIE_DIRECT_POST_NOSTRICT=TRUE on all nodes")  # fmt: skip
    return ok(name, text.strip() or "unknown")


# --- rank table ----------------------------------------------------------------------------------------------------


def check_rank_table(ctx: Context) -> Finding:
    """An inherited one. A launch of ours unsets it; other launchers hand it on."""
    name, value = "RANK_TABLE_FILE", ctx.env.get("RANK_TABLE_FILE")
    if not value:
        return ok(name, "not set; torch_npu needs none")
    path = ctx.path(value)
    if path.is_symlink():
        what, why = f"{value} is a link", "HCCL refuses links (EI0004)"
    elif not path.is_file():
        what, why = f"{value} does not exist", "torch_npu goes on without it and says nothing"
    else:
        problems = ranktable.check(ctx.text(value))
        what = f"{value}: {problems[0]}" if problems else f"{value} is inherited"
        why = "the first collective fails (EI0004, EI0014)" if problems else "it may be of another job"
    return Finding(
        name, "warn", f"{what}; a launch unsets it", why, "unset RANK_TABLE_FILE, or ask for one with --rank-table FILE"
    )


# --- host ----------------------------------------------------------------------------------------------------------


def check_compiler(ctx: Context) -> Finding:
    """DeepSpeed builds its CPU Adam when it is first used; torch 2.12 and later need C++20."""
    name = "compiler"
    strategy = strategies.chosen(ctx.strategy)
    if strategy is None or not strategy.offloads_optimizer:
        return skip(name, "only CPU offload compiles something")
    path = ctx.env.get("PATH")
    absent = [t for t in ("g++", "ninja") if shutil.which(t, path=path) is None]
    if absent:
        return Finding(name, "fail", f"{' and '.join(absent)} not found", "DeepSpeed cannot build its CPU optimizer",
                       f"install {' and '.join(absent)}, or choose a strategy without offload")  # fmt: skip
    if ctx.device == "npu" and not ctx.env.get("ASCEND_HOME_PATH"):
        return Finding(
            name, "fail", "ASCEND_HOME_PATH is not set", "DeepSpeed's build reads it", "source CANN's set_env.sh"
        )
    return ok(name, "g++ and ninja are there")


def check_disk(ctx: Context) -> Finding:
    name = "disk"
    if ctx.output_dir is None:
        return skip(name, "no output folder given")
    place = next(p for p in (ctx.output_dir.absolute(), *ctx.output_dir.absolute().parents) if p.exists())
    elsewhere = "name another folder: --run-dir or output_dir="
    if why := places.obstacle(place):
        fix = places.Place(name, place, elsewhere).fix(why)
        return Finding(name, "fail", f"{place} cannot be written to: {why}", "no checkpoint can be saved", fix)
    free = shutil.disk_usage(place).free
    # save_total_limit of 2: the new checkpoint is written before the oldest goes.
    need = 3 * ctx.checkpoint_bytes if ctx.checkpoint_bytes else GIB
    if free < need:
        wants = f"three checkpoints take {need / GIB:.1f}" if ctx.checkpoint_bytes else "checkpoints may take more"
        return Finding(name, "fail" if ctx.checkpoint_bytes else "warn", f"{free / GIB:.1f} GiB free at {place}, {wants}",
                       "a save in the middle of the run fails and leaves half a checkpoint",
                       f"free space, {elsewhere}, or save_only_model=true")  # fmt: skip
    return ok(name, f"{free / GIB:.1f} GiB free at {place}")


def check_places(ctx: Context) -> Finding:
    """A cache that is whole already is only read, so that this alone ends no launch."""
    name = "caches"
    try:
        tempfile.gettempdir()
        found = [(place, why) for place in places.of_job(ctx.env) if (why := places.obstacle(place.path))]
    except LaunchError as error:
        return Finding(name, "fail", error.what, "nothing can be kept between runs", error.hint)
    except FileNotFoundError as error:
        refused = places.no_temporary(error)
        return Finding(name, "fail", refused.what, "programs and libraries cannot start", refused.hint)
    if not found:
        return ok(name, "caches and temporary files can be written")
    what = "; ".join(f"{place.name}, {place.path}: {why}" for place, why in found)
    return Finding(name, "warn", what, "what is not there already cannot be downloaded or prepared",
                   "; ".join(dict.fromkeys(place.fix(why) for place, why in found)))  # fmt: skip


def memory_limit_bytes(ctx: Context) -> int | None:
    """Main memory that can be had now: MemAvailable, or what the container's limit leaves."""
    m = re.search(r"MemAvailable:\s+(\d+) kB", ctx.text("/proc/meminfo"))
    available = int(m.group(1)) * 1024 if m else None
    limit, used = ctx.text("/sys/fs/cgroup/memory.max").strip(), ctx.text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        left = max(0, int(limit) - int(used))
        return left if available is None else min(left, available)
    return available


def check_host_memory(ctx: Context) -> Finding:
    name, have = "main memory", memory_limit_bytes(ctx)
    if have is None:
        return skip(name, "unknown")
    if ctx.host_bytes and ctx.host_bytes > have:
        return Finding(name, "fail", f"{have / GIB:.0f} GiB can be had, the ranks need {ctx.host_bytes / GIB:.0f}",
                       "the kernel ends a rank with exit code -9", "use fewer ranks, no offload, or a larger machine")  # fmt: skip
    return ok(name, f"{have / GIB:.0f} GiB can be had")


def check_shm(ctx: Context) -> Finding:
    """Docker's default of 64 MB is too little for DataLoader workers."""
    name = "shared memory"
    try:
        usage = shutil.disk_usage(ctx.path("dev") / "shm")
    except OSError:
        return skip(name, "not there")
    if why := places.obstacle(ctx.path("dev") / "shm"):
        fix = places.SHARED_MEMORY_HINT + (", or say training.dataloader_num_workers=0" if ctx.loader_workers else "")
        return Finding(name, "fail" if ctx.loader_workers else "warn", f"cannot be written to: {why}",
                       "DataLoader workers hand their batches over in /dev/shm", fix)  # fmt: skip
    if usage.total < GIB:
        return Finding(name, "warn", f"{usage.total / GIB:.2f} GiB", "DataLoader workers end with a bus error",
                       places.SHARED_MEMORY_HINT)  # fmt: skip
    return ok(name, f"{usage.total / GIB:.0f} GiB")


def check_ulimit(ctx: Context) -> Finding:
    name = "open files"
    m = re.search(r"Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)", ctx.text("/proc/self/limits"))
    if m is None:
        return skip(name, "unknown")
    needed = network.files_needed(ctx.num_nodes, ctx.num_nodes * (ctx.nproc or 1))
    if ctx.num_nodes > 1 and ctx.is_first_node and m.group(2) != "unlimited" and int(m.group(2)) < needed:
        return Finding(name, "fail", f"the first node may open {int(m.group(2)):,} (ulimit -Hn), and {ctx.num_nodes:,} nodes with "
                       f"{ctx.nproc or 1} ranks each need {needed:,}", "each node and each rank has a connection to it",
                       f"raise the hard limit there to {needed}: /etc/security/limits.conf, systemd's LimitNOFILE, the container's --ulimit")  # fmt: skip
    if m.group(1) != "unlimited" and int(m.group(1)) < 4096:
        return Finding(name, "warn", f"at most {m.group(1)}", "many DataLoader workers run out", "ulimit -n 65536")
    return ok(name, m.group(1))


# --- model ---------------------------------------------------------------------------------------------------------


def is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".")


def hub_cache(ctx: Context) -> Path:
    """huggingface_hub's folder of downloaded models."""
    env = ctx.env
    home = env.get("HF_HOME") or str(
        Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "/root")) / ".cache") / "huggingface"
    )
    return Path(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub")


def is_cached(ctx: Context, model: str) -> bool:
    snapshots = hub_cache(ctx) / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        return any((s / "config.json").exists() for s in snapshots.iterdir())
    except OSError:
        return False


def check_model(ctx: Context) -> Finding:
    name, model = "model", ctx.model_name
    if not model:
        return skip(name, "no recipe given")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ok(name, f"folder {folder}")
    if not is_hub_id(model):
        return Finding(
            name,
            "fail",
            f"{model}: no such folder",
            "nothing can be loaded",
            "check model.name; it must exist on every node",
        )
    if ctx.hub == "huggingface" and is_cached(ctx, model):
        return ok(name, f"{model} is in the cache")
    if ctx.env.get("HF_HUB_OFFLINE") == "1":
        return Finding(name, "fail", f"{model} is not in the cache, and HF_HUB_OFFLINE=1", "it cannot be downloaded",
                       f"hf download {model} where there is a network, then copy HF_HOME")  # fmt: skip
    return ok(name, f"{model} will be downloaded")


def token(ctx: Context) -> str | None:
    """Where a hub token comes from; never the token."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if ctx.env.get(variable):
            return variable
    home = ctx.env.get("HF_HOME") or str(Path(ctx.env.get("HOME", "/root")) / ".cache" / "huggingface")
    file = Path(ctx.env.get("HF_TOKEN_PATH") or Path(home) / "token")
    return str(file) if file.is_file() else None


GATED = ("meta-llama/", "google/gemma", "mistralai/")


def check_token(ctx: Context) -> Finding:
    name, model = "hub token", ctx.model_name or ""
    if not model.startswith(GATED) or ctx.hub != "huggingface" or is_cached(ctx, model) or Path(model).is_dir():
        return skip(name, "not needed")
    where = token(ctx)
    if where is None:
        return Finding(name, "fail", f"{model} is gated, and there is no token", "the download is refused",
                       "accept the terms on the model's page, then `hf auth login`; or model.hub=modelscope, or a folder")  # fmt: skip
    return ok(name, f"from {where}")


def check_hub(ctx: Context) -> Finding:
    """Opens a connection to the hub, which may take seconds."""
    name, model = "hub", ctx.model_name or ""
    if not is_hub_id(model) or Path(model).is_dir() or is_cached(ctx, model) or ctx.hub != "huggingface":
        return skip(name, "not needed")
    endpoint = ctx.env.get("HF_ENDPOINT", "https://huggingface.co")
    host = re.sub(r"^https?://", "", endpoint).split("/")[0]
    if ctx.env.get("HTTPS_PROXY") or ctx.env.get("https_proxy"):
        return skip(name, f"{host} goes through a proxy")
    address, _, port = host.partition(":")
    try:
        with socket.create_connection((address, int(port or (443 if endpoint.startswith("https") else 80))), timeout=3):
            return ok(name, f"{host} answers")
    except (OSError, ValueError):
        return Finding(name, "fail", f"{host} does not answer", f"{model} cannot be downloaded",
                       "set HF_ENDPOINT to a mirror, use model.hub=modelscope, or a local folder")  # fmt: skip


# --- all of them ---------------------------------------------------------------------------------------------------

# Only on NPUs, then on every machine. Slow ones start a command or use the network.
NPU_CHECKS: tuple[Check, ...] = (
    check_cann, check_set_env, check_driver, check_permission, check_npu_smi, check_chip, check_health, check_busy,
    check_hbm, check_visible, check_count, check_bf16, check_hccl_ranges, check_allocator, check_no_effect, check_queue,
    check_interface, check_hccl_ports, check_reserved_ports, check_rank_table,
)  # fmt: skip
HOST_CHECKS: tuple[Check, ...] = (
    check_python, check_torch_pair, check_packages, check_transformers, check_fsdp2, check_trackers, check_autoload, check_cluster, check_rendezvous,
    check_compiler, check_disk, check_places,
    check_host_memory, check_shm, check_ulimit, check_model, check_token,
)  # fmt: skip
OF_RECIPES: tuple[Check, ...] = (check_packages, check_trackers, check_compiler, check_model, check_token)
"""What the recipe's own training needs, and a program of the user's may not."""
SLOW_NPU_CHECKS: tuple[Check, ...] = (check_health_codes, check_tls, check_page_size, check_slurm_cards)
SLOW_HOST_CHECKS: tuple[Check, ...] = (check_way, check_hub)


def checks(device: str, *, only_cheap: bool = False) -> tuple[Check, ...]:
    out = HOST_CHECKS + (NPU_CHECKS if device == "npu" else ())
    if not only_cheap:
        out += SLOW_HOST_CHECKS + (SLOW_NPU_CHECKS if device == "npu" else ())
    return out


def run_checks(ctx: Context, only_cheap: bool = False) -> list[Finding]:
    """All findings, in the order of the checks. A check that breaks is a finding too, never a crash."""
    found = []
    for check in checks(ctx.device, only_cheap=only_cheap):
        if ctx.is_program and check in OF_RECIPES:
            continue
        try:
            found.append(check(ctx))
        except Exception as error:  # a doctor that dies of a strange machine helps nobody
            name = check.__name__.removeprefix("check_").replace("_", " ")
            found.append(Finding(name, "warn", f"this check failed: {type(error).__name__}: {error}", "",
                                 "report it with `ascend-launch doctor --json`"))  # fmt: skip
    return found


def worst(findings: Iterable[Finding]) -> Verdict:
    return max((f.ok for f in findings), key=_WORST.__getitem__, default="ok")


def exit_code(findings: Iterable[Finding]) -> int:
    """2 where something must be changed before a launch, else 0."""
    return EXIT_USER if worst(findings) == "fail" else EXIT_OK


# --- several nodes -------------------------------------------------------------------------------------------------

_EQUAL = re.compile(r"^(?:HCCL_|TORCH_HCCL_|PYTORCH_NPU_|TASK_QUEUE|ASCEND_LAUNCH_BLOCKING)")
_MAY_DIFFER = {"HCCL_IF_IP", "HCCL_SOCKET_IFNAME"}


def node_facts(ctx: Context) -> dict[str, Any]:
    """What must be equal on all nodes; `doctor --json` writes it, `compare_nodes` reads it."""
    return {
        "versions": dict(ctx.versions),
        "python": ".".join(map(str, ctx.python)),
        "cann": cann_version(ctx),
        "driver": ctx.found.driver_version,
        "chips": [d.name for d in ctx.visible],
        "env": {k: v for k, v in sorted(ctx.env.items()) if _EQUAL.match(k) and k not in _MAY_DIFFER},
    }


def machine_facts(ctx: Context) -> dict[str, Any]:
    """What a run's report says of the machine: hard and software, nothing of the environment."""
    import psutil

    facts = {k: v for k, v in node_facts(ctx).items() if k != "env"}
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        **facts,
    }


def compare_nodes(nodes: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Findings on what differs between nodes: {host: its node_facts}."""
    if len(nodes) < 2:
        return [skip("nodes", "one node")]
    found = []
    for key in ("cann", "driver", "python", "chips"):
        values = {host: json.dumps(facts.get(key)) for host, facts in nodes.items()}
        found += _differs(key, values, "link set-up fails or the job runs at the slowest node's pace (EI0008)")
    for section, why in (
        ("versions", "ranks disagree on messages"),
        ("env", "HCCL needs equal values on every rank (EI0005)"),
    ):
        names = sorted({n for facts in nodes.values() for n in facts.get(section) or {}})
        for name in names:
            found += _differs(
                name, {h: str((f.get(section) or {}).get(name, "not set")) for h, f in nodes.items()}, why
            )
    return found or [ok("nodes", f"{len(nodes)} nodes agree")]


def _differs(name: str, values: Mapping[str, str], why: str) -> list[Finding]:
    if len(set(values.values())) == 1:
        return []
    common = max(set(values.values()), key=list(values.values()).count)
    odd = ", ".join(f"{host} {value}" for host, value in values.items() if value != common)
    return [Finding(f"nodes: {name}", "fail", f"{name} is {common}, but {odd}", why, "make it equal on all nodes")]
