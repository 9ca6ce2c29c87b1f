"""A small static index: URL path -> bytes, in JSON (PEP 691) and HTML (PEP 503) by negotiation."""

from __future__ import annotations

import hashlib
import html
import json
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.rig.dists import Dist
from tests.rig.messages import Answer, Request, etag_of

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
PLAIN_HTML = "text/html"
MODIFIED = "Mon, 05 Jan 2026 00:00:00 GMT"


@dataclass(frozen=True)
class Site:
    """The content of one index.

    `base` ("https://files.example/", say) makes file links absolute, otherwise they are relative to the page.
    `serial` appears as `_last-serial` (JSON), `<!--SERIAL n-->` (HTML) and X-PyPI-Last-Serial, as on PyPI.
    `types` are the media types that can be had; the first one is for clients that name none of them.
    """

    dists: tuple[Dist, ...]
    base: str = ""
    serial: int = 1
    core_metadata: bool = True
    types: tuple[str, ...] = (PLAIN_HTML, HTML, JSON)

    @classmethod
    def of(cls, *dists: Dist, base: str = "", serial: int = 1) -> Site:
        """The usual site."""
        return cls(dists, base, serial)

    @classmethod
    def read(cls, folder: Path, base: str = "") -> Site:
        """All real wheels and sdists of a folder."""
        paths = (path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz")))
        return cls(tuple(Dist.read(path) for path in sorted(paths)), base)

    @property
    def projects(self) -> tuple[str, ...]:
        """Normalized names, sorted."""
        return tuple(sorted({dist.project for dist in self.dists}))

    def path(self, filename: str) -> str:
        """The URL path of a file."""
        return f"/packages/{urllib.parse.quote(filename)}"

    def answer(self, request: Request) -> Answer:
        """As a static web server with content negotiation would."""
        path = urllib.parse.unquote(request.path.partition("?")[0])
        if request.method not in ("GET", "HEAD"):
            return Answer(405, headers=(("Allow", "GET, HEAD"),))
        if path in self._files:
            kind = "binary/octet-stream"
            return _ok(self._files[path], ("Content-Type", kind))
        if f"{path}/" in self._pages:
            return Answer(301, headers=(("Location", f"{request.path}/"),))
        if path not in self._pages:
            return Answer(404, b"no such object\n", (("Content-Type", "text/plain"),))
        media = negotiated(request.header("Accept") or "*/*", self.types)
        body = self._pages[path][media == JSON]
        serial = ("X-PyPI-Last-Serial", str(self.serial))
        return _ok(body, ("Content-Type", media), ("Vary", "Accept"), serial)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        files = {f"/packages/{dist.filename}": dist.content for dist in self.dists}
        if self.core_metadata:  # PEP 658
            files |= {f"/packages/{d.filename}.metadata": d.metadata for d in self.dists if d.metadata}
        return files

    @cached_property
    def _pages(self) -> dict[str, tuple[bytes, bytes]]:
        """Path -> (HTML, JSON)."""
        meta = {"api-version": "1.1", "_last-serial": self.serial}
        listing = {"meta": meta, "projects": [{"name": name} for name in self.projects]}
        links = [f'<a href="{name}/">{name}</a><br>' for name in self.projects]
        pages = {"/simple/": (self._html("Simple index", links), json.dumps(listing).encode())}
        for name in self.projects:
            mine = [dist for dist in self.dists if dist.project == name]
            detail = {
                "meta": meta,
                "name": name,
                "versions": sorted({dist.version for dist in mine}),
                "files": [self._json_file(dist) for dist in mine],
            }
            body = self._html(f"Links for {name}", (self._html_file(dist) for dist in mine))
            pages[f"/simple/{name}/"] = (body, json.dumps(detail).encode())
        return pages

    def _url(self, dist: Dist) -> str:
        path = self.path(dist.filename)
        return urllib.parse.urljoin(self.base, path) if self.base else f"../..{path}"

    def _json_file(self, dist: Dist) -> dict[str, object]:
        entry: dict[str, object] = {
            "filename": dist.filename,
            "url": self._url(dist),
            "hashes": {"sha256": dist.sha256} if dist.hashed else {},
            "size": len(dist.content),
            "upload-time": "2026-01-05T00:00:00Z",
        }
        if dist.requires_python:
            entry["requires-python"] = dist.requires_python
        if self.core_metadata and dist.metadata:  # PEP 714: the key that pip reads in JSON
            entry["core-metadata"] = {"sha256": hashlib.sha256(dist.metadata).hexdigest()}
        return entry

    def _html_file(self, dist: Dist) -> str:
        url = self._url(dist) + (f"#sha256={dist.sha256}" if dist.hashed else "")
        attributes = {"href": url}
        if dist.requires_python:
            attributes["data-requires-python"] = dist.requires_python
        if self.core_metadata and dist.metadata:
            attributes["data-core-metadata"] = f"sha256={hashlib.sha256(dist.metadata).hexdigest()}"
        spelled = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
        return f"<a {spelled}>{html.escape(dist.filename)}</a><br>"

    def _html(self, title: str, links: Iterable[str]) -> bytes:
        head = f'<meta name="pypi:repository-version" content="1.1"><title>{html.escape(title)}</title>'
        lines = ["<!DOCTYPE html>", f"<html><head>{head}</head><body>", *links, "</body></html>"]
        return ("\n".join(lines) + f"\n<!--SERIAL {self.serial}-->\n").encode()


@dataclass(frozen=True, slots=True)
class Redirector:
    """Content that sends every path on to the same path under `base`, as the pool's redirect servers do."""

    base: str
    status: int = 302
    cache_control: str = "public, max-age=300"

    def answer(self, request: Request) -> Answer:
        """A redirect, whatever was asked."""
        target = self.base.rstrip("/") + request.path
        return Answer(self.status, headers=(("Location", target), ("Cache-Control", self.cache_control)))


@dataclass(frozen=True, slots=True)
class Mounted:
    """A site below a path prefix ("/static", say)."""

    site: Site
    prefix: str

    def answer(self, request: Request) -> Answer:
        """404 outside of the prefix."""
        if not request.path.startswith(f"{self.prefix}/"):
            return Answer(404)
        inner = request.path.removeprefix(self.prefix)
        return self.site.answer(Request(request.method, inner, request.headers))


def negotiated(accept: str, types: tuple[str, ...]) -> str:
    """The type of the highest quality (RFC 9110 12.5.1); the first of equals, and if none is acceptable."""
    quality: dict[str, float] = {}
    for item in accept.split(","):
        media, _, parameters = item.partition(";")
        _, _, weight = parameters.partition("q=")
        quality[media.strip()] = float(weight or 1)
    return max(types, key=lambda media: quality.get(media, quality.get("*/*", 0.0)))


def _ok(body: bytes, *headers: tuple[str, str]) -> Answer:
    return Answer(200, body, (*headers, ("ETag", etag_of(body)), ("Last-Modified", MODIFIED)))


@dataclass(frozen=True)
class Keys:
    """A site as a bucket has it: pages by their objects' keys, and nothing for `/simple/NAME/`."""

    site: Site

    def answer(self, request: Request) -> Answer:
        folder, slash, name = request.path.rpartition("/")
        kinds = {"index.json": (("Accept", JSON),), "index.html": (("Accept", "text/html"),)}
        if request.path.startswith("/packages/"):
            return self.site.answer(request)
        if name not in kinds:
            return Answer(404, b"no such key\n", (("Content-Type", "text/plain"),))
        return self.site.answer(Request(request.method, folder + slash, kinds[name]))
