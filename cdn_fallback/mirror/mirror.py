"""A mirror put together: what the commands do, with everything that they need from the configuration."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror import lock, sync
from cdn_fallback.mirror.catalog import Catalog, told
from cdn_fallback.mirror.config import MirrorConfig
from cdn_fallback.mirror.cost import Cost, cost
from cdn_fallback.mirror.distributions import Damaged, inspect
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.model import File
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.site import Object
from cdn_fallback.mirror.sources import ProjectError, Source
from cdn_fallback.mirror.sources.registry import find
from cdn_fallback.mirror.sources.trees import changes, open_static
from cdn_fallback.mirror.stores import Store
from cdn_fallback.mirror.stores.opening import open_store

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


def _nothing(text: str) -> None:
    """Nobody listens."""


class Trees(NamedTuple):
    """What a sync found in the trees beside the index."""

    changed: int = 0
    removed: int = 0
    rejected: tuple[str, ...] = ()


class Mirror:
    """An open mirror: its source, its catalog, its store."""

    def __init__(
        self, config: MirrorConfig, catalog: Catalog, source: Source, store: Store, who: Who, say: Say
    ) -> None:
        self._config = config
        self.catalog = catalog
        self._source = source
        self._store = store
        self._who = who
        self._say = say

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: MirrorConfig, command: str, now: float, say: Say = _nothing) -> Iterator[Mirror]:
        """For writing: nobody else works on it meanwhile. Raises ConfigError, Busy, CatalogError.

        :param say: hears why something takes its time
        """
        store = open_store(config.store)
        with (
            contextlib.closing(find(config.source)) as source,
            lock.held(config.catalog, command, now) as who,
            contextlib.closing(Catalog.open(config.catalog)) as catalog,
            told(config.catalog),
        ):
            yield cls(config, catalog, source, store, who, say)

    @classmethod
    @contextlib.contextmanager
    def read(cls, config: MirrorConfig) -> Iterator[Mirror]:
        """For looking at it only. Raises ConfigError, CatalogError."""
        store = open_store(config.store)
        with (
            contextlib.closing(find(config.source)) as source,
            contextlib.closing(Catalog.read(config.catalog)) as catalog,
            told(config.catalog),
        ):
            yield cls(config, catalog, source, store, Who("", ""), _nothing)

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

    def plan(self, now: float, progress: Progress, *, everything: bool = False, removals: bool = False) -> Report:
        """What a publish would do. Raises what that would at its start."""
        return self._publisher(progress).plan(now, everything=everything, allow_removals=removals)

    def cost(self, report: Report) -> Cost:
        """What the publish that it tells of costs in this store."""
        return cost(report, self._config.store.url, self._config.store.price)

    def publish(
        self, now: float, progress: Progress, *, everything: bool = False, anew: bool = False, removals: bool = False
    ) -> Report:
        """The catalog -> the store. `anew` says that the store holds nothing of what the ledger has.

        :raises StoreError, TooManyRemovals, CatalogError:
        """
        publisher = self._publisher(progress)
        if anew:
            publisher.start_anew()
        return publisher.publish(now, everything=everything, allow_removals=removals)

    def _publisher(self, progress: Progress) -> Publisher:
        return Publisher(
            self.catalog, self._store, self._config.rules, self._read, self._who,
            done=self._source.published, progress=progress, told=self._say, keep=self._config.keep,
        )  # fmt: skip

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
