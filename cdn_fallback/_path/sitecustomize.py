"""Python imports this at its start, where the folder is on PYTHONPATH: in the pips that buildout starts.

The .pth file of `cdn-fallback enable` is not read there if we came as an egg. It may be any Python that a recipe
starts: this file has the syntax of all, and whatever goes wrong, they go on as if we were not there.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))

if sys.version_info >= (3, 5):  # noqa: UP036
    from contextlib import suppress
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    with suppress(Exception):
        graft = os.path.join(os.path.dirname(FOLDER), "_graft.py")
        with open(graft) as source:
            exec(compile(source.read(), graft, "exec"), {"__name__": "_cdn_fallback_graft", "__file__": graft})

    # The one that Python would have found without ours.
    others = [place for place in sys.path if os.path.realpath(place or ".") != os.path.realpath(FOLDER)]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)
