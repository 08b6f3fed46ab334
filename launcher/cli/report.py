"""report: what a run, or several, came to."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from launcher.cli import outputs


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="FILE",
    type=outputs.Target(),
    help="Write the page here [default: report.html in RUN; of several runs, in this folder].",
)
@outputs.force_option
@click.option("--json", "as_json", is_flag=True, help="The facts as one JSON object; the page only with --out.")
def report_command(runs: tuple[Path, ...], out: Path | None, force: bool, as_json: bool) -> None:
    """Write one self-contained HTML page about RUN, or compare several: curves, figures, recipes, failures."""
    collects = gc.isenabled()
    gc.disable()  # a million events are not garbage, and each pass over them costs as much as reading them
    try:
        _report(runs, out, force, as_json)
    finally:
        if collects:
            gc.enable()


def _report(runs: tuple[Path, ...], out: Path | None, force: bool, as_json: bool) -> None:
    from launcher.report import page
    from launcher.rundir.paths import RunDir
    from launcher.show import results

    loaded = page.load_all(runs)
    own = RunDir(loaded[0].path).report_path if len(loaded) == 1 else None
    target = out or own or Path("report.html")
    if out is not None or not as_json:
        force = force or (out is None and own is not None)  # a run's page is the report's own, and made anew
        outputs.write(target, page.html(loaded), force=force, through_links=target is not own)
    results.reported(page.summary(loaded), target, as_json)
