"""Makes a lost catalog anew from the store alone: what the pages say, and what lies there.

    the project list, each project's page  ->  projects and files, with the serials that they show
    what those render to, where it lies there as it should  ->  the ledger, which vouches for it
    everything else that lies there  ->  the ledger, to be deleted when its time has come

What the store does not tell comes back with the next sync: what the source wants to remember, the files of quarantined
projects. Whatever differs from what is rendered is put again by the next publish.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import NamedTuple, TypeVar

from cdn_fallback.mirror import names, render, site
from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.catalog.content import Static
from cdn_fallback.mirror.catalog.ledger import Entry
from cdn_fallback.mirror.lease import hand_over, hold
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.mark import Owner, owner
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.references import LARGEST, is_page, listed, project, unpacked
from cdn_fallback.mirror.site import Object, Rules
from cdn_fallback.mirror.stores import Head, Store, StoreError
from cdn_fallback.mirror.threads import each

BATCH = 200  # projects to a transaction
_MOVED = re.compile(r"[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)  # as `sync.touched` writes it

Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class Rebuilt(NamedTuple):
    """What a rebuild found."""

    projects: int = 0
    files: int = 0
    objects: int = 0  # that lie there as they should
    differ: int = 0  # that the next publish puts again
    strangers: int = 0  # that nothing refers to
    left_out: tuple[str, ...] = ()  # projects whose page is gone or no page: the next sync brings them back


def rebuild(
    catalog: Catalog, store: Store, rules: Rules, prefixes: Sequence[str], now: float, who: Who, progress: Progress
) -> Rebuilt:
    """Make the catalog, which has published nothing yet, the one that the store belongs to.

    A kill leaves the store as it was, and the next rebuild begins anew.

    :param prefixes: those of files beside the index
    :raises StoreError: if the store is nobody's, another publisher's, or cannot be read
    """
    found = _lost_owner(catalog, store)
    if found.catalog == catalog.identity:  # the last one was killed when all was done
        with catalog.transaction():
            catalog.set("rebuilding", "")
        return Rebuilt(*catalog.content.count(), catalog.inventory.vouched())
    with hold(store, found.catalog, who):
        with catalog.transaction():
            catalog.rebuilt.forget_everything()
            catalog.set("rebuilding", found.catalog)
        made = _made(catalog, store, rules, prefixes, now, progress)
    hand_over(store, found.catalog, catalog.identity)
    with catalog.transaction():
        catalog.set("rebuilding", "")
    return made


def _lost_owner(catalog: Catalog, store: Store) -> Owner:
    found = owner(store)
    if found is None:
        raise StoreError(store.where, "is not ours: there is no mark in it that says which catalog published to it")
    if found.catalog == catalog.identity:
        if catalog.get("rebuilding"):
            return found
        raise StoreError(store.where, "belongs to this very catalog: there is nothing to make anew; see `verify`")
    if catalog.ledger.count() and catalog.get("rebuilding", "") != found.catalog:
        raise StoreError(
            str(catalog.path),
            "has published to another store; name a catalog that is not there yet ([catalog] path), and run again",
        )
    return found


def _made(
    catalog: Catalog, store: Store, rules: Rules, prefixes: Sequence[str], now: float, progress: Progress
) -> Rebuilt:
    made = Rebuilt()
    catalog.inventory.take((one.key, one.size, one.tag) for one in store.list())
    displays, serial = _projects(catalog, store)
    done = 0
    for some in batches(each(store.workers, lambda name: (name, _page(store, name)), sorted(displays)), BATCH):
        with catalog.transaction():
            wanted: list[tuple[int, Object]] = []
            for name, page in some:
                if page is None:
                    catalog.rebuilt.left_out(name, displays[name])
                    made = made._replace(left_out=(*made.left_out, name))
                    continue
                of_project = page._replace(display=displays[name])
                number = _taken_in(catalog, of_project)
                made = made._replace(projects=made.projects + 1, files=made.files + len(of_project.files))
                (record,) = catalog.content.records([number])
                objects = site.objects_of_files(render.offered(record.project))
                objects += site.with_twins(site.pages(record, rules))
                wanted += [(number, one) for one in objects]
            made = _vouched(catalog, store, wanted, made)
        done += len(some)
        progress("projects", done, len(displays))
    return _rest(catalog, store, rules, prefixes, serial, now, made)


def _projects(catalog: Catalog, store: Store) -> tuple[dict[str, str], int]:
    """The projects: (normalised name -> the name as it is written, the highest serial that readers may have seen)."""
    paged = {name for name in _paged(catalog) if names.is_name_of(name, name)}
    found = _whole(store, site.LISTS + "json", listed)
    if found is None:  # The list is lost, or nobody can read it. The pages are there all the same.
        return {name: name for name in paged}, 0
    # Pages in no list are of a publish that was killed: no project, but readers may have seen their serials.
    others = each(store.workers, lambda name: _page(store, name), sorted(paged - found[0].keys()))
    return found[0], max([found[1], *(one.serial or 0 for one in others if one)])


def _paged(catalog: Catalog) -> Iterator[str]:
    """What stands for the name in the keys of projects' pages."""
    for key, _ in catalog.inventory.extra():
        parts = key.removesuffix(site.GZIP).split("/")
        if len(parts) == 3 and is_page("/".join(parts)):
            yield parts[1]


def _page(store: Store, name: str) -> Project | None:
    """What the project's page says; None where there is none that anybody can read."""
    return _whole(store, f"simple/{name}/index.json", lambda body: project(name, body))


def _whole(store: Store, key: str, parse: Callable[[bytes], T]) -> T | None:
    """The page, or what its twin has of it where it is gone or damaged; None where both are."""
    for of_page in (key, key + site.GZIP):
        body = _read(store, of_page)
        with suppress(StoreError):
            if body is not None:
                return parse(body if of_page == key else unpacked(of_page, body))
    return None


def _taken_in(catalog: Catalog, found: Project) -> int:
    """The project as its page tells it. Returns its id."""
    files = tuple(map(_unmoved, found.files))
    moved = [file.key for file, was in zip(files, found.files, strict=True) if file.key != was.key]
    catalog.content.apply(found._replace(serial=None, files=files), "", dict.fromkeys(moved, b""))
    number = catalog.rebuilt.published(found.name, found.serial or 0)
    for key in moved:
        catalog.rebuilt.occupied(number, key)
    return number


def _unmoved(file: File) -> File:
    """A key with a digest in its path was another file's before (`File.object_key`): what it would have had."""
    folder, _, name = file.key.rpartition("/")
    above, _, last = folder.rpartition("/")
    if _MOVED.fullmatch(last) and file.hashes.get("sha256", "").startswith(last):
        return file._replace(key=f"{above}/{name}" if above else name)
    return file


def _vouched(catalog: Catalog, store: Store, wanted: Iterable[tuple[int | None, Object]], made: Rebuilt) -> Rebuilt:
    """Enter what lies there as it is wanted; of the rest, that something is there. Needs a transaction."""
    there = [(number, one) for number, one in wanted if catalog.inventory.has(one.key)]
    entries = each(store.workers, lambda pair: _looked(store, pair[1]), there)
    good = differ = 0
    for (number, one), entry in zip(there, entries, strict=True):
        if entry is not None:
            catalog.ledger.put(number, [entry])
            good += 1
        else:
            catalog.ledger.intend(number, [(one.key, one.digest)])
            differ += 1
    return made._replace(objects=made.objects + good, differ=made.differ + differ)


def _looked(store: Store, wanted: Object) -> Entry | None:
    """The object's entry, if it is in the store as it is wanted; a digest that the store keeps is believed."""
    head = store.head(wanted.key)
    if head is None or (wanted.size is not None and head.size != wanted.size):
        return None
    digest = _digest(store, wanted.key, head)
    if digest != wanted.digest or (head.headers is not None and not site.sent_as(head.headers, wanted.headers)):
        return None
    return Entry(wanted.key, wanted.digest, head.size, str(wanted.headers), 1, head.tag)


def _rest(
    catalog: Catalog, store: Store, rules: Rules, prefixes: Sequence[str], serial: int, now: float, made: Rebuilt
) -> Rebuilt:
    """Files beside the index, the lists, and what nobody knows."""
    tops = tuple(f"{prefix}/" for prefix in prefixes)
    unknown = [(key, size) for key, size in catalog.inventory.extra() if not key.startswith(tops)]
    static = [key for key, _ in catalog.inventory.extra() if key.startswith(tops)]
    for keys in batches(static, BATCH):
        found = [one for one in each(store.workers, lambda key: _static(store, key), keys) if one]
        with catalog.transaction():
            catalog.content.apply_static(found)
            made = _vouched(catalog, store, [(None, site.object_of_static(one)) for one in found], made)
    said = (_read(store, "last-modified") or b"").decode("ascii", "replace").strip()
    changed_at = said if _TIME.fullmatch(said) else ""
    with catalog.transaction():
        catalog.rebuilt.raise_change(serial)
        catalog.set("changed_at", changed_at)
        lists = site.lists(catalog.ledger.listed(), catalog.content.change) + site.ends(changed_at)
        whole = site.with_twins(lists)
        made = _vouched(catalog, store, [(None, one) for one in whole], made)
        ours = {one.key for one in whole}
        unknown = [one for one in unknown if one[0] not in ours]
        strangers = catalog.ledger.strangers(unknown, int(now))
        for key, _ in unknown:
            _known_again(catalog, store, key)
        catalog.set("published", catalog.content.change)
        catalog.set("static", catalog.content.change)
        catalog.set("generation", 1)
        catalog.history.note(1, catalog.content.change, int(now))
    return made._replace(strangers=strangers)


def _known_again(catalog: Catalog, store: Store, key: str) -> None:
    """Whose a stranger is, if that can be told: when its project wants it again, it may have it. In a transaction."""
    top, _, rest = key.partition("/")
    try:
        if top in ("simple", "pypi"):
            name, digest = names.normalised(rest.partition("/")[0]), b""
        else:
            name, digest = names.project_of(key.rpartition("/")[2].removesuffix(site.METADATA)), None
    except names.BadName:
        return
    number = catalog.rebuilt.id_of(name)
    if number is not None:
        catalog.rebuilt.belongs(key, number, _digest(store, key, store.head(key)) if digest is None else digest)


def _static(store: Store, key: str) -> Static | None:
    head = store.head(key)
    return Static(key, "", _digest(store, key, head), head.size, "") if head else None


def _read(store: Store, key: str) -> bytes | None:
    opened = store.open(key)
    if opened is None:
        return None
    with closing(opened):
        if opened.head.size > LARGEST:
            return b""  # no page of ours
        return b"".join(iter(lambda: opened.read(1 << 20), b""))


def _digest(store: Store, key: str, head: Head | None) -> bytes:
    """sha256 of the object: as the store keeps it, or of the bytes."""
    if head is not None and head.sha256:
        return head.sha256
    seen = hashlib.sha256()
    opened = store.open(key)
    if opened is not None:
        with closing(opened):
            while piece := opened.read(1 << 20):
                seen.update(piece)
    return seen.digest()
