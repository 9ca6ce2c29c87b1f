"""The DNS records of redirect servers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_fallback.mirror.grammar import NotConfigurable
from cdn_fallback.mirror.redirectors.zone import records

NAME = "pypi.python.org"


def test_each_address_has_a_line() -> None:
    assert records(NAME, ["192.0.2.12", "2001:db8::11", "192.0.2.11"], 300) == (
        "pypi.python.org. 300 IN A 192.0.2.12\n"
        "pypi.python.org. 300 IN AAAA 2001:db8::11\n"
        "pypi.python.org. 300 IN A 192.0.2.11\n"
    )


def test_addresses_are_written_in_one_way() -> None:
    assert records(NAME, ["2001:DB8:0:0::11"], 0) == "pypi.python.org. 0 IN AAAA 2001:db8::11\n"


@pytest.mark.parametrize("again", ["192.0.2.11", "2001:db8::11", "2001:DB8:0::11"])
def test_an_address_stands_there_once(again: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^address .* stands there twice; name each once$"):
        records(NAME, ["2001:db8::11", "192.0.2.11", again], 300)


@pytest.mark.parametrize(
    "address",
    ["", "192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1/24", "x.example.org", "[::1]", "::g", "1", "\u0661.2.3.4"],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^address .* is no IP address; write 192\.0\.2\.11 or 2001:db8::11$"):
        records(NAME, ["192.0.2.11", address], 300)


def test_an_address_of_this_machine_alone_is_none() -> None:
    with pytest.raises(NotConfigurable, match=r"has a zone of this machine; write it without %"):
        records(NAME, ["fe80::1%eth0"], 300)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a_b", "a;b", "a\n", "*.example.org", "@", "2001:db8::1", "x" * 64])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(NotConfigurable, match=r"^redirector .* must be a host's name"):
        records(name, ["192.0.2.11"], 300)


def test_an_address_has_no_addresses() -> None:
    with pytest.raises(NotConfigurable, match=r"^redirector '192\.0\.2\.1': is an address; name the host that"):
        records("192.0.2.1", ["192.0.2.11"], 300)


TEXT = st.text(max_size=20) | st.text('0123456789abcdef:.% ;\n"@$()-', max_size=20)


@given(name=TEXT, address=TEXT | st.ip_addresses().map(str))
def test_no_trust_in_names_a_value_is_refused_or_stays_in_its_place(name: str, address: str) -> None:
    for named in NAME, name:
        try:
            text = records(named, [address], 300)
        except NotConfigurable as error:
            assert str(error).isprintable()
        else:
            assert re.fullmatch(r"[A-Za-z0-9.-]+\. 300 IN (A [0-9.]+|AAAA [0-9a-f:.]+)\n", text)
