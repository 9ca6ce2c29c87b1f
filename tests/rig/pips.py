"""Environments with a chosen pip, and clean runs of it."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# Whatever this machine configures for its own pip and Python stays out of the runs under test.
_FOREIGN = re.compile(
    r"(PIP_|CDN_FALLBACK_|SSL_CERT_|PYTHON|VIRTUAL_ENV|XDG_|LD_PRELOAD|NSS_WRAPPER_|NETRC|COV_|COVERAGE_).*"
    r"|.*(_CA_BUNDLE|_PROXY)|HOME|TOX_PACKAGE",
    re.IGNORECASE,
)
_NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "bench")


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `code` is -9 if it was stopped at its timeout."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """Everything it said."""
        return self.stdout + self.stderr


@dataclass(frozen=True, slots=True)
class PipEnv:
    """A virtual environment with one pip, and perhaps our wheel (alone: no dependency comes with it)."""

    folder: Path
    pip_version: str

    @classmethod
    def create(cls, folder: Path, python: str | Path, pip_version: str, wheel: Path | None = None) -> PipEnv:
        """Makes it. The pip comes from the machine's index once and is kept in `cache_folder()`."""
        checked(str(python), "-m", "venv", "--without-pip", str(folder))
        self = cls(folder, pip_version)
        source = pip_wheel(pip_version)
        install = ("install", "--quiet", "--no-index", "--no-deps", "--no-compile")
        checked(str(self.python), f"{source}/pip", *install, str(source), env=clean_environment(folder))
        if wheel is not None:
            self.install(wheel)
        return self

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where installations without --target go."""
        return next((self.folder / "lib").glob("python*/site-packages"))

    def install(self, wheel: Path) -> None:
        """Adds a wheel from disk, without its dependencies."""
        result = self.run("install", "--no-index", "--no-deps", "--force-reinstall", str(wheel))
        if result.code:
            raise RuntimeError(result.output)

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        config: Path | None = None,
        home: Path | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """`python -m pip` with these arguments; see `execute`."""
        return self.execute("-m", "pip", *arguments, env=env, config=config, home=home, timeout=timeout)

    def execute(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        config: Path | None = None,
        home: Path | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """The interpreter with these arguments in a clean environment, plus `env`.

        Without `config` pip reads no configuration file at all; with one it also reads the machine's global
        file, as pip always does: name what matters on the command line. Without `home` each run has its own,
        so nothing is cached or remembered.
        """
        with home_folder(home) as folder:
            environment = clean_environment(folder)
            if config is not None:
                environment["PIP_CONFIG_FILE"] = str(config)
            environment.update(env or {})
            return timed((str(self.python), *arguments), environment, folder, timeout)


def clean_environment(home: Path) -> dict[str, str]:
    """The machine's environment without its settings for pip, TLS, proxies and Python."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    places = ("cache", "config", "data", "state")
    own = {f"XDG_{place.upper()}_HOME": str(home / f".{place}") for place in places}
    pips = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return kept | own | pips | {"HOME": str(home), "PIP_ROOT_USER_ACTION": "ignore", "LC_ALL": "C.UTF-8"}


def cache_folder() -> Path:
    """Where downloaded pips are kept: $RIG_CACHE, or a folder of the user."""
    named = os.environ.get("RIG_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "cdn-fallback-rig"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def version(project: str, name: str) -> str:
    """The version of `project` that is meant: "newest" is the newest that the machine's index has for this Python."""
    if name != "newest":
        return name
    folder = cache_folder()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _download(project, Path(scratch))
        (found,) = Path(scratch).iterdir()
        found.replace(folder / found.name)
    return found.name.split("-")[1]


@functools.cache
def pip_wheel(version: str) -> Path:
    """pip's own wheel of this version, from the machine's index on the first call."""
    folder = cache_folder()
    wanted = folder / f"pip-{version}-py3-none-any.whl"
    with locked(folder / "lock"):
        if not wanted.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _download(f"pip=={version}", Path(scratch))
                (Path(scratch) / wanted.name).replace(wanted)
    return wanted


@functools.cache
def built_wheel() -> Path:
    """The project's wheel: $CDN_FALLBACK_WHEEL, tox's package, or one built now from a copy of the sources.

    From a copy, since a build folder left in the tree would leak old modules into the wheel.
    """
    for variable in ("CDN_FALLBACK_WHEEL", "TOX_PACKAGE"):
        path = os.environ.get(variable, "")
        if path.endswith(".whl"):
            return Path(path)
    scratch = Path(tempfile.mkdtemp(prefix="cdn-fallback-wheel-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    source = shutil.copytree(PROJECT, scratch / "source", ignore=_NOT_SOURCE)
    quiet = ("--quiet", "--disable-pip-version-check")
    checked(sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", str(scratch), str(source))
    shutil.rmtree(source)
    return next(scratch.glob("*.whl"))


def _download(requirement: str, folder: Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    what = ("--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement)
    checked(sys.executable, "-m", "pip", "download", *quiet, *what)


def timed(command: tuple[str, ...], env: Mapping[str, str], cwd: Path, timeout: float) -> Result:
    """In a session of its own, so that the timeout also ends pip's children."""
    start = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except BaseException as stopped:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        if not isinstance(stopped, subprocess.TimeoutExpired):
            raise
    return Result(process.returncode, stdout, stderr, time.monotonic() - start)


def checked(*command: str, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def home_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="rig-home-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Parallel test processes share the cache."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
