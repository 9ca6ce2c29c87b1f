"""Work that waits for others, done by several threads; what it gives, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")


def each(workers: int, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of each of `items`, in their order, by so many threads, which are never far ahead of who takes them.

    What `work` raises is raised here at that item's turn: what is under way is waited for, nothing else begins.
    """
    if workers == 1:
        yield from map(work, items)
        return
    # here, as loading it takes longer than many a run has to do
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for one in items:
                waiting.append(pool.submit(work, one))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
