"""`kill -9`, and a store that is cut off, at every request of a publish; several publishers at once.

A small index with a change of every kind in it is published into a real bucket again and again, each time from the same
state, and stopped at another request. After each: nothing that a reader can see leads nowhere, the next publish ends in
the very objects of an undisturbed one, and a third asks for nothing.
"""

from __future__ import annotations

import pickle
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.rig.buckets import SERVERS, BucketMirror, Place, dangling, site
from tests.rig.dists import Dist, wheel
from tests.rig.messages import Answer, Request
from tests.rig.mirrors import NEW, OLD, PATIENCE, Pages, aged, kill, once, until
from tests.rig.s3_bucket import Bucket, Object
from tests.rig.s3_faults import After, Before
from tests.rig.s3_proxy import Call, Exchange, Fault, Proxy
from tests.rig.scene import subnet
from tests.rig.server import Server

SHARDS = 4
PART = 8 << 20  # what is larger is put in parts


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: object) -> None:
    """Other pips would see the same."""


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Place]:
    with Place.make(request.param, tmp_path_factory, tmp_path / "mirror") as made:
        yield made


# --- a publish ---


class Story(NamedTuple):
    """What is published first, and what is after the publish that is to be disturbed, with its requests."""

    folder: Path  # a mirror's, whose catalog knows of all the changes; its packages are still there
    before: dict[str, Object]  # with the mark
    after: dict[str, Object]
    requests: list[str]

    def begin(self, place: Place) -> None:
        """Its state before that publish: in the bucket, and in the catalog."""
        there = {key: one._replace(etag="") for key, one in place.bucket.objects().items()}
        place.bucket.delete(*(there.keys() - self.before.keys()))
        place.bucket.fill({key: one for key, one in self.before.items() if there.get(key) != one})
        mirror = place.mirror
        for path in mirror.folder.glob(f"{mirror.catalog.name}*"):
            if path.suffix != ".lock":
                path.unlink()
        mirror.catalog.write_bytes((self.folder / mirror.catalog.name).read_bytes())
        place.proxy.heal()
        place.proxy.forget()


Tell = Callable[[str, Callable[[BucketMirror], None]], Story]


@pytest.fixture(scope="session")
def tell(tmp_path_factory: pytest.TempPathFactory) -> Tell:
    """Tells a story once for all workers of this run: `changes` publishes what is there first, and syncs the rest."""

    def told(name: str, changes: Callable[[BucketMirror], None]) -> Story:
        def make(folder: Path) -> None:
            with Place.make("ministack", tmp_path_factory, folder) as place:
                configure(place.mirror, place.bucket, place.proxy, place.mirror.packages)
                changes(place.mirror)
                (folder / "story").write_bytes(pickle.dumps(_undisturbed(place)))

        folder = once(tmp_path_factory, name, make)
        story: Story = pickle.loads((folder / "story").read_bytes())
        return story

    return told


def _undisturbed(place: Place) -> Story:
    mirror, bucket = place.mirror, place.bucket
    before = {key: one._replace(etag="") for key, one in bucket.objects().items()}
    known = mirror.catalog.read_bytes()
    place.proxy.forget()
    mirror.publish()
    story = Story(mirror.folder, before, site(bucket), place.asked)
    mirror.catalog.write_bytes(known)
    return story


@pytest.fixture(scope="session")
def story(tell: Tell) -> Story:
    """With a change of every kind."""
    return tell("story", _changes)


@pytest.fixture(scope="session")
def large(tell: Tell) -> Story:
    """A file comes that is put in parts."""
    return tell("large", _large)


def _changes(mirror: BucketMirror) -> None:
    both = ("1.0", "2.0")
    mirror.add(wheel("demo-a"), wheel("demo-gone"), *(wheel(name, v) for name in ("Demo_B", "c", "d") for v in both))
    for name in ("guide", "gone", "going"):
        beside(mirror, name, "old")
    mirror.run()

    (mirror.packages / wheel("d").filename).unlink()
    (mirror.folder / "docs" / "gone.html").unlink()
    mirror.run()
    forgotten(mirror)

    mirror.add(wheel("demo-a", "2.0"), wheel("new"))
    mirror.yank(wheel("Demo_B", "2.0"), "broken")
    (mirror.packages / wheel("c").filename).unlink()
    (mirror.packages / wheel("demo-gone").filename).unlink()
    beside(mirror, "guide", "new")
    (mirror.folder / "docs" / "going.html").unlink()
    time.sleep(1)  # /last-modified goes by the second
    _synced(mirror)


def forgotten(mirror: BucketMirror) -> None:
    """By now no cache knows what was removed."""
    with closing(sqlite3.connect(mirror.catalog)) as catalog:
        catalog.execute("UPDATE ledger SET doomed = doomed - 200000 WHERE doomed > 0")
        catalog.commit()


def _large(mirror: BucketMirror) -> None:
    mirror.add(wheel("demo-a"))
    beside(mirror, "guide", "old")
    mirror.run()
    mirror.add(wheel("large", padding=PART))
    _synced(mirror)


def _synced(mirror: BucketMirror) -> None:
    done = mirror("sync")
    assert (done.code, done.stderr) == (0, ""), done.output


def beside(mirror: BucketMirror, name: str, text: str) -> None:
    """A file beside the index."""
    path = mirror.folder / "docs" / f"{name}.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    aged(path, OLD if text == "old" else NEW)


def configure(mirror: BucketMirror, bucket: Bucket, proxy: Proxy, packages: Path) -> None:
    """Into this bucket, from that folder, without a second try for what fails."""
    mirror.into(bucket, proxy.endpoint, retry_seconds=0).source(f'type = "directory"\npath = "{packages}"')
    mirror.config.write_text(
        f'{mirror.config.read_text()}\n[[tree]]\npath = "{packages.parent}/docs"\nprefix = "docs"\n'
    )


def test_the_story_has_a_change_of_every_kind(story: Story) -> None:
    """Or nothing that follows proves anything."""
    before, after = story.before, story.after
    assert not dangling(before) and not dangling(after)
    gone = before.keys() - after.keys()
    assert {"packages/d-1.0-py3-none-any.whl", "packages/d-1.0-py3-none-any.whl.metadata"} < gone
    assert {"simple/demo-gone/index.json", "pypi/demo-gone/json.gz", "docs/gone.html"} < gone
    assert {"packages/demo_gone-1.0-py3-none-any.whl", "docs/going.html"} < after.keys(), "caches lead to them yet"
    new = after.keys() - before.keys()
    assert {"packages/demo_a-2.0-py3-none-any.whl", "packages/new-1.0-py3-none-any.whl", "simple/new/index.html"} < new
    changed = {key for key in after.keys() & before.keys() if after[key] != before[key]}
    assert {f"simple/{name}/index.json" for name in ("demo-a", "demo-b", "c")} < changed
    assert {"docs/guide.html", "simple/index.html", "simple/index.json.gz", "last-modified"} <= changed
    assert b'"yanked": "broken"' in after["simple/demo-b/index.json"].body.replace(b'":"', b'": "')
    assert len(story.requests) > 40


def killed_before(place: Place) -> Fault:
    """The publisher is killed, and the store never hears of the request."""
    return Before(place.mirror.kill)


def killed_after(place: Place) -> Fault:
    """The store has done it, and the publisher is killed before it can hear of that."""
    return After(place.mirror.kill)


def cut(place: Place) -> Fault:
    """From this request on nobody listens; the publisher is alive and sees that."""
    return Before(place.proxy.cut)


HOW = pytest.mark.parametrize("how", [killed_before, killed_after, cut])


@HOW
@pytest.mark.parametrize("shard", range(SHARDS))
def test_nothing_dangles_whichever_request_was_the_last(
    place: Place, story: Story, how: Callable[[Place], Fault], shard: int
) -> None:
    """Each of them, in as many portions as there are shards."""
    configure(place.mirror, place.bucket, place.proxy, story.folder / "packages")
    for number in range(1 + shard, len(story.requests) + 1, SHARDS):
        _disturb(place, story, how, number)


@HOW
def test_nothing_dangles_whichever_part_of_a_large_file_was_the_last(
    place: Place, large: Story, how: Callable[[Place], Fault]
) -> None:
    of_parts = [number for number, one in enumerate(large.requests, 1) if "upload" in one]
    assert len(of_parts) == 4, large.requests  # it is begun, comes in two parts, and is put together
    configure(place.mirror, place.bucket, place.proxy, large.folder / "packages")
    for number in of_parts:
        _disturb(place, large, how, number)


def _disturb(place: Place, story: Story, how: Callable[[Place], Fault], number: int) -> None:
    """Stop a publish at this request; look at the bucket; finish it; see that it is finished."""
    story.begin(place)
    place.proxy.fault(how(place), at=number)
    done = place.mirror("publish")
    place.proxy.heal()
    calls = place.asked
    last = f"request {number} of {len(story.requests)}, {calls[number - 1 :][:1]}: {done.output}"
    assert len(calls) >= number, last
    if how is cut:
        _is_told(done.code, done.stderr, last, calls[number - 1])
    else:
        assert done.code == -9, last

    assert dangling(site(place.bucket)) == [], last
    done = place.mirror("publish")
    assert (done.code, done.stderr) == (0, ""), f"after {last}: {done.output}"
    assert _differ(place, story) == [], last
    place.proxy.forget()
    done = place.mirror("publish")
    assert (done.code, done.stdout) == (0, "published: nothing new\n"), last
    assert place.asked == [], last


@pytest.mark.parametrize("place", ["ministack"], indirect=True)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_what_a_killed_publish_has_put_goes_again_if_nobody_wants_it_any_more(
    place: Place, story: Story, tmp_path: Path, shard: int
) -> None:
    """The source goes on before the publish is taken up: what comes back is there, and nothing else is left over."""
    shutil.copytree(story.folder / "docs", tmp_path / "docs")
    then = shutil.copytree(story.folder / "packages", tmp_path / "packages")
    for dist in (wheel("new"), wheel("demo-a", "2.0")):
        (then / dist.filename).unlink()
    (then / f"{wheel('Demo_B', '2.0').filename}.yanked").unlink()
    for dist in (wheel("demo-gone"), wheel("d")):  # one still there, and one that it deletes
        (then / dist.filename).write_bytes(dist.content)
        aged(then / dist.filename, OLD)
    (tmp_path / "docs" / "gone.html").write_text("old")
    aged(tmp_path / "docs" / "gone.html", OLD)
    (tmp_path / "docs" / "guide.html").unlink()
    config = place.mirror.config.read_text()

    def ends() -> dict[str, Object]:
        place.mirror.config.write_text(config)
        configure(place.mirror, place.bucket, place.proxy, then)
        _synced(place.mirror)
        place.mirror.publish()
        assert dangling(site(place.bucket)) == []
        forgotten(place.mirror)
        place.mirror.publish()
        return {key: one for key, one in site(place.bucket).items() if key != "last-modified"}

    def begins(number: int | None) -> str:
        place.mirror.config.write_text(config)
        configure(place.mirror, place.bucket, place.proxy, story.folder / "packages")
        story.begin(place)
        if number:
            place.proxy.fault(After(place.mirror.kill), at=number)
        done = place.mirror("publish")
        assert done.code == (-9 if number else 0), f"{number}: {done.output}"
        place.proxy.heal()
        return f"request {number} of {len(story.requests)}: {place.asked[-1]}"

    begins(None)
    wanted = ends()
    assert wanted.keys() & {"docs/guide.html", "packages/new-1.0-py3-none-any.whl"} == set()
    assert {"docs/gone.html", "packages/d-1.0-py3-none-any.whl", "simple/demo-gone/index.json"} < wanted.keys()
    for number in range(1 + shard, len(story.requests) + 1, SHARDS):
        last = begins(number)
        found = ends()
        assert sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)) == [], last


@pytest.mark.parametrize("place", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("number", [8, 24])
def test_a_store_that_is_killed_itself_has_lost_nothing(place: Place, story: Story, number: int) -> None:
    """With SIGKILL, while several puts are under way: what it acknowledged is there when it is started again.

    ministack is no store to be killed: it writes an object and what it knows of it into two files, in no order.
    """
    configure(place.mirror, place.bucket, place.proxy, story.folder / "packages")
    story.begin(place)
    place.proxy.fault(Before(place.server.kill), at=number)
    try:
        done = place.mirror("publish")
    finally:
        place.server.kill()
        place.server.start()
    assert done.code == 1 and "cannot be reached" in done.stderr, done.output
    assert dangling(site(place.bucket)) == []
    place.mirror.publish()
    assert _differ(place, story) == []


def test_a_store_that_comes_back_soon_is_waited_for(place: Place, story: Story) -> None:
    configure(place.mirror, place.bucket, place.proxy, story.folder / "packages")
    place.mirror.into(place.bucket, place.proxy.endpoint, retry_seconds=60)
    story.begin(place)

    def restart() -> None:
        place.server.kill()
        place.server.start()

    place.proxy.fault(Before(restart), at=20)
    place.mirror.publish()
    assert _differ(place, story) == []


def _differ(place: Place, story: Story) -> list[str]:
    found = site(place.bucket)
    return sorted(key for key in found.keys() | story.after.keys() if found.get(key) != story.after.get(key))


def _is_told(code: int, said: str, last: str, call: str) -> None:
    """Only the lease's return may fail without a word: all is done then."""
    if code == 0:
        assert call.partition(" 0")[0] in ("GET .cdn-fallback", "PUT .cdn-fallback"), last
    else:
        assert code == 1 and "cannot be reached" in said and "Traceback" not in said, last


# --- several publishers ---


@dataclass(slots=True)
class Hold:
    """A fault: the request waits until `go` is set; then all goes on as always."""

    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def apply(self, exchange: Exchange) -> bool:
        self.reached.set()
        assert self.go.wait(PATIENCE)
        return exchange.healthy()


def a_put_of_a_page(call: Call) -> bool:
    return call.method == "PUT" and call.key.startswith("simple/")


def test_of_two_publishers_one_works_and_the_other_is_told_who_it_is(place: Place, tmp_path: Path) -> None:
    mirror = place.mirror
    mirror.add(wheel("demo-a"), wheel("demo-b"))
    mirror.run()
    mirror.add(wheel("demo-c"))
    _synced(mirror)
    other = mirror.copy(tmp_path / "other").into(place.bucket, place.server.endpoint)
    hold = Hold()
    place.proxy.fault(hold, on=a_put_of_a_page)

    first = mirror.start("publish", said=tmp_path / "said")
    try:
        assert hold.reached.wait(PATIENCE)
        before = place.bucket.objects()
        done = other("publish")
        assert place.bucket.objects() == before
        hold.go.set()
        assert first.wait(PATIENCE) == 0, (tmp_path / "said").read_text()
    finally:
        hold.go.set()
        kill(first)

    assert (done.code, done.stdout) == (4, "")
    who = f"mirror publish --config cdn-fallback.toml, process {first.pid} on "
    assert f"another publisher is at work ({who}" in done.stderr and "nothing was done" in done.stderr
    published = site(place.bucket)
    assert "simple/demo-c/index.json" in published and not dangling(published)
    assert mirror.publish() == "published: nothing new\n"
    # The other's catalog is older than the store, but it may: what it puts is what is there.
    assert other("publish").code == 0
    assert site(place.bucket) == published


def test_the_same_folder_goes_on_at_once_after_a_kill(place: Place) -> None:
    place.mirror.add(wheel("demo-a"))
    _synced(place.mirror)
    place.proxy.fault(Before(place.mirror.kill), on=a_put_of_a_page)
    assert place.mirror("publish").code == -9
    assert b'"run"' in place.bucket.get(".cdn-fallback").body, "it has left its lease behind"
    done = place.mirror("publish")
    assert (done.code, done.stderr) == (0, "")
    assert done.seconds < 10
    assert b'"run"' not in place.bucket.get(".cdn-fallback").body


def test_another_place_leaves_a_lease_alone_that_may_still_be_held(place: Place, tmp_path: Path) -> None:
    place.mirror.add(wheel("demo-a"))
    _synced(place.mirror)
    place.proxy.fault(Before(place.mirror.kill), on=a_put_of_a_page)
    assert place.mirror("publish").code == -9
    before = place.bucket.objects()
    other = place.mirror.copy(tmp_path / "other")

    done = other("publish")

    assert done.code == 4
    assert re.search(r"another publisher is at work \(\S.*, process \d+ on \S+ since \S+\)", done.stderr)
    assert re.search(r"If it was killed, run again in \d minutes: its lease will be taken over", done.stderr)
    assert place.bucket.objects() == before


def test_another_place_watches_a_lease_that_looks_dead_and_says_so(place: Place, tmp_path: Path) -> None:
    """How it is taken over then takes minutes, and is told in tests/mirror/test_lease.py."""
    place.mirror.add(wheel("demo-a"))
    _synced(place.mirror)
    place.proxy.fault(Before(place.mirror.kill), on=a_put_of_a_page)
    assert place.mirror("publish").code == -9
    before = place.bucket.objects()
    place.proxy.skew = -3600  # it was written an hour ago, as it seems
    said = tmp_path / "said"
    waiting = place.mirror.copy(tmp_path / "other").start("publish", said=said)
    try:
        until(lambda: "watching it for" in said.read_text() or waiting.poll() is not None, "it says that it waits")
        assert waiting.poll() is None
    finally:
        kill(waiting)
    assert re.search(r"process \d+ on \S+ since \S+ has left its lease behind", said.read_text())
    assert place.bucket.objects() == before


# --- a sync ---


class Counted:
    """An index's content that calls back at its n-th request, before it answers."""

    def __init__(self, content: Pages) -> None:
        self.content = content
        self.requests = 0
        self.at: int | None = None
        self.call_back: Callable[[], object] = bool
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests += 1
            if self.requests == self.at:
                self.call_back()
        return self.content.answer(request)

    def begin(self, at: int | None, call_back: Callable[[], object] = bool) -> None:
        self.requests, self.at, self.call_back = 0, at, call_back


def offer(index: Pages, serial: int, *dists: Dist) -> None:
    """These are all that the index has; a project is changed with this serial if its files differ."""
    for project in {dist.project for dist in dists}:
        files = [one for one in dists if one.project == project]
        index.project(project, serial, *({
            "filename": one.filename, "url": f"../../packages/{one.filename}", "hashes": {"sha256": one.sha256},
            "size": len(one.content),
        } for one in files))  # fmt: skip
        for one in files:
            index.put(f"/packages/{one.filename}", one.content, "application/octet-stream")
    index.list({dist.project: serial for dist in dists})


def test_a_sync_that_is_killed_at_any_request_is_finished_by_the_next(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """With a publish after each: its site is that of an undisturbed mirror."""
    index = Pages()
    content = Counted(index)
    first = [wheel("demo-a"), wheel("demo-b"), wheel("demo-c"), wheel("demo-c", "2.0")]
    then = [wheel("demo-a"), wheel("demo-a", "2.0"), wheel("demo-c", "2.0"), wheel("demo-d"), wheel("demo-e")]
    with (
        Place.make("ministack", tmp_path_factory, tmp_path / "mirror") as place,
        Server(content, f"{subnet()}.1", 0) as server,
    ):
        mirror = place.mirror
        mirror.source(f'type = "simple-api"\nurl = "{server.url}simple/"\nfiles = true\nretries = 0')
        offer(index, 1, *first)
        mirror.run()
        known, published = mirror.catalog.read_bytes(), place.bucket.objects()
        offer(index, 2, *then)
        content.begin(None)
        mirror.run()
        wanted, requests = _dateless(place), content.requests
        assert requests > 5 and not dangling(wanted)

        for number in range(1, requests + 1):
            _back(place, known, published)
            content.begin(number, mirror.kill)
            done = mirror("run")
            assert done.code == -9, f"request {number} of {requests}: {done.output}"
            assert dangling(site(place.bucket)) == []
            content.begin(None)
            done = mirror("run")
            assert (done.code, done.stderr) == (0, ""), f"after request {number} of {requests}: {done.output}"
            assert _dateless(place) == wanted, number
            done = mirror("run")
            assert "published: nothing new" in done.stdout, f"after request {number}: {done.output}"


def _back(place: Place, catalog: bytes, objects: dict[str, Object]) -> None:
    """To this state."""
    place.bucket.clear()
    place.bucket.fill(objects)
    for path in place.mirror.folder.glob(f"{place.mirror.catalog.name}*"):
        if path.is_file() and path.suffix != ".lock":
            path.unlink()
    place.mirror.catalog.write_bytes(catalog)


def _dateless(place: Place) -> dict[str, Object]:
    """What is published, but for when it was."""
    return {key: one for key, one in site(place.bucket).items() if key != "last-modified"}
