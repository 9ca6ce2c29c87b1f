"""What `mirror init` writes: a configuration to be read and changed, and nginx's for a store that is a folder."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from cdn_fallback.cli.output import Unusable, complain

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
[store]                     # where the site is published: file:///..., s3://BUCKET, gs://BUCKET, az://ACCOUNT/CONTAINER
url = {store}
# endpoint = "https://s3.example.org"   # of a service that speaks S3; credentials come from the environment
# region = "eu-central-1"

[publish]
base = {base}               # where readers find the site
# legacy = true             # /pypi/NAME/json, which mirroring tools read
# keep_days = 7             # how long removed files stay, and earlier generations for `mirror rollback`; 1 at least

# [catalog]                 # what is known of the source and of the store: keep it
# path = "cdn-fallback.sqlite"

# [[tree]]                  # static files beside the index, as many tables as there are folders
# path = "docs"
# prefix = "documentation"
"""


def written(config: Path, source: str, store: str, base: str) -> list[Path]:
    """Write both files, neither over one that is there; nginx's for a folder. Raises Unusable, ConfigError."""
    from cdn_fallback.mirror.config import load

    in_a_bucket = "://" in store and not store.startswith("file:")
    for path in (config,) if in_a_bucket else (config, _beside(config)):
        if path.exists():
            raise Unusable(f"{path} is there already; move it away, or name another with --config")
    kind = _SIMPLE_API if source.startswith(("http://", "https://")) else _DIRECTORY
    text = _TEMPLATE.format(
        source=kind.format(place=json.dumps(source)),
        store=json.dumps(store if "://" in store else Path(store).absolute().as_uri()),
        base=json.dumps(base),
    )
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text, "utf-8")
    try:
        load(config)
    except BaseException:
        config.unlink()
        raise
    return [config] if in_a_bucket else [config, *for_nginx(config)]


def for_nginx(config: Path) -> list[Path]:
    """Write nginx's configuration for what `config` says, over the old one."""
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.grammar import NotConfigurable
    from cdn_fallback.mirror.nginx import configuration
    from cdn_fallback.mirror.stores.directory import DirectoryStore
    from cdn_fallback.mirror.stores.opening import open_store

    loaded = load(config)
    store = open_store(loaded.store)
    if not isinstance(store, DirectoryStore):
        raise Unusable("nginx serves a folder; what is in object storage is served by its CDN")
    host = urlsplit(loaded.rules.base).hostname or "_"
    try:
        text = configuration(str(store.root), ["80"], host, trees=[tree.prefix for tree in loaded.trees])
    except NotConfigurable as error:
        complain(f"nginx's configuration was not written: {error}")
        return []
    path = _beside(config)
    path.write_text(f"# Written by `cdn-fallback mirror init` for {config.name}.\n{text}", "utf-8")
    return [path]


def _beside(config: Path) -> Path:
    return config.with_name(f"{config.stem}.nginx.conf")
