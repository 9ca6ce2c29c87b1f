"""What it costs when something is wrong: `python -m bench.failures` prints it, and exits with 1 if a bound is missed.

Installs one project that needs another with pip, and then with buildout, with their own timeouts and retries: plain,
with cdn-fallback while nothing is wrong, and with it while something is, in turns, each in an empty home. Then the
same again in the home that the last run left, in which it remembers; once at once, and once with that memory made
290 s older.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench import healthy
from bench.tools import Buildout, Pip, Tool
from cdn_fallback.health import default_path
from tests.rig.faults import (
    Blackhole,
    Close,
    Corrupt,
    Drip,
    Fault,
    LoginPage,
    Refuse,
    Reset,
    Silent,
    Stall,
    Status,
    TLSGarbage,
    TLSHang,
    TLSReset,
    Truncate,
    UnknownCA,
    WrongCertificate,
)
from tests.rig.messages import Kind
from tests.rig.names import broken_resolver
from tests.rig.pips import Result, clean_environment
from tests.rig.sample import SITE, A, B
from tests.rig.scene import CDN, Scene, scene

# pip's own timeout and retries, whatever this machine's configuration says
OPTIONS = ("--no-cache-dir", "--timeout", "15", "--retries", "5")
NOTHING = "nothing wrong, 30 requirements"
RATIO = 1.03
AGAIN = 0.5  # s beyond a healthy run, for who has met the fault before
LATER = 290.0  # s: "within five minutes"
PATIENCE = 300.0  # s for a run of ours; it has to end long before
LONG = 10.0  # s; plain runs that take longer are not repeated


class Case(NamedTuple):
    """What is wrong with whom, and how many seconds beyond a healthy run it may cost."""

    title: str
    bound: float
    fault: Fault | None  # None: the CDN's name does not resolve
    where: tuple[str, ...] = ("cdn",)
    on: Kind | Literal["any"] | None = None
    first: bool = False  # only at the server that is asked first
    extends: bool = False  # buildout alone: its configuration begins with a file of the CDN's

    @property
    def dead(self) -> bool:
        """Whether nobody is left, so that pip has to end with an error that names every attempt."""
        return "origin" in self.where

    @property
    def wanted(self) -> str:
        return "all named" if self.dead else "installed"


AT_ONCE, SOME, ALL, SILENT, DEAD = 1.0, 0.6, 4.0, 9.0, 30.0
EVERYONE = ("redirector", "cdn", "origin")
CASES = (
    Case("refused", AT_ONCE, Refuse()),
    Case("closed without an answer", AT_ONCE, Close(), on="any"),
    Case("reset instead of an answer", AT_ONCE, Reset(), on="any"),
    Case("500", AT_ONCE, Status(500)),
    Case("503", AT_ONCE, Status(503)),
    Case("504", AT_ONCE, Status(504)),
    Case("429", AT_ONCE, Status(429)),
    Case("429, Retry-After 3600", AT_ONCE, Status(429, (("Retry-After", "3600"),))),
    Case("certificate of another host", AT_ONCE, WrongCertificate()),
    Case("certificate of an unknown CA", AT_ONCE, UnknownCA()),
    Case("TLS reset", AT_ONCE, TLSReset()),
    Case("garbage instead of TLS", AT_ONCE, TLSGarbage()),
    Case("login page", AT_ONCE, LoginPage()),
    Case("file with a wrong hash", AT_ONCE, Corrupt(), on="file"),
    Case("index truncated, by its length", AT_ONCE, Truncate(0.5), on="page"),
    Case("index truncated, in chunks", AT_ONCE, Truncate(0.5, "chunked"), on="page"),
    Case("index truncated, of no known length", AT_ONCE, Truncate(0.5, "close"), on="page"),
    Case("name does not resolve", AT_ONCE, None),
    Case("503 from the first CDN address", AT_ONCE, Status(503), on="page", first=True),
    Case("1 of 2 CDN addresses blackholed", SOME, Blackhole(), ("cdn1",)),
    Case("2 of 3 redirectors blackholed", SOME, Blackhole(), ("redirector1", "redirector2")),
    Case("every CDN address blackholed", ALL, Blackhole()),
    Case("every redirector blackholed", ALL, Blackhole(), ("redirector",)),
    Case("TLS handshake never answered", SILENT, TLSHang()),
    Case("index silent", SILENT, Silent(), on="page"),
    Case("file silent", SILENT, Silent(), on="file"),
    Case("everything silent", SILENT, Silent()),
    Case("index stalls", SILENT, Stall(0.5), on="page"),
    Case("index drips, 20 B/s", SILENT, Drip(20), on="page"),
    Case("file stalls", SILENT, Stall(0.5), on="file"),
    Case("file drips, 20 B/s", SILENT, Drip(20), on="file"),
    Case("file drips, 2 kB/s", SILENT, Drip(2000), on="file"),
    Case("everything dead: refused", DEAD, Refuse(), EVERYONE),
    Case("everything dead: blackholed", DEAD, Blackhole(), EVERYONE),
    Case("everything dead: silent", DEAD, Silent(), EVERYONE),
    Case("extends: 1 of 2 addresses blackholed", SOME, Blackhole(), ("cdn1",), extends=True),
    Case("extends: the first address silent", SILENT, Silent(), on="other", first=True, extends=True),
)


class Run(NamedTuple):
    """How a run of pip ended, and after how many seconds."""

    outcome: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """All runs of a case, by what they were: plain, healthy, first, again, later."""

    case: Case
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def add(self, kind: str, run: Run) -> None:
        self.runs.setdefault(kind, []).append(run)

    def beyond(self, kind: str) -> float:
        """How many seconds more than a healthy run, in the median."""
        return self._median(kind) - self._median("healthy")

    @property
    def missed(self) -> list[str]:
        """The kinds of runs that did not end as they have to."""
        bounds = {"first": self.case.bound, "again": AGAIN, "later": AGAIN}
        return [
            kind
            for kind, bound in bounds.items()
            if kind in self.runs
            and (self.beyond(kind) > bound or any(run.outcome != self.case.wanted for run in self.runs[kind]))
        ]

    def __str__(self) -> str:
        slowest = max(run.seconds for run in self.runs["first"]) - self._median("healthy")
        again = [f"{self.beyond(kind):+7.2f}" if kind in self.runs else " " * 7 for kind in ("again", "later")]
        figures = f"{self.beyond('first'):+7.2f} {slowest:+7.2f} {self.case.bound:6.1f} {' '.join(again)}"
        verdict = f"MISSED: {', '.join(self.missed)}" if self.missed else "ok"
        return f"{self.case.title:35} {self._ended('plain'):17} {self._ended('first'):17} {figures}  {verdict}"

    def _median(self, kind: str) -> float:
        return statistics.median(run.seconds for run in self.runs[kind])

    def _ended(self, kind: str) -> str:
        if kind not in self.runs:
            return ""
        outcomes = sorted({run.outcome for run in self.runs[kind]})
        seconds = self._median(kind)
        took = f">{seconds:.0f}" if "stopped" in outcomes else f"{seconds:.1f}"
        return f"{'/'.join(outcomes):9} {took:>5} s"


HEAD = (
    f"{'situation':35} {'plain':17} {'cdn-fallback':17} "
    f"{'beyond':>7} {'slowest':>7} {'bound':>6} {'again':>7} {'later':>7}"
)


@dataclass(frozen=True)
class Stage:
    """A pool and a tool that asks it."""

    pool: Scene
    tool: Tool
    folder: Path
    plain_cap: float  # s after which a plain run is stopped; 0: there are none

    def measure(self, case: Case, rounds: int) -> Row:
        """Runs of all kinds, in turns."""
        if case.extends and isinstance(self.tool, Buildout):
            return replace(self, tool=replace(self.tool, extends=True)).measure(case._replace(extends=False), rounds)
        row = Row(case)
        for number in range(rounds):
            row.add("healthy", self.healthy())
            if self.plain_cap and (not number or row.runs["plain"][0].seconds <= LONG):
                with self.harmed(case):
                    row.add("plain", self.install(self.new("home"), plain=True))
            with self.harmed(case):
                home = self.new("home")
                row.add("first", self.install(home))
                if not case.dead:
                    older = shutil.copytree(home, self.new("home"), dirs_exist_ok=True)
                    age(older, LATER)
                    row.add("again", self.install(home))
                    row.add("later", self.install(older))
        return row

    @contextlib.contextmanager
    def harmed(self, case: Case) -> Iterator[None]:
        environment = self.pool.environment
        self.pool.heal()  # of what a tool lets servers have, too: the first rule wins
        if case.fault is None:
            self.pool.environment = environment | broken_resolver(self.new("names"), CDN, "fails")
        else:
            for where in case.where:
                if case.first and case.on and case.on != "any":
                    self.pool.fault_first(where, case.fault, on=case.on)
                else:
                    self.pool.fault(where, case.fault, on=case.on)
        try:
            yield
        finally:
            self.pool.heal()
            self.pool.environment = environment

    def healthy(self) -> Run:
        run = self.install(self.new("home"))
        if run.outcome != "installed":
            raise SystemExit("a run with nothing wrong failed")
        return run

    def install(self, home: Path, *, plain: bool = False) -> Run:
        patience = self.plain_cap if plain else PATIENCE
        done = self.tool.install(self.pool, ["demo-a"], self.folder, home, plain=plain, timeout=patience)
        addresses = [server.address for server in self.pool.group("")]
        return Run(outcome(done.result, all(map(done.has, (A, B))), addresses), done.result.seconds)

    def new(self, what: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{what}-", dir=self.folder))


def outcome(result: Result, installed: bool, addresses: list[str]) -> str:
    """In a word or two, how an install ended."""
    if result.code == -9:
        return "stopped"
    if result.code == 0:
        return "installed" if installed else "wrong"
    report = result.stderr.partition("no usable answer for ")[2]
    return "all named" if all(f"({address})" in report for address in addresses) else "failed"


def age(home: Path, seconds: float) -> None:
    """Let what is remembered in `home` be as old as if the clock had gone on."""
    path = default_path(clean_environment(home))
    if path is None or not path.exists():
        return
    memory = json.loads(path.read_text())
    for record in memory["records"].values():
        record |= {name: max(0.0, record[name] - seconds) for name in ("until", "seen")}
    path.write_text(json.dumps(memory))


def nothing_wrong(tool: Tool, folder: Path, rounds: int) -> tuple[list[tuple[float, float]], bool]:
    """Seconds of pairs of runs with 30 requirements, (plain, ours), and whether their ratio is within its bound."""
    folder.mkdir()
    with scene(folder, healthy.site()) as pool:
        pairs = healthy.pairs(pool, tool, folder, rounds)
    plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = ours / plain
    ended = f"{'installed':9} {plain:5.2f} s {'installed':9} {ours:5.2f} s"
    verdict = "ok" if ratio <= RATIO else "MISSED"
    print(f"{NOTHING:35} {ended}   ratio {ratio:.3f}, at most {RATIO}  {verdict}", flush=True)
    return pairs, ratio <= RATIO


def measure(tool: Tool, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """All that is asked for of one tool, printed as it comes: figures for JSON, and how many bounds were missed."""
    cases = [c for c in CASES if options.only in c.title and (not c.extends or isinstance(tool, Buildout))]
    compared = options.only in NOTHING and not options.no_plain
    print(f"{tool.name}, Python {sys.version.split()[0]}, medians of {options.rounds}\n{HEAD}", flush=True)
    pairs, good = nothing_wrong(tool, folder / "many", 4 * options.rounds) if compared else ([], True)
    rows = []
    (folder / "pool").mkdir()
    with scene(folder / "pool", SITE) as pool:
        stage = Stage(pool, tool, folder, 0.0 if options.no_plain else options.plain_cap)
        stage.healthy()  # warms caches up
        for case in cases:
            rows.append(stage.measure(case, options.rounds))
            print(rows[-1], flush=True)
    missed = sum(bool(row.missed) for row in rows) + (not good)
    print(f"{len(rows) + compared} situations, {missed} missed")
    found = [
        {"situation": row.case.title, "bound": row.case.bound, "missed": row.missed, "runs": row.runs} for row in rows
    ]
    return {"nothing wrong": pairs, "rows": found}, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each kind (5); four times as many with nothing wrong"
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only situations whose name has this in it")
    parser.add_argument("--tool", choices=["pip", "buildout"], action="append", help="only this tool (both)")
    parser.add_argument(
        "--plain-cap", type=float, default=120.0, metavar="SECONDS", help="when to stop a plain tool (120)"
    )
    parser.add_argument(
        "--no-plain", action="store_true", help="leave plain tools out, and so the run with nothing wrong"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds of every run there")
    options = parser.parse_args()
    if not any(options.only in title for title in (NOTHING, *(case.title for case in CASES))):
        parser.error(f"no situation has {options.only!r} in its name")
    figures, missed = {}, 0
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-", ignore_cleanup_errors=True) as name:
        for kind in options.tool or ("pip", "buildout"):
            folder = Path(name, kind)
            folder.mkdir()
            tool: Tool = Pip.create(folder / "env", *OPTIONS) if kind == "pip" else Buildout.create(folder / "env")
            figures[tool.name], count = measure(tool, folder, options)
            missed += count
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
