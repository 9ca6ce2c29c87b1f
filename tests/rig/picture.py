"""The whole picture on loopback, every part of it real: redirectors, edges, a bucket, the mirror and an origin.

    redirector1..3   lighttpd with what `cdn-fallback redirectors` wrote, behind pypi.python.org
    edge1, edge2     Varnish with a terminator of TLS, behind cdn.example.net
    bucket           SeaweedFS, by way of a forwarder that can vanish in no time
    origin           the rig's own server, at origin.example.org
    the mirror       `cdn-fallback mirror run`, when `publish()` is called

Started once, it is for many installations: `kill()`, install, look at `requests()`, `heal()`, `forget()`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.rig.dists import Dist
from tests.rig.dns import Dns
from tests.rig.forward import FAULTS, Forwarder, How, stand_in
from tests.rig.installing import Client
from tests.rig.lighttpd import Configured
from tests.rig.messages import Answer, Content, Kind, Request
from tests.rig.names import Names, free_port, late_resolver
from tests.rig.pips import Result, clean_environment, timed
from tests.rig.s3 import SeaweedFS
from tests.rig.s3_bucket import Bucket
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene, subnet
from tests.rig.server import Server
from tests.rig.site import Site
from tests.rig.tls import Authority
from tests.rig.varnish import Asked, Edge, Source

Way = How | Literal["sick"]  # of an edge: its terminator is there, and answers 502, as its Varnish is dead

REDIRECTORS, EDGES = ("redirector1", "redirector2", "redirector3"), ("edge1", "edge2")
NAMES = (*REDIRECTORS, *EDGES, "bucket", "origin")
_OCTETS = {"redirector1": 11, "redirector2": 12, "redirector3": 13, "edge1": 21, "edge2": 22, "origin": 31}
_HOSTS = {"redirector": INDEX, "edge": CDN, "origin": ORIGIN}
_BUCKET = "site"
_BESIDE = "files"  # the folder of what is published beside the index
_PATIENCE = 60.0  # seconds that a run of the mirror may take


@dataclass(frozen=True, slots=True)
class _WithFiles:
    """A site, and files that no page of it links to: path -> bytes."""

    site: Site
    files: Mapping[str, bytes]

    def answer(self, request: Request) -> Answer:
        if request.path in self.files:
            return Answer(200, self.files[request.path], (("Content-Type", "application/octet-stream"),))
        return self.site.answer(request)


class Picture:
    """Runs while its `with` block does; `site` is published when it begins.

    :param command: how our own command is run: (".../bin/cdn-fallback",), or (python, "-m", "cdn_fallback")
    :param errors: s that an edge remembers an error
    :param files: name -> bytes of what lies at /files/ beside the index
    """

    def __init__(
        self,
        folder: Path,
        site: Site,
        command: Sequence[str],
        *,
        errors: float = 10.0,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.folder = folder
        self.site = site
        self.files = {f"/{_BESIDE}/{name}": content for name, content in (files or {}).items()}
        self.first_run = ""  # what the mirror said of the first one
        self.down: dict[str, Way] = {}
        self._command = tuple(command)
        self._errors = errors
        self._net = subnet()
        self.addresses = {name: f"{self._net}.{octet}" for name, octet in _OCTETS.items()}
        self.port = free_port(self.addresses.values())
        self._authority = Authority()
        self._tls = {role: self._authority.server(host) for role, host in _HOSTS.items()}
        self._stack = contextlib.ExitStack()
        self._stand_ins: dict[str, Server] = {}
        self._forgotten = dict.fromkeys(NAMES, 0)

    # --- life ---

    def __enter__(self) -> Picture:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._stand_ins.values():
            server.close()
        self._stack.close()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = Names.write(self.folder, {host: self._of(role) for role, host in _HOSTS.items()})
        ca = self._authority.write(self.folder)
        environment = names.environment()
        scene = Scene(self.folder, "https", self.port, {}, environment, self._authority, ca)
        environment["CDN_FALLBACK_CONFIG"] = str(scene.config)
        self.client = Client(scene)
        self.store = SeaweedFS(self.folder / "bucket")
        front = f"{self._net}.41"
        self._forwarder = Forwarder(front, free_port([front]), (self.store.address, self.store.port))
        source = Source(front, self._forwarder.port, _BUCKET, self._errors, trees=self._trees)
        self.edges = {
            name: Edge(self.folder / name, self.addresses[name], self.port, source, self._tls["edge"]) for name in EDGES
        }
        self.redirectors = {name: self._redirector(name) for name in REDIRECTORS}
        self.origin = Server(self._content(), self.addresses["origin"], self.port, tls=self._tls["origin"])
        with ThreadPoolExecutor() as pool:  # each takes its time, and needs nothing of the others
            parts: list[contextlib.AbstractContextManager[object]] = [
                self.store,
                self._forwarder,
                self.origin,
                *self.edges.values(),
            ]
            begun = [pool.submit(self._enter, part) for part in parts]
            list(pool.map(self._write_redirector, REDIRECTORS))
            for one in begun:
                one.result()
        for redirector in self.redirectors.values():
            self._stack.enter_context(redirector)
        self.bucket = self.store.make_bucket(_BUCKET)
        readable(self.bucket)
        self._init_mirror()
        self.first_run = self.publish()
        self.forget()

    # --- faults ---

    def named(self, prefix: str) -> tuple[str, ...]:
        """The components whose names begin so: "redirector" for all of them, "edge1" for one."""
        found = tuple(name for name in NAMES if name.startswith(prefix))
        if not found:
            raise ValueError(f"{prefix!r} is none of {', '.join(NAMES)}")
        return found

    def kill(self, prefix: str, how: Way = "refuse") -> None:
        """From now on nobody is there: the server is stopped, and a socket that is refusing or full takes its place.

        "sick" is for edges alone, and costs them their cache.
        """
        for name in self.named(prefix):
            if name in self.down and "sick" in (how, self.down[name]):
                self._revive(name)
            if how == "sick":
                self._edge(name).varnish.close()
            elif name == "bucket":
                self._forwarder.kill(how)
            elif name == "origin":
                self.origin.fault(FAULTS[how])
            else:
                standing = self._stand_ins.pop(name, None) or self.redirectors.get(name) or self.edges[name]
                standing.close()
                self._stand_ins[name] = stand_in(self.addresses[name], self.port, how)
            self.down[name] = how

    def heal(self) -> None:
        """Everything is there again. Caches stay as they are, but for remembered errors."""
        for name in tuple(self.down):
            self._revive(name)
        self.origin.heal()
        for edge in self.edges.values():
            edge.varnish.ban("obj.status != 200")

    def only(self, *prefixes: str, how: Way = "refuse") -> None:
        """Kills everything else."""
        kept = {name for prefix in prefixes for name in self.named(prefix)}
        for name in NAMES:
            if name not in kept:
                self.kill(name, how)

    def cold(self) -> None:
        """The edges have cached nothing."""
        for edge in self.edges.values():
            edge.varnish.ban("req.url ~ .")

    def warm(self, *distributions: Dist) -> None:
        """Both edges have cached the pages and files of these, or of the whole site."""
        for dist in distributions or self.site.dists:
            page = f"simple/{dist.project}/index"
            keys = [f"{page}.{form}" for form in ("json", "html")] + [f"packages/{dist.filename}"]
            keys += [f"packages/{dist.filename}.metadata"] if dist.metadata else []
            for edge in self.edges.values():
                edge.varnish.fetch(*keys)
        for edge in self.edges.values():
            edge.varnish.fetch(*([] if distributions else (path[1:] for path in self.files)))

    def expire(self) -> None:
        """The pages that the edges have cached are stale, as if their time to live were over; files live a year."""
        keys = [key for key in self.bucket.listed() if not key.startswith("packages/")]
        for edge in self.edges.values():
            edge.varnish.expire(*keys)

    @contextlib.contextmanager
    def late(self, seconds: float) -> Iterator[Client]:
        """A client whose names come from a dnsmasq that answers so late. Raises `dns.Unavailable`."""
        names = {host: self._of(role) for role, host in _HOSTS.items()}
        with Dns(self.folder / "dns", f"{self._net}.53", names, seconds) as dns:
            kept = {k: v for k, v in self.client.scene.environment.items() if k.startswith("CDN_FALLBACK_")}
            yield Client(replace(self.client.scene, environment=kept), dns.prefix)

    def late_in_python(self, seconds: float) -> Client:
        """A makeshift of it for where `late` cannot be: Python's own look-ups take so long."""
        environment = self.client.scene.environment | late_resolver(self.folder, _HOSTS.values(), seconds)
        return Client(replace(self.client.scene, environment=environment))

    def _revive(self, name: str) -> None:
        if self.down.pop(name) == "sick":
            self.edges[name].varnish.__enter__()
        elif name == "bucket":
            self._forwarder.heal()
        elif name == "origin":
            self.origin.heal()
        else:
            self._stand_ins.pop(name).close()
            if name in self.redirectors:
                self.redirectors[name].__enter__()
            else:
                self.edges[name].open()

    def _edge(self, name: str) -> Edge:
        if name not in self.edges:
            raise ValueError(f"{name} is no edge: it cannot be sick, only refuse, or be a blackhole")
        return self.edges[name]

    # --- content ---

    def release(self, *distributions: Dist) -> None:
        """New at the origin, and nowhere else until the mirror is run."""
        self.site = replace(self.site, dists=(*self.site.dists, *distributions), serial=self.site.serial + 1)
        self.origin.content = self._content()

    @contextlib.contextmanager
    def unpublished(self, *distributions: Dist) -> Iterator[None]:
        """`release()`, and in the end it has never been: for when the mirror is not run meanwhile."""
        before = self.site
        self.release(*distributions)
        try:
            yield
        finally:
            self.site = before
            self.origin.content = self._content()

    def publish(self) -> str:
        """The mirror is run: sync and publish. Its summary; RuntimeError if it does not succeed."""
        done = self.mirror("run")
        if done.code:
            raise RuntimeError(f"cdn-fallback mirror run failed: {done.output}")
        return done.stdout

    def mirror(self, *arguments: str) -> Result:
        """`cdn-fallback mirror` with these arguments."""
        folder = self.folder / "mirror"
        folder.mkdir(exist_ok=True)
        scene = self.client.scene
        own = {**scene.environment, "REQUESTS_CA_BUNDLE": str(scene.ca), **self.store.credentials}
        environment = clean_environment(folder) | own
        return timed((*self._command, "mirror", *arguments), environment, folder, _PATIENCE)

    def cdn_down(self, down: bool = True) -> None:
        """All redirectors that are up lead to the origin alone, or, with False, as before."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self._write_redirector(name, down), REDIRECTORS))
        for name in REDIRECTORS:
            if name not in self.down:
                self.redirectors[name].close()
                self.redirectors[name].__enter__()

    # --- what happened ---

    def requests(self, prefix: str) -> list[Asked]:
        """What these components were asked since `forget()`, by clients or, of origin and bucket, by anybody."""
        return [asked for name in self.named(prefix) for asked in self._asked(name)[self._forgotten[name] :]]

    def forget(self) -> None:
        """What was asked so far is no longer told."""
        self._forgotten = {name: len(self._asked(name)) for name in NAMES}

    def served(self, *kinds: Kind) -> dict[str, list[str]]:
        """Which edges and origin gave the whole, or a part, of something of these kinds: component -> paths."""
        found = {
            name: [one.path for one in self.requests(name) if one.kind in kinds and one.status in (200, 206)]
            for name in (*EDGES, "origin")
        }
        return {name: paths for name, paths in found.items() if paths}

    def _asked(self, name: str) -> list[Asked]:
        if name in self.redirectors:
            return [Asked(one.method, one.path, one.status) for one in self.redirectors[name].requests]
        if name in self.edges:
            return list(self.edges[name].requests)
        if name == "bucket":  # answers are not looked at
            return [Asked(method, path.removeprefix(f"/{_BUCKET}"), 0) for method, path in self._forwarder.asked]
        return [Asked(one.method, one.path, one.status) for one in self.origin.requests]

    # --- making it ---

    @property
    def _trees(self) -> tuple[str, ...]:
        return (_BESIDE,) if self.files else ()

    def _content(self) -> Content:
        return _WithFiles(self.site, self.files)

    def _enter(self, part: contextlib.AbstractContextManager[object]) -> None:
        self._stack.enter_context(part)

    def _of(self, role: str) -> list[str]:
        return [address for name, address in self.addresses.items() if name.startswith(role)]

    def _redirector(self, name: str) -> Configured:
        place = self.folder / name
        place.mkdir()
        (place / "server.pem").write_bytes(self._tls["redirector"].pem)
        config = place / "lighttpd.conf"
        return Configured(config, place, self.addresses[name], self.port, tls=self._tls["redirector"])

    def _write_redirector(self, name: str, down: bool = False) -> None:
        """`cdn-fallback redirectors`, for one of them."""
        place, scene = self.folder / name, self.client.scene
        listen = ("--listen", f"{self.addresses[name]}:{self.port}", "--folder", str(place))
        what = ("--server", "lighttpd", *listen, "--certificate", str(place / "server.pem"))
        static = tuple(word for tree in self._trees for word in ("--static", tree))
        output = (*static, *(["--cdn-down"] if down else []), "-o", str(place / "lighttpd.conf"))
        environment = clean_environment(place) | {"CDN_FALLBACK_CONFIG": str(scene.config)}
        done = subprocess.run(
            (*self._command, "redirectors", *what, *output), env=environment, cwd=place, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"cdn-fallback redirectors failed: {done.stdout}{done.stderr}")

    def _init_mirror(self) -> None:
        scene = self.client.scene
        source = ("--source", f"{scene.base(ORIGIN)}simple/", "--store", f"s3://{_BUCKET}", "--base", scene.index)
        done = self.mirror("init", *source)
        if done.code:
            raise RuntimeError(f"cdn-fallback mirror init failed: {done.output}")
        config = self.folder / "mirror" / "cdn-fallback.toml"
        endpoint = f"http://{self._forwarder.address}:{self._forwarder.port}"
        keys = f"endpoint = {json.dumps(endpoint)}\nretry_seconds = 2\n"
        text = re.sub(r"(?m)^# endpoint = .*\n", keys, config.read_text(), count=1)
        for path, content in self.files.items():
            place = config.parent / path[1:]
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)
            os.utime(place, (0, 0))  # what was written in the last seconds would wait for the next run
        tables = [f'\n[[tree]]\npath = "{tree}"\nprefix = "{tree}"\n' for tree in self._trees]
        config.write_text("".join([text, *tables]))


def readable(bucket: Bucket) -> None:
    """Anybody may read its objects, but not list it, as one does it for a CDN that cannot sign."""
    allowed = {
        "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket.name}/*"],
    }  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    bucket.request("PUT", query={"policy": ""}, body=json.dumps(policy).encode())
