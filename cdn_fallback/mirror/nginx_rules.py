r"""What `negotiate` says, in nginx's words: what a server of a folder and an edge before a bucket have in common. Pure.

nginx cannot make a letter small. A name that is not normalised goes through a list of rewrite rules, each of which
replaces one letter or one run of separators. What they have changed nginx looks at anew, up to ten times: enough for
every name of 200 characters. The client sees one redirect, to the normalised name.
"""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase

from cdn_fallback.mirror import site
from cdn_fallback.mirror.names import MAX_NAME
from cdn_fallback.mirror.patterns import HTML_FORMAT, JSON_FORMAT, NAME, NORMAL, TAKES_HTML, TAKES_JSON

_TIMES = 10  # that nginx looks anew (its NGX_HTTP_MAX_URI_CHANGES); one more is a 500
# For each time, with some to spare: every character may be a capital, every second one a separator.
_CAPITALS = MAX_NAME // _TIMES + 4
_RUNS = MAX_NAME // 2 // _TIMES + 4

Pages = Callable[..., list[str]]  # (keys, Cache-Control, directives...) -> the locations that send these pages

# The same in each configuration: where one nginx has several, the last one stands, and is no other.
MAPS = rf"""# What the header Accept asks for: JSON if that is named with a weight above 0 (PEP 691), else HTML.
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

GENERAL = [
    "server_tokens off;",
    "# Redirects name no host: a request's Host header is anybody's text.",
    "absolute_redirect off;",
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
]
REFUSALS = [
    "if ($request_method !~ ^(?:GET|HEAD)$) {",
    "    return 405;",
    "}",
    "if ($cdn_fallback_refused) {",
    "    return 404;",
    "}",
    'set $cdn_fallback_renamed "";',
]

NOSNIFF = 'add_header X-Content-Type-Options "nosniff" always;'
# In a location of pages: the end of what was renamed by the rules below
RENAMED = ["if ($cdn_fallback_renamed) {", "    return 301 $uri;", "}"]


def location(match: str, *lines: str) -> list[str]:
    """A location with these directives."""
    return [f"location {match} {{", *(f"    {line}" for line in lines), "}"]


def typed(default: str, *pairs: tuple[str, str]) -> list[str]:
    """The type of whatever the location sends, but of (ending, type)."""
    types = ["types {", *(f'    "{kind}" {ending};' for ending, kind in pairs), "}"] if pairs else ["types { }"]
    return [*types, f'default_type "{default}";']


def headers(caching: str, vary: str = "") -> list[str]:
    """What a location's answers are sent with: all of it, as its own add_header stand in the place of others."""
    found = [f'add_header Cache-Control "{caching}";', NOSNIFF]
    return [*found, f'add_header Vary "{vary}";'] if vary else found


def error(code: int, text: str, *lines: str) -> list[str]:
    """An error as a line of text, with these directives."""
    name = f"@cdn_fallback_{code}"
    answer = f'return {code} "{text}\\n";'
    return [f"error_page {code} {name};", *location(name, *typed(site.TEXT_TYPE), NOSNIFF, *lines, answer)]


NO_SUCH_FILE = error(404, "There is no such page or file here.")
ERRORS = [
    *NO_SUCH_FILE,
    *error(405, "This site can only be read.", 'add_header Allow "GET, HEAD" always;'),
    *error(406, f"This page can be had as {site.JSON_TYPE} and as text/html.", 'add_header Vary "Accept" always;'),
]

_IN_THE_FORM_WANTED = ["if ($cdn_fallback_page = none) {", "    return 406;", "}"]
_CAPITAL = "^(?<cdn_fallback_head>[^A-Z]*)(?<cdn_fallback_capital>[A-Z])(?<cdn_fallback_tail>.*)$"
# The first run of separators that is not a dash alone
_RUN = "^((?:[^._-]|-(?![._-]))*+)[._-]++(.*)$"


def index(pages: Pages) -> list[str]:
    """The locations of everything in simple/ and pypi/.

    :param pages: what makes the locations that send pages by their keys; the directives RENAMED belong into them
    """
    return [
        "# The project list",
        *location("= /simple", *headers(site.PAGE), "return 301 /simple/$cdn_fallback_query;"),
        *location("= /simple/", *_IN_THE_FORM_WANTED, "rewrite ^ /simple/index.$cdn_fallback_page last;"),
        *pages("simple/index[.](?:html|json)", site.LIST),
        "",
        "# A project's pages. Here ends what was renamed below: one redirect, whatever it took.",
        *location(
            f'~ "^/simple/{NORMAL}/$"',
            *headers(site.PAGE),
            "if ($cdn_fallback_renamed) {",
            "    return 301 $uri$cdn_fallback_query;",
            "}",
            *_IN_THE_FORM_WANTED,
            "rewrite ^(.*)$ $1index.$cdn_fallback_page last;",
        ),
        *pages(f"simple/{NAME}/index[.](?:html|json)", site.PAGE),
        *pages(f"pypi/{NORMAL}/json", site.PAGE, f"add_header {site.SERIAL_HEADER} {site.NEW_ENOUGH};"),
        "",
        "# Names that are not normalised (PEP 503), or lack their slash. Each rule replaces one capital, or one run of",
        "# separators; a longer name comes here again with what is left.",
        *location(
            f'~ "^/(?:simple/{NAME}/?|pypi/{NAME}/json)$"',
            "set $cdn_fallback_renamed 1;",
            *[f'rewrite "{_CAPITAL}" $cdn_fallback_head$cdn_fallback_small$cdn_fallback_tail;'] * _CAPITALS,
            *[f'rewrite "{_RUN}" $1-$2;'] * _RUNS,
            "rewrite ^(/simple/[^/]+)$ $1/;",
        ),
        *location("/simple/", "return 404;"),
        *location("/pypi/", "return 404;"),
    ]


def server(lines: list[str]) -> str:
    """The text of a server block with these directives."""
    return "server {\n" + "".join(f"    {line}\n" if line else "\n" for line in lines) + "}\n"
