"""Whether the hypervisor refuses one more machine at present, as the node tells it (condition VirtualMachineLimit)."""

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)


class MachineLimit:
    """One for the node. `message` is empty while there is room, as far as is known."""

    def __init__(self) -> None:
        self.message = ""
        self.on_change: Callable[[], None] = lambda: None

    def reached(self, message: str) -> None:
        """A start was refused; `message` has cause and remedy."""
        if not self.message:
            _log.warning("no further virtual machine can be started: %s", message)
        self._change(message)

    def freed(self) -> None:
        """A machine was started, or one has ended."""
        if self.message:
            _log.info("virtual machines can be started again")
        self._change("")

    def _change(self, message: str) -> None:
        if message != self.message:
            self.message = message
            self.on_change()
