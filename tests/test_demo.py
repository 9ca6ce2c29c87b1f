"""What the demo shows, and what it takes for a failure; that it works is shown by `make demo` itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from demo import __main__ as demo
from demo.runs import Command, Narrator, Run, watched
from demo.scenarios import (
    NEWS,
    Scenario,
    Seen,
    extends_at_origin,
    found_at_origin,
    knocked,
    learnt,
    nothing,
    quiet,
    refused,
)  # fmt: skip
from demo.stage import Stage, table, who_served
from demo.tools import BASE, BOOK, CACHE, HANDBOOK, Buildout, Pip, Place, Tool, files_beside
from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.installing import Client
from tests.rig.picture import EDGES
from tests.rig.sample import A, B
from tests.rig.scene import Scene

# --- what is told of a run ---


def told(*lines: str) -> list[str]:
    written: list[str] = []
    narrator = Narrator("pip", written.append)
    for line in lines:
        narrator.tell(1.0, line)
    narrator.end(2.0)
    return [line.removeprefix("    pip ").strip() for line in written]


def test_a_redirect_stands_on_one_line_with_what_came_of_it() -> None:
    redirect = "redirector2 redirects to cdn/simple/idna/ after 0.01 s"
    assert told(redirect, "cdn1 answered 503 after 0.02 s [transient]", "origin answered 200 after 0.00 s") == [
        "1.0  /simple/idna/: redirector2 redirects to cdn; cdn1 answered 503 after 0.02 s [transient]",
        "1.0  origin answered 200 after 0.00 s",
    ]


def test_a_redirect_of_which_nothing_came_is_told_at_the_end() -> None:
    redirect = "redirector2 redirects to cdn/simple/idna/ after 0.01 s"
    assert told(redirect) == ["2.0  /simple/idna/: redirector2 redirects to cdn"]


def test_a_line_ends_at_the_edge_of_the_screen() -> None:
    assert told("x" * 500)[0].endswith("xxx...")


def test_of_answers_in_a_row_there_is_the_first_and_a_number() -> None:
    answer = "edge1 answered 200 after 0.01 s"
    assert told(answer, answer, answer, "edge2 answered 200 after 0.02 s", answer) == [
        "1.0  edge1 answered 200 after 0.01 s",
        "1.0  edge1 gave 2 more",
        "1.0  edge2 answered 200 after 0.02 s",
        "1.0  edge1 answered 200 after 0.01 s",
    ]


def command(script: str, folder: Path, patience: float = 60.0) -> Command:
    def worth(line: str) -> str | None:
        return line if line.startswith("Error") else None

    return Command("sh", ("sh", "-c", script), os.environ, folder, worth, patience)


def silently(*commands: Command) -> list[Run]:
    return watched(*commands, write=lambda line: None)


def test_a_run_is_told_by_what_is_worth_it(tmp_path: Path) -> None:
    (run,) = silently(command("echo Error: one; echo two; echo Error: three >&2; exit 3", tmp_path))

    assert (run.code, run.stopped) == (3, False)
    assert run.told == ["Error: one", "Error: three"]
    assert run.output == ["Error: one", "two", "Error: three"]


def test_runs_go_on_at_the_same_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    runs = silently(command("echo Error >pipe", tmp_path), command("cat pipe", tmp_path))

    assert [run.told for run in runs] == [[], ["Error"]]


def test_a_run_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    slow, quick = silently(command("sleep 60 & sleep 60", tmp_path, patience=0.1), command("true", tmp_path))

    assert (slow.stopped, quick.stopped) == (True, False)
    assert slow.seconds < 30


# --- the end ---

STORY = """
import subprocess, sys, time
from demo import __main__ as demo

def played(folder):
    print(folder)
    (folder / "file").touch()
    # a child whose parent has ended, in a session of its own
    subprocess.run(["sh", "-c", "setsid sleep 300 & echo $!"])
    {then}

demo.played = played
sys.exit(demo.main())
"""


@pytest.mark.parametrize(
    ("then", "by", "code"),
    [("time.sleep(300)", "TERM", 130), ("time.sleep(300)", "INT", 130), ("raise RuntimeError('rain')", "", 2)],
)
def test_nothing_is_left_running_or_lying_about(then: str, by: str, code: int) -> None:
    process = subprocess.Popen(
        (sys.executable, "-c", STORY.format(then=then)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder, orphan = Path(process.stdout.readline().strip()), int(process.stdout.readline())
    if by:
        process.send_signal(getattr(signal, f"SIG{by}"))
    said = process.communicate(timeout=30)

    assert process.returncode == code, said
    assert ("demo: rain" in said[1]) == (not by)
    assert not folder.exists()
    assert not Path(f"/proc/{orphan}").exists()


# --- the two tools ---

ADDRESSES = {"redirector1": "127.0.0.11", "edge2": "127.0.0.22", "origin": "127.0.0.31"}
FAILOVER = (
    "cdn https://cdn.example.net:8443/ (127.0.0.22) answered 503, falling back to origin "
    "https://origin.example.org:8443/"
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    scene = Scene(tmp_path, "https", 8443, {}, {}, None, tmp_path / "ca.pem")
    return Place(BuildoutEnv.at(tmp_path / "env", demo.BUILDOUT), Client(scene), ADDRESSES)


@pytest.fixture
def buildout(place: Place) -> Buildout:
    return Buildout(place, (B.project,), (B,))


@pytest.fixture
def pip(place: Place) -> Pip:
    return Pip(place, (A.project,), (A,))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"cdn_fallback: {FAILOVER}", "edge2 answered 503, falling back to origin"),
        ("Error: Couldn't find a distribution for 'x'.", "Error: Couldn't find a distribution for 'x'."),
        ("root: Download error on https://pypi.python.org:8443/: no", "root: Download error on redirector/: no"),
        ("root: Downloading https://pypi.python.org:8443/packages/x.whl", None),
        ("Installing eggs.", None),
    ],
)
def test_what_is_told_of_a_buildout(line: str, said: str | None, buildout: Buildout) -> None:
    assert buildout.worth(line) == said


def test_what_is_told_of_a_pip(pip: Pip) -> None:
    assert pip.worth(f"WARNING: {FAILOVER}") == "WARNING: edge2 answered 503, falling back to origin"
    assert pip.worth(f"cdn-fallback: {FAILOVER} [answer]") == "edge2 answered 503, falling back to origin"
    assert pip.worth("Collecting requests") is None


@pytest.mark.parametrize(("plain", "off"), [(True, "1"), (False, None)])
def test_a_plain_run_is_without_cdn_fallback(plain: bool, off: str | None, tmp_path: Path, pip: Pip) -> None:
    command = pip.command(tmp_path / "target", tmp_path / "home", plain=plain)

    assert command.env.get("CDN_FALLBACK_DISABLE") == off
    assert ("--retries" in command.words) == plain


def test_the_buildout_extends_the_versions_of_its_eggs(buildout: Buildout, tmp_path: Path) -> None:
    text = buildout.checkout(tmp_path / "with").write().read_text()
    without = replace(buildout, extends=False).checkout(tmp_path / "without").write().read_text()

    assert f"extends = https://pypi.python.org:8443{BASE}" in text and "extends = " not in without
    assert files_beside([B]) == {
        "base.cfg": b"[buildout]\nversions = versions\n\n[versions]\ndemo-b = 1.0\n",
        "handbook.bin": BOOK,
    }


def built(buildout: Buildout, folder: Path) -> Checkout:
    """A checkout as a buildout leaves it where all went well."""
    checkout = buildout.checkout(folder)
    for name, content in B.payload().items():
        path = folder / "eggs" / "v5" / "demo_b-1.0-py3.egg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "handbook.bin").write_bytes(BOOK)
    (folder / CACHE / "dist").mkdir()
    (folder / CACHE / "dist" / B.filename).write_bytes(B.content)
    url = f"https://pypi.python.org:8443{HANDBOOK}"
    (folder / CACHE / hashlib.md5(url.encode()).hexdigest()).write_bytes(BOOK)
    return checkout


def test_a_buildout_is_right_where_each_byte_is_as_it_was_served(buildout: Buildout, tmp_path: Path) -> None:
    built(buildout, tmp_path / "checkout")

    assert buildout.wrong(tmp_path / "checkout") == []


@pytest.mark.parametrize("content", [None, BOOK[: len(BOOK) // 2]], ids=["absent", "half"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{CACHE}/dist/{B.filename}", f"{CACHE}/dist/{B.filename}"),
        ("handbook.bin", "handbook.bin"),
        ("eggs/v5/demo_b-1.0-py3.egg/demo_b/__init__.py", B.filename),
    ],
    ids=["cached", "download", "egg"],
)
def test_what_is_wrong_with_a_buildout_is_named(
    path: str, said: str, content: bytes | None, buildout: Buildout, tmp_path: Path
) -> None:
    checkout = built(buildout, tmp_path / "checkout")
    place = checkout.folder / path
    place.unlink()
    if content is not None:
        place.write_bytes(content)

    assert buildout.wrong(checkout.folder) == [said]


def test_a_part_that_was_left_in_the_download_cache_is_named(buildout: Buildout, tmp_path: Path) -> None:
    checkout = built(buildout, tmp_path / "checkout")
    name = f"{CACHE}/dist/{B.filename}.7.part"
    (checkout.folder / name).write_bytes(B.content[:100])

    assert buildout.wrong(checkout.folder) == [name]


# --- who served ---

PAGE_A, PAGE_B = "/simple/demo-a/index.json", "/simple/demo-b/"
FILE_A, FILE_B = f"/packages/{A.filename}", f"/packages/{B.filename}"
NEW = f"/packages/{NEWS['buildout'].filename}"


@pytest.mark.parametrize(
    ("served", "said"),
    [
        ({"edge1": [PAGE_A, FILE_A, PAGE_B, FILE_B, BASE, HANDBOOK]}, "edge1"),
        ({"edge1": [PAGE_A, FILE_A], "edge2": [PAGE_B, FILE_B]}, "pip: edge1; buildout: edge2"),
        (
            {"edge1": [PAGE_A, FILE_A, PAGE_B, FILE_B], "origin": [BASE]},
            "pip: edge1; buildout: edge1 (extends: origin)",
        ),
        ({"edge1": [PAGE_A, PAGE_B, FILE_B], "origin": [NEW]}, "pip: edge1; buildout: edge1 (new: origin)"),
        ({"edge1": [PAGE_A, PAGE_B], "edge2": [PAGE_A, PAGE_B]}, "edge1 + edge2"),
        ({"edge1": ["/simple/", "/robots.txt"]}, "nobody"),
    ],
)
def test_who_served(served: dict[str, list[str]], said: str, pip: Pip, buildout: Buildout) -> None:
    assert who_served([pip, buildout.wanting(NEWS["buildout"])], served) == said


# --- a scenario ---


class Quiet:
    """As much of a picture as a stage needs: what it is told to have served, by whom it is told to have been asked."""

    addresses, port = ADDRESSES, 8443

    def __init__(self, served: dict[str, list[str]], asked: tuple[str, ...], down: tuple[str, ...]) -> None:
        self._served, self._asked = served, asked
        self.down = dict.fromkeys(down, "refuse")
        self.done: list[str] = []

    def served(self, *kinds: str) -> dict[str, list[str]]:
        return self._served

    def requests(self, name: str) -> list[str]:
        return ["/"] if name in self._asked else []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.done.append(name)


@dataclass(frozen=True)
class Scripted(Tool):
    """Runs a shell script; plain it fails. `lacks` is what is not there as it was served."""

    script: str = "echo rain"
    lacks: tuple[str, ...] = ()

    name, ours, complaints = "pip", "", ("Error: ",)

    def worth(self, line: str) -> str | None:
        return line

    def command(self, folder: Path, home: Path, *, plain: bool) -> Command:
        return Command(self.name, ("sh", "-c", "exit 1" if plain else self.script), os.environ, home, self.worth)

    def wrong(self, folder: Path) -> list[str]:
        return list(self.lacks)


def rains(seen: Seen) -> str:
    return "" if seen.runs["pip"].told == ["rain"] else "it did not rain"


def staged(
    place: Place,
    script: str = "echo rain",
    *lacks: str,
    served: str = "edge1",
    asked: tuple[str, ...] = (),
    tries: int = 1,
    **more: Any,
) -> Stage:
    """After one scenario, in which the origin is dead."""
    picture: Any = Quiet({served: [PAGE_A]} if served else {}, asked, ("origin",))
    tool = Scripted(place, (A.project,), (A,), script=script, lacks=lacks)
    stage = Stage(Path(tempfile.mkdtemp(dir=place.scene.folder)), picture, (tool,))
    stage.play(Scenario("it rains", nothing, EDGES, (rains,), tries=tries, **more))
    return stage


def outcomes(stage: Stage) -> list[str]:
    """The cells of its one row, without the seconds."""
    (row,) = stage.rows
    return [re.sub(r" +[\d.]+ s$", "", cell) for cell in row]


def test_a_scenario_that_went_as_told_is_a_line_of_the_table(place: Place) -> None:
    stage = staged(place)

    assert stage.problems == []
    assert outcomes(stage) == ["it rains", "failed", "ok", "edge1"]
    assert outcomes(staged(place, plain=False)) == ["it rains", "", "ok", "edge1"]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"script": "echo rain; exit 1"}, "pip with cdn-fallback: failed"),
        ({"script": "echo rain; kill -9 $$"}, "pip with cdn-fallback: stopped"),
        ({"lacks": ("idna", "half.whl")}, "pip with cdn-fallback: bytes differ"),
        ({"script": "echo sun"}, "it did not rain"),
        ({"asked": ("origin",)}, "origin is dead, and was asked"),
        ({"served": "mirror"}, "mirror was not to serve"),
        ({"served": ""}, "no edge served"),
        ({"works": True}, "plain pip: failed"),
    ],
    ids=lambda how: "-".join(how) if isinstance(how, dict) else "",
)
def test_what_is_a_problem(how: dict[str, Any], problem: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**how}
    stage = staged(place, given.pop("script", "echo rain"), *given.pop("lacks", ()), **given)

    assert stage.problems and stage.problems[0].startswith(f"it rains: {problem}")
    assert "    pip      | " in capsys.readouterr().out


def test_what_hangs_on_chance_is_tried_again(place: Place, tmp_path: Path) -> None:
    second = f"test -e {tmp_path}/seen && echo rain; touch {tmp_path}/seen"

    assert staged(place, second, tries=2).problems == []
    assert len(staged(place, "echo sun", tries=2).problems) == 1


@pytest.mark.parametrize(("script", "code"), [("echo rain", 0), ("echo sun", 1)])
def test_the_demo_fails_where_there_was_a_problem(
    script: str, code: int, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = staged(place, script)
    stage.rows[:] = [("it rains", "failed  0.1 s", "ok 0.2 s", "failed  0.3 s", "ok 0.4 s", "edge1")]
    monkeypatch.setattr(demo, "scratch", lambda: contextlib.nullcontext(place.scene.folder))
    monkeypatch.setattr(demo, "played", lambda folder: stage)

    assert demo.story() == code
    shown = capsys.readouterr().out
    assert "it rains  failed  0.1 s  ok 0.2 s" in shown and "* plain pip has --timeout 3" in shown
    assert ("PROBLEM: it rains: it did not rain" in shown.splitlines()) == bool(code)


def test_the_table_is_aligned() -> None:
    row = ("all is well", "ok 0.9 s", "ok 1.0 s", "", "ok 2.0 s", "edge1")
    assert table([row]).splitlines() == [
        "scenario     plain pip  pip with      plain       buildout with  who served",
        "             *          cdn-fallback  buildout *  cdn-fallback",
        "-----------  ---------  ------------  ----------  -------------  ----------",
        "all is well  ok 0.9 s   ok 1.0 s                  ok 2.0 s       edge1",
    ]


# --- what shows that a scenario was as told ---


def seen(*told: str, served: dict[str, list[str]] | None = None, **sets: set[str]) -> Seen:
    picture: Any = None
    runs = {"pip": Run(told=list(told)), "buildout": Run()}
    return Seen(picture, runs, served or {}, sets.get("knocked", set()), sets.get("known", set()))


REFUSED = "redirector2 did not connect (Connection refused) after 0.00 s [transient]"
STRAY = {"origin": [f"/simple/{NEWS['pip'].project}/", PAGE_A]}


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (quiet(seen("edge1 answered 200 after 0.01 s")), ""),
        (quiet(seen("WARNING: rain")), "something was complained of: WARNING: rain"),
        (knocked(seen(knocked={"edge1"})), ""),
        (knocked(seen()), "nobody asked the dead"),
        (learnt(seen(knocked={"edge1"}, known={"edge2"})), ""),
        (learnt(seen(knocked={"edge1"}, known={"edge1"})), "the dead were asked again"),
        (refused("redirector2")(seen(REFUSED)), ""),
        (refused("redirector1", "redirector2", "edge1")(seen(REFUSED)), "nobody asked redirector1 and edge1"),
        (extends_at_origin(seen(served={"edge1": [PAGE_A], "origin": [BASE]})), ""),
        (extends_at_origin(seen(served={"origin": [BASE, PAGE_A]})), f"{BASE} alone was to come from the origin"),
        (found_at_origin(seen(served={"origin": [NEW], "edge1": [PAGE_A]})), ""),
        (found_at_origin(seen(served=STRAY)), f"the origin was needed for {PAGE_A}"),
    ],
)
def test_what_shows_that_it_was_as_told(problem: str, said: str) -> None:
    assert problem == said
