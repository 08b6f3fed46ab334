"""`ascend-launch explain`: logs explained in plain language."""

from __future__ import annotations

import sys

import click

from launcher import messages
from launcher.cli import language, outputs
from launcher.errors import LaunchError


@click.command(name="explain")
@click.argument("path", type=outputs.Name())
@click.option("--lang", type=click.Choice(language.choices()), help=language.HELP)
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
def explain_command(path: str, lang: str | None, as_json: bool) -> None:
    """Say what went wrong in PATH: a run directory, a plog folder, a log file, or - for standard input."""
    from launcher import scrub
    from launcher.diagnose.explain import report, signatures, words
    from launcher.show.findings import explanation

    if lang is not None:
        messages.choose(lang)
    if path == "-" and sys.stdin is None:
        raise LaunchError("-: standard input is closed", hint="name a run directory or a log file")
    chosen = words.language()
    explained = report.explain_path(path, chosen)
    for problem in signatures.problems():
        click.echo(scrub.shown(messages.translated(problem)), err=True)
    explanation(explained, chosen, as_json)
