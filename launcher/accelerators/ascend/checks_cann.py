"""CANN, the driver and its tools, as a launch needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from launcher.accelerators.ascend import discover, npu_tools
from launcher.checks import Context, Finding, Verdict, ok, skip
from launcher.messages import Message
from launcher.versions import numbers

# CANN → the builds of torch_npu that were made for it. Ascend/pytorch, of its release 26.2.0: docs/zh/release_notes.md
# (9.2.0), and COMPATIBILITY.md with its rows for 26.1.1 (9.1). A build that is in no row is unknown here, which is not wrong.
CANN_FOR_TORCH_NPU: Mapping[str, tuple[str, ...]] = {
    "9.2.0": ("2.14.0", "2.13.0", "2.12.0.post3", "2.11.0.post3", "2.10.0.post7", "2.9.0.post9", "2.7.1.post11"),
    "9.1.0": (
        "2.12.0",
        "2.12.0.post2",
        "2.11.0",
        "2.11.0.post2",
        "2.10.0.post4",
        "2.10.0.post6",
        "2.9.0.post6",
        "2.9.0.post8",
        "2.7.1.post8",
        "2.7.1.post10",
    ),
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
}
FREE_CANN = (8, 5)
"""Builds made for this CANN or a later one work with every CANN from here on (release notes of 26.2.0: TorchNPU 7.3 to
26.2 with CANN 8.5 to 9.2)."""


def cann_version(ctx: Context) -> str | None:
    """The CANN release of the environment: version.cfg or an install.info below ASCEND_HOME_PATH."""
    home = ctx.env.get("ASCEND_HOME_PATH") or ctx.env.get("ASCEND_TOOLKIT_HOME")
    if not home:
        return None
    base = ctx.path(home)
    places = [
        base / "version.cfg",
        *sorted(base.glob("*-linux/ascend_toolkit_install.info")),
        *sorted(base.glob("share/info/*/version.info")),
        base / "ascend_toolkit_install.info",
    ]
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
        return Finding(
            name,
            "warn",
            "the CANN release is unknown",
            "an unsuitable CANN shows up as undefined symbols",
            "source set_env.sh of the CANN to use",
        )
    if torch_npu is None:
        return skip(name, Message("CANN {have}; torch_npu is not installed", have=have))
    wanted = next((cann for cann, builds in CANN_FOR_TORCH_NPU.items() if torch_npu in builds), None)
    if wanted is None:
        return Finding(
            name,
            "warn",
            Message(
                "CANN {have} with torch_npu {torch_npu}: this build is in no table known here",
                have=have,
                torch_npu=torch_npu,
            ),
            "it may well work",
            "compare with Ascend/pytorch COMPATIBILITY.md",
        )
    made, installed = numbers(wanted)[:2], numbers(have)[:2]
    if made == installed or min(made, installed) >= FREE_CANN:
        return ok(name, Message("CANN {have} suits torch_npu {torch_npu}", have=have, torch_npu=torch_npu))
    what = Message(
        "CANN {have}, but torch_npu {torch_npu} was made for CANN {wanted}",
        have=have,
        torch_npu=torch_npu,
        wanted=wanted,
    )
    others = next((builds for cann, builds in CANN_FOR_TORCH_NPU.items() if numbers(cann)[:2] == installed), ())
    build = next((b for b in others if numbers(b)[:3] == numbers(torch_npu)[:3]), None)
    fix = (
        Message("pip install torch-npu=={build}", build=build)
        if build
        else Message("source CANN {wanted}", wanted=wanted)
    )
    if installed > made:
        return Finding(name, "warn", what, "a newer CANN mostly works; an undefined symbol would come from this", fix)
    return Finding(name, "fail", what, "operators fail or symbols are missing", fix)


def check_set_env(ctx: Context) -> Finding:
    """The four things torch_npu itself checks on import, and that one CANN was sourced, not two."""
    name = "CANN environment"
    fix = Message(
        "source /usr/local/Ascend/ascend-toolkit/set_env.sh (CANN 8.5 and later: /usr/local/Ascend/cann/set_env.sh)"
    )
    home, opp = ctx.env.get("ASCEND_HOME_PATH"), ctx.env.get("ASCEND_OPP_PATH")
    missing = [n for n, v in (("ASCEND_HOME_PATH", home), ("ASCEND_OPP_PATH", opp)) if not v]
    if missing:
        return Finding(
            name,
            "fail",
            Message("{missing} not set", missing=" and ".join(missing)),
            "import torch_npu fails on libhccl.so",
            fix,
        )
    assert home is not None and opp is not None
    for variable, value in (("ASCEND_HOME_PATH", home), ("ASCEND_OPP_PATH", opp)):
        if not ctx.path(value).exists():
            return Finding(
                name,
                "fail",
                Message("{variable}={value} does not exist", variable=variable, value=value),
                "CANN was moved or is not mounted",
                fix,
            )
    absent = [d for d in ("runtime", "compiler") if not (ctx.path(home) / d).exists()]
    if absent:
        return Finding(
            name,
            "warn",
            Message("{home} has no {absent}", home=home, absent=" and no ".join(absent)),
            "only half of CANN is there",
            "install the whole toolkit and the kernels of this chip",
        )
    other = ctx.env.get("ASCEND_TOOLKIT_HOME")
    if other and ctx.path(other).resolve() != ctx.path(home).resolve():
        return Finding(
            name,
            "warn",
            Message("two CANNs are mixed: {home} and {other}", home=home, other=other),
            "libraries of one load operators of the other",
            "start a fresh shell and source one set_env.sh",
        )
    return ok(name, home)


def check_driver(ctx: Context) -> Finding:
    name = "driver"
    nodes = discover.device_nodes(ctx.path("/dev"))
    in_container = ctx.path("/.dockerenv").exists() or "docker" in ctx.text("/proc/1/cgroup")
    mount = (
        Message("pass the devices and mount /usr/local/Ascend/driver when the container is made")
        if in_container
        else ""
    )
    if not nodes:
        return Finding(
            name,
            "fail",
            "no /dev/davinci* device",
            "this process cannot reach any NPU",
            mount or "install the driver, or use --device cpu",
        )
    absent = [d for d in ("davinci_manager", "devmm_svm", "hisi_hdc") if not ctx.path(f"/dev/{d}").exists()]
    if absent:
        return Finding(
            name,
            "fail",
            Message("/dev/{absent} is missing", absent=absent[0]),
            "the driver cannot be opened",
            mount or "reinstall the driver",
        )
    version = npu_tools.parse_fields(ctx.text("/usr/local/Ascend/driver/version.info")).get("Version")
    if version is None and not ctx.path("/usr/local/Ascend/driver").exists():
        return Finding(
            name,
            "fail",
            "/usr/local/Ascend/driver is missing",
            "libascend_hal.so will not be found",
            mount or "install the driver",
        )
    return ok(
        name,
        Message(
            "driver {version}, {num_nodes} devices",
            version=version or ctx.found.driver_version or Message("(version unknown)"),
            num_nodes=len(nodes),
        ),
    )


def check_permission(ctx: Context) -> Finding:
    name = "device permission"
    nodes = discover.device_nodes(ctx.path("/dev"))
    closed = [n for n in nodes if not os.access(ctx.path(f"/dev/davinci{n}"), os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            name,
            "fail",
            Message("/dev/davinci{closed} may not be opened", closed=closed[0]),
            "device initialisation fails (507899)",
            "add the user to group HwHiAiUser and log in again",
        )
    return (
        ok(name, Message("{num_nodes} devices may be opened", num_nodes=len(nodes)))
        if nodes
        else skip(name, "no devices")
    )


def check_npu_smi(ctx: Context) -> Finding:
    name, problem = "npu-smi", ctx.found.problem
    if problem is not None:
        level: Verdict = "warn" if problem.what.endswith("not on PATH") else "fail"
        return Finding(name, level, problem.what, "health and free memory are unknown", problem.hint)
    return ok(
        name,
        Message(
            "{num_devices} devices, driver {driver_version}",
            num_devices=len(ctx.found.devices),
            driver_version=ctx.found.driver_version or "?",
        ),
    )
