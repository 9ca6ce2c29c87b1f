"""`cdn-fallback edge ...`: what is written and printed, and that nothing is half-written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import cdn_fallback
from cdn_fallback.cli import main
from cdn_fallback.mirror.edge.cloudfront import TEMPLATES
from cdn_fallback.mirror.edge.settings import DOCUMENTS

CLOUDFRONT = ("cloudfront", "--bucket", "example-mirror", "--region", "eu-central-1", "--name", "cdn.example.net")
NGINX = ("nginx", "--bucket", "http://127.0.0.1:8333/bucket", "--name", "cdn.example.net")
ARN = "arn:aws:acm:us-east-1:111122223333:certificate/0a1b2c3d"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    capsys.readouterr()
    code = main(["edge", *arguments])
    told = capsys.readouterr()
    assert (told.out + told.err).replace("\n", "").isprintable()
    return code, told.out, told.err


def test_cloudfront_writes_a_folder(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, *CLOUDFRONT, "-o", "edge", "--tree", "docs", "--certificate-arn", ARN)
    assert (code, err) == (0, "")
    assert out.startswith("wrote edge: README.md, apply.sh, bucket-policy.json") and "nothing has been done" in out
    assert {path.name for path in (folder / "edge").iterdir()} == {*TEMPLATES, *DOCUMENTS}
    assert '["docs"]' in (folder / "edge" / "function.js").read_text()
    assert ARN in (folder / "edge" / "distribution.json").read_text()
    assert [path.name for path in folder.iterdir()] == ["edge"]


def test_only_the_script_can_be_run(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = os.umask(0o027)
    try:
        run(capsys, *CLOUDFRONT, "-o", "edge")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "edge").iterdir()}
    assert modes.pop("apply.sh") == 0o750 and set(modes.values()) == {0o640}
    assert stat.S_IMODE((folder / "edge").stat().st_mode) == 0o750


def test_a_folder_that_is_there_is_not_written_over(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    run(capsys, *CLOUDFRONT, "-o", "edge")
    (folder / "edge" / "README.md").write_text("mine")
    code, out, err = run(capsys, *CLOUDFRONT, "-o", "edge")
    assert (code, out, err) == (2, "", "edge is there already; name another with -o, or --force\n")
    assert (folder / "edge" / "README.md").read_text() == "mine"
    assert run(capsys, *CLOUDFRONT, "-o", "edge", "--force")[0] == 0
    assert (folder / "edge" / "README.md").read_text() != "mine"
    assert [path.name for path in folder.iterdir()] == ["edge"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_ours_is_never_replaced(capsys: pytest.CaptureFixture[str], folder: Path, kind: str) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "precious").write_text("x")
    if kind == "file":
        (folder / "edge").write_text("x")
    elif kind == "link":
        (folder / "edge").symlink_to("other")
    else:
        (folder / "other").rename(folder / "edge")
    code, _, err = run(capsys, *CLOUDFRONT, "-o", "edge", "--force")
    assert (
        code == 2 and err.startswith("edge has ") and err.endswith("not ours to replace; name another folder with -o\n")
    )
    assert list(folder.rglob("precious")) or kind == "file"


@pytest.mark.parametrize("arguments", [(*CLOUDFRONT, "-o", "none/edge"), (*NGINX, "-o", "none/edge")])
def test_a_place_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err == "none/edge cannot be written: No such file or directory; nothing was. Name another place with -o\n"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("arguments", [(*CLOUDFRONT, "-o", "edge"), (*NGINX, "-o", "edge")])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_half_written(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    there: bool,
) -> None:
    """A disk that is full at any file: what was there is there, and nothing else."""
    if there:
        assert run(capsys, *arguments)[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for number in range(20):
        left = [number]

        def full(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        code, _, err = run(capsys, *arguments, "--force", "--tree", "docs")
        if code == 0:
            break
        assert (code, err) == (
            2,
            "edge cannot be written: No space left on device; nothing was. Name another place with -o\n",
        )
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert number == (1 if arguments[0] == "nginx" else len(TEMPLATES) + len(DOCUMENTS))


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, *CLOUDFRONT, "-o", "edge")
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    assert run(capsys, *CLOUDFRONT, "-o", "edge", "--force", "--tree", "docs")[0] == 2
    assert "const TREES = [];" in (folder / "edge" / "function.js").read_text()
    assert [path.name for path in folder.iterdir()] == ["edge"]


def test_nginx_goes_to_stdout_or_to_a_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, text, err = run(capsys, *NGINX, "--tree", "docs", "--listen", "127.0.0.1:8080", "--listen", "[::1]:8080")
    assert (code, err) == (0, "") and "listen [::1]:8080;" in text and "location ^~ /docs/ {" in text
    code, out, _ = run(
        capsys, *NGINX, "--tree", "docs", "--listen", "127.0.0.1:8080", "--listen", "[::1]:8080", "-o", "e.conf"
    )
    assert (code, out) == (0, "wrote e.conf\n")
    assert (folder / "e.conf").read_text() == text
    code, _, err = run(capsys, *NGINX, "-o", "e.conf")
    assert (code, err) == (2, "e.conf is there already; name another with -o, or --force\n")
    assert run(capsys, *NGINX, "-o", "e.conf", "--force")[0] == 0
    assert (folder / "e.conf").read_text() != text


def test_every_option_of_nginx(capsys: pytest.CaptureFixture[str]) -> None:
    more = (
        "--certificate",
        "/c.pem",
        "--key",
        "/k.pem",
        "--cache",
        "/srv/c",
        "--authorities",
        "/ca.pem",
        "--resolver",
        "[::1]",
    )
    code, text, _ = run(capsys, *NGINX[:1], "--bucket", "https://b.example.org", "--name", "cdn.example.net", *more)
    assert code == 0
    parts = ["ssl_certificate /c.pem;", "ssl_certificate_key /k.pem;", "proxy_cache_path /srv/c ", "resolver [::1];"]
    for part in (*parts, "proxy_ssl_trusted_certificate /ca.pem;"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*CLOUDFRONT[:2], "My.Bucket", *CLOUDFRONT[3:], "-o", "x"), "bucket 'My.Bucket': has a dot"),
        ((*CLOUDFRONT, "-o", "x", "--tree", "simple/x"), "tree 'simple/x': is the index's own; name another prefix"),
        ((*CLOUDFRONT, "-o", "x", "--tree", "a\x1b[31m"), "tree 'a\\x1b[31m': "),
        ((*CLOUDFRONT, "-o", "x", "--certificate-arn", ""), "certificate '': must be arn:aws:acm:us-east-1"),
        ((*CLOUDFRONT, "-o", "x", "--region", "eu"), "region 'eu': must be that of the bucket"),
        ((*NGINX, "--bucket", "s3://bucket"), "bucket 's3://bucket': must be a URL as "),
        ((*NGINX, "--listen", "0"), "listen '0': must be a port"),
        ((*NGINX, "--name", "a b"), "server name 'a b': must be a host's name"),
        ((*NGINX, "--certificate", "/c.pem"), "--certificate and --key go together"),
        ((*NGINX, "--key", "/k.pem"), "--certificate and --key go together"),
        ((*NGINX, "--cache", "relative"), "cache 'relative': must be an absolute path"),
    ],
)
def test_a_value_that_cannot_be(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...], told: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(told) and err.count("\n") == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize("arguments", [(), ("fastly",), ("cloudfront",), ("nginx", "--name", "x")])
def test_what_is_missing_or_unknown(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("usage: ")


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['isal', 'isal.isal_zlib'])); import cdn_fallback.cli as cli"
    arguments = [sys.executable, "-c", f"{code}; sys.exit(cli.main({['edge', *NGINX]}))"]
    got = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(cdn_fallback.__file__).parents[1])
    assert got.returncode == 2 and "cdn-fallback[mirror]" in got.stderr
