"""Feed damaged npu-smi captures and logs to the parsers and the explainer. Nothing may crash, hang, or invent devices.

    python tools/fuzz_captures.py                          # 10,000 inputs made from the fixtures in tests/
    python tools/fuzz_captures.py --from FOLDER ...        # from other captures too
    python tools/fuzz_captures.py --count 500 --seed 7

A crash is any exception but LaunchError; a hang is an input that takes more than --limit-s. The offending input is
written to a file. Bounded: every input is at most 200 kB, and the run ends after --minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launcher.accelerators.ascend import discover, npu_smi, npu_tools, ranktable_check, visible
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.checks import Context
from launcher.diagnose.doctor import run
from launcher.diagnose.explain import report, signatures
from launcher.errors import LaunchError

FIXTURES = Path(__file__).parents[1] / "tests" / "unit" / "fixtures"
MAX_BYTES = 200_000
PIECES = (
    "|",
    "+---+",
    "\n",
    "\r",
    "\t",
    "\0",
    " ",
    "/",
    "-",
    "0",
    "999999999999999999999",
    "NA",
    "OK",
    "Alarm",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "%",
    "\\",
    "\x1b[31m",
    "\ufeff",
    "昇腾",
    "\U0001f525",
    "EI0006: ",
    "error code is 107001",
    "[rank3]: ",
    "Traceback (most recent call last):\n",
    '  File "x.py", line 1, in f\n',
    "RankID:",
    "Device:-1",
    ":" * 50,
    "{rank}",
)


def mutate(text: str, random_: random.Random, seeds: list[str]) -> str:
    """One to eight small damages: what cut captures, terminals, copy and paste, and mixed outputs do."""
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(len(text) + 1)
        to = min(len(text), at + random_.choice((1, 2, 8, 64, 1024)))
        kind = random_.randrange(9)
        if kind == 0:  # cut out
            text = text[:at] + text[to:]
        elif kind == 1:  # put in
            text = text[:at] + random_.choice(PIECES) * random_.choice((1, 1, 1, 3, 100)) + text[at:]
        elif kind == 2:  # say twice
            text = text[:to] + text[at:to] * random_.choice((1, 2, 20)) + text[to:]
        elif kind == 3:  # end early
            text = text[:at]
        elif kind == 4 and text:  # other letters
            text = "".join(chr(random_.randrange(32, 0x3000)) if random_.random() < 0.02 else c for c in text)
        elif kind == 5:  # lines in another order
            lines = text.splitlines(keepends=True)
            random_.shuffle(lines)
            text = "".join(lines)
        elif kind == 6:  # digits changed
            text = "".join(random_.choice("0123456789") if c.isdigit() and random_.random() < 0.2 else c for c in text)
        elif kind == 7:  # another capture in the middle
            other = random_.choice(seeds)
            text = text[:at] + other[: random_.randrange(len(other) + 1)] + text[at:]
        else:  # one long line
            text = text.replace("\n", random_.choice(("", " ", "\r", "\n\n")))
    return text[:MAX_BYTES]


def check_info(text: str) -> None:
    """Devices that are found are consistent: logical ids in order, memory that was printed, no more than rows allow."""
    info = npu_smi.parse_info(text)
    assert [d.index for d in info.devices] == list(range(len(info.devices))), "logical ids have gaps"
    assert 2 * len(info.devices) <= text.count("\n") + text.count("\r") + 1, "more devices than rows"
    for d in info.devices:
        assert d.hbm_bytes >= 0 and d.hbm_used_bytes >= 0 and d.name and d.health, d


def check_doctor(text: str) -> None:
    """The doctor judges whatever npu-smi may have said; a check that breaks shows in its finding."""
    found = discover.look(lambda argv: (0, text), {}, Path("/nowhere"))
    ctx = Context(env={VISIBLE: text[:40]}, device="npu", found=found, root=Path("/nowhere"), nproc=8)
    broken = [f.what for f in run.run_checks(ctx, only_cheap=True) if "this check failed" in f.what]
    assert not broken, broken[0]


def check_explain(text: str) -> None:
    for verdict in report.explain_text(text, "zh" if len(text) % 2 else "en"):
        assert verdict.cause and verdict.fix and verdict.line_number >= 1, verdict
        assert 0 <= (verdict.rank or 0) < 10**9, verdict


TARGETS: tuple[Callable[[str], object], ...] = (
    check_info,
    npu_tools.parse_mapping,
    npu_tools.parse_health,
    npu_tools.parse_topology,
    npu_tools.parse_fields,
    npu_tools.parse_device_ip,
    npu_tools.parse_tls,
    lambda text: visible.visible(text, 8),
    lambda text: ranktable_check.check(text, 8),
    check_doctor,
    check_explain,
)


def seeds(folders: list[Path]) -> list[str]:
    found = [p.read_text(encoding="utf-8", errors="replace") for f in folders for p in sorted(f.rglob("*.txt"))]
    return found + [example for s in signatures.signatures() for example in s.examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folders", nargs="*", type=Path, default=[])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=5.0)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    random_, texts = random.Random(options.seed), seeds([FIXTURES, *options.folders])
    started, slowest = time.monotonic(), 0.0
    for number in range(options.count):
        text = mutate(random_.choice(texts), random_, texts)
        for target in TARGETS:
            begun = time.monotonic()
            try:
                target(text)
            except LaunchError:
                pass
            except Exception:
                save(text, number, options.seed)
                traceback.print_exc()
                raise SystemExit(f"input {number} of seed {options.seed} broke {target}") from None
            took = time.monotonic() - begun
            slowest = max(slowest, took)
            if took > options.limit_s:
                save(text, number, options.seed)
                raise SystemExit(f"input {number} of seed {options.seed} took {took:.1f} s in {target}")
        if time.monotonic() - started > options.minutes * 60:
            raise SystemExit(
                f"stopped after {number + 1} of {options.count} inputs: {options.minutes} minutes are over"
            )
    print(
        f"{options.count} damaged inputs from {len(texts)} texts, {len(TARGETS)} parsers each: no crash, slowest"
        f" {slowest:.2f} s, {time.monotonic() - started:.0f} s in all, seed {options.seed}"
    )


def save(text: str, number: int, seed: int) -> None:
    path = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}.txt"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    print(f"input saved to {path}")


if __name__ == "__main__":
    main()
