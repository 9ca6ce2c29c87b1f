"""What an enabled cdn-fallback costs every start of Python: `python bench/startup.py` prints the figures.

Environments that differ in nothing else take turns, so that the machine's load falls on all alike: plain (in
two equal copies, whose difference is what the measurement can tell apart), enabled, and enabled with the package
uninstalled since. CPU is what the operating system charges the child (wait4).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cdn_fallback import switch

PACKAGE = Path(switch.__file__).parent
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CDN_FALLBACK"))}


def environment(folder: Path, enabled: bool = True, installed: bool = True) -> str:
    """The interpreter of a new virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], env=ENVIRON, text=True).strip())
    if installed:
        shutil.copytree(PACKAGE, site / "cdn_fallback", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([python, "-m", "compileall", "-q", str(site)], check=True)
    if enabled:
        switch.enable(site)
    return python


def cpu(python: str, code: str) -> float:
    """CPU milliseconds, user and system, of one start."""
    child = os.posix_spawn(python, [python, "-c", code], ENVIRON)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return 1e3 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="starts of each environment (400)")
    runs = parser.parse_args().runs
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {runs} alternating starts each, CPU in ms (user + system)")
    with tempfile.TemporaryDirectory() as folder:
        pythons = {
            "plain": environment(Path(folder, "plain"), enabled=False),
            "plain, again": environment(Path(folder, "again"), enabled=False),
            "enabled": environment(Path(folder, "enabled")),
            "uninstalled": environment(Path(folder, "uninstalled"), installed=False),
        }
        for code in ("", "import json"):
            spent: dict[str, list[float]] = {name: [] for name in pythons}
            for _ in range(runs):
                for name, python in pythons.items():
                    spent[name].append(cpu(python, code))
            print(f"python -c {code!r}")
            for name, times in spent.items():
                more = [mine - plain for mine, plain in zip(times, spent["plain"], strict=True)]
                print(
                    f"  {name:12}  median {statistics.median(times):6.2f}  minimum {min(times):6.2f}   more than"
                    f" plain: {statistics.median(more):+.2f} (median of pairs),"
                    f" {min(times) - min(spent['plain']):+.2f} (of minima)"
                )


if __name__ == "__main__":
    main()
