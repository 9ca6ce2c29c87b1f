"""Mirrors that publish into buckets: their servers, the installed command started by fork, an edge that serves a
bucket, and who tells whether anything in a bucket dangles.

There is one server of each kind for each process that runs tests, and a bucket and a proxy for each test.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast
from urllib.parse import unquote

import pytest

from tests.mirror import reader
from tests.mirror.fakes import FakeStore
from tests.rig.mirrors import BASE, PATIENCE, Mirror, make_environment, once
from tests.rig.pips import PipEnv, Result, clean_environment
from tests.rig.s3 import WRITER, Ministack, S3Server, SeaweedFS
from tests.rig.s3_bucket import Bucket, Object, S3Error
from tests.rig.s3_proxy import Call, Proxy
from tests.rig.scene import subnet
from tests.rig.site import HTML, JSON

MARK = ".cdn-fallback"
_names = itertools.count(1)


# --- servers, buckets, mirrors ---

SERVERS = {"ministack": Ministack, "seaweedfs": SeaweedFS}


_running: dict[str, S3Server] = {}


def running(name: str, tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    """One server of SERVERS, for all tests of this process."""
    if name not in _running:
        server = SERVERS[name](tmp_path_factory.mktemp(name))
        atexit.register(server.kill)
        _running[name] = server.__enter__()
    return _running[name]


def mirror_env(tmp_path_factory: pytest.TempPathFactory) -> PipEnv:
    """Where the installed command is, for all workers of this run."""
    return PipEnv(once(tmp_path_factory, "mirror-env", make_environment), "")


_loaded: list[Forking] = []


def forking(tmp_path_factory: pytest.TempPathFactory) -> Forking:
    """The one of this process."""
    if not _loaded:
        made = Forking(mirror_env(tmp_path_factory))
        atexit.register(made.close)
        _loaded.append(made)
    return _loaded[0]


class Place(NamedTuple):
    """A mirror of an empty folder that publishes into an empty bucket, by way of a proxy."""

    server: S3Server
    bucket: Bucket
    proxy: Proxy
    mirror: BucketMirror
    forking: Forking

    @classmethod
    @contextlib.contextmanager
    def make(cls, name: str, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Place]:
        """At the server `name` of SERVERS."""
        server = running(name, tmp_path_factory)
        bucket = server.make_bucket(f"site-{next(_names)}")
        with Proxy(server.endpoint) as proxy:
            loaded = forking(tmp_path_factory)
            mirror = BucketMirror.make(loaded, folder, bucket, proxy.endpoint)
            yield cls(server, bucket, proxy, mirror, loaded)

    @property
    def asked(self) -> list[str]:
        """The requests since the last look, each as "PUT key 200"; of a query only its names."""
        self.proxy.settle()
        found = [worded(call) for call in self.proxy.calls]
        self.proxy.forget()
        return found


@dataclass(frozen=True, slots=True)
class BucketMirror(Mirror):
    """A mirror whose store is a bucket, with these credentials in its environment and no others of this machine."""

    who: Mapping[str, str] | None = None  # None: the writer
    forking: Forking | None = None  # runs its commands to their end

    @classmethod
    def make(cls, forking: Forking, folder: Path, bucket: Bucket, endpoint: str, prefix: str = "") -> BucketMirror:
        """Its base URL is the one that `dangling` knows. A request that fails is tried again for 2 s."""
        made = cls(forking.env, folder, forking=forking)
        made.init()
        made.config.write_text(made.config.read_text().replace(BASE, "https://index.example/"))
        return made.into(bucket, endpoint, prefix)

    def __call__(self, command: str, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """`cdn-fallback mirror COMMAND` in this folder, to its end."""
        if self.forking is None:
            return Mirror.__call__(self, command, *arguments, env=env)
        return self.forking(self.folder, self._environment(env), command, *arguments)

    def into(self, bucket: Bucket, endpoint: str, prefix: str = "", retry_seconds: int = 2) -> BucketMirror:
        """From now on it publishes there."""
        self.store(f"s3://{bucket.name}{prefix and '/'}{prefix}", endpoint=endpoint, retry_seconds=retry_seconds)
        return self

    def as_user(self, who: Mapping[str, str]) -> BucketMirror:
        """The same folder, with other credentials; {}: with none."""
        return replace(self, who=who)

    def copy(self, folder: Path) -> BucketMirror:
        """The same mirror at another place, as a backup or another machine has it."""
        folder.mkdir()
        for path in [self.config, *self.folder.glob(f"{self.catalog.name}*")]:
            if path.suffix != ".lock":
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / "packages").symlink_to(self.packages)
        return replace(self, folder=folder)

    def kill(self) -> None:
        """SIGKILL to the command under way. Returns when it is dead."""
        assert self.forking is not None
        self.forking.kill()

    def publish(self, *arguments: str) -> str:
        """`mirror publish`, which must do all there is to do; what it said in its line of summary."""
        done = self("publish", *arguments)
        assert (done.code, done.stderr) == (0, ""), done.output
        return done.stdout

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        kept = {name: value for name, value in clean_environment(self.folder).items() if not name.startswith("AWS_")}
        return kept | dict(WRITER if self.who is None else self.who) | dict(more or {})


def site(bucket: Bucket, prefix: str = "") -> dict[str, Object]:
    """What is published in a bucket, without the mark. ETags are left out: they differ for what came in parts."""
    found = {key.removeprefix(prefix): one._replace(etag="") for key, one in bucket.objects(prefix).items()}
    found.pop(MARK, None)
    return found


class _Objects(NamedTuple):
    objects: dict[str, bytes]


def dangling(objects: Mapping[str, Object]) -> list[str]:
    """Every link of a published site that leads nowhere, or to other bytes than those that it promises."""
    return reader.dangling(cast("FakeStore", _Objects({key: one.body for key, one in objects.items()})))


def worded(call: Call) -> str:
    names = "&".join(name.partition("=")[0] for name in call.query.split("&"))
    return f"{call.method} {call.key}{names and '?'}{names} {call.status}"


# --- the installed command, without the time that it takes to load ---

_FORKING = """
import json, os, signal, sys, traceback
import cdn_fallback.cli, cdn_fallback.mirror.due, cdn_fallback.mirror.lease, cdn_fallback.mirror.mirror
import cdn_fallback.mirror.stores.objects, cdn_fallback.mirror.sources.registry

print(cdn_fallback.__file__, flush=True)
for line in sys.stdin:
    told = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.chdir(told["folder"])
            os.environ.clear()
            os.environ.update(told["environment"])
            for number, path in enumerate(("/dev/null", *told["said"])):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
                os.close(file)
            code = cdn_fallback.cli.main(told["arguments"])
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forking:
    """Runs the installed command in children of a process that has loaded it, of the same wheel, once.

    A run costs so a third of its usual time, and the tests that kill one at every request make hundreds. One at a
    time; for several at once there is `Mirror.start`.
    """

    def __init__(self, env: PipEnv) -> None:
        self.env = env
        self._pid = 0
        self._begun = threading.Event()
        self._process = subprocess.Popen(
            (str(env.python), "-I", "-c", _FORKING), env=clean_environment(env.folder), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        loaded = self._answer()
        assert loaded.startswith(str(env.site_packages)), loaded  # of the wheel, not of the working tree

    def close(self) -> None:
        """Ends it."""
        with self._process as process:
            process.kill()

    def __call__(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> Result:
        """`cdn-fallback mirror ...` in this folder, to its end; `kill()` may end it before."""
        begun = time.monotonic()
        said = [str(folder / name) for name in ("stdout", "stderr")]
        what = {"folder": str(folder), "environment": environment, "said": said, "arguments": ["mirror", *arguments]}
        assert self._process.stdin
        print(json.dumps(what), file=self._process.stdin, flush=True)
        self._pid = int(self._answer())
        self._begun.set()
        late = threading.Timer(PATIENCE * 2, os.kill, (self._pid, signal.SIGKILL))
        late.start()
        code = int(self._answer())
        late.cancel()
        self._begun.clear()
        stdout, stderr = (Path(path).read_text(errors="replace") for path in said)
        return Result(code, stdout, stderr, time.monotonic() - begun)

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def kill(self) -> None:
        """SIGKILL to the run under way. Returns when it is dead."""
        assert self._begun.wait(PATIENCE)
        died = os.pidfd_open(self._pid)
        try:
            signal.pidfd_send_signal(died, signal.SIGKILL)
            assert select.select([died], [], [], PATIENCE)[0], "it does not die"
        finally:
            os.close(died)


# --- an edge ---


class Edge:
    """Serves a bucket to pip and uv while its `with` block runs, as a CDN with the negotiation of the guide, but with
    no cache: every request asks the bucket. `misses` has what was asked for and was not there.

    :param form: "html" where clients get HTML whatever they accept
    """

    def __init__(self, bucket: Bucket, form: str = "") -> None:
        self.misses: list[str] = []
        self.answers = 0
        edge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                accept = "text/html" if form == "html" else self.headers.get("Accept", "")
                edge._answer(bucket, key_of(self.path, accept), self)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self.address = f"{subnet()}.1"
        self._server = ThreadingHTTPServer((self.address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{self.address}:{self._server.server_port}/"

    def __enter__(self) -> Edge:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, bucket: Bucket, key: str, request: BaseHTTPRequestHandler) -> None:
        try:
            status, found = 200, bucket.get(key)
        except S3Error as error:
            status, found = error.answer.status, Object(b"", "text/plain")
            self.misses.append(f"{key} {status}")
        self.answers += 1
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Type", found.content_type)
            request.send_header("Content-Length", str(len(found.body)))
            request.end_headers()
            request.wfile.write(found.body)


def key_of(path: str, accept: str) -> str:
    """The object for a request. Who accepts JSON first gets JSON, as pip and uv do."""
    key = unquote(path.partition("?")[0]).lstrip("/")
    if not key.endswith("/"):
        return key
    kinds = re.findall(f"{re.escape(JSON)}|{re.escape(HTML)}|text/html", accept)
    return f"{key}index.{'json' if kinds[:1] == [JSON] else 'html'}"
