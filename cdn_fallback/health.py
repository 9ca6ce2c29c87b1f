"""What is demoted and until when, how fast addresses connect, which serials were seen.

Remembered across processes in one small JSON file of the user's cache directory: written atomically, merged
with what others wrote meanwhile, ignored when it cannot be read. It holds no credential: its keys are base
URLs without userinfo, and addresses.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import random
from typing import Any, NamedTuple

FAILURES = 3  # in a row, then demoted; a failure that made somebody wait counts as all of them
DEMOTION = (30.0, 300.0)  # s: the first, doubled up to the last
COSTLY_DEMOTION = 340.0  # s: with the jitter not under five minutes, in which nobody shall wait for it again
PARK_LIMIT = 3600.0  # s: the longest Retry-After that is believed
MEMORY = 24 * 3600.0  # s: what nobody renewed for so long is forgotten
SERIALS = 1000  # projects whose highest serial is remembered
FORMAT = 1


class Record(NamedTuple):
    """What is known of one endpoint or address. Times are seconds since the epoch (UTC)."""

    failures: int = 0  # in a row
    demotions: int = 0  # in a row
    until: float = 0.0  # demoted until
    connect: float = 0.0  # s, smoothed (RFC 6298's alpha of 1/8); 0 is unknown
    seen: float = 0.0  # when this record last changed


class Health:
    """The memory. Every method may be called from several threads; none does I/O but `load` and `save`.

    :param path: the file, or ``None`` for a memory that ends with the process
    :param clock: the wall clock, as other processes and reboots share it; it may jump
    """

    def __init__(
        self,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random,
    ) -> None:
        self.path = path
        self._clock = clock
        self._chance = chance
        self._records: dict[str, Record] = {}
        self._serials: dict[str, int] = {}  # the file's and our own
        self._own: dict[str, int] = {}  # those that this process saw: they overrule the file's
        self._changed = False
        self._lock = threading.RLock()

    # -- demotion

    def demoted(self, key: str) -> bool:
        """Whether `key` belongs at the end of the queue now."""
        record = self._records.get(key)
        if record is None:
            return False
        # A clock that jumped back would leave something demoted for years: nothing is, beyond the limit.
        return 0.0 < record.until - self._clock() <= PARK_LIMIT

    def failed(self, key: str, *, costly: bool = False) -> None:
        """One more failure of `key`. A `costly` one (somebody waited for it) demotes at once, and for longest."""
        with self._lock:
            record = self._records.get(key, Record())
            failures = FAILURES if costly else record.failures + 1
            record = record._replace(failures=failures, seen=self._clock())
            if failures >= FAILURES and not self.demoted(key):
                seconds = min(DEMOTION[0] * 2 ** min(record.demotions, 10), DEMOTION[1])
                seconds = (COSTLY_DEMOTION if costly else seconds) * (0.9 + 0.2 * self._chance())
                # Once it is over, one more failure is enough: two of the three are kept.
                record = Record(
                    FAILURES - 1, record.demotions + 1, self._clock() + seconds, record.connect, record.seen
                )
            self._set(key, record)

    def park(self, key: str, seconds: float) -> None:
        """Demote `key` for `seconds`, as its own Retry-After asks."""
        with self._lock:
            until = self._clock() + min(seconds, PARK_LIMIT)
            self._set(key, self._records.get(key, Record())._replace(until=until, seen=self._clock()))

    def worked(self, key: str) -> None:
        """`key` gave an answer: whatever it failed before is over."""
        with self._lock:
            record = self._records.get(key)
            if record is not None and (record.failures or record.until or record.demotions):
                self._set(key, Record(connect=record.connect, seen=self._clock()))

    def demotions(self) -> dict[str, float]:
        """What is demoted now, and until when (seconds since the epoch)."""
        return {key: record.until for key, record in sorted(self._records.items()) if self.demoted(key)}

    # -- connect times

    def connected(self, key: str, seconds: float) -> None:
        """A connection to `key` took `seconds`, or had not come about after so many."""
        with self._lock:
            record = self._records.get(key, Record())
            smoothed = seconds if not record.connect else record.connect + (seconds - record.connect) / 8
            if _bucket(seconds) > _bucket(smoothed) + 1:
                smoothed = seconds  # it got much worse: do not wait for the average to follow
            if not record.connect or _bucket(smoothed) != _bucket(record.connect):
                self._set(key, record._replace(connect=smoothed, seen=self._clock()))
            else:  # the same class: not worth a write
                self._records[key] = record._replace(connect=smoothed)

    def rank(self, key: str) -> tuple[bool, int]:
        """Sorts addresses: the demoted last, then by connect time in powers of two; what ties is equal.

        An unknown one stands behind those that are known to be near.
        """
        record = self._records.get(key)
        return self.demoted(key), _bucket(record.connect) if record and record.connect else 1

    # -- freshness

    def serial(self, url: str) -> int:
        """The highest serial seen of the page at the canonical `url`; 0 if none."""
        return self._serials.get(url, 0)

    def saw_serial(self, url: str, serial: int) -> None:
        """The page at `url` was accepted with `serial` (which may be lower: the index itself went back)."""
        with self._lock:
            if serial and self._serials.get(url) != serial:
                for serials in (self._serials, self._own):
                    serials.pop(url, None)  # the last seen stands last
                    serials[url] = serial
                self._changed = True

    # -- the file

    def _set(self, key: str, record: Record) -> None:
        self._records[key] = record
        self._changed = True

    def load(self) -> None:
        """Take over what the file holds. Never raises: a memory that cannot be read is empty."""
        with self._lock:
            records, serials = self._read()
            for key, record in records.items():
                if record.seen > self._records.get(key, Record()).seen:
                    self._records[key] = record
            self._serials = {url: s for url, s in serials.items() if url not in self._own} | self._own

    def save(self) -> None:
        """Write what changed, merged with what others wrote. Never raises: no memory is no harm."""
        with self._lock:
            if self.path is None or not self._changed:
                return
            self._changed = False
            self.load()
            recent = self._clock() - MEMORY
            records = {k: r._asdict() for k, r in self._records.items() if r.seen > recent}
            serials = dict(list(self._serials.items())[-SERIALS:])
            text = json.dumps({"format": FORMAT, "records": records, "serials": serials})
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    temporary.write_text(text, encoding="utf-8")
                    os.replace(temporary, self.path)
                except OSError:
                    temporary.unlink(missing_ok=True)
                for left in self.path.parent.glob(f"{self.path.name}.*"):
                    if left.stat().st_mtime < recent:  # its writer was killed
                        left.unlink(missing_ok=True)
            except OSError:
                return

    def _read(self) -> tuple[dict[str, Record], dict[str, int]]:
        if self.path is None:
            return {}, {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                return {}, {}
            now = self._clock()
            records = {str(k): _record(v) for k, v in data["records"].items()}
            serials = {str(k): int(v) for k, v in data["serials"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return {}, {}
        return {k: r for k, r in records.items() if r.seen <= now + PARK_LIMIT}, serials


def _record(data: Mapping[str, Any]) -> Record:
    counts = {name: int(data[name]) for name in ("failures", "demotions")}
    times = {name: float(data[name]) for name in ("until", "connect", "seen")}
    if not all(math.isfinite(n) and n >= 0 for n in (*counts.values(), *times.values())):
        raise ValueError("no count or no time")
    return Record(counts["failures"], counts["demotions"], times["until"], times["connect"], times["seen"])


def _bucket(seconds: float) -> int:
    """0 up to 20 ms, then one more for each doubling: what differs less is chance."""
    return max(0, math.ceil(math.log2(seconds / 0.02))) if seconds > 0.02 else 0


@functools.cache
def remembered() -> Health:
    """The user's memory, one for the process, at whose end it is written down."""
    health = Health(default_path())
    health.load()
    atexit.register(health.save)
    return health


def default_path(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the memory lies: the user's cache directory; ``None`` where there is none."""
    try:
        if os.name == "nt":
            root = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            root = Path.home() / "Library" / "Caches"
        else:
            root = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home directory at all
        return None
    return root / "cdn-fallback" / "health.json"
