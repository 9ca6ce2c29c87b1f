"""A real nginx with the configuration that `mirror init` writes, beside `mirror serve`: they answer alike."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog.content import Record, Static
from cdn_fallback.mirror.catalog.ledger import Listed
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.names import normalised
from cdn_fallback.mirror.nginx import configuration
from cdn_fallback.mirror.serve import SiteServer
from cdn_fallback.mirror.stores.directory import DirectoryStore
from tests.rig.names import free_port
from tests.rig.nginx import Client, Got, Nginx
from tests.rig.scene import subnet

BODIES = {
    "packages/its_name-1.0.tar": b"a tar file",
    "packages/its_name-1.0.tar.gz": b"another sdist, not the tar file's twin",
    "packages/its_name-1.0-py3-none-any.whl": bytes(range(256)) * 400,
    "files/its_name-2.0+local-py3-none-any.whl": b"a wheel outside of packages/",
    "packages/its_name-1.0-py3-none-any.whl.metadata": b"Metadata-Version: 2.1\n",
    "files/its_name-2.0+local-py3-none-any.whl.metadata": b"Metadata-Version: 2.2\n",
    "docs/index.html": b"<docs>",
    "docs/a b/index.html": b"<a b>",
    "docs/é.css": b"css",
    "docs/x.js": b"js",
    "docs/x.JSON": b"{}",
    "docs/x.html.gz": b"no twin",
    "docs/x.html": b"<x>",
    "docs/x.tgz": b"tgz",
    "docs/README": b"readme",
    "docs/x.metadata": b"no project's",
    "more/docs/x.txt": b"text",
}
TREES = ("docs", "more/docs")
WHEEL = "/packages/its_name-1.0-py3-none-any.whl"


def objects() -> Iterator[tuple[site.Object, bytes]]:
    """A site of one project."""
    files = []
    for key in BODIES:
        if key.startswith(("packages/", "files/")) and not key.endswith(".metadata"):
            digest = {"sha256": hashlib.sha256(BODIES[key]).hexdigest()}
            metadata = BODIES.get(f"{key}.metadata")
            core = None if metadata is None else {"sha256": hashlib.sha256(metadata).hexdigest()}
            files.append(File(key.rpartition("/")[2], "1.0", key, "", digest, core_metadata=core))
    pages = site.pages(Record(1, Project("its-name", "Its_Name", tuple(files)), 7), site.Rules("https://example.org/"))
    pages += site.lists([Listed("its-name", "Its_Name", 7)], 7)
    pages += [page.gzipped() for page in pages if page.twin]
    for made in (*pages, *site.ends("2024-01-31T12:00:00Z")):
        assert made.body is not None
        yield made, made.body
    for made in site.objects_of_files(files):
        yield made, BODIES[made.key]
    for key, body in BODIES.items():
        if key.startswith(TREES):
            yield site.object_of_static(Static(key, "", hashlib.sha256(body).digest(), len(body), "")), body


SITE = {made.key: (made, body) for made, body in objects()}


class Both(NamedTuple):
    """The two servers of one folder."""

    nginx: Client
    serve: Client
    server: Nginx
    root: str


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("site")
    store = DirectoryStore(root)
    for made, body in SITE.values():
        store.put(made.key, body, made.headers, made.digest)
    store.set_mark(b"identity", None)
    (root / "outside").symlink_to(tmp_path_factory.mktemp("outside"))
    (root / "outside" / "secret.whl").write_bytes(b"secret")
    (root / "packages" / "link.whl").symlink_to("its_name-1.0.tar")
    address = f"{subnet()}.1"
    port = free_port([address])
    text = configuration(str(root), [f"{address}:{port}"], "mirror.example.org", trees=TREES)
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), address, port, text)
    with (
        nginx,
        SiteServer(root, trees=TREES) as server,
        Client(nginx.url) as first,
        Client(server.url) as second,
    ):
        yield Both(first, second, nginx, str(root))


class Asked(NamedTuple):
    """A request, and what must come: a status, and the object's key or the Location."""

    path: str
    status: int = 200
    what: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012
    method: str = "GET"


JSON, HTML, NEITHER = {"Accept": site.JSON_TYPE}, {"Accept": "text/html"}, {"Accept": "image/png"}
PIP = {
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Accept-Encoding": "gzip, deflate",
}
FORMAT = f"format={site.JSON_TYPE}"
PAGE = "simple/its-name/index"


def accepting(accept: str, form: str) -> Asked:
    return Asked("/simple/its-name/", 200 if form else 406, form and f"{PAGE}.{form}", {"Accept": accept})


ALIKE = [
    Asked("/simple/", what="simple/index.html"),
    Asked("/simple/", what="simple/index.json", headers=JSON),
    Asked("/simple/", what="simple/index.json.gz", headers=PIP),
    Asked(f"/simple/?a=b&{FORMAT}", what="simple/index.json"),
    Asked("/simple/its-name/", what=f"{PAGE}.html"),
    Asked("/simple/its-name/", what=f"{PAGE}.json.gz", headers=PIP),
    Asked("/simple/its-name/", what=f"{PAGE}.json.gz", headers={**PIP, "Via": "1.1 edge"}),
    Asked("/simple/its-name/", what=f"{PAGE}.html.gz", headers={**HTML, "Accept-Encoding": "GZIP;q=0.5"}),
    Asked("/simple/its-name/", what=f"{PAGE}.html", headers={"Accept-Encoding": "gzip;q=0, br"}),
    Asked("/simple/its-name/", what=f"{PAGE}.json", headers=JSON, method="HEAD"),
    Asked("/simple/%69ts-name/", what=f"{PAGE}.json", headers=JSON),
    # whatever the form that is wanted
    Asked(f"/simple/its-name/?{FORMAT}", what=f"{PAGE}.json", headers=NEITHER),
    Asked("/simple/its-name/?format=application/vnd.pypi.simple.latest%2Bjson", what=f"{PAGE}.json"),
    Asked("/simple/its-name/?FORMAT=text%2fhtml", what=f"{PAGE}.html", headers=JSON),
    Asked("/simple/its-name/?format=", what=f"{PAGE}.json", headers=JSON),
    Asked("/simple/its-name/?myformat=x", what=f"{PAGE}.json", headers=JSON),
    Asked(f"/simple/its-name/?format=text/html&{FORMAT}", what=f"{PAGE}.html"),
    Asked("/simple/its-name/?format=json", 406, headers=JSON),
    Asked(f"/simple/its-name/?{FORMAT};q=1", 406, headers=JSON),
    Asked("/simple/its-name/", 406, headers=NEITHER),
    Asked("/simple/", 406, headers=NEITHER),
    Asked("/simple/unknown/", 406, headers=NEITHER),
    accepting("", "html"),
    accepting(" , ,", "html"),
    accepting("*/*", "html"),
    accepting("text/*;q=0.1", "html"),
    accepting("application/*", "html"),
    accepting("*/*;q=0", ""),
    accepting("application/json", ""),
    accepting("application/vnd.pypi.simple.v2+json", ""),
    accepting("APPLICATION/vnd.pypi.simple.V1+json", "json"),
    accepting(f"image/png,{site.JSON_TYPE};q=0.001", "json"),
    accepting(f"{site.JSON_TYPE};q=0.000, text/html", "html"),
    accepting(f"{site.JSON_TYPE};q=0, text/html;q=0", ""),
    accepting(f"{site.JSON_TYPE};q=2, text/html", "html"),
    accepting(f"{site.JSON_TYPE};q=, text/html", "html"),
    accepting(f"{site.JSON_TYPE} ; charset=utf-8 ;\tQ=1.000 , text/html;q=0.9", "json"),
    accepting(f"{site.JSON_TYPE};charset=utf-8;q=0, */*", "html"),
    accepting(f"{site.JSON_TYPE}x, */*", "html"),
    accepting("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
    # objects by their keys
    Asked("/simple/index.html", what="simple/index.html", headers=JSON),
    Asked("/simple/index.json.gz", what="simple/index.json.gz"),
    Asked("/simple/its-name/index.json", what=f"{PAGE}.json", headers=NEITHER),
    Asked("/simple/its-name/index.json", what=f"{PAGE}.json.gz", headers=PIP),
    Asked("/simple/its-name/index.html.gz", what=f"{PAGE}.html.gz"),
    Asked("/simple/Its_Name/index.html", what="simple/Its_Name/index.html", headers=PIP),
    Asked("/simple/Its_Name/index.html.gz", 404),
    Asked("/simple/Its_Name/index.json", 404),
    Asked("/pypi/its-name/json", what="pypi/its-name/json"),
    Asked("/pypi/its-name/json", what="pypi/its-name/json.gz", headers=PIP),
    Asked("/pypi/its-name/json.gz", what="pypi/its-name/json.gz"),
    Asked("/last-modified?x=y", what="last-modified"),
    Asked("/robots.txt", what="robots.txt"),
    *[Asked(f"/{key}".replace(" ", "%20").replace("é", "%C3%A9"), what=key, headers=PIP) for key in BODIES],
    Asked("/files/its_name-2.0%2Blocal-py3-none-any.whl", what="files/its_name-2.0+local-py3-none-any.whl"),
    Asked("/docs/", what="docs/index.html", headers=NEITHER),
    Asked("/docs/a%20b/?x", what="docs/a b/index.html"),
    Asked(WHEEL, 206, WHEEL[1:], {"Range": "bytes=5-99"}),
    Asked(WHEEL, 206, WHEEL[1:], {"Range": "bytes=102000-"}),
    Asked(WHEEL, 206, WHEEL[1:], {"Range": "bytes=-5"}),
    Asked(WHEEL, 200, WHEEL[1:], {"Range": "bytes=0-1,5-6"}),
    Asked(WHEEL, 200, WHEEL[1:], {"Range": "bytes=5-6", "If-Range": '"other"'}),
    Asked(WHEEL, 416, "", {"Range": "bytes=102400-"}),
    # elsewhere
    Asked("/simple", 301, "/simple/"),
    Asked(f"/simple?{FORMAT}&a=b", 301, f"/simple/?{FORMAT}"),
    Asked("/simple/its-name", 301, "/simple/its-name/"),
    Asked("/simple/its-name?a=b", 301, "/simple/its-name/", NEITHER),
    Asked("/simple/ITS.-_name/", 301, "/simple/its-name/"),
    Asked("/simple/%49ts.name", 301, "/simple/its-name/"),
    Asked(f"/simple/Its_Name?{FORMAT}", 301, f"/simple/its-name/?{FORMAT}"),
    Asked("/simple/Its_Name?format=application/vnd.pypi.simple.v1%2bhtml", 301,
          "/simple/its-name/?format=application/vnd.pypi.simple.v1%2bhtml"),
    Asked("/simple/Its_Name?format=//evil.example", 301, "/simple/its-name/"),
    Asked("/simple/Its_Name/", 301, "/simple/its-name/", {"Host": "evil.example"}),
    Asked("/simple/Its_Name/", 301, "/simple/its-name/", method="HEAD"),
    Asked("/simple/index.html/", 301, "/simple/index-html/"),
    Asked("/simple/Index.json", 301, "/simple/index-json/"),
    Asked("/simple/some.metadata", 301, "/simple/some-metadata/"),
    Asked(f"/pypi/Its_Name/json?{FORMAT}", 301, "/pypi/its-name/json"),
    Asked("/docs", 301, "/docs/"),
    Asked("/docs/a%20b?x", 301, "/docs/a%20b/"),
    # nowhere
    *[Asked(path, 404) for path in (
        "/", "/x", "/simple/unknown/", "/simple/-x/", "/simple/x-/", "/simple/%C3%A9/", "/simple/a%20b/", "/simple/" +
        "x" * 201 + "/", "/simple/its-name/x", "/simple/its-name/x.metadata", "/simple/its-name/index.html/",
        "/simple/its-name/x/index.html", "/simple//its-name/", "//simple/", "//evil.example/%2e%2e",
        "/simple/its-name//", "/pypi", "/pypi/", "/pypi/its-name", "/pypi/its-name/", "/pypi/its-name/json/",
        "/pypi/its-name/1.0/json", "/pypi/unknown/json", "/pypi/Its_Name/json.gz", "/pypix", "/simplex/", "/packages",
        "/packages/", "/packages/unknown.whl", f"{WHEEL}/", f"{WHEEL}/x", f"{WHEEL}.gz", "/.cdn-fallback",
        "/%2ecdn-fallback", "/packages/%2e%2e/.cdn-fallback", "/packages/../last-modified", "/docs/./index.html",
        "/docs/.hidden", "/docs/a%2Fb", "/docs/a%5cb", "/docs/a\\b", "/packages/%0a", "/x%7f",
        "/docs/%0d%0aX-Evil:%20y/", "/docs/%ff", "/docs/x.html/", "/docs/unknown/", "/more", "/more/", "/more/docs",
        "/more/docs/", "/docs/x.js.gz", "/packages/link.whl", "/outside/secret.whl", "/outside", "/" + "x" * 300,
    )],
    *[Asked(path, 405, method=method)
      for path in ("/simple/", WHEEL, "/simple/Its_Name", "/x") for method in ("POST", "PUT", "DELETE", "OPTIONS")],
]  # fmt: skip

SAME = ("Content-Type", "Content-Encoding", "Cache-Control", "Vary", "Location", "Content-Range",
        "X-Content-Type-Options", "Content-Length", "Allow")  # fmt: skip


@pytest.mark.parametrize("asked", ALIKE, ids=lambda a: f"{a.method} {a.path} {' '.join(a.headers.values())}"[:100])
def test_nginx_and_serve_answer_alike(both: Both, asked: Asked) -> None:
    first = both.nginx.get(asked.path, asked.headers, method=asked.method)
    second = both.serve.get(asked.path, asked.headers, method=asked.method)
    assert (first.status, second.status) == (asked.status, asked.status)
    if asked.status == 301:
        assert first.header("Location") == second.header("Location") == asked.what
    names = [name for name in SAME if not (asked.status == 301 and name.startswith(("Content", "Vary")))]
    if asked.status == 416:  # nginx's own page; and it leaves the file's headers out
        names = ["Content-Range"]
    assert {name: first.header(name) for name in names} == {name: second.header(name) for name in names}
    if asked.status in (200, 206):
        check_object(first, asked)
    if asked.status not in (301, 416):
        assert first.body == second.body


def check_object(got: Got, asked: Asked) -> None:
    """It is the object, with the headers that the site gives it."""
    made, body = SITE[asked.what]
    headers = made.headers
    assert got.header("Content-Type") == headers.content_type
    assert got.header("Cache-Control") == headers.cache_control
    assert got.header("Content-Encoding") == (headers.content_encoding or "")
    assert got.header("X-Content-Type-Options") == "nosniff"
    assert got.header("ETag").startswith('"')
    if asked.method == "HEAD":
        assert got.body == b"" and int(got.header("Content-Length")) == len(body)
    elif asked.status == 200:
        assert got.body == body
    else:
        start, stop = map(int, re.findall(r"\d+", got.header("Content-Range"))[:2])
        assert got.body == body[start : stop + 1]


@pytest.mark.parametrize("key", sorted(SITE))
def test_every_object_of_the_site_is_served_with_its_headers(both: Both, key: str) -> None:
    for client in (both.nginx, both.serve):
        path = "/" + key.replace(" ", "%20").replace("é", "%C3%A9")
        check_object(client.get(path), Asked(path, 200, key))


def test_what_the_client_has_is_not_sent_again(both: Both) -> None:
    for client in (both.nginx, both.serve):
        for path in ("/simple/its-name/", WHEEL):
            got = client.get(path, PIP)
            for condition in (
                {"If-None-Match": got.header("ETag")},
                {"If-Modified-Since": got.header("Last-Modified")},
            ):
                again = client.get(path, PIP | condition)
                assert (again.status, again.body) == (304, b"")
                for name in ("ETag", "Cache-Control", "Vary"):
                    assert again.header(name) == got.header(name)
            assert client.get(path, PIP | {"If-None-Match": '"other"'}).status == 200


DIFFERENT = [
    # who names both: nginx does not weigh them
    ("/simple/its-name/", {"Accept": f"{site.JSON_TYPE}, text/html"}, site.JSON_TYPE, site.HTML_TYPE),
    ("/simple/its-name/", {"Accept": f"{site.JSON_TYPE};q=0.1, text/html"}, site.JSON_TYPE, site.HTML_TYPE),
    ("/simple/its-name/", {"Accept": "text/html;q=0, */*"}, site.HTML_TYPE, site.JSON_TYPE),
    # what nginx itself takes for no request
    *[(path, {}, 400, 404) for path in ("/..", "/../x", "/simple/../../x", "/x%00", "/%zz", "/x%", "/x%2")],
    ("/docs/#x", {}, 200, 404),
    # parts of a compressed page
    ("/simple/its-name/", {**PIP, "Range": "bytes=5-6"}, 200, 206),
    # a Range that is none: RFC 9110, section 14.2, allows either
    *[(WHEEL, {"Range": value}, 416, 200) for value in ("bytes=5-2", "bytes=x-")],
    # two conditions: nginx wants both to hold
    (WHEEL, {"If-None-Match": "*", "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200, 304),
]


@pytest.mark.parametrize(("path", "headers", "nginx", "serve"), DIFFERENT)
def test_where_they_differ(both: Both, path: str, headers: dict[str, str], nginx: int | str, serve: int | str) -> None:
    """As the module `nginx` says; another difference would be news."""
    for client, expected in ((both.nginx, nginx), (both.serve, serve)):
        got = client.get(path, headers)
        assert expected in (got.status, got.header("Content-Type"))


def odd_names() -> list[str]:
    """Of every kind, and many at random; the same ones each time."""
    chance = random.Random(5)
    found = [
        "A" * 60,
        "A" * 200,
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 2,
        "z" * 60,
        "aZ" * 100,
        "Z-" * 99 + "Z",
        "a.-" * 66 + "b",
    ]
    found += ["a" + "." * 198 + "B", "a._-" * 49 + "B", "A_" * 30 + "a", "a-b-c", "a--b", "A.b_c-D", "0", "X"]
    for alphabet in ("ABCxyz._-09", "A._-", "a-", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Aa-"):
        for _ in range(60):
            middle = "".join(chance.choices(alphabet, k=chance.randrange(59)))
            found.append(f"{chance.choice('aZ9')}{middle}{chance.choice('aZ9')}")
    return found


def test_any_name_ends_at_the_normalised_one_in_one_redirect(both: Both) -> None:
    for name in odd_names():
        normal = normalised(name)
        for path in (f"/simple/{name}", f"/simple/{name}/"):
            got = both.nginx.get(path)
            if path == f"/simple/{normal}/":
                assert got.status == 404
            else:
                assert (got.status, got.header("Location")) == (301, f"/simple/{normal}/"), name
        got = both.nginx.get(f"/pypi/{name}/json")
        assert (got.status, got.header("Location")) == ((404, "") if name == normal else (301, f"/pypi/{normal}/json"))
        assert both.nginx.get(f"/simple/{normal}/").status == 404


def test_a_page_for_who_takes_gzip_is_the_page(both: Both) -> None:
    for client in (both.nginx, both.serve):
        packed = client.get("/simple/its-name/", PIP)
        assert gzip.decompress(packed.body) == SITE[f"{PAGE}.json"][1]
        assert packed.header("ETag") != client.get("/simple/its-name/", JSON).header("ETag")


def test_nginx_has_nothing_to_complain_of(both: Both) -> None:
    """Not of the configuration, nor of a request: a warning would be of a variable that is not set, or of a circle."""
    said = both.server.check()
    assert re.fullmatch(r"(nginx: .*(syntax is ok|test is successful)\n){2}", said)
    for path in ("/simple/Its_Name", "/simple/", "/docs", "/unknown"):
        both.nginx.get(path)
    assert "[warn]" not in both.server.errors and "[emerg]" not in both.server.errors


# What else may stand in an http block, and would spoil an answer.
OTHERS = """
    charset utf-8;
    charset_types *;
    default_type text/html;
    types { text/html html whl gz json; }
    gzip on;
    gzip_types *;
    gzip_min_length 1;
    gzip_vary on;
    etag off;
    autoindex on;
    expires 1h;
    add_header Cache-Control "no-store" always;
    absolute_redirect on;
"""


@pytest.mark.parametrize("key", ["simple/index.json", f"{PAGE}.html", f"{PAGE}.json.gz", "docs/x.html", WHEEL[1:]])
def test_whatever_else_stands_in_the_http_block(both: Both, tmp_path: Path, key: str) -> None:
    address = f"{subnet()}.1"
    port = free_port([address])
    text = configuration(both.root, [f"{address}:{port}"], "_", trees=TREES)
    with Nginx(tmp_path, address, port, OTHERS + text) as nginx, Client(nginx.url) as client:
        got = client.get(f"/{key}", PIP if key.startswith("docs") else {})
        check_object(got, Asked(f"/{key}", 200, key))
        assert got.header("Vary") == both.nginx.get(f"/{key}").header("Vary")
        assert client.get("/docs").header("Location") == "/docs/"
        assert client.get("/packages/").status == 404


def test_two_mirrors_in_one_nginx(tmp_path: Path) -> None:
    address = f"{subnet()}.1"
    port = free_port([address])
    hosts = ("one.example.org", "two.example.org")
    text = ""
    for host in hosts:
        (tmp_path / host).mkdir()
        (tmp_path / host / "last-modified").write_text(host)
        text += configuration(str(tmp_path / host), [f"{address}:{port}"], host)
    with Nginx(tmp_path / "nginx", address, port, text) as nginx, Client(nginx.url) as client:
        for host in hosts:
            assert client.get("/last-modified", {"Host": host}).body == host.encode()
    assert "[warn]" not in nginx.errors
