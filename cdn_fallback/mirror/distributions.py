"""What a wheel or an sdist says of itself, and whether it is what its name claims."""

from __future__ import annotations

import re
from email.message import Message
from email.parser import HeaderParser
from typing import BinaryIO, NamedTuple

from packaging.utils import canonicalize_version

from cdn_fallback.mirror import names, unpacking
from cdn_fallback.mirror.unpacking import Damaged

__all__ = ["Damaged", "Inspected", "inspect"]

MAX_HEADER = 500  # characters of a header that is made use of


class Inspected(NamedTuple):
    """What a distribution says of itself."""

    metadata: bytes  # a wheel's METADATA, an sdist's PKG-INFO; empty where there is none, or nothing is read
    name: str  # the project's, as the metadata writes it, else as the file's name does
    version: str  # as `names.version_of` has it; the metadata's is the same
    requires_python: str | None  # printable, on one line; whether it means anything is not asked


def inspect(file: BinaryIO, filename: str, project: str) -> Inspected:
    """Read what the distribution in `file` says of itself.

    :param file: seekable; its position is lost
    :param project: the normalised name of the project that it is to belong to
    :raises Damaged: for what is not the archive that `filename` claims, or has not the metadata of this project and
        version. What is neither wheel nor sdist is not read
    :raises OSError: if the file cannot be read
    """
    try:
        version, name = names.version_of(filename, project), names.name_of(filename, project)
    except names.BadName as exc:
        raise Damaged(exc.reason) from exc
    file.seek(0)
    metadata = unpacking.metadata(file, filename, project)
    if metadata is None:
        return Inspected(b"", name, version, None)
    headers = _headers(metadata, lenient=not filename.endswith(names.WHEEL))
    name, told = _header(headers, "Name"), _header(headers, "Version")
    if not names.is_name_of(name, project):
        raise Damaged(f"has metadata of another project: Name is {name!r}" if name else "has metadata without a Name")
    if not _same(told, version):
        raise Damaged(f"has metadata of another version: Version is {told!r}")
    return Inspected(metadata, name, version, _header(headers, "Requires-Python") or None)


def _headers(metadata: bytes, *, lenient: bool) -> Message:
    """The headers. A wheel's are published, and installers take them for UTF-8; an sdist's may be older than that."""
    try:
        text = metadata.decode()
    except UnicodeDecodeError as exc:
        if not lenient:
            raise Damaged("has metadata that is not UTF-8") from exc
        text = metadata.decode("latin-1")
    return HeaderParser().parsestr(text)


def _header(headers: Message, key: str) -> str:
    """The header's value, on one line; empty where there is none."""
    values = headers.get_all(key, [])
    if len(values) > 1:
        raise Damaged(f"has metadata with more than one {key}")
    value = " ".join(str(values[0]).split()) if values else ""
    if len(value) > MAX_HEADER or not value.isprintable():
        raise Damaged(f"has metadata with a {key} that is too long or holds control characters")
    return value


def _same(version: str, other: str) -> bool:
    """By PEP 440, for which 1.0 is 1.0.0; what that does not know is in file names as setuptools once escaped it."""
    return canonicalize_version(version) == canonicalize_version(other) or _escaped(version) == _escaped(other)


def _escaped(version: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", version)
