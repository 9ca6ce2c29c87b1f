"""The configuration for nginx, as a text. What nginx makes of it: tests/integration/test_mirror_nginx.py."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_fallback.errors import CdnFallbackError
from cdn_fallback.mirror import site
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.names import MAX_NAME
from cdn_fallback.mirror.nginx import configuration

ROOT, LISTEN, HOST = "/srv/mirror", ("80", "[::]:80"), "mirror.example.org"


def made(
    root: str = ROOT, listen: tuple[str, ...] = LISTEN, host: str = HOST, trees: tuple[str, ...] = ("docs",)
) -> str:
    return configuration(root, listen, host, trees=trees)


def test_the_values_stand_in_it() -> None:
    lines = [line.strip() for line in made(trees=("docs", "more/docs")).splitlines()]
    for line in ("listen 80;", "listen [::]:80;", "server_name mirror.example.org;", "root /srv/mirror;"):
        assert lines.count(line) == 1
    assert "location ^~ /docs/ {" in lines and "location ^~ /more/docs/ {" in lines


def test_the_same_values_give_the_same_text() -> None:
    assert made(trees=("b", "a")) == made(trees=("a", "b"))


def test_every_line_is_a_directive_and_every_block_ends() -> None:
    depth = 0
    for line in made().splitlines():
        text = line.strip()
        assert not text or text[0] == "#" or text[-1] in ";{}", text
        assert not line.endswith(" ")
        if text[:1] != "#":
            depth += text.endswith("{") - (text == "}")
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize(
    "value",
    [
        f'"{site.HTML_TYPE}" html;',
        f'"{site.JSON_TYPE}" json;',
        f'default_type "{site.LEGACY_TYPE}";',
        f'default_type "{site.TEXT_TYPE}";',
        f'default_type "{site.FILE_TYPE}";',
        *(f'add_header Cache-Control "{value}";' for value in (site.PAGE, site.LIST, site.FOREVER, site.BRIEF)),
    ],
)
def test_the_sites_types_and_times_stand_in_it(value: str) -> None:
    assert value in made()


def test_a_file_beside_the_index_has_the_sites_type() -> None:
    assert '"text/css; charset=utf-8" css;' in made()
    assert " css;" not in made(trees=())


def test_the_longest_name_is_normalised_before_nginx_gives_up() -> None:
    text = made()
    assert text.count("$cdn_fallback_small$cdn_fallback_tail;") * 10 > MAX_NAME
    assert text.count(" $1-$2;") * 10 > MAX_NAME // 2


@pytest.mark.parametrize("root", ["/srv/mirror", "/a", "/srv/x.y_z-1+2@3=4/b"])
@pytest.mark.parametrize("listen", ["1", "65535", "*:80", "127.0.0.1:8080", "[::1]:80", "[2001:db8::1]:443"])
@pytest.mark.parametrize("host", ["_", "localhost", "a.example.org", "*.example.org", "127.0.0.1", "x-1.y"])
def test_what_may_stand_in_it(root: str, listen: str, host: str) -> None:
    text = made(root, (listen,), host)
    assert f"root {root};" in text and f"listen {listen};" in text and f"server_name {host};" in text


NASTY = ["", " ", "\n", ";", "{", "}", '"', "'", "$", "\\", "#", "\x00", "é", "a;b", "a b", "a\nb", "${x}", "\u202e"]


@pytest.mark.parametrize("root", ["srv", "/", "//", "/a/", "/a//b", "/a/../b", "/a/..", "/.a", "/a..b", "/-a", "~/a"])
def test_no_trust_in_names_no_other_folder(root: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^folder .* must be an absolute path of letters, .*; name another$"):
        made(root=root)


@pytest.mark.parametrize(
    "listen",
    ["0", "65536", "080", "80 ssl", "x:80", "127.0.0.1", "127.0.0.256:80", "1.2.3:8080", "[::1:80", "[::g]:80",
     "[:::]:80", "unix:/x", "::1:80", ":80", "80\n", "\u0668\u0660"],
)  # fmt: skip
def test_no_trust_in_names_no_other_listen(listen: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^listen .* must be a port, or an address and a port"):
        made(listen=("80", listen))


def test_it_must_listen_somewhere() -> None:
    with pytest.raises(NotConfigurable, match=r"^listen .* is missing; name a port"):
        made(listen=())


@pytest.mark.parametrize(
    "host", ["-a", "a-", "a..b", ".a", "a.", "~a", "*.", "a.*", "a_b", "a:80", "x" * 64, "a." * 127 + "a"]
)
def test_no_trust_in_names_no_other_host(host: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^server name .* must be a host's name"):
        made(host=host)


@pytest.mark.parametrize(
    "tree", ["/docs", "docs/", "a//b", "..", "a/../b", ".a", "-a", "simple", "simple/x", "pypi", "robots.txt"]
)
def test_no_trust_in_names_no_other_tree(tree: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^tree .*; name another prefix"):
        made(trees=("docs", tree))


@pytest.mark.parametrize("text", NASTY)
def test_no_trust_in_names_nothing_is_escaped(text: str) -> None:
    for value in {text, f"a{text}b"} if text else {text}:
        for given_ in ({"root": f"/{value}"}, {"host": value}, {"listen": (value,)}, {"trees": (value,)}):
            with pytest.raises(NotConfigurable):
                made(**given_)


@given(st.text(max_size=20))
def test_no_trust_in_names_a_value_is_refused_or_harmless(value: str) -> None:
    for given_ in ({"root": f"/{value}"}, {"host": value}, {"listen": (value,)}, {"trees": (value,)}):
        try:
            made(**given_)
        except NotConfigurable:
            continue
        assert re.fullmatch(r"[A-Za-z0-9._+@=*:\[\]!~,/-]+", value)


def test_the_error_is_a_value_error_that_can_be_printed_and_sent() -> None:
    with pytest.raises(NotConfigurable) as caught:
        made(host="\x1b[31m")
    error = caught.value
    assert isinstance(error, ValueError) and isinstance(error, CdnFallbackError)
    assert str(error).isprintable()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert (error.what, error.value) == ("server name", "\x1b[31m")
