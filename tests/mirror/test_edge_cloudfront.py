"""The files for CloudFront, as texts: what they say, that AWS's own tools take them, and that no value gets out."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdn_fallback.mirror import edge as package
from cdn_fallback.mirror import grammar, site
from cdn_fallback.mirror.edge import settings as values
from cdn_fallback.mirror.edge.cloudfront import EXECUTABLE, FUNCTION_MAX, TEMPLATES, files
from cdn_fallback.mirror.edge.settings import PLACES, Edge, checked
from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.stores import MARKER
from tests.rig.node import node
from tests.rig.pips import PROJECT

# They have no types
SESSION: Any = importlib.import_module("botocore.session")
VALIDATE: Any = importlib.import_module("botocore.validate")

TEXTS = {name: Path(package.__file__).with_name(name).read_text("utf-8") for name in TEMPLATES}
ARN = "arn:aws:acm:us-east-1:111122223333:certificate/0a1b2c3d-0000-1111-2222-333344445555"
BUCKET, REGION, NAME = "example-mirror", "eu-central-1", "cdn.example.net"


def made(certificate: str | None = ARN, trees: tuple[str, ...] = ("docs", "more/docs")) -> dict[str, str]:
    return files(checked(BUCKET, REGION, NAME, certificate, trees), TEXTS)


@pytest.fixture(params=[ARN, None], ids=["certificate", "no certificate"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the files."""
    for name, text in made(request.param).items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def document(name: str, certificate: str | None = ARN) -> Any:
    return json.loads(made(certificate)[name])


def test_the_same_values_give_the_same_files() -> None:
    assert made() == made(trees=("more/docs", "docs", "docs"))


@pytest.mark.parametrize(
    ("name", "operation", "parameter"),
    [
        ("function.json", "CreateFunction", "FunctionConfig"),
        ("cache-policy.json", "CreateCachePolicy", "CachePolicyConfig"),
        ("response-headers-policy.json", "CreateResponseHeadersPolicy", "ResponseHeadersPolicyConfig"),
        ("origin-access-control.json", "CreateOriginAccessControl", "OriginAccessControlConfig"),
        ("distribution.json", "CreateDistribution", "DistributionConfig"),
    ],
)
@pytest.mark.parametrize("certificate", [ARN, None])
def test_aws_takes_the_documents(name: str, operation: str, parameter: str, certificate: str | None) -> None:
    """By its own model of the API: every name, every type, nothing left out that must be there, every choice known."""
    model = SESSION.get_session().get_service_model("cloudfront").operation_model(operation)
    shape = model.input_shape.members[parameter]
    found = document(name, certificate)
    report = VALIDATE.ParamValidator().validate(found, shape)
    assert not report.has_errors(), report.generate_report()
    known(found, shape, name)


def known(value: Any, shape: Any, place: str) -> None:
    """No name that the model does not have, and only the choices that it lists: botocore lets others pass."""
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members), place
        for name, one in value.items():
            known(one, shape.members[name], f"{place} {name}")
        if "Quantity" in value:
            assert value["Quantity"] == len(value.get("Items", ())), place
    elif shape.type_name == "list":
        for one in value:
            known(one, shape.member, place)
    elif getattr(shape, "enum", ()):
        assert value in shape.enum, (place, value)


def test_an_update_needs_no_more_than_a_creation_has() -> None:
    """What is left out of an update is an error or goes back to a default: the documents are whole."""
    model = SESSION.get_session().get_service_model("cloudfront")
    shape = model.shape_for("DistributionConfig")
    left_out = set(shape.members) - set(document("distribution.json"))
    # of other kinds of distributions, or newer than what is set here
    assert left_out <= {"ContinuousDeploymentPolicyId", "AnycastIpListId", "TenantConfig", "ConnectionMode",
                        "ViewerMtlsConfig", "ConnectionFunctionAssociation", "CacheTagConfig"}  # fmt: skip
    behaviour = set(model.shape_for("DefaultCacheBehavior").members) - set(
        document("distribution.json")["DefaultCacheBehavior"]
    )
    deprecated = {"ForwardedValues", "MinTTL", "DefaultTTL", "MaxTTL"}
    assert behaviour - deprecated <= {"RealtimeLogConfigArn", "OriginRequestPolicyId", "GrpcConfig"}


def test_what_a_copy_is_found_by_is_its_key_and_its_own_headers_rule() -> None:
    policy = document("cache-policy.json")
    found_by = policy["ParametersInCacheKeyAndForwardedToOrigin"]
    assert found_by["EnableAcceptEncodingGzip"] is found_by["EnableAcceptEncodingBrotli"] is False
    assert {found_by[f"{one}sConfig"][f"{one}Behavior"] for one in ("Header", "Cookie", "QueryString")} == {"none"}
    ages = [
        int(age)
        for text in (site.PAGE, site.LIST, site.FOREVER, site.BRIEF)
        for age in re.findall(r"max-?age=(\d+)", text)
    ]
    assert policy["MinTTL"] == 0 and policy["MaxTTL"] >= max(ages)


def test_what_was_published_in_the_last_minutes_is_found_soon() -> None:
    errors = document("distribution.json")["CustomErrorResponses"]["Items"]
    ages = {one["ErrorCode"]: one["ErrorCachingMinTTL"] for one in errors}
    assert ages[404] == ages[403] == 10 and max(ages.values()) == 10
    assert {500, 502, 503, 504} <= ages.keys()


def test_https_alone_and_every_request_passes_the_function() -> None:
    found = document("distribution.json")
    behaviour = found["DefaultCacheBehavior"]
    assert behaviour["ViewerProtocolPolicy"] == "redirect-to-https" and not behaviour["Compress"]
    assert found["CacheBehaviors"]["Quantity"] == 0
    assert {one["EventType"] for one in behaviour["FunctionAssociations"]["Items"]} == {
        "viewer-request",
        "viewer-response",
    }
    assert found["ViewerCertificate"]["MinimumProtocolVersion"] == "TLSv1.2_2021"
    assert found["Aliases"] == {"Quantity": 1, "Items": [NAME]}
    without = document("distribution.json", None)
    assert without["Aliases"] == {"Quantity": 0} and without["ViewerCertificate"] == {
        "CloudFrontDefaultCertificate": True
    }


def test_promise_no_secret_the_mark_is_not_for_readers() -> None:
    """And the policy is the one that the guide has."""
    found = document("bucket-policy.json")
    guide = PROJECT / "docs" / "mirror.md"
    policies = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)]
    (written,) = [one for one in policies if "TheCdnReads" in json.dumps(one)]
    text = json.dumps(found).replace(PLACES[-1], "arn:aws:cloudfront::111122223333:distribution/EXAMPLE")
    assert json.loads(text) == written
    deny = next(one for one in found["Statement"] if one["Effect"] == "Deny")
    assert deny["Resource"].endswith(f"/{MARKER}")


def test_every_place_is_filled_by_the_script() -> None:
    texts = made()
    for place in PLACES:
        assert [name for name in texts if place in texts[name] and name.endswith(".json")]
        assert f"s|{place}|" in texts["apply.sh"]
    assert not [name for name in texts if "{{" in texts[name] or "}}" in re.sub(r"\}\}[,;)\s]", "", texts[name])]
    assert texts.keys() >= EXECUTABLE


def test_terraform_has_the_same_values() -> None:
    text = made()["main.tf"]
    policy = document("cache-policy.json")
    for name in ("Min", "Default", "Max"):
        assert re.search(rf"{name.lower()}_ttl\s+= {policy[f'{name}TTL']}\n", text)
    for one in document("response-headers-policy.json")["RemoveHeadersConfig"]["Items"]:
        assert f'"{one["Header"]}",' in text
    for one in document("distribution.json")["CustomErrorResponses"]["Items"]:
        assert f'"{one["ErrorCode"]}"' in text
    for value in (ARN, BUCKET, NAME, "redirect-to-https", values.RUNTIME, f"{BUCKET}.s3.{REGION}.amazonaws.com"):
        assert f'"{value}"' in text


def terraform(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("terraform")
    if binary is None:
        pytest.skip("terraform is not installed")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        [binary, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_terraform_reads_it_and_would_write_it_so(written: Path) -> None:
    """`fmt` parses; a test that it can tell a broken file is in the same run."""
    got = terraform("fmt", "-check", "-diff", folder=written)
    assert (got.returncode, got.stdout) == (0, ""), got
    (written / "main.tf").write_text((written / "main.tf").read_text().replace('name = "', "name = "))
    assert terraform("fmt", "-check", folder=written).returncode != 0


def test_terraform_finds_it_valid(written: Path) -> None:
    """Needs the provider: only where a registry can be reached."""
    initialised = terraform("init", "-no-color", "-backend=false", "-input=false", folder=written)
    if initialised.returncode:
        pytest.skip(f"terraform can get no provider here: {' '.join(initialised.stderr.split())[-200:]}")
    assert terraform("validate", folder=written).returncode == 0


def test_the_functions_own_tests_pass(written: Path) -> None:
    got = subprocess.run([node(), "--test"], cwd=written, capture_output=True, text=True, timeout=120)
    assert got.returncode == 0, got.stdout[-3000:]
    assert (
        re.search(r"^# fail 0$", got.stdout, re.MULTILINE)
        and int(re.findall(r"^# pass (\d+)", got.stdout, re.M)[0]) > 100
    )


def test_the_functions_own_tests_can_fail(written: Path) -> None:
    path = written / "function.js"
    path.write_text(path.read_text().replace("'/simple'", "'/x'").replace("+ '.gz' : key", "+ '.br' : key"))
    got = subprocess.run([node(), "--test"], cwd=written, capture_output=True, text=True, timeout=120)
    assert got.returncode == 1


def test_bash_reads_the_script(written: Path) -> None:
    got = subprocess.run(["bash", "-n", "apply.sh"], cwd=written, capture_output=True, text=True)
    assert (got.returncode, got.stderr) == (0, "")
    assert "set -euo pipefail" in (written / "apply.sh").read_text()


def test_the_names_of_the_parts_are_within_limits_and_no_others() -> None:
    hosts = ["a.b", "a-b", "x.a-b", "x-a.b", *("h" * n + ".example.org" for n in range(30, 60))]
    ids = [Edge(BUCKET, REGION, host).id for host in hosts]
    assert len(set(ids)) == len(hosts)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one) for one in ids)
    assert checked(BUCKET, REGION, "CDN.Example.NET", None, ()) == checked(BUCKET, REGION, NAME, None, ())


@pytest.mark.parametrize("name", ["d111111abcdef8.cloudfront.net", f"{BUCKET}.s3.{REGION}.amazonaws.com"])
def test_a_name_of_awss_own_is_refused(name: str) -> None:
    with pytest.raises(
        NotConfigurable, match=r"^name .* is a name of AWS's; name the host that your clients are to ask$"
    ):
        checked(BUCKET, REGION, name, None, ())


NASTY = ["", " ", "\n", '"', "'", "`", "$", "${x}", "$(x)", "{{bucket}}", "\\", "</script>", "*/", "|", "&", ";", "#",
         "%", "@FUNCTION_ARN@", "\x00", "é", "\u202e", "\u2028", "a b"]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_no_trust_in_names_nothing_is_escaped(text: str) -> None:
    good: dict[str, Any] = {"bucket": BUCKET, "region": REGION, "name": NAME, "certificate": ARN, "trees": ("docs",)}
    for name, value in good.items():
        usual = "docs" if name == "trees" else value
        for bad in {text, f"{text}{usual}", f"{usual}{text}", f"{usual[:4]}{text}{usual[4:]}"} - {usual}:
            if name == "trees" and text.startswith("@"):
                continue  # a key may have it, and trees stand in JavaScript alone
            with pytest.raises(NotConfigurable) as caught:
                checked(**{**good, name: (bad,) if name == "trees" else bad})
            assert str(caught.value).isprintable()


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=12) | st.text("ab-.:/1_~!@=,+", max_size=12),
    st.sampled_from(["bucket", "region", "name", "trees"]),
)
def test_no_trust_in_names_a_value_is_refused_or_harmless(value: str, name: str) -> None:
    good: dict[str, Any] = {"bucket": BUCKET, "region": REGION, "name": NAME, "certificate": None, "trees": ()}
    try:
        edge = checked(**{**good, name: (value,) if name == "trees" else value})
    except NotConfigurable:
        return
    assert re.fullmatch(r"[A-Za-z0-9._+!~@=,/-]+" if name == "trees" else r"[A-Za-z0-9.-]+", value)
    texts = files(edge, TEXTS)
    assert len(texts["function.js"].encode()) <= FUNCTION_MAX
    for text in texts.values():
        assert text.isascii()


@pytest.mark.parametrize(
    "bucket", ["ab", "a" * 64, "A-bucket", "my_bucket", "-ab", "ab-", "xn--ab", "a.b.c", "s3://bucket", "ab--x-s3"]
)
def test_no_other_bucket(bucket: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^bucket .*(must be a bucket's name|has a dot)"):
        grammar.bucket(bucket)


@pytest.mark.parametrize(
    "region", ["eu", "eu-central", "eu-central-1a", "EU-central-1", "cn-north-1", "eu_central_1", "eu-central-0"]
)
def test_no_other_region(region: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^region .* must be that of the bucket, as eu-central-1"):
        grammar.region(region)


@pytest.mark.parametrize(
    "region", ["us-east-1", "eu-central-2", "ap-southeast-7", "me-south-1", "us-gov-west-1", "mx-central-1"]
)
def test_regions(region: str) -> None:
    assert grammar.region(region) == region


@pytest.mark.parametrize(
    "arn",
    [
        ARN.replace("us-east-1", "eu-central-1"),
        ARN.replace(":acm:", ":iam:"),
        ARN.replace("1111", "1"),
        "x",
        ARN + "\n",
    ],
)
def test_no_other_certificate(arn: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^certificate .* CloudFront takes those of us-east-1 alone$"):
        grammar.certificate(arn)
