"""What the sources said: projects, their files, files beside the index. Part of the catalog's SQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cdn_fallback.mirror.catalog.history import History
from cdn_fallback.mirror.model import NOTHING, File, Project, Rejection

# No NOTHING: what several processes send each other (`differences`) must be picklable, and a mapping proxy is not.
_NONE: Mapping[str, Any] = {}
_SAME_STATIC = "SELECT 1 FROM static WHERE key = ? AND sha256 = ? AND removed = ?"
_LAST = (1 << 63) - 1  # no number of a change is higher
_PROJECT = (
    "id, name, display, change, serial, status, status_reason, versions, meta, extra, state, removed, published, "
    "narrowed"
)
_FILE = (
    "filename, version, key, url, hashes, size, upload_time, requires_python, yanked, core_metadata, provenance, "
    "extra, state, moved"
)


class Record(NamedTuple):
    """A project as the catalog has it. `serial` is what its page shows: the source's number, or the catalog's own."""

    id: int
    project: Project
    change: int
    removed: bool = False
    published: int | None = None  # the serial that its page in the store shows; None where it has none
    narrowed: int = 0  # its last change that took something away or yanked it

    @property
    def serial(self) -> int:
        return self.change if self.project.serial is None else self.project.serial


class Applied(NamedTuple):
    """What one project's new state changed: numbers of files. `project`: 1 if anything a reader can see did."""

    project: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0


class Static(NamedTuple):
    """A file beside the index: published under `key`, read from `path`."""

    key: str
    path: str
    sha256: bytes
    size: int  # bytes
    state: str
    removed: bool = False


class Content:
    """The tables of projects and files. Writing needs a transaction of the catalog."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._history = History(connection)

    # projects

    def tokens(self) -> dict[str, str]:
        """Normalised name -> the source's token, of every project that is not removed."""
        return dict(self._execute("SELECT name, token FROM project WHERE removed = 0"))

    def project(self, name: str) -> Project | None:
        """The project as its source had it; None if it is not known or removed."""
        record = self._named(name)
        if record is None or record.removed:
            return None
        rejected = self._execute("SELECT what, why FROM rejection WHERE project = ? ORDER BY what", (name,))
        return record.project._replace(rejected=tuple(Rejection(*row) for row in rejected))

    def count(self) -> tuple[int, int]:
        """How many projects and files there are."""
        (projects,) = self._execute("SELECT count(*) FROM project WHERE removed = 0").fetchone()
        (files,) = self._execute("SELECT count(*) FROM file").fetchone()
        return projects, files

    @property
    def change(self) -> int:
        """The number of the last change; 0 for an empty catalog."""
        (projects,) = self._execute("SELECT max(change) FROM project").fetchone()
        (static,) = self._execute("SELECT max(change) FROM static").fetchone()
        (least,) = self._execute("SELECT max(value) FROM meta WHERE key = 'least_change'").fetchone()
        return max(projects or 0, static or 0, least or 0)

    def ids(self, since: int) -> list[int]:
        """The projects whose last change is after `since`, tombstones among them, by name."""
        found = self._execute("SELECT id FROM project WHERE change > ? ORDER BY name", (since,))
        return [number for (number,) in found]

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """These projects with their files, in this order."""
        for number in ids:
            yield self._record(self._execute(f"SELECT {_PROJECT} FROM project WHERE id = ?", (number,)).fetchone())

    def _named(self, name: str) -> Record | None:
        row = self._execute(f"SELECT {_PROJECT} FROM project WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._record(row)

    def _record(self, row: tuple[Any, ...]) -> Record:
        number, name, display, change, serial, status, reason, versions, meta, extra, state, removed, *rest = row
        files = self._execute(f"SELECT {_FILE} FROM file WHERE project = ? ORDER BY filename", (number,)).fetchall()
        project = Project(
            name, display, tuple(map(_file, files)), tuple(versions.split()), serial, status, reason,
            _mapping(meta), _mapping(extra), state,
        )  # fmt: skip
        return Record(number, project, change, bool(removed), *rest)

    def apply(self, project: Project, token: str, taken: Mapping[str, bytes] = NOTHING) -> Applied:
        """Take `project` as it is now; a change number is spent only if a reader could see the difference.

        :param taken: keys that were published once -> their sha256: other bytes cannot have them again
        """
        known = self._named(project.name)
        wanted = project._replace(files=tuple(_placed(file, taken) for file in project.files))
        self.reject(project.name, wanted.rejected)
        if known and not known.removed and _seen(known.project) == _seen(wanted):
            self._touch(known, wanted, token)
            return Applied()
        change = self.change + 1
        number = self._row(wanted, token, known, change)
        before = {file.filename: file for file in known.project.files} if known else {}
        after = {file.filename: file for file in wanted.files}
        gone = [before[name] for name in before.keys() - after.keys()]
        fresh = [file for name, file in after.items() if before.get(name) != file]
        replaced = [before[file.filename] for file in fresh if file.filename in before]
        self._executemany("DELETE FROM file WHERE project = ? AND filename = ?", [(number, f.filename) for f in gone])
        self._remember(number, gone, change)
        self._put(number, fresh)
        if known:
            self._history.replaced(known, wanted, change, [*gone, *replaced], after.keys() - before.keys())
        if known and _narrowed(known.project, wanted):
            self._execute("UPDATE project SET narrowed = change WHERE id = ?", (number,))
        return Applied(1, len(fresh) - len(replaced), len(replaced), len(gone))

    def confirm(self, name: str, token: str) -> None:
        """The project is as it was, and its source calls that `token`."""
        self._execute("UPDATE project SET token = ? WHERE name = ?", (token, name))

    def remove(self, name: str) -> Applied:
        """The source no longer has the project: a tombstone stays, and its number tells when."""
        record = self._named(name)
        if record is None or record.removed:
            return Applied()
        change = self.change + 1
        self._execute("DELETE FROM file WHERE project = ?", (record.id,))
        self._remember(record.id, record.project.files, change)
        self._history.replaced(record, None, change, record.project.files, ())
        self._execute(
            "UPDATE project SET removed = 1, change = :change, narrowed = :change, token = '', state = '' "
            "WHERE id = :id",
            {"change": change, "id": record.id},
        )
        self.reject(name, ())
        return Applied(1, 0, 0, len(record.project.files))

    def reject(self, project: str, rejected: Iterable[Rejection]) -> None:
        """What of the project (empty: of none) cannot be published, from now on."""
        self._execute("DELETE FROM rejection WHERE project = ?", (project,))
        self._executemany(
            "INSERT OR REPLACE INTO rejection VALUES (?, ?, ?)",
            [(project, _storable(what), _storable(why)) for what, why in rejected],
        )

    def rejections(self) -> list[tuple[str, Rejection]]:
        """Every rejection with its project (empty: of none)."""
        found = self._execute("SELECT project, what, why FROM rejection ORDER BY project, what")
        return [(project, Rejection(what, why)) for project, what, why in found]

    def _row(self, project: Project, token: str, known: Record | None, change: int) -> int:
        values = (
            project.display, change, token, project.serial, project.status, project.status_reason,
            " ".join(project.versions), _json(project.meta), _json(project.extra), project.state,
        )  # fmt: skip
        if known:
            self._execute(
                "UPDATE project SET removed = 0, display = ?, change = ?, token = ?, serial = ?, status = ?, "
                "status_reason = ?, versions = ?, meta = ?, extra = ?, state = ? WHERE id = ?",
                (*values, known.id),
            )
            return known.id
        done = self._execute(
            "INSERT INTO project (name, display, change, token, serial, status, status_reason, versions, meta, extra, "
            "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (project.name, *values),
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def _touch(self, known: Record, project: Project, token: str) -> None:
        """Only what the source remembers has changed."""
        self._execute("UPDATE project SET token = ?, state = ? WHERE id = ?", (token, project.state, known.id))
        states = {file.filename: file.state for file in known.project.files}
        self._executemany(
            "UPDATE file SET state = ? WHERE project = ? AND filename = ?",
            [(f.state, known.id, f.filename) for f in project.files if states[f.filename] != f.state],
        )

    def _put(self, number: int, files: Iterable[File]) -> None:
        self._executemany(
            f"INSERT OR REPLACE INTO file (project, {_FILE}) VALUES ({', '.join('?' * 15)})",
            [
                (
                    number, f.filename, f.version, f.key, f.url, _hash_value(f.hashes), f.size, f.upload_time,
                    f.requires_python, f.yanked, _hash_value(f.core_metadata, "{}"),
                    f.provenance, _json(f.extra), f.state, f.moved,
                )
                for f in files
            ],
        )  # fmt: skip

    def _remember(self, number: int, files: Iterable[File], change: int) -> None:
        """These are no longer where they were; their keys stay theirs."""
        self._executemany(
            "INSERT INTO removed_file VALUES (?, ?, ?, ?, ?)",
            [(number, file.filename, file.object_key, _hash_value(file.hashes), change) for file in files],
        )

    # files beside the index

    def static(self, since: int | None = None, until: int = _LAST) -> Iterator[Static]:
        """Those that are there; or those whose last change is after `since`, not after `until`, tombstones too."""
        condition: str
        condition, values = ("removed = 0", ()) if since is None else ("change > ? AND change <= ?", (since, until))
        found = self._execute(f"SELECT key, path, sha256, size, state, removed FROM static WHERE {condition}", values)
        # sorted here: SQLite would walk all keys rather than sort those of the index
        for key, path, sha256, size, state, removed in sorted(found):
            yield Static(key, path, sha256, size, state, bool(removed))

    def apply_static(self, files: Sequence[Static]) -> list[Static]:
        """Take these as they are now; `removed` leaves a tombstone. Returns those of which a reader sees anything.

        Of the others only the place or the time is another: no change number is spent.
        """
        change = self.change + 1
        seen = [
            one for one in files if self._execute(_SAME_STATIC, (one.key, one.sha256, one.removed)).fetchone() is None
        ]
        self._executemany(
            "INSERT OR REPLACE INTO static (key, path, sha256, size, state, removed, change) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*one, change) for one in seen],
        )
        self._executemany(
            "UPDATE static SET path = ?, state = ? WHERE key = ?", [(one.path, one.state, one.key) for one in files]
        )
        return seen


def _storable(text: str) -> str:
    """SQLite takes no half characters, such as stand for the bytes of a file name that are no UTF-8 (PEP 383)."""
    return text.encode("utf-8", "backslashreplace").decode()


def _placed(file: File, taken: Mapping[str, bytes]) -> File:
    digest = taken.get(file.key)
    moved = digest is not None and digest.hex() != file.hashes.get("sha256")
    return file._replace(moved=moved) if moved != file.moved else file


def _seen(project: Project) -> tuple[Any, ...]:
    """What readers see of it: without what only its source wants to know."""
    files = tuple(file._replace(state="") for file in project.files)
    return project._replace(files=files, state="", rejected=())


def _narrowed(before: Project, after: Project) -> bool:
    """Whether a cache that still has the page of `before` offers what is not to be had, or not to be taken."""
    if after.status != before.status:
        return True
    files = {file.filename: file for file in after.files}
    for file in before.files:
        now = files.get(file.filename)
        if now is None or now.hashes != file.hashes or (now.yanked is not None and file.yanked is None):
            return True
    return False


def _file(row: tuple[Any, ...]) -> File:
    filename, version, key, url, hashes, size, time, python, yanked, core, provenance, extra, state, moved = row
    # Millions of these: the usual case without a call.
    return File(
        filename, version, key, url,
        {"sha256": hashes.hex()} if type(hashes) is bytes else _hashes(hashes), size, time, python, yanked,
        {"sha256": core.hex()} if type(core) is bytes else None if core is None else _hashes(core), provenance,
        {} if extra is None else _mapping(extra), state, moved == 1,
    )  # fmt: skip


def _hashes(value: bytes | str | None) -> Mapping[str, str]:
    if isinstance(value, bytes):
        return {"sha256": value.hex()}
    return json.loads(value) if value else _NONE


def _hash_value(hashes: Mapping[str, str] | None, nothing: str | None = None) -> bytes | str | None:
    if hashes is None:
        return None
    if len(hashes) == 1 and "sha256" in hashes:
        return bytes.fromhex(hashes["sha256"])
    return json.dumps(dict(hashes), sort_keys=True) if hashes else nothing


def _mapping(text: str | None) -> Mapping[str, Any]:
    return json.loads(text) if text else _NONE


def _json(mapping: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(mapping), sort_keys=True) if mapping else None
