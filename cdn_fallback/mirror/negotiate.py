"""What a request means on a site of files: which object is asked for, in which form, or where it is. Pure.

    /simple/NAME/        simple/NAME/index.json or index.html, whichever the client would rather have
    /simple/Its_Name     leads to /simple/its-name/
    /pypi/NAME/json      pypi/NAME/json
    /docs/               docs/index.html, if docs is a tree beside the index
    /packages/...        the object with that key

`serve` acts on it; `nginx` writes the same rules for a real server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from cdn_fallback.mirror import site
from cdn_fallback.mirror.names import BadName, normalised
from cdn_fallback.mirror.patterns import HTML_FORMAT, JSON_FORMAT
from cdn_fallback.mirror.site import Headers

Representation = Literal["json", "html"]

_JSON_FORMAT = re.compile(JSON_FORMAT, re.IGNORECASE)
_HTML_FORMAT = re.compile(HTML_FORMAT, re.IGNORECASE)

# PEP 691: "latest" is whatever the server has; HTML of version 1 is what text/html always was.
_JSON = ("application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.latest+json")
_HTML = ("application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.latest+html", "text/html")
# RFC 9110, section 12.4.2, but for the number of digits
_WEIGHT = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?")

_LIST_KEY = re.compile(r"simple/index\.(?:html|json)(?:\.gz)?")
_PAGE_KEY = re.compile(r"simple/(?P<name>[^/]+)/index\.(?:html|json)(?:\.gz)?")
_LEGACY_KEY = re.compile(r"pypi/(?P<name>[^/]+)/json(?:\.gz)?")
_PAGE = re.compile(r"simple(?:/(?P<name>[^/]+))?/?")

# 18 digits are more than any file's size, and no effort to make a number of
_RANGE = re.compile(r"bytes=(?:(?P<start>[0-9]{1,18})-(?P<end>[0-9]{0,18})|-(?P<last>[0-9]{1,18}))", re.IGNORECASE)

NEGOTIATED = "Accept, Accept-Encoding"  # what the answer to a request for a page depends on


class Found(NamedTuple):
    """The request is for an object: the first of `keys` that is there."""

    keys: tuple[str, ...]
    vary: str = ""  # the header Vary: what else of the request the answer depends on


class Redirect(NamedTuple):
    """What is asked for is elsewhere on this site, for good."""

    location: str  # a path, and a query at most; never begins with two slashes, which would name a host


class NotFound(NamedTuple):
    """No object of a site can be meant."""


class NotAcceptable(NamedTuple):
    """There is such a page, in no form that the client takes."""


Meaning = Found | Redirect | NotFound | NotAcceptable


def representation(accept: str, query_format: str | None = None) -> Representation | None:
    """The form in which the client would rather have a page; None if it takes neither. HTML where it is all one.

    JSON and HTML have several names each: a name that is given counts before ``text/*`` and ``application/*``, and
    those before ``*/*`` (RFC 9110, section 12.5.1). What is no media range is passed over.

    :param accept: the header Accept, empty if there is none
    :param query_format: the URL's parameter `format` as it stands there, see `format_of`; it wins
    """
    if query_format:
        if _JSON_FORMAT.fullmatch(query_format):
            return "json"
        return "html" if _HTML_FORMAT.fullmatch(query_format) else None
    weights = _weights(accept)
    if weights is None:
        return "html"
    json = _best(weights, _JSON, ("application/*",))
    html = _best(weights, _HTML, ("text/*", "application/*"))
    if json > html:
        return "json"
    return "html" if html > 0 else None


def _weights(accept: str) -> dict[str, float] | None:
    """Media range -> its weight, of every member that has one; None where nothing is said."""
    members = [member for member in accept.split(",") if member.strip()]
    if not members:
        return None
    weights: dict[str, float] = {}
    for member in members:
        kind, *parameters = (part.strip().lower() for part in member.split(";"))
        weight = _weight(parameters)
        if weight is not None:
            weights[kind] = max(weight, weights.get(kind, 0.0))
    return weights


def _weight(parameters: Iterable[str]) -> float | None:
    """The parameter q, by default 1; None for a weight that is none."""
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    return float(given) if _WEIGHT.fullmatch(given) else None


def _best(weights: dict[str, float], names: Iterable[str], wider: Iterable[str]) -> float:
    for group in (names, wider, ("*/*",)):
        found = [weights[name] for name in group if name in weights]
        if found:
            return max(found)
    return 0.0


def format_of(query: str) -> str | None:
    """The value of the parameter `format` in a URL's query, as it stands there; the first one, as nginx has it."""
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if equals and name.lower() == "format":
            return value
    return None


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip (RFC 9110, section 12.5.3); who means it says so: ``*`` is not taken for it."""
    for member in accept_encoding.split(","):
        coding, *parameters = (part.strip().lower() for part in member.split(";"))
        if coding == "gzip":
            return bool(_weight(parameters))
    return False


def part_of(header: str, size: int) -> range | None:
    """The bytes of `size` that a Range header asks for, none if there are no such bytes; None: the whole.

    Of several ranges, and of what is no range of bytes, nothing is taken (RFC 9110, section 14.2: a server may).
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        return None
    if match["last"]:
        return range(max(0, size - int(match["last"])), size)
    start, end = int(match["start"]), int(match["end"] or size - 1)
    if match["end"] and end < start:
        return None
    return range(min(start, size), min(end + 1, size))


def locate(
    path: str,
    representation: Representation | None,
    gzip: bool = False,
    *,
    query_format: str | None = None,
    trees: Iterable[str] = (),
) -> Meaning:
    """What the request is for.

    :param path: the URL's path as it was sent, percent-encoded
    :param representation: the form of the page that the client would rather have
    :param gzip: whether it takes gzip
    :param query_format: the URL's parameter `format`; it goes along with a redirect if it is one that we know
    :param trees: the prefixes, without slashes at their ends, of what is published beside the index
    """
    key = _decoded(path)
    if key is None:
        return NotFound()
    if in_tree(key, trees):
        return Found((f"{key}index.html" if key.endswith("/") else key,))
    if key.partition("/")[0] in ("simple", "pypi"):
        return _of_index(key, representation, gzip, _kept(query_format))
    return NotFound() if not key or key.endswith("/") else Found((key,))


def _of_index(key: str, representation: Representation | None, gzip: bool, query: str) -> Meaning:
    page = None if _LIST_KEY.fullmatch(key) else _PAGE.fullmatch(key)
    if page:
        name = _normalised(page["name"]) if page["name"] else ""
        if name is None:
            return NotFound()
        folder = f"simple/{name}/" if name else "simple/"
        if key != folder:
            return Redirect(f"/{folder}{query}")
        return _with_twin(f"{folder}index.{representation}", gzip) if representation else NotAcceptable()
    legacy = _LEGACY_KEY.fullmatch(key)
    if legacy:
        name = _normalised(legacy["name"])
        if name is None or name == legacy["name"]:
            return NotFound() if name is None else _with_twin(key, gzip)
        return NotFound() if key.endswith(site.GZIP) else Redirect(f"/pypi/{name}/json")
    # simple/Its_Name/index.html is an object, too: for servers that know nothing of this
    written = _PAGE_KEY.fullmatch(key)
    if _LIST_KEY.fullmatch(key) or (written and _normalised(written["name"])):
        return _with_twin(key, gzip)
    return NotFound()


def _with_twin(key: str, gzip: bool) -> Found:
    return Found((key + site.GZIP, key) if gzip and not key.endswith(site.GZIP) else (key,), NEGOTIATED)


def _normalised(name: str) -> str | None:
    try:
        return normalised(name)
    except BadName:
        return None


def _kept(query_format: str | None) -> str:
    """The query that goes along with a redirect. What we do not know does not: it would be a stranger's text."""
    if query_format and (_JSON_FORMAT.fullmatch(query_format) or _HTML_FORMAT.fullmatch(query_format)):
        return f"?format={query_format}"
    return ""


def _decoded(path: str) -> str | None:
    """The path without its first slash, decoded; None for one that no object can have.

    Each segment is decoded once and by itself: an encoded slash is no slash, and no object's name has one.
    """
    if not path.startswith("/") or not path.isascii() or re.search(r"%(?![0-9A-Fa-f]{2})|[\\#?]", path):
        return None
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in path[1:].split("/")]
    except UnicodeDecodeError:
        return None
    for number, segment in enumerate(segments, 1):
        # Of the segments only the last may be empty; those with a dot in front are "." and "..", and hidden files.
        if (not segment and number < len(segments)) or segment.startswith("."):
            return None
        if not segment.isprintable() or "/" in segment or "\\" in segment:
            return None
    return "/".join(segments)


def in_tree(key: str, trees: Iterable[str]) -> bool:
    """Whether `key` is that of a tree beside the index, or of something in it."""
    return any(f"{key}/".startswith(f"{tree}/") for tree in trees)


def headers_of(key: str, trees: Iterable[str] = ()) -> Headers:
    """The headers with which `site` publishes the object at `key`, told from the key alone.

    What is neither the index's own nor in one of `trees` is a project's file: those lie where their source has them.
    """
    if in_tree(key, trees):
        return site.static_headers(key)
    if key.startswith(("simple/", "pypi/")):
        plain = key.removesuffix(site.GZIP)
        kind = _kind_of_page(plain)
        caching = site.LIST if _LIST_KEY.fullmatch(plain) else site.PAGE
        return Headers(kind, caching, "gzip" if plain != key else None)
    if key in ("robots.txt", "last-modified"):
        return Headers(site.TEXT_TYPE, site.BRIEF if key == "last-modified" else site.LIST)
    return Headers(site.TEXT_TYPE if key.endswith(site.METADATA) else site.FILE_TYPE, site.FOREVER)


def _kind_of_page(key: str) -> str:
    if key.endswith(".html"):
        return site.HTML_TYPE
    return site.JSON_TYPE if key.endswith(".json") else site.LEGACY_TYPE
