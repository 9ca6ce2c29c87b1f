"""One connection to a site in a folder: HTTP/1.1, GET and HEAD, what is asked for found by `negotiate`.

RFC 9110 for conditions, ranges and negotiation. No link below the folder is followed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import stat
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO, Protocol

from cdn_fallback.errors import printable
from cdn_fallback.mirror import negotiate, site
from cdn_fallback.mirror.negotiate import Found, NotAcceptable, NotFound, Redirect

_CHUNK = 1 << 16  # bytes
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # without O_NONBLOCK a pipe would hold us up
_ABSOLUTE = re.compile(r"https?://[^/?]*", re.IGNORECASE)  # RFC 9112, section 3.2.2: servers must take this form too
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL)
_TEXTS = {
    HTTPStatus.MOVED_PERMANENTLY: "It is elsewhere, for good.",
    HTTPStatus.FORBIDDEN: "The server may not read this file.",
    HTTPStatus.NOT_FOUND: "There is no such page or file here.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This site can only be read.",
    HTTPStatus.NOT_ACCEPTABLE: f"This page can be had as {site.JSON_TYPE} and as text/html.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The file has no such part.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server could not read this file.",
}


class Serves(Protocol):
    """The server whose connection it is."""

    root: str  # the folder
    trees: tuple[str, ...]  # the prefixes of what is published beside the index
    log: Callable[[str], None]
    patience: float  # s in which a request's head must come, and each _CHUNK of an answer be taken


class Handler(BaseHTTPRequestHandler):
    """Answers what comes over one connection."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that headers go out even with the answer to what is no request
    disable_nagle_algorithm = True
    error_content_type = site.TEXT_TYPE
    error_message_format = "%(code)d %(message)s\n"
    server: Serves  # type: ignore[assignment]

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _Reader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        self._reader.until = time.monotonic() + self.server.patience
        super().handle_one_request()

    def do_GET(self) -> None:
        self._pass_over_body()
        self._answer()

    do_HEAD = do_GET

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._refuse

    def _refuse(self) -> None:
        self._pass_over_body()
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})

    def _pass_over_body(self) -> None:
        """What came with the request is not to be taken for the next one."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1 or not re.fullmatch("[0-9]{1,5}", lengths[0]):
            self.close_connection = True
        else:
            self.rfile.read(int(lengths[0]))

    def _answer(self) -> None:
        path, query = self._target()
        value = negotiate.format_of(query)
        wanted = negotiate.representation(self._header("Accept"), value)
        gzip = negotiate.accepts_gzip(self._header("Accept-Encoding"))
        meaning = negotiate.locate(path, wanted, gzip, query_format=value, trees=self.server.trees)
        if isinstance(meaning, Redirect):
            self._redirect(meaning.location)
        elif isinstance(meaning, NotAcceptable):
            self._say(HTTPStatus.NOT_ACCEPTABLE, {"Vary": "Accept"})
        elif isinstance(meaning, NotFound) or not self._sent(meaning):
            if isinstance(meaning, Found) and self._is_folder(meaning.keys[0]):
                self._redirect(f"{path}/")
            else:
                self._say(HTTPStatus.NOT_FOUND, {})

    def _target(self) -> tuple[str, str]:
        # not self.path: http.server makes one slash of several at its beginning
        target = self.requestline.split()[1]
        absolute = _ABSOLUTE.match(target)
        path, _, query = (target[absolute.end() :] if absolute else target).partition("?")
        return path or "/", query

    def _header(self, name: str) -> str:
        return ", ".join(self.headers.get_all(name, []))

    def _is_folder(self, key: str) -> bool:
        """Whether the key is a folder with a page, in a tree beside the index: its links are relative to the slash."""
        if not negotiate.in_tree(key, self.server.trees):
            return False
        try:
            _opened(self.server.root, f"{key}/index.html").close()
        except OSError:
            return False
        return True

    def _sent(self, found: Found) -> bool:
        """Send the first object that is there, or say why it cannot be; False if none is."""
        for key in found.keys:
            try:
                file = _opened(self.server.root, key)
            except OSError as exc:
                if exc.errno in _ABSENT:
                    continue
                self.server.log(printable(f"{key}: {exc.strerror}"))
                refused = exc.errno in (errno.EACCES, errno.EPERM)
                self._say(HTTPStatus.FORBIDDEN if refused else HTTPStatus.INTERNAL_SERVER_ERROR, {})
                return True
            with file:
                self._send(file, key, found.vary)
            return True
        return False

    def _send(self, file: BinaryIO, key: str, vary: str) -> None:
        status = os.fstat(file.fileno())
        kind, caching, encoding = negotiate.headers_of(key, self.server.trees)
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}{_variant(key)}"'
        date = formatdate(status.st_mtime, usegmt=True)
        common = {"ETag": tag, "Last-Modified": date, "Cache-Control": caching, "Vary": vary}
        if kind == site.LEGACY_TYPE and key.startswith("pypi/"):
            common[site.SERIAL_HEADER] = site.NEW_ENOUGH
        if self._has(tag, date):
            self._head(HTTPStatus.NOT_MODIFIED, common)
            return
        common |= {"Content-Type": kind, "Content-Encoding": encoding or "", "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "")
        conditional = self.headers.get("If-Range")
        if self.command == "HEAD" or conditional not in (None, tag, date):
            wanted = ""
        part = negotiate.part_of(wanted, status.st_size)
        if part is None:
            self._head(HTTPStatus.OK, {**common, "Content-Length": str(status.st_size)})
            part = range(status.st_size)
        elif not part:
            self._say(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{status.st_size}"})
            return
        else:
            extent = f"bytes {part.start}-{part.stop - 1}/{status.st_size}"
            common |= {"Content-Range": extent, "Content-Length": str(len(part))}
            self._head(HTTPStatus.PARTIAL_CONTENT, common)
        if self.command != "HEAD":
            self._copy(file, part)

    def _has(self, tag: str, date: str) -> bool:
        """Whether the client has just this object (RFC 9110, section 13.2.2)."""
        tags = self.headers.get_all("If-None-Match")
        if tags is None:
            return self.headers.get("If-Modified-Since") == date  # as nginx: the same date, not a later one
        listed = [given.strip().removeprefix("W/") for given in ",".join(tags).split(",")]
        return tag in listed or "*" in listed

    def _copy(self, file: BinaryIO, part: range) -> None:
        file.seek(part.start)
        left = len(part)
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:  # the file was cut meanwhile: what has been promised cannot be kept
                self.close_connection = True
                return
            self.connection.sendall(chunk)  # whose timeout is for all of the chunk: who reads a byte at a time goes
            left -= len(chunk)

    def _redirect(self, location: str) -> None:
        self._say(HTTPStatus.MOVED_PERMANENTLY, {"Location": location, "Cache-Control": site.PAGE})

    def _say(self, code: HTTPStatus, headers: dict[str, str]) -> None:
        """An answer that is a line of text."""
        body = f"{_TEXTS[code]}\n".encode("ascii")
        self._head(code, {**headers, "Content-Type": site.TEXT_TYPE, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, code: HTTPStatus, headers: dict[str, str]) -> None:
        self.connection.settimeout(self.server.patience)
        self.send_response(code)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        super().send_error(code, HTTPStatus(code).phrase)  # http.server's own text has the client's words in it

    def version_string(self) -> str:
        return "cdn-fallback"

    def log_error(self, format: str, *args: Any) -> None:
        pass  # what went wrong has been said, or is a connection that nobody used any longer

    def log_message(self, format: str, *args: Any) -> None:
        self.server.log(printable(f"{self.client_address[0]} {format % args}"))


class _Reader(io.RawIOBase):
    """A connection's bytes, until a time: one byte now and then is no reason to wait for ever."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0  # of the monotonic clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _variant(key: str) -> str:
    """What tells the forms of a page apart in a tag: they may be made at one time, with one size."""
    return "-" + key.rpartition(".")[2] if key.startswith(("simple/", "pypi/")) else ""


def _opened(root: str, key: str) -> BinaryIO:
    """The regular file at `key`. No link on the way to it is followed; `root` itself may be one. Raises OSError."""
    *folders, name = key.split("/")
    folder = os.open(root, _FOLDER)
    try:
        for part in folders:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        handle = os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise IsADirectoryError(errno.EISDIR, "is no regular file", key)
    return open(handle, "rb", buffering=0)
