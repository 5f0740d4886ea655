"""How fast long reading goes, and that it stops soon when it is to."""

import threading
import time

_LONGEST_WAIT_S = 0.2
_BURST_S = 0.25
"""Bytes of that long may be read at once after a pause."""


class Stopped(Exception):
    """The reading was told to stop; nothing is decided about what was read."""


class Pacer:
    """A `verification.Pace`: waits so that no more than `bytes_per_s` are read, and counts.

    Holes are done for nothing. Use it in one thread; `stop` may come from any.
    """

    def __init__(self, bytes_per_s: int = 0) -> None:
        self.done_bytes = 0
        self.read_bytes = 0
        self._bytes_per_s = bytes_per_s
        self._stop = threading.Event()
        self._free_at = 0.0

    def stop(self) -> None:
        self._stop.set()

    def __call__(self, done_bytes: int, read_bytes: int) -> None:
        """Raises Stopped."""
        self.done_bytes += done_bytes
        self.read_bytes += read_bytes
        if self._bytes_per_s and read_bytes:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_S) + read_bytes / self._bytes_per_s
            while self._free_at > (now := time.monotonic()) and not self._stop.is_set():
                self._stop.wait(min(self._free_at - now, _LONGEST_WAIT_S))
        if self._stop.is_set():
            raise Stopped
