"""What the files of a documentation site are, by their endings. Pure.

A table of our own: Python's changes between its versions, and the machine's from machine to machine, and each change
would publish every file anew. Everything else is sent as bytes.
"""

from __future__ import annotations

OCTETS = "application/octet-stream"
_UTF_8 = "; charset=utf-8"
# As the IANA has registered them, text with its encoding.
TYPES = {
    ".atom": "application/atom+xml",
    ".avif": "image/avif",
    ".css": "text/css" + _UTF_8,
    ".csv": "text/csv" + _UTF_8,
    ".gif": "image/gif",
    ".htm": "text/html" + _UTF_8,
    ".html": "text/html" + _UTF_8,
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript" + _UTF_8,
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown" + _UTF_8,
    ".mjs": "text/javascript" + _UTF_8,
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".rss": "application/rss+xml",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain" + _UTF_8,
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}


def media_type(key: str) -> str:
    """The Content-Type of the file with this key."""
    name = key.rpartition("/")[2].lower()
    return TYPES.get(name[name.rfind(".") :] if "." in name else "", OCTETS)
