"""The servers of `bench.redirectors`: what runs, with which configuration, and what it has used."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cdn_fallback.cli.redirectors import SERVERS
from cdn_fallback.mirror.redirectors import Certificate, Place, Split, redirector
from cdn_fallback.pool import Endpoint, Pool, Role
from tests.rig.lighttpd import lighttpd
from tests.rig.names import free_port
from tests.rig.nginx import nginx
from tests.rig.tls import Authority

HOST, CDN, ORIGIN = "pypi.python.org", "cdn.example.net", "origin.example.org"
PATIENCE = 10.0  # s, for a server to start
_TICK = os.sysconf("SC_CLK_TCK")


class Request(NamedTuple):
    """What is asked, and what our configuration is to say: a status and a Location."""

    path: str
    headers: Mapping[str, str]
    status: int
    location: str

    @property
    def text(self) -> str:
        """As it is sent."""
        return "".join(
            [f"GET {self.path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in self.headers.items()), "\r\n"]
        )


class Variant(NamedTuple):
    """A server as it is set up on both sides."""

    server: str
    scheme: str = "http"
    log: bool = True

    def __str__(self) -> str:
        return f"{self.server}, {self.scheme}{'' if self.log else ', no log'}"


Side = Callable[[Variant, Place], str]  # a configuration
Sides = Mapping[str, Side]


def ours(variant: Variant, place: Place) -> str:
    """What the command writes for a pool of one redirector, one CDN and an origin."""
    roles = ((Role.REDIRECTOR, HOST), (Role.CDN, CDN), (Role.ORIGIN, ORIGIN))
    ends = tuple(Endpoint(f"{variant.scheme}://{host}/", role) for role, host in roles)
    return SERVERS[variant.server](redirector(Pool("pypi", ends[0].base, ends), Split(), place))


_BARE = {
    "lighttpd": """\
server.modules = ("mod_redirect", "mod_accesslog"{module})
server.document-root = "{folder}"
server.errorlog = "{folder}/error.log"
accesslog.filename = "{folder}/access.log"
server.bind = "{address}"
server.port = {port}
{tls}url.redirect-code = 302
url.redirect = ("" => "{cdn}${{url.path}}${{qsa}}")
""",
    "nginx": """\
worker_processes auto;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
    server {{
        listen {address}:{port}{module};
        {tls}
        return 302 {cdn}$request_uri;
    }}
}}
""",
}
_BARE_TLS = {
    "lighttpd": (', "mod_openssl"', 'ssl.engine = "enable"\nssl.pemfile = "{pem}"\n'),
    "nginx": (" ssl", "ssl_certificate {pem}; ssl_certificate_key {pem};"),
}


def bare(variant: Variant, place: Place) -> str:
    """One rule: everything to the CDN."""
    address, _, port = place.listen[0].rpartition(":")
    module, tls = _BARE_TLS[variant.server] if place.certificate else ("", "")
    tls = tls.format(pem=place.certificate.chain) if place.certificate else ""
    values = {"folder": place.folder, "address": address, "port": port, "cdn": f"{variant.scheme}://{CDN}"}
    return _BARE[variant.server].format(**values, module=module, tls=tls)


def unlogged(server: str, text: str) -> str:
    """A configuration without its access log."""
    lines = text.splitlines(keepends=True)
    word, instead = {"lighttpd": ("accesslog.", ""), "nginx": ("access_log ", "access_log off;\n")}[server]
    found = "".join(instead if line.strip().startswith(word) else line for line in lines)
    if found == text:
        raise SystemExit(f"the configuration of {server} has no access log to leave out")
    return found.replace(', "mod_accesslog"', "")


@functools.cache
def certificate() -> bytes:
    return Authority().server(HOST).pem


class Running:
    """A server with a configuration, in its `with` block."""

    def __init__(self, variant: Variant, folder: Path, address: str, port: int) -> None:
        self.variant, self.folder, self.address, self.port = variant, folder, address, port
        self.url = f"{variant.scheme}://{address}:{port}/"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> Place:
        pem = str(self.folder / "server.pem")
        tls = Certificate(pem, pem) if self.variant.scheme == "https" else None
        return Place((f"{self.address}:{self.port}",), (), tls, str(self.folder))

    def start(self, text: str) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "server.pem").write_bytes(certificate())
        file, errors = self.folder / "configuration", self.folder / "error.log"
        file.write_text(text)
        if self.variant.server == "nginx":
            user = "user root; " if os.geteuid() == 0 else ""
            more = f"{user}daemon off; pid {self.folder}/pid;"
            command = [nginx(), "-p", str(self.folder), "-e", str(errors), "-c", str(file), "-g", more]
        else:
            command = [lighttpd(), "-D", "-f", str(file)]
        with errors.open("a") as log:
            self._process = subprocess.Popen(command, stderr=log)
        end = time.monotonic() + PATIENCE
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.variant} did not start: {errors.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def cpu(self) -> float:
        """s, user and system, of all its processes until now."""
        return sum(cpu_seconds(Path(f"/proc/{each}/stat").read_text()) for each in self._processes())

    def memory(self) -> Memory:
        return memory([Path(f"/proc/{each}/smaps_rollup").read_text() for each in self._processes()])

    def forget(self) -> None:
        """Empty its access log, which grows by tens of megabytes a second."""
        log = self.folder / "access.log"
        if log.exists():
            os.truncate(log, 0)

    def ask(self, request: Request) -> tuple[int, str]:
        """Status and Location."""
        connection: http.client.HTTPConnection = http.client.HTTPConnection(self.address, self.port, timeout=PATIENCE)
        if self.variant.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(self.address, self.port, timeout=PATIENCE, context=context)
        with contextlib.closing(connection):
            connection.putrequest("GET", request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location", "")

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def _processes(self) -> list[int]:
        assert self._process is not None
        return descendants(self._process.pid)


def descendants(process: int) -> list[int]:
    """It and all that it has started."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        found += (each for child in (task / "children").read_text().split() for each in descendants(int(child)))
    return found


def cpu_seconds(stat: str) -> float:
    """Of a process, from its /proc/PID/stat (proc(5)); its name, in brackets, may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


class Memory(NamedTuple):
    """Bytes resident, as if the server were alone on the machine."""

    own: int  # what is in no file
    files: int  # the program, its libraries and modules

    @property
    def whole(self) -> int:
        return self.own + self.files


def memory(rollups: Sequence[str]) -> Memory:
    """Of processes that are forks of one, from the /proc/PID/smaps_rollup of each.

    Not the Pss of everything: each copy of a server that runs beside it would make it smaller. Of files the forks
    use about the same pages, so those of the one that uses most of them are counted.
    """
    found = [{line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]} for text in rollups]
    own = sum(each["Pss_Anon"] for each in found)
    return Memory(1024 * own, 1024 * max(each["Rss"] - each["Anonymous"] for each in found))


@contextlib.contextmanager
def started(variant: Variant, folder: Path, sides: Sides) -> Iterator[dict[str, Running]]:
    """A server for each of `sides`, all at once, each on an address of its own."""
    addresses = [f"127.0.0.{number}" for number in range(2, 2 + len(sides))]
    port = free_port(addresses)
    with contextlib.ExitStack() as stack:
        servers = {}
        for (side, configuration), address in zip(sides.items(), addresses, strict=True):
            server = servers[side] = Running(variant, folder / side, address, port)
            text = configuration(variant, server.place)
            stack.callback(server.close)
            server.start(text if variant.log else unlogged(variant.server, text))
        yield servers
