"""Environments with a chosen zc.buildout, and clean runs of it in a folder with a buildout.cfg."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.rig.dists import Dist, wheel
from tests.rig.pips import PipEnv, Result, cache_folder, checked, clean_environment, home_folder, locked, timed
from tests.rig.scene import Scene

RECIPE = wheel(
    "rig.recipe",
    code="""
import zc.buildout.download


class Recipe:
    \"\"\"Downloads `url`, whose MD5 is `md5sum` if that is set, as a download recipe does.\"\"\"

    def __init__(self, buildout, name, options):
        self.buildout, self.options = buildout, options
        options.get("md5sum"), options["url"], options["path"]

    def install(self):
        download = zc.buildout.download.Download(self.buildout["buildout"], hash_name=True)
        download(self.options["url"], md5sum=self.options.get("md5sum"), path=self.options["path"])
        return self.options["path"]

    update = install
""",
    entry_points="[zc.buildout]\ndefault = rig_recipe:Recipe\n",
)


class Kit(NamedTuple):
    """What a zc.buildout is installed with."""

    pip: str
    setuptools: str


# the newest first
KITS = {
    "6.0.1": Kit("26.3", "setuptools>=75.8.2"),
    "5.2": Kit("26.3", "setuptools<82"),
    "4.1.12": Kit("25.3", "setuptools<82"),
}


@dataclass(frozen=True, slots=True)
class BuildoutEnv:
    """A virtual environment with one zc.buildout, zc.recipe.egg, RECIPE, and perhaps our wheel with what it needs."""

    pip: PipEnv
    version: str

    @classmethod
    def create(cls, folder: Path, version: str, wheel: Path | None = None) -> BuildoutEnv:
        """Makes it, for this Python. The wheels come from the machine's index once."""
        kit = _kit(version)
        pip = PipEnv.create(folder, sys.executable, kit.pip)
        what = [*_requirements(version), *([str(wheel)] if wheel else [])]
        quiet = ("--quiet", "--no-index", "--no-warn-script-location", "--find-links", str(wheels(version)))
        done = pip.run("install", *quiet, *what)
        if done.code:
            raise RuntimeError(done.output)
        recipe = folder / RECIPE.filename
        recipe.write_bytes(RECIPE.content)
        pip.install(recipe)
        return cls(pip, version)

    @classmethod
    def at(cls, folder: Path, version: str) -> BuildoutEnv:
        """One that `create` made."""
        return cls(PipEnv(folder, _kit(version).pip), version)

    @property
    def program(self) -> Path:
        """bin/buildout"""
        return self.pip.folder / "bin" / "buildout"


@dataclass
class Checkout:
    """A folder with a buildout.cfg for the index of a scene.

    `parts` are sections of the file with their keys; `options` are keys of ``[buildout]``, `settings` those of
    ``[cdn-fallback]`` (by default the scene's pool), which is left out without an `extension`.
    """

    folder: Path
    pool: Scene
    parts: Mapping[str, Mapping[str, str]]
    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] | None = None
    extension: bool = True

    @classmethod
    def of(cls, folder: Path, pool: Scene, *eggs: str, **options: str) -> Checkout:
        """With one part that needs these eggs."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, pool, {"eggs": {"recipe": "zc.recipe.egg", "eggs": "\n".join(eggs)}}, options)

    def write(self) -> Path:
        """buildout.cfg"""
        pool = self.pool
        options = {"parts": "\n".join(self.parts), "index": f"{pool.index}simple/", "show-picked-versions": "false"}
        sections: dict[str, Mapping[str, str]] = {"buildout": options | self.options, **self.parts}
        if self.extension:
            sections["buildout"] = {"extensions": "cdn-fallback", **sections["buildout"]}
            sections["cdn-fallback"] = self.settings if self.settings is not None else pool.settings()
        path = self.folder / "buildout.cfg"
        path.write_text("\n".join(_section(name, keys) for name, keys in sections.items()))
        return path

    def run(
        self,
        buildout: BuildoutEnv,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        plain: bool = False,
        config: str = "",
        timeout: float = 60.0,
    ) -> Result:
        """buildout in this folder; `plain` switches our extension off, `config` is a buildout.cfg of one's own."""
        path = self.write()
        if config:
            path.write_text(config)
        with home_folder(home) as folder:
            environment = clean_environment(folder) | self.pool.environment
            # what zc.buildout asks where it does not go by `index`: offline
            environment["buildout_testing_index_url"] = f"{self.pool.index}simple/"
            if self.pool.ca:
                environment["SSL_CERT_FILE"] = str(self.pool.ca)
            if plain:
                environment["CDN_FALLBACK_DISABLE"] = "1"
            environment.update(env or {})
            command = (str(buildout.pip.python), str(buildout.program), "-c", str(path), *arguments)
            return timed(command, environment, self.folder, timeout)

    @property
    def eggs(self) -> dict[str, Path]:
        """What is installed: "demo-b 1.0" -> its egg."""
        found = {}
        for egg in (self.folder / "eggs").rglob("*.egg"):
            name, version, *_ = egg.name.removesuffix(".egg").split("-")
            found[f"{name.replace('_', '-').replace('.', '-').lower()} {version}"] = egg
        return found

    def has(self, dist: Dist) -> bool:
        """Whether every byte of `dist` is installed."""
        egg = self.eggs.get(f"{dist.project} {dist.version}")
        return egg is not None and dist.installed_in(egg)


def _kit(version: str) -> Kit:
    """Its own, or that of the newest that is known."""
    return KITS.get(version, next(iter(KITS.values())))


def _section(name: str, keys: Mapping[str, str]) -> str:
    lines = [f"{key} = {value}".replace("\n", "\n    ") for key, value in keys.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _requirements(version: str) -> Sequence[str]:
    return f"zc.buildout=={version}", "zc.recipe.egg", _kit(version).setuptools, "wheel"


@functools.cache
def wheels(version: str) -> Path:
    """A folder with the wheels of this zc.buildout, of what it needs, and of what we need."""
    folder = cache_folder() / f"buildout-{version}-{sys.implementation.cache_tag}"
    with locked(cache_folder() / "lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                quiet = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", f"{scratch}/w")
                what = (*_requirements(version), "requests")
                checked(sys.executable, "-m", "pip", "download", *quiet, *what)
                Path(scratch, "w").rename(folder)
    return folder
