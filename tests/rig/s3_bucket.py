"""Buckets as a test sees and changes them: S3's API over http.client, signed here (AWS Signature Version 4).

It judges what ours has uploaded, so it shares no code with that, and it repeats nothing: an error is one at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

_TIMEOUT = 30.0  # seconds
_PARALLEL = 8
_METADATA = "x-amz-meta-"
_T = TypeVar("_T")


class Object(NamedTuple):
    """An object as it lies in a bucket; headers that it has not are empty. `etag` with its quotes."""

    body: bytes
    content_type: str = ""
    cache_control: str = ""
    content_encoding: str = ""
    metadata: Mapping[str, str] = {}
    etag: str = ""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """Of an error: "NoSuchKey", or empty where there is no XML (HEAD)."""
        return ElementTree.fromstring(self.body).findtext("{*}Code", "") if self.body.startswith(b"<") else ""


class S3Error(Exception):
    """The server refused."""

    def __init__(self, request: str, answer: Answer) -> None:
        super().__init__(request, answer)
        self.request = request
        self.answer = answer

    def __str__(self) -> str:
        return f"{self.request}: {self.answer.status} {self.answer.code} {self.answer.body[:500]!r}"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket `name` of the server at `endpoint`. `credentials` are those of its environment variables."""

    endpoint: str
    name: str
    credentials: Mapping[str, str] = field(repr=False)

    def objects(self, prefix: str = "") -> dict[str, Object]:
        """All of it, each object read whole, by key."""
        keys = list(self.listed(prefix))
        return dict(zip(keys, self._each(keys, self._read), strict=True))

    def listed(self, prefix: str = "") -> dict[str, int]:
        """Key -> size in bytes, as the listing has them."""
        found: dict[str, int] = {}
        token = ""
        while True:
            query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
            page = ElementTree.fromstring(self.request("GET", query=query).body)
            for entry in page.iterfind("{*}Contents"):
                found[entry.findtext("{*}Key", "")] = int(entry.findtext("{*}Size", "0"))
            token = page.findtext("{*}NextContinuationToken", "")
            if page.findtext("{*}IsTruncated") != "true":
                return found

    def get(self, key: str) -> Object:
        """One object. S3Error 404 where there is none."""
        with self._connected() as connection:
            return self._read(key, connection)

    def put(self, key: str, content: bytes | Object) -> None:
        """Writes an object, or only its bytes."""
        self.fill({key: content if isinstance(content, Object) else Object(content)})

    def fill(self, objects: Mapping[str, Object]) -> None:
        """Writes all of these, several at a time. An object's `etag` is not written: it comes from its bytes."""
        self._each(objects, lambda key, connection: self._write(key, objects[key], connection))

    def delete(self, *keys: str) -> None:
        """Removes these; what is not there stays so."""
        self._each(keys, lambda key, connection: self.request("DELETE", key, connection=connection))

    def clear(self) -> None:
        """Removes everything."""
        self.delete(*self.listed())

    def copy_to(self, other: Bucket) -> None:
        """Writes everything into another bucket, of whichever server. What came in parts is written in one."""
        other.fill(self.objects())

    def uploads(self) -> list[str]:
        """The keys of multipart uploads that were neither completed nor aborted."""
        page = ElementTree.fromstring(self.request("GET", query={"uploads": ""}).body)
        return [upload.findtext("{*}Key", "") for upload in page.iterfind("{*}Upload")]

    def at(self, endpoint: str, credentials: Mapping[str, str] | None = None) -> Bucket:
        """The same bucket by way of a proxy, or as somebody else."""
        return Bucket(endpoint, self.name, credentials or self.credentials)

    def request(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """One signed request. S3Error for anything but 2xx."""
        path = quote(f"/{self.name}/{key}" if key else f"/{self.name}", safe="/-_.~")
        pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in (query or {}).items())
        text = "&".join(f"{name}={value}" for name, value in pairs)
        with contextlib.ExitStack() as stack:
            through = connection or stack.enter_context(self._connected())
            signed = _signed(method, path, text, urlsplit(self.endpoint).netloc, headers or {}, body, self.credentials)
            through.request(method, f"{path}?{text}" if text else path, body, signed)
            got = through.getresponse()
            answer = Answer(got.status, got.headers, got.read())
        if not 200 <= answer.status < 300:
            raise S3Error(f"{method} {path}{text and '?'}{text}", answer)
        return answer

    def _read(self, key: str, connection: http.client.HTTPConnection) -> Object:
        answer = self.request("GET", key, connection=connection)
        headers = answer.headers
        own = {
            name.lower().removeprefix(_METADATA): value
            for name, value in headers.items()
            if name.lower().startswith(_METADATA)
        }
        kind, cache, coding, etag = (
            headers.get(name, "") for name in ("Content-Type", "Cache-Control", "Content-Encoding", "ETag")
        )
        return Object(answer.body, kind, cache, coding, own, etag)

    def _write(self, key: str, given: Object, connection: http.client.HTTPConnection) -> None:
        headers = {f"{_METADATA}{name}": value for name, value in given.metadata.items()}
        headers |= {"Content-Type": given.content_type, "Cache-Control": given.cache_control}
        headers |= {"Content-Encoding": given.content_encoding}
        sent = {name: value for name, value in headers.items() if value}
        self.request("PUT", key, headers=sent, body=given.body, connection=connection)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        parts = urlsplit(self.endpoint)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        with contextlib.closing(connection):
            yield connection

    def _each(self, keys: Iterable[str], work: Callable[[str, http.client.HTTPConnection], _T]) -> list[_T]:
        """The results of `work`, in the order of the keys; several at a time, each thread over its own connection."""
        wanted = list(keys)
        own = threading.local()
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(_PARALLEL) as pool:

            def one(key: str) -> _T:
                if not hasattr(own, "connection"):
                    own.connection = stack.enter_context(self._connected())
                return work(key, own.connection)

            return list(pool.map(one, wanted))


def _signed(
    method: str,
    path: str,
    query: str,
    host: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Mapping[str, str],
) -> dict[str, str]:
    """These headers, and those that sign them all (AWS Signature Version 4, "Create a signed request")."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    whole = {**headers, "Host": host, "x-amz-date": now, "x-amz-content-sha256": digest}
    fields = sorted((name.lower(), " ".join(value.split())) for name, value in whole.items())
    names = ";".join(name for name, _ in fields)
    asked = "\n".join([method, path, query, *(f"{name}:{value}" for name, value in fields), "", names, digest])
    region = credentials["AWS_REGION"]
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = b"AWS4" + credentials["AWS_SECRET_ACCESS_KEY"].encode()
    for part in (now[:8], region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    who = f"{credentials['AWS_ACCESS_KEY_ID']}/{scope}"
    whole["Authorization"] = f"AWS4-HMAC-SHA256 Credential={who}, SignedHeaders={names}, Signature={signature}"
    return whole
