"""Reads a published site as a client would, with parsers of its own, and tells what dangles in it."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin

from tests.mirror.fakes import FakeStore, sha256

ROOT = "https://reader.example/some/"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text inside."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ends: list[str] = []
        self.comments: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), "an attribute is there twice"
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.ends.append(tag)
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1:] = ["".join([*self.texts[-1:], data])]

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Link(NamedTuple):
    """What a page refers to: a key, and what is promised of it."""

    key: str
    sha256: str = ""
    metadata: str = ""  # sha256 of KEY.metadata


def plain(key: str, content: bytes) -> tuple[str, bytes]:
    """A page and its name, of the page or of its twin."""
    return (key.removesuffix(".gz"), gzip.decompress(content)) if key.endswith(".gz") else (key, content)


@lru_cache(maxsize=4096)
def links(key: str, content: bytes) -> tuple[Link, ...]:
    """What the page refers to: pages of projects by the list, files by a project's page."""
    name, page = plain(key, content)
    base = ROOT + name
    if name == "simple/index.json":
        found = [(f"{one['name']}/".lower().replace("_", "-").replace(".", "-"), "", "") for one in _list(page)]
    elif name.endswith("index.json"):
        found = [
            (f["url"], f["hashes"]["sha256"], _metadata(f.get("core-metadata"))) for f in json.loads(page)["files"]
        ]
    elif name.endswith("/json"):
        files = [file for files in json.loads(page)["releases"].values() for file in files]
        found = [(f["url"].replace("https://index.example/", ROOT), f["digests"]["sha256"], "") for f in files]
    else:
        found = []
        for link in Tags(page).all("a"):
            url, fragment = urldefrag(link["href"] or "")
            core = (link.get("data-core-metadata") or "").removeprefix("sha256=")
            found.append((url, fragment.removeprefix("sha256="), core))
    seen = [(urljoin(base, url), digest, metadata) for url, digest, metadata in found]
    assert all(url.startswith(ROOT) for url, _, _ in seen), f"{key} leads out of the site"
    return tuple(Link(unquote(url.removeprefix(ROOT)), *rest) for url, *rest in seen)


def _list(page: bytes) -> list[dict[str, str]]:
    projects: list[dict[str, str]] = json.loads(page)["projects"]
    return projects


def _metadata(value: object) -> str:
    return str(value["sha256"]) if isinstance(value, dict) else ""


def dangling(store: FakeStore) -> list[str]:
    """Every place of the site that refers to something that is not there, or is not what it should be."""
    objects = store.objects
    digests = _Digests(objects)
    found = []
    for key, content in objects.items():
        if not key.startswith(("simple/", "pypi/")):
            continue
        for link in links(key, content):
            if link.key.endswith("/"):
                names = [link.key + form for form in ("index.html", "index.json", "index.html.gz", "index.json.gz")]
                if key.startswith("simple/index."):  # a page that leads on is content with the page
                    names.append(f"pypi/{link.key.removeprefix('simple/')}json")
                found += [f"{key} -> {name}: is missing" for name in names if name not in objects]
                continue
            for name, digest in ((link.key, link.sha256), (f"{link.key}.metadata", link.metadata)):
                if digest and digests.of(name) != digest:
                    found.append(f"{key} -> {name}: should be {digest[:8]}, is {digests.of(name)[:8] or 'missing'}")
    return found


class _Digests:
    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def of(self, key: str) -> str:
        return _digest(self._objects[key]) if key in self._objects else ""


_digest = lru_cache(maxsize=4096)(sha256)
