"""The values in an index's pages, checked one by one. Pure.

Each function takes what a stranger's page holds for one field, and gives what `model` wants there, or ``None`` for
what is no such value: it is then left out, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

MAX_URL = 2000  # characters
MAX_TEXT = 4000  # characters of a reason
MAX_SERIAL = 10**18

# Hex digits of the digests that hashlib knows; warehouse has BLAKE2b with 256 bits under a name of its own.
LENGTHS = {
    "md5": 32,
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
    "blake2b": 128,
    "blake2b_256": 64,
    "blake2b-256": 64,
    "blake2s": 64,
    "sha3_224": 56,
    "sha3_256": 64,
    "sha3_384": 96,
    "sha3_512": 128,
}
# PEP 714: the newest name counts. The last is none of any standard's, but some indexes have it.
CORE_METADATA = ("core-metadata", "dist-info-metadata", "data-dist-info-metadata")
_ALGORITHM = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_HEX = re.compile(r"[0-9a-f]{32,256}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d\d):?(\d\d))?", re.ASCII)
_STATUS = re.compile(r"[a-z][a-z0-9-]{0,39}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,199}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*)|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
# C0, DEL and C1; tabs and ends of lines may stand in a sentence
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_SENTENCE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_IN_URLS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986's reserved characters, and the percent sign of what is encoded


class BadLink(ValueError):
    """The link leads nowhere that may be linked: `reason` says why, as a phrase."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def link(page: str, written: str) -> str:
    """The absolute URL that the link `written` on `page` means, without its fragment.

    :param page: the URL that relative links start from
    :raises BadLink: for what is no http(s) URL, holds credentials, or leads from https to http
    """
    written = written.strip(" ")
    if len(written) > MAX_URL or _CONTROL.search(written):  # urllib drops some of these without a word
        raise BadLink("has a URL that is too long or holds control characters")
    try:
        url = urldefrag(urljoin(page, quote(written, safe=_IN_URLS))).url
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise BadLink("has a URL without a valid host and port") from None
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise BadLink("has a URL that is not http or https to a host")
    if "@" in parts.netloc:
        raise BadLink("has a URL with credentials in it, which would be published")
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):  # urljoin leaves "%2e%2e", which requests resolves
        raise BadLink("has a URL with dot segments")
    if parts.scheme == "http" and page.lower().startswith("https:"):
        raise BadLink("has an http URL on an https page")
    return url


def hashes(value: object) -> dict[str, str]:
    """Algorithm -> hex digest, both in lower case, without what is no digest of that algorithm."""
    found: dict[str, str] = {}
    for algorithm, digest in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(algorithm, str) or not isinstance(digest, str):
            continue
        algorithm, digest = algorithm.lower(), digest.lower()
        right = len(digest) == LENGTHS.get(algorithm, len(digest))
        if right and _ALGORITHM.fullmatch(algorithm) and _HEX.fullmatch(digest):
            found[algorithm] = digest
    return found


def fragment(text: str) -> dict[str, str]:
    """The hashes in a link's ``#sha256=...``, or in an attribute's ``sha256=...`` (PEP 503, 658), unchecked."""
    pairs = [part.partition("=") for part in text.split("&")]
    return {algorithm: digest for algorithm, _, digest in pairs if algorithm.lower() in LENGTHS}


def core_metadata(file: Mapping[str, Any]) -> dict[str, str] | None:
    """The hashes of the file's metadata: empty for none told, ``None`` where there is no metadata (PEP 714)."""
    said = (file[key] for key in CORE_METADATA if file.get(key) is not None)
    value = next(said, None)
    return hashes(value) if value is True or isinstance(value, Mapping) else None


def yanked(value: object) -> str | None:
    """PEP 592's reason, empty for none; ``None`` for a file that is not yanked (PEP 691)."""
    if isinstance(value, str):
        return sentence(value) if value else None
    return "" if value else None


def sentence(value: object) -> str:
    """A text for people without control characters; empty for what is no text."""
    return _NO_SENTENCE.sub(" ", value)[:MAX_TEXT] if isinstance(value, str) else ""


def size(value: object) -> int | None:
    """PEP 700's size in bytes."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def serial(value: object) -> int | None:
    """An index's count of changes: a number, or its digits."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_SERIAL else None


def requires_python(value: object) -> str | None:
    """PEP 345's specifiers as written (some indexes have invalid ones, which installers put up with)."""
    text = value.strip() if isinstance(value, str) else ""
    return text if text and len(text) <= 400 and text.isprintable() else None


def upload_time(value: object) -> str | None:
    """An ISO 8601 time as PEP 700 writes it: UTC, with microseconds. One without an offset is taken for UTC."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    day, time, fraction, hours, minutes = match.groups()
    offset = f"{hours}:{minutes}" if hours else "+00:00"
    try:
        when = datetime.fromisoformat(f"{day}T{time}.{(fraction or '')[:6]:0<6}{offset}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def status(value: object) -> tuple[str | None, str | None]:
    """PEP 792's status and its reason; (``None``, ``None``) for "active", which need not be said."""
    if not isinstance(value, Mapping):
        return None, None
    word = value.get("status")
    if not isinstance(word, str) or not _STATUS.fullmatch(word) or word == "active":
        return None, None
    return word, sentence(value.get("reason")) or None


def versions(value: object) -> list[str]:
    """Those of PEP 700's `versions` that are harmless."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, str) and _VERSION.fullmatch(item)]
