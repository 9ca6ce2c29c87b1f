"""A catalog that is made anew from what was published. Part of the catalog's SQL; writing needs a transaction."""

from __future__ import annotations

import sqlite3


class Rebuilt:
    """What no sync may do: to say that something was so before."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def forget_everything(self) -> None:
        """The catalog is as new, but for its identity."""
        tables = ("pending", "ledger", "rejection", "static", "removed_file", "former", "generation", "file", "project")
        for table in tables:  # not `headers`: the open ledger knows their numbers
            self._execute(f"DELETE FROM {table}")
        self._execute("DELETE FROM meta WHERE key <> 'identity'")

    def published(self, name: str, serial: int) -> int:
        """The project's last change is what its published page shows. Returns its id."""
        self._execute("UPDATE project SET change = :serial, published = :serial WHERE name = :name",
                      {"serial": serial, "name": name})  # fmt: skip
        (number,) = self._execute("SELECT id FROM project WHERE name = ?", (name,)).fetchone()
        return int(number)

    def left_out(self, name: str, display: str) -> int:
        """The project was published, and nobody can read its page: it is as removed until a sync. Returns its id."""
        done = self._execute(
            "INSERT INTO project (name, display, change, removed) VALUES (?, ?, 0, 1)", (name, display)
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def id_of(self, name: str) -> int | None:
        """The id of the project, removed or not."""
        row = self._execute("SELECT id FROM project WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def belongs(self, key: str, project: int, digest: bytes) -> None:
        """A stranger is an object of this project, which may want it again; it has this digest."""
        self._execute("UPDATE ledger SET project = ?, digest = ? WHERE key = ?", (project, digest, key))

    def raise_change(self, least: int) -> None:
        """No change to come has a number that is not above `least`: readers have seen that one."""
        self._execute("INSERT OR REPLACE INTO meta VALUES ('least_change', ?)", (least,))

    def occupied(self, project: int, key: str) -> None:
        """Other bytes than any that will come were published under `key`: nobody knows which."""
        self._execute("INSERT INTO removed_file VALUES (?, '', ?, x'', 0)", (project, key))
