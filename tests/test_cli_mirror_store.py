"""`cdn-fallback mirror verify | restore | prune`: what is printed, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.lock import held
from tests.rig.dists import Dist, sdist, wheel
from tests.test_cli_mirror import mirror, told

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
LONG_AGO = time.time() - 3600
CONFIG = """
[source]
type = "directory"
path = "packages"
[store]
url = "file:site"
[publish]
base = "https://pypi.python.org/"
[[tree]]
path = "docs"
prefix = "documentation"
"""
WHEEL = wheel("Some.Thing", "1.0", requires_python=">=3.8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A mirror of two folders in the current folder, published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sync", lambda: None)  # of this whole machine
    for name in ("packages", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "cdn-fallback.toml").write_text(CONFIG)
    add(WHEEL)
    add(sdist("other", "2.0"))
    Path("packages/other-2.0.tar.gz.yanked").write_text("it is broken\n")
    Path("docs/index.html").write_bytes(b"a page")
    os.utime("docs/index.html", (LONG_AGO, LONG_AGO))
    assert mirror(capsys, "run")[0] == 0
    return tmp_path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cache remembers any more what was there before."""
    now = time.time() + site.STALE + 10
    yield monkeypatch.setattr(time, "time", lambda: now)


def add(dist: Dist) -> None:
    path = Path("packages", dist.filename)
    path.write_bytes(dist.content)
    os.utime(path, (LONG_AGO, LONG_AGO))


def lose_catalog() -> None:
    for path in Path().glob("cdn-fallback.sqlite*"):
        path.unlink()


def tree(*folders: str) -> dict[str, tuple[bytes, int]]:
    paths = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


# verify


@pytest.mark.parametrize("mode", [(), ("--quick",), ("--repair",), ("--quick", "--repair")])
def test_a_store_that_is_well(capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]) -> None:
    assert mirror(capsys, "verify", *mode) == (0, "verified: 23 objects, all as they should be\n", "")
    assert told(capsys, "verify", *mode) == (0, {"verify": {"objects": 23, "findings": []}})


def harm() -> None:
    Path("site/packages/other-2.0.tar.gz").unlink()
    Path("site/simple/some-thing/index.html").write_bytes(b"defaced")


def test_3_what_is_wrong_is_told_a_line_each_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    harm()
    before = tree("site")
    code, out, err = mirror(capsys, "verify")
    assert (code, out) == (3, "verified: 23 objects, 3 findings\n")
    assert err.splitlines()[0] == "missing: packages/other-2.0.tar.gz is not there"
    assert err.splitlines()[1].startswith("bytes: simple/some-thing/index.html has other bytes: sha256 ")
    dangling = (
        "dangling: simple/other/index.json leads to packages/other-2.0.tar.gz, which is not there as it should be"
    )
    assert err.splitlines()[2:] == [dangling]
    assert tree("site") == before
    code, document = told(capsys, "verify")
    assert code == 3 and document["verify"]["findings"][0] == {
        "kind": "missing", "key": "packages/other-2.0.tar.gz", "what": "is not there"
    }  # fmt: skip


def test_a_repair_puts_again_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    before = {key: body for key, (body, _) in tree("site").items()}
    harm()
    code, out, err = mirror(capsys, "verify", "--repair")
    assert (code, out) == (0, "verified: 23 objects, 3 findings; 3 put again\n") and err.count("\n") == 3
    assert mirror(capsys, "verify")[0] == 0
    assert {key: body for key, (body, _) in tree("site").items() if not key.startswith("site/.")} == {
        key: body for key, body in before.items() if not key.startswith("site/.")
    }
    harm()
    code, document = told(capsys, "verify", "--repair", "--quick")
    assert code == 0 and document["repair"]["puts"] == 3 and document["repair"]["held"] == []


def test_3_what_cannot_be_repaired_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    harm()
    Path("packages/other-2.0.tar.gz").rename("elsewhere")
    code, out, err = mirror(capsys, "verify", "--repair")
    assert code == 3 and out.endswith("3 findings; 2 put again\n")
    assert err.splitlines()[-1].startswith("not mended: other: ")
    Path("elsewhere").rename("packages/other-2.0.tar.gz")
    assert mirror(capsys, "run")[0] == 0 and mirror(capsys, "verify")[0] == 0


def test_0_what_nobody_knows_is_told_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Path("site/photo\x1b[31m\nmissing: x.jpg").write_bytes(b"mine")
    code, out, err = mirror(capsys, "verify", "--repair")
    assert (code, out) == (0, "verified: 23 objects, 1 findings\n")
    assert err == "extra: photo\\x1b[31m\\nmissing: x.jpg is there, and nobody knows why (4 bytes)\n"


def test_many_findings_are_told_in_part_and_to_machines_all(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(105):
        Path(f"site/x{number}").write_bytes(b"")
    _, out, err = mirror(capsys, "verify", "--quick")
    assert out == "verified: 23 objects, 105 findings\n" and err.count("\n") == 101
    assert err.endswith("and 5 more; --json tells them all\n")
    assert len(told(capsys, "verify", "--quick")[1]["verify"]["findings"]) == 105


def test_2_to_repair_and_to_adopt_are_two_things(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = mirror(capsys, "verify", "--repair", "--adopt")
    assert code == 2 and "not allowed with argument" in err


@pytest.mark.parametrize("command", ["verify", "verify --repair", "verify --adopt", "restore", "prune"])
def test_4_another_run_is_at_work(capsys: pytest.CaptureFixture[str], folder: Path, command: str) -> None:
    with held(folder / "cdn-fallback.sqlite", "mirror run", 0):
        code, out, err = mirror(capsys, *command.split())
    assert (code, out) == (4, "") and "another run is at work (mirror run, process" in err


@pytest.mark.parametrize("command", ["verify", "prune", "prune --dry-run"])
def test_1_with_a_lost_catalog_is_told_what_to_do(capsys: pytest.CaptureFixture[str], command: str) -> None:
    lose_catalog()
    before = tree("site")
    code, out, err = mirror(capsys, *command.split())
    assert (code, out) == (1, "") and "belongs to another catalog" in err
    assert "`cdn-fallback mirror verify --adopt` makes it anew from the store" in err and tree("site") == before


@pytest.mark.parametrize("command", ["verify", "restore", "prune"])
def test_2_no_configuration(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, _, err = mirror(capsys, command, "--config", "elsewhere.toml")
    assert code == 2 and "elsewhere.toml: is not there" in err


# adopt


def test_a_lost_catalog_is_made_anew(capsys: pytest.CaptureFixture[str]) -> None:
    before = tree("site")
    lose_catalog()
    line = "adopted: 2 projects, 2 files; 23 objects are as they should be\n"
    assert mirror(capsys, "verify", "--adopt") == (0, line, "")
    assert mirror(capsys, "plan") == (0, "would publish: nothing new\n", "")
    assert mirror(capsys, "publish") == (0, "published: nothing new\n", "")
    assert mirror(capsys, "verify")[0] == 0
    nothing = "synced: 0 projects changed, 0 removed (files: 0 new, 0 changed, 0 removed); published: nothing new\n"
    assert mirror(capsys, "run") == (0, nothing, "")
    after = tree("site")
    assert {key: one for key, one in after.items() if not key.startswith("site/.")} == {
        key: one for key, one in before.items() if not key.startswith("site/.")
    }


def test_an_adoption_is_told_to_machines(capsys: pytest.CaptureFixture[str]) -> None:
    lose_catalog()
    Path("site/photo.jpg").write_bytes(b"mine")
    Path("site/pypi/other/json").write_bytes(b"defaced")
    expected = {"projects": 2, "files": 2, "objects": 22, "differ": 1, "strangers": 1, "left_out": []}
    assert told(capsys, "verify", "--adopt") == (0, {"adopt": expected})


def test_what_differs_and_what_nobody_knows_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lose_catalog()
    Path("site/photo.jpg").write_bytes(b"mine")
    Path("site/pypi/other/json").write_bytes(b"defaced")
    line = (
        "adopted: 2 projects, 2 files; 22 objects are as they should be, 1 are put again by the next publish, "
        "1 that nothing refers to are deleted when no cache has them\n"
    )
    assert mirror(capsys, "verify", "--adopt") == (0, line, "")


def test_3_a_project_whose_page_nobody_can_read_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lose_catalog()
    for path in Path("site/simple/other").glob("index.json*"):
        path.write_bytes(b"{")
    code, out, err = mirror(capsys, "verify", "--adopt")
    assert code == 3 and out.startswith("adopted: 1 projects, 1 files; ") and ", 1 projects are left out" in out
    assert err == "left out, as nobody can read its page: other; the next sync brings it back\n"
    assert mirror(capsys, "run")[0] == 0 and mirror(capsys, "verify")[0] == 0
    assert json.loads(Path("site/simple/other/index.json").read_bytes())["files"]


def test_1_there_is_nothing_to_adopt(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = mirror(capsys, "verify", "--adopt")
    assert (code, out) == (1, "") and "belongs to this very catalog: there is nothing to make anew; see `verify`" in err
    shutil.rmtree("site")
    lose_catalog()
    code, out, err = mirror(capsys, "verify", "--adopt")
    assert (code, out) == (1, "") and "is not ours: there is no mark in it" in err


# restore


def test_everything_but_the_store_is_lost_and_comes_back(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = tree("packages", "docs")
    lose_catalog()
    shutil.rmtree("packages")
    shutil.rmtree("docs")
    code, out, err = mirror(capsys, "restore")
    assert (code, err) == (0, "")
    assert out == (
        "adopted: 2 projects, 2 files; 23 objects are as they should be\n"
        f"restored: 3 files into {folder}/packages, each with the hash that its page promises\n"
    )
    after = tree("packages", "docs")
    assert {key: one[0] for key, one in after.items()} == {key: one[0] for key, one in before.items()}
    for key in ("packages/other-2.0.tar.gz", f"packages/{WHEEL.filename}"):
        assert after[key][1] // 1000 == before[key][1] // 1000, "a time in microseconds is published"
    published = tree("site")
    os.utime("docs/index.html", (LONG_AGO, LONG_AGO))  # or it may be a file that is being written
    assert mirror(capsys, "run")[1].endswith("published: nothing new\n")
    with closing(Catalog.open(Path("cdn-fallback.sqlite"))) as catalog:
        [static] = catalog.content.static()
    assert static.path == f"{folder}/docs/index.html" and static.state, "it need not be read again by each run"
    assert {key for key in published if tree("site")[key] != published[key]} <= {"site/.cdn-fallback"}


def test_what_is_there_stays_and_what_is_another_file_is_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    Path("packages/other-2.0.tar.gz").write_bytes(b"mine")
    code, out, err = mirror(capsys, "restore")
    assert code == 3 and out.endswith("; 2 were there; 1 could not be\n") and "restored: 0 files" in out
    path = folder / "packages/other-2.0.tar.gz"
    assert err == f"not restored: packages/other-2.0.tar.gz: {path} is another file; move it away and run again\n"
    assert path.read_bytes() == b"mine"


def test_a_restore_into_another_folder_is_told_to_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = told(capsys, "restore", "--to", "elsewhere/deep")
    size = len(WHEEL.content) + len(sdist("other", "2.0").content)
    assert code == 0 and document == {"restore": {"files": 2, "bytes": size, "there": 1, "failed": []}}
    assert Path("elsewhere/deep", WHEEL.filename).read_bytes() == WHEEL.content
    Path("site/packages", WHEEL.filename).write_bytes(b"defaced")
    code, document = told(capsys, "restore", "--to", "another")
    assert code == 3 and [one["key"] for one in document["restore"]["failed"]] == [f"packages/{WHEEL.filename}"]


def test_2_a_source_that_is_no_folder_needs_a_folder_to_restore_to(capsys: pytest.CaptureFixture[str]) -> None:
    source = 'type = "simple-api"\nurl = "https://pypi.python.org/simple/"'
    Path("cdn-fallback.toml").write_text(CONFIG.replace('type = "directory"\npath = "packages"', source))
    code, out, err = mirror(capsys, "restore")
    assert (code, out) == (2, "") and "the source is no folder; name one for the files with --to FOLDER" in err
    assert mirror(capsys, "restore", "--to", "files")[0] == 0
    assert Path("files", WHEEL.filename).read_bytes() == WHEEL.content


def test_a_prefix_may_be_written_with_a_slash(capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path().glob("site"):
        shutil.rmtree(path)
    lose_catalog()
    Path("cdn-fallback.toml").write_text(CONFIG.replace('path = "packages"', 'path = "packages"\nprefix = "files/"'))
    assert mirror(capsys, "run")[0] == 0
    assert mirror(capsys, "restore", "--to", "back")[0] == 0
    assert Path("back", WHEEL.filename).exists() and not Path("back/files").exists()


def test_after_a_kill_at_the_very_end_of_the_adoption_a_restore_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    lose_catalog()
    assert mirror(capsys, "verify", "--adopt")[0] == 0
    with closing(Catalog.open(Path("cdn-fallback.sqlite"))) as catalog, catalog.transaction():
        catalog.set("rebuilding", "f" * 32)
    shutil.rmtree("packages")
    assert mirror(capsys, "restore")[0] == 0
    assert Path("packages", WHEEL.filename).exists() and mirror(capsys, "verify")[0] == 0


def test_after_a_kill_in_the_midst_of_the_adoption_a_restore_begins_it_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = json.loads(Path("site/.cdn-fallback").read_bytes())["catalog"]
    lose_catalog()
    with closing(Catalog.open(Path("cdn-fallback.sqlite"))) as catalog, catalog.transaction():
        catalog.set("rebuilding", lost)
        catalog.ledger.intend(None, [("documentation/index.html", b"")])
    shutil.rmtree("packages")
    code, out, _ = mirror(capsys, "restore")
    assert code == 0 and out.startswith("adopted: 2 projects, 2 files; 23 objects are as they should be\n")
    assert Path("packages", WHEEL.filename).exists() and mirror(capsys, "verify")[0] == 0


# prune


def test_nothing_to_prune(capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror(capsys, "prune") == (0, "pruned: 0 deleted\n", "")
    assert mirror(capsys, "prune", "--dry-run") == (0, "would prune: 0 deleted\n", "")
    assert told(capsys, "prune") == (0, {"prune": {"deletes": 0, "waiting": 0, "new": []}})


def test_a_stranger_is_told_noted_and_deleted_when_its_time_has_come(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    Path("site/photo\x1b[31m.jpg").write_bytes(b"mine")
    known = "nothing refers to it, and nobody knows it: photo\\x1b[31m.jpg\n"
    noted = ", 1 that nobody knows are deleted when their time has come"
    for _ in range(2):
        assert mirror(capsys, "prune", "--dry-run") == (0, f"would prune: 0 deleted{noted}\n", known)
    code, out, err = mirror(capsys, "prune")
    assert code == 0 and out.startswith(f"pruned: 0 deleted{noted}") and err == known
    assert mirror(capsys, "prune") == (0, "pruned: 0 deleted, 1 wait until no cache has them\n", "")
    request.getfixturevalue("later")
    assert mirror(capsys, "prune", "--dry-run") == (0, "would prune: 1 deleted\n", "")
    assert told(capsys, "prune", "--dry-run")[1]["prune"]["deletes"] == 1
    assert Path("site/photo\x1b[31m.jpg").exists()
    assert mirror(capsys, "prune") == (0, "pruned: 1 deleted\n", "")
    assert not Path("site/photo\x1b[31m.jpg").exists()
    assert mirror(capsys, "verify")[0] == 0


def test_a_dry_run_changes_nothing(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    Path("packages/other-2.0.tar.gz").unlink()
    mirror(capsys, "run")
    Path("site/photo.jpg").write_bytes(b"mine")
    request.getfixturevalue("later")
    before = tree("site")
    with closing(Catalog.open(Path("cdn-fallback.sqlite"))) as catalog:
        known = list(catalog.ledger.entries())
    code, document = told(capsys, "prune", "--dry-run")
    assert code == 0 and document == {"prune": {"deletes": 1, "waiting": 1, "new": ["photo.jpg"]}}
    assert tree("site") == before
    with closing(Catalog.open(Path("cdn-fallback.sqlite"))) as catalog:
        assert list(catalog.ledger.entries()) == known


def test_many_strangers_are_told_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(103):
        Path(f"site/x{number}").write_bytes(b"")
    err = mirror(capsys, "prune", "--dry-run")[2]
    assert err.count("\n") == 101 and err.endswith("and 3 more; --json tells them all\n")
