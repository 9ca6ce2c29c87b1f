"""An index's pages as values: the project list and a project's detail, in JSON (PEP 691) or HTML (PEP 503). Pure.

A page is taken whole or not at all: what was cut short, or is no index page, raises NotAPage. Within a page that is
one, what cannot be published is put aside as a `Rejection`, and what is no value of its field is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urljoin

from cdn_fallback.mirror import names
from cdn_fallback.mirror.model import QUARANTINED, File, Project, Rejection
from cdn_fallback.mirror.sources.simple_api import index_fields as fields
from cdn_fallback.mirror.sources.simple_api.index_html import HtmlPage, as_json, project_names

_TYPE = re.compile(r"application/vnd\.pypi\.simple\.v([0-9]{1,9})\+(json|html)")
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.I)
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
_VERSION = re.compile(r"([0-9]{1,9})\.[0-9]{1,9}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_FILE_KEYS = frozenset(
    (
        *("filename", "url", "hashes", "size", "upload-time", "requires-python", "yanked", "provenance"),
        *fields.CORE_METADATA,
    )
)
_PROJECT_KEYS = frozenset(("meta", "name", "files", "versions", "project-status"))
_META_KEYS = frozenset(("api-version", "_last-serial"))


class NotAPage(ValueError):
    """The body is not the index page that it should be: `reason` says why, as a phrase that follows its URL."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Document(NamedTuple):
    """An answer of status 200.

    `url` is where it came from, after redirects; `serial` what its header X-PyPI-Last-Serial says.
    """

    url: str
    content_type: str
    body: bytes
    serial: str = ""


class Projects(NamedTuple):
    """A project list: normalised name -> the project's serial, where the list tells it."""

    serials: Mapping[str, int | None]
    serial: int | None = None
    rejected: tuple[Rejection, ...] = ()


class Detail(NamedTuple):
    """A project's page. `sure` is False for one without links which nothing tells from any other page."""

    project: Project
    sure: bool = True


def read_list(document: Document) -> Projects:
    """The project list; raises NotAPage."""
    parsed = _parsed(document)
    if isinstance(parsed, HtmlPage):
        written, others = project_names(parsed, document.url)
        if not written and not parsed.is_recognised:
            raise NotAPage("is an HTML page without links to projects: no project list")
        rejected = [Rejection(link, "is a link that leads to no project") for link in others]
        return _projects([(name, None) for name in written], rejected, _serial(parsed.serial, document))
    entries = parsed.get("projects")
    if not isinstance(entries, list):
        raise NotAPage("is JSON without a list of projects")
    pairs: list[tuple[str, int | None]] = []
    rejected = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str):
            pairs.append((name, fields.serial(entry.get("_last-serial"))))
        else:
            rejected.append(Rejection(_shown(entry), "is an entry without a name"))
    return _projects(pairs, rejected, _serial(_meta(parsed).get("_last-serial"), document))


def _projects(pairs: list[tuple[str, int | None]], rejected: list[Rejection], serial: int | None) -> Projects:
    found: dict[str, int | None] = {}
    for written, number in pairs:
        try:
            name = names.normalised(written)
        except names.BadName as exc:
            rejected.append(Rejection(_shown(written), exc.reason))
            continue
        # listed twice, under two spellings: the later change counts
        known = found.get(name)
        found[name] = number if known is None or (number is not None and number > known) else known
    return Projects(found, serial, tuple(rejected))


def read_project(document: Document, name: str) -> Detail:
    """The page of the project with the normalised `name`, files linked to where the index has them; NotAPage."""
    parsed = _parsed(document)
    if isinstance(parsed, HtmlPage):
        return _html_detail(parsed, name, document)
    if not isinstance(parsed.get("files"), list):
        raise NotAPage("is JSON without a list of files")
    display = parsed.get("name")
    if not _is_spelling(display, name):
        raise NotAPage(f"is the page of another project: {_shown(display)}")
    return Detail(_project(parsed, name, str(display), document.url, document))


def _html_detail(page: HtmlPage, name: str, document: Document) -> Detail:
    base = urljoin(document.url, page.base.strip()) if page.base else document.url
    heading = page.heading or ""
    if _is_name(heading) and not _is_spelling(heading, name):
        raise NotAPage(f"is the page of another project: {_shown(heading)}")
    project = _project(as_json(page), name, heading if _is_name(heading) else name, base, document)
    told = "pypi:repository-version" in page.meta or page.serial is not None or _is_name(heading)
    return Detail(project, sure=told or bool(project.files))


def _project(page: Mapping[str, Any], name: str, display: str, base: str, document: Document) -> Project:
    files: dict[str, File] = {}
    rejected: list[Rejection] = []
    for entry in page["files"]:
        found = _file(entry, name, base, document.url)
        if isinstance(found, File) and found.filename in files:
            found = Rejection(found.filename, "stands on the page twice")
        if isinstance(found, Rejection):
            rejected.append(found)
        else:
            files[found.filename] = found
    said = [names.canonical(version) for version in fields.versions(page.get("versions"))]
    status, reason = fields.status(page.get("project-status"))
    if status == QUARANTINED:
        files = {}
    meta = _meta(page)
    return Project(
        name,
        display,
        files=tuple(files[filename] for filename in sorted(files)),
        versions=names.in_order([*said, *(file.version for file in files.values())]),
        serial=_serial(meta.get("_last-serial"), document),
        status=status,
        status_reason=reason,
        meta=_rest(meta, _META_KEYS),
        extra=_rest(page, _PROJECT_KEYS),
        rejected=tuple(rejected),
    )


def _file(entry: object, project: str, base: str, page: str) -> File | Rejection:
    data = entry if isinstance(entry, dict) else {}
    filename, url = data.get("filename"), data.get("url")
    if not isinstance(filename, str) or not isinstance(url, str):
        return Rejection(_shown(filename or entry), "is an entry without a file name or URL")
    try:
        version = names.version_of(filename, project)
        link = _link(page, base, url)
    except (names.BadName, fields.BadLink) as exc:
        return Rejection(_shown(filename), exc.reason)
    hashes = fields.hashes(data.get("hashes"))
    if data.get("hashes") and not hashes:
        return Rejection(filename, "has hashes that are none")
    return File(
        filename,
        version,
        url=link,
        hashes=hashes,
        size=fields.size(data.get("size")),
        upload_time=fields.upload_time(data.get("upload-time")),
        requires_python=fields.requires_python(data.get("requires-python")),
        yanked=fields.yanked(data.get("yanked")),
        core_metadata=fields.core_metadata(data),
        provenance=_provenance(page, base, data.get("provenance")),
        extra=_rest(data, _FILE_KEYS),
    )


def _link(page: str, base: str, written: str) -> str:
    """`written`, seen from `base`; the page that holds it may be https when its base is not."""
    return fields.link(page, fields.link(base, written))


def _provenance(page: str, base: str, written: object) -> str | None:
    try:
        return _link(page, base, written) if isinstance(written, str) and written else None
    except fields.BadLink:
        return None


def _parsed(document: Document) -> dict[str, Any] | HtmlPage:
    """The JSON object, or the HTML page, that the body is; raises NotAPage for what is neither, or not whole."""
    media_type = document.content_type.partition(";")[0].strip().lower()
    match = _TYPE.fullmatch(media_type)
    if match and int(match[1]) != 1:
        _refuse_version(match[1])
    if match and match[2] == "json":
        data = _json(document.body)
        _check_version(_meta(data).get("api-version"))
        return data
    if not match and media_type != "text/html":
        raise NotAPage(f"is of the type {media_type or '(none)'}, which is no index page")
    page = HtmlPage(_text(document))
    if not page.is_whole:
        raise NotAPage("is an HTML page that was cut short")
    # devpi's own pages have a form, to refresh them
    if page.has_form and not page.is_recognised and not any(anchor.leads_to_file for anchor in page.anchors):
        raise NotAPage("is an HTML page with a form and without a file: a login page?")
    _check_version(page.meta.get("pypi:repository-version"))
    return page


def _json(body: bytes) -> dict[str, Any]:
    try:
        # NaN and the infinities are no JSON (RFC 8259, section 6): we would write them out again
        data: Any = json.loads(body, parse_constant=_refuse_number, parse_float=_finite)
        if _SURROGATE.search(body):  # half a character cannot be written out again
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise NotAPage(f"is damaged JSON, or was cut short ({exc})") from exc
    if not isinstance(data, dict):
        raise NotAPage("is JSON that is no index page")
    return data


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse_number(text)


def _text(document: Document) -> str:
    charset = _CHARSET.search(document.content_type)
    name = charset[1].lower() if charset else "utf-8"
    try:
        if name not in _CHARSETS:
            raise LookupError(name)
        return document.body.decode(name)
    except (LookupError, UnicodeDecodeError) as exc:
        raise NotAPage(f"is not text in {name[:40]}, as it should be") from exc


def _check_version(value: object) -> None:
    """PEP 629: a major version that is not known is an error; none told is 1.0."""
    if value is None:
        return
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise NotAPage(f"has {_shown(value)} for an API version")
    if int(match[1]) > 1:
        _refuse_version(match[0])


def _refuse_version(version: str) -> NoReturn:
    raise NotAPage(f"is of version {version} of the simple API, of which this cdn-fallback knows 1.x: use a newer one")


def _meta(page: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = page.get("meta")
    return meta if isinstance(meta, dict) else {}


def _serial(value: object, document: Document) -> int | None:
    said = fields.serial(value)
    return fields.serial(document.serial.strip()) if said is None else said


def _is_spelling(written: object, name: str) -> bool:
    return _is_name(written) and names.normalised(str(written)) == name


def _is_name(written: object) -> bool:
    try:
        return isinstance(written, str) and bool(names.normalised(written))
    except names.BadName:
        return False


def _rest(data: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in known}


def _shown(value: object) -> str:
    """What a rejection calls something that a stranger's page holds."""
    return value[:200] if isinstance(value, str) else repr(value)[:200]
