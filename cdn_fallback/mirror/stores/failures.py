"""What an object store says has gone wrong, in words that tell what to do. obstore's errors are few; the text tells."""

from __future__ import annotations

from collections.abc import Sequence

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")


def reject_no_bucket(exc: FileNotFoundError) -> None:
    """Raises it if the bucket is missing, and not just an object: obstore says the same of both."""
    if any(sign in str(exc) for sign in _NO_BUCKET):
        raise exc


_NO_CREDENTIALS = "finds no credentials: neither in the environment nor by a role of this machine (docs/mirror.md)"
_ADVICE: Sequence[tuple[str, str]] = (
    ("169.254.169.254", _NO_CREDENTIALS),
    ("metadata.google.internal", _NO_CREDENTIALS),
    ("RequestTimeTooSkewed", "refuses this machine's clock; set it right (NTP), and run again"),
    ("InvalidAccessKeyId", "does not know these credentials; look at what the provider's chain finds first"),
    ("SignatureDoesNotMatch", "does not take these credentials: the secret is wrong"),
    ("ExpiredToken", "does not take these credentials: they have expired"),
    ("SlowDown", "asks to slow down, and did so for as long as it was tried again; run later, it goes on where it was"),
    ("AccessDenied", "does not permit it; give the publisher that right (docs/mirror.md)"),
    ("InsufficientStorage", "no space left; make some and run again. What was published before is whole"),
    ("QuotaExceeded", "no space left in its quota; raise it and run again. What was published before is whole"),
)


def advice(exc: Exception) -> str:
    """What is wrong and what to do, without a full stop."""
    text = str(exc)
    for sign in _NO_BUCKET:
        if sign in text:
            return "there is no such bucket; make it first, or mend the URL"
    for sign, problem in _ADVICE:
        if sign in text:
            return problem
    what = _first_line(text)
    if isinstance(exc, UnauthenticatedError):
        return f"does not take these credentials ({what})"
    if isinstance(exc, PermissionDeniedError):
        return f"does not permit it ({what}); give the publisher that right (docs/mirror.md)"
    if "error sending request" in text or "connect" in text.lower():
        return f"cannot be reached ({what}); what was published is whole, the next run goes on"
    return f"did not do it ({what}); look at [store] endpoint and url, and run again: what was published is whole"


def _first_line(text: str) -> str:
    """obstore's message without its debugging view."""
    line = " ".join(text.partition("\n\nDebug source:")[0].split())
    return line if len(line) < 400 else f"{line[:400]}..."
