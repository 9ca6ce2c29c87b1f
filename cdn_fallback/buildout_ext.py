"""buildout -> transport. The only module that knows buildout's internals.

`load` and `unload` are the extension; `hook` does the same for a buildout that has none, where `cdn-fallback enable`
was called, and there it is in time for the files that ``extends=`` names. All of buildout's traffic goes through
urllib, so an opener is the main thing (`opener`); each of the hooks beside it is separate.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib
import logging
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from contextvars import ContextVar
from importlib import metadata
from types import ModuleType
from typing import Any
from urllib.parse import urldefrag, urlsplit

from cdn_fallback.activation import switched_off
from cdn_fallback.archives import damage
from cdn_fallback.body import strongest
from cdn_fallback.config import Config
from cdn_fallback.config import load as load_config
from cdn_fallback.diagnosis import Cause
from cdn_fallback.errors import AllEndpointsFailed, CdnFallbackError, ConfigError, HashMismatch, printable
from cdn_fallback.exchange import Kind
from cdn_fallback.health import remembered
from cdn_fallback.hooks import HookMissing, HookPoint, held, patch
from cdn_fallback.opener import any_flavour, build, expecting, unverified, url_error
from cdn_fallback.pages import file_name, fragment_hashes, normalized
from cdn_fallback.pool import Pool, pool_for, without_credentials
from cdn_fallback.settings import BUILDOUT, DEFAULT_POOL, SECTION, Setting, hand_down
from cdn_fallback.transport import Transport
from cdn_fallback.verdicts import Verdict

log = logging.getLogger("cdn_fallback")

INSTALLER = "zc.buildout.easy_install"
DOWNLOAD = "zc.buildout.download"
SUPPORTED = "4.1.12 to 6.0"
ABANDONED = 3600.0  # s; a file that nobody wrote to for so long is that of a run which was killed
SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_path")  # has our sitecustomize, and nothing else

HOOK_POINTS = (
    HookPoint((INSTALLER,), "AllowHostsPackageIndex.open_url", "checking index pages, an error for a dead pool"),
    HookPoint((INSTALLER,), "AllowHostsPackageIndex._download_to", "whole files only, a wrong hash fetched again"),
    HookPoint((INSTALLER,), "Installer._obtain", "going on with what is installed when nothing newer can be known"),
    HookPoint((INSTALLER,), "Installer._fetch", "fetching a broken file of the download cache again"),
    HookPoint((DOWNLOAD,), "Download.download", "fetching a download with a wrong checksum again"),
    HookPoint((DOWNLOAD,), "Download.download_cached", "fetching a broken cached download again"),
)

# Whether what is opened is a page of the index, and not of ``find-links`` or somebody's home page.
_of_index: ContextVar[bool] = ContextVar("of_index", default=False)
_undo: list[Callable[[], None]] = []
_unload: list[Callable[[], None]] = []


# -- in and out


def load(buildout: Any) -> None:
    """The extension (group ``zc.buildout.extension``): `buildout` is zc.buildout's Buildout.

    Raises zc.buildout.UserError for a setting, or a buildout, that it cannot go by.
    """
    # buildout loads the extensions of every distribution that it sees, whether they are asked for or not.
    if not _asked_for(buildout) or switched_off(os.environ):
        return
    if missing := [point.name for point in HOOK_POINTS if held(*_held(point)) is None]:
        raise _unsupported(missing)
    unload(buildout)
    _set(BUILDOUT, hand_down(_section(buildout)))
    _unload.append(_transport.cache_clear)
    _transport.cache_clear()  # what was made for the files of ``extends=`` knows less
    _transport()
    if not _undo:
        _unload.append(uninstall)
        install()
    # An egg's .pth file is read by nobody.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != SITE]
    _set("PYTHONPATH", os.pathsep.join([SITE, *paths]))
    _hint(buildout)


def unload(buildout: Any) -> None:
    """Undo what `load` did (group ``zc.buildout.unloadextension``)."""
    while _unload:
        _unload.pop()()


def hook(module: ModuleType) -> None:
    """`module`, which is zc.buildout.buildout, has been imported where cdn-fallback is enabled."""
    if not _undo:
        install()


def install() -> None:
    """Put the engine under urllib, and HOOK_POINTS' hooks into buildout; raises HookMissing for those it lacks."""
    early = _Early()
    early.setFormatter(logging.Formatter("%(name)s: %(message)s"))  # as buildout's own
    log.addHandler(early)
    _undo.append(lambda: log.removeHandler(early))
    before: Any = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(build(_transport))
    _undo.append(lambda: urllib.request.install_opener(before))
    missing = []
    for point in HOOK_POINTS:
        owner, name = _held(point)
        try:
            _undo.append(patch(owner, name, _REPLACEMENTS[name]))
        except HookMissing:
            missing.append(point.name)
    if missing:
        raise HookMissing(f"zc.buildout has no {', '.join(missing)}")


class _Early(logging.Handler):
    """Says what there is to say before buildout sets up its logging, which is after the files of ``extends=``."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stderr.write(self.format(record) + "\n")


def _held(point: HookPoint) -> tuple[Any, str]:
    """What a hook holds on to: the class (``None`` if there is no such), and the name of its function."""
    owner, _, name = point.name.partition(".")
    return getattr(importlib.import_module(point.modules[0]), owner, None), name


def uninstall() -> None:
    """Undo `install`."""
    while _undo:
        _undo.pop()()
    _transport.cache_clear()


def _set(name: str, value: str) -> None:
    """Set a variable of the environment until `unload`."""
    before = os.environ.get(name)
    os.environ[name] = value

    def undo() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    _unload.append(undo)


# -- buildout's configuration


def _asked_for(buildout: Any) -> bool:
    named = [re.split(r"[^\w.-]", spec)[0] for spec in buildout["buildout"].get("extensions", "").split()]
    return SECTION in buildout or any(normalized(name) == SECTION for name in named)


def _section(buildout: Any) -> list[Setting]:
    """What ``[cdn-fallback]`` sets, in buildout's configuration and those that it extends."""
    for name in buildout:
        if normalized(name) == SECTION != name and "recipe" not in buildout[name]:
            raise _stop(ConfigError(f"buildout [{name}]", None, f"is no section of ours; write [{SECTION}]"))
    settings = []
    for key, value in buildout[SECTION].items() if SECTION in buildout else ():
        made = getattr(buildout, "_annotated", {}).get(SECTION, {}).get(key)
        source = without_credentials(getattr(made, "source", "") or "buildout's configuration")
        where = f"{'the command line' if source == 'COMMAND_LINE_VALUE' else source} [{SECTION}]"
        settings.append(Setting(DEFAULT_POOL, key, value, where, where))
    return settings


def _hint(buildout: Any) -> None:
    """An extension that comes through the index is no help where the index is dead."""
    options = buildout["buildout"]
    eggs, installed = os.path.realpath(options["eggs-directory"]), options["installed"]
    is_egg = os.path.realpath(__file__).startswith(eggs + os.sep)
    if is_egg and not os.path.exists(installed or os.devnull):
        log.info(
            "cdn-fallback came through the index, as an egg: a new checkout cannot get it while the index is dead. "
            "Run `pip install cdn-fallback` and `cdn-fallback enable` in the environment that buildout runs in."
        )


# -- the engine


@functools.cache
def _transport() -> Transport | None:
    """The run's one transport; ``None`` if switched off. A bad configuration ends buildout before any request."""
    try:
        config: Config = load_config(os.environ)
    except ConfigError as error:
        raise _stop(error) from error
    if config.disabled:
        return None
    flavour = any_flavour()
    # urllib3 1.26 warns of a certificate for another host, though the next address may have the right one. What it
    # does otherwise is no news beside the attempts.
    logging.getLogger(flavour.urllib3.__name__).setLevel(logging.INFO)
    logging.getLogger(f"{flavour.urllib3.__name__}.connection").setLevel(logging.ERROR)
    return Transport(flavour, config, remembered(), trusts=lambda host, port: unverified(), wrap=_wrap)


def _user_error(text: str) -> Exception:
    """What ends buildout with `text`, exit code 1 and no traceback; none of its handlers for a URL takes it."""
    made: Exception = importlib.import_module("zc.buildout").UserError(text)
    return made


def _stop(error: CdnFallbackError) -> Exception:
    stop = _user_error(str(error))
    stop.error = error  # type: ignore[attr-defined]
    return stop


def _wrap(error: CdnFallbackError, request: Any, pool: Pool, cause: Cause | None) -> Exception:
    """A dead pool stops buildout: by itself it would take an older release, or a stranger's project, from elsewhere.

    So does a file, or a page of the index, that came broken. A dead host that nobody declared is left to buildout's
    own rules.
    """
    if pool.declared or not isinstance(error, AllEndpointsFailed) or error.begun:
        return _stop(error)
    if _of_index.get() and any(attempt.verdict is Verdict.BROKEN for attempt in error.attempts):
        return _stop(error)
    return url_error(error, request, pool, cause)


def _unsupported(missing: list[str]) -> Exception:
    try:
        version = metadata.version("zc.buildout")
    except metadata.PackageNotFoundError:
        version = "of an unknown version"
    return _user_error(
        f"[buildout] extensions: cdn-fallback does not fit zc.buildout {version}, which has no {', '.join(missing)}. "
        f"It works with {SUPPORTED}: install one of these, or take {SECTION} out of the extensions."
    )


# -- the hooks


def _open_url(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def open_url(self: Any, url: str, warning: str | None = None) -> Any:
        # buildout warns and goes on where it opens a page; a file must come
        of_index = warning is not None and url.startswith(self.index_url)
        is_page = of_index or (warning is not None and urlsplit(url).path.endswith(("/", ".html", ".htm")))
        token = _of_index.set(of_index)
        try:
            with expecting(Kind.PAGE if is_page else Kind.FILE):
                return original(self, url, warning)
        except Exception:
            for seen in (self.fetched_urls, self.scanned_urls):  # or the next one would find it empty
                seen.pop(url, None)
            raise
        finally:
            _of_index.reset(token)

    return open_url


def _download_to(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def download_to(self: Any, url: str, filename: str) -> Any:
        return _fetched(url, {}, lambda: _whole(filename, lambda part: original(self, url, part)))

    return download_to


def _obtain(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def obtain(self: Any, requirement: Any, source: Any = None) -> Any:
        """With nothing installed that satisfies `requirement`, a dead index is an error."""
        have = [dist for dist in self._env[requirement.project_name] if dist in requirement]
        dead = getattr(self._index, _DEAD, None)
        if not (have and dead):
            try:
                found = original(self, requirement, source)
                return found if found or have else _from_the_origin(original, self, requirement, source)
            except Exception as exc:
                dead = getattr(exc, "error", None)
                if not have or not isinstance(dead, AllEndpointsFailed):
                    raise
                log.warning("%s", dead)
                if all(attempt.verdict is Verdict.TRANSIENT for attempt in dead.attempts):
                    setattr(self._index, _DEAD, dead)  # not half a minute for each part
        found = ", ".join(map(str, have))
        log.warning(
            "whether there is a newer %s could not be checked, going on with what is here: %s", requirement, found
        )
        return None

    return obtain


_DEAD = "_cdn_fallback_dead"


def _from_the_origin(original: Callable[..., Any], installer: Any, requirement: Any, source: Any) -> Any:
    """What satisfies `requirement` that no copy knew of; ``None`` if there is nothing, or no copy was asked."""
    transport, index = _transport(), installer._index
    pages = transport.doubt(requirement.project_name) if transport else set()
    if not pages:
        return None
    for seen in (index.fetched_urls, index.scanned_urls):  # they are to be opened again
        for url in pages:
            seen.pop(url, None)
    return original(installer, requirement, source)


def _fetch(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fetch(self: Any, dist: Any, tmp: str, download_cache: str | None) -> Any:
        path = dist.location
        if download_cache and os.path.realpath(os.path.dirname(path)) == os.path.realpath(download_cache):
            links = [d.location for d in self._index[dist.project_name] if _is_remote(d.location)]
            link = next((url for url in links if file_name(url) == os.path.basename(path)), None)
            problem = _transport() and _problem(path, link)
            if problem and link is None:
                raise _user_error(f"{path} in the download cache {problem}, and no page links to another; remove it")
            if problem:
                log.warning("%s", printable(f"{path} in the download cache {problem}, fetching it again"))
                dist = dist.clone(location=link)
        return original(self, dist, tmp, download_cache)

    return fetch


def _download(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def download(self: Any, url: str, md5sum: str | None = None, path: str | None = None) -> Any:
        def fetch() -> Any:
            if path is None or os.path.isdir(path) or not _is_remote(url):
                return original(self, url, md5sum, path)
            _whole(path, lambda part: original(self, url, md5sum, part))  # which moves it from another file system
            return path, False

        try:
            return _fetched(url, {"md5": md5sum} if md5sum else {}, fetch)
        except Exception as exc:
            error = getattr(exc, "error", None)
            if not md5sum or not isinstance(error, HashMismatch):
                raise
            log.warning("%s", error)
            # what recipes know
            mismatch = importlib.import_module(DOWNLOAD).ChecksumError(f"MD5 checksum mismatch downloading {url!r}")
            raise mismatch from exc

    return download


def _download_cached(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def download_cached(self: Any, url: str, md5sum: str | None = None) -> Any:
        try:
            return original(self, url, md5sum)
        except importlib.import_module(DOWNLOAD).ChecksumError as mismatch:
            path = os.path.join(self.cache_dir, self.filename(url))
            transport = _transport() if _is_remote(url) and os.path.exists(path) and not self.offline else None
            if transport is None or not pool_for(transport.config.pools, url).declared:
                raise  # as documented by buildout, where nobody asked for anything else
            log.warning("%s", printable(f"{path} in the download cache has a wrong checksum, fetching it again"))
            try:
                return self.download(url, md5sum, path)
            except Exception as exc:
                raise mismatch from exc

    return download_cached


_REPLACEMENTS = {
    "open_url": _open_url,
    "_download_to": _download_to,
    "_obtain": _obtain,
    "_fetch": _fetch,
    "download": _download,
    "download_cached": _download_cached,
}


def _is_remote(url: str) -> bool:
    return urlsplit(url).scheme.lower() in ("http", "https")


def _fetched(url: str, told: dict[str, str], fetch: Callable[[], Any]) -> Any:
    """`fetch`, with the hashes that the file at `url` must have: those `told`, and that of the link."""
    transport = _transport() if _is_remote(url) else None
    if transport is None:
        return fetch()
    return transport.fetched(url, {**told, **fragment_hashes(urldefrag(url).fragment)}, fetch)


def _whole(path: str, fetch: Callable[[str], Any]) -> Any:
    """What `fetch` returns, which writes the file `path` under the name that it is given: a kill leaves no half."""
    part = f"{path}.{os.getpid()}.part"  # no name of a distribution: nobody takes it for one
    for left in glob.glob(f"{glob.escape(path)}.*.part"):
        with contextlib.suppress(OSError):
            if os.stat(left).st_mtime < time.time() - ABANDONED:
                os.unlink(left)
    try:
        result = fetch(part)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return result


def _problem(path: str, link: str | None) -> str | None:
    """What is wrong with the archive at `path`, by the hash of its `link` or else by itself; ``None`` if nothing."""
    digest = strongest(fragment_hashes(urldefrag(link or "").fragment))
    if digest is None or not os.path.isfile(path):
        return damage(path)
    return None if digest.matches(path) else f"does not have the hash {digest}"
