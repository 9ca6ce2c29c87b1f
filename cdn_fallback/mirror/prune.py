"""Removes what is no longer referred to, when its time has come; also what the catalog never heard of.

A publish deletes what itself took away. What a lost catalog, or somebody's hand, left in the store is found by its
listing: it is noted, and deleted when every cache must have forgotten it.
"""

from __future__ import annotations

from typing import NamedTuple

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.ownership import is_unclaimed
from cdn_fallback.mirror.stores import Store


class Strangers(NamedTuple):
    """What is in the store and nobody knows why."""

    new: tuple[str, ...] = ()  # keys, of those that were not noted before
    waiting: int = 0  # how many objects wait for their time, all in all


def strangers(catalog: Catalog, store: Store, now: float, *, note: bool = True) -> Strangers:
    """Look at everything that the store lists.

    :param note: that they are to be deleted when their time has come; the next publish or prune does it
    :raises StoreError: if the store is not the catalog's, or cannot be listed
    """
    if is_unclaimed(store, catalog):
        return Strangers()
    catalog.inventory.take((one.key, one.size, one.tag) for one in store.list())
    found = list(catalog.inventory.extra())
    if note and found:
        with catalog.transaction():
            catalog.ledger.strangers(found, int(now))
    return Strangers(tuple(key for key, _ in found), len(catalog.ledger.doomed(int(now))))
