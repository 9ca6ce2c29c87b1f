"""A source for `cdn-fallback mirror`: an index whose projects and files are rows of a PostgreSQL database.

[source]
type = "postgresql"
dsn = "service=index"      # what libpq takes; a password belongs into ~/.pgpass
files = "/srv/packages"    # the folder that file.path is relative to
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from cdn_fallback.mirror import names
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import Listing, ProjectError, Settings, SourceError
from cdn_fallback.mirror.sources.walk import open_inside

_PREFIX = "packages/"  # files are published where the origin has them
_TIME = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""

# One statement, so that what it gives is of one moment.
_PROJECT = f"""
    SELECT project.display, project.serial, project.status, project.status_reason,
           file.filename, file.path, file.sha256, file.size, file.requires_python, file.yanked, file.metadata_sha256,
           to_char(file.uploaded AT TIME ZONE 'UTC', {_TIME}) AS upload_time
      FROM project LEFT JOIN file ON file.project = project.name
     WHERE project.name = %s
"""


class PostgreSQL:
    """See `cdn_fallback.mirror.sources.Source`."""

    workers = 1  # there is one connection

    def __init__(self, settings: Settings) -> None:
        settings.reject_unknown(("dsn", "files"))
        self._dsn = settings.text("dsn")
        self._files = settings.folder / settings.text("files")
        try:
            given = conninfo_to_dict(self._dsn)
        except psycopg.ProgrammingError as exc:
            raise settings.error("dsn", f"is nothing that libpq takes: {_line(exc)}") from exc
        if "password" in given:
            raise settings.error("dsn", "holds a password; take it out, and write it into ~/.pgpass")
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def listing(self, state: str, *, whole: bool = False) -> Listing | None:
        """Every project with the number of its last change; `state` is the number of the last change of all."""
        with self._told():
            ((serial,),) = self._rows("SELECT serial FROM change")
            if str(serial) == state and not whole:
                return None
            if state.isdecimal() and serial < int(state):
                raise SourceError(
                    "the database",
                    f"its number of changes went back from {state} to {serial}; if it was restored from a backup, "
                    f"count on: UPDATE change SET serial = {int(state) + 1}; UPDATE project SET name = name",
                )
            # What changes between the two statements is in the list, and in the next one once more.
            tokens = {name: str(number) for name, number in self._rows("SELECT name, serial FROM project")}
        return Listing(tokens, serial, state=str(serial))

    def project(self, name: str, known: Project | None) -> Project | None:
        """The project and its files. Whether that is anything new, the catalog sees by itself."""
        with self._told(), self._connected().cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(_PROJECT, (name,)).fetchall()
        if not rows:
            raise ProjectError(name, "has gone while it was asked for; the next run takes it away")
        files: list[File] = []
        rejected: list[Rejection] = []
        for row in rows:
            if row["filename"] is None:  # the outer join's: a project without files
                continue
            try:
                files.append(_file(row, name))
            except names.BadName as exc:
                rejected.append(Rejection(row["filename"], exc.reason))
        return Project(
            name,
            rows[0]["display"],
            tuple(sorted(files)),
            names.in_order(file.version for file in files),
            serial=rows[0]["serial"],
            status=rows[0]["status"],
            status_reason=rows[0]["status_reason"],
            rejected=tuple(rejected),
        )

    def open(self, file: File) -> BinaryIO:
        """The file in the folder; a link that leads out of that is not followed."""
        try:
            return open_inside(str(self._files), file.key.removeprefix(_PREFIX))
        except OSError as exc:
            raise ProjectError(file.key, f"cannot be read ({exc.strerror or exc}); the next run tries again") from exc

    def published(self, file: File) -> None:
        """Nothing was kept here for it."""

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn, autocommit=True, application_name="cdn-fallback")
        return self._connection

    def _rows(self, statement: Any) -> list[tuple[Any, ...]]:
        return self._connected().execute(statement).fetchall()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Within it, an error of the database's is the source's: the run ends, and takes nothing away."""
        try:
            yield
        except psycopg.Error as exc:
            raise SourceError("the database", f"{_line(exc)}; nothing was taken from it") from exc


def _file(row: dict[str, Any], project: str) -> File:
    """Raises BadName for a file that cannot be one of the project's."""
    metadata = row["metadata_sha256"]
    return File(
        row["filename"],
        names.version_of(row["filename"], project),
        key=_PREFIX + row["path"],
        hashes={"sha256": row["sha256"]},
        size=row["size"],
        upload_time=row["upload_time"],
        requires_python=row["requires_python"],
        yanked=row["yanked"],
        core_metadata={"sha256": metadata} if metadata else None,
    )


def _line(exc: psycopg.Error) -> str:
    """libpq's messages have several lines."""
    return " ".join(str(exc).split()) or type(exc).__name__
