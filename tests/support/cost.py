"""`--cost N`: what tests cost in CPU seconds, their processes included; by file, and the N dearest tests.

Where this process may make a control group (root), nothing escapes the count; else a process that nobody waits for does,
which an agent's ranks are.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

CGROUPS = Path("/sys/fs/cgroup")
BEGAN = pytest.StashKey[float]()
METER = pytest.StashKey[Callable[[], float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cost", type=int, metavar="N", help="show the CPU time of each file and of the N dearest tests")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cost") is not None:
        config.stash[METER] = meter()


def meter() -> Callable[[], float]:
    """What tells the CPU seconds of this process and of everything that it starts from now on."""
    for root, members, unit in ((CGROUPS / "cpuacct", "tasks", 1e9), (CGROUPS, "cgroup.procs", 1e6)):
        folder = root / f"pytest-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            (folder / members).write_text(str(os.getpid()))
            if unit == 1e9:
                return lambda usage=folder / "cpuacct.usage": int(usage.read_text()) / unit
            return lambda usage=folder / "cpu.stat": int(usage.read_text().split()[1]) / unit
    return _waited_for


def _waited_for() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in usage)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    if METER in item.config.stash:
        item.stash[BEGAN] = item.config.stash[METER]()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "teardown" and BEGAN in item.stash:
        report.user_properties.append(("cpu_s", item.config.stash[METER]() - item.stash[BEGAN]))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    count = config.getoption("--cost")
    if count is None:
        return
    tests: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                tests[report.nodeid] = dict(report.user_properties).get("cpu_s", 0.0)
    files: dict[str, float] = defaultdict(float)
    for name, seconds in tests.items():
        files[name.partition("::")[0]] += seconds
    terminalreporter.section(f"CPU time: {sum(tests.values()):.0f} s")
    for names in (files, dict(sorted(tests.items(), key=lambda row: -row[1])[:count])):
        for name, seconds in sorted(names.items(), key=lambda row: -row[1]):
            terminalreporter.write_line(f"{seconds:8.1f} s  {name}")
