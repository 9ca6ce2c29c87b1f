"""A redirect server as a whole lighttpd.conf, for lighttpd 1.4.56 or later. Pure.

`lighttpd -tt` returns 0 for unknown directives and for much else: a WARNING of it is a failure all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from cdn_fallback.mirror.patterns import NORMAL, TAKES_HTML, TAKES_JSON
from cdn_fallback.mirror.redirectors import ANY_FORMAT, LEADS_TO, OF_HTML, OF_JSON, Redirector

# What means one thing to us and another to who is asked next gets a 400, before any rule is looked at.
_STRICT = """\
server.http-parseopts = (
    "header-strict" => "enable",
    "host-strict" => "enable",
    "host-normalize" => "enable",
    "url-normalize" => "enable",
    "url-normalize-unreserved" => "enable",
    "url-ctrls-reject" => "enable",
    "url-path-2f-decode" => "disable",
    "url-path-2f-reject" => "enable",
    "url-path-dotseg-remove" => "disable",
    "url-path-dotseg-reject" => "enable",
    "url-query-20-plus" => "disable",
)
"""


def configuration(redirector: Redirector) -> str:
    """The file's text."""
    blocks = [(f"# {line}" for line in redirector.story), _server(redirector), _sockets(redirector), _rules(redirector)]
    story, server, sockets, rules = ("".join(f"{line}\n" for line in block) for block in blocks)
    return "\n".join((story, server, _STRICT, sockets, rules))


def _server(redirector: Redirector) -> Iterator[str]:
    folder = redirector.place.folder
    logs = folder or "/var/log/lighttpd"
    yield "# mod_setenv before mod_redirect, or redirects lose their headers"
    openssl = ', "mod_openssl"' if redirector.place.certificate else ""
    yield f'server.modules = ("mod_setenv", "mod_redirect", "mod_accesslog"{openssl})'
    yield f'server.document-root = "{folder or "/var/www/html"}"'
    if folder is None:
        yield 'server.username = "www-data"'
        yield 'server.groupname = "www-data"'
    yield 'server.tag = ""'
    yield 'server.feature-flags = ("server.h2proto" => "disable")'
    yield f'server.errorlog = "{logs}/error.log"'
    yield f'accesslog.filename = "{logs}/access.log"'


def _sockets(redirector: Redirector) -> Iterator[str]:
    place, certificate = redirector.place, redirector.place.certificate
    places = [(each, certificate is not None) for each in place.listen] + [(each, False) for each in place.plain]
    address, _, port = places[0][0].rpartition(":")
    yield f'server.bind = "{_any(address)}"'
    yield f"server.port = {port}"
    if certificate:
        yield f'ssl.pemfile = "{certificate.chain}"'
        yield f'ssl.privkey = "{certificate.key}"'
        yield 'ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2")'
        yield 'ssl.engine = "enable"'
    for each, tls in places[1:]:
        address, _, port = each.rpartition(":")
        inside = f' ssl.engine = "{"enable" if tls else "disable"}" ' if certificate else ""
        yield f'$SERVER["socket"] == "{_any(address)}:{port}" {{{inside}}}'


def _any(address: str) -> str:
    return "0.0.0.0" if address in ("", "*") else address


def _rules(redirector: Redirector) -> Iterator[str]:
    """Of the blocks that hold, each replaces what those before it said of the same."""
    cdn, root = redirector.cdn, re.escape(redirector.root)
    kept = {"Cache-Control": redirector.caching}
    origin = [*_to(f"^{root}(/.*)", f"{redirector.origin}$1", 307), _headers(kept)]
    static = _block("url", f'=~ "{redirector.static}"', _to(f"^{root}(/.*)", f"{cdn}$1", 302))
    pages = _block("url", f'=~ "^{root}/simple/(?:{NORMAL}/)?$"', _pages(redirector)) if redirector.keys else ()
    read = _block("request-method", '=~ "^(?:GET|HEAD)$"', [*static, *pages])
    if redirector.root:
        yield from _nowhere(404, {})
        yield from _block("url", f'=~ "^{root}/"', [*origin, *read])
    else:
        yield from [*origin, *read]
    yield from _block("url", f'== "{redirector.health}"', _nowhere(200, {"Cache-Control": "no-store", LEADS_TO: cdn}))
    yield "# What CONNECT asks for is no path, and passes by what makes paths strict"
    for method in ("CONNECT", "TRACE"):
        yield from _block("request-method", f'== "{method}"', _nowhere(405, {"Cache-Control": ""}))


def _pages(redirector: Redirector) -> Iterator[str]:
    """Index pages, under the key of their JSON or HTML; `format` wins, and what is neither stays as it is asked for."""
    path = f"^{re.escape(redirector.root)}(/[^?]*)"
    html, json = (_to(path, f"{redirector.cdn}$1index.{form}") for form in ("html", "json"))
    yield _headers({"Cache-Control": redirector.caching, "Vary": "Accept"})
    yield from _block("accept", f'=~ "(?i){TAKES_JSON}"', json)
    yield from _block("accept", f'=~ "(?i)^[ \\t,]*$|{TAKES_HTML}"', html, otherwise=True)
    asked = _to(f"^{re.escape(redirector.root)}(/.*)", f"{redirector.cdn}$1")
    forms = [
        *_block("query-string", f'=~ "{OF_JSON}"', json),
        *_block("query-string", f'=~ "{OF_HTML}"', html, otherwise=True),
        *_block("query-string", f'=~ "{ANY_FORMAT}"', asked, otherwise=True),
    ]
    yield from _block("query-string", '!= ""', forms)


def _block(field: str, test: str, inside: Iterable[str], *, otherwise: bool = False) -> list[str]:
    found = f'$REQUEST_HEADER["{field}"]' if field == "accept" else f'$HTTP["{field}"]'
    return [f"{'else ' if otherwise else ''}{found} {test} {{", *(f"    {line}" for line in inside), "}"]


def _to(pattern: str, target: str, code: int = 0) -> list[str]:
    said = [f"url.redirect-code = {code}"] if code else []
    return [*said, f'url.redirect = ("{pattern}" => "{target}")']


def _nowhere(code: int, headers: Mapping[str, str]) -> list[str]:
    """An answer without a body: a redirect that tells no place."""
    return [*_to("", "/", code), _headers({"Location": "", **headers})]


def _headers(fields: Mapping[str, str]) -> str:
    said = ", ".join(f'"{name}" => "{value}"' for name, value in fields.items())
    return f"setenv.set-response-header = ({said})"
