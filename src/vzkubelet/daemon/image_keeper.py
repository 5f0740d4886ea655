"""Keeping the images of a node: collected by the kubelet's rules, read through now and then, old caches taken over.

Nothing here ends the agent or keeps a pod waiting: what goes wrong is told in events of the node and tried again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from vzkubelet import aio
from vzkubelet.config import ImageSettings
from vzkubelet.errors import Error
from vzkubelet.images.collection import IMAGE_GC_FAILED, Rules
from vzkubelet.images.collection import Collection as Collected
from vzkubelet.images.findings import Finding
from vzkubelet.ports import EventType, Recorder

_log = logging.getLogger(__name__)
COLLECT_S = 300.0
"""ImageGCPeriod of the kubelet."""
SCRUB_LOOK_S = 3600.0
"""How often it is looked whether a content is due to be read."""
SCRUB_FIRST_S = 300.0
"""An agent that has just started, perhaps with its host, has better things to do."""
NO_HIGH_PERCENT = 101
"""100 switches the threshold off, as with the kubelet."""


class Upkeep(Protocol):
    """What of `images.upkeep.Upkeep` is used here."""

    async def collect(self, rules: Rules | None = None, in_use: Collection[str] | None = None) -> Collected: ...

    async def scrub(self, older_than_s: float = 0.0) -> tuple[Finding, ...] | None: ...

    async def adopt(self, cache: Path) -> object: ...


def rules(settings: ImageSettings) -> Rules:
    high = settings.gc_high_percent if settings.gc_high_percent < 100 else NO_HIGH_PERCENT
    return Rules(high, settings.gc_low_percent, settings.gc_min_age_s, settings.gc_max_age_s)


class ImageKeeper:
    """`forget` drops what was remembered of images that are gone; it is given when looking for them began.
    `on_change` hears when images went, `on_damage` when one of them was put aside."""

    def __init__(
        self,
        upkeep: Upkeep,
        scrub_interval_s: float,
        recorder: Recorder,
        *,
        forget: Callable[[float], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
        on_damage: Callable[[], None] = lambda: None,
    ) -> None:
        self._upkeep = upkeep
        self._scrub_interval_s = scrub_interval_s
        self._recorder = recorder
        self._forget = forget
        self._on_change = on_change
        self._on_damage = on_damage
        self._failed_before = False

    async def run(self, old_cache: Path) -> None:
        """For ever. `old_cache` is the Go project's cache directory, where there is one."""
        tasks = [
            aio.spawn(work, name=name, on_crash=lambda _: None)
            for name, work in (
                ("adopt images", self._adopt(old_cache)),
                ("collect images", _again("images are not collected", self._collect, COLLECT_S)),
                *((("scrub images", self._scrub_loop()),) if self._scrub_interval_s else ()),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            await aio.cancel(*tasks)

    async def _adopt(self, old_cache: Path) -> None:
        with _failures_told("images of the Go project are not taken over"):
            found = await self._upkeep.adopt(old_cache)
            _log.debug("images of the Go project below %s: %s", old_cache, found)
            self._on_change()

    async def _collect(self) -> None:
        began = time.time()
        try:
            collected = await self._upkeep.collect()
        except Error as exc:
            self._collection_failed(exc.message)
            return
        if collected.event_reason:
            self._recorder.node_event(EventType.WARNING, collected.event_reason, collected.shortage)
            self._collection_failed(collected.shortage)
        elif self._failed_before:
            self._failed_before = False
            _log.info("collecting images succeeded again")
        if collected.removed:
            self._on_change()
        await self._forget(began)

    def _collection_failed(self, text: str) -> None:
        """The kubelet has an event only for a failure that follows another one."""
        _log.warning("images were not collected: %s", text)
        if self._failed_before:
            self._recorder.node_event(EventType.WARNING, IMAGE_GC_FAILED, text)
        self._failed_before = True

    async def _scrub_loop(self) -> None:
        await asyncio.sleep(min(SCRUB_FIRST_S, self._scrub_interval_s))
        period_s = min(SCRUB_LOOK_S, self._scrub_interval_s)
        await _again("images are not read through", self._scrub, period_s)

    async def _scrub(self) -> None:
        for finding in await self._upkeep.scrub(self._scrub_interval_s) or ():
            _log.warning("damaged on this host, and put aside: %s", finding)
            self._recorder.node_event(EventType.WARNING, "ImageDamaged", str(finding))
            self._on_change()
            self._on_damage()


async def _again(what: str, work: Callable[[], Awaitable[None]], period_s: float) -> None:
    while True:
        with _failures_told(what):
            await work()
        await asyncio.sleep(period_s)


@contextlib.contextmanager
def _failures_told(what: str) -> Iterator[None]:
    """What comes after the block goes on."""
    try:
        yield
    except Error as exc:
        _log.warning("%s: %s", what, exc)
    except Exception:  # noqa: BLE001 - a bug of ours, which is no reason to end the agent
        _log.exception("%s", what)
