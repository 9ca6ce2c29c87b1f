"""What the index was at earlier publishes, so that it can be published once more. Part of the catalog's SQL.

A generation is a publish that came to its end: the number of the last change in it says what everything was. Projects
are kept backwards, each row of `former` leading from a state to the one before: a release more in a project of
thousands costs a few hundred bytes. Before the first publish nothing is kept.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cdn_fallback.mirror.model import File, Project

if TYPE_CHECKING:
    from cdn_fallback.mirror.catalog.content import Record

_FIELDS = ("display", "versions", "serial", "status", "status_reason", "meta", "extra")
_BARE = File("", hashes={}, extra={})  # no NOTHING: what several processes send each other must be picklable
# The rows that tell what a project of which `change` is later was at the change :change.
_THEN = "former.project = project.id AND former.change <= :change AND former.until > :change"


class Generation(NamedTuple):
    """A publish that can be rolled back to."""

    number: int
    change: int  # the last one in it; two that have the same show the same
    at: int  # Unix time
    projects: int  # how many had a page
    current: bool  # whether the store shows this one, or will when a publish under way has ended


class Target(NamedTuple):
    """The generation that is shown instead of what the catalog has now."""

    number: int
    change: int
    until: int  # the catalog's last change when it was chosen: no page ever showed a later one


class History:
    """The tables of generations and of what projects were. Writing needs a transaction of the catalog."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    # generations

    def generations(self) -> list[Generation]:
        """Those that are kept, the last one first."""
        found = self._execute("SELECT number, change, at, projects FROM generation ORDER BY number DESC").fetchall()
        return [
            Generation(number, change, at, projects, not place)
            for place, (number, change, at, projects) in enumerate(found)
        ]

    def target(self) -> Target | None:
        """The generation that the catalog is rolled back to."""
        row = self._execute(
            "SELECT number, change, (SELECT value FROM meta WHERE key = 'rolled_back_change') FROM generation "
            "WHERE number = (SELECT value FROM meta WHERE key = 'rolled_back')"
        ).fetchone()
        return None if row is None else Target(*row)

    def note(self, number: int, change: int, at: int) -> None:
        """The publish `number` of everything up to `change` has come to its end at `at` (Unix time).

        One that shows what the last one showed is no generation of its own.
        """
        last = "number = (SELECT max(number) FROM generation)"
        (same,) = self._execute(f"SELECT count(*) FROM generation WHERE {last} AND change = ?", (change,)).fetchone()
        if same:
            self._execute(f"UPDATE generation SET ended = NULL WHERE {last}")
            return
        self.end(at)
        self._execute(
            "INSERT INTO generation SELECT ?, ?, ?, count(*), NULL FROM project WHERE published IS NOT NULL",
            (number, change, at),
        )

    def end(self, now: int) -> None:
        """Files of the last generation are doomed from `now` (Unix time) on."""
        self._execute("UPDATE generation SET ended = ? WHERE ended IS NULL", (now,))

    def outlived(self, until: int) -> bool:
        """Whether `drop` would drop any."""
        return self._execute(f"SELECT 1 FROM generation WHERE {_OUTLIVED} LIMIT 1", (until,)).fetchone() is not None

    def drop(self, until: int) -> None:
        """Forget the generations of which files were doomed by `until` (Unix time), and what only they need.

        The last one stays, and the one that is rolled back to, of which nothing is doomed.
        """
        self._execute(f"DELETE FROM generation WHERE {_OUTLIVED}", (until,))
        self._execute("DELETE FROM former WHERE until <= (SELECT min(change) FROM generation)")

    # what projects were

    def replaced(self, was: Record, now: Project | None, change: int, lost: Iterable[File], new: Iterable[str]) -> None:
        """From `change` on a project is what it was not before; None: it is removed.

        :param lost: its files as they were, of those that are not the same now
        :param new: the names of those that were not there
        """
        if self._execute("SELECT max(change) FROM generation").fetchone()[0] is None:
            return
        project = was.project
        record = None if was.removed else _packed(project, now or _blank(project), lost, new)
        display = None if was.removed else project.display
        self._execute("INSERT INTO former VALUES (?, ?, ?, ?, ?)", (was.id, was.change, change, display, record))

    def shown(self, records: Iterable[Record]) -> Iterator[Record]:
        """The projects as they are to be published: as they are, or as they were in the generation rolled back to.

        `removed` then says that it was not there, or not yet. `serial` is the highest that a page of it can have
        shown: clients refuse a page with a lower one.
        """
        target = self.target()
        if target is None:
            yield from records
            return
        for record in records:
            yield record if record.change <= target.change else self._then(record, target)

    def _then(self, record: Record, target: Target) -> Record:
        project = None if record.removed else record.project
        change = record.change
        serials = [record.serial] if project and change <= target.until else []
        rows = self._execute(
            "SELECT change, record FROM former WHERE project = ? AND until > ? ORDER BY until DESC",
            (record.id, target.change),
        )
        for change, packed in rows.fetchall():
            project = None if packed is None else _unpacked(packed, project or _blank(record.project))
            if project and change <= target.until:
                serials.append(change if project.serial is None else project.serial)
        # Whatever differs may have been taken away: caches are to be told.
        record = record._replace(narrowed=record.change)
        if project is None or change > target.change:
            return record._replace(removed=True)
        return record._replace(project=project._replace(serial=max(serials)), removed=False)

    def displays(self, target: Target) -> dict[str, str]:
        """Normalised name -> the name as it was written then, where that is another one now."""
        found = self._execute(
            f"SELECT project.name, former.display FROM project JOIN former ON {_THEN} "
            "WHERE project.change > :change AND former.display <> project.display",
            {"change": target.change},
        )
        return dict(found.fetchall())

    def losing(self, target: Target, since: int) -> tuple[int, int]:
        """How many projects lose their page to `target`, of how many; of those changed after `since`."""
        (gone,) = self._execute(
            "SELECT count(*) FROM project WHERE published IS NOT NULL AND change > :since "
            "AND (removed = 1 OR change > :change) "
            f"AND NOT EXISTS (SELECT 1 FROM former WHERE {_THEN} AND display IS NOT NULL)",
            {"change": target.change, "since": since},
        ).fetchone()
        (pages,) = self._execute("SELECT count(*) FROM project WHERE published IS NOT NULL").fetchone()
        return int(gone), int(pages)


_OUTLIVED = (
    "ended <= ? AND number < (SELECT max(number) FROM generation) "
    "AND number <> coalesce((SELECT value FROM meta WHERE key = 'rolled_back'), 0)"
)


def _blank(project: Project) -> Project:
    """What a removed project is the way back from."""
    return Project(project.name, "", meta={}, extra={})


def _packed(was: Project, now: Project, lost: Iterable[File], new: Iterable[str]) -> bytes:
    """What leads from `now` to `was`. What the source wants to know of a file stays: it may lead to the bytes."""
    way = {
        "fields": {key: _plain(getattr(was, key)) for key in _FIELDS if getattr(was, key) != getattr(now, key)},
        "files": [
            {key: _plain(value) for key, value, bare in zip(File._fields, file, _BARE, strict=True) if value != bare}
            for file in sorted(lost)  # by name, which is unique
        ],
        "new": sorted(new),
    }
    return zlib.compress(json.dumps(way, sort_keys=True, separators=(",", ":")).encode())


def _unpacked(packed: bytes, now: Project) -> Project:
    way = json.loads(zlib.decompress(packed))
    new = set(way["new"])
    files = {file.filename: file for file in now.files if file.filename not in new}
    files.update((one["filename"], _BARE._replace(**one)) for one in way["files"])
    fields = way["fields"]
    if "versions" in fields:
        fields["versions"] = tuple(fields["versions"])
    return now._replace(**fields, files=tuple(files[name] for name in sorted(files)))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
