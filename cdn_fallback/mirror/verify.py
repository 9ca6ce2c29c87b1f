"""Holds the store against the catalog: is there what the ledger vouches for, and does every page lead somewhere?

Quickly, by the store's listing: what is missing, what nobody knows, what has another size or tag than when it was put.
Or thoroughly: every object is read, and its digest and headers are compared; every page is read as a client reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from typing import NamedTuple

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.ownership import is_unclaimed
from cdn_fallback.mirror.references import LARGEST, is_page, page_of, references
from cdn_fallback.mirror.site import Headers, sent_as
from cdn_fallback.mirror.stores import Store, StoreError
from cdn_fallback.mirror.threads import each

Progress = Callable[[str, int, int], None]

MISSING = "missing"
EXTRA = "extra"
BYTES = "bytes"
HEADERS = "headers"
DANGLING = "dangling"


class Finding(NamedTuple):
    """Something that is not as it should be."""

    kind: str  # one of the above
    key: str
    what: str  # a phrase that follows the key


class Verified(NamedTuple):
    """What was looked at, and what was found."""

    objects: int  # that the ledger vouches for
    findings: tuple[Finding, ...]

    def keys(self, *kinds: str) -> list[str]:
        """Of the findings of these kinds."""
        return sorted({found.key for found in self.findings if found.kind in kinds})

    @property
    def to_mend(self) -> list[str]:
        """The keys of what a publish can put again."""
        return self.keys(MISSING, BYTES, HEADERS)


class _Seen(NamedTuple):
    """An object as it was read; `body` only of a page."""

    entry: Entry
    findings: list[Finding]
    body: bytes | None = None


def verify(catalog: Catalog, store: Store, progress: Progress, *, quick: bool = False) -> Verified:
    """Look at everything. Changes nothing, but for the catalog's scratch tables.

    :raises StoreError: if the store is not the catalog's, or cannot be read
    """
    if is_unclaimed(store, catalog):
        return Verified(0, ())
    inventory = catalog.inventory
    inventory.take(_listed(store, progress))
    of = inventory.vouched()
    found = [Finding(MISSING, key, "is not there") for key in inventory.missing()]
    found += [Finding(EXTRA, key, f"is there, and nobody knows why ({size} bytes)") for key, size in inventory.extra()]
    if quick:
        found += [Finding(BYTES, key, "is not what was put there") for key in inventory.changed()]
        return Verified(of, tuple(found))
    missing = {one.key for one in found if one.kind == MISSING}
    wrong = set(missing)
    # Pages are held against what was found of files: those come first.
    entries = chain(inventory.there(pages=False), inventory.there(pages=True))
    for number, seen in enumerate(each(store.workers, lambda entry: _look(store, entry), entries), 1):
        progress("objects", number, of)
        found += seen.findings
        missing.update(one.key for one in seen.findings if one.kind == MISSING)
        wrong.update(one.key for one in seen.findings if one.kind != HEADERS)
        if seen.body is not None:
            found += _dangling(catalog, seen.entry.key, seen.body, missing, wrong)
    return Verified(of, tuple(found))


def doubt(catalog: Catalog, verified: Verified) -> int:
    """What is missing or wrong is no longer vouched for: the next publish puts it again. Returns how many there are."""
    keys = set(verified.to_mend)
    # A twin is only looked at where its page is.
    keys |= {page_of(key) for key in keys}
    ledger = catalog.ledger
    with catalog.transaction():
        ledger.forget(list(catalog.inventory.missing(doomed=True)))
        if keys:
            ledger.hold({project for _, project in ledger.of_keys(keys) if project is not None})
            ledger.doubt(keys)
            catalog.set("static", -1)  # look at every file beside the index
    return len(keys)


def _listed(store: Store, progress: Progress) -> Iterator[tuple[str, int, str]]:
    for number, one in enumerate(store.list(), 1):
        if number % 1000 == 0:
            progress("objects listed", number, 0)
        yield one


def _look(store: Store, entry: Entry) -> _Seen:
    opened = store.open(entry.key)
    if opened is None:
        return _Seen(entry, [Finding(MISSING, entry.key, "is listed, and not there")])
    found = []
    pieces = []
    seen = hashlib.sha256()
    is_read = is_page(entry.key) and opened.head.size <= LARGEST  # we never put such a one: its digest tells
    with closing(opened):
        while piece := opened.read(1 << 20):
            seen.update(piece)
            if is_read:
                pieces.append(piece)
    if seen.digest() != entry.digest:
        found.append(Finding(BYTES, entry.key, f"has other bytes: sha256 {seen.hexdigest()[:16]}..."))
    headers = opened.head.headers
    if headers is not None and not sent_as(headers, Headers.read(entry.headers)):
        found.append(Finding(HEADERS, entry.key, f"is sent with {headers}, not with {entry.headers}"))
    return _Seen(entry, found, b"".join(pieces) if is_read else None)


def _dangling(catalog: Catalog, key: str, body: bytes, missing: set[str], wrong: set[str]) -> Iterator[Finding]:
    """`wrong` are objects that are missing or have other bytes: a list is content with a page that is there."""
    try:
        wanted = references(key, body)
    except StoreError as exc:
        yield Finding(DANGLING, key, f"is no index page: {exc.problem}")
        return
    for reference in wanted:
        known = catalog.ledger.owner(reference.key)
        if known is None or reference.key in (wrong if reference.digest else missing):
            yield Finding(DANGLING, key, f"leads to {reference.key}, which is not there as it should be")
        elif reference.digest and known[1] != reference.digest:
            yield Finding(DANGLING, key, f"promises other bytes of {reference.key} than lie there")
