"""What exceptions and heads mean, over urllib3's own response objects."""

from __future__ import annotations

import pytest
from urllib3 import HTTPHeaderDict, HTTPResponse

from cdn_fallback.diagnosis import head_trouble


def response(*headers: tuple[str, str]) -> HTTPResponse:
    return HTTPResponse(b"", HTTPHeaderDict(headers), preload_content=False)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Length", "5")],
        [("Content-Length", "5"), ("Content-Length", " 5")],  # RFC 9110, section 8.6
        [("Content-Length", "-5"), ("Transfer-Encoding", "chunked")],  # RFC 9112, section 6.3: the latter counts
        [("X-Folded", "one\r\n two\n\tthree")],
        [("X-Latin", "caf\xe9 \x9b\tx")],
    ],
)
def test_a_sound_head(headers: list[tuple[str, str]]) -> None:
    assert head_trouble(response(*headers)) == ""


@pytest.mark.parametrize("value", ["\x1b[31m", "a\x00b", "a\rb", "a\nb", "\x7f"])
def test_control_characters_in_a_header(value: str) -> None:
    said = head_trouble(response(("X-Evil", value)))
    assert said.startswith("answered with control characters in a header (X-Evil: ")
    assert said.isprintable()


@pytest.mark.parametrize("length", ["five", "-5", "0x5", "5 5", "9" * 30, ""])
def test_a_length_that_is_none(length: str) -> None:
    assert head_trouble(response(("Content-Length", length))) == f"answered with the length {length!r}"
