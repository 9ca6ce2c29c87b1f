"""The tools beside which a mirror's cost is measured: dumb-pypi, and bandersnatch with an origin on loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from bench.catalogue import HOST
from bench.processes import Cost, run
from tests.rig.pips import clean_environment

DUMB_PYPI, BANDERSNATCH = "1.15.0", "8.2.0"
_SERIAL = re.compile(rb'"last_serial":(\d+)')


class Environment(NamedTuple):
    """A virtual environment with both."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = [f"dumb-pypi=={DUMB_PYPI}", f"bandersnatch=={BANDERSNATCH}"]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *wanted], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"the peers could not be installed:\n{done.stderr}")
        return cls(folder)

    def run(self, tool: str, *arguments: str, log: Path) -> Cost:
        return run([str(self.folder / "bin" / tool), *arguments], log, clean_environment(log.parent))


class DumbPypi:
    """Makes HTML and /pypi/NAME/json from a list of files; `releases`: also /pypi/NAME/VERSION/json, as it comes."""

    def __init__(self, environment: Environment, folder: Path, *, releases: bool) -> None:
        self._environment = environment
        self._folder = folder
        self._options = [] if releases else ["--no-per-release-json"]

    def build(self, listed: Path, previous: Path | None = None) -> Cost:
        """Everything that is `listed` (lines of JSON); with the `previous` list only what has changed."""
        log = self._folder.with_name(f"{self._folder.name}.log")
        options = ["--package-list-json", str(listed), "--output-dir", str(self._folder), *self._options]
        if previous:
            options += ["--previous-package-list-json", str(previous)]
        cost = self._environment.run("dumb-pypi", *options, "--packages-url", f"{HOST}/packages/", log=log)
        if "(skipping package)" in log.read_text():
            raise SystemExit(f"dumb-pypi left files out:\n{log.read_text()[:1000]}")
        return cost

    def projects(self) -> int:
        """How many projects have a page."""
        return sum(1 for _ in self._folder.glob("simple/*/index.html"))


class Bandersnatch:
    """Mirrors the project pages of `origin`, in JSON and HTML, and no files. It has no other option for a change than
    to run again: it asks for the whole project list, and for each project with a higher serial than its last.
    """

    def __init__(self, environment: Environment, folder: Path, origin: str) -> None:
        self._environment = environment
        self._folder = folder
        folder.mkdir(parents=True)
        self._config = folder / "bandersnatch.conf"
        self._config.write_text(
            f"[mirror]\ndirectory = {folder}\nmaster = {origin}\nallow-non-https = true\njson = false\n"
            f"release-files = false\nroot_uri = {HOST}\n"
        )

    def mirror(self) -> Cost:
        return self._environment.run("bandersnatch", "-c", str(self._config), "mirror", log=self._folder / "log")

    def projects(self) -> int:
        """How many projects have a page."""
        return sum(1 for _ in self._folder.glob("web/simple/*/index.v1_json"))


@contextlib.contextmanager
def origin(site: Path) -> Iterator[str]:
    """Serve what bandersnatch asks for out of a site of ours with /pypi/NAME/json; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = self.path.rstrip("/") == "/simple"
            path = site / ("simple/index.json" if listed else self.path.lstrip("/"))
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json" if listed else "application/json")
            if serial := _SERIAL.search(body):  # bandersnatch takes a page without it for a stale one
                self.send_header("X-PyPI-Last-Serial", serial[1].decode("ascii"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
