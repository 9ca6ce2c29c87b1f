"""Requests, and what CloudFront's function makes of them: as `negotiate`, but it cannot look into the bucket. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from cdn_fallback.mirror import negotiate, site
from cdn_fallback.mirror.edge.settings import Edge
from cdn_fallback.mirror.names import normalised
from cdn_fallback.mirror.negotiate import Found, NotFound, Redirect

_PIP = f"{site.JSON_TYPE}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
_BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"accept": _PIP},
    {"accept": _PIP, "accept-encoding": "gzip, deflate"},
    {"accept": _BROWSER, "accept-encoding": "gzip, deflate, br"},
    {"accept": "image/png", "accept-encoding": "gzip;q=0"},
)
_PATHS = (
    *("/simple/", "/simple", "/simple/six/", "/simple/six", "/simple/Zope.Interface", "/simple/Its_.-Name/"),
    *("/simple/index.html", "/simple/six/index.json", "/simple/Its_Name/index.html", "/simple/%73ix/"),
    *(
        "/simple/-x/",
        "/simple//six/",
        "/simple/../six/",
        "/simple/six/x",
        "/pypi/six/json",
        "/pypi/Six/json",
        "/pypi/six",
    ),
    *("/packages/six-1.0+local.tar.gz", "/packages/six-1.0%2Blocal.tar.gz", "/last-modified", "/", "/packages/"),
    *("/.cdn-fallback", "/%2ecdn-fallback", "/packages/%2e%2e/.cdn-fallback", "/a%2Fb", "/%zz", "/%ff"),
)


def cases(edge: Edge) -> list[dict[str, Any]]:
    """What is asked for and what `negotiate` says of it, for the function's own tests."""
    paths = [*_PATHS, *(f"/{tree}{rest}" for tree in edge.trees for rest in ("", "/", "/a%20b.html", "/.hidden"))]
    found = [_case(edge, path, headers, None) for path in paths for headers in _HEADERS]
    for value in ("", site.JSON_TYPE, "text%2Fhtml", "json", "//evil.example"):
        found += [_case(edge, path, _HEADERS[1], value) for path in ("/simple/six/", "/simple/Six")]
    for method in ("POST", "DELETE", "OPTIONS"):
        found.append({"uri": "/simple/", "headers": {}, "method": method, "status": 405})
    return found


def _case(edge: Edge, path: str, headers: dict[str, str], query_format: str | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"uri": path, "headers": headers}
    if query_format is not None:
        asked["format"] = query_format
    return {**asked, **expected(edge, path, headers, query_format)}


def expected(edge: Edge, path: str, headers: Mapping[str, str], query_format: str | None) -> dict[str, Any]:
    """What the function is to make of a request: a `key` (percent-encoded, with its slash), or a `status`, `location`.

    `negotiate` names two keys and takes the first that is there. A function cannot look: it takes the twin where there
    must be one. And it sends who asks for a tree to its slash, where `serve` would look for a page there.
    """
    wanted = negotiate.representation(headers.get("accept", ""), query_format)
    gzip = negotiate.accepts_gzip(headers.get("accept-encoding", ""))
    meaning = negotiate.locate(path, wanted, gzip, query_format=query_format, trees=edge.trees)
    if isinstance(meaning, Redirect):
        return {"status": 301, "location": meaning.location}
    if not isinstance(meaning, Found):
        return {"status": 404 if isinstance(meaning, NotFound) else 406}
    if meaning.keys[0] in edge.trees:
        return {"status": 301, "location": f"/{encoded(meaning.keys[0])}/"}
    return {
        "key": "/"
        + encoded(meaning.keys[0] if len(meaning.keys) == 1 or _has_twin(meaning.keys[-1]) else meaning.keys[-1])
    }


def _has_twin(key: str) -> bool:
    """Whether a page with this key is published with its twin: not that for a name as it is written."""
    name = key.split("/")[1]
    return name.startswith("index.") or name == normalised(name)


def encoded(key: str) -> str:
    """As JavaScript's encodeURIComponent writes each of its parts."""
    return quote(key, safe="/!'()*-._~")
