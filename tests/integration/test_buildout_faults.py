"""One test for each way to fail, with the built wheel as an extension of real buildouts: the twin of test_faults.

The scene is the same: three redirector addresses send everything to a CDN of two addresses; behind it is the
origin. Where it is the index itself that fails, redirectors and CDN both do, and the origin is left. The files
that ``extends=`` names are fetched before any extension is loaded: there cdn-fallback is enabled instead.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.harms import (
    ALL,
    BROKEN_OFF,
    CDN,
    CUT,
    CUT_CHUNKS,
    CUT_UNSEEN,
    EACH,
    EACH_ADDRESS,
    EACH_CDN,
    LED_ON,
    NOT_WHOLE,
    OLDER,
    ORIGIN,
    RELEASES,
    SOMEBODY,
    UNCONNECTED,
    WELL,
    Every,
    Failure,
    Harm,
    Releases,
    before_the_file,
    first,
    once,
    resolver,
)
from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.dists import wheel
from tests.rig.faults import (
    Blackhole,
    Body,
    Close,
    Corrupt,
    Drip,
    Fault,
    LoginPage,
    Refuse,
    Reset,
    ResetMidway,
    Silent,
    Stall,
    Status,
    TLSGarbage,
    TLSHang,
    TLSReset,
    Truncate,
    UnknownCA,
    WrongCertificate,
)
from tests.rig.pips import Result
from tests.rig.sample import A, B
from tests.rig.scene import Scene
from tests.rig.site import Site

both_schemes = pytest.mark.parametrize("pool", ["http", "https"], indirect=True)


@dataclass(frozen=True)
class Case(Failure):
    """What is wrong, and what comes of it.

    `every_buildout=False`: one of several in its row that go through the very same lines of our code, or a slow
    one beside a quick one, kept from the older buildouts to save their time; see conftest.
    """

    every_buildout: bool = True


alike = functools.partial(Case, every_buildout=False)
tls = functools.partial(Case, schemes=("https",))
tls_alike = functools.partial(tls, every_buildout=False)

HALF_A_PAGE = "an HTML page that stops in the middle"

# The table of buildout's failures (FACTS, part A, section 5), in its order: each comment is a row, each name begins
# as its row does. What is not here has a test of its own below: an egg that is there, and ``extends=``.
# fmt: off
FAILURES = [
    # index refused / RST / closed
    Case("index-refused", Every(ALL, Refuse()), ORIGIN, ORIGIN, UNCONNECTED),
    alike("index-rst", Every(ALL, Reset(), "page"), EACH_ADDRESS, SOMEBODY, BROKEN_OFF),
    alike("index-closed", Every(ALL, Close(), "page"), EACH_ADDRESS, SOMEBODY, BROKEN_OFF),
    # index blackhole / no reply
    Case("index-blackhole", Every(ALL, Blackhole()), ORIGIN, ORIGIN, UNCONNECTED),
    alike("index-no-reply", Every(ALL, Silent(), "page"), EACH_ADDRESS, SOMEBODY, "did not answer"),
    # index 500/503/504/429/403, even once
    alike("index-500", Every(ALL, Status(500), "page"), EACH_ADDRESS, SOMEBODY, "answered 500"),
    Case("index-503", Every(ALL, Status(503), "page"), EACH_ADDRESS, SOMEBODY, "answered 503"),
    alike("index-504", Every(ALL, Status(504), "page"), EACH_ADDRESS, SOMEBODY, "answered 504"),
    alike("index-429", Every(ALL, Status(429), "page"), EACH_ADDRESS, SOMEBODY, "answered 429"),
    alike("index-403", Every(ALL, Status(403), "page"), EACH, SOMEBODY, "answered 403"),
    alike("index-503-once", once("redirector", Status(503), "page"), CDN | {"redirector": 2}, CDN),
    alike("index-403-once", once("redirector", Status(403), "page"), WELL, WELL, "answered 403"),
    # index truncated with length
    Case("index-truncated-length", Every("cdn", CUT, "page"), EACH, SOMEBODY, NOT_WHOLE),
    alike("index-truncated-length-once", once("cdn", CUT, "page"), EACH, SOMEBODY, NOT_WHOLE),
    alike("index-truncated-chunked", Every("cdn", CUT_CHUNKS, "page"), EACH, SOMEBODY, "stopped in the middle"),
    # index truncated without length
    alike("index-truncated-no-length", Every("cdn", CUT_UNSEEN, "page"), EACH, SOMEBODY, HALF_A_PAGE),
    Case("index-truncated-no-length-older", Releases(Truncate(OLDER, "close")), EACH, SOMEBODY, HALF_A_PAGE),
    # index stall / drip
    Case("index-stall", Every("cdn", Stall(), "page"), EACH_CDN, SOMEBODY, "stalled after"),
    alike("index-drip-20B", Every("cdn", Drip(20), "page"), EACH_CDN, SOMEBODY, "stalled after"),
    # login page
    Case("index-login-page", Every("cdn", LoginPage(), "page"), EACH, SOMEBODY, "login page"),
    # redirect -> refused / blackhole
    Case("index-redirect-refused", Every("cdn", Refuse()), LED_ON, LED_ON, UNCONNECTED),
    alike("index-redirect-blackhole", Every("cdn", Blackhole()), LED_ON, LED_ON, UNCONNECTED),
    # file refused / blackhole / hang
    Case("file-refused", before_the_file("cdn", Refuse()), WELL, LED_ON, UNCONNECTED),
    alike("file-blackhole", before_the_file("cdn", Blackhole()), WELL, LED_ON, UNCONNECTED),
    alike("file-no-reply", Every("cdn", Silent(), "file"), WELL, EACH_CDN, "did not answer"),
    # file 5xx, 404, truncated, bad hash, even once (RST: some Pythons take it for an end in TLS, cpython#115627)
    alike("file-500", Every("cdn", Status(500), "file"), WELL, EACH_CDN, "answered 500"),
    Case("file-503", Every("cdn", Status(503), "file"), WELL, EACH_CDN, "answered 503"),
    alike("file-503-once", once("cdn", Status(503), "file"), WELL, {"cdn": 2}),
    Case("file-404", Every("cdn", Status(404), "file"), WELL, EACH),
    Case("file-truncated-length", Every("cdn", CUT, "file"), WELL, CDN | ORIGIN, NOT_WHOLE),
    alike("file-truncated-length-once", once("cdn", CUT, "file"), WELL, CDN | ORIGIN, NOT_WHOLE),
    alike("file-truncated-chunked", Every("cdn", CUT_CHUNKS, "file"), WELL, CDN | ORIGIN, "stopped in the middle"),
    Case("file-truncated-no-length", Every("cdn", CUT_UNSEEN, "file"), WELL, EACH, "another hash"),
    alike("file-bad-hash", Every("cdn", Corrupt(), "file"), WELL, EACH, "another hash"),
    alike("file-bad-hash-once", once("cdn", Corrupt(), "file"), WELL, EACH, "another hash"),
    alike("file-rst", Every("cdn", ResetMidway(), "file"), WELL, {"cdn": 2} | ORIGIN, "broke off after", ("http",)),
    alike("file-rst-once", once("cdn", ResetMidway(), "file"), WELL, {"cdn": 2}, schemes=("http",)),
    # file stall
    Case("file-stall", Every("cdn", Stall(), "file"), WELL, {"cdn": 2} | ORIGIN, "stalled after"),
    alike("file-drip-2kB", Every("cdn", Drip(2_000), "file"), WELL, {"cdn": 2} | ORIGIN, "stalled after"),
    # 3 IPs: 2 blackholed, 1 ok
    Case("2-of-3-addresses-blackholed", Every("redirector1 redirector2", Blackhole()), WELL, CDN),
    # 3 IPs: first answers 503
    Case("first-address-503", first("redirector", Status(503), "page"), CDN | {"redirector": 2}, CDN),
    # beyond the table: names and TLS, as with pip
    alike("dns-fails", resolver("fails"), CDN, CDN, "did not resolve"),
    tls("tls-wrong-host", Every(ALL, WrongCertificate()), ORIGIN, ORIGIN, "failed in TLS"),
    tls_alike("tls-unknown-ca", Every(ALL, UnknownCA()), ORIGIN, ORIGIN, "failed in TLS"),
    tls_alike("tls-hang", Every(ALL, TLSHang()), ORIGIN, ORIGIN, UNCONNECTED),
    tls_alike("tls-reset", Every(ALL, TLSReset()), ORIGIN, ORIGIN, "failed in TLS"),
    tls_alike("tls-garbage", Every(ALL, TLSGarbage()), ORIGIN, ORIGIN, "failed in TLS"),
]
# fmt: on


def test_installs_in_spite_of(failure: Case, pool: Scene, buildout: BuildoutEnv, tmp_path: Path) -> None:
    failure.harm(pool)
    checkout = Checkout.of(tmp_path / "checkout", pool, "demo-b")

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert checkout.has(B) and list(checkout.eggs) == ["demo-b 1.0"]
    failure.check_requests(pool, result.output)
    said = [line for line in result.stdout.splitlines() if line.startswith("cdn_fallback: ")]
    assert any(failure.said in line for line in said) == bool(said) == bool(failure.said), result.output
    assert "Traceback" not in result.output


def test_a_cut_page_makes_plain_buildout_install_an_older_release(
    pool: Scene, newest_buildout: BuildoutEnv, tmp_path: Path
) -> None:
    Releases(Truncate(OLDER, "close"))(pool)
    checkout = Checkout.of(tmp_path / "checkout", pool, "demo-b")

    result = checkout.run(newest_buildout, plain=True)

    assert result.code == 0, result.output
    assert list(checkout.eggs) == ["demo-b 0.9"], "what the case of this name is there for"


@both_schemes
def test_all_well_is_quiet_and_uses_the_pool(pool: Scene, buildout: BuildoutEnv, tmp_path: Path) -> None:
    checkout = Checkout.of(tmp_path / "checkout", pool, "demo-a")

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert sorted(checkout.eggs) == ["demo-a 1.0", "demo-b 1.0"]
    assert "cdn_fallback" not in result.output
    assert pool.counted("page") == {"redirector": 1, "cdn": 2}, "what a redirector said may be used again"
    assert pool.counted("file") == {"cdn": 2}
    # one address of each is used for the whole run, over one connection; a busy machine may start two in the race
    assert len({line.split()[0] for line in pool.asked()}) == 2
    for server in pool.group(""):
        assert server.connections <= 1


# --- egg 1.0 present, index refused / blackhole, newest ---

NEWER = wheel("demo-b", "2.0")


def has_eggs(pool: Scene, buildout: BuildoutEnv, folder: Path) -> Checkout:
    """A checkout with demo-a 1.0 and demo-b 1.0, made before there was a demo-b 2.0."""
    checkout = Checkout.of(folder, pool, "demo-a")
    done = checkout.run(buildout)
    assert done.code == 0, done.output
    for server in (*pool.group("cdn"), *pool.group("origin")):
        server.content = Site.of(A, B, NEWER)
    for server in pool.group(""):
        server.forget()
    return checkout


@pytest.mark.parametrize("fault", [Refuse(), Blackhole()], ids=["refused", "blackhole"])
def test_a_newer_egg_comes_from_the_origin(fault: Fault, pool: Scene, buildout: BuildoutEnv, tmp_path: Path) -> None:
    checkout = has_eggs(pool, buildout, tmp_path / "checkout")
    Every(ALL, fault)(pool)

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert checkout.has(NEWER) and "Got demo-b 2.0." in result.stdout
    assert pool.counted("page") == {"origin": 2} and pool.counted("file") == ORIGIN
    assert UNCONNECTED in result.stdout and "could not be checked" not in result.output


def test_an_egg_is_kept_where_nobody_can_tell_of_a_newer_one(
    pool: Scene, buildout: BuildoutEnv, tmp_path: Path
) -> None:
    checkout = has_eggs(pool, buildout, tmp_path / "checkout")
    pool.fault("", Refuse())

    result = checkout.run(buildout)

    kept_and_said(checkout, result)


def test_an_egg_is_kept_where_all_are_blackholes(pool: Scene, newest_buildout: BuildoutEnv, tmp_path: Path) -> None:
    checkout = has_eggs(pool, newest_buildout, tmp_path / "checkout")
    pool.fault("", Blackhole())

    result = checkout.run(newest_buildout, timeout=BOUND)

    kept_and_said(checkout, result)


BOUND = 50.0  # s; an index page may take 29 s, and the machine may be busy


def kept_and_said(checkout: Checkout, result: Result) -> None:
    """The old eggs, and for each of them that there may be newer ones; what is dead is waited for once."""
    assert result.code == 0, result.output
    assert sorted(checkout.eggs) == ["demo-a 1.0", "demo-b 1.0"] and checkout.has(A) and checkout.has(B)
    assert result.stdout.count("cdn_fallback: whether there is a newer demo") == 2
    assert result.stdout.count(f"no usable answer for {checkout.pool.index}simple/demo-") == 1
    assert "Traceback" not in result.output


# --- extends= blackhole / hang ---

VERSIONS = b"[buildout]\nversions = versions\n\n[versions]\ndemo-b = 0.9\n"


def extends(
    pool: Scene, host: str, buildout: BuildoutEnv, folder: Path, *, extension: bool = False
) -> tuple[Checkout, Result]:
    """buildout where cdn-fallback is enabled; the CDN and the origin have a file of versions, it is sent to `host`."""
    for server in (*pool.group("cdn"), *pool.group("origin")):
        server.content = RELEASES
        server.fault(Body(VERSIONS), on="/versions.cfg")
    checkout = Checkout.of(folder, pool, "demo-b", extends=f"{pool.base(host)}versions.cfg")
    checkout.extension = extension
    enabled = {"PYTHONPATH": str(buildout.pip.site_packages / "cdn_fallback" / "_path")}
    return checkout, checkout.run(buildout, env=enabled | {"PIP_CONFIG_FILE": str(pool.config)}, timeout=BOUND)


@pytest.mark.parametrize(
    ("harm", "asked"),
    [(Every("cdn1", Blackhole()), {"cdn": 1}), (first("cdn", Silent(), "other"), {"cdn": 2})],
    ids=["blackhole", "hang"],
)
def test_extends_from_a_host_with_another_address(
    harm: Harm, asked: dict[str, int], pool: Scene, buildout: BuildoutEnv, tmp_path: Path
) -> None:
    harm(pool)

    checkout, result = extends(pool, "cdn.example.net", buildout, tmp_path / "checkout")

    assert result.code == 0, result.output
    assert list(checkout.eggs) == ["demo-b 0.9"], "what the file says"
    assert pool.counted("other") == asked
    assert pool.counted("page") == WELL
    assert "falling back" not in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("extension", [False, True], ids=["enabled", "enabled-and-extension"])
@pytest.mark.parametrize("fault", [Refuse(), Blackhole()], ids=["refused", "blackhole"])
def test_extends_from_the_origin_of_a_pool(
    fault: Fault, extension: bool, pool: Scene, buildout: BuildoutEnv, tmp_path: Path
) -> None:
    Every(ALL, fault)(pool)

    checkout, result = extends(pool, pool.index_host, buildout, tmp_path / "checkout", extension=extension)

    assert result.code == 0, result.output
    assert list(checkout.eggs) == ["demo-b 0.9"], "what the file says"
    assert pool.counted("other") == pool.counted("page") == pool.counted("file") == ORIGIN
    assert UNCONNECTED in result.stdout and "Traceback" not in result.output
    # before buildout sets up its logging
    (told,) = (line for line in result.stderr.splitlines() if "falling back" in line)
    assert told.startswith("cdn_fallback: redirector ")


@pytest.mark.parametrize("fault", [Blackhole(), Silent()], ids=["blackhole", "hang"])
def test_extends_from_a_dead_host_ends_with_an_error(
    fault: Fault, pool: Scene, newest_buildout: BuildoutEnv, tmp_path: Path
) -> None:
    pool.fault("origin", fault)

    checkout, result = extends(pool, "origin.example.org", newest_buildout, tmp_path / "checkout")

    assert result.code == 1, result.output
    (origin,) = pool.group("origin")
    assert f"no usable answer for {pool.base('origin.example.org')}versions.cfg" in result.stderr
    assert f"({origin.address}) {'did not' if fault == Blackhole() else 'connected, but did not'}" in result.stderr
    assert "Traceback" not in result.output
    assert not checkout.eggs
