"""A real Varnish as one edge of a CDN, before a bucket and behind a terminator of TLS, for it has none itself.

The terminator is nginx as a proxy without a buffer: it passes on the path as it was sent, and every header but those of
the connection. A path that cannot be (`/..`, `%00`, `%zz`) gets a 400 from it, as from nginx anywhere.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror import patterns, site
from tests.rig.messages import Kind, kind_of
from tests.rig.names import free_port
from tests.rig.nginx import Nginx
from tests.rig.tls import ServerTLS

_PATIENCE = 20.0  # seconds for a start: the VCL is compiled
_TEMPLATE = Path(__file__).with_name("edge.vcl")
_MARK = "/.rig-mark-"  # the edge itself says that there is no such thing
_ADMIN = "rig"  # the name of the socket by which objects may be made stale

_RULES = {
    "JSON_FORMAT": patterns.JSON_FORMAT,
    "HTML_FORMAT": patterns.HTML_FORMAT,
    "TAKES_JSON": patterns.TAKES_JSON,
    "TAKES_HTML": patterns.TAKES_HTML,
    "TAKES_GZIP": r"(?:^|,)[ \t]*+gzip[ \t]*+(?:;[ \t]*+q=(?:1(?:\.0*)?|0\.0*[1-9][0-9]*)[ \t]*+)?(?:,|$)",
    "NAME": patterns.NAME,
    "SERIAL_HEADER": site.SERIAL_HEADER,
    "SERIAL": site.NEW_ENOUGH,
    "REDIRECT": site.PAGE,
    "ADMIN": _ADMIN,
}

_TERMINATOR = r"""
    log_format asked '$request_method\t$request_uri\t$status\t$upstream_http_x_cache';
    server {{
        listen {address}:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        access_log {folder}/asked.log asked;
        merge_slashes off;
        location / {{
            proxy_pass http://{address}:{behind};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_pass_header Date;
            proxy_pass_header Server;
            proxy_buffering off;
        }}
    }}
"""


class Asked(NamedTuple):
    """A request to a component of the picture. `cache`, of an edge: "hit", "miss", "edge" (its own word) or ""."""

    method: str
    path: str
    status: int
    cache: str = ""

    @property
    def kind(self) -> Kind:
        """See `kind_of`."""
        return kind_of(self.path)


class Source(NamedTuple):
    """Where an edge takes objects from, and how: anonymously, at http://address:port/bucket/key."""

    address: str
    port: int
    bucket: str
    errors: float = 10.0  # s that an error is remembered; CloudFront's default
    patience: float = 3.0  # s without an answer, after which there is none
    trees: tuple[str, ...] = ()  # prefixes of what is published beside the index


class Varnish:
    """Serves plain http, on any port of `address`, while its `with` block runs."""

    def __init__(self, folder: Path, address: str, source: Source) -> None:
        self.folder = folder
        self.address = address
        self.source = source
        self.port = free_port([address])
        self._admin, self._cli = _two_more(address, self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Varnish:
        self.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begins to start it; `wait()` until it serves. Several may start at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "edge.vcl").write_text(vcl(self.source))
        sockets = ("-a", f"clients={self.address}:{self.port}", "-a", f"{_ADMIN}={self.address}:{self._admin}")
        commands = ("-T", f"{self.address}:{self._cli}", "-S", "none")
        settings = {
            "default_grace": "0", "default_keep": "0", "http_gzip_support": "off", "vsl_space": "2M",
            "backend_remote_error_holddown": "0",  # s; a bucket that is healed is asked at once
            "thread_pool_min": "10", "thread_pool_timeout": "600",
            "cc_command": "exec gcc -O0 -fpic -shared -Wl,-x -o %o %s",
        }  # fmt: skip
        parameters = [word for name, value in settings.items() for word in ("-p", f"{name}={value}")]
        command = [
            varnishd(), "-F", "-j", "none", "-n", str(self.folder / "work"), *sockets, *commands,
            "-f", str(self.folder / "edge.vcl"), "-s", "malloc,64M", *parameters,
        ]  # fmt: skip
        with (self.folder / "varnishd.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers. RuntimeError with what it says if it does not."""
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        while self._answers() != 404:
            if self._process.poll() is not None or time.monotonic() > end:
                said = (self.folder / "varnishd.log").read_text(errors="replace")
                raise RuntimeError(f"varnishd at {self.address}:{self.port} does not start:\n{said[-3000:]}")
            time.sleep(0.02)

    def close(self) -> None:
        """Kills it; its cache is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ban(self, expression: str) -> None:
        """Whatever is cached and meets this is no more: "req.url ~ .", "obj.status != 200"."""
        with socket.create_connection((self.address, self._cli), 5) as connection, connection.makefile("rb") as said:
            _said(said)  # the banner
            connection.sendall(f"ban {expression}\n".encode())
            status, text = _said(said)
        if status != 200:
            raise ValueError(f"ban {expression}: {text}")

    def expire(self, *keys: str) -> int:
        """These objects are stale from now on, as if their s-maxage were over. How many of them were cached."""
        answers = [self._ask("EXPIRE", f"/{self.source.bucket}/{key}", self._admin) for key in keys]
        return answers.count(200)

    def fetch(self, *keys: str) -> None:
        """These objects are cached now. ValueError for one that the bucket has not."""
        for key in keys:
            for gzip in ("identity", "gzip"):
                status = self._ask("GET", f"/{key}", self.port, gzip)
                if status != 200:
                    raise ValueError(f"{key} cannot be had at {self.address}: {status}")

    def _answers(self) -> int:
        try:
            return self._ask("GET", "/", self.port)
        except (OSError, http.client.HTTPException):
            return 0

    def _ask(self, method: str, path: str, port: int, gzip: str = "identity") -> int:
        with contextlib.closing(http.client.HTTPConnection(self.address, port, timeout=5)) as connection:
            connection.request(method, path, headers={"Accept-Encoding": gzip})
            answer = connection.getresponse()
            answer.read()
            return answer.status


class Edge:
    """A Varnish with https in front, at `address` and `port`, while its `with` block runs.

    `close()` stops only the terminator, and `open()` starts it: the cache stays.
    """

    def __init__(self, folder: Path, address: str, port: int, source: Source, tls: ServerTLS) -> None:
        self.varnish = Varnish(folder / "varnish", address, source)
        self.address = address
        self.port = port
        self._tls = tls
        self._folder = folder / "tls"
        text = _TERMINATOR.format(address=address, port=port, folder=self._folder, behind=self.varnish.port)
        self._open = False
        self._marks = itertools.count()
        self._nginx = Nginx(self._folder, address, port, text)

    def __enter__(self) -> Edge:
        self.varnish.start()
        self.open()
        self.varnish.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.varnish.close()

    def open(self) -> None:
        """The way to it is there again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "server.pem").write_bytes(self._tls.pem)
        self._nginx.__enter__()
        self._open = True

    def close(self) -> None:
        """Nobody is at its address."""
        self._open = False
        self._nginx.close()

    @property
    def requests(self) -> tuple[Asked, ...]:
        """What clients asked so far. nginx writes a line when an answer has gone: a marker comes after all of them."""
        if self._open:
            mark = f"{_MARK}{next(self._marks)}"
            self._ask(mark)
            end = time.monotonic() + _PATIENCE
            while mark not in self._log():
                if time.monotonic() > end:
                    raise RuntimeError(f"nginx at {self.address} does not write its log")
                time.sleep(0.002)
        asked = (Asked(m, path, int(status), cache.strip("-")) for m, path, status, cache in self._lines())
        return tuple(one for one in asked if not one.path.startswith(_MARK))

    def _log(self) -> str:
        log = self._folder / "asked.log"
        return log.read_text() if log.exists() else ""

    def _lines(self) -> Iterator[list[str]]:
        return (line.split("\t") for line in self._log().splitlines())

    def _ask(self, path: str) -> None:
        context = ssl.create_default_context()
        self._tls.authority.ca.configure_trust(context)
        context.check_hostname = False
        connection = http.client.HTTPSConnection(self.address, self.port, timeout=_PATIENCE, context=context)
        with contextlib.closing(connection):
            connection.request("GET", path)
            connection.getresponse().read()


def vcl(source: Source) -> str:
    """The edge's rules."""
    within = " || ".join(f'req.url ~ "^/{tree}(?:/|$)"' for tree in source.trees)
    values = _RULES | {
        "HOST": source.address, "PORT": str(source.port), "BUCKET": source.bucket,
        "ERRORS": f"{source.errors:g}", "PATIENCE": f"{source.patience:g}", "IN_TREE": within or "false",
    }  # fmt: skip
    text = _TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def varnishd() -> str:
    """The server's path. FileNotFoundError names the package that has it."""
    binary = shutil.which("varnishd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise FileNotFoundError("varnishd not found: install the Debian package varnish")
    return binary


def _two_more(address: str, taken: int) -> tuple[int, int]:
    found = (port for port in (free_port([address]) for _ in itertools.count()) if port != taken)
    first = next(found)
    return first, next(port for port in found if port != first)


def _said(stream: BinaryIO) -> tuple[int, str]:
    """One answer of the command line: a line "200 12" (status and length), so many bytes, an end of line."""
    status, length = stream.readline().split()
    text = stream.read(int(length) + 1)
    return int(status), text.decode(errors="replace").strip()
