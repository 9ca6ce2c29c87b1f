"""The engine for urllib's users: an opener to install.

    transport = Transport(any_flavour(), load(os.environ), Health(), wrap=url_error)
    urllib.request.install_opener(build(lambda: transport))

Sends GET and HEAD over the pools of the transport's configuration, everything else as urllib does. Certificates are
those that urllib trusts, proxies those of the environment; netrc and credentials in URLs are used as requests does.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from copy import copy
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urlsplit
from urllib.response import addinfourl

from cdn_fallback.diagnosis import Cause
from cdn_fallback.errors import CdnFallbackError
from cdn_fallback.exchange import Kind
from cdn_fallback.headers import PRIVATE
from cdn_fallback.lines import Flavour
from cdn_fallback.pages import decode
from cdn_fallback.pool import Pool, site

if TYPE_CHECKING:
    from cdn_fallback.transport import Transport

TIMEOUT = 15.0  # s for a read where urllib has none, and would wait for ever
RETRIES = 5  # pip's number: urllib has none

_kind: ContextVar[Kind] = ContextVar("kind", default=Kind.FILE)


@contextlib.contextmanager
def expecting(kind: Kind) -> Iterator[None]:
    """What is opened within is of this `kind`: an index page is read whole and checked before anybody sees it."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def build(transport: Callable[[], Transport | None]) -> urllib.request.OpenerDirector:
    """An opener like urllib's own, or like the one that somebody has installed, over `transport`.

    :param transport: called for each request; ``None`` leaves that to urllib
    """
    own = (_Handler, _Redirects)
    installed: Any = getattr(urllib.request, "_opener", None)
    others = [copy(handler) for handler in installed.handlers] if installed else []
    replaced = (urllib.request.HTTPHandler, urllib.request.HTTPSHandler, urllib.request.HTTPRedirectHandler)
    others = [handler for handler in others if type(handler) not in (*replaced, *own)]
    opener = urllib.request.build_opener(_Handler(transport), _Redirects(), *others)
    if installed:
        opener.addheaders = list(installed.addheaders)
    return opener


class Response(addinfourl):
    """urllib's response, with what http.client's has beside it."""

    msg: str  # the reason phrase, where urllib looks for it
    reason: str

    def getheader(self, name: str, default: Any = None) -> Any:
        return self.headers.get(name, default)

    def getheaders(self) -> list[tuple[str, str]]:
        return self.headers.items()


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """In the place of urllib's own two."""

    def __init__(self, transport: Callable[[], Transport | None]) -> None:
        super().__init__()
        self._transport = transport
        self._adapter: Any = None

    def http_open(self, req: urllib.request.Request) -> Any:
        answer = self._answer(req)
        return super().http_open(req) if answer is None else answer

    def https_open(self, req: urllib.request.Request) -> Any:
        answer = self._answer(req)
        return super().https_open(req) if answer is None else answer

    def _answer(self, req: urllib.request.Request) -> Response | None:
        """The engine's answer; ``None`` for what it does not handle."""
        transport = self._transport()
        if transport is None or req.data is not None:
            return None
        request = _prepared(transport.flavour, req)
        if not transport.handles(request):
            return None
        if self._adapter is None:
            self._adapter = transport.flavour.adapter(max_retries=RETRIES)
        kind = _kind.get() if request.method == "GET" else Kind.OTHER
        answer = transport.send(
            self._adapter,
            request,
            timeout=_timeout(req),
            verify=not unverified(),
            proxies=transport.flavour.utils.get_environ_proxies(request.url),
            kind=kind,
        )
        return _response(answer.raw, req.full_url, is_page=kind is Kind.PAGE)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib's own, but for two holes: it sends credentials along to wherever it is led, and leaves https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.lower().startswith("https:") and urlsplit(newurl).scheme.lower() != "https":
            raise HTTPError(req.full_url, code, f"redirects from https to {newurl}: refused", headers, fp)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and site(request.full_url) != site(req.full_url):
            for name in PRIVATE:
                request.remove_header(name.capitalize())
        return request


@functools.cache
def any_flavour() -> Flavour:
    """requests as it is here, or else the copy of it that pip carries, with the certificates that urllib trusts.

    Raises ImportError where there is neither.
    """
    try:
        flavour = Flavour()
    except ImportError:
        flavour = Flavour("pip._vendor.")

    class SystemTrust(flavour.adapter):  # type: ignore[misc, name-defined]
        def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
            super().cert_verify(conn, url, verify, cert)
            conn.ca_certs = conn.ca_cert_dir = None  # urllib3 then loads what OpenSSL goes by, as urllib does

    flavour.adapter = SystemTrust
    return flavour


def url_error(error: CdnFallbackError, request: Any, pool: Pool, cause: Cause | None) -> Exception:
    """`error` as urllib's users know it, for Transport's `wrap`: in its `reason`."""
    return URLError(error)


def unverified() -> bool:
    """Whether somebody has switched the verification of certificates off, for all of urllib (PEP 476)."""
    made: Any = getattr(ssl, "_create_default_https_context", None)
    return made is not None and made is getattr(ssl, "_create_unverified_context", None)


def _prepared(flavour: Flavour, req: urllib.request.Request) -> Any:
    """urllib's request as requests', before any proxy of urllib's came into it."""
    headers = {**req.unredirected_hdrs, **req.headers, "Accept-Encoding": "identity"}
    for name in ("Host", "Proxy-authorization"):
        headers.pop(name, None)
    url = urldefrag(req.full_url).url
    known = "Authorization" in headers or "@" in urlsplit(url).netloc
    auth = None if known else flavour.utils.get_netrc_auth(url)
    return flavour.requests.Request(req.get_method(), url, headers, auth=auth).prepare()


def _timeout(req: urllib.request.Request) -> float:
    seconds: Any = req.timeout
    if not isinstance(seconds, (int, float)):  # urllib's sign for "what the sockets have"
        seconds = socket.getdefaulttimeout()
    return float(seconds or TIMEOUT)


def _response(raw: Any, url: str, *, is_page: bool) -> Response:
    """urllib3's response as urllib's. A page is decoded, for urllib's users never are ready for an encoding."""
    headers = http.client.HTTPMessage()
    for name, value in raw.headers.items():
        headers[name] = value
    body: Any
    if is_page:
        content = decode(raw.read(), headers.get("Content-Encoding", ""))
        del headers["Content-Encoding"], headers["Content-Length"]
        headers["Content-Length"] = str(len(content))
        body = io.BytesIO(content)
    else:
        raw.auto_close = False  # or what buffers it takes its end for an error
        body = io.BufferedReader(cast(io.RawIOBase, raw), 64 * 1024)
    response = Response(body, headers, url, raw.status)
    response.msg = response.reason = raw.reason or ""
    return response
