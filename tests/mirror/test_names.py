"""Which names may become keys, paths, links and configuration text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdn_fallback.mirror import names
from cdn_fallback.mirror.names import BadName

HOSTILE = [
    "foo/../../x-1.0.tar.gz",  # packaging takes these three (FACTS, part D)
    "<b>-1.0.tar.gz",
    "foo-1.0\n.tar.gz",
    "../x-1.0.tar.gz",
    "/x-1.0.tar.gz",
    "x\\y-1.0.tar.gz",
    ".x-1.0.tar.gz",
    "-x-1.0.tar.gz",
    "x..y-1.0.tar.gz",
    "x-1.0.tar.gz\n",
    "x-1.0.tar.gz\0.whl",
    "x-1.0%2f.tar.gz",
    'x-1.0".tar.gz',
    "x-1.0;return 301.tar.gz",
    "x-1.0$host.tar.gz",
    "x -1.0.tar.gz",
    "x-1.0\u202e.tar.gz",
    "x-\uff11.0.tar.gz",
    "x-1.0\udcff.tar.gz",
    f"{'x' * 200}-1.0.tar.gz",
    "",
]


def refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except BadName as exc:
        assert exc.reason
        return True
    return False


@pytest.mark.parametrize("filename", HOSTILE)
def test_no_hostile_name_is_a_files(filename: str) -> None:
    assert refused(lambda: names.project_of(filename))
    assert refused(lambda: names.version_of(filename, "x"))
    assert refused(lambda: names.version_of(filename, "foo"))
    assert refused(lambda: names.check_key(f"packages/{filename}"))


@pytest.mark.parametrize("name", ["", "-x", "x-", ".", "x/y", "x y", "x\n", "x<b>", "\u212a", "x\0", "x" * 201])
def test_no_hostile_name_is_a_projects(name: str) -> None:
    assert refused(lambda: names.normalised(name))


@pytest.mark.parametrize("key", ["", "/", "a//b", "/a", "a/", "a/../b", "a/./b", "a/.b", "a/b..c", "a/" * 500 + "b"])
def test_no_key_leads_elsewhere(key: str) -> None:
    assert refused(lambda: names.check_key(key))


def test_a_key_may_have_what_old_trees_have() -> None:
    key = "packages/py2.py3/F/foo~bar/x@1,2/k=v/Foo_Bar-1!1.0+local.1-py3-none-any.whl"
    assert names.check_key(key) == key


@pytest.mark.parametrize(
    ("filename", "project", "version"),
    [
        ("Foo.Bar-1.0.0.tar.gz", "foo-bar", "1.0.0"),
        ("foo-bar-1.0-beta.zip", "foo-bar", "1.0b0"),  # before PEP 625
        ("foo_bar-1.0-py3-none-any.whl", "foo-bar", "1.0"),
        ("foo_bar-1.0-2-py3-none-any.whl", "foo-bar", "1.0"),
        ("foo-1!2.0+cpu.1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "foo", "1!2.0+cpu.1"),
        ("foo-2004d.tar.gz", "foo", "2004d"),
        ("foo-1.0-py2.7.egg", "foo", "1.0"),
        ("foo-1.0.win32-py2.7.exe", "foo", "1.0"),
        ("foo-1.0.win-amd64.exe", "foo", "1.0"),
        ("foo-1.0.win32.msi", "foo", "1.0"),
        ("foo-1.0-1.noarch.rpm", "foo", "1.0"),
        ("foo-.tar.gz", "foo", ""),
    ],
)
def test_a_file_tells_its_version(filename: str, project: str, version: str) -> None:
    assert names.version_of(filename, project) == version


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("foo-1.0.tar.gz", "bar"),
        ("foo-1.0.tar.gz", "fo"),
        ("foo.tar.gz", "foo"),
        ("foo-1.0-py3-none-any.whl", "foo-1-0"),  # a wheel's name has no dash
        ("foo-1.0-py3-none.whl", "foo"),
        ("foo-1.0-1-2-py3-none-any.whl", "foo"),
        ("foo-1.0.txt", "foo"),
        ("foo-1.0.tar.gz.asc", "foo"),
    ],
)
def test_a_file_of_another_project_tells_nothing(filename: str, project: str) -> None:
    assert refused(lambda: names.version_of(filename, project))
    assert refused(lambda: names.name_of(filename, project))


def test_a_file_tells_its_project() -> None:
    assert names.project_of("Foo__Bar-1.0.tar.gz") == "foo-bar"
    assert names.project_of("foo-bar-1.0.zip") == "foo-bar"
    assert names.project_of("foo_bar-1.0-py3-none-any.whl") == "foo-bar"
    assert names.name_of("Foo__Bar-1.0.tar.gz", "foo-bar") == "Foo__Bar"
    assert names.name_of("Foo-Bar-1.0.zip", "foo-bar") == "Foo-Bar"


def test_names_of_one_project() -> None:
    assert names.is_name_of("Foo._.Bar", "foo-bar")
    assert not names.is_name_of("foo", "foo-bar")
    assert not names.is_name_of("x\u212a", "xk")  # a Kelvin sign, in small letters k


def test_versions_stand_in_order() -> None:
    given = ["2.0", "10.0", "1.0rc1", "1.0", "2004d", "", "1.0", "9" * 5000]
    assert names.in_order(given) == ("2004d", "9" * 5000, "1.0rc1", "1.0", "2.0", "10.0")


def test_a_version_of_too_many_digits_is_left_as_it_is() -> None:
    assert names.canonical("9" * 5000) == "9" * 5000


# Names that come close: pieces of real ones beside what must not pass.
WORDS = ["foo", "Foo", "_", "-", ".", "1.0", "!", "+", "py3", "none", "any"]
TRAPS = ["/", "..", "//", "~", "\n", "\0", "\u202e", "\u212a", "<"]
ENDINGS = [*names.SDISTS, names.WHEEL, "-py3-none-any.whl", ".egg", ".exe"]
NEAR = st.lists(st.sampled_from([*WORDS, *TRAPS, *ENDINGS]), max_size=12).map("".join)
ANY = st.one_of(st.text(), NEAR, st.tuples(NEAR, st.sampled_from(ENDINGS)).map("".join))
FILE = re.compile(r"[A-Za-z0-9._+!-]+", re.ASCII)


def harmless(text: str) -> bool:
    return ".." not in text and "//" not in text and text.isascii() and text.isprintable() and not text.startswith(".")


@given(ANY)
@example("foo-1.0-py3-none-any.whl")
@example("a..b-1.0.tar.gz")
def test_no_trust_in_names_what_passes_is_harmless(text: str) -> None:
    """DESIGN 4.7: nothing passes that is not on the list of what may, and nothing else than BadName is raised."""
    if not refused(lambda: names.normalised(text)):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", names.normalised(text))
    if not refused(lambda: names.check_key(text)):
        assert harmless(text)
        assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+!~@=,-]*", part) for part in text.split("/"))
    for project in ("foo", "foo-1-0", "1-0"):
        if not refused(lambda: names.version_of(text, project)):  # noqa: B023
            assert harmless(text)
            assert FILE.fullmatch(text)
            version = names.version_of(text, project)
            assert version == "" or FILE.fullmatch(version)
            assert names.normalised(names.name_of(text, project)) == project
    if not refused(lambda: names.project_of(text)):
        assert harmless(text)
        assert FILE.fullmatch(text)
        assert names.normalised(names.project_of(text)) == names.project_of(text)
