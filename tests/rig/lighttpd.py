"""A real lighttpd as one redirector of a pool."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.rig.tls import ServerTLS

_PATIENCE = 10.0  # seconds
# mod_setenv stands before mod_redirect, or redirects lose their Cache-Control.
_CONFIG = r"""
server.modules = ("mod_setenv", "mod_redirect", "mod_accesslog"{tls_module})
server.document-root = "{folder}"
server.bind = "{address}"
server.port = {port}
server.errorlog = "{folder}/error.log"
accesslog.filename = "{folder}/access.log"
accesslog.format = "%r\t%s\t%{{Authorization}}i\t%{{Host}}i\t%{{User-Agent}}i"
setenv.set-response-header = ("Cache-Control" => "public, max-age=300")
url.redirect = ("" => "{base}${{url.path}}${{qsa}}")
url.redirect-code = 302
"""
_TLS = """
ssl.engine = "enable"
ssl.pemfile = "{folder}/server.pem"
"""
_QUOTED = r'"(?P<{}>(?:[^"\\]|\\.)*)"'
_COMBINED = re.compile(
    rf"\S+ (?P<host>\S+) \S+ \[[^]]*\] {_QUOTED.format('request')} (?P<status>[0-9]+) \S+"
    rf" {_QUOTED.format('referer')} {_QUOTED.format('agent')}"
)


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the access log; absent headers are empty."""

    method: str
    path: str
    status: int
    authorization: str
    host: str
    agent: str


class Lighttpd:
    """Redirects every path to the same path under `base` while its `with` block runs."""

    def __init__(self, folder: Path, address: str, port: int, base: str, *, tls: ServerTLS | None = None) -> None:
        self.folder = folder
        self.address = address
        self.port = port
        self.base = base
        self.tls = tls
        self._marks = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lighttpd:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen([lighttpd(), "-D", "-f", str(self._configured())])
        self._until(self._accepts, "accept connections")
        return self

    def _configured(self) -> Path:
        """The file with its configuration."""
        config = _CONFIG.format(
            tls_module=', "mod_openssl"' if self.tls else "",
            folder=self.folder,
            address=self.address,
            port=self.port,
            base=self.base.rstrip("/"),
        )
        if self.tls is not None:
            (self.folder / "server.pem").write_bytes(self.tls.pem)
            config += _TLS.format(folder=self.folder)
        path = self.folder / "lighttpd.conf"
        path.write_text(config)
        return path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops it; connections end at once, the log is complete."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)

    @property
    def requests(self) -> tuple[Logged, ...]:
        """What was asked so far. lighttpd keeps lines back: a marker request and SIGHUP bring them out."""
        if self._process is not None and self._process.poll() is None:
            mark = f"/rig-mark-{next(self._marks)}"
            self._ask(mark)
            self._process.send_signal(signal.SIGHUP)
            self._until(lambda: mark in self._log(), "write its access log")
        logged = (self._logged(line) for line in self._log().splitlines())
        return tuple(entry for entry in logged if not entry.path.startswith("/rig-mark-"))

    def _logged(self, line: str) -> Logged:
        return _logged(*line.split("\t"))

    def _log(self) -> str:
        path = self.folder / "access.log"
        return path.read_text() if path.exists() else ""

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET) as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def _ask(self, path: str) -> None:
        with self._connected() as stream:
            stream.sendall(f"GET {path} HTTP/1.0\r\nHost: rig\r\n\r\n".encode())
            while stream.recv(4096):
                pass

    def _connected(self) -> socket.socket:
        plain = socket.create_connection((self.address, self.port), _PATIENCE)
        if self.tls is None:
            return plain
        return _trusting(self.tls).wrap_socket(plain, server_hostname=self.tls.names[0])

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        while not holds():
            if self._process.poll() is not None or time.monotonic() > end:
                log = self.folder / "error.log"
                said = log.read_text() if log.exists() else ""
                raise RuntimeError(f"lighttpd did not {what} in {_PATIENCE:.0f} s: {said}")
            time.sleep(0.01)


class Configured(Lighttpd):
    """Runs a configuration of somebody else's, which keeps its logs in `folder` under the same names."""

    def __init__(self, config: Path, folder: Path, address: str, port: int, *, tls: ServerTLS | None = None) -> None:
        super().__init__(folder, address, port, "", tls=tls)
        self.config = config

    def _configured(self) -> Path:
        return self.config

    def _logged(self, line: str) -> Logged:
        """Of lighttpd's own format: address, host, user, time, request, status, size, referer, agent."""
        match = _COMBINED.fullmatch(line)
        if match is None:
            raise ValueError(f"no line of an access log: {line!r}")
        method, path = match["request"].split(" ")[:2]
        return Logged(method, path, int(match["status"]), "", match["host"], match["agent"])


def lighttpd() -> str:
    """The server's path. FileNotFoundError names the package that has it."""
    binary = shutil.which("lighttpd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise FileNotFoundError("lighttpd not found: install the Debian packages lighttpd, lighttpd-mod-openssl")
    return binary


def _trusting(tls: ServerTLS) -> ssl.SSLContext:
    context = ssl.create_default_context()
    tls.authority.ca.configure_trust(context)
    return context


def _logged(request: str, status: str, *headers: str) -> Logged:
    method, path, _ = request.split(" ")
    authorization, host, agent = ("" if value == "-" else value for value in headers)
    return Logged(method, path, int(status), authorization, host, agent)
