"""What a proxy before an S3 server reads and writes: heads, bodies with their framing, and times moved by seconds."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from io import BufferedReader

from tests.rig.messages import Headers, header
from tests.rig.wire import CHUNK

_LINE_MAX = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte from the store


def read_head(reader: BufferedReader) -> bytes:
    """Up to the empty line, without it. Empty at the end of the connection."""
    lines = []
    while (line := reader.readline(_LINE_MAX)) not in (b"\r\n", b"\n"):
        if not line.endswith(b"\n"):
            return b""
        lines.append(line.rstrip(b"\r\n"))
    return b"\r\n".join(lines)


def body(reader: BufferedReader, headers: Headers, *, to_the_end: bool = False) -> Iterator[bytes]:
    """The pieces of a body, with the framing of chunks. ConnectionError where it ends too early."""
    if (header(headers, "Transfer-Encoding") or "").lower() == "chunked":
        yield from _chunks(reader)
    elif (length := header(headers, "Content-Length")) is not None:
        yield from _exactly(reader, int(length))
    elif to_the_end:
        while piece := reader.read1(CHUNK):
            yield piece


def _exactly(reader: BufferedReader, left: int) -> Iterator[bytes]:
    while left:
        piece = reader.read1(min(left, CHUNK))
        if not piece:
            raise ConnectionError("a body ended early")
        left -= len(piece)
        yield piece


def _chunks(reader: BufferedReader) -> Iterator[bytes]:
    """RFC 9112 7.1, trailers included."""
    size = -1
    while size:
        line = reader.readline(_LINE_MAX)
        if not line.endswith(b"\n"):
            raise ConnectionError("a body ended early")
        yield line
        size = int(line.partition(b";")[0], 16)
        if size:
            yield from _exactly(reader, size + 2)
    while (line := reader.readline(_LINE_MAX)).strip():
        yield line
    yield line


class Upstream:
    """One connection to the store, opened when it is needed, and again when the store has closed it meanwhile."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self._socket: socket.socket | None = None
        self._reader: BufferedReader | None = None

    def send(self, head: bytes, pieces: Iterator[bytes]) -> int:
        """A request; how many bytes its body had on the wire. OSError when the store is not there."""
        connection = self._connected()
        connection.sendall(head + b"\r\n\r\n")
        size = 0
        for piece in pieces:
            size += len(piece)
            connection.sendall(piece)
        return size

    def head(self) -> bytes:
        """Of the final answer, without its empty line."""
        assert self._reader is not None
        while True:
            head = read_head(self._reader)
            if not head:
                raise ConnectionError("the store ended the connection")
            if int(head.split(b" ", 2)[1]) >= 200:
                return head

    def body(self, method: str, status: int, headers: Headers) -> Iterator[bytes]:
        """The pieces of the answer's body."""
        assert self._reader is not None
        if method == "HEAD" or status in (204, 304):
            return iter(())
        return body(self._reader, headers, to_the_end=True)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = None

    def _connected(self) -> socket.socket:
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # nothing is outstanding: what can be read is the end
        if self._socket is None:
            self._socket = socket.create_connection(self._place, _TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = self._socket.makefile("rb")
        return self._socket


def headers_of(head: bytes) -> Headers:
    """The fields below the first line."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return tuple((name, value.strip()) for name, _, value in pairs)


def without(head: bytes, name: str) -> bytes:
    """A head without the fields of this name."""
    return re.sub(rb"(?i)\r\n%b:[^\r]*" % name.encode(), b"", head)


def skewed_head(head: bytes, seconds: float) -> bytes:
    """Its Date and Last-Modified moved; those that are no dates stay (RFC 9110 5.6.7)."""

    def moved(found: re.Match[bytes]) -> bytes:
        with contextlib.suppress(ValueError):
            time = parsedate_to_datetime(found[2].decode("latin-1")) + timedelta(seconds=seconds)
            return found[1] + format_datetime(time, usegmt=True).encode()
        return found[0]

    return re.sub(rb"(?i)(\r\n(?:Date|Last-Modified): *)([^\r]*)", moved, head)


def skewed_listing(text: bytes, seconds: float) -> bytes:
    """The XML of a listing, its times moved. They keep their length, and with them the answer."""

    def moved(found: re.Match[bytes]) -> bytes:
        time = datetime.fromisoformat(found[2].decode()) + timedelta(seconds=seconds)
        return found[1] + time.isoformat().encode()

    return re.sub(rb"(<LastModified>)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", moved, text)
