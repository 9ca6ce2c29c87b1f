"""Connecting to one of a host's addresses: connection racing after RFC 8305.

Knows nothing of sockets' libraries: `connect` makes one connection to one address, TLS included, and `close`
undoes it. What it adds is the order, the stagger and the end of the losers.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C")

STAGGER = 0.25  # s, RFC 8305, section 5: "Connection Attempt Delay"
LATE = 30.0  # s, for which an answer is kept that nobody waited for


class Failure(NamedTuple):
    """A connection that did not come about: to which address, why, and after how many seconds."""

    address: str
    error: Exception
    seconds: float


@dataclass(frozen=True, slots=True)
class Race(Generic[C]):
    """How a race ended: at most one winner, the failures, and those that were still trying (with seconds)."""

    winner: tuple[str, C, float] | None
    failures: tuple[Failure, ...]
    pending: tuple[tuple[str, float], ...] = ()


class _LookUp:
    """One question to the system's resolver, in a thread of its own: getaddrinfo itself knows no timeout."""

    def __init__(self, host: str, port: int) -> None:
        self.ended = threading.Event()
        self.at = 0.0  # when it ended
        self._found: tuple[str, ...] | OSError = ()
        threading.Thread(target=self._run, args=(host, port), name="cdn-fallback-resolve", daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._found = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        except OSError as exc:
            self._found = exc
        except UnicodeError as exc:  # a label of more than 63 octets
            self._found = OSError(f"not a host name: {exc}")
        self.at = time.monotonic()
        self.ended.set()

    def result(self) -> tuple[str, ...]:
        if isinstance(self._found, OSError):
            raise self._found
        return self._found


class Resolver:
    """Looks names up. An answer that came too late for one who asked is there for the next who asks.

    A first name server that is dead costs glibc 5 s for every question: longer than anybody should wait while there
    is something else to try, and still an answer.
    """

    def __init__(self) -> None:
        self._late: dict[tuple[str, int], _LookUp] = {}
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int, timeout: float) -> tuple[str, ...]:
        """The addresses of `host`, in the system's order, each once.

        Raises OSError (socket.gaierror, or TimeoutError after `timeout` seconds).
        """
        if is_address(host):
            return (host,)
        with self._lock:
            look_up = self._late.pop((host, port), None)
        if look_up is None or (look_up.ended.is_set() and time.monotonic() - look_up.at > LATE):
            look_up = _LookUp(host, port)
        if not look_up.ended.wait(max(timeout, 0.001)):
            with self._lock:
                self._late[host, port] = look_up
            raise TimeoutError(f"the name did not resolve within {timeout:.1f} s")
        return look_up.result()


def resolve(host: str, port: int, timeout: float) -> tuple[str, ...]:
    """The addresses of `host`, asked for once; see `Resolver`."""
    return Resolver()(host, port, timeout)


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def interleave(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 in turn, IPv6 first, each family in the order given (RFC 8305, section 4)."""
    six = [a for a in addresses if ":" in a]
    four = [a for a in addresses if ":" not in a]
    return [a for a in chain.from_iterable(zip_longest(six, four)) if a is not None]


def race(
    addresses: Sequence[str],
    connect: Callable[[str], C],
    close: Callable[[C], None],
    timeout: float,
    stagger: float = STAGGER,
) -> Race[C]:
    """The first of `addresses` to which `connect` succeeds within `timeout` seconds.

    The next one starts `stagger` seconds after the last, or at once when one fails. `connect` runs in a thread
    of its own, as a handshake that drips can only be left, not ended; what completes after the race is closed.
    """
    results: queue.SimpleQueue[tuple[str, C | Exception]] = queue.SimpleQueue()
    lock, over = threading.Lock(), [False]

    def run(address: str) -> None:
        try:
            made = connect(address)
        except Exception as exc:
            results.put((address, exc))
            return
        with lock:
            if not over[0]:
                results.put((address, made))
                return
        close(made)

    begun: dict[str, float] = {}
    waiting, failures = list(addresses), list[Failure]()
    winner: tuple[str, C, float] | None = None
    deadline = time.monotonic() + timeout
    while winner is None and (waiting or begun):
        now = time.monotonic()
        if now >= deadline:
            break
        if waiting and (not begun or deadline - now >= stagger):  # who has no time would be blamed for it
            address = waiting.pop(0)
            begun[address] = now
            threading.Thread(target=run, args=(address,), name=f"cdn-fallback-dial-{address}", daemon=True).start()
        try:
            patience = min(stagger if waiting else timeout, deadline - now)
            address, result = results.get(timeout=max(patience, 0))
        except queue.Empty:
            continue
        seconds = time.monotonic() - begun.pop(address)
        if isinstance(result, Exception):
            failures.append(Failure(address, result, seconds))
        else:
            winner = (address, result, seconds)
    with lock:
        over[0] = True
    while not results.empty():  # tied with the winner, or came in with the bell
        address, result = results.get()
        seconds = time.monotonic() - begun.pop(address)
        if isinstance(result, Exception):
            failures.append(Failure(address, result, seconds))
        elif winner is None:
            winner = (address, result, seconds)
        else:
            close(result)
    now = time.monotonic()
    return Race(winner, tuple(failures), tuple((address, now - start) for address, start in begun.items()))
