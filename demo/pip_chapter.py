"""Chapter one: `pip install`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo.chapter import Chapter, Install, Scenario, Seen, all_but_origin, cdn_503, half_files, nothing
from demo.runs import watched
from demo.servers import Pool, Servers
from tests.rig.dists import Dist
from tests.rig.faults import Blackhole
from tests.rig.pips import PipEnv, clean_environment

PROJECT = "requests"
INSTALL = ("install", "--no-cache-dir")  # without pip's own cache: every byte comes from the servers
IMPATIENT = ("--timeout", "3", "--retries", "2")  # by itself plain pip waits 15 s, five times more

_OURS = "cdn-fallback: "
_COMPLAINTS = ("WARNING: ", "ERROR: ")


@dataclass(frozen=True)
class Pip:
    """pip, where cdn-fallback is enabled; it installs PROJECT, which is `dists`."""

    env: PipEnv
    pool: Pool
    dists: tuple[Dist, ...]
    name: str = "pip"
    whole: str = "every byte as in the wheels"
    note: str = f"with {' '.join(IMPATIENT)}: by itself pip waits 15 s for each dead address, and tries 6 times"

    def command(self, *, plain: bool) -> str:
        return " ".join(("pip", "install", *(IMPATIENT if plain else ()), PROJECT))

    def install(self, folder: Path, home: Path, *, plain: bool) -> Install:
        environment = clean_environment(home) | self.pool.environment
        if plain:
            environment["CDN_FALLBACK_DISABLE"] = "1"
        what = ("-vv", "--no-warn-conflicts", "--target", str(folder), *(IMPATIENT if plain else ()), PROJECT)
        command = (str(self.env.python), "-m", "pip", *INSTALL, *what)
        run = watched(command, environment, home, self.worth)
        return Install(run, [dist.filename for dist in self.dists if not dist.installed_in(folder)])

    def worth(self, line: str) -> str | None:
        """pip's complaints, and what cdn-fallback logs."""
        told = line.startswith((_OURS, *_COMPLAINTS))
        return self.pool.shortened(line.removeprefix(_OURS)) if told else None


def two_redirectors(servers: Servers) -> None:
    servers.kill(Blackhole(), "redirector1", "redirector2")


def quiet(seen: Seen) -> bool:
    """A user sees no line of it without -v."""
    return not any(line.startswith(_COMPLAINTS) for line in seen.run.told)


SCENARIOS = (
    Scenario("all is well", nothing, quiet),
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


def played(folder: Path, env: PipEnv, pool: Pool, dists: tuple[Dist, ...]) -> Chapter:
    """The chapter, from its first scenario to its last."""
    print(f"\n##### pip {env.pip_version}")
    print("pip's configuration has, beside index-url:")
    print("\n".join(f"    {line}" for line in pool.configuration().splitlines()))
    print(f"each pip {' '.join(INSTALL)} installs into a fresh folder; plain ones have CDN_FALLBACK_DISABLE=1")
    chapter = Chapter(folder, pool, Pip(env, pool, dists))
    for scenario in SCENARIOS:
        chapter.play(scenario)
    return chapter
