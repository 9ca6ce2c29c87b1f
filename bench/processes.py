"""What a process costs: its CPU and its children's, the time on the clock, and their memory. Needs Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a process and its children took, from its start to its end."""

    cpu: float  # s, user and system
    wall: float  # s
    memory: int  # bytes resident in all of them at once, as far as looking 20 times a second can tell


def run(command: Sequence[str], log: Path, environ: Mapping[str, str] = os.environ) -> Cost:
    """Run it to its end; what it says goes to `log`. Raises SystemExit with the last of that if it fails."""
    start = time.perf_counter()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    child = os.posix_spawn(command[0], list(command), environ, file_actions=actions)
    memory, pause = 0, 0.001
    try:
        while True:
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if ended:
                break
            memory = max(memory, resident(child))
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
    except BaseException:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)[:300]} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, memory)


def resident(process: int) -> int:
    """Bytes that it and its descendants have in memory; what several of them share counts for each.

    Not ru_maxrss: a child begins with that of the process that it was forked from.
    """
    total = 0
    with contextlib.suppress(OSError):  # it may end meanwhile
        total = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for thread in os.listdir(f"/proc/{process}/task"):
            children = Path(f"/proc/{process}/task/{thread}/children").read_text()
            total += sum(map(resident, map(int, children.split())))
    return total
