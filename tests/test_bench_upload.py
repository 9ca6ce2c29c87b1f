"""What bench.upload is made of, on few objects; its figures are not judged."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.upload import HEAD, Target, Targets, Turn, lines, null, stored
from bench.upload_tools import HEADERS, SHA256, SIZES, Job, Peers, Site, Start
from cdn_fallback.mirror import site as published
from cdn_fallback.mirror.stores import objects
from tests.rig.pips import clean_environment
from tests.rig.s3 import WRITER
from tests.rig.s3_bucket import Bucket, Object

COUNT = 20


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.create(tmp_path / "site", COUNT)


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[Targets]:
    with null(tmp_path / "null") as fresh:
        yield fresh


class FakeBucket(Bucket):
    """Has what it is given."""

    kept: dict[str, Object]

    def listed(self, prefix: str = "") -> dict[str, int]:
        return {key: len(found.body) for key, found in self.kept.items()}

    def get(self, key: str) -> Object:
        return self.kept[key]


def bucket(kept: dict[str, Object]) -> Bucket:
    found = FakeBucket("http://localhost", "site", {})
    object.__setattr__(found, "kept", kept)
    return found


def whole(site: Site, digest: bool = True) -> dict[str, Object]:
    kind, cache, coding = HEADERS.values()
    return {
        page.key: Object(body, kind, cache, coding, {SHA256: page.sha256} if digest else {})
        for page, body in zip(site.pages(), site.bodies(), strict=True)
    }


def put(tool: str, target: Target, site: Site, workers: int = 4) -> str:
    """Run a library's process; what it says."""
    command = Peers(Path()).command(tool, Job(target.endpoint, target.bucket, str(site.folder), workers))
    environ = clean_environment(site.folder) | WRITER | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout


def test_the_pages_are_the_same_ones_in_both_forms_and_in_every_run(site: Site, tmp_path: Path) -> None:
    pages = site.pages()
    assert len(pages) == COUNT
    for page, body in zip(pages, site.bodies(), strict=True):
        assert hashlib.sha256(body).hexdigest() == page.sha256
        assert (site.files / page.key).read_bytes() == body
        assert SIZES[0] <= page.size <= SIZES[1] + 50
    assert Site.create(tmp_path / "again", COUNT).pages() == pages


def test_the_headers_are_those_of_a_page_of_ours() -> None:
    assert list(HEADERS.values()) == [published.HTML_TYPE, published.PAGE, "gzip"]
    assert SHA256 == objects._SHA256


@pytest.mark.parametrize("tool", ["ours", "obstore"])
def test_a_tool_puts_every_page_with_one_request_and_says_when_it_began(
    tool: str, targets: Targets, site: Site
) -> None:
    target = targets()
    start = Start(*json.loads(put(tool, target, site)))
    target.check(site, True)
    assert start.cpu > 0 and start.at > 0


def test_a_page_that_did_not_come_is_missed(targets: Targets, site: Site, tmp_path: Path) -> None:
    target = targets()
    put("ours", target, Site.create(tmp_path / "fewer", COUNT - 1))
    with pytest.raises(SystemExit, match=f"{COUNT - 1} requests for {COUNT} objects"):
        target.check(site, True)


def test_what_came_in_whole_passes(site: Site) -> None:
    stored(bucket(whole(site)), site, True)
    stored(bucket(whole(site, digest=False)), site, False)


def test_a_missing_key_a_changed_byte_and_a_lost_header_are_found(site: Site) -> None:
    kept = whole(site)
    kept.popitem()
    with pytest.raises(SystemExit, match="1 keys or sizes differ"):
        stored(bucket(kept), site, True)
    with pytest.raises(SystemExit, match="other bytes"):
        stored(bucket({key: one._replace(body=bytes(len(one.body))) for key, one in whole(site).items()}), site, True)
    with pytest.raises(SystemExit, match="other headers"):
        stored(bucket({key: one._replace(cache_control="") for key, one in whole(site).items()}), site, True)
    with pytest.raises(SystemExit, match="other headers"):
        stored(bucket(whole(site, digest=False)), site, True)


def test_the_ratios_are_of_the_same_round() -> None:
    ours = [Turn(1.0, 1.0, 0.1, 10**7, 1000), Turn(2.0, 4.0, 0.1, 10**7, 1000), Turn(1.0, 1.0, 0.1, 10**7, 1000)]
    other = [Turn(3.0, 2.0, 0.2, 10**8, 1000), Turn(6.0, 8.0, 0.2, 10**8, 1000), Turn(9.0, 2.0, 0.2, 10**8, 1000)]
    first, second = lines({("ours", 32): ours, ("boto3", 32): other})
    assert first.split()[-8:] == ["32", "1.000", "1.00-2.00", "1.00", "1,000", "1.00", "0.10", "10"]
    assert second.split()[-8:] == ["32", "6.000", "3.00-9.00", "3.00", "500", "0.50", "0.20", "100"]
    assert len(HEAD) == len(first) == len(second)
