"""What a store was seen to hold, held against the ledger. Part of the catalog's SQL; ends with the connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.catalog.ledger import Entry, entry, tag_value

_LEDGER = "FROM ledger JOIN headers ON headers.id = ledger.headers"
_VOUCHED = f"{_LEDGER} WHERE text <> ''"
_THERE = f"{_LEDGER} JOIN temp.stored USING (key) WHERE text <> ''"  # and listed
_ENTRY = "ledger.key, digest, ledger.size, text, generation, ledger.tag"


class Inventory:
    """A table beside the catalog's: in a file that SQLite makes and removes, for there may be millions of rows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany

    def take(self, listed: Iterable[tuple[str, int, str]]) -> int:
        """Note what the store has listed, as (key, size, tag). Returns how many objects there are."""
        self._execute("DROP TABLE IF EXISTS temp.stored")
        self._execute("CREATE TEMP TABLE stored (key TEXT PRIMARY KEY, size INTEGER, tag ANY) WITHOUT ROWID")
        count = 0
        for some in batches(listed, 10_000):
            self._executemany(
                "INSERT OR REPLACE INTO temp.stored VALUES (?, ?, ?)",
                # A folder may hold names that are no UTF-8 (PEP 383); SQLite takes none, and no key of ours is such.
                [(key.encode("utf-8", "backslashreplace").decode(), size, tag_value(tag)) for key, size, tag in some],
            )
            count += len(some)
        return count

    def vouched(self) -> int:
        """How many objects the ledger vouches for, and something refers to."""
        (count,) = self._execute(f"SELECT count(*) {_VOUCHED} AND doomed IS NULL").fetchone()
        return int(count)

    def missing(self, *, doomed: bool = False) -> Iterator[str]:
        """The keys of objects that the ledger vouches for, and that the store has not listed.

        :param doomed: of those that nothing refers to
        """
        found = self._execute(
            f"SELECT ledger.key {_VOUCHED} AND doomed IS {'NOT ' if doomed else ''}NULL "
            "AND NOT EXISTS (SELECT 1 FROM temp.stored WHERE key = ledger.key) ORDER BY ledger.key"
        )
        yield from (key for (key,) in found)

    def extra(self) -> Iterator[tuple[str, int]]:
        """(key, size) of what the store holds and the ledger does not know."""
        yield from self._execute(
            "SELECT key, size FROM temp.stored WHERE NOT EXISTS (SELECT 1 FROM ledger WHERE key = stored.key) "
            "ORDER BY key"
        )

    def changed(self) -> Iterator[str]:
        """The keys of objects that are listed with another size or tag than when they were put, and are referred to."""
        found = self._execute(
            f"SELECT ledger.key {_THERE} "
            "AND doomed IS NULL AND (stored.size <> ledger.size OR stored.tag <> ledger.tag) ORDER BY ledger.key"
        )
        yield from (key for (key,) in found)

    def there(self, *, pages: bool) -> Iterator[Entry]:
        """The objects that the ledger vouches for and the store has listed, and that something refers to.

        :param pages: the pages that refer to others, in their JSON form; or everything else
        """
        found = self._execute(
            f"SELECT {_ENTRY} {_THERE} "
            f"AND doomed IS NULL AND ledger.key {'' if pages else 'NOT '}GLOB 'simple/*index.json' ORDER BY ledger.key"
        )
        yield from map(entry, found)

    def has(self, key: str) -> bool:
        """Whether the store has listed it."""
        return self._execute("SELECT 1 FROM temp.stored WHERE key = ?", (key,)).fetchone() is not None
