r"""nginx as a caching edge before a bucket, or before any static server of the site's keys. Pure.

The rules about names and forms are those of a folder's nginx (`nginx_rules`); here a page is a key of the bucket. It
needs nothing but what nginx (1.12 or later) is commonly built with. Where it differs from `negotiate` and `serve`:

- what `mirror.nginx` says of weights, of odd paths and of ranges; but `#` is refused and a compressed page has parts,
  as in `serve`;
- a bucket is not asked twice: the twin is taken where there must be one; a folder of a tree without its slash is not
  found, the tree itself without it always leads there;
- what the bucket forbids (403) is not found: S3 says so of an absent key where it may not be listed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from cdn_fallback.mirror import grammar, nginx_rules, site
from cdn_fallback.mirror.grammar import NotConfigurable, Url
from cdn_fallback.mirror.negotiate import NEGOTIATED
from cdn_fallback.mirror.nginx_rules import NOSNIFF, error, headers, location
from cdn_fallback.mirror.patterns import NORMAL, TAKES_GZIP

CACHE = "/var/cache/cdn-fallback-edge"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # where Debian has them

_PLUSES = 4  # of them in a key are told from spaces; a local version (PEP 440) has one in a file's name


class Tls(NamedTuple):
    """What clients are answered with over https: files in PEM."""

    certificate: str
    key: str


class Cache(NamedTuple):
    """Where copies are kept, and how the bucket is reached."""

    folder: str = CACHE
    authorities: str = AUTHORITIES  # who vouches for the bucket, where its URL is https
    resolver: str | None = None  # the address of a name server; None: the bucket's name is looked up at start


def configuration(
    bucket: str,
    name: str,
    listen: Iterable[str] = (),
    *,
    tls: Tls | None = None,
    trees: Iterable[str] = (),
    cache: Cache | None = None,
) -> str:
    """The text of a file to be included in nginx's http block.

    :param bucket: the URL under which the keys are: "https://example-mirror.s3.eu-central-1.amazonaws.com"
    :param name: the host by which clients know this edge; "_" for any, without `tls`
    :param listen: ports, each with an address or without; none: 80, or 443 and a redirect on 80, over IPv4 and IPv6
    :param trees: the prefixes of what is published beside the index
    :raises NotConfigurable: for a value that holds anything but letters, digits and a few harmless characters
    """
    host = grammar.host(name) if tls else grammar.server_name(name)
    url, kept = _asked(bucket, host), cache or Cache()
    places = [grammar.listen(place) for place in listen]
    zone = f"cdn_fallback_{hashlib.sha256(f'{host} {bucket}'.encode()).hexdigest()[:8]}"
    lines = [*_listening(places, host, tls), "", *nginx_rules.GENERAL, "", *nginx_rules.REFUSALS, *_SETTINGS]
    lines += ["", "# Errors, a line of text each", *nginx_rules.ERRORS, *_BROKEN, "", *_bucket(url, zone, kept)]
    lines += ["", *nginx_rules.index(_pages), "", *_FILES]
    for prefix in sorted({grammar.tree(tree) for tree in trees}):
        lines += ["", *_of_tree(prefix)]
    parts = [_HEAD, nginx_rules.MAPS, _MAPS, _places(url, zone, kept), nginx_rules.server(lines)]
    if tls and not places:
        parts.append(nginx_rules.server(_to_https(host)))
    return "\n".join(parts)


def _asked(bucket: str, host: str) -> Url:
    """Where the bucket is: not where this edge is, and under a name if it has to prove who it is."""
    url = grammar.url(bucket, "bucket")
    if url.host.lower() == host.lower():
        raise NotConfigurable(
            "bucket", bucket, "is on the edge's own name: it would ask itself; name the bucket's own URL"
        )
    if url.scheme == "https" and re.fullmatch(r"[0-9.]+|\[.*\]", url.host):
        raise NotConfigurable(
            "bucket", bucket, "is an address, and nginx verifies names only; name the host, or use http"
        )
    return url


_HEAD = """\
# Written by cdn-fallback, for nginx's http block: a caching edge before a bucket.
#
# nginx sends no Age and cannot be told to. Clients see how old a copy is by its Date, which is the bucket's and not
# nginx's (RFC 9111, section 4.2.3); those of cdn-fallback look at Age alone and believe what has none. So old copies
# must end by themselves. While the bucket cannot be reached, stale-if-error in its objects' Cache-Control ends them,
# after a day for pages; while it answers with 429 or 5xx nothing does.
"""


def _with_pluses(count: int) -> str:
    """The line of a map that writes `count` pluses as S3 takes them."""
    before, after = r"\+".join(["([^+]*)"] * (count + 1)), "%2B".join(f"${part}" for part in range(1, count + 2))
    return f'    "~^{before}$" "{after}";\n'


_MAPS = rf"""# The twin of a page, for who accepts gzip.
map $http_accept_encoding $cdn_fallback_gz {{
    default "";
    "~*{TAKES_GZIP}" ".gz";
}}

# Paths, as they are sent, that nginx would take for others, or that are no ASCII.
map $request_uri $cdn_fallback_odd {{
    default "";
    "~^[^?]*(?:#|[^!-~])" 1;
}}

# The path for the bucket. S3 takes a bare + for a space.
map $cdn_fallback_path $cdn_fallback_key {{
    default $cdn_fallback_path;
{"".join(map(_with_pluses, range(1, _PLUSES + 1)))}}}
"""

_SETTINGS = [
    "if ($cdn_fallback_odd) {",
    "    return 404;",
    "}",
    "# Of a page: what its answer depends on, and a serial that is always new enough.",
    'set $cdn_fallback_vary "";',
    'set $cdn_fallback_serial "";',
]


def _listening(places: list[str], host: str, tls: Tls | None) -> list[str]:
    if tls is None:
        return [*(f"listen {place};" for place in places or ("80", "[::]:80")), f"server_name {host};"]
    return [
        *(f"listen {place} ssl;" for place in places or ("443", "[::]:443")),
        f"server_name {host};",
        f"ssl_certificate {grammar.path(tls.certificate, 'certificate')};",
        f"ssl_certificate_key {grammar.path(tls.key, 'key')};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
    ]


def _to_https(host: str) -> list[str]:
    return [
        "listen 80;",
        "listen [::]:80;",
        f"server_name {host};",
        "server_tokens off;",
        f"return 301 https://{host}$request_uri;",
    ]


def _places(url: Url, zone: str, kept: Cache) -> str:
    """Where copies are, and where they come from."""
    folder = grammar.path(kept.folder, "cache")
    text = (
        "# Copies: as many as the disk can spare. What nobody asks for in a week goes.\n"
        f"proxy_cache_path {folder} levels=1:2 keys_zone={zone}:16m max_size=10g inactive=7d use_temp_path=off;\n"
    )
    if kept.resolver is None:
        text += (
            "\n# The bucket's name is looked up when nginx starts or is reloaded: reload it now and then, or name a\n"
            "# resolver.\n"
            f"upstream {zone} {{\n    server {url.host}:{url.port};\n    keepalive 16;\n}}\n"
        )
    return text


# What the bucket says of itself, of its owner, or to caches other than this one
_HIDDEN = (
    *("Set-Cookie", "Vary", "Expires", "Location", "Alt-Svc", "Strict-Transport-Security", "X-Content-Type-Options"),
    *("x-amz-request-id", "x-amz-id-2", "x-amz-version-id", "x-amz-delete-marker", "x-amz-storage-class"),
    *("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-replication-status"),
    *("x-amz-server-side-encryption-bucket-key-enabled", "x-amz-expiration", "x-amz-restore", "x-amz-tagging-count"),
    *("x-amz-bucket-region", "x-amz-error-code", "x-amz-error-message", "x-amz-meta-sha256"),
    *("x-amz-website-redirect-location", "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"),
    *(
        "x-amz-object-lock-legal-hold",
        "x-amz-mp-parts-count",
        "x-amz-missing-meta",
        "x-amz-checksum-type",
        "x-amzn-requestid",
    ),
    *(f"x-amz-checksum-{kind}" for kind in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")),
)
_IGNORED = "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset"

_BROKEN = error(502, "The bucket gives no answer that can be used.")


def _bucket(url: Url, zone: str, kept: Cache) -> list[str]:
    """The one location that asks the bucket. Its address begins with a dot, as no request's may."""
    secure = [
        "# Who answers must be the bucket.",
        "proxy_ssl_verify on;",
        "proxy_ssl_verify_depth 4;",
        f"proxy_ssl_trusted_certificate {grammar.path(kept.authorities, 'authorities')};",
        "proxy_ssl_server_name on;",
        f"proxy_ssl_name {url.host};",
        "proxy_ssl_protocols TLSv1.2 TLSv1.3;",
    ]
    place, looked_up = zone, []
    if kept.resolver is not None:
        place = "$cdn_fallback_bucket"
        looked_up = [
            "# Its name is looked up as often as the answers say.",
            f"resolver {grammar.resolver(kept.resolver)};",
            f"set $cdn_fallback_bucket {url.host}:{url.port};",
        ]
    return location(
        "^~ /.bucket/",
        "internal;",
        *looked_up,
        f"proxy_pass {url.scheme}://{place}{url.path}$cdn_fallback_object;",
        *(secure if url.scheme == "https" else ()),
        *_ASKING,
        f"proxy_set_header Host {url.netloc};",
        f"proxy_cache {zone};",
        *_KEEPING,
        *_ANSWERING,
    )


_ASKING = [
    "# The object, and nothing of the request but that.",
    "proxy_http_version 1.1;",
    'proxy_set_header Connection "";',
    "proxy_pass_request_headers off;",
    "proxy_pass_request_body off;",
    "proxy_connect_timeout 3s;",
    "proxy_read_timeout 10s;",
    "proxy_next_upstream_timeout 10s;",
    "proxy_buffer_size 16k;",
    "proxy_buffers 8 16k;",
]
_KEEPING = [
    "# For as long as its Cache-Control says (s-maxage first). stale-while-revalidate: the copy goes out while it is",
    "# fetched anew. stale-if-error: it goes out while the bucket cannot be reached. That the bucket answers with an",
    "# error nginx does not count for that: hence use_stale.",
    "proxy_cache_key $uri;",
    "proxy_cache_background_update on;",
    "proxy_cache_use_stale http_429 http_500 http_502 http_503 http_504;",
    'proxy_cache_bypass "";',
    'proxy_no_cache "";',
    "proxy_cache_lock on;",
    "proxy_cache_lock_age 10s;",
    "proxy_cache_lock_timeout 15s;",
    "proxy_cache_valid 200 1m;",
    "proxy_cache_valid 400 403 404 10s;",
    "# Not on: a copy that was only found to be current would keep its old Date.",
    "proxy_cache_revalidate off;",
    f"proxy_ignore_headers {_IGNORED} Expires Set-Cookie Vary;",
]
_ANSWERING = [
    "proxy_pass_header Date;",
    "proxy_headers_hash_bucket_size 128;",
    "proxy_headers_hash_max_size 2048;",
    *(f"proxy_hide_header {name};" for name in _HIDDEN),
    "proxy_force_ranges on;",
    "proxy_redirect off;",
    NOSNIFF,
    "add_header Vary $cdn_fallback_vary;",
    f"add_header {site.SERIAL_HEADER} $cdn_fallback_serial;",
    "add_header X-Cache $upstream_cache_status;",
    "# An absent key is a 403 where S3 may not be listed. A redirect, or an error: not the bucket's to give.",
    "proxy_intercept_errors on;",
    "error_page 400 403 404 414 =404 @cdn_fallback_404;",
    "error_page 300 301 302 303 307 308 401 405 406 409 410 412 429 500 501 502 503 504 =502 @cdn_fallback_502;",
]


def _pages(keys: str, caching: str, *more: str) -> list[str]:
    """Pages and their twins by their keys. A page for a name as it is written has no twin."""
    negotiated = f'set $cdn_fallback_vary "{NEGOTIATED}";'
    return location(
        f'~ "^/{keys}(?:[.]gz)?$"',
        *nginx_rules.RENAMED,
        negotiated,
        *(f"set $cdn_fallback_serial {site.NEW_ENOUGH};" for _ in more),
        "set $cdn_fallback_object $uri$cdn_fallback_gz;",
        f'if ($uri !~ "^/(?:simple/(?:{NORMAL}/)?index[.](?:html|json)|pypi/{NORMAL}/json)$") {{',
        "    set $cdn_fallback_object $uri;",
        "}",
        "rewrite ^ /.bucket$cdn_fallback_object last;",
    )


_AS_ASKED = ["set $cdn_fallback_object $cdn_fallback_key;", "rewrite ^ /.bucket$uri last;"]

_FILES = [
    "# Projects' files, and what else has a key",
    *location("~ /$", "return 404;"),
    *location("/", *_AS_ASKED),
]


def _of_tree(prefix: str) -> list[str]:
    return [
        "# Files beside the index",
        *location(
            f"^~ /{prefix}/",
            'if ($uri ~ "/$") {',
            '    set $cdn_fallback_object "${cdn_fallback_key}index.html";',
            "    rewrite ^ /.bucket${uri}index.html last;",
            "}",
            *_AS_ASKED,
        ),
        *location(f"= /{prefix}", *headers(site.PAGE), f"return 301 /{prefix}/;"),
    ]
