"""MAC and IP addresses of guests: derivation, and the readers of lease files and ARP tables. Pure functions.

MAC addresses are compared as six bytes, never as text: macOS strips leading zeros of octets (``da:a:f7:5:e0:1``), and a
substring match finds the wrong guest (``a:…`` in ``da:…``).
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

_ARP_LINE = re.compile(r"\((?P<ip>[0-9.]+)\) at (?P<mac>[0-9A-Fa-f:]+) on (?P<interface>\S+)")
_ETHERNET = "1"
"""ARP hardware type that macOS puts before a MAC (``hw_address=1,…``); ``ff`` marks a DUID, which has no MAC."""


@dataclass(frozen=True, slots=True)
class MacAddress:
    octets: bytes

    def __str__(self) -> str:
        return self.octets.hex(":")

    @classmethod
    def parse(cls, text: str) -> "MacAddress | None":
        """Six hexadecimal octets, each of one or two digits; None for anything else."""
        parts = text.strip().split(":")
        if len(parts) != 6 or not all(1 <= len(part) <= 2 for part in parts):
            return None
        try:
            return cls(bytes(int(part, 16) for part in parts))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Lease:
    """One DHCP lease. `expires_at` in seconds since the epoch, None = never; `client_id` as hex octets or empty."""

    mac: MacAddress
    ip: str
    expires_at: float | None
    client_id: str = ""

    def is_valid(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


def machine_mac(uid: str) -> MacAddress:
    """The MAC of a pod's machine: the same over restarts, locally administered, unicast."""
    digest = hashlib.sha256(f"machine {uid}".encode()).digest()
    return MacAddress(bytes([(digest[0] & 0xFC) | 0x02]) + digest[1:6])


def _ipv4(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def dnsmasq_leases(text: str) -> list[Lease]:
    """The lease file of dnsmasq: ``expiry mac ip hostname client-id`` per line, expiry 0 = never (dnsmasq(8)).

    Lines of another form (IPv6, the server's DUID, a line being rewritten) are left out.
    """
    leases = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != 5 or not fields[0].isdecimal():
            continue
        mac, ip = MacAddress.parse(fields[1]), _ipv4(fields[2])
        if mac is None or ip is None:
            continue
        expiry = int(fields[0])
        leases.append(Lease(mac, ip, float(expiry) if expiry else None, "" if fields[4] == "*" else fields[4]))
    return leases


def macos_leases(text: str) -> list[Lease]:
    """``/var/db/dhcpd_leases`` of macOS' bootpd: blocks ``{ key=value … }``; lease is the expiry in hex.

    Octets are zero-stripped, a block may carry a DUID instead of a MAC (left out), several blocks may name one MAC,
    and the file is rewritten in place: a block without its end is left out.
    """
    leases = []
    for block in re.findall(r"\{([^{}]*)\}", text):
        pairs = (line.strip().partition("=") for line in block.splitlines())
        fields = {key: value for key, separator, value in pairs if separator}
        kind, _, address = fields.get("hw_address", "").partition(",")
        mac = MacAddress.parse(address) if kind == _ETHERNET else None
        ip = _ipv4(fields.get("ip_address", ""))
        try:
            expiry = float(int(fields.get("lease", ""), 16))
        except ValueError:
            continue
        if mac is not None and ip is not None:
            leases.append(Lease(mac, ip, expiry))
    return leases


def newest_lease(leases: Iterable[Lease], mac: MacAddress, now: float) -> Lease | None:
    """The valid lease of `mac` that ends last."""
    mine = [lease for lease in leases if lease.mac == mac and lease.is_valid(now)]
    return max(mine, key=lambda lease: float("inf") if lease.expires_at is None else lease.expires_at, default=None)


def arp_entries(text: str) -> list[tuple[MacAddress, str]]:
    """``arp -an``: ``? (192.168.64.2) at da:a:f7:5:e0:1 on bridge100 …``; incomplete and odd lines are left out."""
    entries = []
    for found in _ARP_LINE.finditer(text):
        mac, ip = MacAddress.parse(found["mac"]), _ipv4(found["ip"])
        if mac is not None and ip is not None:
            entries.append((mac, ip))
    return entries
