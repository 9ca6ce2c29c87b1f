"""The project names in requirements files, as pip reads these.

Only names: a mirror has every version, for every platform, so that specifiers, markers and hashes say nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.names import BadName, normalised

_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s+|(?=[^\s-]))(.+)")
# What another line may end with: ``--hash=sha256:...``, ``--config-settings ...``
_OPTIONS = re.compile(r"\s+--?[A-Za-z].*$")
# What is told by its place comes from no index: ``git+https://...``, ``./folder``, ``folder/x-1.0.whl``
_PLACE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:|[^\s@;\[(]*[/\\])")


def read(path: Path) -> dict[str, str]:
    """Normalised name -> where it stands (``file:line``), in the file at `path` and those that it includes.

    :raises ConfigError: for a file, or a line of it, that cannot be read
    """
    found: dict[str, str] = {}
    seen: set[Path] = set()
    pending = [(path, str(path))]
    while pending:
        file, asked = pending.pop()
        if file.resolve() in seen:
            continue
        seen.add(file.resolve())
        for number, line in _lines(_text(file, asked)):
            where = f"{file}:{number}"
            if match := _INCLUDE.fullmatch(line):
                pending.append((_included(file, match[1].strip(), where), where))
            elif name := _name(line, where):
                found.setdefault(name, where)
    return found


def _text(file: Path, asked: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise ConfigError(asked, None, f"the requirements file {file} cannot be read: {why}; write another") from exc


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line), with what a backslash continues joined, without comments and empty lines."""
    first, joined = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        first = first if joined else number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            joined += line[:-1]
            continue
        whole, joined = _COMMENT.sub("", f"{joined} {line}" if comment else joined + line).strip(), ""
        if whole:
            yield first, whole


def _included(file: Path, name: str, where: str) -> Path:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ConfigError(where, None, f"{name} is on a server; save it beside this file and include that")
    return file.parent / name


def _name(line: str, where: str) -> str | None:
    """The name that a line asks for; ``None`` for an option, and for what comes from no index."""
    if line.startswith("-"):
        return None
    text = _OPTIONS.sub("", line).strip()
    if _PLACE.match(text):
        return None
    try:
        requirement = Requirement(text)
        return None if requirement.url else normalised(requirement.name)
    except (InvalidRequirement, BadName):
        raise ConfigError(where, None, f"{text} is no requirement; write it as name, or name==1.0") from None
