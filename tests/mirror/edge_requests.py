"""Requests of all kinds for edges: what hypothesis makes of them, and as CloudFront tells a function of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from cdn_fallback.mirror import site

TREES = ("docs", "more/docs")

_NAMES = ["six", "Its_Name", "a..b", "A", "-x", "x-", "zope.interface", "index.html", "__proto__", "x" * 200, "x" * 201]
_PARTS = [
    *("simple", "pypi", "json", "json.gz", "index.html", "index.json", "index.html.gz", "index.json.gz", "index.xml"),
    *("docs", "more", "packages", "robots.txt", "last-modified", "a b", "f-1.0+local.whl", "f.metadata", "simple.", ""),
    *_NAMES,
]
_ODD = [
    "..",
    ".",
    ".cdn-fallback",
    "%2e",
    "%2E%2e",
    "%2ecdn-fallback",
    "%2F",
    "a%2Fb",
    "%5c",
    "\\",
    "a#b",
    "a?b",
    "%00",
]
_ODD += ["%0d%0a", "%7f", "%zz", "%", "%4", "%ff", "%C3%A9", "%c2%85", "%E2%80%AE", "%ED%A0%80", "é", "+", "%2B", "%25"]
_ODD += ["%252e", "s%69mple", "s%69x", "'", "(a)!*~", "a;b", "a&b", "a=b", '"', "<", "{}", "${x}", "`", "</script>"]


def _quoted(part: str) -> str:
    return part.replace(" ", "%20")


def _paths() -> st.SearchStrategy[str]:
    part = st.one_of(
        st.sampled_from([_quoted(one) for one in _PARTS]),
        st.sampled_from(_ODD),
        st.text("aZ0-._+%~é ", max_size=6),
        st.text(max_size=3),
    )
    usual = st.tuples(st.sampled_from(["simple", "pypi", "docs", "packages", ""]), st.lists(part, max_size=3))
    return st.one_of(
        usual.map(lambda found: "/" + "/".join([found[0], *found[1]])),
        st.sampled_from(_NAMES).flatmap(
            lambda name: st.sampled_from(
                [f"/simple/{name}", f"/simple/{name}/", f"/pypi/{name}/json", f"/pypi/{name}/json.gz"]
                + [f"/simple/{name}/index.{ending}" for ending in ("html", "json", "html.gz", "json.gz")]
            )
        ),
        st.lists(part, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    )


# What a header may hold (RFC 9110, section 5.5), but for what is beyond ASCII
_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\t"), max_size=12)
_KINDS = ["*/*", "text/*", "application/*", "text/html", "TEXT/HTML", "image/png", "application/json", "constructor"]
_KINDS += [f"application/vnd.pypi.simple.{v}+{f}" for v in ("v1", "latest", "v2") for f in ("html", "json")]
_WEIGHTS = ["", "q=0", "q=1", "q=0.5", "Q=0.30", " q=0.001 ", "q=1.000", "q=", "q=2", "q=-1", "q=nan", "q=0.", "q=.5"]


def _list_of(kinds: list[str]) -> st.SearchStrategy[str]:
    parameter = st.sampled_from([*_WEIGHTS, "charset=utf-8", "x", ""]) | _TEXT
    member = st.tuples(st.sampled_from(kinds) | _TEXT, st.lists(parameter, max_size=3))
    text = st.tuples(member, st.sampled_from([";", " ; ", "\t;"])).map(lambda one: one[1].join([one[0][0], *one[0][1]]))
    return st.lists(text, max_size=4).flatmap(
        lambda parts: st.sampled_from([",", ", ", " ,\t"]).map(lambda c: c.join(parts))
    )


_FORMATS = [
    site.JSON_TYPE,
    "text/html",
    "text%2Fhtml",
    "TEXT%2fHTML",
    "application/vnd.pypi.simple.v1%2Bjson",
    "json",
    "",
]
_FORMATS += ["application%2Fvnd.pypi.simple.latest%20html", f"{site.JSON_TYPE};q=1", "//evil.example", "%0d%0aX:%20y"]


def _queries() -> st.SearchStrategy[str]:
    value = st.sampled_from(_FORMATS) | st.text("a=%+/.", max_size=5)
    name = st.sampled_from(["format", "FORMAT", "Format", "myformat", "a"])
    return st.lists(st.tuples(name, value).map("=".join), max_size=3).map("&".join)


class Asked(NamedTuple):
    """A request."""

    path: str
    query: str = ""
    accept: str = ""
    encoding: str = ""
    method: str = "GET"

    def event(self) -> dict[str, Any]:
        """As CloudFront tells a function of it (Developer Guide, "CloudFront Functions event structure")."""
        querystring: dict[str, Any] = {}
        for part in self.query.split("&") if self.query else []:
            name, _, value = part.partition("=")
            if name in querystring:
                one = querystring[name]
                one.setdefault("multiValue", [{"value": one["value"]}]).append({"value": value})
            else:
                querystring[name] = {"value": value}
        headers = {"host": {"value": "cdn.example.net"}}
        headers |= {"accept": {"value": self.accept}} if self.accept else {}
        headers |= {"accept-encoding": {"value": self.encoding}} if self.encoding else {}
        request = {
            "method": self.method,
            "uri": self.path,
            "querystring": querystring,
            "headers": headers,
            "cookies": {},
        }
        return {"version": "1.0", "context": {"eventType": "viewer-request"}, "viewer": {}, "request": request}


def requests() -> st.SearchStrategy[Asked]:
    """All kinds of GET and HEAD."""
    encodings = _list_of(["gzip", "GZIP", "br", "identity", "*", "xgzip", "deflate"])
    methods = st.sampled_from(["GET", "HEAD"])
    return st.builds(Asked, _paths(), _queries(), _list_of(_KINDS), encodings, methods)
