"""Who is trying to reach a server that drops connections: the kernel knows."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

_PROC = Path("/proc/net/tcp")
_SYN_SENT = "02"


@contextlib.contextmanager
def knocks(blackholes: Mapping[str, tuple[str, int]]) -> Iterator[set[str]]:
    """Collects the names of those that somebody tries to connect to. `blackholes`: name -> address and port."""
    met: set[str] = set()
    over = threading.Event()
    wanted = {_hex(*place): name for name, place in blackholes.items()}
    before = set(_connecting())  # the sockets that keep the blackholes' queues full

    def watch() -> None:
        while not over.wait(0.03):
            met.update(wanted[remote] for local, remote in set(_connecting()) - before if remote in wanted)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield met
    finally:
        over.set()
        watcher.join()


def _hex(address: str, port: int) -> str:
    """As /proc/net/tcp spells it."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"


def _connecting() -> Iterator[tuple[str, str]]:
    """(local, remote) of all connections of this machine that nobody has accepted yet."""
    for line in _PROC.read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == _SYN_SENT:
            yield local, remote
