"""A mirror put together: what the commands do, with everything that they need from the configuration."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror import lock, publish, sync
from cdn_fallback.mirror.catalog import Catalog, told
from cdn_fallback.mirror.config import MirrorConfig
from cdn_fallback.mirror.distributions import Damaged, inspect
from cdn_fallback.mirror.model import File
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.site import Object
from cdn_fallback.mirror.sources import ProjectError, Source
from cdn_fallback.mirror.sources.registry import find
from cdn_fallback.mirror.sources.trees import changes, open_static
from cdn_fallback.mirror.store import Store, open_store

Progress = Callable[[str, int, int], None]


class Trees(NamedTuple):
    """What a sync found in the trees beside the index."""

    changed: int = 0
    removed: int = 0
    rejected: tuple[str, ...] = ()


class Mirror:
    """An open mirror: its source, its catalog, its store."""

    def __init__(self, config: MirrorConfig, catalog: Catalog, source: Source, store: Store) -> None:
        self._config = config
        self.catalog = catalog
        self._source = source
        self._store = store

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: MirrorConfig, command: str, now: float) -> Iterator[Mirror]:
        """For writing: nobody else works on it meanwhile. Raises ConfigError, Busy, CatalogError."""
        store = open_store(config.store, str(config.where), config.where.parent)
        with (
            contextlib.closing(find(config.source)) as source,
            lock.held(config.catalog, command, now),
            contextlib.closing(Catalog.open(config.catalog)) as catalog,
            told(config.catalog),
        ):
            yield cls(config, catalog, source, store)

    @classmethod
    @contextlib.contextmanager
    def read(cls, config: MirrorConfig) -> Iterator[Mirror]:
        """For looking at it only. Raises ConfigError, CatalogError."""
        store = open_store(config.store, str(config.where), config.where.parent)
        with (
            contextlib.closing(find(config.source)) as source,
            contextlib.closing(Catalog.read(config.catalog)) as catalog,
            told(config.catalog),
        ):
            yield cls(config, catalog, source, store)

    def sync(self, now: float, progress: Progress) -> tuple[sync.Report, Trees]:
        """The source and the trees -> the catalog. Raises SourceError, CatalogError."""
        report = sync.sync(self._source, self.catalog, now, progress)
        found = changes(self._config.trees, self.catalog.content, now)
        if found.files:
            with self.catalog.transaction():
                self.catalog.content.apply_static(found.files)
                sync.touched(self.catalog, now)
        removed = sum(static.removed for static in found.files)
        return report, Trees(len(found.files) - removed, removed, found.rejected)

    def plan(self, now: float, progress: Progress, *, everything: bool = False) -> publish.Report:
        """What a publish would do. Raises StoreError, CatalogError."""
        return self._publisher(progress).plan(now, everything=everything)

    def publish(
        self, now: float, progress: Progress, *, everything: bool = False, anew: bool = False, removals: bool = False
    ) -> publish.Report:
        """The catalog -> the store. `anew` says that the store holds nothing of what the ledger has.

        :raises StoreError, TooManyRemovals, CatalogError:
        """
        publisher = self._publisher(progress)
        if anew:
            publisher.start_anew()
        return publisher.publish(now, everything=everything, allow_removals=removals)

    def _publisher(self, progress: Progress) -> Publisher:
        return Publisher(self.catalog, self._store, self._config.rules, self._read, self._source.published, progress)

    def _read(self, wanted: Object) -> BinaryIO:
        if wanted.static:
            return open_static(wanted.static)
        assert wanted.file is not None
        if wanted.key == wanted.file.object_key:
            return self._source.open(wanted.file)
        return io.BytesIO(self._metadata(wanted.file))

    def _metadata(self, file: File) -> bytes:
        """PEP 658: the metadata that stands in the wheel itself."""
        with self._source.open(file) as archive:
            try:
                return inspect(archive, file.filename, _project(file)).metadata
            except Damaged as exc:
                raise ProjectError(file.filename, exc.reason) from exc
            except OSError as exc:
                raise ProjectError(file.filename, f"cannot be read now ({exc.strerror or exc})") from exc


def _project(file: File) -> str:
    from cdn_fallback.mirror.names import project_of

    return project_of(file.filename)
