"""The catalog: one SQLite file that holds everything the index says, and the ledger of what is published.

The only room with SQL. `Content` is what sources said, `Ledger` what the store holds; both in one file, so that one
transaction covers a change and what it means for the next publish. WAL and full synchronisation: what was committed
is there after a kill and after a power cut, and readers never wait.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdn_fallback.errors import CdnFallbackError, printable
from cdn_fallback.mirror.catalog.content import Content
from cdn_fallback.mirror.catalog.history import History
from cdn_fallback.mirror.catalog.inventory import Inventory
from cdn_fallback.mirror.catalog.ledger import Ledger
from cdn_fallback.mirror.catalog.rebuilt import Rebuilt

APPLICATION = 0x63646E66  # "cdnf": SQLite's application_id, by which a stranger's database is known


class CatalogError(CdnFallbackError):
    """The catalog cannot be used: says which file, why, and what to do."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return printable(f"catalog {self.path}: {self.problem}")


class Catalog:
    """An open catalog. One process writes at a time (`mirror.lock` sees to it), any number read."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.content = Content(connection)
        self.ledger = Ledger(connection)
        self.history = History(connection)
        self.inventory = Inventory(connection)
        self.rebuilt = Rebuilt(connection)

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Opens it for writing, makes it where there is none, and brings an older one up to date.

        :raises CatalogError: for a file that is no catalog, is damaged, or comes from a newer version
        """
        with told(path):
            connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            try:
                _migrate(path, connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA cache_size = -65536")  # KiB
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def read(cls, path: Path) -> Catalog:
        """Opens it for reading only. Raises CatalogError also where there is none or it is an older version's."""
        if not path.is_file():
            raise CatalogError(str(path), "is not there yet; run `cdn-fallback mirror sync` first")
        with told(path):
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            try:
                if _version(path, connection) < len(_migrations()):
                    raise CatalogError(str(path), "was made by an older version; `cdn-fallback mirror sync` updates it")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing. Raises CatalogError where SQLite cannot write: no space, a damaged file."""
        with told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._connection.execute("ROLLBACK")
                self.ledger.rolled_back()
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever others write meanwhile."""
        with told(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def get(self, key: str, default: Any = None) -> Any:
        """A value that `set` left."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else row[0]

    def set(self, key: str, value: str | int) -> None:
        """Keep a value under `key`."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def identity(self) -> str:
        """What tells this catalog from every other: a store belongs to one."""
        return str(self.get("identity"))


def _migrations() -> list[str]:
    # not importlib.resources, which takes longer to load than most runs have to do
    folder = Path(__file__).parent.parent / "migrations"
    return [path.read_text("utf-8") for path in sorted(folder.glob("*.sql"))]


def _version(path: Path, connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables or application:
            raise CatalogError(str(path), "is another program's database; name another path")
    if version > len(_migrations()):
        raise CatalogError(
            str(path),
            f"is of version {version}, and this cdn-fallback knows versions up to {len(_migrations())}; "
            "install the newer cdn-fallback that made it. Nothing was changed",
        )
    return int(version)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Each migration is one transaction, and so is a killed one: it is all there or not at all."""
    for number, script in enumerate(_migrations(), 1):
        if number <= _version(path, connection):
            continue
        if number == 1:
            script += f"\nINSERT INTO meta VALUES ('identity', '{_identity()}');"
        # executescript() commits by itself: the transaction stands in the script
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\n"
            f"PRAGMA user_version = {number};\nPRAGMA application_id = {APPLICATION};\nCOMMIT;"
        )


def _identity() -> str:
    """32 hexadecimal digits, not such as SQLite would take for a number and write in its own way."""
    return next(found for found in iter(lambda: uuid.uuid4().hex, "") if set(found) & set("abcdf"))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, for everything that is done with a catalog inside."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        raise CatalogError(str(path), _advice(exc)) from exc


def _advice(exc: sqlite3.DatabaseError) -> str:
    text = str(exc)
    if "full" in text:
        return "no space left on its disk; make some and run again. Nothing of what was committed is lost"
    if "locked" in text:
        return "another program holds it; wait until that has ended"
    if "unable to open" in text or "readonly" in text:
        return f"cannot be opened or written ({text}); let the user that runs this own its folder"
    if "not a database" in text or "malformed" in text:
        return f"is damaged or no catalog ({text}); move it away and sync again, or restore it from a backup"
    return text
