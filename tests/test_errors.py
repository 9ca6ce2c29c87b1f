"""Errors: fields first, and a text that a terminal survives."""

from __future__ import annotations

import copy
import pickle

import pytest

from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError, ConfigError, HashMismatch, printable
from cdn_fallback.pool import Endpoint, Role
from cdn_fallback.verdicts import Attempt, Trouble, Verdict

CDN = Endpoint("https://cdn.example/", Role.CDN, credentials=("user", "secret"))
ATTEMPTS = [
    Attempt(CDN, CDN.base + "simple/x/", "192.0.2.1", Verdict.TRANSIENT, "answered 503", 0.125, None, 503),
    Attempt(CDN, CDN.base + "simple/x/", None, Verdict.BROKEN, "said \x1b[31mred\x1b[0m", 1.0, Trouble.KIND),
]
ERRORS = [
    ConfigError("/etc/pip.conf:12", "pool", "is empty"),
    ConfigError("$CDN_FALLBACK", None, "is no JSON"),
    AllEndpointsFailed("https://index.example/simple/x/", ATTEMPTS, "Look at the network."),
    HashMismatch("https://index.example/x.whl", "sha256:aa", [("https://cdn.example/", "sha256:bb")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: CdnFallbackError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert str(again) == str(error)


def test_the_text_of_a_setting_that_cannot_be_used() -> None:
    assert [str(error) for error in ERRORS[:2]] == [
        "cdn-fallback configuration, /etc/pip.conf:12: pool: is empty",
        "cdn-fallback configuration, $CDN_FALLBACK: is no JSON",
    ]


def test_the_text_when_all_failed() -> None:
    assert str(ERRORS[2]).splitlines() == [
        "no usable answer for https://index.example/simple/x/ after 2 attempts:",
        "  1. cdn https://cdn.example/ (192.0.2.1) answered 503 after 0.12 s [transient]",
        r"  2. cdn https://cdn.example/ said \x1b[31mred\x1b[0m after 1.00 s [broken]",
        "Look at the network.",
    ]


def test_the_text_when_one_failed() -> None:
    text = str(AllEndpointsFailed("https://index.example/", ATTEMPTS[:1]))
    assert text.splitlines()[0].endswith("after 1 attempt:")
    assert len(text.splitlines()) == 2


def test_the_text_of_a_wrong_hash_names_everybody() -> None:
    error = HashMismatch(
        "https://index.example/x.whl", "sha256:aa", [("https://a/", "sha256:bb"), ("https://b/", "cc")]
    )
    assert str(error).splitlines() == [
        "https://index.example/x.whl does not have the hash that its index promises, sha256:aa:",
        "  https://a/ served sha256:bb",
        "  https://b/ served cc",
        "Do not install it; tell the index's operators.",
    ]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_text_holds_credentials(error: CdnFallbackError) -> None:
    assert "secret" not in f"{error} {error!r}"


@pytest.mark.parametrize(
    "hostile",
    ["\x1b]0;title\x07", "\x9b31m", "\r\n", "\x00", "\x7f", "\u202eexe.whl", "\u2066", "\u2028", "\u200b", "\udc80"],
)
def test_what_a_terminal_would_obey_is_escaped_everywhere(hostile: str) -> None:
    url = f"https://index.example/{hostile}"
    attempt = Attempt(CDN, url, "192.0.2.1", Verdict.MISS, f"answered {hostile}", 0.0)
    errors = [
        ConfigError(hostile, hostile, hostile),
        AllEndpointsFailed(url, [attempt], hostile),
        HashMismatch(url, hostile, [(hostile, hostile)]),
    ]
    for text in [printable(hostile), str(attempt), *map(str, errors)]:
        assert all(line.isprintable() for line in text.split("\n"))
        assert hostile not in text


def test_what_is_harmless_stays_as_it_is() -> None:
    assert printable("https://index.example/größe/日本-1.0.whl ~ \\x1b") == (
        "https://index.example/größe/日本-1.0.whl ~ \\x1b"
    )
