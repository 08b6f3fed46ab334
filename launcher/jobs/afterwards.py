"""What follows a job's end: what the logs tell of a failure, the run's page, whether to go on."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path

from launcher.diagnose.explain.report import explain_path
from launcher.diagnose.explain.signatures import FAILURE, LAUNCH, PYTHON
from launcher.diagnose.explain.verdicts import Report
from launcher.diagnose.explain.words import language
from launcher.errors import EXIT_OK, EXIT_USER
from launcher.rundir import events, paths, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir


def goes_on(outcome: Outcome, run: RunDir) -> bool:
    """Whether giving the command again makes sense as it is: what only the user can correct would be found wrong again,
    unless there is work to go on from."""
    return outcome.exit_code not in (EXIT_OK, EXIT_USER) or (outcome.exit_code == EXIT_USER and run.has_checkpoints)


def explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs of a failed job tell beyond its traceback; kept in failure.json too."""
    failure = outcome.failure
    if failure is None or failure.exit_code == EXIT_USER:
        return None
    # A stall and a lost node are explained already, but for the collective; the logs would only tell of those who waited.
    if failure.type in (records.STALLED, records.NODE_LOST) and failure.difference is None:
        return None
    report = explain_path(run.path, language())
    if report.verdict is None or report.verdict.id in (PYTHON.id, FAILURE):
        return None
    if report.verdict.id == LAUNCH.id and (failure.what or "").startswith(report.verdict.cause):
        return None
    if run.failure_path.exists():
        with contextlib.suppress(OSError):  # on a full disk it is still shown
            events.write_failure(run.failure_path, failure.but(explanation=report.verdict.to_json()))
    return report


def cause_explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs say beyond the failing rank's own message, unless it is that a peer is gone: which one has been said."""
    report = explained(outcome, run)
    if report is None or report.verdict is None or report.verdict.kind in ("consequence", "peer"):
        return None
    return report


def write_report(run: RunDir) -> Path | None:
    """Write the run's page. Whatever goes wrong with it, the job's outcome stands."""
    try:
        from launcher.report import page  # not before a job has ended: it takes a while to import

        page.write([page.load(run.path)], run.report_path)
    except (Exception, KeyboardInterrupt):
        with contextlib.suppress(OSError), os.fdopen(paths.open_append(run.agent_log), "a", encoding="utf-8") as log:
            log.write(f"report.html was not written:\n{traceback.format_exc()}")
        return None
    return run.report_path
