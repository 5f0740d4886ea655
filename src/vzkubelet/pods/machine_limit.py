"""Whether the hypervisor refuses one more machine at present, as the node tells it (condition VirtualMachineLimit)."""

import logging
from collections.abc import Callable

from vzkubelet.aio import Clock, SystemClock
from vzkubelet.podstate.back_off import MACHINE_LIMIT_MAX_S

_log = logging.getLogger(__name__)

FORGOTTEN_AFTER_S = 2 * MACHINE_LIMIT_MAX_S + 30.0
"""A pod that was refused asks again within the longest back-off: after this nobody waits for a slot any more."""


class MachineLimit:
    """One for the node."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._message = ""
        self._refused_at = 0.0
        self.on_change: Callable[[], None] = lambda: None

    @property
    def message(self) -> str:
        """Why no further machine is started; empty while there is room, as far as is known."""
        if self._message and self._clock.monotonic() - self._refused_at > FORGOTTEN_AFTER_S:
            self._message = ""
        return self._message

    def reached(self, message: str) -> None:
        """A start was refused; `message` has cause and remedy."""
        if not self.message:
            _log.warning("no further virtual machine can be started: %s", message)
        self._refused_at = self._clock.monotonic()
        self._change(message)

    def freed(self) -> None:
        """A machine was started, or one has ended."""
        if self.message:
            _log.info("virtual machines can be started again")
        self._change("")

    def _change(self, message: str) -> None:
        if message != self._message:
            self._message = message
            self.on_change()
