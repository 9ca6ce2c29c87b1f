"""Redirect servers with what `cdn-fallback redirectors` wrote, and what came of a request, taken at its word."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from urllib3.util import parse_url

from cdn_fallback.mirror.redirectors import Redirector, lighttpd, nginx
from tests.rig.lighttpd import lighttpd as lighttpd_binary
from tests.rig.nginx import nginx as nginx_binary

_PATIENCE = 10.0  # s

SERVERS: dict[str, Callable[[Redirector], str]] = {"lighttpd": lighttpd.configuration, "nginx": nginx.configuration}
BINARIES = {"lighttpd": lighttpd_binary, "nginx": nginx_binary}
# How they complain of what they pass over. lighttpd returns 0 on unknown directives.
_COMPLAINT = re.compile(r"WARNING|\[(?:warn|error|alert|crit|emerg)\]")


def complaints(server: str, file: Path) -> str:
    """What the server's own test (-tt, -t) complains of; empty for a good file."""
    pid = f"pid {file.parent}/nginx.pid;"  # or it would open the machine's
    options = ("-tt", "-f") if server == "lighttpd" else ("-t", "-e", "stderr", "-g", pid, "-c")
    done = subprocess.run([BINARIES[server](), *options, str(file)], capture_output=True, text=True)
    said = done.stdout + done.stderr
    return said or "it failed" if done.returncode or _COMPLAINT.search(said) else ""


class Running:
    """A server with a configuration of ours, which says `--folder`, while its `with` block runs."""

    def __init__(self, server: str, file: Path, folder: Path, address: str, port: int) -> None:
        self.server = server
        self.file = file
        self.folder = folder
        self.address = address
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Running:
        self._process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)
        self._until(self._accepts, "accept connections")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops it; the log is complete then."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)

    @property
    def errors(self) -> str:
        """What it has complained of; lighttpd tells of its start and end there, too."""
        log = self.folder / "error.log"
        return "".join(
            line for line in (log.read_text() if log.exists() else "").splitlines(True) if _COMPLAINT.search(line)
        )

    def log(self) -> list[str]:
        """The lines of its access log. Stop it before: lighttpd keeps lines back."""
        return (self.folder / "access.log").read_bytes().decode("latin-1").split("\n")[:-1]

    def _command(self) -> list[str]:
        binary = BINARIES[self.server]()
        if self.server == "lighttpd":
            return [binary, "-D", "-f", str(self.file)]
        return [binary, "-e", "stderr", "-c", str(self.file), "-g", f"daemon off; pid {self.folder}/nginx.pid;"]

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET) as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        while not holds():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.server} did not {what} in {_PATIENCE:.0f} s: {self.errors}")
            time.sleep(0.01)


# --- raw requests, and what they get ---


class Response(NamedTuple):
    """One response, of which every byte was in its place."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that must not be there twice."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, self.headers
        return found[0] if found else None


def opened(
    address: str, port: int, data: bytes, context: ssl.SSLContext | None = None, name: str = ""
) -> socket.socket:
    """A connection to which these bytes were sent, and then its end."""
    connection = socket.create_connection((address, port), _PATIENCE)
    if context:
        connection = context.wrap_socket(connection, server_hostname=name)
    # a server that has answered already may have closed it
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)
        if not context:
            connection.shutdown(socket.SHUT_WR)
    return connection


def received(connection: socket.socket) -> bytes:
    """All that comes, until the server closes."""
    found = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*")
_HEADER = re.compile(rb"([A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")


def parsed(data: bytes, *, head: bool = False) -> list[Response]:
    """The responses that these bytes are, each with nothing but what a response has. AssertionError otherwise.

    :param head: whether the requests were HEAD: their answers have no body
    """
    found = []
    while data:
        top, end, data = data.partition(b"\r\n\r\n")
        assert end, top
        line, *fields = top.split(b"\r\n")
        status = _STATUS_LINE.fullmatch(line)
        assert status, line
        headers = []
        for field in fields:
            match = _HEADER.fullmatch(field)
            assert match, field
            headers.append((match[1].decode(), match[2].decode()))
        one = Response(int(status[1]), tuple(headers), b"")
        # what a server could not parse it may not have seen to be a HEAD
        bare = head and (one.status < 400 or not data or data.startswith(b"HTTP/"))
        length = 0 if bare or one.status < 200 else int(one.header("content-length") or 0)
        assert len(data) >= length, data
        found.append(one._replace(body=data[:length]))
        data = data[length:]
    return found


def asked(address: str, port: int, data: bytes, context: ssl.SSLContext | None = None, name: str = "") -> Response:
    """The one response to these bytes; nginx says 100 to whoever waits for it, and then what it would have said."""
    with_head = data.startswith(b"HEAD ")
    found = parsed(received(opened(address, port, data, context, name)), head=with_head)
    (last,) = (one for one in found if one.status != 100)
    return last


class Reading(NamedTuple):
    """Where somebody believes that a URL leads."""

    scheme: str
    host: str
    port: int
    user: str = ""


_PORTS = {"http": 80, "https": 443}


def by_urllib(url: str) -> Reading:
    """As Python's library reads it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return Reading(parts.scheme, host, parts.port or _PORTS[parts.scheme], parts.username or "")


def by_urllib3(url: str) -> Reading:
    """As requests and pip read it."""
    parts = parse_url(url)
    scheme = parts.scheme or ""
    return Reading(scheme, parts.host or "", parts.port or _PORTS[scheme], parts.auth or "")


def by_browser(url: str) -> Reading:
    """As a browser reads it (WHATWG URL, section 4.4): backslashes are slashes, tabs and line ends are not there."""
    text = re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(33))))).replace("\\", "/")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/*([^/?#]*)", text)
    assert match, url
    user, _, place = match[2].rpartition("@")
    host, _, port = place.partition(":")
    scheme = match[1].lower()
    return Reading(scheme, host.lower(), int(port) if port else _PORTS[scheme], user)


READINGS = (by_urllib, by_urllib3, by_browser)
