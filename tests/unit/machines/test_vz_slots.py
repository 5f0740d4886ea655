"""Machine slots and their MAC addresses, shared by every agent of a host."""

import os
from pathlib import Path

import pytest

from vzkubelet.errors import Exhausted, Unavailable
from vzkubelet.machines.vz.mac_pool import MacPool
from vzkubelet.machines.vz.slots import MACOS_SLOTS, GuestKind, Slots, refusal_explained


def test_the_third_macos_guest_of_a_host_is_told_who_runs(tmp_path: Path) -> None:
    mine, other = Slots(tmp_path), Slots(tmp_path)
    with mine.taken(GuestKind.MACOS, "pod a") as first, other.taken(GuestKind.MACOS, "pod b") as second:
        assert {first.index, second.index} == {0, 1}
        assert mine.held(GuestKind.MACOS) == other.held(GuestKind.MACOS) == MACOS_SLOTS
        with pytest.raises(Exhausted, match=r"pod a, pod b") as caught, mine.taken(GuestKind.MACOS, "pod c"):
            pass
        assert caught.value.reason == "VirtualMachineLimit"
    assert mine.held(GuestKind.MACOS) == 0


def test_linux_guests_do_not_count_against_the_limit_of_macos_guests(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    with (
        slots.taken(GuestKind.LINUX, "a"),
        slots.taken(GuestKind.LINUX, "b"),
        slots.taken(GuestKind.LINUX, "c"),
        slots.taken(GuestKind.MACOS, "d"),
    ):
        assert slots.held(GuestKind.LINUX) == 3
        assert slots.held(GuestKind.MACOS) == 1


def test_a_slot_is_held_by_whoever_inherited_it(tmp_path: Path) -> None:
    """The daemon lets go of its own copy as soon as the helper runs."""
    slots = Slots(tmp_path)
    with slots.taken(GuestKind.MACOS, "a") as slot:
        inherited = os.dup(slot.descriptor)
    assert slots.held(GuestKind.MACOS) == 1
    os.close(inherited)
    assert slots.held(GuestKind.MACOS) == 0


def test_a_slot_that_was_freed_is_taken_again_first(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    with slots.taken(GuestKind.MACOS, "a"), slots.taken(GuestKind.LINUX, "b"):
        pass
    with slots.taken(GuestKind.MACOS, "c") as slot:
        assert slot.index == 0


def test_every_slot_of_a_host_has_an_address_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    slots, pool = Slots(tmp_path), MacPool(tmp_path)
    with (
        slots.taken(GuestKind.MACOS, "a") as first,
        slots.taken(GuestKind.MACOS, "b") as second,
        slots.taken(GuestKind.LINUX, "c") as third,
    ):
        addresses = [pool.address(slot) for slot in (first, second, third)]
        assert len(set(addresses)) == 3
        assert [MacPool(tmp_path).address(slot) for slot in (first, second, third)] == addresses
        for address in addresses:
            assert address.octets[0] & 0b11 == 0b10, "locally administered, unicast"


def test_hosts_have_addresses_that_differ(tmp_path: Path) -> None:
    with Slots(tmp_path / "a").taken(GuestKind.MACOS, "") as slot:
        assert MacPool(tmp_path / "a").address(slot) != MacPool(tmp_path / "b").address(slot)


@pytest.mark.parametrize("content", ["", "zz:zz", "01:02:03:04:05", "02:03"])
def test_a_damaged_prefix_is_not_made_an_address(tmp_path: Path, content: str) -> None:
    (tmp_path / "mac-prefix").write_text(content)
    with (
        Slots(tmp_path).taken(GuestKind.MACOS, "") as slot,
        pytest.raises(Unavailable, match=r"mac-prefix .*remove it"),
    ):
        MacPool(tmp_path).address(slot)


@pytest.mark.parametrize(
    ("ours", "words"),
    [(2, "starts when one of them has ended"), (1, "another program has a slot, or macOS has leaked one"), (0, "both")],
)
def test_a_refusal_by_apple_is_explained_by_what_runs(ours: int, words: str) -> None:
    assert words in refusal_explained("limit exceeded", ours)
