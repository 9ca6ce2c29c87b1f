"""A TCP forwarder that can vanish in no time, for servers that take seconds to start again; and a socket that stands
in the place of a server that has been stopped.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from types import TracebackType
from typing import Literal

from tests.rig.faults import Blackhole, Fault, Refuse
from tests.rig.messages import Answer, Request
from tests.rig.server import Server

How = Literal["refuse", "blackhole"]
FAULTS: dict[How, Fault] = {"refuse": Refuse(), "blackhole": Blackhole()}

_CHUNK = 1 << 16
_ASKED = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")


class _Nothing:
    def answer(self, request: Request) -> Answer:
        return Answer(503)


def stand_in(address: str, port: int, how: How) -> Server:
    """Holds the place of a server that is gone: connecting is refused at once, or never ends. `close()` frees it."""
    server = Server(_Nothing(), address, port)
    server.fault(FAULTS[how])
    return server.__enter__()


class Forwarder:
    """Passes connections on to `target` while its `with` block runs.

    `asked` has the requests that begin a chunk of what clients send, which is all of them where a client waits for its
    answer before it asks again; `connections` is a count.
    """

    def __init__(self, address: str, port: int, target: tuple[str, int]) -> None:
        self.address = address
        self.port = port
        self.target = target
        self.connections = 0
        self.asked: list[tuple[str, str]] = []  # (method, path)
        self._listener: socket.socket | None = None
        self._stand_in: Server | None = None
        self._flowing = threading.Event()
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Forwarder:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, self.port))
        listener.listen(128)
        self._listener = listener
        self._flowing.set()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything."""
        self._stop_listening()
        self._cut()

    def kill(self, how: How) -> None:
        """Refused: living connections are cut. Blackhole: nothing comes through them any more. The last one counts."""
        self._stop_listening()
        if how == "refuse":
            self._cut()
        else:
            self._flowing.clear()
        self._stand_in = stand_in(self.address, self.port, how)

    def heal(self) -> None:
        """As before. What was held up is lost."""
        self.close()
        self.__enter__()

    def _stop_listening(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()
        if self._stand_in is not None:
            self._stand_in.close()
            self._stand_in = None

    def _cut(self) -> None:
        with self._lock:
            live, self._live = self._live, set()
        for one in live:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._flowing.set()  # who waits for it finds the connection cut

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._pass_on, args=(client, listener), daemon=True).start()

    def _pass_on(self, client: socket.socket, listener: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self.target) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._listener is not listener:  # killed, just as it was accepted
                    return
                self._live |= {client, server}
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server, note=True)
            back.join()
            with self._lock:
                self._live -= {client, server}

    def _pump(self, source: socket.socket, target: socket.socket, *, note: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                if note and (found := _ASKED.match(data)):
                    self.asked.append((found[1].decode(), found[2].decode("latin-1")))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
