"""Puts objects into the store, several at once, and nothing that is not what was promised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.site import Object
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.stores import Store
from cdn_fallback.mirror.threads import each


class Chained(NamedTuple):
    """What has become of a chain: its first objects are in the store, all of them if there is no error."""

    entries: list[Entry]
    error: ProjectError | None = None


class Uploads:
    """One publish's way into the store.

    :param read: the bytes of a file from where they are now
    :param check: raises StoreError if nothing may be put any more; called before each put
    """

    def __init__(
        self, store: Store, generation: int, read: Callable[[Object], BinaryIO], check: Callable[[], None]
    ) -> None:
        self._store = store
        self._generation = generation
        self._read = read
        self._check = check

    def each(self, chains: Iterable[Sequence[Object]]) -> Iterator[Chained]:
        """Put the objects of each chain one after the other, as many chains at once as the store likes.

        Tells of each chain, in their order. A chain ends where the bytes of an object cannot be had or are not those
        that were promised. A StoreError ends everything: what is under way is waited for, nothing else begins.
        """
        return each(self._store.workers, self._chain, chains)

    def _chain(self, objects: Sequence[Object]) -> Chained:
        entries: list[Entry] = []
        try:
            for one in objects:
                entries.append(self._put(one))
        except ProjectError as exc:
            return Chained(entries, exc)
        return Chained(entries)

    def _put(self, wanted: Object) -> Entry:
        self._check()
        if wanted.body is not None:
            done = self._store.put(wanted.key, wanted.body, wanted.headers, wanted.digest)
        else:
            with self._read(wanted) as body:
                done = self._store.put(wanted.key, Checked(body, wanted, self._check), wanted.headers, wanted.digest)
        return Entry(wanted.key, wanted.digest, done.size, str(wanted.headers), self._generation, done.tag)


class Checked:
    """A body that raises ProjectError at its end if it is not what was promised: nothing wrong is published.

    :param check: as in `Uploads`; called before each piece, as a large file goes up for longer than any other put
    """

    def __init__(self, body: BinaryIO, wanted: Object, check: Callable[[], None] = lambda: None) -> None:
        self._body = body
        self._wanted = wanted
        self._check = check
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """As a file's; to its end, where it is compared."""
        self._check()
        try:
            data = self._body.read(size)
        except OSError as exc:
            raise ProjectError(self._wanted.key, f"cannot be read now ({exc.strerror or exc})") from exc
        self._hash.update(data)
        if not data and self._hash.digest() != self._wanted.digest:
            raise ProjectError(self._wanted.key, "has changed since it was read; it is left for the next sync")
        return data
