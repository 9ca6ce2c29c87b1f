"""A site in a folder, served on loopback."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cdn_fallback.mirror import site
from cdn_fallback.mirror.negotiate import headers_of, part_of
from cdn_fallback.mirror.serve import CannotServe, SiteServer
from tests.rig.nginx import Client

JSON = {"Accept": site.JSON_TYPE}
GZIP = {"Accept-Encoding": "gzip"}
OBJECTS = {
    "simple/index.html": b"<list>",
    "simple/index.json": b"{list}",
    "simple/six/index.html": b"<six>",
    "simple/six/index.json": b"{six}",
    "pypi/six/json": b"{legacy}",
    "packages/six-1.tar": b"a tar file",
    "packages/six-1.tar.gz": b"another sdist, not the tar file's twin",
    "packages/six-1.whl": bytes(range(256)) * 1000,
    "packages/six-1.whl.metadata": b"Name: six",
    "docs/a b/index.html": b"<docs>",
    "docs/x.css": b"css",
    "last-modified": b"2024-01-31T12:00:00Z\n",
    ".cdn-fallback": b"identity",
}
TWINS = ("simple/six/index.html", "simple/six/index.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for key, body in OBJECTS.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(body)
    for key in TWINS:
        (folder / f"{key}.gz").write_bytes(gzip.compress(OBJECTS[key], mtime=0))
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.whl").write_bytes(b"secret")
    (folder / "packages" / "link.whl").symlink_to(outside / "secret.whl")
    (folder / "packages" / "inner.whl").symlink_to("six-1.whl")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "packages" / "pipe.whl")
    return folder


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def url(root: Path, lines: list[str]) -> Iterator[str]:
    with SiteServer(root, trees=("docs",), log=lines.append) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as connected:
        yield connected


@pytest.mark.parametrize(
    ("path", "headers", "key"),
    [
        ("/simple/", {}, "simple/index.html"),
        ("/simple/", JSON, "simple/index.json"),
        ("/simple/six/", {}, "simple/six/index.html"),
        ("/simple/six/", JSON, "simple/six/index.json"),
        (f"/simple/six/?format={site.JSON_TYPE}", {}, "simple/six/index.json"),
        ("/simple/six/?format=text/html", JSON, "simple/six/index.html"),
        ("/simple/six/index.json", {}, "simple/six/index.json"),
        ("/pypi/six/json", {}, "pypi/six/json"),
        ("/packages/six-1.tar", GZIP, "packages/six-1.tar"),
        ("/packages/six-1.tar.gz", {}, "packages/six-1.tar.gz"),
        ("/packages/six-1.whl", {}, "packages/six-1.whl"),
        ("/packages/six-1.whl.metadata", {}, "packages/six-1.whl.metadata"),
        ("/docs/a%20b/", {}, "docs/a b/index.html"),
        ("/docs/x.css", {}, "docs/x.css"),
        ("/last-modified", {}, "last-modified"),
        ("http://example.org/last-modified?x", {}, "last-modified"),
    ],
)
def test_objects_come_with_the_sites_headers(client: Client, path: str, headers: dict[str, str], key: str) -> None:
    got = client.get(path, headers)
    expected = headers_of(key, ("docs",))
    assert (got.status, got.body) == (200, OBJECTS[key])
    assert (got.header("Content-Type"), got.header("Cache-Control")) == (expected.content_type, expected.cache_control)
    assert got.header("Content-Length") == str(len(OBJECTS[key]))
    assert got.header("Vary") == ("Accept, Accept-Encoding" if key.startswith(("simple", "pypi")) else "")
    assert got.header("X-Content-Type-Options") == "nosniff"
    assert got.header("Content-Encoding") == ""
    assert got.header("Server") == "cdn-fallback"
    head = client.get(path, headers, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "Date": ""} == {**got.headers, "Date": ""}


def test_who_takes_gzip_gets_the_twin(client: Client) -> None:
    plain, packed = client.get("/simple/six/", JSON), client.get("/simple/six/", JSON | GZIP)
    assert packed.header("Content-Encoding") == "gzip"
    assert packed.header("Content-Type") == site.JSON_TYPE
    assert gzip.decompress(packed.body) == plain.body
    assert packed.header("ETag") != plain.header("ETag")
    assert client.get("/simple/six/index.json.gz").body == packed.body
    assert client.get("/simple/six/index.json.gz").header("Content-Encoding") == "gzip"


def test_who_takes_gzip_gets_the_page_itself_where_there_is_no_twin(client: Client) -> None:
    got = client.get("/simple/", GZIP)
    assert (got.body, got.header("Content-Encoding")) == (b"<list>", "")


def test_the_forms_of_a_page_have_tags_of_their_own(client: Client, root: Path) -> None:
    """Even if they were made at one time and have one size."""
    for name in ("index.html", "index.json"):
        os.utime(root / "simple" / "six" / name, ns=(0, 10**18))
    assert len(OBJECTS["simple/six/index.html"]) == len(OBJECTS["simple/six/index.json"])
    assert client.get("/simple/six/").header("ETag") != client.get("/simple/six/", JSON).header("ETag")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple", "/simple/"),
        ("/simple/Six", "/simple/six/"),
        (f"/simple/S.IX/?format={site.JSON_TYPE}&a=b", f"/simple/s-ix/?format={site.JSON_TYPE}"),
        ("/simple/six?x=y", "/simple/six/"),
        ("/pypi/Six/json", "/pypi/six/json"),
        ("/docs/a%20b?x", "/docs/a%20b/"),
    ],
)
def test_redirects_name_no_host(client: Client, path: str, location: str) -> None:
    got = client.get(path, {"Host": "evil.example"})
    assert (got.status, got.header("Location"), got.header("Content-Type")) == (301, location, site.TEXT_TYPE)


@pytest.mark.parametrize(
    "path",
    [
        "/", "//simple/", "//evil.example/..", "/simple/unknown/", "/simple/six/x", "/pypi/six", "/packages",
        "/packages/", "/packages/unknown.whl", "/packages/six-1.whl/", "/packages/six-1.whl/x", "/.cdn-fallback",
        "/%2ecdn-fallback", "/packages/../.cdn-fallback", "/packages/%2e%2e/last-modified", "/packages/six-1.whl%00",
        "/docs", "/docs/", "/docs/x.css/", "/" + "a" * 300, "/simple/http://x/last-modified",
    ],
)  # fmt: skip
def test_what_is_not_there(client: Client, path: str) -> None:
    got = client.get(path)
    assert (got.status, got.header("Content-Type")) == (404, site.TEXT_TYPE)
    assert got.body == b"There is no such page or file here.\n"
    assert client.get("/last-modified").status == 200  # the connection is good for more


@pytest.mark.parametrize("name", ["packages/link.whl", "packages/inner.whl", "linked/secret.whl", "packages/pipe.whl"])
def test_no_link_is_followed_and_nothing_is_sent_but_files(client: Client, root: Path, name: str) -> None:
    assert os.path.lexists(root / name)
    assert client.get(f"/{name}").status == 404


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with SiteServer(tmp_path / "link") as server, Client(server.url) as client:
        assert client.get("/last-modified").status == 200


def test_a_page_in_no_form_that_the_client_takes(client: Client) -> None:
    got = client.get("/simple/six/", {"Accept": "image/png"})
    assert (got.status, got.header("Content-Type")) == (406, site.TEXT_TYPE)
    assert client.get("/packages/six-1.whl", {"Accept": "image/png"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "X"])
def test_the_site_can_only_be_read(client: Client, method: str) -> None:
    got = client.get("/last-modified", method=method, body=b"x" * 100)
    assert (got.status, got.header("Allow")) == (405, "GET, HEAD")
    assert client.get("/last-modified").body == OBJECTS["last-modified"]


def test_the_body_of_a_request_is_not_the_next_request(client: Client) -> None:
    inner = b"GET /packages/six-1.tar HTTP/1.1\r\nHost: x\r\n\r\n"
    assert client.get("/last-modified", body=inner).body == OBJECTS["last-modified"]
    assert client.get("/last-modified").body == OBJECTS["last-modified"]
    for head in (b"Transfer-Encoding: chunked", b"Content-Length: 0\r\nContent-Length: 46", b"Content-Length: -1"):
        request = b"GET /last-modified HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + inner
        try:
            found = client.raw(request)
        except ConnectionResetError:  # what nobody has read may end the connection at once
            continue
        assert found.count(b"HTTP/1.1 ") == 1


def test_what_the_client_has_is_not_sent_again(client: Client) -> None:
    first = client.get("/simple/six/", JSON)
    tag, date = first.header("ETag"), first.header("Last-Modified")
    assert tag[0] == tag[-1] == '"'
    for condition in (
        {"If-None-Match": tag},
        {"If-None-Match": f'"x", W/{tag}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": date},
        {"If-None-Match": tag, "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ):
        got = client.get("/simple/six/", JSON | condition)
        assert (got.status, got.body, got.header("ETag")) == (304, b"", tag)
        assert (got.header("Cache-Control"), got.header("Vary")) == (site.PAGE, "Accept, Accept-Encoding")
    for condition in (
        {"If-None-Match": '"x"'},
        {"If-None-Match": ""},
        {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"If-Modified-Since": "yesterday"},
        {"If-None-Match": '"x"', "If-Modified-Since": date},
    ):
        assert client.get("/simple/six/", JSON | condition).status == 200
    assert client.get("/simple/six/", JSON | GZIP | {"If-None-Match": tag}).status == 200


def test_a_part_of_a_file(client: Client) -> None:
    whole = OBJECTS["packages/six-1.whl"]
    got = client.get("/packages/six-1.whl", {"Range": "bytes=100000-"})
    assert (got.status, got.body) == (206, whole[100000:])
    assert got.header("Content-Range") == f"bytes 100000-{len(whole) - 1}/{len(whole)}"
    assert client.get("/packages/six-1.whl").header("Accept-Ranges") == "bytes"
    beyond = client.get("/packages/six-1.whl", {"Range": f"bytes={len(whole)}-"})
    assert (beyond.status, beyond.header("Content-Range")) == (416, f"bytes */{len(whole)}")
    assert client.get("/packages/six-1.whl", {"Range": "bytes=5-"}, method="HEAD").status == 200


def test_a_part_only_of_the_file_that_the_client_has_begun(client: Client) -> None:
    whole = client.get("/packages/six-1.whl", method="HEAD")
    for mark in (whole.header("ETag"), whole.header("Last-Modified")):
        assert client.get("/packages/six-1.whl", {"Range": "bytes=5-6", "If-Range": mark}).status == 206
    for mark in ('"x"', "W/" + whole.header("ETag"), "", "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert client.get("/packages/six-1.whl", {"Range": "bytes=5-6", "If-Range": mark}).status == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", range(10)),
        ("bytes=2-4", range(2, 5)),
        ("BYTES=9-9", range(9, 10)),
        ("bytes=2-400", range(2, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-300", range(10)),
        ("bytes=10-", range(0)),
        ("bytes=10-20", range(0)),
        ("bytes=-0", range(0)),
        ("", None),
        ("bytes=4-2", None),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("items=1-2", None),
        ("bytes=a-b", None),
        ("bytes=\u0661-", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_the_part_that_a_header_asks_for(header: str, expected: range | None) -> None:
    assert part_of(header, 10) == expected


def test_an_empty_file_has_no_parts() -> None:
    assert part_of("bytes=0-", 0) == range(0)
    assert part_of("bytes=-5", 0) == range(0)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET\r\n\r\n",
        b"\x1b[31m\x07 / x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_request_that_is_none_is_not_echoed(client: Client, request_: bytes) -> None:
    found = client.raw(request_)
    assert found.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 414 ", b"HTTP/1.1 505 "))
    assert b"\x1b" not in found and b"31m" not in found and b"xxx" not in found
    assert b"nosniff" in found and b"text/plain" in found


def test_what_is_logged_is_printable(client: Client, lines: list[str]) -> None:
    client.raw(b"GET /\x1b[31m\xe2\x80\xae HTTP/1.0\r\n\r\n")
    assert lines[-1] == '127.0.0.1 "GET /\\x1b[31m\xe2\\x80\xae HTTP/1.0" 404 -'
    assert all(line.isprintable() for line in lines)


def test_nothing_is_printed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with SiteServer(root) as server, Client(server.url) as client:
        assert client.get("/last-modified").status == 200
        assert client.get("/x").status == 404
        client.raw(b"nonsense\r\n\r\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("begun", [b"", b"GET /last-modified HTTP/1.1\r\nHost:"])
def test_a_client_that_says_nothing_is_let_go(root: Path, begun: bytes) -> None:
    with SiteServer(root, patience=0.05) as server:
        assert Client(server.url).raw(begun) == b""


def test_a_client_that_says_a_little_now_and_then_is_let_go(root: Path) -> None:
    with (
        SiteServer(root, patience=0.3) as server,
        socket.create_connection(Client(server.url).place, 0.01) as connection,
    ):
        # 10 ms each time: far longer than the patience, if that began anew
        assert any(_is_closed_after_a_byte(connection) for _ in range(500))


def _is_closed_after_a_byte(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except (BrokenPipeError, ConnectionResetError):
        return True


def test_closing_ends_connections_that_are_kept(root: Path) -> None:
    server = SiteServer(root, patience=3600)  # for so long would this test wait
    server.start()
    with Client(server.url) as client:
        assert client.get("/last-modified").status == 200
        server.close()
        with pytest.raises((OSError, http.client.HTTPException)):
            client.get("/last-modified")


def test_a_port_that_is_taken_is_told(root: Path) -> None:
    with SiteServer(root) as server:
        port = urlsplit(server.url).port or 0
        with pytest.raises(CannotServe, match=rf"^127\.0\.0\.1:{port}: cannot be listened on .*; name another port"):
            SiteServer(root, port=port).start()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="is no folder; `cdn-fallback mirror run` makes the site"):
        SiteServer(tmp_path / "\x1b[31m").start()


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_ipv6_address(root: Path) -> None:
    with SiteServer(root, "::1") as server, Client(server.url) as client:
        assert server.url.startswith("http://[::1]:")
        assert client.get("/last-modified").status == 200
