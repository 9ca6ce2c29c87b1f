"""Source -> catalog, incrementally: only what has changed is asked for, and what cannot be told stays as it is.

Each project is taken in whole, in a transaction: a sync that is killed goes on where it was. A source that fails
as a whole takes nothing away; that projects are gone is believed only of a listing that was had to its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from typing import NamedTuple

from cdn_fallback.mirror import names
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Applied
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import ProjectError, Source, SourceError

BATCH = 200  # projects to a transaction
Progress = Callable[[str, int, int], None]


class Failure(NamedTuple):
    """A project that could not be read: it stays as it is known, the next sync asks again."""

    name: str
    why: str


class Report(NamedTuple):
    """What a sync found."""

    asked: int = 0  # projects
    changed: int = 0
    removed: int = 0
    files_added: int = 0
    files_changed: int = 0
    files_removed: int = 0
    rejected: tuple[tuple[str, Rejection], ...] = ()  # (project, what) that was not known before
    failed: tuple[Failure, ...] = ()

    def add(self, applied: Applied) -> Report:
        """With one more project."""
        return self._replace(
            files_added=self.files_added + applied.added,
            files_changed=self.files_changed + applied.changed,
            files_removed=self.files_removed + applied.removed,
        )


def sync(source: Source, catalog: Catalog, now: float, progress: Progress = lambda what, done, of: None) -> Report:
    """Bring the catalog up to what the source says at `now` (Unix time).

    :raises SourceError: if the source as a whole cannot be read or believed; what was taken in before is kept
    """
    report = Report()
    told = set(catalog.content.rejections())
    listing = source.listing(str(catalog.get("listing", "")))
    if listing is None and not catalog.get("incomplete"):
        return report
    if listing is None:  # nothing new there, but projects that failed are still to be had
        listing = source.listing("")
        assert listing is not None, "a source answers a first listing"
    known = catalog.content.tokens()
    asked = [name for name, token in listing.tokens.items() if not token or known.get(name) != token]
    gone = sorted(known.keys() - listing.tokens.keys())
    failed: list[Failure] = []
    for batch in _batches(_had(source, catalog, asked, progress)):
        with catalog.transaction():
            for name, found in batch:
                if isinstance(found, ProjectError):
                    failed.append(Failure(name, found.problem))
                    continue
                report = _take(catalog, report, name, found, listing.tokens[name])
            if report.changed:
                touched(catalog, now)
    with catalog.transaction():
        for name in gone:
            report = report.add(catalog.content.remove(name))
        report = report._replace(removed=len(gone), asked=len(asked), failed=tuple(failed))
        catalog.content.reject("", listing.rejected)
        catalog.set("incomplete", 1 if failed else 0)
        catalog.set("listing", listing.state)
        catalog.set("serial", listing.serial or 0)
        if report.changed or gone:
            touched(catalog, now)
    fresh = [one for one in catalog.content.rejections() if one not in told]
    return report._replace(rejected=tuple(fresh))


def _take(catalog: Catalog, report: Report, name: str, found: Project | None, token: str) -> Report:
    content = catalog.content
    if found is None:
        content.confirm(name, token)
        return report
    project = vetted(found)
    taken = catalog.ledger.taken(file.key for file in project.files if file.key)
    applied = content.apply(project, token, taken)
    return report.add(applied)._replace(changed=report.changed + applied.project)


def touched(catalog: Catalog, now: float) -> None:
    """Readers can see a difference, since `now`: what `/last-modified` says (PEP 381)."""
    moment = datetime.fromtimestamp(now, timezone.utc)
    catalog.set("changed_at", moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def vetted(project: Project) -> Project:
    """The project without the files that must not be published: whatever the source, no name is trusted."""
    if names.normalised(project.name) != project.name or names.normalised(project.display) != project.name:
        raise SourceError(project.name, "the source gave a project name that is not normalised; mend the source")
    good: dict[str, File] = {}
    rejected = list(project.rejected)
    for file in project.files:
        try:
            _check(file, project.name)
            if file.filename in good:
                raise names.BadName("is there twice")
        except names.BadName as exc:
            rejected.append(Rejection(file.filename, exc.reason))
        else:
            good[file.filename] = file
    files = tuple(good[name] for name in sorted(good))
    return project._replace(files=files, rejected=tuple(rejected))


def _check(file: File, project: str) -> None:
    names.version_of(file.filename, project)
    if bool(file.key) == bool(file.url):
        raise names.BadName("needs either a key or a URL")
    if file.key:
        if names.check_key(file.key).rpartition("/")[2] != file.filename or file.key.startswith(("simple/", "pypi/")):
            raise names.BadName("has a key that does not end with its name, or is the index's own")
        if "sha256" not in file.hashes or (file.core_metadata is not None and "sha256" not in file.core_metadata):
            raise names.BadName("has no sha256")
    elif not file.url.startswith(("https://", "http://")) or not file.url.isprintable() or " " in file.url:
        raise names.BadName("has a URL that is none")


Had = tuple[str, "Project | ProjectError | None"]


def _had(source: Source, catalog: Catalog, asked: Sequence[str], progress: Progress) -> Iterator[Had]:
    """What the source says of each project, asked by several threads, a bounded number ahead."""

    def ask(name: str, known: Project | None) -> Project | ProjectError | None:
        try:
            return source.project(name, known)
        except ProjectError as exc:
            return exc

    with ThreadPoolExecutor(source.workers) as pool:
        waiting: deque[tuple[str, Future[Project | ProjectError | None]]] = deque()
        try:
            for number, name in enumerate(asked):
                waiting.append((name, pool.submit(ask, name, catalog.content.project(name))))
                if len(waiting) > 4 * source.workers:
                    name, future = waiting.popleft()
                    yield name, future.result()
                    progress("projects", number, len(asked))
            while waiting:
                name, future = waiting.popleft()
                yield name, future.result()
                progress("projects", len(asked) - len(waiting), len(asked))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _batches(items: Iterable[Had]) -> Iterator[list[Had]]:
    batch: list[Had] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
