"""Where the site is put: one small protocol, and the store that is a folder.

Only a store knows how its objects are kept; it raises `StoreError`. A folder keeps no headers: what serves it knows
them from the keys (`nginx`, `serve`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.errors import MirrorError
from cdn_fallback.mirror.site import Headers

_CHUNK = 1 << 20  # bytes
# Names with a leading dot are nobody's key, and no server is to send them.
MARKER = ".cdn-fallback"
_SCRATCH = ".cdn-fallback.new"


class StoreError(MirrorError):
    """The store did not do what it was asked: says where, what and what to do. What it held, it holds."""


class Body(Protocol):
    """What an object's bytes are read from, to the empty read at their end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


class Stored(NamedTuple):
    """An object as the store lists it."""

    key: str
    size: int  # bytes


class Store(Protocol):
    """Objects by key. Every method raises StoreError.

    What a body raises while it is read passes, and nothing is put; but no OSError, which would be the store's own.
    """

    def put(self, key: str, body: bytes | Body, headers: Headers) -> int:
        """The object is there or as it was before, never half; readers see the one or the other. Returns its size."""

    def delete(self, keys: Iterable[str]) -> None:
        """They are gone, also those that were not there."""

    def list(self) -> Iterator[Stored]:
        """Every object, in any order."""

    def flush(self) -> None:
        """What was put and deleted so far outlives a power cut."""

    def owner(self) -> str | None:
        """The identity of the catalog that the store belongs to, or None if it belongs to none."""

    def claim(self, identity: str) -> None:
        """From now on it belongs to that catalog."""


class DirectoryStore:
    """A folder: each object is the file at its key. A new one is written beside it and renamed (POSIX rename)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = str(root)
        self._scratch = os.path.join(self._root, _SCRATCH)

    def put(self, key: str, body: bytes | Body, headers: Headers) -> int:
        path = f"{self._root}/{key}"
        with self._told(path):
            handle = self._create()
            try:
                try:
                    size = _written(handle, body)
                finally:
                    os.close(handle)
                self._rename(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(self._scratch)
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
                    elif folder != self._root or entry.name not in (MARKER, _SCRATCH):
                        key = os.path.relpath(entry.path, self._root)
                        yield Stored(key, entry.stat(follow_symlinks=False).st_size)

    def flush(self) -> None:
        # One for all: fsync of each file would cost ten times what writing it does (FACTS, part B).
        os.sync()

    def owner(self) -> str | None:
        try:
            return Path(self._root, MARKER).read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise StoreError(f"{self._root}/{MARKER}", f"cannot be read: {exc}") from exc

    def claim(self, identity: str) -> None:
        self.put(MARKER, f"{identity}\n".encode("ascii"), Headers("text/plain", "no-store"))

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            return os.open(self._scratch, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._root, exist_ok=True)
            return os.open(self._scratch, flags, 0o666)

    def _rename(self, path: str) -> None:
        try:
            os.rename(self._scratch, path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            try:
                os.mkdir(folder)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
            os.rename(self._scratch, path)
        except IsADirectoryError:
            os.rmdir(path)  # left empty by a delete that was killed
            os.rename(self._scratch, path)

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


def open_store(url: str, where: str, folder: Path) -> Store:
    """The store at `url`; relative paths are relative to `folder`. Raises ConfigError naming the file `where`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    path = unquote(parts.path)
    if parts.scheme != "file":
        problem = f"{url} is no store that this version knows; write file:///srv/mirror"
        raise ConfigError(where, "[store] url", problem)
    is_plain = path.strip("/") and path.isprintable()
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not is_plain:
        raise ConfigError(where, "[store] url", f"{url} names no folder of this machine; write file:///srv/mirror")
    return DirectoryStore(folder / path)
