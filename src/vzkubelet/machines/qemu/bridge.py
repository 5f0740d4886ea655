"""The bridge of one driver root: guests' taps and the Docker network of the side-cars meet on it.

Several nodes may live on one machine, so names and subnet are the root's own. A guest's tap exists only as long as a
process holds its descriptor, and only the guest's QEMU does: no tap is ever left over.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import ipaddress
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import msgspec

from vzkubelet.aio import run_blocking
from vzkubelet.errors import DeadlineExceeded, Exhausted, MachineFault, Unavailable, clip
from vzkubelet.files import write_atomic
from vzkubelet.machines.addresses import MacAddress, newest_lease
from vzkubelet.machines.process import run
from vzkubelet.machines.qemu import firewall
from vzkubelet.machines.qemu.dhcp import LeaseServer, LeaseServerConfig
from vzkubelet.machines.qemu.network import Attachment
from vzkubelet.ports import GuestAddress, HostNetwork

_log = logging.getLogger(__name__)

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI (bare frames), IFF_VNET_HDR (offloads)
_INTERFACES = Path("/sys/class/net")
_MUTEX = "\0vzkubelet-guest-network"
"""Abstract unix socket: one holder per network namespace, freed by the kernel with its holder."""
_MUTEX_TIMEOUT_S = 60.0
SUBNETS = [f"192.168.{third}.0/24" for third in range(64, 128)] + [f"10.213.{third}.0/24" for third in range(256)]
"""Away from Docker's first pools (172.17-31), Kubernetes' usual ones (10.96, 10.244) and home routers (192.168.0-1)."""


class NetworkRecord(msgspec.Struct, frozen=True):
    subnet: str


class _Route(msgspec.Struct):
    """What is read of ``ip -json route``."""

    dst: str = "default"
    dev: str = ""


def short_hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def bridge_name(root: Path) -> str:
    return f"vzk{short_hash(str(root), 8)}"


def tap_name(root: Path, uid: str) -> str:
    """At most 15 characters (IFNAMSIZ), with the root's share and the machine's."""
    return f"vzt{short_hash(str(root), 5)}{short_hash(uid, 7)}"


def taken_networks(routes: bytes, own: str) -> list[ipaddress.IPv4Network]:
    """Destinations of ``ip -json -4 route show table all`` that are not our own bridge's. Pure."""
    networks = []
    for route in msgspec.json.decode(routes or b"[]", type=list[_Route]):
        if route.dev == own or route.dst == "default":
            continue
        with contextlib.suppress(ValueError):
            networks.append(ipaddress.IPv4Network(route.dst, strict=False))
    return networks


def choose_subnet(root: Path, wanted: str | None, taken: Collection[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The subnet used before if it is free, else the first free one from a place of the root's own. Pure.

    Raises: Exhausted.
    """
    start = int(short_hash(str(root), 8), 16) % len(SUBNETS)
    for text in ([wanted] if wanted else []) + SUBNETS[start:] + SUBNETS[:start]:
        network = ipaddress.IPv4Network(text)
        if not any(network.overlaps(other) for other in taken):
            return network
    raise Exhausted("no free /24 network for guests: every candidate overlaps a route of this host")


def upstream_name_servers(*files: Path) -> tuple[str, ...]:
    """IPv4 name servers of the first resolv.conf that names one a guest can reach."""
    for file in files:
        with contextlib.suppress(OSError):
            lines = (line.split() for line in file.read_text().splitlines())
            servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
            usable = [server for server in servers if _is_reachable(server)]
            if usable:
                return tuple(usable[:3])
    return ()


def _is_reachable(server: str) -> bool:
    with contextlib.suppress(ValueError):
        return not ipaddress.IPv4Address(server).is_loopback
    return False


@contextlib.contextmanager
def tap(name: str) -> Iterator[int]:
    """A tap interface that lives as long as somebody holds its descriptor. Raises: OSError."""
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_FLAGS))
        yield descriptor
    finally:
        os.close(descriptor)


def obstacle(ip: str | None, dnsmasq: str | None) -> str:
    """Why this process cannot make a bridge network; empty when it can."""
    missing = [package for package, path in (("iproute2", ip), ("dnsmasq-base", dnsmasq)) if path is None]
    if missing:
        return f"programs are missing: apt-get install {' '.join(missing)}"
    try:
        with tap(f"vzp{os.getpid()}"):
            return ""
    except OSError as exc:
        return f"no tap interface can be made with {_TUN}: {exc.strerror}; root is needed"


@contextlib.asynccontextmanager
async def _network_mutex() -> AsyncIterator[None]:
    """Two nodes on one machine must not choose the same subnet at the same moment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mutex:
        try:
            async with asyncio.timeout(_MUTEX_TIMEOUT_S):
                while True:
                    try:
                        mutex.bind(_MUTEX)
                        break
                    except OSError:
                        await asyncio.sleep(0.05)
        except TimeoutError:
            raise DeadlineExceeded(
                "another node on this host has been setting up its guest network for a minute"
            ) from None
        yield


class BridgeNetwork:
    """Bridge, subnet, lease server and packet filter of one driver root."""

    forwards_ssh = False

    def __init__(self, root: Path, ip: str, dnsmasq: str, iptables: str | None) -> None:
        self._root = root
        self._ip = ip
        self._dnsmasq = dnsmasq
        self._iptables = iptables
        self._record_file = root / "network.json"
        self._subnet: ipaddress.IPv4Network | None = None
        self._leases: LeaseServer | None = None
        self._setting_up = asyncio.Lock()
        self.bridge = bridge_name(root)

    def host_network(self) -> HostNetwork | None:
        if self._subnet is None:
            return None
        upper = list(self._subnet.subnets(prefixlen_diff=1))[1]
        return HostNetwork(self.bridge, str(self._subnet), str(self._subnet[1]), str(upper))

    async def set_up(self) -> None:
        """Make the network complete, whatever part of it is there. Raises: Exhausted, MachineFault, Unavailable."""
        async with self._setting_up:
            if self._leases is not None and (_INTERFACES / self.bridge).exists():
                await self._leases.ensure()
                return
            async with _network_mutex():
                await self._set_up()

    async def _set_up(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = taken_networks(
            (await self._run_ip("-json", "-4", "route", "show", "table", "all")).encode(), self.bridge
        )
        subnet = choose_subnet(self._root, self._recorded(), taken)
        made = not (_INTERFACES / self.bridge).exists()
        await run_blocking(write_atomic, self._record_file, msgspec.json.encode(NetworkRecord(str(subnet))))
        if made:
            await self._run_ip("link", "add", "name", self.bridge, "type", "bridge")
        # An address of its own: a bridge without one takes that of a tap, and changes it when the tap goes.
        mac = MacAddress(bytes([0x02]) + bytes.fromhex(short_hash(str(self._root), 10)))
        await self._run_ip(
            "link", "set", "dev", self.bridge, "address", str(mac), "alias", f"vzkubelet {self._root}"[:255]
        )
        await self._run_ip("-4", "address", "replace", f"{subnet[1]}/{subnet.prefixlen}", "dev", self.bridge)
        await self._run_ip("link", "set", "dev", self.bridge, "up")
        await firewall.open_bridge(self._iptables, self.bridge, str(subnet))
        leases = LeaseServer(self._dnsmasq, self._lease_config(subnet))
        await leases.ensure(restart=made)
        self._subnet, self._leases = subnet, leases
        _log.info("guests live in %s on %s", subnet, self.bridge)

    def _lease_config(self, subnet: ipaddress.IPv4Network) -> LeaseServerConfig:
        half = subnet.num_addresses // 2
        return LeaseServerConfig(
            bridge=self.bridge,
            gateway=str(subnet[1]),
            netmask=str(subnet.netmask),
            first=str(subnet[2]),
            last=str(subnet[half - 1]),
            name_servers=upstream_name_servers(Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")),
            directory=self._root,
        )

    def _recorded(self) -> str | None:
        try:
            return msgspec.json.decode(self._record_file.read_bytes(), type=NetworkRecord).subnet
        except (OSError, msgspec.DecodeError):
            return None

    async def _run_ip(self, *arguments: str) -> str:
        status, output = await run(self._ip, *arguments)
        if status != 0:
            raise MachineFault(f"guest network {self.bridge}: ip {' '.join(arguments)}: {clip(output)}")
        return output

    @contextlib.asynccontextmanager
    async def attached(self, uid: str) -> AsyncIterator[Attachment]:
        """A tap of the machine's own on the bridge. Raises: MachineFault, Unavailable, Exhausted."""
        await self.set_up()
        name = tap_name(self._root, uid)
        with contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(tap(name))
            except OSError as exc:
                raise Unavailable(f"cannot make the tap {name} for machine {uid}: {exc.strerror}") from exc
            await self._run_ip("link", "set", "dev", name, "master", self.bridge, "up")
            yield Attachment(f"tap,id=net0,fd={descriptor}", (descriptor,))

    async def address(self, mac: MacAddress) -> GuestAddress | None:
        if self._leases is None:
            return None
        lease = newest_lease(self._leases.leases(), mac, time.time())
        return None if lease is None else GuestAddress(lease.ip, lease.ip)

    async def release(self, mac: MacAddress) -> None:
        if self._leases is not None:
            for lease in self._leases.leases():
                if lease.mac == mac:
                    self._leases.release(lease)

    async def retain(self, macs: Collection[MacAddress]) -> None:
        if self._leases is not None:
            for lease in self._leases.leases():
                if lease.mac not in macs:
                    self._leases.release(lease)

    async def tear_down(self) -> None:
        """Remove bridge, rules, lease server and record. Also works on what an earlier process made."""
        async with self._setting_up:
            recorded = self._recorded()
            if recorded is not None:
                subnet = ipaddress.IPv4Network(recorded)
                await LeaseServer(self._dnsmasq, self._lease_config(subnet)).stop()
                await firewall.close_bridge(self._iptables, self.bridge, recorded)
            if (_INTERFACES / self.bridge).exists():
                await self._run_ip("link", "delete", "dev", self.bridge)
            for name in ("dnsmasq.leases", "dnsmasq.log", self._record_file.name):
                (self._root / name).unlink(missing_ok=True)
            self._subnet = self._leases = None
