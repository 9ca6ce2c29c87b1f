"""What a publish costs in requests: a provider bills each put, and the paths that a CDN is to forget. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple
from urllib.parse import urlsplit

from cdn_fallback.mirror.report import Report

# US dollars for a thousand writing requests, by the scheme of the store's URL: list prices of the usual class of
# storage. What is deleted costs nothing anywhere; a folder and memory cost nothing at all.
PER_THOUSAND = {"s3": 0.005, "gs": 0.005, "az": 0.0065}
LEASE = 3  # requests: taken, looked at, given back


class Cost(NamedTuple):
    """Of one publish."""

    requests: int
    dollars: float


def cost(report: Report, store: str, price: float | None = None) -> Cost:
    """What the publish that `report` tells of costs in a store of this URL.

    :param price: US dollars for a thousand puts, where it is known better
    """
    scheme = urlsplit(store).scheme
    if price is None:
        price = PER_THOUSAND.get(scheme, 0.0)
    if scheme == "file" or not (report.puts or report.deletes):
        return Cost(0, 0.0)
    written = report.puts + report.parts + LEASE
    return Cost(written + math.ceil(report.deletes / 1000), written * price / 1000)
