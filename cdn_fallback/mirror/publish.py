"""Makes a store equal to the site, in an order in which nothing ever dangles.

    files, their metadata -> pages of projects -> project list -> last-modified
    what is gone from the list: its pages at once, its files when every cache has forgotten them

Before the objects of a batch are put, the ledger knows of them and vouches for none; after, it has what the store
holds. A kill between the two leaves objects that the next publish puts again, or deletes if nobody wants them now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror import site
from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.due import Due
from cdn_fallback.mirror.model import File
from cdn_fallback.mirror.site import Difference, Object, Rules
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.store import Store, StoreError

BATCH = 2000  # projects between two notes in the catalog

Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


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

    def plan(self, now: float, *, everything: bool = False) -> Report:
        """What `publish` would do at `now`. Writes nothing anywhere.

        What cannot be known is not in it: which bytes are not to be had, and how many bytes metadata has.

        :raises StoreError: if the store is somebody else's
        """
        ledger, due = self._catalog.ledger, self._due(everything)
        outlived = set(ledger.doomed(int(now) - site.STALE))
        if not due.anything():
            return Report(deletes=len(outlived))
        self._is_unclaimed()
        report = Report(generation=due.generation)
        settled: dict[int, int | None] = {}
        for found in due.projects(self._progress):
            settled[found.id] = found.serial
            files = sum(map(_file_key, found.gone))
            report = _planned(report, [*found.files, *found.pages], outlived)
            report = report._replace(
                projects=report.projects + 1,
                deletes=report.deletes + len(found.gone) - files,
                doomed=report.doomed + files,
            )
        static = list(due.static())
        report = _planned(report, [*static, *due.lists(settled)], outlived)
        gone = {one.key for one in due.removed_static()} & ledger.of(None).keys()
        blocking = {key for one in static for key, project in ledger.in_the_way(one.key) if project is None}
        return report._replace(
            deletes=report.deletes + len(outlived | blocking), doomed=report.doomed + len(gone - blocking)
        )

    def publish(self, now: float, *, everything: bool = False, allow_removals: bool = False) -> Report:
        """Publish what has changed since the last time, or look at `everything`; delete what is due at `now`.

        :raises StoreError: and then what is published is whole, and the next publish goes on from there
        :raises TooManyRemovals: before anything is done
        """
        due = self._due(everything)
        changed = due.anything()
        if changed or self._catalog.ledger.doomed(int(now) - site.STALE):
            self._claim()
        if changed:
            if not allow_removals:
                due.guard()
            self._publish(now, due)
        self._delete_due(now)
        return self._report._replace(held=tuple(self._held))

    def start_anew(self) -> None:
        """The store has lost everything that was put into it: the next publish puts it again.

        :raises StoreError: if the store is somebody else's; then nothing is forgotten
        """
        self._is_unclaimed(lost=True)
        with self._catalog.transaction():
            self._catalog.ledger.forget_all()
            self._catalog.set("site", "")

    def _due(self, everything: bool) -> Due:
        return Due(self._catalog, self._rules, everything)

    def _publish(self, now: float, due: Due) -> None:
        catalog = self._catalog
        change = catalog.content.change
        self._report = Report(generation=due.generation)
        if due.anew:  # also for the next publish, if this one comes to no end
            with catalog.transaction():
                catalog.set("site", "")
        for batch in batches(due.projects(self._progress), BATCH):
            self._put_projects(batch, now)
        static = change if self._put_static(due, now) else due.since("static")
        self._put_all(due.lists())
        with catalog.transaction():
            catalog.set("published", change)
            catalog.set("static", static)
            catalog.set("site", self._rules.fingerprint)
            catalog.set("generation", self._report.generation)

    # whose the store is

    def _claim(self) -> None:
        if self._is_unclaimed():
            self._store.claim(self._catalog.identity)

    def _is_unclaimed(self, *, lost: bool = False) -> bool:
        """Whether the store is to become ours; one that is somebody else's is left alone.

        :param lost: that it is not what the ledger says is no surprise
        """
        owner = self._store.owner()
        if owner == self._catalog.identity:
            return False
        if owner is not None:
            raise StoreError("the store", f"belongs to another catalog ({owner}); name another, or use that catalog")
        if self._catalog.ledger.count() and not lost:
            raise StoreError(
                "the store",
                "is not the one that the catalog has published to: its mark is missing. Is a disk not mounted? "
                "If the store is really lost, `cdn-fallback mirror publish --anew` fills it again",
            )
        first = next(self._store.list(), None)
        if first is not None:
            raise StoreError("the store", f"is not empty and not ours: it holds {first.key}. Name an empty one")
        return True

    # doing it

    def _put_projects(self, batch: Sequence[Difference], now: float) -> None:
        ledger = self._catalog.ledger
        entries: list[tuple[int, list[Entry]]] = []
        settled: list[Difference] = []
        held: list[Difference] = []
        done: list[File] = []
        self._intend([(found.id, found.files) for found in batch], spare=True)
        for found in batch:
            files: list[Entry] = []
            entries.append((found.id, files))
            try:
                for one in found.files:
                    files.append(self._put(one, found.id))
            except ProjectError as exc:
                self._held.append(Held(found.name, f"{exc.where}: {exc.problem}"))
                held.append(found)
            else:
                settled.append(found)
            done += _whole(found.files, len(files))
        self._intend([(found.id, found.pages) for found in settled])
        for found in settled:
            entries.append((found.id, [self._put(one, found.id) for one in found.pages]))
        self._store.flush()
        with self._catalog.transaction():
            for project, of_project in entries:
                ledger.put(project, of_project)
            ledger.settle((found.id, found.serial) for found in settled)
            ledger.hold(found.id for found in held)
            self._doom([key for found in settled for key in found.gone], now)
        for file in done:
            self._done(file)
        self._report = self._report._replace(projects=self._report.projects + len(settled))

    def _put_static(self, due: Due, now: float) -> bool:
        """Put the changed files beside the index. Returns whether all could be."""
        whole = True
        for batch in batches(due.static(), BATCH):
            entries = []
            self._make_way(batch)
            self._intend([(None, batch)])
            for one in batch:
                try:
                    entries.append(self._put(one))
                except ProjectError as exc:
                    self._held.append(Held(exc.where, exc.problem))
                    whole = False
            self._settle(entries)
        with self._catalog.transaction():
            self._doom([one.key for one in due.removed_static()], now)
        return whole

    def _make_way(self, wanted: Iterable[Object]) -> None:
        """Delete at once what no folder can hold beside `wanted`: the file `x`, where now is `x/y`, or the reverse."""
        ledger = self._catalog.ledger
        keys = [key for one in wanted for key, project in ledger.in_the_way(one.key) if project is None]
        if keys:
            with self._catalog.transaction():
                ledger.doom(keys, 0)
            self._delete(sorted(set(keys)))

    def _put_all(self, objects: Sequence[Object]) -> None:
        """Put what belongs to no project, in this order."""
        self._intend([(None, objects)])
        self._settle([self._put(one) for one in objects])

    def _intend(self, objects: Sequence[tuple[int | None, Sequence[Object]]], *, spare: bool = False) -> None:
        if any(of_project for _, of_project in objects):
            with self._catalog.transaction():
                for project, of_project in objects:
                    self._catalog.ledger.intend(project, [(one.key, one.digest) for one in of_project], spare=spare)

    def _settle(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._store.flush()
            with self._catalog.transaction():
                self._catalog.ledger.put(None, entries)

    def _delete_due(self, now: float) -> None:
        """Pages that are in no list any more, and files that no cache knows any more."""
        due = self._catalog.ledger.doomed(int(now) - site.STALE)
        for keys in batches(sorted(due, key=site.turn), BATCH):
            self._delete(keys)

    def _delete(self, keys: Sequence[str]) -> None:
        self._store.delete(keys)
        with self._catalog.transaction():
            self._catalog.ledger.forget(keys)
        self._report = self._report._replace(deletes=self._report.deletes + len(keys))

    def _doom(self, keys: Sequence[str], now: float) -> None:
        ledger = self._catalog.ledger
        files = ledger.doom([key for key in keys if _file_key(key)], int(now))
        ledger.doom([key for key in keys if not _file_key(key)], 0)
        self._report = self._report._replace(doomed=self._report.doomed + files)

    def _put(self, wanted: Object, project: int | None = None) -> Entry:
        """Put it; raises ProjectError where its bytes cannot be had or are not those that are promised."""
        if wanted.file or wanted.static:
            owner = self._catalog.ledger.owner(wanted.key)
            if owner and owner[0] != project:
                raise ProjectError(wanted.key, "is another project's file; rename one of the two")
        if wanted.static and self._catalog.ledger.in_the_way(wanted.key):
            raise ProjectError(wanted.key, "cannot lie beside a file of the index; rename one of the two")
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
        try:
            data = self._body.read(size)
        except OSError as exc:
            raise ProjectError(self._wanted.key, f"cannot be read now ({exc.strerror or exc})") from exc
        self._hash.update(data)
        if not data and self._hash.digest() != self._wanted.digest:
            raise ProjectError(self._wanted.key, "has changed since it was read; it is left for the next sync")
        return data


def _planned(report: Report, objects: Sequence[Object], due: set[str]) -> Report:
    """With `objects` to be put; they are no longer among those that are `due` to be deleted."""
    due.difference_update(one.key for one in objects)
    size = sum(one.size or 0 for one in objects)
    return report._replace(puts=report.puts + len(objects), bytes=report.bytes + size)


def _whole(objects: Sequence[Object], count: int) -> list[File]:
    """The files of which everything is among the first `count` of `objects`: their bytes and their metadata."""
    files = {one.file.object_key: one.file for one in objects[:count] if one.file}
    left = {one.file.object_key for one in objects[count:] if one.file}
    return [file for key, file in files.items() if key not in left]


def _file_key(key: str) -> bool:
    """Whether a cache may know the object for long: everything but the index's own pages."""
    return not key.startswith(("simple/", "pypi/"))
