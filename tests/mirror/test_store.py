"""The store that is a folder."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.stores import MARKER, Head, Put, Stored, StoreError
from cdn_fallback.mirror.stores.directory import DirectoryStore
from cdn_fallback.mirror.stores.opening import StoreSettings, open_store

HEADERS = Headers("text/plain", "no-store")
SCRATCH = f"{MARKER}.new"


class Chunks:
    """A body that comes in pieces, and may end in an error."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self._pieces = list(pieces)

    def read(self, size: int) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        return piece


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "site")


def held(store: DirectoryStore) -> dict[str, int]:
    return {one.key: one.size for one in store.list()}


def test_objects_are_put_replaced_listed_and_deleted(store: DirectoryStore) -> None:
    assert store.put("simple/a/index.html", b"page", HEADERS, b"") == Put(4)
    assert store.put("packages/a+b!1.whl", Chunks(b"some", b"thing"), HEADERS, b"") == Put(9)
    assert store.put("empty", b"", HEADERS, b"") == Put(0)
    assert store.put("empty", Chunks(), HEADERS, b"") == Put(0)
    assert (store.root / "packages/a+b!1.whl").read_bytes() == b"something"
    store.put("simple/a/index.html", b"better", HEADERS, b"")
    assert (store.root / "simple/a/index.html").read_bytes() == b"better"
    assert set(store.list()) == {Stored("simple/a/index.html", 6), Stored("packages/a+b!1.whl", 9), Stored("empty", 0)}
    store.flush()
    store.delete(["simple/a/index.html", "never/there", "empty"])
    assert held(store) == {"packages/a+b!1.whl": 9}


def test_a_store_that_is_not_there_yet_is_empty_and_nobodys(store: DirectoryStore) -> None:
    assert list(store.list()) == [] and store.mark() is None
    store.delete(["x"])
    assert not store.root.exists()


def test_the_mark_is_written_under_a_condition_and_is_no_object(store: DirectoryStore) -> None:
    first = store.set_mark(b"a", None)
    assert first and store.set_mark(b"b", None) is None
    mark = store.mark()
    assert mark and (mark.body, mark.tag) == (b"a", first) and abs(mark.at - time.time()) < 60
    second = store.set_mark(b"b", first)
    assert second and store.set_mark(b"c", first) is None and list(store.list()) == []


def test_of_many_that_write_the_mark_at_once_one_does(store: DirectoryStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            mark = store.mark()
            done = list(
                pool.map(
                    lambda n, tag: store.set_mark(b"%d" % n, tag),
                    range(turn * 8, turn * 8 + 8),
                    [mark and mark.tag] * 8,
                )
            )
            assert sum(tag is not None for tag in done) == 1


def test_an_object_is_looked_at_and_read(store: DirectoryStore) -> None:
    store.put("a/b", b"content", HEADERS, b"")
    assert store.head("a/b") == Head(7) and store.head("a/c") is None and store.head("a/b/c") is None
    body = store.open("a/b")
    assert body and body.read(4) == b"cont"
    body.close()
    assert store.open("a/c") is None


def test_what_is_listed_leaves_out_the_mark_and_the_scratch_file_only(store: DirectoryStore) -> None:
    store.set_mark(b"abc", None)
    store.put("a/b", b"", HEADERS, b"")
    for name in (SCRATCH, f"a/{MARKER}", ".hidden"):
        (store.root / name).write_bytes(b"")
    assert set(held(store)) == {"a/b", f"a/{MARKER}", ".hidden"}


def test_a_link_in_it_is_listed_and_not_followed(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("a", b"", HEADERS, b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(b"")
    (store.root / "link").symlink_to(tmp_path / "elsewhere")
    assert set(held(store)) == {"a", "link"}


def test_a_reader_never_sees_half_an_object(store: DirectoryStore) -> None:
    size = 300_000
    contents = [bytes([number]) * size for number in range(4)]
    store.put("simple/index.json", contents[0], HEADERS, b"")
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            found = (store.root / "simple/index.json").read_bytes()
            seen.add((len(found), len(set(found))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(120):
        content = contents[number % 4]
        pieces = [content[start : start + 50_000] for start in range(0, size, 50_000)]
        store.put("simple/index.json", Chunks(*pieces), HEADERS, b"")
    stop.set()
    reader.join()
    assert seen == {(size, 1)}


@pytest.mark.parametrize("error", [ProjectError("x", "has changed"), KeyboardInterrupt()])
def test_a_body_that_breaks_off_leaves_what_was_there(store: DirectoryStore, error: BaseException) -> None:
    store.put("a", b"old", HEADERS, b"")
    with pytest.raises(type(error)):
        store.put("a", Chunks(b"half", error), HEADERS, b"")
    with pytest.raises(type(error)):
        store.put("new", Chunks(b"half", error), HEADERS, b"")
    assert (store.root / "a").read_bytes() == b"old" and os.listdir(store.root) == ["a"]


def test_what_a_killed_put_left_is_written_over(store: DirectoryStore) -> None:
    store.put("a", b"", HEADERS, b"")
    (store.root / SCRATCH).write_bytes(b"a long leftover of somebody who was killed")
    store.put("a", b"short", HEADERS, b"")
    assert (store.root / "a").read_bytes() == b"short" and os.listdir(store.root) == ["a"]


def test_a_link_under_the_scratch_name_is_not_written_through(store: DirectoryStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    store.put("a", b"old", HEADERS, b"")
    (store.root / SCRATCH).symlink_to(victim)
    with pytest.raises(StoreError, match="something else stands in its way") as caught:
        store.put("a", b"new", HEADERS, b"")
    assert caught.value.where == str(store.root / SCRATCH), "that is what the operator has to take away"
    assert victim.read_bytes() == b"precious" and (store.root / "a").read_bytes() == b"old"


def test_a_file_where_a_folder_must_be_is_told_with_what_to_do(store: DirectoryStore) -> None:
    store.put("simple", b"x", HEADERS, b"")
    with pytest.raises(StoreError, match=r"something else stands in its way.*take it out of the store"):
        store.put("simple/a/index.html", b"", HEADERS, b"")
    assert held(store) == {"simple": 1}, "and nothing is left behind"


def test_a_folder_where_a_file_must_be_is_told_unless_it_is_empty(store: DirectoryStore) -> None:
    store.put("docs/a/b", b"", HEADERS, b"")
    with pytest.raises(StoreError, match=r"docs/a: something else stands in its way"):
        store.put("docs/a", b"", HEADERS, b"")
    assert held(store) == {"docs/a/b": 0}
    (store.root / "docs/empty/deep").mkdir(parents=True)
    (store.root / "docs/empty/deep").rmdir()
    assert store.put("docs/empty", b"x", HEADERS, b"") == Put(1)


def test_folders_that_became_empty_go_and_the_store_itself_stays(store: DirectoryStore) -> None:
    for key in ("a/b/c/x", "a/b/y", "z/x"):
        store.put(key, b"", HEADERS, b"")
    store.delete(["a/b/c/x"])
    assert not (store.root / "a/b/c").exists() and (store.root / "a/b/y").exists()
    store.delete(["a/b/y", "z/x"])
    assert os.listdir(store.root) == [] and store.root.exists()


def test_a_delete_that_was_killed_is_done_to_its_end_the_next_time(store: DirectoryStore) -> None:
    """The file had gone, its folders not yet."""
    (store.root / "a/b").mkdir(parents=True)
    store.delete(["a/b/x", "gone/altogether/x"])
    assert os.listdir(store.root) == []


def test_a_delete_below_a_file_does_nothing(store: DirectoryStore) -> None:
    store.put("a", b"x", HEADERS, b"")
    store.delete(["a/b"])
    assert held(store) == {"a": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(store: DirectoryStore) -> None:
    store.put("a/b", b"", HEADERS, b"")
    os.chmod(store.root, 0o555)
    try:
        with pytest.raises(StoreError, match="let the user that publishes own the folder"):
            store.put("a/c", b"", HEADERS, b"")
    finally:
        os.chmod(store.root, 0o755)


def test_objects_may_be_read_by_whom_the_umask_lets(store: DirectoryStore) -> None:
    before = os.umask(0o022)
    try:
        store.put("a", b"", HEADERS, b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((store.root / "a").stat().st_mode) == 0o644


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Python ignores SIGXFSZ, so that a write beyond fails with EFBIG."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("body", [b"x" * 5000, None])
def test_a_file_that_may_not_grow_leaves_what_was_there(store: DirectoryStore, body: bytes | None) -> None:
    store.put("a", b"old", HEADERS, b"")
    with no_file_over(3000), pytest.raises(StoreError, match="raise that limit"):
        store.put("a", body or Chunks(b"x" * 2500, b"y" * 2500), HEADERS, b"")
    assert (store.root / "a").read_bytes() == b"old" and os.listdir(store.root) == ["a"]


def test_a_full_disk_is_told_and_leaves_what_was_there(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"old", HEADERS, b"")
    monkeypatch.setattr(store, "_create", lambda scratch: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(StoreError, match=r"a: no space left; make some and run again"):
        store.put("a", b"new", HEADERS, b"")
    assert (store.root / "a").read_bytes() == b"old"


KILLED = """
import os, signal, sys
from pathlib import Path
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores.directory import DirectoryStore

class Body:
    def __init__(self):
        self.left = 2
    def read(self, size):
        self.left -= 1
        if self.left:
            return b"half"
        os.kill(os.getpid(), signal.SIGKILL)

DirectoryStore(Path(sys.argv[1])).put("a", Body(), Headers("text/plain", ""), b"")
"""


def test_a_killed_put_leaves_what_was_there(store: DirectoryStore) -> None:
    store.put("a", b"old", HEADERS, b"")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", KILLED, str(store.root)], env=environment)
    assert run.returncode == -signal.SIGKILL
    assert held(store) == {"a": 3} and (store.root / SCRATCH).read_bytes() == b"half"
    store.put("a", b"new", HEADERS, b"")
    assert os.listdir(store.root) == ["a"]


# where it is


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/mirror", "/srv/mirror"),
        ("file://localhost/srv/a%20b", "/srv/a b"),
        ("file:site", "/etc/site"),
    ],
)
def test_the_folder_that_a_url_names(url: str, path: str) -> None:
    store = open_store(StoreSettings(url, "cdn-fallback.toml", Path("/etc")))
    assert isinstance(store, DirectoryStore) and store.root == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://bucket/x",
        "/srv/mirror",
        "file://host/srv",
        "file:///",
        "file:",
        "file:///a?b",
        "file:///a%00b",
        "file://[x/",
    ],
)
def test_a_url_that_names_no_folder_is_told_with_what_to_write(url: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: \[store\] url: .*write file:///srv/mirror"):
        open_store(StoreSettings(url, "x.toml", Path("/etc")))


@pytest.mark.parametrize("url", ["s3:bucket", "s3://", "s3://bucket/.hidden", "gs://key:secret@bucket", "az://a/b?c"])
def test_a_url_that_names_no_bucket_is_told_with_what_to_write(url: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: \[store\] url: .*write s3://bucket"):
        open_store(StoreSettings(url, "x.toml", Path("/etc")))
