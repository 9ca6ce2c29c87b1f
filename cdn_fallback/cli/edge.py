"""`cdn-fallback edge ...`: what a CDN's edge goes by, written as files for CloudFront or for nginx."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import resources
from pathlib import Path

from cdn_fallback.cli.output import Unusable, say

_FOLDER_MODE, _SCRIPT_MODE, _FILE_MODE = 0o777, 0o777, 0o666  # less the umask
_Run = Callable[[argparse.Namespace], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`edge` and its commands."""
    commands = parser.add_subparsers(dest="edge_command", metavar="COMMAND", required=True)

    def add(name: str, help: str, run: _Run) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        one.add_argument("--name", required=True, metavar="HOST", help="the host by which clients know the edge")
        one.add_argument(
            "--tree", action="append", default=[], metavar="PREFIX", help="of what is published beside the index"
        )
        one.add_argument("--force", action="store_true", help="over what is there")
        one.set_defaults(run=partial(_configurable, run))
        return one

    cloudfront = add("cloudfront", "write a folder with all that CloudFront needs before a bucket", _cloudfront)
    cloudfront.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="a new one")
    cloudfront.add_argument("--bucket", required=True, metavar="NAME", help="of Amazon S3")
    cloudfront.add_argument("--region", required=True, metavar="REGION", help="the bucket's, as eu-central-1")
    cloudfront.add_argument("--certificate-arn", metavar="ARN", help="for the name, of ACM in us-east-1")
    nginx = add("nginx", "write the configuration of an nginx that caches what a bucket has", _nginx)
    nginx.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default the standard output")
    nginx.add_argument("--bucket", required=True, metavar="URL", help="under which the keys are")
    nginx.add_argument(
        "--listen", action="append", default=[], metavar="PLACE", help="a port, or ADDRESS:PORT (default: 80, or 443)"
    )
    nginx.add_argument("--certificate", metavar="FILE", help="for https: certificate and chain in PEM")
    nginx.add_argument("--key", metavar="FILE", help="its key")
    nginx.add_argument("--cache", metavar="FOLDER", help="for copies (default: /var/cache/cdn-fallback-edge)")
    nginx.add_argument("--authorities", metavar="FILE", help="who vouches for a bucket with https (default: Debian's)")
    nginx.add_argument("--resolver", metavar="ADDRESS", help="a name server; else the bucket is looked up once")


def _configurable(run: _Run, arguments: argparse.Namespace) -> int:
    """Run a command; a value that cannot stand in what it writes is a wrong argument."""
    from cdn_fallback.mirror.grammar import NotConfigurable

    try:
        return run(arguments)
    except NotConfigurable as error:
        raise Unusable(str(error)) from error
    except ModuleNotFoundError as exc:
        if exc.name not in ("isal", "obstore"):
            raise
        raise Unusable(f"edge needs {exc.name}: python -m pip install 'cdn-fallback[mirror]'") from exc


def _cloudfront(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.edge import cloudfront, settings

    edge = settings.checked(
        arguments.bucket, arguments.region, arguments.name, arguments.certificate_arn, arguments.tree
    )
    texts = cloudfront.files(edge, _templates(cloudfront.TEMPLATES))
    _write_folder(arguments.output, texts, cloudfront.EXECUTABLE, force=arguments.force)
    say(f"wrote {arguments.output}: {', '.join(sorted(texts))}")
    say(f"read {arguments.output / 'README.md'} first; nothing has been done at AWS")
    return 0


def _templates(names: tuple[str, ...]) -> dict[str, str]:
    folder = resources.files("cdn_fallback.mirror.edge")
    return {name: (folder / name).read_text("utf-8") for name in names}


def _nginx(arguments: argparse.Namespace) -> int:
    from cdn_fallback.mirror.edge import nginx

    if (arguments.certificate is None) != (arguments.key is None):
        raise Unusable("--certificate and --key go together: name both, or neither for plain http")
    tls = nginx.Tls(arguments.certificate, arguments.key) if arguments.certificate is not None else None
    usual = nginx.Cache()
    cache = nginx.Cache(
        usual.folder if arguments.cache is None else arguments.cache,
        usual.authorities if arguments.authorities is None else arguments.authorities,
        arguments.resolver,
    )
    text = nginx.configuration(
        arguments.bucket, arguments.name, arguments.listen, tls=tls, trees=arguments.tree, cache=cache
    )
    if arguments.output is None:
        print(text, end="", flush=True)
        return 0
    _write_file(arguments.output, text, force=arguments.force)
    say(f"wrote {arguments.output}")
    return 0


def _write_file(path: Path, text: str, *, force: bool) -> None:
    """All of it or nothing, and not over what is there unless told so."""
    if os.path.lexists(path) and not (force and path.is_file()):
        raise Unusable(f"{path} is there already; name another with -o{'' if path.is_dir() else ', or --force'}")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            made = _made(Path(scratch, path.name), text, _FILE_MODE)
            made.replace(path)
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def _write_folder(path: Path, texts: Mapping[str, str], executable: frozenset[str], *, force: bool) -> None:
    """All files or none: into a fresh folder beside it, which then takes its name.

    With `force` a folder that has none but files of these names is replaced.
    """
    if os.path.lexists(path):
        strange = _strange(path, texts)
        if strange:
            raise Unusable(f"{path} has {strange}, which is not ours to replace; name another folder with -o")
        if not force:
            raise Unusable(f"{path} is there already; name another with -o, or --force")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            fresh.mkdir(_FOLDER_MODE)
            for name, text in texts.items():
                _made(fresh / name, text, _SCRIPT_MODE if name in executable else _FILE_MODE)
            _exchange(path, fresh, old)
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def _strange(path: Path, texts: Mapping[str, str]) -> str:
    """The first thing there that we would not have written; empty if there is none."""
    if path.is_symlink() or not path.is_dir():
        return "no folder's form"
    return next((one.name for one in sorted(path.iterdir()) if one.name not in texts or not one.is_file()), "")


def _exchange(path: Path, fresh: Path, old: Path) -> None:
    """`fresh` takes the name of `path`; what was there comes back if that fails."""
    if not os.path.lexists(path):
        fresh.rename(path)
        return
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        with suppress(OSError):
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _made(path: Path, text: str, mode: int) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


def _unwritable(path: Path, exc: OSError) -> Unusable:
    return Unusable(f"{path} cannot be written: {exc.strerror or exc}; nothing was. Name another place with -o")
