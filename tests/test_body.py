"""Bodies: read whole within bounds, or continued elsewhere when they break. Over real urllib3, without a network."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import urllib3
from urllib3.util.response import is_fp_closed

from cdn_fallback.body import (
    BodyTrouble,
    Digest,
    ResumableBody,
    Whole,
    is_framed,
    length_of,
    read_whole,
    strongest,
)
from cdn_fallback.connections import PATIENCE, Patience, PatientResponse
from cdn_fallback.verdicts import Trouble
from tests.simulator import Clock

FILE = bytes(range(256)) * 1000
SILENCE, RATE = 5.0, 10 * 1024
DIGEST = Digest("sha256", hashlib.sha256(FILE).hexdigest())
Next = tuple[urllib3.HTTPResponse, int]
Piece = bytes | Exception | Callable[[], object]


class Wire(io.RawIOBase):
    """What comes from a server: bytes, errors, and things that happen meanwhile."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.pieces:
            piece = self.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            if not isinstance(piece, bytes):
                piece()
                continue
            if not piece:
                continue
            count = min(len(buffer), len(piece))
            buffer[:count] = piece[:count]
            if piece[count:]:
                self.pieces.insert(0, piece[count:])
            return count
        return 0


class Socket:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.timeouts: list[float | None] = []

    def makefile(self, mode: str, buffering: int | None = None) -> io.BufferedReader:
        return io.BufferedReader(self.wire)

    def settimeout(self, seconds: float | None) -> None:
        self.timeouts.append(seconds)


def response(
    *pieces: Piece, method: str = "GET", patience: Patience | None = None, **headers: str | int
) -> urllib3.HTTPResponse:
    """urllib3's response with its head read and `pieces` to come; ``Content_Length=5`` is a header."""
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    wire = Wire([f"HTTP/1.1 200 OK\r\n{head}\r\n".encode(), *pieces])
    token = PATIENCE.set(patience)
    fp: HTTPResponse = PatientResponse(Socket(wire), method=method)
    PATIENCE.reset(token)
    fp.begin()
    return urllib3.HTTPResponse(
        body=fp, headers=dict(fp.headers.items()), status=fp.status, preload_content=False, decode_content=False
    )


def chunked(*chunks: bytes, end: bool = True) -> list[bytes]:
    return [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks] + [b"0\r\n\r\n"] * end


class Elsewhere:
    """A source: what comes next (or what makes it from the offset), and a record of what was asked of it."""

    def __init__(self, *next_ones: Next | Callable[[int], Next], alone: bool = False) -> None:
        self.next_ones = list(next_ones)
        self.is_alone = alone
        self.breaks: list[tuple[int, Trouble]] = []
        self.details: list[str] = []
        self.completed: list[str | None] = []

    def resume(self, offset: int, why: BodyTrouble) -> tuple[Any, int]:
        self.breaks.append((offset, why.trouble))
        self.details.append(why.detail)
        if not self.next_ones:
            raise ConnectionError("nothing is left")
        next_one = self.next_ones.pop(0)
        return next_one(offset) if callable(next_one) else next_one

    def patience(self) -> tuple[float, float]:
        return (60.0, 0.0) if self.is_alone else (SILENCE, RATE)

    def complete(self, digest: str | None) -> None:
        self.completed.append(digest)


def rest(offset: int, *more: Piece) -> tuple[urllib3.HTTPResponse, int]:
    """A server with Range, asked for what follows `offset`."""
    return response(FILE[offset:], *more, Content_Length=len(FILE) - offset), offset


# -- Lengths


@pytest.mark.parametrize(
    ("headers", "length", "framed"),
    [
        ({"Content_Length": 5}, 5, True),
        ({"Content_Length": 0}, 0, True),
        ({"Transfer_Encoding": "chunked"}, None, True),
        ({"Transfer_Encoding": "Chunked", "Content_Length": 5}, None, True),
        ({}, None, False),
        ({"Content_Length": "five"}, None, False),
        ({"Content_Length": "-5"}, None, False),
        ({"Content_Length": "9" * 5000}, None, False),
    ],
)
def test_how_long_a_body_says_it_is(headers: dict[str, str | int], length: int | None, framed: bool) -> None:
    raw = urllib3.HTTPResponse(headers={name.replace("_", "-"): str(value) for name, value in headers.items()})
    assert length_of(raw) == length
    assert is_framed(raw) is framed


# -- Read whole


def test_a_whole_body_is_read() -> None:
    assert read_whole(response(b"he", b"llo", Content_Length=5), 5) == b"hello"
    assert read_whole(response(*chunked(b"he", b"llo"), Transfer_Encoding="chunked"), 5) == b"hello"
    assert read_whole(response(b"he", b"llo"), 5) == b"hello"
    assert read_whole(response(Content_Length=0), 5) == b""
    assert read_whole(response(method="HEAD", Content_Length=5), 5) == b""


@pytest.mark.parametrize(
    ("raw", "trouble"),
    [
        (response(b"he", Content_Length=5), Trouble.CUT),
        (response(*chunked(b"he", end=False), Transfer_Encoding="chunked"), Trouble.CUT),
        (response(b"zz\r\nhello", Transfer_Encoding="chunked"), Trouble.CUT),
        (response(b"he", ConnectionResetError(104, "reset"), Content_Length=5), Trouble.LOST),
        (response(b"he", TimeoutError("timed out"), Content_Length=5), Trouble.SLOW),
        (response(b"hello!"), Trouble.SIZE),
        (response(*chunked(b"hello", b"!"), Transfer_Encoding="chunked"), Trouble.SIZE),
    ],
)
def test_a_body_that_does_not_come_whole(raw: urllib3.HTTPResponse, trouble: Trouble) -> None:
    with pytest.raises(BodyTrouble) as caught:
        read_whole(raw, 5)
    assert caught.value.trouble is trouble
    assert caught.value.detail


def test_a_drip_ends_with_patience() -> None:
    """Each byte comes in time, and all of them together too late."""
    clock = Clock()
    drip: list[Piece] = []
    for _ in range(100):
        drip += [lambda: clock.sleep(1), b"x"]
    raw = response(*drip, patience=Patience(5.0, clock.now + 10, clock), Content_Length=100)
    with pytest.raises(BodyTrouble) as caught:
        read_whole(raw, None)
    assert caught.value.trouble is Trouble.SLOW
    assert clock.now <= 1000 + 11


# -- A body that is there


@pytest.mark.parametrize("data", [b"", b"x", FILE], ids=len)
@pytest.mark.parametrize("size", [None, -1, 1000, len(FILE), 1 << 20])
def test_a_body_that_is_there_is_closed_at_its_end(data: bytes, size: int | None) -> None:
    whole, read = Whole(data), b""
    while not is_fp_closed(whole):
        read += whole.read(size)
    assert read == data
    assert whole.read() == whole.read(5) == b""


def test_urllib3_and_caches_see_its_end() -> None:
    raw = urllib3.HTTPResponse(body=Whole(FILE), preload_content=False)
    assert b"".join(raw.stream(1000)) == FILE
    assert is_fp_closed(raw._fp)
    raw = urllib3.HTTPResponse(
        body=Whole(gzip.compress(FILE)), headers={"Content-Encoding": "gzip"}, preload_content=False
    )
    assert raw.read(decode_content=True) == FILE


# -- A body that resumes


def reader(source: Elsewhere, raw: urllib3.HTTPResponse, total: int | None = len(FILE)) -> ResumableBody:
    return ResumableBody(raw, source, 0, total, DIGEST)


@pytest.mark.parametrize("size", [None, 1000, 65536, 65537, 1 << 20])
@pytest.mark.parametrize("total", [len(FILE), None])
def test_a_file_comes_whole_and_is_closed_at_its_end(size: int | None, total: int | None) -> None:
    source = Elsewhere()
    resumable = reader(source, response(FILE[:70_000], FILE[70_000:]), total)
    data = b""
    while piece := resumable.read(size):
        assert size is None or len(piece) <= size
        data += piece
    assert data == FILE
    assert is_fp_closed(resumable)
    assert source.completed == [str(DIGEST)]
    assert source.breaks == []


def test_a_file_is_known_to_be_whole_with_its_last_byte() -> None:
    """A progress bar asks for no more than there is; the hash must be checked all the same."""
    source = Elsewhere()
    resumable = reader(source, response(FILE, Content_Length=len(FILE)))
    resumable.read(len(FILE) - 1)
    assert not resumable.closed and source.completed == []
    resumable.read(1)
    assert resumable.closed and source.completed == [str(DIGEST)]


@pytest.mark.parametrize("at", [0, 1, 65_536, len(FILE) - 1])
@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (ConnectionResetError(104, "reset by peer"), Trouble.LOST),
        (TimeoutError("timed out"), Trouble.SLOW),
        (b"", Trouble.CUT),
    ],
    ids=["reset", "silent", "cut"],
)
def test_a_file_that_breaks_goes_on_where_it_stopped(at: int, error: Piece, trouble: Trouble) -> None:
    source = Elsewhere(rest(at))
    resumable = reader(source, response(FILE[:at], error, Content_Length=len(FILE)))
    assert resumable.read() == FILE
    assert source.breaks == [(at, trouble)]
    assert str(at) in source.details[0]
    assert source.completed == [str(DIGEST)]


def test_a_file_that_breaks_again_and_again() -> None:
    stops = [10, 11, 70_000, 200_000]
    pieces = [
        (response(FILE[start:stop], Content_Length=len(FILE) - start), start)
        for start, stop in zip([0, *stops], [*stops, len(FILE)], strict=True)
    ]
    source = Elsewhere(*pieces[1:])
    resumable = reader(source, pieces[0][0])
    parts = list(iter(lambda: resumable.read(777), b""))
    assert b"".join(parts) == FILE
    assert source.breaks == [(stop, Trouble.CUT) for stop in stops]
    assert source.completed == [str(DIGEST)]


@pytest.mark.parametrize("at", [1, 65_536, 65_537, 150_000])
def test_a_server_without_range_is_read_again_and_skipped(at: int) -> None:
    source = Elsewhere((response(FILE, Content_Length=len(FILE)), 0))
    resumable = reader(source, response(FILE[:at], Content_Length=len(FILE)))
    assert resumable.read() == FILE
    assert source.completed == [str(DIGEST)]


def test_a_server_without_range_may_break_while_it_is_skipped() -> None:
    source = Elsewhere((response(FILE[:50], Content_Length=len(FILE)), 0), rest(100))
    resumable = reader(source, response(FILE[:100], Content_Length=len(FILE)))
    assert resumable.read() == FILE
    assert source.breaks == [(100, Trouble.CUT), (100, Trouble.CUT)]


def test_a_server_without_range_may_not_end_before_the_break() -> None:
    """Nobody said how long the file is: a shorter one is not the end of the one that was begun."""
    source = Elsewhere((response(*chunked(FILE[:50]), Transfer_Encoding="chunked"), 0), rest(100))
    first = response(*chunked(FILE[:100], end=False), Transfer_Encoding="chunked")
    resumable = ResumableBody(first, source, 0, None, DIGEST)
    assert resumable.read() == FILE
    assert source.breaks == [(100, Trouble.CUT), (100, Trouble.CUT)]


def test_more_than_was_announced_is_trouble() -> None:
    source = Elsewhere((response(*chunked(FILE[5:] + b"more"), Transfer_Encoding="chunked"), 5), rest)
    resumable = reader(source, response(FILE[:5], Content_Length=len(FILE)))
    assert resumable.read() == FILE
    assert [trouble for _, trouble in source.breaks] == [Trouble.CUT, Trouble.CUT]
    assert source.completed == [str(DIGEST)]


def test_when_nothing_is_left_the_reader_is_told() -> None:
    source = Elsewhere()
    resumable = reader(source, response(FILE[:5], Content_Length=len(FILE)))
    with pytest.raises(ConnectionError, match="nothing is left"):
        resumable.read()
    assert source.completed == []


def test_what_was_read_is_hashed_whoever_gave_it() -> None:
    source = Elsewhere((response(b"x" * (len(FILE) - 5), Content_Length=len(FILE) - 5), 5))
    resumable = reader(source, response(FILE[:5], Content_Length=len(FILE)))
    wrong = FILE[:5] + b"x" * (len(FILE) - 5)
    assert resumable.read() == wrong
    assert source.completed == ["sha256:" + hashlib.sha256(wrong).hexdigest()]


def test_a_part_of_a_file_is_not_hashed() -> None:
    source = Elsewhere(rest(100))
    resumable = ResumableBody(response(FILE[50:100], Content_Length=len(FILE) - 50), source, 50, len(FILE), None)
    assert resumable.read() == FILE[50:]
    assert source.breaks == [(100, Trouble.CUT)]
    assert source.completed == [None]


def test_an_empty_file() -> None:
    source = Elsewhere()
    resumable = ResumableBody(response(Content_Length=0), source, 0, 0, Digest("sha256", "x"))
    assert resumable.read() == b""
    assert resumable.closed
    assert source.completed == ["sha256:" + hashlib.sha256(b"").hexdigest()]


def test_a_file_that_is_left_off_is_not_complete() -> None:
    source = Elsewhere()
    raw = response(FILE, Content_Length=len(FILE))
    with reader(source, raw) as resumable:
        resumable.read(10)
    assert resumable.closed and is_fp_closed(raw)
    assert resumable.read() == b""
    assert source.completed == []


def test_urllib3_reads_it_as_any_other() -> None:
    source = Elsewhere(rest(100_000))
    resumable = reader(source, response(FILE[:100_000], Content_Length=len(FILE)))
    outer = urllib3.HTTPResponse(body=resumable, headers={"Content-Length": str(len(FILE))}, preload_content=False)
    assert b"".join(outer.stream(10_000)) == FILE
    assert is_fp_closed(outer._fp)
    buffered = io.BufferedReader(reader(Elsewhere(), response(FILE)))
    assert buffered.read(10) + buffered.read() == FILE


def dripping(clock: Clock, rate: int) -> list[Piece]:
    """FILE at `rate` bytes a second."""
    pieces: list[Piece] = []
    for start in range(0, len(FILE), rate):
        pieces += [lambda: clock.sleep(1), FILE[start : start + rate]]
    return pieces


@pytest.mark.parametrize(
    ("rate", "alone", "seconds"),
    [
        (20, False, SILENCE),  # as good as silent
        (RATE - 1000, False, SILENCE),
        (RATE - 1000, True, None),
        (RATE + 1000, False, None),
    ],
)
def test_a_transfer_that_is_too_slow_moves_on_while_there_is_an_alternative(
    rate: int, alone: bool, seconds: float | None
) -> None:
    clock = Clock()
    fast = response(FILE, Content_Length=len(FILE))
    source = Elsewhere((fast, 0), alone=alone)
    patience = Patience(60.0, clock=clock)
    resumable = reader(source, response(*dripping(clock, rate), patience=patience, Content_Length=len(FILE)))
    assert resumable.read() == FILE
    assert [trouble for _, trouble in source.breaks] == [Trouble.SLOW] * (seconds is not None)
    if seconds is not None:
        assert clock.now - 1000 == pytest.approx(seconds, abs=1.01)
    assert source.completed == [str(DIGEST)]


def test_time_in_which_nobody_reads_is_not_the_servers() -> None:
    clock = Clock()
    source = Elsewhere()
    patience = Patience(60.0, clock=clock)
    resumable = reader(source, response(*dripping(clock, 2 * RATE), patience=patience, Content_Length=len(FILE)))
    for _ in range(0, len(FILE), 1000):
        resumable.read(1000)
        clock.sleep(10)
    assert source.breaks == []


@pytest.mark.parametrize(("alone", "idle"), [(False, SILENCE), (True, 60.0)])
def test_silence_is_borne_for_less_long_while_there_is_an_alternative(alone: bool, idle: float) -> None:
    patience = Patience(60.0)
    raw = response(FILE, patience=patience, Content_Length=len(FILE))
    patience.deadline = 0.0  # a file's head had to come in time, its body takes as long as it takes
    resumable = reader(Elsewhere(alone=alone), raw)
    assert (patience.idle, patience.deadline) == (idle, float("inf"))
    resumable.close()
    assert is_fp_closed(raw)


# -- Hashes


def test_the_strongest_hash_counts() -> None:
    assert strongest({"md5": "A", "sha256": "B", "crc": "C"}) == Digest("sha256", "b")
    assert strongest({"md5": "A"}) == Digest("md5", "a")
    assert strongest({"crc": "C", "sha512": ""}) is strongest({}) is None


def test_a_file_on_disk_has_its_hash_or_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FILE)
    assert DIGEST.matches(str(path))
    path.write_bytes(FILE[:-1])
    assert not DIGEST.matches(str(path))
    assert str(DIGEST) == f"sha256:{DIGEST.value}"
