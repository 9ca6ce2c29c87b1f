"""What differs between the catalog and the store, project by project; for many projects in several processes.

Rendering is what costs: 15 million files are minutes of CPU. Each process reads the catalog by itself, and sends
back only what differs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.model import NOTHING
from cdn_fallback.mirror.site import Difference, Rules, difference

if TYPE_CHECKING:
    from concurrent.futures import Future

CHUNK = 500  # projects
ALONE = 20000  # projects up to which one process is faster than several

Found = tuple[int, int, list[Difference]]


def differences(
    path: Path, ids: Sequence[int], rules: Rules, *, anew: bool, workers: int | None = None
) -> Iterator[Found]:
    """What differs, in the order of `ids`, as (how many were looked at so far, of how many, what was found).

    :param path: the catalog's; what others commit to it meanwhile may be seen or not
    :param anew: see `site.difference`
    """
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    arguments = [(path, chunk, rules, anew) for chunk in chunks]
    done = 0
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(ids) <= ALONE:
        try:
            for one in arguments:
                done += len(one[1])
                yield done, len(ids), _look(*one)
        finally:
            _close()
        return
    # here, as loading them takes longer than most publishes
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # spawned: a forked child would share SQLite's locks and whatever thread holds one
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: deque[tuple[int, Future[list[Difference]]]] = deque()
        try:
            for one in arguments:
                waiting.append((len(one[1]), pool.submit(_look, *one)))
                if len(waiting) > 2 * workers:  # what is found waits here, in memory
                    count, future = waiting.popleft()
                    done += count
                    yield done, len(ids), future.result()
            for count, future in waiting:
                done += count
                yield done, len(ids), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_open: dict[Path, Catalog] = {}


def _look(path: Path, ids: Sequence[int], rules: Rules, anew: bool) -> list[Difference]:
    catalog = _open.get(path) or _open.setdefault(path, Catalog.read(path))
    found = []
    ledger = catalog.ledger
    some_doomed = ledger.some_doomed()
    for record in catalog.history.shown(catalog.content.records(ids)):
        doomed = ledger.doomed_of(record.id) if some_doomed else NOTHING
        one = difference(record, ledger.of(record.id), rules, anew=anew, doomed=doomed)
        if not one.settled:
            found.append(one)
    return found


def _close() -> None:
    while _open:
        _open.popitem()[1].close()
