"""Which driver a host runs: by name, or the natural one of the system."""

import os
import sys
from pathlib import Path
from typing import assert_never

from vzkubelet.config import settings
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.process import SEARCH_PATH
from vzkubelet.machines.qemu.accelerator import KvmProof
from vzkubelet.machines.qemu.bridge import BridgeNetwork, obstacle
from vzkubelet.machines.qemu.driver import QemuDriver
from vzkubelet.machines.qemu.host import QemuHost, find_host
from vzkubelet.machines.qemu.network import GuestNetwork, UserNetwork
from vzkubelet.machines.synthetic import SyntheticDriver
from vzkubelet.machines.vz.driver import VzDriver, VzSetup
from vzkubelet.ports import MachineDriver


def select(
    name: settings.DriverChoice,
    root: Path,
    *,
    guest_network: settings.GuestNetwork = settings.GuestNetwork.AUTO,
    search_path: str = SEARCH_PATH,
    firmware: Path | None = None,
    vz: VzSetup | None = None,
) -> MachineDriver:
    """The driver `name` with its machines below `root` (one directory of the cache, not shared with other drivers).

    `firmware` replaces the UEFI code that QEMU finds installed; only emulated guests are in need of a faster one.

    Raises: InvalidInput (a program is missing, or the wanted network cannot be made here), Unsupported, MachineFault.
    """
    match name:
        case settings.DriverChoice.AUTO:
            natural = settings.DriverChoice.VZ if sys.platform == "darwin" else settings.DriverChoice.QEMU
            return select(natural, root, guest_network=guest_network, search_path=search_path, firmware=firmware, vz=vz)
        case settings.DriverChoice.VZ:
            assert vz is not None, "whoever may want the vz driver brings its setup"
            return VzDriver(root, vz)
        case settings.DriverChoice.QEMU:
            return qemu_driver(root, guest_network=guest_network, search_path=search_path, firmware=firmware)
        case settings.DriverChoice.SYNTHETIC:
            return SyntheticDriver(root)
        case _:
            assert_never(name)


def qemu_driver(
    root: Path,
    *,
    guest_network: settings.GuestNetwork = settings.GuestNetwork.AUTO,
    search_path: str = SEARCH_PATH,
    firmware: Path | None = None,
) -> QemuDriver:
    """Raises: InvalidInput, Unsupported."""
    if sys.platform != "linux":
        raise Unsupported("the qemu driver runs on Linux hosts; on a Mac use --machine-driver vz")
    root = root.absolute()
    host = find_host(search_path, None if firmware is None else firmware.absolute())
    proof = KvmProof(host.qemu, host.architecture, root / "kvm.json")
    return QemuDriver(root, host, _network(root, host, guest_network), proof)


def _network(root: Path, host: QemuHost, name: settings.GuestNetwork) -> GuestNetwork:
    if name is settings.GuestNetwork.USER:
        return UserNetwork()
    # Auto asks for root first: with the capability alone dnsmasq and the packet filter would fail later.
    reason = "root is needed" if os.geteuid() != 0 else obstacle(host.ip, host.dnsmasq)
    if not reason and host.ip is not None and host.dnsmasq is not None:
        return BridgeNetwork(root, host.ip, host.dnsmasq, host.iptables)
    if name is settings.GuestNetwork.BRIDGE:
        raise InvalidInput(f"--guest-network bridge: {reason}; or use --guest-network user")
    return UserNetwork()
