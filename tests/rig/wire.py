"""Answers to bytes, bytes to requests, and the ways in which a connection ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time

from tests.rig.messages import Answer, Request, Then

CHUNK = 1 << 14
_DRAIN = 1.0  # seconds that a closing connection waits for the client's end


def send(connection: socket.socket, request: Request, answer: Answer, closing: threading.Event) -> None:
    """The bytes of an answer, at its pace. Ends early when the server closes."""
    if answer.raw is not None:
        connection.sendall(answer.raw)
        return
    connection.sendall(answer.head())
    if request.method == "HEAD":
        return
    body = memoryview(answer.body)[: int(len(answer.body) * answer.portion)]
    step = CHUNK if answer.rate is None else max(1, int(answer.rate / 20))
    for start in range(0, len(body), step):
        piece = bytes(body[start : start + step])
        chunked = answer.framing == "chunked"
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if answer.rate is not None and closing.wait(step / answer.rate):
            return
    if answer.framing == "chunked" and answer.portion >= 1:
        connection.sendall(b"0\r\n\r\n")


def end(connection: socket.socket, how: Then, closing: threading.Event) -> None:
    """A close with unread bytes would be a reset: a clean one waits a moment for the client's own end."""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    if how == "close":
        if isinstance(connection, ssl.SSLSocket):
            connection.setblocking(False)
            with contextlib.suppress(OSError, ValueError):
                connection.unwrap()  # sends close_notify, then would wait for the other one
        socket.socket.shutdown(connection, socket.SHUT_WR)
    until = time.monotonic() + _DRAIN if how == "close" else None
    while not closing.is_set():
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return
        connection.settimeout(left)
        if not socket.socket.recv(connection, CHUNK):
            return


def parsed(head: bytes) -> Request | None:
    """None for what is not HTTP, a ClientHello for example."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    path, _, version = rest.partition(" ")
    if not version.startswith("HTTP/1."):
        return None
    pairs = (line.partition(":") for line in lines)
    return Request(method, path, tuple((name, value.strip()) for name, _, value in pairs))


def common_name(connection: ssl.SSLSocket) -> str:
    """Of the client's certificate, if it showed one."""
    certificate = connection.getpeercert() or {}
    subject = certificate.get("subject", ())
    pairs = (pair for group in subject for pair in group)
    return next((str(pair[1]) for pair in pairs if pair[0] == "commonName"), "")
