"""Machines without a guest: the driver's obligations and nothing behind them, for scale runs and benchmarks.

A machine "runs" from its start until it is powered off or killed, also while no daemon runs: what it does is a function
of its state file and the time. Its guest side is `synthetic_guest.SyntheticGuests`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, InvalidInput, NotFound, Unavailable
from vzkubelet.machines.directory import MachineDirectory, MachineRecord, MachineRoot, MachineState
from vzkubelet.model.oci import Platform
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

NETWORK = ipaddress.IPv4Network("198.18.0.0/15")
"""Set aside for benchmarks (RFC 2544): an address that certainly belongs to nobody."""
_MEMORY_SHARE = 4
"""A machine claims to use a quarter of its memory."""


@dataclass(frozen=True, slots=True)
class SyntheticTiming:
    """How long a guest seems to take."""

    boot_s: float = 0.0
    """From start to an address."""
    power_off_s: float = 0.0
    """From the request to the end."""


class SyntheticState(MachineState, kw_only=True):
    ip: str = ""
    booted_at: float = 0.0
    ends_at: float | None = None
    """The guest was asked to power off and will have done so by then."""


class SyntheticDriver:
    """See `ports.MachineDriver`. Two drivers on one root do not see each other's changes while a `wait` runs."""

    def __init__(self, root: Path, timing: SyntheticTiming | None = None) -> None:
        self._root = MachineRoot(root)
        self._timing = timing or SyntheticTiming()
        self._changed: dict[str, asyncio.Event] = {}
        self._addresses: dict[str, str] = {}
        """Machines by address."""

    @property
    def name(self) -> str:
        return "synthetic"

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return tuple(
            Platform(os=system, architecture=arch) for system in ("darwin", "linux") for arch in ("amd64", "arm64")
        )

    def limits(self) -> MachineLimits:
        return MachineLimits(
            cpu_min=1,
            cpu_max=os.cpu_count() or 1,
            memory_min_bytes=1,
            memory_max_bytes=psutil.virtual_memory().total,
        )

    def network(self) -> HostNetwork | None:
        return None

    async def adopt(self) -> None:
        await aio.run_blocking(self._root.remove_leftovers)
        for uid in await aio.run_blocking(self._root.uids):
            try:
                self._addresses[self._state(uid).ip] = uid
            except Error as exc:
                _log.warning("machine %s cannot be adopted: %s", uid, exc)

    async def machines(self) -> Sequence[str]:
        return await aio.run_blocking(self._root.uids)

    def directory(self, uid: str) -> MachineDirectory:
        return self._root.machine(uid)

    def machine_at(self, ip: str) -> str:
        """The machine with this address. Raises NotFound."""
        uid = self._addresses.get(ip)
        if uid is None:
            raise NotFound(f"no synthetic machine has the address {ip}")
        return uid

    async def create(self, spec: MachineSpec) -> None:
        limits = self.limits()
        if not limits.cpu_min <= spec.cpus <= limits.cpu_max:
            raise InvalidInput(f"{spec.cpus} CPUs: this host has {limits.cpu_max}")
        if not limits.memory_min_bytes <= spec.memory_bytes <= limits.memory_max_bytes:
            raise InvalidInput(f"{spec.memory_bytes} bytes of memory: this host has {limits.memory_max_bytes}")
        uid = spec.pod.uid
        with self._root.staged(uid) as directory:
            ip = self._free_address()
            directory.write_record(MachineRecord.of(spec, self.name))
            directory.write_state(SyntheticState(ip=ip))
        self._addresses[ip] = uid

    def _free_address(self) -> str:
        for number in range(2, NETWORK.num_addresses - 1):
            ip = str(NETWORK[number])
            if ip not in self._addresses:
                return ip
        raise Conflict(f"all addresses of {NETWORK} are in use")

    def _state(self, uid: str) -> SyntheticState:
        """The state now: a power-off whose time has come has happened, whoever was there to see it."""
        directory = self.directory(uid)
        state = directory.read_state(SyntheticState)
        if state.phase is MachinePhase.RUNNING and state.ends_at is not None and state.ends_at <= time.time():
            self._stop(directory, state, state.ends_at, "")
        return state

    def _stop(self, directory: MachineDirectory, state: SyntheticState, at: float, fault: str) -> None:
        state.phase, state.stopped_at, state.ends_at, state.fault = MachinePhase.STOPPED, at, None, fault
        directory.write_state(state)
        self._notify(directory.uid)

    def _notify(self, uid: str) -> None:
        self._changed.pop(uid, asyncio.Event()).set()

    async def start(self, uid: str) -> None:
        state = self._state(uid)
        if state.phase is MachinePhase.RUNNING:
            raise Conflict(f"machine {uid} runs already")
        state.phase, state.fault = MachinePhase.RUNNING, ""
        state.started_at, state.stopped_at, state.ends_at = time.time(), None, None
        state.booted_at = state.started_at + self._timing.boot_s
        directory = self.directory(uid)
        directory.processes.unlink(missing_ok=True)
        directory.write_state(state)
        with directory.console.open("a") as console:
            console.write("synthetic machine: there is no guest\n")
        self._notify(uid)

    async def status(self, uid: str) -> MachineStatus:
        return self._state(uid).status()

    async def _change(self, uid: str, at: float | None) -> None:
        """Wait until the machine changes, or the time `at` has come."""
        event = self._changed.setdefault(uid, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - time.time())):
                await event.wait()

    async def wait(self, uid: str) -> MachineStatus:
        while True:
            state = self._state(uid)
            if state.phase is not MachinePhase.RUNNING:
                return state.status()
            await self._change(uid, state.ends_at)

    async def address(self, uid: str) -> GuestAddress:
        while True:
            state = self._state(uid)
            if state.phase is not MachinePhase.RUNNING:
                raise Conflict(f"machine {uid} stopped before its address was known")
            if state.booted_at <= time.time():
                return GuestAddress(state.ip, state.ip)
            await self._change(uid, min(state.booted_at, state.ends_at or state.booted_at))

    async def network_change(self, uid: str, known: str) -> str | None:
        self._state(uid)
        return None

    async def power_off(self, uid: str) -> None:
        state = self._state(uid)
        if state.phase is MachinePhase.RUNNING and state.ends_at is None:
            state.ends_at = time.time() + self._timing.power_off_s
            self.directory(uid).write_state(state)
            self._notify(uid)

    async def kill(self, uid: str) -> None:
        state = self._state(uid)
        if state.phase is MachinePhase.RUNNING:
            self._stop(self.directory(uid), state, time.time(), "the machine was killed on request")

    async def crash(self, uid: str, fault: str) -> None:
        """Let a running machine die by itself, for runs that need one."""
        state = self._state(uid)
        if state.phase is MachinePhase.RUNNING:
            self._stop(self.directory(uid), state, time.time(), fault)

    async def delete(self, uid: str) -> None:
        with contextlib.suppress(NotFound, Unavailable):  # gone, or its state is damaged
            await self.kill(uid)
            self._addresses.pop(self._state(uid).ip, None)
        await aio.run_blocking(self._root.remove, uid)
        self._notify(uid)

    def console(self, uid: str) -> Path:
        return self.directory(uid).console

    def host_key(self, uid: str) -> Path:
        return self.directory(uid).host_key

    async def usage(self, uid: str) -> MachineUsage:
        state = self._state(uid)
        if state.phase is not MachinePhase.RUNNING or state.started_at is None:
            raise Conflict(f"machine {uid} does not run, it uses nothing")
        record = self.directory(uid).read_record()
        now = time.time()
        cpu_ns = max(1, int((now - state.started_at) * 1e7))  # one percent of a CPU
        return MachineUsage(cpu_ns, max(1, record.memory_bytes // _MEMORY_SHARE), 1, now)

    async def close(self) -> None:
        return
