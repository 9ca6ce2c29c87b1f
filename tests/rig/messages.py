"""HTTP requests and answers as values, and what the standard asks of them (RFC 9110: 304, Range)."""

from __future__ import annotations

import gzip
import hashlib
import http
import re
from dataclasses import dataclass, replace
from typing import Literal, Protocol

Headers = tuple[tuple[str, str], ...]
Kind = Literal["page", "file", "metadata", "other"]
Framing = Literal["length", "chunked", "close"]
Then = Literal["keep", "close", "reset", "hang"]


def header(headers: Headers, name: str) -> str | None:
    """The first value of that name, whatever its case."""
    return next((value for key, value in headers if key.lower() == name.lower()), None)


def kind_of(path: str) -> Kind:
    """What an index has at this path: an index page, a distribution, its `.metadata`, or something else."""
    path = path.partition("?")[0]
    if "/simple/" in path or path.endswith("/simple"):
        return "page"
    if "/packages/" not in path:
        return "other"
    return "metadata" if path.endswith(".metadata") else "file"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came. `path` is the raw target; `client` the name in the TLS client certificate.

    `status` is what was answered (0: no HTTP answer), `fault` says which faults took part.
    """

    method: str
    path: str
    headers: Headers = ()
    at: float = 0.0
    client: str = ""
    status: int = 0
    fault: str = ""

    def header(self, name: str) -> str | None:
        """The first value of that name, whatever its case."""
        return header(self.headers, name)

    @property
    def kind(self) -> Kind:
        """See `kind_of`."""
        return kind_of(self.path)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent, and how: only the first `portion` of the body, at `rate` bytes a second, `then` the end.

    `raw` replaces head and body by exactly these bytes.
    """

    status: int
    body: bytes = b""
    headers: Headers = ()
    framing: Framing = "length"
    portion: float = 1.0
    then: Then = "keep"
    rate: float | None = None
    raw: bytes | None = None

    def header(self, name: str) -> str | None:
        """The first value of that name, whatever its case."""
        return header(self.headers, name)

    def with_headers(self, *changes: tuple[str, str]) -> Answer:
        """A copy in which these headers replace those of the same names."""
        names = {name.lower() for name, _ in changes}
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in names)
        return replace(self, headers=(*kept, *changes))

    def head(self) -> bytes:
        """Status line and headers, with those of the framing."""
        phrase = http.HTTPStatus(self.status).phrase if self.status in set(http.HTTPStatus) else "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.framing == "length" and self.status != 304:
            lines.append(f"Content-Length: {len(self.body)}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        if self.framing == "close" or self.then == "close":
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Content(Protocol):
    """Anything that a server can serve."""

    def answer(self, request: Request) -> Answer:
        """The whole answer; the server adds Date, ranges, 304 and compression."""
        ...  # pragma: no cover


def etag_of(body: bytes) -> str:
    """A strong validator."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def compressed(request: Request, answer: Answer) -> Answer:
    """gzip, if the client takes it and it is an index page; deterministic."""
    if request.kind != "page" or answer.status != 200 or answer.header("Content-Encoding"):
        return answer
    if "gzip" not in (request.header("Accept-Encoding") or ""):
        return answer
    etag = (answer.header("ETag") or etag_of(answer.body)).removesuffix('"') + '-gzip"'
    coded = replace(answer, body=gzip.compress(answer.body, mtime=0))
    return coded.with_headers(("Content-Encoding", "gzip"), ("ETag", etag))


def validated(request: Request, answer: Answer) -> Answer:
    """304 where the client's validator holds; If-None-Match outranks the date (RFC 9110 13.2.2)."""
    if answer.status != 200 or answer.raw is not None:
        return answer
    if answer.header("ETag") is None:
        answer = answer.with_headers(("ETag", etag_of(answer.body)))
    known = request.header("If-None-Match")
    if known is not None:
        fresh = answer.header("ETag") in [tag.strip().removeprefix("W/") for tag in known.split(",")]
    else:
        since = request.header("If-Modified-Since")
        fresh = since is not None and since == answer.header("Last-Modified")
    if not fresh:
        return answer
    about_body = ("content-type", "content-encoding")
    kept = tuple(pair for pair in answer.headers if pair[0].lower() not in about_body)
    return replace(answer, status=304, body=b"", headers=kept)


def ranged(request: Request, answer: Answer) -> Answer:
    """206 for one byte range. `Accept-Ranges: none` in the answer switches ranges off."""
    if answer.status != 200 or answer.raw is not None or answer.header("Accept-Ranges") == "none":
        return answer
    answer = answer.with_headers(("Accept-Ranges", "bytes"))
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.header("Range") or "")
    condition = request.header("If-Range")
    unchanged = condition in (None, answer.header("ETag"), answer.header("Last-Modified"))
    if wanted is None or not any(wanted.groups()) or not unchanged:
        return answer
    size = len(answer.body)
    first, last = wanted.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        refused = replace(answer, status=416, body=b"")
        return refused.with_headers(("Content-Range", f"bytes */{size}"))
    part = replace(answer, status=206, body=answer.body[start:stop])
    return part.with_headers(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
