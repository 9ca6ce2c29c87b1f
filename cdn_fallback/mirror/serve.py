"""A site in a folder, served on loopback for trying it out: what `cdn-fallback mirror serve` runs.

Answers as the server does that `nginx` configures. It is no server for the world: a thread for each connection.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cdn_fallback.mirror.errors import MirrorError
from cdn_fallback.mirror.handler import Handler

PATIENCE = 30.0  # s in which a request's head must come, and each _CHUNK of an answer be taken


class CannotServe(MirrorError):
    """The site cannot be served: says where, why and what to do."""


class SiteServer:
    """Serves the folder `root` while its `with` block runs, once.

    :param port: 0 for any that is free; `url` tells which
    :param trees: the prefixes of what is published beside the index
    :param log: called with a line, fit for a terminal, for each answer; by several threads
    :param patience: seconds, see PATIENCE
    """

    def __init__(
        self,
        root: Path,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        trees: tuple[str, ...] = (),
        log: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._root = root
        self._place = (address, port)
        self._settings = (str(root), trees, log or _nowhere, patience)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The site's base URL."""
        if self._server is None:
            raise RuntimeError("the server is not running")
        host, port = self._server.server_address[:2]
        host = str(host)
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def start(self) -> None:
        """From now on it answers. Raises CannotServe."""
        address, port = self._place
        if not self._root.is_dir():
            raise CannotServe(str(self._root), "is no folder; `cdn-fallback mirror run` makes the site")
        try:
            self._server = _Server(self._place, *self._settings)
        except (OSError, OverflowError) as exc:
            problem = f"cannot be listened on ({exc}); name another port, or 0 for any that is free"
            raise CannotServe(f"{address}:{port}", problem) from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="cdn-fallback serve")
        self._thread.start()

    def wait(self) -> None:
        """Until another thread, or Ctrl-C, ends it."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """It has ended, with every connection."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.cut()
            self._server.server_close()

    def __enter__(self) -> SiteServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them; `cut` sees to it that they end

    def __init__(
        self, place: tuple[str, int], root: str, trees: tuple[str, ...], log: Callable[[str], None], patience: float
    ) -> None:
        self.root = root
        self.trees = trees
        self.log = log
        self.patience = patience
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own would ask the resolver for a name

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # which is a client that went away
            super().handle_error(request, client_address)


def _nowhere(line: str) -> None:
    pass
