"""A slice of a real index, mirrored and installed from: real projects under their real names, and the odd ones.

First the index that pip is configured with on this machine, its pages alone, each compared with what that index
itself says. Then real files, had from it by pip, behind a server of the test's own, whose pages have what is rare in
one place: yanks, provenance, states, unknown keys, thousands of files, none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.parser import BytesParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import pytest
import requests

from tests.rig.clients import UV, Uv, make
from tests.rig.messages import Answer, Request
from tests.rig.mirrors import Folder, Mirror, MirrorNginx, Pages, contents, make_environment, once, plain, tree
from tests.rig.pips import PipEnv, cache_folder, checked, locked
from tests.rig.scene import subnet
from tests.rig.server import Server
from tests.rig.site import JSON

# Pages that the machine's index is asked for. With many files, yanked ones, and names that are not normalised.
ASKED = (
    "Babel", "Brotli", "Flask", "GitPython", "Jinja2", "MarkupSafe", "Pillow", "PyYAML", "Pygments", "SQLAlchemy",
    "Send2Trash", "Sphinx", "Werkzeug", "aiohttp", "attrs", "awscli", "backports.tarfile", "boto3", "certifi", "cffi",
    "charset-normalizer", "click", "cryptography", "django", "docutils", "filelock", "fsspec", "google-api-core",
    "idna", "importlib_metadata", "jaraco.text", "jmespath", "jsonschema", "lxml", "more-itertools", "numpy",
    "packaging", "pip", "platformdirs", "protobuf", "psutil", "pyasn1", "pycparser", "pydantic", "python-dateutil",
    "pytz", "requests", "rich", "rsa", "ruamel.yaml", "s3transfer", "setuptools", "six", "tomli", "typing_extensions",
    "urllib3", "virtualenv", "wheel", "zipp", "zope.interface",
)  # fmt: skip
# Small and pure, with all that they need: had by pip, mirrored with their files, and installed.
WHOLE = (
    "Flask_Bcrypt", "Flask-Login", "PySocks", "StrEnum", "annotated-types", "appdirs", "backports.tarfile", "blinker",
    "cachetools", "click-plugins", "cloudpickle", "colorama", "colorlog", "decorator", "deprecated", "iniconfig",
    "jaraco.classes", "jaraco.context", "jaraco.text", "more-itertools", "packaging", "pluggy", "pytest-mock", "pytest",
    "pygments", "six", "tomli-w", "typing-extensions", "zipp", "autocommand", "jaraco.functools",
)  # fmt: skip
INSTALLED = ("Backports.Tarfile", "colorlog", "jaraco_classes", "pysocks", "pytest-mock", "strenum")
THOUSANDS = 4000


class Kept(NamedTuple):
    """A project of the folder."""

    name: str  # normalised
    files: Mapping[str, str]  # file name -> sha256


class Disk(NamedTuple):
    """A folder with real wheels in files/, and simple/ for them."""

    root: Path

    def project(self, display: str) -> Kept | None:
        """What it has of the project; None for nothing."""
        name = normalised(display)
        paths = [path for path in self.root.glob("files/*.whl") if normalised(path.name.partition("-")[0]) == name]
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
        return Kept(name, found) if found else None

    def path(self, filename: str) -> Path:
        return self.root / "files" / filename

    @classmethod
    def make(cls, folder: Path) -> None:
        """WHOLE, from the machine's index by pip: once, they are kept for the next run."""
        kept = cache_folder() / "slice"
        with locked(cache_folder() / "slice.lock"):
            if missing := [name for name in WHOLE if not _has(kept, name)]:
                quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
                checked(sys.executable, "-m", "pip", "download", *quiet, "--dest", str(kept), *missing)
        shutil.copytree(kept, folder / "files")
        disk = cls(folder)
        for project in filter(None, map(disk.project, WHOLE)):
            links = [
                f'<a href="../../files/{name}#sha256={digest}">{name}</a>' for name, digest in project.files.items()
            ]
            page = folder / "simple" / project.name / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text(f"<!DOCTYPE html><html><body>{' '.join(links)}</body></html>")


def _has(folder: Path, display: str) -> bool:
    names = {normalised(path.name.partition("-")[0]) for path in folder.glob("*.whl")}
    return normalised(display) in names


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: PipEnv) -> None:
    """Other pips and Pythons would see the same."""


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(once(tmp_path_factory, "slice", Disk.make))


@pytest.fixture
def mirror(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Mirror:
    env = PipEnv(once(tmp_path_factory, "mirror-env", make_environment), "")
    return Mirror(env, tmp_path / "mirror").init()


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Uv:
    return Uv(PipEnv(once(tmp_path_factory, "uv-env", lambda folder: make(folder, UV)), ""))


def source(url: str, projects: tuple[str, ...] = (), *, files: bool) -> str:
    lines = ['type = "simple-api"', f'url = "{url}"', f"files = {str(files).lower()}"]
    return "\n".join(lines + ([f"projects = {json.dumps(projects)}"] if projects else []))


def published(mirror: Mirror) -> dict[str, dict[str, Any]]:
    """Every project's page in JSON that the published list has, by normalised name."""
    site = contents(mirror.site)
    names = {normalised(one["name"]) for one in json.loads(site["simple/index.json"])["projects"]}
    assert names == {key.split("/")[1] for key in site if re.fullmatch(r"simple/[a-z0-9-]+/index\.json", key)}
    return {name: json.loads(site[f"simple/{name}/index.json"]) for name in names}


# --- the index that this machine is configured with ---


def configured_index() -> tuple[str, dict[str, str]]:
    """The URL of its project list, and the variables with which this machine's tools trust it."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    default = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    told = re.findall(r"(?m)^\S+\.index-url='(https?://[^']*)'", listed.stdout)
    trust = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
    return (told[-1] if told else default).rstrip("/") + "/", {
        key: os.environ[key] for key in trust if key in os.environ
    }


def asked(index: str, name: str) -> dict[str, Any]:
    """What the index itself says of a project."""
    answer = requests.get(f"{index}{normalised(name)}/", headers={"Accept": JSON}, timeout=60)
    assert answer.status_code == 200, f"{name}: {answer.status_code}"
    page: dict[str, Any] = answer.json()
    return page


def test_sixty_projects_of_the_configured_index_agree_with_it_file_for_file(
    mirror: Mirror, newest_pip: PipEnv, tmp_path: Path
) -> None:
    index, trust = configured_index()
    mirror.source(source(index, ASKED, files=False))
    done = mirror("run", env=trust)
    assert done.code == 0, done.output
    with ThreadPoolExecutor(8) as pool:
        theirs = dict(zip(ASKED, pool.map(lambda name: asked(index, name), ASKED), strict=True))
    done = mirror("run", env=trust)  # what was released meanwhile
    assert done.code == 0, done.output

    pages = published(mirror)
    assert pages.keys() == set(map(normalised, ASKED))
    differ = {name for name in ASKED if not agree(pages[normalised(name)], theirs[name], f"{index}{normalised(name)}/")}
    for name in differ:  # released between the two
        assert agree(pages[normalised(name)], asked(index, name), f"{index}{normalised(name)}/"), name
    files = [file for page in theirs.values() for file in page["files"]]
    assert any(file.get("yanked") for file in files)
    assert max(len(page["files"]) for page in theirs.values()) >= 1000
    assert len(files) > 10_000

    with MirrorNginx(mirror, tmp_path / "nginx") as nginx:
        where = ("--index-url", f"{nginx.url}simple/", "--trusted-host", nginx.address)
        done = newest_pip.run(
            "install", *where, "--target", str(tmp_path / "pip"), "requests", "ruamel.yaml", "zope.interface",
            env={"CDN_FALLBACK_DISABLE": "1", **trust},
        )  # fmt: skip
        assert done.code == 0, done.output
    assert (tmp_path / "pip" / "requests" / "__init__.py").is_file()


def agree(ours: dict[str, Any], theirs: dict[str, Any], url: str) -> bool:
    """Whether each of our files says all that theirs does, and none is missing."""
    told = {file["filename"]: seen(file, url) for file in theirs["files"]}
    # PEP 714's old names for core-metadata are no keys of ours
    for file in told.values():
        file.pop("data-dist-info-metadata", None)
        if file.get("core-metadata") is False:
            del file["core-metadata"]
        for key in [key for key, value in file.items() if value is None]:
            del file[key]
    return told == {file["filename"]: seen(file, url) for file in ours["files"]}


# --- as an index without the JSON of today: HTML ---


def test_the_slice_with_its_files_is_installed_from_the_mirror_alone(
    disk: Disk, mirror: Mirror, newest_pip: PipEnv, uv: Uv, tmp_path: Path
) -> None:
    kept = {found.name: found for found in map(disk.project, WHOLE) if found}
    assert len(kept) == len(set(map(normalised, WHOLE)))
    with plain(disk.root) as index:
        mirror.source(source(f"{index.url}simple/", tuple(sorted(found.name for found in kept.values())), files=True))
        said = mirror.run()
        assert f"{len(kept)} projects changed" in said
        assert "nothing new" in mirror.run()

    pages, site = published(mirror), contents(mirror.site)
    assert pages.keys() == kept.keys()
    for name, project in kept.items():
        found = {file["filename"]: file for file in pages[name]["files"]}
        assert {filename: file["hashes"] for filename, file in found.items()} == {
            filename: {"sha256": digest} for filename, digest in project.files.items()
        }
        for filename, file in found.items():
            wheel = Wheel.read(disk.path(filename))
            body = site[file["url"].removeprefix("../../")]
            assert body == wheel.path.read_bytes()
            assert file["size"] == len(body)
            assert file.get("core-metadata") == {"sha256": hashlib.sha256(wheel.metadata).hexdigest()}
            assert site[f"{file['url'].removeprefix('../../')}.metadata"] == wheel.metadata

    with MirrorNginx(mirror, tmp_path / "nginx") as nginx:
        trust = ("--index-url", f"{nginx.url}simple/", "--trusted-host", nginx.address)
        done = newest_pip.run(
            "install", *trust, "--no-cache-dir", "--target", str(tmp_path / "pip"), *INSTALLED,
            env={"CDN_FALLBACK_DISABLE": "1"},
        )  # fmt: skip
        assert done.code == 0, done.output
        done = uv.install(nginx.url, tmp_path / "uv", *INSTALLED)
        assert done.code == 0, done.output
    by_pip, by_uv = ({path.name for path in (tmp_path / tool).glob("*.dist-info")} for tool in ("pip", "uv"))
    assert by_pip == by_uv
    assert {normalised(name) for name in INSTALLED} <= {normalised(name.partition("-")[0]) for name in by_pip}
    assert len(by_pip) > len(INSTALLED), "and what they need"


# --- with all that an index may say: JSON ---


class Wheel(NamedTuple):
    """What a wheel on disk says of itself, read by no code of ours."""

    path: Path
    metadata: bytes
    requires_python: str | None
    name: str

    @classmethod
    def read(cls, path: Path) -> Wheel:
        with zipfile.ZipFile(path) as archive:
            (member,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            metadata = archive.read(member)
        headers = BytesParser().parsebytes(metadata, headersonly=True)
        return cls(path, metadata, headers["Requires-Python"], str(headers["Name"]))


class Rich:
    """A server that has the machine's files, and pages with everything about them."""

    def __init__(self, disk: Disk) -> None:
        self.index = Pages()
        self.pages: dict[str, dict[str, Any]] = {}
        self._folder = Folder(disk.root)
        for number, name in enumerate(dict.fromkeys(map(normalised, WHOLE)), 100):
            found = disk.project(name)
            if found is not None:
                self._real(disk, found, number)
        self._odd()

    def answer(self, request: Request) -> Answer:
        told = self.index.answer(request)
        return told if told.status == 200 else self._folder.answer(request)

    def put(self, name: str, page: dict[str, Any], serial: int) -> None:
        """A project's page, and the list with it."""
        page = page | {"meta": page.get("meta", {}) | {"api-version": "1.4", "_last-serial": serial}}
        self.pages[normalised(name)] = page
        self.index.put(f"/simple/{normalised(name)}/", page)
        self.index.list({one["name"]: one["meta"]["_last-serial"] for one in self.pages.values()})

    def _real(self, disk: Disk, project: Kept, number: int) -> None:
        files, display = [], project.name
        for place, (filename, digest) in enumerate(project.files.items()):
            wheel = Wheel.read(disk.path(filename))
            display = wheel.name
            path = wheel.path.relative_to(disk.root)
            self.index.put(f"/{path}.metadata", wheel.metadata, "application/octet-stream")
            file: dict[str, Any] = {
                "filename": filename,
                "url": f"../../{path}",
                "hashes": {"sha256": digest},
                "size": wheel.path.stat().st_size,
                "upload-time": f"2025-01-{place + 1:02}T{number % 24:02}:00:00.{number:06}Z",
                "core-metadata": {"sha256": hashlib.sha256(wheel.metadata).hexdigest()},
                "yanked": (False, True, "a reason <b>", False)[(number + place) % 4],
            }
            if wheel.requires_python:
                file["requires-python"] = wheel.requires_python
            if number % 3 == 0:
                file["provenance"] = f"https://example.org/integrity/{filename}/provenance"
            if number % 5 == 0:
                file["a-key-of-tomorrow"] = {"nested": [number, "ä"]}
            files.append(file)
        self.put(project.name, {"name": display, "files": files, "versions": _versions(files)}, number)

    def _odd(self) -> None:
        self.put("nothing-yet", {"name": "Nothing.Yet", "files": [], "versions": []}, 1)
        states = {"archived": {"status": "archived"}, "deprecated": {"status": "deprecated", "reason": "use <six>"}}
        for number, (name, state) in enumerate(states.items(), 2):
            self.put(f"is-{name}", {"name": f"Is_{name}", "files": [], "versions": [], "project-status": state}, number)
        many = [
            {
                "filename": f"demo_thousands-0.{number}-py3-none-any.whl",
                "url": f"https://files.example.org/demo_thousands-0.{number}-py3-none-any.whl",
                "hashes": {"sha256": hashlib.sha256(b"%d" % number).hexdigest(), "blake2b_256": f"{number:064x}"},
                "size": number,
                "upload-time": "2025-01-01T00:00:00Z",
                "yanked": False,
            }
            for number in range(THOUSANDS)
        ]
        self.put("demo-thousands", {"name": "demo-thousands", "files": many, "versions": _versions(many)}, 9)


def _versions(files: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(file["filename"].split("-")[1] for file in files))


@pytest.fixture
def rich(disk: Disk) -> Iterator[tuple[Rich, Server]]:
    content = Rich(disk)
    with Server(content, f"{subnet()}.1", 0) as server:
        yield content, server


def seen(file: Mapping[str, Any], page_url: str) -> dict[str, Any]:
    """A file of a page, with what can be said in more than one way said in one: links, times, that it is not yanked."""
    told = {key: value for key, value in file.items() if key != "yanked" or value is not False}
    time = datetime.fromisoformat(file["upload-time"].replace("Z", "+00:00"))
    return told | {"url": urljoin(page_url, file["url"]), "upload-time": time}


def test_every_field_of_every_file_is_that_of_the_source(rich: tuple[Rich, Server], mirror: Mirror) -> None:
    content, index = rich
    assert len(content.pages) >= 35
    mirror.source(source(f"{index.url}simple/", files=False))

    said = mirror.run()

    assert f"{len(content.pages)} projects changed" in said
    pages = published(mirror)
    assert pages.keys() == content.pages.keys()
    for name, theirs in content.pages.items():
        ours = pages[name]
        url = f"{index.url}simple/{name}/"
        assert [seen(file, url) for file in ours["files"]] == [
            seen(file, url) for file in sorted(theirs["files"], key=lambda file: str(file["filename"]))
        ]
        assert sorted(ours["versions"]) == sorted(theirs["versions"])
        assert ours["meta"] == theirs["meta"]
        assert ours.get("project-status") == theirs.get("project-status")
        assert ours["name"] == name
    displayed = {one["name"] for one in json.loads((mirror.site / "simple" / "index.json").read_bytes())["projects"]}
    assert displayed >= {"Nothing.Yet", "Is_archived", content.pages["pysocks"]["name"]}
    assert len(pages["demo-thousands"]["files"]) == THOUSANDS
    assert not (mirror.site / "packages").exists(), "files stay at the source"

    index.forget()
    before = tree(mirror.site)
    assert "nothing new" in mirror.run()
    assert [request.path for request in index.requests] == ["/simple/"], "one question is enough"
    assert tree(mirror.site) == before


def test_pages_alone_lead_pip_and_uv_to_the_sources_files(
    rich: tuple[Rich, Server], mirror: Mirror, newest_pip: PipEnv, uv: Uv, tmp_path: Path
) -> None:
    content, index = rich
    for name in ("colorlog", "backports-tarfile"):  # one is yanked, by chance of its number
        page = content.pages[name]
        content.put(name, page | {"files": [file | {"yanked": False} for file in page["files"]]}, 500)
    mirror.source(source(f"{index.url}simple/", ("colorlog", "Backports.Tarfile", "six"), files=False))
    mirror.run()

    with MirrorNginx(mirror, tmp_path / "nginx") as nginx:
        trust = ("--index-url", f"{nginx.url}simple/", "--trusted-host", nginx.address)
        more = ("--trusted-host", index.address, "--no-cache-dir", "--target", str(tmp_path / "pip"))
        what = ("colorlog", "backports-tarfile")
        done = newest_pip.run("install", *trust, *more, *what, env={"CDN_FALLBACK_DISABLE": "1"})
        assert done.code == 0, done.output
        done = uv.install(nginx.url, tmp_path / "uv", *what)
        assert done.code == 0, done.output
        assert not any("/files/" in path for path in nginx.asked())
    for tool in ("pip", "uv"):
        assert (tmp_path / tool / "colorlog" / "__init__.py").is_file()


def test_a_change_costs_its_own_pages(rich: tuple[Rich, Server], mirror: Mirror) -> None:
    content, index = rich
    mirror.source(source(f"{index.url}simple/", files=False))
    mirror.run()
    before = tree(mirror.site)
    page = content.pages["six"]
    files = [file | {"yanked": "withdrawn"} for file in page["files"]]
    content.put("six", page | {"files": files}, 1000)
    index.forget()

    said = mirror.run()

    assert "1 projects changed" in said or "1 project changed" in said
    assert [request.path for request in index.requests] == ["/simple/", "/simple/six/"]
    after = tree(mirror.site)
    changed = {key for key in after if before.get(key) != after[key]}
    assert {key for key in changed if "/" in key and not key.startswith("simple/index.")} == {
        *(f"simple/six/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")),
        *(f"pypi/six/json{twin}" for twin in ("", ".gz")),
    }
    assert before.keys() == after.keys()


def test_a_requirements_file_chooses_the_projects(rich: tuple[Rich, Server], mirror: Mirror) -> None:
    _, index = rich
    (mirror.folder / "requirements.txt").write_text(
        "# what we use\npytest[dev] >= 2 ; python_version > '3'\nColorLog==6.*\n-r more.txt\n"
    )
    (mirror.folder / "more.txt").write_text("Backports.Tarfile\n")
    text = source(f"{index.url}simple/", files=False) + '\nrequirements = ["requirements.txt"]'

    mirror.source(text).run()
    assert published(mirror).keys() == {"pytest", "colorlog", "backports-tarfile"}

    (mirror.folder / "more.txt").write_text("Backports.Tarfile\nsix\n")
    mirror.run()
    assert published(mirror).keys() == {"pytest", "colorlog", "backports-tarfile", "six"}
