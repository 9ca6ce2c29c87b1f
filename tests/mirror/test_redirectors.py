"""What redirect servers do, and their configurations as texts.

What lighttpd and nginx make of those: tests/integration/test_redirectors.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.redirectors import (
    HEALTH,
    Certificate,
    Place,
    Redirector,
    Split,
    lighttpd,
    nginx,
    redirector,
)
from cdn_fallback.pool import Endpoint, Pool, Role

INDEX, CDN, ORIGIN = "https://pypi.python.org/", "https://cdn.example.net/", "https://origin.example.org/"
PEM = Certificate("/etc/ssl/pool.pem", "/etc/ssl/pool.key")
SERVERS: dict[str, Callable[[Redirector], str]] = {"lighttpd": lighttpd.configuration, "nginx": nginx.configuration}


def pool(*fronts: str, cdn: str = CDN, origin: str = ORIGIN, index: str = INDEX) -> Pool:
    """A pool; its redirectors are the index alone, where none is named."""
    roles = [(front, Role.REDIRECTOR) for front in fronts or (index,)] + [(cdn, Role.CDN), (origin, Role.ORIGIN)]
    return Pool("default", index, tuple(Endpoint(base, role) for base, role in roles if base))


PLAIN, HTTPS = Split(), Place(certificate=PEM)


def made(
    asked: Pool | None = None,
    split: Split = PLAIN,
    place: Place = HTTPS,
) -> Redirector:
    return redirector(asked or pool(), split, place)


def texts(found: Redirector) -> list[str]:
    return [configuration(found) for configuration in SERVERS.values()]


# what leads where


def test_static_paths_lead_to_the_cdn_and_the_rest_to_the_origin() -> None:
    found = made()
    assert (found.cdn, found.origin, found.root) == ("https://cdn.example.net", "https://origin.example.org", "")
    assert found.names == ("pypi.python.org",) and found.keys
    assert found.max_age == 300 and found.caching == "public, max-age=300"


PACKAGE = "/packages/ab/cd/x-1.0.tar.gz"
STATIC = ["/simple", "/simple/", "/simple/x/", "/simple/X", PACKAGE, "/packages/", "/last-modified", "/robots.txt"]
DYNAMIC = ["/", "/simplex", "/x/simple/", "/account/login/", "/last-modifiedx", "/robotsxtxt", "/pypi", "/pypi/x",
           "/docs", "/Simple/", "/pypi/x/1.0/json", "/pypi/-x/json", "/pypi/x/json/", "/pypi/x/y/json"]  # fmt: skip


@pytest.mark.parametrize("root", ["", "/mirror", "/a.b/c-d"])
def test_which_paths_are_static(root: str) -> None:
    found = made(pool(f"https://pypi.python.org{root}/"))
    assert found.root == root
    static = re.compile(found.static)
    for path in [*STATIC, "/pypi/Some.Name/json", "/pypi/x/json"]:
        assert static.search(f"{root}{path}"), path
        assert not static.search(f"/other{root}{path}") and not static.search(f"{root}x{path}")
    for path in DYNAMIC:
        assert not static.search(f"{root}{path}"), path
    assert not root or not static.search(f"{root.replace('.', 'x').replace('-', 'x')}x/simple/")


def test_prefixes_are_static_and_the_legacy_pages_may_be_the_origins() -> None:
    static = re.compile(made(split=Split(("docs", "/a/b.c/"), legacy=False)).static)
    assert static.search("/docs/x") and static.search("/docs") and static.search("/a/b.c/d")
    assert not static.search("/docsx") and not static.search("/a/bxc/d") and not static.search("/a/")
    assert not static.search("/pypi/x/json") and static.search("/simple/")


def test_while_the_cdn_is_down_static_paths_lead_to_the_origin_by_their_paths() -> None:
    found = made(split=Split(cdn_down=True))
    assert found.cdn == found.origin == "https://origin.example.org"
    assert not found.keys and found.caching == "public, max-age=60"
    for text in texts(found):
        assert "cdn.example.net" not in text and "index.json" not in text and "declared down" in text


def test_how_long_a_redirect_may_be_kept_can_be_said() -> None:
    assert made(split=Split(max_age=0)).max_age == 0
    assert made(split=Split(max_age=7, cdn_down=True)).max_age == 7


def test_pages_lead_to_keys_or_to_paths() -> None:
    for text in texts(made()):
        assert "index.json" in text and "Vary" in text
    for text in texts(made(split=Split(keys=False))):
        assert "index.json" not in text and "Vary" not in text


def test_base_paths_and_ports_stand_in_front_of_what_is_asked_for() -> None:
    found = made(pool(cdn="https://cdn.example.net:8443/a/~b/", origin="https://origin.example.org:443/c.d/"))
    assert (found.cdn, found.origin) == ("https://cdn.example.net:8443/a/~b", "https://origin.example.org/c.d")


def test_several_redirectors_share_a_file_and_each_name_stands_in_it_once() -> None:
    fronts = ("https://r1.example.org/m/", "https://r2.example.org/m/", "https://R1.example.org./m/")
    found = made(pool(*fronts))
    assert found.names == ("r1.example.org", "r2.example.org") and found.root == "/m"


def test_capitals_and_a_final_dot_are_no_other_host() -> None:
    found = made(pool("https://PyPI.python.org./", cdn="https://CDN.Example.NET./"))
    assert found.names == ("pypi.python.org",) and found.cdn == "https://cdn.example.net"
    with pytest.raises(NotConfigurable, match="redirector's own name"):
        made(pool("https://PyPI.python.org./", cdn="https://pypi.PYTHON.org/x/"))


def test_the_index_may_be_the_origin_behind_redirectors_of_other_names() -> None:
    """What the configuration makes of `redirectors` without `origin`."""
    found = made(pool("https://r1.example.org/", origin=INDEX))
    assert found.origin == "https://pypi.python.org" and found.names == ("r1.example.org",)


def test_http_needs_no_certificate() -> None:
    plain = pool(index="http://pypi.python.org/", cdn="http://cdn.example.net/", origin="http://origin.example.org/")
    found = redirector(plain, Split(), Place())
    assert found.place.listen == ("80", "[::]:80") and found.place.plain == () and found.cdn.startswith("http://")


# where it listens


@pytest.mark.parametrize(
    ("front", "place", "listen", "plain"),
    [
        (INDEX, Place(), ("443", "[::]:443"), ("80", "[::]:80")),
        ("https://pypi.python.org:8443/", Place(), ("8443", "[::]:8443"), ()),
        (INDEX, Place(plain=("8080",)), ("443", "[::]:443"), ("8080",)),
        (INDEX, Place(("127.0.0.1:443",)), ("127.0.0.1:443",), ()),
        (INDEX, Place(("*:443",), ("[::1]:80", "80")), ("*:443",), ("[::1]:80", "80")),
    ],
)
def test_where_it_listens(front: str, place: Place, listen: tuple[str, ...], plain: tuple[str, ...]) -> None:
    found = made(pool(front), place=replace(place, certificate=PEM)).place
    assert (found.listen, found.plain) == (listen, plain)


def test_it_runs_as_debian_has_it_or_in_a_folder() -> None:
    for text in texts(made()):
        assert "www-data" in text and "/var/log/" in text
    for text in texts(made(place=Place(certificate=PEM, folder="/srv/try"))):
        assert "www-data" not in text and "/var/" not in text and "/srv/try/access.log" in text


# what cannot be


def refused(asked: Pool | None = None, split: Split = PLAIN, place: Place = HTTPS) -> str:
    with pytest.raises(NotConfigurable) as caught:
        made(asked, split, place)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_pool_whose_index_is_its_own_origin_has_no_redirectors() -> None:
    alone = Pool("mine", INDEX, (Endpoint(CDN, Role.CDN), Endpoint(INDEX, Role.ORIGIN)))
    said = refused(alone)
    assert said.startswith("pool 'mine': has no redirectors: its index https://pypi.python.org/ is its own origin")
    assert "set `origin` to the host behind it" in said


@pytest.mark.parametrize("role", ["cdn", "origin"])
def test_a_pool_without_cdn_or_origin(role: str) -> None:
    without = pool(cdn="") if role == "cdn" else pool(origin="")
    assert refused(without) == f"pool 'default': has no {role}; set `{role}` to its base URL"


@pytest.mark.parametrize("port", ["", ":8443"])
def test_a_redirect_that_would_lead_back(port: str) -> None:
    own = f"https://pypi.python.org{port}/static/"
    for asked in pool(cdn=own), pool(origin=own):
        assert "is a redirector's own name, so that it would redirect to itself" in refused(asked)
    # of a pool whose index has the redirectors' addresses, and they have names beside it
    assert "redirector's own name" in refused(pool("https://r1.example.org/", cdn="https://pypi.python.org:8443/"))
    assert "redirector's own name" in refused(pool(INDEX, "https://r2.example.org/", origin="https://r2.example.org/"))


def test_a_cdn_and_an_origin_on_the_same_name() -> None:
    said = refused(pool(cdn="https://origin.example.org:444/static/"))
    assert said.startswith("cdn 'https://origin.example.org:444/static/': is on the same host as the origin")


@pytest.mark.parametrize("place", [{"cdn": "http://cdn.example.net/"}, {"origin": "http://origin.example.org/"}])
def test_no_redirect_leads_from_https_to_http(place: dict[str, str]) -> None:
    assert "http and https do not mix; write one scheme for all" in refused(pool(**place))


@pytest.mark.parametrize(
    "other", ["http://r2.example.org/", "https://r2.example.org:444/", "https://r2.example.org/x/"]
)
def test_redirectors_that_one_file_cannot_be_right_for(other: str) -> None:
    said = refused(pool("https://r1.example.org/", other))
    assert said.startswith(f"redirector '{other}': differs from https://r1.example.org/ in scheme, port or path")


@pytest.mark.parametrize("host", ["[2001:db8::1]", "a_b.example.org", "-a", "a..b", "a;b", "x" * 64, "é", "${x}"])
def test_hosts_that_have_no_place_in_a_configuration(host: str) -> None:
    url = f"https://{host}/"
    for asked in pool(url), pool(cdn=url), pool(origin=url), pool("https://r1.example.org/", index=url):
        assert "must be a host's name, as mirror.example.org" in refused(asked)


@pytest.mark.parametrize(
    "path", ["//", "/a//", "/a b/", "/%61/", "/../", "/a/./", "/.a/", "/a;b/", "/$1/", "/é/", '/"/']
)
def test_paths_that_have_no_place_in_a_configuration(path: str) -> None:
    asked = [pool(f"{INDEX[:-1]}{path}"), pool(cdn=f"{CDN[:-1]}{path}"), pool(origin=f"{ORIGIN[:-1]}{path}")]
    asked.append(pool("https://r1.example.org/", index=f"{INDEX[:-1]}{path}"))
    for one in asked:
        assert "has a path with something else in it than letters, digits and . _ ~ -" in refused(one)


@pytest.mark.parametrize("prefix", ["", "/", "..", "a/../b", ".a", "a b", 'a"', "a|b", "(a)", "$", "\\", "a//b", "é"])
def test_prefixes_that_have_no_place_in_a_configuration(prefix: str) -> None:
    assert refused(split=Split((prefix,))).endswith("; name a prefix, as documentation")


@pytest.mark.parametrize("health", ["", "/", "health", "/a/", "/a b", '/"', "/.a", "/a//b", "/a;", "/$x", "/a\n"])
def test_health_paths_that_have_no_place_in_a_configuration(health: str) -> None:
    assert "must be a path, as /-/health" in refused(split=Split(health=health))


def test_places_that_have_no_place_in_a_configuration() -> None:
    for bad in "x:80", "0", "80;", "1.2.3.400:80", "[::g]:80", "unix:/x":
        assert "must be a port, or an address and a port" in refused(place=Place((bad,), certificate=PEM))
        assert "must be a port, or an address and a port" in refused(place=Place(plain=(bad,), certificate=PEM))
    for bad in "pem", "/a b", "/a;", "/.a", "/a/../b":
        for wrong in Place(certificate=Certificate(bad, "/k")), Place(certificate=Certificate("/c", bad)):
            assert "must be an absolute path" in refused(place=wrong)
        assert "must be an absolute path" in refused(place=Place(certificate=PEM, folder=bad))


@pytest.mark.parametrize(
    ("listen", "plain"),
    [(("443", "443"), ()), (("443",), ("443",)), (("*:443", "443"), ()), (("443", "0.0.0.0:443"), ())],
)
def test_a_place_stands_there_once(listen: tuple[str, ...], plain: tuple[str, ...]) -> None:
    assert "stands there twice; name each once" in refused(place=Place(listen, plain, PEM))


def test_https_needs_a_certificate() -> None:
    assert "is missing; https://pypi.python.org/ is https: name a PEM file" in refused(place=Place())


def test_http_has_no_use_for_what_is_https() -> None:
    plain = pool(index="http://pypi.python.org/", cdn="http://cdn.example.net/", origin="http://origin.example.org/")
    assert "the pool is http as it is; use --listen" in refused(plain, place=Place(plain=("8080",)))
    assert "is for https, and http://pypi.python.org/ is not" in refused(plain)


# the texts


@pytest.mark.parametrize("server", SERVERS)
def test_the_same_pool_gives_the_same_bytes(server: str) -> None:
    split = Split(("docs", "a"), max_age=5)
    assert SERVERS[server](made(split=split)) == SERVERS[server](made(pool(), replace(split)))
    assert SERVERS[server](made(split=split)).isascii()


@pytest.mark.parametrize("server", SERVERS)
def test_every_block_ends(server: str) -> None:
    for found in made(), made(pool("https://pypi.python.org/m/"), Split(keys=False)), made(split=Split(cdn_down=True)):
        depth = 0
        for line in SERVERS[server](found).splitlines():
            assert line == line.rstrip()
            bare = re.sub(r'"[^"]*"', "", line.partition("# ")[0] if line.lstrip().startswith("#") else line)
            depth += bare.replace("${", "").count("{") - bare.count("}") + bare.count("${")
            assert depth >= 0, line
        assert depth == 0


@pytest.mark.parametrize("server", SERVERS)
def test_no_rule_looks_at_the_host(server: str) -> None:
    text = SERVERS[server](made(pool("https://pypi.python.org/m/")))
    assert not re.search(r'\$HTTP\["host"\]|\$REQUEST_HEADER\["host"\]|\$(http_)?host\b|url\.authority', text)
    # nginx writes its names, of which it has one server for all; they are no part of a redirect
    assert not re.search(r"(?m)^ *(?:return|url\.redirect\b).*pypi\.python\.org", text)


@pytest.mark.parametrize("server", SERVERS)
def test_every_redirect_leads_into_the_pool(server: str) -> None:
    text = SERVERS[server](made(pool("https://pypi.python.org/m/", cdn="https://cdn.example.net/a/")))
    hosts = set(re.findall(r"https://([^/$ ;\"]+)", "\n".join(line for line in text.splitlines() if line[:1] != "#")))
    assert hosts == {"cdn.example.net", "origin.example.org"} and "http://" not in text


# strict grammar: no value gets out of its place

HARMLESS = "x"
# A path's dots and dashes are escaped where it is a part of a regular expression.
URL, FILE = r"[A-Za-z0-9._~:/\\-]", "[A-Za-z0-9._+@=/-]"


def _url(value: str, what: str) -> Redirector:
    url = f"https://{value}.example.com/" if what.endswith("host") else f"https://{what[:3]}.example.com/{value}/"
    if what.startswith("index"):
        return made(pool("https://r1.example.org/", index=url))
    if what.startswith("front"):
        return made(pool(url, index=INDEX))
    return made(pool(cdn=url) if what.startswith("cdn") else pool(origin=url))


PLACES: dict[str, tuple[Callable[[str], Redirector], str]] = {
    **{f"{one} host": (partial(_url, what=f"{one} host"), URL) for one in ("index", "front", "cdn", "origin")},
    **{f"{one} path": (partial(_url, what=f"{one} path"), URL) for one in ("index", "front", "cdn", "origin")},
    "prefix": (lambda value: made(split=Split((value,))), r"[A-Za-z0-9._+!~@=,/\\-]"),
    "health": (lambda value: made(split=Split(health=f"/{value}")), r"[A-Za-z0-9._/\\-]"),
    "chain": (lambda value: made(place=Place(certificate=Certificate(f"/{value}", "/k"))), FILE),
    "key": (lambda value: made(place=Place(certificate=Certificate("/c", f"/{value}"))), FILE),
    "folder": (lambda value: made(place=Place(certificate=PEM, folder=f"/{value}")), FILE),
    "listen": (lambda value: made(place=Place((value,), certificate=PEM)), r"[0-9A-Fa-f.:*\[\]]"),
    "plain": (lambda value: made(place=Place(plain=(value,), certificate=PEM)), r"[0-9A-Fa-f.:*\[\]]"),
}  # fmt: skip
STRUCTURE = "\n\"'{};()#$\\ \t"


def structure(text: str) -> str:
    """What a server's grammar is made of, in its order, without what regular expressions escape."""
    return re.sub(f"[^{re.escape(STRUCTURE)}]", "", re.sub(r"\\+[.+~-]", "", text))


@pytest.mark.parametrize("place", PLACES)
@given(value=st.text(max_size=12) | st.text("ab.-/_~%\\$\"'{};\n\r\t #@:0é\x00[]()|?*+^!,=", max_size=12))
@example("")
@example("\n")
@example('";\n')
@example("a\nserver.errorlog = ")
@example("${env.PATH}")
@example("%1$1")
@example("a#")
def test_no_trust_in_names_a_value_is_refused_or_stays_in_its_place(place: str, value: str) -> None:
    make, allowed = PLACES[place]
    sample = "8080" if place in ("listen", "plain") else HARMLESS
    try:
        found = make(value)
    except NotConfigurable as error:
        assert str(error).isprintable()
        return
    except ValueError:  # no URL at all: nobody makes an Endpoint of that
        assert place.endswith(("host", "path"))
        return
    if bool(found.root) != bool(make(sample).root):  # other rules: the value has a slash, or begins a fragment
        return
    for mine, plain in zip(texts(found), texts(make(sample)), strict=True):
        assert structure(mine) == structure(plain)
        assert re.fullmatch(r"[\n -~]*", mine), "ASCII, and lines end with a newline alone"
        for line, other in zip(mine.splitlines(), plain.splitlines(), strict=True):
            assert re.fullmatch(f"{allowed}*", different(line, other)), (line, other)


def different(line: str, other: str) -> str:
    """What of `line` is not in `other`, in one piece."""
    start = len(os.path.commonprefix([line, other]))  # noqa: RUF071
    end = len(os.path.commonprefix([line[start:][::-1], other[start:][::-1]]))  # noqa: RUF071
    return line[start : len(line) - end]


def test_the_health_path_is_not_the_indexs() -> None:
    assert made().health == HEALTH
    for text in texts(made(pool("https://pypi.python.org/m/"), Split(health="/up"))):
        assert "/up" in text and "/m/up" not in text
