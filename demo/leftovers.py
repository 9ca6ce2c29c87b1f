"""Nothing that was started stays: not the child of a child either, nor what was begun when Ctrl-C came."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PATIENCE = 5.0  # s


def adopt() -> None:
    """From now on a process whose parent has ended is our child, not init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end() -> None:
    """Kills all processes below this one, and waits until they have gone."""
    until = time.monotonic() + _PATIENCE
    while (living := list(_below(os.getpid()))) and time.monotonic() < until:
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.01)


def _below(top: int) -> Iterator[int]:
    """Its children, and theirs."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [top]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    yield from found[1:]
