"""The source that a configuration names: one of ours, or somebody else's.

A source of one's own is a distribution with an entry point in the group `cdn_fallback.sources`:

    [options.entry_points]
    cdn_fallback.sources =
        warehouse = example_warehouse:Warehouse

`type = "warehouse"` in the configuration then calls ``Warehouse(settings)`` with a `Settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from cdn_fallback.mirror.sources import Settings, Source

GROUP = "cdn_fallback.sources"


def find(settings: Settings) -> Source:
    """The source that `settings` describe. Raises ConfigError; the source's own errors pass."""
    name = settings.text("type")
    made = _built_in(name)
    if made is None:
        found = {entry.name: entry for entry in entry_points(group=GROUP)}
        if name not in found:
            known = ", ".join(sorted({"directory", "simple-api", *found}))
            raise settings.error("type", f"{name} is no source that is installed here; there are {known}")
        try:
            made = found[name].load()
        except Exception as exc:  # another distribution's code: whatever it raises, it did not load
            raise settings.error("type", f"the source {name} does not load: {type(exc).__name__}: {exc}") from exc
    return made(settings)


def _built_in(name: str) -> Callable[[Settings], Source] | None:
    # Imported when one is asked for: simple-api needs requests.
    if name == "directory":
        from cdn_fallback.mirror.sources.directory import Directory

        return Directory
    if name == "simple-api":
        from cdn_fallback.mirror.sources.simple_api import SimpleApi

        return SimpleApi
    return None
