"""Who uses which address, read off captured Ethernet frames: the pcap stream of ``tcpdump -w -`` and the frames in it.

Pure. Guests choose what they send, so a frame is a hint that the caller checks, never a proof.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.machines.addresses import MacAddress

MAX_RECORD_BYTES = 262_144
"""MAXIMUM_SNAPLEN of libpcap: a longer record is not one."""
_FILE_HEADER = 24
_RECORD_HEADER = 16
_ETHERNET_LINK = 1  # LINKTYPE_ETHERNET
_BYTE_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",  # microseconds, nanoseconds
    b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">",
}  # fmt: skip

_IPV4, _ARP, _VLAN_TAGS = 0x0800, 0x0806, (0x8100, 0x88A8)
_UDP = 17
_DHCP_SERVER, _DHCP_CLIENT = 67, 68
_DHCP_COOKIE = bytes([99, 130, 83, 99])  # RFC 2131, section 3
_DHCP_OPTIONS = 240
_OPTION_PAD, _OPTION_MESSAGE_TYPE, _OPTION_END = 0, 53, 255
_DHCPACK = 5


@dataclass(frozen=True, slots=True)
class Sighting:
    """`mac` was seen to use `ip`."""

    mac: MacAddress
    ip: str


class PcapReader:
    """The frames of a pcap stream, whatever its chunks (draft-ietf-opsawg-pcap)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._order = ""

    def feed(self, data: bytes) -> list[bytes]:
        """Frames completed by `data`. Raises RemoteProtocolError for what is no Ethernet capture; read no further."""
        self._buffer += data
        if not self._order:
            if len(self._buffer) < _FILE_HEADER:
                return []
            self._read_header()
        return list(self._records())

    def _read_header(self) -> None:
        order = _BYTE_ORDERS.get(bytes(self._buffer[:4]))
        if order is None:
            raise RemoteProtocolError(f"a capture starts with {self._buffer[:4].hex()}, which is not pcap")
        (link,) = struct.unpack_from(order + "I", self._buffer, 20)
        if link & 0xFFFF != _ETHERNET_LINK:  # the upper half tells of frame check sequences
            raise RemoteProtocolError(f"a capture has link type {link & 0xFFFF}, which is not Ethernet")
        self._order = order
        del self._buffer[:_FILE_HEADER]

    def _records(self) -> Iterator[bytes]:
        while len(self._buffer) >= _RECORD_HEADER:
            (length,) = struct.unpack_from(self._order + "I", self._buffer, 8)
            if length > MAX_RECORD_BYTES:
                raise RemoteProtocolError(f"a record of {length} bytes in a capture")
            if len(self._buffer) < _RECORD_HEADER + length:
                return
            yield bytes(self._buffer[_RECORD_HEADER : _RECORD_HEADER + length])
            del self._buffer[: _RECORD_HEADER + length]


def is_guest_address(ip: IPv4Address) -> bool:
    """Whether a guest can be reached there: not 0.0.0.0, loopback, multicast, broadcast or self-assigned."""
    return not (
        ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local or ip.is_reserved
    )  # the limited broadcast address is reserved


def _sighting(mac: bytes, ip: bytes) -> Sighting | None:
    address = IPv4Address(ip)
    if mac[0] & 1 or mac == bytes(6) or not is_guest_address(address):
        return None
    return Sighting(MacAddress(mac), str(address))


def sighting(frame: bytes) -> Sighting | None:
    """What a frame tells: the sender of an ARP message, the client of a DHCPACK, the source of an IPv4 packet.

    None for every other frame, and for one that is cut short.
    """
    kind, offset = _payload(frame)
    payload = frame[offset:]
    if kind == _ARP:
        return _arp_sender(payload)
    if kind == _IPV4 and len(payload) >= 20 and payload[0] >> 4 == 4:
        acknowledged = _dhcp_client(payload)
        return acknowledged if acknowledged is not None else _sighting(frame[6:12], payload[12:16])
    return None


def _payload(frame: bytes) -> tuple[int, int]:
    """EtherType and start of the payload behind VLAN tags; type 0 when there is none."""
    offset = 12
    while len(frame) >= offset + 2:
        (kind,) = struct.unpack_from("!H", frame, offset)
        if kind not in _VLAN_TAGS:
            return kind, offset + 2
        offset += 4
    return 0, len(frame)


def _arp_sender(payload: bytes) -> Sighting | None:
    """RFC 826, Ethernet and IPv4 only. A probe (RFC 5227) has no sender address yet."""
    if len(payload) < 28 or payload[:6] != b"\x00\x01\x08\x00\x06\x04":
        return None
    return _sighting(payload[8:14], payload[14:18])


def _dhcp_client(packet: bytes) -> Sighting | None:
    header_length = (packet[0] & 0x0F) * 4
    datagram = packet[header_length:]
    (fragment,) = struct.unpack_from("!H", packet, 6)
    if packet[9] != _UDP or header_length < 20 or len(datagram) < 8 or fragment & 0x1FFF:
        return None
    message = datagram[8:]
    if struct.unpack_from("!HH", datagram) != (_DHCP_SERVER, _DHCP_CLIENT) or len(message) < _DHCP_OPTIONS:
        return None
    if message[:3] != b"\x02\x01\x06" or message[236:240] != _DHCP_COOKIE:
        return None
    if _message_type(message[_DHCP_OPTIONS:]) != _DHCPACK:
        return None
    return _sighting(message[28:34], message[16:20])


def _message_type(options: bytes) -> int | None:
    offset = 0
    while offset < len(options) and options[offset] != _OPTION_END:
        if options[offset] == _OPTION_PAD:
            offset += 1
            continue
        value = options[offset + 2 : offset + 2 + options[offset + 1]] if offset + 1 < len(options) else b""
        if options[offset] == _OPTION_MESSAGE_TYPE:
            return value[0] if len(value) == 1 else None
        offset += 2 + (options[offset + 1] if offset + 1 < len(options) else 0)
    return None


def capture_filter(mac: MacAddress) -> str:
    """What of `mac` is worth capturing, in pcap-filter(7)."""
    return (
        f"(ether src {mac} and (arp or (ip and not src host 0.0.0.0))) "
        f"or (udp and src port {_DHCP_SERVER} and dst port {_DHCP_CLIENT})"
    )
