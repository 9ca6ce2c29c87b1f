"""What may fail in the whole picture, alone and in pairs: who is left, who then serves, and how long it may take.

Pure: `tests.rig.picture` lets it happen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cdn_fallback.dial import STAGGER
from cdn_fallback.failover import Timeouts
from cdn_fallback.lines import RESOLVE_TIMEOUT
from tests.rig.picture import EDGES, NAMES, REDIRECTORS

# What it is that fails -> its components. The last two have none: names come late, and nobody runs the mirror.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in REDIRECTORS}, "redirectors": REDIRECTORS,
    **{name: (name,) for name in EDGES}, "edges": EDGES,
    "bucket": ("bucket",), "origin": ("origin",),
    "names": (), "mirror": (),
}  # fmt: skip
_NOBODY = ("refuse", "blackhole")
_LATE = ("1s", "2s", "6s")  # in pairs the first, for the time that it takes
WAYS: Mapping[str, tuple[str, ...]] = {
    what: (*_NOBODY, "sick") if what.startswith("edge") else _NOBODY for what in COMPONENTS
} | {"names": _LATE, "mirror": ("stuck",)}


class Failure(NamedTuple):
    """One of COMPONENTS, and one of its WAYS."""

    what: str
    way: str

    @property
    def components(self) -> tuple[str, ...]:
        return COMPONENTS[self.what]


@dataclass(frozen=True, slots=True)
class Case:
    """What fails at once. The edges have cached everything that is published, or, if not `warm`, nothing."""

    failures: tuple[Failure, ...]
    warm: bool = True

    def __str__(self) -> str:
        words = [f"{what}-{way}" for what, way in self.failures] or ["nothing"]
        return "+".join(words) + ("" if self.warm else "+cold")

    # --- what it means ---

    @property
    def ways(self) -> dict[str, str]:
        """Component that is down -> how."""
        return {name: failure.way for failure in self.failures for name in failure.components}

    @property
    def late(self) -> float:
        """s that each name takes to resolve, beyond the usual."""
        return next((float(way[:-1]) for what, way in self.failures if what == "names"), 0.0)

    @property
    def stuck(self) -> bool:
        """Whether there is something at the origin that nobody has published."""
        return any(failure.what == "mirror" for failure in self.failures)

    def up(self, *names: str) -> set[str]:
        """Those of these components, or of all, that are there."""
        return set(names or NAMES) - set(self.ways)

    @property
    def copies(self) -> set[str]:
        """Where what is published can be had: the origin, and edges that have cached it or have their bucket."""
        edges = self.up(*EDGES) if self.warm or self.up("bucket") else set()
        return edges | self.up("origin")

    @property
    def servers(self) -> set[str]:
        """By whom it is served: by edges while there are any, for they come before the origin."""
        return self.copies & set(EDGES) or self.copies

    # --- what may be asked of the client ---

    @property
    def in_order(self) -> bool:
        """Whether the client has all its names in time, so that it asks who is up in the order of the pool."""
        return self.late < RESOLVE_TIMEOUT

    def delay(self, walks: int) -> float:
        """s that an installation which asks for `walks` pages and files may take more than one without failures.

        By docs/concepts.md, "What bounds time". A failure of more than one second demotes, so that each of the
        long ones is met once in a process. No sum of them is promised where names are lost: then it is a walk's all.
        """
        if not self.in_order:
            return _BOUNDS.budget
        silent = {name for name, way in self.ways.items() if way == "blackhole"}
        seconds = 3 * self.late  # the index, the CDN, the origin: addresses are kept for a minute
        seconds += STAGGER * len(silent & {*REDIRECTORS, *EDGES}) * walks
        if silent >= set(REDIRECTORS):
            seconds += _BOUNDS.connect_else
        if not self.servers & set(EDGES):  # each of them is tried
            seconds += _BOUNDS.connect_else * bool(silent & set(EDGES))
            if "bucket" in silent:  # those that are up answer late, or not at all
                seconds += sum(max(1.0, _BOUNDS.silence_else / 2**n) for n in range(len(self.up(*EDGES))))
        if self.stuck and "origin" in silent:  # asked last, for a newer page than the edges have
            seconds += _BOUNDS.connect
        return seconds


_BOUNDS = Timeouts()


def contains(one: str, other: str) -> bool:
    """Whether what fails in the one fails in the other, too: a pair of them is no pair."""
    return bool(set(COMPONENTS[one]) & set(COMPONENTS[other]))


def singles() -> Iterator[Case]:
    """Each failure, in each of its ways."""
    for what, ways in WAYS.items():
        for way in ways if what != "names" else ways[1:]:
            yield Case((Failure(what, way),))


def pairs() -> Iterator[Case]:
    """Every pair, each once: the ways take turns, so that every failure is met in each of its own.

    But names are always 1 s late: alone they are later.
    """
    numbered = list(enumerate(COMPONENTS))
    for (i, one), (j, other) in itertools.combinations(numbered, 2):
        if not contains(one, other):
            yield Case((_turn(one, j), _turn(other, i + j // 2)))


def _turn(what: str, number: int) -> Failure:
    ways = WAYS[what] if what != "names" else _LATE[:1]
    return Failure(what, ways[number % len(ways)])


def cases() -> list[Case]:
    """The whole matrix: with warm edges; and with cold ones where the bucket is down, and somebody else is up."""
    warm = [*singles(), *pairs()]
    matters = [case for case in warm if "bucket" in case.ways and case.up("origin") and case.up(*EDGES)]
    cold = [Case(case.failures, warm=False) for case in matters]
    return warm + cold
