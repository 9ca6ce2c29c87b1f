"""Brings files back from the store: the bucket is a backup of what it was published from. Every hash is checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from cdn_fallback.mirror.catalog import Catalog
from cdn_fallback.mirror.sources.trees import Tree
from cdn_fallback.mirror.sources.walk import YANKED
from cdn_fallback.mirror.stores import Store, StoreError
from cdn_fallback.mirror.threads import each

Progress = Callable[[str, int, int], None]


class Failed(NamedTuple):
    """A file that could not be brought back."""

    key: str
    why: str


class Restored(NamedTuple):
    """What was brought back."""

    files: int = 0
    bytes: int = 0
    there: int = 0  # that lay there already, as they should
    failed: tuple[Failed, ...] = ()


class _Wanted(NamedTuple):
    key: str
    path: Path
    sha256: str
    time: str | None = None  # PEP 700
    yanked: str | None = None


class _Got(NamedTuple):
    size: int = 0
    there: bool = False
    failed: Failed | None = None


def restore(
    catalog: Catalog, store: Store, folder: Path, prefix: str, trees: tuple[Tree, ...], progress: Progress
) -> Restored:
    """Write every file of the catalog into `folder`, and those beside the index to where they came from.

    A file that lies there already is read, and left alone: it is as it should be, or it is told. So one that was
    killed goes on where it was.

    :param prefix: what keys begin with in `folder`, and paths do not
    """
    wanted = [*_files(catalog, folder, prefix), *_static(catalog, trees)]
    found = Restored()
    for number, got in enumerate(each(store.workers, lambda one: _brought(store, one), wanted), 1):
        progress("files", number, len(wanted))
        if got.failed:
            found = found._replace(failed=(*found.failed, got.failed))
        elif got.there:
            found = found._replace(there=found.there + 1)
        else:
            found = found._replace(files=found.files + 1, bytes=found.bytes + got.size)
    return found


def _files(catalog: Catalog, folder: Path, prefix: str) -> Iterator[_Wanted]:
    for record in catalog.content.records(catalog.content.ids(-1)):
        for file in record.project.files:
            if file.key:
                path = folder / file.key.removeprefix(f"{prefix}/")
                yield _Wanted(file.object_key, path, file.hashes.get("sha256", ""), file.upload_time, file.yanked)


def _static(catalog: Catalog, trees: tuple[Tree, ...]) -> Iterator[_Wanted]:
    for static in catalog.content.static():
        for tree in trees:
            if static.key.startswith(f"{tree.prefix}/"):
                yield _Wanted(static.key, tree.path / static.key.removeprefix(f"{tree.prefix}/"), static.sha256.hex())


def _brought(store: Store, wanted: _Wanted) -> _Got:
    path = wanted.path
    try:
        if path.exists():
            if _sha256(path) == wanted.sha256:
                _dress(wanted)
                return _Got(there=True)
            return _Got(failed=Failed(wanted.key, f"{path} is another file; move it away and run again"))
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.restored")
        size = _written(store, wanted, scratch)
        if size is None:
            return _Got(failed=Failed(wanted.key, "is not in the store, or not with the bytes that its page promises"))
        scratch.rename(path)
        _dress(wanted)
    except OSError as exc:
        raise StoreError(str(path), f"cannot be written ({exc.strerror or exc}); what was brought back stays") from exc
    return _Got(size)


def _written(store: Store, wanted: _Wanted, scratch: Path) -> int | None:
    opened = store.open(wanted.key)
    if opened is None:
        return None
    seen, size = hashlib.sha256(), 0
    try:
        with closing(opened), scratch.open("wb") as file:
            while piece := opened.read(1 << 20):
                seen.update(piece)
                size += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    if seen.hexdigest() == wanted.sha256:
        return size
    scratch.unlink()
    return None


def _dress(wanted: _Wanted) -> None:
    """Its time, and whether it is yanked, as the source `directory` reads them."""
    if wanted.yanked is not None:
        wanted.path.with_name(wanted.path.name + YANKED).write_text(f"{wanted.yanked}\n", "utf-8")
    if wanted.time:
        moment = datetime.fromisoformat(wanted.time.replace("Z", "+00:00")).astimezone(timezone.utc)
        whole = int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000
        os.utime(wanted.path, ns=(whole, whole))


def _sha256(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            seen.update(piece)
    return seen.hexdigest()
