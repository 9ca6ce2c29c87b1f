"""Be there when pip or buildout is imported: hook a few of their modules as soon as they have been executed.

`start` does it for this process. Where cdn-fallback is enabled, each start of Python runs `_start` (see
`switch`), whose finder asks `find_spec` here once they import modules of their own. Whatever goes wrong on our
side, they go on as if we were not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader

PLUGIN = "cdn_fallback.pip_plugin"
EXTENSION = "cdn_fallback.buildout_ext"

# Their module -> ours, and its function that is called with it.
TRIGGERS = {
    "pip._internal.network.session": (PLUGIN, "hook_session"),
    "pip._internal.network.download": (PLUGIN, "hook_download"),
    "pip._internal.index.package_finder": (PLUGIN, "hook_finder"),
    "pip._internal.utils.misc": (PLUGIN, "hook_runnable"),  # has get_runnable_pip since pip 26.2
    "pip._internal.build_env": (PLUGIN, "hook_runnable"),  # had it before
    "zc.buildout.buildout": (EXTENSION, "hook"),  # which has imported the others by then
}

_stopped = False
_warned = False


def switched_off(environ: Mapping[str, str]) -> bool:
    """Whether the user wants nothing of ours (CDN_FALLBACK_DISABLE)."""
    return environ.get("CDN_FALLBACK_DISABLE", "").strip().lower() not in ("", "0", "false", "no")


def start() -> None:
    """Hook pip and buildout, now or when they are imported. Harmless the second time; nothing if switched off."""
    global _stopped
    _stopped = False
    if Finder in sys.meta_path or switched_off(os.environ):
        return
    sys.meta_path.insert(0, Finder)
    for name in TRIGGERS:
        module = sys.modules.get(name)
        if module is not None:  # we come late
            _hook(module)


def stop() -> None:
    """Undo `start`, also that of `_start`. What is hooked already stays so."""
    global _stopped
    _stopped = True
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)


def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
    """Find a module of TRIGGERS as Python would, with a loader that calls our hook; ``None`` for any other.

    pip's `__pip-runner__.py` puts a finder of its own before ours; it answers for the name ``pip`` alone.
    """
    if name not in TRIGGERS or _stopped or switched_off(os.environ):
        return None
    spec = PathFinder.find_spec(name, path, target)
    loader = spec.loader if spec is not None else None
    if spec is not None and loader is not None and hasattr(loader, "exec_module"):
        spec.loader = _Loader(loader)  # type: ignore[assignment]
    return spec


class Finder:
    """What stands in sys.meta_path."""

    find_spec = staticmethod(find_spec)


class _Loader:
    """The module's own loader, but for one call; it is gone before the module can see it.

    The loader itself is not changed: a zipimporter serves all modules of its archive.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __reduce__(self) -> Any:
        return _same, (self._loader,)  # a spec that is copied or pickled gets the module's own loader

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _hook(module)


def _same(loader: Loader) -> Loader:
    return loader


def _hook(module: ModuleType) -> None:
    try:
        ours, name = TRIGGERS[module.__name__]
        hook: Callable[[ModuleType], object] = getattr(import_module(ours), name)
        hook(module)
    except Exception as exc:
        _warn(module.__name__, exc)


def _warn(name: str, exc: Exception) -> None:
    global _warned
    if _warned or sys.stderr is None:
        return
    _warned = True
    what = ascii(" ".join(f"{type(exc).__name__}: {exc}".split()))[1:-1]  # no control gets on the terminal
    line = f"cdn-fallback: the hook on {name} did not take ({what}); going on without it, "
    try:
        sys.stderr.write(line + "see `cdn-fallback doctor`\n")
    except (OSError, ValueError):  # nobody listens, or it is closed
        return
