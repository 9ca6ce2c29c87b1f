"""What the configuration says of a source of the type `simple-api`.

[source]
type = "simple-api"
url = "https://pypi.python.org/simple/"
projects = ["six", "requests"]          # without these two: every project
requirements = ["requirements.txt"]
files = true                            # else pages only, which link to the source's files
workers = 8
retries = 3
accept-serial = 1234                    # for one run, after the index was restored

[source.pool]                           # else the pools of pip's configuration and the environment
cdn = ["https://cdn.example.net/"]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cdn_fallback.config import Config, load
from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.names import BadName, normalised
from cdn_fallback.mirror.sources import Settings
from cdn_fallback.mirror.sources.simple_api import requirement_names

KEYS = ("url", "projects", "requirements", "files", "workers", "retries", "pool", "accept-serial")
_POOL_KEYS = ("index", "redirectors", "cdn", "mirrors", "origin", "gatekeepers", "oldest")
_DISABLE = "CDN_FALLBACK_DISABLE"


class Filter(NamedTuple):
    """The projects that are wanted: by name, and by requirements files. Without either, all are."""

    projects: frozenset[str] = frozenset()  # normalised
    requirements: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.projects or self.requirements)

    def names(self) -> set[str]:
        """The normalised names, those in the files as these are now. Raises ConfigError."""
        found = set(self.projects)
        for path in self.requirements:
            found.update(requirement_names.read(path))
        return found


class Options(NamedTuple):
    """The settings, checked. `url` ends with a slash and holds no credentials."""

    url: str
    wanted: Filter
    files: bool
    workers: int
    retries: int
    accept_serial: int | None
    config: Config


def read(settings: Settings) -> Options:
    """Raises ConfigError for what cannot be used."""
    settings.reject_unknown(KEYS)
    url = _url(settings)
    accepts = "accept-serial" in settings.values
    return Options(
        url,
        _filter(settings),
        settings.flag("files", False),
        settings.number("workers", 8),
        settings.number("retries", 3, least=0),
        settings.number("accept-serial", 0, least=0) if accepts else None,
        _config(settings, url),
    )


def _url(settings: Settings) -> str:
    url = settings.text("url")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise settings.error("url", "must be the URL of a project list, as https://pypi.python.org/simple/")
    if "@" in parts.netloc:
        raise settings.error("url", "holds credentials; take them out, and write them into ~/.netrc")
    if "?" in url or "#" in url:
        raise settings.error("url", "has a query or a fragment, which names of projects cannot follow; cut it before")
    return url if url.endswith("/") else f"{url}/"


def _filter(settings: Settings) -> Filter:
    projects = set()
    for name in settings.texts("projects"):
        try:
            projects.add(normalised(name))
        except BadName as exc:
            raise settings.error("projects", f"{name} {exc.reason}") from None
    paths = tuple(settings.folder / name for name in settings.texts("requirements"))
    wanted = Filter(frozenset(projects), paths)
    given = [key for key in ("projects", "requirements") if key in settings.values]
    if not wanted.names() and given:  # the files are read here, too: an error in one is told at the start
        raise settings.error(given[0], "names no project; name one, or take the key out to mirror them all")
    return wanted


def _config(settings: Settings, url: str) -> Config:
    """The pools: those of `[source.pool]`, else those of the environment."""
    if "pool" not in settings.values:
        return load(os.environ)
    table = settings.values["pool"]
    if not isinstance(table, Mapping):
        raise settings.error("pool", 'must be a table, as pool = { cdn = ["https://cdn.example.net/"] }')
    made = {key: _pool_value(settings, key, value) for key, value in table.items()}
    if not made.keys() - {"index"}:
        raise settings.error("pool", f"names no server; it may have {', '.join(_POOL_KEYS)}")
    parts = urlsplit(url)
    made.setdefault("index", f"{parts.scheme}://{parts.netloc}/")
    environ = {f"CDN_FALLBACK_{key.upper()}": value for key, value in made.items()}
    if _DISABLE in os.environ:
        environ[_DISABLE] = os.environ[_DISABLE]
    try:
        config = load(environ, files=[])
    except ConfigError as exc:  # which speaks of variables that nobody has set
        raise settings.error(f"pool.{exc.key}" if exc.key else "pool", exc.problem) from None
    if any(pool.suffix(url) is None for pool in config.pools):
        raise settings.error("pool.index", f"{made['index']} is not what {url} begins with; take the key out")
    return config


def _pool_value(settings: Settings, key: str, value: Any) -> str:
    if key not in _POOL_KEYS:
        raise settings.error(f"pool.{key}", f"is no key of a pool; it has {', '.join(_POOL_KEYS)}")
    if isinstance(value, int) and not isinstance(value, bool) and key == "oldest":
        return str(value)
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise settings.error(f"pool.{key}", 'must be a URL, or a list of URLs as ["https://cdn.example.net/"]')
    return " ".join(items)
