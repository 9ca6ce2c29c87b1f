"""The command line: parse, build objects, call, print. The composition root; nobody imports it.

Each command is a function from parsed arguments to an exit code. Results go to stdout, errors to stderr:
0 all is well, 1 something is not, 2 the question cannot be answered (arguments, configuration), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cdn_fallback import __version__, switch
from cdn_fallback.cli import doctor, edge, explain, mirror, redirectors, status
from cdn_fallback.cli.output import Unusable, complain, say
from cdn_fallback.errors import CdnFallbackError, ConfigError

PIPE_CLOSED = 141  # as a shell reports a process that died of SIGPIPE
INTERRUPTED = 130
_silence = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (by default the process's own arguments), and tell the exit code."""
    # Without a handler Python would print what urllib3 and the engine log; commands print what matters.
    logging.getLogger().addHandler(_silence)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale that lacks a letter is no reason to fail
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # What is still buffered must go somewhere when Python ends, or it complains.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        logging.getLogger().removeHandler(_silence)


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0
    if parsed.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = parsed.run(parsed)
    except (ConfigError, Unusable) as error:
        complain(error)
        return 2
    except BrokenPipeError:
        raise
    except (CdnFallbackError, OSError) as error:  # requests' own errors are OSErrors, too
        complain(error)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdn-fallback", description="Keep pip working while an index is half down.")
    parser.add_argument("--version", action="version", version=f"cdn-fallback {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    add("enable", "switch cdn-fallback on for every pip of this environment").set_defaults(run=_enable)
    add("disable", "switch it off again").set_defaults(run=_disable)
    doctor.add_arguments(add("doctor", "tell what holds in this environment: hooks, configuration, what is demoted"))
    status.add_arguments(add("status", "ask every address of every endpoint of the declared pools"))
    mirror.add_arguments(add("mirror", "publish a static copy of an index"))
    redirectors.add_arguments(add("redirectors", "write what the redirect servers of a pool need"))
    edge.add_arguments(add("edge", "write what a CDN needs before a bucket: CloudFront, or nginx as a cache"))
    explain.add_arguments(add("explain", "fetch a URL as pip would, and show each attempt"))
    return parser


def _enable(arguments: argparse.Namespace) -> int:
    before = {path: path.read_bytes() for path in switch.enabled()}
    paths = switch.enable()
    changed = [path for path in paths if before.get(path) != path.read_bytes()]
    return _switched("enabled", "wrote", changed, "already enabled")


def _disable(arguments: argparse.Namespace) -> int:
    return _switched("disabled", "removed", switch.disable(), "not enabled")


def _switched(done: str, verb: str, paths: Sequence[Path], otherwise: str) -> int:
    if paths:
        say(f"{done} for {sys.executable}")
        for path in paths:
            say(f"  {verb} {path}")
    else:
        say(f"{otherwise} for {sys.executable}: nothing to do")
    return 0
