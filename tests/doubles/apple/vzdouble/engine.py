"""The life of one virtual machine: states, operations, injected faults, events of its guest.

An engine belongs to a VZVirtualMachine object and does not keep it alive; when the object goes, so does the guest.
Everything here runs on the VM's queue except what is marked.
"""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .backing import Done, Guest, GuestFault
from .description import GuestDescription, Nic
from .errors import INTERNAL, INVALID_STATE, INVALID_TRANSITION, RESTORE, SAVE, make_error
from .faults import NO_FAULT, Fault, take_fault
from .host import Host
from .observing import notify
from .queues import DispatchQueue
from .slots import Slot
from .subclassing import send

STOPPED, RUNNING, PAUSED, ERROR, STARTING, PAUSING, RESUMING, STOPPING, SAVING, RESTORING = range(10)

Handler = Callable[[Any], None]
Action = Callable[[Guest, Done], None]

ALLOWED: dict[str, frozenset[int]] = {
    "start": frozenset({STOPPED, ERROR}),
    "pause": frozenset({RUNNING}),
    "resume": frozenset({PAUSED}),
    "stop": frozenset({RUNNING, PAUSED}),
    "request-stop": frozenset({RUNNING}),
    "save": frozenset({PAUSED}),
    "restore": frozenset({STOPPED}),
}
BETWEEN = {
    "start": STARTING, "pause": PAUSING, "resume": RESUMING, "stop": STOPPING, "save": SAVING, "restore": RESTORING,
}  # fmt: skip
AFTER = {
    "start": RUNNING, "pause": PAUSED, "resume": RUNNING, "stop": STOPPED, "save": PAUSED, "restore": PAUSED,
}  # fmt: skip
REFUSED = {"save": INVALID_STATE}
"""Error of an operation in a state that does not allow it; INVALID_TRANSITION where nothing stands here."""

_CAN = {"start": "canStart", "stop": "canStop", "pause": "canPause", "resume": "canResume"}


class Engine:
    def __init__(self, vm: Any, description: GuestDescription, queue: DispatchQueue, host: Host) -> None:
        self.description = description
        self.queue = queue
        self.host = host
        self.state = STOPPED
        self.installing = False
        self.guest: Guest | None = None
        self._vm = weakref.ref(vm)
        self._slot = Slot()
        self._life = 0
        """Counts guests, so that what an old one still says is not taken for the new one's."""
        self.devices: dict[str, list[Any]] = {}

    @property
    def vm(self) -> Any:
        """The VZVirtualMachine, or None when it is gone."""
        return self._vm()

    @property
    def mac(self) -> str:
        return self.description.mac

    def allows(self, operation: str) -> bool:
        return self.state in ALLOWED[operation] and not self.installing

    # --- operations --------------------------------------------------------------------------------------------------

    def operate(self, operation: str, handler: Handler, action: Action) -> None:
        """Check, pass through the state between, let the guest do it, complete later on the queue."""
        fault = take_fault(self.host, operation, self.mac)
        if self.state not in ALLOWED[operation]:
            refused = GuestFault(REFUSED.get(operation, INVALID_TRANSITION), _refusal(operation, self.state))
            self.queue.submit(lambda: self._complete(operation, handler, refused))
            return
        before = self.state
        self._set_state(BETWEEN[operation])
        self._deliver(fault, "before")
        finish = self._finisher(operation, handler, before, fault)
        if fault.never:
            return
        if fault.code is not None:
            finish(fault)
            return
        if operation in ("start", "restore"):
            refused_by_host = self._open_guest()
            if refused_by_host is not None:
                finish(refused_by_host)
                return
        guest = self.guest  # another thread may drop the VM meanwhile
        if guest is None:
            finish(GuestFault(INVALID_STATE))
            return
        try:
            action(guest, finish)
        except Exception as exc:  # noqa: BLE001 - a defect of a backing must not hang the test
            finish(GuestFault(INTERNAL, f"the backing failed: {exc!r}"))

    def _finisher(self, operation: str, handler: Handler, before: int, fault: Fault) -> Callable[[Any], None]:
        """What ends the operation; callable from any thread."""
        engine = weakref.ref(self)
        delay_s = max(fault.delay_s, self.host.settings().operation_delay_s)

        def finish(outcome: GuestFault | Fault | None) -> None:
            def on_queue() -> None:
                alive = engine()
                if alive is not None and alive.vm is not None:
                    alive._finish(operation, handler, before, outcome)
                    alive._deliver(fault, "after")

            self_alive = engine()
            if self_alive is not None:
                self_alive.queue.submit_after(delay_s, on_queue)

        return finish

    def _finish(self, operation: str, handler: Handler, before: int, outcome: GuestFault | Fault | None) -> None:
        interrupted = self.state != BETWEEN[operation]
        if interrupted and outcome is None and operation not in ("start", "stop"):
            outcome = GuestFault(INVALID_STATE, "The guest stopped meanwhile.")
        if not interrupted:
            self._set_state(
                AFTER[operation] if outcome is None else self._state_after_fault(operation, before, outcome)
            )
        if self.state in (STOPPED, ERROR):
            self._close_guest()
        self._complete(operation, handler, outcome)

    def _state_after_fault(self, operation: str, before: int, outcome: GuestFault | Fault) -> int:
        if operation == "start" and outcome.code == INTERNAL:
            return ERROR
        return before if before != ERROR else STOPPED

    def _complete(self, operation: str, handler: Handler, outcome: GuestFault | Fault | None) -> None:
        error = None if outcome is None else make_error(outcome)
        self._log(operation, outcome)
        if self.host.settings().on_abort == "abort":
            gc.collect()  # what nobody holds is gone by now, also what only a cycle held
        handler(error)

    # --- the operations one by one -----------------------------------------------------------------------------------

    def start(self, handler: Handler) -> None:
        self.operate("start", handler, lambda guest, done: guest.start(done))

    def pause(self, handler: Handler) -> None:
        self.operate("pause", handler, lambda guest, done: guest.pause(done))

    def resume(self, handler: Handler) -> None:
        self.operate("resume", handler, lambda guest, done: guest.resume(done))

    def stop(self, handler: Handler) -> None:
        self.operate("stop", handler, lambda guest, done: guest.stop(done))

    def save(self, path: Path, handler: Handler) -> None:
        def action(guest: Guest, done: Done) -> None:
            if path.exists():
                path.unlink()
            try:
                path.touch(mode=0o600)
            except OSError as exc:
                done(GuestFault(SAVE, f"The virtual machine's state could not be saved. {path}: {exc.strerror}"))
                return
            guest.save(path, done)

        self.operate("save", handler, action)

    def restore(self, path: Path, handler: Handler) -> None:
        def action(guest: Guest, done: Done) -> None:
            if not path.is_file():
                done(GuestFault(RESTORE, f"The virtual machine's state could not be restored. No file {path}."))
                return
            guest.restore(path, done)

        self.operate("restore", handler, action)

    def request_stop(self) -> GuestFault | Fault | None:
        """At once; what comes of it is the guest's affair."""
        fault = take_fault(self.host, "request-stop", self.mac)
        if not self.allows("request-stop") or self.guest is None:
            return GuestFault(INVALID_TRANSITION, _refusal("request-stop", self.state))
        if fault.code is not None:
            return fault
        if fault is not NO_FAULT and fault.never:
            return None
        outcome = self.guest.request_stop()
        self._log("request-stop", outcome)
        return outcome

    # --- the guest ---------------------------------------------------------------------------------------------------

    def _open_guest(self) -> GuestFault | None:
        from .backings import backing

        refused = self._slot.take(self.host, self.description)
        if refused is None:
            self._life += 1
            self.guest = backing().guest(self.description, Events(self, self._life))
        return refused

    def _close_guest(self) -> None:
        guest, self.guest = self.guest, None
        if guest is not None:
            guest.kill()
        self._slot.release()

    def dropped(self) -> None:
        """The VM object went, or the process ends. Any thread."""
        self._close_guest()

    def is_current(self, life: int) -> bool:
        return self._life == life and self.guest is not None

    def stopped_by_itself(self, fault: GuestFault | Fault | None) -> None:
        vm = self.vm
        if vm is None or self.state in (STOPPED, ERROR):
            return
        self._set_state(STOPPED if fault is None else ERROR)
        self._close_guest()
        delegate = vm._values.get("delegate")
        receiver = delegate() if delegate is not None else None
        self._log("guest-stopped", fault)
        if receiver is None:
            return
        if fault is None:
            send(receiver, "guestDidStopVirtualMachine:", vm)
        else:
            send(receiver, "virtualMachine:didStopWithError:", vm, make_error(fault))

    def disconnected(self, device: int, fault: GuestFault | Fault) -> None:
        vm, devices = self.vm, self.devices.get("networkDevices", [])
        if vm is None or device >= len(devices):
            return
        devices[device]._values["attachment"] = None
        if self.guest is not None:
            self.guest.network_changed(device, Nic(self.description.nics[device].mac, "none"))
        delegate = vm._values.get("delegate")
        receiver = delegate() if delegate is not None else None
        selector = "virtualMachine:networkDevice:attachmentWasDisconnectedWithError:"
        if receiver is not None:
            send(receiver, selector, vm, devices[device], make_error(fault))

    def _log(self, operation: str, outcome: GuestFault | Fault | None) -> None:
        told = None if outcome is None else [outcome.domain, outcome.code]
        self.host.log_call(mac=self.mac, operation=operation, error=told)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _set_state(self, state: int) -> None:
        before = {key: self.allows(operation) for operation, key in _CAN.items()}
        old, self.state = self.state, state
        vm = self.vm
        if vm is None:
            return
        notify(vm, "state", old, state)
        for operation, key in _CAN.items():
            if self.allows(operation) != before[key]:
                notify(vm, key, before[key], not before[key])

    def _deliver(self, fault: Fault, when: str) -> None:
        """An injected event, in order with the completion of its operation."""
        if fault.event is None or fault.event_when != when:
            return
        for _ in range(fault.event_times):
            match fault.event:
                case "guest-stopped":
                    self.queue.submit(lambda: self.stopped_by_itself(None))
                case "stopped-with-error":
                    self.queue.submit(lambda: self.stopped_by_itself(fault.event_fault))
                case "network-disconnected":
                    self.queue.submit(lambda: self.disconnected(0, fault.event_fault))
                case unknown:
                    raise ValueError(f"no event {unknown!r}")


def _refusal(operation: str, state: int) -> str:
    return f"Invalid virtual machine state transition. Cannot {operation} in state {state}."


class Events:
    """What a guest reports. Any thread; keeps neither the engine nor the VM alive."""

    def __init__(self, engine: Engine, life: int) -> None:
        self._engine = weakref.ref(engine)
        self._life = life

    def guest_stopped(self) -> None:
        self._later(lambda engine: engine.stopped_by_itself(None))

    def stopped_with_error(self, fault: GuestFault) -> None:
        self._later(lambda engine: engine.stopped_by_itself(fault))

    def network_disconnected(self, device: int, fault: GuestFault) -> None:
        self._later(lambda engine: engine.disconnected(device, fault))

    def _later(self, act: Callable[[Engine], None]) -> None:
        engine = self._engine()
        if engine is None:
            return
        reference, life = self._engine, self._life

        def on_queue() -> None:
            alive = reference()
            if alive is not None and alive.is_current(life):
                act(alive)

        engine.queue.submit(on_queue)
