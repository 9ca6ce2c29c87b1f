"""What `negotiate` and `names` say, as regular expressions for servers that have PCRE: nginx, lighttpd. Pure.

They do not weigh JSON against HTML: who names JSON with any weight above 0 gets it.
"""

from __future__ import annotations

from cdn_fallback.mirror.names import MAX_NAME

NAME = rf"[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,{MAX_NAME - 2}}}[A-Za-z0-9])?"  # as names.normalised has it
NORMAL = r"[a-z0-9]+(?:-[a-z0-9]+)*"  # what it makes of it (PEP 503)

# What may follow a media range: parameters, and a weight above 0 or none. The possessive parts keep it linear.
_TAKEN = r"[ \t]*+(?:;[ \t]*+(?!q=)[^,;]*+)*+(?:;[ \t]*+q=(?:1(?:\.0*)?|0\.0*[1-9][0-9]*)[ \t]*+(?:;[^,]*+)?)?(?:,|$)"
_SIMPLE = r"application/vnd\.pypi\.simple\.(?:v1|latest)\+"
# In the header Accept, whatever the case of letters
TAKES_JSON = rf"(?:^|,)[ \t]*+{_SIMPLE}json{_TAKEN}"
TAKES_HTML = rf"(?:^|,)[ \t]*+(?:{_SIMPLE}html|text/html|text/\*|application/\*|\*/\*){_TAKEN}"

# In the header Accept-Encoding, whatever the case of letters: of what is said of gzip the first counts
TAKES_GZIP = rf"^(?:[ \t]*+(?!gzip[ \t]*+(?:[,;]|$))[^,]*+,)*+[ \t]*+gzip{_TAKEN}"

# The values of `?format=` (PEP 691), as they stand in a URL: "+" may be a space there, slash and plus be encoded.
JSON_FORMAT = r"application(?:/|%2F)vnd\.pypi\.simple\.(?:v1|latest)(?:\+|%2B|%20)json"
HTML_FORMAT = r"(?:application(?:/|%2F)vnd\.pypi\.simple\.(?:v1|latest)(?:\+|%2B|%20)|text(?:/|%2F))html"
