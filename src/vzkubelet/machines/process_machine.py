"""A machine that is a process of its own: its lock, the watch over its end, adoption. Drivers add start and verdict.

All changes happen under the lock of the machine's directory, by whichever process is first.
"""

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from vzkubelet import aio
from vzkubelet.errors import Conflict, NotFound
from vzkubelet.machines.directory import MachineDirectory, MachineState
from vzkubelet.machines.process import OwnedProcess, ProcessRef, exit_of, is_alive, kill, owned
from vzkubelet.ports import GuestAddress, MachinePhase

_log = logging.getLogger(__name__)
_LOCK_RETRY_S = 0.02
_LONG_AGO_S = 1e9


class ProcessState(MachineState, kw_only=True):
    """`MachineState` and what is needed to find and judge the process again."""

    process: ProcessRef | None = None
    killed: bool = False
    """The end of the process was asked for."""


StateT = TypeVar("StateT", bound=ProcessState)


class ProcessMachine(ABC, Generic[StateT]):
    """One machine directory and, while it runs, the watch over its process."""

    role: str
    """Mark of the process without which the machine does not run."""

    def __init__(self, directory: MachineDirectory, state_type: type[StateT]) -> None:
        self.directory = directory
        self._state_type = state_type
        self._lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    @property
    def uid(self) -> str:
        return self.directory.uid

    # --- What a driver adds ------------------------------------------------------------------------------------------

    @abstractmethod
    async def _begin(self, before: StateT) -> ProcessRef:
        """Start the guest and record it, or undo everything; the machine is locked. The process to watch over."""

    @abstractmethod
    async def _ended(self, state: StateT, process: ProcessRef, exit_status: int | None, ended_at: float) -> None:
        """Fill in `stopped_at` and `fault`, free what the run held. `ended_at` is the best that is known of it."""

    @abstractmethod
    async def _terminate(self, state: StateT, process: ProcessRef) -> None:
        """End the machine by force; returns when the process is gone."""

    @abstractmethod
    async def power_off(self) -> None:
        """Press the guest's power button. Raises NotFound."""

    @abstractmethod
    async def _address_now(self, state: StateT, watch: asyncio.Task[None]) -> GuestAddress | None:
        """The guest's address; None when it has to be asked for again, or `watch` is done. Returns within seconds."""

    async def end(self, processes: Sequence[ProcessRef]) -> None:
        """End processes of the machine, its own or strays of an unfinished start. Raises DeadlineExceeded."""
        await kill(processes)

    async def _end_strays(self) -> None:
        """End all that is marked as the machine's; it does not run."""
        await self.end([process.ref for process in await aio.run_blocking(owned, self.directory.path)])

    async def release(self) -> None:
        """Free what the machine holds outside its directory; the caller holds its lock and deletes it next."""
        await self._end_strays()

    # --- State -------------------------------------------------------------------------------------------------------

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

    def _read_state(self) -> StateT:
        return self.directory.read_state(self._state_type)

    async def state(self) -> StateT:
        """The state as it is now: a machine whose process has ended is never reported as running. Raises NotFound."""
        while True:
            state = self._read_state()
            if state.phase is not MachinePhase.RUNNING or state.process is None:
                return state
            watch = self._watched(state.process)
            if is_alive(state.process):
                return state
            await asyncio.shield(watch)

    def _watched(self, process: ProcessRef) -> asyncio.Task[None]:
        if self._watch is None or self._watch.done():
            self._watch = aio.spawn(self._watch_until_end(process), name=f"watch machine {self.uid}")
        return self._watch

    async def stopped(self) -> StateT:
        """Wait until the machine is not running. Raises NotFound."""
        while True:
            state = await self.state()
            if state.phase is not MachinePhase.RUNNING or self._watch is None:
                return state
            await asyncio.shield(self._watch)

    # --- Start and end -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises Conflict, NotFound, and what the driver's start does."""
        await self.state()  # records an end that nobody saw
        async with self.locked():
            before = self._read_state()
            if before.phase is MachinePhase.RUNNING:
                raise Conflict(f"machine {self.uid} runs already")
            await self._end_strays()
            process = await self._begin(before)
        self._watched(process)

    async def _watch_until_end(self, process: ProcessRef) -> None:
        witnessed = is_alive(process)
        status = await exit_of(process)
        ended_at = time.time() if witnessed else None
        with contextlib.suppress(NotFound):  # deleted together with its record
            async with self.locked():
                await self._record_end(process, status, ended_at)

    async def _record_end(self, process: ProcessRef, exit_status: int | None, ended_at: float | None) -> None:
        state = self._read_state()
        if state.phase is not MachinePhase.RUNNING or state.process != process:
            return  # another process recorded it
        await self._ended(state, process, exit_status, ended_at or self._last_sign_of_life())
        state.phase = MachinePhase.STOPPED
        state.stopped_at = max(state.stopped_at or 0.0, state.started_at or 0.0)
        state.process = None
        await aio.uninterrupted(aio.run_blocking(self.directory.write_state, state), name=f"record end of {self.uid}")
        _log.info("machine %s stopped: %s", self.uid, state.fault or "the guest powered off")

    def _signs_of_life(self) -> Iterable[Path]:
        """Files that are written while the guest runs."""
        return (self.directory.console, self.directory.hypervisor_log, *self.directory.disk_files)

    def _last_sign_of_life(self) -> float:
        """When the machine's files were written last, for an end that no daemon saw."""
        times = [time.time() - _LONG_AGO_S]
        for path in self._signs_of_life():
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times)

    async def kill(self) -> None:
        """Raises NotFound, DeadlineExceeded (the process hangs in the kernel)."""
        if (await self.state()).phase is not MachinePhase.RUNNING:
            return
        async with self.locked():
            state = self._read_state()
            if state.phase is not MachinePhase.RUNNING or state.process is None:
                return
            state.killed = True
            process = state.process
            recording = aio.run_blocking(self.directory.write_state, state)
            await aio.uninterrupted(recording, name=f"record kill of {self.uid}")
            self._watched(process)
        await self._terminate(state, process)
        await self.stopped()

    # --- Adoption, address -------------------------------------------------------------------------------------------

    async def adopt(self, processes: Sequence[OwnedProcess]) -> bool:
        """Judge what an earlier daemon left of this machine; True when it runs."""
        descriptor = self.directory.try_lock()
        if descriptor is None:
            return True  # a living process works on it
        try:
            state = self._read_state()
            keep = {state.process} if state.process is not None and is_alive(state.process) else set()
            if state.phase is not MachinePhase.RUNNING:
                keep = set()
            # A start that never came to its end is undone; servers of a running machine belong to it.
            strays = [p.ref for p in processes if p.ref not in keep and (not keep or p.role == self.role)]
            if strays:
                _log.warning("machine %s: removing %d processes that an earlier daemon left", self.uid, len(strays))
                await self.end(strays)
        finally:
            os.close(descriptor)
        return (await self.state()).phase is MachinePhase.RUNNING

    async def address(self) -> GuestAddress:
        """Raises Conflict, NotFound."""
        while True:
            state = await self.state()
            watch = self._watch
            if state.phase is not MachinePhase.RUNNING or watch is None:
                raise Conflict(
                    f"machine {self.uid} stopped before its address was known: {state.fault or 'powered off'}"
                )
            while not watch.done():
                if (found := await self._address_now(state, watch)) is not None:
                    return found

    async def network_change(self, known: str) -> str | None:
        """As in `ports.MachineDriver`, for hypervisors that do not tell. Raises NotFound."""
        await self.state()
        return None

    async def close(self) -> None:
        """Let go of the machine, which goes on."""
        await aio.cancel(self._watch)
