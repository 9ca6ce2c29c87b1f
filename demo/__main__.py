"""Watch pip and buildout go on while the redirectors, the CDN and addresses of an index die under them.

Run it with `make demo`, or with `python -m demo` from the root of the checkout.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from demo import buildout_chapter, mirror_chapter, pip_chapter
from demo.chapter import Chapter
from demo.runs import checked
from demo.servers import Pool
from tests.rig.buildouts import BuildoutEnv
from tests.rig.dists import Dist
from tests.rig.lighttpd import lighttpd
from tests.rig.names import nss_wrapper
from tests.rig.pips import built_wheel
from tests.rig.site import Site

BUILDOUT = "6.0.1"


def chapters(folder: Path) -> Iterator[Chapter]:
    """Real wheels, a pool that serves them, an environment with cdn-fallback switched on; then what is played."""
    nss_wrapper(), lighttpd()  # they tell which system package is missing
    projects = (pip_chapter.PROJECT, buildout_chapter.PROJECT)
    print(f"fetching {', '.join(projects)} and what they need from the index that this machine is configured for")
    for_pip, for_buildout = (fetched(project, folder / "wheels" / project) for project in projects)
    print("building cdn-fallback, and an environment with it, pip and zc.buildout")
    env = BuildoutEnv.create(folder / "env", BUILDOUT, built_wheel())
    checked((str(env.pip.folder / "bin" / "cdn-fallback"), "enable"), "cdn-fallback enable failed")
    pool = Pool.create(folder, Site.of(*for_pip, *for_buildout), buildout_chapter.extra_files(for_buildout))
    print(f"serving {', '.join(f'{dist.project} {dist.version}' for dist in pool.site.dists)}")
    for name, address in pool.addresses.items():
        print(f"    {name:<12} is {address:<15} {'lighttpd' if name.startswith('redirector') else ''}".rstrip())
    pool = mirror_chapter.mirrored(folder / "mirror", pool)
    yield pip_chapter.played(folder / "pip", env.pip, pool, for_pip)
    yield buildout_chapter.played(folder / "buildout", env, pool, for_buildout)


def fetched(project: str, folder: Path) -> tuple[Dist, ...]:
    """Its wheel, and those of what it needs."""
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off")
    checked(
        (*pip, "--only-binary", ":all:", "--dest", str(folder), project),
        f"{project} cannot be had from this machine's package index (`pip config list` tells which one that is)",
    )
    return Site.read(folder).dists


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, temporary files of what is stopped halfway included. It goes in the end."""
    name = tempfile.mkdtemp(prefix="cdn-fallback-demo-")
    os.environ["TMPDIR"] = tempfile.tempdir = name
    try:
        yield Path(name)
    finally:
        for _ in range(30):  # a grandchild that nobody told to stop may still write
            shutil.rmtree(name, ignore_errors=True)
            if not os.path.exists(name):
                break
            time.sleep(0.1)


def story() -> int:
    """From nothing to the tables; the exit code."""
    start = time.monotonic()
    with scratch() as folder:
        done = list(chapters(folder))
    for chapter in done:
        print(f"\n{chapter.table()}")
    print(f"\n{time.monotonic() - start:.0f} s in all")
    problems = [f"{chapter.tool.name}: {problem}" for chapter in done for problem in chapter.problems]
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return story()
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
