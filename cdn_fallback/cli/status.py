"""``cdn-fallback status``: asks every address of every endpoint for one small project page."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

from cdn_fallback import dial
from cdn_fallback.body import BodyTrouble, is_framed, read_whole
from cdn_fallback.cli.client import (
    PAGE_HEADERS,
    Client,
    add_cert_argument,
    declared,
    each,
    say_if_switched_off,
    seconds,
)
from cdn_fallback.cli.output import Unusable, iso, say, say_json, table
from cdn_fallback.config import Config
from cdn_fallback.download import Download
from cdn_fallback.errors import AllEndpointsFailed
from cdn_fallback.exchange import Kind
from cdn_fallback.failover import Question, Timeouts, walk
from cdn_fallback.health import Health
from cdn_fallback.lines import Lines
from cdn_fallback.pages import MAX_DECODED, NotAPage, Page, decode, inspect
from cdn_fallback.pool import Endpoint, Pool, Role
from cdn_fallback.transport import Transport
from cdn_fallback.verdicts import TROUBLES, Attempt, Trouble, Verdict

UNCONNECTED = (Trouble.RESOLVE, Trouble.CONNECT, Trouble.TLS)
STATES = {Verdict.ANSWER: "up", Verdict.MISS: "missing", Verdict.DENIED: "denied"}


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: `url` at `endpoint`, over `address` (``None``: a proxy finds it); or why it cannot be."""

    pool: Pool
    endpoint: Endpoint
    url: str
    address: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer says that it is: the index's serial, when it was made, seconds in a cache."""

    serial: int | None = None
    last_modified: str | None = None
    age: int | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What one address answered. Times are seconds since the request began: TLS done, head of the answer there."""

    endpoint: Endpoint
    attempt: Attempt
    connect: float | None = None
    first_byte: float | None = None
    fresh: Freshness = Freshness()

    @property
    def up(self) -> bool:
        return self.attempt.verdict is Verdict.ANSWER

    @property
    def state(self) -> str:
        return STATES.get(self.attempt.verdict, "down")

    def to_json(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint.base,
            "role": self.endpoint.role.value,
            "url": self.attempt.url,
            "address": self.attempt.address,
            "state": self.state,
            "detail": self.attempt.detail,
            "status": self.attempt.status,
            "connect_ms": _ms(self.connect),
            "first_byte_ms": _ms(self.first_byte),
            "serial": self.fresh.serial,
            "last_modified": self.fresh.last_modified,
            "age": self.fresh.age,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", metavar="NAME", help="only this pool")
    parser.add_argument("--project", default="pip", help="whose page to ask for (default: pip)")
    parser.add_argument("--timeout", type=seconds, default=5.0, help="seconds for each address (default: 5)")
    add_cert_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    project = re.sub(r"[-_.]+", "-", arguments.project).lower()  # PEP 503
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", project):
        raise Unusable(f"{arguments.project!r} is no name of a project")
    pools = _pools(declared(os.environ), arguments.pool)
    found = probe_all(Client(arguments.cert), pools, project, arguments.timeout)
    if arguments.json:
        documents = [
            {"name": pool.name, "index": pool.index, "up": _is_up(probes), "addresses": [p.to_json() for p in probes]}
            for pool, probes in found
        ]
        say_json({"project": project, "pools": documents})
    else:
        say_if_switched_off()
        if not found:
            say("no pool is declared: there is nothing to ask")
        for pool, probes in found:
            _show(pool, probes, project)
    return 0 if all(_is_up(probes) for _, probes in found) else 1


def _pools(config: Config, name: str | None) -> list[Pool]:
    pools = [pool for pool in config.pools if name in (None, pool.name)]
    if name is not None and not pools:
        known = ", ".join(pool.name for pool in config.pools) or "none at all"
        raise Unusable(f"no pool is called {name}; there are: {known}")
    return pools


def _is_up(probes: list[Probe]) -> bool:
    return any(p.up and p.endpoint.role is Role.ORIGIN for p in probes)


def probe_all(client: Client, pools: list[Pool], project: str, timeout: float) -> list[tuple[Pool, list[Probe]]]:
    """Each pool with what its addresses answered, in the order of its endpoints."""
    targets = [Target(pool, endpoint, _place(pool, endpoint, project)) for pool in pools for endpoint in pool.endpoints]

    def resolve(target: Target) -> list[Target]:
        if client.flavour.proxy_for(target.url, client.call(target.url).proxies):
            return [target]
        try:
            return [replace(target, address=a) for a in dial.resolve(*target.endpoint.site[1:], timeout)]
        except OSError as exc:
            return [replace(target, problem=f"did not resolve ({exc.strerror or exc})")]

    addressed = [target for found in each(resolve, targets) for target in found]
    probes = list(zip(addressed, each(lambda target: probe(client, target, timeout), addressed), strict=True))
    return [(pool, [probe for target, probe in probes if target.pool is pool]) for pool in pools]


def _place(pool: Pool, endpoint: Endpoint, project: str) -> str:
    # Some indexes are declared at their list of projects.
    return f"{endpoint.base}{'' if pool.index.endswith('/simple/') else 'simple/'}{project}/"


class _Stopwatch(Health):
    """No memory, so that asking neither depends on what was demoted nor changes it; keeps one connect time."""

    seconds: float | None = None

    def connected(self, key: str, seconds: float) -> None:
        self.seconds = seconds


def probe(client: Client, target: Target, timeout: float) -> Probe:
    """Ask for the page of `target` as the engine would, with nobody to fall back on."""
    pool, endpoint, url, address = target.pool, target.endpoint, target.url, target.address
    if target.problem:
        attempt = Attempt(endpoint, url, None, Verdict.TRANSIENT, target.problem, 0.0, Trouble.RESOLVE)
        return Probe(endpoint, attempt)
    alone = Pool(pool.name, endpoint.base, (endpoint,))
    stopwatch = _Stopwatch()
    transport = Transport(client.flavour, Config((alone,)), stopwatch)
    transport.lines = Lines(client.flavour, stopwatch, Random(), resolve=lambda *_: (address or "",))
    request = client.prepared(url, PAGE_HEADERS, netrc=pool.is_index(endpoint))
    call = client.call(url)
    timeouts = Timeouts(connect=timeout, read=timeout, passes=1, budget=timeout)
    # As a file, so that the attempt ends with the answer's head; the page is read and checked below.
    exchange = Download(transport, alone, request, call, Kind.FILE, timeouts)
    try:
        answer = walk(Question(url, alone, alone.endpoints, timeouts), exchange.ask, transport.world)
        attempt, raw = answer.attempts[-1], answer.response.raw
        probed, fresh = attempt, Freshness()
        if answer.response.body is None:
            probed, fresh = _read(attempt, url, raw)
        raw.close()
    except AllEndpointsFailed as error:
        attempt = probed = error.attempts[-1]
        fresh = Freshness()
    finally:
        transport.lines.close(call.adapter)
    connect = None if attempt.trouble in UNCONNECTED else stopwatch.seconds
    return Probe(endpoint, probed, connect, None if attempt.status is None else attempt.seconds, fresh)


def _read(attempt: Attempt, url: str, raw: Any) -> tuple[Attempt, Freshness]:
    """The page's freshness; and `attempt`, or what became of it when the page was no page."""
    try:
        body = decode(read_whole(raw, MAX_DECODED), raw.headers.get("Content-Encoding", ""))
        page = inspect(url, raw.headers.get("Content-Type", ""), body, framed=is_framed(raw), strict=True)
    except BodyTrouble as exc:
        return _spoilt(attempt, exc.trouble, exc.detail), Freshness()
    except NotAPage as exc:
        return _spoilt(attempt, Trouble.KIND, exc.reason), Freshness()
    return attempt, _freshness(page, raw.headers)


def _spoilt(attempt: Attempt, trouble: Trouble, detail: str) -> Attempt:
    return attempt._replace(verdict=TROUBLES[trouble], detail=detail, trouble=trouble)


def _freshness(page: Page, headers: Any) -> Freshness:
    try:
        modified: str | None = iso(parsedate_to_datetime(headers.get("Last-Modified", "")))
    except (ValueError, TypeError, OverflowError, IndexError):
        modified = None
    serial = page.serial or _number(headers.get("X-PyPI-Last-Serial", ""))
    return Freshness(serial, modified, _number(headers.get("Age", "")))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


# -- for people


def _show(pool: Pool, probes: list[Probe], project: str) -> None:
    say(f"pool {pool.name}: {pool.index}")
    head = "role endpoint address state HTTP connect first-byte serial last-modified age detail"
    for line in table([head.upper().split(), *(_row(probe) for probe in probes)]):
        say(line)
    if any(p.attempt.status == 404 and p.endpoint.role is Role.ORIGIN for p in probes):
        say(f"  the origin has no project {project}: name one that it has with --project")


def _row(probe: Probe) -> list[str]:
    attempt, fresh = probe.attempt, probe.fresh
    return [
        probe.endpoint.role.value,
        probe.endpoint.base,
        _text(attempt.address),
        probe.state,
        _text(attempt.status),
        _text(_ms(probe.connect), " ms"),
        _text(_ms(probe.first_byte), " ms"),
        _text(fresh.serial),
        _text(fresh.last_modified),
        _text(fresh.age, " s"),
        "" if probe.up and attempt.status == 200 else attempt.detail,
    ]


def _text(value: object, unit: str = "") -> str:
    return "-" if value is None else f"{value}{unit}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
