"""Real buildouts with the extension: what it repairs, what it leaves as it was, and what it says."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests.rig.buildouts import BuildoutEnv, Checkout, wheels
from tests.rig.dists import Dist, wheel
from tests.rig.faults import Body, Corrupt, Refuse, Silent, Stall, Status, Truncate
from tests.rig.pips import PROJECT, built_wheel
from tests.rig.sample import FILE, PAGE, SITE, A, B, S
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene
from tests.rig.site import Site

DEMO_B = B.filename
FOREVER = Stall(0.5)


@pytest.fixture
def checkout(pool: Scene, tmp_path: Path) -> Checkout:
    return Checkout.of(tmp_path / "checkout", pool, "demo-b")


def cached(checkout: Checkout) -> Path:
    """Where buildout keeps the wheel of demo-b."""
    checkout.options["download-cache"] = "dl"
    folder = checkout.folder / "dl" / "dist"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / DEMO_B


def test_the_guides_example_works(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    guide = (PROJECT / "docs" / "buildout.md").read_text()
    example = re.search(r"```ini\n(.*?)```", guide, re.S)
    assert example
    text = example[1].replace("eggs = six", "eggs = demo-a")
    for host in (INDEX, CDN, ORIGIN):
        text = text.replace(f"https://{host}/", pool.base(host))
    pool.fault("cdn", Status(503))

    result = checkout.run(newest_buildout, config=text)

    assert result.code == 0, result.output
    assert checkout.has(A) and checkout.has(B)
    assert pool.served("file") == {"origin"}


# --- what buildout starts ---


def test_pips_that_buildout_starts_use_the_section_too(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    """A source distribution is built by a pip, whose build dependencies another pip fetches (PEP 517)."""
    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-s"}}
    pool.fault("redirector", Refuse())
    pool.fault("cdn", Status(503))
    env = {"PIP_INDEX_URL": f"{pool.index}simple/", "PIP_CERT": str(pool.ca)}

    result = checkout.run(buildout, env=env)

    assert result.code == 0, result.output
    assert checkout.has(S)
    assert pool.served("file") == {"origin"}
    by_pip = [r for r in pool.servers["origin"].requests if (r.header("User-Agent") or "").startswith("pip/")]
    assert any(r.path.startswith(FILE) for r in by_pip)


def test_a_site_customization_of_the_user_still_takes_place(
    newest_buildout: BuildoutEnv, checkout: Checkout, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text(f"open({str(theirs / 'seen')!r}, 'a').write('once ')\n")
    ours = newest_buildout.pip.site_packages / "cdn_fallback" / "_path"

    done = newest_buildout.pip.execute("-c", "", env={"PYTHONPATH": f"{ours}{os.pathsep}{theirs}"})

    assert (done.code, done.output) == (0, "")
    assert (theirs / "seen").read_text() == "once "


# --- the extension as an egg ---


def test_as_an_egg_it_works_and_tells_what_works_better(
    bare_buildout: BuildoutEnv, pool: Scene, tmp_path: Path
) -> None:
    """With the index dead it cannot come as an egg: then `pip install`, as in all other tests, is the way."""
    needed = ("requests-", "urllib3-", "idna-", "certifi-", "charset_normalizer-", "packaging-")
    ours = [built_wheel(), *(path for path in wheels(bare_buildout.version).iterdir() if path.name.startswith(needed))]
    site = Site.of(*SITE.dists, *(Dist.read(path) for path in ours))
    for server in (*pool.group("cdn"), *pool.group("origin")):
        server.content = site
    hint = "Run `pip install cdn-fallback` and `cdn-fallback enable` in the environment that buildout runs in"

    checkout = Checkout.of(tmp_path / "checkout", pool, "demo-b")
    first = checkout.run(bare_buildout)
    assert first.code == 0, first.output
    assert any(name.startswith("cdn-fallback ") for name in checkout.eggs) and checkout.has(B)
    assert hint in first.stdout

    pool.fault("cdn", Status(503))
    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-s"}}
    again = checkout.run(bare_buildout, env={"PIP_INDEX_URL": f"{pool.index}simple/", "PIP_CERT": str(pool.ca)})
    assert again.code == 0, again.output
    assert checkout.has(S) and hint not in again.stdout
    by_pip = [r for r in pool.servers["origin"].requests if (r.header("User-Agent") or "").startswith("pip/")]
    assert by_pip, "the pips that it starts find it, too"

    fresh = Checkout.of(tmp_path / "fresh", pool, "demo-b").run(bare_buildout)
    assert fresh.code == 1
    assert "Couldn't find a distribution for 'cdn-fallback'" in fresh.stderr


# --- repairs ---


def test_nothing_is_in_the_download_cache_before_it_is_whole(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = cached(checkout)
    pool.fault("", Truncate(0.5), on="file")

    failed = checkout.run(buildout, env={})

    assert failed.code == 1
    assert "stopped after" in failed.stderr and "Traceback" not in failed.output
    assert list(path.parent.iterdir()) == []
    assert checkout.eggs == {}

    pool.heal()
    assert checkout.run(buildout).code == 0
    assert path.read_bytes() == B.content
    assert checkout.has(B)


def test_a_killed_buildout_leaves_nothing_that_the_next_one_takes_for_a_file(
    newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene, tmp_path: Path
) -> None:
    path = cached(checkout)
    pool.fault("", FOREVER, on="file")

    killed = checkout.run(newest_buildout, timeout=3)

    assert killed.code == -9
    assert not path.exists()
    (left,) = path.parent.iterdir()
    os.utime(left, (0, 0))  # nobody writes to it any more
    pool.heal()
    result = checkout.run(newest_buildout)
    assert result.code == 0, result.output
    assert path.read_bytes() == B.content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [B.content[:-500], b"", B.content[:-1] + b"!"], ids=["cut", "empty", "changed"])
def test_a_broken_file_in_the_download_cache_is_fetched_anew(
    content: bytes, buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = cached(checkout)
    path.write_bytes(content)

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert f"{path} in the download cache does not have the hash sha256:{B.sha256}, fetching it again" in result.stdout
    assert path.read_bytes() == B.content
    assert checkout.has(B)


def test_a_whole_file_in_the_download_cache_is_not_fetched(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    cached(checkout).write_bytes(B.content)

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert checkout.has(B)
    assert pool.asked(kind="file") == []


def test_a_broken_file_stays_until_there_is_a_better_one(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = cached(checkout)
    path.write_bytes(B.content[:-500])
    pool.fault("", Status(503), on="file")

    result = checkout.run(buildout)

    assert result.code == 1
    assert "answered 503" in result.stderr
    assert path.read_bytes() == B.content[:-500]


def test_a_broken_file_that_nobody_links_to_is_named(
    newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = cached(checkout)
    path.write_bytes(B.content[:-500])
    checkout.options["install-from-cache"] = "true"

    result = checkout.run(newest_buildout)

    assert result.code == 1
    assert f"{path} in the download cache is no whole archive" in result.stderr
    assert "Traceback" not in result.output
    assert pool.asked() == []


def test_a_wrong_hash_everywhere_is_a_hard_error(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    pool.fault("cdn", Corrupt(0.5), on="file")
    pool.fault("origin", Corrupt(0.25), on="file")

    result = checkout.run(buildout)

    assert result.code == 1
    assert checkout.eggs == {}
    assert "does not have the hash that its index promises" in result.stderr
    for host in (CDN, ORIGIN):
        assert f"{pool.base(host)} served sha256:" in result.stderr
    files = [line.split()[0] for line in pool.asked(kind="file") if not line.startswith("redirector")]
    assert len(files) == 2, "refetched once"


# --- download recipes ---


def downloading(checkout: Checkout, pool: Scene, **options: str) -> Path:
    """Let the checkout download demo-b's file, as a download recipe does; where to."""
    path = checkout.folder / "downloaded"
    md5 = hashlib.md5(B.content, usedforsecurity=False).hexdigest()
    url = f"{pool.index}{FILE[1:]}"
    checkout.parts = {"file": {"recipe": "rig.recipe", "url": url, "path": str(path), "md5sum": md5} | options}
    return path


def test_a_release_that_no_copy_has_yet_comes_from_the_origin(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    """Their page of the project is good, and some minutes old."""
    newer = wheel("Demo_B", "2.0")
    pool.servers["origin"].content = Site.of(*SITE.dists, newer)
    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-a\n    demo-b ==2.0"}}

    result = checkout.run(buildout)

    assert result.code == 0 and checkout.has(A) and checkout.has(newer), result.output
    asked = [request.path for request in pool.servers["origin"].requests if request.kind == "page"]
    assert asked == [PAGE], "of what the copies have, nothing"


def test_what_nobody_has_is_asked_for_at_the_origin_once(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-b ==99"}}

    result = checkout.run(buildout)

    assert result.code == 1 and "Couldn't find a distribution for 'demo-b" in result.output
    assert [request.path for request in pool.servers["origin"].requests] == [PAGE]


@pytest.mark.parametrize("fault", [Status(503), Truncate(0.5), Corrupt(0.5)], ids=["503", "truncated", "corrupt"])
def test_a_download_recipe_gets_its_file_from_elsewhere(
    fault: Status | Truncate | Corrupt, buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = downloading(checkout, pool)
    pool.fault("cdn", fault, on="file")

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert path.read_bytes() == B.content
    assert "origin" in pool.served("file")


def test_a_broken_cached_download_is_fetched_anew(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    path = downloading(checkout, pool)
    checkout.options["download-cache"] = "dl"
    (checkout.folder / "dl").mkdir()
    key = hashlib.md5(f"{pool.index}{FILE[1:]}".encode(), usedforsecurity=False).hexdigest()
    cache = checkout.folder / "dl" / key
    cache.write_bytes(B.content[:-500])

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert path.read_bytes() == cache.read_bytes() == B.content
    assert "has a wrong checksum, fetching it again" in result.stdout


@pytest.mark.parametrize("kept", [b"", B.content], ids=["fresh", "cached"])
def test_a_wrong_checksum_is_the_error_that_recipes_know(
    kept: bytes, buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    path = downloading(checkout, pool, md5sum="0" * 32)
    checkout.options["download-cache"] = "dl"
    (checkout.folder / "dl").mkdir()
    key = hashlib.md5(f"{pool.index}{FILE[1:]}".encode(), usedforsecurity=False).hexdigest()
    cache = checkout.folder / "dl" / key
    if kept:
        cache.write_bytes(kept)

    result = checkout.run(buildout)

    assert result.code == 1 and "Traceback" not in result.output
    what = "for cached download from" if kept else "downloading"
    assert f"Error: MD5 checksum mismatch {what} '{pool.index}{FILE[1:]}'" in result.stderr
    assert f"{pool.base(CDN)} served md5:" in result.stdout
    assert not path.exists() and [left.read_bytes() for left in cache.parent.iterdir() if left.is_file()] == (
        [kept] if kept else []
    )


def test_a_download_that_hangs_ends(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    """``-t``, the socket timeout, means what it means: for a file it bounds each silence."""
    downloading(checkout, pool, md5sum="")
    pool.fault("", Silent(), on="file")

    result = checkout.run(newest_buildout, "-t", "1")

    assert result.code == 1, "and not stopped"
    assert re.search(r"connected, but did not answer after 1\.\d\d s", result.stderr)


# --- a dead pool ---


def test_a_dead_pool_is_an_error_that_names_every_attempt(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    pool.fault("", Refuse())

    result = checkout.run(buildout)

    assert result.code == 1
    assert f"no usable answer for {pool.index}simple/demo-b/" in result.stderr
    for server in pool.group(""):
        assert server.address in result.stderr
    assert "Traceback" not in result.output


def test_a_dead_pool_never_selects_what_lies_elsewhere(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene, tmp_path: Path
) -> None:
    """With the index dead plain buildout takes whatever ``find-links`` has of that name."""
    links = tmp_path / "links"
    links.mkdir()
    old = wheel("demo-b", "0.9")
    (links / old.filename).write_bytes(old.content)
    checkout.options["find-links"] = str(links)
    pool.fault("", Refuse())

    result = checkout.run(buildout)

    assert result.code == 1
    assert "no usable answer" in result.stderr
    assert checkout.eggs == {}
    assert checkout.run(buildout, plain=True).code == 0, "what it is there for"
    assert list(checkout.eggs) == ["demo-b 0.9"]


def test_what_is_satisfied_stays_when_nothing_newer_can_be_known(
    buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-a\ndemo-b"}}
    assert checkout.run(buildout).code == 0
    pool.heal()
    pool.fault("", Refuse())

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert checkout.has(A) and checkout.has(B)
    for name, egg in (("demo-a", "demo-a 1.0"), ("demo-b", "Demo-B 1.0")):
        told = f"whether there is a newer {name} could not be checked, going on with what is here: {egg}"
        assert told in result.stdout
    assert result.stdout.count("no usable answer for") == 1, "once is enough"

    checkout.parts = {"eggs": {"recipe": "zc.recipe.egg", "eggs": "demo-b\ndemo-s"}}
    unsatisfied = checkout.run(buildout)
    assert unsatisfied.code == 1
    assert f"no usable answer for {pool.index}simple/demo-s/" in unsatisfied.stderr


# --- enabled, and the extension too ---


def test_enabled_alone_it_needs_nothing_but_pips_copy_of_requests(
    bare_buildout: BuildoutEnv, newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    """As after `pip install --no-deps`: what a part requires is then not what we brought along."""
    checkout.extension = False
    enabled = {"PYTHONPATH": str(newest_buildout.pip.site_packages / "cdn_fallback" / "_path")}
    assert bare_buildout.pip.execute("-c", "import requests").code == 1
    pool.fault("cdn", Status(503))

    result = checkout.run(bare_buildout, "-vv", env=enabled | {"PIP_CONFIG_FILE": str(pool.config)})

    assert result.code == 0, result.output
    assert checkout.has(B) and pool.served("file") == {"origin"}
    assert f"cdn_fallback: cdn {pool.base(CDN)} " in result.stdout and "cdn-fallback: cdn" not in result.stdout
    assert "urllib3" not in result.output, "each attempt is told once"


def test_the_section_holds_from_the_extension_on(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    """What ``extends=`` names is fetched before, with what pip's files and the environment set."""
    for server in (*pool.group("cdn"), *pool.group("origin")):
        server.fault(Body(b"[buildout]\nparts = eggs\n"), on="/base.cfg")
    pool.configure(cdn="https://from-pips-file.invalid/")
    pool.fault("redirector", Refuse())
    checkout.options |= {"extends": f"{pool.index}base.cfg"}
    enabled = {"PYTHONPATH": str(newest_buildout.pip.site_packages / "cdn_fallback" / "_path")}

    result = checkout.run(newest_buildout, env=enabled | {"PIP_CONFIG_FILE": str(pool.config)})

    assert result.code == 0, result.output
    assert checkout.has(B)
    assert [line for line in pool.asked() if "base.cfg" in line] == ["origin GET /base.cfg 200"]
    assert pool.counted("page") == pool.counted("file") == {"cdn": 1}


# --- what means what it meant ---


def test_satisfied_and_not_newest_asks_nobody(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    assert checkout.run(buildout).code == 0
    pool.heal()

    result = checkout.run(buildout, "-N")

    assert result.code == 0, result.output
    assert pool.asked() == []


def test_offline_installs_nothing(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    result = checkout.run(buildout, "-o")

    assert result.code == 1
    assert "can't install one in offline (no-install) mode" in result.output
    assert checkout.eggs == {}
    assert pool.asked(kind="file") == []  # plain buildout asks for pages here, too


def test_install_from_cache_asks_nobody(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    cached(checkout).write_bytes(B.content)
    checkout.options["install-from-cache"] = "true"

    result = checkout.run(buildout)

    assert result.code == 0, result.output
    assert checkout.has(B)
    assert pool.asked() == []


def test_allow_hosts_goes_by_the_canonical_host(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    pool.fault("redirector", Refuse())
    index = f"{INDEX}:{pool.port}"

    checkout.options["allow-hosts"] = index
    allowed = checkout.run(buildout)

    assert allowed.code == 0, allowed.output
    assert pool.served("file") <= {"cdn1", "cdn2"}
    pool.heal()
    checkout.options["allow-hosts"] = f"{CDN}:{pool.port}"
    forbidden = checkout.run(buildout, "buildout:eggs-directory=others")
    assert forbidden.code == 1
    assert "Couldn't find a distribution for 'demo-b'" in forbidden.stderr
    assert pool.asked() == []


def test_switched_off_it_is_a_plain_buildout(buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    checkout.settings = {"cnd": "not even read"}
    pool.fault("cdn", Status(503))

    result = checkout.run(buildout, plain=True)

    assert result.code == 1
    assert "cdn_fallback" not in result.output
    assert "Couldn't find a distribution for 'demo-b'" in result.stderr


def test_other_extensions_do_not_bring_ours(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    """buildout calls the extensions of all that is installed, as soon as one is asked for."""
    checkout.extension = False
    checkout.options["extensions"] = "rig.recipe"
    pool.fault("cdn", Status(503))

    result = checkout.run(newest_buildout, env={"PIP_CONFIG_FILE": str(pool.config)})

    assert result.code == 1
    assert "cdn_fallback" not in result.output


# --- the configuration ---


def test_the_section_goes_before_pips_files_and_behind_the_environment(
    newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    pool.configure(cdn="https://from-pips-file.invalid/")
    pool.fault("redirector", Refuse())
    env = {"PIP_CONFIG_FILE": str(pool.config)}

    section = checkout.run(newest_buildout, env=env)
    assert section.code == 0, section.output
    assert pool.served("file") <= {"cdn1", "cdn2"}
    pool.heal()
    pool.fault("redirector", Refuse())
    variable = checkout.run(
        newest_buildout, "buildout:eggs-directory=again", env=env | {"CDN_FALLBACK_CDN": "https://variable.invalid/"}
    )

    assert variable.code == 0, variable.output
    assert pool.served("file") == {"origin"}
    assert "https://variable.invalid/ did not resolve" in variable.stdout


def test_pips_files_alone_will_do(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    checkout.settings = {}
    pool.fault("redirector cdn", Refuse())
    for group in ("redirector", "cdn"):
        pool.fault(group, Refuse())

    result = checkout.run(newest_buildout, env={"PIP_CONFIG_FILE": str(pool.config)})

    assert result.code == 0, result.output
    assert pool.served("file") == {"origin"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cnd": "https://cdn.example.net/"}, "cnd: is no key of ours; did you mean cdn?"),
        ({"cdn": "ftp://cdn.example.net/"}, "cdn: ftp://cdn.example.net/ is no http or https URL"),
        ({"cdn": "https://cdn.example.net:port/"}, "cdn: https://cdn.example.net:... has no valid host and port"),
    ],
)
def test_a_wrong_setting_is_named_before_any_request(
    settings: dict[str, str], said: str, buildout: BuildoutEnv, checkout: Checkout, pool: Scene
) -> None:
    checkout.settings = settings

    result = checkout.run(buildout)

    assert result.code == 1
    assert f"{checkout.folder / 'buildout.cfg'} [cdn-fallback]: {said}" in result.stderr
    assert "Traceback" not in result.output
    assert pool.asked() == [] and checkout.eggs == {}


def test_a_misspelt_section_is_named(newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene) -> None:
    checkout.settings = {}
    checkout.parts = {**checkout.parts, "cdn_fallback": pool.settings()}
    checkout.options["parts"] = "eggs"

    result = checkout.run(newest_buildout)

    assert result.code == 1
    assert "buildout [cdn_fallback]: is no section of ours; write [cdn-fallback]" in result.stderr
    assert pool.asked() == []


def test_a_buildout_that_does_not_fit_is_named(
    newest_buildout: BuildoutEnv, checkout: Checkout, pool: Scene, tmp_path: Path
) -> None:
    """As one of 2016 or of next year might: without one of the functions that we hold on to."""
    (tmp_path / "sitecustomize.py").write_text(
        "import zc.buildout.easy_install as it\nit.Installer._gone = it.Installer.__dict__['_fetch']\n"
        "del it.Installer._fetch\n"
    )

    result = checkout.run(newest_buildout, env={"PYTHONPATH": str(tmp_path)})

    assert result.code == 1
    version = newest_buildout.version
    assert f"[buildout] extensions: cdn-fallback does not fit zc.buildout {version}," in result.stderr
    assert "which has no Installer._fetch" in result.stderr
    assert pool.asked() == [] and checkout.eggs == {}
