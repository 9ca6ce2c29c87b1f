"""The ledger: every object that the store holds, and what is between two states. Part of the catalog's SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_ENTRY = "key, digest, size, text, generation"


class Entry(NamedTuple):
    """One object in the store."""

    key: str
    digest: bytes  # sha256 of its bytes
    size: int  # bytes
    headers: str  # JSON, as `site.Headers` writes it
    generation: int = 0  # the publish that put it there


class Listed(NamedTuple):
    """A line of the project list: a project whose page is in the store."""

    name: str
    display: str
    serial: int


class Ledger:
    """The tables of the ledger. Writing needs a transaction of the catalog."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._headers: dict[str, int] = {}

    def of(self, project: int | None) -> dict[str, Entry]:
        """The objects of a project (None: of the whole site) that something refers to, by key."""
        found = self._execute(
            f"SELECT {_ENTRY} FROM ledger JOIN headers ON headers.id = ledger.headers "
            "WHERE project IS ? AND doomed IS NULL",
            (project,),
        )
        return {row[0]: Entry(*row) for row in found}

    def entries(self) -> Iterator[Entry]:
        """Every object, by key."""
        found = self._execute(f"SELECT {_ENTRY} FROM ledger JOIN headers ON headers.id = ledger.headers ORDER BY key")
        yield from map(Entry._make, found)

    def count(self) -> int:
        """How many objects there are."""
        (number,) = self._execute("SELECT count(*) FROM ledger").fetchone()
        return int(number)

    def owner(self, key: str) -> tuple[int | None, bytes] | None:
        """Whose object `key` is, and its digest; None for no object."""
        found: Any = self._execute("SELECT project, digest FROM ledger WHERE key = ?", (key,)).fetchone()
        return None if found is None else (found[0], found[1])

    def taken(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Those of `keys` under which a file was ever published -> the sha256 of the first one."""
        found = {}
        for key in keys:
            row = self._execute(
                "SELECT hashes FROM removed_file WHERE key = ? AND typeof(hashes) = 'blob' "
                "UNION ALL SELECT digest FROM ledger WHERE key = ? LIMIT 1",
                (key, key),
            ).fetchone()
            if row:
                found[key] = bytes(row[0])
        return found

    def put(self, project: int | None, entries: Iterable[Entry]) -> None:
        """These are in the store now."""
        self._executemany(
            "INSERT OR REPLACE INTO ledger (key, project, digest, size, headers, generation) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.key, project, e.digest, e.size, self._number(e.headers), e.generation) for e in entries],
        )

    def doubt(self, keys: Iterable[str]) -> None:
        """These are about to be put: what the store holds under them is not known until `put`."""
        self._executemany("UPDATE ledger SET digest = x'' WHERE key = ?", [(key,) for key in keys])

    def doom(self, keys: Iterable[str], now: int) -> None:
        """Nothing refers to these any longer, from `now` (Unix time) on; caches may, for a while."""
        self._executemany("UPDATE ledger SET doomed = ? WHERE key = ? AND doomed IS NULL", [(now, k) for k in keys])

    def doomed(self, until: int) -> list[str]:
        """What nothing has referred to since `until` (Unix time) or longer."""
        return [key for (key,) in self._execute("SELECT key FROM ledger WHERE doomed <= ? ORDER BY key", (until,))]

    def forget(self, keys: Iterable[str]) -> None:
        """These are no longer in the store."""
        self._executemany("DELETE FROM ledger WHERE key = ?", [(key,) for key in keys])

    def forget_all(self) -> None:
        """The store holds nothing of what was known."""
        self._execute("DELETE FROM ledger")
        self._execute("DELETE FROM pending")
        self._execute("UPDATE project SET published = NULL")

    # between two states

    def pending(self) -> list[int]:
        """The projects that could not be published when they should have been, by name."""
        found = self._execute("SELECT id FROM pending JOIN project ON project.id = pending.project ORDER BY name")
        return [number for (number,) in found]

    def hold(self, projects: Iterable[int]) -> None:
        """These could not be published: the next publish looks at them again."""
        self._executemany("INSERT OR IGNORE INTO pending VALUES (?)", [(number,) for number in projects])

    def settle(self, projects: Iterable[tuple[int, int | None]]) -> None:
        """The store has of each project what is to be had; with the serial that its page shows, None for no page."""
        pairs = list(projects)
        self._executemany("DELETE FROM pending WHERE project = ?", [(number,) for number, _ in pairs])
        self._executemany(
            "UPDATE project SET published = ? WHERE id = ?", [(serial, number) for number, serial in pairs]
        )

    def listed(self) -> Iterator[Listed]:
        """The projects that have a page in the store, by name."""
        found = self._execute("SELECT name, display, published FROM project WHERE published IS NOT NULL ORDER BY name")
        yield from map(Listed._make, found)

    def leaving(self, since: int) -> tuple[int, int, int, int]:
        """What a publish of the changes after `since` would take away: projects, of how many; files, of how many."""
        (projects,) = self._execute(
            "SELECT count(*) FROM project WHERE removed = 1 AND published IS NOT NULL AND change > ?", (since,)
        ).fetchone()
        (listed,) = self._execute("SELECT count(*) FROM project WHERE published IS NOT NULL").fetchone()
        (gone,) = self._execute("SELECT count(*) FROM removed_file WHERE change > ?", (since,)).fetchone()
        (files,) = self._execute("SELECT count(*) FROM file").fetchone()
        return projects, listed, gone, files + gone

    def _number(self, headers: str) -> int:
        number = self._headers.get(headers)
        if number is None:
            self._execute("INSERT OR IGNORE INTO headers (text) VALUES (?)", (headers,))
            (number,) = self._execute("SELECT id FROM headers WHERE text = ?", (headers,)).fetchone()
            self._headers[headers] = number
        return int(number)
