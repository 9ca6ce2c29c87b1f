"""A proxy before a real S3 server that counts the requests, and does to some of them what a test says.

Every byte of a request goes on as it came, with the Host that the client has signed; only `Expect: 100-continue` it
answers itself (no S3 client signs it). tests.rig.s3_faults has what it can do to a request.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from types import TracebackType
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tests.rig.messages import Answer, Headers, Request, Then, header
from tests.rig.names import free_port
from tests.rig.s3_wire import Upstream, body, headers_of, read_head, skewed_head, skewed_listing, without
from tests.rig.scene import subnet
from tests.rig.wire import end, parsed, send

_PATIENCE = 10.0  # seconds that close() and settle() wait


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `number` counts from 1; `key` is decoded and without the bucket, `query` as it came.

    `status` is what the client was answered, 0 where it got no answer (yet). `forwarded` says whether the store
    got all of it, `stored` what the store answered to it (0: nothing yet, or it was not asked). `fault` is what was
    done to it: the name of the fault, or the code of the error.
    """

    number: int
    method: str
    bucket: str
    key: str
    query: str
    headers: Headers
    size: int = 0  # bytes of its body, with their framing
    status: int = 0
    forwarded: bool = False
    stored: int = 0
    fault: str = ""

    def header(self, name: str) -> str | None:
        """The first value of that name, whatever its case."""
        return header(self.headers, name)

    @property
    def writes(self) -> bool:
        """Whether it may change the bucket."""
        return self.method not in ("GET", "HEAD")

    def __str__(self) -> str:
        return f"{self.method} {self.key}{self.query and '?'}{self.query} {self.status}"


class Fault(Protocol):
    """Something to be done to a request."""

    def apply(self, exchange: Exchange) -> bool:
        """Does it; whether the client's connection goes on."""
        ...  # pragma: no cover


@dataclass(slots=True)
class _Rule:
    fault: Fault
    holds: Callable[[Call], bool]
    left: int | None


class Proxy:
    """Stands before the S3 server `store` (its endpoint) while its `with` block runs, on a 127.x address of its own.

    `skew`, in seconds, is added to the store's clock as clients see it: Date, Last-Modified, times in listings.
    """

    def __init__(self, store: str) -> None:
        parts = urlsplit(store)
        self.store = (parts.hostname or "", parts.port or 80)
        self.address = f"{subnet()}.1"
        self.port = free_port([self.address])
        self.skew = 0.0
        self._calls: list[Call] = []
        self._rules: list[_Rule] = []
        self._under_way = 0
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._cut = False
        self._live: dict[socket.socket, threading.Thread] = {}

    # --- for tests ---

    @property
    def endpoint(self) -> str:
        """Its URL, for clients."""
        return f"http://{self.address}:{self.port}"

    @property
    def calls(self) -> tuple[Call, ...]:
        """All requests since the last `forget()`, in the order in which they came."""
        with self._lock:
            return tuple(self._calls)

    def fault(
        self, fault: Fault, *, at: int | None = None, on: Callable[[Call], bool] | None = None, times: int | None = 1
    ) -> None:
        """Do this to request number `at`, or to those for which `on` holds, at most `times` (None: always).

        Of several faults for one request the one that was given first wins.
        """

        def holds(call: Call) -> bool:
            return at in (None, call.number) and (on is None or on(call))

        with self._lock:
            self._rules.append(_Rule(fault, holds, times))

    def heal(self) -> None:
        """Forgets all faults, the skew too, and mends what was cut."""
        with self._lock:
            self._rules.clear()
        self.skew = 0.0
        self.mend()

    def forget(self) -> None:
        """Forgets the requests so far: the next is number 1. Waits as `settle()` does."""
        with self._lock:
            self.settle()
            self._calls.clear()

    def cut(self) -> None:
        """From now on connections are refused, and those that are open end at once."""
        self._listen(accepting=False)
        self._end_connections()

    def mend(self) -> None:
        """Undoes `cut()`."""
        if self._cut:
            self._listen(accepting=True)

    def settle(self) -> None:
        """Waits for what is still under way, for example after the client's death. AssertionError after 10 s."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._under_way, _PATIENCE), self.calls

    # --- life ---

    def __enter__(self) -> Proxy:
        self._listen(accepting=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything, also what stalls."""
        self._closing.set()
        self._stop_listening()
        until = time.monotonic() + _PATIENCE
        for thread in self._end_connections():
            thread.join(max(0.0, until - time.monotonic()))

    def _listen(self, *, accepting: bool) -> None:
        """One that refuses is bound but does not listen: so the port stays ours."""
        self._stop_listening()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, self.port))
        self._listener, self._cut = listener, not accepting
        if accepting:
            listener.listen(256)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()

    def _end_connections(self) -> list[threading.Thread]:
        """Ends those that are open: no further request is taken from them."""
        with self._lock:
            ended, self._live = self._live, {}
        for connection in ended:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return list(ended.values())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._live[connection] = thread
            thread.start()

    # --- requests ---

    def _serve(self, client: socket.socket) -> None:
        with contextlib.closing(client), contextlib.closing(Upstream(self.store)) as upstream:
            try:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with client.makefile("rb") as reader:
                    while self._one(client, reader, upstream):
                        pass
            except OSError:
                pass  # the client has gone; or the store, and then the client shall see that
            with self._lock:
                self._live.pop(client, None)

    def _one(self, client: socket.socket, reader: BufferedReader, upstream: Upstream) -> bool:
        """One request and its answer; False where the connection ends then."""
        head = read_head(reader)
        request = parsed(head) if head else None
        if request is None:
            return False
        with self._numbered(client, request) as (number, fault):
            if number == 0:
                return False
            if request.header("Expect"):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            pieces = body(reader, request.headers)
            exchange = Exchange(self, number, client, request, without(head, "Expect"), pieces, upstream)
            return fault.apply(exchange) if fault is not None else exchange.healthy()

    @contextlib.contextmanager
    def _numbered(self, client: socket.socket, request: Request) -> Iterator[tuple[int, Fault | None]]:
        """Its number, and what is to be done to it. 0: the connection has been ended meanwhile."""
        with self._lock:
            number, fault = self._taken(request) if client in self._live else (0, None)
            self._under_way += 1
        try:
            yield number, fault
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _taken(self, request: Request) -> tuple[int, Fault | None]:
        path, _, query = request.path.partition("?")
        bucket, _, key = path.lstrip("/").partition("/")
        number = len(self._calls) + 1
        call = Call(number, request.method, bucket, unquote(key), query, request.headers)
        rule = next((rule for rule in self._rules if rule.left != 0 and rule.holds(call)), None)
        if rule is None:
            self._calls.append(call)
            return number, None
        rule.left = None if rule.left is None else rule.left - 1
        self._calls.append(replace(call, fault=getattr(rule.fault, "code", type(rule.fault).__name__)))
        return number, rule.fault

    def note(self, number: int, *, size: int = 0, status: int = 0, forwarded: bool = False, stored: int = 0) -> None:
        """What has become of a request."""
        with self._lock:
            call = self._calls[number - 1]
            self._calls[number - 1] = replace(
                call,
                size=size or call.size,
                status=status or call.status,
                forwarded=forwarded or call.forwarded,
                stored=stored or call.stored,
            )

    def last(self, call_back: Callable[[], object]) -> None:
        """Calls back while no further request is taken, and then ends all connections: their client is dead.

        What came before and is still on its way to the store may yet arrive there: see `settle()`.
        """
        with self._lock:
            call_back()
            self._end_connections()

    @property
    def closing(self) -> threading.Event:
        """Set when all has to end."""
        return self._closing


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request under way, as a fault gets it in its hands."""

    proxy: Proxy
    number: int
    client: socket.socket
    request: Request
    head: bytes
    body: Iterator[bytes]
    upstream: Upstream

    def healthy(self) -> bool:
        """Send it on, and give back the store's answer. Whether the connection goes on."""
        head, pieces = self.forward()
        status = int(head.split(b" ", 2)[1])
        headers = headers_of(head)
        self.proxy.note(self.number, status=status)  # before the client can have seen it
        self.client.sendall(head + b"\r\n\r\n")
        for piece in pieces:
            self.client.sendall(piece)
        said = {header(headers, "Connection"), self.request.header("Connection")}
        framed = header(headers, "Content-Length") or header(headers, "Transfer-Encoding") or status in (204, 304)
        return bool(framed) and not said & {"close", "Close"}

    def forward(self) -> tuple[bytes, Iterator[bytes]]:
        """Send it on; the head and the body's pieces of the store's answer."""
        size = self.upstream.send(self.head, self.body)
        self.proxy.note(self.number, size=size, forwarded=True)
        head = self.upstream.head()
        status = int(head.split(b" ", 2)[1])
        self.proxy.note(self.number, stored=status)
        pieces = self.upstream.body(self.request.method, status, headers_of(head))
        skew = self.proxy.skew
        if skew:
            head = skewed_head(head, skew)
            pieces = iter((skewed_listing(b"".join(pieces), skew),))
        return head, pieces

    def swallow(self) -> bytes:
        """Read its body to the end, as one does who then answers without asking the store."""
        content = b"".join(self.body)
        self.proxy.note(self.number, size=len(content))
        return content

    def reply(self, answer: Answer) -> bool:
        """An answer of our own."""
        self.proxy.note(self.number, status=answer.status)
        send(self.client, self.request, answer, self.proxy.closing)
        return True

    def end(self, how: Then = "close") -> bool:
        """Close the connection, with nothing more."""
        end(self.client, how, self.proxy.closing)
        return False
