"""Mirrors: our wheel with its extra `mirror` in an environment of its own, folders in which its commands run, and a
plain web server for what they publish.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.rig.dists import Dist
from tests.rig.messages import Answer, Request
from tests.rig.names import free_port
from tests.rig.nginx import Client, Nginx
from tests.rig.pips import PipEnv, Result, built_wheel, cache_folder, checked, clean_environment, locked, timed
from tests.rig.scene import subnet
from tests.rig.server import Server, Serving
from tests.rig.site import JSON, MODIFIED

if TYPE_CHECKING:
    import pytest

PIP = "26.3"  # makes the environments; none of the tests is about it
PATIENCE = 30.0  # seconds that anything may take which takes a moment
BASE = "https://pypi.python.org/"  # what pages that need the site's own URL say: nobody listens there
OURS = ("isal", "obstore", "packaging", "requests", "tomli", "tqdm", "urllib3")  # what the wheel and its extra ask for
# Times of files in sources: long ago, so that nothing looks as if it were still being written.
OLD, MIDDLE, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for something that another process does. AssertionError when it has not come about in time."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {patience:.0f} s"
        time.sleep(0.01)


# --- environments ---


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    ready = folder.with_name(f"{name}.ready")
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            make(folder)
            ready.touch()
    return folder


@functools.cache
def wheels(*requirements: str) -> Path:
    """A folder with the wheels of these and of what they need, from the machine's index on the first call."""
    told = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    name = re.match(r"[\w.-]+", requirements[0])
    assert name
    folder = cache_folder() / f"{name[0]}-{told}-{sys.implementation.cache_tag}"
    with locked(cache_folder() / "lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                quiet = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", f"{scratch}/w")
                checked(sys.executable, "-m", "pip", "download", *quiet, *requirements)
                Path(scratch, "w").rename(folder)
    return folder


def install(env: PipEnv, links: Path, *what: str) -> None:
    """Adds distributions with what they need, all of which lie in the folder `links`."""
    quiet = ("--quiet", "--no-index", "--no-compile", "--no-warn-script-location", "--find-links", str(links))
    done = env.run("install", *quiet, *what)
    if done.code:
        raise RuntimeError(done.output)


def make_environment(folder: Path) -> None:
    """Our wheel as `pip install cdn-fallback[mirror]` installs it."""
    env = PipEnv.create(folder, sys.executable, PIP)
    install(env, wheels(*OURS), f"cdn-fallback[mirror] @ {built_wheel().absolute().as_uri()}")


# --- a mirror ---


@dataclass(frozen=True, slots=True)
class Mirror:
    """A folder with cdn-fallback.toml, a source in packages/ and a store in site/, and the installed command for it.

    `inside` is put before every command: what runs it in another namespace, or under a limit.
    """

    env: PipEnv
    folder: Path
    inside: tuple[str, ...] = ()

    @property
    def config(self) -> Path:
        return self.folder / "cdn-fallback.toml"

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def nginx(self) -> Path:
        """What `mirror init` wrote for it."""
        return self.folder / "cdn-fallback.nginx.conf"

    @property
    def catalog(self) -> Path:
        return self.folder / "cdn-fallback.sqlite"

    def init(self, source: str = "packages") -> Mirror:
        """`mirror init`. Its sources may then be changed in the file; the folder packages/ is made."""
        self.packages.mkdir(parents=True, exist_ok=True)
        done = self("init", "--source", source, "--base", BASE)
        assert done.code == 0, done.output
        return self

    def source(self, text: str) -> Mirror:
        """Replaces the table [source] in the configuration."""
        written, found = re.subn(
            r"(?ms)^\[source\].*?(?=^\[store\])", lambda _: f"[source]\n{text}\n", self.config.read_text()
        )
        assert found == 1, self.config.read_text()
        self.config.write_text(written)
        return self

    def store(self, url: str, **keys: str | int) -> Mirror:
        """Replaces the table [store] in the configuration: `endpoint`, `region`, `retry_seconds` and so on."""
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in {"url": url, **keys}.items())
        written, found = re.subn(
            r"(?ms)^\[store\].*?(?=^\[publish\])", lambda _: f"[store]\n{text}\n", self.config.read_text()
        )
        assert found == 1, self.config.read_text()
        self.config.write_text(written)
        return self

    def __call__(self, command: str, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """`cdn-fallback mirror COMMAND` in this folder, to its end."""
        return timed(self._command(command, arguments), self._environment(env), self.folder, PATIENCE * 2)

    def run(self, *arguments: str) -> str:
        """`mirror run`, which must do all there is to do; what it said in its line of summary."""
        done = self("run", *arguments)
        assert (done.code, done.stderr) == (0, ""), done.output
        return done.stdout

    def start(self, command: str, *arguments: str, said: Path) -> subprocess.Popen[bytes]:
        """The same, under way; what it says goes to a file."""
        with said.open("wb") as file:
            return subprocess.Popen(
                self._command(command, arguments), env=self._environment(None), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def _command(self, command: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
        return (*self.inside, str(self.env.folder / "bin" / "cdn-fallback"), "mirror", command, *arguments)

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return clean_environment(self.folder) | dict(more or {})

    def add(self, *dists: Dist, folder: str = "", time: str = OLD) -> None:
        """Distributions into the source, written at that time."""
        for dist in dists:
            path = self.packages / folder / dist.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dist.content)
            aged(path, time)

    def yank(self, dist: Dist, reason: str = "") -> None:
        """Withdraws a distribution that lies in the source."""
        (path,) = self.packages.rglob(dist.filename)
        path.with_name(f"{path.name}.yanked").write_text(f"{reason}\n")


def aged(path: Path, time: str) -> None:
    """Sets the file's time, as "2024-01-31T12:00:00Z"."""
    moment = datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
    os.utime(path, (moment, moment))


@dataclass(frozen=True, slots=True)
class Seen:
    """A file of a published tree, as it lies there."""

    content: bytes
    inode: int
    time: int  # ns


def tree(folder: Path) -> dict[str, Seen]:
    """Every file of a published tree by key; neither the store's mark nor what is being written."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".cdn-fallback"):
            status = path.stat()
            found[str(path.relative_to(folder))] = Seen(path.read_bytes(), status.st_ino, status.st_mtime_ns)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a published tree, by key."""
    return {key: seen.content for key, seen in tree(folder).items()}


# --- an index that is whatever a test says ---


class Pages:
    """Path -> answer; 404 for every other. The server beneath it adds ETag, 304 and ranges."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def answer(self, request: Request) -> Answer:
        return self.answers.get(request.path, Answer(404, b"no such page\n", (("Content-Type", "text/plain"),)))

    def put(self, path: str, body: bytes | Mapping[str, Any], content_type: str = JSON) -> None:
        """What is at this path: bytes, or JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = Answer(200, data, (("Content-Type", content_type), ("Last-Modified", MODIFIED)))

    def list(self, serials: Mapping[str, int]) -> None:
        """The project list; the index's own serial is the highest."""
        projects = [{"name": name, "_last-serial": serial} for name, serial in serials.items()]
        meta = {"api-version": "1.4", "_last-serial": max(serials.values())}
        self.put("/simple/", {"meta": meta, "projects": projects})

    def project(self, name: str, serial: int, *files: Mapping[str, Any], **keys: Any) -> None:
        """A project's page; `name` is normalised, `keys` may have another that is displayed."""
        meta = {"api-version": "1.4", "_last-serial": serial}
        self.put(f"/simple/{name}/", {"meta": meta, "name": name, "files": files, **keys})


# --- a plain web server ---


@dataclass(frozen=True, slots=True)
class Folder:
    """Content as a plain web server has it that knows nothing of an index: files, and index.html for a folder."""

    root: Path

    def answer(self, request: Request) -> Answer:
        target = request.path.partition("?")[0]
        path = self.root / unquote(target).lstrip("/")
        if path.is_dir() and not target.endswith("/"):
            return Answer(301, headers=(("Location", f"{target}/"),))
        if path.is_dir():
            path /= "index.html"
        try:
            body = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Answer(404, b"no such file\n", (("Content-Type", "text/plain"),))
        kind = {".html": "text/html", ".json": "application/json", ".txt": "text/plain"}
        return Answer(200, body, (("Content-Type", kind.get(path.suffix, "application/octet-stream")),))


@contextlib.contextmanager
def plain(root: Path) -> Iterator[Server]:
    """Such a server for a folder, on an address of its own."""
    with Server(Folder(root), f"{subnet()}.1", 0, serving=Serving(cache_control=None)) as server:
        yield server


class MirrorNginx(Nginx):
    """nginx with the configuration that `mirror init` wrote, but for the address on which it listens."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        address = f"{subnet()}.1"
        port = free_port([address])
        text, found = re.subn(r"(?m)^( *listen) [^;]+;", rf"\1 {address}:{port};", mirror.nginx.read_text())
        assert found, text
        super().__init__(folder, address, port, text)

    def __enter__(self) -> MirrorNginx:
        super().__enter__()
        return self

    def asked(self) -> list[str]:
        """The paths that were asked for so far; nginx writes its log after each answer, in their order."""
        mark = f"/rig-mark-{random.randrange(10**9)}"
        with Client(self.url) as client:
            client.get(mark)
        log = self.folder / "access.log"
        until(lambda: mark in log.read_text(), "nginx writes its log")
        paths = re.findall(r'"[A-Z]+ (\S+) HTTP/', log.read_text())
        return [path for path in paths if not path.startswith("/rig-mark-")]


class Serve:
    """`cdn-fallback mirror serve` while its `with` block runs."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self.address = f"{subnet()}.1"
        self.port = free_port([self.address])
        self._said = mirror.folder / f"serve-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}/"

    def __enter__(self) -> Serve:
        where = ("--address", self.address, "--port", str(self.port))
        self._process = self._mirror.start("serve", *where, said=self._said)
        until(self._listens, f"mirror serve: {self._said.read_text()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills it."""
        if self._process is not None:
            kill(self._process)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said.read_text()
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0


def kill(process: subprocess.Popen[bytes]) -> None:
    """With SIGKILL, with all that it has started, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
