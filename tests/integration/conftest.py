"""Which pips are under test, and their environments: made once for all workers of a run.

PIPS_UNDER_TEST names those that get every test, PIPS_UNDER_SHORT_TEST those that get the table of failures and
a few others. "newest" is whatever the machine's index has.
"""

from __future__ import annotations

import fcntl
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.pips import PipEnv, built_wheel, pip_version
from tests.rig.sample import SITE
from tests.rig.scene import Scene, scene

HERE = Path(__file__).parent


def _versions(variable: str, default: str) -> list[str]:
    """The pips that a variable names, in which their versions then stand for the workers of this run."""
    found = [pip_version(name) for name in os.environ.get(variable, default).split()]
    os.environ[variable] = " ".join(found)
    return found


FULL = _versions("PIPS_UNDER_TEST", "26.3")
SHORT = _versions("PIPS_UNDER_SHORT_TEST", "")


def pytest_report_header() -> str:
    return f"integration tests: all with pip {' '.join(FULL) or '-'}, a part with pip {' '.join(SHORT) or '-'}"


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
    """
    every = sorted([*FULL, *SHORT], key=_key)
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
    versions = {"pip": FULL, "any_pip": every, "newest_pip": [name for name in every[-1:] if name in FULL]}
    for fixture, names in versions.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names, indirect=True)


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PipEnv]:
    """Makes a version's environment: this Python, that pip, our wheel without its dependencies, switched on."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def made(version: str) -> PipEnv:
        folder, ready = shared / f"pip-{version}", shared / f"pip-{version}.ready"
        with (shared / f"pip-{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ready.exists():
                env = PipEnv.create(folder, sys.executable, version, built_wheel())
                enabled = env.execute("-c", "from cdn_fallback.switch import enable; enable()")
                assert enabled.code == 0, enabled.output
                ready.touch()
        return PipEnv(folder, version)

    return made


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
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """The usual pool over https; parametrize indirectly for http."""
    with scene(tmp_path, SITE, getattr(request, "param", "https")) as made:
        yield made
