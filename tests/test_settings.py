"""Where settings come from: pip's files in pip's order, our own file, the environment; and on which line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cdn_fallback.errors import ConfigError
from cdn_fallback.settings import BUILDOUT, Setting, collect, hand_down, handed_down, pip_files

posix = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the paths of other Unixes")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def brief(settings: list[Setting]) -> list[tuple[str, str, str]]:
    return [(setting.pool, setting.key, setting.value) for setting in settings]


def refusal(environ: dict[str, str], *files: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        collect(environ, files)
    return caught.value


@posix
def test_pips_files_come_in_pips_order() -> None:
    """Global, user (the legacy one first), site: as pip._internal.configuration has them."""
    assert pip_files({"HOME": "/home/me"}) == [
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        "/home/me/.pip/pip.conf",
        "/home/me/.config/pip/pip.conf",
        os.path.join(sys.prefix, "pip.conf"),
    ]


@posix
def test_xdg_variables_move_the_files() -> None:
    files = pip_files({"HOME": "/h", "XDG_CONFIG_DIRS": "/a:relative:/b", "XDG_CONFIG_HOME": "/x"})
    assert files[:5] == [
        "/a/pip/pip.conf",
        "/b/pip/pip.conf",
        "/etc/pip.conf",
        "/h/.pip/pip.conf",
        "/x/pip/pip.conf",
    ]


@posix
def test_pip_config_file_is_the_strongest_and_replaces_the_users(tmp_path: Path) -> None:
    own = write(tmp_path / "own.conf", "")
    files = pip_files({"HOME": "/h", "PIP_CONFIG_FILE": own})
    assert files[-1] == own
    assert not [file for file in files if file.startswith("/h/")]


@posix
def test_a_missing_pip_config_file_leaves_the_users(tmp_path: Path) -> None:
    files = pip_files({"HOME": "/h", "PIP_CONFIG_FILE": str(tmp_path / "missing")})
    assert "/h/.pip/pip.conf" in files


def test_devnull_as_pip_config_file_means_no_file_at_all() -> None:
    assert pip_files({"PIP_CONFIG_FILE": os.devnull}) == []


def test_the_paths_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    environ = {"ALLUSERSPROFILE": "C:/ProgramData", "USERPROFILE": "C:/me", "APPDATA": "C:/me/Roaming"}
    assert [file.replace("\\", "/") for file in pip_files(environ)] == [
        "C:/ProgramData/pip/pip.ini",
        "C:/me/pip/pip.ini",
        "C:/me/Roaming/pip/pip.ini",
        os.path.join(sys.prefix, "pip.ini"),
    ]


def test_the_paths_on_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """~/Library/Application Support/pip counts if it exists, else ~/.config/pip (pip's utils/appdirs.py)."""
    monkeypatch.setattr(sys, "platform", "darwin")
    environ = {"HOME": str(tmp_path)}
    assert pip_files(environ)[0] == "/Library/Application Support/pip/pip.conf"
    assert pip_files(environ)[2] == str(tmp_path / ".config/pip/pip.conf")
    (tmp_path / "Library/Application Support/pip").mkdir(parents=True)
    assert pip_files(environ)[2] == str(tmp_path / "Library/Application Support/pip/pip.conf")


def test_sections_of_a_file_with_their_lines(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pip.conf",
        "[global]\n"
        "index-url = https://i/simple/\n"
        "\n"
        "[cdn-fallback]\n"
        "# a comment\n"
        "CDN = https://c1/\n"
        "    [not-a-section]\n"
        "  ; a comment in a value\n"
        "\n"
        "    mirrors = part of the value\n"
        "mirrors:https://m/\n"
        "[cdn-fallback:other]\n"
        "index=https://o/%20/\n",
    )
    found = collect({}, [file])
    assert brief(found) == [
        ("default", "cdn", "https://c1/\n[not-a-section]\n\nmirrors = part of the value"),
        ("default", "mirrors", "https://m/"),
        ("other", "index", "https://o/%20/"),
    ]
    assert [setting.where for setting in found] == [f"{file}:6", f"{file}:11", f"{file}:13"]
    assert found[2].source == f"{file} [cdn-fallback:other]"


def test_later_files_and_then_the_environment_come_later(tmp_path: Path) -> None:
    files = [write(tmp_path / name, f"[cdn-fallback]\ncdn = https://{name}/\n") for name in ("a", "b")]
    own = write(tmp_path / "own", "[cdn-fallback]\ncdn = https://own/\n")
    environ = {"CDN_FALLBACK_CONFIG": own, "CDN_FALLBACK_CDN": " https://env/ ", "CDN_FALLBACK_ORIGIN": ""}
    found = collect(environ, files)
    assert [s.value for s in found] == ["https://a/", "https://b/", "https://own/", "https://env/"]
    assert (found[-1].where, found[-1].source) == ("CDN_FALLBACK_CDN", "CDN_FALLBACK_CDN")


def test_pips_default_section_does_not_leak(tmp_path: Path) -> None:
    file = write(tmp_path / "f", "[DEFAULT]\ntimeout = 3\n[cdn-fallback]\ncdn = https://c/\n")
    assert brief(collect({}, [file])) == [("default", "cdn", "https://c/")]


def test_missing_and_unreadable_pip_files_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert collect({}, [str(tmp_path / "missing"), str(tmp_path / "folder")]) == []


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[cdn-fallback]\nmirrrors = https://m/\n", 2, "mirrrors", "did you mean mirrors?"),
        ("[cdn-fallback]\nxyzzy = 1\n", 2, "xyzzy", "we know index, redirectors"),
        ("[cdn-fallback]\nmirrors =\nhttps://m/\n", 3, "https", "indented"),
        ("[cdn-fallback]\nmirrors =\nhttps://m/\nhttps://n/\n", 4, "https", "indented"),
        ("[cdn-fallback]\ncdn = a\ncdn = b\n", 3, "cdn", "stands twice in [cdn-fallback]; keep one"),
        ("[cdn-fallback]\n[global]\n[cdn-fallback]\n", 3, None, "a second section [cdn-fallback]"),
        ("cdn = a\n", 1, None, "before any [section]"),
        ("[global]\nindex-url\n", 2, None, "neither"),
        ("\n[cdn_fallback]\n", 2, None, "[cdn_fallback] is no section of ours"),
        ("[CDN-Fallback]\n", 1, None, "write [cdn-fallback]"),
        ("[cdn-fallback.other]\n", 1, None, "[cdn-fallback:NAME]"),
        ("[cdn-fallback:]\n", 1, None, "no section of ours"),
        ("[cdn-fallback: a]\n", 1, None, "no section of ours"),
        ("[cdn-fallback:default]\n", 1, None, "write [cdn-fallback]"),
    ],
)
def test_a_slip_in_a_file_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, key: str | None, words: str
) -> None:
    file = write(tmp_path / "pip.conf", text)
    error = refusal({}, file)
    assert (error.where, error.key) == (f"{file}:{line}", key)
    assert words in error.problem


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "own"
    file.write_bytes(b"[cdn-fallback]\n# gr\xfcn\ncdn = https://c/\n")
    assert refusal({"CDN_FALLBACK_CONFIG": str(file)}).where == f"{file}:2"


def test_our_own_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "\ufeff[cdn-fallback]\r\ncdn = https://c/\r\n")
    assert brief(collect({"CDN_FALLBACK_CONFIG": own}, [])) == [("default", "cdn", "https://c/")]


def test_our_own_file_must_exist(tmp_path: Path) -> None:
    error = refusal({"CDN_FALLBACK_CONFIG": str(tmp_path / "missing")})
    assert error.where == "CDN_FALLBACK_CONFIG"
    assert "missing (No such file or directory)" in error.problem


def test_our_own_file_must_set_something(tmp_path: Path) -> None:
    assert (
        "[cdn-fallback]"
        in refusal({"CDN_FALLBACK_CONFIG": write(tmp_path / "own", "[default]\ncdn = https://c/\n")}).problem
    )


def test_an_unknown_variable_is_told() -> None:
    error = refusal({"CDN_FALLBACK_MIRROR": "https://m/"})
    assert (error.where, error.key) == ("CDN_FALLBACK_MIRROR", None)
    assert "did you mean CDN_FALLBACK_MIRRORS?" in error.problem


def test_a_value_is_not_in_the_representation() -> None:
    setting = Setting("default", "cdn", "https://user:secret@c/", "CDN_FALLBACK_CDN", "CDN_FALLBACK_CDN")
    assert "secret" not in repr(setting)


def test_a_projects_settings_stand_between_the_users_and_those_of_the_run(tmp_path: Path) -> None:
    pips = write(tmp_path / "pip.conf", "[cdn-fallback]\ncdn = https://pip.example/\n")
    own = write(tmp_path / "own.conf", "[cdn-fallback]\ncdn = https://own.example/\n")
    project = Setting("default", "cdn", "https://buildout.example/", "buildout.cfg", "buildout.cfg [cdn-fallback]")
    environ = {BUILDOUT: hand_down([project]), "CDN_FALLBACK_CONFIG": own, "CDN_FALLBACK_CDN": "https://run.example/"}

    found = collect(environ, [pips])

    names = ("pip", "buildout", "own", "run")
    assert [setting.value for setting in found] == [f"https://{name}.example/" for name in names]
    assert handed_down(environ) == [project] and handed_down({}) == []


@pytest.mark.parametrize("value", ["nonsense", "[1]", "{}x", '[["too", "few"]]'])
def test_a_variable_that_buildout_did_not_write_is_told(value: str) -> None:
    assert str(refusal({BUILDOUT: value})).startswith(f"cdn-fallback configuration, {BUILDOUT}: is for buildout")
