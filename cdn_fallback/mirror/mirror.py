"""A mirror put together: what the commands do, with everything that they need from the configuration."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from cdn_fallback.mirror import lock, rollback, sync
from cdn_fallback.mirror.catalog import Catalog, told
from cdn_fallback.mirror.catalog.content import Static
from cdn_fallback.mirror.catalog.history import Generation
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

# Loaded by the methods that need them: they load more than a run has to.
if TYPE_CHECKING:
    from cdn_fallback.mirror.prune import Strangers
    from cdn_fallback.mirror.rebuild import Rebuilt
    from cdn_fallback.mirror.restore import Restored
    from cdn_fallback.mirror.verify import Verified

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
        files: list[Static] = []
        if found.files:
            with self.catalog.transaction():
                files = self.catalog.content.apply_static(found.files)
                if files:
                    sync.touched(self.catalog, now)
        removed = sum(static.removed for static in files)
        return report, Trees(len(files) - removed, removed, found.rejected)

    def plan(self, now: float, progress: Progress, *, everything: bool = False, removals: bool = False) -> Report:
        """What a publish would do. Raises what that would at its start."""
        return self._publisher(progress).plan(now, everything=everything, allow_removals=removals)

    def generations(self) -> list[Generation]:
        """What can be rolled back to, the last one first."""
        return rollback.generations(self.catalog)

    @property
    def rolled_back(self) -> int | None:
        """The generation that is published instead of what the catalog has now."""
        return rollback.rolled_back(self.catalog)

    def roll_back(self, number: int, now: float, progress: Progress, *, removals: bool = False) -> Report:
        """Publish the generation `number`, now and until one goes forward. Raises NotKept, and what a publish does."""
        with rollback.unless_refused(self.catalog):
            rollback.rollback(self.catalog, number)
            return self.publish(now, progress, removals=removals)

    def go_forward(self, now: float, progress: Progress, *, removals: bool = False) -> Report:
        """Publish what the catalog has now. Raises what a publish does."""
        with rollback.unless_refused(self.catalog):
            rollback.forward(self.catalog)
            return self.publish(now, progress, removals=removals)

    def verify(self, progress: Progress, *, quick: bool = False) -> Verified:
        """The store held against the catalog. Raises StoreError, CatalogError."""
        from cdn_fallback.mirror.verify import verify

        return verify(self.catalog, self._store, progress, quick=quick)

    def repair(self, verified: Verified, now: float, progress: Progress) -> Report:
        """Put again what was found missing or wrong. Raises what a publish does."""
        from cdn_fallback.mirror.verify import doubt

        doubt(self.catalog, verified)
        return self.publish(now, progress)

    def adopt(self, now: float, progress: Progress) -> Rebuilt:
        """The catalog, which has published nothing yet, anew from the store. Raises StoreError, Leased."""
        from cdn_fallback.mirror.rebuild import rebuild

        prefixes = [tree.prefix for tree in self._config.trees]
        return rebuild(self.catalog, self._store, self._config.rules, prefixes, now, self._who, progress)

    def restore(self, folder: Path, progress: Progress) -> Restored:
        """The files that the catalog knows into `folder`. Raises StoreError, CatalogError."""
        from cdn_fallback.mirror.restore import restore

        prefix = str(self._config.source.values.get("prefix", "packages")).strip("/")
        return restore(self.catalog, self._store, folder, prefix, self._config.trees, progress)

    @property
    def folder(self) -> Path | None:
        """Where files are restored to: the folder that is the source; None where it is none."""
        source = self._config.source
        path = source.values.get("path")
        return source.folder / str(path) if source.values.get("type") == "directory" and path else None

    @property
    def has_published(self) -> bool:
        """Whether the catalog knows of objects in a store."""
        return self.catalog.ledger.count() > 0 and not self.catalog.get("rebuilding")

    def due(self, now: float) -> int:
        """How many objects may be deleted at `now`."""
        return self._publisher(lambda what, done, of: None).prunable(now)

    def strangers(self, now: float, *, note: bool) -> Strangers:
        """What is in the store and nobody knows why. Raises StoreError, CatalogError."""
        from cdn_fallback.mirror.prune import strangers

        return strangers(self.catalog, self._store, now, note=note)

    def delete_due(self, now: float, progress: Progress) -> Report:
        """Delete what nothing refers to and no cache remembers; put nothing. Raises StoreError, Leased."""
        return self._publisher(progress).prune(now)

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
