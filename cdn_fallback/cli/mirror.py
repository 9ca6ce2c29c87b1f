"""`cdn-fallback mirror ...`: what an index says, published as a static site.

Exit codes, for cron: 0 done, 1 failed, 2 wrong arguments or configuration, 3 done in part (something is left for the
next run, which it tells), 4 another run is at work, 5 stopped because it would remove too much.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cdn_fallback.cli import mirror_store
from cdn_fallback.cli.output import Unusable, complain, say, say_json
from cdn_fallback.cli.progress import progress
from cdn_fallback.errors import CdnFallbackError, ConfigError, printable
from cdn_fallback.mirror.errors import AtWork

PARTLY = 3
BUSY = 4
STOPPED = 5


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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
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
        if stop.wait(begun - time.monotonic()):
            return code


def _at_work(arguments: argparse.Namespace, *, sync: bool = False, publish: bool = False) -> int:
    """One run. What it found is told at its end, also where the second half of it fails."""
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.due import TooManyRemovals
    from cdn_fallback.mirror.mirror import Mirror

    told: dict[str, Any] = {}
    code, shown_now = 0, None
    try:
        with (
            Mirror.open(load(arguments.config), _command(arguments), time.time(), complain) as mirror,
            progress() as shown,
        ):
            if sync:
                told["sync"] = _told_sync(*mirror.sync(time.time(), shown))
            if publish:
                report = mirror.publish(
                    time.time(), shown, removals=arguments.allow_removals,
                    everything=getattr(arguments, "everything", False), anew=getattr(arguments, "anew", False),
                )  # fmt: skip
                told["publish"] = _told_publish(report)
                shown_now = mirror.rolled_back
    except AtWork as error:
        complain(error)
        code = BUSY
    except TooManyRemovals as error:
        complain(error)
        code = STOPPED
    finally:
        _tell(told, arguments.json)
    if _complain_of_rollback(shown_now):
        code = code or PARTLY
    if code == 0 and any(part.get("failed") or part.get("held") for part in told.values()):
        return PARTLY
    return code


def _command(arguments: argparse.Namespace) -> str:
    return shlex.join(["mirror", arguments.mirror_command, "--config", str(arguments.config)])


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
    _complain_of_rollback(shown_now)
    told = _told_publish(report)
    if arguments.json:
        say_json({"plan": {**told, **cost._asdict()}})
        return 0
    line = "would " + _line_publish(told).replace("published", "publish", 1)
    if cost.requests:
        line += f", in {cost.requests} requests" + (f", about ${cost.dollars:.4f}" if cost.dollars else "")
    say(line)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.due import TooManyRemovals
    from cdn_fallback.mirror.mirror import Mirror

    if arguments.forward and arguments.generation is not None:
        raise Unusable("name a generation to go back to, or --forward, not both")
    config, told = load(arguments.config), {}
    if not arguments.forward and arguments.generation is None:
        with Mirror.read(config) as mirror:
            _tell_generations(mirror, arguments.json)
        return 0
    with Mirror.open(config, _command(arguments), time.time(), complain) as mirror, progress() as shown:
        try:
            if arguments.forward:
                report = mirror.go_forward(time.time(), shown, removals=arguments.allow_removals)
            else:
                report = mirror.roll_back(arguments.generation, time.time(), shown, removals=arguments.allow_removals)
        except TooManyRemovals as error:
            complain(error)
            return STOPPED
    told["publish"] = _told_publish(report)
    _tell(told, arguments.json)
    return PARTLY if report.held else 0


def _complain_of_rollback(number: int | None) -> bool:
    """Whether the site shows an earlier generation, which is then told: nobody is to wonder why nothing is new."""
    if number is not None:
        forward = "`cdn-fallback mirror rollback --forward`"
        complain(f"the site is rolled back to generation {number}: nothing newer is published until {forward}")
    return number is not None


def _tell_generations(mirror: Any, json: bool) -> None:
    found = mirror.generations()
    if json:
        say_json({"generations": [one._asdict() for one in found], "rolled_back": mirror.rolled_back})
        return
    for one in found:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at))
        line = f"{one.number}  {moment}  {one.projects} projects" + ("  is published" if one.current else "")
        say(line + ("  rolled back to" if one.number == mirror.rolled_back else ""))
    if not found:
        say("nothing was published yet")


def _told_sync(report: Any, trees: Any) -> dict[str, Any]:
    found: dict[str, Any] = {key: value for key, value in report._asdict().items() if isinstance(value, int)}
    found["rejected"] = [{"project": project, "what": one.what, "why": one.why} for project, one in report.rejected]
    found["rejected"] += [{"project": "", "what": path, "why": "has a name that is no key"} for path in trees.rejected]
    found["failed"] = [{"project": one.name, "why": one.why} for one in report.failed]
    found["static_changed"], found["static_removed"] = trees.changed, trees.removed
    return found


def _told_publish(report: Any) -> dict[str, Any]:
    found = report._asdict()
    found.pop("parts")
    found["held"] = [{"project": one.name, "why": one.why} for one in report.held]
    return dict(found)


def _tell(told: dict[str, Any], json: bool) -> None:
    if json:
        say_json(told)
        return
    for one in told.get("sync", {}).get("rejected", []):
        _complain(f"not published: {one['what']} {one['why']}")
    for one in told.get("sync", {}).get("failed", []):
        _complain(f"not read, left as it was: {one['project']}: {one['why']}")
    for one in told.get("publish", {}).get("held", []):
        _complain(f"not published, left as it was: {one['project']}: {one['why']}")
    lines = []
    if "sync" in told:
        lines.append(_line_sync(told["sync"]))
    if "publish" in told:
        lines.append(_line_publish(told["publish"]))
    if lines:
        say("; ".join(lines))


def _complain(line: str) -> None:
    """One line, whatever a name in it holds: an end of line would make another one of ours."""
    complain(printable(line))


def _line_sync(told: dict[str, Any]) -> str:
    line = f"synced: {told['changed']} projects changed, {told['removed']} removed"
    line += f" (files: {told['files_added']} new, {told['files_changed']} changed, {told['files_removed']} removed)"
    if told["static_changed"] or told["static_removed"]:
        line += f", beside the index {told['static_changed']} files changed, {told['static_removed']} removed"
    if told["waiting"]:
        line += f", {told['waiting']} files still being written are left for the next run"
    for key, word in (("rejected", "not publishable"), ("failed", "not read")):
        if told[key]:
            line += f", {len(told[key])} {word}"
    return line


def _line_publish(told: dict[str, Any]) -> str:
    if not told["puts"] and not told["deletes"] and not told["held"]:
        return "published: nothing new"
    line = f"published: {told['puts']} objects ({_amount(told['bytes'])}) of {told['projects']} projects"
    if told["deletes"]:
        line += f", {told['deletes']} deleted"
    if told["doomed"]:
        line += f", {told['doomed']} to be deleted when no cache has them"
    if told["invalidations"]:
        line += f", {len(told['invalidations'])} paths for caches to forget"
    if told["held"]:
        line += f", {len(told['held'])} not published"
    return line


def _amount(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


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
