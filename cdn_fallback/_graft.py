"""Put cdn-fallback into this Python, which need not have it installed, and start it. Fails open.

Run by its path, from `_runner.py` and `_path/sitecustomize.py`, in interpreters of other environments. They may be
Pythons that neither pip nor we support: therefore this file has the syntax of any, and names nothing but ourselves.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))

if sys.version_info >= (3, 10):  # noqa: UP036
    try:
        if "cdn_fallback" not in sys.modules:
            # By its path, so that nothing else of the environment that we come from can be imported.
            from importlib.util import module_from_spec, spec_from_file_location

            spec = spec_from_file_location(
                "cdn_fallback", os.path.join(FOLDER, "__init__.py"), submodule_search_locations=[FOLDER]
            )
            assert spec is not None and spec.loader is not None
            package = sys.modules["cdn_fallback"] = module_from_spec(spec)
            spec.loader.exec_module(package)
        from cdn_fallback.activation import start

        start()
    except Exception:
        sys.modules.pop("cdn_fallback", None)
