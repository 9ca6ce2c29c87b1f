"""What the configuration says of a source of the type simple-api, and which projects requirements files name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback.config import Config
from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.sources import Settings
from cdn_fallback.mirror.sources.simple_api import requirement_names
from cdn_fallback.mirror.sources.simple_api import settings as simple_settings
from cdn_fallback.pool import Role

URL = "https://pypi.python.org/simple/"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in [name for name in os.environ if name.startswith("CDN_FALLBACK_")]:
        monkeypatch.delenv(name)


def options(folder: Path, **values: Any) -> simple_settings.Options:
    made = {"type": "simple-api", "url": URL} | {key.replace("_", "-"): value for key, value in values.items()}
    return simple_settings.read(Settings(made, "mirror.toml", folder, folder / "spool"))


def test_the_defaults(tmp_path: Path) -> None:
    found = options(tmp_path, url="https://pypi.python.org/simple")
    assert found == simple_settings.Options(URL, simple_settings.Filter(), False, 8, 3, None, Config())
    assert not found.wanted


def test_names_of_projects_are_normalised(tmp_path: Path) -> None:
    assert options(tmp_path, projects=["Six", "zope.interface"]).wanted.names() == {"six", "zope-interface"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"url": None}, "url: must be a string|url: is missing"),
        ({"url": "pypi.python.org"}, "url: must be the URL"),
        ({"url": "ftp://pypi.python.org/simple/"}, "url: must be the URL"),
        ({"url": "https:///simple/"}, "url: must be the URL"),
        ({"url": "https://[::1/"}, "url: must be the URL"),
        ({"url": "https://a b/"}, "url: must be the URL"),
        ({"url": "https://user:secret@pypi.python.org/simple/"}, "netrc"),
        ({"url": URL + "?x=1"}, "query"),
        ({"projects": []}, "names no project"),
        ({"projects": ["<b>"]}, "<b> is no project name"),
        ({"projects": "six"}, "list of strings"),
        ({"requirements": ["missing.txt"]}, "cannot be read"),
        ({"files": "yes"}, "true or false"),
        ({"workers": 0}, "1 or more"),
        ({"retries": -1}, "0 or more"),
        ({"accept_serial": "9"}, "whole number"),
        ({"path": "x"}, "no key of a source"),
        ({"pool": ["x"]}, "must be a table"),
        ({"pool": {}}, "names no server"),
        ({"pool": {"cnd": ["https://cdn.example.net/"]}}, r"pool\.cnd: is no key"),
        ({"pool": {"cdn": []}}, r"pool\.cdn: must be a URL"),
        ({"pool": {"cdn": [5]}}, r"pool\.cdn: must be a URL"),
        ({"pool": {"cdn": "http://cdn.example.net/"}}, r"pool\.cdn: .* do not mix"),
        ({"pool": {"cdn": "https://cdn.example.net/", "index": "https://other.example.org/"}}, r"pool\.index"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_key(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        options(tmp_path, **values)
    assert "secret" not in str(caught.value)


def test_a_pool_of_its_own_stands_for_the_whole_host(tmp_path: Path) -> None:
    pool = {"cdn": ["https://a.example.net/", "https://b.example.net/m"], "mirrors": "https://c.example.net/"}
    (made,) = options(tmp_path, pool=pool).config.pools
    assert made.index == "https://pypi.python.org/"
    assert [(endpoint.role, endpoint.base) for endpoint in made.endpoints] == [
        (Role.ORIGIN, "https://pypi.python.org/"),
        (Role.CDN, "https://a.example.net/"),
        (Role.CDN, "https://b.example.net/m/"),
        (Role.MIRROR, "https://c.example.net/"),
    ]


def test_a_pool_of_its_own_does_without_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_CDN", "https://environment.example.net/")
    assert "environment" in str(options(tmp_path).config.pools)
    assert "environment" not in str(options(tmp_path, pool={"cdn": "https://cdn.example.net/"}).config.pools)


def test_the_environment_switches_a_pool_of_its_own_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    assert options(tmp_path, pool={"cdn": "https://cdn.example.net/"}).config.disabled


# -- requirements files


def test_only_names_are_taken_of_requirements(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "requirements.txt").write_text(
        "# a comment\n"
        "\n"
        "--index-url https://example.org/simple/\n"
        "-c constraints.txt\n"
        "Six==1.0  # why\n"
        "zope.interface[test]>=5,<6; python_version < '4'\n"
        "hashed==1.0 \\\n"
        "    --hash=sha256:aaaa \\\n"
        "    --hash=sha256:bbbb\n"
        "-e ./local\n"
        "./wheels/local-1.0-py3-none-any.whl\n"
        "wheels/local-1.0-py3-none-any.whl\n"
        "git+https://example.org/x.git#egg=x\n"
        "direct @ https://example.org/direct-1.0.tar.gz\n"
        "-r more/dev.txt\n"
        "--requirement=more/docs.txt\n"
    )
    (tmp_path / "more" / "dev.txt").write_text("\ufeffPyTest\n-r../requirements.txt\n", encoding="utf-8")
    (tmp_path / "more" / "docs.txt").write_text("sphinx\\\n# the end\n")
    found = requirement_names.read(tmp_path / "requirements.txt")
    lines = {name: where.removeprefix(f"{tmp_path}/") for name, where in found.items()}
    assert lines == {
        "six": "requirements.txt:5",
        "zope-interface": "requirements.txt:6",
        "hashed": "requirements.txt:7",
        "pytest": "more/dev.txt:1",
        "sphinx": "more/docs.txt:1",
    }


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("six\n==1.0\n", 2, "==1.0 is no requirement"),
        ("six 1.0\n", 1, "is no requirement"),
        ("\nsix \\\n  ==\n", 2, "is no requirement"),
        ("six\n-r missing.txt\n", 2, "cannot be read"),
        ("-r https://example.org/x.txt\n", 1, "on a server"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_with_file_and_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        requirement_names.read(tmp_path / "requirements.txt")
    assert caught.value.where == f"{tmp_path / 'requirements.txt'}:{line}"


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        requirement_names.read(tmp_path / "requirements.txt")


def test_requirements_are_read_anew_whenever_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("six\n")
    wanted = options(tmp_path, requirements=["requirements.txt"], projects=["attrs"]).wanted
    assert wanted.names() == {"attrs", "six"}
    file.write_text("seven\n")
    assert wanted.names() == {"attrs", "seven"}
