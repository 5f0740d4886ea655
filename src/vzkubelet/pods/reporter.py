"""Writes a pod's status, coalesced: while one write is under way, any number of changes become the next one."""

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
        self.terminal_stored = False
        """Whether the API server holds a terminal phase."""

    @property
    def pod(self) -> api.Pod:
        """The pod with the status as last written or seen."""
        return self._pod

    def current(self) -> api.Pod:
        """The pod with the status as it is now, written or not."""
        now = self._world.clock.time()
        computed = status.compute(self._pod, self._known, self._world.node().ip, now)
        return msgspec.structs.replace(self._pod, status=computed)

    def update_pod(self, pod: api.Pod) -> None:
        """A newer pod from the API server: its spec and others' conditions; our own status stays what we wrote."""
        theirs = [c for c in pod.status.conditions or [] if c.type not in status.OWNED_CONDITIONS]
        ours = [c for c in self._pod.status.conditions or [] if c.type in status.OWNED_CONDITIONS]
        merged = msgspec.structs.replace(self._pod.status, conditions=ours + theirs)
        self._pod = msgspec.structs.replace(pod, status=merged)
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

    async def _write(self) -> None:
        wanted = self.current().status
        body = status.patch(self._pod, wanted)
        if body is not None:
            await self._world.api_server.write_status(self._pod, body)
            self._pod = msgspec.structs.replace(self._pod, status=wanted)
        if wanted.phase in phase.TERMINAL:
            self.terminal_stored = True
            self._on_terminal()
