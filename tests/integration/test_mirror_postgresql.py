"""The source of docs/sources.md over a real PostgreSQL: built wheel, real environment, real `mirror run`s."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.rig.dists import Dist, sdist, wheel
from tests.rig.pips import PROJECT, PipEnv, Result, built_wheel, checked, locked

EXAMPLE = PROJECT / "docs" / "examples" / "postgresql_source"
PATIENCE = 30.0  # s
ONE, TWO = wheel("demo-one", "1.0"), wheel("demo-one", "2.0", requires_python=">=3.8")
OLD = sdist("demo-two", "1.0")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server of its own, on a socket in `folder`; what it was asked goes into its log."""

    folder: Path

    @property
    def dsn(self) -> str:
        return f"host={self.folder} user=rig dbname=postgres"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def sql(self, *arguments: str) -> str:
        """psql with these arguments."""
        command = (str(_binary("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn, *arguments)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def do(self, statement: str) -> None:
        self.sql("-c", statement)

    def add(self, dist: Dist, packages: Path, path: str = "") -> None:
        """The file into the folder, its row into the table; its project is there."""
        path = path or f"{dist.project}/{dist.filename}"
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).write_bytes(dist.content)
        metadata = f"encode(sha256($${dist.metadata.decode()}$$::bytea), 'hex')" if dist.metadata else "NULL"
        python = f"'{dist.requires_python}'" if dist.requires_python else "NULL"
        self.do(
            "INSERT INTO file (filename, project, path, sha256, size, uploaded, requires_python, metadata_sha256) "
            f"VALUES ('{dist.filename}', '{dist.project}', '{path}', '{dist.sha256}', {len(dist.content)}, "
            f"'2024-01-31 13:00:00.25+01', {python}, {metadata})"
        )


@dataclass(frozen=True, slots=True)
class Mirror:
    """A configured mirror of that database."""

    env: PipEnv
    postgres: Postgres
    folder: Path

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    def run(self, *options: str) -> tuple[Result, dict[str, Any], list[str]]:
        """`cdn-fallback mirror run`: how it ended, what it told, and the projects that the database was asked for."""
        before = len(self.postgres.log)
        command = ("-m", "cdn_fallback", "mirror", "run", "--json", "--config", str(self.folder / "mirror.toml"))
        result = self.env.execute(*command, *options)
        said = re.findall(r"(?m)^cdn-fallback\|DETAIL:  parameters: \$1 = '(.+)'$", self.postgres.log[before:])
        return result, json.loads(result.stdout or "{}"), said

    def page(self, project: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.site / "simple" / project / "index.json").read_text())
        return found

    def listed(self) -> dict[str, int]:
        page = json.loads((self.site / "simple" / "index.json").read_text())
        return {project["name"]: project["_last-serial"] for project in page["projects"]}


@pytest.fixture
def mirror(newest_pip: PipEnv, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    env = _environment(newest_pip.pip_version, tmp_path_factory)
    with _server() as postgres:
        postgres.sql("-f", str(EXAMPLE / "schema.sql"))
        (tmp_path / "packages").mkdir()
        (tmp_path / "mirror.toml").write_text(
            f"""\
[source]
type = "postgresql"
dsn = "{postgres.dsn}"
files = "packages"
[store]
url = "{(tmp_path / "site").as_uri()}"
[publish]
base = "https://pypi.python.org/"
"""
        )
        yield Mirror(env, postgres, tmp_path)


def test_the_site_follows_the_table_and_only_what_has_changed_is_asked_for(mirror: Mirror) -> None:
    postgres, packages = mirror.postgres, mirror.packages
    postgres.do("INSERT INTO project VALUES ('demo-one', 'demo-one'), ('demo-two', 'Demo.Two')")
    for dist in (ONE, TWO, OLD):
        postgres.add(dist, packages)

    result, _, asked = mirror.run()
    assert result.code == 0, result.output
    assert sorted(asked) == ["demo-one", "demo-two"]
    assert mirror.listed() == {"demo-one": 4, "Demo.Two": 5}
    page = mirror.page("demo-one")
    assert page["versions"] == ["1.0", "2.0"]
    assert page["meta"]["_last-serial"] == mirror.listed()["demo-one"]
    first, second = page["files"]
    assert first["url"] == f"../../packages/demo-one/{ONE.filename}"
    assert first["hashes"] == {"sha256": ONE.sha256} and first["size"] == len(ONE.content)
    assert first["upload-time"] == "2024-01-31T12:00:00.250000Z"
    assert "requires-python" not in first and second["requires-python"] == ">=3.8"
    assert (mirror.site / "packages" / "demo-one" / ONE.filename).read_bytes() == ONE.content
    assert (mirror.site / "packages" / "demo-one" / f"{ONE.filename}.metadata").read_bytes() == ONE.metadata
    assert _installs(mirror, "demo-one") == "2.0"

    # nothing new: one question, no object
    before = _objects(mirror.site)
    result, told, asked = mirror.run()
    assert result.code == 0 and asked == []
    assert told["sync"]["asked"] == told["publish"]["puts"] == told["publish"]["deletes"] == 0
    assert _objects(mirror.site) == before

    # a yank: one project, and the pages that show it
    postgres.do(f"UPDATE file SET yanked = 'breaks <everything>' WHERE filename = '{TWO.filename}'")
    result, told, asked = mirror.run()
    assert result.code == 0 and asked == ["demo-one"]
    assert mirror.page("demo-one")["files"][1]["yanked"] == "breaks <everything>"
    changed = {key.removesuffix(".gz") for key, state in _objects(mirror.site).items() if before.get(key) != state}
    pages = {f"simple/demo-one/index.{kind}" for kind in ("html", "json")} | {"pypi/demo-one/json"}
    assert changed - {"last-modified"} == pages | {"simple/index.html", "simple/index.json"}
    assert _installs(mirror, "demo-one") == "1.0"

    # a new project, and one that is archived
    postgres.do("INSERT INTO project VALUES ('demo-new', 'demo-new')")
    postgres.add(wheel("demo-new"), packages)
    postgres.do("UPDATE project SET status = 'archived', status_reason = 'see demo-new' WHERE name = 'demo-two'")
    result, told, asked = mirror.run()
    assert result.code == 0 and sorted(asked) == ["demo-new", "demo-two"]
    assert mirror.page("demo-two")["project-status"] == {"status": "archived", "reason": "see demo-new"}
    assert _installs(mirror, "demo-new") == "1.0"

    # a file goes, then a project; caches may still have pages that link to their files
    postgres.do(f"DELETE FROM file WHERE filename = '{ONE.filename}'")
    result, told, asked = mirror.run()
    assert result.code == 0 and asked == ["demo-one"]
    assert [file["filename"] for file in mirror.page("demo-one")["files"]] == [TWO.filename]
    postgres.do("DELETE FROM project WHERE name = 'demo-one'")
    result, told, asked = mirror.run()
    assert result.code == 0 and asked == [] and told["sync"]["removed"] == 1
    assert mirror.listed().keys() == {"Demo.Two", "demo-new"}
    assert not (mirror.site / "simple" / "demo-one").exists()
    assert (mirror.site / "packages" / "demo-one" / TWO.filename).exists()


def test_what_cannot_be_published_or_read_is_told_and_the_rest_goes_on(mirror: Mirror) -> None:
    postgres, packages = mirror.postgres, mirror.packages
    postgres.do("INSERT INTO project VALUES ('demo-one', 'demo-one'), ('demo-two', 'Demo.Two')")
    postgres.add(ONE, packages)
    postgres.add(OLD, packages)
    postgres.do(f"UPDATE file SET filename = '../{ONE.filename}' WHERE filename = '{ONE.filename}'")
    (packages / "demo-two" / OLD.filename).write_bytes(b"cut")

    result, told, _ = mirror.run()
    assert result.code == 3, result.output
    assert [one["what"] for one in told["sync"]["rejected"]] == [f"../{ONE.filename}"]
    assert [one["project"] for one in told["publish"]["held"]] == ["demo-two"]
    assert mirror.page("demo-one")["files"] == []
    assert mirror.listed().keys() == {"demo-one"}

    # the missing bytes come: the project that was held is published, though nothing changed in the table
    (packages / "demo-two" / OLD.filename).write_bytes(OLD.content)
    result, _, asked = mirror.run()
    assert result.code == 0 and asked == []
    assert _installs(mirror, "demo-two") == "1.0"


def test_a_database_that_is_down_or_restored_takes_nothing_away(mirror: Mirror) -> None:
    postgres, packages = mirror.postgres, mirror.packages
    postgres.do("INSERT INTO project VALUES ('demo-one', 'demo-one')")
    postgres.add(ONE, packages)
    assert mirror.run()[0].code == 0
    before = _objects(mirror.site)

    postgres.do("UPDATE change SET serial = 1")
    result, _, _ = mirror.run()
    assert result.code == 1 and "went back from 2 to 1" in result.stderr
    assert _objects(mirror.site) == before

    # what the error says to do
    (remedy,) = re.findall("count on: (.*)", result.stderr)
    for statement in remedy.split("; "):
        postgres.do(statement)
    result, _, asked = mirror.run()
    assert result.code == 0 and asked == ["demo-one"]
    assert mirror.listed() == {"demo-one": 4}

    before = _objects(mirror.site)
    config = mirror.folder / "mirror.toml"
    config.write_text(config.read_text().replace(f"host={postgres.folder}", f"host={mirror.folder}"))
    result, _, _ = mirror.run()
    assert result.code == 1 and "nothing was taken from it" in result.stderr
    assert _objects(mirror.site) == before

    config.write_text(config.read_text().replace("dsn = ", 'dsn = "password=secret" # '))
    result, _, _ = mirror.run()
    assert result.code == 2 and "~/.pgpass" in result.stderr and "secret" not in result.output


def _installs(mirror: Mirror, project: str) -> str:
    """The version that pip takes from the site, read as a folder."""
    with tempfile.TemporaryDirectory(dir=mirror.folder) as target:
        index = f"{mirror.site.as_uri()}/simple/"
        options = ("--no-cache-dir", "--no-deps", "--no-build-isolation", "--dest", target)
        result = mirror.env.run("download", "--index-url", index, *options, project)
        assert result.code == 0, result.output
        (found,) = os.listdir(target)
        return re.split("[-]", found.removesuffix(".tar.gz"))[1]


def _objects(site: Path) -> dict[str, tuple[int, int]]:
    """Key -> what changes whenever the object is put again."""
    files = [path for path in site.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(site)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _environment(pip: str, tmp_path_factory: pytest.TempPathFactory) -> PipEnv:
    """The wheel with its extra, the example and psycopg, from the machine's index; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "postgresql-source"
    with locked(folder.with_suffix(".lock")):
        if not folder.with_suffix(".ready").exists():
            env = PipEnv.create(folder, sys.executable, pip)
            source = shutil.copytree(EXAMPLE, folder / "source")  # a build leaves folders behind
            wanted = (f"cdn-fallback[mirror] @ {built_wheel().as_uri()}", str(source), "psycopg[binary]")
            # as the tests' own environment was made, and without the tree under test on its path
            machine = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            checked(str(env.python), "-m", "pip", "install", "--quiet", *wanted, env=machine)
            folder.with_suffix(".ready").touch()
    return PipEnv(folder, pip)


@contextmanager
def _server() -> Iterator[Postgres]:
    """A PostgreSQL without TCP. It refuses to run as root: then it is the user `postgres` that runs it."""
    # not in pytest's folder: that is its user's alone, and its path may be too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="rig-postgresql-"))
    user = "postgres" if os.geteuid() == 0 else None
    try:
        if user:
            shutil.chown(folder, user, user)
        made = (str(_binary("initdb")), "-D", str(folder / "data"), "-U", "rig", "-E", "UTF8")
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        done = subprocess.run(
            (*made, "--no-locale", "--auth=trust", "--no-sync"), cwd="/", capture_output=True, text=True, **as_user
        )
        assert done.returncode == 0, done.stderr
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "log_statement": "all",
            "log_line_prefix": "%a|",
        }
        options = [f"--{key}={value}" for key, value in settings.items()]
        with (folder / "log").open("wb") as log:
            command = (str(_binary("postgres")), "-D", str(folder / "data"), *options)
            process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_user)
        try:
            postgres = Postgres(folder)
            _wait(process, postgres)
            yield postgres
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, with its children
            process.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)


def _wait(process: subprocess.Popen[bytes], postgres: Postgres) -> None:
    end = time.monotonic() + PATIENCE
    while subprocess.run((str(_binary("pg_isready")), "-q", "-d", postgres.dsn)).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL does not accept connections: {postgres.log}")
        time.sleep(0.05)


def _binary(name: str) -> Path:
    """Where Debian has PostgreSQL's programs, or PATH. FileNotFoundError names the package."""
    found = [path for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}") if path.parts[4].isdigit()]
    if found:
        return max(found, key=lambda path: int(path.parts[4]))
    other = shutil.which(name)
    if other is None:
        raise FileNotFoundError(f"{name} not found: install the Debian package postgresql")
    return Path(other)
