"""What settings mean: the endpoints of a pool and their order, and what is refused before any request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cdn_fallback.config import Config, load
from cdn_fallback.errors import ConfigError
from cdn_fallback.pool import Endpoint, Pool, Role

INDEX = "https://pypi.python.org/"


def pool(**keys: str) -> Pool:
    (only,) = load({f"CDN_FALLBACK_{key.upper()}": value for key, value in keys.items()}, []).pools
    return only


def endpoints(**keys: str) -> list[tuple[Role, str]]:
    return [(endpoint.role, endpoint.base) for endpoint in pool(**keys).endpoints]


def refusal(**keys: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        pool(**keys)
    return caught.value


def test_without_configuration_there_is_no_pool() -> None:
    assert load({"CDN_FALLBACK_CDN": " ", "CDN_FALLBACK_DISABLE": "0"}, []) == Config()


@pytest.mark.parametrize("value", ["1", "true", "yes", "anything"])
def test_disable_reads_nothing_else(value: str) -> None:
    config = load({"CDN_FALLBACK_DISABLE": value, "CDN_FALLBACK_CDN": "rubbish", "CDN_FALLBACK_X": "1"})
    assert config == Config(sources=("CDN_FALLBACK_DISABLE",), disabled=True)


@pytest.mark.parametrize("value", ["", "0", "false", "no", "No", " FALSE "])
def test_disable_can_say_no(value: str) -> None:
    assert not load({"CDN_FALLBACK_DISABLE": value}, []).disabled


def test_with_all_keys_the_order_is_that_of_the_roles() -> None:
    found = pool(
        index="https://index.example",
        origin="https://o1.example https://o2.example/x",
        mirrors="\n https://m.example/\n",
        cdn="https://c.example/",
        redirectors="https://r.example/",
    )
    assert found == Pool(
        "default",
        "https://index.example/",
        (
            Endpoint("https://r.example/", Role.REDIRECTOR),
            Endpoint("https://c.example/", Role.CDN),
            Endpoint("https://m.example/", Role.MIRROR),
            Endpoint("https://o1.example/", Role.ORIGIN),
            Endpoint("https://o2.example/x/", Role.ORIGIN),
        ),
    )


def test_with_an_origin_the_index_is_the_redirector() -> None:
    assert endpoints(cdn="https://c/", origin="https://o/") == [
        (Role.REDIRECTOR, INDEX),
        (Role.CDN, "https://c/"),
        (Role.ORIGIN, "https://o/"),
    ]


def test_without_origin_and_redirectors_the_index_is_its_own_origin_and_asked_first() -> None:
    assert endpoints(cdn="https://c/") == [(Role.ORIGIN, INDEX), (Role.CDN, "https://c/")]


def test_without_origin_behind_redirectors_the_index_is_the_origin_and_asked_last() -> None:
    assert endpoints(redirectors="https://r/", cdn="https://c/") == [
        (Role.REDIRECTOR, "https://r/"),
        (Role.CDN, "https://c/"),
        (Role.ORIGIN, INDEX),
    ]


def test_an_index_alone_is_its_own_origin() -> None:
    assert endpoints(index="https://i/") == [(Role.ORIGIN, "https://i/")]


def test_an_index_that_is_listed_is_not_added_again() -> None:
    assert endpoints(cdn="https://c/", origin=INDEX) == [(Role.CDN, "https://c/"), (Role.ORIGIN, INDEX)]
    assert endpoints(redirectors="https://pypi.python.org:443", cdn="https://c/") == [
        (Role.ORIGIN, "https://pypi.python.org:443/"),
        (Role.CDN, "https://c/"),
    ]
    assert endpoints(cdn=INDEX, origin="https://o/") == [(Role.CDN, INDEX), (Role.ORIGIN, "https://o/")]


def test_an_index_among_the_copies_needs_an_origin() -> None:
    assert "set `origin`" in refusal(cdn=INDEX).problem


def test_gatekeepers_mark_endpoints_also_the_index_itself() -> None:
    found = pool(cdn="https://c/", origin="https://o/", gatekeepers="https://O https://pypi.python.org")
    assert [(e.base, e.gatekeeper) for e in found.endpoints] == [
        (INDEX, True),
        ("https://c/", False),
        ("https://o/", True),
    ]


def test_credentials_leave_the_url_for_the_endpoint() -> None:
    (_, cdn, token) = pool(cdn="https://us%40er:p%2Fw%3A@C.Example:8443/x https://token@t").endpoints
    assert (cdn.base, cdn.credentials) == ("https://c.example:8443/x/", ("us@er", "p/w:"))
    assert (token.base, token.credentials) == ("https://t/", ("token", ""))


def test_the_environment_wins_key_by_key_and_sources_say_so(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[cdn-fallback]\ncdn = https://file/\norigin = https://o/\n[cdn-fallback:b]\nindex=https://b/\n")
    config = load({"CDN_FALLBACK_CDN": "https://env/"}, [str(file)])
    default, other = config.pools
    assert [e.base for e in default.endpoints] == [INDEX, "https://env/", "https://o/"]
    assert (other.name, other.index) == ("b", "https://b/")
    assert config.sources == (f"{file} [cdn-fallback]", f"{file} [cdn-fallback:b]", "CDN_FALLBACK_CDN")


def test_an_empty_key_takes_back_what_a_weaker_file_said(tmp_path: Path) -> None:
    weak, strong = tmp_path / "weak", tmp_path / "strong"
    weak.write_text("[cdn-fallback]\ncdn = https://c/\n")
    strong.write_text("[cdn-fallback]\ncdn =\n")
    assert load({}, [str(weak), str(strong)]).pools == ()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://c/", "no http or https URL"),
        ("c.example/x", "no http or https URL"),
        ("c.example:8443", "no http or https URL"),
        ("//c/", "no http or https URL"),
        ("https:///x", "no host"),
        ("https://:443/", "no host"),
        ("https://./", "no host"),
        ("https://c:0/", "port 0"),
        ("https://c:65536/", "no valid host and port"),
        ("https://c:x/", "no valid host and port"),
        ("https://[::1/", "no valid host and port"),
        ("https://c/?", "a query or fragment"),
        ("https://c/?a=b", "a query or fragment"),
        ("https://c/#", "a query or fragment"),
        ("https://c/\x07", "no URL may hold"),
        ("https://c/\u202e", "no URL may hold"),
        ("https://c\\d/", "no URL may hold"),
        ("https://c/<x>", "no URL may hold"),
        ("https://c/a/../b/", ". or .."),
        ("https://c/ # the main one", "a comment in a value"),
    ],
)
def test_what_is_no_base_url_is_told(url: str, words: str) -> None:
    error = refusal(cdn=url)
    assert (error.where, error.key) == ("CDN_FALLBACK_CDN", "cdn")
    assert words in error.problem
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@c/?q",
        "https://user:secret@c:x/",
        "https://user:se/secret@c/",
        "https://user:se#secret@c/",
        "https://user:secret<@c/",
        "ftp://user:secret@c/",
        "user:secret@c/",
        "https://user:secret cut@c/",
    ],
)
def test_no_message_shows_a_password(url: str) -> None:
    error = refusal(cdn=url)
    assert "secret" not in str(error)
    assert "secret" not in repr(error)


@pytest.mark.parametrize("key", ["index", "gatekeepers"])
def test_credentials_stand_at_endpoints_only(key: str) -> None:
    error = refusal(**{"cdn": "https://c/", key: "https://user:secret@c/"})
    assert error.key == key
    assert "holds credentials" in error.problem
    assert "secret" not in str(error)


def test_an_index_is_one_url() -> None:
    assert "more than one URL" in refusal(index="https://a/ https://b/").problem


@pytest.mark.parametrize(
    "keys",
    [
        {"cdn": "http://c/"},
        {"index": "http://i/", "cdn": "https://c/"},
        {"redirectors": "https://r/", "cdn": "http://c/", "origin": "https://o/"},
    ],
)
def test_http_beside_https_is_refused(keys: dict[str, str]) -> None:
    error = refusal(**keys)
    assert error.key == "cdn"
    assert "do not mix" in error.problem


def test_an_endpoint_in_two_lists_names_both() -> None:
    error = refusal(cdn="https://c/x", mirrors="https://m/ https://C:443/x/")
    assert error.key == "mirrors"
    assert "https://c:443/x/ stands in cdn (CDN_FALLBACK_CDN) already" in error.problem


def test_an_endpoint_twice_in_a_list_is_refused() -> None:
    assert "stands in the same list already" in refusal(cdn="https://c/ https://c").problem


def test_a_gatekeeper_must_be_an_endpoint() -> None:
    error = refusal(cdn="https://c/", gatekeepers="https://g/")
    assert error.key == "gatekeepers"
    assert "it has https://pypi.python.org/, https://c/" in error.problem


@pytest.mark.parametrize("index", ["https://i/a/", "https://I:443/a", "https://i/", "https://i/a/b/"])
def test_a_url_belongs_to_one_pool(tmp_path: Path, index: str) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(f"[cdn-fallback:one]\nindex = https://i/a/\n[cdn-fallback:two]\ncdn=https://c/\nindex = {index}\n")
    with pytest.raises(ConfigError, match=r"the pools one .* and two .* share URLs") as caught:
        load({}, [str(file)])
    assert caught.value.where == f"{file}:5"


def test_two_pools_without_index_share_the_default(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[cdn-fallback]\ncdn = https://c/\n[cdn-fallback:two]\norigin=https://o/\n")
    with pytest.raises(ConfigError, match=r"default .* and two .* share URLs") as caught:
        load({}, [str(file)])
    assert (caught.value.where, caught.value.key) == (f"{file}:4", "origin")


def test_indexes_side_by_side_are_two_pools(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[cdn-fallback:a]\nindex = https://i/a/\n[cdn-fallback:ab]\nindex = https://i/ab/\n")
    assert [found.name for found in load({}, [str(file)]).pools] == ["a", "ab"]


@pytest.mark.parametrize(("hours", "seconds"), [(None, 86400), ("36", 129600), (" 0 ", float("inf"))])
def test_how_old_a_copys_page_may_be(hours: str | None, seconds: float) -> None:
    environment = {"CDN_FALLBACK_CDN": "https://c/"} | ({"CDN_FALLBACK_OLDEST": hours} if hours else {})
    (pool,) = load(environment, []).pools
    assert pool.oldest == seconds


@pytest.mark.parametrize("hours", ["-1", "1.5", "1d", "a day"])
def test_how_old_is_a_number_of_hours(hours: str) -> None:
    assert "is no number of hours; write 24 for a day" in refusal(cdn="https://c/", oldest=hours).problem


def test_loading_imports_little() -> None:
    """It runs inside pip, which has read configuration itself: difflib and the mirror half stay away."""
    code = "import os, sys, cdn_fallback.config as c; c.load({}, []); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"difflib", "sqlite3", "ssl", "socket", "cdn_fallback.mirror"} & set(loaded)
