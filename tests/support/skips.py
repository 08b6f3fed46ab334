"""Where CI=true, a test that is skipped fails the run, unless tests/skips.txt has the reason that it gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).resolve().parent.parent / "skips.txt"


def allowed() -> list[str]:
    """Parts of the reasons that are allowed."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(": " in line for line in lines), f"{LIST}: a line is REASON: why"
    return [line.partition(": ")[0] for line in lines]


def reason_of(report: Any) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or hasattr(session.config, "workerinput") or reporter is None:
        return
    skipped = [report for report in reporter.stats.get("skipped", []) if not hasattr(report, "wasxfail")]
    wrong = [r for r in skipped if not any(reason in reason_of(r) for reason in allowed())]
    for report in wrong:
        reporter.write_line(f"\nskipped, and not in {LIST.name}: {report.nodeid}: {reason_of(report)}", red=True)
    if wrong and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
