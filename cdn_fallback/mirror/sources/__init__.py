"""Where an index's content comes from: one small protocol, and what a source is made from.

`registry` finds the source that a configuration names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from cdn_fallback.errors import ConfigError
from cdn_fallback.mirror.errors import MirrorError
from cdn_fallback.mirror.model import File, Project, Rejection


class SourceError(MirrorError):
    """The source as a whole cannot be read now, or is not to be believed. Nothing is taken from it.

    :param where: the source: a folder, a URL
    :param problem: what is wrong and what to do, without a full stop
    """


class ProjectError(SourceError):
    """One project cannot be read now: it stays as it is known, and is asked for again by the next run."""


class Listing(NamedTuple):
    """Every project that a source has.

    A project's token changes whenever the project does; with an empty one the project is asked for in every run.
    """

    tokens: Mapping[str, str]  # normalised name -> token
    serial: int | None = None  # the source's own count of changes
    rejected: tuple[Rejection, ...] = ()  # what belongs to no project
    state: str = ""  # what the source wants to be told when it is asked for the next listing
    waiting: int = 0  # files that are still being written: they are left for the next run


class Source(Protocol):
    """What an index's content is read from. `project` and `open` are called by several threads at once."""

    @property
    def workers(self) -> int:
        """How many threads may call `project` at once."""

    def listing(self, state: str, *, whole: bool = False) -> Listing | None:
        """Every project there is; ``None`` if nothing at all has changed since the listing with this `state`.

        :param state: that of the last listing that was taken in; empty at the first time
        :param whole: the listing is wanted even if nothing has changed: of some projects there was no telling
        :raises SourceError: rather than leave one out
        """

    def project(self, name: str, known: Project | None) -> Project | None:
        """The project as it is now; ``None`` if it is as `known` says, which is what was had of it before.

        :raises ProjectError: if it cannot be told now
        """

    def open(self, file: File) -> BinaryIO:
        """The bytes of a file that has a `key`; the caller checks them against its hash.

        :raises ProjectError: if they cannot be had now
        """

    def published(self, file: File) -> None:
        """The file is in the store: whatever was kept here for it may go."""

    def close(self) -> None:
        """Nothing more will be asked in this run."""


class Settings(NamedTuple):
    """What a source is made from: the table `[source]` of the configuration.

    `folder` is the configuration file's, to which relative paths in it are relative; `spool` a folder of the
    source's own, where it may keep what it has fetched until that is published.
    """

    values: Mapping[str, Any]
    where: str  # the configuration file's path, for errors
    folder: Path
    spool: Path

    def error(self, key: str, problem: str) -> ConfigError:
        """The error for a value that cannot be used; `problem` is a phrase without a full stop."""
        return ConfigError(self.where, f"[source] {key}", problem)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; raises ConfigError for anything else, and where there is neither a value nor a default."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(key, "is missing; write a string" if value is None else "must be a string")
        return value

    def number(self, key: str, default: int, *, least: int = 1) -> int:
        """A whole number of at least `least`; raises ConfigError for anything else."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"must be a whole number, {least} or more")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false; raises ConfigError for anything else."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, by default none; raises ConfigError for anything else."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, 'must be a list of strings, as ["one", "two"]')
        return tuple(value)

    def reject_unknown(self, known: tuple[str, ...]) -> None:
        """Raises ConfigError for a key that is not among `known` (`type` always is)."""
        for key in self.values:
            if key != "type" and key not in known:
                raise self.error(key, f"is no key of a source of this type; it has {', '.join(known)}")
