"""A redirect server as a whole nginx.conf, for nginx 1.18 or later. Pure.

It says neither `pid` nor `daemon`: Debian's unit and its build know them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cdn_fallback.mirror.patterns import NORMAL, TAKES_HTML, TAKES_JSON
from cdn_fallback.mirror.redirectors import ANY_FORMAT, LEADS_TO, OF_HTML, OF_JSON, Redirector

_AS_ASKED = "$cdn_fallback_path$is_args$args"
_HEALTHY = ("default_type text/plain;", "add_header Cache-Control no-store;")
_WRITTEN = "if ($request_method !~ ^(?:GET|HEAD)$)"
# What may pass, not what may not, so that one way through a path tells: no empty part, none that is . or .., no
# backslash, no control character, no encoded slash. A search for the bad ones takes half as much CPU again for a
# redirect, and maps for this and for pages up to 1.7 MB (docs/benchmarks/redirectors.md).
_PLAIN = (
    r"^(?:[!-$&-.0->@-Z^-~\x5b\x5d]++|/(?!/|(?:\.|%2e){1,2}(?:[/?#]|$))|%(?!2f|5c|[01][0-9a-f]|7f))*+(?:\?[!-~]*+)?\z"
)
_OK = 'return 200 "ok\\n";'
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configuration(redirector: Redirector) -> str:
    """The file's text."""
    lines = [*(f"# {line}" for line in redirector.story), "", *_process(redirector), "", "http {"]
    lines += [f"    {line}" if line else "" for line in (*_http(redirector), "", "server {")]
    lines += [f"        {line}" if line else "" for line in _server(redirector)]
    return "\n".join([*lines, "    }", "}", ""])


def _process(redirector: Redirector) -> Iterator[str]:
    if redirector.place.folder is None:
        yield "user www-data;"
    yield "worker_processes auto;"
    yield "pcre_jit on;"
    yield "# for the connections below: 1024 is common, and a warning"
    yield "worker_rlimit_nofile 8192;"
    yield f"error_log {_logs(redirector)}/error.log;"
    yield "events {"
    yield "    worker_connections 4096;"
    yield "}"


def _logs(redirector: Redirector) -> str:
    return redirector.place.folder or "/var/log/nginx"


def _http(redirector: Redirector) -> Iterator[str]:
    yield f"access_log {_logs(redirector)}/access.log;"
    if redirector.place.folder:
        yield from (f"{name}_temp_path {redirector.place.folder}/temp;" for name in _TEMPORARY)
    yield "server_tokens off;"


def _page(redirector: Redirector, to_origin: str) -> Iterator[str]:
    """Where an index page leads. `format` wins, and what is neither JSON nor HTML stays as it is asked for."""
    html, json = (f"return 302 {redirector.cdn}${{cdn_fallback_path}}index.{form};" for form in ("html", "json"))
    as_asked = f"return 302 {redirector.cdn}{_AS_ASKED};"
    kept = _kept(redirector)
    yield kept
    yield "add_header Vary Accept;"
    yield from _block(_WRITTEN, kept, to_origin)
    yield from _block(f'if ($args ~ "{OF_JSON}")', json)
    yield from _block(f'if ($args ~ "{OF_HTML}")', html)
    yield from _block(f'if ($args ~ "{ANY_FORMAT}")', as_asked)
    yield from _block(f'if ($http_accept ~* "{TAKES_JSON}")', json)
    yield from _block(f'if ($http_accept ~* "^[ \\t,]*$|{TAKES_HTML}")', html)
    yield as_asked


def _kept(redirector: Redirector) -> str:
    return f'add_header Cache-Control "{redirector.caching}";'


def _server(redirector: Redirector) -> Iterator[str]:
    place, root = redirector.place, re.escape(redirector.root)
    for each in place.listen:
        yield f"listen {each}{' ssl' if place.certificate else ''} default_server;"
    yield from (f"listen {each} default_server;" for each in place.plain)
    yield f"server_name {' '.join(redirector.names)};"
    if place.certificate:
        yield f"ssl_certificate {place.certificate.chain};"
        yield f"ssl_certificate_key {place.certificate.key};"
        yield "ssl_protocols TLSv1.2 TLSv1.3;"
        yield "ssl_session_cache shared:cdn_fallback:1m;"
    yield "merge_slashes off;"
    yield "# Uploads are led on before they are sent, whatever their size."
    yield "client_max_body_size 0;"
    yield _kept(redirector)
    yield ""
    yield "# Paths that mean one thing to us and another to who is asked next."
    yield from _block(f'if ($request_uri !~* "{_PLAIN}")', "return 400;")
    yield "# What follows the index's base, as it is sent"
    sent = f"^(?:{re.escape(redirector.health)}(?:[?#]|$)|{root}(?<cdn_fallback_path>/[^?#]*))"
    yield from _block(f'if ($request_uri !~ "{sent}")', "return 404;")
    to_origin = f"return 307 {redirector.origin}{_AS_ASKED};"
    yield from _block(f"location = {redirector.health}", *_HEALTHY, f"add_header {LEADS_TO} {redirector.cdn};", _OK)
    if redirector.keys:
        # its own add_header stand in the place of the server's
        yield from _block(f'location ~ "^{root}/simple/(?:{NORMAL}/)?$"', *_page(redirector, to_origin))
    to_cdn = f"return 302 {redirector.cdn}{_AS_ASKED};"
    yield from _block(f'location ~ "{redirector.static}"', *_block(_WRITTEN, to_origin), to_cdn)
    yield from _block("location /", to_origin)


def _block(head: str, *lines: str) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]
