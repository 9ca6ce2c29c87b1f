"""What may go into a server's configuration: everything else is refused, nothing is ever escaped. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address

from cdn_fallback.errors import CdnFallbackError, printable

# No part of a path is hidden, so that none is "." or "..".
_PATH = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._+@=-]*)+")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LISTEN = re.compile(r"(?:(?P<v4>[0-9.]{7,15}):|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]:|\*:)?(?P<port>[1-9][0-9]{0,4})")


class NotConfigurable(CdnFallbackError, ValueError):
    """A value that cannot stand in a server's configuration: says which, and what can."""

    def __init__(self, what: str, value: str, problem: str) -> None:
        super().__init__(what, value, problem)
        self.what = what
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return printable(f"{self.what} {self.value!r}: {self.problem}")


def path(value: str, what: str) -> str:
    """An absolute path of a file or folder."""
    if not _PATH.fullmatch(value) or ".." in value:
        allowed = "letters, digits and . _ + @ = -, no part of it hidden"
        raise NotConfigurable(what, value, f"must be an absolute path of {allowed}; name another")
    return value


def listen(place: str) -> str:
    """A port, or an address and a port."""
    problem = "must be a port, or an address and a port as in 127.0.0.1:8080"
    match = _LISTEN.fullmatch(place)
    if match is None or int(match["port"]) > 65535:
        raise NotConfigurable("listen", place, problem)
    try:
        ip_address(match["v4"] or match["v6"] or "::")
    except ValueError as exc:
        raise NotConfigurable("listen", place, problem) from exc
    return place


def host(name: str, what: str = "host") -> str:
    """A host's name (RFC 1123, section 2.1); an IPv4 address looks like one."""
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise NotConfigurable(what, name, "must be a host's name, as mirror.example.org")
    return name


def server_name(name: str) -> str:
    """A host's name, those under one ("*.example.org"), or "_" for any."""
    if name != "_":
        host(name.removeprefix("*."), "server name")
    return name
