"""What a proxy before an S3 server can do to a request (see tests.rig.s3_proxy)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.rig.messages import Answer
from tests.rig.s3_proxy import Exchange


@dataclass(frozen=True, slots=True)
class Before:
    """Calls back, for example to kill the client, and the store never hears of the request.

    No other request is taken meanwhile, and all connections end then.
    """

    call_back: Callable[[], object]

    def apply(self, exchange: Exchange) -> bool:
        exchange.swallow()
        exchange.proxy.last(self.call_back)
        return False


@dataclass(frozen=True, slots=True)
class After:
    """Lets the store do it, and then calls back as `Before` does; the client gets no answer."""

    call_back: Callable[[], object]

    def apply(self, exchange: Exchange) -> bool:
        _done(exchange)
        exchange.proxy.last(self.call_back)
        return False


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """Lets the store do it, and closes the connection without an answer."""

    def apply(self, exchange: Exchange) -> bool:
        _done(exchange)
        return exchange.end()


@dataclass(frozen=True, slots=True)
class Drop:
    """Closes the connection without an answer; the store never hears of the request."""

    def apply(self, exchange: Exchange) -> bool:
        exchange.swallow()
        return exchange.end()


@dataclass(frozen=True, slots=True)
class Stall:
    """No answer until the client gives up; the store never hears of the request."""

    def apply(self, exchange: Exchange) -> bool:
        exchange.swallow()
        return exchange.end("hang")


@dataclass(frozen=True, slots=True)
class Delay:
    """Holds the request back for so long; then all goes on as always."""

    seconds: float

    def apply(self, exchange: Exchange) -> bool:
        exchange.proxy.closing.wait(self.seconds)
        return exchange.healthy()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answers with an error of S3's, without asking the store."""

    status: int
    code: str
    message: str
    retry_after: int | None = None

    def apply(self, exchange: Exchange) -> bool:
        exchange.swallow()
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>{self.message}</Message>"
            f"<RequestId>rig{exchange.number}</RequestId></Error>"
        )
        answer = Answer(self.status, text.encode(), (("Content-Type", "application/xml"),))
        if self.retry_after is not None:
            answer = answer.with_headers(("Retry-After", str(self.retry_after)))
        return exchange.reply(answer)


# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
SLOW_DOWN = Refuse(503, "SlowDown", "Please reduce your request rate.")
DENY = Refuse(403, "AccessDenied", "Access Denied")
# AWS has no such limit; Ceph and others answer so
NO_SPACE = Refuse(507, "InsufficientStorage", "There is no space left on the device.")
SKEWED = Refuse(
    403, "RequestTimeTooSkewed", "The difference between the request time and the server's time is too large."
)


@dataclass(frozen=True, slots=True)
class Lose:
    """A store that says 200 and keeps nothing: of a PUT (of an object or a part) or a DELETE. Others go on to it."""

    def apply(self, exchange: Exchange) -> bool:
        method = exchange.request.method
        if method == "PUT":
            etag = hashlib.md5(exchange.swallow(), usedforsecurity=False).hexdigest()
            return exchange.reply(Answer(200, headers=(("ETag", f'"{etag}"'),)))
        if method == "DELETE":
            exchange.swallow()
            return exchange.reply(Answer(204))
        return exchange.healthy()


def _done(exchange: Exchange) -> None:
    """The store's answer, read to its end."""
    _, pieces = exchange.forward()
    for _ in pieces:
        pass
