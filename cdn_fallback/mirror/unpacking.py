"""Reads the metadata out of wheels and sdists, which may be anything: strangers made them.

Nothing is unpacked to disk, and whatever an archive holds, work and memory are bounded. A zip file is judged by its
directory and its metadata alone: the directory stands at its end, so one that is cut has none. A tar file has no
directory, and is unpacked to its end to see whether it has one.
"""

from __future__ import annotations

import bz2
import copy
import errno
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from cdn_fallback.errors import printable
from cdn_fallback.mirror import names

MAX_METADATA = 4 << 20  # bytes; the largest on PyPI have well under one MiB
MAX_UNPACKED = 1 << 30  # bytes of a tar file
MAX_MEMBERS = 200_000  # of a tar file
MAX_STREAMS = 20_000  # compressed parts, one behind the other; a tool that packs with many threads makes thousands
MAX_DIRECTORY = 64 << 20  # bytes of a zip file's directory: a hundred to a member
_XZ_MEMORY = 256 << 20  # bytes; `xz -9` asks for 65 MiB
_CHUNK = 1 << 18  # bytes
_BLOCK = 512  # bytes, POSIX ustar

# What the archive modules raise, beside EOFError and OSError, for archives that were made to hurt them.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    LookupError,
    OverflowError,
    NotImplementedError,  # a way of packing that zipfile does not know
    ValueError,
)


class Damaged(ValueError):
    """The file is not the distribution that its name claims: `reason` is a phrase that follows the name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def metadata(file: BinaryIO, filename: str, project: str) -> bytes | None:
    """A wheel's METADATA, an sdist's PKG-INFO; None where there is none, and for what is neither wheel nor sdist.

    :param file: at its beginning
    :param project: the normalised name of the project that it is to belong to
    :raises Damaged: for what is not the archive that `filename` claims
    :raises OSError: if the file cannot be read
    """
    try:
        return _read(file, filename, project)
    except Damaged:
        raise
    except EOFError as exc:
        raise Damaged("is cut short") from exc
    except _BROKEN as exc:
        raise Damaged(f"is damaged ({printable(exc)})") from exc
    except OSError as exc:
        if exc.errno not in (None, errno.EINVAL):  # the disk's fault, not the archive's
            raise
        raise Damaged(f"is damaged ({printable(exc)})") from exc


def _read(file: BinaryIO, filename: str, project: str) -> bytes | None:
    if filename.endswith(names.WHEEL):
        with _zip(file) as archive:
            return _of_wheel(archive, project)
    if filename.endswith(".zip"):
        with _zip(file) as archive:
            return _of_zip(archive)
    return _of_tar(file, filename) if names.is_distribution(filename) else None


def _is_pkg_info(path: str) -> bool:
    top, _, name = path.removeprefix("./").partition("/")
    return name == "PKG-INFO" and not top.endswith(".egg-info")


# zip


class _Careful:
    """What zipfile reads from. It takes a whole directory in one go: not one of gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise Damaged(f"has a directory of more than {MAX_DIRECTORY >> 20} MiB")
        return data


def _zip(file: BinaryIO) -> zipfile.ZipFile:
    # What stands in front of the first member is another file, which some other tool may read instead.
    if file.read(4) != b"PK\3\4":
        raise Damaged("is no zip archive")
    try:
        archive = zipfile.ZipFile(_Careful(file))
    except zipfile.BadZipFile as exc:
        raise Damaged("is no whole zip archive") from exc
    if any(info.flag_bits & 0x1 for info in archive.infolist()):
        raise Damaged("is encrypted")
    return archive


def _of_wheel(archive: zipfile.ZipFile, project: str) -> bytes:
    # Without regard to case: there are file systems on which two of them are one.
    found = [i for i in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", i.filename, re.IGNORECASE)]
    if len(found) != 1:
        raise Damaged("has more than one .dist-info/METADATA" if found else "has no .dist-info/METADATA")
    # The binary distribution format: {name}-{version}.dist-info, both escaped, so that the last dash parts them.
    folder, _, name = found[0].filename.partition("/")
    if name != "METADATA" or not folder.endswith(".dist-info"):
        raise Damaged("has no .dist-info/METADATA, but one in other letters")
    if not names.is_name_of(folder.removesuffix(".dist-info").rpartition("-")[0], project):
        raise Damaged(f"has another project's .dist-info: {folder[:100]!r}")
    return _member(archive, found[0])


def _of_zip(archive: zipfile.ZipFile) -> bytes | None:
    found = [info for info in archive.infolist() if _is_pkg_info(info.filename)]
    if len(found) > 1:
        raise Damaged("has more than one PKG-INFO")
    return _member(archive, found[0]) if found else None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_METADATA:
        raise _too_big()
    # zipfile stops at the size that the directory tells; we want to see what is behind.
    whole = copy.copy(info)
    whole.file_size = MAX_METADATA + 1
    with archive.open(whole) as stream:
        data = stream.read(MAX_METADATA + 1)
    if len(data) > MAX_METADATA:
        raise _too_big()
    if len(data) != info.file_size:
        raise Damaged(f"has metadata of {len(data)} bytes where its directory says {info.file_size}")
    return data


def _too_big() -> Damaged:
    return Damaged(f"has metadata of more than {MAX_METADATA >> 20} MiB")


# tar

_UNPACKERS: dict[str, tuple[bytes, Callable[[], Any] | None]] = {  # ending -> (magic, decompressor)
    ".tar.gz": (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    ".tgz": (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    ".tar.bz2": (b"BZh", bz2.BZ2Decompressor),
    ".tar.xz": (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)),
    ".tar.Z": (b"\x1f\x9d", None),  # compress(1): nothing here unpacks it
    ".tar": (b"", None),
}


class _Enough(Exception):
    """The bound on the work is reached."""


def _of_tar(file: BinaryIO, filename: str) -> bytes | None:
    ending = next(ending for ending in _UNPACKERS if filename.endswith(ending))
    magic, unpacker = _UNPACKERS[ending]
    if file.read(len(magic)) != magic:
        raise Damaged(f"is no {ending} file")
    if ending == ".tar.Z":
        return None
    file.seek(0)
    stream = _Stream(_unpacked(file, unpacker) if unpacker else iter(lambda: file.read(_CHUNK), b""))
    found: bytes | None = None
    try:
        for data in _pkg_infos(stream, sealed=unpacker is not None):
            if found not in (None, data):  # which of them counts, depends on the tool that unpacks
                raise Damaged("has two PKG-INFO that differ")
            found = data
        stream.drain()  # checksums stand at the end
    except _Enough as exc:
        if found is None:
            bound = f"{MAX_UNPACKED >> 20} MiB, {MAX_MEMBERS} members or {MAX_STREAMS} compressed parts"
            raise Damaged(f"has no PKG-INFO in its first {bound}, and more is not read") from exc
    return found


def _unpacked(file: BinaryIO, unpacker: Callable[[], Any]) -> Iterator[bytes]:
    """The unpacked bytes in small pieces, however well they were packed. Raises EOFError where the end is missing."""
    rest = file.read(_CHUNK)
    for _ in range(MAX_STREAMS):
        if not rest:
            return
        one = unpacker()
        while not one.eof:
            piece = one.decompress(rest, _CHUNK)
            rest = getattr(one, "unconsumed_tail", b"")  # zlib keeps outside what the others keep inside
            if piece:
                yield piece
            elif not (rest or one.eof):
                rest = file.read(_CHUNK)
                if not rest:
                    raise EOFError
        rest = one.unused_data.lstrip(b"\0")  # padding
        while not rest and (more := file.read(_CHUNK)):
            rest = more.lstrip(b"\0")
    raise _Enough


class _Stream:
    """Pieces of bytes, read forward. Raises _Enough when there were more of them than are read of any file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = io.BytesIO()
        self._had = 0

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        data = bytearray(self._buffer.read(size))
        while len(data) < size and self._next():
            data += self._buffer.read(size - len(data))
        return bytes(data)

    def skip(self, size: int) -> None:
        """Pass over so many. Raises EOFError if there are fewer."""
        while size:
            passed = min(size, len(self._buffer.getbuffer()) - self._buffer.tell())
            self._buffer.seek(passed, io.SEEK_CUR)
            size -= passed
            if size and not self._next():
                raise EOFError

    def drain(self) -> None:
        """Pass over everything that is left."""
        while self._next():
            pass

    def _next(self) -> bool:
        piece = next(self._pieces, b"")
        self._buffer = io.BytesIO(piece)
        self._had += len(piece)
        if self._had > MAX_UNPACKED:
            raise _Enough
        return bool(piece)


# What has a size, but no bytes behind its header.
_BARE = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


def _pkg_infos(stream: _Stream, *, sealed: bool) -> Iterator[bytes]:
    """Every <folder>/PKG-INFO, to the archive's end.

    Headers are read one by one and not by a TarFile, which takes an extended header of any size into memory, and an
    archive that was cut between two members for a whole one. Those extended headers (a path of more than 100
    characters) are passed over: a PKG-INFO has none.

    :param sealed: whether a checksum tells of a cut, so that an archive may do without the block that ends it
    """
    for number in range(MAX_MEMBERS):
        header = stream.read(_BLOCK)
        if number and (header == bytes(_BLOCK) or (sealed and not header)):
            return
        if len(header) < _BLOCK:
            raise EOFError
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as exc:
            raise Damaged("is a damaged tar archive" if number else "is no tar archive") from exc
        size = 0 if member.type in _BARE else member.size
        if size < 0:
            raise Damaged("is a damaged tar archive")
        if member.isreg() and _is_pkg_info(member.name):
            if size > MAX_METADATA:
                raise _too_big()
            data = stream.read(size)
            if len(data) < size:
                raise EOFError
            yield data
            stream.skip(-size % _BLOCK)
        else:
            stream.skip(size + -size % _BLOCK)
    raise _Enough
