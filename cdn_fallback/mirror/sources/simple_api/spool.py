"""Files that were fetched and are not published yet: a folder of them, each under its sha256.

A download goes into ``<digest>.part`` and gets its name when every hash is right; one that broke off goes on there,
in this run or in the next. Where the bytes come from is the caller's business.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cdn_fallback.mirror.sources import SourceError

CHUNK = 1024 * 1024  # bytes
SHA256 = "sha256"

_blake2b_256 = partial(hashlib.blake2b, digest_size=32)  # warehouse's


def _hashlib(name: str) -> Callable[[], Any]:
    return partial(hashlib.new, name, usedforsecurity=False)


# What proves that bytes are the right ones, the best first: a file needs one of these.
STRONG: Mapping[str, Callable[[], Any]] = {
    "sha512": _hashlib("sha512"),
    "sha384": _hashlib("sha384"),
    SHA256: _hashlib(SHA256),
    "sha224": _hashlib("sha224"),
    "blake2b": hashlib.blake2b,
    "blake2b_256": _blake2b_256,
    "blake2b-256": _blake2b_256,
}
# These prove nothing, but must be right where they stand beside one that does: they are published, too.
_WEAK: Mapping[str, Callable[[], Any]] = {"sha1": _hashlib("sha1"), "md5": _hashlib("md5")}
_HEX = re.compile(r"[0-9a-f]{32,128}")


class Mismatch(Exception):
    """The bytes are not those that were promised: `expected` and `got`, as ``sha256:...`` or ``... bytes``."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got


class Part(NamedTuple):
    """What a server gives of a file: `chunks` from byte `start` on; the file has `total` bytes, if it said so."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


# From which byte on -> what is given: from there, or from the first. Raises what it likes but OSError; Mismatch if it
# sees by itself that the bytes are wrong.
Get = Callable[[int], contextlib.AbstractContextManager[Part]]


class Held(NamedTuple):
    """A file in the spool. `hashes` holds those that were checked, and its sha256."""

    path: Path
    hashes: Mapping[str, str]
    size: int  # bytes


class Spool:
    """The folder. Every method may be called by several threads; two that want the same file fetch it once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}  # name -> (its lock, how many hold or want it)

    def path(self, sha256: str) -> Path:
        """Where the file with this sha256 (hex) lies, if it is here. ValueError for what is none."""
        if not _HEX.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no digest")
        return self._folder / sha256

    def remove(self, sha256: str) -> None:
        """The file is not needed any more. It is no error if it is not here."""
        with contextlib.suppress(OSError):  # what stays is fetched in vain, and lies there: no harm
            self.path(sha256).unlink()

    def fetch(self, hashes: Mapping[str, str], size: int | None, get: Get) -> Held:
        """The file with these `hashes`, of which one at least is in STRONG, from the spool or from `get`.

        :param size: bytes; ``None`` if nobody said
        :raises Mismatch: if it came with another hash, twice
        :raises SourceError: if the folder cannot take it
        """
        wanted = {name: digest for name, digest in hashes.items() if name in STRONG or name in _WEAK}
        best = next(name for name in STRONG if name in wanted)
        with self._alone(wanted.get(SHA256, wanted[best])) as part:
            if SHA256 in wanted and (held := self._here(wanted, size)):
                return held
            try:
                return self._fetched(part, wanted, size, get)
            except Mismatch:
                # the part may have been another file's, or a copy is damaged: once more, from its first byte
                part.unlink(missing_ok=True)
            try:
                return self._fetched(part, wanted, size, get)
            except Mismatch:
                part.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[Path]:
        """The path of the part called `name`, which is nobody else's for so long."""
        path = self.path(name).with_name(f"{name}.part")
        with self._lock:
            lock, count = self._busy.get(name, (threading.Lock(), 0))
            self._busy[name] = lock, count + 1
        try:
            with lock:
                yield path
        finally:
            with self._lock:
                lock, count = self._busy.pop(name)
                if count > 1:
                    self._busy[name] = lock, count - 1

    def _here(self, wanted: Mapping[str, str], size: int | None) -> Held | None:
        """The file if an earlier run has left it here: looked through once more, as a crash may have damaged it."""
        path = self.path(wanted[SHA256])
        try:
            digests = _Digests(wanted)
            digests.read(path)
            return digests.checked(path, size)
        except (OSError, Mismatch):
            return None

    def _fetched(self, part: Path, wanted: Mapping[str, str], size: int | None, get: Get) -> Held:
        digests = _Digests(wanted)
        with self._disk(part, size):
            self._folder.mkdir(parents=True, exist_ok=True)
            if part.exists():
                digests.read(part)
        if size is None or digests.size < size:
            with get(digests.size) as given, self._disk(part, given.total if size is None else size):
                if given.start != digests.size:
                    digests = _Digests(wanted)
                with part.open("ab" if digests.size else "wb") as file:
                    for chunk in given.chunks:
                        digests.update(chunk)
                        if size is not None and digests.size > size:
                            raise Mismatch(f"{size} bytes", "more")
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
        held = digests.checked(self._folder / digests.sha256, size)
        with self._disk(part, size):
            part.replace(held.path)
        return held

    @contextlib.contextmanager
    def _disk(self, part: Path, size: int | None) -> Iterator[None]:
        """Within it, an OSError is the disk's."""
        try:
            yield
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                problem = f"cannot be written ({exc.strerror or exc}); make it writable for this user"
                raise SourceError(str(self._folder), problem) from exc
            with contextlib.suppress(OSError):
                part.unlink()
            needed = "file" if size is None else f"file of {size} bytes"
            problem = f"no space left for a {needed}; free some, or put the spool on a larger disk, and run again"
            raise SourceError(str(self._folder), problem) from exc


class _Digests:
    """What the bytes of a file come to, on the way: every digest that is wanted, and its sha256."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        makers = {**STRONG, **_WEAK}
        self._hashers = {name: makers[name]() for name in {SHA256, *wanted}}
        self.size = 0

    @property
    def sha256(self) -> str:
        digest: str = self._hashers[SHA256].hexdigest()
        return digest

    def update(self, data: bytes) -> None:
        self.size += len(data)
        for hasher in self._hashers.values():
            hasher.update(data)

    def read(self, path: Path) -> None:
        """Take in the file at `path`; OSError if that cannot be read."""
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                self.update(data)

    def checked(self, path: Path, size: int | None) -> Held:
        """The file, which lies or will lie at `path`, if these are its bytes; raises Mismatch."""
        if size is not None and self.size != size:
            raise Mismatch(f"{size} bytes", f"{self.size} bytes")
        got = {name: hasher.hexdigest() for name, hasher in self._hashers.items()}
        for name, digest in self._wanted.items():
            if got[name] != digest:
                raise Mismatch(f"{name}:{digest}", f"{name}:{got[name]}")
        return Held(path, got, self.size)
