"""Train and run programs with many releases of what the launcher stands on: `python tools/matrix [SET]...`.

Each set of sets.yaml gets an environment, in which every case of cases.py is run; results.yaml keeps how each ended, and
docs/versions.md is made from it by `make docs`. An environment and what only it needs are removed when its set is done.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from cases import CASES, Bench, Case, Result
from environments import ROOT, DiskFullError, Environment, Maker, UvError, Wanted

HERE = Path(__file__).parent
RESULTS = HERE / "results.yaml"
SHOWN = ("torch", "torch-npu", "transformers", "accelerate", "deepspeed", "datasets", "peft", "numpy")
REMOVED = ("torch", "torch-npu")
"""What is large and of one set's torch alone."""


def main() -> int:
    table = yaml.safe_load((HERE / "sets.yaml").read_text(encoding="utf-8"))
    options = _options(table["sets"])
    wanted = [Wanted.read(name, table["sets"][name]) for name in options.sets or table["sets"]]
    maker = Maker(options.folder, table["overrides"])
    failed = 0
    for number, one in enumerate(wanted):
        print(f"{one.name}: Python {one.python}, torch {one.torch}, packages {one.packages}", flush=True)
        try:
            failed += _run(one, maker.make(one), options, table["reference"])
        except DiskFullError as full:
            print(f"error: {full}", file=sys.stderr)
            return 2
        except UvError as error:  # what was written of this set before stays: nothing of it was tried
            print(f"  {'environment':14} failed   {error}", flush=True)
            failed += 1
        if not options.keep:
            is_last = one.torch not in {other.torch for other in wanted[number + 1 :]}
            maker.remove(one, REMOVED if is_last else ())
    print(f"{failed} failed; results are in {RESULTS}, logs in {options.folder / 'runs'}")
    return 1 if failed else 0


def _run(wanted: Wanted, environment: Environment, options: argparse.Namespace, reference: str) -> int:
    """Every case of a set, kept in results.yaml; how many failed."""
    bench = Bench(environment, options.folder / "runs" / wanted.name)
    ended: dict[str, Result] = {}
    for case in _cases(wanted, options.cases):
        ended[case.name] = result = _checked(case, bench.run(case), wanted, ended, reference)
        print(f"  {case.name:14} {result.outcome:8} {result.seconds:4.0f} s  {result.says}", flush=True)
    _keep(wanted, environment.releases(SHOWN), ended)
    return sum(result.outcome == "failed" for result in ended.values())


def _options(sets: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/matrix", description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(sets)} [default: all]")
    parser.add_argument("--case", dest="cases", action="append", metavar="CASE", help="run only this; may be repeated")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "matrix", help="environments, logs, downloads")
    parser.add_argument("--keep", action="store_true", help="keep environments and downloads for another run")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if unknown := [name for name in options.sets if name not in sets]:
        parser.error(f"no set {', '.join(unknown)}; there are {', '.join(sets)}")
    if unknown := [name for name in options.cases or () if name not in {case.name for case in CASES}]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    return options


def _cases(wanted: Wanted, names: list[str] | None) -> list[Case]:
    return [case for case in CASES if (wanted.torch_npu or not case.is_npu) and (not names or case.name in names)]


def _checked(case: Case, result: Result, wanted: Wanted, ended: dict[str, Result], reference: str) -> Result:
    """A refusal that nobody expects is a failure, and so are losses other than those of the same model elsewhere."""
    if result.outcome == "refused" and case.name not in wanted.refused:
        return Result("failed", result.seconds, result.says)
    if result.outcome != "passed":
        return result
    if case.name in wanted.refused:
        return Result("failed", result.seconds, "it ran, and sets.yaml says that it is refused", result.losses)
    for name, losses in _expected(case, ended, reference).items():
        if any(abs(a - b) > 1e-4 * abs(a) for a, b in zip(losses, result.losses, strict=True)):
            says = f"losses {result.losses}; {name} had {losses}"
            return Result("failed", result.seconds, says, result.losses)
    return result


def _expected(case: Case, ended: dict[str, Result], reference: str) -> dict[str, list[float]]:
    """Losses of the same model: in this environment, and in the reference."""
    if not case.like:
        return {}
    same = {case.like: ended[case.like].losses} if case.like in ended else {}
    row = _read().get(reference, {}).get("cases", {}).get(case.like, {})
    found = {**same, f"{case.like} of {reference}": [row[name] for name in ("first_loss", "last_loss") if name in row]}
    return {name: losses for name, losses in found.items() if losses}


def _read() -> dict[str, Any]:
    return yaml.safe_load(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def _keep(wanted: Wanted, releases: dict[str, str], ended: dict[str, Result]) -> None:
    """Cases that were not run this time stay as they were, if the releases are the same."""
    results = _read()
    versions = {"python": wanted.python, **releases}
    old = results.get(wanted.name, {})
    cases = old.get("cases", {}) if old.get("versions") == versions else {}
    cases |= {name: result.row() for name, result in ended.items()}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    results[wanted.name] = {"date": today, "versions": versions, "cases": cases}
    head = "# Written by tools/matrix. docs/versions.md is made from it.\n"
    RESULTS.write_text(
        head + yaml.safe_dump(results, sort_keys=False, default_flow_style=None, width=1000), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
