"""One VZVirtualMachine on its queue, as coroutines: operations, state, and its end, told once."""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vzkubelet import aio
from vzkubelet.errors import Conflict, DeadlineExceeded, Error, NotFound
from vzkubelet.files import STAGING_PREFIX
from vzkubelet.machines.directory import os_fault
from vzkubelet.machines.vz import apple, faults
from vzkubelet.machines.vz.apple import AppleError
from vzkubelet.machines.vz.availability import MacOS, unavailable
from vzkubelet.machines.vz.delegate import Observer, delegate
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.protocol import VMState
from vzkubelet.machines.vz.queue import ErrorHandler, Queue, ValueHandler

_log = logging.getLogger(__name__)

_STATES: dict[int, VMState] = {
    0: VMState.STOPPED,
    1: VMState.RUNNING,
    2: VMState.PAUSED,
    3: VMState.ERROR,
    4: VMState.STARTING,
    5: VMState.PAUSING,
    6: VMState.RESUMING,
    7: VMState.STOPPING,
    8: VMState.SAVING,
    9: VMState.RESTORING,
}
"""VZVirtualMachineState; by number because the last two names exist from macOS 14 on only."""

TIMEOUTS_S: dict[Operation, float] = {
    Operation.START: 50.0,
    Operation.STOP: 30.0,
    Operation.PAUSE: 50.0,
    Operation.RESUME: 50.0,
    Operation.SAVE: 540.0,
    Operation.RESTORE: 540.0,
    Operation.VSOCK: 15.0,
}
"""How long a completion handler is waited for; a little less than the daemon waits for our answer. Save and restore
move the guest's memory to or from a disk."""

_COMPLETION_GRACE_S = 5.0
"""The guest stopped before the handler of its start was called: that may still come, or never."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a machine ended. `error` is None when the guest powered off, or was stopped by us."""

    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """Called in the event loop."""

    state_changed: Callable[[VMState], None]
    ended: Callable[[Ending], None]
    network_disconnected: Callable[[Error], None]


class VirtualMachine:
    """Make it with `create`. Every method is bounded in time and raises `vzkubelet.errors` only."""

    def __init__(self, queue: Queue, situation: Situation, listener: Listener) -> None:
        self._queue = queue
        self._situation = situation
        self._listener = listener
        self._vm: Any = None
        self._delegate: Any = None
        self._kept: tuple[object, ...] = ()
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._told: VMState | None = None  # on the queue only

    @classmethod
    async def create(
        cls, queue: Queue, build: Callable[[], tuple[Any, tuple[object, ...]]], situation: Situation, listener: Listener
    ) -> "VirtualMachine":
        """Run `build` (a configuration and what it needs to stay alive) and make a stopped machine of it.

        Raises what `build` raises, and MachineFault.
        """
        machine = cls(queue, situation, listener)

        def make() -> None:
            configuration, machine._kept = build()
            machine._delegate = delegate(machine._observer())
            kind = queue.frameworks.Virtualization.VZVirtualMachine
            machine._vm = kind.alloc().initWithConfiguration_queue_(configuration, queue.native)
            machine._vm.setDelegate_(machine._delegate)

        await machine._on_queue(make, Operation.CONFIGURE)
        return machine

    # --- On the queue --------------------------------------------------------------------------------------------

    def _observer(self) -> Observer:
        post = self._queue.mailbox.post

        def stopped() -> None:
            self._tell_state()
            post(self._finish, Ending())

        def stopped_with_error(error: AppleError) -> None:
            self._tell_state()
            post(self._finish, Ending(self._translated(error, Operation.RUN)))

        def network_disconnected(error: AppleError) -> None:
            post(self._listener.network_disconnected, self._translated(error, Operation.NETWORK))

        return Observer(stopped, stopped_with_error, network_disconnected)

    def _read_state(self) -> VMState:
        return _STATES.get(int(self._vm.state()), VMState.ERROR)

    def _tell_state(self) -> None:
        """Raises nothing: it is called in the midst of the framework's callbacks."""
        try:
            state = self._read_state()
        except BaseException:  # noqa: BLE001 - what leaves a callback ends the process
            _log.exception("the state of the virtual machine cannot be read")
            return
        if state is not self._told:
            self._told = state
            self._queue.mailbox.post(self._listener.state_changed, state)

    # --- In the event loop ---------------------------------------------------------------------------------------

    def _translated(self, error: AppleError, operation: Operation) -> Error:
        return faults.translate(error, self._situation.during(operation))

    def _finish(self, ending: Ending) -> None:
        """Delegate, completion handlers and our own stop may all tell the end; the first one counts."""
        if not self._ended.done():
            self._ended.set_result(ending)
            self._listener.ended(ending)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    async def _on_queue(self, work: Callable[[], Any], operation: Operation) -> Any:
        try:
            return await self._queue.run(work, operation)
        except AppleError as exc:
            raise self._translated(exc, operation) from exc

    async def _operate(
        self, operation: Operation, call: Callable[[ErrorHandler], None], timeout_s: float | None = None
    ) -> None:
        def begin(handler: ErrorHandler) -> None:
            def finished(error: Any) -> None:
                try:
                    self._tell_state()  # also when nobody waits for the handler any more
                    handler(error)
                except BaseException:  # noqa: BLE001 - what leaves a callback ends the process
                    _log.exception("the handler of an operation failed")

            call(finished)
            self._tell_state()

        try:
            await self._queue.completed(begin, operation, timeout_s or TIMEOUTS_S[operation])
        except AppleError as exc:
            raise self._translated(exc, operation) from exc

    async def state(self) -> VMState:
        """Raises DeadlineExceeded."""
        state: VMState = await self._on_queue(self._read_state, Operation.QUERY)
        return state

    async def start(self, *, timeout_s: float | None = None) -> None:
        """Returns when the guest runs, or ran: it may have powered off already. `timeout_s`: else that of `TIMEOUTS_S`.

        Raises Exhausted (limit of macOS guests, disk full), Forbidden, MachineFault, Conflict, DeadlineExceeded.
        """
        operation = self._operate(
            Operation.START, lambda handler: self._vm.startWithCompletionHandler_(handler), timeout_s
        )
        starting = aio.spawn(operation, name="start the virtual machine")
        try:
            waited: set[asyncio.Future[Any]] = {starting, self._ended}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                await asyncio.wait({starting}, timeout=_COMPLETION_GRACE_S)
            if starting.done() and not (self._ended.done() and isinstance(starting.exception(), DeadlineExceeded)):
                starting.result()
            elif (error := self._ended.result().error) is not None:
                raise error  # whoever asked for the start says that it failed
        finally:
            await aio.cancel(starting)

    async def request_stop(self) -> None:
        """Press the power button; a macOS guest with a logged-in user asks them. Raises Conflict, MachineFault."""

        def ask() -> None:
            asked, error = self._vm.requestStopWithError_(None)
            if not asked:
                raise apple.apple_error(error)

        await self._on_queue(ask, Operation.REQUEST_STOP)

    async def stop(self) -> None:
        """Stop without asking the guest; a machine that has ended is stopped. Raises Conflict, MachineFault,
        DeadlineExceeded."""
        if self._ended.done():
            return
        try:
            await self._operate(Operation.STOP, lambda handler: self._vm.stopWithCompletionHandler_(handler))
        except Error:
            # The guest may have powered off between the question and the framework's answer.
            if not self._ended.done() and await self.state() not in (VMState.STOPPED, VMState.ERROR):
                raise
        self._finish(Ending())

    async def pause(self) -> None:
        """Raises Conflict, MachineFault, DeadlineExceeded."""
        await self._operate(Operation.PAUSE, lambda handler: self._vm.pauseWithCompletionHandler_(handler))

    async def resume(self) -> None:
        """Raises Conflict, MachineFault, DeadlineExceeded."""
        await self._operate(Operation.RESUME, lambda handler: self._vm.resumeWithCompletionHandler_(handler))

    async def save(self, path: Path, host: MacOS) -> None:
        """Save the paused machine; `path` appears when it is complete.

        Raises Unsupported, Conflict (not paused), MachineFault, Exhausted, DeadlineExceeded.
        """
        if host < MacOS(14):
            raise unavailable("saving a machine", MacOS(14), host)
        staged = path.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{path.name}")
        url = apple.file_url(staged)
        try:
            await self._operate(
                Operation.SAVE, lambda handler: self._vm.saveMachineStateToURL_completionHandler_(url, handler)
            )
            staged.replace(path)
        except OSError as exc:
            raise os_fault(exc, f"cannot save the machine to {path}") from exc
        finally:
            staged.unlink(missing_ok=True)

    async def restore(self, path: Path, host: MacOS) -> None:
        """Restore the stopped machine, which is paused then. Raises Unsupported, NotFound, Conflict, MachineFault (code
        12: start it without the file), DeadlineExceeded."""
        if host < MacOS(14):
            raise unavailable("restoring a machine", MacOS(14), host)
        if not path.is_file():
            raise NotFound(f"there is no saved machine at {path}; start it without")
        url = apple.file_url(path.resolve())
        await self._operate(
            Operation.RESTORE, lambda handler: self._vm.restoreMachineStateFromURL_completionHandler_(url, handler)
        )

    # --- Devices of the running machine --------------------------------------------------------------------------

    async def set_share(self, tag: str, share: Callable[[], Any]) -> None:
        """Show another directory (what `share` returns) under a tag. Raises NotFound (no such tag) and as `share`."""

        def replace() -> None:
            for device in self._vm.directorySharingDevices():
                if str(device.tag()) == tag:
                    device.setShare_(share())
                    return
            raise NotFound(f"the machine has no share with the tag {tag!r}; tags are fixed when it is created")

        await self._on_queue(replace, Operation.SHARE)

    async def set_memory_target(self, target_bytes: int) -> None:
        """Raises Conflict (no balloon), MachineFault."""

        def inflate() -> None:
            balloons = self._vm.memoryBalloonDevices()
            if not len(balloons):
                raise Conflict("the machine has no memory balloon; create it with one")
            balloons[0].setTargetVirtualMachineMemorySize_(target_bytes)

        await self._on_queue(inflate, Operation.BALLOON)

    async def connect(self, port: int) -> int:
        """A descriptor connected to a port in the guest, owned by the caller. Raises Conflict (no vsock device),
        Unavailable (nobody listens), DeadlineExceeded."""

        def begin(handler: ValueHandler) -> None:
            sockets = self._vm.socketDevices()
            if not len(sockets):
                raise Conflict("the machine has no vsock device; create it with one")
            sockets[0].connectToPort_completionHandler_(port, handler)

        def take(connection: Any) -> int:
            # The connection owns its descriptor and closes it when it is collected.
            descriptor = os.dup(connection.fileDescriptor())
            connection.close()
            return descriptor

        try:
            return await self._queue.completed_with(
                begin, take, Operation.VSOCK, TIMEOUTS_S[Operation.VSOCK], discard=os.close
            )
        except AppleError as exc:
            raise self._translated(exc, Operation.VSOCK) from exc

    async def reattach_network(self, attach: Callable[[], tuple[Any, tuple[object, ...]]]) -> None:
        """Give the network device a new attachment, after the framework dropped the one it had. Raises what `attach`
        does, MachineFault, Unavailable."""

        def replace() -> None:
            attachment, keep = attach()
            self._vm.networkDevices()[0].setAttachment_(attachment)
            self._kept = (attachment, *keep)

        await self._on_queue(replace, Operation.NETWORK)

    async def drain(self, timeout_s: float) -> None:
        """Wait until the queue has run all that was put on it. Raises DeadlineExceeded."""
        await self._queue.run(lambda: None, Operation.QUERY, timeout_s)
