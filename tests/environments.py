"""Environments for real interpreters, with stand-ins for pip (it has the module names) and for the plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cdn_fallback

PACKAGE = Path(cdn_fallback.__file__).parent

PLUGIN = """
def hook_session(module): print("session", module.VALUE)
def hook_download(module): raise ValueError("no\\x1b[31m such\\nthing")
def hook_runnable(module): raise KeyError(module.__name__)
"""

# As pip's own: it answers for the name "pip" alone, wherever the file itself lies.
RUNNER = """
import runpy, sys
from importlib.machinery import PathFinder
from os.path import dirname
class Finder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "pip":
            return PathFinder.find_spec(fullname, [dirname(dirname(__file__))], target)
sys.meta_path.insert(0, Finder())
assert __name__ == "__main__"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""

PIP = {
    "__init__.py": "",
    "__main__.py": "import sys, pip._internal.network.session\nprint(sys.argv[1:], pip.__file__, sep='|')",
    "__pip-runner__.py": RUNNER,
    "_internal/__init__.py": "",
    "_internal/build_env.py": "",
    "_internal/network/__init__.py": "",
    "_internal/network/session.py": "VALUE = 1\nVALUE += 1\n",
    "_internal/network/download.py": "",
    "_internal/utils/__init__.py": "",
    "_internal/utils/misc.py": "raise ImportError('of its own')",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def install(folder: Path) -> None:
    shutil.copytree(PACKAGE, folder / "cdn_fallback", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cdn_fallback" / "pip_plugin.py").write_text(PLUGIN)


def run(python: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "CDN_"))}
    # Not in this folder: `python -c` finds modules in it.
    return subprocess.run(
        [str(python), *args], cwd="/", env={**kept, **environ}, capture_output=True, text=True, timeout=60
    )


@dataclass(frozen=True)
class Venv:
    python: Path
    site: Path

    def says(self, code: str, *options: str, **environ: str) -> list[str]:
        """What `code` prints; it must not fail, nor complain."""
        done = run(self.python, *options, "-c", code, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n")[:-1]


def make(folder: Path) -> Venv:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = Venv(python, Path(run(python, "-c", code).stdout.strip()))
    install(found.site)
    return found
