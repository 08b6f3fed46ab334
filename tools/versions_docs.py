"""docs/versions.md, from what `tools/matrix` was asked to try and how it ended. tools/reference_docs.py writes the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent / "matrix"
WORDS = {"passed": "yes", "refused": "refused", "failed": "**no**"}
PACKAGES = ("torch", "torch-npu", "transformers", "accelerate", "deepspeed", "datasets", "peft")
INTRO = """# Versions that were tried

Made by `tools/reference_docs.py` from `tools/matrix/results.yaml`, which `tools/matrix` writes; a test holds it to that.

Each row is an environment of its own, in which jobs of two ranks are run: a plain DDP program, a script with transformers'
Trainer, and the recipe `tiny-cpu` with each strategy, with LoRA, and interrupted and continued. Those with torch_npu are run
on two virtual cards of the [emulated CANN](emulated-cann.md) too. "yes" means that the job ended well and that its first
and its last loss are, to 1e-4, those of the same model in the row `{reference}`, a resumed job's included; those of a program
are what torchrun gives in the same environment, or those of the row `{reference}`. "refused" is exit
code 2 before anything starts, with what to do instead.

The launcher's bounds are those of `pyproject.toml`; `ascend-launch doctor` compares an environment with them. Rows of
the oldest packages have `tools/constraints-oldest.txt`, the row `tested` is `tools/constraints.txt`.

Where no CPU build of a torch could be downloaded, PyPI's CUDA build ran on the CPU. Beside a torch_npu that aborts in one, its
names of allocator settings were changed, so that it passes for the CPU build that belongs there.
"""
AGAIN = """## Running it

```console
$ python tools/matrix --help
$ make matrix                         # every row; hours, and 18 GB of disk
$ make matrix SETS="torch-2.10 tested"
```

It takes the interpreters that are on PATH or in pyenv, and [uv](https://docs.astral.sh/uv/), which keeps what it downloads
once and links it into each environment; where uv is not on PATH, it is installed beside them. Environments, downloads and logs
lie in `.cache/matrix`. `tools/matrix/sets.yaml` is the list of rows. `make test-rest` runs the oldest and the newest of
them that this Python has.
"""


def page() -> str:
    """docs/versions.md."""
    sets = yaml.safe_load((HERE / "sets.yaml").read_text(encoding="utf-8"))
    results = yaml.safe_load((HERE / "results.yaml").read_text(encoding="utf-8"))
    rows = {name: results[name] for name in sets["sets"] if name in results}
    parts = [
        INTRO.format(reference=sets["reference"]),
        "## What was in them\n\n" + _table(("set", "date", "Python", *PACKAGES), _versions(rows)),
        "## On CPU ranks\n\n" + _cases(rows, is_npu=False),
        "## On two virtual cards\n\n" + _cases(rows, is_npu=True),
        "## What was refused, and what failed\n\n" + _table(("set", "case", "what was said"), _said(rows)),
        "## What broke\n\n"
        + _table(("with", "what", "now"), ([f[k] for k in ("with", "what", "now")] for f in sets["found"])),
        AGAIN,
    ]
    return "\n".join(parts)


def _versions(rows: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, row in rows.items():
        found = row["versions"]
        yield [f"`{name}`", row["date"], found["python"], *(found.get(package, "") for package in PACKAGES)]


def _cases(rows: Mapping[str, Any], is_npu: bool) -> str:
    """The outcome of each case that any of the sets has."""
    own = {
        set_: {n: c for n, c in row["cases"].items() if n.startswith("npu-") == is_npu} for set_, row in rows.items()
    }
    names = list(dict.fromkeys(name for cases in own.values() for name in cases))
    lines = (
        [f"`{set_}`", *(WORDS[cases[name]["outcome"]] if name in cases else "" for name in names)]
        for set_, cases in own.items()
        if cases
    )
    return _table(("set", *(name.removeprefix("npu-") for name in names)), lines)


def _said(rows: Mapping[str, Any]) -> Iterable[list[str]]:
    """Each text once, with all that it was said to."""
    found: dict[tuple[str, str], list[str]] = {}
    for set_, row in rows.items():
        for name, case in row["cases"].items():
            if case["outcome"] != "passed":
                found.setdefault((f"`{set_}`", case["says"]), []).append(name)
    yield from ([set_, ", ".join(names), says] for (set_, says), names in found.items())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
