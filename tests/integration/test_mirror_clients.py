"""Real clients of a published mirror: they read it from a plain folder, from nginx with the configuration that
`mirror init` wrote, and from `mirror serve`; and they agree with the source, file for file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.rig.buildouts import KITS, BuildoutEnv, Checkout
from tests.rig.clients import BANDERSNATCH, PYPI_SIMPLE, UV, Bandersnatch, PyPISimple, Uv, links, make
from tests.rig.dists import Dist, sdist, wheel
from tests.rig.mirrors import (
    MIDDLE,
    NEW,
    OLD,
    Mirror,
    MirrorNginx,
    Serve,
    contents,
    kill,
    make_environment,
    once,
    plain,
    tree,
    until,
)  # fmt: skip
from tests.rig.names import free_port
from tests.rig.pips import PipEnv, Result
from tests.rig.scene import Scene, subnet
from tests.rig.server import Server
from tests.rig.site import HTML, JSON, PLAIN_HTML


class Released(NamedTuple):
    """A file of the source: where it lies, when it was written, and why it was withdrawn, if it was."""

    dist: Dist
    time: str = OLD
    folder: str = ""
    yanked: str | None = None

    @property
    def key(self) -> str:
        return "/".join(filter(None, ("packages", self.folder, self.dist.filename)))


REASON = 'breaks <everything> & "all", it\'s said'
A1, A2 = wheel("demo-a", "1.0"), wheel("demo-a", "2.0", requires=["demo.b>=1"])
B = wheel("Demo_B", padding=100_000, requires_python=">=3.8")
S = sdist("demo-s", build_requires=["demo-b>=1"])
Y1, Y2 = wheel("demo-y", "1.0"), wheel("demo-y", "2.0")
P1, P2 = wheel("demo-p", "1.0", requires_python=">=3.8,<4"), wheel("demo-p", "2.0", requires_python=">=4")
F1 = wheel("Foo.Bar_baz", "1.0")
F2 = replace(sdist("Foo.Bar_baz", "1.1"), filename="Foo.Bar_baz-1.1.tar.gz")  # as it was written before PEP 625
F3 = wheel("Foo.Bar_baz", "2.0+local.1")
PRE = wheel("demo-pre", "1.0rc1")
SOURCE = (
    Released(A1), Released(A2, NEW), Released(B, MIDDLE, "b"), Released(S, folder="b/sdists"),
    Released(Y1), Released(Y2, NEW, yanked=REASON), Released(P1), Released(P2, NEW),
    Released(F1, OLD, "source/F"), Released(F2, MIDDLE, "source/F"), Released(F3, NEW, "source/F"), Released(PRE),
)  # fmt: skip
PROJECTS = sorted({one.dist.project for one in SOURCE})


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: PipEnv) -> None:
    """Other pips and Pythons would see the same."""


@pytest.fixture(scope="session")
def mirror_environment(tmp_path_factory: pytest.TempPathFactory) -> PipEnv:
    return PipEnv(once(tmp_path_factory, "mirror-env", make_environment), "")


@pytest.fixture
def mirror(mirror_environment: PipEnv, tmp_path: Path) -> Mirror:
    """A mirror of an empty folder."""
    return Mirror(mirror_environment, tmp_path / "mirror").init()


@pytest.fixture(scope="session")
def published(mirror_environment: PipEnv, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """The mirror of SOURCE, for all workers: to be read only."""
    return Mirror(
        mirror_environment, once(tmp_path_factory, "published", lambda folder: _publish(mirror_environment, folder))
    )


def _publish(env: PipEnv, folder: Path) -> None:
    made = Mirror(env, folder).init()
    for one in SOURCE:
        made.add(one.dist, folder=one.folder, time=one.time)
        if one.yanked is not None:
            made.yank(one.dist, one.yanked)
    made.run()


@pytest.fixture(scope="session", params=["nginx", "serve", "plain"])
def url(request: pytest.FixtureRequest, published: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of that mirror, from each of the servers; a plain folder has no negotiation, hence HTML alone."""
    if request.param == "nginx":
        with MirrorNginx(published, tmp_path_factory.mktemp("nginx")) as nginx:
            yield nginx.url
            assert nginx.errors == ""
    elif request.param == "serve":
        with Serve(published) as serve:
            yield serve.url
    else:
        with plain(published.site) as server:
            yield server.url


from_servers = functools.partial(pytest.mark.parametrize, "url", indirect=True)


@pytest.fixture(scope="session")
def nginx(published: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorNginx]:
    with MirrorNginx(published, tmp_path_factory.mktemp("nginx")) as made:
        yield made


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Uv:
    return Uv(PipEnv(once(tmp_path_factory, "uv-env", lambda folder: make(folder, UV)), ""))


@pytest.fixture(scope="session")
def bandersnatch(tmp_path_factory: pytest.TempPathFactory) -> Bandersnatch:
    folder = once(tmp_path_factory, "bandersnatch-env", lambda folder: make(folder, BANDERSNATCH))
    return Bandersnatch(PipEnv(folder, ""))


@pytest.fixture(scope="session")
def pypi_simple(tmp_path_factory: pytest.TempPathFactory) -> PyPISimple:
    return PyPISimple(PipEnv(once(tmp_path_factory, "pypi-simple-env", lambda folder: make(folder, PYPI_SIMPLE)), ""))


@dataclass
class Pip:
    """The newest pip, with the index at a URL alone; without us, unless there is a configuration of ours."""

    env: PipEnv

    def __call__(self, command: str, url: str, *arguments: str, **options: Any) -> Result:
        host = re.sub(r"^http://|/$", "", url)
        index = ("--index-url", f"{url}simple/", "--trusted-host", host.partition(":")[0])
        off = {} if "config" in options else {"CDN_FALLBACK_DISABLE": "1"}
        return self.env.run(command, *index, *arguments, env=off, **options)

    def install(self, url: str, target: Path, *what: str, **options: Any) -> Result:
        return self("install", url, "--no-cache-dir", "--target", str(target), *what, **options)


@pytest.fixture
def just_pip(newest_pip: PipEnv) -> Pip:
    return Pip(newest_pip)


def installed(target: Path) -> dict[str, str]:
    """Project -> version of what lies in a --target."""
    found = (path.name.removesuffix(".dist-info").rpartition("-") for path in target.glob("*.dist-info"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in found}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- file for file ---


def test_pip_reads_every_file_as_the_source_has_it(
    url: str, newest_pip: PipEnv, request: pytest.FixtureRequest
) -> None:
    read = links(newest_pip, *(f"{url}simple/{name}/" for name in PROJECTS))

    is_json = request.node.callspec.params["url"] != "plain"
    for name in PROJECTS:
        page = read[f"{url}simple/{name}/"]
        assert page["type"].partition(";")[0] == (JSON if is_json else PLAIN_HTML)
        found = {link["filename"]: link for link in page["links"]}
        wanted = {one.dist.filename: one for one in SOURCE if one.dist.project == name}
        assert found.keys() == wanted.keys()
        for filename, one in wanted.items():
            link, dist = found[filename], one.dist
            assert link["fragment"] == dist.sha256 or link["hashes"] == {"sha256": dist.sha256}
            assert link["requires_python"] == (dist.requires_python or None)
            assert link["yanked"] == one.yanked
            assert link["metadata"] == ({"sha256": sha256(dist.metadata)} if dist.metadata else None)
            assert (link["upload_time"] and moment(link["upload_time"])) == (moment(one.time) if is_json else None)


@from_servers(["nginx", "plain"])
def test_pip_gets_every_file_byte_for_byte(url: str, just_pip: Pip, tmp_path: Path) -> None:
    """Also those that it would not choose: each by its version."""
    downloaded = tmp_path / "downloaded"
    rounds: dict[int, list[str]] = {}
    for name in PROJECTS:
        versions = [one.dist.version for one in SOURCE if one.dist.project == name]
        for number, version in enumerate(versions):
            rounds.setdefault(number, []).append(f"{name}=={version}")
    for what in rounds.values():
        options = ("--no-deps", "--no-build-isolation", "--ignore-requires-python", "--dest", str(downloaded))
        done = just_pip("download", url, *options, *(name for name in what if "demo-s=" not in name))
        assert done.code == 0, done.output
    done = just_pip("download", url, "--no-deps", "--no-cache-dir", "--dest", str(downloaded), "demo-s")
    assert done.code == 0, done.output

    assert {path.name: path.read_bytes() for path in downloaded.iterdir()} == {
        one.dist.filename: one.dist.content for one in SOURCE
    }


def test_pypi_simple_reads_every_page_and_attribute(
    url: str, pypi_simple: PyPISimple, request: pytest.FixtureRequest
) -> None:
    forms = [PLAIN_HTML] if request.node.callspec.params["url"] == "plain" else [JSON, HTML, PLAIN_HTML]
    for form in forms:
        read = pypi_simple.read(f"{url}simple/", form)
        assert read["version"] == "1.4"
        assert sorted(re.sub(r"[-_.]+", "-", name).lower() for name in read["projects"]) == PROJECTS
        assert {"Foo.Bar_baz", "Demo_B"} <= set(read["projects"]), "as their owners write them"
        for display, page in read["pages"].items():
            name = re.sub(r"[-_.]+", "-", display).lower()
            wanted = [one for one in SOURCE if one.dist.project == name]
            assert page["repository_version"] == "1.4"
            found = {file["filename"]: file for file in page["packages"]}
            assert found.keys() == {one.dist.filename for one in wanted}
            for one in wanted:
                _agrees(found[one.dist.filename], one, url, is_json=form == JSON)
            if form == JSON:
                versions = [one.dist.version for one in sorted(wanted, key=lambda one: one.dist.version)]
                assert page["versions"] == versions
                assert int(page["last_serial"]) > 0
        assert read["metadata"] == {
            one.dist.filename: one.dist.metadata.decode() for one in SOURCE if one.dist.metadata
        }


def _agrees(file: dict[str, Any], one: Released, url: str, *, is_json: bool) -> None:
    dist = one.dist
    assert file["url"] == url + one.key.replace("+", "%2B")
    assert file["project"] and file["version"] == dist.version
    assert file["digests"] == {"sha256": dist.sha256}
    assert file["requires_python"] == (dist.requires_python or None)
    assert (file["is_yanked"], file["yanked_reason"]) == (one.yanked is not None, one.yanked)
    assert bool(file["has_metadata"]) == bool(dist.metadata)
    assert file["metadata_digests"] == ({"sha256": sha256(dist.metadata)} if dist.metadata else None)
    assert file["size"] == (len(dist.content) if is_json else None)
    assert (file["upload_time"] and moment(file["upload_time"])) == (moment(one.time) if is_json else None)


def test_uv_locks_every_file_with_hash_size_and_time(nginx: MirrorNginx, uv: Uv, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    needs = ["demo-a", "demo-s", "demo-y", "demo-p", "foo-bar-baz", "demo-pre"]
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "user"\nversion = "1"\nrequires-python = ">=3.10,<4"\ndependencies = {needs!r}\n'
    )

    done = uv(nginx.url, "lock", cwd=project)

    assert done.code == 0, done.output
    lock = (project / "uv.lock").read_text()
    chosen = (A2, B, S, Y1, P1, F3, PRE)
    times = {one.dist: one.time for one in SOURCE}
    for dist in chosen:
        (line,) = (line for line in lock.splitlines() if f"/{dist.filename.replace('+', '%2B')}" in line)
        assert f'hash = "sha256:{dist.sha256}"' in line
        assert f"size = {len(dist.content)}" in line
        assert f'upload-time = "{times[dist].replace("Z", "")}' in line
    for one in SOURCE:
        assert (one.dist.filename.replace("+", "%2B") in lock) == (one.dist in chosen)


@from_servers(["nginx", "serve"])
def test_bandersnatch_mirrors_it_byte_for_byte(
    url: str, published: Mirror, bandersnatch: Bandersnatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    done = bandersnatch(tmp_path, url)

    assert done.code == 0, done.output
    assert not re.search(r"ERROR|WARNING|Traceback|[Ee]xception", done.output), done.output
    web = tmp_path / "mirror" / "web"
    theirs = {f"packages/{key}": body for key, body in contents(web / "packages").items()}
    ours = {key: body for key, body in contents(published.site).items() if key.startswith("packages/")}
    assert theirs == ours
    for name in PROJECTS:
        wanted = [one for one in SOURCE if one.dist.project == name]
        page = json.loads((web / "simple" / name / "index.v1_json").read_bytes())
        found = {file["filename"]: file for file in page["files"]}
        assert found.keys() == {one.dist.filename for one in wanted}
        for one in wanted:
            file = found[one.dist.filename]
            assert file["hashes"] == {"sha256": one.dist.sha256}
            assert file["size"] == len(one.dist.content)
            assert moment(file["upload-time"]) == moment(one.time)
            assert (file["requires-python"] or "") == one.dist.requires_python
            assert bool(file["yanked"]) == (one.yanked is not None)

    again = bandersnatch(tmp_path, url)
    assert again.code == 0 and "0 packages to sync" in again.output, "it takes our serials for what they are"


# --- installing ---


def test_pip_installs(url: str, just_pip: Pip, tmp_path: Path) -> None:
    """With what is needed, by names that nobody would write so, and through a build that needs another project."""
    target = tmp_path / "target"

    done = just_pip.install(url, target, "demo-a", "demo_S", "FOO.bar-Baz", "demo-p", "demo-y")

    assert done.code == 0, done.output
    for dist in (A2, B, S, F3, P1, Y1):
        assert dist.installed_in(target), dist.filename


def test_uv_installs(url: str, uv: Uv, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = uv.install(url, target, "demo-a", "demo_S", "FOO.bar-Baz", "demo-p", "demo-y")

    assert done.code == 0, done.output
    for dist in (A2, B, S, F3, P1, Y1):
        assert dist.installed_in(target), dist.filename


@from_servers(["nginx"])
def test_buildout_installs(url: str, buildout_environment: Callable[[str], BuildoutEnv], tmp_path: Path) -> None:
    host, _, port = re.sub(r"^http://|/$", "", url).partition(":")
    pool = Scene(tmp_path, "http", int(port), {}, {}, None, None, index_host=host)
    checkout = Checkout.of(
        tmp_path / "checkout", pool, "demo-a", "Foo.Bar_baz==1.0", "demo-p", "demo-s", "demo-pre==1.0rc1"
    )
    checkout.extension = False
    newest = max(KITS, key=lambda version: [int(part) for part in version.split(".")])

    # the pips that build an sdist go by their own configuration
    environment = {"PIP_INDEX_URL": f"{url}simple/", "PIP_TRUSTED_HOST": host}
    done = checkout.run(buildout_environment(f"bare-{newest}"), env=environment)

    assert done.code == 0, done.output
    for dist in (A2, B, F1, P1, S, PRE):
        assert checkout.has(dist), (dist.filename, checkout.eggs)


@from_servers(["nginx", "plain"])
def test_a_yanked_release_is_chosen_only_where_it_is_pinned(url: str, just_pip: Pip, uv: Uv, tmp_path: Path) -> None:
    for requirement, version in (("demo-y", "1.0"), ("demo-y==2.0", "2.0")):
        by_pip, by_uv = tmp_path / f"pip-{version}", tmp_path / f"uv-{version}"
        done = just_pip.install(url, by_pip, requirement)
        assert done.code == 0, done.output
        assert installed(by_pip) == {"demo-y": version}
        assert (REASON in done.output) == (version == "2.0")
        done = uv.install(url, by_uv, requirement)
        assert done.code == 0, done.output
        assert installed(by_uv) == {"demo-y": version}
        assert (REASON in done.output) == (version == "2.0")


@pytest.mark.parametrize(
    ("before", "version"), [("2024-06-01T00:00:00Z", "1.0"), ("2025-06-01T00:00:00Z", "1.1"), (None, "2.0+local.1")]
)
def test_dates_choose_the_older_release(
    nginx: MirrorNginx, just_pip: Pip, uv: Uv, tmp_path: Path, before: str | None, version: str
) -> None:
    by_pip = ("--uploaded-prior-to", before) if before else ()
    done = just_pip.install(nginx.url, tmp_path / "pip", "--no-deps", *by_pip, "foo-bar-baz")
    assert done.code == 0, done.output
    assert installed(tmp_path / "pip") == {"foo-bar-baz": version}

    by_uv = ("--exclude-newer", before) if before else ()
    done = uv.install(nginx.url, tmp_path / "uv", *by_uv, "foo-bar-baz")
    assert done.code == 0, done.output
    assert installed(tmp_path / "uv") == installed(tmp_path / "pip")


def test_before_the_first_release_there_is_none(nginx: MirrorNginx, just_pip: Pip, uv: Uv, tmp_path: Path) -> None:
    day = "2023-01-01T00:00:00Z"
    done = just_pip.install(nginx.url, tmp_path / "pip", "--uploaded-prior-to", day, "demo-a")
    assert done.code == 1 and "No matching distribution" in done.output
    done = uv.install(nginx.url, tmp_path / "uv", "--exclude-newer", day, "demo-a")
    assert done.code == 1 and "demo-a" in done.output


def test_resolving_fetches_metadata_and_no_wheel(published: Mirror, just_pip: Pip, uv: Uv, tmp_path: Path) -> None:
    """PEP 658: the metadata files are where both look for them, and have the hashes that are promised."""
    wanted = {f"/packages/{A2.filename}.metadata", f"/packages/b/{B.filename}.metadata"}
    with MirrorNginx(published, tmp_path / "nginx") as nginx:
        done = just_pip.install(nginx.url, tmp_path / "t", "--dry-run", "demo-a")
        assert done.code == 0, done.output
        assert {path for path in nginx.asked() if "/packages/" in path} == wanted

    (tmp_path / "in").write_text("demo-a\n")
    with MirrorNginx(published, tmp_path / "nginx-uv") as nginx:
        done = uv(nginx.url, "pip", "compile", "--generate-hashes", "in", cwd=tmp_path)
        assert done.code == 0, done.output
        assert {path for path in nginx.asked() if "/packages/" in path} == wanted
    assert f"demo-a==2.0 \\\n    --hash=sha256:{A2.sha256}" in done.stdout
    assert f"demo-b==1.0 \\\n    --hash=sha256:{B.sha256}" in done.stdout


def test_a_file_that_was_changed_in_the_published_tree_is_refused(
    mirror: Mirror, just_pip: Pip, uv: Uv, tmp_path: Path
) -> None:
    mirror.add(A1, B)
    mirror.run()
    other = wheel("Demo_B", padding=100_000, requires_python=">=3.8", code="CHANGED = True\n")  # a whole one
    assert other.filename == B.filename
    (mirror.site / "packages" / B.filename).write_bytes(other.content)

    with MirrorNginx(mirror, tmp_path / "nginx") as nginx:
        done = just_pip.install(nginx.url, tmp_path / "pip", "demo-b")
        assert done.code == 1, done.output
        assert "DO NOT MATCH THE HASHES" in done.output and B.sha256 in done.output
        # uv checks what a lock file promises
        (tmp_path / "in").write_text("demo-b\n")
        locked = uv(nginx.url, "pip", "compile", "--generate-hashes", "-o", "locked", "in", cwd=tmp_path)
        assert locked.code == 0, locked.output
        done = uv.install(nginx.url, tmp_path / "uv", "--require-hashes", "-r", "locked")
        assert done.code == 1, done.output
        assert "Hash mismatch" in done.output and B.sha256 in done.output
    assert not (tmp_path / "pip" / "demo_b").exists() and not (tmp_path / "uv" / "demo_b").exists()


# --- a mirror that lives ---


def test_an_update_cycle(mirror: Mirror, just_pip: Pip, uv: Uv, tmp_path: Path) -> None:
    """A release comes, one is yanked, a project goes: clients see it at once, and old pages still lead to files."""
    gone = wheel("demo-gone")
    mirror.add(A1, Y1, gone)
    mirror.add(Y2, time=NEW)
    said = mirror.run()
    assert "3 projects changed" in said and "files: 4 new" in said
    first = tree(mirror.site)

    with MirrorNginx(mirror, tmp_path / "nginx") as nginx:
        assert just_pip.install(nginx.url, tmp_path / "first", "demo-a", "demo-y", "demo-gone").code == 0
        assert installed(tmp_path / "first") == {"demo-a": "1.0", "demo-y": "2.0", "demo-gone": "1.0"}

        assert "nothing new" in mirror.run()
        assert tree(mirror.site) == first, "nothing was written: neither bytes nor times nor inodes differ"

        mirror.add(replace(A2, requires_python=""), B, time=NEW)
        mirror.yank(Y2, REASON)
        (mirror.packages / gone.filename).unlink()
        said = mirror.run()
        assert "1 removed" in said
        second = tree(mirror.site)

        assert just_pip.install(nginx.url, tmp_path / "second", "demo-a", "demo-y").code == 0
        assert installed(tmp_path / "second") == {"demo-a": "2.0", "demo-b": "1.0", "demo-y": "1.0"}
        assert uv.install(nginx.url, tmp_path / "uv", "demo-a", "demo-y").code == 0
        assert installed(tmp_path / "uv") == installed(tmp_path / "second")
        done = just_pip.install(nginx.url, tmp_path / "third", "demo-gone")
        assert done.code == 1 and "No matching distribution" in done.output
        assert uv.install(nginx.url, tmp_path / "t", "demo-gone").code == 1

        link = f"demo-gone @ {nginx.url}packages/{gone.filename}#sha256={gone.sha256}"
        done = just_pip.install(nginx.url, tmp_path / "link", link)
        assert done.code == 0, "who still has the old page finds the file"

    untouched = [key for key in first if "demo-gone" not in key and key.startswith("packages/")]
    assert untouched and all(first[key] == second[key] for key in untouched)
    assert not any(key.startswith(("simple/demo-gone/", "pypi/demo-gone/")) for key in second)
    assert "nothing new" in mirror.run()
    assert tree(mirror.site) == second


def test_two_runs_at_once_are_one(mirror: Mirror, tmp_path: Path) -> None:
    for number in range(150):
        mirror.add(wheel(f"demo-{number}", padding=20_000))
    first = mirror.start("run", said=tmp_path / "said")
    try:
        _wait_for(mirror, first)
        os.kill(first.pid, signal.SIGSTOP)  # it is at work until it may go on
        assert first.poll() is None
        second = mirror("run")
        before = tree(mirror.site)
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60) == 0, (tmp_path / "said").read_text()
    finally:
        kill(first)

    assert second.code == 4, second.output
    assert f"another run is at work (mirror run --config cdn-fallback.toml, process {first.pid} on " in second.stderr
    assert "nothing was done" in second.stderr
    assert second.stdout == ""
    assert len(before) < len(tree(mirror.site))
    assert "nothing new" in mirror.run()


def _wait_for(mirror: Mirror, run: subprocess.Popen[bytes]) -> None:
    """Until this run says that it holds the lock, or has ended."""
    lock = mirror.folder / "cdn-fallback.sqlite.lock"

    def is_at_work() -> bool:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(lock.read_text())["pid"] == run.pid:
                return True
        return run.poll() is not None

    until(is_at_work, "the run takes the lock")


def test_a_publish_that_is_killed_leaves_nothing_dangling_and_is_finished_by_the_next(
    mirror: Mirror, mirror_environment: PipEnv, tmp_path: Path
) -> None:
    """Killed again and again, at any moment; the site ends as that of a mirror that nobody disturbed."""
    undisturbed = Mirror(mirror_environment, tmp_path / "undisturbed").init()
    chance = random.Random(5)

    for number in range(160):
        name = f"demo-{number % 32}"
        mirror.add(wheel(name, f"{number // 32}.0", padding=5_000), folder=name)
    _disturb(mirror, undisturbed, chance)

    for number in range(32):  # some go, the others get another release
        folder = mirror.packages / f"demo-{number}"
        if number % 3 == 0:
            shutil.rmtree(folder)
        else:
            mirror.add(wheel(folder.name, "9.0"), folder=folder.name, time=NEW)
            if number % 3 == 1:
                (folder / f"demo_{number}-0.0-py3-none-any.whl").unlink()
    _disturb(mirror, undisturbed, chance)


def _disturb(mirror: Mirror, undisturbed: Mirror, chance: random.Random) -> None:
    """Publish the same source twice, here at once and there in runs that are killed: the sites are equal at last."""
    shutil.rmtree(undisturbed.packages)
    shutil.copytree(mirror.packages, undisturbed.packages)  # with their times
    before = _inodes(undisturbed.site)
    undisturbed.run("--allow-removals")
    steps = len(before ^ _inodes(undisturbed.site))

    # Each one later than the one before: on a busy machine a run may end while nobody looks, and there is no other.
    kills = sum(_killed(mirror, sorted(chance.randrange(1 + steps * part // 8) for _ in range(4))) for part in range(6))
    assert kills >= 1, "it was too fast to be killed"
    mirror.run("--allow-removals")
    _look_at(mirror.site)
    ours, theirs = contents(mirror.site), contents(undisturbed.site)
    for site in (ours, theirs):
        site.pop("last-modified")  # when it was
    assert ours == theirs
    assert "nothing new" in mirror.run()


def _killed(mirror: Mirror, steps: list[int]) -> bool:
    """A run that is held after so many steps, while a reader looks at the site, and killed after the last of them.

    A step is a file that came or went. Returns whether it could be killed before it ended.
    """
    before = _inodes(mirror.site)
    said = mirror.folder / "said"
    run = mirror.start("run", "--allow-removals", said=said)
    try:
        for step in steps:
            while len(before ^ _inodes(mirror.site)) <= step:
                if run.poll() is not None:
                    assert run.returncode == 0, said.read_text()
                    return False
            os.kill(run.pid, signal.SIGSTOP)
            _look_at(mirror.site)
            os.kill(run.pid, signal.SIGCONT)
        return run.poll() is None
    finally:
        kill(run)
        _look_at(mirror.site)


def _inodes(site: Path) -> set[tuple[str, int]]:
    """What tells one state of a site from another."""
    found = set()
    for folder, _, names in os.walk(site):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.add((f"{folder}/{name}", os.stat(f"{folder}/{name}").st_ino))
    return found


def _look_at(site: Path) -> None:
    """As a reader does: whatever the list and the pages refer to must be there."""
    missing = set()
    for name in _listed(site) | {path.parent.name for path in (site / "simple").glob("*/index.json")}:
        try:
            page = json.loads((site / "simple" / name / "index.json").read_bytes())
        except FileNotFoundError:
            missing.add(name)
            continue
        for file in page["files"]:
            target = (site / "simple" / name / file["url"]).resolve()
            assert target.stat().st_size == file["size"]
            assert target.with_name(f"{target.name}.metadata").is_file()
    # It may have left the list since that was read: then it does not come back.
    assert not missing & _listed(site)


def _listed(site: Path) -> set[str]:
    """The projects in the list; none while there is no list."""
    try:
        return {one["name"] for one in json.loads((site / "simple" / "index.json").read_bytes())["projects"]}
    except FileNotFoundError:
        return set()


# --- our own client in front ---


def test_our_client_goes_on_with_the_origin_when_the_mirror_dies(
    published: Mirror, newest_pip: PipEnv, tmp_path: Path
) -> None:
    """The mirror's paths are the origin's: a file is the same under both, and so it may be had from either."""
    net = subnet()
    port = free_port([f"{net}.9"])
    canonical = f"http://{net}.9:{port}/"  # nobody is there
    with (
        MirrorNginx(published, tmp_path / "nginx") as nginx,
        plain(published.site) as origin,
    ):
        config = tmp_path / "pip.conf"
        config.write_text(f"[cdn-fallback]\nindex = {canonical}\ncdn = {nginx.url}\norigin = {origin.url}\n")
        just_pip = Pip(newest_pip)

        done = just_pip.install(canonical, tmp_path / "first", "demo-a", config=config)
        assert done.code == 0, done.output
        assert A2.installed_in(tmp_path / "first") and B.installed_in(tmp_path / "first")
        assert any(path == f"/packages/{A2.filename}" for path in nginx.asked())
        assert not origin.requests

        nginx.close()
        done = just_pip.install(canonical, tmp_path / "second", "demo-a", "foo-bar-baz", config=config)
        assert done.code == 0, done.output
        for dist in (A2, B, F3):
            assert dist.installed_in(tmp_path / "second")
        assert _files(origin) == {
            f"/packages/{A2.filename}",
            f"/packages/b/{B.filename}",
            f"/packages/source/F/{F3.filename.replace('+', '%2B')}",
        }


def _files(server: Server) -> set[str]:
    """The distributions that were asked for."""
    return {request.path for request in server.requests if request.kind == "file"}
