"""What a published page refers to: for `verify`, which trusts no page, and `rebuild`, which has nothing else."""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote

from cdn_fallback.mirror import sync
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.names import BadName, normalised
from cdn_fallback.mirror.site import GZIP, JSON_TYPE, LISTS, METADATA
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.sources.simple_api.index_page import Document, NotAPage, read_list, read_project
from cdn_fallback.mirror.stores import StoreError

LARGEST = 1 << 30  # bytes of a page: the list of a million projects has a tenth of it
# RFC 2606: stands for wherever the site is. Not https, where no page may link to files that stay on http.
_ROOT = "http://site.invalid/"


class Reference(NamedTuple):
    """A page's word of another object."""

    key: str
    digest: bytes  # sha256 of its bytes; empty: it may be any


def is_page(key: str) -> bool:
    """Whether `references` can be told of it: the forms of a page that say everything."""
    return key.startswith("simple/") and key.endswith("/index.json")


def references(key: str, body: bytes) -> list[Reference]:
    """The objects of the site that the page refers to.

    :raises StoreError: if it is no index page
    """
    if key == LISTS + "json":
        return [Reference(f"simple/{name}/index.json", b"") for name in listed(body)[0]]
    found = []
    for file in project(key.split("/")[1], body).files:
        if file.key:
            found.append(Reference(file.key, bytes.fromhex(file.hashes.get("sha256", ""))))
            if file.core_metadata:
                digest = bytes.fromhex(file.core_metadata.get("sha256", ""))
                found.append(Reference(file.key + METADATA, digest))
    return found


def listed(body: bytes) -> tuple[dict[str, str], int]:
    """The project list: (normalised name -> the name as it is written, the list's serial). Raises StoreError."""
    key = LISTS + "json"
    try:
        found = read_list(Document(_ROOT + key, JSON_TYPE, body))
    except NotAPage as exc:
        raise StoreError(key, exc.reason) from exc
    written: dict[str, str] = {}
    for entry in json.loads(body)["projects"]:
        with suppress(BadName, TypeError, KeyError):  # `found` has passed it over, too
            written[normalised(entry["name"])] = entry["name"]
    return {name: written.get(name, name) for name in found.serials}, found.serial or 0


def project(name: str, body: bytes) -> Project:
    """What a project's page says; files that we publish have a key, and it is where they lie. Raises StoreError."""
    key = f"simple/{name}/index.json"
    try:
        found = read_project(Document(_ROOT + key, JSON_TYPE, body), name).project
        return sync.vetted(found._replace(files=tuple(map(_placed, found.files))), name)
    except NotAPage as exc:
        raise StoreError(key, exc.reason) from exc
    except ProjectError as exc:
        raise StoreError(key, exc.problem) from exc


def unpacked(key: str, twin: bytes) -> bytes:
    """The page of which this is the twin. Raises StoreError for anything else, and for one that is far too large."""
    unpacking = zlib.decompressobj(31)
    try:
        page = unpacking.decompress(twin, LARGEST)
    except zlib.error as exc:
        raise StoreError(key, f"is no gzip ({exc})") from exc
    if not unpacking.eof:
        raise StoreError(key, "is cut short, or too large")
    return page


def _placed(file: File) -> File:
    if not file.url.startswith(_ROOT):
        return file
    return file._replace(key=unquote(file.url.removeprefix(_ROOT)), url="")


def page_of(key: str) -> str:
    """The page whose twin it is, or the key itself."""
    return key.removesuffix(GZIP) if key.startswith(("simple/", "pypi/")) else key
