"""One HTTP/1.1 server on one address, on raw sockets: every byte and every fault of it is ours."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from types import TracebackType

from tests.rig.faults import Blackhole, Fault, Greeting
from tests.rig.messages import Answer, Content, Request, Then, compressed, ranged, validated
from tests.rig.rules import KINDS, On, Rule, Rules
from tests.rig.tls import ServerTLS
from tests.rig.wire import CHUNK, common_name, end, parsed, send

_HEAD_MAX = 1 << 16
_PATIENCE = 5.0  # seconds that close() waits for threads


@dataclass(frozen=True, slots=True)
class Serving:
    """How a healthy answer is dressed."""

    cache_control: str | None = "max-age=600, public"
    gzip: bool = False
    date: bool = True
    keep_alive: bool = True


class Server:
    """Serves `content` while its `with` block runs, once. Port 0: any; `port` tells which.

    `requests` (in order) and `connections` (a count) say what came. `watch` is called with each request.
    """

    def __init__(
        self,
        content: Content,
        address: str,
        port: int,
        *,
        tls: ServerTLS | None = None,
        serving: Serving | None = None,
        watch: Callable[[Request], None] | None = None,
    ) -> None:
        self.content = content
        self.address = address
        self.port = port
        self.tls = tls
        self.serving = serving or Serving()
        self.connections = 0
        self._watch = watch
        self._requests: list[Request] = []
        self._rules = Rules()
        self._down: Fault | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._fillers: list[socket.socket] = []
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    # --- for tests ---

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests so far, in the order in which their answers were decided."""
        with self._lock:
            return tuple(self._requests)

    @property
    def url(self) -> str:
        """The base URL by address; tests that use names write their own."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/"

    def fault(self, *faults: Fault, on: On | None = None, times: int | None = None, after: int = 0) -> None:
        """From now on these faults together, for `times` requests (None: always) after `after` healthy ones.

        `on`: "any", "page", "file", "metadata", one path, a function of the path, or "connection". By default
        a fault acts where it belongs. The first rule that applies wins. Faults of the listener last until
        `heal()`. ValueError for a fault that could never happen.
        """
        depths = {fault.depth for fault in faults}
        if self.tls is None and any(fault.needs_tls for fault in faults):
            raise ValueError(f"{faults} need a server with TLS")
        if "listener" in depths:
            if len(faults) != 1 or on is not None or times is not None or after:
                raise ValueError("a fault of the listener stands alone, without conditions")
            self._go_down(faults[0])
            return
        where = on or ("connection" if "connection" in depths else "any")
        if where == "connection" and (len(faults) != 1 or "connection" not in depths):
            raise ValueError(f"{faults} cannot happen to a connection")
        if where != "connection" and any(fault.needs_tls for fault in faults):
            raise ValueError(f"{faults} cannot happen to a request")
        if isinstance(where, str) and where not in KINDS and not where.startswith("/"):
            raise ValueError(f"on={where!r} is neither a kind nor a path")
        self._rules.add(Rule(faults, where, times, after))

    def heal(self) -> None:
        """Forgets all faults."""
        self._rules.clear()
        with self._lock:
            down, self._down = self._down, None
        if down is not None and self._listener is not None:
            self._stop_listening()
            self._listen()

    def forget(self) -> None:
        """Forgets the requests and connections seen so far."""
        with self._lock:
            self._requests.clear()
            self.connections = 0

    # --- life ---

    def __enter__(self) -> Server:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything, also what hangs by design."""
        self._closing.set()
        self._stop_listening()
        self._cut_connections()
        until = time.monotonic() + _PATIENCE
        while (thread := self._any_thread()) is not None and time.monotonic() < until:
            thread.join(0.1)

    def _any_thread(self) -> threading.Thread | None:
        """One that still runs; the accepting thread may add others while it ends."""
        with self._lock:
            return next((thread for thread in self._threads if thread.is_alive()), None)

    def _go_down(self, fault: Fault) -> None:
        with self._lock:
            self._down = fault
        if self._listener is not None:
            self._stop_listening()
            self._listen()
        if not isinstance(fault, Blackhole):
            self._cut_connections()

    def _listen(self) -> None:
        """A refusing server is bound but does not listen: so the port stays ours."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        if self._down is None:
            listener.listen(128)
            self._start(self._accept, listener)
        elif isinstance(self._down, Blackhole):
            listener.listen(0)
            self._fill_backlog()

    def _fill_backlog(self) -> None:
        """With the accept queue full the kernel drops every SYN; no root, no packet filter."""
        for _ in range(8):
            filler = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET)
            self._fillers.append(filler)
            filler.settimeout(0.2)
            try:
                filler.connect((self.address, self.port))
            except TimeoutError:
                return
        raise RuntimeError("this kernel does not drop connections to a full backlog")

    def _stop_listening(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()

    def _cut_connections(self) -> None:
        with self._lock:
            live = tuple(self._live)
        for connection in live:
            with contextlib.suppress(OSError):  # below TLS: an SSLSocket's own shutdown is not thread-safe
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)
        with self._lock:
            thread.start()
            self._threads = [known for known in self._threads if known.is_alive()] + [thread]

    # --- connections ---

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        faults = self._rules.take(None)
        greeting = faults[0].greet(self.tls) if faults else Greeting(self.tls)
        with contextlib.suppress(OSError):
            with self._living(plain):
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if greeting.peek:
                    plain.recv(CHUNK)
                plain.sendall(greeting.raw)
                if greeting.then != "keep":
                    end(plain, greeting.then, self._closing)
                    return
                if greeting.tls is None:
                    self._converse(plain, "")
                    return
                context = greeting.tls.context
                secure = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            with self._living(secure):
                secure.do_handshake()
                self._converse(secure, common_name(secure))

    @contextlib.contextmanager
    def _living(self, connection: socket.socket) -> Iterator[None]:
        """While it lasts, close() and Refuse can cut the connection."""
        with self._lock:
            self._live.add(connection)
        try:
            if self._closing.is_set():
                raise ConnectionAbortedError
            yield
        finally:
            with self._lock:
                self._live.discard(connection)
            connection.close()  # does nothing to a socket that wrap_socket() has taken over

    def _converse(self, connection: socket.socket, client: str) -> None:
        received = b""
        while not self._closing.is_set():
            while b"\r\n\r\n" not in received:
                data = connection.recv(CHUNK)
                received += data
                if not data or len(received) > _HEAD_MAX:
                    return
            head, _, received = received.partition(b"\r\n\r\n")
            asked = parsed(head)
            if asked is None:
                return
            request = replace(asked, at=time.monotonic(), client=client)
            length = int(request.header("Content-Length") or 0)
            while len(received) < length:
                data = connection.recv(CHUNK)
                if not data:
                    return
                received += data
            received = received[length:]
            answer = self._answer(request)
            send(connection, request, answer, self._closing)
            if answer.then != "keep":
                end(connection, answer.then, self._closing)
                return
            if not self.serving.keep_alive or request.header("Connection") == "close":
                end(connection, "close", self._closing)
                return

    # --- requests ---

    def _answer(self, request: Request) -> Answer:
        faults = self._rules.take(request.path)
        answer = self.content.answer(request)
        for fault in faults:
            answer = fault.content(request, answer)
        answer = self._dressed(answer)
        answer = compressed(request, answer) if self.serving.gzip else answer
        answer = ranged(request, validated(request, answer))
        for fault in faults:
            answer = fault.wire(request, answer)
        if self._down is not None:
            then: Then = "hang" if isinstance(self._down, Blackhole) else "close"
            answer = replace(answer, raw=b"", then=then)
        if not self.serving.keep_alive and answer.then == "keep":
            answer = replace(answer, then="close")
        said = "+".join(type(fault).__name__ for fault in faults)
        done = replace(request, status=answer.status if answer.raw is None else 0, fault=said)
        with self._lock:
            self._requests.append(done)
        if self._watch is not None:
            self._watch(done)
        return answer

    def _dressed(self, answer: Answer) -> Answer:
        if self.serving.date and answer.header("Date") is None:
            answer = answer.with_headers(("Date", formatdate(usegmt=True)))
        if self.serving.cache_control and answer.status == 200 and answer.header("Cache-Control") is None:
            answer = answer.with_headers(("Cache-Control", self.serving.cache_control))
        return answer
