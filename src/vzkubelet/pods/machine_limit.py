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
        self._refusals: dict[str, tuple[str, float]] = {}
        """By the guests' operating system, as only some are bounded: the message, and when it was said last."""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def message(self) -> str:
        """Why no further machine is started; empty while there is room, as far as is known."""
        now = self._clock.monotonic()
        lasting = [text for text, refused_at in self._refusals.values() if now - refused_at <= FORGOTTEN_AFTER_S]
        return lasting[0] if lasting else ""

    def reached(self, message: str, os: str) -> None:
        """The start of a guest of `os` was refused; `message` has cause and remedy."""
        before = self.message
        if not before:
            _log.warning("no further virtual machine can be started: %s", message)
        self._refusals[os] = message, self._clock.monotonic()
        self._tell_change(before)

    def freed(self, os: str) -> None:
        """A machine with a guest of `os` was started, or one has ended. Others say nothing about its limit."""
        before = self.message
        self._refusals.pop(os, None)
        if before and not self.message:
            _log.info("virtual machines can be started again")
        self._tell_change(before)

    def _tell_change(self, before: str) -> None:
        if self.message != before:
            self.on_change()
