"""Watch `pip install` go on while the redirectors, the CDN and addresses of an index die under it.

Run it with `make demo`, or with `python -m demo` from the root of the checkout.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from demo.pips import Narrator, Run, checked, watched
from demo.servers import Pool, Servers
from tests.rig.faults import Blackhole, Refuse, Status, Truncate
from tests.rig.lighttpd import lighttpd
from tests.rig.names import nss_wrapper
from tests.rig.pips import PipEnv, built_wheel, clean_environment
from tests.rig.site import Site

PIP = "26.3"
PROJECT = "requests"
INSTALL = ("install", "--no-cache-dir")  # without pip's own cache: every byte comes from the servers
IMPATIENT = ("--timeout", "3", "--retries", "2")  # by itself plain pip waits 15 s, five times more


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

    Where chance decides whether pip meets the fault, there are several `tries`. Each has a fresh home directory,
    unless `remembering`: then it is that of the scenario before.
    """

    title: str
    harm: Callable[[Servers], None]
    as_told: Callable[[Seen], bool]
    tries: int = 1
    remembering: bool = False


def nothing(servers: Servers) -> None:
    """All is well."""


def two_redirectors(servers: Servers) -> None:
    servers.kill(Blackhole(), "redirector1", "redirector2")


def cdn_503(servers: Servers) -> None:
    servers.harm(Status(503), "cdn1", "cdn2")


def half_files(servers: Servers) -> None:
    servers.harm_first(Truncate(0.5), "cdn1", "cdn2")


def all_but_origin(servers: Servers) -> None:
    servers.kill(Refuse(), "redirector1", "redirector2", "redirector3", "cdn1", "cdn2")


SCENARIOS = (
    Scenario("all is well", nothing, lambda seen: not seen.run.complaints),
    # One run in three asks the living redirector first, as equals are shuffled.
    Scenario("two of three redirectors blackholed", two_redirectors, lambda seen: bool(seen.knocked), tries=12),
    Scenario(
        "the same again, with what was learnt",
        two_redirectors,
        lambda seen: not seen.knocked & seen.known,
        tries=3,  # on a very busy machine the living one, too, may need longer than a race waits for it
        remembering=True,
    ),
    Scenario("the CDN answers 503", cdn_503, lambda seen: seen.servers.faulty == {"cdn1", "cdn2"}),
    Scenario("a CDN address cuts files in half", half_files, lambda seen: len(seen.servers.faulty) == 1),
    Scenario(
        "all redirectors and all of the CDN refuse",
        all_but_origin,
        lambda seen: all(any(line.startswith(name) for line in seen.run.told) for name in seen.servers.dead),
    ),
)


@dataclass
class Stage:
    """An environment and an index in which scenarios are played."""

    folder: Path
    env: PipEnv
    pool: Pool
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    home: Path = Path()  # of the last run with cdn-fallback
    known: set[str] = field(default_factory=set)

    def play(self, scenario: Scenario) -> tuple[str, str, str, str]:
        """The scenario's line of the table."""
        print(f"\n=== {scenario.title}\n  plain: pip install {' '.join(IMPATIENT)} {PROJECT}")
        with self.pool.running() as servers:
            scenario.harm(servers)
            plain, _ = self.install(self.new("home"), {"CDN_FALLBACK_DISABLE": "1"}, *IMPATIENT)
        for left in reversed(range(scenario.tries)):
            ours, seen = self.with_fallback(scenario)
            if seen.run.code or scenario.as_told(seen):
                break
            if left:
                print("  It depends on chance who is asked first, and this was not as told: once more.")
        else:
            self.problem(f"{scenario.title}: the run with cdn-fallback was not as told", seen.run)
        return scenario.title, plain, ours, seen.servers.who_served()

    def with_fallback(self, scenario: Scenario) -> tuple[str, Seen]:
        """One run of pip with cdn-fallback: how it ended, and what it met."""
        print(f"  with cdn-fallback: pip install {PROJECT}")
        if not scenario.remembering:
            self.home, self.known = self.new("home"), set()
        with self.pool.running() as servers:
            scenario.harm(servers)
            with servers.knocks() as knocked:
                ended, run = self.install(self.home, {})
            if servers.blackholes:
                known = f" (slow the last time: {listed(self.known)})" if self.known else ""
                print(f"    blackholes that it tried to reach: {listed(knocked)}{known}")
            seen = Seen(servers, run, knocked, self.known)
        self.known = self.known | knocked
        if run.code or ended.startswith("bytes"):
            self.problem(f"{scenario.title}: with cdn-fallback: {ended}", run)
        return ended, seen

    def install(self, home: Path, extra: dict[str, str], *options: str) -> tuple[str, Run]:
        """pip install into a fresh folder: how that ended, in words, and the run."""
        target = self.new("target")
        environment = clean_environment(home) | self.pool.environment | extra
        what = ("-vv", "--no-warn-conflicts", "--target", str(target), *options, PROJECT)
        command = (str(self.env.python), "-m", "pip", *INSTALL, *what)
        run = watched(command, environment, home, self.pool.shortened, Narrator())
        whole = all(dist.installed_in(target) for dist in self.pool.site.dists)
        outcome = f"failed ({run.code})" if run.code else "installed" if whole else "bytes differ"
        ended = f"{outcome:<11}{run.seconds:5.1f} s"
        print(f"    {ended}" + (", every byte as in the wheels" if outcome == "installed" else ""))
        return ended, run

    def new(self, what: str) -> Path:
        self.runs += 1
        folder = self.folder / f"{what}{self.runs}"
        folder.mkdir()
        return folder

    def problem(self, text: str, run: Run) -> None:
        """Something for which the demo fails in the end; pip's last words may tell why."""
        self.problems.append(" ".join(text.split()))
        print(f"  PROBLEM: {self.problems[-1]}. What pip said last:")
        print("\n".join(f"    | {line}" for line in run.output[-25:]))


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def prepared(folder: Path) -> Stage:
    """Real wheels, a site of them, and an environment with the newest pip and our wheel, switched on."""
    nss_wrapper(), lighttpd()  # they tell which system package is missing
    print(f"fetching {PROJECT} and what it needs from the index that this machine is configured for")
    wheels = folder / "wheels"
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off")
    checked(
        (*pip, "--only-binary", ":all:", "--dest", str(wheels), PROJECT),
        f"{PROJECT} cannot be had from this machine's package index (`pip config list` tells which one that is)",
    )
    print(f"building cdn-fallback, and an environment with it and pip {PIP}")
    env = PipEnv.create(folder / "env", sys.executable, PIP, built_wheel())
    checked((str(env.folder / "bin" / "cdn-fallback"), "enable"), "cdn-fallback enable failed")
    pool = Pool.create(folder, Site.read(wheels))
    print(f"serving {', '.join(f'{dist.project} {dist.version}' for dist in pool.site.dists)}")
    print("pip's configuration has, beside index-url:")
    print("\n".join(f"    {line}" for line in pool.configuration().splitlines()))
    for name, address in pool.addresses.items():
        print(f"    {name:<12} is {address:<15} {'lighttpd' if name.startswith('redirector') else ''}".rstrip())
    print(f"each pip {' '.join(INSTALL)} installs into a fresh folder; plain ones have CDN_FALLBACK_DISABLE=1")
    return Stage(folder, env, pool)


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Aligned columns under their heads."""
    heads = ("scenario", "plain pip *", "with cdn-fallback", "who served")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(4)]
    lines = [heads, tuple("-" * width for width in widths), *rows]
    padded = ((f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, temporary files of what is stopped halfway included. It goes in the end."""
    name = tempfile.mkdtemp(prefix="cdn-fallback-demo-")
    os.environ["TMPDIR"] = tempfile.tempdir = name
    try:
        yield Path(name)
    finally:
        for _ in range(30):  # a grandchild that nobody told to stop may still write
            shutil.rmtree(name, ignore_errors=True)
            if not os.path.exists(name):
                break
            time.sleep(0.1)


def story() -> int:
    """From nothing to the table; the exit code."""
    start = time.monotonic()
    with scratch() as folder:
        stage = prepared(folder)
        rows = [stage.play(scenario) for scenario in SCENARIOS]
    print(f"\n{table(rows)}")
    print(f"\n* with {' '.join(IMPATIENT)}: by itself pip waits 15 s for each dead address, and tries 6 times")
    print(f"{time.monotonic() - start:.0f} s in all")
    for problem in stage.problems:
        print(f"PROBLEM: {problem}")
    return 1 if stage.problems else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return story()
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
