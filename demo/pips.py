"""Runs of pip that are watched while they happen, and what is shown of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_OURS = "cdn-fallback: "
_COMPLAINTS = ("WARNING: ", "ERROR: ")
_REDIRECT = re.compile(r"(redirector\d*) redirects to (\w+)(/\S*) after [\d.]+ s")
_PATIENCE = 60.0  # seconds
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Run:
    """How a pip ended. `told` are its complaints and what cdn-fallback logged; `output` is all it said."""

    code: int
    seconds: float
    told: list[str]
    output: list[str]

    @property
    def complaints(self) -> list[str]:
        """What a user sees without -v."""
        return [line for line in self.told if line.startswith(_COMPLAINTS)]


class Narrator:
    """Prints lines as they come. A redirect waits for what came of it: both stand on one line."""

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self._write = write
        self._redirect = ""

    def tell(self, seconds: float, line: str) -> None:
        """A line, and when it was said."""
        redirect = _REDIRECT.fullmatch(line)
        if redirect:
            self.end(seconds)
            name, target, path = redirect.groups()
            self._redirect = f"{path.removeprefix('/packages/')}: {name} redirects to {target}"
            return
        self._put(seconds, "; ".join(filter(None, (self._redirect, line))))

    def end(self, seconds: float) -> None:
        """Nothing more comes."""
        if self._redirect:
            self._put(seconds, self._redirect)

    def _put(self, seconds: float, text: str) -> None:
        self._redirect = ""
        line = f"    {seconds:4.1f}  {text}"
        self._write(line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}...")


def watched(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, shortened: Callable[[str], str], narrator: Narrator
) -> Run:
    """Runs it and tells each line worth it as it is written.

    In a session of its own, so that its children end with it, also at Ctrl-C and after a minute.
    """
    start = time.monotonic()
    told, output = [], []
    process = subprocess.Popen(
        command, env={**env, "PYTHONUNBUFFERED": "1"}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    alarm = threading.Timer(_PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    alarm.start()
    try:
        for line in process.stdout:
            output.append(line.rstrip())
            said = line.strip()
            if said.startswith((_OURS, *_COMPLAINTS)):
                told.append(shortened(said.removeprefix(_OURS)))
                narrator.tell(time.monotonic() - start, told[-1])
        code = process.wait()
    finally:
        alarm.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    seconds = time.monotonic() - start
    narrator.end(seconds)
    return Run(code, seconds, told, output)


def checked(command: Sequence[str], problem: str) -> None:
    """Runs it quietly. RuntimeError: the problem, and what the command said last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        said = "\n".join(f"    | {line}" for line in done.stdout.splitlines()[-8:])
        raise RuntimeError(f"{problem}:\n{said}")
