"""What holds of every install, whatever is wrong with whom: over requests and urllib3, on a simulated network.

An install is what pip does: it asks for the project's page, chooses the file, and reads that to its end.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import urljoin

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdn_fallback.errors import AllEndpointsFailed, HashMismatch
from cdn_fallback.pool import without_credentials
from cdn_fallback.verdicts import Verdict
from tests.rig.dists import wheel
from tests.rig.faults import (
    Blackhole,
    Body,
    Close,
    Corrupt,
    CutPage,
    Drip,
    Fault,
    Instead,
    LoginPage,
    NoRange,
    RawBytes,
    Redirect,
    Refuse,
    Reset,
    ResetMidway,
    Silent,
    Stall,
    Status,
    TLSGarbage,
    TLSHang,
    TLSReset,
    Truncate,
    UnknownCA,
    WrongCertificate,
    WrongContentRange,
)
from tests.rig.messages import Answer, Content, Request
from tests.rig.site import Redirector, Site
from tests.wires import ACCEPT, Client, Host, Network, ours

quick = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of failovers would hide the one example that matters."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# -- What there is

WHEEL = wheel("demo-b", "1.0", padding=40_000)
FORGED = wheel("demo-b", "1.0", padding=39_000)
CURRENT, STALE = Site.of(WHEEL, serial=7), Site.of(wheel("demo-b", "0.9"), serial=3)
FORGERY, FOREIGN = Site.of(FORGED, serial=2), Site.of(wheel("another"), serial=9)
PAGE = "/simple/demo-b/"


def page_of(site: Site) -> bytes:
    return site.answer(Request("GET", PAGE, (("Accept", ACCEPT),))).body


# -- Who is there. The mirror has a password of its own, and so has the index.

HOSTS = {name: f"{name}.example" for name in ("index", "cdn", "mirror", "origin", "stranger")}
BASES = {name: f"https://{host}/" for name, host in HOSTS.items()}
SPELLED = "https://me:index-secret@index.example/"
MIRROR = "https://us:mirror-secret@mirror.example/"
CANONICAL = BASES["index"] + PAGE[1:]
WALK = 30.0  # s, for one request of the tool's, until a page is read or a file's bytes flow (docs/concepts.md)


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


PASSWORD = {"Authorization": basic("me:index-secret"), "Proxy-Authorization": "proxy-secret"}
PRIVATE = ("authorization", "proxy-authorization", "cookie")
OWNERS = {
    basic("me:index-secret"): "index.example",
    basic("us:mirror-secret"): "mirror.example",
    "proxy-secret": "index.example",
    "session=index-secret": "index.example",
} | {f"from={host}": host for host in HOSTS.values()}

# -- What may be wrong

DOWN: dict[str, Fault] = {
    "refuses": Refuse(),
    "blackhole": Blackhole(),
    "closes": Close(),
    "resets": Reset(),
    "TLS hangs": TLSHang(),
    "TLS resets": TLSReset(),
    "TLS garbage": TLSGarbage(),
    "wrong certificate": WrongCertificate(),
    "unknown CA": UnknownCA(),
}


@dataclass(frozen=True)
class Says(Fault):
    """One header more."""

    name: str
    value: str

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, headers=(*answer.headers, (self.name, self.value)))


class Behind:
    """A copy whose pages are older than its files."""

    def answer(self, request: Request) -> Answer:
        return (STALE if request.kind == "page" else CURRENT).answer(request)


class Signed(NamedTuple):
    """A content that leaves a cookie of its host."""

    content: Content
    host: str

    def answer(self, request: Request) -> Answer:
        return self.content.answer(request).with_headers(("Set-Cookie", f"from={self.host}; Path=/"))


class Oozes(Fault):
    """A whole answer, for whoever has so many seconds."""

    seconds = 60.0

    def wire(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, rate=max(1.0, len(answer.body) / self.seconds))


# Whoever has one of these gives no answer, or none that anybody would take for one.
BREAKING: dict[str, Fault] = {
    "500": Status(500),
    "503": Status(503),
    "503, later": Status(503, (("Retry-After", "20"),)),
    "429, tomorrow": Status(429, (("Retry-After", "86400"),)),
    "999": Status(999),
    "304": Status(304, body=b""),
    "206": Status(206, (("Content-Range", "bytes 5-9/10"),), b"hello"),
    "silent": Silent(),
    "closes unasked": Close(),
    "resets when asked": Reset(),
    "truncated": Truncate(0.5),
    "truncated chunks": Truncate(0.5, "chunked"),
    "nothing comes": Truncate(0.0),
    "stalls": Stall(0.5),
    "stalls at once": Stall(0.0),
    "reset midway": ResetMidway(0.7),
    "drips": Drip(3_000),
    "oozes": Oozes(),
    "login page": LoginPage(),
    "not HTTP": RawBytes(b"220 mail.invalid ESMTP\r\n"),
    "two lengths": Says("Content-Length", "5"),
    "escape sequences": Says("X-Evil", "\x1b[2J"),
    "redirects to itself": Redirect("{path}"),
    "redirects to plain http": Redirect("http://cdn.example{path}"),
    "redirects to no place": Redirect("https://[::1"),
    "no ranges": NoRange(),
    "another part": WrongContentRange(shift=1),
    "another total": WrongContentRange(shift=0, grow=1),
    "old pages": Instead(Behind()),
}
# The word of a copy, not of one of its addresses: none of the others is asked then.
SETTLING: dict[str, Fault] = {
    "401": Status(401, (("WWW-Authenticate", "Basic"),)),
    "403": Status(403),
    "redirects to the cdn": Redirect("https://cdn.example{path}"),
    "redirects to the mirror": Redirect("https://mirror.example{path}"),
    "redirects to the origin": Redirect("https://origin.example{path}"),
}
# Said by the origin, these are final: it does not have it, or has it elsewhere.
FINAL: dict[str, Fault] = {
    "404": Status(404),
    "410": Status(410),
    "400": Status(400),
    "416": Status(416, (("Content-Range", "bytes */5"),)),
    "stale": Instead(STALE),
    "another index": Instead(FOREIGN),
    "redirects to an error page": Redirect("/error.html"),
}
# A file with a wrong hash is known for that at its end only.
FORGING: dict[str, Fault] = {
    "corrupt": Corrupt(),
    "other bytes": Body(b"no wheel"),
    "nothing": Body(b""),
    "cut": CutPage(0.5),
    "cut without length": Truncate(0.5, "close"),
    "another file": Instead(FORGERY),
}
# Out of the pool only a redirector, or the origin, leads at once.
LEADING_AWAY: dict[str, Fault] = {
    "redirects to a stranger": Redirect("https://stranger.example{path}"),
    "redirects to nobody": Redirect("https://nobody.example{path}"),
}
FAULTS = DOWN | BREAKING | SETTLING | FINAL | FORGING | LEADING_AWAY


@dataclass(frozen=True)
class Ill:
    """What is wrong with an address: faults together, with what requests, and how many times (None: always)."""

    faults: tuple[str, ...]
    on: str = "any"
    times: int | None = None

    def infect(self, host: Host) -> None:
        faults = [FAULTS[name] for name in self.faults]
        host.fault(*faults, on=None if self.faults[0] in DOWN else self.on, times=self.times)


WELL = None
Addresses = tuple[Ill | None, ...]


@dataclass(frozen=True)
class Scene:
    """Who has which addresses in which state; one without any does not resolve, one in `mute` not even that.

    :param leads_to: where the index redirects to
    :param spelled: whether the tool's password stands in the URL of the page; requests then has no cookies for it
    """

    index: Addresses = ()
    cdn: Addresses = ()
    mirror: Addresses = ()
    origin: Addresses = ()
    leads_to: str = "cdn"
    mute: frozenset[str] = frozenset()
    retries: int = 1
    spelled: bool = False

    def client(self) -> Client:
        """That asks for what is there, having seen the current page before."""
        contents: dict[str, Content] = dict.fromkeys(HOSTS, CURRENT)
        contents |= {"index": Redirector(BASES[self.leads_to]), "stranger": FORGERY}
        states = {name: getattr(self, name, (WELL,)) for name in HOSTS}
        names: dict[str, list[Host]] = {}
        for row, (name, ills) in enumerate(states.items()):
            content = Signed(contents[name], HOSTS[name])
            names[HOSTS[name]] = [Host(content, f"192.0.{row}.{number}") for number in range(len(ills))]
            for host, ill in zip(names[HOSTS[name]], ills, strict=True):
                if ill is not WELL:
                    ill.infect(host)
        network = Network(names, frozenset(HOSTS[name] for name in self.mute))
        bases = {"index": BASES["index"], "cdn": BASES["cdn"], "mirrors": MIRROR, "origin": BASES["origin"]}
        client = Client(network, retries=self.retries, **bases)
        client.session.cookies.set("session", "index-secret", domain="index.example", path="/")
        client.adapter.transport.health.saw_serial(CANONICAL, CURRENT.serial)
        return client


def states(*kinds: Mapping[str, Fault]) -> st.SearchStrategy[Addresses]:
    """Up to three addresses, each well or with a fault of these kinds or with two, lasting or passing."""
    times = st.sampled_from([None, 1, 2])
    down = st.builds(Ill, st.sampled_from([(name,) for name in DOWN]), st.just("any"), times)
    requests = [name for kind in kinds for name in kind]

    def ill(names: list[str]) -> st.SearchStrategy[Ill]:
        # a page with other bytes is another page: nobody could tell
        on = ["file"] if FORGING.keys() & names else ["any", "page", "file"]
        return st.builds(Ill, st.just(tuple(names)), st.sampled_from(on), times)

    one_or_two = st.lists(st.sampled_from(requests), min_size=1, max_size=2, unique=True).flatmap(ill)
    state = st.sampled_from([st.none(), down, one_or_two, one_or_two]).flatmap(lambda kind: kind)
    return st.lists(state, max_size=3).map(tuple)


def scenes(
    index: st.SearchStrategy[Addresses], copies: st.SearchStrategy[Addresses], origin: st.SearchStrategy[Addresses]
) -> st.SearchStrategy[Scene]:
    return st.builds(
        Scene,
        index,
        copies,
        copies,
        origin,
        st.sampled_from(["cdn", "mirror", "origin", "index"]),
        st.frozensets(st.sampled_from(["index", "cdn", "mirror", "origin"]), max_size=2),
        st.sampled_from([1, 0, 5]),
        st.booleans(),
    )


anything = scenes(*[states(BREAKING, SETTLING, FINAL, FORGING, LEADING_AWAY)] * 3)


def with_files(addresses: Addresses) -> Addresses:
    """The same, but whoever answers has its files."""
    return tuple(ill and (ill if ill.faults[0] in DOWN else replace(ill, on="page")) for ill in addresses)


@st.composite
def with_a_good_copy(draw: st.DrawFn) -> Scene:
    """A copy has a good address. Another one may give out wrong files; then none breaks off, or it would be blamed for
    what it began, too."""
    index, origin = states(BREAKING, SETTLING, FINAL), states(BREAKING, SETTLING)
    scene = draw(scenes(index, states(BREAKING, SETTLING, FINAL, LEADING_AWAY), origin))
    good, forger, _ = draw(st.permutations(["cdn", "mirror", "origin"]))
    copies: dict[str, Any] = {name: getattr(scene, name) for name in ("cdn", "mirror", "origin")}
    addresses = draw(states(BREAKING))
    at = draw(st.integers(0, len(addresses)))
    copies[good] = (*addresses[:at], WELL, *addresses[at:])
    if draw(st.booleans()):
        copies = {name: with_files(addresses) for name, addresses in copies.items()}
        copies[forger] = (Ill((draw(st.sampled_from(list(FORGING))),), "file"), *copies[forger])
    return replace(scene, mute=scene.mute - {good}, **copies)


# -- An install


class Install:
    """What pip makes of a scene: the page and the file that it accepted, or the error with which it ended."""

    page: requests.Response | None = None
    sha256 = ""
    file: tuple[str, bytes] | None = None  # the URL that it came from in the end, and the bytes
    error: requests.RequestException | None = None
    page_requests = 0  # those that the tool made for the page, redirects included

    def __init__(self, scene: Scene) -> None:
        self.client = scene.client()
        self.url = SPELLED + PAGE[1:] if scene.spelled else CANONICAL
        self.took = self.client.adapter.took  # s, of each request of the tool's, until its response was there
        self.times = [self.client.network.clock()]  # at the beginning, with the page, at the end
        try:
            self._run()
        except requests.RequestException as error:
            self.error = error
        self.times.append(self.client.network.clock())

    def _run(self) -> None:
        try:
            page = self.client.page(self.url, **({} if self.url.startswith(SPELLED) else PASSWORD))
        finally:
            self.page_requests = len(self.took)
            self.times.append(self.client.network.clock())
        page.raise_for_status()
        self.page = page
        (entry,) = [entry for entry in page.json()["files"] if entry["filename"].startswith("demo_b-")]
        self.sha256 = entry["hashes"]["sha256"]
        url = without_credentials(urljoin(page.url, entry["url"]))
        self.file = self.client.file(url, self.sha256, **(PASSWORD if is_canonical(url) else {}))


SILENT = (Ill(("silent",)),) * 3


@quick
@given(with_a_good_copy())
@example(Scene(cdn=(Ill(("503, later",)), WELL), mirror=(Ill(("corrupt",), "file"),)))
@example(Scene((WELL,), (Ill(("503, later",), "page", 1), WELL), (Ill(("corrupt",), "file"),)))
@example(Scene(mirror=(Ill(("corrupt",), "file"), WELL)))
@example(Scene(cdn=(Ill(("refuses",)), Ill(("stalls",), "file")), mirror=(WELL,)))
@example(Scene(cdn=(Ill(("refuses",)), Ill(("truncated chunks",), "file")), mirror=(WELL,)))
@example(Scene((WELL,) * 3, (WELL, Ill(("truncated",), "file")), origin=(Ill(("truncated",)),)))
def test_with_one_good_copy_the_install_is_right(scene: Scene) -> None:
    install = Install(scene)
    assert install.error is None, ours(install.error) or install.error
    assert install.page is not None and install.page.content == page_of(CURRENT)
    assert install.file is not None and install.file[1] == WHEEL.content


@quick
@given(anything)
def test_nothing_is_accepted_that_is_not_what_the_index_says(scene: Scene) -> None:
    install = Install(scene)
    if install.page is not None and is_canonical(install.page.url):
        assert install.page.content in [page_of(site) for site in (CURRENT, STALE, FORGERY)]  # an old one is a page
    if install.file is not None and is_canonical(install.file[0]):
        assert hashlib.sha256(install.file[1]).hexdigest() == install.sha256


@quick
@given(anything)
@example(Scene(origin=(Ill(("truncated",), "file"),)))
def test_an_install_that_fails_says_what_happened(scene: Scene) -> None:
    install = Install(scene)
    error = install.error
    if isinstance(error, requests.HTTPError):  # somebody's last word
        assert error.response.status_code >= 400
        return
    streamed = requests.exceptions.ChunkedEncodingError  # so requests calls what happens while a stream is read
    assert error is None or type(error) in (requests.ConnectionError, streamed)
    failure = ours(error)
    assert (error is None) == (failure is None)
    assert "Trouble." not in str(failure)
    if isinstance(failure, AllEndpointsFailed):
        assert failure.attempts and not any(attempt.endpoint.base not in str(failure) for attempt in failure.attempts)
    elif failure is not None:
        assert isinstance(failure, HashMismatch)


@quick
@given(anything)
@example(Scene(origin=(Ill(("oozes",)),)))
@example(Scene(origin=(Ill(("429, tomorrow",)),), retries=5))
@example(Scene(origin=(Ill(("blackhole",)),), retries=5))
@example(Scene(SILENT, SILENT, SILENT, SILENT, retries=5))
def test_time_is_bounded(scene: Scene) -> None:
    install = Install(scene)
    begun, paged, *_, ended = install.times
    assert max(install.took) <= WALK + 1e-6
    assert paged - begun <= WALK * install.page_requests + 1e-6
    # each redirect that the tool follows is a request of its own
    file_requests = len(install.took) - install.page_requests
    assert ended - paged <= install.client.file_bound(Oozes.seconds) * file_requests


@quick
@given(anything)
@example(Scene(index=(Ill(("503",), times=1),), cdn=(WELL,)))
@example(Scene(index=(WELL,), mirror=(WELL,), leads_to="mirror"))
def test_what_is_private_stays_with_its_host_and_nothing_goes_over_http(scene: Scene) -> None:
    for site, _, request in Install(scene).client.network.asked:
        assert site[0] == "https", request
        for name, value in request.headers:
            if name.lower() in PRIVATE:
                assert {OWNERS[part] for part in value.split("; ")} == {site[1]}, request
            else:
                assert "secret" not in value, request
        assert "secret" not in request.path


def is_canonical(url: str) -> bool:
    return without_credentials(url).startswith(BASES["index"])


# -- That what is wrong really happens: else all of the above would hold for nothing

# For whoever has time, and never asks for a part.
HARMLESS = {"no ranges", "another part", "another total", "drips", "oozes"}


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - HARMLESS))
def test_each_fault_keeps_an_install_from_its_only_copy(name: str) -> None:
    install = Install(Scene(cdn=(Ill((name,), "file" if name in FORGING else "any"),), retries=0))
    assert install.file is None or install.file[1] != WHEEL.content


def test_with_nothing_wrong_nothing_fails() -> None:
    well = (WELL, WELL)
    install = Install(Scene(well, well, well, well))
    assert install.file is not None and install.file[1] == WHEEL.content
    assert {attempt.verdict for attempt in install.client.noticed} == {Verdict.ANSWER}
    assert [asked.site[1] for asked in install.client.network.asked] == ["index.example", *["cdn.example"] * 2]
    assert not install.client.network.clock.sleeps
