"""Lease files and ARP tables as their programs write them, also damaged, rewritten and odd."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.machines.addresses import (
    ArpEntry,
    BootpdLease,
    MacAddress,
    arp_entries,
    arp_table,
    bootpd_leases,
    bootptab_reservations,
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
    "text",
    [
        *("", "a:b:c:d:e", "a:b:c:d:e:f:0", "a:b:c:d:e:100", "a:b:c:d:e:g", "(incomplete)", "a::c:d:e:f"),
        *("+1:b:c:d:e:f", "a:b:c:d:e:\u0661", "a:b:c:d:e:f\n", "0x:b:c:d:e:f"),
    ],
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


octets = st.binary(min_size=6, max_size=6)
addresses = st.ip_addresses(v=4).map(str)
# What bootpd lets into the file: anything but a line end and NUL, which it turns into dots (dhcpd.c, S_get_hostname).
names = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "}", "{", "x=y", "ip_address=10.0.0.1", "hw_address=1,2:0:0:0:0:1", "a\rb", "a\u2028b", "\x0b}\x0c{", "\t}"]
)
ends = st.integers(0, 2**33)
clients = st.one_of(
    st.builds(lambda mac: (MacAddress(mac), "1," + ":".join(f"{octet:x}" for octet in mac)), octets),
    st.binary(min_size=7, max_size=20).map(lambda duid: (None, "ff," + ":".join(f"{octet:x}" for octet in duid))),
)


@st.composite
def bootpd_blocks(draw: st.DrawFn) -> tuple[BootpdLease, str]:
    """One lease, and its block as PLCache_write of bootp's NICache.c prints it."""
    ip, (mac, client), end, name = draw(addresses), draw(clients), draw(ends), draw(st.none() | names)
    lines = [] if name is None else [f"name={name}"]
    lines += [f"ip_address={ip}", f"hw_address={client}", f"identifier={client}", f"lease=0x{end:x}"]
    block = "{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"
    return BootpdLease(ip, mac, client, float(end), name or ""), block


@given(st.lists(bootpd_blocks(), max_size=6))
def test_every_lease_is_read_whatever_the_guests_call_themselves(blocks: list[tuple[BootpdLease, str]]) -> None:
    assert bootpd_leases("".join(block for _, block in blocks)) == [lease for lease, _ in blocks]


@given(st.lists(bootpd_blocks(), min_size=1, max_size=4), st.data())
def test_a_truncated_file_has_only_whole_leases(blocks: list[tuple[BootpdLease, str]], data: st.DataObject) -> None:
    text = "".join(block for _, block in blocks)
    cut = bootpd_leases(text[: data.draw(st.integers(0, len(text)))])
    assert cut == [lease for lease, _ in blocks][: len(cut)]


@given(names, octets)
def test_a_guests_name_cannot_forge_a_lease(name: str, mac: bytes) -> None:
    forged = f"x\r}}\r{{\r\tip_address=10.0.0.9\r\thw_address=1,{mac.hex(':')}\r\tlease=0xffffffff\r}}\r"
    for text in (name + forged, forged + name, name.replace("\n", ".")):
        block = f"{{\n\tname={text}\n\tip_address=10.0.0.1\n\thw_address=1,2:0:0:0:0:1\n\tlease=0x10\n}}\n"
        assert [lease.ip for lease in bootpd_leases(block)] == ["10.0.0.1"]


@given(st.text(max_size=300))
def test_any_text_is_a_lease_file(text: str) -> None:
    for lease in bootpd_leases(text):
        assert lease.ip.count(".") == 3


def test_a_lease_without_end_is_no_date() -> None:
    block = "{{\n\tip_address=10.0.0.1\n\thw_address=1,2:0:0:0:0:1\n\tlease=0x{:x}\n}}\n"
    (lease,) = bootpd_leases(block.format(2**64 - 1))
    assert lease.expires_at is None
    assert lease.is_valid(1e18)


@pytest.mark.parametrize("end", ["", "0x", "-0x1", "soon", "0x1 2", "0x" + "f" * 17, "1_0"])
def test_a_lease_whose_end_is_no_number_is_left_out(end: str) -> None:
    assert bootpd_leases(f"{{\n\tip_address=10.0.0.1\n\thw_address=1,2:0:0:0:0:1\n\tlease={end}\n}}\n") == []


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


def test_reservations_are_leases_without_end() -> None:
    text = """\
# Machine entries have the following format:
%%
guest\t1\ta:b:c:d:e:f\t192.168.97.2
printer 6 a:b:c:d:e:f 192.168.97.3
bad 1 a:b:c 192.168.97.4
worse 1 a:b:c:d:e:f nowhere
short 1 a:b:c:d:e:f
#off 1 a:b:c:d:e:f 192.168.97.5
bootfile 1 0:b:c:d:e:f 192.168.97.6 boot.img
"""
    first, second = bootptab_reservations(text)
    assert (first.mac, first.ip, first.expires_at, first.name) == (MAC, "192.168.97.2", None, "guest")
    assert second.ip == "192.168.97.6"


@given(st.text(max_size=200))
def test_any_text_is_a_table_of_reservations(text: str) -> None:
    bootptab_reservations(text)


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


def test_arp_entries_tell_interface_and_permanence() -> None:
    table = """? (192.168.64.1) at be:d0:74:1:2:64 on bridge100 ifscope permanent [bridge]
? (192.168.64.2) at da:a:f7:5:e0:1 on bridge100 ifscope [bridge]
mac-mini.local (10.0.0.7) at (incomplete) on en0 ifscope [ethernet]
? (172.17.0.2) at 02:42:ac:11:00:02 [ether] on docker0
? (172.17.0.3) at 02:42:ac:11:00:03 [ether] PERM on docker0
? (172.17.0.4) at <incomplete> on docker0
? (192.168.64.1) at da:a:f7:5:e0 on bridge100 ifscope [bridge]
"""
    assert arp_table(table) == [
        ArpEntry("192.168.64.1", MacAddress(bytes.fromhex("bed074010264")), "bridge100", permanent=True),
        ArpEntry("192.168.64.2", MacAddress(bytes.fromhex("da0af705e001")), "bridge100"),
        ArpEntry("10.0.0.7", None, "en0"),
        ArpEntry("172.17.0.2", MacAddress(bytes.fromhex("0242ac110002")), "docker0"),
        ArpEntry("172.17.0.3", MacAddress(bytes.fromhex("0242ac110003")), "docker0", permanent=True),
        ArpEntry("172.17.0.4", None, "docker0"),
    ]


hosts = st.sampled_from(["?", "mac.local", "a(b)c", "x (1.2.3.4) at 0:0:0:0:0:0 on en9", "naïve.lan"])
interfaces = st.sampled_from(["bridge100", "en0", "vlan0", "utun3"])


@given(st.lists(st.tuples(hosts, addresses, st.none() | octets, interfaces, st.booleans()), max_size=6))
def test_every_arp_line_is_read(rows: list[tuple[str, str, bytes | None, str, bool]]) -> None:
    lines, expected = [], []
    for host, ip, mac, interface, permanent in rows:
        text = "(incomplete)" if mac is None else ":".join(f"{octet:x}" for octet in mac)
        flags = " permanent" if permanent else ""
        lines.append(f"{host} ({ip}) at {text} on {interface} ifscope{flags} [ethernet]\n")
        expected.append(ArpEntry(ip, None if mac is None else MacAddress(mac), interface, permanent))
    assert arp_table("".join(lines)) == expected


@given(st.text(max_size=300))
def test_any_text_is_an_arp_table(text: str) -> None:
    arp_table(text)
