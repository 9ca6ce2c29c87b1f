"""The pools that somebody declared, as frozen values: what the settings that `settings` collects mean.

Nothing here opens a connection: a setting that cannot be used is told before the first request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from cdn_fallback.activation import switched_off
from cdn_fallback.pages import number
from cdn_fallback.pool import DAY, Endpoint, Pool, Role, site
from cdn_fallback.settings import DISABLE, Setting, collect, pip_files

DEFAULT_INDEX = "https://pypi.python.org/"

# In the order in which the endpoints are asked.
ROLES = {
    "redirectors": Role.REDIRECTOR,
    "cdn": Role.CDN,
    "mirrors": Role.MIRROR,
    "origin": Role.ORIGIN,
}

# RFC 3986 has no place for these in a URL; some parsers drop them, others read them as something else.
UNSAFE = frozenset(' "<>\\^`{|}')


class Config(NamedTuple):
    """What this run goes by.

    `sources` says what was read from where, the strongest last: ``/etc/pip.conf [cdn-fallback]``,
    ``CDN_FALLBACK_CDN``. `disabled`: the user switched everything off, and nothing else was read.
    """

    pools: tuple[Pool, ...] = ()
    sources: tuple[str, ...] = ()
    disabled: bool = False


def load(environ: Mapping[str, str], files: Iterable[str] | None = None) -> Config:
    """Read the configuration. An empty key takes back what a weaker file said; an empty variable is not set.

    :param files: pip's configuration files, the weakest first; by default those that pip reads by `environ`
    :raises ConfigError: for the first setting that cannot be used
    """
    if switched_off(environ):
        return Config(sources=(DISABLE,), disabled=True)
    settings = collect(environ, pip_files(environ) if files is None else files)
    by_pool: dict[str, dict[str, Setting]] = {}
    for setting in settings:
        by_pool.setdefault(setting.pool, {})[setting.key] = setting
    pools: list[Pool] = []
    for name, made in by_pool.items():
        keys = {key: setting for key, setting in made.items() if setting.value.strip()}
        if keys:
            pools.append(_pool(name, keys))
            _reject_overlap(pools, keys)
    return Config(tuple(pools), tuple(dict.fromkeys(setting.source for setting in settings)))


def _pool(name: str, keys: Mapping[str, Setting]) -> Pool:
    index = _index(keys)
    endpoints: list[Endpoint] = []
    said: dict[Place, Setting] = {}
    for key, role in ROLES.items():
        for url in keys[key].value.split() if key in keys else ():
            base, credentials = _base(keys[key], url)
            _reject_stranger(keys[key], base, index, said.get(_place(base)))
            said[_place(base)] = keys[key]
            endpoints.append(Endpoint(base, role, credentials=credentials))
    endpoints = _with_index(endpoints, index, said.get(_place(index)), keys)
    return Pool(name, index, _with_gatekeepers(endpoints, keys.get("gatekeepers")), oldest=_oldest(keys.get("oldest")))


def _index(keys: Mapping[str, Setting]) -> str:
    if "index" not in keys:
        return DEFAULT_INDEX
    setting = keys["index"]
    urls = setting.value.split()
    if len(urls) > 1:
        raise setting.error("more than one URL; an index has one, give every other index a pool of its own")
    base, credentials = _base(setting, urls[0])
    if credentials:
        raise setting.error(
            f"{base} holds credentials; name the index without them, and write user:password@ at the "
            "endpoint (redirectors, cdn, mirrors, origin) that asks for them"
        )
    return base


def _with_index(
    endpoints: list[Endpoint], index: str, said: Setting | None, keys: Mapping[str, Setting]
) -> list[Endpoint]:
    """`endpoints` and the part that the index itself plays where nobody said it."""
    if "origin" in keys:
        if "redirectors" in keys or said:
            return endpoints
        return [Endpoint(index, Role.REDIRECTOR), *endpoints]
    if said and said.key != "redirectors":
        raise said.error(
            f"{index} is the pool's index, and its own origin while `origin` is not set; "
            f"take it out of {said.key}, or set `origin`"
        )
    if said:  # among the redirectors: it keeps its place there, but its word is final
        return [replace(e, role=Role.ORIGIN) if _place(e.base) == _place(index) else e for e in endpoints]
    own = Endpoint(index, Role.ORIGIN)
    return [*endpoints, own] if "redirectors" in keys else [own, *endpoints]


def _with_gatekeepers(endpoints: list[Endpoint], setting: Setting | None) -> tuple[Endpoint, ...]:
    if setting is None:
        return tuple(endpoints)
    places = [_place(endpoint.base) for endpoint in endpoints]
    for url in setting.value.split():
        base, credentials = _base(setting, url)
        if credentials:
            raise setting.error(f"{base} holds credentials; write them where the endpoint is declared")
        if _place(base) not in places:
            known = ", ".join(endpoint.base for endpoint in endpoints)
            raise setting.error(f"{base} is no endpoint of this pool; it has {known}")
        at = places.index(_place(base))
        endpoints[at] = replace(endpoints[at], gatekeeper=True)
    return tuple(endpoints)


def _oldest(setting: Setting | None) -> float:
    """Seconds; the setting has hours, of which 0 means no limit."""
    if setting is None:
        return DAY
    hours = number(setting.value.strip())
    if hours is None:
        raise setting.error(f"{setting.value.strip()} is no number of hours; write 24 for a day, 0 for no limit")
    return hours * 3600.0 if hours else float("inf")


def _reject_stranger(setting: Setting, base: str, index: str, twin: Setting | None) -> None:
    """A pool is all https or all http (a fallback must not take TLS away), and lists no endpoint twice."""
    if site(base)[0] != site(index)[0]:
        raise setting.error(
            f"{base} beside the index {index}: http and https do not mix in a pool; write one scheme for all"
        )
    if twin:
        there = "the same list" if twin is setting else f"{twin.key} ({twin.where})"
        raise setting.error(f"{base} stands in {there} already; an endpoint has one role, take one out")


def _reject_overlap(pools: list[Pool], keys: Mapping[str, Setting]) -> None:
    """A URL belongs to one pool: the index of the last pool is not, and is not under, that of another."""
    *others, new = pools
    for old in others:
        if old.suffix(new.index) is not None or new.suffix(old.index) is not None:
            setting = keys.get("index") or next(iter(keys.values()))
            raise setting.error(
                f"the pools {old.name} ({old.index}) and {new.name} ({new.index}) share URLs; "
                "give each an index that is not under the other's, or make them one pool"
            )


Place = tuple[tuple[str, str, int], str]


def _place(base: str) -> Place:
    # https://host and https://host:443 are the same place.
    return site(base), urlsplit(base).path


def _base(setting: Setting, url: str) -> tuple[str, tuple[str, str] | None]:
    """A base URL, ending with a slash and without credentials; and the credentials (RFC 3986, 3.2.1)."""
    # A password may stand before an @, and a cut one after a colon: neither gets into a message.
    scheme = url.partition("://")[0] + "://" if "://" in url else ""
    shown = f"{scheme}****@{url.rpartition('@')[2]}" if "@" in url else url
    if url[0] in "#;":
        raise setting.error("a comment in a value; it needs a line of its own")
    if not url.isprintable() or not UNSAFE.isdisjoint(url):
        raise setting.error(f"{shown} holds a character that no URL may hold; percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        shown = shown.rpartition(":")[0]
        raise setting.error(
            f"{shown}:... has no valid host and port; ports are 1 to 65535, and a password is percent-encoded"
        ) from None
    if parts.scheme not in ("http", "https"):
        raise setting.error(f"{shown} is no http or https URL; write https://host/")
    if not parts.netloc.isascii():
        # pip and requests ask for the encoded name (IDNA), which would match nothing here.
        raise setting.error(f"{shown} has a host in other letters than a-z; write its xn-- form")
    if not (parts.hostname or "").strip(".") or port == 0:
        raise setting.error(f"{shown} has no host or port 0; write https://host/ or https://host:port/")
    if "?" in url or "#" in url:
        raise setting.error(f"{shown} has a query or fragment; a base URL is a prefix, cut it before ? and #")
    if not {".", ".."}.isdisjoint(parts.path.split("/")):
        raise setting.error(f"{shown} has a . or .. in its path; write the path that is meant")
    user, _, host = parts.netloc.rpartition("@")
    path = parts.path if parts.path.endswith("/") else parts.path + "/"
    base = urlunsplit((parts.scheme, host.lower(), path, "", ""))
    if not user:
        return base, None
    name, _, password = user.partition(":")
    return base, (unquote(name), unquote(password))
