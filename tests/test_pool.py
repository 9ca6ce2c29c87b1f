"""Which copies serve a URL."""

from __future__ import annotations

import pytest

from cdn_fallback.pool import Endpoint, Pool, Role, pool_for, same_folder, site, without_credentials

ORIGIN = Endpoint("https://index.example/root/", Role.ORIGIN)
CDN = Endpoint("https://cdn.example/mirror/", Role.CDN)
INNER = Endpoint("https://cdn.example/mirror/inner/", Role.MIRROR)
POOL = Pool("some", "https://index.example/root/", (CDN, INNER, ORIGIN))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x", ("https", "a.example", 443)),
        ("http://a.example", ("http", "a.example", 80)),
        ("HTTPS://A.Example:443/", ("https", "a.example", 443)),
        ("https://a.example:8443/", ("https", "a.example", 8443)),
        ("https://user:pw@a.example./", ("https", "a.example", 443)),
        ("https://[2001:DB8::1]:9/", ("https", "2001:db8::1", 9)),
        ("ftp://a.example/", ("ftp", "a.example", 0)),
        ("nothing", ("", "", 0)),
    ],
)
def test_a_site_is_scheme_host_and_port(url: str, expected: tuple[str, str, int]) -> None:
    assert site(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@a.example:8443/x?y#z", "https://a.example:8443/x?y"),
        ("https://us@er:sec@ret@a.example/", "https://a.example/"),
        ("https://a.example/@x", "https://a.example/@x"),
    ],
)
def test_a_url_without_credentials(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


def test_credentials_show_in_no_text() -> None:
    endpoint = Endpoint("https://a.example/", Role.CDN, credentials=("user", "secret"))
    assert "secret" not in f"{endpoint} {endpoint!r}"
    assert str(endpoint) == "cdn https://a.example/"


@pytest.mark.parametrize("suffix", ["", "simple/", "simple/six/", "simple/six/?a=b&c", "packages/a%20b-1%2B2.whl"])
@pytest.mark.parametrize("endpoint", [CDN, INNER, ORIGIN])
def test_a_place_and_the_way_back(suffix: str, endpoint: Endpoint) -> None:
    canonical = POOL.index + suffix
    place = POOL.place(endpoint, canonical)
    assert place == endpoint.base + suffix
    assert POOL.locate(place) == endpoint
    assert POOL.canonical(endpoint, place) == canonical


def test_the_index_itself_without_its_slash() -> None:
    pool = Pool("some", "https://index.example/", (Endpoint("https://index.example/", Role.ORIGIN),))
    assert pool.suffix("https://index.example") == ""
    assert pool.suffix("https://index.example?q") == "?q"


@pytest.mark.parametrize(
    "url",
    [
        "https://index.example/",  # above the base
        "https://index.example/rootless/",
        "http://index.example/root/",  # another scheme
        "https://index.example:8443/root/",
        "https://other.example/root/",
        "https://index.example.evil.example/root/",
        "https://index.example@evil.example/root/",
        "https://index.example/root/../private/",
        "https://index.example/root/%2e%2E/private/",
        "https://index.example/root/..%2Fprivate/",
    ],
)
def test_what_is_not_the_pools(url: str) -> None:
    assert POOL.suffix(url) is None
    assert POOL.locate(url) is None
    with pytest.raises(ValueError, match="is not under"):
        POOL.place(CDN, url)
    with pytest.raises(ValueError, match="is not under"):
        POOL.canonical(ORIGIN, url)


def test_a_place_is_the_innermost_endpoints() -> None:
    assert POOL.locate("https://cdn.example/mirror/inner/simple/") == INNER
    assert POOL.locate("https://cdn.example/mirror/inner") == CDN


def test_a_suffix_never_names_another_host() -> None:
    assert POOL.place(CDN, "https://index.example/root///evil.example/x") == "https://cdn.example/mirror/evil.example/x"


def test_the_index_is_known_by_its_site() -> None:
    assert POOL.is_index(ORIGIN)
    assert POOL.is_index(Endpoint("https://index.example/other/", Role.REDIRECTOR))
    assert not POOL.is_index(CDN)
    assert not POOL.is_index(Endpoint("http://index.example/root/", Role.REDIRECTOR))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/simple/six/", "https://a.example/simple/six/", True),
        ("https://a.example/simple/six/", "https://a.example/simple/six/index.html", True),
        ("https://a.example/simple/six", "https://a.example/simple/six/", False),
        ("https://a.example/simple/Six/", "https://a.example/simple/six/", False),
        ("https://a.example/simple/six/", "https://b.example/simple/six/", False),
    ],
)
def test_a_folder_is_what_relative_links_start_from(one: str, other: str, same: bool) -> None:
    assert same_folder(one, other) is same


def test_a_declared_pool_is_found_by_its_prefix() -> None:
    assert pool_for([POOL], "https://index.example/root/simple/six/") is POOL


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://user:pw@Index.example/elsewhere/", "https://index.example/"),
        ("http://index.example:8080/root/", "http://index.example:8080/"),
        ("http://[::1]:8080/root/", "http://[::1]:8080/"),
        ("https://[::1]:443/root/", "https://[::1]/"),
    ],
)
def test_every_other_host_is_a_pool_by_itself(url: str, base: str) -> None:
    pool = pool_for([POOL], url)
    assert not pool.declared
    assert (pool.index, pool.endpoints) == (base, (Endpoint(base, Role.ORIGIN),))
    assert pool.suffix(without_credentials(url)) is not None
