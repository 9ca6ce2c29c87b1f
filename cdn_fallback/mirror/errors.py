"""What the mirror's errors have in common."""

from __future__ import annotations

from cdn_fallback.errors import CdnFallbackError, printable


class AtWork(CdnFallbackError):
    """Somebody else is at work; nothing was done."""


class MirrorError(CdnFallbackError):
    """Something cannot be done.

    :param where: the folder, URL, key or address that it is about
    :param problem: what is wrong there and what to do, without a full stop
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.problem}")
