"""Index pages: whether a body is the whole page that it claims to be, and what it promises. Pure.

Not a parser for installing from: pip and buildout read the page themselves. It finds out what they do not ask:
whether half of it is missing, whether it is a captive portal's login form, how old it is, and which hash each
file has.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

MAX_DECODED = 64 * 1024 * 1024  # bytes; the longest project list of all is half of that
JSON_TYPE = re.compile(r"application/vnd\.pypi\.simple\.v1\+json$")
HTML_TYPE = re.compile(r"(?:text/html|application/vnd\.pypi\.simple\.v1\+html)$")

_SLICE = 8192  # bytes

Hashes = Mapping[str, str]  # algorithm -> lower-case hex digest


class NotAPage(Exception):
    """The body is no index page: `reason` says why, as a phrase that follows the endpoint's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooBig(NotAPage):
    """The body opens to more than `MAX_DECODED` bytes."""


@dataclass(frozen=True)
class Page:
    """What an accepted page promises: its `serial` (0: none said), and hashes by file name.

    `empty` tells an HTML page in which nothing looks like a file, so that it may be another kind of page.

    `body` is read for those only when somebody asks: the tool parses it itself, and pip tells the hash.
    """

    url: str
    body: bytes = field(default=b"", repr=False)
    is_json: bool = False
    serial: int = 0
    empty: bool = False

    @cached_property
    def files(self) -> Mapping[str, tuple[str, Hashes]]:
        """File name -> (its URL as written, its hashes)."""
        return dict(_json_files(self.body) if self.is_json else _html_files(self.body))

    def hashes(self, url: str) -> Hashes:
        """The hashes that this page gives for the file (or its ``.metadata``) at the canonical `url`."""
        written, hashes = self.files.get(file_name(url), ("", {}))
        return hashes if written and urldefrag(urljoin(self.url, written)).url == urldefrag(url).url else {}


def normalized(name: str) -> str:
    """The project's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def file_name(url: str) -> str:
    """The last segment of `url`'s path, decoded; empty for what is no URL."""
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return ""


def is_distribution(url: str) -> bool:
    """Whether `url` names a distribution or its ``.metadata``, which nobody serves as HTML."""
    return re.search(_DISTRIBUTION, file_name(url).removesuffix(".metadata")) is not None


def number(text: str) -> int | None:
    """The non-negative integer that a stranger's `text` spells in at most 18 digits; ``None`` for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def decode(body: bytes, encoding: str, limit: int = MAX_DECODED) -> bytes:
    """`body` with its Content-Encoding undone; raises NotAPage, TooBig beyond `limit` bytes.

    Only gzip and deflate: no others are asked for.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        if len(body) > limit:
            raise TooBig(f"answered with a page of more than {limit >> 20} MiB")
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise NotAPage(f"answered in the encoding {encoding!r}, which was not asked for")
    # deflate is zlib's format (RFC 9110, 8.4.1.2), though some servers send it raw
    raw = encoding == "deflate" and (len(body) < 2 or int.from_bytes(body[:2], "big") % 31 or body[0] & 15 != 8)
    window = -zlib.MAX_WBITS if raw else zlib.MAX_WBITS + 32  # + 32: zlib's format or gzip's
    decoded, decoder = bytearray(), zlib.decompressobj(window)
    # In slices, as each of millions of empty members would copy all that follows it.
    for start in range(0, len(body), _SLICE):
        rest = body[start : start + _SLICE]
        while rest:
            if decoder.eof:  # gzip data may consist of several members (RFC 1952, section 2.2)
                decoder = zlib.decompressobj(window)
            try:
                decoded += decoder.decompress(rest, limit + 1 - len(decoded))
            except zlib.error as exc:
                raise NotAPage(f"answered with damaged {encoding} data ({exc})") from exc
            if len(decoded) > limit:
                raise TooBig(f"answered with a page that opens to more than {limit >> 20} MiB")
            rest = decoder.unused_data
    if not decoder.eof:
        raise NotAPage(f"answered with {encoding} data cut short")
    return bytes(decoded)


def inspect(url: str, content_type: str, body: bytes, *, framed: bool, strict: bool) -> Page:
    """What the decoded `body` of the page at the canonical `url` promises; raises NotAPage.

    :param framed: whether the transfer itself told the end (a length, chunks), or the connection just closed
    :param strict: whether the URL is an index's, where nothing but the simple API is acceptable (PEP 691);
        elsewhere (``--find-links``) any whole HTML page is
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if strict and (JSON_TYPE.match(media_type) or HTML_TYPE.match(media_type)):
        charset = _CHARSET.search(content_type)
        _check_charset(body, charset[1] if charset else "utf-8")
    if JSON_TYPE.match(media_type):
        return _inspect_json(url, body)
    if HTML_TYPE.match(media_type):
        return _inspect_html(url, body, framed=framed, strict=strict)
    if strict:
        raise NotAPage(f"answered with {media_type or 'no Content-Type'}, which is no index page")
    return Page(url)


_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.I)
_ASCII = bytes(range(32, 127))


def _check_charset(body: bytes, charset: str) -> None:
    """Whether the tool will read what is read here: `body` is text in `charset`, of which ASCII is a part."""
    try:
        # in this order: punycode and idna, which take quadratic time, are out before they see the body
        sound = _ASCII.decode(charset) == _ASCII.decode("ascii")
        if sound:
            body.decode(charset)
    except (LookupError, ValueError):
        sound = False
    if not sound:
        raise NotAPage(f"answered with a page that is not in {charset}, as it claims to be")


_LIST = re.compile(rb'"(?:files|projects)"\s*:\s*\[')
_JSON_SERIAL = re.compile(rb'"_last-serial"\s*:\s*([0-9]{1,18})\s*[,}]')


def _inspect_json(url: str, body: bytes) -> Page:
    # To parse it as well as the tool would cost a run with nothing wrong some 3 %. A cut leaves a bracket open;
    # where they do not match, a string may hold one.
    text = body.strip()
    matched = all(text.count(one) == text.count(other) for one, other in ((b"{", b"}"), (b"[", b"]")))
    if not (matched and text.startswith(b"{") and text.endswith(b"}")):
        try:
            json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise NotAPage(f"answered with damaged JSON ({exc})") from exc
    if not text.startswith(b"{") or not _LIST.search(text):
        raise NotAPage("answered with JSON that is no index page")
    serial = _JSON_SERIAL.search(text)
    return Page(url, body, is_json=True, serial=int(serial[1]) if serial else 0)


def _json_files(body: bytes) -> Iterator[tuple[str, tuple[str, Hashes]]]:
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):  # the tool will say so
        return
    files = data.get("files")
    for file in files if isinstance(files, list) else ():
        written = file.get("url") if isinstance(file, dict) else None
        name = file_name(written) if isinstance(written, str) else ""
        if isinstance(written, str) and name:
            yield name, (written, _hashes(file.get("hashes")))
            # PEP 714: the key's old name still stands in some indexes
            metadata = file.get("core-metadata", file.get("dist-info-metadata"))
            yield name + ".metadata", (urldefrag(written).url + ".metadata", _hashes(metadata))


def _hashes(value: object) -> Hashes:
    if not isinstance(value, dict):
        return {}
    return {str(k): v.lower() for k, v in value.items() if isinstance(v, str)}


# Latin-1 maps every byte to one character, so that a charset that lies cannot hide ASCII markup.
# Compiled by the first HTML page: most runs see none.
_ANCHOR = r"(?i)<a\b([^>]*)>"
_ATTRIBUTE = r"""([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
_SERIAL = r"(?i)<!--\s*SERIAL\s+(\d{1,18})\s*-->"
_FORM = r"(?i)<form\b|<input\b[^>]*\bpassword"
_ANY_DISTRIBUTION = r"(?i)\.(?:whl|tar\.gz|zip|tar\.bz2|tgz|egg|exe|tar\.xz|tar)\b"
_DISTRIBUTION = _ANY_DISTRIBUTION + "$"


def _inspect_html(url: str, body: bytes, *, framed: bool, strict: bool) -> Page:
    text = body.decode("latin-1")
    lower = text[-4096:].lower().rstrip()
    # PEP 503 pages are HTML5, which lets the end tag out; but where there is a beginning, the end was cut.
    opened = "<html" in text[:4096].lower()
    if (strict or not framed) and ((opened and "</html" not in lower) or text.rfind("<") > text.rfind(">")):
        raise NotAPage("answered with an HTML page that stops in the middle")
    page = Page(url, body)
    if strict and re.search(_FORM, text) and not any(re.search(_DISTRIBUTION, name) for name in page.files):
        raise NotAPage("answered with a form instead of an index page: a login page?")
    serial = re.search(_SERIAL, text)
    empty = not re.search(_ANY_DISTRIBUTION, text)
    return replace(page, serial=int(serial[1]) if serial else 0, empty=empty)


def _html_files(body: bytes) -> Iterator[tuple[str, tuple[str, Hashes]]]:
    for anchor in re.finditer(_ANCHOR, body.decode("latin-1")):
        attributes = {
            name.lower(): html.unescape(double or single or bare)
            for name, double, single, bare in re.findall(_ATTRIBUTE, anchor[1])
        }
        written, _, fragment = attributes.get("href", "").partition("#")
        if name := file_name(written):
            yield name, (written, fragment_hashes(fragment))
            metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata", ""))
            yield name + ".metadata", (written + ".metadata", fragment_hashes(metadata))


def fragment_hashes(fragment: str) -> Hashes:
    """The hash that a link's ``#sha256=...`` promises (PEP 503); empty if there is none."""
    algorithm, _, digest = fragment.partition("=")
    digest = digest.partition("&")[0]
    return {algorithm: digest.lower()} if algorithm in _ALGORITHMS and digest else {}


_ALGORITHMS = frozenset({"sha256", "sha384", "sha512", "sha224", "sha1", "md5"})
