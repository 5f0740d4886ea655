"""Names, subnets, lease messages and packet filter rules of a guest network."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import Exhausted
from vzkubelet.machines.addresses import Lease, machine_mac
from vzkubelet.machines.qemu import firewall
from vzkubelet.machines.qemu.bridge import (
    SUBNETS,
    bridge_name,
    choose_subnet,
    taken_networks,
    tap_name,
    upstream_name_servers,
)
from vzkubelet.machines.qemu.dhcp import LeaseServerConfig, command_line, release_message

ROUTES = b"""[{"dst":"default","gateway":"10.0.0.1","dev":"eth0"},{"dst":"192.168.64.0/18","dev":"eth0"},
{"type":"local","dst":"127.0.0.0/8","dev":"lo"},{"dst":"10.213.9.0/24","dev":"own0"},{"dst":"10.213.10.7","dev":"x"}]"""


@given(st.text(min_size=1, max_size=60))
def test_interface_names_fit_the_kernel(text: str) -> None:
    assert len(bridge_name(Path("/" + text))) <= 15
    assert len(tap_name(Path("/" + text), text)) == 15


def test_routes_of_others_are_taken_and_our_own_is_not() -> None:
    taken = [str(network) for network in taken_networks(ROUTES, "own0")]
    assert taken == ["192.168.64.0/18", "127.0.0.0/8", "10.213.10.7/32"]


def test_the_subnet_of_before_is_kept_while_it_is_free() -> None:
    root = Path("/cache")
    assert str(choose_subnet(root, "192.168.70.0/24", [])) == "192.168.70.0/24"
    moved = choose_subnet(root, "192.168.70.0/24", [ipaddress.IPv4Network("192.168.70.128/25")])
    assert str(moved) in SUBNETS
    assert str(moved) != "192.168.70.0/24"


def test_a_host_without_free_network_says_so() -> None:
    with pytest.raises(Exhausted):
        choose_subnet(Path("/cache"), None, [ipaddress.IPv4Network("0.0.0.0/0")])


@given(st.lists(st.sampled_from(SUBNETS), max_size=200))
def test_a_chosen_subnet_overlaps_nothing(taken_texts: list[str]) -> None:
    taken = [ipaddress.IPv4Network(text) for text in taken_texts]
    chosen = choose_subnet(Path("/cache"), None, taken)
    assert not any(chosen.overlaps(other) for other in taken)


def test_name_servers_that_a_guest_cannot_reach_are_passed_over(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nnameserver ::1\noptions edns0\n")
    real.write_text("nameserver 10.0.0.2\nnameserver 10.0.0.3\n")
    assert upstream_name_servers(tmp_path / "absent", stub, real) == ("10.0.0.2", "10.0.0.3")
    assert upstream_name_servers(stub) == ()


def test_a_release_names_the_lease_it_gives_back() -> None:
    mac = machine_mac("u")
    message = release_message(Lease(mac, "192.168.70.9", None, "01:02:ff"), "192.168.70.1", 0x01020304)
    assert message[:8] == bytes([1, 1, 6, 0, 1, 2, 3, 4])
    assert message[12:16] == bytes([192, 168, 70, 9])
    assert message[28:34] == mac.octets
    assert message[236:240] == bytes([99, 130, 83, 99])
    options = message[240:]
    assert options == bytes([53, 1, 7, 54, 4, 192, 168, 70, 1, 61, 3, 1, 2, 0xFF, 255])


def test_the_lease_server_serves_its_bridge_only() -> None:
    config = LeaseServerConfig("vzk0", "10.0.0.1", "255.255.255.0", "10.0.0.2", "10.0.0.127", (), Path("/root/dir"))
    arguments = command_line("dnsmasq", config)
    assert "--interface=vzk0" in arguments
    assert "--except-interface=lo" in arguments
    assert "--port=0" in arguments
    assert "--dhcp-range=10.0.0.2,10.0.0.127,255.255.255.0,12h" in arguments
    assert not [argument for argument in arguments if "dns-server" in argument]


def test_every_packet_filter_rule_is_marked_with_its_bridge() -> None:
    for _, _, match in firewall.rules("vzk0", "10.0.0.0/24"):
        assert "vzkubelet vzk0" in match
