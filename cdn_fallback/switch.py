"""Switch cdn-fallback on and off for every Python of an environment.

Python runs a line of a `.pth` file at each start that begins with ``import``; from 3.15 on it calls what a
`.start` file names instead (PEP 829), and from 3.18 on that alone. Both must stay silent once the package is
uninstalled, but a `.start` file cannot catch anything: so what it names is a small module beside it.
These files do not stand in the package's RECORD: an upgrade would take them away without a word.
"""

from __future__ import annotations

import os
import site
import sysconfig
from contextlib import suppress
from pathlib import Path

from cdn_fallback.errors import CdnFallbackError, printable

_GUARD = '''\
"""Called at each start of Python through cdn_fallback.start; `cdn-fallback disable` removes both."""


def start():
    try:
        from cdn_fallback.activation import start
    except ImportError:  # uninstalled
        return
    start()
'''
_LINE = "try:\\n from cdn_fallback.activation import start\\n start()\\nexcept Exception: pass"

FILES = {
    "_cdn_fallback_start.py": _GUARD,
    "cdn_fallback.start": "_cdn_fallback_start:start\n",
    "cdn_fallback.pth": f'import sys; exec("{_LINE}")\n',
}


class SwitchError(CdnFallbackError):
    """A file cannot be written or removed.

    :param path: the file
    :param problem: one sentence, without a full stop
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.problem}")


def enable(directory: Path | None = None) -> list[Path]:
    """Write the files that call `activation.start` into `directory`, and tell which they are.

    :param directory: one whose `.pth` files Python reads; by default the environment's own
    :raises SwitchError: if it cannot be written, or another's file is in the way
    """
    folder = directory or _folder()
    paths = [folder / name for name in FILES]
    for path in paths:
        if path.exists() and not _ours(path):
            raise SwitchError(str(path), "is not a file of ours; remove it first")
    for path in paths:
        _write(path, FILES[path.name])
    return paths


def disable(directory: Path | None = None) -> list[Path]:
    """Remove the files that `enable` wrote, and tell which were there.

    :raises SwitchError: if one cannot be removed
    """
    paths = enabled(directory)
    for path in reversed(paths):  # first what Python reads, then what that calls
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise _refused(path, exc) from exc
    return paths


def enabled(directory: Path | None = None) -> list[Path]:
    """The files of `enable` that are there."""
    folder = directory or _folder()
    return [path for path in (folder / name for name in FILES) if _ours(path)]


def _folder() -> Path:
    """Where this Python reads `.pth` files: the user's folder if the package is there, else site-packages."""
    package, user = Path(__file__).resolve().parent.parent, Path(site.getusersitepackages())
    return user if package == user.resolve() else Path(sysconfig.get_path("purelib"))


def _ours(path: Path) -> bool:
    try:
        return "cdn_fallback" in path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise _refused(path, exc) from exc


def _write(path: Path, text: str) -> None:
    # Whole or not at all, for a Python may start at any moment; no name that it would read, and readable for
    # whom the umask allows.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, "ascii", newline="\n")
        draft.replace(path)
    except OSError as exc:
        raise _refused(path, exc) from exc
    finally:
        with suppress(OSError):
            draft.unlink()


def _refused(path: Path, exc: OSError) -> SwitchError:
    hint = "name a folder that exists" if isinstance(exc, FileNotFoundError) else "run it as the folder's owner"
    return SwitchError(str(path), f"{exc.strerror or exc}; {hint}, or use a virtual environment of your own")
