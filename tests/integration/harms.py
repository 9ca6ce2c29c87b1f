"""What can be wrong with a scene, and who is asked then: what the tables of failures of pip and buildout share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.rig.dists import wheel
from tests.rig.faults import Fault, Truncate
from tests.rig.messages import Kind, Request
from tests.rig.names import broken_resolver
from tests.rig.sample import PAGE, B
from tests.rig.scene import INDEX, Scene
from tests.rig.site import PLAIN_HTML, Site

# --- what harms a scene ---

Harm = Callable[[Scene], None]


@dataclass(frozen=True)
class Every:
    """Every server of some groups has the fault, each for so many requests."""

    who: str
    fault: Fault
    on: Kind | None = None
    times: int | None = None

    def __call__(self, pool: Scene) -> None:
        for group in self.who.split():
            pool.fault(group, self.fault, on=self.on, times=self.times)


def first(who: str, fault: Fault, on: Kind, times: int | None = None) -> Harm:
    """The server of a group that is asked first has it."""
    return lambda pool: pool.fault_first(who, fault, on=on, times=times)


def once(who: str, fault: Fault, on: Kind) -> Harm:
    """The first request to a group meets it."""
    return first(who, fault, on, times=1)


def before_the_file(who: str, fault: Fault) -> Harm:
    """A group has it from the moment in which the file is asked for."""
    return lambda pool: pool.fault_later(who, fault, before="file")


def resolver(how: Literal["fails", "silent"]) -> Harm:
    """The index's name does not resolve."""
    return lambda pool: pool.environment.update(broken_resolver(pool.folder, INDEX, how))


# Two releases in plain HTML, and how much of the page comes before the link to the newer one.
RELEASES = Site((wheel("demo-b", "0.9"), B), types=(PLAIN_HTML,))
_PAGE = RELEASES.answer(Request("GET", PAGE)).body
OLDER = (_PAGE.rindex(b"<a ") + 0.5) / len(_PAGE)


@dataclass(frozen=True)
class Releases:
    """The CDN's page of two releases, of which the newer one is cut away."""

    cut: Truncate

    def __call__(self, pool: Scene) -> None:
        for server in (*pool.group("cdn"), *pool.group("origin")):
            server.content = RELEASES
        pool.fault("cdn", self.cut, on="page")


# --- what comes of it ---


@dataclass(frozen=True)
class Failure:
    """What is wrong, and what comes of it.

    `pages` and `files` say how many requests for the page and for the file each role got, over all its
    addresses; SOMEBODY where that hangs on what was demoted meanwhile, and so on how busy the machine is. `said`
    is in the warning of the failover, and without it there is no warning.
    """

    name: str
    harm: Harm
    pages: dict[str, int]
    files: dict[str, int] | None
    said: str = ""
    schemes: tuple[str, ...] = ("http", "https")

    def check_requests(self, pool: Scene, output: str) -> None:
        """AssertionError, with `output`, for a request too many or too few."""
        story = f"{pool.asked()}\n{output}"
        pages, files = pool.counted("page"), pool.counted("file")
        assert pages == self.pages, f"{pages} for {self.pages}: {story}"
        expected = dict.fromkeys(files, 1) if self.files is SOMEBODY else self.files
        assert files == expected, f"{files} for {expected}: {story}"
        for server in pool.group(""):
            failed = [request.path for request in server.requests if request.fault]
            assert len(failed) == len(set(failed)), f"asked again for what had failed: {story}"
        if isinstance(self.harm, Every) and self.harm.fault.needs_tls:
            for who in self.harm.who.split():
                # at most once for each of the page, the metadata and the file
                assert all(1 <= server.connections <= 3 for server in pool.group(who)), story


SOMEBODY = None
CDN = {"cdn": 1}
ORIGIN = {"origin": 1}
WELL = {"redirector": 1, "cdn": 1}
LED_ON = {"redirector": 1, "origin": 1}  # from the redirector to a CDN that gets no request
EACH = {"redirector": 1, "cdn": 1, "origin": 1}
EACH_CDN = {"redirector": 1, "cdn": 2, "origin": 1}  # each of its addresses
EACH_ADDRESS = {"redirector": 3, "cdn": 2, "origin": 1}

ALL = "redirector cdn"  # all but the origin
CUT, CUT_CHUNKS, CUT_UNSEEN = Truncate(0.5), Truncate(0.5, "chunked"), Truncate(0.5, "close")
UNCONNECTED, BROKEN_OFF, NOT_WHOLE = "did not connect", "broke the connection off", "stopped after"
