"""VZVirtualMachineDelegate: what the framework tells unasked, on the machine's queue."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.apple import AppleError, Frameworks

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observer:
    """Called on the queue, in the middle of the framework's work: post to the event loop and return."""

    guest_stopped: Callable[[], None]
    stopped_with_error: Callable[[AppleError], None]
    network_disconnected: Callable[[AppleError], None]


def delegate(observer: Observer) -> Any:
    """A delegate to be held as long as its machine: the framework keeps a weak reference only."""
    instance = _delegate_class(apple.frameworks()).alloc().init()
    instance.observer = observer
    return instance


def _report(method: str, report: Callable[[], None]) -> None:
    """Nothing may leave a delegate's method: an exception there aborts the process."""
    try:
        report()
    except BaseException:  # noqa: BLE001 - see above
        _log.exception("%s of a virtual machine's delegate failed", method)


def _told(error: Any) -> AppleError:
    """The error as ours; one that cannot be read must not hide that the machine has stopped."""
    try:
        return apple.apple_error(error)
    except BaseException as exc:  # noqa: BLE001 - see above
        return AppleError(apple.VZ_ERROR_DOMAIN, 1, f"the framework's error cannot be read: {exc!r}")


@functools.cache
def _delegate_class(frameworks: Frameworks) -> Any:
    """Defined at most once: names of Objective-C classes belong to the process."""
    objc = frameworks.objc
    NSObject: Any = frameworks.Foundation.NSObject  # noqa: N806 - the framework's name
    protocols = [objc.protocolNamed("VZVirtualMachineDelegate")]

    class VZKubeletMachineDelegate(NSObject, protocols=protocols):  # type: ignore[misc, call-arg]
        observer: Observer

        def guestDidStopVirtualMachine_(self, _machine: Any) -> None:  # noqa: N802 - the framework's name
            _report("guestDidStop", self.observer.guest_stopped)

        def virtualMachine_didStopWithError_(self, _machine: Any, error: Any) -> None:  # noqa: N802
            _report("didStopWithError", lambda: self.observer.stopped_with_error(_told(error)))

        def virtualMachine_networkDevice_attachmentWasDisconnectedWithError_(  # noqa: N802
            self, _machine: Any, _device: Any, error: Any
        ) -> None:
            _report(
                "attachmentWasDisconnected",
                lambda: self.observer.network_disconnected(_told(error)),
            )

    return VZKubeletMachineDelegate
