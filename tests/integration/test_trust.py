"""Attacks that were tried (FACTS, part D), and what the client does of them. Point by point, with those that are
tested elsewhere:

- Cache poisoning is persistent: `test_cache_poisoning_...` here; promise 2 in test_promises.
- An outage becomes dependency confusion: promise 1 in test_promises, `test_dependency_confusion_...` here.
- https to http: promise 9 in test_promises (pages, from a redirector and from the CDN), `test_https_to_http_...` here.
- Freshness: promise 6 in test_promises (the page's own serial), `test_freshness_...` here.
- Memory: `test_..._does_not_take_the_memory` in test_bad_input.
- Slow loris: `test_slow_loris_...` here; that walks end in time whoever is slow: test_properties.
- Unhashed links: promise 9 in test_promises.
- Terminal escapes: `test_terminal_escapes_...` here; test_cli and test_errors for each text of ours.
- Embedded credentials: `test_credentials_...` here, promise 9 in test_promises (client certificates, too).
- Trust in one host (not in the list): promise 9 in test_promises, `test_trusted_host_...` and `test_cookies_...` here.

The other points are about the server side.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.rig.dists import wheel
from tests.rig.faults import Body, Drip, Fault, Instead, Redirect, Refuse, Status, Truncate, UnknownCA
from tests.rig.hostile import Dressed, Phrase, SlowHead
from tests.rig.messages import Answer, Content, Headers, Request
from tests.rig.pips import PipEnv
from tests.rig.sample import PAGE, SITE, B
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene, scene
from tests.rig.server import Server
from tests.rig.site import JSON, Redirector, Site

INSTALL = ("install", "--target")
OLD, NEW = wheel("demo-b", "1.0"), wheel("demo-b", "2.0")
# the same serial: what is old is not to be told by that
BEFORE, NOW = Site.of(OLD), Site.of(OLD, NEW)
YEAR = 365 * 86400

# What no head may hold (RFC 9110, section 5.5): ESC, back to the start of the line, backspace.
CONTROLS = "\x1b[31mred\rback\x08"
# What it may: CSI as one character and a bidirectional override, in UTF-8; as Latin-1, in which heads are read.
LEGAL = "\x9b1mbold\u202eesrever".encode().decode("latin-1")
PRINTED = r"Â\x9b1mboldâ\x80®esrever"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


# -- Cache poisoning is persistent


@pytest.mark.parametrize("origin", ["redirector", "origin"], ids=["the index is the origin", "the origin is apart"])
def test_cache_poisoning_by_an_old_page_with_the_origins_current_etag(
    origin: str, newest_pip: PipEnv, tmp_path: Path
) -> None:
    home, etag = tmp_path / "home", _page(NOW).header("ETag") or ""
    with scene(tmp_path, NOW, redirectors=1) as pool:
        if origin == "redirector":  # in name alone
            pool.servers["redirector1"].content = NOW
            pool.configure(origin="")
            pool.fault("redirector", Refuse())
        pool.fault("cdn", Instead(BEFORE), Dressed((("ETag", etag), ("Cache-Control", "max-age=0"))), on="page")
        assert _installed(pool, newest_pip, tmp_path / "t1", home) == OLD.version

        pool.heal()
        pool.fault("cdn", Refuse())
        assert _installed(pool, newest_pip, tmp_path / "t2", home) == NEW.version
        assert not [r for r in _requests(pool, origin) if r.header("If-None-Match") or r.header("If-Modified-Since")]


def test_cache_poisoning_by_a_mark_of_ours(newest_pip: PipEnv, tmp_path: Path) -> None:
    """An ETag that says of itself that it is the origin's."""
    home = tmp_path / "home"
    with scene(tmp_path, NOW) as pool:
        owner = hashlib.sha256(pool.base(ORIGIN).encode()).hexdigest()[:12]
        etag = (_page(NOW).header("ETag") or "").replace('"', f'"cdnfb.{owner}.', 1)
        replay = Dressed((("ETag", etag), ("Cache-Control", "max-age=0")))
        pool.fault("redirector", Instead(BEFORE), replay, on="page")
        assert _installed(pool, newest_pip, tmp_path / "t1", home) == OLD.version

        pool.fault("redirector", Refuse())
        pool.fault("cdn", Refuse())
        assert _installed(pool, newest_pip, tmp_path / "t2", home) == NEW.version


HOUR_AGO = ("Date", formatdate(time.time() - 3600, usegmt=True))
NEXT_YEAR = formatdate(time.time() + YEAR, usegmt=True)


@pytest.mark.parametrize(
    "headers",
    [
        (HOUR_AGO, ("Cache-Control", f"max-age={YEAR}")),
        (HOUR_AGO, ("Cache-Control", "max-age=+31_536_000")),  # a number to Python, and so to pip
        (HOUR_AGO, ("Cache-Control", "public"), ("Expires", NEXT_YEAR)),
        (("Date", NEXT_YEAR), ("Cache-Control", "max-age=600")),
    ],
    ids=["max-age", "max-age in another spelling", "Expires", "Date in the future"],
)
def test_cache_poisoning_by_a_page_that_is_fresh_for_a_year(
    headers: Headers, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """An hour later pip must ask again: that is when the fallback says that it answered."""
    home = tmp_path / "home"
    with scene(tmp_path, NOW) as pool:
        pool.fault("cdn", Instead(BEFORE), Dressed(headers), on="page")
        assert _installed(pool, newest_pip, tmp_path / "t1", home) == OLD.version

        pool.heal()
        assert _installed(pool, newest_pip, tmp_path / "t2", home) == NEW.version


@pytest.mark.parametrize("header", [("Date", "tomorrow"), ("Expires", "Mon, 01 Jan 99999 00:00:00 GMT")])
def test_cache_poisoning_by_a_date_that_is_none(header: tuple[str, str], newest_pip: PipEnv, tmp_path: Path) -> None:
    """pip's cache ends in a traceback at one."""
    with scene(tmp_path, NOW) as pool:
        pool.fault("cdn", Dressed((header,)))

        assert _installed(pool, newest_pip, tmp_path / "t", tmp_path / "home") == NEW.version


def test_cache_poisoning_by_a_permanent_redirect(newest_pip: PipEnv, tmp_path: Path) -> None:
    """pip's cache keeps it for good, and never asks again."""
    home = tmp_path / "home"
    with scene(tmp_path, NOW) as pool, _elsewhere(pool, BEFORE) as (other, url):
        pool.fault("redirector", Redirect(f"{url}{{path}}", 301), on="page")
        assert _installed(pool, newest_pip, tmp_path / "t1", home) == OLD.version
        assert other.requests

        pool.heal()
        other.forget()
        assert _installed(pool, newest_pip, tmp_path / "t2", home) == NEW.version
        assert not other.requests


# -- An outage becomes dependency confusion


def test_dependency_confusion_by_a_redirect_to_nowhere(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    """What a redirector of the pool points to is gone: the pool has failed, the index is not empty."""
    with Server(Site.of(wheel("demo-b", "9.9")), pool.servers["origin"].address, 0) as public:
        pool.fault("redirector", Redirect(f"https://{CDN}:1{{path}}"))
        more = ["--extra-index-url", f"{public.url}simple/", "--trusted-host", public.address, "--retries", "0"]

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), *more, "demo-b")

        assert result.code == 1, result.output
        assert "no usable answer" in result.stderr
        assert not (tmp_path / "t").exists()


# -- https to http


@pytest.mark.parametrize("kind", ["page", "file", "metadata"])
def test_https_to_http_is_refused_to_every_role(kind: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    with _elsewhere(pool, SITE) as (mirror, url), Server(SITE, mirror.address, 0) as plaintext:
        pool.configure(mirrors=f"{url}/")
        down = Redirect(plaintext.url.rstrip("/") + "{path}")
        pool.fault("", down, on=kind)
        mirror.fault(down, on=kind)
        trust = ["--trusted-host", plaintext.address, "--retries", "0"]

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), *trust, "demo-b")

        assert result.code == 1
        for role in ("redirector", "cdn", "mirror", "origin"):
            assert re.search(rf"\. {role} \S+ \(\S+\) redirects from https to http://\S+: refused", result.stderr)
        assert not plaintext.requests


@pytest.mark.parametrize("who", ["a redirector's choice", "an undeclared index's pages", "an undeclared index's files"])
def test_https_to_http_is_refused_to_hosts_that_nobody_declared(
    who: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """https leads to https leads to http."""
    with _elsewhere(pool, SITE) as (other, url), Server(SITE, other.address, 0) as plaintext:
        other.fault(Redirect(plaintext.url.rstrip("/") + "{path}"), on="file" if who.endswith("files") else "page")
        more = ["--trusted-host", plaintext.address, "--retries", "0"]
        if who.startswith("a redirector"):
            pool.fault("redirector", Redirect(f"{url}{{path}}"))
        else:
            more += ["--index-url", f"{url}/simple/"]

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), *more, "demo-b")

        assert result.code == 1, result.output
        assert f"redirects from https to {plaintext.url.rstrip('/')}" in result.stderr
        assert other.requests and not plaintext.requests


# -- Freshness


def test_freshness_by_the_serial_in_a_header(newest_pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with scene(tmp_path, Site.of(OLD, NEW, serial=20)) as pool:
        assert _installed(pool, newest_pip, tmp_path / "t1", home) == NEW.version
        silent = _page(BEFORE).body.replace(b'"_last-serial"', b'"_something"')
        pool.fault("cdn", Body(silent, (("X-PyPI-Last-Serial", "10"),)), on="page")

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t2"), "--no-cache-dir", "demo-b", home=home)

        assert result.code == 0, result.output
        assert NEW.installed_in(tmp_path / "t2")
        assert "answered with an old page (serial 10, 20 was seen before)" in result.stderr


def test_freshness_by_age(newest_pip: PipEnv, tmp_path: Path) -> None:
    """A copy that nobody has renewed for a day is refused, unless it is asked for."""
    with scene(tmp_path, NOW) as pool:
        pool.fault("cdn", Instead(BEFORE), Dressed((("Age", str(25 * 3600)),)), on="page")
        assert _installed(pool, newest_pip, tmp_path / "t1") == NEW.version
        assert "origin" in pool.served("page")

        pool.fault("origin", Refuse())
        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t2"), "--retries", "0", "demo-b")
        assert result.code == 1
        assert "answered with a page that is 25 hours old" in result.stderr

        pool.configure(oldest="0")
        assert _installed(pool, newest_pip, tmp_path / "t3") == OLD.version


# -- Slow loris


@pytest.mark.parametrize(
    ("who", "slow", "kind"),
    [
        ("redirector", SlowHead(1), "page"),
        ("cdn", SlowHead(1), "page"),
        ("cdn", Drip(1), "page"),
        ("cdn", SlowHead(1), "file"),
        ("cdn", Drip(1), "file"),
    ],
    ids=["a redirect", "head of a page", "page", "head of a file", "file"],
)
def test_slow_loris_is_left(who: str, slow: Fault, kind: str, newest_pip: PipEnv, tmp_path: Path) -> None:
    """One byte a second: every read brings something."""
    with scene(tmp_path, SITE, redirectors=1, cdn=1) as pool:
        pool.fault(who, slow, on=kind)

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "--timeout", "2", "demo-b", timeout=20)

        assert result.code == 0, result.output
        assert B.installed_in(tmp_path / "t")
        assert any(request.fault for request in _requests(pool, who))


# -- Terminal escapes


@pytest.mark.parametrize("command", ["install", "explain", "status"])
def test_terminal_escapes_in_what_servers_answer(command: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("redirector1", Redirect(f"http://evil.example/{LEGAL}{{path}}"))
    pool.fault("redirector2", Redirect(f"https://evil.example/{CONTROLS}{{path}}"))
    pool.fault("redirector3", Instead(SITE), Dressed((("Content-Type", f"text/{LEGAL}"),)))
    pool.fault("cdn1", Status(500), Phrase(CONTROLS))
    pool.fault("", Status(500, (("Retry-After", LEGAL),)), Phrase(LEGAL))
    arguments = {
        "install": ("pip", "install", *pool.arguments(), "--target", str(tmp_path / "t"), "--retries", "0", "demo-b"),
        "explain": ("cdn_fallback", "explain", "--cert", str(pool.ca), "--retries", "0", f"{pool.index}simple/demo-b/"),
        "status": ("cdn_fallback", "status", "--cert", str(pool.ca), "--project", "demo-b"),
    }

    result = newest_pip.execute("-m", *arguments[command], env=pool.environment, config=pool.config)

    assert result.code == 1
    assert f"redirects from https to http://evil.example/{PRINTED}" in result.output
    assert f"answered with text/{PRINTED.lower()}" in result.output
    assert "answered 500" in result.output
    assert len([request for request in _requests(pool, "") if request.fault]) == len(pool.servers)
    assert not RAW.search(result.output), ascii(result.output)


@pytest.mark.parametrize(
    ("phrase", "said"), [(LEGAL, f"404 Client Error: {PRINTED}"), (CONTROLS, "")], ids=["legal", "controls"]
)
def test_terminal_escapes_in_the_reason_of_a_final_answer(
    phrase: str, said: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """pip tells it."""
    pool.fault("", Status(404), Phrase(phrase), on="file")

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b")

    assert result.code == 1
    assert said in result.stderr
    assert not RAW.search(result.output), ascii(result.output)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (LEGAL, f"https://{CDN}:1/"),
        ("\x9b", "redirects to a URL which is no place"),
    ],
    ids=["text", "no text"],
)
def test_terminal_escapes_in_a_place_out_of_the_pool(
    place: str, said: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """pip goes there, and tells how it went; but what is no text would end it in a traceback."""
    pool.fault("", Redirect(f"https://{CDN}:1/{place}{{path}}"), on="file")

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b")

    assert result.code == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not RAW.search(result.output), ascii(result.output)


def test_terminal_escapes_in_the_name_of_a_file(newest_pip: PipEnv, tmp_path: Path) -> None:
    """A build tag may hold anything. The file is not what the page promises, so that somebody has to name it."""
    name = "demo_b-1.0-1%1B%5B31m%E2%80%AE%0D-py3-none-any.whl"
    page = _page(SITE).body.replace(B.filename.encode(), name.encode())
    with scene(tmp_path, SITE) as pool:
        for who in ("cdn", "origin"):
            pool.fault(who, Body(page, (("Content-Type", JSON),)), on="page")
            pool.fault(who, Body(b"something else"))

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b")

        assert result.code == 1
        assert r"served demo_b-1.0-1\x1b[31m\u202e\r-py3-none-any.whl" in result.stderr
        assert not RAW.search(result.output), ascii(result.output)


# -- Embedded credentials


def _from_the_url(pool: Scene, home: Path) -> tuple[str, ...]:
    return ("--index-url", f"https://me:of-the-index@{INDEX}:{pool.port}/simple/")


def _from_netrc(pool: Scene, home: Path) -> tuple[str, ...]:
    netrc = home / ".netrc"
    netrc.write_text("default login me password of-the-index\n")
    netrc.chmod(0o600)
    return ()


def _of_endpoints(pool: Scene, home: Path) -> tuple[str, ...]:
    pool.configure(cdn=pool.base(f"me:of-the-cdn@{CDN}"), origin=pool.base(f"me:of-the-origin@{ORIGIN}"))
    return ()


def _in_a_location(pool: Scene, home: Path) -> tuple[str, ...]:
    pool.fault("redirector", Redirect(f"https://me:of-the-location@{CDN}:{pool.port}{{path}}"))
    return ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (_from_the_url, {"redirector": "of-the-index"}),
        (_from_netrc, {"redirector": "of-the-index"}),
        (_of_endpoints, {"cdn": "of-the-cdn", "origin": "of-the-origin"}),
        (_in_a_location, {}),
    ],
)
def test_credentials_go_to_their_host_alone(
    given: object, expected: Mapping[str, str], pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """Wherever a page and a file come from in the end: the CDN asks for a password, and breaks the file off."""
    assert callable(given)
    home = tmp_path / "home"
    home.mkdir()
    arguments = given(pool, home)
    pool.fault("cdn", Status(401, (("WWW-Authenticate", 'Basic realm="all"'),)), on="page")
    pool.fault("cdn", Truncate(0.5), on="file")

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), *arguments, "demo-b", home=home)

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    assert pool.served("page") == pool.served("file") == {"origin"}
    for role in ("redirector", "cdn", "origin"):
        seen = {request.header("Authorization") for request in _requests(pool, role)}
        assert seen == {_basic(f"me:{expected[role]}") if role in expected else None}, role
    assert "of-the" not in result.output
    assert "of-the" not in (home / ".cache" / "cdn-fallback" / "health.json").read_text()


def test_credentials_in_a_location_out_of_the_pool_are_dropped(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    with _elsewhere(pool, SITE) as (other, url):
        pool.fault("redirector", Redirect(f"{url.replace('://', '://me:of-the-location@')}{{path}}"))
        secret = ("--index-url", f"https://me:of-the-index@{INDEX}:{pool.port}/simple/")

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), *secret, "demo-b")

        assert result.code == 0, result.output
        assert {request.header("Authorization") for request in other.requests} == {None}


# -- Trust in one host


def test_cookies_stay_with_their_host(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    def cookie(who: str) -> Dressed:
        return Dressed((("Set-Cookie", f"of={who}; Domain=python.org; Path=/"),))

    pool.fault("redirector", Instead(SITE), cookie("index"), on="page")
    pool.fault("cdn", Status(503), cookie("cdn"), on="file")
    pool.fault("cdn", cookie("cdn"))
    pool.fault("origin", cookie("origin"))

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "demo-a")

    assert result.code == 0, result.output
    seen = {role: {r.header("Cookie") for r in _requests(pool, role)} for role in ("redirector", "cdn", "origin")}
    assert seen == {"redirector": {None, "of=index"}, "cdn": {None}, "origin": {None}}


def test_trusted_host_with_an_http_url_says_nothing_about_where_it_leads(
    pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    with Server(Redirector(pool.index), pool.servers["origin"].address, 0) as trusted:
        index = ["--index-url", f"{trusted.url}simple/", "--trusted-host", trusted.address, "--retries", "0"]
        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t1"), *index, "demo-b")
        assert result.code == 0, result.output

        pool.heal()
        pool.fault("", UnknownCA())
        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t2"), *index, "demo-b")
        assert result.code == 1
        assert trusted.requests
        assert "failed in TLS (certificate" in result.stderr
        assert not _requests(pool, "")


def _installed(pool: Scene, pip: PipEnv, target: Path, home: Path | None = None) -> str:
    """The version of demo-b that a run installs."""
    result = pool.pip(pip, *INSTALL, str(target), "demo-b", home=home)
    assert result.code == 0, result.output
    (found,) = [dist.version for dist in (OLD, NEW) if dist.installed_in(target)]
    return found


def _page(site: Site) -> Answer:
    return site.answer(Request("GET", PAGE, (("Accept", JSON),)))


@contextlib.contextmanager
def _elsewhere(pool: Scene, content: Content) -> Iterator[tuple[Server, str]]:
    """A https server on a host outside of the pool, and its URL without the last slash."""
    assert pool.authority is not None
    address = pool.servers["origin"].address.rpartition(".")[0] + ".91"
    hosts = Path(pool.environment["NSS_WRAPPER_HOSTS"])
    hosts.write_text(hosts.read_text() + f"{address} elsewhere.example\n")
    with Server(content, address, 0, tls=pool.authority.server("elsewhere.example")) as server:
        yield server, f"https://elsewhere.example:{server.port}"


def _requests(pool: Scene, who: str) -> list[Request]:
    return [request for server in pool.group(who) for request in server.requests]


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()
