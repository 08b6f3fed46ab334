"""What each node writes for the others to see."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from launcher.worker.agent.nodes import seal
from launcher.worker.agent.nodes.link import Record

TICK_S = 0.1
BEAT_S = 1.0
LOST_AFTER_S = 15.0
"""A node that has not been heard of for so long is lost. The thread that beats does nothing else."""


@dataclass
class _Seen:
    """The latest that was read of a node."""

    state: Record = field(default_factory=dict)
    heard_s: float = 0.0
    """When it last changed, on this node's monotonic clock; every beat changes it."""
    offset_ns: int = 0
    """This node's monotonic clock less that node's: the least of what all its beats said, since each took a while."""


NOTHING = _Seen()


class NodeBoard:
    """Writes this node's key and reads the others', on a thread of its own."""

    def __init__(self, store: Any, own: int, others: range, introduction: Record, mark: seal.Seal) -> None:
        self._store, self._own, self._others, self._seal = store, own, others, mark
        self._session = introduction["session"]
        self._introduction = json.dumps(introduction)
        self.num_foreign = 0
        """Entries in the store that no node of this job wrote."""
        self.met: dict[int, Record] = {}
        """Who came, by what each said of itself when it came."""
        self.seen: dict[int, _Seen] = {}
        self.taken_by = ""
        """The host of another launcher that came as this node before."""
        self.error = ""
        """Why the store can no longer be talked to."""
        self.is_given_up = False
        """This node said nothing for so long that another launcher may have its place."""
        self._state: Record = {}
        self._written: Record | None = None
        self._written_s = self._taken_s = 0.0
        self._raw: dict[int, bytes] = {}
        self._forgotten: list[int] = []
        self._lock, self._wake, self._is_closed = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._run, name="nodes", daemon=True).start()

    @property
    def taken_for_s(self) -> float:
        return time.monotonic() - self._taken_s

    def post(self, **values: Any) -> None:
        """Say this of this node from now on."""
        with self._lock:
            changed = {**self._state, **values}
            if changed == self._state:
                return
            self._state = changed
        self._wake.set()

    def forget(self, node: int) -> None:
        """A node is gone; another may take its place."""
        self.met.pop(node, None)
        self.seen.pop(node, None)
        self._forgotten.append(node)

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was posted is written."""
        deadline = time.monotonic() + timeout_s
        while self._written != self._state and not self.error and time.monotonic() < deadline:
            time.sleep(TICK_S / 5)

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._is_closed and not self._introduced():
                time.sleep(BEAT_S)
            while not self._is_closed:
                self._exchange()
                self._wake.wait(TICK_S)
                self._wake.clear()
        except Exception as error:  # torch's DistError family, or a bug here: without this thread nobody is heard
            self.error = str(error) or type(error).__name__

    def _introduced(self) -> bool:
        key = f"came_{self._own}"
        own = self._seal.close(key, self._introduction)
        raw = self._store.compare_set(self._seal.name(key), "", own)
        if raw == own.encode():
            return True
        taken = self._seal.open(key, raw)
        other = seal.record(taken, host=str)
        if other is None:  # given up before, or not written by a node
            self.num_foreign += taken != ""
            return bool(self._store.compare_set(self._seal.name(key), raw, own) == own.encode())
        if not self.taken_by:
            self.taken_by, self._taken_s = other["host"], time.monotonic()
        return False

    def _came(self, node: int) -> str | None:
        """How a node introduced itself, without waiting for it; '' where it was given up, None where there is no word of
        this job."""
        key, nothing = f"came_{node}", "\0"
        raw = self._store.compare_set(self._seal.name(key), nothing, nothing)
        if raw == nothing.encode():
            return None
        text = self._seal.open(key, raw)
        if text == "" or seal.record(text, host=str, session=str) is not None:
            return text
        self.num_foreign += 1
        return None

    def _exchange(self) -> None:
        while self._forgotten:
            node = self._forgotten.pop()
            self._store.delete_key(self._seal.name(f"node_{node}"))
            self._raw.pop(node, None)
            self._store.set(self._seal.name(f"came_{node}"), self._seal.close(f"came_{node}", ""))
            self.met.pop(node, None)  # read once more in the meantime
            self.seen.pop(node, None)
        with self._lock:
            state = self._state
        if self._written is not None and time.monotonic() - self._written_s > LOST_AFTER_S / 2:
            self.is_given_up = self._came(self._own) not in (self._introduction, None)
            if self.is_given_up:
                raise RuntimeError("given up")
        if state != self._written or time.monotonic() - self._written_s >= BEAT_S:
            self._write(state)
        # A key that was there stays until it is forgotten here, unless somebody else removes it; reading would wait for it.
        known = {n: self._seal.name(f"node_{n}") for n in self._others if n in self._raw}
        are_there = bool(known) and self._store.check(list(known.values()))
        raws = self._store.multi_get(list(known.values())) if are_there else []
        for node, raw in zip(known, raws, strict=are_there):
            self._took(node, raw)
        for node in self._others:
            name = self._seal.name(f"node_{node}")
            if not (are_there and node in known) and self._store.check([name]):
                self._took(node, self._store.get(name))

    def _write(self, state: Record) -> None:
        key = f"node_{self._own}"
        text = json.dumps({**state, "session": self._session, "beat_ns": time.monotonic_ns()})
        self._store.set(self._seal.name(key), self._seal.close(key, text))
        self._written, self._written_s = state, time.monotonic()
        is_met = state.get("phase") == "running" if self._own == 0 else "ready" in state
        if not is_met and self._came(self._own) is None:  # somebody wrote over it before the others read it
            key = f"came_{self._own}"
            self._store.set(self._seal.name(key), self._seal.close(key, self._introduction))
        if self._own:
            return
        self._store.set(seal.NONCE, self._seal.begun)  # again and again: for one that comes late, whoever wrote there
        # Where all entries have names that nobody can guess, anything else is somebody else's.
        expected = 1 + 2 * (len(self._others) + 1)
        if self._seal.is_set and self._store.num_keys() > expected:
            self.num_foreign += 1

    def _took(self, node: int, raw: bytes) -> None:
        if raw == self._raw.get(node):
            return
        if node not in self.met:
            text = self._came(node)
            if text == "":  # of one that was given up, and goes on writing after a long sleep
                self._store.delete_key(self._seal.name(f"node_{node}"))
                self._raw.pop(node, None)
                return
            came = seal.record(text, host=str, session=str)
            if came is None or not {"address", "first"} <= came.keys():
                return
            self.met[node] = came
        self._raw[node] = raw
        state, before = seal.record(self._seal.open(f"node_{node}", raw), beat_ns=int), self.seen.get(node)
        if state is None or state.get("session") != self.met[node]["session"]:
            self.num_foreign += 1
            return
        if before is not None and state["beat_ns"] <= before.state["beat_ns"]:  # said before, and now by somebody else
            self.num_foreign += 1
            return
        offset = time.monotonic_ns() - state["beat_ns"]
        self.seen[node] = _Seen(state, time.monotonic(), min(offset, before.offset_ns) if before else offset)
