"""Captured frames: the pcap stream in any chunks, and what ARP, DHCP and IPv4 frames tell of a guest's address."""

import ipaddress
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.vz.frames import PcapReader, Sighting, capture_filter, is_guest_address, sighting

BROADCAST, SERVER = b"\xff" * 6, bytes.fromhex("be0000000001")
macs = st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and mac != bytes(6))
ips = st.ip_addresses(v=4).filter(lambda ip: is_guest_address(ipaddress.IPv4Address(int(ip))))
tags = st.lists(st.sampled_from([b"\x81\x00\x00\x05", b"\x88\xa8\x0f\xff"]), max_size=2).map(b"".join)


def ipv4(source: bytes, target: bytes, payload: bytes = b"", *, protocol: int = 17, words: int = 0) -> bytes:
    length = 20 + words * 4
    header = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 0, 0, 64, protocol, 0)
    return header + source + target + bytes(words * 4) + payload


def arp(mac: bytes, ip: bytes, operation: int = 1) -> bytes:
    return b"\x00\x01\x08\x00\x06\x04" + struct.pack("!H", operation) + mac + ip + bytes(6) + b"\x0a\x00\x00\x01"


def dhcp_reply(mac: bytes, ip: bytes, kind: int, padding: int = 0) -> bytes:
    message = b"\x02\x01\x06\x00" + bytes(12) + ip + bytes(8) + mac + bytes(10 + 64 + 128)
    message += bytes([99, 130, 83, 99]) + bytes(padding) + bytes([12, 2, 65, 66, 53, 1, kind, 255])
    datagram = struct.pack("!HHHH", 67, 68, 8 + len(message), 0) + message
    return ipv4(b"\x0a\x00\x00\x01", b"\xff" * 4, datagram)


def frame(source: bytes, kind: int, payload: bytes, tag: bytes = b"") -> bytes:
    return BROADCAST + source + tag + struct.pack("!H", kind) + payload


@given(macs, ips, st.sampled_from([1, 2]), tags)
def test_the_sender_of_an_arp_message_has_its_address(mac: bytes, ip: ipaddress.IPv4Address, kind: int, tag: bytes):
    assert sighting(frame(SERVER, 0x0806, arp(mac, ip.packed, kind), tag)) == Sighting(MacAddress(mac), str(ip))


@given(macs, ips, tags, st.integers(0, 10), st.integers(0, 8))
def test_the_client_of_a_dhcp_acknowledgement_has_its_address(
    mac: bytes, ip: ipaddress.IPv4Address, tag: bytes, padding: int, kind: int
):
    found = sighting(frame(SERVER, 0x0800, dhcp_reply(mac, ip.packed, kind, padding), tag))
    assert found == (Sighting(MacAddress(mac), str(ip)) if kind == 5 else Sighting(MacAddress(SERVER), "10.0.0.1"))


@given(macs, ips, tags, st.integers(0, 10), st.binary(max_size=40))
def test_the_source_of_a_packet_has_its_address(
    mac: bytes, ip: ipaddress.IPv4Address, tag: bytes, words: int, payload: bytes
):
    packet = ipv4(ip.packed, b"\x08\x08\x08\x08", payload, protocol=6, words=words)
    assert sighting(frame(mac, 0x0800, packet, tag)) == Sighting(MacAddress(mac), str(ip))


@pytest.mark.parametrize("ip", ["0.0.0.0", "127.0.0.1", "169.254.3.4", "224.0.0.251", "255.255.255.255"])
def test_an_address_that_no_guest_can_be_reached_at_is_none(ip: str) -> None:
    packed = ipaddress.IPv4Address(ip).packed
    mac = bytes.fromhex("020000000001")
    assert sighting(frame(mac, 0x0806, arp(mac, packed))) is None
    assert sighting(frame(mac, 0x0800, ipv4(packed, b"\x08\x08\x08\x08"))) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_a_frame(data: bytes) -> None:
    sighting(data)


@given(macs, ips, st.data())
def test_a_frame_that_is_cut_short_tells_nothing_else(mac: bytes, ip: ipaddress.IPv4Address, data: st.DataObject):
    whole = frame(mac, 0x0800, dhcp_reply(mac, ip.packed, 5))
    cut = sighting(whole[: data.draw(st.integers(0, len(whole)))])
    assert cut in (None, Sighting(MacAddress(mac), str(ip)), Sighting(MacAddress(mac), "10.0.0.1"))


def pcap(frames: list[bytes], order: str, magic: int) -> bytes:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 1600, 1)
    for one in frames:
        data += struct.pack(order + "IIII", 1, 2, len(one), len(one) + 7) + one
    return data


@given(
    st.lists(st.binary(max_size=60), max_size=5),
    st.sampled_from("<>"),
    st.sampled_from([0xA1B2C3D4, 0xA1B23C4D]),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_a_capture_is_read_in_any_chunks(frames: list[bytes], order: str, magic: int, cuts: list[int]) -> None:
    data = pcap(frames, order, magic)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = PcapReader()
    read = [one for start, end in itertools.pairwise(bounds) for one in reader.feed(data[start:end])]
    assert read == frames


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"tcpdump: en9: No such device exists\n", "not pcap"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1600, 12), "not Ethernet"),
        (pcap([], "<", 0xA1B2C3D4) + struct.pack("<IIII", 0, 0, 2**31, 0), "record of 2147483648"),
    ],
)
def test_what_is_no_ethernet_capture_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        PcapReader().feed(data)


def test_only_the_guests_own_frames_and_dhcp_are_captured() -> None:
    text = capture_filter(MacAddress(bytes.fromhex("0a000000000f")))
    assert "ether src 0a:00:00:00:00:0f" in text
    assert "src port 67" in text
