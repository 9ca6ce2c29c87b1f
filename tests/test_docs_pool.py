"""What docs/pool.md says is what the code does: its commands are run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cdn_fallback import cli
from cdn_fallback.mirror.redirectors import HEALTH, LEADS_TO, MAX_AGE, MAX_AGE_DOWN
from tests.rig.pips import PROJECT

GUIDE = (PROJECT / "docs" / "pool.md").read_text("utf-8")


def sessions() -> list[list[tuple[str, str]]]:
    """Of each console block: (what is typed, what it prints)."""
    found = []
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", GUIDE):
        typed = re.split(r"(?m)^[$#] ", block)[1:]
        found.append([(text.partition("\n")[0], text.partition("\n")[2]) for text in typed])
    return found


COMMANDS = [typed for session in sessions() for typed, _ in session if typed.startswith("cdn-fallback ")]


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the guide's pool.conf lies."""
    (content,) = [printed for session in sessions() for typed, printed in session if typed == "cat pool.conf"]
    (tmp_path / "pool.conf").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDN_FALLBACK_CONFIG", "pool.conf")
    return tmp_path


def test_the_guide_has_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_does_what_the_guide_says(line: str, pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *arguments = shlex.split(line)
    # the guide's is the server's own folder, and its test is of a server with the guide's certificate
    arguments = [argument.replace("/etc/lighttpd/lighttpd.conf", "lighttpd.conf") for argument in arguments]
    arguments = [argument for argument in arguments if argument != "--check"]
    assert cli.main(arguments) == 0
    printed = [printed for session in sessions() for typed, printed in session if typed == line]
    assert capsys.readouterr().out == printed[0].strip("\n") + "\n" * bool(printed[0].strip())
    if "-o" in arguments:
        text = (pool / "lighttpd.conf").read_text()
        assert ("the CDN is declared down" in text) == ("--cdn-down" in arguments)
        assert 'ssl.pemfile = "/etc/lighttpd/pool.pem"' in text
        assert f"max-age={MAX_AGE_DOWN if '--cdn-down' in arguments else MAX_AGE}" in text


def test_the_path_and_the_header_of_the_health_check_are_ours() -> None:
    assert f"https://pypi.python.org{HEALTH}" in GUIDE
    assert f"`{LEADS_TO}`" in GUIDE


def test_every_option_is_one_of_the_command() -> None:
    told = set(re.findall(r"`(--[a-z][a-z-]+)", re.sub(r"(?ms)^```.*?^```$", "", GUIDE))) - {"--index-url", "--resolve"}
    (commands,) = [action for action in cli._parser()._actions if action.dest == "command"]
    assert isinstance(commands.choices, dict)
    assert told <= commands.choices["redirectors"]._option_string_actions.keys()
