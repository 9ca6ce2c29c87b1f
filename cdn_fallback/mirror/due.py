"""What a publish has to do, told by the catalog alone: nothing here writes, and nothing asks the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from cdn_fallback.errors import CdnFallbackError
from cdn_fallback.mirror import site
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Static
from cdn_fallback.mirror.differences import differences
from cdn_fallback.mirror.site import Difference, Object, Rules

MOST_REMOVED = 0.05  # the share of the index that a publish may take away unasked
FEW = 10  # so many projects or files may always go

Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


class TooManyRemovals(CdnFallbackError):
    """The publish would take away more than it may without being told to. Nothing was done."""

    def __init__(self, what: str, removed: int, of: int) -> None:
        super().__init__(what, removed, of)
        self.what = what
        self.removed = removed
        self.of = of

    def __str__(self) -> str:
        return (
            f"this publish would remove {self.removed} of {self.of} {self.what}; if that is right, run it again with "
            "--allow-removals, else mend the source and sync. Nothing was changed in the store"
        )


class Due:
    """What is due in a catalog of which `published` tells how far the store has come.

    Rolled back, it is what makes the store show an earlier generation; see `rollback`.

    :param everything: look at every project, changed or not
    """

    def __init__(self, catalog: Catalog, rules: Rules, everything: bool = False) -> None:
        self._catalog = catalog
        self._rules = rules
        self._everything = everything
        self.anew = everything or catalog.get("site") != rules.fingerprint  # everything is to be looked at
        self.generation = int(catalog.get("generation", 0)) + 1
        self._target = target = catalog.history.target()
        self._turned = bool(catalog.get("turned"))  # rolled back, and no publish has ended since
        # the last change of all that is to be shown, and of files beside the index: these are never rolled back
        self.change = target.change if target else catalog.content.change
        self.static_change = target.until if target else self.change

    def anything(self) -> bool:
        """Whether there may be something to put."""
        get = self._catalog.get
        published = get("published", 0) == self.change and get("static", 0) == self.static_change
        return self.anew or self._turned or not published or bool(self._catalog.ledger.pending())

    def since(self, what: str) -> int:
        """The last change that is `published`, or published of what is `static`; -1 if everything is looked at."""
        return -1 if self.anew else int(self._catalog.get(what, 0))

    def projects(self, progress: Progress) -> Iterator[Difference]:
        """What differs of the projects that have changed, and of those that were held back."""
        stays = self._target and not self._turned and not self.anew  # what came since is not to be shown
        ids = [] if stays else self._catalog.content.ids(self.since("published"))
        seen = set(ids)
        ids += [number for number in self._catalog.ledger.pending() if number not in seen]
        for done, of, found in differences(self._catalog.path, ids, self._rules, anew=self.anew):
            progress("projects", done, of)
            yield from found

    def invalidated(self, found: Difference) -> tuple[str, ...]:
        """What caches should forget at once of it, as paths: where a file was yanked or anything was taken away.

        A wildcard is one path to a CDN, and all the forms of a page are below it.
        """
        if found.narrowed <= self._catalog.get("published", 0):
            return ()
        paths = (f"/simple/{found.name}/*", f"/pypi/{found.name}/*")
        return paths if self._rules.legacy else paths[:1]

    def static(self) -> Iterator[Object]:
        """The files beside the index that are to be put."""
        store = self._catalog.ledger.of(None)
        found = self._catalog.content.static(self.since("static"), self.static_change)
        wanted = (site.object_of_static(one) for one in found if not one.removed)
        return (one for one in wanted if not site.same(one, store))

    def removed_static(self) -> Iterator[Static]:
        """The files beside the index that have gone since the last publish."""
        found = self._catalog.content.static(self._catalog.get("static", 0), self.static_change)
        return (one for one in found if one.removed)

    def lists(self, settled: Mapping[int, int | None] = MappingProxyType({})) -> list[Object]:
        """Of the project list, and what tells that something is new, what is to be put; `settled` as in `listed`."""
        catalog = self._catalog
        serial = catalog.get("serial") or catalog.content.change
        listed = catalog.ledger.listed(settled)
        if self._target:
            displays = catalog.history.displays(self._target)
            listed = ((name, displays.get(name, display), number) for name, display, number in listed)
        wanted = site.lists(listed, serial) + site.ends(str(catalog.get("changed_at", "")))
        return site.lacking(wanted, catalog.ledger.of(None), anew=self.anew)

    def guard(self) -> None:
        """Raises TooManyRemovals for what is more than may go unasked."""
        for what, removed, of in self._leaving(self._catalog.get("published", 0)):
            if removed > of * MOST_REMOVED:
                raise TooManyRemovals(what, removed, of)

    def _leaving(self, since: int) -> Iterator[tuple[str, int, int]]:
        if self._target is None:
            yield from self._catalog.ledger.leaving(since, FEW)
            return
        removed, of = self._catalog.history.losing(self._target, since)
        if removed > FEW:
            yield "projects", removed, of
