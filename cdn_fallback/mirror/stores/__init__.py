"""Where the site is put: one small protocol, and its stores: a folder, and object storage.

Only a store knows how its objects are kept; it raises `StoreError`. A folder keeps no headers: what serves it knows
them from the keys (`nginx`, `serve`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from cdn_fallback.mirror.errors import MirrorError
from cdn_fallback.mirror.site import Headers

# Names with a leading dot are nobody's key, and no server is to send them. This one says whose the store is.
MARKER = ".cdn-fallback"
PART = 8 << 20  # bytes: what is larger goes up in parts of this size, each of them a request


class StoreError(MirrorError):
    """The store did not do what it was asked: says where, what and what to do. What it held, it holds."""


class Body(Protocol):
    """What an object's bytes are read from, to the empty read at their end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


class Put(NamedTuple):
    """What has become of a put."""

    size: int  # bytes
    tag: str = ""  # as in `Stored`


class Stored(NamedTuple):
    """An object as the store lists it."""

    key: str
    size: int  # bytes
    tag: str = ""  # the store's own word for its bytes (an ETag, RFC 9110); empty: it has none


class Head(NamedTuple):
    """What the store knows of an object beside its bytes."""

    size: int  # bytes
    tag: str = ""
    headers: Headers | None = None  # None: it keeps none
    sha256: bytes = b""  # as was said when it was put; empty: the store does not keep it


class Opened(Body, Protocol):
    """An object's bytes, to be closed."""

    head: Head

    def close(self) -> None:
        """It is read no further."""


class Mark(NamedTuple):
    """The mark of the store, which says whose it is."""

    body: bytes
    tag: str  # of this very state: what a conditional write names
    at: float  # Unix time of its last write, by the store's own clock


class Store(Protocol):
    """Objects by key. Every method raises StoreError, and may be called by `workers` threads at once.

    What a body raises while it is read passes, and nothing is put; but no OSError, which would be the store's own.
    """

    workers: int  # how many calls at once are of use
    where: str  # for messages: its URL or path, without a secret

    def put(self, key: str, body: bytes | Body, headers: Headers, digest: bytes) -> Put:
        """The object is there or as it was before, never half; readers see the one or the other."""

    def delete(self, keys: Iterable[str]) -> None:
        """They are gone, also those that were not there. In any order."""

    def list(self) -> Iterator[Stored]:
        """Every object but the mark, in any order."""

    def head(self, key: str) -> Head | None:
        """What is known of the object; None where there is none."""

    def open(self, key: str) -> Opened | None:
        """Its bytes; None where there is none."""

    def flush(self) -> None:
        """What was put and deleted so far outlives a power cut."""

    def mark(self) -> Mark | None:
        """The mark; None where there is none yet."""

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        """Write the mark if it still is the one of `tag`; for None, if there is none. Returns its new tag.

        None says that it was another's: then nothing was written, or, where an answer was lost and the call repeated,
        it may have been. Who needs to know reads it.
        """
