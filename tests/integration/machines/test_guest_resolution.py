"""Guests found by a real host's ARP table: machines in network namespaces on a bridge, and a lease file about them."""

import asyncio
import plistlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bridges import Bridge, create_bridge, delete_bridge
from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.vz.resolvers import Resolvers, Sought

MAC, OTHER = MacAddress(bytes.fromhex("020000000001")), MacAddress(bytes.fromhex("020000000002"))


class Network:
    """A guest network; `boot` puts a machine on it, `lease` tells of one, which need not be true."""

    def __init__(self, directory: Path, bridge: Bridge) -> None:
        self._bridge = bridge
        self._leases = directory / "dhcpd_leases"
        self._namespaces: list[str] = []
        plist = directory / "vmnet.plist"
        subnet = {"Shared_Net_Address": str(bridge.gateway.ip), "Shared_Net_Mask": str(bridge.gateway.netmask)}
        plist.write_bytes(plistlib.dumps(subnet))
        self.resolvers = Resolvers(self._leases, vmnet_plist=plist, bootptab=directory / "bootptab")

    def ip(self, number: int) -> str:
        return str(self._bridge.gateway.network[number])

    def boot(self, number: int, mac: MacAddress) -> None:
        name = f"{self._bridge.name}n{number}"
        port = f"{self._bridge.name[-8:]}p{number}"
        _run("ip", "netns", "add", name)
        self._namespaces.append(name)
        _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "address", str(mac), "netns", name)
        _run("ip", "link", "set", port, "master", self._bridge.name, "up")
        _run("ip", "-n", name, "address", "add", f"{self.ip(number)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")

    def lease(self, number: int, hardware: str) -> None:
        identifier = hardware.replace(":0", ":")
        fields = [f"ip_address={self.ip(number)}", f"hw_address={identifier}", f"identifier={identifier}"]
        block = "{\n" + "".join(f"\t{field}\n" for field in [*fields, "lease=0xfffffff0"]) + "}\n"
        with self._leases.open("a") as file:
            file.write(block)

    def close(self) -> None:
        for name in self._namespaces:
            _run("ip", "netns", "delete", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    bridge = create_bridge("vzarp")
    made = Network(tmp_path, bridge)
    try:
        yield made
    finally:
        made.close()
        delete_bridge(bridge.name)


async def test_a_guest_is_found_at_its_lease_when_it_answers_there(network: Network) -> None:
    network.lease(5, f"1,{MAC}")
    looking = aio.spawn(network.resolvers.address(Sought(MAC)), name="look")
    await asyncio.sleep(2)
    assert not looking.done()  # it is leased, and boots
    network.boot(5, MAC)
    assert (await asyncio.wait_for(looking, 30)).ip == network.ip(5)


async def test_a_guest_is_not_found_where_another_answers(network: Network) -> None:
    network.boot(6, OTHER)
    network.lease(6, f"1,{MAC}")
    with pytest.raises(DeadlineExceeded, match=f"{OTHER} answers at {network.ip(6)}"):
        await network.resolvers.address(Sought(MAC), patience_s=4)


async def test_a_guest_without_its_mac_in_the_lease_file_is_found_by_asking(network: Network) -> None:
    network.boot(7, OTHER)
    network.boot(8, MAC)
    for number in (7, 8):
        network.lease(number, f"ff,f1:f5:dd:7f:0:2:0:0:ab:11:{number}")
    assert (await network.resolvers.address(Sought(MAC), patience_s=20)).ip == network.ip(8)
    assert (await network.resolvers.address(Sought(OTHER), patience_s=20)).ip == network.ip(7)
