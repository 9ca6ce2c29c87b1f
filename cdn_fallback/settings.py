"""Where settings come from, and from which file and line: `config` says what they mean.

    pip's global, user, site files, PIP_CONFIG_FILE  <  buildout's  <  the file CDN_FALLBACK_CONFIG
                                                                    <  CDN_FALLBACK_CDN, ...

The machine and the user, then the project, then this run. In pip's files and in our own they stand in
`[cdn-fallback]` and `[cdn-fallback:NAME]`. What another section says is pip's business; a file that pip itself
would refuse is refused here as well.
"""

from __future__ import annotations

import configparser
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field

from cdn_fallback.errors import ConfigError

SECTION = "cdn-fallback"
DEFAULT_POOL = "default"
KEYS = ("index", "redirectors", "cdn", "mirrors", "origin", "gatekeepers", "oldest")
PREFIX = "CDN_FALLBACK_"
CONFIG = "CDN_FALLBACK_CONFIG"
DISABLE = "CDN_FALLBACK_DISABLE"
BUILDOUT = "_CDN_FALLBACK_BUILDOUT"  # what buildout's configuration sets, for the run and the pips that it starts


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of one pool. Errors show `where` (``/etc/pip.conf:12``), lists of what was read `source`."""

    pool: str
    key: str
    value: str = field(repr=False)  # may hold a password
    where: str
    source: str

    def error(self, problem: str) -> ConfigError:
        return ConfigError(self.where, self.key, problem)


def collect(environ: Mapping[str, str], files: Iterable[str]) -> list[Setting]:
    """Every setting that is made anywhere, the weakest first.

    :raises ConfigError: for a file that cannot be read, and for a key or variable that is not ours
    """
    settings = [setting for file in files for setting in _pip_file(file)]
    settings += handed_down(environ)
    if own := environ.get(CONFIG):
        settings += _own_file(own)
    settings += _variables(environ)
    for setting in settings:
        if setting.key not in KEYS:
            raise setting.error(_unknown("key", setting.key, KEYS))
    return settings


def hand_down(settings: Iterable[Setting]) -> str:
    """`settings` as the variable BUILDOUT holds them."""
    return json.dumps([astuple(setting) for setting in settings])


def handed_down(environ: Mapping[str, str]) -> list[Setting]:
    """The settings in the variable BUILDOUT; raises ConfigError if somebody else wrote it."""
    try:
        found = [Setting(*map(str, fields)) for fields in json.loads(environ.get(BUILDOUT) or "[]")]
    except (ValueError, TypeError) as exc:
        raise ConfigError(BUILDOUT, None, "is for buildout to hand on, and holds something else; unset it") from exc
    return found


def pip_files(environ: Mapping[str, str]) -> list[str]:
    """The configuration files that pip reads, the weakest first; not all of them exist.

    The rules are those of pip's `_internal/configuration.py` (23.2 to 26.3) and of its platformdirs.
    PIP_CONFIG_FILE takes the place of the user's files, if it exists; os.devnull there means no file at all.
    """
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    files = _global_files(environ, name)
    if not (own and os.path.exists(own)):
        files += _user_files(environ, name)
    files.append(os.path.join(sys.prefix, name))
    return [*files, own] if own else files


def _global_files(environ: Mapping[str, str], name: str) -> list[str]:
    if sys.platform == "win32":
        return [os.path.join(environ.get("ALLUSERSPROFILE") or r"C:\ProgramData", "pip", name)]
    if sys.platform == "darwin":
        return [os.path.join("/Library/Application Support/pip", name)]
    # Newer pips leave out what is not absolute, as the XDG base directory specification asks.
    folders = [path.strip() for path in environ.get("XDG_CONFIG_DIRS", "").split(os.pathsep)]
    folders = [path for path in folders if os.path.isabs(path)] or ["/etc/xdg"]
    return [*(os.path.join(path, "pip", name) for path in folders), os.path.join("/etc", name)]


def _user_files(environ: Mapping[str, str], name: str) -> list[str]:
    home = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME") or os.path.expanduser("~")
    if sys.platform == "win32":
        roaming = environ.get("APPDATA") or os.path.join(home, "AppData", "Roaming")
        return [os.path.join(home, "pip", name), os.path.join(roaming, "pip", name)]
    folder = os.path.join(home, ".config", "pip")
    if sys.platform == "darwin":
        support = os.path.join(home, "Library", "Application Support", "pip")
        folder = support if os.path.isdir(support) else folder
    elif os.path.isabs(environ.get("XDG_CONFIG_HOME", "").strip()):
        folder = os.path.join(environ["XDG_CONFIG_HOME"].strip(), "pip")
    return [os.path.join(home, ".pip", name), os.path.join(folder, name)]


def _pip_file(path: str) -> list[Setting]:
    # pip's encoding; a missing or forbidden file is nothing to pip (configparser.read).
    try:
        return _parse(path, _text(path, "utf-8" if sys.flags.utf8_mode else "locale"))
    except OSError:
        return []


def _own_file(path: str) -> list[Setting]:
    try:
        settings = _parse(path, _text(path, "utf-8-sig"))
    except OSError as exc:
        problem = f"cannot read {path} ({exc.strerror or exc}); name another file, or unset the variable"
        raise ConfigError(CONFIG, None, problem) from exc
    if not settings:
        raise ConfigError(path, None, f"sets nothing in a section [{SECTION}] or [{SECTION}:NAME]; add one")
    return settings


def _variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    known = {PREFIX + key.upper(): key for key in KEYS}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in (*known, CONFIG, DISABLE):
            raise ConfigError(name, None, _unknown("variable", name, [*known, CONFIG, DISABLE]))
    for name, key in known.items():
        if value := environ.get(name, "").strip():
            yield Setting(DEFAULT_POOL, key, value, where=name, source=name)


def _text(path: str, encoding: str) -> str:
    try:
        with open(path, encoding=encoding) as file:
            return file.read()
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        problem = f"is not {exc.encoding} text; save the file in that encoding"
        raise ConfigError(f"{path}:{line}", None, problem) from exc


def _parse(path: str, text: str) -> list[Setting]:
    parser = configparser.RawConfigParser()  # raw, as pip's: a percent sign in a URL is a percent sign
    try:
        parser.read_string(text, path)
    except configparser.Error as exc:
        raise _unparsable(path, exc) from exc
    lines = _lines(text)
    settings = []
    for section in parser.sections():
        pool = _pool_name(section, f"{path}:{lines.get((section, ''), 1)}")
        for key, value in parser.items(section) if pool else ():
            # A key without a line comes from [DEFAULT], where it was meant for pip.
            if pool and (section, key) in lines:
                where = f"{path}:{lines[section, key]}"
                settings.append(Setting(pool, key, value, where, source=f"{path} [{section}]"))
    return settings


def _unparsable(path: str, exc: configparser.Error) -> ConfigError:
    if isinstance(exc, configparser.DuplicateOptionError):
        hint = _INDENT if exc.option in ("http", "https") else "keep one"
        return ConfigError(f"{path}:{exc.lineno}", exc.option, f"stands twice in [{exc.section}]; {hint}")
    if isinstance(exc, configparser.DuplicateSectionError):
        return ConfigError(f"{path}:{exc.lineno}", None, f"a second section [{exc.section}]; join the two")
    if isinstance(exc, configparser.MissingSectionHeaderError):
        return ConfigError(f"{path}:{exc.lineno}", None, "a setting before any [section]; add its header")
    errors = getattr(exc, "errors", None)
    where = f"{path}:{errors[0][0]}" if errors else path
    return ConfigError(where, None, "neither `key = value` nor [section]; indent what goes on with a value")


def _pool_name(section: str, where: str) -> str | None:
    """The pool that a section is about; ``None`` for a section of pip's."""
    head, _, name = section.partition(":")
    if section == SECTION:
        return DEFAULT_POOL
    if head == SECTION and name and name == name.strip() and name != DEFAULT_POOL:
        return name
    # pip ignores sections that it does not know, so that a slip here would pass in silence.
    if section.strip().lower().replace("_", "-").startswith(SECTION):
        problem = f"[{section}] is no section of ours; write [{SECTION}], or [{SECTION}:NAME] for another pool"
        raise ConfigError(where, None, problem)
    return None


def _lines(text: str) -> dict[tuple[str, str], int]:
    """(section, key) -> its line, and (section, "") -> the header's: configparser does not keep them.

    Its rule for a value that goes on: the line is indented deeper than that of its key.
    """
    lines: dict[tuple[str, str], int] = {}
    section, level, in_value = "", 0, False
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        depth = len(line) - len(line.lstrip())
        if not content or content[0] in "#;" or (in_value and depth > level):
            continue
        level = depth
        header = configparser.RawConfigParser.SECTCRE.match(content)
        in_value = header is None
        if header:
            section = header["header"]
        key = "" if header else content.replace(":", "=").partition("=")[0].strip().lower()
        lines.setdefault((section, key), number)
    return lines


_INDENT = "a list of URLs may go on over several lines if these are indented"


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    if name in ("http", "https"):
        return f"is no {kind} of ours; {_INDENT}"
    from difflib import get_close_matches  # only here: it is not loaded in pip

    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"is no {kind} of ours; " + (f"did you mean {near[0]}?" if near else f"we know {', '.join(known)}")
