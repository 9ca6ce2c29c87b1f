"""What every test of the mirror has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.mirror.fakes import TrappedCatalog


@pytest.fixture(autouse=True)
def _databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that stands for a killed process leaves its catalog open, of which Python 3.13 warns some time later."""
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    def remembered(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)
    yield
    for connection in opened:
        connection.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[TrappedCatalog]:
    """A new one, which does not wait for the disk."""
    with closing(TrappedCatalog.trapped(tmp_path / "catalog.sqlite")) as catalog:
        yield catalog
