"""What the commands print: every line passes `printable`, as most of it comes from elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from cdn_fallback.errors import CdnFallbackError, printable


class Unusable(CdnFallbackError):
    """The command cannot do what it was asked for: says why, and what to do."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return printable(self.problem)


def say(line: str = "") -> None:
    """One line of the result, at once."""
    print(printable(line), flush=True)


def complain(error: object) -> None:
    """An error's lines on stderr; those of ours have escaped what came from elsewhere."""
    for line in str(error).splitlines():
        print(printable(line), file=sys.stderr)


def say_json(document: Any) -> None:
    """`document` as JSON in ASCII, so that no control gets through here either."""
    print(json.dumps(document, indent=2))


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """`rows` as lines with aligned columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]


def iso(moment: float | datetime) -> str:
    """A time (seconds since the epoch, or aware) in UTC as ISO 8601 has it, to the second."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
