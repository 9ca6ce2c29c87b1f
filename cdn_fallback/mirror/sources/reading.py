"""One project of a tree of distributions: its files become values, and only those that changed are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO

from cdn_fallback.mirror import names
from cdn_fallback.mirror.distributions import Damaged, inspect
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.sources.walk import YANKED, open_inside, state_of

MAX_REASON = 500  # characters of a yank's reason
_CHUNK = 1 << 20  # bytes
_DAY = 24 * 3600.0  # s; a time farther ahead than that is wrong, and not worth waiting for
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Folder:
    """The tree, and how it is read. Paths are relative to `root`, and have passed `names.check_key`."""

    root: str
    prefix: str  # a file's key is PREFIX/PATH
    settle: float  # s
    clock: Callable[[], float]  # Unix time in s

    def key(self, path: str) -> str:
        """The key under which the file at `path` is published."""
        return f"{self.prefix}/{path}"

    def path(self, file: File) -> str:
        """The way back from `key`; raises ProjectError for a file that is not of this tree."""
        try:
            names.check_key(file.key)
        except names.BadName as exc:
            raise ProjectError(file.key, exc.reason) from exc
        if not file.key.startswith(self.key("")):
            raise ProjectError(file.key, f"is not of this source: its keys begin with {self.key('')}")
        return file.key.removeprefix(self.key(""))

    def open(self, path: str) -> BinaryIO:
        """The regular file at `path`; raises ProjectError where there is none inside the tree."""
        try:
            return open_inside(self.root, path)
        except OSError as exc:
            raise _unreadable(path, exc) from exc

    def status(self, path: str) -> os.stat_result:
        """The state of the file, or of what it links to; raises ProjectError where there is none."""
        try:
            return os.stat(os.path.join(self.root, path))
        except OSError as exc:
            raise _unreadable(path, exc) from exc

    def settled(self, status: os.stat_result, now: float) -> bool:
        """Whether the file has been left alone for so long that it is whole."""
        return not -_DAY < now - status.st_mtime < self.settle

    def yanked(self, path: str) -> str:
        """The reason in the FILE.yanked beside the file at `path`; empty for none that can be read."""
        try:
            with open_inside(self.root, path + YANKED) as file:
                line = file.read(4 * MAX_REASON).partition(b"\n")[0]  # UTF-8 has at most four bytes to a character
        except OSError:
            return ""  # a link out of the tree, say: the file is withdrawn all the same
        return "".join(c for c in line.decode("utf-8", "replace") if c.isprintable()).strip()[:MAX_REASON]


def _unreadable(path: str, exc: OSError) -> ProjectError:
    # Also for one that has gone: it may be the disk that has, and nothing must look removed that was only unseen.
    return ProjectError(path, f"cannot be read now ({exc.strerror or exc}); the next run tries again")


class _Growing(Exception):
    """The file is still being written."""


class Reading:
    """A project's files, taken in one by one in the order of their keys."""

    def __init__(self, folder: Folder, project: str, known: Project | None) -> None:
        self._folder = folder
        self._project = project
        self._known = known
        self._before = {file.filename: file for file in known.files} if known else {}
        self._files: dict[str, File] = {}
        self._names: dict[str, str] = {}  # of the files that were read: file name -> the project's in its metadata
        self._rejected: list[Rejection] = []

    def add(self, path: str, *, yanked: bool) -> None:
        """Take in the file at `path`. Raises ProjectError if it cannot be read now."""
        filename = path.rpartition("/")[2]
        try:
            file = self._file(path, filename)
        except _Growing:
            if filename in self._files or filename not in self._before:
                return  # left for the next run
            file = self._before[filename]
        except (Damaged, names.BadName) as exc:
            self._rejected.append(Rejection(path, exc.reason))
            return
        first = self._files.get(filename)
        if first is None:
            reason = self._folder.yanked(path) if yanked else None
            self._files[filename] = file if file.yanked == reason else file._replace(yanked=reason)
        elif first.hashes != file.hashes:
            why = f"has the name of {first.key}, but other bytes; remove one of them"
            self._rejected.append(Rejection(path, why))

    def result(self) -> Project:
        """The project as far as it was taken in."""
        files = tuple(self._files[name] for name in sorted(self._files))
        versions = names.in_order(file.version for file in files)
        return Project(self._project, self._display(files), files, versions, rejected=tuple(sorted(self._rejected)))

    def _file(self, path: str, filename: str) -> File:
        version = names.version_of(filename, self._project)
        status = self._folder.status(path)
        first, before = self._files.get(filename), self._before.get(filename)
        if first and first.state == state_of(status):
            return first  # the same file by another name
        if before and before.state == state_of(status):
            return before._replace(key=self._folder.key(path), version=version)
        with self._folder.open(path) as opened:
            try:
                return self._whole(opened, path, version, before)
            except OSError as exc:
                raise _unreadable(path, exc) from exc

    def _whole(self, opened: BinaryIO, path: str, version: str, before: File | None) -> File:
        status = os.fstat(opened.fileno())
        if not self._folder.settled(status, self._folder.clock()):
            raise _Growing
        found: File | Damaged
        try:
            found = self._read(opened, path, version, before)
        except Damaged as exc:
            found = exc
        if state_of(os.fstat(opened.fileno())) != state_of(status):
            raise _Growing  # whatever else it was found to be
        if isinstance(found, Damaged):
            raise found
        return found._replace(state=state_of(status))

    def _read(self, opened: BinaryIO, path: str, version: str, before: File | None) -> File:
        filename, status = path.rpartition("/")[2], os.fstat(opened.fileno())
        digest = hashlib.sha256()
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
        told = inspect(opened, filename, self._project)
        self._names[filename] = told.name
        hashes = {"sha256": digest.hexdigest()}
        metadata = {"sha256": hashlib.sha256(told.metadata).hexdigest()}
        return File(
            filename,
            version,
            self._folder.key(path),
            hashes=hashes,
            size=status.st_size,
            # What is published stays as old as it is, whoever touches the file.
            upload_time=before.upload_time if before and before.hashes == hashes else _time(status.st_mtime_ns),
            requires_python=told.requires_python,
            core_metadata=metadata if filename.endswith(names.WHEEL) else None,
        )

    def _display(self, files: tuple[File, ...]) -> str:
        """The project's name as its newest file writes it."""
        if not files:
            return self._known.display if self._known else self._project
        newest = max(files, key=_age)
        if newest.filename in self._names:
            return self._names[newest.filename]
        if self._known and max(self._known.files, key=_age).filename == newest.filename:
            return self._known.display
        try:  # what was the newest has gone
            with self._folder.open(self._folder.path(newest)) as opened:
                return inspect(opened, newest.filename, self._project).name
        except (Damaged, OSError, ProjectError):  # it is being written
            return names.name_of(newest.filename, self._project)


def _age(file: File) -> tuple[str, str]:
    return file.upload_time or "", file.filename


def _time(nanoseconds: int) -> str | None:
    """Unix time as PEP 700 writes it; None for what is in no calendar."""
    try:
        moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
    return moment.isoformat(timespec="microseconds") + "Z"
