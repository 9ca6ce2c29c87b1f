"""The whole picture, in which everything fails, alone and in pairs: pip and buildout install what is right, from whom
they should, in the time that is promised.

The matrix needs the newest buildout alone, and brings a pip of its own: tox runs it once, where it has that buildout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from cdn_fallback.failover import Timeouts
from tests.rig.buckets import mirror_env
from tests.rig.buildouts import KITS, BuildoutEnv
from tests.rig.dists import Dist, wheel
from tests.rig.dns import Unavailable
from tests.rig.failures import Case, cases
from tests.rig.installing import Client
from tests.rig.messages import Kind
from tests.rig.picture import EDGES, NAMES, REDIRECTORS, Picture
from tests.rig.pips import PipEnv, Result
from tests.rig.site import Site
from tests.rig.varnish import Asked

TOOLS = ("pip", "buildout")
# Each tool has projects of its own, so that requests tell who asked. Published are OLD and the 1.0 of GROWN.
OLD = {tool: wheel(f"old-{tool}") for tool in TOOLS}
GROWN = {tool: wheel(f"grown-{tool}") for tool in TOOLS}
GREATER = {tool: wheel(f"grown-{tool}", "2.0") for tool in TOOLS}
NEW = {tool: wheel(f"new-{tool}") for tool in TOOLS}
SITE = Site.of(*OLD.values(), *GROWN.values())
KINDS: tuple[Kind, ...] = ("page", "file")
UNPUBLISHED = (*NEW.values(), *GREATER.values())

# s for an installation in which nothing fails, and for each project in it: it takes one or two, but not if the machine
# is busy with four other things
BUSY, MORE_BUSY = 6.0, 4.0
WALKS = 3  # page, metadata and file, of each project
BUDGET = Timeouts().budget
MATRIX = [pytest.param(case, id=str(case)) for case in cases() if case.copies]
HOPELESS = [pytest.param(case, id=str(case)) for case in cases() if not case.copies]


Log = dict[str, list[Asked]]  # component -> what it was asked


class Tools(NamedTuple):
    """Who installs."""

    pip: PipEnv
    buildout: BuildoutEnv

    def run(self, tool: str, client: Client, folder: Path, home: Path, *names: str) -> Result:
        """One of them installs these projects into a folder."""
        if tool == "pip":
            where = ("--no-compile", "--target", str(folder))
            return client.scene.pip(self.pip, "install", *where, *names, home=home, timeout=120)
        return client.checkout(folder, *names).run(self.buildout, home=home, timeout=120)

    def both(self, client: Client, folder: Path, homes: Path, *names: str) -> dict[str, Result]:
        """Each of them installs its own of these projects ("old" is old-pip for pip), both at the same time."""

        # Here, as a file that is written in one thread is busy in the process that another starts meanwhile.
        tools = Tools(client.inside(self.pip), replace(self.buildout, pip=client.inside(self.buildout.pip)))

        def one(tool: str) -> Result:
            return tools.run(tool, client, folder / tool, homes / tool, *(f"{name}-{tool}" for name in names))

        with ThreadPoolExecutor(len(TOOLS)) as pool:
            return dict(zip(TOOLS, pool.map(one, TOOLS), strict=True))


def installed(client: Client, tool: str, folder: Path, dist: Dist) -> bool:
    """Whether every byte of it is where `Tools.both` has put it."""
    place = folder / tool
    return dist.installed_in(place) if tool == "pip" else client.checkout(place).has(dist)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Picture]:
    program = mirror_env(tmp_path_factory).folder / "bin" / "cdn-fallback"
    with Picture(tmp_path_factory.mktemp("picture"), SITE, (str(program),)) as made:
        yield made


@pytest.fixture
def picture(started: Picture) -> Iterator[Picture]:
    yield started
    started.heal()


@pytest.fixture
def tools(newest_buildout: BuildoutEnv, environment: Callable[[str], PipEnv]) -> Tools:
    return Tools(environment(KITS[max(KITS)].pip), newest_buildout)


@pytest.fixture(scope="module")
def seen(started: Picture, environment: Callable[[str], PipEnv], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The memory of who has had the pages of what has grown from the origin, while the CDN was declared down."""
    home = tmp_path_factory.mktemp("seen")
    pip = environment(KITS[max(KITS)].pip)
    started.heal()
    with started.unpublished(*UNPUBLISHED):
        started.cdn_down()
        try:
            what = [f"{dist.project}=={dist.version}" for dist in GREATER.values()]
            done = started.client.scene.pip(pip, "download", "--no-deps", *what, home=home)
        finally:
            started.cdn_down(False)
    assert done.code == 0, done.output
    return memory(home).read_bytes()


def memory(home: Path) -> Path:
    return home / ".cache" / "cdn-fallback" / "health.json"


@contextlib.contextmanager
def failing(picture: Picture, case: Case) -> Iterator[Client]:
    """While it fails; who installs then."""
    with contextlib.ExitStack() as stack:
        picture.cold()
        if case.warm:
            picture.warm()
        if case.stuck:
            stack.enter_context(picture.unpublished(*UNPUBLISHED))
            picture.expire()
        picture.forget()
        for failure in case.failures:
            for name in failure.components:
                picture.kill(name, failure.way)  # type: ignore[arg-type]  # a component's ways are those of a picture
        client = picture.client
        if case.late:
            try:
                client = stack.enter_context(picture.late(case.late))
            except Unavailable as why:
                print(f"names are late in Python alone: {why}")
                client = picture.late_in_python(case.late)
        yield client


def who(asked: Log, kind: Kind, dist: Dist) -> set[str]:
    """Which edges, or origin, gave the page or the file of it."""
    part = f"/{dist.project}/" if kind == "page" else f"/{dist.filename}"
    return {
        name
        for name in (*EDGES, "origin")
        for one in asked[name]
        if one.kind == kind and one.status in (200, 206) and part in one.path
    }


def told(case: Case, results: dict[str, Result]) -> None:
    """What it took, for those who ask (pytest -rP)."""
    print(f"{case}: " + ", ".join(f"{tool} {done.seconds:.1f} s" for tool, done in results.items()))


@pytest.mark.parametrize("case", MATRIX)
def test_pip_and_buildout_install(case: Case, picture: Picture, tools: Tools, tmp_path: Path, seen: bytes) -> None:
    """Promises 1, 3, 4, 7 of the client, for each failure and each pair that leaves a copy."""
    names = ["old"]
    if case.stuck:
        names += ["grown"] + ["new"] * ("origin" in case.copies)
        for tool in TOOLS:
            memory(tmp_path / "homes" / tool).parent.mkdir(parents=True)
            memory(tmp_path / "homes" / tool).write_bytes(seen)
    with failing(picture, case) as client:
        results = tools.both(client, tmp_path, tmp_path / "homes", *names)
        told(case, results)
        asked = {name: picture.requests(name) for name in NAMES}
        for name in case.ways:
            assert not {200, 206, 302} & {one.status for one in asked[name]}, f"{name} is down"
        if case.warm and not case.stuck:
            assert not asked["bucket"], "the edges had it all"
        for tool, done in results.items():
            assert done.code == 0 and installed(client, tool, tmp_path, OLD[tool]), done.output
            assert done.seconds < BUSY + MORE_BUSY * len(names) + case.delay(WALKS * len(names)), done.output
            if case.in_order:
                _check_who_served(asked, case, tool, done.output)
            if case.stuck:
                _check_what_is_new(asked, case, tool, client, tmp_path, done.output)


def _check_who_served(asked: Log, case: Case, tool: str, output: str) -> None:
    """Edges, as long as they can; and who was led there, if there was anybody to do it."""
    for kind in KINDS:
        found = who(asked, kind, OLD[tool])
        # edges that were asked for too much that they have not are asked last when files are fetched
        allowed = case.copies if case.stuck and kind == "file" else case.servers
        assert found and found <= allowed, f"{kind} by {found}, not {allowed}: {output}"
    led = {one.path for name in REDIRECTORS for one in asked[name]}
    assert (f"/simple/{OLD[tool].project}/" in led) == bool(case.up(*REDIRECTORS)), f"{led}: {output}"


def _check_what_is_new(asked: Log, case: Case, tool: str, client: Client, folder: Path, output: str) -> None:
    """What nobody has published is found at the origin; without the origin, there is what was published."""
    if "origin" not in case.copies:
        assert installed(client, tool, folder, GROWN[tool]), output
        return
    for dist in (NEW[tool], GREATER[tool]):
        assert installed(client, tool, folder, dist), output
        assert "origin" in who(asked, "page", dist) and who(asked, "file", dist) == {"origin"}, output


def test_with_nothing_wrong_pip_and_buildout_install_through_all_of_it(
    picture: Picture, tools: Tools, tmp_path: Path
) -> None:
    picture.cold()
    picture.forget()
    results = tools.both(picture.client, tmp_path, tmp_path / "homes", "old")
    for tool, done in results.items():
        assert done.code == 0 and installed(picture.client, tool, tmp_path, OLD[tool]), done.output
        assert "falling back" not in done.output
    served = picture.served("page", "file", "metadata")
    assert served and set(served) <= set(EDGES) and not picture.requests("origin")
    assert {302} == {one.status for one in picture.requests("redirector")} and picture.requests("bucket")


@pytest.mark.parametrize("left", ["edge2", "origin"])
def test_one_copy_is_enough(left: str, picture: Picture, tools: Tools, tmp_path: Path) -> None:
    picture.warm()
    picture.only(left)
    picture.forget()
    results = tools.both(picture.client, tmp_path, tmp_path / "homes", "old")
    for tool, done in results.items():
        assert done.code == 0 and installed(picture.client, tool, tmp_path, OLD[tool]), done.output
    assert set(picture.served("page", "file", "metadata")) == {left}
    assert set(picture.down) == set(NAMES) - {left}


@pytest.mark.parametrize("case", HOPELESS)
def test_without_a_copy_the_tools_stop_and_tell_of_every_attempt(
    case: Case, picture: Picture, tools: Tools, tmp_path: Path
) -> None:
    """Promises 7 and 10."""
    with failing(picture, case) as client:
        results = tools.both(client, tmp_path, tmp_path / "homes", "old")
    told(case, results)
    for tool, done in results.items():
        assert done.code not in (0, -9), done.output
        assert not installed(client, tool, tmp_path, OLD[tool])
        assert f"no usable answer for {client.scene.index}simple/{OLD[tool].project}/" in done.output
        for name in (*EDGES, "origin"):
            assert picture.addresses[name] in done.output, f"{name} is not told of: {done.output}"
        assert done.seconds < BUSY + MORE_BUSY + BUDGET, done.output
