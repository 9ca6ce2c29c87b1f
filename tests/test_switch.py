"""Enabling and disabling: whole files, only ours, and a clear word when it cannot be done."""

from __future__ import annotations

import os
import pickle
import shutil
import site
import sys
import sysconfig
from pathlib import Path

import pytest

from cdn_fallback import switch
from cdn_fallback.switch import SwitchError, disable, enable, enabled

NAMES = ["_cdn_fallback_start.py", "cdn_fallback.pth", "cdn_fallback.start"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def test_enable_and_disable(tmp_path: Path) -> None:
    assert enabled(tmp_path) == []
    assert enable(tmp_path) == enable(tmp_path) == enabled(tmp_path)
    assert names(tmp_path) == NAMES
    assert sorted(path.name for path in disable(tmp_path)) == NAMES
    assert names(tmp_path) == []
    assert disable(tmp_path) == []


def test_python_reads_the_files_as_they_are_meant(tmp_path: Path) -> None:
    """site.py executes a line that starts with "import "; PEP 829 wants package.module:callable."""
    enable(tmp_path)
    (line,) = (tmp_path / "cdn_fallback.pth").read_text().splitlines()
    assert line.startswith("import ")
    compile(line, "line", "exec")
    (entry,) = (tmp_path / "cdn_fallback.start").read_text().splitlines()
    assert entry == "_cdn_fallback_start:start"


def test_the_starter_is_compiled_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """Who starts Python may not be allowed to write there: a start must not compile it each time."""
    enable(tmp_path)
    assert len(list((tmp_path / "__pycache__").iterdir())) == 1
    disable(tmp_path)
    assert list((tmp_path / "__pycache__").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_everybody_may_read_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        paths = enable(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}


def test_an_older_file_of_ours_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cdn_fallback.pth").write_text("import cdn_fallback.old\n")
    enable(tmp_path)
    assert "_cdn_fallback_start" in (tmp_path / "cdn_fallback.pth").read_text()


def test_a_file_of_anothers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cdn_fallback.pth").write_text("/some/path\n")
    with pytest.raises(SwitchError, match="not a file of ours"):
        enable(tmp_path)
    assert disable(tmp_path) == []
    assert names(tmp_path) == ["cdn_fallback.pth"]


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SwitchError, match=r"missing.*name a folder that exists"):
        enable(tmp_path / "missing")


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SwitchError, match="file"):
        enable(tmp_path / "file")


def refuse(*args: object, **kwargs: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_folder_that_is_read_only_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SwitchError, match=r"Permission denied; run it as the folder's owner") as caught:
        enable(tmp_path)
    assert names(tmp_path) == []
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_that_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enable(tmp_path)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SwitchError, match="Permission denied"):
        disable(tmp_path)


def test_the_files_go_where_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the user's folder if the package is installed there; else into the environment's."""
    user, purelib = tmp_path / "user", tmp_path / "purelib"
    purelib.mkdir()
    shutil.copytree(Path(switch.__file__).parent, user / "cdn_fallback")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str({"purelib": purelib}[name]))
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(user))
    enable()
    assert (names(user), names(purelib)) == (["cdn_fallback"], NAMES)
    disable()
    monkeypatch.setattr(switch, "__file__", str(user / "cdn_fallback" / "switch.py"))
    enable()
    assert (names(user), names(purelib)) == ([*NAMES[:1], "cdn_fallback", *NAMES[1:]], [])
