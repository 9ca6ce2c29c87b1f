"""`apply.sh` against an AWS on loopback (ministack): it makes all parts, and finds them again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cdn_fallback.cli import main
from tests.rig.aws import Aws
from tests.rig.s3 import Ministack

NAME, ID = "cdn.example.net", "cdn-fallback-cdn_example_net"
ARN = "arn:aws:acm:us-east-1:111122223333:certificate/0a1b2c3d-0000-1111-2222-333344445555"


class Cloud(Ministack):
    """With CloudFront."""

    def _run(self, name: str, *command: str, **environment: str) -> None:
        super()._run(name, *command, **(environment | {"SERVICES": "s3,cloudfront"}))


class Account(NamedTuple):
    """An AWS of one's own, and its command."""

    cloud: Cloud
    aws: Aws
    bucket: str


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    cloud = Cloud(tmp_path / "cloud")
    with cloud, Aws(tmp_path / "bin", cloud.endpoint, cloud.credentials) as aws:
        cloud.make_bucket("example-mirror")
        yield Account(cloud, aws, "example-mirror")


def write(folder: Path, bucket: str, *more: str) -> Path:
    arguments = [
        "edge",
        "cloudfront",
        "-o",
        str(folder),
        "--bucket",
        bucket,
        "--region",
        "eu-central-1",
        "--name",
        NAME,
    ]
    assert main([*arguments, "--force", *more]) == 0
    return folder


def apply(account: Account, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script as a person would."""
    environment = {"PATH": f"{account.aws.folder}:/usr/bin:/bin"}
    return subprocess.run(["bash", folder / "apply.sh"], env=environment, capture_output=True, text=True, timeout=120)


def test_the_script_makes_everything_and_then_keeps_it_up_to_date(account: Account, tmp_path: Path) -> None:
    folder = write(tmp_path / "edge", account.bucket)
    first = apply(account, folder)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("making the ") == 5 and "Done." in first.stdout
    made = parts(account)
    write(folder, account.bucket, "--tree", "docs", "--certificate-arn", ARN)
    second = apply(account, folder)
    assert second.returncode == 0, second.stderr
    assert "making" not in second.stdout and second.stdout.count("updating the ") == 5
    assert parts(account) == made
    config = account.aws.client("cloudfront").get_distribution_config(Id=made["distribution"])["DistributionConfig"]
    assert config["Aliases"]["Items"] == [NAME] and config["ViewerCertificate"]["ACMCertificateArn"] == ARN
    assert config["CallerReference"] == ID


def parts(account: Account) -> dict[str, str]:
    """The one of each kind: its id."""
    api = account.aws.client("cloudfront")
    lists: dict[str, list[Any]] = {
        "distribution": api.list_distributions()["DistributionList"]["Items"],
        "caching": [one["CachePolicy"] for one in api.list_cache_policies(Type="custom")["CachePolicyList"]["Items"]],
        "access": api.list_origin_access_controls()["OriginAccessControlList"]["Items"],
    }
    answers = api.list_response_headers_policies(Type="custom")["ResponseHeadersPolicyList"]["Items"]
    lists["answers"] = [one["ResponseHeadersPolicy"] for one in answers]
    assert {len(found) for found in lists.values()} == {1}
    return {kind: found[0]["Id"] for kind, found in lists.items()}


def test_the_parts_know_each_other(account: Account, tmp_path: Path) -> None:
    assert apply(account, write(tmp_path / "edge", account.bucket)).returncode == 0
    api, ids = account.aws.client("cloudfront"), parts(account)
    got = api.get_distribution(Id=ids["distribution"])["Distribution"]
    config = got["DistributionConfig"]
    behaviour = config["DefaultCacheBehavior"]
    assert behaviour["CachePolicyId"] == ids["caching"]
    assert behaviour["ResponseHeadersPolicyId"] == ids["answers"]
    assert config["Origins"]["Items"][0]["OriginAccessControlId"] == ids["access"]
    function = api.describe_function(Name=ID, Stage="LIVE")["FunctionSummary"]
    arns = {one["FunctionARN"] for one in behaviour["FunctionAssociations"]["Items"]}
    assert arns == {function["FunctionMetadata"]["FunctionARN"]}
    assert function["FunctionConfig"]["Runtime"] == "cloudfront-js-2.0"
    code = api.get_function(Name=ID, Stage="LIVE")["FunctionCode"].read()
    assert code == (tmp_path / "edge" / "function.js").read_bytes()
    policy = json.loads(account.aws.client("s3").get_bucket_policy(Bucket=account.bucket)["Policy"])
    assert policy["Statement"][0]["Condition"]["StringEquals"]["AWS:SourceArn"] == got["ARN"]
    assert "@" not in json.dumps(policy) and "@" not in json.dumps(config, default=str)


def test_a_policy_that_is_not_ours_stays(account: Account, tmp_path: Path) -> None:
    other = {"Version": "2012-10-17", "Statement": [{"Sid": "Mine", "Effect": "Deny", "Principal": "*",
             "Action": "s3:DeleteBucket", "Resource": f"arn:aws:s3:::{account.bucket}"}]}  # fmt: skip
    api = account.aws.client("s3")
    api.put_bucket_policy(Bucket=account.bucket, Policy=json.dumps(other))
    got = apply(account, write(tmp_path / "edge", account.bucket))
    assert got.returncode == 1
    assert "ButNotTheMark" in got.stdout and "was left as it is; everything else is done" in got.stderr
    assert json.loads(api.get_bucket_policy(Bucket=account.bucket)["Policy"]) == other


def test_where_aws_refuses_the_script_stops_and_says_so(account: Account, tmp_path: Path) -> None:
    folder = write(tmp_path / "edge", "no-such-bucket")
    got = apply(account, folder)
    assert got.returncode == 1 and "NoSuchBucket" in got.stderr
    (folder / "cache-policy.json").write_text('{"Name": "x"}')
    got = apply(account, folder)
    assert got.returncode == 255 and "MinTTL" in got.stderr
    account.cloud.kill()
    got = apply(account, folder)
    assert got.returncode != 0 and "Done." not in got.stdout


def test_without_the_aws_cli_the_script_says_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "edge", "example-mirror")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("dirname", "bash"):
        (bare / name).symlink_to(f"/usr/bin/{name}")
    got = subprocess.run(["/bin/bash", folder / "apply.sh"], env={"PATH": str(bare)}, capture_output=True, text=True)
    assert got.returncode == 1 and got.stderr.startswith("apply.sh: the aws CLI is not there; install it")
