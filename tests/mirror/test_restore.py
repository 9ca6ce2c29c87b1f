"""Files brought back from the store: each as it was, none anywhere else, and nothing of anybody's overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror.restore import Failed, Restored, restore
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.sources.trees import Tree
from cdn_fallback.mirror.stores import Opened, StoreError
from cdn_fallback.mirror.stores.objects import open_objects
from tests.mirror.fakes import FakeSource, FakeStore, Killed, TrappedCatalog, published, sha256

TIME = "2024-01-31T12:00:00.123456Z"
PAGE = Headers("text/html", "")
METADATA = b"Metadata-Version: 2.1\n"
CONTENTS = {
    "packages/a-1.0-py3-none-any.whl": b"wheel",
    "packages/a-1.0.tar.gz": b"sdist",
    "packages/b/c/b-2.0.tar.gz": b"deep",
    "docs/index.html": b"a page",
    "docs/deep/er.html": b"deeper",
}


def quiet(what: str, done: int, of: int) -> None:
    """Nobody watches."""


class Here:
    """A catalog, a store in which all of it is published, and folders in which nothing is yet."""

    def __init__(self, catalog: TrappedCatalog, folder: Path) -> None:
        self.catalog, self.folder = catalog, folder
        self.source, self.store = FakeSource(), FakeStore()
        self.packages, self.docs = folder / "packages", folder / "docs"
        file = self.source.file
        self.source.put(
            "a",
            file("a-1.0-py3-none-any.whl", b"wheel", metadata=METADATA, upload_time=TIME),
            file("a-1.0.tar.gz", b"sdist", yanked="it is broken\nin many ways"),
        )
        self.source.put("b", file("b-2.0.tar.gz", b"deep", key="packages/b/c/b-2.0.tar.gz", yanked=""))
        self.source.put_static("docs/index.html", b"a page")
        self.source.put_static("docs/deep/er.html", b"deeper")
        self.publish()

    def publish(self) -> None:
        self.source.sync(self.catalog)
        published(self.source, self.catalog, self.store)

    def restore(self, store: Any = None) -> Restored:
        trees = (Tree(self.docs, "docs"),)
        return restore(self.catalog, store or self.store, self.packages, "packages", trees, quiet)

    def found(self) -> dict[str, bytes]:
        """Every file in the folder, but for the catalog."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and "sqlite" not in path.name]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with closing(TrappedCatalog.trapped(tmp_path / "catalog.sqlite")) as catalog:
        yield Here(catalog, tmp_path)


YANKED = {
    "packages/a-1.0.tar.gz.yanked": b"it is broken in many ways\n",
    "packages/b/c/b-2.0.tar.gz.yanked": b"\n",
}


def test_every_file_comes_back_with_its_time_and_whether_it_is_yanked(here: Here) -> None:
    found = here.restore()
    assert found == Restored(files=5, bytes=sum(map(len, CONTENTS.values())))
    assert here.found() == CONTENTS | YANKED
    moment = int(datetime(2024, 1, 31, 12, tzinfo=timezone.utc).timestamp())
    assert (here.packages / "a-1.0-py3-none-any.whl").stat().st_mtime_ns == moment * 10**9 + 123_456_000


def test_what_is_there_is_left_alone(here: Here) -> None:
    here.restore()
    path = here.packages / "a-1.0.tar.gz"
    os.utime(path, (1, 1))
    path.with_name("a-1.0.tar.gz.yanked").write_text("my own words\n")
    inodes = {path: path.stat().st_ino for path in here.folder.rglob("*") if "sqlite" not in path.name}
    assert here.restore() == Restored(there=5)
    assert path.stat().st_mtime == 1 and here.found()["packages/a-1.0.tar.gz.yanked"] == b"my own words\n"
    assert {path: path.stat().st_ino for path in inodes} == inodes


def test_a_file_that_is_there_is_yanked_if_its_page_says_so(here: Here) -> None:
    here.restore()
    (here.packages / "a-1.0.tar.gz.yanked").unlink()
    assert here.restore().there == 5
    assert here.found() == CONTENTS | YANKED


@pytest.mark.parametrize("content", [b"another file", b"", b"sdisT"])
def test_another_file_is_never_overwritten(here: Here, content: bytes) -> None:
    path = here.packages / "a-1.0.tar.gz"
    path.parent.mkdir()
    path.write_bytes(content)
    found = here.restore()
    assert found.failed == (Failed("packages/a-1.0.tar.gz", f"{path} is another file; move it away and run again"),)
    assert (found.files, path.read_bytes()) == (4, content)
    assert "packages/a-1.0.tar.gz.yanked" not in here.found()
    path.rename(here.folder / "elsewhere")
    assert here.restore() == Restored(files=1, bytes=5, there=4)


def test_a_folder_in_the_place_of_a_file_is_told_and_the_rest_comes_back(here: Here) -> None:
    (here.packages / "a-1.0.tar.gz").mkdir(parents=True)
    found = here.restore()
    assert [one.key for one in found.failed] == ["packages/a-1.0.tar.gz"] and found.files == 4


def test_a_file_in_the_place_of_a_folder_is_told_and_the_rest_comes_back(here: Here) -> None:
    here.packages.mkdir()
    (here.packages / "b").write_bytes(b"mine")
    found = here.restore()
    assert [one.key for one in found.failed] == ["packages/b/c/b-2.0.tar.gz"] and found.files == 4
    assert "something stands in its way at" in found.failed[0].why
    assert (here.packages / "b").read_bytes() == b"mine"


# hashes


@pytest.mark.parametrize("key", CONTENTS)
def test_every_hash_is_checked(here: Here, key: str) -> None:
    good = here.store.objects[key]
    here.store.objects[key] = bytes(len(good))
    found = here.restore()
    why = "is not in the store, or not with the bytes that its page promises"
    assert found.failed == (Failed(key, why),) and found.files == 4
    here.store.objects[key] = good
    assert [found for found in here.found() if found not in CONTENTS | YANKED] == [], "nothing is left behind"
    assert here.restore() == Restored(files=1, bytes=len(good), there=4)


def test_what_is_not_in_the_store_is_told(here: Here) -> None:
    del here.store.objects["packages/a-1.0.tar.gz"]
    found = here.restore()
    assert [one.key for one in found.failed] == ["packages/a-1.0.tar.gz"]
    assert not (here.packages / "a-1.0.tar.gz").exists() and not (here.packages / "a-1.0.tar.gz.yanked").exists()


def test_a_file_that_was_moved_comes_back_to_where_the_source_has_it(here: Here) -> None:
    here.source.put("a", here.source.file("a-1.0.tar.gz", b"the second of that name"))
    here.publish()
    here.restore()
    assert here.found()["packages/a-1.0.tar.gz"] == b"the second of that name"
    assert not list(here.packages.glob("[0-9a-f]" * 16))


def test_a_file_that_stays_elsewhere_is_none_of_ours(here: Here) -> None:
    here.source.put("c", here.source.file("c-1.0.tar.gz", key="", url="https://elsewhere.example/c-1.0.tar.gz"))
    here.publish()
    assert here.restore().files == 5


# killed, cut off


class Stopped(FakeStore):
    """Raises when so many pieces have been read."""

    def __init__(self, store: FakeStore, at: int, error: BaseException) -> None:
        super().__init__()
        self.objects, self.headers = store.objects, store.headers
        self.left, self.error = at, error

    def open(self, key: str) -> Opened | None:
        opened = super().open(key)
        return _Stopped(self, opened) if opened else None


class _Stopped:
    def __init__(self, store: Stopped, opened: Opened) -> None:
        self._store, self._opened = store, opened
        self.head = opened.head

    def read(self, size: int, /) -> bytes:
        self._store.left -= 1
        if self._store.left < 0:
            raise self._store.error
        return self._opened.read(2)

    def close(self) -> None:
        self._opened.close()


@pytest.mark.parametrize("error", [Killed(), StoreError("k", "cannot be reached")], ids=["killed", "cut"])
def test_one_that_was_stopped_anywhere_goes_on_where_it_was(here: Here, error: BaseException) -> None:
    for at in range(19):
        for path in sorted(here.folder.rglob("*"), reverse=True):
            if "sqlite" not in path.name:
                path.unlink() if path.is_file() else path.rmdir()
        with pytest.raises(type(error)):
            here.restore(Stopped(here.store, at, error))
        before = here.found()
        assert {key: one for key, one in before.items() if key in CONTENTS}.items() <= CONTENTS.items()
        assert set(before) <= {*CONTENTS, *YANKED}
        found = here.restore()
        assert not found.failed and found.there == len(before.keys() & CONTENTS.keys())
        assert here.found() == CONTENTS | YANKED, f"stopped at {at}"


def test_what_a_killed_one_left_half_written_is_begun_anew(here: Here) -> None:
    here.packages.mkdir()
    for name in (".a-1.0.tar.gz.restored", ".a-1.0.tar.gz.yanked.restored"):
        (here.packages / name).write_bytes(b"much more than the whole file has")
    assert here.restore().files == 5
    assert here.found() == CONTENTS | YANKED


def test_a_folder_that_cannot_be_written_ends_it_with_what_to_do(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); what was brought back stays"):
        here.restore()
    assert here.found() == {}


# nothing outside of the folder


OUT = [
    "docs//etc/x",
    "docs/../../x",
    "docs/deep/../../../x",
    "docs/./x",
    "docs/.hidden",
    "docs/a/.git/hooks/x",
    "docs/",
    "docs/x\x00y",
    "docs/x\x1b[31m",
    "docs//",
]


@pytest.mark.parametrize("key", OUT)
def test_a_key_that_leads_out_is_refused(here: Here, key: str) -> None:
    """Such are in no store that we wrote; a listing may hold what it likes."""
    here.source.put_static(key, b"evil")
    here.source.sync(here.catalog)
    here.store.put(key, b"evil", PAGE, b"")
    outer = set(os.listdir(here.folder.parent))
    found = here.restore()
    assert [one.key for one in found.failed] == [key] and "leads out of it" in found.failed[0].why
    assert here.found() == CONTENTS | YANKED and set(os.listdir(here.folder.parent)) == outer


def to_a_folder(here: Here, outside: Path) -> None:
    (here.packages / "b").symlink_to(outside)


def to_a_folder_that_is_not_there(here: Here, outside: Path) -> None:
    (here.packages / "b").symlink_to(outside / "new")


def to_a_file(here: Here, outside: Path) -> None:
    (here.packages / "b" / "c").mkdir(parents=True)
    (here.packages / "b/c/b-2.0.tar.gz").symlink_to(outside / "file")


def to_the_very_bytes(here: Here, outside: Path) -> None:
    to_a_file(here, outside)
    (outside / "file").write_bytes(b"deep")


def to_a_file_that_is_not_there(here: Here, outside: Path) -> None:
    (here.packages / "b" / "c").mkdir(parents=True)
    (here.packages / "b/c/b-2.0.tar.gz").symlink_to(outside / "new")


LINKS = [to_a_folder, to_a_folder_that_is_not_there, to_a_file, to_the_very_bytes, to_a_file_that_is_not_there]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_leads_out_is_not_followed(
    here: Here, tmp_path_factory: pytest.TempPathFactory, link: Callable[[Here, Path], None]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").write_bytes(b"theirs")
    here.packages.mkdir()
    link(here, outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    found = here.restore()
    assert [one.key for one in found.failed] == ["packages/b/c/b-2.0.tar.gz"] and found.files == 4
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


def test_links_in_the_place_of_what_is_written_on_the_way_are_not_followed(
    here: Here, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = tmp_path_factory.mktemp("outside") / "theirs"
    theirs.write_bytes(b"theirs")
    here.packages.mkdir()
    for name in (".a-1.0.tar.gz.restored", ".a-1.0.tar.gz.yanked.restored", "a-1.0.tar.gz.yanked"):
        (here.packages / name).symlink_to(theirs)
    assert here.restore().files == 5
    assert theirs.read_bytes() == b"theirs"


def test_a_link_inside_the_folder_may_stay(here: Here) -> None:
    (here.packages / "real").mkdir(parents=True)
    (here.packages / "b").symlink_to("real")
    assert here.restore().failed == ()
    assert (here.packages / "real" / "c" / "b-2.0.tar.gz").read_bytes() == b"deep"


def test_the_folder_itself_may_be_a_link(here: Here, tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    here.packages.symlink_to(disk)
    assert here.restore().files == 5
    assert (disk / "a-1.0.tar.gz").read_bytes() == b"sdist"


# how


def test_progress_is_told(here: Here) -> None:
    told: list[tuple[str, int, int]] = []
    restore(here.catalog, here.store, here.packages, "packages", (), lambda *one: told.append(one))
    assert told == [("files", number, 3) for number in (1, 2, 3)]


def test_object_storage_gives_the_same(here: Here) -> None:
    store = open_objects(f"memory://{here.folder}")
    for key, body in here.store.objects.items():
        store.put(key, body, here.store.headers[key], bytes.fromhex(sha256(body)))
    assert here.restore(store).files == 5
    assert here.found() == CONTENTS | YANKED


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"])
def test_a_time_that_no_file_can_have_is_no_harm(here: Here, time: str) -> None:
    here.source.put("a", here.source.file("a-1.0.tar.gz", b"sdist", upload_time=time))
    here.publish()
    assert here.restore().files == 4
