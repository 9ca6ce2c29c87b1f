"""The source `simple-api`: any index that speaks the simple API (PEP 503, 691), read through our own engine.

An index that counts its changes (`_last-serial` for each project in the list) is asked for the list, and for what
has changed. Of any other every page is asked for in every run, conditionally.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from cdn_fallback.adapter import FallbackAdapter
from cdn_fallback.mirror.model import File, Project
from cdn_fallback.mirror.sources import Listing, ProjectError, Settings, SourceError
from cdn_fallback.mirror.sources.simple_api import settings as simple_settings
from cdn_fallback.mirror.sources.simple_api.files import Files
from cdn_fallback.mirror.sources.simple_api.index_page import Document, NotAPage, Projects, read_list, read_project
from cdn_fallback.mirror.sources.simple_api.spool import Spool
from cdn_fallback.mirror.sources.simple_api.web import Answer, Retry, Unanswered, Validators, Web


class Memory(NamedTuple):
    """What is remembered of a page between runs, as JSON in a listing's or a project's `state`.

    `tag` says from which index, and for what, the page was had: had otherwise, its validators count for nothing.
    `place` is where redirects led to, if they did. The rest is a list's: its own URL, its serial, how many projects it
    had, and whether each had a serial of its own.
    """

    tag: str = ""
    etag: str = ""
    modified: str = ""
    place: str = ""
    home: str = ""
    serial: int | None = None
    projects: int = 0
    counts: bool = False

    @classmethod
    def read(cls, text: str) -> Memory:
        """That of `text`; nothing where somebody else wrote it."""
        try:
            data: Any = json.loads(text or "{}")
            made = cls(**data)
        except (ValueError, TypeError):
            return cls()
        whole = (made.serial or 0, made.projects)
        texts = (made.tag, made.etag, made.modified, made.place, made.home)
        return made if all(isinstance(n, int) for n in whole) and all(isinstance(t, str) for t in texts) else cls()

    def text(self) -> str:
        """As short as it can be: there may be a million."""
        told = {key: value for key, value in self._asdict().items() if value not in ("", None, False)}
        return json.dumps(told, separators=(",", ":"))

    def validators(self, url: str) -> Validators:
        """For the page that is asked for at `url`."""
        return Validators(self.place or url, self.etag, self.modified)


class SimpleApi:
    """See `Source`, and `settings` beside it for its settings. Raises ConfigError for one that cannot be used.

    :param adapter: makes what sends the requests, from a configuration of the client's
    :param sleep: waits for so many seconds
    :param chance: a number from 0 to 1
    """

    def __init__(
        self,
        settings: Settings,
        *,
        adapter: Callable[..., FallbackAdapter] = FallbackAdapter,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        options = simple_settings.read(settings)
        self.workers = options.workers
        self._options = options
        self._url = options.url
        self._web = Web(partial(adapter, options.config), Retry(options.retries, sleep, chance))
        self._files = Files(options.url, Spool(settings.spool))
        # With these everything must be asked for anew, whatever serials and validators say.
        self._tag = hashlib.sha256(f"{options.url} {options.files}".encode()).hexdigest()[:8]
        self._listed: dict[str, int | None] = {}  # the serials in the last list

    def close(self) -> None:
        """See `Source`: close the connections."""
        self._web.close()

    # the list

    def listing(self, state: str, *, whole: bool = False) -> Listing | None:
        """See `Source`. With a filter it is the filter's names, and the list is not asked for."""
        self._listed = {}
        if self._options.wanted:
            return Listing(dict.fromkeys(sorted(self._options.wanted.names()), ""))
        memory = Memory.read(state)
        # Without serials every project is asked for, which takes its name: then there must be no 304.
        conditional = memory.counts and memory.tag == self._tag and not whole
        known = memory.validators(self._url) if conditional else Validators()
        try:
            with self._web.client() as client:
                answer = client.page(self._url, known)
            if answer is None:
                return None
            found = read_list(_document(answer))
        except Unanswered as exc:
            raise SourceError(self._url, exc.problem) from exc
        except NotAPage as exc:
            raise SourceError(self._url, f"{exc.reason}; nothing is taken from it") from exc
        if memory.home != self._url:
            memory = Memory()
        self._check(found, memory)
        self._listed = dict(found.serials)
        tokens = {name: "" if serial is None else f"{serial}-{self._tag}" for name, serial in found.serials.items()}
        serial = memory.serial if found.serial is None else found.serial
        remembered = self._remembered(answer, self._url)._replace(
            home=self._url,
            serial=serial,
            projects=len(tokens),
            counts=bool(tokens) and None not in found.serials.values(),
        )
        return Listing(tokens, found.serial, found.rejected, remembered.text())

    def _check(self, found: Projects, memory: Memory) -> None:
        """Whether the list may be believed, after what was had of the same index before. Raises SourceError."""
        if memory.projects and not found.serials:
            problem = f"lists no project, where it had {memory.projects}; nothing is taken from it"
            raise SourceError(self._url, problem)
        old, new, accepted = memory.serial, found.serial, self._options.accept_serial
        if old is None or new is None or new >= old or (accepted is not None and new >= accepted):
            return
        raise SourceError(
            self._url,
            f"its serial went back from {old} to {new}; the index was restored or is another one: if that is meant, "
            f"set [source] accept-serial = {new} for one run",
        )

    # a project

    def project(self, name: str, known: Project | None) -> Project | None:
        """See `Source`."""
        url = f"{self._url}{name}/"
        memory = Memory.read(known.state if known else "")
        validators = memory.validators(url) if memory.tag == self._tag else Validators()
        with self._web.client() as client:
            try:
                answer = client.page(url, validators)
                if answer is None:
                    self._check_serial(url, known.serial if known else None, known)
                    return None
                detail = read_project(_document(answer), name)
            except Unanswered as exc:
                raise ProjectError(url, self._missing(exc)) from exc
            except NotAPage as exc:
                raise ProjectError(url, exc.reason) from exc
            project = detail.project
            self._check_serial(url, project.serial, known)
            if known and known.files and not detail.sure:
                problem = (
                    f"is a page without files that nothing tells from an error page, where it had {len(known.files)}"
                )
                raise ProjectError(url, problem)
            if self._options.files:
                project = self._files.taken(client, project, known)
        return project._replace(state=self._remembered(answer, url).text())

    def _missing(self, exc: Unanswered) -> str:
        if exc.status not in (404, 410):
            return exc.problem
        if self._options.wanted:
            return f"{exc.problem}: the index has no such project; take it out of the filter, or check its name"
        return f"{exc.problem}, but the list has it: they disagree, and the next run asks again"

    def _check_serial(self, url: str, serial: int | None, known: Project | None) -> None:
        """A page may not be older than what was had of it, nor than the list. Raises ProjectError."""
        name = url.removeprefix(self._url).rstrip("/")
        listed, had, accepted = self._listed.get(name), known.serial if known else None, self._options.accept_serial
        if had is not None and accepted is not None and had > accepted:
            had = None  # it was had of the index as it was before it was restored
        for bound, whose in ((had, "what is known"), (listed, "its list")):
            if serial is not None and bound is not None and serial < bound:
                raise ProjectError(url, f"is older than {whose}: {serial} < {bound}; the next run asks again")

    # files

    def open(self, file: File) -> BinaryIO:
        """See `Source`."""
        with self._web.client() as client:
            return self._files.open(client, file)

    def published(self, file: File) -> None:
        """See `Source`."""
        self._files.published(file)

    def _remembered(self, answer: Answer, asked: str) -> Memory:
        place, etag, modified = answer.validators
        return Memory(self._tag, etag, modified, "" if place == asked else place)


def _document(answer: Answer) -> Document:
    headers = answer.headers
    return Document(answer.url, headers.get("Content-Type", ""), answer.body, headers.get("X-PyPI-Last-Serial", ""))
