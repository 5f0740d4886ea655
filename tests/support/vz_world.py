"""A host with the vz driver over the double of Apple's frameworks, whose guests boot in an instant."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.apple_double import MacHost, hardware_model_data, machine_identifier_data
from tests.support.machine_worlds import MIB, MachineWorld
from vzkubelet import config
from vzkubelet.machines.directory import MachineRoot
from vzkubelet.machines.process import owned
from vzkubelet.machines.vz.capabilities import Capabilities, ask
from vzkubelet.machines.vz.driver import VzDriver, VzSetup
from vzkubelet.machines.vz.helped_machine import VzState
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.slots import GuestKind, Slots
from vzkubelet.ports import MachineDriver, MachineImage


def vz_image(directory: Path, system: str = "darwin", ecid: int = 0x1234) -> MachineImage:
    """An image of which the instant guests read nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    disk, aux = directory / "disk.img", directory / "aux.img"
    disk.write_bytes(b"disk" + bytes(MIB - 4))
    aux.write_bytes(b"aux" + bytes(4093))
    is_mac = system == "darwin"
    return MachineImage(
        reference="registry.test/guest:1",
        image_id="registry.test/guest@sha256:" + "0" * 64,
        size_bytes=1,
        manifest_digest="sha256:" + "0" * 64,
        os=system,
        architecture="arm64",
        disk=disk,
        disk_size_bytes=MIB,
        aux=aux,
        hardware_model=hardware_model_data() if is_mac else b"",
        machine_id=machine_identifier_data(ecid) if is_mac else b"",
    )


class VzWorld(MachineWorld):
    """`mac` may be shared by several worlds: agents of one host."""

    def __init__(self, root: Path, image: MachineImage, mac: MacHost, flags: dict[str, str] | None = None) -> None:
        super().__init__(root, image)
        self.mac = mac
        settings = config.load(
            {
                "vz-helper-app": str(root / "absent.app"),
                "dhcp-leases-file": str(mac.leases),
                **(flags or {}),
            },
            {},
            purpose=config.Purpose.STANDALONE,
        )
        self.host_directory = mac.directory / "agents"
        self.setup = VzSetup(settings.vz, settings.machines.bridge_interface, self.host_directory, mac.environment())
        self._can: Capabilities | None = None

    def _make(self) -> MachineDriver:
        return VzDriver(self.root, self.setup, self._asked)

    def _asked(self, interpreter: Interpreter) -> Capabilities:
        """Asked once per world: it takes a process that loads the frameworks."""
        if self._can is None:
            self._can = ask(interpreter)
        return self._can

    def machine_state(self, uid: str) -> VzState:
        return MachineRoot(self.root).machine(uid).read_state(VzState)

    def helper_pid(self, uid: str) -> int:
        process = self.machine_state(uid).process
        assert process is not None
        return process.pid

    async def guest_powers_off(self, driver: MachineDriver, uid: str) -> None:
        self.mac.tell(self.machine_state(uid).mac, "power-off")

    async def hypervisor_dies(self, driver: MachineDriver, uid: str) -> None:
        os.kill(self.helper_pid(uid), signal.SIGKILL)

    async def booted(self, driver: MachineDriver, uid: str) -> None:
        return

    def leftovers(self) -> list[str]:
        processes = [f"process {process.role} {process.ref.pid}" for process in owned(self.root)]
        return [*processes, *super().leftovers()]

    def host_leftovers(self) -> list[str]:
        """What is held of the host while no machine runs."""
        slots = Slots(self.host_directory)
        held = [f"{slots.held(kind)} slots for {kind}" for kind in GuestKind if slots.held(kind)]
        return [*held, *self.mac.pending_faults(), *map(str, self.mac.aborts())]


@contextlib.asynccontextmanager
async def ending(world: VzWorld) -> AsyncIterator[VzWorld]:
    """The world for a block, with nothing left at its end."""
    try:
        yield world
    finally:
        await world.end()
    assert world.leftovers() == []
    assert world.host_leftovers() == []
