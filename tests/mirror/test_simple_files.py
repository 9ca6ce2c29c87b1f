"""The source simple-api with files: what is fetched, what is not, and under which key it is published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror import names
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.sources import ProjectError, SourceError
from cdn_fallback.mirror.sources.simple_api import SimpleApi
from tests.mirror.simple_index import Index, World, without_configuration
from tests.rig.dists import Dist, sdist, wheel
from tests.rig.faults import Corrupt, Drip, NoRange, Refuse, Status, Truncate, WrongContentRange
from tests.rig.server import Server

WHEEL = wheel("six", padding=200_000, requires_python=">=3.8")
SDIST = sdist("six")
BINARY = "application/octet-stream"
METADATA = hashlib.sha256(WHEEL.metadata).hexdigest()


def path_of(dist: Dist) -> str:
    return f"/packages/a/{dist.filename}"


def entry(dist: Dist, **keys: Any) -> dict[str, Any]:
    made = {"filename": dist.filename, "url": path_of(dist), "hashes": {"sha256": dist.sha256}}
    return made | {"size": len(dist.content)} | {key.replace("_", "-"): value for key, value in keys.items()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    without_configuration(monkeypatch, tmp_path)
    index = Index()
    for dist in (WHEEL, SDIST):
        index.put(path_of(dist), dist.content, BINARY)
    index.project("six", entry(WHEEL), entry(SDIST))
    with Server(index, "127.0.9.31", 0) as server:
        made = World(index, server, tmp_path)
        yield made
        made.close()


@pytest.fixture
def source(world: World) -> SimpleApi:
    return world.source(files=True)


def had(source: SimpleApi, known: Project | None = None) -> Project:
    found = source.project("six", known)
    assert found is not None
    return found


def content(source: SimpleApi, file: File) -> bytes:
    with source.open(file) as body:
        return body.read()


def files_asked(world: World) -> list[str]:
    return [path for path, _ in world.asked if not path.startswith("/simple/")]


# -- fetching


def test_files_are_fetched_checked_and_given_until_they_are_published(world: World, source: SimpleApi) -> None:
    found = had(source)
    archive, sources = found.files
    assert (archive.filename, sources.filename) == (WHEEL.filename, SDIST.filename)
    assert (archive.key, archive.url) == (f"packages/a/{WHEEL.filename}", "")
    assert (archive.hashes, archive.size) == ({"sha256": WHEEL.sha256}, len(WHEEL.content))
    assert content(source, archive) == WHEEL.content and content(source, sources) == SDIST.content
    assert world.spooled() == sorted([WHEEL.sha256, SDIST.sha256])

    source.published(archive)
    source.published(sources)
    assert world.spooled() == []


def test_what_has_been_had_before_is_not_fetched_again(world: World, source: SimpleApi) -> None:
    known = had(source)
    for file in known.files:
        source.published(file)
    moved = entry(WHEEL, url="/elsewhere/" + WHEEL.filename, yanked="bad", size=None)
    newer = wheel("six", "2.0")
    world.index.put(path_of(newer), newer.content, BINARY)
    world.index.project("six", moved, entry(SDIST), entry(newer))
    files_asked(world)

    found = had(source, known)
    assert files_asked(world) == [path_of(newer)]
    assert found.files[0] == known.files[0]._replace(
        yanked="bad", state=f"{world.server.url}elsewhere/{WHEEL.filename}"
    )
    assert found.files[1] == known.files[1]._replace()
    assert world.spooled() == [newer.sha256]


def test_another_file_of_the_same_name_is_fetched(world: World, source: SimpleApi) -> None:
    known = had(source)
    other = wheel("six", padding=10)
    assert other.filename == WHEEL.filename
    world.index.put(path_of(other), other.content, BINARY)
    world.index.project("six", entry(other))
    files_asked(world)
    (file,) = had(source, known).files
    assert files_asked(world) == [path_of(other)]
    assert content(source, file) == other.content


def test_a_file_of_which_another_hash_is_told_now_is_fetched(world: World, source: SimpleApi) -> None:
    known = had(source)
    world.index.project("six", entry(SDIST, hashes={"sha512": hashlib.sha512(SDIST.content).hexdigest()}))
    files_asked(world)
    had(source, known)
    assert files_asked(world) == [path_of(SDIST)]


def test_a_file_that_was_only_linked_to_before_is_fetched(world: World, source: SimpleApi) -> None:
    known = had(world.source())
    files_asked(world)
    had(source, known)
    assert len(files_asked(world)) == 2


def test_a_page_that_has_not_changed_asks_for_no_file(world: World, source: SimpleApi) -> None:
    known = had(source)
    world.asked.clear()
    assert source.project("six", known) is None
    assert world.asked == [("/simple/six/", 304)]


def test_an_interrupted_file_goes_on_in_the_next_run(world: World) -> None:
    world.server.fault(Truncate(0.6), on=path_of(WHEEL))
    with pytest.raises(ProjectError, match=WHEEL.filename):
        had(world.source(files=True, retries=0))
    (part,) = world.spooled()
    size = (world.folder / "spool" / part).stat().st_size
    assert part == f"{WHEEL.sha256}.part" and 0 < size < len(WHEEL.content)
    world.server.heal()
    world.server.forget()

    source = world.source(files=True)
    found = had(source)
    first = next(request for request in world.server.requests if request.path == path_of(WHEEL))
    assert (first.header("Range"), first.status) == (f"bytes={size}-", 206)
    assert content(source, found.files[0]) == WHEEL.content


@pytest.fixture
def part(world: World) -> int:
    """A part of the wheel, left by an earlier run: its bytes."""
    (world.folder / "spool").mkdir()
    (world.folder / "spool" / f"{WHEEL.sha256}.part").write_bytes(WHEEL.content[:20_000])
    return 20_000


@pytest.mark.parametrize("engine", [True, False])
def test_a_server_without_ranges_starts_again(
    world: World, part: int, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine:
        monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    world.server.fault(NoRange())
    source = world.source(files=True)
    assert content(source, had(source).files[0]) == WHEEL.content
    statuses = [(r.header("Range"), r.status) for r in world.server.requests if r.path == path_of(WHEEL)]
    assert statuses == [(f"bytes={part}-", 200)]


def test_another_part_than_asked_for_is_none(world: World, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    world.server.fault(WrongContentRange(), on=path_of(WHEEL))
    with pytest.raises(ProjectError, match="another part than asked for"):
        had(world.source(files=True))
    assert (world.folder / "spool" / f"{WHEEL.sha256}.part").stat().st_size == part


@pytest.mark.parametrize("engine", [True, False])
def test_a_part_longer_than_the_file_starts_again(world: World, engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not engine:
        monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    (world.folder / "spool").mkdir()
    (world.folder / "spool" / f"{WHEEL.sha256}.part").write_bytes(b"x" * 300_000)
    world.index.project("six", entry(WHEEL, size=None))
    source = world.source(files=True)
    assert content(source, had(source).files[0]) == WHEEL.content
    assert [r.status for r in world.server.requests if r.path == path_of(WHEEL)] == [416, 200]


def test_without_the_engine_an_interrupted_file_goes_on_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    world.server.fault(Truncate(0.5), on=path_of(WHEEL), times=1)
    source = world.source(files=True)
    assert content(source, had(source).files[0]) == WHEEL.content
    statuses = [r.status for r in world.server.requests if r.path == path_of(WHEEL)]
    assert statuses == [200, 206] and world.waits == [0.5]


# -- wrong files


@pytest.mark.parametrize("engine", [True, False])
def test_a_wrong_file_is_fetched_once_more(world: World, engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not engine:
        monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    world.server.fault(Corrupt(), on=path_of(WHEEL), times=1)
    source = world.source(files=True)
    assert content(source, had(source).files[0]) == WHEEL.content
    assert files_asked(world) == [path_of(WHEEL)] * 2 + [path_of(SDIST)]


@pytest.mark.parametrize("engine", [True, False])
def test_a_file_without_the_hash_that_its_page_promises_is_never_taken(
    world: World, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine:
        monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    world.server.fault(Corrupt(), on=path_of(WHEEL))
    wrong = bytearray(WHEEL.content)
    wrong[len(wrong) // 2] ^= 0xFF
    with pytest.raises(ProjectError) as caught:
        had(world.source(files=True))
    text = str(caught.value)
    assert WHEEL.filename in text and f"sha256:{WHEEL.sha256}" in text
    assert f"sha256:{hashlib.sha256(wrong).hexdigest()}" in text
    assert files_asked(world) == [path_of(WHEEL)] * 2 and world.spooled() == []


def test_a_fallback_gives_what_the_index_damages(world: World) -> None:
    with Server(world.index, "127.0.9.32", 0) as cdn:
        world.server.fault(Corrupt(), on=path_of(WHEEL))
        source = world.source(files=True, pool={"cdn": [cdn.url]})
        assert content(source, had(source).files[0]) == WHEEL.content
        assert path_of(WHEEL) in [request.path for request in cdn.requests]


@pytest.mark.parametrize("hashes", [{}, {"md5": hashlib.md5(WHEEL.content).hexdigest()}, {"newhash": "a" * 64}])
def test_a_file_that_cannot_be_checked_is_rejected(world: World, source: SimpleApi, hashes: dict[str, str]) -> None:
    world.index.project("six", entry(WHEEL, hashes=hashes), entry(SDIST))
    found = had(source)
    assert [file.filename for file in found.files] == [SDIST.filename]
    assert [(one.what, "cannot be checked" in one.why) for one in found.rejected] == [(WHEEL.filename, True)]
    assert files_asked(world) == [path_of(SDIST)]


def test_another_hash_is_enough_and_the_sha256_is_published_with_it(world: World, source: SimpleApi) -> None:
    sha512 = hashlib.sha512(WHEEL.content).hexdigest()
    world.index.project("six", entry(WHEEL, hashes={"sha512": sha512, "newhash": "a" * 64}))
    known = had(source)
    assert known.files[0].hashes == {"sha512": sha512, "sha256": WHEEL.sha256}
    world.index.project("six", entry(WHEEL, hashes={"sha512": sha512}, yanked=True))
    files_asked(world)
    assert had(source, known).files[0].hashes == known.files[0].hashes
    assert files_asked(world) == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_file_that_is_not_there_leaves_the_project_as_it_is_known(world: World, status: int) -> None:
    world.server.fault(Status(status), on=path_of(WHEEL))
    with pytest.raises(ProjectError, match=rf"{WHEEL.filename} could not be fetched: .*{status}"):
        had(world.source(files=True, retries=0))


def test_no_space_left_ends_the_run(world: World, source: SimpleApi) -> None:
    (world.folder / "spool").write_text("a file where the folder should be")
    with pytest.raises(SourceError) as caught:
        had(source)
    assert not isinstance(caught.value, ProjectError) and str(world.folder / "spool") in str(caught.value)


# -- what a wheel says


def test_the_metadata_of_a_wheel_is_published_where_the_source_has_none(source: SimpleApi) -> None:
    archive, sources = had(source).files
    assert archive.core_metadata == {"sha256": METADATA} and sources.core_metadata is None
    assert archive.requires_python is None, "the page's word counts"


@pytest.mark.parametrize("said", [True, False, {"sha256": METADATA}, {"sha256": "0" * 64}, {}])
def test_the_hash_of_a_wheels_metadata_is_its_own(world: World, source: SimpleApi, said: object) -> None:
    world.index.project("six", entry(WHEEL, core_metadata=said), entry(SDIST, core_metadata=said))
    archive, sources = had(source).files
    assert archive.core_metadata == {"sha256": METADATA} and sources.core_metadata is None


def test_a_damaged_wheel_is_what_the_source_has(world: World, source: SimpleApi) -> None:
    damaged = Dist(WHEEL.filename, b"no zip file")
    world.index.put(path_of(damaged), damaged.content, BINARY)
    world.index.project("six", entry(damaged, core_metadata={"sha256": METADATA}))
    (file,) = had(source).files
    assert file.core_metadata is None and content(source, file) == damaged.content


def test_a_signature_that_is_not_published_is_not_promised(world: World, source: SimpleApi) -> None:
    world.index.project("six", entry(WHEEL, gpg_sig=True, new=1))
    assert had(source).files[0].extra == {"new": 1}
    assert had(world.source()).files[0].extra == {"gpg-sig": True, "new": 1}


# -- keys


def by_hash(dist: Dist) -> str:
    digest = dist.sha256
    return f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{dist.filename}"


NAME = SDIST.filename


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (f"/packages/a/b/{NAME}", f"packages/a/b/{NAME}"),
        (f"/files/x%2By/{NAME}", f"files/x+y/{NAME}"),
        (f"/{NAME}", NAME),
        (f"/packages/a/{NAME}?token=x", f"packages/a/{NAME}"),
        (f"/root/pypi/+f/abc/{NAME}", by_hash(SDIST)),
        (f"/simple/six/{NAME}", by_hash(SDIST)),
        (f"/pypi/six/{NAME}", by_hash(SDIST)),
        (f"/%2Fetc/{NAME}", f"etc/{NAME}"),
        (f"/a%2F%2Fb/{NAME}", by_hash(SDIST)),
        (f"/packages//{NAME}", by_hash(SDIST)),
        (f"/packages/<b>/{NAME}", by_hash(SDIST)),
        ("/download/1234", by_hash(SDIST)),
        ("/packages/six-2.0.tar.gz", by_hash(SDIST)),
    ],
)
def test_no_trust_in_names_a_key_is_where_the_index_has_the_file_if_it_may_lie_there(
    world: World, source: SimpleApi, path: str, key: str
) -> None:
    world.index.put(path, SDIST.content, BINARY)
    world.index.put(path.replace("<b>", "%3Cb%3E"), SDIST.content, BINARY)
    world.index.project("six", entry(SDIST, url=path))
    (file,) = had(source).files
    assert file.key == names.check_key(key)
    assert content(source, file) == SDIST.content


@pytest.mark.parametrize(
    ("path", "key"), [(f"packages/a/{NAME}", f"packages/a/{NAME}"), (f"a/b/{NAME}", f"packages/a/b/{NAME}")]
)
def test_files_of_another_host_are_kept_among_the_packages(
    world: World, source: SimpleApi, path: str, key: str
) -> None:
    other = Index()
    other.put(f"/{path}", SDIST.content, BINARY)
    with Server(other, "127.0.9.33", 0) as server:
        world.index.project("six", entry(SDIST, url=f"{server.url}{path}"))
        assert [file.key for file in had(source).files] == [key]


# -- losing the spool


def test_a_file_that_the_spool_has_lost_is_fetched_again(world: World, source: SimpleApi) -> None:
    file = had(source).files[0]
    source.published(file)
    files_asked(world)
    assert content(world.source(files=True), file) == WHEEL.content
    assert files_asked(world) == [path_of(WHEEL)]


def test_a_lost_file_that_cannot_be_had_again_is_told(world: World, source: SimpleApi) -> None:
    file = had(source).files[0]
    source.published(file)
    world.server.fault(Refuse())
    with pytest.raises(ProjectError, match="could not be fetched"):
        source.open(file)
    with pytest.raises(ProjectError, match="sync once more"):
        source.open(file._replace(state=""))


# -- several at once


def test_projects_are_asked_for_by_several_threads(world: World, source: SimpleApi) -> None:
    dists = {f"p{number}": sdist(f"p{number}") for number in range(24)}
    for name, dist in dists.items():
        world.index.put(path_of(dist), dist.content, BINARY)
        world.index.project(name, entry(dist))
    world.server.fault(Drip(1_000_000))
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(dists, pool.map(lambda name: source.project(name, None), dists), strict=True))
    for name, dist in dists.items():
        project = found[name]
        assert project is not None and content(source, project.files[0]) == dist.content
    assert sorted(files_asked(world)) == sorted(map(path_of, dists.values()))
