"""Lines to endpoints: one urllib3 pool for each address of a host, connected by a race where none is.

An adapter's own PoolManager has one pool for all of a host's addresses. Here every (adapter, address) has a
PoolManager of its own, made with the adapter's settings, so that an attempt goes where it is meant to go and a
kept-alive connection is used again.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from cdn_fallback import dial
from cdn_fallback.connections import is_connected, pin
from cdn_fallback.health import Health
from cdn_fallback.pool import site

RESOLVED_FOR = 60.0  # s that a name's addresses are kept: a run of pip asks one host many times
RESOLVE_TIMEOUT = 3.0  # s; getaddrinfo has none, and a silent resolver holds it for over a minute


class Flavour:
    """The requests and urllib3 in use: the real ones, or pip's copies under ``pip._vendor.``"""

    def __init__(self, prefix: str = "") -> None:
        self.requests: Any = importlib.import_module(prefix + "requests")
        self.urllib3: Any = importlib.import_module(prefix + "urllib3")
        self.adapter: Any = importlib.import_module(prefix + "requests.adapters").HTTPAdapter
        self.utils: Any = importlib.import_module(prefix + "requests.utils")

    def proxy_for(self, url: str, proxies: Any) -> str | None:
        """The proxy through which `url` is to be asked, by requests' own rules."""
        proxy = self.utils.select_proxy(url, proxies)
        return self.utils.prepend_scheme_if_needed(proxy, "http") if proxy else None

    def another_context(self, context: Any) -> Any:
        """A TLS context like `context`, if that lets only one handshake happen at a time; else itself."""
        return context

    def set_apart(self, copy: Any, settings: dict[str, Any]) -> None:
        """Take the shared TLS context away from an adapter's `copy`, whose PoolManager `settings` will make."""
        settings.pop("ssl_context", None)  # urllib3 makes one for each connection


class _Contexts:
    """TLS contexts to borrow for a handshake: the adapter's own, or another while that is in use.

    truststore holds a lock from the first to the last byte of a handshake; one address that never finishes its
    own would hold up all the others.
    """

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self._lock = threading.Lock()
        self._free: dict[int, list[Any]] = {}  # by the id of the adapter's context, which its adapter keeps alive

    @contextlib.contextmanager
    def borrowed(self, own: Any) -> Iterator[Any]:
        if own is None:
            yield None
            return
        with self._lock:
            free = self._free.setdefault(id(own), [own])
            context = free.pop() if free else None
        if context is None:
            context = self._flavour.another_context(own)
        try:
            yield context
        finally:
            with self._lock:
                free.append(context)


class Call(NamedTuple):
    """What the tool called ``send`` with, beside the request: on whose adapter, and its options.

    `own` says that the adapter's own certificate rule applies. It does for the host that the tool asked for;
    an adapter that verifies nothing (``--trusted-host``) says nothing about any other. `apart` that the adapter's
    TLS context must not be used: urllib3 leaves the client certificate and the verification mode in it.
    """

    adapter: Any
    verify: Any = True
    cert: Any = None
    proxies: Any = None
    own: bool = True
    apart: bool = False


class Line(NamedTuple):
    """A way to one address: urllib3's `pool`, in which a connection lies ready. `fresh` if it was just made."""

    pool: Any
    address: str | None
    fresh: bool


class Lines:
    """Finds, orders and connects the addresses of endpoints, and remembers the lines that are open."""

    def __init__(
        self,
        flavour: Flavour,
        health: Health,
        random: Random,
        resolve: Callable[[str, int, float], tuple[str, ...]] | None = None,
        race: Callable[..., dial.Race[Any]] = dial.race,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flavour = flavour
        self._health = health
        self._random = random
        self._resolve = resolve or dial.Resolver()
        self._race = race
        self._clock = clock
        self._resolved: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._last: dict[tuple[str, int], str] = {}
        self._contexts = _Contexts(flavour)
        # adapter -> (address, apart) -> a copy of the adapter whose pools go there
        self._copies: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    def addresses(self, url: str, timeout: float = RESOLVE_TIMEOUT) -> tuple[str, ...]:
        """The addresses of the host of `url`; raises OSError when it has none or does not resolve in time."""
        _, host, port = site(url)
        until, found = self._resolved.get((host, port), (0.0, ()))
        if self._clock() >= until:
            found = self._resolve(host, port, min(timeout, RESOLVE_TIMEOUT))
            self._resolved[host, port] = (self._clock() + RESOLVED_FOR, found)
        return found

    def ordered(self, host: str, port: int, addresses: Sequence[str]) -> list[str]:
        """`addresses` in the order to try: good before demoted, fast before slow, equals shuffled.

        glibc sorts them the same way every time (RFC 6724), which defeats round robin: hence the shuffle. The
        address in use comes first among the good ones.
        """
        if len(addresses) == 1:
            return list(addresses)
        shuffled = list(addresses)
        self._random.shuffle(shuffled)
        last = self._last.get((host, port))

        def rank(address: str) -> tuple[bool, bool, int]:
            demoted, bucket = self._health.rank(key(port, address))
            return demoted, address != last, bucket

        return sorted(dial.interleave(shuffled), key=rank)

    def used(self, host: str, port: int, address: str | None) -> None:
        """`address` gave an answer: the next request to `host` goes there too, over the same connection."""
        if address is not None:
            self._last[host, port] = address

    def left(self, host: str, port: int, address: str | None) -> None:
        """An answer broke over `address`: it is no longer the one to go on with."""
        if self._last.get((host, port)) == address:
            del self._last[host, port]

    def proxied(self, request: Any, call: Call, proxy: str) -> Line:
        """The line through `proxy`, which resolves and connects by itself."""
        copy = self._copy(call, None)
        pin(copy.proxy_manager_for(proxy), None)
        return Line(self._pool(copy, request, call), None, fresh=False)

    def connect(
        self, request: Any, call: Call, addresses: Sequence[str], timeout: float
    ) -> tuple[Line | None, dial.Race[Any]]:
        """An open line to the first of `addresses` that completes TCP and TLS, and how the race went."""
        ready = self._pool(self._copy(call, addresses[0]), request, call)
        connection = ready._get_conn()
        ready._put_conn(connection)
        if is_connected(connection):
            return Line(ready, addresses[0], fresh=False), dial.Race(None, ())
        # Here, as the threads of the race must not make them at the same time.
        pools = {a: self._pool(self._copy(call, a), request, call) for a in addresses}

        def open_connection(address: str) -> Any:
            connection = pools[address]._get_conn()
            connection.timeout = timeout
            own = pools[address].conn_kw.get("ssl_context")
            with self._contexts.borrowed(own) as context:
                if own is not None:
                    connection.ssl_context = context
                connection.connect()
            return connection

        race = self._race(addresses, open_connection, lambda connection: connection.close(), timeout)
        port = site(request.url)[2]
        for address, seconds in race.pending:  # slow, perhaps dead: behind the others next time
            self._health.connected(key(port, address), seconds)
        if race.winner is None:
            return None, race
        address, connection, seconds = race.winner
        self._health.connected(key(port, address), seconds)
        pools[address].fresh.append(connection)
        return Line(pools[address], address, fresh=True), race

    def close(self, adapter: Any) -> None:
        """Close what was opened for `adapter`."""
        for copy in self._copies.pop(adapter, {}).values():
            self._flavour.adapter.close(copy)

    def _copy(self, call: Call, address: str | None) -> Any:
        copies = self._copies.setdefault(call.adapter, {})
        if (address, call.apart) not in copies:
            # copy.copy() would go through __getstate__, which leaves out the cache and the TLS context
            copy = object.__new__(type(call.adapter))
            copy.__dict__.update(call.adapter.__dict__)
            manager = call.adapter.poolmanager
            settings = dict(manager.connection_pool_kw)
            if call.apart:
                self._flavour.set_apart(copy, settings)
            copy.poolmanager = type(manager)(num_pools=10, **settings)
            copy.proxy_manager = {}
            pin(copy.poolmanager, address)
            copies[address, call.apart] = copy
        return copies[address, call.apart]

    def _pool(self, copy: Any, request: Any, call: Call) -> Any:
        """The pool for `request`, with the certificates that apply."""
        if hasattr(copy, "get_connection_with_tls_context"):  # requests >= 2.32
            pool = copy.get_connection_with_tls_context(request, call.verify, proxies=call.proxies, cert=call.cert)
        else:
            pool = copy.get_connection(request.url, call.proxies)
        rule = copy.cert_verify if call.own else partial(self._flavour.adapter.cert_verify, copy)
        rule(pool, request.url, call.verify, call.cert)
        return pool


def key(port: int, address: str) -> str:
    """What an address is called in the health memory."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
