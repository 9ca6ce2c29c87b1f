"""Programs other than pip and buildout that read an index: uv, bandersnatch and pypi-simple, each in an environment of
its own; and what pip itself takes a project's page for.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.mirrors import PIP, install, wheels
from tests.rig.pips import PipEnv, Result, clean_environment, home_folder, timed

UV, BANDERSNATCH, PYPI_SIMPLE = "uv>=0.13.8", "bandersnatch>=8.2", "pypi-simple>=1.8"

_PYPI_SIMPLE = """
import json, sys
from dataclasses import asdict
from pypi_simple import PyPISimple

with PyPISimple(sys.argv[1], accept=sys.argv[2]) as client:
    index = client.get_index_page()
    pages = {name: client.get_project_page(name) for name in index.projects}
    read = {
        "projects": index.projects,
        "version": index.repository_version,
        "pages": {name: asdict(page) for name, page in pages.items()},
        "metadata": {
            file.filename: client.get_package_metadata(file) for page in pages.values() for file in page.packages
            if file.has_metadata
        },
    }
json.dump(read, sys.stdout, default=str)
"""

_PIP = """
import json, sys
from pip._internal.index.collector import LinkCollector, parse_links
from pip._internal.models.link import Link
from pip._internal.models.search_scope import SearchScope
from pip._internal.network.session import PipSession

collector = LinkCollector(PipSession(), SearchScope.create([], [], no_index=False))
read = {}
for url in sys.argv[1:]:
    page = collector.fetch_response(Link(url))
    read[url] = {"type": page.content_type, "links": [
        {
            "filename": link.filename,
            "url": link.url_without_fragment,
            "hashes": link._hashes,
            "fragment": link.hash,
            "requires_python": link.requires_python,
            "yanked": link.yanked_reason,
            "metadata": link.metadata_file_data and link.metadata_file_data.hashes,
            "upload_time": link.upload_time and link.upload_time.isoformat(),
        }
        for link in parse_links(page)
    ]}
json.dump(read, sys.stdout)
"""


def make(folder: Path, requirement: str) -> None:
    """An environment with this program."""
    install(PipEnv.create(folder, sys.executable, PIP), wheels(requirement), requirement)


@dataclass(frozen=True, slots=True)
class Uv:
    """uv, without any configuration of this machine."""

    env: PipEnv

    def __call__(self, url: str, *arguments: str, cwd: Path, home: Path | None = None) -> Result:
        """`uv` with these arguments in the folder `cwd`, and with no index but that below `url`.

        Without `home` nothing is cached.
        """
        with home_folder(home) as folder:
            kept = {name: value for name, value in clean_environment(folder).items() if not name.startswith("UV_")}
            own = {"UV_NO_CONFIG": "1", "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never"}
            environment = kept | own | {"UV_LINK_MODE": "copy", "UV_NO_PROGRESS": "1"}
            command = (str(self.env.folder / "bin" / "uv"), *arguments, "--default-index", f"{url}simple/")
            return timed(command, environment, cwd, 60)

    def install(self, url: str, target: Path, *what: str) -> Result:
        """`uv pip install` into a folder."""
        return self(url, "pip", "install", "--target", str(target), *what, cwd=target.parent)


@dataclass(frozen=True, slots=True)
class Bandersnatch:
    """bandersnatch, mirroring all there is into a folder."""

    env: PipEnv

    def __call__(self, folder: Path, url: str, **keys: str) -> Result:
        """`bandersnatch mirror` of the index whose base is `url`; `keys` are added to ``[mirror]``.

        Files come from below `url` too, whatever base the pages of `/pypi/NAME/json` were made for.
        """
        folder.mkdir(parents=True, exist_ok=True)
        base = url.rstrip("/")
        settings = {
            "directory": str(folder / "mirror"), "master": base, "allow-non-https": "true", "json": "true",
            "download-mirror": base, "download-mirror-no-fallback": "true", "timeout": "5", "workers": "2",
            "stop-on-error": "false", "hash-index": "false",
        }  # fmt: skip
        lines = ["[mirror]", *(f"{key} = {value}" for key, value in (settings | keys).items())]
        config = folder / "bandersnatch.conf"
        config.write_text("\n".join(lines) + "\n")
        program = str(self.env.folder / "bin" / "bandersnatch")
        return timed((program, "--config", str(config), "mirror"), clean_environment(folder), folder, 60)


@dataclass(frozen=True, slots=True)
class PyPISimple:
    """The library pypi-simple."""

    env: PipEnv

    def read(self, url: str, accept: str) -> dict[str, Any]:
        """Everything that it reads of the index at `url`: the list, every project's page, every file's metadata."""
        done = self.env.execute("-c", _PYPI_SIMPLE, url, accept)
        assert (done.code, done.stderr) == (0, ""), done.output
        read: dict[str, Any] = json.loads(done.stdout)
        return read


def links(pip: PipEnv, *urls: str) -> dict[str, Any]:
    """Project pages as pip takes them: URL -> `type` (Content-Type) and `links`. Needs pip 26.

    pip has no command that tells of every file of a page: these are its own modules, called as it calls them.
    """
    done = pip.execute("-c", _PIP, *urls, env={"CDN_FALLBACK_DISABLE": "1"})
    assert (done.code, done.stderr) == (0, ""), done.output
    read: dict[str, Any] = json.loads(done.stdout)
    return read
