"""Alpaca's: `{"instruction": …, "input": …, "output": …, "system": …, "history": [[…, …], …]}`."""

from __future__ import annotations

from launcher.data.formats.pairs import Pairs

ALPACA = Pairs(
    name="alpaca",
    ask="instruction",
    answer="output",
    names=(("instruction", "output"),),
    more="input",
)
