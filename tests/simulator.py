"""Endpoints in memory, with a clock of their own: what `failover.walk` asks, without a network and without waiting.

A script says what each address of each endpoint does, try after try; the last fault of a script stays. The clock
moves on by what a fault costs within the limits that the walk gives, and addresses race as in `dial.race`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cdn_fallback.failover import Answer, Limits, Outcome, Question, Step, Timeouts, World, walk
from cdn_fallback.pool import Endpoint, Pool, Role
from cdn_fallback.verdicts import REDIRECTS, TROUBLES, Attempt, Trouble, judge

STAGGER = 0.25  # s between the starts of a race
TRIP = 0.02  # s to a server and back


@dataclass(frozen=True, slots=True)
class Fault:
    """What an address does with a try; without any field set it is healthy.

    :param during: how long it holds the client: not at all, or as long as the limit of that name lets it
    :param retry_after: seconds
    """

    trouble: Trouble | None = None
    during: Literal["", "connect", "silence", "whole"] = ""
    status: int = 200
    location: str | None = None
    retry_after: float = 0.0

    @property
    def connects(self) -> bool:
        return self.trouble not in (Trouble.CONNECT, Trouble.TLS)


HEALTHY = Fault()
REFUSE = Fault(Trouble.CONNECT)
BLACKHOLE = Fault(Trouble.CONNECT, during="connect")
WRONG_CERTIFICATE = Fault(Trouble.TLS)
SILENT = Fault(Trouble.SILENT, during="silence")
RESET = Fault(Trouble.LOST)
STALL = Fault(Trouble.SLOW, during="silence")
DRIP = Fault(Trouble.SLOW, during="whole")
TRUNCATED = Fault(Trouble.CUT)
LOGIN_PAGE = Fault(Trouble.KIND)
BOMB = Fault(Trouble.SIZE)
WRONG_HASH = Fault(Trouble.HASH)
STALE = Fault(Trouble.STALE)


def answers(status: int) -> Fault:
    """An answer with `status`, whatever it means."""
    return Fault(status=status)


def throttles(seconds: float, status: int = 429) -> Fault:
    """Too many requests: come back after `seconds`."""
    return Fault(status=status, retry_after=seconds)


def redirects(location: str, status: int = 302) -> Fault:
    """A redirect to `location`, as the server would write it."""
    return Fault(status=status, location=location)


@dataclass(frozen=True, slots=True)
class Response:
    """What an answer was made of: who gave it, over which address, with which status."""

    endpoint: Endpoint
    address: str
    status: int


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.now += seconds


Script = Fault | Sequence[Fault]


@dataclass(slots=True)
class Simulator:
    """A pool whose endpoints do what `scripts` says.

    :param scripts: for each endpoint what all of its one address does, or what each of its addresses does; an
        endpoint without addresses does not resolve. In this order it is asked.
    :param demoted: the endpoints that are demoted
    :param avoid: those that are at fault for what is asked
    :param hops: how many redirects the tool has followed before
    """

    scripts: Mapping[Endpoint, Script | Mapping[str, Script]]
    index: str = "https://index.example/"
    declared: bool = True
    demoted: frozenset[Endpoint] = frozenset()
    avoid: frozenset[Endpoint] = frozenset()
    hops: int = 0
    clock: Clock = field(default_factory=Clock)
    steps: list[Step] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    noticed: list[Attempt] = field(default_factory=list)
    moves: list[tuple[Attempt, Endpoint]] = field(default_factory=list)
    chance: Callable[[], float] = lambda: 0.5
    _tries: dict[tuple[Endpoint, str], int] = field(default_factory=dict)

    @property
    def pool(self) -> Pool:
        return Pool("simulated", self.index, tuple(self.scripts), self.declared)

    @property
    def world(self) -> World:
        return World(
            clock=self.clock,
            sleep=self.clock.sleep,
            chance=self.chance,
            demoted=lambda endpoint: endpoint in self.demoted,
            noticed=self.noticed.append,
            moved=lambda attempt, endpoint: self.moves.append((attempt, endpoint)),
        )

    @property
    def elapsed(self) -> float:
        return self.clock.now - 1000.0

    @property
    def asked(self) -> list[tuple[Endpoint, str | None]]:
        """Who was tried over which address, in order."""
        return [(attempt.endpoint, attempt.address) for attempt in self.noticed]

    @property
    def order(self) -> list[Endpoint]:
        """Who was asked, in order."""
        return [step.endpoint for step in self.steps]

    def walk(
        self, url: str | None = None, timeouts: Timeouts | None = None, before: tuple[Attempt, ...] = ()
    ) -> Answer[Response]:
        """What `failover.walk` finds at the canonical `url` (a project page if none is given)."""
        url, avoid = url or self.index + "simple/six/", frozenset(endpoint.base for endpoint in self.avoid)
        question = Question(url, self.pool, tuple(self.scripts), timeouts or Timeouts(), before, avoid, self.hops)
        return walk(question, self.ask, self.world)

    def ask(self, step: Step) -> Outcome[Response]:
        """One attempt: race to connect to what is untried, then the request itself."""
        self.steps.append(step)
        started = self.clock.now
        scripts = self._addresses(step.endpoint)
        left = [address for address in scripts if address not in step.tried]
        limits = step.limits(max(1, len(left)))
        self.limits.append(limits)
        if not scripts:
            self.clock.now += TRIP
            return Outcome((self._attempt(step, None, Fault(Trouble.RESOLVE), TRIP),))
        assert left, "asked again although every address was tried"
        lost, winner, begun = self._race(step, left, limits.connect)
        if winner is None:
            outcome: Outcome[Response] = Outcome(tuple(lost), untried=len(left) - begun)
        else:
            address, fault = winner
            self._exchange(fault, started, limits)
            attempt = self._attempt(step, address, fault, self.clock.now - started)
            response = None
            if fault.trouble in (None, Trouble.STALE):
                response = Response(step.endpoint, address, fault.status)
            untried = len(left) - len(lost) - 1
            outcome = Outcome((*lost, attempt), response, fault.location, untried, fault.retry_after)
        assert self.clock.now - started <= limits.whole + 1e-9
        return outcome

    def _addresses(self, endpoint: Endpoint) -> Mapping[str, Script]:
        script = self.scripts[endpoint]
        return script if isinstance(script, Mapping) else {"192.0.2.1": script}

    def _fault(self, endpoint: Endpoint, address: str) -> Fault:
        """What the next try of `address` will meet."""
        script = self._addresses(endpoint)[address]
        if isinstance(script, Fault):
            return script
        return script[min(self._tries.get((endpoint, address), 0), len(script) - 1)]

    def _attempt(self, step: Step, address: str | None, fault: Fault, seconds: float) -> Attempt:
        if address is not None:
            self._tries[step.endpoint, address] = self._tries.get((step.endpoint, address), 0) + 1
        if fault.trouble is not None:
            verdict, detail, status = TROUBLES[fault.trouble], f"had trouble ({fault.trouble.value})", None
        else:
            verdict = judge(fault.status, step.endpoint.role)
            detail, status = f"answered {fault.status}", fault.status
            assert (fault.location is not None) == (fault.status in REDIRECTS)
        return Attempt(step.endpoint, step.url, address, verdict, detail, seconds, fault.trouble, status)

    def _race(
        self, step: Step, left: Sequence[str], limit: float
    ) -> tuple[list[Attempt], tuple[str, Fault] | None, int]:
        """(attempts that failed to connect, the winner, how many had begun); the clock moves on."""
        now = 0.0
        waiting, begun = list(left), dict[str, tuple[float, float]]()  # address -> (start, end)
        lost: list[Attempt] = []
        winner: tuple[str, Fault] | None = None
        while winner is None and (waiting or begun):
            if waiting:
                address = waiting.pop(0)
                fault = self._fault(step.endpoint, address)
                begun[address] = (now, float("inf") if fault.during == "connect" else now + TRIP)
            first = min(begun, key=lambda address: begun[address][1])
            event = min(begun[first][1], now + STAGGER if waiting else float("inf"))
            if event >= limit:
                break
            now = event
            if begun[first][1] > now:
                continue
            start, _ = begun.pop(first)
            fault = self._fault(step.endpoint, first)
            if fault.connects:
                winner = (first, fault)
            else:
                lost.append(self._attempt(step, first, fault, now - start))
        if winner is None and begun:
            now = limit
            for address, (start, _) in begun.items():
                lost.append(self._attempt(step, address, Fault(Trouble.CONNECT), now - start))
        self.clock.now += now
        return lost, winner, len(left) - len(waiting)

    def _exchange(self, fault: Fault, started: float, limits: Limits) -> None:
        left = limits.whole - (self.clock.now - started)
        waits = {"silence": limits.silence, "whole": left}
        self.clock.now += max(0.0, min(left, waits.get(fault.during, TRIP)))


def redirector(name: str = "r1") -> Endpoint:
    return Endpoint(f"https://{name}.example/", Role.REDIRECTOR)


def cdn(name: str = "cdn") -> Endpoint:
    return Endpoint(f"https://{name}.example/mirror/", Role.CDN)


def mirror(name: str = "mirror") -> Endpoint:
    return Endpoint(f"https://{name}.example/pub/", Role.MIRROR)


def origin(*, gatekeeper: bool = False) -> Endpoint:
    return Endpoint("https://index.example/", Role.ORIGIN, gatekeeper)
