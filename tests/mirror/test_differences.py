"""What differs, found by one process or several."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cdn_fallback.mirror import differences as module
from cdn_fallback.mirror.differences import Found, differences
from cdn_fallback.mirror.sources import ProjectError
from tests.mirror.fakes import RULES, FakeSource, FakeStore, TrappedCatalog, published


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven projects of which three are published, and one of these has changed."""
    source, store = FakeSource(), FakeStore()
    path = tmp_path_factory.mktemp("differences") / "catalog.sqlite"
    with closing(TrappedCatalog.trapped(path)) as catalog:
        for names in ("abc", "cdefghijk"):
            for name in names:
                source.put(
                    name, source.file(f"{name}-1.0-py3-none-any.whl", name.encode(), metadata=b"m", yanked=names)
                )
            source.sync(catalog)
            if names == "abc":
                published(source, catalog, store)
    return path


def found(path: Path, workers: int = 1, *, anew: bool = False) -> list[Found]:
    with closing(TrappedCatalog.trapped(path)) as catalog:
        ids = catalog.content.ids(-1)
    return list(differences(path, ids, RULES, anew=anew, workers=workers))


def test_only_what_differs_is_found_in_the_order_of_the_ids(path: Path) -> None:
    [(done, of, differing)] = found(path)
    assert (done, of) == (11, 11)
    assert [one.name for one in differing] == list("cdefghijk")
    assert not differing[0].files and differing[1].files


def test_several_processes_find_what_one_finds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    alone = found(path)
    monkeypatch.setattr(module, "ALONE", 0)
    assert found(path, 2) == alone
    assert [done for done, _, _ in alone] == [2, 4, 6, 8, 10, 11]


def test_nothing_to_look_at_is_nothing_found(path: Path) -> None:
    assert list(differences(path, [], RULES, anew=False)) == []


def test_one_who_stops_in_the_middle_leaves_no_catalog_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next run of the same process would go on reading the file that was there then."""
    monkeypatch.setattr(module, "CHUNK", 1)
    with closing(TrappedCatalog.trapped(path)) as catalog:
        looked = differences(path, catalog.content.ids(-1), RULES, anew=False)
        with pytest.raises(ProjectError), closing(looked):  # type: ignore[type-var]
            for _ in looked:
                assert module._open
                raise ProjectError("x", "y")
    assert module._open == {}
