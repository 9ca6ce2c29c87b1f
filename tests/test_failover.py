"""The client's promises, as far as the loop keeps them: each test is named after its promise (DESIGN, section 3)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise

import pytest

from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.failover import MAX_HOPS, MAX_REDIRECTS, Limits, Outcome, Question, Step, Timeouts, share, walk
from cdn_fallback.pool import Endpoint, Role
from cdn_fallback.verdicts import DENIED, REDIRECTS, TRANSIENT, TROUBLES, Trouble, Verdict, judge
from tests.simulator import (
    BLACKHOLE,
    BOMB,
    DRIP,
    HEALTHY,
    LOGIN_PAGE,
    REFUSE,
    RESET,
    SILENT,
    STALE,
    TRUNCATED,
    WRONG_CERTIFICATE,
    WRONG_HASH,
    Fault,
    Response,
    Simulator,
    answers,
    cdn,
    mirror,
    origin,
    redirector,
    redirects,
    throttles,
)

R1, R2, R3 = redirector("r1"), redirector("r2"), redirector("r3")
CDN, MIRROR, ORIGIN = cdn(), mirror(), origin()
PAGE = "https://index.example/simple/six/"
TO_CDN = redirects(CDN.base + "simple/six/")
TO_A_KEY = redirects(CDN.base + "simple/six/index.json")
A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"

TRANSIENT_FAULTS = {
    "refuse": REFUSE,
    "blackhole": BLACKHOLE,
    "certificate": WRONG_CERTIFICATE,
    "silent": SILENT,
    "reset": RESET,
    "drip": DRIP,
    **{str(status): answers(status) for status in (408, 425, 429, 500, 502, 503, 504, 520, 599)},
}
BROKEN_FAULTS = {
    "truncated": TRUNCATED,
    "login page": LOGIN_PAGE,
    "bomb": BOMB,
    "hash": WRONG_HASH,
    "stale": STALE,
    "unasked 206": answers(206),
    "unasked 304": answers(304),
    "choices": answers(300),
    "600 bytes of fame": Fault(Trouble.REDIRECT),
}


def named(faults: Mapping[str, Fault]) -> list[object]:
    return [pytest.param(fault, id=name) for name, fault in faults.items()]


def failure(simulator: Simulator, timeouts: Timeouts | None = None) -> AllEndpointsFailed:
    """The error with which a walk ends."""
    with pytest.raises(AllEndpointsFailed) as caught:
        simulator.walk(timeouts=timeouts)
    return caught.value


# -- 1. A pool, never a mixture.


def test_promise_1_an_exhausted_pool_is_an_error_and_nothing_outside_is_asked() -> None:
    simulator = Simulator({R1: REFUSE, CDN: TRUNCATED, ORIGIN: SILENT})
    failure(simulator, Timeouts(passes=3))
    bases = tuple(endpoint.base for endpoint in (R1, CDN, ORIGIN))
    assert all(step.url.startswith(bases) and step.url.endswith("simple/six/") for step in simulator.steps)


def test_promise_1_a_redirect_out_of_the_pool_is_not_followed_by_us() -> None:
    simulator = Simulator({R1: redirects("https://stranger.example/simple/six/"), ORIGIN: HEALTHY})
    answer = simulator.walk()
    assert answer.location == "https://stranger.example/simple/six/"
    assert answer.response == Response(R1, A, 302)
    assert simulator.order == [R1]


# -- 2. The canonical URL never changes.


def test_promise_2_what_a_redirect_inside_the_pool_leads_to_is_the_answer_to_what_was_asked() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, ORIGIN: HEALTHY})
    answer = simulator.walk()
    assert answer.response == Response(CDN, A, 200)
    assert answer.location is None


@pytest.mark.parametrize(
    ("asked", "location", "told"),
    [
        # a normalised name: relative links mean something else there, so the tool must know
        ("simple/Six/", CDN.base + "simple/six/", "https://index.example/simple/six/"),
        # a missing slash, from an absolute path and from a relative reference
        ("simple/six", "/simple/six/", "https://index.example/simple/six/"),
        ("simple/six", "six/", "https://index.example/simple/six/"),
        ("simple/six", CDN.base + "simple/six/?x=1", "https://index.example/simple/six/?x=1"),
    ],
)
def test_promise_2_a_redirect_to_another_url_is_the_tools_under_its_canonical_name(
    asked: str, location: str, told: str
) -> None:
    simulator = Simulator({R1: redirects(location, 301), CDN: REFUSE})
    answer = simulator.walk(simulator.index + asked)
    assert answer.location == told
    assert simulator.order == [R1, CDN], "nobody else says so: a copy alone is believed last"


def test_promise_2_credentials_in_a_location_do_not_come_through() -> None:
    simulator = Simulator({R1: redirects("https://user:secret@stranger.example/x#part")})
    assert simulator.walk().location == "https://stranger.example/x"


def test_promise_2_an_undeclared_hosts_redirects_are_all_the_tools() -> None:
    """Nobody said that two URLs of this host are one thing, and the tool counts its redirects itself."""
    simulator = Simulator({ORIGIN: redirects("/simple/six/")}, declared=False)
    assert simulator.walk().location == PAGE
    assert simulator.order == [ORIGIN]


# -- 3. Redirectors are real.


def test_promise_3_redirectors_are_real_one_is_asked_and_followed() -> None:
    simulator = Simulator({R1: TO_CDN, R2: TO_CDN, CDN: HEALTHY, ORIGIN: HEALTHY})
    simulator.walk()
    assert [(step.endpoint, step.url) for step in simulator.steps] == [
        (R1, "https://r1.example/simple/six/"),
        (CDN, "https://cdn.example/mirror/simple/six/"),
    ]
    assert simulator.moves == []


@pytest.mark.parametrize("status", sorted(REDIRECTS))
def test_promise_3_redirectors_are_real_with_every_30x(status: int) -> None:
    simulator = Simulator({R1: redirects(CDN.base + "simple/six/", status), CDN: HEALTHY})
    assert simulator.walk().response.endpoint == CDN


def test_promise_3_redirectors_are_real_a_dead_target_is_followed_by_the_next_candidate() -> None:
    elsewhere = redirects(MIRROR.base + "simple/six/")
    simulator = Simulator({R1: TO_CDN, R2: elsewhere, CDN: REFUSE, MIRROR: HEALTHY, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == MIRROR
    assert simulator.order == [R1, CDN, R2, MIRROR]


def test_promise_3_redirectors_are_real_a_dead_target_is_not_asked_twice_in_a_pass() -> None:
    simulator = Simulator({R1: TO_CDN, R2: TO_CDN, R3: TO_CDN, CDN: REFUSE, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, CDN, R2, R3, ORIGIN]


def test_promise_3_redirectors_are_real_and_a_dead_target_has_no_other_name_to_be_asked_at() -> None:
    """They lead pages to keys: the CDN's own place would cost the same seconds again."""
    simulator = Simulator({R1: TO_A_KEY, R2: TO_A_KEY, CDN: {A: SILENT, B: REFUSE}, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.asked == [(R1, A), (CDN, A), (CDN, B), (R2, A), (ORIGIN, A)]


def test_promise_3_redirectors_are_real_and_what_is_broken_there_may_be_well_under_its_own_name() -> None:
    """But who did not answer at all is left out."""
    simulator = Simulator({R1: TO_A_KEY, CDN: {A: SILENT, B: (LOGIN_PAGE, HEALTHY)}, ORIGIN: HEALTHY})
    assert simulator.walk().response == Response(CDN, B, 200)
    assert simulator.asked == [(R1, A), (CDN, A), (CDN, B), (CDN, B)]


def test_promise_3_redirectors_are_real_and_one_is_not_asked_again_at_the_word_of_another() -> None:
    to_the_first = redirects(R1.base + "simple/six/")
    simulator = Simulator({R1: TO_CDN, R2: to_the_first, CDN: REFUSE, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, CDN, R2, ORIGIN]


def test_promise_3_redirectors_are_real_without_any_it_goes_to_the_cdn() -> None:
    simulator = Simulator({R1: REFUSE, R2: SILENT, R3: answers(503), CDN: HEALTHY, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == CDN
    assert simulator.order == [R1, R2, R3, CDN]


def test_promise_3_redirectors_are_real_without_any_and_without_a_cdn_it_goes_to_the_origin() -> None:
    simulator = Simulator({R1: REFUSE, R2: SILENT, CDN: answers(502), ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, R2, CDN, ORIGIN]


def test_promise_3_redirectors_are_real_a_targets_untried_addresses_come_before_anybody_else() -> None:
    simulator = Simulator({R1: TO_CDN, R2: TO_CDN, CDN: {A: SILENT, B: HEALTHY}, ORIGIN: HEALTHY})
    assert simulator.walk().response == Response(CDN, B, 200)
    assert simulator.asked == [(R1, A), (CDN, A), (CDN, B)]


def test_promise_3_redirectors_are_real_a_chain_of_them_is_followed() -> None:
    simulator = Simulator({R1: redirects(R2.base + "simple/six/"), R2: TO_CDN, CDN: HEALTHY})
    assert simulator.walk().response.endpoint == CDN
    assert simulator.order == [R1, R2, CDN]


@pytest.mark.parametrize(
    "faults",
    [
        {R1: redirects(PAGE.replace("index", "r1"))},  # to itself
        {R1: redirects("https://r2.example/simple/six/"), R2: redirects("https://r1.example/simple/six/")},
        {
            R1: redirects("https://r2.example/simple/six/"),
            R2: redirects("https://r3.example/simple/six/"),
            R3: redirects("https://r1.example/simple/six/"),
        },
    ],
    ids=["itself", "two", "three"],
)
def test_promise_3_redirectors_are_real_and_so_are_their_loops(faults: dict[Endpoint, Fault]) -> None:
    simulator = Simulator({**faults, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [*faults, ORIGIN]
    assert simulator.noticed[-2].verdict is Verdict.BROKEN
    assert "loop" in simulator.noticed[-2].detail


def test_promise_3_redirectors_are_real_up_to_some_hops() -> None:
    chain = [redirector(f"hop{number}") for number in range(MAX_HOPS + 2)]
    scripts = {one: redirects(two.base + "simple/six/") for one, two in pairwise(chain)}
    simulator = Simulator({**scripts, chain[-1]: HEALTHY, ORIGIN: HEALTHY})
    answer = simulator.walk()
    assert simulator.order == chain  # the last one is asked in its own right, not for the redirect
    assert f"more than {MAX_HOPS} times" in simulator.noticed[-2].detail
    assert answer.response.endpoint == chain[-1]


@pytest.mark.parametrize("location", ["/mirror/404.html", "/mirror/simple/Six/", "https://login.example/"])
def test_promise_3_redirectors_are_real_but_that_it_is_elsewhere_must_not_be_heard_from_a_copy(location: str) -> None:
    """A CDN may redirect to its error page, or a portal; the origin may move things."""
    elsewhere = redirects(location)
    assert Simulator({CDN: elsewhere, ORIGIN: HEALTHY}).walk().response.endpoint == ORIGIN
    assert Simulator({CDN: elsewhere, ORIGIN: answers(404)}).walk().response.status == 404
    moved = redirects("https://elsewhere.example/")
    assert Simulator({CDN: elsewhere, ORIGIN: moved}).walk().location == "https://elsewhere.example/"
    # better than nothing
    assert Simulator({CDN: elsewhere, ORIGIN: REFUSE}).walk().response.endpoint == CDN


def test_promise_3_redirectors_are_real_and_the_redirects_before_count() -> None:
    """The tool followed them: each was a request of its own."""
    moved = {ORIGIN: redirects("/simple/Six/")}
    assert Simulator(moved, hops=MAX_REDIRECTS - 1).walk().location
    assert f"redirects, after {MAX_REDIRECTS} redirects before" in str(failure(Simulator(moved, hops=MAX_REDIRECTS)))


def test_promise_3_redirectors_are_real_but_a_demoted_target_has_its_turn_last() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, MIRROR: answers(503), ORIGIN: HEALTHY}, demoted=frozenset({CDN}))
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, MIRROR, ORIGIN]


def test_promise_3_redirectors_are_real_and_a_demoted_target_has_its_turn() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, ORIGIN: SILENT}, demoted=frozenset({CDN}))
    assert simulator.walk().response.endpoint == CDN
    assert simulator.order == [R1, ORIGIN, CDN]


# -- 4. Every address gets its chance.


@pytest.mark.parametrize("fault", named(TRANSIENT_FAULTS))
def test_promise_4_every_address_gets_its_chance_the_next_one_is_asked_first(fault: Fault) -> None:
    simulator = Simulator({CDN: {A: fault, B: fault, C: HEALTHY}, ORIGIN: HEALTHY})
    answer = simulator.walk()
    assert answer.response == Response(CDN, C, 200)
    assert ORIGIN not in simulator.order
    # the three that do not connect lose a race, the others are asked one after the other
    assert len(simulator.steps) == (3 if fault.connects else 1)


@pytest.mark.parametrize("fault", named(BROKEN_FAULTS))
def test_promise_4_every_address_gets_its_chance_also_of_a_broken_endpoint(fault: Fault) -> None:
    simulator = Simulator({CDN: {A: fault, B: HEALTHY}, ORIGIN: answers(500)})
    assert simulator.walk().response == Response(CDN, B, 200)
    assert simulator.asked == [(CDN, A), (ORIGIN, A), (CDN, B)]


def test_promise_4_every_address_gets_its_chance_none_twice_in_a_pass() -> None:
    addresses = {f"192.0.2.{number}": SILENT if number % 2 else TRUNCATED for number in range(1, 7)}
    simulator = Simulator({CDN: addresses, ORIGIN: RESET})
    failure(simulator)
    assert sorted(str(address) for endpoint, address in simulator.asked if endpoint == CDN) == sorted(addresses)


def test_promise_4_every_address_gets_its_chance_one_does_not_wait_for_a_blackhole() -> None:
    simulator = Simulator({CDN: {A: BLACKHOLE, B: BLACKHOLE, C: HEALTHY}})
    simulator.walk()
    assert simulator.asked == [(CDN, C)]
    assert simulator.elapsed < 1


def test_promise_4_every_address_gets_its_chance_a_loser_of_the_race_is_tried_later() -> None:
    """A slow address is not a bad one: it has its turn if the winner fails."""
    simulator = Simulator({CDN: {A: BLACKHOLE, B: RESET}})
    failure(simulator)
    assert simulator.asked == [(CDN, B), (CDN, A)]


@pytest.mark.parametrize(
    "location",
    ["http://cdn.example/mirror/simple/six/", R1.base + "simple/six/", "https://cdn.example:port/", "https://[::1"],
    ids=["to http", "loop", "no port", "no host"],
)
def test_promise_4_every_address_gets_its_chance_also_of_a_redirector_with_a_bad_one(location: str) -> None:
    simulator = Simulator({R1: {A: redirects(location), B: HEALTHY}, ORIGIN: REFUSE})
    assert simulator.walk().response == Response(R1, B, 200)
    assert simulator.asked == [(R1, A), (ORIGIN, A), (R1, B)]


# -- 5. Verdicts.


@pytest.mark.parametrize(
    ("status", "copy", "origin"),
    [
        *[(status, Verdict.ANSWER, Verdict.ANSWER) for status in (200, 203, 204, *sorted(REDIRECTS))],
        *[(status, Verdict.MISS, Verdict.ANSWER) for status in (400, 404, 405, 406, 410, 416, 418, 431)],
        *[(status, Verdict.DENIED, Verdict.DENIED) for status in sorted(DENIED)],
        *[(status, Verdict.TRANSIENT, Verdict.TRANSIENT) for status in (*sorted(TRANSIENT), 500, 502, 503, 504, 520)],
        *[(status, Verdict.BROKEN, Verdict.BROKEN) for status in (206, 300, 304, 100, 102, 0)],
    ],
)
def test_promise_5_verdicts_on_a_status(status: int, copy: Verdict, origin: Verdict) -> None:
    assert {judge(status, role) for role in Role if role is not Role.ORIGIN} == {copy}
    assert judge(status, Role.ORIGIN) is origin


def test_promise_5_verdicts_on_what_must_have_been_asked_for() -> None:
    assert judge(304, Role.CDN, conditional=True) is Verdict.ANSWER
    assert judge(206, Role.CDN, ranged=True) is Verdict.ANSWER


def test_promise_5_verdicts_stand_for_every_trouble() -> None:
    assert set(TROUBLES) == set(Trouble)
    broken = {Trouble.CUT, Trouble.KIND, Trouble.SIZE, Trouble.HASH, Trouble.STALE, Trouble.OLD, Trouble.REDIRECT}
    assert {trouble for trouble, verdict in TROUBLES.items() if verdict is Verdict.BROKEN} == broken
    missing = {Trouble.EMPTY, Trouble.LENGTH}
    assert {TROUBLES[trouble] for trouble in missing} == {Verdict.MISS}
    assert {TROUBLES[trouble] for trouble in set(Trouble) - broken - missing} == {Verdict.TRANSIENT}


@pytest.mark.parametrize(
    ("fault", "verdict", "then"),
    [
        (HEALTHY, Verdict.ANSWER, []),
        *[(answers(status), Verdict.MISS, [(MIRROR, A), (ORIGIN, A)]) for status in (404, 410)],
        *[(answers(status), Verdict.DENIED, [(MIRROR, A), (ORIGIN, A)]) for status in sorted(DENIED)],
        *[(fault, Verdict.TRANSIENT, [(CDN, B), (MIRROR, A), (ORIGIN, A)]) for fault in TRANSIENT_FAULTS.values()],
        *[(fault, Verdict.BROKEN, [(MIRROR, A), (ORIGIN, A)]) for fault in BROKEN_FAULTS.values()],
    ],
)
def test_promise_5_verdicts_and_what_then(
    fault: Fault, verdict: Verdict, then: list[tuple[Endpoint, str | None]]
) -> None:
    """Who is asked after the CDN's first address, when nobody answers before the origin."""
    simulator = Simulator({CDN: {A: fault, B: fault}, MIRROR: REFUSE, ORIGIN: HEALTHY})
    simulator.walk()
    assert simulator.noticed[0].verdict is verdict
    assert simulator.asked == [(CDN, A), *then]


def test_promise_5_verdicts_a_name_that_does_not_resolve_is_transient() -> None:
    simulator = Simulator({CDN: {}, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert [attempt.verdict for attempt in simulator.noticed] == [Verdict.TRANSIENT, Verdict.ANSWER]


@pytest.mark.parametrize("status", [404, 410])
def test_promise_5_verdicts_a_miss_of_a_copy_is_overruled_by_the_origin(status: int) -> None:
    simulator = Simulator({CDN: answers(status), ORIGIN: HEALTHY})
    assert simulator.walk().response == Response(ORIGIN, A, 200)


@pytest.mark.parametrize("status", [404, 410])
def test_promise_5_verdicts_the_origins_miss_is_final(status: int) -> None:
    simulator = Simulator({R1: TO_CDN, CDN: answers(status), ORIGIN: answers(status)})
    answer = simulator.walk(timeouts=Timeouts(passes=6))
    assert answer.response == Response(ORIGIN, A, status)
    assert simulator.order == [R1, CDN, ORIGIN]


@pytest.mark.parametrize("fault", [REFUSE, SILENT, answers(503), LOGIN_PAGE])
def test_promise_5_verdicts_a_miss_without_the_origins_word_is_an_error_never_a_404(fault: Fault) -> None:
    simulator = Simulator({CDN: answers(404), MIRROR: answers(410), ORIGIN: fault})
    error = failure(simulator, Timeouts(passes=3, budget=100))
    assert "only the origin can say" in str(error)
    assert simulator.order == [CDN, MIRROR, ORIGIN, ORIGIN, ORIGIN]  # a miss is settled, asking again is no use


def test_promise_5_verdicts_misses_of_all_copies_without_an_origin_are_an_error_at_once() -> None:
    simulator = Simulator({CDN: answers(404), MIRROR: answers(404)})
    failure(simulator, Timeouts(passes=6))
    assert simulator.order == [CDN, MIRROR]
    assert simulator.clock.sleeps == []


def test_promise_5_verdicts_a_settled_copy_is_not_asked_again_for_a_redirectors_sake() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: answers(404), ORIGIN: REFUSE})
    failure(simulator, Timeouts(passes=3))
    assert simulator.order.count(CDN) == 1


def test_promise_5_verdicts_a_redirector_is_not_blamed_for_what_the_copy_misses() -> None:
    """Nothing failed here: no warning, no demotion."""
    simulator = Simulator({R1: TO_CDN, R2: TO_CDN, CDN: answers(404), ORIGIN: HEALTHY})
    simulator.walk()
    assert {attempt.verdict for attempt in simulator.noticed} == {Verdict.ANSWER, Verdict.MISS}
    assert {attempt.verdict for attempt, _ in simulator.moves} == {Verdict.MISS}


@pytest.mark.parametrize("status", sorted(DENIED))
def test_promise_5_verdicts_denied_by_a_copy_is_asked_elsewhere_and_its_reason_kept(status: int) -> None:
    simulator = Simulator({CDN: {A: answers(status), B: HEALTHY}, ORIGIN: REFUSE})
    error = failure(simulator, Timeouts(passes=2))
    assert simulator.order == [CDN, ORIGIN, ORIGIN]
    assert f"answered {status}" in str(error)


@pytest.mark.parametrize("status", sorted(DENIED))
def test_promise_5_verdicts_a_gatekeepers_refusal_is_final(status: int) -> None:
    gate = Endpoint("https://gate.example/", Role.CDN, gatekeeper=True)
    simulator = Simulator({gate: answers(status), CDN: HEALTHY, ORIGIN: HEALTHY})
    assert simulator.walk().response == Response(gate, A, status)
    assert simulator.order == [gate]


def test_promise_5_verdicts_a_gatekeeper_that_is_down_keeps_nobody_out() -> None:
    gate = Endpoint("https://gate.example/", Role.CDN, gatekeeper=True)
    simulator = Simulator({gate: REFUSE, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN


@pytest.mark.parametrize("status", sorted(DENIED))
def test_promise_5_verdicts_the_origins_refusal_is_the_tools_to_answer(status: int) -> None:
    """pip asks for a password only if it sees the 401."""
    simulator = Simulator({CDN: REFUSE, ORIGIN: answers(status)})
    assert simulator.walk(timeouts=Timeouts(passes=6)).response == Response(ORIGIN, A, status)
    assert simulator.order == [CDN, ORIGIN]


def test_promise_5_verdicts_after_the_origins_refusal_everybody_else_is_asked_first() -> None:
    simulator = Simulator({ORIGIN: answers(401), CDN: HEALTHY})
    assert simulator.walk().response.endpoint == CDN


# -- 6. What is broken is not handed on.


def test_promise_6_an_old_page_is_tried_elsewhere() -> None:
    simulator = Simulator({CDN: STALE, ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN


def test_promise_6_a_page_that_nobody_renewed_is_refused() -> None:
    old = Fault(Trouble.OLD)
    assert Simulator({CDN: old, ORIGIN: HEALTHY}).walk().response.endpoint == ORIGIN
    assert "`oldest`" in str(failure(Simulator({CDN: old, ORIGIN: REFUSE})))
    # an older serial is taken when nobody has a newer one
    assert Simulator({CDN: old, MIRROR: STALE, ORIGIN: REFUSE}).walk().response.endpoint == MIRROR


@pytest.mark.parametrize("fault", [REFUSE, STALE, TRUNCATED, answers(403)])
def test_promise_6_an_old_page_is_better_than_none(fault: Fault) -> None:
    simulator = Simulator({CDN: STALE, MIRROR: STALE, ORIGIN: fault})
    assert simulator.walk(timeouts=Timeouts(passes=6)).response.endpoint == CDN
    assert simulator.order == [CDN, MIRROR, ORIGIN]


def test_promise_6_but_an_old_page_is_not_better_than_the_origins_word() -> None:
    simulator = Simulator({CDN: STALE, ORIGIN: answers(404)})
    assert simulator.walk().response == Response(ORIGIN, A, 404)


def test_promise_6_who_served_a_broken_file_is_asked_last_by_redirect_too() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, ORIGIN: HEALTHY}, avoid=frozenset({CDN}))
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, ORIGIN]


def test_promise_6_who_served_a_broken_file_is_asked_after_every_address_of_the_others() -> None:
    simulator = Simulator({CDN: {A: throttles(60, 503), B: HEALTHY}, MIRROR: HEALTHY}, avoid=frozenset({MIRROR}))
    assert simulator.walk().response == Response(CDN, B, 200)


def test_promise_6_who_served_a_broken_file_is_asked_when_nobody_else_is_left() -> None:
    simulator = Simulator({CDN: HEALTHY, R1: TO_CDN, ORIGIN: REFUSE}, avoid=frozenset({CDN}))
    assert simulator.walk().response.endpoint == CDN
    assert simulator.order == [R1, ORIGIN, CDN]


# -- 7. Time is bounded.


@pytest.mark.parametrize("passes", [1, 6])
@pytest.mark.parametrize("fault", [BLACKHOLE, SILENT, DRIP, throttles(29), throttles(31), throttles(3600)])
def test_promise_7_time_is_bounded_whatever_happens(fault: Fault, passes: int) -> None:
    addresses = {f"192.0.2.{number}": fault for number in range(1, 5)}
    simulator = Simulator({R1: addresses, R2: fault, CDN: addresses, ORIGIN: addresses})
    failure(simulator, Timeouts(passes=passes))
    assert simulator.elapsed <= 30.000001
    assert set(simulator.order) == {R1, R2, CDN, ORIGIN}


def test_promise_7_time_is_bounded_the_first_byte_and_less_after_each_silence() -> None:
    simulator = Simulator({R1: SILENT, R2: SILENT, R3: SILENT, CDN: SILENT, MIRROR: SILENT, ORIGIN: HEALTHY})
    simulator.walk(timeouts=Timeouts(budget=120))
    assert [limits.silence for limits in simulator.limits] == [5, 2.5, 1.25, 1, 1, 15]


def test_promise_7_time_is_bounded_the_last_one_gets_the_tools_patience() -> None:
    simulator = Simulator({CDN: REFUSE, ORIGIN: SILENT})
    failure(simulator, Timeouts(connect=11, read=12))
    assert [(limits.connect, limits.silence) for limits in simulator.limits] == [(3, 5), (11, 12)]


def test_promise_7_time_is_bounded_by_the_tools_own_timeout_too() -> None:
    simulator = Simulator({CDN: BLACKHOLE, ORIGIN: SILENT})
    failure(simulator, Timeouts(connect=0.5, read=0.7))
    assert simulator.elapsed == pytest.approx(0.5 + 0.7, abs=0.1)


def test_promise_7_time_is_bounded_by_a_share_for_everything_untried() -> None:
    simulator = Simulator({R1: DRIP, CDN: {A: DRIP, B: DRIP}, ORIGIN: HEALTHY})
    simulator.walk(timeouts=Timeouts(budget=30))
    # 30/3; 20/3, as the CDN has two addresses; and so on
    assert [limits.whole for limits in simulator.limits] == pytest.approx([10, 20 / 3, 20 / 3, 20 / 3], abs=0.1)


def test_promise_7_time_is_bounded_also_for_the_first_address_of_many() -> None:
    """An undeclared host is its only endpoint; its addresses are the alternatives."""
    simulator = Simulator({ORIGIN: {A: SILENT, B: SILENT, C: HEALTHY}}, declared=False)
    simulator.walk()
    assert simulator.elapsed == pytest.approx(5 + 2.5, abs=0.2)


def test_promise_7_time_is_bounded_so_that_a_drip_leaves_some_for_the_next_address() -> None:
    simulator = Simulator({ORIGIN: {A: DRIP, B: HEALTHY}}, declared=False)
    assert simulator.walk().response == Response(ORIGIN, B, 200)


@pytest.mark.parametrize("untried", [1, 2, 10])
def test_promise_7_time_is_bounded_in_every_phase_by_the_share(untried: int) -> None:
    limits = share(Timeouts(connect=60, read=60), 6, untried)
    assert limits.whole == 6 / untried
    assert max(limits.connect, limits.silence) <= limits.whole


def test_promise_7_time_is_bounded_but_nobodys_chance_is_less_than_a_second_for_silences() -> None:
    assert share(Timeouts(), 30, 2, silences=1000) == Limits(3, 1, 10 * 1024, 15)


def test_promise_7_retries_are_the_passes() -> None:
    for passes in (1, 2, 6):
        simulator = Simulator({R1: REFUSE, CDN: answers(503), ORIGIN: RESET})
        failure(simulator, Timeouts(passes=passes))
        assert simulator.order == [R1, CDN, ORIGIN] * passes


def test_promise_7_backoff_is_between_the_passes_only() -> None:
    simulator = Simulator({R1: REFUSE, CDN: {A: REFUSE, B: RESET}, ORIGIN: REFUSE})
    failure(simulator, Timeouts(passes=7))
    assert simulator.clock.sleeps == [0.25, 0.5, 1, 2, 4, 4]  # at a chance in the middle


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.1875), (1.0, 0.3125)])
def test_promise_7_backoff_is_jittered(chance: float, pause: float) -> None:
    simulator = Simulator({ORIGIN: [REFUSE, HEALTHY]}, chance=lambda: chance)
    simulator.walk(timeouts=Timeouts(passes=2))
    assert simulator.clock.sleeps == [pause]


def test_promise_7_a_failure_that_passes_is_survived() -> None:
    simulator = Simulator({CDN: [REFUSE, SILENT, RESET], ORIGIN: [answers(502), answers(503), HEALTHY]})
    assert simulator.walk(timeouts=Timeouts(passes=3)).response.endpoint == ORIGIN


def test_promise_7_retry_after_never_blocks_while_another_is_there() -> None:
    simulator = Simulator({CDN: {A: throttles(10, 503), B: HEALTHY}, ORIGIN: HEALTHY})
    assert simulator.walk(timeouts=Timeouts(passes=6)).response.endpoint == ORIGIN
    assert simulator.clock.sleeps == []


def test_promise_7_retry_after_leaves_the_other_addresses_for_last() -> None:
    simulator = Simulator({CDN: {A: throttles(10), B: HEALTHY}, ORIGIN: REFUSE})
    assert simulator.walk().response == Response(CDN, B, 200)
    assert simulator.order == [CDN, ORIGIN, CDN]


def test_promise_7_retry_after_is_waited_for_when_there_is_nothing_else() -> None:
    simulator = Simulator({CDN: [throttles(20), HEALTHY], ORIGIN: [throttles(10), HEALTHY]})
    assert simulator.walk(timeouts=Timeouts(passes=2)).response.endpoint == CDN
    assert simulator.clock.sleeps == [10]


def test_promise_7_retry_after_beyond_the_budget_does_not_count() -> None:
    simulator = Simulator({ORIGIN: [throttles(31), HEALTHY]})
    simulator.walk(timeouts=Timeouts(passes=2))
    assert simulator.clock.sleeps == [0.25]


def test_promise_7_no_pass_begins_for_which_there_is_no_time() -> None:
    simulator = Simulator({ORIGIN: SILENT})
    failure(simulator, Timeouts(read=29.9, budget=30, passes=6))
    assert simulator.order == [ORIGIN]
    assert simulator.clock.sleeps == []


# -- 8. What was learnt is remembered; fail open.


def test_promise_8_fail_open_when_everything_is_demoted() -> None:
    everybody = frozenset({R1, CDN, ORIGIN})
    simulator = Simulator({R1: TO_CDN, CDN: answers(500), ORIGIN: HEALTHY}, demoted=everybody)
    assert simulator.walk().response.endpoint == ORIGIN
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, ORIGIN: RESET}, demoted=everybody)
    assert simulator.walk().response.endpoint == CDN


def test_promise_8_every_attempt_is_noticed_when_it_is_made() -> None:
    simulator = Simulator({R1: REFUSE, CDN: {A: REFUSE, B: LOGIN_PAGE}, ORIGIN: HEALTHY})
    assert simulator.walk().attempts == tuple(simulator.noticed)


# -- 9. Trust does not leak.


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("place", ["http://cdn.example/mirror/simple/six/", "http://stranger.example/", "HTTP://x/"])
def test_promise_9_https_never_becomes_http(place: str, declared: bool) -> None:
    simulator = Simulator({ORIGIN: redirects(place)}, declared=declared)
    error = failure(simulator)
    assert "from https to http" in str(error)
    assert error.attempts[-1].verdict is Verdict.BROKEN


def test_promise_9_https_never_becomes_http_at_the_second_hop_either() -> None:
    simulator = Simulator({R1: redirects(R2.base + "simple/six/"), R2: redirects("http://x.example/"), ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, R2, ORIGIN]


def test_promise_9_https_never_becomes_http_by_way_of_a_plain_copy() -> None:
    """The tool asked for https: a redirect between plain copies is still one to http."""
    plain = Endpoint("http://plain.example/", Role.REDIRECTOR)
    simulator = Simulator({plain: redirects("http://stranger.example/x"), ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN


def test_promise_9_https_never_becomes_http_again_after_http_became_https() -> None:
    secure = Endpoint("https://secure.example/", Role.REDIRECTOR)
    scripts = {secure: redirects("http://index.example/other"), Endpoint("http://index.example/", Role.ORIGIN): HEALTHY}
    simulator = Simulator(scripts, index="http://index.example/")
    assert simulator.walk().response.endpoint.role is Role.ORIGIN


def test_promise_9_http_may_stay_http() -> None:
    simulator = Simulator(
        {Endpoint("http://index.example/", Role.ORIGIN): redirects("http://b.example/")}, index="http://index.example/"
    )
    assert simulator.walk().location == "http://b.example/"


@pytest.mark.parametrize(
    "location",
    ["ftp://a.example/x", "file:///etc/passwd", "javascript:1", "http:///x", "https://[::1", "https://a:b/"],
)
def test_promise_9_a_redirect_to_no_place_is_the_endpoints_fault(location: str) -> None:
    simulator = Simulator({CDN: redirects(location), ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.noticed[0].verdict is Verdict.BROKEN
    assert "which is no place" in simulator.noticed[0].detail


# -- 10. Honest when all is lost.


def test_promise_10_honest_when_all_is_lost_every_attempt_is_named_in_order() -> None:
    simulator = Simulator({R1: {}, CDN: {A: REFUSE, B: SILENT}, MIRROR: LOGIN_PAGE, ORIGIN: answers(503)})
    error = failure(simulator)
    assert error.url == PAGE
    assert [(a.endpoint, a.address, a.verdict.value) for a in error.attempts] == [
        (R1, None, "transient"),
        (CDN, A, "transient"),
        (CDN, B, "transient"),
        (MIRROR, A, "broken"),
        (ORIGIN, A, "transient"),
    ]
    lines = str(error).splitlines()
    assert lines[0] == "no usable answer for https://index.example/simple/six/ after 5 attempts:"
    for line, attempt in zip(lines[1:], error.attempts, strict=False):
        assert attempt.endpoint.base in line
        assert attempt.address is None or attempt.address in line
        assert attempt.detail in line and f"after {attempt.seconds:.2f} s" in line and attempt.verdict.value in line
    assert "DNS is down" in lines[-1]


def test_promise_10_honest_when_all_is_lost_also_in_another_process() -> None:
    error = failure(Simulator({R1: TO_CDN, CDN: {A: REFUSE, B: RESET}, ORIGIN: TRUNCATED}))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, AllEndpointsFailed)
    assert (again.url, again.attempts, again.hint, str(again)) == (error.url, error.attempts, error.hint, str(error))


def test_promise_10_honest_when_all_is_lost_about_earlier_walks_too() -> None:
    before = tuple(failure(Simulator({CDN: TRUNCATED})).attempts)
    simulator = Simulator({ORIGIN: REFUSE})
    with pytest.raises(AllEndpointsFailed) as caught:
        simulator.walk(before=before)
    assert [attempt.endpoint for attempt in caught.value.attempts] == [CDN, ORIGIN]
    assert simulator.moves == [(before[-1], ORIGIN)]


def test_promise_10_honest_one_move_for_each_failover() -> None:
    simulator = Simulator({R1: {A: SILENT, B: RESET}, CDN: answers(503), ORIGIN: HEALTHY})
    simulator.walk()
    assert [(str(failed), to) for failed, to in simulator.moves] == [
        (str(simulator.noticed[1]), CDN),
        (str(simulator.noticed[2]), ORIGIN),
    ]


def test_promise_10_honest_and_silent_when_all_is_well() -> None:
    simulator = Simulator({R1: TO_CDN, CDN: HEALTHY, ORIGIN: HEALTHY})
    simulator.walk()
    assert simulator.moves == []


def test_promise_10_honest_a_retry_or_a_new_pass_is_no_failover() -> None:
    simulator = Simulator({ORIGIN: {A: [SILENT, HEALTHY], B: [RESET, HEALTHY]}})
    simulator.walk(timeouts=Timeouts(passes=2))
    assert len(simulator.noticed) == 3
    assert simulator.moves == []
    simulator = Simulator({CDN: REFUSE, ORIGIN: REFUSE})
    failure(simulator, Timeouts(passes=2))
    assert [to for _, to in simulator.moves] == [ORIGIN, ORIGIN]


# -- The loop's own manners.


def test_an_error_of_the_asker_is_not_swallowed() -> None:
    """Only outcomes are retried: a programming error, or the user's ^C, ends the walk."""
    simulator = Simulator({CDN: HEALTHY, ORIGIN: HEALTHY})

    def ask(step: Step) -> Outcome[Response]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(Question(PAGE, simulator.pool, (CDN, ORIGIN)), ask, simulator.world)


def test_promise_7_retry_after_is_not_waited_for_where_somebody_else_can_be_asked() -> None:
    simulator = Simulator({CDN: throttles(20), ORIGIN: [answers(502), HEALTHY]})
    assert simulator.walk(timeouts=Timeouts(passes=2)).response.endpoint == ORIGIN
    assert simulator.clock.sleeps == [pytest.approx(0.25)]


def test_promise_9_a_host_that_leads_to_http_is_not_asked_again() -> None:
    simulator = Simulator({ORIGIN: redirects("http://plain.example/")}, declared=False)
    failure(simulator, Timeouts(passes=6))
    assert len(simulator.asked) == 1 and simulator.clock.sleeps == []


def test_promise_3_redirectors_are_real_and_one_place_in_two_spellings_is_asked_once() -> None:
    with_port = CDN.base.replace(".example/", ".example:443/") + "simple/six/"
    assert with_port != CDN.base + "simple/six/"
    simulator = Simulator({R1: redirects(with_port), CDN: answers(404), ORIGIN: HEALTHY})
    assert simulator.walk().response.endpoint == ORIGIN
    assert simulator.order == [R1, CDN, ORIGIN]
