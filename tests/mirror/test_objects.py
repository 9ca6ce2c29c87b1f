"""The store that is object storage, in memory; against real servers it runs in tests/integration."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore import exceptions
from obstore.store import MemoryStore

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror import lease
from cdn_fallback.mirror.lock import Who
from cdn_fallback.mirror.mark import Owner
from cdn_fallback.mirror.site import FILE_TYPE, FOREVER, Headers
from cdn_fallback.mirror.sources import ProjectError
from cdn_fallback.mirror.stores import MARKER, PART, Head, Put, Store, Stored, StoreError, objects
from cdn_fallback.mirror.stores.objects import PATIENCE, ObjectStore, open_objects
from cdn_fallback.mirror.stores.opening import StoreSettings, open_store
from cdn_fallback.mirror.uploads import Checked

HEADERS = Headers("application/vnd.pypi.simple.v1+json", "public, max-age=120")
DIGEST = hashlib.sha256(b"page").digest()


@pytest.fixture
def store() -> ObjectStore:
    return open_objects(f"memory://{uuid.uuid4().hex}")


class Chunks:
    """A body that comes in pieces, and may end in an error."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self._pieces = list(pieces)
        self.asked: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.asked.append(size)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        return piece


def content(store: Store, key: str) -> bytes:
    opened = store.open(key)
    assert opened
    return b"".join(iter(lambda: opened.read(1 << 20), b""))


# objects


def test_objects_are_put_replaced_listed_and_deleted(store: ObjectStore) -> None:
    assert store.put("simple/a/index.json", b"page", HEADERS, DIGEST).size == 4
    assert store.put("packages/a+b!1~2@3=4,5.whl", Chunks(b"some", b"thing"), HEADERS, b"").size == 9
    assert store.put("empty", b"", HEADERS, b"").size == 0
    assert store.put("empty", Chunks(), HEADERS, b"").size == 0
    store.put("simple/a/index.json", b"better", HEADERS, b"")
    assert content(store, "simple/a/index.json") == b"better"
    assert content(store, "packages/a+b!1~2@3=4,5.whl") == b"something"
    found = {one.key: one.size for one in store.list()}
    assert found == {"simple/a/index.json": 6, "packages/a+b!1~2@3=4,5.whl": 9, "empty": 0}
    store.flush()
    store.delete(["simple/a/index.json", "never/there", "empty"])
    assert [one.key for one in store.list()] == ["packages/a+b!1~2@3=4,5.whl"]


def test_an_object_is_looked_at_with_everything_that_it_was_put_with(store: ObjectStore) -> None:
    zipped = HEADERS._replace(content_encoding="gzip")
    done = store.put("page", b"page", zipped, DIGEST)
    assert store.head("page") == Head(4, done.tag, zipped, DIGEST)
    assert list(store.list()) == [Stored("page", 4, done.tag)] and done == Put(4, done.tag) and done.tag
    opened = store.open("page")
    assert opened and opened.head == store.head("page")
    assert opened.read(2) == b"pa" and opened.read(0) == b"" and opened.read(10) == b"ge" and opened.read(1) == b""
    opened.close()
    store.put("plain", b"x", HEADERS, b"")
    assert store.head("plain") == Head(1, (store.head("plain") or Head(0)).tag, HEADERS, b"")


def test_the_tag_changes_with_the_object(store: ObjectStore) -> None:
    assert store.put("a", b"1", HEADERS, b"").tag != store.put("a", b"2", HEADERS, b"").tag


def test_what_is_not_there_is_none(store: ObjectStore) -> None:
    assert store.head("a/b") is None and store.open("a/b") is None and store.mark() is None
    assert list(store.list()) == []
    store.delete([])
    store.delete(["a/b"])


def test_an_object_of_somebody_elses_has_no_digest_that_is_believed() -> None:
    backend = MemoryStore()
    obstore.put(backend, "a", b"x", attributes={"sha256": "no hex at all"})
    obstore.put(backend, "b", b"x")
    store = ObjectStore(backend, "memory://x")
    assert [store.head(key) for key in "ab"] == [
        Head(1, (store.head(key) or Head(0)).tag, Headers("", ""), b"") for key in "ab"
    ]


def test_what_is_deleted_comes_in_thousands(store: ObjectStore) -> None:
    keys = [f"k{number}" for number in range(2500)]
    for key in keys[::2]:
        store.put(key, b"", HEADERS, b"")
    store.delete(iter(keys))
    assert list(store.list()) == []


def test_more_is_listed_than_comes_at_once(store: ObjectStore) -> None:
    for number in range(2100):
        store.put(f"a/{number}", b"", HEADERS, b"")
    assert {one.key for one in store.list()} == {f"a/{number}" for number in range(2100)}


def test_many_work_at_once(store: ObjectStore) -> None:
    with ThreadPoolExecutor(store.workers) as pool:
        list(pool.map(lambda n: store.put(f"k{n}", Chunks(b"%d" % n), HEADERS, b""), range(200)))
        assert list(pool.map(lambda n: content(store, f"k{n}"), range(200))) == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize("key", ["a//b", "a/../b", "../a", "a/\x1b[31m"])
def test_a_key_that_is_none_is_refused_in_words(store: ObjectStore, key: str) -> None:
    with pytest.raises(StoreError) as caught:
        store.put(key, b"", HEADERS, b"")
    assert str(caught.value).isprintable() and "Debug source" not in str(caught.value)
    assert list(store.list()) == []


# large bodies


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 3 * PART + 7])
def test_a_large_body_comes_in_parts_and_is_whole(store: ObjectStore, size: int) -> None:
    body = os.urandom(1 << 16) * (size // (1 << 16) + 1)
    pieces = [body[start : min(start + 1_000_003, size)] for start in range(0, size, 1_000_003)]
    done = store.put("large", Chunks(*pieces), Headers(FILE_TYPE, FOREVER), DIGEST)
    assert done.size == size
    head = store.head("large")
    assert head == Head(size, done.tag, Headers(FILE_TYPE, FOREVER), DIGEST)
    assert hashlib.sha256(content(store, "large")).digest() == hashlib.sha256(body[:size]).digest()


def test_a_large_body_is_never_in_memory_as_a_whole(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as the parts go away: obstore gets an iterator, and asks it for a piece at a time."""
    given: list[Any] = []

    def put(store: object, key: str, pieces: object, **options: object) -> dict[str, str]:
        given.append(pieces)
        return {"e_tag": "x"}

    monkeypatch.setattr(obstore, "put", put)
    body = Chunks(*[bytes(1 << 20)] * 30)
    store.put("large", body, HEADERS, b"")
    assert len(body.asked) == (PART >> 20) + 1 and max(body.asked) <= 1 << 20
    assert [len(piece) for piece in given[0]] == [PART + (1 << 20)] + [1 << 20] * 21


@pytest.mark.parametrize("size", [3, PART + 3, 3 * PART])
@pytest.mark.parametrize(
    "error", [ProjectError("a-1.0.whl", "has changed"), KeyError("x"), KeyboardInterrupt(), StoreError("a", "b")]
)
def test_what_a_body_raises_passes_and_nothing_is_put(store: ObjectStore, size: int, error: BaseException) -> None:
    store.put("large", b"as it was", HEADERS, b"")
    pieces = [bytes(min(1 << 20, size - start)) for start in range(0, size, 1 << 20)]
    with pytest.raises(type(error)) as caught:
        store.put("large", Chunks(*pieces, error), HEADERS, b"")
    assert caught.value is error
    assert content(store, "large") == b"as it was" and len(list(store.list())) == 1


@pytest.mark.parametrize("size", [3, PART + 3])
def test_a_body_that_is_not_what_was_promised_is_not_put(store: ObjectStore, size: int) -> None:
    """The check comes with the empty read at the end."""
    from io import BytesIO

    from cdn_fallback.mirror.site import Object

    wanted = Object("packages/a.whl", HEADERS, DIGEST, size)
    with pytest.raises(ProjectError, match="has changed since it was read"):
        store.put("packages/a.whl", Checked(BytesIO(bytes(size)), wanted), HEADERS, DIGEST)
    assert list(store.list()) == []


# the mark


def test_the_mark_is_written_under_a_condition_and_is_no_object(store: ObjectStore) -> None:
    first = store.set_mark(b"a", None)
    assert first and store.set_mark(b"b", None) is None
    mark = store.mark()
    assert mark and (mark.body, mark.tag) == (b"a", first) and abs(mark.at - time.time()) < 60
    second = store.set_mark(b"b", first)
    assert second and second != first and store.set_mark(b"c", first) is None
    assert list(store.list()) == [] and store.head(MARKER)


def test_of_many_that_write_the_mark_at_once_one_does(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            mark = store.mark()
            tag = mark.tag if mark else None
            numbers = range(turn * 8, turn * 8 + 8)
            done = list(pool.map(lambda n, tag=tag: store.set_mark(b"%d" % n, tag), numbers))
            assert sum(tag is not None for tag in done) == 1


def test_the_mark_is_nothing_that_caches_keep(store: ObjectStore) -> None:
    store.set_mark(b"a", None)
    head = store.head(MARKER)
    assert head and head.headers == Headers("application/json", "no-store")


def test_its_lease_is_one_publishers(store: ObjectStore) -> None:
    identity = uuid.uuid4().hex
    with lease.hold(store, identity, Who("one", "here")), pytest.raises(lease.Leased):
        lease.Lease(store, Owner(identity, "two", "there", "x"), lease.Clock()).take(lambda text: None)


# failures


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Every request raises what is told."""
    told: list[BaseException] = []

    def fail(*arguments: object, **options: object) -> None:
        raise told[0]

    for name in ("put", "get", "delete", "list"):
        monkeypatch.setattr(obstore, name, fail)
    return told


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("a", b"", HEADERS, b""),
    "put in parts": lambda store: store.put("a", Chunks(*[bytes(1 << 20)] * 20), HEADERS, b""),
    "delete": lambda store: store.delete(["a"]),
    "list": lambda store: list(store.list()),
    "head": lambda store: store.head("a"),
    "open": lambda store: store.open("a"),
    "mark": lambda store: store.mark(),
    "set_mark": lambda store: store.set_mark(b"", None),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "error", [exceptions.GenericError("some\x1b[31mthing\n\nDebug source:\nx"), OSError(5, "I/O"), ValueError("bad")]
)
def test_every_failure_is_one_of_ours_that_says_where(
    store: ObjectStore, failing: list[BaseException], call: str, error: BaseException
) -> None:
    failing.append(error)
    with pytest.raises(StoreError) as caught:
        CALLS[call](store)
    text = str(caught.value)
    assert text.startswith(f"{store.where}, ") and text.isprintable() and "Debug source" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_is_not_there_is_not_taken_for_an_empty_one(
    store: ObjectStore, failing: list[BaseException], call: str
) -> None:
    failing.append(FileNotFoundError("Object at location a not found: ... <Code>NoSuchBucket</Code>"))
    with pytest.raises(StoreError, match="there is no such bucket; make it first, or mend the URL"):
        CALLS[call](store)


def test_a_connection_that_ends_while_an_object_is_read_is_told(store: ObjectStore) -> None:
    def stream() -> Iterator[bytes]:
        yield b"some"
        raise exceptions.GenericError("HTTP error: error decoding response body")

    reader = objects._Reader(stream(), Head(9), store, "a")
    assert reader.read(10) == b"some"
    with pytest.raises(StoreError, match=f"^{re.escape(store.where)}, a: .*HTTP error"):
        reader.read(10)


ADVICE = [
    ("... http://169.254.169.254/latest/api/token ...", "finds no credentials: neither in the environment"),
    ("... http://metadata.google.internal/computeMetadata ...", "finds no credentials"),
    ("<Error><Code>RequestTimeTooSkewed</Code>", r"refuses this machine's clock; set it right \(NTP\)"),
    ("<Code>InvalidAccessKeyId</Code>", "does not know these credentials; look at what the provider's chain finds"),
    ("<Code>SignatureDoesNotMatch</Code>", "the secret is wrong"),
    ("<Code>ExpiredToken</Code>", "they have expired"),
    ("503 <Code>SlowDown</Code>", "asks to slow down.*run later, it goes on where it was"),
    ("403 <Code>AccessDenied</Code>", "does not permit it; give the publisher that right"),
    ("<Code>InsufficientStorage</Code>", "no space left; make some and run again"),
    ("<Code>QuotaExceeded</Code>", "no space left in its quota; raise it"),
    ("<Code>NoSuchBucket</Code>", "there is no such bucket"),
    ("ContainerNotFound", "there is no such bucket"),
    ("The specified bucket does not exist", "there is no such bucket"),
    (
        "Generic S3 error: error sending request",
        "cannot be reached .*what was published is whole, the next run goes on",
    ),
    ("Connection refused", "cannot be reached"),
    ("something new", "something new"),
]


@pytest.mark.parametrize(("said", "advice"), ADVICE, ids=[said for said, _ in ADVICE])
def test_what_a_store_says_becomes_what_to_do(
    store: ObjectStore, failing: list[BaseException], said: str, advice: str
) -> None:
    failing.append(exceptions.GenericError(f"{said}\x1b[31m\u202e\n\nDebug source:\nGeneric {{ {said} }}"))
    with pytest.raises(StoreError, match=advice) as caught:
        store.put("a", b"", HEADERS, b"")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_refusals_without_a_code_are_told_too(store: ObjectStore, failing: list[BaseException]) -> None:
    failing.append(exceptions.PermissionDeniedError("403"))
    with pytest.raises(StoreError, match=r"does not permit it \(403\); give the publisher that right"):
        store.head("a")
    failing[0] = exceptions.UnauthenticatedError("401")
    with pytest.raises(StoreError, match=r"does not take these credentials \(401\)"):
        store.head("a")


def test_a_message_without_end_is_cut(store: ObjectStore, failing: list[BaseException]) -> None:
    failing.append(exceptions.GenericError("word \n" * 10_000))
    with pytest.raises(StoreError) as caught:
        store.head("a")
    assert len(str(caught.value)) < 700 and "word word" in str(caught.value) and "..." in str(caught.value)


# how it is opened


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing in the environment, and an empty home."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("bare")
def test_a_bucket_with_a_prefix_is_opened_and_nobody_asked() -> None:
    store = open_objects("s3://bucket/some/prefix", region="eu-north-1")
    backend: Any = store._store
    assert (backend.config["bucket"], backend.prefix) == ("bucket", "some/prefix")
    assert backend.config["region"] == "eu-north-1" and "endpoint" not in backend.config
    assert store.where == "s3://bucket/some/prefix"


@pytest.mark.usefixtures("bare")
def test_a_region_is_the_configured_one_then_the_environments_then_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def region(**options: Any) -> object:
        backend: Any = open_objects("s3://bucket", **options)._store
        return backend.config.get("region")

    assert region() == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert region() in ("eu-west-1", None), "obstore reads it"
    assert region(region="eu-north-1") == "eu-north-1"


@pytest.mark.usefixtures("bare")
def test_an_endpoint_may_be_http_and_only_if_it_is_named() -> None:
    plain: Any = open_objects("s3://bucket", endpoint="http://127.0.0.1:9")._store
    assert plain.config["endpoint"] == "http://127.0.0.1:9" and plain.client_options["allow_http"] == "true"
    for endpoint in (None, "https://store.example"):
        backend: Any = open_objects("s3://bucket", endpoint=endpoint)._store
        assert backend.client_options["allow_http"] == "false"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("patience", [600, 60, 3, 0])
def test_no_request_is_tried_again_for_longer_than_the_lease_allows(patience: int) -> None:
    store = open_objects("s3://bucket", patience=patience)
    backends: list[Any] = [store._store, store._marks]
    put, mark = (one.retry_config["retry_timeout"].total_seconds() for one in backends)
    assert (put, mark) == (min(patience, PATIENCE), min(patience, objects._MARK_PATIENCE))
    # a put may begin UNSURE after the last renewal, and has ended LONGEST_PUT later
    assert put + objects._REQUEST.total_seconds() <= lease.LONGEST_PUT
    assert mark + objects._MARK_REQUEST.total_seconds() <= lease.UNSURE < lease.LEASE - lease.LONGEST_PUT
    assert [one.client_options["timeout"] for one in backends] == ["2m", f"{objects._MARK_REQUEST.seconds}s"]


def test_memory_is_one_store_for_each_name() -> None:
    name = uuid.uuid4().hex
    open_objects(f"memory://{name}").put("a", b"x", HEADERS, b"")
    assert open_objects(f"memory://{name}").head("a") and not open_objects(f"memory://{name}2").head("a")


@pytest.mark.usefixtures("bare")
def test_a_profile_is_read_by_boto3(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    (bare / ".aws").mkdir()
    (bare / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n[other]\naws_access_key_id = C\n"
        "aws_secret_access_key = D\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "other")
    backend: Any = open_objects("s3://bucket")._store
    assert backend.credential_provider()["access_key_id"] == "C"
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    assert objects._profile() is None, "what stands in the environment comes first"


@pytest.mark.usefixtures("bare")
def test_a_store_that_cannot_be_made_says_which_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError) as caught:
        open_objects("s3://bucket", endpoint="\x1b[31mnowhere")
        monkeypatch.setattr(objects, "from_url", lambda *a, **k: (_ for _ in ()).throw(ValueError("bad\x1b[31m")))
        open_objects("s3://bucket")
    assert str(caught.value).startswith("s3://bucket: ") and str(caught.value).isprintable()


@pytest.mark.usefixtures("bare")
def test_azure_is_named_by_account_and_container() -> None:
    backend: Any = open_objects("az://account/container/some/prefix")._store
    assert (backend.config["account_name"], backend.config["container_name"]) == ("account", "container")
    assert backend.prefix == "some/prefix"


@pytest.mark.usefixtures("bare")
def test_google_may_have_an_endpoint_of_its_own() -> None:
    backend: Any = open_objects("gs://bucket/prefix", endpoint="http://127.0.0.1:9")._store
    assert (backend.config["bucket"], backend.config["base_url"]) == ("bucket", "http://127.0.0.1:9")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/prefix", "gs://bucket", "memory://x"])
def test_a_configured_url_becomes_such_a_store(url: str, tmp_path: Path) -> None:
    store = open_store(StoreSettings(url, "c.toml", tmp_path, patience=0))
    assert isinstance(store, ObjectStore) and store.where == url


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://user:secret@bucket",
        "s3://bucket?x=1",
        "s3://bucket#x",
        "s3://b/../c",
        "s3://b/.x",
    ],
)
def test_a_url_that_names_no_bucket_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no bucket; write s3://bucket or s3://bucket/prefix"):
        open_store(StoreSettings(url, "c.toml", tmp_path))


def test_it_leaves_no_thread_of_ours_behind(store: ObjectStore) -> None:
    before = threading.active_count()
    store.put("large", Chunks(*[bytes(1 << 20)] * 20), HEADERS, b"")
    assert threading.active_count() == before
