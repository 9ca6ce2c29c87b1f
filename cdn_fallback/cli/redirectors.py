"""`cdn-fallback redirectors`: what a redirect server of a pool needs, its configuration and its lines in the DNS."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cdn_fallback.cli.client import declared
from cdn_fallback.cli.output import Unusable, complain
from cdn_fallback.mirror import redirectors
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.redirectors import Certificate, Place, Split, lighttpd, nginx, zone
from cdn_fallback.pool import Pool, Role, site
from cdn_fallback.settings import DEFAULT_POOL

SERVERS = {"lighttpd": lighttpd.configuration, "nginx": nginx.configuration}
# Each server's own test of a file. -e and -g: nginx would open the log and the pid file of the one that runs.
_TESTS = {"lighttpd": ("-tt", "-f"), "nginx": ("-t", "-e", "stderr", "-g", 'pid "{}/pid";', "-c")}
# How they tell what they then pass over; not "warning", which may stand in a file's name.
_WARNING = re.compile(r"\[(?:warn|error|alert|crit)\]|WARNING")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments. The pool is that of the clients' configuration."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--server", choices=SERVERS, help="write its configuration")
    what.add_argument(
        "--zone", nargs="+", metavar="ADDRESS", help="write the DNS records of servers at these addresses"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there, not to standard output")
    parser.add_argument("--pool", default=DEFAULT_POOL, metavar="NAME", help="of [cdn-fallback:NAME]")
    split = parser.add_argument_group("what leads where")
    split.add_argument("--cdn-down", action="store_true", help="lead everything to the origin")
    split.add_argument("--static", action="append", default=[], metavar="PREFIX", help="static, too; again for more")
    split.add_argument("--no-legacy", action="store_true", help="/pypi/NAME/json is not static")
    split.add_argument("--paths", action="store_true", help="the CDN negotiates: lead pages to paths, not to keys")
    split.add_argument("--max-age", type=_seconds, metavar="SECONDS", help="how long redirects may be kept")
    split.add_argument("--health", default=redirectors.HEALTH, metavar="PATH", help=f"default: {redirectors.HEALTH}")
    place = parser.add_argument_group("where")
    place.add_argument("--certificate", metavar="FILE", help="the chain, PEM")
    place.add_argument("--key", metavar="FILE", help="its key, PEM (default: it is in the same file)")
    listen: dict[str, Any] = {"action": "append", "default": [], "metavar": "[ADDRESS:]PORT"}
    place.add_argument("--listen", **listen, help="default: the port of the redirectors' URL")
    place.add_argument("--listen-http", **listen, help="http beside https (default: 80 where that is on 443)")
    place.add_argument("--folder", metavar="FOLDER", help="for trying it out: all it writes goes there")
    place.add_argument("--check", action="store_true", help="have the server that is installed here test it first")
    parser.add_argument("--ttl", type=_seconds, default=redirectors.MAX_AGE, metavar="SECONDS", help="of DNS records")
    parser.add_argument("--name", metavar="HOST", help="of DNS records (default: the first redirector's)")
    parser.set_defaults(run=_run)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 604800:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to a week")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    try:
        text = _text(arguments)
    except NotConfigurable as error:
        raise Unusable(f"redirectors: {error}; nothing was written") from error
    if arguments.check and arguments.server:
        _check(arguments.server, text)
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        _write(arguments.output, text)
    return 0


def _text(arguments: argparse.Namespace) -> str:
    pool = _pool(arguments.pool)
    if arguments.zone:
        front = next((e for e in pool.endpoints if e.role is Role.REDIRECTOR), None)
        name = arguments.name or site(front.base if front else pool.index)[1]
        return zone.records(name, arguments.zone, arguments.ttl)
    chain = arguments.certificate
    certificate = Certificate(chain, arguments.key or chain) if chain else None
    place = Place(tuple(arguments.listen), tuple(arguments.listen_http), certificate, arguments.folder)
    split = Split(
        tuple(arguments.static),
        not arguments.no_legacy,
        not arguments.paths,
        arguments.cdn_down,
        arguments.max_age,
        arguments.health,
    )
    return SERVERS[arguments.server](redirectors.redirector(pool, split, place))


def _pool(name: str) -> Pool:
    config = declared(os.environ)
    for pool in config.pools:
        if pool.name == name:
            return pool
    known = ", ".join(pool.name for pool in config.pools)
    has = f"there are {known}; name one with --pool" if known else "none is declared: set index, cdn and origin"
    raise Unusable(f"redirectors: no pool {name} in the configuration; {has} (see `cdn-fallback doctor`)")


def _check(server: str, text: str) -> None:
    """The server's own test; raises Unusable with what it says, a warning included."""
    binary = shutil.which(server, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise Unusable(f"--check: {server} is not installed here; install it, or leave --check out")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "configuration")
        file.write_text(text, "utf-8")
        command = [binary, *(option.format(folder) for option in _TESTS[server]), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode or any(map(_WARNING.search, said)):
        for line in said:
            complain(line)
        raise Unusable(f"--check: {server} does not take this configuration; nothing was written")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, with the rights that the file has already."""
    try:
        path = Path(os.path.realpath(path))  # a link stays one
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        if path.exists() and not path.is_file():  # root could put a file in the place of /dev/null
            raise Unusable(f"--output {path}: is there, and no file; name another")
        with tempfile.NamedTemporaryFile(
            "w", encoding="ascii", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.close()
                os.chmod(file.name, mode)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as exc:
        raise Unusable(f"--output {path}: {exc.strerror or exc}; it is as it was") from exc
