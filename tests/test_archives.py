"""Whole and broken distributions on disk."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cdn_fallback.archives import damage
from tests.rig.dists import sdist
from tests.rig.sample import B

S = sdist("demo-s")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (B.filename, B.content, None),
        (B.filename, B.content[:-10], "is no whole archive (File is not a zip file)"),
        (B.filename, b"", "is no whole archive (File is not a zip file)"),
        (S.filename, S.content, None),
        (S.filename, S.content[:-40], "is no whole archive ("),
        (S.filename, S.content[:30] + bytes([S.content[30] ^ 255]) + S.content[31:], "is no whole archive ("),
        ("demo-s-1.0.exe", b"?", None),
    ],
)
def test_an_archive_is_opened(name: str, content: bytes, problem: str | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    found = damage(str(path))

    assert found is None if problem is None else found is not None and found.startswith(problem)


def test_a_changed_member_is_found(tmp_path: Path) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo.py", b"x" * 100)
    path.write_bytes(path.read_bytes().replace(b"x" * 100, b"y" * 100))

    assert damage(str(path)) == "is damaged (demo.py)"


def test_an_egg_may_be_a_folder(tmp_path: Path) -> None:
    assert damage(str(tmp_path / "demo.egg")) is None
