"""Write docs/troubleshooting.md, every signature of `ascend-launch explain` as a page. It is not committed: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher.diagnose.explain import reference

DOC = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"


def main() -> None:
    DOC.write_text(reference.markdown(), encoding="utf-8")
    print(DOC)


if __name__ == "__main__":
    main()
