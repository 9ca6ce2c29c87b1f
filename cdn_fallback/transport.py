"""From a request of requests' to an answer: stands in for ``requests.adapters.HTTPAdapter.send``.

Below caches, authentication and redirect handling, above urllib3: so all of them see one canonical URL and one
whole body. `Transport` is what outlives a request: lines, health, what index pages promised. What happens within
one is in `exchange` and `download`.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cdn_fallback.config import Config
from cdn_fallback.diagnosis import Cause
from cdn_fallback.download import Download
from cdn_fallback.errors import CdnFallbackError, HashMismatch, printable
from cdn_fallback.exchange import Exchange, Kind
from cdn_fallback.failover import Step, Timeouts, World
from cdn_fallback.headers import max_age
from cdn_fallback.health import Health
from cdn_fallback.lines import Call, Flavour, Lines, key
from cdn_fallback.pages import Hashes, Page, file_name, normalized
from cdn_fallback.pool import Endpoint, Pool, Role, climbs, destination, pool_for, same_folder, without_credentials
from cdn_fallback.verdicts import REDIRECTS, Attempt, Trouble, Verdict

T = TypeVar("T")

log = logging.getLogger("cdn_fallback")

KEPT_PAGES = 32 * 1024 * 1024  # bytes of index pages that are kept for the hashes in them
COSTLY = 1.0  # s; who waited so long for a failure is not made to wait for it twice more


class Promises:
    """What accepted index pages, or the tool itself, said about files: their hashes."""

    def __init__(self) -> None:
        self._pages: OrderedDict[str, Page] = OrderedDict()  # by URL, the latest last
        self._kept = 0  # bytes of them
        self._told: dict[str, Hashes] = {}
        self._verified: set[str] = set()
        self._condemned: dict[str, list[tuple[str, str | None, str]]] = {}

    def accept(self, page: Page) -> None:
        """`page` passed every check: what it says of files holds."""
        old = self._pages.pop(page.url, None)
        self._pages[page.url] = page
        self._kept += len(page.body) - (len(old.body) if old else 0)
        while self._kept > KEPT_PAGES and len(self._pages) > 1:
            self._kept -= len(self._pages.popitem(last=False)[1].body)

    def expect(self, url: str, hashes: Hashes) -> None:
        """The tool says that the file at `url` must have `hashes`."""
        self._told[without_credentials(url)] = hashes

    def forget(self, url: str) -> None:
        """Who said what the file at `url` must have has it, or not: the next one may say otherwise."""
        self._told.pop(without_credentials(url), None)

    def hashes(self, url: str) -> Hashes:
        """The hashes that the file at the canonical `url` must have; empty if nobody gave one."""
        told = self._told.get(url)
        if told:
            return told
        spellings = [name.removesuffix(".metadata").encode() for name in (file_name(url), url.rpartition("/")[2])]
        for page in reversed(self._pages.values()):
            if any(name in page.body for name in spellings) and (hashes := page.hashes(url)):
                return hashes
        return {}

    def verify(self, url: str) -> None:
        """The file at `url` came with the hash that it must have."""
        self._verified.add(url)

    def is_verified(self, url: str) -> bool:
        return url in self._verified

    def condemn(self, url: str, base: str, address: str | None, digest: str) -> None:
        """The file at `url` came with the wrong `digest`, and the endpoint of `base` gave (a part of) it."""
        self._condemned.setdefault(url, []).append((base, address, digest))

    def condemned(self, url: str) -> list[tuple[str, str | None, str]]:
        """Who served a wrong file for `url`: (endpoint base, address, digest of the file)."""
        return self._condemned.get(url, [])


class Transport:
    """Sends requests over a configuration's pools. One for a process is best: it remembers.

    :param trusts: whether the user switched verification off for a host and port (``--trusted-host``)
    :param wrap: makes the exception that the tool understands, from (error, request, pool, cause)
    :param noticed: is told of every attempt
    :param lines: how endpoints are reached; with `clock` and `sleep` it is all that touches the world
    """

    def __init__(
        self,
        flavour: Flavour,
        config: Config,
        health: Health,
        *,
        trusts: Callable[[str, int], bool] = lambda host, port: False,
        wrap: Callable[[CdnFallbackError, Any, Pool, Cause | None], Exception] | None = None,
        noticed: Callable[[Attempt], None] = lambda attempt: None,
        lines: Lines | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.flavour = flavour
        self.config = config
        self.health = health
        self.trusts = trusts
        self.promises = Promises()
        self.lines = lines or Lines(flavour, health, Random())
        # redirector's base -> (the endpoint that it points to, until when it said so)
        self._pointed: dict[str, tuple[Endpoint, float]] = {}
        self._keyed: set[str] = set()  # bases of endpoints where a redirector led a page to another URL than its own
        self._second_hand: dict[str, set[str]] = {}  # project -> its pages in declared pools that came from a copy
        self._doubted: set[str] = set()  # such pages in which there was nothing that would do
        self._led: dict[str, int] = {}  # where redirects have sent the tool -> after how many of them
        self._sent: set[str] = set()  # where declared pools have sent the tool to
        self._wrap = wrap or self._connection_error
        self._watch = noticed
        self.world = World(
            clock=clock,
            sleep=sleep,
            chance=Random().random,
            demoted=lambda endpoint: self.health.demoted(endpoint.base),
            noticed=self.noticed,
            moved=_log_move,
        )

    def send(
        self,
        adapter: Any,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
        kind: Kind | None = None,
    ) -> Any:
        """The response to `request`, which is a GET or HEAD without a body; see requests' HTTPAdapter.send.

        :param kind: what it is for, where the tool knows better than its headers tell

        Raises requests' ConnectionError (or what `wrap` makes of it) when every copy failed.
        """
        pool = pool_for(self.config.pools, request.url)
        call = Call(adapter, verify, cert, proxies)
        kind = kind or Kind.of(request, stream)
        make = Download if kind is Kind.FILE else Exchange
        return make(self, pool, request, call, kind, _timeouts(adapter, timeout)).run()

    def fetched(self, url: str, hashes: Hashes, fetch: Callable[[], T]) -> T:
        """What `fetch` returns, which gets the file at `url` by way of `send`; `hashes` are those that it must have.

        A file that came with another one is fetched again, once: who gave it is then asked last. `wrap` tells of
        that by an exception with the HashMismatch as its `error`.
        """
        if hashes:
            self.promises.expect(url, hashes)
        try:
            try:
                return fetch()
            except Exception as exc:
                mismatch = getattr(exc, "error", None)
                if not isinstance(mismatch, HashMismatch):
                    raise
                who = " and ".join(base for base, _ in mismatch.got)
            what = f"{who} served {file_name(url)} with another hash than the index promises"
            log.warning("%s", printable(f"{what}, fetching it again from elsewhere"))
            return fetch()
        finally:
            self.promises.forget(url)

    def handles(self, request: Any) -> bool:
        """Whether `request` may be sent more than once (RFC 9110, section 9.2.2), and is one that a pool can have."""
        if not hasattr(self.flavour.urllib3.HTTPSConnectionPool.ConnectionCls, "connect"):
            return False  # a Python without TLS: urllib3 says so
        url = request.url or ""
        repeatable = request.method in ("GET", "HEAD") and request.body is None
        return repeatable and urlsplit(url).scheme.lower() in ("http", "https") and not climbs(url)

    def endpoints(self, pool: Pool, url: str, *, is_file: bool) -> list[Endpoint]:
        """Who may be asked for `url`, in order: as configured, but the demoted after the others.

        A file without a hash is never taken from a fallback: whoever serves it could put anything there.
        """
        now = self.world.clock()
        pointed_to = {place.base for place, until in self._pointed.values() if now < until}
        if not is_file:
            pointed_to -= self._keyed
        found = sorted(pool.endpoints, key=lambda e: e.base not in pointed_to)
        if is_file and pool.declared and not self.promises.hashes(url):
            found = [e for e in found if pool.is_index(e) or e.role is Role.ORIGIN]
        # A gatekeeper keeps its place: who is asked before it has not passed it.
        return sorted(found, key=lambda e: not e.gatekeeper and self.health.demoted(e.base))

    def pointed(self, pool: Pool, step: Step, location: str, control: str) -> None:
        """A redirector said where things are; as long as its Cache-Control allows, it need not be asked again.

        Otherwise a run would ask it for each file, which plain pip does not: there the page's links lead on. Only
        what replaces the base is believed for all of the pool. Who leads a page to `.../index.json` may do so because
        the place knows no `.../`: it is asked for each page.
        """
        target = destination(step.url, location)
        hop = pool.locate(target) if pool.declared and target else None
        age = max_age(control)
        guarded = any(endpoint.gatekeeper for endpoint in pool.endpoints)
        if hop is None or target is None or not age or guarded:
            return
        there, asked = pool.canonical(hop, target), pool.canonical(step.endpoint, step.url)
        if there == asked:
            self._pointed[step.endpoint.base] = hop, self.world.clock() + age
        elif same_folder(there, asked):
            self._keyed.add(hop.base)

    def told(self, pool: Pool, url: str, endpoint: Endpoint) -> None:
        """The page at the canonical `url` came from `endpoint`."""
        if pool.declared and endpoint.role is not Role.ORIGIN and url not in self._doubted:
            self._second_hand.setdefault(normalized(file_name(url.rstrip("/"))), set()).add(url)

    def doubt(self, project: str) -> set[str]:
        """Nothing will do of what a copy's page says there is of `project`: the origin may have it by now.

        From here on that is asked first for the page. Its URLs, none if no copy gave it or that was so before.
        """
        pages = self._second_hand.pop(normalized(project), set())
        for url in pages:
            log.debug("%s", printable(f"nothing in {url} will do, asking the origin for what is newer"))
        self._doubted |= pages
        return pages

    def is_doubted(self, url: str) -> bool:
        """Whether a copy is to be asked for the page at the canonical `url` only when the origin fails."""
        return url in self._doubted

    def led(self, url: str, target: str, pool: Pool) -> None:
        """The tool is sent on from the canonical `url`, which is `pool`'s, to `target`."""
        target = without_credentials(target)
        self._led[target] = self.hops(url) + 1
        if pool.declared or url in self._sent:
            self._sent.add(target)

    def arrived(self, url: str) -> None:
        """The canonical `url` gave something else than a redirect: whoever comes there again begins anew."""
        self._led.pop(url, None)

    def hops(self, url: str) -> int:
        """How many redirects the tool may have followed to the canonical `url`."""
        return self._led.get(url, 0)

    def failure(self, error: CdnFallbackError, request: Any, pool: Pool, cause: Cause | None) -> Exception:
        """`error` as the tool understands it; `cause` is what ended the last attempt."""
        self.health.save()
        if without_credentials(request.url) in self._sent:  # the pool has failed, wherever it sent the tool to
            pool = replace(pool, declared=True)
        return self._wrap(error, request, pool, cause)

    def _connection_error(self, error: CdnFallbackError, request: Any, pool: Pool, cause: Cause | None) -> Exception:
        failure: Exception = self.flavour.requests.exceptions.ConnectionError(error, request=request)
        failure.__cause__ = error
        return failure

    def noticed(self, attempt: Attempt, *, begun: bool = False) -> None:
        """Learn from `attempt`, and tell whoever wants to know. An answer that has only `begun` may still break."""
        log.debug("%s", attempt)
        self._watch(attempt)
        endpoint, verdict = attempt.endpoint, attempt.verdict
        line = _line(endpoint, attempt.address)
        if verdict in (Verdict.TRANSIENT, Verdict.BROKEN):
            self._pointed = {base: it for base, it in self._pointed.items() if it[0] != endpoint}
        if verdict is Verdict.ANSWER:
            if not begun or attempt.status in REDIRECTS:
                self.worked(endpoint, attempt.address)
        elif verdict is Verdict.BROKEN:
            self.health.failed(endpoint.base)
            self.health.failed(line)
        elif verdict is not Verdict.TRANSIENT:
            self.health.worked(line)
        elif attempt.trouble is not Trouble.REDIRECT:  # there it is the place that has failed
            self.health.failed(line, costly=attempt.seconds > COSTLY)

    def worked(self, endpoint: Endpoint, address: str | None) -> None:
        """`endpoint` gave a whole answer over `address`."""
        self.health.worked(endpoint.base)
        self.health.worked(_line(endpoint, address))

    def exhausted(self, endpoint: Endpoint, seconds: float, parked: float) -> None:
        """None of `endpoint`'s addresses answered, which took `seconds`; or it asked to be left alone."""
        if parked:
            self.health.park(endpoint.base, parked)
        else:
            self.health.failed(endpoint.base, costly=seconds > COSTLY)


def _line(endpoint: Endpoint, address: str | None) -> str:
    """What the health memory calls `address`; without one (a proxy, a dead name) it is the host that is meant."""
    _, host, port = endpoint.site
    return key(port, address or host)


def _log_move(attempt: Attempt, endpoint: Endpoint) -> None:
    level = logging.DEBUG if attempt.verdict is Verdict.MISS else logging.WARNING
    where = f"{attempt.endpoint} ({attempt.address})" if attempt.address else str(attempt.endpoint)
    log.log(level, "%s", printable(f"{where} {attempt.detail}, falling back to {endpoint}"))


def _timeouts(adapter: Any, timeout: Any) -> Timeouts:
    """The tool's own bounds: its timeout for each attempt, its retries for the passes."""
    if timeout is not None and hasattr(timeout, "connect_timeout"):  # urllib3's Timeout
        connect, read = timeout.connect_timeout, timeout.read_timeout
    elif isinstance(timeout, tuple):
        connect, read = timeout
    else:
        connect = read = timeout
    total = getattr(adapter.max_retries, "total", 0)
    return Timeouts(
        connect=float(connect) if isinstance(connect, (int, float)) else float("inf"),
        read=float(read) if isinstance(read, (int, float)) else float("inf"),
        passes=1 + max(0, int(total or 0)),
    )
