"""One test for each fault, on the built wheel: what got installed, how pip ended, who was asked what.

The scene: three redirector addresses send everything to a CDN of two addresses; behind it is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.faults import (
    Blackhole,
    Close,
    Corrupt,
    CutPage,
    Fault,
    LoginPage,
    Refuse,
    Reset,
    Silent,
    Stall,
    Status,
    TLSHang,
    Truncate,
    WrongCertificate,
)
from tests.rig.pips import PipEnv
from tests.rig.sample import B
from tests.rig.scene import Scene

pytestmark = pytest.mark.parametrize("pool", ["http", "https"], indirect=True)


@dataclass(frozen=True)
class Case:
    """A fault, who has it, and who then serves what."""

    name: str
    fault: Fault
    where: str  # the servers that have it
    on: str | None  # what of
    page: set[str]
    file: set[str]
    seen: int | None = None  # how many of the faulty servers' requests the fault took part in, at least
    said: str = ""  # what the log line of the failover says
    https_only: bool = False


BOTH = {"cdn1", "cdn2"}

CASES = [
    Case("refused", Refuse(), "cdn", None, {"origin"}, {"origin"}, said="did not connect"),
    Case("one-refused", Refuse(), "cdn1", None, {"cdn2"}, {"cdn2"}),
    Case("closed", Close(), "cdn", "any", {"origin"}, {"origin"}, 2, "broke the connection off"),
    Case("reset", Reset(), "cdn", "any", {"origin"}, {"origin"}, 2, "broke the connection off"),
    Case("503", Status(503), "cdn", "any", {"origin"}, {"origin"}, 2, "answered 503"),
    Case(
        "429",
        Status(429, headers=(("Retry-After", "3600"),)),
        "cdn",
        "any",
        {"origin"},
        {"origin"},
        1,
        "answered 429",
    ),
    Case("address-blackholed", Blackhole(), "cdn1", None, {"cdn2"}, {"cdn2"}),
    Case("cdn-blackholed", Blackhole(), "cdn", None, {"origin"}, {"origin"}, said="did not connect"),
    Case("silent", Silent(), "cdn", "page", {"origin"}, BOTH | {"origin"}, 2, "did not answer"),
    Case("page-truncated", Truncate(0.5), "cdn", "page", {"origin"}, BOTH, 1, "stopped after"),
    Case("page-chunks-cut", Truncate(0.5, "chunked"), "cdn", "page", {"origin"}, BOTH, 1, "stopped in the middle"),
    Case("page-unframed-cut", Truncate(0.5, "close"), "cdn", "page", {"origin"}, BOTH, 1, "damaged JSON"),
    Case("page-cut", CutPage(0.5), "cdn", "page", {"origin"}, BOTH, 1, "damaged JSON"),
    Case("login-page", LoginPage(), "cdn", "page", {"origin"}, BOTH, 1, "login page"),
    Case("file-truncated", Truncate(0.5), "cdn", "file", BOTH, {"origin"}, 1, "stopped after"),
    Case("file-unframed-cut", Truncate(0.5, "close"), "cdn", "file", BOTH, {"origin"}, 1, "another hash"),
    Case("file-stalled", Stall(0.5), "cdn1", "file", BOTH, {"cdn2"}, None, ""),
    Case("wrong-hash", Corrupt(0.5), "cdn", "file", BOTH, {"origin"}, 1, "another hash"),
    Case("wrong-certificate", WrongCertificate(), "cdn", None, {"origin"}, {"origin"}, None, "failed in TLS", True),
    Case("one-certificate-wrong", WrongCertificate(), "cdn1", None, {"cdn2"}, {"cdn2"}, None, "", True),
    Case("tls-hangs", TLSHang(), "cdn1", None, {"cdn2"}, {"cdn2"}, None, "", True),
    Case("redirectors-dead", Refuse(), "redirector", None, BOTH, BOTH, said="did not connect"),
    Case("redirectors-blackholed", Blackhole(), "redirector", None, BOTH, BOTH, said="did not connect"),
    Case("only-the-origin-left", Refuse(), "redirector cdn", None, {"origin"}, {"origin"}, said="did not connect"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_installs_in_spite_of(case: Case, pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    if case.https_only and pool.scheme == "http":
        pytest.skip("a fault of TLS")
    for where in case.where.split():
        pool.fault(where, case.fault, on=case.on)

    result = pool.pip(pip, "install", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    assert pool.served("page") and pool.served("page") <= case.page, pool.asked()
    assert pool.served("file") and pool.served("file") <= case.file, pool.asked()
    assert case.said in result.stderr
    if not case.said:
        assert "WARNING" not in result.stderr
    for where in case.where.split():
        _assert_seen(pool, where, case)
    assert "Traceback" not in result.output


def _assert_seen(pool: Scene, where: str, case: Case) -> None:
    """The faulty servers really were asked, as often as the promise says and no more."""
    hit = [r for server in pool.group(where) for r in server.requests if r.fault]
    if case.seen is not None:
        assert len(hit) >= case.seen, pool.asked()
    for server in pool.group(where):
        paths = [request.path for request in server.requests if request.fault]
        assert len(paths) == len(set(paths)), f"asked again for what had failed: {pool.asked()}"


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
