"""The catalog's file: made, brought up to date, refused, kept whole."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdn_fallback.mirror import catalog as module
from cdn_fallback.mirror.catalog import APPLICATION, Catalog, CatalogError, told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(path)) as catalog:
        yield catalog


def columns(path: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}


def test_a_new_catalog_has_every_table_a_version_and_an_identity(catalog: Catalog, path: Path) -> None:
    assert {"project", "file", "removed_file", "static", "ledger", "headers", "pending", "meta"} <= columns(path).keys()
    assert len(catalog.identity) == 32
    assert catalog._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: a commit outlives a power cut"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert database.execute("PRAGMA user_version").fetchone() == (len(module._migrations()),)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_two_catalogs_have_two_identities_and_one_keeps_its_own(tmp_path: Path) -> None:
    first = [Catalog.open(tmp_path / name) for name in ("a", "b", "a")]
    assert first[0].identity == first[2].identity != first[1].identity
    for one in first:
        one.close()


def test_a_migration_that_breaks_off_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = module._migrations()
    monkeypatch.setattr(module, "_migrations", lambda: [*scripts, "CREATE TABLE new (x); CREATE TABLE no such thing;"])
    with pytest.raises(CatalogError, match="syntax error"):
        Catalog.open(path)
    assert "new" not in columns(path)
    identity = sqlite3.connect(path).execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
    monkeypatch.setattr(module, "_migrations", lambda: [*scripts, "CREATE TABLE new (x);"])
    with closing(Catalog.open(path)) as catalog:
        assert catalog.identity == identity[0], "what was there stays"
    assert "new" in columns(path)


def test_an_older_catalog_is_brought_up_to_date_only_by_one_who_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog.open(path).close()
    scripts = module._migrations()
    monkeypatch.setattr(module, "_migrations", lambda: [*scripts, "ALTER TABLE project ADD COLUMN new;"])
    with pytest.raises(CatalogError, match=r"older version; `cdn-fallback mirror sync` updates it"):
        Catalog.read(path)
    assert "new" not in columns(path)["project"]
    Catalog.open(path).close()
    assert "new" in columns(path)["project"]
    Catalog.read(path).close()


def test_the_first_migration_with_the_identity_is_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a kill would leave a catalog without one, and two of those would take each other's store."""
    script = module._migrations()[0]
    monkeypatch.setattr(module, "_migrations", lambda: [f"{script}\nINSERT INTO meta VALUES ('identity', 'x');"])
    with pytest.raises(CatalogError):
        Catalog.open(path)
    assert not columns(path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("use", [Catalog.open, Catalog.read])
def test_a_catalog_of_a_newer_version_is_refused_and_stays_as_it_is(path: Path, use: object) -> None:
    Catalog.open(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = digest(path)
    with pytest.raises(CatalogError, match=r"is of version 99.*install the newer cdn-fallback.*Nothing was changed"):
        assert callable(use) and use(path)
    assert digest(path) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(5000), "is damaged or no catalog"),
        (b"just a text", "is damaged or no catalog"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "is damaged or no catalog"),
    ],
)
def test_what_is_no_database_is_refused_and_stays_as_it_is(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    for use in (Catalog.open, Catalog.read):
        with pytest.raises(CatalogError, match=said) as caught:
            use(path)
        assert str(path) in str(caught.value) and "move it away" in str(caught.value)
    assert path.read_bytes() == content


def test_another_program_s_database_is_refused_and_stays_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")
    before = digest(path)
    with pytest.raises(CatalogError, match="is another program's database; name another path"):
        Catalog.open(path)
    assert digest(path) == before
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE theirs")
        database.execute("PRAGMA application_id = 7")
    with pytest.raises(CatalogError, match="is another program's database"):
        Catalog.open(path)


def test_damage_in_the_middle_is_told_when_it_is_met(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog, catalog.transaction():
        for number in range(2000):
            catalog.set(f"key{number}", "x" * 50)
    content = bytearray(path.read_bytes())
    page = 4096
    for start in range(2 * page, len(content), page):
        content[start : start + page] = b"\xa5" * page
    path.write_bytes(content)
    damaged = pytest.raises(CatalogError, match=r"is damaged or no catalog.*restore it from a backup")
    with damaged, told(path), closing(Catalog.open(path)) as catalog:
        catalog.get("key1000")


def test_no_space_left_keeps_what_was_committed(catalog: Catalog, path: Path) -> None:
    with catalog.transaction():
        catalog.set("kept", "yes")
    (pages,) = catalog._connection.execute("PRAGMA page_count").fetchone()
    catalog._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    full = pytest.raises(CatalogError, match="no space left on its disk; make some and run again")
    with full, catalog.transaction():
        catalog.set("kept", "no")
        for number in range(1000):
            catalog.set(f"key{number}", "x" * 1000)
    assert catalog.get("kept") == "yes" and catalog.get("key0") is None
    catalog._connection.execute("PRAGMA max_page_count = 1000000")
    with catalog.transaction():
        catalog.set("kept", "and it goes on")
    with closing(Catalog.read(path)) as other:
        assert other.get("kept") == "and it goes on"


def test_a_transaction_that_raises_leaves_nothing(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt), catalog.transaction():
        catalog.set("a", 1)
        raise KeyboardInterrupt
    assert catalog.get("a", "nothing") == "nothing"


def _write_and_die(path: Path) -> None:
    catalog = Catalog.open(path)
    with catalog.transaction():
        catalog.set("first", 1)
    with catalog.transaction():
        catalog.set("second", 2)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_what_it_committed(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with closing(Catalog.open(path)) as catalog:
        assert (catalog.get("first"), catalog.get("second")) == (1, None)


def test_a_reader_needs_a_catalog_and_can_write_nothing(path: Path) -> None:
    with pytest.raises(CatalogError, match=r"is not there yet; run `cdn-fallback mirror sync` first"):
        Catalog.read(path)
    assert not path.exists()
    Catalog.open(path).close()
    refused = pytest.raises(CatalogError, match="readonly")
    with closing(Catalog.read(path)) as catalog, refused, catalog.transaction():
        catalog.set("a", 1)


def test_a_snapshot_is_of_one_moment_whatever_others_write(catalog: Catalog, path: Path) -> None:
    with catalog.transaction():
        catalog.set("a", 1)
    with closing(Catalog.read(path)) as reader, reader.snapshot():
        assert reader.get("a") == 1
        with catalog.transaction():
            catalog.set("a", 2)
        assert reader.get("a") == 1
    assert catalog.get("a") == 2


def test_a_folder_that_is_not_there_or_not_ours_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"cannot be opened or written .*let the user that runs this own its folder"):
        Catalog.open(tmp_path / "no" / "such" / "catalog.sqlite")


def test_a_path_with_the_characters_of_a_url_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c %41.sqlite"
    with closing(Catalog.open(path)) as catalog, catalog.transaction():
        catalog.set("a", 1)
    with closing(Catalog.read(path)) as catalog:
        assert catalog.get("a") == 1


def test_errors_show_nothing_raw(tmp_path: Path) -> None:
    assert "\x1b" not in str(CatalogError("\x1b[31m", "x\x07"))
