"""The life of one QEMU machine: start, watch, end. All changes happen under the lock of its directory."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, MachineFault, NotFound, clip
from vzkubelet.machines.addresses import machine_mac
from vzkubelet.machines.directory import MachineDirectory, MachineRecord, MachineState, listen, os_fault
from vzkubelet.machines.process import (
    Launch,
    OwnedProcess,
    ProcessRef,
    boot_id,
    exit_of,
    is_alive,
    kill,
    last_words,
    launch,
    owned,
)
from vzkubelet.machines.qemu import monitor, shares
from vzkubelet.machines.qemu.accelerator import Accelerator, KvmProof
from vzkubelet.machines.qemu.command_line import QemuInvocation, command_line
from vzkubelet.machines.qemu.events import fault_text, last_shutdown
from vzkubelet.machines.qemu.host import QemuHost
from vzkubelet.machines.qemu.network import LOOPBACK, USER_GUEST_IP, Attachment, GuestNetwork, forwards
from vzkubelet.ports import GuestAddress, MachinePhase

_log = logging.getLogger(__name__)
T = TypeVar("T")

_ROLE = "qemu"
_START_TIMEOUT_S = 60.0
"""From exec to an answering monitor; a busy host needs a second or two."""
_LOCK_RETRY_S = 0.02
_ADDRESS_POLL_S = 0.1
_NETWORK_CHECK_S = 2.0
_SERVERS_GRACE_S = 2.0
"""virtiofsd ends by itself when its QEMU has; after that it is killed."""
_CAPABILITIES = b'{"execute": "qmp_capabilities"}\n'


class QemuState(MachineState, kw_only=True):
    """`MachineState` and what is needed to find and judge the processes again."""

    process: ProcessRef | None = None
    servers: tuple[ProcessRef, ...] = ()
    """virtiofsd, one per share."""
    ssh_port: int = 0
    """Loopback port that leads to the guest's SSH; 0 = the guest is reached directly."""
    accelerator: str = ""
    killed: bool = False
    """The end of the process was asked for."""


@dataclass(frozen=True, slots=True)
class QemuParts:
    """What all machines of a driver share."""

    host: QemuHost
    network: GuestNetwork
    kvm: KvmProof


async def to_completion(work: Coroutine[Any, Any, T], name: str) -> T:
    """Await work that must not stop half way: a cancellation is raised only after it has ended."""
    task = aio.spawn(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class QemuMachine:
    """One machine directory and, while it runs, the watch over its QEMU."""

    def __init__(self, directory: MachineDirectory, parts: QemuParts) -> None:
        self.directory = directory
        self._parts = parts
        self._mac = machine_mac(directory.uid)
        self._lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    @property
    def uid(self) -> str:
        return self.directory.uid

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Alone with this machine, among tasks and processes. Raises NotFound when it does not exist (any more)."""
        async with self._lock:
            while (descriptor := self.directory.try_lock()) is None:  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(_LOCK_RETRY_S)
            try:
                yield
            finally:
                os.close(descriptor)

    async def state(self) -> QemuState:
        """The state as it is now: a machine whose process has ended is never reported as running. Raises NotFound."""
        while True:
            state = self.directory.read_state(QemuState)
            if state.phase is not MachinePhase.RUNNING or state.process is None:
                return state
            watch = self._watched(state.process)
            if is_alive(state.process):
                return state
            await asyncio.shield(watch)

    def _watched(self, process: ProcessRef) -> asyncio.Task[None]:
        if self._watch is None or self._watch.done():
            self._watch = aio.spawn(self._watch_until_end(process), name=f"watch QEMU of {self.uid}")
        return self._watch

    async def stopped(self) -> QemuState:
        """Wait until the machine is not running. Raises NotFound."""
        while True:
            state = await self.state()
            if state.phase is not MachinePhase.RUNNING or self._watch is None:
                return state
            await asyncio.shield(self._watch)

    # --- Start -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises Conflict, MachineFault, Unavailable, Exhausted, Unsupported, DeadlineExceeded, NotFound."""
        await self.state()  # records an end that nobody saw
        async with self.locked():
            before = self.directory.read_state(QemuState)
            if before.phase is MachinePhase.RUNNING:
                raise Conflict(f"machine {self.uid} runs already")
            await kill([process.ref for process in await aio.run_blocking(owned, self.directory.path)])
            accelerator = await self._parts.kvm.accelerator()
            async with self._parts.network.attached(self.uid) as attachment:
                await self._start(self.directory.read_record(), before, accelerator, attachment)

    async def _start(
        self, record: MachineRecord, before: QemuState, accelerator: Accelerator, attachment: Attachment
    ) -> None:
        processes: list[ProcessRef] = []
        try:
            started_at = time.time()
            for share in record.shared():
                self.directory.share_log(share.tag).unlink(missing_ok=True)
                processes.append(shares.start(self._parts.host, self.directory, share))
            process = self._launch(record, accelerator, attachment)
            processes.append(process)
            await self._answering(process)
            port = await monitor.ssh_port(self.directory.monitor_socket) if self._parts.network.forwards_ssh else 0
            state = QemuState(
                phase=MachinePhase.RUNNING,
                started_at=started_at,
                process=process,
                servers=tuple(processes[:-1]),
                ssh_port=port,
                accelerator=accelerator.name,
            )
            await to_completion(aio.run_blocking(self.directory.write_state, state), f"record start of {self.uid}")
        except BaseException as exc:
            # Servers last: a QEMU that lost them would linger for their answers.
            await to_completion(self._undo_start(list(reversed(processes)), before), f"undo start of {self.uid}")
            if isinstance(exc, OSError):
                raise os_fault(exc, f"cannot start machine {self.uid}") from exc
            raise
        self._watched(process)
        _log.info("machine %s runs, pid %d, %s", self.uid, process.pid, accelerator.name)

    async def _undo_start(self, processes: Sequence[ProcessRef], before: QemuState) -> None:
        await kill(processes)
        await aio.run_blocking(self.directory.write_state, before)

    def _launch(self, record: MachineRecord, accelerator: Accelerator, attachment: Attachment) -> ProcessRef:
        directory = self.directory
        directory.hypervisor_log.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            monitor_socket = stack.enter_context(listen(directory.monitor_socket))
            events = stack.enter_context(directory.events.open("wb"))
            # The event monitor's input: one command and then never an end of file, for QEMU holds both ends.
            commands, commands_end = os.pipe()
            stack.callback(os.close, commands)
            stack.callback(os.close, commands_end)
            os.write(commands_end, _CAPABILITIES)
            invocation = QemuInvocation(accelerator, attachment.netdev, self._mac, monitor_socket.fileno())
            return launch(
                Launch(
                    argv=command_line(self._parts.host, directory, record, invocation),
                    owner=directory.path,
                    role=_ROLE,
                    cwd=directory.path,
                    log=directory.hypervisor_log,
                    stdin=commands,
                    stdout=events.fileno(),
                    pass_fds=(monitor_socket.fileno(), commands_end, *attachment.descriptors),
                )
            )

    async def _answering(self, process: ProcessRef) -> None:
        """Wait until QEMU runs the guest; MachineFault with QEMU's own words when it ends instead."""
        end = aio.spawn(exit_of(process), name=f"early end of {self.uid}")
        query = aio.spawn(
            monitor.execute(self.directory.monitor_socket, "query-status", timeout_s=_START_TIMEOUT_S),
            name=f"first answer of {self.uid}",
            on_crash=lambda exc: _log.debug("machine %s gave no first answer: %s", self.uid, exc),
        )
        try:
            await asyncio.wait({end, query}, return_when=asyncio.FIRST_COMPLETED)
            if query.done() and query.exception() is not None:
                await asyncio.wait({end}, timeout=1.0)  # a broken connection is the end being heard of first
            if end.done():
                words = clip(last_words(self.directory.hypervisor_log))
                raise MachineFault(f"QEMU did not start machine {self.uid} (status {end.result()}): {words}")
            query.result()
        finally:
            await aio.cancel(end, query)

    # --- End ---------------------------------------------------------------------------------------------------

    async def _watch_until_end(self, process: ProcessRef) -> None:
        witnessed = is_alive(process)
        status = await exit_of(process)
        ended_at = time.time() if witnessed else None
        with contextlib.suppress(NotFound):  # deleted together with its record
            async with self.locked():
                await self._record_end(process, status, ended_at)

    async def _record_end(self, process: ProcessRef, exit_status: int | None, ended_at: float | None) -> None:
        state = self.directory.read_state(QemuState)
        if state.phase is not MachinePhase.RUNNING or state.process != process:
            return  # another process recorded it
        await self._end_servers(state.servers)
        await self._parts.network.release(self._mac)
        shutdown = last_shutdown(self._events())
        if shutdown is not None and shutdown.by_guest:
            ended_at = shutdown.at
        state.phase = MachinePhase.STOPPED
        state.stopped_at = max(ended_at or self._last_sign_of_life(), state.started_at or 0.0)
        if process.boot_id != boot_id() and shutdown is None:
            state.fault = "the host was restarted while the machine ran"
        else:
            words = last_words(self.directory.hypervisor_log)
            state.fault = fault_text(shutdown, killed=state.killed, exit_status=exit_status, last_words=words)
        state.process, state.servers, state.ssh_port = None, (), 0
        await to_completion(aio.run_blocking(self.directory.write_state, state), f"record end of {self.uid}")
        _log.info("machine %s stopped: %s", self.uid, state.fault or "the guest powered off")

    def _events(self) -> bytes:
        try:
            return self.directory.events.read_bytes()
        except OSError:
            return b""

    def _last_sign_of_life(self) -> float:
        """When the machine's files were written last, for an end that no daemon saw."""
        times = [time.time() - 1e9]
        for path in (
            self.directory.console,
            self.directory.events,
            self.directory.hypervisor_log,
            *self.directory.disk_files,
        ):
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times)

    async def _end_servers(self, servers: Sequence[ProcessRef]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SERVERS_GRACE_S):
                for server in servers:
                    await exit_of(server)
        await kill(servers)

    async def kill(self) -> None:
        """Raises NotFound, DeadlineExceeded (the process hangs in the kernel)."""
        state = await self.state()
        if state.phase is not MachinePhase.RUNNING:
            return
        async with self.locked():
            state = self.directory.read_state(QemuState)
            if state.phase is not MachinePhase.RUNNING or state.process is None:
                return
            state.killed = True
            process = state.process
            await to_completion(aio.run_blocking(self.directory.write_state, state), f"record kill of {self.uid}")
            self._watched(process)
        await kill([process])
        await self.stopped()

    async def power_off(self) -> None:
        """Press the guest's power button. Raises NotFound."""
        state = await self.state()
        if state.phase is not MachinePhase.RUNNING:
            return
        try:
            await monitor.execute(self.directory.monitor_socket, "system_powerdown")
        except Error:
            if (await self.state()).phase is MachinePhase.RUNNING:
                raise

    # --- Adoption, address, removal ------------------------------------------------------------------------------

    async def adopt(self, processes: Sequence[OwnedProcess]) -> bool:
        """Judge what an earlier daemon left of this machine; True when it runs."""
        descriptor = self.directory.try_lock()
        if descriptor is None:
            return True  # a living process works on it
        try:
            state = self.directory.read_state(QemuState)
            keep = {state.process} if state.process is not None and is_alive(state.process) else set()
            if state.phase is not MachinePhase.RUNNING:
                keep = set()
            # A start that never came to its end is undone; servers of a running machine belong to it.
            strays = [p.ref for p in processes if p.ref not in keep and (not keep or p.role == _ROLE)]
            if strays:
                _log.warning("machine %s: removing %d processes that an earlier daemon left", self.uid, len(strays))
                await kill(strays)
        finally:
            os.close(descriptor)
        return (await self.state()).phase is MachinePhase.RUNNING

    async def address(self) -> GuestAddress:
        """Raises Conflict, NotFound."""
        checked = time.monotonic()
        while True:
            state = await self.state()
            watch = self._watch
            if state.phase is not MachinePhase.RUNNING or watch is None:
                raise Conflict(
                    f"machine {self.uid} stopped before its address was known: {state.fault or 'powered off'}"
                )
            while not watch.done():
                if (found := await self._address_now(state)) is not None:
                    return found
                await asyncio.wait({watch}, timeout=_ADDRESS_POLL_S)
                if time.monotonic() - checked > _NETWORK_CHECK_S:
                    checked = time.monotonic()
                    await self._parts.network.set_up()

    async def _address_now(self, state: QemuState) -> GuestAddress | None:
        if not state.ssh_port:
            return await self._parts.network.address(self._mac)
        if not await forwards(state.ssh_port):
            return None
        return GuestAddress(USER_GUEST_IP, LOOPBACK, state.ssh_port)

    async def release(self) -> None:
        """Free what the machine holds outside its directory; the caller holds its lock and deletes it next."""
        await kill([process.ref for process in await aio.run_blocking(owned, self.directory.path)])
        await self._parts.network.release(self._mac)

    async def close(self) -> None:
        await aio.cancel(self._watch)
