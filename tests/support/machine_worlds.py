"""Implementations of `ports.MachineDriver` with a host around them, for the driver's conformance suite."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import asyncssh

from vzkubelet.config.settings import GuestNetwork
from vzkubelet.machines.directory import MachineRoot
from vzkubelet.machines.process import owned
from vzkubelet.machines.qemu.bridge import bridge_name, short_hash
from vzkubelet.machines.qemu.driver import QemuDriver
from vzkubelet.machines.qemu.machine import QemuState
from vzkubelet.machines.selection import qemu_driver
from vzkubelet.machines.synthetic import SyntheticDriver, SyntheticTiming
from vzkubelet.model.identity import PodRef
from vzkubelet.ports import GuestAddress, MachineDriver, MachineImage, MachineSpec, Share

MIB = 1024 * 1024
GUEST_PASSWORD = "vz"
BOOT_TIMEOUT_S = 120.0
"""Guests are emulated and the machine is shared."""


def machine_image(directory: Path, architecture: str = "amd64") -> MachineImage:
    """The image whose files lie in `directory`."""
    return MachineImage(
        reference="registry.test/guest:1",
        image_id="registry.test/guest@sha256:" + "0" * 64,
        size_bytes=1,
        manifest_digest="sha256:" + "0" * 64,
        os="linux",
        architecture=architecture,
        disk=directory / "disk.img",
        disk_size_bytes=(directory / "disk.img").stat().st_size,
        aux=directory / "aux.img",
    )


class MachineWorld(ABC):
    """One host: a driver root that several driver objects use one after another, as daemons do."""

    def __init__(self, root: Path, image: MachineImage) -> None:
        self.root = root
        self.image = image
        self._drivers: list[MachineDriver] = []

    async def driver(self) -> MachineDriver:
        """A new object on the root, as after a restart of the daemon; the earlier ones were let go."""
        for old in self._drivers:
            await old.close()
        made = self._make()
        self._drivers.append(made)
        await made.adopt()
        return made

    @abstractmethod
    def _make(self) -> MachineDriver: ...

    def spec(self, uid: str, *shares: Share, image: MachineImage | None = None) -> MachineSpec:
        return MachineSpec(PodRef("default", "pod", uid), image or self.image, 1, 192 * MIB, tuple(shares))

    def image_digest(self) -> str:
        digest = hashlib.sha256()
        for path in (self.image.disk, self.image.aux):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    async def end(self) -> None:
        """Delete every machine and let go."""
        driver = await self.driver()
        for uid in await driver.machines():
            await driver.delete(uid)
        await self._tear_down(driver)
        await driver.close()

    async def _tear_down(self, driver: MachineDriver) -> None:
        return

    @abstractmethod
    async def guest_powers_off(self, driver: MachineDriver, uid: str) -> None:
        """Let the running guest end by itself, as if somebody in it had called ``poweroff``."""

    @abstractmethod
    async def hypervisor_dies(self, driver: MachineDriver, uid: str) -> None:
        """Let the machine end as by a crash of the hypervisor."""

    @abstractmethod
    async def booted(self, driver: MachineDriver, uid: str) -> None:
        """Wait until the guest hears a power-off request."""

    def leftovers(self) -> list[str]:
        """Whatever a machine leaves on the host, while no machine exists."""
        return [entry.name for entry in self.root.iterdir()] if self.root.exists() else []


class SyntheticWorld(MachineWorld):
    def _make(self) -> MachineDriver:
        return SyntheticDriver(self.root, SyntheticTiming(boot_s=0.05, power_off_s=0.05))

    async def guest_powers_off(self, driver: MachineDriver, uid: str) -> None:
        assert isinstance(driver, SyntheticDriver)
        await driver.crash(uid, "")

    async def hypervisor_dies(self, driver: MachineDriver, uid: str) -> None:
        assert isinstance(driver, SyntheticDriver)
        await driver.crash(uid, "it died")

    async def booted(self, driver: MachineDriver, uid: str) -> None:
        await driver.address(uid)


class QemuWorld(MachineWorld):
    def __init__(self, root: Path, image: MachineImage, network: GuestNetwork) -> None:
        # As an image of the store: its disk is referred to by its name.
        super().__init__(root, replace(image, users=root.parent / "image-users"))
        self.network = network

    def _make(self) -> MachineDriver:
        firmware = self.image.disk.parent / "firmware.fd"  # beside the disk, as the guest image tool writes it
        return qemu_driver(self.root, guest_network=self.network, firmware=firmware)

    async def _tear_down(self, driver: MachineDriver) -> None:
        assert isinstance(driver, QemuDriver)
        await driver.tear_down()

    def qemu_pid(self, uid: str) -> int:
        process = MachineRoot(self.root).machine(uid).read_state(QemuState).process
        assert process is not None
        return process.pid

    async def login(self, address: GuestAddress) -> asyncssh.SSHClientConnection:
        """An SSH connection, as soon as the guest lets us in."""
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            while True:
                try:
                    return await asyncssh.connect(
                        address.ssh_host,
                        address.ssh_port,
                        username="root",
                        password=GUEST_PASSWORD,
                        known_hosts=None,
                        client_keys=None,
                        agent_path=None,
                        config=None,
                        connect_timeout=5,
                    )
                except (OSError, asyncssh.Error):
                    await asyncio.sleep(0.1)

    async def guest_powers_off(self, driver: MachineDriver, uid: str) -> None:
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            connection = await self.login(await driver.address(uid))
        async with connection:
            await connection.run("poweroff", check=False)

    async def hypervisor_dies(self, driver: MachineDriver, uid: str) -> None:
        os.kill(self.qemu_pid(uid), signal.SIGKILL)

    async def booted(self, driver: MachineDriver, uid: str) -> None:
        async with await self.login(await driver.address(uid)) as connection:
            # The power button is heard once acpid runs, which is no part of being able to log in.
            async with asyncio.timeout(BOOT_TIMEOUT_S):
                while (await connection.run("pidof acpid", check=False)).exit_status != 0:
                    await asyncio.sleep(0.1)

    def leftovers(self) -> list[str]:
        processes = [f"process {process.role} {process.ref.pid}" for process in owned(self.root)]
        links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
        taps = f"vzt{short_hash(str(self.root), 5)}"
        interfaces = [link["ifname"] for link in links if link["ifname"].startswith(taps)]
        kept = {"kvm.json", "network.json", "dnsmasq.leases", "dnsmasq.log"}
        files = [name for name in super().leftovers() if name not in kept]
        return [name for name in processes if "dnsmasq" not in name] + interfaces + files

    def network_leftovers(self) -> list[str]:
        """What is left after the network was torn down."""
        bridge = bridge_name(self.root)
        links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout.splitlines()
        return (
            [f"process {process.role} {process.ref.pid}" for process in owned(self.root)]
            + [link["ifname"] for link in links if link["ifname"] == bridge]
            + [rule for rule in rules if bridge in rule]
            + [name for name in super().leftovers() if name != "kvm.json"]
        )
