"""How fast all pulls of an agent may download together."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

from vzkubelet.errors import InvalidInput

_BURST_S = 0.25
"""What may come at once after an idle time: short enough that nobody else on the link notices."""


class RateLimit:
    """A token bucket in bytes that all downloads of an agent share; belongs to one event loop.

    Owners take turns, whatever the number and the size of the ranges that each has on its way.
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
        self._turns: OrderedDict[Hashable, deque[_Request]] = OrderedDict()
        """Who waits, the next one first."""
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, size_bytes: int, owner: Hashable = None) -> None:
        """Return when `size_bytes` may be counted; the caller then reads, or has read, as many.

        More than the bucket holds is lent, and the next one waits until it is paid back: pieces of any size come at
        the right average rate. `owner` is a pull. Cancellation gives back what was granted.
        """
        if not self.bytes_per_s or size_bytes <= 0:
            return
        if not self._turns and self._count() > 0:
            self._balance_bytes -= size_bytes
            return
        request = _Request(size_bytes)
        self._turns.setdefault(owner, deque()).append(request)
        self._serve()
        try:
            await request.granted
        except asyncio.CancelledError:
            if request.granted.cancelled():
                self._withdraw(owner, request)  # unless its turn has come meanwhile
            else:
                self._balance_bytes += size_bytes
            self._serve()
            raise

    def _serve(self) -> None:
        """Grant what can be granted now, and come back when the next one can."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._turns and (balance := self._count()) > 0:
            owner, requests = self._turns.popitem(last=False)
            request = requests.popleft()
            if requests:
                self._turns[owner] = requests
            if request.granted.cancelled():
                continue
            self._balance_bytes = balance - request.size_bytes
            request.granted.set_result(None)
        if self._turns:
            # One byte more than the debt, so that the timer does not come a rounding error too early.
            delay_s = (1 - self._balance_bytes) / self.bytes_per_s
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._serve)

    def _withdraw(self, owner: Hashable, request: "_Request") -> None:
        requests = self._turns.get(owner, deque())
        if request in requests:
            requests.remove(request)
            if not requests:
                del self._turns[owner]

    def _count(self) -> float:
        """The balance as of now."""
        now_s = asyncio.get_running_loop().time()
        if self._counted_at_s is not None:
            earned_bytes = (now_s - self._counted_at_s) * self.bytes_per_s
            self._balance_bytes = min(self._balance_bytes + earned_bytes, self.bytes_per_s * _BURST_S)
        self._counted_at_s = now_s
        return self._balance_bytes


class _Request:
    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
