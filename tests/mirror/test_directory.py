"""A tree of wheels and sdists as a source."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.distributions import Inspected, inspect
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import Listing, ProjectError, Settings, Source, SourceError, reading
from cdn_fallback.mirror.sources.directory import Directory
from cdn_fallback.mirror.sources.registry import find
from tests.rig.dists import Dist, sdist, wheel

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
OLD = NOW - 3600
OLD_TEXT = "2023-11-14T21:13:20.000000Z"

A1 = wheel("Demo-A", "1.0", requires_python=">=3.8")
A2 = wheel("demo.a", "2.0")
S1 = sdist("demo-a", "1.0")
B1 = wheel("demo-b", "1.0")


class Tree:
    """A folder of distributions, a source over it, and the time."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.top = folder / "tree"
        self.top.mkdir()
        self.now = NOW
        self.settings = Settings(
            {"type": "directory", "path": "tree", **values}, "mirror.toml", folder, folder / "spool"
        )
        self.source = Directory(self.settings, lambda: self.now)

    def put(self, path: str, dist: Dist | bytes, time: float = OLD) -> Path:
        """Write a file; under its own name where `path` is a folder, with its slash."""
        where = self.top / path
        if path[-1:] in ("", "/") and isinstance(dist, Dist):
            where /= dist.filename
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(dist.content if isinstance(dist, Dist) else dist)
        os.utime(where, (time, time))
        return where

    def link(self, path: str, target: str | Path) -> Path:
        where = self.top / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.symlink_to(target)
        return where

    def listing(self) -> Listing:
        listing = self.source.listing("")
        assert listing is not None
        return listing

    def tokens(self) -> Mapping[str, str]:
        return self.listing().tokens

    def project(self, name: str = "demo-a", known: Project | None = None) -> Project:
        self.listing()
        project = self.source.project(name, known)
        assert project is not None
        return project

    def bytes(self, file: File) -> bytes:
        with self.source.open(file) as opened:
            return opened.read()

    def same(self, known: Project) -> bool:
        """Whether nothing has changed."""
        self.listing()
        return self.source.project(known.name, known) is None


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []

    def noted(file: BinaryIO, filename: str, project: str) -> Inspected:
        names.append(filename)
        return inspect(file, filename, project)

    monkeypatch.setattr(reading, "inspect", noted)
    return names


def keys(project: Project) -> list[str]:
    return [file.key for file in project.files]


def rejected(tree: Tree) -> dict[str, str]:
    return dict(tree.listing().rejected)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# what is in a tree


def test_a_tree_of_any_layout(tree: Tree) -> None:
    tree.put("a/b/c/", A1)
    tree.put("", S1)
    tree.put("demo-b/", B1)
    assert list(tree.tokens()) == ["demo-a", "demo-b"]
    assert tree.listing().rejected == ()
    assert keys(tree.project()) == [f"packages/a/b/c/{A1.filename}", f"packages/{S1.filename}"]


def test_a_project_with_everything_that_is_known_of_it(tree: Tree) -> None:
    wheel_status = tree.put("w/", A1).stat()
    sdist_status = tree.put("s/", S1, OLD - 1).stat()
    assert tree.project() == Project(
        "demo-a",
        "Demo-A",
        (
            File(
                A1.filename,
                "1.0",
                f"packages/w/{A1.filename}",
                hashes={"sha256": A1.sha256},
                size=len(A1.content),
                upload_time=OLD_TEXT,
                requires_python=">=3.8",
                core_metadata={"sha256": sha256(A1.metadata)},
                state=f"{len(A1.content)}:{wheel_status.st_mtime_ns}:{wheel_status.st_ino}",
            ),
            File(
                S1.filename,
                "1.0",
                f"packages/s/{S1.filename}",
                hashes={"sha256": S1.sha256},
                size=len(S1.content),
                upload_time="2023-11-14T21:13:19.000000Z",
                state=f"{len(S1.content)}:{sdist_status.st_mtime_ns}:{sdist_status.st_ino}",
            ),
        ),
        ("1.0",),
    )


def test_versions_stand_in_their_order(tree: Tree) -> None:
    for version in ("10.0", "9.0", "9.0rc1"):
        tree.put("", wheel("demo-a", version))
    assert tree.project().versions == ("9.0rc1", "9.0", "10.0")


def test_what_is_no_distribution_is_passed_over(tree: Tree) -> None:
    for path in ("README", "demo-a-1.0.egg", "index.html", ".hidden-1.0.tar.gz", ".git/demo-a-1.0.tar.gz", "x.whl.asc"):
        tree.put(path, b"x")
    (tree.top / "demo-a-1.0.tar.gz").mkdir()
    tree.put("lost+found/", A1)  # what ext4 has at its top, readable for root alone
    assert tree.listing()[:3] == ({}, None, ())


def test_what_is_no_regular_file_is_passed_over(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.top)  # a socket's path may have 108 bytes
    os.mkfifo(tree.top / "demo-a-1.0.tar.gz")
    tree.link("demo-a-3.0.tar.gz", "demo-a-1.0.tar.gz")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("demo-a-2.0.zip")
        assert tree.listing()[:3] == ({}, None, ())


def test_an_empty_tree_is_one(tree: Tree) -> None:
    assert tree.tokens() == {}


def test_another_prefix(tmp_path: Path) -> None:
    tree = Tree(tmp_path, prefix="/files/here/")
    tree.put("", A1)
    (file,) = tree.project().files
    assert file.key == f"files/here/{A1.filename}"
    assert tree.bytes(file) == A1.content


@pytest.mark.parametrize(
    "values",
    [
        {"path": ""},
        {"path": 1},
        {"prefix": "../up"},
        {"prefix": "simple"},
        {"prefix": "pypi/x"},
        {"prefix": "a b"},
        {"settle": -1},
        {"settle": "5"},
        {"setle": 5},
    ],
)
def test_settings_that_cannot_be_used(values: Mapping[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))}: "):
        Tree(tmp_path, **values)


def test_it_is_a_source(tree: Tree) -> None:
    source: Source = tree.source
    assert source.workers >= 1
    assert isinstance(find(tree.settings), Directory)


# only what changed is read


def test_nothing_new_is_told_as_nothing(tree: Tree, read: list[str]) -> None:
    tree.put("", A1)
    tree.put("", S1)
    known = tree.project()
    state = tree.listing().state
    assert len(read) == 2
    assert tree.source.listing(state) is None
    assert tree.same(known)
    assert len(read) == 2


def test_cost_follows_change_only_changed_files_are_read(tree: Tree, read: list[str]) -> None:
    """DESIGN 4.2."""
    tree.put("", A1)
    tree.put("", S1)
    tree.put("", B1)
    state, before = tree.listing().state, tree.tokens()
    known = tree.project()
    read.clear()
    tree.put("", A2)
    after = tree.tokens()
    assert [name for name in after if after[name] != before[name]] == ["demo-a"]
    assert tree.listing().state != state
    assert len(tree.project(known=known).files) == 3
    assert read == [A2.filename]


@pytest.mark.parametrize("change", ["size", "time", "inode", "removed", "moved", "sidecar", "linked"])
def test_every_change_changes_the_token(tree: Tree, change: str) -> None:
    path = tree.put("x/", A1)
    tree.put("", S1)
    before = tree.tokens()["demo-a"]
    status = path.stat()
    if change == "size":
        tree.put(f"x/{A1.filename}", A1.content + b"x")
    elif change == "time":
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1))
    elif change == "inode":
        path.rename(tree.top / "kept")
        tree.put("x/", A1)
    elif change == "removed":
        path.unlink()
    elif change == "moved":
        (tree.top / "y").mkdir()
        path.rename(tree.top / "y" / A1.filename)
    elif change == "sidecar":
        tree.put(f"x/{A1.filename}.yanked", b"")
    elif change == "linked":
        tree.link(f"y/{A1.filename}", path)
    assert tree.tokens()["demo-a"] != before


def test_another_prefix_changes_every_token(tree: Tree) -> None:
    tree.put("", A1)
    settings = tree.settings._replace(values={**tree.settings.values, "prefix": "other"})
    other = Directory(settings, lambda: NOW).listing("")
    assert other is not None
    assert other.tokens != tree.tokens()


def test_a_moved_file_is_not_read_again(tree: Tree, read: list[str]) -> None:
    path = tree.put("x/", A1)
    known = tree.project()
    path.rename(tree.top / A1.filename)
    moved = tree.project(known=known)
    assert moved.files == (known.files[0]._replace(key=f"packages/{A1.filename}"),)
    assert read == [A1.filename]


def test_the_upload_time_is_the_first_that_was_seen(tree: Tree) -> None:
    path = tree.put("", A1)
    known = tree.project()
    os.utime(path, (NOW - 60, NOW - 60))
    touched = tree.project(known=known)
    assert touched.files[0].upload_time == OLD_TEXT
    assert touched.files[0].state != known.files[0].state
    tree.put(A1.filename, wheel("demo-a", "1.0", padding=10), NOW - 30)
    assert tree.project(known=touched).files[0].upload_time == "2023-11-14T22:12:50.000000Z"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_000_000_001_000, "1970-01-01T00:16:40.000001Z"),
        (-1_000, "1969-12-31T23:59:59.999999Z"),
        (10**21, None),
        (-(10**21), None),
    ],
)
def test_a_time_of_any_year(nanoseconds: int, text: str | None) -> None:
    assert reading._time(nanoseconds) == text


# names


def test_the_name_is_as_the_newest_file_writes_it(tree: Tree, read: list[str]) -> None:
    tree.put("", A1, OLD)
    newest = tree.put("", A2, OLD + 1)
    both = tree.project()
    assert both.display == "demo.a"
    tree.put("", S1, OLD - 1)
    three = tree.project(known=both)
    assert three.display == "demo.a"
    read.clear()
    newest.unlink()
    assert tree.project(known=three).display == "Demo-A"
    assert read == [A1.filename]  # for its name


HOSTILE = [
    "<b>-1.0.tar.gz",
    "x-1.0\n.tar.gz",
    "x y-1.0.tar.gz",
    "-x-1.0.tar.gz",
    "x..y-1.0.tar.gz",
    "x-1.0;return 301.zip",
    "\x1b[2J-1.0.whl",
    "\u202e-1.0.zip",
    "\udcff-1.0.zip",
    "x\\..\\y-1.0.zip",
    "nodash.tar.gz",
    f"{'x' * 200}-1.0.zip",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_trust_in_names_of_files(tree: Tree, name: str) -> None:
    """DESIGN 4.7: a hostile name is told to the operator, in print that does no harm, and to nobody else."""
    tree.put(f"a/{name}", b"x")
    (rejection,) = tree.listing().rejected
    assert rejection.what.startswith("a/")
    assert (rejection.what + rejection.why).isprintable()
    assert tree.tokens() == {}


@pytest.mark.parametrize("name", ["x y", "<b>", "a\nb", "-x", "a..b", "\udcff", "\u202e", "y" * 220])
def test_no_trust_in_names_of_folders(tree: Tree, name: str) -> None:
    tree.put(f"a/{name}/b/", A1)
    (rejection,) = tree.listing().rejected
    assert rejection.what.startswith("a/")
    assert (rejection.what + rejection.why).isprintable()
    assert rejection.why.endswith("nothing in it is published")
    assert tree.tokens() == {}


def test_a_path_longer_than_any_key(tree: Tree) -> None:
    folder = "/".join(["x" * 150] * 5)
    tree.put(f"{folder}/{'x' * 130}/", A1)  # one that fits, but not with the name of the file
    tree.put(f"{folder}/{'y' * 180}/z/", B1)
    tree.put("", S1)
    assert len(tree.listing().rejected) == 2
    assert list(tree.tokens()) == ["demo-a"]


def test_a_wheel_whose_name_is_none_is_rejected_from_its_project(tree: Tree) -> None:
    tree.put("x/demo_a-1.0.whl", A1)
    tree.put("", S1)
    project = tree.project()
    assert keys(project) == [f"packages/{S1.filename}"]
    (rejection,) = project.rejected
    assert rejection.what == "x/demo_a-1.0.whl"


# what the files are


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (A1.filename, b"<html>not found</html>", "is no zip archive"),
        (A1.filename, A1.content[:-30], "is no whole zip archive"),
        (A1.filename, S1.content, "is no zip archive"),
        (S1.filename, A1.content, "is no .tar.gz file"),
        (S1.filename, S1.content[:-30], "is cut short"),
        (A1.filename, wheel("demo-a", "6.6").content, "has metadata of another version: Version is '6.6'"),
        (A1.filename, B1.content, "has another project's .dist-info: 'demo_b-1.0.dist-info'"),
        (S1.filename, sdist("demo-b").content, "has metadata of another project: Name is 'demo-b'"),
    ],
)
def test_a_file_that_is_not_what_its_name_claims(tree: Tree, name: str, content: bytes, why: str) -> None:
    tree.put(f"x/{name}", content)
    tree.put("", A2)
    project = tree.project()
    assert keys(project) == [f"packages/{A2.filename}"]
    assert project.rejected == (Rejection(f"x/{name}", why),)
    assert tree.same(project)


def test_a_file_that_was_good_and_is_damaged_now_is_withdrawn(tree: Tree) -> None:
    tree.put("", A1)
    tree.put("", S1)
    known = tree.project()
    tree.put(A1.filename, A1.content[:-30])
    assert keys(tree.project(known=known)) == [f"packages/{S1.filename}"]


# two of one name


def test_the_same_file_twice_is_published_once(tree: Tree, read: list[str]) -> None:
    tree.put("b/", A1)
    tree.put("a/", A1)
    tree.link(f"c/{A1.filename}", f"../b/{A1.filename}")
    (tree.top / "d").mkdir()
    os.link(tree.top / "a" / A1.filename, tree.top / "d" / A1.filename)
    project = tree.project()
    assert keys(project) == [f"packages/a/{A1.filename}"]
    assert project.rejected == ()
    assert tree.same(project)


def test_another_name_of_a_file_is_not_read(tree: Tree, read: list[str]) -> None:
    tree.put("a/", A1)
    tree.link(f"b/{A1.filename}", f"../a/{A1.filename}")
    assert len(tree.project().files) == 1
    assert read == [A1.filename]


def test_two_files_of_one_name_that_differ(tree: Tree) -> None:
    tree.put("b/", wheel("demo-a", "1.0", padding=10))
    tree.put("a/", A1)
    project = tree.project()
    assert [file.hashes["sha256"] for file in project.files] == [A1.sha256]
    why = f"has the name of packages/a/{A1.filename}, but other bytes; remove one of them"
    assert project.rejected == (Rejection(f"b/{A1.filename}", why),)


# files that are being written


@pytest.mark.parametrize(("age", "settled"), [(4, False), (6, True), (-3600, False), (-100_000, True)])
def test_a_file_that_was_changed_a_moment_ago_is_left_for_the_next_run(tree: Tree, age: float, settled: bool) -> None:
    tree.put("", A1, NOW - age)
    tree.put("", S1)
    assert len(tree.project().files) == 1 + settled
    before = tree.tokens()
    tree.now += 3700
    assert (tree.tokens() == before) is settled  # it is asked for again as soon as it may be read
    assert len(tree.project().files) == 2


def test_a_growing_file_beside_one_of_its_name_is_left_for_the_next_run(tree: Tree) -> None:
    tree.put("b/", A1)
    known = tree.project()
    tree.put(f"a/{A1.filename}", wheel("demo-a", "1.0", padding=10))
    tree.put(f"b/{A1.filename}", wheel("demo-a", "1.0", padding=20), NOW)
    project = tree.project(known=known)
    assert keys(project) == [f"packages/a/{A1.filename}"]
    assert project.rejected == ()


def test_how_long_is_a_setting(tmp_path: Path) -> None:
    tree = Tree(tmp_path, settle=100)
    tree.put("", A1, NOW - 50)
    tree.listing()
    assert tree.source.project("demo-a", None) is None


def test_what_is_known_stays_while_its_file_is_replaced(tree: Tree) -> None:
    tree.put("", A1)
    tree.put("", S1)
    known = tree.project()
    tree.put(A1.filename, wheel("demo-a", "1.0", padding=10), NOW - 1)
    assert tree.same(known)
    tree.now += 60
    assert tree.project(known=known).files[0].size != known.files[0].size


def test_a_growing_file_is_left_for_the_next_run(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither taken as it is nor called damaged, although it is cut."""
    path = tree.put(A1.filename, A1.content[:200])

    def grow(file: BinaryIO, filename: str, project: str) -> Inspected:
        with path.open("ab") as more:
            more.write(A1.content[200:])
        os.utime(path, (OLD, OLD))
        return inspect(file, filename, project)

    tree.put("", S1)
    tree.listing()
    monkeypatch.setattr(reading, "inspect", lambda *args: grow(*args) if args[1] == A1.filename else inspect(*args))
    project = tree.project()
    assert keys(project) == [f"packages/{S1.filename}"]
    assert project.rejected == ()
    monkeypatch.undo()
    assert len(tree.project(known=project).files) == 2


def test_a_project_that_is_only_being_uploaded_is_none_yet(tree: Tree) -> None:
    tree.put("", A1, NOW)
    tree.listing()
    assert tree.source.project("demo-a", None) is None


# yanks


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"  broken on Windows \r\nmore\n", "broken on Windows"),
        (b"a\x1b[2Jb\xe2\x80\xaec\0\xff", "a[2Jbc\ufffd"),
        ("\xe4".encode() * 3000, "\xe4" * 500),
        (b"\n\nx", ""),
    ],
)
def test_a_file_with_a_sidecar_is_yanked(tree: Tree, content: bytes, reason: str) -> None:
    tree.put("", A1)
    tree.put("", S1)
    known = tree.project()
    path = tree.put(f"{A1.filename}.yanked", content)
    yanked = tree.project(known=known)
    assert [file.yanked for file in yanked.files] == [reason, None]
    assert tree.same(yanked)
    path.unlink()
    assert tree.project(known=yanked) == known


def test_another_reason_is_seen(tree: Tree) -> None:
    tree.put("", A1)
    tree.put(f"{A1.filename}.yanked", b"one")
    known, before = tree.project(), tree.tokens()
    tree.put(f"{A1.filename}.yanked", b"other")
    assert tree.tokens() != before
    assert tree.project(known=known).files[0].yanked == "other"


@pytest.mark.parametrize("target", ["../secret", "nowhere", "folder"])
def test_a_sidecar_that_leads_elsewhere_yanks_without_telling(tree: Tree, target: str) -> None:
    (tree.top.parent / "secret").write_text("secret")
    (tree.top / "folder").mkdir()
    tree.put("", A1)
    tree.link(f"{A1.filename}.yanked", target)
    assert tree.project().files[0].yanked == ""


# links


def test_a_link_to_a_file_inside_the_tree_is_followed(tree: Tree) -> None:
    tree.put(".pool/", A1)
    tree.link(f"x/{A1.filename}", tree.top / ".pool" / A1.filename)
    (file,) = tree.project().files
    assert file.key == f"packages/x/{A1.filename}"
    assert tree.bytes(file) == A1.content
    assert rejected(tree) == {}


def test_a_link_to_a_folder_inside_the_tree_is_followed(tree: Tree) -> None:
    tree.put(".releases/7/a/", A1)
    tree.link("current", ".releases/7")
    (file,) = tree.project().files
    assert file.key == f"packages/current/a/{A1.filename}"
    assert tree.bytes(file) == A1.content
    assert rejected(tree) == {}


def test_no_link_leads_out_of_the_tree(tree: Tree) -> None:
    """DESIGN 4.7, FACTS part D."""
    outside = tree.top.parent / "outside"
    outside.mkdir()
    (outside / A1.filename).write_bytes(A1.content)
    beside = tree.top.parent / "tree2"  # begins as the tree does
    beside.mkdir()
    (beside / A1.filename).write_bytes(A1.content)
    tree.link(f"one/{A1.filename}", outside / A1.filename)
    tree.link("two", "../outside")
    tree.link(f"three/{A1.filename}", f"../two/{A1.filename}")
    tree.link("four", beside)
    tree.link("README", outside / A1.filename)  # nothing that would be published
    tree.link("\x1b-1.0.whl", outside / A1.filename)
    assert tree.tokens() == {}
    assert rejected(tree) == dict.fromkeys(
        ["\\x1b-1.0.whl", "four", f"one/{A1.filename}", f"three/{A1.filename}", "two"], "is a link that leaves the tree"
    )


def test_a_link_that_leads_nowhere(tree: Tree) -> None:
    tree.link(A1.filename, "nothing")
    tree.link("loop-1.0.tar.gz", "loop-1.0.tar.gz")
    tree.link("gone", "unmounted")
    assert tree.tokens() == {}
    assert sorted(rejected(tree)) == [A1.filename, "gone", "loop-1.0.tar.gz"]
    assert all(why.startswith("is a link that leads nowhere (") for why in rejected(tree).values())


def test_folders_that_link_in_circles(tree: Tree) -> None:
    tree.put("a/b/", A1)
    tree.link("a/b/up", "../..")
    tree.link("a/self", ".")
    tree.put(".x/", B1)
    tree.link(".x/round", "../.y")
    (tree.top / ".y").mkdir()
    tree.link(".y/round", "../.x")
    tree.link("in", ".x")
    assert keys(tree.project()) == [f"packages/a/b/{A1.filename}"]
    assert keys(tree.project("demo-b")) == [f"packages/in/{B1.filename}"]
    assert rejected(tree) == dict.fromkeys(["a/b/up", "a/self"], "is a link to a folder that it lies in")


def test_a_thicket_of_links_is_walked_once(tree: Tree) -> None:
    """Every folder has two links to the next: 2 ** 30 paths to one file."""
    tree.put(".30/", A1)
    for number in range(30):
        for side in "ab":
            tree.link(f".{number}/{side}", f"../.{number + 1}")
    tree.link("in", ".0")
    assert keys(tree.project()) == [f"packages/in/{'a/' * 30}{A1.filename}"]


def test_more_links_behind_each_other_than_the_system_follows(tree: Tree) -> None:
    tree.put(".60/", A1)
    for number in range(60):
        tree.link(f".{number}/a", f"../.{number + 1}")
    tree.link("in", ".0")
    assert tree.tokens() == {}
    (rejection,) = tree.listing().rejected
    assert rejection.why == "is a link that leads nowhere (Too many levels of symbolic links)"


def test_a_folder_with_a_name_of_its_own_is_not_published_under_a_links(tree: Tree) -> None:
    tree.put("z/", A1)
    tree.link("a", "z")
    assert keys(tree.project()) == [f"packages/z/{A1.filename}"]
    assert rejected(tree) == {}


def test_the_tree_itself_may_be_a_link(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put("", A1)
    tree.top.rename(tmp_path / "real")
    tree.top.symlink_to("real")
    (file,) = tree.project().files
    assert tree.bytes(file) == A1.content


# what cannot be read


def test_a_tree_that_is_not_there_is_not_an_empty_one(tree: Tree) -> None:
    tree.top.rmdir()
    with pytest.raises(SourceError, match=r"tree: cannot be listed .*Nothing was taken as removed"):
        tree.listing()
    tree.top.write_text("a file")
    with pytest.raises(SourceError, match="cannot be listed"):
        tree.listing()


class Unreadable:
    """os.scandir, but for one folder; chmod would not keep root out."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.scandir = os.scandir

    def __call__(self, path: str) -> Any:
        if path == self.folder:
            raise PermissionError(13, "Permission denied", path)
        return self.scandir(path)


@pytest.mark.parametrize("folder", ["", "a/b"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    tree: Tree, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.put("a/b/", A1)
    tree.put("", B1)
    monkeypatch.setattr(os, "scandir", Unreadable(tree.top / folder))
    with pytest.raises(SourceError, match=f"{tree.top / folder}: cannot be listed"):
        tree.listing()


def test_a_file_that_went_since_the_listing_is_not_removed_yet(tree: Tree) -> None:
    path = tree.put("", A1)
    known = tree.project()
    path.unlink()
    with pytest.raises(ProjectError, match=f"{A1.filename}: cannot be read now"):
        tree.source.project("demo-a", known)
    with pytest.raises(ProjectError, match=f"{A1.filename}: cannot be read now"):
        tree.source.open(known.files[0])
    with pytest.raises(ProjectError, match="is not in the tree"):
        tree.source.project("other", None)


class Failing:
    """What a disk that fails does to `inspect`."""

    def __call__(self, file: BinaryIO, filename: str, project: str) -> Inspected:
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_leaves_its_project_as_it_is(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put("", A1)
    tree.listing()
    monkeypatch.setattr(reading, "inspect", Failing())
    with pytest.raises(ProjectError, match="Input/output error"):
        tree.source.project("demo-a", None)


# opening


def test_open_never_leaves_the_tree(tree: Tree) -> None:
    """Also if what was a file or a folder at the listing has become a link since."""
    path = tree.put("a/", A1)
    (file,) = tree.project().files
    outside = tree.top.parent / "outside"
    outside.mkdir()
    (outside / A1.filename).write_bytes(b"secret")
    path.unlink()
    path.symlink_to(outside / A1.filename)
    with pytest.raises(ProjectError, match="leaves the tree"):
        tree.source.open(file)
    path.unlink()
    (tree.top / "a").rmdir()
    (tree.top / "a").symlink_to(outside)
    with pytest.raises(ProjectError, match="leaves the tree"):
        tree.source.open(file)
    with pytest.raises(ProjectError, match="leaves the tree"):
        tree.source.project("demo-a", None)


def test_a_folder_that_becomes_a_link_while_a_file_is_opened(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put("a/", A1)
    (file,) = tree.project().files
    outside = tree.top.parent / "outside"
    outside.mkdir()
    (outside / A1.filename).write_bytes(b"secret")
    opened = os.open

    def swapped(path: str, flags: int) -> int:
        (tree.top / "a").rename(tree.top / "b")
        (tree.top / "a").symlink_to(outside)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ProjectError, match="was replaced while it was opened"):
        tree.source.open(file)


def test_open_takes_regular_files_only(tree: Tree) -> None:
    path = tree.put("", A1)
    (file,) = tree.project().files
    path.unlink()
    os.mkfifo(path)  # to open one would wait for ever
    with pytest.raises(ProjectError, match="no regular file"):
        tree.source.open(file)
    path.unlink()
    path.mkdir()
    with pytest.raises(ProjectError, match="no regular file"):
        tree.source.open(file)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("packages/../secret", "has a part that no key of ours may have"),
        ("packages/a/../x.zip", "has a part that no key of ours may have"),
        ("packages//etc/passwd", "has a part that no key of ours may have"),
        ("", "has a part that no key of ours may have"),
        ("x.zip", "is not of this source: its keys begin with packages/"),
        ("packages", "is not of this source: its keys begin with packages/"),
        ("packagesx/x.zip", "is not of this source: its keys begin with packages/"),
    ],
)
def test_open_knows_only_its_own_keys(tree: Tree, key: str, problem: str) -> None:
    (tree.top.parent / "secret").write_text("secret")
    for path in ("x.zip", "a/x.zip", "packagesx/x.zip", "packages"):
        tree.put(path, b"x")
    with pytest.raises(ProjectError, match=problem):
        tree.source.open(File("x.zip", key=key))


def test_published_changes_nothing(tree: Tree) -> None:
    path = tree.put("", A1)
    tree.source.published(tree.project().files[0])
    assert path.read_bytes() == A1.content


def test_several_threads(tree: Tree) -> None:
    wanted = [f"demo-{number}" for number in range(40)]
    for name in wanted:
        tree.put(f"{name}/", wheel(name))
    tree.listing()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: tree.source.project(name, None), wanted))
    assert [project.name for project in found if project] == wanted


def test_twice_listed_is_the_same(tree: Tree, tmp_path: Path) -> None:
    for name in ("z", "a", "m"):
        tree.put(f"{name}/", A1)
        tree.put(f"{name}/", B1)
        tree.link(f"{name}/out", "/")
    first, second = tree.listing(), Directory(tree.settings, lambda: NOW).listing("")
    assert first == second
    assert second is not None and list(first.tokens) == list(second.tokens)
