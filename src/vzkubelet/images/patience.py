"""How often and after which delay a download that failed is tried again."""

import asyncio
import logging
import random
from dataclasses import dataclass

from vzkubelet.errors import Unavailable

_log = logging.getLogger(__name__)
_PROGRESS_BYTES = 16 * 1024
"""Less than that between two failures is none."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a failing download is tried again."""

    attempts: int = 5
    """In a row, without progress of the whole download; four times as many without progress of one range of it."""
    delay_s: float = 0.5
    """Before the second one, doubled each time, half of it by chance."""
    delay_max_s: float = 15.0
    read_timeout_s: float = 30.0
    """Without a byte; then the connection is given up."""


class Progress:
    """Of all ranges of a download together: a registry that limits requests refuses some while it serves others."""

    def __init__(self) -> None:
        self.bytes = 0


class Tries:
    """The failures in a row of one range, and the wait after each."""

    def __init__(self, patience: Patience, shared: Progress | None = None) -> None:
        self._patience = patience
        self._shared = shared or Progress()
        self._shared_bytes = self._shared.bytes
        self._own_bytes = 0
        self._failures = 0
        self._failures_alone = 0

    def progressed(self, size_bytes: int) -> None:
        self._own_bytes += size_bytes
        self._shared.bytes += size_bytes

    async def failed(self, exc: Unavailable) -> None:
        """Wait before the next try, or raise `exc` when there is none."""
        self._failures = 1 if self._own_bytes >= _PROGRESS_BYTES else self._failures + 1
        shared_bytes = self._shared.bytes - self._shared_bytes
        self._failures_alone = 1 if shared_bytes >= _PROGRESS_BYTES else self._failures_alone + 1
        self._own_bytes, self._shared_bytes = 0, self._shared.bytes
        if self._failures_alone >= self._patience.attempts or self._failures >= 4 * self._patience.attempts:
            raise exc
        longest_s = min(self._patience.delay_s * 2 ** (self._failures - 1), self._patience.delay_max_s)
        _log.debug("trying again in up to %.1f s: %s", longest_s, exc)
        await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
