"""The mirror's configuration: one TOML file, `cdn-fallback.toml`. Everything wrong in it is told before any work."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.names import BadName, check_key
from cdn_fallback.mirror.site import Rules
from cdn_fallback.mirror.sources import Settings
from cdn_fallback.mirror.sources.trees import Tree
from cdn_fallback.mirror.stores.opening import StoreSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "cdn-fallback.toml"
_TABLES = ("source", "catalog", "store", "publish", "tree")
_OWN = ("simple", "packages", "pypi", "last-modified", "robots.txt")  # first parts of keys that are the index's


class MirrorConfig(NamedTuple):
    """What a run goes by. Paths are absolute."""

    where: Path  # the file
    source: Settings
    catalog: Path
    store: StoreSettings
    rules: Rules
    trees: tuple[Tree, ...]
    keep: int = 0  # s, for which files stay to which nothing refers, where that is longer than caches remember


def load(path: Path) -> MirrorConfig:
    """Read the file. Raises ConfigError for the first thing in it that cannot be used."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        problem = "is not there; write one with `cdn-fallback mirror init`, or name it with --config"
        raise ConfigError(str(path), None, problem) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(str(path), None, f"cannot be read: {exc}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(str(path), None, f"is no TOML: {exc}") from exc
    return _config(path.absolute(), tables)


def _config(path: Path, tables: Mapping[str, Any]) -> MirrorConfig:
    for name in tables:
        if name not in _TABLES:
            raise ConfigError(str(path), name, f"is no table of this file; there are {', '.join(_TABLES)}")
    folder = path.parent
    catalog = folder / _text(path, tables, "catalog", "path", "cdn-fallback.sqlite")
    _reject_unknown(path, tables, "catalog", ("path",))
    _reject_unknown(path, tables, "store", ("url", "endpoint", "region", "retry_seconds", "put_price"))
    _reject_unknown(path, tables, "publish", ("base", "legacy", "keep_days"))
    source = Settings(_table(path, tables, "source"), str(path), folder, catalog.with_name(f"{catalog.name}.spool"))
    legacy = _table(path, tables, "publish").get("legacy", True)
    if not isinstance(legacy, bool):
        raise ConfigError(str(path), "[publish] legacy", "must be true or false")
    days = _number(path, _table(path, tables, "publish"), "[publish] keep_days", 0, 3650)
    rules = Rules(_base(path, _text(path, tables, "publish", "base")), legacy)
    return MirrorConfig(path, source, catalog, _store(path, tables), rules, _trees(path, tables), days * 86400)


def _store(path: Path, tables: Mapping[str, Any]) -> StoreSettings:
    table = _table(path, tables, "store")
    endpoint = _text(path, tables, "store", "endpoint") if "endpoint" in table else None
    if endpoint and (not endpoint.startswith(("https://", "http://")) or "@" in endpoint or not endpoint.isprintable()):
        raise ConfigError(str(path), "[store] endpoint", f"{endpoint} is no URL of a service; write https://host")
    region = _text(path, tables, "store", "region") if "region" in table else None
    return StoreSettings(
        _text(path, tables, "store", "url"),
        str(path),
        path.parent,
        endpoint,
        region,
        _number(path, table, "[store] retry_seconds", 60, 60),
        _price(path, table),
    )


def _price(path: Path, table: Mapping[str, Any]) -> float | None:
    price = table.get("put_price")
    if price is not None and (isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < 1000):
        raise ConfigError(str(path), "[store] put_price", "must be the price of a thousand puts in US dollars")
    return price


def _number(path: Path, table: Mapping[str, Any], key: str, default: int, most: int) -> int:
    """`key` with its table, as "[publish] keep_days"."""
    value = table.get(key.rpartition(" ")[2], default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ConfigError(str(path), key, f"must be a whole number from 0 to {most}")
    return value


def _base(path: Path, url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment or "@" in url:
        raise ConfigError(str(path), "[publish] base", f"{url} is no URL of a site; write https://host/")
    if not url.isprintable() or not url.isascii() or set(url) & set(" \"<>'\\"):
        raise ConfigError(str(path), "[publish] base", "holds a character that no URL may hold; percent-encode it")
    return url if url.endswith("/") else f"{url}/"


def _trees(path: Path, tables: Mapping[str, Any]) -> tuple[Tree, ...]:
    found: list[Tree] = []
    given = tables.get("tree", [])
    if not isinstance(given, list):
        raise ConfigError(str(path), "tree", "each tree is a table of its own: write [[tree]]")
    for number, table in enumerate(given, 1):
        where = f"[[tree]] number {number}"
        is_table = isinstance(table, dict) and set(table) == {"path", "prefix"}
        if not is_table or not all(isinstance(value, str) and value for value in table.values()):
            raise ConfigError(str(path), where, "needs `path` and `prefix`, both strings, and nothing else")
        prefix = table["prefix"].strip("/")
        try:
            check_key(prefix)
        except BadName as exc:
            raise ConfigError(str(path), where, f"prefix {prefix!r} {exc.reason}") from exc
        if prefix.partition("/")[0] in _OWN:
            raise ConfigError(str(path), where, f"prefix {prefix} is the index's own; name another")
        if any(
            f"{other.prefix}/".startswith(f"{prefix}/") or f"{prefix}/".startswith(f"{other.prefix}/")
            for other in found
        ):
            raise ConfigError(str(path), where, f"prefix {prefix} lies in another tree's; name another")
        found.append(Tree(path.parent / table["path"], prefix))
    return tuple(found)


def _table(path: Path, tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(str(path), name, f"must be a table: write [{name}]")
    return table


def _text(path: Path, tables: Mapping[str, Any], name: str, key: str, default: str | None = None) -> str:
    value = _table(path, tables, name).get(key, default)
    if not isinstance(value, str) or not value:
        problem = "is missing; write a string" if value is None else "must be a string"
        raise ConfigError(str(path), f"[{name}] {key}", problem)
    return value


def _reject_unknown(path: Path, tables: Mapping[str, Any], name: str, known: tuple[str, ...]) -> None:
    for key in _table(path, tables, name):
        if key not in known:
            raise ConfigError(str(path), f"[{name}] {key}", f"is no key of this table; it has {', '.join(known)}")
