"""What `status` and `explain` need of the world: the configuration, requests, the health memory, threads."""

from __future__ import annotations

import argparse
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cdn_fallback import __version__
from cdn_fallback.activation import switched_off
from cdn_fallback.cli.output import Unusable, say
from cdn_fallback.config import Config, load
from cdn_fallback.lines import Call, Flavour
from cdn_fallback.settings import DISABLE

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16

# PEP 691, as pip asks; the encodings are those that the engine opens under a cap.
PAGE_HEADERS = {
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Accept-Encoding": "gzip, deflate",
}


def declared(environ: Mapping[str, str]) -> Config:
    """The configuration, also where it is switched off: the commands tell of that beside it."""
    return load({name: value for name, value in environ.items() if name != DISABLE})


def say_if_switched_off() -> None:
    if switched_off(os.environ):
        say(f"{DISABLE} is set: pip is left alone here, and does nothing of what follows")


class Client:
    """Makes requests as the tool would: requests' own rules for proxies, netrc and certificates.

    :param cert: a file with the CAs to trust, which goes before those of the environment
    """

    def __init__(self, cert: str | None) -> None:
        if cert and not Path(cert).exists():
            raise Unusable(f"--cert {cert}: there is no such file")
        self.flavour = _flavour()
        self.session: Any = self.flavour.requests.Session()
        self.cert = cert

    def prepared(self, url: str, headers: Mapping[str, str], *, netrc: bool = True) -> Any:
        """A GET of `url`, ready to be sent; raises Unusable if requests cannot make one."""
        headers = {"User-Agent": f"cdn-fallback/{__version__}", **headers}
        try:
            request = self.flavour.requests.Request("GET", url, headers)
            return self.session.prepare_request(request) if netrc else request.prepare()
        except ValueError as exc:  # requests.exceptions.InvalidURL is one
            raise Unusable(f"not a URL that can be asked for: {exc}") from exc

    def call(self, url: str, retries: int = 0) -> Call:
        """How `url` is asked for: on a new adapter, through the proxy and with the certificates that apply."""
        settings = self.session.merge_environment_settings(url, {}, None, self.cert, None)
        adapter = self.flavour.adapter(max_retries=retries)
        return Call(adapter, settings["verify"], settings["cert"], settings["proxies"])


def _flavour() -> Flavour:
    for prefix in ("", "pip._vendor."):
        try:
            return Flavour(prefix)
        except ImportError:
            continue
    raise Unusable("neither requests nor a pip that carries it is installed here; run `pip install requests`")


def add_cert_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cert",
        metavar="FILE",
        default=os.environ.get("PIP_CERT"),
        help="the CA certificates to trust, as pip's (default: PIP_CERT, then what requests goes by)",
    )


def seconds(text: str) -> float:
    """A timeout on the command line."""
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError(text)
    return value


def each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each of `items`, in parallel; raises what one of them raised.

    The threads are daemons, unlike those of concurrent.futures: Ctrl-C need not wait for a dead address.
    """
    tasks: queue.SimpleQueue[tuple[int, T]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()

    def run() -> None:
        while True:
            try:
                number, item = tasks.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, work(item)))
            except Exception as exc:  # raised again below
                done.put((number, exc))

    for task in enumerate(items):
        tasks.put(task)
    for _ in range(min(THREADS, len(items))):
        threading.Thread(target=run, name="cdn-fallback-each", daemon=True).start()
    results: dict[int, R] = {}
    for _ in items:
        number, result = done.get()
        if isinstance(result, Exception):
            raise result
        results[number] = result
    return [results[number] for number in range(len(items))]
