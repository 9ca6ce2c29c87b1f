"""The files with which a person puts CloudFront before a bucket of the site. Pure: texts from templates and values.

Values stand in the templates as `{{name}}`; each has passed a grammar in which no character means anything to bash,
JSON, JavaScript, HCL or Markdown. What is of a wider grammar, the trees, stands in JavaScript alone, as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cdn_fallback.mirror import site
from cdn_fallback.mirror.edge import settings
from cdn_fallback.mirror.edge.cases import cases
from cdn_fallback.mirror.edge.settings import Edge
from cdn_fallback.mirror.grammar import NotConfigurable

TEMPLATES = ("function.js", "function.test.js", "apply.sh", "main.tf", "README.md")
EXECUTABLE = frozenset({"apply.sh"})
# CloudFront Developer Guide, "Quotas on CloudFront Functions"
FUNCTION_MAX = 10240  # bytes

_PLACE = re.compile(r"\{\{([a-z_]+)\}\}")


def files(edge: Edge, templates: Mapping[str, str]) -> dict[str, str]:
    """File name -> its text.

    :param edge: as `settings.checked` makes it
    :param templates: the texts of TEMPLATES, by name
    :raises NotConfigurable: where there are more trees than a function has room for
    """
    found = {name: _document(make(edge)) for name, make in settings.DOCUMENTS.items()}
    found["function.js"] = function(edge, templates["function.js"])
    values = _values(edge)
    for name in TEMPLATES[1:]:
        found[name] = _PLACE.sub(lambda match: values[match[1]], templates[name])
    return found


def function(edge: Edge, template: str) -> str:
    """The function's source."""
    text = template.replace("[/* trees */]", json.dumps(list(edge.trees)))
    text = text.replace("/* page caching */", site.PAGE).replace("/* serial */", site.NEW_ENOUGH)
    if len(text.encode()) > FUNCTION_MAX:
        problem = (
            f"make the function larger than the {FUNCTION_MAX} bytes that CloudFront takes; put them into one folder"
        )
        raise NotConfigurable("trees", ", ".join(edge.trees), problem)
    return text


def _document(document: Any) -> str:
    return json.dumps(document, indent=2) + "\n"


def _values(edge: Edge) -> dict[str, str]:
    hidden = settings.response_headers_policy(edge)["RemoveHeadersConfig"]["Items"]
    errors = settings.distribution(edge)["CustomErrorResponses"]["Items"]

    def codes(ttl: int) -> str:
        return ", ".join(f'"{one["ErrorCode"]}"' for one in errors if one["ErrorCachingMinTTL"] == ttl)

    return {
        "bucket": edge.bucket,
        "region": edge.region,
        "name": edge.name,
        "id": edge.id,
        "domain": edge.domain,
        "function_comment": settings.function(edge)["Comment"],
        "runtime": settings.RUNTIME,
        "min_ttl": str(settings.MIN_TTL),
        "default_ttl": str(settings.DEFAULT_TTL),
        "max_ttl": str(settings.MAX_TTL),
        "absent_ttl": str(settings.ABSENT_TTL),
        "broken_ttl": str(settings.BROKEN_TTL),
        "absent": codes(settings.ABSENT_TTL),
        "broken": codes(settings.BROKEN_TTL),
        "hidden": "\n".join(f'        "{one["Header"]}",' for one in hidden),
        "aliases": f'"{edge.name}"' if edge.certificate else "",
        "certificate": _certificate(edge),
        "certificate_words": "https with your certificate" if edge.certificate else "https under CloudFront's own name",
        "serial": site.NEW_ENOUGH,
        "cases": ",\n".join(f"  {json.dumps(case)}" for case in cases(edge)),
    }


def _certificate(edge: Edge) -> str:
    """The body of Terraform's block, as `terraform fmt` writes it."""
    if edge.certificate is None:
        return "    cloudfront_default_certificate = true"
    return (
        f'    acm_certificate_arn      = "{edge.certificate}"\n'
        '    ssl_support_method       = "sni-only"\n'
        '    minimum_protocol_version = "TLSv1.2_2021"'
    )
