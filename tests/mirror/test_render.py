"""Pages, whatever the texts in them are. What stands in them is in test_promises (complete_pages)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdn_fallback.mirror import render
from cdn_fallback.mirror.model import File, Project
from tests.mirror.fakes import FakeSource
from tests.mirror.reader import Tags

quick = settings(max_examples=150, deadline=None, database=None, derandomize=True)

texts = st.text(max_size=30) | st.sampled_from(
    [
        '"><script>alert(1)</script>',
        "'onload='x",
        "--><!--",
        "</a></body></html>",
        "&quot;&#34;&amp;",
        "]]>",
        "a\r\nb\tc\0d",
        "\u2028\u202e\x85\x7f\x1b[31m",
        "https://evil.example/x-9.9.tar.gz",
        '<a href="https://evil.example/">',
        "é\N{SNOWMAN}\U0001f600",
    ]
)
maybe = st.none() | texts
digests = st.dictionaries(st.sampled_from(["sha256", "md5", "blake2b-256"]), st.text("0123456789abcdef", min_size=1))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=4,
)
UNKNOWN = st.dictionaries(texts.map(lambda text: f"x-{text}"), values, max_size=2)
files = st.builds(
    File,
    filename=texts,
    version=texts,
    key=st.just(""),
    url=texts,
    hashes=digests,
    size=st.none() | st.integers(min_value=0),
    upload_time=maybe,
    requires_python=maybe,
    yanked=maybe,
    core_metadata=st.none() | digests,
    provenance=maybe,
    extra=UNKNOWN,
    state=st.just(""),
    moved=st.just(False),
)
projects = st.builds(
    Project,
    name=texts,
    display=texts,
    files=st.lists(files, max_size=3).map(tuple),
    versions=st.lists(texts, max_size=3).map(tuple),
    serial=st.none(),
    status=maybe,
    status_reason=maybe,
    meta=UNKNOWN,
    extra=UNKNOWN,
    state=st.just(""),
    rejected=st.just(()),
)


@quick
@given(projects)
def test_no_text_breaks_out_of_a_page_in_html(project: Project) -> None:
    page = Tags(render.project_html(project, 5))
    offered = render.offered(project)
    metas = 2 + bool(project.status) + bool(project.status and project.status_reason)
    head = ["html", "head", *["meta"] * metas, "title", "body", "h1"]
    assert [tag for tag, _ in page.tags] == head + ["a", "br"] * len(offered)
    assert page.ends == ["title", "head", "h1", *["a"] * len(offered), "body", "html"]
    assert page.comments == ["SERIAL 5"]
    assert [meta.get("content") for meta in page.all("meta")][2:] == [
        text for text in (project.status, project.status and project.status_reason) if text
    ]
    for link, file in zip(page.all("a"), offered, strict=True):
        assert (link.pop("href") or "").startswith(file.url)
        said = {"data-requires-python": file.requires_python, "data-yanked": file.yanked}
        said["data-provenance"] = file.provenance
        core = link.pop("data-core-metadata", None)
        assert core == link.pop("data-dist-info-metadata", None) and (core is None) == (file.core_metadata is None)
        assert link == {name: text for name, text in said.items() if text is not None}
    assert f"Links for {project.display}" in page.texts


@quick
@given(projects)
def test_a_page_in_json_says_what_was_meant(project: Project) -> None:
    body = render.project_json(project, 5)
    assert body.isascii()
    page: dict[str, Any] = json.loads(body)
    assert page["name"] == project.name and page["versions"] == list(project.versions)
    assert page["meta"] == {**project.meta, "api-version": "1.4", "_last-serial": 5}
    assert page.get("project-status", {}).get("status") == (project.status or None)
    assert {key: value for key, value in page.items() if key.startswith("x-")} == project.extra
    for told, file in zip(page["files"], render.offered(project), strict=True):
        assert told.pop("filename") == file.filename and told.pop("url") == file.url
        assert told.pop("hashes") == file.hashes and told.pop("core-metadata", None) == (
            True if file.core_metadata == {} else file.core_metadata
        )
        assert told.pop("yanked", None) == (True if file.yanked == "" else file.yanked)
        known = {"size": file.size, "upload-time": file.upload_time, "requires-python": file.requires_python}
        known["provenance"] = file.provenance
        assert told == {**file.extra, **{key: value for key, value in known.items() if value is not None}}


@quick
@given(st.lists(st.tuples(texts, texts, st.integers(min_value=0)), max_size=4))
def test_no_text_breaks_out_of_the_project_list(projects: list[tuple[str, str, int]]) -> None:
    page = Tags(render.list_html(projects, 9))
    assert [link["href"] for link in page.all("a")] == [f"{name}/" for name, _, _ in projects]
    assert {tag for tag, _ in page.tags} <= {"html", "head", "meta", "title", "body", "a", "br"}
    assert page.comments == ["SERIAL 9"]
    listed = json.loads(render.list_json(projects, 9))
    assert listed["projects"] == [{"name": display, "_last-serial": serial} for _, display, serial in projects]
    assert listed["meta"] == {"api-version": "1.4", "_last-serial": 9}


@quick
@given(texts, texts)
@example("Its_Name", "its-name")
def test_no_text_breaks_out_of_a_page_that_leads_on(display: str, name: str) -> None:
    page = Tags(render.redirect_html(display, name))
    assert [link["href"] for link in page.all("a")] == [f"../{name}/"]
    assert page.all("meta")[1] == {"http-equiv": "refresh", "content": f"0; url=../{name}/"}
    assert page.all("link") == [{"rel": "canonical", "href": f"../{name}/"}]


@quick
@given(projects)
def test_the_page_for_mirroring_tools_parses(project: Project) -> None:
    files = tuple(file._replace(filename="a-1-py3-none-any.whl") for file in project.files)
    page = json.loads(render.legacy_json(project._replace(files=files), 3, "https://index.example/"))
    assert page["info"]["name"] == project.display and page["last_serial"] == 3
    told = [file for of_version in page["releases"].values() for file in of_version]
    assert len(told) == len(render.offered(project._replace(files=files)))


def test_the_page_for_mirroring_tools_says_what_bandersnatch_reads() -> None:
    source = FakeSource()
    project = source.put(
        "Some.Thing",
        source.file("some_thing-1.0.tar.gz", b"1", yanked="bad", upload_time="2024-01-31T12:00:00.000000Z"),
        source.file("some_thing-2.0-py3-none-any.whl", b"22", requires_python=">=3.8"),
    )
    page = json.loads(render.legacy_json(project, 8, "https://index.example/"))
    assert page["info"] == {
        "name": "Some.Thing",
        "requires_python": ">=3.8",
        "version": "2.0",
        "yanked": False,
        "yanked_reason": None,
    }
    [first] = page["releases"]["1.0"]
    assert page["releases"]["2.0"] == page["urls"]
    assert first == {
        "core-metadata": False,
        "digests": dict(project.files[0].hashes),
        "filename": "some_thing-1.0.tar.gz",
        "packagetype": "sdist",
        "python_version": "source",
        "requires_python": None,
        "size": 1,
        "upload_time": "2024-01-31T12:00:00",
        "upload_time_iso_8601": "2024-01-31T12:00:00.000000Z",
        "url": "https://index.example/packages/some_thing-1.0.tar.gz",
        "yanked": True,
        "yanked_reason": "bad",
    }
    assert page["urls"][0]["packagetype"] == "bdist_wheel" and page["urls"][0]["python_version"] == "py3"


def test_what_we_say_ourselves_is_not_overruled_by_unknown_keys() -> None:
    lies = {"name": "other", "files": [], "filename": "x", "url": "https://evil.example/", "yanked": True, "size": 1}
    source = FakeSource()
    project = source.put(
        "some", source.file("some-1.0.tar.gz", b"abc", extra=lies), extra=lies, meta={"api-version": "9"}
    )
    page = json.loads(render.project_json(project, 1))
    assert page["name"] == "some" and page["meta"]["api-version"] == "1.4"
    [file] = page["files"]
    assert file["url"].endswith("some-1.0.tar.gz") and file["size"] == 3 and "yanked" not in file


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("packages/a+b.whl", "packages/a%2Bb.whl"),
        ("packages/1!2.0.tar.gz", "packages/1!2.0.tar.gz"),
        ("docs/a b#c?d%e.html", "docs/a%20b%23c%3Fd%25e.html"),
        ("docs/é", "docs/%C3%A9"),
    ],
)
def test_a_key_as_the_path_of_a_url(key: str, url: str) -> None:
    assert render.href(key) == url


def test_html_has_one_hash_and_it_is_sha256_where_there_is_one() -> None:
    source = FakeSource()
    hashes = {"blake2b": "b" * 128, "md5": "0" * 32, "sha256": "a" * 64}
    page = Tags(render.project_html(source.put("some", source.file("some-1.0.tar.gz", hashes=hashes)), 1))
    assert page.all("a")[0]["href"] == f"../../packages/some-1.0.tar.gz#sha256={'a' * 64}"
    del hashes["sha256"]
    page = Tags(render.project_html(source.put("some", source.file("some-1.0.tar.gz", hashes=hashes)), 1))
    assert page.all("a")[0]["href"] == f"../../packages/some-1.0.tar.gz#blake2b={'b' * 128}"


# As setuptools' package_index, and so buildout, finds links; it reads &#61; as what it is, no equals sign
HREF = re.compile(r"""href\s*=\s*['"]?([^'"> ]+)""", re.IGNORECASE)


def test_buildout_finds_no_link_in_what_somebody_wrote() -> None:
    source = FakeSource()
    lure = "href=https://evil.example/x-9.tar.gz HREF = y"
    file = source.file(
        "x-1.0.tar.gz", b"1", yanked=lure, requires_python=lure, provenance=f"https://e.example/?{lure[:9]}"
    )
    project = source.put("x", file, status="archived", status_reason=lure)
    page = render.project_html(project, 1).decode()
    assert [found.partition("#")[0] for found in HREF.findall(page)] == ["../../packages/x-1.0.tar.gz"]
    [link] = Tags(page.encode()).all("a")
    assert (link["data-yanked"], link["data-requires-python"]) == (lure, lure)


@pytest.mark.parametrize(
    ("newest", "versions"),
    [
        ("1.1", {"1.0": None, "1.1": None, "2.0rc1": None, "2.0": "bad"}),
        ("2.0rc1", {"1.0": "bad", "2.0rc1": None}),
        ("1.0", {"0.9": "bad", "1.0": "worse"}),
        ("", {}),
    ],
)
def test_the_page_for_mirroring_tools_is_about_the_newest_final_version(
    newest: str, versions: dict[str, str | None]
) -> None:
    source = FakeSource()
    files = [source.file(f"x-{version}.tar.gz", b"1", yanked=reason) for version, reason in versions.items()]
    page = json.loads(render.legacy_json(source.put("x", *files), 1, "https://index.example/"))
    assert page["info"]["version"] == newest and page["info"]["yanked"] == (versions.get(newest) is not None)


@pytest.mark.parametrize(
    ("filename", "kind", "python"),
    [
        ("x-1.0.zip", "sdist", "source"),
        ("x-1.0-1-cp39-abi3-any.whl", "bdist_wheel", "cp39"),
        ("x-1.0-py2.7.egg", "bdist_egg", "2.7"),
        ("x-1.0.win32-py2.7.exe", "bdist_wininst", "2.7"),
    ],
)
def test_the_page_for_mirroring_tools_tells_the_kind_of_a_file(filename: str, kind: str, python: str) -> None:
    source = FakeSource()
    page = json.loads(render.legacy_json(source.put("x", source.file(filename, b"1")), 1, "https://index.example/"))
    [[file]] = page["releases"].values()
    assert (file["packagetype"], file["python_version"]) == (kind, python)
