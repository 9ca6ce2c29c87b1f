"""The ledger: every object that the store holds, and what is between two states. Part of the catalog's SQL."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

_ENTRY = "key, digest, size, text, generation, tag"
_PAGES = ("simple/", "pypi/")
_UNKNOWN = ""  # the headers of an object that is about to be put: no object that is there has such
_MD5 = re.compile('"[0-9a-f]{32}"')  # the usual ETag
# What a publish of the changes after `since` takes away, and what it leaves there.
_LEAVING = (
    (
        "projects",
        "SELECT count(*) FROM project WHERE removed = 1 AND published IS NOT NULL AND change > :since",
        "SELECT count(*) FROM project WHERE removed = 0 AND published IS NOT NULL",
    ),
    (
        "files",
        "SELECT count(*) FROM (SELECT DISTINCT project, filename FROM removed_file WHERE change > :since) AS gone "
        "WHERE NOT EXISTS (SELECT 1 FROM file WHERE project = gone.project AND filename = gone.filename)",
        "SELECT count(*) FROM file",
    ),
    (
        "files beside the index",
        "SELECT count(*) FROM static JOIN ledger USING (key) WHERE removed = 1 AND doomed IS NULL AND change > :since",
        "SELECT count(*) FROM static WHERE removed = 0",
    ),
)


class Entry(NamedTuple):
    """One object in the store, or about to be put there."""

    key: str
    digest: bytes  # sha256 of its bytes; of what was there first, where it is about to be put
    size: int  # bytes
    headers: str  # JSON, as `site.Headers` writes it; empty: it is about to be put, nobody knows what is there
    generation: int = 0  # the publish that put it there
    tag: str = ""  # the store's own word for its bytes (an ETag); empty: it has none


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
        return {row[0]: entry(row) for row in found}

    def doomed_of(self, project: int) -> dict[str, Entry]:
        """The objects of a project that nothing refers to any longer, and that are still there."""
        found = self._execute(
            f"SELECT {_ENTRY} FROM ledger JOIN headers ON headers.id = ledger.headers "
            "WHERE project = ? AND doomed IS NOT NULL",
            (project,),
        )
        return {row[0]: entry(row) for row in found}

    def some_doomed(self) -> bool:
        """Whether there are objects that nothing refers to."""
        return self._execute("SELECT 1 FROM ledger WHERE doomed IS NOT NULL LIMIT 1").fetchone() is not None

    def entries(self) -> Iterator[Entry]:
        """Every object, by key."""
        found = self._execute(f"SELECT {_ENTRY} FROM ledger JOIN headers ON headers.id = ledger.headers ORDER BY key")
        yield from map(entry, found)

    def count(self) -> int:
        """How many objects there are."""
        (number,) = self._execute("SELECT count(*) FROM ledger").fetchone()
        return int(number)

    def owner(self, key: str) -> tuple[int | None, bytes] | None:
        """Whose object `key` is, and its digest; None for no object."""
        found: Any = self._execute("SELECT project, digest FROM ledger WHERE key = ?", (key,)).fetchone()
        return None if found is None else (found[0], found[1])

    def in_the_way(self, key: str) -> list[tuple[str, int | None]]:
        """The objects `x` of `x/key` and `key/x`, with whose they are: no folder holds one of them beside `key`."""
        parts = key.split("/")
        above = ["/".join(parts[:number]) for number in range(1, len(parts))]
        found = self._execute(
            f"SELECT key, project FROM ledger WHERE key IN ({', '.join('?' * len(above))}) OR (key > ? AND key < ?)",
            (*above, f"{key}/", f"{key}0"),  # "0" follows "/"
        )
        return found.fetchall()

    def taken(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Those of `keys` under which a file was ever published -> the sha256 of the first one."""
        found = {}
        for key in keys:
            row = self._execute(
                "SELECT hashes FROM removed_file WHERE key = ? AND key <> '' "
                "UNION ALL SELECT digest FROM ledger WHERE key = ? LIMIT 1",
                (key, key),
            ).fetchone()
            if row:
                found[key] = row[0] if isinstance(row[0], bytes) else bytes.fromhex(json.loads(row[0])["sha256"])
        return found

    def intend(self, project: int | None, objects: Iterable[tuple[str, bytes]], *, spare: bool = False) -> None:
        """These (key, digest) are about to be put: what the store holds there is not known until `put`.

        A killed publish leaves what it put, so that it must be known of: an object that nobody wants after all is
        deleted, and a file's key never gets other bytes. Those that are another project's are left alone.

        :param spare: nor are they doomed any longer
        """
        self._executemany(
            "INSERT INTO ledger (key, project, digest, size, headers, generation) VALUES (?, ?, ?, 0, ?, 0) "
            f"ON CONFLICT (key) DO UPDATE SET headers = excluded.headers{', doomed = NULL' if spare else ''} "
            "WHERE project IS excluded.project",
            [(key, project, digest, self._number(_UNKNOWN)) for key, digest in objects],
        )

    def put(self, project: int | None, entries: Iterable[Entry]) -> None:
        """These are in the store now."""
        self._executemany(
            "INSERT INTO ledger (key, project, digest, size, headers, generation, tag) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET "
            "project = excluded.project, digest = excluded.digest, size = excluded.size, "
            "headers = excluded.headers, generation = excluded.generation, tag = excluded.tag, doomed = NULL",
            [
                (e.key, project, e.digest, e.size, self._number(e.headers), e.generation, tag_value(e.tag))
                for e in entries
            ],
        )

    def doubt(self, keys: Iterable[str]) -> None:
        """Nobody knows what the store holds there: these are about to be deleted, or are not what they should be."""
        unknown = self._number(_UNKNOWN)
        self._executemany("UPDATE ledger SET headers = ? WHERE key = ?", [(unknown, key) for key in keys])

    def spare(self, keys: Iterable[str]) -> None:
        """Something refers to these again."""
        self._executemany("UPDATE ledger SET doomed = NULL WHERE key = ?", [(key,) for key in keys])

    def doom(self, keys: Iterable[str], now: int) -> int:
        """Nothing refers to these any longer, from `now` (Unix time) on; caches may, for a while.

        Returns how many of them there are.
        """
        done = self._executemany(
            "UPDATE ledger SET doomed = ? WHERE key = ? AND doomed IS NULL", [(now, key) for key in keys]
        )
        return max(done.rowcount, 0)  # -1 for no key at all

    def doomed(self, until: int) -> list[str]:
        """What nothing has referred to since `until` (Unix time) or longer."""
        # sorted here: SQLite would walk all keys rather than sort the few of the partial index
        found = self._execute("SELECT key FROM ledger WHERE doomed IS NOT NULL AND doomed <= ?", (until,))
        return sorted(key for (key,) in found)

    def forget(self, keys: Iterable[str]) -> None:
        """These are no longer in the store. What a file's bytes were is known for ever: its key never gets others."""
        keys = list(keys)
        self._executemany(
            "INSERT INTO removed_file SELECT project, '', key, digest, 0 FROM ledger WHERE key = :key "
            "AND project IS NOT NULL AND NOT EXISTS (SELECT 1 FROM removed_file WHERE key = :key AND key <> '')",
            [{"key": key} for key in keys if not key.startswith(_PAGES) and not key.endswith(".metadata")],
        )
        self._executemany("DELETE FROM ledger WHERE key = ?", [(key,) for key in keys])

    def of_keys(self, keys: Iterable[str]) -> Iterator[tuple[str, int | None]]:
        """Those of `keys` that are known, with whose they are."""
        for key in keys:
            found = self._execute("SELECT key, project FROM ledger WHERE key = ?", (key,)).fetchone()
            if found:
                yield found

    def strangers(self, objects: Iterable[tuple[str, int]], now: int) -> int:
        """Nobody knows why these (key, size) are in the store; nothing refers to them. Returns how many are new."""
        unknown = self._number(_UNKNOWN)
        done = self._executemany(
            "INSERT OR IGNORE INTO ledger (key, project, digest, size, headers, generation, doomed) "
            "VALUES (?, NULL, x'', ?, ?, 0, ?)",
            [(key, size, unknown, now) for key, size in objects],
        )
        return max(done.rowcount, 0)

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

    def listed(self, after: Mapping[int, int | None] = MappingProxyType({})) -> Iterator[tuple[str, str, int]]:
        """The projects that have a page in the store, by name: each as a `Listed`, or the tuple that equals it.

        :param after: those that would have, once these were settled: project -> serial
        """
        if not after:  # a million rows, each the tuple that SQLite makes
            where = "published IS NOT NULL"
            yield from self._execute(f"SELECT name, display, published FROM project WHERE {where} ORDER BY name")
            return
        found = self._execute("SELECT id, name, display, published FROM project ORDER BY name")
        for number, name, display, published in found:
            serial = after.get(number, published)
            if serial is not None:
                yield Listed(name, display, serial)

    def leaving(self, since: int, few: int) -> Iterator[tuple[str, int, int]]:
        """What a publish of the changes after `since` would take away: (what, how many, of how many).

        Of what it takes no more than `few`, nothing is told: to count all files is work.
        """
        for what, gone, left in _LEAVING:
            (removed,) = self._execute(gone, {"since": since}).fetchone()
            if removed > few:
                (rest,) = self._execute(left).fetchone()
                yield what, removed, removed + rest

    def rolled_back(self) -> None:
        """What this transaction wrote is not there."""
        self._headers.clear()

    def _number(self, headers: str) -> int:
        number = self._headers.get(headers)
        if number is None:
            self._execute("INSERT OR IGNORE INTO headers (text) VALUES (?)", (headers,))
            (number,) = self._execute("SELECT id FROM headers WHERE text = ?", (headers,)).fetchone()
            self._headers[headers] = number
        return int(number)


def entry(row: Sequence[Any]) -> Entry:
    """Of the columns of an entry."""
    key, digest, size, headers, generation, tag = row
    # Millions of these: MD5 as bytes takes half the room.
    return Entry(key, digest, size, headers, generation, f'"{tag.hex()}"' if type(tag) is bytes else tag or "")


def tag_value(tag: str) -> bytes | str | None:
    """As the ledger keeps it."""
    return bytes.fromhex(tag[1:-1]) if _MD5.fullmatch(tag) else tag or None
