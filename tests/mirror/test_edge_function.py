"""CloudFront's function, as it is written, in node: it makes of every request what `negotiate` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given, settings

from cdn_fallback.mirror import edge, negotiate, site
from cdn_fallback.mirror.edge.cloudfront import FUNCTION_MAX, function
from cdn_fallback.mirror.edge.settings import Edge
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.negotiate import Found, NotAcceptable, NotFound, Redirect
from tests.mirror.edge_requests import TREES, Asked, requests
from tests.rig.node import Function

TEMPLATE = Path(edge.__file__).with_name("function.js").read_text("utf-8")
EDGE = Edge("example-mirror", "eu-central-1", "cdn.example.net", trees=TREES)
SOURCE = function(EDGE, TEMPLATE)
PIP = f"{site.JSON_TYPE}, text/html; q=0.01"

# Which pages have a twin in a bucket: all but those for names as they are written
TWIN = re.compile(
    r"(?:simple/(?:[a-z0-9]+(?:-[a-z0-9]+)*/)?index\.(?:html|json)|pypi/[a-z0-9]+(?:-[a-z0-9]+)*/json)\.gz"
)


@pytest.fixture(scope="module")
def handler() -> Iterator[Function]:
    with Function(SOURCE) as running:
        yield running


def told(got: dict[str, Any]) -> tuple[int, str]:
    """A status, and the key or the place to go to."""
    if "statusCode" not in got:
        assert got["querystring"] == {} and re.fullmatch(r"/[!-~]*", got["uri"])
        return 200, unquote(got["uri"][1:], errors="strict")
    return got["statusCode"], got["headers"].get("location", {}).get("value", "")


def meant(asked: Asked) -> tuple[int, str]:
    """What `negotiate` says; where that looks into the store, what must be there."""
    value = negotiate.format_of(asked.query)
    wanted, gzip = negotiate.representation(asked.accept, value), negotiate.accepts_gzip(asked.encoding)
    meaning = negotiate.locate(asked.path, wanted, gzip, query_format=value, trees=TREES)
    if isinstance(meaning, Redirect):
        return 301, meaning.location
    if isinstance(meaning, NotAcceptable):
        return 406, ""
    if isinstance(meaning, NotFound):
        return 404, ""
    assert isinstance(meaning, Found)
    if meaning.keys[0] in TREES:  # there can be no object: `serve` sends who asks for it to the folder, too
        return 301, f"/{meaning.keys[0]}/"
    return 200, next((key for key in meaning.keys if TWIN.fullmatch(key)), meaning.keys[-1])


def same(asked: Asked, got: tuple[int, str]) -> bool:
    """The one difference: a name with what cannot be printed is asked for, and no bucket of ours has it."""
    code, what = got
    return got == meant(asked) or (meant(asked) == (404, "") and code == 200 and not what.isprintable())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
@example(Asked("/simple/Its_Name", f"format={site.JSON_TYPE}", PIP))
@example(Asked("/simple/Its_Name/index.html", encoding="gzip"))
@example(Asked("/simple/six/", "", PIP, "gzip;q=0, gzip"))
@example(Asked("/docs", encoding="gzip"))
@example(Asked("/packages/f-1.0+local.whl"))
def test_the_function_does_what_negotiate_says(handler: Function, asked: Asked) -> None:
    got = handler(asked.event())
    assert same(asked, told(got)), (told(got), meant(asked))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_promise_no_redirect_leaves_this_host(handler: Function, asked: Asked) -> None:
    """Nor does one come back to where it came from, or carry a line's end."""
    code, place = told(handler(asked.event()))
    if code == 301:
        assert re.fullmatch(r"/(?!/)[!-~]*", place)
        path, _, query = place.partition("?")
        again = told(handler(asked._replace(path=path, query=query).event()))
        assert again[0] in (200, 406)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_no_hidden_part_and_no_mark_is_ever_asked_for(handler: Function, asked: Asked) -> None:
    code, key = told(handler(asked.event()))
    if code == 200:
        assert not [part for part in key.split("/") if part.startswith(".") or not part]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_can_only_be_read(handler: Function, method: str) -> None:
    got = handler(Asked("/simple/", method=method).event())
    assert (got["statusCode"], got["headers"]["allow"]["value"]) == (405, "GET, HEAD")


def test_several_headers_of_a_name_are_one_list(handler: Function) -> None:
    event = Asked("/simple/six/").event()
    values = [{"value": "text/html;q=0.1"}, {"value": site.JSON_TYPE}]
    event["request"]["headers"]["accept"] = {"value": values[0]["value"], "multiValue": values}
    assert handler(event)["uri"] == "/simple/six/index.json"


def test_redirects_are_kept_as_pages_are_and_errors_say_what_they_depend_on(handler: Function) -> None:
    got = handler(Asked("/simple/Six").event())
    assert got["headers"]["cache-control"]["value"] == site.PAGE
    assert handler(Asked("/simple/six/", accept="image/png").event())["headers"]["vary"]["value"] == "Accept"
    assert handler(Asked("/x/").event())["body"]["data"] == "There is no such page or file here.\n"
    assert handler(Asked("/x/", method="HEAD").event())["body"]["data"] == ""


@pytest.mark.parametrize(
    ("uri", "vary", "serial"),
    [
        ("/simple/", True, False),
        ("/simple/six/index.json.gz", True, False),
        ("/%73imple/six/", True, False),
        ("/pypi/six/json", True, True),
        ("/packages/six-1.0.tar.gz", False, False),
        ("/docs/simple/", False, False),
        ("/%zz", False, False),
    ],
)
def test_an_answer_says_what_it_depends_on(handler: Function, uri: str, vary: bool, serial: bool) -> None:
    """Whether CloudFront tells the address that was asked for, or the one that the function made of it."""
    response = {"statusCode": 200, "headers": {"etag": {"value": '"x"'}}}
    event = {"context": {"eventType": "viewer-response"}, "request": {"uri": uri}, "response": response}
    headers = handler(event)["headers"]
    assert headers.get("vary") == ({"value": negotiate.NEGOTIATED} if vary else None)
    assert headers.get(site.SERIAL_HEADER.lower()) == ({"value": site.NEW_ENOUGH} if serial else None)


def test_it_is_small_enough_with_trees_to_spare() -> None:
    assert len(SOURCE.encode()) < FUNCTION_MAX - 500
    with pytest.raises(NotConfigurable, match=r"^trees .* larger than the 10240 bytes .* into one folder$"):
        function(EDGE._replace(trees=tuple(f"documentation/of/project-{n}" for n in range(99))), TEMPLATE)


def test_it_uses_no_more_of_the_language_than_cloudfront_has() -> None:
    """CloudFront Developer Guide, "JavaScript runtime 2.0 features": ECMAScript 5.1, const, let, and a few others."""
    code = re.sub(r"//.*", "", re.sub(r"'[^'\n]*'|/\^.*/i?;", "''", SOURCE))
    absent = [r"\bof\b", r"\.\.\.", r"\bclass\b", r"\?\.", r"\?\?", r"=>", r"\basync\b", r"\brequire\b", r"\bimport\b"]
    absent += [r"\beval\b", r"\bnew\b", r"`", r"\bfunction\b[^)]*=", r"\b(?:const|let) [\[{]"]
    assert not [one for one in absent if re.search(one, code)]
    assert "@@" not in SOURCE and "/* " not in SOURCE
