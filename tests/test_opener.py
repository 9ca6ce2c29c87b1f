"""The engine under urllib, against servers on loopback: what urllib's users see, and what the servers do."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.config import load
from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.exchange import Kind
from cdn_fallback.health import Health
from cdn_fallback.opener import _Redirects, any_flavour, build, expecting, unverified, url_error
from cdn_fallback.transport import Transport
from tests.rig.faults import Body, Redirect, Refuse, Status, Truncate
from tests.rig.sample import FILE, PAGE, SITE, B
from tests.rig.server import Server

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without this machine's proxies and netrc."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").touch()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A CDN that is asked second, after the index itself, which is the origin."""
    with ExitStack() as stack:
        index, cdn = (stack.enter_context(Server(SITE, f"127.0.10.{i}", 0)) for i in (1, 2))
        yield index, cdn


@pytest.fixture
def opener(servers: tuple[Server, Server]) -> urllib.request.OpenerDirector:
    index, cdn = servers
    return made({"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url})


def made(environ: dict[str, str]) -> urllib.request.OpenerDirector:
    transport = Transport(any_flavour(), load(environ, files=[]), Health(), wrap=url_error, sleep=lambda seconds: None)
    return build(lambda: transport)


def page(opener: urllib.request.OpenerDirector, url: str | urllib.request.Request) -> Any:
    with expecting(Kind.PAGE):
        return opener.open(url)


def test_a_page_and_a_file_from_the_fallback_under_the_canonical_url(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server]
) -> None:
    index, cdn = servers
    index.fault(Status(503))

    listed = page(opener, index.url + PAGE[1:])
    with opener.open(f"{index.url}{FILE[1:]}#sha256={B.sha256}") as file:
        head, rest = file.read(10), file.read()
        assert file.read() == b""

    assert b"demo_b-1.0" in listed.read()
    assert (listed.url, listed.status, listed.code, listed.msg) == (index.url + PAGE[1:], 200, 200, "OK")
    assert listed.headers.get_content_type() == listed.info().get_content_type() == "text/html"
    assert listed.getheader("content-type") == "text/html" and ("Content-Type", "text/html") in listed.getheaders()
    assert hashlib.sha256(head + rest).hexdigest() == B.sha256
    assert file.url == f"{index.url}{FILE[1:]}#sha256={B.sha256}", "as urllib has it"
    assert int(file.headers["Content-Length"]) == len(B.content)
    assert [request.path for request in cdn.requests] == [PAGE, FILE]
    assert all(request.header("Accept-Encoding") == "identity" for request in cdn.requests)


def test_a_file_goes_on_elsewhere_and_can_be_read_by_lines(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server]
) -> None:
    index, cdn = servers
    page(opener, index.url + PAGE[1:])
    index.fault(Truncate(0.5), on="file")

    with opener.open(index.url + FILE[1:]) as file:
        lines = list(file)

    assert b"".join(lines) == B.content and all(line.endswith(b"\n") for line in lines[:-1])
    assert [request.status for request in cdn.requests] == [206]


@pytest.mark.parametrize(("path", "wanted"), [("/book.txt", True), (FILE, False)])
def test_a_file_may_be_html_where_its_name_is_no_distributions(
    path: str, wanted: bool, servers: tuple[Server, Server]
) -> None:
    """The hash decides in the end; but a login page instead of a wheel is known at once."""
    index, _ = servers
    html = b"<p>no wheel</p>"
    index.fault(Body(html, (("Content-Type", "text/html"),)), on=path)
    transport = Transport(any_flavour(), load({}, files=[]), Health(), wrap=url_error, sleep=lambda seconds: None)
    opener, url = build(lambda: transport), index.url + path[1:]
    hashes = {"sha256": hashlib.sha256(html).hexdigest()}

    if wanted:
        assert transport.fetched(url, hashes, lambda: opener.open(url).read()) == html
        other = Body(b"<p>another</p>", (("Content-Type", "text/html"),))
        index.heal()
        index.fault(other, on=path)
        assert opener.open(url).read() == b"<p>another</p>", "nobody says any more what it must be"
    else:
        with pytest.raises(urllib.error.URLError, match="an HTML page instead of a file"):
            transport.fetched(url, hashes, lambda: opener.open(url).read())


def test_a_page_that_nobody_asked_to_encode_is_decoded(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server]
) -> None:
    """A static store has one form of each object."""
    index, _ = servers
    html = page(opener, index.url + PAGE[1:]).read()
    packed = gzip.compress(html, mtime=0)
    index.fault(Body(packed, (("Content-Encoding", "gzip"),)), on="page")

    again = page(opener, index.url + PAGE[1:])

    assert again.read() == html
    assert again.headers["Content-Encoding"] is None and again.headers["Content-Length"] == str(len(html))


def test_the_origins_refusal_is_an_http_error(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server]
) -> None:
    index, _ = servers

    with pytest.raises(urllib.error.HTTPError) as caught:
        page(opener, f"{index.url}simple/absent/")

    assert (caught.value.code, caught.value.read()) == (404, b"no such object\n")
    assert caught.value.headers["Content-Type"] == "text/plain"


def test_nobody_left_is_a_url_error_with_every_attempt(servers: tuple[Server, Server]) -> None:
    index, cdn = servers
    index.fault(Status(403))
    cdn.fault(Refuse())

    with pytest.raises(urllib.error.HTTPError, match="403"):
        made({}).open(index.url)
    with pytest.raises(urllib.error.URLError) as caught:
        made({}).open(cdn.url)

    assert isinstance(caught.value.reason, AllEndpointsFailed)
    assert "Connection refused" in str(caught.value)


def test_what_cannot_be_repeated_is_left_to_urllib(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server]
) -> None:
    index, cdn = servers

    with pytest.raises(urllib.error.HTTPError, match="405"):
        opener.open(index.url, data=b"x=1")

    assert [(r.method, r.header("Accept-Encoding")) for r in index.requests] == [("POST", "identity")]
    assert not cdn.requests


def test_credentials_of_the_url_and_of_netrc_go_to_the_index_alone(
    opener: urllib.request.OpenerDirector, servers: tuple[Server, Server], tmp_path: Path
) -> None:
    index, cdn = servers
    index.fault(Status(503))

    page(opener, index.url.replace("//", "//me:se%20cret@") + PAGE[1:])
    (tmp_path / "netrc").write_text(f"machine {index.address} login me password from-netrc\n")
    page(opener, index.url + PAGE[1:])
    page(opener, urllib.request.Request(index.url + PAGE[1:], headers={"Authorization": "Bearer own"}))

    given = [base64.b64encode(pair).decode() for pair in (b"me:se cret", b"me:from-netrc")]
    sent = [request.header("Authorization") for request in index.requests]
    assert set(sent) == {f"Basic {given[0]}", f"Basic {given[1]}", "Bearer own"}
    assert [request.header("Authorization") for request in cdn.requests] == [None] * 3


def test_a_proxy_of_the_environment_is_used(servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    index, proxy = servers
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//who:pw@"))

    with pytest.raises(urllib.error.HTTPError, match="404"):  # the rig's server is no proxy
        made({}).open(index.url + FILE[1:])

    assert not index.requests
    asked = proxy.requests[0]
    assert asked.path == index.url + FILE[1:]
    assert asked.header("Proxy-Authorization") == "Basic " + base64.b64encode(b"who:pw").decode()
    monkeypatch.setenv("no_proxy", index.address)
    assert made({}).open(index.url + FILE[1:]).read() == B.content


def test_a_redirect_to_another_host_takes_no_credentials_along(servers: tuple[Server, Server]) -> None:
    """urllib's own does."""
    index, other = servers
    index.fault(Redirect(f"{other.url}{FILE[1:]}"), times=1)
    private = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Harmless": "yes"}

    with made({}).open(urllib.request.Request(index.url + FILE[1:], headers=private)) as file:
        assert file.read() == B.content

    assert file.url == other.url + FILE[1:]
    assert index.requests[0].header("Authorization") == "Bearer x"
    (led,) = other.requests
    assert (led.header("Authorization"), led.header("Cookie"), led.header("X-Harmless")) == (None, None, "yes")


@pytest.mark.parametrize("target", ["http://pypi.python.org/", "ftp://pypi.python.org/"])
def test_a_redirect_never_leaves_https(target: str) -> None:
    request = urllib.request.Request("https://pypi.python.org/simple/")

    with pytest.raises(urllib.error.HTTPError, match="refused"):
        _Redirects().redirect_request(request, None, 302, "Found", Message(), target)


def test_the_handlers_of_an_opener_that_was_there_stay(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stamp(urllib.request.BaseHandler):
        def http_request(self, req: urllib.request.Request) -> urllib.request.Request:
            req.add_header("X-Stamp", "yes")
            return req

    index, cdn = servers
    theirs = urllib.request.build_opener(Stamp())
    theirs.addheaders = [("User-Agent", "theirs/1")]
    monkeypatch.setattr(urllib.request, "_opener", theirs)
    index.fault(Refuse())

    page(made({"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url}), index.url + PAGE[1:])

    assert [(r.header("X-Stamp"), r.header("User-Agent")) for r in cdn.requests] == [("yes", "theirs/1")]
    assert all(handler.parent is theirs for handler in vars(theirs)["handlers"])


def test_verification_can_be_switched_off_as_for_all_of_urllib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not unverified()
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    assert unverified()


def test_the_copy_that_pip_carries_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip._vendor.requests")
    monkeypatch.setitem(sys.modules, "requests", None)

    flavour = any_flavour.__wrapped__()

    assert flavour.requests.__name__ == "pip._vendor.requests"
    assert issubclass(flavour.adapter, importlib.import_module("pip._vendor.requests.adapters").HTTPAdapter)
