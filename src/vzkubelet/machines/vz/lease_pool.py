"""The addresses that macOS' DHCP server has for guests of the shared network, and what goes wrong with them. Pure."""

import datetime
import ipaddress
import plistlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vzkubelet.machines.addresses import BootpdLease, MacAddress

VMNET_PLIST = "/Library/Preferences/SystemConfiguration/com.apple.vmnet.plist"
BOOTPTAB = "/etc/bootptab"
"""Where addresses that are reserved for a MAC are, as softnet reserves them."""
SHORTER_LEASES = (
    "sudo defaults write /Library/Preferences/SystemConfiguration/com.apple.InternetSharing.default.plist "
    "bootpd -dict DHCPLeaseTimeSecs -int 600"
)
"""Makes leases last 10 minutes instead of a day, for guests started from then on (tart's FAQ, softnet's own way)."""
_DEFAULT_ADDRESS, _DEFAULT_MASK = "192.168.64.1", "255.255.255.0"
_CLOCK_SLACK_S = 2.0
"""Leases end at whole seconds."""
_UNUSABLE = 3
"""Network, host and broadcast address of a subnet."""


def shared_subnet(plist: bytes | None) -> ipaddress.IPv4Network:
    """The subnet of vmnet's shared network as configured in `VMNET_PLIST`; what is absent or unreadable is default."""
    try:
        settings = plistlib.loads(plist) if plist else {}
    except Exception:  # noqa: BLE001 - plistlib raises whatever its parsers do; a damaged file is as good as none
        settings = {}
    if not isinstance(settings, dict):
        settings = {}
    address = settings.get("Shared_Net_Address", _DEFAULT_ADDRESS)
    mask = settings.get("Shared_Net_Mask", _DEFAULT_MASK)
    try:
        return ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
    except ValueError:
        return ipaddress.IPv4Network(f"{_DEFAULT_ADDRESS}/{_DEFAULT_MASK}", strict=False)


@dataclass(frozen=True, slots=True)
class PoolState:
    """How full a subnet is. `next_free_at` in seconds since the epoch, None when no lease ends."""

    subnet: ipaddress.IPv4Network
    size: int
    leased: int
    next_free_at: float | None

    @property
    def is_exhausted(self) -> bool:
        return self.leased >= self.size

    def explanation(self) -> str:
        """Cause and remedy of a full pool."""
        when = (
            "none of them ends"
            if self.next_free_at is None
            else f"the next is free at {datetime.datetime.fromtimestamp(self.next_free_at, datetime.UTC):%H:%M:%S} UTC"
        )
        return (
            f"all {self.size} addresses of {self.subnet} are leased and {when}; macOS leases an address for a day "
            f"unless told otherwise, so tell it: {SHORTER_LEASES}"
        )


def pool_state(leases: Iterable[BootpdLease], subnet: ipaddress.IPv4Network, now: float) -> PoolState:
    """Counts addresses, not leases; bootpd takes an address again only after its lease has ended."""
    ends: dict[str, float | None] = {}
    for lease in leases:
        if lease.is_valid(now) and ipaddress.IPv4Address(lease.ip) in subnet:
            ends[lease.ip] = lease.expires_at
    return PoolState(
        subnet,
        max(subnet.num_addresses - _UNUSABLE, 1),
        len(ends),
        min((end for end in ends.values() if end is not None), default=None),
    )


def end_of(lease: BootpdLease) -> float:
    return float("inf") if lease.expires_at is None else lease.expires_at


def guest_leases(leases: Iterable[BootpdLease], mac: MacAddress) -> list[BootpdLease]:
    """The leases of one guest, newest first, ended ones too."""
    return sorted((lease for lease in leases if lease.mac == mac), key=end_of, reverse=True)


def issued_since(
    leases: Iterable[BootpdLease], since: float, before: Mapping[str, BootpdLease], written_at: float | None
) -> frozenset[str]:
    """Addresses leased or renewed since a moment: every guest asks for its address again when it boots.

    The file tells when leases end, not when they began. One that differs from what was there `before` (by client) is
    new; the others are taken to be as long as the one that ends last, which was new when the file was written. A lease
    without end counts.
    """
    leases = list(leases)
    finite = [end_of(lease) for lease in leases if lease.expires_at is not None]
    length = max(finite) - written_at if finite and written_at is not None else float("inf")
    return frozenset(
        lease.ip
        for lease in leases
        if lease.expires_at is None
        or before.get(lease.client_id) != lease
        or lease.expires_at - length >= since - _CLOCK_SLACK_S
    )


def doubly_leased(leases: Iterable[BootpdLease], now: float) -> dict[str, list[BootpdLease]]:
    """Addresses that more than one client holds a valid lease of."""
    holders: defaultdict[str, dict[str, BootpdLease]] = defaultdict(dict)
    for lease in leases:
        if lease.is_valid(now):
            holders[lease.ip][lease.client_id] = lease
    return {ip: list(clients.values()) for ip, clients in holders.items() if len(clients) > 1}
