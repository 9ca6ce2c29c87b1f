"""A file on its way to the tool: one body, however often its source breaks."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from cdn_fallback.body import PROGRESS, BodyTrouble, ResumableBody, length_of, part_of
from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError, HashMismatch
from cdn_fallback.exchange import WRONG_HASH, Exchange, Reply
from cdn_fallback.failover import Answer, World, backoff, share, silences
from cdn_fallback.pages import HTML_TYPE, is_distribution
from cdn_fallback.pool import Endpoint, Role
from cdn_fallback.verdicts import TROUBLES, Attempt, Trouble, Verdict

_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})$")


class Download(Exchange):
    """An exchange whose body is handed on as it comes, and goes on elsewhere when it breaks.

    The `Source` of its own ResumableBody: it knows what was tried, and where to go on.
    """

    # Where the body goes on (0 before it broke), where it ends, and the last byte that the tool's own Range asks for.
    _offset = 0
    _end: int | None = None
    _last: int | None = None
    _resumes = 0
    _progress = 0  # where the last resume was, from which its progress counts
    _reply: Reply | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._tags: dict[str, str] = {}  # base -> the strong ETag that it gave
        self._served: dict[tuple[Endpoint, str | None], None] = {}  # who gave parts of it, over which address
        # base -> addresses over which it broke, or came wrong before
        self._tired: dict[str, set[str | None]] = {}
        for base, address, _ in self._transport.promises.condemned(self._url):
            self._tired.setdefault(base, set()).add(address)

    # -- how an attempt differs

    def _world(self) -> World:
        return super()._world()._replace(noticed=partial(self._transport.noticed, begun=True))

    def _endpoints(self) -> list[Endpoint]:
        endpoints = self._transport.endpoints(self._pool, self._url, is_file=True)
        if self._reply is not None:
            # It goes on at another address of who gave it; redirectors would only point there again. When everybody
            # is at fault, whose fault is the oldest has its turn first.
            last, faults = self._reply.endpoint, {base: number for number, base in enumerate(self._avoid, 1)}
            endpoints.sort(key=lambda e: (e.role is Role.REDIRECTOR, faults.get(e.base, 0), e != last))
        return endpoints

    def _walk(self) -> Answer[Reply]:
        answer = super()._walk()
        self._reply, self._began = answer.response, self._transport.world.clock()
        reply = self._reply
        if (tag := reply.raw.headers.get("ETag", "")).startswith('"'):
            self._tags[reply.endpoint.base] = tag  # If-Range needs a strong one (RFC 9110, section 13.1.5)
        self._served[reply.endpoint, reply.address] = None
        return answer

    def _ask_for_part(self, headers: MutableMapping[str, str], endpoint: Endpoint) -> None:
        if self._offset:
            headers["Range"] = f"bytes={self._offset}-{'' if self._last is None else self._last}"
            headers.pop("If-Range", None)
            if tag := self._tags.get(endpoint.base):
                headers["If-Range"] = tag

    def _is_tired(self, endpoint: Endpoint, address: str | None) -> bool:
        return address in self._tired.get(endpoint.base, ())

    def _check_head(self, endpoint: Endpoint, raw: Any) -> None:
        super()._check_head(endpoint, raw)
        if self._offset and raw.status == 416:
            raise BodyTrouble(Trouble.LENGTH, f"has no byte {self._offset} of the file")

    def _read(self, endpoint: Endpoint, address: str | None, raw: Any) -> Reply:
        media_type = raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self._digest and HTML_TYPE.match(media_type) and is_distribution(self._url):
            raise BodyTrouble(Trouble.KIND, "answered with an HTML page instead of a file")
        asked = _RANGE.match(self._request.headers.get("Range", ""))
        start = self._offset or (int(asked[1]) if asked else None)
        part = part_of(raw)
        if raw.status == 206 and start is not None and (part is None or part.start != start):
            raise BodyTrouble(Trouble.CUT, "answered with another part than asked for")
        if raw.status != 206 and self._offset and self._last is not None:
            raise BodyTrouble(Trouble.CUT, "answered with the whole file instead of a part")
        if self._offset and self._last is None:
            total = part.total if part else length_of(raw)
            if None not in (total, self._end) and total != self._end:
                raise BodyTrouble(Trouble.LENGTH, f"has the file with {total} bytes instead of {self._end}")
        return Reply(endpoint, address, raw, None)

    def _failure(self, error: CdnFallbackError) -> Exception:
        disputed = any(attempt.trouble is Trouble.LENGTH for attempt in self._attempts)
        if isinstance(error, AllEndpointsFailed) and disputed and self._digest:
            error = self._condemned("another length")  # who began it may be the one that is wrong
        return super()._failure(error)

    def _body(self, reply: Reply) -> Any:
        """The tool's body: the whole file, or the part that its own Range asks for."""
        if reply.body is not None:  # a refusal
            return super()._body(reply)
        raw = reply.raw
        self._end = length_of(raw)
        if raw.status == 206:
            part = part_of(raw)
            wanted = _RANGE.match(self._request.headers.get("Range", ""))
            self._offset = part.start if part else 0
            self._end = part.end if part else None
            self._last = part.end - 1 if part and wanted and wanted[2] else None
        digest = self._digest if raw.status == 200 else None
        return ResumableBody(raw, self, self._offset, self._end, digest)

    # -- the source of the body

    def resume(self, offset: int, why: BodyTrouble) -> tuple[Any, int]:
        """See `Source`: another response that goes on at `offset`, or at 0 from a server without Range."""
        reply = self._reply
        assert reply is not None
        self._blame(reply.endpoint, reply.address, why.trouble, why.detail)
        base, (_, host, port) = reply.endpoint.base, reply.endpoint.site
        self._transport.lines.left(host, port, reply.address)
        again = self._is_tired(reply.endpoint, reply.address)  # its other addresses do not even connect
        self._tired.setdefault(base, set()).add(reply.address)
        spent = again or not self._other_addresses(reply)
        if spent or TROUBLES[why.trouble] is Verdict.BROKEN:
            self._avoid.pop(base, None)
            self._avoid[base] = None
        if spent and TROUBLES[why.trouble] is not Verdict.BROKEN:
            self._transport.exhausted(reply.endpoint, self._attempts[-1].seconds, 0.0)
        self._resumes = self._resumes + 1 if offset - self._progress < PROGRESS else 1
        self._progress = self._offset = offset
        bound = max(self._timeouts.passes, 2) * len(self._pool.endpoints) + 1
        # A range of encoded bytes would be one of another encoding's elsewhere.
        if self._resumes > bound or reply.raw.headers.get("Content-Encoding", "identity") != "identity":
            raise self._failure(AllEndpointsFailed(self._url, self._attempts))
        if self._resumes > 1 and not self._others():
            world = self._transport.world
            world.sleep(backoff(self._resumes - 1, world.chance))
        raw = self._walk().response.raw
        return raw, offset if raw.status == 206 else 0

    def patience(self) -> tuple[float, float]:
        """See `Source`: the tool's own patience when nothing else is left to try."""
        limits = share(self._timeouts, float("inf"), 1 + self._others(), silences(self._attempts))
        return limits.silence, limits.rate

    def _others(self) -> int:
        """How many other endpoints, and other addresses of the one that answered, are left to try."""
        reply = self._reply
        if reply is None:
            return 0
        others = [e for e in self._endpoints() if e != reply.endpoint and e.base not in self._avoid]
        return len(others) + self._other_addresses(reply)

    def complete(self, digest: str | None) -> None:
        """See `Source`: the body came whole; a wrong hash is the end of it, here."""
        promises, reply = self._transport.promises, self._reply
        assert reply is not None
        if digest is None or digest == str(self._digest):
            if digest is not None:
                promises.verify(self._url)
            self._transport.worked(reply.endpoint, reply.address)
            return
        for endpoint, address in self._served:
            self._blame(endpoint, address, Trouble.HASH, WRONG_HASH)
        raise self._failure(self._condemned(digest))

    def _condemned(self, digest: str) -> HashMismatch:
        """The error for a file that came with `digest`; who gave parts of it is asked last for it from now on."""
        promises = self._transport.promises
        for endpoint, address in self._served:
            promises.condemn(self._url, endpoint.base, address, digest)
        got = dict.fromkeys((base, digest) for base, _, digest in promises.condemned(self._url))
        return HashMismatch(self._url, str(self._digest), tuple(got))

    def _blame(self, endpoint: Endpoint, address: str | None, trouble: Trouble, detail: str) -> None:
        """Record that `endpoint` failed after it had begun to answer."""
        seconds, place = self._transport.world.clock() - self._began, self._pool.place(endpoint, self._url)
        attempt = Attempt(endpoint, place, address, TROUBLES[trouble], detail, seconds, trouble)
        self._attempts = (*self._attempts, attempt)
        self._transport.noticed(attempt)

    def _other_addresses(self, reply: Reply) -> int:
        try:
            found = self._transport.lines.addresses(reply.endpoint.base) if reply.address else ()
        except OSError:
            return 0
        return sum(not self._is_tired(reply.endpoint, address) for address in found if address != reply.address)
