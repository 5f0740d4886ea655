"""Images that are to be here before a pod asks: pulled at start, and again when the registry has newer ones.

One at a time, and none is begun while a pod waits for an image: pods come first, this never delays them. Failures are
told in events of the node and tried again ever more rarely.
"""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from vzkubelet.aio import Clock
from vzkubelet.errors import Error
from vzkubelet.ports import EventType, MachineImage, Recorder

_log = logging.getLogger(__name__)
RETRY_FIRST_S = 10.0
RETRY_MAX_S = 300.0
"""As pods' pulls (podstate.back_off)."""
JITTER_SHARE = 0.1
"""Of the interval: a fleet that was set up together does not ask its registry in step."""

Pull = Callable[[str], Awaitable[MachineImage]]
"""Asks the registry what a reference points to and moves what is missing."""


class PullSlots(asyncio.Semaphore):
    """Places for pods' pulls. Tells when nobody holds or wants one."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self._present = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def __aenter__(self) -> None:
        self._present += 1
        self._unused.clear()
        try:
            await super().__aenter__()
        except BaseException:
            self._left()
            raise

    async def __aexit__(self, *failure: object) -> None:
        self.release()
        self._left()

    def _left(self) -> None:
        self._present -= 1
        if not self._present:
            self._unused.set()

    async def wait_unused(self) -> None:
        await self._unused.wait()


class Prepull:
    """`on_change` hears of each image that is new here."""

    def __init__(
        self,
        references: Sequence[str],
        interval_s: float,
        pull: Pull,
        slots: PullSlots,
        recorder: Recorder,
        clock: Clock,
        *,
        on_change: Callable[[], None] = lambda: None,
        jitter: random.Random | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._pull = pull
        self._slots = slots
        self._recorder = recorder
        self._clock = clock
        self._on_change = on_change
        self._random = jitter or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._due = [(0.0, order, reference) for order, reference in enumerate(references)]
        self._held: dict[str, str] = {}
        """What each reference pointed to when it was pulled last."""
        self._delay_s: dict[str, float] = {}
        self._wake = asyncio.Event()

    def refresh(self) -> None:
        """Look at all of them again now: one may be gone. Those that fail keep to their delays."""
        self._due = [(at if name in self._delay_s else 0.0, order, name) for at, order, name in self._due]
        heapq.heapify(self._due)
        self._wake.set()

    async def run(self) -> None:
        """For ever; at once back where there is nothing to do."""
        while self._due:
            if not await self._is_time():
                continue
            await self._slots.wait_unused()
            _, order, reference = heapq.heappop(self._due)
            delay_s = self._interval_s
            try:
                delay_s = await self._try(reference)
            finally:
                heapq.heappush(self._due, (self._clock.monotonic() + delay_s, order, reference))

    async def _is_time(self) -> bool:
        """Wait for the first one's time; False when another one may be the first by now."""
        self._wake.clear()
        try:
            async with asyncio.timeout(max(self._due[0][0] - self._clock.monotonic(), 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return True
        return False

    async def _try(self, reference: str) -> float:
        """Seconds until the next time."""
        try:
            image = await self._pull(reference)
        except Error as exc:
            return self._failed(reference, exc)
        except Exception:  # noqa: BLE001 - a bug of ours: the agent and the other images go on
            _log.exception("image %s not pulled ahead, trying again in %.0f s", reference, self._interval_s)
            return self._interval_s
        self._delay_s.pop(reference, None)
        if self._held.get(reference) != image.image_id:
            self._held[reference] = image.image_id
            text = f'Image "{reference}" is here ahead of pods: {image.image_id}'
            self._recorder.node_event(EventType.NORMAL, "ImagePrePulled", text)
            self._on_change()
        return self._interval_s * (1 + JITTER_SHARE * (self._random.random() - 0.5))

    def _failed(self, reference: str, exc: Error) -> float:
        delay_s = min(self._delay_s.get(reference, RETRY_FIRST_S / 2) * 2, RETRY_MAX_S)
        self._delay_s[reference] = delay_s
        text = f'Failed to pull image "{reference}" ahead of pods: {exc.message}'
        self._recorder.node_event(EventType.WARNING, "ImagePrePullFailed", text)
        _log.warning("%s; trying again in %.0f s", text, delay_s)
        return delay_s
