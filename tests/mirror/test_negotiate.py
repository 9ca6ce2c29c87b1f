"""What a request means on a site of files."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog.content import Record, Static
from cdn_fallback.mirror.catalog.ledger import Listed
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.negotiate import (
    Found,
    Meaning,
    NotAcceptable,
    NotFound,
    Redirect,
    Representation,
    accepts_gzip,
    format_of,
    headers_of,
    locate,
    representation,
)
from cdn_fallback.mirror.site import Headers

JSON, HTML = "application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html"
PIP = f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"
UV = f"{JSON}, {HTML};q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PIP, "json"),
        (UV, "json"),
        (BROWSER, "html"),
        # nothing is said
        ("", "html"),
        (" , ,", "html"),
        ("*/*", "html"),
        ("text/*", "html"),
        ("application/*", "html"),
        (f"{JSON}, text/html", "html"),
        # the names of either form
        (JSON, "json"),
        ("application/vnd.pypi.simple.latest+json", "json"),
        (HTML, "html"),
        ("application/vnd.pypi.simple.latest+html", "html"),
        ("text/html", "html"),
        (JSON.upper(), "json"),
        # weights
        (f"{JSON};q=0.3, text/html;q=0.2", "json"),
        (f"{JSON};q=0.2, text/html;q=0.3", "html"),
        (f"{JSON};q=0.001", "json"),
        (f"{JSON};Q=0, text/html;q=0.001", "html"),
        (f"{JSON};charset=utf-8;q=0.1, text/html;q=0.2", "html"),
        (f"{JSON}\t;\tq=1.000 , */*;q=0.9", "json"),
        (f"{JSON};q=0.9, {JSON};q=0, text/html;q=0.5", "json"),
        (f"{JSON};q=0, {JSON};q=0.9, text/html;q=0.5", "json"),
        # the more specific range counts
        (f"{JSON};q=0, */*", "html"),
        ("text/html;q=0, */*", "json"),
        ("text/*;q=0, application/*;q=0.5, */*", "html"),
        ("text/html;q=0.1, application/*;q=0.5", "json"),
        # neither is taken
        ("image/png", None),
        (f"{JSON};q=0", None),
        (f"{JSON};q=0.000, text/html;q=0", None),
        ("*/*;q=0", None),
        ("application/vnd.pypi.simple.v2+json", None),
        ("application/json", None),
        # garbage
        ("html", None),
        (";q=1", None),
        (f"{JSON};q=2, text/html", "html"),
        (f"{JSON};q=-1, text/html", "html"),
        (f"{JSON};q=1.5, text/html", "html"),
        (f"{JSON};q=0.5x, text/html;q=0.1", "html"),
        (f"{JSON};q=nan, text/html", "html"),
        (f"{JSON};q=, text/html;q=0.1", "html"),
        (f'text/html;x="a,b", {JSON};q=0.1', "html"),
        ("\x00\xff, text/html", "html"),
    ],
)
def test_the_form_that_a_client_would_rather_have(accept: str, expected: str | None) -> None:
    assert representation(accept) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (JSON, "json"),
        ("application/vnd.pypi.simple.v1%2Bjson", "json"),
        ("application%2fvnd.pypi.simple.latest%2bjson", "json"),
        ("application/vnd.pypi.simple.v1%20json", "json"),
        (HTML, "html"),
        ("text/html", "html"),
        ("text%2Fhtml", "html"),
        ("json", None),
        ("application/vnd.pypi.simple.v2+json", None),
        (f"{JSON};q=1", None),
        (f"{JSON}\n", None),
    ],
)
def test_the_format_of_the_url_wins(value: str, expected: str | None) -> None:
    assert {representation(accept, value) for accept in (PIP, BROWSER, "image/png", "")} == {expected}


def test_an_empty_format_says_nothing() -> None:
    assert representation(PIP, "") == "json"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", None),
        ("format", None),
        ("format=", ""),
        ("a=b&format=x", "x"),
        ("FORMAT=x%2B", "x%2B"),
        ("format=x&format=y", "x"),
        ("myformat=x", None),
        ("format=a=b", "a=b"),
    ],
)
def test_the_format_in_a_query(query: str, expected: str | None) -> None:
    assert format_of(query) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate", True),
        ("deflate, GZIP;q=0.5", True),
        ("br;q=1.0, gzip;q=0.001, *;q=0", True),
        ("", False),
        ("identity", False),
        ("*", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=x", False),
        ("gzipped", False),
        ("xgzip", False),
    ],
)
def test_whether_a_client_takes_gzip(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


@given(st.text(), st.none() | st.text())
def test_no_header_is_too_odd(header: str, value: str | None) -> None:
    assert representation(header, value) in ("json", "html", None)
    assert accepts_gzip(header) in (True, False)


@pytest.mark.parametrize("unit", [",", "text/html;q=0.", "a;", "q=0.0", " ", ";q=0;", "0", "%2", "/"])
def test_a_long_header_costs_time_in_proportion(unit: str) -> None:
    """Ten times the length, not a hundred times the time: generous, for a busy machine."""

    def spent(length: int) -> float:
        text = unit * (length // len(unit))
        start = time.process_time()
        representation(text, text)
        accepts_gzip(text)
        locate(f"/simple/{text}", "html", query_format=text)
        return time.process_time() - start

    spent(1000)
    assert spent(300_000) < 40 * spent(30_000) + 0.05


FORMAT = f"?format={JSON}"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/simple/", "simple/index.json"),
        ("/simple/six/", "simple/six/index.json"),
        ("/simple/zope-interface/", "simple/zope-interface/index.json"),
        ("/simple/s%69x/", "simple/six/index.json"),
        # the objects themselves
        ("/simple/index.html", "simple/index.html"),
        ("/simple/six/index.html", "simple/six/index.html"),
        ("/simple/Its_Name/index.html", "simple/Its_Name/index.html"),
        ("/pypi/six/json", "pypi/six/json"),
    ],
)
def test_pages_and_their_twins(path: str, key: str) -> None:
    vary = "Accept, Accept-Encoding"
    assert locate(path, "json") == Found((key,), vary)
    assert locate(path, "json", True) == Found((f"{key}.gz", key), vary)
    if not path.endswith("/"):
        assert locate(f"{path}.gz", "json", True) == Found((f"{key}.gz",), vary)


def test_a_page_in_the_form_that_is_wanted() -> None:
    def asked(path: str, form: Representation | None) -> Meaning:
        return locate(path, form)

    assert asked("/simple/six/", "html") == Found(("simple/six/index.html",), "Accept, Accept-Encoding")
    assert asked("/simple/six/", None) == NotAcceptable()
    assert asked("/simple/", None) == NotAcceptable()
    assert asked("/simple/six/index.html", None) == asked("/simple/six/index.html", "json")
    assert asked("/pypi/six/json", None) == asked("/pypi/six/json", "json")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple", "/simple/"),
        ("/simple/six", "/simple/six/"),
        ("/simple/Six", "/simple/six/"),
        ("/simple/Its_.-Name/", "/simple/its-name/"),
        ("/simple/a--b", "/simple/a-b/"),
        ("/simple/%53ix/", "/simple/six/"),
        ("/simple/index.html/", "/simple/index-html/"),
        ("/simple/Index.html", "/simple/index-html/"),
        ("/simple/%69ndex.xml", "/simple/index-xml/"),
    ],
)
def test_other_spellings_lead_to_the_normalised_name(path: str, location: str) -> None:
    assert locate(path, "html") == Redirect(location)
    assert locate(path, None) == Redirect(location)
    assert locate(path, "html", query_format=JSON) == Redirect(location + FORMAT)
    for strange in ("", "json", "x\r\nSet-Cookie: a=b", f"{JSON}&a=b", f"{JSON}\n"):
        assert locate(path, "html", query_format=strange) == Redirect(location)


def test_other_spellings_of_a_legacy_page_lead_to_the_normalised_one() -> None:
    assert locate("/pypi/Its_Name/json", "html", query_format=JSON) == Redirect("/pypi/its-name/json")
    assert locate("/pypi/Its_Name/json.gz", "html") == NotFound()


@pytest.mark.parametrize(
    "path", ["/packages/ab/six-1.0.tar.gz", "/packages/a%2Bb-1.whl", "/robots.txt", "/last-modified"]
)
def test_everything_else_is_its_own_key_without_twins(path: str) -> None:
    """x-1.0.tar and x-1.0.tar.gz are two files of a project: the one is not the other's twin."""
    assert locate(path, None, True) == Found((path[1:].replace("%2B", "+"),))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/docs/", "docs/index.html"),
        ("/docs/a%20b/%C3%A9/", "docs/a b/é/index.html"),
        ("/docs/a/x.css", "docs/a/x.css"),
        ("/docs", "docs"),
        ("/more/docs/", "more/docs/index.html"),
    ],
)
def test_a_tree_beside_the_index(path: str, key: str) -> None:
    trees = ("docs", "more/docs")
    assert locate(path, None, True, trees=trees) == Found((key,))
    if path.endswith("/"):
        assert locate(path, None, True, trees=("doc", "more/docs/a")) == NotFound()


HOSTILE = [
    "", "*", "simple/", "//", "//simple/", "///evil.example/", "/", "/packages/", "/packages//x.whl", "/simple//six/",
    "/simple/six//", "/simple/./six/", "/simple/../x", "/simple/%2e%2e/x", "/packages/..", "/packages/.x",
    "/.git/config", "/.cdn-fallback", "/%2ecdn-fallback", "/simple/.six/", "/simple/six/.hidden",
    "/packages/a%2Fb.whl", "/packages/a%5cb", "/packages/a\\b", "/\\evil.example/", "/%5cevil.example",
    "/simple/%0a/", "/simple/six%0d%0aX:%20y/", "/simple/six%00/", "/packages/%7f", "/packages/%C2%85",
    "/packages/%E2%80%AE", "/packages/%ff", "/packages/%", "/packages/%2", "/packages/%zz", "/packages/%25%",
    "/packages/é", "/packages/\u2215x", "/packages/x?y", "/packages/x#y", "/packages/\t", "/simple/-six/",
    "/simple/six-/", "/simple/s%20x/", "/simple/<b>/", "/simple/%C3%A9/", "/simple/" + "x" * 201 + "/",
    "/simple/six/other", "/simple/six/index.html/", "/simple/six/x/index.html", "/simple/-six/index.html", "/pypi",
    "/pypi/", "/pypi/six", "/pypi/six/", "/pypi/six/json/", "/pypi/six/1.0/json", "/pypi/-six/json", "/pypi//json",
    "http://host/simple/", "/simple/%2568/",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_no_secret_no_trust_in_names_what_no_object_can_have_is_not_looked_for(path: str) -> None:
    assert locate(path, "html", trees=("docs",)) == NotFound()


@given(st.text(alphabet="/\\.%25fFcCeE0aAsimple-_pypjon?#\n\u00e9", max_size=40), st.none() | st.text(max_size=20))
def test_no_secret_no_trust_in_names_whatever_is_asked_for(path: str, value: str | None) -> None:
    """A key stays below the root; a redirect on this host, in one line."""
    for start in ("", "/", "/simple/", "/pypi/", "/docs/"):
        found = locate(start + path, "html", True, query_format=value, trees=("docs",))
        for key in found.keys if isinstance(found, Found) else ():
            assert not key.startswith("/") and all(part and part[0] != "." for part in key.split("/"))
        if isinstance(found, Redirect):
            assert found.location.startswith(("/simple/", "/pypi/"))
            assert found.location.isprintable() and found.location.isascii()


@given(st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True))
def test_a_redirect_leads_to_a_page_at_once(name: str) -> None:
    found = locate(f"/simple/{name}", "html")
    if isinstance(found, Redirect):
        assert isinstance(locate(found.location, "html"), Found)
    else:
        assert isinstance(found, NotFound) or name in ("index.html", "index.json")


def objects() -> list[site.Object]:
    """One of every kind that the site has."""
    sha = {"sha256": "00" * 32}
    files = tuple(
        File(name, "1", key, hashes=sha, core_metadata=sha)
        for name, key in [("a-1.tar.gz", "packages/a-1.tar.gz"), ("a-1-py3-none-any.whl", "files/a-1-py3-none-any.whl")]
    )
    pages = site.pages(Record(1, Project("a-b", "A_b", files), 1), site.Rules("https://example.org/"))
    pages += site.lists([Listed("a-b", "A_b", 1)], 1)
    names = ("x.html", "y/x.css", "x.js", "x.tar.gz", "x.svgz", "README", "x.PNG", "x.metadata", "robots.txt", "x.gz")
    statics = [site.object_of_static(Static(f"docs/{name}", "", b"", 0, "")) for name in names]
    twins = [page.gzipped() for page in pages if page.twin]
    return [*pages, *twins, *site.objects_of_files(files), *site.ends("2024-01-31T12:00:00Z"), *statics]


def test_the_headers_that_the_site_gives_are_known_from_the_key() -> None:
    found = {thing.key: headers_of(thing.key, ("docs",)) for thing in objects()}
    assert found == {thing.key: thing.headers for thing in objects()}
    assert len(found) == 27


def test_a_file_lies_where_its_source_has_it() -> None:
    assert headers_of("docs/x-1.zip") == Headers(site.FILE_TYPE, site.FOREVER)
    assert headers_of("docs/x-1.zip", ("docs",)).cache_control == site.PAGE
    assert headers_of("docs2/x-1.zip", ("docs",)) == Headers(site.FILE_TYPE, site.FOREVER)
