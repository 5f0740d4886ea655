"""The shared network's pool of addresses: its subnet, how full it is, and addresses leased twice."""

import plistlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.machines.addresses import BootpdLease, MacAddress
from vzkubelet.machines.vz.lease_pool import (
    SHORTER_LEASES,
    doubly_leased,
    guest_leases,
    issued_since,
    pool_state,
    shared_subnet,
)

NOW = 1000.0


def lease(number: int, ip: str, end: float | None = 2000.0) -> BootpdLease:
    mac = MacAddress(bytes([2, 0, 0, 0, number >> 8, number & 255]))
    return BootpdLease(ip, mac, f"1,{mac}", end)


def full(subnet: str = "192.168.64", count: int = 253) -> list[BootpdLease]:
    return [lease(number, f"{subnet}.{number + 2}", 2000.0 + number) for number in range(count)]


@pytest.mark.parametrize("form", [plistlib.FMT_BINARY, plistlib.FMT_XML])
def test_the_subnet_is_what_vmnet_is_configured_with(form: plistlib.PlistFormat) -> None:
    settings = {"Shared_Net_Address": "10.99.0.1", "Shared_Net_Mask": "255.255.0.0", "Host_Net_Address": "10.98.0.1"}
    assert str(shared_subnet(plistlib.dumps(settings, fmt=form))) == "10.99.0.0/16"


@pytest.mark.parametrize(
    "data", [None, b"", b"bplist00", b"<plist", plistlib.dumps([1]), plistlib.dumps({"Shared_Net_Address": 7})]
)
def test_without_a_usable_setting_it_is_the_default(data: bytes | None) -> None:
    assert str(shared_subnet(data)) == "192.168.64.0/24"


def test_a_pool_is_exhausted_when_every_address_is_leased() -> None:
    state = pool_state(full(), shared_subnet(None), NOW)
    assert state.is_exhausted
    assert (state.size, state.leased, state.next_free_at) == (253, 253, 2000.0)
    assert SHORTER_LEASES in state.explanation()
    assert "192.168.64.0/24" in state.explanation()
    assert "00:33:20 UTC" in state.explanation()


@pytest.mark.parametrize(
    "leases",
    [
        full()[1:],
        [*full()[1:], lease(0, "192.168.64.2", NOW)],  # ended just now
        [*full()[1:], lease(300, "192.168.64.3")],  # an address twice
        full("192.168.65"),  # another network
    ],
)
def test_ended_leases_repeated_addresses_and_other_networks_take_no_room(leases: list[BootpdLease]) -> None:
    assert not pool_state(leases, shared_subnet(None), NOW).is_exhausted


def test_leases_without_end_are_told() -> None:
    leases = [lease(number, f"192.168.64.{number + 2}", None) for number in range(253)]
    assert "none of them ends" in pool_state(leases, shared_subnet(None), NOW).explanation()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2000)), max_size=30))
def test_the_newest_lease_of_a_guest_comes_first(rows: list[tuple[int, int, int]]) -> None:
    leases = [lease(client, f"192.168.64.{ip}", end) for client, ip, end in rows]
    mac = MacAddress(bytes([2, 0, 0, 0, 0, 1]))
    mine = guest_leases(leases, mac)
    assert [one.expires_at for one in mine] == sorted((end for client, _, end in rows if client == 1), reverse=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2000)), max_size=30))
def test_an_address_is_leased_twice_when_two_clients_hold_it(rows: list[tuple[int, int, int]]) -> None:
    leases = [lease(client, f"192.168.64.{ip}", end) for client, ip, end in rows]
    found = doubly_leased(leases, NOW)
    for ip in range(4):
        holders = {client for client, other, end in rows if other == ip and end > NOW}
        assert (f"192.168.64.{ip}" in found) == (len(holders) > 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4000)), min_size=1, max_size=20), st.integers(60, 90_000))
def test_leases_of_one_length_are_told_by_when_they_began(rows: list[tuple[int, int]], length: int) -> None:
    leases = {client: lease(client, f"192.168.64.{client}", began + length) for client, began in rows}
    began = {one.ip: (one.expires_at or 0) - length for one in leases.values()}
    written_at = float(max(began.values()))
    found = issued_since(leases.values(), 2000.0, {one.client_id: one for one in leases.values()}, written_at)
    assert found == {ip for ip, start in began.items() if start >= 1998}


def test_a_lease_that_is_new_or_renewed_or_endless_was_leased_since() -> None:
    old, renewed, new = (lease(number, f"192.168.64.{number}") for number in range(2, 5))
    endless = lease(5, "192.168.64.5", None)
    before = {one.client_id: one for one in (old, lease(3, "192.168.64.3", 1900.0), endless)}
    found = issued_since([old, renewed, new, endless], 5000.0, before, 1000.0)
    assert found == {"192.168.64.3", "192.168.64.4", "192.168.64.5"}


def test_leases_that_became_shorter_make_no_lease_look_newer() -> None:
    """For a day after the lease time was set to ten minutes, the longest lease is not the newest."""
    leases = [lease(2, "192.168.64.2", 86_400.0), lease(3, "192.168.64.3", 1600.0)]
    before = {one.client_id: one for one in leases}
    assert issued_since(leases, 990.0, before, 1000.0) == {"192.168.64.2"}
    assert "192.168.64.3" in issued_since(leases, 990.0, {}, 1000.0)
