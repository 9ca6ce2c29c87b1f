"""The mirror's promises (DESIGN, section 4), each by its name."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror import due, names, sync
from cdn_fallback.mirror.catalog.content import Record
from cdn_fallback.mirror.due import TooManyRemovals
from cdn_fallback.mirror.model import Project
from cdn_fallback.mirror.publish import Publisher
from cdn_fallback.mirror.report import Report
from cdn_fallback.mirror.site import Object, pages
from cdn_fallback.mirror.sources import ProjectError
from tests.mirror.fakes import NOW, RULES, WHO, FakeSource, FakeStore, Killed, Trap, TrappedCatalog, published, sha256
from tests.mirror.reader import Tags, dangling
from tests.mirror.story import GONE, LATER, METADATA, Story, Watched, after, before, then, told_of


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


def test_a_site_is_whole_to_the_reader_of_these_tests(story: Story) -> None:
    """And one with a hole is not: the judge of what follows can say no."""
    assert "packages/changed-1.0-py3-none-any.whl" in story.store.objects
    assert not dangling(story.store)
    for key in story.store.objects:
        nobody_links = ("docs/", "last-modified", "robots.txt", "simple/index.", "packages/back-")
        if key.startswith(nobody_links) or "Re.Named" in key or "gone.to-day" in key or key.endswith("/json.gz"):
            continue
        holed = story.store.copy(Trap())
        del holed.objects[key]
        assert dangling(holed), key
        holed.objects[key] = b"other bytes"
        if key.startswith("packages/"):
            assert dangling(holed), key


@pytest.mark.parametrize("part", range(4))
def test_nothing_dangles_wherever_a_publish_is_killed(story: Story, part: int) -> None:
    calm = Trap()
    path, undisturbed = story.again(calm)
    story.sync(path)
    story.publish(path, undisturbed, trap=calm)
    steps, final = calm.steps, dict(undisturbed.objects)
    story.publish(path, undisturbed, GONE)
    last = dict(undisturbed.objects)
    assert steps > 150 and final.keys() - last.keys() > {"packages/shrunk-1.0.tar.gz", "docs/gone.html"}
    synced, _ = story.again(calm)
    story.sync(synced)
    for step in range(part + 1, steps + 1, 4):
        trap = Trap(step)
        path, store = story.again(trap)
        shutil.copy(synced, path)
        with pytest.raises(Killed):
            story.publish(path, store, trap=trap)
        assert not dangling(store), f"killed at {step}"
        story.publish(path, store)
        assert not dangling(store) and store.objects == final, f"killed at {step}"
        story.publish(path, store, GONE)
        assert store.objects == last and store.headers == undisturbed.headers, f"killed at {step}"
        assert told_of(path) == store.objects.keys()
        path.unlink()


def test_nothing_dangles_wherever_a_publish_by_several_threads_is_killed(story: Story) -> None:
    synced, undisturbed = story.again(Trap())
    story.sync(synced)
    calm = Trap()
    path, store = story.again(calm)
    shutil.copy(synced, path)
    store.workers = 4
    story.publish(path, store, trap=calm)
    shutil.copy(synced, path)
    story.publish(path, undisturbed)
    assert store.objects == undisturbed.objects
    for step in range(1, calm.steps + 1, 3):
        trap = Trap(step)
        path, store = story.again(trap)
        shutil.copy(synced, path)
        store.workers = 4
        with suppress(Killed):  # threads take as many steps, more or less
            story.publish(path, store, trap=trap)
        assert not dangling(store), f"killed at {step}"
        story.publish(path, store)
        assert not dangling(store) and store.objects == undisturbed.objects, f"killed at {step}"
        assert told_of(path) == store.objects.keys(), f"killed at {step}"
        path.unlink()


@pytest.mark.parametrize("part", range(2))
def test_nothing_dangles_when_all_has_changed_again_after_the_kill(tmp_path: Path, part: int) -> None:
    story = Story(tmp_path)
    synced, _ = story.again(Trap())
    story.sync(synced)
    calm = Trap()
    path, store = story.again(calm)
    shutil.copy(synced, path)
    story.publish(path, store, trap=calm)
    then(story.source)
    for step in range(part + 1, calm.steps + 1, 6):
        trap = Trap(step)
        path, store = story.again(trap)
        shutil.copy(synced, path)
        before(story.source)
        after(story.source)
        with pytest.raises(Killed):
            story.publish(path, store, trap=trap)
        then(story.source)
        story.sync(path)
        watched = Watched(store)
        story.publish(path, store, trap=watched)
        story.publish(path, store, GONE + 1, trap=watched)
        assert not watched.seen, f"killed at {step}"
        assert told_of(path) == store.objects.keys(), f"killed at {step}"
        files = {key: digests for key, digests in store.ever.items() if key.startswith("packages/")}
        assert not [key for key, digests in files.items() if len(digests) > 1], f"killed at {step}"


def test_nothing_dangles_when_a_sync_was_killed(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BATCH", 2)
    path, undisturbed = story.again(Trap())
    story.source.trap = calm = Trap()
    story.sync(path, calm)
    story.publish(path, undisturbed)
    assert calm.steps > 15
    for step in range(1, calm.steps + 1):
        trap = Trap(step)
        path, store = story.again(Trap())
        story.source.trap = trap
        with pytest.raises(Killed):
            story.sync(path, trap)
        story.source.trap = Trap()
        between = store.copy(Trap())
        copy = path.with_suffix(".copy")
        shutil.copy(path, copy)
        story.publish(copy, between)
        assert not dangling(between), f"what there was of it was published, killed at {step}"
        story.sync(path)
        story.publish(path, store)
        assert store.objects == undisturbed.objects, f"killed at {step}"
    story.source.trap = Trap()


def test_nothing_dangles_when_a_project_is_held_back_after_a_kill(story: Story) -> None:
    """It was removed, and its files were doomed; a kill, and now one of its files cannot be had."""
    source = story.source
    calm = Trap()
    path, store = story.again(calm)
    story.sync(path)
    story.publish(path, store, trap=calm)
    for step in range(1, calm.steps + 1, 9):
        trap = Trap(step)
        path, store = story.again(trap)
        story.sync(path)
        with pytest.raises(Killed):
            story.publish(path, store, trap=trap)
        source.unreadable = {"added-1.0.tar.gz", "back-1.0.tar.gz", "changed-2.0-py3-none-any.whl"}
        watched = Watched(store)
        story.publish(path, store)
        story.publish(path, store, GONE)
        assert not watched.seen, f"killed at {step}"
        source.unreadable = set()
        story.publish(path, store, GONE)
        assert not watched.seen and told_of(path) == store.objects.keys()


Change = Callable[[FakeSource], None]


def in_steps(folder: Path, *changes: tuple[Change, float], kill: int, killed: int) -> tuple[Watched, FakeStore] | None:
    """Each change synced and published, but for number `kill`, which is killed at its step `killed`.

    Returns what was seen, and the store; None where that publish has no such step.
    """
    source, store, trap = FakeSource(), FakeStore(), Trap(killed)
    watched = Watched(store)
    for number, (change, now) in enumerate(changes):
        change(source)
        with closing(TrappedCatalog.trapped(folder / f"{killed}.sqlite")) as catalog:
            source.sync(catalog, now)
            if number == kill:
                catalog.trap = trap
                watched.trap = trap
            with suppress(Killed):
                published(source, catalog, store, now)
            watched.trap = Trap()
    return (watched, store) if trap.steps >= killed else None


def every_kill(folder: Path, *changes: tuple[Change, float], kill: int) -> Iterator[tuple[Watched, FakeStore]]:
    for step in itertools.count(1):
        found = in_steps(folder, *changes, kill=kill, killed=step)
        if found is None:
            assert step > 10
            return
        yield found


def test_nothing_dangles_when_a_doomed_file_is_wanted_again_and_cannot_be_had(tmp_path: Path) -> None:
    def first(source: FakeSource) -> None:
        source.put("a", source.file("a-1.0.tar.gz", b"1"), source.file("a-2.0.tar.gz", b"2"))

    def less(source: FakeSource) -> None:
        source.put("a", source.file("a-1.0.tar.gz", b"1"))

    def unreadable(source: FakeSource) -> None:
        source.unreadable = {"a-2.0.tar.gz"}

    changes = [(first, NOW), (less, LATER), (first, GONE), (unreadable, GONE)]
    for watched, _ in every_kill(tmp_path, *changes, kill=2):
        assert not watched.seen


def test_nothing_dangles_when_a_project_comes_back_as_another_and_cannot_be_had(tmp_path: Path) -> None:
    def first(source: FakeSource) -> None:
        source.put("a", source.file("a-1.0.tar.gz", b"1"))

    def gone(source: FakeSource) -> None:
        source.projects.clear()

    def other(source: FakeSource) -> None:
        source.put("a", source.file("a-2.0.tar.gz", b"2"))
        source.unreadable = {"a-2.0.tar.gz"}

    changes = [(first, NOW), (gone, LATER), (other, LATER), (other, GONE), (other, GONE + GONE - NOW)]
    for watched, store in every_kill(tmp_path, *changes, kill=1):
        assert not watched.seen
        assert ("simple/a/index.html" in store.objects) == ("packages/a-1.0.tar.gz" in store.objects)


def test_what_made_way_and_is_wanted_again_is_there(tmp_path: Path) -> None:
    def file(source: FakeSource) -> None:
        source.static.clear()
        source.put_static("docs/a", b"file")

    def folder(source: FakeSource) -> None:
        source.static.clear()
        source.put_static("docs/a/b", b"folder")

    for _, store in every_kill(tmp_path, (file, NOW), (folder, NOW), (file, NOW), kill=1):
        assert store.objects["docs/a"] == b"file" and "docs/a/b" not in store.objects


class Chance:
    """A small index to which anything happens, in an order that its seed decides."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.source = FakeSource()
        self.path = path
        self.store = FakeStore()
        self.now = NOW
        # A source that does not count: what changes and changes back is the same page, the same list
        self.serial = None if seed % 2 else 7
        self.source.serial = self.serial

    def change(self) -> None:
        """Projects, their names, their files and these files' bytes come, change and go."""
        source, choice = self.source, self.random.choice
        name = choice(["a.b", "c"])
        if self.random.random() < 0.25:
            source.projects.pop(names.normalised(name), None)
            return
        files = []
        for version in ("1.0", "2.0"):
            content = choice([None, b"x", b"y"])
            if content:
                metadata = choice([None, METADATA + content])
                filename = f"{name.replace('.', '_')}-{version}-py3-none-any.whl"
                files.append(source.file(filename, content, metadata=metadata, yanked=choice([None, ""])))
        source.put(choice([name, name.upper()]), *files, serial=self.serial, status=choice([None, None, "quarantined"]))
        source.static.pop(choice(["docs/a", "docs/a/b"]), None)
        if self.random.random() < 0.5:
            source.static.clear()
            source.put_static(choice(["docs/a", "docs/a/b"]), choice([b"1", b"2"]))

    def publish(self, trap: Trap) -> None:
        """Whole, or killed, or with files that cannot be had."""
        watched = Watched(self.store, trap)
        with closing(TrappedCatalog.trapped(self.path, trap)) as catalog, suppress(Killed):
            published(self.source, catalog, self.store, self.now)
        assert not watched.seen

    def live(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            self.change()
        with closing(TrappedCatalog.trapped(self.path)) as catalog:
            self.source.sync(catalog, self.now)
        self.now += self.random.choice([60, 60, GONE - NOW])
        files = sorted({file.filename for project in self.source.projects.values() for file in project.files})
        self.source.unreadable = (
            set(self.random.sample(files, len(files) // 3)) if self.random.random() < 0.4 else set()
        )
        self.publish(Trap(self.random.randrange(1, 120) if self.random.random() < 0.6 else None))


@pytest.mark.parametrize("seeds", [range(0, 20), range(20, 40)])
def test_nothing_dangles_whatever_happens(tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        chance = Chance(seed, tmp_path / f"{seed}.sqlite")
        for _ in range(12):
            chance.live()
        chance.source.unreadable = set()
        for _ in range(2):
            chance.publish(Trap())
            chance.now += GONE - NOW
        store = chance.store
        assert told_of(chance.path) == store.objects.keys(), f"nothing is forgotten in the store, seed {seed}"
        files = {key: digests for key, digests in store.ever.items() if key.startswith("packages/")}
        assert not [key for key, digests in files.items() if len(digests) > 1], f"seed {seed}"
        with closing(TrappedCatalog.trapped(chance.path)) as catalog:
            fresh = FakeStore()
            publisher = Publisher(catalog, fresh, RULES, chance.source.read, WHO)
            publisher.start_anew()
            publisher.publish(chance.now)
        assert store.objects == fresh.objects, f"the store is what a new one would be, seed {seed}"


# 2


@pytest.fixture
def catalog(tmp_path: Path) -> TrappedCatalog:
    return TrappedCatalog.trapped(tmp_path / "catalog.sqlite")


LISTS = ["simple/index.html", "simple/index.html.gz", "simple/index.json", "simple/index.json.gz"]


def keys_of(name: str) -> list[str]:
    twins = [f"simple/{name}/index.html", f"simple/{name}/index.json", f"pypi/{name}/json"]
    return [key for twin in twins for key in (twin, f"{twin}.gz")]


def test_cost_follows_change(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    for number in range(30):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b"%d" % number))
    source.put_static("docs/index.html", b"documentation")
    source.sync(catalog)
    published(source, catalog, store)
    store.calls.clear()

    source.sync(catalog, NOW + 600)
    assert published(source, catalog, store, NOW + 600) == Report()
    assert store.calls == [], "nothing has changed"

    source.put("p7", source.file("p7-1.0.tar.gz", b"7", yanked="so"))
    source.asked.clear()
    source.sync(catalog, LATER)
    report = published(source, catalog, store, LATER)
    assert source.asked == ["p7"]
    assert store.puts() == [*keys_of("p7"), *LISTS, "last-modified"]
    assert (report.projects, report.puts) == (1, 11)
    assert store.deletes() == []

    store.calls.clear()
    source.put("p7", *source.projects["p7"].files, source.file("p7-2.0-py3-none-any.whl", b"w", metadata=METADATA))
    source.sync(catalog, LATER)
    published(source, catalog, store, LATER)
    wheel = "packages/p7-2.0-py3-none-any.whl"
    assert store.puts() == [wheel, f"{wheel}.metadata", *keys_of("p7"), *LISTS]

    store.calls.clear()
    source.put_static("docs/index.html", b"better documentation")
    source.sync(catalog, LATER)
    published(source, catalog, store, LATER)
    assert [key for key in store.puts() if key not in LISTS] == ["docs/index.html"]


# 3

# The same content in other orders: of projects, of files, of the keys in every mapping.
FILLED = """
import sys
from pathlib import Path
from tests.mirror.fakes import FakeSource, FakeStore, TrappedCatalog, published
from tests.mirror.story import before

folder, backwards = Path(sys.argv[1]), sys.argv[2] == "backwards"

def ordered(pairs):
    return dict(reversed(pairs) if backwards else pairs)

source, store = FakeSource(), FakeStore()
before(source)
source.serial = 77
extra = ordered([("b", 1), ("a", {"y": [1, "\\u2028"], "x": None})])
hashes = [("sha512", "f" * 128), ("md5", "0" * 32)]
for number, (name, project) in enumerate(sorted(source.projects.items())):
    files = [file._replace(hashes=ordered([*file.hashes.items(), *hashes]), extra=extra) for file in project.files]
    source.projects[name] = project._replace(serial=number, meta=extra, extra=extra, files=tuple(files))
source.projects = ordered(list(source.projects.items()))
source.static = ordered(list(source.static.items()))
catalog = TrappedCatalog.trapped(folder / "catalog.sqlite")
source.sync(catalog)
published(source, catalog, store)
for key, content in sorted(store.objects.items()):
    print(key, store.headers[key], content.hex())
"""


def test_deterministic_bytes(tmp_path: Path) -> None:
    """In two processes with other hashes of strings, out of catalogs that were filled in other orders."""
    told = []
    for seed, order in (("1", "forwards"), ("2", "backwards")):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", FILLED, str(tmp_path / seed), order]
        told.append(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert told[0] == told[1]
    assert told[0].count("\n") > 60


def test_deterministic_bytes_of_the_twins() -> None:
    """gzip's header has no name and no time (RFC 1952): flags and mtime are 0."""
    source = FakeSource()
    for page in pages(Record(1, source.put("some", source.file("some-1.0.tar.gz")), 1), RULES):
        assert page.gzipped().body == page.gzipped().body
        assert (page.gzipped().body or b"")[:8] == b"\x1f\x8b\x08" + bytes(5)


# 4

UNKNOWN: dict[str, Any] = {"newer-key": {"a": [1, None, "\u00e9"]}}
COMPLETE = FakeSource().file(
    "Some.Thing-1.0+local-py3-none-any.whl",
    b"content",
    metadata=METADATA,
    upload_time="2024-01-31T12:00:00.000000Z",
    requires_python=">=3.8,<4",
    yanked="""it's "broken" <script>alert(1)</script> & more\non two lines""",
    provenance="https://index.example/integrity/some?a=1&b=2",
    extra=UNKNOWN,
)
KEY = "packages/Some.Thing-1.0+local-py3-none-any.whl"
DIGEST = sha256(b"content")


def rendered(project: Project, serial: int = 5) -> dict[str, Object]:
    return {page.key: page for page in pages(Record(1, project, serial), RULES)}


def as_json(project: Project) -> Any:
    return json.loads(rendered(project)[f"simple/{project.name}/index.json"].body or b"")


def as_html(project: Project) -> Tags:
    return Tags(rendered(project)[f"simple/{project.name}/index.html"].body or b"")


def complete() -> Project:
    fields: dict[str, Any] = {
        "status": "archived",
        "status_reason": 'so "it" is',
        "serial": 5,
        "meta": UNKNOWN,
        "extra": UNKNOWN,
    }
    return FakeSource().put("Some.Thing", COMPLETE, **fields)


def test_complete_pages_in_json() -> None:
    assert as_json(complete()) == {
        "meta": {"api-version": "1.4", "_last-serial": 5, **UNKNOWN},
        "name": "some-thing",
        "project-status": {"status": "archived", "reason": 'so "it" is'},
        "versions": ["1.0+local"],
        "files": [
            {
                "filename": COMPLETE.filename,
                "url": "../../packages/Some.Thing-1.0%2Blocal-py3-none-any.whl",
                "hashes": {"sha256": DIGEST},
                "size": 7,
                "upload-time": "2024-01-31T12:00:00.000000Z",
                "requires-python": ">=3.8,<4",
                "yanked": COMPLETE.yanked,
                "core-metadata": {"sha256": sha256(METADATA)},
                "provenance": COMPLETE.provenance,
                **UNKNOWN,
            }
        ],
        **UNKNOWN,
    }


def test_complete_pages_in_html() -> None:
    page = as_html(complete())
    assert page.all("meta")[1:] == [
        {"name": "pypi:repository-version", "content": "1.4"},
        {"name": "pypi:project-status", "content": "archived"},
        {"name": "pypi:project-status-reason", "content": 'so "it" is'},
    ]
    metadata = f"sha256={sha256(METADATA)}"
    assert page.all("a") == [
        {
            "href": f"../../packages/Some.Thing-1.0%2Blocal-py3-none-any.whl#sha256={DIGEST}",
            "data-requires-python": ">=3.8,<4",
            "data-yanked": COMPLETE.yanked,
            "data-core-metadata": metadata,
            "data-dist-info-metadata": metadata,
            "data-provenance": COMPLETE.provenance,
        }
    ]
    assert not page.all("script")
    assert page.comments == ["SERIAL 5"]
    assert COMPLETE.filename in page.texts


def test_complete_pages_leave_out_what_is_not_known() -> None:
    """null, or an empty text, and uv refuses the whole page (FACTS, part B); but hashes are always there."""
    source = FakeSource()
    bare = source.file("some-1.0.tar.gz", key="", url="https://files.example/some-1.0.tar.gz", hashes={}, size=None)
    page = as_json(source.put("some", bare))
    assert page["files"] == [{"filename": bare.filename, "hashes": {}, "url": bare.url}]
    assert page.keys() == {"files", "meta", "name", "versions"}
    assert as_html(source.put("some", bare)).all("a") == [{"href": bare.url}]


@pytest.mark.parametrize(("reason", "told"), [("", True), ("because", "because")])
def test_complete_pages_say_that_a_file_is_yanked_also_without_a_reason(reason: str, told: object) -> None:
    source = FakeSource()
    project = source.put("some", source.file("some-1.0.tar.gz", yanked=reason))
    assert as_json(project)["files"][0]["yanked"] == told
    assert as_html(project).all("a")[0]["data-yanked"] == reason


def test_complete_pages_say_that_there_is_metadata_also_without_a_hash() -> None:
    source = FakeSource()
    file = source.file("some-1.0-py3-none-any.whl", key="", url="https://files.example/x", core_metadata={})
    project = source.put("some", file)
    assert as_json(project)["files"][0]["core-metadata"] is True
    link = as_html(project).all("a")[0]
    assert link["data-core-metadata"] == link["data-dist-info-metadata"] == "true"


def test_complete_pages_of_a_quarantined_project_offer_no_file() -> None:
    """PEP 792; pip and uv would install what is listed."""
    project = complete()._replace(status="quarantined")
    assert as_json(project)["files"] == [] and as_json(project)["project-status"]["status"] == "quarantined"
    assert not as_html(project).all("a")
    legacy = json.loads(rendered(project)["pypi/some-thing/json"].body or b"")
    assert legacy["urls"] == [] and legacy["releases"] == {"1.0+local": []}


def test_complete_pages_have_the_exact_types() -> None:
    """With any other pip and uv refuse them."""
    types = {key: page.headers.content_type for key, page in rendered(complete()).items()}
    assert types == {
        "simple/some-thing/index.html": "text/html; charset=utf-8",
        "simple/some-thing/index.json": "application/vnd.pypi.simple.v1+json",
        "simple/Some.Thing/index.html": "text/html; charset=utf-8",
        "pypi/some-thing/json": "application/json",
    }
    for page in rendered(complete()).values():
        assert page.gzipped().headers == page.headers._replace(content_encoding="gzip")


def test_cost_follows_change_also_in_the_catalog(catalog: TrappedCatalog) -> None:
    """No statement walks a whole table, but for the projects: the source's list and ours have them all."""
    source, store = FakeSource(), FakeStore()
    for number in range(20):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b"%d" % number))
        source.put_static(f"docs/{number}", b"")
    source.sync(catalog)
    published(source, catalog, store)
    statements: set[str] = set()
    catalog._connection.set_trace_callback(statements.add)
    del source.projects["p9"]
    source.put("p7", source.file("p7-1.0.tar.gz", b"other"))
    source.put_static("docs/7", b"other")
    sync.sync(source, catalog, LATER)
    published(source, catalog, store, LATER)
    published(source, catalog, store, GONE)
    catalog._connection.set_trace_callback(None)
    assert len(statements) > 50
    for statement in statements:
        if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) or " FROM rejection ORDER" in statement:
            continue
        plan = [row[3] for row in catalog._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        walked = {step.split()[1] for step in plan if step.startswith("SCAN")}
        assert walked <= {"project", "gone", "pending"}, statement


# 6


def test_removing_is_guarded(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    for number in range(400):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b""))
    source.sync(catalog)
    published(source, catalog, store)
    whole = dict(store.objects)
    store.calls.clear()

    for number in range(20):
        del source.projects[f"p{number}"]
    source.sync(catalog)
    published(source, catalog, store, LATER)
    assert len(store.deletes()) == 20 * 6, "a twentieth may go"

    for number in range(20, 50):
        del source.projects[f"p{number}"]
    source.sync(catalog)
    store.calls.clear()
    with pytest.raises(TooManyRemovals, match=r"would remove 30 of 380 projects.*--allow-removals") as caught:
        published(source, catalog, store, LATER)
    assert (caught.value.what, caught.value.removed, caught.value.of) == ("projects", 30, 380)
    assert store.calls == [], "nothing was done"
    with pytest.raises(TooManyRemovals):
        published(source, catalog, store, GONE)
    report = published(source, catalog, store, LATER, allow_removals=True)
    assert (report.deletes, report.doomed) == (30 * 6, 30)
    assert published(source, catalog, store, LATER + 1) == Report(), "it asks once"
    assert len(store.objects) < len(whole)


def test_removing_is_guarded_for_files_of_projects_that_stay(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    many = [source.file(f"big-{number}.tar.gz", b"") for number in range(100)]
    source.put("big", *many)
    source.sync(catalog)
    published(source, catalog, store)
    source.put("big", *many[:80])
    source.sync(catalog)
    with pytest.raises(TooManyRemovals, match="20 of 100 files"):
        published(source, catalog, store)
    source.put("big", *many)
    source.sync(catalog)
    report = published(source, catalog, store)
    assert (report.deletes, report.doomed) == (0, 0), "they are there again: nothing is taken away"


def test_removing_is_guarded_for_files_beside_the_index(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    for number in range(50):
        source.put_static(f"docs/{number}", b"")
    source.sync(catalog)
    published(source, catalog, store)
    source.static.clear()
    source.sync(catalog)
    with pytest.raises(TooManyRemovals, match="50 of 50 files beside the index"):
        published(source, catalog, store)


def test_removing_is_guarded_but_a_few_may_always_go(catalog: TrappedCatalog) -> None:
    source, store = FakeSource(), FakeStore()
    for number in range(due.FEW):
        source.put(f"p{number}", source.file(f"p{number}-1.0.tar.gz", b""))
    source.sync(catalog)
    published(source, catalog, store)
    source.projects.clear()
    source.sync(catalog)
    assert published(source, catalog, store).doomed == due.FEW


# 7


def test_no_trust_in_names(catalog: TrappedCatalog) -> None:
    """The worst that a source can give is told, and nothing of it gets anywhere; see test_sync for each case."""
    source, store = FakeSource(), FakeStore()
    good = source.file("evil-1.0.tar.gz", b"")
    source.put("evil", good)
    hostile = [
        good._replace(filename="evil-../../x-1.0.tar.gz"),
        good._replace(filename="evil-2.0.tar.gz", key="simple/evil-2.0.tar.gz"),
        good._replace(filename="evil-3.0.tar.gz", key="packages/../../evil-3.0.tar.gz"),
        good._replace(filename='evil-4.0"><script>.tar.gz'),
    ]
    project = source.projects["evil"]
    source.projects["evil"] = project._replace(files=(*hostile, *project.files))
    source.broken["worse"] = ProjectError("worse", "x")
    source.projects["worse"] = project
    report = source.sync(catalog)
    published(source, catalog, store)
    assert {one.what for _, one in report.rejected} == {file.filename for file in hostile}
    assert sorted(key for key in store.objects if key.startswith("packages")) == ["packages/evil-1.0.tar.gz"]
    assert not [key for key in store.objects if "worse" in key or ".." in key or "<" in key]
    assert not dangling(store)
