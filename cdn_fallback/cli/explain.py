"""``cdn-fallback explain URL``: the plan for a URL, then what really happens."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urldefrag, urlsplit

from cdn_fallback.cli.client import (
    PAGE_HEADERS,
    Client,
    add_cert_argument,
    declared,
    each,
    say_if_switched_off,
    seconds,
)
from cdn_fallback.cli.output import Unusable, complain, iso, say, say_json, table
from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError
from cdn_fallback.exchange import Kind
from cdn_fallback.health import Health, default_path
from cdn_fallback.lines import Call, key
from cdn_fallback.pool import Endpoint, Pool, pool_for, without_credentials
from cdn_fallback.transport import Transport
from cdn_fallback.verdicts import REDIRECTS, Attempt, Verdict

CHUNK = 64 * 1024
FILE_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}  # as pip asks: a .tar.gz shall stay one
PAGE = re.compile(r"(?:/|/simple(?:/[^/]+)?)$")


@dataclass(frozen=True, slots=True)
class Stop:
    """A line of the plan: where `endpoint` has it, at which addresses; why it is not asked, if it is not."""

    endpoint: Endpoint
    url: str
    addresses: tuple[str, ...]
    problem: str | None = None
    asked: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="of a page or file; a file's may end in #sha256=..., as on its page")
    parser.add_argument("--timeout", type=seconds, default=15.0, help="as pip's, in seconds (default: 15)")
    parser.add_argument("--retries", type=int, default=5, help="as pip's (default: 5)")
    add_cert_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    url, fragment = urldefrag(_checked(arguments.url))
    config, client = declared(os.environ), Client(arguments.cert)
    attempts: list[Attempt] = []

    def noticed(attempt: Attempt) -> None:
        attempts.append(attempt)
        if not arguments.json:
            say(f"{len(attempts):3}. {attempt}")

    health = Health(default_path())
    health.load()
    transport = Transport(client.flavour, config, health, wrap=lambda error, *_: error, noticed=noticed)
    transport.promises.expect(url, _hashes(fragment))
    request = client.prepared(url, PAGE_HEADERS if PAGE.search(urlsplit(url).path or "/") else FILE_HEADERS)
    call, kind, pool = client.call(url, arguments.retries), Kind.of(request, True), pool_for(config.pools, request.url)
    demoted = health.demotions()
    plan = _plan(transport, call, pool, request.url, kind)
    if not arguments.json:
        _show_plan(config.pools, pool, without_credentials(request.url), kind, plan, demoted)
    try:
        result = _fetch(transport, call, request, kind, arguments.timeout)
        _add_servers(result, attempts)
        error = None
    except CdnFallbackError as failure:
        result, error = {}, failure
    finally:
        transport.lines.close(call.adapter)
        health.save()
    if arguments.json:
        document = {
            "url": without_credentials(request.url),
            "pool": {"name": pool.name, "index": pool.index, "declared": pool.declared},
            "kind": kind.value,
            "plan": [_stop_json(stop, demoted) for stop in plan],
            "attempts": [_attempt_json(attempt) for attempt in attempts],
            "result": result or None,
            "error": None if error is None else str(error),
        }
        say_json(document)
    elif isinstance(error, AllEndpointsFailed):  # the attempts were shown as they happened
        complain(f"no usable answer for {error.url}")
        complain(error.hint)
    elif error is not None:
        complain(error)
    else:
        _show_result(result)
    return 0 if error is None and result["status"] < 400 else 1


def _checked(url: str) -> str:
    # The message does not repeat the URL, which may hold a password.
    try:
        parts = urlsplit(url)
        fit = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fit = False
    if not fit or not url.isprintable() or " " in url:
        raise Unusable("explain: this is no http or https URL; write https://host/path")
    return url


def _hashes(fragment: str) -> Mapping[str, str]:
    return {name: value for name, value in parse_qsl(fragment) if name in hashlib.algorithms_guaranteed}


def _plan(transport: Transport, call: Call, pool: Pool, url: str, kind: Kind) -> list[Stop]:
    url = without_credentials(url)
    asked = transport.endpoints(pool, url, is_file=kind is Kind.FILE)

    def stop(endpoint: Endpoint) -> Stop:
        place = pool.place(endpoint, url)
        if endpoint not in asked:
            return Stop(endpoint, place, (), "not asked: no hash is known", asked=False)
        proxy = transport.flavour.proxy_for(place, call.proxies)
        if proxy:
            return Stop(endpoint, place, (), f"through the proxy {without_credentials(proxy)}")
        try:
            return Stop(endpoint, place, transport.lines.addresses(place))
        except OSError as exc:
            return Stop(endpoint, place, (), f"does not resolve ({exc.strerror or exc})")

    return each(stop, [*asked, *(e for e in pool.endpoints if e not in asked)])


def _fetch(transport: Transport, call: Call, request: Any, kind: Kind, timeout: float) -> dict[str, Any]:
    """Ask as the tool would, read all of it, and keep nothing but its size and hash."""
    response = transport.send(call.adapter, request, True, timeout, call.verify, call.cert, call.proxies)
    size, digest = 0, hashlib.sha256()
    try:
        chunks = response.raw.stream(CHUNK, decode_content=False) if kind is Kind.FILE else response.iter_content(CHUNK)
        for chunk in chunks:
            size += len(chunk)
            digest.update(chunk)
    finally:
        response.close()
    return {
        "status": response.status_code,
        "location": without_credentials(response.headers["Location"]) if response.is_redirect else None,
        "content_type": response.headers.get("Content-Type"),
        "bytes": size,
        "sha256": digest.hexdigest(),
    }


def _add_servers(result: dict[str, Any], attempts: list[Attempt]) -> None:
    """Who served it: more than one where a file broke and went on elsewhere."""
    answers = [a for a in attempts if a.verdict is Verdict.ANSWER and a.status not in REDIRECTS]
    if result["location"] or not answers:
        answers = [a for a in attempts if a.status == result["status"]][-1:]
    result["served_by"] = [
        {"endpoint": a.endpoint.base, "role": a.endpoint.role.value, "address": a.address} for a in answers
    ]


def _stop_json(stop: Stop, demoted: Mapping[str, float]) -> dict[str, Any]:
    return {
        "endpoint": stop.endpoint.base,
        "role": stop.endpoint.role.value,
        "url": stop.url,
        "asked": stop.asked,
        "problem": stop.problem,
        "demoted_until": _until(demoted, stop.endpoint.base),
        "addresses": [
            {"address": a, "demoted_until": _until(demoted, key(stop.endpoint.site[2], a))} for a in stop.addresses
        ],
    }


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "endpoint": attempt.endpoint.base,
        "role": attempt.endpoint.role.value,
        "url": attempt.url,
        "address": attempt.address,
        "verdict": attempt.verdict.value,
        "trouble": attempt.trouble and attempt.trouble.value,
        "status": attempt.status,
        "detail": attempt.detail,
        "seconds": round(attempt.seconds, 4),
    }


def _until(demoted: Mapping[str, float], what: str) -> str | None:
    return iso(demoted[what]) if what in demoted else None


# -- for people


def _show_plan(
    pools: tuple[Pool, ...], pool: Pool, url: str, kind: Kind, plan: list[Stop], demoted: Mapping[str, float]
) -> None:
    say_if_switched_off()
    say(f"{kind.value}  {url}")
    say(f"pool  {pool.name}: {pool.index}" if pool.declared else f"pool  none declared: {pool.index} alone")
    for other in () if pool.declared else pools:
        if hop := other.locate(url):
            say(f"note  this is where {hop} has {other.canonical(hop, url)}; pip asks for that")
    say("plan")
    for line in table([_stop_row(number, stop, demoted) for number, stop in enumerate(plan, 1)]):
        say(line)
    if not all(stop.asked for stop in plan):
        say("note  a file without a known hash comes from the index and the origin alone; add #sha256=... to the URL")
    say("attempts")


def _stop_row(number: int, stop: Stop, demoted: Mapping[str, float]) -> list[str]:
    def named(what: str, shown: str) -> str:
        until = _until(demoted, what)
        return f"{shown} (demoted until {until})" if until else shown

    port = stop.endpoint.site[2]
    addresses = ", ".join(named(key(port, address), address) for address in stop.addresses)
    place = named(stop.endpoint.base, stop.url)
    return [f"{number}." if stop.asked else "-", stop.endpoint.role.value, place, stop.problem or addresses]


def _show_result(result: dict[str, Any]) -> None:
    say("answer")
    rows = [["status", str(result["status"])]]
    for server in result["served_by"]:
        address = f" ({server['address']})" if server["address"] else ""
        rows.append(["served by", f"{server['role']} {server['endpoint']}{address}"])
    if result["location"]:
        rows.append(["goes to", f"{result['location']}: for the tool to follow, by its own rules"])
    rows += [["bytes", str(result["bytes"])], ["sha256", result["sha256"]]]
    for line in table(rows):
        say(line)
