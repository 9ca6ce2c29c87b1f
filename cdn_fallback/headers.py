"""Headers on their way to an endpoint and back: what belongs to whom. Pure.

Credentials and cookies belong to the index's own host; validators (ETag, Last-Modified) to the endpoint that issued
them. A fallback that answered with an old page and the origin's current ETag once poisoned pip's cache for good:
the origin said 304 ever after. So a foreign endpoint's ETag is marked with its owner before the tool's cache
stores it, and unmarked on the way back to that owner alone.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
from collections.abc import MutableMapping
from typing import TypeVar

from cdn_fallback.pool import Endpoint

# requests' and urllib3's header mappings, whose keys are case-insensitive
H = TypeVar("H", bound=MutableMapping[str, str])

PRIVATE = ("Authorization", "Cookie", "Proxy-Authorization", "Host")
CONDITIONS = ("If-None-Match", "If-Modified-Since")
MAX_AGE = 600  # s; a fallback's max-age of a year froze pip on one page

_MARKED = re.compile(r'(W/)?"cdnfb\.([0-9a-f]{12})\.(.*)"$', re.S)
_TAG = re.compile(r'(W/)?"(.*)"$', re.S)
_AGE = re.compile(r"\b((?:s-)?max-?age|stale-[a-z-]+)\s*=\s*([^,]*)", re.I)


def owner(endpoint: Endpoint) -> str:
    """A short name for `endpoint` that may stand in an ETag."""
    return hashlib.sha256(endpoint.base.encode()).hexdigest()[:12]


def mark(tag: str, endpoint: Endpoint) -> str:
    """The ETag `tag` with its owner's mark."""
    match = _TAG.match(tag)
    return f'{match[1] or ""}"cdnfb.{owner(endpoint)}.{match[2]}"' if match else ""


def unmark(tag: str) -> tuple[str | None, str]:
    """(owner or ``None`` for the index itself, the tag as its owner issued it)."""
    match = _MARKED.match(tag)
    return (match[2], f'{match[1] or ""}"{match[3]}"') if match else (None, tag)


def outgoing(headers: H, endpoint: Endpoint, *, same_site: bool, is_index: bool, page: bool) -> H:
    """The tool's `headers` (changed in place) as `endpoint` may see them.

    :param same_site: whether scheme, host and port are those that the tool asked for
    :param is_index: whether the endpoint's base is the index's own
    """
    if not same_site:
        for name in PRIVATE:
            headers.pop(name, None)
    if endpoint.credentials and "Authorization" not in headers:
        pair = ":".join(endpoint.credentials).encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
    for names, tag_name in ((CONDITIONS, "If-None-Match"), (("Range", "If-Range"), "If-Range")):
        if not any(name in headers for name in (tag_name, names[1])):
            continue
        issuer, tag = unmark(headers.get(tag_name, ""))
        if (issuer == owner(endpoint)) if issuer else is_index:
            if tag:
                headers[tag_name] = tag
        else:
            for name in names:
                headers.pop(name, None)
    if page and headers.get("Accept-Encoding", "identity") != "identity":
        headers["Accept-Encoding"] = "gzip, deflate"  # what `pages.decode` opens under a cap
    return headers


def _capped(age: str) -> int:
    age = age.strip(' \t"')
    # Only digits are a number here; to Python, and so to pip, +31_536_000 is one, too.
    return min(int(age[:10]), MAX_AGE) if age.isascii() and age.isdigit() else 0


def _seconds(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def conditional(headers: MutableMapping[str, str]) -> bool:
    """Whether a 304 would be an answer to `headers`."""
    return any(name in headers for name in CONDITIONS)


def max_age(control: str) -> float:
    """Seconds for which a response with the Cache-Control `control` may be used again (RFC 9111, section 5.2.2)."""
    if re.search(r"\bno-(?:store|cache)\b", control, re.I):
        return 0.0
    found = re.search(r"(?<![\w-])max-age\s*=\s*\"?([0-9]{1,10})", control, re.I)
    return min(float(found[1]), MAX_AGE) if found else 0.0


def incoming(headers: H, endpoint: Endpoint, *, same_site: bool, is_index: bool, cap_age: bool, now: float = 0.0) -> H:
    """An endpoint's `headers` (changed in place) as the tool may see them, for a body without framing of its own.

    :param cap_age: whether freshness is limited to MAX_AGE: for a pool's pages
    :param now: seconds since the epoch
    """
    if headers.pop("Transfer-Encoding", None) is not None:
        headers.pop("Content-Length", None)  # it did not count (RFC 9112, section 6.3)
    for name in ("Connection", "Keep-Alive"):
        headers.pop(name, None)
    for name in ("Date", "Expires"):  # pip's cache ends in a traceback at one that is none
        if name in headers and not _seconds(headers[name]):
            headers.pop(name)
    if not same_site:
        headers.pop("Set-Cookie", None)
    if is_index:
        if _MARKED.match(headers.get("ETag", "")):  # it would go to whom it names
            headers.pop("ETag")
    else:
        tag = mark(headers.get("ETag", ""), endpoint)
        headers.pop("ETag", None)
        if tag:
            headers["ETag"] = tag
        else:  # a date cannot carry a mark
            headers.pop("Last-Modified", None)
    if cap_age:
        if control := headers.get("Cache-Control"):
            headers["Cache-Control"] = _AGE.sub(lambda m: f"{m[1]}={_capped(m[2])}", control)
        headers.pop("Expires", None)
        if (date := headers.get("Date")) and _seconds(date) > now + MAX_AGE:
            headers.pop("Date")  # fresh until then, and as long as it likes after
    return headers
