"""How the agents of a job recognise each other's messages in a store that anybody who reaches it can write to.

Every message carries an HMAC-SHA256 (RFC 2104) over the job's nonce, its own name in the store, and its text, so that
neither a stranger's message nor one of another job, node or time passes for a node's own. Names in the store are made of
the secret too: nobody else can tell which to overwrite.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any

NONCE = "job"
"""The name under which the first node says which job this is."""


class Seal:
    """Signs and verifies one job's messages. Without a secret every message passes that can be read."""

    def __init__(self, secret: str) -> None:
        self._secret, self._nonce = secret.encode(), ""
        self.is_set = bool(secret)
        self.begun = ""
        """The first node's: what it writes under NONCE."""

    def begin(self) -> None:
        """The first node's: draw the job's nonce."""
        nonce = secrets.token_hex(16)
        self.begun, self._nonce = self.close(NONCE, nonce), nonce

    def join(self, raw: bytes) -> bool:
        """Another node's: whether what stands under NONCE was written with the same secret, or without one where there is
        none here; its nonce is taken over then."""
        nonce = self.open(NONCE, raw)
        if nonce is None or len(nonce) != 32:  # one with a seal is longer where it is taken for plain text
            return False
        self._nonce = nonce
        return True

    def name(self, key: str) -> str:
        """What a message is called in the store."""
        return f"{key}_{self._code('name', key)[:24]}" if self.is_set else key

    def close(self, key: str, text: str) -> str:
        """A message as it is written."""
        return f"{self._code(key, text)} {text}" if self.is_set else text

    def open(self, key: str, raw: bytes) -> str | None:
        """The text of a message; None where it is not of this job."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return None
        if not self.is_set:
            return text
        code, _, text = text.partition(" ")
        return text if hmac.compare_digest(code.encode(), self._code(key, text).encode()) else None

    def _code(self, key: str, text: str) -> str:
        return hmac.new(self._secret, f"{self._nonce}\0{key}\0{text}".encode(), "sha256").hexdigest()


def record(text: str | None, **needed: type) -> dict[str, Any] | None:
    """A message's JSON object, where it has the fields that it needs; None for anything else."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(value, dict) and all(type(value.get(key)) is kind for key, kind in needed.items())
    return value if is_one else None
