"""Brings files back from the store: the bucket is a backup of what it was published from. Every hash is checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from itertools import chain
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
    folder: Path  # nothing is written outside of it
    path: str  # in the folder
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
    wanted = chain(_files(catalog, folder, prefix), _static(catalog, trees))  # there may be millions
    of = catalog.content.count()[1]
    found = Restored()
    for number, got in enumerate(each(store.workers, lambda one: _brought(store, one), wanted), 1):
        progress("files", number, of)
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
                path = file.key.removeprefix(f"{prefix}/")
                digest = file.hashes.get("sha256", "")
                yield _Wanted(file.object_key, folder, path, digest, file.upload_time, file.yanked)


def _static(catalog: Catalog, trees: tuple[Tree, ...]) -> Iterator[_Wanted]:
    for static in catalog.content.static():
        for tree in trees:
            if static.key.startswith(f"{tree.prefix}/"):
                yield _Wanted(static.key, tree.path, static.key.removeprefix(f"{tree.prefix}/"), static.sha256.hex())


def _brought(store: Store, wanted: _Wanted) -> _Got:
    path = wanted.folder / wanted.path
    try:
        if not _is_inside(wanted.folder, wanted.path):
            return _Got(
                failed=Failed(wanted.key, f"would not lie in {wanted.folder}: a name or a link leads out of it")
            )
        if os.path.lexists(path):
            if not path.is_file() or _sha256(path) != wanted.sha256:
                return _Got(failed=Failed(wanted.key, f"{path} is another file; move it away and run again"))
            _withdraw(path, wanted.yanked)
            return _Got(there=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        size = _written(store, wanted, scratch)
        if size is None:
            return _Got(failed=Failed(wanted.key, "is not in the store, or not with the bytes that its page promises"))
        _withdraw(path, wanted.yanked)  # before: a file that is there is as it should be
        scratch.rename(path)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as exc:
        return _Got(failed=Failed(wanted.key, f"something stands in its way at {exc.filename or path}; move it away"))
    except OSError as exc:
        raise StoreError(str(path), f"cannot be written ({exc.strerror or exc}); what was brought back stays") from exc
    return _Got(size)


def _is_inside(folder: Path, path: str) -> bool:
    """Whether `path`, which a stranger may have chosen, stays in the folder, wherever links in it lead."""
    if not path.isprintable() or not all(part and not part.startswith(".") for part in path.split("/")):
        return False
    top = os.path.realpath(folder)
    return os.path.realpath(os.path.join(top, path)).startswith(top.rstrip("/") + "/")


def _scratch(path: Path) -> Path:
    """Where what is to be at `path` is written first; nothing is there."""
    scratch = path.with_name(f".{path.name}.restored")
    scratch.unlink(missing_ok=True)  # of one that was killed
    return scratch


def _written(store: Store, wanted: _Wanted, scratch: Path) -> int | None:
    """Write the object's bytes, with its time. Returns how many there are; None, and nothing is there, if they are
    not what they should be.
    """
    opened = store.open(wanted.key)
    if opened is None:
        return None
    seen, size = hashlib.sha256(), 0
    try:
        with closing(opened), scratch.open("xb") as file:
            while piece := opened.read(1 << 20):
                seen.update(piece)
                size += file.write(piece)
            file.flush()
            _date(file.fileno(), wanted.time)
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    if seen.hexdigest() == wanted.sha256:
        return size
    scratch.unlink()
    return None


def _date(handle: int, time: str | None) -> None:
    """As the source `directory` reads it."""
    if time:
        moment = datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(timezone.utc)
        whole = int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000
        os.utime(handle, ns=(whole, whole))


def _withdraw(path: Path, yanked: str | None) -> None:
    """Beside a file that is yanked lies one with the reason, as the source `directory` reads it; whole or not."""
    beside = path.with_name(path.name + YANKED)
    if yanked is not None and not os.path.lexists(beside):
        scratch = _scratch(beside)
        with scratch.open("xb") as file:
            file.write(f"{' '.join(yanked.splitlines())}\n".encode())
        scratch.rename(beside)


def _sha256(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            seen.update(piece)
    return seen.hexdigest()
