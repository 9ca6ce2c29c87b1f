"""Names with several addresses, without root: nss_wrapper answers getaddrinfo from a hosts file of ours."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_LIBRARY = "libnss_wrapper.so"
_PLACES = ("/usr/lib/*-linux-*", "/usr/lib64", "/usr/lib", "/usr/local/lib")


def nss_wrapper() -> Path:
    """The library's path. FileNotFoundError names the package that has it."""
    for place in _PLACES:
        for path in sorted(Path("/").glob(f"{place[1:]}/{_LIBRARY}*")):
            return path
    raise FileNotFoundError(f"{_LIBRARY} not found: install the Debian package libnss-wrapper")


@dataclass(frozen=True, slots=True)
class Names:
    """A hosts file that one process tree believes in; other names resolve as always."""

    hosts: Path

    @classmethod
    def write(cls, folder: Path, names: Mapping[str, Sequence[str]]) -> Names:
        """Name -> addresses, in the order in which getaddrinfo shall return them."""
        lines = [f"{address} {name}\n" for name, addresses in names.items() for address in addresses]
        hosts = folder / "hosts"
        hosts.write_text("".join(lines))
        return cls(hosts)

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment."""
        return {"LD_PRELOAD": str(nss_wrapper()), "NSS_WRAPPER_HOSTS": str(self.hosts)}


_RESOLVER = """\
import socket, time
look_up = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    if host != {host!r}:
        return look_up(host, *args, **kwargs)
    if {how!r} == "silent":
        time.sleep(60)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

socket.getaddrinfo = getaddrinfo
"""


def broken_resolver(folder: Path, host: str, how: Literal["fails", "silent"]) -> dict[str, str]:
    """What a child Python needs in its environment so that looking up this one name fails, or hangs.

    nss_wrapper cannot do it: what is not in its file goes to the machine's resolver, and without root that is not
    ours to break. So `socket.getaddrinfo` does as glibc would, in a sitecustomize of our own: real for Python code
    above it, and for nothing else.
    """
    place = folder / "resolver"
    place.mkdir()
    (place / "sitecustomize.py").write_text(_RESOLVER.format(host=host, how=how))
    return {"PYTHONPATH": str(place)}


_LATE = """\
import socket, time
look_up = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    time.sleep({seconds!r} if host in {hosts!r} else 0)
    return look_up(host, *args, **kwargs)

socket.getaddrinfo = getaddrinfo
"""


def late_resolver(folder: Path, hosts: Iterable[str], seconds: float) -> dict[str, str]:
    """What a child Python needs in its environment so that looking up these names takes so long.

    The same makeshift as `broken_resolver`, for where `tests.rig.dns` cannot be had.
    """
    place = folder / "late-resolver"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(_LATE.format(hosts=tuple(hosts), seconds=seconds))
    return {"PYTHONPATH": str(place)}


def free_port(addresses: Iterable[str] = ("127.0.0.1",)) -> int:
    """A port that is free on all these addresses, below the range from which the kernel takes its own."""
    wanted = tuple(addresses)
    for _ in range(200):
        port = random.SystemRandom().randrange(20000, 32000)
        if all(_is_free(address, port) for address in wanted):
            return port
    raise OSError(f"no port is free on all of {', '.join(wanted)}")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
