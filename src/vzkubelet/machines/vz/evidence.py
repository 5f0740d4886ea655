"""Which address a guest has, from everything that is known about it. Pure.

Every source can be wrong, and the guests themselves feed most of them: a guest may identify itself to the DHCP server
by another guest's MAC, answer for another's address, or keep an address whose lease has ended. What the host's own
kernel last saw answer (ARP) decides between two guests; it is never overruled.
"""

import datetime
import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vzkubelet.machines.addresses import ArpEntry, BootpdLease, MacAddress
from vzkubelet.machines.vz.frames import is_guest_address
from vzkubelet.machines.vz.lease_pool import doubly_leased, end_of, guest_leases

CONFIRMATION_S = 1.0
"""How long the host is given to learn who answers at an address; when it knows nothing by then, a lease is believed."""
DOUBT_S = 45.0
"""How long a guest that has just started is given to ask for an address, before one of an earlier guest with its MAC is
taken to be its own."""
MAX_PROMPTS = 16


class Source(StrEnum):
    """Where an address was learned, the most direct first."""

    CAPTURE = "capture"
    AGENT = "guest agent"
    LEASE = "lease"
    ARP = "arp"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at one moment about the guest with `mac`.

    `arp` is None where the table cannot be read. `captured` are addresses seen in the guest's own frames, newest last;
    `told` is what its agent says. `waited_s` counts from the first look. `asked` are addresses that the host was made
    to ask for at least `CONFIRMATION_S` before `arp` was read. A guest that is bridged to `interface` has ARP entries
    there only; one that is not is behind vmnet's own bridge or in its `subnet`, and what the ARP table says of its MAC
    elsewhere was made up by somebody on the local network.
    """

    mac: MacAddress
    leases: Sequence[BootpdLease] = ()
    arp: Sequence[ArpEntry] | None = None
    captured: Sequence[str] = ()
    told: str | None = None
    interface: str | None = None
    waited_s: float = 0.0
    now: float = 0.0
    subnet: ipaddress.IPv4Network | None = None
    asked: Collection[str] = ()
    current: frozenset[str] | None = None
    """Addresses leased since the guest was started; None where that says nothing (bridged, or started long ago)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ip` is None while nothing is believed. `refusals` tell people why claims were not, and what mends it;
    `prompts` are addresses that should be sent something, so that the ARP table learns who answers there."""

    ip: str | None = None
    source: Source | None = None
    refusals: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def judge(evidence: Evidence) -> Verdict:
    """The best claim that nothing contradicts."""
    table = _Table(evidence)
    refusals = []
    for ip, source in _claims(evidence, table):
        other = table.other_owner(ip)
        if other is not None:
            refusals.append(_duplicate(evidence, ip, source, other))
        elif _is_believed(evidence, table, ip, source):
            return Verdict(ip, source, tuple(refusals))
    return Verdict(refusals=tuple(refusals), prompts=_prompts(evidence, table))


_HEARSAY = (Source.LEASE, Source.AGENT)
"""The guest has a say in them: they wait for the ARP table."""
_REMEMBERED = (Source.LEASE, Source.ARP)
_VMNET_BRIDGE = "bridge"


class _Table:
    """The ARP table, by address. An address may be in it once per interface."""

    def __init__(self, evidence: Evidence) -> None:
        self._mac = evidence.mac
        self._subnet = evidence.subnet
        self._bridged = evidence.interface is not None
        self._entries: dict[str, list[ArpEntry]] = {}
        for entry in evidence.arp or ():
            if evidence.interface in (None, entry.interface):
                self._entries.setdefault(entry.ip, []).append(entry)

    def knows(self, ip: str) -> bool:
        return ip in self._entries

    def confirms(self, ip: str) -> bool:
        return any(entry.mac == self._mac for entry in self._entries.get(ip, ()))

    def other_owner(self, ip: str) -> ArpEntry | None:
        """Who answers at `ip` if it is somebody else."""
        if self.confirms(ip):
            return None
        return next((entry for entry in self._entries.get(ip, ()) if entry.mac is not None), None)

    def addresses(self) -> list[str]:
        """Where the guest answers. Permanent entries were written by people or are the host's own."""
        return [
            ip
            for ip, entries in self._entries.items()
            if any(entry.mac == self._mac and not entry.permanent and self._is_near(entry) for entry in entries)
            and is_guest_address(ipaddress.IPv4Address(ip))
        ]

    def _is_near(self, entry: ArpEntry) -> bool:
        inside = self._subnet is not None and ipaddress.IPv4Address(entry.ip) in self._subnet
        return self._bridged or inside or entry.interface.startswith(_VMNET_BRIDGE)


def _claims(evidence: Evidence, table: _Table) -> list[tuple[str, Source]]:
    """Addresses that something says are the guest's, the most credible first, each once."""
    valid = [lease for lease in guest_leases(evidence.leases, evidence.mac) if lease.is_valid(evidence.now)]
    in_force = sorted((lease for lease in evidence.leases if lease.is_valid(evidence.now)), key=end_of)
    ends = {lease.ip: end_of(lease) for lease in in_force}
    # Several entries may name the guest's MAC, left by an earlier guest that had it: the latest lease is the present.
    answering = sorted(table.addresses(), key=lambda ip: ends.get(ip, 0.0), reverse=True)
    claims = [(ip, Source.CAPTURE) for ip in reversed(evidence.captured)]
    claims += [(valid[0].ip, Source.LEASE)] if valid else []
    claims += [(ip, Source.ARP) for ip in answering]
    if valid and answering and ends[valid[0].ip] < ends.get(answering[0], 0.0):
        claims.sort(key=lambda claim: claim[1] is Source.LEASE)  # it has since got another, under another identifier
    if evidence.told is not None:
        # An agent names the guest's first interface, which need not be the one on this network.
        confirmed = not claims or any(ip == evidence.told for ip, _ in claims)
        claims.insert(0 if confirmed else len(claims), (evidence.told, Source.AGENT))
    first: dict[str, Source] = {}
    for ip, source in claims:
        first.setdefault(ip, source)
    return list(first.items())


def _is_believed(evidence: Evidence, table: _Table, ip: str, source: Source) -> bool:
    # The MAC may have been another guest's: its lease is valid for a day, its ARP entry for twenty minutes.
    is_old = source in _REMEMBERED and evidence.current is not None and ip not in evidence.current
    if is_old and evidence.waited_s < DOUBT_S:
        return False
    return source not in _HEARSAY or table.confirms(ip) or _needs_no_confirmation(evidence, table, ip)


def _needs_no_confirmation(evidence: Evidence, table: _Table, ip: str) -> bool:
    """Without an ARP table there is none to wait for; an entry without an answer says that nobody is there yet."""
    return evidence.arp is None or (ip in evidence.asked and not table.knows(ip))


def _prompts(evidence: Evidence, table: _Table) -> tuple[str, ...]:
    """The guest's own lease, and leases of clients that are not known by MAC: one of them may be the guest."""
    asked = [
        lease.ip
        for lease in sorted(evidence.leases, key=lambda lease: (lease.mac == evidence.mac, end_of(lease)), reverse=True)
        if lease.is_valid(evidence.now) and lease.mac in (None, evidence.mac) and not table.confirms(lease.ip)
    ]
    told = [] if evidence.told is None else [evidence.told]
    return tuple(dict.fromkeys(told + asked))[:MAX_PROMPTS]


def _duplicate(evidence: Evidence, ip: str, source: Source, other: ArpEntry) -> str:
    if other.permanent:
        owner = f"{ip} is an address of this host's interface {other.interface} ({other.mac})"
    else:
        owner = f"{other.mac} answers at {ip} on {other.interface}"
    return (
        f"{source} gives guest {evidence.mac} the address {ip}, but {owner}: two machines have one address, or a guest "
        f"pretends to be another; find the other one with `arp -an | grep '({ip})'` and stop it, then start this pod "
        "again"
    )


def troubles(evidence: Evidence) -> list[str]:
    """What may keep the guest from being found, for people: ended leases and addresses leased twice."""
    found = []
    mine = guest_leases(evidence.leases, evidence.mac)
    if mine and not any(lease.is_valid(evidence.now) for lease in mine):
        ended = datetime.datetime.fromtimestamp(end_of(mine[0]), datetime.UTC)
        found.append(f"its lease of {mine[0].ip} ended at {ended:%Y-%m-%d %H:%M:%S} UTC and was not renewed")
    own = {lease.ip for lease in mine}
    for ip, holders in doubly_leased(evidence.leases, evidence.now).items():
        if ip in own:
            found.append(
                f"{ip} is leased to {_names(holders)} at once: the lease file is damaged; stop all guests, then "
                "`sudo rm /var/db/dhcpd_leases`"
            )
    return found


def _names(holders: Iterable[BootpdLease]) -> str:
    return " and ".join(sorted(str(lease.mac or lease.client_id) for lease in holders))
