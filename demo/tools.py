"""What installs, plain and with cdn-fallback: pip, and a buildout with eggs, a download and a file that it extends."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from demo.runs import PATIENT, Command
from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.dists import Dist
from tests.rig.installing import Client
from tests.rig.messages import kind_of
from tests.rig.picture import EDGES, REDIRECTORS
from tests.rig.pips import clean_environment
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene

IMPATIENT = ("--timeout", "3", "--retries", "2")  # by itself plain pip waits 15 s, five times more
BASE, HANDBOOK = "/files/base.cfg", "/files/handbook.bin"
BOOK = random.Random(HANDBOOK).randbytes(300_000)
CACHE = "downloads"
PATIENCE = 8.0  # s; plain buildout would wait for minutes

_HOSTS = {"redirector": INDEX, "cdn": CDN, "origin": ORIGIN}


@dataclass(frozen=True)
class Place:
    """Where they run, and what our servers are called in their logs."""

    env: BuildoutEnv  # with pip, zc.buildout and cdn-fallback
    client: Client
    addresses: Mapping[str, str]  # "redirector1", ..., "edge1", ..., "origin" -> its address

    @property
    def scene(self) -> Scene:
        """The pool, as the rig knows it."""
        return self.client.scene

    def shortened(self, line: str) -> str:
        """A line of a log with our names of the servers, and without what is the same in all lines."""
        for name, address in self.addresses.items():
            role = "redirector" if name in REDIRECTORS else "cdn" if name in EDGES else name
            line = line.replace(f"{role} {self.scene.base(_HOSTS[role])} ({address})", name)
        for role, host in _HOSTS.items():
            line = line.replace(f"{role} {self.scene.base(host)}", role)
            line = line.replace(self.scene.base(host), f"{role}/")
        line = re.sub(r"(/[\w.]+-[\w.]+)-\S+?\.whl", r"\1-*.whl", line)
        return line.removesuffix(" [answer]")


@dataclass(frozen=True)
class Tool:
    """What they have in common: `dists` is what comes when it installs `projects`."""

    place: Place
    projects: tuple[str, ...]
    dists: tuple[Dist, ...]
    new: tuple[Dist, ...] = ()  # those of them that were not always there
    extends: bool = True  # whether a configuration is fetched, too

    name: ClassVar[str]
    patience: ClassVar[float] = PATIENT  # with it when it is plain and something is dead
    ours: ClassVar[str]
    complaints: ClassVar[tuple[str, ...]]

    def wanting(self, dist: Dist) -> Tool:
        """The same, with one thing more to install."""
        return replace(self, projects=(*self.projects, dist.project), dists=(*self.dists, dist), new=(dist,))

    def part(self, path: str) -> str:
        """What this path is to this tool: "pages", "files", ...; empty for what others ask for."""
        if any(map(path.startswith, paths_of(*self.new))):
            return "new"
        mine = any(map(path.startswith, paths_of(*self.dists)))
        return {"page": "pages", "file": "files", "metadata": "pages"}.get(kind_of(path), "") if mine else ""

    def worth(self, line: str) -> str | None:
        """What is told of a line: complaints, and what cdn-fallback logs."""
        told = line.startswith((self.ours, *self.complaints))
        return self.place.shortened(line.removeprefix(self.ours)) if told else None

    def command(self, folder: Path, home: Path, *, plain: bool) -> Command:
        """What installs into a fresh folder."""
        raise NotImplementedError

    def wrong(self, folder: Path) -> list[str]:
        """What is not there as it was served."""
        raise NotImplementedError

    def environment(self, home: Path, *, plain: bool) -> dict[str, str]:
        """A home of its own, our names, and the pool's configuration."""
        scene = self.place.scene
        own = {"PIP_INDEX_URL": f"{scene.index}simple/", "PIP_CERT": str(scene.ca), "SSL_CERT_FILE": str(scene.ca)}
        off = {"CDN_FALLBACK_DISABLE": "1"} if plain else {}
        return clean_environment(home) | scene.environment | own | off


@dataclass(frozen=True)
class Pip(Tool):
    """pip, where cdn-fallback is enabled."""

    name = "pip"
    ours = "cdn-fallback: "
    complaints = ("WARNING: ", "ERROR: ")

    def command(self, folder: Path, home: Path, *, plain: bool) -> Command:
        # without pip's own cache: every byte comes from the servers
        what = ("install", "--no-cache-dir", "-vv", "--no-warn-conflicts", "--target", str(folder))
        words = (str(self.place.env.pip.python), "-m", "pip", *what, *(IMPATIENT if plain else ()), *self.projects)
        return Command(self.name, words, self.environment(home, plain=plain), home, self.worth)

    def wrong(self, folder: Path) -> list[str]:
        return [dist.filename for dist in self.dists if not dist.installed_in(folder)]


@dataclass(frozen=True)
class Buildout(Tool):
    """buildout, where cdn-fallback is enabled and an extension."""

    name = "buildout"
    patience = PATIENCE
    ours = "cdn_fallback: "
    complaints = ("Error: ", "root: Download error")

    def checkout(self, folder: Path) -> Checkout:
        """What is to be built in a folder."""
        scene = self.place.scene
        extends = {"extends": f"{scene.index}{BASE[1:]}"} if self.extends else {}
        checkout = self.place.client.checkout(folder, *self.projects, **extends, **{"download-cache": CACHE})
        book = {"recipe": "rig.recipe", "url": self._book, "md5sum": _md5(BOOK), "path": Path(HANDBOOK).name}
        checkout.parts = {**checkout.parts, "handbook": book}
        (folder / CACHE).mkdir(exist_ok=True)
        return checkout

    @property
    def _book(self) -> str:
        return f"{self.place.scene.index}{HANDBOOK[1:]}"

    def part(self, path: str) -> str:
        return {BASE: "extends", HANDBOOK: "download"}.get(path) or super().part(path)

    def command(self, folder: Path, home: Path, *, plain: bool) -> Command:
        words = (str(self.place.env.pip.python), str(self.place.env.program), "-c", str(self.checkout(folder).write()))
        return Command(self.name, words, self.environment(home, plain=plain), folder, self.worth)

    def wrong(self, folder: Path) -> list[str]:
        """Of the eggs, the download and the download cache: what is absent or not what was served, or was left."""
        checkout = self.checkout(folder)
        book = folder / Path(HANDBOOK).name
        cache = folder / CACHE
        served = {f"dist/{dist.filename}": dist.content for dist in self.dists}
        served[_md5(self._book.encode())] = BOOK
        kept = {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
        return [
            *(dist.filename for dist in self.dists if not checkout.has(dist)),
            *([] if book.is_file() and book.read_bytes() == BOOK else [book.name]),
            *(f"{CACHE}/{name}" for name in sorted({*served, *kept}) if served.get(name) != kept.get(name)),
        ]


def paths_of(*dists: Dist) -> list[str]:
    """How the paths begin at which an index has these."""
    return [path for dist in dists for path in (f"/simple/{dist.project}/", f"/packages/{dist.filename}")]


def files_beside(dists: Iterable[Dist]) -> dict[str, bytes]:
    """What lies beside the index: the versions that the buildout extends, and what it downloads."""
    pins = "".join(f"{dist.project} = {dist.version}\n" for dist in dists)
    base = f"[buildout]\nversions = versions\n\n[versions]\n{pins}".encode()
    return {Path(BASE).name: base, Path(HANDBOOK).name: BOOK}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
