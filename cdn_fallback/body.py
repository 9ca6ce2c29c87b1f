"""Bodies: read whole within bounds, or handed on as they come and continued elsewhere when they break."""

from __future__ import annotations

import hashlib
import http.client
import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from cdn_fallback.connections import patience_of, read_some, release
from cdn_fallback.pages import number
from cdn_fallback.verdicts import Trouble

CHUNK = 64 * 1024
PROGRESS = 1024 * 1024  # bytes: a continuation that brought so much starts the count of resumes anew


class BodyTrouble(Exception):
    """A body that did not come whole: what happened, as a phrase that follows the endpoint's name."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(trouble, detail)
        self.trouble = trouble
        self.detail = detail


def length_of(raw: Any) -> int | None:
    """The body's length in bytes that urllib3's response `raw` was announced with; ``None`` if it was not."""
    if "chunked" in raw.headers.get("Transfer-Encoding", "").lower():
        return None
    said = {value.strip() for value in raw.headers.get("Content-Length", "").split(",")}
    return number(said.pop()) if len(said) == 1 else None  # said twice is said once (RFC 9110, section 8.6)


class Part(NamedTuple):
    """The bytes from `start` up to, not with, `end` of `total` (``None``: not said)."""

    start: int
    end: int
    total: int | None


_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)$")


def part_of(raw: Any) -> Part | None:
    """The part that urllib3's response `raw` says it has; ``None`` for none, or nonsense (RFC 9110, section 14.4)."""
    match = _CONTENT_RANGE.match(raw.headers.get("Content-Range", "").strip())
    if raw.status != 206 or not match:
        return None
    part = Part(int(match[1]), int(match[2]) + 1, number(match[3]))
    sound = part.start < part.end and (part.total is None or part.end <= part.total)
    return part if sound and length_of(raw) in (None, part.end - part.start) else None


def is_framed(raw: Any) -> bool:
    """Whether the transfer tells its own end; else a cut is not to be told from it (RFC 9112, section 8)."""
    return length_of(raw) is not None or "chunked" in raw.headers.get("Transfer-Encoding", "").lower()


def piece(raw: Any, received: int, expected: int | None) -> bytes:
    """The next bytes of a body of which `received` have come; b"" at its proper end.

    Raises BodyTrouble for every way in which it can break.
    """
    try:
        data = read_some(raw, CHUNK)
    except TimeoutError:
        raise BodyTrouble(Trouble.SLOW, f"stalled after {received} bytes") from None
    except http.client.IncompleteRead:
        raise BodyTrouble(Trouble.CUT, f"stopped in the middle, after {received} bytes") from None
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise BodyTrouble(Trouble.LOST, f"broke off after {received} bytes ({reason})") from None
    if not data and expected is not None and received < expected:
        raise BodyTrouble(Trouble.CUT, f"stopped after {received} of {expected} bytes")
    if expected is not None and received + len(data) > expected:
        raise BodyTrouble(Trouble.CUT, f"sent more than the {expected} bytes that it had announced")
    return data


def read_whole(raw: Any, limit: int | None) -> bytes:
    """The whole body of urllib3's response `raw`, still encoded; raises BodyTrouble, beyond `limit` bytes too."""
    expected = 0 if getattr(raw._fp, "_method", None) == "HEAD" else length_of(raw)
    body = bytearray()
    while data := piece(raw, len(body), expected):
        body += data
        if limit is not None and len(body) > limit:
            raise BodyTrouble(Trouble.SIZE, f"answered with a page of more than {limit >> 20} MiB")
        if len(body) == expected:
            break
    release(raw)
    return bytes(body)


class Whole(io.BytesIO):
    """A body that is there. Closed at its end, as http.client's are: CacheControl stores it only then."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.closed:
            return b""
        data = super().read(size)
        if self.tell() == len(self.getbuffer()):
            self.close()
        return data

    def isclosed(self) -> bool:
        return self.closed


class Digest(NamedTuple):
    """The hash that a file must have: `algorithm` as hashlib names it, `value` in lower-case hex."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    def new(self) -> Any:
        """A hash object of this algorithm; not for security where that must be said (FIPS builds, md5)."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def named(self, hasher: Any) -> str:
        """What `hasher` has come to, in the form of ``str(self)``."""
        return f"{self.algorithm}:{hasher.hexdigest()}"

    def matches(self, path: str) -> bool:
        """Whether the file at `path` has this hash."""
        hasher = self.new()
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                hasher.update(data)
        return self.named(hasher) == str(self)


def strongest(hashes: Mapping[str, str]) -> Digest | None:
    """The best of `hashes` that this Python can compute; ``None`` if there is none."""
    for algorithm in ("sha512", "sha384", "sha256", "sha224", "sha1", "md5"):
        if hashes.get(algorithm) and algorithm in hashlib.algorithms_available:
            return Digest(algorithm, hashes[algorithm].lower())
    return None


class Source(Protocol):
    """Where a file's bytes come from, and come from next; `transport` implements it."""

    def resume(self, offset: int, why: BodyTrouble) -> tuple[Any, int]:
        """urllib3's response from which to go on at `offset`, and where its own body begins: there, or at 0
        from a server without Range. Raises when there is none."""

    def patience(self) -> tuple[float, float]:
        """The silence in seconds, and the rate in bytes a second, that the response now read is held to."""

    def complete(self, digest: str | None) -> None:
        """The body is whole; `digest` (``algorithm:hex``) where a hash was asked for. Raises if it is wrong."""


class ResumableBody(io.RawIOBase):
    """A file's bytes from `offset` on, one whole body to its reader however often its source breaks.

    Raises what `source` raises when there is no more to be had; is closed at its end, as http.client's are.

    :param total: where the bytes end, ``None`` if nobody said
    :param digest: hashed on the way if given (only whole files can be: `offset` 0)
    """

    def __init__(self, raw: Any, source: Source, offset: int, total: int | None, digest: Digest | None) -> None:
        self._raw = raw
        self._source = source
        self._offset = offset  # of the next byte for the reader
        self._at = offset  # of the next byte from `raw`
        self._total = total
        self._digest = digest
        self._hash = digest.new() if digest else None
        patience_of(raw).bound(*source.patience())

    def isclosed(self) -> bool:
        return self.closed

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        wanted = float("inf") if size is None or size < 0 else size
        parts: list[bytes] = []
        while wanted > 0 and not self.closed:
            data = self._next(int(min(wanted, CHUNK)))
            if not data:
                break
            parts.append(data)
            wanted -= len(data)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    _held = b""  # bytes that came with the last piece but were not asked for yet

    def _next(self, size: int) -> bytes:
        if not self._held:
            self._held = self._arrive()
        data, self._held = self._held[:size], self._held[size:]
        if not self._held and self._offset == self._total:
            self._finish()
        return data

    def _arrive(self) -> bytes:
        while not self.closed:
            why: BodyTrouble | None = None
            try:
                data = piece(self._raw, self._at, self._total)
                if not data and self._at < self._offset:
                    raise BodyTrouble(Trouble.CUT, f"has only {self._at} bytes, when there were {self._offset} before")
            except BodyTrouble as trouble:
                why = trouble
            if why is not None:  # outside of the handler: what fails from now on has other reasons
                self._raw.close()
                self._raw, self._at = self._source.resume(self._offset, why)
                patience_of(self._raw).bound(*self._source.patience())
                continue
            self._at += len(data)
            if data and self._at <= self._offset:
                continue  # known already, read again from a server without Range
            data = data[len(data) - (self._at - self._offset) :]
            if self._hash is not None:
                self._hash.update(data)
            self._offset += len(data)
            if not data:
                self._finish()
            return data
        return b""

    def _finish(self) -> None:
        if self.closed:
            return
        release(self._raw)
        super().close()
        if self._digest is not None and self._hash is not None:
            self._source.complete(self._digest.named(self._hash))
        else:
            self._source.complete(None)

    def close(self) -> None:
        """Leave off: what was not read is dropped, the connection with it."""
        if not self.closed:
            self._raw.close()
        super().close()
