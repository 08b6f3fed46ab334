"""Alpaca's: `{"instruction": …, "input": …, "output": …, "system": …, "history": [[…, …], …]}`; and Dolly's, in which they are
called instruction, context and response."""

from __future__ import annotations

from launcher.data.formats.pairs import Pairs

ALPACA = Pairs(
    name="alpaca",
    ask="instruction",
    answer="output",
    names=(("instruction", "output"), ("instruction", "response")),
    more="input",
    more_names=("input", "context"),
)
