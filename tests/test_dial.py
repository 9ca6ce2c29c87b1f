"""Racing connections: the order, the stagger, and that nothing is left open. No test waits for a stagger."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cdn_fallback.dial import LATE, STAGGER, Race, Resolver, interleave, is_address, race, resolve

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
LONG = 60.0  # s: whoever waited for it would be noticed


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.001)


class Network:
    """Addresses that refuse, answer, or answer when they are let go."""

    def __init__(self, *, refuse: tuple[str, ...] = (), hold: tuple[str, ...] = ()) -> None:
        self.refuse = refuse
        self.gates = {address: threading.Event() for address in hold}
        self.begun: list[str] = []
        self.made: list[str] = []
        self.closed: list[str] = []

    def connect(self, address: str) -> str:
        self.begun.append(address)
        if address in self.refuse:
            raise ConnectionRefusedError(address)
        if address in self.gates:
            self.gates[address].wait(LONG)
        self.made.append(address)
        return f"connection to {address}"

    def close(self, connection: str) -> None:
        self.closed.append(connection.removeprefix("connection to "))

    def race(self, *addresses: str, timeout: float = LONG, stagger: float = LONG) -> Race[str]:
        return race(addresses, self.connect, self.close, timeout, stagger)

    def let_go(self) -> None:
        for gate in self.gates.values():
            gate.set()


def test_a_connection_within_the_stagger_is_the_only_one() -> None:
    network = Network()
    result = network.race(A, B, C)
    assert result.winner is not None and result.winner[:2] == (A, f"connection to {A}")
    assert (result.failures, result.pending) == ((), ())
    assert network.begun == [A]


def test_after_a_refusal_the_next_one_starts_at_once() -> None:
    network = Network(refuse=(A, B))
    start = time.monotonic()
    result = network.race(A, B, C)
    assert time.monotonic() - start < LONG / 2
    assert result.winner is not None and result.winner[0] == C
    assert [failure.address for failure in result.failures] == [A, B]
    assert all(isinstance(failure.error, ConnectionRefusedError) for failure in result.failures)
    assert network.begun == [A, B, C]


def test_after_the_stagger_the_next_one_starts_beside_the_first() -> None:
    """The first is not given up: it would win if it came first."""
    network = Network(hold=(A, B))
    network.gates[A].set()

    def connect(address: str) -> str:
        if address == A:
            eventually(lambda: B in network.begun)
        return network.connect(address)

    result = race((A, B), connect, network.close, LONG, 0.001)
    assert result.winner is not None and result.winner[0] == A
    assert [address for address, _ in result.pending] == [B]
    network.let_go()
    eventually(lambda: network.closed == [B])


def test_what_hangs_does_not_keep_the_next_from_winning_and_is_closed_when_it_comes() -> None:
    network = Network(hold=(A, B))
    result = network.race(A, B, C, stagger=0.001)
    assert result.winner is not None and result.winner[0] == C
    assert [address for address, _ in result.pending] == [A, B]
    assert all(seconds >= 0 for _, seconds in result.pending)
    network.let_go()
    eventually(lambda: sorted(network.closed) == [A, B])


def test_the_stagger_is_the_one_that_the_rfc_recommends() -> None:
    assert STAGGER == 0.25


def test_when_all_refuse_there_is_no_winner() -> None:
    network = Network(refuse=(A, B))
    result = network.race(A, B)
    assert result.winner is None
    assert [failure.address for failure in result.failures] == [A, B]
    assert result.pending == ()


def test_the_time_is_up_for_all_together() -> None:
    network = Network(hold=(A, B, C))
    result = network.race(A, B, C, timeout=0.02, stagger=0.001)
    assert result.winner is None
    assert [address for address, _ in result.pending] == [A, B, C]
    assert all(seconds < LONG for _, seconds in result.pending)
    network.let_go()
    eventually(lambda: sorted(network.closed) == [A, B, C])


def test_what_has_not_begun_when_the_time_is_up_is_not_blamed() -> None:
    network = Network(hold=(A,))
    result = network.race(A, B, timeout=0.02)
    assert [address for address, _ in result.pending] == [A]
    assert network.begun == [A]
    network.let_go()


def test_a_refusal_beside_one_that_hangs_does_not_end_the_race() -> None:
    network = Network(hold=(A,), refuse=(B,))
    result = network.race(A, B, C, stagger=0.001)
    assert result.winner is not None and result.winner[0] == C
    assert [failure.address for failure in result.failures] == [B]
    network.let_go()


def test_the_time_is_up_for_those_that_remain_when_one_has_refused() -> None:
    network = Network(hold=(A,), refuse=(B,))
    result = network.race(A, B, timeout=0.02, stagger=0.001)
    assert [failure.address for failure in result.failures] == [B]
    assert [address for address, _ in result.pending] == [A]
    network.let_go()


@pytest.mark.parametrize("refuse", [False, True])
def test_what_comes_in_with_the_bell_counts(monkeypatch: pytest.MonkeyPatch, refuse: bool) -> None:
    gate, calls = threading.Event(), iter(range(100))

    def connect(address: str) -> str:
        gate.wait(LONG)
        if refuse:
            raise ConnectionRefusedError
        return address

    def clock() -> float:
        if next(calls) < 2:  # the start of the race, and that of its first connection
            return 0.0
        gate.set()
        for thread in threading.enumerate():
            if thread.name.startswith("cdn-fallback-dial"):
                thread.join(LONG)
        return LONG

    monkeypatch.setattr("cdn_fallback.dial.time.monotonic", clock)
    result = race([A], connect, lambda connection: None, 0.001)
    assert (result.winner is None) is refuse
    assert len(result.failures) == refuse
    assert result.pending == ()


def test_no_time_and_no_address() -> None:
    network = Network()
    assert network.race() == network.race(A, timeout=0.0) == Race(None, (), ())
    assert network.begun == []


def test_of_those_that_tie_all_but_one_are_closed() -> None:
    for _ in range(30):
        network, together = Network(), threading.Barrier(3, timeout=LONG)

        def connect(address: str, network: Network = network, together: threading.Barrier = together) -> str:
            together.wait()
            return network.connect(address)

        result = race((A, B, C), connect, network.close, LONG, 0.0)
        assert result.winner is not None
        losers = sorted({A, B, C} - {result.winner[0]})
        eventually(lambda network=network, losers=losers: sorted(network.closed) == losers)  # type: ignore[misc]


@pytest.fixture
def listener() -> Iterator[tuple[str, str, int]]:
    """(an address that refuses, one that accepts, the port of both)."""
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.3", 0))
        except OSError:
            pytest.skip("this system has only one loopback address")
        server.listen()
        yield "127.0.0.2", "127.0.0.3", server.getsockname()[1]


def test_real_sockets(listener: tuple[str, str, int]) -> None:
    refusing, accepting, port = listener
    result = race(
        (refusing, accepting),
        lambda address: socket.create_connection((address, port), timeout=LONG),
        lambda connection: connection.close(),
        LONG,
        LONG,
    )
    assert result.winner is not None
    address, connection, seconds = result.winner
    with connection:
        assert connection.getpeername() == (accepting, port)
    assert address == accepting and 0 <= seconds < LONG
    assert isinstance(result.failures[0].error, ConnectionRefusedError)


# -- Names


def looked_up(*addresses: str) -> Callable[..., list[object]]:
    """A getaddrinfo that finds `addresses`."""
    return lambda *args, **kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 443)) for a in addresses]


def test_a_name_has_each_of_its_addresses_once_in_the_systems_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", looked_up(B, "2001:db8::1", A, B))
    assert resolve("cdn.example", 443, 5.0) == (B, "2001:db8::1", A)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_an_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    assert resolve(host, 443, 5.0) == (host,)


@pytest.mark.parametrize("error", [socket.gaierror(-2, "not known"), OSError("odd"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError):
        resolve("cdn.example", 443, 5.0)


def test_a_label_that_no_name_can_have() -> None:
    with pytest.raises(OSError):
        resolve("a" * 64 + ".example", 443, 5.0)


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: let_go.wait(LONG) and [])
    with pytest.raises(TimeoutError, match="did not resolve within"):
        resolve("cdn.example", 443, timeout=0.01)
    let_go.set()


def test_an_answer_that_came_too_late_is_there_for_who_asks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the system twice: with a first name server that is dead each question costs seconds."""
    let_go, asked = threading.Event(), list[object]()

    def getaddrinfo(*args: object, **kwargs: object) -> list[object]:
        asked.append(args)
        let_go.wait(LONG)
        return looked_up(A)()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            resolver("cdn.example", 443, 0.01)
    let_go.set()
    assert resolver("cdn.example", 443, LONG) == (A,)
    assert asked == [("cdn.example", 443)]
    assert resolver("cdn.example", 443, LONG) == (A,)
    assert len(asked) == 2  # who waited has had the answer; keeping it is not the resolver's business


def test_a_late_answer_does_not_stay_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, now = threading.Event(), [100.0]

    def getaddrinfo(*args: object, **kwargs: object) -> list[object]:
        let_go.wait(LONG)
        return looked_up(A if now[0] == 100.0 else B)()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver()
    with pytest.raises(TimeoutError):
        resolver("cdn.example", 443, 0.01)
    (late,) = resolver._late.values()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    let_go.set()
    assert late.ended.wait(LONG)
    now[0] += LATE + 1
    assert resolver("cdn.example", 443, LONG) == (B,)


def test_a_late_failure_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def getaddrinfo(*args: object, **kwargs: object) -> list[object]:
        let_go.wait(LONG)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver()
    with pytest.raises(TimeoutError):
        resolver("cdn.example", 443, 0.01)
    let_go.set()
    with pytest.raises(socket.gaierror):
        resolver("cdn.example", 443, LONG)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up(A))
    assert resolver("cdn.example", 443, LONG) == (A,)


@pytest.mark.parametrize(
    ("host", "expected"), [("192.0.2.1", True), ("::1", True), ("cdn.example", False), ("192.0.2", False), ("", False)]
)
def test_what_is_an_address(host: str, expected: bool) -> None:
    assert is_address(host) is expected


def test_families_take_turns() -> None:
    assert interleave([A, B, C, "::1", "::2"]) == ["::1", A, "::2", B, C]
    assert interleave(["::1", "::2"]) == ["::1", "::2"]
    assert interleave([B, A]) == [B, A]
    assert interleave([]) == []
