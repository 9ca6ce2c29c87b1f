"""One run at a time: a lock beside the catalog, which says who holds it and ends with its process (flock)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from cdn_fallback.errors import CdnFallbackError, printable


class Busy(CdnFallbackError):
    """Another run holds the catalog."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path, holder)
        self.path = path
        self.holder = holder

    def __str__(self) -> str:
        return printable(f"{self.path}: another run is at work ({self.holder}); wait for its end, nothing was done")


@contextlib.contextmanager
def held(catalog: Path, command: str, now: float) -> Iterator[None]:
    """Hold the catalog's lock for `command` since `now` (Unix time). Raises Busy if another process has it."""
    path = catalog.with_name(f"{catalog.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(str(path), _holder(file.read(1000))) from None
        since = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        mine = {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
        file.truncate(0)
        file.write(json.dumps(mine))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"{found['command']}, process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, TypeError, KeyError):
        return "it does not say who"
