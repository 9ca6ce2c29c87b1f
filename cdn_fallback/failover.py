"""Which copy is asked next, and for how long. Pure: time, chance and I/O come in.

`walk` is the one loop. Every face of the client (pip, requests, buildout, a proxy) calls it with an `ask` of its
own, which makes one request to one endpoint; there is no second loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.pool import Endpoint, Pool, Role, destination, same_folder, site
from cdn_fallback.verdicts import Attempt, Trouble, Verdict

T = TypeVar("T")

MAX_HOPS = 5  # redirects inside a pool for one answer; a redirector needs one
MAX_REDIRECTS = 20  # those that the tool follows count too: requests ends at 30, with a traceback in pip


class Timeouts(NamedTuple):
    """What bounds a walk, in seconds.

    `connect` and `read` are the tool's own timeouts for one attempt, `passes` its retries plus one. `budget`
    spans all attempts: of metadata until it is read, of a file until its bytes flow (again).
    """

    connect: float = 15.0
    read: float = 15.0
    passes: int = 1
    budget: float = 29.0  # so that with what the tool itself takes, nobody waits more than 30 for an error
    connect_else: float = 3.0  # while something else is untried: a SYN is repeated after 1 and 3 s
    silence_else: float = 5.0  # likewise; halved by each silence in the same walk, as they come in groups
    rate_else: float = 10 * 1024  # bytes a second; likewise: what comes more slowly is as good as silent


class Limits(NamedTuple):
    """What one attempt gets, in seconds; `silence` before the first byte, and then whenever it falls behind `rate`."""

    connect: float
    silence: float
    rate: float  # bytes a second
    whole: float


def share(timeouts: Timeouts, remaining: float, untried: int, silences: int = 0) -> Limits:
    """Each attempt gets at most what remains divided by what is still untried (DESIGN 3.7)."""
    whole = max(0.0, remaining) / untried
    if untried == 1:
        return Limits(min(timeouts.connect, whole), min(timeouts.read, whole), 0.0, whole)
    silence = max(1.0, timeouts.silence_else / 2**silences)
    return Limits(
        connect=min(timeouts.connect, whole, timeouts.connect_else),
        silence=min(timeouts.read, whole, silence),
        rate=timeouts.rate_else,
        whole=whole,
    )


def silences(attempts: Sequence[Attempt]) -> int:
    """How many of `attempts` were given up for their silence."""
    return sum(attempt.trouble in (Trouble.SILENT, Trouble.SLOW) for attempt in attempts)


class Step(NamedTuple):
    """What the loop asks for: `url` at `endpoint`, over an address that is not in `tried`.

    `limits` tells what the attempt gets, once it is known how many addresses are left: the next one is one of
    the alternatives among which the time is shared.
    """

    endpoint: Endpoint
    url: str
    tried: frozenset[str]
    limits: Callable[[int], Limits]


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


class Question(NamedTuple):
    """What the tool wants: the canonical `url`, and the pool's endpoints in the order to be asked.

    `before` holds the attempts of earlier walks for the same thing, when a body broke and goes on elsewhere;
    `avoid` the bases of endpoints that are at fault for it, to be asked only when nobody else is left; `hops`
    counts the redirects that the tool has followed to come here.
    """

    url: str
    pool: Pool
    endpoints: Sequence[Endpoint]
    timeouts: Timeouts = Timeouts()
    before: tuple[Attempt, ...] = ()
    avoid: frozenset[str] = frozenset()
    hops: int = 0


class World(NamedTuple):
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


def walk(question: Question, ask: Callable[[Step], Outcome[T]], world: World) -> Answer[T]:
    """The first usable answer to `question`, from whichever endpoint gives it.

    A pass asks everything that is still worth trying, each address once: after a transient failure the next
    address of the same endpoint, after a broken answer the next endpoint first. Backoff happens only between
    passes. Raises AllEndpointsFailed with every attempt.
    """
    return _Walk(question, ask, world).run()


@dataclass(slots=True)
class _Candidate:
    """An endpoint's turn in a pass."""

    endpoint: Endpoint
    chain: tuple[str, ...] = ()  # the places whose redirects led here
    tried: frozenset[str] = frozenset()


class _Walk(Generic[T]):
    """The state of one `walk`: across passes the first group, within a pass the second."""

    def __init__(self, question: Question, ask: Callable[[Step], Outcome[T]], world: World) -> None:
        self.question = question
        self.ask = ask
        self.world = world
        self.started = world.clock()
        self.attempts = list(question.before)
        self.settled: set[str] = set()  # endpoints whose word is known: asking again would not change it
        self.stale: Outcome[T] | None = None
        self.sent_on: Answer[T] | None = None  # by a copy

        self.queue: OrderedDict[str, _Candidate] = OrderedDict()  # place -> who serves it
        self.finished: dict[str, Verdict] = {}  # places that have had their turn, and what came of it
        self.dead: dict[str, frozenset[str]] = {}  # endpoint's base -> addresses that have failed, for all its places
        self.failed = question.before[-1] if question.before else None  # what the next failover is blamed on
        self.refused: Outcome[T] | None = None
        self.parked: list[float] = []

    def run(self) -> Answer[T]:
        question = self.question
        for number in range(question.timeouts.passes):
            worth_asking = [e for e in question.endpoints if e.base not in self.settled]
            # Retry-After is waited for only where everybody asks for it.
            parked = min(self.parked) if self.parked and len(self.parked) >= len(worth_asking) else 0.0
            if number and not _pause(number, parked, self.remaining(), self.world):
                break
            answer = self.one_pass(worth_asking)
            if answer is not None:
                return answer
            # An old page is better than none, and the origin's refusal is its final word.
            best = self.stale or self.refused
            if best is not None and best.response is not None:
                return Answer(best.response, tuple(self.attempts))
            if self.sent_on:
                return self.sent_on
            if all(e.base in self.settled for e in question.endpoints):
                break
            self.failed = None  # to begin anew is no failover
        raise AllEndpointsFailed(question.url, self.attempts, _hint(self.attempts))

    def remaining(self) -> float:
        return self.question.timeouts.budget - (self.world.clock() - self.started)

    def one_pass(self, endpoints: Sequence[Endpoint]) -> Answer[T] | None:
        """Ask until somebody answers or everybody has had a turn."""
        pool, url = self.question.pool, self.question.url
        ordered = sorted(endpoints, key=lambda e: e.base in self.question.avoid)
        self.queue = OrderedDict((pool.place(e, url), _Candidate(e)) for e in ordered)
        settled = (Verdict.MISS, Verdict.DENIED)
        self.finished = {place: verdict for place, verdict in self.finished.items() if verdict in settled}
        self.refused, self.parked, self.dead = None, [], {}
        while self.queue and self.remaining() > 0:
            place, candidate = self.queue.popitem(last=False)
            outcome, target = self.attempt(place, candidate)
            if outcome.last.verdict is not Verdict.ANSWER:
                self.failed = outcome.last
                if self.is_final(candidate.endpoint, outcome):
                    assert outcome.response is not None
                    return Answer(outcome.response, tuple(self.attempts))
                self.queue_again(place, candidate, outcome)
            elif target is not None and self.goes_on_at(target, place, candidate):
                self.failed = None
            else:
                assert outcome.response is not None
                answer = Answer(outcome.response, tuple(self.attempts), target and _known(pool, target))
                if target is None or not self.is_hearsay(candidate.endpoint, target):
                    return answer
                self.sent_on, self.failed = answer, None
                self.finished[place] = Verdict.ANSWER
        return None

    def attempt(self, place: str, candidate: _Candidate) -> tuple[Outcome[T], str | None]:
        """Ask `candidate`; where it redirects to comes beside its outcome."""
        if self.failed is not None and self.failed.endpoint != candidate.endpoint:
            self.world.moved(self.failed, candidate.endpoint)
        timeouts, others = self.question.timeouts, len(self.queue)

        def limits(addresses: int) -> Limits:
            return share(timeouts, self.remaining(), addresses + others, silences(self.attempts))

        base = candidate.endpoint.base
        tried = candidate.tried | self.dead.get(base, frozenset())
        outcome = self.ask(Step(candidate.endpoint, place, tried, limits))
        target: str | None = None
        if outcome.location is not None:
            outcome, target = _follow(self.question, candidate, place, outcome, self.finished)
        for attempt in outcome.attempts:
            self.attempts.append(attempt)
            self.world.noticed(attempt)
        failed = {
            a.address for a in outcome.attempts if a.verdict is Verdict.TRANSIENT and a.trouble != Trouble.REDIRECT
        }
        self.dead[base] = self.dead.get(base, frozenset()) | {address for address in failed if address}
        self.bury(base, tried | {a.address for a in outcome.attempts if a.address}, outcome.untried)
        return outcome, target

    def bury(self, base: str, tried: frozenset[str], untried: int) -> None:
        """An endpoint of which every address has failed has no other place to be asked at, in this pass.

        Its own, where a redirector has led to another name of the same page, would cost the same seconds again.
        """
        if tried and not untried and tried <= self.dead[base]:
            for place in [place for place, candidate in self.queue.items() if candidate.endpoint.base == base]:
                del self.queue[place]
                self.finished[place] = Verdict.TRANSIENT

    def is_final(self, endpoint: Endpoint, outcome: Outcome[T]) -> bool:
        """Note what a failure settles; True when nobody else needs to be asked."""
        verdict = outcome.last.verdict
        misled = verdict is Verdict.BROKEN and outcome.last.trouble is Trouble.REDIRECT and not outcome.untried
        if verdict in (Verdict.DENIED, Verdict.MISS) or misled:
            self.settled.add(endpoint.base)
        if verdict is Verdict.DENIED and endpoint.role is Role.ORIGIN:
            self.refused = outcome
        if outcome.last.trouble is Trouble.STALE and self.stale is None:
            self.stale = outcome
        if outcome.parked:
            self.parked.append(outcome.parked)
        return verdict is Verdict.DENIED and endpoint.gatekeeper

    def queue_again(self, place: str, candidate: _Candidate, outcome: Outcome[T]) -> None:
        """Give a failed candidate another turn if it has addresses left: next, or last if it is itself at fault."""
        verdict = outcome.last.verdict
        if verdict not in (Verdict.TRANSIENT, Verdict.BROKEN) or outcome.untried == 0:
            self.finished[place] = verdict
            return
        tried = candidate.tried | {a.address for a in outcome.attempts if a.address}
        soon = verdict is Verdict.TRANSIENT and not outcome.parked
        self.enqueue(place, replace(candidate, tried=tried), first=soon)

    def enqueue(self, place: str, candidate: _Candidate, *, first: bool) -> None:
        """Its turn is next (`first`), or after the others; but who is to be avoided stays behind everybody."""
        avoid = self.question.avoid
        self.queue[place] = candidate  # where it was, or at the end
        if candidate.endpoint.base in avoid:
            return
        self.queue.move_to_end(place, last=not first)
        for other in [p for p, c in self.queue.items() if c.endpoint.base in avoid and not first]:
            self.queue.move_to_end(other)

    def is_hearsay(self, endpoint: Endpoint, target: str) -> bool:
        """Whether that the tool should go on at `target` must be heard from the origin, or from nobody else.

        A copy that sends everybody to its error page, or to a login page, would end an install beside a good one. Only
        that a redirector leads out of the pool is its task.
        """
        pool = self.question.pool
        if not pool.declared or endpoint.role is Role.ORIGIN:
            return False
        return endpoint.role is not Role.REDIRECTOR or pool.locate(target) is not None

    def goes_on_at(self, target: str, place: str, candidate: _Candidate) -> bool:
        """Queue what `candidate` redirects to, if that is the same thing in another place of the pool.

        What only changes place is followed here, under the canonical URL. What changes the URL (a normalised
        name, a missing slash) is the tool's to follow, or its relative links would be resolved against the
        wrong base; so is what leaves the pool.
        """
        pool, url = self.question.pool, self.question.url
        hop = pool.locate(target) if pool.declared else None
        if hop is None or not same_folder(pool.canonical(hop, target), url):
            return False
        self.finished[place] = Verdict.ANSWER
        waiting = self.queue.get(target) or _Candidate(hop)
        self.enqueue(target, replace(waiting, chain=(*candidate.chain, place)), first=not self.world.demoted(hop))
        return True


def _known(pool: Pool, target: str) -> str:
    """`target` as the tool knows places: under the canonical URL where that is the pool's."""
    hop = pool.locate(target) if pool.declared else None
    return target if hop is None else pool.canonical(hop, target)


def backoff(number: int, chance: Callable[[], float]) -> float:
    """Seconds before the `number`-th repetition: a quarter, doubled each time, at most 4, with jitter."""
    return min(0.25 * 2.0 ** (number - 1), 4.0) * (0.75 + 0.5 * chance())


def _pause(number: int, parked: float, remaining: float, world: World) -> bool:
    """Wait before pass `number`; False when there is no time left for it.

    A server that said Retry-After is given that long if the budget allows; beyond the budget it does not count,
    as waiting would be failing.
    """
    pause = backoff(number, world.chance)
    if pause < parked < remaining:
        pause = parked
    if pause >= remaining:
        return False
    world.sleep(pause)
    return True


def _follow(
    question: Question, candidate: _Candidate, place: str, outcome: Outcome[T], finished: Mapping[str, Verdict]
) -> tuple[Outcome[T], str | None]:
    """Where a 30x leads, as an absolute URL without credentials; or the outcome that says why not there."""
    target = destination(place, outcome.location or "")
    if target is None:
        return _but(outcome, "redirects to a URL which is no place", Verdict.BROKEN, outcome.untried), None
    hop = question.pool.locate(target) if question.pool.declared else None
    if hop is not None:  # in the pool's own spelling: https://host:443/ is https://host/
        target = question.pool.place(hop, question.pool.canonical(hop, target))
    problem = None
    if site(target)[0] == "http" and "https" in (site(place)[0], site(question.url)[0]):
        problem = f"redirects from https to {target}: refused"
    elif question.pool.declared and (target == place or target in candidate.chain):
        problem = f"redirects in a loop, back to {target}"
    elif len(candidate.chain) >= MAX_HOPS:
        problem = f"redirects more than {MAX_HOPS} times"
    elif question.hops >= MAX_REDIRECTS:
        problem = f"redirects, after {MAX_REDIRECTS} redirects before"
    if problem:
        return _but(outcome, problem, Verdict.BROKEN, outcome.untried), None
    if finished.get(target) is Verdict.MISS:  # nothing failed: it is the copy's word, in the redirector's mouth
        return _but(outcome, f"redirects to {target}, which does not have it", Verdict.MISS), None
    if target in finished:
        return _but(outcome, f"redirects to {target}, which has failed", Verdict.TRANSIENT), None
    return outcome, target


def _but(outcome: Outcome[T], detail: str, verdict: Verdict, untried: int = 0) -> Outcome[T]:
    last = outcome.last._replace(detail=detail, verdict=verdict, trouble=Trouble.REDIRECT)
    return Outcome((*outcome.attempts[:-1], last), untried=untried)


def _hint(attempts: Sequence[Attempt]) -> str:
    if any(a.verdict is Verdict.MISS for a in attempts):
        return "A copy did not have it, but only the origin can say that it does not exist, and none answered."
    if any(a.trouble is Trouble.OLD for a in attempts):
        return "A copy had it, but an old one. How old a copy may be, in hours, is the setting `oldest` of the pool."
    if any(a.trouble is Trouble.RESOLVE for a in attempts):
        return "If no name resolves, the network or its DNS is down on this side."
    return ""
