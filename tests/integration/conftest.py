"""Which pips and buildouts are under test, and their environments: made once for all workers of a run.

PIPS_UNDER_TEST names the pips that get every test, PIPS_UNDER_SHORT_TEST those that get the table of failures and
a few others; BUILDOUTS_UNDER_TEST the buildouts. "newest" is whatever the machine's index has.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.buildouts import KITS, BuildoutEnv
from tests.rig.pips import PipEnv, built_wheel, version
from tests.rig.sample import SITE
from tests.rig.scene import Scene, scene

HERE = Path(__file__).parent


def _versions(variable: str, default: str, project: str = "pip") -> list[str]:
    """The versions that a variable names, "newest" made one: they then stand in it for the workers of this run."""
    found = [version(project, name) for name in os.environ.get(variable, default).split()]
    os.environ[variable] = " ".join(found)
    return found


FULL = _versions("PIPS_UNDER_TEST", "26.3")
SHORT = _versions("PIPS_UNDER_SHORT_TEST", "")
BUILDOUTS = _versions("BUILDOUTS_UNDER_TEST", "6.0.1", "zc.buildout")


def pytest_report_header() -> str:
    pips = f"all with pip {' '.join(FULL) or '-'}, a part with pip {' '.join(SHORT) or '-'}"
    return f"integration tests: {pips}, zc.buildout {' '.join(BUILDOUTS) or '-'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)
    # A test for pips of which this run has none is not skipped, it is another run's.
    others = [i for i in items if any("empty parameter set" in str(m.kwargs) for m in i.iter_markers("skip"))]
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=others)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`pip` runs through the pips of every test, `any_pip` through all; `newest_pip` is one, if it gets every test.

    A test of a `failure` runs through its module's FAILURES with all pips: those that are for every pip, over
    https where that can be; all of them, and over http too, with the newest pip if that gets every test.

    `buildout` runs through the buildouts, `newest_buildout` is one, if it is among them; a `failure` of theirs is
    for every buildout or the newest alone, over https where that can be.
    """
    every = sorted([*FULL, *SHORT], key=_key)
    newest_buildout = max(KITS, key=_key)
    if "failure" in metafunc.fixturenames and "buildout" in metafunc.fixturenames:
        found = [
            pytest.param(version, failure.schemes[-1], failure, id=f"{version}-{failure.name}")
            for version in BUILDOUTS
            for failure in metafunc.module.FAILURES
            if failure.every_buildout or _key(version) >= _key(newest_buildout)
        ]
        metafunc.parametrize(("buildout", "pool", "failure"), found, indirect=["buildout", "pool"])
        return
    if "failure" in metafunc.fixturenames:
        found = [
            pytest.param(version, scheme, failure, id=f"{version}-{failure.name}-{scheme}")
            for version in every
            for failure in metafunc.module.FAILURES
            for scheme in failure.schemes
            if (version == every[-1] and version in FULL) or (scheme == failure.schemes[-1] and failure.every_pip)
        ]
        metafunc.parametrize(("any_pip", "pool", "failure"), found, indirect=["any_pip", "pool"])
        return
    versions = {
        "pip": FULL,
        "any_pip": every,
        "newest_pip": [name for name in every[-1:] if name in FULL],
        "buildout": BUILDOUTS,
        "bare_buildout": [f"bare-{name}" for name in BUILDOUTS],
        "newest_buildout": [name for name in BUILDOUTS if _key(name) >= _key(newest_buildout)],
    }
    for fixture, names in versions.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names, indirect=True)


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PipEnv]:
    """Makes a version's environment: this Python, that pip, our wheel without its dependencies, switched on."""
    shared = _shared(tmp_path_factory)

    @functools.cache
    def made(version: str) -> PipEnv:
        folder = shared / f"pip-{version}"
        with _once(folder) as missing:
            if missing:
                env = PipEnv.create(folder, sys.executable, version, built_wheel())
                enabled = env.execute("-c", "from cdn_fallback.switch import enable; enable()")
                assert enabled.code == 0, enabled.output
        return PipEnv(folder, version)

    return made


@pytest.fixture(scope="session")
def buildout_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BuildoutEnv]:
    """Makes a version's environment: this Python, that buildout, our wheel; not enabled, for there is the extension.

    "bare-" and a version is one without our wheel.
    """
    shared = _shared(tmp_path_factory)

    @functools.cache
    def made(name: str) -> BuildoutEnv:
        folder, version = shared / f"buildout-{name}", name.removeprefix("bare-")
        with _once(folder) as missing:
            if missing:
                BuildoutEnv.create(folder, version, None if version != name else built_wheel())
        return BuildoutEnv.at(folder, version)

    return made


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def _once(folder: Path) -> Iterator[bool]:
    """Whether `folder` is still to be made; the other workers wait meanwhile."""
    ready = folder.with_name(f"{folder.name}.ready")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not ready.exists()
        ready.touch()


@pytest.fixture
def pip(request: pytest.FixtureRequest, environment: Callable[[str], PipEnv]) -> PipEnv:
    return environment(request.param)


@pytest.fixture
def any_pip(request: pytest.FixtureRequest, environment: Callable[[str], PipEnv]) -> PipEnv:
    return environment(request.param)


@pytest.fixture
def newest_pip(request: pytest.FixtureRequest, environment: Callable[[str], PipEnv]) -> PipEnv:
    return environment(request.param)


@pytest.fixture
def buildout(request: pytest.FixtureRequest, buildout_environment: Callable[[str], BuildoutEnv]) -> BuildoutEnv:
    return buildout_environment(request.param)


@pytest.fixture
def bare_buildout(request: pytest.FixtureRequest, buildout_environment: Callable[[str], BuildoutEnv]) -> BuildoutEnv:
    return buildout_environment(request.param)


@pytest.fixture
def newest_buildout(request: pytest.FixtureRequest, buildout_environment: Callable[[str], BuildoutEnv]) -> BuildoutEnv:
    return buildout_environment(request.param)


@pytest.fixture
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """The usual pool over https; parametrize indirectly for http."""
    with scene(tmp_path, SITE, getattr(request, "param", "https")) as made:
        yield made
