"""The store that is a folder: each object is the file at its key."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores import MARKER, Body, Head, Mark, Opened, Put, Stored, StoreError

_CHUNK = 1 << 20  # bytes
_SCRATCH = ".cdn-fallback.new"
_LOCK = ".cdn-fallback.lock"
_MARK_SCRATCH = ".cdn-fallback.mark"  # another one: the mark is written while objects are
_OURS = (MARKER, _SCRATCH, _LOCK, _MARK_SCRATCH)


class DirectoryStore:
    """A new object is written beside its key and renamed (POSIX rename). It keeps neither headers nor digests."""

    workers = 1

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = self._root = str(root)
        self._scratch = os.path.join(self._root, _SCRATCH)

    def put(self, key: str, body: bytes | Body, headers: Headers, digest: bytes) -> Put:
        return Put(self._put(key, body, self._scratch))

    def _put(self, key: str, body: bytes | Body, scratch: str) -> int:
        path = f"{self._root}/{key}"
        with self._told(path):
            handle = self._create(scratch)
            try:
                try:
                    size = _written(handle, body)
                finally:
                    os.close(handle)
                self._rename(scratch, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(scratch)
                raise
        return size

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = f"{self._root}/{key}"
            with self._told(path):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(path)
                self._prune(os.path.dirname(path))

    def list(self) -> Iterator[Stored]:
        pending = [self._root] if os.path.isdir(self._root) else []
        while pending:
            folder = pending.pop()
            with self._told(folder), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif folder != self._root or entry.name not in _OURS:
                        key = os.path.relpath(entry.path, self._root)
                        yield Stored(key, entry.stat(follow_symlinks=False).st_size)

    def flush(self) -> None:
        # One for all: fsync of each file would cost ten times what writing it does (FACTS, part B).
        os.sync()

    def head(self, key: str) -> Head | None:
        path = f"{self._root}/{key}"
        with self._told(path):
            try:
                return Head(os.stat(path, follow_symlinks=False).st_size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, key: str) -> Opened | None:
        path = f"{self._root}/{key}"
        with self._told(path):
            try:
                return _Opened(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), path)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def mark(self) -> Mark | None:
        path = f"{self._root}/{MARKER}"
        with self._told(path):
            try:
                with open(path, "rb") as file:
                    body = file.read(1 << 16)
                    return Mark(body, _tag(body), os.fstat(file.fileno()).st_mtime)
            except FileNotFoundError:
                return None

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        path = f"{self._root}/{_LOCK}"
        with self._told(path):
            os.makedirs(self._root, exist_ok=True)
            with open(path, "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = self.mark()
                if (known.tag if known else None) != tag:
                    return None
                self._put(MARKER, body, f"{self._root}/{_MARK_SCRATCH}")
        return _tag(body)

    def _create(self, scratch: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            return os.open(scratch, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._root, exist_ok=True)
            return os.open(scratch, flags, 0o666)

    def _rename(self, scratch: str, path: str) -> None:
        try:
            os.rename(scratch, path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            try:
                os.mkdir(folder)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
            os.rename(scratch, path)
        except IsADirectoryError:
            os.rmdir(path)  # left empty by a delete that was killed
            os.rename(scratch, path)

    def _prune(self, folder: str) -> None:
        """Remove the folders that have become empty."""
        while len(folder) > len(self._root):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    return
                raise
            folder = os.path.dirname(folder)

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StoreError(str(exc.filename2 or exc.filename or path), _advice(exc)) from exc


class _Opened:
    """A file of the folder."""

    def __init__(self, handle: int, path: str) -> None:
        self._file = open(handle, "rb")  # noqa: SIM115
        self._path = path
        self.head = Head(os.fstat(handle).st_size)

    def read(self, size: int, /) -> bytes:
        """As a file's, with the store's error."""
        try:
            return self._file.read(size)
        except OSError as exc:
            raise StoreError(self._path, _advice(exc)) from exc

    def close(self) -> None:
        """The file is closed."""
        self._file.close()


def _tag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _written(handle: int, body: bytes | Body) -> int:
    if isinstance(body, bytes):
        return _all(handle, body)
    size = 0
    while chunk := body.read(_CHUNK):
        size += _all(handle, chunk)
    return size


def _all(handle: int, data: bytes) -> int:
    done = os.write(handle, data)
    while done < len(data):  # a disk that is nearly full takes a part
        done += os.write(handle, memoryview(data)[done:])
    return done


def _advice(exc: OSError) -> str:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left; make some and run again. What was published before is whole"
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot be written ({exc.strerror}); let the user that publishes own the folder"
    if exc.errno == errno.EFBIG:
        return "is larger than a file may be here; raise that limit (ulimit -f) and run again"
    if exc.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP):
        return f"something else stands in its way ({exc.strerror}); take it out of the store"
    return exc.strerror or str(exc)
