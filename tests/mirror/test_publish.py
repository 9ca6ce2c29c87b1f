"""Publishing: what is planned, done, held back, refused, deleted. What always holds is in test_promises."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from cdn_fallback.mirror import publish, site
from cdn_fallback.mirror.due import TooManyRemovals
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Held, Report
from cdn_fallback.mirror.site import Object
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.stores import StoreError
from cdn_fallback.mirror.stores.directory import DirectoryStore
from tests.mirror.fakes import NOW, RULES, WHO, FakeSource, FakeStore, TrappedCatalog, published, sha256
from tests.mirror.reader import dangling
from tests.mirror.story import GONE, LATER, METADATA, Story, told_of
from tests.mirror.test_store import no_file_over


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    for name in ("a", "b"):
        source.put(name, source.file(f"{name}-1.0-py3-none-any.whl", name.encode(), metadata=METADATA))
    return source


THEIRS = b"f" * 32


def plan(source: FakeSource, catalog: TrappedCatalog, store: FakeStore, now: float = NOW, **options: bool) -> Report:
    return Publisher(catalog, store, RULES, source.read, WHO).plan(now, **options)


def project_pages(store: FakeStore) -> dict[str, bytes]:
    return {key: content for key, content in store.objects.items() if key.startswith(("simple/", "pypi/"))}


# the plan


def test_what_is_planned_is_what_is_done_and_planning_does_nothing(tmp_path: Path) -> None:
    """From an empty store, after a change of every kind, when all is old, and when everything is looked at."""
    story = Story(tmp_path)
    path, full = story.again(FakeStore().trap)
    with closing(TrappedCatalog.trapped(path)) as catalog:
        story.source.sync(catalog, LATER)
        steps = [(full, LATER, False), (full, LATER, True), (full, GONE, False), (full, GONE, False)]
        for number, (store, now, everything) in enumerate(steps):
            if number == 2:  # what was to be deleted now, is wanted again
                story.source.put("gone.to-day", story.source.file("gone_to_day-1.0-py3-none-any.whl", b"g"))
                story.source.sync(catalog, LATER)
            catalog.trap.steps = 0
            before, digest = dict(store.objects), path.read_bytes()
            store.calls.clear()
            planned = plan(story.source, catalog, store, now, everything=everything)
            assert (store.objects, path.read_bytes(), catalog.trap.steps) == (before, digest, 0)
            assert [what for what, _ in store.calls] in ([], ["mark"])
            done = published(story.source, catalog, store, now, everything=everything)
            metadata = sum(len(store.objects[key]) for key in store.puts() if key.endswith(".metadata"))
            assert planned == done._replace(bytes=done.bytes - metadata)
    assert done == Report()


def test_what_is_planned_for_an_empty_store_is_what_is_done(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.put_static("docs/index.html", b"x")
    source.sync(catalog)
    store = FakeStore()
    planned = plan(source, catalog, store)
    assert store.calls == [("mark", ""), ("list", "")]
    done = published(source, catalog, store)
    assert planned == done._replace(bytes=done.bytes - 2 * len(METADATA))
    assert (done.projects, done.puts, done.generation) == (2, 2 * 8 + 1 + 6, 1)
    assert done.bytes == sum(map(len, store.objects.values()))


def test_a_plan_for_somebody_else_s_store_is_refused(catalog: TrappedCatalog, source: FakeSource) -> None:
    store = FakeStore()
    store.marked = THEIRS
    source.sync(catalog)
    with pytest.raises(StoreError, match="belongs to another catalog"):
        plan(source, catalog, store)


def test_progress_is_told(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    seen: list[tuple[str, int, int]] = []
    publisher = Publisher(catalog, FakeStore(), RULES, source.read, WHO, progress=lambda *told: seen.append(told))
    publisher.publish(NOW)
    assert seen == [("projects", 2, 2), ("files", 1, 2), ("files", 2, 2)]


# held back


def test_a_project_whose_file_cannot_be_had_keeps_its_old_page_and_is_tried_again(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    before = project_pages(store)
    source.put("a", *source.projects["a"].files, source.file("a-2.0.tar.gz", b"2"), source.file("a-3.0.tar.gz", b"3"))
    source.put("b", source.file("b-1.0-py3-none-any.whl", b"b", metadata=METADATA, yanked=""))
    source.sync(catalog)
    source.unreadable = {"a-3.0.tar.gz"}
    source.freed.clear()
    report = published(source, catalog, store)
    assert report.held == (Held("a", "a-3.0.tar.gz: cannot be had"),)
    assert report.projects == 1, "the others go on"
    assert {key for key, content in project_pages(store).items() if before[key] != content} == {
        key for key in before if "/b/" in key or key.startswith("simple/index.")
    }
    assert source.freed == ["packages/a-2.0.tar.gz"], "what is in the store need not be kept"
    store.calls.clear()
    assert published(source, catalog, store).held == report.held
    assert "packages/a-2.0.tar.gz" not in store.puts()
    source.unreadable = set()
    assert published(source, catalog, store).held == ()
    assert b"a-3.0.tar.gz" in store.objects["simple/a/index.html"] and not dangling(store)
    assert source.freed == ["packages/a-2.0.tar.gz", "packages/a-3.0.tar.gz"]
    assert published(source, catalog, store) == Report()


def test_a_new_project_that_is_held_back_is_not_listed(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    source.unreadable = {"a-1.0-py3-none-any.whl"}
    store = FakeStore()
    assert [held.name for held in published(source, catalog, store).held] == ["a"]
    assert b'"a"' not in store.objects["simple/index.json"] and "simple/a/index.html" not in store.objects
    source.unreadable = set()
    published(source, catalog, store)
    assert b'"a"' in store.objects["simple/index.json"] and not dangling(store)


def test_a_held_project_that_is_removed_leaves_nothing(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.put("a", *source.projects["a"].files, source.file("a-2.0.tar.gz", b"2"))
    source.sync(catalog)
    source.unreadable = {"a-2.0.tar.gz"}
    store = FakeStore()
    published(source, catalog, store)
    assert "packages/a-1.0-py3-none-any.whl" in store.objects
    del source.projects["a"]
    source.sync(catalog)
    assert published(source, catalog, store).held == ()
    published(source, catalog, store, GONE)
    assert not [key for key in store.objects if "a-1.0" in key or "/a/" in key]
    assert told_of(catalog.path) == store.objects.keys()


@pytest.mark.parametrize("part", ["", ".metadata"])
def test_bytes_that_are_not_those_that_were_promised_are_never_published(
    catalog: TrappedCatalog, source: FakeSource, part: str
) -> None:
    source.sync(catalog)
    store = FakeStore()
    key = f"packages/a-1.0-py3-none-any.whl{part}"

    def read(wanted: Object) -> BinaryIO:
        return io.BytesIO(b"changed since") if wanted.key == key else source.read(wanted)

    report = Publisher(catalog, store, RULES, read, WHO, done=source.published).publish(NOW)
    why = f"{key}: has changed since it was read; it is left for the next sync"
    assert report.held == (Held("a", why),)
    assert key not in store.objects and "packages/a-1.0-py3-none-any.whl" not in source.freed


def test_a_file_that_breaks_off_while_it_is_read_holds_back_its_project_only(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.sync(catalog)
    store = FakeStore()

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    def read(wanted: Object) -> BinaryIO:
        return Broken() if "a-1.0" in wanted.key else source.read(wanted)

    report = Publisher(catalog, store, RULES, read, WHO).publish(NOW)
    assert report.held == (Held("a", "packages/a-1.0-py3-none-any.whl: cannot be read now (Input/output error)"),)
    assert "simple/b/index.html" in store.objects


@pytest.mark.parametrize("together", [True, False])
def test_two_projects_with_one_key_do_not_overwrite_each_other(
    catalog: TrappedCatalog, source: FakeSource, together: bool
) -> None:
    source.sync(catalog)
    store = FakeStore()
    if not together:
        published(source, catalog, store)
    file = source.file("c-1.0.tar.gz", b"c", key="packages/same/c-1.0.tar.gz")
    other = source.file("c-d-1.0.tar.gz", b"d", key="packages/same/c-1.0.tar.gz")
    source.put("c", file)
    if not together:
        source.sync(catalog)
        published(source, catalog, store)
    with catalog.transaction():  # no source gets that far: `sync.vetted` wants a key to end with the file's name
        catalog.content.apply(source.put("c")._replace(files=(file,)), "t")
        catalog.content.apply(source.put("c-d")._replace(files=(other,)), "t")
    report = published(source, catalog, store)
    assert [held.name for held in report.held] == ["c-d"]
    assert "is another project's file" in report.held[0].why
    assert sha256(store.objects["packages/same/c-1.0.tar.gz"]) == file.hashes["sha256"] and not dangling(store)


# files beside the index


def test_a_file_beside_the_index_that_cannot_be_had_is_tried_again(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.put_static("docs/a", b"a")
    source.put_static("docs/b", b"b")
    source.sync(catalog)
    source.unreadable = {"docs/a"}
    store = FakeStore()
    assert published(source, catalog, store).held == (Held("docs/a", "cannot be had"),)
    assert "docs/b" in store.objects and "docs/a" not in store.objects
    store.calls.clear()
    assert published(source, catalog, store).held and store.puts() == []
    source.unreadable = set()
    published(source, catalog, store)
    assert store.objects["docs/a"] == b"a"
    assert published(source, catalog, store) == Report()


def test_a_removed_file_beside_the_index_goes_also_when_everything_is_looked_at(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.put_static("docs/a", b"a")
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    source.static.clear()
    source.sync(catalog)
    rules = RULES._replace(base="https://other.example/")
    assert published(source, catalog, store, rules=rules).doomed == 1
    published(source, catalog, store, GONE, rules=rules)
    assert "docs/a" not in store.objects


def test_a_file_beside_the_index_may_become_a_folder_and_a_folder_a_file(
    catalog: TrappedCatalog, source: FakeSource, tmp_path: Path
) -> None:
    """A folder holds no `x` beside `x/y`; what is in the way goes at once, the rest waits for the caches."""
    store = DirectoryStore(tmp_path / "site")
    for number, keys in enumerate([("docs/a", "docs/b/c/d"), ("docs/a/x/y", "docs/b"), ("docs/a", "docs/b/c")]):
        source.static.clear()
        for key in keys:
            source.put_static(key, b"%d" % number)
        source.sync(catalog)
        Publisher(catalog, store, RULES, source.read, WHO).publish(NOW)
        held = {one.key for one in store.list() if one.key.startswith("docs/")}
        assert held == set(keys)
        assert {key for key in told_of(catalog.path) if key.startswith("docs/")} == set(keys)


def test_a_file_beside_the_index_never_takes_the_place_of_one_of_the_index(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.put("c", source.file("c-1.0.tar.gz", b"c", key="files/c-1.0.tar.gz"))
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    source.put_static("files/c-1.0.tar.gz", b"x")
    source.put_static("files/c-1.0.tar.gz/x", b"x")
    source.sync(catalog)
    assert len(published(source, catalog, store).held) == 2
    assert store.objects["files/c-1.0.tar.gz"] == b"c" and "files/c-1.0.tar.gz/x" not in store.objects


# whose store it is


def test_a_store_of_another_catalog_is_left_alone(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    store = FakeStore()
    store.marked = THEIRS
    with pytest.raises(StoreError, match=r"belongs to another catalog \(f{32}\); name another store, or use"):
        published(source, catalog, store)
    assert store.objects == {} and store.marked == THEIRS


def test_a_store_that_holds_something_is_left_alone(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    store = FakeStore()
    store.objects["photo.jpg"] = b""
    with pytest.raises(StoreError, match=r"is not empty and not ours: it holds photo\.jpg\. Name an empty one"):
        published(source, catalog, store)
    assert store.marked is None and store.puts() == []


def test_a_store_that_lost_its_mark_is_not_filled_by_itself(catalog: TrappedCatalog, source: FakeSource) -> None:
    """A disk that is not mounted looks like an empty folder."""
    source.sync(catalog)
    published(source, catalog, FakeStore())
    source.put("c")
    source.sync(catalog)
    empty = FakeStore()
    with pytest.raises(StoreError, match=r"its mark is missing. Is a disk not mounted\?.*publish --anew"):
        published(source, catalog, empty)
    assert empty.objects == {} and empty.marked is None


def anew(source: FakeSource, catalog: TrappedCatalog, store: FakeStore) -> Report:
    publisher = Publisher(catalog, store, RULES, source.read, WHO)
    publisher.start_anew()
    return publisher.publish(NOW)


def test_a_lost_store_is_filled_anew(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    lost, empty = FakeStore(), FakeStore()
    published(source, catalog, lost)
    assert anew(source, catalog, empty).projects == 2
    assert empty.objects == lost.objects and catalog.identity.encode() in (empty.marked or b"")
    assert published(source, catalog, empty) == Report()


@pytest.mark.parametrize("theirs", ["mark", "object"])
def test_to_begin_anew_in_somebody_else_s_store_forgets_nothing(
    catalog: TrappedCatalog, source: FakeSource, theirs: str
) -> None:
    source.sync(catalog)
    published(source, catalog, FakeStore())
    known = list(catalog.ledger.entries())
    other = FakeStore()
    if theirs == "mark":
        other.marked = THEIRS
    else:
        other.objects["photo.jpg"] = b""
    with pytest.raises(StoreError):
        anew(source, catalog, other)
    assert list(catalog.ledger.entries()) == known and not other.puts()


# waiting for the caches


def test_files_are_deleted_only_when_every_cache_has_forgotten_them(
    catalog: TrappedCatalog, source: FakeSource
) -> None:
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    del source.projects["a"]
    source.sync(catalog)
    report = published(source, catalog, store, LATER)
    assert (report.deletes, report.doomed) == (6, 2)
    files = {"packages/a-1.0-py3-none-any.whl", "packages/a-1.0-py3-none-any.whl.metadata"}
    assert {key for key in store.objects if "/a" in key} == files
    store.calls.clear()
    assert published(source, catalog, store, LATER + site.STALE - 1) == Report() and store.calls == []
    assert published(source, catalog, store, LATER + site.STALE).deletes == 2
    assert {key for what, key in store.calls if what == "delete"} == files
    assert not files & store.objects.keys() and told_of(catalog.path) == store.objects.keys()


def test_the_time_that_is_waited_covers_what_caches_are_allowed() -> None:
    allowed = [int(part.partition("=")[2]) for part in site.PAGE.split(", ")[1:]]
    max_age, shared, while_revalidate, if_error = allowed
    assert max(max_age, shared) + max(while_revalidate, if_error) <= site.STALE


def test_a_file_that_is_wanted_again_before_it_was_deleted_stays(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    project = source.projects.pop("a")
    source.sync(catalog)
    published(source, catalog, store, LATER)
    source.projects["a"] = project
    source.sync(catalog)
    published(source, catalog, store, GONE)
    assert "packages/a-1.0-py3-none-any.whl" in store.objects and not dangling(store)


# everything, and what depends on the configuration


def test_other_rules_put_what_they_change_and_only_that(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    store.calls.clear()
    rules = RULES._replace(base="https://other.example/")
    report = published(source, catalog, store, rules=rules)
    assert store.puts() == ["pypi/a/json", "pypi/a/json.gz", "pypi/b/json", "pypi/b/json.gz"]
    assert report.projects == 2
    assert published(source, catalog, store, rules=rules) == Report()


def test_to_look_at_everything_puts_nothing_where_nothing_differs(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    store.calls.clear()
    assert published(source, catalog, store, everything=True) == Report(generation=2)
    assert store.puts() == [] and store.deletes() == []


def test_an_empty_index_is_a_site_too(catalog: TrappedCatalog, source: FakeSource) -> None:
    source.projects.clear()
    source.sync(catalog)
    store = FakeStore()
    published(source, catalog, store)
    assert store.objects.keys() == {
        "simple/index.html",
        "simple/index.html.gz",
        "simple/index.json",
        "simple/index.json.gz",
        "robots.txt",
    }
    assert published(source, catalog, store) == Report()


# no space left


def test_no_space_left_leaves_a_whole_site_and_the_next_run_mends(tmp_path: Path) -> None:
    story = Story(tmp_path)
    path, undisturbed = story.again(FakeStore().trap)
    story.sync(path)
    story.publish(path, undisturbed)
    calls = len(undisturbed.calls)
    for number in range(2, calls, 5):
        path, store = story.again(FakeStore().trap)
        store.full_at = number
        story.sync(path)
        with pytest.raises(StoreError, match="no space left"):
            story.publish(path, store)
        assert not dangling(store), f"full at {number}"
        store.full_at = None
        story.publish(path, store)
        assert store.objects == undisturbed.objects, f"full at {number}"


def test_a_file_system_that_takes_no_more_leaves_a_whole_site_and_the_next_run_mends(
    catalog: TrappedCatalog, source: FakeSource, tmp_path: Path
) -> None:
    source.sync(catalog)
    store = DirectoryStore(tmp_path / "site")
    publisher = Publisher(catalog, store, RULES, source.read, WHO)
    publisher.publish(NOW)
    before = read(store)
    source.put("a", *source.projects["a"].files, source.file("a-2.0.tar.gz", bytes(9_000_000)))
    source.sync(catalog)
    with no_file_over(8_000_000), pytest.raises(StoreError, match=r"site/packages/a-2\.0\.tar\.gz: is larger than"):
        Publisher(catalog, store, RULES, source.read, WHO).publish(NOW)
    assert read(store) == before
    Publisher(catalog, store, RULES, source.read, WHO).publish(NOW)
    assert {key: len(content) for key, content in read(store).items()}["packages/a-2.0.tar.gz"] == 9_000_000
    assert not dangling(as_fake(store))


def read(store: DirectoryStore) -> dict[str, bytes]:
    return {one.key: (store.root / one.key).read_bytes() for one in store.list()}


def as_fake(store: DirectoryStore) -> FakeStore:
    fake = FakeStore()
    fake.objects = read(store)
    return fake


def test_batches_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(tmp_path)
    contents = []
    for size in (1, 3, 2000):
        monkeypatch.setattr(publish, "BATCH", size)
        path, store = story.again(FakeStore().trap)
        story.sync(path)
        story.publish(path, store)
        story.publish(path, store, GONE)
        contents.append(store.objects)
        assert not dangling(store)
    assert contents[0] == contents[1] == contents[2]


def test_errors_say_what_to_do() -> None:
    text = str(TooManyRemovals("files", 12, 100))
    assert "12 of 100 files" in text and "--allow-removals" in text and "Nothing was changed" in text
    assert "\x1b" not in str(ProjectError("\x1b[31m", "x"))
