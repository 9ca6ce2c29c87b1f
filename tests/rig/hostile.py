"""What somebody sends who means harm: faults that do not come about by themselves (see `faults`)."""

from __future__ import annotations

import gzip
import mmap
from dataclasses import dataclass, replace
from typing import cast

from tests.rig.faults import Fault
from tests.rig.messages import Answer, Headers, Request
from tests.rig.site import JSON

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Dressed(Fault):
    """The healthy answer with other headers; an empty value takes one away."""

    headers: Headers

    def content(self, request: Request, answer: Answer) -> Answer:
        dressed = answer.with_headers(*self.headers)
        return replace(dressed, headers=tuple(pair for pair in dressed.headers if pair[1]))


@dataclass(frozen=True, slots=True)
class Phrase(Fault):
    """Another reason phrase."""

    phrase: str

    def wire(self, request: Request, answer: Answer) -> Answer:
        _, _, rest = answer.head().partition(b"\r\n")
        start = f"HTTP/1.1 {answer.status} {self.phrase}\r\n".encode("latin-1")
        return _spelled(answer, start + rest + answer.body)


@dataclass(frozen=True, slots=True)
class SlowHead(Fault):
    """The answer comes this slowly from its first byte on, its head too."""

    bytes_per_second: float

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(_spelled(answer, answer.head() + answer.body), rate=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class Bomb(Fault):
    """An index page that gzip opens to `mib` MiB, of which the wire sees a thousandth."""

    mib: int

    def content(self, request: Request, answer: Answer) -> Answer:
        start, end = b'{"meta": {"api-version": "1.1"}, "name": "bomb", "files": [], "pad": "', b'"}'
        # the members of a gzip file follow each other (RFC 1952, section 2.2), so that one can be sent many times
        members = [gzip.compress(part, mtime=0) for part in (start, b" " * MIB, end)]
        body = members[0] + members[1] * self.mib + members[2]
        return Answer(200, body, (("Content-Type", JSON), ("Content-Encoding", "gzip")))


@dataclass(frozen=True, slots=True)
class Coded(Fault):
    """The same answer, whatever its status, with a body that gzip opens to `mib` MiB of blanks."""

    mib: int

    def content(self, request: Request, answer: Answer) -> Answer:
        body = gzip.compress(b" " * MIB, mtime=0) * self.mib
        return replace(answer, body=body).with_headers(("Content-Encoding", "gzip"))


@dataclass(frozen=True, slots=True)
class Flood(Fault):
    """A page of `mib` MiB of nothing, uncoded; neither side needs to have it in memory."""

    mib: int

    def content(self, request: Request, answer: Answer) -> Answer:
        # a mapping of nothing, read only: as good as bytes for whoever sends slices of it
        nothing = mmap.mmap(-1, self.mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        return Answer(200, cast(bytes, nothing), (("Content-Type", JSON), ("ETag", '"flood"')))


@dataclass(frozen=True, slots=True)
class _Spelled(Answer):
    """An answer whose body is everything that is sent, head included."""

    def head(self) -> bytes:
        return b""


def _spelled(answer: Answer, everything: bytes) -> Answer:
    return _Spelled(answer.status, everything, answer.headers, then=answer.then)
