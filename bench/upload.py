"""What it costs to put small objects into object storage: `python -m bench.upload` prints it.

The same pages of 2-10 KB, with the headers that ours have, are put by cdn-fallback, by obstore alone, by boto3 and by
rclone, in turns, each in a process of its own, into a real store (SeaweedFS), and into a server that reads, answers
and keeps nothing: there CPU and time are the client's, and those of the network on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import Cost, run
from bench.upload_tools import BOTO3, HEADERS, LIBRARIES, RCLONE, SHA256, TOOLS, Job, Peers, Site, Start
from tests.rig.names import free_port
from tests.rig.nginx import Client, Nginx
from tests.rig.pips import clean_environment
from tests.rig.s3 import WRITER, SeaweedFS
from tests.rig.s3_bucket import Bucket

OBJECTS, WORKERS, ROUNDS = 5000, 32, 5
NO_DIGEST = "rclone"  # gives each object the same headers
TITLES = {"ours": "cdn-fallback", "obstore": "obstore alone", "boto3": f"boto3 {BOTO3}", "rclone": f"rclone {RCLONE}"}
# A put is answered with what S3 would say; an ETag that looks like no MD5, which rclone would compare.
_NULL = """\
    server {{
        listen {address}:{port} backlog=1024;
        access_log off;
        keepalive_requests 100000000;
        client_max_body_size 16m;
        location / {{
            add_header ETag '"nothing-1"';
            return 200;
        }}
        location = /status {{ stub_status; }}
    }}
"""


class Target(NamedTuple):
    """A bucket to put into, and what says, when all was put, whether all of it came in."""

    endpoint: str
    bucket: str
    check: Callable[[Site, bool], None]  # what is to be there; whether each object has its digest. Raises SystemExit


Targets = Callable[[], Target]  # a new one, empty


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Targets]:
    """Of a real store, with its data in `folder`."""
    with SeaweedFS(folder) as server:
        numbers = itertools.count(1)

        def fresh() -> Target:
            bucket = server.make_bucket(f"turn-{next(numbers)}")
            return Target(server.endpoint, bucket.name, lambda site, digest: stored(bucket, site, digest))

        yield fresh


def stored(bucket: Bucket, site: Site, digest: bool) -> None:
    """Every key with its size is there, no other one, and of one object each byte and header."""
    pages = site.pages()
    wanted = {page.key: page.size for page in pages}
    listed = bucket.listed()
    if listed != wanted:
        raise SystemExit(f"{len(listed.items() ^ wanted.items())} keys or sizes differ from the {len(wanted)} wanted")
    if not pages:
        return
    page = random.choice(pages)
    found = bucket.get(page.key)
    if hashlib.sha256(found.body).hexdigest() != page.sha256:
        raise SystemExit(f"{page.key} has other bytes")
    headers = [found.content_type, found.cache_control, found.content_encoding]
    if headers != list(HEADERS.values()) or (digest and found.metadata.get(SHA256) != page.sha256):
        raise SystemExit(f"{page.key} has other headers: {headers} {found.metadata}")


class Null(Nginx):
    """Reads what it is sent, says yes, keeps nothing."""

    def _write(self) -> None:
        super()._write()
        config = self.folder / "nginx.conf"
        config.write_text(config.read_text().replace("worker_connections 64;", "worker_connections 1024;"))

    def requests(self) -> int:
        """How many it has answered, this one among them."""
        with Client(self.url) as client:
            return int(client.get("/status").body.split()[9])


@contextlib.contextmanager
def null(folder: Path) -> Iterator[Targets]:
    """Of a server that keeps nothing."""
    port = free_port()
    server = Null(folder, "127.0.0.1", port, _NULL.format(address="127.0.0.1", port=port))
    with server:

        def fresh() -> Target:
            before = server.requests()

            def check(site: Site, digest: bool) -> None:
                wanted, asked = len(site.pages()), server.requests() - before - 1
                if asked != wanted:
                    raise SystemExit(f"{asked} requests for {wanted} objects")

            return Target(server.url.rstrip("/"), "site", check)

        yield fresh


STORES: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Targets]]] = {
    "seaweedfs": seaweedfs,
    "null": null,
}


class Turn(NamedTuple):
    """One run of one tool."""

    cpu: float  # s, from its first put on
    wall: float  # s, from its first put on
    start: float  # CPU-s before that
    memory: int  # bytes
    objects: int

    @property
    def milliseconds(self) -> float:
        """CPU-ms of an object."""
        return 1000 * self.cpu / self.objects

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.objects / self.wall


Who = tuple[str, int]  # a tool, its workers


def turns(fresh: Targets, folder: Path, who: Sequence[Who], peers: Peers, rounds: int) -> dict[Who, list[Turn]]:
    """Each once a round, in an order that moves on. `folder` has two sites, `site` and one that is `empty`."""
    found: dict[Who, list[Turn]] = {one: [] for one in who}
    for number in range(rounds):
        shift = number % len(who)
        for tool, workers in (*who[shift:], *who[:shift]):
            found[tool, workers].append(turn(fresh, folder, (tool, workers), peers))
    return found


def turn(fresh: Targets, folder: Path, who: Who, peers: Peers) -> Turn:
    """One run, checked. rclone's start is that of a run with nothing to put."""
    tool, workers = who
    log, environ = folder / "log", clean_environment(folder) | WRITER

    def put(site: Site) -> tuple[float, Cost]:
        target = fresh()
        command = peers.command(tool, Job(target.endpoint, target.bucket, str(site.folder), workers))
        begun = time.perf_counter()
        cost = run(command, log, environ)
        target.check(site, tool != NO_DIGEST)
        return begun, cost

    site = Site(folder / "site")
    if tool in LIBRARIES:
        begun, cost = put(site)
        before, at = Start(*json.loads(log.read_text().splitlines()[-1]))
        waited = at - begun
    else:
        before, waited, _ = put(Site(folder / "empty"))[1]
        cost = put(site)[1]
    return Turn(cost.cpu - before, cost.wall - waited, before, cost.memory, len(site.pages()))


HEAD = (
    f"{'':24} {'workers':>7} {'CPU-ms/object':>14} {'(spread)':>13} {'of ours':>8} {'objects/s':>10} {'of ours':>8} "
    f"{'start, CPU-s':>13} {'MB':>5}"
)


def lines(found: Mapping[Who, Sequence[Turn]]) -> Iterator[str]:
    """The table: medians, and the ratios to the first row's in the same rounds."""
    first = next(iter(found.values()))
    for (tool, workers), made in found.items():
        costs = sorted(turn.milliseconds for turn in made)
        cost = statistics.median(a.milliseconds / b.milliseconds for a, b in zip(made, first, strict=True))
        speed = statistics.median(a.rate / b.rate for a, b in zip(made, first, strict=True))
        rate, start, memory = (
            statistics.median(map(value, made))
            for value in (lambda turn: turn.rate, lambda turn: turn.start, lambda turn: turn.memory)
        )
        spread = f"{costs[0]:.2f}-{costs[-1]:.2f}"
        yield (
            f"{TITLES[tool]:24} {workers:7} {statistics.median(costs):14.3f} {spread:>13} {cost:8.2f} {rate:10,.0f} "
            f"{speed:8.2f} {start:13.2f} {memory / 1e6:5.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=OBJECTS, metavar="N", help=f"how many ({OBJECTS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each has its turn ({ROUNDS})")
    parser.add_argument("--workers", type=int, nargs="+", default=[WORKERS], help=f"puts at once ({WORKERS})")
    parser.add_argument("--store", choices=STORES, action="append", help="only this one (both)")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="only this one; may be repeated (all)")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder is made in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    who = [(tool, workers) for tool in options.tool or TOOLS for workers in options.workers]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cdn-fallback-bench-", dir=options.folder) as name:
        folder = Path(name)
        Site.create(folder / "empty", 0)
        Site.create(folder / "site", options.objects)
        peers = Peers.create(folder / "env")
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.objects:,} objects", flush=True)
        for store in options.store or STORES:
            with STORES[store](folder / store) as fresh:
                found = turns(fresh, folder, who, peers, options.rounds)
            print(f"\n{store}\n{HEAD}", *lines(found), sep="\n", flush=True)
            figures[store] = {f"{tool}-{workers}": made for (tool, workers), made in found.items()}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
