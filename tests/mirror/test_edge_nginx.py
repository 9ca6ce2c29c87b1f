"""nginx's configuration as an edge, as a text. What nginx makes of it: tests/integration/test_edge_nginx.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_fallback.mirror import nginx as mirrors
from cdn_fallback.mirror import nginx_rules, site
from cdn_fallback.mirror.edge.nginx import Cache, Tls, configuration
from cdn_fallback.mirror.grammar import NotConfigurable, url
from cdn_fallback.mirror.negotiate import accepts_gzip
from cdn_fallback.mirror.patterns import TAKES_GZIP

BUCKET, NAME = "https://example-mirror.s3.eu-central-1.amazonaws.com", "cdn.example.net"
TLS = Tls("/etc/ssl/cdn.pem", "/etc/ssl/private/cdn.key")


def made(bucket: str = BUCKET, name: str = NAME, *listen: str, **more: Any) -> str:
    return configuration(bucket, name, listen, **more)


def test_the_values_stand_in_it() -> None:
    lines = [line.strip() for line in made(trees=("docs", "docs", "more/docs"), tls=TLS).splitlines()]
    for line in ("listen 443 ssl;", "listen [::]:443 ssl;", "ssl_certificate /etc/ssl/cdn.pem;", "listen 80;",
                 "ssl_certificate_key /etc/ssl/private/cdn.key;", "location ^~ /docs/ {", "location = /more/docs {",
                 "proxy_ssl_name example-mirror.s3.eu-central-1.amazonaws.com;",
                 "proxy_set_header Host example-mirror.s3.eu-central-1.amazonaws.com;", "proxy_ssl_verify on;",
                 "server example-mirror.s3.eu-central-1.amazonaws.com:443;"):  # fmt: skip
        assert lines.count(line) == 1, line


def test_the_rules_are_those_of_a_mirrors_nginx() -> None:
    """Not a copy of them: a change of one is a change of both."""
    folder = mirrors.configuration("/srv/mirror", ["80"], NAME)
    for text in (made(), folder):
        assert nginx_rules.MAPS in text
        for line in nginx_rules.index(lambda *_: []):
            assert line in text


def test_the_same_values_give_the_same_text() -> None:
    assert made(trees=("b", "a")) == made(trees=("a", "b"))


def test_every_line_is_a_directive_and_every_block_ends() -> None:
    depth = 0
    for line in made(tls=TLS, trees=("docs",), cache=Cache(resolver="127.0.0.53")).splitlines():
        text = line.strip()
        assert not text or text[0] == "#" or text[-1] in ";{}", text
        assert not line.endswith(" ")
        if text[:1] != "#":
            depth += text.endswith("{") - (text == "}")
        assert depth >= 0
    assert depth == 0


def test_http_to_the_bucket_is_not_verified_and_https_always() -> None:
    assert "proxy_ssl" not in made("http://127.0.0.1:8333/bucket")
    assert "proxy_ssl_verify on;" in made()
    assert "proxy_ssl_verify on;" in made(cache=Cache(resolver="[::1]:5353"))


def test_that_nginx_sends_no_age_is_said() -> None:
    assert "nginx sends no Age" in made()


def test_two_edges_in_one_nginx_have_caches_of_their_own() -> None:
    zones = {
        re.findall(r"keys_zone=(\w+):", text)[0] for text in (made(), made(name="b.example.net"), made("http://b"))
    }
    assert len(zones) == 3


@given(
    st.lists(st.sampled_from(["gzip", "GZIP", "x", "*", " ", "\t", ";", ",", "q=0", "q=1", "q=0.5", "q=2", "xgzip"]))
)
def test_whether_gzip_is_taken_nginx_sees_as_negotiate_does(parts: list[str]) -> None:
    header = "".join(parts)
    # PCRE's possessive parts, which Python has from 3.11 on, only keep it linear
    pattern = re.sub(r"([*+?])\+", r"\1", TAKES_GZIP)
    assert bool(re.search(pattern, header, re.IGNORECASE)) == accepts_gzip(header)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://b", ("http", "b", 80, "")),
        ("https://b.example.org/", ("https", "b.example.org", 443, "")),
        ("https://b.example.org:8443/a/b", ("https", "b.example.org", 8443, "/a/b")),
        ("http://[::1]:8333/bucket/", ("http", "[::1]", 8333, "/bucket")),
    ],
)
def test_where_a_bucket_may_be(value: str, expected: tuple[str, str, int, str]) -> None:
    assert url(value, "bucket") == expected
    assert url(value, "bucket").netloc == value.split("/")[2]


@pytest.mark.parametrize(
    "value",
    ["", "bucket", "s3://bucket", "ftp://b", "http://", "http://u@b", "http://u:p@b", "http://b?x", "http://b#x", "http://b:0",
     "http://b:65536", "http://b/../c", "http://b//c", "http://b/.a", "http://b/%2e", "http://[::g]", "http://-b",
     "http://b_c", "http://b/a b", "http://b\n", "HTTP://b", "http://b/$x", "http://b;"],
)  # fmt: skip
def test_no_trust_in_names_no_other_bucket(value: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^bucket .* must be "):
        made(value)


@pytest.mark.parametrize(
    "resolver", ["", "x", "127.0.0.1:0", "127.0.0.256", "::1", "127.0.0.1:99999", "127.0.0.1 8.8.8.8"]
)
def test_no_other_resolver(resolver: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^resolver .* must be the address of a name server"):
        made(cache=Cache(resolver=resolver))


def test_who_has_a_certificate_has_a_name() -> None:
    for name in ("_", "*.example.net"):
        assert made(name=name)
        with pytest.raises(NotConfigurable):
            made(name=name, tls=TLS)


NASTY = [
    "",
    " ",
    "\n",
    ";",
    "{",
    "}",
    '"',
    "'",
    "$",
    "\\",
    "#",
    "\x00",
    "é",
    "a;b",
    "a b",
    "a\nb",
    "${x}",
    "`",
    "\u202e",
]


def every(value: str) -> list[dict[str, Any]]:
    """The value in each place."""
    return [
        {"bucket": f"http://{value}"},
        {"bucket": f"http://b/{value}x"},
        {"name": value},
        {"listen": (value,)},
        {"trees": (value,)},
        {"tls": Tls(f"/{value}", "/k")},
        {"tls": Tls("/c", f"/{value}")},
        {"cache": Cache(f"/{value}")},
        {"cache": Cache(authorities=f"/{value}")},
        {"cache": Cache(resolver=value)},
    ]


@pytest.mark.parametrize("text", NASTY)
def test_no_trust_in_names_nothing_is_escaped(text: str) -> None:
    for value in {text, f"a{text}b"} if text else {text}:
        for more in every(value):
            if not text and more == {"bucket": "http://b/x"}:
                continue
            with pytest.raises(NotConfigurable):
                configuration(**{"bucket": BUCKET, "name": NAME, **more})


@given(st.text(max_size=20))
def test_no_trust_in_names_a_value_is_refused_or_harmless(value: str) -> None:
    for more in every(value):
        try:
            configuration(**{"bucket": BUCKET, "name": NAME, **more})
        except NotConfigurable:
            continue
        assert re.fullmatch(r"[A-Za-z0-9._+@=*:\[\]!~,/-]*", value)


def test_a_page_is_bound_by_its_own_time() -> None:
    """What the text says of stale-if-error holds for what is published."""
    assert "stale-if-error=86400" in site.PAGE and "stale-if-error=86400" in site.LIST
