"""The source `directory`: a tree of wheels and sdists on this machine, in any layout.

    [source]
    type = "directory"
    path = "packages"      # the tree, relative to the configuration file
    prefix = "packages"    # what its files' keys begin with
    settle = 5             # seconds for which a file must have been left alone

A file is published under its path in the tree. ``FILE.yanked`` beside a file yanks it (PEP 592); its first line is the
reason. What is being written (it changes while it is read, or changed a moment ago) is left for the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import BinaryIO

from cdn_fallback.errors import printable
from cdn_fallback.mirror import names
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import Listing, ProjectError, Settings
from cdn_fallback.mirror.sources.reading import Folder, Reading
from cdn_fallback.mirror.sources.walk import Found, state_of, walk

_RESERVED = ("simple", "pypi", "last-modified", "robots.txt")  # first parts of the index's own keys
_GROWING = " growing "  # in a line that a token is made of
_FLAG = " yanked"  # behind a path in the index; no path has a space


class Directory:
    """Reads a tree of distributions; a `Source`.

    :param clock: Unix time in seconds, against which files' times are held
    :raises ConfigError: for settings that cannot be used. Whether the tree is there is for `listing` to find out
    """

    workers = 4  # hashing gives the interpreter's lock away

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        settings.reject_unknown(("path", "prefix", "settle"))
        root = str(settings.folder / settings.text("path"))
        self._folder = Folder(root, _prefix(settings), settings.number("settle", 5, least=0), clock)
        # Project -> its files' paths, one a line, by key: objects for each would take several times the memory.
        self._paths: Mapping[str, str] = {}

    def listing(self, state: str, *, whole: bool = False) -> Listing | None:
        """Every project that the tree has a file of, by the files' names; see `Source.listing`.

        :raises SourceError: if anything of the tree cannot be listed: what is not seen must not look removed
        """
        lines, rejected = self._sorted_out()
        waiting = sum(_GROWING in line for of_project in lines.values() for line in of_project)
        tokens: dict[str, str] = {}
        paths: dict[str, str] = {}
        for project in sorted(lines):
            found = sorted(lines.pop(project))
            tokens[project] = _digest([self._folder.prefix, *found])
            paths[project] = "\n".join(map(_indexed, found))
        self._paths = paths
        now = _digest(f"{name} {token}" for name, token in tokens.items())
        now += _digest(f"{what}\n{why}" for what, why in rejected)
        return None if now == state and not whole else Listing(tokens, None, tuple(rejected), now, waiting)

    def project(self, name: str, known: Project | None) -> Project | None:
        """The project as its files are now; only those that are not as `known` has them are read.

        A file that was rejected is read again whenever anything of its project has changed.

        :raises ProjectError: if a file cannot be read, or has gone since the listing
        """
        if name not in self._paths:
            raise ProjectError(name, "is not in the tree as it was listed; the next run tries again")
        reading = Reading(self._folder, name, known)
        for line in self._paths[name].split("\n"):
            reading.add(line.removesuffix(_FLAG), yanked=line.endswith(_FLAG))
        found = reading.result()
        # A new project of which there is nothing to say yet, is none yet.
        return None if found == known or (known is None and not (found.files or found.rejected)) else found

    def open(self, file: File) -> BinaryIO:
        """The file's bytes as they are now. Raises ProjectError if it has gone or leads out of the tree."""
        return self._folder.open(self._folder.path(file))

    def published(self, file: File) -> None:
        """Nothing is kept for it."""

    def close(self) -> None:
        """Nothing is open."""

    def _sorted_out(self) -> tuple[dict[str, list[str]], list[Rejection]]:
        """(project -> a line for each of its files, what belongs to none)"""
        now = self._folder.clock()
        lines: dict[str, list[str]] = {}
        rejected: list[Rejection] = []
        for found in walk(self._folder.root):
            if isinstance(found, Rejection):
                rejected.append(found)
                continue
            try:
                names.check_key(self._folder.key(found.path))
                project = names.project_of(found.path.rpartition("/")[2])
            except names.BadName as exc:
                rejected.append(Rejection(printable(found.path), exc.reason))
            else:
                lines.setdefault(project, []).append(self._line(found, now))
        return lines, sorted(rejected)

    def _line(self, found: Found, now: float) -> str:
        """What a token is made of; whether the file is settled, too, so that the token changes when that does."""
        settled = " settled " if self._folder.settled(found.status, now) else _GROWING
        return f"{found.path} {state_of(found.status)}{settled}{found.yanked}"


def _prefix(settings: Settings) -> str:
    prefix = settings.text("prefix", "packages").strip("/")
    try:
        names.check_key(prefix)
    except names.BadName as exc:
        raise settings.error("prefix", f"{prefix!r} {exc.reason}; write letters, digits and dashes") from exc
    if prefix.partition("/")[0] in _RESERVED:
        raise settings.error("prefix", f"{prefix} is the index's own; name another")
    return prefix


def _indexed(line: str) -> str:
    path, _, _, yanked = line.split(" ")
    return path + _FLAG if yanked else path


def _digest(lines: Iterable[str]) -> str:
    digest = blake2b(digest_size=12)
    for line in lines:
        digest.update(f"{line}\0".encode())
    return digest.hexdigest()
