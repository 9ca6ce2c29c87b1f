"""`cdn-fallback redirectors`: what is printed and written, and the exit codes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cdn_fallback.cli import main
from tests.test_cli_mirror import CONTROLS

Run = Callable[..., tuple[int, str, str]]

CONFIG = """
[cdn-fallback]
cdn = https://reader:s3cret@cdn.example.net/
origin = https://admin:pa%2Fss@origin.example.org/
[cdn-fallback:team]
index = http://team.example.org/pypi/
cdn = http://cdn.team.example.org/
origin = http://origin.team.example.org:8080/
"""
SERVER = ("--server", "lighttpd", "--certificate", "/etc/ssl/pool.pem")
OLD = "what was there before\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a configuration of two pools; nothing of this machine's."""
    for name in os.environ:
        if name.upper().startswith(("CDN_FALLBACK", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("CDN_FALLBACK_CONFIG", str(tmp_path / "pool.ini"))
    (tmp_path / "pool.ini").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit code, stdout, stderr), neither with a password or anything that a terminal would obey."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        code = main(["redirectors", *arguments])
        out, err = capsys.readouterr()
        assert not CONTROLS.search(out + err) and not re.search("s3cret|pa%2Fss|pa/ss|reader|admin", out + err)
        return code, out, err

    return ran


def failed(found: tuple[int, str, str]) -> str:
    code, out, err = found
    assert (code, out) == (2, ""), err
    return err


# what is written


@pytest.mark.parametrize("server", ["lighttpd", "nginx"])
def test_a_configuration_goes_to_standard_output(run: Run, server: str) -> None:
    code, out, err = run("--server", server, "--certificate", "/etc/ssl/pool.pem")
    assert (code, err) == (0, "") and out.startswith("# A redirect server of https://pypi.python.org/\n")
    assert "https://cdn.example.net$1" in out or "https://cdn.example.net$" in out
    assert "/etc/ssl/pool.pem" in out and out.endswith("}\n")


def test_the_arguments_stand_in_it(run: Run) -> None:
    split = ("--static", "docs", "--static", "files", "--no-legacy", "--paths", "--max-age", "7", "--health", "/up")
    place = ("--key", "/etc/ssl/pool.key", "--listen", "127.0.0.1:4433", "--listen-http", "8080", "--folder", "/srv/x")
    code, out, _ = run(*SERVER, *split, *place)
    assert code == 0 and "index.json" not in out and "/json" not in out
    for said in (
        "|docs|files)",
        "max-age=7",
        '"/up"',
        '"/etc/ssl/pool.key"',
        '"127.0.0.1"',
        "4433",
        ":8080",
        "/srv/x/",
    ):
        assert said in out, said


def test_the_cdn_is_declared_down_by_one_argument(run: Run) -> None:
    code, out, _ = run(*SERVER, "--cdn-down")
    assert code == 0 and "cdn.example.net" not in out and "max-age=60" in out


def test_another_pool(run: Run) -> None:
    code, out, _ = run("--server", "nginx", "--pool", "team")
    assert code == 0 and "return 302 http://cdn.team.example.org$" in out and "|/pypi(" in out and "ssl" not in out


def test_records_go_to_standard_output(run: Run) -> None:
    line = "pypi.python.org. 300 IN A 192.0.2.11\n"
    assert run("--zone", "192.0.2.11") == (0, line, "")
    line = "pool.example.org. 60 IN AAAA 2001:db8::1\n"
    assert run("--zone", "2001:db8::1", "--name", "pool.example.org", "--ttl", "60") == (0, line, "")
    assert run("--zone", "192.0.2.11", "-o", "zone") == (0, "", "")
    assert Path("zone").read_text() == "pypi.python.org. 300 IN A 192.0.2.11\n"


def test_it_is_read_also_where_cdn_fallback_is_switched_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDN_FALLBACK_DISABLE", "1")
    assert run(*SERVER)[0] == 0


# -o


def test_a_file_is_written_whole(run: Run) -> None:
    expected = run(*SERVER)[1]
    assert run(*SERVER, "-o", "made.conf") == (0, "", "")
    assert Path("made.conf").read_text() == expected
    assert stat.S_IMODE(Path("made.conf").stat().st_mode) == 0o644
    assert sorted(os.listdir()) == ["made.conf", "pool.ini"]


def test_a_file_that_is_there_keeps_its_mode_and_is_another_file(run: Run) -> None:
    path = Path("made.conf")
    path.write_text(OLD)
    path.chmod(0o640)
    with path.open() as reader:
        assert run(*SERVER, "--output", "made.conf")[0] == 0
        assert reader.read() == OLD, "who reads it goes on reading the old one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and path.read_text() != OLD


def test_a_link_stays_one(run: Run) -> None:
    Path("etc").mkdir()
    Path("etc/made.conf").write_text(OLD)
    Path("link").symlink_to("etc/made.conf")
    assert run(*SERVER, "-o", "link")[0] == 0
    assert Path("link").is_symlink() and Path("etc/made.conf").read_text() != OLD and os.listdir("etc") == ["made.conf"]


def test_2_there_is_no_such_folder(run: Run, folder: Path) -> None:
    err = failed(run(*SERVER, "-o", "absent/made.conf"))
    assert err == f"--output {folder}/absent/made.conf: No such file or directory; it is as it was\n"


def test_2_a_folder_is_in_its_place(run: Run, folder: Path) -> None:
    Path("made.conf").mkdir()
    err = failed(run(*SERVER, "-o", "made.conf"))
    assert err == f"--output {folder}/made.conf: is there, and no file; name another\n"
    assert sorted(os.listdir()) == ["made.conf", "pool.ini"]


def test_2_what_is_no_file_is_not_replaced(run: Run) -> None:
    """As root, -o /dev/null would put a file there for everybody."""
    os.mkfifo("pipe")
    assert "is there, and no file; name another" in failed(run(*SERVER, "-o", "pipe"))
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_2_a_folder_that_cannot_be_written(run: Run) -> None:
    Path("etc").mkdir(mode=0o500)
    assert "Permission denied; it is as it was" in failed(run(*SERVER, "-o", "etc/made.conf"))


def test_2_the_disk_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("made.conf").write_text(OLD)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device; it is as it was" in failed(run(*SERVER, "-o", "made.conf"))
    assert Path("made.conf").read_text() == OLD and sorted(os.listdir()) == ["made.conf", "pool.ini"]


# --check


def fake(name: str, script: str) -> None:
    Path("bin").mkdir(exist_ok=True)
    path = Path("bin", name)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def binaries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of ours before those of the machine."""
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


@pytest.mark.usefixtures("binaries")
@pytest.mark.parametrize(("server", "option"), [("lighttpd", "-f"), ("nginx", "-c")])
def test_the_servers_own_test_sees_what_is_written(run: Run, server: str, option: str) -> None:
    fake(server, f'echo "$@" > said; for last; do :; done; cat "$last" > seen; echo "{server}: $last syntax is ok" >&2')
    arguments = ("--server", server, "--certificate", "/etc/ssl/warnings.pem")
    assert run(*arguments, "--check", "-o", "made.conf") == (0, "", "")
    assert Path("seen").read_bytes() == Path("made.conf").read_bytes()
    said = Path("said").read_text()
    assert re.fullmatch(rf"-tt? (-e stderr -g pid \S+; )?{option} (\S+)\n", said)
    assert not Path(said.split()[-1]).exists()


@pytest.mark.usefixtures("binaries")
def test_2_a_server_that_fails(run: Run) -> None:
    fake("lighttpd", r'printf "no \033[31m such\n\nthing" >&2; exit 255')
    Path("made.conf").write_text(OLD)
    err = failed(run(*SERVER, "--check", "-o", "made.conf"))
    assert err.splitlines() == [
        r"no \x1b[31m such", "thing", "--check: lighttpd does not take this configuration; nothing was written"
    ]  # fmt: skip
    assert Path("made.conf").read_text() == OLD


@pytest.mark.usefixtures("binaries")
@pytest.mark.parametrize(
    ("server", "line"),
    [
        ("lighttpd", "2026-01-01 00:00:00: (configfile.c.1) WARNING: unknown config-key: x (ignored)"),
        ("nginx", "nginx: [warn] duplicate MIME type"),
        ("nginx", "nginx: [alert] could not open error log file"),
    ],
)
def test_2_a_warning_is_a_failure(run: Run, server: str, line: str) -> None:
    fake(server, f"echo '{line}' >&2")
    err = failed(run("--server", server, "--certificate", "/etc/ssl/pool.pem", "--check"))
    assert err == f"{line}\n--check: {server} does not take this configuration; nothing was written\n"


@pytest.mark.usefixtures("binaries")
def test_a_warning_in_a_name_is_none(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "warn").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "warn"))
    fake("nginx", 'for last; do :; done; echo "nginx: the configuration file $last syntax is ok" >&2')
    assert run("--server", "nginx", "--certificate", "/etc/ssl/pool.pem", "--check")[0] == 0


def test_2_a_server_that_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    err = failed(run(*SERVER, "--check", "-o", "made.conf"))
    assert err == "--check: lighttpd is not installed here; install it, or leave --check out\n"
    assert not Path("made.conf").exists()


# what cannot be: the code is 2, it is said where and what to do, and nothing is written


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("cdn = https://cdn.example.net/", "has no redirectors: its index https://pypi.python.org/ is its own origin"),
        ("origin = https://origin.example.org/", "has no cdn; set `cdn` to its base URL"),
        ("cdn = https://cdn.example.net/\norigin = https://[2001:db8::1]/", "must be a host's name"),
        ("cdn = https://pypi.python.org:444/\norigin = https://origin.example.org/", "a redirector's own name"),
        ("cdn = https://x.example.org/a/\norigin = https://X.example.org./", "is on the same host as the origin"),
        ("cdn = https://x.example.org/a%22/\norigin = https://o.example.org/", "has a path with something else in it"),
        ("cdn = http://x.example.org/\norigin = https://o.example.org/", "http and https do not mix in a pool"),
        ("cdn = https://x.example.org/;\norigin = https://o.example.org/", "has a path with something else in it"),
        ("cdn = https://x.example.org/\x1b[31m\norigin = https://o.example.org/", "character that no URL may hold"),
        (
            "redirectors = https://r1.example.org/ https://r2.example.org/x/\n"
            "cdn = https://cdn.example.net/\norigin = https://origin.example.org/",
            "differs from https://r1.example.org/ in scheme, port or path",
        ),
    ],
)
def test_2_a_pool_that_cannot_be(run: Run, folder: Path, settings: str, said: str) -> None:
    (folder / "pool.ini").write_text(f"[cdn-fallback]\n{settings}\n")
    Path("made.conf").write_text(OLD)
    for server in ("lighttpd", "nginx"):
        err = failed(run("--server", server, "--certificate", "/etc/ssl/pool.pem", "-o", "made.conf"))
        assert said in err and err.count("\n") == 1
    assert Path("made.conf").read_text() == OLD


def test_the_index_may_be_the_origin_of_redirectors_with_names_of_their_own(run: Run, folder: Path) -> None:
    settings = "redirectors = https://r1.example.org/ https://r2.example.org/\ncdn = https://cdn.example.net/"
    (folder / "pool.ini").write_text(f"[cdn-fallback]\n{settings}\n")
    code, out, err = run(*SERVER)
    assert (code, err) == (0, "") and '"https://pypi.python.org$1"' in out


def test_2_no_such_pool(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    err = failed(run(*SERVER, "--pool", "x\x1b[31m"))
    assert err == (
        "redirectors: no pool x\\x1b[31m in the configuration; there are default, team; "
        "name one with --pool (see `cdn-fallback doctor`)\n"
    )
    monkeypatch.delenv("CDN_FALLBACK_CONFIG")
    assert "none is declared: set index, cdn and origin" in failed(run(*SERVER))
    assert "none is declared: set index, cdn and origin" in failed(run("--zone", "192.0.2.11"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "one of the arguments --server --zone is required"),
        ("--server apache", "invalid choice: 'apache'"),
        ("--server nginx --zone 192.0.2.1", "not allowed with argument"),
        ("--server nginx --max-age=-1", "'-1' is no number of seconds up to a week"),
        ("--server nginx --max-age 1.5", "'1.5' is no number of seconds up to a week"),
        ("--server nginx --max-age 604801", "'604801' is no number of seconds up to a week"),
        ("--server nginx --max-age \u0661", "is no number of seconds up to a week"),
        ("--zone 192.0.2.1 --ttl x", "'x' is no number of seconds up to a week"),
        ("--server nginx", "certificate '': is missing; https://pypi.python.org/ is https: name a PEM file"),
        ("--server nginx --certificate pem", "must be an absolute path"),
        ("--server nginx --certificate /a --key b", "must be an absolute path"),
        ("--server nginx --certificate /a --listen x:80", "must be a port, or an address and a port"),
        ("--server nginx --certificate /a --listen 80 --listen-http 80", "stands there twice; name each once"),
        ("--server nginx --certificate /a --folder .", "must be an absolute path"),
        ("--server nginx --certificate /a --static a/../b", "name a prefix, as documentation"),
        ("--server nginx --certificate /a --health up", "must be a path, as /-/health"),
        ("--server nginx --pool team --listen-http 80", "the pool is http as it is; use --listen"),
        ("--server nginx --pool team --certificate /a", "is for https, and http://team.example.org/pypi/ is not"),
        ("--zone 192.0.2.256", "is no IP address; write 192.0.2.11 or 2001:db8::11"),
        ("--zone 192.0.2.1 192.0.2.1", "stands there twice; name each once"),
        ("--zone 192.0.2.1 --name a_b", "must be a host's name"),
        ("--zone 192.0.2.1 --name 192.0.2.2", "is an address; name the host that is to have these addresses"),
    ],
)
def test_2_wrong_arguments(run: Run, arguments: str, said: str) -> None:
    Path("made.conf").write_text(OLD)
    assert said in failed(run(*arguments.split(), "-o", "made.conf"))
    assert Path("made.conf").read_text() == OLD and sorted(os.listdir()) == ["made.conf", "pool.ini"]
