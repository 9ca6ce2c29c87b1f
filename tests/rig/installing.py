"""Who installs through a pool: pip and buildout, with one way to names or another."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.pips import PipEnv, Result
from tests.rig.scene import Scene


@dataclass(frozen=True, slots=True)
class Client:
    """Who installs through the picture, with its own way to names."""

    scene: Scene
    prefix: tuple[str, ...] = ()  # stands before every command

    def pip(self, env: PipEnv, *arguments: str, timeout: float = 120.0) -> Result:
        """pip with these arguments, with the index and the trust in its authority on its command line."""
        return self.scene.pip(self.inside(env), *arguments, timeout=timeout)

    def buildout(self, env: BuildoutEnv, checkout: Checkout, *arguments: str, timeout: float = 120.0) -> Result:
        """buildout in a folder that `checkout()` has made."""
        return checkout.run(BuildoutEnv(self.inside(env.pip), env.version), *arguments, timeout=timeout)

    def checkout(self, folder: Path, *eggs: str, **options: str) -> Checkout:
        """A folder with a buildout.cfg for these eggs."""
        return Checkout.of(folder, self.scene, *eggs, **options)

    def inside(self, env: PipEnv) -> PipEnv:
        """The same environment, whose Python has its names as this client has."""
        if not self.prefix:
            return env
        python = self.scene.folder / f"python-{env.folder.name}"
        python.write_text(f'#!/bin/sh\nexec {shlex.join((*self.prefix, str(env.python)))} "$@"\n')
        python.chmod(0o755)
        return _Inside(env.folder, env.pip_version, python)


@dataclass(frozen=True, slots=True)
class _Inside(PipEnv):
    wrapper: Path

    @property
    def python(self) -> Path:
        return self.wrapper
