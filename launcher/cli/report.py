"""report: what a run, or several, came to."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.errors import LaunchError


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here [report.html in RUN; of several runs, in this folder].")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The facts as one JSON object; the page only with --out.")
def report_command(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page about RUN, or compare several: curves, figures, recipes, failures."""
    from launcher import report, show

    found = report.load_all(runs)
    target = out or (found[0].path / "report.html" if len(found) == 1 else Path("report.html"))
    if out is not None or not as_json:
        try:
            report.write(found, target)
        except OSError as error:
            raise LaunchError(
                f"{target}: cannot be written: {error.strerror}", hint="name another file with --out"
            ) from None
    show.reported(report.summary(found), target, as_json)
