"""Which pips are under test, and their environments: made once for all workers of a run.

PIPS_UNDER_TEST names those that get the whole table of faults, PIPS_SMOKE those that get a part of it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.pips import PipEnv, built_wheel
from tests.rig.sample import SITE
from tests.rig.scene import Scene, scene

FULL = os.environ.get("PIPS_UNDER_TEST", "26.3").split()
SMOKE = os.environ.get("PIPS_SMOKE", "").split()
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`pip` runs through the pips of the whole table, `any_pip` through all, `newest_pip` is one of them."""
    versions = {"pip": FULL, "any_pip": [*FULL, *SMOKE], "newest_pip": sorted([*FULL, *SMOKE], key=_key)[-1:]}
    for fixture, found in versions.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, found, indirect=True)


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
