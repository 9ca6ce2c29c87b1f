"""Headers on their way to an endpoint and back: what belongs to whom."""

from __future__ import annotations

import base64

import pytest
from urllib3 import HTTPHeaderDict

from cdn_fallback.headers import MAX_AGE, conditional, incoming, mark, max_age, outgoing, owner, unmark
from cdn_fallback.pool import Endpoint, Role

ORIGIN = Endpoint("https://index.example/", Role.ORIGIN)
CDN = Endpoint("https://cdn.example/", Role.CDN)
OTHER = Endpoint("https://other.example/", Role.MIRROR)
PRIVATE = Endpoint("https://private.example/", Role.MIRROR, credentials=("us:er", "pä:ss"))


def sent(headers: dict[str, str], endpoint: Endpoint, *, same_site: bool = False, page: bool = True) -> dict[str, str]:
    """What `endpoint` sees of the tool's `headers`."""
    return dict(
        outgoing(HTTPHeaderDict(headers), endpoint, same_site=same_site, is_index=endpoint is ORIGIN, page=page)
    )


def received(headers: dict[str, str], endpoint: Endpoint, *, cap_age: bool = True, now: float = 0.0) -> dict[str, str]:
    """What the tool sees of an endpoint's `headers`."""
    is_index = endpoint is ORIGIN
    kept = HTTPHeaderDict(headers)
    return dict(incoming(kept, endpoint, same_site=is_index, is_index=is_index, cap_age=cap_age, now=now))


# -- Credentials


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Cookie", "Proxy-Authorization", "Host"])
def test_what_is_private_goes_to_the_asked_host_alone(name: str) -> None:
    assert sent({name: "secret", "Accept": "x"}, CDN) == {"Accept": "x"}
    assert sent({name: "secret"}, ORIGIN, same_site=True) == {name: "secret"}


def test_an_endpoints_credentials_replace_the_tools() -> None:
    basic = sent({"Authorization": "Bearer index"}, PRIVATE)["Authorization"]
    assert base64.b64decode(basic.removeprefix("Basic ")).decode() == "us:er:pä:ss"
    assert sent({"Authorization": "Bearer index"}, PRIVATE, same_site=True) == {"Authorization": "Bearer index"}


def test_cookies_come_from_the_asked_host_alone() -> None:
    assert received({"Set-Cookie": "a=b", "set-cookie2": "c"}, CDN) == {"set-cookie2": "c"}
    assert received({"Set-Cookie": "a=b"}, ORIGIN) == {"Set-Cookie": "a=b"}


# -- Validators


@pytest.mark.parametrize("tag", ['"abc"', 'W/"abc"', '""', '"a"b"', '"cdnfb.odd"', '"ü"'])
def test_an_etag_finds_its_way_back_to_its_owner_alone(tag: str) -> None:
    known = received({"ETag": tag}, CDN)["ETag"]
    assert known != tag
    assert unmark(known) == (owner(CDN), tag)
    for name in ("If-None-Match", "If-Range"):
        assert sent({name: known}, CDN) == {name: tag}
        assert sent({name: known}, OTHER) == sent({name: known}, ORIGIN) == {}


@pytest.mark.parametrize("name", ["If-None-Match", "If-Range"])
def test_the_indexs_own_etag_goes_to_the_index_alone(name: str) -> None:
    assert received({"ETag": '"abc"'}, ORIGIN) == {"ETag": '"abc"'}
    assert sent({name: '"abc"'}, ORIGIN) == {name: '"abc"'}
    assert sent({name: '"abc"'}, CDN) == {}


def test_a_tag_marked_twice_is_unmarked_once() -> None:
    """A copy of an index that itself sits behind us."""
    twice = mark(mark('"abc"', OTHER), CDN)
    assert unmark(twice) == (owner(CDN), mark('"abc"', OTHER))


@pytest.mark.parametrize("tag", ["", "abc", '"abc', "w/'abc'", "*"])
def test_what_is_no_etag_is_left_out(tag: str) -> None:
    assert received({"ETag": tag, "Last-Modified": "x"}, CDN) == {}


def test_a_date_stays_only_beside_a_tag_that_tells_its_owner() -> None:
    known = received({"ETag": '"abc"', "Last-Modified": "x"}, CDN)
    assert known["Last-Modified"] == "x"
    request = {"If-None-Match": known["ETag"], "If-Modified-Since": "x"}
    assert sent(request, CDN) == {"If-None-Match": '"abc"', "If-Modified-Since": "x"}
    assert sent(request, OTHER) == sent(request, ORIGIN) == {}


def test_a_date_alone_is_the_indexs() -> None:
    assert sent({"If-Modified-Since": "x"}, ORIGIN) == {"If-Modified-Since": "x"}
    assert sent({"If-Modified-Since": "x"}, CDN) == {}


def test_a_range_that_hangs_on_a_validator_goes_with_it() -> None:
    """Without it, half of one file would be continued with half of another."""
    request = {"Range": "bytes=5-", "If-Range": '"abc"'}
    assert sent(request, ORIGIN) == request
    assert sent(request, CDN) == {}
    assert sent({"Range": "bytes=5-"}, CDN) == {"Range": "bytes=5-"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({}, False), ({"Range": "x"}, False), ({"if-none-match": "x"}, True), ({"If-Modified-Since": "x"}, True)],
)
def test_whether_a_304_would_be_an_answer(headers: dict[str, str], expected: bool) -> None:
    assert conditional(HTTPHeaderDict(headers)) is expected


# -- Freshness


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("max-age=31536000", f"max-age={MAX_AGE}"),
        ("public, Max-Age = 31536000, immutable", f"public, Max-Age={MAX_AGE}, immutable"),
        ('s-maxage="99999", max-age=5', f"s-maxage={MAX_AGE}, max-age=5"),
        ("stale-while-revalidate=86400", f"stale-while-revalidate={MAX_AGE}"),
        ("max-age=600", "max-age=600"),
        ("max-age=" + "9" * 5000, f"max-age={MAX_AGE}"),
        ("no-cache, max-age=0", "no-cache, max-age=0"),
        ("max-age=soon, public", "max-age=0, public"),
        ("max-age=+31_536_000", "max-age=0"),
    ],
)
def test_a_page_is_not_fresh_for_long(said: str, heard: str) -> None:
    assert received({"Cache-Control": said}, ORIGIN) == {"Cache-Control": heard}
    assert received({"Cache-Control": said}, ORIGIN, cap_age=False) == {"Cache-Control": said}


def test_a_page_has_no_date_of_expiry() -> None:
    assert received({"Expires": "Fri, 31 Dec 9999 23:59:59 GMT"}, ORIGIN) == {}
    never = {"Expires": "Fri, 31 Dec 9999 23:59:59 GMT"}
    assert received(never, ORIGIN, cap_age=False) == never


def test_a_page_does_not_come_from_the_future() -> None:
    """For pip's cache it would be fresh until then."""
    now, soon, later = (f"Sun, 22 Nov 2026 {time} GMT" for time in ("12:00:00", "12:09:00", "23:00:00"))
    noon = 1795348800.0
    assert received({"Date": now}, ORIGIN, now=noon) == {"Date": now}
    assert received({"Date": soon}, ORIGIN, now=noon) == {"Date": soon}  # two clocks
    assert received({"Date": later}, ORIGIN, now=noon) == {}
    assert received({"Date": later}, ORIGIN, now=noon, cap_age=False) == {"Date": later}


def test_a_date_that_is_none_is_left_out() -> None:
    """pip's cache ends in a traceback at one."""
    for name in ("Date", "Expires"):
        for date in ("tomorrow", "", "Mon, 01 Jan 99999 00:00:00 GMT"):
            assert received({name: date}, CDN, cap_age=False) == received({name: date}, ORIGIN, cap_age=False) == {}


def test_a_mark_that_is_not_ours_is_left_out() -> None:
    """From the index's own host: it would go to whom it names."""
    assert received({"ETag": mark('"abc"', CDN)}, ORIGIN) == {}


# -- Framing and encodings


def test_the_framing_of_another_connection_is_left_out() -> None:
    headers = {"Transfer-Encoding": "chunked", "Connection": "close", "Keep-Alive": "timeout=5", "Content-Type": "x"}
    assert received(headers, CDN) == received(headers, ORIGIN) == {"Content-Type": "x"}


@pytest.mark.parametrize(
    ("asked", "page", "sent_on"),
    [
        ("gzip, deflate, br, zstd", True, "gzip, deflate"),
        ("br", True, "gzip, deflate"),
        ("identity", True, "identity"),
        ("br", False, "br"),
    ],
)
def test_pages_come_in_encodings_that_can_be_opened_under_a_cap(asked: str, page: bool, sent_on: str) -> None:
    assert sent({"Accept-Encoding": asked}, CDN, page=page) == {"Accept-Encoding": sent_on}
    assert sent({}, CDN, page=page) == {}


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        ("", 0),
        ("public, max-age=300", 300),
        ("s-maxage=300", 0),
        ("max-age=31536000", MAX_AGE),
        ("max-age=60, no-store", 0),
        ("No-Cache, max-age=60", 0),
        ('MAX-AGE="60"', 60),
        ("max-age=soon", 0),
    ],
)
def test_how_long_a_response_may_be_used_again(control: str, seconds: float) -> None:
    assert max_age(control) == seconds
