"""What docs/mirror.md and docs/sources.md say is what the code does: commands, configuration, keys, exit codes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdn_fallback import cli
from cdn_fallback.cli import mirror as commands
from cdn_fallback.cli import mirror_open
from cdn_fallback.mirror import config, site, sync
from cdn_fallback.mirror.catalog.content import Record, Static
from cdn_fallback.mirror.due import FEW, MOST_REMOVED
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.site import Object, Rules
from cdn_fallback.mirror.sources import Settings
from tests.rig.pips import PROJECT

DOCS = PROJECT / "docs"
GUIDE = (DOCS / "mirror.md").read_text("utf-8")
SOURCES = (DOCS / "sources.md").read_text("utf-8")
EXAMPLE = DOCS / "examples" / "postgresql_source"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of that language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def tables(text: str) -> Iterator[list[list[str]]]:
    """Every table's rows, the headline first, without the line beneath it; cells without backquotes."""
    for found in re.findall(r"(?m)(?:^\|.*\n)+", text):
        rows = [line.strip("|").split("|") for line in found.splitlines()]
        yield [[cell.strip().replace("`", "") for cell in row] for row in (rows[0], *rows[2:])]


def table(first: str) -> list[list[str]]:
    """The rows of the guide's table whose headline begins so."""
    (found,) = [rows for rows in tables(GUIDE) if rows[0][0] == first]
    return found[1:]


def invocations() -> list[str]:
    """Every line that runs us: at a prompt, in a crontab, in a unit."""
    prompts = [line[2:] for text in (GUIDE, SOURCES) for line in text.splitlines() if line.startswith("$ ")]
    others = re.findall(r"(?m)^(?:ExecStart=|\*/10 .* mirror )(.*)$", GUIDE)
    found = [line for line in (*prompts, *others) if Path(shlex.split(line)[0]).name == "cdn-fallback"]
    inline = re.findall(r"`(cdn-fallback mirror [^`]*)`", GUIDE + SOURCES)
    return sorted({*found, *inline})


@pytest.mark.parametrize("line", invocations())
def test_every_command_is_one_that_the_parser_takes(line: str) -> None:
    _, *arguments = shlex.split(line.partition(">")[0])
    parsed = cli._parser().parse_args(arguments)
    assert parsed.command == "mirror" and callable(parsed.run)


def test_the_commands_are_found_and_all_are_there() -> None:
    lines = invocations()
    assert any(line.startswith("/opt/cdn-fallback/bin/cdn-fallback mirror run --config") for line in lines)
    told = {row[0].removeprefix("mirror ") for row in table("command")}
    assert told == parsers().keys()
    assert told == {word for word in told if any(f" mirror {word}" in line for line in lines)}


def test_the_options_are_those_of_the_parser() -> None:
    told: dict[str, set[str]] = {}
    for option, where, _ in table("option"):
        words = set(re.findall("[a-z]+", where))
        for name in re.findall(r"--[a-z-]+", option):
            told[name] = parsers().keys() - words if "all" in words else words
    there: dict[str, set[str]] = {}
    for name, parser in parsers().items():
        for option in parser._option_string_actions:
            if option.startswith("--") and option != "--help":
                there.setdefault(option, set()).add(name)
    assert told == there


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Command of `mirror` -> its parser."""
    return _commands(_commands(cli._parser())["mirror"])


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


@pytest.mark.parametrize("block", [block for block in blocks(GUIDE + SOURCES, "toml") if "[project]" not in block])
def test_every_configuration_can_be_loaded(block: str, tmp_path: Path) -> None:
    """Those that show one table only are made whole; a source that comes with us takes its settings, too."""
    path = tmp_path / config.NAME
    for table, line in (("store", 'url = "file:///srv/mirror/site"'), ("publish", 'base = "https://example.org/"')):
        block += "" if f"[{table}]" in block else f"\n[{table}]\n{line}\n"
    (tmp_path / "requirements.txt").write_text("six\n")
    path.write_text(block.replace("/srv/app/requirements.txt", "requirements.txt"))
    loaded = config.load(path)
    assert loaded.source.values["type"]
    _take(loaded.source)


def _take(settings: Settings) -> None:
    """The source's own checks, which raise ConfigError."""
    kind = settings.text("type")
    if kind == "directory":
        from cdn_fallback.mirror.sources.directory import Directory

        Directory(settings)
    elif kind == "simple-api":
        from cdn_fallback.mirror.sources.simple_api import settings as simple_settings

        simple_settings.read(settings)


def test_the_keys_of_the_configuration_are_those_that_are_read() -> None:
    from cdn_fallback.mirror.sources.simple_api import settings as simple_settings

    folder, simple = [[row[0] for row in rows[1:]] for rows in tables(GUIDE) if rows[0][0] == "key of [source]"]
    assert tuple(sorted(simple)) == tuple(sorted(simple_settings.KEYS))
    assert folder == ["path", "prefix", "settle"]
    told = " ".join(row[0] for rows in tables(GUIDE) for row in rows)
    assert set(re.findall(r"\[+([a-z]+)\]+", told)) == set(config._TABLES)


def test_the_keys_and_headers_are_those_of_the_site() -> None:
    caching = {row[0]: row[1] for row in table("kept")}
    assert caching == {
        "as a page": site.PAGE, "as a list": site.LIST, "for ever": site.FOREVER, "briefly": site.BRIEF
    }  # fmt: skip
    (rows,) = [rows[1:] for rows in tables(GUIDE) if rows[0] == ["key", "Content-Type", "kept by caches"]]
    used = set()
    for one in objects():
        key = one.key.replace("Its.Name", "Its_Name").replace("its-name", "NAME").removesuffix(site.GZIP)
        key = re.sub(r"^packages/.*\.whl", "packages/.../FILE", key)
        key = re.sub(r"^documentation/.*", "PREFIX/...", key)
        (row,) = [row for row in rows if row[0] == key]
        used.add(key)
        assert row[1] in (one.headers.content_type, "by its ending")
        assert caching[row[2]] == one.headers.cache_control
        assert one.headers.content_encoding == ("gzip" if one.key.endswith(site.GZIP) else None)
    assert used == {row[0] for row in rows}


def objects() -> Iterator[Object]:
    """One of every kind."""
    name = "its_name-1.0-py3-none-any.whl"
    hashes = {"sha256": "0" * 64}
    file = File(name, "1.0", key=f"packages/a/{name}", hashes=hashes, core_metadata=hashes)
    project = Project("its-name", "Its.Name", (file,), ("1.0",))
    pages = site.pages(Record(1, project, 1), Rules("https://example.org/"))
    found = [*pages, *site.lists([], 1), *site.ends("2024-01-31T12:00:00Z")]
    yield from found
    yield from (one.gzipped() for one in found if one.twin)
    yield from site.objects_of_files([file])
    yield site.object_of_static(Static("documentation/a.html", "", b"", 0, ""))


def test_the_list_and_every_page_of_a_project_have_a_twin_and_nothing_else_has() -> None:
    twins = {one.key for one in objects() if one.twin}
    assert twins == {
        "simple/index.html", "simple/index.json", "simple/its-name/index.html", "simple/its-name/index.json",
        "pypi/its-name/json",
    }  # fmt: skip


def test_the_exit_codes_are_those_of_the_commands() -> None:
    told = {int(code): meaning for code, meaning in table("exit code")}
    assert told.keys() == {0, 1, 2, mirror_open.PARTLY, mirror_open.BUSY, mirror_open.STOPPED}
    assert told[mirror_open.PARTLY].startswith("done in part")
    assert told[mirror_open.BUSY].startswith("another run")
    assert told[mirror_open.STOPPED].startswith("stopped")
    for code, meaning in re.findall(r"(\d) ([a-z][a-z ]+)", commands.__doc__ or ""):
        assert told[int(code)].split()[0].rstrip(":") == meaning.split()[0]


def test_the_guard_is_the_one_that_is_told() -> None:
    assert (MOST_REMOVED, FEW) == (1 / 20, 10), "docs/mirror.md and ADR 27 say: a twentieth, more than ten"
    assert site.STALE == 24 * 3600 + 600, "a day and ten minutes"
    assert sync.BATCH and "a twentieth" in GUIDE and "a day and ten minutes" in GUIDE


@pytest.mark.parametrize(
    ("name", "language"), [("pyproject.toml", "toml"), ("schema.sql", "sql"), ("postgresql_source.py", "python")]
)
def test_the_example_is_quoted_whole(name: str, language: str) -> None:
    assert (EXAMPLE / name).read_text("utf-8") in blocks(SOURCES, language)
    assert {path.name for path in EXAMPLE.iterdir() if path.is_file()} == {
        "pyproject.toml", "schema.sql", "postgresql_source.py"
    }  # fmt: skip


@pytest.mark.parametrize("text", [GUIDE, SOURCES])
def test_links_to_headings_and_pages_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text):
        page, _, anchor = target.partition("#")
        whole = text if not page else (DOCS / page).resolve()
        if isinstance(whole, Path):
            assert whole.exists(), target
            whole = whole.read_text("utf-8") if whole.is_file() else ""
        headings = re.findall(r"(?m)^#+ (.*)$", whole)
        anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target
