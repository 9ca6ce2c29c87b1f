"""Which objects a project's state becomes, and which of them are to be put."""

from __future__ import annotations

import gzip

import pytest

from cdn_fallback.mirror import render, site
from cdn_fallback.mirror.catalog.content import Record, Static
from cdn_fallback.mirror.catalog.ledger import Entry, Listed
from cdn_fallback.mirror.model import Project
from cdn_fallback.mirror.site import FOREVER, LIST, PAGE, Headers, Object, Rules, difference
from tests.mirror.fakes import RULES, FakeSource

SOURCE = FakeSource()
WHEEL = SOURCE.file("Some.Thing-1.0-py3-none-any.whl", b"w", metadata=b"m")
SDIST = SOURCE.file("Some.Thing-1.0.tar.gz", b"s")
PROJECT = SOURCE.put("Some.Thing", WHEEL, SDIST)
RECORD = Record(1, PROJECT, 7)


def entries(*objects: Object) -> dict[str, Entry]:
    return {one.key: Entry(one.key, one.digest, one.size or 0, str(one.headers)) for one in objects}


def whole(record: Record = RECORD, rules: Rules = RULES) -> dict[str, Entry]:
    """The ledger of a store that has all of it."""
    found = difference(record, {}, rules, anew=False)
    return entries(*found.files, *found.pages)


PUBLISHED = RECORD._replace(published=7)


def test_a_project_becomes_files_with_their_metadata_and_pages_with_their_twins() -> None:
    found = difference(RECORD, {}, RULES, anew=False)
    assert [one.key for one in found.files] == [
        "packages/Some.Thing-1.0-py3-none-any.whl",
        "packages/Some.Thing-1.0-py3-none-any.whl.metadata",
        "packages/Some.Thing-1.0.tar.gz",
    ]
    assert [one.key for one in found.pages] == [
        "simple/some-thing/index.html",
        "simple/some-thing/index.html.gz",
        "simple/some-thing/index.json",
        "simple/some-thing/index.json.gz",
        "pypi/some-thing/json",
        "pypi/some-thing/json.gz",
        "simple/Some.Thing/index.html",
    ]
    assert (found.serial, found.gone, found.settled) == (7, (), False)


def test_files_may_be_kept_for_ever_and_pages_for_minutes() -> None:
    found = difference(RECORD, {}, RULES, anew=False)
    assert {one.headers.cache_control for one in found.files} == {FOREVER}
    assert {one.headers.cache_control for one in found.pages} == {PAGE}
    assert [one.headers.content_type for one in found.files][:2] == [
        "application/octet-stream",
        "text/plain; charset=utf-8",
    ]


def test_a_name_that_is_normalised_has_no_second_page() -> None:
    keys = [page.key for page in site.pages(Record(1, Project("some", "some"), 1), RULES)]
    assert keys == ["simple/some/index.html", "simple/some/index.json", "pypi/some/json"]


def test_without_legacy_there_is_nothing_for_mirroring_tools_and_what_there_was_goes() -> None:
    rules = RULES._replace(legacy=False)
    assert not [page.key for page in site.pages(RECORD, rules) if page.key.startswith("pypi/")]
    assert difference(PUBLISHED, whole(), rules, anew=True).gone == ("pypi/some-thing/json", "pypi/some-thing/json.gz")
    assert rules.fingerprint != RULES.fingerprint


def test_a_twin_is_the_page_in_gzip() -> None:
    for page in site.pages(RECORD, RULES):
        twin = page.gzipped()
        assert twin.body and gzip.decompress(twin.body) == page.body
        assert twin.key == f"{page.key}.gz" and twin.headers.content_encoding == "gzip"
        assert twin.size == len(twin.body)


def test_what_the_store_has_is_not_put_again() -> None:
    assert difference(PUBLISHED, whole(), RULES, anew=False).settled
    assert difference(PUBLISHED, whole(), RULES, anew=True).settled
    assert not difference(RECORD, whole(), RULES, anew=False).settled, "the list does not have it yet"


@pytest.mark.parametrize("key", sorted(whole()))
def test_what_the_store_lacks_or_nobody_vouches_for_is_put(key: str) -> None:
    for entry in (None, whole()[key]._replace(digest=b"other"), whole()[key]._replace(headers="")):
        store = whole()
        if entry:
            store[key] = entry
        else:
            del store[key]
        found = difference(PUBLISHED, store, RULES, anew=True)
        put = [one.key for one in (*found.files, *found.pages)]
        assert key in put and set(put) <= {key, f"{key}.gz"}


def test_other_headers_are_a_difference() -> None:
    store = whole()
    store[f"packages/{SDIST.filename}"] = store[f"packages/{SDIST.filename}"]._replace(
        headers=str(Headers("application/x-tar", FOREVER))
    )
    assert [one.key for one in difference(PUBLISHED, store, RULES, anew=False).files] == [f"packages/{SDIST.filename}"]


def test_twins_are_compressed_only_where_the_page_differs_or_everything_is_looked_at() -> None:
    store = whole()
    store["simple/some-thing/index.json.gz"] = store["simple/some-thing/index.json.gz"]._replace(digest=b"older isal")
    assert difference(PUBLISHED, store, RULES, anew=False).settled
    found = difference(PUBLISHED, store, RULES, anew=True)
    assert [one.key for one in found.pages] == ["simple/some-thing/index.json.gz"]


def test_a_removed_project_leaves_nothing() -> None:
    found = difference(PUBLISHED._replace(removed=True), whole(), RULES, anew=False)
    assert found.gone == tuple(sorted(whole())) and found.serial is None
    assert not (found.files or found.pages or found.settled)
    assert difference(RECORD._replace(removed=True), {}, RULES, anew=False).settled


def test_a_file_that_went_is_gone_from_the_store_with_its_metadata() -> None:
    record = PUBLISHED._replace(project=PROJECT._replace(files=(SDIST,)))
    wheel = f"packages/{WHEEL.filename}"
    assert difference(record, whole(), RULES, anew=False).gone == (wheel, f"{wheel}.metadata")


def test_the_files_of_a_quarantined_project_are_not_in_the_store() -> None:
    record = PUBLISHED._replace(project=PROJECT._replace(status="quarantined"))
    found = difference(record, whole(), RULES, anew=False)
    assert set(found.gone) == {key for key in whole() if key.startswith("packages/")}


def test_a_file_that_stays_at_its_source_is_no_object() -> None:
    file = SDIST._replace(key="", url="https://files.example/x.tar.gz")
    found = difference(Record(1, PROJECT._replace(files=(file,)), 1), {}, RULES, anew=False)
    assert not found.files
    assert b'href="https://files.example/x.tar.gz#sha256=' in (found.pages[0].body or b"")


def test_other_bytes_under_a_name_lie_elsewhere_and_the_page_says_so() -> None:
    file = WHEEL._replace(moved=True)
    found = difference(Record(1, PROJECT._replace(files=(file,)), 1), {}, RULES, anew=False)
    place = f"packages/{WHEEL.hashes['sha256'][:16]}/{WHEEL.filename}"
    assert [one.key for one in found.files] == [place, f"{place}.metadata"]
    assert f'href="../../{place}#'.encode() in (found.pages[0].body or b"")
    assert SDIST._replace(key="some.tar.gz", moved=True).object_key == f"{SDIST.hashes['sha256'][:16]}/some.tar.gz"


def test_the_serial_of_a_page_is_the_source_s_or_the_catalog_s() -> None:
    assert Record(1, PROJECT, 7).serial == 7
    assert Record(1, PROJECT._replace(serial=0), 7).serial == 0


def test_the_list_and_what_is_put_last() -> None:
    html, json = site.lists([Listed("a", "A", 3)], 9)
    assert (html.key, json.key) == ("simple/index.html", "simple/index.json")
    assert html.headers == Headers("text/html; charset=utf-8", LIST) and html.twin and json.twin
    assert html.body == render.list_html([("a", "A", 3)], 9) and json.body == render.list_json([("a", "A", 3)], 9)
    robots, modified = site.ends("2024-01-31T12:00:00Z")
    assert modified.key == "last-modified" and modified.body == b"2024-01-31T12:00:00Z\n"
    assert modified.headers.content_type == robots.headers.content_type == "text/plain; charset=utf-8"
    assert [one.key for one in site.ends("")] == ["robots.txt"]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("docs/index.html", "text/html; charset=utf-8"),
        ("docs/style.css", "text/css; charset=utf-8"),
        ("docs/logo.png", "image/png"),
        ("docs/logo.svg", "image/svg+xml"),
        ("docs/x.json", "application/json"),
        ("docs/x.tar.gz", "application/octet-stream"),
        ("docs/objects.inv", "application/octet-stream"),
        ("docs/README", "application/octet-stream"),
    ],
)
def test_the_type_of_a_file_beside_the_index(key: str, kind: str) -> None:
    found = site.object_of_static(Static(key, "/x", b"d" * 32, 5, ""))
    assert found.headers == Headers(kind, PAGE) and found.digest == b"d" * 32


def test_the_fingerprint_tells_of_what_pages_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RULES.fingerprint
    assert Rules("https://other.example/").fingerprint != before
    monkeypatch.setattr(render, "REVISION", render.REVISION + 1)
    assert RULES.fingerprint != before


def test_what_leads_to_others_is_deleted_before_them() -> None:
    keys = ["packages/x", "simple/its-name/index.html", "simple/its.name/index.html", "pypi/its-name/json", "docs/x"]
    assert sorted(keys, key=site.turn) == [keys[2], keys[1], keys[3], keys[0], keys[4]]
