"""Which commands and which pips the plugin reaches, and which of pip's own options keep their meaning."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.faults import Refuse, ResetMidway, Status, Truncate
from tests.rig.messages import Answer, Request
from tests.rig.names import Names, free_port
from tests.rig.pips import PipEnv, built_wheel
from tests.rig.sample import SITE, A, B, S
from tests.rig.scene import INDEX, Scene, scene, subnet
from tests.rig.server import Server
from tests.rig.site import Site


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PipEnv]:
    """Makes environments in which the plugin is installed but not switched on."""

    def made(version: str) -> PipEnv:
        return PipEnv.create(tmp_path_factory.mktemp("bare") / "env", sys.executable, version, built_wheel())

    return made


def test_an_installation_in_every_pip(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Status(503), on="page")
    pool.fault("cdn", Truncate(0.5), on="file")

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-a")

    assert result.code == 0, result.output
    assert A.installed_in(tmp_path / "t") and B.installed_in(tmp_path / "t")
    assert pool.served("page") == {"origin"}
    assert "Traceback" not in result.output


def test_build_dependencies_of_a_source_distribution(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Refuse())

    result = pool.pip(any_pip, "install", "--target", str(tmp_path / "t"), "demo-s", env=_for_children(pool))

    assert result.code == 0, result.output
    assert S.installed_in(tmp_path / "t")
    assert f"origin GET {SITE.path(B.filename)} 200" in pool.asked(), "the child asked for the build dependency"


def test_the_wrapper_needs_no_switching_on_and_reaches_build_children(
    pool: Scene, any_pip: PipEnv, tmp_path: Path, bare: Callable[[str], PipEnv]
) -> None:
    pool.fault("cdn", Refuse())
    env = bare(any_pip.pip_version)
    arguments = ["install", *pool.arguments(), "--target", str(tmp_path / "t"), "demo-s"]

    result = env.execute(
        "-m", "cdn_fallback.pip_plugin", *arguments, env=pool.environment | _for_children(pool), config=pool.config
    )

    assert result.code == 0, result.output
    assert S.installed_in(tmp_path / "t")
    assert f"origin GET {SITE.path(B.filename)} 200" in pool.asked()


def test_another_interpreter(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    """``pip --python X``: X knows nothing of the plugin."""
    pool.fault("cdn", Refuse())
    other = PipEnv.create(tmp_path / "other", sys.executable, any_pip.pip_version)

    result = any_pip.run(
        "--python", str(other.python), "install", *pool.arguments(), "demo-b",
        env=pool.environment, config=pool.config,
    )  # fmt: skip

    assert result.code == 0, result.output
    assert B.installed_in(other.site_packages)
    assert pool.served("file") == {"origin"}


def test_other_commands(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Refuse())
    downloads, wheels = tmp_path / "downloads", tmp_path / "wheels"

    download = pool.pip(pip, "download", "--dest", str(downloads), "demo-a")
    wheel = pool.pip(pip, "wheel", "--wheel-dir", str(wheels), "demo-s", env=_for_children(pool))
    versions = pool.pip(pip, "index", "versions", "demo-b")

    assert download.code == 0, download.output
    assert {path.read_bytes() for path in downloads.iterdir()} == {A.content, B.content}
    assert wheel.code == 0, wheel.output
    assert [path.name for path in wheels.glob("demo_s*.whl")] == ["demo_s-1.0-py3-none-any.whl"]
    assert versions.code == 0 and "demo-b (1.0)" in versions.stdout
    assert not pool.served("file") & {"cdn1", "cdn2"}


def test_lock_names_canonical_urls(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    if int(pip.pip_version.split(".")[0]) < 26:
        pytest.skip("pip lock is younger")
    pool.fault("cdn", Refuse())
    lock = tmp_path / "pylock.toml"

    result = pool.pip(pip, "lock", "--output", str(lock), "demo-a")

    assert result.code == 0, result.output
    assert f"{pool.index}packages/{B.filename}" in lock.read_text()
    assert "origin.example.org" not in lock.read_text()


def test_without_any_configuration_every_address_gets_its_chance(pip: PipEnv, tmp_path: Path) -> None:
    """One host of three addresses: refused, 503, and one that breaks the file off in the middle the first time."""
    net = subnet()
    addresses = [f"{net}.{i}" for i in (1, 2, 3)]
    port = free_port(addresses)
    names = Names.write(tmp_path, {INDEX: addresses})
    with (
        Server(SITE, addresses[0], port) as refused,
        Server(SITE, addresses[1], port) as failing,
        Server(SITE, addresses[2], port) as good,
    ):
        refused.fault(Refuse())
        failing.fault(Status(503))
        good.fault(ResetMidway(0.5), on="file", times=1)
        arguments = ["--index-url", f"http://{INDEX}:{port}/simple/", "--trusted-host", INDEX]

        result = pip.run("install", *arguments, "--target", str(tmp_path / "t"), "demo-b", env=names.environment())

        assert result.code == 0, result.output
        assert B.installed_in(tmp_path / "t")
        ranges = [request.header("Range") for request in good.requests if request.kind == "file"]
        assert ranges == [None, f"bytes={len(B.content) // 2}-"]


def test_a_dead_host_that_nobody_declared_is_left_to_pip(pip: PipEnv, tmp_path: Path) -> None:
    port = free_port()
    index = ["--index-url", f"http://127.0.0.1:{port}/simple/", "--retries", "0"]

    result = pip.run("install", *index, "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 1
    assert "No matching distribution found for demo-b" in result.output  # pip's own word
    assert f"http://127.0.0.1:{port}/ (127.0.0.1) did not connect (Connection refused)" in result.stderr


def test_a_file_that_nobody_gives_whole_ends_pip_with_every_attempt(pip: PipEnv, tmp_path: Path) -> None:
    """From a host that nobody declared, too: pip would go on resuming what was tried to the end."""
    with Server(SITE, f"{subnet()}.1", 0) as only:
        only.fault(ResetMidway(0.0), on="file")
        index = ["--index-url", f"{only.url}simple/", "--trusted-host", only.address, "--retries", "1"]

        result = pip.run("install", *index, "--target", str(tmp_path / "t"), "demo-b")

        assert result.code == 1
        assert not (tmp_path / "t").exists()
        assert f"no usable answer for {only.url}packages/{B.filename}" in result.stderr
        assert "broke off after 0 bytes" in result.stderr
        assert 2 <= len([r for r in only.requests if r.kind == "file"]) <= 4


def test_a_second_run_uses_pips_cache(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for number in (1, 2):
        result = pool.pip(pip, "install", "--target", str(tmp_path / f"t{number}"), "demo-b", home=home)
        assert result.code == 0, result.output
    assert re.search(r"Using cached \S*demo_b-1.0-py3-none-any.whl \(", result.stdout)
    assert len([line for line in pool.asked(kind="file") if line.startswith("cdn")]) == 1


def test_a_resumed_download_is_cached_as_one_whole_file(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    pool.fault("cdn", Truncate(0.5), on="file")
    for number in (1, 2):
        result = pool.pip(pip, "install", "--target", str(tmp_path / f"t{number}"), "demo-b", home=home)
        assert result.code == 0, result.output
        assert B.installed_in(tmp_path / f"t{number}")
    assert re.search(r"Using cached \S*demo_b-1.0-py3-none-any.whl \(", result.stdout)


class _Proxy:
    """A forward proxy for plain http, which keeps what it fetches to itself."""

    def __init__(self, content: Site) -> None:
        self._content = content

    def answer(self, request: Request) -> Answer:
        _, _, rest = request.path.partition("://")
        host, _, path = rest.partition("/")
        if host.startswith("cdn."):
            return Answer(503)
        return self._content.answer(Request(request.method, f"/{path}", request.headers))


def test_a_proxy_is_used_for_every_endpoint(pip: PipEnv, tmp_path: Path) -> None:
    with scene(tmp_path, SITE, "http") as pool, Server(_Proxy(SITE), "127.0.0.1", 0) as proxy:
        pool.configure(redirectors=pool.base("cdn.example.net"), cdn="")

        result = pool.pip(pip, "install", "--proxy", proxy.url, "--target", str(tmp_path / "t"), "demo-b")

        assert result.code == 0, result.output
        assert pool.asked() == []
        hosts = [request.path.split("/")[2].partition(":")[0] for request in proxy.requests]
        assert hosts[:2] == ["cdn.example.net", "origin.example.org"]
        assert "answered 503" in result.stderr


def test_fast_deps_reads_ranges_through_the_pool(pip: PipEnv, tmp_path: Path) -> None:
    with scene(tmp_path, Site(SITE.dists, core_metadata=False)) as pool:
        pool.fault("cdn", Refuse())

        result = pool.pip(pip, "install", "--use-feature", "fast-deps", "--target", str(tmp_path / "t"), "demo-a")

        assert result.code == 0, result.output
        assert A.installed_in(tmp_path / "t") and B.installed_in(tmp_path / "t")
        assert any(r.header("Range") and r.status == 206 for r in pool.servers["origin"].requests)


def test_timeout_and_retries_bound_attempts_and_passes(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("", Status(503))

    result = pool.pip(pip, "install", "--retries", "2", "--target", str(tmp_path / "t"), "demo-b")

    assert result.code == 1
    for name, server in pool.servers.items():
        assert len(server.requests) == 3, f"{name}: one request a pass"


def test_the_report_of_a_dry_run(pool: Scene, any_pip: PipEnv, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    pool.fault("cdn", Refuse())

    result = pool.pip(any_pip, "install", "--dry-run", "--ignore-installed", "--report", str(report), "demo-b")

    assert result.code == 0, result.output
    (item,) = json.loads(report.read_text())["install"]
    assert item["download_info"]["url"] == f"{pool.index}packages/{B.filename}"


def _for_children(pool: Scene) -> dict[str, str]:
    """pip passes its index and certificates on to the pips that it starts for builds, but not its trusted hosts
    everywhere: the environment reaches all of them."""
    settings = {"PIP_INDEX_URL": f"{pool.index}simple/", "PIP_RETRIES": "1"}
    return settings | ({"PIP_CERT": str(pool.ca)} if pool.ca else {"PIP_TRUSTED_HOST": INDEX})
