"""Which names may become keys, paths, links and configuration text. Pure.

An allow-list, matched before anything is parsed: packaging's own parsers accept ``foo/../../x-1.0.tar.gz``,
``<b>-1.0.tar.gz`` and names with a newline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version

# The Core Metadata specification's rule for `Name`.
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
# Letters, digits, and what versions (PEP 440) and tags add; never a dot or a dash in front.
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]*")
# A path that we did not make has a little more: "=", "~", "@" and "," are harmless everywhere.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!~@=,-]*")
MAX_NAME = 200  # bytes of one segment: NAME_MAX is 255, and ".metadata" and a temporary ending must fit
MAX_KEY = 900  # bytes; S3 has 1024

WHEEL = ".whl"
SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz", ".tar.Z", ".tar")
# What indexes once took, too: they are mirrored, nothing is read out of them.
_OTHERS = (".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg")
_INSTALLERS = (".exe", ".msi")  # named NAME-VERSION.PLATFORM(-pyX.Y)
_PLATFORM = re.compile(r"\.win(?:32|-|$)")


class BadName(ValueError):
    """The name cannot be published: `reason` says why, as a phrase that follows it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def normalised(name: str) -> str:
    """The project's name as PEP 503 writes it. Raises BadName for what is no project name."""
    if len(name) > MAX_NAME or not _PROJECT.fullmatch(name):
        raise BadName("is no project name: letters, digits, '.', '_' and '-', and no more than 200")
    return _squeezed(name)


def is_name_of(name: str, project: str) -> bool:
    """Whether `name`, however it is written, is that of the project with this normalised name."""
    return bool(_PROJECT.fullmatch(name)) and _squeezed(name) == project


def _squeezed(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def check_key(key: str) -> str:
    """`key`, if every part of it may be one of an object key of ours; raises BadName otherwise."""
    segments = key.split("/")
    # ".." inside a part names no folder, but there are filters in front of web servers that refuse it anywhere.
    if (
        len(key) > MAX_KEY
        or ".." in key
        or not all(len(part) <= MAX_NAME and _SEGMENT.fullmatch(part) for part in segments)
    ):
        raise BadName("has a part that no key of ours may have")
    return key


def version_of(filename: str, project: str) -> str:
    """The version in a distribution's name, as PEP 440 writes it where it can; empty where none can be told.

    :param project: the normalised name of the project that the file is to belong to
    :raises BadName: for a name that is not harmless, no distribution's, or another project's
    """
    _, rest, ending = _split(filename, project)
    if ending not in SDISTS:
        rest = rest.partition("-")[0]
    if ending in _INSTALLERS:
        rest = _PLATFORM.split(rest, maxsplit=1)[0]
    return canonical(rest)


def name_of(filename: str, project: str) -> str:
    """The project's name as the distribution's name writes it; raises BadName as `version_of` does."""
    return _split(filename, project)[0]


def _split(filename: str, project: str) -> tuple[str, str, str]:
    """(name, what follows its dash, ending)"""
    stem, ending = _stem(filename)
    if ending == WHEEL and len(stem.split("-")) not in (5, 6):
        raise BadName("is no wheel's file name: name-version(-build)-python-abi-platform.whl")
    # The name may hold dashes itself (old sdists), never a wheel's: it ends where what stands before is the project's.
    for dash in re.finditer("-", stem):
        if _squeezed(stem[: dash.start()]) == project:
            return stem[: dash.start()], stem[dash.end() :], ending
        if ending == WHEEL:
            break
    raise BadName(f"does not belong to the project {project}")


def project_of(filename: str) -> str:
    """The normalised name of the project that a wheel or sdist says it belongs to; raises BadName."""
    stem, ending = _stem(filename)
    # PEP 625: the last dash of an sdist; before it, names with dashes were allowed.
    name = stem.rpartition("-")[0] if ending in SDISTS else stem.partition("-")[0]
    return normalised(name)


def is_distribution(filename: str) -> bool:
    """Whether the name ends as a wheel's or sdist's does."""
    return filename.endswith((WHEEL, *SDISTS))


def _stem(filename: str) -> tuple[str, str]:
    if len(filename) > MAX_NAME or ".." in filename or not _FILE.fullmatch(filename):
        raise BadName("is no harmless file name")
    for ending in (WHEEL, *SDISTS, *_OTHERS):
        if filename.endswith(ending):
            return filename[: -len(ending)], ending
    raise BadName("is no distribution: it ends in none of " + " ".join((WHEEL, *SDISTS)))


@lru_cache(maxsize=65536)
def canonical(version: str) -> str:
    """`version` as PEP 440 writes it; as it is where that knows nothing of it."""
    from packaging.version import Version  # here: who writes configurations has no need of it

    try:
        return str(Version(version))
    except ValueError:  # InvalidVersion; or more digits than Python makes a number of
        return version


def in_order(versions: Iterable[str]) -> tuple[str, ...]:
    """Each of `versions` once, oldest first by PEP 440; what that does not know stands in front."""
    return tuple(sorted({version for version in versions if version}, key=_rank))


@lru_cache(maxsize=65536)
def _rank(version: str) -> tuple[bool, Version, str]:
    from packaging.version import Version

    try:
        return True, Version(version), version
    except ValueError:
        return False, Version("0"), version
