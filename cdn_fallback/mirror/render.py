"""The index's pages as bytes. Pure: the same project gives the same bytes, sorted, escaped, without a clock.

Simple repository API 1.4 (PEP 503, 592, 629, 658, 691, 700, 714, 740, 792) in JSON and HTML; PEP 833 freezes HTML
there, so that the two versions are constants of their own. Links are relative: a page is right on whatever host it
is read from, which is what makes it a copy of the origin's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape
from json.encoder import encode_basestring_ascii
from typing import Any
from urllib.parse import quote

from cdn_fallback.mirror.model import QUARANTINED, File, Project

JSON_VERSION = "1.4"
HTML_VERSION = "1.4"
# To be changed whenever the bytes of a page change: publishers then look at every page anew.
REVISION = 3

_UP = "../../"  # from simple/NAME/index.html to the root of the site

_text = encode_basestring_ascii  # a string as JSON, in ASCII


@lru_cache(maxsize=65536)
def _free(text: str) -> str:
    """Text of somebody's, for an attribute or between tags.

    setuptools, and so buildout, looks for links with a regular expression, also in what other attributes hold: an
    equals sign behind the word is written as a reference, which everybody else reads as the sign.
    """
    return escape(text).replace("=", "&#61;") if "href" in text.lower() else escape(text)


def project_json(project: Project, serial: int) -> bytes:
    """The project detail page, `application/vnd.pypi.simple.v1+json`. `serial` is the project's `_last-serial`."""
    # PEP 691: what a client does not know it ignores, so that a source's unknown keys may be passed on
    parts = _extras(project.extra, ("alternate-locations", "files", "meta", "name", "project-status", "versions"))
    parts["files"] = f"[{','.join(map(_file_json, offered(project)))}]"
    meta = _extras(project.meta, ("_last-serial", "api-version"))
    parts["meta"] = _object(meta | {"_last-serial": str(serial), "api-version": f'"{JSON_VERSION}"'})
    parts["name"] = _text(project.name)
    if project.status:
        status = {"status": _text(project.status)}
        if project.status_reason:
            status["reason"] = _text(project.status_reason)
        parts["project-status"] = _object(status)
    parts["versions"] = f"[{','.join(map(_text, project.versions))}]"
    return _object(parts).encode("ascii")


def project_html(project: Project, serial: int) -> bytes:
    """The project detail page, `text/html` in UTF-8."""
    head = f'<meta name="pypi:repository-version" content="{HTML_VERSION}">'
    if project.status:
        head += f'\n<meta name="pypi:project-status" content="{_free(project.status)}">'
    if project.status and project.status_reason:
        head += f'\n<meta name="pypi:project-status-reason" content="{_free(project.status_reason)}">'
    title = f"Links for {escape(project.display)}"
    links = "".join(map(_file_html, offered(project)))
    return _document(head, title, f"<h1>{title}</h1>\n{links}", serial)


def offered(project: Project) -> tuple[File, ...]:
    """The files that clients are told of: of a quarantined project none (PEP 792)."""
    return () if project.status == QUARANTINED else project.files


def list_json(projects: Iterable[tuple[str, str, int]], serial: int) -> bytes:
    """The project list of (name, display name, serial), sorted by name."""
    lines = ",".join([f'{{"_last-serial":{number},"name":{_text(display)}}}' for _, display, number in projects])
    meta = f'{{"_last-serial":{serial},"api-version":"{JSON_VERSION}"}}'
    return f'{{"meta":{meta},"projects":[{lines}]}}'.encode("ascii")


def list_html(projects: Iterable[tuple[str, str, int]], serial: int) -> bytes:
    """The project list as `list_json`, in HTML."""
    head = f'<meta name="pypi:repository-version" content="{HTML_VERSION}">'
    # Both names passed the allow-list of `names`; they are escaped all the same.
    links = "".join([f'<a href="{escape(name)}/">{escape(display)}</a><br>\n' for name, display, _ in projects])
    return _document(head, "Simple index", links, serial)


def redirect_html(display: str, name: str) -> bytes:
    """For the name as its owners write it, where a server knows no better than to send this page (PEP 503)."""
    target = f"../{escape(name)}/"
    head = f'<meta http-equiv="refresh" content="0; url={target}">\n<link rel="canonical" href="{target}">'
    return _document(head, escape(display), f'<a href="{target}">{escape(display)}</a>\n', None)


def legacy_json(project: Project, serial: int, base: str) -> bytes:
    """`/pypi/NAME/json`, as mirroring tools read it; `base` is the site's URL. Of `info` only what an index knows."""
    files = offered(project)
    releases: dict[str, list[str]] = {version: [] for version in project.versions}
    for file in files:
        releases.setdefault(file.version, []).append(_release_file(file, base))
    newest = _newest(project.versions, files)
    of_newest = [file for file in files if file.version == newest]
    python = next((file.requires_python for file in of_newest if file.requires_python), None)
    yanked = bool(of_newest) and all(file.yanked is not None for file in of_newest)
    info = {
        "name": _text(project.display),
        "requires_python": _text(python) if python else "null",
        "version": _text(newest),
        "yanked": "true" if yanked else "false",
        "yanked_reason": (_text(of_newest[0].yanked or "") if yanked and of_newest[0].yanked else "null"),
    }
    lists = {version: f"[{','.join(found)}]" for version, found in releases.items()}
    return _object(
        {
            "info": _object(info),
            "last_serial": str(serial),
            "releases": _object(lists),
            "urls": lists.get(newest, "[]"),
        }
    ).encode("ascii")


def _newest(versions: Iterable[str], files: Iterable[File]) -> str:
    """The version that `info` is about: the last one with files, a final one that is not yanked if there is any."""
    standing = {file.version for file in files if file.yanked is None}
    yanked = {file.version for file in files}
    found = list(versions)
    final = [version for version in found if version in standing and _FINAL.fullmatch(version)]
    ranks = (final, [v for v in found if v in standing], [v for v in found if v in yanked], found, [""])
    return next(rank[-1] for rank in ranks if rank)


def _python(filename: str, ending: str) -> str:
    """Which Python a file is for, as PyPI has it in this page."""
    parts = filename.removesuffix(ending).split("-")
    if ending == ".whl":
        return parts[-3]
    return next((part[2:] for part in parts if re.fullmatch(r"py[23](?:\.[0-9]+)?", part)), "source")


# What the kinds of files are called that are no sdists
_KINDS = {
    ".deb": "bdist_deb", ".dmg": "bdist_dmg", ".egg": "bdist_egg", ".exe": "bdist_wininst", ".msi": "bdist_msi",
    ".rpm": "bdist_rpm", ".whl": "bdist_wheel",
}  # fmt: skip
_FINAL = re.compile(r"(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*(?:\.post[0-9]+)?")  # PEP 440, normalised: no pre-release


def _file_json(file: File) -> str:
    """One file of PEP 691, its keys sorted. What is not known is left out: installers take null amiss (FACTS)."""
    filename, _, _, _, hashes, size, time, python, yanked, core, provenance, extra, _, _ = file
    text = _text(filename)
    line = f'"filename":{text},"hashes":{_hashes_json(hashes)}'
    if core is not None:
        line = f'"core-metadata":{_hashes_json(core) if core else "true"},{line}'
    if provenance is not None:
        line += f',"provenance":{_text(provenance)}'
    if python is not None:
        line += f',"requires-python":{_text(python)}'
    if size is not None:
        line += f',"size":{size}'
    if time is not None:
        line += f',"upload-time":{_text(time)}'
    line += f',"url":{_text(link(file))}'
    if yanked is not None:
        line += f',"yanked":{_text(yanked) if yanked else "true"}'
    if extra:
        known = (
            "core-metadata", "data-dist-info-metadata", "dist-info-metadata", "filename", "hashes", "provenance",
            "requires-python", "size", "upload-time", "url", "yanked",
        )  # fmt: skip
        for key, value in _extras(extra, known).items():
            line += f",{_text(key)}:{value}"
    return f"{{{line}}}"


def _file_html(file: File) -> str:
    filename, _, _, _, hashes, _, _, python, yanked, core, provenance, _, _, _ = file
    # what `href` made needs no escaping
    target = _UP + href(file.object_key) if file.key else escape(file.url)
    line = f'<a href="{target}{_fragment(hashes)}"'
    if python is not None:
        line += f' data-requires-python="{_free(python)}"'
    if yanked is not None:
        line += f' data-yanked="{_free(yanked)}"'
    if core is not None:
        # PEP 714: under both names, or pip before 23.2 reads nothing
        value = _pair(core) or "true"
        line += f' data-core-metadata="{value}" data-dist-info-metadata="{value}"'
    if provenance is not None:
        line += f' data-provenance="{_free(provenance)}"'
    return f"{line}>{escape(filename)}</a><br>\n"


def _release_file(file: File, base: str) -> str:
    ending = file.filename[file.filename.rfind(".") :]
    time = file.upload_time
    core = file.core_metadata
    return _object(
        {
            # without it bandersnatch leaves FILE.metadata where it is
            "core-metadata": "false" if core is None else _hashes_json(core) if core else "true",
            "digests": _hashes_json(file.hashes),
            "filename": _text(file.filename),
            "packagetype": _text(_KINDS.get(ending, "sdist")),
            "python_version": _text(_python(file.filename, ending)),
            "requires_python": "null" if file.requires_python is None else _text(file.requires_python),
            "size": "null" if file.size is None else str(file.size),
            "upload_time": "null" if time is None else _text(time.partition(".")[0].rstrip("Z")),
            "upload_time_iso_8601": "null" if time is None else _text(time),
            "url": _text(base + href(file.object_key) if file.key else file.url),
            "yanked": "false" if file.yanked is None else "true",
            "yanked_reason": _text(file.yanked) if file.yanked else "null",
        }
    )


def link(file: File) -> str:
    """Where a project's page says that the file is."""
    return _UP + href(file.object_key) if file.key else file.url


def href(key: str) -> str:
    """An object's key as the path of a URL. S3 takes a bare `+` for a space, so that it is encoded."""
    return quote(key, safe="/!~@=,")


def _document(head: str, title: str, body: str, serial: int | None) -> bytes:
    comment = "" if serial is None else f"<!--SERIAL {serial}-->\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}\n<title>{title}</title>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n{comment}"
    ).encode()


def _fragment(hashes: Mapping[str, str]) -> str:
    return f"#{_pair(hashes)}" if hashes else ""


def _pair(hashes: Mapping[str, str]) -> str:
    """`algorithm=hex` of one hash, escaped: HTML has place for one, and sha256 is what every client checks."""
    sha256 = hashes.get("sha256", "")
    if sha256.isalnum():
        return f"sha256={sha256}"
    return next((escape(f"{name}={hashes[name]}") for name in sorted(hashes)), "")


def _hashes_json(hashes: Mapping[str, str]) -> str:
    if len(hashes) == 1 and (sha256 := hashes.get("sha256", "")).isalnum():  # nearly all of them
        return f'{{"sha256":"{sha256}"}}'
    return "{" + ",".join([f"{_text(name)}:{_text(hashes[name])}" for name in sorted(hashes)]) + "}"


def _extras(mapping: Mapping[str, Any], known: Iterable[str]) -> dict[str, str]:
    """The members of `mapping` that are not `known`, as JSON, sorted."""
    return {
        key: json.dumps(mapping[key], sort_keys=True, separators=(",", ":"))
        for key in sorted(mapping.keys() - set(known))
    } if mapping else {}  # fmt: skip


def _object(members: Mapping[str, str]) -> str:
    """A JSON object of members that are JSON already, sorted."""
    return "{" + ",".join([f"{_text(key)}:{members[key]}" for key in sorted(members)]) + "}"
