"""The client's promises (DESIGN, section 3) as pip's user meets them. The faults are in test_faults."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rig.dists import wheel
from tests.rig.faults import (
    Corrupt,
    Instead,
    LoginPage,
    NoRange,
    Redirect,
    Refuse,
    ResetMidway,
    Status,
    Truncate,
    UnknownCA,
    WrongContentRange,
)
from tests.rig.lighttpd import Lighttpd
from tests.rig.messages import Request
from tests.rig.pips import PipEnv
from tests.rig.sample import FILE, PAGE, SITE, B
from tests.rig.scene import CDN, INDEX, ORIGIN, Scene, scene
from tests.rig.server import Server
from tests.rig.site import Redirector, Site
from tests.rig.tls import Authority

INSTALL = ("install", "--target")


def test_promise_1_an_exhausted_pool_stops_pip_beside_an_index_with_the_same_name(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("", Refuse())
    strangers = Site.of(wheel("demo-b", "9.9"))
    with Server(strangers, pool.servers["origin"].address, 0) as public:
        more = ["--extra-index-url", f"{public.url}simple/", "--trusted-host", public.address, "--retries", "0"]
        result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), *more, "demo-b")

        assert result.code == 1
        assert "no usable answer" in result.stderr
        assert not (tmp_path / "t").exists()
        assert all(request.kind != "file" for request in public.requests)
        # what pip does by itself, and why this promise exists
        plain = pool.pip(pip, *INSTALL, str(tmp_path / "t"), *more, "demo-b", plain=True)
        assert "Successfully installed demo-b-9.9" in plain.stdout


def test_promise_1_an_error_never_asks_a_different_index(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    other = Site.of(wheel("demo-c", "1.0"))
    pool.fault("cdn", Status(503))
    with Server(other, pool.servers["origin"].address, 0) as second:
        more = ["--extra-index-url", f"{second.url}simple/", "--trusted-host", second.address]
        result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), *more, "demo-c", "demo-b")

        assert result.code == 0, result.output
        # pip itself asks every index once for every project; nobody asks twice
        assert sorted(r.path for r in second.requests if r.kind == "page") == ["/simple/demo-b/", "/simple/demo-c/"]


def test_promise_2_reports_and_links_show_the_canonical_url(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Status(503))
    report = tmp_path / "report.json"

    result = pool.pip(pip, "install", "--dry-run", "--ignore-installed", "--report", str(report), "demo-b")

    assert result.code == 0, result.output
    (item,) = json.loads(report.read_text())["install"]
    assert item["download_info"]["url"] == f"{pool.index}packages/{B.filename}"
    assert f"Downloading {pool.index}" in result.stdout or "Downloading demo_b" in result.stdout


def test_promise_2_a_validator_goes_only_to_the_endpoint_that_issued_it(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    for server in pool.group("cdn"):
        server.serving = replace(server.serving, cache_control="max-age=0")
    for number in (1, 2):
        result = pool.pip(pip, *INSTALL, str(tmp_path / f"t{number}"), "demo-b", home=home)
        assert result.code == 0, result.output
    conditional = [r for r in _requests(pool, "") if r.header("If-None-Match")]
    assert {request.status for request in conditional if request.kind == "page"} == {304}
    assert all("cdnfb" not in (request.header("If-None-Match") or "") for request in conditional)
    assert not [r for r in _requests(pool, "redirector") if r.header("If-None-Match") or r.header("If-Modified-Since")]

    # An old page at the CDN must not live on under the origin's 304.
    pool.heal()
    pool.fault("cdn", Refuse())
    result = pool.pip(pip, *INSTALL, str(tmp_path / "t3"), "demo-b", home=home)
    assert result.code == 0, result.output
    asked = [r for r in _requests(pool, "origin") if r.kind == "page"]
    assert [r.status for r in asked] == [200]
    assert not asked[0].header("If-None-Match") and not asked[0].header("If-Modified-Since")


def test_promise_3_real_redirectors_of_which_some_are_dead(pip: PipEnv, tmp_path: Path) -> None:
    with scene(tmp_path, SITE, redirectors=0) as pool:
        net = pool.servers["origin"].address.rpartition(".")[0]
        authority = Authority()
        addresses = [f"{net}.{41 + i}" for i in range(3)]
        hosts = Path(pool.environment["NSS_WRAPPER_HOSTS"])
        hosts.write_text(hosts.read_text() + "".join(f"{address} {INDEX}\n" for address in addresses))
        assert pool.ca is not None
        pool.ca.write_bytes(pool.ca.read_bytes() + authority.ca.cert_pem.bytes())
        folder = tmp_path / "lighttpd"
        folder.mkdir()
        # two addresses have nobody at all
        with Lighttpd(folder, addresses[1], pool.port, pool.base(CDN), tls=authority.server(INDEX)) as redirector:
            result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b")

            assert result.code == 0, result.output
            assert B.installed_in(tmp_path / "t")
            assert {logged.status for logged in redirector.requests} == {302}
            assert redirector.requests[0].path == PAGE
            assert pool.served("page") <= {"cdn1", "cdn2"} and pool.served("file") <= {"cdn1", "cdn2"}


def test_promise_3_a_redirector_that_allows_no_caching_is_asked_each_time(
    pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    for server in pool.group("redirector"):
        server.content = Redirector(pool.base(CDN), cache_control="no-store")

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert len(_requests(pool, "redirector")) == len(_requests(pool, "cdn")) == 3


def test_promise_5_what_a_stale_copy_does_not_have_yet_comes_from_the_origin(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("cdn", Instead(Site.of()))

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert pool.served("file") == {"origin"}
    assert "WARNING" not in result.stderr  # a miss is no failure


def test_promise_5_a_404_of_a_copy_is_an_error_while_the_origin_cannot_be_asked(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("cdn", Instead(Site.of()))
    pool.fault("origin", Refuse())

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b")

    assert result.code == 1
    assert "only the origin can say" in result.stderr
    assert "No matching distribution" not in result.output


def test_promise_5_a_release_that_no_copy_has_yet_comes_from_the_origin(
    pool: Scene, any_pip: PipEnv, tmp_path: Path
) -> None:
    """Their page of the project is good, and some minutes old."""
    newer = wheel("Demo_B", "2.0")
    pool.servers["origin"].content = Site.of(*SITE.dists, newer)

    result = pool.pip(any_pip, *INSTALL, str(tmp_path / "t"), "demo-a", "demo-b==2.0")

    assert result.code == 0 and newer.installed_in(tmp_path / "t"), result.output
    assert "WARNING" not in result.stderr
    asked = [request.path for request in pool.servers["origin"].requests if request.kind == "page"]
    assert asked == [PAGE], "of what the copies have, nothing"


def test_promise_5_what_nobody_has_is_asked_for_at_the_origin_once(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b==99")

    assert result.code == 1
    assert "No matching distribution found for demo-b==99" in result.output
    assert [request.path for request in pool.servers["origin"].requests] == [PAGE]


def test_promise_5_that_the_origin_could_not_be_asked_for_a_newer_release_is_said(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("origin", Refuse())

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b==2.0")

    assert result.code == 1
    assert "No matching distribution found for demo-b==2.0" in result.output
    assert f"origin {pool.base(ORIGIN)}" in result.stderr and "falling back to" in result.stderr


def test_promise_5_the_origins_404_is_final(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "no-such-project")

    assert result.code == 1
    assert "No matching distribution" in result.output
    assert pool.asked()[-1] == "origin GET /simple/no-such-project/ 404"
    assert len([line for line in pool.asked() if line.startswith("origin")]) == 1


def test_promise_6_a_download_goes_on_elsewhere_from_the_byte_where_it_broke(
    pool: Scene, pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("cdn", Truncate(0.5), on="file")

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")
    (rest,) = [r for r in _requests(pool, "origin") if r.kind == "file"]
    assert rest.header("Range") == f"bytes={len(B.content) // 2}-"
    assert rest.header("If-Range") is None, "the CDN's validator is not the origin's"
    assert rest.status == 206


@pytest.mark.parametrize("fault", [NoRange(), WrongContentRange(shift=1), WrongContentRange(shift=0, grow=1)])
def test_promise_6_a_server_without_proper_ranges_is_not_believed(
    fault: NoRange | WrongContentRange, pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    pool.fault("cdn", ResetMidway(0.5), on="file", times=1)
    pool.fault("cdn", fault, on="file")
    pool.fault("origin", NoRange(), on="file")

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t")


def test_promise_6_a_poisoned_cache_is_healed(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    pool.fault("cdn", Corrupt(0.5), on="file")
    poisoned = pool.pip(pip, *INSTALL, str(tmp_path / "t1"), "demo-b", home=home, plain=True)
    assert poisoned.code == 1  # plain pip, which now has the bad file in its cache
    again = pool.pip(pip, *INSTALL, str(tmp_path / "t2"), "demo-b", home=home, plain=True)
    assert again.code == 1 and "Using cached" in again.stdout
    pool.heal()

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t3"), "demo-b", home=home)

    assert result.code == 0, result.output
    assert B.installed_in(tmp_path / "t3")


def test_promise_6_a_stale_page_is_tried_elsewhere(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    home, new = tmp_path / "home", wheel("demo-b", "2.0")
    for server in pool.group(""):
        if server.content is SITE:
            server.content = Site.of(B, new, serial=20)
    assert pool.pip(pip, *INSTALL, str(tmp_path / "t1"), "demo-b", home=home).code == 0
    pool.fault("cdn", Instead(Site.of(B, serial=10)), on="page")

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t2"), "--no-cache-dir", "demo-b", home=home)

    assert result.code == 0, result.output
    assert new.installed_in(tmp_path / "t2")
    assert "answered with an old page (serial 10, 20 was seen before)" in result.stderr


def test_promise_8_what_was_learnt_is_remembered_by_the_next_process(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    home = tmp_path / "home"
    pool.fault("cdn", Status(503))
    for number in (1, 2):
        result = pool.pip(pip, *INSTALL, str(tmp_path / f"t{number}"), "--no-cache-dir", "demo-a", home=home)
        assert result.code == 0, result.output
        if number == 1:
            assert "answered 503" in result.stderr
            assert len(_requests(pool, "cdn")) >= 3
            for server in pool.group("cdn"):
                server.forget()
    assert result.stderr == "", "a demoted CDN is not asked first again"
    assert not _requests(pool, "cdn")


def test_promise_9_credentials_stay_with_their_endpoint(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    origin = pool.base("user:for-the-origin@origin.example.org")
    pool.configure(origin=origin)
    pool.fault("cdn", Status(503))
    home = tmp_path / "home"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine {INDEX} login user password of-the-index\n")
    netrc.chmod(0o600)

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b", home=home)

    assert result.code == 0, result.output
    assert _authorizations(pool, "redirector") == {_basic("user:of-the-index")}
    assert _authorizations(pool, "cdn") == {None}
    assert _authorizations(pool, "origin") == {_basic("user:for-the-origin")}
    assert "for-the-origin" not in result.output
    health = (home / ".cache" / "cdn-fallback" / "health.json").read_text()
    assert "cdn.example.net" in health and "for-the-origin" not in health


def test_promise_9_a_password_in_the_index_url_stays_with_the_index(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    url = f"{pool.scheme}://me:secret@{INDEX}:{pool.port}/simple/"

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--index-url", url, "demo-b")

    assert result.code == 0, result.output
    assert _authorizations(pool, "redirector") == {_basic("me:secret")}
    assert _authorizations(pool, "cdn") == {None}


def test_promise_9_a_client_certificate_is_shown_to_the_index_alone(newest_pip: PipEnv, tmp_path: Path) -> None:
    with scene(tmp_path, SITE, clients=ssl.CERT_OPTIONAL) as pool:
        assert pool.authority is not None
        certificate = pool.authority.client(tmp_path, "somebody")

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "--client-cert", str(certificate), "demo-b")

        assert result.code == 0, result.output
        assert {request.client for request in _requests(pool, "redirector")} == {"somebody"}
        assert {request.client for request in _requests(pool, "cdn")} == {""}


@pytest.mark.parametrize("who", ["redirector", "cdn"])
def test_promise_9_https_never_becomes_http(who: str, pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    with Server(SITE, pool.servers["origin"].address, 0) as plaintext:
        pool.fault(who, Redirect(plaintext.url.rstrip("/") + "{path}"))

        result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--trusted-host", plaintext.address, "demo-b")

        assert result.code == 0, result.output
        assert B.installed_in(tmp_path / "t")
        assert "redirects from https to http" in result.stderr
        assert not plaintext.requests


def test_promise_9_trust_in_one_host_says_nothing_about_the_others(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("redirector", UnknownCA())
    pool.fault("cdn", UnknownCA())

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--trusted-host", INDEX, "demo-b")

    assert result.code == 0, result.output
    assert _requests(pool, "redirector"), "the trusted host is asked, whatever its certificate"
    assert not _requests(pool, "cdn"), "the CDN is not trusted"
    assert pool.served("file") == {"origin"}

    pool.heal()
    pool.fault("redirector", UnknownCA())
    pool.fault("cdn", UnknownCA())
    both = ["--trusted-host", INDEX, "--trusted-host", CDN]
    result = pool.pip(pip, *INSTALL, str(tmp_path / "t2"), *both, "demo-b")
    assert result.code == 0, result.output
    assert pool.served("file") <= {"cdn1", "cdn2"}


def test_promise_9_a_file_without_a_hash_is_not_fetched_from_a_fallback(newest_pip: PipEnv, tmp_path: Path) -> None:
    site = Site(dists=(replace(B, hashed=False),), core_metadata=False)
    with scene(tmp_path, site) as pool:
        pool.fault("redirector", Refuse())

        result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "demo-b")

        assert result.code == 0, result.output
        assert pool.served("page") <= {"cdn1", "cdn2"}
        assert pool.served("file") == {"origin"}
        assert not [r for r in _requests(pool, "cdn") if r.kind == "file"]


def test_promise_11_switched_off_pip_is_as_it_was(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", Status(503))

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "--retries", "0", "demo-b", plain=True)

    assert result.code == 1
    assert "cdn-fallback" not in result.output
    assert not _requests(pool, "origin")


def test_promise_11_a_hook_that_is_missing_is_said_once_and_pip_goes_on(
    pool: Scene, newest_pip: PipEnv, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "pip"
    other.parent.mkdir()
    shutil.copytree(newest_pip.site_packages / "pip", other)
    session = other / "_internal" / "network" / "session.py"
    session.write_text(session.read_text().replace("add_trusted_host", "add_host_that_is_trusted"))
    for user in ("cli/index_command.py", "cli/req_command.py", "req/req_file.py"):
        path = other / "_internal" / user
        path.write_text(path.read_text().replace("add_trusted_host", "add_host_that_is_trusted"))

    result = pool.pip(newest_pip, *INSTALL, str(tmp_path / "t"), "demo-b", env={"PYTHONPATH": str(other.parent)})

    assert result.code == 0, result.output
    assert result.stderr.count("cdn-fallback doctor") == 1
    assert "add_trusted_host" in result.stderr
    assert B.installed_in(tmp_path / "t")


def test_a_login_page_instead_of_a_file_is_not_installed(pool: Scene, pip: PipEnv, tmp_path: Path) -> None:
    pool.fault("cdn", LoginPage(), on="file")

    result = pool.pip(pip, *INSTALL, str(tmp_path / "t"), "demo-b")

    assert result.code == 0, result.output
    assert "answered with an HTML page instead of a file" in result.stderr
    assert pool.served("file") == {"origin"}
    assert [r.path for r in _requests(pool, "origin")] == [FILE]


def _requests(pool: Scene, who: str) -> list[Request]:
    return [request for server in pool.group(who) for request in server.requests]


def _authorizations(pool: Scene, who: str) -> set[str | None]:
    return {request.header("Authorization") for request in _requests(pool, who)}


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()
