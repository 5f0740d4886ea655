"""Lease files and ARP tables as their programs write them, also damaged, rewritten and odd."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.machines.addresses import (
    MacAddress,
    arp_entries,
    dnsmasq_leases,
    machine_mac,
    macos_leases,
    newest_lease,
)

MAC = MacAddress(bytes.fromhex("0a0b0c0d0e0f"))
DNSMASQ = """\
1795300000 0a:0b:0c:0d:0e:0f 192.168.93.66 * 01:0a:0b:0c:0d:0e:0f
0 02:00:00:00:00:01 192.168.93.67 guest *
duid 00:01:00:01:2e
1795300000 11 fd00::2 * 00:01
"""
MACOS = """\
{
	name=guest
	ip_address=192.168.64.2
	hw_address=1,a:b:c:d:e:f
	identifier=1,a:b:c:d:e:f
	lease=0x65f1c2a3
}
{
	name=ubuntu
	ip_address=192.168.64.3
	hw_address=ff,f1:f5:dd:7f:0:2:0:0:ab:11
	identifier=ff,f1:f5:dd:7f:0:2:0:0:ab:11
	lease=0x65f1c2a4
}
"""


@pytest.mark.parametrize("text", ["0a:0b:0c:0d:0e:0f", "a:b:c:d:e:f", "A:0B:c:0D:e:f", " a:b:c:d:e:f "])
def test_a_mac_is_the_same_with_and_without_leading_zeros(text: str) -> None:
    assert MacAddress.parse(text) == MAC


@pytest.mark.parametrize(
    "text", ["", "a:b:c:d:e", "a:b:c:d:e:f:0", "a:b:c:d:e:100", "a:b:c:d:e:g", "(incomplete)", "a::c:d:e:f"]
)
def test_what_is_no_mac_is_none(text: str) -> None:
    assert MacAddress.parse(text) is None


@given(st.binary(min_size=6, max_size=6))
def test_text_of_a_mac_reads_back(octets: bytes) -> None:
    assert MacAddress.parse(str(MacAddress(octets))) == MacAddress(octets)
    assert MacAddress.parse(":".join(f"{octet:x}" for octet in octets)) == MacAddress(octets)


@given(st.text(max_size=60))
def test_a_machines_mac_is_stable_unicast_and_locally_administered(uid: str) -> None:
    mac = machine_mac(uid)
    assert mac == machine_mac(uid)
    assert mac.octets[0] & 0b11 == 0b10


def test_machines_have_different_macs() -> None:
    assert len({machine_mac(str(number)).octets for number in range(2000)}) == 2000


def test_dnsmasq_leases_are_read_and_other_lines_left_out() -> None:
    first, second = dnsmasq_leases(DNSMASQ)
    assert (first.mac, first.ip, first.expires_at) == (MAC, "192.168.93.66", 1795300000.0)
    assert first.client_id == "01:0a:0b:0c:0d:0e:0f"
    assert second.expires_at is None
    assert second.client_id == ""


@given(st.integers(0, len(DNSMASQ)))
def test_a_dnsmasq_file_that_is_being_rewritten_never_yields_a_wrong_address(end: int) -> None:
    whole = {(lease.mac, lease.ip) for lease in dnsmasq_leases(DNSMASQ)}
    assert {(lease.mac, lease.ip) for lease in dnsmasq_leases(DNSMASQ[:end])} <= whole


def test_macos_leases_know_zero_stripped_octets_and_leave_duids_out() -> None:
    (lease,) = macos_leases(MACOS)
    assert (lease.mac, lease.ip, lease.expires_at) == (MAC, "192.168.64.2", float(0x65F1C2A3))


@given(st.integers(0, len(MACOS)))
def test_a_macos_file_that_is_being_rewritten_never_yields_a_wrong_address(end: int) -> None:
    assert {lease.ip for lease in macos_leases(MACOS[:end])} <= {"192.168.64.2"}


def test_the_newest_valid_lease_of_the_right_machine_wins() -> None:
    blocks = "".join(
        f"{{\n\tip_address=192.168.64.{number}\n\thw_address=1,{mac}\n\tlease={lease}\n}}\n"
        for number, mac, lease in [(2, "a:b:c:d:e:f", "0x64"), (3, "a:b:c:d:e:f", "0xc8"), (4, "da:b:c:d:e:f", "0xfff")]
    )
    leases = macos_leases(blocks)
    found = newest_lease(leases, MAC, now=50)
    assert found is not None
    assert found.ip == "192.168.64.3"
    assert newest_lease(leases, MAC, now=200) is None


def test_a_lease_without_end_is_always_valid() -> None:
    found = newest_lease(dnsmasq_leases(DNSMASQ), MacAddress(bytes.fromhex("020000000001")), now=1e12)
    assert found is not None


def test_arp_entries_leave_out_what_has_no_address() -> None:
    table = """\
? (192.168.64.2) at da:a:f7:5:e0:1 on bridge100 ifscope [bridge]
? (192.168.64.9) at (incomplete) on bridge100 ifscope [bridge]
? (224.0.0.251) at 1:0:5e:0:0:fb on en0 ifscope permanent [ethernet]
garbage
"""
    assert arp_entries(table) == [
        (MacAddress(bytes.fromhex("da0af705e001")), "192.168.64.2"),
        (MacAddress(bytes.fromhex("01005e0000fb")), "224.0.0.251"),
    ]
