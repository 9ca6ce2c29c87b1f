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
    yield ""
    yield "# Paths that mean one thing to us and another to who is asked next."
    yield "map $request_uri $cdn_fallback_refused {"
    yield '    default "";'
    yield r'    "~*^[^?]*(?:/(?:\.|%2e){1,2}(?:[/?#]|$)|//|\x5c|%2f|%5c|%[01][0-9a-f]|%7f)" 1;'
    yield '    "~[^!-\\x7e]" 1;'
    yield "}"
    yield ""
    yield "# What follows the index's base, as it is sent"
    yield "map $request_uri $cdn_fallback_path {"
    yield f'    "~^{re.escape(redirector.health)}(?:[?#]|$)" health;'
    yield f'    "~^{re.escape(redirector.root)}(?<cdn_fallback_sent>/[^?#]*)" $cdn_fallback_sent;'
    yield "}"
    yield ""
    yield "# Whether this is neither GET nor HEAD, and not for the health path"
    yield 'map "$request_method $cdn_fallback_path" $cdn_fallback_written {'
    yield "    default 1;"
    yield '    "~^(?:GET|HEAD) | health$" "";'
    yield "}"
    if redirector.keys:
        yield from _page(redirector)


def _page(redirector: Redirector) -> Iterator[str]:
    """Where an index page leads. `format` wins, and what is neither JSON nor HTML stays as it is asked for."""
    yield ""
    yield "# Index pages: under the key of their JSON or HTML"
    yield "map $http_accept $cdn_fallback_accepted {"
    yield f"    default {_AS_ASKED};"
    yield '    "" ${cdn_fallback_path}index.html;'
    yield f'    "~*{TAKES_JSON}" ${{cdn_fallback_path}}index.json;'
    yield f'    "~*^[ \\t,]*$|{TAKES_HTML}" ${{cdn_fallback_path}}index.html;'
    yield "}"
    yield "map $args $cdn_fallback_page {"
    yield "    default $cdn_fallback_accepted;"
    yield f'    "~{OF_JSON}" ${{cdn_fallback_path}}index.json;'
    yield f'    "~{OF_HTML}" ${{cdn_fallback_path}}index.html;'
    yield f'    "~{ANY_FORMAT}" {_AS_ASKED};'
    yield "}"


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
    kept = f'add_header Cache-Control "{redirector.caching}";'
    yield kept
    yield ""
    yield from _block("if ($cdn_fallback_refused)", "return 400;")
    yield from _block('if ($cdn_fallback_path = "")', "return 404;")
    to_origin = f"return 307 {redirector.origin}{_AS_ASKED};"
    yield from _block("if ($cdn_fallback_written)", to_origin)
    yield from _block(f"location = {redirector.health}", *_HEALTHY, f"add_header {LEADS_TO} {redirector.cdn};", _OK)
    if redirector.keys:
        # its own add_header stand in the place of the server's
        to_key = f"return 302 {redirector.cdn}$cdn_fallback_page;"
        yield from _block(f'location ~ "^{root}/simple/(?:{NORMAL}/)?$"', kept, "add_header Vary Accept;", to_key)
    yield from _block(f'location ~ "{redirector.static}"', f"return 302 {redirector.cdn}{_AS_ASKED};")
    yield from _block("location /", to_origin)


def _block(head: str, *lines: str) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]
