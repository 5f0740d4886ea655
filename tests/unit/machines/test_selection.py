"""Drivers by name, and what a host lacks said in the words of its package manager."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.config.settings import DriverChoice, GuestNetwork
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.selection import select
from vzkubelet.machines.vz.capabilities import Capabilities
from vzkubelet.machines.vz.driver import VzDriver, VzSetup
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
    assert select(DriverChoice.AUTO, tmp_path, guest_network=GuestNetwork.USER, vz=setup).name == "qemu"
    monkeypatch.setattr("sys.platform", "darwin")
    assert select(DriverChoice.AUTO, tmp_path, vz=setup).name == "vz"


async def test_machines_are_found_and_removed_where_the_framework_cannot_be_loaded(tmp_path: Path) -> None:
    driver = VzDriver(tmp_path / "machines", vz_setup(tmp_path), refuse)
    await driver.adopt()
    assert list(await driver.machines()) == []
    await driver.delete("0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21")
    with pytest.raises(Unsupported, match=r"no Virtualization\.framework"):
        driver.limits()
    await driver.close()


def test_nested_virtualization_is_refused_where_the_host_has_none(tmp_path: Path) -> None:
    can = Capabilities(version=(14, 5), cpu_min=1, cpu_max=8, memory_min_bytes=2**20, memory_max_bytes=2**34)
    wanting = vz_setup(tmp_path, {"vz-nested-virtualization": "true"})
    with pytest.raises(Unsupported, match=r"--vz-nested-virtualization .* this is macOS 14\.5"):
        VzDriver(tmp_path, wanting, lambda _: can).limits()
    limits = VzDriver(tmp_path, vz_setup(tmp_path), lambda _: can).limits()
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
