"""A folder and everything beneath it, told without ever leaving it.

Regular files only. A link is followed where its target lies in the tree, too; hidden files and folders are passed over,
but a link may lead to them: ``current -> .releases/7`` is how trees are switched.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from cdn_fallback.errors import printable
from cdn_fallback.mirror import names
from cdn_fallback.mirror.model import Rejection
from cdn_fallback.mirror.sources import SourceError

YANKED = ".yanked"  # FILE.yanked beside a file withdraws it (PEP 592); its first line is the reason
# At the top of every ext4 file system, and readable for root alone.
_IGNORED = "lost+found"
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Found(NamedTuple):
    """A file that is named as a distribution."""

    path: str  # from the tree's top, with slashes; its folders may be parts of a key, its name may be anything
    status: os.stat_result  # the target's, of a link
    yanked: str  # what changes with its FILE.yanked; empty where there is none


def state_of(status: os.stat_result) -> str:
    """What changes whenever a file's bytes do."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def walk(root: str) -> Iterator[Found | Rejection]:
    """Every distribution in the tree, and everything that is not to be published, in an order of no meaning.

    A folder that links lead to is walked once: under its own name where it has one, else under its first link's.

    :raises SourceError: for a folder that cannot be listed. What was told before is not the whole tree
    """
    top = _top(root)
    links: list[tuple[str, str]] = []
    folders = _Folders(root, top, links)
    yield from folders.walk("", top)
    walked = set()
    for path, target in links:  # and those that are found on the way
        if target not in walked:
            walked.add(target)
            yield from folders.walk(path, target)


def open_inside(root: str, path: str) -> BinaryIO:
    """The regular file at `path` in the tree.

    :raises OSError: also for one outside, and for what is no regular file
    """
    top = os.path.realpath(root, strict=True)
    target = os.path.realpath(os.path.join(top, path), strict=True)
    if not _inside(top, target):
        raise OSError(errno.EXDEV, "it is a link that leaves the tree", path)
    number = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        # A folder on the way may have become a link since: then another file was opened than the one in the tree.
        if os.path.realpath(target, strict=True) != target or not os.path.samestat(os.stat(target), status):
            raise OSError(errno.ESTALE, "it was replaced while it was opened", path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _top(root: str) -> str:
    try:
        return os.path.realpath(root, strict=True)
    except OSError as exc:
        raise _unlisted(root, exc) from exc


def _unlisted(folder: str, exc: OSError) -> SourceError:
    problem = f"cannot be listed ({exc.strerror or exc}); make it readable. Nothing was taken as removed"
    return SourceError(exc.filename if isinstance(exc.filename, str) else folder, problem)


def _inside(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


class _Folders:
    """Walks real folders; the links to folders that it finds go to `links`, as (path, where it leads)."""

    def __init__(self, root: str, top: str, links: list[tuple[str, str]]) -> None:
        self._root = root
        self._top = top
        self._links = links

    def walk(self, path: str, real: str) -> Iterator[Found | Rejection]:
        """Everything under the folder `real`, as `path`."""
        pending = [(path, real)]
        while pending:
            path, real = pending.pop()
            try:
                with os.scandir(real) as scanned:
                    entries = {entry.name: entry for entry in scanned if not entry.name.startswith(".")}
                for name in sorted(entries):
                    below = _under(path, name)
                    if entries[name].is_symlink():
                        yield from self._linked(real, below, entries)
                    elif entries[name].is_dir(follow_symlinks=False):
                        if name != _IGNORED:
                            yield from self._folder(below, entries[name].path, pending)
                    elif names.is_distribution(name) and entries[name].is_file(follow_symlinks=False):
                        yield from _file(below, entries)
            except OSError as exc:
                raise _unlisted(real, exc) from exc

    def _folder(self, path: str, real: str, pending: list[tuple[str, str]]) -> Iterator[Rejection]:
        if reason := _unfit(path):
            yield Rejection(printable(path), f"{reason}: nothing in it is published")
        else:
            pending.append((path, real))

    def _linked(self, folder: str, path: str, entries: dict[str, os.DirEntry[str]]) -> Iterator[Found | Rejection]:
        entry = entries[path.rpartition("/")[2]]
        named = names.is_distribution(entry.name)
        try:
            target = os.path.realpath(entry.path, strict=True)
            status = os.stat(os.path.join(self._root, path))  # the system follows 40 links at most
        except OSError as exc:
            if exc.errno not in _NOWHERE:
                raise
            yield Rejection(printable(path), f"is a link that leads nowhere ({exc.strerror})")
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if not _inside(self._top, target):
            if named or is_folder:
                yield Rejection(printable(path), "is a link that leaves the tree")
        elif not is_folder:
            if named and stat.S_ISREG(status.st_mode):
                yield from _file(path, entries, status)
        elif _inside(target, folder):
            yield Rejection(printable(path), "is a link to a folder that it lies in")
        elif not self._reached(target):
            yield from self._folder(path, target, self._links)

    def _reached(self, real: str) -> bool:
        """Whether the folder is walked under its own name."""
        path = real[len(self._top.rstrip("/")) + 1 :]
        return not any(part.startswith(".") or part == _IGNORED for part in path.split("/")) and not _unfit(path)


def _unfit(path: str) -> str:
    try:
        names.check_key(path)
    except names.BadName as exc:
        return exc.reason
    return ""


def _file(path: str, entries: dict[str, os.DirEntry[str]], status: os.stat_result | None = None) -> Iterator[Found]:
    name = path.rpartition("/")[2]
    try:
        status = status or entries[name].stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # it went while we looked
    yield Found(path, status, _sidecar(entries.get(name + YANKED)))


def _sidecar(entry: os.DirEntry[str] | None) -> str:
    if entry is None:
        return ""
    try:
        return state_of(entry.stat())
    except OSError:
        return "?"  # a link that leads nowhere: it withdraws all the same
