"""The index of the demo: three lighttpds that redirect, a CDN of two addresses and an origin, on loopback."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cdn_fallback.mirror import negotiate
from tests.rig.faults import Blackhole, Fault
from tests.rig.lighttpd import Lighttpd
from tests.rig.messages import Answer, Request, kind_of
from tests.rig.names import Names, free_port
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene, subnet
from tests.rig.server import Server
from tests.rig.site import Site
from tests.rig.tls import Authority

_HOSTS = {"redirector": (INDEX, 11, 3), "cdn": (CDN, 21, 2), "origin": (ORIGIN, 31, 1)}  # host, last octet, how many
_PROC = Path("/proc/net/tcp")
_SYN_SENT = "02"


@dataclass(frozen=True)
class Published:
    """A site that `cdn-fallback mirror` has put into a folder."""

    folder: Path

    def answer(self, request: Request) -> Answer:
        """As a static server does that negotiates."""
        wanted = negotiate.representation(request.header("Accept") or "")
        meaning = negotiate.locate(request.path, wanted)
        if isinstance(meaning, negotiate.Redirect):
            return Answer(301, headers=(("Location", meaning.location),))
        for key in meaning.keys if isinstance(meaning, negotiate.Found) else ():
            if (self.folder / key).is_file():
                headers = negotiate.headers_of(key)
                said = (("Content-Type", headers.content_type), ("Cache-Control", headers.cache_control))
                return Answer(200, (self.folder / key).read_bytes(), said)
        return Answer(404, b"no such object\n", (("Content-Type", "text/plain"),))


@dataclass(frozen=True)
class Content:
    """A site, and files that no page of it links to: path -> bytes."""

    site: Site
    files: Mapping[str, bytes]
    copy: Published | None = None

    def answer(self, request: Request) -> Answer:
        """One of the files, or else what the site has there, or its `copy`."""
        body = self.files.get(request.path)
        octets = ("Content-Type", "application/octet-stream")
        return (self.copy or self.site).answer(request) if body is None else Answer(200, body, (octets,))


@dataclass(frozen=True)
class Pool:
    """Which server is where, and what a tool must be told to use them."""

    folder: Path
    content: Content
    port: int
    addresses: dict[str, str]  # "redirector1", ..., "cdn1", ..., "origin" -> its address
    authority: Authority
    environment: dict[str, str]
    copy: Published | None = None  # what the CDN has of the site; without it, the site itself

    @classmethod
    def create(cls, folder: Path, site: Site, files: Mapping[str, bytes]) -> Pool:
        """Finds addresses and a port, and writes the hosts file, the CA and the configuration of the pool."""
        net = subnet()
        found = {
            role if count == 1 else f"{role}{i + 1}": f"{net}.{first + i}"
            for role, (_, first, count) in _HOSTS.items()
            for i in range(count)
        }
        port = free_port(found.values())
        names = Names.write(folder, {host: _of(role, found) for role, (host, *_) in _HOSTS.items()})
        authority = Authority()
        pool = cls(folder, Content(site, files), port, found, authority, names.environment())
        config = folder / "pool.conf"
        config.write_text(pool.configuration())
        pool.environment.update(
            CDN_FALLBACK_CONFIG=str(config),
            PIP_INDEX_URL=f"{pool.base('redirector')}simple/",
            PIP_CERT=str(authority.write(folder)),
        )
        return pool

    @property
    def site(self) -> Site:
        """What the index has."""
        return self.content.site

    def scene(self) -> Scene:
        """As the rig knows it; its servers are elsewhere."""
        ca = Path(self.environment["PIP_CERT"])
        return Scene(self.folder, "https", self.port, {}, dict(self.environment), self.authority, ca)

    def base(self, role: str) -> str:
        """The base URL of a role's host."""
        return f"https://{_HOSTS[role][0]}:{self.port}/"

    def configuration(self) -> str:
        """As it could stand in pip.conf."""
        keys = {"index": "redirector", "cdn": "cdn", "origin": "origin"}
        return "\n".join(["[cdn-fallback]", *(f"{key} = {self.base(role)}" for key, role in keys.items())]) + "\n"

    def shortened(self, line: str) -> str:
        """A line of a log with our names of the servers, and without what is the same in all lines."""
        for name, address in self.addresses.items():
            role = name.rstrip("0123456789")
            line = line.replace(f"{role} {self.base(role)} ({address})", name)
        for role in _HOSTS:
            line = line.replace(f"{role} {self.base(role)}", role)
            line = line.replace(self.base(role), f"{role}/")
        line = re.sub(r"(/[\w.]+-[\w.]+)-\S+?\.whl", r"\1-*.whl", line)
        return line.removesuffix(" [answer]")

    def origin(self) -> Server:
        """The origin alone."""
        certificate = self.authority.server(_HOSTS["origin"][0])
        return Server(self.content, self.addresses["origin"], self.port, tls=certificate)

    @contextlib.contextmanager
    def running(self) -> Iterator[Servers]:
        """Everything up and healthy."""
        certificates = {role: self.authority.server(host) for role, (host, *_) in _HOSTS.items()}
        with contextlib.ExitStack() as stack:
            servers = Servers(self, stack)
            for name, address in self.addresses.items():
                role = name.rstrip("0123456789")
                tls = certificates[role]
                if role == "redirector":
                    lighttpd = Lighttpd(self.folder / name, address, self.port, self.base("cdn"), tls=tls)
                    (self.folder / name / "access.log").unlink(missing_ok=True)
                    servers.redirectors[name] = stack.enter_context(lighttpd)
                else:
                    content = replace(self.content, copy=self.copy) if role == "cdn" else self.content
                    servers.static[name] = stack.enter_context(Server(content, address, self.port, tls=tls))
            yield servers


class Servers:
    """The servers of one run: break them, then see what they were asked."""

    def __init__(self, pool: Pool, stack: contextlib.ExitStack) -> None:
        self.pool = pool
        self.redirectors: dict[str, Lighttpd] = {}
        self.static: dict[str, Server] = {}  # the CDN's addresses and the origin
        self.dead: list[str] = []  # nobody can reach them, and so they cannot tell who tried
        self.blackholes: list[str] = []  # those of them to which connecting never ends
        self._stack = stack

    def kill(self, fault: Fault, *names: str) -> None:
        """From now on nobody is there (Blackhole, Refuse). A lighttpd is stopped: a socket takes its place."""
        for name in names:
            self.dead.append(name)
            if isinstance(fault, Blackhole):
                self.blackholes.append(name)
            if name in self.redirectors:
                self.redirectors[name].close()
                stand_in = Server(self.pool.content, self.pool.addresses[name], self.pool.port)
                stand_in.fault(fault)
                self._stack.enter_context(stand_in)
            else:
                self.static[name].fault(fault)

    def harm(self, fault: Fault, *names: str) -> None:
        """A fault for every request."""
        for name in names:
            self.static[name].fault(fault)

    def harm_first(self, fault: Fault, *names: str) -> None:
        """A fault for files, at the one of these that is asked first: chance shall not decide whether it is met."""
        chosen: dict[str, str] = {}
        for name in names:
            self.static[name].fault(
                fault, on=lambda path, name=name: kind_of(path) == "file" and chosen.setdefault("", name) == name
            )

    @contextlib.contextmanager
    def knocks(self) -> Iterator[set[str]]:
        """Collects which blackholed servers somebody tries to connect to: the kernel knows."""
        met: set[str] = set()
        over = threading.Event()
        wanted = {_hex(self.pool.addresses[name], self.pool.port): name for name in self.blackholes}
        before = set(_connecting())  # the sockets that keep the blackholes' queues full

        def watch() -> None:
            while not over.wait(0.03):
                met.update(wanted[remote] for local, remote in set(_connecting()) - before if remote in wanted)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield met
        finally:
            over.set()
            watcher.join()

    @property
    def faulty(self) -> set[str]:
        """Which servers answered a request with a fault."""
        return {name for name, server in self.static.items() if any(request.fault for request in server.requests)}

    def who_served(self) -> str:
        """From where what is extended, pages (with the metadata of files), files and redirects came."""
        kinds = {"extends": ("other",), "pages": ("page", "metadata"), "files": ("file",)}
        served: dict[str, list[str]] = {}
        for what, of_what in kinds.items():
            if who := self._served(*of_what):
                served.setdefault(who, []).append(what)
        said = [f"{' + '.join(whats) if len(served) > 1 else 'all'}: {who}" for who, whats in served.items()]
        redirects = [name for name, server in self.redirectors.items() if server.requests]
        return "; ".join([*said, f"redirects: {' + '.join(redirects)}"] if redirects else said) or "nobody"

    def _served(self, *kinds: str) -> str:
        said = (_portion(name, server.requests, kinds) for name, server in self.static.items())
        return " + ".join(filter(None, said))


def _portion(name: str, requests: tuple[Request, ...], kinds: tuple[str, ...]) -> str:
    """What a server gave of these kinds: its name if it was whole, "" for nothing."""
    given = [request for request in requests if request.kind in kinds and request.status in (200, 206)]
    if any(request.fault for request in given):
        return f"{name} (halves)"
    if given and all(request.status == 206 for request in given):
        return f"{name} (the rest)"
    return name if given else ""


def _of(role: str, addresses: Mapping[str, str]) -> list[str]:
    return [address for name, address in addresses.items() if name.startswith(role)]


def _hex(address: str, port: int) -> str:
    """As /proc/net/tcp spells it."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"


def _connecting() -> Iterator[tuple[str, str]]:
    """(local, remote) of all connections of this machine that nobody has accepted yet."""
    for line in _PROC.read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == _SYN_SENT:
            yield local, remote
