"""sqlite3 of the standard library beside apsw: `python -m bench.sqlite_drivers` prints rows per CPU second.

Both get the catalog's own table of files with the same rows, in turns: taken in as a sync does, 200 projects to a
transaction; read in order, all of them; and read project by project, as a render does. Needs apsw, which is no
dependency of ours: `pip install apsw`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from bench.catalogue import Catalogue
from cdn_fallback.mirror.model import File

COLUMNS = (
    "filename, version, key, url, hashes, size, upload_time, requires_python, yanked, core_metadata, provenance, "
    "extra, state, moved"
)
INSERT = f"INSERT OR REPLACE INTO file (project, {COLUMNS}) VALUES ({', '.join('?' * 15)})"
OF_ONE = f"SELECT {COLUMNS} FROM file WHERE project = ? ORDER BY filename"
OF_ALL = f"SELECT {COLUMNS} FROM file ORDER BY project, filename"
BATCH = 200  # projects to a transaction

Row = tuple[Any, ...]


class Connection(Protocol):
    """What both drivers have."""

    def execute(self, sql: str, parameters: tuple[Any, ...] = (), /) -> Iterable[Any]: ...

    def executemany(self, sql: str, parameters: Iterable[Row], /) -> Iterable[Any]: ...

    def close(self) -> None: ...


def opened(driver: str, path: Path) -> tuple[str, Connection]:
    """(what it is, an open database with the catalog's tables and settings)"""
    connection: Any
    if driver == "sqlite3":
        name = f"sqlite3 (SQLite {sqlite3.sqlite_version})"
        connection = sqlite3.connect(path, isolation_level=None)
    else:
        try:
            apsw = importlib.import_module("apsw")
        except ImportError:
            raise SystemExit("apsw is not installed: pip install apsw") from None
        name = f"apsw {apsw.apsw_version()} (SQLite {apsw.sqlite_lib_version()})"
        connection = apsw.Connection(str(path))
    script = (files("cdn_fallback.mirror") / "migrations" / "0001_initial.sql").read_text("utf-8")
    if isinstance(connection, sqlite3.Connection):
        connection.executescript(script)
    else:
        list(connection.execute(script))
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536"):
        list(connection.execute(f"PRAGMA {pragma}"))
    return name, connection


def batches(size: int) -> Iterator[list[list[Row]]]:
    """The rows of about `size` files, by project, so many projects at a time; the project's number comes first."""
    catalogue = Catalogue(size)
    projects = enumerate(map(catalogue.project, catalogue.tokens), 1)
    while batch := list(islice(projects, BATCH)):
        yield [[(number, *_row(file)) for file in project.files] for number, project in batch]


def _row(file: File) -> Row:
    core = bytes.fromhex(file.core_metadata["sha256"]) if file.core_metadata else None
    return (
        file.filename, file.version, file.key, file.url, bytes.fromhex(file.hashes["sha256"]), file.size,
        file.upload_time, file.requires_python, file.yanked, core, file.provenance, None, file.state, file.moved,
    )  # fmt: skip


def ingest(connection: Connection, batch: Sequence[Sequence[Row]]) -> None:
    """One transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for rows in batch:
        connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


def scan(connection: Connection) -> int:
    """Every row, in order; how many there are."""
    return sum(1 for _ in connection.execute(OF_ALL))


def each(connection: Connection, projects: int) -> int:
    """The rows of each project; how many there are."""
    return sum(len(list(connection.execute(OF_ONE, (number,)))) for number in range(1, projects + 1))


def spent(call: Callable[..., object], *arguments: object) -> float:
    """CPU seconds."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def measure(size: int, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Driver -> what -> rows per CPU second: of all of the ingest, the median of `rounds` of the rest."""
    drivers = dict(opened(driver, folder / driver) for driver in ("sqlite3", "apsw"))
    taken = dict.fromkeys(drivers, 0.0)
    rows = projects = 0
    for number, batch in enumerate(batches(size)):
        projects += len(batch)
        rows += sum(map(len, batch))
        for name in sorted(drivers, reverse=bool(number % 2)):  # who begins changes
            taken[name] += spent(ingest, drivers[name], batch)
    found = {name: {"ingest": rows / cpu} for name, cpu in taken.items()}
    for what, call in (("ordered scan", scan), ("project by project", lambda one: each(one, projects))):
        times: dict[str, list[float]] = {name: [] for name in drivers}
        for _ in range(rounds):
            for name, connection in drivers.items():
                times[name].append(spent(call, connection))
        for name, cpus in times.items():
            found[name][what] = rows / statistics.median(cpus)
    for connection in drivers.values():
        connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="rows, about (1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is read (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-") as folder:
        found = measure(options.files, options.rounds, Path(folder))
    print(f"Python {sys.version.split()[0]}, about {options.files:,} rows, rows per CPU second")
    one, other = found
    print(f"{'':20} {one:>28} {other:>28}  ratio")
    for what, rate in found[one].items():
        print(f"{what:20} {rate:28,.0f} {found[other][what]:28,.0f} {found[other][what] / rate:6.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
