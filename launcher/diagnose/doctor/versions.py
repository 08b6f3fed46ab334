"""The packages that a job imports: whether they are there, and fit each other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from launcher import versions
from launcher.accelerators import table as accelerators
from launcher.checks import Context, Finding, ok, skip
from launcher.messages import Message, joined
from launcher.strategies import table as strategies
from launcher.versions import numbers

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
    "sacrebleu": ">=2.4",
    "rouge-score": ">=0.1.2",
    "jieba": ">=0.42.1",
    "seqeval": ">=1.2.2",
}
"""What each package must be, as pyproject.toml's extras say it."""
EXTRA = {
    "peft": "lora",
    "gguf": "gguf",
    "modelscope": "modelscope",
    **dict.fromkeys(("sacrebleu", "rouge-score", "jieba", "seqeval"), "scores"),
}
"""Packages of another extra than [train]."""
PACKAGES = (
    "torch",
    "torch-npu",
    *(name for name in BOUNDS if name != "torch"),
    "triton-ascend",
    *(package for packages in TRACKERS.values() for package in packages),
)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PAIR = "2.13.0"
"""The torch and torch_npu of the extra `npu`."""


def installed(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed, without importing one."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def torch_folder() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def cuda_of(folder: Path | None) -> str:
    """The CUDA release that the torch in `folder` was built for; "" where it has none. Nothing is imported.

    PyPI's wheels are CUDA builds whose metadata says plain 2.13.0; torch/version.py and the libraries show it.
    """
    if folder is None:
        return ""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"(?m)^cuda\b[^=\n]*=\s*(?:None|['\"]([^'\"]+))", text)
    if match:
        return match[1] or ""
    return "of an unknown release" if (folder / "lib" / "libtorch_cuda.so").exists() else ""


# (torch from, to) → (lowest, highest Python); the same release notes, and COMPATIBILITY.md for what they no longer list.
PYTHON_FOR_TORCH = (
    ((2, 11), (2, 14), (3, 10), (3, 14)),
    ((2, 9), (2, 10), (3, 10), (3, 14)),
    ((2, 7), (2, 8), (3, 9), (3, 13)),
    ((2, 5), (2, 6), (3, 9), (3, 11)),
    ((2, 1), (2, 4), (3, 8), (3, 11)),
)
NO_CUDA_FROM_POST: Mapping[tuple[int, ...], int] = {(2, 10): 7, (2, 11): 3, (2, 12): 3}
"""torch_npu → the post-release from which on it registers its allocator's settings with torch, as 2.13 and all later ones do:
a CUDA build has registered some of the same names, and the process is aborted as it loads. Others load beside one (2.7.1, 2.8.0,
2.9.0 and 2.10.0 were tried; that the rest do not register is read from their libraries)."""


def check_python(ctx: Context) -> Finding:
    name, have = "python", ".".join(map(str, ctx.python))
    torch = numbers(ctx.versions.get("torch", ""))[:2]
    row = next((r for r in PYTHON_FOR_TORCH if r[0] <= torch <= r[1]), None)
    if row is None or not accelerators.load(ctx.device).needs_cann:
        return ok(name, Message("Python {have}", have=have))
    if row[2] <= ctx.python <= row[3]:
        return ok(name, Message("Python {have} suits torch_npu {torch}", have=have, torch=".".join(map(str, torch))))
    span = Message(
        "{row}.{second_row} to {first_row}.{second}",
        row=row[2][0],
        second_row=row[2][1],
        first_row=row[3][0],
        second=row[3][1],
    )
    return Finding(
        name,
        "fail",
        Message("Python {have} has no torch_npu {torch} wheel", have=have, torch=".".join(map(str, torch))),
        Message("it exists for {span}", span=span),
        Message("make an environment with Python {span}", span=span),
    )


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
    what: list[str] = [Message("{absent} not installed", absent=", ".join(absent))] if absent else []
    what += [Message("{number} {have} is not {bounds}", number=n, have=have[n], bounds=BOUNDS[n]) for n in wrong]
    return Finding(
        "packages",
        "warn" if ctx.needs is None else "fail",
        joined(what, "; "),
        "a launch of a recipe that needs them is refused",
        Message("pip install {words}", words=" ".join(words)),
    )


def check_torch_pair(ctx: Context) -> Finding:
    """torch and torch_npu must agree to the third number; .postN only chooses the CANN release."""
    name, torch, torch_npu = "torch and torch_npu", ctx.versions.get("torch"), ctx.versions.get("torch-npu")
    accelerator = accelerators.load(ctx.device)
    if torch is None and ctx.is_program and not accelerator.has_cards:
        return skip(name, "torch is not installed")
    if torch is None or not _fits("torch", torch):
        what = (
            Message("torch is not installed")
            if torch is None
            else Message("torch {torch} is not {bounds_torch}", torch=torch, bounds_torch=BOUNDS["torch"])
        )
        is_error = "torch" in (ctx.needs or ()) or (accelerator.has_cards and torch is None)
        return Finding(name, "fail" if is_error else "warn", what, "no recipe can train", _torch_lines(ctx))
    if not accelerator.needs_cann:
        return ok(name, Message("torch {torch}", torch=torch))
    if torch_npu is None:
        return Finding(
            name,
            "fail",
            "torch_npu is not installed",
            "torch does not see the NPUs",
            Message("pip install torch-npu=={torch}", torch=_release(torch)),
        )
    if numbers(torch)[:3] != numbers(torch_npu)[:3]:
        return Finding(
            name,
            "fail",
            Message("torch {torch} with torch_npu {torch_npu}", torch=torch, torch_npu=torch_npu),
            "torch_npu loads only into the torch of its own number",
            Message(
                "pip install torch=={torch_npu} --index-url {cpu_index}",
                torch_npu=_release(torch_npu),
                cpu_index=CPU_INDEX,
            ),
        )
    if ctx.cuda or "+cu" in torch:
        built = Message(
            "torch {torch} is a CUDA build{cuda}", torch=torch, cuda=f" (CUDA {ctx.cuda})" if ctx.cuda else ""
        )
        # --force-reinstall: pip takes the version that is there for the one that is asked for.
        fix = Message(
            "pip install --force-reinstall --no-deps torch=={torch} --index-url {cpu_index}",
            torch=_release(torch),
            cpu_index=CPU_INDEX,
        )
        if not _aborts_beside_cuda(torch_npu):
            return Finding(name, "warn", built, "it loads beside torch_npu, and is several GB that nothing uses", fix)
        return Finding(
            name,
            "fail",
            built,
            "the process is aborted when torch_npu loads: Duplicated key 'pinned_reserve_segment_size_mb'",
            fix,
        )
    return ok(name, Message("torch {torch}, torch_npu {torch_npu}", torch=torch, torch_npu=torch_npu))


def _aborts_beside_cuda(torch_npu: str) -> bool:
    version = versions.of(torch_npu)
    since = NO_CUDA_FROM_POST.get(version.release[:2])
    return version.release[:2] > max(NO_CUDA_FROM_POST) if since is None else (version.post or 0) >= since


def _torch_lines(ctx: Context) -> str:
    """The pip lines that bring a torch: the one of the torch_npu that is there, else a pair on cards and any on CPU."""
    torch_npu = ctx.versions.get("torch-npu", "")
    keeps = _fits("torch", torch_npu) if torch_npu else False
    if not accelerators.load(ctx.device).needs_cann:
        return Message(
            "pip install '{torch_npu}' --index-url {cpu_index}",
            torch_npu="torch==" + _release(torch_npu) if keeps else "torch" + BOUNDS["torch"],
            cpu_index=CPU_INDEX,
        )
    line = Message(
        "pip install torch=={torch_npu} --index-url {cpu_index}",
        torch_npu=_release(torch_npu) if keeps else PAIR,
        cpu_index=CPU_INDEX,
    )
    return (
        line
        if keeps
        else Message(
            "{line}, then pip install 'ascend-launch[npu]' --extra-index-url {cpu_index}",
            line=line,
            cpu_index=CPU_INDEX,
        )
    )


def _release(version: str) -> str:
    """2.13.0+cpu → 2.13.0."""
    return ".".join(map(str, numbers(version)[:3]))


def check_transformers(ctx: Context) -> Finding:
    """transformers 4.50 and later move integers to CUDA under an older torch_npu (LLaMA-Factory issue 7986)."""
    name, have = "transformers", ctx.versions.get("transformers")
    if have is None:
        return skip(name, "not installed")
    torch_npu = ctx.versions.get("torch-npu")
    if (
        accelerators.load(ctx.device).needs_cann
        and torch_npu
        and numbers(have) >= (4, 50)
        and numbers(torch_npu) < (2, 5, 1)
    ):
        return Finding(
            name,
            "fail",
            Message("transformers {have} with torch_npu {torch_npu}", have=have, torch_npu=torch_npu),
            "tensors are sent to CUDA: 'Torch not compiled with CUDA enabled'",
            "use torch_npu 2.5.1 or later",
        )
    return ok(name, Message("transformers {have}", have=have))


def check_fsdp2(ctx: Context) -> Finding:
    """Gradients times the number of ranks would train another model, without a warning."""
    name, torch = "FSDP2 on CPU", ctx.versions.get("torch")
    strategy = strategies.chosen(ctx.strategy)
    since = strategy.averages_on_gloo_since if strategy is not None else None
    if (
        since is None
        or accelerators.load(ctx.device).has_cards
        or torch is None
        or (ctx.nproc == 1 and ctx.num_nodes == 1)
    ):
        return skip(name, "not asked for")
    if numbers(torch)[:2] < since:
        return Finding(
            name,
            "fail",
            Message("{strategy} on CPU ranks with torch {torch}", strategy=ctx.strategy, torch=torch),
            "gloo sums gradients there where FSDP2 asks for their mean",
            Message(
                "set parallel.strategy=ddp or zero2, or pip install 'torch>={since}.{second_since}'",
                since=since[0],
                second_since=since[1],
            ),
        )
    return ok(name, Message("torch {torch} averages", torch=torch))


def check_trackers(ctx: Context) -> Finding:
    """Every rank makes the tracker's callback, so its package is needed on every node."""
    name = "trackers"
    asked = [t for t in ctx.report_to if t != "none"]
    missing = [t for t in asked if t in TRACKERS and not any(p in ctx.versions for p in TRACKERS[t])]
    if missing:
        return Finding(
            name,
            "fail",
            Message("training.report_to names {missing}, not installed here", missing=", ".join(missing)),
            "every rank would end before the first step",
            Message("pip install {missing}, or set training.report_to=none", missing=" ".join(missing)),
        )
    return ok(name, ", ".join(asked)) if asked else skip(name, "none asked for")


def check_autoload(ctx: Context) -> Finding:
    """On a machine without CANN an installed torch_npu makes `import torch` fail; a launch on CPU keeps torch from loading it."""
    name, value = "torch_npu without CANN", ctx.env.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    if accelerators.load(ctx.device).needs_cann or "torch-npu" not in ctx.versions:
        return skip(name, "not a CPU run with torch_npu")
    if value == "0" or ctx.env.get("ASCEND_HOME_PATH"):
        return ok(name, "torch_npu is installed, and a CPU run does without it")
    return Finding(
        name,
        "fail",
        Message("TORCH_DEVICE_BACKEND_AUTOLOAD={value}, and there is no CANN", value=value),
        "`import torch` loads torch_npu, which fails on libhccl.so",
        "unset TORCH_DEVICE_BACKEND_AUTOLOAD",
    )
