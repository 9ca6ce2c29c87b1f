"""A catalog made anew from the store alone: it renders to what lies there, and no promise to a reader is broken."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.lease import Leased, hold
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.mark import owner
from cdn_fallback.mirror.rebuild import Rebuilt, rebuild
from cdn_fallback.mirror.restore import restore
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.sources.trees import Tree
from cdn_fallback.mirror.stores import StoreError
from cdn_fallback.mirror.stores.directory import DirectoryStore
from cdn_fallback.mirror.stores.objects import ObjectStore
from cdn_fallback.mirror.verify import verify
from tests.mirror.fakes import (
    NOW,
    RULES,
    WHO,
    FakeSource,
    FakeStore,
    Killed,
    Trap,
    TrappedCatalog,
    published,
    sha256,
)
from tests.mirror.reader import dangling
from tests.mirror.story import GONE, LATER, METADATA, Story, Watched, then, told_of

LISTS = {f"simple/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")} | {"last-modified"}
HEADERS = Headers("text/plain", "no-store")


def quiet(what: str, done: int, of: int) -> None:
    """Nobody watches."""


def adopted(catalog: Catalog, store: Any, now: float = LATER + 1, who: Who = WHO) -> Rebuilt:
    return rebuild(catalog, store, RULES, ["docs"], now, who, quiet)


class Lost:
    """A store in which everything of the story is published, and a catalog that is new."""

    def __init__(self, folder: Path) -> None:
        self.story = Story(folder)
        self.source = self.story.source
        path, self.store = self.story.again(Trap())
        self.story.sync(path)
        self.story.publish(path, self.store)
        self.objects = dict(self.store.objects)
        self._folder = folder
        self._number = 0

    def catalog(self) -> TrappedCatalog:
        self._number += 1
        return TrappedCatalog.trapped(self._folder / f"new-{self._number}.sqlite")


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    return Lost(tmp_path)


@pytest.fixture
def catalog(lost: Lost) -> Iterator[TrappedCatalog]:
    with closing(lost.catalog()) as catalog:
        yield catalog


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


def differing(store: FakeStore, before: dict[str, bytes]) -> set[str]:
    return {key for key in before.keys() | store.objects.keys() if before.get(key) != store.objects.get(key)}


def page(store: FakeStore, name: str) -> Any:
    return json.loads(store.objects[f"simple/{name}/index.json"])


def serials(store: FakeStore) -> dict[str, int]:
    """The serial of each page, and of the list by the name of "", each in both of its places."""
    listed = json.loads(store.objects["simple/index.json"])
    found = {"": listed["meta"]["_last-serial"]}
    for one in listed["projects"]:
        name = one["name"].lower().replace("_", "-").replace(".", "-")
        found[name] = page(store, name)["meta"]["_last-serial"]
        assert one["_last-serial"] == found[name]
    return found


def put_page(store: FakeStore, name: str, document: Any) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    key = f"simple/{name}/index.json"
    store.objects[key], store.headers[key] = body, Headers(site.JSON_TYPE, site.PAGE)


# what is made anew


def test_the_catalog_made_anew_renders_to_the_very_objects_that_lie_there(lost: Lost, catalog: TrappedCatalog) -> None:
    made = adopted(catalog, lost.store)
    assert (made.projects, made.files, made.differ, made.left_out) == (10, 12, 0, ())
    assert made.objects + made.strangers == len(lost.objects), "each of them is known"
    lost.store.calls.clear()
    report = published(lost.source, catalog, lost.store, LATER + 2)
    assert report.puts == report.deletes == report.doomed == 0
    assert lost.store.objects == lost.objects and not lost.store.puts()
    assert told_of(catalog.path) == lost.objects.keys()


def test_everything_that_a_page_says_of_a_file_comes_back(tmp_path: Path, source: FakeSource) -> None:
    told: dict[str, Any] = {"requires_python": ">=3.8", "upload_time": "2024-01-31T12:00:00.000000Z", "yanked": "bad"}
    told["provenance"] = "https://elsewhere.example/p"
    hashes = {"sha256": sha256(b"x"), "md5": "0" * 32}
    source.put(
        "Some.Thing",
        source.file("some_thing-1.0-py3-none-any.whl", b"x", metadata=METADATA, hashes=hashes, extra={"x": 1}, **told),
        source.file("some_thing-2.0.tar.gz", b"y", key="", url="http://elsewhere.example/some_thing-2.0.tar.gz"),
        source.file("some_thing-3.0.tar.gz", b"z", yanked="", core_metadata={}, key="", url="https://e.example/z"),
        status="archived", status_reason="done", meta={"more": 1}, extra={"other": {"k": None}},
        versions=("0.1", "1.0", "2.0", "3.0"),
    )  # fmt: skip
    store = FakeStore()
    with (
        closing(TrappedCatalog.trapped(tmp_path / "old")) as old,
        closing(TrappedCatalog.trapped(tmp_path / "new")) as new,
    ):
        source.sync(old)
        published(source, old, store)
        before = dict(store.objects)
        assert adopted(new, store).differ == 0
        was, now = old.content.project("some-thing"), new.content.project("some-thing")
        assert was and now and now._replace(versions=()) == was._replace(versions=())
        published(source, new, store, NOW + 1)
        assert store.objects == before


def test_after_a_sync_only_that_is_put_which_the_store_could_not_tell(lost: Lost, catalog: TrappedCatalog) -> None:
    adopted(catalog, lost.store)
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    changed = differing(lost.store, lost.objects)
    assert {key for key in changed if "/suspect/" not in key} <= LISTS, "files of what is quarantined are in no page"
    assert not dangling(lost.store)
    assert published(lost.source, catalog, lost.store, LATER + 4).puts == 0


def test_in_the_end_the_store_is_as_it_would_be_with_the_old_catalog(lost: Lost, catalog: TrappedCatalog) -> None:
    """But for serials."""
    adopted(catalog, lost.store)
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    published(lost.source, catalog, lost.store, GONE + 10)
    path, undisturbed = lost.story.again(Trap())
    lost.story.sync(path)
    lost.story.publish(path, undisturbed)
    lost.story.publish(path, undisturbed, GONE)
    assert lost.store.objects.keys() == undisturbed.objects.keys()
    assert lost.store.headers == undisturbed.headers
    assert told_of(catalog.path) == lost.store.objects.keys()


def test_a_key_that_held_other_bytes_never_gets_other_bytes(lost: Lost, catalog: TrappedCatalog) -> None:
    moved = {name: page(lost.store, name)["files"] for name in ("replaced", "back")}
    assert any(sha256(b"new")[:16] in file["url"] for file in moved["replaced"]), "the story has keys that moved"
    adopted(catalog, lost.store)
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 2)
    assert {name: page(lost.store, name)["files"] for name in moved} == moved, "and they stay where they are"
    then(lost.source)
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 3)
    assert not dangling(lost.store)
    published(lost.source, catalog, lost.store, GONE + 10)
    assert sha256(b"newest")[:16] in page(lost.store, "replaced")["files"][0]["url"]
    files = {key: digests for key, digests in lost.store.ever.items() if key.startswith("packages/")}
    assert not [key for key, digests in files.items() if len(digests) > 1]


def test_a_file_that_was_moved_is_not_moved_back_by_a_later_change(lost: Lost, catalog: TrappedCatalog) -> None:
    """Also when the first file is no longer in the store, and only the key of the second tells that it was."""
    for key in [key for key in lost.objects if key.startswith("packages/replaced")]:
        assert lost.store.objects.pop(key)
    adopted(catalog, lost.store)
    lost.source.put("replaced", lost.source.file("replaced-1.0-py3-none-any.whl", b"third", metadata=METADATA))
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    [file] = page(lost.store, "replaced")["files"]
    assert f"packages/{sha256(b'third')[:16]}/replaced-1.0" in file["url"]
    assert not dangling(lost.store)


def test_nothing_dangles_at_any_step_of_the_way_back(lost: Lost, catalog: TrappedCatalog) -> None:
    catalog.trap = watched = Watched(lost.store)
    adopted(catalog, lost.store)
    published(lost.source, catalog, lost.store, LATER + 2)
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 4)
    then(lost.source)
    lost.source.sync(catalog, LATER + 5)
    published(lost.source, catalog, lost.store, LATER + 6)
    published(lost.source, catalog, lost.store, GONE + 10)
    assert not watched.seen and watched.trap.steps > 100


def test_what_comes_back_from_quarantine_has_its_key_again(lost: Lost, catalog: TrappedCatalog) -> None:
    adopted(catalog, lost.store)
    assert "packages/suspect-1.0.tar.gz" in lost.objects
    lost.source.put("suspect", *lost.source.projects["suspect"].files)
    lost.source.sync(catalog, LATER + 2)
    assert published(lost.source, catalog, lost.store, LATER + 3).held == ()
    assert [file["url"] for file in page(lost.store, "suspect")["files"]] == ["../../packages/suspect-1.0.tar.gz"]
    published(lost.source, catalog, lost.store, GONE + 10)
    assert not dangling(lost.store)


def test_what_nothing_refers_to_waits_until_no_cache_has_it(lost: Lost, catalog: TrappedCatalog) -> None:
    lost.store.put("photo.jpg", b"mine", HEADERS, b"")
    made = adopted(catalog, lost.store, LATER + 1)
    due = {"photo.jpg", "packages/gone_to_day-1.0-py3-none-any.whl", "packages/shrunk-1.0.tar.gz"}
    assert made.strangers == len(catalog.ledger.doomed(int(LATER) + 1)) >= len(due)
    published(lost.source, catalog, lost.store, LATER + site.STALE)
    assert due <= lost.store.objects.keys()
    published(lost.source, catalog, lost.store, LATER + 1 + site.STALE)
    assert not due & lost.store.objects.keys() and not dangling(lost.store)


# serials


@pytest.mark.parametrize("counts", [True, False])
def test_serials_never_go_back(tmp_path: Path, source: FakeSource, counts: bool) -> None:
    """Whether the source counts its changes or not; clients refuse a page that is older than one they have seen."""
    chance = random.Random(7)
    number = 1000

    def change(names: str) -> None:
        nonlocal number
        for name in names:
            number += 1
            content = chance.randbytes(3)
            source.put(name, source.file(f"{name}-1.0.tar.gz", content), serial=number if counts else None)
        source.serial = number if counts else None

    store = FakeStore()
    change("abcd")
    highest: dict[str, int] = {}
    with closing(TrappedCatalog.trapped(tmp_path / "0")) as catalog:
        for names in ("abc", "ac", "d"):
            source.sync(catalog)
            published(source, catalog, store)
            change(names)
    for turn, names in enumerate(("", "b", "da", "")):
        with closing(TrappedCatalog.trapped(tmp_path / f"new-{turn}")) as catalog:
            adopted(catalog, store, NOW + turn)
            change(names)
            if turn == 2:
                source.put_static("docs/x", b"new")
            for _ in range(2):
                source.sync(catalog, NOW + turn)
                published(source, catalog, store, NOW + turn)
                found = serials(store)
                assert {name: now for name, now in found.items() if now < highest.get(name, 0)} == {}, f"turn {turn}"
                highest.update(found)
    assert len(highest) == 5 and (highest[""] > 1000) == counts


def test_serials_do_not_go_back_with_the_list_lost(lost: Lost, catalog: TrappedCatalog) -> None:
    """Its twin knows them, also of changes that no page shows: of files beside the index, of what was removed."""
    before = serials(lost.store)
    assert before[""] > max(serial for name, serial in before.items() if name)
    del lost.store.objects["simple/index.json"]
    adopted(catalog, lost.store)
    published(lost.source, catalog, lost.store, LATER + 2)
    assert serials(lost.store) == before


def test_a_page_that_no_list_has_yet_is_no_project_but_its_serial_was_seen(lost: Lost, catalog: TrappedCatalog) -> None:
    """A publish was killed between the pages and the list."""
    document = page(lost.store, "added") | {"name": "unlisted", "files": []}
    document["meta"]["_last-serial"] = 500
    put_page(lost.store, "unlisted", document)
    adopted(catalog, lost.store)
    assert catalog.content.project("unlisted") is None
    lost.source.put("unlisted", lost.source.file("unlisted-1.0.tar.gz", b"u"))
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    assert serials(lost.store)["unlisted"] > 500 and not dangling(lost.store)


# what is damaged


def harm_list(store: FakeStore, harm: str) -> None:
    for form in ("json", "json.gz", "html", "html.gz"):
        key = f"simple/index.{form}"
        if harm == "lost":
            del store.objects[key]
        else:
            store.objects[key] = store.objects[key][:50]


@pytest.mark.parametrize("harm", ["lost", "broken"])
def test_a_lost_list_is_made_anew_from_the_pages(lost: Lost, catalog: TrappedCatalog, harm: str) -> None:
    harm_list(lost.store, harm)
    made = adopted(catalog, lost.store)
    assert made.projects == 10
    published(lost.source, catalog, lost.store, LATER + 2)
    assert not dangling(lost.store)
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 4)
    assert sorted(serials(lost.store)) == sorted(["", *lost.source.projects])
    assert not dangling(lost.store)


@pytest.mark.parametrize("folder", ["Not.Normal", "..", "\x1b[31m", "a/b"])
def test_what_is_named_as_no_project_is_none_where_the_list_is_lost(
    lost: Lost, catalog: TrappedCatalog, folder: str
) -> None:
    harm_list(lost.store, "lost")
    put_page(lost.store, folder, {"name": folder, "files": []})
    made = adopted(catalog, lost.store)
    assert (made.projects, made.left_out) == (10, ())


def test_a_damaged_page_is_read_from_its_twin_and_put_again(lost: Lost, catalog: TrappedCatalog) -> None:
    lost.store.objects["simple/index.json"] = b"{"
    put_page(lost.store, "changed", b'{"files": [')
    made = adopted(catalog, lost.store)
    assert (made.projects, made.left_out, made.differ) == (10, (), 2)
    published(lost.source, catalog, lost.store, LATER + 2)
    assert lost.store.objects == lost.objects


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b'{"meta":{},"name":"other","files":[]}', b"[" * 100_000])
def test_a_project_that_nobody_can_read_is_left_out_until_the_next_sync(
    lost: Lost, catalog: TrappedCatalog, body: bytes
) -> None:
    for key in ("simple/changed/index.json", "simple/changed/index.json.gz"):
        lost.store.objects[key] = body
    made = adopted(catalog, lost.store)
    assert (made.projects, made.left_out) == (9, ("changed",))
    published(lost.source, catalog, lost.store, LATER + 2)
    assert "simple/changed/index.html" in lost.store.objects, "caches lead there yet"
    lost.store.objects.update({key: lost.objects[key] for key in lost.objects if "/changed/index.json" in key})
    assert not dangling(lost.store)
    lost.source.sync(catalog, LATER + 3)
    assert published(lost.source, catalog, lost.store, LATER + 4).held == ()
    assert page(lost.store, "changed")["files"] == json.loads(lost.objects["simple/changed/index.json"])["files"]
    published(lost.source, catalog, lost.store, GONE + 10)
    assert not dangling(lost.store) and told_of(catalog.path) == lost.store.objects.keys()


def test_a_project_that_was_left_out_goes_as_any_other(lost: Lost, catalog: TrappedCatalog) -> None:
    """Its pages are known for its own: none is left behind when it is removed."""
    for key in ("simple/changed/index.json", "simple/changed/index.json.gz"):
        del lost.store.objects[key]
    assert adopted(catalog, lost.store).left_out == ("changed",)
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    del lost.source.projects["changed"]
    lost.source.sync(catalog, LATER + 4)
    published(lost.source, catalog, lost.store, LATER + 5)
    assert not [key for key in lost.store.objects if "/changed/" in key] and not dangling(lost.store)
    published(lost.source, catalog, lost.store, GONE + 10)
    assert not [key for key in lost.store.objects if "changed-" in key]


def test_an_object_that_is_lost_or_was_changed_is_put_again(lost: Lost, catalog: TrappedCatalog) -> None:
    del lost.store.objects["packages/yanked-1.0.tar.gz"]
    lost.store.objects["packages/changed-1.0-py3-none-any.whl"] = b"?"
    lost.store.objects["docs/guide/index.html"] = b"defaced"
    lost.store.headers["pypi/added/json"] = HEADERS
    lost.store.objects["simple/added/index.html"] = b"defaced"
    del lost.store.objects["simple/added/index.json.gz"]
    made = adopted(catalog, lost.store)
    assert made.differ == 3, "nobody can tell what was beside the index"
    published(lost.source, catalog, lost.store, LATER + 2)
    assert differing(lost.store, lost.objects) == {"docs/guide/index.html"}
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 4)
    assert lost.store.objects["docs/guide/index.html"] == b"a folder"


# a hostile page


def test_a_page_that_promises_a_file_that_is_not_there_stays_as_it_is_until_the_next_sync(
    lost: Lost, catalog: TrappedCatalog
) -> None:
    document = page(lost.store, "added")
    evil = {"filename": "added-9.0.tar.gz", "url": "../../packages/added-9.0.tar.gz", "hashes": {"sha256": "9" * 64}}
    document["files"].append(evil)
    put_page(lost.store, "added", document)
    lost.source.unreadable.add("added-9.0.tar.gz")
    adopted(catalog, lost.store)
    report = published(lost.source, catalog, lost.store, LATER + 2)
    assert [one.name for one in report.held] == ["added"]
    assert [one.key for one in verify(catalog, lost.store, quiet).findings if one.kind == "dangling"] == []
    lost.source.sync(catalog, LATER + 3)
    assert published(lost.source, catalog, lost.store, LATER + 4).held == ()
    assert page(lost.store, "added")["files"] == json.loads(lost.objects["simple/added/index.json"])["files"]
    assert not dangling(lost.store)


def test_a_page_that_promises_other_bytes_of_a_file_never_makes_that_so(lost: Lost, catalog: TrappedCatalog) -> None:
    document = page(lost.store, "added")
    document["files"][0]["hashes"]["sha256"] = "9" * 64
    put_page(lost.store, "added", document)
    good = lost.objects[f"packages/{document['files'][0]['filename']}"]
    lost.source.blobs["9" * 64] = b"whatever"
    adopted(catalog, lost.store)
    published(lost.source, catalog, lost.store, LATER + 2)
    assert lost.store.objects[f"packages/{document['files'][0]['filename']}"] == good
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 4)
    assert not dangling(lost.store)
    files = {key: digests for key, digests in lost.store.ever.items() if key.startswith("packages/")}
    assert not [key for key, digests in files.items() if len(digests) > 1]


URLS = [
    "../../../../etc/passwd/added-9.0.tar.gz",
    "../../packages/../../added-9.0.tar.gz",
    "../../packages/%2e%2e/%2e%2e/added-9.0.tar.gz",
    "../../packages/.hidden/added-9.0.tar.gz",
    "../../packages//added-9.0.tar.gz",
    "../../packages/a%00b/added-9.0.tar.gz",
    "../../packages/%1b[31m/added-9.0.tar.gz",
    "../../simple/added/added-9.0.tar.gz",
    "../../packages/added-1.0.tar.gz/added-9.0.tar.gz",
    "../../packages/" + "a" * 300 + "/added-9.0.tar.gz",
    "file:///etc/added-9.0.tar.gz",
    "/added-9.0.tar.gz#../..",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("filename", ["added-9.0.tar.gz", "../../added-9.0.tar.gz", "added-9.0\x1b.tar.gz"])
def test_nothing_of_a_hostile_page_leads_out_of_anything(
    lost: Lost, tmp_path: Path, catalog: TrappedCatalog, url: str, filename: str
) -> None:
    """Neither by adopting it nor by bringing its files back."""
    document = page(lost.store, "added")
    evil = b"evil"
    known = document["files"]
    document["files"] = [*known, {"filename": filename, "url": url, "hashes": {"sha256": sha256(evil)}}]
    put_page(lost.store, "added", document)
    for key in (url, url.removeprefix("../../"), filename, f"packages/{filename}"):
        lost.store.objects[key] = evil
        lost.store.headers[key] = HEADERS
    adopted(catalog, lost.store)
    project = catalog.content.project("added")
    assert project
    for file in project.files:
        assert ".." not in file.object_key and file.object_key.isprintable()
    inner = tmp_path / "outer" / "inner" / "packages"
    restore(catalog, lost.store, inner, "packages", (Tree(tmp_path / "outer" / "inner" / "docs", "docs"),), quiet)
    allowed = {inner.parent / "docs", inner}
    for path in (tmp_path / "outer").rglob("*"):
        assert path == inner.parent or any(path.is_relative_to(folder) for folder in allowed), path
    assert not Path("/etc/passwd/added-9.0.tar.gz").exists()


@pytest.mark.parametrize(
    "entry", [{}, 1, None, "x", {"name": 1}, {"name": "../x"}, {"name": "a\x1b[31m"}, {"name": "x" * 5000}, []]
)
def test_a_list_with_entries_that_are_none_is_taken_without_them(
    lost: Lost, catalog: TrappedCatalog, entry: Any
) -> None:
    document = json.loads(lost.objects["simple/index.json"])
    lost.store.objects["simple/index.json"] = json.dumps(
        document | {"projects": [entry, *document["projects"]]}
    ).encode()
    assert adopted(catalog, lost.store).projects == 10
    published(lost.source, catalog, lost.store, LATER + 2)
    assert lost.store.objects == lost.objects


@pytest.mark.parametrize("said", [b"\xff\xfe", b"", b"yesterday\n", b"2023-11-14T22:13:20Z\x1b[31m", b"x" * 10000])
def test_a_time_of_the_last_change_that_is_none_is_forgotten(lost: Lost, catalog: TrappedCatalog, said: bytes) -> None:
    lost.store.objects["last-modified"] = said
    adopted(catalog, lost.store)
    assert catalog.get("changed_at") == ""
    published(lost.source, catalog, lost.store, LATER + 2)
    lost.source.put("another")
    lost.source.sync(catalog, LATER + 3)
    published(lost.source, catalog, lost.store, LATER + 4)
    assert lost.store.objects["last-modified"].startswith(b"2023-11-14T23:13:2")


# whose the store is


def test_a_store_that_is_nobodys_is_left_alone(lost: Lost, catalog: TrappedCatalog) -> None:
    lost.store.marked = None
    with pytest.raises(StoreError, match="is not ours: there is no mark in it"):
        adopted(catalog, lost.store)
    assert lost.store.marked is None and catalog.content.count() == (0, 0)


def test_a_store_with_a_mark_that_nobody_can_read_is_left_alone(lost: Lost, catalog: TrappedCatalog) -> None:
    lost.store.marked = b"\x1b[31m"
    with pytest.raises(StoreError, match="that is not ours"):
        adopted(catalog, lost.store)
    assert lost.store.marked == b"\x1b[31m"


def test_a_store_that_is_the_catalogs_needs_none(lost: Lost, catalog: TrappedCatalog) -> None:
    adopted(catalog, lost.store)
    known = list(catalog.ledger.entries())
    with pytest.raises(StoreError, match="belongs to this very catalog: there is nothing to make anew"):
        adopted(catalog, lost.store)
    assert list(catalog.ledger.entries()) == known


def test_a_catalog_that_has_published_elsewhere_is_not_overwritten(
    lost: Lost, catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.put("mine", source.file("mine-1.0.tar.gz", b"m"))
    source.sync(catalog)
    published(source, catalog, FakeStore())
    known = list(catalog.ledger.entries())
    with pytest.raises(StoreError, match="has published to another store; name a catalog that is not there yet"):
        adopted(catalog, lost.store)
    assert list(catalog.ledger.entries()) == known and catalog.content.count() == (1, 1)


def test_a_catalog_that_has_only_synced_is_made_anew(lost: Lost, catalog: TrappedCatalog) -> None:
    lost.source.sync(catalog, LATER)
    assert adopted(catalog, lost.store).differ == 0
    published(lost.source, catalog, lost.store, LATER + 2)
    assert lost.store.objects == lost.objects


def test_a_store_to_which_another_publishes_is_left_alone(lost: Lost, catalog: TrappedCatalog) -> None:
    found = owner(lost.store)
    assert found
    with hold(lost.store, found.catalog, Who("another", "elsewhere")):
        with pytest.raises(Leased, match="another publisher is at work"):
            adopted(catalog, lost.store)
        assert catalog.content.count() == (0, 0)
    assert adopted(catalog, lost.store).projects == 10


def test_the_old_catalog_if_it_is_found_again_is_told_that_the_store_is_anothers(lost: Lost, tmp_path: Path) -> None:
    path, store = lost.story.again(Trap())
    with closing(lost.catalog()) as catalog, closing(TrappedCatalog.trapped(path)) as old:
        adopted(catalog, store)
        found = owner(store)
        assert found and found.catalog == catalog.identity and not found.run
        lost.source.sync(old, LATER)
        with pytest.raises(StoreError, match="belongs to another catalog"):
            published(lost.source, old, store, LATER)


# killed


@pytest.mark.parametrize("part", range(2))
def test_wherever_it_is_killed_the_next_one_ends_in_the_same(
    lost: Lost, tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdn_fallback.mirror.rebuild.BATCH", 4)
    calm = Trap()
    with closing(TrappedCatalog.trapped(tmp_path / "calm", calm)) as catalog:
        adopted(catalog, lost.store.copy(calm))
        wanted = state(catalog)
    assert calm.steps > 12
    for step in range(part + 1, calm.steps + 1, 2):
        trap = Trap(step)
        path, store = tmp_path / f"killed-{step}", lost.store.copy(trap)
        killed = TrappedCatalog.trapped(path, trap)
        with pytest.raises(Killed):
            adopted(killed, store)
        killed.close()
        assert store.objects == lost.objects, f"killed at {step}"
        trap.dead = False
        with closing(TrappedCatalog.trapped(path)) as catalog:
            assert_unusable_or_done(catalog, store, lost)
            if not done(catalog, store):
                made = adopted(catalog, store)
                assert (made.projects, made.files) == (10, 12), f"killed at {step}"
            assert state(catalog) == wanted, f"killed at {step}"
            assert done(catalog, store)
            published(lost.source, catalog, store, LATER + 2)
            assert store.objects == lost.objects, f"killed at {step}"


def done(catalog: TrappedCatalog, store: FakeStore) -> bool:
    found = owner(store)
    return found is not None and found.catalog == catalog.identity and not catalog.get("rebuilding")


def assert_unusable_or_done(catalog: TrappedCatalog, store: FakeStore, lost: Lost) -> None:
    """A half of a catalog publishes nothing."""
    found = owner(store)
    assert found
    if found.catalog != catalog.identity:
        with pytest.raises(StoreError, match="belongs to another catalog"):
            published(lost.source, catalog, store, LATER + 2)


def state(catalog: TrappedCatalog) -> list[tuple[Any, ...]]:
    """All that matters of a catalog."""
    found: list[tuple[Any, ...]] = []
    for table in ("project", "file", "static", "removed_file", "pending"):
        found += catalog._connection.execute(f"SELECT '{table}', * FROM {table}").fetchall()
    found += catalog._connection.execute("SELECT key, value FROM meta WHERE key <> 'identity'").fetchall()
    found += catalog._connection.execute("SELECT key, project, digest, size, doomed FROM ledger").fetchall()
    found += list(catalog.ledger.entries())
    return sorted(found, key=repr)


def test_a_catalog_that_was_used_after_a_kill_at_the_very_end_is_not_made_anew(
    lost: Lost, catalog: TrappedCatalog
) -> None:
    made = adopted(catalog, lost.store)
    with catalog.transaction():
        catalog.set("rebuilding", "f" * 32)
    lost.source.sync(catalog, LATER + 2)
    published(lost.source, catalog, lost.store, LATER + 3)
    known = state(catalog)
    again = adopted(catalog, lost.store, LATER + 4)
    assert (again.projects, again.files) == (made.projects, made.files + 1) and again.objects == made.objects - 1
    assert [one for one in state(catalog) if one not in known] == [("rebuilding", "")]


def test_it_leaves_no_thread_behind(lost: Lost, catalog: TrappedCatalog) -> None:
    before = threading.active_count()
    adopted(catalog, lost.store)
    assert threading.active_count() == before


# a folder, which keeps neither headers nor digests


def test_a_folder_is_adopted_by_reading_it(lost: Lost, catalog: TrappedCatalog, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "site")
    for key, body in lost.objects.items():
        store.put(key, body, HEADERS, b"")
    assert lost.store.marked
    store.set_mark(lost.store.marked, None)
    (store.root / "packages" / "changed-1.0-py3-none-any.whl").write_bytes(b"?")
    made = adopted(catalog, store)
    assert (made.projects, made.differ) == (10, 1)
    assert verify(catalog, store, quiet).findings == ()
    shutil.rmtree(store.root / "docs")
    assert {one.kind for one in verify(catalog, store, quiet).findings} == {"missing"}


def test_object_storage_is_adopted_by_many_threads(lost: Lost, catalog: TrappedCatalog, tmp_path: Path) -> None:
    """And what it says of an object is believed: none but pages is read."""

    opened: list[str] = []

    class Read(ObjectStore):
        def open(self, key: str) -> Any:
            opened.append(key)
            return super().open(key)

    store = Read(MemoryStore(), "memory://here")
    for key, body in lost.objects.items():
        store.put(key, body, lost.store.headers[key], bytes.fromhex(sha256(body)))
    assert lost.store.marked
    store.set_mark(lost.store.marked, None)
    made = adopted(catalog, store)
    assert (made.projects, made.differ) == (10, 0)
    assert {key for key in opened if not key.endswith("index.json")} == {"last-modified"}
    assert verify(catalog, store, quiet).findings == ()
