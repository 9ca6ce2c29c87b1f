"""A client that hides nothing: one request, what came back."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from tests.rig.messages import header
from tests.rig.server import Server


@dataclass(frozen=True, slots=True)
class Got:
    """What a client saw."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        return header(self.headers, name)


def get(server: Server, path: str, method: str = "GET", **headers: str) -> Got:
    """One request on a connection of its own; header names with _ for -."""
    connection = http.client.HTTPConnection(server.address, server.port, timeout=2)
    try:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return Got(answer.status, answer.read(), tuple(answer.getheaders()))
    finally:
        connection.close()
