"""The accidents that may happen to a mirror, and the way back from each: with the installed command, a folder and a
bucket.

    the catalog is lost           `verify --adopt`: the store tells what was in it
    all but the store is lost     `restore`: the store is a backup of what it was published from
    the store was meddled with    `verify` finds it, `verify --repair` mends it
    strangers lie in the store    `prune` deletes them when their time has come
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.rig.buckets import MARK, BucketMirror, dangling, forking, mirror_env, running, site
from tests.rig.dists import sdist, wheel
from tests.rig.mirrors import BASE, NEW, OLD, Mirror, aged, contents
from tests.rig.s3_bucket import Bucket, Object

A, B, B2, C = wheel("demo-a"), wheel("Demo_B", requires_python=">=3.8"), wheel("Demo_B", "2.0"), sdist("demo-c")
NOTHING = "published: nothing new\n"


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: object) -> None:
    """Other pips would see the same."""


@dataclass
class Place:
    """A mirror, and what is published of it: `bucket` is None for a folder."""

    mirror: Mirror
    bucket: Bucket | None = None

    def objects(self) -> dict[str, Object]:
        """What is published; of a folder only the bytes."""
        if self.bucket:
            return site(self.bucket)
        return {key: Object(body) for key, body in contents(self.mirror.site).items()}

    def put(self, key: str, one: Object) -> None:
        if self.bucket:
            self.bucket.put(key, one)
        else:
            path = self.mirror.site / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.body)

    def delete(self, key: str) -> None:
        if self.bucket:
            self.bucket.delete(key)
        else:
            (self.mirror.site / key).unlink()

    def mark(self) -> bytes:
        return self.bucket.get(MARK).body if self.bucket else (self.mirror.site / MARK).read_bytes()

    def lose_catalog(self) -> None:
        for path in self.mirror.folder.glob(f"{self.mirror.catalog.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def done(self, *arguments: str, code: int = 0) -> str:
        """A command that ends so; what it said in its lines of summary."""
        done = self.mirror(*arguments)
        assert done.code == code and "Traceback" not in done.stderr, done.output
        assert code or not done.stderr, done.output
        return done.stdout

    def told(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.done(*arguments, "--json", code=code))

    def findings(self, *arguments: str, code: int = 3) -> set[tuple[str, str]]:
        found = self.told("verify", *arguments, code=code)["verify"]["findings"]
        return {(one["kind"], one["key"]) for one in found}


@pytest.fixture(params=["folder", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Place]:
    """With a life behind it: a file was yanked, one replaced, a project removed, a page beside the index changed."""
    env, folder = mirror_env(tmp_path_factory), tmp_path / "mirror"
    folder.mkdir()
    with ExitStack() as stack:
        if request.param == "folder":
            made = Place(Mirror(env, folder).init())
        else:
            server = running(request.param, tmp_path_factory)
            bucket = server.make_bucket(f"recovery-{abs(hash(str(tmp_path))) % 10**9}")
            stack.callback(bucket.clear)
            made = Place(BucketMirror.make(forking(tmp_path_factory), folder, bucket, server.endpoint), bucket)
        mirror = made.mirror
        text = mirror.config.read_text().replace(BASE, "https://index.example/")  # which `dangling` knows
        mirror.config.write_text(f'{text}\n[[tree]]\npath = "docs"\nprefix = "documentation/pages"\n')
        live(mirror)
        yield made


def live(mirror: Mirror) -> None:
    mirror.add(A, B2, wheel("gone"), sdist("demo-c", "0.9"))
    mirror.add(B, folder="deep/er", time="2023-05-06T07:08:09Z")
    beside(mirror, "index.html", "old")
    beside(mirror, "deep/er.html", "deep")
    mirror.run()
    (mirror.packages / wheel("gone").filename).unlink()
    (mirror.packages / sdist("demo-c", "0.9").filename).write_bytes(
        sdist("demo-c", "0.9", build_requires=["demo-a"]).content
    )
    aged(mirror.packages / sdist("demo-c", "0.9").filename, NEW)
    mirror.add(C)
    mirror.yank(B2, "it is broken")
    beside(mirror, "index.html", "new", NEW)
    mirror.run()


def beside(mirror: Mirror, name: str, text: str, time: str = OLD) -> None:
    """A file beside the index."""
    path = mirror.folder / "docs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    aged(path, time)


def sources(mirror: Mirror) -> dict[str, tuple[bytes, int]]:
    """What is in the folders that are published: bytes and, of distributions, whose times are published, times."""
    paths = [path for name in ("packages", "docs") for path in (mirror.folder / name).rglob("*") if path.is_file()]
    timed = (".whl", ".gz")
    return {
        str(path.relative_to(mirror.folder)): (
            path.read_bytes(),
            path.stat().st_mtime_ns // 1000 if path.suffix in timed else 0,
        )
        for path in paths
    }


def settle(mirror: Mirror) -> None:
    """What was brought back lies there for a while: else it may be taken for what is still being written."""
    for path in (mirror.folder / "docs").rglob("*.html"):
        aged(path, NEW)


def test_a_lost_catalog_comes_back_from_the_store(place: Place) -> None:
    before = place.objects()
    moved = [key for key in before if key.startswith("packages/") and key.count("/") == 2 and "demo_c" in key]
    assert moved, "the second file of a name has another key"
    place.lose_catalog()

    assert "belongs to another catalog" in place.mirror("run").stderr, "a run does not guess"
    assert place.objects() == before
    place.lose_catalog()
    assert place.done("verify", "--adopt").startswith("adopted: 3 projects, 5 files; ")
    assert place.done("publish") == NOTHING and place.objects() == before
    assert place.done("verify").endswith("all as they should be\n")

    assert place.done("run").endswith(NOTHING) and place.objects() == before
    place.mirror.add(wheel("new"))
    place.done("run")
    after = place.objects()
    assert not dangling(after) and "simple/new/index.json" in after
    changed = {key for key in before if before[key] != after.get(key)}
    lists = {f"simple/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")}
    assert changed <= lists | {"last-modified"}


def test_serials_go_on_from_where_they_were(place: Place) -> None:
    def serial(key: str) -> int:
        return int(json.loads(place.objects()[key].body)["meta"]["_last-serial"])

    keys = ["simple/index.json", "simple/demo-a/index.json"]
    before = [serial(key) for key in keys]
    place.lose_catalog()
    place.done("verify", "--adopt")
    place.mirror.yank(A, "a yank")
    place.done("run")
    assert all(serial(key) > was for key, was in zip(keys, before, strict=True))


def test_the_store_is_a_backup_of_what_it_was_published_from(place: Place) -> None:
    mirror, before, published = place.mirror, sources(place.mirror), place.objects()
    assert any(path.endswith(".yanked") for path in before)
    place.lose_catalog()
    shutil.rmtree(mirror.packages)
    shutil.rmtree(mirror.folder / "docs")

    said = place.done("restore")
    assert "adopted: 3 projects, 5 files; " in said and "\nrestored: 7 files into " in said
    assert sources(mirror) == before
    assert place.done("run").endswith(NOTHING) and place.objects() == published
    settle(mirror)
    assert place.done("run").endswith(NOTHING) and place.objects() == published
    assert "restored: 0 files" in place.done("restore")
    assert place.done("verify").endswith("all as they should be\n")


def test_a_restore_tells_what_is_not_what_it_should_be(place: Place) -> None:
    key = f"packages/{A.filename}"
    place.put(key, place.objects()[key]._replace(body=b"defaced", metadata={}))
    shutil.rmtree(place.mirror.packages)
    done = place.mirror("restore")
    assert done.code == 3 and f"not restored: {key}: is not in the store, or not with the bytes" in done.stderr
    assert not list(place.mirror.packages.rglob(f"*{A.filename}*"))
    assert (place.mirror.packages / B2.filename).read_bytes() == B2.content


def test_whatever_was_meddled_with_is_found_and_mended(place: Place) -> None:
    before = place.objects()
    gone, defaced, dressed = "pypi/demo-a/json", "documentation/pages/index.html", "simple/demo-b/index.html"
    place.delete(gone)
    place.put(defaced, before[defaced]._replace(body=b"owned"))
    expected = {("missing", gone), ("bytes", defaced), ("extra", "photo.jpg")}
    if place.bucket:
        place.put(dressed, before[dressed]._replace(content_type="text/plain"))
        expected.add(("headers", dressed))
    place.put("photo.jpg", Object(b"mine", "image/jpeg"))

    assert place.findings() == expected
    assert place.findings("--quick") == {one for one in expected if one[0] != "headers"}
    meddled = place.objects()
    assert place.findings() == expected and place.objects() == meddled, "to look changes nothing"

    report = place.told("verify", "--repair")
    assert report["repair"]["puts"] in (3, 4, 5) and report["repair"]["held"] == []
    after = place.objects()
    assert after.pop("photo.jpg").body == b"mine" and after == before
    assert place.findings(code=0) == {("extra", "photo.jpg")}


def test_a_lost_file_is_put_again_and_what_leads_to_it_was_told(place: Place) -> None:
    before, key = place.objects(), f"packages/{A.filename}"
    place.delete(key)
    assert place.findings() == {("missing", key), ("dangling", "simple/demo-a/index.json")}
    done = place.mirror("verify", "--repair", "--quick")
    assert done.code == 0 and done.stdout.endswith("; 1 put again\n")
    assert place.objects() == before and place.findings(code=0) == set()


def test_strangers_are_noted_and_deleted_when_no_cache_has_them(place: Place) -> None:
    before = place.objects()
    waiting = {key for key in before if "/gone-" in key}
    assert len(waiting) == 2, "what was removed waits, too"
    place.put("photo.jpg", Object(b"mine", "image/jpeg"))
    assert place.told("prune", "--dry-run")["prune"] == {"deletes": 0, "waiting": 3, "new": ["photo.jpg"]}
    assert place.told("prune")["prune"]["new"] == ["photo.jpg"]
    assert place.told("prune")["prune"] == {"deletes": 0, "waiting": 4, "new": []}
    with closing(sqlite3.connect(place.mirror.catalog)) as catalog:  # and now every cache has forgotten them
        catalog.execute("UPDATE ledger SET doomed = doomed - 200000 WHERE doomed > 0")
        catalog.commit()
    there = place.objects()
    assert place.told("prune", "--dry-run")["prune"]["deletes"] == 4 and place.objects() == there
    assert place.told("prune")["prune"] == {"deletes": 4, "waiting": 0, "new": []}
    after = place.objects()
    assert before.keys() - after.keys() > waiting and "photo.jpg" not in after and not dangling(after)
    assert place.done("verify").endswith("all as they should be\n")


def test_a_store_of_nobodys_is_not_adopted(place: Place) -> None:
    before = place.objects()
    mark = place.mark()
    place.delete(MARK)
    place.lose_catalog()
    done = place.mirror("verify", "--adopt")
    assert done.code == 1 and "is not ours: there is no mark in it" in done.stderr
    assert place.objects() == before
    place.put(MARK, Object(mark, "application/json"))
    assert place.done("verify", "--adopt").startswith("adopted: 3 projects")
