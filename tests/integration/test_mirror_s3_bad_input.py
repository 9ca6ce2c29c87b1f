"""What is wrong with a bucket, with who asks, or with the way to it: what the installed command says, that what is
published stays whole, and that the next run mends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.buckets import MARK, SERVERS, BucketMirror, Place, dangling, site
from tests.rig.dists import sdist, wheel
from tests.rig.messages import Answer, Request
from tests.rig.names import free_port
from tests.rig.pips import Result
from tests.rig.s3 import IMPOSTOR, READER, STRANGER
from tests.rig.s3_bucket import Object
from tests.rig.s3_faults import DENY, NO_SPACE, SKEWED, Lose, Refuse
from tests.rig.s3_proxy import Call, Exchange, Fault
from tests.rig.scene import subnet
from tests.rig.server import Server

EVIL = "\x1b[2J\x1b]0;owned\x07"  # clears a terminal and names its window
OLD, CHANGED, NEW, GONE = wheel("demo-old"), wheel("demo-old", "2.0"), wheel("demo-new"), wheel("demo-gone")


@pytest.fixture(autouse=True)
def _with_the_newest_pip_alone(newest_pip: object) -> None:
    """Other pips would see the same."""


@pytest.fixture(params=SERVERS)
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Place]:
    """Nothing is published, and the bucket is empty."""
    with Place.make(request.param, tmp_path_factory, tmp_path / "mirror") as made:
        made.mirror.into(made.bucket, made.proxy.endpoint, retry_seconds=1).add(OLD)
        yield made


@pytest.fixture
def place(bare: Place) -> Place:
    """Two projects are published; the next publish has something to add, to change and to remove."""
    bare.mirror.add(GONE)
    bare.mirror.run()
    bare.mirror.add(CHANGED, NEW)
    (bare.mirror.packages / GONE.filename).unlink()
    done = bare.mirror("sync")
    assert done.code == 0, done.output
    bare.proxy.forget()
    return bare


# ministack lets in anybody
checking = pytest.mark.parametrize("bare", ["seaweedfs"], indirect=True)


def is_told(done: Result, place: Place, *words: str, code: int = 1) -> None:
    """It failed, and says this in one line that may be shown on a terminal, and of which store it speaks."""
    assert (done.code, done.stdout) == (code, ""), done.output
    said = done.stderr
    for word in (f"s3://{place.bucket.name}", *words):
        assert word in said, said
    assert said.count("\n") == 1 and said.removesuffix("\n").isprintable(), said
    assert len(said) < 800 and "Debug source" not in said, said


def is_whole(place: Place) -> None:
    """What readers have had they have still."""
    objects = site(place.bucket)
    assert dangling(objects) == []
    assert f"packages/{OLD.filename}" in objects and "simple/demo-old/index.json" in objects


def is_mended(place: Place) -> None:
    """The next run publishes what was due, and that is all."""
    place.proxy.heal()
    place.mirror.publish()
    is_whole(place)
    objects = site(place.bucket)
    assert {f"packages/{dist.filename}" for dist in (OLD, CHANGED, NEW)} < objects.keys()
    listed = {one["name"] for one in json.loads(objects["simple/index.json"].body)["projects"]}
    assert listed == {"demo-old", "demo-new"}
    assert not [key for key in objects if key.startswith("simple/demo-gone/")]
    assert place.mirror.publish() == "published: nothing new\n"


def writes(call: Call) -> bool:
    return call.writes


def deletes(call: Call) -> bool:
    return call.method == "POST" and call.query == "delete"


def of_the_site(call: Call) -> bool:
    return call.writes and call.key != MARK


# --- who asks ---


@checking
@pytest.mark.parametrize(
    ("who", "word"),
    [
        (STRANGER, "does not know these credentials; look at what the provider's chain finds first"),
        (IMPOSTOR, "does not take these credentials: the secret is wrong"),
        (READER, "does not permit it; give the publisher that right (docs/mirror.md)"),
    ],
    ids=["unknown", "wrong-secret", "read-only"],
)
def test_who_may_not(place: Place, who: Mapping[str, str], word: str) -> None:
    before = place.bucket.objects()
    done = place.mirror.as_user(who)("publish")
    is_told(done, place, word)
    assert place.bucket.objects() == before
    is_mended(place)


def test_no_credentials_at_all(place: Place) -> None:
    """Where the last link of the chain, the machine's own role, answers nobody either."""
    before = place.bucket.objects()
    done = place.mirror.as_user({})("publish")
    is_told(done, place, "finds no credentials: neither in the environment nor by a role of this machine")
    assert done.seconds < 30
    assert place.proxy.calls == ()
    assert place.bucket.objects() == before
    is_mended(place)


@checking
def test_no_secret_is_ever_said(place: Place) -> None:
    for who in (STRANGER, IMPOSTOR, READER):
        done = place.mirror.as_user(who)("publish")
        assert who["AWS_SECRET_ACCESS_KEY"] not in done.output and "Signature=" not in done.output


@dataclass(frozen=True, slots=True)
class DenyInside:
    """What SeaweedFS says to who may not delete: 200, and an error for each key inside (DeleteObjects' own way)."""

    def apply(self, exchange: Exchange) -> bool:
        keys = re.findall("<Key>.*?</Key>", exchange.swallow().decode())
        assert keys
        errors = (f"<Error>{key}<Code>AccessDenied</Code><Message>Access Denied</Message></Error>" for key in keys)
        text = f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(errors)}</DeleteResult>'
        return exchange.reply(Answer(200, text.encode(), (("Content-Type", "application/xml"),)))


@pytest.mark.parametrize("fault", [DENY, DenyInside()], ids=["403", "inside-a-200"])
def test_who_may_put_and_not_delete(place: Place, fault: Fault) -> None:
    """All that is new is published; what should go is still there, and nothing leads to it."""
    place.proxy.fault(fault, on=deletes, times=None)
    done = place.mirror("publish")
    is_told(done, place, "does not permit it; give the publisher that right (docs/mirror.md)")
    is_whole(place)
    objects = site(place.bucket)
    assert f"packages/{NEW.filename}" in objects and "simple/demo-gone/index.json" in objects
    assert b"demo-gone" not in objects["simple/index.json"].body
    is_mended(place)


def test_who_may_not_list(bare: Place) -> None:
    """The first publish looks whether the bucket is empty."""
    bare.proxy.fault(DENY, on=lambda call: call.query.startswith("list-type"), times=None)
    done = bare.mirror("run")
    assert done.code == 1 and "does not permit it" in done.stderr, done.output
    assert bare.bucket.listed() == {}
    bare.proxy.heal()
    bare.mirror.publish()
    is_whole(bare)


# --- which bucket ---


def test_no_such_bucket(place: Place) -> None:
    name = f"{place.bucket.name}-not-there"
    place.mirror.into(place.server.bucket(name), place.proxy.endpoint)
    done = place.mirror("publish")
    assert done.code == 1
    assert f"s3://{name}" in done.stderr and "there is no such bucket; make it first, or mend the URL" in done.stderr
    place.mirror.into(place.bucket, place.proxy.endpoint)
    is_mended(place)


def test_no_such_bucket_for_the_first_publish(bare: Place) -> None:
    name = f"{bare.bucket.name}-not-there"
    bare.mirror.into(bare.server.bucket(name), bare.proxy.endpoint)
    done = bare.mirror("run")
    assert done.code == 1
    assert f"s3://{name}" in done.stderr and "there is no such bucket; make it first, or mend the URL" in done.stderr
    bare.server.make_bucket(name)
    bare.mirror.publish()
    assert not dangling(site(bare.server.bucket(name)))


def test_a_bucket_that_is_not_empty_and_not_ours(bare: Place) -> None:
    bare.bucket.put("photos/cat.jpeg", b"x")
    done = bare.mirror("run")
    assert done.code == 1
    assert f"s3://{bare.bucket.name}: is not empty and not ours: it holds photos/cat.jpeg" in done.stderr
    assert "Name an empty one" in done.stderr
    assert bare.bucket.listed() == {"photos/cat.jpeg": 1}
    assert not [call for call in bare.proxy.calls if call.writes]
    bare.bucket.delete("photos/cat.jpeg")
    bare.mirror.publish()
    is_whole(bare)


def test_a_bucket_of_another_catalog(place: Place, tmp_path: Path) -> None:
    other = BucketMirror.make(place.forking, tmp_path / "other", place.bucket, place.proxy.endpoint)
    other.add(wheel("demo-other"))
    before = place.bucket.objects()
    done = other("run")
    assert done.code == 1
    assert f"s3://{place.bucket.name}: belongs to another catalog (" in done.stderr
    assert "name another store, or use that catalog" in done.stderr
    assert place.bucket.objects() == before
    assert not [call for call in place.proxy.calls if call.writes]
    is_mended(place)


def test_a_mark_that_is_nobodys(place: Place) -> None:
    mark = place.bucket.get(MARK)
    place.bucket.put(MARK, Object(f"{EVIL} hello".encode(), "text/plain"))
    before = place.bucket.objects()
    done = place.mirror("publish")
    is_told(done, place, f"holds a {MARK} that is not ours (it begins with ", "hello")
    assert place.bucket.objects() == before
    place.bucket.put(MARK, mark)
    is_mended(place)


def test_a_bucket_that_was_emptied(place: Place) -> None:
    """Is it the right one at all? It asks, and fills it when told so."""
    place.bucket.clear()
    done = place.mirror("publish")
    is_told(done, place, "its mark is missing", "`cdn-fallback mirror publish --anew` fills it again")
    assert place.bucket.listed() == {}
    place.mirror.publish("--anew")
    is_mended(place)


# --- time ---


@pytest.mark.parametrize(("skew", "word"), [(-3600, "s ahead of the store's"), (3600, "s behind the store's")])
def test_a_clock_an_hour_off(place: Place, skew: float, word: str) -> None:
    place.proxy.skew = skew
    before = site(place.bucket)
    done = place.mirror("publish")
    is_told(done, place, "this machine's clock is", word, "set it (NTP) and run again, nothing was done")
    assert site(place.bucket) == before
    assert {call.key for call in place.proxy.calls if call.writes} == {MARK}, "the lease, no more"
    is_mended(place)


def test_a_clock_that_the_store_refuses(place: Place) -> None:
    place.proxy.fault(SKEWED, times=None)
    done = place.mirror("publish")
    is_told(done, place, "refuses this machine's clock; set it right (NTP), and run again")
    is_whole(place)
    is_mended(place)


# --- no space ---


@pytest.mark.parametrize("where", [writes, of_the_site])
def test_no_space_left(place: Place, where: Callable[[Call], bool]) -> None:
    place.proxy.fault(NO_SPACE, on=where, times=None)
    done = place.mirror("publish")
    is_told(done, place, "no space left; make some and run again. What was published before is whole")
    is_whole(place)
    is_mended(place)


def test_no_space_left_after_some_objects(place: Place) -> None:
    place.proxy.fault(NO_SPACE, on=lambda call: call.writes and call.number > 9, times=None)
    done = place.mirror("publish")
    is_told(done, place, "no space left")
    assert f"packages/{NEW.filename}" in site(place.bucket), "it had begun"
    is_whole(place)
    is_mended(place)


def test_space_that_was_made_in_time(place: Place) -> None:
    place.proxy.fault(NO_SPACE, on=of_the_site, times=5)
    place.mirror.into(place.bucket, place.proxy.endpoint, retry_seconds=20).publish()
    assert len([call for call in place.proxy.calls if call.status == 507]) == 5
    is_mended(place)


# --- what is not what was put ---


PUT_BY_THEN = [
    f"packages/{NEW.filename}", f"packages/{NEW.filename}.metadata", "simple/demo-new/index.json",
    "simple/demo-new/index.html.gz", "simple/index.html",
]  # fmt: skip


def mended_by_repair(place: Place, key: str, kind: str) -> None:
    """`verify` tells of this object, `--repair` puts it again, and then all is as it should be."""
    place.proxy.heal()
    whole = site(place.bucket)
    done = place.mirror("verify")
    assert done.code == 3, done.output
    assert f"{kind}: {key} " in done.stderr
    assert site(place.bucket) == whole, "it only looked"

    done = place.mirror("verify", "--repair")

    assert done.code == 0, done.output
    assert "put again" in done.stdout
    done = place.mirror("verify")
    assert (done.code, done.stderr) == (0, ""), done.output
    assert "all as they should be" in done.stdout
    is_mended(place)


@pytest.mark.parametrize("key", PUT_BY_THEN)
def test_a_store_that_says_yes_and_loses_the_object(place: Place, key: str) -> None:
    place.proxy.fault(Lose(), on=lambda call: call.method == "PUT" and call.key == key)
    place.mirror.publish()
    if key != "simple/index.html":  # the old one is there yet
        assert key not in place.bucket.listed()
    mended_by_repair(place, key, "bytes" if key == "simple/index.html" else "missing")


@pytest.mark.parametrize("key", PUT_BY_THEN)
def test_an_object_whose_bytes_were_changed_by_hand(place: Place, key: str) -> None:
    place.mirror.publish()
    found = place.bucket.get(key)
    place.bucket.put(key, found._replace(body=found.body[:-1] + b"?"))
    mended_by_repair(place, key, "bytes")


@pytest.mark.parametrize(
    "changed",
    [
        lambda one: one._replace(content_type="text/plain"),
        lambda one: one._replace(cache_control="no-store"),
        lambda one: one._replace(content_encoding="gzip"),
    ],
    ids=["content-type", "cache-control", "content-encoding"],
)
def test_an_object_whose_headers_were_changed_by_hand(place: Place, changed: Callable[[Object], Object]) -> None:
    key = "simple/demo-new/index.html"
    place.mirror.publish()
    place.bucket.put(key, changed(place.bucket.get(key)))
    mended_by_repair(place, key, "headers")


def test_an_object_that_was_removed_by_hand(place: Place) -> None:
    place.mirror.publish()
    key = f"packages/{NEW.filename}"
    place.bucket.delete(key)
    done = place.mirror("verify", "--quick")
    assert done.code == 3 and f"missing: {key} " in done.stderr, done.output
    mended_by_repair(place, key, "missing")


def test_a_store_whose_sdists_have_another_type_is_as_it_should_be(place: Place) -> None:
    """SeaweedFS forgets that it was told application/octet-stream, and guesses."""
    place.mirror.add(sdist("demo-s"))
    place.mirror.run()
    done = place.mirror("verify")
    assert (done.code, done.stderr) == (0, ""), done.output


# --- where ---


def elsewhere(place: Place, endpoint: str) -> Result:
    return place.mirror.into(place.bucket, endpoint, retry_seconds=1)("publish")


def back(place: Place) -> None:
    place.mirror.into(place.bucket, place.proxy.endpoint)
    is_mended(place)


def test_an_endpoint_at_which_nobody_listens(place: Place) -> None:
    address = f"{subnet()}.1"
    done = elsewhere(place, f"http://{address}:{free_port([address])}")
    is_told(done, place, "cannot be reached", address, "what was published is whole, the next run goes on")
    back(place)


def test_an_endpoint_whose_host_does_not_exist(place: Place) -> None:
    done = elsewhere(place, "http://no-such-host.invalid")
    is_told(done, place, "cannot be reached", "no-such-host.invalid")
    back(place)


class Website:
    """Answers everything with the same page."""

    def __init__(self, status: int, body: bytes = b"<!DOCTYPE html><title>Hello</title>") -> None:
        self.answered = Answer(status, body, (("Content-Type", "text/html"),))

    def answer(self, request: Request) -> Answer:
        return self.answered


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (200, f"holds a {MARK} that is not ours (it begins with '<!DOCTYPE html>"),
        (403, "does not permit it (The operation lacked the necessary privileges"),
        (404, "its mark is missing"),
        (405, "[store] endpoint"),
    ],
)
def test_an_endpoint_that_is_no_object_storage(place: Place, status: int, word: str) -> None:
    with Server(Website(status), f"{subnet()}.1", 0) as server:
        done = elsewhere(place, server.url.rstrip("/"))
        is_told(done, place, word)
        assert not [request for request in server.requests if request.method in ("PUT", "POST")]
    back(place)


@pytest.mark.parametrize(
    ("status", "word"), [(200, "is not ours"), (403, "does not permit it"), (404, "[store] endpoint")]
)
def test_an_endpoint_that_is_no_object_storage_for_the_first_publish(bare: Place, status: int, word: str) -> None:
    with Server(Website(status), f"{subnet()}.1", 0) as server:
        bare.mirror.into(bare.bucket, server.url.rstrip("/"), retry_seconds=1)
        done = bare.mirror("run")
    assert done.code == 1 and "Traceback" not in done.stderr, done.output
    assert f"s3://{bare.bucket.name}" in done.stderr and word in done.stderr
    bare.mirror.into(bare.bucket, bare.proxy.endpoint).publish()
    is_whole(bare)


def test_a_bucket_in_another_region(place: Place) -> None:
    moved = Refuse(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed elsewhere.")
    place.proxy.fault(moved, times=None)
    done = place.mirror("publish")
    is_told(done, place, "region")
    is_mended(place)


@pytest.mark.parametrize("status", [400, 403, 409, 500])
def test_control_characters_in_what_the_store_says(place: Place, status: int) -> None:
    place.proxy.fault(Refuse(status, "Odd", f"{EVIL}\nsecond line\r\u2028"), on=of_the_site, times=None)
    done = place.mirror("publish")
    is_told(done, place)
    is_whole(place)
    is_mended(place)
