"""What is wrong with a source, a disk or a catalog, for the installed command: what it says, and that nothing is lost.

Each test begins with a mirror that is published, breaks something, looks that what readers see is as before or better,
mends it, and looks that the next run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.rig.dists import Dist, sdist, wheel
from tests.rig.faults import Corrupt, CutPage, Fault, LoginPage, Status, Truncate
from tests.rig.hostile import Dressed
from tests.rig.mirrors import Mirror, Pages, contents, make_environment, once, tree
from tests.rig.pips import PipEnv, Result
from tests.rig.scene import subnet
from tests.rig.server import Server
from tests.rig.site import JSON, PLAIN_HTML, Site

GOOD, OTHER, LATER = wheel("demo-good"), wheel("demo-other"), wheel("demo-later")
EVIL = "\x1b[2J\x1b]0;owned\x07"  # clears a terminal and names its window


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: PipEnv) -> None:
    """Other pips would see the same."""


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Mirror:
    """A mirror of a folder, with nothing in it."""
    env = PipEnv(once(tmp_path_factory, "mirror-env", make_environment), "")
    return Mirror(env, tmp_path / "mirror").init()


@pytest.fixture
def mirror(bare: Mirror) -> Mirror:
    """A mirror of a folder with two projects, published."""
    bare.add(GOOD, OTHER)
    bare.run()
    return bare


@pytest.fixture
def index() -> Iterator[tuple[Pages, Server]]:
    """An index with two projects, on a server of its own."""
    content = Pages()
    publish(content, 3, GOOD, OTHER)
    with Server(content, f"{subnet()}.1", 0) as server:
        yield content, server


@pytest.fixture
def copy(bare: Mirror, index: tuple[Pages, Server]) -> Mirror:
    """A mirror of that index with its files, published."""
    bare.source(from_index(index[1]))
    bare.run()
    return bare


def from_index(server: Server, *more: str) -> str:
    return "\n".join(['type = "simple-api"', f'url = "{server.url}simple/"', "files = true", "retries = 0", *more])


def publish(index: Pages, serial: int, *dists: Dist, **keys: Any) -> None:
    """These projects and no others, all changed with `serial`; `keys` are added to each file."""
    index.answers.clear()
    index.list({dist.project: serial for dist in dists})
    for dist in dists:
        index.put(f"/packages/{dist.filename}", dist.content, "application/octet-stream")
        index.project(dist.project, serial, entry(dist) | keys)


def entry(dist: Dist) -> dict[str, Any]:
    return {
        "filename": dist.filename,
        "url": f"../../packages/{dist.filename}",
        "hashes": {"sha256": dist.sha256},
        "size": len(dist.content),
    }


def pages(mirror: Mirror) -> str:
    """All that the site's pages say."""
    return "\n".join(
        body.decode()
        for key, body in contents(mirror.site).items()
        if key.startswith(("simple/", "pypi/")) and not key.endswith(".gz")
    )


def is_published(mirror: Mirror, *dists: Dist) -> bool:
    """Whether the files are there, and their pages lead to them."""
    site = contents(mirror.site)
    for dist in dists:
        page = json.loads(site.get(f"simple/{dist.project}/index.json", b'{"files": []}'))
        urls = [file["url"] for file in page["files"] if file["filename"] == dist.filename]
        if not any(site.get(url.removeprefix("../../")) == dist.content for url in urls):
            return False
    return True


def is_harmless(done: Result) -> bool:
    """Whether its words may be shown on a terminal, without the trace of a program that fell over."""
    said = done.output
    return "Traceback" not in said and all(char.isprintable() or char == "\n" for char in said)


def lines(done: Result, text: str) -> list[str]:
    """The lines on stderr with this text."""
    return [line for line in done.stderr.splitlines() if text in line]


# --- names in a folder ---

HOSTILE = {
    "<b>-1.0.tar.gz": "harmless",
    f"{EVIL}-1.0-py3-none-any.whl": "harmless",
    "demo\nnot published: all is well-1.0.tar.gz": "harmless",
    "-rf-1.0.tar.gz": "harmless",
    "demo good-1.0.tar.gz": "harmless",
    "demo;id-1.0-py3-none-any.whl": "harmless",
    '"onload=alert(1)-1.0.tar.gz': "harmless",
    "demo-good%2F..%2F-1.0.tar.gz": "harmless",
    "\u202egnp.good-1.0.tar.gz": "harmless",
    "demo..good-1.0.tar.gz": "harmless",
    "demo_good-1.0.whl": "wheel",
    "nodash.tar.gz": "name",
}


def test_hostile_file_names_are_told_of_and_published_nowhere(mirror: Mirror) -> None:
    before = contents(mirror.site)
    for name in HOSTILE:
        (mirror.packages / name).write_bytes(GOOD.content)
    (mirror.packages / os.fsdecode(b"demo\xff-1.0.tar.gz")).write_bytes(GOOD.content)
    mirror.add(LATER, folder="<script>")
    mirror.add(LATER, folder="a folder")

    done = mirror("run")

    assert done.code == 0 and is_harmless(done), done.output
    assert len(lines(done, "not published: ")) == len(HOSTILE) + 3, done.stderr
    assert f"{len(HOSTILE) + 3} not publishable" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert contents(mirror.site) == before

    assert mirror("run").stderr == "", "it is told once"
    mirror.add(LATER)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, LATER)


def test_hostile_names_are_harmless_for_machines_too(mirror: Mirror) -> None:
    for name in HOSTILE:
        (mirror.packages / name).write_bytes(GOOD.content)

    done = mirror("run", "--json")

    assert done.code == 0 and is_harmless(done), done.output
    told = json.loads(done.stdout)
    assert len(told["sync"]["rejected"]) == len(HOSTILE)
    assert all(one["what"] and one["why"] for one in told["sync"]["rejected"])


# --- links ---


def test_no_link_leads_out_of_the_tree(mirror: Mirror, tmp_path: Path) -> None:
    before = contents(mirror.site)
    secret = tmp_path / "secret"
    secret.mkdir()
    for dist in (LATER, wheel("demo-hidden")):
        (secret / dist.filename).write_bytes(dist.content)
    here = mirror.packages
    (here / LATER.filename).symlink_to(secret / LATER.filename)
    (here / "demo_up-1.0-py3-none-any.whl").symlink_to("../../secret/demo_hidden-1.0-py3-none-any.whl")
    (here / "demo_passwd-1.0.tar.gz").symlink_to("/etc/passwd")
    (here / "demo_none-1.0.tar.gz").symlink_to("nowhere")
    (here / "demo_self-1.0.tar.gz").symlink_to("demo_self-1.0.tar.gz")
    (here / "more").symlink_to(secret)
    (here / "round").symlink_to(".")
    os.mkfifo(here / "demo_pipe-1.0-py3-none-any.whl")

    done = mirror("run")

    assert done.code == 0 and is_harmless(done), done.output
    told = [line.split()[2] for line in lines(done, "not published: ")]
    assert set(told) >= {LATER.filename, "demo_up-1.0-py3-none-any.whl", "demo_passwd-1.0.tar.gz", "more"}, done.stderr
    assert len(lines(done, "is a link that leaves the tree")) == 4, done.stderr
    assert contents(mirror.site) == before

    (here / LATER.filename).unlink()
    mirror.add(LATER)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, LATER)


def test_a_link_that_comes_between_sync_and_publish_is_not_followed(mirror: Mirror, tmp_path: Path) -> None:
    """What was a file when it was read is a link out of the tree when it is to be published."""
    before = contents(mirror.site)
    mirror.add(LATER)
    assert mirror("sync").code == 0
    outside = tmp_path / "outside.whl"
    outside.write_bytes(LATER.content)
    path = mirror.packages / LATER.filename
    path.unlink()
    path.symlink_to(outside)

    done = mirror("publish")

    assert done.code == 3 and is_harmless(done), done.output
    (line,) = lines(done, "not published, left as it was: demo-later")
    assert LATER.filename in line
    assert LATER.filename not in pages(mirror)
    assert contents(mirror.site).items() >= {key: body for key, body in before.items() if "demo" in key}.items()

    path.unlink()
    mirror.add(LATER)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, LATER)


# --- archives ---


def _tar(**files: bytes) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return buffer.getvalue()


_INFO = b"Metadata-Version: 2.1\nName: demo-good\nVersion: %b\n"
FAKE = {
    "demo_fake-1.0-py3-none-any.whl": (b"<html>503 Service Unavailable</html>", "is no zip archive"),
    "demo_fake-1.1-py3-none-any.whl": (b"", "is no zip archive"),
    "demo_fake-1.2-py3-none-any.whl": (GOOD.content[: len(GOOD.content) // 2], "is no whole zip archive"),
    "demo_fake-1.3.tar.gz": (GOOD.content, "is no .tar.gz file"),
    "demo_fake-1.4.tar.gz": (sdist("demo-fake", "1.4").content[:-40], "is cut short"),
    "demo_fake-1.5.zip": (sdist("demo-fake", "1.5").content, "is no zip archive"),
}
LYING = {
    "demo_other-2.0-py3-none-any.whl": (GOOD.content, "another project's .dist-info"),
    "demo_good-2.0-py3-none-any.whl": (GOOD.content, "another version"),
    "demo_later-1.0.tar.gz": (_tar(**{"demo_later-1.0/PKG-INFO": _INFO % b"1.0"}), "another project"),
    "demo_good-3.0.tar.gz": (_tar(**{"demo_good-3.0/PKG-INFO": _INFO % b"1.0"}), "another version"),
}


@pytest.mark.parametrize("wrong", [FAKE, LYING], ids=["archives", "metadata"])
def test_files_that_are_not_what_they_claim(mirror: Mirror, wrong: dict[str, tuple[bytes, str]]) -> None:
    before = contents(mirror.site)
    for name, (content, _) in wrong.items():
        mirror.add(Dist(name, content))

    done = mirror("run")

    assert done.code == 0 and is_harmless(done), done.output
    for name, (_, why) in wrong.items():
        (line,) = lines(done, f"not published: {name} ")
        assert why in line
    assert {
        key: body for key, body in contents(mirror.site).items() if "/demo-good" in key or "/demo-other" in key
    } == {key: body for key, body in before.items() if "/demo-good" in key or "/demo-other" in key}
    assert not any(name in pages(mirror) for name in wrong)
    assert not any(key.endswith(tuple(wrong)) for key in contents(mirror.site))

    mended = [sdist("demo-fake", "1.4"), wheel("demo-other", "2.0"), wheel("demo-good", "2.0")]
    for name in wrong:
        (mirror.packages / name).unlink()
    mirror.add(*mended)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, *mended)


def test_a_file_that_is_spoilt_later_is_withdrawn_and_comes_back(mirror: Mirror) -> None:
    before = contents(mirror.site)
    mirror.add(Dist(GOOD.filename, b"\0" * len(GOOD.content)), time="2024-06-01T00:00:00Z")

    done = mirror("run")

    assert is_harmless(done), done.output
    assert lines(done, f"{GOOD.filename} is no zip archive")
    assert GOOD.filename not in pages(mirror)
    assert is_published(mirror, OTHER)
    assert contents(mirror.site)[f"packages/{GOOD.filename}"] == GOOD.content, "who has the old page finds the old file"

    mirror.add(GOOD)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER)
    packages = {key: body for key, body in contents(mirror.site).items() if key.startswith("packages/")}
    assert packages == {key: body for key, body in before.items() if key.startswith("packages/")}


def test_a_file_that_changes_between_sync_and_publish_is_left_for_the_next_run(mirror: Mirror) -> None:
    mirror.add(LATER)
    assert mirror("sync").code == 0
    changed = wheel("demo-later", code="CHANGED = True\n")
    mirror.add(changed, time="2024-06-01T00:00:00Z")

    done = mirror("publish")

    assert done.code == 3 and is_harmless(done), done.output
    (line,) = lines(done, "not published, left as it was: demo-later")
    assert "has changed since it was read" in line
    assert LATER.filename not in pages(mirror)
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, changed)


# --- the folder itself ---


def test_a_folder_that_is_gone_is_not_an_empty_index(mirror: Mirror) -> None:
    before = tree(mirror.site)
    away = mirror.packages.rename(mirror.folder / "unmounted")

    done = mirror("run")

    assert done.code == 1 and is_harmless(done), done.output
    assert str(mirror.packages) in done.stderr and "Nothing was taken as removed" in done.stderr
    assert tree(mirror.site) == before
    away.rename(mirror.packages)
    assert "nothing new" in mirror.run()
    assert tree(mirror.site) == before


def test_a_folder_that_is_suddenly_empty_stops_the_publish(bare: Mirror) -> None:
    """As an empty mount point is: it can be listed."""
    bare.add(*(wheel(f"demo-{number}") for number in range(20)))
    bare.run()
    before = tree(bare.site)
    away = bare.packages.rename(bare.folder / "unmounted")
    bare.packages.mkdir()

    for _ in range(2):
        done = bare("run")
        assert done.code == 5 and is_harmless(done), done.output
        assert "would remove 20 of 20 projects" in done.stderr and "--allow-removals" in done.stderr
        assert tree(bare.site) == before

    bare.packages.rmdir()
    away.rename(bare.packages)
    assert bare("run").code == 0
    assert {key for key in contents(bare.site) if "packages/" in key} == {key for key in before if "packages/" in key}
    assert is_published(bare, *(wheel(f"demo-{number}") for number in range(20)))


# --- pages of an index ---


def test_hostile_names_of_an_index_are_told_of_and_published_nowhere(copy: Mirror, index: tuple[Pages, Server]) -> None:
    content, server = index
    before = contents(copy.site)
    publish(content, 4, GOOD, OTHER)
    stem = entry(GOOD)
    wrong: list[dict[str, Any]] = [
        {"filename": "../../../demo_good-1.0.tar.gz"},
        {"filename": 'demo_good-1.0.tar.gz"><script>alert(1)</script>'},
        {"filename": f"demo_good-{EVIL}1.0.tar.gz"},
        {"filename": OTHER.filename},
        {"filename": "demo_good-4.0.tar.gz", "url": "javascript:alert(1)"},
        {"filename": "demo_good-5.0.tar.gz", "url": "file:///etc/passwd"},
        {"filename": "demo_good-6.0.tar.gz", "hashes": {}},
    ]
    content.project("demo-good", 4, stem, *(stem | one for one in wrong))
    names = ["../evil", "<b>bold</b>", f"{EVIL}x", "a/b", "..", "", "x" * 300]
    listed = [{"name": name, "_last-serial": 4} for name in ("demo-good", "demo-other", *names)]
    content.put("/simple/", {"meta": {"api-version": "1.4", "_last-serial": 4}, "projects": listed})

    done = copy("run")

    assert done.code == 0 and is_harmless(done), done.output
    assert len(lines(done, "not published: ")) == len(wrong) + len(names), done.stderr
    assert contents(copy.site).keys() == before.keys()
    assert is_published(copy, GOOD, OTHER)
    assert not any(text in pages(copy) for text in ("script", "passwd", "evil", "bold", "\x1b", ".." + "/evil"))
    assert {request.path for request in server.requests} <= {
        *("/simple/", "/simple/demo-good/", "/simple/demo-other/"),
        *(f"/packages/{dist.filename}" for dist in (GOOD, OTHER)),
    }


CUTS: dict[str, Fault] = {
    "content-length": Truncate(0.6, "length"),
    "chunked": Truncate(0.6, "chunked"),
    "until-close": Truncate(0.6, "close"),
    "half-written": CutPage(0.6),
    "before-the-last-bytes": CutPage(0.99),
    "empty": CutPage(0.0),
    "login": LoginPage(),
    "503": Status(503),
    "404": Status(404),
}
# so that the page is sent, and not only told to be as it was
CHANGED = Dressed((("ETag", '"another"'), ("Last-Modified", "Tue, 06 Jan 2026 00:00:00 GMT")))


@pytest.mark.parametrize(("where", "code"), [("/simple/", 1), ("/simple/demo-good/", 3)], ids=["list", "project"])
@pytest.mark.parametrize("media", [JSON, PLAIN_HTML], ids=["json", "html"])
def test_a_page_that_is_cut_short_takes_nothing_away(bare: Mirror, media: str, where: str, code: int) -> None:
    """From an index without serials, of which each page is asked for in every run."""
    dists = [wheel("demo-good", f"{number}.0") for number in range(30)]
    content = Site((*dists, OTHER, wheel("demo-third")), types=(media,))
    with Server(content, f"{subnet()}.1", 0) as server:
        bare.source(from_index(server))
        bare.run()
        before = tree(bare.site)
        for name, fault in CUTS.items():
            server.fault(CHANGED, fault, on=where)
            done = bare("run")
            server.heal()
            told = f"{name}: {done}"
            assert done.code == code and is_harmless(done), told
            assert f"{server.url}{where[1:]}" in done.stderr or "demo-good" in done.stderr, told
            assert tree(bare.site) == before, told
        assert "nothing new" in bare.run()

        server.content = Site(tuple(dists[:-1]), types=(media,))
        assert bare("run").code == 0, "what is really gone goes"
    assert "demo-third" not in pages(bare) and dists[-1].filename not in pages(bare)
    assert is_published(bare, *dists[:-1])


def test_an_index_whose_serial_goes_back_is_not_believed(copy: Mirror, index: tuple[Pages, Server]) -> None:
    content, server = index
    before = tree(copy.site)
    publish(content, 2, GOOD)

    for _ in range(2):
        done = copy("run")
        assert done.code == 1 and is_harmless(done), done.output
        assert f"{server.url}simple/: its serial went back from 3 to 2" in done.stderr
        assert "accept-serial = 2" in done.stderr
        assert tree(copy.site) == before

    copy.source(from_index(server, "accept-serial = 2"))
    done = copy("run")
    assert (done.code, done.stderr) == (0, ""), "what it said to do is done"
    copy.source(from_index(server))
    copy.run()
    assert is_published(copy, GOOD) and "demo-other" not in pages(copy)
    publish(content, 7, GOOD, OTHER)
    copy.run()
    assert is_published(copy, GOOD, OTHER)


def test_a_project_whose_serial_goes_back_stays_as_it_is(copy: Mirror, index: tuple[Pages, Server]) -> None:
    """One stale copy of a page among fresh ones, as an edge behind the others has it."""
    content, _ = index
    before = contents(copy.site)
    publish(content, 5, GOOD, OTHER)
    content.project("demo-good", 2)

    done = copy("run")

    assert done.code == 3 and is_harmless(done), done.output
    (line,) = lines(done, "not read, left as it was: demo-good")
    assert "2 < 3" in line or "older" in line
    page = "simple/demo-good/index.json"
    assert contents(copy.site)[page] == before[page]
    publish(content, 5, GOOD, OTHER)
    copy.run()
    assert is_published(copy, GOOD, OTHER)


@pytest.mark.parametrize(
    "fault",
    [Corrupt(), Truncate(0.5, "length"), Truncate(0.5, "close"), LoginPage(), Status(404)],
    ids=["corrupt", "cut", "until-close", "login", "404"],
)
def test_a_file_that_is_not_the_promised_one_is_not_published(
    copy: Mirror, index: tuple[Pages, Server], fault: Fault
) -> None:
    content, server = index
    before = contents(copy.site)
    publish(content, 4, GOOD, OTHER, LATER)
    server.fault(fault, on=f"/packages/{LATER.filename}")

    done = copy("run")

    assert done.code == 3 and is_harmless(done), done.output
    (line,) = lines(done, "not read, left as it was: demo-later")
    assert LATER.filename in line
    assert LATER.filename not in pages(copy) and f"packages/{LATER.filename}" not in contents(copy.site)
    assert contents(copy.site).keys() == before.keys()
    server.heal()
    copy.run()
    assert is_published(copy, GOOD, OTHER, LATER)


def test_metadata_that_lies_comes_from_the_wheel_instead(bare: Mirror) -> None:
    """PEP 658: what an index says of a wheel's metadata is not what readers of ours get, if it is not so."""
    content = Pages()
    publish(content, 1, GOOD, **{"core-metadata": {"sha256": hashlib.sha256(b"a lie").hexdigest()}})
    content.put(f"/packages/{GOOD.filename}.metadata", b"a lie", "application/octet-stream")
    with Server(content, f"{subnet()}.1", 0) as server:
        bare.source(from_index(server))
        bare.run()

    page = json.loads(contents(bare.site)["simple/demo-good/index.json"])
    (file,) = page["files"]
    published = contents(bare.site)[f"packages/{GOOD.filename}.metadata"]
    assert published == GOOD.metadata
    assert file["core-metadata"] == {"sha256": hashlib.sha256(GOOD.metadata).hexdigest()}


# --- no space left ---


class Small:
    """A file system of a few hundred KiB at `path`, in a mount namespace of its own: no root is needed.

    What runs behind `inside` sees it there; others see what lies in it at `seen`.
    """

    def __init__(self, path: Path, kib: int) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        script = f'mount -t tmpfs -o size={kib}k,mode=0755 none "$1" && echo mounted && exec sleep 600'
        self._process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(path)],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"mounted\n", "this machine lets nobody mount a file system"

    @property
    def inside(self) -> tuple[str, ...]:
        enter = ("nsenter", "--target", str(self._process.pid), "--user", "--mount", "--preserve-credentials")
        return (*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(self._path.parent))

    @property
    def seen(self) -> Path:
        return Path(f"/proc/{self._process.pid}/root{self._path}")

    def grow(self, kib: int) -> None:
        command = ("mount", "-o", f"remount,size={kib}k", str(self._path))
        subprocess.run([*self.inside, *command], check=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def small(path: Path, kib: int) -> Iterator[Small]:
    made = Small(path, kib)
    try:
        yield made
    finally:
        made.close()


def test_no_space_left_in_the_store(bare: Mirror) -> None:
    big = wheel("demo-big", padding=600_000)
    with small(bare.site, 500) as disk:
        mirror = Mirror(bare.env, bare.folder, disk.inside)
        mirror.add(GOOD, OTHER)
        mirror.run()
        before = contents(disk.seen)
        mirror.add(big, LATER)

        for _ in range(2):
            done = mirror("run")
            assert done.code == 1 and is_harmless(done), done.output
            assert "no space left" in done.stderr and "make some and run again" in done.stderr
            assert str(mirror.site) in done.stderr
            assert {key: contents(disk.seen)[key] for key in before} == before
            assert not any(path.name.endswith(".new") for path in disk.seen.rglob("*")), "half a file takes space"

        disk.grow(5000)
        done = mirror("run")
        assert (done.code, done.stderr) == (0, "")
        site = contents(disk.seen)
        for dist in (GOOD, OTHER, LATER, big):
            assert site[f"packages/{dist.filename}"] == dist.content
            assert dist.filename.encode() in site[f"simple/{dist.project}/index.json"]


def test_no_space_left_for_the_catalog(bare: Mirror) -> None:
    state = bare.folder / "state"
    bare.config.write_text(bare.config.read_text() + '\n[catalog]\npath = "state/catalog.sqlite"\n')
    many = [wheel(f"demo-{number}-{'x' * 150}") for number in range(120)]
    with small(state, 340) as disk:
        mirror = Mirror(bare.env, bare.folder, disk.inside)
        mirror.add(GOOD, OTHER)
        mirror.run()
        before = tree(mirror.site)
        mirror.add(*many)

        for _ in range(2):
            done = mirror("run")
            assert done.code == 1 and is_harmless(done), done.output
            assert "no space left" in done.stderr and str(state / "catalog.sqlite") in done.stderr
            assert {key: seen for key, seen in tree(mirror.site).items() if key in before} == before

        disk.grow(20_000)
        done = mirror("run")
        assert (done.code, done.stderr) == (0, "")
        assert is_published(mirror, GOOD, OTHER, *many)


# --- the catalog ---


def test_a_catalog_of_a_newer_version_is_left_alone(mirror: Mirror) -> None:
    before = tree(mirror.site)
    with contextlib.closing(sqlite3.connect(mirror.catalog)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    catalog = mirror.catalog.read_bytes()
    mirror.add(LATER)

    for command in ("run", "sync", "publish", "plan"):
        done = mirror(command)
        assert done.code == 1 and is_harmless(done), done.output
        assert str(mirror.catalog) in done.stderr
        assert "is of version 99" in done.stderr and "install the newer cdn-fallback" in done.stderr
    assert mirror.catalog.read_bytes() == catalog
    assert tree(mirror.site) == before

    with contextlib.closing(sqlite3.connect(mirror.catalog)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    mirror.run()
    assert is_published(mirror, GOOD, OTHER, LATER)


def _of_another_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b"no database at all\n" * 400), "is damaged or no catalog"),
        (_of_another_program, "is another program's database"),
    ],
    ids=["damaged", "another-programs"],
)
def test_what_is_no_catalog_is_not_written_to(mirror: Mirror, spoil: Callable[[Path], object], why: str) -> None:
    before = tree(mirror.site)
    kept = mirror.catalog.rename(mirror.folder / "kept")
    for path in mirror.folder.glob("cdn-fallback.sqlite-*"):
        path.unlink()
    spoil(mirror.catalog)
    wrong = mirror.catalog.read_bytes()

    done = mirror("run")

    assert done.code == 1 and is_harmless(done), done.output
    assert str(mirror.catalog) in done.stderr and why in done.stderr
    assert mirror.catalog.read_bytes() == wrong
    assert tree(mirror.site) == before

    mirror.catalog.unlink()
    kept.rename(mirror.catalog)
    assert "nothing new" in mirror.run()


def test_a_catalog_that_is_lost_does_not_take_over_the_store(mirror: Mirror) -> None:
    before = tree(mirror.site)
    for path in mirror.folder.glob("cdn-fallback.sqlite*"):
        path.unlink()

    done = mirror("run")

    assert done.code == 1 and is_harmless(done), done.output
    assert "belongs to another catalog" in done.stderr
    assert tree(mirror.site) == before


def test_a_store_that_is_not_mounted_is_not_filled_anew(mirror: Mirror) -> None:
    before = tree(mirror.site)
    away = mirror.site.rename(mirror.folder / "unmounted")
    mirror.site.mkdir()
    mirror.add(LATER)

    done = mirror("run")

    assert done.code == 1 and is_harmless(done), done.output
    assert "its mark is missing" in done.stderr and "--anew" in done.stderr
    assert not list(mirror.site.iterdir())

    mirror.site.rmdir()
    away.rename(mirror.site)
    mirror.run()
    assert {key: seen for key, seen in tree(mirror.site).items() if key.startswith("packages/") and key in before} == {
        key: seen for key, seen in before.items() if key.startswith("packages/")
    }
    assert is_published(mirror, GOOD, OTHER, LATER)
