"""VZVirtualMachine: what the product calls; its life is in `engine`."""

import atexit
import dataclasses
import functools
import threading
import weakref
from pathlib import Path
from typing import Any

from . import devices
from .aborts import abort
from .configuration import freeze
from .describing import describe
from .engine import Engine
from .errors import INVALID_CONFIGURATION
from .generation import behaviour
from .host import current_host
from .objects import Failed, invalid_argument
from .queues import MAIN_QUEUE, DispatchQueue, unfinished_work, wait_until_idle
from .validation import validation_faults

engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_EXIT_GRACE_S = 0.2


@behaviour("VZVirtualMachine")
class _VirtualMachine:
    @classmethod
    def isSupported(cls: Any) -> bool:
        return current_host().settings().supported

    def initWithConfiguration_(self: Any, configuration: Any) -> None:
        _initialize(self, configuration, MAIN_QUEUE)

    def initWithConfiguration_queue_(self: Any, configuration: Any, queue: DispatchQueue) -> None:
        _initialize(self, configuration, queue)

    def queue(self: Any) -> DispatchQueue:
        return self._engine.queue

    def state(self: Any) -> int:
        return int(self._engine.state)

    def canStart(self: Any) -> bool:
        return bool(self._engine.allows("start"))

    def canStop(self: Any) -> bool:
        return bool(self._engine.allows("stop"))

    def canPause(self: Any) -> bool:
        return bool(self._engine.allows("pause"))

    def canResume(self: Any) -> bool:
        return bool(self._engine.allows("resume"))

    def canRequestStop(self: Any) -> bool:
        return bool(self._engine.allows("request-stop"))

    def startWithCompletionHandler_(self: Any, handler: Any) -> None:
        _begin(self, "start")
        self._engine.start(handler)

    def startWithOptions_completionHandler_(self: Any, options: Any, handler: Any) -> None:
        _begin(self, "start")
        machine: Engine = self._engine
        recovery = bool(options._values.get("startUpFromMacOSRecovery", False))
        boot = dataclasses.replace(machine.description.boot, recovery=recovery)
        machine.description = dataclasses.replace(machine.description, boot=boot)
        machine.start(handler)

    def stopWithCompletionHandler_(self: Any, handler: Any) -> None:
        _begin(self, "stop")
        self._engine.stop(handler)

    def pauseWithCompletionHandler_(self: Any, handler: Any) -> None:
        _begin(self, "pause")
        self._engine.pause(handler)

    def resumeWithCompletionHandler_(self: Any, handler: Any) -> None:
        _begin(self, "resume")
        self._engine.resume(handler)

    def requestStopWithError_(self: Any) -> None:
        _begin(self, "request-stop")
        fault = self._engine.request_stop()
        if fault is not None:
            raise Failed(fault.code, fault.text, domain=fault.domain)

    def saveMachineStateToURL_completionHandler_(self: Any, url: Any, handler: Any) -> None:
        _begin(self, "save")
        self._engine.save(_file(url), handler)

    def restoreMachineStateFromURL_completionHandler_(self: Any, url: Any, handler: Any) -> None:
        _begin(self, "restore")
        self._engine.restore(_file(url), handler)


def _initialize(vm: Any, configuration: Any, queue: DispatchQueue) -> None:
    if queue.is_concurrent:
        raise abort("concurrent-queue", f"a virtual machine needs a serial queue, not {queue!r}")
    faults = validation_faults(configuration)
    if faults:
        raise invalid_argument(f"Invalid virtual machine configuration (code {INVALID_CONFIGURATION}). {faults[0]}")
    freeze(configuration)
    machine = Engine(vm, describe(configuration), queue, current_host())
    vm._engine, vm._queue = machine, queue
    devices.attach(vm, machine, configuration)
    engines.add(machine)
    weakref.finalize(vm, machine.dropped)
    _watch_exit()


def _begin(vm: Any, operation: str) -> None:
    if vm._engine.installing:
        raise abort("undefined", f"{operation} of a virtual machine during the installation of macOS")


def _file(url: Any) -> Path:
    if not url.isFileURL():
        raise invalid_argument("the URL of a saved state must be a file URL")
    return Path(str(url.path()))


@functools.cache
def _watch_exit() -> None:
    atexit.register(_check_exit)


def _check_exit() -> None:
    """A callback that comes while the interpreter ends takes the process with it."""
    if threading.current_thread() is threading.main_thread() and not wait_until_idle(_EXIT_GRACE_S):
        abort("undefined", f"the interpreter ended with {unfinished_work()} callbacks pending")


def reset() -> None:
    """End every VM of this process; for tests that share it."""
    atexit.unregister(_check_exit)
    for machine in list(engines):
        machine.dropped()
    wait_until_idle(5.0)
