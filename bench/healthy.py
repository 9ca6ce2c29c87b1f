"""What cdn-fallback costs when nothing is wrong: `python -m bench.healthy` prints the figures.

Installs 30 requirements with the newest pip, with the plugin and without, in turns, so that the machine's load
falls on both alike; each run in an empty home. Seconds are wall clock of the whole pip process. Over https, from
one host that nobody declared, and from a declared pool of three redirectors, two CDN addresses and an origin.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.tools import Pip, Tool
from tests.rig.dists import Dist, wheel
from tests.rig.scene import Scene, scene
from tests.rig.site import Site

PROJECTS = 30
RELEASES = 40  # files on each page: about what popular projects have in the median


def site() -> Site:
    """30 projects of 40 releases each, of 100 kB."""
    dists: list[Dist] = []
    for number in range(PROJECTS):
        dists += [wheel(f"bench-{number}", f"{release}.0", padding=100_000) for release in range(RELEASES)]
    return Site.of(*dists)


def run(pool: Scene, tool: Tool, folder: Path, *, plain: bool) -> float:
    names = [f"bench-{number}" for number in range(PROJECTS)]
    result = tool.install(pool, names, folder, None, plain=plain, timeout=300).result
    if result.code:
        raise SystemExit(result.output)
    return result.seconds


def pairs(pool: Scene, tool: Tool, folder: Path, rounds: int) -> list[tuple[float, float]]:
    """Seconds of each pair of runs: (plain, ours)."""
    found = []
    for number in range(rounds + 1):
        first = bool(number % 2)  # who begins changes
        seconds = {plain: run(pool, tool, folder, plain=plain) for plain in (first, not first)}
        if number:  # the first pair warms caches up
            found.append((seconds[True], seconds[False]))
    return found


def compare(title: str, pool: Scene, tool: Tool, folder: Path, rounds: int) -> None:
    measured = pairs(pool, tool, folder, rounds)
    ratios = sorted(ours / plain for plain, ours in measured)
    columns = list(zip(*measured, strict=True))
    quarter = len(ratios) // 4
    print(f"{title} ({len(ratios)} pairs)")
    for name, pick in (("median", statistics.median), ("fastest", min)):
        plain, ours = (pick(column) for column in columns)
        print(f"  {name:8} plain {plain:6.3f} s   cdn-fallback {ours:6.3f} s   ratio {ours / plain:.3f}")
    print(
        f"  ratio of each pair: median {statistics.median(ratios):.3f}, half of them {ratios[quarter]:.3f} to "
        f"{ratios[-1 - quarter]:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of runs for each figure (default 15)")
    rounds = parser.parse_args().rounds
    content = site()
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-") as name:
        folder = Path(name)
        tool = Pip.create(folder / "env")
        print(f"{tool.name}, {PROJECTS} requirements, {RELEASES} files on each page, Python {sys.version.split()[0]}")
        for title, configured in (("one host, nothing configured", False), ("a pool with redirectors", True)):
            place = folder / title.partition(",")[0].replace(" ", "-")
            place.mkdir()
            with scene(place, content, redirectors=3 if configured else 0, cdn=2) as pool:
                if not configured:
                    pool.config.write_text("")
                    pool.index_host = "origin.example.org"
                compare(title, pool, tool, folder, rounds)


if __name__ == "__main__":
    main()
