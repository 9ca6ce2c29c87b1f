"""The rig for the whole picture itself: its edges mean what negotiate.py says, and pip and buildout get through it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cdn_fallback.mirror import negotiate
from tests.rig.buckets import mirror_env
from tests.rig.dists import wheel
from tests.rig.dns import Dns, Unavailable
from tests.rig.nginx import Got
from tests.rig.picture import EDGES, Picture
from tests.rig.pips import PipEnv
from tests.rig.s3_bucket import Object
from tests.rig.sample import SITE, A, B
from tests.rig.site import JSON

PIPS = f"{JSON}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Picture]:
    program = mirror_env(tmp_path_factory).folder / "bin" / "cdn-fallback"
    with Picture(tmp_path_factory.mktemp("picture"), SITE, (str(program),)) as made:
        yield made


@pytest.fixture
def picture(started: Picture) -> Picture:
    started.heal()
    started.cold()
    started.forget()
    return started


def ask(picture: Picture, edge: str, path: str, headers: Mapping[str, str], method: str = "GET") -> Got:
    """An edge, with these headers and Host alone."""
    context = ssl.create_default_context(cafile=str(picture.client.scene.ca))
    context.check_hostname = False
    place = (picture.addresses[edge], picture.port)
    with contextlib.closing(http.client.HTTPSConnection(*place, timeout=10, context=context)) as connection:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return Got(answer.status, answer.headers, answer.read())


PATHS = [
    "/simple/", "/simple", "/simple/demo-b/", "/simple/demo-b", "/simple/Demo_B/", "/simple/Demo..B",
    "/simple/demo%2Eb/", "/simple/absent/", "/simple/-demo/", "/simple/demo-b//", "/simple/demo-b/index.html",
    "/simple/Demo_B/index.html", "/simple/index.json", "/simple/index.json.gz", "/simple/demo-b/index.json.gz",
    "/simple/demo-b/other.html", "/pypi/demo-b/json", "/pypi/Demo.B/json", "/pypi/demo--b/json",
    "/pypi/demo-b/json.gz", "/pypi/Demo.B/json.gz", "/pypi/demo-b/", SITE.path(B.filename),
    f"{SITE.path(B.filename)}.metadata", "/packages/absent.whl", "/packages/", "/robots.txt", "/last-modified", "/",
    "/.cdn-fallback", "/%2ecdn-fallback", "/packages/../.cdn-fallback", "/packages//x", "/packages/%2f",
    "/packages/a%5Cb", "/packages/%zz", "/packages/%00", "/simple/%C3%A4/",
]  # fmt: skip
FORMS = [
    ("", None), (PIPS, None), ("text/html", None), (JSON, None), ("*/*", None), ("image/png", None),
    (f"{JSON};q=0, text/html;q=0.5", None), ("text/html;q=0", None), (PIPS, "text/html"), ("", JSON),
    ("image/png", "application/vnd.pypi.simple.latest%2Bjson"), (PIPS, "nonsense"), (PIPS, ""),
]  # fmt: skip
CODINGS = ["", "gzip, deflate", "gzip;q=0", "br, gzip; q=0.5", "*"]


def _meant(site: Mapping[str, Object], path: str, accept: str, form: str | None, coding: str) -> tuple[object, ...]:
    """What negotiate.py says: status, Location, body, Vary."""
    wanted = negotiate.representation(accept, form)
    meaning = negotiate.locate(path, wanted, negotiate.accepts_gzip(coding), query_format=form)
    if isinstance(meaning, negotiate.Redirect):
        return 301, meaning.location, b"", ""
    if isinstance(meaning, negotiate.NotAcceptable):
        return 406, "", b"", "Accept"
    for key in meaning.keys if isinstance(meaning, negotiate.Found) else ():
        if key in site:
            assert isinstance(meaning, negotiate.Found)
            return 200, "", site[key].body, meaning.vary
    return 404, "", b"", ""


def test_an_edge_means_what_negotiate_says(picture: Picture) -> None:
    site = picture.bucket.objects()
    asked = [(path, accept, form, "gzip") for path in PATHS for accept, form in FORMS]
    asked += [(path, PIPS, None, coding) for path in PATHS for coding in CODINGS]
    wrong = []
    for path, accept, form, coding in asked:
        given = {"Accept": accept, "Accept-Encoding": coding}
        query = "" if form is None else f"?x=1&format={form}"
        got = ask(picture, "edge1", path + query, {name: value for name, value in given.items() if value})
        said = (got.status, got.header("Location"), got.body if got.status == 200 else b"", got.header("Vary"))
        # what nginx will not pass on, it says itself
        said = (404, *said[1:]) if got.status == 400 and ("/.." in path or "%zz" in path or "%00" in path) else said
        if said != _meant(site, path, accept, form, coding):
            wrong.append((path, accept, form, coding, said))
    assert not wrong, wrong[:5]


def test_an_edge_sends_what_was_published_and_how_old_it_is(picture: Picture) -> None:
    page = ask(picture, "edge2", "/simple/demo-b/", {"Accept": PIPS, "Accept-Encoding": "gzip"})
    again = ask(picture, "edge2", "/simple/demo-b/index.json", {"Accept-Encoding": "gzip"})
    part = ask(picture, "edge2", SITE.path(B.filename), {"Range": "bytes=10-19"})
    post = ask(picture, "edge2", "/simple/", {}, "POST")

    assert page.header("Content-Type") == JSON and page.header("Content-Encoding") == "gzip"
    assert "s-maxage=600" in page.header("Cache-Control") and page.header("Age") == "0"
    assert (page.header("X-Cache"), again.header("X-Cache"), again.body) == ("miss", "hit", page.body)
    assert (part.status, part.body) == (206, B.content[10:20])
    assert (post.status, post.header("Allow")) == (405, "GET, HEAD")
    assert [one.path for one in picture.requests("bucket")] == ["/simple/demo-b/index.json.gz", SITE.path(B.filename)]


def test_an_edge_without_its_bucket_sends_what_is_stale_and_remembers_errors(picture: Picture) -> None:
    picture.warm(B)
    picture.expire()
    picture.forget()
    picture.kill("bucket", "blackhole")
    assert ask(picture, "edge1", "/simple/demo-b/", {}).status == 200
    picture.kill("bucket")
    assert ask(picture, "edge1", "/simple/demo-b/", {}).status == 200
    assert ask(picture, "edge1", SITE.path(B.filename), {}).body == B.content
    assert [one.cache for one in picture.requests("edge1")] == ["hit"] * 3

    assert ask(picture, "edge1", SITE.path(A.filename), {}).status == 503
    picture._forwarder.heal()  # and the edge does not look for ten seconds
    assert ask(picture, "edge1", SITE.path(A.filename), {}).status == 503
    picture.heal()
    assert ask(picture, "edge1", SITE.path(A.filename), {}).body == A.content


@pytest.mark.parametrize("how", ["refuse", "blackhole"])
def test_a_component_that_is_killed_is_gone_and_comes_back(picture: Picture, how: str) -> None:
    picture.kill("", "blackhole" if how == "blackhole" else "refuse")
    for name, address in picture.addresses.items():
        with pytest.raises(TimeoutError if how == "blackhole" else ConnectionRefusedError):
            socket.create_connection((address, picture.port), 0.05)
        assert picture.down[name] == how
    picture.heal()
    for address in picture.addresses.values():
        socket.create_connection((address, picture.port), 1).close()


def test_what_is_new_is_at_the_origin_until_the_mirror_is_run(picture: Picture, newest_pip: PipEnv) -> None:
    new = wheel(f"new-{picture.site.serial}")
    picture.release(new)
    done = picture.client.pip(newest_pip, "download", "--no-deps", new.project)
    assert done.code == 0 and set(picture.served("file")) == {"origin"}, done.output
    picture.publish()
    picture.cold()
    picture.forget()
    done = picture.client.pip(newest_pip, "download", "--no-deps", new.project)
    assert done.code == 0 and set(picture.served("file")) <= set(EDGES), done.output


def test_the_redirectors_lead_to_the_origin_while_the_cdn_is_declared_down(
    picture: Picture, newest_pip: PipEnv
) -> None:
    picture.cdn_down()
    try:
        done = picture.client.pip(newest_pip, "download", "--no-deps", "demo-b")
        assert done.code == 0 and set(picture.served("page", "file")) == {"origin"}, done.output
        assert {one.status for one in picture.requests("redirector")} == {302}
    finally:
        picture.cdn_down(False)


def test_a_client_may_have_its_names_late_and_from_a_real_resolver(picture: Picture, newest_pip: PipEnv) -> None:
    try:
        with picture.late(0.3) as client:
            done = client.pip(newest_pip, "download", "--no-deps", "demo-b")
    except Unavailable as why:
        pytest.skip(str(why))
    assert done.code == 0 and set(picture.served("file")) <= set(EDGES), done.output
    assert done.seconds > 0.6, "two names, one after the other"


def test_a_client_may_have_its_names_late_without_privileges(picture: Picture, newest_pip: PipEnv) -> None:
    done = picture.late_in_python(0.3).pip(newest_pip, "download", "--no-deps", "demo-b")
    assert done.code == 0 and done.seconds > 0.6, done.output


def test_a_machine_without_namespaces_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dns, "prefix", ("sh", "-c", "echo unshare failed: not permitted >&2; exit 1"))
    with pytest.raises(Unavailable, match="not permitted; allow user namespaces"), Dns(tmp_path, "127.0.0.1", {}):
        pass
