"""The store held against the catalog: what is found, and that a repair mends each of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror import verify as module
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores import Store, StoreError
from cdn_fallback.mirror.stores.directory import DirectoryStore
from cdn_fallback.mirror.stores.objects import open_objects
from cdn_fallback.mirror.verify import Finding, Verified, doubt, verify
from tests.mirror.fakes import NOW, RULES, WHO, FakeSource, FakeStore, Trap, TrappedCatalog, published, sha256
from tests.mirror.reader import dangling
from tests.mirror.story import LATER, METADATA, Watched

OTHER = Headers("text/plain", "no-store")
WHEEL = "packages/a-1.0-py3-none-any.whl"
KEYS = {
    "a file": WHEEL,
    "its metadata": f"{WHEEL}.metadata",
    "a page": "simple/a/index.html",
    "a page in JSON": "simple/a/index.json",
    "a page for mirroring tools": "pypi/a/json",
    "a twin": "simple/a/index.json.gz",
    "a twin for mirroring tools": "pypi/a/json.gz",
    "a page for another name": "simple/Be.E/index.html",
    "the list": "simple/index.html",
    "the list in JSON": "simple/index.json",
    "the list's twin": "simple/index.json.gz",
    "the last change": "last-modified",
    "robots.txt": "robots.txt",
    "a file beside the index": "docs/guide.html",
}
EACH = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
MODES = pytest.mark.parametrize("quick", [False, True], ids=["thorough", "quick"])


def quiet(what: str, done: int, of: int) -> None:
    """Nobody watches."""


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    source.put(
        "a",
        source.file("a-1.0-py3-none-any.whl", b"w", metadata=METADATA),
        source.file("a-1.0.tar.gz", b"s"),
    )
    source.put("Be.E", source.file("be_e-1.0.tar.gz", b"b"))
    source.put_static("docs/guide.html", b"a page")
    source.put_static("docs/other.html", b"another")
    return source


@pytest.fixture(params=["fake", "directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(os, "sync", lambda: None)  # of this whole machine
    if request.param == "directory":
        return DirectoryStore(tmp_path / "site")
    return FakeStore() if request.param == "fake" else open_objects(f"memory://{tmp_path}")


@pytest.fixture
def site(source: FakeSource, catalog: TrappedCatalog, store: Store) -> Store:
    """The store, with everything published."""
    source.sync(catalog)
    publish(source, catalog, store)
    assert verify(catalog, store, quiet).findings == ()
    return store


def publish(source: FakeSource, catalog: Catalog, store: Store, now: float = NOW) -> Any:
    return Publisher(catalog, store, RULES, source.read, WHO).publish(now)


def content(store: Store, key: str) -> bytes:
    opened = store.open(key)
    assert opened
    with closing(opened):
        return b"".join(iter(lambda: opened.read(1 << 20), b""))


def objects(store: Store) -> dict[str, tuple[bytes, Headers | None]]:
    found = {}
    for one in store.list():
        head = store.head(one.key)
        found[one.key] = (content(store, one.key), head and head.headers)
    return found


def headers_of(store: Store, key: str) -> Headers:
    head = store.head(key)
    assert head
    return head.headers or OTHER


def found(catalog: Catalog, store: Store, *, quick: bool = False) -> list[tuple[str, str]]:
    return sorted((one.kind, one.key) for one in verify(catalog, store, quiet, quick=quick).findings)


def mended(source: FakeSource, catalog: Catalog, store: Store, *, quick: bool = False) -> set[str]:
    """After a repair there is nothing to be found. Returns the keys that were put."""
    before = objects(store)
    doubt(catalog, verify(catalog, store, quiet, quick=quick))
    publish(source, catalog, store, LATER)
    assert found(catalog, store) == []
    after = objects(store)
    assert publish(source, catalog, store, LATER).puts == 0
    return {key for key in after if before.get(key) != after[key]}


# what is found


@MODES
@EACH
def test_what_is_missing_is_found_and_mended(
    source: FakeSource, catalog: TrappedCatalog, site: Store, key: str, quick: bool
) -> None:
    before = objects(site)
    site.delete([key])
    seen = found(catalog, site, quick=quick)
    assert ("missing", key) in seen
    assert {kind for kind, other in seen if other != key} <= (set() if quick else {"dangling"})
    assert key in mended(source, catalog, site, quick=quick) and objects(site) == before


@EACH
def test_other_bytes_are_found_and_mended(source: FakeSource, catalog: TrappedCatalog, site: Store, key: str) -> None:
    """Also those of the same length."""
    before = objects(site)
    for body in (b"defaced", bytes(len(before[key][0]))):
        site.put(key, body, headers_of(site, key), b"")
        seen = found(catalog, site)
        assert ("bytes", key) in seen and {kind for kind, _ in seen} <= {"bytes", "dangling"}
        assert mended(source, catalog, site) == {key} and objects(site) == before


@EACH
def test_other_bytes_are_found_by_the_listing_where_they_are_longer_or_the_store_tags_them(
    source: FakeSource, catalog: TrappedCatalog, site: Store, key: str
) -> None:
    before = objects(site)
    same_size = not isinstance(site, DirectoryStore)
    body = bytes(len(before[key][0]) + (not same_size))
    site.put(key, body, headers_of(site, key), b"")
    assert found(catalog, site, quick=True) == [("bytes", key)]
    assert mended(source, catalog, site, quick=True) == {key} and objects(site) == before


@EACH
def test_other_headers_are_found_and_mended(source: FakeSource, catalog: TrappedCatalog, site: Store, key: str) -> None:
    before = objects(site)
    body, headers = before[key]
    site.put(key, body, OTHER, b"")
    if headers is None:  # a folder keeps none
        assert found(catalog, site) == []
        return
    assert found(catalog, site) == [("headers", key)]
    [finding] = verify(catalog, site, quiet).findings
    assert "no-store" in finding.what and headers.content_type in finding.what
    assert mended(source, catalog, site) == {key} and objects(site) == before


@MODES
def test_what_nobody_knows_is_found_and_left(
    source: FakeSource, catalog: TrappedCatalog, site: Store, quick: bool
) -> None:
    for key in ("photo.jpg", "simple/a/more.html", "packages/a-9.0.tar.gz"):
        site.put(key, b"mine", OTHER, b"")
    keys = ["packages/a-9.0.tar.gz", "photo.jpg", "simple/a/more.html"]
    assert found(catalog, site, quick=quick) == [("extra", key) for key in keys]
    assert doubt(catalog, verify(catalog, site, quiet, quick=quick)) == 0
    publish(source, catalog, site, LATER)
    assert content(site, "photo.jpg") == b"mine"


def test_findings_are_told_in_words(catalog: TrappedCatalog, site: Store) -> None:
    site.delete(["robots.txt"])
    site.put("photo.jpg", b"mine", OTHER, b"")
    site.put("docs/guide.html", b"x", headers_of(site, "docs/guide.html"), b"")
    assert verify(catalog, site, quiet).findings == (
        Finding("missing", "robots.txt", "is not there"),
        Finding("extra", "photo.jpg", "is there, and nobody knows why (4 bytes)"),
        Finding("bytes", "docs/guide.html", f"has other bytes: sha256 {sha256(b'x')[:16]}..."),
    )


def test_everything_at_once_is_found_and_mended(source: FakeSource, catalog: TrappedCatalog, site: Store) -> None:
    before = objects(site)
    site.delete([WHEEL, "simple/index.json", "docs/other.html"])
    site.put("simple/a/index.html", b"defaced", OTHER, b"")
    site.put("docs/guide.html", b"defaced", OTHER, b"")
    site.put("pypi/be-e/json", before["pypi/be-e/json"][0], OTHER, b"")
    mended(source, catalog, site)
    assert objects(site) == before


def test_a_store_that_lost_everything_but_the_mark_is_filled_again(
    source: FakeSource, catalog: TrappedCatalog, site: Store
) -> None:
    before = objects(site)
    site.delete(list(before))
    seen = verify(catalog, site, quiet)
    assert seen.objects == len(before) == len(seen.keys("missing"))
    mended(source, catalog, site)
    assert objects(site) == before


# links


def test_a_page_whose_file_is_missing_or_not_what_it_promises_dangles(
    source: FakeSource, catalog: TrappedCatalog, site: Store
) -> None:
    for key in (WHEEL, f"{WHEEL}.metadata"):
        body = content(site, key)
        headers = headers_of(site, key)
        site.delete([key])
        assert ("dangling", "simple/a/index.json") in found(catalog, site)
        site.put(key, b"?" * len(body), headers, b"")
        assert found(catalog, site) == [("bytes", key), ("dangling", "simple/a/index.json")]
        site.put(key, body, headers, bytes.fromhex(sha256(body)))
        assert found(catalog, site) == []


@pytest.mark.parametrize("name", ["a", "be-e"])
def test_the_list_dangles_where_a_page_is_missing_and_is_content_with_one_that_was_changed(
    catalog: TrappedCatalog, site: Store, name: str
) -> None:
    """Wherever in the alphabet that is."""
    key = f"simple/{name}/index.json"
    body = content(site, key)
    site.put(key, body + b" ", headers_of(site, key), b"")
    assert found(catalog, site) == [("bytes", key)]
    site.delete([key])
    assert found(catalog, site) == [("dangling", "simple/index.json"), ("missing", key)]


def test_a_page_changed_by_hand_that_promises_what_is_not_there_dangles(
    source: FakeSource, catalog: TrappedCatalog, site: Store
) -> None:
    key = "simple/a/index.json"
    document = json.loads(content(site, key))
    evil = {"filename": "a-9.0.tar.gz", "url": "../../packages/a-9.0.tar.gz", "hashes": {"sha256": "9" * 64}}
    good = document["files"]
    document["files"] = [*good, evil]
    site.put(key, json.dumps(document).encode(), headers_of(site, key), b"")
    assert found(catalog, site) == [("bytes", key), ("dangling", key)]
    document["files"] = [good[0] | {"hashes": {"sha256": "9" * 64}}, *good[1:]]
    site.put(key, json.dumps(document).encode(), headers_of(site, key), b"")
    assert found(catalog, site) == [("bytes", key), ("dangling", key)]
    assert mended(source, catalog, site) == {key}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"name": "\\u001b[31m", "files": []}',
        b'{"files": [{"filename": "\\u202e"}]}',
    ],
    ids=range(6),
)
@pytest.mark.parametrize("key", ["simple/a/index.json", "simple/index.json"])
def test_a_page_that_is_none_is_told_without_a_control_character(
    source: FakeSource, catalog: TrappedCatalog, site: Store, key: str, body: bytes
) -> None:
    site.put(key, body, headers_of(site, key), b"")
    findings = verify(catalog, site, quiet).findings
    assert sorted(one.kind for one in findings) == ["bytes", "dangling"]
    assert any("is no index page: " in one.what for one in findings)
    assert mended(source, catalog, site) == {key}


def test_entries_of_a_list_that_are_none_are_no_crash(source: FakeSource, catalog: TrappedCatalog, site: Store) -> None:
    key = "simple/index.json"
    document = json.loads(content(site, key))
    document["projects"] += [{}, 7, {"name": "../../x"}, {"name": "not-there"}]
    site.put(key, json.dumps(document).encode(), headers_of(site, key), b"")
    assert found(catalog, site) == [("bytes", key), ("dangling", key)]


def test_a_page_that_is_far_too_large_is_not_kept_in_memory(
    catalog: TrappedCatalog, site: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "simple/a/index.json"
    site.put(key, b"[" * 5000, headers_of(site, key), b"")
    monkeypatch.setattr(module, "LARGEST", 4000)
    assert found(catalog, site) == [("bytes", key)]


# what is not looked at, and what is told of it


@MODES
def test_what_waits_to_be_deleted_may_be_missing_or_changed(
    source: FakeSource, catalog: TrappedCatalog, site: Store, quick: bool
) -> None:
    del source.projects["a"]
    source.sync(catalog)
    publish(source, catalog, site, LATER)
    site.delete([f"{WHEEL}.metadata"])
    site.put(WHEEL, b"longer than before", OTHER, b"")
    assert found(catalog, site, quick=quick) == []
    doubt(catalog, verify(catalog, site, quiet, quick=quick))
    assert catalog.ledger.owner(f"{WHEEL}.metadata") is None, "it need not be deleted any more"


def test_a_file_that_was_lost_while_it_waited_keeps_its_key(
    source: FakeSource, catalog: TrappedCatalog, site: Store
) -> None:
    """Caches may have its bytes yet."""
    del source.projects["a"]
    source.sync(catalog)
    publish(source, catalog, site, LATER)
    site.delete([WHEEL])
    doubt(catalog, verify(catalog, site, quiet))
    assert catalog.ledger.owner(WHEEL) is None
    source.put("a", source.file("a-1.0-py3-none-any.whl", b"other", metadata=METADATA))
    source.sync(catalog)
    publish(source, catalog, site, LATER)
    assert content(site, f"packages/{sha256(b'other')[:16]}/a-1.0-py3-none-any.whl") == b"other"
    assert site.head(WHEEL) is None


def test_what_cannot_be_had_for_a_repair_is_held_and_the_rest_is_mended(
    source: FakeSource, catalog: TrappedCatalog, site: Store
) -> None:
    site.delete([WHEEL, "docs/guide.html", "simple/be-e/index.html"])
    source.unreadable.add("a-1.0-py3-none-any.whl")
    source.unreadable.add("docs/guide.html")
    doubt(catalog, verify(catalog, site, quiet))
    report = publish(source, catalog, site, LATER)
    assert [one.name for one in report.held] == ["a", "docs/guide.html"]
    assert ("missing", "simple/be-e/index.html") not in found(catalog, site)
    source.unreadable.clear()
    publish(source, catalog, site, LATER)
    assert found(catalog, site) == []


def test_to_look_changes_nothing(catalog: TrappedCatalog, site: Store) -> None:
    site.delete([WHEEL])
    site.put("photo.jpg", b"mine", OTHER, b"")
    before, known = objects(site), list(catalog.ledger.entries())
    for quick in (False, True):
        verify(catalog, site, quiet, quick=quick)
    assert objects(site) == before and list(catalog.ledger.entries()) == known
    assert not catalog.ledger.pending()


def test_progress_is_told(catalog: TrappedCatalog, site: Store) -> None:
    told: list[tuple[str, int, int]] = []
    verified = verify(catalog, site, lambda *one: told.append(one))
    assert told[0] == ("objects", 1, verified.objects) and told[-1] == ("objects", verified.objects, verified.objects)


def test_a_store_that_is_empty_and_nobodys_has_nothing_wrong(catalog: TrappedCatalog, store: Store) -> None:
    assert verify(catalog, store, quiet) == Verified(0, ())


def test_a_store_that_is_another_catalogs_is_not_looked_at(
    source: FakeSource, catalog: TrappedCatalog, site: Store, tmp_path: Path
) -> None:
    other = TrappedCatalog.trapped(tmp_path / "other.sqlite")
    with closing(other), pytest.raises(StoreError, match=r"belongs to another catalog .*verify --adopt"):
        verify(other, site, quiet)


def test_a_store_without_its_mark_is_not_looked_at(catalog: TrappedCatalog, site: Store) -> None:
    empty = FakeStore()
    with pytest.raises(StoreError, match=r"its mark is missing\. Is a disk not mounted"):
        verify(catalog, empty, quiet)


def test_an_object_that_goes_between_the_listing_and_the_look_is_missing(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    class Leaky(FakeStore):
        def open(self, key: str) -> Any:
            return None if key == WHEEL else super().open(key)

    store = Leaky()
    source.sync(catalog)
    published(source, catalog, store)
    assert found(catalog, store) == [("dangling", "simple/a/index.json"), ("missing", WHEEL)]


def test_names_in_a_folder_that_are_no_text_are_told_and_nothing_else_happens(
    source: FakeSource, catalog: TrappedCatalog, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "site")
    source.sync(catalog)
    publish(source, catalog, store)
    for name in (b"caf\xe9", b"a\x1b[31m\nmissing: x"):
        Path(os.fsdecode(os.fsencode(store.root) + b"/" + name)).write_bytes(b"")
    keys = [key for kind, key in found(catalog, store) if kind == "extra"]
    assert keys == ["a\x1b[31m\nmissing: x", "caf\\udce9"]


# a repair, step by step


HARMS: dict[str, Callable[[FakeStore], Any]] = {
    "missing": lambda store: store.objects.pop("packages/be_e-1.0.tar.gz"),
    "a page is missing": lambda store: store.objects.pop("simple/a/index.html"),
    "a list is missing": lambda store: store.objects.pop("simple/index.html.gz"),
    "a page was changed": lambda store: store.objects.update({"simple/a/index.html": b"<html><body></body></html>"}),
    "headers": lambda store: store.headers.update({"simple/a/index.json": OTHER}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_nothing_dangles_that_did_not_before_while_it_is_mended(
    source: FakeSource, catalog: TrappedCatalog, harm: str
) -> None:
    store = FakeStore()
    source.sync(catalog)
    published(source, catalog, store)
    before = dict(store.objects)
    HARMS[harm](store)
    broken = set(dangling(store))
    watched = Watched(store, Trap())
    catalog.trap = watched
    doubt(catalog, verify(catalog, store, quiet))
    published(source, catalog, store, LATER)
    assert set(watched.seen) <= broken and not dangling(store) and watched.trap.steps > 5
    assert store.objects == before and not verify(catalog, store, quiet).findings


def test_what_is_told_of_a_strangers_bytes_is_harmless(catalog: TrappedCatalog, site: Store) -> None:
    key = "simple/a/index.json"
    site.put(key, b'{"name": "\x9b31m", "files": []}', Headers("\u202etext/plain", "x"), b"")
    for one in verify(catalog, site, quiet).findings:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", one.what), one
