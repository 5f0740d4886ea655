"""Guest networks of several nodes on one machine: apart from each other, repaired, and removed without trace."""

import asyncio
import ipaddress
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from vzkubelet.errors import Unavailable
from vzkubelet.machines.addresses import machine_mac
from vzkubelet.machines.process import owned
from vzkubelet.machines.qemu import firewall
from vzkubelet.machines.qemu.bridge import BridgeNetwork, obstacle, tap_name
from vzkubelet.ports import HostNetwork


def network_of(root: Path) -> BridgeNetwork:
    ip, dnsmasq = shutil.which("ip"), shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    assert ip is not None
    assert dnsmasq is not None
    assert obstacle(ip, dnsmasq) == ""
    return BridgeNetwork(root, ip, dnsmasq, shutil.which("iptables", path="/usr/sbin:/usr/bin"))


def link(name: str) -> str:
    return subprocess.run(["ip", "-d", "address", "show", name], capture_output=True, text=True, check=False).stdout


def rules_of(bridge: str) -> list[str]:
    lines: list[str] = []
    for table, chain in (("filter", "FORWARD"), ("nat", "POSTROUTING")):
        listed = subprocess.run(["iptables", "-t", table, "-S", chain], capture_output=True, text=True, check=True)
        lines += [line for line in listed.stdout.splitlines() if bridge in line]
    return lines


def host_network(network: BridgeNetwork) -> HostNetwork:
    found = network.host_network()
    assert found is not None
    return found


@pytest_asyncio.fixture
async def networks(tmp_path: Path) -> AsyncIterator[list[BridgeNetwork]]:
    made = [network_of(tmp_path / name) for name in ("a", "b")]
    await asyncio.gather(*(network.set_up() for network in made))
    try:
        yield made
    finally:
        for network in made:
            await network.tear_down()
    for network in made:
        assert link(network.bridge) == ""
        assert rules_of(network.bridge) == []
    assert owned(tmp_path) == []


async def test_two_nodes_have_networks_of_their_own(networks: list[BridgeNetwork]) -> None:
    one, two = (host_network(network) for network in networks)
    assert one.bridge != two.bridge
    assert not ipaddress.ip_network(one.subnet).overlaps(ipaddress.ip_network(two.subnet))
    for network in (one, two):
        assert ipaddress.IPv4Network(network.container_range).subnet_of(ipaddress.IPv4Network(network.subnet))
        assert ipaddress.ip_address(network.gateway) not in ipaddress.ip_network(network.container_range)
        assert f"{network.gateway}/24" in link(network.bridge)
        assert len(rules_of(network.bridge)) == 3


async def test_tearing_one_down_leaves_the_other(networks: list[BridgeNetwork]) -> None:
    kept = networks[1]
    await networks[0].tear_down()
    await networks[0].tear_down()
    assert link(networks[0].bridge) == ""
    assert link(kept.bridge)
    assert len(rules_of(kept.bridge)) == 3
    assert [process.role for process in owned(kept._root)] == ["dnsmasq"]


async def test_a_later_daemon_finds_the_same_network_and_the_same_lease_server(networks: list[BridgeNetwork]) -> None:
    before, root = networks[0], networks[0]._root
    servers = owned(root)
    after = network_of(root)
    await after.set_up()
    assert after.host_network() == before.host_network()
    assert owned(root) == servers
    assert len(rules_of(after.bridge)) == 3


async def test_a_lease_server_that_died_is_started_again(networks: list[BridgeNetwork]) -> None:
    root = networks[0]._root
    (server,) = owned(root)
    os.kill(server.ref.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while owned(root):
            await asyncio.sleep(0.02)
    await networks[0].set_up()
    (again,) = owned(root)
    assert again.ref != server.ref


async def test_a_bridge_that_somebody_removed_comes_back_with_its_subnet(networks: list[BridgeNetwork]) -> None:
    before = networks[0].host_network()
    subprocess.run(["ip", "link", "delete", networks[0].bridge], check=True)
    await networks[0].set_up()
    assert networks[0].host_network() == before
    assert link(networks[0].bridge)
    assert len(owned(networks[0]._root)) == 1


async def test_a_tap_lives_as_long_as_its_descriptor(networks: list[BridgeNetwork]) -> None:
    name = tap_name(networks[0]._root, "u")
    async with networks[0].attached("u") as attachment:
        assert f"master {networks[0].bridge}" in link(name)
        assert attachment.netdev.startswith("tap,id=net0,fd=")
        with pytest.raises(Unavailable):
            async with networks[0].attached("u"):
                pass
    assert link(name) == ""


async def test_a_lease_is_given_back(networks: list[BridgeNetwork]) -> None:
    """A guest in a namespace of its own takes a lease; after its machine ended the lease is free at once."""
    network, mac = networks[0], machine_mac("u")
    namespace = f"guest-{network.bridge}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        pair = [f"{network.bridge[:11]}h", f"{network.bridge[:11]}g"]
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                pair[0],
                "type",
                "veth",
                "peer",
                "name",
                pair[1],
                "address",
                str(mac),
                "netns",
                namespace,
            ],
            check=True,
        )
        subprocess.run(["ip", "link", "set", pair[0], "master", network.bridge, "up"], check=True)
        inside = ["ip", "netns", "exec", namespace]
        subprocess.run([*inside, "ip", "link", "set", pair[1], "up"], check=True)
        asking = [
            *inside,
            "busybox",
            "udhcpc",
            "-i",
            pair[1],
            "-n",
            "-q",
            "-f",
            "-t",
            "10",
            "-T",
            "1",
            "-s",
            "/bin/true",
        ]
        await asyncio.to_thread(subprocess.run, asking, check=True, capture_output=True)
        address = await network.address(mac)
        assert address is not None
        assert ipaddress.ip_address(address.ip) in ipaddress.ip_network(host_network(network).subnet)
        assert ipaddress.ip_address(address.ip) not in ipaddress.ip_network(host_network(network).container_range)
        await network.retain({mac})
        await asyncio.sleep(0.2)
        assert await network.address(mac) == address
        await network.release(mac)
        async with asyncio.timeout(5):
            while await network.address(mac) is not None:
                await asyncio.sleep(0.02)
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


async def test_rules_of_others_are_left_alone(networks: list[BridgeNetwork]) -> None:
    bridge = networks[0].bridge
    foreign = ["-i", bridge, "-j", "ACCEPT", "-m", "comment", "--comment", "of somebody else"]
    subprocess.run(["iptables", "-w", "-A", "FORWARD", *foreign], check=True)
    try:
        await firewall.close_bridge(
            shutil.which("iptables", path="/usr/sbin"), bridge, host_network(networks[0]).subnet
        )
        assert len(rules_of(bridge)) == 1
    finally:
        subprocess.run(["iptables", "-w", "-D", "FORWARD", *foreign], check=True)
