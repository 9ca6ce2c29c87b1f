"""`cdn-fallback mirror ...`: what an index says, published as a static site.

Exit codes, for cron: 0 done, 1 failed, 2 wrong arguments or configuration, 3 done in part (something is left for the
next run, which it tells), 4 another run is at work, 5 stopped because it would remove too much.
"""

from __future__ import annotations

import argparse
import queue
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cdn_fallback.cli import mirror_store
from cdn_fallback.cli.mirror_open import BUSY, PARTLY, STOPPED, opened
from cdn_fallback.cli.mirror_reports import (
    complain_of_rollback,
    line_publish,
    tell,
    tell_generations,
    told_publish,
    told_sync,
)
from cdn_fallback.cli.output import Unusable, complain, say, say_json
from cdn_fallback.cli.progress import progress
from cdn_fallback.errors import CdnFallbackError, ConfigError
from cdn_fallback.mirror.errors import AtWork


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`mirror` and its commands."""
    commands = parser.add_subparsers(dest="mirror_command", metavar="COMMAND", required=True)

    def add(name: str, help: str, run: Any, *, json: bool = True) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        one.add_argument("--config", type=Path, default=Path("cdn-fallback.toml"), metavar="FILE")
        if json:
            one.add_argument("--json", action="store_true", help="one JSON document instead of lines")
        one.set_defaults(run=partial(_with_extra, run))
        return one

    init = add("init", "write a commented configuration, and nginx's for the store", _init, json=False)
    init.add_argument("--source", default="packages", metavar="PLACE", help="a folder, or the URL of an index")
    init.add_argument("--store", default="site", metavar="PLACE", help="a folder, or the URL of a bucket")
    init.add_argument("--base", default="https://pypi.python.org/", metavar="URL", help="where readers find it")
    init.add_argument("--nginx", action="store_true", help="only nginx's, anew, for the configuration that is there")
    add("sync", "take in what has changed at the source", _sync)
    plan = add("plan", "tell what a publish would do, and do nothing", _plan)
    published = add("publish", "put what differs into the store", _publish)
    run = add("run", "sync and publish: for cron", _run)
    run.add_argument("--every", type=_seconds, metavar="TIME", help="again and again, each 30s, 10m, 1h")
    back = add("rollback", "publish what an earlier publish showed, until told to go forward", _rollback)
    back.add_argument("generation", type=int, nargs="?", metavar="GENERATION", help="without it, tell which there are")
    back.add_argument("--forward", action="store_true", help="go on from what the source has now")
    for one in (plan, published):
        one.add_argument("--everything", action="store_true", help="look at every project, changed or not")
    for one in (plan, published, run, back):
        one.add_argument("--allow-removals", action="store_true", help="however much it removes")
    published.add_argument("--dry-run", action="store_true", help="as `plan`: tell what would be done, and do nothing")
    published.add_argument("--anew", action="store_true", help="the store is empty: fill it again")
    mirror_store.add_arguments(add)
    serve = add("serve", "serve a folder's site on this machine, for trying out", _serve, json=False)
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    serve.add_argument("--address", default="127.0.0.1", help="default: 127.0.0.1")


def _with_extra(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; what a busy mirror and a missing extra mean is the same for all."""
    try:
        return run(arguments)
    except AtWork as error:
        complain(error)
        return BUSY
    except ModuleNotFoundError as exc:
        if exc.name not in ("isal", "obstore", "tomli", "tqdm"):
            raise
        problem = f"the mirror needs {exc.name}: python -m pip install 'cdn-fallback[mirror]'"
        raise Unusable(problem) from exc


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 30s, 10m or 1h")
    return int(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]


def _sync(arguments: argparse.Namespace) -> int:
    return _at_work(arguments, sync=True)


def _publish(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    return _at_work(arguments, publish=True)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.every is None:
        return _at_work(arguments, sync=True, publish=True)
    # Not an Event: a signal that comes while that takes its lock in this thread would wait for it for ever.
    stop: queue.SimpleQueue[None] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.put(None))
    begun = time.monotonic()
    code = None
    while True:
        try:
            code = _at_work(arguments, sync=True, publish=True)
        except BrokenPipeError:
            raise
        except (CdnFallbackError, OSError) as error:  # the next run may do better
            if code is None and isinstance(error, ConfigError):
                raise  # it was wrong from the start
            complain(error)
            code = 1
        begun = max(begun + arguments.every, time.monotonic())
        with suppress(queue.Empty):
            stop.get(timeout=max(0.0, begun - time.monotonic()))
            return code


def _at_work(arguments: argparse.Namespace, *, sync: bool = False, publish: bool = False) -> int:
    """One run. What it found is told at its end, also where the second half of it fails."""
    from cdn_fallback.mirror.due import TooManyRemovals

    told: dict[str, Any] = {}
    code, shown_now = 0, None
    try:
        with opened(arguments) as mirror, progress() as shown:
            if sync:
                told["sync"] = told_sync(*mirror.sync(time.time(), shown))
            if publish:
                report = mirror.publish(
                    time.time(), shown, removals=arguments.allow_removals,
                    everything=getattr(arguments, "everything", False), anew=getattr(arguments, "anew", False),
                )  # fmt: skip
                told["publish"] = told_publish(report)
                shown_now = mirror.rolled_back
    except AtWork as error:
        complain(error)
        code = BUSY
    except TooManyRemovals as error:
        complain(error)
        code = STOPPED
    finally:
        tell(told, arguments.json)
    if complain_of_rollback(shown_now):
        code = code or PARTLY
    if code == 0 and any(part.get("failed") or part.get("held") for part in told.values()):
        return PARTLY
    return code


def _plan(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.due import TooManyRemovals
    from cdn_fallback.mirror.mirror import Mirror

    with Mirror.read(load(arguments.config)) as mirror, progress() as shown:
        try:
            report = mirror.plan(time.time(), shown, everything=arguments.everything, removals=arguments.allow_removals)
        except TooManyRemovals as error:
            complain(error)
            return STOPPED
        cost, shown_now = mirror.cost(report), mirror.rolled_back
    complain_of_rollback(shown_now)
    told = told_publish(report)
    if arguments.json:
        say_json({"plan": {**told, **cost._asdict()}})
        return 0
    line = "would " + line_publish(told).replace("published", "publish", 1)
    if cost.requests:
        line += f", in {cost.requests} requests" + _dollars(cost.dollars)
    say(line)
    return 0


def _dollars(amount: float) -> str:
    if not amount:
        return ""
    return f", about ${amount:.4f}" if amount >= 0.0001 else ", less than $0.0001"


def _rollback(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.due import TooManyRemovals
    from cdn_fallback.mirror.mirror import Mirror

    if arguments.forward and arguments.generation is not None:
        raise Unusable("name a generation to go back to, or --forward, not both")
    if not arguments.forward and arguments.generation is None:
        with Mirror.read(load(arguments.config)) as mirror:
            tell_generations(mirror, arguments.json)
        return 0
    with opened(arguments) as mirror, progress() as shown:
        try:
            if arguments.forward:
                report = mirror.go_forward(time.time(), shown, removals=arguments.allow_removals)
            else:
                report = mirror.roll_back(arguments.generation, time.time(), shown, removals=arguments.allow_removals)
        except TooManyRemovals as error:
            complain(error)
            return STOPPED
    tell({"publish": told_publish(report)}, arguments.json)
    return PARTLY if report.held else 0


def _init(arguments: argparse.Namespace) -> int:
    from cdn_fallback.cli.mirror_init import for_nginx, written

    if arguments.nginx:
        paths = for_nginx(arguments.config)
    else:
        paths = written(arguments.config, arguments.source, arguments.store, arguments.base)
    for path in paths:
        say(f"wrote {path}")
    return 0 if paths else 1


def _serve(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.serve import SiteServer
    from cdn_fallback.mirror.stores.directory import DirectoryStore
    from cdn_fallback.mirror.stores.opening import open_store

    config = load(arguments.config)
    store = open_store(config.store)
    if not isinstance(store, DirectoryStore):
        raise Unusable("`mirror serve` serves a folder; what is in object storage is served by its CDN")
    trees = tuple(tree.prefix for tree in config.trees)
    with SiteServer(store.root, arguments.address, arguments.port, trees=trees, log=say) as server:
        say(f"serving {store.root} at {server.url}, until Ctrl-C; pip install --index-url {server.url}simple/ ...")
        server.wait()
    return 0
