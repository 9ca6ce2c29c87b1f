"""`cdn-fallback mirror ...`: what is printed, and the exit codes. The mirror itself is tested in tests/mirror."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from cdn_fallback.cli import main, progress
from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.lock import held
from tests.rig.dists import Dist, sdist, wheel

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
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror of a folder with two projects, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packages").mkdir()
    (tmp_path / "cdn-fallback.toml").write_text(CONFIG)
    add(wheel("Some.Thing", "1.0", requires_python=">=3.8"))
    add(sdist("other", "2.0"))
    return tmp_path


def add(dist: Dist | str, content: bytes = b"") -> Path:
    path = Path("packages", dist if isinstance(dist, str) else dist.filename)
    path.write_bytes(content if isinstance(dist, str) else dist.content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def mirror(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr), neither with anything that a terminal would obey."""
    capsys.readouterr()
    code = main(["mirror", *arguments])
    out, err = capsys.readouterr()
    assert not CONTROLS.search(out) and not CONTROLS.search(err)
    return code, out, err


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code, out, err = mirror(capsys, *arguments, "--json")
    assert err == "" and out.isascii()
    return code, json.loads(out)


def test_run_takes_in_and_publishes_and_says_so_in_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = mirror(capsys, "run")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"synced: 2 projects changed, 0 removed \(files: 2 new, 0 changed, 0 removed\); "
        r"published: 22 objects \([0-9.]+ kB\) of 2 projects\n",
        out,
    )
    page = json.loads((folder / "site/simple/some-thing/index.json").read_bytes())
    [file] = page["files"]
    assert (folder / "site/simple/some-thing" / file["url"]).resolve().read_bytes() == wheel(
        "Some.Thing", "1.0", requires_python=">=3.8"
    ).content
    metadata = folder / f"site/packages/{file['filename']}.metadata"
    assert metadata.read_bytes().startswith(b"Metadata-Version") and file["requires-python"] == ">=3.8"
    assert mirror(capsys, "run") == (
        0,
        "synced: 0 projects changed, 0 removed (files: 0 new, 0 changed, 0 removed); published: nothing new\n",
        "",
    )


def test_each_step_by_itself_with_a_plan_in_between(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = mirror(capsys, "plan")
    assert (code, out) == (1, "") and "is not there yet; run `cdn-fallback mirror sync` first" in err
    assert mirror(capsys, "sync")[1] == ("synced: 2 projects changed, 0 removed (files: 2 new, 0 changed, 0 removed)\n")
    code, out, _ = mirror(capsys, "plan")
    assert code == 0 and re.fullmatch(r"would publish: 22 objects \(.* kB\) of 2 projects\n", out)
    assert not (folder / "site").exists()
    code, out, _ = mirror(capsys, "publish")
    assert code == 0 and out.startswith("published: 22 objects")
    assert mirror(capsys, "plan") == (0, "would publish: nothing new\n", "")
    assert mirror(capsys, "plan", "--everything") == (0, "would publish: nothing new\n", "")
    assert mirror(capsys, "publish", "--everything") == (0, "published: nothing new\n", "")


def test_one_goes_back_to_an_earlier_publish_and_forward_again(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert mirror(capsys, "rollback")[0] == 1  # there is no catalog yet
    mirror(capsys, "sync")
    assert mirror(capsys, "rollback")[:2] == (0, "nothing was published yet\n")
    mirror(capsys, "publish")
    (folder / "packages" / "other-2.0.tar.gz").unlink()
    mirror(capsys, "run")
    assert not Path("site/simple/other").exists()
    code, out, _ = mirror(capsys, "rollback")
    assert code == 0 and [line.split("  ", 2)[::2] for line in out.splitlines()] == [
        ["2", "1 projects  is published"],
        ["1", "2 projects"],
    ]

    code, out, _ = mirror(capsys, "rollback", "1")
    assert code == 0 and out.startswith("published: ") and Path("site/simple/other/index.html").exists()
    code, out, err = mirror(capsys, "run")
    assert (code, "nothing new" in out) == (3, True) and "rolled back to generation 1" in err and "--forward" in err
    code, document = told(capsys, "rollback")
    assert [one["number"] for one in document["generations"]] == [3, 2, 1] and document["rolled_back"] == 1

    assert mirror(capsys, "rollback", "--forward")[0] == 0 and not Path("site/simple/other").exists()
    assert mirror(capsys, "run")[::2] == (0, "")
    code, _, err = mirror(capsys, "rollback", "99")
    assert code == 1 and "generation 99: is not kept; there are " in err
    assert mirror(capsys, "rollback", "1", "--forward")[0] == 2


def test_init_for_a_bucket_writes_nothing_for_nginx(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "cdn-fallback.toml").unlink()
    assert mirror(capsys, "init", "--store", "s3://bucket/x")[:2] == (0, "wrote cdn-fallback.toml\n")
    assert 'url = "s3://bucket/x"' in Path("cdn-fallback.toml").read_text() and not list(folder.glob("*.nginx.conf"))


def test_a_plan_for_a_bucket_tells_requests_and_what_they_cost(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """22 puts and the lease, at five dollars for a million; the bucket that nobody asks for lives in memory."""
    (folder / "cdn-fallback.toml").write_text(CONFIG.replace("file:site", 'memory://plan"\nput_price = 5.0\n#'))
    mirror(capsys, "sync")
    assert mirror(capsys, "publish", "--dry-run")[1].endswith(" of 2 projects, in 25 requests, about $0.1250\n")
    code, document = told(capsys, "plan")
    assert code == 0 and (document["plan"]["requests"], document["plan"]["dollars"]) == (25, 0.125)
    assert mirror(capsys, "publish")[1].startswith("published: 22 objects")
    assert mirror(capsys, "plan")[1] == "would publish: nothing new\n"


def test_what_is_still_being_written_is_told_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(add("late-1.0-py3-none-any.whl", b"the beginning of"))
    code, out, err = mirror(capsys, "run")
    assert (code, err) == (0, "") and "1 files still being written are left for the next run" in out
    assert not Path("site/simple/late").exists()


def test_the_same_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    add("broken-1.0-py3-none-any.whl", b"no zip archive")
    code, document = told(capsys, "run")
    assert code == 0 and document.keys() == {"sync", "publish"}
    rejected = document["sync"].pop("rejected")
    assert [(one["project"], one["what"]) for one in rejected] == [("broken", "broken-1.0-py3-none-any.whl")]
    assert document["sync"].pop("changed") >= 2
    sync = {"asked": 3, "removed": 0, "files_added": 2, "files_changed": 0, "files_removed": 0, "failed": []}
    assert document["sync"] == {**sync, "waiting": 0, "static_changed": 0, "static_removed": 0}
    publish = document["publish"]
    assert publish.keys() == {"generation", "projects", "puts", "bytes", "deletes", "doomed", "held", "invalidations"}
    assert (publish["generation"], publish["deletes"], publish["doomed"], publish["held"]) == (1, 0, 0, [])
    assert publish["bytes"] == sum(path.stat().st_size for path in Path("site").rglob("[!.]*") if path.is_file())
    code, document = told(capsys, "plan")
    nothing = {"held": [], "invalidations": [], "requests": 0, "dollars": 0.0}
    assert code == 0 and document["plan"] == dict.fromkeys(publish, 0) | nothing
    assert told(capsys, "sync")[1].keys() == {"sync"} and told(capsys, "publish")[1].keys() == {"publish"}


def test_files_beside_the_index_are_told_too(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    Path("cdn-fallback.toml").write_text(CONFIG + '[[tree]]\npath = "docs"\nprefix = "docs"\n')
    Path("docs").mkdir()
    for name in ("index.html", "bad\x1b[31m\nname"):
        Path("docs", name).write_bytes(b"x")
        os.utime(Path("docs", name), (LONG_AGO, LONG_AGO))
    code, out, err = mirror(capsys, "run")
    assert code == 0 and ", beside the index 1 files changed, 0 removed, 1 not publishable; " in out
    assert err == f"not published: {folder}/docs/bad\\x1b[31m\\nname has a name that is no key\n"
    assert Path("site/docs/index.html").read_bytes() == b"x"


# exit codes


def test_1_a_source_that_cannot_be_read_fails_and_takes_nothing_away(capsys: pytest.CaptureFixture[str]) -> None:
    mirror(capsys, "run")
    Path("packages").rename("not mounted")
    code, out, err = mirror(capsys, "run")
    assert (code, out) == (1, "") and "packages: cannot be listed" in err
    assert Path("site/simple/other/index.html").exists()


def test_1_a_store_that_is_not_ours_fails_and_what_the_sync_found_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("site").mkdir()
    Path("site/photo.jpg").write_bytes(b"")
    code, out, err = mirror(capsys, "run")
    assert code == 1 and out.startswith("synced: 2 projects") and "is not empty and not ours" in err
    assert os.listdir("site") == ["photo.jpg"]


def test_1_a_catalog_of_a_newer_version_fails(capsys: pytest.CaptureFixture[str]) -> None:
    mirror(capsys, "sync")
    catalog = Catalog.open(Path("cdn-fallback.sqlite"))
    catalog._connection.execute("PRAGMA user_version = 99")
    catalog.close()
    code, _, err = mirror(capsys, "run")
    assert code == 1 and "is of version 99" in err


def test_1_a_damaged_catalog_fails_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    mirror(capsys, "sync")
    path = Path("cdn-fallback.sqlite")
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    for command in ("run", "plan"):
        code, _, err = mirror(capsys, command)
        assert code == 1 and "is damaged or no catalog" in err and "restore it from a backup" in err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type = "directory"', 'type = "warehouse"', r"cdn-fallback\.toml: \[source\] type: warehouse is no source"),
        ('path = "packages"', "pth = 1", r"\[source\] "),
        ("file:site", "ftp://bucket", r"\[store\] url: ftp://bucket is no store.*write file:///"),
        ('base = "https', 'base = "x', r"\[publish\] base: .* is no URL of a site; write https://host/"),
        ("[publish]", "[publsh]", r"publsh: is no table of this file"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan", "sync", "publish", "run --every 10m"])
def test_2_a_wrong_configuration_names_file_and_key_and_what_to_do(
    capsys: pytest.CaptureFixture[str], folder: Path, command: str, old: str, new: str, said: str
) -> None:
    Path("cdn-fallback.toml").write_text(CONFIG.replace(old, new))
    code, _, err = mirror(capsys, *command.split())
    assert code == 2 and re.search(said, err) and str(folder / "cdn-fallback.toml") in err
    assert os.listdir(folder / "packages") and not (folder / "site").exists()


def test_2_no_configuration_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = mirror(capsys, "run", "--config", "elsewhere.toml")
    assert code == 2 and "elsewhere.toml: is not there; write one with `cdn-fallback mirror init`" in err


@pytest.mark.parametrize("every", ["10", "0s", "m", "-5m", "1d", "1.5h"])
def test_2_a_time_that_is_none(capsys: pytest.CaptureFixture[str], every: str) -> None:
    code, _, err = mirror(capsys, "run", f"--every={every}")
    assert code == 2 and "is no time; write 30s, 10m or 1h" in err


def test_2_a_command_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror(capsys)[0] == 2
    assert mirror(capsys, "rnu")[0] == 2
    assert mirror(capsys, "plan", "--anew")[0] == 2


def test_3_what_could_not_be_published_is_told_and_left_for_the_next_run(capsys: pytest.CaptureFixture[str]) -> None:
    mirror(capsys, "sync")
    Path("packages/other-2.0.tar.gz").rename("other-2.0.tar.gz")
    code, out, err = mirror(capsys, "publish")
    assert code == 3 and out.endswith(", 1 not published\n")
    assert err.startswith("not published, left as it was: other: ")
    assert Path("site/simple/some-thing/index.html").exists()
    code, document = told(capsys, "publish")
    assert code == 3 and [one["project"] for one in document["publish"]["held"]] == ["other"]
    Path("other-2.0.tar.gz").rename("packages/other-2.0.tar.gz")
    assert mirror(capsys, "run")[0] == 0
    assert Path("site/simple/other/index.html").exists()


def test_4_another_run_is_at_work(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with held(folder / "cdn-fallback.sqlite", "mirror run\x1b[31m", 0):
        for command in ("run", "sync", "publish"):
            code, out, err = mirror(capsys, command)
            assert (code, out) == (4, "")
            assert "another run is at work (mirror run\\x1b[31m, process" in err and "1970-01-01T00:00:00Z" in err
    assert mirror(capsys, "run")[0] == 0


def test_5_too_much_would_be_removed(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        add(sdist(f"p{number}"))
    mirror(capsys, "run")
    for number in range(15):
        Path(f"packages/p{number}-1.0.tar.gz").unlink()
    for command in ("run", "publish"):
        code, out, err = mirror(capsys, command)
        assert code == 5 and "would remove 15 of 22 projects" in err and "--allow-removals" in err
        assert "published" not in out
    assert Path("site/simple/p0/index.html").exists()
    code, out, _ = mirror(capsys, "run", "--allow-removals")
    assert code == 0 and "15 to be deleted when no cache has them" in out
    assert not Path("site/simple/p0").exists() and Path("site/packages/p0-1.0.tar.gz").exists()
    assert mirror(capsys, "run")[0] == 0


def test_a_lost_store_is_filled_anew_on_demand_only(capsys: pytest.CaptureFixture[str]) -> None:
    mirror(capsys, "run")
    Path("site").rename("lost")
    assert mirror(capsys, "run") == (
        0,
        "synced: 0 projects changed, 0 removed (files: 0 new, 0 changed, 0 removed); published: nothing new\n",
        "",
    ), "a cycle with nothing new does not touch the store at all"
    add(sdist("third"))
    code, _, err = mirror(capsys, "run")
    assert code == 1 and "its mark is missing. Is a disk not mounted?" in err and not Path("site").exists()
    assert mirror(capsys, "publish", "--anew")[0] == 0
    assert Path("site/simple/third/index.html").exists() and Path("site/simple/other/index.html").exists()


def test_what_comes_from_outside_is_never_printed_raw(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor may a name make lines of its own that look like ours."""
    add("evil\x1b[31m\nsynced: 9 projects-1.0.tar.gz")
    add("evil\u202e-1.0.tar.gz")
    add(os.fsdecode(b"evil-\xff-1.0.tar.gz"))
    code, out, err = mirror(capsys, "run")
    assert code == 0 and out.count("\n") == 1
    assert err.count("\n") == 3 and all(line.startswith("not published: evil") for line in err.splitlines())
    assert "\\x1b[31m\\nsynced" in err


# again and again


@pytest.fixture
def run_every() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    begun: list[subprocess.Popen[str]] = []

    def run(every: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "cdn_fallback", "mirror", "run", "--every", every]
        begun.append(subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_stops_when_it_is_told_to_and_not_before(
    run_every: Callable[[str], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = run_every("1h")
    assert process.stdout and process.stdout.readline().startswith("synced: 2 projects")
    assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_every_goes_on_after_a_run_that_failed(run_every: Callable[[str], subprocess.Popen[str]]) -> None:
    Path("packages").rename("not mounted")
    process = run_every("1s")
    assert process.stdout and process.stderr
    assert "cannot be listed" in process.stderr.readline()
    Path("not mounted").rename("packages")
    assert process.stdout.readline().startswith("synced: 2 projects")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress() as shown:
        for done in range(3):
            shown("projects", done, 2)
        shown("others", 1, 1)
    assert not CONTROLS.sub("", terminal.getvalue()).strip(" "), "what is done quickly shows none, and leaves nothing"


def test_progress_is_a_line_now_and_then_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    with progress.progress() as shown:
        for done in range(100):
            now[0] += 1
            shown("projects", done, 100)
    assert capsys.readouterr().err.splitlines() == [f"projects: {done} of 100" for done in (29, 59, 89)]


def test_the_commands_leave_no_thread_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    mirror(capsys, "run")
    assert threading.active_count() == before


def test_files_wait_for_the_caches_before_they_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(capsys, "run")
    Path("packages/other-2.0.tar.gz").unlink()
    mirror(capsys, "run")
    assert Path("site/packages/other-2.0.tar.gz").exists()
    now = time.time() + site.STALE + 1
    monkeypatch.setattr(time, "time", lambda: now)
    assert "published: 0 objects (0 bytes) of 0 projects, 1 deleted" in mirror(capsys, "run")[1]
    assert not Path("site/packages/other-2.0.tar.gz").exists()
