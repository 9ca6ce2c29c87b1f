"""CloudFront's settings for a bucket of the site, as the documents that its API takes. Pure.

Every document is whole: an update replaces what was there, so nothing may be left to what CloudFront fills in. What
is known only when the parts are made stands as `@...@` (`PLACES`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from cdn_fallback.mirror import grammar
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.stores import MARKER

# What `apply.sh` puts in, each with what it is
FUNCTION, CACHING, ANSWERS, ACCESS, DISTRIBUTION = PLACES = (
    "@FUNCTION_ARN@",
    "@CACHE_POLICY_ID@",
    "@RESPONSE_HEADERS_POLICY_ID@",
    "@ORIGIN_ACCESS_CONTROL_ID@",
    "@DISTRIBUTION_ARN@",
)

RUNTIME = "cloudfront-js-2.0"
_NAME_MAX = 64  # characters of a function's name, the shortest of all limits

MIN_TTL = 0  # s; where it is 0 the objects' own Cache-Control rules
DEFAULT_TTL = 60  # s; for what has no Cache-Control, which is nothing of ours
MAX_TTL = 31536000  # s; no less than any s-maxage and max-age of the site's
ABSENT_TTL = 10  # s; what was published in the last minutes must be found soon
BROKEN_TTL = 5  # s; a bucket that answers with errors is not asked by every request

# What S3 says of an object beside what it was put with. CloudFront removes ten headers at most.
_HIDDEN = (
    "x-amz-id-2",
    "x-amz-request-id",
    "x-amz-meta-sha256",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-version-id",
    "x-amz-storage-class",
    "x-amz-expiration",
    "x-amz-replication-status",
)


class Edge(NamedTuple):
    """A distribution before a bucket: values that `checked` has let through."""

    bucket: str
    region: str
    name: str  # the host by which clients know it
    certificate: str | None = None  # the ARN of one for `name`; None: CloudFront's own name only
    trees: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name of all parts: the host as they may have it, cut short. No host has an underscore of its own."""
        found = "cdn-fallback-" + self.name.replace(".", "_")
        if len(found) <= _NAME_MAX:
            return found
        return f"{found[: _NAME_MAX - 9]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    @property
    def domain(self) -> str:
        """The bucket's host."""
        return f"{self.bucket}.s3.{self.region}.amazonaws.com"


def checked(bucket: str, region: str, name: str, certificate: str | None, trees: Sequence[str]) -> Edge:
    """The values, if each may stand in every text; raises NotConfigurable."""
    if name.lower().endswith((".amazonaws.com", ".cloudfront.net")):
        raise NotConfigurable("name", name, "is a name of AWS's; name the host that your clients are to ask")
    return Edge(
        grammar.bucket(bucket),
        grammar.region(region),
        grammar.host(name, "name").lower(),
        None if certificate is None else grammar.certificate(certificate),
        tuple(sorted({grammar.tree(tree) for tree in trees})),
    )


def _listed(*items: Any) -> dict[str, Any]:
    return {"Quantity": len(items), **({"Items": list(items)} if items else {})}


def function(edge: Edge) -> dict[str, Any]:
    """FunctionConfig."""
    return {"Comment": f"Names and forms of the package index {edge.id}"[:128], "Runtime": RUNTIME}


def cache_policy(edge: Edge) -> dict[str, Any]:
    """CachePolicyConfig: the key is the path alone, which the function has made of everything that counts."""
    return {
        "Name": edge.id,
        "Comment": "The object's key is all; its own Cache-Control rules",
        "MinTTL": MIN_TTL,
        "DefaultTTL": DEFAULT_TTL,
        "MaxTTL": MAX_TTL,
        "ParametersInCacheKeyAndForwardedToOrigin": {
            # The function chooses the twin. With true CloudFront would keep each twice.
            "EnableAcceptEncodingGzip": False,
            "EnableAcceptEncodingBrotli": False,
            "HeadersConfig": {"HeaderBehavior": "none"},
            "CookiesConfig": {"CookieBehavior": "none"},
            "QueryStringsConfig": {"QueryStringBehavior": "none"},
        },
    }


def response_headers_policy(edge: Edge) -> dict[str, Any]:
    """ResponseHeadersPolicyConfig."""
    return {
        "Name": edge.id,
        "Comment": "Types are told exactly; what S3 says of itself is not",
        "SecurityHeadersConfig": {"ContentTypeOptions": {"Override": True}},
        "RemoveHeadersConfig": _listed(*({"Header": name} for name in _HIDDEN)),
    }


def origin_access_control(edge: Edge) -> dict[str, Any]:
    """OriginAccessControlConfig: the bucket is private, CloudFront signs."""
    return {
        "Name": edge.id,
        "Description": "Reads the package index",
        "SigningProtocol": "sigv4",
        "SigningBehavior": "always",
        "OriginAccessControlOriginType": "s3",
    }


def distribution(edge: Edge) -> dict[str, Any]:
    """DistributionConfig. One behaviour for all paths: which of several CloudFront takes depends on how a path is
    written, and the function must see every request.
    """
    return {
        "CallerReference": edge.id,
        "Comment": edge.id,
        "Enabled": True,
        "Staging": False,
        "Aliases": _listed(edge.name) if edge.certificate else _listed(),
        "DefaultRootObject": "",
        "Origins": _listed(_origin(edge)),
        "OriginGroups": _listed(),
        "DefaultCacheBehavior": _behaviour(edge),
        "CacheBehaviors": _listed(),
        "CustomErrorResponses": _listed(
            *({"ErrorCode": code, "ErrorCachingMinTTL": ABSENT_TTL} for code in (400, 403, 404, 405, 414, 416)),
            *({"ErrorCode": code, "ErrorCachingMinTTL": BROKEN_TTL} for code in (500, 501, 502, 503, 504)),
        ),
        "Logging": {"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
        "PriceClass": "PriceClass_All",
        "ViewerCertificate": _certificate(edge),
        "Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
        "WebACLId": "",
        "HttpVersion": "http2and3",
        "IsIPV6Enabled": True,
    }


def _origin(edge: Edge) -> dict[str, Any]:
    return {
        "Id": "bucket",
        "DomainName": edge.domain,
        "OriginPath": "",
        "CustomHeaders": _listed(),
        "S3OriginConfig": {"OriginAccessIdentity": ""},
        "OriginAccessControlId": ACCESS,
        # A copy that is no longer fresh waits for these before stale-if-error lets it out.
        "ConnectionAttempts": 2,
        "ConnectionTimeout": 3,
        "OriginShield": {"Enabled": False},
    }


def _behaviour(edge: Edge) -> dict[str, Any]:
    methods = _listed("HEAD", "GET")
    return {
        "TargetOriginId": "bucket",
        "ViewerProtocolPolicy": "redirect-to-https",
        "AllowedMethods": {**methods, "CachedMethods": methods},
        "CachePolicyId": CACHING,
        "ResponseHeadersPolicyId": ANSWERS,
        # Pages have their twins, files are archives.
        "Compress": False,
        "SmoothStreaming": False,
        "FieldLevelEncryptionId": "",
        "TrustedSigners": {"Enabled": False, **_listed()},
        "TrustedKeyGroups": {"Enabled": False, **_listed()},
        "LambdaFunctionAssociations": _listed(),
        "FunctionAssociations": _listed(
            {"EventType": "viewer-request", "FunctionARN": FUNCTION},
            {"EventType": "viewer-response", "FunctionARN": FUNCTION},
        ),
    }


def _certificate(edge: Edge) -> dict[str, Any]:
    if edge.certificate is None:
        return {"CloudFrontDefaultCertificate": True}
    return {
        "CloudFrontDefaultCertificate": False,
        "ACMCertificateArn": edge.certificate,
        "SSLSupportMethod": "sni-only",
        "MinimumProtocolVersion": "TLSv1.2_2021",
    }


def bucket_policy(edge: Edge) -> dict[str, Any]:
    """The bucket's policy: docs/mirror.md has the same."""
    place = f"arn:aws:s3:::{edge.bucket}"
    cloudfront = {"Service": "cloudfront.amazonaws.com"}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TheCdnReads",
                "Effect": "Allow",
                "Principal": cloudfront,
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": [place, f"{place}/*"],
                "Condition": {"StringEquals": {"AWS:SourceArn": DISTRIBUTION}},
            },
            {
                "Sid": "ButNotTheMark",
                "Effect": "Deny",
                "Principal": cloudfront,
                "Action": "s3:GetObject",
                "Resource": f"{place}/{MARKER}",
            },
        ],
    }


DOCUMENTS = {
    "function.json": function,
    "cache-policy.json": cache_policy,
    "response-headers-policy.json": response_headers_policy,
    "origin-access-control.json": origin_access_control,
    "distribution.json": distribution,
    "bucket-policy.json": bucket_policy,
}
