"""Index pages: whole or not, a page or something else, and what they promise."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from cdn_fallback.pages import MAX_DECODED, NotAPage, Page, TooBig, decode, file_name, inspect

URL = "https://index.example/simple/six/"
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html"
SHA = "ab" * 32
BEGIN, END = "<!DOCTYPE html>\n<html><head><title>Links for six</title></head><body>\n", "</body></html>\n"
LINK = f'<a href="/packages/six-1.0.tar.gz#sha256={SHA}" data-requires-python="&gt;=3.7">six-1.0.tar.gz</a><br/>\n'


def html_page(body: str, *, framed: bool = True, strict: bool = True, content_type: str = HTML) -> Page:
    return inspect(URL, content_type, body.encode(), framed=framed, strict=strict)


def json_page(data: object, content_type: str = JSON) -> Page:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return inspect(URL, content_type, body, framed=True, strict=True)


# -- HTML


def test_a_whole_html_page() -> None:
    page = html_page(BEGIN + LINK + END + "<!--SERIAL 42-->")
    assert page.serial == 42
    assert page.hashes("https://index.example/packages/six-1.0.tar.gz") == {"sha256": SHA}


@pytest.mark.parametrize("framed", [True, False])
def test_an_html_page_that_is_cut_at_any_byte_is_none(framed: bool) -> None:
    whole = BEGIN + LINK * 3 + "</body></html>"
    html_page(whole, framed=framed)
    for length in range(len("<!DOCTYPE html>\n<html>"), len(whole) - len(">")):
        with pytest.raises(NotAPage, match="stops in the middle"):
            html_page(whole[:length], framed=framed)


def test_an_html_page_without_html_tags_is_whole_unless_it_stops_in_a_tag() -> None:
    """PEP 503 asks for HTML5, where both tags may be left out."""
    assert html_page(LINK, framed=False).files
    with pytest.raises(NotAPage):
        html_page(LINK + '<a href="six-2.0', framed=False)


def test_elsewhere_than_at_an_index_a_framed_page_needs_no_end() -> None:
    assert html_page("<html>" + LINK, framed=True, strict=False).files
    with pytest.raises(NotAPage):
        html_page("<html>" + LINK, framed=False, strict=False)


@pytest.mark.parametrize(
    "form",
    [
        '<form action="/login">',
        "<FORM>",
        '<input name=user><input type="password">',
    ],
)
def test_a_login_form_is_no_page(form: str) -> None:
    with pytest.raises(NotAPage, match="a login page"):
        html_page(BEGIN + form + '<a href="/imprint">imprint</a>' + END)
    assert not html_page(BEGIN + form + END, strict=False).files


def test_an_index_page_with_a_search_form_is_one() -> None:
    assert html_page(BEGIN + "<form></form>" + LINK + END).files


def test_an_empty_page_is_a_page() -> None:
    assert not html_page(BEGIN + END).files


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json", "application/octet-stream", "image/png"]
)
def test_another_content_type_is_no_page_of_an_index(content_type: str) -> None:
    with pytest.raises(NotAPage):
        html_page(BEGIN + LINK + END, content_type=content_type)
    assert html_page(BEGIN + LINK + END, content_type=content_type, strict=False) == Page(URL)


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "Text/HTML; charset=utf-8", " text/html ;x", "application/vnd.pypi.simple.v1+html"],
)
def test_content_types_of_html_pages(content_type: str) -> None:
    assert html_page(BEGIN + LINK + END, content_type=content_type).files


@pytest.mark.parametrize("text", ["", "no wheel", "<html><body>Down for maintenance</body></html>", BEGIN + END])
def test_a_page_in_which_nothing_looks_like_a_file(text: str) -> None:
    assert html_page(text).empty
    assert not html_page(BEGIN + LINK + END).empty
    assert not json_page({"files": []}).empty, "that is said on purpose"


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "no-such-charset", "\udc80"])
def test_a_charset_that_lies_hides_nothing(charset: str) -> None:
    """pip reads the page by it, or ends with a traceback."""
    content_type = f"text/html; Charset = '{charset}'; x"
    with pytest.raises(NotAPage, match="as it claims"):
        html_page(BEGIN + "größe" + LINK + END, content_type=content_type)
    assert html_page(BEGIN + LINK + END, content_type=content_type, strict=False).files


@pytest.mark.parametrize("charset", ["utf-8", "ASCII", "iso-8859-15", "windows-1252", "euc-jp"])
def test_a_charset_that_tells_the_truth(charset: str) -> None:
    assert html_page(BEGIN + LINK + END, content_type=f"text/html; charset={charset}").files


def test_bytes_that_are_no_text() -> None:
    html, data = (BEGIN + "\xff" + LINK + END).encode("latin-1"), b'{"files": [], "x": "\xff"}'
    for content_type, body in (("text/html", html), ("application/vnd.pypi.simple.v1+json", data)):
        with pytest.raises(NotAPage, match="not in utf-8"):
            inspect(URL, content_type, body, framed=True, strict=True)
    assert inspect(URL, "text/html; charset=latin-1", html, framed=True, strict=True).files


@pytest.mark.parametrize(
    ("link", "hashes", "metadata"),
    [
        ('<a href="six-1.whl#sha256=AB">', {"sha256": "ab"}, {}),
        ("<A HREF='six-1.whl#md5=cd&egg=six'>", {"md5": "cd"}, {}),
        ("<a href=six-1.whl#sha512=ef>", {"sha512": "ef"}, {}),
        ('<a\n  data-x="1"\n  href = "six-1.whl#sha1=01" >', {"sha1": "01"}, {}),
        ('<a href="six-1.whl">', {}, {}),
        ('<a href="six-1.whl#sha256=">', {}, {}),
        ('<a href="six-1.whl#egg=six">', {}, {}),
        ('<a href="six-1.whl#sha256=ab" data-core-metadata="sha256=CD">', {"sha256": "ab"}, {"sha256": "cd"}),
        ('<a href="six-1.whl#sha256=ab" data-dist-info-metadata="sha256=cd">', {"sha256": "ab"}, {"sha256": "cd"}),
        ('<a href="six-1.whl#sha256=ab" data-core-metadata="true">', {"sha256": "ab"}, {}),
    ],
)
def test_hashes_of_html(link: str, hashes: dict[str, str], metadata: dict[str, str]) -> None:
    page = html_page(BEGIN + link + "six</a>" + END)
    assert page.hashes(URL + "six-1.whl") == hashes
    assert page.hashes(URL + "six-1.whl.metadata") == metadata


def test_a_hash_is_promised_for_the_url_that_the_page_gives_alone() -> None:
    """A file of the same name in another place is another file."""
    page = html_page(BEGIN + LINK + END)
    for url in ("https://evil.example/packages/six-1.0.tar.gz", URL + "six-1.0.tar.gz", "https://index.example/x"):
        assert page.hashes(url) == {}


def test_names_are_decoded_and_never_trusted() -> None:
    hostile = "six%1b%5b31m%e2%80%ae-1.0.tar.gz"
    page = html_page(BEGIN + f'<a href="{hostile}#sha256={SHA}">six</a>' + END)
    assert page.hashes(URL + hostile) == {"sha256": SHA}
    assert file_name(URL + "a%2Fb-1.whl?x#y") == "a/b-1.whl"


@pytest.mark.parametrize("href", ["http://[", "http://[#sha256=ab", "//[::1", "", "/", "http://a:b/x.whl"])
def test_a_link_to_nowhere_spoils_nothing(href: str) -> None:
    page = html_page(BEGIN + f'<a href="{href}">x</a>' + LINK + END)
    assert page.hashes("https://index.example/packages/six-1.0.tar.gz") == {"sha256": SHA}
    other = json_page({"files": [{"url": href}, {"url": "six-1.whl", "hashes": {"sha256": "ab"}}]})
    assert other.hashes(URL + "six-1.whl") == {"sha256": "ab"}
    for broken in (page, other):
        assert broken.hashes(URL) == broken.hashes("https://index.example/") == broken.hashes(URL + "x.whl") == {}


@pytest.mark.parametrize(
    ("comment", "serial"),
    [
        ("<!--SERIAL 7-->", 7),
        ("<!--  serial  0012 -->", 12),
        ("<!--SERIAL x-->", 0),
        (f"<!--SERIAL {'9' * 50}-->", 0),
        ("", 0),
    ],
)
def test_serials_of_html(comment: str, serial: int) -> None:
    assert html_page(BEGIN + LINK + END + comment).serial == serial


# -- JSON


def test_a_whole_json_page() -> None:
    files = [
        {"url": "six-1.whl", "filename": "six-1.whl", "hashes": {"sha256": "AB"}, "core-metadata": {"sha256": "CD"}},
        {"url": "/p/six-2.whl#x", "hashes": {}, "dist-info-metadata": {"sha256": "ef"}},
        {"url": "six-3.whl", "hashes": None, "core-metadata": True},
        {"url": 5},
        "rubbish",
    ]
    page = json_page({"meta": {"_last-serial": 9}, "files": files})
    assert page.serial == 9
    assert page.hashes(URL + "six-1.whl") == {"sha256": "ab"}
    assert page.hashes(URL + "six-1.whl.metadata") == {"sha256": "cd"}
    assert page.hashes("https://index.example/p/six-2.whl") == {}
    assert page.hashes("https://index.example/p/six-2.whl.metadata") == {"sha256": "ef"}
    assert page.hashes(URL + "six-3.whl") == page.hashes(URL + "six-3.whl.metadata") == {}


def test_a_json_page_that_is_cut_at_any_byte_is_none() -> None:
    whole = json.dumps({"meta": {"api-version": "1.4"}, "name": "six", "files": [{"url": "six-1.whl"}]}).encode()
    for length in range(len(whole)):
        with pytest.raises(NotAPage, match="damaged JSON"):
            json_page(whole[:length])


@pytest.mark.parametrize(
    "data", [[], {}, None, 1, "files", {"files": None}, {"files": {}}, {"error": "login"}, {"projects": "x"}]
)
def test_json_of_another_shape_is_no_page(data: object) -> None:
    with pytest.raises(NotAPage, match="no index page"):
        json_page(data)


@pytest.mark.parametrize("body", [b"[" * 200_000, b"\xff\xfe\xfd", b"1" * 5000, b""])
def test_json_that_would_break_the_parser_is_no_page(body: bytes) -> None:
    with pytest.raises(NotAPage):
        json_page(body)


def test_a_project_list_is_a_page() -> None:
    assert json_page({"projects": [{"name": "six"}], "meta": {"_last-serial": 3}}).serial == 3


@pytest.mark.parametrize("serial", ["7", None, -1, 0, 1.5, [], {}])
def test_serials_of_json_that_are_none(serial: object) -> None:
    assert json_page({"files": [], "meta": {"_last-serial": serial}}).serial == 0
    assert json_page({"files": [], "meta": serial}).serial == 0


# -- Encodings

TEXT = b"index " * 1000


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


ENCODED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-GZip ", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
]


@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
@pytest.mark.parametrize("data", [TEXT, b"", b"x", bytes(range(256)) * 100], ids=["text", "empty", "x", "binary"])
def test_encodings_are_undone(encoding: str, encode: Callable[[bytes], bytes], data: bytes) -> None:
    assert decode(encode(data), encoding) == data


@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
def test_encoded_data_that_is_cut_anywhere_is_none(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    whole = encode(TEXT)
    for length in range(len(whole)):
        with pytest.raises(NotAPage, match=r"cut short|damaged"):
            decode(whole[:length], encoding)


def test_gzip_of_several_members() -> None:
    members = [b"a" * 10_000, b"", b"b", b"c" * 20_000]
    assert decode(b"".join(map(gzip.compress, members)), "gzip") == b"".join(members)


def test_identity_is_left_alone() -> None:
    assert decode(TEXT, "") == decode(TEXT, "identity") == TEXT
    with pytest.raises(TooBig):
        decode(TEXT, "", limit=len(TEXT) - 1)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "\x1b[31m"])
def test_encodings_that_nobody_asked_for(encoding: str) -> None:
    with pytest.raises(NotAPage, match="not asked for") as caught:
        decode(TEXT, encoding)
    assert caught.value.reason.isprintable()


def test_damaged_data_is_no_page() -> None:
    whole = bytearray(gzip.compress(TEXT))
    whole[-6] ^= 1  # in the checksum
    with pytest.raises(NotAPage, match="damaged gzip"):
        decode(bytes(whole), "gzip")
    with pytest.raises(NotAPage, match="damaged gzip"):
        decode(gzip.compress(TEXT) + b"rubbish", "gzip")


@pytest.mark.parametrize("size", [9_999, 10_000])
@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
def test_a_page_may_be_as_long_as_the_limit(encoding: str, encode: Callable[[bytes], bytes], size: int) -> None:
    assert len(decode(encode(b"x" * size), encoding, limit=10_000)) == size
    with pytest.raises(TooBig):
        decode(encode(b"x" * 10_001), encoding, limit=10_000)


def test_a_bomb_is_not_opened() -> None:
    """One that opens to a gigabyte costs no more than the limit, in one member or in many."""
    limit = 1 << 20
    member = gzip.compress(bytes(16 << 20), 1)
    for bomb in (member, gzip.compress(bytes(limit // 2), 1) * 64):
        tracemalloc.start()
        with pytest.raises(TooBig):
            decode(bomb, "gzip", limit)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * limit
    assert MAX_DECODED == 64 << 20


def test_a_hundred_thousand_empty_members_are_soon_opened() -> None:
    """Each once copied all that followed it: a few MB took minutes."""
    assert decode(gzip.compress(b"", 1) * 100_000, "gzip") == b""


def test_brackets_in_a_string_do_not_make_a_page_look_cut() -> None:
    page = json_page({"files": [{"url": "six-1.whl", "yanked": "broken :-} [", "hashes": {"sha256": "ab"}}]})
    assert page.hashes(URL + "six-1.whl")
