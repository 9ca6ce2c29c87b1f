"""What sources said, as the catalog keeps it: change numbers, tombstones, keys that never get other bytes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Applied, Static
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.model import File, Project, Rejection
from tests.mirror.fakes import FakeSource

SOURCE = FakeSource()
FULL = Project(
    "some-thing",
    "Some.Thing",
    (
        SOURCE.file("some_thing-1.0-py3-none-any.whl", b"w", metadata=b"m", state="s", version="1.0"),
        SOURCE.file(
            "some_thing-2.0.tar.gz",
            b"x",
            version="2.0",
            upload_time="2024-01-31T12:00:00.000000Z",
            requires_python=">=3.8",
            yanked="",
            provenance="https://index.example/p",
            extra={"new": [1, None, {"é": True}]},
            hashes={"sha256": "a" * 64, "md5": "b" * 32},
        ),
        SOURCE.file(
            "some_thing-3.0.tar.gz", key="", url="https://files.example/x", hashes={}, size=None, core_metadata={}
        ),
    ),
    ("1.0", "2.0", "not-pep440"),
    7,
    "archived",
    "it's done",
    {"tracks": ["https://index.example/"]},
    {"unknown": 1.5},
    "etag",
)


def apply(catalog: Catalog, project: Project, token: str = "t") -> Applied:
    with catalog.transaction():
        taken = catalog.ledger.taken(file.key for file in project.files if file.key)
        return catalog.content.apply(project, token, taken)


def publish(catalog: Catalog, name: str) -> None:
    """As far as the ledger is concerned."""
    project = catalog.content.project(name)
    assert project
    with catalog.transaction():
        entries = [Entry(f.object_key, bytes.fromhex(f.hashes["sha256"]), 1, "{}") for f in project.files]
        catalog.ledger.put(1, entries)


def keys(catalog: Catalog, name: str) -> list[str]:
    project = catalog.content.project(name)
    assert project
    return [file.object_key for file in project.files]


def test_a_project_comes_back_as_it_went_in(catalog: Catalog) -> None:
    assert apply(catalog, FULL) == Applied(1, 3, 0, 0)
    assert catalog.content.project("some-thing") == FULL
    assert catalog.content.tokens() == {"some-thing": "t"}
    assert catalog.content.count() == (1, 3)


def test_to_apply_the_same_again_changes_nothing(catalog: Catalog) -> None:
    apply(catalog, FULL)
    before = catalog.content.change
    for token in ("t", "other"):
        assert apply(catalog, FULL, token) == Applied()
    assert catalog.content.change == before == 1
    assert catalog.content.tokens() == {"some-thing": "other"}


def by_name(files: list[File]) -> tuple[File, ...]:
    return tuple(sorted(files, key=lambda file: file.filename))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_whatever_a_project_says_applying_it_twice_is_one_change(data: st.DataObject) -> None:
    text = st.none() | st.text(max_size=5)
    values = st.dictionaries(
        st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.text(max_size=3), max_size=2
    )
    hashes = st.sampled_from([{"sha256": "ab" * 32}, {"sha256": "cd" * 32, "md5": "0" * 32}, {"md5": "0" * 32}, {}])
    file = st.builds(
        File, filename=st.text(max_size=5), version=st.text(max_size=3), key=st.just(""), url=st.text(max_size=5),
        hashes=hashes, size=st.none() | st.integers(0, 2**62), upload_time=text, requires_python=text, yanked=text,
        core_metadata=st.none() | hashes, provenance=text, extra=values,
        state=st.text(max_size=3), moved=st.just(False),
    )  # fmt: skip
    files = data.draw(st.lists(file, max_size=3, unique_by=lambda file: file.filename).map(by_name))
    project = data.draw(
        st.builds(
            Project, name=st.just("a"), display=st.just("A"), files=st.just(files),
            versions=st.just(()), serial=st.none() | st.integers(0, 9), status=text, status_reason=text, meta=values,
            extra=values, state=st.text(max_size=3), rejected=st.just(()),
        )
    )  # fmt: skip
    with closing(Catalog.open(Path(":memory:"))) as catalog:
        assert apply(catalog, project).project == 1
        assert catalog.content.project("a") == project
        assert apply(catalog, project) == Applied()


def test_what_only_the_source_remembers_is_kept_and_is_no_change(catalog: Catalog) -> None:
    apply(catalog, FULL)
    files = tuple(file._replace(state=f"{file.state}!") for file in FULL.files)
    again = FULL._replace(files=files, state="other")
    assert apply(catalog, again) == Applied()
    assert catalog.content.change == 1 and catalog.content.project("some-thing") == again


@pytest.mark.parametrize(
    "project",
    [
        FULL._replace(display="some_thing"),
        FULL._replace(serial=8),
        FULL._replace(status=None, status_reason=None),
        FULL._replace(status_reason="other"),
        FULL._replace(versions=("1.0",)),
        FULL._replace(meta={}),
        FULL._replace(extra={}),
    ],
)
def test_every_other_difference_is_a_change(catalog: Catalog, project: Project) -> None:
    apply(catalog, FULL)
    assert apply(catalog, project) == Applied(1, 0, 0, 0)
    assert catalog.content.change == 2 and catalog.content.project("some-thing") == project


def test_changes_are_numbered_in_the_order_in_which_they_came(catalog: Catalog) -> None:
    for name in ("b", "a", "c"):
        apply(catalog, Project(name, name))
    apply(catalog, Project("b", "B"))
    with catalog.transaction():
        catalog.content.remove("a")
        catalog.content.apply_static([Static("docs/x", "/x", b"d", 1, "")])
    assert catalog.content.change == 6
    named = {record.project.name: record for record in catalog.content.records(catalog.content.ids(-1))}
    assert {name: record.change for name, record in named.items()} == {"a": 5, "b": 4, "c": 3}
    since = [[record.project.name for record in catalog.content.records(catalog.content.ids(n))] for n in range(6)]
    assert since == [["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b"], ["a"], []]


def test_files_are_counted_as_they_come_change_and_go(catalog: Catalog) -> None:
    one, two, three = FULL.files
    apply(catalog, FULL._replace(files=(one, two)))
    changed = FULL._replace(files=(two._replace(yanked="bad"), three))
    assert apply(catalog, changed) == Applied(1, 1, 1, 1)
    assert catalog.content.project("some-thing") == changed


def test_a_removed_project_leaves_a_tombstone_that_tells_when(catalog: Catalog) -> None:
    apply(catalog, FULL)
    with catalog.transaction():
        assert catalog.content.remove("some-thing") == Applied(1, 0, 0, 3)
        assert catalog.content.remove("some-thing") == catalog.content.remove("never-there") == Applied()
    assert catalog.content.project("some-thing") is None
    assert catalog.content.tokens() == {} and catalog.content.count() == (0, 0)
    [record] = catalog.content.records(catalog.content.ids(1))
    assert record.removed and record.change == catalog.content.change == 2 and not record.project.files


def test_a_project_that_comes_back_is_the_same_one(catalog: Catalog) -> None:
    apply(catalog, FULL)
    [before] = catalog.content.ids(-1)
    with catalog.transaction():
        catalog.content.remove("some-thing")
    assert apply(catalog, FULL) == Applied(1, 3, 0, 0)
    assert catalog.content.ids(2) == [before] and catalog.content.project("some-thing") == FULL


# moved


def test_a_file_replaced_after_it_was_published_gets_another_key_and_the_old_bytes_the_old_one(
    catalog: Catalog,
) -> None:
    old, new = (SOURCE.file("a-1.0.tar.gz", content, version="1.0") for content in (b"old", b"new"))
    place = f"packages/{new.hashes['sha256'][:16]}/a-1.0.tar.gz"
    apply(catalog, Project("a", "a", (old,)))
    publish(catalog, "a")
    assert apply(catalog, Project("a", "a", (new,))) == Applied(1, 0, 1, 0)
    assert keys(catalog, "a") == [place]
    publish(catalog, "a")
    with catalog.transaction():
        catalog.ledger.forget(["packages/a-1.0.tar.gz"])  # no cache has it, it was deleted
    assert apply(catalog, Project("a", "a", (new,))) == Applied(), "and it stays there for good"
    assert apply(catalog, Project("a", "a", (old,))) == Applied(1, 0, 1, 0)
    assert keys(catalog, "a") == ["packages/a-1.0.tar.gz"]
    apply(catalog, Project("a", "a", (new._replace(yanked="x"),)))
    assert keys(catalog, "a") == [place]


def test_a_file_replaced_before_anybody_saw_it_keeps_its_key(catalog: Catalog) -> None:
    for content in (b"old", b"new"):
        apply(catalog, Project("a", "a", (SOURCE.file("a-1.0.tar.gz", content, version="1.0"),)))
    assert keys(catalog, "a") == ["packages/a-1.0.tar.gz"]


@pytest.mark.parametrize("more", [{}, {"md5": "0" * 32}])
def test_a_file_that_was_removed_comes_back_with_other_bytes_elsewhere(catalog: Catalog, more: dict[str, str]) -> None:
    old, new = (SOURCE.file("a-1.0.tar.gz", content, version="1.0") for content in (b"old", b"new"))
    old, new = (file._replace(hashes={**file.hashes, **more}) for file in (old, new))
    apply(catalog, Project("a", "a", (old,)))
    publish(catalog, "a")
    with catalog.transaction():
        catalog.content.remove("a")
        catalog.ledger.forget(["packages/a-1.0.tar.gz"])
    apply(catalog, Project("a", "a", (new,)))
    assert keys(catalog, "a") == [f"packages/{new.hashes['sha256'][:16]}/a-1.0.tar.gz"]
    apply(catalog, Project("a", "a", ()))
    apply(catalog, Project("a", "a", (old,)))
    assert keys(catalog, "a") == ["packages/a-1.0.tar.gz"]


def test_the_key_of_another_project_s_file_with_other_bytes_is_not_given_away(catalog: Catalog) -> None:
    apply(catalog, Project("a", "a", (SOURCE.file("a-1.0.tar.gz", b"a", version="1.0"),)))
    publish(catalog, "a")
    apply(catalog, Project("b", "b", (SOURCE.file("b-1.0.tar.gz", b"b", version="1.0", key="packages/a-1.0.tar.gz"),)))
    assert keys(catalog, "b") != ["packages/a-1.0.tar.gz"]


# rejections and files beside the index


def test_rejections_are_kept_by_project_until_it_is_told_again_or_removed(catalog: Catalog) -> None:
    one, two = Rejection("b.whl", "is no zip archive"), Rejection("a.whl", "is no harmless file name")
    apply(catalog, Project("a", "a", rejected=(one, two)))
    with catalog.transaction():
        catalog.content.reject("", [one])
    assert catalog.content.rejections() == [("", one), ("a", two), ("a", one)]
    known = catalog.content.project("a")
    assert known and known.rejected == (two, one)
    apply(catalog, Project("a", "a", rejected=(two,)))
    assert catalog.content.rejections() == [("", one), ("a", two)]
    with catalog.transaction():
        catalog.content.remove("a")
    assert catalog.content.rejections() == [("", one)]


def test_a_file_name_that_is_no_utf_8_can_be_rejected(catalog: Catalog) -> None:
    """As os.fsdecode gives it (PEP 383)."""
    apply(catalog, Project("a", "a", rejected=(Rejection("a-\udcff.whl", "is bad"),)))
    assert catalog.content.rejections() == [("a", Rejection("a-\\udcff.whl", "is bad"))]


def test_files_beside_the_index_change_and_go_and_leave_a_tombstone(catalog: Catalog) -> None:
    one, two = Static("docs/b", "/b", b"1", 1, "s"), Static("docs/a", "/a", b"2", 2, "s")
    with catalog.transaction():
        catalog.content.apply_static([one, two])
    assert list(catalog.content.static()) == [two, one]
    with catalog.transaction():
        catalog.content.apply_static([one._replace(removed=True)])
    assert list(catalog.content.static()) == [two]
    assert list(catalog.content.static(1)) == [one._replace(removed=True)]
    everything = [two, one._replace(removed=True)]
    assert list(catalog.content.static(-1)) == everything, "that ever was, by key"
    with catalog.transaction():
        catalog.content.apply_static([two])
    assert list(catalog.content.static(-1)) == everything
