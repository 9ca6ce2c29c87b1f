"""Which faults are for which requests, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.rig.faults import Fault
from tests.rig.messages import kind_of

On = str | Callable[[str], bool]
KINDS = ("any", "connection", "page", "file", "metadata", "other")


@dataclass(slots=True)
class Rule:
    """Faults, for which requests, and how many more times (None: always), after so many healthy ones."""

    faults: tuple[Fault, ...]
    on: On
    times: int | None
    after: int

    def applies(self, path: str | None) -> bool:
        """Whether it is for this path (None: a connection). Counts itself down."""
        if not self._matches(path):
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            if not self.times:
                return False
            self.times -= 1
        return True

    def _matches(self, path: str | None) -> bool:
        if path is None or self.on == "connection":
            return path is None and self.on == "connection"
        if callable(self.on):
            return self.on(path)
        return self.on in ("any", path.partition("?")[0], kind_of(path))


class Rules:
    """The rules of one server, shared by its threads."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Behind those that are there."""
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Health."""
        with self._lock:
            self._rules.clear()

    def take(self, path: str | None) -> tuple[Fault, ...]:
        """The faults of the first rule that applies to this path (None: a connection), counted down."""
        with self._lock:
            return next((rule.faults for rule in self._rules if rule.applies(path)), ())
