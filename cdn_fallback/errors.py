"""What can go wrong, as values: errors carry fields, ``__str__`` makes the text.

Every text may hold what a stranger's server sent (a reason phrase, a file name, a Location), and ends up
on somebody's terminal: `printable` is the one gate through which it gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdn_fallback.verdicts import Attempt

# Bidirectional controls reorder what a terminal shows (CVE-2021-42574); isprintable() accepts none of them,
# nor C0, C1, DEL, line and paragraph separators.


def printable(text: object) -> str:
    """`text` with every control, bidirectional and unassigned character written as an escape.

    pip once printed a raw ESC out of a 404's reason phrase; nothing of ours does.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


class CdnFallbackError(Exception):
    """The base of every error that this package raises on purpose."""

    # Exception.__reduce__ would call the class with the formatted text; ours are rebuilt from their fields.
    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self.args)


class ConfigError(CdnFallbackError):
    """A setting that cannot be used: says where it stands, and what to do.

    :param where: the file (with its line, as ``/etc/pip.conf:12``) or the environment variable
    :param key: the setting's name, or ``None`` where the whole file or section is meant
    :param problem: one sentence, without a full stop
    """

    def __init__(self, where: str, key: str | None, problem: str) -> None:
        super().__init__(where, key, problem)
        self.where = where
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return printable(f"cdn-fallback configuration, {self.where}: {key}{self.problem}")


class AllEndpointsFailed(CdnFallbackError):
    """Nothing that serves `url` gave a usable answer.

    :param url: the canonical URL
    :param attempts: every attempt made, in order
    :param hint: what the user can do about it, or an empty string
    """

    def __init__(self, url: str, attempts: Sequence[Attempt], hint: str = "") -> None:
        super().__init__(url, tuple(attempts), hint)
        self.url = url
        self.attempts = tuple(attempts)
        self.hint = hint

    @property
    def begun(self) -> bool:
        """Whether somebody had begun to answer: it is a body that could not be had whole."""
        return any(attempt.status in (200, 206) and attempt.trouble is None for attempt in self.attempts)

    def __str__(self) -> str:
        count = len(self.attempts)
        lines = [f"no usable answer for {printable(self.url)} after {count} attempt{'' if count == 1 else 's'}:"]
        lines += [f"  {number}. {attempt}" for number, attempt in enumerate(self.attempts, 1)]
        if self.hint:
            lines.append(printable(self.hint))
        return "\n".join(lines)


class HashMismatch(CdnFallbackError):
    """Two endpoints handed out a file that is not what the index promised.

    :param url: the file's canonical URL
    :param expected: ``algorithm:hex`` as the index has it
    :param got: pairs of (endpoint base URL, ``algorithm:hex`` that it served), in the order tried
    """

    def __init__(self, url: str, expected: str, got: Sequence[tuple[str, str]]) -> None:
        super().__init__(url, expected, tuple(got))
        self.url = url
        self.expected = expected
        self.got = tuple(got)

    def __str__(self) -> str:
        lines = [f"{printable(self.url)} does not have the hash that its index promises, {printable(self.expected)}:"]
        lines += [f"  {printable(base)} served {printable(digest)}" for base, digest in self.got]
        lines.append("Do not install it; tell the index's operators.")
        return "\n".join(lines)
