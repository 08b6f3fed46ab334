"""Write docs/troubleshooting.md from launcher/diagnose/explain/signatures.yaml. With --check, only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.diagnose.explain import reference

sys.path.insert(0, str(Path(__file__).parents[1]))


DOC = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


def main() -> None:
    text = reference.markdown()
    if "--check" in sys.argv[1:]:
        if not DOC.exists() or DOC.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{DOC.name} is not what signatures.yaml says: run python tools/troubleshooting_docs.py")
        return
    DOC.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
