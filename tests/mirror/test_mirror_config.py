"""cdn-fallback.toml: what is taken from it, and what is said of everything that is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.config import load
from cdn_fallback.mirror.site import Rules
from cdn_fallback.mirror.sources.trees import Tree
from cdn_fallback.mirror.stores.opening import StoreSettings

LEAST = """
[source]
type = "directory"
path = "packages"
[store]
url = "file:///srv/mirror"
[publish]
base = "https://pypi.python.org/"
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "mirror.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST)
    config = load(path)
    assert config.where == path and config.catalog == tmp_path / "cdn-fallback.sqlite"
    assert config.rules == Rules("https://pypi.python.org/", True)
    assert config.store == StoreSettings("file:///srv/mirror", str(path), tmp_path) and config.trees == ()
    assert config.source.values == {"type": "directory", "path": "packages"}
    assert config.source.folder == tmp_path and config.source.spool == tmp_path / "cdn-fallback.sqlite.spool"


def test_what_may_be_set_for_a_bucket(tmp_path: Path) -> None:
    more = 'endpoint = "http://s3.example.org:8333"\nregion = "x-1"\nretry_seconds = 5\nput_price = 0.01\nurl ='
    config = load(write(tmp_path, replaced("url =", more) + "keep_days = 7\n"))
    assert config.keep == 7 * 86400
    assert config.store[3:] == ("http://s3.example.org:8333", "x-1", 5, 0.01)


def test_everything_that_may_be_set(tmp_path: Path) -> None:
    more = """legacy = false
[catalog]
path = "state/catalog.sqlite"
[[tree]]
path = "docs"
prefix = "/documentation/"
[[tree]]
path = "/srv/others"
prefix = "a/b"
"""
    config = load(write(tmp_path, LEAST + more))
    assert config.rules.legacy is False
    assert config.catalog == tmp_path / "state/catalog.sqlite"
    assert config.trees == (Tree(tmp_path / "docs", "documentation"), Tree(Path("/srv/others"), "a/b"))


def test_a_path_that_is_given_relative_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LEAST)
    monkeypatch.chdir(tmp_path)
    config = load(Path("mirror.toml"))
    assert config.where.is_absolute() and config.catalog.is_absolute()


@pytest.mark.parametrize(
    ("base", "rendered"),
    [
        ("https://host", "https://host/"),
        ("http://host:8080/a/b/", "http://host:8080/a/b/"),
        ("https://[::1]/", "https://[::1]/"),
    ],
)
def test_the_site_s_own_url_ends_with_a_slash(tmp_path: Path, base: str, rendered: str) -> None:
    assert load(write(tmp_path, LEAST.replace("https://pypi.python.org/", base))).rules.base == rendered


def test_a_file_that_is_not_there_is_told_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no\.toml: is not there; write one with `cdn-fallback mirror init`, or name"
    ):
        load(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "cannot be read"),
        ("[source", "is no TOML"),
        ("a = 1\na = 2", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"mirror\.toml: {said}"):
        load(write(tmp_path, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def replaced(old: str, new: str) -> str:
    assert old in LEAST
    return LEAST.replace(old, new)


BASE = 'base = "https://pypi.python.org/"'
TREE = '[[tree]]\npath = "docs"\nprefix = "{}"\n'


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (f"[sources]\n{LEAST}", "sources", "is no table of this file; there are source, catalog, store, publish, tree"),
        (f"source = 1\n{LEAST.partition('[store]')[2]}", "url", "is no table of this file"),
        ("source = 1", "[store] url|source", "must be a table: write \\[source\\]|is missing"),
        (replaced('url = "file:///srv/mirror"', ""), "[store] url", "is missing; write a string"),
        (replaced('"file:///srv/mirror"', "5"), "[store] url", "must be a string"),
        (replaced('"file:///srv/mirror"', '""'), "[store] url", "must be a string"),
        (replaced("url =", 'secret = "x"\nurl ='), "[store] secret", "is no key of this table; it has url"),
        (replaced(BASE, ""), "[publish] base", "is missing"),
        (replaced(BASE, 'base = "pypi.python.org"'), "[publish] base", "is no URL of a site; write https://host/"),
        (replaced(BASE, 'base = "https://u:p@host/"'), "[publish] base", "is no URL of a site"),
        (replaced(BASE, 'base = "https://host/?a"'), "[publish] base", "is no URL of a site"),
        (replaced(BASE, 'base = "https://[x/"'), "[publish] base", "is no URL of a site"),
        (replaced(BASE, 'base = "https://host/<b>"'), "[publish] base", "percent-encode it"),
        (replaced(BASE, 'base = "https://host/\\u001b"'), "[publish] base", "percent-encode it"),
        (replaced("url =", 'endpoint = "s3.example.org"\nurl ='), "[store] endpoint", "is no URL of a service; write"),
        (replaced("url =", 'endpoint = "https://k:s@host"\nurl ='), "[store] endpoint", "is no URL of a service"),
        (replaced("url =", "region = 1\nurl ="), "[store] region", "must be a string"),
        (replaced("url =", "retry_seconds = 61\nurl ="), "[store] retry_seconds", "whole number from 0 to 60"),
        (replaced("url =", "put_price = -1\nurl ="), "[store] put_price", "must be the price of a thousand puts"),
        (LEAST + "keep_days = true\n", "[publish] keep_days", "must be a whole number from 0 to 3650"),
        (LEAST + "legacy = 1\n", "[publish] legacy", "must be true or false"),
        (LEAST + "bse = 1\n", "[publish] bse", "is no key of this table; it has base, legacy"),
        (LEAST + "[catalog]\npth = 'x'\n", "[catalog] pth", "is no key of this table; it has path"),
        (LEAST + "[catalog]\npath = 1\n", "[catalog] path", "must be a string"),
        (LEAST + "[tree]\npath = 'x'\n", "tree", "each tree is a table of its own: write \\[\\[tree\\]\\]"),
        ("tree = [1]\n" + LEAST, "[[tree]] number 1", "needs `path` and `prefix`, both strings, and nothing else"),
        (LEAST + "[[tree]]\npath = 'x'\n", "[[tree]] number 1", "needs `path` and `prefix`"),
        (LEAST + TREE.format("a") + "more = 1\n", "[[tree]] number 1", "needs `path` and `prefix`"),
        (LEAST + TREE.format(""), "[[tree]] number 1", "needs `path` and `prefix`"),
        (LEAST + TREE.format("/"), "[[tree]] number 1", "prefix '' has a part that no key of ours may have"),
        (LEAST + TREE.format("../x"), "[[tree]] number 1", "has a part that no key of ours may have"),
        (LEAST + TREE.format("a/.hidden"), "[[tree]] number 1", "has a part that no key of ours may have"),
        (LEAST + TREE.format("simple"), "[[tree]] number 1", "is the index's own; name another"),
        (LEAST + TREE.format("packages/docs"), "[[tree]] number 1", "is the index's own"),
        (LEAST + TREE.format("last-modified"), "[[tree]] number 1", "is the index's own"),
        (
            LEAST + TREE.format("a") + TREE.format("b") + TREE.format("a/b"),
            "[[tree]] number 3",
            "lies in another tree's",
        ),
        (LEAST + TREE.format("a/b") + TREE.format("a"), "[[tree]] number 2", "lies in another tree's"),
        (LEAST + TREE.format("a") + TREE.format("a"), "[[tree]] number 2", "lies in another tree's"),
    ],
)
def test_everything_that_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(write(tmp_path, text))
    assert caught.value.where == str(tmp_path / "mirror.toml")
    assert caught.value.key in key.split("|")
    assert str(caught.value).isprintable()


def test_prefixes_that_only_begin_alike_are_two(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, LEAST + TREE.format("doc") + TREE.format("docs"))).trees) == 2
