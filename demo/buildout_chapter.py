"""Chapter two: a buildout with eggs, a download, and a file that its configuration extends."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from demo.chapter import Chapter, Install, Scenario, all_but_origin, cdn_503, half_files, nothing
from demo.runs import PATIENT, watched
from demo.servers import Pool, Servers
from tests.rig.buildouts import BuildoutEnv, Checkout
from tests.rig.dists import Dist
from tests.rig.faults import Blackhole
from tests.rig.pips import clean_environment

PROJECT = "beautifulsoup4"  # not requests, which came with cdn-fallback: buildout takes what its environment has
BASE = "/base.cfg"
HANDBOOK = "/packages/handbook.bin"
BOOK = random.Random(HANDBOOK).randbytes(300_000)
CACHE = "downloads"
PATIENCE = 8.0  # s; plain buildout would wait for minutes

_OURS = "cdn_fallback: "
_COMPLAINTS = (_OURS, "Error: ", "root: Download error")


def extra_files(dists: tuple[Dist, ...]) -> dict[str, bytes]:
    """What the pool serves beside its index: the versions that the buildout extends, and what it downloads."""
    pins = "".join(f"{dist.project} = {dist.version}\n" for dist in dists)
    return {BASE: f"[buildout]\nversions = versions\n\n[versions]\n{pins}".encode(), HANDBOOK: BOOK}


@dataclass(frozen=True)
class Buildout:
    """buildout, where cdn-fallback is enabled and an extension; it installs PROJECT, which is `dists`."""

    env: BuildoutEnv
    pool: Pool
    dists: tuple[Dist, ...]
    name: str = "buildout"
    whole: str = "every byte of the eggs, the download and the download cache as it was served"
    note: str = (
        f"stopped after {PATIENCE:.0f} s: it has no timeout for what extends= names, not even with -t; "
        "the kernel gives a dead address up after about two minutes"
    )

    def checkout(self, folder: Path) -> Checkout:
        """What is to be built in a folder."""
        index = self.pool.base("redirector")
        options = {"extends": f"{index}{BASE[1:]}", "download-cache": CACHE}
        checkout = Checkout.of(folder, self.pool.scene(), PROJECT, **options)
        checkout.parts = {
            **checkout.parts,
            "handbook": {
                "recipe": "rig.recipe",
                "url": f"{index}{HANDBOOK[1:]}",
                "md5sum": _md5(BOOK),
                "path": Path(HANDBOOK).name,
            },
        }
        (folder / CACHE).mkdir()
        return checkout

    def command(self, *, plain: bool) -> str:
        return "bin/buildout"

    def install(self, folder: Path, home: Path, *, plain: bool) -> Install:
        checkout = self.checkout(folder)
        environment = clean_environment(home) | self.pool.environment
        environment["SSL_CERT_FILE"] = environment["PIP_CERT"]
        if plain:
            environment["CDN_FALLBACK_DISABLE"] = "1"
        command = (str(self.env.pip.python), str(self.env.program), "-c", str(checkout.write()))
        run = watched(command, environment, folder, self.worth, patience=PATIENCE if plain else PATIENT)
        return Install(run, self.wrong(checkout))

    def worth(self, line: str) -> str | None:
        """What buildout and cdn-fallback complain of."""
        told = line.startswith(_COMPLAINTS)
        return self.pool.shortened(line.removeprefix(_OURS)) if told else None

    def wrong(self, checkout: Checkout) -> list[str]:
        """Which eggs, downloads and files of the download cache are absent or not what was served."""
        book = checkout.folder / Path(HANDBOOK).name
        cache = checkout.folder / CACHE
        served = {f"dist/{dist.filename}": dist.content for dist in self.dists}
        served[_md5(f"{self.pool.base('redirector')}{HANDBOOK[1:]}".encode())] = BOOK
        kept = {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
        return [
            *(dist.filename for dist in self.dists if not checkout.has(dist)),
            *([] if book.is_file() and book.read_bytes() == BOOK else [book.name]),
            *(f"{CACHE}/{name}" for name in sorted({*served, *kept}) if served.get(name) != kept.get(name)),
        ]


def one_cdn_address(servers: Servers) -> None:
    """The first that getaddrinfo tells, and so the first that plain buildout asks."""
    servers.kill(Blackhole(), "cdn1")


SCENARIOS = (
    Scenario("all is well", nothing, lambda seen: not seen.run.told),
    # One run in two asks the other one first, as equals are shuffled.
    Scenario("one of two CDN addresses blackholed", one_cdn_address, lambda seen: bool(seen.knocked), tries=12),
    Scenario("the CDN answers 503", cdn_503, lambda seen: seen.servers.faulty == {"cdn1", "cdn2"}),
    Scenario("a CDN address cuts files in half", half_files, lambda seen: len(seen.servers.faulty) == 1),
    Scenario(
        "all redirectors and all of the CDN refuse",
        all_but_origin,
        lambda seen: seen.servers.who_served() == "all: origin" and bool(seen.run.told),
    ),
)


def played(folder: Path, env: BuildoutEnv, pool: Pool, dists: tuple[Dist, ...]) -> Chapter:
    """The chapter, from its first scenario to its last."""
    buildout = Buildout(env, pool, dists)
    sample = buildout.checkout(folder / "sample")
    print(f"\n##### zc.buildout {env.version}, with cdn-fallback enabled and in its extensions. buildout.cfg:")
    print("\n".join(f"    {line}".rstrip() for line in sample.write().read_text().splitlines()))
    print("Extensions are loaded after what extends= names: for that file the pool is in pip's configuration, too.")
    print(f"It has the versions of the eggs. {HANDBOOK} is {len(BOOK)} bytes long.")
    print("each buildout has a fresh folder; plain ones have CDN_FALLBACK_DISABLE=1")
    chapter = Chapter(folder, pool, buildout)
    for scenario in SCENARIOS:
        chapter.play(scenario)
    return chapter


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
