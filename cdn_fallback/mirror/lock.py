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
from typing import NamedTuple, TextIO

from cdn_fallback.errors import printable
from cdn_fallback.mirror.catalog import CatalogError
from cdn_fallback.mirror.errors import AtWork

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # Linux: made up at each start of the machine


class Busy(AtWork):
    """Another run holds the catalog."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path, holder)
        self.path = path
        self.holder = holder

    def __str__(self) -> str:
        return printable(f"{self.path}: another run is at work ({self.holder}); wait for its end, nothing was done")


class Who(NamedTuple):
    """Who holds a lock."""

    holder: str  # for people, as `Busy` shows it
    # The machine's boot and the lock's file, or nothing. Who holds a lock and finds its own place noted elsewhere
    # knows: that was an earlier holder, and it is dead.
    place: str


@contextlib.contextmanager
def held(catalog: Path, command: str, now: float) -> Iterator[Who]:
    """Hold the catalog's lock for `command` since `now` (Unix time).

    :raises Busy: if another process has it
    :raises CatalogError: if its file cannot be written
    """
    path = catalog.with_name(f"{catalog.name}.lock")
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(str(path), _holder(file.read(1000))) from None
        except OSError as exc:
            raise CatalogError(str(path), f"cannot be locked ({exc.strerror}); keep it on a local disk") from exc
        since = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        mine = {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
        text = json.dumps(mine)
        with contextlib.suppress(OSError):  # no space left: it holds all the same
            file.truncate(0)
            os.write(file.fileno(), text.encode("ascii"))
        try:
            yield Who(_holder(text), _place(file))
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="ascii", errors="replace")
    except OSError as exc:
        problem = f"cannot be written ({exc.strerror}); let the user that runs this own its folder"
        raise CatalogError(str(path), problem) from exc


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"{found['command']}, process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, TypeError, KeyError):
        return "it does not say who"


def _place(file: TextIO) -> str:
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
        status = os.fstat(file.fileno())
    except (OSError, ValueError):
        return ""
    return f"{boot} {status.st_dev}:{status.st_ino}" if boot else ""
