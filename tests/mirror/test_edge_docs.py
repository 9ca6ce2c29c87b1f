"""What docs/edge.md says is what the code does: commands, options, settings, policies."""

from __future__ import annotations

import argparse
import json
import re
import shlex

import pytest

from cdn_fallback import cli
from cdn_fallback.cli import edge as commands
from cdn_fallback.mirror.edge import nginx, settings
from cdn_fallback.mirror.edge.cloudfront import FUNCTION_MAX, TEMPLATES
from tests.rig.pips import PROJECT

GUIDE = (PROJECT / "docs" / "edge.md").read_text("utf-8")
EDGE = settings.Edge("example-mirror", "eu-central-1", "cdn.example.net")


@pytest.mark.parametrize("line", sorted(set(re.findall(r"(?m)^\$ cdn-fallback (.*)$", GUIDE))))
def test_every_command_is_one_that_the_parser_takes(line: str) -> None:
    assert cli._parser().parse_args(shlex.split(line)).command == "edge"


def options(name: str) -> set[str]:
    """The options of a command that it has beside --help."""
    parser = argparse.ArgumentParser()
    commands.add_arguments(parser)
    (action,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    found = {option for one in action.choices[name]._actions for option in one.option_strings}
    return {option for option in found if option.startswith("--")} - {"--help", "--output"}


@pytest.mark.parametrize(
    ("name", "head"), [("cloudfront", "| option | means |\n"), ("nginx", "| option | means | without it |\n")]
)
def test_every_option_is_told(name: str, head: str) -> None:
    table = GUIDE.partition(head)[2].partition("\n\n")[0]
    assert set(re.findall(r"`(--[a-z-]+)`", table)) == options(name)


def test_the_settings_are_those_that_are_told() -> None:
    assert f"| {settings.MIN_TTL}, {settings.DEFAULT_TTL}, {settings.MAX_TTL} s |" in GUIDE
    assert f"4xx {settings.ABSENT_TTL} s, 5xx {settings.BROKEN_TTL} s" in GUIDE
    assert settings.distribution(EDGE)["ViewerCertificate"].keys() == {"CloudFrontDefaultCertificate"}
    assert EDGE.id in GUIDE and FUNCTION_MAX == 10240
    assert nginx.CACHE in GUIDE and nginx.AUTHORITIES in GUIDE
    origin = settings.distribution(EDGE)["Origins"]["Items"][0]
    assert (origin["ConnectionAttempts"], origin["ConnectionTimeout"]) == (2, 3) and "two attempts of 3 s" in GUIDE


def test_the_policy_for_nginx_lets_the_same_be_read_and_not_the_mark() -> None:
    (text,) = re.findall(r"(?ms)^  ```json\n(.*?)^  ```$", GUIDE)
    ours = settings.bucket_policy(EDGE)["Statement"]
    for own, told in zip(ours, json.loads(text)["Statement"], strict=True):
        assert {name: told[name] for name in ("Effect", "Action", "Resource")} == {
            name: own[name] for name in ("Effect", "Action", "Resource")
        }


def test_the_readme_names_every_file() -> None:
    readme = (PROJECT / "cdn_fallback" / "mirror" / "edge" / "README.md").read_text("utf-8")
    assert set(re.findall(r"(?m)^\| `([^`]+)`", readme)) == {*TEMPLATES, *settings.DOCUMENTS} - {"README.md"}


def test_the_guide_leads_to_what_is_there() -> None:
    for place in re.findall(r"\]\(([^)#]+\.md)", GUIDE):
        assert (PROJECT / "docs" / place).exists(), place
    for anchor in re.findall(r"\]\(#([^)]+)\)", GUIDE):
        assert any(re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") == anchor
                   for line in re.findall(r"(?m)^#+ (.*)$", GUIDE)), anchor  # fmt: skip
