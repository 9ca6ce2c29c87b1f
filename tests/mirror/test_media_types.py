"""What the files of a documentation site are sent as."""

from __future__ import annotations

import pytest

from cdn_fallback.mirror.media_types import OCTETS, TYPES, media_type


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("docs/index.html", "text/html; charset=utf-8"),
        ("docs/INDEX.HTML", "text/html; charset=utf-8"),
        ("docs/a.b/search.js", "text/javascript; charset=utf-8"),
        ("docs/x.tar.gz", OCTETS),  # as it lies there: it is no encoding of something else
        ("docs/objects.inv", OCTETS),
        ("docs.html/README", OCTETS),
        ("docs/html", OCTETS),
    ],
)
def test_the_ending_tells(key: str, kind: str) -> None:
    assert media_type(key) == kind


def test_every_text_says_its_encoding() -> None:
    assert all(kind.endswith("; charset=utf-8") == kind.startswith("text/") for kind in TYPES.values())
