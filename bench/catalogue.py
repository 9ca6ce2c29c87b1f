"""A made-up index of any size, as a source: `Catalogue(100_000)` has 100 thousand files in 5.7 thousand projects.

Names, counts and the lengths of fields are like those of the public index (FACTS, part B): five files in the median
project and 17.6 in the mean one, a few thousand in the largest; links with a hash for a path; 38 % of the names
written otherwise than normalised. Nothing is drawn by chance: a file is the same in every process and every run.
"""

from __future__ import annotations

import calendar
import hashlib
import heapq
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from statistics import NormalDist
from typing import BinaryIO, NamedTuple

from cdn_fallback.mirror.model import NOTHING, File, Project
from cdn_fallback.mirror.sources import Listing, ProjectError

HOST = "https://files.example.org"
FULL = 15_600_000  # files; in 886 thousand projects
MEDIAN, MEAN = 5, 17.6  # files of a project
# Log-normal: median exp(mu), mean exp(mu + sigma^2 / 2).
_SIGMA = math.sqrt(2 * math.log(MEAN / MEDIAN))
_STEP = 2_654_435_761  # a prime: numbers times this, modulo anything smaller, are a permutation
_SERIAL = 20_000_000
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

_WORDS = (
    "aio", "api", "async", "auto", "base", "bio", "cache", "cli", "client", "cloud", "code", "core", "data", "db",
    "demo", "django", "docs", "easy", "fast", "file", "flask", "geo", "graph", "http", "image", "io", "json", "kit",
    "lab", "learn", "lib", "light", "log", "math", "meta", "micro", "ml", "model", "mongo", "net", "nlp", "open",
    "parser", "plugin", "py", "pytest", "quick", "rest", "robot", "schema", "sdk", "search", "simple", "smart", "sql",
    "stream", "sync", "task", "test", "text", "tool", "utils", "web", "xml", "zen",
)  # fmt: skip
_PYTHONS = (
    None, None, None, None, ">=3.6", ">=3.7", ">=3.7", ">=3.8", ">=3.8", ">=3.8", ">=3.9", ">=3.9", ">=3.10",
    ">=3.10", ">=3.11", ">=3.8,<4.0", ">=3.9,<3.13", ">=2.7, !=3.0.*, !=3.1.*, !=3.2.*, !=3.3.*",
)  # fmt: skip
_TAGS = tuple(
    f"{python}-{python}-{platform}"
    for python in ("cp310", "cp311", "cp312", "cp313")
    for platform in ("manylinux_2_17_x86_64.manylinux2014_x86_64", "macosx_11_0_arm64", "win_amd64")
)
_ANY = "py3-none-any"
_SDIST = ""
# What one release of a project consists of, most usual first.
_RELEASES = ((_SDIST, _ANY), (_SDIST, _ANY), (_SDIST, _ANY), (_ANY,), (_SDIST,), (_SDIST, *_TAGS))
_BEGIN, _DAY = 1_230_768_000, 86_400  # 2009-01-01, s
_MOMENT = "%Y-%m-%dT%H:%M:%S"


class Round(NamedTuple):
    """So many projects get one more file each. `busy`: the more files one has, the likelier it is among them."""

    projects: int
    busy: bool = False


class Catalogue:
    """The index after some rounds of change: a `Source` of about `files` files, none of which has any bytes."""

    workers = 1

    def __init__(self, files: int = 100_000, rounds: Sequence[Round] = ()) -> None:
        self.projects = max(1, round(files / MEAN))
        self.spent = 0.0  # CPU seconds in which projects were made up: no real source has these
        self._new: dict[int, int] = {}  # project -> how many files the rounds have added
        self._serials: dict[int, int] = {}
        self.serial = 2 * _SERIAL
        for number, one in enumerate(rounds):
            for project in self._chosen(number, Round(*one)):
                self.serial += 1
                self._new[project] = self._new.get(project, 0) + 1
                self._serials[project] = self.serial

    @cached_property
    def tokens(self) -> dict[str, str]:
        """Every project's name -> its serial, by name."""
        return {name: str(self._serial(number)) for name, number in sorted(map(_named, range(self.projects)))}

    def listing(self, state: str, *, whole: bool = False) -> Listing:
        return Listing(self.tokens, self.serial)

    def project(self, name: str, known: Project | None = None) -> Project:
        began = time.thread_time()
        try:
            return self._made(name)
        finally:
            self.spent += time.thread_time() - began

    def _made(self, name: str) -> Project:
        number = int(name.rpartition("-")[2], 36)
        display = _display(name, number)
        files = list(_files(number, name, display, self.count(number)))
        versions = tuple(dict.fromkeys(file.version for file in files))  # made in their order
        status = "archived" if _pick(number, "status") % 500 == 0 else None
        files.sort(key=lambda file: file.filename)
        return Project(name, display, tuple(files), versions, self._serial(number), status)

    def open(self, file: File) -> BinaryIO:
        raise ProjectError(file.filename, "has no bytes: the whole index is made up")

    def published(self, file: File) -> None:
        pass

    def close(self) -> None:
        pass

    def count(self, number: int) -> int:
        """How many files that project has."""
        return self._first(number) + self._new.get(number, 0)

    def total(self) -> int:
        """How many files there are."""
        return sum(map(self.count, range(self.projects)))

    def changed(self, one: Round, number: int = 0) -> list[str]:
        """The names of the projects that get a file in the round that has this number."""
        return [_named(project)[0] for project in self._chosen(number, one)]

    def _first(self, number: int) -> int:
        """Each project stands for its share of the distribution, so that an index of any size has all of it."""
        share = (number * _STEP % self.projects + 0.5) / self.projects
        return round(MEDIAN * math.exp(_SIGMA * NormalDist().inv_cdf(share)))

    def _serial(self, number: int) -> int:
        return self._serials.get(number) or _SERIAL + _pick(number, "serial") % _SERIAL

    def _chosen(self, number: int, one: Round) -> list[int]:
        """Weighted sampling without putting back (Efraimidis and Spirakis, 2006)."""

        def rank(project: int) -> float:
            chance = (_pick(project, f"round {number}") + 1) / 2**64
            return math.log(chance) / (max(1, self._first(project)) if one.busy else 1)

        return heapq.nlargest(one.projects, range(self.projects), rank)


def package_list(projects: Iterable[Project]) -> Iterator[str]:
    """What dumb-pypi is told of the same files: a line of JSON for each."""
    for project in projects:
        for file in project.files:
            known = {
                "filename": file.filename,
                "hash": f"sha256={file.hashes['sha256']}",
                "requires_python": file.requires_python,
                "core_metadata": f"sha256={file.core_metadata['sha256']}" if file.core_metadata else None,
                "upload_timestamp": calendar.timegm(time.strptime((file.upload_time or "")[:19], _MOMENT)),
                "yanked_reason": file.yanked or None,
            }
            yield json.dumps({key: value for key, value in known.items() if value is not None})


def _named(number: int) -> tuple[str, int]:
    """The normalised name, which ends with the number in base 36, and the number."""
    pick = _pick(number, "name")
    words = [_WORDS[pick % len(_WORDS)], _WORDS[pick // 1000 % len(_WORDS)]][: 1 + pick // 1_000_000 % 3]
    digits = ""
    rest = number
    while rest or not digits:
        rest, digit = divmod(rest, 36)
        digits = _DIGITS[digit] + digits
    return "-".join([*words, digits]), number


def _display(name: str, number: int) -> str:
    pick = _pick(number, "display")
    if pick % 100 >= 38:
        return name
    return (name.replace("-", "_"), name.title(), name.replace("-", "."), name.title().replace("-", "_"))[
        pick // 100 % 4
    ]


def _files(number: int, name: str, display: str, count: int) -> Iterator[File]:
    """The first `count` files of the project: the more there are, the more releases."""
    kinds = _RELEASES[_pick(number, "kind") % len(_RELEASES)]
    python = _pick(number, "python")
    begin = _BEGIN + python % (5 * 365 * _DAY)
    plain = display.replace("-", "_").replace(".", "_")
    for place in range(count):
        release, part = divmod(place, len(kinds))
        version = f"{release // 40}.{release // 4 % 10}.{release % 4 + 1}"
        if kinds[part]:
            filename = f"{plain}-{version}-{kinds[part]}.whl"
        else:
            filename = f"{display if release < 4 else plain}-{version}.tar.gz"  # PEP 625 came later
        link = hashlib.blake2b(b"%d/%d" % (number, place)).hexdigest()
        pick = int(link[:16], 16)
        moment = begin + int(_DAY * 1000 * math.log1p(release / 50)) + pick % 3600
        yield File(
            filename,
            version,
            "",
            f"{HOST}/packages/{link[:2]}/{link[2:4]}/{link[4:64]}/{filename}",
            {"sha256": link[64:]},
            2_000 + pick % (1 << 8 + pick % 16),
            time.strftime(_MOMENT, time.gmtime(moment)) + f".{pick % 1_000_000:06}Z",
            _PYTHONS[(python + release // 20) % len(_PYTHONS)],
            ("", "broken metadata, use the next release")[pick // 60 % 2] if pick % 60 == 0 else None,
            {"sha256": hashlib.sha256(link.encode()).hexdigest()} if kinds[part] else None,
            f"{HOST}/integrity/{name}/{version}/{filename}/provenance" if pick % 19 == 0 else None,
            NOTHING,
        )


def _pick(number: int, what: str) -> int:
    """64 bits that look like chance."""
    return int.from_bytes(hashlib.blake2b(f"{what} {number}".encode(), digest_size=8).digest(), "big")
