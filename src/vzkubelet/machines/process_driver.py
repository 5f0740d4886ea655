"""The part of `ports.MachineDriver` that is the same whenever each machine is a process of its own."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, InvalidInput, NotFound, Unavailable
from vzkubelet.machines.clone import CloneAborted
from vzkubelet.machines.directory import MachineDirectory, MachineRoot
from vzkubelet.machines.process import OwnedProcess, owned
from vzkubelet.machines.process_machine import ProcessMachine, ProcessState
from vzkubelet.model.oci import Platform
from vzkubelet.ports import GuestAddress, MachineLimits, MachineSpec, MachineStatus

_log = logging.getLogger(__name__)
MachineT = TypeVar("MachineT", bound=ProcessMachine[Any])
_BLOCK_BYTES = 512  # unit of st_blocks, whatever the file system's blocks are


class ProcessDriver(ABC, Generic[MachineT]):
    """Machines below `root`. See `ports.MachineDriver` for what every method promises."""

    def __init__(self, root: Path) -> None:
        self._root = MachineRoot(root)
        self._machines: dict[str, MachineT] = {}

    # --- What a driver adds ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def platforms(self) -> tuple[Platform, ...]: ...

    @abstractmethod
    def limits(self) -> MachineLimits: ...

    @abstractmethod
    def _made(self, directory: MachineDirectory) -> MachineT:
        """The object of a machine, whether it exists or not."""

    @abstractmethod
    def _check(self, spec: MachineSpec) -> None:
        """Raises InvalidInput, Unsupported: what cannot run here, beyond `_check_size`."""

    @abstractmethod
    def _fill(self, directory: MachineDirectory, spec: MachineSpec, abort: threading.Event) -> None:
        """Clone the image's files into the staged directory, write record and state. Raises OSError, CloneAborted."""

    # --- The rest ----------------------------------------------------------------------------------------------------

    def _machine(self, uid: str) -> MachineT:
        """The one object of a machine in this process; whether the machine exists is for its directory to say."""
        machine = self._machines.get(uid)
        if machine is None:
            machine = self._machines[uid] = self._made(self._root.machine(uid))
        return machine

    async def _adopt_machines(self) -> set[str]:
        """Take over what an earlier daemon left; the machines that run."""
        for name in await aio.run_blocking(self._root.remove_leftovers):
            _log.info("removed %s, which an earlier daemon left", name)
        owners: dict[str, list[OwnedProcess]] = defaultdict(list)
        for process in await aio.run_blocking(owned, self._root.path):
            owner = Path(process.owner)
            if owner.parent == self._root.path:
                owners[owner.name].append(process)
        running: set[str] = set()
        for uid in self._root.uids():
            try:
                if await self._machine(uid).adopt(owners.pop(uid, [])):
                    running.add(uid)
            except NotFound:
                continue
            except Error as exc:
                _log.warning("machine %s cannot be adopted: %s", uid, exc)
        for uid, left in owners.items():
            await self._machine(uid).end([process.ref for process in left if self._is_machine_process(process)])
            self._machines.pop(uid)
        return running

    def _is_machine_process(self, process: OwnedProcess) -> bool:
        """Whether a process that belongs to no machine any more belonged to one."""
        return True

    async def machines(self) -> Sequence[str]:
        return await aio.run_blocking(self._root.uids)

    async def create(self, spec: MachineSpec) -> None:
        self._check_size(spec)
        self._check(spec)
        abort = threading.Event()
        name = f"create machine {spec.pod.uid}"
        work = aio.spawn(aio.run_blocking(self._create, spec, abort), name=name, on_crash=lambda _: None)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            abort.set()
            await aio.uninterrupted(self._take_back(work, spec.pod.uid), name=f"take back machine {spec.pod.uid}")
            raise

    async def _take_back(self, creation: asyncio.Task[None], uid: str) -> None:
        """Wait for a creation that nobody wants any more, and remove what it made nevertheless."""
        await asyncio.wait([creation])
        if creation.cancelled() or creation.exception() is not None:
            return
        try:
            await self.delete(uid)
        except Error as exc:
            _log.warning("machine %s, whose creation was given up, is not removed: %s", uid, exc)

    def _check_size(self, spec: MachineSpec) -> None:
        """Raises InvalidInput when the image or the size of a machine is beyond what the host runs."""
        image, limits = spec.image, self.limits()
        if image.platform not in self.platforms:
            runs = " and ".join(map(str, self.platforms))
            raise InvalidInput(
                f"image {image.reference} is for {image.platform}; the {self.name} driver on this host runs {runs} only"
            )
        if not limits.cpu_min <= spec.cpus <= limits.cpu_max:
            raise InvalidInput(f"{spec.cpus} CPUs: this host runs machines of {limits.cpu_min} to {limits.cpu_max}")
        if not limits.memory_min_bytes <= spec.memory_bytes <= limits.memory_max_bytes:
            raise InvalidInput(
                f"{spec.memory_bytes} bytes of memory: this host runs machines of "
                f"{limits.memory_min_bytes} to {limits.memory_max_bytes}"
            )

    def _create(self, spec: MachineSpec, abort: threading.Event) -> None:
        try:
            with self._root.staged(spec.pod.uid) as directory:
                self._fill(directory, spec, abort)
        except CloneAborted as exc:
            raise Conflict(f"the creation of machine {spec.pod.uid} was abandoned") from exc

    async def start(self, uid: str) -> None:
        await self._machine(uid).start()

    async def status(self, uid: str) -> MachineStatus:
        state: ProcessState = await self._machine(uid).state()
        return state.status()

    async def wait(self, uid: str) -> MachineStatus:
        state: ProcessState = await self._machine(uid).stopped()
        return state.status()

    async def address(self, uid: str) -> GuestAddress:
        return await self._machine(uid).address()

    async def network_change(self, uid: str, known: str) -> str | None:
        return await self._machine(uid).network_change(known)

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
                await aio.uninterrupted(aio.run_blocking(self._root.remove, uid), name=f"remove machine {uid}")
        except NotFound:
            pass
        self._machines.pop(uid, None)
        await machine.close()

    async def _kill_for_removal(self, machine: MachineT) -> None:
        try:
            await machine.kill()
        except Unavailable as exc:  # its state is unreadable: what its processes are marked with still is not
            _log.warning("machine %s is removed without its state: %s", machine.uid, exc)

    def console(self, uid: str) -> Path:
        return self._root.machine(uid).console

    def host_key(self, uid: str) -> Path:
        return self._root.machine(uid).host_key

    async def close(self) -> None:
        for machine in list(self._machines.values()):
            await machine.close()


def disk_bytes(directory: MachineDirectory) -> int:
    """What the machine's own disks occupy."""
    return sum(path.stat().st_blocks * _BLOCK_BYTES for path in directory.disk_files if path.exists())
