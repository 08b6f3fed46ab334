"""What doctor and explain say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.checks import Finding
from launcher.diagnose.explain.signatures import Lang
from launcher.diagnose.explain.verdicts import Report
from launcher.diagnose.explain.words import render_text
from launcher.messages import Message
from launcher.show.console import out, print_json
from launcher.show.text import Text


def findings(results: Sequence[Finding], node: Mapping[str, Any] | None, as_json: bool) -> None:
    """The doctor's findings, worst last, so that they stand above the prompt."""
    if as_json:
        value = {"findings": [f.to_json() for f in results], **({"node": node} if node is not None else {})}
        print(print_json(value))
        return
    order = {"skip": 0, "ok": 1, "warn": 2, "fail": 3}
    styles = {"skip": "dim", "ok": "green", "warn": "yellow", "fail": "red"}
    for finding in sorted(results, key=lambda f: order[f.ok]):
        out.print(Text.assemble((f"{finding.ok:<5}", styles[finding.ok]), f"{finding.name}: ", finding.what))
        if finding.ok in ("warn", "fail"):
            for word, text in ((Message("why"), finding.why), (Message("fix"), finding.fix)):
                if text:
                    out.print(Text(Message("     {word}: {text}", word=word, text=text)))


def explanation(report: Report, lang: Lang, as_json: bool) -> None:
    """What a log shows."""
    if as_json:
        print(print_json(report.to_json()))
    else:
        out.print(Text(render_text(report, lang)))
