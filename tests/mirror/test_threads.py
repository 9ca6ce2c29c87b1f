"""Work done by several threads, told in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cdn_fallback.mirror.threads import each

WORKERS = pytest.mark.parametrize("workers", [1, 2, 8])


@WORKERS
def test_each_is_told_in_its_order(workers: int) -> None:
    assert list(each(workers, lambda n: n * n, range(100))) == [n * n for n in range(100)]
    assert list(each(workers, str, [])) == []


def test_so_many_work_at_once() -> None:
    together = threading.Barrier(4, timeout=30)

    def work(number: int) -> int:
        together.wait()
        return number

    assert list(each(4, work, range(8))) == list(range(8))


def test_one_worker_needs_no_thread() -> None:
    here = threading.current_thread()
    assert set(each(1, lambda _: threading.current_thread(), range(3))) == {here}


@WORKERS
def test_what_work_raises_is_raised_at_its_turn_and_nothing_else_begins(workers: int) -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise KeyError(number)
        return number

    told = []
    with pytest.raises(KeyError, match="5"):
        for one in each(workers, work, range(1000)):
            told.append(one)
    assert told == [0, 1, 2, 3, 4] and len(begun) <= 5 + 1 + 2 * workers + 1


def test_what_waits_for_a_thread_is_given_up_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go.set()
            super().shutdown(wait=True)

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", Pool)
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise KeyError(number)
        assert go.wait(30)

    with pytest.raises(KeyError):
        list(each(2, work, range(100)))
    assert set(begun) <= {0, 1, 2}


@WORKERS
def test_the_threads_are_never_far_ahead(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = each(workers, lambda n: n, items())
    assert [next(results) for _ in range(10)] == list(range(10))
    assert taken <= 10 + 2 * workers + 1
    results.close()  # type: ignore[attr-defined]
    assert taken <= 10 + 2 * workers + 1


def test_the_items_are_asked_for_by_the_caller_alone() -> None:
    """They may come from SQLite, which wants one thread."""
    here = threading.current_thread()

    def items() -> Iterator[int]:
        for number in range(50):
            assert threading.current_thread() is here
            yield number

    assert len(list(each(4, lambda n: n, items()))) == 50


@WORKERS
def test_it_leaves_no_thread_behind(workers: int) -> None:
    before = threading.active_count()
    list(each(workers, lambda n: n, range(20)))
    results = each(workers, lambda n: n, range(20))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
