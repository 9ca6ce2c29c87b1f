"""Distributions on disk: whether one is whole, where nobody tells its hash."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
import zlib


def damage(path: str) -> str | None:
    """What is wrong with the archive at `path`, as a phrase that follows its name; ``None`` for nothing to be seen.

    Reads all of a zip file (wheel, egg) and of a compressed tar file, and judges both by their checksums. What is no
    archive by its name, or a folder, is not opened.
    """
    try:
        if re.search(r"\.(whl|egg|zip)$", path) and os.path.isfile(path):
            with zipfile.ZipFile(path) as archive:
                member = archive.testzip()
                return f"is damaged ({member})" if member else None
        if re.search(r"\.(tar|tgz|tar\.\w+)$", path):
            with tarfile.open(path) as members:
                for _ in members:
                    pass
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as exc:
        return f"is no whole archive ({exc})"
    return None
