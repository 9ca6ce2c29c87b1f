"""pip, uv and a reader of everything, in a loop, at an edge without a cache before a bucket, while publishes into it
come to their end, are killed, taken up again and rolled back: none of them ever meets a 404, a wrong hash or half a
page.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.buckets import SERVERS, Edge, Place, dangling, site
from tests.rig.clients import UV, Uv, make
from tests.rig.dists import Dist, wheel
from tests.rig.mirrors import once
from tests.rig.pips import PipEnv
from tests.rig.s3_bucket import S3Error
from tests.rig.s3_faults import After, Before

STEADY = ["steady-a", "steady-b", "Steady_C"]  # are there throughout; their releases come and go
SECONDS = 12.0


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Place]:
    with Place.make(request.param, tmp_path_factory, tmp_path / "mirror") as made:
        yield made


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Uv:
    return Uv(PipEnv(once(tmp_path_factory, "uv-env", lambda folder: make(folder, UV)), ""))


class Loop:
    """Does something again and again while its `with` block runs. `done` counts, `failed` has what went wrong."""

    def __init__(self, work: Callable[[int], str]) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._work = work
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            if problem := self._work(self.done):
                self.failed.append(problem)
            self.done += 1


def test_clients_in_a_loop_never_meet_anything_that_is_not_there_and_whole(
    place: Place, newest_pip: PipEnv, uv: Uv, tmp_path: Path
) -> None:
    """pip reads HTML, uv JSON, both without a cache, with every hash checked."""
    story = Story(place)
    story.publish(kills=0)
    reader = Reader(place)

    with Edge(place.bucket, form="html") as for_pip, Edge(place.bucket) as for_uv:

        def by_pip(number: int) -> str:
            where = ("--index-url", f"{for_pip.url}simple/", "--trusted-host", for_pip.address, "--no-cache-dir")
            dest = tmp_path / f"pip-{number}"
            off = {"CDN_FALLBACK_DISABLE": "1"}
            done = newest_pip.run("download", *where, "--dest", str(dest), *STEADY, env=off)
            return story.judged(done.code, done.output, list(dest.glob("*.whl")))

        def by_uv(number: int) -> str:
            wanted, target = tmp_path / "in", tmp_path / f"uv-{number}"
            wanted.write_text("\n".join(STEADY))
            done = uv(for_uv.url, "pip", "compile", "--generate-hashes", str(wanted), cwd=tmp_path)
            if done.code or not story.promises(done.stdout):
                return done.output
            done = uv.install(for_uv.url, target, *STEADY)
            return done.output if done.code or not story.installed_in(target) else ""

        with Loop(by_pip) as pip_loop, Loop(by_uv) as uv_loop, Loop(reader) as reading:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                story.goes_on()
                story.publish(kills=1 + story.publishes % 2)
                if story.publishes % 2:
                    story.rolls_back()

    assert (pip_loop.failed, uv_loop.failed, reading.failed) == ([], [], [])
    assert reader.late() == [] and len(reader.seen) > len(STEADY)
    assert (for_pip.misses, for_uv.misses) == ([], [])
    assert pip_loop.done >= 3 and uv_loop.done >= 3 and reading.done >= 3
    assert story.publishes >= 3 and story.kills >= 3 and story.rollbacks, "or it has proved nothing"
    assert not dangling(site(place.bucket))


class Story:
    """A source in which something is released, yanked and taken away all the time."""

    def __init__(self, place: Place) -> None:
        self.mirror = place.mirror
        self.proxy = place.proxy
        self.publishes = 0
        self.kills = 0
        self.rollbacks = 0
        self._chance = random.Random(6)
        self._number = 1
        self._known: dict[str, Dist] = {}
        for name in STEADY:
            self._release(name)
        self._release("comes-and-goes")

    def goes_on(self) -> None:
        """Each project that stays gets a release; an old one of each goes, and another is yanked."""
        self._number += 1
        for name in STEADY:
            self._release(name)
            if self._number > 3:
                self.mirror.yank(self._dist(name, self._number - 2))
                (self.mirror.packages / self._dist(name, self._number - 3).filename).unlink()
        if self._number % 2:
            self._release("comes-and-goes")
        else:
            for path in self.mirror.packages.glob("comes_and_goes-*"):
                path.unlink()

    def publish(self, kills: int) -> None:
        """Killed so often at some request, and then taken up again, to its end."""
        done = self.mirror("sync")
        assert done.code == 0, done.output
        self._ends("publish", "--allow-removals", kills=kills)
        self.publishes += 1

    def rolls_back(self) -> None:
        """To what was published before, and forward again."""
        kept = json.loads(self.mirror("rollback", "--json").stdout)["generations"]
        self._ends("rollback", str(kept[1]["number"]), "--allow-removals", kills=1)
        self._ends("rollback", "--forward", "--allow-removals", kills=1)
        self.rollbacks += 1

    def _ends(self, *command: str, kills: int) -> None:
        for _ in range(kills):
            self.proxy.forget()
            how = self._chance.choice((Before, After))
            self.proxy.fault(how(self.mirror.kill), at=self._chance.randrange(1, 60))
            done = self.mirror(*command)
            self.proxy.heal()
            self.proxy.settle()
            assert done.code in (0, -9), done.output
            self.kills += done.code == -9
        done = self.mirror(*command)
        assert (done.code, done.stderr) == (0, ""), done.output

    def judged(self, code: int, said: str, paths: list[Path]) -> str:
        """What is wrong with what a client has got; empty: nothing."""
        if code or len(paths) != len(STEADY):
            return said or "it has not got everything"
        wrong = [path.name for path in paths if path.read_bytes() != self._known[path.name].content]
        return f"other bytes: {wrong}" if wrong else ""

    def promises(self, locked: str) -> bool:
        """Whether these are the hashes of what was released."""
        found = re.findall(r"(?m)^([\w-]+)==([\d.]+) \\\n +--hash=sha256:(\w+)$", locked)
        known = {(dist.project, dist.version, dist.sha256) for dist in self._known.values()}
        return len(found) == len(STEADY) and set(found) <= known

    def installed_in(self, target: Path) -> bool:
        """Whether a release of each is there, byte for byte."""
        found = [path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info")]
        return len(found) == len(STEADY) and all(
            self._known[f"{name}-py3-none-any.whl"].installed_in(target) for name in found
        )

    def _dist(self, name: str, number: int) -> Dist:
        return wheel(name, f"{number}.0", padding=2000)

    def _release(self, name: str) -> None:
        dist = self._dist(name, self._number)
        self._known[dist.filename] = dist
        self.mirror.add(dist)


class Reader:
    """Reads the list, every page that it leads to, and every file of those. `seen` has their keys and hashes."""

    def __init__(self, place: Place) -> None:
        self.seen: dict[str, str] = {}
        self._bucket = place.bucket

    def __call__(self, number: int) -> str:
        """One round. What is wrong; empty: nothing."""
        try:
            for name in sorted(self._listed()):
                try:
                    page = json.loads(self._bucket.get(f"simple/{name}/index.json").body)
                except S3Error as error:
                    if error.answer.status == 404 and name not in self._listed():
                        continue  # it has gone meanwhile
                    raise
                for file in page["files"]:
                    key = file["url"].removeprefix("../../")
                    self.seen[key] = file["hashes"]["sha256"]
                    if problem := self._problem(key):
                        return problem
        except (S3Error, ValueError) as error:
            return repr(error)
        return ""

    def late(self) -> list[str]:
        """What goes wrong for who comes with pages that a cache has kept: with all that there ever were."""
        return [problem for key in self.seen if (problem := self._problem(key))]

    def _problem(self, key: str) -> str:
        try:
            body = self._bucket.get(key).body
        except S3Error as error:
            return repr(error)
        return "" if hashlib.sha256(body).hexdigest() == self.seen[key] else f"{key} has another hash than was promised"

    def _listed(self) -> set[str]:
        listed = json.loads(self._bucket.get("simple/index.json").body)["projects"]
        return {one["name"].lower().replace("_", "-") for one in listed}
