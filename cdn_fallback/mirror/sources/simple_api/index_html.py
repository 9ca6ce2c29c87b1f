"""An index's HTML page (PEP 503 to 792) as the JSON page that says the same. Pure.

What JSON says in a key of its own stands here in attributes, meta tags and a comment. Nothing is checked yet but
that the page is whole: `index_page` does that for both.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from cdn_fallback.mirror.sources.simple_api import index_fields as fields

Attributes = dict[str, str]

_SERIAL = re.compile(r"\s*SERIAL\s+([0-9]{1,18})\s*")
# As PyPI, devpi ("root/pypi: links for six"), bandersnatch and dumb-pypi have it.
_HEADING = re.compile(r"\b(?:links for\s+(\S{1,200})\s*$|simple (?:index|list|package repository)\b)", re.I)


class Anchor(NamedTuple):
    """A link as written. `text` is what stands between its tags."""

    href: str
    attributes: Attributes
    text: str

    @property
    def leads_to_file(self) -> bool:
        """Not to a folder, as the ways back and up that web servers write into their own listings."""
        return bool(_last_segment(self.href))


class HtmlPage(HTMLParser):
    """What an index page may say in HTML. Feed it once, then read.

    `base` is the ``base href`` as written, `meta` the meta tags named ``pypi:...``, `heading` what an index page's
    title or first heading says: "" for the list, the project's name, ``None`` for another title.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base: str | None = None
        self.meta: Attributes = {}
        self.serial: int | None = None
        self.heading: str | None = None
        self.has_form = False
        self.anchors: list[Anchor] = []
        self._opened = False
        self._closed = False
        self._href: tuple[str, Attributes] | None = None
        self._text: list[str] = []
        self._in_heading = False
        self.feed(text)
        self.close()
        # HTML5 lets the end tags out; but where there is a beginning, the end was cut off
        cut = (self._opened and not self._closed) or text.rfind("<") > text.rfind(">")
        self.is_whole = not cut and self._href is None

    @property
    def is_recognised(self) -> bool:
        """Whether anything but its links tells that this is an index's page."""
        return "pypi:repository-version" in self.meta or self.serial is not None or self.heading is not None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes: Attributes = {}
        for name, value in attrs:
            attributes.setdefault(name, value or "")  # HTML5: the first of a name counts
        if tag == "a":
            self._end_anchor()
            self._href = (attributes["href"], attributes) if "href" in attributes else None
        elif tag == "html":
            self._opened = True
        elif tag == "base" and self.base is None:
            self.base = attributes.get("href")
        elif tag == "meta" and attributes.get("name", "").startswith("pypi:"):
            self.meta.setdefault(attributes["name"], attributes.get("content", ""))
        elif tag in ("form", "input"):
            self.has_form = True
        elif tag in ("title", "h1"):
            self._in_heading, self._text = True, []

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._end_anchor()
        elif tag == "html":
            self._closed = True
        elif tag in ("title", "h1") and self._in_heading:
            self._in_heading = False
            match = _HEADING.search("".join(self._text))
            if match and self.heading is None:
                self.heading = match[1] or ""

    def handle_data(self, data: str) -> None:
        if self._in_heading or self._href is not None:
            self._text.append(data)

    def handle_comment(self, data: str) -> None:
        if match := _SERIAL.fullmatch(data):
            self.serial = int(match[1])

    def _end_anchor(self) -> None:
        if self._href is not None:
            self.anchors.append(Anchor(*self._href, "".join(self._text).strip()))
        self._href, self._text = None, []


def as_json(page: HtmlPage) -> dict[str, Any]:
    """The project page that says in JSON what `page` says; without a name, which HTML does not tell."""
    meta: dict[str, Any] = {"_last-serial": page.serial}
    if "pypi:repository-version" in page.meta:
        meta["api-version"] = page.meta["pypi:repository-version"]
    made: dict[str, Any] = {"meta": meta, "files": [_file(anchor) for anchor in page.anchors if anchor.leads_to_file]}
    if status := page.meta.get("pypi:project-status"):
        made["project-status"] = {"status": status, "reason": page.meta.get("pypi:project-status-reason")}
    return made


def _last_segment(url: str) -> str:
    try:
        return unquote(urlsplit(url.strip()).path.rpartition("/")[2])
    except ValueError:
        return url


def _file(anchor: Anchor) -> dict[str, Any]:
    said = anchor.attributes
    url, _, fragment = anchor.href.partition("#")
    made: dict[str, Any] = {"filename": _last_segment(url), "url": url, "hashes": fields.fragment(fragment)}
    if "data-requires-python" in said:
        made["requires-python"] = said["data-requires-python"]
    if "data-yanked" in said:  # PEP 592: its presence is what counts
        made["yanked"] = said["data-yanked"] or True
    for key in ("core-metadata", "dist-info-metadata"):
        if (value := said.get(f"data-{key}")) is not None:
            made[key] = _metadata(value)
    if "data-provenance" in said:
        made["provenance"] = said["data-provenance"]
    if said.get("data-gpg-sig") in ("true", "false"):
        made["gpg-sig"] = said["data-gpg-sig"] == "true"
    return made


def _metadata(value: str) -> object:
    """PEP 658's attribute: "true", or a hash as ``sha256=...``; anything else is none."""
    return value.strip().lower() == "true" or fields.fragment(value.strip()) or False


def project_names(page: HtmlPage, url: str) -> tuple[list[str], list[str]]:
    """The names of the projects that the list `page` at `url` links to, as written; and links that cannot be told.

    Web servers' own listings cut long names in the text, caches write other hosts into the links: so a link counts
    if it leads to a folder of the list's own, or if its last part is its text. Those back and up do not.
    """
    base = urljoin(url, page.base or "")
    home = urldefrag(url).url.partition("?")[0].removesuffix("index.html")
    found: list[str] = []
    others: list[str] = []
    for anchor in page.anchors:
        try:
            target = urldefrag(urljoin(base, anchor.href.strip())).url.partition("?")[0].removesuffix("index.html")
        except ValueError:
            others.append(anchor.href)
            continue
        folder, _, name = target.removesuffix("/").rpartition("/")
        if f"{folder}/" == home or _same(unquote(name), anchor.text):
            found.append(unquote(name))
        elif not home.startswith(target.removesuffix("/") + "/"):
            others.append(anchor.href)
    return found, others


def _same(name: str, text: str) -> bool:
    return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", text.strip("/")).lower() != ""
