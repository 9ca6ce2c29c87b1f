"""Names by a real resolver, dnsmasq, whose answers come late: for clients in a mount namespace of their own.

`tests.rig.names` is the first way of naming: it is quicker, needs no privilege, and cannot be slow.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.rig.names import free_port

_PATIENCE = 10.0  # seconds
_PORT = 53  # the only one that resolv.conf can mean
_OURS = {
    "resolv.conf": "nameserver {address}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n",
}


class Unavailable(Exception):
    """This machine does not let us have such names; what it is that is missing."""


class Dns:
    """Answers for `names` at an `address` of its own, `delay` seconds after each question, while its block runs.

    :raises Unavailable: on entering, where namespaces or port 53 cannot be had; `names.late_resolver` then does
        something like it for Python's own code
    """

    def __init__(self, folder: Path, address: str, names: Mapping[str, Sequence[str]], delay: float = 0.0) -> None:
        self.folder = folder
        self.address = address
        self.delay = delay
        self.questions = 0
        self._names = names
        self._port = free_port([address])
        self._front: socket.socket | None = None
        self._dnsmasq: subprocess.Popen[bytes] | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that is to have its names from here."""
        binds = " && ".join(
            f"mount --bind {shlex.quote(str(self.folder / name))} {shlex.quote(os.path.realpath(f'/etc/{name}'))}"
            for name in _OURS
        )
        who = () if os.geteuid() == 0 else ("--map-root-user",)
        return ("unshare", *who, "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh")

    def __enter__(self) -> Dns:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in _OURS.items():
            (self.folder / name).write_text(text.format(address=self.address))
        self._check_namespaces()
        try:
            self._open_front()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it; questions under way get no answer."""
        if self._front is not None:
            with contextlib.suppress(OSError):
                self._front.shutdown(socket.SHUT_RDWR)
            self._front.close()
        if self._dnsmasq is not None:
            self._dnsmasq.kill()
            self._dnsmasq.wait()

    def _check_namespaces(self) -> None:
        done = subprocess.run([*self.prefix, "true"], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(
                f"no mount namespace of our own: {done.stderr.strip()}; allow user namespaces, or be root in a "
                "container that may mount"
            )

    def _open_front(self) -> None:
        front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            front.bind((self.address, _PORT))
        except OSError as exc:
            front.close()
            raise Unavailable(
                f"{self.address}:{_PORT} cannot be bound: {exc.strerror}; be root, or set "
                f"net.ipv4.ip_unprivileged_port_start to {_PORT}"
            ) from exc
        self._front = front
        threading.Thread(target=self._listen, args=(front,), daemon=True).start()

    def _listen(self, front: socket.socket) -> None:
        """Each question is passed on at once, and its answer back when the delay is over."""
        while True:
            try:
                question, client = front.recvfrom(4096)
            except OSError:
                return
            if not question:  # the shutdown of close()
                return
            self.questions += 1
            threading.Thread(target=self._answer, args=(front, question, client), daemon=True).start()

    def _answer(self, front: socket.socket, question: bytes, client: object) -> None:
        due = time.monotonic() + self.delay
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.settimeout(_PATIENCE)
            back.sendto(question, (self.address, self._port))
            answer = back.recv(4096)
            time.sleep(max(0.0, due - time.monotonic()))
            front.sendto(answer, client)  # type: ignore[call-overload]

    def _start(self) -> None:
        """dnsmasq rotates the addresses of a name; it answers for nothing else, and asks nobody."""
        known = self.folder / "names"
        known.write_text("".join(f"{one} {name}\n" for name, found in self._names.items() for one in found))
        command = [
            dnsmasq(), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts",
            f"--addn-hosts={known}", f"--listen-address={self.address}", "--bind-interfaces",
            f"--port={self._port}", "--local-ttl=0", "--local=/#/", "--log-facility=-",
        ]  # fmt: skip
        if os.geteuid() == 0:  # or it would become a user who may not read the names
            command.append("--user=root")
        with (self.folder / "dnsmasq.log").open("wb") as log:
            self._dnsmasq = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + _PATIENCE
        while not self._serves():
            if self._dnsmasq.poll() is not None or time.monotonic() > end:
                said = (self.folder / "dnsmasq.log").read_text(errors="replace")
                raise RuntimeError(f"dnsmasq at {self.address}:{self._port} does not start: {said}")
            time.sleep(0.01)

    def _serves(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self._port)) == 0


def dnsmasq() -> str:
    """The server's path. FileNotFoundError names the package that has it."""
    binary = shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise FileNotFoundError("dnsmasq not found: install the Debian package dnsmasq-base")
    return binary
