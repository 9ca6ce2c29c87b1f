r"""The configuration with which nginx serves a site from a folder: what `negotiate` says, in nginx's words. Pure.

It needs nothing but what nginx (1.12 or later) is commonly built with. Where it differs from `serve`:

- nginx does not weigh JSON against HTML: who names JSON with any weight above 0 gets it;
- a path that cannot be (`/..`, `%00`, `%zz`) gets a 400 from nginx itself, `#` ends one;
- a Range header that is none may get a 416, a compressed page has no parts;
- If-None-Match does not outdo If-Modified-Since: both must hold.

The rules about names and forms are in `nginx_rules`, which an edge before a bucket goes by, too (`edge.nginx`).
"""

from __future__ import annotations

from collections.abc import Iterable

from cdn_fallback.mirror import grammar, nginx_rules, site
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.media_types import TYPES
from cdn_fallback.mirror.negotiate import NEGOTIATED, headers_of
from cdn_fallback.mirror.nginx_rules import headers, location, typed


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
    lines += ["", *nginx_rules.index(_pages), "", *_FILES]
    prefixes = sorted(map(grammar.tree, trees))
    for prefix in prefixes:
        lines += ["", *_of_tree(prefix)]
    if prefixes:
        lines += _FOLDER
    head = "# Written by cdn-fallback, for the http block. For https add `listen 443 ssl;` and the certificate."
    return f"{head}\n\n{nginx_rules.MAPS}\n{nginx_rules.server(lines)}"


_GENERAL = [
    *nginx_rules.GENERAL,
    "# Nothing outside the folder is sent.",
    "disable_symlinks on from=$document_root;",
    "autoindex off;",
    "sendfile on;",
    "",
    *nginx_rules.REFUSALS,
]

_ERRORS = [
    "# Errors, a line of text each",
    *nginx_rules.error(403, "The server may not read this file."),
    *nginx_rules.ERRORS,
]


def _pages(keys: str, caching: str, *more: str) -> list[str]:
    """Pages by their keys, with their twins for those who take gzip; and the twins by their own keys."""
    common = typed(site.LEGACY_TYPE, ("html", site.HTML_TYPE), ("json", site.JSON_TYPE))
    common += [*headers(caching, NEGOTIATED), *more]
    absent = ["if (!-f $request_filename) {", "    return 404;", "}"]
    twin = ["gzip_static always;", "rewrite ^(.*)[.]gz$ $1 break;"]
    return [
        *location(f'~ "^/{keys}$"', *common, "gzip_static on;", *nginx_rules.RENAMED, "try_files $uri =404;"),
        *location(f'~ "^/{keys}[.]gz$"', *common, *absent, *twin),
    ]


_FILES = [
    "# Projects' files: what has one of these names never changes",
    *location(
        "/",
        *typed(site.FILE_TYPE),
        *headers(site.FOREVER),
        "try_files $uri =404;",
        *location(
            "~ [.]metadata$", *typed(site.TEXT_TYPE), *headers(site.FOREVER), "try_files $uri =404;"
        ),
    ),
    *location("= /robots.txt", *typed(site.TEXT_TYPE), *headers(site.LIST)),
    *location("= /last-modified", *typed(site.TEXT_TYPE), *headers(site.BRIEF)),
]  # fmt: skip


def _of_tree(prefix: str) -> list[str]:
    types = [(ending[1:], kind) for ending, kind in TYPES.items()]
    caching = headers_of(f"{prefix}/x", (prefix,)).cache_control
    return [
        "# Files beside the index",
        *location(
            f"^~ /{prefix}/",
            *typed(site.FILE_TYPE, *types),
            *headers(caching),
            "rewrite ^(.*/)$ $1index.html break;",
            "try_files $uri @cdn_fallback_folder;",
        ),
        *location(f"= /{prefix}", "try_files $uri @cdn_fallback_folder;"),
    ]


# A folder without its slash: links in its page are relative to that.
_FOLDER = location(
    "@cdn_fallback_folder",
    *headers(site.PAGE),
    "if (-f $document_root$uri/index.html) {",
    "    return 301 $cdn_fallback_path/;",
    "}",
    "return 404;",
)
