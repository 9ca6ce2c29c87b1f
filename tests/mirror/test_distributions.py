"""What wheels and sdists say of themselves, and what is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdn_fallback.mirror import unpacking
from cdn_fallback.mirror.distributions import Damaged, Inspected, inspect
from tests.rig.dists import sdist, wheel

WHEEL = wheel("Foo.Bar", "1.0", requires_python=">=3.8")
SDIST = sdist("Foo.Bar", "1.0")
NAME = "foo_bar-1.0-py3-none-any.whl"
INFO = "foo_bar-1.0.dist-info/METADATA"
METADATA = b"Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.0\n"


def zipped(members: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for path, data in members.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def told(content: bytes, filename: str = NAME, project: str = "foo-bar") -> Inspected:
    return inspect(io.BytesIO(content), filename, project)


def reason(content: bytes, filename: str = NAME, project: str = "foo-bar") -> str:
    with pytest.raises(Damaged) as caught:
        told(content, filename, project)
    assert caught.value.reason.isprintable()
    return caught.value.reason


def test_a_wheel() -> None:
    assert told(WHEEL.content) == (WHEEL.metadata, "Foo.Bar", "1.0", ">=3.8")


def test_an_sdist() -> None:
    metadata = b"Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.0\n"
    assert told(SDIST.content, SDIST.filename) == (metadata, "Foo.Bar", "1.0", None)


def test_the_files_position_does_not_matter() -> None:
    file = io.BytesIO(WHEEL.content)
    file.read()
    assert inspect(file, NAME, "foo-bar").name == "Foo.Bar"


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".tar.gz", gzip.compress),
    (".tgz", gzip.compress),
    (".tar.bz2", bz2.compress),
    (".tar.xz", lzma.compress),
    (".tar", bytes),
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(("ending", "pack"), PACKED)
def test_every_kind_of_tar_file(ending: str, pack: Callable[[bytes], bytes], form: int) -> None:
    other = {} if form == tarfile.USTAR_FORMAT else {f"foo-1.0/{'long' * 60}": b"y" * 700, "foo-1.0/\xe4": b"z"}
    members = {"foo-1.0/a/PKG-INFO": b"x" * 600, **other, "./foo-1.0/PKG-INFO": METADATA, "foo-1.0/z": b"\1" * 70_000}
    assert told(pack(tarred(members, form)), f"foo-bar-1.0{ending}").metadata == METADATA


@pytest.mark.parametrize(("ending", "pack"), PACKED)
def test_a_cut_tar_file(ending: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(tarred({"foo-1.0/PKG-INFO": METADATA, "foo-1.0/z": random.Random(1).randbytes(20_000)}))
    ends = range(1000, len(whole) - (10240 if ending == ".tar" else 1), 511)  # a tar file ends in blocks of zeros
    assert len(ends) > 10
    for end in ends:
        assert reason(whole[:end], f"foo-bar-1.0{ending}") == "is cut short"


@pytest.mark.parametrize(("ending", "pack"), PACKED[:-1])
def test_a_compressed_archive_that_is_cut_behind_its_members(ending: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(tarred({"foo-1.0/PKG-INFO": METADATA}))
    assert reason(whole[:-4], f"foo-bar-1.0{ending}") == "is cut short"


def test_a_tar_file_that_was_cut_between_two_members() -> None:
    whole = tarred({"foo-1.0/PKG-INFO": METADATA, "foo-1.0/z": b""})
    assert reason(whole[:1024], "foo-bar-1.0.tar") == "is cut short"


def test_a_compressed_archive_without_its_last_blocks_is_whole() -> None:
    whole = tarred({"foo-1.0/PKG-INFO": METADATA})
    assert told(gzip.compress(whole[:1024]), "foo-bar-1.0.tar.gz").metadata == METADATA


def test_a_file_compressed_in_parts() -> None:
    plain = tarred({"foo-1.0/PKG-INFO": METADATA, "foo-1.0/z": b"z" * 9000})
    packed = b"".join(gzip.compress(plain[at : at + 700]) for at in range(0, len(plain), 700))
    assert told(packed + bytes(700_000), "foo-bar-1.0.tar.gz").metadata == METADATA


def test_an_sdist_in_a_zip_file() -> None:
    content = zipped({"foo-bar-1.0/PKG-INFO": METADATA, "foo-bar-1.0/foo.egg-info/PKG-INFO": b"?"})
    assert told(content, "Foo-Bar-1.0.zip") == (METADATA, "Foo.Bar", "1.0", None)


@pytest.mark.parametrize(
    ("content", "filename"),
    [
        (zipped({"foo-bar-1.0/setup.py": b""}), "Foo-Bar-1.0.zip"),
        (gzip.compress(tarred({"Foo-Bar-1.0/setup.py": b"", "foo.egg-info/PKG-INFO": b"?"})), "Foo-Bar-1.0.tar.gz"),
        (b"\x1f\x9d\x90", "Foo-Bar-1.0.tar.Z"),
    ],
)
def test_a_name_without_metadata(content: bytes, filename: str) -> None:
    assert told(content, filename) == (b"", "Foo-Bar", "1.0", None)


def test_what_indexes_once_took_is_not_read() -> None:
    assert told(b"anything", "Foo_Bar-1.0-py2.7.egg") == (b"", "Foo_Bar", "1.0", None)


def test_metadata_older_than_utf8() -> None:
    old = METADATA + b"Author: J\xf6rg\n"
    assert told(gzip.compress(tarred({"foo-1.0/PKG-INFO": old})), "foo-bar-1.0.tar.gz").metadata == old
    assert reason(zipped({INFO: old})) == "has metadata that is not UTF-8"


@pytest.mark.parametrize("filename", [NAME, *(f"foo-bar-1.0{ending}" for ending, _ in PACKED), "foo-bar-1.0.tar.Z"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(2000), WHEEL.content, SDIST.content])
def test_a_file_that_is_not_the_archive_it_claims(filename: str, content: bytes) -> None:
    if filename == NAME and content is WHEEL.content:
        content = b"#!/bin/sh\n" + content  # another file in front: zipfile alone would not mind
    if filename.endswith(("gz",)) and content is SDIST.content:
        content = gzip.compress(b"x" * 2000)
    assert reason(content, filename) in (
        "is no zip archive", "is no tar archive", "is cut short", *(f"is no {ending} file" for ending, _ in PACKED),
        "is no .tar.Z file",
    )  # fmt: skip


@pytest.mark.parametrize("end", [-1, -10, -22, -60, 200, 4])
def test_a_cut_wheel(end: int) -> None:
    assert reason(WHEEL.content[:end]) == "is no whole zip archive"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"foo_bar/__init__.py": b""}, "has no .dist-info/METADATA"),
        ({"x/" + INFO: METADATA}, "has no .dist-info/METADATA"),
        ({INFO: METADATA, "foo_bar-2.0.dist-info/METADATA": METADATA}, "has more than one .dist-info/METADATA"),
        ({INFO: METADATA, INFO.replace("foo", "FOO"): METADATA}, "has more than one .dist-info/METADATA"),
        ({INFO.lower(): METADATA}, "has no .dist-info/METADATA, but one in other letters"),
        ({"evil-1.0.dist-info/METADATA": METADATA}, "has another project's .dist-info: 'evil-1.0.dist-info'"),
        ({"\x1b-1.0.dist-info/METADATA": METADATA}, "has another project's .dist-info: '\\x1b-1.0.dist-info'"),
    ],
)
def test_a_wheel_has_one_metadata_of_its_own(members: Mapping[str, bytes], problem: str) -> None:
    assert reason(zipped(members)) == problem


@pytest.mark.parametrize("folder", ["foo_bar-1.0", "Foo.Bar-1.0", "foo-bar-1.0", "FOO_bar-1.0.0"])
def test_the_dist_info_is_named_in_any_writing(folder: str) -> None:
    assert told(zipped({f"{folder}.dist-info/METADATA": METADATA})).metadata == METADATA


def test_two_metadata_of_one_name() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(INFO, METADATA)
            archive.writestr(INFO, METADATA)
    assert reason(buffer.getvalue()) == "has more than one .dist-info/METADATA"


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (b"", "has metadata without a Name"),
        (b"Version: 1.0\n", "has metadata without a Name"),
        (b"\nName: Foo.Bar\nVersion: 1.0\n", "has metadata without a Name"),  # that is the description
        (b"Name: evil\nVersion: 1.0\n", "has metadata of another project: Name is 'evil'"),
        (b"Name: foo-bar/../evil\nVersion: 1.0\n", "has metadata of another project: Name is 'foo-bar/../evil'"),
        (b"Name: Foo.Bar\nVersion: 9.9\n", "has metadata of another version: Version is '9.9'"),
        (b"Name: Foo.Bar\n", "has metadata of another version: Version is ''"),
        (b"Name: Foo.Bar\nName: evil\nVersion: 1.0\n", "has metadata with more than one Name"),
        (b"Name: Foo.Bar\nVersion: 1.0\nVersion: 2\n", "has metadata with more than one Version"),
        (
            b"Name: Foo.Bar\nVersion: " + b"1" * 600,
            "has metadata with a Version that is too long or holds control characters",
        ),
        (
            METADATA + b"Requires-Python: >=3\x1b[2J\n",
            "has metadata with a Requires-Python that is too long or holds control characters",
        ),
        (
            METADATA + "Requires-Python: >=3\u202e\n".encode(),
            "has metadata with a Requires-Python that is too long or holds control characters",
        ),
    ],
)  # fmt: skip
def test_metadata_that_lies_about_its_name(metadata: bytes, problem: str) -> None:
    assert reason(zipped({INFO: metadata})) == problem
    if metadata:
        packed = gzip.compress(tarred({"foo-1.0/PKG-INFO": metadata}))
        assert reason(packed, "foo-bar-1.0.tar.gz") == problem


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"Requires-Python: >=3.8\n", ">=3.8"),
        (b"Requires-Python: >=3.8,\r\n\t<4\r\n", ">=3.8, <4"),
        (b"requires-python:   >=3.6.*  \n", ">=3.6.*"),  # invalid since packaging 22, and yet on thousands of files
        (b"Requires-Python:\n", None),
        (b"X: Requires-Python: 3\n", None),
    ],
)
def test_requires_python_as_it_is_written(header: bytes, value: str | None) -> None:
    assert told(zipped({INFO: METADATA + header})).requires_python == value


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("foo_bar-1.0.0-py3-none-any.whl", "1.0"),
        ("foo_bar-1.0_beta-py3-none-any.whl", "1.0-beta"),
        ("foo_bar-1.0b0-py3-none-any.whl", "1.0-beta"),
        ("foo_bar-1.0+cpu-py3-none-any.whl", "1.0+cpu"),
        ("foo_bar-1.0_cpu-py3-none-any.whl", "1.0+cpu"),
        ("foo_bar-2004d_x-py3-none-any.whl", "2004d-x"),
    ],
)
def test_a_version_in_another_writing_is_no_lie(filename: str, version: str) -> None:
    metadata = f"Name: foo-bar\nVersion: {version}\n".encode()
    assert told(zipped({INFO: metadata}), filename).metadata == metadata


@pytest.mark.parametrize("filename", ["evil-1.0-py3-none-any.whl", "foo_bar-1.0.whl", "../foo_bar-1.0.tar.gz", "x"])
def test_a_name_that_is_not_the_projects(filename: str) -> None:
    assert reason(WHEEL.content, filename)


def test_an_encrypted_wheel() -> None:
    content = bytearray(WHEEL.content)
    at = content.index(b"PK\1\2")
    content[at + 8] |= 1  # the general purpose bit flag in the directory
    assert reason(bytes(content)) == "is encrypted"


def patched(content: bytes, offset: int, form: str, value: int) -> bytes:
    """With another value in the only directory entry of a zip file."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(b"PK\1\2") + offset, value)
    return bytes(changed)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("offset", [16, 20, 24])  # CRC, compressed and real size
@pytest.mark.parametrize("value", [0, 7, 40])
def test_a_member_that_is_other_than_it_says(packing: int, offset: int, value: int) -> None:
    content = zipped({INFO: METADATA}, packing)
    assert told(content).metadata == METADATA
    assert reason(patched(content, offset, "<I", value))


def test_a_member_that_is_shorter_than_it_says() -> None:
    content = patched(zipped({INFO: METADATA}), 24, "<I", 1000)
    assert reason(content) == f"has metadata of {len(METADATA)} bytes where its directory says 1000"


def test_a_member_that_is_longer_than_it_says_with_the_checksum_of_its_beginning() -> None:
    """zipfile stops at the size that the directory tells, and is content."""
    content = zipped({INFO: METADATA + b"Name: evil\n"})
    content = patched(patched(content, 24, "<I", len(METADATA)), 16, "<I", zlib.crc32(METADATA))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read(INFO) == METADATA
    assert "is damaged" in reason(content)


def test_a_way_of_packing_that_nobody_knows() -> None:
    content = zipped({INFO: METADATA})
    assert reason(patched(content, 10, "<H", 77)).startswith("is damaged (")


@pytest.mark.parametrize("size", [unpacking.MAX_METADATA + 1, 50 * unpacking.MAX_METADATA])
def test_a_zip_bomb(size: int) -> None:
    content = zipped({INFO: METADATA + bytes(size)})
    assert reason(content) == "has metadata of more than 4 MiB"
    assert reason(patched(content, 24, "<I", 100)).startswith("is damaged (Bad CRC-32")  # of the first 4 MiB


def test_metadata_of_an_sdist_that_is_too_big() -> None:
    packed = gzip.compress(tarred({"foo-1.0/PKG-INFO": bytes(unpacking.MAX_METADATA + 1)}))
    assert reason(packed, "foo-bar-1.0.tar.gz") == "has metadata of more than 4 MiB"


def test_a_directory_of_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_DIRECTORY", 100_000)
    content = zipped({INFO: METADATA, **{f"foo_bar/{number:050}": b"" for number in range(1100)}})
    assert reason(content) == "has a directory of more than 0 MiB"


class Counting(io.BytesIO):
    """Counts what is read of it."""

    had = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.had += len(data)
        return data


def test_a_tar_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_UNPACKED", 8 << 20)
    bomb = Counting(gzip.compress(tarred({"foo-1.0/z": bytes(64 << 20), "foo-1.0/PKG-INFO": METADATA})) * 20)
    with pytest.raises(Damaged, match="has no PKG-INFO in its first 8 MiB") as caught:
        inspect(bomb, "foo-bar-1.0.tar.gz", "foo-bar")
    assert "and more is not read" in caught.value.reason
    assert bomb.had < len(bomb.getvalue())


def test_a_bomb_behind_the_metadata_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_UNPACKED", 1 << 20)
    packed = gzip.compress(tarred({"foo-1.0/PKG-INFO": METADATA, "foo-1.0/z": bytes(2 << 20)}))
    assert told(packed[:-100], "foo-bar-1.0.tar.gz").metadata == METADATA


def test_an_archive_of_endless_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 50)
    members = {f"foo-1.0/{number}": b"" for number in range(51)}
    assert "50 members" in reason(gzip.compress(tarred(members)), "foo-bar-1.0.tar.gz")
    assert told(
        gzip.compress(tarred({**members, "foo-1.0/0": b"", "foo-1.0/x": b""})[: 512 * 49]), "foo-bar-1.0.tar.gz"
    )


def test_a_file_of_endless_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_STREAMS", 50)
    assert "50 compressed parts" in reason(gzip.compress(b"") * 51, "foo-bar-1.0.tar.gz")


def test_two_pkg_info_that_differ() -> None:
    twice = {"foo-1.0/PKG-INFO": METADATA, "other/PKG-INFO": METADATA + b"Requires-Python: >9\n"}
    assert reason(gzip.compress(tarred(twice)), "foo-bar-1.0.tar.gz") == "has two PKG-INFO that differ"
    assert reason(zipped(twice), "foo-bar-1.0.zip") == "has more than one PKG-INFO"


def header(path: str, kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type, entry.size, entry.linkname = kind, size, "/etc/passwd"
    return entry.tobuf(tarfile.GNU_FORMAT)


def test_a_pkg_info_that_is_a_link_is_none() -> None:
    content = header("foo-1.0/PKG-INFO", tarfile.SYMTYPE, 0) + bytes(1024)
    assert told(content, "foo-bar-1.0.tar").metadata == b""


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_what_has_a_size_but_no_bytes(kind: bytes) -> None:
    content = header("foo-1.0/x", kind, 4096) + tarred({"foo-1.0/PKG-INFO": METADATA})
    assert told(content, "foo-bar-1.0.tar").metadata == METADATA


@pytest.mark.parametrize("path", ["foo-1.0/x", "foo-1.0/PKG-INFO"])
def test_a_member_of_less_than_no_bytes(path: str) -> None:
    content = header(path, tarfile.REGTYPE, -512) + bytes(1024)
    assert reason(content, "foo-bar-1.0.tar") == "is a damaged tar archive"


class Failing(io.BytesIO):
    """A disk that fails."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("filename", [NAME, SDIST.filename])
def test_a_disk_that_fails_is_not_the_archives_fault(filename: str) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        inspect(Failing(), filename, "foo-bar")


SAMPLES = [
    (NAME, zipped({INFO: METADATA, "foo_bar/x.py": b"x" * 300})),
    (NAME, zipped({INFO: METADATA, "foo_bar/x.py": b"x" * 300}, zipfile.ZIP_LZMA)),
    ("foo-bar-1.0.zip", zipped({"foo/PKG-INFO": METADATA}, zipfile.ZIP_BZIP2)),
    *((f"foo-bar-1.0{ending}", pack(tarred({"foo/\xe4": b"", "foo/PKG-INFO": METADATA}))) for ending, pack in PACKED),
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 1 << 14),
)
def test_whatever_is_in_a_file_it_is_read_or_damaged(
    sample: tuple[str, bytes], changes: list[tuple[int, int]], end: int
) -> None:
    filename, content = sample
    changed = bytearray(content)
    for at, value in changes:
        changed[at % len(changed)] = value
    try:
        found = told(bytes(changed[: len(changed) - end % 40]), filename)
    except Damaged as exc:
        assert exc.reason.isprintable()
    else:
        assert (found.name.lower().replace(".", "-"), found.version) == ("foo-bar", "1.0") or not found.metadata
