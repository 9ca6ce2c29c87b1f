"""Files that were fetched and are not published yet."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdn_fallback.mirror.sources import SourceError
from cdn_fallback.mirror.sources.simple_api.spool import Get, Held, Mismatch, Part, Spool

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)
RIGHT = {"sha256": SHA256}


class Lost(Exception):
    """The connection."""


class Server:
    """Gives `bodies` in turn, the last one ever after; `starts` says what was asked for."""

    def __init__(self, *bodies: bytes, ranges: bool = True, cut: int | None = None) -> None:
        self.bodies = list(bodies or [DATA])
        self.ranges = ranges
        self.cut = cut  # after so many bytes, once
        self.starts: list[int] = []

    @contextlib.contextmanager
    def get(self, start: int) -> Iterator[Part]:
        self.starts.append(start)
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        first = start if self.ranges and start < len(body) else 0
        yield Part(first, len(body), self._chunks(body[first:]))

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        cut, self.cut = self.cut, None
        for at in range(0, len(body) if cut is None else cut, 1000):
            yield body[at : at + 1000]
        if cut is not None:
            raise Lost


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "spool").iterdir()}


def fetch(spool: Spool, get: Get, size: int | None = SIZE, hashes: Mapping[str, str] = RIGHT) -> Held:
    return spool.fetch(hashes, size, get)


def test_a_file_lies_under_its_sha256_until_it_is_removed(spool: Spool, tmp_path: Path) -> None:
    held = fetch(spool, Server().get)
    assert held == (spool.path(SHA256), {"sha256": SHA256}, SIZE)
    assert content(tmp_path) == {SHA256: DATA}
    spool.remove(SHA256)
    spool.remove(SHA256)
    assert content(tmp_path) == {}


def test_what_is_here_is_not_fetched_again(spool: Spool) -> None:
    fetch(spool, Server().get)
    server = Server()
    assert fetch(spool, server.get).size == SIZE
    assert server.starts == []


def test_what_a_crash_has_damaged_is_fetched_again(spool: Spool, tmp_path: Path) -> None:
    fetch(spool, Server().get)
    spool.path(SHA256).write_bytes(DATA[:-1])
    fetch(spool, Server().get)
    assert content(tmp_path) == {SHA256: DATA}


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_an_earlier_run_goes_on_where_it_broke_off(
    spool: Spool, tmp_path: Path, size: int | None, ranges: bool
) -> None:
    server = Server(cut=3000, ranges=ranges)
    with pytest.raises(Lost):
        fetch(spool, server.get, size)
    assert content(tmp_path) == {f"{SHA256}.part": DATA[:3000]}

    again = Spool(tmp_path / "spool")
    assert fetch(again, server.get, size).hashes == {"sha256": SHA256}
    assert server.starts == [0, 3000]
    assert content(tmp_path) == {SHA256: DATA}


def test_a_whole_part_needs_no_request(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / f"{SHA256}.part").write_bytes(DATA)
    server = Server()
    fetch(spool, server.get)
    assert server.starts == [] and content(tmp_path) == {SHA256: DATA}


@pytest.mark.parametrize("left", [b"x" * 3000, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_a_part_of_another_file_is_thrown_away(spool: Spool, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / f"{SHA256}.part").write_bytes(left)
    server = Server()
    fetch(spool, server.get)
    assert server.starts[-1] == 0 and content(tmp_path) == {SHA256: DATA}


def test_a_wrong_file_is_fetched_once_more_from_its_first_byte(spool: Spool, tmp_path: Path) -> None:
    server = Server(b"x" * SIZE, DATA)
    fetch(spool, server.get)
    assert server.starts == [0, 0] and content(tmp_path) == {SHA256: DATA}


@pytest.mark.parametrize(
    ("wrong", "expected", "got"),
    [
        (b"x" * SIZE, f"sha256:{SHA256}", "sha256:" + hashlib.sha256(b"x" * SIZE).hexdigest()),
        (DATA + b"x", f"{SIZE} bytes", "more"),
        (DATA[:-1], f"{SIZE} bytes", f"{SIZE - 1} bytes"),
    ],
)
def test_a_file_that_is_wrong_twice_is_an_error_that_names_both_hashes(
    spool: Spool, tmp_path: Path, wrong: bytes, expected: str, got: str
) -> None:
    server = Server(wrong)
    with pytest.raises(Mismatch) as caught:
        fetch(spool, server.get)
    assert (caught.value.expected, caught.value.got) == (expected, got)
    assert server.starts == [0, 0] and content(tmp_path) == {}


def test_who_sees_by_himself_that_it_is_wrong_is_believed(spool: Spool, tmp_path: Path) -> None:
    """The engine does, before it hands over the last bytes."""
    first = Server()

    @contextlib.contextmanager
    def get(start: int) -> Iterator[Part]:
        if first.starts:
            assert start == 0
            with first.get(start) as part:
                yield part
            return
        first.starts.append(start)

        def chunks() -> Iterator[bytes]:
            yield b"x"
            raise Mismatch("sha256:a", "sha256:b")

        yield Part(0, SIZE, chunks())

    fetch(spool, get)
    assert content(tmp_path) == {SHA256: DATA}


def digest(name: str, make: Callable[[bytes], str] | None = None) -> tuple[str, str]:
    return name, make(DATA) if make else hashlib.new(name, DATA).hexdigest()


STRONG = [
    digest("sha224"),
    digest("sha384"),
    digest("sha512"),
    digest("blake2b"),
    digest("blake2b_256", lambda data: hashlib.blake2b(data, digest_size=32).hexdigest()),
    digest("blake2b-256", lambda data: hashlib.blake2b(data, digest_size=32).hexdigest()),
]


@pytest.mark.parametrize(("name", "value"), STRONG)
def test_a_strong_hash_is_enough_and_the_sha256_comes_with_it(
    spool: Spool, tmp_path: Path, name: str, value: str
) -> None:
    assert fetch(spool, Server().get, hashes={name: value}).hashes == {name: value, "sha256": SHA256}
    assert content(tmp_path) == {SHA256: DATA}
    with pytest.raises(Mismatch, match=name):
        fetch(spool, Server(b"x" * SIZE).get, hashes={name: value})


def test_every_hash_must_be_right(spool: Spool) -> None:
    """They are all published."""
    md5 = hashlib.md5(DATA).hexdigest()
    assert fetch(spool, Server().get, hashes={**RIGHT, "md5": md5}).hashes == {"sha256": SHA256, "md5": md5}
    with pytest.raises(Mismatch, match="md5"):
        fetch(spool, Server().get, hashes={**RIGHT, "md5": "0" * 32})


def test_a_hash_that_cannot_be_checked_is_not_said_to_be_right(spool: Spool) -> None:
    assert fetch(spool, Server().get, hashes={**RIGHT, "newhash": "0" * 64}).hashes == {"sha256": SHA256}


@pytest.mark.parametrize("size", [SIZE, None])
def test_no_space_left_names_the_folder_and_what_is_needed(spool: Spool, tmp_path: Path, size: int | None) -> None:
    """And nothing half-taken stays. The disk is full, as far as this file can tell: it is /dev/full."""

    @contextlib.contextmanager
    def get(start: int) -> Iterator[Part]:
        (tmp_path / "spool" / f"{SHA256}.part").symlink_to("/dev/full")
        yield Part(0, SIZE, iter([DATA]))

    with pytest.raises(SourceError) as caught:
        fetch(spool, get, size)
    assert str(tmp_path / "spool") in str(caught.value) and f"{SIZE} bytes" in str(caught.value)
    assert content(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SourceError, match="cannot be written"):
        fetch(Spool(tmp_path / "spool"), Server().get)


def test_two_threads_that_want_the_same_file_fetch_it_once(spool: Spool, tmp_path: Path) -> None:
    begun, second = threading.Event(), threading.Event()
    starts: list[int] = []

    @contextlib.contextmanager
    def get(start: int) -> Iterator[Part]:
        starts.append(start)
        begun.set()
        assert second.wait(10)
        yield Part(0, SIZE, iter([DATA]))

    def late() -> Held:
        assert begun.wait(10)
        second.set()
        return fetch(spool, get)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(fetch, spool, get), pool.submit(late)
        assert one.result(10) == other.result(10)
    assert starts == [0] and content(tmp_path) == {SHA256: DATA}


def test_two_threads_that_want_different_files_do_not_wait_for_each_other(spool: Spool) -> None:
    both = threading.Barrier(2, timeout=10)

    def get_of(data: bytes) -> Get:
        @contextlib.contextmanager
        def get(start: int) -> Iterator[Part]:
            both.wait()
            yield Part(0, len(data), iter([data]))

        return get

    with ThreadPoolExecutor(2) as pool:
        wanted = [
            pool.submit(spool.fetch, {"sha256": hashlib.sha256(d).hexdigest()}, 1, get_of(d)) for d in (b"a", b"b")
        ]
        assert [one.result(10).path.read_bytes() for one in wanted] == [b"a", b"b"]


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 64 + "\n"])
def test_a_path_is_made_of_a_digest_only(spool: Spool, digest: str) -> None:
    with pytest.raises(ValueError, match="no digest"):
        spool.path(digest)
