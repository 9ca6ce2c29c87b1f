"""Source -> catalog, incrementally: only what has changed is asked for, and what cannot be told stays as it is.

Each project is taken in whole, in a transaction: a sync that is killed goes on where it was. A source that fails
as a whole takes nothing away; that projects are gone is believed only of a listing that was had to its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from cdn_fallback.mirror import names
from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Applied
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import ProjectError, Source
from cdn_fallback.mirror.threads import each

BATCH = 200  # projects to a transaction
Progress = Callable[[str, int, int], None]
OWN = (["simple"], ["pypi"], ["last-modified"], ["robots.txt"])  # first parts of the keys of the index's own objects
_HASH = re.compile(r"sha256=[0-9a-f]{64}|(?!sha256=)[a-z][a-z0-9_-]{0,31}=[0-9a-f]{32,256}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)  # PEP 700


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
    waiting: int = 0  # files that are still being written, left for the next sync
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
    # where nothing is new, projects that failed the last time, or a killed sync, are still to be had
    listing = source.listing(str(catalog.get("listing", "")), whole=bool(catalog.get("incomplete")))
    if listing is None:
        return report
    known = catalog.content.tokens()
    asked = [name for name, token in listing.tokens.items() if not token or known.get(name) != token]
    gone = sorted(known.keys() - listing.tokens.keys())
    failed: list[Failure] = []
    if asked and not catalog.get("incomplete"):
        with catalog.transaction():
            catalog.set("incomplete", 1)
    for batch in batches(_had(source, catalog, asked, progress), BATCH):
        with catalog.transaction():
            for name, found in batch:
                if isinstance(found, ProjectError):
                    failed.append(Failure(name, found.problem))
                    continue
                try:
                    report = _take(catalog, report, name, found, listing.tokens[name])
                except ProjectError as exc:
                    failed.append(Failure(name, exc.problem))
            if report.changed:
                touched(catalog, now)
    with catalog.transaction():
        for name in gone:
            report = report.add(catalog.content.remove(name))
        report = report._replace(removed=len(gone), asked=len(asked), waiting=listing.waiting, failed=tuple(failed))
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
    project = vetted(found, name)
    taken = catalog.ledger.taken(file.key for file in project.files if file.key)
    applied = content.apply(project, token, taken)
    return report.add(applied)._replace(changed=report.changed + applied.project)


def touched(catalog: Catalog, now: float) -> None:
    """Readers can see a difference, since `now`: what `/last-modified` says (PEP 381)."""
    moment = datetime.fromtimestamp(now, timezone.utc)
    catalog.set("changed_at", moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def vetted(project: Project, name: str) -> Project:
    """The project without the files that must not be published: whatever the source, no name is trusted.

    :param name: what the source was asked for
    :raises ProjectError: if that is not what it gave
    """
    try:
        if project.name != name or names.normalised(project.display) != name:
            raise names.BadName("is not the one that was asked for, or has no normalised name")
        _check_text(project.status, project.status_reason)
        _check_json(project.meta, project.extra)
    except names.BadName as exc:
        raise ProjectError(name, f"the source gave a project that {exc.reason}; mend the source") from exc
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
    versions = tuple(version for version in project.versions if version.isprintable() and version.split() == [version])
    return project._replace(files=files, versions=versions, rejected=tuple(rejected))


def _check(file: File, project: str) -> None:
    names.version_of(file.filename, project)
    if bool(file.key) == bool(file.url):
        raise names.BadName("needs either a key or a URL")
    if file.key:
        _check_key(file)
    elif not _is_url(file.url):
        raise names.BadName("has a URL that is none")
    if file.provenance is not None and not _is_url(file.provenance):
        raise names.BadName("has a URL for its provenance that is none")
    for hashes in (file.hashes, file.core_metadata or {}):
        if not all(_HASH.fullmatch(f"{algorithm}={digest}") for algorithm, digest in hashes.items()):
            raise names.BadName("has hashes that are none")
    if file.size is not None and not 0 <= file.size < 1 << 63:
        raise names.BadName("has a size that is none")
    if file.upload_time is not None and not _TIME.fullmatch(file.upload_time):
        raise names.BadName("has an upload time that is none")
    _check_text(file.version, file.requires_python, file.yanked)
    _check_json(file.extra)


def _check_key(file: File) -> None:
    *folders, name = names.check_key(file.key).split("/")
    if name != file.filename or folders[:1] in OWN:
        raise names.BadName("has a key that does not end with its name, or is the index's own")
    # Where objects are files, `x` cannot stand beside `x/y`: no folder may have the name of a file.
    if any(names.is_distribution(folder.removesuffix(".metadata")) for folder in folders):
        raise names.BadName("has a key with a folder that is named as a file")
    if "sha256" not in file.hashes or (file.core_metadata is not None and "sha256" not in file.core_metadata):
        raise names.BadName("has no sha256")


def _is_url(url: str) -> bool:
    return url.startswith(("https://", "http://")) and url.isprintable() and " " not in url


def _check_text(*texts: str | None) -> None:
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise names.BadName("has text with half characters, which cannot be written") from None


def _check_json(*mappings: Mapping[str, Any]) -> None:
    for mapping in filter(None, mappings):
        try:
            json.dumps(dict(mapping), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise names.BadName(f"has unknown keys that are no JSON ({exc})") from None


Had = tuple[str, "Project | ProjectError | None"]


def _had(source: Source, catalog: Catalog, asked: Sequence[str], progress: Progress) -> Iterator[Had]:
    """What the source says of each project, asked by several threads, a bounded number ahead."""

    def ask(project: tuple[str, Project | None]) -> Had:
        name, known = project
        try:
            return name, source.project(name, known)
        except ProjectError as exc:
            return name, exc

    known = ((name, catalog.content.project(name)) for name in asked)
    for number, found in enumerate(each(source.workers, ask, known), 1):
        yield found
        progress("projects", number, len(asked))
