"""What the demo shows; that it works is shown by `make demo` itself."""

from __future__ import annotations

from demo.__main__ import table
from demo.pips import Narrator


def told(*lines: str) -> list[str]:
    written: list[str] = []
    narrator = Narrator(written.append)
    for line in lines:
        narrator.tell(1.0, line)
    narrator.end(2.0)
    return [line.strip() for line in written]


def test_a_redirect_stands_on_one_line_with_what_came_of_it() -> None:
    redirect = "redirector2 redirects to cdn/simple/idna/ after 0.01 s"
    assert told(redirect, "cdn1 answered 503 after 0.02 s [transient]", "origin answered 200 after 0.00 s") == [
        "1.0  /simple/idna/: redirector2 redirects to cdn; cdn1 answered 503 after 0.02 s [transient]",
        "1.0  origin answered 200 after 0.00 s",
    ]


def test_a_redirect_of_which_nothing_came_is_told_at_the_end() -> None:
    redirect = "redirector2 redirects to cdn/simple/idna/ after 0.01 s"
    assert told(redirect) == ["2.0  /simple/idna/: redirector2 redirects to cdn"]


def test_a_line_ends_at_the_edge_of_the_screen() -> None:
    assert told("x" * 500)[0].endswith("xxx...")


def test_the_table_is_aligned() -> None:
    assert table([("all is well", "installed 0.9 s", "installed 1.0 s", "all: cdn1")]).splitlines() == [
        "scenario     plain pip *      with cdn-fallback  who served",
        "-----------  ---------------  -----------------  ----------",
        "all is well  installed 0.9 s  installed 1.0 s    all: cdn1",
    ]
