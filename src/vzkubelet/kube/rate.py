"""A token bucket: so many at once, then so many per second (client-go ``flowcontrol``)."""

import asyncio

from vzkubelet.aio import Clock, SystemClock


class TokenBucket:
    """`burst` tokens, refilled at `per_s`. Waiters are served in their order."""

    def __init__(self, per_s: float, burst: int, clock: Clock | None = None) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock or SystemClock()
        self._tokens = float(burst)
        self._at = self._clock.monotonic()

    def try_take(self) -> bool:
        """A token if there is one now."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def take(self) -> None:
        """A token, waited for where there is none. A cancelled waiter's token is lost, which only slows down."""
        self._refill()
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._per_s)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._per_s)
        self._at = now
