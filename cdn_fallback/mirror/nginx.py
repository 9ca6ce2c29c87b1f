r"""The configuration with which nginx serves a site from a folder: what `negotiate` says, in nginx's words. Pure.

It needs nothing but what nginx (1.12 or later) is commonly built with. Where it differs from `serve`:

- nginx does not weigh JSON against HTML: who names JSON with any weight above 0 gets it;
- a path that cannot be (`/..`, `%00`, `%zz`) gets a 400 from nginx itself, `#` ends one;
- a Range header that is none may get a 416, a compressed page has no parts;
- If-None-Match does not outdo If-Modified-Since: both must hold.

nginx cannot make a letter small, either. A name that is not normalised goes through a list of rewrite rules, each of
which replaces one letter or one run of separators. What they have changed nginx looks at anew, up to ten times:
enough for every name of 200 characters. The client sees one redirect, to the normalised name.
"""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_uppercase

from cdn_fallback.mirror import grammar, site
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.media_types import TYPES
from cdn_fallback.mirror.names import MAX_NAME, BadName, check_key
from cdn_fallback.mirror.negotiate import NEGOTIATED, headers_of
from cdn_fallback.mirror.patterns import HTML_FORMAT, JSON_FORMAT, NAME, NORMAL, TAKES_HTML, TAKES_JSON

_OWN = ("simple", "pypi", "robots.txt", "last-modified")

_TIMES = 10  # that nginx looks anew (its NGX_HTTP_MAX_URI_CHANGES); one more is a 500
# For each time, with some to spare: every character may be a capital, every second one a separator.
_CAPITALS = MAX_NAME // _TIMES + 4
_RUNS = MAX_NAME // 2 // _TIMES + 4


def configuration(root: str, listen: Iterable[str], server_name: str, *, trees: Iterable[str] = ()) -> str:
    """The text of a file to be included in nginx's http block: a server, and the maps that it needs.

    :param root: the folder of the site, absolute
    :param listen: ports, each with an address or without: "80", "127.0.0.1:8080", "[::1]:80"
    :param server_name: the site's host; "_" for any
    :param trees: the prefixes of what is published beside the index
    :raises NotConfigurable: for a value that holds anything but letters, digits and a few harmless characters
    """
    lines = [f"listen {grammar.listen(place)};" for place in listen]
    if not lines:
        raise NotConfigurable("listen", "", "is missing; name a port, or an address and a port")
    lines += [
        f"server_name {grammar.server_name(server_name)};",
        f"root {grammar.path(root, 'folder')};",
        "",
        *_GENERAL,
        "",
        *_ERRORS,
    ]
    lines += ["", *_INDEX, "", *_FILES]
    prefixes = sorted(map(_tree, trees))
    for prefix in prefixes:
        lines += ["", *_of_tree(prefix)]
    if prefixes:
        lines += _FOLDER
    server = "".join(f"    {line}\n" if line else "\n" for line in lines)
    return f"{_MAPS}\nserver {{\n{server}}}\n"


def _tree(prefix: str) -> str:
    try:
        check_key(prefix)
    except BadName as exc:
        raise NotConfigurable("tree", prefix, f"{exc.reason}; name another prefix") from exc
    if prefix.partition("/")[0] in _OWN:
        raise NotConfigurable("tree", prefix, "is the index's own; name another prefix")
    return prefix


_MAPS = rf"""# Written by cdn-fallback, for the http block. For https add `listen 443 ssl;` and the certificate.

# What the header Accept asks for: JSON if that is named with a weight above 0 (PEP 691), else HTML.
map $http_accept $cdn_fallback_accepted {{
    default none;
    "" html;
    "~^[ \t,]*$" html;
    "~*{TAKES_JSON}" json;
    "~*{TAKES_HTML}" html;
}}

# ?format= wins.
map $arg_format $cdn_fallback_page {{
    default none;
    "" $cdn_fallback_accepted;
    "~*^{JSON_FORMAT}$" json;
    "~*^{HTML_FORMAT}$" html;
}}

# The query that goes along with a redirect: a format that is known, and nothing else.
map $arg_format $cdn_fallback_query {{
    default "";
    "" "";
    "~*^(?:{JSON_FORMAT}|{HTML_FORMAT})$" "?format=$arg_format";
}}

# Paths, as they are sent, that no object has: with a hidden or an empty part, a backslash, a control character.
map $request_uri $cdn_fallback_refused {{
    default "";
    "~*^[^?]*(?:/(?:\.|%2e)|//|\\|%2f|%5c|%[01][0-9a-f]|%7f)" 1;
}}

# The path as it is sent.
map $request_uri $cdn_fallback_path {{
    "~^(?<cdn_fallback_sent>[^?]*)" $cdn_fallback_sent;
}}

# The small letter for a capital one. Asked for many times in a request: hence volatile.
map $cdn_fallback_capital $cdn_fallback_small {{
    volatile;
{"".join(f"    {letter} {letter.lower()};{chr(10)}" for letter in ascii_uppercase)}}}
"""

_GENERAL = [
    "server_tokens off;",
    "# Redirects name no host: a request's Host header is anybody's text.",
    "absolute_redirect off;",
    "# Nothing outside the folder is sent.",
    "disable_symlinks on from=$document_root;",
    "autoindex off;",
    "sendfile on;",
    "etag on;",
    "max_ranges 1;",
    "# Pages were compressed when they were made. Caches (Via) and HTTP/1.0 get them so, too.",
    "gzip off;",
    "gzip_vary off;",
    "gzip_proxied any;",
    "gzip_http_version 1.0;",
    "expires off;",
    "# Types are told exactly: installers refuse a page of any other.",
    "charset off;",
    "types_hash_max_size 2048;",
    "",
    "if ($request_method !~ ^(?:GET|HEAD)$) {",
    "    return 405;",
    "}",
    "if ($cdn_fallback_refused) {",
    "    return 404;",
    "}",
    'set $cdn_fallback_renamed "";',
]

_NOSNIFF = 'add_header X-Content-Type-Options "nosniff" always;'


def _location(match: str, *lines: str) -> list[str]:
    return [f"location {match} {{", *(f"    {line}" for line in lines), "}"]


def _typed(default: str, *pairs: tuple[str, str]) -> list[str]:
    """The type of whatever the location sends, but of (ending, type)."""
    types = ["types {", *(f'    "{kind}" {ending};' for ending, kind in pairs), "}"] if pairs else ["types { }"]
    return [*types, f'default_type "{default}";']


def _headers(caching: str, vary: str = "") -> list[str]:
    # all in each location: its own add_header stand in the place of those around it
    found = [f'add_header Cache-Control "{caching}";', _NOSNIFF]
    return [*found, f'add_header Vary "{vary}";'] if vary else found


def _error(code: int, text: str, *lines: str) -> list[str]:
    name = f"@cdn_fallback_{code}"
    answer = f'return {code} "{text}\\n";'
    return [f"error_page {code} {name};", *_location(name, *_typed(site.TEXT_TYPE), _NOSNIFF, *lines, answer)]


_ERRORS = [
    "# Errors, a line of text each",
    *_error(403, "The server may not read this file."),
    *_error(404, "There is no such page or file here."),
    *_error(405, "This site can only be read.", 'add_header Allow "GET, HEAD" always;'),
    *_error(406, f"This page can be had as {site.JSON_TYPE} and as text/html.", 'add_header Vary "Accept" always;'),
]


def _pages(keys: str, caching: str, *more: str) -> list[str]:
    """Pages by their keys, with their twins for those who take gzip; and the twins by their own keys."""
    common = _typed(site.LEGACY_TYPE, ("html", site.HTML_TYPE), ("json", site.JSON_TYPE))
    common += [*_headers(caching, NEGOTIATED), *more]
    renamed = ["if ($cdn_fallback_renamed) {", "    return 301 $uri;", "}"]
    absent = ["if (!-f $request_filename) {", "    return 404;", "}"]
    twin = ["gzip_static always;", "rewrite ^(.*)[.]gz$ $1 break;"]
    return [
        *_location(f'~ "^/{keys}$"', *common, "gzip_static on;", *renamed, "try_files $uri =404;"),
        *_location(f'~ "^/{keys}[.]gz$"', *common, *absent, *twin),
    ]


_IN_THE_FORM_WANTED = ["if ($cdn_fallback_page = none) {", "    return 406;", "}"]
_CAPITAL = "^(?<cdn_fallback_head>[^A-Z]*)(?<cdn_fallback_capital>[A-Z])(?<cdn_fallback_tail>.*)$"
# The first run of separators that is not a dash alone
_RUN = "^((?:[^._-]|-(?![._-]))*+)[._-]++(.*)$"

_INDEX = [
    "# The project list",
    *_location("= /simple", *_headers(site.PAGE), "return 301 /simple/$cdn_fallback_query;"),
    *_location("= /simple/", *_IN_THE_FORM_WANTED, "rewrite ^ /simple/index.$cdn_fallback_page last;"),
    *_pages("simple/index[.](?:html|json)", site.LIST),
    "",
    "# A project's pages. Here ends what was renamed below: one redirect, whatever it took.",
    *_location(
        f'~ "^/simple/{NORMAL}/$"',
        *_headers(site.PAGE),
        "if ($cdn_fallback_renamed) {",
        "    return 301 $uri$cdn_fallback_query;",
        "}",
        *_IN_THE_FORM_WANTED,
        "rewrite ^(.*)$ $1index.$cdn_fallback_page last;",
    ),
    *_pages(f"simple/{NAME}/index[.](?:html|json)", site.PAGE),
    *_pages(f"pypi/{NORMAL}/json", site.PAGE, f"add_header {site.SERIAL_HEADER} {site.NEW_ENOUGH};"),
    "",
    "# Names that are not normalised (PEP 503), or lack their slash. Each rule replaces one capital, or one run of",
    "# separators; a longer name comes here again with what is left.",
    *_location(
        f'~ "^/(?:simple/{NAME}/?|pypi/{NAME}/json)$"',
        "set $cdn_fallback_renamed 1;",
        *[f'rewrite "{_CAPITAL}" $cdn_fallback_head$cdn_fallback_small$cdn_fallback_tail;'] * _CAPITALS,
        *[f'rewrite "{_RUN}" $1-$2;'] * _RUNS,
        "rewrite ^(/simple/[^/]+)$ $1/;",
    ),
    *_location("/simple/", "return 404;"),
    *_location("/pypi/", "return 404;"),
]

_FILES = [
    "# Projects' files: what has one of these names never changes",
    *_location(
        "/",
        *_typed(site.FILE_TYPE),
        *_headers(site.FOREVER),
        "try_files $uri =404;",
        *_location(
            "~ [.]metadata$", *_typed(site.TEXT_TYPE), *_headers(site.FOREVER), "try_files $uri =404;"
        ),
    ),
    *_location("= /robots.txt", *_typed(site.TEXT_TYPE), *_headers(site.LIST)),
    *_location("= /last-modified", *_typed(site.TEXT_TYPE), *_headers(site.BRIEF)),
]  # fmt: skip


def _of_tree(prefix: str) -> list[str]:
    types = [(ending[1:], kind) for ending, kind in TYPES.items()]
    caching = headers_of(f"{prefix}/x", (prefix,)).cache_control
    return [
        "# Files beside the index",
        *_location(
            f"^~ /{prefix}/",
            *_typed(site.FILE_TYPE, *types),
            *_headers(caching),
            "rewrite ^(.*/)$ $1index.html break;",
            "try_files $uri @cdn_fallback_folder;",
        ),
        *_location(f"= /{prefix}", "try_files $uri @cdn_fallback_folder;"),
    ]


# A folder without its slash: links in its page are relative to that.
_FOLDER = _location(
    "@cdn_fallback_folder",
    *_headers(site.PAGE),
    "if (-f $document_root$uri/index.html) {",
    "    return 301 $cdn_fallback_path/;",
    "}",
    "return 404;",
)
