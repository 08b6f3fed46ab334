"""Run directories."""

from launcher import moved

__getattr__ = moved.names_of(
    __name__,
    ("rundir.paths", "rundir.lifecycle", "rundir.events", "files"),
    frozenset(
        {"RunDir", "MODEL_NOTE", "new", "of_job", "point_latest", "append_event", "read_json", "write_json", "tail"}
    ),
)
