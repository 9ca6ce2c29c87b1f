"""A source and a store in memory, and a trap that kills at the n-th step of what they and the catalog do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cdn_fallback.mirror import names
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Static
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.site import Headers, Object, Rules
from cdn_fallback.mirror.sources import Listing, ProjectError
from cdn_fallback.mirror.stores import Body, Head, Mark, Opened, Put, Stored, StoreError
from cdn_fallback.mirror.sync import sync

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
RULES = Rules("https://index.example/")
WHO = Who("a test", "this very machine")


class Killed(BaseException):
    """Nobody may catch it: a `kill -9`."""


class Trap:
    """Called before and after everything that can be seen from outside; kills at the step number `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.steps = 0
        self.dead = False

    def __call__(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.dead = True
            raise Killed


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakeSource:
    """Projects in memory. `open` gives the bytes of files, `read` those of everything that a publish may want."""

    workers = 1

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.static: dict[str, Static] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken: dict[str, BaseException] = {}  # by project: what `project` raises
        self.unreadable: set[str] = set()  # file names
        self.freed: list[str] = []  # object keys
        self.rejected: tuple[Rejection, ...] = ()
        self.serial: int | None = None
        self.same = False  # nothing has changed since the last listing
        self.trap = Trap()

    def file(self, filename: str, content: bytes = b"", *, metadata: bytes | None = None, **fields: Any) -> File:
        """A File with these bytes, under packages/, and with the metadata's hash."""
        for blob in (content, metadata):
            if blob is not None:
                self.blobs[sha256(blob)] = blob
        core = {} if metadata is None else {"core_metadata": {"sha256": sha256(metadata)}}
        given = {"key": f"packages/{filename}", "hashes": {"sha256": sha256(content)}, "size": len(content), **core}
        return File(filename, **{**given, **fields})

    def put(self, display: str, *files: File, **fields: Any) -> Project:
        """The project is this from now on."""
        name = names.normalised(display)
        versions = names.in_order(names.version_of(file.filename, name) for file in files)
        ordered = tuple(sorted(file._replace(version=names.version_of(file.filename, name)) for file in files))
        self.projects[name] = Project(name, display, ordered, **{"versions": versions, **fields})
        return self.projects[name]

    def put_static(self, key: str, content: bytes) -> None:
        """A file beside the index is this from now on."""
        self.blobs[sha256(content)] = content
        self.static[key] = Static(key, f"/{key}", bytes.fromhex(sha256(content)), len(content), sha256(content))

    # a Source

    def listing(self, state: str, *, whole: bool = False) -> Listing | None:
        if self.same and state and not whole:
            return None
        tokens = {name: sha256(repr(project).encode()) for name, project in self.projects.items()}
        return Listing(tokens, self.serial, self.rejected, state="some")

    def project(self, name: str, known: Project | None) -> Project | None:
        self.asked.append(name)
        self.trap()
        if name in self.broken:
            raise self.broken[name]
        return self.projects[name]

    def open(self, file: File) -> BinaryIO:
        if file.filename in self.unreadable:
            raise ProjectError(file.filename, "cannot be had")
        return io.BytesIO(self.blobs[file.hashes["sha256"]])

    def published(self, file: File) -> None:
        self.freed.append(file.object_key)

    def close(self) -> None:
        pass

    # for a Publisher

    def read(self, wanted: Object) -> BinaryIO:
        if wanted.static:
            if wanted.key in self.unreadable:
                raise ProjectError(wanted.key, "cannot be had")
            return io.BytesIO(self.blobs[wanted.static.sha256.hex()])
        assert wanted.file
        if wanted.key == wanted.file.object_key:
            return self.open(wanted.file)
        assert wanted.file.core_metadata
        return io.BytesIO(self.blobs[wanted.file.core_metadata["sha256"]])

    def sync(self, catalog: Catalog, now: float = NOW) -> Any:
        """Source and static files -> catalog."""
        report = sync(self, catalog, now)
        known = {one.key: one for one in catalog.content.static()}
        changes = [one for key, one in self.static.items() if known.get(key) != one]
        changes += [one._replace(removed=True) for key, one in known.items() if key not in self.static]
        if changes:
            with catalog.transaction():
                catalog.content.apply_static(changes)
        return report


class FakeStore:
    """Objects in memory; `calls` are those that it was asked for, in order."""

    workers = 1
    where = "store://fake"

    def __init__(self, trap: Trap | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, Headers] = {}
        self.marked: bytes | None = None
        self.calls: list[tuple[str, str]] = []
        self.trap = trap or Trap()
        self.full_at: int | None = None  # from this call on there is no space left
        self.ever: defaultdict[str, set[str]] = defaultdict(set)  # key -> the digests of what it ever held

    def copy(self, trap: Trap) -> FakeStore:
        """One that holds the same."""
        other = FakeStore(trap)
        other.objects, other.headers, other.marked = dict(self.objects), dict(self.headers), self.marked
        other.ever.update({key: set(digests) for key, digests in self.ever.items()})
        return other

    def puts(self) -> list[str]:
        return [key for what, key in self.calls if what == "put"]

    def deletes(self) -> list[str]:
        return [key for what, key in self.calls if what == "delete"]

    @contextlib.contextmanager
    def _call(self, what: str, key: str = "") -> Iterator[None]:
        self.calls.append((what, key))
        if self.trap.dead:  # what other threads were about to do
            raise Killed
        self.trap()
        if self.full_at is not None and len(self.calls) >= self.full_at:
            raise StoreError(key, "no space left")
        yield
        self.trap()

    # a Store

    def put(self, key: str, body: bytes | Body, headers: Headers, digest: bytes) -> Put:
        content = body if isinstance(body, bytes) else b"".join(iter(lambda: body.read(3), b""))
        with self._call("put", key):
            self.objects[key], self.headers[key] = content, headers
            self.ever[key].add(sha256(content))
        return Put(len(content), _tag(content))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._call("delete", key):
                self.objects.pop(key, None)
                self.headers.pop(key, None)

    def list(self) -> Iterator[Stored]:
        self.calls.append(("list", ""))
        yield from [Stored(key, len(content), _tag(content)) for key, content in self.objects.items()]

    def flush(self) -> None:
        with self._call("flush"):
            pass

    def head(self, key: str) -> Head | None:
        if (content := self.objects.get(key)) is None:
            return None
        return Head(len(content), _tag(content), self.headers[key], hashlib.sha256(content).digest())

    def open(self, key: str) -> Opened | None:
        return FakeOpened(self, key) if key in self.objects else None

    def mark(self) -> Mark | None:
        self.calls.append(("mark", ""))
        return None if self.marked is None else Mark(self.marked, _tag(self.marked), time.time())

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        if tag != (None if self.marked is None else _tag(self.marked)):
            return None
        if threading.current_thread() is not threading.main_thread():  # renewed or given back: no step of a publish
            if self.trap.dead:
                raise StoreError(self.where, "is out of reach of the dead")
            self.marked = body
        else:
            with self._call("set_mark"):
                self.marked = body
        return _tag(body)


class FakeOpened(io.BytesIO):
    """An object of it, being read."""

    def __init__(self, store: FakeStore, key: str) -> None:
        super().__init__(store.objects[key])
        head = store.head(key)
        assert head
        self.head = head


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class TrappedCatalog(Catalog):
    """One whose commits are steps of a trap, too; and which does not wait for the disk."""

    trap = Trap()

    @classmethod
    def trapped(cls, path: Path, trap: Trap | None = None) -> TrappedCatalog:
        catalog = cls.open(path)
        assert isinstance(catalog, cls)
        catalog._connection.execute("PRAGMA synchronous = OFF")
        catalog.trap = trap or Trap()
        return catalog

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self.trap()  # the commit is lost
        self.trap()


def published(
    source: FakeSource, catalog: Catalog, store: FakeStore, now: float = NOW, *, rules: Rules = RULES, **options: bool
) -> Report:
    """What a publish into `store` did."""
    store.trap.dead = False
    publisher = Publisher(catalog, store, rules, source.read, WHO, done=source.published)
    return publisher.publish(now, **options)
