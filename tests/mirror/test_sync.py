"""Source -> catalog: what is asked for, what is kept when it fails, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cdn_fallback.mirror import sync as module
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import ProjectError, SourceError
from cdn_fallback.mirror.sync import Failure, Report, vetted
from tests.mirror.fakes import NOW, FakeSource, TrappedCatalog


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    for name in ("a", "b", "c"):
        source.put(name, source.file(f"{name}-1.0.tar.gz", name.encode()))
    return source


def test_the_first_time_everything_is_taken_in(source: FakeSource, catalog: TrappedCatalog) -> None:
    assert source.sync(catalog) == Report(asked=3, changed=3, files_added=3)
    assert [catalog.content.project(name) for name in "abc"] == list(source.projects.values())
    assert catalog.get("changed_at") == "2023-11-14T22:13:20Z"


def test_only_projects_with_another_token_are_asked_for(source: FakeSource, catalog: TrappedCatalog) -> None:
    source.sync(catalog)
    source.asked.clear()
    assert source.sync(catalog, NOW + 9) == Report()
    assert source.asked == [] and catalog.get("changed_at") == "2023-11-14T22:13:20Z", "no reader sees a difference"
    source.put("b", source.file("b-1.0.tar.gz", b"b", yanked=""), source.file("b-2.0.tar.gz"))
    assert source.sync(catalog, NOW + 60) == Report(asked=1, changed=1, files_added=1, files_changed=1)
    assert source.asked == ["b"] and catalog.get("changed_at") == "2023-11-14T22:14:20Z"


def test_projects_without_a_token_are_asked_for_every_time(source: FakeSource, catalog: TrappedCatalog) -> None:
    class Tokenless(FakeSource):
        def listing(self, state: str, *, whole: bool = False) -> Any:
            found = super().listing(state)
            return found and found._replace(tokens=dict.fromkeys(found.tokens, ""))

        def project(self, name: str, known: Project | None) -> Project | None:
            found = super().project(name, known)
            return None if found == known else found

    tokenless = Tokenless()
    tokenless.projects = source.projects
    tokenless.sync(catalog)
    assert tokenless.sync(catalog) == Report(asked=3)
    assert tokenless.asked == ["a", "b", "c"] * 2


def test_a_source_in_which_nothing_has_changed_is_believed(source: FakeSource, catalog: TrappedCatalog) -> None:
    source.sync(catalog)
    source.same = True
    del source.projects["a"]
    assert source.sync(catalog) == Report()
    assert catalog.content.project("a")


def test_a_project_that_fails_stays_as_it_is_known_and_is_asked_for_again(
    source: FakeSource, catalog: TrappedCatalog
) -> None:
    source.sync(catalog)
    old = source.projects["b"]
    for name in "abc":
        source.put(name, source.file(f"{name}-2.0.tar.gz"))
    source.broken["b"] = ProjectError("https://index.example/simple/b/", "answered 503")
    report = source.sync(catalog)
    assert report.failed == (Failure("b", "answered 503"),) and report.changed == 2
    assert catalog.content.project("b") == old
    source.same = True
    source.asked.clear()
    assert source.sync(catalog).failed, "nothing new there, but this one is still to be had"
    assert source.asked == ["b"]
    source.broken.clear()
    assert source.sync(catalog) == Report(asked=1, changed=1, files_added=1, files_removed=1)
    source.asked.clear()
    assert source.sync(catalog) == Report() and source.asked == []


def test_a_listing_that_raises_changes_nothing(source: FakeSource, catalog: TrappedCatalog) -> None:
    source.sync(catalog)
    before = [catalog.content.project(name) for name in "abc"]

    def listing(state: str, *, whole: bool = False) -> Any:
        raise SourceError("https://index.example/", "was cut short")

    source.listing = listing  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="was cut short"):
        source.sync(catalog)
    assert [catalog.content.project(name) for name in "abc"] == before and catalog.content.change == 3


def test_a_source_that_breaks_off_keeps_what_was_had_and_takes_nothing_away(
    source: FakeSource, catalog: TrappedCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    source.sync(catalog)
    del source.projects["a"]
    for name in ("b", "c"):
        source.put(name, source.file(f"{name}-2.0.tar.gz"))
    source.broken["c"] = SourceError("https://index.example/", "has gone")
    with pytest.raises(SourceError):
        source.sync(catalog)
    assert catalog.content.project("b") == source.projects["b"]
    assert catalog.content.project("a"), "that it is gone is believed at the end only"
    source.broken.clear()
    source.asked.clear()
    assert source.sync(catalog).removed == 1
    assert source.asked == ["c"]


def test_a_source_that_is_as_it_was_before_a_sync_was_killed_is_looked_at_all_the_same(
    source: FakeSource, catalog: TrappedCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    source.sync(catalog)
    before = dict(source.projects)
    for name in ("b", "c"):
        source.put(name, source.file(f"{name}-2.0.tar.gz"))
    source.broken["c"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        source.sync(catalog)
    source.broken.clear()
    source.projects = before
    source.same = True
    source.sync(catalog)
    assert [catalog.content.project(name) for name in "abc"] == list(before.values())


def test_projects_that_are_listed_no_more_are_removed(source: FakeSource, catalog: TrappedCatalog) -> None:
    source.sync(catalog)
    del source.projects["a"], source.projects["c"]
    assert source.sync(catalog, NOW + 60) == Report(removed=2, files_removed=2)
    assert catalog.content.tokens().keys() == {"b"} and catalog.get("changed_at") == "2023-11-14T22:14:20Z"


def test_rejections_are_told_once(source: FakeSource, catalog: TrappedCatalog) -> None:
    one, two = Rejection("a-1.whl", "is no zip archive"), Rejection("stray.txt", "belongs to no project")
    source.put("a", rejected=(one,))
    source.rejected = (two,)
    assert source.sync(catalog).rejected == (("", two), ("a", one))
    assert source.sync(catalog).rejected == ()
    source.put("a", source.file("a-2.0.tar.gz"), rejected=(one, two))
    assert source.sync(catalog).rejected == (("a", two),)
    source.put("a")
    source.rejected = ()
    source.sync(catalog)
    source.rejected = (two,)
    assert source.sync(catalog).rejected == (("", two),), "it had gone"


def test_the_source_s_serial_is_kept(source: FakeSource, catalog: TrappedCatalog) -> None:
    source.serial = 123
    source.sync(catalog)
    assert catalog.get("serial") == 123


def test_a_source_is_asked_by_no_more_threads_than_it_bears(catalog: TrappedCatalog) -> None:
    class Counted(FakeSource):
        workers = 3
        most = 0
        now = 0

        def project(self, name: str, known: Project | None) -> Project | None:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return super().project(name, known)
            finally:
                self.now -= 1

    source = Counted()
    for number in range(60):
        source.put(f"p{number}")
    assert source.sync(catalog).changed == 60
    assert source.most <= 3


def test_progress_is_told_to_the_end(source: FakeSource, catalog: TrappedCatalog) -> None:
    seen: list[tuple[str, int, int]] = []
    module.sync(source, catalog, NOW, lambda *told: seen.append(told))
    assert seen[-1] == ("projects", 3, 3) and seen == sorted(seen)


# vetted

GOOD = FakeSource().file("some_thing-1.0-py3-none-any.whl", b"x", metadata=b"m")


def judged(file: File, project: str = "some-thing") -> list[str]:
    """Why the file was refused; nothing if it was not."""
    found = vetted(Project(project, "Some.Thing", (file,), ("1.0",)), project)
    assert len(found.files) + len(found.rejected) == 1
    assert all(one.what == file.filename for one in found.rejected)
    return [one.why for one in found.rejected]


def test_a_good_file_passes() -> None:
    assert judged(GOOD) == []
    assert judged(GOOD._replace(key="", url="https://files.example/x", hashes={}, core_metadata={}, size=None)) == []
    assert judged(GOOD._replace(key=GOOD.filename, upload_time="2024-01-31T12:00:00Z", provenance="https://x/y")) == []


@pytest.mark.parametrize(
    "filename",
    [
        "",
        ".some_thing-1.0.tar.gz",
        "../some_thing-1.0.tar.gz",
        "some_thing-1.0/../../x.tar.gz",
        "some_thing-1..0.tar.gz",
        "<b>-1.0.tar.gz",
        'some_thing-1.0".tar.gz',
        "some_thing-1.0\n.tar.gz",
        "some_thing-1.0.tar.gz\n",
        "some_thing-1.0\x1b[31m.tar.gz",
        "some_thing-1.0\udcff.tar.gz",
        "some_thing-1.0\u202e.tar.gz",
        "some_thing-" + "1" * 200 + ".tar.gz",
        "other-1.0.tar.gz",
        "some_thing-1.0.html",
        "some_thing-1.0-py3-none.whl",
        "index.html",
    ],
)
def test_a_hostile_file_name_is_refused(filename: str) -> None:
    assert judged(GOOD._replace(filename=filename, key=f"packages/{filename}"))


@pytest.mark.parametrize(
    "key",
    [
        "packages/other.whl",
        f"simple/{GOOD.filename}",
        f"pypi/x/{GOOD.filename}",
        f"last-modified/{GOOD.filename}",
        f"robots.txt/{GOOD.filename}",
        f"/packages/{GOOD.filename}",
        f"packages//{GOOD.filename}",
        f"packages/../{GOOD.filename}",
        f"packages/.hidden/{GOOD.filename}",
        f"packages/a b/{GOOD.filename}",
        f"packages/<b>/{GOOD.filename}",
        f"packages/\x1b/{GOOD.filename}",
        f"packages/six-1.0.tar.gz/{GOOD.filename}",
        f"packages/six-1.0-py3-none-any.whl.metadata/{GOOD.filename}",
        f"packages/{'a' * 201}/{GOOD.filename}",
        "/".join(["a" * 99] * 10) + f"/{GOOD.filename}",
    ],
)
def test_a_hostile_key_is_refused(key: str) -> None:
    assert judged(GOOD._replace(key=key))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "ftp://files.example/x",
        "//files.example/x",
        "packages/x",
        "https://files.example/a b",
        "https://files.example/\n",
        "https://files.example/\x1b",
        "https://files.example/\udcff",
    ],
)
def test_a_hostile_url_is_refused(url: str) -> None:
    assert judged(GOOD._replace(key="", url=url))
    assert judged(GOOD._replace(provenance=url))


def test_a_file_lies_at_one_place() -> None:
    assert judged(GOOD._replace(url="https://files.example/x")) == ["needs either a key or a URL"]


@pytest.mark.parametrize(
    "fields",
    [
        {"hashes": {}},
        {"hashes": {"md5": "0" * 32}},
        {"hashes": {"sha256": "0" * 63}},
        {"hashes": {"sha256": "A" * 64}},
        {"hashes": {"sha256": "0" * 64 + "\n"}},
        {"hashes": {"sha256": '"><script>'.ljust(64, "0")}},
        {"hashes": {"sha256": "é" * 64}},
        {"hashes": {"sha256": "0" * 64, '"><script>': "0" * 64}},
        {"core_metadata": {}},
        {"core_metadata": {"sha256": "no hex"}},
        {"size": -1},
        {"size": 1 << 63},
        {"upload_time": ""},
        {"upload_time": "yesterday"},
        {"upload_time": "2024-01-31T12:00:00+01:00"},
        {"yanked": "\udc80"},
        {"requires_python": "\ud800"},
        {"extra": {"x": float("nan")}},
        {"extra": {"x": {1, 2}}},
    ],
)
def test_values_that_could_not_be_published_or_kept_are_refused(fields: dict[str, Any]) -> None:
    assert judged(GOOD._replace(**fields))


def test_a_file_that_is_there_twice_is_taken_once_and_files_are_sorted() -> None:
    other = GOOD._replace(filename="some_thing-0.9-py3-none-any.whl", key="packages/some_thing-0.9-py3-none-any.whl")
    found = vetted(Project("some-thing", "some-thing", (GOOD, other, GOOD._replace(yanked=""))), "some-thing")
    assert found.files == (other, GOOD)
    assert found.rejected == (Rejection(GOOD.filename, "is there twice"),)


def test_versions_that_are_none_are_left_out() -> None:
    """The catalog keeps them separated by spaces."""
    versions = ("1.0", "", "1 2", "3\n", "4\u2003", "\x1b", "odd_but.harmless", "\udcff")
    assert vetted(Project("a", "a", versions=versions), "a").versions == ("1.0", "odd_but.harmless")


@pytest.mark.parametrize(
    "project",
    [
        Project("b", "b"),
        Project("a", "b"),
        Project("A", "A"),
        Project("a", "<script>"),
        Project("a", ""),
        Project("a", "a\n"),
        Project("a", "a", status="\udcff"),
        Project("a", "a", status="archived", status_reason="\udcff"),
        Project("a", "a", meta={"x": float("inf")}),
        Project("a", "a", extra={"x": object()}),
    ],
)
def test_a_project_that_is_not_the_one_that_was_asked_for_fails_by_itself(
    source: FakeSource, catalog: TrappedCatalog, project: Project
) -> None:
    with pytest.raises(ProjectError, match="mend the source"):
        vetted(project, "a")
    source.projects["a"] = project
    report = source.sync(catalog)
    assert [failure.name for failure in report.failed] == ["a"]
    assert catalog.content.tokens().keys() == {"b", "c"}, "the others go on"


def test_a_listing_with_names_that_are_none_brings_nothing_in(source: FakeSource, catalog: TrappedCatalog) -> None:
    hostile = ["../../etc", "<script>", "Not.Normal", "a\nb", ""]
    for name in hostile:
        source.projects[name] = Project(name, name)
    assert sorted(failure.name for failure in source.sync(catalog).failed) == sorted(hostile)
    assert catalog.content.tokens().keys() == {"a", "b", "c"}
