"""What every start of an interpreter runs where cdn-fallback is enabled: `start`.

It runs in every Python of the environment, of which few are pips. So nothing is imported here that Python
has not imported by itself already (not even `__future__` and `typing`), and all that `start` does is to put a
finder before the others, which wakes up when one of a few modules of pip is imported.
"""

import os
import sys

TYPE_CHECKING = False  # type checkers take it for True; the one in `typing` would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

PLUGIN = "cdn_fallback.pip_plugin"

# Module of pip -> the function of PLUGIN that is called with it, as soon as it has been executed.
TRIGGERS = {
    "pip._internal.network.session": "hook_session",
    "pip._internal.network.download": "hook_download",
    "pip._internal.utils.misc": "hook_runnable",  # has get_runnable_pip since pip 26.2
    "pip._internal.build_env": "hook_runnable",  # had it before
}


def switched_off(environ: "Mapping[str, str]") -> bool:
    """Whether the user wants nothing of ours (CDN_FALLBACK_DISABLE)."""
    return environ.get("CDN_FALLBACK_DISABLE", "").strip().lower() not in ("", "0", "false", "no")


def start() -> None:
    """Be there when pip is imported. Harmless the second time; nothing at all if the user switched us off."""
    if _finder in sys.meta_path or switched_off(os.environ):
        return
    sys.meta_path.insert(0, _finder)
    for name in TRIGGERS:
        module = sys.modules.get(name)
        if module is not None:  # we come late
            _hook(module)


def stop() -> None:
    """Undo `start`. What is hooked already stays so."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Finder:
    """Finds the modules of TRIGGERS as Python would, and lets their loader call our hook.

    pip's `__pip-runner__.py` puts a finder of its own before this one; it answers for the name ``pip`` alone.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in TRIGGERS:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        loader = spec.loader if spec is not None else None
        if spec is not None and loader is not None and hasattr(loader, "exec_module"):
            spec.loader = _Loader(loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """The module's own loader, but for one call; it leaves before the module can see it.

    A zipimporter serves a whole archive, so it cannot be changed itself.
    """

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def __reduce__(self) -> "Any":
        return _same, (self._loader,)  # a spec that is copied or pickled gets the module's own loader

    def exec_module(self, module: "ModuleType") -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _hook(module)


def _same(loader: "Loader") -> "Loader":
    return loader


def _hook(module: "ModuleType") -> None:
    """Fail open: whatever goes wrong on our side, the tool goes on as if we were not there."""
    try:
        from importlib import import_module

        hook: Callable[[ModuleType], object] = getattr(import_module(PLUGIN), TRIGGERS[module.__name__])
        hook(module)
    except Exception as exc:
        _warn(module.__name__, exc)


_warned = False


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


_finder = _Finder()
