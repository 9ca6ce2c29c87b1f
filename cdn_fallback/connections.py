"""urllib3 connections that go to one address, and whose reads obey a deadline.

urllib3 chooses the address itself and times out each read alone: a byte a second keeps it waiting for ever, and
an address that answers badly is asked again. Both need a say below urllib3's pools. The classes are made from
whatever connection class a pool has, pip's vendored 1.26 and 2.x or the real ones, so that TLS, proxies and
verification stay theirs.
"""

from __future__ import annotations

import contextvars
import functools
import http.client
import io
import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Patience:
    """How long reads may wait: `idle` seconds for the next bytes, and in any case until `deadline`.

    With a `rate` (bytes a second) silence need not be complete: the time that reads take uses up the `idle`
    seconds, and only as many bytes as the rate asks for in them win them back. Time in which nobody reads does not
    count. `deadline` is a time of `clock` (monotonic).
    """

    __slots__ = ("_came", "_credit", "clock", "deadline", "idle", "rate")

    def __init__(self, idle: float, deadline: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.bound(idle, deadline=deadline)

    def bound(self, idle: float, rate: float = 0.0, deadline: float = math.inf) -> None:
        """From now on these bounds hold."""
        self.idle = self._credit = idle
        self._came = 0
        self.rate = rate
        self.deadline = deadline

    def left(self) -> float | None:
        """The timeout for the next read in seconds, ``None`` for no limit; raises TimeoutError when it is up."""
        left = min(self._credit, self.deadline - self.clock())
        if left <= 0:
            raise TimeoutError("the time for this response is up")
        return None if math.isinf(left) else left

    def came(self, count: int, seconds: float) -> None:
        """A read brought `count` bytes after `seconds`."""
        if self.rate:
            self._credit -= seconds
            self._came += count
            if self._came >= self.rate * self.idle:
                self._credit, self._came = self.idle, 0


# urllib3 picks the connection and makes the response object within one call: this is how its reads find out
# what bounds them.
PATIENCE: contextvars.ContextVar[Patience | None] = contextvars.ContextVar("cdn_fallback_patience", default=None)


class _PatientSocket(io.RawIOBase):
    """What a response reads from: the socket's raw file, with a timeout set anew before each read."""

    def __init__(self, raw: Any, sock: Any, patience: Patience) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        patience = self._patience
        self._sock.settimeout(patience.left())
        started = patience.clock()
        count: int | None = self._raw.readinto(buffer)
        patience.came(count or 0, patience.clock() - started)
        return count

    def fileno(self) -> int:
        number: int = self._raw.fileno()
        return number

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()


class BadHead(http.client.HTTPException):
    """A head that http.client would read as if it were sound; the text is a phrase that follows the endpoint's name."""


class _Lines(io.BufferedReader):
    """A response's bytes, of which http.client reads the head line by line."""

    lines = 0
    in_head = True

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        # http.client takes a bare CR for the end of a header, and the end of the connection for that of the head.
        if _CONTROL.search(line, 0, len(line) - 1 - line.endswith(b"\r\n")):
            raise BadHead("answered with control characters in its head")
        if not line and self.lines and self.in_head:
            raise BadHead("broke the connection off in its head")
        self.lines += 1
        return line


_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5


class PatientResponse(http.client.HTTPResponse):
    """http.client's response, reading under the Patience that was in force when it was made."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.patience = PATIENCE.get()
        if self.patience is not None:
            raw = self.fp.detach()
            self.fp = _Lines(_PatientSocket(raw, sock, self.patience))

    def begin(self) -> None:
        super().begin()
        if isinstance(self.fp, _Lines):
            self.fp.in_head = False  # the lines that follow are those of chunks


class Pinned:
    """Marks the connection classes made here."""


@functools.cache
def pinned(pool_class: type[Any], address: str | None) -> type[Any]:
    """A copy of urllib3's `pool_class` whose connections go to `address`, under the host's own name.

    SNI, the Host header and the certificate check keep the name. With ``None`` (a proxy, a SOCKS tunnel) the
    address is left alone and only reads are bounded. A connection in `fresh` is the next to be used.
    """
    base_pool: Any = pool_class
    base: Any = pool_class.ConnectionCls

    class Connection(Pinned, base):  # type: ignore[misc]
        response_class = PatientResponse
        _dns_host: str

        def _new_conn(self) -> Any:
            if address is None:
                return super()._new_conn()
            # urllib3 keeps the name that it resolves apart from the name that it verifies, since 1.22.
            name: str = self._dns_host
            self._dns_host = address
            try:
                return super()._new_conn()
            finally:
                self._dns_host = name

    class Pool(base_pool):  # type: ignore[misc]
        ConnectionCls = Connection

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.fresh: deque[Any] = deque()

        def _get_conn(self, timeout: float | None = None) -> Any:
            # urllib3 takes a connection with something to read for a dropped one; after a TLS 1.3 handshake there
            # always is something to read, the session tickets, and it would connect a second time.
            try:
                return self.fresh.popleft()
            except IndexError:
                return super()._get_conn(timeout)

    return Pool


def pin(manager: Any, address: str | None) -> None:
    """Make the pools of urllib3's PoolManager `manager` go to `address` from now on."""
    classes = manager.pool_classes_by_scheme
    if not any(issubclass(cls.ConnectionCls, Pinned) for cls in classes.values()):
        manager.pool_classes_by_scheme = {scheme: pinned(cls, address) for scheme, cls in classes.items()}


def is_connected(connection: Any) -> bool:
    return getattr(connection, "sock", None) is not None


def patience_of(raw: Any) -> Patience:
    """The Patience under which urllib3's response `raw` is read (one without bounds if it has none)."""
    return getattr(getattr(raw, "_fp", None), "patience", None) or Patience(math.inf)


def read_some(raw: Any, amount: int) -> bytes:
    """Up to `amount` bytes of urllib3's response `raw`, still encoded, as soon as there are any; b"" at its end.

    ``raw.read(amount)`` would block until all of `amount` is there. Raises OSError (TimeoutError when patience
    ends) and http.client.HTTPException, as http.client does.
    """
    body = raw._fp
    if isinstance(body, http.client.HTTPResponse):
        return body.read1(amount)
    data: bytes = raw.read(amount, decode_content=False)
    return data


def release(raw: Any) -> None:
    """Give the connection of urllib3's response `raw`, read to its end, back to its pool."""
    body = raw._fp
    if isinstance(body, http.client.HTTPResponse) and not body.isclosed():
        if body.length == 0:
            body.read()  # http.client notices the end of a body only when asked for more
        if not body.isclosed():
            raw.close()
    raw.release_conn()
