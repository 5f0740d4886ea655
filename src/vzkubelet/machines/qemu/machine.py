"""The life of one QEMU machine: start and end."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vzkubelet import aio
from vzkubelet.errors import Error, MachineFault, clip
from vzkubelet.machines.addresses import machine_mac
from vzkubelet.machines.directory import MachineDirectory, MachineRecord, listen, os_fault
from vzkubelet.machines.process import Launch, ProcessRef, boot_id, exit_of, kill, last_words, launch
from vzkubelet.machines.process_machine import ProcessMachine, ProcessState
from vzkubelet.machines.qemu import monitor, shares
from vzkubelet.machines.qemu.accelerator import Accelerator, KvmProof
from vzkubelet.machines.qemu.command_line import QemuInvocation, command_line
from vzkubelet.machines.qemu.events import fault_text, last_shutdown
from vzkubelet.machines.qemu.host import QemuHost
from vzkubelet.machines.qemu.network import LOOPBACK, USER_GUEST_IP, Attachment, GuestNetwork, forwards
from vzkubelet.ports import GuestAddress, MachinePhase

_log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
"""From exec to an answering monitor; a busy host needs a second or two."""
_ADDRESS_POLL_S = 0.1
_NETWORK_CHECK_S = 2.0
_SERVERS_GRACE_S = 2.0
"""virtiofsd ends by itself when its QEMU has; after that it is killed."""
_CAPABILITIES = b'{"execute": "qmp_capabilities"}\n'


class QemuState(ProcessState, kw_only=True):
    servers: tuple[ProcessRef, ...] = ()
    """virtiofsd, one per share."""
    ssh_port: int = 0
    """Loopback port that leads to the guest's SSH; 0 = the guest is reached directly."""
    accelerator: str = ""


@dataclass(frozen=True, slots=True)
class QemuParts:
    """What all machines of a driver share."""

    host: QemuHost
    network: GuestNetwork
    kvm: KvmProof


class QemuMachine(ProcessMachine[QemuState]):
    """One machine directory and, while it runs, the watch over its QEMU."""

    role = "qemu"

    def __init__(self, directory: MachineDirectory, parts: QemuParts) -> None:
        super().__init__(directory, QemuState)
        self._parts = parts
        self._mac = machine_mac(directory.uid)
        self._network_checked = time.monotonic()

    # --- Start -------------------------------------------------------------------------------------------------

    async def _begin(self, before: QemuState) -> ProcessRef:
        """Raises MachineFault, Unavailable, Exhausted, Unsupported, DeadlineExceeded."""
        accelerator = await self._parts.kvm.accelerator()
        async with self._parts.network.attached(self.uid) as attachment:
            return await self._start(self.directory.read_record(), before, accelerator, attachment)

    async def _start(
        self, record: MachineRecord, before: QemuState, accelerator: Accelerator, attachment: Attachment
    ) -> ProcessRef:
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
            recording = aio.run_blocking(self.directory.write_state, state)
            await aio.uninterrupted(recording, name=f"record start of {self.uid}")
        except BaseException as exc:
            # Servers last: a QEMU that lost them would linger for their answers.
            undo = self._undo_start(list(reversed(processes)), before)
            await aio.uninterrupted(undo, name=f"undo start of {self.uid}")
            if isinstance(exc, OSError):
                raise os_fault(exc, f"cannot start machine {self.uid}") from exc
            raise
        _log.info("machine %s runs, pid %d, %s", self.uid, process.pid, accelerator.name)
        return process

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
                    role=self.role,
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

    async def _ended(self, state: QemuState, process: ProcessRef, exit_status: int | None, ended_at: float) -> None:
        await self._end_servers(state.servers)
        await self._parts.network.release(self._mac)
        shutdown = last_shutdown(self._events())
        state.stopped_at = shutdown.at if shutdown is not None and shutdown.by_guest else ended_at
        if process.boot_id != boot_id() and shutdown is None:
            state.fault = "the host was restarted while the machine ran"
        else:
            words = last_words(self.directory.hypervisor_log)
            state.fault = fault_text(shutdown, killed=state.killed, exit_status=exit_status, last_words=words)
        state.servers, state.ssh_port = (), 0

    def _events(self) -> bytes:
        try:
            return self.directory.events.read_bytes()
        except OSError:
            return b""

    def _signs_of_life(self) -> Iterable[Path]:
        return (*super()._signs_of_life(), self.directory.events)

    async def _end_servers(self, servers: Sequence[ProcessRef]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SERVERS_GRACE_S):
                for server in servers:
                    await exit_of(server)
        await kill(servers)

    async def _terminate(self, state: QemuState, process: ProcessRef) -> None:
        await kill([process])

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

    # --- Address, removal --------------------------------------------------------------------------------------------

    async def _address_now(self, state: QemuState, watch: asyncio.Task[None]) -> GuestAddress | None:
        found = await self._known_address(state)
        if found is None:
            await asyncio.wait({watch}, timeout=_ADDRESS_POLL_S)
            if time.monotonic() - self._network_checked > _NETWORK_CHECK_S:
                self._network_checked = time.monotonic()
                await self._parts.network.set_up()
        return found

    async def _known_address(self, state: QemuState) -> GuestAddress | None:
        if not state.ssh_port:
            return await self._parts.network.address(self._mac)
        if not await forwards(state.ssh_port):
            return None
        return GuestAddress(USER_GUEST_IP, LOOPBACK, state.ssh_port)

    async def release(self) -> None:
        await super().release()
        await self._parts.network.release(self._mac)
