"""A real nginx as an edge before a real bucket (ministack): what it answers is what `negotiate` says, and it lasts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cdn_fallback.mirror import negotiate, site
from cdn_fallback.mirror.edge.nginx import Cache, Tls, configuration
from cdn_fallback.mirror.negotiate import Found, NotAcceptable, NotFound, Redirect
from tests.integration.test_mirror_nginx import (
    ALIKE,
    DIFFERENT,
    OTHERS,
    PAGE,
    PIP,
    SITE,
    TREES,
    WHEEL,
    Asked,
    check_object,
    odd_names,
)
from tests.rig.messages import Answer, Request
from tests.rig.names import free_port
from tests.rig.nginx import Client, Got, Nginx
from tests.rig.s3 import Ministack
from tests.rig.s3_bucket import Bucket, Object
from tests.rig.s3_faults import Refuse
from tests.rig.s3_proxy import Proxy
from tests.rig.scene import subnet
from tests.rig.server import Server
from tests.rig.tls import Authority

NAME = "cdn.example.net"
BRIEF = "public, max-age=1"


class Edge(NamedTuple):
    """nginx before a proxy before the bucket."""

    client: Client
    server: Nginx
    proxy: Proxy
    bucket: Bucket
    folder: Path

    def log(self) -> str:
        """What nginx has complained of."""
        return self.server.errors


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    with Ministack(tmp_path_factory.mktemp("s3")) as store, Proxy(store.endpoint) as proxy:
        bucket = store.make_bucket("edge-bucket")
        bucket.fill({key: stored(made, body) for key, (made, body) in SITE.items()})
        bucket.put(".cdn-fallback", b"the mark")
        bucket.put("docs/.hidden", b"hidden")
        address = f"{subnet()}.1"
        port = free_port([address])
        text = configuration(
            f"{proxy.endpoint}/edge-bucket", "_", [f"{address}:{port}"], trees=TREES, cache=Cache(f"{folder}/cache")
        )
        with Nginx(folder, address, port, text) as nginx, Client(nginx.url) as client:
            yield Edge(client, nginx, proxy, bucket, folder)


def stored(made: site.Object, body: bytes) -> Object:
    """As our publisher puts it."""
    kind, caching, coding = made.headers
    return Object(body, kind, caching, coding or "", {"sha256": made.digest.hex()})


# Whether there is a folder a bucket is not asked.
ELSEWHERE = {"/docs/a%20b?x": 404, "/more/docs": 301}


@pytest.mark.parametrize("asked", ALIKE, ids=lambda a: f"{a.method} {a.path} {' '.join(a.headers.values())}"[:100])
def test_the_edge_answers_as_a_mirrors_nginx_does(edge: Edge, asked: Asked) -> None:
    got = edge.client.get(asked.path, asked.headers, method=asked.method)
    if asked.path in ELSEWHERE:
        assert got.status == ELSEWHERE[asked.path]
        return
    assert got.status == asked.status
    if asked.status == 301:
        assert got.header("Location") == asked.what
    if asked.status in (200, 206):
        check_object(got, asked)
        page = asked.what.startswith(("simple/", "pypi/"))
        assert got.header("Vary") == (negotiate.NEGOTIATED if page else "")
        serial = site.NEW_ENOUGH if asked.what.startswith("pypi/") else ""
        assert got.header(site.SERIAL_HEADER) == serial
    clean(got)


def clean(got: Got) -> None:
    """Nothing that the bucket says of itself, and its words for errors neither."""
    assert not [name for name in got.headers if name.lower().startswith("x-amz") or name == "Set-Cookie"]
    assert not got.body.startswith(b"<?xml")
    assert got.header("X-Content-Type-Options") == "nosniff" or got.status in (301, 400, 416)


@pytest.mark.parametrize(("path", "headers", "nginx", "serve"), DIFFERENT)
def test_where_nginx_differs_from_negotiate(
    edge: Edge, path: str, headers: dict[str, str], nginx: int | str, serve: int | str
) -> None:
    """As the module says: as a mirror's nginx does, but for `#` and parts of what is compressed."""
    got = edge.client.get(path, headers)
    assert (serve if "#" in path or serve == 206 else nginx) in (got.status, got.header("Content-Type"))


@pytest.mark.parametrize("key", sorted(SITE))
def test_every_object_is_served_with_its_headers(edge: Edge, key: str) -> None:
    path = "/" + key.replace(" ", "%20").replace("é", "%C3%A9")
    for plus in {path, path.replace("+", "%2B")}:
        check_object(edge.client.get(plus), Asked(plus, 200, key))


ACCEPTS = ["", "*/*", "text/html", site.JSON_TYPE, PIP["Accept"], "image/png", f"text/html;q=0.1, {site.JSON_TYPE};q=0"]
ENCODINGS = [
    "",
    "gzip",
    "br, gzip;q=0.5",
    "gzip;q=0",
    "deflate, gzip;q=0, gzip",
    "*",
    "gzip;q=1.0;x, br",
    "xgzip, gzipx",
]


def test_any_accept_and_encoding_give_what_negotiate_says(edge: Edge) -> None:
    paths = [
        "/simple/",
        "/simple/its-name/",
        "/simple/Its_Name/",
        "/pypi/its-name/json",
        "/docs/",
        "/",
        "/simple/none/",
    ]
    paths += ["/simple/its-name/index.html", "/simple/Its_Name/index.html", "/packages/its_name-1.0.tar.gz"]
    for path in paths:
        for accept in ACCEPTS:
            for encoding in ENCODINGS:
                headers = {"Accept": accept, "Accept-Encoding": encoding}
                got = edge.client.get(path, {name: value for name, value in headers.items() if value})
                assert told(got) == meant(path, accept, encoding), (path, headers)


def told(got: Got) -> tuple[int, str]:
    if got.status == 200:
        return 200, next(key for key, (_, body) in SITE.items() if body == got.body)
    return got.status, got.header("Location")


def meant(path: str, accept: str, encoding: str) -> tuple[int, str]:
    wanted, gzip = negotiate.representation(accept), negotiate.accepts_gzip(encoding)
    meaning = negotiate.locate(path, wanted, gzip, trees=TREES)
    if isinstance(meaning, Redirect):
        return 301, meaning.location
    if isinstance(meaning, NotAcceptable):
        return 406, ""
    if isinstance(meaning, NotFound):
        return 404, ""
    assert isinstance(meaning, Found)
    return next(((200, key) for key in meaning.keys if key in SITE), (404, ""))


def test_any_name_ends_at_the_normalised_one_in_one_redirect(edge: Edge) -> None:
    for name in odd_names()[::4]:
        meaning = negotiate.locate(f"/simple/{name}", "html")
        assert isinstance(meaning, Redirect)
        got = edge.client.get(f"/simple/{name}")
        assert (got.status, got.header("Location")) == (301, meaning.location), name


def test_promise_no_secret_the_mark_and_hidden_parts_are_never_asked_for(edge: Edge) -> None:
    edge.proxy.forget()
    paths = ["/.cdn-fallback", "/%2ecdn-fallback", "/%2Ecdn-fallback", "/packages/../.cdn-fallback", "/docs/.hidden"]
    paths += ["/docs/%2e%2e/.cdn-fallback", "//.cdn-fallback", "/.bucket/.cdn-fallback", "/.bucket/simple/index.html"]
    for path in (*paths, "/%2ebucket/simple/index.html"):
        got = edge.client.get(path)
        assert got.status == 404 and b"mark" not in got.body
    edge.proxy.settle()
    assert not edge.proxy.calls


def test_nothing_of_the_request_goes_on_to_the_bucket(edge: Edge) -> None:
    edge.proxy.forget()
    headers = {"Authorization": "Basic c2VjcmV0", "Cookie": "a=b", "X-Forwarded-For": "x", "Referer": "y",
               "User-Agent": "pip", "Range": "bytes=0-1"}  # fmt: skip
    assert edge.client.get("/packages/nothing.whl?versionId=x&uploads", headers).status == 404
    edge.proxy.settle()
    (call,) = edge.proxy.calls
    assert (call.method, call.key, call.query) == ("GET", "packages/nothing.whl", "")
    assert [name.lower() for name, _ in call.headers] == ["host"]


def test_what_was_asked_for_once_is_not_asked_of_the_bucket_again(edge: Edge) -> None:
    for path, headers in ((WHEEL, {}), ("/simple/its-name/", PIP), ("/pypi/its-name/json", {})):
        first = edge.client.get(path, headers)
        edge.proxy.forget()
        assert edge.client.get(path, headers).body == first.body
        again = edge.client.get(f"{path}?x=y", {**headers, "Cookie": "a=b", "Cache-Control": "no-cache"})
        assert (again.body, again.header("X-Cache")) == (first.body, "HIT")
        assert edge.client.get(path, {**headers, "If-None-Match": first.header("ETag")}).status == 304
        part = edge.client.get(WHEEL, {"Range": "bytes=5-6"})
        assert (part.status, part.body) == (206, SITE[WHEEL[1:]][1][5:7])
        edge.proxy.settle()
        assert not edge.proxy.calls


def test_a_copy_tells_its_age_by_the_buckets_date(edge: Edge) -> None:
    """nginx sends no Age: that is said in the text, and if it did this would be news."""
    edge.client.get("/robots.txt")
    first = edge.client.get("/robots.txt")
    time.sleep(1.1)
    again = edge.client.get("/robots.txt")
    assert again.header("Date") == first.header("Date") != ""
    assert again.header("Age") == ""


def test_an_absent_key_is_a_404_where_s3_says_403(edge: Edge) -> None:
    edge.proxy.fault(Refuse(403, "AccessDenied", "Access Denied"), times=None)
    try:
        got = edge.client.get("/packages/absent-1.0.tar.gz")
    finally:
        edge.proxy.heal()
    assert (got.status, got.body) == (404, b"There is no such page or file here.\n")
    clean(got)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 429, 500, 503])
def test_the_buckets_errors_are_not_the_clients(edge: Edge, status: int) -> None:
    edge.proxy.fault(Refuse(status, "SlowDown", "secret words"), times=None)
    try:
        got = edge.client.get(f"/packages/error-{status}.tar.gz")
    finally:
        edge.proxy.heal()
    assert got.status == (404 if status == 400 else 502)
    assert b"secret" not in got.body and not got.header("Location")


def put(edge: Edge, name: str, body: bytes, caching: str) -> str:
    """A file with these headers: its path."""
    edge.bucket.put(f"packages/{name}", Object(body, "application/octet-stream", caching))
    return f"/packages/{name}"


def test_what_is_published_is_found_soon_where_nothing_was(edge: Edge) -> None:
    """An absent key is remembered for ten seconds and no longer."""
    assert edge.client.get("/packages/new-1.0.tar.gz").status == 404
    path = put(edge, "new-1.0.tar.gz", b"new", site.FOREVER)
    end = time.monotonic() + 14
    while edge.client.get(path).status == 404 and time.monotonic() < end:
        time.sleep(0.5)
    assert edge.client.get(path).body == b"new"


def test_a_dead_bucket_is_bridged_for_as_long_as_the_object_says(edge: Edge) -> None:
    kept = put(edge, "kept.whl", b"kept", f"{BRIEF}, stale-if-error=60")
    gone = put(edge, "gone.whl", b"gone", BRIEF)
    for path in (kept, gone, WHEEL):
        assert edge.client.get(path).status == 200
    time.sleep(2.1)
    edge.proxy.cut()
    try:
        for _ in range(3):
            got = edge.client.get(kept)
            assert (got.status, got.body, got.header("X-Cache")) == (200, b"kept", "STALE")
        assert edge.client.get(gone).status == 502
        assert edge.client.get(WHEEL).header("X-Cache") == "HIT"
    finally:
        edge.proxy.mend()
    assert edge.client.get(gone).body == b"gone"
    edge.proxy.fault(Refuse(503, "SlowDown", "Please reduce"), times=None)
    try:
        time.sleep(2.1)
        assert edge.client.get(kept).status == 200
    finally:
        edge.proxy.heal()


def test_an_old_copy_goes_out_while_it_is_fetched_anew(edge: Edge) -> None:
    path = put(edge, "fresh.whl", b"old", f"{BRIEF}, stale-while-revalidate=60")
    assert edge.client.get(path).body == b"old"
    put(edge, "fresh.whl", b"new", f"{BRIEF}, stale-while-revalidate=60")
    time.sleep(2.1)
    assert edge.client.get(path).body == b"old"
    end = time.monotonic() + 5
    while edge.client.get(path).body != b"new" and time.monotonic() < end:
        time.sleep(0.05)
    assert edge.client.get(path).body == b"new"


def test_nginx_has_nothing_to_complain_of(edge: Edge, tmp_path: Path) -> None:
    """Neither of this configuration, nor of one with everything."""
    tls = Authority().server(NAME)
    (tmp_path / "pem").write_bytes(tls.pem)
    pem = str(tmp_path / "pem")
    cache = Cache(f"{tmp_path}/cache", resolver="127.0.0.53")
    bucket = "https://example-mirror.s3.eu-central-1.amazonaws.com"
    text = configuration(
        bucket, NAME, ["127.0.0.1:8443"], tls=Tls(pem, pem), trees=TREES, cache=cache
    )  # fmt: skip
    for said in (edge.server.check(), Nginx(tmp_path / "n", "127.0.0.1", 8443, text).check()):
        assert re.fullmatch(r"(nginx: .*(syntax is ok|test is successful)\n){2}", said)
    assert "[warn]" not in edge.log() and "[emerg]" not in edge.log() and "[alert]" not in edge.log()


class Page:
    """One object, by whatever path."""

    def answer(self, request: Request) -> Answer:
        return Answer(200, b"from the bucket", (("Content-Type", "text/plain"), ("Set-Cookie", "a=b")))


def test_a_plus_goes_to_the_bucket_encoded(tmp_path: Path) -> None:
    """S3 takes a bare one for a space."""
    address = f"{subnet()}.1"
    port = free_port([address])
    with Server(Page(), address, 0) as bucket:
        text = configuration(f"{bucket.url}b", "_", [f"{address}:{port}"], trees=TREES, cache=Cache(f"{tmp_path}/c"))
        with Nginx(tmp_path / "nginx", address, port, text) as nginx, Client(nginx.url) as client:
            for path in ("/packages/a+b.whl", "/packages/a%2bb.whl", "/docs/a+b+c+d+e/", "/docs/%C3%A9%25%3F"):
                assert client.get(path).status == 200
    keys = ["packages/a%2Bb.whl", "docs/a%2Bb%2Bc%2Bd%2Be/index.html", "docs/%C3%A9%25%3F"]
    assert [request.path for request in bucket.requests] == [f"/b/{key}" for key in keys]


@pytest.mark.parametrize(
    ("issued_for", "trusted"), [("localhost", True), ("other.example.org", True), ("localhost", False)]
)
def test_https_to_the_bucket_is_verified(tmp_path: Path, issued_for: str, trusted: bool) -> None:
    """Who answers must have a certificate for the bucket's name, of an authority that is trusted."""
    authority = Authority()
    address = f"{subnet()}.1"
    port = free_port([address])
    with Server(Page(), "127.0.0.1", 0, tls=(authority if trusted else Authority()).server(issued_for)) as bucket:
        cache = Cache(f"{tmp_path}/cache", str(authority.write(tmp_path)))
        text = configuration(f"https://localhost:{bucket.port}", "_", [f"{address}:{port}"], cache=cache)
        with Nginx(tmp_path / "nginx", address, port, text) as nginx, Client(nginx.url) as client:
            got = client.get("/packages/x")
    assert got.status == (200 if issued_for == "localhost" and trusted else 502), nginx.errors
    assert not got.header("Set-Cookie")


def test_clients_come_by_https_alone_where_there_is_a_certificate() -> None:
    text = configuration("https://b.example.org", NAME, tls=Tls("/etc/ssl/cert.pem", "/etc/ssl/key.pem"))
    assert text.count("listen 443 ssl;") == text.count("listen 80;") == 1
    assert f"return 301 https://{NAME}$request_uri;" in text


@pytest.mark.parametrize("key", [f"{PAGE}.json.gz", "docs/x.html", WHEEL[1:]])
def test_whatever_else_stands_in_the_http_block(edge: Edge, tmp_path: Path, key: str) -> None:
    address = f"{subnet()}.1"
    port = free_port([address])
    place = f"{edge.proxy.endpoint}/edge-bucket"
    text = configuration(place, "_", [f"{address}:{port}"], trees=TREES, cache=Cache(f"{tmp_path}/cache"))
    noise = OTHERS + "proxy_cache_bypass 1; proxy_no_cache 1; proxy_set_header X-Evil 1;"
    with Nginx(tmp_path, address, port, noise + text) as nginx, Client(nginx.url) as client:
        for _ in range(2):
            got = client.get(f"/{key}")
            check_object(got, Asked(f"/{key}", 200, key))
        assert got.header("X-Cache") == "HIT"
        assert client.get("/docs").header("Location") == "/docs/"
