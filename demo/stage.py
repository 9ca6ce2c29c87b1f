"""Scenarios are played on a picture with all tools, plain and with cdn-fallback; a table tells what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo.knocks import knocks
from demo.runs import Run, watched
from demo.scenarios import NEWS, Scenario, Seen
from demo.tools import Tool
from tests.rig.picture import EDGES, REDIRECTORS, Picture

Row = tuple[str, ...]

_HEADS = (
    ("scenario", "plain pip", "pip with", "plain", "buildout with", "who served"),
    ("", "*", "cdn-fallback", "buildout *", "cdn-fallback", ""),
)


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
            return "failed"
        return "bytes differ" if self.wrong else "ok"

    @property
    def ended(self) -> str:
        """The outcome and the seconds."""
        return f"{self.outcome:<7}{self.run.seconds:4.1f} s"


@dataclass
class Stage:
    """`folder` is there for the runs alone."""

    folder: Path
    picture: Picture
    tools: Sequence[Tool]
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _runs: int = 0
    _home: Path = Path()  # of the last runs with cdn-fallback
    _known: set[str] = field(default_factory=set)

    def play(self, scenario: Scenario) -> None:
        """One line of the table."""
        print(f"\n=== {scenario.title}" + (f": {scenario.story}" if scenario.story else ""))
        self._prepare(scenario)
        plain = self._installed(scenario, self._new("home"), plain=True) if scenario.plain else {}
        for left in reversed(range(scenario.tries)):
            ours, who, seen = self._with_fallback(scenario)
            wrong = self._not_as_told(scenario, ours, seen)
            if not wrong or any(done.outcome != "ok" for done in ours.values()):
                break
            if left:
                print(f"  {wrong[0]}: that depends on chance. Once more.")
        if scenario.works:
            wrong += [f"plain {name}: {done.ended}" for name, done in plain.items() if done.outcome != "ok"]
        for problem in wrong:
            self._problem(f"{scenario.title}: {problem}", seen.runs)
        cells = [done[name].ended if done else "" for name in ours for done in (plain, ours)]
        self.rows.append((scenario.title, *cells, who))

    def table(self) -> str:
        """All that was played."""
        return table(self.rows)

    def _prepare(self, scenario: Scenario) -> None:
        """Everything up, then what the scenario says."""
        self.picture.heal()
        self.picture.cold()
        if scenario.warm:
            self.picture.warm()
        scenario.harm(self.picture)
        for how, said in (("refuse", "connections are refused"), ("blackhole", "connecting never ends")):
            if names := [name for name, fate in self.picture.down.items() if fate == how]:
                print(f"  killed, {said}: {', '.join(names)}")

    def _with_fallback(self, scenario: Scenario) -> tuple[dict[str, Install], str, Seen]:
        if not scenario.remembering:
            self._home, self._known = self._new("home"), set()
        if not scenario.warm:
            self.picture.cold()
        self.picture.forget()
        holes = [name for name, how in self.picture.down.items() if how == "blackhole"]
        with knocks({name: (self.picture.addresses[name], self.picture.port) for name in holes}) as knocked:
            done = self._installed(scenario, self._home, plain=False)
        if holes:
            known = f" (slow the last time: {listed(self._known)})" if self._known else ""
            print(f"    blackholes that they tried to reach: {listed(knocked)}{known}")
        served = self.picture.served("page", "file", "metadata", "other")
        who = who_served(self.tools_for(scenario), served)
        asked = [name for name in REDIRECTORS if self.picture.requests(name)]
        print(f"    served: {who}; redirects: {', '.join(asked) or 'none'}")
        seen = Seen(self.picture, {name: one.run for name, one in done.items()}, served, knocked, self._known)
        self._known = self._known | knocked
        return done, who, seen

    def _installed(self, scenario: Scenario, home: Path, *, plain: bool) -> dict[str, Install]:
        """All tools at the same time."""
        print("  plain:" if plain else "  with cdn-fallback:")
        tools = self.tools_for(scenario)
        folders = [self._new(tool.name) for tool in tools]
        commands = [tool.command(folder, home, plain=plain) for tool, folder in zip(tools, folders, strict=True)]
        if plain and not scenario.works:
            commands = [replace(each, patience=tool.patience) for each, tool in zip(commands, tools, strict=True)]
        runs = watched(*commands)
        done = {}
        for tool, folder, run in zip(tools, folders, runs, strict=True):
            done[tool.name] = install = Install(run, tool.wrong(folder))
            right = ", every byte as it was served" if install.outcome == "ok" else ""
            print(f"    {tool.name:<8} {install.ended}{right}")
        return done

    def tools_for(self, scenario: Scenario) -> list[Tool]:
        """What they are to install in it."""
        tools = [replace(tool, extends=tool.extends and scenario.extends) for tool in self.tools]
        return [tool.wanting(NEWS[tool.name]) for tool in tools] if scenario.released else tools

    def _not_as_told(self, scenario: Scenario, ours: Mapping[str, Install], seen: Seen) -> list[str]:
        """What is wrong with the runs with cdn-fallback."""
        found = []
        for name, done in ours.items():
            if done.outcome != "ok":
                what = "" if done.run.code else f": {', '.join(done.wrong)}"
                found.append(f"{name} with cdn-fallback: {done.ended}{what}")
        found += [f"{name} is dead, and was asked" for name in seen.picture.down if seen.picture.requests(name)]
        found += [f"{name} was not to serve" for name in seen.served if name not in scenario.serve]
        if not set(seen.served) & set(EDGES) and set(scenario.serve) & set(EDGES):
            found.append("no edge served")
        if "origin" in scenario.serve and "origin" not in seen.served:
            found.append("the origin did not serve")
        return found + [problem for check in scenario.checks if (problem := check(seen))]

    def _new(self, what: str) -> Path:
        self._runs += 1
        folder = self.folder / f"{what}{self._runs}"
        folder.mkdir(parents=True)
        return folder

    def _problem(self, text: str, runs: Mapping[str, Run]) -> None:
        """Something for which the demo fails in the end; the runs' last words may tell why."""
        self.problems.append(" ".join(text.split()))
        print(f"  PROBLEM: {self.problems[-1]}. What was said last:")
        for name, run in runs.items():
            print("\n".join(f"    {name:<8} | {line}" for line in run.output[-25:]))


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def who_served(tools: Sequence[Tool], served: Mapping[str, Sequence[str]]) -> str:
    """ "edge1" where all came from there; "pip: edge1; buildout: edge2 (extends: origin)" where not."""
    said = {tool.name: _of(tool, served) for tool in tools}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{name}: {who}" for name, who in said.items())


def _of(tool: Tool, served: Mapping[str, Sequence[str]]) -> str:
    """Who gave most of it, and after that who gave the rest."""
    givers: dict[str, set[str]] = {}  # "pages" -> {"edge1"}
    for name, paths in served.items():
        for part in filter(None, map(tool.part, paths)):
            givers.setdefault(part, set()).add(name)
    parts: dict[str, list[str]] = {}
    for part, names in givers.items():
        parts.setdefault(" + ".join(sorted(names)), []).append(part)
    if not parts:
        return "nobody"
    most = max(parts, key=lambda names: len(parts[names]))
    rest = [f"{' + '.join(which)}: {names}" for names, which in parts.items() if names != most]
    return most + (f" ({', '.join(rest)})" if rest else "")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns under their heads."""
    widths = [max(len(row[i]) for row in (*_HEADS, *rows)) for i in range(len(_HEADS[0]))]
    return "\n".join(_lines(rows, widths))


def _lines(rows: Sequence[Row], widths: Sequence[int]) -> Iterator[str]:
    for line in (*_HEADS, tuple("-" * width for width in widths), *rows):
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
