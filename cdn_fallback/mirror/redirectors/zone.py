"""The records of round-robin DNS for a pool of redirect servers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from cdn_fallback.mirror import grammar
from cdn_fallback.mirror.grammar import NotConfigurable


def records(name: str, addresses: Sequence[str], ttl: int) -> str:
    """Lines of a zone file (RFC 1035, section 5.1; RFC 3596 for IPv6), one for each address, as they are given.

    :param ttl: s, for which resolvers keep an answer: how long a server that was taken out is still asked
    :raises NotConfigurable: for what is no address or no name, or stands twice
    """
    grammar.host(name, "redirector")
    if name.rpartition(".")[2].isdigit():  # no top-level domain is a number (RFC 3696, section 2)
        raise NotConfigurable("redirector", name, "is an address; name the host that is to have these addresses")
    lines: list[str] = []
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            raise NotConfigurable("address", text, "is no IP address; write 192.0.2.11 or 2001:db8::11") from None
        if getattr(address, "scope_id", None):
            raise NotConfigurable("address", text, "has a zone of this machine; write it without %")
        line = f"{name}. {ttl} IN {'A' if address.version == 4 else 'AAAA'} {address}\n"
        if line in lines:
            raise NotConfigurable("address", text, "stands there twice; name each once")
        lines.append(line)
    return "".join(lines)
