"""The ledger: what the store holds, and what is between two states."""

from __future__ import annotations

import pytest

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.ledger import Entry, Listed
from cdn_fallback.mirror.model import Project
from tests.mirror.fakes import FakeSource

A = Entry("packages/a", b"A" * 32, 5, '{"x": 1}', 3)
B = Entry("packages/b", b"B" * 32, 6, '{"x": 2}', 3)


def put(catalog: Catalog, project: int | None, *entries: Entry) -> None:
    with catalog.transaction():
        catalog.ledger.put(project, entries)


def test_it_knows_what_is_there_and_whose_it_is(catalog: Catalog) -> None:
    put(catalog, 1, A)
    put(catalog, None, B)
    ledger = catalog.ledger
    assert ledger.of(1) == {A.key: A} and ledger.of(None) == {B.key: B} and ledger.of(2) == {}
    assert list(ledger.entries()) == [A, B] and ledger.count() == 2
    assert ledger.owner(A.key) == (1, A.digest) and ledger.owner("x") is None
    put(catalog, 1, A._replace(digest=b"C" * 32, generation=4))
    assert ledger.of(1)[A.key] == A._replace(digest=b"C" * 32, generation=4)


def test_what_is_about_to_be_put_is_known_and_not_vouched_for(catalog: Catalog) -> None:
    put(catalog, 1, A)
    with catalog.transaction():
        catalog.ledger.intend(1, [(A.key, b"Z" * 32), (B.key, B.digest)])
    known = catalog.ledger.of(1)
    assert {key: (entry.digest, entry.headers) for key, entry in known.items()} == {
        A.key: (A.digest, ""),  # what was there first stays known: no other bytes may have the key
        B.key: (B.digest, ""),
    }
    assert catalog.ledger.taken([A.key, B.key, "x"]) == {A.key: A.digest, B.key: B.digest}
    put(catalog, 1, A, B)
    assert catalog.ledger.of(1) == {A.key: A, B.key: B}


def test_what_is_another_s_is_not_touched_by_the_intent_to_put_it(catalog: Catalog) -> None:
    put(catalog, 1, A)
    with catalog.transaction():
        catalog.ledger.doom([A.key], 5)
        catalog.ledger.intend(2, [(A.key, b"Z" * 32)], spare=True)
        catalog.ledger.intend(None, [(A.key, b"Z" * 32)], spare=True)
    assert list(catalog.ledger.entries()) == [A] and catalog.ledger.doomed(5) == [A.key]


def test_what_nothing_refers_to_is_doomed_from_the_first_time_it_is_told(catalog: Catalog) -> None:
    put(catalog, 1, A, B)
    with catalog.transaction():
        assert catalog.ledger.doom([A.key, "not-there"], 100) == 1
        assert catalog.ledger.doom([A.key], 200) == 0
        assert catalog.ledger.doom([], 200) == 0
    assert catalog.ledger.of(1) == {B.key: B} and catalog.ledger.count() == 2
    assert catalog.ledger.doomed(99) == [] and catalog.ledger.doomed(100) == [A.key]
    with catalog.transaction():
        catalog.ledger.forget([A.key])
    assert catalog.ledger.count() == 1


@pytest.mark.parametrize("how", ["put", "spare", "intend"])
def test_what_is_wanted_again_is_spared(catalog: Catalog, how: str) -> None:
    put(catalog, 1, A)
    with catalog.transaction():
        catalog.ledger.doom([A.key], 100)
        if how == "put":
            catalog.ledger.put(1, [A])
        else:
            catalog.ledger.intend(1, [(A.key, A.digest)], spare=how == "spare")
    assert catalog.ledger.doomed(100) == ([A.key] if how == "intend" else [])


def test_a_rolled_back_header_is_not_remembered(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt), catalog.transaction():
        catalog.ledger.put(1, [A])
        raise KeyboardInterrupt
    put(catalog, 1, B)
    put(catalog, 1, A)
    assert list(catalog.ledger.entries()) == [A, B]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("docs/a/b/c", [("docs/a/b", None)]),
        ("docs/a", [("docs/a/b", None), ("docs/a/x", 1)]),
        ("docs", [("docs/a-b", None), ("docs/a/b", None), ("docs/a/x", 1)]),
        ("docs/a-", []),
        ("docs/a/b", []),
        ("other", []),
    ],
)
def test_what_no_folder_can_hold_beside_a_key(catalog: Catalog, key: str, found: list[tuple[str, int | None]]) -> None:
    put(catalog, None, A._replace(key="docs/a/b"), A._replace(key="docs/a-b"))
    put(catalog, 1, A._replace(key="docs/a/x"))
    assert sorted(catalog.ledger.in_the_way(key)) == found


def test_projects_are_listed_when_they_are_settled_with_a_page(catalog: Catalog) -> None:
    with catalog.transaction():
        for name in ("b", "a", "c"):
            catalog.content.apply(Project(name, name.upper()), "t")
    a, b, c = catalog.content.ids(-1)
    with catalog.transaction():
        catalog.ledger.settle([(b, 7), (a, 8)])
    assert list(catalog.ledger.listed()) == [Listed("a", "A", 8), Listed("b", "B", 7)]
    assert list(catalog.ledger.listed({a: None, c: 9})) == [Listed("b", "B", 7), Listed("c", "C", 9)]
    with catalog.transaction():
        catalog.ledger.settle([(a, None)])
    assert list(catalog.ledger.listed()) == [Listed("b", "B", 7)]


def test_projects_that_were_held_back_are_pending_until_they_are_settled(catalog: Catalog) -> None:
    with catalog.transaction():
        for name in ("b", "a"):
            catalog.content.apply(Project(name, name), "t")
    a, b = catalog.content.ids(-1)
    with catalog.transaction():
        catalog.ledger.hold([b, a])
        catalog.ledger.hold([a])
    assert catalog.ledger.pending() == [a, b]
    with catalog.transaction():
        catalog.ledger.settle([(a, 1)])
    assert catalog.ledger.pending() == [b]


def test_what_a_publish_would_take_away(catalog: Catalog) -> None:
    source = FakeSource()
    files = [source.file(f"a-{number}.tar.gz", version="1") for number in range(4)]
    with catalog.transaction():
        catalog.content.apply(Project("a", "a", tuple(files)), "t")
        for name in ("b", "c"):
            catalog.content.apply(Project(name, name, (source.file(f"{name}-1.tar.gz", version="1"),)), "t")
        catalog.ledger.settle((number, 1) for number in catalog.content.ids(-1))
        since = catalog.content.change
        catalog.content.remove("b")
        catalog.content.apply(Project("a", "a", tuple(files[:1])), "t")
        catalog.content.apply(Project("a", "a", tuple(files[:2])), "t")
    leaving = {what: (removed, of) for what, removed, of in catalog.ledger.leaving(since, 0)}
    assert leaving == {"projects": (1, 3), "files": (3, 6)}, "of a, one of three that went is there again"
    assert [what for what, _, _ in catalog.ledger.leaving(since, 1)] == ["files"]
    assert list(catalog.ledger.leaving(since, 3)) == []


def test_a_store_that_was_lost_has_nothing(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.content.apply(Project("a", "a"), "t")
        [number] = catalog.content.ids(-1)
        catalog.ledger.put(number, [A])
        catalog.ledger.settle([(number, 1)])
        catalog.ledger.hold([number])
        catalog.ledger.forget_all()
    ledger = catalog.ledger
    assert (ledger.count(), ledger.pending(), list(ledger.listed())) == (0, [], [])
