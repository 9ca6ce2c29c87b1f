"""The store that is object storage: S3 and what speaks its protocol, Google's, Azure's, and memory, through obstore.

Credentials come from the provider's own chain: the environment, a role of the machine or the container, a web
identity; what lies in ~/.aws (profiles, SSO) is read by boto3, where that is installed. None is ours to keep.

A failed request is tried again by obstore with growing, jittered pauses (5xx, 503 SlowDown among them, 429, lost
connections), for a minute; a put is the same however often it is done. Only the mark is written conditionally.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import MemoryStore, from_url

from cdn_fallback.mirror.batches import batches
from cdn_fallback.mirror.site import Headers
from cdn_fallback.mirror.stores import MARKER, PART, Body, Head, Mark, Opened, Put, Stored, StoreError
from cdn_fallback.mirror.stores.failures import advice, reject_no_bucket

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

WORKERS = 32
_AT_ONCE = 4  # large files, and of each so many parts: they wait in memory
_DELETES = 1000  # keys in one request (S3's DeleteObjects takes no more)
# A put ends within both together, whatever happens: `lease` counts on it.
_REQUEST = timedelta(seconds=120)  # for one, with all its bytes
_MARK_REQUEST = timedelta(seconds=10)
_MARK_PATIENCE = 20  # s: a renewal that hangs must not use up the lease
_PAUSE = timedelta(seconds=5)  # between two tries, at most
PATIENCE = 60  # s after the first request, from which on none is tried again
_SHA256 = "sha256"  # the name of the metadata that holds an object's digest, in hex
_FAILURES = (BaseError, OSError, ValueError)

_memory: dict[str, MemoryStore] = {}


class ObjectStore:
    """A bucket, or what lies below a prefix in one."""

    workers = WORKERS

    def __init__(self, store: Backend, where: str, marks: Backend | None = None) -> None:
        """`marks` is the same store for one who is less patient, and renews a lease."""
        self.where = where
        self._store = store
        self._marks = marks or store
        self._large = threading.Semaphore(_AT_ONCE)

    def put(self, key: str, body: bytes | Body, headers: Headers, digest: bytes) -> Put:
        # Read before the store is asked, so that what a body raises is told from what the store does.
        first = body if isinstance(body, bytes) else _filled(body, PART + 1)
        attributes = _attributes(headers, digest)
        with self._told(key):
            if isinstance(body, bytes) or len(first) <= PART:
                done = obstore.put(self._store, key, first, attributes=attributes, use_multipart=False)
                return Put(len(first), done["e_tag"] or "")
            parts = _Parts(first, body)
            try:
                with self._large:
                    done = obstore.put(
                        self._store, key, iter(parts), attributes=attributes, chunk_size=PART, max_concurrency=_AT_ONCE
                    )
            except BaseException:
                if parts.error:
                    raise parts.error from None
                raise
            return Put(parts.size, done["e_tag"] or "")

    def delete(self, keys: Iterable[str]) -> None:
        for some in batches(keys, _DELETES):
            with self._told(some[0]):
                try:
                    obstore.delete(self._store, some)
                except FileNotFoundError as exc:  # S3 says nothing of what was not there, others do
                    reject_no_bucket(exc)
                    for key in some:
                        with contextlib.suppress(FileNotFoundError):
                            obstore.delete(self._store, key)

    def list(self) -> Iterator[Stored]:
        with self._told("its list of objects"):
            for found in obstore.list(self._store, chunk_size=1000):
                for one in found:
                    if one["path"] != MARKER:
                        yield Stored(one["path"], one["size"], one["e_tag"] or "")

    def head(self, key: str) -> Head | None:
        with self._told(key):
            try:
                found = obstore.get(self._store, key, options={"head": True})
            except FileNotFoundError as exc:
                reject_no_bucket(exc)
                return None
            return _head(found)

    def open(self, key: str) -> Opened | None:
        with self._told(key):
            try:
                found = obstore.get(self._store, key)
                return _Reader(found.stream(min_chunk_size=1 << 20), _head(found), self, key)
            except FileNotFoundError as exc:
                reject_no_bucket(exc)
                return None

    def flush(self) -> None:
        """An object that was answered for is there."""

    def mark(self) -> Mark | None:
        with self._told(MARKER):
            try:
                found = obstore.get(self._store, MARKER)
                meta = found.meta
                return Mark(bytes(found.bytes()), meta["e_tag"] or "", meta["last_modified"].timestamp())
            except FileNotFoundError as exc:
                reject_no_bucket(exc)
                return None

    def set_mark(self, body: bytes, tag: str | None) -> str | None:
        attributes = _attributes(Headers("application/json", "no-store"), b"")
        with self._told(MARKER):
            try:
                mode: Any = "create" if tag is None else {"e_tag": tag}
                return obstore.put(self._marks, MARKER, body, attributes=attributes, mode=mode)["e_tag"] or ""
            except (AlreadyExistsError, PreconditionError):
                return None

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except _FAILURES as exc:
            raise StoreError(f"{self.where}, {what}", advice(exc)) from exc


class _Parts:
    """A body's bytes in pieces, the first of which are read already. Keeps what the body raises."""

    def __init__(self, first: bytes, body: Body) -> None:
        self._first = first
        self._body = body
        self.size = len(first)
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        try:
            while piece := self._body.read(1 << 20):
                self.size += len(piece)
                yield piece
        except BaseException as exc:
            self.error = exc
            raise


class _Reader:
    """An object's bytes as they come."""

    def __init__(self, stream: Iterable[Any], head: Head, store: ObjectStore, key: str) -> None:
        self.head = head
        self._stream = iter(stream)
        self._store = store
        self._key = key
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """As a file's."""
        if not self._rest:
            with self._store._told(self._key):
                self._rest = bytes(next(self._stream, b""))
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        """The connection ends with the stream."""
        self._stream = iter(())


def open_objects(
    url: str, *, endpoint: str | None = None, region: str | None = None, patience: int = PATIENCE
) -> ObjectStore:
    """The store at `url`: s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX], az://ACCOUNT/CONTAINER[/PREFIX], memory://NAME.

    Asks nobody yet, but for credentials that boto3 has to look up.

    :param patience: for how long a request is tried again, seconds, at most PATIENCE
    :param endpoint: where the service is, if not where its provider has it; may be http://
    :raises StoreError: for what obstore cannot make a store of
    """
    if url.startswith("memory:"):  # one of its own for each name, for as long as the process lives
        return ObjectStore(_memory.setdefault(url, MemoryStore()), url)
    config: dict[str, Any] = {}
    credentials: dict[str, Any] = {}
    scheme = url.partition(":")[0]
    place = url
    if endpoint:
        config["base_url" if scheme == "gs" else "endpoint"] = endpoint
    if scheme == "az":  # obstore knows the container only
        config["account_name"], _, container = url.removeprefix("az://").partition("/")
        place = f"az://{container}"
    if scheme == "s3":
        if region or not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            config["region"] = region or "us-east-1"
        if provider := _profile():
            credentials["credential_provider"] = provider
    make: Any = from_url

    def made(request: timedelta, patience: int) -> Backend:
        client = {"timeout": request, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
        # 10 retries, as by default, would be over in a few seconds
        retries = {
            "max_retries": 1000,
            "retry_timeout": timedelta(seconds=patience),
            "backoff": {"max_backoff": _PAUSE},
        }
        found: Backend = make(place, config=config, client_options=client, retry_config=retries, **credentials)
        return found

    try:
        store = made(_REQUEST, min(patience, PATIENCE))
        return ObjectStore(store, url, made(_MARK_REQUEST, min(patience, _MARK_PATIENCE)))
    except _FAILURES as exc:
        raise StoreError(url, advice(exc)) from exc


def _profile() -> Any:
    """boto3's chain, where it is asked for: by AWS_PROFILE, or by files in ~/.aws and nothing in the environment."""
    if "AWS_ACCESS_KEY_ID" in os.environ and "AWS_PROFILE" not in os.environ:
        return None
    if "AWS_PROFILE" not in os.environ and not Path("~/.aws").expanduser().is_dir():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        if "AWS_PROFILE" not in os.environ:
            return None
        raise StoreError("AWS_PROFILE", "is read by boto3; python -m pip install boto3") from None
    try:
        return Boto3CredentialProvider()
    except ValueError as exc:
        raise StoreError("~/.aws", f"has no credentials that boto3 can use ({exc}); name a profile") from exc


def _attributes(headers: Headers, digest: bytes) -> Any:
    found = {"Content-Type": headers.content_type, "Cache-Control": headers.cache_control}
    if headers.content_encoding:
        found["Content-Encoding"] = headers.content_encoding
    if digest:
        found[_SHA256] = digest.hex()
    return found


def _head(found: Any) -> Head:
    attributes, meta = found.attributes, found.meta
    return Head(meta["size"], meta["e_tag"] or "", _headers(attributes), _digest(attributes))


def _headers(attributes: Any) -> Headers:
    get = attributes.get
    return Headers(get("Content-Type", ""), get("Cache-Control", ""), get("Content-Encoding"))


def _digest(attributes: Any) -> bytes:
    try:
        return bytes.fromhex(attributes.get(_SHA256, ""))
    except ValueError:
        return b""


def _filled(body: Body, size: int) -> bytes:
    """The first `size` bytes, or all that there are; to the empty read at the end, where a body may raise."""
    pieces: list[bytes] = []
    while size > 0 and (piece := body.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
