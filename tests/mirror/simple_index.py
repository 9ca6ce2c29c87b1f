"""An index of whatever pages a test writes, and the source that reads it, without waiting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.adapter import FallbackAdapter
from cdn_fallback.config import Config
from cdn_fallback.health import Health
from cdn_fallback.mirror.sources import Settings
from cdn_fallback.mirror.sources.simple_api import SimpleApi
from tests.rig.messages import Answer, Headers, Request
from tests.rig.server import Server
from tests.rig.site import JSON, MODIFIED


class Index:
    """Path -> answer; 404 for every other. The server beneath it adds ETag, 304 and ranges."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.base = "/simple/"

    def answer(self, request: Request) -> Answer:
        return self.pages.get(request.path, Answer(404, b"no such page\n", (("Content-Type", "text/plain"),)))

    def put(
        self, path: str, body: bytes | str | dict[str, Any], content_type: str = JSON, *headers: tuple[str, str]
    ) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        kind: Headers = (("Content-Type", content_type), ("Last-Modified", MODIFIED), *headers)
        self.pages[path] = Answer(200, data.encode() if isinstance(data, str) else data, kind)

    def list(self, serial: int | None = None, **serials: int | None) -> None:
        """The project list, with serials where they are not None."""
        projects = [{"name": name} | ({"_last-serial": n} if n is not None else {}) for name, n in serials.items()]
        meta = {"api-version": "1.4"} | ({"_last-serial": serial} if serial is not None else {})
        self.put(self.base, {"meta": meta, "projects": projects})

    def project(self, name: str, *files: dict[str, Any], serial: int | None = None, **keys: Any) -> None:
        meta = {"api-version": "1.4"} | ({"_last-serial": serial} if serial is not None else {})
        self.put(f"{self.base}{name}/", {"meta": meta, "name": name, "files": list(files), **keys})


class World:
    """A server with an Index, and sources that read it. `waits` holds the seconds that nobody has slept."""

    def __init__(self, index: Index, server: Server, folder: Path) -> None:
        self.index = index
        self.server = server
        self.folder = folder
        self.waits: list[float] = []
        self._sources: list[SimpleApi] = []

    def source(self, **values: Any) -> SimpleApi:
        made = {"type": "simple-api", "url": self.server.url + self.index.base[1:]}
        made |= {key.replace("_", "-"): value for key, value in values.items()}
        settings = Settings(made, "mirror.toml", self.folder, self.folder / "spool")
        source = SimpleApi(settings, adapter=self._adapter, sleep=self.waits.append, chance=lambda: 0.5)
        self._sources.append(source)
        return source

    def _adapter(self, config: Config, **options: Any) -> FallbackAdapter:
        made = FallbackAdapter(config, Health(), **options)
        made.transport.world = made.transport.world._replace(sleep=self.waits.append, chance=lambda: 0.5)
        return made

    @property
    def asked(self) -> list[tuple[str, int]]:
        """The paths that were asked for, with what was answered, since the last look."""
        found = [(request.path, request.status) for request in self.server.requests]
        self.server.forget()
        return found

    def spooled(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "spool").glob("*"))

    def close(self) -> None:
        for source in self._sources:
            source.close()


def without_configuration(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Neither this user's pip nor this machine's proxies have a say."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in [name for name in os.environ if name.startswith("CDN_FALLBACK_")]:
        monkeypatch.delenv(name)
