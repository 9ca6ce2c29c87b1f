"""The files of an index, fetched into the spool: what `simple-api` does beyond pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from cdn_fallback.mirror import names
from cdn_fallback.mirror.distributions import Damaged, inspect
from cdn_fallback.mirror.model import File, Project, Rejection
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.sources.simple_api.spool import SHA256, STRONG, Held, Mismatch, Spool
from cdn_fallback.mirror.sources.simple_api.web import Client, Unanswered
from cdn_fallback.pool import site

# Where the pages lie that we publish: a file of that name would stand in their way.
_OWN = ("simple/", "pypi/")


class Files:
    """Files on their way from the index at `index` to our own store.

    A File that has been here has a `key`; its `state` is the URL that it came from.
    """

    def __init__(self, index: str, spool: Spool) -> None:
        self._site = site(index)
        self._spool = spool

    def taken(self, client: Client, project: Project, known: Project | None) -> Project:
        """`project` with its files fetched, except for those that `known` has: they have been here before.

        :raises ProjectError: if one cannot be had
        """
        had = {file.filename: file for file in known.files if file.key} if known else {}
        files: list[File] = []
        rejected = list(project.rejected)
        for file in project.files:
            before = had.get(file.filename)
            if not any(name in STRONG for name in file.hashes):
                why = "has no hash that proves anything (sha256, say): it cannot be checked"
                rejected.append(Rejection(file.filename, why))
            elif before is not None and _is_same(before.hashes, file.hashes):
                files.append(_published(file, before.key, before.hashes, before.size, before.core_metadata))
            else:
                files.append(self._taken(client, project.name, file))
        return project._replace(files=tuple(files), rejected=tuple(rejected))

    def open(self, client: Client, file: File) -> BinaryIO:
        """The file's bytes; fetched once more if the spool has lost them. Raises ProjectError."""
        path = self._spool.path(file.hashes[SHA256])
        try:
            return path.open("rb")
        except OSError:
            return self._fetched(client, file, file.state).path.open("rb")

    def published(self, file: File) -> None:
        self._spool.remove(file.hashes[SHA256])

    def _taken(self, client: Client, project: str, file: File) -> File:
        held = self._fetched(client, file, file.url)
        metadata = _metadata_hash(held, file.filename, project)
        return _published(file, self._key(file, held), held.hashes, held.size, metadata)

    def _fetched(self, client: Client, file: File, url: str) -> Held:
        if not url:
            problem = f"{file.filename} is not in the spool, and nobody knows where it came from; sync once more"
            raise ProjectError(file.filename, problem)
        try:
            return client.retry.run(
                lambda: self._spool.fetch(file.hashes, file.size, lambda start: client.part(url, start))
            )
        except Unanswered as exc:
            raise ProjectError(url, f"{file.filename} could not be fetched: {url} {exc.problem}") from exc
        except Mismatch as exc:
            problem = (
                f"{file.filename} came twice with {exc.got}, where its page promises {exc.expected} ({url}); "
                "tell the index's operators"
            )
            raise ProjectError(url, problem) from exc

    def _key(self, file: File, held: Held) -> str:
        """Where we publish it: where the index has it, if it may lie there, else by its hash (devpi has "+f/")."""
        path = unquote(urlsplit(file.url).path).lstrip("/")
        if site(file.url) != self._site and not path.startswith("packages/"):
            path = f"packages/{path}"
        try:
            if path.rpartition("/")[2] == file.filename and not path.startswith(_OWN):
                return names.check_key(path)
        except names.BadName:
            pass
        digest = held.hashes[SHA256]
        return names.check_key(f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{file.filename}")


def _published(
    file: File, key: str, hashes: Mapping[str, str], size: int | None, core_metadata: Mapping[str, str] | None
) -> File:
    """`file` as we publish it: what the page says of it, and what its bytes do."""
    # there is no signature beside what we publish (PEP 503's data-gpg-sig)
    extra = {name: value for name, value in file.extra.items() if name != "gpg-sig"}
    return file._replace(
        key=key, url="", hashes=hashes, size=size, core_metadata=core_metadata, extra=extra, state=file.url
    )


def _is_same(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether hashes that were checked, and those that a page tells now, are of the same bytes."""
    common = before.keys() & now.keys()
    return any(name in STRONG for name in common) and all(before[name] == now[name] for name in common)


def _metadata_hash(held: Held, filename: str, project: str) -> Mapping[str, str] | None:
    """The hash of the metadata that stands in a wheel, which is what we publish beside it (PEP 658).

    A damaged wheel has none. It is what the index has, and is published all the same.
    """
    if not filename.endswith(names.WHEEL):
        return None
    try:
        with held.path.open("rb") as file:
            return {SHA256: hashlib.sha256(inspect(file, filename, project).metadata).hexdigest()}
    except Damaged:
        return None
