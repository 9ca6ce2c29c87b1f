"""The site: which objects a catalog's content renders to, under which keys and with which headers. Pure.

    simple/index.html, simple/index.json               the project list
    simple/NAME/index.html, simple/NAME/index.json     a project's files
    simple/Its_Name/index.html                         for the name as it is written: leads to the normalised one
    pypi/NAME/json                                     the same for mirroring tools
    packages/...                                       files, and FILE.metadata beside a wheel
    last-modified, robots.txt

Pages have a twin KEY.gz, which a server sends to those who accept gzip. The keys are such that a folder, nginx, a
bucket and a CDN can hold and serve them: no empty part, none that begins with a dot, no object `x` beside `x/y`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from isal import isal_zlib

from cdn_fallback.mirror import render
from cdn_fallback.mirror.catalog.content import Record, Static
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.media_types import OCTETS, media_type
from cdn_fallback.mirror.model import NOTHING, File
from cdn_fallback.mirror.names import normalised

# What the public index sends, with a shorter max-age: pip 26.3 no longer asks anew within it (FACTS, part B).
PAGE = "public, max-age=120, s-maxage=600, stale-while-revalidate=300, stale-if-error=86400"
LIST = "public, max-age=600, s-maxage=600, stale-while-revalidate=300, stale-if-error=86400"
FOREVER = "public, max-age=31536000, immutable"
BRIEF = "public, max-age=60, s-maxage=60, stale-while-revalidate=60, stale-if-error=86400"
# How long after a change a cache may still send the page that was: s-maxage, both grace times (RFC 9111, 5861).
STALE = 600 + 86400  # s

# bandersnatch takes pypi/NAME/json only with a serial in this header that is not lower than the list's. A store that
# knows nothing of an object but its key cannot send the project's: this one says "as new as you like" (ADR 28).
SERIAL_HEADER = "X-PyPI-Last-Serial"
NEW_ENOUGH = "9007199254740991"  # the largest integer that every reader of JSON has (RFC 8259, section 6)

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "text/html; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
LEGACY_TYPE = "application/json"
FILE_TYPE = OCTETS

GZIP = ".gz"
METADATA = ".metadata"
LISTS = "simple/index."
_COMPRESSION = "isal-2/1"  # what compresses, and the level: other bytes come out of another


class Headers(NamedTuple):
    """What an object is sent with."""

    content_type: str
    cache_control: str
    content_encoding: str | None = None

    def __str__(self) -> str:
        return _written(self)

    @classmethod
    def read(cls, text: str) -> Headers:
        """Those that `str` wrote."""
        return cls(**json.loads(text))


@lru_cache(maxsize=1024)
def _written(headers: Headers) -> str:
    return json.dumps({key: value for key, value in headers._asdict().items() if value is not None}, sort_keys=True)


class Object(NamedTuple):
    """One object of the site. Its bytes are in `body`, or are those of `file` or `static`."""

    key: str
    headers: Headers
    digest: bytes  # sha256
    size: int | None  # bytes; None where only its source knows
    body: bytes | None = None
    file: File | None = None
    static: Static | None = None
    twin: bool = False  # whether KEY.gz stands beside it

    def gzipped(self) -> Object:
        """The twin for those who accept gzip. Its header holds neither a name nor a time."""
        assert self.body is not None
        headers = self.headers._replace(content_encoding="gzip")
        return _made(self.key + GZIP, headers, isal_zlib.compress(self.body, 1, 31))


class Rules(NamedTuple):
    """What of the configuration shapes the site."""

    base: str  # the site's URL, ending with a slash
    legacy: bool = True  # whether there is pypi/NAME/json

    @property
    def fingerprint(self) -> str:
        """What the bytes of an unchanged project depend on; where it differs, every page is looked at again."""
        return json.dumps([render.REVISION, _COMPRESSION, PAGE, LIST, FOREVER, *self])


class Difference(NamedTuple):
    """What a publish has to do about one project: put `files`, then `pages`; `gone` is no longer referred to."""

    id: int
    name: str
    serial: int | None  # what its page shows from then on; None: it has none
    files: tuple[Object, ...] = ()
    pages: tuple[Object, ...] = ()
    spared: tuple[str, ...] = ()  # files that nothing referred to, and which `pages` refer to again
    gone: tuple[str, ...] = ()
    settled: bool = False  # there is nothing to do, and the catalog knows
    narrowed: int = 0  # the last change that took something away or yanked it


def difference(
    record: Record, store: Mapping[str, Entry], rules: Rules, *, anew: bool, doomed: Mapping[str, Entry] = NOTHING
) -> Difference:
    """What is to be done about a project.

    :param store: its entries in the ledger to which something refers, by key
    :param anew: the twins may differ even where the page does not
    :param doomed: its entries to which nothing refers
    """
    id, name = record.id, record.project.name
    if record.removed:
        gone = tuple(sorted(store))
        settled = not gone and record.published is None
        return Difference(id, name, None, gone=gone, settled=settled, narrowed=record.narrowed)
    files = objects_of_files(render.offered(record.project))
    wanted = pages(record, rules)
    put = lacking(wanted, store, anew=anew)
    keys = {file.key for file in files} | {page.key for page in wanted}
    keys |= {page.key + GZIP for page in wanted if page.twin}
    not_there = [file for file in files if not same(file, store)]
    spared = tuple(file.key for file in not_there if same(file, doomed)) if doomed else ()
    if spared:
        not_there = [file for file in not_there if file.key not in spared]
    gone = tuple(sorted(store.keys() - keys))
    settled = not (put or not_there or spared or gone) and record.published == record.serial
    return Difference(
        id, name, record.serial, tuple(not_there), tuple(put), spared, gone, settled, record.narrowed
    )  # fmt: skip


def lacking(pages: Iterable[Object], store: Mapping[str, Entry], *, anew: bool) -> list[Object]:
    """Those of `pages`, and of their twins, that the store has not; for `anew` see `difference`."""
    found: list[Object] = []
    for page in pages:
        is_there = same(page, store)
        if not is_there:
            found.append(page)
        if page.twin and (not is_there or anew or page.key + GZIP not in store):
            twin = page.gzipped()
            if not (is_there and same(twin, store)):
                found.append(twin)
    return found


def with_twins(pages: Iterable[Object]) -> list[Object]:
    """Each page, followed by its twin where it has one."""
    return [one for page in pages for one in ((page, page.gzipped()) if page.twin else (page,))]


def objects_of_files(files: Iterable[File]) -> list[Object]:
    """The files that are published by us, each followed by its metadata."""
    found = []
    for file in files:
        if file.key:
            key = file.object_key
            digest = bytes.fromhex(file.hashes["sha256"])
            found.append(Object(key, Headers(FILE_TYPE, FOREVER), digest, file.size, file=file))
            if file.core_metadata:
                digest = bytes.fromhex(file.core_metadata["sha256"])
                found.append(Object(key + METADATA, Headers(TEXT_TYPE, FOREVER), digest, None, file=file))
    return found


def pages(record: Record, rules: Rules) -> list[Object]:
    """The project's pages, without their twins."""
    project, serial = record.project, record.serial
    folder = f"simple/{project.name}/"
    found = [
        _made(folder + "index.html", _PAGE_HTML, render.project_html(project, serial), twin=True),
        _made(folder + "index.json", _PAGE_JSON, render.project_json(project, serial), twin=True),
    ]
    if rules.legacy:
        body = render.legacy_json(project, serial, rules.base)
        found.append(_made(f"pypi/{project.name}/json", _PAGE_LEGACY, body, twin=True))
    if project.display != project.name:
        body = render.redirect_html(project.display, project.name)
        found.append(_made(f"simple/{project.display}/index.html", _PAGE_HTML, body))
    return found


def lists(projects: Iterable[tuple[str, str, int]], serial: int) -> list[Object]:
    """The project list of (name, display name, serial), without its twins."""
    listed = list(projects)
    return [
        _made(LISTS + "html", Headers(HTML_TYPE, LIST), render.list_html(listed, serial), twin=True),
        _made(LISTS + "json", Headers(JSON_TYPE, LIST), render.list_json(listed, serial), twin=True),
    ]


def ends(changed_at: str) -> list[Object]:
    """What is put last: the word to crawlers, and `/last-modified` (PEP 381), ISO 8601; empty: nothing ever changed."""
    robots = b"User-agent: *\nDisallow: /simple/\nDisallow: /packages/\nDisallow: /pypi/\n"
    found = [_made("robots.txt", Headers(TEXT_TYPE, LIST), robots)]
    if changed_at:
        found.append(_made("last-modified", Headers(TEXT_TYPE, BRIEF), changed_at.encode("ascii") + b"\n"))
    return found


def object_of_static(static: Static) -> Object:
    """A file beside the index."""
    return Object(static.key, static_headers(static.key), static.sha256, static.size, static=static)


def sent_as(found: Headers, wanted: Headers) -> bool:
    """Whether what a store says of an object is what was asked for.

    SeaweedFS does not keep application/octet-stream, and tells what it guesses from the key: that is as good.
    """
    return found == wanted or (wanted.content_type == OCTETS and found._replace(content_type=OCTETS) == wanted)


def static_headers(key: str) -> Headers:
    """What a file beside the index is sent with."""
    return Headers(media_type(key), PAGE)


def turn(key: str) -> int:
    """When an object is deleted, of several that are due: what leads to others goes before them."""
    top, _, rest = key.partition("/")
    name = rest.partition("/")[0]
    if top == "simple":
        return 1 if normalised(name) == name else 0  # the second leads to the first
    return 1 if top == "pypi" else 2


_PAGE_HTML = Headers(HTML_TYPE, PAGE)
_PAGE_JSON = Headers(JSON_TYPE, PAGE)
_PAGE_LEGACY = Headers(LEGACY_TYPE, PAGE)


def _made(key: str, headers: Headers, body: bytes, *, twin: bool = False) -> Object:
    return Object(key, headers, hashlib.sha256(body).digest(), len(body), body, twin=twin)


def same(wanted: Object, store: Mapping[str, Entry]) -> bool:
    """Whether the ledger vouches for the object as it is wanted."""
    entry = store.get(wanted.key)
    return entry is not None and entry.digest == wanted.digest and entry.headers == str(wanted.headers)
