"""A real nginx that runs a configuration of ours, and a client that sends to any server just what it is told."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

_PATIENCE = 10.0  # seconds
# All that it writes lies in the folder. Started by root, it would become a user who may not read a test's files.
_CONFIG = """\
{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{
    worker_connections 64;
}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
{http}
}}
"""


class Nginx:
    """Runs with `http` inside its http block, which has it listen on `address` and `port`, in its `with` block."""

    def __init__(self, folder: Path, address: str, port: int, http: str) -> None:
        self.folder = folder
        self.address = address
        self.port = port
        self._http = http
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.address}:{self.port}/"

    @property
    def errors(self) -> str:
        """What it has complained about."""
        log = self.folder / "error.log"
        return log.read_text() if log.exists() else ""

    def check(self) -> str:
        """What its own test (-t) says: of a good configuration two lines. ValueError for a bad one."""
        self._write()
        found = subprocess.run([*self._command(), "-t"], capture_output=True, text=True)
        if found.returncode:
            raise ValueError(found.stderr)
        return found.stderr

    def __enter__(self) -> Nginx:
        self._write()
        self._process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)
        self._until(self._accepts, "accept connections")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops it; connections end at once."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)

    def _command(self) -> list[str]:
        # -e: until it has read its configuration it would write to the machine's log
        return [
            nginx(),
            "-p",
            str(self.folder),
            "-c",
            str(self.folder / "nginx.conf"),
            "-e",
            f"{self.folder}/error.log",
        ]

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(_CONFIG.format(user=user, folder=self.folder, http=self._http))

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        while not holds():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"nginx did not {what} in {_PATIENCE:.0f} s: {self.errors}")
            time.sleep(0.01)


def nginx() -> str:
    """The server's path. FileNotFoundError names the package that has it."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise FileNotFoundError("nginx not found: install the Debian package nginx")
    return binary


class Got(NamedTuple):
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def header(self, name: str) -> str:
        """All values of a header; empty where it is absent."""
        return ", ".join(self.headers.get_all(name, []))


class Client:
    """One connection to the server at `url`, kept from request to request while its `with` block runs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.place = (parts.hostname or "", parts.port or 0)
        self._connection = http.client.HTTPConnection(*self.place, timeout=5)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: bytes = b""
    ) -> Got:
        """Ask for `path`, which is sent as it is, with no other headers than Host and these."""
        given = dict(headers or {})
        self._connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
        if body:
            given["Content-Length"] = str(len(body))
        for name, value in given.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body)
        answer = self._connection.getresponse()
        return Got(answer.status, answer.headers, answer.read())

    def raw(self, text: bytes) -> bytes:
        """What a connection of its own gives, until the server closes it, to these bytes."""
        found = b""
        with socket.create_connection(self.place, 5) as connection:
            connection.sendall(text)
            while chunk := connection.recv(65536):
                found += chunk
        return found
