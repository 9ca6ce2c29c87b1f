"""Whose the store is: a catalog publishes into one that is its own or empty, and leaves every other alone."""

from __future__ import annotations

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.mark import owner
from cdn_fallback.mirror.stores import Store, StoreError


def is_unclaimed(store: Store, catalog: Catalog, *, lost: bool = False) -> bool:
    """Whether the store is nobody's yet, and may become the catalog's.

    :param lost: that it is not what the ledger says is no surprise
    :raises StoreError: if it is somebody else's, or may be
    """
    found = owner(store)
    if found is not None:
        if found.catalog == catalog.identity:
            return False
        raise StoreError(
            store.where,
            f"belongs to another catalog ({found.catalog}); name another store, or use that catalog. If that is "
            "lost, `cdn-fallback mirror verify --adopt` makes it anew from the store",
        )
    if catalog.ledger.count() and not lost:
        raise StoreError(
            store.where,
            "is not the one that the catalog has published to: its mark is missing. Is a disk not mounted? "
            "If the store is really lost, `cdn-fallback mirror publish --anew` fills it again",
        )
    first = next(store.list(), None)
    if first is not None:
        raise StoreError(store.where, f"is not empty and not ours: it holds {first.key}. Name an empty one")
    return True
