"""The two tools that are measured, plain and with cdn-fallback."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.dists import Dist
from tests.rig.faults import Body
from tests.rig.pips import PipEnv, Result, built_wheel
from tests.rig.scene import CDN, Scene

PIP, BUILDOUT = "26.3", "6.0.1"


class Install(NamedTuple):
    """How it ended, and whether every byte of a distribution is there."""

    result: Result
    has: Callable[[Dist], bool]


class Tool(Protocol):
    """What installs."""

    @property
    def name(self) -> str:
        """With its version."""

    def install(
        self, pool: Scene, names: Sequence[str], folder: Path, home: Path | None, *, plain: bool, timeout: float
    ) -> Install:
        """Install the projects `names` somewhere in `folder`; `plain` switches cdn-fallback off."""


@dataclass(frozen=True)
class Pip:
    """pip with the plugin, switched on."""

    env: PipEnv
    options: tuple[str, ...] = ()
    name: str = f"pip {PIP}"

    @classmethod
    def create(cls, folder: Path, *options: str) -> Pip:
        env = PipEnv.create(folder, sys.executable, PIP, built_wheel())
        enabled = env.execute("-m", "cdn_fallback", "enable")
        if enabled.code:
            raise SystemExit(enabled.output)
        return cls(env, options)

    def install(
        self, pool: Scene, names: Sequence[str], folder: Path, home: Path | None, *, plain: bool, timeout: float
    ) -> Install:
        target = Path(tempfile.mkdtemp(prefix="target-", dir=folder))
        options = ("--no-compile", "--progress-bar", "off", "--target", str(target), *self.options)
        result = pool.pip(self.env, "install", *options, *names, home=home, plain=plain, timeout=timeout)
        return Install(result, lambda dist: dist.installed_in(target))


@dataclass(frozen=True)
class Buildout:
    """buildout with the extension; `extends` lets it begin with a file of the CDN's, for which it is enabled."""

    env: BuildoutEnv
    extends: bool = False
    name: str = f"zc.buildout {BUILDOUT}"

    @classmethod
    def create(cls, folder: Path) -> Buildout:
        return cls(BuildoutEnv.create(folder, BUILDOUT, built_wheel()))

    def install(
        self, pool: Scene, names: Sequence[str], folder: Path, home: Path | None, *, plain: bool, timeout: float
    ) -> Install:
        checkout = Checkout.of(Path(tempfile.mkdtemp(prefix="checkout-", dir=folder)), pool, *names)
        env = {}
        if self.extends:
            for server in pool.group("cdn"):
                server.fault(Body(b"[buildout]\n"), on="/base.cfg")
            checkout.options["extends"] = f"{pool.base(CDN)}base.cfg"
            env["PYTHONPATH"] = str(self.env.pip.site_packages / "cdn_fallback" / "_path")
        result = checkout.run(self.env, env=env, home=home, plain=plain, timeout=timeout)
        return Install(result, checkout.has)
