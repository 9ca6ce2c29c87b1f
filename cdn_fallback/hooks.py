"""Holding on to another program's insides: what is held, what is lost without it, and how to let go again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_MARK = "__cdn_fallback__"


class HookMissing(Exception):
    """A tool has no longer what a hook holds on to: names it."""


class HookPoint(NamedTuple):
    """What a hook holds on to: `name` in one of `modules`, and what is lost without it."""

    modules: tuple[str, ...]
    name: str
    purpose: str


def patch(owner: Any, name: str, replace: Callable[[Any], Any]) -> Callable[[], None]:
    """Put what `replace` makes of it in the place of `owner`'s function `name`, and return what undoes that.

    Harmless the second time, as when a module is reloaded. Raises HookMissing.
    """
    original = getattr(owner, name, None)
    if original is None:
        raise HookMissing(f"{owner.__module__} has no {owner.__name__}.{name}")
    if hasattr(original, _MARK):
        return lambda: None
    own = vars(owner).get(name)
    replacement = replace(original)
    setattr(replacement, _MARK, True)
    setattr(owner, name, replacement)
    return lambda: delattr(owner, name) if own is None else setattr(owner, name, own)
