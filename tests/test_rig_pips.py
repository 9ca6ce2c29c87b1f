"""Names, lighttpd and real pips, with nothing of cdn-fallback."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import lighttpd, names
from tests.rig.faults import (
    Blackhole,
    Close,
    Corrupt,
    Fault,
    LoginPage,
    Refuse,
    Reset,
    Silent,
    Status,
    TLSGarbage,
    TLSHang,
    TLSReset,
    Truncate,
    UnknownCA,
    WrongCertificate,
)
from tests.rig.lighttpd import Lighttpd
from tests.rig.names import Names, free_port
from tests.rig.pips import PipEnv, clean_environment
from tests.rig.sample import PAGE, SITE, A, B, S
from tests.rig.server import Server
from tests.rig.tls import Authority

HOST = "127.0.1.1"
NEWEST = "26.3"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SITE, HOST, 0) as running:
        yield running


# --- names ---


@pytest.fixture
def preload() -> None:
    try:
        names.nss_wrapper()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


def test_a_name_has_several_addresses_in_order(tmp_path: Path, preload: None) -> None:
    addresses = ["127.0.1.3", "127.0.1.1", "127.0.1.2"]
    code = "import socket; print([a[4][0] for a in socket.getaddrinfo('pypi.example', 80, type=1)])"
    env = {**clean_environment(tmp_path), **Names.write(tmp_path, {"pypi.example": addresses}).environment()}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(addresses)
    code = "import socket; print(socket.gethostbyname('localhost'))"
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("127.")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PLACES", ())
    with pytest.raises(FileNotFoundError, match="Debian package libnss-wrapper"):
        names.nss_wrapper()


def test_a_free_port_is_free_on_all_addresses() -> None:
    addresses = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
    port = free_port(addresses)
    for address in addresses:
        with socket.socket() as probe:
            probe.bind((address, port))


# --- lighttpd ---


@pytest.mark.parametrize("encrypted", [False, True])
def test_lighttpd_redirects_and_logs(tmp_path: Path, authority: Authority, encrypted: bool) -> None:
    try:
        lighttpd.lighttpd()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    tls = authority.server("localhost") if encrypted else None
    with Lighttpd(tmp_path / "l", HOST, free_port([HOST]), "https://cdn.example/s/", tls=tls) as redirector:
        context = ssl.create_default_context()
        authority.ca.configure_trust(context)
        plain = socket.create_connection((HOST, redirector.port), timeout=2)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = context.wrap_socket(plain, server_hostname="localhost") if encrypted else plain
        connection.request("GET", f"{PAGE}?q=1", headers={"Authorization": "Basic x", "User-Agent": "me"})
        answer = connection.getresponse()
        connection.close()
        assert (answer.status, answer.getheader("Location")) == (302, f"https://cdn.example/s{PAGE}?q=1")
        assert answer.getheader("Cache-Control") == "public, max-age=300"
        (entry,) = redirector.requests
        assert (entry.method, entry.path, entry.status) == ("GET", f"{PAGE}?q=1", 302)
        assert (entry.authorization, entry.host, entry.agent) == ("Basic x", "localhost", "me")
    assert redirector.requests == (entry,)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, redirector.port), timeout=1)


# --- real pips ---


@pytest.fixture(scope="module", params=[NEWEST, "23.2.1"])
def pip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PipEnv:
    return PipEnv.create(tmp_path_factory.mktemp("env") / "env", sys.executable, request.param)


newest_only = pytest.mark.parametrize("pip", [NEWEST], indirect=True)


QUICK = ("-vv", "--retries", "0", "--timeout", "1")


def test_the_environment_is_clean(pip: PipEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "CDN_FALLBACK_CDN", "REQUESTS_CA_BUNDLE", "https_proxy", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nretries = 3\n")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    env = json.loads(pip.execute("-c", code, env={"PIP_RETRIES": "1"}).stdout)
    assert not any(value == "/nowhere" for value in env.values())
    assert (env["PIP_CONFIG_FILE"], env["PIP_RETRIES"]) == ("/dev/null", "1")
    assert pip.run("--version").stdout.startswith(f"pip {pip.pip_version} from {pip.folder}")
    assert "retries='3'" in pip.run("config", "list", config=config).stdout
    assert "global." not in pip.run("config", "list").stdout


def test_a_run_is_stopped_at_its_timeout(pip: PipEnv) -> None:
    forever = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    result = pip.execute("-c", forever, timeout=0.5)
    assert (result.code, 0.5 <= result.seconds < 5) == (-9, True)


@pytest.mark.parametrize("encrypted", [False, True])
def test_pip_installs_from_a_healthy_server(
    pip: PipEnv, tmp_path: Path, authority: Authority, preload: None, encrypted: bool
) -> None:
    """Wheels, an sdist, its build dependency (through a child pip), and a name with three addresses."""
    addresses = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
    port = free_port(addresses)
    env = dict(Names.write(tmp_path, {"pypi.example": addresses}).environment())
    env |= {"PIP_CERT": str(authority.write(tmp_path))} if encrypted else {"PIP_TRUSTED_HOST": "pypi.example"}
    env["PIP_INDEX_URL"] = f"http{'s' if encrypted else ''}://pypi.example:{port}/simple/"
    tls = authority.server("pypi.example") if encrypted else None
    with Server(SITE, addresses[2], port, tls=tls) as server:
        result = pip.run("install", "--target", str(tmp_path / "t"), "demo-a", "demo-s", env=env)
    assert result.code == 0, result.output
    assert [dist.filename for dist in SITE.dists if dist.installed_in(tmp_path / "t")] == [
        A.filename,
        B.filename,
        S.filename,
    ]
    assert [r.path for r in server.requests if r.kind == "file"] == [SITE.path(dist.filename) for dist in (S, B, A)]
    assert server.connections == 2


def install(pip: PipEnv, server: Server, target: Path, *more: str) -> tuple[int, str]:
    index = ("--index-url", f"{server.url}simple/", *more)
    result = pip.run("install", *QUICK, "--no-deps", "--target", str(target), *index, "demo-a")
    return result.code, result.output


@newest_only
@pytest.mark.parametrize(
    ("fault", "on", "says"),
    [
        (Refuse(), None, "refused"),
        (Blackhole(), None, "while establishing a connection"),
        (Close(), None, "closed without a reply"),
        (Reset(), None, "closed without a reply|reset by peer"),
        (Silent(), None, "didn't respond within 1.0 seconds - "),
        (Status(503), "page", "503|No matching distribution"),
        (Truncate(0.5), "page", "IncompleteRead|JSONDecodeError"),
        (Corrupt(), "file", "DO NOT MATCH THE HASHES"),
        (LoginPage(), "page", "No matching distribution"),
    ],
)
def test_plain_pip_fails(pip: PipEnv, tmp_path: Path, server: Server, fault: Fault, on: str | None, says: str) -> None:
    server.fault(fault, on=on)
    code, output = install(pip, server, tmp_path / "t")
    assert code != 0
    assert re.search(says, output), output
    assert not A.installed_in(tmp_path / "t")


@newest_only
@pytest.mark.parametrize("fault", [WrongCertificate(), UnknownCA(), TLSGarbage(), TLSReset(), TLSHang()])
def test_plain_pip_fails_with_broken_tls(pip: PipEnv, tmp_path: Path, authority: Authority, fault: Fault) -> None:
    cert = ("--cert", str(authority.write(tmp_path)))
    with Server(SITE, HOST, 0, tls=authority.server(HOST)) as server:
        server.fault(fault)
        assert install(pip, server, tmp_path / "t", *cert)[0] != 0
        assert server.connections > 0 and server.requests == ()
        server.heal()
        assert install(pip, server, tmp_path / "t", *cert)[0] == 0
        assert A.installed_in(tmp_path / "t")
