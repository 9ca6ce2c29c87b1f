"""Publishing what an earlier publish showed, until one goes forward again.

The catalog notes which generation is to be shown; every publish shows that one, whatever syncs have taken in
meanwhile. What it needs is there: the files to which nothing refers stay as long as their generation is kept.

What `published` tells of the store is then true of less: before the first object is put it says no more than that
everything up to the earlier generation's last change is shown. So a publish, there and back, looks only at what has
changed since, and one that is killed leaves nothing that the next does not look at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.history import Generation
from cdn_fallback.mirror.due import TooManyRemovals
from cdn_fallback.mirror.errors import MirrorError

_STATE = ("published", "rolled_back", "rolled_back_change", "turned")


class NotKept(MirrorError):
    """There is no such generation, or no longer."""


def generations(catalog: Catalog) -> list[Generation]:
    """Those that can be rolled back to, the last one first: that is what the store shows."""
    return catalog.history.generations()


def rolled_back(catalog: Catalog) -> int | None:
    """The generation that publishes show instead of what the catalog has now."""
    target = catalog.history.target()
    return None if target is None else target.number


def rollback(catalog: Catalog, number: int) -> None:
    """From now on publishes show the generation `number`. Nothing is published yet.

    :raises NotKept:
    """
    if rolled_back(catalog) == number:
        return
    kept = generations(catalog)
    change = {one.number: one.change for one in kept}.get(number)
    if change is None:
        told = ", ".join(f"{one.number} ({_moment(one.at)})" for one in kept)
        problem = f"is not kept; there are {told}" if told else "is not kept: nothing was published yet"
        raise NotKept(f"generation {number}", problem)
    with catalog.transaction():
        catalog.set("published", min(catalog.get("published", 0), change))
        catalog.set("rolled_back", number)
        catalog.set("rolled_back_change", catalog.content.change)
        catalog.set("turned", 1)


def forward(catalog: Catalog) -> bool:
    """From now on publishes show what the catalog has. Returns whether they did not. Nothing is published yet."""
    if rolled_back(catalog) is None:
        return False
    with catalog.transaction():
        catalog.set("rolled_back", 0)
    return True


@contextlib.contextmanager
def unless_refused(catalog: Catalog) -> Iterator[None]:
    """What was turned inside stays turned, but for a publish that would remove too much: all is then as it was.

    Or every later one would be refused, too.
    """
    before = {key: catalog.get(key, 0) for key in _STATE}
    try:
        yield
    except TooManyRemovals:
        with catalog.transaction():
            for key, value in before.items():
                catalog.set(key, value)
        raise


def _moment(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
