"""What bench.redirectors is made of; its figures are not judged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.redirector_servers import CDN, Memory, Request, Running, Variant, bare, cpu_seconds, memory, ours, unlogged
from bench.redirectors import (
    HEAD,
    VARIANTS,
    Found,
    Turn,
    answered,
    check,
    line,
    memory_line,
    missed,
    requests,
    script,
    tools,
)
from cdn_fallback.cli.client import PAGE_HEADERS
from cdn_fallback.mirror.redirectors import Certificate, Place

PLACE = Place(("127.0.0.2:8080",), (), Certificate("/srv/server.pem", "/srv/server.pem"), "/srv/logs")


class Fake(Running):
    """Answers as it is told, whatever is asked."""

    def __init__(self, answer: tuple[int, str]) -> None:
        super().__init__(Variant("nginx"), Path("/nowhere"), "127.0.0.2", 8080)
        self.answer = answer

    def ask(self, request: Request) -> tuple[int, str]:
        return self.answer


def test_the_figures_of_wrk_are_the_ones_of_our_script() -> None:
    said = "Running 3s test @ http://127.0.0.2/\nRequests/sec:  80000.00\nfigures 240000 3000000 0 0\n"
    assert answered(said) == (240000, 3.0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("figures 240000 3000000 17 0", "17 are neither 2xx nor 3xx"),
        ("figures 240000 3000000 0 2", "2 connections failed"),
        ("figures 0 3000000 0 0", "of 0 answers"),
        ("unable to connect to 127.0.0.2:8080 Connection refused", "no figures: unable to connect"),
    ],
)
def test_a_run_in_which_something_went_wrong_is_no_figure(said: str, told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        answered(said)


def test_wrk_sends_what_was_checked() -> None:
    request = requests("http")["pages"][0]
    assert request.text.startswith(f"GET {request.path} HTTP/1.1\r\nHost: ") and request.text.endswith("\r\n\r\n")
    assert f"Accept: {PAGE_HEADERS['Accept']}\r\n" in request.text
    assert request.text.isascii()  # a string in JSON would not be one in Lua
    assert f"local made = {{ {json.dumps(request.text)} }}\n" in script([request])


def test_the_mix_has_every_kind_and_is_the_same_in_every_run() -> None:
    kinds = requests("https", 100)
    assert kinds == requests("https", 100)
    parts = [sum(each in kinds[kind] for each in kinds["mix"]) for kind in ("pages", "files", "dynamic")]
    assert parts == [45, 50, 5]


def test_an_answer_that_is_not_the_redirect_ends_it() -> None:
    request = requests("http", 1)["files"][0]
    led = f"http://{CDN}{request.path}"
    check({"ours": Fake((302, led)), "bare": Fake((302, led))}, {"files": [request]})
    for side, answer in (("ours", (200, "")), ("ours", (302, f"{led}x")), ("bare", (301, led))):
        with pytest.raises(SystemExit, match=f"nginx, http, {side}: {request.path} gives"):
            check({side: Fake(answer)}, {"files": [request]})


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_configuration_loses_its_log_and_nothing_else(variant: Variant) -> None:
    place = PLACE if variant.scheme == "https" else Place(PLACE.listen, (), None, PLACE.folder)
    for text in (ours(variant, place), bare(variant, place)):
        left = unlogged(variant.server, text)
        assert "access" in text and "access.log" not in left and "mod_accesslog" not in left
        assert set(left.splitlines()) - set(text.splitlines()) <= {
            "access_log off;",
            *(line.replace(', "mod_accesslog"', "") for line in text.splitlines() if "server.modules" in line),
        }
        with pytest.raises(SystemExit, match="no access log"):
            unlogged(variant.server, left)


def test_cpu_is_read_behind_a_name_that_holds_anything() -> None:
    stat = f"7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 0 0 {250 * os.sysconf('SC_CLK_TCK')} 0 9 9 20 0 1 0 555"
    assert cpu_seconds(stat) == 250.0


def test_memory_of_forks_counts_what_they_share_once() -> None:
    rollup = "00-ff ---p 00000000 00:00 0 [rollup]\nRss: {} kB\nPss: 1 kB\nPss_Anon: {} kB\nAnonymous: {} kB\n"
    master, worker = rollup.format(5000, 600, 1000), rollup.format(6500, 900, 1500)
    assert memory([master, worker]) == Memory(1500 * 1024, 5000 * 1024)


def test_the_ratios_are_of_the_same_round() -> None:
    mine = [Turn(20_000, 1.0, 0.2), Turn(10_000, 1.0, 0.2), Turn(30_000, 1.0, 0.6)]
    other = [Turn(40_000, 1.0, 0.2), Turn(10_000, 1.0, 0.1), Turn(30_000, 1.0, 0.2)]
    found = line("nginx, http, mix", mine, other)
    assert found.split()[3:] == ["20,000", "30,000", "1.00", "0.50-1.00", "0.200", "0.067", "2.00", "2.00-3.00"]
    assert len(found) == len(HEAD)


def test_what_is_further_from_bare_than_the_bound_is_named() -> None:
    def found(redirects: int, size: int) -> Found:
        turns = {"mix": {"ours": [Turn(redirects, 9.0, 0.1)], "bare": [Turn(1000, 1.0, 0.1)]}}
        return Found(turns, {"ours": Memory(size, 50), "bare": Memory(50, 50)})

    variant = Variant("nginx")
    assert list(missed(variant, found(910, 60))) == []
    assert list(missed(variant, found(890, 61))) == [
        "nginx, http: 0.89 times the redirects in a CPU second",
        "nginx, http: 1.11 times the memory",
    ]
    assert memory_line(Memory(10**6, 10**6), Memory(0, 10**6)).endswith("bare 1.00 MB (0.00 its own), ratio 2.00")


def test_a_tool_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(SystemExit, match="wrk not found: install the Debian package wrk"):
        tools(["nginx"])
    monkeypatch.setattr(shutil, "which", lambda name, **_: "/usr/bin/wrk" if name == "wrk" else None)
    for server in ("nginx", "lighttpd"):
        with pytest.raises(SystemExit, match=f"{server} not found: install the Debian package"):
            tools([server])
