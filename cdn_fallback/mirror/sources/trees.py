"""Files beside the index, documentation and the like: a folder of them is copied under a prefix."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror.catalog.content import Content, Static
from cdn_fallback.mirror.names import MAX_KEY, MAX_NAME
from cdn_fallback.mirror.sources import ProjectError, SourceError

SETTLE = 5.0  # s that a file must have been left alone


class Tree(NamedTuple):
    """A folder, and the prefix under which its files are published."""

    path: Path
    prefix: str


class Changes(NamedTuple):
    """What differs from what is known, and the paths whose names cannot be published."""

    files: tuple[Static, ...] = ()
    rejected: tuple[str, ...] = ()


def changes(trees: tuple[Tree, ...], content: Content, now: float) -> Changes:
    """Look at every tree; only files whose size, time or inode changed are read.

    :raises SourceError: for a folder that cannot be listed: nothing in it counts as removed
    """
    known = {static.key: static for static in content.static()}
    found: list[Static] = []
    rejected: list[str] = []
    seen: set[str] = set()
    for tree in trees:
        for path in _walk(str(tree.path)):
            key = f"{tree.prefix}/{os.path.relpath(path, tree.path)}"
            if not _harmless(key):
                rejected.append(path)
                continue
            try:
                status = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went while we looked
            state = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
            seen.add(key)
            if (key in known and known[key].state == state) or 0 <= now - status.st_mtime < SETTLE:
                continue
            try:
                digest, size = _digest(path)
            except FileNotFoundError:
                continue  # left for the next run
            found.append(Static(key, path, digest, size, state))
    gone = [static._replace(removed=True) for key, static in known.items() if key not in seen]
    return Changes(tuple(found + gone), tuple(rejected))


def open_static(static: Static) -> BinaryIO:
    """The file's bytes. Raises ProjectError if it has gone."""
    try:
        return _open(static.path)
    except OSError as exc:
        raise ProjectError(static.path, f"cannot be read now ({exc.strerror or exc})") from exc


def _walk(folder: str) -> Iterator[str]:
    """Regular files, sorted; no links, nothing hidden."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        raise SourceError(folder, f"cannot be listed ({exc.strerror}); nothing of it was taken as removed") from exc
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _harmless(key: str) -> bool:
    parts = key.split("/")
    return key.isprintable() and "\\" not in key and len(key.encode()) <= MAX_KEY and all(
        len(part.encode()) <= MAX_NAME for part in parts
    )  # fmt: skip


def _open(path: str) -> BinaryIO:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("is no regular file")
    return open(handle, "rb")


def _digest(path: str) -> tuple[bytes, int]:
    try:
        with _open(path) as file:
            digest, size = hashlib.sha256(), 0
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise SourceError(path, f"cannot be read ({exc.strerror or exc})") from exc
    return digest.digest(), size
