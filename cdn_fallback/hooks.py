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


def held(owner: Any, name: str) -> Any:
    """`owner`'s function `name`, its own or inherited (but not its metaclass's); ``None`` if it has none."""
    holders = getattr(owner, "__mro__", (owner,))
    return next((vars(holder)[name] for holder in holders if name in vars(holder)), None)


def patch(owner: Any, name: str, replace: Callable[[Any], Any]) -> Callable[[], None]:
    """Put what `replace` makes of it in the place of `owner`'s function `name`, and return what undoes that.

    Harmless the second time, as when a module is reloaded. Raises HookMissing.
    """
    original = held(owner, name)
    if original is None:
        raise HookMissing(f"there is no {getattr(owner, '__name__', owner)}.{name}")
    if hasattr(original, _MARK):
        return lambda: None
    own = vars(owner).get(name)
    replacement = replace(original)
    setattr(replacement, _MARK, True)
    setattr(owner, name, replacement)
    return lambda: delattr(owner, name) if own is None else setattr(owner, name, own)
