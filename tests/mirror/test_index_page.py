"""An index's pages as values: what is taken, what is left out, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.sources.simple_api.index_page import (
    Detail,
    Document,
    NotAPage,
    Projects,
    read_list,
    read_project,
)

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html; charset=utf-8"
URL = "https://index.example.org/simple/"
SHA256 = "a" * 64


def listed(body: Any, content_type: str = JSON, serial: str = "") -> Projects:
    return read_list(Document(URL, content_type, _bytes(body), serial))


def detail(body: Any, content_type: str = JSON, name: str = "six", serial: str = "") -> Detail:
    return read_project(Document(f"{URL}{name}/", content_type, _bytes(body), serial), name)


def project(body: Any, content_type: str = JSON, name: str = "six") -> Project:
    return detail(body, content_type, name).project


def _bytes(body: Any) -> bytes:
    if isinstance(body, dict):
        return json.dumps(body).encode()
    return body.encode() if isinstance(body, str) else bytes(body)


def page(*files: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"meta": {"api-version": "1.4"}, "name": "six", "files": list(files), **keys}


def entry(filename: str = "six-1.0.tar.gz", /, **keys: Any) -> dict[str, Any]:
    return {"filename": filename, "url": f"../../packages/{filename}", "hashes": {"sha256": SHA256}, **keys}


def html(links: str, head: str = "", title: str = "Links for six") -> str:
    return f"<!DOCTYPE html><html><head>{head}<title>{title}</title></head><body>{links}</body></html>"


def only(found: Project) -> File:
    assert not found.rejected
    (file,) = found.files
    return file


# -- the list


def test_a_list_in_json_gives_names_and_serials() -> None:
    found = listed(
        {
            "meta": {"api-version": "1.4", "_last-serial": 9},
            "projects": [{"name": "Six", "_last-serial": 7}, {"name": "zope.interface"}],
        }
    )
    assert dict(found.serials) == {"six": 7, "zope-interface": None}
    assert found.serial == 9 and found.rejected == ()


def test_no_trust_in_names_hostile_ones_in_a_list_are_rejected_and_the_others_taken() -> None:
    names = ["../etc", "<b>", "a\nb", "six", "", 7, None]
    found = listed({"meta": {}, "projects": [*({"name": name} for name in names), "bare"]})
    assert list(found.serials) == ["six"]
    nameless = ["{'name': 7}", "{'name': None}", "bare"]
    assert [rejection.what for rejection in found.rejected] == [*nameless, "../etc", "<b>", "a\nb", ""]


def test_a_name_listed_in_two_spellings_has_the_later_serial() -> None:
    spellings = [{"name": "A.B", "_last-serial": 3}, {"name": "a-b", "_last-serial": 5}, {"name": "a_b"}]
    spellings.append({"name": "A-B", "_last-serial": 4})
    assert dict(listed({"meta": {}, "projects": spellings}).serials) == {"a-b": 5}


def test_a_list_in_html() -> None:
    links = '<a href="/simple/six/">Six</a><a href="zope-interface/">zope.inte..&gt;</a><a href="../">Up</a>'
    links += '<a href="?C=N;O=D">Name</a><a href="https://elsewhere.example.org/simple/foo/">foo</a>'
    links += '<a href="https://elsewhere.example.org/about/">Help</a><a href="%3Cb%3E/">b</a>'
    found = listed(html(links, title="Simple index") + "<!--SERIAL 12-->", HTML)
    assert dict(found.serials) == {"six": None, "zope-interface": None, "foo": None}
    assert found.serial == 12
    assert [rejection.what for rejection in found.rejected] == ["https://elsewhere.example.org/about/", "<b>"]


def test_the_header_tells_a_serial_where_the_page_has_none() -> None:
    assert listed({"meta": {}, "projects": []}, serial="12").serial == 12
    assert listed({"meta": {"_last-serial": 9}, "projects": []}, serial="12").serial == 9
    assert listed({"meta": {}, "projects": []}, serial="-1").serial is None
    assert listed(html("", title="Simple index"), HTML, serial="7").serial == 7


LOGIN = '<html><body><form action="/in"><input type="password"></form><a href="help/">help</a></body></html>'


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        ('{"meta": {}, "projects": [{"name": "six"}', JSON, "cut short"),
        ("[]", JSON, "no index page"),
        ('{"meta": {}}', JSON, "without a list"),
        ('{"meta": {}, "projects": {}}', JSON, "without a list"),
        ('{"meta": {"api-version": "2.0"}, "projects": []}', JSON, "version 2.0"),
        ('{"meta": {"api-version": "x"}, "projects": []}', JSON, "for an API version"),
        ('{"meta": {}, "projects": [NaN]}', JSON, "NaN"),
        ('{"meta": {}, "projects": [1e999]}', JSON, "1e999"),
        ('{"meta": {}, "projects": [{"name": "\\ud800"}]}', JSON, "damaged"),
        ("[" * 100_000, JSON, "damaged"),
        ("{}", "application/json", "no index page"),
        ("{}", "application/vnd.pypi.simple.v2+json", "version 2"),
        ("", "", "(none)"),
        ('<html><body><a href="six/">six</a>', HTML, "cut short"),
        ('<a href="six/">six</a><a href="sev', HTML, "cut short"),
        ('<a href="six/">six</a><a href="seven/">sev', HTML, "cut short"),
        ('<html><a href="six/">six</a></html><!--SERIAL 1', HTML, "cut short"),
        (LOGIN, HTML, "login page"),
        ("<html><body>Down for maintenance</body></html>", HTML, "no project list"),
        (html("", '<meta name="pypi:repository-version" content="2.0">'), HTML, "version 2.0"),
        (b"<html>\xff</html>", HTML, "not text in utf-8"),
        (b"<html></html>", "text/html; charset=punycode", "not text in punycode"),
    ],
)
def test_what_is_no_whole_list_is_refused(body: Any, content_type: str, why: str) -> None:
    with pytest.raises(NotAPage) as caught:
        listed(body, content_type)
    assert why in caught.value.reason


# -- a project


def test_complete_pages_in_json_are_taken_with_every_field_and_unknown_keys() -> None:
    found = project(
        page(
            entry(
                "six-1.0-py3-none-any.whl",
                size=12,
                **{
                    "upload-time": "2024-01-31T13:00:00+01:00",
                    "requires-python": ">=3.8",
                    "yanked": "bad",
                    "core-metadata": {"sha256": "B" * 64},
                    "provenance": "/integrity/six",
                    "gpg-sig": False,
                    "new-key": [1, {"a": None}],
                },
            ),
            name="Six",
            versions=["2.0", "1.0", "1.0.0", "<b>"],
            **{
                "meta": {"api-version": "1.9", "_last-serial": 5, "later": True},
                "project-status": {"status": "archived", "reason": "done"},
                "alternate-locations": [],
            },
        )
    )
    file = only(found)
    assert found._replace(files=()) == Project(
        "six",
        "Six",
        versions=("1.0", "1.0.0", "2.0"),
        serial=5,
        status="archived",
        status_reason="done",
        meta={"later": True},
        extra={"alternate-locations": []},
    )
    assert file == File(
        "six-1.0-py3-none-any.whl",
        "1.0",
        url="https://index.example.org/packages/six-1.0-py3-none-any.whl",
        hashes={"sha256": SHA256},
        size=12,
        upload_time="2024-01-31T12:00:00.000000Z",
        requires_python=">=3.8",
        yanked="bad",
        core_metadata={"sha256": "b" * 64},
        provenance="https://index.example.org/integrity/six",
        extra={"gpg-sig": False, "new-key": [1, {"a": None}]},
    )


def test_complete_pages_in_html_are_taken_with_every_field() -> None:
    head = '<meta name="pypi:repository-version" content="1.4"><base href="https://files.example.org/p/">'
    head += '<meta name="pypi:project-status" content="deprecated">'
    head += '<meta name="pypi:project-status-reason" content="old &amp; done">'
    link = f'<a href="a/six-1.0-py3-none-any.whl#sha256={SHA256}" data-requires-python="&gt;=3.8" data-yanked=""'
    link += f' data-dist-info-metadata="true" data-core-metadata="sha256={"b" * 64}" data-provenance="/x"'
    link += ' data-gpg-sig="true">six-1.0-py3-none-any.whl</a>'
    found = project(html(link, head, "Links for Six") + "<!--SERIAL 5-->", "application/vnd.pypi.simple.v1+html")
    assert only(found) == File(
        "six-1.0-py3-none-any.whl",
        "1.0",
        url="https://files.example.org/p/a/six-1.0-py3-none-any.whl",
        hashes={"sha256": SHA256},
        requires_python=">=3.8",
        yanked="",
        core_metadata={"sha256": "b" * 64},
        provenance="https://files.example.org/x",
        extra={"gpg-sig": True},
    )
    assert (found.display, found.serial, found.versions) == ("Six", 5, ("1.0",))
    assert (found.status, found.status_reason) == ("deprecated", "old & done")


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("", None),
        ('data-core-metadata="true"', {}),
        ('data-core-metadata="false"', None),
        ('data-core-metadata=""', None),
        ('data-dist-info-metadata="true"', {}),
        ('data-core-metadata="false" data-dist-info-metadata="true"', None),
    ],
)
def test_core_metadata_in_html(attribute: str, expected: object) -> None:
    assert only(project(html(f'<a href="six-1.0.tar.gz" {attribute}>x</a>'), HTML)).core_metadata == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"core-metadata": None}, None),
        ({"core-metadata": False}, None),
        ({"core-metadata": "true"}, None),
        ({"core-metadata": True}, {}),
        ({"core-metadata": {}}, {}),
        ({"core-metadata": {"sha256": "zz"}}, {}),
        ({"dist-info-metadata": {"sha256": SHA256}}, {"sha256": SHA256}),
        ({"data-dist-info-metadata": True}, {}),
        ({"core-metadata": False, "dist-info-metadata": True}, None),
        ({"core-metadata": {"sha256": SHA256}, "dist-info-metadata": False}, {"sha256": SHA256}),
    ],
)
def test_core_metadata_in_json_under_either_name(keys: dict[str, Any], expected: object) -> None:
    file = only(project(page(entry(**keys))))
    assert file.core_metadata == expected and not file.extra


@pytest.mark.parametrize(
    ("value", "expected"),
    [(False, None), ("", None), (None, None), (True, ""), ("why", "why"), (1, ""), ("a\x1b[31m\nb", "a [31m\nb")],
)
def test_yanked(value: object, expected: str | None) -> None:
    assert only(project(page(entry(yanked=value)))).yanked == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("size", 0, 0),
        ("size", -1, None),
        ("size", 1.5, None),
        ("size", "12", None),
        ("size", True, None),
        ("size", 2**63, None),
        ("upload-time", "2024-01-31T12:00:00.123456Z", "2024-01-31T12:00:00.123456Z"),
        ("upload-time", "2024-01-31T12:00:00", "2024-01-31T12:00:00.000000Z"),
        ("upload-time", "2024-01-31 12:00:00.5-0130", "2024-01-31T13:30:00.500000Z"),
        ("upload-time", "2024-02-31T12:00:00Z", None),
        ("upload-time", "0001-01-01T00:00:00+12:00", None),
        ("upload-time", "yesterday", None),
        ("upload-time", "", None),
        ("upload-time", 5, None),
        ("requires-python", " >=3.6.* ", ">=3.6.*"),
        ("requires-python", "", None),
        ("requires-python", ">=3\n<4", None),
        ("requires-python", ">=3\u202e", None),
        ("requires-python", [">=3"], None),
        ("requires-python", ">" * 500, None),
        ("provenance", None, None),
        ("provenance", "javascript:alert(1)", None),
        ("provenance", 5, None),
    ],
)
def test_what_is_no_value_of_its_field_is_left_out(key: str, value: object, expected: object) -> None:
    file = only(project(page(entry(**{key: value}))))
    assert getattr(file, key.replace("-", "_")) == expected


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ({}, {}),
        ({"SHA256": "A" * 64, "md5": "b" * 32, "sha1": "zz"}, {"sha256": "a" * 64, "md5": "b" * 32}),
        ({"blake2b_256": "c" * 64, "newhash": "d" * 40}, {"blake2b_256": "c" * 64, "newhash": "d" * 40}),
    ],
)
def test_hashes(hashes: dict[str, str], expected: dict[str, str]) -> None:
    assert only(project(page(entry(hashes=hashes)))).hashes == expected


@pytest.mark.parametrize("digest", ["", "a" * 63, "g" * 64, "a" * 64 + "\n", 5])
def test_a_file_whose_only_hash_is_none_is_rejected(digest: object) -> None:
    found = project(page(entry(hashes={"sha256": digest})))
    assert not found.files and found.rejected[0].why == "has hashes that are none"


@pytest.mark.parametrize(
    "filename",
    [
        "foo/../../six-1.0.tar.gz",
        "<b>-1.0.tar.gz",
        "six-1.0.tar.gz\n",
        "seven-1.0.tar.gz",
        "six-1.0.txt",
        "six.whl",
        ".six-1.0.zip",
        "six-1.0\u202egz.rat",
        "",
        5,
    ],
)
def test_no_trust_in_names_a_hostile_file_name_is_rejected_and_the_others_taken(filename: Any) -> None:
    bad = {"filename": filename, "url": "six-1.0.zip", "hashes": {}}
    found = project(page(bad, entry()))
    assert [file.filename for file in found.files] == ["six-1.0.tar.gz"]
    assert len(found.rejected) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://index.example.org/six-1.0.tar.gz",
        "ftp://index.example.org/six-1.0.tar.gz",
        "file:///etc/six-1.0.tar.gz",
        "javascript:alert(1)",
        "https://:80/six-1.0.tar.gz",
        "https://user:secret@index.example.org/six-1.0.tar.gz",
        "https://index.example.org:0/six-1.0.tar.gz",
        "https://index.example.org:99999/six-1.0.tar.gz",
        "https://[::1/six-1.0.tar.gz",
        'https://in"dex.example.org/six-1.0.tar.gz',
        "https://index.example.org/\nsix-1.0.tar.gz",
        "https://index.example.org/" + "a" * 2000,
        "/%2e%2E/six-1.0.tar.gz",
        "/a%2F..%2Fsix-1.0.tar.gz",
        None,
        7,
    ],
)
def test_no_secret_no_trust_in_links_that_lead_nowhere_that_may_be_linked(url: object) -> None:
    found = project(page(entry(url=url)))
    assert not found.files
    assert [rejection.what for rejection in found.rejected] == ["six-1.0.tar.gz"]


def test_an_https_index_never_yields_an_http_link_by_way_of_its_base() -> None:
    found = project(html('<a href="six-1.0.tar.gz">x</a>', '<base href="http://files.example.org/">'), HTML)
    assert not found.files and "http" in found.rejected[0].why


def test_links_are_escaped_absolute_and_without_fragment() -> None:
    urls = ["/My Files/six-1.0.tar.gz#egg=x", "https://files.example.org/%7Ea/six-1.0.tar.gz?x=1", "./six-1.0.tar.gz"]
    found = [only(project(page(entry(url=url)))).url for url in urls]
    assert found == [
        "https://index.example.org/My%20Files/six-1.0.tar.gz",
        "https://files.example.org/%7Ea/six-1.0.tar.gz?x=1",
        "https://index.example.org/simple/six/six-1.0.tar.gz",
    ]


def test_a_file_that_stands_twice_is_taken_once() -> None:
    found = project(page(entry(), entry(url="other/six-1.0.tar.gz")))
    assert [file.url for file in found.files] == ["https://index.example.org/packages/six-1.0.tar.gz"]
    assert [rejection.why for rejection in found.rejected] == ["stands on the page twice"]


def test_files_are_sorted_by_name() -> None:
    names = ["six-1.10.tar.gz", "six-1.0.zip", "six-1.9.tar.gz"]
    found = project(page(*map(entry, names)))
    assert [file.filename for file in found.files] == sorted(names)
    assert found.versions == ("1.0", "1.9", "1.10")


def test_a_quarantined_project_offers_no_files() -> None:
    found = project(page(entry(), **{"project-status": {"status": "quarantined"}}))
    assert (found.status, found.files) == ("quarantined", ())


@pytest.mark.parametrize("status", [None, "archived", {"status": "active"}, {"status": "<b>"}, {"status": 5}, {}])
def test_no_status_is_active(status: object) -> None:
    found = project(page(**{"project-status": status}))
    assert (found.status, found.status_reason) == (None, None)


def test_the_first_of_two_counts_in_html() -> None:
    head = '<base href="https://a.example.org/"><base href="https://b.example.org/">'
    file = only(project(html('<a href="six-1.0.zip" href="six-2.0.zip">x</a>', head), HTML))
    assert file.url == "https://a.example.org/six-1.0.zip"


def test_links_back_and_up_in_html_are_no_files() -> None:
    assert project(html('<a href="../">Up</a><a href="?C=N">Name</a><a name="x">y</a>'), HTML).rejected == ()


@pytest.mark.parametrize(
    ("body", "sure"),
    [
        (page(), True),
        (html(""), True),
        (html("", "", "root/pypi: links for Six"), True),
        (html("", '<meta name="pypi:repository-version" content="1.0">', "x"), True),
        (html("", "", "x") + "<!--SERIAL 3-->", True),
        (html('<a href="six-1.0.zip">x</a>', "", "x"), True),
        (html("", "", "Maintenance"), False),
        (html('<a href="/status.html">x</a>', "", "Maintenance"), False),
        ("", False),
    ],
)
def test_an_empty_page_is_sure_where_something_tells_that_it_is_one(body: Any, sure: bool) -> None:
    assert detail(body, JSON if isinstance(body, dict) else HTML).sure is sure


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (page(name="seven"), "another project: seven"),
        ({"meta": {}, "files": []}, "another project: None"),
        (page(name=6), "another project: 6"),
        ({"meta": {}, "name": "six"}, "without a list"),
        (json.dumps(page(entry()))[:-9], "cut short"),
        (html("", "", "Links for seven"), "another project: seven"),
        (html("<form><input name=user></form>", "", "Sign in"), "login page"),
        (html('<a href="six-1.0.zip">')[:-20], "cut short"),
    ],
)
def test_what_is_not_the_projects_page_is_refused(body: Any, why: str) -> None:
    with pytest.raises(NotAPage) as caught:
        detail(body, JSON if isinstance(body, dict) or body.startswith("{") else HTML)
    assert why in caught.value.reason


def test_a_form_on_an_index_page_is_the_indexs_business() -> None:
    """devpi has one on every page, to refresh it."""
    assert detail(html("<form><input name=refresh></form>", "", "root/pypi: links for six"), HTML).sure
