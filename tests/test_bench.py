"""What bench.failures judges by; its runs are not repeated here."""

from __future__ import annotations

from pathlib import Path

from bench.failures import CASES, LATER, Case, Row, Run, age, outcome
from cdn_fallback.health import FAILURES, Health, default_path
from tests.rig.faults import Refuse
from tests.rig.pips import Result, clean_environment


def row(case: Case, **runs: list[Run]) -> Row:
    return Row(case, {"healthy": [Run("installed", 1.0)], **runs})


def test_a_row_tells_which_runs_took_too_long_or_failed() -> None:
    case = Case("a fault", 4.0, Refuse())
    slow, quick, failed = Run("installed", 5.1), Run("installed", 1.2), Run("failed", 1.2)
    assert row(case, first=[quick, quick, slow], again=[quick], later=[quick]).missed == []
    assert row(case, first=[quick, slow, slow], again=[quick], later=[slow]).missed == ["first", "later"]
    assert row(case, first=[quick, quick, failed], again=[quick], later=[quick]).missed == ["first"]


def test_when_all_is_dead_the_error_has_to_name_every_address() -> None:
    case = next(case for case in CASES if case.dead)
    report = "(192.0.2.1) gave up\nERROR: no usable answer for https://index.invalid/ after 1 attempt:\n"
    half = outcome(Result(1, "", f"{report}cdn (192.0.2.2) refused", 1.0), False, ["192.0.2.1", "192.0.2.2"])
    whole = outcome(Result(1, "", f"{report}cdn (192.0.2.2) refused", 1.0), False, ["192.0.2.2"])
    assert half != case.wanted == whole


def test_success_is_judged_by_the_bytes() -> None:
    assert outcome(Result(0, "", "", 1.0), False, []) == "wrong"


def test_a_memory_made_older_forgets_as_it_would_with_time(tmp_path: Path) -> None:
    path = default_path(clean_environment(tmp_path))
    short, long = "192.0.2.1:443", "192.0.2.2:443"
    health = Health(path)
    for _ in range(FAILURES):
        health.failed(short)
    health.park(long, LATER + 60)
    health.save()

    age(tmp_path, LATER)

    later = Health(path)
    later.load()
    assert list(later.demotions()) == [long]
