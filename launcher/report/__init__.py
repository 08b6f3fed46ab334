"""A run as a page."""

from launcher import moved

__getattr__ = moved.names_of(
    __name__, ("report.page", "report.read"), frozenset({"write", "html", "summary", "load", "load_all"})
)
