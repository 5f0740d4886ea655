"""Network bridges with subnets of their own, so that several engines and nodes live on one machine."""

import contextlib
import ipaddress
import json
import random
import secrets
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bridge:
    """A Linux bridge; `gateway` is its own address, as an interface of `subnet`."""

    name: str
    gateway: ipaddress.IPv4Interface


def create_bridge(prefix: str = "tdocker") -> Bridge:
    """Make a bridge with an unused private /24 (root only).

    Raises: subprocess.CalledProcessError with the message of ip(8) as a note.
    """
    bridge = Bridge(f"{prefix}{secrets.token_hex(4)}", _free_interface())
    _ip("link", "add", bridge.name, "type", "bridge")
    try:
        _ip("address", "add", str(bridge.gateway), "dev", bridge.name)
        _ip("link", "set", bridge.name, "up")
    except BaseException:
        delete_bridge(bridge.name)
        raise
    return bridge


def delete_bridge(name: str) -> None:
    """Delete a bridge and what is attached to it; one that is gone already is fine.

    The kernel takes its time to delete the veth pairs of a container that died; they must not be seen any more.
    """
    if not link_exists(name):
        return
    for port in json.loads(_ip("-json", "link", "show", "master", name)):
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", port["ifname"])
    _ip("link", "delete", name)


def link_exists(name: str) -> bool:
    return subprocess.run(["ip", "link", "show", name], capture_output=True).returncode == 0


def _free_interface() -> ipaddress.IPv4Interface:
    """First address of a /24 below 10.128.0.0/9 that no route or interface of this machine touches.

    It is drawn at random: two test runs that look at the same moment must not come to the same answer.
    """
    taken = [
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in json.loads(_ip("-json", "-4", "address", "show"))
        for address in link.get("addr_info", [])
    ]
    taken += [
        ipaddress.ip_network(route["dst"])
        for route in json.loads(_ip("-json", "-4", "route", "show"))
        if route["dst"] != "default"
    ]
    while True:
        network = ipaddress.ip_network(f"10.{random.randint(128, 254)}.{random.randint(0, 255)}.0/24")
        if not any(network.overlaps(other) for other in taken):
            return ipaddress.IPv4Interface(f"{network[1]}/24")


def _ip(*arguments: str) -> bytes:
    try:
        return subprocess.run(["ip", *arguments], capture_output=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.decode(errors="replace"))
        raise
