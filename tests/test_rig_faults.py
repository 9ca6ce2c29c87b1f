"""Each fault really happens: one that does not would make every test above it pass for nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.rig.client import Got, get
from tests.rig.faults import (
    Blackhole,
    Body,
    Close,
    Corrupt,
    CutPage,
    Drip,
    ExpiredCertificate,
    Fault,
    HugePage,
    Instead,
    LoginPage,
    NoRange,
    RawBytes,
    Redirect,
    Refuse,
    Reset,
    ResetMidway,
    Silent,
    Stall,
    Status,
    TLSGarbage,
    TLSHang,
    TLSReset,
    Truncate,
    UnknownCA,
    WrongCertificate,
    WrongContentRange,
)
from tests.rig.names import broken_resolver, free_port
from tests.rig.sample import FILE, PAGE, SITE, B
from tests.rig.scene import Scene, scene
from tests.rig.server import Server
from tests.rig.site import JSON
from tests.rig.tls import Authority

HOST = "127.0.1.1"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SITE, HOST, 0) as running:
        yield running


# --- faults of the listener and of connections ---


def connects(server: Server, timeout: float = 0.3) -> bool:
    with socket.create_connection((server.address, server.port), timeout=timeout):
        return True


def test_refuse_cuts_living_connections_and_heals(server: Server) -> None:
    living = http.client.HTTPConnection(HOST, server.port, timeout=2)
    living.request("GET", PAGE)
    living.getresponse().read()
    server.fault(Refuse())
    with pytest.raises(ConnectionRefusedError):
        connects(server)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        living.request("GET", PAGE)
        living.getresponse()
    living.close()
    server.heal()
    assert get(server, PAGE).status == 200


def test_blackhole_swallows_syns_and_silences_living_connections(server: Server) -> None:
    living = http.client.HTTPConnection(HOST, server.port, timeout=0.3)
    living.request("GET", PAGE)
    living.getresponse().read()
    server.fault(Blackhole())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            connects(server)
    living.request("GET", PAGE)
    with pytest.raises(TimeoutError):
        living.getresponse()
    living.close()
    server.heal()
    assert get(server, PAGE).status == 200


def test_a_server_can_be_down_from_the_start() -> None:
    server = Server(SITE, HOST, free_port([HOST]))
    server.fault(Refuse())
    with server, pytest.raises(ConnectionRefusedError):
        connects(server)


def test_close_and_reset_on_connection(server: Server) -> None:
    server.fault(Close(), times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        get(server, PAGE)
    server.fault(Reset(), times=1)
    with pytest.raises(ConnectionResetError):
        get(server, PAGE)
    assert (server.connections, server.requests) == (2, ())
    assert get(server, PAGE).status == 200


def test_close_and_reset_on_requests(server: Server) -> None:
    server.fault(Close(), on="page")
    server.fault(Reset(), on="metadata")
    server.fault(ResetMidway(), on="file")
    with pytest.raises(http.client.RemoteDisconnected):
        get(server, PAGE)
    with pytest.raises(ConnectionResetError):
        get(server, f"{FILE}.metadata")
    with pytest.raises(ConnectionResetError):
        get(server, FILE)
    assert [request.status for request in server.requests] == [0, 0, 200]


# --- faults of requests ---


def test_status_with_headers(server: Server) -> None:
    server.fault(Status(429, (("Retry-After", "3600"),)))
    got = get(server, PAGE)
    assert (got.status, got.header("Retry-After")) == (429, "3600")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_truncation_can_be_seen(server: Server, framing: str) -> None:
    server.fault(Truncate(0.5, framing="length" if framing == "length" else "chunked"))
    with pytest.raises(http.client.IncompleteRead):
        get(server, FILE)


def test_a_truncation_can_be_invisible(server: Server) -> None:
    server.fault(Truncate(0.5, framing="close"))
    assert get(server, FILE).body == B.content[: len(B.content) // 2]


def test_chunks_without_a_fault_are_whole(server: Server) -> None:
    server.fault(Truncate(1.0, framing="chunked"))
    assert get(server, FILE).body == B.content


@pytest.mark.parametrize("fault", [Silent(), Stall(0.5), Stall(0.0)])
def test_what_never_answers_never_answers(server: Server, fault: Fault) -> None:
    server.fault(fault)
    connection = http.client.HTTPConnection(HOST, server.port, timeout=0.3)
    with pytest.raises(TimeoutError):
        connection.request("GET", FILE)
        connection.getresponse().read()
    connection.close()


def test_drip_is_slow(server: Server) -> None:
    server.fault(Drip(len(B.metadata) / 0.4))
    start = time.monotonic()
    assert get(server, f"{FILE}.metadata").body == B.metadata
    assert time.monotonic() - start > 0.3


def test_corrupt_keeps_length_and_validators(server: Server) -> None:
    healthy = get(server, FILE)
    server.fault(Corrupt(0.25))
    got = get(server, FILE)
    assert sum(a != b for a, b in zip(got.body, B.content, strict=True)) == 1
    assert got.header("ETag") == healthy.header("ETag")
    assert get(server, FILE, Range="bytes=-9").body == B.content[-9:]


def test_wrong_contents(server: Server) -> None:
    server.fault(LoginPage(), times=1)
    got = get(server, FILE, Range="bytes=5-")
    assert got.status == 200 and b"<form" in got.body
    server.fault(CutPage(0.5), times=1)
    got = get(server, PAGE, Accept=JSON)
    assert (got.status, got.header("Content-Type")) == (200, JSON)
    with pytest.raises(json.JSONDecodeError):
        json.loads(got.body)
    server.fault(Body(b"{}", (("Content-Type", JSON), ("X-PyPI-Last-Serial", "0"))), times=1)
    got = get(server, PAGE)
    assert (got.body, got.header("Content-Type"), got.header("X-PyPI-Last-Serial")) == (b"{}", JSON, "0")
    server.fault(Instead(replace(SITE, serial=0)), times=1)
    assert json.loads(get(server, PAGE, Accept=JSON).body)["meta"]["_last-serial"] == 0


def test_redirect_by_template_and_by_function(server: Server) -> None:
    server.fault(Redirect("https://other.example{path}", 307), times=1)
    got = get(server, PAGE)
    assert (got.status, got.header("Location")) == (307, f"https://other.example{PAGE}")
    server.fault(Redirect(lambda request: request.path + "x"))
    assert get(server, PAGE).header("Location") == PAGE + "x"


def test_ranges_ignored_and_ranges_wrong(server: Server) -> None:
    server.fault(NoRange(), times=1)
    got = get(server, FILE, Range="bytes=5-")
    assert (got.status, got.body) == (200, B.content)
    server.fault(WrongContentRange(shift=3))
    got = get(server, FILE, Range="bytes=5-9")
    assert (got.body, got.header("Content-Range")) == (B.content[5:10], f"bytes 8-12/{len(B.content)}")
    assert get(server, FILE).body == B.content


def test_raw_bytes(server: Server) -> None:
    server.fault(RawBytes(b"HTTP/1.1 299 \x1b[31mRed\r\nContent-Length: 2\r\n\r\nok"))
    assert get(server, PAGE).status == 299


@pytest.mark.parametrize("coded", [True, False])
def test_a_huge_page_opens_to_its_size(server: Server, coded: bool) -> None:
    server.fault(HugePage(3 << 20, coded))
    got = get(server, PAGE)
    if coded:
        assert len(got.body) < 1 << 14
        got = replace(got, body=gzip.decompress(got.body))
    assert len(got.body) == 3 << 20
    assert json.loads(got.body)["files"] == []


def test_close_does_not_wait_for_what_hangs() -> None:
    authority = Authority()
    plain = Server(SITE, HOST, 0)
    secure = Server(SITE, HOST, 0, tls=authority.server("localhost"))
    plain.fault(Silent(), on="page")
    plain.fault(Stall(), on="metadata")
    plain.fault(Drip(1), on="file")
    secure.fault(TLSHang())
    with plain, secure:
        clients = [socket.create_connection((HOST, plain.port)) for _ in range(4)]
        for client, path in zip(clients, (PAGE, FILE, f"{FILE}.metadata"), strict=False):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        clients.append(socket.create_connection((HOST, secure.port)))
        end = time.monotonic() + 5
        while plain.connections < 4 or len(plain.requests) < 3 or secure.connections < 1:
            assert time.monotonic() < end
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert not any("_serve" in thread.name for thread in threading.enumerate())
    for client in clients:
        client.close()


# --- TLS ---


def handshake(server: Server, authority: Authority, client: Path | None = None) -> Got:
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    if client is not None:
        context.load_cert_chain(client)
    with (
        socket.create_connection((server.address, server.port), timeout=0.5) as plain,
        context.wrap_socket(plain, server_hostname="pypi.example") as secure,
    ):
        connection = http.client.HTTPConnection("pypi.example")
        connection.sock = secure
        connection.request("GET", FILE)
        answer = connection.getresponse()
        return Got(answer.status, answer.read(), tuple(answer.getheaders()))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secure(authority: Authority) -> Iterator[Server]:
    with Server(SITE, HOST, 0, tls=authority.server("pypi.example", "cdn.example")) as running:
        yield running


def test_https(secure: Server, authority: Authority) -> None:
    assert handshake(secure, authority).body == B.content
    assert secure.url.startswith("https://")
    secure.fault(Truncate(0.5, framing="close"))
    assert handshake(secure, authority).body == B.content[: len(B.content) // 2]


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (TLSHang(), TimeoutError, "timed out"),
        (TLSReset(), ConnectionResetError, "reset"),
        (TLSGarbage(), ssl.SSLError, "(?i)wrong.version"),
        (WrongCertificate(), ssl.SSLCertVerificationError, "Hostname mismatch"),
        (UnknownCA(), ssl.SSLCertVerificationError, "unable to get local issuer"),
        (ExpiredCertificate(), ssl.SSLCertVerificationError, "certificate has expired"),
        (Close(), (ssl.SSLEOFError, ConnectionError), "(?i)eof|reset"),
    ],
)
def test_faults_of_tls(secure: Server, authority: Authority, fault: Fault, error: type[Exception], says: str) -> None:
    secure.fault(fault, times=1)
    with pytest.raises(error, match=says):
        handshake(secure, authority)
    assert secure.requests == ()
    assert handshake(secure, authority).status == 200


def test_a_client_certificate_is_recorded(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server("pypi.example", clients=ssl.CERT_OPTIONAL)
    with Server(SITE, HOST, 0, tls=tls) as server:
        handshake(server, authority, authority.client(tmp_path, "alice"))
        handshake(server, authority)
        assert [request.client for request in server.requests] == ["alice", ""]


# --- scenes and names ---


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path, SITE, "http") as made:
        yield made


def statuses(servers: list[Server], path: str) -> list[int]:
    return [get(server, path).status for server in servers]


@pytest.mark.parametrize(("times", "later"), [(None, [503, 302, 302]), (1, [302, 302, 302])])
def test_a_fault_of_the_server_that_is_asked_first(pool: Scene, times: int | None, later: list[int]) -> None:
    pool.fault_first("redirector", Status(503), on="page", times=times)
    servers = pool.group("redirector")
    servers = [servers[1], servers[2], servers[0]]
    assert statuses(servers, FILE) == [302, 302, 302]
    assert statuses(servers, PAGE) == [503, 302, 302]
    assert statuses(servers, PAGE) == later


@pytest.mark.parametrize("fault", [Refuse(), Blackhole()])
def test_a_fault_that_begins_with_the_first_request_for_a_file(pool: Scene, fault: Fault) -> None:
    pool.fault_later("cdn", fault, before="file")
    redirector, *_ = pool.group("redirector")
    cdn, *_ = pool.group("cdn")
    for path in (PAGE, f"{FILE}.metadata"):
        told = get(redirector, path)
        assert told.header("Location") == f"{pool.base('cdn.example.net')}{path[1:]}"
        assert told.header("Cache-Control") is None
        assert get(cdn, path).header("Connection") == "close"
    get(redirector, FILE)
    for server in pool.group("cdn"):
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            connects(server)


def test_requests_are_counted_by_role(pool: Scene) -> None:
    statuses(pool.group(""), PAGE)
    statuses(pool.group("cdn1"), FILE)
    assert pool.counted("page") == {"redirector": 3, "cdn": 2, "origin": 1}
    assert pool.counted("file") == {"cdn": 1}


@pytest.mark.parametrize(("how", "says"), [("fails", "-3 False"), ("silent", "None True")])
def test_one_name_does_not_resolve(tmp_path: Path, how: Literal["fails", "silent"], says: str) -> None:
    code = """if True:
        import socket, threading
        errors = []
        def look_up():
            try:
                socket.getaddrinfo("index.example", 80)
            except socket.gaierror as error:
                errors.append(error.errno)
        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(0.3)
        assert socket.getaddrinfo("127.0.0.1", 80)
        print(*errors or [None], thread.is_alive())
    """
    env = os.environ | broken_resolver(tmp_path, "index.example", how)
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == says
