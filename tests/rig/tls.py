"""A certificate authority of our own (trustme) and what it issues."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """How one server speaks TLS: a certificate for `names`, and whether it asks for a client's."""

    authority: Authority
    names: tuple[str, ...]
    clients: ssl.VerifyMode
    pem: bytes
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates; `server()` for a `Server`, `client()` for pip's `--client-cert`."""

    ca: trustme.CA = field(default_factory=trustme.CA)

    def write(self, folder: Path) -> Path:
        """Writes ca.pem into the folder: the path for pip's `--cert`."""
        path = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    def server(
        self,
        *names: str,
        clients: ssl.VerifyMode = ssl.CERT_NONE,
        not_after: datetime.datetime | None = None,
    ) -> ServerTLS:
        """One certificate for all the names (host names or addresses), valid for years or until `not_after`.

        With CERT_OPTIONAL or CERT_REQUIRED the server asks for a client certificate of this authority;
        `Request.client` then tells who came.
        """
        issued = self.ca.issue_cert(*names, not_after=not_after)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        if clients is not ssl.CERT_NONE:
            self.ca.configure_trust(context)
            context.verify_mode = clients
        return ServerTLS(self, names, clients, issued.private_key_and_cert_chain_pem.bytes(), context)

    def client(self, folder: Path, name: str = "client") -> Path:
        """Writes a client certificate with its key: the path for pip's `--client-cert`."""
        path = folder / f"{name}.pem"
        self.ca.issue_cert(common_name=name).private_key_and_cert_chain_pem.write_to_path(path)
        return path
