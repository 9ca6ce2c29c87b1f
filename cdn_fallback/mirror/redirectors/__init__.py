"""Redirect servers: what one of them does, told from the pool that its clients have. `lighttpd` and `nginx` write it
down for a server, `zone` writes the DNS records. Pure.

    GET, HEAD of a static path     302 to the CDN; an index page to its object's key, JSON or HTML by Accept
    everything else                307 to the origin, which keeps method and body
    the health path                200

Where a redirect leads is told from the pool and the request's path and query alone: never from its Host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cdn_fallback.mirror import grammar
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.names import BadName, check_key
from cdn_fallback.mirror.patterns import HTML_FORMAT, JSON_FORMAT, NAME
from cdn_fallback.pool import PORTS, Endpoint, Pool, Role, site

HEALTH = "/-/health"
MAX_AGE = 300  # s; what a redirect led to five minutes ago is up, mostly, and the clients' own failover does the rest
MAX_AGE_DOWN = 60  # s; the CDN comes back

LEADS_TO = "X-Static-Paths-Lead-To"  # of the health path's answer: whether --cdn-down is in force

# A query whose first `format` has a value, and one that we know (PEP 691)
_BEFORE = "(?i)^(?:(?!format=)[^&]*+&)*+format="
ANY_FORMAT, OF_JSON, OF_HTML = f"{_BEFORE}[^&]", f"{_BEFORE}{JSON_FORMAT}(?:&|$)", f"{_BEFORE}{HTML_FORMAT}(?:&|$)"

_HEALTH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_BASE = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM. `key` may be the same file."""

    chain: str
    key: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens and writes.

    :param listen: ports, each with an address or without: "443", "192.0.2.11:443", "[::]:443"
    :param plain: the same for http beside https; what is asked there is led to https
    :param folder: where its logs and temporary files go, and it runs as who starts it; without it as Debian has it
    """

    listen: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    certificate: Certificate | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Which paths are static, and how they are asked for.

    :param prefixes: of what is static beside /simple and /packages
    :param legacy: whether /pypi/NAME/json is
    :param keys: whether index pages are led to their objects' keys; otherwise the CDN is to negotiate
    :param cdn_down: whether everything goes to the origin
    :param max_age: s, for which a redirect may be kept; None: MAX_AGE, or MAX_AGE_DOWN
    :param health: the path at which the server tells that it is there
    """

    prefixes: tuple[str, ...] = ()
    legacy: bool = True
    keys: bool = True
    cdn_down: bool = False
    max_age: int | None = None
    health: str = HEALTH


@dataclass(frozen=True, slots=True)
class Redirector:
    """A redirect server. URLs and paths are without their last slash; `static` is PCRE, for the whole path."""

    names: tuple[str, ...]
    place: Place
    root: str  # the path of the index on it: "", or "/mirror"
    cdn: str  # where static paths lead; the origin, while the CDN is down
    origin: str
    static: str
    keys: bool
    max_age: int
    health: str
    story: tuple[str, ...]  # what it does, for the reader of the file

    @property
    def caching(self) -> str:
        """The header Cache-Control of its redirects."""
        return f"public, max-age={self.max_age}"


def redirector(pool: Pool, split: Split, place: Place) -> Redirector:
    """What the redirect servers of `pool` do.

    :raises NotConfigurable: for a pool without redirectors, CDN or origin, one whose redirects would go round in
        circles, and for a value that has no place in a server's configuration
    """
    fronts = _fronts(pool)
    cdn, origin = _target(pool, Role.CDN), _target(pool, Role.ORIGIN)
    _reject_circles(pool, fronts, cdn, origin)
    names = tuple(dict.fromkeys(grammar.host(_host(front.base), "redirector") for front in fronts))
    static = _base(origin if split.cdn_down else cdn)
    root = _path(fronts[0])
    index = _base(Endpoint(pool.index, Role.REDIRECTOR), "index")
    max_age = (MAX_AGE_DOWN if split.cdn_down else MAX_AGE) if split.max_age is None else split.max_age
    return Redirector(
        names,
        _place(fronts[0], place),
        root,
        static,
        _base(origin),
        _static(root, split),
        split.keys and not split.cdn_down,
        max_age,
        _health(split.health),
        _story(index, split, static, _base(origin)),
    )


def _fronts(pool: Pool) -> list[Endpoint]:
    """The redirectors, which one file must be right for."""
    fronts = [endpoint for endpoint in pool.endpoints if endpoint.role is Role.REDIRECTOR]
    if not fronts:
        problem = f"has no redirectors: its index {pool.index} is its own origin; set `origin` to the host behind it"
        raise NotConfigurable("pool", pool.name, problem)
    for front in fronts[1:]:
        if (site(front.base)[::2], _path(front)) != (site(fronts[0].base)[::2], _path(fronts[0])):
            problem = f"differs from {fronts[0].base} in scheme, port or path; give each of these a pool of its own"
            raise NotConfigurable("redirector", front.base, problem)
    return fronts


def _target(pool: Pool, role: Role) -> Endpoint:
    for endpoint in pool.endpoints:
        if endpoint.role is role:
            grammar.host(_host(endpoint.base), role.value)
            return endpoint
    raise NotConfigurable("pool", pool.name, f"has no {role.value}; set `{role.value}` to its base URL")


def _reject_circles(pool: Pool, fronts: Iterable[Endpoint], cdn: Endpoint, origin: Endpoint) -> None:
    named = {_host(front.base) for front in fronts}
    for target in (cdn, origin):
        # The index's own name is the redirectors', too; but not if it is said to be this very target.
        if _host(target.base) in named or (_host(target.base) == _host(pool.index) and not pool.is_index(target)):
            problem = "is a redirector's own name, so that it would redirect to itself; give it another"
            raise NotConfigurable(target.role.value, target.base, problem)
        if site(target.base)[0] != site(pool.index)[0]:
            problem = f"beside the index {pool.index}: http and https do not mix; write one scheme for all"
            raise NotConfigurable(target.role.value, target.base, problem)
    if _host(cdn.base) == _host(origin.base):
        problem = f"is on the same host as the origin {origin.base}; one of them would stand in for itself"
        raise NotConfigurable("cdn", cdn.base, problem)


def _host(url: str) -> str:
    return site(url)[1]


def _path(endpoint: Endpoint, what: str = "") -> str:
    """The base's path without its last slash."""
    path = urlsplit(endpoint.base).path
    if not _BASE.fullmatch(path):
        problem = "has a path with something else in it than letters, digits and . _ ~ -; name another"
        raise NotConfigurable(what or endpoint.role.value, endpoint.base, problem)
    return path.removesuffix("/")


def _base(endpoint: Endpoint, what: str = "") -> str:
    """The URL that is put in front of paths, of checked parts."""
    scheme, host, port = site(endpoint.base)
    default = port == PORTS[scheme]
    host = grammar.host(host, what or endpoint.role.value)
    return f"{scheme}://{host}{'' if default else f':{port}'}{_path(endpoint, what)}"


def _place(front: Endpoint, place: Place) -> Place:
    """`place`, with what follows from the redirector's URL where nothing is said."""
    scheme, _, port = site(front.base)
    listen = place.listen or (str(port), f"[::]:{port}")
    plain = place.plain
    if scheme == "http" and plain:
        raise NotConfigurable("listen-http", plain[0], "the pool is http as it is; use --listen")
    if not plain and not place.listen and (scheme, port) == ("https", 443):
        plain = ("80", "[::]:80")
    taken: list[str] = []
    for each in (*listen, *plain):
        where = grammar.listen(each if ":" in each else f"*:{each}").replace("0.0.0.0:", "*:")
        if where in taken:
            raise NotConfigurable("listen", each, "stands there twice; name each once")
        taken.append(where)
    if scheme == "https" and place.certificate is None:
        problem = f"is missing; {front.base} is https: name a PEM file with --certificate, and its key with --key"
        raise NotConfigurable("certificate", "", problem)
    if place.certificate and scheme == "http":
        problem = f"is for https, and {front.base} is not; leave it out, or write https in the pool"
        raise NotConfigurable("certificate", place.certificate.chain, problem)
    if place.certificate:
        for file in place.certificate.chain, place.certificate.key:
            grammar.path(file, "certificate")
    if place.folder is not None:
        grammar.path(place.folder, "folder")
    return Place(listen, plain, place.certificate, place.folder)


def _static(root: str, split: Split) -> str:
    """A pattern for the paths of what the mirror publishes."""
    folders = "|".join(re.escape(prefix) for prefix in ("simple", "packages", *map(_prefix, split.prefixes)))
    legacy = f"|pypi/{NAME}/json$" if split.legacy else ""
    return f"^{re.escape(root)}/(?:(?:{folders})(?:/|$)|(?:last-modified|robots\\.txt)${legacy})"


def _prefix(prefix: str) -> str:
    prefix = prefix.strip("/")
    try:
        return check_key(prefix)
    except BadName as exc:
        raise NotConfigurable("static", prefix, f"{exc.reason}; name a prefix, as documentation") from exc


def _health(path: str) -> str:
    if not _HEALTH.fullmatch(path):
        raise NotConfigurable("health", path, f"must be a path, as {HEALTH}")
    return path


def _story(index: str, split: Split, static: str, origin: str) -> tuple[str, ...]:
    said = " ".join(["/simple", "/packages", *(f"/{prefix.strip('/')}" for prefix in split.prefixes)])
    return (
        f"A redirect server of {index}/",
        "Written by `cdn-fallback redirectors`: change the pool or the arguments, and write it anew.",
        f"Static: {said}, to {static}{', as the CDN is declared down' if split.cdn_down else ''}",
        f"Everything else: to {origin}",
    )
