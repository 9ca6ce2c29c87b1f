"""What the demo shows, and what it takes for a failure; that it works is shown by `make demo` itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import __main__ as demo
from demo import buildout_chapter
from demo.buildout_chapter import BASE, BOOK, CACHE, HANDBOOK, Buildout
from demo.chapter import Chapter, Install, Scenario, nothing, table
from demo.pip_chapter import Pip
from demo.runs import Narrator, Run, watched
from demo.servers import Content, Pool, Servers
from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.messages import Request
from tests.rig.pips import PipEnv
from tests.rig.sample import SITE, B
from tests.rig.tls import Authority

# --- what is told of a run ---


def told(*lines: str) -> list[str]:
    written: list[str] = []
    narrator = Narrator(written.append)
    for line in lines:
        narrator.tell(1.0, line)
    narrator.end(2.0)
    return [line.strip() for line in written]


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


def run_of(script: str, folder: Path, **options: Any) -> Run:
    def worth(line: str) -> str | None:
        return line if line.startswith("Error") else None

    return watched(("sh", "-c", script), os.environ, folder, worth, narrator=Narrator(lambda line: None), **options)


def test_a_run_is_told_by_what_is_worth_it(tmp_path: Path) -> None:
    run = run_of("echo Error: one; echo two; echo Error: three >&2; exit 3", tmp_path)

    assert (run.code, run.stopped) == (3, False)
    assert run.told == ["Error: one", "Error: three"]
    assert run.output == ["Error: one", "two", "Error: three"]


def test_a_run_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    run = run_of("sleep 300 & sleep 300", tmp_path, patience=0.1)

    assert run.stopped
    assert run.seconds < 60


# --- the two tools ---


@dataclasses.dataclass(frozen=True)
class NoServers(Pool):
    """A pool of which nothing runs."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Servers]:
        yield Servers(self, contextlib.ExitStack())


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    addresses = {"redirector1": "127.0.0.11", "cdn2": "127.0.0.22", "origin": "127.0.0.31"}
    environment = {"PIP_CERT": str(tmp_path / "ca.pem")}
    return NoServers(tmp_path, Content(SITE, {BASE: b"[buildout]\n"}), 8443, addresses, Authority(), environment)


@pytest.fixture
def buildout(pool: Pool, tmp_path: Path) -> Buildout:
    return Buildout(BuildoutEnv.at(tmp_path / "env", demo.BUILDOUT), pool, (B,))


FAILOVER = "cdn https://cdn.example.net:8443/ (127.0.0.22) answered 503, falling back to origin https://origin.example.org:8443/"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"cdn_fallback: {FAILOVER}", "cdn2 answered 503, falling back to origin"),
        ("Error: Couldn't find a distribution for 'x'.", "Error: Couldn't find a distribution for 'x'."),
        ("root: Download error on https://pypi.python.org:8443/: no", "root: Download error on redirector/: no"),
        ("root: Downloading https://pypi.python.org:8443/packages/x.whl", None),
        ("Installing eggs.", None),
    ],
)
def test_what_is_told_of_a_buildout(line: str, said: str | None, buildout: Buildout) -> None:
    assert buildout.worth(line) == said


def test_what_is_told_of_a_pip(pool: Pool, tmp_path: Path) -> None:
    pip = Pip(PipEnv(tmp_path, "0"), pool, (B,))

    assert pip.worth(f"WARNING: {FAILOVER}") == "WARNING: cdn2 answered 503, falling back to origin"
    assert pip.worth(f"cdn-fallback: {FAILOVER} [answer]") == "cdn2 answered 503, falling back to origin"
    assert pip.worth("Collecting requests") is None


def test_the_pool_has_what_the_buildout_extends_and_its_index(pool: Pool) -> None:
    assert pool.content.answer(Request("GET", BASE)).body == b"[buildout]\n"
    assert pool.content.answer(Request("GET", "/simple/")).status == 200
    assert pool.content.answer(Request("GET", "/absent.cfg")).status == 404


def built(buildout: Buildout, folder: Path) -> Checkout:
    """A checkout as a buildout leaves it where all went well."""
    folder.mkdir()
    checkout = buildout.checkout(folder)
    for name, content in B.payload().items():
        path = folder / "eggs" / "v5" / "demo_b-1.0-py3.egg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "handbook.bin").write_bytes(BOOK)
    (folder / CACHE / "dist").mkdir()
    (folder / CACHE / "dist" / B.filename).write_bytes(B.content)
    (folder / CACHE / cached_as(buildout)).write_bytes(BOOK)
    return checkout


def cached_as(buildout: Buildout) -> str:
    return buildout_chapter._md5(f"{buildout.pool.base('redirector')}{HANDBOOK[1:]}".encode())


def test_a_buildout_is_right_where_each_byte_is_as_it_was_served(buildout: Buildout, tmp_path: Path) -> None:
    assert buildout.wrong(built(buildout, tmp_path / "checkout")) == []


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

    assert buildout.wrong(checkout) == [said]


def test_a_part_that_was_left_in_the_download_cache_is_named(buildout: Buildout, tmp_path: Path) -> None:
    checkout = built(buildout, tmp_path / "checkout")
    name = f"{CACHE}/dist/{B.filename}.7.part"
    (checkout.folder / name).write_bytes(B.content[:100])

    assert buildout.wrong(checkout) == [name]


# --- a chapter ---


class Scripted:
    """A tool whose runs with cdn-fallback end as they are told; plain ones fail."""

    name, whole, note = "tool", "all", "a note"

    def __init__(self, *installs: Install) -> None:
        self.installs = iter(installs)

    def command(self, *, plain: bool) -> str:
        return "tool install"

    def install(self, folder: Path, home: Path, *, plain: bool) -> Install:
        return ended(code=1) if plain else next(self.installs)


def ended(code: int = 0, *wrong: str, told: str = "") -> Install:
    return Install(Run(code, 1.0, told.split(), ["last words"]), list(wrong))


def played(pool: Pool, *installs: Install, tries: int = 1) -> Chapter:
    folder = Path(tempfile.mkdtemp(dir=pool.folder))
    chapter = Chapter(folder, pool, Scripted(*installs))
    chapter.play(Scenario("it rains", nothing, lambda seen: seen.run.told == ["rain"], tries))
    return chapter


def test_a_scenario_that_went_as_told_is_a_line_of_the_table(pool: Pool) -> None:
    chapter = played(pool, ended(told="rain"))

    assert chapter.problems == []
    assert chapter.rows == [("it rains", "failed (1)   1.0 s", "installed    1.0 s", "nobody")]


@pytest.mark.parametrize(
    ("install", "problem"),
    [
        (ended(1, "not there"), "it rains: with cdn-fallback: failed (1) 1.0 s"),
        (ended(-9, told="rain"), "it rains: with cdn-fallback: stopped 1.0 s"),
        (ended(0, "idna", "half.whl", told="rain"), "it rains: with cdn-fallback: bytes differ 1.0 s: idna, half.whl"),
        (ended(told="sun"), "it rains: the run with cdn-fallback was not as told"),
    ],
    ids=["failed", "stopped", "bytes", "not-as-told"],
)
def test_what_is_a_problem(install: Install, problem: str, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert played(pool, install).problems == [problem]
    assert "    | last words" in capsys.readouterr().out


def test_what_hangs_on_chance_is_tried_again(pool: Pool) -> None:
    assert played(pool, ended(told="sun"), ended(told="rain"), tries=2).problems == []
    assert len(played(pool, ended(told="sun"), ended(told="sun"), tries=2).problems) == 1


@pytest.mark.parametrize(("told", "code"), [("rain", 0), ("sun", 1)])
def test_the_demo_fails_where_there_was_a_problem(
    told: str, code: int, pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = contextlib.nullcontext(pool.folder)
    monkeypatch.setattr(demo, "scratch", lambda: folders)
    monkeypatch.setattr(demo, "chapters", lambda folder: iter([played(pool, ended(told=told))]))

    assert demo.story() == code
    shown = capsys.readouterr().out
    assert "it rains  failed (1)   1.0 s  installed    1.0 s  nobody" in shown and "* a note" in shown
    assert ("PROBLEM: tool: it rains" in shown) == bool(code)


def test_the_table_is_aligned() -> None:
    assert table("pip", [("all is well", "installed 0.9 s", "installed 1.0 s", "all: cdn1")]).splitlines() == [
        "scenario     plain pip *      with cdn-fallback  who served",
        "-----------  ---------------  -----------------  ----------",
        "all is well  installed 0.9 s  installed 1.0 s    all: cdn1",
    ]


# --- who served ---


class Asked:
    """A server that got these requests."""

    def __init__(self, *requests: tuple[str, int, str]) -> None:
        self.requests = [Request("GET", path, status=status, fault=fault) for path, status, fault in requests]


@pytest.mark.parametrize(
    ("cdn1", "origin", "said"),
    [
        ([(BASE, 200, ""), ("/simple/x/", 200, ""), (HANDBOOK, 200, "")], [], "all: cdn1"),
        ([("/simple/x/", 200, "")], [(HANDBOOK, 200, "")], "pages: cdn1; files: origin"),
        (
            [(BASE, 200, ""), ("/simple/x/", 200, ""), (HANDBOOK, 200, "Truncate")],
            [(HANDBOOK, 206, "")],
            "extends + pages: cdn1; files: cdn1 (halves) + origin (the rest)",
        ),
        ([(BASE, 503, "Status")], [], "nobody"),
    ],
)
def test_who_served(cdn1: Any, origin: Any, said: str, pool: Pool) -> None:
    servers: Any = Servers(pool, contextlib.ExitStack())
    servers.static = {"cdn1": Asked(*cdn1), "origin": Asked(*origin)}

    assert servers.who_served() == said
