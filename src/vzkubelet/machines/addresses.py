"""MAC and IP addresses of guests: derivation, and the readers of lease files and ARP tables. Pure functions.

MAC addresses are compared as six bytes, never as text: macOS strips leading zeros of octets (``da:a:f7:5:e0:1``), and a
substring match finds the wrong guest (``a:…`` in ``da:…``).
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

_ARP_LINE = re.compile(
    r".*\((?P<ip>[0-9.]+)\) at (?P<mac>[(<]incomplete[)>]|[0-9A-Fa-f:]+) "
    r"(?P<kind>(\[\w+\] )?(PERM )?)on (?P<interface>\S+)(?P<flags>.*)"
)
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}")
_HEXADECIMAL = re.compile(r"(0x)?[0-9A-Fa-f]{1,16}")
_NEVER = 253_402_300_800
"""The year 10000. A lease without end is written as (time_t) -1, unsigned."""
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
        if not _MAC.fullmatch(text.strip(" ")):
            return None
        return cls(bytes(int(part, 16) for part in text.strip(" ").split(":")))


@dataclass(frozen=True, slots=True)
class Lease:
    """One DHCP lease. `expires_at` in seconds since the epoch, None = never; `client_id` as hex octets or empty."""

    mac: MacAddress
    ip: str
    expires_at: float | None
    client_id: str = ""

    def is_valid(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True)
class BootpdLease:
    """One lease of macOS' DHCP server. `mac` is what the client said it is, None when it identified itself otherwise
    (a DUID, as systemd's client does); `client_id` is unique in the file; `name` is chosen by the guest."""

    ip: str
    mac: MacAddress | None
    client_id: str
    expires_at: float | None
    name: str = ""

    def is_valid(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True)
class ArpEntry:
    """`mac` is None while nobody has answered; `permanent` entries are the host's own addresses and static ones."""

    ip: str
    mac: MacAddress | None
    interface: str
    permanent: bool = False


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


def bootpd_leases(text: str) -> list[BootpdLease]:
    """``/var/db/dhcpd_leases`` of macOS: blocks of ``{``, tab-indented ``key=value`` lines, ``}`` (bootp, NICache.c).

    `name` is what the guest calls itself and may hold anything but a line end (bootpd turns that and NUL into dots):
    only a whole line opens or ends a block, and only a line feed ends a line, so that no name can forge a lease.
    Blocks without their end, an address or an expiry are left out: the file may be read while it is being written.
    """
    leases = []
    fields: dict[str, str] | None = None
    for line in text.split("\n"):
        if line == "{":
            fields = {}
        elif fields is None:
            continue
        elif line == "}":
            lease = _bootpd_lease(fields)
            if lease is not None:
                leases.append(lease)
            fields = None
        else:
            key, separator, value = line.lstrip("\t ").partition("=")
            if separator:
                fields.setdefault(key, value)
    return leases


def _bootpd_lease(fields: dict[str, str]) -> BootpdLease | None:
    ip = _ipv4(fields.get("ip_address", ""))
    expiry = fields.get("lease", "")
    if ip is None or not _HEXADECIMAL.fullmatch(expiry):
        return None
    kind, _, hardware = fields.get("hw_address", "").partition(",")
    value = int(expiry, 16)
    return BootpdLease(
        ip=ip,
        mac=MacAddress.parse(hardware) if kind == _ETHERNET else None,
        client_id=fields.get("identifier") or fields.get("hw_address", ""),
        expires_at=None if value >= _NEVER else float(value),
        name=fields.get("name", ""),
    )


def macos_leases(text: str) -> list[Lease]:
    """The leases of `bootpd_leases` that name a MAC."""
    return [Lease(lease.mac, lease.ip, lease.expires_at) for lease in bootpd_leases(text) if lease.mac is not None]


def bootptab_reservations(text: str) -> list[BootpdLease]:
    """``/etc/bootptab`` of macOS, where vmnet keeps addresses that are set aside for a MAC: leases without end.

    ``name type address ip`` per line (bootpd(8)); type 1 is Ethernet. Comments and what else is there are left out.
    """
    reservations = []
    for line in text.split("\n"):
        fields = line.split()
        if len(fields) < 4 or line.startswith("#") or fields[1] != _ETHERNET:
            continue
        mac, ip = MacAddress.parse(fields[2]), _ipv4(fields[3])
        if mac is not None and ip is not None:
            reservations.append(BootpdLease(ip, mac, f"{_ETHERNET},{fields[2]}", None, fields[0]))
    return reservations


def newest_lease(leases: Iterable[Lease], mac: MacAddress, now: float) -> Lease | None:
    """The valid lease of `mac` that ends last."""
    mine = [lease for lease in leases if lease.mac == mac and lease.is_valid(now)]
    return max(mine, key=lambda lease: float("inf") if lease.expires_at is None else lease.expires_at, default=None)


def arp_table(text: str) -> list[ArpEntry]:
    """``arp -an``: ``? (192.168.64.2) at da:a:f7:5:e0:1 on bridge100 ifscope [bridge]``; odd lines are left out.

    net-tools' dialect (``[ether] PERM on``, ``<incomplete>``) is read too.
    """
    entries = []
    for line in text.split("\n"):
        found = _ARP_LINE.match(line)
        if found is None:
            continue
        ip, mac = _ipv4(found["ip"]), MacAddress.parse(found["mac"])
        if ip is None or (mac is None and "incomplete" not in found["mac"]):
            continue
        permanent = "PERM" in found["kind"] or "permanent" in found["flags"].split()
        entries.append(ArpEntry(ip, mac, found["interface"], permanent))
    return entries


def arp_entries(text: str) -> list[tuple[MacAddress, str]]:
    """The entries of `arp_table` that have an answer."""
    return [(entry.mac, entry.ip) for entry in arp_table(text) if entry.mac is not None]
