"""Run pip's own `__pip-runner__.py` in another interpreter, with cdn-fallback in it.

pip starts itself in another environment (``pip --python X``, isolated builds) as ``X .../__pip-runner__.py``.
Our hook on pip's get_runnable_pip puts this file in that place, and the path of pip's in the variable below.
X need not have us installed, and may be a Python that neither pip nor we support: pip's runner is the one to
say so. Therefore this file has the syntax of any Python, and fails open, as `_graft.py` does.
"""

import os
import sys

VARIABLE = "_CDN_FALLBACK_PIP_RUNNER"
FOLDER = os.path.dirname(os.path.abspath(__file__))
RUNNER = os.environ.pop(VARIABLE, "")

if not os.path.isfile(RUNNER):
    raise SystemExit(
        "cdn-fallback: _runner.py is for pip to start, but " + VARIABLE + " names no runner of pip's. "
        "Run `python -m pip` instead; if pip itself came here, set CDN_FALLBACK_DISABLE=1."
    )

# Python made our inside its first place to import from; pip's runner would have had its own folder there.
if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(FOLDER):
    sys.path[0] = os.path.dirname(RUNNER)

import runpy  # noqa: E402

try:  # noqa: SIM105
    runpy.run_path(os.path.join(FOLDER, "_graft.py"))
except Exception:
    pass
runpy.run_path(RUNNER, run_name="__main__")  # which sets sys.argv[0] and __file__
