"""From a store's URL to the store."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.stores import Store
from cdn_fallback.mirror.stores.directory import DirectoryStore

_OBJECTS = ("s3", "gs", "az", "memory")  # `objects` is loaded for these only: it needs obstore


class StoreSettings(NamedTuple):
    """The table [store] of the configuration."""

    url: str
    where: str  # the file it stands in, for messages
    folder: Path  # what relative paths are relative to
    endpoint: str | None = None  # of object storage, if not where its provider has it
    region: str | None = None
    patience: int = 60  # s, for which a failed request is tried again
    price: float | None = None  # US dollars for a thousand puts, where it is not the usual one


def open_store(settings: StoreSettings) -> Store:
    """The store that is configured. Raises ConfigError, and StoreError for credentials that cannot be had."""
    url, where = settings.url, settings.where
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    is_plain = url.isprintable() and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme in _OBJECTS:
        if not is_plain or not parts.netloc or not _is_prefix(parts.path):
            raise ConfigError(where, "[store] url", f"{url} names no bucket; write s3://bucket or s3://bucket/prefix")
        from cdn_fallback.mirror.stores.objects import open_objects

        return open_objects(url, endpoint=settings.endpoint, region=settings.region, patience=settings.patience)
    if parts.scheme != "file":
        problem = f"{url} is no store that this version knows; write file:///srv/mirror, s3://, gs:// or az://"
        raise ConfigError(where, "[store] url", problem)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not is_plain or not path.isprintable() or not path.strip("/"):
        raise ConfigError(where, "[store] url", f"{url} names no folder of this machine; write file:///srv/mirror")
    return DirectoryStore(settings.folder / path)


def _is_prefix(path: str) -> bool:
    """Whether it is empty or /some/thing, with nothing in it that a key may not have."""
    return all(part and not part.startswith(".") for part in path.strip("/").split("/")) or not path.strip("/")
