"""Pips beside each other, to be watched and killed; and how much memory one takes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rig.pips import PipEnv, Result, clean_environment

# What a process has taken at most survives exec: the one that is measured comes from a small one, not from the tests.
_MEASURE = """
import os, subprocess, sys
pip = subprocess.Popen([sys.executable, "-m", "pip", *sys.argv[2:]])
_, status, used = os.wait4(pip.pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(used.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A pip under way; what it says goes to a file."""

    process: subprocess.Popen[bytes]
    said: Path

    @classmethod
    def start(cls, pip: PipEnv, *arguments: str, env: Mapping[str, str], config: Path, home: Path) -> Running:
        """`python -m pip` in a clean environment, plus `env`; see `PipEnv.execute`."""
        environment = clean_environment(home) | {"PIP_CONFIG_FILE": str(config)} | dict(env)
        said = home / f"said-{len(list(home.glob('said-*')))}"
        with said.open("wb") as file:
            command = (str(pip.python), "-m", "pip", *arguments)
            process = subprocess.Popen(
                command, env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        return cls(process, said)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """With SIGKILL, if it has not ended, and wait for its end."""
        self.process.kill()
        self.process.wait()


def memory(pip: PipEnv, *arguments: str, env: Mapping[str, str], config: Path, scratch: Path) -> tuple[Result, int]:
    """A run of pip, and the bytes of memory that it had at its peak."""
    result = pip.execute("-c", _MEASURE, str(scratch), *arguments, env=env, config=config)
    return result, int(scratch.read_text()) * 1024
