"""Runs that are watched while they happen, several at once, and what is shown of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_REDIRECT = re.compile(r"(redirector\d*) redirects to (\w+)(/\S*) after [\d.]+ s")
_ANSWER = re.compile(r"(\w+) answered 20[06] after [\d.]+ s")
_WIDTH = 120
PATIENT = 60.0  # s

Worth = Callable[[str], str | None]  # what is told of a line; nothing if it is not worth it


@dataclass(frozen=True, slots=True)
class Command:
    """What is run, by whom it is said to be, and for how many seconds at most."""

    name: str
    words: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    worth: Worth
    patience: float = PATIENT


@dataclass(slots=True)
class Run:
    """How it ended. `told` is what was worth it of `output`, which is all that it said."""

    code: int = 0
    seconds: float = 0.0
    told: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """By us, as it took too long."""
        return self.code == -signal.SIGKILL


class Narrator:
    """Prints lines as they come, after a name.

    A redirect waits for what came of it: both stand on one line. And of one server's answers in a row there is but
    the first, and then their number.
    """

    def __init__(self, name: str, write: Callable[[str], object] = print) -> None:
        self._name = name
        self._write = write
        self._redirect = ""
        self._answers = "", 0  # who gave the last ones, and how many were not told

    def tell(self, seconds: float, line: str) -> None:
        """A line, and when it was said."""
        answer = _ANSWER.fullmatch(line)
        who, more = self._answers
        if answer and not self._redirect and answer[1] == who:
            self._answers = who, more + 1
            return
        self._count(seconds)
        redirect = _REDIRECT.fullmatch(line)
        if redirect:
            self._tell_redirect(seconds)
            name, target, path = redirect.groups()
            self._redirect = f"{path.removeprefix('/packages/')}: {name} redirects to {target}"
            return
        self._put(seconds, "; ".join(filter(None, (self._redirect, line))))
        self._answers = answer[1] if answer else "", 0

    def end(self, seconds: float) -> None:
        """Nothing more comes."""
        self._count(seconds)
        self._tell_redirect(seconds)

    def _count(self, seconds: float) -> None:
        who, more = self._answers
        self._answers = who, 0
        if more:
            self._put(seconds, f"{who} gave {more} more")

    def _tell_redirect(self, seconds: float) -> None:
        if self._redirect:
            self._put(seconds, self._redirect)

    def _put(self, seconds: float, text: str) -> None:
        self._redirect = ""
        line = f"    {self._name:<8} {seconds:4.1f}  {text}"
        self._write(line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}...")


def watched(*commands: Command, write: Callable[[str], object] = print) -> list[Run]:
    """Runs them at the same time, and tells each line worth it as it is written.

    Each in a session of its own, so that its children end with it, also at Ctrl-C and when it takes too long.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        runs, readers, start = [], [], time.monotonic()
        for command in commands:
            process = subprocess.Popen(
                command.words, env={**command.env, "PYTHONUNBUFFERED": "1"}, cwd=command.cwd, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                start_new_session=True,
            )  # fmt: skip
            processes.append(process)
            runs.append(Run(-1))  # until its end is known
            readers.append(threading.Thread(target=_watch, args=(command, process, runs[-1], start, write)))
            readers[-1].start()
        for reader in readers:
            reader.join()
        return runs
    finally:
        for process in processes:
            _end(process)


def _watch(
    command: Command, process: subprocess.Popen[str], run: Run, start: float, write: Callable[[str], object]
) -> None:
    """To its end, which is `command.patience` seconds after its start at the latest."""
    narrator = Narrator(command.name, write)
    alarm = threading.Timer(command.patience, _end, (process,))
    alarm.start()
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            run.output.append(line.rstrip())
            said = command.worth(line.strip())
            if said is not None:
                run.told.append(said)
                narrator.tell(time.monotonic() - start, said)
    run.code = process.wait()
    run.seconds = time.monotonic() - start
    alarm.cancel()
    narrator.end(run.seconds)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def checked(command: Sequence[str], problem: str) -> None:
    """Runs it quietly. RuntimeError: the problem, and what the command said last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        said = "\n".join(f"    | {line}" for line in done.stdout.splitlines()[-8:])
        raise RuntimeError(f"{problem}:\n{said}")
