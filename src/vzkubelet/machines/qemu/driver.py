"""The QEMU driver: `ports.MachineDriver` for Linux guests on Linux hosts."""

import os
import threading
import time
from pathlib import Path

import psutil

from vzkubelet.errors import Conflict, Unavailable, Unsupported
from vzkubelet.machines.addresses import machine_mac
from vzkubelet.machines.clone import CloneMethod, clone_disk_for_qemu, clone_file
from vzkubelet.machines.directory import MachineDirectory, MachineRecord
from vzkubelet.machines.process import OwnedProcess, cpu_ns, resident_bytes
from vzkubelet.machines.process_driver import ProcessDriver, disk_bytes
from vzkubelet.machines.qemu import shares
from vzkubelet.machines.qemu.accelerator import KvmProof
from vzkubelet.machines.qemu.host import QemuHost
from vzkubelet.machines.qemu.machine import QemuMachine, QemuParts, QemuState
from vzkubelet.machines.qemu.network import GuestNetwork
from vzkubelet.model.oci import Platform
from vzkubelet.ports import HostNetwork, MachineLimits, MachinePhase, MachineSpec, MachineUsage

MEMORY_FLOOR_BYTES = 128 * 1024 * 1024
"""A Debian cloud kernel hangs before its first line with 64 MiB and boots with 96."""


class QemuDriver(ProcessDriver[QemuMachine]):
    """Machines below `root`, one QEMU each. See `ports.MachineDriver` for what every method promises."""

    def __init__(self, root: Path, host: QemuHost, network: GuestNetwork, kvm: KvmProof) -> None:
        super().__init__(root)
        self._host = host
        self._network = network
        self._parts = QemuParts(host, network, kvm)

    @property
    def name(self) -> str:
        return "qemu"

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return (Platform(os="linux", architecture=self._host.architecture),)

    def limits(self) -> MachineLimits:
        return MachineLimits(
            cpu_min=1,
            cpu_max=min(os.cpu_count() or 1, self._host.platform.cpus_max),
            memory_min_bytes=MEMORY_FLOOR_BYTES,
            memory_max_bytes=psutil.virtual_memory().total,
            shares=shares.are_possible(self._host),
        )

    def network(self) -> HostNetwork | None:
        return self._network.host_network()

    def _made(self, directory: MachineDirectory) -> QemuMachine:
        return QemuMachine(directory, self._parts)

    def _is_machine_process(self, process: OwnedProcess) -> bool:
        return process.role != "kvm-trial"

    async def adopt(self) -> None:
        await self._network.set_up()
        await self._network.retain({machine_mac(uid) for uid in await self._adopt_machines()})

    def _check(self, spec: MachineSpec) -> None:
        if spec.shares and not self.limits().shares:
            raise Unsupported("this host cannot share directories with guests: it needs virtiofsd, and root to run it")
        shares.validate(spec.shares)

    def _fill(self, directory: MachineDirectory, spec: MachineSpec, abort: threading.Event) -> None:
        place = self._root.machine(spec.pod.uid).path
        method = clone_disk_for_qemu(spec.image.disk, directory, abort, users=spec.image.users, place=place)
        clone_file(spec.image.aux, directory.aux, abort)
        disk_format = "qcow2" if method is CloneMethod.OVERLAY else "raw"
        directory.write_record(MachineRecord.of(spec, self.name, disk_format))
        directory.write_state(QemuState())

    async def usage(self, uid: str) -> MachineUsage:
        machine = self._machine(uid)
        state = await machine.state()
        if state.phase is not MachinePhase.RUNNING or state.process is None:
            raise Conflict(f"machine {uid} does not run, it uses nothing")
        used = MachineUsage(
            cpu_ns(state.process), resident_bytes(state.process), disk_bytes(machine.directory), time.time()
        )
        if not used.cpu_ns or not used.memory_bytes:
            raise Unavailable(f"machine {uid} has no figures yet, or has just stopped")
        return used

    async def tear_down(self) -> None:
        """Remove the guest network. Raises Conflict while a machine runs."""
        for uid in await self.machines():
            if (await self.status(uid)).phase is MachinePhase.RUNNING:
                raise Conflict(f"the guest network is in use: machine {uid} runs")
        await self._network.tear_down()
