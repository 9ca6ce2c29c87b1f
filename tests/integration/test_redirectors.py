"""Real redirect servers: lighttpd and nginx with what `cdn-fallback redirectors` writes, and the clients that they
lead to a bucket, which knows nothing but keys.
"""

from __future__ import annotations

import grp
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cdn_fallback.mirror import site
from cdn_fallback.mirror.negotiate import format_of, representation
from cdn_fallback.mirror.redirectors import Certificate, Place, Split, redirector
from cdn_fallback.pool import Endpoint, Pool, Role
from tests.rig.faults import Status
from tests.rig.mirrors import PATIENCE, make_environment, once
from tests.rig.names import Names, free_port
from tests.rig.pips import PipEnv, Result, clean_environment, timed
from tests.rig.redirectors import (
    READINGS,
    SERVERS,
    Reading,
    Response,
    Running,
    asked,
    complaints,
    opened,
    parsed,
    received,
)
from tests.rig.sample import SITE, A, B
from tests.rig.scene import CDN as CDN_HOST
from tests.rig.scene import INDEX as INDEX_HOST
from tests.rig.scene import ORIGIN as ORIGIN_HOST
from tests.rig.scene import Scene, subnet
from tests.rig.server import Server
from tests.rig.site import Keys
from tests.rig.tls import Authority

HOST, CDN, ORIGIN = "pypi.python.org", "https://cdn.example.net/c", "https://origin.example.org:8443"
POOL = Pool(
    "default",
    f"https://{HOST}/",
    (
        Endpoint(f"https://{HOST}/", Role.REDIRECTOR),
        Endpoint(f"{CDN}/", Role.CDN),
        Endpoint(f"{ORIGIN}/", Role.ORIGIN),
    ),
)


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: PipEnv) -> None:
    """Other pips and Pythons would see the same."""


@pytest.fixture(scope="session")
def environment_of_ours(tmp_path_factory: pytest.TempPathFactory) -> PipEnv:
    return PipEnv(once(tmp_path_factory, "mirror-env", make_environment), "")


@dataclass(frozen=True)
class Spot:
    """A folder with a certificate, and free ports of an address for https and http."""

    folder: Path
    pem: Path
    authority: Authority
    address: str
    port: int
    plain: int

    @classmethod
    def made(cls, folder: Path, address: str = "") -> Spot:
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority()
        pem = folder / "server.pem"
        pem.write_bytes(authority.server(HOST, "r2.example.org").pem)
        address = address or f"{subnet()}.1"
        return cls(folder, pem, authority, address, free_port([address]), free_port([address]))

    def at(self, port: int) -> str:
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.ca.configure_trust(context)
        return context


# --- what is written is what the servers take ---

SETTINGS = {"cdn": f"{CDN}/", "origin": f"{ORIGIN}/"}
HTTP = {"index": f"http://{HOST}/", "cdn": "http://cdn.example.net/", "origin": "http://origin.example.org/"}
ROOT = {**SETTINGS, "index": f"https://{HOST}/mirror/a.b-c~d/"}
TWO = {**SETTINGS, "redirectors": f"https://{HOST}/ https://r2.example.org/"}
LONG = {**SETTINGS, "redirectors": f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}.org/ https://{HOST}/"}
WAYS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "https": (SETTINGS, ("--certificate", "{pem}")),
    "https-with-a-key": (SETTINGS, ("--certificate", "{pem}", "--key", "{pem}")),
    "http-beside-https": (SETTINGS, ("--certificate", "{pem}", "--listen-http", "{plain}")),
    "http": (HTTP, ()),
    "root": (ROOT, ("--certificate", "{pem}")),
    "two-redirectors": (TWO, ("--certificate", "{pem}")),
    "long-names": (LONG, ("--certificate", "{pem}")),
    "cdn-down": (SETTINGS, ("--certificate", "{pem}", "--cdn-down")),
    "cdn-down-root": (ROOT, ("--certificate", "{pem}", "--cdn-down")),
    "paths": (SETTINGS, ("--certificate", "{pem}", "--paths", "--no-legacy", "--max-age", "0")),
    "prefixes": (
        SETTINGS,
        ("--certificate", "{pem}", "--static", "docs", "--static", "a.b/c+d~e!f@g=h,i", "--health", "/up.txt"),
    ),
}
ADDRESSES = {"ipv4": "", "ipv6": "::1"}


def command(env: PipEnv, folder: Path, pool: dict[str, str], *arguments: str) -> Result:
    """The installed command, with that pool."""
    settings = {f"CDN_FALLBACK_{key.upper()}": value for key, value in pool.items()}
    program = str(env.folder / "bin" / "cdn-fallback")
    return timed((program, "redirectors", *arguments), clean_environment(folder) | settings, folder, PATIENCE)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_the_servers_take_what_is_written_and_start(
    environment_of_ours: PipEnv, tmp_path: Path, server: str, way: str
) -> None:
    pool, options = WAYS[way]
    place = Spot.made(tmp_path)
    spelled = (option.format(pem=place.pem, plain=place.at(place.plain)) for option in options)
    where = ("--listen", place.at(place.port), "--folder", str(tmp_path), "-o", "made.conf", "--check")
    done = command(environment_of_ours, tmp_path, pool, "--server", server, *spelled, *where)
    assert (done.code, done.output) == (0, "")
    assert complaints(server, tmp_path / "made.conf") == ""
    health = options[-1] if "--health" in options else "/-/health"
    with Running(server, tmp_path / "made.conf", tmp_path, place.address, place.port) as running:
        if way == "http":
            found = asked(place.address, place.port, request(health))
        else:
            found = asked(place.address, place.port, request(health), place.context(), HOST)
        assert found.status == 200 and found.header("cache-control") == "no-store"
        if "plain" in str(options):
            assert asked(place.address, place.plain, request(health)).status == 200
        assert running.errors == ""


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_they_listen_on_ipv6(environment_of_ours: PipEnv, tmp_path: Path, server: str) -> None:
    place = Spot.made(tmp_path, "::1")
    where = ("--listen", place.at(place.port), "--folder", str(tmp_path), "-o", "made.conf", "--check")
    plain = ("--certificate", str(place.pem), "--listen-http", place.at(place.plain))
    done = command(environment_of_ours, tmp_path, SETTINGS, "--server", server, *plain, *where)
    assert (done.code, done.output) == (0, "")
    with Running(server, tmp_path / "made.conf", tmp_path, place.address, place.port) as running:
        found = asked("::1", place.port, request("/packages/x"), place.context(), HOST)
        assert found.header("location") == f"{CDN}/packages/x"
        assert asked("::1", place.plain, request("/packages/x")).header("location") == f"{CDN}/packages/x"
        assert running.errors == ""


def _debian(server: str) -> bool:
    """Whether this is a machine that could run what is written without --folder, and we could test it."""
    try:
        grp.getgrnam("www-data")
    except KeyError:
        return False
    return os.geteuid() == 0 and Path("/var/log", server).is_dir() and Path("/var/www/html").is_dir()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", ["https", "http", "root"])
def test_the_servers_take_what_is_written_for_debian(
    environment_of_ours: PipEnv, tmp_path: Path, server: str, way: str
) -> None:
    if not _debian(server):
        pytest.skip("needs root, and Debian's folders and users")
    pool, options = WAYS[way]
    place = Spot.made(tmp_path)
    spelled = (option.format(pem=place.pem) for option in options)
    done = command(environment_of_ours, tmp_path, pool, "--server", server, *spelled, "--check", "-o", "made.conf")
    assert (done.code, done.output) == (0, "")
    assert complaints(server, tmp_path / "made.conf") == ""
    text = (tmp_path / "made.conf").read_text()
    assert ("443" in text) == (way != "http") and "80" in text


@pytest.mark.parametrize("server", SERVERS)
def test_2_what_the_server_does_not_take_is_not_written(
    environment_of_ours: PipEnv, tmp_path: Path, server: str
) -> None:
    """A certificate that is none: the server's own -t finds it."""
    (tmp_path / "bad.pem").write_text("no certificate")
    (tmp_path / "made.conf").write_text("old")
    where = ("--listen", "127.0.0.1:8443", "--folder", str(tmp_path), "-o", "made.conf", "--check")
    bad = ("--certificate", str(tmp_path / "bad.pem"))
    done = command(environment_of_ours, tmp_path, SETTINGS, "--server", server, *bad, *where)
    assert done.code == 2 and done.stdout == "" and f"{server} does not take this configuration" in done.stderr
    assert (tmp_path / "made.conf").read_text() == "old"


# --- what is asked for, and what comes ---


def request(
    target: str, method: str = "GET", *headers: str, version: str = "1.1", host: str = HOST, body: str = ""
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", f"Host: {host}", "Connection: close", *headers]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode("latin-1")


@dataclass(frozen=True)
class Front:
    """A redirect server, which listens for http beside https."""

    running: Running
    spot: Spot
    root: str

    @classmethod
    def made(cls, server: str, folder: Path, root: str = "", split: Split = Split(("docs",))) -> Front:  # noqa: B008
        """Configured, and not yet started."""
        spot = Spot.made(folder)
        pem = Certificate(str(spot.pem), str(spot.pem))
        place = Place((spot.at(spot.port),), (spot.at(spot.plain),), pem, str(folder))
        index = Endpoint(f"https://{HOST}{root}/", Role.REDIRECTOR)
        pool = Pool("default", index.base, (index, Endpoint(f"{CDN}/", Role.CDN), Endpoint(f"{ORIGIN}/", Role.ORIGIN)))
        (folder / "made.conf").write_text(SERVERS[server](redirector(pool, split, place)))
        return cls(Running(server, folder / "made.conf", folder, spot.address, spot.port), spot, root)

    def ask(self, data: bytes) -> Response:
        """Over http: what is asked there is led to https at once."""
        return asked(self.spot.address, self.spot.plain, data)


@pytest.fixture(scope="module", params=[(server, root) for server in SERVERS for root in ("", "/m")], ids="-".join)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    server, root = request.param
    made = Front.made(server, tmp_path_factory.mktemp(server), root)
    with made.running:
        yield made
        # what no client should send is in some of the requests, and nginx says so
        assert [line for line in made.running.errors.splitlines() if " client sent " not in line] == []


JSON, HTML, NEITHER = f"Accept: {site.JSON_TYPE}", "Accept: text/html", "Accept: image/png"
PIP = "Accept: application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
FORMAT, FORMAT_HTML = f"format={site.JSON_TYPE}", "format=text/html"
FILE = "/packages/ab/cd/demo_a-1.0+x-py3-none-any.whl"
LENGTH = "Content-Length: 3"


class Row(NamedTuple):
    """A request, its path without the root, and what must come: of a redirect, where to."""

    target: str
    status: int
    location: str = ""
    headers: tuple[str, ...] = ()
    method: str = "GET"
    varies: bool = False
    body: str = ""


def page(target: str, form: str, *headers: str, method: str = "GET") -> Row:
    """An index page, which leads to the key of that form; to the path as it was asked for without one."""
    path = target.partition("?")[0]
    return Row(target, 302, f"{CDN}{path}index.{form}" if form else f"{CDN}{target}", headers, method, varies=True)


def static(target: str, *headers: str, method: str = "GET") -> Row:
    return Row(target, 302, f"{CDN}{target}", headers, method)


def dynamic(target: str, method: str = "GET", *headers: str, body: str = "") -> Row:
    return Row(target, 307, f"{ORIGIN}{target}", headers, method, body=body)


ALIKE = [
    page("/simple/", "html"),
    page("/simple/", "json", JSON),
    page("/simple/", "json", PIP),
    page("/simple/", "html", HTML),
    page("/simple/", "", NEITHER),
    page("/simple/demo-a/", "json", PIP),
    page("/simple/demo-a/", "json", PIP, method="HEAD"),
    page("/simple/demo-a/", "html"),
    page("/simple/demo-a/", "html", "Accept:"),
    page("/simple/demo-a/", "html", "Accept: */*"),
    page("/simple/demo-a/", "json", f"ACCEPT: text/html, {site.JSON_TYPE.upper()} ; a=b; q=0.001"),
    page("/simple/demo-a/", "html", f"Accept: {site.JSON_TYPE};q=0, text/*;q=0.1"),
    page("/simple/demo-a/?x=1", "", NEITHER),
    page("/simple/demo-a/?x=1", "html"),
    page(f"/simple/demo-a/?{FORMAT}", "json", HTML),
    page(f"/simple/demo-a/?a=b&{FORMAT}&c", "json"),
    page(f"/simple/demo-a/?{FORMAT.replace('+', '%2B')}", "json"),
    page(f"/simple/demo-a/?{FORMAT_HTML}", "html", JSON),
    page("/simple/demo-a/?format=", "json", JSON),
    page("/simple/demo-a/?format=x&format=text/html", "", JSON),
    page("/simple/demo-a/?xformat=text/html", "json", JSON),
    # what is not a page of that name the CDN is to redirect, or not to know
    static("/simple"),
    static("/simple?x"),
    static("/simple/Demo_A/", PIP),
    static("/simple/demo-a", PIP),
    static("/simple/demo-a/index.json"),
    static("/simple/a--b/"),
    static(FILE),
    static(f"{FILE}.metadata", method="HEAD"),
    static("/packages/x?a=b%26&c=%2F"),
    static("/packages/a%2Bb~c"),
    static("/pypi/Demo.A/json"),
    static("/last-modified"),
    static("/robots.txt"),
    static("/docs/"),
    static("/docs/x/y.html?q=https://evil.example/"),
    dynamic("/"),
    dynamic("/?x"),
    dynamic("/docsx"),
    dynamic("/simplex/"),
    dynamic("/SIMPLE/"),
    dynamic("/account/login/?next=/simple/"),
    dynamic("/pypi/demo-a/1.0/json"),
    dynamic("/a;b=c/d@e:f"),
    dynamic("/a/http://evil.example".replace("//", "/")),
    dynamic("/@evil.example/"),
    # redirects lead to http nowhere, whatever the host
    Row("/x", 307, f"{ORIGIN}/x", ("X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http")),
    # what is not read goes to the origin, wherever it goes, with its method and its body
    dynamic("/simple/", "POST", LENGTH, body="abc"),
    dynamic("/simple/demo-a/", "POST", LENGTH, JSON, body="abc"),
    dynamic("/packages/x", "PUT", LENGTH, body="abc"),
    dynamic("/packages/x", "DELETE"),
    dynamic("/packages/x", "OPTIONS"),
    # what means one thing here and another there
    *(Row(target, 400) for target in (
        "//evil.example/", "/simple//x", "/..", "/../x", "/a/./b", "/simple/../x", "/a/..?b", "/%2e%2e/x", "/a/%2E/",
        "/a%2fb", "/a%2Fb", "/a%00b", "/a%0d%0ab", "/a%0ab", "/a%7fb", "/%1B", "/a\x01b", "/a\x7fb",
    )),
    Row("/x", 405, method="TRACE"),
    Row("/x", 405, method="CONNECT"),
    Row("/x", 400, headers=("Host: again.example",)),
    Row("/x", 400, headers=(LENGTH, "Transfer-Encoding: chunked"), method="POST", body="abc"),
    Row("/x", 400, headers=("Content-Length: -1",), method="POST"),
    Row("/x", 400, headers=("Content-Length: x",), method="POST"),
]  # fmt: skip

# target, method, headers -> what lighttpd says, what nginx says; and why they may differ
DIFFERENT = [
    (Row("/a%zz", 0), f"307 {ORIGIN}/a%25zz", "400 ", "lighttpd makes a URL of it, nginx refuses it"),
    (Row("/a b", 0), f"307 {ORIGIN}/a%20b", "400 ", "the same"),
    (Row('/a"<>', 0), f"307 {ORIGIN}/a%22%3C%3E", f'307 {ORIGIN}/a"<>', "nginx leads on what is asked, as it is"),
    (Row("/%61/%c3%a9", 0), f"307 {ORIGIN}/a/%C3%A9", f"307 {ORIGIN}/%61/%c3%a9", "the same"),
    (Row("/a\\b", 0), f"307 {ORIGIN}/a%5Cb", "400 ", "lighttpd encodes the backslash"),
    (Row("/a%5cb", 0), f"307 {ORIGIN}/a%5Cb", "400 ", "the same"),
    (Row("/\xe9", 0), f"307 {ORIGIN}/%E9", "400 ", "lighttpd encodes it"),
    (Row("/x", 0, method="POST"), "411 ", f"307 {ORIGIN}/x", "no length, no body: RFC 9110 lets a server insist"),
    (Row("/x", 0, method="FOO"), "501 ", f"307 {ORIGIN}/x", "lighttpd refuses methods that it does not know"),
]


def said(found: Response) -> str:
    return f"{found.status} {found.header('location') or ''}"


def send(front: Front, row: Row) -> Response:
    return front.ask(request(f"{front.root}{row.target}", row.method, *row.headers, body=row.body))


@pytest.mark.parametrize("row", ALIKE, ids=lambda row: f"{row.method} {row.target!r} {' '.join(row.headers)[:40]}")
def test_both_answer_alike(front: Front, row: Row) -> None:
    found = send(front, row)
    assert said(found) == f"{row.status} {row.location}"
    assert found.header("vary") == ("Accept" if row.varies else None)
    assert found.header("cache-control") == ("public, max-age=300" if row.location else None)


@pytest.mark.parametrize(("row", "by_lighttpd", "by_nginx", "why"), DIFFERENT)
def test_where_they_differ(front: Front, row: Row, by_lighttpd: str, by_nginx: str, why: str) -> None:
    assert said(send(front, row)) == {"lighttpd": by_lighttpd, "nginx": by_nginx}[front.running.server], why


def test_what_is_outside_of_the_index_is_not_there(front: Front) -> None:
    for target in ("/", "/x", "/simple/", "/mx/simple/", "/M/"):
        for method in ("GET", "POST"):
            found = front.ask(request(target, method, "Content-Length: 0"))
            assert found.status == (404 if front.root else 307 if method == "POST" or target[1:] != "simple/" else 302)
            assert bool(found.header("location")) is not bool(front.root)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("query", ["", "?x"])
def test_the_health_path_says_where_static_paths_lead(front: Front, method: str, query: str) -> None:
    found = front.ask(request(f"/-/health{query}", method, "Content-Length: 0"))
    assert said(found) == "200 " and found.header("cache-control") == "no-store"
    assert found.header("x-static-paths-lead-to") == CDN


def test_an_upload_of_any_size_is_led_on_before_it_is_sent(front: Front) -> None:
    data = request(f"{front.root}/legacy/", "POST", "Content-Length: 100000000")
    with socket.create_connection((front.spot.address, front.spot.plain), 5) as connection:
        connection.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got:
            got += connection.recv(65536)
    assert got.startswith(b"HTTP/1.1 307 ") and f"\r\nLocation: {ORIGIN}/legacy/\r\n".encode() in got


def test_http_0_9_has_no_headers_and_leads_nowhere(front: Front) -> None:
    found = received(opened(front.spot.address, front.spot.plain, b"GET /x\r\n"))
    assert not found.startswith(b"HTTP") and b"://" not in found


def test_http_1_0_needs_no_host(front: Front) -> None:
    assert front.ask(f"GET {front.root}{FILE} HTTP/1.0\r\n\r\n".encode()).header("location") == f"{CDN}{FILE}"
    assert front.ask(f"GET {front.root}{FILE} HTTP/1.1\r\n\r\n".encode()).status == 400


def test_whatever_host_is_asked_for_leads_into_the_pool(front: Front) -> None:
    for host in ("evil.example", "", "[::1]", "127.0.0.1:1", "*"):
        found = front.ask(request(f"{front.root}{FILE}", host=host))
        assert said(found) in (f"302 {CDN}{FILE}", "400 "), host
    absolute = front.ask(request(f"http://evil.example{front.root}{FILE}", host="evil.example"))
    assert said(absolute) == f"302 {CDN}{FILE}"


def test_https_has_the_certificate_and_says_the_same(front: Front) -> None:
    place = (front.spot.address, front.spot.port)
    for row in ALIKE[:20]:
        data = request(f"{front.root}{row.target}", row.method, *row.headers)
        assert said(asked(*place, data, front.spot.context(), HOST)) == f"{row.status} {row.location}"
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(*place, request("/"), ssl.create_default_context(), HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(*place, request("/"), front.spot.context(), "other.example")


def test_a_body_that_nobody_waits_for_is_no_second_request(front: Front) -> None:
    """A body that looks like a request is a body."""
    inner = request("/smuggled")
    data = request(f"{front.root}/x", "POST", f"Content-Length: {len(inner)}").replace(b"close", b"keep-alive")
    found = parsed(received(opened(front.spot.address, front.spot.plain, data + inner)))
    assert [said(one) for one in found] == [f"307 {ORIGIN}/x"]


@pytest.mark.parametrize("server", SERVERS)
def test_the_access_log_has_a_line_for_each_request(server: str, tmp_path: Path) -> None:
    front = Front.made(server, tmp_path)
    rows = [*ALIKE, Row("/%1b[31m\x1b[31m", 400), Row('/"\x80\xff', 400)]
    with front.running:
        for row in rows:
            send(front, row)
        front.ask(request("/agent", "GET", 'User-Agent: a"b\\\xe9\x9b'))
        front.ask(request("/-/health"))
    lines = front.running.log()
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert line.isascii() and line.isprintable(), line
    assert f'"GET {FILE} HTTP/1.1" 302 ' in "\n".join(lines) and "/-/health" in lines[-1]


@pytest.mark.parametrize("server", SERVERS)
def test_while_the_cdn_is_down_the_origin_has_it_all(server: str, tmp_path: Path) -> None:
    front = Front.made(server, tmp_path, split=Split(cdn_down=True))
    with front.running:
        for target in ("/simple/demo-a/", "/simple/demo-a/?format=text/html", FILE, "/pypi/a/json"):
            found = front.ask(request(target, "GET", JSON))
            assert said(found) == f"302 {ORIGIN}{target}"
            assert found.header("cache-control") == "public, max-age=60" and found.header("vary") is None
        assert said(front.ask(request("/x"))) == f"307 {ORIGIN}/x"
        assert front.ask(request("/-/health")).header("x-static-paths-lead-to") == ORIGIN


@pytest.mark.parametrize("server", SERVERS)
def test_an_edge_that_negotiates_is_led_to_by_paths(server: str, tmp_path: Path) -> None:
    front = Front.made(server, tmp_path, split=Split(keys=False, max_age=7, legacy=False))
    with front.running:
        found = front.ask(request("/simple/demo-a/?x", "GET", JSON))
        assert said(found) == f"302 {CDN}/simple/demo-a/?x" and found.header("vary") is None
        assert found.header("cache-control") == "public, max-age=7"
        assert said(front.ask(request("/pypi/a/json"))) == f"307 {ORIGIN}/pypi/a/json"


@pytest.mark.parametrize("server", SERVERS)
def test_characters_that_mean_something_to_a_regular_expression_stand_for_themselves(
    server: str, tmp_path: Path
) -> None:
    root, prefix = "/mirror/a.b-c~d", "a.b/c+d~e!f@g=h,i"
    front = Front.made(server, tmp_path, root, Split((prefix,), health="/a.b/up-1"))
    with front.running:
        for path in (f"/{prefix}/x", "/simple"):
            assert said(front.ask(request(root + path))) == f"302 {CDN}{path}"
        assert said(front.ask(request(f"{root}/simple/x/"))) == f"302 {CDN}/simple/x/index.html"
        for path in ("/axb/c+d~e!f@g=h,i/x", "/a.b/ccd~e!f@g=h,i/x", "/robotsxtxt"):
            assert said(front.ask(request(root + path))) == f"307 {ORIGIN}{path}"
        for path in ("/mirror/axb-c~d/simple/", "/mirror/a.b-c~dx/simple/", "/axb/up-1", root):
            assert said(front.ask(request(path))) == "404 "
        assert said(front.ask(request("/a.b/up-1"))) == "200 "


# --- negotiation ---

RANGES = st.sampled_from(
    [site.JSON_TYPE, "application/vnd.pypi.simple.latest+json", "application/vnd.pypi.simple.v1+html",
     "application/vnd.pypi.simple.latest+html", "text/html", "text/*", "application/*", "*/*", "image/png",
     "application/json", "application/vnd.pypi.simple.v2+json", f"{site.JSON_TYPE}x", f"x{site.JSON_TYPE}", "", "q=1"]
)  # fmt: skip
WEIGHTS = st.sampled_from(
    ["", ";q=1", ";q=0", "; q=0.5", ";q=0.000", ";Q=0.001", ";q=1.000", ";q=2", ";q=", ";q=x", ";a=b", ";a=b;q=0",
     "\t;\tq=0.1 ;x=y", ";q=1.1", ";q=0.1;q=0", ";", ";charset=utf-8 ; q=0.9", "; q =0.5"]
)  # fmt: skip
MEMBERS = st.tuples(RANGES, WEIGHTS, st.booleans()).map(lambda it: (it[0].upper() if it[2] else it[0]) + it[1])
ACCEPTS = st.lists(MEMBERS, max_size=4).map(", ".join)
QUERIES = st.lists(
    st.sampled_from(
        ["format=", f"{FORMAT}", f"FORMAT={site.JSON_TYPE}", FORMAT_HTML, FORMAT.replace("+", "%2b"), "format=x", "a=b",
         FORMAT.replace("+", "%20"), FORMAT.replace("n/v", "n%2Fv"), "format", "", "xformat=text/html", FORMAT + "x"]
    ),
    max_size=3,
).map("&".join)  # fmt: skip


def wanted(accept: str, query: str) -> str | None:
    """What `negotiate` says, but that nothing is weighed: JSON wins where it is named, and wildcards mean HTML."""
    chosen = format_of(query)
    if chosen or not accept.replace(",", "").strip():
        return representation(accept, chosen)
    forms = {representation(member) for member in accept.split(",") if member.strip()}
    return "json" if "json" in forms else "html" if "html" in forms else None


def test_what_is_wanted_is_what_negotiate_says_but_for_weights() -> None:
    """The exception is no larger than it is said to be."""

    @settings(max_examples=500, deadline=None)
    @given(ACCEPTS, QUERIES)
    def holds(accept: str, query: str) -> None:
        if wanted(accept, query) != representation(accept, format_of(query)):
            assert "+json" in accept.lower() or "*" in accept

    holds()


def test_pages_are_negotiated_as_everywhere(front: Front) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(ACCEPTS, QUERIES), min_size=8, max_size=8))
    def holds(several: list[tuple[str, str]]) -> None:
        for accept, query in several:
            target = "/simple/demo-a/" + (f"?{query}" if query else "")
            form = wanted(accept.strip(" \t"), query)
            expected = f"{CDN}/simple/demo-a/index.{form}" if form else f"{CDN}{target}"
            found = front.ask(request(front.root + target, "GET", f"Accept: {accept}"))
            assert (found.header("location") or "").lower() == expected.lower(), (accept, query)
            assert found.header("vary") == "Accept"

    holds()


# --- whatever is asked ---

# What a path, a host and a header are made of by somebody who means us ill.
BITS = [
    b"/", b"//", b"///", b"\\", b"/\\", b"\\\\", b"@", b":", b"?", b"#", b";", b"&", b"=", b".", b"..", b"/../",
    b"/./", b"%2e%2e", b"%2E", b"%2f", b"%2F", b"%5c", b"%40", b"%3a", b"%00", b"%0a", b"%0d%0a", b"%0d", b"%09",
    b"%20", b"%23", b"%3f", b"%25", b"%252f", b"%250d%250a", b"%7f", b"%80", b"%c0%af", b"%ff", b"%zz", b"%",
    b"%u002f", b"\x80", b"\xff", b"\xe2\x80\xae", b"\t", b" ", b"\x00", b"\x0b", b"\x7f", b"\x1b[31m", b"\r", b"\n",
    b"\r\n", b"\r\n\r\n", b"\r\nLocation: https://evil.example/", b"%0d%0aLocation:%20http://evil.example/", b"$1",
    b"${url.path}", b"%1", b"$host", b"$http_host", b"evil.example", b"@evil.example", b"//evil.example", b"http://",
    b"https://", b"https:", b"javascript:", HOST.encode(), b"https://" + HOST.encode(), b"cdn.example.net",
    b"origin.example.org", b":8443", b"simple", b"/simple/", b"/simple/demo-a/", b"packages", b"/packages/",
    b"/pypi/a/json", b"/docs/", b"/m", b"/m/", b"/-/health", b"?format=", b"x", b"A" * 300, b"%41", b"*", b"'", b'"',
    b"<", b">", b"|", b"^", b"{", b"}", b"[", b"]", b"[::1]", b"127.0.0.1", b"\xef\xbc\x8f", b"%e2%80%a8",
]  # fmt: skip
NOISE = st.lists(st.sampled_from(BITS) | st.binary(max_size=4), max_size=6).map(b"".join)
PATHS = st.tuples(st.sampled_from([b"/", b"/m/", b"/simple/", b"/m/simple/", b"/packages/", b"", b"//", b"/m"]), NOISE)
TARGETS = (
    PATHS.map(b"".join)
    | NOISE
    | st.tuples(st.sampled_from([b"http://", b"HTTPS://", b"//", b"http:/", b"ftp://"]), NOISE, NOISE).map(b"".join)
    # what would be a part of the host, if it followed that without a slash
    | st.tuples(
        st.sampled_from([b"/m", b"/m", b"/simple", b"/packages", b""]),
        st.sampled_from([b"@", b".", b":1@", b":1", b"\\@", b"%2f@", b"?@", b"#@", b";@", b"%40", b"-", b":@"]),
        st.sampled_from([b"evil.example/", b"evil.example", b"", HOST.encode()]),
    ).map(b"".join)
    | st.sampled_from([b"*", b"/" + b"a" * 9000, b"/simple/" + b"%2e" * 5000, b"/?" + b"\\" * 7000, b"/" * 70000])
)
METHODS = st.sampled_from(
    [b"GET"] * 8
    + [b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"get", b"X", b"", b"PRI"]
)
VERSIONS = st.sampled_from([b" HTTP/1.1"] * 8 + [b" HTTP/1.0", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.2", b"", b" X"])
HOSTS = (
    st.sampled_from(
        [HOST.encode()] * 4 + [b"evil.example", b"", b"a b", b"evil.example:99999", b"[::1", b"a/b", b"a@b"]
    )
    | NOISE
)
FIELDS = st.sampled_from(
    [b"Host", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded", b"X-Original-URL", b"X-Rewrite-URL", b"Referer",
     b"Accept", b"Location", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Range", b"Expect", b"Cookie", b" x"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"chunked", b"0", b"5", b"h2c", b"bytes=0-1", b"100-continue", b"http", b"https://evil.example/"]
)
EXTRA = st.lists(st.tuples(FIELDS, NOISE | VALUES), max_size=2)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A request, as bytes: the connection is closed after it."""
    fields = [(b"Host", draw(HOSTS)), *draw(EXTRA), (b"Connection", b"close")]
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    return b"%b %b%b\r\n%b\r\n" % (draw(METHODS), draw(TARGETS), draw(VERSIONS), lines)


OURS = {
    "lighttpd": {"location", "cache-control", "vary", "content-length", "content-type", "date", "connection", "allow",
                 "accept-ranges", "x-static-paths-lead-to"},
    "nginx": {"location", "cache-control", "vary", "content-length", "content-type", "date", "connection", "server",
              "x-static-paths-lead-to", "transfer-encoding"},
}  # fmt: skip
STATUSES = {200, 302, 307, 400, 404, 405, 408, 411, 413, 414, 416, 417, 431, 501, 505}
CONFIGURED = {Reading("https", "cdn.example.net", 443), Reading("https", "origin.example.org", 8443)}


def check(server: str, data: bytes, got: bytes) -> None:
    """The promise, for one request and all the bytes that came back."""
    if not got.startswith(b"HTTP/"):
        # nothing at all; or HTTP/0.9 as nginx has it, a body alone
        assert got == b"" or (server == "nginx" and got.startswith(b"<html>") and b"://" not in got), got
        return
    found = [one for one in parsed(got, head=data.lstrip(b"\r\n").startswith(b"HEAD ")) if one.status != 100]
    # who sends an empty line has ended a request, and may have begun another
    assert 1 <= len(found) <= 1 + len(re.findall(rb"\n\r?\n", data[:-2])), found
    for one in found:
        names = [name.lower() for name, _ in one.headers]
        assert set(names) <= OURS[server] and len(set(names)) == len(names), names
        assert one.status in STATUSES, one.status
        location = one.header("location")
        assert (location is not None) == (one.status in (302, 307))
        if location is not None:
            assert {read(location) for read in READINGS} <= CONFIGURED, location
            assert location.startswith((f"{CDN}/", f"{ORIGIN}/")) and "#" not in location, location
            assert not re.search(r"(?i)/(?:\.|%2e){1,2}(?:/|$)|//|\\|%2f|%0|%1|%7f", location[8:].partition("?")[0])


def test_a_redirect_never_carries_a_client_from_https_to_http_out_of_the_pool_or_into_a_loop(front: Front) -> None:
    """Whatever the request's path contains. Every redirect leads to the CDN or the origin, which are no redirectors."""

    # each failure is small already, and making it smaller takes minutes
    @settings(max_examples=400, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(hostile(), min_size=10, max_size=10))
    def holds(several: list[bytes]) -> None:
        connections = [opened(front.spot.address, front.spot.plain, data) for data in several]
        answers = [received(connection) for connection in connections]
        for data, got in zip(several, answers, strict=True):
            note(f"{data!r} got {got!r}")
            check(front.running.server, data, got)

    holds()


# --- real clients, and a bucket without an edge function ---


@pytest.fixture(params=list(SERVERS))
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A redirect server, a bucket as its CDN, and an origin, each at an address of its own, over https."""
    net = subnet()
    hosts = {INDEX_HOST: [f"{net}.11"], CDN_HOST: [f"{net}.21"], ORIGIN_HOST: [f"{net}.31"]}
    port = free_port([address for addresses in hosts.values() for address in addresses])
    authority = Authority()
    bases = [f"https://{host}:{port}/" for host in hosts]
    roles = (Role.REDIRECTOR, Role.CDN, Role.ORIGIN)
    pool = Pool("default", bases[0], tuple(map(Endpoint, bases, roles)))
    (tmp_path / "server.pem").write_bytes(authority.server(INDEX_HOST).pem)
    pem = Certificate(f"{tmp_path}/server.pem", f"{tmp_path}/server.pem")
    place = Place((f"{net}.11:{port}",), (), pem, str(tmp_path))
    (tmp_path / "made.conf").write_text(SERVERS[request.param](redirector(pool, Split(), place)))
    with (
        Server(Keys(SITE), f"{net}.21", port, tls=authority.server(CDN_HOST)) as bucket,
        Server(SITE, f"{net}.31", port, tls=authority.server(ORIGIN_HOST)) as origin,
        Running(request.param, tmp_path / "made.conf", tmp_path, f"{net}.11", port) as running,
    ):
        servers = {"cdn1": bucket, "origin": origin}
        names = Names.write(tmp_path, hosts).environment()
        yield Scene(tmp_path, "https", port, servers, names, authority, authority.write(tmp_path))
        assert running.errors == ""


WHAT = ("--only-binary", ":all:", "--dest", "found", "demo-a")  # which needs demo-b


def test_plain_pip_installs_from_a_bucket_that_knows_nothing_but_keys(whole: Scene, newest_pip: PipEnv) -> None:
    done = whole.pip(newest_pip, "download", *WHAT, plain=True, home=whole.folder / "home")
    assert done.code == 0, done.output
    assert {path.name for path in (whole.folder / "home/found").iterdir()} == {A.filename, B.filename}
    pages = [f"/simple/{name}/index.json" for name in ("demo-a", "demo-b")]
    assert [one.path for one in whole.servers["cdn1"].requests if one.kind == "page"] == pages
    assert {one.status for one in whole.servers["cdn1"].requests} == {200}
    assert whole.servers["origin"].requests == ()


def test_a_browser_gets_the_page_in_html_from_there(whole: Scene) -> None:
    assert whole.authority
    context = ssl.create_default_context()
    whole.authority.ca.configure_trust(context)
    index, cdn = f"{whole.servers['cdn1'].address.removesuffix('.21')}.11", whole.servers["cdn1"].address
    led = asked(
        index, whole.port, request("/simple/demo-a/", "GET", "Accept: text/html,*/*;q=0.8"), context, INDEX_HOST
    )
    location = led.header("location") or ""
    assert location == f"{whole.base(CDN_HOST)}simple/demo-a/index.html"
    got = asked(cdn, whole.port, request(f"/{location.split('/', 3)[3]}", host=CDN_HOST), context, CDN_HOST)
    assert got.status == 200 and got.header("content-type") == "text/html" and A.filename.encode() in got.body


def test_the_canonical_url_never_changes(whole: Scene, newest_pip: PipEnv) -> None:
    """With our client: what came by way of a redirector and a key is what was asked for."""
    home = whole.folder / "home"
    what = ("--dry-run", "--ignore-installed", "--quiet", "--report", f"{whole.folder}/report.json", "demo-a")
    done = whole.pip(newest_pip, "install", *what, home=home)
    assert done.code == 0, done.output
    report = json.loads((whole.folder / "report.json").read_text())
    urls = {item["download_info"]["url"] for item in report["install"]}
    assert urls == {f"{whole.index}packages/{one.filename}" for one in (A, B)}
    pages = [f"/simple/{name}/index.json" for name in ("demo-a", "demo-b")]
    # Files go straight to the CDN (ADR 17); a key for a page only the redirector knows.
    assert [one.path for one in whole.servers["cdn1"].requests if one.kind == "page"] == pages
    assert whole.servers["origin"].requests == ()


def test_what_the_bucket_has_not_comes_from_the_origin(whole: Scene, newest_pip: PipEnv) -> None:
    """With our client; the bucket's 404 is no last word."""
    whole.fault("cdn", Status(404), on="page")
    done = whole.pip(newest_pip, "download", *WHAT, home=whole.folder / "home")
    assert done.code == 0, done.output
    assert {one.path for one in whole.servers["origin"].requests} >= {"/simple/demo-a/", "/simple/demo-b/"}
