"""Before the chapters: `cdn-fallback mirror` makes what the CDN serves, from the origin."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from demo.servers import Pool, Published
from tests.rig.pips import clean_environment

INIT, RUN = "init", "run"


def mirrored(folder: Path, pool: Pool) -> Pool:
    """`pool`, its CDN a copy of its origin. RuntimeError if the copy is not what it should be."""
    site = folder / "site"
    base = pool.base("redirector")
    arguments = ("--source", f"{pool.base('origin')}simple/", "--store", str(site), "--base", base)
    folder.mkdir()
    print("\n##### the mirror\nThe CDN gets a static copy of the origin:")
    with pool.origin() as origin:
        _run(folder, pool, INIT, *arguments)
        first = _run(folder, pool, RUN)
        asked = len(origin.requests)
        second = _run(folder, pool, RUN)
        print(
            f"    the origin was asked {asked} times, then {len(origin.requests) - asked} times: what it had, nothing"
        )
    if "nothing new" not in second or "nothing new" in first:
        raise RuntimeError(f"the second run was to publish nothing, and the first one all: {first!r}, {second!r}")
    copy = Published(site)
    for dist in pool.site.dists:
        if (site / "packages" / dist.filename).read_bytes() != dist.content:
            raise RuntimeError(f"{dist.filename} is not in the copy as it is at the origin")
    print(f"    {len(pool.site.dists)} files in it, every byte as at the origin")
    return replace(pool, copy=copy)


def _run(folder: Path, pool: Pool, command: str, *arguments: str) -> str:
    """`cdn-fallback mirror` with these arguments; what it said."""
    environment = clean_environment(folder) | pool.environment | {"REQUESTS_CA_BUNDLE": pool.environment["PIP_CERT"]}
    print(f"  cdn-fallback mirror {' '.join((command, *arguments)).replace(str(folder), '...')}")
    # of this Python, which has the mirror's extra
    words = (sys.executable, "-m", "cdn_fallback", "mirror", command, *arguments)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"cdn-fallback mirror {command} failed: {done.stdout}{done.stderr}")
    print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="")
    return done.stdout
