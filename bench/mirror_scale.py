"""What a mirror costs: `python -m bench.mirror_scale` prints it, and exits with 1 if a bound is missed.

A made-up index (bench.catalogue) of 100 thousand files, or with --full of the public index's 15.6 million, is synced,
built, compared, changed by 300 projects, by nothing and by one file: each step in a process of its own, with the site
as JSON and HTML, and then with /pypi/NAME/json as well. After that dumb-pypi and bandersnatch do the same with the
same files, in turns with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.catalogue import FULL, Catalogue, Round, package_list
from bench.mirror_peers import BANDERSNATCH, DUMB_PYPI, Bandersnatch, DumbPypi, Environment, origin
from bench.mirror_steps import KEPT, Done, Job, step

SMALL = 100_000  # files; the peers get no more
USUAL, BUSY, ONE = Round(300), Round(300, busy=True), Round(1)
WINDOW, MEMORY = 600.0, 2e9  # s on the clock and bytes for a render and diff of everything
CHANGE, NOTHING = 5.0, 2.0  # CPU-s for a cycle with 300 changed projects, and with none
PAGES = {False: 4, True: 6}  # objects of a project: JSON and HTML, /pypi/NAME/json, each with its twin
TITLES = {False: "JSON and HTML", True: "JSON, HTML, /pypi/NAME/json"}
FULL_RATIO, ONE_RATIO = 20, 100  # files of ours for each of dumb-pypi's, in the same CPU time
ENDS = 5  # objects that every change touches: the project list, its twins, last-modified


def steps(job: Job, do: Callable[[Job], Done] = step) -> Iterator[tuple[str, Done, bool]]:
    """Every step after the first sync, in `job`'s folder, and whether it is within its bound."""
    cycle = job._replace(syncs=True, publishes=True)

    def changed(what: Round) -> Done:
        nonlocal cycle
        cycle = cycle._replace(rounds=(*cycle.rounds, what))
        return do(cycle)

    def proportional(done: Done) -> bool:
        return done.puts <= done.projects * PAGES[job.legacy] + ENDS

    done = do(job._replace(publishes=True))
    yield "full build", done, done.memory <= MEMORY
    done = do(job._replace(publishes=True, everything=True))
    yield "full render and diff, nothing new", done, done.wall <= WINDOW and done.memory <= MEMORY and not done.puts
    done = changed(USUAL)
    yield "300 changed projects", done, done.cpu <= CHANGE and proportional(done)
    done = changed(BUSY)
    yield "300 changed projects, large ones", done, done.cpu <= CHANGE and proportional(done)
    done = do(cycle)
    yield "nothing changed", done, done.cpu <= NOTHING and not done.puts
    done = changed(ONE)
    yield "one changed file", done, proportional(done)


HEAD = f"{'step':33} {'CPU-s':>8} {'wall s':>8} {'MB':>6} {'projects':>9} {'puts':>9} {'MB put':>8} {'files/CPU-s':>12}"


def line(name: str, done: Done, files: int) -> str:
    """A line of the table; files per CPU second where all of them are looked at."""
    rate = f"{files / done.cpu:,.0f}" if name.startswith(("full", "sync")) else ""
    return (
        f"{name:33} {done.cpu:8.2f} {done.wall:8.2f} {done.memory / 1e6:6.0f} {done.projects:9,} {done.puts:9,} "
        f"{done.bytes / 1e6:8,.1f} {rate:>12}"
    )


def scale(folder: Path, files: int, variants: Sequence[bool]) -> tuple[dict[str, Any], int]:
    """All steps at that size, printed as they come: figures for JSON, and how many bounds were missed."""
    catalogue = Catalogue(files)
    total = catalogue.total()
    kept = "written to a folder" if files <= KEPT else "counted, not written"
    print(f"{total:,} files in {catalogue.projects:,} projects, objects {kept}\n{HEAD}", flush=True)
    done = step(Job(str(folder), files, syncs=True))
    size = (folder / "catalog.sqlite").stat().st_size
    print(f"{line('sync, everything is new', done, total)}  catalog {size / 1e6:,.0f} MB", flush=True)
    figures: dict[str, Any] = {"files": total, "projects": catalogue.projects, "catalog": size, "sync": done._asdict()}
    missed = 0
    for legacy in variants:
        place = folder / f"site-{int(legacy)}"
        place.mkdir()
        shutil.copy(folder / "catalog.sqlite", place)
        print(f"the site: {TITLES[legacy]}")
        found = figures[TITLES[legacy]] = {}
        for name, done, good in steps(Job(str(place), files, legacy)):
            found[name] = done._asdict() | {"good": good}
            missed += not good
            print(f"{line(name, done, total)}  {'ok' if good else 'MISSED'}", flush=True)
        (place / "catalog.sqlite").unlink()  # 6 GB of a full run
    return figures, missed


SYNC = "cdn-fallback, sync alone"
STARTED = ", started already"  # as `run --every` is
OURS = {legacy: f"cdn-fallback, {title}" for legacy, title in TITLES.items()}
DUMB, DUMBER, SNATCH = f"dumb-pypi {DUMB_PYPI}", "  --no-per-release-json", f"bandersnatch {BANDERSNATCH}"


def compare(folder: Path, files: int, rounds: int) -> tuple[dict[str, Any], int]:
    """Ours and the peers in turns, printed at the end: CPU seconds for JSON, and how many bounds were missed."""
    environment = Environment.create(folder / "env")
    before, after = Catalogue(files), Catalogue(files, (ONE,))
    lists = (folder / "before.json", folder / "after.json")
    for path, catalogue in zip(lists, (before, after), strict=True):
        path.write_text("".join(f"{text}\n" for text in package_list(map(catalogue.project, catalogue.tokens))))
    full: dict[str, list[float]] = {}
    one: dict[str, list[float]] = {}
    for number in range(rounds):
        place = folder / f"round-{number}"  # of its own: to delete many files slows ext4 down for a while
        place.mkdir()
        turn(place, files, environment, lists, (full, one))
        print(f"round {number + 1} of {rounds} done", flush=True)
    return {"full": full, "one": one}, verdict(before, after, full, one)


def turn(
    place: Path,
    files: int,
    environment: Environment,
    lists: tuple[Path, Path],
    figures: tuple[dict[str, list[float]], dict[str, list[float]]],
) -> None:
    """One full build and one changed file of each."""

    def note(kind: int, name: str, cpu: float) -> None:
        figures[kind].setdefault(name, []).append(cpu)

    note(0, SYNC, step(Job(str(place), files, syncs=True)).cpu)
    jobs = []
    for legacy, name in OURS.items():
        jobs.append(Job(str(place / f"site-{int(legacy)}"), files, legacy))
        Path(jobs[-1].folder).mkdir()
        shutil.copy(place / "catalog.sqlite", jobs[-1].folder)
        note(0, name, step(jobs[-1]._replace(publishes=True)).cpu)
    dumb = {name: DumbPypi(environment, place / f"dumb-{len(name)}", releases=name == DUMB) for name in (DUMB, DUMBER)}
    with origin(Path(jobs[True].folder, "site")) as url:
        snatch = Bandersnatch(environment, place / "bandersnatch", url)
        for name, tool in dumb.items():
            note(0, name, tool.build(lists[0]).cpu)
        note(0, SNATCH, snatch.mirror().cpu)
        for job, name in zip(jobs, OURS.values(), strict=True):
            done = step(job._replace(syncs=True, publishes=True, rounds=(ONE,)))
            note(1, name, done.cpu)
            note(1, name + STARTED, done.cpu - done.start)
        for name, tool in dumb.items():
            note(1, name, tool.build(lists[1], lists[0]).cpu)
        note(1, SNATCH, snatch.mirror().cpu)
    all_projects = Catalogue(files)
    with_files = sum(all_projects.count(number) > 0 for number in range(all_projects.projects))
    made = [tool.projects() for tool in dumb.values()] + [snatch.projects()]
    if made != [with_files, with_files, all_projects.projects]:
        raise SystemExit(f"a peer left projects out: {made} of {with_files} with files")


def verdict(before: Catalogue, after: Catalogue, full: dict[str, list[float]], one: dict[str, list[float]]) -> int:
    """Print medians and ratios; how many bounds were missed."""
    total = before.total()
    built = {name: statistics.median(found) for name, found in full.items()}
    changed = {name: statistics.median(found) for name, found in one.items()}
    print(f"{'CPU seconds, medians':45} {'full build':>10} {'files/CPU-s':>12} {'one changed file':>17}")
    for name, cpu in built.items():
        print(f"{name:45} {cpu:10.2f} {total / cpu:12,.0f} {format(changed[name], '17.3f') if name in changed else ''}")
    (name,) = after.changed(ONE)
    print(f"the changed project, {name}, has {len(after.project(name).files)} files")
    missed = 0
    for ours in OURS.values():
        for peer in (DUMB, DUMBER, SNATCH):
            rate, share = built[peer] / built[ours], built[peer] / (built[ours] + built[SYNC])
            single, running = (changed[peer] / changed[name] for name in (ours, ours + STARTED))
            good = peer != DUMB or (rate >= FULL_RATIO and single >= ONE_RATIO)
            missed += not good
            print(
                f"{peer.strip():24} / {ours:42} full build {rate:5.1f} (sync included {share:5.1f}), one changed file "
                f"{single:5.0f} (started already {running:5.0f}){'' if good else '  MISSED'}"
            )
    print(f"to be reached against {DUMB}: {FULL_RATIO} and {ONE_RATIO}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--files", type=int, default=SMALL, metavar="N", help=f"size of the index ({SMALL})")
    size.add_argument("--full", action="store_const", dest="files", const=FULL, help=f"{FULL} files")
    parser.add_argument("--only", choices=["simple", "legacy", "peers"], action="append", help="only this part (all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often the peers take turns (3)")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder is made in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    parts = options.only or (["simple", "legacy"] + ["peers"] * (options.files <= SMALL))
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores", flush=True)
    figures: dict[str, Any] = {}
    missed = 0
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-", dir=options.folder) as name:
        variants = [legacy for legacy in TITLES if ("legacy" if legacy else "simple") in parts]
        if variants:
            Path(name, "scale").mkdir()
            figures["scale"], missed = scale(Path(name, "scale"), options.files, variants)
        if "peers" in parts:
            Path(name, "peers").mkdir()
            figures["peers"], more = compare(Path(name, "peers"), min(options.files, SMALL), options.rounds)
            missed += more
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
