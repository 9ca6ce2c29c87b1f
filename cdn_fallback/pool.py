"""Which copies serve a URL. Pure: no I/O, no clock, no chance.

A pool is a declared set of endpoints that serve the same index, byte for byte or a little late. An endpoint's
base URL stands in the place of the index's, prefix for prefix:

    index      https://pypi.python.org/          canonical  https://pypi.python.org/simple/six/
    endpoint   https://cdn.example.net/mirror/   there      https://cdn.example.net/mirror/simple/six/
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit


class Role(str, enum.Enum):
    """What an endpoint is to its pool. The order of the members is the order in which they are asked."""

    REDIRECTOR = "redirector"  # answers with a 30x to a place inside the pool
    CDN = "cdn"  # a static copy behind many addresses
    MIRROR = "mirror"  # a static copy elsewhere
    ORIGIN = "origin"  # the authority: its 404 is final


PORTS = {"http": 80, "https": 443}
DAY = 24 * 3600.0  # s


@lru_cache(1024)  # the same few URLs are asked about a dozen times in a request
def site(url: str) -> tuple[str, str, int]:
    """(scheme, host, port): what credentials, cookies and trust are bound to (RFC 6454, section 4)."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").rstrip("."), parts.port or PORTS.get(scheme, 0)


def without_credentials(url: str) -> str:
    """`url` without ``user:password@`` and without fragment."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def destination(place: str, location: str) -> str | None:
    """The absolute http(s) URL, without credentials, that a Location header at `place` leads to; ``None`` if none."""
    try:
        location.encode("latin-1").decode()  # requests ends in a traceback at what is no text
        target = without_credentials(urljoin(place, location))
        scheme, host, _ = site(target)
    except ValueError:  # no valid address or port
        return None
    return target if scheme in PORTS and host else None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL that serves a pool's index.

    `base` ends with a slash and holds no credentials; those stand in `credentials` (user, password), and go
    to this endpoint alone. A `gatekeeper`'s refusal (401, 403, 407, 451) is final: no copy is asked behind it.
    """

    base: str
    role: Role
    gatekeeper: bool = False
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.role.value} {self.base}"

    @property
    def site(self) -> tuple[str, str, int]:
        return site(self.base)


@dataclass(frozen=True, slots=True)
class Pool:
    """The endpoints of one index, in the order in which they are asked.

    `declared` tells a pool that somebody configured from the one that every other host gets: itself alone.
    `oldest` is how old, in seconds, a page may be when a copy gives it out.
    """

    name: str
    index: str
    endpoints: tuple[Endpoint, ...]
    declared: bool = True
    oldest: float = DAY

    def suffix(self, url: str) -> str | None:
        """What follows the index's base in `url`; ``None`` for a URL that is not this pool's."""
        return _suffix(self.index, url)

    def place(self, endpoint: Endpoint, url: str) -> str:
        """The URL at which `endpoint` serves the canonical `url`."""
        suffix = self.suffix(url)
        if suffix is None:
            raise ValueError(f"{url} is not under {self.index}")
        return endpoint.base + suffix

    def locate(self, url: str) -> Endpoint | None:
        """The endpoint that serves `url`, a place that a redirect points to; ``None`` outside the pool."""
        fits = [e for e in self.endpoints if _suffix(e.base, url) is not None]
        return max(fits, key=lambda e: len(e.base), default=None)

    def canonical(self, endpoint: Endpoint, url: str) -> str:
        """The canonical URL of what `endpoint` serves at `url`: the way back from `place`."""
        suffix = _suffix(endpoint.base, url)
        if suffix is None:
            raise ValueError(f"{url} is not under {endpoint.base}")
        return self.index + suffix

    def is_index(self, endpoint: Endpoint) -> bool:
        """Whether `endpoint` is the index itself, the host that the tool believes it talks to."""
        return endpoint.site == site(self.index)


def _suffix(base: str, url: str) -> str | None:
    if site(base) != site(url):
        return None
    root, path = urlsplit(base).path or "/", urlsplit(url)
    if not (path.path or "/").startswith(root) or climbs(url):
        return None
    return urlunsplit(SplitResult("", "", (path.path or "/")[len(root) :], path.query, "")).lstrip("/")


def climbs(url: str) -> bool:
    """Whether the path has a `..`, encoded or not: where such a URL leads is the server's to say."""
    return ".." in unquote(urlsplit(url).path).split("/")


def same_folder(one: str, other: str) -> bool:
    """Whether relative links mean the same seen from both URLs."""
    return urljoin(one, ".") == urljoin(other, ".")


def pool_for(pools: Iterable[Pool], url: str) -> Pool:
    """The pool that serves `url`: the declared one, or else its own host alone, undeclared."""
    for pool in pools:
        if pool.suffix(url) is not None:
            return pool
    scheme, host, port = site(url)
    host = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{host}/" if port == PORTS.get(scheme) else f"{scheme}://{host}:{port}/"
    return Pool(host, base, (Endpoint(base, Role.ORIGIN),), declared=False)
