"""What may fail in the picture is all there, and what follows from it is what one would say."""

from __future__ import annotations

import itertools

import pytest

from cdn_fallback.dial import STAGGER
from cdn_fallback.failover import Timeouts
from tests.rig.failures import COMPONENTS, WAYS, Case, Failure, cases, pairs, singles
from tests.rig.picture import EDGES, NAMES, REDIRECTORS

BOUNDS = Timeouts()


def case(*failures: str, warm: bool = True) -> Case:
    """By words as in a test's name: "edge1-sick"."""
    found = []
    for failure in failures:
        what, way = failure.split("-")
        assert way in WAYS[what]
        found.append(Failure(what, way))
    return Case(tuple(found), warm)


# --- the matrix ---


def test_every_component_can_fail_and_so_can_names_and_the_mirror() -> None:
    assert {name for components in COMPONENTS.values() for name in components} == set(NAMES)
    assert len(COMPONENTS) == 11
    assert COMPONENTS["redirectors"] == REDIRECTORS and COMPONENTS["edges"] == EDGES


def test_every_failure_stands_alone_in_each_of_its_ways() -> None:
    alone = [Failure(what, way) for what, ways in WAYS.items() for way in ways if way != "1s"]
    assert [one.failures for one in singles()] == [(failure,) for failure in alone]
    assert {way for what, ways in WAYS.items() if what not in ("names", "mirror") for way in ways} == {
        "refuse", "blackhole", "sick",
    }  # fmt: skip


def test_every_pair_is_there_once_but_for_those_of_a_part_and_its_whole() -> None:
    found = [{failure.what for failure in pair.failures} for pair in pairs()]
    parts = [{name, "redirectors"} for name in REDIRECTORS] + [{name, "edges"} for name in EDGES]
    wanted = [set(two) for two in itertools.combinations(COMPONENTS, 2) if set(two) not in parts]
    assert sorted(map(sorted, found)) == sorted(map(sorted, wanted))
    assert len(found) == 50


def test_in_pairs_every_failure_is_met_in_each_of_its_ways() -> None:
    met = {failure for pair in pairs() for failure in pair.failures}
    assert met == {Failure(w, way) for w, ways in WAYS.items() for way in ways if way not in ("2s", "6s")}


def test_without_the_bucket_edges_are_cold_too_wherever_the_origin_is_up() -> None:
    found = cases()
    cold = {one.failures for one in found if not one.warm}
    assert cold == {one.failures for one in found if "bucket" in one.ways and one.up("origin") and one.up(*EDGES)}
    assert len(found) == len(set(found)) == len({str(one) for one in found})


def test_the_matrix_has_one_pair_that_leaves_no_copy() -> None:
    (none,) = [one for one in cases() if not one.copies]
    assert [failure.what for failure in none.failures] == ["edges", "origin"]


# --- what a case means ---


@pytest.mark.parametrize(
    ("failed", "copies", "servers"),
    [
        (case(), {"edge1", "edge2", "origin"}, {"edge1", "edge2"}),
        (case(warm=False), {"edge1", "edge2", "origin"}, {"edge1", "edge2"}),
        (case("redirectors-refuse", "origin-refuse"), {"edge1", "edge2"}, {"edge1", "edge2"}),
        (case("edge1-sick", "bucket-refuse"), {"edge2", "origin"}, {"edge2"}),
        (case("edge1-sick", "edge2-refuse"), {"origin"}, {"origin"}),
        (case("edges-blackhole"), {"origin"}, {"origin"}),
        (case("bucket-refuse", "origin-refuse"), {"edge1", "edge2"}, {"edge1", "edge2"}),
        (case("bucket-refuse", warm=False), {"origin"}, {"origin"}),
        (case("bucket-refuse", "origin-refuse", warm=False), set(), set()),
        (case("edges-sick", "origin-blackhole"), set(), set()),
        (case("names-6s", "mirror-stuck"), {"edge1", "edge2", "origin"}, {"edge1", "edge2"}),
    ],
    ids=str,
)
def test_who_has_a_copy_and_who_serves_it(failed: Case, copies: set[str], servers: set[str]) -> None:
    assert (failed.copies, failed.servers) == (copies, servers)


def test_what_is_down_is_down_in_its_way() -> None:
    failed = case("redirectors-blackhole", "edge2-sick")
    assert failed.ways == dict.fromkeys(REDIRECTORS, "blackhole") | {"edge2": "sick"}
    assert failed.up() == {"edge1", "bucket", "origin"} and failed.up(*EDGES) == {"edge1"}
    assert (failed.late, failed.stuck) == (0.0, False)


def test_names_are_late_and_the_mirror_is_stuck_without_anybody_being_down() -> None:
    failed = case("names-6s", "mirror-stuck")
    assert (failed.late, failed.stuck, failed.ways) == (6.0, True, {})
    assert not failed.in_order and case("names-2s").in_order and case("edges-sick").in_order


def test_a_case_is_told_by_its_name() -> None:
    assert str(case("bucket-refuse", "edge1-sick", warm=False)) == "bucket-refuse+edge1-sick+cold"
    assert str(case()) == "nothing"


# --- how long it may take ---


@pytest.mark.parametrize(
    ("failed", "seconds"),
    [
        (case(), 0),
        (case("redirectors-refuse", "edge1-sick"), 0),
        (case("edges-sick"), 0),
        (case("redirector1-blackhole", "edge2-blackhole"), 2 * 3 * STAGGER),
        (case("redirectors-blackhole"), 3 * 3 * STAGGER + BOUNDS.connect_else),
        # at the place to which redirectors lead, and at its own
        (case("edges-blackhole"), 2 * 3 * STAGGER + BOUNDS.connect_else),
        (case("edges-blackhole", "redirectors-refuse"), 2 * 3 * STAGGER + BOUNDS.connect_else),
        (case("origin-blackhole"), 0),
        (case("origin-blackhole", "mirror-stuck"), BOUNDS.connect),
        (case("bucket-blackhole"), 0),
        (case("bucket-refuse", warm=False), 0),
        (case("bucket-blackhole", warm=False), 1.5 * BOUNDS.silence_else),
        (
            case("bucket-blackhole", "edge1-blackhole", warm=False),
            BOUNDS.silence_else + 3 * STAGGER + BOUNDS.connect_else,
        ),
        (case("names-2s"), 3 * 2),
        (case("names-6s"), BOUNDS.budget),
    ],
    ids=str,
)
def test_how_much_longer_an_installation_may_take(failed: Case, seconds: float) -> None:
    assert failed.delay(walks=3) == seconds


def test_no_single_failure_or_pair_may_take_more_than_one_walk_is_promised() -> None:
    assert max(one.delay(3) for one in cases()) == BOUNDS.budget
