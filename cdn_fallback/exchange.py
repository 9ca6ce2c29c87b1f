"""One request of the tool's: the attempts that it takes, and the response that it ends with."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, MutableMapping
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from cdn_fallback import headers as header_rules
from cdn_fallback.body import (
    BodyTrouble,
    Digest,
    Whole,
    is_framed,
    read_whole,
    strongest,
)
from cdn_fallback.connections import PATIENCE, Patience
from cdn_fallback.diagnosis import Cause, connect_trouble, reason, retry_after, send_trouble
from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError, printable
from cdn_fallback.failover import Answer, Limits, Outcome, Question, Step, Timeouts, World, walk
from cdn_fallback.lines import Call, Line
from cdn_fallback.pages import MAX_DECODED, NotAPage, Page, TooBig, decode, inspect, number
from cdn_fallback.pool import Endpoint, Pool, Role, destination, site, without_credentials
from cdn_fallback.verdicts import REDIRECTS, TROUBLES, Attempt, Trouble, Verdict, judge

if TYPE_CHECKING:
    from cdn_fallback.transport import Transport

log = logging.getLogger("cdn_fallback")

ERROR_PAGE = 1024 * 1024  # bytes of an error's body that are read, so that its connection can be kept
WRONG_HASH = "served a file with another hash than the index promises"


class Kind(enum.Enum):
    """What a request is for, and so how its body is treated."""

    PAGE = "page"  # read whole and checked before the tool sees a byte
    FILE = "file"  # handed on as it comes, continued elsewhere when it breaks
    OTHER = "other"  # read whole

    @classmethod
    def of(cls, request: Any, stream: bool) -> Kind:
        """The kind of the tool's `request`; `stream` tells that it wants the body as it comes."""
        if request.method != "GET":
            return cls.OTHER
        if "application/vnd.pypi.simple" in request.headers.get("Accept", ""):
            return cls.PAGE
        if stream:
            return cls.FILE
        return cls.PAGE if urlsplit(request.url).path.endswith("/") else cls.OTHER


class Reply(NamedTuple):
    """An endpoint's acceptable response: `raw` is urllib3's, `body` what was read of it (``None``: unread)."""

    endpoint: Endpoint
    address: str | None
    raw: Any
    body: bytes | None
    page: Page | None = None


class Exchange:
    """The way from the tool's `request` to its response, read whole before the tool sees a byte.

    `Download` is the way of a file that the tool wants as it comes.
    """

    def __init__(
        self, transport: Transport, pool: Pool, request: Any, call: Call, kind: Kind, timeouts: Timeouts
    ) -> None:
        self._transport = transport
        self._pool = pool
        self._request = request
        self._call = call
        self._kind = kind
        self._timeouts = timeouts
        self._url = without_credentials(request.url)
        # Two kinds of place are held to the simple API: a declared pool, and what is called /simple/.
        self._strict = pool.declared or "/simple/" in urlsplit(self._url).path
        self._attempts: tuple[Attempt, ...] = ()
        self._cause: Cause | None = None  # of the last attempt's failure
        self._digest: Digest | None = None
        if kind is not Kind.PAGE:
            self._digest = strongest(transport.promises.hashes(self._url))
        # the bases of endpoints at fault, in the order in which that was found
        self._avoid = dict.fromkeys(base for base, _, _ in transport.promises.condemned(self._url))
        if transport.is_doubted(self._url):
            self._avoid |= dict.fromkeys(e.base for e in pool.endpoints if e.role is not Role.ORIGIN)

    def run(self) -> Any:
        """The tool's response; raises what the transport's `failure` makes of AllEndpointsFailed."""
        return self._hand_over(self._walk())

    def _walk(self) -> Answer[Reply]:
        question = Question(
            self._url,
            self._pool,
            self._endpoints(),
            self._timeouts,
            self._attempts,
            frozenset(self._avoid),
            self._transport.hops(self._url),
        )
        try:
            answer = walk(question, self.ask, self._world())
        except AllEndpointsFailed as error:
            self._attempts = error.attempts
            failure = self._failure(error)
        else:
            self._attempts = answer.attempts
            return answer
        raise failure

    def _failure(self, error: CdnFallbackError) -> Exception:
        """`error` as the tool understands it."""
        return self._transport.failure(error, self._request, self._pool, self._cause)

    def _world(self) -> World:
        return self._transport.world

    def _endpoints(self) -> list[Endpoint]:
        """Who may be asked, in order."""
        is_file = self._kind is not Kind.PAGE and self._request.method == "GET"
        return self._transport.endpoints(self._pool, self._url, is_file=is_file)

    def _ask_for_part(self, headers: MutableMapping[str, str], endpoint: Endpoint) -> None:
        """Add to `headers` what makes the answer go on where the last one broke."""

    def _is_tired(self, endpoint: Endpoint, address: str | None) -> bool:
        """Whether an answer of `endpoint` broke over `address` before."""
        return False

    # -- one attempt

    def ask(self, step: Step) -> Outcome[Reply]:
        """One attempt, as the loop wants it: connect, ask, and read what must be read before it counts."""
        attempt = _Running(step, self._transport.world.clock)
        self._cause = None
        call, request = self._prepared(step)
        proxy = self._transport.flavour.proxy_for(step.url, call.proxies)
        if proxy:
            line: Line | None = self._transport.lines.proxied(request, call, proxy)
        else:
            line = self._connect(attempt, request, call)
        if line is not None:
            attempt.address = line.address
            self._exchange(attempt, line, request)
        outcome = attempt.outcome()
        if outcome.last.verdict is Verdict.TRANSIENT and (outcome.parked or not outcome.untried):
            self._transport.exhausted(step.endpoint, attempt.seconds(), outcome.parked)
        return outcome

    def _prepared(self, step: Step) -> tuple[Call, Any]:
        """The tool's call and request as `step`'s endpoint may see them."""
        endpoint, request = step.endpoint, copy(self._request)
        scheme, host, port = site(step.url)
        same_site = site(self._url) == (scheme, host, port)
        request.url = step.url
        request.headers = header_rules.outgoing(
            self._request.headers.copy(),
            endpoint,
            same_site=same_site,
            is_index=endpoint.base == self._pool.index,
            page=self._kind is Kind.PAGE,
        )
        self._ask_for_part(request.headers, endpoint)
        if same_site:
            return self._call, request
        verify = False if self._transport.trusts(host, port) else self._call.verify
        apart = bool(self._call.cert) or not verify
        return self._call._replace(cert=None, own=False, apart=apart, verify=verify), request

    def _connect(self, attempt: _Running, request: Any, call: Call) -> Line | None:
        lines, step = self._transport.lines, attempt.step
        _, host, port = site(step.url)
        try:
            found = lines.addresses(step.url, attempt.limits.connect)
        except OSError as exc:
            attempt.fail(Trouble.RESOLVE, f"did not resolve ({reason(exc)})")
            self._cause = Cause(exc)
            return None
        left = lines.ordered(host, port, [a for a in found if a not in step.tried] or found)
        left.sort(key=lambda address: self._is_tired(step.endpoint, address))
        line, race = lines.connect(request, call, left, attempt.limited(len(left)).connect)
        for failure in race.failures:
            attempt.lost(failure.address, *connect_trouble(failure.error), failure.seconds)
        attempt.untried = len(left) - len(race.failures) - 1
        for address, seconds in race.pending:
            if line is None:
                attempt.lost(address, Trouble.CONNECT, "did not connect", seconds)
            else:
                log.debug("%s (%s) had not connected after %.2f s", step.endpoint, address, seconds)
        if line is None:
            self._cause = Cause(race.failures[-1].error if race.failures else TimeoutError("timed out"))
            attempt.untried = max(0, len(left) - len(race.failures) - len(race.pending))
        return line

    def _exchange(self, attempt: _Running, line: Line, request: Any) -> None:
        """Ask over `line`, and judge what comes back."""
        raw = self._send(attempt, line, request)
        if raw is None:
            return
        attempt.status = raw.status
        attempt.parked = retry_after(raw) if raw.status in (429, 503) else 0.0
        endpoint, sent = attempt.step.endpoint, request.headers
        verdict = judge(raw.status, endpoint.role, ranged="Range" in sent, conditional=header_rules.conditional(sent))
        attempt.verdict, attempt.detail = verdict, f"answered {raw.status}"
        try:
            self._check_head(endpoint, raw)
            if raw.status in REDIRECTS:
                self._redirected(attempt, raw)
            elif verdict is Verdict.ANSWER and raw.status < 300:
                attempt.reply = self._read(endpoint, line.address, raw)
                self._check_serial(attempt, attempt.reply.page)
            else:
                attempt.reply = Reply(endpoint, line.address, raw, _error_body(raw))
        except BodyTrouble as trouble:
            raw.close()
            attempt.fail(trouble.trouble, trouble.detail)
        if attempt.verdict is Verdict.ANSWER:
            self._transport.lines.used(endpoint.site[1], endpoint.site[2], line.address)

    def _send(self, attempt: _Running, line: Line, request: Any) -> Any:
        """urllib3's response with its head read; ``None`` when there is none (noted in `attempt`)."""
        urllib3 = self._transport.flavour.urllib3
        limits, call = attempt.limits, self._call
        clock = self._transport.world.clock
        patience = Patience(limits.silence, min(clock() + limits.silence, attempt.deadline), clock)
        token = PATIENCE.set(patience)
        try:
            raw = line.pool.urlopen(
                method=request.method,
                url=call.adapter.request_url(request, call.proxies),
                headers=request.headers,
                body=None,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=limits.connect, read=min(limits.silence, 3600.0)),
            )
        except urllib3.exceptions.HTTPError as exc:
            stale = not line.fresh and isinstance(exc, urllib3.exceptions.ProtocolError) and line.address
            if stale:  # a kept connection that the server had closed meanwhile says nothing of the server
                again = line._replace(fresh=True)
                return self._send(attempt, again, request)
            attempt.fail(*send_trouble(exc, urllib3.exceptions))
            self._cause = Cause(exc, line.pool)
            return None
        finally:
            PATIENCE.reset(token)
        patience.bound(limits.silence, limits.rate, attempt.deadline)
        return raw

    def _redirected(self, attempt: _Running, raw: Any) -> None:
        location = raw.headers.get("Location")
        attempt.reply = Reply(attempt.step.endpoint, attempt.address, raw, _error_body(raw))
        if not location:
            attempt.fail(Trouble.REDIRECT, f"answered {raw.status} without saying where to")
            return
        attempt.location = location
        self._transport.pointed(self._pool, attempt.step, location, raw.headers.get("Cache-Control", ""))
        attempt.detail = f"redirects to {destination(attempt.step.url, location)}"

    def _read(self, endpoint: Endpoint, address: str | None, raw: Any) -> Reply:
        """What a 2xx says, as far as it must be read before it counts; raises BodyTrouble."""
        if self._kind is Kind.PAGE:
            body = read_whole(raw, MAX_DECODED)
            page = self._check_page(raw, body)
            if page.empty and self._is_copy(endpoint) and not self._url.rstrip("/").endswith("/simple"):
                raise BodyTrouble(Trouble.EMPTY, "answered with a page without files")
            return Reply(endpoint, address, raw, body, page)
        body = read_whole(raw, None)
        if self._digest and raw.status == 200 and self._request.method == "GET":
            hasher = self._digest.new()
            hasher.update(body)
            if self._digest.named(hasher) != str(self._digest):
                raise BodyTrouble(Trouble.HASH, WRONG_HASH)
        return Reply(endpoint, address, raw, body)

    def _check_page(self, raw: Any, body: bytes) -> Page:
        try:
            decoded = decode(body, raw.headers.get("Content-Encoding", ""))
            page = inspect(
                self._url, raw.headers.get("Content-Type", ""), decoded, framed=is_framed(raw), strict=self._strict
            )
        except TooBig as exc:
            raise BodyTrouble(Trouble.SIZE, exc.reason) from exc
        except NotAPage as exc:
            raise BodyTrouble(Trouble.KIND, exc.reason) from exc
        serial = page.serial or number(raw.headers.get("X-PyPI-Last-Serial", "")) or 0
        return replace(page, serial=serial)

    def _check_head(self, endpoint: Endpoint, raw: Any) -> None:
        """Raise BodyTrouble for what the head alone gives away."""
        length = raw.headers.get("Content-Length")
        if length is not None and not is_framed(raw):  # RFC 9112, section 6.3
            raise BodyTrouble(Trouble.LOST, f"answered with the length {length!r}")
        known = self._strict if self._kind is Kind.PAGE else self._digest is not None
        if known and 200 < raw.status < 300 and raw.status not in (203, 206):
            raise BodyTrouble(Trouble.KIND, f"answered {raw.status}, which is no {self._kind.value}")
        if raw.status not in (200, 203, 304) or self._kind is not Kind.PAGE or not self._is_copy(endpoint):
            return
        # the age of what a cache has stored: RFC 9111, section 5.1
        age = number(raw.headers.get("Age", "").strip()) or 0
        if age > self._pool.oldest:
            raise BodyTrouble(Trouble.OLD, f"answered with a page that is {age // 3600} hours old")

    def _is_copy(self, endpoint: Endpoint) -> bool:
        return self._pool.declared and endpoint.role is not Role.ORIGIN

    def _check_serial(self, attempt: _Running, page: Page | None) -> None:
        seen = self._transport.health.serial(self._url)
        if page and 0 < page.serial < seen:  # many indexes have no serials
            attempt.fail(Trouble.STALE, f"answered with an old page (serial {page.serial}, {seen} was seen before)")

    # -- the response

    def _hand_over(self, answer: Answer[Reply]) -> Any:
        reply = answer.response
        raw, endpoint = reply.raw, reply.endpoint
        same_site = endpoint.site == site(self._url)
        is_page = self._kind is Kind.PAGE
        headers = header_rules.incoming(
            raw.headers.copy(),
            endpoint,
            same_site=same_site,
            is_index=endpoint.base == self._pool.index,
            cap_age=is_page and self._pool.declared,
            now=time.time(),
        )
        if answer.location is not None:
            headers["Location"] = answer.location
            if self._pool.declared:
                headers["Cache-Control"] = "no-store"  # pip's cache keeps a 301 for good: one copy's word for ever
            self._transport.led(self._url, answer.location, self._pool)
        else:
            self._transport.arrived(self._url)
        if reply.body is not None and self._request.method != "HEAD":
            headers["Content-Length"] = str(len(reply.body))
        if self._kind is Kind.PAGE:
            self._transport.told(self._pool, self._url, reply.endpoint)
        if reply.page is not None:
            self._transport.promises.accept(reply.page)
            self._transport.health.saw_serial(self._url, reply.page.serial)
        response = self._transport.flavour.urllib3.HTTPResponse(
            body=self._body(reply),
            headers=headers,
            status=raw.status,
            version=raw.version,
            reason=printable(raw.reason or ""),  # pip prints it
            preload_content=False,
            decode_content=False,
            # requests takes cookies from here: another host's are not the canonical host's
            original_response=getattr(raw, "_original_response", None) if same_site else None,
            request_method=self._request.method,
        )
        return self._call.adapter.build_response(self._request, response)

    def _body(self, reply: Reply) -> Any:
        assert reply.body is not None
        return Whole(reply.body)


class _Running:
    """An attempt under way: collects what becomes its Outcome."""

    def __init__(self, step: Step, clock: Callable[[], float]) -> None:
        self.step = step
        self.clock = clock
        self.started = clock()
        self.limits = self.limited(1)
        self.address: str | None = None
        self.verdict = Verdict.TRANSIENT
        self.trouble: Trouble | None = None
        self.detail = ""
        self.status: int | None = None
        self.reply: Reply | None = None
        self.location: str | None = None
        self.untried = 0
        self.parked = 0.0
        self._lost: list[Attempt] = []

    def limited(self, addresses: int) -> Limits:
        """What the attempt gets from now on, with so many addresses left to try."""
        self.limits = self.step.limits(addresses)
        self.deadline = self.clock() + self.limits.whole
        return self.limits

    def seconds(self) -> float:
        return self.clock() - self.started

    def fail(self, trouble: Trouble, detail: str) -> None:
        self.trouble, self.detail, self.verdict = trouble, detail, TROUBLES[trouble]

    def lost(self, address: str, trouble: Trouble, detail: str, seconds: float) -> None:
        """A connection to `address` was tried for this attempt, and did not come about."""
        endpoint, url = self.step.endpoint, self.step.url
        self._lost.append(Attempt(endpoint, url, address, TROUBLES[trouble], detail, seconds, trouble))

    def outcome(self) -> Outcome[Reply]:
        attempts = list(self._lost)
        if self.detail or not attempts:
            attempts.append(
                Attempt(
                    self.step.endpoint,
                    self.step.url,
                    self.address,
                    self.verdict,
                    self.detail,
                    self.seconds(),
                    self.trouble,
                    self.status,
                )
            )
        return Outcome(tuple(attempts), self.reply, self.location, self.untried, self.parked)


def _error_body(raw: Any) -> bytes:
    """What an error says, so that the connection can be kept and the tool can show it; b"" if it does not come.

    Decoded, under the cap: requests opens such bodies, too, and one of 1 MB took pip to 1.9 GB.
    """
    encoding = raw.headers.pop("Content-Encoding", "")
    try:
        return decode(read_whole(raw, ERROR_PAGE), encoding, ERROR_PAGE)
    except (BodyTrouble, NotAPage):
        raw.close()
        return b""
