"""The API server's opinion of clients, as the server needs it, and a cache of such opinions."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from vzkubelet.model.review import UserInfo

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_CACHED: Final = 4096
"""Opinions kept. A peer that sends ever new tokens fills this and no more."""


class Reviews(Protocol):
    """Raises Unavailable (or another of `vzkubelet.errors`) when the API server gives no opinion."""

    async def token_review(self, token: str) -> UserInfo | None:
        """Whose token this is; None when it is nobody's."""

    async def subject_access_review(
        self,
        *,
        user: str,
        groups: Sequence[str],
        uid: str,
        extra: Mapping[str, Sequence[str]] | None,
        verb: str,
        resource: str,
        subresource: str,
        name: str,
    ) -> bool:
        """Whether the user may do `verb` on ``<resource>/<subresource>`` of the object `name`."""


class OpinionCache(Generic[K, V]):
    """Remembers answers for a time that depends on the answer. Callers that ask the same at once share one question.

    Failures are not remembered. Cancelling one caller does not disturb the others. `now` is a monotonic clock.
    """

    def __init__(self, life_s: Callable[[V], float], now: Callable[[], float]) -> None:
        self._life_s = life_s
        self._now = now
        self._answers: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._locks: dict[K, tuple[asyncio.Lock, int]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        known = self._known(key)
        if known is not None:
            return known[1]
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, waiting + 1)
        try:
            async with lock:
                known = self._known(key)
                if known is not None:
                    return known[1]
                answer = await ask()
                self._remember(key, answer)
                return answer
        finally:
            lock, waiting = self._locks[key]
            if waiting == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, waiting - 1)

    def _known(self, key: K) -> tuple[float, V] | None:
        known = self._answers.get(key)
        return known if known is not None and self._now() < known[0] else None

    def _remember(self, key: K, answer: V) -> None:
        self._answers[key] = (self._now() + self._life_s(answer), answer)
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_CACHED:
            self._answers.popitem(last=False)
