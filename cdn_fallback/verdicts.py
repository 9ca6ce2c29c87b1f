"""What an attempt's outcome means: the verdicts, as data with their reasons. Pure."""

from __future__ import annotations

import enum
from typing import NamedTuple

from cdn_fallback.errors import printable
from cdn_fallback.pool import Endpoint, Role


class Verdict(str, enum.Enum):
    """What an attempt's outcome means."""

    ANSWER = "answer"  # hand it to the tool
    MISS = "miss"  # this copy does not have it; the origin's word is final
    DENIED = "denied"  # ask elsewhere, keep the reason
    TRANSIENT = "transient"  # the address is at fault: another one
    BROKEN = "broken"  # the endpoint is at fault: another one


class Trouble(str, enum.Enum):
    """What can go wrong on the way to an answer, as an attempt records it."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    SILENT = "silent"
    LOST = "lost"
    SLOW = "slow"
    CUT = "cut"
    KIND = "kind"
    SIZE = "size"
    HASH = "hash"
    STALE = "stale"
    OLD = "old"
    LENGTH = "length"
    EMPTY = "empty"
    REDIRECT = "redirect"


# Classification is data. What ends an attempt before there is a whole answer, and whose fault it is.
TROUBLES: dict[Trouble, Verdict] = {
    Trouble.RESOLVE: Verdict.TRANSIENT,  # a resolver's hiccup
    Trouble.CONNECT: Verdict.TRANSIENT,  # refused, unreachable, timed out
    Trouble.TLS: Verdict.TRANSIENT,  # one node with an old certificate beside good ones
    Trouble.SILENT: Verdict.TRANSIENT,  # connected, then no byte: urllib3 alone never tries another address
    Trouble.LOST: Verdict.TRANSIENT,  # reset, closed, not HTTP
    Trouble.SLOW: Verdict.TRANSIENT,  # stalled or dripping in the middle of a body
    Trouble.CUT: Verdict.BROKEN,  # shorter or longer than said: pip once took half a page for a whole one
    Trouble.KIND: Verdict.BROKEN,  # a login page, cut JSON, another Content-Type
    Trouble.SIZE: Verdict.BROKEN,  # over the cap: 1 MB of gzip took pip to 2 GB
    Trouble.HASH: Verdict.BROKEN,  # not what the index promised
    Trouble.STALE: Verdict.BROKEN,  # an older serial than one already seen (pypi/warehouse#8568)
    Trouble.OLD: Verdict.BROKEN,  # a copy that nobody has renewed for a day: two mirrors of six were months behind
    Trouble.EMPTY: Verdict.MISS,  # an HTML page without a file: "down for maintenance", or a project without any
    Trouble.LENGTH: Verdict.MISS,  # not as long as where the file was begun: who is wrong will be told by the hash
    Trouble.REDIRECT: Verdict.BROKEN,  # a loop, https to http, no Location
}

DENIED = frozenset({401, 403, 407, 451})
TRANSIENT = frozenset({408, 425, 429})  # and every 5xx
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def judge(status: int, role: Role, *, ranged: bool = False, conditional: bool = False) -> Verdict:
    """The verdict on a status code; `ranged` and `conditional` say what the request had asked for.

    Every other 4xx is read as 404 is: a static copy may refuse a request that the origin would answer.
    """
    if status in DENIED:
        return Verdict.DENIED
    if status in TRANSIENT or status >= 500:
        return Verdict.TRANSIENT
    if status == 304:
        return Verdict.ANSWER if conditional else Verdict.BROKEN
    if status == 206:
        return Verdict.ANSWER if ranged else Verdict.BROKEN
    if 200 <= status < 300 or status in REDIRECTS:
        return Verdict.ANSWER
    if 400 <= status < 500:
        return Verdict.ANSWER if role is Role.ORIGIN else Verdict.MISS
    return Verdict.BROKEN


class Attempt(NamedTuple):
    """One request to one endpoint over one address, and how it ended.

    `seconds` since its start; `detail` is a phrase that follows the endpoint's name ("answered 503").
    `address` is ``None`` where no connection of ours was made: a name that did not resolve, or a proxy.
    """

    endpoint: Endpoint
    url: str
    address: str | None
    verdict: Verdict
    detail: str
    seconds: float
    trouble: Trouble | None = None
    status: int | None = None

    def __str__(self) -> str:
        where = f" ({self.address})" if self.address else ""
        text = f"{self.endpoint}{where} {self.detail} after {self.seconds:.2f} s [{self.verdict.value}]"
        return printable(text)
