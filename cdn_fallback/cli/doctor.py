"""``cdn-fallback doctor``: what holds in this environment."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import cdn_fallback
from cdn_fallback import buildout_ext, pip_plugin, switch
from cdn_fallback.activation import switched_off
from cdn_fallback.cli.client import declared
from cdn_fallback.cli.output import iso, say, say_json, table
from cdn_fallback.config import Config
from cdn_fallback.errors import ConfigError
from cdn_fallback.health import Health, default_path
from cdn_fallback.hooks import HookPoint, held
from cdn_fallback.pool import Pool, without_credentials
from cdn_fallback.settings import DISABLE

Report = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    report = examine()
    if arguments.json:
        say_json(report)
    else:
        _show(report)
    return 0 if report["ok"] else 1


def examine() -> Report:
    """Everything that `doctor` finds out, as it stands in its JSON."""
    pip, buildout = _tool("pip"), _tool("zc.buildout")
    points = [*pip_plugin.HOOK_POINTS, *(buildout_ext.HOOK_POINTS if buildout else ())]
    hooks = [_hook(point) for point in points]
    configuration = _configuration()
    return {
        "ok": all(hook["holds"] for hook in hooks) and configuration["error"] is None,
        "version": cdn_fallback.__version__,
        "path": str(Path(cdn_fallback.__file__).parent),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "pip": pip,
        "buildout": buildout,
        "enabled": _enabled(),
        "disabled": switched_off(os.environ),
        "hooks": hooks,
        "configuration": configuration,
        "health": _health(),
    }


def _tool(project: str) -> Report | None:
    """What of `project` is in this environment: its import name is its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(project)
        version = getattr(module, "__version__", None) or metadata.version(project)
    except (ImportError, metadata.PackageNotFoundError):
        return None
    return {"version": version, "path": os.path.dirname(module.__file__ or "") or None}


def _enabled() -> Report:
    files = switch.enabled()
    state = "yes" if len(files) == len(switch.FILES) else "in part" if files else "no"
    if state == "yes" and switch.outdated():
        state = "outdated"
    return {"state": state, "files": [str(path) for path in files]}


def _hook(point: HookPoint) -> Report:
    problem = _missing(point)
    modules = list(point.modules)
    return {
        "name": point.name,
        "modules": modules,
        "purpose": point.purpose,
        "holds": problem is None,
        "problem": problem,
    }


def _missing(point: HookPoint) -> str | None:
    """Why the hook cannot take; ``None`` if it can."""
    problems = []
    for name in point.modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                owner: Any = importlib.import_module(name)
        except Exception as exc:  # a module of another's: anything may be wrong with it
            problems.append(f"{name} cannot be imported ({type(exc).__name__}: {exc})")
            continue
        *classes, function = point.name.split(".")
        for part in classes:
            owner = getattr(owner, part, None)
        if owner is not None and callable(held(owner, function)):
            return None
        problems.append(f"{name} has no {point.name}")
    return "; ".join(problems)


def _configuration() -> Report:
    try:
        config = declared(os.environ)
    except ConfigError as error:
        return {"error": str(error), "sources": [], "pools": [], "indexes": []}
    pools, indexes = [_pool(pool) for pool in config.pools], _indexes(config)
    return {"error": None, "sources": list(config.sources), "pools": pools, "indexes": indexes}


def _indexes(config: Config) -> list[Report]:
    """Which pool each of pip's own indexes belongs to; nothing where pip cannot say which it has."""
    try:
        urls = [without_credentials(url) for url in pip_plugin.index_urls()]
    except (Exception, SystemExit):  # a pip of another make, or one that refuses its configuration
        return []
    return [{"url": url, "pool": next((p.name for p in config.pools if _serves(p, url)), None)} for url in urls]


def _serves(pool: Pool, url: str) -> bool:
    try:
        return pool.suffix(url.rstrip("/") + "/") is not None
    except ValueError:
        return False


def _pool(pool: Pool) -> Report:
    endpoints = [
        {
            "base": endpoint.base,
            "role": endpoint.role.value,
            "gatekeeper": endpoint.gatekeeper,
            "has_credentials": endpoint.credentials is not None,
        }
        for endpoint in pool.endpoints
    ]
    hours = pool.oldest / 3600
    oldest = hours if math.isfinite(hours) else None
    return {"name": pool.name, "index": pool.index, "oldest_hours": oldest, "endpoints": endpoints}


def _health() -> Report:
    path = default_path()
    health = Health(path)
    health.load()
    demoted = [{"what": what, "until": iso(until)} for what, until in health.demotions().items()]
    return {"path": path and str(path), "writable": path is not None and _writable(path), "demoted": demoted}


def _writable(path: Path) -> bool:
    """Whether `path`, which is replaced as a whole, can be written; its folders are made if need be."""
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not os.path.isdir(path)


# -- for people


def _show(report: Report) -> None:
    python, pip, buildout, enabled = (report[name] for name in ("python", "pip", "buildout", "enabled"))
    on = {"no": "no: `cdn-fallback enable` switches it on"}
    on |= {state: f"{state}: run `cdn-fallback enable` again" for state in ("in part", "outdated")}
    rows = [
        ["cdn-fallback", f"{report['version']} ({report['path']})"],
        ["Python", f"{python['version']} ({python['executable']})"],
        ["pip", f"{pip['version']} ({pip['path']})" if pip else "not in this environment"],
        *([["zc.buildout", f"{buildout['version']} ({buildout['path']})"]] if buildout else []),
        ["enabled", on.get(enabled["state"], "yes")],
        *(["", path] for path in enabled["files"]),
    ]
    if report["disabled"]:
        rows.append(["switched off", f"by {DISABLE}, whatever else is said here"])
    _say_all(table(rows, indent=""))
    say("hooks")
    _say_all(table([_hook_row(hook) for hook in report["hooks"]]))
    _show_configuration(report["configuration"])
    _show_health(report["health"])


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _hook_row(hook: Report) -> list[str]:
    if hook["holds"]:
        return ["holds", hook["name"], hook["purpose"]]
    return ["MISSING", hook["name"], f"lost: {hook['purpose']}; {hook['problem']}"]


def _show_configuration(configuration: Report) -> None:
    say("configuration")
    if configuration["error"]:
        say(f"  BAD: {configuration['error']}")
        return
    for source in configuration["sources"]:
        say(f"  {source}")
    if not configuration["pools"]:
        say("  no pool is declared: every host is retried over its own addresses only")
    for pool in configuration["pools"]:
        say(f"pool {pool['name']}: {pool['index']}")
        rows = []
        for endpoint in pool["endpoints"]:
            marks = [mark for mark in ("gatekeeper", "has_credentials") if endpoint[mark]]
            rows.append([endpoint["role"], endpoint["base"], ", ".join(marks).replace("_", " ")])
        _say_all(table(rows))
        if pool["oldest_hours"] != 24:
            hours = pool["oldest_hours"]
            age = "may be of any age" if hours is None else f"up to {hours:.0f} hours old"
            say(f"  pages of copies {age}")
    indexes = configuration["indexes"]
    say("pip's indexes")
    _say_all(table([[index["url"], f"pool {index['pool']}" if index["pool"] else "no pool"] for index in indexes]))
    if configuration["pools"] and indexes and not any(index["pool"] for index in indexes):
        say("  no pool has an index that pip asks: nothing falls back; set `index` to the beginning of its URL")


def _show_health(health: Report) -> None:
    say("health")
    if health["path"] is None:
        say("  no home directory: nothing is remembered from one run to the next")
    else:
        say(f"  {health['path']} ({'writable' if health['writable'] else 'NOT WRITABLE: nothing is remembered'})")
    if not health["demoted"]:
        say("  nothing is demoted")
    now = iso(time.time())
    _say_all(table([[d["what"], f"demoted until {d['until']} (now {now})"] for d in health["demoted"]]))
