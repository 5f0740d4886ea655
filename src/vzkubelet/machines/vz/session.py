"""What a helper does for its clients: one virtual machine, from the first start to an end that is written down."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import msgspec

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, MachineFault
from vzkubelet.files import write_atomic
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, configuration, faults, protocol, shares
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.connections import Answer
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.identity import IdentityLock
from vzkubelet.machines.vz.machine import Ending, Listener, VirtualMachine
from vzkubelet.machines.vz.plan import AUTOMOUNT_TAG, FileSystemShare, MachinePlan, resolved
from vzkubelet.machines.vz.protocol import (
    Done,
    End,
    Failed,
    Fault,
    Message,
    Request,
    Status,
    StatusReply,
    VMState,
)
from vzkubelet.machines.vz.queue import Queue

_log = logging.getLogger(__name__)

_QUIET_S = 60.0
"""A network that held this long is attached again at once when it breaks."""
_REATTACH_MAX_S = 60.0


class Session:
    """`ended` is set when there is nothing left to do; `end` tells how it was."""

    def __init__(self, plan: MachinePlan, directory: MachineDirectory, descriptor: int | None) -> None:
        self._plan = plan
        self._directory = directory
        self._descriptor = descriptor
        self._machine: VirtualMachine | None = None
        self._host: MacOS | None = None
        self._identity = IdentityLock(plan.identity)
        self._lock = asyncio.Lock()
        self._state = VMState.STOPPED
        self._started_at: float | None = None
        self._network = _NetworkCare(self)
        self._killed = False
        self.end: End | None = None
        self.ended = asyncio.Event()
        self.on_event: Callable[[Message], None] = lambda _: None

    @property
    def is_unused(self) -> bool:
        """Nothing was started, and nobody is about to."""
        return self._started_at is None and not self._lock.locked()

    def status(self) -> Status:
        return Status(
            state=self._state, pid=os.getpid(), started_at=self._started_at, network_fault=self._network.fault
        )

    # --- Requests ------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Answer:
        """Answers a request; never raises `Error`."""
        try:
            return await self._handle(request)
        except Error as exc:
            _log.info("%s failed: %s", type(request).__name__, exc)
            return Answer(Failed(id=request.id, fault=Fault.of(exc, faults.code_of(exc))))
        except Exception as exc:  # noqa: BLE001 - the client is to hear of it
            _log.exception("%s failed", type(request).__name__)
            fault = Fault.of(MachineFault(f"the helper failed: {exc!r}; see {self._directory.helper_log}"))
            return Answer(Failed(id=request.id, fault=fault))

    async def _handle(self, request: Request) -> Answer:
        match request:
            case protocol.GetStatus():
                return Answer(StatusReply(id=request.id, status=self.status()))
            case protocol.VsockConnect():
                return Answer(Done(id=request.id), await self._running().connect(request.port))
            case protocol.Start():
                await self._start()
            case protocol.Kill():
                await self.kill()
            case protocol.RequestStop():
                await self._running().request_stop()
            case protocol.Pause():
                await self._running().pause()
            case protocol.Resume():
                await self._running().resume()
            case protocol.Save():
                await self._running().save(resolved(request.path, self._directory.path), apple.host())
            case protocol.Restore():
                await self._restore(resolved(request.path, self._directory.path))
            case protocol.SetShare():
                await self._set_share(request)
            case protocol.SetBalloon():
                await self._running().set_memory_target(request.target_bytes)
            case _:
                assert_never(request)
        return Answer(Done(id=request.id))

    def _running(self) -> VirtualMachine:
        """Raises Conflict."""
        if self._machine is None or self.end is not None:
            raise Conflict("the machine does not run; start it first")
        return self._machine

    async def _created(self) -> VirtualMachine:
        """The machine, made at the first call. Raises all that `configuration.build` does."""
        if self._machine is not None:
            return self._machine
        self._host = host = apple.supported_host()
        situation = Situation(Operation.CONFIGURE, self._plan.is_macos, host, os.geteuid() == 0)
        self._identity.take()

        def build() -> tuple[Any, tuple[object, ...]]:
            built = configuration.build(self._plan, self._directory, host, situation, self._descriptor)
            return built.configuration, built.keep

        queue = Queue(f"com.agoda.fleet.virtualization.{self._directory.uid}")
        listener = Listener(self._state_changed, self._machine_ended, self._network.disconnected)
        self._machine = await VirtualMachine.create(queue, build, situation, listener)
        return self._machine

    async def _start(self) -> None:
        async with self._lock:
            if self._started_at is not None or self.end is not None:
                raise Conflict("the machine was started already; a helper starts its machine once")
            try:
                machine = await self._created()
                if self._killed:
                    raise Conflict("the machine was killed before it was started")
                await machine.start(timeout_s=self._plan.waits.start_s)
            except Error as exc:
                self._finish(Ending(exc))
                raise
            self._started_at = time.time()
            _log.info("the guest runs")

    async def _restore(self, path: Path) -> None:
        async with self._lock:
            if self._started_at is not None or self.end is not None:
                raise Conflict("the machine was started already; restore it instead of starting it")
            machine = await self._created()
            await machine.restore(path, apple.host())
            self._started_at = time.time()

    async def _set_share(self, request: protocol.SetShare) -> None:
        wanted = FileSystemShare(tag=request.tag, directories=request.directories)
        tag = request.tag
        if tag == AUTOMOUNT_TAG:
            kind = apple.frameworks().Virtualization.VZVirtioFileSystemDeviceConfiguration
            tag = str(kind.macOSGuestAutomountTag())
        await self._running().set_share(tag, lambda: shares.share_of(wanted, self._directory))

    async def kill(self) -> None:
        """End the machine, whatever it does. It is gone at the latest when this process is."""
        self._killed = True
        try:
            async with asyncio.timeout(self._plan.waits.stop_s), self._lock:  # what still starts cannot be stopped
                if self._machine is not None and self.end is None:
                    await self._machine.stop()
        except (Error, TimeoutError) as exc:
            _log.warning("the machine does not stop and ends with this process: %s", str(exc) or "it takes too long")
        self._finish(Ending())

    def abandon(self, why: str) -> None:
        """End without a machine: it was never started."""
        self._finish(Ending(MachineFault(why)))

    # --- What the machine tells ----------------------------------------------------------------------------------

    def _state_changed(self, state: VMState) -> None:
        self._state = state
        _log.info("the machine is %s", state)

    def _machine_ended(self, ending: Ending) -> None:
        self._finish(ending)

    def _finish(self, ending: Ending) -> None:
        """Once: whoever tells the end first is right."""
        if self.end is not None:
            return
        error = ending.error
        self.end = End(
            at=time.time(),
            fault="" if error is None else error.message,
            code=None if error is None else faults.code_of(error),
            reason="" if error is None else error.reason,
            killed=self._killed,
            pid=os.getpid(),
        )
        _log.info("the machine ended: %s", self.end.fault or ("killed" if self._killed else "powered off"))
        aio.spawn(self._conclude(self.end), name="write how the machine ended")

    async def _conclude(self, end: End) -> None:
        await aio.cancel(self._network.task)
        try:
            if self._directory.path.is_dir():  # one that is removed while its guest runs is not made again
                await aio.run_blocking(write_atomic, self._directory.end, msgspec.json.encode(end))
        except OSError as exc:
            _log.error("cannot write %s: %s", self._directory.end, exc)
        self.ended.set()

    # --- Network -------------------------------------------------------------------------------------------------

    def network_lost(self, fault: str) -> None:
        """The network has gone for good: what carried it has ended."""
        self._network.lost(fault)

    async def attach_network(self) -> None:
        """Raises `Error`."""
        machine, host = self._running(), apple.host()

        def attach() -> tuple[Any, tuple[object, ...]]:
            attached = configuration.network_attachment(self._plan, host, self._descriptor)
            return attached.attachment, attached.keep

        await machine.reattach_network(attach)

    async def drain(self, timeout_s: float) -> None:
        """Let the machine's queue run empty, so that no callback meets a dying interpreter."""
        if self._machine is None:
            return
        try:
            await self._machine.drain(timeout_s)
        except Error as exc:
            _log.warning("the machine's queue does not drain: %s", exc)


class _NetworkCare:
    """The framework drops an attachment when vmnet or the interface fails, and never takes it up again by itself."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._attempts = 0
        self._broken_at = 0.0
        self._is_lost = False
        self.fault = ""
        self.task: asyncio.Task[None] | None = None

    def disconnected(self, error: Error) -> None:
        if self._is_lost:
            return
        now = time.monotonic()
        if now - self._broken_at > _QUIET_S:
            self._attempts = 0
        self._broken_at = now
        self._tell(error.message)
        if self.task is None or self.task.done():
            self.task = aio.spawn(self._attach(), name="attach the network again")

    def lost(self, fault: str) -> None:
        self._is_lost = True
        self._tell(f"{fault}; the guest has none until its machine is started again: delete the pod")

    def _tell(self, fault: str) -> None:
        self.fault = fault
        _log.log(logging.WARNING if fault else logging.INFO, "network: %s", fault or "attached again")
        self._session.on_event(protocol.NetworkChanged(fault=fault, at=time.time()))

    async def _attach(self) -> None:
        while self.fault and not self._is_lost and self._session.end is None:
            await asyncio.sleep(min(2.0**self._attempts - 1.0, _REATTACH_MAX_S))
            self._attempts = min(self._attempts + 1, 10)
            try:
                await self._session.attach_network()
            except Error as exc:
                if not self._is_lost:
                    self._tell(exc.message)
            else:
                if not self._is_lost:
                    self._tell("")
