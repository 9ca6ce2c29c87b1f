"""One publisher: the mark of a store says whose it is and who publishes to it now.

    free --(conditional put)--> held, turn 1 --> turn 2 --> ... --> free
                                 |  whoever holds it writes the next turn every RENEW seconds
                                 +--> taken over, when nothing has changed for LEASE seconds

A conditional put fails if the mark is no longer the one that was read, so of several that put only one gets it. The
one who was cut off cannot know that it was taken over: it goes by its own clock, and stops long before (`check`).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cdn_fallback.errors import printable
from cdn_fallback.mirror.errors import AtWork
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.mark import LONGEST, Marked, Owner, read, written
from cdn_fallback.mirror.stores import MARKER, Mark, StoreError

# All in seconds. A publisher begins no put when its lease was last confirmed UNSURE ago, and its last one has ended
# LONGEST_PUT later, the client's own retries included. Another takes over what it saw unchanged for LEASE. As
# UNSURE + LONGEST_PUT < LEASE, nothing of a publisher that was stopped or cut off is on its way any more by then; but
# for a request that was sent before and lay in the network, or in a process that slept, for longer than LONGEST_PUT.
LEASE = 270.0
RENEW = 20.0
UNSURE = 60.0
LONGEST_PUT = 180.0
SKEW = 300.0  # the clocks of this machine and of the store may differ by so much
_AGAIN = 5.0  # a renewal that failed is tried again
_PARTING = 30.0  # a store that hangs is waited for at the end; who comes next can do without the release
_TRIES = 5

Told = Callable[[str], None]


def _elapsed() -> float:
    # CLOCK_BOOTTIME goes on while the machine sleeps, and the lease runs out meanwhile; CLOCK_MONOTONIC does not.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Clock(NamedTuple):
    """Time, as the lease is given it."""

    now: Callable[[], float] = time.time  # Unix time, which may be wrong
    elapsed: Callable[[], float] = _elapsed  # seconds since some moment, which are right
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait  # so many seconds, or until it is set


_CLOCK = Clock()


class Leased(AtWork):
    """Another publisher is at work.

    :param where: the store
    :param who: its holder, as the mark has it
    """

    def __init__(self, where: str, who: str) -> None:
        super().__init__(where, who)
        self.where = where
        self.who = who

    def __str__(self) -> str:
        return printable(
            f"{self.where}: another publisher is at work ({self.who}); wait for its end, nothing was done. "
            f"If it was killed, run again in {math.ceil(LEASE / 60)} minutes: its lease will be taken over"
        )


@contextlib.contextmanager
def hold(
    store: Marked, catalog: str, who: Who, *, clock: Clock = _CLOCK, told: Told = lambda text: None
) -> Iterator[Lease]:
    """Be the one who publishes the catalog of this identity to the store.

    Only who has the catalog's lock may call it: `who` is what `lock.held` gave. A store that is nobody's becomes ours.

    :param told: is told if it takes minutes because somebody may still be at work
    :raises Leased: if another is at work
    :raises StoreError: for a store of another catalog, one with another idea of the time, and what else a store raises
    """
    lease = Lease(store, Owner(catalog, printable(who.holder)[:LONGEST], who.place, uuid.uuid4().hex), clock)
    over = threading.Event()
    # After the first put all requests are this thread's: no release overtakes a renewal.
    keeper = threading.Thread(target=_keep, args=(lease, over, clock), name="lease", daemon=True)
    try:
        lease.take(told)
        keeper.start()
        lease.compare_clocks()
        yield lease
    finally:
        lease.end()
        over.set()
        if keeper.ident is None:  # it was not taken; but it may be, by a put whose answer was lost
            keeper.start()
        keeper.join(_PARTING)


def hand_over(store: Marked, catalog: str, to: str) -> None:
    """From now on the store, to which nobody publishes, is the catalog's with the identity `to`.

    :raises Leased: if somebody publishes to it
    :raises StoreError: if it is not `catalog`'s
    """
    body = written(Owner(to))
    for _ in range(_TRIES):
        mark = store.mark()
        found = read(store, mark)
        if mark is not None and mark.body == body:  # an answer was lost
            return
        if mark is None or found is None or found.catalog != catalog:
            raise StoreError(store.where, f"is not the catalog's any more that it was ({catalog}); look who has it")
        if found.run:
            raise Leased(store.where, found.holder)
        if store.set_mark(body, mark.tag) is not None:
            return
    raise Leased(store.where, "more than one at once")


def _keep(lease: Lease, over: threading.Event, clock: Clock) -> None:
    pause = RENEW
    while not clock.wait(over, pause):
        pause = RENEW if lease.renew() else _AGAIN
    lease.release()


class Lease:
    """The right to publish to the store, for as long as `check` lets pass. `hold` makes, renews and ends it."""

    def __init__(self, store: Marked, mine: Owner, clock: Clock) -> None:
        self._store = store
        self._mine = mine  # as it was put last, whether or not that was heard of
        self._clock = clock
        self._tag = ""  # of the mark that we wrote
        self._asked = 0.0  # Unix time before the last put
        self._confirmed = -math.inf  # `elapsed` before the last put that is known to have been done
        self._lost = ""  # why it is ours no more
        self._trouble = ""  # why the last renewal failed

    def check(self) -> None:
        """Nothing if nobody else can be at work. To be called before every put and every delete, by any thread.

        :raises StoreError: if another has taken over, or may do so soon
        """
        if self._lost:
            raise StoreError(self._store.where, self._lost)
        if self._clock.elapsed() - self._confirmed >= UNSURE:
            why = f" ({self._trouble})" if self._trouble else ""
            problem = f"the lease could not be renewed for {UNSURE:.0f} s{why}, so another publisher may take over soon"
            raise StoreError(self._store.where, f"{problem}; nothing more is put. Run again when the store answers")

    def take(self, told: Told) -> None:
        """Make the mark ours. Raises Leased and StoreError."""
        found = None
        for _ in range(_TRIES):
            mark = self._store.mark()
            found = self._ours(mark)
            if mark and found and self._is_held(found):
                self._watch(mark, found, told)
            if self._put(mark.tag if mark else None):
                return
        raise Leased(self._store.where, found.holder if found and found.holder else "more than one at once")

    def compare_clocks(self) -> None:
        """The times at which removed files may go, and signatures, are told by this machine's clock.

        :raises StoreError: if that and the store's are too far apart
        """
        asked = self._asked
        mark = self._store.mark()
        found = self._ours(mark)
        if mark is None or found is None or found.run != self._mine.run:
            raise Leased(self._store.where, _taker(found))
        ahead, behind = asked - mark.at, mark.at - self._clock.now()
        if max(ahead, behind) > SKEW:
            apart = f"{ahead:.0f} s ahead of" if ahead > behind else f"{behind:.0f} s behind"
            problem = f"this machine's clock is {apart} the store's; set it (NTP) and run again, nothing was done"
            why = "when removed files may go, and whether a signature is valid, go by it"
            raise StoreError(self._store.where, f"{problem}: {why}")

    def renew(self) -> bool:
        """Write the next turn. Returns whether that is known to be done; if not, the next try may do better."""
        try:
            for _ in range(_TRIES):
                if self._lost:
                    return False
                if self._put(self._tag):
                    self._trouble = ""
                    return True
                mark = self._store.mark()
                found = read(self._store, mark)
                if mark is None or found is None or found.run != self._mine.run:
                    problem = f"{_taker(found)} has taken over the lease; nothing more is put. Run again"
                    self._lost = self._lost or problem
                else:  # an earlier put, which was said to have failed. When it was done nobody knows: it proves nothing
                    self._tag = mark.tag
        except StoreError as exc:
            self._trouble = str(exc)
        return False

    def end(self) -> None:
        """From now on `check` raises."""
        self._lost = self._lost or "the lease was given back"

    def release(self) -> None:
        """Make the store free, if it is still ours. Where that fails, the next one takes over."""
        if not self._mine.turn:
            return
        with contextlib.suppress(StoreError):
            mark = self._store.mark()
            found = read(self._store, mark)
            if mark and found and found.run == self._mine.run:
                self._store.set_mark(written(Owner(found.catalog)), mark.tag)

    def _put(self, tag: str | None) -> bool:
        """Write the next turn over the mark of `tag`. Returns whether that is known to be done."""
        self._mine = self._mine._replace(turn=self._mine.turn + 1)
        body = written(self._mine)
        self._asked, begun = self._clock.now(), self._clock.elapsed()
        new = self._store.set_mark(body, tag)
        if new is None:  # another's; or ours: an answer was lost, and the client's own retry met what it had put
            mark = self._store.mark()
            if mark is None or mark.body != body:
                return False
            new = mark.tag
        # When it was done lies between `begun` and now, and only the first is on the safe side.
        self._tag, self._confirmed = new, begun
        return True

    def _watch(self, mark: Mark, found: Owner, told: Told) -> None:
        """See whether its holder is alive. Raises Leased if it is, or if that cannot be told yet."""
        if abs(self._clock.now() - mark.at) <= LEASE:
            raise Leased(self._store.where, found.holder)
        # It looks dead, but the time may be wrong, here or there. Whether it moves is seen without.
        doubt = f"{found.holder} has left its lease behind, or a clock is wrong"
        told(printable(f"{self._store.where}: {doubt}; watching it for {LEASE:.0f} s before taking over"))
        end = self._clock.elapsed() + LEASE
        while (left := end - self._clock.elapsed()) > 0:
            self._clock.wait(threading.Event(), min(RENEW, left))
            now = self._store.mark()
            if now is None or (now.body, now.tag) != (mark.body, mark.tag):
                changed = self._ours(now)
                if changed is not None and self._is_held(changed):
                    raise Leased(self._store.where, changed.holder)
                return  # given back; the put will fail, and what is there now is looked at

    def _is_held(self, found: Owner) -> bool:
        """Whether somebody may be at work. At our own place nobody is: we have the lock that such a one would have."""
        if not found.run or found.run == self._mine.run:
            return False
        return not found.place or found.place != self._mine.place

    def _ours(self, mark: Mark | None) -> Owner | None:
        found = read(self._store, mark)
        if found is not None and found.catalog != self._mine.catalog:
            problem = f"belongs to another catalog ({found.catalog}); name another store, or use that catalog"
            raise StoreError(self._store.where, problem)
        return found


def _taker(found: Owner | None) -> str:
    if found is None:
        return f"somebody who removed {MARKER}"
    return found.holder or "somebody who is gone again"
