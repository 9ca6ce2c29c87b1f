"""The rig for object stores itself, and what its servers and obstore do that our publishing builds on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from tests.rig.s3 import IMPOSTOR, READER, STRANGER, Ministack, S3Server, SeaweedFS
from tests.rig.s3_bucket import Bucket, Object, S3Error
from tests.rig.s3_faults import (
    DENY,
    NO_SPACE,
    SKEWED,
    SLOW_DOWN,
    After,
    Before,
    Delay,
    Drop,
    Lose,
    LostAnswer,
    Refuse,
    Stall,
)
from tests.rig.s3_proxy import Call, Proxy

PAGE = Object(b"<p>" * 100, "text/html; charset=utf-8", "max-age=60, public", "gzip", {"own-key": "own value"})
_names = itertools.count()


@pytest.fixture(scope="module", params=[Ministack, SeaweedFS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with request.param(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return server.make_bucket(f"rig-{next(_names)}")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as running:
        yield running


def client(
    proxy: Proxy,
    bucket: Bucket,
    who: Mapping[str, str] | None = None,
    *,
    retries: int = 3,
    timeout: float = 20,
) -> S3Store:
    """obstore's, which repeats without waiting long."""
    who = who or bucket.credentials
    return S3Store(
        bucket.name,
        endpoint=proxy.endpoint,
        region=who["AWS_REGION"],
        access_key_id=who["AWS_ACCESS_KEY_ID"],
        secret_access_key=who["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "timeout": timedelta(seconds=timeout)},
        retry_config={
            "max_retries": retries,
            "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2},
        },
    )


def done(proxy: Proxy) -> list[str]:
    """The requests, the names of their faults, and a minus for those of which the store has not heard."""
    proxy.settle()
    return [f"{call}{call.fault and ' '}{call.fault}{'' if call.forwarded else ' -'}" for call in proxy.calls]


def parts(call: Call) -> bool:
    return "partNumber" in call.query


# --- buckets ---


def test_a_bucket_gives_back_what_was_put(bucket: Bucket) -> None:
    bucket.put("simple/a/index.html", PAGE)
    bucket.put("odd +é&.txt", b"x")
    found = bucket.objects()
    assert list(found) == sorted(["simple/a/index.html", "odd +é&.txt"])
    assert found["simple/a/index.html"] == PAGE._replace(etag=f'"{hashlib.md5(PAGE.body).hexdigest()}"')
    assert found["odd +é&.txt"].body == b"x"
    assert bucket.get("odd +é&.txt") == found["odd +é&.txt"]
    assert list(bucket.objects("simple/")) == ["simple/a/index.html"]
    bucket.delete("odd +é&.txt", "never-there")
    assert bucket.listed() == {"simple/a/index.html": 300}
    with pytest.raises(S3Error, match="404 NoSuchKey"):
        bucket.get("odd +é&.txt")


def test_a_bucket_is_listed_over_more_than_one_page(bucket: Bucket) -> None:
    bucket.fill({f"k/{number}": Object(b"x") for number in range(1003)})
    assert len(bucket.listed()) == 1003


def test_a_bucket_is_copied_and_cleared(server: S3Server, bucket: Bucket) -> None:
    other = server.make_bucket(f"{bucket.name}-copy")
    bucket.fill({"a": PAGE, "b/c": PAGE._replace(body=b"y", cache_control="", metadata={})})
    bucket.copy_to(other)
    assert other.objects() == bucket.objects()
    assert other.get("a")[:5] == PAGE[:5]
    bucket.clear()
    assert (bucket.listed(), list(other.listed())) == ({}, ["a", "b/c"])


def test_a_killed_server_comes_back_with_all_that_it_had_acknowledged(server: S3Server, bucket: Bucket) -> None:
    empty = server.make_bucket(f"{bucket.name}-empty")
    bucket.fill({f"k/{number}": PAGE for number in range(50)})
    had = bucket.objects()
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        bucket.listed()
    server.start()
    assert bucket.objects() == had
    assert empty.objects() == {}


def test_who_may_not_is_refused(server: S3Server, bucket: Bucket) -> None:
    if not server.checks_credentials:
        pytest.skip("ministack lets in anybody")
    bucket.put("a", b"x")
    assert bucket.at(server.endpoint, READER).get("a").body == b"x"
    for who, code in ((READER, "AccessDenied"), (STRANGER, "InvalidAccessKeyId"), (IMPOSTOR, "SignatureDoesNotMatch")):
        with pytest.raises(S3Error, match=f"403 {code}"):
            bucket.at(server.endpoint, who).put("a", b"y")
    assert bucket.get("a").body == b"x"


def test_a_bucket_that_is_not_there_is_not_made(server: S3Server) -> None:
    with pytest.raises(S3Error, match="404 NoSuchBucket"):
        server.bucket("not-made").put("a", b"x")


# --- clients through the proxy ---


def test_obstore_and_the_bucket_see_the_same(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket)
    attributes = {"Content-Type": PAGE.content_type, "Cache-Control": PAGE.cache_control, "own-key": "own value"}
    put = obstore.put(store, "a/é b", PAGE.body, attributes={**attributes, "Content-Encoding": "gzip"})
    assert bucket.objects() == {"a/é b": PAGE._replace(etag=f'"{hashlib.md5(PAGE.body).hexdigest()}"')}
    assert put["e_tag"] == bucket.get("a/é b").etag
    assert bytes(obstore.get(store, "a/é b").bytes()) == PAGE.body  # not decoded
    assert obstore.get(store, "a/é b", options={"head": True}).attributes == {**attributes, "Content-Encoding": "gzip"}
    assert [meta["path"] for page in obstore.list(store) for meta in page] == ["a/é b"]
    obstore.delete(store, ["a/é b", "never-there"])
    assert bucket.listed() == {}
    assert done(proxy) == [
        "PUT a/é b 200", "GET a/é b 200", "HEAD a/é b 200", "GET ?list-type=2 200", "POST ?delete 200",
    ]  # fmt: skip
    assert proxy.calls[0].size == 300
    assert proxy.calls[0].header("Content-Encoding") == "gzip"


def test_boto3_and_the_bucket_see_the_same(proxy: Proxy, bucket: Bucket) -> None:
    boto3 = pytest.importorskip("boto3")
    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    who = {name: bucket.credentials[variable] for name, variable in names.items()}
    s3 = boto3.client("s3", endpoint_url=proxy.endpoint, region_name=bucket.credentials["AWS_REGION"], **who)
    headers = {"ContentType": PAGE.content_type, "CacheControl": PAGE.cache_control, "ContentEncoding": "gzip"}
    s3.put_object(Bucket=bucket.name, Key="a", Body=PAGE.body, Metadata={"own-key": "own value"}, **headers)
    assert bucket.get("a")[:5] == PAGE[:5]
    assert s3.get_object(Bucket=bucket.name, Key="a")["Body"].read() == PAGE.body
    proxy.fault(LostAnswer(), at=3)
    with pytest.raises(s3.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket.name, Key="b", Body=b"mine", IfNoneMatch="*")
    assert bucket.get("b").body == b"mine"
    s3.close()


def test_a_large_upload_goes_through_in_parts(proxy: Proxy, bucket: Bucket) -> None:
    content = bytes(range(256)) * 48 * 1024
    obstore.put(client(proxy, bucket), "large", io.BytesIO(content), attributes={"Content-Type": "text/x"})
    assert (bucket.get("large").body == content, bucket.get("large").content_type) == (True, "text/x")
    assert bucket.get("large").etag.endswith('-3"')
    assert sum(call.size for call in proxy.calls if parts(call)) == len(content)
    assert bucket.uploads() == []


# --- conditions ---


def test_only_one_creates_and_only_the_owner_of_the_etag_updates(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket)
    first = obstore.put(store, "lease", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "lease", b"2", mode="create")
    second = obstore.put(store, "lease", b"3", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "lease", b"4", mode={"e_tag": first["e_tag"]})
    assert (bucket.get("lease").body, bucket.get("lease").etag) == (b"3", second["e_tag"])
    bucket.delete("lease")
    with pytest.raises(PreconditionError):
        obstore.put(store, "lease", b"5", mode={"e_tag": second["e_tag"]})


def test_after_a_lost_answer_obstore_takes_its_own_write_for_anothers(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket)
    proxy.fault(LostAnswer(), times=1)
    with pytest.raises(AlreadyExistsError, match="after 1 retries"):
        obstore.put(store, "lease", b"mine", mode="create")
    assert bucket.get("lease").body == b"mine"
    assert done(proxy) == ["PUT lease 0 LostAnswer", "PUT lease 412"]
    assert [call.stored for call in proxy.calls] == [200, 412]
    proxy.fault(LostAnswer(), times=1)
    with pytest.raises(PreconditionError, match="after 1 retries"):
        obstore.put(store, "lease", b"mine again", mode={"e_tag": bucket.get("lease").etag})
    assert bucket.get("lease").body == b"mine again"


def test_a_conflict_of_two_conditional_puts_looks_like_an_object_that_exists(proxy: Proxy, bucket: Bucket) -> None:
    proxy.fault(Refuse(409, "ConditionalRequestConflict", "try again"))
    with pytest.raises(AlreadyExistsError):
        obstore.put(client(proxy, bucket), "lease", b"1", mode="create")
    assert bucket.listed() == {}


# --- faults ---


@pytest.mark.parametrize(("fault", "kept"), [(Before, 3), (After, 4)])
def test_a_client_is_killed_around_its_fourth_put(
    proxy: Proxy, bucket: Bucket, fault: Callable[[Callable[[], object]], Before | After], kept: int
) -> None:
    code = (
        "import obstore, sys; from obstore.store import S3Store\n"
        "store = S3Store(sys.argv[1], endpoint=sys.argv[2], client_options={'allow_http': True})\n"
        "for number in range(9): obstore.put(store, str(number), b'x')\n"
    )
    ready: list[int] = []

    def kill() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        ready.append(len(bucket.listed()))  # nothing else comes meanwhile, and the store can be looked at

    proxy.fault(fault(kill), at=4)
    command = (sys.executable, "-c", code, bucket.name, proxy.endpoint)
    with subprocess.Popen(command, env={**bucket.credentials, "PATH": ""}) as process:
        assert process.wait(20) == -signal.SIGKILL
    proxy.settle()
    assert ready == [kept]
    assert list(bucket.listed()) == ["0", "1", "2", "3"][:kept]
    assert [call.forwarded for call in proxy.calls] == [True, True, True, fault is After]
    assert [call.status for call in proxy.calls] == [200, 200, 200, 0]


def test_what_a_killed_client_had_still_to_send_comes_to_nothing(proxy: Proxy, bucket: Bucket) -> None:
    other = http.client.HTTPConnection(proxy.address, proxy.port, timeout=20)
    with contextlib.closing(other):
        other.request("GET", "/")
        other.getresponse().read()
        proxy.fault(Before(lambda: other.request("PUT", f"/{bucket.name}/b", b"x")), at=2)
        with pytest.raises(GenericError):
            obstore.put(client(proxy, bucket, retries=0), "a", b"x")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            other.getresponse()
    proxy.settle()
    assert [call.key for call in proxy.calls] == ["", "a"]


def test_what_is_dropped_before_the_store_is_repeated(proxy: Proxy, bucket: Bucket) -> None:
    proxy.fault(Drop(), times=2)
    obstore.put(client(proxy, bucket), "a", b"x", mode="create")
    assert done(proxy) == ["PUT a 0 Drop -", "PUT a 0 Drop -", "PUT a 200"]


def test_slow_down_is_repeated_and_in_the_end_reported(proxy: Proxy, bucket: Bucket) -> None:
    proxy.fault(SLOW_DOWN, times=2)
    obstore.put(client(proxy, bucket), "a", b"x", mode="create")
    assert done(proxy) == ["PUT a 503 SlowDown -", "PUT a 503 SlowDown -", "PUT a 200"]
    proxy.forget()
    proxy.fault(SLOW_DOWN, times=None)
    with pytest.raises(GenericError, match="<Code>SlowDown</Code>"):
        obstore.put(client(proxy, bucket, retries=3), "a", b"y")
    assert len(proxy.calls) == 4
    assert bucket.get("a").body == b"x"


def test_a_silent_store_is_left_at_the_timeout(proxy: Proxy, bucket: Bucket) -> None:
    proxy.fault(Stall())
    with pytest.raises(GenericError, match="error sending request"):
        obstore.put(client(proxy, bucket, retries=0, timeout=0.2), "a", b"x")
    assert done(proxy) == ["PUT a 0 Stall -"]
    proxy.fault(Delay(0.01))
    obstore.put(client(proxy, bucket, retries=0), "a", b"x")
    assert done(proxy)[1:] == ["PUT a 200 Delay"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [(DENY, PermissionDeniedError), (SKEWED, PermissionDeniedError), (NO_SPACE, GenericError)],
    ids=lambda given: getattr(given, "code", ""),
)
def test_errors_of_the_store_reach_obstore(proxy: Proxy, bucket: Bucket, fault: Refuse, error: type[Exception]) -> None:
    proxy.fault(fault, on=lambda call: call.writes, times=None)
    store = client(proxy, bucket, retries=0)
    with pytest.raises(error, match=f"<Code>{fault.code}</Code>"):
        obstore.put(store, "a", b"x")
    with pytest.raises(error, match=f"<Code>{fault.code}</Code>"):
        obstore.delete(store, "a")
    assert list(obstore.list(store)) == []
    assert [call.status for call in proxy.calls] == [fault.status, fault.status, 200]


def test_a_store_may_lose_what_it_has_acknowledged(proxy: Proxy, bucket: Bucket) -> None:
    bucket.put("old", b"x")
    store = client(proxy, bucket)
    proxy.fault(Lose(), times=2)
    assert obstore.put(store, "a", b"x")["e_tag"] == bucket.get("old").etag
    obstore.put(store, "a", b"y")
    obstore.put(store, "b", b"z")
    assert list(bucket.listed()) == ["b", "old"]
    assert done(proxy) == ["PUT a 200 Lose -", "PUT a 200 Lose -", "PUT b 200"]


def test_a_stores_clock_may_be_wrong(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket)
    obstore.put(store, "a", b"x")
    right = obstore.head(store, "a")["last_modified"]
    ((listed,),) = obstore.list(store)
    proxy.skew = -3600
    assert obstore.head(store, "a")["last_modified"] == right - timedelta(hours=1)
    ((skewed,),) = obstore.list(store)
    assert skewed["last_modified"] == listed["last_modified"] - timedelta(hours=1)
    proxy.heal()
    assert obstore.head(store, "a")["last_modified"] == right


def test_a_cut_store_refuses_until_it_is_mended(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket, retries=0)
    obstore.put(store, "a", b"x")
    proxy.cut()
    with pytest.raises(GenericError, match="error sending request"):
        obstore.put(store, "a", b"y")
    with pytest.raises(ConnectionRefusedError):
        bucket.at(proxy.endpoint).listed()
    proxy.mend()
    obstore.put(store, "a", b"z")
    assert bucket.get("a").body == b"z"
    assert done(proxy) == ["PUT a 200", "PUT a 200"]


def test_a_dead_store_behind_the_proxy_is_seen_as_dead(server: S3Server, proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket, retries=0)
    obstore.put(store, "a", b"x")
    server.kill()
    with pytest.raises(GenericError, match="error sending request"):
        obstore.put(store, "a", b"y")
    server.start()
    obstore.put(store, "b", b"x")
    assert done(proxy) == ["PUT a 200", "PUT a 0 -", "PUT b 200"]


def test_faults_choose_their_requests(proxy: Proxy, bucket: Bucket) -> None:
    store = client(proxy, bucket, retries=0)
    proxy.fault(DENY, at=2)
    proxy.fault(SLOW_DOWN, on=lambda call: call.key.startswith("b"), times=1)
    for key in ("a", "a", "b", "b", "a"):
        with contextlib.suppress(GenericError, PermissionDeniedError):
            obstore.put(store, key, b"x")
    assert done(proxy) == [
        "PUT a 200", "PUT a 403 AccessDenied -", "PUT b 503 SlowDown -", "PUT b 200", "PUT a 200",
    ]  # fmt: skip
    proxy.forget()
    obstore.put(store, "c", b"x")
    assert [call.number for call in proxy.calls] == [1]


# --- what obstore does ---


def test_an_upload_whose_source_fails_is_given_up(proxy: Proxy, bucket: Bucket) -> None:
    """Its own error comes through from an iterator; from a file-like object only its text does."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 12 << 20:
                raise ValueError("cannot be read")
            return super().read(size)

    def pieces() -> Iterator[bytes]:
        yield b"x" * (6 << 20)
        raise ValueError("cannot be read")

    store = client(proxy, bucket)
    with pytest.raises(OSError, match="ValueError: cannot be read"):
        obstore.put(store, "a", Failing(b"x" * (20 << 20)))
    with pytest.raises(ValueError, match="cannot be read"):
        obstore.put(store, "a", pieces())
    assert (bucket.listed(), bucket.uploads()) == ({}, [])
    assert [call.method for call in proxy.calls if not parts(call)] == ["POST", "DELETE"] * 2


def test_a_part_that_never_arrives_ends_the_upload(proxy: Proxy, bucket: Bucket) -> None:
    """obstore 0.11, the last for Python 3.10, leaves it lying."""
    proxy.fault(Drop(), on=parts, times=None)
    with pytest.raises(GenericError, match="error sending request"):
        obstore.put(client(proxy, bucket, retries=1), "a", io.BytesIO(b"x" * (6 << 20)))
    proxy.settle()
    assert bucket.listed() == {}
    assert bucket.uploads() == (["a"] if obstore.__version__.startswith("0.11.") else [])


def test_how_obstore_reports_who_may_not_and_what_is_not_there(server: S3Server, proxy: Proxy, bucket: Bucket) -> None:
    nowhere = Bucket(bucket.endpoint, "not-made", bucket.credentials)
    with pytest.raises(FileNotFoundError, match="<Code>NoSuchBucket</Code>"):
        obstore.put(client(proxy, nowhere), "a", b"x")
    with pytest.raises(GenericError, match="<Code>NoSuchBucket</Code>"):
        list(obstore.list(client(proxy, nowhere)))
    with pytest.raises(FileNotFoundError, match="<Code>NoSuchKey</Code>"):
        obstore.get(client(proxy, bucket), "a")
    if not server.checks_credentials:
        return
    for who, code in ((READER, "AccessDenied"), (STRANGER, "InvalidAccessKeyId"), (IMPOSTOR, "SignatureDoesNotMatch")):
        with pytest.raises(PermissionDeniedError, match=f"<Code>{code}</Code>"):
            obstore.put(client(proxy, bucket, who), "a", b"x")
    bucket.put("a", b"x")
    with pytest.raises(GenericError, match=r"Access Denied. \(code: AccessDenied\)"):
        obstore.delete(client(proxy, bucket, READER), "a")
    with pytest.raises(GenericError, match="<Code>InvalidAccessKeyId</Code>"):
        list(obstore.list(client(proxy, bucket, STRANGER)))


def test_obstore_repeats_ten_times_if_nobody_says_otherwise(proxy: Proxy, bucket: Bucket) -> None:
    who = bucket.credentials
    store = S3Store(
        bucket.name, endpoint=proxy.endpoint, region=who["AWS_REGION"], client_options={"allow_http": True},
        access_key_id=who["AWS_ACCESS_KEY_ID"], secret_access_key=who["AWS_SECRET_ACCESS_KEY"],
        retry_config={"backoff": {
            "init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2}},
    )  # fmt: skip
    proxy.fault(SLOW_DOWN, times=None)
    with pytest.raises(GenericError, match="after 10 retries"):
        obstore.put(store, "a", b"x")
    assert len(proxy.calls) == 11


def test_the_servers_lie_where_they_were_told_to(server: S3Server, bucket: Bucket) -> None:
    needle = random.Random(1).randbytes(100)  # SeaweedFS would compress words
    bucket.put("a", needle)
    assert server.endpoint.startswith("http://127.")
    assert any(needle in path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
