"""What happens to an index, with a change of every kind in it; told again and again, to be killed at every step."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from cdn_fallback.mirror import site
from tests.mirror.fakes import NOW, FakeSource, FakeStore, Trap, TrappedCatalog, published
from tests.mirror.reader import dangling

LATER = NOW + 3600
GONE = LATER + site.STALE + 1  # when every cache has forgotten what was there until LATER

METADATA = b"Metadata-Version: 2.1\nName: x\n"


def before_that(source: FakeSource) -> None:
    """Published first, and not there any longer when the story begins."""
    source.put("back", source.file("back-1.0.tar.gz", b"first"))


def before(source: FakeSource) -> None:
    """What is published when the story begins."""
    source.projects.clear()
    source.put("changed", source.file("changed-1.0-py3-none-any.whl", b"w", metadata=METADATA))
    source.put("yanked", source.file("yanked-1.0.tar.gz", b"y"))
    source.put("shrunk", source.file("shrunk-1.0.tar.gz", b"1"), source.file("shrunk-2.0.tar.gz", b"2"))
    source.put("gone.to-day", source.file("gone_to_day-1.0-py3-none-any.whl", b"g", metadata=METADATA))
    source.put("Re.Named", source.file("re_named-1.0.tar.gz", b"r"))
    source.put("replaced", source.file("replaced-1.0-py3-none-any.whl", b"old", metadata=METADATA))
    source.put("described", source.file("described-1.0-py3-none-any.whl", b"d"))
    source.put("suspect", source.file("suspect-1.0.tar.gz", b"s"))
    source.put("quiet", source.file("quiet-1.0.tar.gz", b"q"))
    source.static.clear()
    source.put_static("docs/guide", b"a page")
    source.put_static("docs/changed.html", b"old")
    source.put_static("docs/gone.html", b"old")


def after(source: FakeSource) -> None:
    """What is to be published then: a change of every kind."""
    put, file = source.put, source.file
    put("changed", *source.projects["changed"].files, file("changed-2.0-py3-none-any.whl", b"w2", metadata=METADATA))
    put("yanked", file("yanked-1.0.tar.gz", b"y", yanked="it is broken"))
    put("shrunk", file("shrunk-2.0.tar.gz", b"2"))
    del source.projects["gone-to-day"]
    put("re_named", *source.projects["re-named"].files)
    put("replaced", file("replaced-1.0-py3-none-any.whl", b"new", metadata=METADATA + b"Summary: new\n"))
    put("described", file("described-1.0-py3-none-any.whl", b"d", metadata=METADATA))
    put("suspect", *source.projects["suspect"].files, status="quarantined")
    put("back", file("back-1.0.tar.gz", b"second"), file("back-2.0.tar.gz", b"third"))
    put("added", file("added-1.0-py3-none-any.whl", b"a", metadata=METADATA), file("added-1.0.tar.gz", b"a2"))
    del source.static["docs/guide"], source.static["docs/gone.html"]
    source.put_static("docs/guide/index.html", b"a folder")
    source.put_static("docs/changed.html", b"new")


def then(source: FakeSource) -> None:
    """What comes while a killed publish is still to be mended."""
    put, file = source.put, source.file
    del source.projects["added"]
    put("back", file("back-2.0.tar.gz", b"fourth"))
    put("replaced", file("replaced-1.0-py3-none-any.whl", b"newest", metadata=METADATA))
    put("gone.to-day", file("gone_to_day-1.0-py3-none-any.whl", b"g", metadata=METADATA))
    put("changed", *source.projects["changed"].files[:1])
    source.put_static("docs/guide", b"a page once more")
    del source.static["docs/guide/index.html"]


class Story:
    """A catalog and a store in which `before` is published; each telling of the rest starts from copies of them."""

    def __init__(self, folder: Path) -> None:
        self.source = FakeSource()
        self.store = FakeStore()
        self._folder = folder
        self._number = 0
        self._first = folder / "first.sqlite"
        with closing(TrappedCatalog.trapped(self._first)) as catalog:
            for change in (before_that, before):
                change(self.source)
                self.source.sync(catalog)
                published(self.source, catalog, self.store)
        after(self.source)

    def again(self, trap: Trap) -> tuple[Path, FakeStore]:
        self._number += 1
        path = self._folder / f"{self._number}.sqlite"
        shutil.copy(self._first, path)
        return path, self.store.copy(trap)

    def publish(self, path: Path, store: FakeStore, now: float = LATER, trap: Trap | None = None) -> None:
        with closing(TrappedCatalog.trapped(path, trap)) as catalog:
            published(self.source, catalog, store, now)

    def sync(self, path: Path, trap: Trap | None = None) -> None:
        with closing(TrappedCatalog.trapped(path, trap)) as catalog:
            self.source.sync(catalog, LATER)


def told_of(path: Path) -> set[str]:
    """The objects that the catalog believes to be in the store."""
    with closing(TrappedCatalog.trapped(path)) as catalog:
        return {entry.key for entry in catalog.ledger.entries()}


class Watched(Trap):
    """Looks at the store at every step, before `trap` does what it does."""

    def __init__(self, store: FakeStore, trap: Trap | None = None) -> None:
        self.trap = trap or Trap()
        super().__init__()
        self.seen: list[str] = []
        self._store = store
        store.trap = self

    @property
    def dead(self) -> bool:
        return self.trap.dead

    @dead.setter
    def dead(self, dead: bool) -> None:
        self.trap.dead = dead

    def __call__(self) -> None:
        self.seen += dangling(self._store)
        self.trap()
