"""The engine for requests' users: an adapter to mount.

    session = requests.Session()
    session.mount("https://", FallbackAdapter())

Sends GET and HEAD over the pools of the configuration (pip's files and the environment, as the pip plugin), and
everything else as requests does. Raises requests.exceptions.ConnectionError when every copy failed; its first
argument is the AllEndpointsFailed with all attempts.
"""

from __future__ import annotations

import os
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from cdn_fallback.config import Config, load
from cdn_fallback.health import Health, default_path
from cdn_fallback.lines import Flavour
from cdn_fallback.transport import Transport


class FallbackAdapter(HTTPAdapter):
    """requests' HTTPAdapter over pools.

    :param config: the pools; by default what `config.load` finds. Raises ConfigError for a wrong setting
    :param health: the memory; by default the user's, which pip's plugin shares
    :param options: HTTPAdapter's own; ``max_retries`` bounds the passes over a pool
    """

    def __init__(self, config: Config | None = None, health: Health | None = None, **options: Any) -> None:
        super().__init__(**options)
        if health is None:
            health = Health(default_path())
            health.load()
        self.transport = Transport(Flavour(), load(os.environ) if config is None else config, health)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self.transport.config.disabled or not self.transport.handles(request):
            return super().send(request, *args, **kwargs)
        response: requests.Response = self.transport.send(self, request, *args, **kwargs)
        return response

    def close(self) -> None:
        """Close every connection and write down what was learnt."""
        self.transport.lines.close(self)
        self.transport.health.save()
        super().close()
