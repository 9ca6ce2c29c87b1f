"""The engine without pip: an adapter mounted on a session of requests, against servers on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from cdn_fallback.adapter import FallbackAdapter
from cdn_fallback.config import load
from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.health import Health
from tests.rig.faults import Body, Corrupt, Redirect, Refuse, Status, Truncate
from tests.rig.sample import FILE, PAGE, SITE, B
from tests.rig.server import Server
from tests.rig.site import Keys

ACCEPT = {"Accept": "application/vnd.pypi.simple.v1+json"}


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A CDN that is asked second, after the index itself, which is the origin."""
    with ExitStack() as stack:
        index, cdn = (stack.enter_context(Server(SITE, f"127.0.9.{i}", 0)) for i in (1, 2))
        yield index, cdn


@pytest.fixture
def session(servers: tuple[Server, Server]) -> Iterator[requests.Session]:
    index, cdn = servers
    config = load({"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url}, files=[])
    with requests.Session() as made:
        made.trust_env = False
        made.mount("http://", FallbackAdapter(config, Health()))
        yield made


def test_a_page_and_a_file_from_the_fallback_under_the_canonical_url(
    session: requests.Session, servers: tuple[Server, Server]
) -> None:
    index, cdn = servers
    page = session.get(index.url + PAGE[1:], headers=ACCEPT)
    index.fault(Refuse())

    again = session.get(index.url + PAGE[1:], headers=ACCEPT)
    file = session.get(index.url + FILE[1:])

    assert page.json() == again.json()
    assert again.url == index.url + PAGE[1:] and file.url == index.url + FILE[1:]
    assert hashlib.sha256(file.content).hexdigest() == B.sha256
    assert [request.path for request in cdn.requests] == [PAGE, FILE]


def test_a_streamed_file_goes_on_elsewhere(session: requests.Session, servers: tuple[Server, Server]) -> None:
    index, cdn = servers
    session.get(index.url + PAGE[1:], headers=ACCEPT)
    index.fault(Truncate(0.3), on="file")

    with session.get(index.url + FILE[1:], stream=True) as response:
        body = b"".join(response.iter_content(1000))

    assert body == B.content
    assert [request.status for request in cdn.requests] == [206]


def test_who_breaks_every_file_is_demoted(session: requests.Session, servers: tuple[Server, Server]) -> None:
    """Though each begins well: "answered 200" is no answer yet."""
    index, cdn = servers
    session.get(index.url + PAGE[1:], headers=ACCEPT)
    index.fault(Truncate(0.3), on="file")
    for _ in range(4):
        with session.get(index.url + FILE[1:], stream=True) as response:
            assert b"".join(response.iter_content(1000)) == B.content

    assert [request.status for request in index.requests if request.kind == "file"] == [200] * 3
    assert [request.status for request in cdn.requests] == [206] * 3 + [200]


def test_a_whole_file_with_a_wrong_hash_is_fetched_elsewhere(
    session: requests.Session, servers: tuple[Server, Server]
) -> None:
    index, _ = servers
    session.get(index.url + PAGE[1:], headers=ACCEPT)
    index.fault(Corrupt(), on="file")

    assert session.get(index.url + FILE[1:]).content == B.content


def test_a_streamed_file_with_a_wrong_hash_raises_at_its_end(
    session: requests.Session, servers: tuple[Server, Server]
) -> None:
    index, _ = servers
    session.get(index.url + PAGE[1:], headers=ACCEPT)
    index.fault(Corrupt(), on="file")

    with (
        session.get(index.url + FILE[1:], stream=True) as response,
        pytest.raises(requests.exceptions.ChunkedEncodingError, match="HashMismatch"),
    ):
        list(response.iter_content(1000))


def test_the_last_error_is_requests_own_and_holds_every_attempt(
    session: requests.Session, servers: tuple[Server, Server]
) -> None:
    for server in servers:
        server.fault(Status(503))

    with pytest.raises(requests.exceptions.ConnectionError) as caught:
        session.get(servers[0].url + PAGE[1:], headers=ACCEPT)

    error = caught.value.args[0]
    assert isinstance(error, AllEndpointsFailed)
    assert [attempt.status for attempt in error.attempts] == [503, 503]
    assert all(server.url in str(caught.value) for server in servers)


def test_only_get_and_head_are_ever_repeated(session: requests.Session, servers: tuple[Server, Server]) -> None:
    index, cdn = servers
    index.fault(Status(503))

    assert session.post(index.url + PAGE[1:], data=b"x").status_code == 503
    assert session.put(index.url + PAGE[1:], data=b"x").status_code == 503
    assert session.head(index.url + PAGE[1:]).status_code == 200
    assert [(len(index.requests), len(cdn.requests))] == [(3, 1)]


@pytest.mark.parametrize("path", ["%2e%2e/simple/", "simple/%2E%2e/x", "simple/..%2f"])
def test_a_path_that_climbs_is_the_servers_to_understand(
    session: requests.Session, servers: tuple[Server, Server], path: str
) -> None:
    """requests decodes the dots: no prefix of such a path tells to which pool it belongs. It was a ValueError."""
    index, cdn = servers

    assert session.get(index.url + path).status_code == 404
    assert (len(index.requests), len(cdn.requests)) == (1, 0)


def test_switched_off_it_is_requests_own_adapter(servers: tuple[Server, Server], tmp_path: Path) -> None:
    index, cdn = servers
    index.fault(Status(503))
    config = load({"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url, "CDN_FALLBACK_DISABLE": "1"})
    with requests.Session() as session:
        session.mount("http://", FallbackAdapter(config, Health(tmp_path / "health.json")))

        assert session.get(index.url + PAGE[1:]).status_code == 503
    assert not cdn.requests and not (tmp_path / "health.json").exists()


def test_a_gatekeeper_is_asked_for_everything(servers: tuple[Server, Server]) -> None:
    """What it said about one project says nothing about another."""
    index, cdn = servers
    index.fault(Status(403), on=FILE)
    index.fault(Redirect(cdn.url.rstrip("/") + "{path}", headers=(("Cache-Control", "max-age=300"),)))
    config = load(
        {"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url, "CDN_FALLBACK_GATEKEEPERS": index.url}, files=[]
    )
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", FallbackAdapter(config, Health()))

        assert session.get(index.url + PAGE[1:], headers=ACCEPT).status_code == 200
        assert session.get(index.url + FILE[1:]).status_code == 403
    assert [request.path for request in cdn.requests] == [PAGE]


def test_a_page_in_which_nothing_will_do_is_asked_for_at_the_origin_from_then_on(tmp_path: Path) -> None:
    """Once told so, and only of what a copy of a declared pool gave."""
    with Server(SITE, "127.0.9.1", 0) as origin, Server(SITE, "127.0.9.2", 0) as cdn, requests.Session() as session:
        pool = {"CDN_FALLBACK_INDEX": cdn.url, "CDN_FALLBACK_CDN": cdn.url, "CDN_FALLBACK_ORIGIN": origin.url}
        adapter = FallbackAdapter(load(pool, files=[]), Health())
        session.trust_env = False
        session.mount("http://", adapter)
        transport, url = adapter.transport, cdn.url + PAGE[1:]

        assert not transport.doubt("demo-b")  # nobody has told anything yet
        session.get(url, headers=ACCEPT).raise_for_status()
        assert not transport.doubt("demo-a") and transport.doubt("Demo.B") == {url}
        assert not origin.requests

        session.get(url, headers=ACCEPT).raise_for_status()
        session.get(cdn.url + "simple/demo-a/", headers=ACCEPT).raise_for_status()
        assert [request.path for request in origin.requests] == [PAGE]
        assert not transport.doubt("demo-b")  # it was the origin's word

        origin.fault(Status(503))
        session.get(url, headers=ACCEPT).raise_for_status()
        assert [request.path for request in cdn.requests] == [PAGE, "/simple/demo-a/", PAGE]


def test_who_leads_pages_to_keys_is_asked_for_each_page() -> None:
    """And not for files: those are where it once said. The CDN is a bucket, to which a folder means nothing."""
    said = (("Cache-Control", "max-age=300"),)
    with (
        Server(SITE, "127.0.9.1", 0) as index,
        Server(Keys(SITE), "127.0.9.2", 0) as cdn,
        requests.Session() as session,
    ):
        base = cdn.url.rstrip("/")
        index.fault(Redirect(base + "{path}", headers=said), on=FILE)
        index.fault(Redirect(base + "{path}index.json", headers=said), on=PAGE)
        pool = {"CDN_FALLBACK_INDEX": index.url, "CDN_FALLBACK_CDN": cdn.url}
        config = load(pool | {"CDN_FALLBACK_ORIGIN": "http://127.0.9.3:9/"}, files=[])
        session.trust_env = False
        session.mount("http://", FallbackAdapter(config, Health()))
        for _ in range(2):
            session.get(index.url + PAGE[1:], headers=ACCEPT).raise_for_status()
            session.get(index.url + FILE[1:]).raise_for_status()
        key = f"{PAGE}index.json"
        assert [request.path for request in cdn.requests] == [key, FILE, key, FILE]
        assert [request.path for request in index.requests] == [PAGE, FILE, PAGE]


@pytest.mark.parametrize("path", ["/api/", "/api/job"])
@pytest.mark.parametrize("stream", [False, True])
def test_other_successes_of_other_hosts_are_the_programs_business(path: str, stream: bool) -> None:
    with Server(SITE, "127.0.9.1", 0) as server, requests.Session() as session:
        server.fault(Status(202))
        session.trust_env = False
        session.mount("http://", FallbackAdapter(load({}, files=[]), Health()))

        assert session.get(server.url + path[1:], stream=stream).status_code == 202


def test_redirects_are_counted_until_somewhere_is_arrived() -> None:
    """A program that is sent to and fro for weeks is in no loop."""
    with Server(SITE, "127.0.9.1", 0) as server, requests.Session() as session:
        session.trust_env = False
        session.mount("http://", FallbackAdapter(load({}, files=[]), Health()))
        for number in range(30):
            start, end = ("/a", "/b") if number % 2 else ("/b", "/a")
            server.heal()
            server.fault(Redirect(end), on=start)
            server.fault(Status(203), on=end)
            assert session.get(server.url + start[1:]).status_code == 203


def test_a_page_may_not_be_old_but_a_redirect_may(
    servers: tuple[Server, Server], caplog: pytest.LogCaptureFixture
) -> None:
    """The CDN's page is refused, though a cache may have redirects for weeks."""
    index, cdn = servers
    old = (("Age", str(25 * 3600)),)
    index.fault(Redirect(cdn.url.rstrip("/") + "{path}", headers=old))
    pool = {"INDEX": index.url, "CDN": cdn.url, "ORIGIN": "http://127.0.9.3:1/"}
    config = load({f"CDN_FALLBACK_{key}": url for key, url in pool.items()}, files=[])
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", FallbackAdapter(config, Health()))

        assert session.get(index.url + PAGE[1:], headers=ACCEPT).status_code == 200
        assert [request.status for request in index.requests] == [302]
        assert [request.status for request in cdn.requests] == [200]
        assert not caplog.records, "nothing failed"

        page = SITE.answer(cdn.requests[-1])
        cdn.fault(Body(page.body, (*page.headers, *old)), on=PAGE)
        with pytest.raises(requests.ConnectionError, match="25 hours old"):
            session.get(index.url + PAGE[1:], headers=ACCEPT)
