"""An earlier generation's pages, published once more: whole at every step, and no sync undoes it."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror import names, site
from cdn_fallback.mirror.due import TooManyRemovals
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.rollback import NotKept, forward, generations, rollback, rolled_back, unless_refused
from cdn_fallback.mirror.stores import Body, Put, StoreError
from tests.mirror.fakes import NOW, RULES, WHO, FakeSource, FakeStore, Killed, Trap, TrappedCatalog, published
from tests.mirror.reader import dangling
from tests.mirror.story import METADATA, Watched, after, before, before_that, then, told_of

HOUR = 3600.0
PAST = NOW + 10 * HOUR + site.STALE  # when every cache has forgotten what the story's publishes took away
LONG = 2 * site.STALE


def told(objects: dict[str, bytes]) -> dict[str, Any]:
    """What readers see, but for serials and what they are shown in: the list, pages, files' bytes."""
    found: dict[str, Any] = {}
    for key, content in objects.items():
        if key == "simple/index.json":
            found[key] = [one["name"] for one in json.loads(content)["projects"]]
        elif key.startswith("simple/") and key.endswith("/index.json"):
            found[key] = json.loads(content)
            found[key].pop("meta")
        elif key.startswith("simple/") and key.endswith("/index.html"):
            found[key] = content.partition(b"<!--SERIAL")[0]
    return found


def serials(objects: dict[str, bytes]) -> dict[str, int]:
    """What the pages show, and the list."""
    pages = [key for key in objects if key.startswith("simple/") and "index.json" in key]
    return {key: serial(key.endswith(".gz"), objects[key]) for key in pages}


@lru_cache(maxsize=4096)
def serial(zipped: bool, content: bytes) -> int:
    page = json.loads(gzip.decompress(content) if zipped else content)
    return int(page["meta"]["_last-serial"])


class Serials(Watched):
    """One that also sees whether a page ever shows a lower serial."""

    def __init__(self, store: FakeStore, trap: Trap | None = None) -> None:
        super().__init__(store, trap)
        self.highest: dict[str, int] = {}

    def __call__(self) -> None:
        for key, number in serials(self._store.objects).items():
            if number < self.highest.get(key, 0):
                self.seen.append(f"{key}: {number} after {self.highest[key]}")
            self.highest[key] = number
        super().__call__()


class Past:
    """Four generations of the story, and of each what the store held."""

    def __init__(self, folder: Path) -> None:
        self.source = FakeSource()
        self.store = FakeStore()
        self._folder = folder
        self._number = 0
        self._first = folder / "first.sqlite"
        self.was: dict[int, dict[str, bytes]] = {}
        with closing(TrappedCatalog.trapped(self._first)) as catalog:
            for number, change in enumerate((before_that, before, after, then), 1):
                change(self.source)
                self.source.sync(catalog, NOW + number * HOUR)
                published(self.source, catalog, self.store, NOW + number * HOUR)
                self.was[number] = dict(self.store.objects)
        assert list(self.was) == [1, 2, 3, 4]

    def again(self, trap: Trap | None = None, path: Path | None = None) -> tuple[Path, FakeStore]:
        self._number += 1
        copy = self._folder / f"{self._number}.sqlite"
        shutil.copy(path or self._first, copy)
        return copy, self.store.copy(trap or Trap())

    def publish(self, path: Path, store: FakeStore, now: float = NOW + 5 * HOUR, trap: Trap | None = None) -> Report:
        with closing(TrappedCatalog.trapped(path, trap)) as catalog:
            return published(self.source, catalog, store, now)

    def turn(self, path: Path, number: int | None, trap: Trap | None = None) -> None:
        """Back to `number`; None: forward."""
        with closing(TrappedCatalog.trapped(path, trap)) as catalog:
            forward(catalog) if number is None else rollback(catalog, number)

    def last(self) -> FakeStore:
        """What the store holds in the end, if nothing is ever rolled back."""
        path, store = self.again()
        self.publish(path, store, PAST)
        return store


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("past"))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_rollback_shows_what_was_and_forward_what_is(past: Past, number: int) -> None:
    path, store = past.again()
    watched = Serials(store)
    past.turn(path, number)
    past.publish(path, store, trap=watched)
    assert told(store.objects) == told(past.was[number])
    past.turn(path, None)
    past.publish(path, store, NOW + 6 * HOUR, watched)
    assert told(store.objects) == told(past.was[4])
    past.publish(path, store, PAST, watched)
    assert store.objects == past.last().objects and told_of(path) == store.objects.keys()
    assert not watched.seen


def test_from_one_generation_to_another_and_back(past: Past) -> None:
    path, store = past.again()
    watched = Serials(store)
    for number in (3, 1, 2, 4, 1, 3):
        past.turn(path, number)
        past.publish(path, store, trap=watched)
        assert told(store.objects) == told(past.was[number])
    past.turn(path, None)
    past.publish(path, store)
    past.publish(path, store, PAST)
    assert store.objects == past.last().objects and not watched.seen


def test_a_rolled_back_publish_is_a_generation_like_the_one_that_it_shows(past: Past) -> None:
    path, store = past.again()
    past.turn(path, 2)
    assert past.publish(path, store).generation == 5
    past.turn(path, None)
    assert past.publish(path, store).generation == 6
    with closing(TrappedCatalog.trapped(path)) as catalog:
        kept = {one.number: one for one in generations(catalog)}
    assert list(kept) == [6, 5, 4, 3, 2, 1] and kept[6].current
    assert kept[5].change == kept[2].change and kept[6].change == kept[4].change
    past.turn(path, 5)
    past.publish(path, store)
    assert told(store.objects) == told(past.was[2])


# whole at every step


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_dangles_wherever_a_rollback_is_killed(past: Past, number: int) -> None:
    calm = Trap()
    path, undisturbed = past.again(calm)
    past.turn(path, number, calm)
    past.publish(path, undisturbed, trap=calm)
    back = dict(undisturbed.objects)
    last = past.last().objects
    assert calm.steps > 80
    for step in range(1, calm.steps + 1, 3):
        trap = Trap(step)
        path, store = past.again(trap)
        with pytest.raises(Killed):
            past.turn(path, number, trap)
            past.publish(path, store, trap=trap)
        assert not dangling(store), f"killed at {step}"
        trap.at = None
        copy, other = past.again(path=path)
        other = store.copy(Trap())
        past.turn(path, number)
        watched = Serials(store)
        past.publish(path, store, trap=watched)
        assert store.objects == back and not watched.seen, f"killed at {step}"
        past.turn(copy, None)  # and if one would rather not
        watched = Serials(other)
        past.publish(copy, other, trap=watched)
        past.publish(copy, other, PAST, trap=watched)
        assert other.objects == last and not watched.seen, f"killed at {step}"
        assert told_of(copy) == other.objects.keys()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_dangles_wherever_going_forward_is_killed(past: Past, number: int) -> None:
    path, shown = past.again()
    past.turn(path, number)
    past.publish(path, shown)
    back, last = told(shown.objects), past.last().objects
    for step in itertools.count(1, 3):
        trap = Trap(step)
        copy, _ = past.again(path=path)
        store = shown.copy(trap)
        try:
            past.turn(copy, None, trap)
            past.publish(copy, store, trap=trap)
        except Killed:
            pass
        else:
            assert step > 80
            break
        assert not dangling(store), f"killed at {step}"
        trap.at = None
        again, _ = past.again(path=copy)
        other = store.copy(Trap())
        past.turn(copy, None)
        watched = Serials(store)
        past.publish(copy, store, trap=watched)
        past.publish(copy, store, PAST, trap=watched)
        assert store.objects == last and not watched.seen, f"killed at {step}"
        past.turn(again, number)  # and if it was wrong to go forward
        watched = Serials(other)
        past.publish(again, other, trap=watched)
        assert told(other.objects) == back and not watched.seen, f"killed at {step}"


def test_nothing_dangles_when_a_killed_publish_is_rolled_back(past: Past) -> None:
    """Whatever it had put was seen: also its serials."""
    source = FakeSource()
    before(source)
    after(source)
    source.blobs.update(past.source.blobs)
    synced, _ = past.again()
    with closing(TrappedCatalog.trapped(synced)) as catalog:
        source.sync(catalog, NOW + 5 * HOUR)
    for step in itertools.count(1, 3):
        path, store = past.again(path=synced)
        watched = Serials(store, Trap(step))
        with closing(TrappedCatalog.trapped(path, watched)) as catalog:
            try:
                published(source, catalog, store, NOW + 5 * HOUR)
            except Killed:
                pass
            else:
                assert step > 80
                break
            watched.trap = Trap()
            rollback(catalog, 3)
            published(source, catalog, store, NOW + 5 * HOUR)
            assert told(store.objects) == told(past.was[3]) and not watched.seen, f"killed at {step}"
            forward(catalog)
            published(source, catalog, store, NOW + 6 * HOUR)
            published(source, catalog, store, PAST)
            assert not watched.seen and told_of(path) == store.objects.keys(), f"killed at {step}"


class Chance:
    """A small index that changes, is rolled back and goes forward, in an order that its seed decides."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.source, self.store = FakeSource(), FakeStore()
        self.watched = Serials(self.store)
        self.path = path
        self.now = NOW
        self.was: dict[int, dict[str, Any]] = {}
        self.checked = 0

    def change(self) -> None:
        source, choice = self.source, self.random.choice
        name = choice(["a.b", "c", "d"])
        if self.random.random() < 0.25:
            source.projects.pop(names.normalised(name), None)
            return
        files = []
        for version in ("1.0", "2.0"):
            content = choice([None, b"x", b"y"])
            if content:
                metadata = choice([None, METADATA + content])
                filename = f"{name.replace('.', '_')}-{version}-py3-none-any.whl"
                files.append(source.file(filename, content, metadata=metadata, yanked=choice([None, ""])))
        source.put(choice([name, name.upper()]), *files, status=choice([None, None, "quarantined"]))
        source.static.clear()
        if self.random.random() < 0.5:
            source.put_static(choice(["docs/a", "docs/a/b"]), choice([b"1", b"2"]))

    def live(self) -> None:
        chance = self.random.random
        with closing(TrappedCatalog.trapped(self.path)) as catalog:
            for _ in range(self.random.randrange(4)):
                self.change()
            self.source.sync(catalog, self.now)
            kept = generations(catalog)
            if kept and chance() < 0.5:
                forward(catalog) if chance() < 0.3 else rollback(catalog, self.random.choice(kept).number)
        self.now += self.random.choice([60, 60, HOUR, LONG])
        self.publish(Trap(self.random.randrange(1, 120) if chance() < 0.5 else None))

    def publish(self, trap: Trap) -> None:
        self.watched.trap = trap
        with closing(TrappedCatalog.trapped(self.path, trap)) as catalog, suppress(Killed):
            report = published(self.source, catalog, self.store, self.now)
            assert not report.held
            last = next((one for one in generations(catalog)), None)
            if last:
                seen = told(self.store.objects)
                assert self.was.setdefault(last.change, seen) == seen
                self.checked += 1
        assert not self.watched.seen


@pytest.mark.parametrize("seeds", [range(0, 20), range(20, 40)])
def test_nothing_dangles_whatever_is_rolled_back(tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        chance = Chance(seed, tmp_path / f"{seed}.sqlite")
        for _ in range(12):
            chance.live()
        with closing(TrappedCatalog.trapped(chance.path)) as catalog:
            forward(catalog)
        for _ in range(2):
            chance.publish(Trap())
            chance.now += LONG
        store = chance.store
        assert told_of(chance.path) == store.objects.keys(), f"nothing is forgotten in the store, seed {seed}"
        files = {key: digests for key, digests in store.ever.items() if key.startswith("packages/")}
        assert not [key for key, digests in files.items() if len(digests) > 1], f"seed {seed}"
        with closing(TrappedCatalog.trapped(chance.path)) as catalog:
            fresh = FakeStore()
            publisher = Publisher(catalog, fresh, RULES, chance.source.read, WHO)
            publisher.start_anew()
            publisher.publish(chance.now)
        assert store.objects == fresh.objects, f"the store is what one without a history would be, seed {seed}"
        assert chance.checked > 2


# cost follows change


def many(catalog: TrappedCatalog, source: FakeSource, store: FakeStore, count: int = 30) -> None:
    for number in range(count):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b"%d" % number))
    source.put_static("docs/a", b"1")
    source.put_static("docs/b", b"1")
    source.sync(catalog)
    published(source, catalog, store)
    source.put("p7", source.file("p7-1.0.tar.gz", b"7"), source.file("p7-2.0.tar.gz", b"bad"))
    source.sync(catalog, NOW + HOUR)
    published(source, catalog, store, NOW + HOUR)
    store.calls.clear()


PAGES = [key + twin for key in ("simple/p7/index.html", "simple/p7/index.json", "pypi/p7/json") for twin in ("", ".gz")]


def test_a_rollback_puts_only_what_differs_and_caches_are_told(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    rollback(catalog, 1)
    report = published(source, catalog, store, NOW + 2 * HOUR)
    assert store.puts() == PAGES and store.deletes() == [], "the list shows the serial that it had"
    assert (report.projects, report.doomed, report.invalidations) == (1, 1, ("/simple/p7/*", "/pypi/p7/*"))
    store.calls.clear()
    forward(catalog)
    report = published(source, catalog, store, NOW + 3 * HOUR)
    assert store.puts() == PAGES and "packages/p7-2.0.tar.gz" in store.objects
    assert report.projects == 1


def test_rolled_back_nothing_is_published_until_one_goes_forward(catalog: TrappedCatalog) -> None:
    """`run` from cron syncs and publishes: it undoes no rollback."""
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    rollback(catalog, 1)
    published(source, catalog, store, NOW + 2 * HOUR)
    store.calls.clear()
    whole = dict(store.objects)
    for hour in (3, 4):
        source.put("p7", source.file("p7-3.0.tar.gz", b"%d" % hour))
        source.put("new", source.file("new-1.0.tar.gz", b"%d" % hour))
        del source.projects[f"p{hour}"]
        source.put_static("docs/a", b"%d" % hour)
        source.static.pop("docs/b", None)
        source.sync(catalog, NOW + hour * HOUR)
        assert published(source, catalog, store, NOW + hour * HOUR) == Report()
    assert store.calls == []
    published(source, catalog, store, NOW + 4 * HOUR, everything=True)
    assert store.puts() == [*LISTS, "last-modified"] and told(store.objects) == told(whole), "but for the list's serial"
    assert store.objects["docs/a"] == b"1" and "docs/b" in told_of(catalog.path) - doomed(catalog)
    assert rolled_back(catalog) == 1
    forward(catalog)
    published(source, catalog, store, NOW + 5 * HOUR)
    assert "simple/new/index.html" in store.objects and store.objects["docs/a"] == b"4"
    assert "simple/p3/index.html" not in store.objects and "docs/b" in doomed(catalog)


def doomed(catalog: TrappedCatalog) -> set[str]:
    return set(catalog.ledger.doomed(1 << 40))


LISTS = [f"simple/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")]


def test_cost_follows_change_of_a_rollback_in_the_catalog_too(catalog: TrappedCatalog) -> None:
    """No statement walks a whole table but the projects', of which the list has all."""
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    statements: set[str] = set()
    catalog._connection.set_trace_callback(statements.add)
    rollback(catalog, 1)
    published(source, catalog, store, NOW + 2 * HOUR)
    forward(catalog)
    published(source, catalog, store, NOW + LONG)
    published(source, catalog, store, NOW + 2 * LONG)
    catalog._connection.set_trace_callback(None)
    assert len(statements) > 30
    for statement in statements:
        if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) or "FROM generation ORDER" in statement:
            continue
        plan = [row[3] for row in catalog._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        walked = {step.split()[1] for step in plan if step.startswith("SCAN")}
        assert walked <= {"project", "gone", "pending"}, statement


def test_only_what_has_changed_since_is_looked_at(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    looked: list[int] = []

    def progress(what: str, done: int, of: int) -> None:
        if what == "projects":
            looked.append(of)

    publisher = Publisher(catalog, store, RULES, source.read, WHO, progress=progress)
    rollback(catalog, 1)
    publisher.publish(NOW)
    forward(catalog)
    publisher.publish(NOW)
    assert looked == [1, 1]


def test_rolled_back_only_what_was_held_back_is_looked_at(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    rollback(catalog, 1)
    published(source, catalog, store, NOW + 2 * HOUR)
    with catalog.transaction():
        catalog.ledger.hold([1])
    looked: list[int] = []
    Publisher(catalog, store, RULES, source.read, WHO, progress=lambda what, done, of: looked.append(of)).publish(NOW)
    assert looked == [1]


# what is kept


def test_files_are_kept_as_long_as_their_generation(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    source.put("p7", source.file("p7-3.0.tar.gz", b"3"))
    source.sync(catalog, NOW + 2 * HOUR)
    published(source, catalog, store, NOW + 2 * HOUR)
    source.put("p8", source.file("p8-3.0.tar.gz", b"3"))
    source.sync(catalog, NOW + 2 * HOUR + site.STALE - 1)
    published(source, catalog, store, NOW + 2 * HOUR + site.STALE - 1)
    assert [one.number for one in generations(catalog)] == [4, 3, 2], "the first was followed by the second long ago"
    source.blobs.clear()
    rollback(catalog, 2)
    assert not published(source, catalog, store, NOW + 2 * HOUR + site.STALE).held
    assert "packages/p7-2.0.tar.gz" in store.objects and not dangling(store)


def test_a_generation_whose_files_are_deleted_is_gone_and_what_there_is_is_told(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    source.put("p7", source.file("p7-3.0.tar.gz", b"3"))
    source.sync(catalog, NOW + 2 * HOUR)
    published(source, catalog, store, NOW + 2 * HOUR)
    published(source, catalog, store, NOW + 2 * HOUR + site.STALE)
    assert "packages/p7-2.0.tar.gz" not in store.objects
    for number in (1, 2, 99):
        with pytest.raises(NotKept, match=rf"^generation {number}: is not kept; there are 3 \(2023-11-15T00:13:20Z\)$"):
            rollback(catalog, number)
    assert rolled_back(catalog) is None


class Failing(FakeStore):
    """Cannot take some objects."""

    forbidden = "none"

    def put(self, key: str, body: bytes | Body, headers: site.Headers, digest: bytes) -> Put:
        if key.startswith(self.forbidden):
            raise StoreError(key, "no space left")
        return super().put(key, body, headers, digest)


def test_a_generation_is_gone_with_what_a_failed_publish_has_doomed(catalog: TrappedCatalog) -> None:
    """Its files are counted from then, not from when the next publish came to its end."""
    source, store = FakeSource(), Failing()
    many(catalog, source, store)
    source.put("p7", source.file("p7-3.0.tar.gz", b"3"))
    source.sync(catalog, NOW + 2 * HOUR)
    store.forbidden = "simple/index."
    with pytest.raises(StoreError):
        published(source, catalog, store, NOW + 2 * HOUR)
    assert "packages/p7-2.0.tar.gz" in doomed(catalog)
    store.forbidden = "none"
    published(source, catalog, store, NOW + 20 * HOUR)
    assert [one.number for one in generations(catalog)] == [3, 2, 1]
    published(source, catalog, store, NOW + 2 * HOUR + site.STALE)
    assert "packages/p7-2.0.tar.gz" not in store.objects
    assert [one.number for one in generations(catalog)] == [3]


def test_of_what_was_never_published_nothing_is_kept(catalog: TrappedCatalog) -> None:
    with pytest.raises(NotKept, match="nothing was published yet"):
        rollback(catalog, 1)
    assert not forward(catalog)


def test_one_may_stay_rolled_back_for_long(catalog: TrappedCatalog) -> None:
    """What came after it is deleted then, and put again when one goes forward."""
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    rollback(catalog, 1)
    published(source, catalog, store, NOW + 2 * HOUR)
    shown = told(store.objects)
    published(source, catalog, store, NOW + LONG)
    assert "packages/p7-2.0.tar.gz" not in store.objects
    published(source, catalog, store, NOW + 2 * LONG, everything=True)
    assert told(store.objects) == shown and rolled_back(catalog) == 1
    assert [one.number for one in generations(catalog)] == [3, 1], "it stays, and so does the last"
    forward(catalog)
    published(source, catalog, store, NOW + 3 * LONG)
    assert "packages/p7-2.0.tar.gz" in store.objects and not dangling(store)


def test_a_project_whose_file_is_lost_is_held_back_and_tried_again(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    source.put("a", source.file("a-1.0.tar.gz", b"1"))
    source.sync(catalog)
    source.unreadable = {"a-1.0.tar.gz"}
    published(source, catalog, store)
    source.put("a", source.file("a-2.0.tar.gz", b"2"))
    source.sync(catalog)
    published(source, catalog, store, NOW + HOUR)
    rollback(catalog, 1)
    watched = Watched(store)
    report = published(source, catalog, store, NOW + 2 * HOUR)
    assert [one.name for one in report.held] == ["a"] and "packages/a-2.0.tar.gz" in store.objects
    assert published(source, catalog, store, NOW + 3 * HOUR).held
    source.unreadable = set()
    assert published(source, catalog, store, NOW + 4 * HOUR).projects == 1
    assert "packages/a-1.0.tar.gz" in store.objects
    assert published(source, catalog, store, NOW + 5 * HOUR) == Report()
    assert not watched.seen


def test_a_store_that_has_lost_everything_is_filled_with_what_is_shown(past: Past) -> None:
    path, store = past.again()
    past.turn(path, 3)
    past.publish(path, store)
    with closing(TrappedCatalog.trapped(path)) as catalog:
        past.source.sync(catalog, NOW + 6 * HOUR)
        empty = FakeStore()
        publisher = Publisher(catalog, empty, RULES, past.source.read, WHO)
        publisher.start_anew()
        assert not publisher.publish(NOW + 7 * HOUR).held
        assert {one.number for one in generations(catalog)} == {3, 5}, "of the others files may be lost"
    assert told(empty.objects) == told(past.was[3])
    assert {key for key in empty.objects if key.startswith("docs/")} == {
        key for key in store.objects if key.startswith("docs/") and "gone" not in key and key in told_of(path)
    }


def test_a_file_never_gets_other_bytes_also_where_the_store_and_the_ledger_forgot_the_first(
    catalog: TrappedCatalog,
) -> None:
    source, store = FakeSource(), FakeStore()
    source.put("a", source.file("a-1.0.tar.gz", b"1"))
    source.sync(catalog)
    published(source, catalog, FakeStore())
    Publisher(catalog, store, RULES, source.read, WHO).start_anew()
    source.put("a", source.file("a-1.0.tar.gz", b"2"))
    source.sync(catalog)
    published(source, catalog, store, NOW + HOUR)
    rollback(catalog, 1)
    (held,) = published(source, catalog, store, NOW + 2 * HOUR).held
    assert held.why == "packages/a-1.0.tar.gz: has other bytes in the store, and caches keep those; go forward again"
    assert store.objects["packages/a-1.0.tar.gz"] == b"2" and not dangling(store)


# 6


def test_removing_is_guarded_also_in_a_rollback_and_back(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    for number in range(30, 50):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b"%d" % number))
    source.sync(catalog)
    published(source, catalog, store, NOW + 2 * HOUR)
    store.calls.clear()
    rollback(catalog, 2)
    for _ in range(2):
        with pytest.raises(TooManyRemovals, match="would remove 20 of 50 projects"):
            published(source, catalog, store, NOW + 3 * HOUR)
    assert store.calls == []
    published(source, catalog, store, NOW + 3 * HOUR, allow_removals=True)
    assert "simple/p40/index.html" not in store.objects and not dangling(store)
    for number in range(20):
        del source.projects[f"p{number}"]
    source.sync(catalog)
    forward(catalog)
    with pytest.raises(TooManyRemovals, match="would remove 20 of 30 projects"):
        published(source, catalog, store, NOW + 4 * HOUR)
    published(source, catalog, store, NOW + 4 * HOUR, allow_removals=True)
    assert not dangling(store)


def test_a_rollback_that_is_refused_leaves_all_as_it_was(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    for number in range(30, 50):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b"%d" % number))
    source.sync(catalog)
    published(source, catalog, store, NOW + 2 * HOUR)
    store.calls.clear()
    for shown in (None, 3):
        if shown:
            rollback(catalog, shown)
            published(source, catalog, store, NOW + 3 * HOUR)
            store.calls.clear()
        with pytest.raises(TooManyRemovals), unless_refused(catalog):
            rollback(catalog, 2)
            published(source, catalog, store, NOW + 4 * HOUR)
        assert rolled_back(catalog) == shown
        assert published(source, catalog, store, NOW + 4 * HOUR) == Report() and store.calls == []
    with suppress(NotKept), unless_refused(catalog):
        rollback(catalog, 1)
        rollback(catalog, 99)
    assert rolled_back(catalog) == 1


def test_what_a_rollback_would_do_is_planned(past: Past) -> None:
    path, store = past.again()
    past.turn(path, 2)
    with closing(TrappedCatalog.read(path)) as catalog:
        before = dict(store.objects)
        report = Publisher(catalog, store, RULES, past.source.read, WHO).plan(NOW + 5 * HOUR)
    assert store.objects == before
    done = past.publish(path, store)
    assert done.deletes > 0 and done.doomed > 0
    assert report._replace(bytes=0) == done._replace(bytes=0)


Turn = Callable[[TrappedCatalog], object]


@pytest.mark.parametrize("turn", [lambda catalog: rollback(catalog, 1), forward])
def test_turning_where_one_is_already_is_no_work(catalog: TrappedCatalog, turn: Turn) -> None:
    source, store = FakeSource(), FakeStore()
    many(catalog, source, store)
    turn(catalog)
    published(source, catalog, store, NOW + 2 * HOUR)
    store.calls.clear()
    turn(catalog)
    assert published(source, catalog, store, NOW + 3 * HOUR) == Report() and store.calls == []
