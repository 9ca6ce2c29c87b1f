"""What our rules cost a redirect server: `python -m bench.redirectors` prints it.

lighttpd and nginx, each with what `cdn-fallback redirectors` writes and beside that with one rule that redirects
everything, on two addresses of loopback. wrk asks them in turns for what a pool's clients ask for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.redirector_servers import CDN, HOST, ORIGIN, Memory, Request, Running, Sides, Variant, bare, ours, started
from cdn_fallback.cli.client import PAGE_HEADERS
from cdn_fallback.cli.redirectors import SERVERS
from tests.rig.lighttpd import lighttpd
from tests.rig.nginx import nginx

SECONDS, ROUNDS, CONNECTIONS, THREADS, COUNT = 1, 15, 64, 2, 400
BOUND = 0.1  # of redirects less than bare in a CPU second, of memory more

# What pip 26 says of itself: half of the bytes of a request, and of a line in the access log.
AGENT = (
    'pip/26.3 {"ci":null,"cpu":"x86_64","distro":{"id":"bookworm","libc":{"lib":"glibc","version":"2.36"},"name":'
    '"Debian GNU/Linux","version":"12"},"implementation":{"name":"CPython","version":"3.12.1"},"installer":{"name":'
    '"pip","version":"26.3"},"openssl_version":"OpenSSL 3.0.19 27 Jan 2026","python":"3.12.1","system":{"name":'
    '"Linux","release":"6.1.0-40-amd64"}}'
)


def _request(path: str, location: str, status: int, headers: Mapping[str, str]) -> Request:
    return Request(path, {"Host": HOST, "User-Agent": AGENT, **headers}, status, location)


def requests(scheme: str, count: int = COUNT) -> dict[str, list[Request]]:
    """The kinds of them, each `count` of its kind, the same ones in every run; "mix" is 9 pages, 10 files, 1 other.

    Of the files every second is a wheel's metadata: what pip fetches to resolve is about as much as it installs.
    """
    chance, cdn, origin = random.Random(1), f"{scheme}://{CDN}", f"{scheme}://{ORIGIN}"
    kinds: dict[str, list[Request]] = {"pages": [], "files": [], "dynamic": []}
    for number in range(count):
        name = f"project-{chance.randrange(10**6)}"
        page = f"/simple/{name}/"
        kinds["pages"].append(_request(page, f"{cdn}{page}index.json", 302, PAGE_HEADERS))
        digest = f"{chance.getrandbits(256):064x}"
        wheel = f"{name.replace('-', '_')}-1.{number % 20}.0-py3-none-any.whl{'.metadata' if number % 2 else ''}"
        file = f"/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{wheel}"
        accept = {"Accept": "*/*", "Accept-Encoding": "identity"}
        kinds["files"].append(_request(file, cdn + file, 302, accept))
        other = (f"/project/{name}/", f"/search/?q={name}", "/pypi?:action=list_classifiers")[number % 3]
        accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Encoding": "gzip, deflate"}
        kinds["dynamic"].append(_request(other, origin + other, 307, accept))
    parts = {"pages": 9 * count // 20, "files": count // 2, "dynamic": count // 20}
    mix = [each for kind, part in parts.items() for each in kinds[kind][:part]]
    chance.shuffle(mix)
    return {"mix": mix, **kinds}


VARIANTS = {
    variant: kinds
    for server in SERVERS
    for variant, kinds in (
        (Variant(server), ("mix", "pages", "files", "dynamic")),
        (Variant(server, log=False), ("mix",)),
        (Variant(server, scheme="https"), ("mix",)),
    )
}


def check(servers: Mapping[str, Running], kinds: Mapping[str, Sequence[Request]]) -> None:
    """Ask each for some of each kind. Raises SystemExit for another answer than the one wanted."""
    for side, server in servers.items():
        for request in (each for kind in kinds.values() for each in kind[:10]):
            wanted = (
                (302, f"{server.variant.scheme}://{CDN}{request.path}")
                if side == "bare"
                else (request.status, request.location)
            )
            found = server.ask(request)
            if found != wanted:
                raise SystemExit(f"{server.variant}, {side}: {request.path} gives {found}, not {wanted}")


# The threads begin at different places in the list. What wrk itself prints is for people.
_LUA = """\
local made = {{ {requests} }}
local threads = 0
function setup(thread) thread:set("at", threads * 37); threads = threads + 1 end
function request() at = at % #made + 1; return made[at] end
function done(summary)
    local failed = summary.errors
    print(string.format("figures %d %d %d %d", summary.requests, summary.duration, failed.status,
        failed.connect + failed.read + failed.write + failed.timeout))
end
"""


def script(requests: Sequence[Request]) -> str:
    """For wrk: these requests, one after the other. Strings in JSON are strings in Lua as long as they are ASCII."""
    return _LUA.format(requests=", ".join(json.dumps(each.text) for each in requests))


def answered(output: str) -> tuple[int, float]:
    """Requests and seconds, from what wrk says with our script. Raises SystemExit if any went wrong."""
    line = next((line.split() for line in output.splitlines() if line.startswith("figures ")), None)
    if line is None:
        raise SystemExit(f"wrk told no figures: {output[-2000:]}")
    count, microseconds, refused, failed = map(int, line[1:])
    if refused or failed or not count:
        raise SystemExit(f"of {count} answers {refused} are neither 2xx nor 3xx; {failed} connections failed: {output}")
    return count, microseconds / 1e6


class Turn(NamedTuple):
    """One run of wrk against one server."""

    requests: int
    seconds: float
    cpu: float  # s, of the server

    @property
    def rate(self) -> float:
        """Redirects a second."""
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """CPU seconds of 10,000 redirects."""
        return 1e4 * self.cpu / self.requests


def turn(server: Running, lua: Path, seconds: int) -> Turn:
    before = server.cpu()
    wrk = ["wrk", "-c", str(CONNECTIONS), "-t", str(THREADS), "-d", f"{seconds}s", "-s", str(lua), server.url]
    done = subprocess.run(wrk, capture_output=True, text=True, errors="replace")
    turn = Turn(*answered(done.stdout + done.stderr), server.cpu() - before)
    server.forget()
    return turn


class Found(NamedTuple):
    """Of one variant: the turns of each side for each kind of requests, and the memory after them."""

    turns: dict[str, dict[str, list[Turn]]]
    memory: dict[str, Memory]


def measure(variant: Variant, kinds: Sequence[str], folder: Path, rounds: int, seconds: int, sides: Sides) -> Found:
    """Each side once a round with each kind of requests, in an order that moves on."""
    asked = requests(variant.scheme)
    with started(variant, folder, sides) as servers:
        check(servers, asked)
        for kind in kinds:
            (folder / f"{kind}.lua").write_text(script(asked[kind]))
        for server in servers.values():  # what it allocates with the first connections
            turn(server, folder / f"{kinds[0]}.lua", 1)
        turns: dict[str, dict[str, list[Turn]]] = {kind: {side: [] for side in sides} for kind in kinds}
        for number in range(rounds):
            shift = number % len(sides)
            for kind in kinds:
                for side in (*list(sides)[shift:], *list(sides)[:shift]):
                    turns[kind][side].append(turn(servers[side], folder / f"{kind}.lua", seconds))
        return Found(turns, {side: server.memory() for side, server in servers.items()})


HEAD = (
    f"{'':32} {'redirects/s':>11} {'bare':>8} {'ratio':>6} {'(spread)':>11} {'CPU-s/10,000':>13} {'bare':>7} "
    f"{'ratio':>6} {'(spread)':>11}"
)


def line(title: str, ours: Sequence[Turn], bare: Sequence[Turn]) -> str:
    """Medians, and the median ratios of the same rounds."""
    rates = [a.rate / b.rate for a, b in zip(ours, bare, strict=True)]
    costs = [a.cost / b.cost for a, b in zip(ours, bare, strict=True)]
    rate, least = (statistics.median(turn.rate for turn in side) for side in (ours, bare))
    cost, lowest = (statistics.median(turn.cost for turn in side) for side in (ours, bare))
    return (
        f"{title:32} {rate:11,.0f} {least:8,.0f} {statistics.median(rates):6.2f} {_spread(rates):>11} "
        f"{cost:13.3f} {lowest:7.3f} {statistics.median(costs):6.2f} {_spread(costs):>11}"
    )


def memory_line(ours: Memory, bare: Memory) -> str:
    sides = (f"{side.whole / 1e6:.2f} MB ({side.own / 1e6:.2f} its own)" for side in (ours, bare))
    return f"{'    memory':32} {', bare '.join(sides)}, ratio {ours.whole / bare.whole:.2f}"


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f}-{max(ratios):.2f}"


def missed(variant: Variant, found: Found) -> Iterator[str]:
    """Where ours is further from bare than the bound: redirects of the mix in a CPU second of the server, memory.

    Not redirects a second on the clock: wrk and whatever else runs have their share in those.
    """
    mix = found.turns["mix"]
    rate = statistics.median(b.cost / a.cost for a, b in zip(mix["ours"], mix["bare"], strict=True))
    if rate < 1 - BOUND:
        yield f"{variant}: {rate:.2f} times the redirects in a CPU second"
    memory = found.memory["ours"].whole / found.memory["bare"].whole
    if memory > 1 + BOUND:
        yield f"{variant}: {memory:.2f} times the memory"


def tools(servers: Sequence[str]) -> None:
    """Raises SystemExit if one that is needed is not here."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk not found: install the Debian package wrk")
    try:
        for server in servers:
            {"lighttpd": lighttpd, "nginx": nginx}[server]()
    except FileNotFoundError as exc:
        raise SystemExit(str(exc)) from exc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each has its turn ({ROUNDS})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of a turn ({SECONDS})")
    parser.add_argument("--server", choices=SERVERS, action="append", help="only this one (both)")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder is made in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    chosen = options.server or list(SERVERS)
    tools(chosen)
    figures: dict[str, Any] = {}
    problems: list[str] = []
    print(f"{os.cpu_count()} cores, {CONNECTIONS} connections, {options.rounds} turns of {options.seconds} s\n\n{HEAD}")
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-", dir=options.folder) as name:
        for variant, kinds in VARIANTS.items():
            if variant.server in chosen:
                folder = Path(name, str(variant).replace(", ", "-").replace(" ", "-"))
                found = measure(variant, kinds, folder, options.rounds, options.seconds, {"ours": ours, "bare": bare})
                for kind, sides in found.turns.items():
                    print(line(f"{variant}, {kind}", sides["ours"], sides["bare"]))
                print(memory_line(found.memory["ours"], found.memory["bare"]), flush=True)
                figures[str(variant)] = found._asdict()
                problems += missed(variant, found)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if problems:
        raise SystemExit(f"further than {BOUND:.0%} from bare:\n" + "\n".join(problems))


if __name__ == "__main__":
    main()
