"""Writes a pod's status, coalesced: while one write is under way, any number of changes become the next one.

What is written is the difference to what the API server holds. Others write there too (the node controller marks the
pods of a silent node not ready), so what a watch brings is taken, unless it is older than what we wrote ourselves.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from vzkubelet import errors
from vzkubelet.model import pod as api
from vzkubelet.pods.world import World
from vzkubelet.podstate import phase, record, status

_log = logging.getLogger(__name__)
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0


class Reporter:
    """One pod's status on its way to the API server."""

    def __init__(
        self,
        world: World,
        pod: api.Pod,
        known: record.Pod,
        gate: asyncio.Semaphore,
        *,
        on_gone: Callable[[], None],
        on_terminal: Callable[[], None],
    ) -> None:
        self._world = world
        self._pod = pod
        self._known = known
        self._gate = gate
        self._on_gone = on_gone
        self._on_terminal = on_terminal
        self._dirty = asyncio.Event()
        self._settled = False
        self._written_version = 0
        """The resource version of our last write; 0 before the first and without an API server."""

    @property
    def pod(self) -> api.Pod:
        """The pod with the status that the API server holds, as far as we know."""
        return self._pod

    @property
    def terminal_stored(self) -> bool:
        """Whether the API server holds a terminal phase. Nothing is written after it."""
        return self._pod.status.phase in phase.TERMINAL

    def current(self) -> api.Pod:
        """The pod with the status as it is now, written or not."""
        if self.terminal_stored:
            return self._pod
        now = self._world.clock.time()
        computed = status.compute(self._pod, self._known, self._world.node().ip, now, settled=self._settled)
        return msgspec.structs.replace(self._pod, status=computed)

    def update_pod(self, pod: api.Pod) -> None:
        """A newer pod from the API server."""
        version = _version(pod)
        if version == 0 or version < self._written_version:
            pod = msgspec.structs.replace(pod, status=self._pod.status)
        self._pod = pod
        self._dirty.set()

    def settle(self) -> None:
        """Nothing of the pod runs any more, nor will: a terminal phase may be told."""
        if not self._settled:
            self._settled = True
            self._dirty.set()

    def update_record(self, known: record.Pod) -> None:
        self._known = known
        self._dirty.set()

    async def run(self) -> None:
        """Write whenever something changed, for ever."""
        delay_s = RETRY_FIRST_S
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                async with self._gate:
                    await self._write()
                delay_s = RETRY_FIRST_S
            except errors.NotFound:
                self._on_gone()
                return
            except errors.Error as exc:
                _log.warning("status of pod %s not written, trying again in %.1f s: %s", self._pod.key, delay_s, exc)
                self._dirty.set()
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MAX_S)
            except Exception:  # noqa: BLE001 - a bug of ours: the other pods and this one's containers go on
                _log.exception("status of pod %s not written, trying again in %.0f s", self._pod.key, RETRY_MAX_S)
                self._dirty.set()
                await asyncio.sleep(RETRY_MAX_S)

    async def _write(self) -> None:
        if not self.terminal_stored:
            await self._write_difference()
        if self.terminal_stored:
            self._on_terminal()

    async def _write_difference(self) -> None:
        if self._known.stopped and not self._settled and self._pod.metadata.deletion_timestamp is not None:
            return  # how a deleted pod ended is told in one write, together with its phase
        wanted = self.current().status
        body = status.patch(self._pod, wanted)
        if body is None:
            return
        before = _version(self._pod)
        stored = await self._world.api_server.write_status(self._pod, body)
        self._written_version = max(_version(stored), self._written_version)
        if _version(self._pod) > self._written_version:
            return  # a watch was faster and brought what came of our write
        unchanged = _version(stored) == before  # nobody stores it, or a field that the API server does not keep
        kept = wanted if unchanged else stored.status
        self._pod = msgspec.structs.replace(self._pod, status=kept)


def _version(pod: api.Pod) -> int:
    """Resource versions of one resource are comparable numbers (Kubernetes 1.35, KEP-5504); 0 = none."""
    text = pod.metadata.resource_version
    return int(text) if text.isascii() and text.isdecimal() else 0
