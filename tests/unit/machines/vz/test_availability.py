"""Versions of macOS, and hosts that are none."""

import pytest

from vzkubelet.errors import Unsupported
from vzkubelet.machines.vz.availability import MacOS, check_host, unavailable


def test_versions_are_ordered_and_the_architecture_takes_no_part() -> None:
    assert MacOS(13) < MacOS(13, 5) < MacOS(14) < MacOS(26) < MacOS(26, 1)
    assert MacOS(14, 0, "x86_64") >= MacOS(14)
    assert MacOS(14, 0, "x86_64") == MacOS(14, 0, "arm64")


@pytest.mark.parametrize(
    ("told", "is_really"),
    [
        ((13, 6), MacOS(13, 6)),
        ((15, 1), MacOS(15, 1)),
        ((16, 0), MacOS(26)),
        ((26, 1), MacOS(26, 1)),
        ((27, 0), MacOS(27)),
    ],
)
def test_a_program_of_an_older_sdk_is_not_misled(told: tuple[int, int], is_really: MacOS) -> None:
    assert MacOS.told(*told, "arm64") == is_really


def test_an_intel_mac_is_told_clearly() -> None:
    with pytest.raises(Unsupported, match=r"Intel.*Apple Silicon.*arm64 Python") as caught:
        check_host(MacOS(15, 0, "x86_64"))
    assert caught.value.reason == "UnsupportedArchitecture"


def test_an_old_macos_is_told_what_it_needs() -> None:
    with pytest.raises(Unsupported, match=r"needs macOS 13 or later and this host runs macOS 12\.6"):
        check_host(MacOS(12, 6))


@pytest.mark.parametrize("version", [MacOS(13), MacOS(14, 2), MacOS(15), MacOS(26)])
def test_apple_silicon_with_a_new_enough_macos_will_do(version: MacOS) -> None:
    check_host(version)


def test_what_is_unavailable_names_both_versions_and_a_way_out() -> None:
    text = str(unavailable("saving a machine", MacOS(14), MacOS(13, 4)))
    assert "saving a machine" in text
    assert "macOS 14" in text
    assert "macOS 13.4" in text
    assert "softwareupdate" in text
