"""The command line against real servers on loopback: what is printed, and the exit codes."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cdn_fallback import __version__, pip_plugin, switch
from cdn_fallback.cli import client, doctor, main, output
from cdn_fallback.health import Health, default_path
from cdn_fallback.hooks import HookPoint
from tests.rig.faults import (
    Blackhole,
    Body,
    LoginPage,
    Redirect,
    Refuse,
    Silent,
    Status,
    Truncate,
    UnknownCA,
    WrongCertificate,
)
from tests.rig.messages import Content
from tests.rig.names import free_port
from tests.rig.sample import FILE, PAGE, A, B
from tests.rig.server import Server
from tests.rig.site import JSON, MODIFIED, Redirector, Site
from tests.rig.tls import Authority

HOSTS = {
    "index.test": ("127.0.6.1", "127.0.6.2"),
    "cdn.test": ("127.0.6.3", "127.0.6.4"),
    "origin.test": ("127.0.6.5",),
}
ORIGIN = Site.of(A, B, serial=7)
SHA256 = hashlib.sha256(B.content).hexdigest()
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's: no configuration, proxy, certificates, netrc or memory."""
    for name in os.environ:
        if name.upper().startswith(("CDN_FALLBACK", "PIP_")) or name.upper().endswith(("_PROXY", "_CA_BUNDLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))


@dataclass(frozen=True)
class Servers:
    """Two redirectors, two nodes of a CDN and an origin, each on an address of its own; all on one port."""

    at: dict[str, Server]
    scheme: str
    port: int

    @property
    def redirectors(self) -> tuple[Server, Server]:
        return self.at["127.0.6.1"], self.at["127.0.6.2"]

    @property
    def cdn(self) -> tuple[Server, Server]:
        return self.at["127.0.6.3"], self.at["127.0.6.4"]

    @property
    def origin(self) -> Server:
        return self.at["127.0.6.5"]

    def base(self, host: str, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}{host}:{self.port}/"

    def url(self, path: str, host: str = "index.test") -> str:
        return self.base(host)[:-1] + path

    def declare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CDN_FALLBACK_INDEX", self.base("index.test"))
        monkeypatch.setenv("CDN_FALLBACK_CDN", self.base("cdn.test", "user:secret@"))
        monkeypatch.setenv("CDN_FALLBACK_ORIGIN", self.base("origin.test"))


def start(stack: ExitStack, authority: Authority | None = None) -> Servers:
    scheme = "https" if authority else "http"
    tls = authority.server(*HOSTS) if authority else None
    port = free_port([address for addresses in HOSTS.values() for address in addresses])
    contents: dict[str, Content] = {
        "index.test": Redirector(f"{scheme}://cdn.test:{port}/"),
        "cdn.test": Site.of(A, B, serial=6),
        "origin.test": ORIGIN,
    }
    servers = {
        address: stack.enter_context(Server(contents[host], address, port, tls=tls))
        for host, addresses in HOSTS.items()
        for address in addresses
    }
    return Servers(servers, scheme, port)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    system = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if not str(host).endswith((".test", ".invalid")):
            return system(host, port, *args, **kwargs)
        if host not in HOSTS:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in HOSTS[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture
def servers(names: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    with ExitStack() as stack:
        started = start(stack)
        started.declare(monkeypatch)
        yield started


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of the result, their columns one space apart."""
        return [" ".join(line.split()) for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def line(self, part: str) -> str:
        """The one line with `part`."""
        (found,) = (line for line in self.lines if part in line)
        return found


@dataclass(frozen=True)
class Cli:
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Done:
        self.capsys.readouterr()
        code = main(arguments)
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        assert not CONTROLS.search(out + err)
        assert "secret" not in out + err
        return Done(code, out, err)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


# -- arguments, and ends


def test_without_arguments_it_helps_and_fails(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.out) == (2, "")
    assert all(command in done.err for command in ("enable", "disable", "doctor", "status", "explain"))


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.code, done.out, done.err) == (0, f"cdn-fallback {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["undo"], ["status", "--timeout", "0"], ["status", "--timeout", "x"], ["explain"], ["enable", "--json"]],
)
def test_wrong_arguments(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "usage: cdn-fallback" in done.err


def test_ctrl_c_ends_it_without_a_word(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupt)
    done = cli("doctor")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_broken_pipe_ends_it_without_a_word() -> None:
    command = [sys.executable, "-m", "cdn_fallback", "doctor", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_locale_without_the_letter_is_no_reason_to_fail(servers: Servers) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "CDN_FALLBACK_CONFIG": "/nö"}
    command = [sys.executable, "-m", "cdn_fallback", "doctor"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert r"/n\xf6" in done.stdout


def test_a_bad_configuration(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_CDN", "ftp://user:secret@cdn.test/")
    for command in (["status"], ["explain", "http://index.test/"]):
        done = cli(*command)
        assert (done.code, done.out) == (2, "")
        assert "CDN_FALLBACK_CDN" in done.err


def test_requests_is_borrowed_from_pip(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip._vendor.requests")
    monkeypatch.setitem(sys.modules, "requests", None)
    assert cli("explain", servers.url(PAGE)).code == 0
    assert cli("status", "--project", "demo-b").code == 0
    monkeypatch.setitem(sys.modules, "pip._vendor.requests", None)
    done = cli("explain", servers.url(PAGE))
    assert (done.code, done.out) == (2, "")
    assert "neither requests nor a pip" in done.err


def test_a_table_is_aligned_and_escaped() -> None:
    assert output.table([["a", "bb"], ["c\x1b\u202e", "d"]], indent="") == ["a            bb", r"c\x1b\u202e  d"]


def test_a_line_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("a\x1b[31m\nb")
    output.complain("one\ntwo\x9b")
    assert capsys.readouterr() == ("a\\x1b[31m\\nb\n", "one\ntwo\\x9b\n")


def test_what_one_thread_raises_is_raised() -> None:
    assert client.each(str, range(100)) == [str(number) for number in range(100)]
    with pytest.raises(ZeroDivisionError):
        client.each(lambda number: 1 / number, [2, 1, 0])


# -- enable, disable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(switch, "_folder", lambda: folder)
    return folder


def test_enable_and_disable(cli: Cli, folder: Path) -> None:
    done = cli("enable")
    assert (done.code, done.lines[0]) == (0, f"enabled for {sys.executable}")
    assert sorted(done.lines[1:]) == sorted(f"wrote {folder / name}" for name in switch.FILES)
    done = cli("enable")
    assert (done.code, done.out) == (0, f"already enabled for {sys.executable}: nothing to do\n")
    done = cli("disable")
    assert (done.code, done.lines[0]) == (0, f"disabled for {sys.executable}")
    assert sorted(done.lines[1:]) == sorted(f"removed {folder / name}" for name in switch.FILES)
    done = cli("disable")
    assert (done.code, done.out) == (0, f"not enabled for {sys.executable}: nothing to do\n")


def test_enable_tells_what_it_repairs(cli: Cli, folder: Path) -> None:
    cli("enable")
    (folder / "cdn_fallback.pth").unlink()
    done = cli("enable")
    assert (done.code, done.lines[1:]) == (0, [f"wrote {folder / 'cdn_fallback.pth'}"])


def test_another_file_in_the_way(cli: Cli, folder: Path) -> None:
    (folder / "cdn_fallback.pth").write_text("/some/path\n")
    done = cli("enable")
    assert (done.code, done.out) == (1, "")
    assert "cdn_fallback.pth: is not a file of ours" in done.err


# -- doctor


def test_doctor_where_all_is_well(cli: Cli, servers: Servers, folder: Path) -> None:
    pip = pytest.importorskip("pip")
    done = cli("doctor")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith(f"cdn-fallback {__version__} (")
    assert done.line("Python").endswith(f"({sys.executable})")
    assert done.lines[2].startswith(f"pip {pip.__version__} (")
    assert done.line("enabled") == "enabled no: `cdn-fallback enable` switches it on"
    for point in pip_plugin.HOOK_POINTS:
        assert f"holds {point.name} {point.purpose}" in done.lines
    assert [line for line in done.lines if line.startswith("CDN_")] == [
        "CDN_FALLBACK_INDEX",
        "CDN_FALLBACK_CDN",
        "CDN_FALLBACK_ORIGIN",
    ]
    at = done.lines.index(f"pool default: {servers.base('index.test')}")
    assert done.lines[at + 1 : at + 4] == [
        f"redirector {servers.base('index.test')}",
        f"cdn {servers.base('cdn.test')} has credentials",
        f"origin {servers.base('origin.test')}",
    ]
    assert f"{default_path()} (writable)" in done.lines
    assert "nothing is demoted" in done.lines


@pytest.mark.parametrize("url", ["index.test", "elsewhere.test"])
def test_doctor_says_whether_a_pool_has_what_pip_asks(
    url: str, cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = servers.base(url) + "simple"
    monkeypatch.setattr(pip_plugin, "index_urls", lambda: [asked.replace("://", "://me:secret@"), "not a URL["])
    done = cli("doctor")
    told = "no pool has an index that pip asks: nothing falls back; set `index` to the beginning of its URL"
    assert f"{asked} {'pool default' if url == 'index.test' else 'no pool'}" in done.lines
    assert (told in done.lines) == (url != "index.test")
    assert "secret" not in done.out


def test_doctor_as_json(cli: Cli, servers: Servers, folder: Path) -> None:
    cli("enable")
    done = cli("doctor", "--json")
    document = done.json
    assert list(document) == [
        *("ok", "version", "path", "python", "pip", "buildout"),
        *("enabled", "disabled", "hooks", "configuration", "health"),
    ]
    assert (done.code, document["ok"], document["disabled"]) == (0, True, False)
    assert document["enabled"] == {"state": "yes", "files": [str(folder / name) for name in switch.FILES]}
    assert document["hooks"][0] == {
        "name": "HTTPAdapter.send",
        "modules": ["pip._vendor.requests.adapters"],
        "purpose": pip_plugin.HOOK_POINTS[0].purpose,
        "holds": True,
        "problem": None,
    }
    (pool,) = document["configuration"]["pools"]
    assert (pool["name"], pool["index"]) == ("default", servers.base("index.test"))
    assert pool["endpoints"][1] == {
        "base": servers.base("cdn.test"),
        "role": "cdn",
        "gatekeeper": False,
        "has_credentials": True,
    }


@pytest.mark.parametrize(
    ("hours", "told", "said"),
    [
        ("24", 24, ""),
        ("36", 36, "pages of copies up to 36 hours old"),
        ("0", None, "pages of copies may be of any age"),
    ],
)
def test_doctor_tells_how_old_a_copys_page_may_be(
    cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch, hours: str, told: int | None, said: str
) -> None:
    monkeypatch.setenv("CDN_FALLBACK_OLDEST", hours)
    assert cli("doctor", "--json").json["configuration"]["pools"][0]["oldest_hours"] == told
    assert [line for line in cli("doctor").lines if "pages of copies" in line] == [said] * bool(said)


def test_doctor_names_a_hook_that_a_pip_has_not(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    cli("doctor")  # imports pip's modules
    downloader = importlib.import_module("pip._internal.network.download").Downloader
    monkeypatch.delattr(downloader, "__call__")
    done = cli("doctor")
    assert done.code == 1
    line = done.line("MISSING")
    assert line.startswith("MISSING Downloader.__call__ lost: fetching a file with a wrong hash again; ")
    assert line.endswith("pip._internal.network.download has no Downloader.__call__")


def test_doctor_names_a_hook_that_a_buildout_has_not(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In most environments there is none, and nothing is said of it."""
    before = cli("doctor", "--json").json
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "zc" / "buildout"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '7.0'")
    (package / "download.py").touch()
    (package / "easy_install.py").write_text(
        "class Base:\n    open_url = staticmethod(open)\n\n\nclass AllowHostsPackageIndex(Base):\n    pass\n"
    )

    done = cli("doctor")
    for name in [name for name in sys.modules if name.partition(".")[0] == "zc"]:
        del sys.modules[name]

    assert before["buildout"] is None and not any("buildout" in hook["modules"][0] for hook in before["hooks"])
    assert done.code == 1
    assert f"zc.buildout 7.0 ({package})" in done.lines
    assert done.line("holds AllowHostsPackageIndex.open_url")
    assert done.line("MISSING Installer._fetch").endswith("zc.buildout.easy_install has no Installer._fetch")


def test_doctor_says_why_a_hook_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cdnfb_broken.py").write_text("raise KeyError('\\x1b[31m')")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = (
        HookPoint(("cdnfb_absent", "json"), "JSONDecoder.decode", "nothing"),
        HookPoint(("cdnfb_absent",), "f", "one thing"),
        HookPoint(("cdnfb_broken", "json"), "Absent.f", "another"),
    )
    monkeypatch.setattr(pip_plugin, "HOOK_POINTS", points)
    done = cli("doctor", "--json")
    assert done.code == 1
    problems = [hook["problem"] for hook in done.json["hooks"]]
    assert problems[0] is None
    assert problems[1] == "cdnfb_absent cannot be imported (ModuleNotFoundError: No module named 'cdnfb_absent')"
    assert problems[2].startswith("cdnfb_broken cannot be imported (KeyError: ")
    assert problems[2].endswith("; json has no Absent.f")
    assert cli("doctor").code == 1


def test_doctor_without_a_pip(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    done = cli("doctor")
    assert "pip not in this environment" in done.lines


def test_doctor_shows_a_bad_configuration(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_CND", "https://cdn.test/")
    done = cli("doctor")
    assert (done.code, done.err) == (1, "")
    assert "did you mean CDN_FALLBACK_CDN?" in done.line("BAD: ")
    assert "did you mean" in cli("doctor", "--json").json["configuration"]["error"]


def test_doctor_reads_what_is_switched_off(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    done = cli("doctor")
    assert done.line("switched off").startswith("switched off by CDN_FALLBACK_DISABLE")
    assert done.line("pool default")
    assert cli("doctor", "--json").json["disabled"] is True


def test_doctor_names_half_an_enabling(cli: Cli, folder: Path) -> None:
    cli("enable")
    (folder / "cdn_fallback.start").unlink()
    assert cli("doctor").line("enabled").startswith("enabled in part: run")


def test_doctor_names_the_files_of_an_older_release(cli: Cli, folder: Path) -> None:
    """The starter of one that knew no buildout does not call us when buildout is imported."""
    cli("enable")
    starter = folder / switch.FILES[0]
    starter.write_text(starter.read_text().replace(', "zc.buildout."', ""))
    assert cli("doctor").line("enabled") == "enabled outdated: run `cdn-fallback enable` again"
    cli("enable")
    assert cli("doctor").line("enabled") == "enabled yes"


def test_doctor_shows_what_is_demoted(cli: Cli) -> None:
    health = Health(default_path(), chance=lambda: 0.5)
    health.failed("https://cdn.test/", costly=True)
    health.worked("https://origin.test/")
    health.save()
    assert cli("doctor").line("https://cdn.test/").startswith("https://cdn.test/ demoted until 20")
    (demoted,) = cli("doctor", "--json").json["health"]["demoted"]
    assert demoted["what"] == "https://cdn.test/"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", demoted["until"])


def test_doctor_says_that_nothing_can_be_remembered(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = default_path()
    assert path
    path.mkdir(parents=True)
    assert "NOT WRITABLE" in cli("doctor").out
    (tmp_path / "file").touch()
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    assert "NOT WRITABLE" in cli("doctor").out
    monkeypatch.setattr(doctor, "default_path", lambda: None)
    assert "no home directory" in cli("doctor").out


# -- status


def columns(done: Done, address: str) -> list[str]:
    return done.line(f" {address} ").split()


def test_status_asks_every_address(cli: Cli, servers: Servers) -> None:
    servers.redirectors[1].fault(Refuse())
    servers.cdn[0].fault(LoginPage())
    servers.cdn[1].fault(Status(503, (("Retry-After", "3600"),)))
    done = cli("status", "--project", "Demo_B")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == f"pool default: {servers.base('index.test')}"
    assert done.lines[1].split()[:4] == ["ROLE", "ENDPOINT", "ADDRESS", "STATE"]
    assert [line.split()[0] for line in done.lines[2:]] == ["redirector"] * 2 + ["cdn"] * 2 + ["origin"]
    up = columns(done, "127.0.6.1")
    assert up[3:5] == ["up", "302"]
    assert up[-3:] == ["redirects", "to", servers.url(PAGE, "cdn.test")]
    assert columns(done, "127.0.6.2")[3:] == ["down", *"------", "did", "not", "connect", "(Connection", "refused)"]
    assert columns(done, "127.0.6.3")[3:5] == ["down", "200"]
    assert "a login page?" in done.line("127.0.6.3")
    assert columns(done, "127.0.6.4")[3:5] == ["down", "503"]
    origin = columns(done, "127.0.6.5")
    assert origin[3:5] == ["up", "200"]
    assert origin[9:] == ["7", "2026-01-05T00:00:00Z", "-"]
    for server in servers.at.values():
        assert {request.path for request in server.requests} <= {PAGE}


def test_status_as_json(cli: Cli, servers: Servers) -> None:
    servers.cdn[1].fault(Body(b'{"files": []}', (("Content-Type", JSON), ("Age", "42"), ("Last-Modified", "never"))))
    done = cli("status", "--project", "demo-b", "--json")
    document = done.json
    assert (done.code, document["project"]) == (0, "demo-b")
    (pool,) = document["pools"]
    assert (pool["name"], pool["index"], pool["up"]) == ("default", servers.base("index.test"), True)
    by_address = {probe["address"]: probe for probe in pool["addresses"]}
    assert list(by_address) == list(servers.at)
    cdn = by_address["127.0.6.3"]
    assert 0 < cdn.pop("connect_ms") < cdn.pop("first_byte_ms") < 5000
    assert cdn == {
        "endpoint": servers.base("cdn.test"),
        "role": "cdn",
        "url": servers.url(PAGE, "cdn.test"),
        "address": "127.0.6.3",
        "state": "up",
        "detail": "answered 200",
        "status": 200,
        "serial": 6,
        "last_modified": "2026-01-05T00:00:00Z",
        "age": None,
    }
    other = by_address["127.0.6.4"]
    assert (other["state"], other["last_modified"], other["age"]) == ("up", None, 42)
    assert MODIFIED not in done.out


def test_status_sends_credentials_to_their_endpoint_alone(cli: Cli, servers: Servers) -> None:
    cli("status", "--project", "demo-b")
    for server in servers.at.values():
        (request,) = server.requests
        assert (request.header("Authorization") is not None) == (server in servers.cdn)
        assert "vnd.pypi.simple.v1+json" in (request.header("Accept") or "")


def test_status_sends_what_netrc_has_to_the_index_alone(cli: Cli, servers: Servers, tmp_path: Path) -> None:
    """As pip would: it looks up the name that it asks for."""
    logins = [f"machine {host} login user password secret\n" for host in ("index.test", "origin.test")]
    (tmp_path / ".netrc").write_text("".join(logins))
    (tmp_path / ".netrc").chmod(0o600)
    cli("status", "--project", "demo-b")
    assert servers.redirectors[0].requests[0].header("Authorization")
    assert servers.origin.requests[0].header("Authorization") is None


def test_status_neither_knows_nor_changes_what_is_demoted(cli: Cli, servers: Servers) -> None:
    path = default_path()
    assert path
    servers.cdn[0].fault(Refuse())
    cli("status", "--project", "demo-b")
    assert not path.exists()


def test_status_fails_without_the_origin(cli: Cli, servers: Servers) -> None:
    servers.origin.fault(Refuse())
    done = cli("status", "--project", "demo-b", "--json")
    assert (done.code, done.json["pools"][0]["up"]) == (1, False)


def test_status_waits_no_longer_than_it_is_told(cli: Cli, servers: Servers) -> None:
    servers.cdn[0].fault(Blackhole())
    servers.cdn[1].fault(Silent())
    done = cli("status", "--project", "demo-b", "--timeout", "0.3")
    assert done.code == 0
    assert done.line("127.0.6.3").endswith("did not connect")
    assert done.line("127.0.6.4").endswith("connected, but did not answer")


def test_status_of_a_project_that_is_not_there(cli: Cli, servers: Servers) -> None:
    done = cli("status")
    assert done.code == 0
    assert columns(done, "127.0.6.3")[3:5] == ["missing", "404"]
    assert columns(done, "127.0.6.5")[3:5] == ["up", "404"]
    assert done.lines[-1] == "the origin has no project pip: name one that it has with --project"


def test_status_of_an_index_declared_at_its_project_list(
    cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INDEX", "CDN", "ORIGIN"):
        value = os.environ[f"CDN_FALLBACK_{name}"]
        monkeypatch.setenv(f"CDN_FALLBACK_{name}", f"{value}simple/")
    assert cli("status", "--project", "demo-b").code == 0
    assert [request.path for request in servers.origin.requests] == [PAGE]


def test_status_of_a_name_that_does_not_resolve(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_MIRRORS", servers.base("absent.test"))
    done = cli("status", "--project", "demo-b")
    assert done.code == 0
    assert done.line("absent.test").endswith("did not resolve (Name or service not known)")


def test_status_of_one_pool(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "pools.cfg"
    config.write_text(f"[cdn-fallback:other]\nindex = {servers.base('127.0.6.5')}\n")
    monkeypatch.setenv("CDN_FALLBACK_CONFIG", str(config))
    assert cli("status", "--project", "demo-b").out.count("pool ") == 2
    done = cli("status", "--pool", "other", "--project", "demo-b")
    assert (done.code, done.out.count("pool "), len(done.lines)) == (0, 1, 3)
    done = cli("status", "--pool", "third")
    assert (done.code, done.out) == (2, "")
    assert "third; there are: other, default" in done.err


def test_status_without_a_pool(cli: Cli) -> None:
    done = cli("status")
    assert (done.code, done.out) == (0, "no pool is declared: there is nothing to ask\n")
    assert cli("status", "--json").json == {"project": "pip", "pools": []}


def test_status_of_what_is_no_project(cli: Cli, servers: Servers) -> None:
    done = cli("status", "--project", "../x\x1b")
    assert (done.code, done.out) == (2, "")
    assert "is no name of a project" in done.err


def test_status_escapes_what_a_server_says(cli: Cli, servers: Servers) -> None:
    servers.origin.fault(Body(b"", (("Content-Type", "text/\x9b31m"),)))
    servers.cdn[0].fault(Redirect("http://cdn.test/\xc2\x85\xc2\x9b"))
    done = cli("status", "--project", "demo-b")
    assert done.code == 1
    assert r"text/\x9b31m" in done.line("127.0.6.5")
    assert r"\x85Â\x9b" in done.line("127.0.6.3")
    cli("status", "--project", "demo-b", "--json")


def test_status_verifies_the_name_at_every_address(
    cli: Cli, names: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority()
    with ExitStack() as stack:
        servers = start(stack, authority)
        servers.declare(monkeypatch)
        servers.cdn[0].fault(WrongCertificate())
        servers.cdn[1].fault(UnknownCA())
        ca = str(authority.write(tmp_path))
        done = cli("status", "--project", "demo-b", "--cert", ca)
        assert done.code == 0
        assert columns(done, "127.0.6.1")[3:5] == ["up", "302"]
        assert columns(done, "127.0.6.5")[3:5] == ["up", "200"]
        assert "Hostname mismatch" in done.line("127.0.6.3")
        assert "certificate:" in done.line("127.0.6.4")
        assert cli("status", "--project", "demo-b").code == 1
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca)
        assert cli("status", "--project", "demo-b").code == 0
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent"))
        done = cli("status", "--project", "demo-b")
        assert (done.code, done.out) == (1, "")
        assert "absent" in done.err
    done = cli("status", "--cert", str(tmp_path / "absent"))
    assert (done.code, done.out) == (2, "")
    assert "no such file" in done.err


def test_status_through_a_proxy(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy resolves the names, so each endpoint is asked once."""
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.6.5:{servers.port}")
    monkeypatch.setenv("http_proxy", os.environ["HTTP_PROXY"])
    done = cli("status", "--project", "demo-b", "--json")
    (pool,) = done.json["pools"]
    assert [probe["address"] for probe in pool["addresses"]] == [None] * 3
    assert {request.path for request in servers.origin.requests} == {
        servers.url(PAGE, host) for host in ("index.test", "cdn.test", "origin.test")
    }


# -- explain


def test_explain_a_page(cli: Cli, servers: Servers) -> None:
    for server in servers.cdn:
        server.fault(Status(500))
    done = cli("explain", servers.url(PAGE))
    assert (done.code, done.err) == (0, "")
    index, cdn, origin = (servers.base(host) for host in HOSTS)
    assert done.lines[:6] == [
        f"page {servers.url(PAGE)}",
        f"pool default: {index}",
        "plan",
        f"1. redirector {servers.url(PAGE)} 127.0.6.1, 127.0.6.2",
        f"2. cdn {servers.url(PAGE, 'cdn.test')} 127.0.6.3, 127.0.6.4",
        f"3. origin {servers.url(PAGE, 'origin.test')} 127.0.6.5",
    ]
    happened = [re.sub(r" after .*", "", line) for line in done.lines[7:11]]
    assert [re.sub(r" \(.*\)", "", line) for line in happened] == [
        f"1. redirector {index} redirects to {servers.url(PAGE, 'cdn.test')}",
        f"2. cdn {cdn} answered 500",
        f"3. cdn {cdn} answered 500",
        f"4. origin {origin} answered 200",
    ]
    page = ORIGIN._pages[PAGE][1]  # in JSON
    assert done.lines[11:] == [
        "answer",
        "status 200",
        f"served by origin {origin} (127.0.6.5)",
        f"bytes {len(page)}",
        f"sha256 {hashlib.sha256(page).hexdigest()}",
    ]


def test_explain_as_json(cli: Cli, servers: Servers) -> None:
    servers.redirectors[0].fault(Refuse())
    servers.redirectors[1].fault(Refuse())
    done = cli("explain", servers.url(PAGE), "--json")
    document = done.json
    assert list(document) == ["url", "pool", "kind", "plan", "attempts", "result", "error"]
    assert (done.code, document["url"], document["kind"]) == (0, servers.url(PAGE), "page")
    assert document["pool"] == {"name": "default", "index": servers.base("index.test"), "declared": True}
    assert document["plan"][2] == {
        "endpoint": servers.base("origin.test"),
        "role": "origin",
        "url": servers.url(PAGE, "origin.test"),
        "asked": True,
        "problem": None,
        "demoted_until": None,
        "addresses": [{"address": "127.0.6.5", "demoted_until": None}],
    }
    attempt = document["attempts"][0]
    assert attempt.pop("seconds") < 5
    assert attempt.pop("address") in HOSTS["index.test"]
    assert attempt == {
        "endpoint": servers.base("index.test"),
        "role": "redirector",
        "url": servers.url(PAGE),
        "verdict": "transient",
        "trouble": "connect",
        "status": None,
        "detail": "did not connect (Connection refused)",
    }
    result = document["result"]
    assert (result["status"], result["location"], document["error"]) == (200, None, None)
    (server,) = result["served_by"]
    assert (server["role"], server["endpoint"]) == ("cdn", servers.base("cdn.test"))
    assert server["address"] in HOSTS["cdn.test"]


def test_explain_a_file_without_a_hash(cli: Cli, servers: Servers) -> None:
    for server in servers.redirectors:
        server.fault(Refuse())
    done = cli("explain", servers.url(FILE))
    assert done.code == 0
    assert done.line("not asked: no hash is known").startswith("- cdn")
    assert "add #sha256=... to the URL" in done.out
    assert done.line("served by").startswith("served by origin")
    assert done.line("sha256 ") == f"sha256 {SHA256}"
    assert done.line("bytes") == f"bytes {len(B.content)}"


def test_explain_a_file_that_breaks_and_goes_on(cli: Cli, servers: Servers) -> None:
    for server in servers.cdn:
        server.fault(Truncate(0.4))
    done = cli("explain", f"{servers.url(FILE)}#sha256={SHA256}")
    assert done.code == 0
    assert [line.split()[2] for line in done.lines if line.startswith("served by")] == ["cdn", "origin"]
    assert done.line("sha256 ") == f"sha256 {SHA256}"


def test_explain_a_wrong_hash(cli: Cli, servers: Servers) -> None:
    url = f"{servers.url(FILE)}#sha256={'0' * 64}"
    done = cli("explain", url)
    assert done.code == 1
    assert "does not have the hash that its index promises" in done.err
    assert "answer" not in done.lines
    document = cli("explain", url, "--json").json
    assert document["result"] is None
    assert "does not have the hash" in document["error"]


def test_explain_what_is_not_there(cli: Cli, servers: Servers) -> None:
    done = cli("explain", servers.url("/simple/absent/"))
    assert done.code == 1
    assert done.line("status") == "status 404"
    assert done.line("served by").startswith("served by origin")


def test_explain_when_all_is_lost(cli: Cli, servers: Servers) -> None:
    for server in servers.at.values():
        server.fault(Refuse())
    done = cli("explain", servers.url(PAGE), "--retries", "0")
    assert (done.code, done.lines[-1].split()[0]) == (1, "5.")
    assert done.err == f"no usable answer for {servers.url(PAGE)}\n"
    servers.cdn[0].heal()
    done = cli("explain", servers.url("/simple/absent/"), "--retries", "0", "--json")
    assert done.code == 1
    assert "only the origin can say" in done.json["error"]


def test_explain_a_redirect_that_is_the_tools_own_business(cli: Cli, servers: Servers) -> None:
    done = cli("explain", servers.url(PAGE[:-1]))
    assert done.code == 0
    assert done.line("status") == "status 301"
    assert done.line("goes to").startswith(f"goes to {servers.url(PAGE)}: ")
    for server in servers.redirectors:
        server.fault(Redirect("http://user:secret@elsewhere.invalid/"))
    result = cli("explain", servers.url(PAGE), "--json").json["result"]
    assert (result["status"], result["location"]) == (302, "http://elsewhere.invalid/")


def test_explain_remembers_as_pip_does_and_shows_it(cli: Cli, servers: Servers) -> None:
    for server in servers.cdn:
        server.fault(Status(503, (("Retry-After", "3000"),)))
    assert cli("explain", servers.url(PAGE)).code == 0
    done = cli("explain", servers.url(PAGE))
    assert done.line("demoted until").startswith(f"3. cdn {servers.url(PAGE, 'cdn.test')} (demoted until 20")
    plan = cli("explain", servers.url(PAGE), "--json").json["plan"]
    assert [bool(stop["demoted_until"]) for stop in plan] == [False, False, True]


def test_explain_what_no_pool_serves(cli: Cli, servers: Servers) -> None:
    done = cli("explain", f"http://user:secret@cdn.test:{servers.port}{PAGE}")
    assert done.code == 0
    assert done.lines[0] == f"page {servers.url(PAGE, 'cdn.test')}"
    assert done.lines[1] == f"pool none declared: {servers.base('cdn.test')} alone"
    assert done.line("note") == (
        f"note this is where cdn {servers.base('cdn.test')} has {servers.url(PAGE)}; pip asks for that"
    )


def test_explain_where_it_is_switched_off(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    done = cli("explain", servers.url(PAGE))
    assert done.code == 0
    assert done.lines[0].startswith("CDN_FALLBACK_DISABLE is set")


def test_explain_through_a_proxy(cli: Cli, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.6.1:1")
    done = cli("explain", servers.url(PAGE), "--retries", "0")
    assert done.code == 1
    assert done.out.count("through the proxy http://127.0.6.1:1\n") == 3


def test_explain_a_name_that_does_not_resolve(cli: Cli, names: None) -> None:
    done = cli("explain", "http://absent.test/simple/x/", "--retries", "0")
    assert done.code == 1
    assert done.lines[3].endswith("does not resolve (Name or service not known)")
    assert "DNS is down" in done.err


def test_explain_escapes_what_a_server_says(cli: Cli, servers: Servers) -> None:
    for server in servers.cdn:
        server.fault(Body(b"", (("Content-Type", "text/\x9b31m"),)))
    done = cli("explain", servers.url(PAGE))
    assert done.code == 0
    assert r"answered with text/\x9b31m, which is no index page" in done.out
    assert r"\u009b31m" in cli("explain", servers.url(PAGE), "--json").out


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://user:secret@host/",
        "http://",
        "https://[x/",
        "https://host:99999/",
        "https://host/a b",
        "https://h/\x1b",
    ],
)
def test_explain_what_is_no_url(cli: Cli, url: str) -> None:
    done = cli("explain", url)
    assert (done.code, done.out) == (2, "")
    assert done.err == "explain: this is no http or https URL; write https://host/path\n"


def test_explain_what_requests_cannot_ask_for(cli: Cli) -> None:
    done = cli("explain", "https://*.test/")
    assert (done.code, done.out) == (2, "")
    assert "not a URL that can be asked for" in done.err


def test_the_log_stays_out_of_it(servers: Servers) -> None:
    """Without a handler Python's last resort would print the engine's warnings beside the attempts."""
    for server in servers.redirectors:
        server.fault(Refuse())
    pool = {"INDEX": "127.0.6.1", "CDN": "127.0.6.3", "ORIGIN": "127.0.6.5"}  # names are for this process alone
    environ = {**os.environ, **{f"CDN_FALLBACK_{key}": servers.base(address) for key, address in pool.items()}}
    command = [sys.executable, "-m", "cdn_fallback", "explain", servers.url(PAGE, "127.0.6.1")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "served by  cdn" in done.stdout
