"""What a source asks over HTTP, where a server of the rig cannot say it: the adapter is a fake."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from cdn_fallback.mirror.sources.simple_api.web import USES, Client, Retry, Unanswered, Validators, Web

URL = "https://index.example.org/simple/"
Said = Callable[[str], tuple[int, dict[str, str], bytes]]


class Fake(BaseAdapter):
    """Answers what `said` does, as an urllib3 of the first generation hands it on: it checks no length."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said
        self.requests: list[requests.PreparedRequest] = []
        self.closed = False

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.requests.append(request)
        status, headers, body = self.said(request.url or "")
        raw = urllib3.HTTPResponse(
            io.BytesIO(body), headers, status, preload_content=False, decode_content=False, enforce_content_length=False
        )
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        self.closed = True


def client(adapter: BaseAdapter) -> Client:
    return Client(adapter, Retry(0, lambda seconds: None, lambda: 0.5))


def short(url: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Length": "9"}, b"12345"


def test_a_page_shorter_than_announced_is_none() -> None:
    with pytest.raises(Unanswered, match="stopped after 5 of 9 bytes") as caught:
        client(Fake(short)).page(URL, Validators())
    assert caught.value.again


def test_a_file_shorter_than_announced_is_none() -> None:
    with (
        client(Fake(short)).part(URL, 0) as part,
        pytest.raises(Unanswered, match="stopped after 5 of 9 bytes") as caught,
    ):
        assert part.total == 9
        list(part.chunks)
    assert caught.value.again


def test_a_file_is_asked_for_as_it_lies_there() -> None:
    """Hashes are of that, and a range of something encoded is of nothing."""
    adapter = Fake(lambda url: (200, {"Content-Encoding": "gzip"}, b"as it is"))
    with client(adapter).part(URL, 0) as part:
        assert b"".join(part.chunks) == b"as it is"
    (request,) = adapter.requests
    assert request.headers["Accept-Encoding"] == "identity" and "Range" not in request.headers


def test_https_never_becomes_http() -> None:
    adapter = Fake(lambda url: (302, {"Location": "http://index.example.org/simple/"}, b""))
    with pytest.raises(Unanswered, match="from https to http: refused"):
        client(adapter).page(URL, Validators())
    assert len(adapter.requests) == 1


@pytest.mark.parametrize("tag", ['"a\x9b"', '"' + "a" * 600 + '"', '"\u00e9"'])
def test_a_validator_that_had_better_not_be_sent_back_is_forgotten(tag: str) -> None:
    answer = client(Fake(lambda url: (200, {"ETag": tag, "Last-Modified": "once"}, b"{}"))).page(URL, Validators())
    assert answer is not None and answer.validators == Validators(URL, "", "once")


@pytest.mark.parametrize("error", [ValueError("no URL"), UnicodeError("no label"), requests.exceptions.InvalidURL("x")])
def test_what_is_no_url_is_not_asked_for_again(error: Exception) -> None:
    def said(url: str) -> tuple[int, dict[str, str], bytes]:
        raise error

    with pytest.raises(Unanswered, match="no usable answer") as caught:
        client(Fake(said)).page(URL, Validators())
    assert not caught.value.again


def test_a_client_is_used_again_until_it_knows_too_much() -> None:
    made: list[Fake] = []

    def adapter(*, max_retries: urllib3.Retry) -> Fake:
        made.append(Fake(short))
        return made[-1]

    web = Web(adapter, Retry(0, lambda seconds: None, lambda: 0.5))
    with web.client() as one, web.client() as other:
        assert one is not other
    for _ in range(2 * USES):
        with web.client():
            pass
    assert [fake.closed for fake in made] == [True, True, False]
    web.close()
    assert all(fake.closed for fake in made)
