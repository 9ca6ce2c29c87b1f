"""A chapter: scenarios that are played with one tool, plain and with cdn-fallback, and the table of what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from demo.runs import Run
from demo.servers import Pool, Servers
from tests.rig.faults import Refuse, Status, Truncate

Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Install:
    """A run, and what is not there as it was served, which means something where the run did not fail."""

    run: Run
    wrong: list[str]

    @property
    def outcome(self) -> str:
        """In a word or two."""
        if self.run.stopped:
            return "stopped"
        if self.run.code:
            return f"failed ({self.run.code})"
        return "bytes differ" if self.wrong else "installed"

    @property
    def ended(self) -> str:
        """The outcome and the seconds."""
        return f"{self.outcome:<11}{self.run.seconds:5.1f} s"


class Tool(Protocol):
    """What installs."""

    @property
    def name(self) -> str:
        """In the head of the table."""

    @property
    def whole(self) -> str:
        """What is seen to be as it was served, where nothing is wrong."""

    @property
    def note(self) -> str:
        """What to know of the plain runs."""

    def command(self, *, plain: bool) -> str:
        """As it is shown."""

    def install(self, folder: Path, home: Path, *, plain: bool) -> Install:
        """Install into a fresh folder."""


@dataclass(frozen=True)
class Seen:
    """What a run with cdn-fallback met.

    `knocked` are the servers that drop connections and that it tried to reach, `known` those that an earlier
    run with the same home had tried.
    """

    servers: Servers
    run: Run
    knocked: set[str]
    known: set[str]


@dataclass(frozen=True)
class Scenario:
    """What breaks, and how a run shows that it was broken as told.

    Where chance decides whether the tool meets the fault, there are several `tries`. Each has a fresh home
    directory, unless `remembering`: then it is that of the scenario before.
    """

    title: str
    harm: Callable[[Servers], None]
    as_told: Callable[[Seen], bool]
    tries: int = 1
    remembering: bool = False


def nothing(servers: Servers) -> None:
    """All is well."""


def cdn_503(servers: Servers) -> None:
    servers.harm(Status(503), "cdn1", "cdn2")


def half_files(servers: Servers) -> None:
    servers.harm_first(Truncate(0.5), "cdn1", "cdn2")


def all_but_origin(servers: Servers) -> None:
    servers.kill(Refuse(), "redirector1", "redirector2", "redirector3", "cdn1", "cdn2")


@dataclass
class Chapter:
    """A tool and a pool in which scenarios are played; `folder` is there for its runs alone."""

    folder: Path
    pool: Pool
    tool: Tool
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _runs: int = 0
    _home: Path = Path()  # of the last run with cdn-fallback
    _known: set[str] = field(default_factory=set)

    def play(self, scenario: Scenario) -> None:
        """One line of the table."""
        print(f"\n=== {scenario.title}\n  plain: {self.tool.command(plain=True)}")
        with self.pool.running() as servers:
            scenario.harm(servers)
            plain = self._install(self._new("home"), plain=True)
        for left in reversed(range(scenario.tries)):
            ours, seen = self._with_fallback(scenario)
            if ours.outcome != "installed" or scenario.as_told(seen):
                break
            if left:
                print("  It depends on chance who is asked first, and this was not as told: once more.")
        else:
            self._problem(f"{scenario.title}: the run with cdn-fallback was not as told", seen.run)
        self.rows.append((scenario.title, plain.ended, ours.ended, seen.servers.who_served()))

    def table(self) -> str:
        """All that was played."""
        return f"{table(self.tool.name, self.rows)}\n\n* {self.tool.note}"

    def _with_fallback(self, scenario: Scenario) -> tuple[Install, Seen]:
        print(f"  with cdn-fallback: {self.tool.command(plain=False)}")
        if not scenario.remembering:
            self._home, self._known = self._new("home"), set()
        with self.pool.running() as servers:
            scenario.harm(servers)
            with servers.knocks() as knocked:
                done = self._install(self._home, plain=False)
            if servers.blackholes:
                known = f" (slow the last time: {listed(self._known)})" if self._known else ""
                print(f"    blackholes that it tried to reach: {listed(knocked)}{known}")
            seen = Seen(servers, done.run, knocked, self._known)
        self._known = self._known | knocked
        if done.outcome != "installed":
            wrong = "" if done.run.code else f": {', '.join(done.wrong)}"
            self._problem(f"{scenario.title}: with cdn-fallback: {done.ended}{wrong}", done.run)
        return done, seen

    def _install(self, home: Path, *, plain: bool) -> Install:
        done = self.tool.install(self._new("target"), home, plain=plain)
        print(f"    {done.ended}" + (f", {self.tool.whole}" if done.outcome == "installed" else ""))
        return done

    def _new(self, what: str) -> Path:
        self._runs += 1
        folder = self.folder / f"{what}{self._runs}"
        folder.mkdir(parents=True)
        return folder

    def _problem(self, text: str, run: Run) -> None:
        """Something for which the demo fails in the end; the run's last words may tell why."""
        self.problems.append(" ".join(text.split()))
        print(f"  PROBLEM: {self.problems[-1]}. What was said last:")
        print("\n".join(f"    | {line}" for line in run.output[-25:]))


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def table(tool: str, rows: Sequence[Row]) -> str:
    """Aligned columns under their heads."""
    heads = ("scenario", f"plain {tool} *", "with cdn-fallback", "who served")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(4)]
    lines = [heads, tuple("-" * width for width in widths), *rows]
    padded = ((f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
