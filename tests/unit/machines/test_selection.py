"""Drivers by name, and what a host lacks said in the words of its package manager."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.config.settings import DriverChoice, GuestNetwork
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.selection import select
from vzkubelet.machines.vz.capabilities import Capabilities
from vzkubelet.machines.vz.driver import VzSetup
from vzkubelet.machines.vz.launch import Interpreter


def test_synthetic_needs_nothing(tmp_path: Path) -> None:
    assert select(DriverChoice.SYNTHETIC, tmp_path, search_path=str(tmp_path)).name == "synthetic"


def vz_setup(directory: Path, flags: Mapping[str, str] | None = None) -> VzSetup:
    settings = config.load(flags or {}, {}, purpose=config.Purpose.STANDALONE).vz
    return VzSetup(settings, None, directory / "host", {})


def refuse(_: Interpreter) -> Capabilities:
    raise Unsupported("no Virtualization.framework")


def test_a_mac_gets_vz_and_linux_gets_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = vz_setup(tmp_path)
    monkeypatch.setattr("vzkubelet.machines.vz.capabilities.ask", refuse)
    assert select(DriverChoice.AUTO, tmp_path, guest_network=GuestNetwork.USER, vz=setup).name == "qemu"
    monkeypatch.setattr("sys.platform", "darwin")
    for choice in (DriverChoice.AUTO, DriverChoice.VZ):
        with pytest.raises(Unsupported, match=r"Virtualization\.framework"):
            select(choice, tmp_path, vz=setup)


def test_nested_virtualization_is_refused_where_the_host_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    can = Capabilities(version=(14, 5), cpu_min=1, cpu_max=8, memory_min_bytes=2**20, memory_max_bytes=2**34)
    monkeypatch.setattr("vzkubelet.machines.vz.capabilities.ask", lambda _: can)
    with pytest.raises(Unsupported, match=r"--vz-nested-virtualization .* this is macOS 14\.5"):
        select(DriverChoice.VZ, tmp_path, vz=vz_setup(tmp_path, {"vz-nested-virtualization": "true"}))
    limits = select(DriverChoice.VZ, tmp_path, vz=vz_setup(tmp_path)).limits()
    assert (limits.cpu_max, limits.memory_max_bytes, limits.slots) == (8, 2**34, 2)


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
