"""Called at each start of Python where cdn-fallback is enabled; `cdn-fallback disable` removes it.

`cdn-fallback enable` puts a copy of this file beside its .pth and .start files. It stays when the package is
uninstalled, and keeps silent then. It runs in every Python, of which few are pips or buildouts: it imports nothing,
and all that it does is to put a finder before the others, which calls the package when they import their own modules.
"""

import sys

TYPE_CHECKING = False  # type checkers take it for True; the one in `typing` would cost the import of typing
if TYPE_CHECKING:
    from typing import Any


class Finder:
    """See `cdn_fallback.activation.find_spec`; a copy of an older release must still find that."""

    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if not name.startswith(("pip._internal.", "zc.buildout.")):
            return None
        try:
            from cdn_fallback.activation import find_spec
        except Exception:  # uninstalled, or of another Python
            return None
        return find_spec(name, path, target)


def start() -> None:
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
