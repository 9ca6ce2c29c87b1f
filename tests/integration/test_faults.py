"""One test for each way to fail, on the built wheel: what was installed, how pip ended, who was asked how often.

The scene: three redirector addresses send everything to a CDN of two addresses; behind it is the origin. Where
it is the index itself that fails, redirectors and CDN both do, and the origin is left.
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
    SOMEBODY,
    UNCONNECTED,
    WELL,
    Every,
    Failure,
    Releases,
    before_the_file,
    first,
    once,
    resolver,
)
from tests.rig.faults import (
    Blackhole,
    Close,
    Corrupt,
    CutPage,
    Drip,
    ExpiredCertificate,
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
from tests.rig.pips import PipEnv
from tests.rig.sample import B
from tests.rig.scene import Scene

both_schemes = pytest.mark.parametrize("pool", ["http", "https"], indirect=True)


@dataclass(frozen=True)
class Case(Failure):
    """What is wrong, and what comes of it.

    `every_pip=False`: one of several in its row that go through the very same lines of our code, kept from most
    pips to save their time; see conftest.
    """

    every_pip: bool = True


alike = functools.partial(Case, every_pip=False)
tls = functools.partial(Case, schemes=("https",))
tls_alike = functools.partial(tls, every_pip=False)

AGAIN = {"redirector": 1, "cdn": 3, "origin": 1}  # and once more at the CDN, in a second pass
SOON, LATE = (("Retry-After", "20"),), (("Retry-After", "3600"),)

# The table of pip's failures (FACTS, part A, section 5), in its order: each comment is a row, each name begins
# as its row does. The last row, a dead index beside a live --extra-index-url, is the first test in test_promises.
# fmt: off
FAILURES = [
    # index refused / closed / RST
    Case("index-refused", Every(ALL, Refuse()), ORIGIN, ORIGIN, UNCONNECTED),
    Case("index-closed", Every(ALL, Close(), "page"), EACH_ADDRESS, SOMEBODY, BROKEN_OFF),
    alike("index-rst", Every(ALL, Reset(), "page"), EACH_ADDRESS, SOMEBODY, BROKEN_OFF),
    # index or file SYN blackhole; no reply; TLS handshake hang
    Case("index-blackhole", Every(ALL, Blackhole()), ORIGIN, ORIGIN, UNCONNECTED),
    Case("file-blackhole", before_the_file("cdn", Blackhole()), WELL, LED_ON, UNCONNECTED),
    Case("index-no-reply", Every(ALL, Silent(), "page"), EACH_ADDRESS, SOMEBODY, "did not answer"),
    Case("file-no-reply", Every("cdn", Silent(), "file"), WELL, EACH_CDN, "did not answer"),
    tls("index-tls-hang", Every(ALL, TLSHang()), ORIGIN, ORIGIN, UNCONNECTED),
    tls_alike("file-tls-hang", before_the_file("cdn", TLSHang()), WELL, LED_ON, UNCONNECTED),
    # index 500/502/503
    alike("index-500", Every(ALL, Status(500), "page"), EACH_ADDRESS, SOMEBODY, "answered 500"),
    alike("index-502", Every(ALL, Status(502), "page"), EACH_ADDRESS, SOMEBODY, "answered 502"),
    Case("index-503", Every(ALL, Status(503), "page"), EACH_ADDRESS, SOMEBODY, "answered 503"),
    # index 504, 429, 403, 404
    alike("index-504", Every(ALL, Status(504), "page"), EACH_ADDRESS, SOMEBODY, "answered 504"),
    Case("index-429", Every(ALL, Status(429), "page"), EACH_ADDRESS, SOMEBODY, "answered 429"),
    Case("index-403", Every(ALL, Status(403), "page"), EACH, SOMEBODY, "answered 403"),
    Case("index-404", Every(ALL, Status(404), "page"), EACH, SOMEBODY),
    # index 503 or 429, Retry-After 20, once
    Case("index-503-retry-after-20-once", once("redirector", Status(503, SOON), "page"), WELL, CDN, "answered 503"),
    alike("index-429-retry-after-20-once", once("redirector", Status(429, SOON), "page"), WELL, CDN, "answered 429"),
    alike("index-503-retry-after-3600", Every(ALL, Status(503, LATE)), EACH, ORIGIN, "answered 503"),
    Case("index-429-retry-after-3600", Every(ALL, Status(429, LATE)), EACH, ORIGIN, "answered 429"),
    # index truncated (Content-Length or chunked), even once
    Case("index-truncated-length", Every("cdn", CUT, "page"), EACH, SOMEBODY, NOT_WHOLE),
    Case("index-truncated-length-once", once("cdn", CUT, "page"), EACH, SOMEBODY, NOT_WHOLE),
    Case("index-truncated-chunked", Every("cdn", CUT_CHUNKS, "page"), EACH, SOMEBODY, "stopped in the middle"),
    Case("index-truncated-chunked-once", once("cdn", CUT_CHUNKS, "page"), EACH, SOMEBODY, "stopped in the middle"),
    # index truncated, no length: JSON / HTML (<=26.0 likely also with length)
    Case("index-truncated-no-length-json", Every("cdn", CUT_UNSEEN, "page"), EACH, SOMEBODY, "damaged JSON"),
    Case("index-truncated-no-length-html", Releases(Truncate(OLDER, "close")), EACH, SOMEBODY, "stops in the middle"),
    Case("index-truncated-length-html", Releases(Truncate(OLDER)), EACH, SOMEBODY, NOT_WHOLE),
    # index stall mid-body
    Case("index-stall", Every("cdn", Stall(), "page"), EACH_CDN, SOMEBODY, "stalled after"),
    # index drip 20 B/s
    Case("index-drip-20B", Every("cdn", Drip(20), "page"), EACH_CDN, SOMEBODY, "stalled after"),
    # index 200 login page
    Case("index-login-page", Every("cdn", LoginPage(), "page"), EACH, SOMEBODY, "login page"),
    # index redirect -> refused / blackhole
    Case("index-redirect-refused", Every("cdn", Refuse()), LED_ON, LED_ON, UNCONNECTED),
    Case("index-redirect-blackhole", Every("cdn", Blackhole()), LED_ON, LED_ON, UNCONNECTED),
    # file refused / 500 / 503
    Case("file-refused", before_the_file("cdn", Refuse()), WELL, LED_ON, UNCONNECTED),
    alike("file-500", Every("cdn", Status(500), "file"), WELL, EACH_CDN, "answered 500"),
    Case("file-503", Every("cdn", Status(503), "file"), WELL, EACH_CDN, "answered 503"),
    # file 503 three times, then ok
    Case("file-503-three-times", Every("cdn origin", Status(503), "file", 1), WELL, AGAIN, "answered 503"),
    # file 504/429/403/404
    Case("file-504", Every("cdn", Status(504), "file"), WELL, EACH_CDN, "answered 504"),
    alike("file-429", Every("cdn", Status(429), "file"), WELL, EACH_CDN, "answered 429"),
    Case("file-403", Every("cdn", Status(403), "file"), WELL, EACH, "answered 403"),
    Case("file-404", Every("cdn", Status(404), "file"), WELL, EACH),
    # file truncated or RST, once; file truncated always (RST: some Pythons take it for an end in TLS, cpython#115627)
    Case("file-truncated-once", once("cdn", CUT, "file"), WELL, CDN | ORIGIN, NOT_WHOLE),
    Case("file-rst-once", once("cdn", ResetMidway(), "file"), WELL, {"cdn": 2}, schemes=("http",)),
    Case("file-truncated", Every("cdn", CUT, "file"), WELL, CDN | ORIGIN, NOT_WHOLE),
    Case("file-rst", Every("cdn", ResetMidway(), "file"), WELL, {"cdn": 2} | ORIGIN, "broke off after", ("http",)),
    # file stall once / always
    Case("file-stall-once", once("cdn", Stall(), "file"), WELL, {"cdn": 2}),
    Case("file-stall", Every("cdn", Stall(), "file"), WELL, {"cdn": 2} | ORIGIN, "stalled after"),
    # file truncated without length; bad hash
    Case("file-truncated-no-length", Every("cdn", CUT_UNSEEN, "file"), WELL, EACH, "another hash"),
    Case("file-bad-hash", Every("cdn", Corrupt(), "file"), WELL, EACH, "another hash"),
    # file drip 20 kB/s (ours to bear: the limit is 10 KiB/s)
    Case("file-drip-20kB", Every("cdn", Drip(20_000), "file"), WELL, CDN),
    Case("file-drip-2kB", Every("cdn", Drip(2_000), "file"), WELL, {"cdn": 2} | ORIGIN, "stalled after"),
    # name with 3 IPs: 2 refused / 2 blackholed, 1 ok
    Case("2-of-3-addresses-refused", Every("redirector1 redirector2", Refuse()), WELL, CDN),
    Case("2-of-3-addresses-blackholed", Every("redirector1 redirector2", Blackhole()), WELL, CDN),
    # 3 IPs: first answers 503 / hangs
    Case("first-address-503", first("redirector", Status(503), "page"), CDN | {"redirector": 2}, CDN),
    Case("first-address-hangs", first("redirector", Silent(), "page"), CDN | {"redirector": 2}, CDN),
    # 3 IPs all blackholed
    Case("3-of-3-addresses-blackholed", Every("redirector", Blackhole()), CDN, CDN, UNCONNECTED),
    # DNS quick failure / silent DNS server
    Case("dns-fails", resolver("fails"), CDN, CDN, "did not resolve"),
    Case("dns-silent", resolver("silent"), CDN, CDN, "did not resolve"),
    # TLS wrong host, unknown CA, reset, garbage
    tls("tls-wrong-host", Every(ALL, WrongCertificate()), ORIGIN, ORIGIN, "failed in TLS"),
    tls("tls-unknown-ca", Every(ALL, UnknownCA()), ORIGIN, ORIGIN, "failed in TLS"),
    tls("tls-reset", Every(ALL, TLSReset()), ORIGIN, ORIGIN, "failed in TLS"),
    tls("tls-garbage", Every(ALL, TLSGarbage()), ORIGIN, ORIGIN, "failed in TLS"),
    tls("tls-expires", before_the_file("cdn", ExpiredCertificate()), WELL, LED_ON, "certificate has expired"),
    # beyond the table: a page that had been cut before it was served; what only a pool has
    Case("index-cut", Every("cdn", CutPage(), "page"), EACH, SOMEBODY, "damaged JSON"),
    alike("cdn-address-refused", Every("cdn1", Refuse()), WELL, CDN),
    alike("cdn-address-blackholed", Every("cdn1", Blackhole()), WELL, CDN),
    alike("redirectors-refused", Every("redirector", Refuse()), CDN, CDN, UNCONNECTED),
]
# fmt: on


def test_installs_in_spite_of(failure: Case, pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    failure.harm(pool)

    # What hangs is to hang for 2 s. pip asks the programs on PATH for their versions: an eighth of its time.
    lean = {"PATH": str(any_pip.python.parent)}
    arguments = ("--timeout", "2", "--no-compile", "--target", str(tmp_path / "t"), "demo-b")
    result = pool.pip(any_pip, "install", *arguments, env=lean)

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    failure.check_requests(pool, result.stderr)
    assert failure.said in result.stderr
    assert ("WARNING" in result.stderr) == bool(failure.said), result.stderr
    assert "Traceback" not in result.output


def test_a_cut_page_makes_plain_pip_install_an_older_release(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    Releases(Truncate(OLDER, "close"))(pool)

    result = pool.pip(newest_pip, "install", "--target", str(tmp_path / "t"), "demo-b", plain=True)

    assert result.code == 0, result.output
    assert "Successfully installed demo-b-0.9" in result.stdout, "what the case of this name is there for"


@both_schemes
def test_all_well_is_quiet_and_uses_the_pool(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    result = pool.pip(pip, "install", "--target", str(tmp_path / "t"), "demo-a")

    assert result.code == 0, result.output
    assert result.stderr == ""
    assert "origin" not in {line.split()[0] for line in pool.asked()}
    redirected = [line for line in pool.asked() if line.startswith("redirector")]
    answered = [line for line in pool.asked() if line.startswith("cdn")]
    assert len(redirected) == 1, "what it said may be used again: its Cache-Control says so"
    assert len(answered) == 6
    # one address of each is used for the whole run, over one connection; a busy machine may start two in the race
    assert len({line.split()[0] for line in redirected}) == len({line.split()[0] for line in answered}) == 1
    for server in (*pool.group("redirector"), *pool.group("cdn")):
        assert server.connections <= 1


@both_schemes
def test_everything_dead_names_every_attempt(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("", Refuse())

    result = pool.pip(pip, "install", "--retries", "1", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 1
    assert not (tmp_path / "t").exists()
    for server in pool.group(""):
        assert server.address in result.stderr
    assert f"no usable answer for {pool.index}simple/demo-b/" in result.stderr
    assert result.stderr.count("Connection refused") >= 2 * 6
    assert result.seconds < 30


@both_schemes
def test_a_wrong_hash_everywhere_is_a_hard_error(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Corrupt(0.5), on="file")
    pool.fault("origin", Corrupt(0.25), on="file")

    result = pool.pip(pip, "install", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 1
    assert not (tmp_path / "t" / "demo_b").exists()
    assert "does not have the hash that its index promises" in result.stderr
    for host in ("cdn.example.net", "origin.example.org"):
        assert f"{pool.base(host)} served sha256:" in result.stderr
    files = [line.split()[0] for line in pool.asked(kind="file") if not line.startswith("redirector")]
    assert len(files) == 2, "refetched once"
