"""What a publish costs in requests."""

from __future__ import annotations

import pytest

from cdn_fallback.mirror.cost import LEASE, PER_THOUSAND, Cost, cost
from cdn_fallback.mirror.report import Report


def test_puts_are_counted_with_their_parts_and_the_lease() -> None:
    found = cost(Report(puts=1000, parts=97), "s3://bucket")
    assert found.requests == 1100 and found.dollars == pytest.approx(1.1 * PER_THOUSAND["s3"])


@pytest.mark.parametrize(("deletes", "requests"), [(1, 1), (1000, 1), (1001, 2)])
def test_deletes_are_requests_of_a_thousand_keys_that_cost_nothing(deletes: int, requests: int) -> None:
    found = cost(Report(deletes=deletes), "s3://bucket/prefix")
    assert found == Cost(LEASE + requests, LEASE * PER_THOUSAND["s3"] / 1000)


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket", "az://account/container", "file:site", "memory://x"])
def test_nothing_to_do_costs_nothing(url: str) -> None:
    assert cost(Report(), url) == Cost(0, 0.0)
    assert cost(Report(projects=3, doomed=4), url, price=9.0) == Cost(0, 0.0)


def test_a_folder_and_memory_cost_nothing() -> None:
    report = Report(puts=1000, deletes=1000, parts=10)
    assert cost(report, "file:///srv/site") == Cost(0, 0.0)
    assert cost(report, "memory://x").dollars == 0


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket", "az://account/container"])
def test_every_provider_has_a_price_and_the_configured_one_is_better(url: str) -> None:
    report = Report(puts=997)
    assert cost(report, url).dollars == pytest.approx(PER_THOUSAND[url.partition(":")[0]])
    assert cost(report, url).dollars > 0
    assert cost(report, url, price=0.25).dollars == pytest.approx(0.25)
    assert cost(report, url, price=0.0) == Cost(1000, 0.0), "free is a price"
