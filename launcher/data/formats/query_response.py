"""ms-swift's: `{"query": …, "response": …, "system": …, "history": [[…, …], …]}`, and other names of the two."""

from __future__ import annotations

from launcher.data.formats.pairs import Pairs

QUERY_RESPONSE = Pairs(
    name="query-response",
    ask="query",
    answer="response",
    names=(
        ("query", "response"),
        ("prompt", "response"),
        ("question", "answer"),
        ("question", "response"),
        ("query", "answer"),
        ("input", "output"),
        ("input", "target"),
    ),
)
