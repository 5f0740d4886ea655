"""The life of one machine as the daemon sees it: its helper is started, asked, watched, and its end is judged."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet import aio, files
from vzkubelet.errors import (
    MACHINE_LIMIT_REASON,
    MAX_FOREIGN_TEXT,
    Error,
    Exhausted,
    MachineFault,
    Unavailable,
    clip,
)
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.process import ProcessRef, boot_id, exit_of, last_words, terminate
from vzkubelet.machines.process_machine import ProcessMachine, ProcessState
from vzkubelet.machines.vz import guest_agent, plan
from vzkubelet.machines.vz.client import Client, HelperLost, closing
from vzkubelet.machines.vz.launch import HELPER_ROLE, Interpreter, launch_helper
from vzkubelet.machines.vz.mac_pool import MacPool
from vzkubelet.machines.vz.plan import BridgedNetwork
from vzkubelet.machines.vz.planning import Choices, machine_plan, network
from vzkubelet.machines.vz.protocol import End
from vzkubelet.machines.vz.resolvers import Resolvers, Sought
from vzkubelet.machines.vz.slots import GuestKind, Slot, Slots, refusal_explained
from vzkubelet.ports import GuestAddress, MachinePhase

_log = logging.getLogger(__name__)

_GREETING_S = 60.0
"""From exec to the helper's first word; a busy host needs seconds to load the frameworks."""
_ANSWER_S = 10.0
"""How much longer than for the framework a helper is waited for."""
_EXIT_S = 5.0
_RECONNECT_S = 5.0
_END_S = 3.0
"""From a stopped guest, or one that cannot be stopped, to the end of its helper."""


class VzState(ProcessState, kw_only=True):
    """`ProcessState` and what only a running machine has."""

    mac: str = ""
    slot: int = 0


@dataclass(frozen=True, slots=True)
class VzParts:
    """What all machines of a driver share."""

    interpreter: Interpreter
    choices: Choices
    slots: Slots
    macs: MacPool
    resolvers: Resolvers


class HelpedMachine(ProcessMachine[VzState]):
    """One machine directory and, while it runs, the watch over its helper."""

    role = HELPER_ROLE

    def __init__(self, directory: MachineDirectory, parts: VzParts) -> None:
        super().__init__(directory, VzState)
        self._parts = parts
        self._listening: Client | None = None
        """Stays connected from the start on, so that no fault of the network is missed, however short it is."""

    # --- Start -------------------------------------------------------------------------------------------------------

    async def _begin(self, before: VzState) -> ProcessRef:
        """Raises Exhausted (reason VirtualMachineLimit, MachineIdentityInUse), and what the helper finds wrong."""
        record = self.directory.read_record()
        kind = GuestKind.of(record.os)
        with self._parts.slots.taken(kind, f"{record.namespace}/{record.name}") as slot:
            mac = self._parts.macs.address(slot)
            what = machine_plan(record, self.directory, self._parts.choices, mac)
            try:
                return await self._start(before, slot, plan.encode(what), mac)
            except Exhausted as exc:
                if exc.reason != MACHINE_LIMIT_REASON or kind is not GuestKind.MACOS:
                    raise
                others = await aio.run_blocking(self._parts.slots.held, kind) - 1  # the one taken here is no machine
                raise Exhausted(refusal_explained(exc.message, others), reason=MACHINE_LIMIT_REASON) from exc

    async def _start(self, before: VzState, slot: Slot, encoded: bytes, mac: MacAddress) -> ProcessRef:
        process: ProcessRef | None = None
        try:
            started_at = time.time()
            self.directory.end.unlink(missing_ok=True)
            files.write_atomic(self.directory.plan, encoded)
            process = launch_helper(self._parts.interpreter, self.directory, [slot.descriptor])
            await self._start_guest(process, self._parts.choices.waits.start_s + _ANSWER_S)
            state = VzState(
                phase=MachinePhase.RUNNING, started_at=started_at, process=process, mac=str(mac), slot=slot.index
            )
            recording = aio.run_blocking(self.directory.write_state, state)
            await aio.uninterrupted(recording, name=f"record start of {self.uid}")
        except BaseException as exc:
            await aio.uninterrupted(self._undo_start(process, before), name=f"undo start of {self.uid}")
            if isinstance(exc, OSError):
                raise os_fault(exc, f"cannot start machine {self.uid}") from exc
            raise
        _log.info("machine %s runs, helper %d, MAC %s", self.uid, process.pid, mac)
        return process

    async def _undo_start(self, process: ProcessRef | None, before: VzState) -> None:
        self._stop_listening()
        if process is not None:
            await self.end([process])
        await aio.run_blocking(self.directory.write_state, before)

    async def _start_guest(self, process: ProcessRef, timeout_s: float) -> None:
        """Raises what the helper says; MachineFault with its last words when it ends without an answer."""
        try:
            self._stop_listening()
            self._listening = await Client.connect(self.directory.helper_socket, timeout_s=_GREETING_S)
            await self._listening.start(timeout_s=timeout_s)
        except HelperLost as exc:
            status = await self._exit(process)
            if status is _STILL_RUNS:
                raise
            end = self._end_of(process)
            words = end.fault if end is not None else clip(last_words(self.directory.helper_log, MAX_FOREIGN_TEXT))
            raise MachineFault(
                f"the helper of machine {self.uid} did not start its guest ({_exit_text(status)}): {words}",
                code=None if end is None else end.code,
            ) from exc

    async def _exit(self, process: ProcessRef) -> "int | _StillRuns | None":
        try:
            async with asyncio.timeout(_EXIT_S):
                return await exit_of(process)
        except TimeoutError:
            return _STILL_RUNS

    # --- End ---------------------------------------------------------------------------------------------------------

    def _end_of(self, process: ProcessRef) -> End | None:
        """What the helper wrote down about the end of its machine; None when it did not come to it."""
        try:
            data = files.read_if_present(self.directory.end)
            end = None if data is None else msgspec.json.decode(data, type=End)
        except (OSError, msgspec.DecodeError) as exc:
            _log.warning("how machine %s ended cannot be read: %s", self.uid, exc)
            return None
        return end if end is not None and end.pid in (0, process.pid) else None

    def _signs_of_life(self) -> Iterable[Path]:
        return (*super()._signs_of_life(), self.directory.helper_log)

    async def _ended(self, state: VzState, process: ProcessRef, exit_status: int | None, ended_at: float) -> None:
        end = self._end_of(process)
        state.stopped_at = ended_at if end is None else end.at
        state.fault = self._fault(end, state, process, exit_status)

    def _fault(self, end: End | None, state: VzState, process: ProcessRef, exit_status: int | None) -> str:
        if end is not None and end.fault:
            return end.fault
        if end is not None and not end.killed:
            return ""
        if state.killed:
            return "the machine was killed on request"
        if end is not None:
            return (
                "the helper of the virtual machine was told to end, as at the end of a login session: run the agent "
                "for a user who stays logged in (`macos-vz-kubelet doctor` checks that)"
            )
        if process.boot_id != boot_id():
            return "the host was restarted while the machine ran"
        words = clip(last_words(self.directory.helper_log, MAX_FOREIGN_TEXT))
        said = f"; its last words: {words}" if words else ""
        return (
            f"the helper process {process.pid} of the virtual machine {_exit_text(exit_status)}"
            f"{_exit_remedy(exit_status)}{said}"
        )

    async def end(self, processes: Sequence[ProcessRef]) -> None:
        """A guest that is stopped by the framework gives its slot back; one whose process is shot may not."""
        grace_s = self._parts.choices.waits.stop_s + _END_S
        for process in await terminate(processes, grace_s):
            _log.warning("helper %d of machine %s was killed: it did not end in %.0f s", process.pid, self.uid, grace_s)

    async def _terminate(self, state: VzState, process: ProcessRef) -> None:
        await self.end([process])

    async def power_off(self) -> None:
        if (await self.state()).phase is not MachinePhase.RUNNING:
            return
        try:
            with closing(await Client.connect(self.directory.helper_socket)) as client:
                await client.request_stop()
        except Error as exc:
            if (await self.state()).phase is MachinePhase.RUNNING:
                _log.info("machine %s cannot be asked to power off: %s", self.uid, exc)

    # --- Network, address --------------------------------------------------------------------------------------------

    async def network_change(self, known: str) -> str | None:
        """The helper tells it at each connection and at each change."""
        while True:
            state = await self.state()
            watch = self._watch
            if state.phase is not MachinePhase.RUNNING or watch is None:
                return None
            try:
                if self._listening is None:
                    self._listening = await Client.connect(self.directory.helper_socket)
                return await self._listening.network_change(known)
            except Error as exc:
                self._stop_listening()
                _log.debug("the network of machine %s is not watched, trying again: %s", self.uid, exc)
                await asyncio.wait({watch}, timeout=_RECONNECT_S)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        self._stop_listening()
        await super().close()

    async def _address_now(self, state: VzState, watch: asyncio.Task[None]) -> GuestAddress | None:
        mac = MacAddress.parse(state.mac)
        if mac is None:
            raise Unavailable(f"{self.directory.state_file} is damaged: {state.mac!r} is no MAC address")
        attached = network(self._parts.choices)
        bridge = attached.interface if isinstance(attached, BridgedNetwork) else None
        sought = Sought(mac, bridge is None, bridge, self._agent, state.started_at)
        finding = aio.spawn(
            self._parts.resolvers.address(sought), name=f"address of {self.uid}", on_crash=lambda _: None
        )
        try:
            await asyncio.wait({finding, watch}, return_when=asyncio.FIRST_COMPLETED)
            return finding.result() if finding.done() else None
        finally:
            await aio.cancel(finding)

    async def _agent(self) -> socket.socket:
        with closing(await Client.connect(self.directory.helper_socket)) as client:
            return await client.vsock_connect(guest_agent.PORT)


class _StillRuns:
    """Not an exit status."""


_STILL_RUNS = _StillRuns()


def _exit_text(status: "int | _StillRuns | None") -> str:
    if not isinstance(status, int):
        return "crashed or was killed"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-status} ({signal.Signals(-status).name})"
        return f"was killed by signal {-status}"
    if status == 0:
        return "ended without a word about its guest"
    return f"failed with exit status {status}"


def _exit_remedy(status: int | None) -> str:
    """What tells more about a helper that ended without a word, and what helps."""
    if status == -signal.SIGKILL:
        return (
            ": by somebody, or by macOS when memory ran out (`log show --last 5m --predicate 'eventMessage CONTAINS "
            '"memorystatus"\'`); ask for less memory in the pods if so'
        )
    if status is None or status < 0:
        return "; its crash report, to be sent to the maintainers, is in ~/Library/Logs/DiagnosticReports"
    return ""
