"""A whole pool on loopback: redirectors, a CDN and an origin behind their names, and pips that ask for it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.rig.faults import Fault, Redirect
from tests.rig.messages import Kind, Request, kind_of
from tests.rig.names import Names, free_port
from tests.rig.pips import PipEnv, Result
from tests.rig.server import Server
from tests.rig.site import Redirector, Site
from tests.rig.tls import Authority

INDEX, CDN, ORIGIN = "pypi.python.org", "cdn.example.net", "origin.example.org"

_subnets = itertools.count(1)


def subnet() -> str:
    """Three octets of loopback addresses that no other scene of this run uses, whichever process it is in."""
    # 127.<worker of the test run>.<count>.x; pids tell processes apart that are not pytest's workers
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return f"127.{20 + int(worker) + 16 * (os.getpid() % 12)}.{next(_subnets) % 250}"


@dataclass
class Scene:
    """Servers under names, in the order in which the client is to ask them, and what pip needs to find them."""

    folder: Path
    scheme: str
    port: int
    servers: dict[str, Server]  # "redirector1", "cdn1", ..., "origin" -> the server at one address
    environment: dict[str, str]
    authority: Authority | None
    ca: Path | None
    index_host: str = INDEX
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.folder / "pip.conf"
        self.configure()

    @property
    def index(self) -> str:
        """The canonical base URL."""
        return self.base(self.index_host)

    def base(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.port}/"

    def settings(self) -> dict[str, str]:
        """The pool, as a section [cdn-fallback] has it."""
        return {"index": self.index, "cdn": self.base(CDN), "origin": self.base(ORIGIN)}

    def configure(self, **keys: str) -> None:
        """Write the pool into pip's configuration; keys replace the usual ones, an empty one takes it out."""
        settings = self.settings() | keys
        lines = ["[cdn-fallback]", *(f"{key} = {value}" for key, value in settings.items() if value)]
        self.config.write_text("\n".join(lines) + "\n")

    def group(self, prefix: str) -> list[Server]:
        """Servers whose names begin so: "redirector", "cdn", "origin", one of them, or all ("")."""
        return [server for name, server in self.servers.items() if name.startswith(prefix)]

    def fault(self, prefix: str, *faults: Fault, on: str | None = None, times: int | None = None) -> None:
        """The same faults for a group of servers."""
        for server in self.group(prefix):
            server.fault(*faults, on=on, times=times)

    def fault_first(self, prefix: str, *faults: Fault, on: Kind, times: int | None = None) -> None:
        """The same for one server of a group alone, that which is asked first: the client shuffles equals."""
        found: list[Server] = []

        def is_first(server: Server, path: str) -> bool:
            if kind_of(path) == on and not found:
                found.append(server)
            return kind_of(path) == on and found == [server]

        for server in self.group(prefix):
            server.fault(*faults, on=functools.partial(is_first, server), times=times)

    def fault_later(self, prefix: str, fault: Fault, *, before: Kind) -> None:
        """A fault of listeners or connections that begins when a redirector is first asked for such a thing.

        Redirectors are asked each time, and the group's connections are closed after each answer, so that the
        next request needs a new one.
        """
        begun: list[Fault] = []

        def target(request: Request) -> str:
            if request.kind == before and not begun:
                begun.append(fault)
                self.fault(prefix, fault)
            return f"{self.base(CDN)}{request.path.removeprefix('/')}"

        self.fault("redirector", Redirect(target))  # without Cache-Control
        for server in self.group(prefix):
            server.serving = replace(server.serving, keep_alive=False)

    def arguments(self) -> list[str]:
        """What pip must be told to use the index, TLS included."""
        trust = ["--cert", str(self.ca)] if self.ca else ["--trusted-host", INDEX]
        return ["--index-url", f"{self.index}simple/", *trust]

    def pip(
        self,
        pip: PipEnv,
        command: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        plain: bool = False,
        timeout: float = 60.0,
    ) -> Result:
        """A run of pip with the plugin; `plain` switches it off."""
        environment = self.environment | dict(env or {})
        if plain:
            environment["CDN_FALLBACK_DISABLE"] = "1"
        return pip.run(
            command, *self.arguments(), *arguments, env=environment, config=self.config, home=home, timeout=timeout
        )

    def asked(self, *, kind: str | None = None) -> list[str]:
        """All requests in time order, as "cdn1 GET /simple/six/ 200"; of one kind (page, file, metadata)."""
        found = [
            (request.at, f"{name} {request.method} {request.path} {request.status}")
            for name, server in self.servers.items()
            for request in server.requests
            if kind is None or request.kind == kind
        ]
        return [line for _, line in sorted(found)]

    def counted(self, kind: Kind) -> Counter[str]:
        """How many requests of this kind came to the servers of each role: "redirector", "cdn", "origin"."""
        found = ((name.rstrip("0123456789"), server.requests) for name, server in self.servers.items())
        return Counter(role for role, requests in found for request in requests if request.kind == kind)

    def served(self, kind: str) -> set[str]:
        """Which servers gave a healthy 200 or 206 to a request of this kind."""
        return {
            name
            for name, server in self.servers.items()
            for request in server.requests
            if request.kind == kind and request.status in (200, 206) and not request.fault
        }

    def heal(self) -> None:
        for server in self.servers.values():
            server.heal()
            server.forget()


@contextlib.contextmanager
def scene(
    folder: Path,
    site: Site,
    scheme: str = "https",
    *,
    redirectors: int = 3,
    cdn: int = 2,
    clients: ssl.VerifyMode = ssl.CERT_NONE,
) -> Iterator[Scene]:
    """`redirectors` addresses of the index's name that redirect to `cdn` addresses of the CDN, and an origin.

    :param clients: whether the servers ask for a client certificate
    """
    net = subnet()
    hosts = {
        INDEX: [f"{net}.{11 + i}" for i in range(redirectors)],
        CDN: [f"{net}.{21 + i}" for i in range(cdn)],
        ORIGIN: [f"{net}.31"],
    }
    port = free_port([address for addresses in hosts.values() for address in addresses])
    authority = Authority() if scheme == "https" else None
    names = Names.write(folder, hosts)
    with contextlib.ExitStack() as stack:
        servers = {}
        for host, addresses in hosts.items():
            tls = authority.server(host, clients=clients) if authority else None
            content = Redirector(f"{scheme}://{CDN}:{port}/") if host == INDEX else site
            role = {INDEX: "redirector", CDN: "cdn", ORIGIN: "origin"}[host]
            for number, address in enumerate(addresses, 1):
                name = role if role == "origin" else f"{role}{number}"
                servers[name] = stack.enter_context(Server(content, address, port, tls=tls))
        ca = authority.write(folder) if authority else None
        yield Scene(folder, scheme, port, servers, names.environment(), authority, ca)
