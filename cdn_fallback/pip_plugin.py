"""pip -> transport. The only module that knows pip's internals.

`activation` calls the hooks below with a module of pip's once that has been executed. Each hook is separate: one
that finds nothing to hold on to raises, `activation` says so, and pip goes on as it was. Importing this costs next
to nothing; the engine is loaded by the first request.

``python -m cdn_fallback.pip_plugin install ...`` is a pip with the plugin, switched on for this run alone.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cdn_fallback.hooks import HookPoint, patch

if TYPE_CHECKING:
    from cdn_fallback.diagnosis import Cause
    from cdn_fallback.errors import CdnFallbackError
    from cdn_fallback.pool import Pool
    from cdn_fallback.transport import Transport

VENDOR = "pip._vendor."
RUNNER_VARIABLE = "_CDN_FALLBACK_PIP_RUNNER"


HOOK_POINTS = (
    HookPoint((VENDOR + "requests.adapters",), "HTTPAdapter.send", "retry and failover of every request"),
    HookPoint(
        ("pip._internal.network.session",),
        "PipSession.add_trusted_host",
        "--trusted-host for endpoints",
    ),
    HookPoint(("pip._internal.network.download",), "Downloader.__call__", "fetching a file with a wrong hash again"),
    HookPoint(
        ("pip._internal.index.package_finder",),
        "PackageFinder.find_best_candidate",
        "releases that the origin has and a copy has not yet",
    ),
    HookPoint(
        ("pip._internal.utils.misc", "pip._internal.build_env"),
        "get_runnable_pip",
        "pips started in other interpreters (--python, isolated builds)",
    ),
)

_undo: list[Callable[[], None]] = []
_trusted: set[tuple[str, int | None]] = set()


def hook_session(module: ModuleType) -> None:
    """Let every request of pip's sessions go through the transport (`module`: pip._internal.network.session)."""
    adapter_class = importlib.import_module(VENDOR + "requests.adapters").HTTPAdapter

    def replace_send(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            transport = _transport()
            if transport is None or not transport.handles(request):
                return original(self, request, *args, **kwargs)
            return transport.send(self, request, *args, **kwargs)

        return send

    def replace_trust(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def add_trusted_host(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            _trusted.update(self.pip_trusted_origins)

        return add_trusted_host

    _patch(adapter_class, "send", replace_send)
    _patch(module.PipSession, "add_trusted_host", replace_trust)


def hook_download(module: ModuleType) -> None:
    """Tell the transport which hash a file must have, and fetch one with a wrong hash again, from elsewhere."""

    def replace_call(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def download(self: Any, link: Any, location: Any) -> Any:
            return _download(functools.partial(original, self, link, location), self._session, link)

        return download

    def replace_batch(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def batch(self: Any, links: Any, location: Any) -> Iterator[Any]:
            # up to pip 25.0 this is a second copy of Downloader's loop
            downloader = getattr(self, "_downloader", None)
            downloader = downloader or module.Downloader(self._session, self._progress_bar)
            for link in links:
                yield link, downloader(link, location)

        return batch

    _patch(module.Downloader, "__call__", replace_call)
    if hasattr(module, "BatchDownloader"):  # until pip 25.3
        _patch(module.BatchDownloader, "__call__", replace_batch)


def hook_finder(module: ModuleType) -> None:
    """Ask the origin where nothing will do of what a copy says there is (`module`: pip._internal.index.package_finder).

    A release of the last minutes, pinned, would end pip: the CDN's page is good, and does not have it yet.
    """

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def find_best_candidate(self: Any, project_name: str, *args: Any, **kwargs: Any) -> Any:
            found = original(self, project_name, *args, **kwargs)
            transport = None if found.best_candidate else _transport()
            pages = transport.doubt(project_name) if transport else ()
            if not pages:
                return found
            for url in pages:  # since pip 26 it does not ask anew within max-age
                _forget(self._link_collector.session, url)
            # And what the finder remembers: in two dictionaries; up to pip 25.0, all that these have ever returned.
            getattr(self, "_all_candidates", {}).pop(project_name, None)
            getattr(self, "_best_candidates", {}).clear()
            for function in (type(self).find_all_candidates, original):
                getattr(function, "cache_clear", lambda: None)()
            return original(self, project_name, *args, **kwargs)

        return find_best_candidate

    _patch(module.PackageFinder, "find_best_candidate", replace)


def hook_runnable(module: ModuleType) -> None:
    """Let the pips that pip starts in other interpreters be ours too, as far as `module` is where it starts them."""
    runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_runner.py")
    if not hasattr(module, "get_runnable_pip") or not os.path.isfile(runner):
        return

    def replace(original: Callable[[], str]) -> Callable[[], str]:
        @functools.wraps(original)
        def get_runnable_pip() -> str:
            os.environ[RUNNER_VARIABLE] = original()
            return runner

        return get_runnable_pip

    _patch(module, "get_runnable_pip", replace)


def uninstall() -> None:
    """Undo every hook."""
    while _undo:
        _undo.pop()()
    _transport.cache_clear()
    _trusted.clear()


def index_urls() -> list[str]:
    """The indexes that pip asks by its configuration and the environment, the main one first."""
    command: Any = importlib.import_module("pip._internal.commands").create_command("install")
    options, _ = command.parse_args([])
    return [options.index_url, *options.extra_index_urls]


def _patch(owner: Any, name: str, replace: Callable[[Any], Any]) -> None:
    _undo.append(patch(owner, name, replace))


@functools.cache
def _transport() -> Transport | None:
    """The process's one transport; ``None`` if switched off. A bad configuration ends pip before any request."""
    import logging

    from cdn_fallback.config import load
    from cdn_fallback.errors import ConfigError
    from cdn_fallback.health import remembered
    from cdn_fallback.lines import Flavour
    from cdn_fallback.transport import Transport, log

    try:
        config = load(os.environ)
    except ConfigError as error:
        raise _stop(error) from error
    if config.disabled:
        return None
    # urllib3 1.26 warns of a certificate for another host, though the next address may have the right one.
    logging.getLogger(VENDOR + "urllib3.connection").setLevel(logging.ERROR)

    log.addFilter(_named)

    def trusts(host: str, port: int) -> bool:
        return (host, None) in _trusted or (host, port) in _trusted

    class Vendored(Flavour):
        def another_context(self, context: Any) -> Any:
            return (_truststore() if "truststore" in type(context).__module__ else None) or context

        def set_apart(self, copy: Any, settings: dict[str, Any]) -> None:
            # pip's adapter keeps its context for proxies, too (since 25.3)
            settings["ssl_context"] = copy._ssl_context = _truststore() if settings.get("ssl_context") else None

    return Transport(Vendored(VENDOR), config, remembered(), trusts=trusts, wrap=_wrap)


def _named(record: Any) -> bool:
    """pip shows no logger's name: among its own many debug lines ours begin with it."""
    if record.levelname == "DEBUG":
        record.msg = f"cdn-fallback: {record.msg}"
    return True


def _truststore() -> Any:
    """A new TLS context of the kind that pip makes for its sessions; ``None`` where this pip has no such function."""
    for name in ("index_command", "req_command"):  # the latter until pip 24.2
        module = sys.modules.get(f"pip._internal.cli.{name}")
        if make := getattr(module, "_create_truststore_ssl_context", None):
            return getattr(make, "__wrapped__", make)()  # it remembers its result since pip 25.1
    return None


def _stop(error: CdnFallbackError) -> Exception:
    """An exception that ends pip with `error`'s text and exit code 1, and that none of its handlers swallows."""
    base: Any = importlib.import_module("pip._internal.exceptions").InstallationError
    stop: Exception = base(str(error))
    stop.error = error  # type: ignore[attr-defined]
    return stop


def _wrap(error: CdnFallbackError, request: Any, pool: Pool, cause: Cause | None) -> Exception:
    """A dead pool stops pip: by itself it would skip a dead index, and install a stranger's project of that name
    from the next one. So does a file that broke: pip would begin to resume what cannot be resumed. A dead host that
    nobody declared is left to pip's own rules, which go by the type of what requests raises."""
    from cdn_fallback.diagnosis import as_requests
    from cdn_fallback.errors import AllEndpointsFailed
    from cdn_fallback.transport import log

    if pool.declared or not isinstance(error, AllEndpointsFailed) or error.begun:
        return _stop(error)
    log.warning("%s", error)
    requests, urllib3 = (importlib.import_module(VENDOR + name) for name in ("requests", "urllib3"))
    if cause is None:
        failure: Exception = requests.ConnectionError(error, request=request)
        return failure
    return as_requests(cause, request, requests.exceptions, urllib3)


def _download(fetch: Callable[[], Any], session: Any, link: Any) -> Any:
    """`fetch` the file of `link`, and once more from elsewhere if it has not the hash that the link promises."""
    from cdn_fallback.body import strongest
    from cdn_fallback.errors import printable
    from cdn_fallback.transport import log

    transport = _transport()
    url = link.url_without_fragment
    digest = strongest({link.hash_name: link.hash}) if link.hash_name and link.hash else None
    if transport is None or digest is None or not url.startswith(("http://", "https://")):
        return fetch()
    promised = {digest.algorithm: digest.value}
    result = transport.fetched(url, promised, fetch)
    # What pip's cache gave out has passed nobody's check: a bad file from one node once failed every later run.
    if transport.promises.is_verified(url) or digest.matches(result[0]):
        return result
    log.warning("pip's cache has %s with a wrong hash, fetching it again", printable(url))
    _forget(session, url)
    return transport.fetched(url, promised, fetch)


def _forget(session: Any, url: str) -> None:
    """Take `url` out of pip's cache, if there is one."""
    adapter = session.get_adapter(url)
    if hasattr(adapter, "cache"):
        adapter.cache.delete(adapter.controller.cache_url(url))


def main() -> None:
    """Run pip with the arguments of this process, hooked."""
    import runpy

    from cdn_fallback.activation import start

    start()
    sys.argv[0] = "pip"
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
