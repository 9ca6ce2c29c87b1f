"""How far long work is: a bar on a terminal, elsewhere a line now and then, nothing for what is quickly done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

QUIET = 30.0  # s between two lines where there is no terminal, and before the first


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function to be told (what, how many are done, of how many or 0 where nobody knows), on stderr."""
    if sys.stderr.isatty():
        with _bars() as shown:
            yield shown
        return
    last = time.monotonic()

    def line(what: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET:
            last = time.monotonic()
            print(f"{what}: {done} of {of}" if of else f"{what}: {done}", file=sys.stderr, flush=True)

    yield line


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    from tqdm import tqdm

    bar: Any = None
    shows = ("", 0)

    def shown(what: str, done: int, of: int) -> None:
        nonlocal bar, shows
        if bar is None or shows != (what, of):
            if bar is not None:
                bar.close()
            shows = (what, of)
            bar = tqdm(total=of or None, unit=f" {what}", leave=False, delay=1.0, dynamic_ncols=True, file=sys.stderr)
        bar.update(done - bar.n)

    try:
        yield shown
    finally:
        if bar is not None:
            bar.close()
