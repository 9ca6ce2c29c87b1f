"""What a publish did, or would do."""

from __future__ import annotations

from typing import NamedTuple


class Held(NamedTuple):
    """A project that could not be published: its old page stays, the next publish tries again."""

    name: str
    why: str


class Report(NamedTuple):
    """What a publish did, or would do."""

    generation: int = 0
    projects: int = 0  # that differed
    puts: int = 0
    bytes: int = 0  # of what was put
    parts: int = 0  # requests for large files, beside one for each put; only planned
    deletes: int = 0
    doomed: int = 0  # objects that nothing refers to now, to be deleted when the caches have forgotten them
    invalidations: tuple[str, ...] = ()  # paths that caches should forget at once: of what was yanked or taken away
    held: tuple[Held, ...] = ()


def is_file(key: str) -> bool:
    """Whether a cache may know the object for long: everything but the index's own pages."""
    return not key.startswith(("simple/", "pypi/"))
