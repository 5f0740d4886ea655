"""How fast all pulls of an agent may download together."""

import asyncio
from collections import deque

from vzkubelet.errors import InvalidInput

_BURST_S = 0.25
"""What may come at once after an idle time: short enough that nobody else on the link notices."""


class RateLimit:
    """A token bucket in bytes that all downloads of an agent share; belongs to one event loop.

    Those who wait are served in the order they came, so every range that is on its way gets its turn however many
    ranges another pull has.
    """

    def __init__(self, bytes_per_s: int) -> None:
        """`bytes_per_s` 0 = unlimited.

        Raises:
            InvalidInput: negative.
        """
        if bytes_per_s < 0:
            raise InvalidInput(f"a rate of {bytes_per_s} bytes per second is not possible: 0 means unlimited")
        self.bytes_per_s = bytes_per_s
        self._balance_bytes = bytes_per_s * _BURST_S
        self._counted_at_s: float | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, size_bytes: int) -> None:
        """Return when `size_bytes` may be counted; the caller then reads, or has read, as many.

        More than the bucket holds is lent to the first in line, and the next one waits until it is paid back: pieces
        of any size come at the right average rate. Cancellation gives back what was granted.
        """
        if not self.bytes_per_s or size_bytes <= 0:
            return
        if not self._waiting and self._count() > 0:
            self._balance_bytes -= size_bytes
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, granted))
        self._serve()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove((size_bytes, granted))
            else:
                self._balance_bytes += size_bytes
            self._serve()
            raise

    def _serve(self) -> None:
        """Grant what can be granted now, and come back when the next one can."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and (balance := self._count()) > 0:
            size_bytes, granted = self._waiting.popleft()
            self._balance_bytes = balance - size_bytes
            granted.set_result(None)
        if self._waiting:
            # One byte more than the debt, so that the timer does not come a rounding error too early.
            delay_s = (1 - self._balance_bytes) / self.bytes_per_s
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._serve)

    def _count(self) -> float:
        """The balance as of now."""
        now_s = asyncio.get_running_loop().time()
        if self._counted_at_s is not None:
            earned_bytes = (now_s - self._counted_at_s) * self.bytes_per_s
            self._balance_bytes = min(self._balance_bytes + earned_bytes, self.bytes_per_s * _BURST_S)
        self._counted_at_s = now_s
        return self._balance_bytes
