"""What bench.mirror_scale and bench.sqlite_drivers are made of, on few files; their figures are not judged."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from bench import sqlite_drivers
from bench.catalogue import MEAN, MEDIAN, Catalogue, Round, package_list
from bench.mirror_peers import origin
from bench.mirror_scale import DUMB, DUMBER, ENDS, ONE, OURS, SNATCH, STARTED, SYNC, steps, verdict
from bench.mirror_steps import CountingStore, Job, step, work
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores import Put

FILES = 200


def test_the_catalogue_has_the_counts_of_the_public_index() -> None:
    catalogue = Catalogue(20_000)
    counts = [catalogue.count(number) for number in range(catalogue.projects)]
    assert statistics.median(counts) == MEDIAN
    assert statistics.mean(counts) == pytest.approx(MEAN, rel=0.05)
    assert len(catalogue.tokens) == catalogue.projects


def test_everything_made_up_may_be_published(tmp_path: Path) -> None:
    catalogue = Catalogue(2_000)
    projects = [catalogue.project(name) for name in catalogue.tokens]
    assert sum(len(project.files) for project in projects) == catalogue.total()
    assert 0.25 < statistics.mean(project.display != project.name for project in projects) < 0.5
    assert work(Job(str(tmp_path), 2_000, syncs=True)).projects == len(projects)  # it ends where one is rejected


def test_a_round_gives_each_chosen_project_one_more_file_and_a_token() -> None:
    change = Round(3)
    before, after = Catalogue(FILES), Catalogue(FILES, [change])
    chosen = before.changed(change)
    assert len(set(chosen)) == 3
    for name in before.tokens:
        old, new = before.project(name), after.project(name)
        assert (len(new.files) - len(old.files)) == (name in chosen)
        assert (after.tokens[name] != before.tokens[name]) == (name in chosen)
        assert {file.filename for file in old.files} <= {file.filename for file in new.files}


def test_dumb_pypi_is_told_of_the_same_files() -> None:
    catalogue = Catalogue(FILES)
    projects = [catalogue.project(name) for name in catalogue.tokens]
    told = [json.loads(line)["filename"] for line in package_list(projects)]
    assert told == [file.filename for project in projects for file in project.files]


def test_every_step_of_a_mirror_is_measured(tmp_path: Path) -> None:
    job = Job(str(tmp_path), FILES)
    synced = step(job._replace(syncs=True))
    assert 0 < synced.start < synced.cpu < 60 and synced.memory > 10e6
    assert synced.projects == Catalogue(FILES).projects

    done = {name: found for name, found, _ in steps(job, work)}  # its bounds are for a run of its own

    assert done["full build"].puts == len([path for path in tmp_path.glob("site/*/**/*") if path.is_file()]) + 2
    assert done["full render and diff, nothing new"].puts == done["nothing changed"].puts == 0
    assert done["one changed file"].puts == 4 + ENDS


def test_a_store_that_counts_knows_its_owner_again(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    assert store.mark() is None and store.set_mark(b"mine", None)
    assert store.put("simple/index.html", b"four", Headers("text/html", "no-store"), b"") == Put(4)
    mark = CountingStore(tmp_path).mark()
    assert mark and mark.body == b"mine"


@pytest.mark.parametrize(("full", "one", "missed"), [(20.0, 100.0, 0), (19.9, 100.0, 2), (20.0, 99.9, 2)])
def test_the_peers_have_to_take_so_many_times_as_long(full: float, one: float, missed: int) -> None:
    others = {DUMBER: [5.0], SNATCH: [5.0]}
    built = {name: [1.0] for name in (SYNC, *OURS.values())} | {DUMB: [full]} | others
    changed = {name + end: [1.0] for name in OURS.values() for end in ("", STARTED)} | {DUMB: [one]} | others
    assert verdict(Catalogue(FILES), Catalogue(FILES, [ONE]), built, changed) == missed


def test_bandersnatch_finds_what_it_asks_for(tmp_path: Path) -> None:
    for key, body in (("simple/index.json", b"{}"), ("pypi/demo/json", b'{"info":{},"last_serial":42,"urls":[]}')):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    opener = build_opener(ProxyHandler({}))
    with origin(tmp_path) as url:
        with opener.open(Request(f"{url}/simple"), timeout=10) as listed:
            assert (listed.headers["Content-Type"], listed.read()) == ("application/vnd.pypi.simple.v1+json", b"{}")
        with opener.open(f"{url}/pypi/demo/json", timeout=10) as project:
            assert project.headers["X-PyPI-Last-Serial"] == "42"


def test_a_driver_is_given_every_row(tmp_path: Path) -> None:
    _, connection = sqlite_drivers.opened("sqlite3", tmp_path / "files.sqlite")
    projects = 0
    for batch in sqlite_drivers.batches(FILES):
        sqlite_drivers.ingest(connection, batch)
        projects += len(batch)
    total = Catalogue(FILES).total()
    assert sqlite_drivers.scan(connection) == sqlite_drivers.each(connection, projects) == total
    connection.close()
