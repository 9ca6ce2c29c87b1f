"""One request of the tool's: the attempts that it takes, and the response that it ends with."""

from __future__ import annotations

import email.utils
import enum
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cdn_fallback import headers as header_rules
from cdn_fallback.body import (
    PROGRESS,
    BodyTrouble,
    Digest,
    ResumableBody,
    Whole,
    is_framed,
    length_of,
    read_whole,
    strongest,
)
from cdn_fallback.connections import PATIENCE, Patience
from cdn_fallback.errors import AllEndpointsFailed, HashMismatch
from cdn_fallback.failover import (
    REDIRECTS,
    TROUBLES,
    Answer,
    Attempt,
    Outcome,
    Question,
    Step,
    Timeouts,
    Trouble,
    Verdict,
    judge,
    walk,
)
from cdn_fallback.lines import Call, Line
from cdn_fallback.pages import HTML_TYPE, MAX_DECODED, NotAPage, Page, TooBig, decode, inspect, number
from cdn_fallback.pool import Endpoint, Pool, Role, destination, site, without_credentials

if TYPE_CHECKING:
    from cdn_fallback.transport import Transport

ERROR_PAGE = 1024 * 1024  # bytes of an error's body that are read, so that its connection can be kept
WRONG_HASH = "served a file with another hash than the index promises"
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)$")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})$")


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


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's acceptable response: `raw` is urllib3's, `body` what was read of it (``None``: unread)."""

    endpoint: Endpoint
    address: str | None
    raw: Any
    body: bytes | None
    page: Page | None = None


class Exchange:
    """The way from the tool's `request` to its response.

    Also the `Source` of a file's body: it knows what was tried, and where to go on.
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
        self._attempts: tuple[Attempt, ...] = ()
        self._digest: Digest | None = None
        # of a file on its way:
        self._reply: Reply | None = None
        self._began = time.monotonic()
        self._offset = 0  # where the body goes on; 0 before it broke
        self._end: int | None = None  # where it ends, if known
        self._last: int | None = None  # the last byte that the tool's own Range asks for
        self._tags: dict[str, str] = {}  # base -> the strong ETag that it gave
        self._served: list[str] = []  # who gave parts of the body
        self._tired: dict[str, set[str]] = {}  # base -> addresses over which it broke
        self._avoid = set(transport.promises.condemned(self._url))  # bases of endpoints at fault
        self._resumes = 0
        self._progress = 0

    def run(self) -> Any:
        """The tool's response; raises what the transport's `failure` makes of AllEndpointsFailed."""
        if self._kind is not Kind.PAGE:
            self._digest = strongest(self._transport.promises.hashes(self._url))
        answer = self._walk()
        return self._hand_over(answer)

    def _walk(self) -> Answer[Reply]:
        endpoints = self._transport.endpoints(self._pool, self._url, self._kind is Kind.FILE)
        if self._reply is not None:
            # A body goes on at another address of who gave it; redirectors would only point there again.
            last = self._reply.endpoint
            endpoints.sort(key=lambda e: (e.role is Role.REDIRECTOR, e != last))
        question = Question(self._url, self._pool, endpoints, self._timeouts, self._attempts, frozenset(self._avoid))
        try:
            answer = walk(question, self.ask, self._transport.world)
        except AllEndpointsFailed as error:
            raise self._transport.failure(error, self._request, self._pool) from error
        self._attempts = answer.attempts
        self._reply = answer.response
        self._began = time.monotonic()
        return answer

    # -- one attempt

    def ask(self, step: Step) -> Outcome[Reply]:
        """One attempt, as the loop wants it: connect, ask, and read what must be read before it counts."""
        attempt = _Running(step)
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
        endpoint, request = step.endpoint, self._request.copy()
        scheme, host, port = site(step.url)
        same_site = site(self._url) == (scheme, host, port)
        request.url = step.url
        request.headers = header_rules.outgoing(
            request.headers,
            endpoint,
            same_site=same_site,
            is_index=endpoint.base == self._pool.index,
            page=self._kind is Kind.PAGE,
        )
        if self._offset:
            request.headers["Range"] = f"bytes={self._offset}-{'' if self._last is None else self._last}"
            request.headers.pop("If-Range", None)
            if tag := self._tags.get(endpoint.base):
                request.headers["If-Range"] = tag
        if same_site:
            return self._call, request
        verify = False if self._transport.trusts(host, port) else self._call.verify
        apart = bool(self._call.cert) or not verify
        return replace(self._call, cert=None, own=False, apart=apart, verify=verify), request

    def _connect(self, attempt: _Running, request: Any, call: Call) -> Line | None:
        lines, step = self._transport.lines, attempt.step
        _, host, port = site(step.url)
        try:
            found = lines.addresses(host, port, step.limits.connect)
        except OSError as exc:
            attempt.fail(Trouble.RESOLVE, f"did not resolve ({_reason(exc)})")
            return None
        left = lines.ordered(host, port, [a for a in found if a not in step.tried])
        tired = self._tired.get(step.endpoint.base, set())
        left.sort(key=lambda a: a in tired)
        line, race = lines.connect(request, call, left, step.limits.connect)
        for failure in race.failures:
            attempt.lost(failure.address, *_connect_trouble(failure.error), failure.seconds)
        attempt.untried = len(left) - len(race.failures) - 1
        if line is None:
            for address, seconds in race.pending:
                attempt.lost(address, Trouble.CONNECT, "did not connect", seconds)
            attempt.untried = max(0, len(left) - len(race.failures) - len(race.pending))
        return line

    def _exchange(self, attempt: _Running, line: Line, request: Any) -> None:
        """Ask over `line`, and judge what comes back."""
        raw = self._send(attempt, line, request)
        if raw is None:
            return
        attempt.status = raw.status
        attempt.parked = _retry_after(raw) if raw.status in (429, 503) else 0.0
        endpoint, sent = attempt.step.endpoint, request.headers
        verdict = judge(raw.status, endpoint.role, ranged="Range" in sent, conditional=header_rules.conditional(sent))
        attempt.verdict, attempt.detail = verdict, f"answered {raw.status}"
        try:
            if raw.status in REDIRECTS:
                self._redirected(attempt, raw)
            elif verdict is Verdict.ANSWER and 200 <= raw.status < 300:
                self._answered(attempt, raw)
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
        limits, call = attempt.step.limits, self._call
        patience = Patience(limits.first_byte, time.monotonic() + limits.first_byte)
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
                timeout=urllib3.Timeout(connect=limits.connect, read=min(limits.first_byte, 3600.0)),
            )
        except urllib3.exceptions.HTTPError as exc:
            stale = not line.fresh and isinstance(exc, urllib3.exceptions.ProtocolError) and line.address
            if stale:  # a kept connection that the server had closed meanwhile says nothing of the server
                again = replace(line, fresh=True)
                return self._send(attempt, again, request)
            attempt.fail(*self._send_trouble(exc))
            return None
        finally:
            PATIENCE.reset(token)
        patience.idle = self._timeouts.read
        patience.deadline = attempt.started + limits.whole
        return raw

    def _send_trouble(self, exc: Exception) -> tuple[Trouble, str]:
        errors = self._transport.flavour.urllib3.exceptions
        if isinstance(exc, errors.ReadTimeoutError):
            return Trouble.SILENT, "connected, but did not answer"
        if isinstance(exc, (errors.ConnectTimeoutError, errors.SSLError, errors.ProxyError)):
            return _connect_trouble(exc)  # NewConnectionError is a ConnectTimeoutError
        return Trouble.LOST, f"broke the connection off ({_reason(exc)})"

    def _redirected(self, attempt: _Running, raw: Any) -> None:
        location = raw.headers.get("Location")
        attempt.reply = Reply(attempt.step.endpoint, attempt.address, raw, _error_body(raw))
        if not location:
            attempt.fail(Trouble.REDIRECT, f"answered {raw.status} without saying where to")
            return
        attempt.location = location
        attempt.detail = f"redirects to {destination(attempt.step.url, location)}"

    def _answered(self, attempt: _Running, raw: Any) -> None:
        """A 2xx: read and check what the kind demands."""
        endpoint, address = attempt.step.endpoint, attempt.address
        if self._kind is Kind.FILE:
            media_type = raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if self._digest and HTML_TYPE.match(media_type):
                raise BodyTrouble(Trouble.KIND, "answered with an HTML page instead of a file")
            self._position(raw)
            attempt.reply = Reply(endpoint, address, raw, None)
            return
        body = read_whole(raw, MAX_DECODED if self._kind is Kind.PAGE else None)
        page = None
        if self._kind is Kind.PAGE:
            page = self._check_page(raw, body)
        elif self._digest and raw.status == 200 and self._request.method == "GET":
            hasher = self._digest.new()
            hasher.update(body)
            if self._digest.named(hasher) != str(self._digest):
                raise BodyTrouble(Trouble.HASH, WRONG_HASH)
        attempt.reply = Reply(endpoint, address, raw, body, page)
        if page and page.serial < self._transport.health.serial(self._url):
            seen = self._transport.health.serial(self._url)
            attempt.fail(Trouble.STALE, f"answered with an old page (serial {page.serial}, {seen} was seen before)")

    def _check_page(self, raw: Any, body: bytes) -> Page:
        # Two kinds of place are held to the simple API: a declared pool, and what is called /simple/.
        strict = self._pool.declared or "/simple/" in urlsplit(self._url).path
        try:
            decoded = decode(body, raw.headers.get("Content-Encoding", ""))
            page = inspect(
                self._url, raw.headers.get("Content-Type", ""), decoded, framed=is_framed(raw), strict=strict
            )
        except TooBig as exc:
            raise BodyTrouble(Trouble.SIZE, exc.reason) from exc
        except NotAPage as exc:
            raise BodyTrouble(Trouble.KIND, exc.reason) from exc
        serial = page.serial or number(raw.headers.get("X-PyPI-Last-Serial", "")) or 0
        return replace(page, serial=serial)

    def _position(self, raw: Any) -> None:
        """Make sure that a file's body goes on where the last one broke; raises BodyTrouble if it does not."""
        if not self._offset:
            return
        if raw.status == 206:
            match = _CONTENT_RANGE.match(raw.headers.get("Content-Range", "").strip())
            if not match or int(match[1]) != self._offset:
                raise BodyTrouble(Trouble.CUT, "answered with another part than asked for")
            end = int(match[3]) if match[3] != "*" else None
            if self._last is None and end is not None and self._end not in (None, end):
                raise BodyTrouble(Trouble.CUT, f"has the file with {end} bytes instead of {self._end}")
            return
        length = length_of(raw)
        if self._last is not None or (None not in (length, self._end) and length != self._end):
            raise BodyTrouble(Trouble.CUT, f"has the file with {length} bytes instead of {self._end}")

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
        )
        if answer.location is not None:
            headers["Location"] = answer.location
        if reply.body is not None:
            body: Any = Whole(reply.body)
            if self._request.method != "HEAD":
                headers["Content-Length"] = str(len(reply.body))
        else:
            body = self._file_body(reply)
        if reply.page is not None:
            self._transport.promises.accept(reply.page)
            self._transport.health.saw_serial(self._url, reply.page.serial)
        response = self._transport.flavour.urllib3.HTTPResponse(
            body=body,
            headers=headers,
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=False,
            # requests takes cookies from here: another host's are not the canonical host's
            original_response=getattr(raw, "_original_response", None) if same_site else None,
            request_method=self._request.method,
        )
        return self._call.adapter.build_response(self._request, response)

    def _file_body(self, reply: Reply) -> ResumableBody:
        raw, start = reply.raw, 0
        self._end = length_of(raw)
        if raw.status == 206:
            match = _CONTENT_RANGE.match(raw.headers.get("Content-Range", "").strip())
            wanted = _RANGE.match(self._request.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            self._last = int(match[2]) if match and wanted and wanted[2] else None
            self._end = int(match[2]) + 1 if match else None
        self._offset = start
        tag = raw.headers.get("ETag", "")
        self._note_tag(reply.endpoint, tag)
        whole = raw.status == 200 and start == 0
        if not whole:
            self._digest = None
        return ResumableBody(raw, self, start, self._end, self._digest)

    def _note_tag(self, endpoint: Endpoint, tag: str) -> None:
        if tag.startswith('"'):  # If-Range needs a strong one (RFC 9110, section 13.1.5)
            self._tags[endpoint.base] = tag
        if endpoint.base not in self._served:
            self._served.append(endpoint.base)

    # -- the source of a file's body

    def resume(self, offset: int, why: BodyTrouble) -> tuple[Any, int]:
        """See `Source`: another response that goes on at `offset`, or at 0 from a server without Range."""
        reply = self._reply
        assert reply is not None
        verdict = TROUBLES[why.trouble]
        seconds = time.monotonic() - self._began
        attempt = Attempt(
            reply.endpoint,
            self._url,
            reply.address,
            verdict,
            why.detail,
            seconds,
            why.trouble,
            reply.raw.status,
        )
        self._attempts = (*self._attempts, attempt)
        self._transport.noticed(attempt)
        if why.trouble is Trouble.SLOW and reply.address is None:
            self._transport.exhausted(reply.endpoint, seconds, 0.0)
        self._tired.setdefault(reply.endpoint.base, set()).add(reply.address or "")
        if verdict is Verdict.BROKEN or not self._other_addresses(reply):
            self._avoid.add(reply.endpoint.base)
        self._resumes = self._resumes + 1 if offset - self._progress < PROGRESS else 1
        self._progress = offset
        bound = max(self._timeouts.passes, 2) * len(self._pool.endpoints) + 1
        encoded = reply.raw.headers.get("Content-Encoding", "identity") != "identity"
        if self._resumes > bound or encoded:
            error = AllEndpointsFailed(self._url, self._attempts)
            raise self._transport.failure(error, self._request, self._pool) from error
        self._offset = offset
        reply = self._walk().response
        self._note_tag(reply.endpoint, reply.raw.headers.get("ETag", ""))
        return reply.raw, offset if reply.raw.status == 206 else 0

    def alone(self) -> bool:
        """See `Source`: whether no other endpoint, and no other address of this one, is left untired."""
        reply = self._reply
        if reply is None:
            return True
        endpoints = self._transport.endpoints(self._pool, self._url, True)
        if any(e.base not in self._avoid and e.base != reply.endpoint.base for e in endpoints):
            return False
        return self._other_addresses(reply) == 0

    def _other_addresses(self, reply: Reply) -> int:
        _, host, port = reply.endpoint.site
        try:
            found: Sequence[str] = self._transport.lines.addresses(host, port, 1.0) if reply.address else ()
        except OSError:
            return 0
        return len(set(found) - self._tired.get(reply.endpoint.base, set()) - {reply.address})

    def complete(self, digest: str | None) -> None:
        """See `Source`: the body came whole; a wrong hash is the end of it, here."""
        reply = self._reply
        assert reply is not None
        if digest is None or digest == str(self._digest):
            if digest is not None:
                self._transport.promises.verify(self._url)
            return
        seconds = time.monotonic() - self._began
        for endpoint in self._pool.endpoints:
            if endpoint.base in self._served:
                self._transport.noticed(
                    Attempt(endpoint, self._url, reply.address, Verdict.BROKEN, WRONG_HASH, seconds, Trouble.HASH)
                )
        got = self._transport.promises.condemn(self._url, [(base, digest) for base in self._served])
        error = HashMismatch(self._url, str(self._digest), got)
        raise self._transport.failure(error, self._request, self._pool) from error


class _Running:
    """An attempt under way: collects what becomes its Outcome."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.started = time.monotonic()
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

    def seconds(self) -> float:
        return time.monotonic() - self.started

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
    """What an error says, so that the connection can be kept and the tool can show it; b"" if it does not come."""
    try:
        return read_whole(raw, ERROR_PAGE)
    except BodyTrouble:
        raw.close()
        return b""


def _retry_after(raw: Any) -> float:
    """Seconds that the server asks to be left alone (RFC 9110, section 10.2.3); 0 if it does not."""
    value = raw.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def _connect_trouble(exc: Exception) -> tuple[Trouble, str]:
    """What kept a connection from coming about."""
    name = type(exc).__name__
    if name in ("ConnectTimeoutError", "ConnectTimeout"):
        return Trouble.CONNECT, "did not connect"
    if name in ("NewConnectionError", "NameResolutionError"):
        return Trouble.CONNECT, f"did not connect ({_reason(exc)})"
    if name == "ProxyError":
        return Trouble.CONNECT, f"was not reached through the proxy ({_reason(exc)})"
    if isinstance(exc, TimeoutError):
        return Trouble.TLS, "connected, but TLS did not come about"
    return Trouble.TLS, f"failed in TLS ({_reason(exc)})"


def _reason(exc: BaseException) -> str:
    """The innermost cause of `exc` in a few words, without the reprs that urllib3 wraps it in."""
    seen: BaseException = exc
    for _ in range(8):
        inner = next((a for a in seen.args if isinstance(a, BaseException)), None)
        inner = seen.__cause__ or inner or (None if seen.__suppress_context__ else seen.__context__)
        if inner is None:
            break
        seen = inner
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"certificate: {seen.verify_message}"
    if isinstance(seen, ssl.SSLError) and seen.reason:
        return seen.reason.replace("_", " ").lower()
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return str(seen) or type(seen).__name__
