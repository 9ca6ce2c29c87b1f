"""One step of a mirror's work, measured in a process of its own: what bench.mirror_scale is made of."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from bench.processes import run
from cdn_fallback.mirror import sync
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.site import Headers, Object, Rules
from cdn_fallback.mirror.stores import Body, Head, Mark, Opened, Put, Store, Stored
from cdn_fallback.mirror.stores.directory import DirectoryStore

if TYPE_CHECKING:
    from bench.catalogue import Round

NOW = 1_790_000_000.0  # s, Unix time of the first run; each round is ten minutes later
KEPT = 1_000_000  # files, up to which objects are written: beyond it they are counted


class Job(NamedTuple):
    """One step: what a process of its own does in `folder`."""

    folder: str
    files: int
    legacy: bool = False  # also pypi/NAME/json
    rounds: tuple[Round, ...] = ()  # of change, until now
    syncs: bool = False
    publishes: bool = False
    everything: bool = False


class Done(NamedTuple):
    """What a step took and did: CPU of the whole process, less what making the index up took."""

    cpu: float  # s
    start: float  # s of it before the step: Python, and what it loads
    wall: float  # s, without the start
    memory: int  # bytes
    projects: int  # that a sync found changed, or a publish
    puts: int
    bytes: int  # of what was put


class CountingStore:
    """A store that keeps nothing but its mark: a full run has no use for five million files."""

    def __init__(self, folder: Path) -> None:
        self._mark = DirectoryStore(folder)

    workers = 1
    where = "nowhere"

    def put(self, key: str, body: bytes | Body, headers: Headers, digest: bytes) -> Put:
        assert isinstance(body, bytes), "what is made up has no files"
        return Put(len(body))

    def delete(self, keys: Iterable[str]) -> None:
        pass

    def list(self) -> Iterator[Stored]:
        return iter(())

    def head(self, key: str) -> Head | None:
        return None

    def open(self, key: str) -> Opened | None:
        return None

    def flush(self) -> None:
        pass

    def mark(self) -> Mark | None:
        return self._mark.mark()

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        return self._mark.set_mark(body, tag)


def spent() -> float:
    """CPU seconds of this process and its children so far. os.times() would count in hundredths."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def work(job: Job) -> Done:
    """Do a step, here. How much memory it took only another process can tell."""
    start = spent()
    from bench.catalogue import Catalogue  # not before: what it loads is no cost of ours

    folder = Path(job.folder)
    source = Catalogue(job.files, job.rounds)
    store: Store = DirectoryStore(folder / "site") if job.files <= KEPT else CountingStore(folder / "mark")
    listed = len(source.tokens)  # made up before the clock starts

    def read(wanted: Object) -> BinaryIO:
        assert wanted.file
        return source.open(wanted.file)

    before, clock, now = spent(), time.perf_counter(), NOW + 600 * len(job.rounds)
    synced, published = sync.Report(), Report()
    with contextlib.closing(Catalog.open(folder / "catalog.sqlite")) as catalog:
        if job.syncs:
            synced = sync.sync(source, catalog, now)
        if job.publishes:
            rules = Rules("https://pypi.example.org/", job.legacy)
            publisher = Publisher(catalog, store, rules, read, Who("bench", "here"), done=source.published)
            published = publisher.publish(now, everything=job.everything)
    wall, cpu = time.perf_counter() - clock, spent() - before - source.spent
    if synced.failed or synced.rejected or published.held:
        raise SystemExit(f"of {listed} projects not all went in: {synced.failed} {synced.rejected} {published.held}")
    changed = published.projects if job.publishes else synced.changed
    return Done(start + cpu, start, wall - source.spent, 0, changed, published.puts, published.bytes)


def step(job: Job) -> Done:
    """Do it in a process of its own."""
    result = Path(job.folder, "done.json")
    command = [sys.executable, "-m", "bench.mirror_steps", json.dumps(job), str(result)]
    cost = run(command, result.with_name("log"))
    return Done(*json.loads(result.read_text()))._replace(memory=cost.memory)


def main() -> None:
    """`python -m bench.mirror_steps JOB FILE`: the figures go to FILE."""
    job = Job(*json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(work(job)))


if __name__ == "__main__":
    main()
