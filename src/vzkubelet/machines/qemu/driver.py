"""The QEMU driver: `ports.MachineDriver` for Linux guests on Linux hosts."""

import asyncio
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import psutil

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, InvalidInput, NotFound, Unavailable, Unsupported
from vzkubelet.machines.addresses import MacAddress, machine_mac
from vzkubelet.machines.clone import CloneAborted, CloneMethod, clone_disk_for_qemu, clone_file
from vzkubelet.machines.directory import MachineRecord, MachineRoot
from vzkubelet.machines.process import OwnedProcess, cpu_ns, kill, owned, resident_bytes
from vzkubelet.machines.qemu import shares
from vzkubelet.machines.qemu.accelerator import KvmProof
from vzkubelet.machines.qemu.host import QemuHost
from vzkubelet.machines.qemu.machine import QemuMachine, QemuParts, QemuState, to_completion
from vzkubelet.machines.qemu.network import GuestNetwork
from vzkubelet.ports import (
    GuestAddress,
    HostNetwork,
    MachineLimits,
    MachinePhase,
    MachineSpec,
    MachineStatus,
    MachineUsage,
)

_log = logging.getLogger(__name__)

MEMORY_FLOOR_BYTES = 128 * 1024 * 1024
"""A Debian cloud kernel hangs before its first line with 64 MiB and boots with 96."""
_BLOCK_BYTES = 512  # unit of st_blocks, whatever the file system's blocks are


class QemuDriver:
    """Machines below `root`, one QEMU each. See `ports.MachineDriver` for what every method promises."""

    def __init__(self, root: Path, host: QemuHost, network: GuestNetwork, kvm: KvmProof) -> None:
        self._root = MachineRoot(root)
        self._host = host
        self._network = network
        self._parts = QemuParts(host, network, kvm)
        self._machines: dict[str, QemuMachine] = {}

    @property
    def name(self) -> str:
        return "qemu"

    def limits(self) -> MachineLimits:
        return MachineLimits(
            operating_systems=frozenset({"linux"}),
            architectures=frozenset({self._host.architecture}),
            cpu_min=1,
            cpu_max=min(os.cpu_count() or 1, self._host.platform.cpus_max),
            memory_min_bytes=MEMORY_FLOOR_BYTES,
            memory_max_bytes=psutil.virtual_memory().total,
            shares=shares.are_possible(self._host),
        )

    def network(self) -> HostNetwork | None:
        return self._network.host_network()

    def _machine(self, uid: str) -> QemuMachine:
        """The one object of a machine in this process; whether the machine exists is for its directory to say."""
        machine = self._machines.get(uid)
        if machine is None:
            machine = self._machines[uid] = QemuMachine(self._root.machine(uid), self._parts)
        return machine

    async def adopt(self) -> None:
        await self._network.set_up()
        for name in await aio.run_blocking(self._root.remove_leftovers):
            _log.info("removed %s, which an earlier daemon left", name)
        owners: dict[str, list[OwnedProcess]] = defaultdict(list)
        for process in await aio.run_blocking(owned, self._root.path):
            owner = Path(process.owner)
            if owner.parent == self._root.path:
                owners[owner.name].append(process)
        running: set[MacAddress] = set()
        for uid in self._root.uids():
            try:
                if await self._machine(uid).adopt(owners.pop(uid, [])):
                    running.add(machine_mac(uid))
            except NotFound:
                continue
            except Error as exc:
                _log.warning("machine %s cannot be adopted: %s", uid, exc)
        ownerless = [process.ref for group in owners.values() for process in group if process.role != "kvm-trial"]
        await kill(ownerless)
        await self._network.retain(running)

    async def machines(self) -> Sequence[str]:
        return await aio.run_blocking(self._root.uids)

    async def create(self, spec: MachineSpec) -> None:
        self._validate(spec)
        abort = threading.Event()
        work = aio.spawn(aio.run_blocking(self._create, spec, abort), name=f"create machine {spec.pod.uid}")
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            abort.set()
            await asyncio.wait([work])
            if not work.cancelled() and work.exception() is None:
                await self.delete(spec.pod.uid)
            raise

    def _validate(self, spec: MachineSpec) -> None:
        """Raises InvalidInput, Unsupported."""
        limits, image = self.limits(), spec.image
        if image.os not in limits.operating_systems or image.architecture not in limits.architectures:
            raise InvalidInput(
                f"image {image.reference} is for {image.os}/{image.architecture}; "
                f"the qemu driver on this host runs linux/{self._host.architecture} only"
            )
        if not limits.cpu_min <= spec.cpus <= limits.cpu_max:
            raise InvalidInput(f"{spec.cpus} CPUs: this host runs machines of {limits.cpu_min} to {limits.cpu_max}")
        if not limits.memory_min_bytes <= spec.memory_bytes <= limits.memory_max_bytes:
            raise InvalidInput(
                f"{spec.memory_bytes} bytes of memory: this host runs machines of "
                f"{limits.memory_min_bytes} to {limits.memory_max_bytes}"
            )
        if spec.shares and not limits.shares:
            raise Unsupported("this host cannot share directories with guests: it needs virtiofsd, and root to run it")
        shares.validate(spec.shares)

    def _create(self, spec: MachineSpec, abort: threading.Event) -> None:
        try:
            with self._root.staged(spec.pod.uid) as directory:
                method = clone_disk_for_qemu(spec.image.disk, directory, abort)
                clone_file(spec.image.aux, directory.aux, abort)
                disk_format = "qcow2" if method is CloneMethod.OVERLAY else "raw"
                directory.write_record(MachineRecord.of(spec, self.name, disk_format))
                directory.write_state(QemuState())
        except CloneAborted as exc:
            raise Conflict(f"the creation of machine {spec.pod.uid} was abandoned") from exc

    async def start(self, uid: str) -> None:
        await self._machine(uid).start()

    async def status(self, uid: str) -> MachineStatus:
        return (await self._machine(uid).state()).status()

    async def wait(self, uid: str) -> MachineStatus:
        return (await self._machine(uid).stopped()).status()

    async def address(self, uid: str) -> GuestAddress:
        return await self._machine(uid).address()

    async def power_off(self, uid: str) -> None:
        await self._machine(uid).power_off()

    async def kill(self, uid: str) -> None:
        await self._machine(uid).kill()

    async def delete(self, uid: str) -> None:
        machine = self._machine(uid)
        try:
            await self._kill_for_removal(machine)
            async with machine.locked():
                await machine.release()
                await to_completion(aio.run_blocking(self._root.remove, uid), f"remove machine {uid}")
        except NotFound:
            pass
        self._machines.pop(uid, None)
        await machine.close()

    async def _kill_for_removal(self, machine: QemuMachine) -> None:
        try:
            await machine.kill()
        except Unavailable as exc:  # its state is unreadable: what its processes are marked with still is not
            _log.warning("machine %s is removed without its state: %s", machine.uid, exc)

    def console(self, uid: str) -> Path:
        return self._root.machine(uid).console

    def host_key(self, uid: str) -> Path:
        return self._root.machine(uid).host_key

    async def usage(self, uid: str) -> MachineUsage:
        machine = self._machine(uid)
        state = await machine.state()
        if state.phase is not MachinePhase.RUNNING or state.process is None:
            raise Conflict(f"machine {uid} does not run, it uses nothing")
        disk_bytes = sum(path.stat().st_blocks * _BLOCK_BYTES for path in machine.directory.disk_files if path.exists())
        used = MachineUsage(cpu_ns(state.process), resident_bytes(state.process), disk_bytes, time.time())
        if not used.cpu_ns or not used.memory_bytes:
            raise Unavailable(f"machine {uid} has no figures yet, or has just stopped")
        return used

    async def tear_down(self) -> None:
        """Remove the guest network. Raises Conflict while a machine runs."""
        for uid in await self.machines():
            if (await self.status(uid)).phase is MachinePhase.RUNNING:
                raise Conflict(f"the guest network is in use: machine {uid} runs")
        await self._network.tear_down()

    async def close(self) -> None:
        for machine in list(self._machines.values()):
            await machine.close()
