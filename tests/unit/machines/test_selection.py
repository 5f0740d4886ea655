"""Drivers by name, and what a host lacks said in the words of its package manager."""

from pathlib import Path

import pytest

from vzkubelet.config.settings import DriverChoice, GuestNetwork
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.selection import select


def test_synthetic_needs_nothing(tmp_path: Path) -> None:
    assert select(DriverChoice.SYNTHETIC, tmp_path, search_path=str(tmp_path)).name == "synthetic"


def test_vz_says_why_it_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="Virtualization"):
        select(DriverChoice.VZ, tmp_path)


def test_a_mac_gets_vz_and_linux_gets_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert select(DriverChoice.AUTO, tmp_path, guest_network=GuestNetwork.USER).name == "qemu"
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(Unsupported, match="Virtualization"):
        select(DriverChoice.AUTO, tmp_path)


def test_missing_programs_are_named_by_their_packages(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"apt-get install qemu-system-x86"):
        select(DriverChoice.QEMU, tmp_path, search_path=str(tmp_path))


def test_a_bridge_that_cannot_be_made_is_refused_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(InvalidInput, match="root is needed"):
        select(DriverChoice.QEMU, tmp_path, guest_network=GuestNetwork.BRIDGE)
    driver = select(DriverChoice.QEMU, tmp_path, guest_network=GuestNetwork.AUTO)
    assert driver.network() is None
    assert not driver.limits().shares


def test_a_firmware_of_the_users_own_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no firmware"):
        select(DriverChoice.QEMU, tmp_path, guest_network=GuestNetwork.USER, firmware=tmp_path / "absent.fd")
    (tmp_path / "code.fd").touch()
    assert (
        select(DriverChoice.QEMU, tmp_path, guest_network=GuestNetwork.USER, firmware=tmp_path / "code.fd").name
        == "qemu"
    )
