"""What the index was at earlier publishes, as the catalog keeps it: backwards, and no longer than it is of use."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import pytest

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Record
from cdn_fallback.mirror.model import File, Project
from tests.mirror.fakes import FakeSource, FakeStore, published
from tests.mirror.test_content import FULL

SOURCE = FakeSource()
NEVER = 1 << 40  # Unix time


def take(catalog: Catalog, project: Project) -> None:
    with catalog.transaction():
        taken = catalog.ledger.taken(file.key for file in project.files if file.key)
        catalog.content.apply(project, "t", taken)


def remove(catalog: Catalog, name: str) -> None:
    with catalog.transaction():
        catalog.content.remove(name)


def note(catalog: Catalog, number: int, at: int | None = None) -> None:
    with catalog.transaction():
        catalog.history.note(number, catalog.content.change, number if at is None else at)


def roll_back(catalog: Catalog, number: int, until: int | None = None) -> None:
    with catalog.transaction():
        catalog.set("rolled_back", number)
        catalog.set("rolled_back_change", catalog.content.change if until is None else until)


def shown(catalog: Catalog) -> dict[str, Record]:
    records = catalog.history.shown(catalog.content.records(catalog.content.ids(-1)))
    return {record.project.name: record for record in records if not record.removed}


def seen(project: Project) -> Project:
    """What readers see of it, but for the serial."""
    files = tuple(file._replace(state="") for file in project.files)
    return project._replace(files=files, state="", rejected=(), serial=None)


def rows(catalog: Catalog, table: str = "former") -> int:
    (count,) = catalog._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def test_before_the_first_publish_nothing_is_kept(catalog: Catalog) -> None:
    take(catalog, FULL)
    take(catalog, FULL._replace(status=None))
    remove(catalog, FULL.name)
    assert rows(catalog) == 0


def test_a_replaced_project_is_one_row_and_an_unchanged_or_a_new_one_is_none(catalog: Catalog) -> None:
    take(catalog, FULL)
    note(catalog, 1)
    take(catalog, FULL._replace(state="other"))
    take(catalog, Project("new", "new"))
    assert rows(catalog) == 0
    take(catalog, FULL._replace(status=None))
    assert rows(catalog) == 1
    remove(catalog, FULL.name)
    assert rows(catalog) == 2


def test_what_a_row_takes_follows_the_change_not_the_project(catalog: Catalog) -> None:
    files = [SOURCE.file(f"big-{number}.tar.gz", b"%d" % number) for number in range(2000)]
    take(catalog, Project("big", "big", tuple(sorted(files[1:]))))
    note(catalog, 1)
    take(catalog, Project("big", "big", tuple(sorted(files))))
    (size,) = catalog._connection.execute("SELECT length(record) FROM former").fetchone()
    assert size < 500


@pytest.mark.parametrize(
    "later",
    [
        FULL._replace(files=()),
        Project(FULL.name, "some-thing"),
        FULL._replace(files=FULL.files[1:], versions=("2.0",)),
        FULL._replace(files=tuple(file._replace(yanked="no") for file in FULL.files)),
        FULL._replace(files=tuple(file._replace(key="", url="https://x.example/") for file in FULL.files)),
        FULL._replace(display="SOME.thing", serial=8, status=None, status_reason=None, meta={}, extra={"a": 1}),
    ],
)
def test_every_field_comes_back(catalog: Catalog, later: Project) -> None:
    """Also through a removal; and what was as little as can be was so, too."""
    take(catalog, FULL)
    note(catalog, 1)
    take(catalog, later)
    note(catalog, 2)
    remove(catalog, FULL.name)
    note(catalog, 3)
    take(catalog, FULL)
    for number, was in ((1, FULL), (2, later)):
        roll_back(catalog, number)
        record = shown(catalog)[FULL.name]
        assert seen(record.project) == seen(was)
        assert pickle.loads(pickle.dumps(record)) == record, "it may be found by another process"
    roll_back(catalog, 3)
    assert not shown(catalog)


def test_where_a_file_came_from_is_kept(catalog: Catalog) -> None:
    """If the store has lost it, its source is asked for it once more."""
    take(catalog, FULL)
    note(catalog, 1)
    remove(catalog, FULL.name)
    roll_back(catalog, 1)
    assert [file.state for file in shown(catalog)[FULL.name].project.files] == ["s", "", ""]


def random_project(chance: random.Random, name: str) -> Project:
    files = []
    for version in "123":
        content = chance.choice([None, b"x", b"y"])
        if content:
            files.append(SOURCE.file(f"{name}-{version}.tar.gz", content, yanked=chance.choice([None, "", "so"])))
    display = chance.choice([name, name.upper()])
    return Project(name, display, tuple(files), status=chance.choice([None, "archived"]))


@pytest.mark.parametrize("seed", range(20))
def test_every_generation_is_what_it_was_whatever_came_later(catalog: Catalog, seed: int) -> None:
    chance = random.Random(seed)
    was: dict[int, dict[str, Project]] = {}
    for number in range(1, 12):
        for _ in range(chance.randrange(1, 5)):
            name = chance.choice("abc")
            if chance.random() < 0.25:
                remove(catalog, name)
            else:
                take(catalog, random_project(chance, name))
        if chance.random() < 0.7:
            note(catalog, number)
            was[number] = {name: seen(record.project) for name, record in shown(catalog).items()}
        if chance.random() < 0.2:
            with catalog.transaction():
                catalog.history.drop(number - 3)
    for one in catalog.history.generations():
        roll_back(catalog, one.number)
        assert {name: seen(record.project) for name, record in shown(catalog).items()} == was[one.number]
    assert catalog.history.generations() and was


def test_a_project_that_came_later_is_not_there_and_one_that_was_removed_is(catalog: Catalog) -> None:
    take(catalog, Project("old", "Old"))
    take(catalog, Project("stays", "stays"))
    note(catalog, 1)
    take(catalog, Project("later", "later"))
    remove(catalog, "old")
    assert shown(catalog).keys() == {"stays", "later"}
    roll_back(catalog, 1)
    assert shown(catalog).keys() == {"stays", "old"}
    records = {one.project.name: one for one in catalog.history.shown(catalog.content.records([1, 2, 3]))}
    assert records["later"].removed and records["stays"].narrowed == 0
    assert records["old"].narrowed == 4, "what differs is told to caches"


# serials


def test_a_serial_is_the_one_that_was_shown_last(catalog: Catalog) -> None:
    take(catalog, Project("a", "a"))
    note(catalog, 1)
    take(catalog, Project("a", "A"))
    take(catalog, Project("a", "a", status="archived"))
    roll_back(catalog, 1)
    take(catalog, Project("a", "A"))
    take(catalog, Project("a", "a", status="archived"))
    record = shown(catalog)["a"]
    assert record.serial == 3, "what came after was never shown, and readers refuse what is lower"
    assert record.project.status is None


def test_a_serial_of_the_source_is_never_lower_either(catalog: Catalog) -> None:
    for serial in (70, 80):
        take(catalog, Project("a", "a", serial=serial))
        note(catalog, serial)
    roll_back(catalog, 70)
    take(catalog, Project("a", "a", serial=90))
    assert shown(catalog)["a"].serial == 80


def test_what_comes_back_shows_the_serial_that_it_had(catalog: Catalog) -> None:
    take(catalog, Project("a", "a"))
    take(catalog, Project("b", "b", serial=7))
    note(catalog, 1)
    remove(catalog, "a")
    remove(catalog, "b")
    roll_back(catalog, 1)
    assert {name: record.serial for name, record in shown(catalog).items()} == {"a": 1, "b": 7}


# generations


def test_a_generation_is_told_with_its_time_and_size_the_last_one_first(catalog: Catalog) -> None:
    source, store = FakeSource(), FakeStore()
    for number in (1, 2):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz"))
        source.sync(catalog)
        published(source, catalog, store, 100 * number)
    assert [tuple(one) for one in catalog.history.generations()] == [(2, 2, 200, 2, True), (1, 1, 100, 1, False)]


def test_a_publish_that_shows_the_same_is_no_generation_of_its_own(catalog: Catalog) -> None:
    take(catalog, Project("a", "a"))
    note(catalog, 1)
    note(catalog, 2)
    assert [one.number for one in catalog.history.generations()] == [1]


def three(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        take(catalog, Project("a", "a", extra={"number": number}))
        note(catalog, number, at=number * 100)


def test_a_generation_is_kept_by_the_time_of_the_one_that_followed(catalog: Catalog) -> None:
    """Or what was shown for a month could not be rolled back to when it is wanted: right after a bad publish."""
    three(catalog)
    assert rows(catalog) == 2
    assert not catalog.history.outlived(199) and catalog.history.outlived(200)
    with catalog.transaction():
        catalog.history.drop(200)
    assert [one.number for one in catalog.history.generations()] == [3, 2]
    assert rows(catalog) == 1, "only what the second needs"


def test_the_last_generation_stays_however_old(catalog: Catalog) -> None:
    three(catalog)
    with catalog.transaction():
        catalog.history.end(400)
        catalog.history.drop(NEVER)
    assert [one.number for one in catalog.history.generations()] == [3]
    assert rows(catalog) == 0
    assert not catalog.history.outlived(NEVER)


def test_the_generation_that_is_rolled_back_to_stays(catalog: Catalog) -> None:
    three(catalog)
    roll_back(catalog, 1)
    with catalog.transaction():
        catalog.history.drop(NEVER)
    assert [one.number for one in catalog.history.generations()] == [3, 1]
    assert shown(catalog)["a"].project.extra == {"number": 1}


def test_a_generation_ends_when_its_files_are_doomed_though_that_publish_was_killed(catalog: Catalog) -> None:
    three(catalog)
    with catalog.transaction():
        catalog.history.end(350)
    take(catalog, Project("a", "a", extra={"number": 4}))
    note(catalog, 4, at=1000)
    with catalog.transaction():
        catalog.history.drop(350)
    assert [one.number for one in catalog.history.generations()] == [4]


def test_it_ends_not_if_the_same_is_shown_again(catalog: Catalog) -> None:
    three(catalog)
    with catalog.transaction():
        catalog.history.end(350)
    note(catalog, 4, at=400)
    take(catalog, Project("a", "a", extra={"number": 4}))
    note(catalog, 5, at=1000)
    with catalog.transaction():
        catalog.history.drop(999)
    assert [one.number for one in catalog.history.generations()] == [5, 3]


# what a rollback takes away


def settled(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.ledger.settle([(one.id, one.serial) for one in shown(catalog).values()])


Change = Callable[[Catalog], None]


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda catalog: take(catalog, Project("later", "later")), 1),
        (lambda catalog: take(catalog, Project("a", "A")), 0),
        (lambda catalog: take(catalog, Project("gone", "gone")), 1),
    ],
)
def test_what_loses_its_page_to_a_rollback_is_counted(catalog: Catalog, change: Change, lost: int) -> None:
    for name in ("a", "gone"):
        take(catalog, Project(name, name))
    remove(catalog, "gone")
    note(catalog, 1)
    change(catalog)
    settled(catalog)
    roll_back(catalog, 1)
    target = catalog.history.target()
    assert target and catalog.history.losing(target, 0) == (lost, 1 + lost)


def test_what_loses_its_page_to_a_later_generation_is_counted(catalog: Catalog) -> None:
    """From one that is rolled back to on to another one, in which a project is gone."""
    take(catalog, Project("a", "a"))
    note(catalog, 1)
    settled(catalog)
    remove(catalog, "a")
    note(catalog, 2)
    take(catalog, Project("b", "b"))
    roll_back(catalog, 2)
    target = catalog.history.target()
    assert target and catalog.history.losing(target, 1) == (1, 1)


def test_names_are_written_as_they_were(catalog: Catalog) -> None:
    take(catalog, Project("a-b", "A.b"))
    take(catalog, Project("same", "same"))
    note(catalog, 1)
    take(catalog, Project("a-b", "a-b"))
    take(catalog, Project("same", "same", status="archived"))
    take(catalog, Project("a-b", "a_b"))
    roll_back(catalog, 1)
    target = catalog.history.target()
    assert target and catalog.history.displays(target) == {"a-b": "A.b"}


def test_a_file_that_moved_is_where_it_was(catalog: Catalog) -> None:
    first, other = (SOURCE.file("a-1.0.tar.gz", content) for content in (b"1", b"2"))
    files: list[tuple[File, ...]] = [(first,), (), (other,)]
    for number, some in enumerate(files, 1):
        take(catalog, Project("a", "a", some))
        note(catalog, number)
    assert shown(catalog)["a"].project.files[0].moved
    roll_back(catalog, 1)
    assert shown(catalog)["a"].project.files == (first,)
