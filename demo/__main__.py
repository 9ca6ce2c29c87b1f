"""Watch pip and buildout go on while redirectors, edges, bucket and origin of an index die, one after the other.

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

from demo import leftovers
from demo.runs import checked
from demo.scenarios import SCENARIOS
from demo.stage import Stage
from demo.tools import BASE, BOOK, HANDBOOK, IMPATIENT, PATIENCE, Buildout, Pip, Place, files_beside
from tests.rig.buildouts import BuildoutEnv, wheels
from tests.rig.dists import Dist
from tests.rig.lighttpd import lighttpd
from tests.rig.names import nss_wrapper
from tests.rig.nginx import nginx
from tests.rig.picture import EDGES, REDIRECTORS, Picture
from tests.rig.pips import built_wheel, cache_folder
from tests.rig.s3 import SEAWEEDFS, installed
from tests.rig.scene import CDN, ORIGIN
from tests.rig.site import Site
from tests.rig.varnish import varnishd

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUILDOUT = "6.0.1"
FOR_PIP = "requests"
FOR_BUILDOUT = "beautifulsoup4"  # requests came with cdn-fallback: buildout takes what its environment has
COMMAND = (sys.executable, "-m", "cdn_fallback")  # of this Python, which has the mirror's extra
NOTES = (
    f"* plain pip has {' '.join(IMPATIENT)}: by itself it waits 15 s for each dead address, and tries 6 times.",
    f"  Plain buildout is stopped after {PATIENCE:.0f} s: it has no timeout for what extends= names, not even with -t;",
    "  the kernel gives a dead address up after about two minutes.",
)


def played(folder: Path) -> Stage:
    """Real wheels, environments, the whole picture; then all scenarios."""
    nss_wrapper(), lighttpd(), nginx(), varnishd()  # they tell which system package is missing
    with step(f"wheels of {FOR_PIP}, {FOR_BUILDOUT} and what they need, from this machine's package index"):
        for_pip, for_buildout = (fetched(name, folder / "wheels" / name) for name in (FOR_PIP, FOR_BUILDOUT))
        egg, *needed = sorted(for_buildout, key=lambda dist: dist.project != FOR_BUILDOUT)
    with step(f"SeaweedFS, and the wheels of zc.buildout and pip, fetched once and kept in {cache_folder()}"):
        installed(SEAWEEDFS), wheels(BUILDOUT)
    with step("building cdn-fallback, and an environment with it, pip and zc.buildout"):
        env = BuildoutEnv.create(folder / "env", BUILDOUT, built_wheel())
        for dist in needed:  # buildout takes them from its environment: each egg costs it a pip
            env.pip.install(folder / "wheels" / FOR_BUILDOUT / dist.filename)
        checked((str(env.pip.folder / "bin" / "cdn-fallback"), "enable"), "cdn-fallback enable failed")
    picture = Picture(folder / "picture", Site.of(*for_pip, *for_buildout), COMMAND, files=files_beside(for_buildout))
    with contextlib.ExitStack() as stack:
        with step("starting all parts, and the mirror's first run"):
            stack.enter_context(picture)
        show_parts(picture)
        show_mirror(picture)
        place = Place(env, picture.client, picture.addresses)
        pip, buildout = Pip(place, (FOR_PIP,), for_pip), Buildout(place, (FOR_BUILDOUT,), (egg,))
        show_tools(place, buildout, folder / "sample")
        stage = Stage(folder / "runs", picture, (pip, buildout))
        for scenario in SCENARIOS:
            stage.play(scenario)
    return stage


def fetched(project: str, folder: Path) -> tuple[Dist, ...]:
    """Its wheel, and those of what it needs."""
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off")
    checked(
        (*pip, "--only-binary", ":all:", "--dest", str(folder), project),
        f"{project} cannot be had from this machine's package index (`pip config list` tells which one that is)",
    )
    return Site.read(folder).dists


def show_parts(picture: Picture) -> None:
    """Each with its name, its address and its program."""
    store = picture.store
    scene = picture.client.scene
    parts = [(name, scene.index, "lighttpd, by `cdn-fallback redirectors --server lighttpd`") for name in REDIRECTORS]
    parts += [(name, scene.base(CDN), "Varnish behind nginx for TLS; takes from the bucket") for name in EDGES]
    parts += [("origin", scene.base(ORIGIN), "a small index of ours, with real wheels")]
    for name, url, program in parts:
        print(f"    {name:<11}  {picture.addresses[name]:<15}  {url:<34}  {program}")
    print(f"    {'bucket':<11}  {store.address:<15}  {store.endpoint:<34}  SeaweedFS")


def show_mirror(picture: Picture) -> None:
    """What the first run published, and a second one that has nothing to do. RuntimeError if it was otherwise."""
    print("\nThe mirror copies the origin into the bucket:")
    asked = len(picture.origin.requests)
    second = picture.publish()
    again = len(picture.origin.requests) - asked
    for said, count in ((picture.first_run, asked), (second, again)):
        print(f"    cdn-fallback mirror run: {said.strip()} (the origin was asked {count} times)")
    if "nothing new" not in second or "nothing new" in picture.first_run:
        raise RuntimeError(f"the first run was to publish all, the second nothing: {picture.first_run!r}, {second!r}")
    found = picture.bucket.objects()
    for dist in picture.site.dists:
        if found[f"packages/{dist.filename}"].body != dist.content:
            raise RuntimeError(f"{dist.filename} is not in the bucket as it is at the origin")
    print(f"    {len(found)} objects in it; {len(picture.site.dists)} wheels, every byte as at the origin")


def show_tools(place: Place, buildout: Buildout, folder: Path) -> None:
    """How they are configured."""
    print(f"\npip {place.env.pip.pip_version}: pip install {FOR_PIP}, into a fresh folder. Its configuration has:")
    print("\n".join(f"    {line}" for line in place.scene.config.read_text().splitlines()))
    print(f"zc.buildout {place.env.version}: bin/buildout, in a fresh folder with this buildout.cfg:")
    text = buildout.checkout(folder).write().read_text()
    print("\n".join(f"    {line}".rstrip() for line in text.partition("[cdn-fallback]")[0].rstrip().splitlines()))
    print("    [cdn-fallback] as pip's")
    print(f"{BASE} has the version of the egg, whose needs are installed; {HANDBOOK} is {len(BOOK)} bytes long.")
    print("Plain ones run with CDN_FALLBACK_DISABLE=1. Homes are fresh and edges empty, unless it says otherwise.")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Told with how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:.1f} s")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, temporary files included. It goes in the end, and before it whatever still runs."""
    name = tempfile.mkdtemp(prefix="cdn-fallback-demo-")
    os.environ["TMPDIR"] = tempfile.tempdir = name
    leftovers.adopt()
    try:
        yield Path(name)
    finally:
        leftovers.end()
        shutil.rmtree(name, ignore_errors=True)


def story() -> int:
    """From nothing to the table; the exit code."""
    start = time.monotonic()
    with scratch() as folder:
        stage = played(folder)
    print(f"\n{stage.table()}\n\n" + "\n".join(NOTES))
    print(f"\n{time.monotonic() - start:.0f} s in all")
    for problem in stage.problems:
        print(f"PROBLEM: {problem}")
    return 1 if stage.problems else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    """Once: cleaning up takes a moment, and is not to be stopped halfway."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    for number in SIGNALS:
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
