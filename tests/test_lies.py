"""Servers that lie, one test for each lie: the honest copy's bytes come, or a clean error, and never the liar's.

Over requests and urllib3, on the simulated network of `tests.wires`.
"""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
import requests

from cdn_fallback.errors import AllEndpointsFailed, HashMismatch
from cdn_fallback.pages import MAX_DECODED
from cdn_fallback.verdicts import TROUBLES, Attempt, Trouble, Verdict
from tests.rig.faults import HugePage, Redirect, Refuse, ResetMidway
from tests.rig.messages import Answer, Request, ranged
from tests.rig.sample import FILE, PAGE, SITE, B
from tests.rig.site import JSON, PLAIN_HTML
from tests.wires import Client, Host, Network, Piece, Script, ours

LIAR, GOOD = "https://liar.example/", "https://good.example/"
URL = {"page": LIAR + PAGE[1:], "file": LIAR + FILE[1:]}
PAGE_BOUND = 30.0  # s, docs/concepts.md

# What is found of a lie: the trouble, or only the verdict. FINE is no lie at all.
Finding = Trouble | Verdict
FINE = Verdict.ANSWER
Tell = Callable[[Answer], Iterable[Piece]]


@dataclass(frozen=True)
class Lie:
    """What is sent in place of an honest answer, and what is to be found of it in a page and in a file.

    :param page: ``None`` where it is no lie for pages; `file` likewise
    :param types: the media types that the liar knows
    """

    name: str
    tell: Tell
    page: Finding | None
    file: Finding | None
    types: tuple[str, ...] = SITE.types

    def __str__(self) -> str:
        return self.name


def head(answer: Answer, *headers: str, status: str = "200 OK", length: int | None = -1) -> bytes:
    """A head with an honest answer's headers and `headers`; `length` is of its body (-1), another, or none."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in answer.headers), *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(answer.body) if length < 0 else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def instead(data: bytes, *rest: Piece) -> Tell:
    """Exactly these bytes, then the end (or `rest`)."""
    return lambda answer: [data, *(rest or [b""])]


def says(*headers: str, status: str = "200 OK", length: int | None = -1) -> Tell:
    """The honest body under a head that is not."""
    return lambda answer: [head(answer, *headers, status=status, length=length), answer.body, b""]


def longer(by: int) -> Tell:
    """A length that is wrong by so much, and all of the body."""
    return lambda answer: [head(answer, length=len(answer.body) + by), answer.body, b""]


def chunks(line: bytes) -> Tell:
    """A first chunk that is honest, and a second one that begins with `line`."""

    def tell(answer: Answer) -> Iterable[Piece]:
        first, second = answer.body[:100], answer.body[100:]
        data = b"64\r\n%b\r\n%b\r\n%b\r\n0\r\n\r\n" % (first, line, second)
        return [head(answer, "Transfer-Encoding: chunked", length=None), data, b""]

    return tell


def chunked(*headers: str) -> Tell:
    """The honest body in one chunk, under a head that may not be honest."""

    def tell(answer: Answer) -> Iterable[Piece]:
        data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(answer.body), answer.body)
        return [head(answer, "Transfer-Encoding: chunked", *headers, length=None), data, b""]

    return tell


def coded(encoding: str, code: Callable[[bytes], bytes]) -> Tell:
    """A body in an encoding, as `code` makes it."""

    def tell(answer: Answer) -> Iterable[Piece]:
        answer = replace(answer, body=code(answer.body))
        return [head(answer, f"Content-Encoding: {encoding}"), answer.body, b""]

    return tell


def bomb(answer: Answer) -> Iterable[Piece]:
    huge = HugePage(MAX_DECODED + 1).content(Request("GET", PAGE), answer)
    return [head(huge), huge.body, b""]


def typed(media_type: str, *, but: Callable[[bytes], bytes] = lambda body: body) -> Tell:
    """The body that `but` makes of it, as `media_type`."""

    def tell(answer: Answer) -> Iterable[Piece]:
        answer = replace(answer, body=but(answer.body)).with_headers(("Content-Type", media_type))
        return [head(answer), answer.body, b""]

    return tell


def with_latin(body: bytes) -> bytes:
    """A page in which a name has an e acute, as Latin-1 writes it."""
    return body.replace(b"demo-b", b"d\xe9mo-b").replace(b"Demo_B", b"D\xe9mo_B")


def drip(start: bytes, again: bytes) -> Tell:
    """`start`, then `again` each second, for ever."""
    return lambda answer: itertools.chain([start], itertools.cycle([1.0, again]))


def flood(again: bytes) -> Tell:
    """`again` each millisecond, for ever."""
    return lambda answer: itertools.cycle([0.001, again])


OK = b"HTTP/1.1 200 OK\r\n"

LIES = [
    Lie("length-too-long", longer(10), Trouble.CUT, Trouble.CUT),
    Lie("length-too-long-and-open", lambda a: [*longer(10)(a)][:-1], Trouble.SLOW, Trouble.SLOW),
    Lie("length-too-short", longer(-10), Trouble.KIND, Trouble.HASH),
    Lie("two-lengths", says("Content-Length: 5"), Trouble.LOST, Trouble.LOST),
    Lie("two-lengths-in-one", says("Content-Length: 5, 6", length=None), Trouble.LOST, Trouble.LOST),
    Lie("the-same-length-twice", lambda a: [head(a, f"Content-Length: {len(a.body)}"), a.body, b""], FINE, FINE),
    Lie("no-number-of-bytes", says("Content-Length: -1", length=None), Trouble.LOST, Trouble.LOST),
    Lie("length-beside-chunks", chunked("Content-Length: 5"), FINE, FINE),
    Lie("chunk-garbage", chunks(b"<html>"), Trouble.CUT, Trouble.CUT),
    Lie("chunk-negative", chunks(b"-5"), Trouble.CUT, Trouble.CUT),
    Lie("chunk-huge", chunks(b"F" * 16), Trouble.CUT, Trouble.CUT),
    Lie("chunk-without-size", chunks(b""), Trouble.CUT, Trouble.CUT),
    Lie("chunk-line-endless", chunks(b"1;" + b"x" * 70_000), Trouble.LOST, Trouble.LOST),
    Lie("part-unasked", says("Content-Range: bytes 0-9/10", status="206 Partial"), Verdict.BROKEN, Verdict.BROKEN),
    Lie("not-modified-unasked", instead(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Verdict.BROKEN, Verdict.BROKEN),
    Lie("101-headers", says(*["X-Much: x"] * 101), Trouble.LOST, Trouble.LOST),
    Lie("header-of-65-KiB", says("X-Long: " + "x" * 65 * 1024), Trouble.LOST, Trouble.LOST),
    Lie("header-that-drips", drip(OK + b"X-Long: ", b"x"), Trouble.SILENT, Trouble.SILENT),
    Lie("headers-that-drip", drip(OK, b"X-Much: x\r\n"), Trouble.SILENT, Trouble.SILENT),
    Lie("100-continue-for-ever", flood(b"HTTP/1.1 100 Continue\r\n\r\n"), Trouble.SILENT, Trouble.SILENT),
    Lie("escape-in-a-header", says("X-Evil: \x1b[31m"), Trouble.LOST, Trouble.LOST),
    Lie("nul-in-a-header", says("X-Evil: a\x00b"), Trouble.LOST, Trouble.LOST),
    # a bare CR is an end of line to some (RFC 9112, section 2.2): here it hides a second length
    Lie("cr-in-a-header", says("X-Evil: a\rContent-Length: 5", length=None), Trouble.LOST, Trouble.LOST),
    Lie("cr-in-a-harmless-header", says("X-Evil: a\rb"), Trouble.LOST, Trouble.LOST),
    Lie("escape-in-the-reason", says(status="200 \x1b[31mOK"), Trouble.LOST, Trouble.LOST),
    Lie("nul-in-the-reason", says(status="200 O\x00K"), Trouble.LOST, Trouble.LOST),
    Lie("cr-in-the-reason", says(status="200 O\rK"), Trouble.LOST, Trouble.LOST),
    Lie("gzip-cut", coded("gzip", lambda body: gzip.compress(body)[:-9]), Trouble.KIND, Trouble.HASH),
    Lie("gzip-and-garbage", coded("gzip", lambda body: gzip.compress(body) + b"more"), Trouble.KIND, Trouble.HASH),
    Lie("gzip-that-is-none", coded("gzip", lambda body: body), Trouble.KIND, None),
    Lie("gzip-unasked", coded("gzip", gzip.compress), None, Trouble.HASH),
    Lie("br-unasked", coded("br", lambda body: body), Trouble.KIND, None),
    Lie("gzip-bomb", bomb, Trouble.SIZE, None),
    Lie("html-utf-16", typed("text/html; charset=utf-16"), Trouble.KIND, None, (PLAIN_HTML,)),
    Lie("html-no-such-charset", typed("text/html; charset=x-none"), Trouble.KIND, None, (PLAIN_HTML,)),
    Lie("html-not-utf-8", typed("text/html; charset=utf-8", but=with_latin), Trouble.KIND, None, (PLAIN_HTML,)),
    Lie("html-not-utf-8-unsaid", typed("text/html", but=with_latin), Trouble.KIND, None, (PLAIN_HTML,)),
    Lie("html-maintenance", typed("text/html", but=lambda body: b"<html>Back soon</html>"), Trouble.EMPTY, None),
    Lie("json-utf-16", typed(f"{JSON}; charset=utf-16"), Trouble.KIND, None),
    Lie("json-no-such-charset", typed(f"{JSON}; charset=x-none"), Trouble.KIND, None),
    Lie("json-not-utf-8", typed(JSON, but=with_latin), Trouble.KIND, None),
    Lie("http-0.9", instead(b"<html>hello</html>\n"), Trouble.LOST, Trouble.LOST),
    Lie("not-http", instead(b"\x16\x03\x01\x00\xff" * 100), Trouble.LOST, Trouble.LOST),
    Lie("no-status", says(status=""), Trouble.LOST, Trouble.LOST),
    Lie("status-in-words", says(status="OK 200"), Trouble.LOST, Trouble.LOST),
    Lie("status-099", says(status="099 Low"), Trouble.LOST, Trouble.LOST),
    Lie("status-1000", says(status="1000 High"), Trouble.LOST, Trouble.LOST),
    Lie("status-999", says(status="999 Denied"), Verdict.TRANSIENT, Verdict.TRANSIENT),
    Lie("no-content-but-a-body", says(status="204 No Content", length=None), Trouble.KIND, Verdict.BROKEN),
    Lie("status-299", lambda a: [head(a, status="299 Odd", length=5), b"hello", b""], Trouble.KIND, Verdict.BROKEN),
    Lie("closed-before-the-head", instead(b"", b""), Trouble.LOST, Trouble.LOST),
    Lie("closed-in-the-status", instead(b"HTTP/1.1 20"), Trouble.LOST, Trouble.LOST),
    Lie("closed-in-the-head", instead(OK + f"Content-Type: {JSON}\r\nX-".encode()), Trouble.LOST, Trouble.LOST),
    Lie("silent-in-the-head", instead(OK + b"X-", math.inf), Trouble.SILENT, Trouble.SILENT),
]

CASES = [
    pytest.param(kind, lie, finding, id=f"{kind}-{lie}")
    for lie in LIES
    for kind, finding in (("page", lie.page), ("file", lie.file))
    if finding is not None
]


def script(lie: Lie) -> Script:
    """A server that tells `lie` whatever is asked."""
    site = replace(SITE, types=lie.types)
    return lambda request: lie.tell(site.answer(request))


def among(*hosts: tuple[str, Host], alone: bool = False) -> Client:
    """Asks these hosts in their order, the index among them, and then an honest origin, unless that is down."""
    origin = Host(SITE, "192.0.2.99")
    if alone:
        origin.fault(Refuse())
    bases = [f"https://{name}.example/" for name, _ in hosts]
    names = {f"{name}.example": [host] for name, host in (*hosts, ("good", origin))}
    names |= dict.fromkeys(STRANGERS, names["liar.example"])
    return Client(Network(names), index=LIAR, cdn=" ".join(bases), origin=GOOD)


def fetched(client: Client, kind: str) -> bytes:
    """What comes in the end."""
    if kind == "file":
        return client.file(URL["file"], B.sha256)[1]
    page = client.page(URL["page"])
    page.raise_for_status()
    assert page.text and (not page.headers["Content-Type"].startswith(JSON) or page.json()["name"] == "demo-b")
    return page.content


HONEST = {"page": SITE.answer(Request("GET", PAGE, (("Accept", JSON),))).body, "file": B.content}


def found(client: Client, base: str = LIAR) -> Attempt:
    """The first word on an endpoint that is no answer, or else the last one."""
    attempts = [attempt for attempt in client.noticed if attempt.endpoint.base == base]
    return next((attempt for attempt in attempts if attempt.verdict is not Verdict.ANSWER), attempts[-1])


def assert_found(attempt: Attempt, finding: Finding) -> None:
    if isinstance(finding, Trouble):
        assert (attempt.trouble, attempt.verdict) == (finding, TROUBLES[finding]), str(attempt)
    else:
        assert attempt.verdict is finding, str(attempt)
    assert str(attempt).isprintable()


def refusal(client: Client, kind: str) -> AllEndpointsFailed | HashMismatch:
    """The clean error with which it ends."""
    with pytest.raises(requests.RequestException) as caught:
        fetched(client, kind)
    streamed = requests.exceptions.ChunkedEncodingError  # so requests calls what happens while a stream is read
    assert type(caught.value) in (requests.ConnectionError, streamed)
    assert kind == "file" or type(caught.value) is not streamed
    error = ours(caught.value)
    assert isinstance(error, (AllEndpointsFailed, HashMismatch))
    assert all(line.isprintable() for line in str(error).splitlines())
    return error


def assert_in_time(client: Client, kind: str) -> None:
    bound = PAGE_BOUND if kind == "page" else client.file_bound()
    assert client.network.clock.now - 1000 <= bound


@pytest.mark.parametrize(("kind", "lie", "finding"), CASES)
def test_a_liar_beside_an_honest_copy(kind: str, lie: Lie, finding: Finding) -> None:
    client = among(("liar", Host(SITE, "192.0.2.1", script=script(lie))))

    assert fetched(client, kind) == HONEST[kind]

    assert_found(found(client), finding)
    assert_in_time(client, kind)
    if finding is FINE:
        assert {attempt.endpoint.base for attempt in client.noticed} == {LIAR}


# The origin may well have a page without files.
LIES_OF_AN_ORIGIN = [case for case in CASES if case.values[2] not in (FINE, Trouble.EMPTY)]


@pytest.mark.parametrize(("kind", "lie", "finding"), LIES_OF_AN_ORIGIN)
def test_a_liar_alone(kind: str, lie: Lie, finding: Finding) -> None:
    client = Client(Network({"liar.example": [Host(SITE, "192.0.2.1", script=script(lie))]}), index=LIAR)

    error = refusal(client, kind)

    assert_found(found(client), finding)
    assert isinstance(error, HashMismatch if finding is Trouble.HASH else AllEndpointsFailed)
    assert_in_time(client, kind)


# -- Parts


def part(content_range: str, *more: str, status: str = "206 Partial Content", framed: bool = True) -> Tell:
    """An honest part under a head that is not; `{start}`, `{last}` and `{size}` tell what it is."""

    def tell(answer: Answer) -> Iterable[Piece]:
        size = len(B.content)
        start, last = size - len(answer.body), size - 1
        said = content_range.format(start=start, last=last, size=size, before=start - 1, last_but_one=last - 1)
        kept = tuple(pair for pair in answer.headers if pair[0] != "Content-Range")
        lines = [*([f"Content-Range: {said}"] if said else []), *more]
        return [
            head(replace(answer, headers=kept), *lines, status=status, length=-1 if framed else None),
            answer.body,
            b"",
        ]

    return tell


WHOLE = SITE.answer(Request("GET", FILE))

PARTS = [
    Lie("another-start", part("bytes {before}-{last_but_one}/{size}"), None, Trouble.CUT),
    Lie("the-first-start", part("bytes 0-{last}/{size}"), None, Trouble.CUT),
    Lie("another-total", part("bytes {start}-{last}/9999999"), None, Trouble.LENGTH),
    Lie("an-end-beyond-the-total", part("bytes {start}-{size}/{size}", framed=False), None, Trouble.CUT),
    Lie("an-end-before-the-start", part("bytes {start}-0/{size}", framed=False), None, Trouble.CUT),
    Lie("an-end-that-the-length-belies", part("bytes {start}-{start}/{size}"), None, Trouble.CUT),
    Lie("no-content-range", part(""), None, Trouble.CUT),
    Lie("content-range-in-words", part("bytes all of them"), None, Trouble.CUT),
    Lie("another-unit", part("lines {start}-{last}/{size}"), None, Trouble.CUT),
    Lie("multipart", part("", "Content-Type: multipart/byteranges; boundary=x"), None, Trouble.CUT),
    Lie("a-total-unsaid", part("bytes {start}-{last}/*"), None, FINE),
    Lie("a-part-as-the-whole", part("", status="200 OK"), None, Trouble.LENGTH),
    Lie("the-whole", lambda a: [head(WHOLE), WHOLE.body, b""], None, FINE),
    Lie("the-whole-as-a-part", lambda a: [head(WHOLE, status="206 Partial"), WHOLE.body, b""], None, Trouble.CUT),
    Lie("nothing-there", part("bytes */5", status="416 Range Not Satisfiable"), None, Trouble.LENGTH),
]


def interrupted(lie: Lie, *, alone: bool) -> Client:
    """The first one breaks in the middle of the file; the liar is asked for the rest of it."""

    def tell(request: Request) -> Iterable[Piece] | None:
        return lie.tell(ranged(request, SITE.answer(request))) if request.header("Range") else None

    broken, liar = Host(SITE, "192.0.2.2"), Host(SITE, "192.0.2.1", script=tell)
    broken.fault(ResetMidway())
    return among(("broken", broken), ("liar", liar), alone=alone)


@pytest.mark.parametrize("lie", PARTS, ids=str)
def test_a_liar_that_is_asked_for_a_part(lie: Lie) -> None:
    client = interrupted(lie, alone=False)

    assert fetched(client, "file") == B.content

    assert lie.file is not None
    assert_found(found(client), lie.file)
    assert not client.adapter.transport.promises.condemned(URL["file"])


@pytest.mark.parametrize("lie", [lie for lie in PARTS if lie.file is Trouble.CUT], ids=str)
def test_a_liar_that_alone_has_the_rest(lie: Lie) -> None:
    client = interrupted(lie, alone=True)

    assert isinstance(refusal(client, "file"), AllEndpointsFailed)

    assert_found(found(client), Trouble.CUT)
    assert_in_time(client, "file")


@pytest.mark.parametrize("lie", [lie for lie in PARTS if lie.file is Trouble.LENGTH], ids=str)
def test_a_liar_that_alone_has_the_rest_of_another_file(lie: Lie) -> None:
    """One of the two is wrong about the length: the second try begins with the other, whose whole files are honest."""
    client = interrupted(lie, alone=True)

    assert fetched(client, "file") == B.content

    assert_found(found(client), Trouble.LENGTH)
    assert [attempt for attempt in client.noticed if attempt.endpoint.base == LIAR][-1].verdict is FINE
    assert_in_time(client, "file")


# -- Redirects


MANY = 100_000
STRANGERS = [f"stranger{number}.example" for number in range(100)]

WAYS: dict[str, Callable[[str, int], str]] = {
    "in-place": lambda path, number: f"{path.partition('?')[0]}?{number}",
    "to-another-folder": lambda path, number: f"/{number}/{path.rpartition('/')[2] or 'demo-b/'}",
    "to-another-name": lambda path, number: f"{path.rstrip('/')}-{number}" + "/" * path.endswith("/"),
    "to-another-spelling": lambda path, number: path.replace("-b", "--b").replace("_b", "__b"),
    "to-a-longer-path": lambda path, number: f"/simple{path}",
    "round-and-round": lambda path, number: f"{path.partition('?')[0]}?{number % 2}",
    "to-itself": lambda path, number: path,
    "to-plain-http": lambda path, number: f"http://liar.example{path}?{number}",
    "to-no-place": lambda path, number: f"https://[::{number}",
    "to-nothing": lambda path, number: "",
}


def redirecting(way: str) -> Host:
    """A server that redirects for ever, each time anew."""
    numbers = iter(range(MANY))
    to = WAYS[way]
    host = Host(SITE, "192.0.2.1")
    host.fault(Redirect(lambda request: to(request.path, next(numbers))))
    return host


# What a copy says of another URL waits until the others were asked (docs/adr/0021): then it is no trouble.
HEARSAY = {
    "page": {"to-another-folder", "to-another-name", "to-another-spelling", "to-a-longer-path"},
    "file": {"to-another-folder", "to-a-longer-path"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["page", "file"])
def test_redirects_without_end_beside_an_honest_copy(kind: str, way: str) -> None:
    client = among(("liar", redirecting(way)))

    assert fetched(client, kind) == HONEST[kind]

    assert_found(found(client), FINE if way in HEARSAY[kind] else Trouble.REDIRECT)
    assert_in_time(client, kind)
    assert {asked.site[0] for asked in client.network.asked} == {"https"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["page", "file"])
def test_redirects_without_end_alone(kind: str, way: str) -> None:
    client = Client(Network({"liar.example": [redirecting(way)]}), index=LIAR)

    assert isinstance(refusal(client, kind), AllEndpointsFailed)

    assert_found(found(client), Trouble.REDIRECT)
    assert len(client.network.asked) < 100
    assert_in_time(client, kind)


def leading_astray() -> Host:
    """A server that redirects for ever, each time to a host that nobody declared; all of them are this one."""
    numbers = iter(range(MANY))
    host = Host(SITE, "192.0.2.1")
    host.fault(Redirect(lambda request: f"https://{STRANGERS[next(numbers)]}{request.path}"))
    return host


@pytest.mark.parametrize("kind", ["page", "file"])
def test_redirects_without_end_to_strangers_beside_an_honest_copy(kind: str) -> None:
    client = among(("liar", leading_astray()))

    assert fetched(client, kind) == HONEST[kind]

    assert_found(found(client), FINE)
    assert {asked.site[1] for asked in client.network.asked} == {"liar.example", "good.example"}


@pytest.mark.parametrize("kind", ["page", "file"])
def test_redirects_without_end_to_strangers_alone(kind: str) -> None:
    """What leaves the pool is the tool's own business, but not without end."""
    client = among(("liar", leading_astray()), alone=True)

    error = refusal(client, kind)

    assert isinstance(error, AllEndpointsFailed)
    assert error.attempts[-1].trouble is Trouble.REDIRECT
    assert len(client.network.asked) < 100
    assert_in_time(client, kind)
