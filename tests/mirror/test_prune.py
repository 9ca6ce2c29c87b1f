"""What is deleted from the store, and when; nothing that a cache may lead to."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from cdn_fallback.mirror import site
from cdn_fallback.mirror.lease import Leased, hold
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.prune import Strangers, strangers
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores import StoreError
from tests.mirror.fakes import NOW, RULES, WHO, FakeSource, FakeStore, Killed, Trap, TrappedCatalog, published, sha256
from tests.mirror.reader import dangling
from tests.mirror.story import LATER, METADATA, Watched, told_of

STRANGERS = ("packages/b-9.0.tar.gz", "photo.jpg", "simple/b/more.html")
DUE = LATER + site.STALE


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    source.put("a", source.file("a-1.0-py3-none-any.whl", b"w", metadata=METADATA))
    source.put("b", source.file("b-1.0.tar.gz", b"s"))
    source.put_static("docs/guide.html", b"g")
    return source


@pytest.fixture
def store(source: FakeSource, catalog: TrappedCatalog) -> FakeStore:
    """With everything published, and strangers in it."""
    store = FakeStore()
    source.sync(catalog)
    published(source, catalog, store)
    for key in STRANGERS:
        store.put(key, b"theirs", Headers("text/plain", ""), b"")
    store.calls.clear()
    return store


def pruned(source: FakeSource, catalog: TrappedCatalog, store: FakeStore, now: float) -> Report:
    return Publisher(catalog, store, RULES, source.read, WHO).prune(now)


def test_a_stranger_is_noted_first_and_deleted_when_its_time_has_come(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    before = dict(store.objects)
    assert strangers(catalog, store, LATER) == Strangers(STRANGERS, 3)
    assert pruned(source, catalog, store, DUE - 1) == Report() and store.objects == before
    assert strangers(catalog, store, DUE - 1) == Strangers((), 3), "its time runs from when it was seen first"
    assert pruned(source, catalog, store, DUE).deletes == 3
    assert store.objects == {key: body for key, body in before.items() if key not in STRANGERS}
    assert told_of(catalog.path) == store.objects.keys() and not store.puts()
    assert strangers(catalog, store, DUE) == Strangers()


def test_a_publish_deletes_what_was_noted_too(source: FakeSource, catalog: TrappedCatalog, store: FakeStore) -> None:
    strangers(catalog, store, LATER)
    assert published(source, catalog, store, DUE).deletes == 3
    assert not store.objects.keys() & set(STRANGERS)


def test_only_to_look_changes_nothing(source: FakeSource, catalog: TrappedCatalog, store: FakeStore) -> None:
    before, known, mark = dict(store.objects), list(catalog.ledger.entries()), store.marked
    for _ in range(2):
        assert strangers(catalog, store, LATER, note=False) == Strangers(STRANGERS, 0)
    assert store.objects == before and store.marked == mark and list(catalog.ledger.entries()) == known
    assert {what for what, _ in store.calls} <= {"list", "mark"}
    assert Publisher(catalog, store, RULES, source.read, WHO).prunable(DUE) == 0


def test_what_was_removed_is_deleted_after_the_caches_without_a_publish(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    del source.projects["a"]
    source.sync(catalog)
    published(source, catalog, store, LATER)
    waiting = {"packages/a-1.0-py3-none-any.whl", "packages/a-1.0-py3-none-any.whl.metadata"}
    assert strangers(catalog, store, LATER, note=False) == Strangers(STRANGERS, 2)
    assert pruned(source, catalog, store, DUE - 1).deletes == 0 and waiting <= store.objects.keys()
    assert pruned(source, catalog, store, DUE).deletes == 2 and not waiting & store.objects.keys()
    assert set(STRANGERS) <= store.objects.keys()


def test_what_has_not_been_published_yet_stays_so(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    strangers(catalog, store, LATER)
    source.put("c", source.file("c-1.0.tar.gz", b"c"))
    del source.projects["b"]
    source.sync(catalog)
    pruned(source, catalog, store, DUE)
    assert not [key for key in store.objects if "/c" in key] and "simple/b/index.html" in store.objects
    assert not dangling(store)


def test_how_long_is_waited_may_be_configured_and_never_less_than_caches_remember(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    strangers(catalog, store, LATER)
    for keep, least in ((0, site.STALE), (7 * 86400, 7 * 86400)):
        publisher = Publisher(catalog, store, RULES, source.read, WHO, keep=keep)
        assert publisher.prunable(LATER + least - 1) == 0 and publisher.prunable(LATER + least) == 3


def test_a_stranger_that_becomes_ours_stays(source: FakeSource, catalog: TrappedCatalog, store: FakeStore) -> None:
    """Somebody put the page by hand that is published an hour later."""
    store.put("docs/new.html", b"by hand", Headers("text/plain", ""), b"")
    strangers(catalog, store, LATER)
    source.put_static("docs/new.html", b"new")
    source.sync(catalog)
    published(source, catalog, store, LATER + 1)
    published(source, catalog, store, DUE + 1)
    assert store.objects["docs/new.html"] == b"new" and not store.objects.keys() & set(STRANGERS)


def test_a_file_never_takes_the_key_of_a_stranger(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    """Somebody may have read it."""
    strangers(catalog, store, LATER)
    source.put("b", source.file("b-1.0.tar.gz", b"s"), source.file("b-9.0.tar.gz", b"nine"))
    source.sync(catalog)
    assert published(source, catalog, store, LATER + 1).held == ()
    published(source, catalog, store, DUE + 1)
    assert not dangling(store)
    assert store.ever["packages/b-9.0.tar.gz"] == {sha256(b"theirs")}


def test_pages_that_were_strangers_go_with_their_project(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore, tmp_path: Path
) -> None:
    """The catalog came back from an older backup: it does not know what lies there, and learns of it anew."""
    shutil.copy(catalog.path, tmp_path / "backup")
    source.put("new", source.file("new-1.0-py3-none-any.whl", b"n", metadata=METADATA))
    source.sync(catalog)
    published(source, catalog, store, LATER)
    with closing(TrappedCatalog.trapped(tmp_path / "backup")) as older:
        assert "simple/new/index.html" in strangers(older, store, LATER).new
        source.sync(older)
        published(source, older, store, LATER + 1)
        del source.projects["new"]
        source.sync(older)
        published(source, older, store, LATER + 2)
        published(source, older, store, DUE + 10)
        assert not dangling(store) and not [key for key in store.objects if "new" in key]


def test_a_store_of_nobodys_has_nothing_to_prune(source: FakeSource, catalog: TrappedCatalog) -> None:
    store = FakeStore()
    assert strangers(catalog, store, LATER) == Strangers() and pruned(source, catalog, store, DUE) == Report()
    assert store.marked is None


def test_a_store_of_another_catalog_is_left_alone(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore, tmp_path: Path
) -> None:
    before = dict(store.objects)
    other = TrappedCatalog.trapped(tmp_path / "other.sqlite")
    with closing(other), pytest.raises(StoreError, match="belongs to another catalog"):
        strangers(other, store, LATER)
    assert store.objects == before


def test_nothing_is_deleted_while_another_publishes(
    source: FakeSource, catalog: TrappedCatalog, store: FakeStore
) -> None:
    strangers(catalog, store, LATER)
    before = dict(store.objects)
    with hold(store, catalog.identity, Who("another", "elsewhere")), pytest.raises(Leased):
        pruned(source, catalog, store, DUE)
    assert store.objects == before


def test_wherever_it_is_killed_nothing_dangles_and_the_next_one_ends_it(tmp_path: Path, source: FakeSource) -> None:
    def told(path: Path, trap: Trap) -> tuple[TrappedCatalog, FakeStore]:
        store = FakeStore()
        catalog = TrappedCatalog.trapped(path)
        source.projects = dict(projects)
        source.sync(catalog)
        published(source, catalog, store)
        del source.projects["a"]
        source.sync(catalog)
        published(source, catalog, store, LATER)
        for key in STRANGERS:
            store.objects[key], store.headers[key] = b"theirs", Headers("text/plain", "")
        store.trap = catalog.trap = trap
        return catalog, store

    projects = dict(source.projects)
    calm = Trap()
    catalog, store = told(tmp_path / "calm", calm)
    strangers(catalog, store, LATER)
    pruned(source, catalog, store, DUE)
    wanted, steps = dict(store.objects), calm.steps
    assert steps > 10
    for step in range(1, steps + 1):
        trap = Trap(step)
        catalog, store = told(tmp_path / f"{step}", trap)
        watched = Watched(store, trap)
        with pytest.raises(Killed):
            strangers(catalog, store, LATER)
            pruned(source, catalog, store, DUE)
        assert not watched.seen and not dangling(store), f"killed at {step}"
        trap.dead = False
        strangers(catalog, store, LATER)
        pruned(source, catalog, store, DUE)
        assert store.objects == wanted and told_of(catalog.path) == wanted.keys(), f"killed at {step}"
        catalog.close()


def test_a_catalog_that_never_published_leaves_a_strange_store_alone(
    source: FakeSource, catalog: TrappedCatalog
) -> None:
    store = FakeStore()
    store.objects["photo.jpg"], store.headers["photo.jpg"] = b"", Headers("image/jpeg", "")
    with pytest.raises(StoreError, match="is not empty and not ours"):
        strangers(catalog, store, NOW)
    assert "photo.jpg" in store.objects
