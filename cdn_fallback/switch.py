"""Switch cdn-fallback on and off for every Python of an environment.

Python runs a line of a `.pth` file at each start if it begins with ``import``; from 3.15 on it calls what a
`.start` file names instead (PEP 829), and from 3.18 on that alone. Neither can catch anything, and both must stay
silent once the package is uninstalled: so they name a copy of `_start` that lies beside them. These files are not
in the package's RECORD, or else an upgrade would take them away without a word.
"""

from __future__ import annotations

import os
import py_compile
import site
import sysconfig
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from cdn_fallback.errors import CdnFallbackError, printable

STARTER = "_cdn_fallback_start"
FILES = (f"{STARTER}.py", "cdn_fallback.start", "cdn_fallback.pth")  # first what is called, then what calls


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
    for path, text in zip(paths, _texts(), strict=True):
        _write(path, text)
    with suppress(OSError, py_compile.PyCompileError):  # others may start Python who cannot write here
        py_compile.compile(str(paths[0]), doraise=True)
    return paths


def disable(directory: Path | None = None) -> list[Path]:
    """Remove the files that `enable` wrote, and tell which were there.

    :raises SwitchError: if one cannot be removed
    """
    paths = enabled(directory)
    for path in reversed(paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise _refused(path, exc) from exc
        if path.suffix == ".py":
            with suppress(OSError):
                Path(cache_from_source(str(path))).unlink()
    return paths


def enabled(directory: Path | None = None) -> list[Path]:
    """The files of `enable` that are there."""
    folder = directory or _folder()
    return [path for path in (folder / name for name in FILES) if _ours(path)]


def outdated(directory: Path | None = None) -> list[Path]:
    """Those of them that another release wrote, which may not know what this one can."""
    texts = dict(zip(FILES, _texts(), strict=True))
    return [path for path in enabled(directory) if path.read_text("utf-8", errors="replace") != texts[path.name]]


def _texts() -> tuple[str, str, str]:
    starter = Path(__file__).with_name("_start.py").read_text("utf-8")
    return starter, f"{STARTER}:start\n", f"import {STARTER}; {STARTER}.start()\n"


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
