"""What holds of every walk, whatever the pool and whatever its endpoints do."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.failover import Answer, Timeouts
from cdn_fallback.pool import Endpoint, Pool, Role, pool_for
from cdn_fallback.verdicts import Trouble, Verdict
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
    Script,
    Simulator,
    answers,
    redirects,
    throttles,
)

quick = settings(max_examples=200, deadline=None, database=None, derandomize=True)

BASES = tuple(f"https://e{number}.example/" for number in range(4))
INDEX = "https://index.example/"
PASSING = (REFUSE, BLACKHOLE, WRONG_CERTIFICATE, SILENT, RESET, DRIP, TRUNCATED, LOGIN_PAGE, BOMB, WRONG_HASH)
TROUBLED = [*PASSING, answers(500), answers(503), throttles(5), throttles(3600)]
SETTLING = [STALE, *[answers(status) for status in (401, 403, 404, 410)]]
REDIRECTING = [
    redirects("http://plain.example/"),
    redirects("https://[::1"),
    redirects("https://stranger.example/simple/six/"),
    redirects("/simple/Six/"),
    *[redirects(base + "simple/six/") for base in BASES],
]

Scripts = dict[Endpoint, Mapping[str, Script]]


KINDS = [(role, gate) for role in Role for gate in (False, True)]


def pools(faults: list[Fault], fewest: int = 0) -> st.SearchStrategy[Scripts]:
    """One to four endpoints with up to four addresses, each with a fault that stays, or one that passes, or none."""
    choices = [[HEALTHY]]
    for fault in faults:
        choices += [[fault], [fault, HEALTHY], [fault, fault, HEALTHY]]
    addresses = st.lists(st.sampled_from(choices), min_size=fewest, max_size=4)

    def build(drawn: list[tuple[tuple[Role, bool], list[list[Fault]]]]) -> Scripts:
        return {
            Endpoint(base, role, gate): {f"192.0.2.{number}": script for number, script in enumerate(scripts)}
            for base, ((role, gate), scripts) in zip(BASES, drawn, strict=False)
        }

    return st.lists(st.tuples(st.sampled_from(KINDS), addresses), min_size=1, max_size=4).map(build)


times = st.builds(
    Timeouts,  # all of its fields: hypothesis would make up what is left out
    connect=st.sampled_from([0.5, 15.0, float("inf")]),
    read=st.sampled_from([0.5, 15.0, float("inf")]),
    passes=st.integers(min_value=1, max_value=4),
    budget=st.just(30.0),
    connect_else=st.just(3.0),
    silence_else=st.just(5.0),
    rate_else=st.just(10240.0),
)
anything = pools([*TROUBLED, *SETTLING, *REDIRECTING])


def run(simulator: Simulator, timeouts: Timeouts) -> Answer[Response] | None:
    try:
        return simulator.walk(timeouts=timeouts)
    except AllEndpointsFailed as error:
        assert error.attempts == tuple(simulator.noticed)
        return None


@quick
@given(pools(TROUBLED), st.data(), times)
def test_if_one_endpoint_has_one_good_address_there_is_an_answer(
    scripts: Scripts, data: st.DataObject, timeouts: Timeouts
) -> None:
    endpoint = data.draw(st.sampled_from(list(scripts)))
    addresses = {**scripts[endpoint], "192.0.2.99": HEALTHY}
    shuffled = data.draw(st.permutations(list(addresses)))
    simulator = Simulator({**scripts, endpoint: {a: addresses[a] for a in shuffled}}, index=INDEX)
    answer = run(simulator, timeouts)
    assert answer is not None
    assert answer.response.status == 200
    assert not simulator.clock.sleeps, "a good address was there: nothing was to be waited for"


@quick
@given(anything, times, st.booleans())
def test_an_answer_is_what_somebody_answered(scripts: Scripts, timeouts: Timeouts, declared: bool) -> None:
    simulator = Simulator(scripts, index=INDEX, declared=declared)
    answer = run(simulator, timeouts)
    if answer is None:
        return
    *_, last = [a for a in answer.attempts if (a.endpoint, a.address) == _who(answer.response)]
    role, gate = last.endpoint.role, last.endpoint.gatekeeper
    accepted = last.verdict is Verdict.ANSWER or last.trouble is Trouble.STALE
    assert accepted or (last.verdict is Verdict.DENIED and (gate or role is Role.ORIGIN))
    assert answer.response.status < 400 or role is Role.ORIGIN or gate
    assert (answer.location is None) == (not 300 <= answer.response.status < 400)
    if answer.location is not None:
        assert answer.location.startswith("https://")
        assert not declared or not simulator.pool.locate(answer.location) or answer.location.startswith(INDEX)


def _who(response: Response) -> tuple[Endpoint, str]:
    return response.endpoint, response.address


@quick
@given(anything, times)
def test_time_is_bounded_and_every_walk_ends(scripts: Scripts, timeouts: Timeouts) -> None:
    simulator = Simulator(scripts, index=INDEX)
    run(simulator, timeouts)
    assert simulator.elapsed <= timeouts.budget + 1e-6
    tries = sum(max(1, len(addresses)) for addresses in scripts.values())
    assert len(simulator.steps) <= tries * timeouts.passes
    assert len(simulator.clock.sleeps) < timeouts.passes


@quick
@given(pools(TROUBLED, fewest=1), times)
def test_nobody_gives_up_before_every_address_had_its_chance(scripts: Scripts, timeouts: Timeouts) -> None:
    simulator = Simulator(scripts, index=INDEX)
    if run(simulator, timeouts) is None:
        everything = {(endpoint, address) for endpoint, addresses in scripts.items() for address in addresses}
        assert set(simulator.asked) == everything


@quick
@given(anything, times)
def test_only_the_pool_is_asked_and_nothing_twice_in_a_pass(scripts: Scripts, timeouts: Timeouts) -> None:
    simulator = Simulator(scripts, index=INDEX)
    run(simulator, Timeouts(timeouts.connect, timeouts.read, passes=1))
    assert all(step.url == step.endpoint.base + "simple/six/" for step in simulator.steps)
    connected = [who for who in simulator.asked if who[1] is not None]
    assert len(connected) == len(set(connected))


@quick
@given(st.text(alphabet="abcABC/.%20?=&#:@~-_é", max_size=30), st.sampled_from(["", "mirror/", "a/b/"]))
def test_a_place_leads_back_to_its_canonical_url(suffix: str, path: str) -> None:
    endpoint = Endpoint(f"https://copy.example/{path}", Role.CDN)
    pool = Pool("any", INDEX, (endpoint,))
    url = INDEX + suffix
    canonical = pool.suffix(url)
    if canonical is None:
        assert pool_for([pool], url).declared is False
        return
    place = pool.place(endpoint, url)
    assert pool.locate(place) == endpoint
    assert pool.canonical(endpoint, place) == INDEX + canonical
