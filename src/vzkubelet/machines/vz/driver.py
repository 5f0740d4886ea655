"""The vz driver: `ports.MachineDriver` for macOS and Linux guests on Apple Silicon."""

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vzkubelet.config.settings import VzSettings
from vzkubelet.errors import Conflict, InvalidInput, Unavailable, Unsupported
from vzkubelet.machines.clone import clone_file
from vzkubelet.machines.directory import MachineDirectory, MachineRecord
from vzkubelet.machines.process_driver import ProcessDriver, disk_bytes
from vzkubelet.machines.vz import capabilities
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.capabilities import Capabilities
from vzkubelet.machines.vz.hardware_model import refusal
from vzkubelet.machines.vz.helped_machine import HelpedMachine, VzParts, VzState
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.mac_pool import MacPool
from vzkubelet.machines.vz.plan import Waits
from vzkubelet.machines.vz.planning import Choices, check_image
from vzkubelet.machines.vz.resolvers import Resolvers
from vzkubelet.machines.vz.slots import MACOS_SLOTS, GuestKind, Slots
from vzkubelet.machines.vz.usage import guest_usage
from vzkubelet.model.oci import Platform
from vzkubelet.ports import HostNetwork, MachineLimits, MachinePhase, MachineSpec, MachineUsage

_PLATFORMS = (Platform(os="darwin", architecture="arm64"), Platform(os="linux", architecture="arm64"))
TAG_BYTES_MAX = 35
"""VZVirtioFileSystemDeviceConfiguration.validateTag: at least one byte, fewer than 36 in UTF-8."""


@dataclass(frozen=True, slots=True)
class VzSetup:
    """What the agent decides about the driver. `environment` is for the helpers; it holds no secrets."""

    settings: VzSettings
    bridge_interface: str | None
    host_directory: Path
    """Shared with every other agent of this host."""
    environment: Mapping[str, str]
    waits: Waits = field(default_factory=Waits)


class VzDriver(ProcessDriver[HelpedMachine]):
    """Machines below `root`, one helper process each. See `ports.MachineDriver` for what every method promises."""

    def __init__(
        self, root: Path, setup: VzSetup, ask: Callable[[Interpreter], Capabilities] = capabilities.ask
    ) -> None:
        """Raises: Unsupported (the interpreter of the helpers is not there)."""
        super().__init__(root.absolute())
        settings, host_directory = setup.settings, setup.host_directory.absolute()
        interpreter = Interpreter.find(settings.helper_app, setup.environment)
        self._ask: Callable[[], Capabilities] = functools.partial(ask, interpreter)
        self._can: Capabilities | None = None
        self._parts = VzParts(
            interpreter,
            Choices(settings, setup.bridge_interface, host_directory, setup.waits),
            Slots(host_directory),
            MacPool(host_directory),
            Resolvers(settings.dhcp_leases_file),
        )

    @property
    def name(self) -> str:
        return "vz"

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return _PLATFORMS

    def _capabilities(self) -> Capabilities:
        """Asked once, and late: whoever only reads a log or removes machines needs no framework."""
        if self._can is None:
            can = self._ask()
            if self._parts.choices.settings.nested and not can.nested:
                raise Unsupported(
                    f"--vz-nested-virtualization needs macOS 15 on an M3 or later, and this is {MacOS(*can.version)}"
                )
            self._can = can
        return self._can

    def limits(self) -> MachineLimits:
        can = self._capabilities()
        return MachineLimits(
            cpu_min=can.cpu_min,
            cpu_max=can.cpu_max,
            memory_min_bytes=can.memory_min_bytes,
            memory_max_bytes=can.memory_max_bytes,
            slots=MACOS_SLOTS,
        )

    def hardware_model_refusal(self, hardware_model: bytes) -> str | None:
        """Why an image with this model will not start here, as far as that shows before its disk is moved."""
        return refusal(hardware_model, MacOS(*self._capabilities().version))

    def network(self) -> HostNetwork | None:
        return None

    def _made(self, directory: MachineDirectory) -> HelpedMachine:
        return HelpedMachine(directory, self._parts)

    async def adopt(self) -> None:
        await self._adopt_machines()

    def _check(self, spec: MachineSpec) -> None:
        image = spec.image
        if GuestKind.of(image.os) is GuestKind.MACOS:
            check_image(image.reference, image.hardware_model)
        if spec.cpus < image.cpu_min or spec.memory_bytes < image.memory_min_bytes:
            raise InvalidInput(
                f"image {image.reference} needs {image.cpu_min} CPUs and {image.memory_min_bytes} bytes of memory; "
                f"the machine was to have {spec.cpus} and {spec.memory_bytes}"
            )
        tags = [share.tag for share in spec.shares]
        for share in spec.shares:
            if not 1 <= len(os.fsencode(share.tag)) <= TAG_BYTES_MAX or tags.count(share.tag) > 1:
                raise InvalidInput(f"share tag {share.tag!r}: 1 to {TAG_BYTES_MAX} bytes, each tag once")
            if not share.path.is_dir():
                raise InvalidInput(f"cannot share {share.path}: it is not a directory")

    def _fill(self, directory: MachineDirectory, spec: MachineSpec, abort: threading.Event) -> None:
        # Both or none: auxiliary storage knows the disk that it boots.
        clone_file(spec.image.disk, directory.disk_raw, abort)
        clone_file(spec.image.aux, directory.aux, abort)
        directory.write_record(MachineRecord.of(spec, self.name))
        directory.write_state(VzState())

    async def usage(self, uid: str) -> MachineUsage:
        machine = self._machine(uid)
        state = await machine.state()
        if state.phase is not MachinePhase.RUNNING or state.process is None:
            raise Conflict(f"machine {uid} does not run, it uses nothing")
        cpu_ns, memory_bytes = guest_usage(state.process.pid, machine.directory.disk_raw)
        if not cpu_ns or not memory_bytes:
            raise Unavailable(f"machine {uid} has no figures yet, or has just stopped")
        return MachineUsage(cpu_ns, memory_bytes, disk_bytes(machine.directory), time.time())
