"""What a failed request's exceptions and headers mean, in the engine's words. Pure but for the clock of a date."""

from __future__ import annotations

import email.utils
import socket
import time
from typing import Any, NamedTuple

from cdn_fallback.connections import BadHead
from cdn_fallback.pages import number
from cdn_fallback.verdicts import Trouble


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
    if _is_tls(seen):  # its types are not asked for: a Python without them still speaks http
        if said := getattr(seen, "verify_message", ""):
            return f"certificate: {said}"
        if said := getattr(seen, "reason", ""):
            return str(said).replace("_", " ").lower()
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return str(seen) or type(seen).__name__


def _is_tls(exc: BaseException) -> bool:
    return any(kind.__module__ == "ssl" for kind in type(exc).__mro__)


class Cause(NamedTuple):
    """What ended an attempt: the exception, and urllib3's pool in which it came about, if one was in use."""

    error: Exception
    pool: Any = None


def as_requests(cause: Cause, request: Any, ours: Any, urllib3: Any) -> Exception:
    """What requests' own adapter raises for `cause`; pip tells by its type what to say, and what the user can do.

    :param ours: the module of requests' exceptions
    :param urllib3: urllib3 itself
    """
    error, pool = cause
    kinds = urllib3.exceptions
    pool = pool or urllib3.connection_from_url(request.url)
    why: Any = error
    if _is_tls(error) or type(error).__name__ == "CertificateError":
        why = kinds.SSLError(error)
    elif isinstance(error, socket.gaierror):
        why = kinds.NewConnectionError(pool, str(error))
    elif isinstance(error, TimeoutError):
        why = kinds.ConnectTimeoutError(pool, f"Connection to {pool.host} timed out")
    kind = ours.ConnectionError
    if isinstance(why, kinds.ConnectTimeoutError) and not isinstance(why, kinds.NewConnectionError):
        kind = ours.ConnectTimeout
    elif isinstance(why, kinds.ProxyError):
        kind = ours.ProxyError
    elif isinstance(why, kinds.SSLError):
        kind = ours.SSLError
    failure: Exception = kind(kinds.MaxRetryError(pool, request.path_url, why), request=request)
    return failure


def send_trouble(exc: Exception, errors: Any) -> tuple[Trouble, str]:
    """What ended a request on a line that was open; `errors` is urllib3's module of exceptions."""
    if isinstance(exc, errors.ReadTimeoutError):
        return Trouble.SILENT, "connected, but did not answer"
    if isinstance(exc, (errors.ConnectTimeoutError, errors.SSLError, errors.ProxyError)):
        return connect_trouble(exc)  # NewConnectionError is a ConnectTimeoutError
    inner = next((arg for arg in exc.args if isinstance(arg, BadHead)), None)
    return Trouble.LOST, str(inner) if inner else f"broke the connection off ({reason(exc)})"
