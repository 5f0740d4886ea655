"""Owns the workers: one per pod UID, admission before the first step, orphans removed once the API server was heard."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from vzkubelet import aio, errors
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import worker
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.world import World
from vzkubelet.podstate import admission, events, phase, record
from vzkubelet.ports import EventType

_log = logging.getLogger(__name__)
WORKER_RESTART_S = 10.0
"""A worker that crashed (our bug) is started again after this; its machine and side-cars run on meanwhile."""


class Supervisor:
    """Feed it what the API server says (`seen`, `gone`, `synced`); ask it for the workers."""

    def __init__(
        self,
        world: World,
        directories: PodDirectories,
        admission_node: Callable[[], admission.Node],
        *,
        workers: int,
        resync_s: float,
    ) -> None:
        self._world = world
        self._directories = directories
        self._node = admission_node
        self._gate = asyncio.Semaphore(workers)
        self._resync_s = resync_s
        self._workers: dict[str, worker.Worker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()
        """Pods that are done with here and that the API server has not reported as gone yet."""
        self._changed = asyncio.Event()

    @property
    def world(self) -> World:
        return self._world

    def workers(self) -> Iterable[worker.Worker]:
        return tuple(self._workers.values())

    def find(self, namespace: str, name: str, uid: str | None = None) -> worker.Worker:
        """The worker of a pod, the newest where a name came back. Raises NotFound with the kubelet's text."""
        for found in reversed(self._workers.values()):
            ref = found.ref
            if (ref.namespace, ref.name) == (namespace, name) and uid in (None, ref.uid):
                return found
        raise errors.NotFound("pod does not exist")

    async def resume(self) -> None:
        """Start workers for the pods that an earlier daemon left, before the API server has been heard."""
        for uid in self._directories.uids():
            directory = self._directories.of(uid)
            try:
                pod, known = directory.load_pod(), directory.load_record()
            except errors.Integrity as exc:
                _log.error("state of pod %s is not readable, taking it from the API server: %s", uid, exc)
                continue
            if pod is not None and known is not None and not known.vanished:
                self._start(pod, known)

    def seen(self, pod: api.Pod) -> None:
        """A pod that the API server has bound to this node, new or changed."""
        uid = pod.metadata.uid
        known = self._workers.get(uid)
        if known is not None:
            known.update(pod)
        elif uid in self._ended:
            _log.debug("pod %s is waiting for its removal by others", pod.key)
        elif pod.status.phase not in phase.TERMINAL:
            self._admit(pod)
        elif pod.metadata.deletion_timestamp is not None or self._directories.of(uid).path.exists():
            self._start(pod, worker.first_record(pod, self._world.clock.time()))
        else:
            _log.debug("pod %s has ended before this agent saw it", pod.key)

    def gone(self, uid: str) -> None:
        """The API server no longer has this pod."""
        self._ended.discard(uid)
        known = self._workers.get(uid)
        if known is not None:
            known.post(events.PodVanished())

    async def synced(self, uids: Iterable[str]) -> None:
        """The first complete list has been handed in: whatever is not in it is an orphan of an earlier time."""
        wanted = set(uids)
        self._ended &= wanted
        for uid in [uid for uid in self._workers if uid not in wanted]:
            self.gone(uid)
        await self.remove_orphans(wanted | set(self._workers))

    async def remove_orphans(self, keep: set[str]) -> None:
        """Remove machines, side-cars, volumes and directories of pods that are not in `keep`."""
        owners = set(self._directories.uids())
        for holder in (self._world.machines, self._world.volumes, self._world.sidecars):
            try:
                owners.update(await holder.pods())
            except errors.Error as exc:
                _log.warning("leftovers of earlier pods not looked up: %s", exc)
        for uid in sorted(owners - keep):
            if uid in self._workers:  # it came while the owners were looked up
                continue
            _log.info("removing what is left of pod %s, which is not this node's", uid)
            try:
                await self.remove_leftovers(uid)
            except errors.Error as exc:
                _log.warning("leftovers of pod %s not removed, trying again at the next start: %s", uid, exc)

    async def remove_leftovers(self, uid: str) -> None:
        """Everything of a pod that has no worker. What it had in a Docker engine that does not answer is found there
        again when one does; the rest goes at once."""
        ref = PodRef("", "", uid)
        await self._world.machines.remove_pod(ref)
        try:
            await self._world.sidecars.remove_pod(ref)
        except errors.Unavailable as exc:
            _log.debug("side-cars of pod %s not looked for: %s", uid, exc)
        await self._world.volumes.remove(uid)
        await aio.run_blocking(self._directories.of(uid).remove)

    async def wait_empty(self) -> None:
        """Until no worker is left."""
        while self._workers:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Let go of all pods; nothing of theirs stops."""
        await aio.cancel(*self._tasks.values())

    def _admit(self, pod: api.Pod) -> None:
        others = [w.current() for w in self._workers.values()]
        active = [other for other in others if other.status.phase not in phase.TERMINAL]
        admitted = pod.metadata.deletion_timestamp is not None or pod.status.start_time is not None  # by an earlier us
        rejection = None if admitted else admission.reject(pod, self._node(), active)
        if rejection is None:
            known = worker.first_record(pod, self._world.clock.time())
            if not admitted and (ignored := admission.ignored(pod)):
                text = f"This version of the node does not act on: {', '.join(ignored)}"
                self._world.recorder.pod_event(known.ref, EventType.WARNING, "FieldsIgnored", text)
        else:
            _log.info("pod %s is not admitted: %s", pod.key, rejection.message)
            known = worker.rejected_record(pod, rejection)
            self._world.recorder.pod_event(known.ref, EventType.WARNING, rejection.reason, rejection.message)
        self._start(pod, known)

    def _start(self, pod: api.Pod, known: record.Pod) -> None:
        uid = pod.metadata.uid
        directory = self._directories.of(uid)
        self._workers[uid] = worker.Worker(
            self._world,
            directory,
            pod,
            known,
            gate=self._gate,
            resync_s=self._resync_s,
            on_finished=self._finished,
        )
        self._spawn(uid)

    def _spawn(self, uid: str) -> None:
        self._tasks[uid] = aio.spawn(self._keep_running(uid), name=f"pod {self._workers[uid].ref.key}")

    async def _keep_running(self, uid: str) -> None:
        while uid in self._workers:
            try:
                await self._workers[uid].run()
            except Exception:  # noqa: BLE001 - the guard of this task
                _log.exception("worker of pod %s crashed, starting it again", self._workers[uid].ref.key)
                await asyncio.sleep(WORKER_RESTART_S)

    def _finished(self, uid: str) -> None:
        finished = self._workers.pop(uid)
        self._tasks.pop(uid, None)
        if not finished.known.vanished:
            self._ended.add(uid)
        _log.info("pod %s is gone", finished.ref.key)
        self._changed.set()
