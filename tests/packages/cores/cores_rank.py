"""The part of it that runs in ranks."""

from __future__ import annotations

from launcher.worker.accelerators.cpu import Cpu


class CoresInRank(Cpu):
    """Cores can be used in a forked process, and say so."""

    def works_in_fork(self, name: str) -> bool:
        print("cores work in a fork", flush=True)
        return super().works_in_fork(name)
