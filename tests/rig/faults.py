"""What can go wrong with a server, as small frozen values: each one changes an answer or meets a connection.

A fault acts at one of three depths: the listener (nobody is there), the connection (accepted, then trouble)
or the request. Request faults are functions from answer to answer: `content` acts before 304 and Range are
worked out, so that a wrong content is served consistently; `wire` afterwards: it is the transfer that breaks.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tests.rig.messages import Answer, Content, Framing, Headers, Request, Then
from tests.rig.tls import Authority, ServerTLS

Depth = Literal["listener", "connection", "request"]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a connection gets: after an optional look at its first bytes, `raw`, then the end or a talk."""

    tls: ServerTLS | None
    then: Then = "keep"
    peek: bool = False
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """No fault at all: the base of the others."""

    depth: ClassVar[Depth] = "request"
    needs_tls: ClassVar[bool] = False

    def greet(self, tls: ServerTLS | None) -> Greeting:
        """How a connection is received."""
        return Greeting(tls)

    def content(self, request: Request, answer: Answer) -> Answer:
        """Another content, from which 304 and ranges are then served."""
        return answer

    def wire(self, request: Request, answer: Answer) -> Answer:
        """Another transfer of the answer."""
        return answer


# --- listener ---


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """Nothing listens: connecting is refused at once, living connections are cut."""

    depth: ClassVar[Depth] = "listener"


@dataclass(frozen=True, slots=True)
class Blackhole(Fault):
    """SYNs are dropped: connecting never ends. Requests on living connections are never answered."""

    depth: ClassVar[Depth] = "listener"


# --- connection ---


@dataclass(frozen=True, slots=True)
class Close(Fault):
    """Accept, then close. For requests (`on="page"`): read them, then close without an answer."""

    depth: ClassVar[Depth] = "connection"

    def greet(self, tls: ServerTLS | None) -> Greeting:
        return Greeting(tls, then="close")

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, raw=b"", then="close")


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """Accept, then RST. For requests (`on="file"`): read them, then RST instead of an answer."""

    depth: ClassVar[Depth] = "connection"

    def greet(self, tls: ServerTLS | None) -> Greeting:
        return Greeting(tls, then="reset")

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, raw=b"", then="reset")


@dataclass(frozen=True, slots=True)
class TLSHang(Fault):
    """Accept, never handshake."""

    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        return Greeting(tls, then="hang")


@dataclass(frozen=True, slots=True)
class TLSReset(Fault):
    """RST in answer to the ClientHello."""

    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        return Greeting(tls, then="reset", peek=True)


@dataclass(frozen=True, slots=True)
class TLSGarbage(Fault):
    """Something that is not TLS in answer to the ClientHello."""

    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        return Greeting(tls, then="close", peek=True, raw=b"220 mail.invalid ESMTP\r\n" * 4)


@dataclass(frozen=True, slots=True)
class WrongCertificate(Fault):
    """A certificate of the right authority for another host."""

    name: str = "another-host.invalid"
    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        assert tls is not None
        return Greeting(tls.authority.server(self.name, clients=tls.clients))


@dataclass(frozen=True, slots=True)
class UnknownCA(Fault):
    """A certificate for the right host of an authority that nobody trusts."""

    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        assert tls is not None
        return Greeting(Authority().server(*tls.names))


@dataclass(frozen=True, slots=True)
class ExpiredCertificate(Fault):
    """A certificate of the right authority for the right host, which ended yesterday."""

    depth: ClassVar[Depth] = "connection"
    needs_tls: ClassVar[bool] = True

    def greet(self, tls: ServerTLS | None) -> Greeting:
        assert tls is not None
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        return Greeting(tls.authority.server(*tls.names, clients=tls.clients, not_after=yesterday))


# --- request: another content ---


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """This status, with headers such as Retry-After."""

    code: int
    headers: Headers = ()
    body: bytes = b"the rig says no\n"

    def content(self, request: Request, answer: Answer) -> Answer:
        return Answer(self.code, self.body, (("Content-Type", "text/plain"), *self.headers))


@dataclass(frozen=True, slots=True)
class Body(Fault):
    """Other bytes with status 200; headers replace those of the healthy answer, its ETag goes."""

    body: bytes
    headers: Headers = ()

    def content(self, request: Request, answer: Answer) -> Answer:
        kept = tuple(pair for pair in answer.headers if pair[0].lower() not in ("etag", "last-modified"))
        return Answer(200, self.body, kept).with_headers(*self.headers)


@dataclass(frozen=True, slots=True)
class Instead(Fault):
    """Another content altogether: an older site (stale serial), a redirector, ..."""

    other: Content

    def content(self, request: Request, answer: Answer) -> Answer:
        return self.other.answer(request)


@dataclass(frozen=True, slots=True)
class Corrupt(Fault):
    """One byte flipped at this fraction of the body; length and validators as if nothing had happened."""

    at: float = 0.5

    def content(self, request: Request, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        if body:
            body[min(len(body) - 1, int(len(body) * self.at))] ^= 0xFF
        return replace(answer, body=bytes(body))


@dataclass(frozen=True, slots=True)
class CutPage(Fault):
    """The body is cut, and Content-Length agrees with what is left (a half-written file on a node)."""

    fraction: float = 0.5

    def content(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[: int(len(answer.body) * self.fraction)])


@dataclass(frozen=True, slots=True)
class LoginPage(Fault):
    """A captive portal: 200, HTML, a form, for everything."""

    def content(self, request: Request, answer: Answer) -> Answer:
        form = b'<form action="/login" method="post"><input name="user"><input type="password"></form>'
        page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + form + b"</body></html>"
        return Answer(200, page, (("Content-Type", "text/html; charset=utf-8"), ("Accept-Ranges", "none")))


@dataclass(frozen=True, slots=True)
class HugePage(Fault):
    """A valid JSON index page of `size` bytes; compressed, it is a thousandth on the wire."""

    size: int
    coded: bool = True

    def content(self, request: Request, answer: Answer) -> Answer:
        headers = [("Content-Type", "application/vnd.pypi.simple.v1+json")]
        headers += [("Content-Encoding", "gzip")] if self.coded else []
        return Answer(200, _huge(self.size, self.coded), tuple(headers))


@dataclass(frozen=True, slots=True)
class Redirect(Fault):
    """A redirect to this URL ("{path}" in it stands for what was asked), or to what a function says."""

    to: str | Callable[[Request], str]
    status: int = 302
    headers: Headers = ()

    def content(self, request: Request, answer: Answer) -> Answer:
        target = self.to.replace("{path}", request.path) if isinstance(self.to, str) else self.to(request)
        return Answer(self.status, headers=(("Location", target), *self.headers))


@dataclass(frozen=True, slots=True)
class NoRange(Fault):
    """Ranges are ignored: the whole body and 200."""

    def content(self, request: Request, answer: Answer) -> Answer:
        return answer.with_headers(("Accept-Ranges", "none"))


# --- request: another transfer ---


@dataclass(frozen=True, slots=True)
class Silent(Fault):
    """Read the request, never answer."""

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, raw=b"", then="hang")


@dataclass(frozen=True, slots=True)
class Truncate(Fault):
    """Only this fraction of what was to be sent, then the end: seen by length, by chunks, or not at all."""

    fraction: float
    framing: Framing = "length"

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, portion=self.fraction, framing=self.framing, then="close")


@dataclass(frozen=True, slots=True)
class Stall(Fault):
    """This fraction of the body, then nothing for ever."""

    fraction: float = 0.5

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, portion=self.fraction, then="hang")


@dataclass(frozen=True, slots=True)
class ResetMidway(Fault):
    """RST after this fraction of the body."""

    fraction: float = 0.5

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, portion=self.fraction, then="reset")


@dataclass(frozen=True, slots=True)
class Drip(Fault):
    """The body comes this slowly."""

    bytes_per_second: float

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, rate=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class WrongContentRange(Fault):
    """A 206 that claims another start (`shift`) or another total (`grow`) than it has."""

    shift: int = 1
    grow: int = 0

    def wire(self, request: Request, answer: Answer) -> Answer:
        if answer.status != 206:
            return answer
        span, total = (answer.header("Content-Range") or "").removeprefix("bytes ").split("/")
        start, end = span.split("-")
        claimed = f"bytes {int(start) + self.shift}-{int(end) + self.shift}/{int(total) + self.grow}"
        return answer.with_headers(("Content-Range", claimed))


@dataclass(frozen=True, slots=True)
class RawBytes(Fault):
    """Exactly these bytes, then the connection is closed."""

    data: bytes

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, raw=self.data, then="close")


@functools.lru_cache(maxsize=2)
def _huge(size: int, coded: bool) -> bytes:
    start, end = b'{"meta": {"api-version": "1.1"}, "name": "huge", "files": [], "pad": "', b'"}'
    padding, block = size - len(start) - len(end), b" " * (1 << 20)
    buffer = io.BytesIO()
    stream = gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=1) if coded else buffer
    stream.write(start)
    for _ in range(padding // len(block)):
        stream.write(block)
    stream.write(block[: padding % len(block)] + end)
    if coded:
        stream.close()
    return buffer.getvalue()
