"""Publishing into real buckets: what lies there and how it is labelled, what it costs in requests, in which order it
comes and goes, and a store that is slow or whose answers get lost.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.rig.buckets import MARK, SERVERS, BucketMirror, Place, dangling, site
from tests.rig.dists import sdist, wheel
from tests.rig.mirrors import OLD, aged
from tests.rig.s3_bucket import Bucket, Object
from tests.rig.s3_faults import SLOW_DOWN, Drop, LostAnswer
from tests.rig.s3_proxy import Call, Exchange

PART = 8 << 20  # what is larger is put in parts
DAY = 86400
# As the public index has it, with a page that is asked for anew after 2 minutes.
PAGE = "public, max-age=120, s-maxage=600, stale-while-revalidate=300, stale-if-error=86400"
LIST = "public, max-age=600, s-maxage=600, stale-while-revalidate=300, stale-if-error=86400"
FOREVER = "public, max-age=31536000, immutable"
BRIEF = "public, max-age=60, s-maxage=60, stale-while-revalidate=60, stale-if-error=86400"
TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/vnd.pypi.simple.v1+json"
LABELS = (  # the first that holds for the whole key, but for the .gz of a twin
    (r"simple/index\.html", HTML, LIST),
    (r"simple/index\.json", JSON, LIST),
    (r"simple/[^/]+/index\.html", HTML, PAGE),
    (r"simple/[^/]+/index\.json", JSON, PAGE),
    (r"pypi/[^/]+/json", "application/json", PAGE),
    (r"packages/.*\.metadata", TEXT, FOREVER),
    (r"packages/.*", "application/octet-stream", FOREVER),
    (r"docs/.*\.html", HTML, PAGE),
    (r"docs/.*\.css", "text/css; charset=utf-8", PAGE),
    (r"docs/.*", "application/octet-stream", PAGE),
    (r"robots\.txt", TEXT, LIST),
    (r"last-modified", TEXT, BRIEF),
)
# SeaweedFS forgets that it was told application/octet-stream, and guesses by the key's ending.
GUESSED = {".gz": "application/gzip"}
TAKEN = [f"GET {MARK} 200", f"GET {MARK} 200", f"PUT {MARK} 200", f"GET {MARK} 200"]  # whose is it; the lease; the time
GIVEN_BACK = [f"GET {MARK} 200", f"PUT {MARK} 200"]


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: object) -> None:
    """Other pips would see the same."""


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Place]:
    with Place.make(request.param, tmp_path_factory, tmp_path / "mirror") as made:
        yield made


def docs(mirror: BucketMirror, **files: str) -> None:
    """A tree beside the index, with these files."""
    mirror.config.write_text(f'{mirror.config.read_text()}\n[[tree]]\npath = "docs"\nprefix = "docs"\n')
    for name, text in files.items():
        path = mirror.folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        aged(path, OLD)


def backdated(mirror: BucketMirror, seconds: float) -> None:
    """As if what was removed had been so much earlier."""
    with closing(sqlite3.connect(mirror.catalog)) as catalog:
        catalog.execute("UPDATE ledger SET doomed = doomed - ? WHERE doomed > 0", (int(seconds),))
        catalog.commit()


def a_second_later() -> None:
    """What /last-modified says has changed by then."""
    time.sleep(1)


# --- what is there ---


def test_every_object_has_the_headers_that_the_site_says(place: Place) -> None:
    mirror = place.mirror
    mirror.add(wheel("Demo_A"), wheel("demo-b", "1.0+local.1"), sdist("demo-s"))
    mirror.yank(wheel("demo-b", "1.0+local.1"), "broken")
    docs(mirror, **{"index.html": "<p>", "style.css": "p {}", "objects.inv": "x"})

    said = mirror.run()

    objects = site(place.bucket)
    assert f"published: {len(objects)} objects" in said
    assert {"simple/index.html", "docs/objects.inv", "packages/demo_b-1.0+local.1-py3-none-any.whl"} < objects.keys()
    for key, found in objects.items():
        is_twin = key.endswith(".gz") and not key.startswith("packages/")
        name = key.removesuffix(".gz") if is_twin else key
        kind, cache = next((kind, cache) for rule, kind, cache in LABELS if re.fullmatch(rule, name))
        sent = [call for call in place.proxy.calls if call.key == key]
        assert [call.header("Content-Type") for call in sent] == [kind]
        if place.server.checks_credentials and kind == "application/octet-stream":
            kind = GUESSED.get(Path(key).suffix, kind)
        digest = hashlib.sha256(found.body).hexdigest()
        coding = "gzip" if is_twin else ""
        assert (key, *found[1:5]) == (key, kind, cache, coding, {"sha256": digest})
        if is_twin:
            assert gzip.decompress(found.body) == objects[name].body
    mark = place.bucket.get(MARK)
    assert (mark.content_type, mark.cache_control, mark.metadata) == ("application/json", "no-store", {})
    assert json.loads(mark.body).keys() == {"catalog"}, "nobody holds the lease"
    assert not dangling(objects)


def test_both_servers_hold_the_same(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """One catalog fills one after the other."""
    with (
        Place.make("ministack", tmp_path_factory, tmp_path / "mirror") as first,
        Place.make("seaweedfs", tmp_path_factory, tmp_path / "unused") as second,
    ):
        first.mirror.add(wheel("demo-a"))
        first.mirror.run()
        done = first.mirror.into(second.bucket, second.proxy.endpoint)("publish", "--anew")
        assert done.code == 0, done.output
        assert site(first.bucket) == site(second.bucket)


def test_keys_with_every_character_that_they_may_have(place: Place) -> None:
    names = ["a+b.txt", "a!b~c.txt", "a=b@c,d.txt", "_under/UPPER.Html", "x/y/z/deep.css"]
    docs(place.mirror, **{name: name for name in names})
    place.mirror.add(wheel("demo-a", "1.0+ubuntu.1"), wheel("demo-a", "1!2.0"))

    place.mirror.run()

    objects = site(place.bucket)
    assert {name: objects[f"docs/{name}"].body for name in names} == {name: name.encode() for name in names}
    for dist in (wheel("demo-a", "1.0+ubuntu.1"), wheel("demo-a", "1!2.0")):
        assert objects[f"packages/{dist.filename}"].body == dist.content
        assert objects[f"packages/{dist.filename}.metadata"].body == dist.metadata
    assert not dangling(objects)
    assert place.mirror.publish() == "published: nothing new\n"


def test_a_large_file_goes_up_in_parts_and_comes_back_right(place: Place) -> None:
    large, small = wheel("large", padding=2 * PART + 1000), wheel("small", padding=PART - 2000)
    assert len(small.content) <= PART
    place.mirror.add(large, small)

    place.mirror.run()

    parts = [call for call in place.proxy.calls if "uploadId=" in call.query and call.method == "PUT"]
    assert len(parts) == 3
    assert {call.key for call in place.proxy.calls if "upload" in call.query} == {f"packages/{large.filename}"}
    for dist in (large, small):
        found = place.bucket.get(f"packages/{dist.filename}")
        assert found.body == dist.content
        assert (found.content_type, found.cache_control) == ("application/octet-stream", FOREVER)
        assert found.metadata == {"sha256": dist.sha256}
    assert place.bucket.uploads() == []
    place.proxy.forget()
    assert place.mirror.run().endswith("published: nothing new\n")
    assert place.asked == []


def test_a_site_below_a_prefix_leaves_everything_else_alone(place: Place, tmp_path: Path) -> None:
    """Two mirrors share a bucket; neither sees the other, nor the bucket's own site."""
    place.bucket.put("simple/index.html", Object(b"somebody's", "text/html"))
    place.bucket.put("some/prefixes", b"somebody's")
    first = place.mirror.into(place.bucket, place.proxy.endpoint, "some/prefix")
    second = BucketMirror.make(place.forking, tmp_path / "second", place.bucket, place.proxy.endpoint, "some/other")
    first.add(wheel("demo-a"))
    second.add(wheel("demo-b"))

    first.run()
    second.run()

    listed = place.bucket.listed()
    assert {key for key in listed if not key.startswith(("some/prefix/", "some/other/"))} == {
        "simple/index.html",
        "some/prefixes",
    }
    for mirror, prefix, project in ((first, "some/prefix/", "demo-a"), (second, "some/other/", "demo-b")):
        objects = site(place.bucket, prefix)
        assert not dangling(objects)
        assert {key for key in objects if re.match(r"simple/[^/]+/", key)} == {
            f"simple/{project}/index.{form}" for form in ("html", "html.gz", "json", "json.gz")
        }
        assert mirror.publish() == "published: nothing new\n"

    (first.packages / wheel("demo-a").filename).unlink()
    first.add(wheel("demo-c"))
    first.run()
    assert "simple/demo-a/index.html" not in site(place.bucket, "some/prefix/")
    assert place.bucket.get("simple/index.html").body == b"somebody's"
    assert site(place.bucket, "some/other/") == objects


# --- what it costs ---


def test_a_run_with_nothing_new_asks_the_store_nothing(place: Place) -> None:
    place.mirror.add(wheel("demo-a"), wheel("Demo_B"))
    docs(place.mirror, **{"index.html": "<p>"})
    place.mirror.run()
    place.proxy.forget()

    assert place.mirror.run().endswith("published: nothing new\n")
    assert place.mirror.publish() == "published: nothing new\n"
    assert place.mirror("plan").code == 0

    assert place.asked == []


def test_a_changed_project_costs_its_own_pages_and_the_lists(place: Place) -> None:
    mirror = place.mirror
    mirror.add(*(wheel(f"demo-{number}") for number in range(20)))
    mirror.run()
    a_second_later()
    new = wheel("demo-7", "2.0")
    mirror.add(new)
    place.proxy.forget()

    mirror.run()

    pages = [f"simple/demo-7/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")]
    pages += ["pypi/demo-7/json", "pypi/demo-7/json.gz"]
    lists = [f"simple/index.{form}{twin}" for form in ("html", "json") for twin in ("", ".gz")]
    keys = [f"packages/{new.filename}", f"packages/{new.filename}.metadata", *pages, *lists, "last-modified"]
    assert place.asked == [*TAKEN, *(f"PUT {key} 200" for key in keys), *GIVEN_BACK]


def test_a_plan_tells_what_the_publish_then_puts_and_deletes(place: Place) -> None:
    mirror = place.mirror
    mirror.add(wheel("demo-a"), wheel("demo-b"), wheel("demo-gone"))
    mirror.run()
    a_second_later()
    mirror.add(wheel("demo-a", "2.0"), wheel("large", padding=PART))
    (mirror.packages / wheel("demo-gone").filename).unlink()
    assert mirror("sync").code == 0
    place.proxy.forget()
    plan = json.loads(mirror("publish", "--dry-run", "--json").stdout)["plan"]
    assert not [call for call in place.proxy.calls if call.writes]
    before = place.bucket.listed()
    place.proxy.forget()

    mirror.publish()

    writes = [call for call in place.proxy.calls if call.writes]
    puts = {call.key for call in writes if call.method == "PUT"} - {MARK}
    assert plan["puts"] == len(puts)
    assert plan["deletes"] == len(before.keys() - place.bucket.listed().keys()) == 6
    assert plan["requests"] >= len(writes)


# --- the order ---


class Look:
    """A fault that does nothing but look at the bucket before the request goes on."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.seen: list[dict[str, Object]] = []

    def apply(self, exchange: Exchange) -> bool:
        self.seen.append(site(self.bucket))
        return exchange.healthy()


def test_what_is_new_comes_in_the_safe_order(place: Place) -> None:
    """Files, their metadata, pages, lists: each when all is there to which it leads."""
    mirror = place.mirror
    mirror.add(*(wheel(f"demo-{number}", padding=1000) for number in range(12)))
    mirror.run()
    mirror.add(*(wheel(f"demo-{number}", "2.0") for number in range(8, 20)))
    a_second_later()
    place.proxy.forget()

    mirror.run()

    puts = [call.removeprefix("PUT ").removesuffix(" 200") for call in place.asked[len(TAKEN) : -len(GIVEN_BACK)]]
    ranks = [_rank(key) for key in puts]
    assert ranks == sorted(ranks), puts
    assert set(ranks) == {1, 2, 3, 4}
    at = {key: number for number, key in enumerate(puts)}
    for key in puts:
        if key.endswith(".metadata"):
            assert at[key.removesuffix(".metadata")] < at[key]


def _rank(key: str) -> int:
    for rank, rule in ((1, "packages/.*"), (3, r"simple/index\..*"), (2, "(simple|pypi)/.*"), (4, "last-modified")):
        if re.fullmatch(rule, key):
            return rank
    raise AssertionError(key)


def test_what_is_removed_goes_in_the_safe_order_and_files_only_when_no_cache_knows_them(place: Place) -> None:
    mirror = place.mirror
    mirror.add(wheel("demo-a"), wheel("demo-a", "2.0"), wheel("Demo_Gone"))
    mirror.run()
    (mirror.packages / wheel("demo-a").filename).unlink()
    (mirror.packages / wheel("Demo_Gone").filename).unlink()
    look = Look(place.bucket)
    place.proxy.fault(look, on=lambda call: call.method == "POST", times=None)
    place.proxy.forget()

    said = mirror.run()

    calls = place.asked
    first = calls.index("POST ?delete 200")
    assert calls.index("PUT simple/index.html 200") < first and calls.index("PUT simple/index.json.gz 200") < first
    assert not [call for call in calls[first:] if call.startswith("PUT") and MARK not in call]
    assert not [one for objects in look.seen for one in dangling(objects)], "nor in between"
    assert b"gone" not in look.seen[0]["simple/index.json"].body.lower()
    gone = {
        f"packages/{dist.filename}{end}" for dist in (wheel("demo-a"), wheel("Demo_Gone")) for end in ("", ".metadata")
    }
    left = site(place.bucket)
    assert gone < left.keys() and not [key for key in left if re.match("(simple|pypi)/demo.gone/", key.lower())]
    assert "4 to be deleted when no cache has them" in said
    look.seen.clear()

    backdated(mirror, DAY)  # the longest that a cache may have it is a day and ten minutes
    assert mirror.publish() == "published: nothing new\n"
    assert place.asked == []

    backdated(mirror, 601)
    mirror.publish()
    assert place.asked == [*TAKEN, "POST ?delete 200", *GIVEN_BACK]
    assert left.keys() - site(place.bucket).keys() == gone
    assert not dangling(site(place.bucket))
    assert mirror.publish() == "published: nothing new\n"


# --- a store that is slow, and answers that get lost ---


def of_file(call: Call) -> bool:
    return call.method == "PUT" and call.key.startswith("packages/") and not call.query


def of_page(call: Call) -> bool:
    return call.method == "PUT" and call.key.startswith("simple/demo-a/")


def of_list(call: Call) -> bool:
    return call.method == "PUT" and call.key == "simple/index.json"


def of_mark(call: Call) -> bool:
    return call.method == "PUT" and call.key == MARK


def of_the_look_at_the_mark(call: Call) -> bool:
    return call.method == "GET" and call.key == MARK


def of_the_beginning_of_parts(call: Call) -> bool:
    return call.method == "POST" and call.query.startswith("uploads")


def of_a_part(call: Call) -> bool:
    return "partNumber" in call.query


def of_the_end_of_parts(call: Call) -> bool:
    return call.method == "POST" and "uploadId" in call.query


def of_a_delete(call: Call) -> bool:
    return call.method == "POST" and call.query == "delete"


ALL = (
    of_file, of_page, of_list, of_mark, of_the_look_at_the_mark, of_the_beginning_of_parts, of_a_part,
    of_the_end_of_parts, of_a_delete,
)  # fmt: skip


@pytest.mark.parametrize("fault", [LostAnswer(), Drop(), SLOW_DOWN], ids=["lost-answer", "dropped", "slow-down"])
@pytest.mark.parametrize("which", ALL)
def test_what_gets_lost_on_the_way_is_done_again(
    place: Place, which: Callable[[Call], bool], fault: LostAnswer | Drop
) -> None:
    """Twice in a row: and nobody takes the lease for another's, or anything for done that is not."""
    mirror = place.mirror
    mirror.add(wheel("demo-gone"))
    mirror.run()
    (mirror.packages / wheel("demo-gone").filename).unlink()
    mirror.add(wheel("demo-a"), wheel("large", padding=PART))
    place.proxy.forget()
    place.proxy.fault(fault, on=which, times=2)

    mirror.run()

    assert len([call for call in place.proxy.calls if call.fault]) == 2
    objects = site(place.bucket)
    assert not dangling(objects)
    for dist in (wheel("demo-a"), wheel("large", padding=PART)):
        assert objects[f"packages/{dist.filename}"].body == dist.content
    assert not [key for key in objects if key.startswith("simple/demo-gone/")]
    assert json.loads(place.bucket.get(MARK).body).keys() == {"catalog"}, "the lease was given back"
    place.proxy.forget()
    assert mirror.publish() == "published: nothing new\n"
    assert place.asked == []


@pytest.mark.parametrize("fault", [LostAnswer(), SLOW_DOWN], ids=["lost-answer", "slow-down"])
def test_the_first_lease_whose_answer_is_lost_is_ours(place: Place, fault: LostAnswer) -> None:
    """The one that is created, where no mark is there yet."""
    place.mirror.add(wheel("demo-a"))
    place.proxy.fault(fault, on=of_mark, times=1)
    place.mirror.run()
    assert not dangling(site(place.bucket)) and "simple/demo-a/index.html" in site(place.bucket)


def test_a_store_that_asks_to_slow_down_for_a_while_gets_everything_in_the_end(place: Place) -> None:
    """Every other request is refused, and a dozen at the beginning."""
    mirror = place.mirror.into(place.bucket, place.proxy.endpoint, retry_seconds=30)
    mirror.add(*(wheel(f"demo-{number}") for number in range(10)))
    place.proxy.fault(SLOW_DOWN, times=12)
    place.proxy.fault(SLOW_DOWN, on=lambda call: call.number % 2 == 1 and call.number < 200, times=None)

    mirror.run()

    refused = [call for call in place.proxy.calls if call.status == 503]
    assert len(refused) > 60
    assert not dangling(site(place.bucket)) and "simple/demo-9/index.html" in site(place.bucket)
    assert mirror.publish() == "published: nothing new\n"
