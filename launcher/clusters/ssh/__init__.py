"""One job on the hosts of a hostfile, started and watched over OpenSSH."""

from __future__ import annotations
