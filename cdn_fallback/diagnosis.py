"""What a failed request's exceptions and headers mean, in the engine's words. Pure but for the clock of a date."""

from __future__ import annotations

import email.utils
import ssl
import time
from typing import Any

from cdn_fallback.connections import BadHead
from cdn_fallback.failover import Trouble
from cdn_fallback.pages import number


def retry_after(raw: Any) -> float:
    """Seconds that the server asks to be left alone (RFC 9110, section 10.2.3); 0 if it does not."""
    value = raw.headers.get("Retry-After", "").strip()
    seconds = number(value)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def connect_trouble(exc: Exception) -> tuple[Trouble, str]:
    """What kept a connection from coming about."""
    name = type(exc).__name__
    if name in ("ConnectTimeoutError", "ConnectTimeout"):
        return Trouble.CONNECT, "did not connect"
    if name in ("NewConnectionError", "NameResolutionError"):
        return Trouble.CONNECT, f"did not connect ({reason(exc)})"
    if name == "ProxyError":
        return Trouble.CONNECT, f"was not reached through the proxy ({reason(exc)})"
    if isinstance(exc, TimeoutError):
        return Trouble.TLS, "connected, but TLS did not come about"
    return Trouble.TLS, f"failed in TLS ({reason(exc)})"


def reason(exc: BaseException) -> str:
    """The innermost cause of `exc` in a few words, without the reprs that urllib3 wraps it in."""
    seen: BaseException = exc
    for _ in range(8):
        inner = next((a for a in seen.args if isinstance(a, BaseException)), None)
        inner = seen.__cause__ or inner or (None if seen.__suppress_context__ else seen.__context__)
        if inner is None:
            break
        seen = inner
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"certificate: {seen.verify_message}"
    if isinstance(seen, ssl.SSLError) and seen.reason:
        return seen.reason.replace("_", " ").lower()
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return str(seen) or type(seen).__name__


def send_trouble(exc: Exception, errors: Any) -> tuple[Trouble, str]:
    """What ended a request on a line that was open; `errors` is urllib3's module of exceptions."""
    if isinstance(exc, errors.ReadTimeoutError):
        return Trouble.SILENT, "connected, but did not answer"
    if isinstance(exc, (errors.ConnectTimeoutError, errors.SSLError, errors.ProxyError)):
        return connect_trouble(exc)  # NewConnectionError is a ConnectTimeoutError
    inner = next((arg for arg in exc.args if isinstance(arg, BadHead)), None)
    return Trouble.LOST, str(inner) if inner else f"broke the connection off ({reason(exc)})"
