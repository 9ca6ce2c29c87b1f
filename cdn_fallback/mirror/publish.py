"""Makes a store equal to the site, in an order in which nothing ever dangles.

    files, their metadata -> pages of projects -> project list -> last-modified
    what is gone from the list: its pages at once, its files when every cache has forgotten them

Before the objects of a batch are put, the ledger no longer vouches for those that it has under these keys; after, it
has what the store holds. A kill between the two leaves objects that the next publish puts again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from cdn_fallback.errors import CdnFallbackError
from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.differences import differences
from cdn_fallback.mirror.model import File
from cdn_fallback.mirror.site import Difference, Object, Rules
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.store import Store, StoreError

BATCH = 2000  # projects between two notes in the catalog
MOST_REMOVED = 0.05  # the share of the index that a publish may take away unasked
FEW = 10  # so many projects or files may always go

Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


class TooManyRemovals(CdnFallbackError):
    """The publish would take away more than it may without being told to. Nothing was done."""

    def __init__(self, what: str, removed: int, of: int) -> None:
        super().__init__(what, removed, of)
        self.what = what
        self.removed = removed
        self.of = of

    def __str__(self) -> str:
        return (
            f"this publish would remove {self.removed} of {self.of} {self.what}; if that is right, run it again with "
            "--allow-removals, else mend the source and sync. Nothing was changed in the store"
        )


class Held(NamedTuple):
    """A project that could not be published: its old page stays, the next publish tries again."""

    name: str
    why: str


class Report(NamedTuple):
    """What a publish did, or would do."""

    generation: int = 0
    projects: int = 0  # that differed
    puts: int = 0
    bytes: int = 0  # of what was put
    deletes: int = 0
    doomed: int = 0  # objects that nothing refers to now, to be deleted when the caches have forgotten them
    held: tuple[Held, ...] = ()


class Publisher:
    """One catalog's way to one store.

    :param read: a file's bytes from where they are now: of a File (its own, or its metadata's) or a static file
    :param done: called for each file that is in the store
    """

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        rules: Rules,
        read: Callable[[Object], BinaryIO],
        done: Callable[[File], None] = lambda file: None,
        progress: Progress = lambda what, done, of: None,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._rules = rules
        self._read = read
        self._done = done
        self._progress = progress
        self._report = Report()
        self._held: list[Held] = []

    def plan(self, *, everything: bool = False) -> Report:
        """What `publish` would do. Writes nothing anywhere."""
        report = Report(generation=self._generation())
        if self._nothing_changed() and not everything:
            return report
        for found in self._differences(everything):
            objects = [*found.files, *found.pages]
            report = report._replace(
                projects=report.projects + 1,
                puts=report.puts + len(objects),
                bytes=report.bytes + sum(one.size or 0 for one in objects),
                deletes=report.deletes + sum(not _file_key(key) for key in found.gone),
                doomed=report.doomed + sum(map(_file_key, found.gone)),
            )
        since = -1 if self._fresh(everything) else self._catalog.get("published", 0)
        static = list(self._static(since))
        return report._replace(
            puts=report.puts + len(static) + site.PUT_AT_LAST, bytes=report.bytes + sum(one.size or 0 for one in static)
        )

    def publish(self, now: float, *, everything: bool = False, allow_removals: bool = False) -> Report:
        """Publish what has changed since the last time, or look at `everything`; delete what is due at `now`.

        :raises StoreError: and then what is published is whole, and the next publish goes on from there
        :raises TooManyRemovals: before anything is done
        """
        self._check_owner()
        changed = everything or not self._nothing_changed()
        if changed:
            if not allow_removals:
                self._guard()
            self._publish(now, everything)
        self._delete_due(now)
        return self._report._replace(held=tuple(self._held))

    def _publish(self, now: float, everything: bool) -> None:
        catalog = self._catalog
        change = catalog.content.change
        since = -1 if self._fresh(everything) else catalog.get("published", 0)
        self._report = Report(generation=self._generation())
        for batch in _batches(self._differences(everything), BATCH):
            self._put_projects(batch, now)
        whole = self._put_static(since, now)
        self._put_site()
        with catalog.transaction():
            if whole:
                catalog.set("published", change)
                catalog.set("site", self._rules.fingerprint)
            catalog.set("generation", self._report.generation)

    # what is to be done

    def _generation(self) -> int:
        return int(self._catalog.get("generation", 0)) + 1

    def _nothing_changed(self) -> bool:
        catalog = self._catalog
        return (
            not self._fresh() and catalog.get("published", 0) == catalog.content.change and not catalog.ledger.pending()
        )

    def _fresh(self, everything: bool = False) -> bool:
        """Whether every project is to be looked at."""
        return everything or self._catalog.get("site") != self._rules.fingerprint

    def _differences(self, everything: bool) -> Iterator[Difference]:
        catalog = self._catalog
        pending = catalog.ledger.pending()
        ids = catalog.content.ids(-1 if self._fresh(everything) else catalog.get("published", 0))
        seen = set(ids)
        ids += [number for number in pending if number not in seen]
        anew = catalog.get("site") != self._rules.fingerprint
        for done, of, found in differences(catalog.path, ids, self._rules, anew=anew):
            self._progress("projects", done, of)
            yield from found

    def _guard(self) -> None:
        projects, listed, files, all_files = self._catalog.ledger.leaving(self._catalog.get("published", 0))
        for what, removed, of in (("projects", projects, listed), ("files", files, all_files)):
            if removed > FEW and removed > of * MOST_REMOVED:
                raise TooManyRemovals(what, removed, of)

    def _check_owner(self) -> None:
        """A store that is somebody else's is left alone; one that is not what the ledger says is told."""
        owner, identity = self._store.owner(), self._catalog.identity
        if owner == identity:
            return
        if owner is not None:
            raise StoreError("the store", f"belongs to another catalog ({owner}); name another, or use that catalog")
        if self._catalog.ledger.count():
            raise StoreError(
                "the store",
                "is not the one that the catalog has published to: its mark is missing. Is a disk not mounted? "
                "If the store is really lost, `cdn-fallback mirror publish --anew` fills it again",
            )
        first = next(self._store.list(), None)
        if first is not None:
            raise StoreError("the store", f"is not empty and not ours: it holds {first.key}. Name an empty one")
        self._store.claim(identity)

    # doing it

    def _put_projects(self, batch: Sequence[Difference], now: float) -> None:
        ledger = self._catalog.ledger
        self._doubt(one.key for found in batch for one in (*found.files, *found.pages))
        entries: list[tuple[int, list[Entry]]] = []
        settled: list[Difference] = []
        held: list[int] = []
        for found in batch:
            files: list[Entry] = []
            entries.append((found.id, files))
            try:
                for one in found.files:
                    files.append(self._put(one, found.id))
            except ProjectError as exc:
                self._held.append(Held(found.name, f"{exc.where}: {exc.problem}"))
                held.append(found.id)
            else:
                settled.append(found)
        for found in settled:
            entries.append((found.id, [self._put(one) for one in found.pages]))
        self._store.flush()
        with self._catalog.transaction():
            for project, of_project in entries:
                ledger.put(project, of_project)
            ledger.settle((found.id, found.serial) for found in settled)
            ledger.hold(held)
            self._doom([key for found in settled for key in found.gone], now)
        for file in {one.file.object_key: one.file for found in settled for one in found.files if one.file}.values():
            self._done(file)
        self._report = self._report._replace(projects=self._report.projects + len(settled))

    def _put_static(self, since: int, now: float) -> bool:
        """Put the changed files beside the index. Returns whether all could be."""
        whole = True
        for batch in _batches(self._static(since), BATCH):
            self._doubt(one.key for one in batch)
            entries = []
            for one in batch:
                try:
                    entries.append(self._put(one))
                except ProjectError as exc:
                    self._held.append(Held(exc.where, exc.problem))
                    whole = False
            self._settle(entries)
        before = self._catalog.get("published", 0)
        with self._catalog.transaction():
            self._doom([one.key for one in self._catalog.content.static(before) if one.removed], now)
        return whole

    def _static(self, since: int) -> Iterator[Object]:
        store = self._catalog.ledger.of(None)
        wanted = (site.object_of_static(one) for one in self._catalog.content.static(since) if not one.removed)
        return (one for one in wanted if not site.same(one, store))

    def _put_site(self) -> None:
        """The project list, then what tells that something is new."""
        catalog = self._catalog
        serial = catalog.get("serial") or catalog.content.change
        lacking = []
        store = catalog.ledger.of(None)
        wanted = site.lists(catalog.ledger.listed(), serial) + site.ends(str(catalog.get("changed_at", "")))
        for one in wanted:
            if not site.same(one, store):
                lacking += [one, one.gzipped()] if one.twin else [one]
        self._doubt(one.key for one in lacking)
        self._settle([self._put(one) for one in lacking])

    def _doubt(self, keys: Iterable[str]) -> None:
        with self._catalog.transaction():
            self._catalog.ledger.doubt(keys)

    def _settle(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._store.flush()
            with self._catalog.transaction():
                self._catalog.ledger.put(None, entries)

    def _delete_due(self, now: float) -> None:
        """Pages that are in no list any more, and files that no cache knows any more."""
        ledger = self._catalog.ledger
        for keys in _batches(ledger.doomed(int(now) - site.STALE), BATCH):
            self._store.delete(keys)
            with self._catalog.transaction():
                ledger.forget(keys)
            self._report = self._report._replace(deletes=self._report.deletes + len(keys))

    def _doom(self, keys: Sequence[str], now: float) -> None:
        files = [key for key in keys if _file_key(key)]
        self._catalog.ledger.doom(files, int(now))
        self._catalog.ledger.doom([key for key in keys if not _file_key(key)], 0)
        self._report = self._report._replace(doomed=self._report.doomed + len(files))

    def _put(self, wanted: Object, project: int | None = None) -> Entry:
        """Put it; raises ProjectError where its bytes cannot be had or are not those that are promised."""
        if wanted.file:
            owner = self._catalog.ledger.owner(wanted.key)
            if owner and owner[0] != project:
                raise ProjectError(wanted.key, "is another project's file; rename one of the two")
        if wanted.body is not None:
            size = self._store.put(wanted.key, wanted.body, wanted.headers)
        else:
            body = self._read(wanted)
            with body:
                size = self._store.put(wanted.key, Checked(body, wanted), wanted.headers)
        self._report = self._report._replace(puts=self._report.puts + 1, bytes=self._report.bytes + size)
        return Entry(wanted.key, wanted.digest, size, str(wanted.headers), self._report.generation)


class Checked:
    """A body that raises ProjectError at its end if it is not what was promised: nothing wrong is published."""

    def __init__(self, body: BinaryIO, wanted: Object) -> None:
        self._body = body
        self._wanted = wanted
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """As a file's; to its end, for the check."""
        data = self._body.read(size)
        self._hash.update(data)
        if not data and self._hash.digest() != self._wanted.digest:
            raise ProjectError(self._wanted.key, "has changed since it was read; it is left for the next sync")
        return data


def _file_key(key: str) -> bool:
    """Whether a cache may know the object for long: everything but the index's own pages."""
    return not key.startswith(("simple/", "pypi/"))


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
