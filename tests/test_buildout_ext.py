"""The extension without a buildout: a stand-in has its names. tests/integration/test_buildout.py has real ones."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cdn_fallback import buildout_ext, opener
from cdn_fallback.errors import AllEndpointsFailed, ConfigError, HashMismatch
from cdn_fallback.exchange import Kind
from cdn_fallback.hooks import HookMissing
from cdn_fallback.pool import Endpoint, Pool, Role
from cdn_fallback.settings import BUILDOUT, collect
from cdn_fallback.verdicts import Attempt, Verdict

URL = "https://pypi.python.org/simple/demo-b/"
ENDPOINT = Endpoint("https://pypi.python.org/", Role.ORIGIN)


class UserError(Exception):
    """As zc.buildout's."""


class Buildout(dict[str, dict[str, str]]):
    """Sections, as zc.buildout's Buildout has them, and where their keys come from."""

    def __init__(self, tmp_path: Path, /, **sections: dict[str, str]) -> None:
        own = {"extensions": "cdn-fallback", "eggs-directory": str(tmp_path), "installed": ".installed.cfg"}
        super().__init__({name.replace("_", "-"): keys for name, keys in sections.items()})
        self["buildout"] = own | self.get("buildout", {})
        source = SimpleNamespace(source="/srv/app/buildout.cfg")
        self._annotated = {name: dict.fromkeys(keys, source) for name, keys in self.items()}


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """zc.buildout as far as the hooks hold on to it."""
    names = ("zc", "zc.buildout", buildout_ext.INSTALLER, buildout_ext.DOWNLOAD)
    found = {name: ModuleType(name) for name in names}
    found["zc.buildout"].UserError = UserError  # type: ignore[attr-defined]
    for point in buildout_ext.HOOK_POINTS:
        owner, _, name = point.name.partition(".")
        module: Any = found[point.modules[0]]
        if not hasattr(module, owner):
            setattr(module, owner, type(owner, (), {"__module__": module.__name__}))
        setattr(getattr(module, owner), name, lambda self, *arguments: arguments)
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in [name for name in os.environ if name.startswith("CDN_FALLBACK_")]:
        monkeypatch.delenv(name)
    yield found
    buildout_ext.unload(None)
    buildout_ext.uninstall()


def state(modules: dict[str, ModuleType]) -> list[object]:
    """All that the extension may touch."""
    held = [
        getattr(getattr(modules[point.modules[0]], point.name.partition(".")[0]), point.name.partition(".")[2])
        for point in buildout_ext.HOOK_POINTS
    ]
    return [*held, getattr(urllib.request, "_opener", None), dict(os.environ)]


def failed(verdict: Verdict = Verdict.TRANSIENT) -> AllEndpointsFailed:
    return AllEndpointsFailed(URL, [Attempt(ENDPOINT, URL, "192.0.2.1", verdict, "answered 503", 0.1)])


@pytest.mark.parametrize("path", ["", os.pathsep.join(["/one", "/two"])])
def test_unload_undoes_everything(
    path: str, modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", path) if path else monkeypatch.delenv("PYTHONPATH", raising=False)
    before = state(modules)
    buildout = Buildout(tmp_path, cdn_fallback={"cdn": "https://cdn.example.net/"})

    buildout_ext.load(buildout)
    loaded = state(modules)
    buildout_ext.load(buildout)
    again = os.environ["PYTHONPATH"]
    buildout_ext.unload(buildout)

    assert all(one != other for one, other in zip(before, loaded, strict=True))
    assert again.split(os.pathsep) == [buildout_ext.SITE, *path.split(os.pathsep)][: 3 if path else 1]
    assert state(modules) == before


def test_unload_leaves_what_enable_brought(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    buildout_ext.hook(modules["zc.buildout"])
    enabled = state(modules)
    buildout = Buildout(tmp_path)

    buildout_ext.load(buildout)
    buildout_ext.unload(buildout)

    assert state(modules) == enabled


def test_the_section_is_handed_down_with_its_place(tmp_path: Path) -> None:
    buildout_ext.load(Buildout(tmp_path, cdn_fallback={"cdn": "https://cdn.example.net/"}))

    (setting,) = collect(os.environ, [])

    assert (setting.pool, setting.key, setting.value) == ("default", "cdn", "https://cdn.example.net/")
    assert setting.where == setting.source == "/srv/app/buildout.cfg [cdn-fallback]"


@pytest.mark.parametrize(
    ("extensions", "section", "active"),
    [
        ("cdn-fallback", False, True),
        ("mr.developer\nCDN_Fallback>=0.1", False, True),
        ("mr.developer", False, False),
        ("mr.developer", True, True),
    ],
)
def test_it_is_for_those_who_ask_for_it(
    extensions: str, section: bool, active: bool, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    before = state(modules)
    sections = {"buildout": {"extensions": extensions}} | ({"cdn-fallback": {}} if section else {})

    buildout_ext.load(Buildout(tmp_path, **sections))

    assert (state(modules) != before) is active


def test_switched_off_nothing_is_touched(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    before = state(modules)
    buildout_ext.load(Buildout(tmp_path, cdn_fallback={"cnd": "nonsense"}))
    assert state(modules) == before


def test_a_missing_function_is_named_and_nothing_stays(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    del modules[buildout_ext.INSTALLER].Installer._fetch
    before = [getattr(urllib.request, "_opener", None), dict(os.environ)]

    with pytest.raises(UserError) as caught:
        buildout_ext.load(Buildout(tmp_path))

    told = str(caught.value)
    assert told.startswith("[buildout] extensions: cdn-fallback does not fit zc.buildout of an unknown version, ")
    assert "which has no Installer._fetch. It works with" in told
    assert [getattr(urllib.request, "_opener", None), dict(os.environ)] == before


def test_where_it_is_enabled_the_other_hooks_take(modules: dict[str, ModuleType]) -> None:
    """Fail open: `activation` says once which hook did not."""
    del modules[buildout_ext.INSTALLER].Installer._fetch

    with pytest.raises(HookMissing, match=r"^zc\.buildout has no Installer\._fetch$"):
        buildout_ext.hook(modules["zc.buildout"])

    assert getattr(urllib.request, "_opener", None) is not None
    assert hasattr(modules[buildout_ext.INSTALLER].Installer._obtain, "__wrapped__")


INDEX = "https://pypi.python.org/simple/"


@pytest.mark.parametrize(
    ("error", "declared", "url", "stops"),
    [
        (failed(), True, URL, True),
        (failed(), False, URL, False),
        (failed(Verdict.BROKEN), False, URL, True),
        (failed(Verdict.BROKEN), False, "https://home.example/", False),
        (HashMismatch(URL, "sha256:0", []), False, f"{URL}demo.zip", True),
    ],
)
def test_a_dead_pool_and_what_comes_broken_stop_buildout(error: Any, declared: bool, url: str, stops: bool) -> None:
    pool = Pool("default", "https://pypi.python.org/", (ENDPOINT,), declared=declared)
    index = SimpleNamespace(index_url=INDEX, fetched_urls={}, scanned_urls={})

    made = buildout_ext._open_url(lambda *_: buildout_ext._wrap(error, None, pool, None))(index, url, "%s")

    assert isinstance(made, UserError) is stops
    assert isinstance(made, OSError) is not stops, "urllib's own: buildout warns, and goes on"
    assert getattr(made, "error" if stops else "reason") is error


@pytest.mark.parametrize(
    ("url", "warning", "kind"),
    [
        (URL, "%s", Kind.PAGE),
        (f"{INDEX}without-a-slash", "%s", Kind.PAGE),
        ("https://links.example/all.html", "%s", Kind.PAGE),
        ("https://home.example/", "%s", Kind.PAGE),
        ("https://home.example/manual.iso", "%s", Kind.FILE),  # only looked at: buildout reads no more of it
        (f"{INDEX}../packages/demo.zip", None, Kind.FILE),
    ],
)
def test_what_is_opened_is_known_by_who_opens_it(url: str, warning: str | None, kind: Kind) -> None:
    index = SimpleNamespace(index_url=INDEX, fetched_urls={url: True}, scanned_urls={url: True})
    kinds = []

    def fails(*_: object) -> None:
        kinds.append(opener._kind.get())
        raise UserError

    with pytest.raises(UserError):
        buildout_ext._open_url(fails)(index, url, warning)

    assert kinds == [kind] and opener._kind.get() is Kind.FILE
    assert index.fetched_urls == index.scanned_urls == {}, "the next one who needs it asks again"


def obtaining(have: list[str], outcome: Callable[[], object]) -> tuple[Callable[..., object], SimpleNamespace]:
    installer = SimpleNamespace(_env={"demo-b": have}, _index=SimpleNamespace())

    def original(self: object, requirement: object, source: object = None) -> object:
        return outcome()

    return buildout_ext._obtain(original), installer


class Requirement(str):
    project_name = "demo-b"

    def __contains__(self, dist: object) -> bool:
        return dist != "demo-b 9"


@pytest.mark.parametrize(("verdict", "asked"), [(Verdict.TRANSIENT, 1), (Verdict.BROKEN, 2)])
def test_a_dead_pool_is_asked_once_for_what_is_there(
    verdict: Verdict, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that came broken says nothing of the next one."""
    calls = []

    def dead() -> None:
        calls.append(1)
        raise buildout_ext._stop(failed(verdict))

    obtain, installer = obtaining(["demo-b 1"], dead)

    with caplog.at_level(logging.WARNING, "cdn_fallback"):
        assert obtain(installer, Requirement("demo-b")) is None
        assert obtain(installer, Requirement("demo-b")) is None

    assert len(calls) == asked
    told = [record.getMessage() for record in caplog.records]
    assert told.count("whether there is a newer demo-b could not be checked, going on with what is here: demo-b 1") == 2
    assert sum("no usable answer for" in line for line in told) == asked


@pytest.mark.parametrize("error", [failed(), HashMismatch(URL, "sha256:0", []), ConfigError("x", None, "y")])
def test_without_anything_that_satisfies_the_error_goes_on(error: Any) -> None:
    def dead() -> None:
        raise buildout_ext._stop(error)

    obtain, installer = obtaining(["demo-b 9"], dead)

    with pytest.raises(UserError):
        obtain(installer, Requirement("demo-b"))


def test_the_links_hash_decides_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "demo.zip"
    path.write_bytes(b"no archive")
    assert buildout_ext._problem(str(path), None) == "is no whole archive (File is not a zip file)"
    right, wrong = (hashlib.sha256(data).hexdigest() for data in (b"no archive", b"other"))

    assert buildout_ext._problem(str(path), f"{URL}demo.zip#sha256={right}") is None
    assert buildout_ext._problem(str(path), f"{URL}demo.zip#sha256={wrong}") == f"does not have the hash sha256:{wrong}"


def test_a_misspelt_section_is_told_but_a_part_may_have_any_name(tmp_path: Path) -> None:
    buildout_ext.load(Buildout(tmp_path, **{"cdn.fallback": {"recipe": "zc.recipe.egg"}}))
    with pytest.raises(UserError, match=r"buildout \[CDN-Fallback\]: is no section of ours"):
        buildout_ext.load(Buildout(tmp_path, **{"CDN-Fallback": {"cdn": "https://cdn.example.net/"}}))


def test_an_egg_hints_at_the_way_that_works_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    egg = tmp_path / "cdn_fallback-0.1-py3.12.egg" / "cdn_fallback" / "buildout_ext.py"
    installed = tmp_path / ".installed.cfg"

    def hints(file: Path) -> int:
        monkeypatch.setattr(buildout_ext, "__file__", str(file))
        caplog.clear()
        buildout_ext.load(Buildout(tmp_path, buildout={"installed": str(installed)}))
        return sum("pip install cdn-fallback" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.INFO, "cdn_fallback"):
        assert hints(tmp_path.parent / "site-packages" / "cdn_fallback" / "buildout_ext.py") == 0
        assert hints(egg) == 1
        installed.touch()
        assert hints(egg) == 0, "it is no new checkout any more"
    assert BUILDOUT in os.environ


def test_a_download_into_a_folder_goes_into_the_folder(tmp_path: Path) -> None:
    asked = []

    def original(self: object, url: str, md5sum: object, path: str) -> tuple[str, bool]:
        asked.append(path)
        return path, False

    assert buildout_ext._download(original)(None, URL, None, str(tmp_path)) == (str(tmp_path), False)
    assert asked == [str(tmp_path)]


@pytest.mark.parametrize(("index", "again"), [("https://pypi.python.org/", True), ("https://other.example/", False)])
def test_a_wrong_cached_download_is_fetched_again_where_a_pool_is_declared(
    index: str, again: bool, modules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere buildout's own rule holds: an error, and the file stays."""
    monkeypatch.setenv("CDN_FALLBACK_INDEX", index)
    modules[buildout_ext.DOWNLOAD].ChecksumError = ChecksumError = type("ChecksumError", (UserError,), {})
    (tmp_path / "cached").touch()

    def mismatch(self: object, url: str, md5sum: object) -> None:
        raise ChecksumError

    download = SimpleNamespace(
        cache_dir=str(tmp_path), filename=lambda url: "cached", offline=False, download=lambda *_: ("fresh", False)
    )
    cached = buildout_ext._download_cached(mismatch)
    buildout_ext._transport.cache_clear()

    if again:
        assert cached(download, URL, "0" * 32) == ("fresh", False)
    else:
        with pytest.raises(ChecksumError):
            cached(download, URL, "0" * 32)
