"""The store's mark: a line of JSON that says whose the store is, and who publishes to it now."""

from __future__ import annotations

import json
import re
from typing import NamedTuple, Protocol

from cdn_fallback.errors import printable
from cdn_fallback.mirror.stores import MARKER, Mark, StoreError

_IDENTITY = re.compile(r"[0-9a-f]{32}")
LONGEST = 300  # characters of a holder
_LARGEST = 8192  # bytes of a mark


class Marked(Protocol):
    """What the lease needs of a `Store`."""

    where: str

    def mark(self) -> Mark | None:
        """As `Store.mark`."""

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        """As `Store.set_mark`."""


class Owner(NamedTuple):
    """What the mark says. Nobody publishes to the store where `run` is empty."""

    catalog: str  # its identity
    holder: str = ""  # in plain text, for people
    place: str = ""  # as in `Who`
    run: str = ""  # made up for each lease
    turn: int = 0  # counts what was written in this run: no two marks are alike


def owner(store: Marked) -> Owner | None:
    """Whose the store is; None if it is nobody's. Raises StoreError, also for a mark that is not ours."""
    return read(store, store.mark())


def written(owner: Owner) -> bytes:
    """The mark that says so."""
    known = owner._asdict() if owner.run else {"catalog": owner.catalog}
    return json.dumps(known).encode("ascii") + b"\n"


def read(store: Marked, mark: Mark | None) -> Owner | None:
    """What a mark of `store` says; None for none. Raises StoreError for one that is not ours."""
    if mark is None:
        return None
    found = _parsed(mark.body)
    if found is None:
        begins = mark.body[:40].decode("ascii", "backslashreplace")
        problem = f"holds a {MARKER} that is not ours (it begins with {begins!r}); name another store, or remove it"
        raise StoreError(store.where, f"{problem} if you know that the store is this catalog's")
    return found


def _parsed(body: bytes) -> Owner | None:
    """None for what we did not write. The first versions wrote nothing but the catalog's identity."""
    if len(body) > _LARGEST:
        return None
    try:
        text = body.decode("ascii")
        if _IDENTITY.fullmatch(text.strip()):
            return Owner(text.strip())
        found = json.loads(text)
        one = Owner(**{name: found[name] for name in Owner._fields if name in found})
    except (ValueError, TypeError, RecursionError):
        return None
    texts = all(isinstance(value, str) for value in one[:4])
    if not texts or type(one.turn) is not int or not _IDENTITY.fullmatch(one.catalog):
        return None
    return one._replace(holder=printable(one.holder)[:LONGEST])
