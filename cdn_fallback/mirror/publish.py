"""Makes a store equal to the site, in an order in which nothing ever dangles.

    files, their metadata -> pages of projects -> project list -> last-modified
    what is gone from the list: its pages at once, its files when every cache has forgotten them

Before the objects of a batch are put, the ledger knows of them and vouches for none; after, it has what the store
holds. A kill between the two leaves objects that the next publish puts again, or deletes if nobody wants them now.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import BinaryIO

from cdn_fallback.mirror import lease, site
from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.due import Due
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.model import File
from cdn_fallback.mirror.ownership import is_unclaimed
from cdn_fallback.mirror.plan import plan
from cdn_fallback.mirror.report import Held, Report, is_file
from cdn_fallback.mirror.site import Difference, Object, Rules
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.stores import Store
from cdn_fallback.mirror.uploads import Chained, Uploads

BATCH = 2000  # projects between two notes in the catalog
_EVER = (1 << 63) - 1  # Unix time
_NOTE = 5.0  # s, after which files that were put are noted all the same: they may be large

Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


class Publisher:
    """One catalog's way to one store.

    :param read: a file's bytes from where they are now: of a File (its own, or its metadata's) or a static file;
        called by several threads
    :param who: for others that want to publish meanwhile
    :param done: called for each file that is in the store
    :param keep: how long files stay to which nothing refers; never less than caches remember them, seconds
    """

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        rules: Rules,
        read: Callable[[Object], BinaryIO],
        who: Who,
        *,
        done: Callable[[File], None] = lambda file: None,
        progress: Progress = lambda what, done, of: None,
        told: Callable[[str], None] = lambda text: None,
        keep: int = site.STALE,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._rules = rules
        self._read = read
        self._who = who
        self._done = done
        self._progress = progress
        self._told = told
        self._keep = max(keep, site.STALE)
        self._report = Report()
        self._held: list[Held] = []
        # of the publish under way
        self._uploads: Uploads
        self._check: Callable[[], None]

    def plan(self, now: float, *, everything: bool = False, allow_removals: bool = False) -> Report:
        """What `publish` would do at `now`. Writes nothing anywhere; raises as `publish` would at its start."""
        due = self._due(everything)
        if due.anything() and not allow_removals:
            due.guard()
        return plan(self._catalog, self._store, due, int(now) - self._keep, self._progress)

    def publish(self, now: float, *, everything: bool = False, allow_removals: bool = False) -> Report:
        """Publish what has changed since the last time, or look at `everything`; delete what is due at `now`.

        :raises StoreError: and then what is published is whole, and the next publish goes on from there
        :raises TooManyRemovals: before anything is done
        :raises Leased: if another publisher is at work
        """
        due = self._due(everything)
        changed = due.anything()
        if changed and not allow_removals:
            due.guard()
        if changed or self.prunable(now):
            with self._alone():
                if changed:
                    self._uploads = Uploads(self._store, due.generation, self._read, self._check)
                    self._publish(now, due)
                self._delete_due(now)
        return self._report._replace(held=tuple(self._held))

    def prune(self, now: float) -> Report:
        """Delete what is due at `now`, and put nothing. Raises StoreError, Leased."""
        if self.prunable(now):
            with self._alone():
                self._delete_due(now)
        return self._report

    def prunable(self, now: float) -> int:
        """How many objects are due to be deleted at `now`."""
        return len(self._catalog.ledger.doomed(int(now) - self._keep))

    def start_anew(self) -> None:
        """The store has lost everything that was put into it: the next publish puts it again.

        :raises StoreError: if the store is somebody else's; then nothing is forgotten
        """
        is_unclaimed(self._store, self._catalog, lost=True)
        with self._catalog.transaction():
            self._catalog.ledger.forget_all()
            self._catalog.history.drop(_EVER)
            self._catalog.set("site", "")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """As the store's only publisher."""
        is_unclaimed(self._store, self._catalog)
        with lease.hold(self._store, self._catalog.identity, self._who, told=self._told) as held:
            self._check = held.check
            yield

    def _due(self, everything: bool) -> Due:
        return Due(self._catalog, self._rules, everything)

    def _publish(self, now: float, due: Due) -> None:
        catalog = self._catalog
        self._report = Report(generation=due.generation)
        if due.anew:  # also for the next publish, if this one comes to no end
            with catalog.transaction():
                catalog.set("site", "")
        for batch in batches(due.projects(self._progress), BATCH):
            self._put_projects(batch, due, now)
        static = due.static_change if self._put_static(due, now) else due.since("static")
        self._put_lists(due.lists())
        with catalog.transaction():
            catalog.set("published", due.change)
            catalog.set("static", static)
            catalog.set("site", self._rules.fingerprint)
            catalog.set("turned", 0)
            catalog.set("generation", due.generation)
            catalog.history.note(due.generation, due.change, int(now))

    # putting

    def _put_projects(self, batch: Sequence[Difference], due: Due, now: float) -> None:
        ledger = self._catalog.ledger
        failed = self._put_files(batch)
        settled = [found for found in batch if found.id not in failed]
        self._held += failed.values()
        self._intend([(found.id, found.pages) for found in settled])
        put = list(self._uploads.each(found.pages for found in settled))
        self._store.flush()
        with self._catalog.transaction():
            for found, done in zip(settled, put, strict=True):
                self._enter(found.id, done.entries)
            ledger.settle((found.id, found.serial) for found in settled)
            ledger.hold(failed)
            self._doom([key for found in settled for key in found.gone], now)
        paths = tuple(path for found in settled for path in due.invalidated(found))
        self._report = self._report._replace(
            projects=self._report.projects + len(settled), invalidations=self._report.invalidations + paths
        )

    def _put_files(self, batch: Sequence[Difference]) -> dict[int, Held]:
        """Put the files of these projects. Returns those of which one could not be had, by id."""
        wanted = [(found.id, found.files) for found in batch]
        self._intend(wanted, spare=[key for found in batch for key in found.spared])
        failed: dict[int, Held] = {}
        chains: list[tuple[Difference, list[Object]]] = []
        for found in batch:
            for _, of_file in groupby(found.files, lambda one: one.file):
                chain = list(of_file)
                if problem := self._not_ours(chain[0], found.id):
                    failed.setdefault(found.id, _held(found.name, problem))
                else:
                    chains.append((found, chain))
        entries: list[tuple[int, Chained]] = []
        whole: list[File] = []
        noted = time.monotonic()
        put = self._uploads.each(chain for _, chain in chains)
        for number, ((found, chain), done) in enumerate(zip(chains, put, strict=True), 1):
            entries.append((found.id, done))
            if done.error:
                failed.setdefault(found.id, _held(found.name, done.error))
            elif file := chain[0].file:
                whole.append(file)
            self._progress("files", number, len(chains))
            if time.monotonic() - noted > _NOTE:
                self._note(entries, whole)
                noted = time.monotonic()
        self._note(entries, whole)
        return failed

    def _note(self, put: list[tuple[int, Chained]], whole: list[File]) -> None:
        """These files are in the store, the `whole` ones with their metadata. Empties both lists."""
        if put:
            self._store.flush()
            with self._catalog.transaction():
                for project, done in put:
                    self._enter(project, done.entries)
            for file in whole:
                self._done(file)
        put.clear()
        whole.clear()

    def _put_static(self, due: Due, now: float) -> bool:
        """Put the changed files beside the index. Returns whether all could be."""
        held: list[Held] = []
        for batch in batches(due.static(), BATCH):
            self._make_way(batch)
            self._intend([(None, batch)])
            ours = []
            for one in batch:
                if problem := self._not_ours(one, None):
                    held.append(_held(one.key, problem))
                else:
                    ours.append([one])
            held += self._put_all(ours)
        with self._catalog.transaction():
            self._doom([one.key for one in due.removed_static()], now)
        self._held += held
        return not held

    def _make_way(self, wanted: Iterable[Object]) -> None:
        """Delete at once what no folder can hold beside `wanted`: the file `x`, where now is `x/y`, or the reverse."""
        ledger = self._catalog.ledger
        keys = [key for one in wanted for key, project in ledger.in_the_way(one.key) if project is None]
        if keys:
            with self._catalog.transaction():
                ledger.doom(keys, 0)
            self._delete(sorted(set(keys)))

    def _put_lists(self, objects: Sequence[Object]) -> None:
        """Put what belongs to no project, in this order."""
        self._intend([(None, objects)])
        self._put_all([objects])

    def _put_all(self, chains: Iterable[Sequence[Object]]) -> list[Held]:
        """Put what belongs to no project. Returns what could not be had."""
        put = list(self._uploads.each(chains))
        entries = [entry for done in put for entry in done.entries]
        if entries:
            self._store.flush()
            with self._catalog.transaction():
                self._enter(None, entries)
        return [_held(done.error.where, done.error) for done in put if done.error]

    def _intend(self, objects: Sequence[tuple[int | None, Sequence[Object]]], spare: Sequence[str] = ()) -> None:
        """Note what is about to be put; `spare`, and files, are no longer to be deleted."""
        if spare or any(of_project for _, of_project in objects):
            ledger = self._catalog.ledger
            with self._catalog.transaction():
                ledger.spare(spare)
                for project, of_project in objects:
                    ledger.intend(project, [(one.key, one.digest) for one in of_project if not one.file])
                    ledger.intend(project, [(one.key, one.digest) for one in of_project if one.file], spare=True)

    def _enter(self, project: int | None, entries: Sequence[Entry]) -> None:
        """These are in the store. Needs a transaction."""
        self._catalog.ledger.put(project, entries)
        puts, size = self._report.puts + len(entries), self._report.bytes + sum(entry.size for entry in entries)
        self._report = self._report._replace(puts=puts, bytes=size)

    def _not_ours(self, wanted: Object, project: int | None) -> ProjectError | None:
        """Why a file may not be put at its key: it is another project's, or in the way of one."""
        found = self._catalog.ledger.owner(wanted.key)
        if found and found[0] != project:
            return ProjectError(wanted.key, "is another project's file; rename one of the two")
        if found and wanted.file and found[1] != wanted.digest:  # of a generation from before the store lost everything
            return ProjectError(wanted.key, "has other bytes in the store, and caches keep those; go forward again")
        if wanted.static and self._catalog.ledger.in_the_way(wanted.key):
            return ProjectError(wanted.key, "cannot lie beside a file of the index; rename one of the two")
        return None

    # deleting

    def _doom(self, keys: Sequence[str], now: float) -> None:
        """Nothing refers to these any longer. Needs a transaction."""
        ledger = self._catalog.ledger
        files = ledger.doom([key for key in keys if is_file(key)], int(now))
        if files:
            self._catalog.history.end(int(now))
        ledger.doom([key for key in keys if not is_file(key)], 0)
        self._report = self._report._replace(doomed=self._report.doomed + files)

    def _delete_due(self, now: float) -> None:
        """Pages that are in no list any more, and files that no cache knows any more."""
        until = int(now) - self._keep
        if self._catalog.history.outlived(until):  # before the files that they need
            with self._catalog.transaction():
                self._catalog.history.drop(until)
        due = self._catalog.ledger.doomed(until)
        for _, keys in groupby(sorted(due, key=site.turn), key=site.turn):
            for some in batches(keys, BATCH):
                self._delete(some)

    def _delete(self, keys: Sequence[str]) -> None:
        with self._catalog.transaction():
            self._catalog.ledger.doubt(keys)
        self._check()
        self._store.delete(keys)
        with self._catalog.transaction():
            self._catalog.ledger.forget(keys)
        self._report = self._report._replace(deletes=self._report.deletes + len(keys))


def _held(name: str, error: ProjectError) -> Held:
    return Held(name, error.problem if name == error.where else f"{error.where}: {error.problem}")
