"""What may go into a server's configuration: everything else is refused, nothing is ever escaped. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple

from cdn_fallback.errors import CdnFallbackError, printable
from cdn_fallback.mirror.names import BadName, check_key

# No part of a path is hidden, so that none is "." or "..".
_PATH = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._+@=-]*)+")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LISTEN = re.compile(r"(?:(?P<v4>[0-9.]{7,15}):|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]:|\*:)?(?P<port>[1-9][0-9]{0,4})")


_OWN = ("simple", "pypi", "robots.txt", "last-modified")  # the first parts of the index's own keys

# Amazon S3 User Guide, "General purpose bucket naming rules"; without dots, see `bucket`
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION = re.compile(r"(?!cn-)[a-z]{2,3}(?:-[a-z]{2,12}){1,3}-[1-9][0-9]?")
_CERTIFICATE = re.compile(r"arn:aws:acm:us-east-1:[0-9]{12}:certificate/[0-9A-Za-z-]{8,64}")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)?"
)

_RESOLVER = re.compile(r"(?:(?P<v4>[0-9.]{7,15})|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[1-9][0-9]{0,4}))?")


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


def resolver(place: str) -> str:
    """The address of a name server, with a port or without."""
    problem = "must be the address of a name server, as 127.0.0.53 or [::1]:5353"
    match = _RESOLVER.fullmatch(place)
    try:
        if match is None or int(match["port"] or 53) > 65535:
            raise ValueError
        ip_address(match["v4"] or match["v6"])
    except ValueError as exc:
        raise NotConfigurable("resolver", place, problem) from exc
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


def tree(prefix: str) -> str:
    """The prefix, without slashes at its ends, of what is published beside the index."""
    try:
        check_key(prefix)
    except BadName as exc:
        raise NotConfigurable("tree", prefix, f"{exc.reason}; name another prefix") from exc
    if prefix.partition("/")[0] in _OWN:
        raise NotConfigurable("tree", prefix, "is the index's own; name another prefix")
    return prefix


def bucket(name: str) -> str:
    """A bucket of S3. One with dots has a host that the certificate of S3 does not hold for."""
    if "." in name:
        raise NotConfigurable("bucket", name, "has a dot, so that its https cannot be verified; use one without")
    if not _BUCKET.fullmatch(name) or "--" in name[-8:] or name.startswith("xn--"):
        raise NotConfigurable("bucket", name, "must be a bucket's name: 3 to 63 of a-z, 0-9 and -, as example-mirror")
    return name


def region(name: str) -> str:
    """A region of AWS, as eu-central-1; not those in China, whose CloudFront is another."""
    if not _REGION.fullmatch(name):
        raise NotConfigurable("region", name, "must be that of the bucket, as eu-central-1 (not one in China)")
    return name


def certificate(arn: str) -> str:
    """The ARN of a certificate that CloudFront can use."""
    if not _CERTIFICATE.fullmatch(arn):
        form = "arn:aws:acm:us-east-1:ACCOUNT:certificate/ID"
        raise NotConfigurable("certificate", arn, f"must be {form}: CloudFront takes those of us-east-1 alone")
    return arn


class Url(NamedTuple):
    """Where a server has its objects."""

    scheme: str
    host: str  # IPv6 in brackets
    port: int
    path: str  # without a slash at its end; mostly empty

    @property
    def netloc(self) -> str:
        """What the header Host says."""
        usual = {"http": 80, "https": 443}[self.scheme]
        return self.host if self.port == usual else f"{self.host}:{self.port}"


def url(value: str, what: str) -> Url:
    """The base URL of objects: http or https, a host, maybe a port and a path. No user, no query."""
    problem = "must be a URL as https://example-mirror.s3.eu-central-1.amazonaws.com, without a user or a query"
    match = _URL.fullmatch(value)
    if match is None:
        raise NotConfigurable(what, value, problem)
    place, port = match["host"], int(match["port"] or {"http": 80, "https": 443}[match["scheme"]])
    folder = (match["path"] or "").removesuffix("/")
    if place.startswith("["):
        try:
            ip_address(place[1:-1])
        except ValueError as exc:
            raise NotConfigurable(what, value, problem) from exc
    else:
        host(place, what)
    if not 0 < port <= 65535 or (folder and (not _PATH.fullmatch(folder) or ".." in folder)):
        raise NotConfigurable(what, value, problem)
    return Url(match["scheme"], place, port, folder)
