"""What is believed of everything that is said about a guest's address."""

import dataclasses
import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.machines.addresses import ArpEntry, BootpdLease, MacAddress
from vzkubelet.machines.vz.evidence import (
    DOUBT_S,
    MAX_PROMPTS,
    Evidence,
    Source,
    Verdict,
    judge,
    troubles,
)

MINE, OTHER = MacAddress(bytes.fromhex("020000000001")), MacAddress(bytes.fromhex("020000000002"))
A, B, C = "192.168.64.5", "192.168.64.6", "192.168.64.7"
NOW = 1000.0


def lease(ip: str, mac: MacAddress | None = MINE, end: float = 2000.0, name: str = "") -> BootpdLease:
    return BootpdLease(ip, mac, f"1,{mac}" if mac else "ff,1:2:3", end, name)


def arp(ip: str, mac: MacAddress | None = MINE, interface: str = "bridge100", *, permanent: bool = False) -> ArpEntry:
    return ArpEntry(ip, mac, interface, permanent)


def evidence(**known: Any) -> Evidence:
    return dataclasses.replace(Evidence(MINE, arp=(), now=NOW), **known)


def test_a_lease_that_the_arp_table_confirms_is_believed_at_once() -> None:
    verdict = judge(evidence(leases=[lease(A)], arp=[arp(A)]))
    assert (verdict.ip, verdict.source) == (A, Source.LEASE)


def test_a_lease_that_nobody_confirms_is_believed_after_a_while_and_prompted_for_meanwhile() -> None:
    verdict = judge(evidence(leases=[lease(A)]))
    assert verdict.ip is None
    assert verdict.prompts == (A,)
    assert judge(evidence(leases=[lease(A)], waited_s=100, asked=[B])).ip is None
    assert judge(evidence(leases=[lease(A)], asked=[A])).ip == A


def test_a_lease_where_nobody_answers_is_not_the_address_of_a_guest_that_boots() -> None:
    assert judge(evidence(leases=[lease(A)], arp=[arp(A, None)], asked=[A])).ip is None


def test_a_lease_is_believed_at_once_where_there_is_no_arp_table() -> None:
    assert judge(evidence(leases=[lease(A)], arp=None)).ip == A


def test_a_lease_in_the_guests_name_where_another_guest_answers_is_refused() -> None:
    verdict = judge(evidence(leases=[lease(A)], arp=[arp(A, OTHER)], asked=[A, B]))
    assert verdict.ip is None
    (refusal,) = verdict.refusals
    assert str(OTHER) in refusal
    assert str(MINE) in refusal
    assert "arp -an" in refusal


def test_an_address_of_the_host_itself_is_refused() -> None:
    verdict = judge(evidence(leases=[lease(A)], arp=[arp(A, OTHER, permanent=True)], asked=[A, B]))
    assert verdict.ip is None
    assert "this host's interface bridge100" in verdict.refusals[0]


def test_a_guest_whose_lease_another_answers_for_is_found_where_it_answers() -> None:
    verdict = judge(evidence(leases=[lease(A)], arp=[arp(A, OTHER), arp(B)], asked=[A, B]))
    assert (verdict.ip, verdict.source) == (B, Source.ARP)
    assert verdict.refusals


@pytest.mark.parametrize(
    "order", list(itertools.permutations([lease(A, end=1500), lease(B, end=1600), lease(C, end=900)]))
)
def test_the_newest_valid_lease_wins_in_any_order(order: tuple[BootpdLease, ...]) -> None:
    assert judge(evidence(leases=order, arp=None)).ip == B


def test_an_ended_lease_is_no_address_and_is_told() -> None:
    ended = evidence(leases=[lease(A, end=999)], arp=None)
    assert judge(ended).ip is None
    assert "ended at 1970-01-01 00:16:39 UTC" in troubles(ended)[0]


def test_a_lease_of_a_client_without_a_mac_is_found_by_who_answers_there() -> None:
    leases = [lease(A, None, name="ubuntu"), lease(B, None, name="ubuntu")]
    assert set(judge(evidence(leases=leases, asked=[A, B])).prompts) == {A, B}
    assert judge(evidence(leases=leases, arp=[arp(A, OTHER), arp(B)])).ip == B


def test_a_guest_that_came_back_under_another_identifier_is_where_its_newer_lease_is() -> None:
    """The lease of the guest that had this MAC before is valid for a day, and its ARP entry for 20 minutes."""
    leases = [lease(A, end=1500), lease(B, None, end=1900)]
    assert judge(evidence(leases=leases, arp=[arp(A), arp(B)])).ip == B
    assert judge(evidence(leases=leases, arp=[arp(B)])).ip == B


def test_what_an_earlier_guest_left_is_not_where_a_new_one_with_its_mac_is() -> None:
    old = evidence(leases=[lease(A)], arp=[arp(A)], current=frozenset())
    assert judge(old).ip is None
    assert judge(dataclasses.replace(old, waited_s=DOUBT_S)).ip == A
    assert judge(dataclasses.replace(old, current=frozenset([A]))).ip == A
    assert judge(dataclasses.replace(old, told=A)).ip == A
    new = evidence(leases=[lease(A), lease(B, None)], arp=[arp(A), arp(B)], current=frozenset([B]))
    assert judge(new).ip == B


def test_a_bridged_guest_is_found_by_its_frames_or_by_the_arp_table_of_its_interface() -> None:
    assert judge(evidence(captured=[A, B])).ip == B
    table = [arp(A, interface="en0"), arp(B, interface="vlan7")]
    assert judge(evidence(arp=table, interface="vlan7")).ip == B
    assert judge(evidence(arp=table, interface="en5")).ip is None


def test_the_same_address_on_two_interfaces_is_the_guests_where_it_is_confirmed() -> None:
    assert judge(evidence(leases=[lease(A)], arp=[arp(A, OTHER, "en0"), arp(A)])).ip == A


def test_an_agent_is_believed_when_nothing_else_is_known_or_something_agrees() -> None:
    assert judge(evidence(told=A, arp=None)).source is Source.AGENT
    assert judge(evidence(told=A, asked=[A])).source is Source.AGENT
    assert judge(evidence(told=A)) == Verdict(prompts=(A,))
    assert judge(evidence(told=A, leases=[lease(A)], arp=[arp(A)])).source is Source.AGENT
    assert judge(evidence(told="172.17.0.1", leases=[lease(A)], arp=[arp(A)])).ip == A
    assert judge(evidence(told=A, arp=[arp(A, OTHER)])).ip is None


def test_an_entry_of_the_guests_mac_from_the_local_network_is_not_the_guest() -> None:
    """Anybody there can send ARP messages with that MAC, and would be sent the guest's password."""
    table = [arp("10.0.0.66", interface="en0")]
    assert judge(evidence(arp=table, asked=[A, B])).ip is None
    near = evidence(arp=table, subnet=ipaddress.IPv4Network("10.0.0.0/24"))
    assert judge(near).ip == "10.0.0.66"


def test_a_permanent_entry_is_not_where_a_guest_answers() -> None:
    assert judge(evidence(arp=[arp(A, permanent=True)])).ip is None
    assert judge(evidence(arp=[arp("224.0.0.251"), arp("169.254.1.1")])).ip is None


def test_only_so_many_addresses_are_prompted_for_and_the_guests_own_first() -> None:
    leases = [*(lease(f"192.168.64.{number}", None) for number in range(20, 60)), lease(A, end=1001)]
    prompts = judge(evidence(leases=leases)).prompts
    assert len(prompts) == MAX_PROMPTS
    assert prompts[0] == A


def test_an_address_leased_to_two_clients_is_told_with_a_remedy() -> None:
    (trouble,) = troubles(evidence(leases=[lease(A), lease(A, OTHER), lease(B, OTHER), lease(B, None)]))
    assert f"{A} is leased to {MINE} and {OTHER} at once" in trouble
    assert "sudo rm /var/db/dhcpd_leases" in trouble


some_ip = st.sampled_from([A, B, C])
some_mac = st.sampled_from([MINE, OTHER])
interfaces = st.sampled_from(["bridge100", "en0"])


@given(
    st.lists(st.builds(lease, some_ip, st.none() | some_mac, st.integers(900, 2000)), max_size=6),
    st.none() | st.lists(st.builds(arp, some_ip, st.none() | some_mac, interfaces), max_size=6),
    st.lists(some_ip, max_size=2),
    st.none() | some_ip,
    st.none() | interfaces,
    st.lists(some_ip, max_size=3),
)
def test_what_the_arp_table_gives_to_another_is_never_believed(leases, table, captured, told, interface, asked):
    known = Evidence(MINE, leases, table, captured, told, interface, 0.0, NOW, asked=asked)
    verdict = judge(known)
    if verdict.ip is None:
        return
    entries = [one for one in table or () if one.ip == verdict.ip and interface in (None, one.interface)]
    assert all(one.mac is None for one in entries) or any(one.mac == MINE for one in entries)
    if verdict.source is Source.ARP:
        assert any(one.mac == MINE and (interface or one.interface == "bridge100") for one in entries)
    said = {one.ip for one in leases if one.mac == MINE and one.is_valid(NOW)} | {*captured, told}
    assert verdict.ip in said | {one.ip for one in entries if one.mac == MINE}
