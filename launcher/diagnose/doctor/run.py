"""Will a launch here work? Facts → findings, each with what, why and the fix. Every check is one small function.

A check takes the Context and returns a Finding; it reads files below `ctx.root` and asks commands through `ctx.run`, so a
test hands it a folder and recorded answers. The cheap ones run by themselves before every launch: no torch import, no
command, no network. Versions come from importlib.metadata.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.accelerators import table as accelerators
from launcher.accelerators.ascend import discover
from launcher.checks import Check, Context, Finding, Verdict
from launcher.clusters import table as clusters
from launcher.clusters.checks import check_cluster, check_rendezvous, check_way
from launcher.diagnose.doctor.host import (
    check_compiler,
    check_disk,
    check_host_memory,
    check_places,
    check_shm,
    check_ulimit,
)
from launcher.diagnose.doctor.model import check_hub, check_model, check_token
from launcher.diagnose.doctor.versions import (
    check_autoload,
    check_fsdp2,
    check_packages,
    check_python,
    check_torch_pair,
    check_trackers,
    check_transformers,
    cuda_of,
    installed,
    torch_folder,
)
from launcher.errors import EXIT_OK, EXIT_USER
from launcher.machine import commands, processes
from launcher.machine.cluster import Found
from launcher.messages import Message

_WORST = {"skip": 0, "ok": 1, "warn": 2, "fail": 3}


def context(device: str, *, found: Found | None = None, env: Mapping[str, str] | None = None, **values: Any) -> Context:
    """The Context of this machine."""
    env = dict(os.environ) if env is None else env
    found = discover.look(None, env) if found is None else found
    cuda = cuda_of(torch_folder())
    return Context(
        env=env,
        device=device,
        found=found,
        versions=installed(),
        run=commands.runner(env),
        processes=functools.cache(processes.look),
        cuda=cuda,
        **values,
    )


# On every machine. Slow ones start a command or use the network.
HOST_CHECKS: tuple[Check, ...] = (
    check_python,
    check_torch_pair,
    check_packages,
    check_transformers,
    check_fsdp2,
    check_trackers,
    check_autoload,
    check_cluster,
    check_rendezvous,
    check_compiler,
    check_disk,
    check_places,
    check_host_memory,
    check_shm,
    check_ulimit,
    check_model,
    check_token,
)
OF_RECIPES: tuple[Check, ...] = (check_packages, check_trackers, check_compiler, check_model, check_token)
"""What the recipe's own training needs, and a program of the user's may not."""
SLOW_HOST_CHECKS: tuple[Check, ...] = (check_way, check_hub)


def checks(device: str, *, only_cheap: bool = False) -> tuple[Check, ...]:
    accelerator = accelerators.load(device)
    out = (*HOST_CHECKS, *accelerator.checks())
    if only_cheap:
        return out
    return (
        *out,
        *SLOW_HOST_CHECKS,
        *accelerator.slow_checks(),
        *(_of_clusters() if accelerator.has_cards else ()),
    )


def _of_clusters() -> tuple[Check, ...]:
    return tuple(check for cluster in clusters.asked() for check in cluster.checks())


def run_checks(ctx: Context, only_cheap: bool = False) -> list[Finding]:
    """All findings, in the order of the checks. A check that breaks is a finding too, never a crash."""
    findings = []
    for check in checks(ctx.device, only_cheap=only_cheap):
        if ctx.is_program and check in OF_RECIPES:
            continue
        try:
            findings.append(check(ctx))
        except Exception as error:  # a doctor that dies of a strange machine helps nobody
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(
                Finding(
                    name,
                    "warn",
                    Message("this check failed: {kind}: {error}", kind=type(error).__name__, error=error),
                    "",
                    "report it with `ascend-launch doctor --json`",
                )
            )
    return findings


def worst(findings: Iterable[Finding]) -> Verdict:
    return max((f.ok for f in findings), key=_WORST.__getitem__, default="ok")


def exit_code(findings: Iterable[Finding]) -> int:
    """2 where something must be changed before a launch, else 0."""
    return EXIT_USER if worst(findings) == "fail" else EXIT_OK
