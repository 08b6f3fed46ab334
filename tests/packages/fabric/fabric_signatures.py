"""Signatures of another package: a file, a list, one that cannot be used, and one that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

interface = 1
signatures = Path(__file__).with_name("fabric.yaml")

_CABLE = {
    "id": "fabric-cable",
    "area": "communication",
    "match": [r"fabricd: cable (?P<cable>\w+) is loose"],
    "en": {"cause": "cable {cable} is loose.", "fix": "push it in."},
    "zh": {"cause": "线缆 {cable} 松动。", "fix": "请插紧。"},
    "source": "fabricd's manual",
}
CABLES = SimpleNamespace(interface=1, signatures=[_CABLE])
COPY = SimpleNamespace(interface=1, signatures=[{**_CABLE, "id": "oom-npu"}])
