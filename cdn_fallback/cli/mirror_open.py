"""What the mirror's commands have in common: an open mirror, and their exit codes (told in `cli.mirror`)."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from cdn_fallback.cli.output import complain

PARTLY = 3
BUSY = 4
STOPPED = 5


def opened(arguments: argparse.Namespace) -> Any:
    """The configured mirror, for writing: a context manager, see `Mirror.open`."""
    from cdn_fallback.mirror.config import load
    from cdn_fallback.mirror.mirror import Mirror

    command = shlex.join(["mirror", arguments.mirror_command, "--config", str(arguments.config)])
    return Mirror.open(load(arguments.config), command, time.time(), complain)
