"""A network in memory, below urllib3: names, addresses, and wires whose bytes come at their time on a simulated clock.

What stands at an address is the rig's own `Server`, contents and faults included, only without its sockets. TLS is
simulated as far as it comes about or not.
"""

from __future__ import annotations

import io
import math
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any, NamedTuple, TypeVar

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from cdn_fallback.adapter import FallbackAdapter
from cdn_fallback.config import Config, load
from cdn_fallback.dial import STAGGER, Failure, Race
from cdn_fallback.errors import CdnFallbackError, HashMismatch
from cdn_fallback.health import Health
from cdn_fallback.lines import Flavour, Lines
from cdn_fallback.pool import PORTS
from cdn_fallback.transport import Transport
from cdn_fallback.verdicts import Attempt
from tests.rig.faults import Blackhole, Fault, Greeting, Refuse
from tests.rig.messages import Content, Request, Then
from tests.rig.rules import Rule
from tests.rig.server import Server, Serving
from tests.rig.tls import Authority, ServerTLS
from tests.rig.wire import parsed, send
from tests.simulator import TRIP, Clock

C = TypeVar("C")
Site = tuple[str, str, int]  # scheme, host, port

# What comes over a wire: bytes, seconds of silence before the next piece, how it breaks, or its end (no bytes).
Piece = bytes | float | OSError
# What pip asks for, and in which order it likes it.
ACCEPT = ", ".join(
    ["application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html; q=0.1", "text/html; q=0.01"]
)

LONG = 1000.0 + 3 * 3600  # of the clock, which begins at 1000 s: what takes so long would never end

Script = Callable[[Request], Iterable[Piece] | None]


def _reset() -> OSError:
    return ConnectionResetError(104, "Connection reset by peer")


def _ending(then: Then) -> list[Piece]:
    """What follows the last byte; nothing where the wire stays open."""
    endings: dict[Then, list[Piece]] = {"keep": [], "close": [b""], "reset": [_reset()], "hang": [math.inf]}
    return endings[then]


class Asked(NamedTuple):
    """A request as it came: the `site` that the client believes to talk to, the `address` that it reached."""

    site: Site
    address: str
    request: Request


class Host(Server):
    """The rig's server at `address`, without its sockets.

    :param script: what it sends for a request, where that is no `Answer`; ``None`` for what it would send anyway
    """

    def __init__(
        self, content: Content, address: str, *, script: Script | None = None, serving: Serving | None = None
    ) -> None:
        super().__init__(content, address, 443, tls=_tls(), serving=serving or Serving(date=False))
        self._script = script

    def fault(
        self, *faults: Fault, on: str | Callable[[str], bool] | None = None, times: int | None = None, after: int = 0
    ) -> None:
        """As the rig's; a listener's fault may pass here, after so many connections."""
        if times is not None and all(fault.depth == "listener" for fault in faults):
            self._rules.add(Rule(faults, "connection", times, after))
        else:
            super().fault(*faults, on=on, times=times, after=after)

    def greet(self) -> Fault:
        """What a connection meets."""
        self.connections += 1
        met = self._rules.take(None)
        return self._down or (met[0] if met else Fault())

    def talk(self, request: Request) -> Iterator[Piece]:
        """What comes in answer to a request."""
        yield TRIP
        scripted = self._script(request) if self._script else None
        if scripted is not None:
            yield from scripted
            return
        answer, tape = self._answer(request), _Tape()
        recorder: Any = tape  # plays the socket and the event that wakes sleepers
        send(recorder, request, answer, recorder)
        yield from tape.pieces
        yield from _ending(answer.then)


class _Tape:
    """Takes down what a server sends."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def sendall(self, data: bytes) -> None:
        if data:
            self.pieces.append(data)

    def wait(self, seconds: float) -> bool:
        self.pieces.append(seconds)
        return False


class Wire:
    """The client's end of a connection, as urllib3 and http.client use a socket."""

    def __init__(self, network: Network, connection: _Wired, host: Host, met: Fault) -> None:
        self.timeout = connection.timeout
        self.met = met
        self._network = network
        self._connection = connection
        self._host = host
        self._sent = b""
        self._piece: float | OSError | memoryview | None = None  # under way
        self._coming: deque[Iterator[Piece]] = deque()  # one for each request

    def handshake(self) -> None:
        """TLS; raises what `ssl` and `socket` would."""
        greeting = _greeting(self.met)
        if greeting.tls not in (None, _tls()):
            error = ssl.SSLCertVerificationError(1, "certificate verify failed")
            error.verify_message = f"in the simulation it is {type(self.met).__name__}"
            raise error
        if not self._network.wait(math.inf if greeting.then == "hang" else TRIP, self.timeout):
            raise TimeoutError("the handshake timed out")
        if greeting.then == "reset":
            raise _reset()
        if greeting.then == "close":
            failure = ssl.SSLError(1) if greeting.raw else ssl.SSLEOFError(8)
            failure.reason = "WRONG_VERSION_NUMBER" if greeting.raw else "UNEXPECTED_EOF_WHILE_READING"
            raise failure

    def greeted(self) -> None:
        """Without TLS: what the server does before it is asked."""
        greeting = self.met.greet(None)
        self._coming.append(iter([*([greeting.raw] if greeting.raw else []), *_ending(greeting.then)]))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing can be read now, not even the end."""
        return isinstance(self._next(), float)

    # -- a socket

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def sendall(self, data: bytes) -> None:
        self._sent += data
        while b"\r\n\r\n" in self._sent:
            head, _, self._sent = self._sent.partition(b"\r\n\r\n")
            request = parsed(head)
            assert request is not None and not request.header("Content-Length"), head
            self._coming.append(self._network.ask(self._connection, self._host, request))

    def makefile(self, mode: str, buffering: int | None = None) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def recv_into(self, buffer: Any) -> int:
        patience = self.timeout
        while isinstance(piece := self._next(), float):
            if not self._network.wait(piece, patience):
                self._piece = piece - (patience or 0.0)
                raise TimeoutError("timed out")
            self._piece = None
            patience = None if patience is None else patience - piece
        if isinstance(piece, OSError):
            raise piece
        count = min(len(buffer), len(piece))
        buffer[:count] = piece[:count]
        if piece:
            self._piece = piece[count:] or None
        return count

    def shutdown(self, how: int) -> None:
        self.close()

    def close(self) -> None:
        """A response may still be read, as with a socket that has made a file."""

    def _next(self) -> float | OSError | memoryview:
        """The piece under way; silence for ever after the last."""
        while self._piece is None and self._coming:
            piece = next(self._coming[0], None)
            if piece is None:
                self._coming.popleft()
            self._piece = memoryview(piece) if isinstance(piece, bytes) else piece
        return math.inf if self._piece is None else self._piece


class _Incoming(io.RawIOBase):
    """What http.client reads a response from."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(buffer)


# -- urllib3, on these wires


class _Wired(HTTPConnection):
    network: Network  # given by the pool
    scheme = "http"

    def _new_conn(self) -> Any:
        return self.network.open(self, self._dns_host)

    def connect(self) -> None:
        wire: Any = self._new_conn()
        self.sock = wire
        wire.greeted()

    @property
    def is_connected(self) -> bool:
        wire: Any = self.sock
        return wire is not None and wire.is_quiet


class _SecurelyWired(_Wired, HTTPSConnection):
    scheme = "https"

    def connect(self) -> None:
        wire: Any = self._new_conn()
        self.sock = wire
        wire.handshake()
        self.is_verified = True


class _Pooled:
    network: Network  # given by the manager

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.network = self.network
        return connection


class _Pool(_Pooled, HTTPConnectionPool):
    ConnectionCls = _Wired


class _SecurePool(_Pooled, HTTPSConnectionPool):
    ConnectionCls = _SecurelyWired


class _Manager(urllib3.PoolManager):
    network: Network

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Classes of this module, not of a network: `connections.pinned` keeps what it makes of them for good.
        self.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def _new_pool(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super()._new_pool(*arguments, **options)
        pool.network = self.network
        return pool


# -- the client


class Adapter(FallbackAdapter):
    """The engine's adapter for requests, at home in `network`; chance is taken out of it.

    `noticed` has every attempt, `took` the simulated seconds until each `send` was over.
    """

    def __init__(self, network: Network, config: Config, **options: Any) -> None:
        self.network = network
        self.noticed: list[Attempt] = []
        self.took: list[float] = []
        clock, flavour = network.clock, Flavour()
        health = Health(None, clock, lambda: 0.5)
        super().__init__(config, health, **options)
        lines = Lines(flavour, health, Random(0), network.resolve, network.race, clock)
        self.transport = Transport(
            flavour, config, health, noticed=self.noticed.append, lines=lines, clock=clock, sleep=clock.sleep
        )
        self.transport.world = self.transport.world._replace(chance=lambda: 0.5)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        manager: Any = type("_Manager", (_Manager,), {"network": self.network})  # Lines makes others of its type
        self.poolmanager = manager(num_pools=connections, maxsize=maxsize, block=block, **options)

    def send(self, *arguments: Any, **options: Any) -> Any:
        started = self.network.clock()
        try:
            return super().send(*arguments, **options)
        finally:
            self.took.append(self.network.clock() - started)


class Client:
    """A tool that asks for pages and files as pip does: requests over `adapter`, which is the engine's.

    :param settings: of the pool, by the names of the variables without their prefix
    """

    def __init__(self, network: Network, *, retries: int = 1, **settings: str) -> None:
        config = load({f"CDN_FALLBACK_{key.upper()}": value for key, value in settings.items()}, files=[])
        self.network = network
        self.retries = retries
        self.adapter = Adapter(network, config, max_retries=retries)
        self.session = requests.Session()
        self.session.trust_env = False
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self.adapter)

    @property
    def noticed(self) -> list[Attempt]:
        """Every attempt so far."""
        return self.adapter.noticed

    def file_bound(self, slowest: float = 0.0) -> float:
        """Seconds after which `file` is over, for less than a MiB (docs/concepts.md, what bounds time).

        :param slowest: what the slowest server takes for it: where nothing else is left, it is waited for
        """
        (pool,) = self.adapter.transport.config.pools
        passes = 1 + self.retries
        resumes = max(passes, 2) * len(pool.endpoints) + 1
        walk, silence, pause = 30.0, 15.0, 4.0 * 1.25
        return 2 * (1 + resumes) * (walk + silence + pause + slowest)

    def page(self, url: str, **headers: str) -> requests.Response:
        """A project page, whatever its status."""
        return self.session.get(url, headers={"Accept": ACCEPT, **headers}, timeout=15)

    def file(self, url: str, sha256: str, **headers: str) -> tuple[str, bytes]:
        """The file at `url`, asked for once more if its hash was wrong, and the URL that it came from in the end."""
        self.adapter.transport.promises.expect(url, {"sha256": sha256})
        try:
            return self._file(url, headers)
        except requests.RequestException as error:
            if not isinstance(ours(error), HashMismatch):
                raise
        return self._file(url, headers)

    def _file(self, url: str, headers: Mapping[str, str]) -> tuple[str, bytes]:
        identity = {"Accept-Encoding": "identity", **headers}
        with self.session.get(url, headers=identity, stream=True, timeout=15) as response:
            response.raise_for_status()
            return response.url, b"".join(response.iter_content(10_000))


def ours(error: BaseException | None) -> CdnFallbackError | None:
    """The engine's error behind one of requests' (docs/library.md)."""
    while error is not None and not isinstance(error, CdnFallbackError):
        error = error.__cause__ or error.__context__
    return error


# -- the network


class Network:
    """Who is where, what time it is, and who was asked what.

    :param names: what stands at the addresses of each name; one without addresses does not resolve
    :param mute: the names for which the resolver never answers
    """

    def __init__(self, names: Mapping[str, Iterable[Host]], mute: frozenset[str] = frozenset()) -> None:
        self.names = {name: tuple(hosts) for name, hosts in names.items()}
        self.mute = mute
        self.clock = Clock()
        self.asked: list[Asked] = []
        self._at = {host.address: host for hosts in self.names.values() for host in hosts}

    def wait(self, seconds: float, timeout: float | None) -> bool:
        """Let `seconds` pass; False if they are more than somebody waits, and only that time has passed."""
        waited = min(seconds, math.inf if timeout is None else timeout)
        assert waited < math.inf, "nobody would ever come back from here"
        self.clock.now += waited
        assert self.clock.now < LONG, "it goes on and on"
        return waited == seconds

    def resolve(self, name: str, port: int, timeout: float) -> tuple[str, ...]:
        """As `dial.resolve`."""
        if not self.wait(math.inf if name in self.mute else TRIP, timeout):
            raise TimeoutError("the name did not resolve in time")
        if not self.names.get(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return tuple(host.address for host in self.names[name])

    def open(self, connection: _Wired, address: str) -> Wire:
        """A wire to `address`; raises what urllib3 makes of a connection that does not come about."""
        host = self._at[address]
        met = host.greet()
        if not self.wait(math.inf if isinstance(met, Blackhole) else TRIP, connection.timeout):
            raise ConnectTimeoutError(connection, "timed out")
        if isinstance(met, Refuse):
            raise NewConnectionError(connection, "refused") from ConnectionRefusedError(111, "Connection refused")
        return Wire(self, connection, host, met)

    def ask(self, connection: _Wired, host: Host, request: Request) -> Iterator[Piece]:
        """What comes in answer to a request that has come to `host`."""
        asked = replace(request, at=self.clock.now)
        port = connection.port or PORTS[connection.scheme]
        self.asked.append(Asked((connection.scheme, connection.host, port), host.address, asked))
        return host.talk(asked)

    def race(
        self,
        addresses: Sequence[str],
        connect: Callable[[str], C],
        close: Callable[[C], None],
        timeout: float,
        stagger: float = STAGGER,
    ) -> Race[C]:
        """As `dial.race`, but one `connect` after the other, each with the clock set to when its turn comes."""
        now = self.clock.now
        deadline = now + timeout
        waiting = list(addresses)
        running: dict[str, tuple[float, float, C | Exception]] = {}  # when it begins and ends, and how
        failures: list[Failure] = []
        winner: tuple[str, C, float] | None = None
        while winner is None and now < deadline and (waiting or running):
            if waiting and (not running or deadline - now >= stagger):
                address = waiting.pop(0)
                running[address] = self._run(connect, address, now)
            address = min(running, key=lambda address: running[address][1])
            begun, end, result = running[address]
            if (turn := min(now + stagger if waiting else deadline, deadline)) < end:
                now = turn
                continue
            del running[address]
            now = end
            if isinstance(result, Exception):
                failures.append(Failure(address, result, end - begun))
            else:
                winner = (address, result, end - begun)
        self.clock.now = now
        for _, _, result in running.values():
            if not isinstance(result, Exception):
                close(result)
        pending = tuple((address, now - begun) for address, (begun, _, _) in running.items())
        return Race(winner, tuple(failures), pending)

    def _run(self, connect: Callable[[str], C], address: str, begun: float) -> tuple[float, float, C | Exception]:
        outer = sys.exc_info()[1]
        self.clock.now = begun
        try:
            made = connect(address)
            return begun, self.clock.now, made
        except AssertionError:
            raise
        except Exception as error:
            # In a thread of its own it would know nothing of what is just being handled here.
            inner: BaseException | None = error
            while inner is not None and inner.__context__ is not outer:
                inner = inner.__context__
            if inner is not None:
                inner.__context__ = None
            return begun, self.clock.now, error


@cache
def _tls() -> ServerTLS:
    """Says that a server has TLS; there is no handshake in which it would be used."""
    return Authority().server("simulated.example")


@cache
def _greeting(met: Fault) -> Greeting:
    """What a fault does with TLS: certificates take their time, and are not looked at."""
    return met.greet(_tls())
