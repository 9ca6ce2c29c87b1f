"""What a published page refers to, and what is no page."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from cdn_fallback.mirror import references as module
from cdn_fallback.mirror.catalog.content import Record
from cdn_fallback.mirror.references import Reference, is_page, listed, page_of, project, references, unpacked
from cdn_fallback.mirror.site import lists, pages
from cdn_fallback.mirror.stores import StoreError
from tests.mirror.fakes import RULES, FakeSource, sha256

METADATA = b"Metadata-Version: 2.1\n"


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


def rendered(source: FakeSource, name: str) -> bytes:
    """The JSON page of the project."""
    found = {one.key: one.body for one in pages(Record(1, source.projects[name], 7), RULES)}
    body = found[f"simple/{name}/index.json"]
    assert body
    return body


def test_a_projects_page_refers_to_its_files_and_their_metadata_with_digests(source: FakeSource) -> None:
    source.put(
        "a",
        source.file("a-1.0+local-py3-none-any.whl", b"w", metadata=METADATA),
        source.file("a-1.0.tar.gz", b"s", moved=True),
        source.file("a-2.0.tar.gz", key="", url="http://elsewhere.example/a-2.0.tar.gz"),
    )
    found = references("simple/a/index.json", rendered(source, "a"))
    wheel = "packages/a-1.0+local-py3-none-any.whl"
    assert found == [
        Reference(wheel, bytes.fromhex(sha256(b"w"))),
        Reference(f"{wheel}.metadata", bytes.fromhex(sha256(METADATA))),
        Reference(f"packages/{sha256(b's')[:16]}/a-1.0.tar.gz", bytes.fromhex(sha256(b"s"))),
    ]


def test_what_a_page_says_is_the_project_that_it_was_made_of(source: FakeSource) -> None:
    made = source.put("a", source.file("a-1.0-py3-none-any.whl", b"w", metadata=METADATA), status="archived")
    assert project("a", rendered(source, "a")) == made._replace(serial=7)


def test_a_file_that_stays_elsewhere_keeps_its_url_whichever_scheme(source: FakeSource) -> None:
    for scheme in ("http", "https"):
        source.put("a", source.file("a-1.0.tar.gz", key="", url=f"{scheme}://elsewhere.example/a-1.0.tar.gz"))
        [file] = project("a", rendered(source, "a")).files
        assert (file.key, file.url) == ("", f"{scheme}://elsewhere.example/a-1.0.tar.gz")


def test_the_list_refers_to_pages_of_any_digest() -> None:
    body = next(one.body for one in lists([("a-b", "A.b", 3), ("c", "c", 9)], 12) if one.key.endswith("json"))
    assert body
    assert references("simple/index.json", body) == [
        Reference("simple/a-b/index.json", b""),
        Reference("simple/c/index.json", b""),
    ]
    assert listed(body) == ({"a-b": "A.b", "c": "c"}, 12)


@pytest.mark.parametrize("entry", [{}, 1, None, [], {"name": None}, {"name": "../x"}, {"name": "a\x1b[31m"}])
def test_entries_of_a_list_that_are_none_are_passed_over(entry: Any) -> None:
    body = json.dumps({"meta": {"_last-serial": 2}, "projects": [entry, {"name": "A_b"}]}).encode()
    assert listed(body) == ({"a-b": "A_b"}, 2)


NO_PAGE = [
    b"",
    b"{",
    b"[]",
    b"<!DOCTYPE html>",
    b"\xff\xfe",
    b'{"meta": {"api-version": "2.0"}, "files": [], "projects": [], "name": "a"}',
    b"[" * 100_000,
    b'{"files": [], "projects": [], "name": "a", "x": ' + b"9" * 5000 + b"}",
    b'{"files": [], "projects": [], "name": "a", "x": "\\ud800"}',
]
PAGES = [("simple/index.json", body) for body in [*NO_PAGE, b'{"projects": 1}', b'{"files": [], "name": "a"}']]
PAGES += [("simple/a/index.json", body) for body in [*NO_PAGE, b'{"files": 1, "name": "a"}', b'{"projects": []}']]
PAGES += [("simple/a/index.json", b'{"files": [], "name": "b\\u001b[31m"}')]


@pytest.mark.parametrize(("key", "body"), PAGES)
def test_what_is_no_page_is_told_with_its_key(key: str, body: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        references(key, body)
    assert caught.value.where == key and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "file",
    [
        {"filename": "../a-1.0.tar.gz", "url": "../../packages/a-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/%2e%2e/a-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/.x/a-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/x/", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../pypi/a-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/a-1.0.tar.gz?x", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/a-1.0.tar.gz", "hashes": {"sha256": "0"}},
        {"filename": "a-1.0.tar.gz", "url": "../../packages/a-1.0.tar.gz"},
        {"filename": "b-1.0.tar.gz", "url": "../../packages/b-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {"filename": "a-1.0.tar.gz", "url": "javascript:alert(1)", "hashes": {"sha256": "0" * 64}},
        None,
        7,
    ],
)
def test_a_file_that_may_not_be_published_is_none(file: Any) -> None:
    good = {"filename": "a-2.0.tar.gz", "url": "../../packages/a-2.0.tar.gz", "hashes": {"sha256": "1" * 64}}
    body = json.dumps({"name": "a", "files": [file, good]}).encode()
    assert [one.key for one in project("a", body).files] == ["packages/a-2.0.tar.gz"]
    assert references("simple/a/index.json", body) == [Reference("packages/a-2.0.tar.gz", bytes.fromhex("1" * 64))]


def test_which_keys_are_pages() -> None:
    assert is_page("simple/index.json") and is_page("simple/a/index.json")
    for key in ("simple/a/index.html", "simple/a/index.json.gz", "pypi/a/json", "docs/simple/index.json", "simple"):
        assert not is_page(key)


def test_a_twins_page_is_known_and_no_other_file_has_one() -> None:
    assert page_of("simple/a/index.html.gz") == "simple/a/index.html" and page_of("pypi/a/json.gz") == "pypi/a/json"
    assert page_of("simple/a/index.html") == "simple/a/index.html"
    assert page_of("packages/a-1.0.tar.gz") == "packages/a-1.0.tar.gz" and page_of("docs/x.gz") == "docs/x.gz"


def test_a_twin_is_unpacked_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpacked("k", gzip.compress(b"page")) == b"page"
    for body in (b"", b"x", gzip.compress(b"page")[:-9], zlib.compress(b"page")):
        with pytest.raises(StoreError, match=r"^k: is "):
            unpacked("k", body)
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(StoreError, match="too large"):
        unpacked("k", gzip.compress(bytes(1_000_000)))
