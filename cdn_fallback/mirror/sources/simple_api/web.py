"""Pages and files over HTTP, through our own failover engine: what a source asks, and what it is told.

The engine repeats and fails over by itself: it gets the `retries` as its passes over a pool, waits as long as a
Retry-After says if that is within its 30 s, and its last word is final. Repeated here is what does not go through
it (an environment that switches it off) and what broke after it had answered.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

import requests
import urllib3
from requests.adapters import BaseAdapter

from cdn_fallback import __version__
from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError, HashMismatch
from cdn_fallback.mirror.sources.simple_api.spool import Mismatch, Part

T = TypeVar("T")

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"  # PEP 691
MAX_PAGE = 64 * 1024 * 1024  # bytes, decoded; the longest project list of all is half of that
MAX_WAIT = 30.0  # s: the longest Retry-After that is waited out
MAX_REDIRECTS = 10
TIMEOUT = (15.0, 30.0)  # s: to connect; of silence
CHUNK = 64 * 1024  # bytes
USES = 2000  # of a client: the engine remembers what it has seen, for as long as its adapter lives

_TRANSIENT = frozenset({408, 425, 429})  # and every 5xx
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class Unanswered(Exception):
    """There is no usable answer.

    :param problem: why, as a phrase that follows the URL
    :param status: what was answered, if anything was
    :param again: whether the same may be asked again at once, after `wait` seconds at least
    """

    def __init__(self, problem: str, status: int = 0, *, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status
        self.again = again
        self.wait = wait


class Validators(NamedTuple):
    """What makes a request conditional; it belongs to the `url` that gave it, and is sent to no other."""

    url: str = ""
    etag: str = ""
    modified: str = ""


class Answer(NamedTuple):
    """A page, read whole. `url` is where it came from, after redirects."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    validators: Validators


class Retry(NamedTuple):
    """How often more, and how it is waited in between: seconds to sleep, and a number from 0 to 1 by chance."""

    times: int
    sleep: Callable[[float], None]
    chance: Callable[[], float]

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns; when it raises an Unanswered that may be asked again, it is called once more."""
        for number in range(self.times):
            try:
                return work()
            except Unanswered as exc:
                if not exc.again:
                    raise
                # half a second, doubled each time, at most 8, with jitter
                pause = min(0.5 * 2.0**number, 8.0) * (0.75 + 0.5 * self.chance())
                self.sleep(max(pause, min(exc.wait, MAX_WAIT)))
        return work()


class Client:
    """One session. What it raises is Unanswered. For one thread at a time: the engine's adapters are."""

    def __init__(self, adapter: BaseAdapter, retry: Retry) -> None:
        self.retry = retry
        self.uses = 0
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"cdn-fallback/{__version__} (mirror)"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def close(self) -> None:
        self._session.close()

    def page(self, url: str, known: Validators) -> Answer | None:
        """The page at `url`; ``None`` if it is still the one that `known` came with."""
        return self.retry.run(lambda: self._page(url, known))

    def _page(self, url: str, known: Validators) -> Answer | None:
        with self._asked(url, {"Accept": ACCEPT}, known) as response:
            if response.status_code == 304 and (known.etag or known.modified):
                return None
            _expect(response, 200)
            body = _whole(response)
            tag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
            validators = Validators(response.url, _header(tag), _header(date))
            return Answer(response.url, response.headers, body, validators)

    @contextlib.contextmanager
    def part(self, url: str, start: int) -> Iterator[Part]:
        """The file at `url` from the byte `start` on, or from its first: what the server gives; see `Part`."""
        # gzip would be undone on the way; a file is to come as it lies there
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._asked(url, headers) as response:
            if not (start and response.status_code == 416):
                yield _part(response, start)
                return
        with self.part(url, 0) as whole:  # it has no byte there: the part that is here is another file's
            yield whole

    @contextlib.contextmanager
    def _asked(self, url: str, headers: dict[str, str], known: Validators | None = None) -> Iterator[requests.Response]:
        """The response to a GET, its body unread, after redirects. All that can go wrong becomes Unanswered."""
        with contextlib.ExitStack() as stack:
            with _translated():
                response = self._follow(url, headers, known or Validators())
            stack.callback(response.close)
            yield response

    def _follow(self, url: str, headers: dict[str, str], known: Validators) -> requests.Response:
        session = self._session
        request = session.prepare_request(requests.Request("GET", url, headers=headers))
        for _ in range(MAX_REDIRECTS):
            self._set_conditions(request, known)
            settings = session.merge_environment_settings(request.url, {}, True, None, None)
            response = session.send(request, timeout=TIMEOUT, allow_redirects=False, **settings)
            following = response.next
            if following is None:
                return response
            response.close()
            if (request.url or "").startswith("https:") and not (following.url or "").startswith("https:"):
                raise Unanswered("is redirected from https to http: refused")
            request = following
        raise Unanswered(f"is redirected more than {MAX_REDIRECTS} times")

    @staticmethod
    def _set_conditions(request: requests.PreparedRequest, known: Validators) -> None:
        for name, value in (("If-None-Match", known.etag), ("If-Modified-Since", known.modified)):
            request.headers.pop(name, None)
            if value and request.url == known.url:
                request.headers[name] = value


class MakeAdapter(Protocol):
    """`FallbackAdapter`, its configuration given."""

    def __call__(self, *, max_retries: urllib3.Retry) -> BaseAdapter: ...  # pragma: no cover


class Web:
    """Clients for several threads, made when they are needed.

    :param adapter: makes what sends the requests
    """

    def __init__(self, adapter: MakeAdapter, retry: Retry) -> None:
        self._adapter = adapter
        self._retry = retry
        self._lock = threading.Lock()
        self._free: list[Client] = []

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client that nobody else has for so long."""
        with self._lock:
            client = self._free.pop() if self._free else None
        client = client or Client(self._adapter(max_retries=_passes(self._retry.times)), self._retry)
        client.uses += 1
        try:
            yield client
        finally:
            if client.uses < USES:
                with self._lock:
                    self._free.append(client)
            else:
                client.close()

    def close(self) -> None:
        """Close every connection; what is asked later opens new ones."""
        with self._lock:
            clients, self._free = self._free, []
        for client in clients:
            client.close()


def _passes(times: int) -> urllib3.Retry:
    """What tells the engine how often to repeat, and keeps urllib3 from it: that would sleep out any Retry-After."""
    return urllib3.Retry(total=times, connect=0, read=False, status=0, other=0, respect_retry_after_header=False)


def _expect(response: requests.Response, *statuses: int) -> None:
    """Raises Unanswered for any other status."""
    status = response.status_code
    if status in statuses:
        return
    wait = response.headers.get("Retry-After", "").strip()
    known = {404: "there is no such page", 410: "it is gone", 401: "it wants credentials", 403: "it refuses"}
    hint = known.get(status, response.reason or "")
    raise Unanswered(
        f"answered {status} ({hint})" if hint else f"answered {status}",
        status,
        again=status in _TRANSIENT or status >= 500,
        wait=float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0,
    )


def _whole(response: requests.Response) -> bytes:
    body = bytearray()
    with _translated():
        for chunk in response.iter_content(CHUNK):
            body += chunk
            if len(body) > MAX_PAGE:
                raise Unanswered(f"is a page of more than {MAX_PAGE >> 20} MiB")
        length = _length(response)
        if length is not None and response.raw.tell() != length:
            raise Unanswered(f"stopped after {response.raw.tell()} of {length} bytes", again=True)
    return bytes(body)


def _length(response: requests.Response) -> int | None:
    """The body's length on the wire, where it was announced."""
    said = response.headers.get("Content-Length", "").strip()
    framed = re.fullmatch(r"[0-9]{1,18}", said) and "Transfer-Encoding" not in response.headers
    return int(said) if framed else None


def _part(response: requests.Response, start: int) -> Part:
    """What `response` has of a file of which the bytes from `start` on were asked for."""
    _expect(response, *((200, 206) if start else (200,)))
    length = _length(response)
    if response.status_code == 200:
        return Part(0, length, _chunks(response, length))
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != start:
        raise Unanswered("answered with another part than asked for")
    total = int(match[2]) if match[2] != "*" else None
    return Part(start, total, _chunks(response, length))


def _chunks(response: requests.Response, length: int | None) -> Iterator[bytes]:
    """The body as it comes on the wire, however it is encoded: that is what hashes are of."""
    received = 0
    with _translated():
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            received += len(chunk)
            yield chunk
        if length is not None and received != length:
            raise Unanswered(f"stopped after {received} of {length} bytes", again=True)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """requests' and urllib3's exceptions as Unanswered, or as Mismatch where the engine saw a wrong hash itself."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:  # ValueError: no good URL
        ours = _ours(exc)
        if isinstance(ours, HashMismatch):
            raise Mismatch(ours.expected, ours.got[-1][1] if ours.got else "another hash") from exc
        if isinstance(ours, AllEndpointsFailed):
            raise Unanswered(_final(ours)) from exc
        raise Unanswered(f"gave no usable answer: {ours or exc}", again=not isinstance(exc, ValueError)) from exc


def _ours(exc: BaseException) -> CdnFallbackError | None:
    """The engine's own error behind what requests made of it."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, CdnFallbackError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _final(error: AllEndpointsFailed) -> str:
    """All attempts in one line, the last of them in full."""
    count = len(error.attempts)
    last = f", the last: {error.attempts[-1]}" if error.attempts else ""
    return f"no usable answer after {count} attempt{'' if count == 1 else 's'}{last} {error.hint}".rstrip()


def _header(value: str) -> str:
    """A header's value that may be sent back; empty for one that had better not be."""
    return value if len(value) <= 512 and value.isprintable() and value.isascii() else ""
