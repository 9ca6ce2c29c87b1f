"""Which copy is asked next, for how long, and what its answer means. Pure: time, chance and I/O come in.

`walk` is the one loop. Every face of the client (pip, requests, buildout, a proxy) calls it with an `ask` of its
own, which makes one request to one endpoint; there is no second loop.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar
from urllib.parse import urljoin, urlsplit

from cdn_fallback.errors import AllEndpointsFailed, printable
from cdn_fallback.pool import Endpoint, Pool, Role, same_folder, without_credentials

T = TypeVar("T")

MAX_HOPS = 5  # redirects inside a pool for one answer; a redirector needs one


class Verdict(str, enum.Enum):
    """What an attempt's outcome means."""

    ANSWER = "answer"  # hand it to the tool
    MISS = "miss"  # this copy does not have it; the origin's word is final
    DENIED = "denied"  # ask elsewhere, keep the reason
    TRANSIENT = "transient"  # the address is at fault: another one
    BROKEN = "broken"  # the endpoint is at fault: another one


class Trouble(str, enum.Enum):
    """What can go wrong on the way to an answer, as an attempt records it."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    SILENT = "silent"
    LOST = "lost"
    SLOW = "slow"
    STATUS = "status"
    CUT = "cut"
    KIND = "kind"
    SIZE = "size"
    HASH = "hash"
    STALE = "stale"
    REDIRECT = "redirect"


# Classification is data. What ends an attempt before there is a whole answer, and whose fault it is.
TROUBLES: dict[Trouble, Verdict] = {
    Trouble.RESOLVE: Verdict.TRANSIENT,  # a resolver's hiccup
    Trouble.CONNECT: Verdict.TRANSIENT,  # refused, unreachable, timed out
    Trouble.TLS: Verdict.TRANSIENT,  # one node with an old certificate beside good ones
    Trouble.SILENT: Verdict.TRANSIENT,  # connected, then no byte: urllib3 alone never tries another address
    Trouble.LOST: Verdict.TRANSIENT,  # reset, closed, not HTTP
    Trouble.SLOW: Verdict.TRANSIENT,  # stalled or dripping in the middle of a body
    Trouble.CUT: Verdict.BROKEN,  # shorter or longer than said: pip once took half a page for a whole one
    Trouble.KIND: Verdict.BROKEN,  # a login page, cut JSON, another Content-Type
    Trouble.SIZE: Verdict.BROKEN,  # over the cap: 1 MB of gzip took pip to 2 GB
    Trouble.HASH: Verdict.BROKEN,  # not what the index promised
    Trouble.STALE: Verdict.BROKEN,  # an older serial than one already seen (pypi/warehouse#8568)
    Trouble.REDIRECT: Verdict.BROKEN,  # a loop, https to http, no Location
}

DENIED = frozenset({401, 403, 407, 451})
TRANSIENT = frozenset({408, 425, 429})  # and every 5xx
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def judge(status: int, role: Role, *, ranged: bool = False, conditional: bool = False) -> Verdict:
    """The verdict on a status code; `ranged` and `conditional` say what the request had asked for.

    Every other 4xx is read as 404 is: a static copy may refuse a request that the origin would answer.
    """
    if status in DENIED:
        return Verdict.DENIED
    if status in TRANSIENT or status >= 500:
        return Verdict.TRANSIENT
    if status == 304:
        return Verdict.ANSWER if conditional else Verdict.BROKEN
    if status == 206:
        return Verdict.ANSWER if ranged else Verdict.BROKEN
    if 200 <= status < 400:
        return Verdict.ANSWER
    if 400 <= status < 500:
        return Verdict.ANSWER if role is Role.ORIGIN else Verdict.MISS
    return Verdict.BROKEN


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one endpoint over one address, and how it ended.

    `seconds` since its start; `detail` is a phrase that follows the endpoint's name ("answered 503").
    `address` is ``None`` where no connection of ours was made: a name that did not resolve, or a proxy.
    """

    endpoint: Endpoint
    url: str
    address: str | None
    verdict: Verdict
    detail: str
    seconds: float
    trouble: Trouble | None = None
    status: int | None = None

    def __str__(self) -> str:
        where = f" ({self.address})" if self.address else ""
        text = f"{self.endpoint}{where} {self.detail} after {self.seconds:.2f} s [{self.verdict.value}]"
        return printable(text)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What bounds a walk, in seconds.

    `connect` and `read` are the tool's own timeouts for one attempt, `passes` its retries plus one. `budget`
    spans all attempts: of metadata until it is read, of a file until its bytes flow (again).
    """

    connect: float = 15.0
    read: float = 15.0
    passes: int = 1
    budget: float = 30.0
    connect_else: float = 3.0  # while something else is untried: a SYN is repeated after 1 and 3 s
    first_byte_else: float = 5.0  # likewise; halved by each silence in the same walk, as they come in groups


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt gets, in seconds. `last` is set when nothing else is untried in this pass."""

    connect: float
    first_byte: float
    whole: float
    last: bool


def share(timeouts: Timeouts, remaining: float, untried: int, silences: int = 0) -> Limits:
    """Each attempt gets at most what remains divided by what is still untried (DESIGN 3.7)."""
    whole = remaining / untried
    last = untried == 1
    patience = max(1.0, timeouts.first_byte_else / 2**silences)
    return Limits(
        connect=min(timeouts.connect, whole, timeouts.connect if last else timeouts.connect_else),
        first_byte=min(timeouts.read, whole, timeouts.read if last else patience),
        whole=whole,
        last=last,
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What the loop asks for: `url` at `endpoint`, over an address that is not in `tried`."""

    endpoint: Endpoint
    url: str
    tried: frozenset[str]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What an `ask` came back with.

    `attempts` holds a failed connection for each raced address that lost by failing, then the request itself:
    its verdict is the outcome's. `untried` counts the endpoint's addresses that are still worth a try.
    """

    attempts: tuple[Attempt, ...]
    response: T | None = None
    location: str | None = None  # of a 30x, as the server sent it
    untried: int = 0
    parked: float = 0.0  # seconds, from Retry-After

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


@dataclass(frozen=True, slots=True)
class Question:
    """What the tool wants: the canonical `url`, and the pool's endpoints in the order to be asked.

    `before` holds the attempts of earlier walks for the same thing, when a body broke and goes on elsewhere.
    """

    url: str
    pool: Pool
    endpoints: Sequence[Endpoint]
    timeouts: Timeouts = field(default_factory=Timeouts)
    before: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Time, chance and memory, as the loop sees them.

    `noticed` hears of every attempt, `moved` of every failover: (the attempt that failed, who is asked next).
    """

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    chance: Callable[[], float]
    demoted: Callable[[Endpoint], bool] = lambda endpoint: False
    noticed: Callable[[Attempt], None] = lambda attempt: None
    moved: Callable[[Attempt, Endpoint], None] = lambda attempt, endpoint: None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The response to hand to the tool, and the attempts that led to it.

    `location` is set for a redirect that is the tool's own business: where it should go, as it knows places.
    """

    response: T
    attempts: tuple[Attempt, ...]
    location: str | None = None


@dataclass(slots=True)
class _Candidate:
    endpoint: Endpoint
    chain: tuple[str, ...] = ()  # the places whose redirects led here
    tried: frozenset[str] = frozenset()
    untried: int = 1  # addresses; one until the name is resolved


def walk(question: Question, ask: Callable[[Step], Outcome[T]], world: World) -> Answer[T]:
    """The first usable answer to `question`, from whichever endpoint gives it.

    A pass asks everything that is still worth trying, each address once: after a transient failure the next
    address of the same endpoint, after a broken answer the next endpoint first. Backoff happens only between
    passes. Raises AllEndpointsFailed with every attempt.
    """
    pool, attempts = question.pool, list(question.before)
    settled: set[str] = set()  # endpoints whose word is known: asking again would not change it
    stale: Outcome[T] | None = None
    started, silences, parked = world.clock(), 0, list[float]()
    failed = attempts[-1] if attempts else None  # what the next failover is blamed on; a new pass is none

    def remaining() -> float:
        return question.timeouts.budget - (world.clock() - started)

    for number in range(question.timeouts.passes):
        if number and not _pause(number, min(parked, default=0.0), remaining(), world):
            break
        queue = OrderedDict(
            (pool.place(e, question.url), _Candidate(e)) for e in question.endpoints if e.base not in settled
        )
        finished: set[str] = set()
        refused: Outcome[T] | None = None
        parked, failed = [], failed if number == 0 else None
        while queue and remaining() > 0:
            place, candidate = queue.popitem(last=False)
            endpoint = candidate.endpoint
            if failed is not None and failed.endpoint != endpoint:
                world.moved(failed, endpoint)
            limits = share(question.timeouts, remaining(), candidate.untried + len(queue), silences)
            outcome = ask(Step(endpoint, place, candidate.tried, limits))
            target: str | None = None
            if outcome.location is not None:
                outcome, target = _follow(question, candidate, place, outcome, finished)
            for attempt in outcome.attempts:
                attempts.append(attempt)
                world.noticed(attempt)
                silences += attempt.trouble is Trouble.SILENT

            failed = outcome.last
            if outcome.last.verdict is Verdict.ANSWER:
                failed = None
                hop = pool.locate(target) if target else None
                if target and hop and (pool.declared and _stays(question, hop, target)):
                    finished.add(place)
                    waiting = queue.pop(target, None) or _Candidate(hop)
                    queue[target] = replace(waiting, chain=(*candidate.chain, place))
                    if not world.demoted(hop):  # a demoted place has its turn after the others
                        queue.move_to_end(target, last=False)
                    continue
                if target and hop and pool.declared:
                    target = pool.canonical(hop, target)
                assert outcome.response is not None
                return Answer(outcome.response, tuple(attempts), target)

            if outcome.last.verdict is Verdict.DENIED:
                settled.add(endpoint.base)
                if endpoint.gatekeeper:
                    assert outcome.response is not None
                    return Answer(outcome.response, tuple(attempts))
                if endpoint.role is Role.ORIGIN:
                    refused = outcome
            elif outcome.last.verdict is Verdict.MISS:
                settled.add(endpoint.base)
            elif outcome.last.trouble is Trouble.STALE and stale is None:
                stale = outcome
            if outcome.parked:
                parked.append(outcome.parked)

            again = outcome.last.verdict in (Verdict.TRANSIENT, Verdict.BROKEN) and outcome.untried > 0
            if again:
                tried = candidate.tried | {a.address for a in outcome.attempts if a.address}
                queue[place] = replace(candidate, tried=tried, untried=outcome.untried)
                if outcome.last.verdict is Verdict.TRANSIENT and not outcome.parked:
                    queue.move_to_end(place, last=False)
            else:
                finished.add(place)

        # The pass is over. An old page is better than none, and the origin's refusal is its final word.
        best = stale or refused
        if best is not None and best.response is not None:
            return Answer(best.response, tuple(attempts))
        if all(e.base in settled for e in question.endpoints):
            break
    raise AllEndpointsFailed(question.url, attempts, _hint(attempts))


def _pause(number: int, parked: float, remaining: float, world: World) -> bool:
    """Wait before pass `number`; False when there is no time left for it.

    Exponential with jitter (a quarter of a second, doubled, at most 4 s). A server that said Retry-After is
    given that long if the budget allows; beyond the budget it does not count, as waiting would be failing.
    """
    pause = min(0.25 * 2 ** (number - 1), 4.0) * (0.75 + 0.5 * world.chance())
    if pause < parked < remaining:
        pause = parked
    if pause >= remaining:
        return False
    world.sleep(pause)
    return True


def _follow(
    question: Question, candidate: _Candidate, place: str, outcome: Outcome[T], finished: set[str]
) -> tuple[Outcome[T], str | None]:
    """Where a 30x leads, as an absolute URL without credentials; or the outcome that says why not there."""
    target = without_credentials(urljoin(place, outcome.location or ""))
    scheme = urlsplit(target).scheme
    problem = None
    if scheme not in ("http", "https") or not urlsplit(target).hostname:
        problem = f"redirects to {target!r}, which is no place"
    elif scheme == "http" and "https" in (urlsplit(place).scheme, urlsplit(question.url).scheme):
        problem = f"redirects from https to {target}: refused"
    elif question.pool.declared and (target == place or target in candidate.chain):
        problem = f"redirects in a loop, back to {target}"
    elif len(candidate.chain) >= MAX_HOPS:
        problem = f"redirects more than {MAX_HOPS} times"
    if problem:
        return _but(outcome, problem, Verdict.BROKEN), None
    if target in finished:
        return _but(outcome, f"redirects to {target}, which has failed", Verdict.TRANSIENT), None
    return outcome, target


def _but(outcome: Outcome[T], detail: str, verdict: Verdict) -> Outcome[T]:
    last = replace(outcome.last, detail=detail, verdict=verdict, trouble=Trouble.REDIRECT)
    return Outcome((*outcome.attempts[:-1], last))


def _stays(question: Question, hop: Endpoint, target: str) -> bool:
    """Whether `target` is the asked-for thing in another place, and not another thing.

    What only changes place is followed here, under the canonical URL. What changes the URL (a normalised name,
    a missing slash) is the tool's to follow, or its relative links would be resolved against the wrong base.
    """
    there = question.pool.canonical(hop, target)
    return there == question.url or same_folder(there, question.url)


def _hint(attempts: Sequence[Attempt]) -> str:
    if any(a.verdict is Verdict.MISS for a in attempts):
        return "A copy did not have it, but only the origin can say that it does not exist, and none answered."
    if any(a.trouble is Trouble.RESOLVE for a in attempts):
        return "If no name resolves, the network or its DNS is down on this side."
    return ""
