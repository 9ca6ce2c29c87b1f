"""The source simple-api over HTTP: lists and pages. Its files are in test_simple_files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.mirror.model import Project
from cdn_fallback.mirror.sources import Listing, ProjectError, Settings, SourceError
from cdn_fallback.mirror.sources.registry import find
from cdn_fallback.mirror.sources.simple_api import SimpleApi
from tests.mirror.simple_index import Index, World, without_configuration
from tests.rig.faults import Body, CutPage, HugePage, LoginPage, Redirect, Refuse, Status, Truncate
from tests.rig.sample import A, B, S
from tests.rig.server import Server
from tests.rig.site import HTML, PLAIN_HTML, Site

LIST = "/simple/"
SIX = "/simple/six/"
FILE = {"filename": "six-1.0.tar.gz", "url": "/packages/six-1.0.tar.gz", "hashes": {"sha256": "a" * 64}}
EMPTY_HTML = "<html><body>Down for maintenance</body></html>"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    without_configuration(monkeypatch, tmp_path)
    index = Index()
    index.list(9, six=7, attrs=9)
    index.project("six", FILE, serial=7)
    with Server(index, "127.0.9.21", 0) as server:
        made = World(index, server, tmp_path)
        yield made
        made.close()


def listed(source: SimpleApi, state: str = "") -> Listing:
    found = source.listing(state)
    assert found is not None
    return found


def had(source: SimpleApi, name: str = "six", known: Project | None = None) -> Project:
    found = source.project(name, known)
    assert found is not None
    return found


# -- the list


def test_a_token_for_each_project_that_changes_with_its_serial(world: World) -> None:
    first = listed(world.source())
    world.index.list(10, six=7, attrs=10, seven=8)
    second = listed(world.source(), first.state)

    assert sorted(first.tokens) == ["attrs", "six"] and first.serial == 9
    assert second.serial == 10
    assert second.tokens["six"] == first.tokens["six"] and second.tokens["attrs"] != first.tokens["attrs"]
    assert all(second.tokens.values())


def test_a_list_that_has_not_changed_is_not_sent(world: World) -> None:
    state = listed(world.source()).state
    assert world.source().listing(state) is None
    first, second = world.server.requests
    assert (first.status, first.header("If-None-Match")) == (200, None)
    assert second.status == 304 and second.header("If-None-Match")
    assert second.header("If-Modified-Since")
    accept = first.header("Accept") or ""
    assert accept.startswith("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2")


def test_a_list_without_serials_is_always_sent_as_every_project_is_to_be_asked_for(world: World) -> None:
    world.index.list(None, six=None, attrs=3)
    state = listed(world.source()).state
    again = listed(world.source(), state)
    assert again.tokens["six"] == ""
    assert [request.status for request in world.server.requests] == [200, 200]


def test_what_is_asked_for_with_files_is_not_what_was_had_without(world: World) -> None:
    pages = listed(world.source())
    files = listed(world.source(files=True), pages.state)
    assert files.tokens["six"] != pages.tokens["six"]
    assert [request.status for request in world.server.requests] == [200, 200]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"tag": 5}', '{"unknown": 1}', '{"serial": "9"}', "null"])
def test_a_state_of_somebody_else_is_none(world: World, state: str) -> None:
    assert sorted(listed(world.source(), state).tokens) == ["attrs", "six"]


def test_hostile_names_are_rejected(world: World) -> None:
    world.index.list(9, **{"six": 7, "../x": 1})
    found = listed(world.source())
    assert list(found.tokens) == ["six"]
    assert [rejection.what for rejection in found.rejected] == ["../x"]


def test_a_filter_is_the_list(world: World) -> None:
    (world.folder / "requirements.txt").write_text("Attrs>=1\n")
    source = world.source(projects=["Six"], requirements=["requirements.txt"])
    assert source.listing("") == Listing({"attrs": "", "six": ""})
    assert world.asked == []


@pytest.mark.parametrize("types", [(PLAIN_HTML,), (HTML,)])
def test_an_index_in_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...]) -> None:
    without_configuration(monkeypatch, tmp_path)
    with Server(Site((A, B, S), serial=4, types=types), "127.0.9.22", 0) as server:
        world = World(Index(), server, tmp_path)
        source = world.source()
        found = listed(source)
        project = had(source, "demo-b")
        world.close()
        assert (dict(found.tokens), found.serial) == ({"demo-a": "", "demo-b": "", "demo-s": ""}, 4)
        (file,) = project.files
        assert (file.url, file.key) == (f"{server.url}packages/{B.filename}", "")
        assert (file.hashes, file.requires_python) == ({"sha256": B.sha256}, ">=3.8")
        assert file.core_metadata == {"sha256": hashlib.sha256(B.metadata).hexdigest()}


# -- a list that is not to be believed


def test_a_source_page_cut_short_is_never_taken_for_everything_was_removed(world: World) -> None:
    state = listed(world.source()).state
    for fault in (CutPage(0.5), Truncate(0.5), Truncate(0.5, "chunked"), Truncate(0.5, "close"), CutPage(0.0)):
        world.server.heal()
        world.index.list(10, six=7, attrs=10)
        world.server.fault(fault)
        with pytest.raises(SourceError):
            world.source().listing(state)
    world.server.heal()
    world.server.fault(Truncate(0.5))
    with pytest.raises(ProjectError):
        world.source().project("six", None)


def test_a_list_that_is_empty_of_a_sudden_is_an_error(world: World) -> None:
    state = listed(world.source()).state
    world.index.list(10)
    with pytest.raises(SourceError, match="lists no project, where it had 2"):
        world.source().listing(state)
    assert listed(world.source()).tokens == {}, "a new index may be empty"


@pytest.mark.parametrize(
    "fault", [LoginPage(), Body(EMPTY_HTML.encode(), (("Content-Type", "text/html"),)), HugePage(80 << 20)]
)
def test_what_is_no_list_is_an_error(world: World, fault: Body) -> None:
    world.server.fault(fault)
    with pytest.raises(SourceError) as caught:
        world.source(retries=0).listing("")
    assert str(caught.value).startswith(f"{world.server.url}simple/: ")
    assert "\\n" not in str(caught.value)


def test_a_serial_that_goes_back_is_an_error_until_it_is_accepted(world: World) -> None:
    state = listed(world.source()).state
    world.index.list(5, six=5)
    with pytest.raises(SourceError, match=r"went back from 9 to 5; .* set \[source\] accept-serial = 5 for one run"):
        world.source().listing(state)
    with pytest.raises(SourceError, match="went back"):
        world.source(accept_serial=6).listing(state)

    world.index.list(6, six=6)  # it goes on meanwhile
    accepted = listed(world.source(accept_serial=5), state)
    assert accepted.serial == 6
    assert world.source().listing(accepted.state) is None


def test_a_serial_that_is_missing_for_once_is_not_forgotten(world: World) -> None:
    state = listed(world.source()).state
    world.index.list(None, six=7)
    state = listed(world.source(), state).state
    world.index.list(5, six=5)
    with pytest.raises(SourceError, match="went back from 9 to 5"):
        world.source().listing(state)


def test_the_serial_of_another_index_says_nothing(world: World) -> None:
    state = listed(world.source()).state
    other = Index()
    other.list(2, six=2)
    with Server(other, "127.0.9.23", 0) as server:
        assert listed(world.source(url=f"{server.url}simple/"), state).serial == 2
        assert server.requests[0].header("If-None-Match") is None


# -- a project


def test_a_project_that_links_to_the_sources_files(world: World) -> None:
    found = had(world.source())
    (file,) = found.files
    assert (file.url, file.key, file.state) == (f"{world.server.url}packages/six-1.0.tar.gz", "", "")
    assert (found.serial, found.versions) == (7, ("1.0",))


def test_a_page_that_has_not_changed_is_not_sent(world: World) -> None:
    source = world.source()
    known = had(source)
    assert source.project("six", known) is None
    first, second = world.server.requests
    assert (first.header("If-None-Match"), first.header("If-Modified-Since")) == (None, None)
    assert (second.status, bool(second.header("If-None-Match"))) == (304, True)

    world.index.project("six", FILE, serial=8)
    assert had(source, "six", known).serial == 8


def test_a_validator_is_sent_to_the_page_only_that_gave_it(world: World) -> None:
    """A redirect's end gave it, not its beginning: only the end sees it, and only while the redirect leads there."""
    other = Index()
    other.project("six", FILE, serial=7)
    with Server(other, "127.0.9.23", 0) as server:
        world.server.fault(Redirect(f"{server.url}simple/six/"), on=SIX)
        source = world.source()
        known = had(source)
        assert known.files[0].url == f"{server.url}packages/six-1.0.tar.gz"
        assert source.project("six", known) is None
        assert [bool(request.header("If-None-Match")) for request in server.requests] == [False, True]
        world.server.heal()
        assert had(source, "six", known).files[0].url == f"{world.server.url}packages/six-1.0.tar.gz"
    assert not any(request.header("If-None-Match") for request in world.server.requests)


def test_a_validator_does_not_follow_a_redirect(world: World) -> None:
    known = had(world.source())
    other = Index()
    other.project("six", serial=8)
    with Server(other, "127.0.9.23", 0) as server:
        world.server.fault(Redirect(f"{server.url}simple/six/"), on=SIX)
        assert had(world.source(), "six", known).serial == 8
        assert world.server.requests[-1].header("If-None-Match")
        assert not server.requests[0].header("If-None-Match") and not server.requests[0].header("If-Modified-Since")


def test_pages_had_without_files_are_asked_for_anew_with_them(world: World) -> None:
    known = had(world.source())
    assert world.source(files=True, projects=["six"]).listing("") is not None
    world.index.project("six", serial=7)
    assert had(world.source(files=True), "six", known).files == ()
    assert [request.status for request in world.server.requests] == [200, 200]


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_that_is_missing_though_the_list_has_it_is_asked_for_again_next_time(world: World, status: int) -> None:
    world.server.fault(Status(status), on=SIX)
    with pytest.raises(ProjectError, match=f"answered {status} .*but the list has it"):
        world.source().project("six", None)


def test_a_project_of_the_filter_that_the_index_does_not_have_is_told(world: World) -> None:
    source = world.source(projects=["sicks"])
    for known in (None, had(world.source())):
        with pytest.raises(ProjectError, match="no such project; take it out of the filter, or check its name"):
            source.project("sicks", known)


def test_a_page_older_than_what_is_known_is_refused(world: World) -> None:
    known = had(world.source())
    world.index.project("six", serial=5)
    with pytest.raises(ProjectError, match="older than what is known: 5 < 7"):
        world.source().project("six", known)
    with pytest.raises(ProjectError, match="older than what is known: 5 < 7"):
        world.source(accept_serial=7).project("six", known)
    # it was known of the index as it was before that went back to 6
    assert had(world.source(accept_serial=6), "six", known).serial == 5


def test_a_page_older_than_the_list_is_refused(world: World) -> None:
    source = world.source()
    known = had(source)
    world.index.list(8, six=8)
    listed(source)
    with pytest.raises(ProjectError, match="older than its list: 7 < 8"):
        source.project("six", None)
    with pytest.raises(ProjectError, match="older than its list: 7 < 8"):
        source.project("six", known)  # 304: so it is the same page
    assert [request.status for request in world.server.requests] == [200, 200, 200, 304]
    world.index.project("six", FILE, serial=9)
    assert had(source).serial == 9


def test_another_projects_page_is_refused(world: World) -> None:
    world.index.project("attrs")
    world.index.pages[SIX] = world.index.pages["/simple/attrs/"]
    with pytest.raises(ProjectError, match="page of another project: attrs"):
        world.source().project("six", None)


def test_a_page_that_is_empty_of_a_sudden_must_say_that_it_is_an_index_page(world: World) -> None:
    known = had(world.source())
    world.index.put(SIX, EMPTY_HTML, "text/html")
    with pytest.raises(ProjectError, match="nothing tells from an error page, where it had 1"):
        world.source().project("six", known)
    assert had(world.source()).files == (), "it had none before"
    world.index.put(SIX, EMPTY_HTML + "<!--SERIAL 8-->", "text/html")
    assert had(world.source(), "six", known).files == ()


def test_a_rejected_file_is_told_and_the_others_taken(world: World) -> None:
    world.index.project("six", FILE, {**FILE, "filename": "six-1.0.tar.gz\n"}, {**FILE, "filename": "../six-1.0.zip"})
    found = had(world.source())
    assert [file.filename for file in found.files] == ["six-1.0.tar.gz"]
    assert [rejection.what for rejection in found.rejected] == ["six-1.0.tar.gz\n", "../six-1.0.zip"]


def test_a_file_without_a_hash_is_linked_to_without_one(world: World) -> None:
    world.index.project("six", {**FILE, "hashes": {}})
    assert had(world.source()).files[0].hashes == {}


def test_a_quarantined_project(world: World) -> None:
    status: dict[str, Any] = {"project-status": {"status": "quarantined", "reason": "malware"}}
    world.index.project("six", FILE, **status)
    found = had(world.source())
    assert (found.status, found.status_reason, found.files) == ("quarantined", "malware", ())


# -- trouble


def test_a_transient_error_is_repeated_as_often_as_the_settings_say(world: World) -> None:
    world.server.fault(Status(503), times=3)
    assert listed(world.source(retries=3)).serial == 9
    assert [request.status for request in world.server.requests] == [503, 503, 503, 200]
    assert world.waits == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (2, 3)])
def test_an_error_that_lasts_is_told_in_one_line(world: World, retries: int, requests: int) -> None:
    world.server.fault(Status(503))
    with pytest.raises(SourceError) as caught:
        world.source(retries=retries).listing("")
    assert len(world.server.requests) == requests
    assert f"no usable answer after {requests} attempt" in str(caught.value)
    assert "answered 503" in str(caught.value) and "\\n" not in str(caught.value)
    with pytest.raises(ProjectError, match="no usable answer"):
        world.source(retries=0).project("six", None)


def test_a_retry_after_is_respected(world: World) -> None:
    world.server.fault(Status(429, (("Retry-After", "11"),)), times=1)
    listed(world.source())
    assert world.waits == [11.0]


def test_nobody_there_is_an_error(world: World) -> None:
    world.server.fault(Refuse())
    with pytest.raises(SourceError, match=r"did not connect|refused"):
        world.source().listing("")


@pytest.mark.parametrize(("status", "why"), [(401, "wants credentials"), (403, "refuses"), (418, "teapot")])
def test_a_refusal_is_not_repeated(world: World, status: int, why: str) -> None:
    world.server.fault(Status(status))
    with pytest.raises(SourceError, match=f"(?i)answered {status} .*{why}"):
        world.source().listing("")
    assert len(world.server.requests) == 1


def test_a_server_that_redirects_for_ever_is_left(world: World) -> None:
    world.server.fault(Redirect("/simple/?again"))
    with pytest.raises(SourceError, match="redirected more than 10 times"):
        world.source().listing("")


def test_a_fallback_of_the_pool_serves_what_the_index_cannot(world: World) -> None:
    with Server(world.index, "127.0.9.24", 0) as cdn:
        source = world.source(pool={"cdn": [cdn.url]})
        world.server.fault(Refuse())
        assert listed(source).serial == 9
        project = had(source)
        assert [request.path for request in cdn.requests] == [LIST, SIX]
    assert project.files[0].url == f"{world.server.url}packages/six-1.0.tar.gz", "the canonical one"


# -- with the engine switched off, we repeat


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch, world: World) -> World:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    return world


def test_without_the_engine_a_transient_error_is_repeated(off: World) -> None:
    off.server.fault(Status(502), times=2)
    assert listed(off.source()).serial == 9
    assert off.waits == [0.5, 1.0]


@pytest.mark.parametrize(("said", "waited"), [("7", 7.0), ("3600", 30.0), ("0", 0.5), ("soon", 0.5)])
def test_without_the_engine_a_retry_after_is_respected_up_to_30_seconds(off: World, said: str, waited: float) -> None:
    off.server.fault(Status(503, (("Retry-After", said),)), times=1)
    listed(off.source())
    assert off.waits == [waited]


def test_without_the_engine_a_cut_page_is_none(off: World) -> None:
    off.server.fault(Truncate(0.5))
    with pytest.raises(SourceError):
        off.source(retries=1).listing("")
    assert off.waits == [0.5]


def test_without_the_engine_a_huge_page_is_not_read_to_its_end(off: World) -> None:
    off.server.fault(HugePage(80 << 20))
    with pytest.raises(SourceError, match="more than 64 MiB"):
        off.source().listing("")


def test_without_the_engine_a_304_that_nobody_asked_for_is_none(off: World) -> None:
    off.server.fault(Status(304))
    with pytest.raises(SourceError, match="answered 304"):
        off.source().listing("")


# -- the rest


def test_it_is_found_by_its_name(world: World) -> None:
    values = {"type": "simple-api", "url": f"{world.server.url}simple", "workers": 3}
    source = find(Settings(values, "mirror.toml", world.folder, world.folder / "spool"))
    assert isinstance(source, SimpleApi) and source.workers == 3
    assert listed(source).serial == 9
    source.close()


def test_a_state_is_short(world: World) -> None:
    """There may be a million."""
    state = had(world.source()).state
    assert len(state) < 150 and world.server.url not in state
    assert set(json.loads(state)) == {"tag", "etag", "modified"}


def test_a_hostile_answer_is_escaped_in_errors(world: World) -> None:
    world.index.put(LIST, "{}", "text/\x9b31m")
    with pytest.raises(SourceError) as caught:
        world.source().listing("")
    assert str(caught.value).isprintable()
