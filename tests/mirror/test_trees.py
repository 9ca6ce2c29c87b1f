"""Files beside the index: what is found, what is read again, what never leaves its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Static
from cdn_fallback.mirror.sources import ProjectError, SourceError, trees
from cdn_fallback.mirror.sources.trees import SETTLE, Changes, Tree, changes, open_static
from tests.mirror.fakes import NOW, sha256

OLD = NOW - 1000


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep" / "er").mkdir(parents=True)
    write(folder / "index.html", b"<p>")
    write(folder / "deep" / "er" / "a b#é.txt", b"text")
    return folder


def write(path: Path, content: bytes, when: float = OLD) -> None:
    path.write_bytes(content)
    os.utime(path, (when, when))


def look(docs: Path, catalog: Catalog, now: float = NOW) -> Changes:
    found = changes((Tree(docs, "documentation"),), catalog.content, now)
    with catalog.transaction():
        catalog.content.apply_static(found.files)
    return found


def keys(found: Changes) -> list[str]:
    return [("-" if one.removed else "+") + one.key.removeprefix("documentation/") for one in found.files]


def test_every_file_is_found_with_its_digest_under_the_prefix(docs: Path, catalog: Catalog) -> None:
    found = look(docs, catalog)
    assert keys(found) == ["+deep/er/a b#é.txt", "+index.html"] and found.rejected == ()
    page = found.files[1]
    assert (page.path, page.size, page.sha256.hex()) == (str(docs / "index.html"), 3, sha256(b"<p>"))
    with open_static(page) as file:
        assert file.read() == b"<p>"


def test_only_what_changed_is_read_again(docs: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    look(docs, catalog)
    read: list[str] = []
    digest = trees._digest

    def counted(path: str) -> tuple[bytes, int]:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(trees, "_digest", counted)
    assert look(docs, catalog) == Changes() and read == []
    write(docs / "index.html", b"<q>", OLD + 1)
    assert keys(look(docs, catalog)) == ["+index.html"] and read == [str(docs / "index.html")]


def test_a_file_that_is_being_written_is_left_for_the_next_run(docs: Path, catalog: Catalog) -> None:
    look(docs, catalog)
    write(docs / "new", b"half", NOW - SETTLE + 1)
    write(docs / "index.html", b"half", NOW)
    assert look(docs, catalog) == Changes()
    assert keys(look(docs, catalog, NOW + SETTLE)) == ["+index.html", "+new"]


def test_a_time_in_the_future_is_not_waited_for(docs: Path, catalog: Catalog) -> None:
    write(docs / "ahead", b"", NOW + 10**6)
    assert "+ahead" in keys(look(docs, catalog))


def test_what_went_is_removed_also_with_its_tree(docs: Path, catalog: Catalog) -> None:
    look(docs, catalog)
    (docs / "index.html").unlink()
    assert keys(look(docs, catalog)) == ["-index.html"]
    assert [one.key for one in changes((), catalog.content, NOW).files] == ["documentation/deep/er/a b#é.txt"]


def test_a_folder_that_cannot_be_listed_takes_nothing_away(docs: Path, catalog: Catalog) -> None:
    look(docs, catalog)
    docs.rename(docs.with_name("not mounted"))
    with pytest.raises(SourceError, match=r"docs: cannot be listed .*nothing of it was taken as removed"):
        look(docs, catalog)
    assert len(list(catalog.content.static())) == 2


def test_links_and_hidden_files_are_passed_over(docs: Path, catalog: Catalog, tmp_path: Path) -> None:
    look(docs, catalog)
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret" / "key", b"secret")
    (docs / "link").symlink_to(tmp_path / "secret" / "key")
    (docs / "folder").symlink_to(tmp_path / "secret")
    (docs / ".git").mkdir()
    write(docs / ".git" / "config", b"")
    write(docs / ".htpasswd", b"")
    os.mkfifo(docs / "fifo")
    assert look(docs, catalog) == Changes()


def test_a_file_that_becomes_a_link_is_not_published(docs: Path, catalog: Catalog, tmp_path: Path) -> None:
    found = look(docs, catalog).files[1]
    write(tmp_path / "secret", b"secret")
    (docs / "index.html").unlink()
    (docs / "index.html").symlink_to(tmp_path / "secret")
    with pytest.raises(ProjectError, match=r"index\.html: cannot be read now"):
        open_static(found)
    assert keys(look(docs, catalog)) == ["-index.html"]


@pytest.mark.parametrize("become", ["nothing", "fifo", "folder"])
def test_what_is_no_regular_file_any_more_is_told_and_blocks_nobody(docs: Path, catalog: Catalog, become: str) -> None:
    found = look(docs, catalog).files[1]
    (docs / "index.html").unlink()
    if become == "fifo":
        os.mkfifo(docs / "index.html")
    elif become == "folder":
        (docs / "index.html").mkdir()
    with pytest.raises(ProjectError, match="cannot be read now"):
        open_static(found)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "back\\slash", "a\u202eb", "x" * 201, os.fsdecode(b"\xff.txt")])
def test_names_that_no_key_may_have_are_told_and_not_published(docs: Path, catalog: Catalog, name: str) -> None:
    write(docs / name, b"")
    found = look(docs, catalog)
    assert found.rejected == (str(docs / name),) and len(found.files) == 2


def test_a_file_that_goes_while_we_look_is_left_for_the_next_run(
    docs: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = trees._walk

    def walked(folder: str) -> Iterator[str]:
        paths = list(walk(folder))
        (docs / "index.html").unlink(missing_ok=True)
        yield from paths

    monkeypatch.setattr(trees, "_walk", walked)
    assert keys(look(docs, catalog)) == ["+deep/er/a b#é.txt"]


def test_a_file_that_goes_before_it_is_read_is_left_for_the_next_run(
    docs: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = trees._digest

    def gone(path: str) -> tuple[bytes, int]:
        if path.endswith("index.html"):
            os.unlink(path)
        return digest(path)

    monkeypatch.setattr(trees, "_digest", gone)
    assert keys(look(docs, catalog)) == ["+deep/er/a b#é.txt"]


def test_a_static_file_is_opened_by_its_path_alone(tmp_path: Path) -> None:
    with pytest.raises(ProjectError):
        open_static(Static("docs/x", str(tmp_path / "never"), b"", 0, ""))
