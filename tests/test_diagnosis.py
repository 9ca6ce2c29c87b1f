"""What ended an attempt, as requests' own adapter would have raised it."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys

import pytest
import requests
import urllib3
from requests import exceptions as ours
from urllib3 import exceptions as theirs

from cdn_fallback.diagnosis import Cause, as_requests, reason

POOL = urllib3.HTTPSConnectionPool("index.example", 443)
REFUSED = theirs.NewConnectionError(POOL, "refused")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "kind", "why"),
    [
        (Cause(ssl.SSLCertVerificationError(1, "self-signed")), ours.SSLError, theirs.SSLError),
        (Cause(theirs.SSLError("wrong version"), POOL), ours.SSLError, theirs.SSLError),
        (Cause(TimeoutError("timed out")), ours.ConnectTimeout, theirs.ConnectTimeoutError),
        (Cause(theirs.ConnectTimeoutError("slow"), POOL), ours.ConnectTimeout, theirs.ConnectTimeoutError),
        (Cause(theirs.ProxyError("no", OSError())), ours.ProxyError, theirs.ProxyError),
        (Cause(socket.gaierror(-2, "not known")), ours.ConnectionError, theirs.NewConnectionError),
        (Cause(REFUSED, POOL), ours.ConnectionError, theirs.NewConnectionError),
        (Cause(theirs.ReadTimeoutError(POOL, "/", "silent"), POOL), ours.ConnectionError, theirs.ReadTimeoutError),
        (
            Cause(theirs.ProtocolError("x", http.client.RemoteDisconnected("x"))),
            ours.ConnectionError,
            theirs.ProtocolError,
        ),
    ],
)
def test_a_cause_is_raised_as_requests_would(cause: Cause, kind: type[Exception], why: type[Exception]) -> None:
    request = requests.Request("GET", "https://index.example/simple/six/?x=1").prepare()
    error = as_requests(cause, request, ours, urllib3)
    assert type(error) is kind
    inner = error.args[0]
    assert isinstance(inner, theirs.MaxRetryError)
    assert type(inner.reason) is why
    assert (inner.pool.host, inner.url) == ("index.example", "/simple/six/?x=1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1000)"), "wrong version number"),
        (theirs.ProtocolError("x", ConnectionResetError(104, "Connection reset by peer")), "Connection reset by peer"),
        (theirs.NewConnectionError(POOL, "Failed: [Errno 111]"), "Failed: [Errno 111]"),  # type: ignore[arg-type]
    ],
)
def test_reasons_in_a_few_words(error: Exception, said: str) -> None:
    assert said in reason(error)


def test_a_python_without_tls_still_loads_the_engine() -> None:
    code = "import sys; sys.modules['ssl'] = None; import cdn_fallback.body, cdn_fallback.diagnosis, cdn_fallback.lines"
    subprocess.run([sys.executable, "-c", code], check=True)
