"""Tiny but real wheels and sdists: built in memory, the same arguments give the same bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

_BACKEND = '''"""A PEP 517 backend that needs no download: the wheel lies beside it."""
import importlib
import os
import shutil

WHEEL = {wheel!r}
for module in {modules!r}:  # fails unless the build dependencies really came
    importlib.import_module(module)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    here = os.path.dirname(os.path.abspath(__file__))
    shutil.copyfile(os.path.join(here, WHEEL), os.path.join(wheel_directory, WHEEL))
    return WHEEL
'''


def normalized(name: str) -> str:
    """The project name as URLs spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Dist:
    """One distribution file. `hashed=False` makes the index page link it without its sha256."""

    filename: str
    content: bytes
    metadata: bytes = b""
    requires_python: str = ""
    hashed: bool = True

    @classmethod
    def read(cls, path: Path) -> Dist:
        """A real wheel or sdist from disk."""
        content = path.read_bytes()
        if path.suffix != ".whl":
            return cls(path.name, content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            metadata = archive.read(member)
        message = BytesParser().parsebytes(metadata, headersonly=True)
        return cls(path.name, content, metadata, message.get("Requires-Python", ""))

    @property
    def project(self) -> str:
        """The normalized project name."""
        if self.filename.endswith(".whl"):
            return normalized(self.filename.partition("-")[0])
        return normalized(self.filename.removesuffix(".tar.gz").rpartition("-")[0])

    @property
    def version(self) -> str:
        """As the file name spells it."""
        if self.filename.endswith(".whl"):
            return self.filename.split("-")[1]
        return self.filename.removesuffix(".tar.gz").rpartition("-")[2]

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def payload(self) -> dict[str, bytes]:
        """What an installation puts on disk, apart from the .dist-info folder: path -> bytes."""
        content = self.content
        if not self.filename.endswith(".whl"):
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                member = next(m for m in archive.getmembers() if m.name.endswith(".whl"))
                stream = archive.extractfile(member)
                assert stream is not None
                content = stream.read()
        with zipfile.ZipFile(io.BytesIO(content)) as wheel_file:
            names = [n for n in wheel_file.namelist() if ".dist-info/" not in n and not n.endswith("/")]
            return {name: wheel_file.read(name) for name in names}

    def installed_in(self, folder: Path) -> bool:
        """Whether every byte of the payload is in `folder` (a `--target` or site-packages)."""
        return all(
            (folder / name).is_file() and (folder / name).read_bytes() == content
            for name, content in self.payload().items()
        )


def wheel(
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    requires_python: str = "",
    padding: int = 0,
    code: str = "",
    entry_points: str = "",
) -> Dist:
    """A pure wheel with one package; `padding` adds that many incompressible bytes, `code` is Python."""
    module = normalized(name).replace("-", "_")
    info = f"{module}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    metadata = ("\n".join(lines) + "\n").encode()
    files = {f"{module}/__init__.py": f'NAME = "{name}"\nVERSION = "{version}"\n{code}'.encode()}
    if padding:
        files[f"{module}/padding.bin"] = random.Random(f"{module}-{version}").randbytes(padding)
    files[f"{info}/METADATA"] = metadata
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: rig\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if entry_points:
        files[f"{info}/entry_points.txt"] = entry_points.encode()
    record = "".join(f"{path},sha256={_record_hash(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return Dist(f"{module}-{version}-py3-none-any.whl", _zipped(files), metadata, requires_python)


def sdist(name: str, version: str = "1.0", *, build_requires: Sequence[str] = ()) -> Dist:
    """A source distribution with its own backend. pip fetches `build_requires` in a child pip (PEP 517)."""
    built = wheel(name, version)
    modules = [re.split(r"[^\w.-]", requirement)[0].replace("-", "_") for requirement in build_requires]
    root = f"{built.filename.partition('-')[0]}-{version}"
    system = {"requires": list(build_requires), "build-backend": "rig_backend", "backend-path": ["."]}
    pyproject = "[build-system]\n" + "".join(f"{key} = {value!r}\n" for key, value in system.items())
    files = {
        f"{root}/PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{root}/pyproject.toml": pyproject.encode(),
        f"{root}/rig_backend.py": _BACKEND.format(wheel=built.filename, modules=modules).encode(),
        f"{root}/{built.filename}": built.content,
    }
    return Dist(f"{root}.tar.gz", _tarred(files))


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Stored, not deflated: zlib's builds differ in their output."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return buffer.getvalue()


def _tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
