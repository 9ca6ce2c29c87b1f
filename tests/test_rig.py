"""The rig itself: sites, a healthy server and its rules."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rig.client import get
from tests.rig.dists import sdist, wheel
from tests.rig.faults import (
    NoRange,
    Refuse,
    Status,
    TLSHang,
    Truncate,
)
from tests.rig.messages import Request
from tests.rig.sample import FILE, PAGE, SITE, A, B, S
from tests.rig.server import Server, Serving
from tests.rig.site import HTML, JSON, PLAIN_HTML, Mounted, Redirector, Site

HOST = "127.0.1.1"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SITE, HOST, 0) as running:
        yield running


# --- distributions and sites ---


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert wheel("x", padding=50).content == wheel("x", padding=50).content
    assert sdist("x").content == sdist("x").content
    assert wheel("x", "2", padding=50).content != wheel("x", padding=50).content


def test_a_wheel_is_whole_and_knows_what_it_installs(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(B.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    assert (B.project, B.version, B.requires_python) == ("demo-b", "1.0", ">=3.8")
    assert sum(map(len, B.payload().values())) > 100_000
    assert B.installed_in(tmp_path)
    (tmp_path / "demo_b" / "__init__.py").write_text("other")
    assert not B.installed_in(tmp_path)


def test_an_sdist_knows_what_it_installs() -> None:
    assert (S.project, S.version) == ("demo-s", "1.0")
    assert list(S.payload()) == ["demo_s/__init__.py"]


def page(site: Site, path: str, accept: str) -> tuple[str | None, str]:
    answer = site.answer(Request("GET", path, (("Accept", accept),)))
    return answer.header("Content-Type"), answer.body.decode()


def test_pages_come_in_the_type_that_was_asked_for() -> None:
    pip = f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"
    assert page(SITE, PAGE, pip)[0] == JSON
    assert page(SITE, PAGE, f"{HTML}, {JSON};q=0.2")[0] == HTML
    assert page(SITE, PAGE, "*/*")[0] == PLAIN_HTML
    assert page(replace(SITE, types=(PLAIN_HTML,)), PAGE, pip)[0] == PLAIN_HTML


def test_json_and_html_say_all_that_installers_use() -> None:
    detail = json.loads(page(replace(SITE, serial=7), PAGE, JSON)[1])
    (entry,) = detail["files"]
    assert detail["meta"] == {"api-version": "1.1", "_last-serial": 7}
    assert entry["url"] == f"../..{FILE}"
    assert entry["hashes"] == {"sha256": hashlib.sha256(B.content).hexdigest()}
    assert entry["core-metadata"] == {"sha256": hashlib.sha256(B.metadata).hexdigest()}
    assert (entry["size"], entry["requires-python"]) == (len(B.content), ">=3.8")
    text = page(replace(SITE, serial=7), PAGE, HTML)[1]
    assert f'href="../..{FILE}#sha256={B.sha256}"' in text
    assert 'data-requires-python="&gt;=3.8"' in text
    assert text.rstrip().endswith("<!--SERIAL 7-->")


def test_links_can_be_absolute_and_a_file_without_hash() -> None:
    site = Site.of(A, replace(B, hashed=False), base="https://files.example/")
    (entry,) = json.loads(page(site, PAGE, JSON)[1])["files"]
    assert (entry["url"], entry["hashes"]) == (f"https://files.example{FILE}", {})
    assert f'href="https://files.example{FILE}"' in page(site, PAGE, HTML)[1]


def test_a_site_can_be_read_from_a_folder(tmp_path: Path) -> None:
    for dist in SITE.dists:
        (tmp_path / dist.filename).write_bytes(dist.content)
    (tmp_path / "notes.txt").write_text("no distribution")
    site = Site.read(tmp_path)
    assert site.projects == SITE.projects == ("demo-a", "demo-b", "demo-s")
    assert {dist.filename: dist for dist in site.dists} == {dist.filename: dist for dist in SITE.dists}


# --- a healthy server ---


def test_what_is_there_and_what_is_not(server: Server) -> None:
    assert get(server, FILE).body == B.content
    assert get(server, f"{FILE}.metadata").body == B.metadata
    assert json.loads(get(server, "/simple/", Accept=JSON).body)["projects"][0] == {"name": "demo-a"}
    assert get(server, "/simple/demo-b").header("Location") == PAGE
    assert get(server, "/simple/nothing/").status == 404
    assert get(server, PAGE, "POST").status == 405


def test_requests_and_connections_are_recorded(server: Server) -> None:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=2)
    for path in (PAGE, FILE, "/nothing"):
        connection.request("GET", path, headers={"X-Mine": path})
        connection.getresponse().read()
    connection.close()
    seen = [(request.method, request.path, request.status, request.kind) for request in server.requests]
    assert seen == [("GET", PAGE, 200, "page"), ("GET", FILE, 200, "file"), ("GET", "/nothing", 404, "other")]
    assert server.requests[0].header("x-mine") == PAGE
    assert server.requests[0].at <= server.requests[1].at <= time.monotonic()
    assert server.connections == 1
    server.forget()
    assert (server.requests, server.connections) == ((), 0)


def test_watch_sees_each_request() -> None:
    seen: list[str] = []
    with Server(SITE, HOST, 0, watch=lambda request: seen.append(request.path)) as server:
        get(server, PAGE)
    assert seen == [PAGE]


def test_head_has_the_length_but_no_body(server: Server) -> None:
    got = get(server, FILE, "HEAD")
    assert (got.status, got.body, got.header("Content-Length")) == (200, b"", str(len(B.content)))


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-99999999", 5, None)],
)
def test_ranges(server: Server, wanted: str, start: int, stop: int | None) -> None:
    got = get(server, FILE, Range=wanted)
    part, size = B.content[start:stop], len(B.content)
    first = start % size
    assert (got.status, got.body) == (206, part)
    assert got.header("Content-Range") == f"bytes {first}-{first + len(part) - 1}/{size}"


def test_a_range_behind_the_end_is_416(server: Server) -> None:
    got = get(server, FILE, Range="bytes=99999999-")
    assert (got.status, got.header("Content-Range")) == (416, f"bytes */{len(B.content)}")


def test_if_range_gives_the_whole_file_when_it_changed(server: Server) -> None:
    etag = get(server, FILE).header("ETag") or ""
    assert get(server, FILE, Range="bytes=5-", If_Range=etag).status == 206
    assert get(server, FILE, Range="bytes=5-", If_Range='"other"').status == 200


def test_validators_give_304(server: Server) -> None:
    got = get(server, PAGE)
    same = get(server, PAGE, If_None_Match=got.header("ETag") or "")
    assert (same.status, same.body, same.header("Content-Type")) == (304, b"", None)
    assert same.header("Cache-Control") == got.header("Cache-Control") == "max-age=600, public"
    assert get(server, PAGE, If_Modified_Since=got.header("Last-Modified") or "").status == 304
    assert get(server, PAGE, If_None_Match='"other"').status == 200
    assert got.header("Date")


def test_gzip_pages_and_closed_connections_on_request() -> None:
    serving = Serving(gzip=True, keep_alive=False, cache_control=None, date=False)
    with Server(SITE, HOST, 0, serving=serving) as server:
        got = get(server, PAGE, Accept_Encoding="gzip")
        plain = get(server, PAGE)
        assert get(server, FILE, Accept_Encoding="gzip").body == B.content
    assert (got.header("Content-Encoding"), got.header("Connection")) == ("gzip", "close")
    assert got.header("ETag") != plain.header("ETag")
    assert not got.header("Cache-Control") and not got.header("Date")


def test_redirector_and_mounted_site() -> None:
    with Server(Redirector("https://cdn.example/static/"), HOST, 0) as server:
        got = get(server, PAGE)
    assert (got.status, got.header("Location")) == (302, f"https://cdn.example/static{PAGE}")
    assert got.header("Cache-Control") == "public, max-age=300"
    with Server(Mounted(SITE, "/static"), HOST, 0) as server:
        assert get(server, f"/static{FILE}").body == B.content
        assert get(server, FILE).status == 404


# --- rules ---


def test_a_fault_ends_after_its_times_and_starts_after_some_healthy_ones(server: Server) -> None:
    server.fault(Status(503), times=2, after=1)
    assert [get(server, PAGE).status for _ in range(4)] == [200, 503, 503, 200]
    assert [request.fault for request in server.requests] == ["", "Status", "Status", ""]


def test_a_fault_is_for_a_kind_a_path_or_a_predicate(server: Server) -> None:
    server.fault(Status(501), on="metadata")
    server.fault(Status(502), on="page")
    server.fault(Status(503), on=lambda path: path.endswith(".whl"))
    server.fault(Status(504), on="/robots.txt")
    statuses = [get(server, path).status for path in (f"{FILE}.metadata", PAGE, FILE, "/robots.txt?x", "/x")]
    assert statuses == [501, 502, 503, 504, 404]
    server.heal()
    assert get(server, PAGE).status == 200


def test_faults_combine_and_the_first_rule_wins(server: Server) -> None:
    server.fault(NoRange(), Truncate(0.5), on="file", times=1)
    server.fault(Status(503), on="file")
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(server, FILE, Range="bytes=5-")
    assert cut.value.partial == B.content[: len(B.content) // 2]
    assert get(server, FILE).status == 503
    assert server.requests[0].fault == "NoRange+Truncate"


def test_a_fault_that_could_not_happen_is_an_error(server: Server) -> None:
    with pytest.raises(ValueError, match="need a server with TLS"):
        server.fault(TLSHang())
    with pytest.raises(ValueError, match="stands alone"):
        server.fault(Refuse(), times=1)
    with pytest.raises(ValueError, match="cannot happen to a connection"):
        server.fault(Status(503), on="connection")
    with pytest.raises(ValueError, match="neither a kind nor a path"):
        server.fault(Status(503), on="pages")
