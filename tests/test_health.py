"""The memory: what demotes, for how long, and a file that never stands in the way."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.config import Config
from cdn_fallback.health import FAILURES, FORMAT, MEMORY, PARK_LIMIT, SERIALS, Health, default_path
from cdn_fallback.lines import Flavour
from cdn_fallback.pool import Endpoint, Pool, Role
from cdn_fallback.transport import Transport
from cdn_fallback.verdicts import Attempt, Verdict
from tests.simulator import Clock

A, B = "https://a.example/", "192.0.2.1:443"
PAGE = "https://index.example/simple/six/"


def fresh(path: Path | None = None, clock: Clock | None = None, chance: float = 0.5) -> Health:
    """A process's memory; at a chance in the middle nothing is jittered."""
    health = Health(path, clock or Clock(), lambda: chance)
    health.load()
    return health


def fail(health: Health, key: str, times: int = FAILURES) -> None:
    for _ in range(times):
        health.failed(key)


def demoted_for(health: Health, clock: Clock, key: str) -> float:
    """How long `key` stays demoted, to a second."""
    start = clock.now
    while health.demoted(key):
        clock.now += 1
        assert clock.now - start < 2 * PARK_LIMIT
    return clock.now - start


# -- Demotion


def test_three_failures_in_a_row_demote() -> None:
    health = fresh()
    fail(health, A, FAILURES - 1)
    assert not health.demoted(A)
    fail(health, A, 1)
    assert health.demoted(A)
    assert not health.demoted(B)


def test_a_success_between_them_starts_the_count_anew() -> None:
    health = fresh()
    for _ in range(5):
        fail(health, A, FAILURES - 1)
        health.worked(A)
    assert not health.demoted(A)


def test_one_failure_that_somebody_waited_for_demotes() -> None:
    """For five minutes at least: who comes again meanwhile does not wait."""
    clock = Clock()
    health = fresh(clock=clock, chance=0.0)
    health.failed(A, costly=True)
    assert demoted_for(health, clock, A) >= 300


def test_demotions_double_up_to_a_limit_and_one_failure_renews_them() -> None:
    clock = Clock()
    health = fresh(clock=clock)
    fail(health, A)
    lengths = [demoted_for(health, clock, A)]
    for _ in range(6):
        health.failed(A)
        lengths.append(demoted_for(health, clock, A))
    assert lengths == [30, 60, 120, 240, 300, 300, 300]
    health.worked(A)
    fail(health, A)
    assert demoted_for(health, clock, A) == 30


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 27), (1.0, 33)])
def test_demotions_are_jittered(chance: float, seconds: float) -> None:
    clock = Clock()
    health = fresh(clock=clock, chance=chance)
    fail(health, A)
    assert demoted_for(health, clock, A) == seconds


def test_failures_while_demoted_do_not_prolong_it() -> None:
    clock = Clock()
    health = fresh(clock=clock)
    fail(health, A, 50)
    assert demoted_for(health, clock, A) == 30


def test_a_success_ends_a_demotion() -> None:
    health = fresh()
    fail(health, A)
    health.worked(A)
    assert not health.demoted(A)


def test_what_is_demoted_can_be_told() -> None:
    clock = Clock()
    health = fresh(clock=clock)
    fail(health, B)
    fail(health, A)
    health.failed("https://b.example/")
    assert list(health.demotions().items()) == [(B, clock.now + 30), (A, clock.now + 30)]
    clock.now += 31
    assert health.demotions() == {}


@pytest.mark.parametrize(("asked", "given"), [(10, 10), (3600, 3600), (10**9, PARK_LIMIT)])
def test_a_server_is_left_alone_as_long_as_it_asks(asked: float, given: float) -> None:
    clock = Clock()
    health = fresh(clock=clock)
    health.park(A, asked)
    assert demoted_for(health, clock, A) == given


# -- Connect times


def test_the_demoted_come_last_then_the_slow_and_what_is_alike_ties() -> None:
    health = fresh()
    for key, seconds in {"fast": 0.005, "fast too": 0.019, "near": 0.03, "far": 0.3, "bad": 0.001}.items():
        health.connected(key, seconds)
    fail(health, "bad")
    ranks = {key: health.rank(key) for key in ("unknown", "fast", "fast too", "near", "far", "bad")}
    assert ranks["fast"] == ranks["fast too"]
    assert ranks["fast"] < ranks["unknown"] == ranks["near"] < ranks["far"] < ranks["bad"]


def test_connect_times_are_smoothed_but_much_worse_is_believed_at_once() -> None:
    health = fresh()
    health.connected(B, 0.1)
    before = health.rank(B)
    health.connected(B, 0.19)
    assert health.rank(B) == before
    health.connected(B, 3.0)
    assert health.rank(B) > before
    for _ in range(40):
        health.connected(B, 0.1)
    assert health.rank(B) == before


def test_a_connect_time_survives_a_failure_and_a_success() -> None:
    health = fresh()
    health.connected(B, 0.3)
    rank = health.rank(B)
    fail(health, B)
    health.worked(B)
    assert health.rank(B) == rank


# -- Serials


def test_the_serial_last_accepted_is_known() -> None:
    health = fresh()
    assert health.serial(PAGE) == 0
    health.saw_serial(PAGE, 0)
    assert health.serial(PAGE) == 0
    health.saw_serial(PAGE, 7)
    health.saw_serial(PAGE, 5)  # an old page, accepted where nothing else was left
    assert health.serial(PAGE) == 5


# -- The file


def test_what_was_learnt_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "cdn-fallback" / "health.json"
    clock = Clock()
    health = fresh(path, clock)
    fail(health, A)
    health.connected(B, 0.3)
    health.saw_serial(PAGE, 7)
    health.save()
    again = fresh(path, clock)
    assert again.demoted(A)
    assert again.rank(B) == health.rank(B) > (False, 0)
    assert again.serial(PAGE) == 7


def test_nothing_is_written_when_nothing_was_learnt(tmp_path: Path) -> None:
    health = fresh(tmp_path / "health.json")
    health.worked(A)
    health.save()
    assert list(tmp_path.iterdir()) == []
    health.connected(B, 0.01)
    health.save()
    written = (tmp_path / "health.json").stat()
    health.connected(B, 0.012)  # as near as before
    health.save()
    assert (tmp_path / "health.json").stat() == written


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", Clock()
    one, two = fresh(path, clock), fresh(path, clock)
    fail(one, A)
    one.saw_serial(PAGE, 7)
    fail(two, B)
    two.saw_serial("https://index.example/simple/pip/", 8)
    one.save()
    two.save()
    third = fresh(path, clock)
    assert third.demoted(A) and third.demoted(B)
    assert (third.serial(PAGE), third.serial("https://index.example/simple/pip/")) == (7, 8)
    assert two.demoted(A)  # whoever writes also reads


def test_the_later_word_on_one_endpoint_counts(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", Clock()
    one, two = fresh(path, clock), fresh(path, clock)
    fail(one, A)
    clock.now += 1
    fail(two, A)
    clock.now += 1
    two.worked(A)
    two.save()
    one.save()
    assert not fresh(path, clock).demoted(A)
    assert not one.demoted(A)


def test_a_serial_that_was_only_read_does_not_overwrite_a_newer_one(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", Clock()
    first = fresh(path, clock)
    first.saw_serial(PAGE, 5)
    first.save()
    one, two = fresh(path, clock), fresh(path, clock)
    two.saw_serial(PAGE, 9)
    two.save()
    fail(one, A)
    one.save()
    assert fresh(path, clock).serial(PAGE) == one.serial(PAGE) == 9


def test_many_threads_may_use_it(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    health = fresh(path)

    def work(number: int) -> None:
        for turn in range(20):
            health.failed(f"https://{number}.example/")
            health.saw_serial(f"{PAGE}{number}", turn + 1)
            health.save()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = fresh(path)
    assert all(again.demoted(f"https://{number}.example/") for number in range(8))
    assert {again.serial(f"{PAGE}{number}") for number in range(8)} == {20}
    assert [file.name for file in tmp_path.iterdir()] == ["health.json"]


def test_the_file_stays_small(tmp_path: Path) -> None:
    """The projects last seen stay, and of the endpoints those of the last day."""
    path, clock = tmp_path / "health.json", Clock()
    health = fresh(path, clock)
    for number in range(SERIALS + 50):
        health.saw_serial(f"{PAGE}{number}", 1)
    fail(health, A)
    health.save()
    health.saw_serial(f"{PAGE}50", 2)  # the oldest that is left is seen again
    clock.now += MEMORY + 1
    fail(health, B)
    health.saw_serial(f"{PAGE}new", 3)
    health.save()
    data = json.loads(path.read_text(encoding="utf-8"))
    assert len(data["serials"]) == SERIALS
    assert {f"{PAGE}50", f"{PAGE}new"} <= set(data["serials"])
    assert f"{PAGE}49" not in data["serials"] and f"{PAGE}51" not in data["serials"]
    assert list(data["records"]) == [B]


RUBBISH: list[bytes] = [
    b"",
    b"{",
    b"\x00\xff\xfe",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"[" * 100_000,
    json.dumps({"format": FORMAT + 1, "records": {}, "serials": {}}).encode(),
    json.dumps({"format": FORMAT}).encode(),
    json.dumps({"format": FORMAT, "records": [], "serials": {}}).encode(),
    json.dumps({"format": FORMAT, "records": {A: None}, "serials": {}}).encode(),
    json.dumps({"format": FORMAT, "records": {A: {}}, "serials": {}}).encode(),
    json.dumps({"format": FORMAT, "records": {}, "serials": {PAGE: "seven"}}).encode(),
    json.dumps({"format": FORMAT, "records": {}, "serials": {PAGE: []}}).encode(),
    json.dumps({"format": FORMAT, "records": {}, "serials": {PAGE: float("inf")}}).encode(),
    json.dumps({"format": FORMAT, "records": {}, "serials": {PAGE: float("nan")}}).encode(),
]


def record(**changes: Any) -> bytes:
    fields = {"failures": 3, "demotions": 1, "until": 1010.0, "connect": 0.1, "seen": 1000.0, **changes}
    return json.dumps({"format": FORMAT, "records": {A: fields}, "serials": {}}).encode()


def test_the_record_that_the_rubbish_is_made_of_is_good(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_bytes(record())
    assert fresh(path).demoted(A)


NO_NUMBERS: list[object] = [float("nan"), float("inf"), -1, -(10**400), 10**400, "x", None, []]
FIELDS = ("failures", "demotions", "until", "connect", "seen")


@pytest.mark.parametrize(
    "content",
    [*RUBBISH, *[record(**{name: value}) for name in FIELDS for value in NO_NUMBERS]],
    ids=lambda content: content[:120].decode("latin-1"),
)
def test_a_corrupt_file_is_as_good_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "health.json"
    path.write_bytes(content)
    health = fresh(path)
    assert not health.demoted(A)
    assert health.serial(PAGE) == 0
    fail(health, A, FAILURES + 1)
    health.connected(A, 0.3)
    health.save()
    assert fresh(path).demoted(A)


def blocked_by_a_directory(path: Path) -> None:
    path.mkdir()


def blocked_by_a_full_directory(path: Path) -> None:
    path.mkdir()
    (path / "occupied").touch()


def blocked_by_a_file_above(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize("block", [blocked_by_a_directory, blocked_by_a_full_directory, blocked_by_a_file_above])
def test_a_file_that_cannot_be_is_no_harm(tmp_path: Path, block: Callable[[Path], None]) -> None:
    path = tmp_path / "cache" / "health.json"
    path.parent.mkdir()
    block(path)
    before = sorted(tmp_path.rglob("*"))
    health = fresh(path)
    fail(health, A)
    health.save()
    assert health.demoted(A)
    assert sorted(tmp_path.rglob("*")) == before  # no temporary file either


def test_a_directory_that_cannot_be_written_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By error, not by mode: the tests may run as root, whom no mode keeps out."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("read-only")

    health = fresh(tmp_path / "health.json")
    fail(health, A)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    health.save()
    assert health.demoted(A)


@pytest.mark.parametrize("error", [OSError("disk full"), PermissionError("no")])
def test_the_old_file_stays_whole_when_the_new_one_does_not_come_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    path = tmp_path / "health.json"
    health = fresh(path)
    fail(health, A)
    health.save()
    before = path.read_bytes()

    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", refuse)
    fail(health, B)
    health.save()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["health.json"]


def test_a_process_that_dies_while_it_writes_leaves_the_file_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing catches this one."""

    def die(*args: object) -> None:
        raise Killed

    path = tmp_path / "health.json"
    first, other = fresh(path), fresh(path)
    fail(first, A)
    first.save()
    before = path.read_bytes()
    fail(first, B)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", die)
        first.save()
    assert path.read_bytes() == before
    other.saw_serial(PAGE, 7)
    other.save()
    again = fresh(path)
    assert again.demoted(A) and not again.demoted(B)
    assert again.serial(PAGE) == 7


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    clock = Clock()
    clock.now += 10 * MEMORY
    ages = {"health.json.7.7": MEMORY + 1, "health.json.8.8": MEMORY - 1, "other.json.9.9": 2 * MEMORY}
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (clock.now - age, clock.now - age))
    health = fresh(tmp_path / "health.json", clock)
    fail(health, A)
    health.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["health.json", "health.json.8.8", "other.json.9.9"]


def test_the_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    """A hard link keeps the old content: a reader sees the one or the other, and nothing between."""
    path = tmp_path / "health.json"
    health = fresh(path)
    fail(health, A)
    health.save()
    before = path.read_bytes()
    os.link(path, tmp_path / "reader")
    fail(health, B)
    health.save()
    assert (tmp_path / "reader").read_bytes() == before != path.read_bytes()


def test_no_credential_gets_into_it(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    health = fresh(path)
    endpoint = Endpoint(A, Role.CDN, credentials=("user", "secret"))
    transport = Transport(Flavour(), Config((Pool("some", A, (endpoint,)),)), health)
    for verdict in Verdict:
        for address in ("192.0.2.1", "2001:db8::1", None):
            for _ in range(FAILURES):
                transport.noticed(Attempt(endpoint, A + "simple/six/", address, verdict, "did something", 9.0))
    transport.exhausted(endpoint, 9.0, 0.0)
    health.save()
    text = path.read_text(encoding="utf-8")
    assert A in text and "192.0.2.1:443" in text and "[2001:db8::1]:443" in text
    assert "user" not in text and "secret" not in text


# -- The clock


def test_a_clock_that_jumped_back_demotes_nobody_for_years(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", Clock()
    clock.now = 2_000_000_000.0
    health = fresh(path, clock)
    fail(health, A)
    health.save()
    clock.now = 1_000_000_000.0
    assert not health.demoted(A)
    again = fresh(path, clock)
    assert not again.demoted(A)
    fail(again, A)
    assert demoted_for(again, clock, A) == 30
    fail(again, B)
    again.save()
    assert fresh(path, clock).demoted(B)


def test_a_clock_that_jumped_far_forward_forgets(tmp_path: Path) -> None:
    path, clock = tmp_path / "health.json", Clock()
    health = fresh(path, clock)
    fail(health, A)
    health.saw_serial(PAGE, 7)
    health.save()
    clock.now += 10**9
    again = fresh(path, clock)
    assert not again.demoted(A)
    assert again.serial(PAGE) == 7
    fail(again, B)
    again.save()
    assert list(json.loads(path.read_text(encoding="utf-8"))["records"]) == [B]


# -- Where it lies


@pytest.mark.skipif(os.name == "nt", reason="Windows has a place of its own")
def test_it_lies_in_the_users_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert default_path({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/cdn-fallback/health.json")
    assert default_path({}) == Path.home() / ".cache/cdn-fallback/health.json"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_path({}) == Path.home() / "Library/Caches/cdn-fallback/health.json"


def test_without_a_home_it_lies_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.setattr(Path, "home", homeless)
    assert default_path({}) is None
    health = fresh(None)
    fail(health, A)
    health.save()
    assert health.demoted(A)
