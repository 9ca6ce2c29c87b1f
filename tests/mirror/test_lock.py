"""One run at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from cdn_fallback.mirror import lock
from cdn_fallback.mirror.catalog import CatalogError
from cdn_fallback.mirror.lock import Busy, held
from tests.mirror.fakes import NOW

SPAWN = multiprocessing.get_context("spawn")


def _hold(catalog: Path, holds: Event) -> None:
    with held(catalog, "mirror run --config x.toml", NOW):
        holds.set()
        signal.pause()


def test_another_process_is_told_who_holds_it_and_gets_it_when_that_is_killed(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.sqlite"
    holds = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(catalog, holds))
    process.start()
    try:
        assert holds.wait(30)
        with pytest.raises(Busy) as caught, held(catalog, "mirror sync", NOW):
            raise AssertionError("never reached")
        expected = (
            f"mirror run --config x.toml, process {process.pid} on {socket.gethostname()} since 2023-11-14T22:13:20Z"
        )
        assert caught.value.holder == expected
        assert str(caught.value) == (
            f"{catalog}.lock: another run is at work ({expected}); wait for its end, nothing was done"
        )
    finally:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with held(catalog, "mirror sync", NOW):
        pass


def test_it_can_be_held_again_and_by_others_beside_it(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path / "a.sqlite", "x", NOW), held(tmp_path / "b.sqlite", "x", NOW):
            assert b'"command": "x"' in (tmp_path / "a.sqlite.lock").read_bytes()
    assert (tmp_path / "a.sqlite.lock").read_bytes() == b""


def test_it_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "a.sqlite", "x", NOW):
        raise KeyboardInterrupt
    with held(tmp_path / "a.sqlite", "x", NOW):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "it does not say who"),
        (b"\xff\xfe", "it does not say who"),
        (b"[1]", "it does not say who"),
        (b'{"command": "x"}', "it does not say who"),
        (b'{"command": "\\u001b[31m", "pid": 1, "host": "h", "since": "s"}', "\\x1b[31m, process 1 on h since s"),
    ],
)
def test_whatever_stands_in_it_busy_is_told_in_plain_text(tmp_path: Path, text: bytes, told: str) -> None:
    catalog = tmp_path / "a.sqlite"
    with held(catalog, "x", NOW):
        (tmp_path / "a.sqlite.lock").write_bytes(text)
        with pytest.raises(Busy) as caught, held(catalog, "y", NOW):
            raise AssertionError("never reached")
    assert f"({told})" in str(caught.value)


def test_the_folder_is_made_and_where_it_cannot_be_that_is_told(tmp_path: Path) -> None:
    with held(tmp_path / "new" / "folder" / "a.sqlite", "x", NOW):
        pass
    (tmp_path / "file").write_bytes(b"")
    refused = pytest.raises(CatalogError, match=r"file/a\.sqlite\.lock: cannot be written .*own its folder")
    with refused, held(tmp_path / "file" / "a.sqlite", "x", NOW):
        raise AssertionError("never reached")


def test_who_holds_it_is_told_as_busy_tells_it(tmp_path: Path) -> None:
    with held(tmp_path / "a.sqlite", "mirror publish", NOW) as who:
        with pytest.raises(Busy) as caught, held(tmp_path / "a.sqlite", "y", NOW):
            raise AssertionError("never reached")
        assert who.holder == caught.value.holder
        assert who.holder.startswith(f"mirror publish, process {os.getpid()} on ")


def _place(catalog: Path) -> str:
    with held(catalog, "x", NOW) as who:
        return who.place


def test_the_place_is_the_same_for_the_same_lock_until_the_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(lock, "_BOOT", boot)
    boot.write_text("2b8f4c9e-0000-4000-8000-000000000000\n")
    here, there = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    first = _place(here)
    status = (tmp_path / "a.sqlite.lock").stat()
    assert first == f"2b8f4c9e-0000-4000-8000-000000000000 {status.st_dev}:{status.st_ino}"
    assert _place(here) == first
    assert _place(there) != first, "another lock"
    boot.write_text("2b8f4c9e-0000-4000-8000-000000000001\n")
    assert _place(here) != first, "what was held before the machine started anew: it may be another machine's"


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_there_is_no_place_where_a_machine_has_no_boot_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(lock, "_BOOT", tmp_path / "boot_id")
    if content is not None:
        (tmp_path / "boot_id").write_bytes(content)
    assert _place(tmp_path / "a.sqlite") == ""
