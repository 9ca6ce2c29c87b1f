"""What a publish would do, and what that costs. Writes nothing anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.due import Due
from cdn_fallback.mirror.ownership import is_unclaimed
from cdn_fallback.mirror.report import Report, is_file
from cdn_fallback.mirror.site import Object
from cdn_fallback.mirror.stores import PART, Store

Progress = Callable[[str, int, int], None]


def plan(catalog: Catalog, store: Store, due: Due, until: int, progress: Progress) -> Report:
    """What a publish of what is `due` would do, where what was doomed by `until` (Unix time) is deleted.

    What cannot be known is not in it: which bytes are not to be had, and how many bytes metadata has.

    :raises StoreError: if the store is somebody else's
    """
    ledger = catalog.ledger
    outlived = set(ledger.doomed(until))
    if not due.anything():
        return Report(deletes=len(outlived))
    is_unclaimed(store, catalog)
    report = Report(generation=due.generation)
    settled: dict[int, int | None] = {}
    for found in due.projects(progress):
        settled[found.id] = found.serial
        files = sum(map(is_file, found.gone))
        outlived.difference_update(found.spared)
        report = _with_puts(report, [*found.files, *found.pages], outlived)
        report = report._replace(
            projects=report.projects + 1,
            deletes=report.deletes + len(found.gone) - files,
            doomed=report.doomed + files,
            invalidations=report.invalidations + due.invalidated(found),
        )
    static = list(due.static())
    report = _with_puts(report, [*static, *due.lists(settled)], outlived)
    gone = {one.key for one in due.removed_static()} & ledger.of(None).keys()
    blocking = {key for one in static for key, project in ledger.in_the_way(one.key) if project is None}
    return report._replace(
        deletes=report.deletes + len(outlived | blocking), doomed=report.doomed + len(gone - blocking)
    )


def _with_puts(report: Report, objects: Iterable[Object], due: set[str]) -> Report:
    """With `objects` to be put; they are no longer among those that are `due` to be deleted."""
    objects = list(objects)
    due.difference_update(one.key for one in objects)
    sizes = [one.size or 0 for one in objects]
    parts = sum(math.ceil(size / PART) + 1 for size in sizes if size > PART)
    return report._replace(puts=report.puts + len(objects), bytes=report.bytes + sum(sizes), parts=report.parts + parts)
