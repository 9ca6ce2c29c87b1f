"""What `mirror init` writes: a configuration to be read and changed, and nginx's for a store that is a folder."""

from __future__ import annotations

import json
from pathlib import Path

from cdn_fallback.cli.output import Unusable

_DIRECTORY = """\
type = "directory"
path = {place}
# prefix = "packages"       # where its files are published: the path that they have at the origin
"""
_SIMPLE_API = """\
type = "simple-api"
url = {place}
# projects = ["six"]        # only these; by default all that the index has
# requirements = ["requirements.txt"]   # and those named there
files = true                # false: pages only, which link to the source's files
"""
_TEMPLATE = """\
# What `cdn-fallback mirror` goes by. Relative paths are relative to this file.

[source]                    # where the index's content comes from
{source}
[store]                     # where the site is published
url = {store}

[publish]
base = {base}               # where readers find the site
# legacy = true             # /pypi/NAME/json, which mirroring tools read

# [catalog]                 # what is known of the source and of the store: keep it
# path = "cdn-fallback.sqlite"

# [[tree]]                  # static files beside the index, as many tables as there are folders
# path = "docs"
# prefix = "documentation"
"""


def written(config: Path, source: str, store: str, base: str) -> list[Path]:
    """Write both files, neither over one that is there. Raises Unusable."""
    from cdn_fallback.mirror.config import load

    nginx = config.with_name(f"{config.stem}.nginx.conf")
    for path in (config, nginx):
        if path.exists():
            raise Unusable(f"{path} is there already; move it away, or name another with --config")
    is_url = source.startswith(("http://", "https://"))
    kind = _SIMPLE_API if is_url else _DIRECTORY
    folder = Path(store).absolute()
    text = _TEMPLATE.format(
        source=kind.format(place=json.dumps(source)), store=json.dumps(folder.as_uri()), base=json.dumps(base)
    )
    config.write_text(text, "utf-8")
    try:
        loaded = load(config)
        nginx.write_text(_nginx(folder, loaded.rules.base), "utf-8")
    except BaseException:
        config.unlink()
        raise
    return [config, nginx]


def _nginx(folder: Path, base: str) -> str:
    raise NotImplementedError(folder, base)
