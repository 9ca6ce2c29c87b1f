"""Runs that are watched while they happen, and what is shown of them."""

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

_REDIRECT = re.compile(r"(redirector\d*) redirects to (\w+)(/\S*) after [\d.]+ s")
_WIDTH = 120
PATIENT = 60.0  # s

Worth = Callable[[str], str | None]  # what is told of a line; nothing if it is not worth it


@dataclass(frozen=True, slots=True)
class Run:
    """How it ended. `told` is what was worth it of `output`, which is all that it said."""

    code: int
    seconds: float
    told: list[str]
    output: list[str]

    @property
    def stopped(self) -> bool:
        """By us, as it took too long."""
        return self.code == -signal.SIGKILL


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
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    worth: Worth,
    *,
    patience: float = PATIENT,
    narrator: Narrator | None = None,
) -> Run:
    """Runs it and tells each line worth it as it is written.

    In a session of its own, so that its children end with it, also at Ctrl-C and when it takes longer than
    `patience` seconds.
    """
    narrator = narrator or Narrator()
    start = time.monotonic()
    told, output = [], []
    process = subprocess.Popen(
        command, env={**env, "PYTHONUNBUFFERED": "1"}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    alarm = threading.Timer(patience, os.killpg, (process.pid, signal.SIGKILL))
    alarm.start()
    try:
        for line in process.stdout:
            output.append(line.rstrip())
            said = worth(line.strip())
            if said is not None:
                told.append(said)
                narrator.tell(time.monotonic() - start, said)
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
