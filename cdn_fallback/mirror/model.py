"""What an index says, as values: projects and their files, each field with the standard that defines it.

Sources make these, the catalog keeps them, `render` writes them out. Nothing here is trusted to be harmless:
names pass `names` before they get in.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = MappingProxyType({})


class File(NamedTuple):
    """One file of a project.

    Its bytes are either published by us under `key`, or stay where the source has them, at `url`: one of the two
    is set, the other empty.
    """

    filename: str  # PEP 691 `filename`
    version: str = ""  # the version that the name tells, as PEP 440 writes it; empty where none can be told
    key: str = ""  # the object key under which we publish it, as "packages/a/b/x-1.0.tar.gz"
    url: str = ""  # PEP 691 `url`, absolute
    hashes: Mapping[str, str] = NOTHING  # PEP 691 `hashes`: algorithm -> lower-case hex
    size: int | None = None  # PEP 700 `size`, bytes
    upload_time: str | None = None  # PEP 700 `upload-time`, as "2024-01-31T12:00:00.000000Z"
    requires_python: str | None = None  # PEP 345, PEP 503 `data-requires-python`
    yanked: str | None = None  # PEP 592: the reason; empty for one without a reason, None for a file that is not
    core_metadata: Mapping[str, str] | None = None  # PEP 658, 714: hashes of FILE.metadata; empty for none told
    provenance: str | None = None  # PEP 740: the absolute URL of the provenance object
    extra: Mapping[str, Any] = NOTHING  # every other key that the source's JSON has for the file
    state: str = ""  # what the source wants to be told when it is asked for the project again
    moved: bool = False  # the catalog's: `key` once held other bytes, see `object_key`

    @property
    def object_key(self) -> str:
        """Where the bytes are published; empty for those that stay at the source.

        Files are cached for ever, so an object never changes: the second file of a name gets a place of its own.
        """
        if not self.moved:
            return self.key
        folder, slash, name = self.key.rpartition("/")
        return f"{folder}{slash}{self.hashes['sha256'][:16]}/{name}"


class Project(NamedTuple):
    """A project as its source has it now.

    `files` are sorted by file name, which is unique in a project. `rejected` are those that the source has and that
    cannot be published: they are told to the operator, and nobody else.
    """

    name: str  # normalised (PEP 503)
    display: str  # as its owners write it
    files: tuple[File, ...] = ()
    versions: tuple[str, ...] = ()  # PEP 700 `versions`, in the order of PEP 440
    serial: int | None = None  # the source's own `_last-serial`; None where it does not count
    status: str | None = None  # PEP 792 `project-status.status`; None means "active"
    status_reason: str | None = None  # PEP 792 `project-status.reason`
    meta: Mapping[str, Any] = NOTHING  # unknown keys of the source's `meta`
    extra: Mapping[str, Any] = NOTHING  # unknown keys of the source's page
    state: str = ""  # what the source wants to be told when it is asked for the project again
    rejected: tuple[Rejection, ...] = ()


class Rejection(NamedTuple):
    """Something that the source has and that is not published, and why."""

    what: str  # a path or a file name, as the source has it: escape it before printing
    why: str  # a phrase, as "is no zip archive"


QUARANTINED = "quarantined"  # PEP 792: such a project offers no files
