"""What users, disks and clocks get wrong: a clear message or silence, never a traceback, nothing lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.rig.beside import memory
from tests.rig.faults import Fault, HugePage, Redirect, Refuse, Status, Truncate
from tests.rig.hostile import MIB, Bomb, Coded, Flood
from tests.rig.pips import PipEnv, Result
from tests.rig.sample import B
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene
from tests.rig.server import Server
from tests.rig.site import Site


@pytest.mark.parametrize(
    ("section", "line", "said"),
    [
        ("cdn = ftp://cdn.example.net/", 2, "cdn: ftp://cdn.example.net/ is no http or https URL"),
        ("cdn = https://cdn.example.net:port/", 2, "cdn: https://cdn.example.net:... has no valid host and port"),
        ("cnd = https://cdn.example.net/", 2, "cnd: is no key of ours; did you mean cdn?"),
        ("cdn = http://cdn.example.net/", 2, "http and https do not mix"),
        (
            "cdn = https://cdn.example.net/\n[cdn-fallback:two]\nindex = https://pypi.python.org/simple/",
            4,
            "the pools default (https://pypi.python.org/) and two (https://pypi.python.org/simple/) share URLs",
        ),
    ],
)
def test_a_wrong_setting_is_named_before_any_request(
    section: str, line: int, said: str, pool: Scene, any_pip: PipEnv, tmp_path: Path
) -> None:
    pool.config.write_text(f"[cdn-fallback]\n{section}\n")

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 1
    assert f"{pool.config}:{line}" in result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert pool.asked() == []


def test_a_wrong_variable_is_named(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    result = pool.pip(newest_pip, "install", "--target", str(tmp_path / "t"), "demo-b", env={"CDN_FALLBACK_CDN": "cdn"})

    assert result.code == 1
    assert "CDN_FALLBACK_CDN: cdn: cdn is no http or https URL" in result.stderr
    assert pool.asked() == []


def test_pips_that_ask_nothing_do_not_mind_a_wrong_setting(pool: Scene, newest_pip: PipEnv) -> None:
    pool.config.write_text("[cdn-fallback]\ncnd = x\n")

    assert newest_pip.run("list", config=pool.config).code == 0


def test_a_redirect_loop(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Redirect(pool.index.rstrip("/") + "{path}"))

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert "redirects in a loop" in result.stderr
    assert pool.served("file") == {"origin"}


def test_a_redirect_out_of_the_pool_is_pips_own_business(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    """pip follows it by its own rules: no credentials there, and the host must be one that pip accepts."""
    assert pool.authority is not None
    address = pool.servers["origin"].address.rpartition(".")[0] + ".91"
    hosts = Path(pool.environment["NSS_WRAPPER_HOSTS"])
    hosts.write_text(hosts.read_text() + f"{address} elsewhere.example\n")
    with Server(Site.of(B), address, 0, tls=pool.authority.server("elsewhere.example")) as other:
        pool.fault("redirector", Redirect(f"https://elsewhere.example:{other.port}{{path}}"))
        url = f"https://me:secret@{INDEX}:{pool.port}/simple/"

        result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "--index-url", url, "demo-b")

        assert result.code == 0, result.output
        assert {request.header("Authorization") for request in other.requests} == {None}
        assert not pool.group("cdn")[0].requests


def test_a_page_over_the_cap(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", HugePage(80 * 1024 * 1024), on="page")

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert "opens to more than 64 MiB" in result.stderr
    assert pool.served("page") == {"origin"}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ([Bomb(2048)], "opens to more than 64 MiB"),
        ([Flood(300)], "a page of more than 64 MiB"),
        ([Flood(300), Truncate(1.0, "chunked")], "a page of more than 64 MiB"),
    ],
    ids=["2 GB in 2 MB of gzip", "300 MB", "300 MB of unknown length"],
)
def test_a_huge_page_does_not_take_the_memory(
    page: list[Fault], said: str, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    _, usual = _install_measured(pool, newest_pip, tmp_path / "usual")
    assert B.installed_in(tmp_path / "usual")
    pool.heal()
    pool.fault("cdn", *page, on="page")

    result, peak = _install_measured(pool, newest_pip, tmp_path / "huge")

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "huge")
    assert said in result.stderr
    assert pool.served("page") == {"origin"}
    assert peak - usual < 200 * MIB


def test_nothing_but_huge_pages_does_not_take_the_memory(pool: Scene, newest_pip: PipEnv, tmp_path: Path) -> None:
    _, usual = _install_measured(pool, newest_pip, tmp_path / "usual")
    pool.heal()
    pool.fault("", Bomb(2048), on="page")

    result, peak = _install_measured(pool, newest_pip, tmp_path / "huge")

    assert result.code == 1
    assert result.stderr.count("opens to more than 64 MiB") >= len(pool.servers)
    assert peak - usual < 200 * MIB


@pytest.mark.parametrize(
    "refusal",
    [Status(404), Redirect("https://cdn.example.net:1{path}")],
    ids=["404", "redirect"],
)
def test_an_error_that_opens_to_300_mb_does_not_take_the_memory(
    refusal: Fault, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """requests opens the bodies of errors and redirects, too."""
    _, usual = _install_measured(pool, newest_pip, tmp_path / "usual")
    pool.heal()
    pool.fault("", refusal, Coded(300), on="page")

    result, peak = _install_measured(pool, newest_pip, tmp_path / "huge")

    assert result.code == 1
    assert peak - usual < 200 * MIB


def _install_measured(pool: Scene, pip: PipEnv, target: Path) -> tuple[Result, int]:
    arguments = ("install", *pool.arguments(), "--no-cache-dir", "--retries", "0", "--target", str(target), "demo-b")
    return memory(pip, *arguments, env=pool.environment, config=pool.config, scratch=target.with_suffix(".peak"))


def _rubbish(home: Path) -> None:
    _health(home).write_bytes(b'{"format": 1, "records": {"x": \x00\xff' * 100)


def _folder_in_the_way(home: Path) -> None:
    _health(home).mkdir()


def _file_in_the_way(home: Path) -> None:
    folder = _health(home).parent
    folder.rmdir()
    folder.write_text("not a folder")


def _from_the_future(home: Path) -> None:
    """As if the clock had jumped back by a year: everything is demoted, for a year."""
    later = time.time() + 365 * 86400
    record = {"failures": 0, "demotions": 9, "until": later, "connect": 0.0, "seen": later - 30}
    keys = [f"https://{host}" for host in (INDEX, CDN, ORIGIN)]
    _health(home).write_text(json.dumps({"format": 1, "records": dict.fromkeys(keys, record), "serials": {}}))


def _health(home: Path) -> Path:
    folder = home / ".cache" / "cdn-fallback"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "health.json"


@pytest.mark.parametrize("spoil", [_rubbish, _folder_in_the_way, _file_in_the_way, _from_the_future])
def test_a_spoilt_memory_is_no_harm(spoil: object, pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert callable(spoil)
    spoil(home)
    pool.fault("cdn1", Status(503))

    result = pool.pip(any_pip, "install", "--no-cache-dir", "--target", str(tmp_path / "t"), "demo-b", home=home)

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    assert "health" not in result.output and "Traceback" not in result.output
    assert pool.served("file") == {"cdn2"}


def test_a_home_that_cannot_be_written(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    nowhere = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "/proc/nobody/cache"}
    pool.fault("cdn", Refuse())

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-b", env=nowhere)

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    assert "Traceback" not in result.output
